//! Listens to the world while it runs, and makes an outcome of what it heard.
//!
//! The recorder judges nothing while it listens: figures (`statistics.rs`), samples for a picture (`trace.rs`), marks,
//! violations and the last events before the first of them, each in bounded memory.

use std::collections::VecDeque;

use super::outcome::Outcome;
use super::report::{Event, Mark, NodeSample, NodeStanding, Violation};
use super::scenario::Scenario;
use super::statistics::{Drag, Settling, TierClock, TierSizes, float};
use super::trace::Trace;
use crate::time::Span;

/// What counts as settled unless the scenario says otherwise.
pub const SETTLE_BELOW: Span = Span::from_millis(1);
/// Violations that are kept; the others are counted.
const MAX_VIOLATIONS: usize = 20;
/// Marks that are kept: more could not be read in a picture.
const MAX_MARKS: usize = 500;
/// Events that are kept before a violation: some rounds of a small ensemble.
const MAX_EVENTS: usize = 80;

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
        let outcome = Outcome {
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
        outcome.judged(&scenario.limits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Invariant;
    use super::*;

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
}
