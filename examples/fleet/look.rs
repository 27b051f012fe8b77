//! Where all clocks of a fleet stand at one instant, without keeping all of them: two looks at parts of it add up to one at both.

use berkeleyd::identity::{Round, Term};
use berkeleyd::time::Span;

/// A clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// How far it stands above the machine's oscillator, which all share.
    pub(crate) lead: Span,
    /// How far it can be from the time of the ensemble, as it says itself.
    pub(crate) bound: Span,
}

impl Reading {
    /// The time of the ensemble is not below this, ...
    fn least(self) -> Span {
        self.lead - self.bound
    }

    /// ... and not above this.
    fn most(self) -> Span {
        self.lead + self.bound
    }
}

/// The clocks that have been corrected, at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) clocks: usize,
    /// The newest round in which one of them was corrected.
    pub(crate) newest: (Term, Round),
    ends: Option<Ends>,
}

/// The clocks that are furthest out, in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    slowest: Reading,
    fastest: Reading,
    /// Of whom the time of the ensemble cannot be far below, and ...
    floor: Reading,
    /// ... of whom not far above. Some two clocks are further apart than their bounds say exactly when these are.
    ceiling: Reading,
}

impl Ends {
    fn with(self, other: Self) -> Self {
        let slowest = if other.slowest.lead < self.slowest.lead { other.slowest } else { self.slowest };
        let fastest = if other.fastest.lead > self.fastest.lead { other.fastest } else { self.fastest };
        let floor = if other.floor.least() > self.floor.least() { other.floor } else { self.floor };
        let ceiling = if other.ceiling.most() < self.ceiling.most() { other.ceiling } else { self.ceiling };
        Self { slowest, fastest, floor, ceiling }
    }
}

impl Look {
    /// No clock yet, after a round.
    pub(crate) fn after(newest: (Term, Round)) -> Self {
        Self { newest, ..Self::default() }
    }

    /// Takes in a clock.
    pub(crate) fn add(&mut self, reading: Reading) {
        self.take_in(1, Some(Ends { slowest: reading, fastest: reading, floor: reading, ceiling: reading }));
    }

    /// Takes in other clocks, seen at the same instant.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.take_in(other.clocks, other.ends);
        self.newest = self.newest.max(other.newest);
    }

    fn take_in(&mut self, clocks: usize, ends: Option<Ends>) {
        self.clocks += clocks;
        self.ends = match (self.ends, ends) {
            (Some(own), Some(other)) => Some(own.with(other)),
            (own, other) => own.or(other),
        };
    }

    /// The largest difference of two clocks.
    pub(crate) fn spread(&self) -> Span {
        self.ends.map_or(Span::ZERO, |ends| ends.fastest.lead - ends.slowest.lead)
    }

    /// How much the spread takes of the bounds of the two clocks that are furthest apart; above 1 they are too far apart.
    pub(crate) fn share_of_bounds(&self) -> f64 {
        self.ends.map_or(0.0, |ends| {
            self.spread().as_secs_f64() / (ends.fastest.bound + ends.slowest.bound).as_secs_f64().max(f64::MIN_POSITIVE)
        })
    }

    /// True when every two clocks are as close as their bounds say.
    pub(crate) fn keeps_bounds(&self) -> bool {
        self.ends.is_none_or(|ends| ends.floor.least() <= ends.ceiling.most())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(lead: i64, bound: i64) -> Reading {
        Reading { lead: Span::from_micros(lead), bound: Span::from_micros(bound) }
    }

    fn look(readings: &[Reading]) -> Look {
        let mut look = Look::default();
        readings.iter().for_each(|reading| look.add(*reading));
        look
    }

    #[test]
    fn the_ends_are_found_wherever_the_clocks_were_seen() {
        let (one, other) = (look(&[reading(5, 10), reading(-3, 10)]), look(&[reading(7, 5)]));
        for (mut first, second) in
            [(one, other), (other, one), (look(&[]), look(&[reading(5, 10), reading(-3, 10), reading(7, 5)]))]
        {
            first.merge(&second);
            assert_eq!((first.clocks, first.spread(), first.keeps_bounds()), (3, Span::from_micros(10), true));
            assert!((first.share_of_bounds() - 10.0 / 15.0).abs() < 1e-9, "{}", first.share_of_bounds());
        }
    }

    #[test]
    fn two_clocks_in_the_middle_may_be_too_far_apart_for_their_bounds() {
        // The ends are wide enough; the two between them are not.
        let clocks = [reading(0, 50), reading(40, 50), reading(10, 5), reading(30, 5)];
        assert!(look(&clocks).share_of_bounds() < 1.0 && !look(&clocks).keeps_bounds());
        assert!(look(&clocks[..3]).keeps_bounds());
    }
}
