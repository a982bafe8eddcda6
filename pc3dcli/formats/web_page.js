// SPDX-License-Identifier: Apache-2.0
// The viewer of `pc3d view`: points of one scene with its instances, or of one object with its parts and the scores of
// its patches, drawn with plain WebGL 2.  It says of a page only what the page has.
(() => {
  const HIDDEN = 65535; // label of a point that is not drawn; 0 is no instance, k + 1 the k-th
  const FIELD = 0.75; // vertical field of view in radians
  const scene = JSON.parse(element("scene").textContent);
  const canvas = element("view");
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: false });
  if (!gl) {
    element("failure").hidden = false;
    element("failure").textContent = "This browser has no WebGL 2, which drawing the points needs.";
    return;
  }
  const N = scene.count;
  const positions = new Uint16Array(unpack("positions").buffer); // (N, 3), parts of `extent` from `low`
  const colors = unpack("colors"); // (N, 3), empty where the cloud has none
  const radii = unpack("radii"); // (N,), parts of `radius`
  const normals = new Int8Array(unpack("normals").buffer); // (N, 3), towards the scanner; empty where unknown
  const instances = scene.instances;
  const isObject = scene.noun === "part"; // which is not measured in metres
  const patches = scene.ranks.length ? new Uint16Array(unpack("patches").buffer) : null; // (N,), patch of each point
  const values = buildValues(); // colourings by numbers: `scene.values` with `numbers` (N,)
  const visible = new Uint8Array(instances.length + 1).fill(1); // [0] is "no instance"
  const labels = new Uint16Array(N);
  const unassigned = membership();
  // smaller instances are painted later: a part stays visible on its whole
  const paintOrder = instances.map((_, k) => k).sort((a, b) => instances[b].points - instances[a].points || b - a);
  const modes = [
    colors.length && { name: "rgb", title: "RGB" },
    instances.length && { name: "instances", title: capital(`${scene.noun}s`) },
    instances.some((one) => one.score !== null) && { name: "score", title: "Score" },
    ...values.map((one) => ({ name: one.name, title: one.title, values: one })),
  ].filter(Boolean);
  // numbers are what a page with numbers is about; without any colour all is grey
  let mode = modes.find((one) => one.values) || modes.find((one) => one.name === "instances") || modes[0] || { name: "instances" };
  let selected = -1; // index into instances
  let pointScale = 1;
  let cut = scene.cut;
  let hidesBehind = normals.length > 0;
  let isScheduled = false;

  // ---- camera: orbits `target`, in level coordinates (z up) relative to the middle of the cloud ----
  const level = scene.level; // 3 rows, level from world
  const heights = [scene.heights[0], scene.heights[1]];
  let camera = home();

  function home() {
    const narrow = Math.max(1, canvas.clientHeight / Math.max(1, canvas.clientWidth));
    return { yaw: scene.heading, pitch: 0.75, distance: scene.reach / Math.sin(FIELD / 2) * 0.95 * narrow, target: [...scene.target] };
  }

  function rotation() { // rows: right, up, back, in level coordinates
    const [cy, sy, cp, sp] = [Math.cos(camera.yaw), Math.sin(camera.yaw), Math.cos(camera.pitch), Math.sin(camera.pitch)];
    return [[-sy, cy, 0], [-cy * sp, -sy * sp, cp], [cy * cp, sy * cp, sp]];
  }

  function viewProjection() { // column-major, from the normalised position of a point to clip space
    const rows = rotation();
    const near = Math.max(camera.distance * 0.01, scene.reach * 1e-4), far = camera.distance + 4 * scene.reach;
    const f = 1 / Math.tan(FIELD / 2), aspect = canvas.width / canvas.height;
    const eye = rows.map((row) => {
      const world = [0, 1, 2].map((axis) => row[0] * level[0][axis] + row[1] * level[1][axis] + row[2] * level[2][axis]);
      const offset = world.reduce((sum, value, axis) => sum - value * scene.half[axis], -dot(row, camera.target));
      return [...world.map((value, axis) => value * scene.extent[axis]), offset];
    });
    eye[2][3] -= camera.distance;
    const clip = [
      eye[0].map((value) => value * f / aspect),
      eye[1].map((value) => value * f),
      eye[2].map((value, axis) => value * (far + near) / (near - far) + (axis === 3 ? 2 * far * near / (near - far) : 0)),
      eye[2].map((value) => -value),
    ];
    return { matrix: new Float32Array([0, 1, 2, 3].flatMap((column) => clip.map((row) => row[column]))), near, far };
  }

  function turn(right, up) {
    camera.yaw -= right;
    camera.pitch = Math.min(1.5706, Math.max(-1.5706, camera.pitch + up));
    draw();
  }
  function move(right, up) { // in pixels of the page
    const step = 2 * Math.tan(FIELD / 2) * camera.distance / canvas.clientHeight, rows = rotation();
    camera.target = camera.target.map((value, axis) => value - step * (right * rows[0][axis] - up * rows[1][axis]));
    draw();
  }
  function zoom(factor) {
    camera.distance = Math.min(20 * scene.reach, Math.max(0.005 * scene.reach, camera.distance * factor));
    draw();
  }

  // ---- drawing ----
  const pointProgram = buildProgram(gl, POINT_VERTEX, POINT_FRAGMENT);
  const shadeProgram = buildProgram(gl, SHADE_VERTEX, SHADE_FRAGMENT);
  const points = gl.createVertexArray();
  gl.bindVertexArray(points);
  attribute(0, positions, 3, gl.UNSIGNED_SHORT);
  const colorBuffer = attribute(1, colors.length ? colors : new Uint8Array(3 * N).fill(150), 3, gl.UNSIGNED_BYTE);
  const labelBuffer = attribute(2, labels, 1, gl.UNSIGNED_SHORT, true);
  attribute(3, radii, 1, gl.UNSIGNED_BYTE);
  if (normals.length) attribute(4, normals, 3, gl.BYTE);
  const nothing = gl.createVertexArray();
  const target = { frame: gl.createFramebuffer(), color: gl.createTexture(), depth: gl.createTexture(), width: 0, height: 0 };
  const palettes = { instances: palette((one) => one.color), score: palette((one) => one.scoreColor) };

  function draw() {
    if (isScheduled) return;
    isScheduled = true;
    requestAnimationFrame(() => { isScheduled = false; drawNow(); });
  }
  function drawNow() {
    resize();
    const view = drawPoints(false);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.useProgram(shadeProgram.handle);
    gl.disable(gl.DEPTH_TEST);
    texture(0, target.color, shadeProgram.uColor);
    texture(1, target.depth, shadeProgram.uDepth);
    gl.uniform2f(shadeProgram.uPlanes, view.near, view.far);
    gl.uniform3fv(shadeProgram.uPaper, paper());
    gl.bindVertexArray(nothing);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    canvas.dataset.drawn = String(Number(canvas.dataset.drawn || 0) + 1);
  }
  function drawPoints(isPicking) {
    const view = viewProjection(), at = pointProgram;
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(at.handle);
    gl.uniformMatrix4fv(at.uMatrix, false, view.matrix);
    gl.uniform1f(at.uDiameter, 2 * scene.radius * pointScale * canvas.height / 2 / Math.tan(FIELD / 2));
    gl.uniform2f(at.uRange, 1.5 * devicePixelRatio, Math.min(64, gl.getParameter(gl.ALIASED_POINT_SIZE_RANGE)[1]));
    gl.uniform1i(at.uMode, mode.name === "rgb" || mode.values ? 0 : 1);
    gl.uniform1i(at.uSelected, selected + 1);
    gl.uniform4fv(at.uHeight, heightRow());
    gl.uniform1f(at.uCut, cut === null ? 1e30 : cut);
    gl.uniform4f(at.uEye, ...eyePosition(), hidesBehind ? 1 : 0);
    gl.uniform3fv(at.uExtent, scene.extent);
    gl.uniform1i(at.uPicking, isPicking ? 1 : 0);
    texture(0, palettes[mode.name === "score" ? "score" : "instances"], at.uPalette);
    gl.bindVertexArray(points);
    gl.drawArrays(gl.POINTS, 0, N);
    return view;
  }
  function heightRow() { // level height of a normalised position, relative to the middle of the cloud
    const up = level[2];
    return [...up.map((value, axis) => value * scene.extent[axis]), -dot(up, scene.half)];
  }
  function eyePosition() { // of the camera, in world axes from the lowest corner of the cloud
    const back = rotation()[2], eye = camera.target.map((value, axis) => value + camera.distance * back[axis]);
    return [0, 1, 2].map((axis) => level[0][axis] * eye[0] + level[1][axis] * eye[1] + level[2][axis] * eye[2] + scene.half[axis]);
  }
  function resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (target.width === width && target.height === height) return;
    Object.assign(target, { width, height });
    Object.assign(canvas, { width, height });
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    attach(target.color, gl.COLOR_ATTACHMENT0, gl.RGBA8);
    attach(target.depth, gl.DEPTH_ATTACHMENT, gl.DEPTH_COMPONENT24);
  }
  function attach(handle, place, format) {
    gl.bindTexture(gl.TEXTURE_2D, handle);
    const isDepth = place === gl.DEPTH_ATTACHMENT;
    gl.texImage2D(gl.TEXTURE_2D, 0, format, target.width, target.height, 0, isDepth ? gl.DEPTH_COMPONENT : gl.RGBA,
      isDepth ? gl.UNSIGNED_INT : gl.UNSIGNED_BYTE, null);
    nearest();
    gl.framebufferTexture2D(gl.FRAMEBUFFER, place, gl.TEXTURE_2D, handle, 0);
  }
  function paper() {
    const numbers = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).slice(0, 3);
    return numbers.map((value) => value / 255);
  }

  // ---- picking ----
  function pick(x, y) { // page pixels within the canvas; the number of the nearest drawn point, or -1
    resize();
    drawPoints(true);
    const ratio = canvas.width / canvas.clientWidth, reach = Math.round(4 * ratio), side = 2 * reach + 1;
    const column = Math.round(x * ratio), row = canvas.height - 1 - Math.round(y * ratio);
    const bytes = new Uint8Array(side * side * 4);
    gl.readPixels(column - reach, row - reach, side, side, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    const ids = new Uint32Array(bytes.buffer);
    let best = -1, bestDistance = Infinity;
    ids.forEach((id, place) => {
      const distance = (place % side - reach) ** 2 + (Math.floor(place / side) - reach) ** 2;
      if (id > 0 && distance < bestDistance) [best, bestDistance] = [id - 1, distance];
    });
    draw();
    return best;
  }
  function offset(point) { // world position relative to the middle of the cloud
    return [0, 1, 2].map((axis) => positions[3 * point + axis] / 65535 * scene.extent[axis] - scene.half[axis]);
  }

  // ---- instances ----
  function membership() {
    const free = new Uint8Array(N).fill(1);
    for (const one of instances) eachRun(one, (start, end) => free.fill(0, start, end));
    return free;
  }
  function eachRun(one, action) {
    for (let at = 0; at < one.runs.length; at += 2) action(one.runs[at], one.runs[at] + one.runs[at + 1]);
  }
  function relabel() {
    const none = visible[0] ? 0 : HIDDEN;
    for (let point = 0; point < N; point++) labels[point] = unassigned[point] ? none : HIDDEN;
    for (const k of paintOrder) if (visible[k + 1]) eachRun(instances[k], (start, end) => labels.fill(k + 1, start, end));
    gl.bindBuffer(gl.ARRAY_BUFFER, labelBuffer);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, labels);
    draw();
  }
  function select(k, point = -1) {
    selected = k;
    for (const row of element("list").children) row.toggleAttribute("aria-current", Number(row.dataset.index) === k && k >= 0);
    describe(k, point); // may take room from the list, so it comes before scrolling
    const row = k < 0 ? null : element("list").querySelector(`[data-index="${k}"]`);
    if (row) row.scrollIntoView({ block: "nearest" });
    draw();
  }
  function describe(k, point) {
    const box = element("picked");
    box.replaceChildren();
    const facts = [];
    if (k >= 0) {
      const one = instances[k];
      facts.push([capital(scene.noun), isObject ? nameOf(one) : one.id]);
      if (!isObject) facts.push(["Label", one.label === null ? "none" : one.label], ["Score", one.score === null ? "none" : one.score.toFixed(3)]);
      facts.push(["Points", one.total.toLocaleString("en")]);
    } else if (point >= 0 && instances.length) facts.push([capital(scene.noun), "none"]);
    if (point >= 0) {
      facts.push(...numbersAt(point));
      facts.push(["At", offset(point).map((value, axis) => (value + scene.middle[axis]).toFixed(2)).join(", ") + (isObject ? "" : " m")]);
    }
    if (!facts.length) return box.append(make("p", "quiet", hint()));
    const list = make("dl");
    for (const [term, text] of facts) list.append(make("dt", "", term), make("dd", "", String(text)));
    box.append(list);
  }
  function hint() {
    const wanted = [instances.length && scene.noun, ...values.map((one) => one.title.toLowerCase()), patches && "patch"].filter(Boolean);
    return `Click a point to see its ${wanted.join(", ").replace(/, ([^,]*)$/, " and $1") || "place"}.`;
  }
  function nameOf(one) { return one.label === null ? `${scene.noun} ${one.id}` : one.label; }
  function show(flags) { // flags: function of the index, -1 for "no instance"
    for (let k = -1; k < instances.length; k++) visible[k + 1] = flags(k) ? 1 : 0;
    for (const row of element("list").children) row.querySelector("input").checked = Boolean(visible[Number(row.dataset.index) + 1]);
    relabel();
  }
  function buildList() {
    const free = unassigned.reduce((sum, value) => sum + value, 0);
    const order = instances.map((_, k) => k).sort((a, b) => (instances[b].score ?? -1) - (instances[a].score ?? -1) || a - b);
    for (const k of order) element("list").append(buildRow(k, instances[k], instances[k].total));
    if (free) element("list").append(buildRow(-1, { id: "none", label: null, score: null, color: scene.noneColor }, free));
    element("instances").hidden = !instances.length;
    const by = isObject ? "name" : "id or label";
    element("list-title").textContent = capital(`${scene.noun}s`);
    element("name-column").textContent = isObject ? "name" : "id, label";
    element("score-column").textContent = isObject ? "" : "score";
    Object.assign(element("filter"), { placeholder: `Filter by ${by}`, ariaLabel: `Filter by ${by}` });
  }
  function buildRow(k, one, count) {
    const row = make("li"), name = make("div", "name"), box = make("input"), swatch = make("span", "swatch");
    const title = k < 0 || !isObject && one.label === null ? String(one.id)
      : isObject ? nameOf(one) : `${one.id}  ${one.label}`; // text nodes only: labels are not trusted
    const button = make("button", "", title);
    row.dataset.index = k;
    Object.assign(box, { type: "checkbox", checked: true });
    box.setAttribute("aria-label", `Show ${title}`);
    swatch.style.background = `rgb(${one.color.join(",")})`;
    Object.assign(button, { type: "button", title });
    box.addEventListener("change", () => { visible[k + 1] = box.checked ? 1 : 0; relabel(); });
    button.addEventListener("click", () => select(selected === k ? -1 : k));
    name.append(box, swatch, button);
    row.append(name, make("span", "", one.score === null ? "" : one.score.toFixed(2)), make("span", "", count.toLocaleString("en")));
    return row;
  }

  // ---- colours ----
  function buildValues() {
    const numbers = scene.values.length ? new Float32Array(unpack("values").buffer) : null; // (values, N)
    return scene.values.map((one, place) => ({ ...one, numbers: numbers.subarray(place * N, (place + 1) * N) }));
  }
  function numbersAt(point) { // rows of text about the scores of a point and its patch
    const patch = patches ? patches[point] : -1;
    const rows = values.map((one) => {
      const ofPatch = patch < 0 ? null : one.ofPatch[patch];
      return [one.title, shortNumber(one.numbers[point]) + (ofPatch === null ? "" : `, of its patch ${shortNumber(ofPatch)}`)];
    });
    if (patch >= 0) rows.push(["Patch", `rank ${scene.ranks[patch]} of ${scene.ranks.length}, 1 is the hardest`]);
    return rows;
  }
  function colorsOf({ numbers, low, high }) { // (N, 3), along the ramp
    const bytes = new Uint8Array(3 * N), ramp = scene.ramp;
    for (let point = 0; point < N; point++) {
      const share = high > low ? Math.min(1, Math.max(0, (numbers[point] - low) / (high - low))) : 0.5;
      bytes.set(ramp[Math.round(share * (ramp.length - 1))], 3 * point);
    }
    return bytes;
  }
  function setMode(next) {
    if (!next) return;
    mode = next;
    element(`mode-${next.name}`).checked = true;
    const numbers = next.values, isScore = next.name === "score";
    if (numbers || colors.length) {
      gl.bindBuffer(gl.ARRAY_BUFFER, colorBuffer);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, numbers ? numbers.colors ??= colorsOf(numbers) : colors);
    }
    element("legend").hidden = !isScore && !numbers;
    element("low").textContent = numbers ? `${numbers.ends[0]} ${shortNumber(numbers.low)}` : "0";
    element("high").textContent = numbers ? `${shortNumber(numbers.high)} ${numbers.ends[1]}` : "1";
    element("note").hidden = !numbers;
    element("note").textContent = numbers ? capital(numbers.note) : "";
    showKey();
    draw();
  }
  function showKey() { // what grey and pale mean, where there is any
    const hasNone = unassigned.includes(1), isScore = mode.name === "score";
    const none = isScore ? `no ${scene.noun}, or no score` : hasNone && instances.length ? `no ${scene.noun} (unlabelled)` : "";
    const pale = scene.hasPale && !isScore ? "pale colours: walls, floor" : "";
    element("key").hidden = mode.name === "rgb" || Boolean(mode.values) || !(none || pale);
    element("key-none").hidden = !none;
    element("key-text").textContent = [none, pale].filter(Boolean).join("; ");
  }
  function buildModes() {
    for (const one of modes) {
      const label = make("label"), radio = make("input");
      Object.assign(radio, { type: "radio", name: "mode", value: one.name, id: `mode-${one.name}` });
      radio.addEventListener("change", () => setMode(one));
      label.append(radio, make("span", "", one.title));
      element("modes").append(label);
    }
    element("modes").hidden = modes.length < 2;
  }
  function buildHelp() {
    const rows = [["Select", `click a point${instances.length ? " or a row" : ""}; Esc clears`]];
    if (instances.length) rows.push(["Isolate", `o shows the selected ${scene.noun} only, a all, n none`]);
    if (modes.length > 1) rows.push(["Colour", modes.map((one, place) => `${place + 1} ${one.title}`).join(", ")]);
    if (scene.frames.length) rows.push(["Frames", "click one to enlarge it; arrow keys then page"]);
    for (const [term, text] of rows) element("help-list").append(make("dt", "", term), make("dd", "", text));
    const notes = values.map((one) => `${one.title}: ${one.note}`);
    if (instances.length && !isObject) notes.push("Where masks overlap, the smallest one that is switched on gives the colour.");
    if (instances.length && unassigned.includes(1)) notes.push(`Grey points belong to no ${scene.noun}.`);
    if (scene.hasPale) notes.push("Walls, floors and other large planes have pale colours.");
    if (isObject) notes.push("Between the points the surface is filled in for looking: each place has the colour of the point nearest to it.");
    element("help-note").textContent = notes.join(" ");
  }

  // ---- input ----
  const fingers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    if (!fingers.size) moved = 0;
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (fingers.size > 1) moved = 99; // a pinch is not a click
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.offsetX - before[0], event.offsetY - before[1]];
    moved += Math.abs(dx) + Math.abs(dy);
    if (fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const span = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
      move(dx / 2, dy / 2);
      zoom(Math.max(span(before), 1) / Math.max(span([event.offsetX, event.offsetY]), 1));
    } else if (event.buttons & 2 || event.shiftKey) move(dx, dy);
    else turn(dx * 0.006, dy * 0.006);
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
  });
  canvas.addEventListener("pointerup", (event) => {
    const isClick = fingers.delete(event.pointerId) && moved < 6 && event.button === 0;
    if (!isClick) return;
    const point = pick(event.offsetX, event.offsetY);
    select(point >= 0 && labels[point] > 0 && labels[point] !== HIDDEN ? labels[point] - 1 : -1, point);
  });
  canvas.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("dblclick", (event) => {
    const point = pick(event.offsetX, event.offsetY);
    if (point < 0) return;
    camera.target = level.map((row) => dot(row, offset(point)));
    camera.distance = Math.min(camera.distance, 0.6 * home().distance);
    draw();
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(Math.max(-100, Math.min(100, event.deltaY * (event.deltaMode ? 30 : 1))) * 0.0016));
  }, { passive: false });

  const keys = {
    ...Object.fromEntries(modes.map((one, place) => [String(place + 1), () => setMode(one)])),
    "a": () => show(() => true), "n": () => show(() => false), "o": () => { if (selected >= 0) show((k) => k === selected); },
    "r": () => { camera = home(); draw(); },
    "t": () => { camera = { ...home(), yaw: -Math.PI / 2, pitch: 1.5706 }; draw(); },
    "+": () => zoom(0.85), "=": () => zoom(0.85), "-": () => zoom(1 / 0.85),
    "Escape": () => select(-1), "?": () => element("help").showModal(),
  };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest("input:not([type=checkbox]):not([type=radio]), dialog");
    if (field || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.target === canvas ? arrows[event.key] : null;
    if (step) event.shiftKey ? move(-40 * step[0], -40 * step[1]) : turn(0.1 * step[0], 0.1 * step[1]);
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
  element("all").addEventListener("click", keys.a);
  element("none").addEventListener("click", keys.n);
  element("help-button").addEventListener("click", keys["?"]);
  element("size").addEventListener("input", (event) => { pointScale = Number(event.target.value); draw(); });
  element("cut").addEventListener("input", (event) => {
    const share = Number(event.target.value);
    cut = share >= 1 ? null : heights[0] + share * (heights[1] - heights[0]);
    draw();
  });
  element("behind").addEventListener("change", (event) => { hidesBehind = event.target.checked; draw(); });
  element("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const row of element("list").children) row.hidden = !row.querySelector("button").textContent.toLowerCase().includes(wanted);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas);
  canvas.addEventListener("webglcontextlost", () => { element("failure").hidden = false; element("failure").textContent = "The graphics driver stopped. Reload the page."; });

  // ---- small things ----
  function element(id) { return document.getElementById(id); }
  function make(tag, kind = "", text = "") {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text) node.textContent = text;
    return node;
  }
  function capital(text) { return text[0].toUpperCase() + text.slice(1); }
  function shortNumber(value) { return value === 0 ? "0" : value.toPrecision(3); }
  function dot(a, b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
  function unpack(id) {
    const text = atob(element(id).textContent), bytes = new Uint8Array(text.length);
    for (let place = 0; place < text.length; place++) bytes[place] = text.charCodeAt(place);
    element(id).remove();
    return bytes;
  }
  function attribute(place, data, width, type, isInteger = false) {
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, isInteger ? gl.DYNAMIC_DRAW : gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    if (isInteger) gl.vertexAttribIPointer(place, width, type, 0, 0);
    else gl.vertexAttribPointer(place, width, type, true, 0, 0);
    return buffer;
  }
  function palette(colorOf) {
    const rows = Math.ceil((instances.length + 1) / 256), bytes = new Uint8Array(rows * 256 * 4), handle = gl.createTexture();
    [scene.noneColor, ...instances.map(colorOf)].forEach((color, k) => bytes.set([...color, 255], 4 * k));
    gl.bindTexture(gl.TEXTURE_2D, handle);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, rows, 0, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    nearest();
    return handle;
  }
  function nearest() {
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  }
  function texture(unit, handle, uniform) {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, handle);
    gl.uniform1i(uniform, unit);
  }
  function paintRamp() {
    const context = element("ramp").getContext("2d"), ramp = scene.ramp;
    ramp.forEach((color, place) => { context.fillStyle = `rgb(${color.join(",")})`; context.fillRect(place * 128 / ramp.length, 0, 128 / ramp.length + 1, 1); });
  }

  element("summary").textContent = scene.summary.join("\n");
  if (cut !== null) element("cut").value = (cut - heights[0]) / (heights[1] - heights[0]);
  element("inside").hidden = !normals.length;
  paintRamp();
  buildList();
  buildStrip(scene, element, make);
  element("key-none").style.background = `rgb(${scene.noneColor.join(",")})`;
  element("origin").hidden = !scene.origin.length;
  for (const line of scene.origin) element("origin").querySelector("ul").append(make("li", "", line));
  buildModes();
  buildHelp();
  describe(-1, -1);
  if (modes.length) setMode(mode);
  else element("key").hidden = true;
  relabel();
})();
