//! What a run measured, held against the limits of the scenario, in words and as JSON.

use std::fmt;

use serde::Serialize;

use super::report::{Event, Mark, Violation};
use super::scenario::Limits;
pub use super::statistics::{Figures, TierFigures};
use super::statistics::{float, maybe_millis, maybe_nanos, maybe_ppb, millis, nanos};
use super::trace::Trace;
use super::words::{brief, bytes, grouped, maybe};
use crate::average::Average;
use crate::time::{Skew, Span};

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
    /// What happened before the first violation, or last of all; see [`with_events`](super::recorder::Recorder::with_events).
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

    /// It, held against the limits of its scenario.
    pub(super) fn judged(self, limits: &Limits) -> Self {
        let limits = self.judge(limits);
        Self { ok: self.violation_count == 0 && limits.iter().all(|verdict| verdict.ok), limits, ..self }
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::super::recorder::Recorder;
    use super::super::report::{Invariant, NodeSample, NodeStanding};
    use super::super::scenario::Scenario;
    use super::*;

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
}
