//! Who is master, who wants to be, and who says no.

use bytes::{Buf, BufMut};

use super::DecodeError;
use super::layout::{self, HEADER_LEN, end_of};
use super::membership::Merit;
use super::values::{flag, span};
use crate::identity::NodeId;
use crate::time::Span;

/// Claim flag: the living master is asked to hand over.
pub(super) const FLAG_HAND_OVER: u16 = 1;
/// Successors that an announce names: as many as fit into the bytes that a join has.
pub const SUCCESSORS: usize = 8;

/// The master says that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Time between its rounds. Positive.
    pub interval: Span,
    /// The master's own place in the standby order.
    pub priority: i32,
    /// What it brought to its mastership.
    pub merit: Merit,
    /// When its next one is due.
    pub heartbeat: Heartbeat,
    /// How many nodes it expects to join, or has: whoever joins a new master spreads out accordingly.
    pub members: u16,
    /// Who takes over when it falls silent.
    pub successors: Successors,
}

impl Announce {
    /// Bytes of a whole announce without a trailer: as long as the join that answers it.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::ANNOUNCE);

    pub(super) fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut body = body.as_slice();
        let interval = span(body.get_i64(), "interval")?;
        if interval <= Span::ZERO {
            return Err(DecodeError::OutOfRange("interval"));
        }
        let priority = body.get_i32();
        let merit = Merit::decode_standing(body.get_u8())?;
        let heartbeat = Heartbeat::decode(body.get_u8())?;
        let members = body.get_u16();
        // Gaps close up: a zero names nobody.
        let successors = Successors::new(std::iter::repeat_with(|| NodeId::new(body.get_u64())).take(SUCCESSORS));
        Ok(Self { interval, priority, merit, heartbeat, members, successors })
    }

    #[inline(always)]
    pub(super) fn encode(&self, out: &mut &mut [u8]) {
        out.put_i64(self.interval.as_nanos());
        out.put_i32(self.priority);
        out.put_u8(Merit::encode(Some(self.merit)));
        out.put_u8(self.heartbeat.0);
        out.put_u16(self.members);
        self.successors.0.iter().for_each(|node| out.put_u64(node.get()));
    }
}

/// Who takes over when the master falls silent, the first first. At most [`SUCCESSORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successors([NodeId; SUCCESSORS]);

impl Successors {
    /// Nobody.
    pub const NONE: Self = Self([NodeId::new(0); SUCCESSORS]);

    /// The first of these.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let mut successors = Self::NONE;
        for (place, node) in successors.0.iter_mut().zip(nodes.into_iter().filter(|node| node.get() != 0)) {
            *place = node;
        }
        successors
    }

    /// They, in order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().copied().filter(|node| node.get() != 0)
    }
}

/// Time from one announce to the next, at the latest. In hundredths of a second, as it is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heartbeat(u8);

impl Heartbeat {
    /// The least that may be announced: 100 ms.
    pub const SHORTEST: Self = Self(10);
    /// The most: 1 s. Whoever is told more, and then nothing, would wait for ever for a master that is no more.
    pub const LONGEST: Self = Self(100);
    const UNIT: Span = Span::from_millis(10);

    /// The longest that is not longer than `span`; of what lies outside the range, its nearer end.
    pub fn new(span: Span) -> Self {
        let legal = span.clamp(Self::SHORTEST.span(), Self::LONGEST.span());
        u8::try_from(legal.as_nanos() / Self::UNIT.as_nanos()).map_or(Self::SHORTEST, Self)
    }

    /// That long.
    pub fn span(self) -> Span {
        Self::UNIT.times(i64::from(self.0))
    }

    fn decode(units: u8) -> Result<Self, DecodeError> {
        Some(Self(units))
            .filter(|heartbeat| (Self::SHORTEST..=Self::LONGEST).contains(heartbeat))
            .ok_or(DecodeError::OutOfRange("heartbeat"))
    }
}

/// A node wants to be master of the term in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its place in the standby order.
    pub priority: i32,
    /// What it brings.
    pub merit: Merit,
    /// True when it asks a living master to hand over; false when it hears none.
    pub is_handover: bool,
}

impl Claim {
    /// Bytes of a whole claim without a trailer: as long as the refusal that answers it.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::CLAIM);

    pub(super) fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut body = body.as_slice();
        let priority = body.get_i32();
        let merit = Merit::decode_standing(body.get_u8())?;
        body.advance(1);
        Ok(Self { priority, merit, is_handover: body.get_u16() & FLAG_HAND_OVER != 0 })
    }

    #[inline(always)]
    pub(super) fn encode(&self, out: &mut &mut [u8]) {
        out.put_i32(self.priority);
        out.put_u8(Merit::encode(Some(self.merit)));
        out.put_bytes(0, 1);
        out.put_u16(flag(self.is_handover, FLAG_HAND_OVER));
    }
}

/// A claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The living master that the sender hears (or is); none when it objects because it knows a higher term, or is better
    /// itself.
    pub master: Option<NodeId>,
}

impl Refusal {
    /// Bytes of a whole refusal without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::REFUSAL);

    pub(super) fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Self {
        let mut body = body.as_slice();
        Self { master: Some(NodeId::new(body.get_u64())).filter(|node| node.get() != 0) }
    }

    #[inline(always)]
    pub(super) fn encode(&self, out: &mut &mut [u8]) {
        out.put_u64(self.master.unwrap_or_default().get());
    }
}
