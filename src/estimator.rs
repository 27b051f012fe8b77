//! A window of exchanges with one slave to offset and skew of its local clock, and how far both can be wrong.
//!
//! **Model.** Both local clocks run free. The offset between them changes with the skew, and the skew wanders as a
//! random walk (`WANDER`). A sample errs by stamp noise and by half of what the two ways differ. Queueing only ever
//! adds to a delay, so a sample whose delay exceeds the smallest in the window by `x` has been held up by `x` on
//! either way in unknown shares: its error is uniform within ± x/2, and its variance x²/12. That replaces any
//! choosing of "good" samples: one that was held up has next to no weight.
//!
//! **Method.** A two-state Kalman filter (offset, skew) run afresh over the window whenever a sample comes in. Running it
//! afresh lets the smallest delay, which only the whole window knows, weigh all of its samples; a window of 32 costs
//! 2 µs. The skew starts from a prior that real oscillators obey (`PRIOR_SKEW`), so that a burst of samples
//! milliseconds apart does not turn its noise into hundreds of ppm.
//!
//! What an exchange takes that nothing holds up is learned over the whole life of the window, and anew when the path changes:
//! when eight samples in a row took much longer than all before, it was no queue.
//!
//! **Guarantee.** Apart from the likely error, an error *bound*: the truth lies within half the delay of every sample, moved to now by the
//! skew and by what the skew can be wrong by. The bound is the smallest that any sample of the window gives. It
//! holds whatever the asymmetry, as long as the oscillators keep to the model.
//!
//! Sources: Kalman filtering of clocks as in NIST's time scales and ntpd-rs; the uniform error given the excess delay follows from
//! exponential queueing on both ways; the bound is Cristian's.

use std::collections::VecDeque;
use std::ops::Add;

use crate::exchange::Sample;
use crate::time::{LocalTime, Offset, Skew, Span};

/// Samples kept for one slave. More would hold the past against a clock that has wandered on; fewer leaves noise.
const WINDOW: usize = 32;

/// The skew between two local clocks before anything is known, as a standard deviation: quartz oscillators are sold
/// within 20 to 100 ppm of their frequency. Larger: the first second after a burst is noisier. Smaller: bad clocks take longer.
const PRIOR_SKEW: f64 = 100e-6;

/// Random walk of the skew, per square root of a second. A bare quartz wanders by about 1e-9; temperature makes it several times that.
const WANDER: f64 = 5e-9;

/// Error of a sample that was not held up at all, as a standard deviation in seconds: the stamps' own noise.
const STAMP_NOISE: f64 = 500e-9;

/// So many of the newest samples tell whether the path has changed.
const RECENT: usize = 8;

/// No path change is seen in less than this: the scheduler makes as much.
const LEAST_CHANGE: Span = Span::from_micros(50);

/// Bounds take this many standard deviations of what is only known statistically (the skew).
const SIGMAS: f64 = 4.0;

/// What is known about one slave's local clock at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Slave's local clock minus master's.
    pub offset: Offset,
    /// Rate of the slave's local clock relative to the master's.
    pub skew: Skew,
    /// Standard error of `offset`: how far it is likely to be wrong.
    pub offset_error: Span,
    /// How far `offset` can be wrong: half the delay of the best sample, and what has grown since.
    pub error_bound: Span,
    /// How far `skew` can be wrong.
    pub skew_error: Skew,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It joined the window.
    Kept,
    /// It cannot be true together with the window: put aside, until the next one tells which of them is wrong.
    Suspect,
    /// It cannot be true together with the window, and neither could the one before it: a local clock has jumped or
    /// changed its rate. The window starts afresh with these two.
    Restarted,
}

/// The filter's state at the newest sample.
#[derive(Clone, Copy, Debug)]
struct State {
    at: LocalTime,
    /// Seconds of offset beyond `pivot`.
    offset: f64,
    pivot: Offset,
    skew: f64,
    /// Covariance: of the offset (s²), of both (s), of the skew.
    offset_variance: f64,
    covariance: f64,
    skew_variance: f64,
}

/// The window of one slave and what follows from it.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    window: VecDeque<Sample>,
    /// The four smallest delays since the start, or since the path changed, the smallest first.
    least: [Option<Span>; 4],
    suspect: Option<Sample>,
    state: Option<State>,
}

impl Estimator {
    /// Knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many samples the window holds.
    pub fn samples(&self) -> usize {
        self.window.len()
    }

    /// The smallest delay since the start, or since the path changed: what an exchange takes that nothing holds up.
    pub fn least_delay(&self) -> Option<Span> {
        let [least, ..] = self.least;
        least
    }

    /// Takes a sample in, the newer ones last (a late one, older than the newest, is placed where it belongs).
    pub fn push(&mut self, sample: Sample) -> Judgement {
        let judgement = match (self.contradicts(sample), self.suspect.take()) {
            (false, _) => Judgement::Kept,
            (true, None) => {
                self.suspect = Some(sample);
                return Judgement::Suspect;
            }
            (true, Some(earlier)) => {
                self.window.clear();
                self.window.push_back(earlier);
                Judgement::Restarted
            }
        };
        let place = self.window.partition_point(|other| other.at <= sample.at);
        self.window.insert(place, sample);
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        if self.has_path_changed() {
            self.window.drain(..self.window.len().saturating_sub(RECENT));
            self.relearn_delays();
        } else if judgement == Judgement::Restarted {
            self.relearn_delays();
        } else {
            self.learn_delay(sample.delay);
        }
        self.state = self.filter();
        judgement
    }

    /// True when no offset within the sample's own bound (half its delay) agrees with the window's.
    fn contradicts(&self, sample: Sample) -> bool {
        self.estimate(sample.at).is_some_and(|estimate| {
            sample.offset.distance(estimate.offset) > sample.delay.half() + estimate.error_bound
        })
    }

    /// Sorts a delay into the four smallest.
    fn learn_delay(&mut self, delay: Span) {
        // Insertion: each keeps the smaller and hands the larger on.
        let mut handed_on = Some(delay);
        for kept in &mut self.least {
            if kept.is_none_or(|kept| handed_on.is_some_and(|delay| delay < kept)) {
                std::mem::swap(kept, &mut handed_on);
            }
        }
    }

    fn relearn_delays(&mut self) {
        self.least = [None; 4];
        let delays: Vec<Span> = self.window.iter().map(|sample| sample.delay).collect();
        delays.into_iter().for_each(|delay| self.learn_delay(delay));
    }

    /// True when all of the newest samples took so much longer than those before that it was no queue: the route has
    /// changed, and what the old one took says nothing about how long the new samples were held up.
    ///
    /// Queueing both ways exponentially, one exchange in ten is held up by twice the mean; eight in a row come once
    /// in a hundred million.
    fn has_path_changed(&self) -> bool {
        let old = self.window.len().saturating_sub(RECENT);
        let (Some(least), true) = (self.least_delay(), old >= RECENT) else {
            return false;
        };
        let excess = |sample: &Sample| sample.delay - least;
        let before = self.window.iter().take(old).map(excess).fold(Span::ZERO, Span::add);
        let usual = before.part(i64::try_from(old).unwrap_or(1));
        let least_now = self.window.iter().skip(old).map(excess).min().unwrap_or(Span::ZERO);
        least_now > usual.times(2) + LEAST_CHANGE
    }

    /// Runs the filter over the window, oldest sample first.
    fn filter(&self) -> Option<State> {
        let least_delay = self.least_delay()?;
        // Even the quickest exchange was held up a little, and leaving that out makes the first samples look far better
        // than they are, so that a burst's noise becomes skew. When both ways queue exponentially the fourth smallest
        // delay lies above the smallest by as much (1.2 times) as that lies above an idle network's. While there are
        // fewer than four, a single late one must not spoil the quick ones: at most as much again as the smallest.
        let fourth = self.least.iter().flatten().max().copied().unwrap_or(least_delay);
        let unseen = (fourth - least_delay).min(least_delay).as_secs_f64();
        let variance = |sample: &Sample| {
            let held_up = (sample.delay - least_delay).as_secs_f64() + unseen;
            STAMP_NOISE * STAMP_NOISE + held_up * held_up / 12.0
        };
        let mut samples = self.window.iter();
        let first = samples.next()?;
        let start = State {
            at: first.at,
            offset: 0.0,
            pivot: first.offset,
            skew: 0.0,
            offset_variance: variance(first),
            covariance: 0.0,
            skew_variance: PRIOR_SKEW * PRIOR_SKEW,
        };
        Some(samples.fold(start, |state, sample| {
            let innovation = (sample.offset.ahead() - state.pivot.ahead()).as_secs_f64();
            state.predicted(sample.at).updated(innovation, variance(sample))
        }))
    }

    /// Offset and skew at local time `at` of the master; `None` before the first sample.
    pub fn estimate(&self, at: LocalTime) -> Option<Estimate> {
        let state = self.state.as_ref()?.predicted(at);
        let skew_error = SIGMAS * state.skew_variance.sqrt();
        let offset = Offset::new(state.pivot.ahead() + Span::from_secs_f64(state.offset));
        let bound_by = |sample: &Sample| {
            let age = (at - sample.at).as_secs_f64();
            let moved = sample.offset.ahead() + Span::from_secs_f64(state.skew * age);
            let wander = SIGMAS * WANDER * (age.abs().powi(3) / 3.0).sqrt();
            offset.distance(Offset::new(moved))
                + sample.delay.half()
                + Span::from_secs_f64(skew_error * age.abs() + wander)
        };
        Some(Estimate {
            offset,
            skew: Skew::from_ratio(state.skew).clamped(Skew::MAX),
            offset_error: Span::from_secs_f64(state.offset_variance.max(0.0).sqrt()),
            error_bound: self.window.iter().map(bound_by).min()?,
            skew_error: Skew::from_ratio(skew_error).clamped(Skew::MAX),
        })
    }
}

impl State {
    /// The state at another instant, by the model alone. Backwards only the means move, the uncertainty grows all the same.
    fn predicted(&self, at: LocalTime) -> Self {
        let elapsed = (at - self.at).as_secs_f64();
        let age = elapsed.abs();
        let wander = WANDER * WANDER;
        Self {
            at,
            offset: self.offset + self.skew * elapsed,
            offset_variance: self.offset_variance
                + 2.0 * elapsed * self.covariance
                + elapsed * elapsed * self.skew_variance
                + wander * age.powi(3) / 3.0,
            covariance: self.covariance + elapsed * self.skew_variance + wander * elapsed * age / 2.0,
            skew_variance: self.skew_variance + wander * age,
            ..*self
        }
    }

    /// The state after a measurement of the offset (seconds beyond the pivot) with the given variance.
    fn updated(&self, measured: f64, variance: f64) -> Self {
        let total = self.offset_variance + variance;
        let offset_gain = self.offset_variance / total;
        let skew_gain = self.covariance / total;
        let innovation = measured - self.offset;
        Self {
            offset: self.offset + offset_gain * innovation,
            skew: self.skew + skew_gain * innovation,
            offset_variance: (1.0 - offset_gain) * self.offset_variance,
            covariance: (1.0 - offset_gain) * self.covariance,
            skew_variance: self.skew_variance - skew_gain * self.covariance,
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of a slave that is `ahead` and runs fast by `skew`; `queue` holds the request up.
    fn sample(seconds: f64, ahead: Span, skew: Skew, queue: Span) -> Sample {
        let at = LocalTime::from_nanos(0) + Span::from_secs_f64(seconds);
        let truth = ahead + skew.over(at - LocalTime::from_nanos(0));
        // A request that is held up arrives late: the slave seems ahead by half of that.
        Sample { at, offset: Offset::new(truth + queue.half()), delay: Span::from_micros(100) + queue }
    }

    /// A deterministic sequence in [0, 1) that looks random enough.
    fn noise(index: i64) -> f64 {
        (Span::from_nanos(index.wrapping_mul(0x9E37_79B9).rem_euclid(1_000_003)).as_secs_f64() * 1e9) / 1_000_003.0
    }

    #[test]
    fn offset_and_skew_are_found_through_queueing_noise() {
        let (ahead, skew) = (Span::from_secs(-500_000_000), Skew::from_ppm(83));
        let mut estimator = Estimator::new();
        for second in 0..60 {
            let queue = Span::from_secs_f64(if second % 4 == 0 { 2e-6 } else { 800e-6 } * noise(second));
            let seconds = Span::from_secs(second).as_secs_f64();
            assert_eq!(estimator.push(sample(seconds, ahead, skew, queue)), Judgement::Kept);
        }
        let at = LocalTime::from_nanos(0) + Span::from_secs(60);
        let truth = Offset::new(ahead + skew.over(Span::from_secs(60)));
        let estimate = estimator.estimate(at).expect("60 samples");
        let error = estimate.offset.distance(truth);
        assert!(error < Span::from_micros(2), "offset is wrong by {error}");
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
    fn a_longer_path_is_believed_after_eight_samples() {
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
        let late = Sample { offset: Offset::new(jump + Span::from_secs(7)), delay: Span::from_secs(7), ..quick };
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
}
