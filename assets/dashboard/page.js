// The page itself: asks once a second, shows what is new, and says for how long there was no answer.

const PAUSE_MS = 1000;
const PATIENCE_MS = 4000;
// An answer that is this late is worth a word.
const LATE_MS = 3000;
const PAGE_ROWS = 100;
const NEWS_SHOWN = 30;

const $ = (id) => document.getElementById(id);
const state = { domain: null, sort: "trouble", down: true, page: 0, lastOk: null, paused: null, failed: false };

const COLUMNS = [
  ["id", "Node", (row) => row.id], ["address", "Address", (row) => row.address], ["role", "Role", (row) => row.role],
  ["offset", "Offset", (row) => span(row.offset, true)], ["bound", "± at most", (row) => span(row.bound)],
  ["delay", "Delay", (row) => span(row.delay)], ["skew", "Skew", (row) => ppm(row.skew)],
  ["heard", "Heard", (row) => (row.heard === null ? "–" : `${span(row.heard * 1e6)} ago`)], ["trouble", "State", (row) => row.state],
];
const TEXTS = ["address", "role", "trouble"];

function write(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

function make(name, text, classes) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (classes) element.className = classes;
  return element;
}

async function ask() {
  try {
    for (;;) {
      const after = model.upto === null ? "" : `?after=${model.upto}`;
      const response = await fetch(`/api/nodes${after}`, { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const answer = await response.json();
      // Another exporter counts anew: what is asked for by the old count is not what is missing.
      const isOther = model.exporter !== null && answer.exporter !== model.exporter;
      if (isOther && after) {
        model.upto = null;
        continue;
      }
      const isFirst = model.exporter !== answer.exporter;
      const news = take(answer);
      state.lastOk = performance.now();
      tell(isFirst ? model.events : news, isFirst);
      if (!answer.has_more) break;
      show();
      await new Promise((done) => setTimeout(done, 0));
    }
    state.failed = false;
  } catch {
    state.failed = true;
  }
  show();
  setTimeout(ask, PAUSE_MS);
}

function show() {
  alerts();
  if (model.exporter === null) return;
  const known = domains();
  if (!known.includes(state.domain)) state.domain = known[0] ?? null;
  views(known);
  chart.known = [...new Set([...rows(state.domain).map((row) => row.id), ...masterships(state.domain).map((one) => one.master)])].sort((a, b) => a - b);
  verdict();
  tiles();
  table();
  timeline();
  if (state.paused === null) picture();
  write($("version"), `berkeleyd ${model.version}.`);
}

// How long ago the last answer was, in ms.
const age = () => (state.lastOk === null ? performance.now() : performance.now() - state.lastOk);

// A single answer that was lost is no news.
const isSilent = () => (state.failed && age() > 2 * PAUSE_MS) || age() > LATE_MS;

// Each alert is told once: what counts the seconds is silent.
function alerts() {
  const wanted = [];
  const isDead = isSilent();
  document.documentElement.classList.toggle("stale", isDead && state.lastOk !== null);
  if (isDead) {
    const what = state.lastOk === null ? "" : " What you see is how it was then.";
    wanted.push(["exporter", "The exporter does not answer", age() * 1000, `.${what} Is it stopped? Start it again: berkeleyd exporter --listen ${location.host}`]);
  } else {
    for (const node of model.nodes.filter((node) => node.silence)) {
      wanted.push([node.socket, `No node answers at ${node.socket}`, model.now - node.silence.since_us, `: ${node.silence.reason}`]);
    }
  }
  const shown = wanted.slice(0, 5);
  for (const old of [...$("alerts").children]) if (!shown.some(([key]) => key === old.dataset.key)) old.remove();
  for (const [key, what, micros, rest] of shown) {
    let alert = [...$("alerts").children].find((one) => one.dataset.key === key);
    if (!alert) {
      alert = make("p", undefined, "alert");
      alert.dataset.key = key;
      const counter = make("span");
      counter.setAttribute("aria-live", "off");
      alert.append(make("b", what), counter, make("span"));
      $("alerts").append(alert);
    }
    write(alert.children[1], ` for ${lasting(micros)}`);
    write(alert.children[2], rest);
  }
  const prefix = isDead ? "no answer – " : wanted.length > 0 ? "! " : "";
  document.title = `${prefix}berkeleyd`;
}

function views(known) {
  $("view-label").hidden = known.length < 2;
  if ([...$("view").options].map((option) => option.value).join() !== known.join()) {
    $("view").replaceChildren(...known.map((domain) => new Option(domain, domain)));
    $("view").value = state.domain;
  }
}

function verdict() {
  const nodes = answering(state.domain), unsure = nodes.filter((node) => !node.status.synchronised);
  const masters = nodes.filter((node) => node.status.role === "master");
  const out = (masterOf(state.domain)?.status.peers ?? []).filter((peer) => !peer.counted).length;
  const [text, gravity] = isSilent() ? ["Not known: the exporter does not answer", "bad"]
    : nodes.length === 0 ? ["No node answers", "bad"]
    : unsure.length > 0 ? [`${unsure.length === 1 ? `Node ${unsure[0].status.node_id} is` : `${unsure.length} nodes are`} not synchronised`, "bad"]
    : masters.length > 1 ? [`${masters.length} masters`, "bad"]
    : nodes.every((node) => node.status.master_id === null) ? ["No master is heard", "bad"]
    : out > 0 ? [`Synchronised; ${out} ${out === 1 ? "clock is" : "clocks are"} left out`, "doubt"]
    : ["Synchronised", "good"];
  write($("verdict"), text);
  $("verdict").className = gravity;
}

function tiles() {
  const nodes = answering(state.domain), master = masterOf(state.domain);
  const one = master ?? nodes[0];
  const status = one?.status;
  const reign = masterships(state.domain).filter((each) => each.goesOn).pop();
  const bounds = nodes.map((node) => known(node.status.error_bound_ns));
  const worst = bounds.includes(null) ? null : Math.max(...bounds);
  const peers = master?.status.peers ?? [];
  const counted = peers.filter((peer) => peer.counted).length + (master ? 1 : 0);
  const farthest = peers.reduce((most, peer) => (Math.abs(peer.offset_ns) > Math.abs(most) ? peer.offset_ns : most), 0);
  const wanted = [
    ["Master", status?.master_id ?? "none", reign ? `term ${reign.term}, for ${lasting(model.now - reign.from_us)}` : "nobody leads"],
    ["Error bound", nodes.length && worst !== null && worst >= 0 ? `± ${span(worst)}` : "none", nodes.length > 1 ? `the largest of ${nodes.length} nodes here` : "of the node here"],
    master ? ["Largest offset", span(farthest, true), "of a slave from the master"]
      : ["Last correction", span(status?.last_correction_ns, true), status ? `rate ${ppm(status.skew_ppb)}` : ""],
    master ? ["Clocks averaged", `${counted} of ${peers.length + 1}`, peers.length + 1 > counted ? "the others are left out" : "all of them"]
      : ["Role here", status?.role ?? "none", status ? `node ${status.node_id}` : ""],
    ["Frames", status ? (status.keys ? "authenticated" : "not authenticated") : "–", status?.keys ? `keys ${status.keys.join(", ")}` : "whoever reaches the network can move clocks"],
  ];
  const list = $("tiles");
  if (list.children.length === 0) {
    list.append(...wanted.map(() => {
      const tile = make("div"), value = make("dd");
      value.append(make("span"), make("small"));
      tile.append(make("dt"), value);
      return tile;
    }));
  }
  wanted.forEach(([name, value, more], i) => {
    const [term, description] = list.children[i].children;
    write(term, name);
    write(description.children[0], value);
    write(description.children[1], more);
  });
}

function table() {
  const needle = $("find").value.trim().toLowerCase();
  const all = rows(state.domain);
  const found = needle ? all.filter((row) => `${row.id} ${row.address} ${row.role} ${row.state}`.toLowerCase().includes(needle)) : all;
  const sign = state.down ? -1 : 1;
  found.sort((a, b) => sign * compare(key(a), key(b)) || a.id - b.id);
  const last = Math.max(0, Math.ceil(found.length / PAGE_ROWS) - 1);
  state.page = Math.min(state.page, last);
  const shown = found.slice(state.page * PAGE_ROWS, (state.page + 1) * PAGE_ROWS);
  const body = $("rows");
  while (body.children.length > shown.length) body.lastChild.remove();
  while (body.children.length < shown.length) body.append(emptyRow());
  shown.forEach((row, i) => fill(body.children[i], row));
  const troubled = all.filter((row) => row.trouble > 1).length;
  write($("caption"), `${all.length} ${all.length === 1 ? "node" : "nodes"}${needle ? `, ${found.length} found` : ""}${troubled ? `, ${troubled} in trouble` : ""}. Offsets are slave minus master.`);
  $("pager").hidden = last === 0;
  write($("place"), `${state.page * PAGE_ROWS + 1} to ${state.page * PAGE_ROWS + shown.length} of ${found.length}`);
  $("before").disabled = state.page === 0;
  $("next").disabled = state.page === last;
}

// Offsets and skews are sorted by size: who is far off is, to whichever side.
function key(row) {
  const value = row[state.sort];
  return state.sort === "offset" || state.sort === "skew" ? (value === null ? null : Math.abs(value)) : value;
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || b === null) return a === null ? -1 : 1;
  return typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
}

function emptyRow() {
  const row = make("tr");
  for (const [name] of COLUMNS) {
    const cell = make(name === "id" ? "th" : "td", undefined, TEXTS.includes(name) ? "text" : "");
    if (name === "id") {
      cell.scope = "row";
      const button = make("button");
      button.type = "button";
      button.addEventListener("click", () => mark(Number(button.dataset.id)));
      cell.append(button);
    }
    row.append(cell);
  }
  return row;
}

function fill(element, row) {
  COLUMNS.forEach(([name, , text], i) => write(name === "id" ? element.children[i].firstChild : element.children[i], text(row)));
  const button = element.children[0].firstChild, isMarked = chart.marked.has(row.id);
  if (button.dataset.id !== String(row.id)) Object.assign(button.dataset, { id: row.id });
  button.setAttribute("aria-pressed", isMarked);
  button.title = isMarked ? "Do not mark it in the chart" : "Mark it in the chart";
  element.classList.toggle("marked", isMarked);
  const last = element.lastChild, gravity = row.trouble > 1 ? "text bad" : row.trouble ? "text doubt" : "text";
  if (last.className !== gravity) last.className = gravity;
}

function mark(id) {
  if (!chart.marked.delete(id)) chart.marked.add(id);
  show();
  picture();
}

function timeline() {
  const seconds = Number($("range").value), until = model.now, from = windowOf(state.domain, seconds, until);
  const all = masterships(state.domain);
  const shown = all.filter((one) => one.goesOn || one.until_us > from);
  const percent = (at) => Math.max(0, Math.min(100, ((at - from) / (until - from)) * 100));
  const bars = $("bars");
  while (bars.children.length > shown.length) bars.lastChild.remove();
  while (bars.children.length < shown.length) bars.append(make("div"));
  shown.forEach((one, i) => {
    const bar = bars.children[i], end = one.goesOn ? until : one.until_us;
    bar.style.left = `${percent(one.from_us)}%`;
    bar.style.width = `${percent(end) - percent(one.from_us)}%`;
    bar.style.backgroundColor = `hsl(${hueOf(one.master)} 60% 36%)`;
    write(bar, `${one.master}, term ${one.term}`);
    bar.title = bar.textContent;
  });
  write($("axis-from"), `${lasting(until - from)} ago`);
  const lines = all.slice(-20).reverse();
  const list = $("terms");
  while (list.children.length > lines.length) list.lastChild.remove();
  while (list.children.length < lines.length) list.append(make("li"));
  lines.forEach((one, i) => {
    const end = one.goesOn ? model.now : one.until_us;
    const rest = one.goesOn ? `for ${lasting(end - one.from_us)} so far` : `until ${clockTime(one.until_us)}, ${lasting(end - one.from_us)}`;
    write(list.children[i], `Term ${one.term}: node ${one.master}, from ${clockTime(one.from_us)} ${rest}`);
  });
}

function picture() {
  const until = state.paused ?? model.now;
  const withBounds = $("bounds").checked;
  const now = scene(state.domain, Number($("range").value), until);
  draw(now, withBounds, masterships(state.domain));
  write($("chart-title"), now.isOwn ? "Error bounds of the nodes here" : "Offsets from the master");
  legend(now);
  const last = now.samples[now.samples.length - 1];
  const counted = last ? last.nodes.length - last.leftOut.size : 0;
  const spread = last ? `${counted} ${counted === 1 ? "slave" : "slaves"} from ${span(last.low, true)} to ${span(last.high, true)} of the master, with their bounds from ${span(last.lowest, true)} to ${span(last.highest, true)}.` : "";
  const out = last?.leftOut.size ? ` ${last.leftOut.size} left out${outside(last)}.` : "";
  const many = now.isMany ? " The dark band is where they are, the line in it their median, the light band adds error bounds. Press a node's number in the table to draw it." : "";
  const own = now.isOwn ? "No master is behind the sockets here, and only a master knows offsets. Each band is how far a clock can be from ensemble time." : "";
  write($("chart-text"), own || (last ? spread + out + many : "Nothing was seen yet."));
}

// Which of those that are left out lie beyond the chart's edge.
function outside({ nodes, offsets, leftOut }) {
  const far = nodes.map((id, i) => [id, offsets[i]]).filter(([id, offset]) => leftOut.has(id) && Math.abs(offset) > chart.scale);
  const names = far.slice(0, 3).map(([id, offset]) => `${id} at ${span(offset, true)}`).join(", ");
  return far.length ? `, outside of the picture: ${names}${far.length > 3 ? ` and ${far.length - 3} more` : ""}` : "";
}

function legend(now) {
  const at = chart.cursor;
  const near = (line) => (at === null ? line[line.length - 1] : line.reduce((best, point) => (!best || Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best), null));
  // Who is not seen any more is no entry.
  const isThere = (line) => line.length > 0 && (at !== null || line[line.length - 1][0] > now.to - 10 * MICROS);
  const entries = [...now.lines].filter(([, line]) => isThere(line));
  const list = $("legend");
  while (list.children.length > entries.length) list.lastChild.remove();
  while (list.children.length < entries.length) {
    const item = make("li");
    item.append(make("span", undefined, "swatch"), make("span"));
    list.append(item);
  }
  entries.forEach(([id, line], i) => {
    const [, offset, bound] = near(line);
    list.children[i].children[0].style.backgroundColor = colourOf(id);
    write(list.children[i].children[1], now.isOwn ? `${id} ± ${span(bound)}` : `${id} ${span(offset, true)} ± ${span(bound)}`);
  });
}

// Events: those of before this page was opened are not read out.
function tell(news, isFirst) {
  const list = $("events");
  if (isFirst) {
    list.replaceChildren();
    list.setAttribute("aria-live", "off");
  } else if (list.getAttribute("aria-live") !== "polite") list.setAttribute("aria-live", "polite");
  const entries = merged(news), shown = isFirst ? entries : entries.slice(-NEWS_SHOWN);
  if (entries.length > shown.length) shown.unshift({ ...shown[0], tellers: [], text: `and ${entries.length - shown.length} more before` });
  for (const one of shown) {
    const item = make("li", undefined, one.is_worrying ? "doubt" : "");
    const who = one.tellers.length === 0 || model.nodes.length < 2 ? "" : `${one.tellers.length > 1 ? "nodes" : "node"} ${one.tellers.join(", ")}: `;
    item.append(make("time", clockTime(one.at_us)), who + one.text);
    list.prepend(item);
  }
  while (list.children.length > EVENTS_KEPT) list.lastChild.remove();
}

// What several nodes tell within two looks is one event.
function merged(news) {
  const entries = [];
  for (const one of news) {
    const teller = model.nodes.find((node) => node.socket === one.socket)?.status?.node_id;
    const same = entries.find((entry) => entry.text === one.text && one.at_us - entry.at_us < 2 * MICROS);
    if (same) same.tellers.push(teller);
    else entries.push({ ...one, tellers: teller === undefined ? [] : [teller] });
  }
  return entries;
}

function columns() {
  $("columns").replaceChildren(...COLUMNS.map(([name, title]) => {
    const head = make("th", undefined, TEXTS.includes(name) || name === "id" ? "text" : ""), button = make("button", title);
    head.scope = "col";
    button.type = "button";
    button.addEventListener("click", () => {
      state.down = state.sort === name ? !state.down : !["id", "address", "role"].includes(name);
      state.sort = name;
      sorted();
      table();
    });
    head.append(button);
    return head;
  }));
  sorted();
}

function sorted() {
  COLUMNS.forEach(([name], i) => {
    const head = $("columns").children[i];
    if (name === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

// What a browser keeps, or does not want to.
const kept = {
  read: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
  write: (theme) => { try { localStorage.setItem("theme", theme); } catch { /* A private window. */ } },
};
const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme === "system" ? "as the system" : theme}`;
  readColours();
  if (model.exporter !== null) picture();
}

function move(steps) {
  const times = (model.samples.get(state.domain) ?? [...model.bounds.values()][0] ?? []).map((sample) => sample.at);
  if (times.length === 0) return;
  const place = chart.cursor === null ? times.length - 1 : times.findIndex((at) => at >= chart.cursor) + steps;
  chart.cursor = times[Math.max(0, Math.min(times.length - 1, place))];
  picture();
  const sample = (model.samples.get(state.domain) ?? []).find((one) => one.at === chart.cursor);
  const lines = [...$("legend").children].slice(0, FEW).map((item) => item.textContent).join("; ");
  write($("reading"), `${clockTime(chart.cursor)}: ${lines || (sample ? `from ${span(sample.low, true)} to ${span(sample.high, true)}` : "nothing")}`);
}

chart.canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
  if (steps !== undefined) {
    event.preventDefault();
    move(steps);
  } else if (event.key === "Escape") {
    chart.cursor = null;
    picture();
  }
});
chart.canvas.addEventListener("pointermove", (event) => {
  if (!chart.x) return;
  const from = chart.x(0), pixel = chart.x(MICROS) - from;
  chart.cursor = ((event.offsetX - from) / pixel) * MICROS;
  picture();
});
for (const end of ["pointerleave", "blur"]) chart.canvas.addEventListener(end, () => { chart.cursor = null; if (model.exporter !== null) picture(); });
$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  kept.write(next);
  setTheme(next);
});
$("pause").addEventListener("click", () => {
  state.paused = state.paused === null ? model.now : null;
  $("pause").setAttribute("aria-pressed", state.paused !== null);
  picture();
});
$("view").addEventListener("change", () => { state.domain = Number($("view").value); show(); picture(); });
$("range").addEventListener("change", () => { timeline(); picture(); });
$("bounds").addEventListener("change", picture);
$("find").addEventListener("input", () => { state.page = 0; table(); });
$("before").addEventListener("click", () => { state.page -= 1; table(); });
$("next").addEventListener("click", () => { state.page += 1; table(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(document.documentElement.dataset.theme));
new ResizeObserver(() => { if (model.exporter !== null) picture(); }).observe(chart.canvas);

columns();
setTheme(THEMES.includes(kept.read()) ? kept.read() : "system");
// Counts on while nobody answers.
setInterval(alerts, PAUSE_MS);
ask();
