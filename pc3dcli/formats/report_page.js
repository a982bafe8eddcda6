// SPDX-License-Identifier: Apache-2.0
// The page of `pc3d eval --report`: numbers, sortable tables, options and warnings; the other scripts draw.
"use strict";

const FIRST_ROWS = 20; // of long tables, until all are asked for
const TILES = 8; // headline numbers at the top
const WARNINGS = 3; // of one code, until the rest is opened
const FILTER_FROM = 12; // tables and lists this long can be filtered

function element(id) {
  return document.getElementById(id);
}

function make(kind, content = "", className = "") { // names are put in as text, never as markup
  const node = document.createElement(kind);
  if (content !== "") node.append(content);
  if (className) node.className = className;
  return node;
}

function grouped(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ",");
}

function plural(count, word) {
  return `${grouped(count)} ${word}${count === 1 ? "" : "s"}`;
}

// ---- tables: {columns, rows: [[name, value, ...]]}, sorted by a click on a head ----

class SortedTable {
  // numNames    leading columns that hold names; the first always does
  // limit       rows shown until all are asked for
  // counts      which columns after the names are whole numbers; the others have a bar behind them if `hasBars`
  constructor(place, { heads, rows, counts, foot = [], numNames = 1, sort = null, limit = Infinity, hasBars = true }) {
    Object.assign(this, { place, heads, rows, numNames, sort, limit });
    this.counts = [...new Array(numNames).fill(false), ...counts];
    this.reach = heads.map((_, k) => rows.reduce((most, row) => typeof row[k] === "number" ? Math.max(most, row[k]) : most, 1));
    this.bars = heads.map((_, k) => hasBars && k >= numNames && !this.counts[k]);
    this.query = "";
    this.table = make("table");
    this.head = this.table.createTHead().insertRow();
    heads.forEach((name, k) => this.head.append(this.headCell(name, k)));
    this.body = this.table.createTBody();
    if (foot.length) {
      const part = this.table.createTFoot();
      for (const row of foot) part.append(this.row(row, false));
    }
    this.all = make("button");
    this.all.type = "button";
    this.all.addEventListener("click", () => { this.limit = Infinity; this.draw(); });
    this.caption = make("caption");
    this.caption.append(this.all);
    this.table.append(this.caption);
    place.replaceChildren(this.table);
    this.draw();
  }

  headCell(name, k) {
    const cell = make("th"), button = make("button", name);
    cell.scope = "col";
    if (k < this.numNames) cell.className = "name";
    button.type = "button";
    button.addEventListener("click", () => {
      const isSame = this.sort && this.sort.column === k;
      this.sort = { column: k, ascending: isSame ? !this.sort.ascending : k < this.numNames };
      this.draw();
    });
    cell.append(button);
    return cell;
  }

  ordered() { // undefined stays last in both directions; equal ones keep the order of the file
    const found = this.rows.filter((row) => !this.query || row.slice(0, this.numNames).some((name) => name.toLowerCase().includes(this.query)));
    if (!this.sort) return found;
    const { column, ascending } = this.sort, sign = ascending ? 1 : -1;
    return found.sort((a, b) => {
      const [x, y] = [a[column], b[column]];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "number" ? x - y : compareNames(x, y));
    });
  }

  draw() {
    const found = this.ordered(), rows = found.slice(0, this.limit);
    [...this.head.cells].forEach((cell, k) => {
      if (this.sort && this.sort.column === k) cell.setAttribute("aria-sort", this.sort.ascending ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
    this.body.replaceChildren(...rows.map((row) => this.row(row, true)));
    this.caption.hidden = rows.length === found.length;
    this.all.textContent = `Show all ${grouped(found.length)}`;
  }

  row(values, hasBars) {
    const row = make("tr");
    values.forEach((value, k) => row.append(this.cell(value, k, hasBars)));
    return row;
  }

  cell(value, k, hasBars) {
    if (k < this.numNames) {
      const cell = make(k ? "td" : "th", value, "name");
      if (!k) cell.scope = "row";
      cell.title = value;
      return cell;
    }
    const text = value === null ? (hasBars ? "-" : "") : this.counts[k] ? grouped(value) : value.toFixed(4);
    const cell = make("td", text);
    if (value === null) cell.className = "none";
    else if (hasBars && this.bars[k] && value > 0) {
      cell.className = "bar";
      cell.style.setProperty("--share", (value / this.reach[k]).toFixed(4));
    }
    return cell;
  }

  filterWith(input) {
    input.hidden = this.rows.length < FILTER_FROM;
    input.addEventListener("input", () => { this.query = input.value.trim().toLowerCase(); this.draw(); });
  }
}

function compareNames(a, b) { // digits as numbers, so that scene 10 follows scene 9; the same in every locale
  const parts = [a, b].map((name) => name.split(/(\d+)/));
  for (let k = 0; k < Math.min(parts[0].length, parts[1].length); k++) {
    const [x, y] = [parts[0][k], parts[1][k]];
    if (x === y) continue;
    return k % 2 && Number(x) !== Number(y) ? Number(x) - Number(y) : x < y ? -1 : 1;
  }
  return parts[0].length - parts[1].length;
}

// ---- what one box says near the pointer ----

function showTip(text, event) {
  const tip = element("tip");
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const x = event.clientX + 14 + box.width > innerWidth ? event.clientX - 14 - box.width : event.clientX + 14;
  const y = event.clientY + 14 + box.height > innerHeight ? event.clientY - 14 - box.height : event.clientY + 14;
  tip.style.transform = `translate(${Math.max(0, x)}px, ${Math.max(0, y)}px)`;
}

function hideTip() {
  element("tip").hidden = true;
}

// ---- sections ----

function fillHead(data) {
  const number = plural(data.numScenes, data.unit);
  document.title = `${data.task}, preset ${data.preset}`;
  element("tool").textContent = `pc3d eval ${data.version}`;
  element("heading").textContent = `${data.task}, preset ${data.preset}`;
  element("rule").textContent = [data.rule, number].filter(Boolean).join(" \u00b7 ");
  element("footnote").textContent = data.footnote;
  element("partial").hidden = data.numScored === data.numScenes;
  element("partial").textContent = `${grouped(data.numScored)} of ${number}: the others were scored as without predictions.`;
}

function fillTiles({ metrics, headline, means }) {
  const tiles = headline.slice(0, TILES).map((k) => metrics[k]);
  for (const [name, value, low, high] of tiles) {
    const tile = make("div");
    tile.append(make("dt", name), make("dd", value));
    if (low !== undefined) tile.append(make("dd", `95 %: ${low} to ${high}`));
    element("tiles").append(tile);
  }
  element("more").hidden = metrics.length === tiles.length;
  const rest = metrics.filter((metric) => !tiles.includes(metric));
  element("more").open = means.length < 2 && rest.length <= 4 * TILES; // means of groups stand under the classes as well
  element("more").querySelector("summary").textContent = plural(rest.length, "more number");
  element("numbers").append(...pairsOf(rest));
}

function pairsOf(entries) {
  return entries.map(([name, text]) => {
    const pair = make("div");
    pair.append(make("dt", name), make("dd", text));
    return pair;
  });
}

function fillWarnings(warnings) {
  element("warnings").hidden = !warnings.length;
  const codes = [...new Set(warnings.map(([code]) => code))];
  for (const code of codes) {
    const items = warnings.filter((one) => one[0] === code).map(([, file, detail]) => make("li", file ? `${file}: ${detail}` : detail));
    const list = make("ul"), title = make("h3", `${code} (${grouped(items.length)})`);
    list.append(...items.slice(0, WARNINGS));
    element("warning-list").append(title, list);
    if (items.length > WARNINGS) {
      const rest = make("details"), more = make("ul");
      more.append(...items.slice(WARNINGS));
      rest.append(make("summary", `${grouped(items.length - WARNINGS)} more`), more);
      element("warning-list").append(rest);
    }
  }
}

function fillClasses({ classes, means, counts }) {
  element("classes").hidden = !classes.rows.length;
  if (!classes.rows.length) return;
  const undefinedCount = Object.fromEntries(counts)["undefined classes"];
  const note = [`${grouped(classes.rows.length)} ${classes.rows.length === 1 ? "class" : "classes"}`];
  if (undefinedCount) note.push(`${grouped(undefinedCount)} undefined`);
  element("classes-note").textContent = note.join(", ");
  const table = new SortedTable(element("class-table"), { heads: ["class", ...classes.columns], rows: classes.rows, counts: classes.counts, foot: means });
  table.filterWith(element("class-filter"));
}

function fillBreakdowns(breakdowns) {
  element("breakdowns").hidden = !breakdowns.length;
  for (const [title, { columns, counts, rows }] of breakdowns) {
    const part = make("div"), place = make("div", "", "table");
    part.append(make("h3", title), place);
    element("breakdown-tables").append(part);
    new SortedTable(place, { heads: ["", ...columns], rows, counts });
  }
}

function fillScenes({ scenes, sceneColumn, unit }) {
  element("scenes").hidden = !scenes.rows.length;
  if (!scenes.rows.length) return;
  const name = scenes.columns[sceneColumn], column = sceneColumn + 1;
  const values = scenes.rows.map((row) => row[column]).filter((value) => value !== null);
  const missing = scenes.rows.length - values.length;
  element("scenes-title").textContent = `${unit[0].toUpperCase()}${unit.slice(1)}s`;
  element("scene-filter").setAttribute("aria-label", `Filter ${unit}s by name`);
  const note = [plural(scenes.rows.length, unit), `lowest ${name} first`];
  if (missing) note.push(`undefined in ${grouped(missing)}`);
  element("scenes-note").textContent = note.join(", ");
  if (values.length >= FILTER_FROM) element("histogram").append(histogram(values, name, unit));
  const table = new SortedTable(element("scene-table"), {
    heads: [unit, ...scenes.columns], rows: scenes.rows, counts: scenes.counts, sort: { column, ascending: true }, limit: FIRST_ROWS,
  });
  table.filterWith(element("scene-filter"));
}

function fillDetails({ options, counts, inputs }) {
  const lists = [["Options that decide the numbers", options], ["Counts", counts.map(([name, value]) => [name, grouped(value)])]];
  for (const [title, entries] of lists) {
    const part = make("div"), list = make("dl", "", "numbers");
    list.append(...pairsOf(entries));
    part.append(make("h3", title), list);
    element("detail-lists").append(part);
  }
  const part = make("div", "", "all");
  part.append(make("h3", "Digests of the inputs"));
  for (const [name, digest] of inputs) {
    const line = make("p", `${name}: `);
    line.append(digest ? make("code", digest) : "not taken");
    part.append(line);
  }
  element("detail-lists").append(part);
}

function fillNavigation() {
  const bar = make("div");
  for (const section of document.querySelectorAll("main > section:not([hidden])")) {
    const heading = section.querySelector("h2");
    if (!heading) continue;
    const link = make("a", section.id === "details" ? "Details" : heading.textContent);
    link.href = `#${section.id}`;
    bar.append(link);
  }
  element("nav").append(bar);
}

function fillPage() {
  const data = JSON.parse(element("data").textContent);
  fillHead(data);
  fillTiles(data);
  fillWarnings(data.warnings);
  fillClasses(data);
  fillCurves(data.plots);
  fillConfusion(data.confusion);
  fillBreakdowns(data.breakdowns);
  fillScenes(data);
  fillDetails(data);
  fillNavigation();
}

fillPage();
