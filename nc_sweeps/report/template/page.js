"use strict";
// The table of runs, its filters, and the charts that follow them. Charts of runs show the runs that pass the filters;
// charts of curves show the chosen ones among these, or all where none is chosen. Unless asked for, runs that diverged or
// failed are in no chart, and those that go on in no chart of last values.
const report = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);

function rowsOf(columns) {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, index) => Object.fromEntries(names.map((name) => [name, columns[name][index]])));
}

const runs = rowsOf(report.runs);
const curves = rowsOf(report.curves);
const state = { kept: new Map(), text: "", chosen: new Set(), column: null, ascending: true };

function make(tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// Keys keep all their digits, and are shown with as many as tell their values apart.
function written(value, kind, digits = null) {
  if (value === null) return "–";
  if (kind !== "number") return digits && typeof value === "number" ? String(Number(value.toPrecision(digits))) : String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e4) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

// The table is made once; later its rows are sorted, hidden and shown.
const body = element("table").tBodies[0];
const lines = runs.map((run) => {
  const line = make("tr");
  const box = make("input", { type: "checkbox", "aria-label": `choose run ${run.folder}` });
  line.append(make("td"));
  line.firstChild.append(box);
  for (const { field, kind, digits } of report.columns) {
    const cell = make("td", kind === "text" ? {} : { class: "number" }, written(run[field], kind, digits));
    if (field === "folder") cell.classList.add("code");
    if (field === "status") cell.classList.add(run.status);
    line.append(cell);
  }
  line.addEventListener("click", (event) => {
    if (event.target !== box) box.checked = !box.checked;
    state.chosen[box.checked ? "add" : "delete"](run.run);
    follow();
  });
  body.append(line);
  return { run, line, box, text: line.textContent.toLowerCase() };
});

const heading = make("tr");
heading.append(make("th", { scope: "col", "aria-label": "chosen" }));
for (const column of report.columns) {
  const cell = make("th", { scope: "col", "aria-sort": "none", ...(column.kind === "text" ? {} : { class: "number" }) });
  const button = make("button", { type: "button" }, column.title);
  button.addEventListener("click", () => {
    state.ascending = state.column === column.field ? !state.ascending : true;
    state.column = column.field;
    for (const other of heading.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
    cell.setAttribute("aria-sort", state.ascending ? "ascending" : "descending");
    sort();
  });
  cell.append(button);
  heading.append(cell);
}
element("table").tHead.append(heading);

function sort() {
  const sign = state.ascending ? 1 : -1;
  const order = [...lines].sort((one, other) => {
    const [a, b] = [one.run[state.column], other.run[state.column]];
    if (a === null || b === null) return (a === null) - (b === null); // undefined values come last in both directions
    return sign * (typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b), undefined, { numeric: true }) : a - b);
  });
  body.append(...order.map(({ line }) => line));
}

// Filters: one button for each value; where none is pressed, all runs pass.
for (const { field, title, values, digits } of report.filters) {
  if (values.length < 2) continue;
  const group = make("div", { role: "group", "aria-label": title });
  group.append(make("span", {}, title));
  for (const value of values) {
    const button = make("button", { type: "button", "aria-pressed": "false" }, written(value, "key", digits));
    button.addEventListener("click", () => {
      const kept = state.kept.get(field) ?? new Set();
      const pressed = !kept.has(value);
      kept[pressed ? "add" : "delete"](value);
      state.kept.set(field, kept);
      button.setAttribute("aria-pressed", String(pressed));
      follow();
    });
    group.append(button);
  }
  element("filters").append(group);
}

element("find").addEventListener("input", (event) => {
  state.text = event.target.value.toLowerCase();
  follow();
});

element("reset").addEventListener("click", () => {
  state.kept.clear();
  state.chosen.clear();
  state.text = element("find").value = "";
  for (const button of element("filters").querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
  for (const { box } of lines) box.checked = false;
  follow();
});

// The rows that charts read.
function passes({ run, text }) {
  const kept = [...state.kept].every(([field, values]) => values.size === 0 || values.has(run[field]));
  return kept && text.includes(state.text);
}

let filtered = [];
let chosen = [];

// Charts leave out the runs that no average takes, such as diverged ones, unless the reader asks for their status.
function isAveraged(run, source) {
  return (state.kept.get("status")?.size ?? 0) > 0 || report.averaged[source].includes(run.status);
}

function describeLeftOut(rows, source) {
  const counts = {};
  for (const run of rows) if (!isAveraged(run, source)) counts[run.status] = (counts[run.status] ?? 0) + 1;
  const left = Object.entries(counts).map(([status, count]) => `${count} ${status}`);
  return left.length ? `Left out: ${left.join(", ")}.` : "";
}

function feed({ source, fields }) {
  // Each chart has rows of its own, as Vega writes into them.
  if (source === "runs") return filtered.filter((run) => isAveraged(run, source)).map((run) => Object.fromEntries(fields.map((field) => [field, run[field]])));
  const [own, ofRun] = [fields.filter((field) => field in report.curves), fields.filter((field) => !(field in report.curves))];
  const numbers = new Set(chosen.map((run) => run.run));
  const rows = [];
  for (const row of curves) {
    if (!numbers.has(row.run)) continue;
    const fed = {};
    for (const field of own) fed[field] = row[field];
    for (const field of ofRun) fed[field] = runs[row.run][field];
    rows.push(fed);
  }
  return rows;
}

function follow() {
  const passing = new Set(lines.filter(passes));
  for (const entry of lines) {
    entry.line.hidden = !passing.has(entry);
    entry.line.classList.toggle("chosen", entry.box.checked);
  }
  filtered = [...passing].map(({ run }) => run);
  const picked = filtered.filter(({ run }) => state.chosen.has(run));
  chosen = picked.length ? picked : filtered.filter((run) => isAveraged(run, "curves"));
  for (const note of document.querySelectorAll("[data-left]")) {
    note.textContent = note.dataset.left === "curves" && picked.length ? "" : describeLeftOut(filtered, note.dataset.left);
  }
  element("shown").textContent =
    `${filtered.length} of ${runs.length} runs` + (picked.length ? `, curves of ${picked.length} chosen` : "");
  outdate();
}

// Charts are drawn and updated when they come into view.
const dark = matchMedia("(prefers-color-scheme: dark)");
const places = [...document.querySelectorAll("[data-chart]")];
const views = new Map();
const inSight = new Set();
const stale = new Set();
let [hasLooked, isDrawing] = [false, false];

async function draw(place) {
  const name = place.dataset.chart;
  const mode = dark.matches ? "dark" : "light";
  const chart = report.charts[name];
  const drawn = views.get(place);
  if (drawn?.name === name && drawn.mode === mode) {
    await drawn.view.data(report.rows, feed(chart)).runAsync();
    return;
  }
  drawn?.finish();
  const narrow = place.clientWidth < 480 ? { orient: "bottom", layout: { bottom: { direction: "vertical" } } } : {};
  const theme = report.themes[mode];
  const options = {
    actions: { export: true, source: false, compiled: false, editor: false },
    config: { ...theme, legend: { ...theme.legend, ...narrow } },
    logLevel: 1, // errors only: an empty axis, where no run passes the filters, needs no warning
    renderer: chart.source === "curves" ? "canvas" : "svg",
    downloadFileName: name,
  };
  const specification = { ...chart.specification, datasets: { [report.rows]: feed(chart) } };
  const { view, finalize } = await vegaEmbed(place, specification, options);
  views.set(place, { view, name, mode, finish: finalize });
}

async function refresh() {
  if (isDrawing) return;
  isDrawing = true;
  for (let place; (place = places.find((one) => inSight.has(one) && stale.has(one))); ) {
    stale.delete(place);
    await draw(place);
  }
  isDrawing = false;
  if (hasLooked || !places.length) document.body.dataset.drawn = dark.matches ? "dark" : "light";
}

function outdate() {
  delete document.body.dataset.drawn;
  for (const place of places) stale.add(place);
  refresh();
}

const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) inSight[isIntersecting ? "add" : "delete"](target);
  hasLooked = true;
  refresh();
}, { rootMargin: "300px" });
for (const place of places) sight.observe(place);

element("quantity")?.addEventListener("change", (event) => {
  element("curves").dataset.chart = event.target.value;
  outdate();
});
dark.addEventListener("change", outdate);
follow();
