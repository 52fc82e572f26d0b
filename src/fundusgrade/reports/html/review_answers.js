"use strict";
// The page's results, the reader's answers, and the file that these are downloaded as. Nothing here draws.

const page = JSON.parse(document.getElementById("data").textContent);
const pictures = JSON.parse(document.getElementById("pictures").textContent);

const STORE = `fundusgrade-review-${page.key}`;
const MAX_UNDO = 1000;
const COLUMNS = ["image", "patient", "eye", "reader_grade", "reader_referable", "reader", "reviewed_at", "model",
  "model_hash", "model_grade", "model_score", "model_referable", "model_shown", "sampled"];
const REFERABLE_FROM = 2;
const STATES = { yes: "Refer", no: "Do not refer", ungradable: "Ungradable" };

/* What is kept: the reader's name, whether the model's answer is hidden, an answer for each reviewed photograph by its
   position, and what each answer replaced, for undo. */
let kept = readKept() ?? { reader: "", blind: false, answers: {}, undo: [] };

function readKept(text = null) {
  try {
    return JSON.parse(text ?? localStorage.getItem(STORE));
  } catch {
    return null;
  }
}

/* Whether the browser has kept everything. */
function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify(kept));
    return true;
  } catch {
    return false;
  }
}

function forgetAnswers() {
  kept = { reader: "", blind: kept.blind, answers: {}, undo: [] };
  try {
    localStorage.removeItem(STORE);
  } catch { /* there was nothing to forget */ }
}

/* An answer is "0" to "4", "ungradable" or "refer". */
function giveAnswer(place, answer) {
  kept.undo.push([place, kept.answers[place] ?? null]);
  kept.undo.splice(0, kept.undo.length - MAX_UNDO);
  const time = new Date().toISOString().replace(/\.\d+Z$/, "Z");
  kept.answers[place] = { answer, reader: kept.reader, time, shown: !kept.blind };
}

/* Takes the last answer back; returns the position of its photograph, null where there is nothing to take back. */
function takeBack() {
  const last = kept.undo.pop();
  if (!last) return null;
  const [place, before] = last;
  if (before) kept.answers[place] = before;
  else delete kept.answers[place];
  return place;
}

const isReviewed = (place) => place in kept.answers;
/* Whether the model's answer may be seen. */
const isOpen = (place) => !kept.blind || isReviewed(place);
const answerInWords = (answer) =>
  answer === "ungradable" ? "Ungradable" : answer === "refer" ? "Refer" : `${answer} ${page.grades[answer]}`;

function referableByReader(answer) {
  if (answer === "ungradable") return "ungradable";
  return answer === "refer" || Number(answer) >= REFERABLE_FROM ? "yes" : "no";
}

/* Whether the reader and the model differ in the grade, or where the reader gave none, in the answer. */
function differs(place) {
  const given = kept.answers[place]?.answer;
  if (given === undefined) return false;
  const model = page.photographs[place].models[0];
  if (given === "ungradable" || given === "refer") return model.referable !== referableByReader(given);
  return model.grade !== Number(given);
}

/* A cell that no spreadsheet evaluates as a formula, by the rule of fundusgrade.data.reviewed, which wrote the cells of
   names. */
function safeCell(text) {
  const guarded = text.replace(/(^|[;\t\r\n])(?=['\s]*[=+\-@＝＋－＠]|'*[\t\r])/g, "$1'");
  return `"${guarded.replaceAll('"', '""')}"`;
}

function reviewedCsv() {
  const lines = [COLUMNS.join(",")];
  page.photographs.forEach((photograph, place) => {
    const given = kept.answers[place];
    if (!given) return;
    const grade = given.answer in page.grades ? given.answer : "";
    const shown = given.shown ? "yes" : "no";
    const answer = [grade, referableByReader(given.answer)];
    const who = [safeCell(given.reader), given.time];
    const rest = [shown, photograph.sampled ? "yes" : "no"];
    lines.push([...photograph.before, ...answer, ...who, ...photograph.after, ...rest].join(","));
  });
  return `\ufeff${lines.join("\r\n")}\r\n`;
}
