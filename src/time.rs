//! Time as types: instants of two timescales, signed spans, offsets and skews, and the only arithmetic between them.
//!
//! A node has two timescales. [`LocalTime`] is its free-running oscillator, which nobody ever adjusts;
//! [`Time`] is the disciplined clock, counted from 1970. They do not mix: the difference of two instants of
//! one scale is a [`Span`], and nothing subtracts one scale from the other except [`Time::ahead_of`], whose
//! name says so.
//!
//! All arithmetic saturates. Instants come from other machines, and a clock that is absurd must stay absurd
//! (and be left out by a comparison) instead of wrapping round into something plausible or ending the process.
//! The wire admits only values below 2^62 ns (146 years), so that the sum of two of them is still exact.

use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub};
use std::str::FromStr;
use std::time::Duration as StdDuration;

const NANOS_PER_MICRO: i64 = 1_000;
const NANOS_PER_MILLI: i64 = 1_000_000;
const NANOS_PER_SEC: i64 = 1_000_000_000;
/// Parts per trillion in one: the unit in which a [`Skew`] counts.
const PPT: i128 = 1_000_000_000_000;
const PPT_NARROW: i64 = 1_000_000_000_000;

/// Narrows to 64 bits, saturating: an overflow here is an absurd clock, see the module documentation.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i64 first")]
fn saturate(wide: i128) -> i64 {
    wide.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Rounds to the nearest integer, halves away from zero; NaN becomes zero and what is too large saturates (the meaning of `as`).
///
/// `f64::round` is a call into a library where the processor may be any x86-64, and does no better: what `as` cut off is exact.
#[expect(clippy::cast_possible_truncation, reason = "saturation is what is wanted, and what `as` does")]
fn round(number: f64) -> i64 {
    let whole = number as i64;
    match number - float(whole) {
        0.5.. => whole.saturating_add(1),
        ..=-0.5 => whole.saturating_sub(1),
        _ => whole,
    }
}

/// Exact below 2^53; above, the relative error is 1e-16, that is 1 ns in four months.
#[expect(clippy::cast_precision_loss, reason = "documented: 1e-16 of the value")]
fn float(integer: i64) -> f64 {
    integer as f64
}

/// In half the space: right to a part in 16 million. What is smaller than 1e-38 is zero. For what the estimator keeps.
#[expect(clippy::cast_possible_truncation, reason = "documented: 6e-8 of the value")]
pub fn to_single(number: f64) -> f32 {
    number as f32
}

/// A signed length of time in nanoseconds. Positive: later, ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(i64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest span there is, 292 years: "no bound is known".
    pub const MAX: Self = Self(i64::MAX);

    /// A span of so many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// A span of so many microseconds; saturates.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros.saturating_mul(NANOS_PER_MICRO))
    }

    /// A span of so many milliseconds; saturates.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(NANOS_PER_MILLI))
    }

    /// A span of so many seconds; saturates.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SEC))
    }

    /// The nearest span to so many (fractional) seconds. For the estimator, which computes in floats.
    pub fn from_secs_f64(secs: f64) -> Self {
        Self(round(secs * 1e9))
    }

    /// In nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// In seconds, as a float. For the estimator; see [`Span::from_secs_f64`].
    pub fn as_secs_f64(self) -> f64 {
        float(self.0) / 1e9
    }

    /// Without its sign.
    #[must_use]
    pub const fn abs(self) -> Self {
        Self(self.0.saturating_abs())
    }

    /// Half of it, rounded away from zero, so that half of a bound is never too small.
    #[must_use]
    pub const fn half(self) -> Self {
        Self(self.0 / 2 + self.0 % 2)
    }

    /// So many times as long; saturates.
    #[must_use]
    pub const fn times(self, factor: i64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// The n-th part, rounded towards zero. `parts` of zero counts as one.
    #[must_use]
    pub const fn part(self, parts: i64) -> Self {
        match self.0.checked_div(parts) {
            Some(part) => Self(part),
            None => self,
        }
    }

    /// True when positive or zero.
    pub const fn is_forward(self) -> bool {
        self.0 >= 0
    }

    /// For timeouts: what is negative is due now.
    pub fn to_std(self) -> StdDuration {
        StdDuration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl From<StdDuration> for Span {
    fn from(std: StdDuration) -> Self {
        Self(i64::try_from(std.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Span {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl AddAssign for Span {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Neg for Span {
    type Output = Self;
    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

/// In the largest unit that leaves something before the point: `-1.500 s`, `20.000 ms`, `317 ns`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0;
        let text = match nanos.unsigned_abs() {
            0..1_000 => format!("{nanos} ns"),
            1_000..1_000_000 => format!("{:.3} µs", float(nanos) / 1e3),
            1_000_000..1_000_000_000 => format!("{:.3} ms", float(nanos) / 1e6),
            1_000_000_000.. => format!("{:.3} s", float(nanos) / 1e9),
        };
        f.pad(&text)
    }
}

/// Why a text is no span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanError {
    /// Nothing that reads as a decimal number stands in front.
    NoNumber,
    /// The unit is missing or unknown.
    Unit,
    /// Longer than the 146 years that a frame can carry.
    TooLong,
}

impl fmt::Display for SpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNumber => "not a number with a unit, such as 250ms or -1.5s",
            Self::Unit => "the unit must be ns, us, ms, s, min, h or d, as in 250ms",
            Self::TooLong => "longer than 146 years",
        })
    }
}

impl std::error::Error for SpanError {}

/// Reads `250ms`, `-1.5s`, `10us`, `2min`, `1h`, `3d`; a bare `0` needs no unit.
impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let text = text.trim();
        let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let negative = number.starts_with('-');
        let digits = number.strip_prefix(['-', '+']).unwrap_or(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(SpanError::NoNumber);
        }
        let nanos_per_unit: i128 = match unit.trim_start() {
            "ns" => 1,
            "us" | "µs" => NANOS_PER_MICRO.into(),
            "ms" => NANOS_PER_MILLI.into(),
            "s" => NANOS_PER_SEC.into(),
            "min" => i128::from(NANOS_PER_SEC) * 60,
            "h" => i128::from(NANOS_PER_SEC) * 3_600,
            "d" => i128::from(NANOS_PER_SEC) * 86_400,
            "" if whole.bytes().chain(fraction.bytes()).all(|digit| digit == b'0') => 1,
            _ => return Err(SpanError::Unit),
        };
        // Digit by digit in integers: 0.1 s is 100 ms to the nanosecond, which a float does not promise.
        let mut nanos: i128 = 0;
        for digit in whole.bytes() {
            let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10).ok_or(SpanError::NoNumber)?;
            nanos = nanos.saturating_mul(10).saturating_add(i128::from(digit) * nanos_per_unit);
        }
        let mut place = nanos_per_unit;
        for digit in fraction.bytes() {
            let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10).ok_or(SpanError::NoNumber)?;
            place /= 10;
            nanos = nanos.saturating_add(i128::from(digit) * place);
        }
        if nanos >= i128::from(WIRE_LIMIT) {
            return Err(SpanError::TooLong);
        }
        Ok(Self(saturate(if negative { -nanos } else { nanos })))
    }
}

/// No time on the wire reaches this many nanoseconds in size (146 years), so that sums of two stay exact.
pub const WIRE_LIMIT: i64 = 1 << 62;

/// An instant of one node's free-running clock, in nanoseconds since a moment only that node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalTime(i64);

impl LocalTime {
    /// The instant that lies so many nanoseconds after the clock's own zero.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's own zero.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// What this clock shows less what another node's clock shows at the same instant.
    ///
    /// The one place where stamps of two nodes meet; only [`crate::exchange`] calls it.
    pub(crate) fn offset_from(self, other_node: Self) -> Offset {
        Offset(Span(self.0.saturating_sub(other_node.0)))
    }

    /// The other node's clock at the instant at which this one shows `self`, `offset` being other minus this.
    #[must_use]
    pub fn on_other_clock(self, offset: Offset) -> Self {
        self + offset.0
    }
}

impl Add<Span> for LocalTime {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for LocalTime {
    type Output = Self;
    fn sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl Sub for LocalTime {
    type Output = Span;
    fn sub(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// An instant of a disciplined clock, in nanoseconds since 1970-01-01 00:00 UTC without leap seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

impl Time {
    /// The instant so many nanoseconds after 1970 began.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since 1970 began.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// How far this reading stands ahead of a local one: the number that a response carries.
    pub fn ahead_of(self, local: LocalTime) -> Span {
        Span(self.0.saturating_sub(local.0))
    }

    /// The disciplined instant that stands `ahead` of a local one; undoes [`Time::ahead_of`].
    pub fn from_local(local: LocalTime, ahead: Span) -> Self {
        Self(local.0.saturating_add(ahead.0))
    }

    /// What this clock shows less what the other shows at the same instant.
    pub fn offset_from(self, other: Self) -> Offset {
        Offset(self - other)
    }
}

impl Add<Span> for Time {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for Time {
    type Output = Self;
    fn sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl Sub for Time {
    type Output = Span;
    fn sub(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// One clock minus another at one instant: slave minus master, positive when the slave is ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(Span);

impl Offset {
    /// The master's own offset, and that of a clock which agrees with it.
    pub const ZERO: Self = Self(Span::ZERO);

    /// The offset of a clock that is ahead of the master's by `ahead`.
    pub const fn new(ahead: Span) -> Self {
        Self(ahead)
    }

    /// How far the slave is ahead.
    pub const fn ahead(self) -> Span {
        self.0
    }

    /// The correction for a clock with this offset: what it must *add* to show ensemble time.
    ///
    /// This is the project's only change of sign between an offset and a correction: `ensemble` (the average
    /// offset) less this offset. Turned round, every clock would double its distance from the average.
    pub fn correction(self, ensemble: Self) -> Span {
        ensemble.0 - self.0
    }

    /// How far two offsets lie apart, without a sign.
    pub fn distance(self, other: Self) -> Span {
        (self.0 - other.0).abs()
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The rate of one clock relative to another, less one: positive when it runs fast.
///
/// Counted in parts per trillion (1e-12), so that a microsecond's accuracy survives a week of holdover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Skew(i64);

impl Skew {
    /// The same rate.
    pub const ZERO: Self = Self(0);
    /// The largest rate that a frame may carry and a clock may be told to run at: ten per cent, far beyond any
    /// oscillator (a bad quartz has 200 ppm), and far from a rate at which time would stand still.
    pub const MAX: Self = Self::from_ppm(100_000);

    /// So many parts per trillion.
    pub const fn from_ppt(ppt: i64) -> Self {
        Self(ppt)
    }

    /// So many parts per billion; saturates.
    pub const fn from_ppb(ppb: i64) -> Self {
        Self(ppb.saturating_mul(1_000))
    }

    /// So many parts per million; saturates.
    pub const fn from_ppm(ppm: i64) -> Self {
        Self(ppm.saturating_mul(1_000_000))
    }

    /// The nearest skew to a ratio such as 1e-6. For the estimator and the command line.
    pub fn from_ratio(ratio: f64) -> Self {
        Self(round(ratio * 1e12))
    }

    /// The rate of a clock that shows `gained` while the other shows `span`, less one. `span` of zero gives zero.
    pub fn from_spans(gained: Span, span: Span) -> Self {
        let surplus = i128::from(gained.0) - i128::from(span.0);
        Self(saturate((surplus * PPT).checked_div(span.0.into()).unwrap_or(0)))
    }

    /// In parts per trillion.
    pub const fn as_ppt(self) -> i64 {
        self.0
    }

    /// In parts per billion, rounded towards zero.
    pub const fn as_ppb(self) -> i64 {
        self.0 / 1_000
    }

    /// As a ratio such as 1e-6. For the estimator; see [`Skew::from_ratio`].
    pub fn as_ratio(self) -> f64 {
        float(self.0) / 1e12
    }

    /// Without its sign.
    #[must_use]
    pub const fn abs(self) -> Self {
        Self(self.0.saturating_abs())
    }

    /// The n-th part, rounded towards zero. `parts` of zero counts as one.
    #[must_use]
    pub const fn part(self, parts: i64) -> Self {
        match self.0.checked_div(parts) {
            Some(part) => Self(part),
            None => self,
        }
    }

    /// So many times as much; saturates.
    #[must_use]
    pub const fn times(self, factor: i64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// What a clock with this skew gains over a span of the other clock; exact to the nanosecond, saturates.
    pub fn over(self, span: Span) -> Span {
        // 500 ppm over 18 s, and 1 ppm over two hours, fit into 64 bits, in which a division is no call into a library.
        match span.0.checked_mul(self.0) {
            Some(product) => Span(product / PPT_NARROW),
            None => Span(saturate(i128::from(span.0) * i128::from(self.0) / PPT)),
        }
    }

    /// This rate as seen from a clock that itself has the skew `base`: (1 + self) / (1 + base) - 1.
    ///
    /// Both are relative to the same third clock. `base` must lie within [`Skew::MAX`], or the result is zero.
    #[must_use]
    pub fn relative_to(self, base: Self) -> Self {
        let base_rate = PPT + i128::from(base.0);
        if base_rate <= 0 {
            return Self::ZERO;
        }
        Self(saturate((i128::from(self.0) - i128::from(base.0)) * PPT / base_rate))
    }

    /// The rate of a clock that runs by this relative to one that itself has the skew `base`: (1 + self) (1 + base) - 1.
    #[must_use]
    pub fn on_top_of(self, base: Self) -> Self {
        let (rate, base) = (i128::from(self.0), i128::from(base.0));
        Self(saturate(rate + base + rate * base / PPT))
    }

    /// The nearest skew no larger than `limit` in either direction.
    #[must_use]
    pub fn clamped(self, limit: Self) -> Self {
        Self(self.0.clamp(-limit.0.saturating_abs(), limit.0.saturating_abs()))
    }
}

impl Add for Skew {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Skew {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:+.3} ppm", float(self.0) / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn correction_is_ensemble_minus_offset() {
        let ensemble = Offset::new(Span::from_secs(5));
        let ahead = Offset::new(Span::from_secs(25));
        assert_eq!(ahead.correction(ensemble), Span::from_secs(-20));
        assert_eq!(Offset::ZERO.correction(ensemble), Span::from_secs(5));
    }

    #[test]
    fn floats_are_rounded_as_the_library_rounds_them() {
        let edges = [0.5, 0.499_999_999_999_999_94, 1.5, 2.5, 4_503_599_627_370_495.5, 1e300, f64::INFINITY, f64::NAN];
        for number in edges.into_iter().flat_map(|number| [number, -number]) {
            #[expect(clippy::cast_possible_truncation, reason = "as above")]
            let expected = number.round() as i64;
            assert_eq!(round(number), expected, "{number}");
        }
    }

    #[test]
    fn spans_are_read_and_shown_with_units() {
        for (text, nanos) in [
            ("250ms", 250_000_000),
            ("-1.5s", -1_500_000_000),
            ("+10us", 10_000),
            ("0", 0),
            ("0.1s", 100_000_000),
            ("2min", 120_000_000_000),
            (" 7 ns ", 7),
        ] {
            assert_eq!(text.parse(), Ok(Span::from_nanos(nanos)), "{text}");
        }
        for (text, error) in [
            ("", SpanError::NoNumber),
            ("ms", SpanError::NoNumber),
            ("1-2s", SpanError::NoNumber),
            ("5", SpanError::Unit),
            ("5 parsecs", SpanError::Unit),
            ("99999999999d", SpanError::TooLong),
        ] {
            assert_eq!(text.parse::<Span>(), Err(error), "{text}");
        }
        assert_eq!(Span::from_millis(-1500).to_string(), "-1.500 s");
        assert_eq!(Span::from_nanos(20_500).to_string(), "20.500 µs");
        assert_eq!(Span::from_nanos(-7).to_string(), "-7 ns");
    }

    #[test]
    fn skew_over_a_span_is_exact() {
        assert_eq!(Skew::from_ppm(100).over(Span::from_secs(1)), Span::from_micros(100));
        assert_eq!(Skew::from_ppm(-100).over(Span::from_secs(3600)), Span::from_millis(-360));
        assert_eq!(Skew::from_ppt(1).over(Span::from_secs(1000)), Span::from_nanos(1));
    }

    #[test]
    fn half_of_a_bound_is_never_too_small() {
        assert_eq!(Span::from_nanos(3).half(), Span::from_nanos(2));
        assert_eq!(Span::from_nanos(-3).half(), Span::from_nanos(-2));
    }

    proptest! {
        #[test]
        fn arithmetic_never_panics(a: i64, b: i64, skew: i64) {
            let (span, other) = (Span::from_nanos(a), Span::from_nanos(b));
            let _ = (span + other, span - other, -span, span.abs(), span.half(), span.times(b), span.part(b));
            let skew = Skew::from_ppt(skew);
            prop_assert_eq!(i128::from(skew.over(span).0), i128::from(saturate(i128::from(skew.0) * i128::from(span.0) / PPT)));
            let _ = (skew.relative_to(Skew::from_ppt(b)), skew.on_top_of(Skew::from_ppt(b)), skew.clamped(Skew::from_ppt(a)));
            let _ = (LocalTime::from_nanos(a) - LocalTime::from_nanos(b), Time::from_nanos(a) + other);
            let _ = (span.to_string(), skew.to_string(), Span::from_secs_f64(span.as_secs_f64()));
        }

        #[test]
        fn ahead_and_from_local_undo_each_other(time in 0..WIRE_LIMIT, local in 0..WIRE_LIMIT) {
            let (time, local) = (Time::from_nanos(time), LocalTime::from_nanos(local));
            prop_assert_eq!(Time::from_local(local, time.ahead_of(local)), time);
        }

        #[test]
        fn relative_skew_undoes_itself(a in -1_000_000_000i64..1_000_000_000, b in -1_000_000_000i64..1_000_000_000) {
            // (1 + a) = (1 + a relative to b) (1 + b), to the rounding of one part per trillion.
            let relative = Skew::from_ppt(a).relative_to(Skew::from_ppt(b));
            let product = (1.0 + relative.as_ratio()) * (1.0 + Skew::from_ppt(b).as_ratio()) - 1.0;
            prop_assert!((product - Skew::from_ppt(a).as_ratio()).abs() < 3e-12);
            prop_assert!((relative.on_top_of(Skew::from_ppt(b)) - Skew::from_ppt(a)).abs() <= Skew::from_ppt(2));
        }

        #[test]
        fn parsing_undoes_plain_nanoseconds(nanos in -WIRE_LIMIT + 1..WIRE_LIMIT) {
            prop_assert_eq!(format!("{nanos}ns").parse(), Ok(Span::from_nanos(nanos)));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<Span>();
        }
    }
}
