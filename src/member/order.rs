//! What a slave says of its disciplined clock, and what it was told to make of it.

use crate::identity::Round;
use crate::protocol::{Entry, Response};
use crate::time::{LocalTime, Skew, Span, Time};

use super::Peer;

/// A clock that took its last correction is where that put it, but for the rounding of some products to whole nanoseconds. More
/// room than a peer with other arithmetic needs would be room for lies: a third of liars who stand that far ahead of where they
/// were put, round after round, move the ensemble by a third of it each time.
const OBEYS_WITHIN: Span = Span::from_micros(1);

/// The target of a disciplined clock: a line over its local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Where the line was read, on the slave's local clock.
    reference: LocalTime,
    /// The target at `reference`.
    target: Time,
    /// The target's rate relative to the slave's local clock.
    pub(super) rate: Skew,
}

impl Line {
    pub(super) fn target(&self, local: LocalTime) -> Time {
        let elapsed = local - self.reference;
        self.target + elapsed + self.rate.over(elapsed)
    }

    /// True when another line shows the same at `local`, but for rounding.
    pub(super) fn agrees(&self, other: &Self, local: LocalTime) -> bool {
        (self.target(local) - other.target(local)).abs() <= OBEYS_WITHIN
    }
}

/// What a slave last said of its disciplined clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) line: Line,
    /// How often it had been corrected.
    pub(super) adjustment: u32,
    /// It had been corrected, and well enough to claim agreement with its ensemble.
    pub(super) is_synchronised: bool,
}

impl From<&Response> for Report {
    fn from(response: &Response) -> Self {
        let target = Time::from_local(response.t3, response.ahead) + response.slew;
        Self {
            line: Line { reference: response.t3, target, rate: response.rate },
            adjustment: response.adjustment,
            is_synchronised: response.is_synchronised,
        }
    }
}

/// The last correction that was sent to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// What its clock has to show since.
    pub(super) line: Line,
    /// `None`: of a former term.
    pub(super) round: Option<Round>,
    pub(super) correction: Span,
    error_bound: Span,
    rate_error: Skew,
    /// The slave's count for which it was computed.
    pub(super) adjustment: u32,
    /// How many times it was sent; `None` when it has been acknowledged, or given up.
    pub(super) attempts: Option<u8>,
}

impl Order {
    /// One that will be sent, to a member that has said `report`.
    pub(super) fn new(round: Round, entry: &Entry, report: &Report) -> Self {
        let Entry { node: _, node_incarnation: _, reference, correction, rate, error_bound, rate_error, adjustment } =
            *entry;
        Self {
            line: Line { reference, target: report.line.target(reference) + correction, rate },
            round: Some(round),
            correction,
            error_bound,
            rate_error,
            adjustment,
            attempts: Some(0),
        }
    }

    /// As it is sent to `peer`.
    pub(super) fn entry(&self, peer: &Peer) -> Entry {
        Entry {
            node: peer.node,
            node_incarnation: peer.incarnation,
            reference: self.line.reference,
            correction: self.correction,
            rate: self.line.rate,
            error_bound: self.error_bound,
            rate_error: self.rate_error,
            adjustment: self.adjustment,
        }
    }

    /// True when it is of this round and has not been acknowledged.
    pub(super) fn awaits(&self, round: Round) -> bool {
        self.attempts.is_some() && self.round == Some(round)
    }
}
