"use strict";
// Which rows match the filters, and in which order they come. Nothing here draws.

const placesOf = (row) => [...row.right, ...row.left, ...row.unknown];
const photographsOf = (row) => placesOf(row).map((place) => page.photographs[place]);
const rowOfPlace = [];
page.rows.forEach((row, index) => placesOf(row).forEach((place) => { rowOfPlace[place] = index; }));

const flagsOf = ({ models: [model] }) =>
  [...model.quality, ...(model.borderline ? ["borderline quality"] : []), ...model.warnings];
const disagree = ({ models }) =>
  models.some((each) => each.grade !== models[0].grade || each.referable !== models[0].referable);
const margin = ({ models: [model] }) => (model.p === null ? Infinity : Math.abs(model.p - model.threshold));
const searchedText = page.rows.map((row) =>
  [row.patient ?? "", ...photographsOf(row).map(({ name }) => name)].join("\n").toLowerCase());

/* What all rows are flagged for, with the number of photographs, the most frequent first. */
function countFlags() {
  const counts = new Map();
  for (const photograph of page.photographs) {
    for (const flag of flagsOf(photograph)) counts.set(flag, (counts.get(flag) ?? 0) + 1);
  }
  return [...counts].sort((one, other) => other[1] - one[1]);
}

/* Positions of the rows that match. While the model's answer is hidden, nothing is filtered or ordered by it. */
function matching(filters) {
  const words = filters.search.toLowerCase();
  const tests = [(row, index) => searchedText[index].includes(words), REVIEWED[filters.reviewed]];
  if (filters.sampled) tests.push((row) => row.sampled);
  if (!kept.blind) tests.push(...testsOfAnswers(filters));
  const found = [];
  page.rows.forEach((row, index) => {
    if (tests.every((test) => test(row, index))) found.push(index);
  });
  return sorted(found, kept.blind && filters.order !== "name" ? "given" : filters.order);
}

function testsOfAnswers({ states, flag, near, disagreeing }) {
  const tests = [(row) => states.has(row.referable)];
  const some = (test) => (row) => photographsOf(row).some(test);
  if (flag) tests.push(some((photograph) => hasFlag(photograph, flag)));
  if (near) tests.push(some((photograph) => margin(photograph) <= Number(near) + 1e-9));
  if (disagreeing) tests.push(some(disagree));
  return tests;
}

function hasFlag(photograph, flag) {
  const flags = flagsOf(photograph);
  if (flag === "flagged") return flags.length > 0;
  return flag === "clear" ? flags.length === 0 : flags.includes(flag.replace(/^flag:/, ""));
}

const REVIEWED = {
  "": () => true,
  open: (row) => placesOf(row).some((place) => !isReviewed(place)),
  done: (row) => placesOf(row).length > 0 && placesOf(row).every(isReviewed),
  differs: (row) => placesOf(row).some(differs),
};

/* How bad the quality is: unreadable first, then by reasons and by how probably graders would reject the photograph. */
function badness({ models: [model] }) {
  if (model.error) return 100;
  return model.quality.length + (model.borderline ? 0.5 : 0) + (model.reject ?? 0);
}

const KEYS_OF_ORDER = {
  score: (photographs) => -Math.max(...photographs.map(({ models: [model] }) => model.p ?? -1), -1),
  margin: (photographs) => Math.min(...photographs.map(margin), Infinity),
  quality: (photographs) => -Math.max(...photographs.map(badness), -1),
};
const collator = new Intl.Collator("en", { numeric: true });

/* Rows in an order; equal ones stay in theirs. */
function sorted(indices, by) {
  if (by === "given") return indices;
  const keys = new Map(indices.map((index) => [index, by === "name" ? nameOf(page.rows[index]) : keyOf(index, by)]));
  const compare = by === "name" ? collator.compare : (a, b) => (a === b ? 0 : a < b ? -1 : 1);
  return [...indices].sort((one, other) => compare(keys.get(one), keys.get(other)) || one - other);
}

const keyOf = (index, by) => KEYS_OF_ORDER[by](photographsOf(page.rows[index]));
const nameOf = (row) => row.patient ?? photographsOf(row)[0].name;
