//! The clock that the kernel stamps by, beside the one that is to be shown: from CLOCK_REALTIME to the local clock.
//!
//! A stamp is read some time after it was taken, on a busy machine a tenth of a second, and in that time the two clocks do not show the
//! same: CLOCK_REALTIME is slewed, by this node or by another daemon, and a local clock may drift on purpose. At 100 ppm that would
//! be 10 µs, which no bound allows for. So their rate is measured, from one look at both to a later one.

use crate::local_clock::{LocalClock, Pair};
use crate::time::{LocalTime, Skew, Span, Time};

/// As well as this a rate is known, or it is not used. Two looks at an idle machine's clocks show it after a tenth of a second.
const GOOD_RATE: Skew = Skew::from_ppm(1);

/// Both clocks, as they were seen last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KernelClock {
    now: Pair,
    /// Where the rate is measured from; `None` before the first look.
    since: Option<Pair>,
    /// The local clock's, relative to CLOCK_REALTIME.
    rate: Skew,
}

impl KernelClock {
    /// Looks at both.
    pub(super) fn look(&mut self, clock: &LocalClock) {
        self.seen(clock.pair(), clock.drift());
    }

    /// Both were seen at one instant. `drift`: the local clock's rate, as long as nothing has been measured.
    fn seen(&mut self, now: Pair, drift: Skew) {
        self.now = now;
        let Some(since) = self.since else {
            (self.since, self.rate) = (Some(now), drift);
            return;
        };
        let passed = now.local - since.local;
        if now.uncertainty + since.uncertainty <= GOOD_RATE.over(passed) {
            // A rate beyond all measure: somebody has set CLOCK_REALTIME.
            let rate = Some(Skew::from_spans(passed, now.system - since.system)).filter(|rate| rate.abs() <= Skew::MAX);
            (self.since, self.rate) = (Some(now), rate.unwrap_or(self.rate));
        } else if now.uncertainty < since.uncertainty {
            // Nothing good can be measured from a look that was interrupted.
            self.since = Some(now);
        }
    }

    /// The local time of the last look.
    pub(super) fn now(&self) -> LocalTime {
        self.now.local
    }

    /// How long before the last look this was, on CLOCK_REALTIME.
    pub(super) fn age(&self, stamp: Time) -> Span {
        self.now.system - stamp
    }

    /// What the local clock showed when CLOCK_REALTIME showed this, shortly before the last look. Wrong by the age times what the rate has
    /// changed since it was measured.
    pub(super) fn at(&self, stamp: Time) -> LocalTime {
        let age = self.age(stamp);
        self.now.local - age - self.rate.over(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNCERTAINTY: Span = Span::from_nanos(50);

    /// Both clocks when so much true time has passed. The local one is fast by `drift`, CLOCK_REALTIME by `slewed`.
    fn pair(passed: Span, drift: Skew, slewed: Skew) -> Pair {
        Pair {
            local: LocalTime::from_nanos(7) + passed + drift.over(passed),
            system: Time::from_nanos(1_700_000_000_000_000_000) + passed + slewed.over(passed),
            uncertainty: UNCERTAINTY,
        }
    }

    /// How far off the local time is that is made of a stamp taken `age` before a look at this time.
    fn error(clock: &mut KernelClock, passed: Span, drift: Skew, slewed: Skew, age: Span) -> Span {
        let taken = pair(passed - age, drift, slewed);
        clock.seen(pair(passed, drift, slewed), drift);
        (clock.at(taken.system) - taken.local).abs()
    }

    #[test]
    fn a_stamp_that_waited_is_right_whatever_the_rates_are() {
        let age = Span::from_millis(100);
        for drift in [Skew::ZERO, Skew::from_ppm(-100), Skew::from_ppm(50_000)] {
            for slewed in [Skew::ZERO, Skew::from_ppm(500), Skew::from_ppm(-40_000)] {
                let mut clock = KernelClock::default();
                clock.seen(pair(Span::ZERO, drift, slewed), drift);
                let found = error(&mut clock, Span::from_millis(101), drift, slewed, age);
                assert!(found <= Span::from_nanos(2), "{drift:?}, {slewed:?}: {found}");
            }
        }
    }

    #[test]
    fn a_local_clock_that_drifts_is_known_before_anything_is_measured() {
        let drift = Skew::from_ppm(-100);
        let found = error(&mut KernelClock::default(), Span::from_secs(1), drift, Skew::ZERO, Span::from_millis(100));
        assert!(found <= Span::from_nanos(2), "{found}");
    }

    #[test]
    fn looks_that_are_too_near_or_were_interrupted_tell_no_rate() {
        let (none, slewed) = (Skew::ZERO, Skew::from_ppm(500));
        let mut clock = KernelClock::default();
        clock.seen(Pair { uncertainty: Span::from_millis(1), ..pair(Span::ZERO, none, slewed) }, none);
        // From here on, and not before 100 ms have passed.
        for (millis, rate) in [(500, Skew::ZERO), (599, Skew::ZERO), (601, slewed)] {
            clock.seen(pair(Span::from_millis(millis), none, slewed), none);
            assert!((clock.rate + rate).abs() < GOOD_RATE, "after {millis} ms: {:?}", clock.rate);
        }
        clock.seen(Pair { uncertainty: Span::from_millis(1), ..pair(Span::from_secs(2), none, Skew::ZERO) }, none);
        assert!((clock.rate + slewed).abs() < GOOD_RATE, "{:?}", clock.rate);
    }

    #[test]
    fn who_sets_the_system_clock_changes_no_rate() {
        let slewed = Skew::from_ppm(500);
        for leap in [Span::from_secs(-3_600), Span::from_secs(3_600), Span::from_secs(-1)] {
            let mut clock = KernelClock::default();
            for (second, leap) in [(0, Span::ZERO), (1, Span::ZERO), (2, leap)] {
                let seen = pair(Span::from_secs(second), Skew::ZERO, slewed);
                clock.seen(Pair { system: seen.system + leap, ..seen }, Skew::ZERO);
                assert!(second == 0 || (clock.rate + slewed).abs() < GOOD_RATE, "{leap}: {:?}", clock.rate);
            }
        }
    }
}
