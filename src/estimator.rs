//! The exchanges with one slave to offset and skew of its local clock, and how far both can be wrong.
//!
//! **Model.** Both local clocks run free. The offset between them changes with the skew, and the skew wanders as a
//! random walk. Either way takes at least the `floor`; what queues, schedulers and late stamps add to that is an exponential
//! number, whose mean is learned for each way. So an exchange does not measure the offset with some symmetric error: it
//! says twice, once a way, that a sum lies *below* a value, and most probably close to it:
//!
//! ```text
//! request:    offset + floor <= t2 - t1 = offset measured + delay / 2
//! response:  -offset + floor <= t4 - t3 = delay / 2 - offset measured
//! ```
//!
//! The edge of an exponential is found with an error that falls with the number of samples, not with its root. That
//! is why what is done here errs by a third of what a Kalman filter does on the same samples.
//!
//! **Method.** The belief about (offset, skew, floor) is a Gaussian, moved on by the model from sample to sample. After either way it is
//! the Gaussian with the mean and the covariance of the exact posterior, which is a Gaussian cut off at the edge (assumed-density
//! filtering). Nothing is stored of a sample, and the past is forgotten as fast as the clock wanders.
//!
//! How fast that is nobody says. So several such filters run side by side, each with its own wander and with a floor that is
//! sharp or blurred (stamps that err both ways, queues that are never empty). Each sample weighs them by how likely they
//! held it to be, and now and then a clock passes from one kind to another (an interacting multiple model). What comes
//! out is their mixture: a quartz at rest, one in a draught and a sudden change of rate are all one case.
//!
//! A path may change. When a delay is impossible with the floor, or when neither way has come near it for long, the floor becomes
//! uncertain again and is found anew; offset and skew stay.
//!
//! **Bound.** Apart from the likely error, an error *bound*: `guarantee.rs` knows in which interval the true offset lies, and in which the true skew,
//! whatever the asymmetry. A sample that contradicts these is no queue: a clock has jumped or a stamp is false.
//!
//! What an exchange says stands in `edge.rs`, what that makes of a belief in `belief.rs`, how several filters are one in `filters.rs`, the
//! tail of the normal distribution in `normal.rs`. Here it is put together, sample by sample.
//!
//! Sources: assumed-density filtering after Maybeck 1979 and Minka 2001;
//! interacting multiple models after Blom and Bar-Shalom 1988; the edge of exponential delays after Jeske 2005 (the joint maximum-likelihood line
//! under both ways' samples, which this comes close to without keeping them).

mod belief;
mod edge;
mod filters;
mod normal;

use std::num::NonZeroU32;

use crate::exchange::{LARGEST_RATE, Sample};
use crate::guarantee::{Guarantee, Likely, SIGMAS};
use crate::time::{LocalTime, Offset, Skew, Span};
use belief::Belief;
use edge::{Edges, Limits, SHARPEST, Way};
use filters::{Filters, Kept};

/// The skew between two local clocks before anything is known, as a standard deviation: quartz oscillators are sold
/// within 20 to 100 ppm of their frequency. Larger: the first second after a burst is noisier. Smaller: bad clocks take longer.
const PRIOR_SKEW: f64 = 100e-6;

/// A delay by so many standard deviations less than the floor allows is a shorter path.
const SHORTER_PATH: f64 = 10.0;

/// So many samples in a row with neither way near its floor are a longer path: e^(-NEAR) to the power of twice that, 4 in 100 billion.
const NOT_NEAR: u8 = 24;

/// What is known about one slave's local clock at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Slave's local clock minus master's.
    pub offset: Offset,
    /// Rate of the slave's local clock relative to the master's.
    pub skew: Skew,
    /// Standard error of `offset`: how far it is likely to be wrong.
    pub offset_error: Span,
    /// How far `offset` can be wrong: half the delay of the best samples, and what has grown since.
    pub error_bound: Span,
    /// How far `skew` is likely to be wrong at most.
    pub skew_error: Skew,
    /// How far `skew` can be wrong, whatever delayed the samples.
    pub skew_bound: Skew,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It was taken in.
    Kept,
    /// It cannot be true together with those before: put aside, until the next one tells which of them is wrong.
    Suspect,
    /// It cannot be true together with those before, and neither could the last one: a local clock has jumped or
    /// changed its rate. All starts afresh with these two.
    Restarted,
}

/// What is expected of the skew before the first sample.
#[derive(Clone, Copy, Debug)]
struct Prior {
    skew: f64,
    /// Its standard error.
    error: f64,
    /// How far it can be from that.
    most: Skew,
}

impl Default for Prior {
    fn default() -> Self {
        Self { skew: 0.0, error: PRIOR_SKEW, most: LARGEST_RATE }
    }
}

/// What is known of one slave.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    knowledge: Knowledge,
    /// On the heap, for there is hardly ever one.
    suspect: Option<Box<Sample>>,
}

/// Before the first sample, and after it.
#[expect(clippy::large_enum_variant, reason = "all but newcomers are tracked")]
#[derive(Clone, Debug)]
enum Knowledge {
    Expecting(Prior),
    Tracking(Tracker),
}

impl Default for Knowledge {
    fn default() -> Self {
        Self::Expecting(Prior::default())
    }
}

impl Estimator {
    /// Knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows the skew, more or less, from somebody who measured it before: `error` is its standard error, and it can be wrong by `most`.
    pub fn expecting(skew: Skew, error: Skew, most: Skew) -> Self {
        let prior = Prior { skew: skew.as_ratio(), error: error.as_ratio(), most };
        Self { knowledge: Knowledge::Expecting(prior), suspect: None }
    }

    fn tracker(&self) -> Option<&Tracker> {
        match &self.knowledge {
            Knowledge::Expecting(_) => None,
            Knowledge::Tracking(tracker) => Some(tracker),
        }
    }

    /// How many samples were taken in since the start, or since all started afresh.
    pub fn samples(&self) -> u32 {
        self.tracker().map_or(0, |tracker| tracker.samples.get())
    }

    /// The smallest delay since the start, or since the path became longer: what an exchange takes that nothing holds up.
    pub fn least_delay(&self) -> Option<Span> {
        self.tracker().map(|tracker| tracker.least_delay)
    }

    /// Takes a sample in, the newer ones last. A late one, older than the newest, says less.
    pub fn push(&mut self, sample: Sample) -> Judgement {
        let tracker = match &mut self.knowledge {
            Knowledge::Expecting(prior) => {
                self.knowledge = Knowledge::Tracking(Tracker::new(sample, *prior));
                return Judgement::Kept;
            }
            Knowledge::Tracking(tracker) => tracker,
        };
        let outlook = tracker.outlook(sample);
        if !tracker.guarantee.contradicts(sample, &outlook.likely) {
            self.suspect = None;
            tracker.absorb(sample, outlook);
            return Judgement::Kept;
        }
        match self.suspect.take() {
            None => {
                self.suspect = Some(Box::new(sample));
                Judgement::Suspect
            }
            Some(earlier) => {
                // A clock that jumped may have changed its rate as well, and one that was expected to run otherwise does not.
                *tracker = Tracker::new(*earlier, Prior::default());
                tracker.absorb(sample, tracker.outlook(sample));
                Judgement::Restarted
            }
        }
    }

    /// True when the sample can be true together with what is known; not when nothing is.
    pub fn agrees(&self, sample: Sample) -> bool {
        self.tracker().is_some_and(|tracker| !tracker.guarantee.contradicts(sample, &tracker.outlook(sample).likely))
    }

    /// The offsets of all samples so far were too small by this much (too large, if negative). Of the rest nothing was wrong.
    pub fn shift(&mut self, by: Span) {
        if let Knowledge::Tracking(tracker) = &mut self.knowledge {
            tracker.pivot = Offset::new(tracker.pivot.ahead() + by);
            tracker.guarantee.shift(by);
        }
        if let Some(sample) = &mut self.suspect {
            **sample = sample.shifted(by);
        }
    }

    /// Offset and skew at local time `at` of the master; `None` before the first sample.
    pub fn estimate(&self, at: LocalTime) -> Option<Estimate> {
        self.tracker().map(|tracker| tracker.estimate(at))
    }
}

/// The filters of one slave, what is certain, and what is known of the path. At the newest sample.
#[derive(Clone, Debug)]
struct Tracker {
    /// What offsets are counted from; moves with them, so that they stay small numbers.
    pivot: Offset,
    filters: Kept,
    guarantee: Guarantee,
    request: Way,
    response: Way,
    least_delay: Span,
    samples: NonZeroU32,
}

impl Tracker {
    /// The first sample: of its delay any part may be queueing. Half of it on average is a guess: with less, the first errors
    /// on a busy network are understated; with more, the first second on a quiet one is noisier.
    fn new(first: Sample, prior: Prior) -> Self {
        let limits = Edges::new(first, first.offset, first.at).now(prior.skew, prior.error);
        let belief = Belief::of(&limits, prior);
        Self {
            pivot: first.offset,
            filters: Filters::all(belief).kept(),
            guarantee: Guarantee::new(first, (Skew::from_ratio(prior.skew), prior.most)),
            request: Way::new(limits.half() / 2.0),
            response: Way::new(limits.half() / 2.0),
            least_delay: limits.delay(),
            samples: NonZeroU32::MIN,
        }
    }

    /// Seconds from the newest sample to `at`.
    fn age(&self, at: LocalTime) -> f64 {
        (at - self.guarantee.at()).as_secs_f64()
    }

    /// The instant of the newest sample, when this is one of them.
    fn newest_with(&self, sample: Sample) -> LocalTime {
        self.guarantee.at().max(sample.at)
    }

    /// What is expected at so many seconds after the newest sample.
    fn expected(&self, elapsed: f64) -> Outlook {
        let filters = Filters::of(&self.filters);
        let known = filters.belief();
        let wander = filters.wander();
        let predicted = known.predicted(elapsed, wander);
        let likely = Likely { skew: predicted.skew, error: SIGMAS * predicted.skew_error(), wander };
        Outlook { filters, known, elapsed, predicted, likely }
    }

    /// What is expected when this sample comes.
    fn outlook(&self, sample: Sample) -> Outlook {
        self.expected(self.age(self.newest_with(sample)))
    }

    /// Takes in a sample; a late one, older than the newest, says what it says of now. `outlook`: what was expected of it.
    fn absorb(&mut self, sample: Sample, outlook: Outlook) {
        let Outlook { mut filters, known, elapsed, predicted, likely } = outlook;
        let edges = Edges::new(sample, self.pivot, self.newest_with(sample));
        let limits = edges.now(predicted.skew, predicted.skew_error());
        self.samples = self.samples.saturating_add(1);
        self.least_delay = self.least_delay.min(limits.delay());
        self.guarantee.absorb(sample, &likely);
        filters.move_on(&known, elapsed);
        if limits.half() < known.offset_error() {
            // By itself it says more than all before it did together: they were slow.
            let fresh = Belief::of(&limits, Prior::default());
            filters.change(|belief| *belief = belief.with_offset_of(&fresh));
        } else {
            self.follow_path(&mut filters, &edges, &predicted, limits);
        }
        filters.cut(&edges, &self.request, &self.response);
        let belief = filters.belief();
        self.request.learn(edges.request.missed(&belief), self.samples.get());
        self.response.learn(edges.response.missed(&belief), self.samples.get());
        // In whole nanoseconds, so that nothing is lost.
        let moved = Span::from_secs_f64(belief.offset);
        self.pivot = Offset::new(self.pivot.ahead() + moved);
        let moved = moved.as_secs_f64();
        filters.change(|belief| belief.offset -= moved);
        self.filters = filters.kept();
    }

    /// Makes the floor uncertain when the path has changed.
    fn follow_path(&mut self, filters: &mut Filters, edges: &Edges, predicted: &Belief, limits: Limits) {
        // The offset cancels out of the sum of both ways: whatever the clocks do, the delay lies above twice the floor.
        let missed = limits.half() - predicted.floor;
        if missed < -(SHORTER_PATH * predicted.floor_variance.sqrt() + SHARPEST) {
            filters.change(|belief| belief.floor_variance += missed * missed);
        }
        self.request.note(edges.request.missed(predicted));
        self.response.note(edges.response.missed(predicted));
        // Both: one alone may be a busy way, and says nothing against the other.
        if self.request.not_near >= NOT_NEAR && self.response.not_near >= NOT_NEAR {
            let longer = f64::from(self.request.missed.min(self.response.missed));
            filters.change(|belief| {
                belief.floor += longer;
                belief.floor_variance += longer * longer / 4.0;
            });
            (self.request.not_near, self.response.not_near) = (0, 0);
            self.least_delay = limits.delay();
        }
    }

    fn estimate(&self, at: LocalTime) -> Estimate {
        let Outlook { predicted: belief, likely, .. } = self.expected(self.age(at));
        let offset = Offset::new(self.pivot.ahead() + Span::from_secs_f64(belief.offset));
        let rates = self.guarantee.rates(at, &likely);
        let farthest = (rates.fastest - belief.skew).max(belief.skew - rates.slowest);
        Estimate {
            offset,
            skew: Skew::from_ratio(belief.skew).clamped(Skew::MAX),
            offset_error: Span::from_secs_f64(belief.offset_error()),
            error_bound: self.guarantee.offset(at, &likely).farthest(offset),
            skew_error: Skew::from_ratio(likely.error).clamped(Skew::MAX),
            skew_bound: Skew::from_ratio(farthest).clamped(Skew::MAX),
        }
    }
}

/// What is expected at some instant, when no more is known than now.
struct Outlook {
    /// As they are at the newest sample,
    filters: Filters,
    /// and their mixture.
    known: Belief,
    /// So many seconds later:
    elapsed: f64,
    /// the mixture by the model alone,
    predicted: Belief,
    /// and what that says of the skew.
    likely: Likely,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Exchange;

    /// Samples of a slave that is `ahead` and runs fast by `skew`; `queue` holds the request up.
    fn sample(seconds: f64, ahead: Span, skew: Skew, queue: Span) -> Sample {
        let at = LocalTime::from_nanos(0) + Span::from_secs_f64(seconds);
        let truth = ahead + skew.over(at - LocalTime::from_nanos(0));
        // A request that is held up arrives late: the slave seems ahead by half of that.
        let delay = Span::from_micros(100) + queue;
        Sample { at, offset: Offset::new(truth + queue.half()), delay, round_trip: delay }
    }

    /// A deterministic sequence in [0, 1) that looks random enough.
    fn noise(index: i64) -> f64 {
        (Span::from_nanos(index.wrapping_mul(0x9E37_79B9).rem_euclid(1_000_003)).as_secs_f64() * 1e9) / 1_000_003.0
    }

    #[test]
    fn offset_and_skew_are_found_through_queueing_noise() {
        let (ahead, skew) = (Span::from_secs(-500_000_000), Skew::from_ppm(83));
        let mut estimator = Estimator::new();
        for second in 0..120 {
            let queue = Span::from_secs_f64(if second % 4 == 0 { 2e-6 } else { 800e-6 } * noise(second));
            let seconds = Span::from_secs(second).as_secs_f64();
            assert_eq!(estimator.push(sample(seconds, ahead, skew, queue)), Judgement::Kept);
        }
        let at = LocalTime::from_nanos(0) + Span::from_secs(120);
        let truth = Offset::new(ahead + skew.over(Span::from_secs(120)));
        let estimate = estimator.estimate(at).expect("120 samples");
        let error = estimate.offset.distance(truth);
        // The queueing is far from exponential, and on one way only: the edge is found less sharply than it could be.
        assert!(error < Span::from_micros(3), "offset is wrong by {error}");
        assert!(
            error < estimate.offset_error.times(4),
            "{error} against a standard error of {}",
            estimate.offset_error
        );
        assert!((estimate.skew - skew).abs() < Skew::from_ppb(200), "skew is {}", estimate.skew);
        assert!((estimate.skew - skew).abs() < estimate.skew_error);
        assert!(
            estimate.error_bound >= Span::from_micros(50),
            "half the delay cannot be known: {}",
            estimate.error_bound
        );
        assert!(estimate.error_bound < Span::from_micros(60), "{}", estimate.error_bound);
    }

    #[test]
    fn an_expected_skew_is_there_at_once_and_given_up_when_it_is_wrong() {
        let at = |seconds: f64| LocalTime::from_nanos(0) + Span::from_secs_f64(seconds);
        let truth = Skew::from_ppm(80);
        let quiet = |seconds, index| sample(seconds, Span::ZERO, truth, Span::from_secs_f64(20e-6 * noise(index)));
        let mut informed = Estimator::expecting(Skew::from_ppm(79), Skew::from_ppm(1), LARGEST_RATE);
        informed.push(quiet(0.0, 1));
        let later = informed.estimate(at(10.0)).expect("one sample");
        assert!(later.offset.distance(Offset::new(Span::from_micros(800))) < Span::from_micros(80), "{}", later.offset);
        let mut misled = Estimator::expecting(Skew::from_ppm(-80), Skew::from_ppm(1), LARGEST_RATE);
        for index in 0..60 {
            misled.push(quiet(Span::from_secs(index).as_secs_f64(), index));
        }
        let skew = misled.estimate(at(60.0)).expect("60 samples").skew;
        assert!((skew - truth).abs() < Skew::from_ppm(1), "{skew}");
    }

    #[test]
    fn a_burst_does_not_turn_its_noise_into_skew() {
        let mut estimator = Estimator::new();
        for index in 0..8 {
            let seconds = Span::from_millis(20 * index).as_secs_f64();
            estimator.push(sample(seconds, Span::ZERO, Skew::ZERO, Span::from_secs_f64(200e-6 * noise(index))));
        }
        let estimate = estimator.estimate(LocalTime::from_nanos(1_000_000_000)).expect("8 samples");
        assert!(estimate.skew.abs() < Skew::from_ppm(150), "{}", estimate.skew);
        assert!(
            estimate.skew_error > Skew::from_ppm(150),
            "it must say that it does not know: {}",
            estimate.skew_error
        );
    }

    #[test]
    fn a_jump_restarts_the_window_and_one_false_sample_does_not() {
        let mut estimator = Estimator::new();
        let quiet = |second: i64, ahead| sample(Span::from_secs(second).as_secs_f64(), ahead, Skew::ZERO, Span::ZERO);
        for second in 0..10 {
            estimator.push(quiet(second, Span::ZERO));
        }
        assert_eq!(estimator.push(quiet(10, Span::from_secs(1))), Judgement::Suspect);
        assert_eq!(estimator.push(quiet(11, Span::ZERO)), Judgement::Kept);
        assert_eq!(estimator.push(quiet(12, Span::from_secs(1))), Judgement::Suspect);
        assert_eq!(estimator.push(quiet(13, Span::from_secs(1))), Judgement::Restarted);
        let estimate = estimator.estimate(LocalTime::from_nanos(13_000_000_000)).expect("restarted with two");
        assert!(estimate.offset.distance(Offset::new(Span::from_secs(1))) < Span::from_micros(1));
        assert_eq!(estimator.samples(), 2);
    }

    #[test]
    fn a_longer_path_is_believed_after_twenty_four_samples() {
        // Everything takes 10 ms longer from 40 s on, as much on either way, so that the offset stays what it was.
        let skew = Skew::from_ppm(20);
        let mut estimator = Estimator::new();
        for second in 0..80 {
            let detour = if second < 40 { Span::ZERO } else { Span::from_millis(10) };
            let queue = Span::from_secs_f64(60e-6 * noise(second));
            let quick = sample(Span::from_secs(second).as_secs_f64(), Span::ZERO, skew, queue);
            estimator.push(Sample { delay: quick.delay + detour, ..quick });
            let at = quick.at;
            let truth = Offset::new(skew.over(at - LocalTime::from_nanos(0)));
            let estimate = estimator.estimate(at).expect("a sample at least");
            let error = estimate.offset.distance(truth);
            assert!(error <= estimate.error_bound, "at {second} s: {error} outside {}", estimate.error_bound);
            assert!(second < 10 || error < Span::from_micros(40), "at {second} s: {error}");
        }
        assert!(estimator.least_delay() > Some(Span::from_millis(10)));
    }

    #[test]
    fn after_a_jump_the_quick_sample_counts_and_not_the_late_one() {
        // A host was suspended for 15 s: the answer that was under way took as long, and half of that is its error.
        let mut estimator = Estimator::new();
        let jump = Span::from_secs(-15);
        for second in 0..10 {
            estimator.push(sample(Span::from_secs(second).as_secs_f64(), Span::ZERO, Skew::ZERO, Span::ZERO));
        }
        let quick = sample(26.0, jump, Skew::ZERO, Span::ZERO);
        let delay = Span::from_secs(7);
        let late = Sample { offset: Offset::new(jump + delay), delay, round_trip: delay, ..quick };
        assert_eq!(estimator.push(late), Judgement::Suspect);
        assert_eq!(estimator.push(Sample { at: quick.at + Span::from_millis(20), ..quick }), Judgement::Restarted);
        let estimate = estimator.estimate(quick.at + Span::from_millis(20)).expect("restarted");
        assert!(estimate.offset.distance(Offset::new(jump)) < Span::from_micros(1), "{}", estimate.offset);
    }

    #[test]
    fn the_truth_is_inside_the_bound_under_any_asymmetry() {
        // Every request is held up, so that the offset is wrong by half the delay and no filter can know.
        let mut estimator = Estimator::new();
        for second in 0..20 {
            let seconds = Span::from_secs(second).as_secs_f64();
            estimator.push(sample(seconds, Span::ZERO, Skew::ZERO, Span::from_millis(1)));
        }
        let estimate = estimator.estimate(LocalTime::from_nanos(20_000_000_000)).expect("20 samples");
        assert!(estimate.offset.ahead() > Span::from_micros(400), "the asymmetry is there: {}", estimate.offset);
        assert!(estimate.offset.ahead() <= estimate.error_bound);
    }

    /// Queueing with a mean of 200 µs on either way, from the deterministic sequence.
    fn busy(second: i64) -> Sample {
        let queueing = |index| -200e-6 * libm::log(1.0 - noise(index));
        let (request, response) = (queueing(2 * second), queueing(2 * second + 1));
        let quiet = sample(Span::from_secs(second).as_secs_f64(), Span::ZERO, Skew::from_ppm(45), Span::ZERO);
        let offset = Offset::new(quiet.offset.ahead() + Span::from_secs_f64((request - response) / 2.0));
        let delay = quiet.delay + Span::from_secs_f64(request + response);
        Sample { offset, delay, round_trip: delay, ..quiet }
    }

    fn truth(second: i64) -> Offset {
        Offset::new(Skew::from_ppm(45).over(Span::from_secs(second)))
    }

    #[test]
    fn the_edge_is_found_better_than_any_mean_could() {
        // The mean of 300 samples errs by 200 µs · √2/2 / √300 = 8 µs even if the skew is known.
        let mut estimator = Estimator::new();
        let (mut squares, mut outside) = (0.0, 0);
        for second in 0..1_000 {
            estimator.push(busy(second));
            let estimate = estimator.estimate(LocalTime::from_nanos(0) + Span::from_secs(second)).expect("a sample");
            let error = estimate.offset.distance(truth(second));
            assert!(error <= estimate.error_bound, "at {second} s: {error} outside {}", estimate.error_bound);
            outside += i32::from(error > estimate.offset_error.times(4));
            if second >= 300 {
                squares += error.as_secs_f64() * error.as_secs_f64();
            }
        }
        let rms = Span::from_secs_f64((squares / 700.0).sqrt());
        assert!(rms < Span::from_micros(3), "{rms}");
        assert!(outside <= 1, "{outside} errors of more than four times the standard error");
    }

    #[test]
    fn a_change_of_rate_is_followed() {
        let step = |second: i64| Skew::from_ppm(5).over(Span::from_secs((second - 600).max(0)));
        let mut estimator = Estimator::new();
        for second in 0..700 {
            let plain = sample(
                Span::from_secs(second).as_secs_f64(),
                step(second),
                Skew::from_ppm(20),
                Span::from_secs_f64(10e-6 * noise(second)),
            );
            estimator.push(plain);
            let estimate = estimator.estimate(plain.at).expect("a sample");
            let truth = Offset::new(step(second) + Skew::from_ppm(20).over(Span::from_secs(second)));
            let error = estimate.offset.distance(truth);
            assert!(error <= estimate.error_bound, "at {second} s: {error} outside {}", estimate.error_bound);
            assert!(second < 20 || error < Span::from_micros(12), "at {second} s: {error}");
            assert!(!(630..700).contains(&second) || (estimate.skew - Skew::from_ppm(25)).abs() < Skew::from_ppb(500));
        }
    }

    #[test]
    fn of_a_late_exchange_each_way_counts_when_it_was() {
        // The slave was paused: requests of seconds ago are answered now. Their responses are as quick as any, and they
        // say where the offset is now, not where it was in the middle of the exchange (100 µs off at 50 ppm).
        let skew = Skew::from_ppm(50);
        let mut estimator = Estimator::new();
        let at = |second: i64| sample(Span::from_secs(second).as_secs_f64(), Span::ZERO, skew, Span::ZERO);
        for second in 0..100 {
            estimator.push(at(second));
        }
        for ago in [4, 3, 2, 1] {
            let (asked, answered) = (at(120 - ago), at(120));
            let waited = Span::from_secs(ago);
            let offset = Offset::new(answered.offset.ahead() + waited.half());
            let middle = asked.at + waited.half();
            let delay = answered.delay + waited;
            estimator.push(Sample { at: middle, offset, delay, round_trip: delay });
        }
        let estimate = estimator.estimate(at(120).at).expect("many samples");
        let error = estimate.offset.distance(at(120).offset);
        assert!(error < Span::from_micros(2), "{error}");
        assert!(error <= estimate.error_bound);
    }

    /// A slave whose skew wanders, as a polyline through whole seconds.
    struct Wanderer {
        /// By how much it is ahead at each second.
        ahead: Vec<Span>,
    }

    impl Wanderer {
        /// For so many seconds; the skew changes by up to 5 ppb in each.
        fn new(skew: Skew, seconds: i64) -> Self {
            let mut rate = skew.as_ratio();
            let second = |index| {
                rate += 10e-9 * (noise(7 * index + 3) - 0.5);
                Span::from_secs_f64(rate)
            };
            let gained = (0..seconds).map(second).collect::<Vec<_>>();
            let sum = |ahead: &mut Span, by: &Span| {
                *ahead += *by;
                Some(*ahead)
            };
            Self { ahead: std::iter::once(Span::ZERO).chain(gained.iter().scan(Span::ZERO, sum)).collect() }
        }

        fn offset(&self, at: LocalTime) -> Offset {
            let nanos = at.as_nanos();
            let second = usize::try_from(nanos / 1_000_000_000).expect("after the start");
            let (before, after) = (self.ahead[second], self.ahead[second + 1]);
            let part = Span::from_nanos(nanos % 1_000_000_000).as_secs_f64();
            Offset::new(before + Span::from_secs_f64((after - before).as_secs_f64() * part))
        }

        /// The request leaves at `t1`.
        fn exchange(&self, t1: LocalTime, request: Span, turnaround: Span, response: Span) -> Sample {
            let (arrived, left) = (t1 + request, t1 + request + turnaround);
            let shown = |at: LocalTime| at.on_other_clock(self.offset(at));
            Exchange { t1, t2: shown(arrived), t3: shown(left), t4: left + response }.sample().expect("a true exchange")
        }
    }

    /// Asks a slave once a second, which takes `turnaround` of the second's number; whatever comes on top of 50 µs a way is given by
    /// `queueing` of twice the second's number, and of that and one. The errors half a second later, of all seconds.
    fn errors(slave: &Wanderer, turnaround: impl Fn(i64) -> Span, queueing: impl Fn(i64) -> Span) -> Vec<f64> {
        let mut estimator = Estimator::new();
        let burst = (0..8).map(|index| (Span::from_millis(20 * index), index, Span::ZERO));
        let rounds = (1..700).map(|second| (Span::from_secs(second), second, turnaround(second)));
        let ask = |(after, index, turnaround): (Span, i64, Span)| {
            let way = |index| Span::from_micros(50) + queueing(index);
            let t1 = LocalTime::from_nanos(0) + after;
            let judgement = estimator.push(slave.exchange(t1, way(2 * index), turnaround, way(2 * index + 1)));
            assert_eq!(judgement, Judgement::Kept, "after {after}");
            let at = t1 + Span::from_millis(500);
            let estimate = estimator.estimate(at).expect("a sample");
            let error = estimate.offset.distance(slave.offset(at));
            assert!(error <= estimate.error_bound, "after {after}: {error} outside {}", estimate.error_bound);
            error.as_secs_f64()
        };
        burst.chain(rounds).map(ask).collect()
    }

    fn rms(errors: &[f64]) -> f64 {
        let count = Span::from_secs(i64::try_from(errors.len()).expect("few")).as_secs_f64();
        (errors.iter().map(|error| error * error).sum::<f64>() / count).sqrt()
    }

    #[test]
    fn an_answer_that_takes_its_time_is_as_good_as_one_at_once() {
        let jitter = |index| Span::from_secs_f64(-10e-6 * libm::log(1.0 - noise(index)));
        for ppm in [-100, 0, 100] {
            let slave = Wanderer::new(Skew::from_ppm(ppm), 702);
            let at_once = errors(&slave, |_| Span::ZERO, jitter);
            let place = |millis: f64, second| Span::from_secs_f64(1e-3 * millis * noise(5 * second + 1));
            for (name, late) in [
                ("250 ms", errors(&slave, |_| Span::from_millis(250), jitter)),
                ("up to 250 ms", errors(&slave, |second| place(250.0, second), jitter)),
                ("up to 400 ms", errors(&slave, |second| place(400.0, second), jitter)),
            ] {
                // From the second round on, and when all is known.
                for from in [10, 200] {
                    let (quick, slow) = (rms(&at_once[from..]), rms(&late[from..]));
                    assert!(slow < 1.2 * quick, "{ppm} ppm, {name}, from {from}: {slow} against {quick}");
                }
            }
        }
    }

    #[test]
    fn bounds_hold_whatever_the_turnaround_and_whoever_holds_exchanges_back() {
        let turnaround = |second: i64| Span::from_secs_f64(noise(5 * second + 1));
        for ppm in [-100, 100] {
            let slave = Wanderer::new(Skew::from_ppm(ppm), 702);
            // Requests, responses, or both take longer and longer; and now and then one takes as long as it likes.
            for held in [[true, false], [false, true], [true, true]] {
                for speed in [1, 30, 1_000].map(Skew::from_ppm) {
                    let ramp = |index: i64| {
                        let is_held = held[usize::from(index % 2 == 1)];
                        let ramp = if is_held { speed.over(Span::from_secs(index / 2)) } else { Span::ZERO };
                        let fault = if noise(index) < 0.05 { 0.2 * noise(index + 1) } else { 5e-6 * noise(index) };
                        ramp + Span::from_secs_f64(fault)
                    };
                    errors(&slave, turnaround, ramp);
                }
            }
        }
    }

    #[test]
    fn a_sample_out_of_order_does_no_harm() {
        let (mut ordered, mut shuffled) = (Estimator::new(), Estimator::new());
        for second in 0..400 {
            ordered.push(busy(second));
            // Every pair in reverse order.
            shuffled.push(busy(second ^ 1));
        }
        let end = LocalTime::from_nanos(0) + Span::from_secs(399);
        for estimator in [ordered, shuffled] {
            let estimate = estimator.estimate(end).expect("400 samples");
            assert!(estimate.offset.distance(truth(399)) < Span::from_micros(8), "{}", estimate.offset);
        }
    }

    #[test]
    fn a_master_of_ten_thousand_can_afford_it() {
        assert!(size_of::<Estimator>() <= 536, "{} bytes", size_of::<Estimator>());
    }
}
