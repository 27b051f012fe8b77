//! A node's oscillator: from true time to what its free-running clock shows, and back.
//!
//! Model: the rate is constant for a second at a time. In the n-th second it is off by
//!
//! ```text
//! drift  +  the sum of n normal numbers · wander  +  amplitude · mean of sin(2π (t / period + phase)) over the second
//! ```
//!
//! so that the wander's standard deviation is `wander` · √n. What a real oscillator wanders within a second is missing: at 1 ppb
//! after a second that is below a nanosecond. Rates are whole parts per trillion, and 1 ppt over 1 s is 1 ps: what the clock
//! has gained at the beginning of a second is a whole number of picoseconds, and within a second an integer product. The
//! mapping is exact, whatever its age; only the reading is rounded, down to the granularity.
//!
//! The seconds are those in which the oscillator runs: while it stands still (a suspended host), wander and swing do too.
//!
//! The rate of a second depends on the random stream and its number alone, not on who asks when. Seconds are generated when
//! first needed, up to [`HORIZON`] ahead for deadlines, and dropped within a second when more than [`MEMORY`] behind the newest reading:
//! memory does not grow with the length of a run.

use std::collections::VecDeque;
use std::f64::consts::{PI, TAU};

use super::random::{Purpose, Random};
use super::scenario::ClockModel;
use crate::time::{LocalTime, Skew, Span};

/// The oscillators of a run start this far apart, as those of machines that booted at different times do.
const BOOT_DISTANCE: Span = Span::from_secs(1_000);
/// So many start at different readings; more would lead beyond what a frame can say.
const BOOTS: u64 = 1_000_000;

/// How long a rate stays. A power of ten, so that what is gained in it is a whole number of picoseconds.
const SEGMENT: Span = Span::from_secs(1);
/// Parts per trillion in one, and therefore steps of a nanosecond in which the inner arithmetic counts.
const STEPS_PER_NANO: i64 = 1_000_000_000_000;
/// The same steps in a picosecond.
const STEPS_PER_PICO: i64 = 1_000_000_000;
const PICOS_PER_NANO: i64 = 1_000;

/// How far behind the newest reading the clock may still be asked: longer than a stamp is ever late.
pub const MEMORY: Span = Span::from_secs(1);
/// How far ahead of the newest reading a deadline is found to the nanosecond: twice the longest interval between rounds. 24
/// bytes are kept for each of these seconds while a deadline lies that far ahead.
pub const HORIZON: Span = Span::from_secs(128);

/// The rate of one second.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// When it begins, in the oscillator's running time: a multiple of [`SEGMENT`].
    begin: Span,
    /// What the clock has gained until then, in picoseconds. Saturates after three years at a tenth of time's rate.
    gained: i64,
    rate: Skew,
}

impl Segment {
    /// What the clock shows when it begins, in steps.
    fn shown_first(&self) -> i128 {
        i128::from(self.begin.as_nanos()) * i128::from(STEPS_PER_NANO)
            + i128::from(self.gained) * i128::from(STEPS_PER_PICO)
    }

    /// What the clock shows after it has run for so long, rounded down to nanoseconds.
    fn shown(&self, ran: Span) -> Span {
        let (rate, within) = (self.rate.as_ppt(), (ran - self.begin).as_nanos());
        let (nanos, picos) = (self.gained.div_euclid(PICOS_PER_NANO), self.gained.rem_euclid(PICOS_PER_NANO));
        // Rates of up to 9,000 ppm fit into 64 bits, in which a division is no call into a library.
        let steps = match rate.checked_mul(within).and_then(|steps| steps.checked_add(picos * STEPS_PER_PICO)) {
            Some(steps) => Span::from_nanos(steps.div_euclid(STEPS_PER_NANO)),
            None => {
                let steps = i128::from(rate) * i128::from(within) + i128::from(picos * STEPS_PER_PICO);
                narrowed(steps.div_euclid(STEPS_PER_NANO.into()))
            }
        };
        ran + Span::from_nanos(nanos) + steps
    }

    /// The shortest time after which the clock shows at least so many steps, but the end of the segment at the latest.
    fn ran_until(&self, shown: i128) -> Span {
        let rate = i128::from(STEPS_PER_NANO + self.rate.as_ppt());
        // Rounded up. The rate is positive, for no rate is off by more than a tenth.
        let after = -(self.shown_first() - shown).div_euclid(rate);
        self.begin + narrowed(after).min(SEGMENT)
    }
}

/// Saturates: an absurd clock stays absurd.
fn narrowed(nanos: i128) -> Span {
    Span::from_nanos(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX }))
}

/// Makes the segments, one after the other.
#[derive(Clone, Debug)]
struct Rates {
    random: Random,
    /// Where the next segment begins, and what has been gained until then.
    begin: Span,
    gained: i64,
    drift: Skew,
    walk: Skew,
    /// Standard deviation of a step of the walk, as a ratio.
    wander: f64,
    /// Amplitude of the sinusoid after averaging over a segment, as a ratio.
    swing: f64,
    period: Span,
    /// Phase of the sinusoid, in turns.
    phase: f64,
}

impl Rates {
    fn new(model: &ClockModel, mut random: Random) -> Self {
        // Both are drawn whether they are needed or not, so that a setting changes what it says and nothing else.
        let (drift, phase) = (random.uniform(-1.0..1.0), random.uniform(0.0..1.0));
        let period = model.swing_period.max(Span::from_nanos(1));
        let half_angle = PI * SEGMENT.as_secs_f64() / period.as_secs_f64();
        Self {
            random,
            begin: Span::ZERO,
            gained: 0,
            drift: Skew::from_ratio(model.drift_ppm * 1e-6 * if model.spread { drift } else { 1.0 }),
            walk: Skew::ZERO,
            wander: model.wander_ppb * 1e-9,
            // The mean of a sinusoid over an angle is its value in the middle times sin(half the angle) / half the angle.
            swing: model.swing_ppb * 1e-9 * libm::sin(half_angle) / half_angle,
            period,
            phase,
        }
    }

    /// What the clock shows where the next segment begins, in steps.
    fn shown(&self) -> i128 {
        Segment { begin: self.begin, gained: self.gained, rate: Skew::ZERO }.shown_first()
    }

    fn next(&mut self) -> Segment {
        // Whole turns are dropped in integers, so that the sinusoid is as exact after a year as at first.
        let middle = self.begin + SEGMENT.half();
        let turned = Span::from_nanos(middle.as_nanos().checked_rem(self.period.as_nanos()).unwrap_or(0));
        let turns = turned.as_secs_f64() / self.period.as_secs_f64() + self.phase;
        let swing = Skew::from_ratio(self.swing * libm::sin(TAU * turns));
        let rate = (self.drift + self.walk + swing).clamped(Skew::MAX);
        let segment = Segment { begin: self.begin, gained: self.gained, rate };
        self.begin += SEGMENT;
        self.gained = self.gained.saturating_add(rate.as_ppt());
        self.walk = self.walk + Skew::from_ratio(self.wander * self.random.normal());
        segment
    }
}

/// How running time and jumps lie in true time, from an instant up to that of the next piece.
#[derive(Clone, Copy, Debug)]
struct Piece {
    from: Span,
    /// For how long the oscillator has run at `from`.
    ran: Span,
    /// By how much it has jumped.
    jumped: Span,
    is_stopped: bool,
}

impl Piece {
    /// For how long the oscillator has run at an instant in this piece.
    fn ran_at(&self, truth: Span) -> Span {
        if self.is_stopped { self.ran } else { self.ran + (truth - self.from) }
    }
}

/// A free-running clock. True time is counted from the beginning of the simulation.
#[derive(Clone, Debug)]
pub struct Oscillator {
    zero: LocalTime,
    /// Nanoseconds; positive.
    granularity: i64,
    rates: Rates,
    /// Consecutive; the last ends where the next of `rates` begins.
    segments: VecDeque<Segment>,
    /// In order; never empty, and seldom more than one.
    pieces: Vec<Piece>,
    newest: Span,
    /// The newest reading when what is too old was dropped last.
    tidied: Span,
}

/// By how much the disciplined clock that starts on the oscillator of the node with this number is wrong.
pub(crate) fn offset_at_start(model: &ClockModel, seed: u64, number: u64) -> Span {
    if !model.spread {
        return model.offset;
    }
    let share = Random::stream(seed, Purpose::Start, number).uniform(-1.0..1.0);
    Span::from_secs_f64(model.offset.as_secs_f64() * share)
}

impl Oscillator {
    /// That of the node with this number, in a run with this seed.
    pub(crate) fn of_node(model: &ClockModel, seed: u64, number: u64) -> Self {
        let boots = i64::try_from(number % BOOTS + 1).unwrap_or(1);
        let zero = LocalTime::from_nanos(0) + BOOT_DISTANCE.times(boots);
        Self::new(model, Random::stream(seed, Purpose::Oscillator, number), zero)
    }

    /// The clock that shows `zero` when the simulation begins. Of `model`, the `offset` (of the disciplined clock) and the
    /// `stamp_noise` are left to others. Its rate never differs from true time's by more than [`Skew::MAX`].
    pub fn new(model: &ClockModel, random: Random, zero: LocalTime) -> Self {
        Self {
            zero,
            granularity: model.granularity.as_nanos().max(1),
            rates: Rates::new(model, random),
            segments: VecDeque::new(),
            pieces: vec![Piece { from: Span::ZERO, ran: Span::ZERO, jumped: Span::ZERO, is_stopped: false }],
            newest: Span::ZERO,
            tidied: Span::ZERO,
        }
    }

    /// What it shows at an instant of true time. Never decreases with `truth`.
    ///
    /// A reading of more than [`MEMORY`] before the newest one is that of [`MEMORY`] before it. O(1), but for the seconds
    /// that have passed since the last reading.
    pub fn local(&mut self, truth: Span) -> LocalTime {
        self.newest = self.newest.max(truth);
        if self.newest - self.tidied >= SEGMENT {
            self.tidied = self.newest;
            self.forget();
        }
        let truth = truth.max(self.oldest());
        let Some(piece) = self.piece(truth) else { return self.zero }; // There is always a piece.
        let shown = self.shown(piece.ran_at(truth)) + piece.jumped;
        self.rounded_down(self.zero + shown)
    }

    /// The earliest instant of true time at which it shows at least `local`, but none of more than [`MEMORY`] before the newest
    /// reading. [`Span::MAX`] when it has stopped for ever before that.
    ///
    /// If that lies more than [`HORIZON`] of running time after the newest reading, the answer is too early, but not before
    /// the horizon: who waits for it reads the clock then and asks again. O(log n) in the seconds of the horizon.
    pub fn truth_of(&mut self, local: LocalTime) -> Span {
        let wanted = self.rounded_up(local) - self.zero;
        let mut place = 0;
        while let Some(piece) = self.pieces.get(place).copied() {
            place += 1;
            let end = self.pieces.get(place).map_or(Span::MAX, |next| next.from);
            let wanted = wanted - piece.jumped;
            let truth = if piece.is_stopped {
                if self.shown(piece.ran) >= wanted { piece.from } else { end }
            } else {
                piece.from + (self.ran_until(wanted) - piece.ran).max(Span::ZERO)
            };
            if truth < end {
                return truth.max(self.oldest());
            }
        }
        Span::MAX
    }

    /// From `at` on it shows `by` more. An instant before the newest reading counts as that; nothing jumps backward.
    ///
    /// Instants that [`Oscillator::truth_of`] gave before are to be asked for again.
    pub fn jump(&mut self, at: Span, by: Span) {
        let at = at.max(self.newest);
        self.split(at);
        for piece in self.pieces.iter_mut().filter(|piece| piece.from >= at) {
            piece.jumped += by.max(Span::ZERO);
        }
    }

    /// It stands still from `at` until `until` ([`Span::MAX`]: for ever) and then runs on from what it showed. An `at`
    /// before the newest reading counts as that.
    ///
    /// Instants that [`Oscillator::truth_of`] gave before are to be asked for again.
    pub fn stop(&mut self, at: Span, until: Span) {
        let at = at.max(self.newest);
        if until <= at {
            return;
        }
        self.split(at);
        self.split(until);
        // What had run when a piece begins follows from the piece before it.
        let mut before: Option<Piece> = None;
        for piece in &mut self.pieces {
            piece.ran = before.map_or(piece.ran, |before| before.ran_at(piece.from));
            piece.is_stopped |= (at..until).contains(&piece.from);
            before = Some(*piece);
        }
    }

    /// Makes a piece begin at this instant, which lies after the beginning of the first.
    fn split(&mut self, at: Span) {
        let place = self.pieces.partition_point(|piece| piece.from <= at);
        let Some(piece) = place.checked_sub(1).and_then(|before| self.pieces.get(before)).copied() else {
            return;
        };
        if piece.from < at {
            self.pieces.insert(place, Piece { from: at, ran: piece.ran_at(at), ..piece });
        }
    }

    /// The oldest instant that can still be asked for.
    fn oldest(&self) -> Span {
        (self.newest - MEMORY).max(Span::ZERO)
    }

    /// The piece of an instant, or the first that is kept.
    fn piece(&self, truth: Span) -> Option<Piece> {
        self.pieces.iter().rev().find(|piece| piece.from <= truth).or(self.pieces.first()).copied()
    }

    /// Drops what lies before the oldest instant.
    fn forget(&mut self) {
        let oldest = self.oldest();
        while self.pieces.get(1).is_some_and(|second| second.from <= oldest) {
            self.pieces.remove(0);
        }
        let Some(ran) = self.piece(oldest).map(|piece| piece.ran_at(oldest)) else { return };
        while self.segments.front().is_some_and(|segment| segment.begin + SEGMENT <= ran) {
            self.segments.pop_front();
        }
        if self.segments.is_empty() {
            // Nobody asked for these seconds, but the walk goes through them.
            while self.rates.begin + SEGMENT <= ran {
                self.rates.next();
            }
        }
    }

    /// Makes the next segment and keeps it.
    fn extend(&mut self) {
        let segment = self.rates.next();
        self.segments.push_back(segment);
    }

    /// What it shows after it has run for so long, less its zero and jumps, rounded down to nanoseconds.
    fn shown(&mut self, ran: Span) -> Span {
        while self.rates.begin <= ran {
            self.extend();
        }
        let first = self.segments.front().map_or(Span::ZERO, |segment| segment.begin);
        let place = (ran - first).as_nanos() / SEGMENT.as_nanos();
        let segment = usize::try_from(place).ok().and_then(|place| self.segments.get(place));
        segment.map_or(ran, |segment| segment.shown(ran))
    }

    /// The shortest time for which it has run when it shows at least this, less its zero and jumps; within the horizon.
    fn ran_until(&mut self, shown: Span) -> Span {
        let shown = i128::from(shown.as_nanos()) * i128::from(STEPS_PER_NANO);
        let horizon = self.piece(self.newest).map_or(Span::ZERO, |piece| piece.ran_at(self.newest)) + HORIZON;
        while self.rates.begin <= horizon && self.rates.shown() < shown {
            self.extend();
        }
        // It is shown in the last segment at whose beginning it is not shown yet.
        let place = self.segments.partition_point(|segment| segment.shown_first() < shown);
        let segment = place.checked_sub(1).and_then(|before| self.segments.get(before));
        segment.map_or(Span::ZERO, |segment| segment.ran_until(shown))
    }

    /// The latest reading that is not after this instant.
    fn rounded_down(&self, exact: LocalTime) -> LocalTime {
        if self.granularity == 1 {
            return exact;
        }
        exact - Span::from_nanos(exact.as_nanos().rem_euclid(self.granularity))
    }

    /// The earliest reading that is not before this instant.
    fn rounded_up(&self, exact: LocalTime) -> LocalTime {
        let down = self.rounded_down(exact);
        if down == exact { exact } else { down + Span::from_nanos(self.granularity) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Purpose;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A clock without any error.
    fn perfect() -> ClockModel {
        ClockModel { drift_ppm: 0.0, spread: false, wander_ppb: 0.0, ..ClockModel::default() }
    }

    fn oscillator(model: &ClockModel, index: u64) -> Oscillator {
        Oscillator::new(model, Random::stream(1, Purpose::Oscillator, index), LocalTime::default())
    }

    /// What a clock has gained on true time.
    fn gained(clock: &mut Oscillator, truth: Span) -> Span {
        clock.local(truth) - LocalTime::default() - truth
    }

    fn secs(secs: i64) -> Span {
        Span::from_secs(secs)
    }

    #[test]
    fn a_perfect_clock_shows_true_time() {
        let zero = LocalTime::from_nanos(-5_000_000_000);
        let mut clock = Oscillator::new(&perfect(), Random::stream(1, Purpose::Oscillator, 0), zero);
        for nanos in [0, 1, 999_999_999, 1_000_000_000, 86_400_000_000_001] {
            assert_eq!(clock.local(Span::from_nanos(nanos)), zero + Span::from_nanos(nanos));
        }
    }

    #[test]
    fn drift_is_exact_after_a_week() {
        let week = secs(7 * 86_400) + Span::from_nanos(123_456_789);
        for drift_ppm in [-200.0, -0.000_001, 0.000_001, 50.0, 0.123_456] {
            let mut clock = oscillator(&ClockModel { drift_ppm, ..perfect() }, 0);
            let ppt = i128::from(Skew::from_ratio(drift_ppm * 1e-6).as_ppt());
            let exact = (i128::from(week.as_nanos()) * ppt).div_euclid(1_000_000_000_000);
            assert_eq!(i128::from(gained(&mut clock, week).as_nanos()), exact, "{drift_ppm} ppm");
        }
    }

    #[test]
    fn an_absurd_drift_is_held_to_the_largest_skew() {
        for (drift_ppm, gain) in [(1e9, 100), (-1e9, -100)] {
            let mut clock = oscillator(&ClockModel { drift_ppm, ..perfect() }, 0);
            assert_eq!(gained(&mut clock, secs(1)), Span::from_millis(gain));
        }
    }

    #[test]
    fn drawn_drifts_lie_evenly_on_both_sides() {
        let model = ClockModel { drift_ppm: 50.0, spread: true, ..perfect() };
        let drifts: Vec<f64> =
            (0..2_000).map(|index| gained(&mut oscillator(&model, index), secs(1)).as_secs_f64() * 1e6).collect();
        let mean = drifts.iter().sum::<f64>() / 2_000.0;
        let deviation = (drifts.iter().map(|drift| drift * drift).sum::<f64>() / 2_000.0).sqrt();
        assert!(drifts.iter().all(|drift| drift.abs() <= 50.001));
        assert!(mean.abs() < 4.0 * 28.87 / 2_000.0_f64.sqrt(), "{mean}");
        assert!((deviation - 50.0 / 3.0_f64.sqrt()).abs() < 1.2, "{deviation}");
    }

    #[test]
    fn wander_grows_with_the_square_root_of_time() {
        let model = ClockModel { wander_ppb: 100.0, ..perfect() };
        for after in [1_i64, 25, 400] {
            let (mut sum, mut squares) = (0.0, 0.0);
            for index in 0..2_000 {
                let mut clock = oscillator(&model, index);
                let begin = gained(&mut clock, secs(after));
                let rate = (gained(&mut clock, secs(after + 1)) - begin).as_secs_f64() * 1e9;
                sum += rate;
                squares += rate * rate;
            }
            let expected = 100.0 * secs(after).as_secs_f64().sqrt();
            let (mean, deviation) = (sum / 2_000.0, (squares / 2_000.0).sqrt());
            // Four σ of the mean and of the standard deviation of 2,000.
            assert!(mean.abs() < 4.0 * expected / 2_000.0_f64.sqrt(), "mean {mean} after {after} s");
            assert!((deviation / expected - 1.0).abs() < 4.0 / 4_000.0_f64.sqrt(), "{deviation} after {after} s");
        }
    }

    #[test]
    fn a_swing_gains_its_amplitude_times_period_over_pi_and_gives_it_back() {
        let model = ClockModel { swing_ppb: 1_000.0, swing_period: secs(600), ..perfect() };
        let mut clock = oscillator(&model, 3);
        let course: Vec<f64> = (0..=1_200).map(|at| gained(&mut clock, secs(at)).as_secs_f64() * 1e9).collect();
        let (low, high) = course.iter().fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(*at), high.max(*at)));
        // The integral of A sin(2πt/P) over half a period, in nanoseconds: 1e-6 · 600 s / π.
        assert!((high - low - 600_000.0 / PI).abs() < 10.0, "{low} to {high}");
        for (before, after) in course.iter().zip(&course[600..]) {
            assert!((before - after).abs() <= 2.0, "{before} {after}");
        }
        let mut other = oscillator(&model, 4);
        assert_ne!(gained(&mut other, secs(100)), Span::from_secs_f64(course[100] * 1e-9), "phases are drawn");
    }

    /// A sinusoid faster than the segments averages out in each of them.
    #[test]
    fn a_swing_of_one_second_or_none_changes_nothing() {
        for swing_period in [secs(1), Span::ZERO] {
            let mut clock = oscillator(&ClockModel { swing_ppb: 1e6, swing_period, ..perfect() }, 3);
            assert!(gained(&mut clock, secs(100)).abs() <= Span::from_nanos(1), "{swing_period}");
        }
    }

    #[test]
    fn it_is_read_in_whole_grains() {
        let mut clock = Oscillator::new(
            &ClockModel { granularity: Span::from_micros(4), ..perfect() },
            Random::stream(1, Purpose::Oscillator, 0),
            LocalTime::from_nanos(-1),
        );
        let truth = |nanos| Span::from_nanos(nanos);
        for (nanos, shown) in [(0, -4_000), (1, 0), (4_000, 0), (4_001, 4_000), (9_000, 8_000)] {
            assert_eq!(clock.local(truth(nanos)), LocalTime::from_nanos(shown), "{nanos}");
        }
        assert_eq!(clock.truth_of(LocalTime::from_nanos(8_001)), truth(12_001));
        assert_eq!(clock.truth_of(LocalTime::from_nanos(8_000)), truth(8_001));
    }

    #[test]
    fn a_jump_is_seen_from_its_instant_on() {
        let mut clock = oscillator(&perfect(), 0);
        let deadline = LocalTime::default() + secs(12);
        assert_eq!(clock.truth_of(deadline), secs(12));
        clock.jump(secs(10), secs(5));
        assert_eq!(clock.truth_of(deadline), secs(10), "the deadline is jumped over");
        assert_eq!(clock.truth_of(LocalTime::default() + secs(16)), secs(11));
        assert_eq!(gained(&mut clock, secs(10) - Span::from_nanos(1)), Span::ZERO);
        assert_eq!(gained(&mut clock, secs(10)), secs(5));
        let before = secs(11) - MEMORY.half();
        clock.local(secs(11));
        clock.jump(secs(3), secs(1));
        assert_eq!(gained(&mut clock, secs(11)), secs(6), "what is late happens now");
        assert_eq!(gained(&mut clock, before), secs(5), "and not before");
        clock.jump(secs(10), secs(-1));
        assert_eq!(gained(&mut clock, secs(20)), secs(6), "nothing jumps backward");
    }

    #[test]
    fn a_stopped_clock_stands_still_and_then_runs_on() {
        let mut clock = oscillator(&perfect(), 0);
        clock.stop(secs(10), secs(15));
        assert_eq!(clock.local(secs(9)), LocalTime::default() + secs(9));
        assert_eq!(clock.truth_of(LocalTime::default() + secs(10)), secs(10));
        assert_eq!(clock.truth_of(LocalTime::from_nanos(10_000_000_001)), secs(15) + Span::from_nanos(1));
        for at in 10..=15 {
            assert_eq!(clock.local(secs(at)), LocalTime::default() + secs(10));
        }
        assert_eq!(clock.local(secs(16)), LocalTime::default() + secs(11));
        clock.stop(secs(20), Span::MAX);
        assert_eq!(clock.truth_of(LocalTime::default() + secs(15)), secs(20));
        assert_eq!(clock.truth_of(LocalTime::default() + secs(16)), Span::MAX);
        assert_eq!(clock.local(secs(1_000)), LocalTime::default() + secs(15));
    }

    #[test]
    fn stops_may_overlap_and_jumps_may_happen_in_them() {
        let mut clock = oscillator(&perfect(), 0);
        clock.stop(secs(10), secs(20));
        clock.stop(secs(15), secs(30));
        clock.jump(secs(17), secs(100));
        clock.stop(secs(5), secs(5));
        assert_eq!(clock.truth_of(LocalTime::default() + secs(50)), secs(17));
        assert_eq!(clock.local(secs(16)), LocalTime::default() + secs(10));
        assert_eq!(clock.local(secs(29)), LocalTime::default() + secs(110));
        assert_eq!(clock.local(secs(31)), LocalTime::default() + secs(111));
    }

    #[test]
    fn the_past_beyond_memory_is_what_memory_ends_with() {
        let mut clock = oscillator(&ClockModel::default(), 0);
        let early = clock.local(secs(50));
        clock.local(secs(50) + MEMORY);
        assert_eq!(clock.local(secs(50)), early);
        assert_eq!(clock.local(secs(3)), early);
        assert_eq!(clock.truth_of(LocalTime::default()), secs(50));
    }

    #[test]
    fn a_deadline_beyond_the_horizon_comes_too_early_and_costs_no_more() {
        let mut clock = oscillator(&perfect(), 0);
        clock.local(secs(1_000));
        let early = clock.truth_of(LocalTime::default() + secs(1_000_000));
        assert!(early > secs(1_000) + HORIZON && early <= secs(1_001) + HORIZON, "{early}");
        assert!(clock.segments.len() < 135, "{}", clock.segments.len());
        assert_eq!(clock.truth_of(LocalTime::default() + secs(1_128)), secs(1_128));
    }

    #[test]
    fn memory_stays_flat() {
        let mut clock = oscillator(&ClockModel::default(), 0);
        for at in 0..10_000 {
            let now = clock.local(secs(at));
            clock.truth_of(now + secs(64));
            clock.jump(secs(at), Span::from_nanos(1));
            clock.stop(secs(at), secs(at) + Span::from_millis(10));
            assert!(clock.segments.len() <= 70, "{} after {at} s", clock.segments.len());
            assert!(clock.pieces.len() <= 8, "{} after {at} s", clock.pieces.len());
        }
    }

    /// If this changes, every recorded outcome does.
    #[test]
    fn the_readings_of_a_seed_never_change() {
        let mut clock = oscillator(&ClockModel { swing_ppb: 500.0, ..ClockModel::default() }, 0);
        let readings = [0, 1, 100, 3_600].map(|at| gained(&mut clock, secs(at)).as_nanos());
        assert_eq!(readings, [0, 48_591, 4_854_473, 175_714_579]);
    }

    fn models() -> impl Strategy<Value = ClockModel> {
        (
            -500.0..500.0,
            any::<bool>(),
            prop_oneof![Just(0.0), 0.0..1_000.0],
            prop_oneof![Just(0.0), 0.0..10_000.0],
            1_i64..100_000_000_000,
            prop_oneof![Just(1_i64), 1_i64..2_000_000],
        )
            .prop_map(|(drift_ppm, spread, wander_ppb, swing_ppb, period, granularity)| ClockModel {
                drift_ppm,
                spread,
                wander_ppb,
                swing_ppb,
                swing_period: Span::from_nanos(period),
                granularity: Span::from_nanos(granularity),
                ..ClockModel::default()
            })
    }

    /// A clock, and another of the same kind, with the same jumps and stops. Times are in nanoseconds.
    fn twins(model: &ClockModel, seed: u64, zero: i64, faults: &[(i64, i64, bool)]) -> [Oscillator; 2] {
        let mut clock =
            Oscillator::new(model, Random::stream(seed, Purpose::Oscillator, 0), LocalTime::from_nanos(zero));
        for (at, lasting, is_stop) in faults {
            let (at, lasting) = (Span::from_nanos(*at), Span::from_nanos(*lasting));
            if *is_stop { clock.stop(at, at + lasting) } else { clock.jump(at, lasting) }
        }
        [clock.clone(), clock]
    }

    /// Instants of the first 100 s.
    const TRUTHS: std::ops::Range<i64> = 0..100_000_000_000;

    fn faults() -> impl Strategy<Value = Vec<(i64, i64, bool)>> {
        vec((TRUTHS, 0..5_000_000_000_i64, any::<bool>()), 0..4)
    }

    proptest! {
        #[test]
        fn the_inverse_is_exact(
            model in models(),
            seed: u64,
            zero in -1_000_000_000_000_i64..1_000_000_000_000,
            faults in faults(),
            newest in TRUTHS,
            ahead in 0..64_000_000_000_i64,
        ) {
            let [mut clock, mut reader] = twins(&model, seed, zero, &faults);
            let now = clock.local(Span::from_nanos(newest));
            let wanted = now + Span::from_nanos(ahead);
            let truth = clock.truth_of(wanted);
            if truth > Span::ZERO && truth > Span::from_nanos(newest) - MEMORY {
                prop_assert!(reader.local(truth - Span::from_nanos(1)) < wanted);
            }
            prop_assert!(reader.local(truth) >= wanted);
        }

        #[test]
        fn it_never_goes_back(model in models(), seed: u64, faults in faults(), mut truths in vec(TRUTHS, 2..50)) {
            let [mut clock, _] = twins(&model, seed, 0, &faults);
            truths.sort_unstable();
            let shown: Vec<LocalTime> = truths.iter().map(|truth| clock.local(Span::from_nanos(*truth))).collect();
            prop_assert!(shown.is_sorted());
        }

        /// A node that is asked more often, for readings or deadlines, has the same oscillator.
        #[test]
        fn readings_do_not_depend_on_what_was_asked_before(
            model in models(),
            seed: u64,
            faults in faults(),
            mut truths in vec((TRUTHS, any::<bool>(), 0..200_000_000_000_i64), 1..50),
            last in 100_000_000_000..200_000_000_000_i64,
        ) {
            let [mut busy, mut lazy] = twins(&model, seed, 0, &faults);
            truths.sort_unstable();
            for (truth, is_early, ahead) in truths {
                let early = if is_early { MEMORY.half() } else { Span::ZERO };
                let now = busy.local(Span::from_nanos(truth));
                busy.truth_of(now + Span::from_nanos(ahead));
                busy.local((Span::from_nanos(truth) - early).max(Span::ZERO));
            }
            let last = Span::from_nanos(last);
            prop_assert_eq!(busy.local(last), lazy.local(last));
            let deadline = lazy.local(last) + secs(64);
            prop_assert_eq!(busy.truth_of(deadline), lazy.truth_of(deadline));
        }

        #[test]
        fn nothing_panics(
            drift_ppm: f64,
            wander_ppb: f64,
            swing_ppb: f64,
            times: [i64; 7],
            at in TRUTHS,
        ) {
            let [period, granularity, zero, wanted, from, until, by] = times.map(Span::from_nanos);
            let model = ClockModel {
                drift_ppm, wander_ppb, swing_ppb, swing_period: period, granularity, ..ClockModel::default()
            };
            let random = Random::stream(1, Purpose::Oscillator, 0);
            let mut clock = Oscillator::new(&model, random, LocalTime::default() + zero);
            for _ in 0..2 {
                clock.truth_of(LocalTime::default() + wanted);
                clock.local(Span::from_nanos(at));
                clock.stop(from, until);
                clock.jump(from, by);
            }
        }
    }
}
