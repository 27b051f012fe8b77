// What was told so far, and what follows from it. Knows nothing of the page.
// Times are microseconds since the exporter started, as it counts them; lengths of time are nanoseconds where it says so.

const MICROS = 1e6;
const KEPT_US = 600 * MICROS;
const EVENTS_KEPT = 200;

const model = {
  exporter: null, version: "", upto: null, now: 0, unixMs: 0, nodes: [],
  // By domain: where the slaves stood, as a master saw it.
  samples: new Map(),
  // By socket: how well a node knew its own clock.
  bounds: new Map(),
  events: [],
};

function take(answer) {
  if (answer.exporter !== model.exporter) {
    Object.assign(model, { exporter: answer.exporter, samples: new Map(), bounds: new Map(), events: [] });
  }
  Object.assign(model, {
    version: answer.version, upto: answer.upto_us, now: answer.now_us, unixMs: answer.now_unix_ms,
    nodes: answer.nodes.map(({ samples, happenings, ...node }) => node),
  });
  const news = [];
  for (const node of answer.nodes) {
    for (const happening of node.happenings) news.push({ ...happening, socket: node.socket });
    // A sample is of the domain in which its node was last seen: that never changes while it runs.
    if (node.status) node.samples.forEach((sample) => keep(node, sample));
  }
  news.sort((a, b) => a.at_us - b.at_us);
  model.events.push(...news);
  model.events.splice(0, model.events.length - EVENTS_KEPT);
  forget();
  return news;
}

function keep(node, sample) {
  const list = (map, key) => map.get(key) ?? map.set(key, []).get(key);
  list(model.bounds, node.socket).push({ at: sample.at_us, bound: sample.error_bound_ns });
  if (sample.nodes.length === 0) return;
  const of = list(model.samples, node.status.domain);
  const leftOut = new Set(sample.left_out);
  of.push({ at: sample.at_us, ...extent(sample, leftOut), leftOut, nodes: sample.nodes, offsets: sample.offsets_ns, bounds: sample.error_bounds_ns });
  // Two masters of a domain behind one exporter are told one after the other.
  if (of.length > 1 && of[of.length - 2].at > sample.at_us) of.sort((a, b) => a.at - b.at);
}

// What the clocks span that are averaged, the master's own zero among them.
function extent({ nodes, offsets_ns: offsets, error_bounds_ns: bounds }, leftOut) {
  let low = 0, high = 0, lowest = 0, highest = 0;
  const counted = [0];
  offsets.forEach((offset, i) => {
    if (leftOut.has(nodes[i])) return;
    counted.push(offset);
    low = Math.min(low, offset);
    high = Math.max(high, offset);
    lowest = Math.min(lowest, offset - bounds[i]);
    highest = Math.max(highest, offset + bounds[i]);
  });
  const sorted = Float64Array.from(counted).sort();
  return { low, high, lowest, highest, median: sorted[sorted.length >> 1] };
}

function forget() {
  for (const map of [model.samples, model.bounds]) {
    for (const list of map.values()) {
      const first = list.findIndex((sample) => sample.at > model.now - KEPT_US);
      list.splice(0, first < 0 ? list.length : first);
    }
  }
}

function domains() {
  return [...new Set(model.nodes.filter((node) => node.status).map((node) => node.status.domain))].sort((a, b) => a - b);
}

const inDomain = (domain) => model.nodes.filter((node) => node.status && node.status.domain === domain);
const answering = (domain) => inDomain(domain).filter((node) => !node.silence);

// The newest master among those who answer.
function masterOf(domain) {
  const masters = answering(domain).filter((node) => node.status.role === "master");
  return masters.sort((a, b) => b.status.term - a.status.term)[0];
}

// Masterships of a domain as all nodes here have heard them, the oldest first.
function masterships(domain) {
  const terms = new Map();
  for (const node of model.nodes) {
    for (const one of node.masterships.filter((one) => one.domain === domain)) {
      const key = `${one.term}-${one.master}`;
      const known = terms.get(key);
      terms.set(key, known ? { ...known, from_us: Math.min(known.from_us, one.from_us), until_us: Math.max(known.until_us, one.until_us) } : { ...one });
    }
  }
  const current = answering(domain).map((node) => `${node.status.term}-${node.status.master_id}`);
  const list = [...terms].map(([key, one]) => ({ ...one, goesOn: current.includes(key) }));
  return list.sort((a, b) => a.term - b.term || a.from_us - b.from_us);
}

// Rows of the table: each node once, as it says itself if it is on this machine, else as its master says.
function rows(domain) {
  const found = new Map();
  const master = masterOf(domain);
  for (const peer of master?.status.peers ?? []) {
    found.set(peer.node_id, {
      id: peer.node_id, address: peer.address, role: "slave", offset: peer.offset_ns, bound: peer.error_bound_ns, delay: peer.delay_ns,
      skew: peer.skew_ppb, heard: peer.last_heard_ms, state: peer.counted ? "counted" : `left out: ${peer.reason}`,
      trouble: peer.counted ? 0 : peer.reason === "newcomer" || peer.reason === "joining" ? 1 : 2,
    });
  }
  for (const node of inDomain(domain)) {
    const { status, silence } = node;
    const row = found.get(status.node_id) ?? {
      id: status.node_id, address: status.address, offset: null, bound: known(status.error_bound_ns), delay: null, skew: status.skew_ppb,
      heard: null, state: "", trouble: 0,
    };
    row.role = status.role;
    if (node === master) Object.assign(row, { offset: 0, state: "counted" });
    if (silence) Object.assign(row, { role: "unknown", state: `no answer for ${lasting(model.now - silence.since_us)}`, trouble: 3 });
    else if (!status.synchronised) Object.assign(row, { state: ["not synchronised", row.state].filter(Boolean).join(", "), trouble: 2 });
    else if (!row.state) row.state = "synchronised";
    found.set(row.id, row);
  }
  return [...found.values()];
}

// The largest number stands for "no bound is known"; JavaScript has rounded it.
const known = (nanos) => (nanos === null || nanos > 9e18 ? null : nanos);

function span(nanos, signed = false) {
  if (nanos === null || nanos === undefined) return "–";
  const size = Math.abs(nanos);
  const [divisor, unit] = size < 1e3 ? [1, "ns"] : size < 1e6 ? [1e3, "µs"] : size < 1e9 ? [1e6, "ms"] : [1e9, "s"];
  const number = size / divisor;
  const digits = unit === "ns" || number >= 100 ? 0 : number >= 10 ? 1 : 2;
  const sign = nanos < 0 ? "−" : signed && nanos > 0 ? "+" : "";
  return `${sign}${number.toFixed(digits)} ${unit}`;
}

const ppm = (ppb) => (ppb === null ? "–" : `${ppb < 0 ? "−" : "+"}${Math.abs(ppb / 1000).toFixed(3)} ppm`);

function lasting(micros) {
  const seconds = Math.max(0, Math.floor(micros / MICROS));
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600), Math.floor(seconds / 60)];
  const two = (large, unit, small, smaller) => (small ? `${large} ${unit} ${small} ${smaller}` : `${large} ${unit}`);
  if (days) return two(days, "d", hours % 24, "h");
  if (hours) return two(hours, "h", minutes % 60, "min");
  return minutes ? two(minutes, "min", seconds % 60, "s") : `${seconds} s`;
}

// The last `seconds`, or less when less was seen, but a minute.
function windowOf(domain, seconds, until) {
  const seen = [model.samples.get(domain)?.[0], ...inDomain(domain).map((node) => model.bounds.get(node.socket)?.[0])];
  const first = Math.min(...seen.filter(Boolean).map((sample) => sample.at));
  return Math.max(until - seconds * MICROS, Math.min(first, until - 60 * MICROS));
}

const wall = (at) => new Date(model.unixMs + (at - model.now) / 1000);
const clockTime = (at) => wall(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
