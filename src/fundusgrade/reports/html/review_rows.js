"use strict";
// The list: which rows are shown and in which order, and the drawing of those that are near the window.

const list = document.getElementById("rows");
const rowTemplate = document.getElementById("row-template");
const photographTemplate = document.getElementById("photograph-template");
const EYES = { right: "Right eye", left: "Left eye", unknown: "" };

const shells = page.rows.map((_, index) => {
  const shell = document.createElement("li");
  shell.className = "row";
  shell.dataset.row = index;
  return shell;
});
const near = new Set();
let order = page.rows.map((_, index) => index);
const NUM_DRAWN_AT_ONCE = 8;
let currentPlace = null;
const mapOf = new Map();

/* Rows come and go as they come near the window: thousands of pictures at once would be slow. */
const observer = new IntersectionObserver((seen) => {
  for (const each of seen) {
    const index = Number(each.target.dataset.row);
    if (each.isIntersecting) {
      near.add(index);
      drawRow(index);
    } else {
      near.delete(index);
      clearRow(index, each.boundingClientRect.height);
    }
  }
}, { rootMargin: "1200px 0px" });
shells.forEach((shell) => observer.observe(shell));

/* The first rows are drawn at once: the observer would come a frame later. */
function showRows(indices) {
  order = indices;
  list.replaceChildren(...indices.map((index) => shells[index]));
  indices.slice(0, NUM_DRAWN_AT_ONCE).forEach((index) => drawRow(index));
}

function drawRow(index, again = false) {
  const shell = shells[index];
  if (shell.firstChild && !again) return;
  const row = page.rows[index];
  const drawn = rowTemplate.content.cloneNode(true);
  drawHead(drawn, row);
  const eyes = drawn.querySelector(".eyes");
  const sides = row.right.length || row.left.length ? ["right", "left"] : [];
  for (const side of sides) eyes.append(drawSide(row[side], side));
  if (row.unknown.length || !sides.length) eyes.append(drawSide(row.unknown, "unknown"));
  shell.replaceChildren(drawn);
  shell.style.minHeight = "";
}

/* A row far from the window keeps its height, so that the page does not jump. */
function clearRow(index, height) {
  const shell = shells[index];
  if (!shell.firstChild || shell.contains(document.activeElement) || index === rowOfPlace[currentPlace]) return;
  if (height) shell.style.minHeight = `${height}px`;
  shell.replaceChildren();
}

function drawHead(drawn, row) {
  const head = drawn.querySelector(".row-head");
  if (row.patient === null) {
    head.remove();
    return;
  }
  head.querySelector(".patient").textContent = `Patient ${row.patient}`;
  const areOpen = placesOf(row).every(isOpen);
  setState(head.querySelector(".state"), areOpen ? row.referable : null);
  head.querySelector(".sample").hidden = !row.sampled;
  const alone = row.referable === "ungradable" ? row.reasons : [];
  head.querySelector(".reasons").textContent = areOpen ? alone.join("; ") : "";
}

function drawSide(places, side) {
  const drawn = document.createElement("div");
  drawn.className = `side ${side}`;
  for (const place of places) drawn.append(drawPhotograph(place));
  if (!places.length) {
    const missing = document.createElement("p");
    missing.className = "no-photograph";
    missing.textContent = side === "unknown" ? "No photograph" : `No photograph of the ${side} eye`;
    drawn.append(missing);
  }
  return drawn;
}

function drawPhotograph(place) {
  const photograph = page.photographs[place];
  const drawn = photographTemplate.content.cloneNode(true);
  const article = drawn.querySelector("article");
  article.dataset.place = place;
  article.setAttribute("aria-label", labelOf(place));
  drawEye(article.querySelector(".eye"), place);
  setText(article, ".name", photograph.name);
  drawPicture(article, place);
  if (isOpen(place)) drawAnswer(article, photograph);
  else article.querySelectorAll(".answer, .score, .decided, .chips, .others, .figure").forEach((part) => part.remove());
  drawReader(article, place);
  markCurrent(article, place === currentPlace);
  return drawn;
}

/* The eye, and in a row of one photograph, whether it was drawn for a second reading. */
function drawEye(line, place) {
  const { eye, sampled } = page.photographs[place];
  line.textContent = EYES[eye || "unknown"];
  if (sampled && page.rows[rowOfPlace[place]].patient === null) {
    const chip = document.createElement("span");
    chip.className = "chip sample";
    chip.textContent = "sample";
    line.append(" ", chip);
  }
  if (!line.textContent) line.remove();
}

function drawPicture(article, place) {
  const button = article.querySelector(".picture");
  const [source, label] = pictureOf(place);
  const image = button.querySelector("img");
  if (source) image.src = source;
  else image.remove();
  button.setAttribute("aria-label", `Large view of ${page.photographs[place].name}`);
  if (!source) button.append("This file cannot be read");
  const words = button.querySelector(".map-label");
  words.hidden = !label;
  words.textContent = label;
}

/* The picture that is shown of a photograph, the photograph or one of its heat maps, and what it is. */
function pictureOf(place) {
  const photograph = page.photographs[place];
  const number = isOpen(place) ? mapOf.get(place) ?? 0 : 0;
  const picture = pictures[place][number];
  if (picture === undefined) return [null, ""];
  return [page.pictures_are_files ? picture : `data:image/jpeg;base64,${picture}`, photograph.labels[number]];
}

function drawAnswer(article, photograph) {
  const model = photograph.models[0];
  setState(article.querySelector(".state"), model.referable);
  setText(article, ".grade", model.grade === null ? "" : `${model.grade} ${page.grades[model.grade]}`);
  const decided = model.error ? `Not graded: ${model.error}` : model.decided;
  setText(article, ".decided", photograph.models.length > 1 ? `${model.model}: ${decided}` : decided);
  drawScore(article.querySelector(".score"), model);
  drawChips(article.querySelector(".chips"), photograph);
  const figure = article.querySelector(".figure");
  if (photograph.figure) figure.querySelector("a").href = photograph.figure;
  else figure.remove();
  drawOthers(article.querySelector(".others"), photograph.models.slice(1));
}

function drawScore(score, model) {
  if (model.p === null) {
    score.remove();
    return;
  }
  const scale = score.querySelector(".scale");
  scale.style.setProperty("--p", model.p);
  scale.style.setProperty("--threshold", model.threshold);
  scale.classList.add(model.referable);
  scale.setAttribute("aria-label", `P(referable) ${model.stated}, refers from ${model.from}`);
  setText(score, ".stated", `P(referable) ${model.stated}, refers from ${model.from}`);
}

function drawChips(chips, photograph) {
  const model = photograph.models[0];
  for (const reason of model.quality) addChip(chips, reason, "quality");
  if (model.borderline) addChip(chips, "borderline quality", "quality");
  for (const warning of model.warnings) addChip(chips, warning, "warning");
  if (disagree(photograph)) addChip(chips, "models disagree", "warning");
  if (!chips.children.length) chips.remove();
}

function addChip(chips, text, kind) {
  const chip = document.createElement("li");
  chip.className = `chip ${kind}`;
  chip.textContent = text;
  chips.append(chip);
}

function drawOthers(others, models) {
  for (const model of models) {
    const line = document.createElement("li");
    const grade = model.grade === null ? "not graded" : `${model.grade} ${page.grades[model.grade]}`;
    const answer = STATES[model.referable].toLowerCase();
    line.textContent = `${model.model}: ${grade}, ${answer}${model.p === null ? "" : `, ${model.stated}`}`;
    others.append(line);
  }
  if (!models.length) others.remove();
}

function drawReader(article, place) {
  const given = kept.answers[place];
  const line = article.querySelector(".reader");
  article.classList.toggle("reviewed", Boolean(given));
  article.classList.toggle("differs", differs(place));
  if (!given) {
    line.remove();
    return;
  }
  line.textContent = `${given.reader}: ${answerInWords(given.answer)}${differs(place) ? " (differs from the model)" : ""}`;
}

function setState(element, referable) {
  element.hidden = referable === null;
  if (referable === null) return;
  element.textContent = STATES[referable];
  element.classList.add(referable);
}

function setText(within, selector, text) {
  const element = within.querySelector(selector);
  if (text) element.textContent = text;
  else element.remove();
}

/* The name of a photograph in one line: patient, eye, file. */
function labelOf(place) {
  const { name, eye } = page.photographs[place];
  const patient = page.rows[rowOfPlace[place]].patient;
  return [patient === null ? "" : `Patient ${patient}`, EYES[eye || "unknown"].toLowerCase(), name].filter(Boolean).join(", ");
}
