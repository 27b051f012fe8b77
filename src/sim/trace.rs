//! What every clock showed over time, for a picture or a table: a bounded number of points, from which no peak is missing.

use std::fmt::Write;

use super::report::{Mark, NodeSample, NodeStanding};
use super::scenario::Scenario;
use crate::time::Span;

/// A picture is some 1,100 points wide: more buckets would not be seen.
const MAX_BUCKETS: i64 = 1_200;
/// And fewer would show stairs, however many nodes there are.
const MIN_BUCKETS: i64 = 50;
/// Extremes that are kept over all nodes and buckets: below 100 MB.
const MAX_EXTREMES: i64 = 1 << 20;

/// What every clock showed, decimated: of each bucket of time and each node, the lowest and the highest sample.
#[derive(Clone, Debug)]
pub struct Trace {
    duration: Span,
    width: Span,
    /// When faults begin and end that last.
    faults: Vec<(Span, Span)>,
    buckets: Vec<Bucket>,
}

/// A stretch of time.
#[derive(Clone, Debug)]
struct Bucket {
    index: i64,
    /// For each node; `None` while it does not run.
    nodes: Vec<Option<Extremes>>,
}

/// The samples of one node and bucket that lie farthest below and above the ensemble.
#[derive(Clone, Copy, Debug)]
struct Extremes {
    lowest: Point,
    highest: Point,
}

/// One sample of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// When, in true time.
    pub at: Span,
    /// How far the clock is ahead of the ensemble: the mean of the clocks that count, or of all that run when none does.
    pub offset: Span,
    /// How far it is ahead of true time.
    pub error: Span,
    /// The published error bound.
    pub bound: Span,
    /// Whether it counts.
    pub standing: NodeStanding,
}

impl Extremes {
    /// In the order of time; one when there is only one.
    fn in_order(self) -> impl Iterator<Item = Point> {
        let (first, second) =
            if self.lowest.at <= self.highest.at { (self.lowest, self.highest) } else { (self.highest, self.lowest) };
        std::iter::once(first).chain((first.at != second.at).then_some(second))
    }
}

impl Trace {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let nodes = i64::try_from(scenario.nodes.get()).unwrap_or(i64::MAX);
        let buckets = (MAX_EXTREMES / nodes).clamp(MIN_BUCKETS, MAX_BUCKETS);
        let lasting = scenario.faults.iter().filter(|fault| fault.lasting > Span::ZERO);
        Self {
            duration: scenario.duration,
            // Rounded up, so that the last instant has a bucket as well.
            width: scenario.duration.part(buckets) + Span::from_nanos(1),
            faults: lasting.map(|fault| (fault.at, fault.at + fault.lasting)).collect(),
            buckets: Vec::new(),
        }
    }

    pub(crate) fn record(&mut self, at: Span, nodes: &[NodeSample]) {
        let index = at.as_nanos().checked_div(self.width.as_nanos()).unwrap_or(0);
        if self.buckets.last().is_none_or(|bucket| bucket.index != index) {
            self.buckets.push(Bucket { index, nodes: vec![None; nodes.len()] });
        }
        let Some(bucket) = self.buckets.last_mut() else { return };
        let ensemble = mean(nodes);
        for (kept, sample) in bucket.nodes.iter_mut().zip(nodes) {
            if sample.standing == NodeStanding::Down {
                continue;
            }
            let &NodeSample { error, bound, standing, alone: _, tier: _ } = sample;
            let point = Point { at, offset: error - ensemble, error, bound, standing };
            *kept = Some(match *kept {
                None => Extremes { lowest: point, highest: point },
                Some(Extremes { lowest, highest }) => Extremes {
                    lowest: if point.offset < lowest.offset { point } else { lowest },
                    highest: if point.offset > highest.offset { point } else { highest },
                },
            });
        }
    }

    /// How long the run lasted.
    pub(crate) fn duration(&self) -> Span {
        self.duration
    }

    /// Beginnings and ends of the faults that last.
    pub(crate) fn faults(&self) -> &[(Span, Span)] {
        &self.faults
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.buckets.first().map_or(0, |bucket| bucket.nodes.len())
    }

    /// One node's points in the order of time, a list for each stretch that it ran.
    pub(crate) fn runs(&self, node: usize) -> Vec<Vec<Point>> {
        let mut runs = vec![Vec::new()];
        for bucket in &self.buckets {
            match (bucket.nodes.get(node).copied().flatten(), runs.last_mut()) {
                (Some(extremes), Some(run)) => run.extend(extremes.in_order()),
                (None, Some(run)) if !run.is_empty() => runs.push(Vec::new()),
                (_, Some(_) | None) => {}
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }

    /// For each bucket its middle, what `lowest_and_highest` makes of the extremes of the nodes that count, and nothing without any.
    fn bands(&self, lowest_and_highest: impl Fn(Extremes) -> (Span, Span)) -> Vec<(Span, Span, Span)> {
        let band = |bucket: &Bucket| {
            let counted = |extremes: &&Extremes| {
                extremes.lowest.standing == NodeStanding::Honest && extremes.highest.standing == NodeStanding::Honest
            };
            let bands = || bucket.nodes.iter().flatten().filter(counted).map(|extremes| lowest_and_highest(*extremes));
            let at = self.width.times(bucket.index) + self.width.half();
            Some((at.min(self.duration), bands().map(|(low, _)| low).min()?, bands().map(|(_, high)| high).max()?))
        };
        self.buckets.iter().filter_map(band).collect()
    }

    /// When, and between which offsets all clocks lie that count.
    pub(crate) fn envelope(&self) -> Vec<(Span, Span, Span)> {
        self.bands(|extremes| (extremes.lowest.offset, extremes.highest.offset))
    }

    /// When, and the largest bound that a clock published, on both sides.
    pub(crate) fn bounds(&self) -> Vec<(Span, Span, Span)> {
        let largest = |extremes: Extremes| extremes.lowest.bound.max(extremes.highest.bound);
        let mut bounds = self.bands(|extremes| (-largest(extremes), largest(extremes)));
        bounds.retain(|(_, _, bound)| *bound != Span::MAX);
        bounds
    }

    /// As a table: `time_ns,node,error_ns,bound_ns,standing`, in the order of time; no bound is an empty field.
    pub fn csv(&self) -> String {
        let mut text = "time_ns,node,error_ns,bound_ns,standing\n".to_owned();
        for bucket in &self.buckets {
            let extremes = bucket.nodes.iter().enumerate().filter_map(|(node, kept)| Some((node, (*kept)?)));
            let mut rows: Vec<(usize, Point)> =
                extremes.flat_map(|(node, kept)| kept.in_order().map(move |point| (node, point))).collect();
            rows.sort_by_key(|(node, point)| (point.at, *node));
            for (node, point) in rows {
                let bound = if point.bound == Span::MAX { String::new() } else { point.bound.as_nanos().to_string() };
                let (at, error) = (point.at.as_nanos(), point.error.as_nanos());
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{at},{node},{error},{bound},{}", point.standing);
            }
        }
        text
    }
}

/// What the ensemble shows ahead of true time: the mean of those that count, else of those that run honestly, else of any.
fn mean(nodes: &[NodeSample]) -> Span {
    let of = |wanted: &[NodeStanding]| {
        let errors = || nodes.iter().filter(|node| wanted.contains(&node.standing)).map(|node| node.error.as_nanos());
        let sum: i128 = errors().map(i128::from).sum();
        let mean = sum.checked_div(i128::try_from(errors().count()).unwrap_or(0))?;
        i64::try_from(mean).ok().map(Span::from_nanos)
    };
    of(&[NodeStanding::Honest])
        .or_else(|| of(&[NodeStanding::Joining]))
        .or_else(|| of(&[NodeStanding::Liar]))
        .unwrap_or(Span::ZERO)
}

/// The marks without those that repeat the one before.
pub(crate) fn distinct(marks: &[Mark]) -> Vec<&Mark> {
    let mut distinct: Vec<&Mark> = marks.iter().collect();
    distinct.dedup_by(|later, earlier| later.text == earlier.text && later.at == earlier.at);
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;

    fn sample(error: i64, standing: NodeStanding) -> NodeSample {
        NodeSample { error: Span::from_nanos(error), alone: Span::ZERO, bound: Span::from_micros(1), standing, tier: 0 }
    }

    #[test]
    fn peaks_survive_and_points_are_bounded() {
        let scenario = Scenario { nodes: NonZeroUsize::new(3).unwrap(), ..Scenario::default() };
        let mut trace = Trace::new(&scenario);
        for milli in 0..60_000 {
            let peak = if milli == 31_234 { 5_000_000 } else { milli % 7 };
            let honest = |error| sample(error, NodeStanding::Honest);
            trace.record(Span::from_millis(milli), &[sample(0, NodeStanding::Liar), honest(peak), honest(0)]);
        }
        let [run] = <[_; 1]>::try_from(trace.runs(1)).unwrap();
        assert!((1_000..2_500).contains(&run.len()), "{}", run.len());
        assert!(run.iter().any(|point| point.offset == Span::from_micros(2_500)), "from the mean of those that count");
        assert!(run.is_sorted_by_key(|point| point.at));
        let csv = trace.csv();
        assert!(csv.contains("\n31234000000,1,5000000,1000,honest\n"));
        assert!(csv.lines().count() < 7_500);
        let envelope = trace.envelope();
        assert_eq!(envelope.iter().map(|(_, _, high)| *high).max(), Some(Span::from_micros(2_500)));
        assert_eq!(
            envelope.iter().map(|(_, low, _)| *low).min(),
            Some(Span::from_micros(-2_500)),
            "liars do not count"
        );
        assert_eq!(trace.bounds().first().map(|(_, _, bound)| *bound), Some(Span::from_micros(1)));
    }

    #[test]
    fn a_node_that_was_down_has_two_runs() {
        let mut trace = Trace::new(&Scenario::default());
        for second in 0..60 {
            let standing = if (20..30).contains(&second) { NodeStanding::Down } else { NodeStanding::Honest };
            trace.record(Span::from_secs(second), &[sample(second, standing)]);
        }
        assert_eq!(trace.runs(0).iter().map(Vec::len).collect::<Vec<_>>(), [20, 30]);
        assert_eq!(trace.nodes(), 1);
    }
}
