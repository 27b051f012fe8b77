//! What a run measured: the recorder that the world reports to, and the outcome in words and as JSON.
//!
//! The recorder judges nothing while it listens: figures (`statistics.rs`), samples for a picture (`trace.rs`), marks,
//! violations and the last events before the first of them, each in bounded memory. At the end the outcome is held against
//! the limits of the scenario.

use std::collections::VecDeque;
use std::fmt;

use serde::{Serialize, Serializer};

use super::scenario::{Limits, Scenario};
use super::statistics::{
    Drag, Settling, TierClock, TierSizes, float, maybe_millis, maybe_nanos, maybe_ppb, millis, nanos,
};
pub use super::statistics::{Figures, TierFigures};
use super::trace::Trace;
use crate::average::Average;
use crate::time::{Skew, Span};

/// What counts as settled unless the scenario says otherwise.
pub const SETTLE_BELOW: Span = Span::from_millis(1);
/// Violations that are kept; the others are counted.
const MAX_VIOLATIONS: usize = 20;
/// Marks that are kept: more could not be read in a picture.
const MAX_MARKS: usize = 500;
/// Events that are kept before a violation: some rounds of a small ensemble.
const MAX_EVENTS: usize = 80;

/// One node at one instant, as only the simulator can see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSample {
    /// What its disciplined clock shows, less true time.
    pub error: Span,
    /// The same if nobody had corrected it since it started.
    pub alone: Span,
    /// The error bound that it publishes; [`Span::MAX`] when it knows none.
    pub bound: Span,
    /// Whether it counts.
    pub standing: NodeStanding,
    /// How many domains are above the topmost one that it belongs to.
    pub tier: usize,
}

/// What a node's clock means to the measured ensemble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeStanding {
    /// It runs, is honest and shows ensemble time: its clock counts.
    Honest,
    /// It runs and is honest, but waits for its first correction.
    Joining,
    /// It lies. What its own clock shows is of no interest.
    Liar,
    /// It does not run.
    Down,
}

impl fmt::Display for NodeStanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Honest => "honest",
            Self::Joining => "joining",
            Self::Liar => "liar",
            Self::Down => "down",
        })
    }
}

/// What must always hold; the numbers are those of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// 1: a disciplined clock never runs backwards, except by the one allowed step.
    Monotonic,
    /// 2: no correction is applied twice, late, or from an older term, incarnation or domain.
    CorrectedOnce,
    /// 3: without liars the spread ends below the sum of the error bounds, and stays.
    Agreement,
    /// 4: the true error of every synchronised node lies inside its own published error bound.
    HonestBound,
    /// 5: with f liars out of n > 3f, honest nodes stay as close as without them.
    LiarsHarmless,
    /// 6: there is one master within the election bound, and terms never go down.
    OneMaster,
    /// 7: no datagram panics a node and, with a key, a wrong one never moves a clock.
    Robust,
}

impl Invariant {
    /// Its number in the design.
    pub fn number(self) -> u8 {
        match self {
            Self::Monotonic => 1,
            Self::CorrectedOnce => 2,
            Self::Agreement => 3,
            Self::HonestBound => 4,
            Self::LiarsHarmless => 5,
            Self::OneMaster => 6,
            Self::Robust => 7,
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Monotonic => "a disciplined clock never runs backwards",
            Self::CorrectedOnce => "no correction is applied twice, late, or from an older term",
            Self::Agreement => "without liars the spread ends below the sum of the error bounds",
            Self::HonestBound => "the true error lies inside the published bound",
            Self::LiarsHarmless => "honest nodes stay as close as without liars",
            Self::OneMaster => "there is one master, and terms never go down",
            Self::Robust => "no datagram harms a node",
        })
    }
}

impl Serialize for Invariant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.number().serialize(serializer)
    }
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// When, in true time.
    #[serde(rename = "at_ns", serialize_with = "nanos")]
    pub at: Span,
    /// At which node, if it is the fault of one.
    pub node: Option<usize>,
    /// Which.
    pub invariant: Invariant,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}", self.at)?;
        if let Some(node) = self.node {
            write!(f, ", node {node}")?;
        }
        let Self { invariant, expected, found, .. } = self;
        write!(f, ": invariant {} ({invariant}): expected {expected}, found {found}", invariant.number())
    }
}

/// A fault, a change of role, or something else worth a line in a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// When, in true time.
    #[serde(rename = "at_ns", serialize_with = "nanos")]
    pub at: Span,
    /// What, in a few words.
    pub text: String,
}

/// An event that may have led to a violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in true time.
    pub at: Span,
    /// At which node.
    pub node: Option<usize>,
    /// What.
    pub text: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node.map(|node| format!("node {node}")).unwrap_or_default();
        write!(f, "{:>16.9} s  {node:<9} {}", self.at.as_secs_f64(), self.text)
    }
}

/// Frames and bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    frames: u64,
    bytes: u64,
}

impl Traffic {
    fn add(&mut self, frames: u64, bytes: u64) {
        self.frames = self.frames.saturating_add(frames);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What the world reports to while it runs. Its memory does not grow with simulated time.
#[derive(Clone, Debug)]
pub struct Recorder {
    scenario: Scenario,
    settling: Settling,
    drag: Drag,
    tiers: TierSizes,
    /// Room for the clocks that count, so that no sample allocates.
    clocks: Vec<(Span, Span)>,
    /// The same with their tiers.
    tier_clocks: Vec<TierClock>,
    trace: Option<Trace>,
    marks: Vec<Mark>,
    /// The last events; `None`: nobody will ask.
    events: Option<VecDeque<Event>>,
    sent: Traffic,
    received: Traffic,
    rounds: u64,
    corrections: u64,
    /// Nodes that waited for their first correction when the clocks were looked at last.
    joining: usize,
    masters: Masters,
    violations: Vec<Violation>,
    violation_count: u64,
}

/// How long a connected group had no master, or more than one.
#[derive(Clone, Copy, Debug, Default)]
struct Masters {
    /// Since when there is not exactly one, while nothing disturbs the group.
    amiss_since: Option<Span>,
    /// The longest such time.
    longest: Span,
    /// The highest term.
    term: u64,
}

impl Recorder {
    /// A recorder for one run. `keep_trace`: for a picture or a table, see [`Outcome::trace`].
    pub fn new(scenario: &Scenario, keep_trace: bool) -> Self {
        Self {
            settling: Settling::new(scenario.limits.settle_below.unwrap_or(SETTLE_BELOW), scenario.limits.judge_from),
            drag: Drag::default(),
            tiers: TierSizes::default(),
            clocks: Vec::with_capacity(scenario.nodes.get()),
            tier_clocks: Vec::with_capacity(scenario.nodes.get()),
            trace: keep_trace.then(|| Trace::new(scenario)),
            scenario: scenario.clone(),
            marks: Vec::new(),
            events: None,
            sent: Traffic::default(),
            received: Traffic::default(),
            rounds: 0,
            corrections: 0,
            joining: 0,
            masters: Masters::default(),
            violations: Vec::new(),
            violation_count: 0,
        }
    }

    /// Keeps the last events before a violation as well.
    #[must_use]
    pub fn with_events(mut self) -> Self {
        self.events = Some(VecDeque::with_capacity(MAX_EVENTS));
        self
    }

    /// All nodes at one instant; the world calls it at regular intervals of true time, in order.
    ///
    /// An instant at which fewer than two clocks count says nothing about agreement and is left out of the figures
    /// (unless there is only one node).
    pub fn record(&mut self, at: Span, nodes: &[NodeSample]) {
        if let Some(trace) = &mut self.trace {
            trace.record(at, nodes);
        }
        let counted = nodes.iter().filter(|node| node.standing == NodeStanding::Honest);
        self.joining = nodes.iter().filter(|node| node.standing == NodeStanding::Joining).count();
        self.clocks.clear();
        self.clocks.extend(counted.map(|node| (node.error, node.bound)));
        if self.clocks.len() >= nodes.len().min(2) {
            let honest = nodes.iter().filter(|node| node.standing == NodeStanding::Honest);
            let dragged = honest.fold(Span::ZERO, |sum, node| sum + (node.error - node.alone));
            let dragged = dragged.part(i64::try_from(self.clocks.len()).unwrap_or(i64::MAX));
            self.settling.record(at, &self.clocks, self.joining == 0);
            self.drag.record(at, dragged, self.settling.since());
            let honest = nodes.iter().filter(|node| node.standing == NodeStanding::Honest);
            self.tier_clocks.clear();
            self.tier_clocks.extend(honest.map(|&NodeSample { tier, error, bound, .. }| TierClock {
                tier,
                error,
                bound,
            }));
            let counts = at >= self.scenario.limits.judge_from;
            self.tiers.record(&self.tier_clocks, self.settling.since(), counts);
        }
    }

    /// A fault or a change of role, in a few words.
    pub fn mark(&mut self, at: Span, text: impl Into<String>) {
        let text = text.into();
        self.event(at, None, || text.clone());
        if self.marks.len() < MAX_MARKS {
            self.marks.push(Mark { at, text });
        }
    }

    /// So many nodes of the group take themselves for master, and this is the highest term.
    pub fn masters(&mut self, at: Span, count: usize, term: u64) {
        let masters = &mut self.masters;
        masters.term = masters.term.max(term);
        if count == 1 {
            masters.amiss_since = None;
        } else {
            let since = *masters.amiss_since.get_or_insert(at);
            masters.longest = masters.longest.max(at - since);
        }
    }

    /// Something happens to the group that may cost it its master: the time that it has to find one begins now.
    pub fn disturbed(&mut self) {
        self.masters.amiss_since = None;
    }

    /// Something that may explain a violation. `describe` is called only if somebody will ask.
    pub fn event(&mut self, at: Span, node: Option<usize>, describe: impl FnOnce() -> String) {
        // The events after a violation explain nothing.
        if let Some(events) = self.events.as_mut().filter(|_| self.violations.is_empty()) {
            if events.len() == MAX_EVENTS {
                events.pop_front();
            }
            events.push_back(Event { at, node, text: describe() });
        }
    }

    /// An invariant did not hold.
    pub fn violation(&mut self, violation: Violation) {
        self.violation_count = self.violation_count.saturating_add(1);
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(violation);
        }
    }

    /// Frames that a node sent, with their bytes.
    pub fn frames(&mut self, count: u64, bytes: u64) {
        self.sent.add(count, bytes);
    }

    /// Frames that reached a node, with their bytes.
    pub fn received(&mut self, count: u64, bytes: u64) {
        self.received.add(count, bytes);
    }

    /// A master finished a round.
    pub fn round(&mut self) {
        self.rounds = self.rounds.saturating_add(1);
    }

    /// A node applied a correction.
    pub fn correction(&mut self) {
        self.corrections = self.corrections.saturating_add(1);
    }

    /// What came of it. `seed`: of the run.
    pub fn finish(self, seed: u64) -> Outcome {
        let Self { scenario, settling, sent, received, .. } = self;
        let nodes = float(u64::try_from(scenario.nodes.get()).unwrap_or(u64::MAX));
        let bytes = float(sent.bytes) + float(received.bytes);
        let seconds = scenario.duration.as_secs_f64();
        let mut outcome = Outcome {
            about: scenario.about,
            seed,
            replay: String::new(),
            nodes: scenario.nodes.get(),
            liars: scenario.liars,
            duration: scenario.duration,
            interval: scenario.node.interval,
            average: scenario.node.average,
            ok: false,
            settle: settling.since(),
            settle_below: scenario.limits.settle_below.unwrap_or(SETTLE_BELOW),
            spread: settling.spread(),
            error: settling.error(),
            bound: settling.bound(),
            tiers: self.tiers.figures(),
            dragged: self.drag.dragged(),
            drag: self.drag.rate(),
            frames_sent: sent.frames,
            bytes_sent: sent.bytes,
            frames_received: received.frames,
            bytes_received: received.bytes,
            bytes_per_second: if seconds > 0.0 { bytes / nodes / seconds } else { 0.0 },
            joining: self.joining,
            masterless: self.masters.longest,
            term: self.masters.term,
            rounds: self.rounds,
            corrections: self.corrections,
            // Of several domains each has rounds of its own.
            corrections_per_round: (self.rounds > 0 && scenario.domains.is_empty())
                .then(|| float(self.corrections) / nodes / float(self.rounds)),
            limits: Vec::new(),
            violations: self.violations,
            violation_count: self.violation_count,
            marks: self.marks,
            events: self.events.map(Vec::from).unwrap_or_default(),
            trace: self.trace,
        };
        outcome.limits = outcome.judge(&scenario.limits);
        outcome.ok = outcome.violation_count == 0 && outcome.limits.iter().all(|verdict| verdict.ok);
        outcome
    }
}

/// What a run measured.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What the scenario shows.
    pub about: String,
    /// The seed of the run.
    pub seed: u64,
    /// The command that repeats it.
    pub replay: String,
    /// How many nodes there were.
    pub nodes: usize,
    /// How many of them lied.
    pub liars: usize,
    /// How long it ran, in true time.
    #[serde(rename = "duration_ms", serialize_with = "millis")]
    pub duration: Span,
    /// Time between rounds.
    #[serde(rename = "interval_ms", serialize_with = "millis")]
    pub interval: Span,
    /// How offsets were averaged.
    pub average: Average,
    /// It settled, kept its limits, and no invariant was violated.
    pub ok: bool,
    /// Until the spread stayed below `settle_below`; `None`: it did not.
    #[serde(rename = "settle_ms", serialize_with = "maybe_millis")]
    pub settle: Option<Span>,
    /// What counts as settled.
    #[serde(rename = "settle_below_ns", serialize_with = "nanos")]
    pub settle_below: Span,
    /// True spread of the clocks that count: the highest less the lowest, after settling.
    #[serde(rename = "spread_ns")]
    pub spread: Figures,
    /// Their distance from true time, which no node can know, after settling.
    #[serde(rename = "error_ns")]
    pub error: Figures,
    /// The error bounds that they published after settling.
    #[serde(rename = "bound_ns")]
    pub bound: Figures,
    /// The clocks of each tier after settling, the topmost ensemble's own first.
    pub tiers: Vec<TierFigures>,
    /// What they show in the end less what they would if nobody had ever corrected them, both on average: by how much the
    /// ensemble moved its own honest members.
    #[serde(rename = "dragged_ns", serialize_with = "maybe_nanos")]
    pub dragged: Option<Span>,
    /// How fast that has grown since they settled.
    #[serde(rename = "drag_ppb", serialize_with = "maybe_ppb")]
    pub drag: Option<Skew>,
    /// Frames that nodes sent.
    pub frames_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Frames that reached a node.
    pub frames_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Bytes that a node sent and received per second, on average.
    pub bytes_per_second: f64,
    /// Nodes that still waited for their first correction in the end.
    pub joining: usize,
    /// The longest time that the group, while it was connected, had no master or more than one.
    #[serde(rename = "masterless_ms", serialize_with = "millis")]
    pub masterless: Span,
    /// The highest term.
    pub term: u64,
    /// Rounds that masters finished.
    pub rounds: u64,
    /// Corrections that nodes applied.
    pub corrections: u64,
    /// Corrections that a node applied per round, on average. `None` without rounds.
    pub corrections_per_round: Option<f64>,
    /// What became of each limit.
    pub limits: Vec<Verdict>,
    /// The first violations.
    pub violations: Vec<Violation>,
    /// How many there were in all.
    pub violation_count: u64,
    /// Faults and changes of role.
    pub marks: Vec<Mark>,
    /// What happened before the first violation, or last of all; see [`Recorder::with_events`].
    #[serde(skip)]
    pub events: Vec<Event>,
    /// What every clock showed, if it was kept.
    #[serde(skip)]
    pub trace: Option<Trace>,
}

/// What became of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Its key in the scenario.
    pub limit: &'static str,
    /// What was allowed at most, with a unit.
    pub allowed: String,
    /// What was found.
    pub found: String,
    /// Whether it was kept.
    pub ok: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, allowed, found, ok } = self;
        let relation = if *ok { "of at most" } else { "above the limit of" };
        write!(f, "{limit} {found}, {relation} {allowed}")
    }
}

impl Outcome {
    /// What these limits say about it, a line each, and nothing if all is well. Never having settled is a miss under any limits.
    pub fn misses(&self, limits: &Limits) -> Vec<String> {
        self.judge(limits).iter().filter(|verdict| !verdict.ok).map(ToString::to_string).collect()
    }

    fn judge(&self, limits: &Limits) -> Vec<Verdict> {
        let span = |limit, allowed: Option<Span>, found: Option<Span>| {
            let allowed = allowed?;
            Some(Verdict {
                limit,
                // With all digits: rounded, what is a little above its limit would look as if it were not.
                allowed: allowed.to_string(),
                found: found.map_or_else(|| "never".to_owned(), |found| found.to_string()),
                ok: found.is_some_and(|found| found <= allowed),
            })
        };
        let number = |limit, allowed: Option<f64>, found: Option<f64>| {
            let allowed = allowed?;
            let text = found.map_or_else(|| "unknown".to_owned(), |found| format!("{found:.2}"));
            let ok = found.is_some_and(|found| found <= allowed);
            Some(Verdict { limit, allowed: allowed.to_string(), found: text, ok })
        };
        // Who does not settle has missed the limit even where none is given: the run's end.
        let settle = limits.settle.or(self.settle.is_none().then_some(self.duration));
        [
            span("settle", settle, self.settle),
            // Who never gets a first correction is in no other figure.
            (self.joining > 0).then(|| Verdict {
                limit: "joining",
                allowed: "none".to_owned(),
                found: format!("{} nodes in the end", self.joining),
                ok: false,
            }),
            // What holds after settling has nothing to be held against without.
            span("max-spread", self.settle.and(limits.max_spread), self.spread.max),
            span("rms-spread", self.settle.and(limits.rms_spread), self.spread.rms),
            number("drag-ppm", limits.drag_ppm, self.drag.map(|drag| drag.abs().as_ratio() * 1e6)),
            span("max-error", self.settle.and(limits.max_error), self.error.max),
            span("median-bound", self.settle.and(limits.median_bound), self.bound.median),
            span("one-master", limits.one_master, Some(self.masterless)),
            limits.terms.map(|allowed| Verdict {
                limit: "terms",
                allowed: allowed.to_string(),
                found: self.term.to_string(),
                ok: self.term <= allowed,
            }),
            number("corrections-per-round", limits.corrections_per_round, self.corrections_per_round),
            number("bytes-per-second", limits.bytes_per_second, Some(self.bytes_per_second)),
        ]
        .into_iter()
        .flatten()
        .chain(limits.tiers.iter().enumerate().filter_map(|(tier, allowed)| {
            let found = self.tiers.get(tier).and_then(|figures| figures.distance.max);
            span("tiers", self.settle.and(Some(*allowed)), found)
        }))
        .collect()
    }

    /// Settle time, root mean square and maximum of the spread, in a few words.
    pub(crate) fn headline(&self) -> String {
        match self.settle {
            Some(settle) => format!("settled after {}, then {} rms", brief(settle), maybe(self.spread.rms)),
            None => format!("never settled below {}", brief(self.settle_below)),
        }
    }

    /// Why it is not ok, a line each.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let missed = self.limits.iter().filter(|verdict| !verdict.ok).map(ToString::to_string);
        missed.chain(self.violations.iter().map(|violation| format!("seed {}, {violation}", self.seed))).collect()
    }
}

/// For people: what they want to know first stands first.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.ok { "OK" } else { "NOT OK" };
        match self.settle {
            Some(settle) => writeln!(
                f,
                "{verdict}: {} nodes agreed to {} (rms) after {}",
                self.nodes,
                maybe(self.spread.rms),
                brief(settle)
            )?,
            None => writeln!(
                f,
                "{verdict}: {} nodes did not agree to {} in {}",
                self.nodes,
                brief(self.settle_below),
                brief(self.duration)
            )?,
        }
        let mut line = |name: &str, text: &str| writeln!(f, "  {name:<12} {text}");
        if !self.about.is_empty() {
            line("scenario", &self.about)?;
        }
        let liars = if self.liars == 0 { String::new() } else { format!(", {} of them liars", self.liars) };
        let rounds = format!("a round every {}, {} average", brief(self.interval), self.average);
        line(
            "simulated",
            &format!("{} nodes{liars}, {}, {rounds}, seed {}", self.nodes, brief(self.duration), self.seed),
        )?;
        let Figures { last, rms, p99, max, .. } = self.spread;
        match self.settle {
            Some(_) => {
                let figures = [maybe(rms), maybe(p99), maybe(max), maybe(last)];
                let [rms, p99, max, last] = figures;
                line("spread", &format!("{rms} rms, {p99} at 99 %, {max} at most, {last} in the end"))?;
                let bound = format!("±{} in the middle, ±{} at most", maybe(self.bound.median), maybe(self.bound.max));
                line("bounds", &format!("published: {bound}"))?;
                for (tier, TierFigures { distance, bound }) in
                    self.tiers.iter().enumerate().filter(|_| self.tiers.len() > 1)
                {
                    let [rms, max] = [distance.rms, distance.max].map(maybe);
                    let text =
                        format!("{rms} rms, {max} at most from the topmost ensemble, ±{} claimed", maybe(bound.median));
                    line(&format!("tier {tier}"), &text)?;
                }
                line("true time", &format!("{} away at most, which no node can know", maybe(self.error.max)))?;
            }
            None => line("spread", &format!("{} in the end", maybe(last)))?,
        }
        let per_second = bytes(self.bytes_per_second);
        let (sent, size) = (grouped(self.frames_sent), bytes(float(self.bytes_sent)));
        line("traffic", &format!("{sent} frames sent, {size}; a node sends and receives {per_second}/s"))?;
        if let Some(per_round) = self.corrections_per_round {
            line("corrections", &format!("{per_round:.2} for each node and round, {} rounds", grouped(self.rounds)))?;
        }
        for (index, verdict) in self.limits.iter().enumerate() {
            line(if index == 0 { "limits" } else { "" }, &verdict.to_string())?;
        }
        match self.violation_count {
            0 => line("violations", "none")?,
            count => line("violations", &format!("{count}: seed {}", self.seed))?,
        }
        for violation in &self.violations {
            line("", &violation.to_string())?;
        }
        if !self.ok {
            line("replay", &self.replay)?;
        }
        Ok(())
    }
}

/// Three digits and a unit: `1.23 ms`, `45.6 µs`, `2 min`, `1.5 h`.
pub(crate) fn brief(span: Span) -> String {
    const UNITS: [(f64, &str); 7] =
        [(1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3_600.0, "h"), (86_400.0, "d")];
    let seconds = span.as_secs_f64();
    // 181 s and 90 min read better than 3.02 min and 1.5 h: beyond a second a unit wants a whole number, or ten.
    let suits = |unit: f64| match seconds.abs() / unit {
        // What would be rounded up to the next unit (999.7 ns) is shown in that.
        share if unit <= 1.0 => share >= 0.9995,
        share => share >= 10.0 || (share >= 1.0 && share.fract() < 1e-9),
    };
    let (unit, name) = UNITS.into_iter().rfind(|(unit, _)| suits(*unit)).unwrap_or((1e-9, "ns"));
    let value = seconds / unit;
    let decimals = if value.abs() >= 99.95 {
        0
    } else if value.abs() >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {name}")
}

/// The same, or a dash.
pub(crate) fn maybe(span: Option<Span>) -> String {
    span.map_or_else(|| "\u{2013}".to_owned(), brief)
}

/// `12.3 kB`.
pub(crate) fn bytes(count: f64) -> String {
    match count {
        ..1e3 => format!("{count:.0} B"),
        ..1e6 => format!("{:.1} kB", count / 1e3),
        ..1e9 => format!("{:.1} MB", count / 1e6),
        _ => format!("{:.1} GB", count / 1e9),
    }
}

/// `12,345`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;

    /// Two clocks a second apart that come together within three seconds, sampled ten times a second.
    fn converging(limits: Limits) -> Recorder {
        let scenario = Scenario {
            nodes: NonZeroUsize::new(3).unwrap(),
            duration: Span::from_secs(10),
            limits,
            ..Scenario::default()
        };
        let mut recorder = Recorder::new(&scenario, true).with_events();
        for tick in 0..100 {
            let spread = if tick < 30 { Span::from_secs(1) } else { Span::from_micros(20 + tick % 2) };
            let sample = |error: Span, standing| NodeSample {
                error,
                alone: error.half(),
                bound: Span::from_micros(100),
                standing,
                tier: 0,
            };
            recorder.record(
                Span::from_millis(100 * tick),
                &[
                    sample(Span::ZERO, NodeStanding::Honest),
                    sample(spread, NodeStanding::Honest),
                    sample(Span::from_secs(9), NodeStanding::Liar),
                ],
            );
        }
        recorder.frames(12_345, 1_234_567);
        recorder.received(20_000, 2_000_000);
        recorder.round();
        recorder
    }

    fn violation() -> Violation {
        Violation {
            at: Span::from_millis(1_500),
            node: Some(2),
            invariant: Invariant::HonestBound,
            expected: "at most 300 µs".to_owned(),
            found: "412 µs".to_owned(),
        }
    }

    #[test]
    fn the_json_has_its_fields() {
        let mut recorder = converging(Limits::default());
        recorder.mark(Span::from_secs(2), "node 1 crashes");
        recorder.violation(violation());
        let json = serde_json::to_value(recorder.finish(7)).unwrap();
        assert_eq!(json["seed"], 7);
        assert_eq!(json["nodes"], 3);
        assert_eq!(json["settle_ms"], 3_000);
        assert_eq!(json["settle_below_ns"], 1_000_000);
        let spread = &json["spread_ns"];
        assert_eq!((spread["final"].as_i64(), spread["max"].as_i64()), (Some(21_000), Some(21_000)));
        assert_eq!(spread["rms"], 20_506);
        assert!((21_000..21_210).contains(&spread["p99"].as_i64().unwrap()));
        assert_eq!((json["frames_sent"].as_u64(), json["bytes_sent"].as_u64()), (Some(12_345), Some(1_234_567)));
        let violation = &json["violations"][0];
        assert_eq!((violation["node"].as_u64(), violation["invariant"].as_u64()), (Some(2), Some(4)));
        assert_eq!(violation["at_ns"], 1_500_000_000);
        assert_eq!(json["marks"][0]["text"], "node 1 crashes");
        assert_eq!(json["average"], "fault-tolerant");
        assert_eq!(json["ok"], false);
    }

    #[test]
    fn a_run_that_never_settles_is_not_ok() {
        let limits = Limits { settle_below: Some(Span::from_micros(5)), ..Limits::default() };
        let outcome = converging(limits.clone()).finish(1);
        assert!(!outcome.ok);
        assert_eq!(outcome.misses(&limits), ["settle never, above the limit of 10.000 s"]);
        let json = serde_json::to_value(&outcome).unwrap();
        assert!(json["settle_ms"].is_null() && json["spread_ns"]["rms"].is_null());
        assert_eq!(json["spread_ns"]["final"], 21_000);
        assert!(outcome.to_string().starts_with("NOT OK: 3 nodes did not agree to 5 µs in 10 s\n"), "{outcome}");
    }

    #[test]
    fn limits_are_judged_one_by_one() {
        let limits = Limits {
            settle: Some(Span::from_secs(3)),
            max_spread: Some(Span::from_nanos(20_999)),
            rms_spread: Some(Span::from_micros(21)),
            // The ensemble follows the clock that is half ahead: it has not moved since it settled.
            drag_ppm: Some(0.1),
            corrections_per_round: Some(1.5),
            bytes_per_second: Some(1.0),
            // There is no second tier: who expects one is told.
            tiers: vec![Span::from_micros(11), Span::from_micros(11)],
            ..Limits::default()
        };
        let outcome = converging(limits.clone()).finish(1);
        assert_eq!(
            outcome.misses(&limits),
            [
                "max-spread 21.000 µs, above the limit of 20.999 µs",
                "bytes-per-second 107818.90, above the limit of 1",
                "tiers never, above the limit of 11.000 µs"
            ]
        );
        assert_eq!(outcome.limits.iter().filter(|verdict| verdict.ok).count(), 5);
        assert!(converging(Limits::default()).finish(1).ok);
    }

    #[test]
    fn the_text_is_short_and_has_units() {
        let outcome = converging(Limits::default()).finish(7);
        let text = outcome.to_string();
        assert!(text.starts_with("OK: 3 nodes agreed to 20.5 µs (rms) after 3 s\n"), "{text}");
        assert!(text.lines().count() <= 10, "{text}");
        assert!(text.contains("12,345 frames sent, 1.2 MB"), "{text}");
        let mut failed = converging(Limits::default());
        failed.violation(violation());
        let mut failed = failed.finish(7);
        failed.replay = "berkeleyd simulate --seed 7".to_owned();
        let text = failed.to_string();
        for part in [
            "NOT OK",
            "seed 7",
            "at 1.500 s, node 2: invariant 4 (the true error lies inside the published bound): expected at most 300 µs, found 412 µs",
            "berkeleyd simulate --seed 7",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_events_before_the_first_violation_are_kept() {
        let mut recorder = Recorder::new(&Scenario::default(), false).with_events();
        for number in 0..1_000 {
            recorder.event(Span::from_secs(number), Some(1), || format!("event {number}"));
        }
        recorder.violation(violation());
        recorder.event(Span::from_secs(1_000), None, || panic!("nobody asks"));
        let outcome = recorder.finish(1);
        assert_eq!(outcome.events.len(), MAX_EVENTS);
        assert_eq!(outcome.events.last().unwrap().to_string(), "   999.000000000 s  node 1    event 999");
        Recorder::new(&Scenario::default(), false).event(Span::ZERO, None, || panic!("nobody will ask"));
    }

    #[test]
    fn violations_and_marks_are_bounded() {
        let mut recorder = Recorder::new(&Scenario::default(), false);
        for _ in 0..10_000 {
            recorder.violation(violation());
            recorder.mark(Span::ZERO, "again");
        }
        let outcome = recorder.finish(1);
        assert_eq!((outcome.violations.len(), outcome.violation_count), (MAX_VIOLATIONS, 10_000));
        assert_eq!(outcome.marks.len(), MAX_MARKS);
    }

    #[test]
    fn a_lonely_clock_agrees_with_nobody() {
        let mut recorder = Recorder::new(&Scenario::default(), false);
        let sample =
            |standing| NodeSample { error: Span::ZERO, alone: Span::ZERO, bound: Span::MAX, standing, tier: 0 };
        recorder.record(Span::ZERO, &[sample(NodeStanding::Honest), sample(NodeStanding::Down)]);
        assert_eq!(recorder.clone().finish(1).settle, None);
        recorder.record(Span::ZERO, &[sample(NodeStanding::Honest)]);
        assert_eq!(recorder.finish(1).settle, Some(Span::ZERO), "unless it is the only one");
    }

    #[test]
    fn spans_are_shown_with_three_digits() {
        for (nanos, text) in [
            (0, "0 ns"),
            (-7, "-7 ns"),
            (999, "999 ns"),
            (1_234, "1.23 µs"),
            (45_678, "45.7 µs"),
            (999_990, "1 ms"),
            (123_456_789, "123 ms"),
            (90_000_000_000, "90 s"),
            (120_000_000_000, "2 min"),
            (181_000_000_000, "181 s"),
            (3_600_000_000_000, "1 h"),
            (5_400_000_000_000, "90 min"),
            (i64::MAX, "106752 d"),
        ] {
            assert_eq!(brief(Span::from_nanos(nanos)), text);
        }
        assert_eq!([bytes(17.4), bytes(1.5e3), bytes(2.5e6), bytes(1e9)], ["17 B", "1.5 kB", "2.5 MB", "1.0 GB"]);
        assert_eq!([grouped(7), grouped(123), grouped(1_234), grouped(1_234_567)], ["7", "123", "1,234", "1,234,567"]);
    }
}
