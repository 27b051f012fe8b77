//! Figures of a run, kept in constant memory however long it is: how large, how often, and since when it is good.
//!
//! What is measured counts only once the ensemble has settled. Nobody knows beforehand when that is, so the figures
//! start afresh whenever the spread leaves its limit, and what they hold at the end is the time since the last return.

use serde::{Serialize, Serializer};

use crate::time::{Skew, Span};

/// Each octave of values is told apart in 2^7 steps: a quantile is too large by less than 1/128, below 1 %.
const STEPS: u32 = 7;

/// The sizes of many spans, from which root mean square, quantiles and maximum are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sizes {
    count: u64,
    sum_of_squares: f64,
    max: Span,
    last: Span,
    /// How many fell into each bin, see [`bin`]; as long as the largest needs.
    bins: Vec<u64>,
}

impl Sizes {
    /// Takes the size of one more.
    pub(crate) fn record(&mut self, span: Span) {
        let size = span.abs();
        self.count = self.count.saturating_add(1);
        self.sum_of_squares += size.as_secs_f64() * size.as_secs_f64();
        self.max = self.max.max(size);
        self.last = size;
        let bin = bin(size);
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        if let Some(count) = self.bins.get_mut(bin) {
            *count = count.saturating_add(1);
        }
    }

    /// Takes all that another has seen, after its own.
    pub(crate) fn merge(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
        self.sum_of_squares += later.sum_of_squares;
        self.max = self.max.max(later.max);
        self.last = later.last;
        self.bins.resize(self.bins.len().max(later.bins.len()), 0);
        for (count, more) in self.bins.iter_mut().zip(&later.bins) {
            *count = count.saturating_add(*more);
        }
    }

    fn rms(&self) -> Option<Span> {
        (self.count > 0).then(|| Span::from_secs_f64((self.sum_of_squares / float(self.count)).sqrt()))
    }

    /// The smallest size that `percent` of all do not exceed, or up to 0.8 % more.
    fn quantile(&self, percent: u64) -> Option<Span> {
        let rank = self.count.saturating_mul(percent).div_ceil(100).max(1);
        let mut below = 0_u64;
        let found = self.bins.iter().position(|count| {
            below = below.saturating_add(*count);
            below >= rank
        });
        found.map(|bin| top(bin).min(self.max))
    }

    /// What there is to say about them.
    pub(crate) fn figures(&self) -> Figures {
        let known = |span| (self.count > 0).then_some(span);
        Figures {
            last: known(self.last),
            rms: self.rms(),
            median: self.quantile(50),
            p99: self.quantile(99),
            max: known(self.max),
        }
    }
}

/// The bin of a size: sizes below 256 ns have one each, above there are 128 in each octave.
fn bin(size: Span) -> usize {
    let nanos = u64::try_from(size.as_nanos()).unwrap_or(0);
    let octave = (u64::BITS - nanos.leading_zeros()).saturating_sub(STEPS + 1);
    let place = (u64::from(octave) << STEPS) + (nanos >> octave);
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// The largest size in a bin.
fn top(bin: usize) -> Span {
    let bin = u64::try_from(bin).unwrap_or(u64::MAX);
    let octave = (bin >> STEPS).saturating_sub(1);
    let next = u128::from(bin - (octave << STEPS) + 1) << octave;
    Span::from_nanos(i64::try_from(next - 1).unwrap_or(i64::MAX))
}

/// Exact below 2^53.
pub(crate) fn float(count: u64) -> f64 {
    let half = |bits: u64| f64::from(u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX));
    half(count >> 32) * 4_294_967_296.0 + half(count)
}

/// What is said about the sizes of many spans. Nothing when there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// The last one.
    #[serde(rename = "final", serialize_with = "maybe_nanos")]
    pub last: Option<Span>,
    /// Root mean square.
    #[serde(serialize_with = "maybe_nanos")]
    pub rms: Option<Span>,
    /// Half are not larger.
    #[serde(serialize_with = "maybe_nanos")]
    pub median: Option<Span>,
    /// 99 % are not larger, or up to 0.8 % less than this.
    #[serde(serialize_with = "maybe_nanos")]
    pub p99: Option<Span>,
    /// The largest.
    #[serde(serialize_with = "maybe_nanos")]
    pub max: Option<Span>,
}

pub(crate) fn maybe_nanos<S: Serializer>(span: &Option<Span>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(Span::as_nanos).serialize(serializer)
}

pub(crate) fn maybe_ppb<S: Serializer>(rate: &Option<Skew>, serializer: S) -> Result<S::Ok, S::Error> {
    rate.map(Skew::as_ppb).serialize(serializer)
}

pub(crate) fn nanos<S: Serializer>(span: &Span, serializer: S) -> Result<S::Ok, S::Error> {
    span.as_nanos().serialize(serializer)
}

/// In whole milliseconds, rounded up.
pub(crate) fn millis<S: Serializer>(span: &Span, serializer: S) -> Result<S::Ok, S::Error> {
    let nanos = span.as_nanos();
    (nanos / 1_000_000 + i64::from(nanos % 1_000_000 > 0)).serialize(serializer)
}

pub(crate) fn maybe_millis<S: Serializer>(span: &Option<Span>, serializer: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => millis(span, serializer),
        None => serializer.serialize_none(),
    }
}

/// Spread, true errors and bounds since the ensemble settled.
#[derive(Clone, Debug)]
pub(crate) struct Settling {
    below: Span,
    /// Figures are taken from then on.
    from: Span,
    /// The spread seen last, settled or not.
    last: Option<Span>,
    settled: Option<Settled>,
}

#[derive(Clone, Debug)]
struct Settled {
    since: Span,
    spreads: Sizes,
    errors: Sizes,
    bounds: Sizes,
}

impl Settling {
    /// Settled is what has a spread below this, and stays there. Figures are taken of what is settled, but not before `from`.
    pub(crate) fn new(below: Span, from: Span) -> Self {
        Self { below, from, last: None, settled: None }
    }

    /// One look at the ensemble. `clocks`: true error and published bound of all that count, two at least (or the only one there
    /// is). `is_complete`: nobody waits for a first correction; before that nothing settles, and afterwards newcomers unsettle nothing.
    pub(crate) fn record(&mut self, at: Span, clocks: &[(Span, Span)], is_complete: bool) {
        let errors = || clocks.iter().map(|(error, _)| *error);
        let (Some(lowest), Some(highest)) = (errors().min(), errors().max()) else { return };
        let spread = highest - lowest;
        self.last = Some(spread);
        if spread >= self.below {
            self.settled = None;
            return;
        }
        if self.settled.is_none() && is_complete {
            let none = Sizes::default;
            self.settled = Some(Settled { since: at, spreads: none(), errors: none(), bounds: none() });
        }
        if let Some(settled) = self.settled.as_mut().filter(|_| at >= self.from) {
            settled.spreads.record(spread);
            for (error, bound) in clocks {
                settled.errors.record(*error);
                if *bound != Span::MAX {
                    settled.bounds.record(*bound);
                }
            }
        }
    }

    /// Since when it is settled; `None` when it is not.
    pub(crate) fn since(&self) -> Option<Span> {
        self.settled.as_ref().map(|settled| settled.since)
    }

    /// The spread since then; the last one is known in any case.
    pub(crate) fn spread(&self) -> Figures {
        Figures {
            last: self.last,
            ..self.settled.as_ref().map(|settled| settled.spreads.figures()).unwrap_or_default()
        }
    }

    /// The distances of all clocks that count from true time since then.
    pub(crate) fn error(&self) -> Figures {
        self.settled.as_ref().map(|settled| settled.errors.figures()).unwrap_or_default()
    }

    /// The error bounds that they published since then.
    pub(crate) fn bound(&self) -> Figures {
        self.settled.as_ref().map(|settled| settled.bounds.figures()).unwrap_or_default()
    }
}

/// One clock that counts, for the figures of its tier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TierClock {
    /// How many domains are above it.
    pub(crate) tier: usize,
    /// What it shows less true time.
    pub(crate) error: Span,
    /// The error bound that it publishes.
    pub(crate) bound: Span,
}

/// What is said of the clocks of one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TierFigures {
    /// How far they were from the mean of the topmost ensemble.
    #[serde(rename = "distance_ns")]
    pub distance: Figures,
    /// The error bounds that they published.
    #[serde(rename = "bound_ns")]
    pub bound: Figures,
}

/// How the clocks of each tier do since all settled.
#[derive(Clone, Debug, Default)]
pub(crate) struct TierSizes {
    settled: Option<Span>,
    /// Distances and bounds.
    tiers: Vec<(Sizes, Sizes)>,
}

impl TierSizes {
    /// One look at all clocks that count. `settled`: since when they agree, as of now; `counts`: the time to take figures has come.
    pub(crate) fn record(&mut self, clocks: &[TierClock], settled: Option<Span>, counts: bool) {
        if self.settled != settled {
            (self.settled, self.tiers) = (settled, Vec::new());
        }
        let top = || clocks.iter().filter(|clock| clock.tier == 0).map(|clock| clock.error);
        let Some(count) = i64::try_from(top().count()).ok().filter(|count| *count > 0 && counts && settled.is_some())
        else {
            return;
        };
        let mean = top().fold(Span::ZERO, |sum, error| sum + error).part(count);
        for TierClock { tier, error, bound } in clocks {
            if self.tiers.len() <= *tier {
                self.tiers.resize(tier + 1, Default::default());
            }
            if let Some((distances, bounds)) = self.tiers.get_mut(*tier) {
                distances.record(*error - mean);
                bounds.record(*bound);
            }
        }
    }

    /// Of each tier, the topmost first.
    pub(crate) fn figures(&self) -> Vec<TierFigures> {
        let figures = |(distances, bounds): &(Sizes, Sizes)| TierFigures {
            distance: distances.figures(),
            bound: bounds.figures(),
        };
        self.tiers.iter().map(figures).collect()
    }
}

/// By how much the ensemble has moved its members from where they would be alone, and how fast it goes on doing so.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drag {
    /// When they settled, and by how much they had been moved by then.
    settled: Option<(Span, Span)>,
    /// The same of the last look.
    last: Option<(Span, Span)>,
}

impl Drag {
    /// At `at` they are `dragged` from where they would be. `settled`: since when they agree, as of now.
    pub(crate) fn record(&mut self, at: Span, dragged: Span, settled: Option<Span>) {
        self.last = Some((at, dragged));
        if self.settled.map(|(at, _)| at) != settled {
            self.settled = settled.map(|_| (at, dragged));
        }
    }

    /// By how much in the end.
    pub(crate) fn dragged(&self) -> Option<Span> {
        self.last.map(|(_, dragged)| dragged)
    }

    /// How fast that has grown since they settled.
    pub(crate) fn rate(&self) -> Option<Skew> {
        let ((begin, before), (end, after)) = self.settled.zip(self.last)?;
        (end > begin).then(|| Skew::from_ratio((after - before).as_secs_f64() / (end - begin).as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by sorting everything.
    fn naive(spans: &[Span]) -> Option<(f64, Span, Span)> {
        let mut sorted = spans.to_vec();
        sorted.sort();
        let count = spans.len();
        let squares: f64 = spans.iter().map(|span| span.as_secs_f64().powi(2)).sum();
        let p99 = sorted.get((count * 99).div_ceil(100).checked_sub(1)?)?;
        Some(((squares / f64::from(u32::try_from(count).unwrap())).sqrt(), *p99, *sorted.last()?))
    }

    #[test]
    fn every_size_lies_in_a_bin_less_than_one_percent_wide() {
        let mut previous = None;
        for bin_index in 0..bin(Span::MAX) {
            let highest = top(bin_index);
            assert_eq!(bin(highest), bin_index);
            let lowest = previous.map_or(Span::ZERO, |previous: Span| previous + Span::from_nanos(1));
            assert_eq!(bin(lowest), bin_index, "bins tile the sizes");
            assert!((highest - lowest).times(128) <= highest.max(Span::from_nanos(128)));
            previous = Some(highest);
        }
        assert_eq!(top(bin(Span::MAX)), Span::MAX);
    }

    #[test]
    fn counts_become_floats() {
        for (count, expected) in
            [(0, 0.0), (7, 7.0), (1 << 40, 1_099_511_627_776.0), (u64::MAX, 1.844_674_407_370_955_2e19)]
        {
            assert!((float(count) - expected).abs() <= 0.0, "{count}");
        }
    }

    #[test]
    fn nothing_settles_while_a_node_waits_for_its_first_correction() {
        let mut settling = Settling::new(Span::from_millis(1), Span::ZERO);
        let clocks = [(Span::ZERO, Span::ZERO), (Span::from_micros(10), Span::MAX)];
        settling.record(Span::from_secs(1), &clocks, false);
        assert_eq!(settling.since(), None);
        settling.record(Span::from_secs(2), &clocks, true);
        settling.record(Span::from_secs(3), &clocks, false);
        assert_eq!(settling.since(), Some(Span::from_secs(2)));
        assert_eq!(settling.error().max, Some(Span::from_micros(10)));
        assert_eq!(settling.bound().max, Some(Span::ZERO), "no bound is not a bound");
        settling.record(Span::from_secs(4), &[(Span::ZERO, Span::ZERO), (Span::from_millis(-1), Span::ZERO)], true);
        assert_eq!((settling.since(), settling.spread().max), (None, None));
        assert_eq!(settling.spread().last, Some(Span::from_millis(1)));
    }

    #[test]
    fn distances_are_from_the_mean_of_the_topmost_tier_and_begin_anew_when_all_settle_anew() {
        let clock = |(tier, micros)| {
            let (error, bound) = (Span::from_micros(micros), Span::from_micros(100));
            TierClock { tier, error, bound }
        };
        let max = |sizes: &TierSizes| -> Vec<i64> {
            let nanos = |figures: TierFigures| figures.distance.max.unwrap().as_nanos() / 1_000;
            sizes.figures().into_iter().map(nanos).collect()
        };
        let mut sizes = TierSizes::default();
        let clocks = [(0, 10), (2, 25), (0, 20), (1, 5)].map(clock);
        let (first, anew) = (Some(Span::from_secs(1)), Some(Span::from_secs(9)));
        sizes.record(&clocks, None, true);
        sizes.record(&clocks, first, false);
        assert_eq!(max(&sizes), [0; 0]);
        sizes.record(&clocks, first, true);
        sizes.record(&[(0, 1), (1, 0)].map(clock), first, true);
        assert_eq!(max(&sizes), [5, 10, 10]);
        assert_eq!(sizes.figures()[1].bound.max, Some(Span::from_micros(100)));
        sizes.record(&[(0, 1), (1, 0)].map(clock), anew, true);
        assert_eq!(max(&sizes), [0, 1]);
        sizes.record(&[(2, 7)].map(clock), anew, true);
        assert_eq!(max(&sizes), [0, 1], "without a topmost clock there is nothing to be far from");
    }

    #[test]
    fn drag_is_what_is_gained_since_settling() {
        let mut drag = Drag::default();
        assert_eq!((drag.dragged(), drag.rate()), (None, None));
        let moved = |second| Span::from_micros(-500 - 3 * second);
        for second in 0..=20 {
            // Settled at 4 s, unsettled again, and settled at 10 s.
            let settled = match second {
                4..6 => Some(Span::from_secs(4)),
                10.. => Some(Span::from_secs(10)),
                _ => None,
            };
            // The steps of the beginning are no rate.
            let stepped = if second < 8 { Span::from_millis(40) } else { Span::ZERO };
            drag.record(Span::from_secs(second), moved(second) + stepped, settled);
            assert_eq!(drag.rate().is_some(), second == 5 || second > 10, "at {second} s");
        }
        assert_eq!((drag.dragged(), drag.rate()), (Some(Span::from_micros(-560)), Some(Skew::from_ppm(-3))));
    }

    proptest! {
        #[test]
        fn figures_agree_with_a_naive_computation(
            spreads in proptest::collection::vec(prop_oneof![0..1_000_i64, 0..1_200_000_i64], 1..400),
            from in prop_oneof![Just(0_i64), 0..400_i64]
        ) {
            let below = Span::from_millis(1);
            let mut settling = Settling::new(below, Span::from_secs(from));
            for (at, spread) in (1..).zip(&spreads) {
                let spread = Span::from_nanos(*spread);
                settling.record(Span::from_secs(at), &[(spread, spread), (Span::ZERO, spread)], true);
            }
            let tail = spreads.iter().rev().take_while(|spread| **spread < below.as_nanos()).count();
            let start = spreads.len() - tail;
            // The spread with index i is of second i + 1.
            let judged = start.max(usize::try_from(from - 1).unwrap_or(0)).min(spreads.len());
            let expected: Vec<Span> = spreads[judged..].iter().map(|nanos| Span::from_nanos(*nanos)).collect();
            let figures = settling.spread();
            let since = (tail > 0).then(|| Span::from_secs(i64::try_from(start).unwrap() + 1));
            prop_assert_eq!(settling.since(), since);
            prop_assert_eq!(figures.last, spreads.last().map(|nanos| Span::from_nanos(*nanos)));
            match naive(&expected) {
                None => prop_assert_eq!(figures.rms, None),
                Some((rms, p99, max)) => {
                    let found = figures.rms.unwrap().as_secs_f64();
                    prop_assert!((found - rms).abs() <= 0.5e-9 + rms * 1e-9, "{} for {}", found, rms);
                    let excess = figures.p99.unwrap() - p99;
                    prop_assert!(excess.is_forward() && excess.times(100) <= p99, "{} above {}", excess, p99);
                    prop_assert_eq!(figures.max, Some(max));
                }
            }
        }
    }
}
