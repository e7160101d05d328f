/* The document: chart, legend, tooltip, table. State changes go through `redraw`. */
const data = JSON.parse(document.getElementById("data").textContent);
const model = makeModel(data);
const MIB = 2 ** 20, MOST_ROWS = 200, PIXELS_A_BIN = 2;
const at = id => document.getElementById(id);
const state = {
  view: data.views.length - 1, by: "module", from: 0, to: 0, query: "", area: null, pinned: null,
  sort: "bytes", down: true,
};
/* Milliseconds of the drawings, the first since the page was opened; for tests and benchmarks. */
const timings = window.memjaxTimings = { first: null, zoom: [], filter: [] };
let plot = null, areas = [], drawn = null, matches = null, waiting = null;

const view = () => data.views[state.view];
const length = () => view().bytes.length;

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/* Colours. Areas of phases have the phases' own; the second round of colours is hatched. */
function fillOf(area) {
  if (area.name === "not matching") return "#e4e7ea";
  if (area.name === "others") return "#b6bcc2";
  if (area.name === "workspace") return hatched("#8c959f");
  if (state.by === "phase" && data.phases[area.name]) return data.phases[area.name];
  const color = data.areas[area.rank % data.areas.length];
  return area.rank < data.areas.length ? color : hatched(color);
}

const patterns = new Map();
function hatched(color) {
  if (!patterns.has(color)) {
    const tile = element("canvas", { width: 8, height: 8 });
    const pen = tile.getContext("2d");
    pen.fillStyle = color;
    pen.fillRect(0, 0, 8, 8);
    pen.strokeStyle = "#fff";
    pen.lineWidth = 1.5;
    for (const shift of [-8, 0, 8]) {
      pen.moveTo(shift, 8);
      pen.lineTo(shift + 8, 0);
    }
    pen.stroke();
    patterns.set(color, pen.createPattern(tile, "repeat"));
  }
  return patterns.get(color);
}

/* The chart: uPlot draws cumulated series from the highest to the lowest, each filled. */
function makePlot() {
  if (plot) plot.destroy();
  const width = at("chart").clientWidth;
  const series = [...areas].reverse().map(area => ({
    label: area.name, fill: () => fillOf(area), stroke: "#ffffff90", width: 0.5,
    paths: uPlot.paths.stepped({ align: 1 }), points: { show: false },
  }));
  plot = new uPlot({
    width, height: 380,
    scales: { x: { time: false, auto: false, range: () => [state.from, state.to] }, y: { range: (u, low, high) => [0, top()] } },
    axes: [{ label: "position in the schedule" }, { label: "MiB held", size: 64 }],
    series: [{}, ...series],
    legend: { show: false },
    cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false }, bind: { dblclick: () => () => zoomTo(0, length()) } },
    hooks: { setSelect: [selected], setCursor: [hover], draw: [drawLines, finished] },
  }, chartData(), at("chart"));
  plot.over.addEventListener("mouseleave", () => { at("tip").hidden = true; });
  plot.over.addEventListener("mousedown", event => { plot.pressed = event.clientX; });
  plot.over.addEventListener("click", clicked);
}

/* One scale for before and after, so that the toggle compares. */
function top() {
  const highest = Math.max(...data.views.map(v => v.bytes[model.peakOf(v)]), data.budget || 0);
  return 1.06 * highest / MIB;
}

function chartData() {
  const most = Math.max(50, Math.floor(at("chart").clientWidth / PIXELS_A_BIN));
  drawn = model.bins(view(), state.from, state.to, most);
  drawn.sums = [];
  let below = new Float64Array(drawn.peaks.length);
  for (const area of areas) {
    below = below.map((sum, i) => sum + area.bytes[drawn.peaks[i]] / MIB);
    drawn.sums.push(below);
  }
  const closed = sums => [...sums, sums[sums.length - 1] ?? 0];
  return [[...drawn.starts, state.to], ...drawn.sums.map(closed).reverse()];
}

function drawLines(u) {
  const line = (from, to, dash) => {
    u.ctx.beginPath();
    u.ctx.setLineDash(dash);
    u.ctx.moveTo(...from);
    u.ctx.lineTo(...to);
    u.ctx.stroke();
  };
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  u.ctx.strokeStyle = u.ctx.fillStyle = "#000";
  u.ctx.lineWidth = 1.5 * devicePixelRatio;
  if (data.budget !== null) {
    const y = u.valToPos(data.budget / MIB, "y", true);
    line([left, y], [left + width, y], [9, 5]);
    u.ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    u.ctx.textAlign = "right";
    u.ctx.textBaseline = "bottom";
    u.ctx.fillText(`budget ${formatBytes(data.budget)}`, left + width - 6, y - 3 * devicePixelRatio);
  }
  if (state.pinned !== null) {
    const x = u.valToPos(state.pinned + 0.5, "x", true);
    if (x >= left && x <= left + width) line([x, top], [x, top + height], [3, 3]);
  }
  u.ctx.restore();
}

function finished() {
  if (!waiting) return;
  const spent = performance.now() - waiting.since;
  if (waiting.what === "first") timings.first = spent;
  else timings[waiting.what].push(spent);
  waiting = null;
}

/* What changes: nothing but the range (zoom), or the areas as well. */
function redraw(what) {
  waiting = { what, since: what === "first" ? 0 : performance.now() };
  if (what === "zoom") {
    plot.setData(chartData());
  } else {
    matches = model.matching(state.query, state.by, state.area);
    areas = model.areas(view(), state.by, matches);
    makePlot();
  }
  fillLegend();
  fillTable();
}

function zoomTo(from, to) {
  const least = Math.min(8, length());
  const width = Math.min(Math.max(Math.round(to - from), least), length());
  state.from = Math.max(0, Math.min(Math.round(from), length() - width));
  state.to = state.from + width;
  redraw("zoom");
}

function selected(u) {
  if (u.select.width < 3) return;
  const from = u.posToVal(u.select.left, "x"), to = u.posToVal(u.select.left + u.select.width, "x");
  u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  zoomTo(from, to);
}

function binAt(u) {
  const x = u.posToVal(u.cursor.left, "x");
  let low = 0, high = drawn.starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (drawn.starts[middle] <= x) low = middle; else high = middle - 1;
  }
  return low;
}

function clicked(event) {
  if (Math.abs(event.clientX - plot.pressed) > 3) return;
  state.pinned = drawn.peaks[binAt(plot)];
  plot.redraw(false);
  fillTable();
}

function hover(u) {
  const tip = at("tip");
  if (u.cursor.left === undefined || u.cursor.left < 0 || !drawn.peaks.length) {
    tip.hidden = true;
    return;
  }
  const bin = binAt(u), position = drawn.peaks[bin];
  const height = u.posToVal(u.cursor.top, "y");
  const area = areas[drawn.sums.findIndex(sums => height <= sums[bin])];
  tip.replaceChildren(...aboutPosition(position), ...aboutArea(area, position));
  tip.hidden = false;
  const box = u.over.getBoundingClientRect(), x = box.left + u.cursor.left, y = box.top + u.cursor.top;
  tip.style.left = `${x + tip.offsetWidth + 24 > innerWidth ? x - tip.offsetWidth - 14 : x + 14}px`;
  tip.style.top = `${Math.min(y + 14, innerHeight - tip.offsetHeight - 8)}px`;
}

const row = (...parts) => element("div", {}, ...parts);
function aboutPosition(position) {
  const written = model.writtenAt(view(), position);
  const phase = data.texts[view().phase[position]] || "";
  const rows = [row(element("b", {}, formatBytes(view().bytes[position])), ` held at position ${position}, ${phase}`)];
  if (written >= 0) rows.push(row(`runs ${model.text("what", written)}, ${model.text("line", written)}`));
  return rows;
}

function aboutArea(area, position) {
  if (!area) return [];
  const rows = [element("hr"), row(element("b", {}, formatBytes(area.bytes[position])), ` ${area.name}`)];
  const largest = model.largestAt(view(), position, value => areaOf(value) === area.name);
  if (largest >= 0) {
    rows.push(row(`largest: ${formatBytes(data.values.bytes[largest])} ${model.text("what", largest)}`));
    rows.push(row(model.text("line", largest)));
    rows.push(row(`${model.text("module", largest)}; ${model.text("phase", largest)}; ${model.text("decision", largest)}`));
  }
  return rows;
}

function areaOf(value) {
  if (!matches[value]) return "not matching";
  const name = model.label(state.by, value);
  return areas.some(area => area.name === name) ? name : "others";
}

/* Legend: what each area holds at the highest position in sight. */
function fillLegend() {
  let peak = 0;
  for (const position of drawn.peaks) if (view().bytes[position] > view().bytes[peak] || peak < state.from || peak >= state.to) peak = position;
  const items = [...areas].reverse().map(area => {
    const swatch = element("canvas", { width: 12, height: 12 });
    const pen = swatch.getContext("2d");
    pen.fillStyle = fillOf(area);
    pen.fillRect(0, 0, 12, 12);
    const button = element("button", { title: area.name, onclick: () => chooseArea(area) }, swatch,
      element("span", { className: "name" }, element("bdi", {}, area.name)),
      element("span", { className: "size" }, formatBytes(area.bytes[peak])));
    button.setAttribute("aria-pressed", String(state.area === area.name));
    return element("li", {}, button);
  });
  at("legend").replaceChildren(...items);
}

function chooseArea(area) {
  if (area.rank < 0 && area.name !== "not matching") return;
  state.area = state.area === area.name || area.rank < 0 ? null : area.name;
  redraw("filter");
}

/* Table: the matching values in sight, or those held at the position that was clicked. */
function fillTable() {
  const pinned = state.pinned;
  const [from, to] = pinned === null ? [state.from, state.to] : [pinned, pinned + 1];
  const found = model.valuesIn(view(), from, to, matches);
  const total = found.reduce((sum, value) => sum + data.values.bytes[value], 0);
  const key = state.sort === "bytes" ? value => data.values.bytes[value] : value => model.text(state.sort, value);
  const sign = state.down ? -1 : 1;
  found.sort((a, b) => key(a) < key(b) ? -sign : key(a) > key(b) ? sign : a - b);
  at("caption").textContent = pinned === null
    ? `${found.length.toLocaleString("en")} values in positions ${from} to ${to}`
    : `${found.length.toLocaleString("en")} values held at position ${pinned}: ${formatBytes(total)}`;
  at("rows").replaceChildren(...found.slice(0, MOST_ROWS).map(tableRow));
  at("more").textContent = found.length > MOST_ROWS ? `and ${(found.length - MOST_ROWS).toLocaleString("en")} more` : "";
  for (const head of document.querySelectorAll("#heads th"))
    head.setAttribute("aria-sort", head.dataset.sort !== state.sort ? "none" : state.down ? "descending" : "ascending");
}

function tableRow(value) {
  const cells = ["what", "line", "module", "phase", "decision"].map(column => {
    const text = model.text(column, value);
    return element("td", { title: text }, text);
  });
  return element("tr", {}, element("td", { className: "number" }, formatBytes(data.values.bytes[value])), ...cells);
}

/* XLA's own peak, buffers of one origin added up. */
function fillXla() {
  const { bytes, what, line, module, phase } = data.xla;
  if (!bytes.length) return;
  const groups = new Map();
  bytes.forEach((size, i) => {
    const key = [what[i], line[i], module[i], phase[i]].join();
    const group = groups.get(key) || { size: 0, count: 0, i };
    groups.set(key, Object.assign(group, { size: group.size + size, count: group.count + 1 }));
  });
  const total = bytes.reduce((sum, size) => sum + size, 0);
  at("xla").hidden = false;
  at("xla").firstElementChild.textContent = `held at XLA's own peak: ${formatBytes(total)}`;
  const ranked = [...groups.values()].sort((a, b) => b.size - a.size).slice(0, MOST_ROWS);
  at("xla-rows").replaceChildren(...ranked.map(({ size, count, i }) => {
    const cells = [what, line, module, phase].map(column => data.texts[column[i]]);
    return element("tr", {}, element("td", { className: "number" }, formatBytes(size)),
      ...[...cells, String(count)].map(text => element("td", { title: text }, text)));
  }));
}

function showView(index) {
  const share = [state.from / length(), state.to / length()];
  const whole = state.from === 0 && state.to === length();
  state.view = index;
  state.pinned = null;
  [state.from, state.to] = whole ? [0, length()] : share.map(part => Math.round(part * length()));
  if (state.to <= state.from) [state.from, state.to] = [0, length()];
  for (const [i, button] of [...at("views").children].entries()) button.setAttribute("aria-pressed", String(i === index));
  redraw("filter");
}

function start() {
  at("summary").append(...data.summary.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))));
  at("views").append(...data.views.map((v, index) => element("button", { onclick: () => showView(index) }, v.name)));
  [...at("views").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === state.view)));
  at("by").onchange = event => { state.by = event.target.value; state.area = null; redraw("filter"); };
  const span = () => state.to - state.from;
  at("in").onclick = () => zoomTo(state.from + span() / 4, state.to - span() / 4);
  at("out").onclick = () => zoomTo(state.from - span() / 2, state.to + span() / 2);
  at("left").onclick = () => zoomTo(state.from - span() / 2, state.to - span() / 2);
  at("right").onclick = () => zoomTo(state.from + span() / 2, state.to + span() / 2);
  at("all").onclick = () => { state.pinned = null; zoomTo(0, length()); };
  at("peak").onclick = () => {
    const peak = state.pinned = model.peakOf(view()), half = Math.max(20, length() / 100);
    zoomTo(peak - half, peak + half);
  };
  let typing;
  at("filter").oninput = event => {
    clearTimeout(typing);
    typing = setTimeout(() => { state.query = event.target.value; redraw("filter"); }, 100);
  };
  at("clear").onclick = () => { at("filter").value = state.query = ""; state.area = state.pinned = null; redraw("filter"); };
  for (const head of document.querySelectorAll("#heads th")) head.onclick = () => {
    state.down = state.sort === head.dataset.sort ? !state.down : head.dataset.sort === "bytes";
    state.sort = head.dataset.sort;
    fillTable();
  };
  let resizing;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => redraw("filter"), 150); });
  state.to = length();
  fillXla();
  redraw("first");
}

start();
