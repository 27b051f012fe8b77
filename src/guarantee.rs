//! Within which interval offset and skew of a slave's local clock lie for certain, whatever delayed the exchanges.
//!
//! **Model.** Nothing arrives before it was sent. So each exchange has two edges, which hold whatever queues, routes or somebody on the
//! wire made of it: the offset lay below t2 - t1 when the request went, and above t3 - t4 when the response came (half the delay on either side
//! of what was measured). Between two instants the offset moves by the skew, and the skew by no more than the oscillators wander.
//!
//! **Method.** The newest interval of the offset, and an interval of the skew, are carried forward and cut at each exchange. Two
//! intervals of the offset, this and an earlier one, bound the skew between them: it lies below that of the line from the lower end of the
//! earlier to the upper end of this, and above that of the line between the other two ends. The earlier ones are a few, kept
//! at ages that grow geometrically: a young one lies too close, and since an old one the skew has wandered.
//!
//! Somebody who holds exchanges back longer and longer passes for a clock that runs at another rate, and no statistics tells the two apart. Here the
//! ends lie as far apart as the newest delay and the oldest intervals allow, and nothing is claimed that a ramp could belie.
//!
//! What is assumed: no oscillator is wrong by more than [`LARGEST_RATE`], and none wanders faster than it is said to. Should it
//! all the same (it jumps, it changes its rate), the intervals no longer meet, sooner or later: earlier ones are forgotten.
//!
//! Sources: Cristian's bound; the lines between two clouds of stamps after Moon, Skelly and Towsley 1999; set-membership filtering after
//! Schweppe 1968.

use crate::exchange::{LARGEST_RATE, Sample};
use crate::time::{LocalTime, Offset, Skew, Span};

/// How the skew of two oscillators wanders at least, per square root of a second: that of two quartzes with changing
/// temperature, see `clock.rs`. Larger: the bounds are wider in steady state. Smaller: they do not hold for such oscillators.
const LEAST_WANDER: f64 = 7e-9;

/// Bounds take this many standard deviations of what is only known statistically.
pub const SIGMAS: f64 = 4.0;

/// How many intervals are kept, the newest among them. Fewer: the skew is bounded by one whose age is farther from the best. More: 24 bytes each.
const ANCHORS: usize = 6;

/// Who is older than one of this age says nothing any more: since then the skew has wandered by more than they bound it.
const LONG_AGO: Span = Span::from_secs(300);

/// The pause between the exchanges of a burst: intervals that lie closer are as good as one.
const CLOSE: f64 = 20e-3;

/// What is rounded is wrong by less. All is rounded outward, or a thousand roundings would add up to a false bound.
const GRAIN: Span = Span::from_nanos(1);

/// What statistics say of the skew at some instant. It widens what is guaranteed, and never narrows it.
#[derive(Clone, Copy, Debug)]
pub struct Likely {
    /// A ratio.
    pub skew: f64,
    /// [`SIGMAS`] standard errors of it.
    pub error: f64,
    /// How it wanders, per square root of a second.
    pub wander: f64,
}

impl Likely {
    /// How far the skew can have wandered in so many seconds.
    fn wandered(&self, age: f64) -> f64 {
        SIGMAS * self.wander.max(LEAST_WANDER) * age.abs().sqrt()
    }

    /// How far the offset can have gone astray from a line meanwhile, in seconds: the integral of a random walk.
    fn strayed(&self, age: f64) -> f64 {
        self.wandered(age) * age.abs() / 3.0_f64.sqrt()
    }
}

/// Between what rates the skew lies, as ratios.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// From this,
    pub slowest: f64,
    /// to this.
    pub fastest: f64,
}

impl Rates {
    /// All that an oscillator can do.
    fn physical() -> Self {
        Self { slowest: -LARGEST_RATE.as_ratio(), fastest: LARGEST_RATE.as_ratio() }
    }

    /// By how much the offset grows in so many seconds, at least and at most, rounded away from each other. Negative ones lead back.
    fn over(self, elapsed: f64) -> (Span, Span) {
        let (slow, fast) = (self.slowest * elapsed, self.fastest * elapsed);
        (Span::from_secs_f64(slow.min(fast)) - GRAIN, Span::from_secs_f64(slow.max(fast)) + GRAIN)
    }

    /// What a sample alone says of the offset at `now`. Its request was under way at t1 and its response at t4, which may lie seconds apart.
    fn seen(self, sample: Sample, now: LocalTime) -> Interval {
        let half_trip = sample.round_trip.half();
        let moved = |since: LocalTime| self.over((now - since).as_secs_f64());
        let ((_, most), (least, _)) = (moved(sample.at - half_trip), moved(sample.at + half_trip));
        let half = sample.delay.half();
        Interval { low: sample.offset, high: sample.offset }.moved((least - half, most + half))
    }

    fn is_empty(self) -> bool {
        self.slowest > self.fastest
    }

    fn cut(self, other: Self) -> Self {
        Self { slowest: self.slowest.max(other.slowest), fastest: self.fastest.min(other.fastest) }
    }

    /// Of what is guaranteed and what is likely, the less certain at either end.
    fn widened(self, likely: &Likely) -> Self {
        let Likely { skew, error, .. } = *likely;
        Self { slowest: self.slowest.min(skew - error), fastest: self.fastest.max(skew + error) }
    }
}

/// Between what values an offset lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// From this,
    pub low: Offset,
    /// to this.
    pub high: Offset,
}

impl Interval {
    /// How far from `offset` anything in it can be.
    pub fn farthest(self, offset: Offset) -> Span {
        self.low.distance(offset).max(self.high.distance(offset))
    }

    fn is_empty(self) -> bool {
        self.low > self.high
    }

    fn moved(self, (least, most): (Span, Span)) -> Self {
        Self { low: Offset::new(self.low.ahead() + least), high: Offset::new(self.high.ahead() + most) }
    }

    fn cut(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }
}

/// One end of the skew's interval, when it was found.
#[derive(Clone, Copy, Debug)]
struct End {
    rate: f64,
    since: LocalTime,
}

/// An interval of the offset, at the instant for which it holds.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    at: LocalTime,
    offset: Interval,
}

/// What the exchanges with one slave leave open.
#[derive(Clone, Debug)]
pub struct Guarantee {
    slowest: End,
    fastest: End,
    /// The oldest first. While there are fewer the first stands for those that are missing.
    anchors: [Anchor; ANCHORS],
}

impl Guarantee {
    /// After the first exchange. `expected`: the skew, and how far it can be from that.
    pub fn new(first: Sample, (skew, most): (Skew, Skew)) -> Self {
        let (slowest, fastest) = ((skew - most).as_ratio(), (skew + most).as_ratio());
        let mut expected = Rates { slowest, fastest }.cut(Rates::physical());
        let mut offset = expected.seen(first, first.at);
        if offset.is_empty() {
            // It took its time, and its clock ran otherwise meanwhile. As any oscillator may, or it would be no sample.
            expected = Rates::physical();
            offset = expected.seen(first, first.at);
        }
        let end = |rate| End { rate, since: first.at };
        let anchors = [Anchor { at: first.at, offset }; ANCHORS];
        Self { slowest: end(expected.slowest), fastest: end(expected.fastest), anchors }
    }

    fn newest(&self) -> Anchor {
        let [.., newest] = self.anchors;
        newest
    }

    /// The instant of the newest sample.
    pub fn at(&self) -> LocalTime {
        self.newest().at
    }

    /// The offsets of all samples so far were too small by this much.
    pub fn shift(&mut self, by: Span) {
        for anchor in &mut self.anchors {
            anchor.offset = anchor.offset.moved((by, by));
        }
    }

    /// Between what rates the skew lies at `at`.
    pub fn rates(&self, at: LocalTime, likely: &Likely) -> Rates {
        self.certain(at, likely).widened(likely)
    }

    /// The same by the exchanges alone.
    fn certain(&self, at: LocalTime, likely: &Likely) -> Rates {
        let wandered = |end: End| likely.wandered((at - end.since).as_secs_f64());
        let (slowest, fastest) = (self.slowest, self.fastest);
        Rates { slowest: slowest.rate - wandered(slowest), fastest: fastest.rate + wandered(fastest) }
            .cut(Rates::physical())
    }

    /// Between what values the offset lies at `at`.
    pub fn offset(&self, at: LocalTime, likely: &Likely) -> Interval {
        self.moved(at, self.rates(at, likely))
    }

    /// The same, at these rates.
    fn moved(&self, at: LocalTime, rates: Rates) -> Interval {
        let newest = self.newest();
        newest.offset.moved(rates.over((at - newest.at).as_secs_f64()))
    }

    /// True when no offset agrees with the sample and with those before.
    pub fn contradicts(&self, sample: Sample, likely: &Likely) -> bool {
        self.joined(sample, likely).offset.is_empty()
    }

    /// Takes a sample in that does not contradict.
    pub fn absorb(&mut self, sample: Sample, likely: &Likely) {
        let newest = self.joined(sample, likely);
        self.bound_skew(newest, likely);
        self.remember(newest);
    }

    /// What a sample and those before it leave open.
    fn joined(&self, sample: Sample, likely: &Likely) -> Anchor {
        let at = self.at().max(sample.at);
        let rates = self.rates(at, likely);
        Anchor { at, offset: self.moved(at, rates).cut(rates.seen(sample, at)) }
    }

    /// Cuts the skew by what the earlier intervals and the newest say of it, the younger first: one that contradicts them, and all before it, are of
    /// before the oscillator changed its rate.
    fn bound_skew(&mut self, newest: Anchor, likely: &Likely) {
        let Anchor { at: now, offset } = newest;
        let mut found = Rates::physical();
        let mut is_past = false;
        for anchor in self.anchors.iter_mut().rev() {
            let age = (now - anchor.at).as_secs_f64();
            if age <= 0.0 {
                continue;
            }
            let gained = |from: Offset, to: Offset| (to.ahead() - from.ahead()).as_secs_f64();
            let strayed = likely.strayed(age);
            let between = found.cut(Rates {
                slowest: (gained(anchor.offset.high, offset.low) - strayed) / age,
                fastest: (gained(anchor.offset.low, offset.high) + strayed) / age,
            });
            is_past |= between.is_empty();
            if is_past {
                *anchor = newest;
            } else {
                found = between;
            }
        }
        let before = self.certain(now, likely);
        let is_changed = is_past || before.cut(found).is_empty();
        if is_changed || found.slowest > before.slowest {
            self.slowest = End { rate: found.slowest, since: now };
        }
        if is_changed || found.fastest < before.fastest {
            self.fastest = End { rate: found.fastest, since: now };
        }
    }

    /// Keeps the newest interval. One makes room for it: the oldest, when the next would do, or else the one without which the gap between its
    /// neighbours is the least for its age.
    fn remember(&mut self, newest: Anchor) {
        let now = newest.at;
        let age = |anchor: &Anchor| (now - anchor.at).as_secs_f64();
        let is_outlived = self.anchors.get(1).is_some_and(|second| now - second.at > LONG_AGO);
        let neighbours = self.anchors.iter().zip(self.anchors.iter().skip(2).chain([&newest]));
        let gaps = neighbours.map(|(before, after)| (age(before) - age(after)) / (age(after) + CLOSE));
        let narrowest = gaps.enumerate().min_by(|(_, one), (_, other)| one.total_cmp(other));
        let place = narrowest.filter(|_| !is_outlived).map_or(0, |(before, _)| before + 1);
        if let Some(later) = self.anchors.get_mut(place..) {
            later.rotate_left(1);
        }
        let [.., last] = &mut self.anchors;
        *last = newest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Exchange;
    use proptest::prelude::*;

    const START: LocalTime = LocalTime::from_nanos(1_000_000_000_000);
    /// What a datagram takes that nothing holds up.
    const WAY: Span = Span::from_micros(50);

    /// Statistics that have nothing to say: they widen nothing.
    fn silent(of: &Guarantee) -> Likely {
        let Rates { slowest, fastest } = of.certain(of.at(), &Likely { skew: 0.0, error: 0.0, wander: 0.0 });
        Likely { skew: slowest.midpoint(fastest), error: 0.0, wander: 0.0 }
    }

    /// A slave that was `AHEAD` at `START` and runs fast by `skew`.
    const AHEAD: Span = Span::from_secs(-500_000_000);

    fn truth(skew: Skew, at: LocalTime) -> Offset {
        Offset::new(AHEAD + skew.over(at - START))
    }

    /// An exchange whose request left at `t1`, and is answered at once.
    fn exchanged(t1: LocalTime, skew: Skew, request: Span, response: Span) -> Sample {
        taken(t1, skew, request, Span::ZERO, response)
    }

    /// The same when the slave takes its time.
    fn taken(t1: LocalTime, skew: Skew, request: Span, turnaround: Span, response: Span) -> Sample {
        let (arrived, left) = (t1 + request, t1 + request + turnaround);
        let shown = |at: LocalTime| at.on_other_clock(truth(skew, at));
        Exchange { t1, t2: shown(arrived), t3: shown(left), t4: left + response }.sample().expect("a true exchange")
    }

    fn begun(first: Sample) -> Guarantee {
        Guarantee::new(first, (Skew::ZERO, LARGEST_RATE))
    }

    /// Takes it in, and looks whether the truth is inside.
    fn assert_holds(guarantee: &mut Guarantee, sample: Sample, skew: Skew) {
        let likely = silent(guarantee);
        assert!(!guarantee.contradicts(sample, &likely), "{sample:?} is true");
        guarantee.absorb(sample, &likely);
        let likely = silent(guarantee);
        let Rates { slowest, fastest } = guarantee.rates(guarantee.at(), &likely);
        let ratio = skew.as_ratio();
        assert!(slowest <= ratio && ratio <= fastest, "{skew} outside {slowest} to {fastest}");
        for later in [Span::ZERO, Span::from_secs(1), Span::from_secs(60)] {
            let at = guarantee.at() + later;
            let (Interval { low, high }, truth) = (guarantee.offset(at, &likely), truth(skew, at));
            assert!(low <= truth && truth <= high, "{truth} outside {low} to {high} after {later}");
        }
    }

    #[test]
    fn no_ramp_belies_it() {
        let skew = Skew::from_ppm(40);
        for speed in [1, 10, 100, 1_000, 10_000].map(Skew::from_ppm) {
            for (to_slave, to_master) in [(true, false), (false, true), (true, true)] {
                for is_released in [false, true] {
                    let end = Span::from_secs(120);
                    let held = |is_held, since: Span| {
                        let longer = speed.over(if is_released { end - since } else { since });
                        if is_held { WAY + longer } else { WAY }
                    };
                    let at = |second| {
                        let since = Span::from_secs(second);
                        exchanged(START + since, skew, held(to_slave, since), held(to_master, since))
                    };
                    let mut guarantee = begun(at(0));
                    (1..120).for_each(|second| assert_holds(&mut guarantee, at(second), skew));
                }
            }
        }
    }

    #[test]
    fn an_expectation_that_the_first_exchange_belies_is_given_up() {
        // In a quarter of a second the slave gained 25 µs, which neither 1 µs a way nor 4 ppm explain.
        let (skew, way, wait) = (Skew::from_ppm(100), Span::from_micros(1), Span::from_millis(250));
        let first = taken(START, skew, way, wait, way);
        let mut guarantee = Guarantee::new(first, (Skew::ZERO, Skew::from_ppm(4)));
        assert_holds(&mut guarantee, taken(START + Span::from_secs(1), skew, way, wait, way), skew);
    }

    #[test]
    fn quick_exchanges_leave_little_more_than_half_their_delay_open() {
        let skew = Skew::from_ppm(-70);
        let mut guarantee = begun(exchanged(START, skew, WAY, WAY));
        for second in 1..=400 {
            let held = if second % 20 == 0 { Span::ZERO } else { Span::from_millis(1) };
            let t1 = START + Span::from_secs(second);
            assert_holds(&mut guarantee, exchanged(t1, skew, WAY + held, WAY), skew);
        }
        let (at, likely) = (guarantee.at(), silent(&guarantee));
        let (rates, offset) = (guarantee.rates(at, &likely), guarantee.offset(at, &likely));
        assert!(rates.fastest - rates.slowest < 2e-6, "{rates:?}");
        assert!(offset.farthest(truth(skew, at)) < WAY + Span::from_micros(3), "{offset:?}");
    }

    #[test]
    fn what_was_before_a_change_of_rate_is_forgotten() {
        let (before, after, change) = (Skew::from_ppm(-20), Skew::from_ppm(20), START + Span::from_secs(300));
        let at = |second| {
            let t1 = START + Span::from_secs(second);
            let sample = exchanged(t1, before, WAY, WAY);
            let since = (sample.at - change).max(Span::ZERO);
            Sample { offset: Offset::new(sample.offset.ahead() + (after - before).over(since)), ..sample }
        };
        let mut guarantee = begun(at(0));
        for second in 1..=400 {
            let likely = Likely { error: 100e-6, ..silent(&guarantee) };
            assert!(!guarantee.contradicts(at(second), &likely), "at {second} s");
            guarantee.absorb(at(second), &likely);
        }
        let Rates { slowest, fastest } = guarantee.certain(guarantee.at(), &silent(&guarantee));
        assert!(slowest < 20e-6 && 20e-6 < fastest && fastest - slowest < 4e-6, "{slowest} to {fastest}");
    }

    #[test]
    fn statistics_widen_it_and_never_narrow_it() {
        let mut guarantee = begun(exchanged(START, Skew::ZERO, WAY, WAY));
        let later = exchanged(START + Span::from_secs(100), Skew::ZERO, WAY, WAY);
        assert_holds(&mut guarantee, later, Skew::ZERO);
        let at = later.at + Span::from_secs(10);
        let of = |skew, error| guarantee.offset(at, &Likely { skew, error, wander: 0.0 });
        let alone = of(0.0, 0.0);
        assert_eq!(of(0.0, 1e-7), alone, "they may be surer than that");
        let unsure = of(0.0, 1e-5);
        assert!(unsure.low < alone.low && alone.high < unsure.high);
        let elsewhere = of(5e-5, 0.0);
        assert!(elsewhere.low == alone.low && alone.high < elsewhere.high);
    }

    #[test]
    fn ages_grow_geometrically_and_end() {
        let mut guarantee = begun(exchanged(START, Skew::ZERO, WAY, WAY));
        for second in 1..=5_000 {
            assert_holds(&mut guarantee, exchanged(START + Span::from_secs(second), Skew::ZERO, WAY, WAY), Skew::ZERO);
            let age = |anchor: &Anchor| (guarantee.at() - anchor.at).as_secs_f64();
            let ages: Vec<f64> = guarantee.anchors.iter().map(age).collect();
            assert!(second < 300 || (300.0..2_000.0).contains(&ages[0]), "{ages:?}");
            assert!(ages.windows(2).all(|pair| pair[0] <= 32.0 * pair[1].max(1.0)), "{ages:?}");
        }
    }

    proptest! {
        #[test]
        fn the_truth_is_inside_whatever_takes_how_long(
            ppm in -1_000i64..=1_000,
            exchanges in prop::collection::vec(
                (1i64..2_000_000_000, 0i64..2_000_000_000, 0i64..1_000_000_000, 0i64..2_000_000_000, 1i64..5),
                1..60,
            ),
        ) {
            let skew = Skew::from_ppm(ppm);
            let mut guarantee = begun(exchanged(START, skew, WAY, WAY));
            let mut t1 = START;
            for (pause, request, turnaround, response, scale) in exchanges {
                // Delays of all sizes, from nanoseconds to seconds; and turnarounds of up to one.
                let held = |nanos: i64| Span::from_nanos(1 + nanos / 100_i64.pow(u32::try_from(scale).expect("small")));
                t1 = t1 + Span::from_nanos(pause);
                let (request, turnaround, response) = (held(request), Span::from_nanos(turnaround), held(response));
                assert_holds(&mut guarantee, taken(t1, skew, request, turnaround, response), skew);
            }
        }
    }
}
