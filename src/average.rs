//! The averaging functions: what the clocks show goes in, the ensemble offset and the reasons for exclusion come out.
//!
//! Pure functions of one instant. They decide who is averaged and what the average is; who has which standing,
//! and what becomes of the result, is for the master to say. A correction is the ensemble offset less the
//! node's own ([`Offset::correction`]), for the master too, and no sign is changed here.
//!
//! **Two steps.** Only the readings of the best [`Standing`] present have a vote; then the chosen [`Average`] is
//! taken over their offsets, the master's own zero included, and may leave out some more of them.
//!
//! **Arithmetic.** Sums are exact, in 128 bits: an i64 offset times a u32 weight, summed over fewer than 2^32
//! clocks, cannot overflow, whatever the offsets claim. The one rounding, at the division, goes to the nearest
//! nanosecond and from the middle to the even one. It favours no direction, because a bias of half a nanosecond
//! would come back every round and become a rate. As integers are summed, the order of the readings never
//! matters, not even in the last digit.
//!
//! **By value.** A verdict depends on what a clock shows, never on where it stands in the slice: clocks that
//! show the same get the same verdict. The master's clock is the one at [`Offset::ZERO`], by the meaning of an
//! offset.
//!
//! # What a liar can do
//!
//! Of n voters f lie, each as it likes; *the honest range* goes from the lowest honest offset to the highest. The
//! ensemble lies, to the half nanosecond of rounding,
//!
//! - `mean`, `weighted`: anywhere. One liar moves them without limit.
//! - `fault-tolerant`, if n > 2f and the honest lie within γ of each other: at most γf/(n - f) outside the honest
//!   range, that is less than γ, and less than γ/2 when n > 3f. No less can be promised: the bound is reached.
//!   If n > 3f and the honest lie anywhere, as at a cold start: at most γ outside the honest range.
//! - `midpoint`, if n > 3f: inside the honest range.
//!
//! The fault-tolerant bound: the honest clocks are one set within γ, so the chosen set S has at least n - f
//! clocks, more than the f liars. So there is an honest one in S, and no clock in S lies more than γ beyond it.
//! At most f clocks of S lie outside the honest range, by at most γ each, and their mean is over at least n - f.
//! When the honest do not agree, f liars who do may be the largest set; then the median of all is in the honest range,
//! as f is less than half of n. A larger set holds an honest clock, and none of it lies more than γ beyond that.
//! Once an ensemble is founded its honest clocks agree. When no two do, nobody can tell who is right (of two clocks that part, say), and
//! it stays with the master's: the median would move it by half of what one clock is wrong.
//! With three clocks `midpoint` has f = 0 and leaves nobody out, while `fault-tolerant` bears one liar there.
//!
//! # Sources
//!
//! - R. Gusella, S. Zatti: The Accuracy of the Clock Synchronization Achieved by TEMPO in Berkeley UNIX 4.3BSD.
//!   IEEE Transactions on Software Engineering 15(7), 1989: the mean, and the largest set within γ.
//! - J. Lundelius Welch, N. Lynch: A New Fault-Tolerant Algorithm for Clock Synchronization. Information and
//!   Computation 77(1), 1988: the midpoint without the f highest and lowest.

use std::cmp::{Ordering, Reverse};
use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::time::{Offset, Span};

/// Which averaging function a master uses; its names are those of the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Average {
    /// Every clock equally: [`mean`].
    Mean,
    /// The largest set of clocks that agree: [`largest_set`] and its mean, or the [`median`] when no more agree than may be liars.
    #[default]
    FaultTolerant,
    /// The middle of what is left without the extremes: [`midpoint`].
    Midpoint,
    /// By configured weights, or by inverse variance when nobody has one: [`weighted`].
    Weighted,
}

/// One clock as the master sees it at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// This clock minus the master's; zero for the master's own.
    pub offset: Offset,
    /// How far `offset` can be from the truth; [`Span::MAX`] when nobody knows. Only `weighted` looks at it.
    pub error_bound: Span,
    /// The configured weight. Only `weighted` looks at it.
    pub weight: Option<NonZeroU32>,
    /// What entitles it to a vote.
    pub standing: Standing,
}

/// What entitles a reading to a vote, from the strongest to the weakest.
///
/// Only the readings of the best standing present are averaged; the others follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It has a time source of its own.
    Reference,
    /// An ordinary node in good standing.
    Member,
    /// Another, but of whose clock so little is known that nobody can tell whether it agrees.
    Uncertain,
    /// Its disciplined clock shows a time that cannot be, such as 1986: a node without a battery-backed clock
    /// after a cold start.
    Implausible,
    /// On probation: never averaged unless there is nobody else.
    Newcomer,
}

impl Standing {
    /// Why a reading of this standing has no vote while a better one is present.
    fn reason(self) -> Reason {
        match self {
            // Nothing is better than a reference, so that only members get here.
            Self::Reference | Self::Member => Reason::NotReference,
            Self::Uncertain => Reason::Uncertain,
            Self::Implausible => Reason::Implausible,
            Self::Newcomer => Reason::Newcomer,
        }
    }
}

/// What became of one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is part of the average.
    Counted,
    /// It is not, and this is why.
    LeftOut(Reason),
}

/// Why a reading is not part of the average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is not in the set of clocks that agree.
    Disagrees,
    /// It is below or above what is left without the extremes.
    Extreme,
    /// There is a reference, and it is none.
    NotReference,
    /// It is known far less well than the others.
    Uncertain,
    /// It shows a time that cannot be.
    Implausible,
    /// It is still on probation.
    Newcomer,
}

impl Reason {
    /// For programs: one word, the same for ever.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disagrees => "disagrees",
            Self::Extreme => "extreme",
            Self::NotReference => "not-reference",
            Self::Uncertain => "uncertain",
            Self::Implausible => "implausible",
            Self::Newcomer => "newcomer",
        }
    }
}

/// For people: a few words in lower case.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Disagrees => "disagrees",
            Self::Extreme => "extreme",
            Self::NotReference => "not a reference",
            Self::Uncertain => "known too little",
            Self::Implausible => "implausible time",
            Self::Newcomer => "newcomer on probation",
        })
    }
}

/// The average of a group of clocks, and who is part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensemble {
    /// Ensemble time minus the master's clock.
    pub offset: Offset,
    /// What became of each reading, in the order of the input.
    pub verdicts: Vec<Verdict>,
}

impl Ensemble {
    /// True when the first reading, the master's own, is part of the average.
    pub fn counts_first(&self) -> bool {
        self.verdicts.first() == Some(&Verdict::Counted)
    }
}

/// What an averaging function makes of the voters' offsets: those in a range count.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choice {
    offset: Offset,
    counted: RangeInclusive<Offset>,
    /// What is wrong with the others.
    otherwise: Reason,
}

impl Choice {
    /// Nobody is left out.
    fn of_all(offset: Offset) -> Self {
        let counted = Offset::new(Span::from_nanos(i64::MIN))..=Offset::new(Span::MAX);
        Self { offset, counted, otherwise: Reason::Disagrees }
    }

    fn verdict(&self, offset: Offset) -> Verdict {
        if self.counted.contains(&offset) { Verdict::Counted } else { Verdict::LeftOut(self.otherwise) }
    }
}

impl Average {
    /// Every averaging function, in the order in which help texts name them.
    pub const ALL: [Self; 4] = [Self::Mean, Self::FaultTolerant, Self::Midpoint, Self::Weighted];

    /// The name on the command line, in files and in the status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::FaultTolerant => "fault-tolerant",
            Self::Midpoint => "midpoint",
            Self::Weighted => "weighted",
        }
    }

    /// The average of the readings of the best standing present.
    ///
    /// `readings`: the master's own, with offset zero, first by convention; nothing depends on the order.
    /// `gamma`: how close clocks must be to count as agreeing, for `fault-tolerant`. `is_founded`: they have agreed before, so that the
    /// master's clock is as good as any when no two of them do.
    /// `None` when there are no readings, and only then.
    pub fn of(self, readings: &[Reading], gamma: Span, is_founded: bool) -> Option<Ensemble> {
        let best = readings.iter().map(|reading| reading.standing).min()?;
        let voters = readings.iter().filter(|reading| reading.standing == best);
        let offsets = voters.clone().map(|voter| voter.offset);
        let choice = match self {
            Self::Mean => mean(offsets),
            Self::FaultTolerant => {
                let sorted = sorted(offsets);
                match largest_set(&sorted, gamma) {
                    Some(set) if set.len() > most_liars(sorted.len()) => agreed(set),
                    None if is_founded && sorted.binary_search(&Offset::ZERO).is_ok() => Some(masters()),
                    Some(_) | None => median(&sorted),
                }
            }
            Self::Midpoint => midpoint(&sorted(offsets)),
            // Asked of all readings, not of the voters alone: which rule holds must not depend on who is up today.
            Self::Weighted if readings.iter().any(|reading| reading.weight.is_some()) => {
                weighted(with_configured_weights(voters))
            }
            Self::Weighted => weighted(with_inverse_variance(voters)),
        }?;
        let verdict = |reading: &Reading| match reading.standing {
            standing if standing == best => choice.verdict(reading.offset),
            standing => Verdict::LeftOut(standing.reason()),
        };
        Some(Ensemble { offset: choice.offset, verdicts: readings.iter().map(verdict).collect() })
    }
}

impl fmt::Display for Average {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no averaging function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownAverage;

impl fmt::Display for UnknownAverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be one of {}", Average::ALL.map(Average::as_str).join(", "))
    }
}

impl std::error::Error for UnknownAverage {}

impl FromStr for Average {
    type Err = UnknownAverage;

    fn from_str(name: &str) -> Result<Self, UnknownAverage> {
        Self::ALL.into_iter().find(|average| average.as_str() == name).ok_or(UnknownAverage)
    }
}

/// The sum of all offsets divided by their number: the seed algorithm, in which every clock counts equally.
///
/// `offsets`: slave minus master, the master's own zero included, so that it is one of those divided by.
/// `None` when there are none. O(n). Source: Gusella & Zatti 1989.
fn mean(offsets: impl Iterator<Item = Offset>) -> Option<Choice> {
    weighted(offsets.map(|offset| (offset, 1)))
}

/// The middle offset, or the mean of the two middle ones; the others disagree.
///
/// `sorted`: slave minus master, the master's own zero included. `None` when there are none. What is left to follow when no two
/// clocks agree: half of them would have to lie to move it out of the honest range.
fn median(sorted: &[Offset]) -> Option<Choice> {
    let last = sorted.len().checked_sub(1)?;
    // The same place twice when the number of clocks is odd.
    let (lower, upper) = (*sorted.get(last / 2)?, *sorted.get(last.div_ceil(2))?);
    Some(Choice { offset: middle(lower, upper)?, counted: lower..=upper, otherwise: Reason::Disagrees })
}

/// The master's clock; the others disagree.
fn masters() -> Choice {
    Choice { offset: Offset::ZERO, counted: Offset::ZERO..=Offset::ZERO, otherwise: Reason::Disagrees }
}

/// The largest set of offsets in which every two lie within `gamma`.
///
/// `sorted`: slave minus master, the master's own zero included. Ties go to the smaller spread,
/// then to the set with the master (around it, when it has no vote), then to the one further ahead (a clock put
/// forward does less harm than one put back). `None` when no two agree (the caller takes the [`median`], and so it does
/// when the set is no larger than f liars would be with n > 3f).
/// O(n). What its mean guarantees stands in the module documentation. Source: Gusella & Zatti 1989, the
/// fault-tolerant average.
fn largest_set(sorted: &[Offset], gamma: Span) -> Option<&[Offset]> {
    let gamma = u64::try_from(gamma.as_nanos()).ok()?;
    let rank = |set: &[Offset]| {
        let holds_master = ends(set).is_some_and(|(lowest, highest)| (lowest..=highest).contains(&Offset::ZERO));
        (set.len(), Reverse(spread(set)), holds_master)
    };
    // A largest set leaves no clock out between its ends, so it is a window of the sorted offsets. There is one
    // candidate for each lowest clock, and none is looked at that is smaller than the best so far: all together take O(n) steps.
    let mut best = sorted.get(..1)?;
    for start in 0..sorted.len() {
        let mut end = start + best.len();
        let agree = |end| sorted.get(start..end).filter(|set| spread(set) <= gamma);
        while let Some(set) = agree(end) {
            best = if rank(set) >= rank(best) { set } else { best };
            end += 1;
        }
    }
    Some(best).filter(|best| best.len() > 1)
}

/// The mean of a set of clocks that agree.
fn agreed(set: &[Offset]) -> Option<Choice> {
    let (lowest, highest) = ends(set)?;
    Some(Choice { counted: lowest..=highest, ..mean(set.iter().copied())? })
}

/// The middle between the lowest and the highest offset that remain without the f lowest and the f highest.
///
/// `sorted`: slave minus master, the master's own zero included. f = (n - 1) / 3, rounded down,
/// the largest number of liars with n > 3f. A clock that shows exactly what the lowest or highest remaining one
/// does is counted with it. `None` when there are none. Source: Welch & Lynch 1988.
fn midpoint(sorted: &[Offset]) -> Option<Choice> {
    let last = sorted.len().checked_sub(1)?;
    let liars = most_liars(sorted.len());
    let (lower, upper) = (*sorted.get(liars)?, *sorted.get(last - liars)?);
    Some(Choice { offset: middle(lower, upper)?, counted: lower..=upper, otherwise: Reason::Extreme })
}

/// The mean in which each offset counts as often as its weight says.
///
/// `clocks`: offset (slave minus master, the master's own included) and weight of each. Weights matter only in
/// proportion; a weight of zero has no influence, though nothing leaves the clock out. `None` when all weights
/// together are zero. O(n).
fn weighted(clocks: impl Iterator<Item = (Offset, u32)>) -> Option<Choice> {
    centre(clocks).map(Choice::of_all)
}

/// Each voter with the weight it was given. One that was given none among others that were counts once.
fn with_configured_weights<'a>(voters: impl Iterator<Item = &'a Reading>) -> impl Iterator<Item = (Offset, u32)> {
    voters.map(|voter| (voter.offset, voter.weight.map_or(1, NonZeroU32::get)))
}

/// Bounds below this are not believed: stamps taken in software do not measure better. Smaller, and a node that
/// claims a bound of zero takes the whole vote; larger, and what hardware stamps gain is lost.
const SMALLEST_BOUND: Span = Span::from_micros(1);

/// Bounds above this, 39 hours, are no knowledge at all and count the same. No larger, so that the largest
/// weight times the square of a bound stays below 2^128.
const LARGEST_BOUND: Span = Span::from_nanos(1 << 47);

/// Each voter with the weight 1/bound², scaled so that the best voter has the largest weight there is.
///
/// The weight is 0 from 65,536 times the best bound on: such a clock would move the average by less than a
/// nanosecond for each four seconds of its offset. When no bound is known all weights are equal.
fn with_inverse_variance<'a>(voters: impl Iterator<Item = &'a Reading> + Clone) -> impl Iterator<Item = (Offset, u32)> {
    let variance = |voter: &Reading| {
        let bound = voter.error_bound.clamp(SMALLEST_BOUND, LARGEST_BOUND).as_nanos().unsigned_abs();
        u128::from(bound).pow(2)
    };
    let smallest = voters.clone().map(variance).min().unwrap_or(1);
    let weight = move |voter| u128::from(u32::MAX) * smallest / variance(voter);
    voters.map(move |voter| (voter.offset, u32::try_from(weight(voter)).unwrap_or(u32::MAX)))
}

/// The most liars f that n clocks can bear: the largest number with n > 3f.
fn most_liars(clocks: usize) -> usize {
    clocks.saturating_sub(1) / 3
}

/// The offsets from the lowest to the highest. O(n log n).
fn sorted(offsets: impl Iterator<Item = Offset>) -> Vec<Offset> {
    // Growing by doubling takes three times as much while it is moved.
    let mut sorted = Vec::with_capacity(offsets.size_hint().1.unwrap_or_default());
    sorted.extend(offsets);
    sorted.sort_unstable();
    sorted
}

/// The lowest and the highest of sorted offsets.
fn ends(sorted: &[Offset]) -> Option<(Offset, Offset)> {
    Some((*sorted.first()?, *sorted.last()?))
}

/// How far the highest of sorted offsets lies above the lowest, in nanoseconds. Exact where [`Offset::distance`] saturates, because two
/// clocks at the ends of the scale do not agree even when `gamma` is [`Span::MAX`].
fn spread(sorted: &[Offset]) -> u64 {
    ends(sorted).map_or(0, |(lowest, highest)| highest.ahead().as_nanos().abs_diff(lowest.ahead().as_nanos()))
}

/// An offset in nanoseconds, with room to add: see the module documentation.
fn wide(offset: Offset) -> i128 {
    offset.ahead().as_nanos().into()
}

/// The middle between two offsets.
fn middle(lower: Offset, upper: Offset) -> Option<Offset> {
    centre([(lower, 1), (upper, 1)])
}

/// The centre of mass of offsets and their weights, the one place that sums and divides: exact up to the division,
/// then to the nearest nanosecond, ties to even. `None` when there is no weight.
fn centre(clocks: impl IntoIterator<Item = (Offset, u32)>) -> Option<Offset> {
    let (mut sum, mut total) = (0_i128, 0_i128);
    for (offset, weight) in clocks {
        sum += wide(offset) * i128::from(weight);
        total += i128::from(weight);
    }
    let (floor, rest) = (sum.checked_div_euclid(total)?, sum.checked_rem_euclid(total)?);
    let nearest = match (2 * rest).cmp(&total) {
        Ordering::Less => floor,
        Ordering::Equal => floor + floor.rem_euclid(2),
        Ordering::Greater => floor + 1,
    };
    // Always in range: a mean lies between the smallest and the largest of its numbers.
    i64::try_from(nearest).ok().map(|nanos| Offset::new(Span::from_nanos(nanos)))
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Counted, LeftOut};
    use super::*;
    use proptest::prelude::*;

    /// Close enough to count as agreeing, in the tests that count in milliseconds.
    const GAMMA: Span = Span::from_millis(20);

    fn nanos<const N: usize>(offsets: [i64; N]) -> [Offset; N] {
        offsets.map(|nanos| Offset::new(Span::from_nanos(nanos)))
    }

    fn millis<const N: usize>(offsets: [i64; N]) -> [Offset; N] {
        offsets.map(|millis| Offset::new(Span::from_millis(millis)))
    }

    fn minutes<const N: usize>(offsets: [i64; N]) -> [Offset; N] {
        offsets.map(|minutes| Offset::new(Span::from_secs(60 * minutes)))
    }

    fn member(offset: Offset) -> Reading {
        Reading { offset, error_bound: Span::from_micros(50), weight: None, standing: Standing::Member }
    }

    fn ensemble(offset: Offset, verdicts: impl Into<Vec<Verdict>>) -> Option<Ensemble> {
        Some(Ensemble { offset, verdicts: verdicts.into() })
    }

    fn sorted(offsets: &[Offset]) -> Vec<Offset> {
        super::sorted(offsets.iter().copied())
    }

    /// A choice as it concerns all offsets.
    fn judged(offsets: &[Offset], choice: Option<Choice>) -> Option<Ensemble> {
        let choice = choice?;
        ensemble(choice.offset, offsets.iter().map(|offset| choice.verdict(*offset)).collect::<Vec<_>>())
    }

    fn mean(offsets: &[Offset]) -> Option<Ensemble> {
        judged(offsets, super::mean(offsets.iter().copied()))
    }

    fn median(offsets: &[Offset]) -> Option<Ensemble> {
        judged(offsets, super::median(&sorted(offsets)))
    }

    fn fault_tolerant(offsets: &[Offset], gamma: Span) -> Option<Ensemble> {
        let sorted = sorted(offsets);
        judged(offsets, super::largest_set(&sorted, gamma).and_then(agreed))
    }

    fn midpoint(offsets: &[Offset]) -> Option<Ensemble> {
        judged(offsets, super::midpoint(&sorted(offsets)))
    }

    fn weighted(clocks: &[(Offset, u32)]) -> Option<Ensemble> {
        let offsets: Vec<Offset> = clocks.iter().map(|(offset, _)| *offset).collect();
        judged(&offsets, super::weighted(clocks.iter().copied()))
    }

    fn offset_of(ensemble: Option<Ensemble>) -> Offset {
        ensemble.unwrap().offset
    }

    /// Every clock moved by the correction that its offset asks for.
    fn corrected(offsets: &[Offset], ensemble: Offset) -> Vec<Offset> {
        offsets.iter().map(|offset| Offset::new(offset.ahead() + offset.correction(ensemble))).collect()
    }

    #[test]
    fn three_oclock_becomes_five_past_three() {
        // The master shows 3:00, its slaves 3:25 and 2:50.
        let offsets = minutes([0, 25, -10]);
        let [five] = minutes([5]);
        assert_eq!(mean(&offsets), ensemble(five, [Counted; 3]));
        assert_eq!(
            offsets.map(|offset| offset.correction(five)),
            [5, -20, 15].map(|minutes| Span::from_secs(60 * minutes))
        );
        assert_eq!(Average::Mean.of(&offsets.map(member), GAMMA, false), ensemble(five, [Counted; 3]));
    }

    #[test]
    fn the_mean_divides_by_all_clocks_the_masters_own_included() {
        // A master and one slave meet half-way; without the master in the number it would go all the way.
        assert_eq!(mean(&millis([0, 10])), ensemble(millis([5])[0], [Counted; 2]));
        assert_eq!(offset_of(mean(&millis([0, 10, 20, 30]))), millis([15])[0]);
        // The same holds for the clocks that agree: 0, 3 and 6, not the fourth.
        assert_eq!(offset_of(fault_tolerant(&millis([0, 3, 6, 500]), GAMMA)), millis([3])[0]);
    }

    #[test]
    fn the_right_sign_is_done_at_once_and_the_tutorials_never_is() {
        let offsets = minutes([0, 25, -10]);
        let after = corrected(&offsets, offset_of(mean(&offsets)));
        assert_eq!(after, minutes([5, 5, 5]), "average minus offset: all are equal");
        assert_eq!(corrected(&after, offset_of(mean(&after))), after, "and there is nothing left to do");

        // The widespread tutorial averages master minus slave over the slaves alone and adds that to the master's
        // time. The slaves then jump to the wrong side of the master and back, for ever.
        let mut slaves = minutes([25, -10]);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let differences = slaves.map(|slave| Offset::new(-slave.ahead()));
            slaves = [offset_of(mean(&differences)); 2];
            seen.push(slaves[0]);
        }
        let half_minutes = [-15, 15, -15, 15].map(|halves| Offset::new(Span::from_secs(30 * halves)));
        assert_eq!(seen, half_minutes);

        // A correction with its sign turned round doubles every distance from the average.
        let turned = offsets.map(|offset| Offset::new(offset.ahead() - offset.correction(minutes([5])[0])));
        assert_eq!(turned, minutes([-5, 45, -25]));
    }

    #[test]
    fn the_largest_set_is_found_where_4_3bsd_missed_it() {
        // `networkdelta` of 4.3BSD timed assigns in the condition that should compare its two ends, passes over 15
        // as the lower end and settles for {18, 22, 30}, whose mean is 23.3 ms.
        let offsets = millis([0, 15, 18, 22, 30]);
        let verdicts = [LeftOut(Reason::Disagrees), Counted, Counted, Counted, Counted];
        let [mean] = nanos([21_250_000]);
        assert_eq!(fault_tolerant(&offsets, GAMMA), ensemble(mean, verdicts));
        assert_eq!(Average::FaultTolerant.of(&offsets.map(member), GAMMA, false), ensemble(mean, verdicts));
    }

    #[test]
    fn exactly_gamma_apart_still_agrees() {
        assert_eq!(offset_of(fault_tolerant(&millis([0, 20, -90]), GAMMA)), millis([10])[0]);
        assert_eq!(fault_tolerant(&nanos([0, 20_000_001]), GAMMA), None);
    }

    #[test]
    fn when_no_two_agree_the_median_leads() {
        let disagrees = LeftOut(Reason::Disagrees);
        let cold_start = minutes([0, 25, -10]);
        assert_eq!(fault_tolerant(&cold_start, GAMMA), None);
        let median = |offsets: &[Offset]| {
            let readings: Vec<Reading> = offsets.iter().copied().map(member).collect();
            Average::FaultTolerant.of(&readings, GAMMA, false)
        };
        assert_eq!(median(&cold_start), ensemble(Offset::ZERO, [Counted, disagrees, disagrees]));
        // An even number has two clocks in the middle.
        let verdicts = [Counted, disagrees, disagrees, Counted];
        assert_eq!(median(&minutes([0, 25, -10, 8])), ensemble(minutes([4])[0], verdicts));
        assert_eq!(median(&minutes([0, 25])), ensemble(Offset::new(Span::from_secs(750)), [Counted; 2]));
    }

    #[test]
    fn a_founded_ensemble_of_which_no_two_agree_stays_with_its_master() {
        let disagrees = LeftOut(Reason::Disagrees);
        let apart = millis([0, 184]).map(member);
        assert_eq!(Average::FaultTolerant.of(&apart, GAMMA, true), ensemble(Offset::ZERO, [Counted, disagrees]));
        assert_eq!(Average::FaultTolerant.of(&apart, GAMMA, false), ensemble(millis([92])[0], [Counted; 2]));
        // A master that has no vote says nothing.
        assert_eq!(Average::FaultTolerant.of(&apart[1..], GAMMA, true), ensemble(millis([184])[0], [Counted]));
    }

    #[test]
    fn one_clock_is_its_own_ensemble_and_none_is_none() {
        for average in Average::ALL {
            let [offset] = millis([7]);
            assert_eq!(average.of(&[member(offset)], GAMMA, false), ensemble(offset, [Counted]), "{average}");
            assert_eq!(average.of(&[], GAMMA, false), None, "{average}");
        }
        assert_eq!((mean(&[]), median(&[]), midpoint(&[]), weighted(&[])), (None, None, None, None));
        assert_eq!(fault_tolerant(&[], GAMMA), None);
        assert_eq!(weighted(&[(Offset::ZERO, 0)]), None);
    }

    #[test]
    fn ties_go_to_the_smaller_spread_then_to_the_master_then_ahead() {
        let offset = |offsets: &[Offset]| offset_of(fault_tolerant(offsets, GAMMA));
        // Two against two: the pair 6 ms apart beats the master's, 8 ms apart, on either side of it.
        assert_eq!(offset(&millis([0, 8, 100, 106])), millis([103])[0]);
        assert_eq!(offset(&millis([0, 8, -100, -106])), millis([-103])[0]);
        // Equally close: the master's pair, on either side of the other.
        assert_eq!(offset(&millis([0, 8, 100, 108])), millis([4])[0]);
        assert_eq!(offset(&millis([0, 8, -100, -108])), millis([4])[0]);
        // Equally close, and the master in both or in neither: the pair that is ahead.
        assert_eq!(offset(&millis([0, -16, 16])), millis([8])[0]);
        assert_eq!(offset(&millis([0, 100, 108, -100, -108])), millis([104])[0]);
    }

    #[test]
    fn midpoint_drops_a_third_less_one_at_each_end() {
        let extreme = LeftOut(Reason::Extreme);
        // n = 4 bears one liar: 0 and 8 remain.
        let verdicts = [Counted, Counted, extreme, extreme];
        assert_eq!(midpoint(&millis([0, 8, 5_000, -3])), ensemble(millis([4])[0], verdicts));
        // n = 3 bears none, n = 6 still one, n = 7 two.
        assert_eq!(midpoint(&millis([0, 8, 50])), ensemble(millis([25])[0], [Counted; 3]));
        assert_eq!(offset_of(midpoint(&millis([0, 1, 3, 4, 89, 91]))), millis([45])[0]);
        assert_eq!(offset_of(midpoint(&millis([0, 1, 2, 4, 6, 90, 91]))), millis([4])[0]);
        // Who shows the same as a clock that counts is not called extreme.
        assert_eq!(midpoint(&millis([3; 4])), ensemble(millis([3])[0], [Counted; 4]));
    }

    #[test]
    fn weights_count_in_proportion_and_default_to_one() {
        let [master, slave, other] = millis([0, 4, 12]).map(member);
        let heavy = Reading { weight: NonZeroU32::new(2), ..slave };
        // (0 + 2 * 4 + 12) / 4
        let readings = [master, heavy, other];
        assert_eq!(Average::Weighted.of(&readings, GAMMA, false), ensemble(millis([5])[0], [Counted; 3]));
        // One configured weight anywhere puts the error bounds out of use, even if its owner has no vote now.
        let vague = Reading { error_bound: Span::from_secs(1), ..slave };
        let newcomer = Reading { standing: Standing::Newcomer, ..heavy };
        let verdicts = [Counted, Counted, LeftOut(Reason::Newcomer)];
        assert_eq!(Average::Weighted.of(&[master, vague, newcomer], GAMMA, false), ensemble(millis([2])[0], verdicts));
    }

    #[test]
    fn without_weights_the_variance_decides() {
        let with_bounds = |bounds: [Span; 2]| {
            let [master, slave] = millis([0, 50]).map(member);
            let readings =
                [(master, bounds[0]), (slave, bounds[1])].map(|(r, error_bound)| Reading { error_bound, ..r });
            offset_of(Average::Weighted.of(&readings, GAMMA, false))
        };
        let micros = Span::from_micros;
        // Three times as uncertain, a ninth of the weight: 50 / (9 + 1), and the same for each scale of the bounds.
        let [tenth] = millis([5]);
        assert!(with_bounds([micros(20), micros(60)]).distance(tenth) <= Span::from_nanos(10));
        assert!(with_bounds([Span::from_secs(20), Span::from_secs(60)]).distance(tenth) <= Span::from_nanos(10));
        // A bound of nothing is not believed beyond the smallest one, a negative one neither.
        assert_eq!(with_bounds([Span::ZERO, micros(1)]), millis([25])[0]);
        assert_eq!(with_bounds([Span::from_nanos(i64::MIN), micros(1)]), millis([25])[0]);
        // Nobody knows anything: equal. One knows: it alone.
        assert_eq!(with_bounds([Span::MAX, Span::MAX]), millis([25])[0]);
        assert_eq!(with_bounds([micros(50), Span::MAX]), Offset::ZERO);
        assert_eq!(with_bounds([Span::MAX, micros(50)]), millis([50])[0]);
    }

    #[test]
    fn no_nanosecond_is_lost_when_clocks_are_years_off() {
        let decades = 40 * 365 * 86_400 * 1_000_000_000;
        let offsets = nanos([decades + 1, decades + 2, decades + 6]);
        for average in Average::ALL {
            let [expected] = nanos([decades + if average == Average::Midpoint { 4 } else { 3 }]);
            assert_eq!(offset_of(average.of(&offsets.map(member), GAMMA, false)), expected, "{average}");
        }
    }

    #[test]
    fn only_the_best_standing_present_has_a_vote() {
        let [master, right, far, wrong] = millis([0, 6, 3_000, 90]).map(member);
        let reference = Reading { standing: Standing::Reference, ..far };
        let cold = Reading { standing: Standing::Implausible, ..wrong };
        let vague = Reading { standing: Standing::Uncertain, ..wrong };
        let new = Reading { standing: Standing::Newcomer, ..wrong };
        let of = |readings: &[Reading]| Average::Mean.of(readings, GAMMA, false);
        let (not_reference, implausible, newcomer) =
            (LeftOut(Reason::NotReference), LeftOut(Reason::Implausible), LeftOut(Reason::Newcomer));
        let uncertain = LeftOut(Reason::Uncertain);

        let verdicts = [not_reference, not_reference, Counted, uncertain, implausible, newcomer];
        assert_eq!(of(&[master, right, reference, vague, cold, new]), ensemble(millis([3_000])[0], verdicts));
        let verdicts = [Counted, uncertain, implausible, Counted, newcomer];
        assert_eq!(of(&[master, vague, cold, right, new]), ensemble(millis([3])[0], verdicts));
        // A cold group has nothing better than its implausible clocks; a group of newcomers only has itself.
        assert_eq!(of(&[cold, new, cold]), ensemble(millis([90])[0], [Counted, newcomer, Counted]));
        assert_eq!(of(&[new, new]), ensemble(millis([90])[0], [Counted, Counted]));
        // Both filters at once: the verdicts stay with their readings.
        let verdicts = [newcomer, Counted, LeftOut(Reason::Disagrees), Counted];
        assert_eq!(
            Average::FaultTolerant.of(&[new, master, far, right], GAMMA, false),
            ensemble(millis([3])[0], verdicts)
        );
    }

    #[test]
    fn means_round_to_the_nearest_and_favour_no_direction() {
        for (offsets, rounded) in [([0, 1], 0), ([1, 2], 2), ([0, -1], 0), ([-1, -2], -2), ([3, 4], 4), ([-4, -5], -4)]
        {
            assert_eq!(offset_of(mean(&nanos(offsets))), nanos([rounded])[0], "{offsets:?}");
        }
        assert_eq!(offset_of(mean(&nanos([0, 0, 1]))), nanos([0])[0]);
        assert_eq!(offset_of(mean(&nanos([0, 1, 1]))), nanos([1])[0]);
        assert_eq!(offset_of(mean(&nanos([0, -1, -1]))), nanos([-1])[0]);
    }

    #[test]
    fn absurd_clocks_are_averaged_exactly() {
        let ends = nanos([i64::MIN, i64::MAX]);
        assert_eq!(offset_of(mean(&ends)), Offset::ZERO);
        assert_eq!(offset_of(midpoint(&[ends[1]; 9])), ends[1]);
        assert_eq!(offset_of(weighted(&[(ends[0], u32::MAX); 100])), ends[0]);
        assert_eq!(fault_tolerant(&ends, Span::MAX), None, "the ends of the scale do not agree");
    }

    #[test]
    fn the_fault_tolerant_bound_is_reached() {
        // n = 4, f = 1: one liar 20 ms ahead of three honest clocks, which span γ themselves. γf / (n - f) = 20/3 ms.
        // The honest and the liar's company are three within γ each and hold the master; the liar's is ahead.
        let [honest_low, honest, master, liar] = millis([-20, 0, 0, 20]);
        let ensemble = offset_of(fault_tolerant(&[master, honest, honest_low, liar], GAMMA));
        assert_eq!(ensemble, nanos([6_666_667])[0]);
    }

    #[test]
    fn names_are_read_as_they_are_shown() {
        for (average, name) in Average::ALL.into_iter().zip(["mean", "fault-tolerant", "midpoint", "weighted"]) {
            assert_eq!(average.to_string(), name);
            assert_eq!(name.parse(), Ok(average));
            assert_eq!(serde_json::to_value(average).unwrap(), name);
            assert_eq!(serde_json::from_value::<Average>(name.into()).unwrap(), average);
        }
        assert_eq!("Mean".parse::<Average>(), Err(UnknownAverage));
        assert_eq!(UnknownAverage.to_string(), "must be one of mean, fault-tolerant, midpoint, weighted");
        assert_eq!(Average::default(), Average::FaultTolerant);
    }

    /// Few values, so that clocks agree, coincide and tie often; the master's zero comes first.
    fn crowded(size: usize) -> impl Strategy<Value = Vec<Offset>> {
        prop::collection::vec(-12_i64..=12, 0..size).prop_map(|slaves| {
            std::iter::once(Offset::ZERO)
                .chain(slaves.into_iter().map(|nanos| Offset::new(Span::from_nanos(nanos))))
                .collect()
        })
    }

    fn any_offset() -> impl Strategy<Value = Offset> {
        prop_oneof![Just(i64::MIN), Just(i64::MAX), -3_i64..3, any::<i64>()]
            .prop_map(|nanos| Offset::new(Span::from_nanos(nanos)))
    }

    fn reading(offset: impl Strategy<Value = Offset>) -> impl Strategy<Value = Reading> {
        use Standing::{Implausible, Member, Newcomer, Reference};
        let standing = prop::sample::select(vec![Member, Member, Member, Reference, Implausible, Newcomer]);
        let bound = prop_oneof![Just(i64::MAX), 0_i64..5_000, any::<i64>()].prop_map(Span::from_nanos);
        let weight = prop::option::weighted(0.1, any::<NonZeroU32>());
        (offset, bound, weight, standing).prop_map(|(offset, error_bound, weight, standing)| Reading {
            offset,
            error_bound,
            weight,
            standing,
        })
    }

    /// Whether `mean` is the mean of `offsets` to half a nanosecond, found without a division.
    fn is_mean_of(mean: Offset, offsets: &[Offset]) -> bool {
        let away: i128 = offsets.iter().map(|offset| wide(*offset) - wide(mean)).sum();
        2 * away.unsigned_abs() <= u128::try_from(offsets.len()).unwrap()
    }

    /// The largest set by the definition: of all 2^n sets those in which every two lie within `gamma`, and of these
    /// the best by the rules for ties. The master is the first clock, not the one that shows zero.
    fn largest_set(offsets: &[Offset], gamma: Span) -> Option<Vec<Offset>> {
        let subsets = (0..1_u32 << offsets.len()).map(|bits| {
            let chosen = offsets.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
            (bits & 1 == 1, chosen.map(|(_, offset)| *offset).collect::<Vec<_>>())
        });
        let agree = |set: &[Offset]| set.iter().all(|one| set.iter().all(|other| one.distance(*other) <= gamma));
        subsets
            .filter(|(_, set)| set.len() > 1 && agree(set))
            .max_by_key(|(has_master, set)| {
                let widest = set.iter().flat_map(|one| set.iter().map(|other| one.distance(*other))).max();
                (set.len(), Reverse(widest), *has_master, set.iter().min().copied())
            })
            .map(|(_, set)| set)
    }

    /// Readings, and the same in another order, the master first in both.
    fn shuffled() -> impl Strategy<Value = (Vec<Reading>, Vec<Reading>)> {
        let slaves =
            prop::collection::vec(reading((-12_i64..=12).prop_map(|n| Offset::new(Span::from_nanos(n)))), 0..12);
        (reading(Just(Offset::ZERO)), slaves).prop_flat_map(|(master, slaves)| {
            let with_master = move |slaves: Vec<Reading>| std::iter::once(master).chain(slaves).collect::<Vec<_>>();
            (Just(with_master(slaves.clone())), Just(slaves).prop_shuffle().prop_map(with_master))
        })
    }

    /// Honest clocks, liars, and all of them in any order with f liars among n > `times` * f clocks.
    fn with_liars(
        times: usize,
        honest: std::ops::RangeInclusive<i64>,
    ) -> impl Strategy<Value = (Vec<Offset>, Vec<Offset>)> {
        let to_offset = |nanos| Offset::new(Span::from_nanos(nanos));
        (0_usize..5, 1_usize..6).prop_flat_map(move |(f, more)| {
            let honest = prop::collection::vec(honest.clone().prop_map(to_offset), f * (times - 1) + more);
            let liar = prop_oneof![any_offset(), (-60_i64..=60).prop_map(to_offset)];
            (honest, prop::collection::vec(liar, f)).prop_flat_map(|(honest, liars)| {
                let all = honest.iter().copied().chain(liars).collect::<Vec<_>>();
                (Just(honest), Just(all).prop_shuffle())
            })
        })
    }

    #[test]
    fn a_set_that_may_be_all_liars_is_not_followed() {
        // A cold start of seven: no two honest clocks agree, and two liars do.
        let offsets = millis([0, -1_400, 700, -500, 1_900, 9_000, 9_010]);
        assert_eq!(offset_of(fault_tolerant(&offsets, GAMMA)), millis([9_005])[0]);
        let readings = offsets.map(member);
        assert_eq!(offset_of(Average::FaultTolerant.of(&readings, GAMMA, false)), millis([700])[0]);
        // Of six only one may lie, so that one of the two is honest.
        assert_eq!(offset_of(Average::FaultTolerant.of(&readings[1..], GAMMA, false)), millis([9_005])[0]);
    }

    proptest! {
        #[test]
        fn the_order_of_the_readings_changes_nothing((readings, shuffled) in shuffled(), gamma in 0_i64..10) {
            let gamma = Span::from_nanos(gamma);
            for average in Average::ALL {
                let (one, other) = (average.of(&readings, gamma, false).unwrap(), average.of(&shuffled, gamma, false).unwrap());
                prop_assert_eq!(one.offset, other.offset, "{}", average);
                for (reading, verdict) in readings.iter().zip(&one.verdicts) {
                    let place = shuffled.iter().position(|same| same == reading).unwrap();
                    prop_assert_eq!(*verdict, other.verdicts[place], "{}", average);
                }
            }
        }

        #[test]
        fn no_readings_panic_and_the_ensemble_lies_among_them(
            readings in prop::collection::vec(reading(any_offset()), 1..40),
            gamma: i64,
        ) {
            for average in Average::ALL {
                let ensemble = average.of(&readings, Span::from_nanos(gamma), false).unwrap();
                prop_assert_eq!(ensemble.verdicts.len(), readings.len());
                let verdicts = readings.iter().zip(&ensemble.verdicts);
                let counted = verdicts.filter(|(_, verdict)| **verdict == Counted).map(|(reading, _)| reading.offset);
                let (lowest, highest) = (counted.clone().min().unwrap(), counted.max().unwrap());
                prop_assert!((lowest..=highest).contains(&ensemble.offset), "{}", average);
            }
        }

        #[test]
        fn the_mean_is_where_the_offsets_balance(offsets in prop::collection::vec(any_offset(), 1..40)) {
            prop_assert!(is_mean_of(offset_of(mean(&offsets)), &offsets));
        }

        #[test]
        fn the_weighted_mean_is_the_mean_of_repeated_clocks(
            clocks in prop::collection::vec((any_offset(), 0_u32..5), 1..20)
        ) {
            let repeated: Vec<Offset> =
                clocks.iter().flat_map(|(offset, weight)| (0..*weight).map(|_| *offset)).collect();
            let (found, expected) = (weighted(&clocks), mean(&repeated));
            prop_assert_eq!(found.map(|ensemble| ensemble.offset), expected.map(|ensemble| ensemble.offset));
        }

        #[test]
        fn inverse_variance_agrees_with_floats(
            clocks in prop::collection::vec((-1_000_000_i64..1_000_000, 1_000_i64..1_000_000_000), 1..20)
        ) {
            let readings: Vec<Reading> = clocks
                .iter()
                .map(|(offset, bound)| Reading { error_bound: Span::from_nanos(*bound), ..member(nanos([*offset])[0]) })
                .collect();
            let (mut sum, mut total) = (0.0, 0.0);
            for reading in &readings {
                let weight = reading.error_bound.as_secs_f64().powi(-2);
                sum += reading.offset.ahead().as_secs_f64() * weight;
                total += weight;
            }
            let exact = offset_of(Average::Weighted.of(&readings, GAMMA, false));
            prop_assert!(exact.distance(Offset::new(Span::from_secs_f64(sum / total))) <= Span::from_nanos(1));
        }

        #[test]
        fn the_largest_set_is_the_best_of_all_sets(offsets in crowded(9), gamma in 0_i64..12) {
            let gamma = Span::from_nanos(gamma);
            let (found, expected) = (fault_tolerant(&offsets, gamma), largest_set(&offsets, gamma));
            prop_assert_eq!(found.is_some(), expected.is_some());
            if let (Some(found), Some(mut expected)) = (found, expected) {
                let verdicts = offsets.iter().zip(&found.verdicts);
                let counted = verdicts.filter(|(_, verdict)| **verdict == Counted).map(|(offset, _)| *offset);
                expected.sort();
                prop_assert_eq!(sorted(&counted.collect::<Vec<_>>()), &expected[..]);
                prop_assert!(is_mean_of(found.offset, &expected));
            }
        }

        #[test]
        fn the_median_has_as_many_clocks_below_as_above(offsets in crowded(12)) {
            let median = offset_of(median(&offsets));
            let below = offsets.iter().filter(|offset| **offset < median).count();
            let above = offsets.iter().filter(|offset| **offset > median).count();
            prop_assert!(2 * below <= offsets.len() && 2 * above <= offsets.len());
        }

        #[test]
        fn f_liars_do_not_move_the_midpoint_out_of_the_honest_range((honest, all) in with_liars(3, -50..=50)) {
            let ensemble = offset_of(midpoint(&all));
            prop_assert!(honest.iter().min() <= Some(&ensemble) && Some(&ensemble) <= honest.iter().max());
        }

        #[test]
        fn f_liars_do_not_move_the_largest_set_beyond_its_bound((honest, all) in with_liars(2, -10..=10)) {
            let gamma = 20_i128;
            let readings: Vec<Reading> = all.iter().copied().map(member).collect();
            let ensemble = offset_of(Average::FaultTolerant.of(&readings, Span::from_nanos(20), false));
            let (lowest, highest) = (honest.iter().min().unwrap(), honest.iter().max().unwrap());
            let outside = (wide(ensemble) - wide(*highest)).max(wide(*lowest) - wide(ensemble));
            // outside <= γ f / (n - f) + 1/2, without fractions
            let count = |number: usize| i128::try_from(number).unwrap();
            let (liars, honest) = (count(all.len() - honest.len()), count(honest.len()));
            prop_assert!(2 * outside * honest <= 2 * gamma * liars + honest);
        }

        #[test]
        fn f_liars_do_not_move_the_largest_set_far_even_when_the_honest_disagree(
            (honest, all) in with_liars(3, -1_000..=1_000)
        ) {
            let readings: Vec<Reading> = all.iter().copied().map(member).collect();
            let ensemble = offset_of(Average::FaultTolerant.of(&readings, Span::from_nanos(20), false));
            let (lowest, highest) = (honest.iter().min().unwrap(), honest.iter().max().unwrap());
            prop_assert!((wide(ensemble) - wide(*highest)).max(wide(*lowest) - wide(ensemble)) <= 20, "{ensemble} of {all:?}");
        }
    }
}
