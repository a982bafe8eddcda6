// SPDX-License-Identifier: Apache-2.0
// The confusion matrix of the report: a canvas, since 200 classes have 40,000 cells.
"use strict";

const LABEL_FROM = 11; // rows this high have their name beside them, in pixels
const TEXT_FROM = 34; // cells this wide hold their share

function fillConfusion(confusion) {
  element("confusion").hidden = !confusion;
  if (!confusion) return;
  const matrix = new Matrix(confusion);
  element("confusion-note").textContent = `${grouped(matrix.N)} ${matrix.N === 1 ? "class" : "classes"} that occur, ${grouped(matrix.sum)} counted`;
  for (const input of element("share").querySelectorAll("input")) {
    input.addEventListener("change", () => { matrix.byRow = input.value === "row"; matrix.draw(); });
  }
  new SortedTable(element("pairs"), {
    heads: ["true", "predicted", "count", "of true"], rows: matrix.pairs(), counts: [true, false], numNames: 2,
    sort: { column: 2, ascending: false }, limit: FIRST_ROWS, hasBars: false,
  });
}

class Matrix {
  // rows the true class, columns the predicted one; null, the last where it occurs, is nothing there or missed
  constructor({ names, cells }) {
    const size = names.length;
    Object.assign(this, { size, byRow: true, cursor: null });
    this.hasNone = names[size - 1] === null;
    this.N = size - (this.hasNone ? 1 : 0);
    this.rowNames = names.map((name) => name ?? "(nothing there)");
    this.columnNames = names.map((name) => name ?? "(missed)");
    this.counts = new Float64Array(size * size);
    for (let k = 0; k < cells.length; k += 3) this.counts[cells[k] * size + cells[k + 1]] = cells[k + 2];
    this.rowSums = names.map((_, i) => this.total((k) => i * size + k));
    this.columnSums = names.map((_, j) => this.total((k) => k * size + j));
    this.sum = this.rowSums.reduce((a, b) => a + b, 0);
    this.canvas = element("matrix");
    this.canvas.setAttribute("aria-label", "Confusion matrix, true classes down, predicted across. Arrow keys move between cells.");
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => { hideTip(); this.move(null); });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("blur", () => this.move(null));
    // beside the list of pairs a large matrix would have no room
    element("confusion").querySelector(".split").classList.toggle("wide", size > 40);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    addEventListener("resize", () => this.draw());
    this.draw();
  }

  total(index) {
    let sum = 0;
    for (let k = 0; k < this.size; k++) sum += this.counts[index(k)];
    return sum;
  }

  count(i, j) {
    return this.counts[i * this.size + j];
  }

  share(i, j) { // null where there is nothing to share
    const sum = this.byRow ? this.rowSums[i] : this.columnSums[j];
    return sum ? this.count(i, j) / sum : null;
  }

  pairs() {
    const found = [];
    for (let i = 0; i < this.size; i++) {
      for (let j = 0; j < this.size; j++) {
        if (i !== j && this.count(i, j)) found.push([this.rowNames[i], this.columnNames[j], this.count(i, j), this.count(i, j) / this.rowSums[i]]);
      }
    }
    return found;
  }

  layout(pen) { // the size of a cell, and the room that names take
    const room = this.canvas.parentNode.clientWidth;
    const longest = (names) => Math.min(150, Math.max(...names.map((name) => pen.measureText(name).width)) + 10);
    const [names, heads] = [longest(this.rowNames), longest(this.columnNames)];
    const fit = (left) => Math.max(4, Math.min(44, Math.floor((room - left - 4) / this.size)));
    const isNamed = fit(names) >= LABEL_FROM;
    const [left, top] = isNamed ? [names, heads] : [22, 22];
    const cell = isNamed ? fit(names) : Math.min(LABEL_FROM, fit(22));
    this.place = { left, top, cell, isNamed };
    return [left + cell * this.size + 2, top + cell * this.size + 2];
  }

  draw() {
    const style = getComputedStyle(document.documentElement), pen = this.canvas.getContext("2d"), scale = devicePixelRatio || 1;
    this.color = Object.fromEntries(["panel", "ink", "quiet", "line", "right", "wrong"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.font = `${12}px system-ui, sans-serif`;
    pen.font = this.font;
    const [width, height] = this.layout(pen);
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.font = this.font;
    this.drawCells(pen);
    this.drawNames(pen);
    if (this.cursor) this.drawCursor(pen);
    this.drawScale();
  }

  drawCells(pen) {
    const { left, top, cell } = this.place, side = cell * this.size, gap = cell > 8 ? 1 : 0;
    pen.fillStyle = this.color.panel;
    pen.fillRect(left, top, side, side);
    for (let i = 0; i < this.size; i++) {
      for (let j = 0; j < this.size; j++) {
        const share = this.share(i, j);
        if (!share) continue;
        pen.globalAlpha = shade(share);
        pen.fillStyle = i === j ? this.color.right : this.color.wrong;
        pen.fillRect(left + j * cell, top + i * cell, cell - gap, cell - gap);
        pen.globalAlpha = 1;
        if (cell >= TEXT_FROM) this.drawShare(pen, share, left + (j + 0.5) * cell, top + (i + 0.5) * cell);
      }
    }
    pen.strokeStyle = this.color.line;
    pen.strokeRect(left - 0.5, top - 0.5, side + 1, side + 1);
    if (!this.hasNone) return;
    const edge = this.N * cell - 0.5; // what no class has stands apart
    pen.beginPath();
    pen.moveTo(left, top + edge); pen.lineTo(left + side, top + edge);
    pen.moveTo(left + edge, top); pen.lineTo(left + edge, top + side);
    pen.strokeStyle = this.color.quiet;
    pen.stroke();
  }

  drawShare(pen, share, x, y) {
    const text = share.toFixed(2);
    if (text === "0.00") return;
    pen.fillStyle = shade(share) > 0.6 ? this.color.panel : this.color.ink;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(text, x, y);
  }

  drawNames(pen) {
    const { left, top, cell, isNamed } = this.place;
    pen.fillStyle = this.color.quiet;
    pen.textBaseline = "middle";
    if (!isNamed) {
      pen.textAlign = "left";
      pen.fillText("predicted \u2192", left, top - 11);
      turned(pen, 11, top, () => { pen.textAlign = "right"; pen.fillText("\u2190 true", 0, 0); });
      return;
    }
    for (let k = 0; k < this.size; k++) {
      const isMarked = [0, 1].map((axis) => this.cursor && this.cursor[axis] === k);
      pen.textAlign = "right";
      pen.fillStyle = isMarked[0] ? this.color.ink : this.color.quiet;
      pen.fillText(fitted(pen, this.rowNames[k], left - 8), left - 6, top + (k + 0.5) * cell);
      pen.fillStyle = isMarked[1] ? this.color.ink : this.color.quiet;
      turned(pen, left + (k + 0.5) * cell, top - 6, () => { pen.textAlign = "left"; pen.fillText(fitted(pen, this.columnNames[k], top - 8), 0, 0); });
    }
  }

  drawCursor(pen) {
    const { left, top, cell } = this.place, [i, j] = this.cursor;
    pen.strokeStyle = this.color.ink;
    pen.globalAlpha = 0.35;
    pen.strokeRect(left, top + i * cell - 0.5, cell * this.size, cell);
    pen.strokeRect(left + j * cell - 0.5, top, cell, cell * this.size);
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.strokeRect(left + j * cell - 0.5, top + i * cell - 0.5, cell, cell);
    pen.lineWidth = 1;
  }

  drawScale() {
    const ramps = [["right", this.color.right], ["wrong", this.color.wrong]].map(([name, color]) => {
      const ramp = make("canvas"), pen = ramp.getContext("2d");
      [ramp.width, ramp.height] = [120, 10];
      for (let x = 0; x < 120; x++) {
        pen.fillStyle = this.color.panel;
        pen.fillRect(x, 0, 1, 10);
        pen.globalAlpha = shade(x / 119);
        pen.fillStyle = color;
        pen.fillRect(x, 0, 1, 10);
        pen.globalAlpha = 1;
      }
      return [make("span", name), ramp];
    });
    const of = this.byRow ? "its row, the true class" : "its column, the predicted class";
    element("scale").replaceChildren("0", ...ramps.flat(), "1", make("span", `share of ${of}`));
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect(), { left, top, cell } = this.place;
    const j = Math.floor((event.clientX - box.left - left) / cell), i = Math.floor((event.clientY - box.top - top) / cell);
    const isInside = i >= 0 && j >= 0 && i < this.size && j < this.size;
    this.move(isInside ? [i, j] : null);
    isInside ? showTip(this.words(i, j), event) : hideTip();
  }

  key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const last = this.size - 1;
    this.move(this.cursor ? this.cursor.map((value, axis) => Math.min(last, Math.max(0, value + step[axis]))) : [0, 0]);
  }

  move(cursor) {
    if (String(cursor) === String(this.cursor)) return;
    this.cursor = cursor;
    element("cell").textContent = cursor ? this.words(...cursor).replaceAll("\n", "; ") : "";
    this.draw();
  }

  words(i, j) {
    const part = (sum, of) => `${(sum ? this.count(i, j) / sum : 0).toFixed(4)} of ${grouped(sum)} ${of}`;
    return `true ${this.rowNames[i]}, predicted ${this.columnNames[j]}: ${grouped(this.count(i, j))}\n`
      + `${part(this.rowSums[i], "true")}\n${part(this.columnSums[j], "predicted")}`;
  }
}

function shade(share) { // the root lifts what is rare out of the paper
  return 0.08 + 0.92 * Math.sqrt(share);
}

function turned(pen, x, y, write) {
  pen.save();
  pen.translate(x, y);
  pen.rotate(-Math.PI / 2);
  write();
  pen.restore();
}

function fitted(pen, name, room) {
  for (let length = name.length; length > 1; length--) {
    const text = short(name, length);
    if (pen.measureText(text).width <= room) return text;
  }
  return name.slice(0, 1);
}

function short(name, length) {
  return name.length > length ? `${name.slice(0, length - 1)}\u2026` : name;
}
