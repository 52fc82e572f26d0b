"use strict";
// Filters, keys and buttons: the current photograph, the reader's answers, the large view, and the download.

const $ = (id) => document.getElementById(id);
const view = $("view");
let afterName = null;

/* ---- The list ---- */

function filters() {
  const value = (id) => $(id)?.value ?? "";
  const states = new Set([...document.querySelectorAll("#states input:checked")].map((input) => input.value));
  return { states, search: value("search").trim(), flag: value("flag"), near: value("near"), reviewed: value("reviewed"),
    order: value("order"), disagreeing: $("disagree")?.checked ?? false, sampled: $("sampled")?.checked ?? false };
}

function refilter() {
  showRows(matching(filters()));
  $("nothing").hidden = order.length > 0;
  const places = order.flatMap((index) => placesOf(page.rows[index]));
  if (!places.includes(currentPlace)) setCurrent(places[0] ?? null, { focus: false });
  sayShown(places.length);
}

function sayShown(numPhotographs) {
  const patients = page.rows.some((row) => row.patient !== null);
  const rows = patients ? `${order.length} of ${page.rows.length} patients, ` : "";
  $("shown").textContent = `Shown: ${rows}${numPhotographs} of ${page.photographs.length} photographs`;
}

function sayProgress() {
  const reviewed = Object.keys(kept.answers).length;
  const num = page.photographs.filter((_, place) => differs(place)).length;
  $("progress").textContent = `Reviewed: ${reviewed} of ${page.photographs.length}` + (num ? `; ${num} ${num === 1 ? "differs" : "differ"} from the model` : "");
  $("download").disabled = reviewed === 0;
  $("undo").disabled = kept.undo.length === 0;
  $("name").textContent = kept.reader ? `Reader: ${kept.reader}` : "Reader";
}

function announce(text) {
  $("announcement").textContent = text;
}

/* ---- The current photograph ---- */

const articleOf = (place) => list.querySelector(`article[data-place="${place}"]`);

function markCurrent(article, isCurrent) {
  article.classList.toggle("current", isCurrent);
  article.tabIndex = isCurrent ? 0 : -1;
  if (isCurrent) article.setAttribute("aria-current", "true");
  else article.removeAttribute("aria-current");
}

function setCurrent(place, { focus = true } = {}) {
  const before = currentPlace;
  currentPlace = place;
  if (before !== null && articleOf(before)) markCurrent(articleOf(before), false);
  if (place !== null) {
    drawRow(rowOfPlace[place]);
    const article = articleOf(place);
    if (article) {
      markCurrent(article, true);
      if (focus) showCurrent(article);
    }
  }
  updateBar();
  if (!view.hidden) drawView();
}

function showCurrent(article) {
  if (view.hidden) article.focus({ preventScroll: true });
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  article.closest(".row").scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}

function redraw(place) {
  if (place === null) return;
  const hadFocus = list.contains(document.activeElement);
  drawRow(rowOfPlace[place], true);
  if (hadFocus && currentPlace !== null) articleOf(currentPlace)?.focus({ preventScroll: true });
}

function updateBar() {
  const place = currentPlace;
  $("current").textContent = place === null ? "" : labelOf(place);
  const given = place === null ? undefined : kept.answers[place]?.answer;
  for (const button of document.querySelectorAll("#bar [data-answer]")) {
    button.disabled = place === null;
    button.setAttribute("aria-pressed", String(button.dataset.answer === given));
  }
  if ($("map")) $("map").disabled = place === null || !isOpen(place) || pictures[place].length < 2;
}

const placesInOrder = () => order.flatMap((index) => placesOf(page.rows[index]));

function moveBy(step) {
  const places = placesInOrder();
  const next = places[places.indexOf(currentPlace) + step];
  if (next !== undefined) setCurrent(next);
}

/* To the first photograph of another row. */
function moveByRow(step) {
  const at = order.indexOf(rowOfPlace[currentPlace]);
  for (let next = at + step; next >= 0 && next < order.length; next += step) {
    const [first] = placesOf(page.rows[order[next]]);
    if (first !== undefined) {
      setCurrent(first);
      return;
    }
  }
}

/* To the next photograph that is not reviewed, from the beginning again behind the last; returns it or null. */
function moveToUnreviewed() {
  const places = placesInOrder();
  const at = places.indexOf(currentPlace);
  const next = [...places.slice(at + 1), ...places.slice(0, at + 1)].find((place) => !isReviewed(place));
  if (next === undefined) return null;
  setCurrent(next);
  return next;
}

/* ---- Answers ---- */

function grade(answer) {
  if (currentPlace === null) return;
  if (!kept.reader) {
    askName(() => grade(answer));
    return;
  }
  const place = currentPlace;
  giveAnswer(place, answer);
  saved();
  redraw(place);
  const next = moveToUnreviewed();
  const words = `${answerInWords(answer)}: ${labelOf(place)}.`;
  announce(next === null ? `${words} All shown photographs are reviewed.` : `${words} Next: ${labelOf(next)}`);
  if (next === null) setCurrent(place);
}

function undo() {
  const place = takeBack();
  if (place === null) return;
  saved();
  redraw(place);
  if (order.includes(rowOfPlace[place])) setCurrent(place);
  announce(`Taken back: ${labelOf(place)}`);
}

function saved() {
  $("not-kept").hidden = keep();
  sayProgress();
}

function askName(then = null) {
  afterName = then;
  $("reader").value = kept.reader;
  $("who").showModal();
  $("reader").focus();
}

function setName(event) {
  event.preventDefault();
  const name = $("reader").value.trim();
  if (!name) return;
  kept.reader = name;
  saved();
  $("who").close();
  afterName?.();
  afterName = null;
}

function setBlind(isBlind) {
  kept.blind = isBlind;
  saved();
  applyBlind();
  refilter();
  page.rows.forEach((_, index) => { if (shells[index].firstChild) drawRow(index, true); });
  updateBar();
}

/* Filters and orders by the model's answer would tell it. */
function applyBlind() {
  $("blind").checked = kept.blind;
  document.body.classList.toggle("blind", kept.blind);
  for (const id of ["states", "flag", "near", "disagree"]) if ($(id)) $(id).disabled = kept.blind;
  for (const option of $("order").options) option.disabled = kept.blind && !["given", "name"].includes(option.value);
  if (kept.blind && $("order").selectedOptions[0].disabled) $("order").value = "given";
}

function showMap() {
  if (currentPlace === null || !isOpen(currentPlace)) return;
  const number = ((mapOf.get(currentPlace) ?? 0) + 1) % pictures[currentPlace].length;
  mapOf.set(currentPlace, number);
  redraw(currentPlace);
  if (!view.hidden) drawView();
  announce(number ? `Heat map: ${page.photographs[currentPlace].labels[number]}` : "Heat map off");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([reviewedCsv()], { type: "text/csv" }));
  link.download = "reviewed.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function forget() {
  if (!confirm("Delete your grades and your name from this browser? Grades that were not downloaded are lost.")) return;
  forgetAnswers();
  saved();
  page.rows.forEach((_, index) => { if (shells[index].firstChild) drawRow(index, true); });
  updateBar();
}

/* ---- The large view ---- */

function openView() {
  if (currentPlace === null) return;
  view.hidden = false;
  document.body.classList.add("viewing");
  drawView();
  view.focus();
}

function closeView() {
  view.hidden = true;
  document.body.classList.remove("viewing");
  if (currentPlace !== null) showCurrent(articleOf(currentPlace));
}

function drawView() {
  if (currentPlace === null) return;
  const photograph = page.photographs[currentPlace];
  const [small, map] = pictureOf(currentPlace);
  const large = $("large");
  $("view-title").textContent = labelOf(currentPlace);
  $("view-answer").textContent = isOpen(currentPlace) ? modelInWords(photograph.models[0]) : "";
  $("view-note").textContent = map ? [map, ...photograph.notes].join(". ") : "";
  $("view-figure").hidden = !photograph.figure || !isOpen(currentPlace);
  $("view-figure").href = photograph.figure;
  large.alt = map ? `Heat map of ${photograph.name}` : photograph.name;
  large.onerror = () => {
    large.onerror = null;
    showSmall(small, "The file is not where it was: this is the small picture.");
  };
  const file = map ? photograph.figure : photograph.photograph;
  if (file) large.src = file;
  else showSmall(small, map || "This is the small picture.");
}

function showSmall(source, note) {
  if (source) $("large").src = source;
  else $("large").removeAttribute("src");
  $("view-note").textContent = source ? note : "This file cannot be read.";
}

function modelInWords(model) {
  if (model.grade === null) return `${STATES[model.referable]}. Not graded: ${model.error}`;
  return `${STATES[model.referable]}. ${model.grade} ${page.grades[model.grade]}: ${model.decided}. `
    + `P(referable) ${model.stated}, refers from ${model.from}`;
}

/* ---- Keys ---- */

const ACTIONS = {
  ArrowRight: () => moveBy(1), ArrowLeft: () => moveBy(-1), ArrowDown: () => moveByRow(1), ArrowUp: () => moveByRow(-1),
  u: () => grade("ungradable"), r: () => grade("refer"), h: showMap, z: undo, n: moveToUnreviewed,
  "/": () => $("search").focus(), "?": () => $("keys").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && !view.hidden) {
    closeView();
    return;
  }
  const within = event.target instanceof Element ? event.target : document.body;
  if (within.closest("input:not([type=checkbox]), select, textarea")) return;
  if (event.key === "Enter" && !within.closest("button, a, summary, input")) {
    event.preventDefault();
    if (view.hidden) openView();
    else closeView();
    return;
  }
  const action = /^[0-4]$/.test(event.key) ? () => grade(event.key) : ACTIONS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

/* ---- Beginning ---- */

function addFlags() {
  const select = $("flag");
  for (const [flag, count] of countFlags()) select.add(new Option(`${flag} (${count})`, `flag:${flag}`));
}

function onListClick(event) {
  const article = event.target.closest("article");
  if (!article) return;
  setCurrent(Number(article.dataset.place));
  if (event.target.closest(".picture")) openView();
}

function listen() {
  document.addEventListener("keydown", onKey);
  list.addEventListener("click", onListClick);
  $("tools").addEventListener("input", refilter);
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("blind").addEventListener("change", (event) => setBlind(event.target.checked));
  for (const button of document.querySelectorAll("#bar [data-answer]")) {
    button.addEventListener("click", () => grade(button.dataset.answer));
  }
  const clicks = { map: showMap, undo, download, name: () => askName(), help: () => $("keys").showModal(), forget,
    "view-close": closeView, "view-zoom": () => view.classList.toggle("full"), "who-cancel": () => $("who").close() };
  for (const [id, action] of Object.entries(clicks)) $(id)?.addEventListener("click", action);
  $("who").querySelector("form").addEventListener("submit", setName);
  $("who").addEventListener("close", () => { if (!kept.reader) afterName = null; });
  addEventListener("beforeprint", () => order.forEach((index) => drawRow(index)));
  addEventListener("afterprint", () => order.forEach((index) => { if (!near.has(index)) clearRow(index, 0); }));
  addEventListener("storage", onOtherWindow);
}

/* The same page in another window of this browser: its answers are those of both. */
function onOtherWindow(event) {
  if (event.key !== STORE) return;
  kept = readKept(event.newValue) ?? { reader: "", blind: false, answers: {}, undo: [] };
  applyBlind();
  sayProgress();
  page.rows.forEach((_, index) => { if (shells[index].firstChild) drawRow(index, true); });
  updateBar();
}

if (matchMedia("(max-width: 40rem)").matches) $("filter").open = false;
listen();
addFlags();
applyBlind();
refilter();
sayProgress();
