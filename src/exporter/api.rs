//! The JSON that the page reads: how the nodes stand, and what was seen of them since the last answer.
//!
//! Times are microseconds since the exporter started, which JavaScript's numbers keep exactly; what lies before is negative.

use std::ops::RangeInclusive;

use serde::Serialize;

use crate::local_clock::LocalClock;
use crate::observation::{Dated, Mastership, Observation, Point, Sample};
use crate::status::Status;
use crate::time::{LocalTime, Span};

use super::watched::Watched;

/// Points that one answer has at most, some 300 KB of text: a browser reads it in a few milliseconds. Who has more to catch up with asks again.
const POINTS: usize = 10_000;

#[derive(Serialize)]
struct Nodes<'a> {
    version: &'static str,
    /// Another number: another exporter, whose times begin anew.
    exporter: u64,
    now_us: i64,
    /// The same instant on the system's clock.
    now_unix_ms: i64,
    /// What happened until then is told here or was before: `after` of the next request.
    upto_us: i64,
    /// There is more after `upto_us`.
    has_more: bool,
    nodes: Vec<NodeView<'a>>,
}

#[derive(Serialize)]
struct NodeView<'a> {
    socket: String,
    /// The last one, however old; null when there was none.
    status: Option<&'a Status>,
    seen_us: Option<i64>,
    /// Null: it answers.
    silence: Option<SilenceView<'a>>,
    /// All that are kept, each time: there are not many.
    masterships: Vec<MastershipView>,
    happenings: Vec<HappeningView>,
    samples: Vec<SampleView>,
}

#[derive(Serialize)]
struct SilenceView<'a> {
    since_us: i64,
    reason: &'a str,
}

#[derive(Serialize)]
struct MastershipView {
    domain: u32,
    term: u64,
    master: u64,
    from_us: i64,
    until_us: i64,
}

#[derive(Serialize)]
struct HappeningView {
    at_us: i64,
    text: String,
    is_worrying: bool,
}

/// Columns, which are half as long as rows.
#[derive(Serialize)]
struct SampleView {
    at_us: i64,
    /// Null: no bound is known.
    error_bound_ns: Option<i64>,
    nodes: Vec<u64>,
    offsets_ns: Vec<i64>,
    error_bounds_ns: Vec<i64>,
    /// Those of `nodes` whose clocks were not averaged.
    left_out: Vec<u64>,
}

/// Who tells, and the instant from which it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Teller {
    pub(super) clock: LocalClock,
    pub(super) started: LocalTime,
    /// Drawn at the start.
    pub(super) number: u64,
}

/// All nodes, and what was seen of them later than `after` (microseconds since the start), as JSON.
pub(super) fn nodes(nodes: &[Watched], teller: &Teller, after: i64) -> String {
    let since = |at: LocalTime| (at - teller.started).as_nanos() / 1_000;
    // Before anything is read: what is seen from here on is for the next answer.
    let now = teller.clock.pair();
    let seen: Vec<_> = nodes.iter().map(Watched::seen).collect();
    let upto = horizon(seen.iter().map(|seen| &seen.observation), since, after..=since(now.local));
    let is_told = |at: LocalTime| after < since(at) && since(at) <= upto;
    let views = seen.iter().map(|seen| {
        let observation = &seen.observation;
        NodeView {
            socket: seen.path.display().to_string(),
            status: observation.last().map(|look| &look.status),
            seen_us: observation.last().map(|look| since(look.at)),
            silence: observation
                .silence()
                .map(|silence| SilenceView { since_us: since(silence.since), reason: &silence.reason }),
            masterships: observation.masterships().map(|one| mastership(one, since)).collect(),
            happenings: observation
                .happenings_after(0)
                .filter(|dated| is_told(dated.at))
                .map(|dated| happening(dated, since))
                .collect(),
            samples: observation
                .samples_after(0)
                .filter(|sample| is_told(sample.at))
                .map(|one| sample(one, since))
                .collect(),
        }
    });
    let answer = Nodes {
        version: env!("CARGO_PKG_VERSION"),
        exporter: teller.number,
        now_us: since(now.local),
        now_unix_ms: now.system.as_nanos() / 1_000_000,
        upto_us: upto,
        has_more: upto < since(now.local),
        nodes: views.collect(),
    };
    serde_json::to_string(&answer).unwrap_or_default()
}

/// Until when everything after the start of `range` fits an answer: its end, or the last sample's time at which there are [`POINTS`].
fn horizon<'a>(
    observations: impl Iterator<Item = &'a Observation>,
    since: impl Fn(LocalTime) -> i64,
    range: RangeInclusive<i64>,
) -> i64 {
    let samples = observations.flat_map(|observation| observation.samples_after(0));
    let mut sizes: Vec<(i64, usize)> = samples
        .map(|sample| (since(sample.at), 1 + sample.points.len()))
        .filter(|(at, _)| at > range.start() && at <= range.end())
        .collect();
    sizes.sort_unstable();
    let (mut points, mut last) = (0, None);
    for (at, size) in sizes {
        points += size;
        // At least one instant, or there would be no end of asking.
        match last.filter(|last| points > POINTS && *last < at) {
            Some(last) => return last,
            None => last = Some(at),
        }
    }
    *range.end()
}

fn mastership(one: &Mastership, since: impl Fn(LocalTime) -> i64) -> MastershipView {
    MastershipView {
        domain: one.domain.get(),
        term: one.term.get(),
        master: one.master.get(),
        from_us: since(one.from),
        until_us: since(one.until),
    }
}

fn happening(dated: &Dated, since: impl Fn(LocalTime) -> i64) -> HappeningView {
    let Dated { at, happening, .. } = dated;
    HappeningView { at_us: since(*at), text: happening.to_string(), is_worrying: happening.is_worrying() }
}

fn sample(sample: &Sample, since: impl Fn(LocalTime) -> i64) -> SampleView {
    let column = |number: fn(&Point) -> i64| sample.points.iter().map(number).collect();
    SampleView {
        at_us: since(sample.at),
        error_bound_ns: (sample.error_bound != Span::MAX).then(|| sample.error_bound.as_nanos()),
        nodes: sample.points.iter().map(|point| point.node.get()).collect(),
        offsets_ns: column(|point| point.offset.as_nanos()),
        error_bounds_ns: column(|point| point.error_bound.as_nanos()),
        left_out: sample.points.iter().filter(|point| !point.is_counted).map(|point| point.node.get()).collect(),
    }
}
