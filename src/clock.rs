//! The disciplined clock: a mapping from the local clock to the time we keep.
//!
//! Two parts make it. The **target** is a straight line, local time to time, that every correction replaces: where
//! the clock ought to be. The **slew** is what the clock still lacks to its target; it is worked off at a bounded
//! rate, so that the clock arrives there without a jump:
//!
//! ```text
//! disciplined(L) = target(L) - slew(L)
//! ```
//!
//! Offsets are averaged and corrections are computed on targets, not on what a slew in progress shows: the slew is
//! each node's private way to a place already agreed upon, and averaging it would pull the agreement along.
//!
//! Invariants: between corrections the clock never runs backwards; across a slewed correction it neither jumps nor
//! runs backwards; a correction either applies whole or changes nothing.

use std::ops::RangeInclusive;

use crate::config::CorrectionPolicy;
use crate::protocol::Entry;
use crate::time::{LocalTime, Skew, Span, Time};

/// How an oscillator's rate wanders, per square root of a second: four standard deviations of the random walk of
/// a quartz with changing temperature (5e-9). Smaller: the bound does not hold in hours of holdover. Larger: it grows
/// beyond use.
const WANDER: f64 = 4.0 * 5e-9;

/// How far an oscillator can have wandered from its rate after this time; the integral of a random walk.
fn wander(age: Span) -> Span {
    Span::from_secs_f64(WANDER * (age.as_secs_f64().powi(3) / 3.0).sqrt())
}

/// No clock starts outside these years, 1960 to 2100, and no correction takes it there. Any two times between them lie less than
/// [`WIRE_LIMIT`](crate::time::WIRE_LIMIT) apart, so that a frame can always say where the clock stands and what it still has to gain.
/// A clock that has been taken further cannot be measured any more, and so never be brought back.
const YEARS: RangeInclusive<Time> =
    Time::from_nanos(-315_619_200_000_000_000)..=Time::from_nanos(4_102_444_800_000_000_000);

/// What is to be done to a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The instant at which `amount` and `error_bound` hold.
    pub reference: LocalTime,
    /// Added to the target at `reference`: ensemble offset minus own offset.
    pub amount: Span,
    /// The target's new rate relative to the local clock. Within [`Skew::MAX`].
    pub rate: Skew,
    /// How far the corrected target can be from ensemble time at `reference`.
    pub error_bound: Span,
    /// How far `rate` can be from the ensemble's. Not negative.
    pub rate_error: Skew,
}

/// What an entry of a correction frame asks of the clock that it was computed for.
impl From<&Entry> for Correction {
    fn from(entry: &Entry) -> Self {
        Self {
            reference: entry.reference,
            amount: entry.correction,
            rate: entry.rate,
            error_bound: entry.error_bound,
            rate_error: entry.rate_error,
        }
    }
}

/// How a correction was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// By a jump of so much.
    Stepped(Span),
    /// The clock keeps what it shows and works this off.
    Slewed(Span),
}

/// A correction larger than the policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The limit that it exceeds.
    pub limit: Span,
}

/// What a correction said about how good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quality {
    reference: LocalTime,
    error_bound: Span,
    rate_error: Skew,
}

/// The clock that a node keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisciplinedClock {
    policy: CorrectionPolicy,
    /// Where the line and the slew start.
    anchor: LocalTime,
    /// The target at `anchor`.
    target: Time,
    /// The target's rate relative to the local clock.
    rate: Skew,
    /// What the clock lacks to its target at `anchor`.
    slew: Span,
    /// How many corrections have been applied; wraps.
    adjustment: u32,
    /// Of the last correction; `None` before the first.
    quality: Option<Quality>,
}

impl DisciplinedClock {
    /// A clock that shows `time` (or the nearest there is, see [`YEARS`]) at `local`, runs at `rate` relative to the local clock, and has never been corrected.
    pub fn new(local: LocalTime, time: Time, rate: Skew, policy: CorrectionPolicy) -> Self {
        let rate = rate.clamped(Skew::MAX);
        let target = time.clamp(*YEARS.start(), *YEARS.end());
        Self { policy, anchor: local, target, rate, slew: Span::ZERO, adjustment: 0, quality: None }
    }

    /// From `now` on other rules hold, for a slew in progress as well: it goes on from where it is, at the new rate.
    pub fn obey(&mut self, policy: CorrectionPolicy, now: LocalTime) {
        (self.target, self.slew, self.anchor) = (self.target(now), self.slew(now), now);
        self.policy = policy;
    }

    /// Where the clock ought to be.
    pub fn target(&self, local: LocalTime) -> Time {
        let elapsed = local - self.anchor;
        self.target + elapsed + self.rate.over(elapsed)
    }

    /// What it still has to gain: its target less what it shows.
    pub fn slew(&self, local: LocalTime) -> Span {
        let worked_off = self.policy.max_slew.over((local - self.anchor).max(Span::ZERO));
        let left = (self.slew.abs() - worked_off).max(Span::ZERO);
        if self.slew.is_forward() { left } else { -left }
    }

    /// What it shows.
    pub fn read(&self, local: LocalTime) -> Time {
        self.target(local) - self.slew(local)
    }

    /// The target's rate relative to the local clock.
    pub fn rate(&self) -> Skew {
        self.rate
    }

    /// The rate of what it shows, a slew in progress included, relative to the local clock.
    pub fn rate_shown(&self, local: LocalTime) -> Skew {
        match self.slew(local).as_nanos() {
            0 => self.rate,
            1.. => self.rate + self.policy.max_slew,
            ..0 => self.rate - self.policy.max_slew,
        }
    }

    /// How many corrections have been applied; wraps.
    pub fn adjustment(&self) -> u32 {
        self.adjustment
    }

    /// True once a correction has been applied.
    pub fn is_corrected(&self) -> bool {
        self.quality.is_some()
    }

    /// How far what it shows can be from ensemble time; [`Span::MAX`] before the first correction.
    ///
    /// It grows with the age of the last correction, which is all there is to holdover: by what was not known of the rate then, and
    /// by what the rate has wandered since.
    pub fn error_bound(&self, local: LocalTime) -> Span {
        self.target_error_bound(local) + self.slew(local).abs()
    }

    /// How far its target can be from ensemble time: the same without what it still has to gain.
    pub fn target_error_bound(&self, local: LocalTime) -> Span {
        self.quality.map_or(Span::MAX, |quality| {
            let age = (local - quality.reference).abs();
            quality.error_bound + quality.rate_error.over(age) + wander(age)
        })
    }

    /// How far its rate can be from the ensemble's: what was not known of it at the last correction, and what the oscillator has
    /// wandered since. [`Skew::MAX`] before the first.
    pub fn rate_error(&self, local: LocalTime) -> Skew {
        self.quality.map_or(Skew::MAX, |quality| {
            let age = (local - quality.reference).abs();
            quality.rate_error + Skew::from_ratio(WANDER * age.as_secs_f64().sqrt())
        })
    }

    /// The correction that puts `other`, on the same oscillator, where this clock's target stands at `now`; `None` before the first correction
    /// of this one. What is not known of this one is not known of the other either, then and later: the wander of a time and of
    /// the time after it add up to no less than that of both together.
    pub fn correction_of(&self, other: &Self, now: LocalTime) -> Option<Correction> {
        self.is_corrected().then(|| Correction {
            reference: now,
            amount: self.target(now) - other.target(now),
            rate: self.rate,
            error_bound: self.target_error_bound(now),
            rate_error: self.rate_error(now),
        })
    }

    /// Whether a correction by this amount may be applied.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn allows(&self, amount: Span) -> Result<(), TooLarge> {
        let limit = match self.policy.max_correction {
            Some(limit) => limit,
            None if !self.is_corrected() => Span::MAX,
            None => CorrectionPolicy::LATER_LIMIT,
        };
        if amount.abs() > limit { Err(TooLarge { limit }) } else { Ok(()) }
    }

    /// Applies a correction at local time `now`. The first may step, later ones slew, see [`CorrectionPolicy`].
    ///
    /// # Errors
    /// [`TooLarge`], and nothing has changed.
    pub fn correct(&mut self, correction: Correction, now: LocalTime) -> Result<Applied, TooLarge> {
        self.allows(correction.amount)?;
        let is_first = !self.is_corrected();
        let shown = self.read(now);
        let since = now - correction.reference;
        let target = self.target(correction.reference) + correction.amount + since + correction.rate.over(since);
        if !YEARS.contains(&target) {
            let edge = if target < *YEARS.start() { *YEARS.start() } else { *YEARS.end() };
            return Err(TooLarge { limit: (edge - (target - correction.amount)).abs() });
        }
        let missing = target - shown;
        let is_step = is_first || (self.policy.allow_step && correction.amount.abs() > self.policy.step_threshold);
        self.anchor = now;
        self.target = target;
        self.rate = correction.rate.clamped(Skew::MAX);
        self.slew = if is_step { Span::ZERO } else { missing };
        self.adjustment = self.adjustment.wrapping_add(1);
        self.quality = Some(Quality {
            reference: correction.reference,
            error_bound: correction.error_bound,
            rate_error: correction.rate_error,
        });
        Ok(if is_step { Applied::Stepped(missing) } else { Applied::Slewed(missing) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::WIRE_LIMIT;
    use proptest::prelude::*;

    const START: LocalTime = LocalTime::from_nanos(1_000_000_000);

    fn clock(policy: CorrectionPolicy) -> DisciplinedClock {
        DisciplinedClock::new(START, Time::from_nanos(5_000_000_000), Skew::ZERO, policy)
    }

    fn correction(reference: LocalTime, amount: Span) -> Correction {
        Correction { reference, amount, rate: Skew::ZERO, error_bound: Span::ZERO, rate_error: Skew::ZERO }
    }

    /// A clock that has had its first correction, of zero.
    fn running(policy: CorrectionPolicy) -> DisciplinedClock {
        let mut clock = clock(policy);
        assert_eq!(clock.correct(correction(START, Span::ZERO), START), Ok(Applied::Stepped(Span::ZERO)));
        clock
    }

    #[test]
    fn the_first_correction_steps_and_later_ones_slew() {
        let mut clock = clock(CorrectionPolicy::default());
        let hour = Span::from_secs(3_600);
        assert_eq!(clock.correct(correction(START, -hour), START), Ok(Applied::Stepped(-hour)));
        assert_eq!(clock.read(START), Time::from_nanos(5_000_000_000) - hour);

        let before = clock.read(START);
        let later = Span::from_millis(200);
        assert_eq!(clock.correct(correction(START, later), START), Ok(Applied::Slewed(later)));
        assert_eq!(clock.read(START), before, "a slew does not jump");
        // 500 ppm of 400 s are 200 ms.
        let half_way = START + Span::from_secs(200);
        assert_eq!(clock.slew(half_way), Span::from_millis(100));
        assert_eq!(clock.read(half_way) - before, Span::from_secs(200) + Span::from_millis(100));
        let end = START + Span::from_secs(400);
        assert_eq!((clock.slew(end), clock.rate_shown(end)), (Span::ZERO, Skew::ZERO));
        assert_eq!(clock.read(end) - before, Span::from_secs(400) + later);
    }

    #[test]
    fn no_clock_is_taken_to_where_no_frame_can_tell() {
        for far in [Span::from_secs(-400_000_000), Span::from_secs(4_200_000_000), Span::from_nanos(WIRE_LIMIT - 1)] {
            let mut clock = clock(CorrectionPolicy { max_correction: Some(Span::MAX), ..CorrectionPolicy::default() });
            let before = clock.clone();
            let answer = clock.correct(correction(START, far), START);
            assert!(matches!(answer, Err(TooLarge { limit }) if limit < far.abs()), "{far}: {answer:?}");
            assert_eq!(clock, before);
            let century = Span::from_secs(3_000_000_000);
            assert_eq!(clock.correct(correction(START, century), START), Ok(Applied::Stepped(century)));
        }
    }

    #[test]
    fn above_the_threshold_a_step_takes_permission() {
        let large = Span::from_secs(1);
        let allowed = CorrectionPolicy { allow_step: true, ..CorrectionPolicy::default() };
        assert_eq!(running(allowed).correct(correction(START, large), START), Ok(Applied::Stepped(large)));
        let small = allowed.step_threshold;
        assert_eq!(running(allowed).correct(correction(START, small), START), Ok(Applied::Slewed(small)));
        let default = CorrectionPolicy::default();
        assert_eq!(running(default).correct(correction(START, large), START), Ok(Applied::Slewed(large)));
    }

    #[test]
    fn a_correction_that_is_too_large_changes_nothing() {
        let limited = CorrectionPolicy { max_correction: Some(Span::from_secs(1)), ..CorrectionPolicy::default() };
        let mut first = clock(limited);
        let before = first.clone();
        let too_large = correction(START, Span::from_nanos(-1_000_000_001));
        assert_eq!(first.correct(too_large, START), Err(TooLarge { limit: Span::from_secs(1) }));
        assert_eq!(first, before);

        let mut later = running(CorrectionPolicy::default());
        let limit = CorrectionPolicy::LATER_LIMIT;
        assert_eq!(later.correct(correction(START, limit + Span::from_nanos(1)), START), Err(TooLarge { limit }));
    }

    #[test]
    fn a_correction_holds_at_its_reference_however_late_it_is_applied() {
        // Applied at once, or 3 s later: the same line afterwards.
        let fix = Correction { rate: Skew::from_ppm(50), ..correction(START, Span::from_millis(7)) };
        let (mut at_once, mut late) = (clock(CorrectionPolicy::default()), clock(CorrectionPolicy::default()));
        assert!(at_once.correct(fix, START).is_ok());
        assert!(late.correct(fix, START + Span::from_secs(3)).is_ok());
        let afterwards = START + Span::from_secs(10);
        assert_eq!(at_once.read(afterwards), late.read(afterwards));
        assert_eq!(at_once.read(afterwards), Time::from_nanos(15_007_500_000));
    }

    #[test]
    fn the_error_bound_grows_with_age_and_covers_the_slew() {
        let mut clock = running(CorrectionPolicy::default());
        let fix = Correction {
            error_bound: Span::from_micros(10),
            rate_error: Skew::from_ppm(1),
            ..correction(START, Span::from_micros(500))
        };
        assert!(clock.correct(fix, START).is_ok());
        assert_eq!(clock.error_bound(START), Span::from_micros(510));
        // The oscillator wanders by 4 · 5e-9 · sqrt(age³ / 3): 11.5 ns after 1 s, 11.5 µs after 100.
        assert_eq!(clock.error_bound(START + Span::from_secs(1)), Span::from_nanos(11_012));
        assert_eq!(clock.error_bound(START + Span::from_secs(100)), Span::from_nanos(121_547));
    }

    proptest! {
        #[test]
        fn it_never_runs_backwards_and_slews_never_jump(
            fixes in prop::collection::vec((0i64..2_000_000_000, -900_000_000_000i64..900_000_000_000, -500_000_000i64..500_000_000), 1..20),
            steps in prop::collection::vec(0i64..400_000_000, 1..50),
        ) {
            let mut clock = running(CorrectionPolicy::default());
            let mut now = START;
            let mut shown = clock.read(now);
            for (at, amount, ppt) in fixes {
                for step in &steps {
                    let next = now + Span::from_nanos(*step);
                    let showing = clock.read(next);
                    // Rates here stay within 500 ppm each of line and slew.
                    let gained = showing - shown - (next - now);
                    prop_assert!(showing >= shown);
                    prop_assert!(gained.abs() <= Skew::from_ppm(1_000).over(next - now) + Span::from_nanos(3));
                    (now, shown) = (next, showing);
                }
                let reference = now - Span::from_nanos(at);
                let fix = Correction { rate: Skew::from_ppt(ppt), ..correction(reference, Span::from_nanos(amount)) };
                prop_assert!(matches!(clock.correct(fix, now), Ok(Applied::Slewed(_))));
                prop_assert_eq!(clock.read(now), shown);
            }
        }

        #[test]
        fn absurd_corrections_never_panic(a: i64, b: i64, c: i64, d: i64, e: i64) {
            let mut clock = running(CorrectionPolicy { max_correction: Some(Span::MAX), ..CorrectionPolicy::default() });
            let fix = Correction {
                reference: LocalTime::from_nanos(a),
                amount: Span::from_nanos(b),
                rate: Skew::from_ppt(c),
                error_bound: Span::from_nanos(d),
                rate_error: Skew::from_ppt(e),
            };
            let _ = clock.correct(fix, LocalTime::from_nanos(e));
            let _ = (clock.read(LocalTime::from_nanos(d)), clock.error_bound(LocalTime::from_nanos(b)));
        }
    }
}
