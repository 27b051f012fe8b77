// The chart of offsets. Up to FEW nodes have a line and a band each; more are drawn as what they span, so that the work does not grow
// with their number.

const FEW = 12;
const chart = { canvas: document.getElementById("chart"), cursor: null, marked: new Set(), known: [], colours: {} };

// Distinct on both grounds, and for most who see few colours.
const HUES = [211, 28, 145, 330, 52, 268, 180, 8, 95, 300, 235, 70];
// A node has one colour all over the page: by its place among all that are known.
const hueOf = (id) => HUES[Math.max(0, chart.known.indexOf(id)) % HUES.length];
const colourOf = (id) => `hsl(${hueOf(id)} ${chart.colours.isDark ? "75% 65%" : "70% 38%"})`;

function readColours() {
  const probe = document.createElement("span");
  document.body.append(probe);
  for (const name of ["text", "soft", "line", "panel", "band", "accent", "bad"]) {
    probe.style.color = `var(--${name})`;
    chart.colours[name] = getComputedStyle(probe).color;
  }
  chart.colours.isDark = matchMedia("(prefers-color-scheme: dark)").matches
    ? document.documentElement.dataset.theme !== "light" : document.documentElement.dataset.theme === "dark";
  probe.remove();
}

// What there is to draw: `{ from, to, samples, lines, isMany, isOwn }`; lines: id -> [[at, offset, bound]...].
function scene(domain, seconds, until) {
  const from = windowOf(domain, seconds, until);
  const within = (list) => list.filter((sample) => sample.at >= from && sample.at <= until);
  const samples = within(model.samples.get(domain) ?? []);
  if (samples.length === 0) return ownScene(domain, from, until, within);
  const ids = [...new Set(samples[samples.length - 1].nodes)].sort((a, b) => a - b);
  const isMany = ids.length > FEW;
  const { leftOut } = samples[samples.length - 1];
  const out = [...leftOut].slice(0, FEW);
  const wanted = isMany ? ids.filter((id) => chart.marked.has(id) || out.includes(id)) : [...new Set(samples.flatMap((sample) => sample.nodes))].sort((a, b) => a - b);
  const lines = new Map(wanted.map((id) => [id, []]));
  if (lines.size > 0) {
    for (const sample of samples) {
      sample.nodes.forEach((id, i) => lines.get(id)?.push([sample.at, sample.offsets[i], sample.bounds[i]]));
    }
  }
  return { from, to: until, samples, lines, isMany };
}

// Behind a socket of a slave nobody knows its offset: its clock lies within its bound around zero.
function ownScene(domain, from, until, within) {
  const lines = new Map();
  for (const node of inDomain(domain).slice(0, FEW)) {
    const points = within(model.bounds.get(node.socket) ?? []).filter((sample) => sample.bound !== null);
    lines.set(node.status.node_id, points.map((sample) => [sample.at, 0, sample.bound]));
  }
  return { from, to: until, samples: [], lines, isMany: false, isOwn: true };
}

// Half the height, in ns: nineteen of twenty instants of the clocks that are averaged, and of those that are marked, fit. A start that
// was seconds off, or a clock that is, does not flatten the rest.
function scaleOf(scene, withBounds) {
  const extents = scene.samples.map((sample) => (withBounds ? Math.max(-sample.lowest, sample.highest) : Math.max(-sample.low, sample.high)));
  const lines = [...scene.lines].filter(([id]) => scene.isOwn || chart.marked.has(id));
  extents.push(...lines.flatMap(([, line]) => line.map(([, offset, bound]) => Math.abs(offset) + (withBounds ? bound : 0))));
  extents.sort((a, b) => a - b);
  const fitting = extents[Math.floor(extents.length * 0.95)] ?? 0;
  return Math.max(fitting * 1.15, 10);
}

function draw(scene, withBounds, masters) {
  const { canvas, colours } = chart;
  const ratio = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  const plot = { left: 74, right: width - 8, top: 8, bottom: height - 24 };
  const scale = scaleOf(scene, withBounds);
  const x = (at) => plot.left + ((at - scene.from) / (scene.to - scene.from)) * (plot.right - plot.left);
  const y = (nanos) => plot.bottom - ((nanos + scale) / (2 * scale)) * (plot.bottom - plot.top);
  Object.assign(chart, { x, scale });
  grid(pen, plot, scale, scene, x, y);
  pen.save();
  pen.beginPath();
  pen.rect(plot.left, plot.top, plot.right - plot.left, plot.bottom - plot.top);
  pen.clip();
  masters.filter((one) => one.from_us > scene.from).forEach((one) => upright(pen, plot, x(one.from_us), colours.bad, [4, 3]));
  if (scene.isMany) {
    if (withBounds) area(pen, scene.samples.map((sample) => [x(sample.at), y(sample.highest), y(sample.lowest)]), colours.band, 0.13);
    area(pen, scene.samples.map((sample) => [x(sample.at), y(sample.high), y(sample.low)]), colours.band, 0.35);
    path(pen, scene.samples.map((sample) => [x(sample.at), y(sample.median)]), colours.band, 1.5);
  }
  for (const [id, line] of scene.lines) {
    const colour = colourOf(id), strong = chart.marked.size === 0 || chart.marked.has(id), isMany = scene.isMany && !chart.marked.has(id);
    if (withBounds && !isMany) {
      area(pen, line.map(([at, offset, bound]) => [x(at), y(offset + bound), y(offset - bound)]), colour, chart.marked.has(id) ? 0.22 : 0.06);
    }
    path(pen, line.map(([at, offset]) => [x(at), y(offset)]), colour, strong ? 1.8 : 0.8);
  }
  if (chart.cursor !== null) upright(pen, plot, x(chart.cursor), colours.text, []);
  pen.restore();
}

function grid(pen, plot, scale, scene, x, y) {
  const { colours } = chart;
  pen.lineWidth = 1;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  const step = roundStep(scale / 2.5);
  for (let nanos = -Math.floor(scale / step) * step; nanos <= scale; nanos += step) {
    pen.strokeStyle = Math.abs(nanos) < step / 2 ? colours.soft : colours.line;
    level(pen, plot, y(nanos));
    pen.fillStyle = colours.soft;
    pen.fillText(span(Math.abs(nanos) < step / 2 ? 0 : nanos, true), plot.left - 8, y(nanos));
  }
  pen.textBaseline = "alphabetic";
  const count = plot.right - plot.left > 500 ? 5 : 2;
  for (let i = 0; i <= count; i++) {
    const at = scene.from + ((scene.to - scene.from) * i) / count;
    pen.textAlign = i === 0 ? "left" : i === count ? "right" : "center";
    pen.fillText(clockTime(at), x(at), plot.bottom + 17);
  }
}

function roundStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.99);
}

function level(pen, plot, at) {
  pen.beginPath();
  pen.moveTo(plot.left, Math.round(at) + 0.5);
  pen.lineTo(plot.right, Math.round(at) + 0.5);
  pen.stroke();
}

function upright(pen, plot, at, colour, dashes) {
  pen.strokeStyle = colour;
  pen.setLineDash(dashes);
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(Math.round(at) + 0.5, plot.top);
  pen.lineTo(Math.round(at) + 0.5, plot.bottom);
  pen.stroke();
  pen.setLineDash([]);
}

function path(pen, points, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  points.forEach(([px, py], i) => (i === 0 || isGap(points, i) ? pen.moveTo(px, py) : pen.lineTo(px, py)));
  pen.stroke();
}

function area(pen, points, colour, opacity) {
  pen.fillStyle = colour;
  pen.globalAlpha = opacity;
  let first = 0;
  for (let i = 1; i <= points.length; i++) {
    if (i < points.length && !isGap(points, i)) continue;
    pen.beginPath();
    for (let j = first; j < i; j++) pen.lineTo(points[j][0], points[j][1]);
    for (let j = i - 1; j >= first; j--) pen.lineTo(points[j][0], points[j][2]);
    pen.fill();
    first = i;
  }
  pen.globalAlpha = 1;
}

// Nothing was seen for a while: no line is drawn where nobody looked. Some ten looks.
const isGap = (points, i) => points[i][0] - points[i - 1][0] > Math.max(chart.x(10 * MICROS) - chart.x(0), 3);
