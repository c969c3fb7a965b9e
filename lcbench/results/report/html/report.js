"use strict";
// Filters, sorts and shows the samples. Whatever a model wrote enters the page as text (textContent), never as HTML.

const { samples, excerpts, full } = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;
const form = document.querySelector(".filters");
const table = document.querySelector(".samples");
const open = new Set(); // samples whose details are shown

const several = (field) => new Set(samples.map((sample) => sample[field])).size > 1;

function outcome(sample) {
  if (sample.error !== undefined) return "failed";
  if (sample.score === null) return "no score";
  if (full[sample.metric] === null) return "scored";
  return sample.score === full[sample.metric] ? "right" : sample.score === 0 ? "wrong" : "partly right";
}

function number(value) {
  if (typeof value !== "number") return value ?? "";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

const percent = (depth) => (depth === undefined ? "" : `${Number((100 * depth).toPrecision(3))}%`);
function score(sample) {
  if (sample.error !== undefined || sample.score === null) return outcome(sample);
  return full[sample.metric] === 1 ? sample.score.toFixed(2) : `${sample.metric} ${number(sample.score)}`;
}

const expected = (sample) => (sample.references ?? []).join(" | ");
const said = (sample) => sample.error ?? sample.prediction ?? "";

// Whether samples are told apart by nothing but their run
const alike = () => new Set(samples.map((s) => JSON.stringify([s.task, s.method, s.seq_len, s.cell_depth, s.sample]))).size < samples.length;

// name, heading, text of a cell, value to sort by, class of the cell, whether it is shown
const COLUMNS = [
  { name: "run", label: "Run", show: (s) => s.run, when: alike() },
  { name: "task", label: "Task", show: (s) => s.task, when: several("task") },
  { name: "method", label: "Method", show: (s) => s.method.replaceAll(",", ",\u200b"), by: (s) => s.method, when: several("method") },
  { name: "document", label: "Document", show: (s) => s.document ?? "", when: several("document") },
  { name: "tokens", label: "Length", show: (s) => number(s.seq_len), by: (s) => s.seq_len, kind: "number", when: true },
  { name: "depth", label: "Depth", show: (s) => percent(s.depth), by: (s) => s.depth, kind: "number", when: several("depth") },
  { name: "sample", label: "Sample", show: (s) => String(s.sample), by: (s) => s.sample, kind: "number", when: true },
  { name: "score", label: "Score", show: score, by: (s) => s.score, kind: "number", when: true },
  { name: "prediction", label: "Prediction", show: said, kind: "said", when: samples.some((s) => said(s)) },
  { name: "expected", label: "Expected", show: expected, kind: "said", when: samples.some((s) => expected(s)) },
].filter((column) => column.when);

// name of the filter, what it compares, how it is called
const FILTERS = {
  run: [(s) => s.run, (value) => value],
  task: [(s) => s.task, (value) => value],
  method: [(s) => s.method, (value) => value],
  tokens: [(s) => s.seq_len, number],
  depth: [(s) => s.cell_depth === undefined ? undefined : Number(s.cell_depth.toPrecision(12)), percent],
  outcome: [outcome, (value) => value],
};

let sort = { name: "", down: false };
let first = 0; // number of the first sample shown

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0;
}

function matching() {
  const text = form.elements.text.value.trim().toLowerCase();
  const chosen = Object.entries(FILTERS).filter(([name]) => form.elements[name].value !== "");
  const found = samples.filter(
    (sample) =>
      chosen.every(([name, [value]]) => String(value(sample)) === form.elements[name].value) &&
      (!text || [said(sample), expected(sample), ...(excerpts[sample.excerpt] ?? [])].some((part) => part.toLowerCase().includes(text))),
  );
  const column = COLUMNS.find(({ name }) => name === sort.name);
  if (!column) return found;
  const value = column.by ?? column.show;
  const missing = (entry) => entry === undefined || entry === null || entry === "";
  return found.sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (missing(a) || missing(b)) return missing(a) - missing(b); // last, whichever way
    return sort.down ? compare(b, a) : compare(a, b);
  });
}

function render() {
  const found = matching();
  first = Math.max(0, Math.min(first, Math.floor((found.length - 1) / PAGE) * PAGE));
  const shown = found.slice(first, first + PAGE);
  const range = found.length > PAGE ? `, ${number(first + 1)} to ${number(first + shown.length)} shown` : "";
  document.getElementById("count").textContent = `${number(found.length)} of ${number(samples.length)} samples${range}`;
  document.querySelector(".pages").hidden = found.length <= PAGE;
  document.getElementById("previous").disabled = first === 0;
  document.getElementById("next").disabled = first + PAGE >= found.length;
  table.tBodies[0].replaceChildren(...shown.flatMap(rows));
  for (const heading of table.tHead.querySelectorAll("th[data-name]")) {
    const direction = heading.dataset.name === sort.name ? (sort.down ? "descending" : "ascending") : "none";
    heading.setAttribute("aria-sort", direction);
  }
}

function rows(sample) {
  const row = element("tr", undefined, { role: "row" });
  for (const { label, show, kind } of COLUMNS) {
    const cell = element("td", undefined, { role: "cell", "data-label": label });
    if (kind) cell.className = kind;
    const text = show(sample);
    if (text !== "") cell.append(kind === "said" ? element("span", text) : text);
    if (sample.error !== undefined && (label === "Score" || label === "Prediction")) cell.classList.add("bad");
    row.append(cell);
  }
  const button = element("button", open.has(sample) ? "Less" : "More", { type: "button" });
  button.setAttribute("aria-expanded", open.has(sample));
  button.addEventListener("click", () => toggle(sample, row, button));
  const last = element("td", undefined, { role: "cell", "data-label": "" });
  last.append(button);
  row.append(last);
  return open.has(sample) ? [row, details(sample)] : [row];
}

function toggle(sample, row, button) {
  if (open.delete(sample)) row.nextSibling.remove();
  else {
    open.add(sample);
    row.after(details(sample));
  }
  button.setAttribute("aria-expanded", open.has(sample));
  button.textContent = open.has(sample) ? "Less" : "More";
}

function details(sample) {
  const list = element("dl");
  const add = (name, ...parts) => {
    const entry = element("dd");
    entry.append(...parts);
    list.append(element("dt", name), entry);
  };
  const scores = Object.entries(sample.scores ?? {}).map(([name, value]) => `${name.replaceAll("_", " ")} ${number(value)}`);
  const cost = sample.cost;
  const excerpt = excerpts[sample.excerpt];
  if (sample.error !== undefined) add("Failed", sample.error);
  if (excerpt) add("Prompt, parts of it", ...excerpt.map((part) => element("blockquote", part)));
  if (sample.reasoning) add(sample.reasoning_cut ? "Thought, cut off" : "Thought", sample.reasoning);
  if (sample.prediction) add("Prediction", sample.prediction);
  if (expected(sample)) add("Expected", expected(sample));
  if (scores.length) add("Scores", scores.join(", "));
  add("Method", sample.method);
  if (sample.document) add("Document", sample.document);
  const reused = cost?.reused_tokens ? `, ${number(cost.reused_tokens)} of them reused` : "";
  const written = sample.output_tokens === undefined ? "" : `; ${number(sample.output_tokens)} written`;
  if (sample.prompt_tokens !== undefined) add("Tokens", `${number(sample.prompt_tokens)} in the prompt${reused}${written}`);
  if (sample.equals) add("Equals", sample.equals + (sample.taken_from ? ", whose result and cost these are" : ""));
  if (cost) {
    const peak = cost.peak_memory_bytes;
    const memory = peak === null ? "" : `, ${number(peak / 2 ** 20)} MiB at the peak`;
    add("Cost", `prefill ${number(cost.prefill_seconds)} s, decoding ${number(cost.decode_seconds)} s${memory}`);
  }
  const row = element("tr", undefined, { role: "row", class: "detail" });
  const cell = element("td", undefined, { role: "cell", colspan: COLUMNS.length + 1 });
  cell.append(list);
  row.append(cell);
  return row;
}

function sortBy(name, down) {
  sort = { name, down };
  form.elements.sort.value = name ? `${name} ${down ? "down" : "up"}` : "";
  first = 0;
  render();
}

function start() {
  for (const [name, [value, called]] of Object.entries(FILTERS)) {
    const values = [...new Set(samples.map(value))].filter((entry) => entry !== undefined);
    if (typeof values[0] === "number") values.sort(compare);
    form.elements[name].append(element("option", "all", { value: "" }));
    for (const entry of values) form.elements[name].append(element("option", called(entry), { value: String(entry) }));
    form.querySelector(`[data-for=${name}]`).hidden = values.length < 2;
  }
  const head = element("tr", undefined, { role: "row" });
  form.elements.sort.append(element("option", "order of the run", { value: "" }));
  for (const { name, label, kind } of COLUMNS) {
    const heading = element("th", undefined, { scope: "col", role: "columnheader", "data-name": name });
    if (kind) heading.className = kind;
    const button = element("button", label, { type: "button" });
    button.addEventListener("click", () => sortBy(name, sort.name === name && !sort.down));
    heading.append(button);
    head.append(heading);
    form.elements.sort.append(element("option", `${label} ↑`, { value: `${name} up` }), element("option", `${label} ↓`, { value: `${name} down` }));
  }
  const last = element("th", undefined, { scope: "col", role: "columnheader" });
  last.append(element("span", "Details", { class: "hidden" }));
  head.append(last);
  table.tHead.append(head);
  form.hidden = false;
  render();
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  const [name, direction] = form.elements.sort.value.split(" ");
  if (event.target === form.elements.sort) sortBy(name, direction === "down");
  else {
    first = 0;
    render();
  }
});
form.addEventListener("reset", () => setTimeout(() => sortBy("", false))); // once the fields are empty
for (const [id, by] of [["previous", -PAGE], ["next", PAGE]]) {
  document.getElementById(id).addEventListener("click", () => {
    first += by;
    render();
    document.getElementById("samples").scrollIntoView();
  });
}
document.querySelector("main").addEventListener("click", (event) => {
  const link = event.target.closest("a[data-task]");
  if (!link) return; // a score: show the samples behind it
  form.reset();
  for (const [name, value] of Object.entries(link.dataset)) form.elements[name].value = value;
  first = 0;
  render();
});
start();
