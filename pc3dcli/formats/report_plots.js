// SPDX-License-Identifier: Apache-2.0
// The drawings of the report: curves of classes, and how the scenes are spread.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const COLORS = 8; // of the style, .c0 to .c7; further curves repeat them dashed, then dotted
const NEAR = 16; // a curve this near to the pointer is named, in pixels of the drawing
const BINS = 20; // of the histogram

function svg(kind, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  return node;
}

// ---- curves ----

function fillCurves(plots) {
  element("curves").hidden = !plots.length;
  for (const plot of plots) new Curves(element("plots"), plot);
}

class Curves {
  // every curve is drawn pale; those chosen in the list have a colour
  constructor(place, { x, y, curves, chosen }) {
    Object.assign(this, { curves, chosen: new Set(chosen), lit: -1 });
    this.frame = { left: 52, top: 14, width: 590, height: 380 };
    this.reach = [1, 2].map((axis) => Math.max(1, ...curves.map((curve) => curve[axis].reduce((a, b) => Math.max(a, b), 0))));
    this.svg = svg("svg", { viewBox: "0 0 664 446", role: "img", "aria-label": `${y} over ${x} of ${curves.length} curves` });
    this.axes(x, y);
    this.paths = curves.map((curve) => this.svg.appendChild(svg("path", { class: "curve", d: this.outline(curve) })));
    this.mark = this.svg.appendChild(svg("circle", { r: 4.5, visibility: "hidden" }));
    const box = make("div", "", "plot");
    box.append(this.svg, this.legend());
    place.append(box);
    this.axisNames = [x, y];
    this.svg.addEventListener("pointermove", (event) => this.follow(event));
    this.svg.addEventListener("pointerleave", () => this.light(-1));
    this.svg.addEventListener("click", () => { if (this.lit >= 0) this.choose([this.lit], !this.chosen.has(this.lit)); });
    this.restyle();
  }

  at(x, y) {
    const { left, top, width, height } = this.frame;
    return [left + x / this.reach[0] * width, top + (1 - y / this.reach[1]) * height];
  }

  axes(x, y) {
    const { left, top, width, height } = this.frame;
    for (let k = 0; k <= 5; k++) {
      const [px, py] = this.at(this.reach[0] * k / 5, this.reach[1] * k / 5);
      this.svg.append(
        svg("line", { class: k ? "grid" : "axis", x1: px, x2: px, y1: top, y2: top + height }),
        svg("line", { class: k ? "grid" : "axis", x1: left, x2: left + width, y1: py, y2: py }),
        svg("text", { x: px, y: top + height + 18, "text-anchor": "middle" }, (this.reach[0] * k / 5).toFixed(1)),
        svg("text", { x: left - 8, y: py + 4, "text-anchor": "end" }, (this.reach[1] * k / 5).toFixed(1)),
      );
    }
    this.svg.append(
      svg("text", { x: left + width / 2, y: top + height + 40, "text-anchor": "middle" }, x),
      svg("text", { transform: `translate(14 ${top + height / 2}) rotate(-90)`, "text-anchor": "middle" }, y),
    );
  }

  outline([, xs, ys]) {
    return xs.map((x, k) => `${k ? "L" : "M"}${this.at(x, ys[k]).map((value) => value.toFixed(1)).join(" ")}`).join("");
  }

  legend() {
    const key = make("div", "", "key"), tools = make("div", "", "tools"), list = make("ul");
    for (const [text, isOn] of [["All", true], ["None", false]]) {
      const button = make("button", text);
      button.type = "button";
      button.addEventListener("click", () => this.choose(this.visible(), isOn));
      tools.append(button);
    }
    this.labels = this.curves.map(([name], k) => {
      const item = make("li"), label = make("label"), box = make("input");
      box.type = "checkbox";
      box.addEventListener("change", () => this.choose([k], box.checked));
      label.append(box, make("span", "", "swatch"), make("span", name));
      label.title = name;
      label.addEventListener("pointerenter", () => this.light(k));
      label.addEventListener("pointerleave", () => this.light(-1));
      item.append(label);
      return label;
    });
    // those with a colour first, or they would be lost in a long list
    const order = this.curves.map((_, k) => k).sort((a, b) => this.chosen.has(b) - this.chosen.has(a) || a - b);
    list.append(...order.map((k) => this.labels[k].parentNode));
    if (this.curves.length >= FILTER_FROM) tools.append(this.filter());
    key.append(tools, list);
    return key;
  }

  filter() {
    const input = make("input");
    Object.assign(input, { type: "search", placeholder: "Filter", ariaLabel: "Filter curves by name" });
    input.addEventListener("input", () => {
      const query = input.value.trim().toLowerCase();
      this.curves.forEach(([name], k) => { this.labels[k].parentNode.hidden = !name.toLowerCase().includes(query); });
    });
    return input;
  }

  visible() {
    return this.curves.map((_, k) => k).filter((k) => !this.labels[k].parentNode.hidden);
  }

  choose(indices, isOn) {
    for (const k of indices) isOn ? this.chosen.add(k) : this.chosen.delete(k);
    this.restyle();
  }

  restyle() { // colours go by rank among the chosen, so that few chosen ones never share one
    const rank = new Map([...this.chosen].sort((a, b) => a - b).map((k, number) => [k, number]));
    this.paths.forEach((path, k) => {
      const number = rank.get(k);
      const look = number === undefined ? "" : ` on c${number % COLORS} d${Math.floor(number / COLORS) % 3}`;
      const lit = k === this.lit ? " lit" : "";
      path.setAttribute("class", `curve${look}${lit}`);
      this.labels[k].className = `${look}${lit}`.trim();
      this.labels[k].firstChild.checked = number !== undefined;
    });
    // painted later means on top: pale, then chosen, then the one pointed at
    const order = this.paths.map((_, k) => k).sort((a, b) => this.height(a) - this.height(b) || b - a);
    this.mark.before(...order.map((k) => this.paths[k]));
  }

  height(k) {
    return (this.chosen.has(k) ? 1 : 0) + (k === this.lit ? 2 : 0);
  }

  light(k) {
    if (k < 0) {
      hideTip();
      this.mark.setAttribute("visibility", "hidden");
    }
    if (k === this.lit) return;
    this.lit = k;
    this.restyle();
  }

  follow(event) {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    let best = { distance: NEAR, k: -1 };
    this.curves.forEach(([, xs, ys], k) => {
      for (let i = 0; i < xs.length; i++) {
        const [x, y] = this.at(xs[i], ys[i]);
        // the chosen win where a pale one is as near
        const distance = Math.hypot(x - place.x, y - place.y) + (this.chosen.has(k) ? 0 : 5);
        if (distance < best.distance) best = { distance, k, i, x, y };
      }
    });
    this.light(best.k);
    if (best.k < 0) return;
    const [name, xs, ys] = this.curves[best.k];
    this.mark.setAttribute("cx", best.x);
    this.mark.setAttribute("cy", best.y);
    this.mark.setAttribute("visibility", "visible");
    showTip(`${name}\n${this.axisNames[1]} ${ys[best.i].toFixed(3)}\n${this.axisNames[0]} ${xs[best.i].toFixed(3)}`, event);
  }
}

// ---- spread of the scenes ----

function histogram(values, name, unit) {
  const reach = values.reduce((a, b) => Math.max(a, b), 1), counts = new Array(BINS).fill(0);
  for (const value of values) counts[Math.min(BINS - 1, Math.max(0, Math.floor(value / reach * BINS)))] += 1;
  const most = Math.max(...counts), width = 664, height = 90, left = 12, step = (width - 2 * left) / BINS;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height + 42}`, role: "img", "aria-label": `${unit}s by ${name}` });
  counts.forEach((count, k) => {
    const [x, tall] = [left + k * step, count / most * height];
    const bar = svg("rect", { class: "count", x: x + 1, width: step - 2, y: 10 + height - tall, height: tall });
    const range = `${(k / BINS * reach).toFixed(2)} to ${((k + 1) / BINS * reach).toFixed(2)}`;
    bar.addEventListener("pointermove", (event) => showTip(`${name} ${range}\n${plural(count, unit)}`, event));
    bar.addEventListener("pointerleave", hideTip);
    drawing.append(bar);
  });
  drawing.append(svg("line", { class: "axis", x1: left, x2: width - left, y1: 10 + height, y2: 10 + height }));
  for (let k = 0; k <= 5; k++) {
    const anchor = k === 0 ? "start" : k === 5 ? "end" : "middle";
    drawing.append(svg("text", { x: left + k / 5 * (width - 2 * left), y: height + 26, "text-anchor": anchor }, (reach * k / 5).toFixed(1)));
  }
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  drawing.append(svg("text", { x: width / 2, y: height + 39, "text-anchor": "middle" }, `${name}, median ${median.toFixed(4)}`));
  return drawing;
}
