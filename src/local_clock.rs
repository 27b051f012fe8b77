//! The driver's clocks: the free-running oscillator that stamps are taken on, and a look at the system's clock beside it.
//!
//! The only file that reads a clock; everything else is told the time. The oscillator is `CLOCK_MONOTONIC_RAW`, which
//! nobody adjusts, neither we nor another time daemon. It stands still while the machine is suspended; [`Continuity`] notices.

use std::io;

use nix::sys::time::TimeValLike;
use nix::time::ClockId;

use crate::time::{LocalTime, Skew, Span, Time};

/// The node's free-running clock, with a made-up oscillator error if one was asked for.
#[derive(Clone, Copy, Debug)]
pub struct LocalClock {
    started: LocalTime,
    drift: Skew,
}

/// The local and the system's clock at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// The free-running clock.
    pub local: LocalTime,
    /// `CLOCK_REALTIME`.
    pub system: Time,
    /// The two were read at most this far apart. Not negative; some 50 ns on an idle machine.
    pub uncertainty: Span,
}

/// How often [`LocalClock::pair`] looks. An interrupt between two of the reads costs microseconds, but it rarely comes
/// twice in a row; and all the looks together take less than a microsecond.
const PAIR_ATTEMPTS: usize = 5;

impl LocalClock {
    /// A clock that shows the oscillator's reading now and from then on runs fast by `inject_drift` (slow when negative),
    /// as if the oscillator were that wrong. The drift is cut to [`Skew::MAX`].
    ///
    /// # Errors
    /// The system has no such clock.
    pub fn new(inject_drift: Skew) -> io::Result<Self> {
        ClockId::CLOCK_REALTIME.now()?;
        let started = LocalTime::from_nanos(ClockId::CLOCK_MONOTONIC_RAW.now()?.num_nanoseconds());
        Ok(Self { started, drift: inject_drift.clamped(Skew::MAX) })
    }

    /// The local time. Never less than it was before.
    pub fn now(&self) -> LocalTime {
        self.at(raw())
    }

    /// Both clocks at one instant: the system's, read between two reads of the local one; the tightest of a few attempts.
    pub fn pair(&self) -> Pair {
        let mut before = raw();
        let mut tightest: Option<Pair> = None;
        for _ in 0..PAIR_ATTEMPTS {
            let system = Time::from_nanos(read(ClockId::CLOCK_REALTIME));
            let after = raw();
            let uncertainty = (after - before).half();
            if tightest.is_none_or(|pair| uncertainty < pair.uncertainty) {
                tightest = Some(Pair { local: self.at(before + uncertainty), system, uncertainty });
            }
            before = after;
        }
        tightest.unwrap_or(Pair { local: self.now(), system: Time::default(), uncertainty: Span::MAX })
    }

    /// The made-up error.
    pub fn drift(&self) -> Skew {
        self.drift
    }

    /// What this clock shows when the oscillator (a clock without drift) shows `raw`. Rises with it, because the drift is far below one.
    pub fn at(&self, raw: LocalTime) -> LocalTime {
        if self.drift == Skew::ZERO {
            // Nearly always: spares a division for each reading.
            return raw;
        }
        raw + self.drift.over(raw - self.started)
    }
}

/// The local clock has counted less time than passed, or more: the machine was suspended, or its oscillator leapt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// What the local clock showed when it was last seen to be right.
    pub before: LocalTime,
    /// How much time has passed since then.
    pub passed: Span,
    /// How much of it the local clock has missed; negative: what it has counted in addition.
    pub missed: Span,
}

/// Watches whether the local clock counts all the time that passes, by two others of the machine: `CLOCK_BOOTTIME` goes on
/// while the machine is suspended, and `CLOCK_MONOTONIC` runs on the same oscillator through another counter.
///
/// A process that was only stopped finds all three ahead by as much, and nothing is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Continuity {
    last: Readings,
}

/// The machine's clocks at one instant.
#[derive(Clone, Copy, Debug)]
struct Readings {
    raw: LocalTime,
    monotonic: LocalTime,
    boot: LocalTime,
    /// All three were read within this span: another process may have run in between, for many milliseconds.
    within: Span,
}

/// No suspension is shorter.
const LEAST_BREAK: Span = Span::from_millis(10);

/// Readings that took longer are taken again, as long as there are attempts left.
const CLOSE_READINGS: Span = Span::from_millis(1);

impl Continuity {
    /// All is well by now.
    pub fn new() -> Self {
        Self { last: Readings::now() }
    }

    /// Looks whether time has been missed since the last look.
    pub fn look(&mut self, clock: &LocalClock) -> Option<Break> {
        let now = Readings::now();
        let last = std::mem::replace(&mut self.last, now);
        now.break_since(&last).map(|found| Break { before: clock.at(found.before), ..found })
    }
}

impl Default for Continuity {
    fn default() -> Self {
        Self::new()
    }
}

impl Readings {
    fn now() -> Self {
        let mut readings = Self::attempt();
        for _ in 1..PAIR_ATTEMPTS {
            if readings.within < CLOSE_READINGS {
                break;
            }
            readings = Self::attempt();
        }
        readings
    }

    fn attempt() -> Self {
        let [raw, monotonic, boot] = [ClockId::CLOCK_MONOTONIC_RAW, ClockId::CLOCK_MONOTONIC, BOOT]
            .map(|clock| LocalTime::from_nanos(read(clock)));
        Self { raw, monotonic, boot, within: self::raw() - raw }
    }

    /// What the local clock, without its drift, has missed since earlier readings; `None` when that is nothing to speak of.
    fn break_since(&self, earlier: &Self) -> Option<Break> {
        let passed = self.boot - earlier.boot;
        let missed = passed - (self.raw - earlier.raw);
        // Another daemon may slew the other two, by the tick even, see `system_clock.rs`.
        let slewed = Skew::MAX.over(self.monotonic - earlier.monotonic);
        (missed.abs() > LEAST_BREAK + slewed + self.within + earlier.within).then_some(Break {
            before: earlier.raw,
            passed,
            missed,
        })
    }
}

/// The clock that goes on while the machine is suspended.
#[cfg(target_os = "linux")]
const BOOT: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const BOOT: ClockId = ClockId::CLOCK_MONOTONIC;

fn raw() -> LocalTime {
    LocalTime::from_nanos(read(ClockId::CLOCK_MONOTONIC_RAW))
}

#[expect(clippy::expect_used, reason = "only a clock that does not exist fails, and LocalClock::new has read both")]
fn read(clock: ClockId) -> i64 {
    clock.now().expect("a clock that was readable at start").num_nanoseconds()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_runs_backwards() {
        for drift in [Skew::ZERO, Skew::from_ppm(-100_000), Skew::from_ppm(300)] {
            let clock = LocalClock::new(drift).unwrap();
            let mut last = clock.now();
            for _ in 0..10_000 {
                let now = clock.now();
                assert!(now >= last, "{drift}: {now:?} after {last:?}");
                last = now;
            }
        }
    }

    #[test]
    fn drift_bends_the_oscillator_and_starts_from_its_reading() {
        let started = LocalTime::from_nanos(5_000_000_000);
        for (ppm, shown) in [(0, 1_000_000_000), (100_000, 1_100_000_000), (-50, 999_950_000)] {
            let clock = LocalClock { started, drift: Skew::from_ppm(ppm) };
            assert_eq!(clock.at(started), started);
            assert_eq!(clock.at(started + Span::from_secs(1)) - started, Span::from_nanos(shown));
        }
    }

    #[test]
    fn a_fast_clock_gains_what_its_drift_says() {
        let clock = LocalClock::new(Skew::from_ppm(100_000)).unwrap();
        let (outer, first, inner) = (raw(), clock.now(), raw());
        while raw() - inner < Span::from_millis(2) {}
        let (inner_end, last, outer_end) = (raw(), clock.now(), raw());
        // 1.1 times what passed between the reads, which the oscillator brackets; 2 ns for the two roundings.
        let (shortest, longest) = (inner_end - inner, outer_end - outer);
        let shown = last - first;
        assert!(shown + Span::from_nanos(2) >= shortest + shortest.part(10), "{shown} in {shortest}");
        assert!(shown <= longest + longest.part(10) + Span::from_nanos(2), "{shown} in {longest}");
    }

    #[test]
    fn an_absurd_drift_is_cut() {
        assert_eq!(LocalClock::new(Skew::from_ppm(5_000_000)).unwrap().drift, Skew::MAX);
        assert_eq!(LocalClock::new(Skew::from_ppm(-5_000_000)).unwrap().drift, Skew::from_ppm(-100_000));
    }

    #[test]
    fn missed_time_is_told_from_a_stopped_process_and_from_a_slew() {
        let at = |raw, monotonic, boot| {
            let [raw, monotonic, boot] =
                [raw, monotonic, boot].map(|at| LocalTime::from_nanos(0) + Span::from_millis(at));
            Readings { raw, monotonic, boot, within: Span::ZERO }
        };
        let start = at(1_000, 2_000, 3_000);
        let found = |now: Readings| now.break_since(&start).map(|found| (found.passed, found.missed));
        assert_eq!(found(at(1_250, 2_250, 3_250)), None);
        assert_eq!(found(at(3_601_000, 3_602_000, 3_603_000)), None, "stopped for an hour");
        assert_eq!(found(at(11_000, 12_900, 13_900)), None, "another daemon slews by 9 %");
        let (minute, hour, millisecond) = (Span::from_secs(60), Span::from_secs(3_600), Span::from_millis(1));
        assert_eq!(found(at(1_001, 2_001, 63_001)), Some((minute + millisecond, minute)), "suspended for a minute");
        assert_eq!(
            found(at(3_601_100, 2_100, 3_100)),
            Some((millisecond.times(100), -hour)),
            "the oscillator leapt an hour"
        );
    }

    #[test]
    fn who_is_interrupted_while_it_reads_has_missed_nothing() {
        let at = |millis| LocalTime::from_nanos(0) + Span::from_millis(millis);
        let held_up = Span::from_millis(30);
        let smooth = |millis| Readings { raw: at(millis), monotonic: at(millis), boot: at(millis), within: Span::ZERO };
        let interrupted = |millis| Readings { boot: at(millis) + held_up, within: held_up, ..smooth(millis) };
        assert!(interrupted(100).break_since(&smooth(0)).is_none());
        assert!(smooth(200).break_since(&interrupted(100)).is_none());
        assert!(Readings { within: Span::ZERO, ..interrupted(100) }.break_since(&smooth(0)).is_some());
    }

    #[test]
    fn this_machine_misses_nothing_while_it_is_looked_at() {
        let clock = LocalClock::new(Skew::from_ppm(100)).unwrap();
        let mut continuity = Continuity::new();
        for _ in 0..10_000 {
            assert_eq!(continuity.look(&clock), None);
        }
    }

    #[test]
    fn a_pair_is_tight_and_lies_between_its_neighbours() {
        let clock = LocalClock::new(Skew::ZERO).unwrap();
        let (local, system) = (clock.now(), read(ClockId::CLOCK_REALTIME));
        let pair = clock.pair();
        let (local_after, system_after) = (clock.now(), read(ClockId::CLOCK_REALTIME));
        assert!(local <= pair.local && pair.local <= local_after);
        assert!(system <= pair.system.as_nanos() && pair.system.as_nanos() <= system_after);
        // A loaded machine may interrupt an attempt, hardly all of them for so long.
        assert!(pair.uncertainty.is_forward() && pair.uncertainty < Span::from_millis(1), "{}", pair.uncertainty);
    }
}
