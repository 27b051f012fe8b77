//! Who comes and who goes.

use bytes::{Buf, BufMut};

use super::DecodeError;
use super::layout::{self, HEADER_LEN, end_of};
use super::values::{FLAG_REFERENCE, flag, rate_error_carried};
use crate::identity::{Incarnation, NodeId, Term};
use crate::time::Skew;

/// Join flag: the node receives what is sent to the multicast group.
pub(super) const FLAG_HEARS_GROUP: u16 = 1 << 2;

/// A slave looks for a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// Its place in the standby order; higher is preferred.
    pub priority: i32,
    /// True when the slave has a time source of its own.
    pub is_reference: bool,
    /// True when one multicast frame reaches it, so that it need not be corrected alone.
    pub hears_group: bool,
    /// The master of the term in the header, and its incarnation; none when the slave knows of no mastership.
    pub master: Option<(NodeId, Incarnation)>,
    /// What it would bring to a mastership; `None` when it does not stand.
    pub merit: Option<Merit>,
    /// In which mastership its clock was corrected last; none when it never was.
    pub corrected_in: Option<(Term, NodeId)>,
    /// How far its clock's rate can be from that ensemble's. Without meaning when it never was corrected.
    pub rate_error: Skew,
}

impl Join {
    /// Bytes of a whole join without a trailer: as long as the request that answers it.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::JOIN);

    pub(super) fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut body = body.as_slice();
        let priority = body.get_i32();
        let flags = body.get_u16();
        let merit = Merit::decode(body.get_u8())?;
        body.advance(1);
        let master = NodeId::new(body.get_u64());
        let incarnation = Incarnation::new(body.get_u64());
        let corrected_term = Term::new(body.get_u64());
        if corrected_term > Term::LIMIT {
            return Err(DecodeError::OutOfRange("corrected_term"));
        }
        let corrected_master = NodeId::new(body.get_u64());
        Ok(Self {
            priority,
            is_reference: flags & FLAG_REFERENCE != 0,
            hears_group: flags & FLAG_HEARS_GROUP != 0,
            master: (master.get() != 0).then_some((master, incarnation)),
            merit,
            corrected_in: (corrected_master.get() != 0).then_some((corrected_term, corrected_master)),
            rate_error: Skew::from_ppt(i64::from(body.get_u32())),
        })
    }

    #[inline(always)]
    pub(super) fn encode(&self, out: &mut &mut [u8]) {
        let (master, incarnation) = self.master.unwrap_or_default();
        out.put_i32(self.priority);
        out.put_u16(flag(self.is_reference, FLAG_REFERENCE) | flag(self.hears_group, FLAG_HEARS_GROUP));
        out.put_u8(Merit::encode(self.merit));
        out.put_bytes(0, 1);
        out.put_u64(master.get());
        out.put_u64(incarnation.get());
        let (corrected_term, corrected_master) = self.corrected_in.unwrap_or_default();
        out.put_u64(corrected_term.get());
        out.put_u64(corrected_master.get());
        out.put_u32(rate_error_carried(self.rate_error));
    }
}

/// What a node brings to a mastership, the better the higher. Priority and number decide among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Merit {
    /// Its clock was never corrected, and shows a time that nobody set.
    Implausible,
    /// Its clock was never corrected.
    Plausible,
    /// Its clock shows an ensemble's time.
    Established,
    /// The operator said so (`--role master`).
    Appointed,
}

impl Merit {
    /// `None`: its sender does not stand.
    fn decode(number: u8) -> Result<Option<Self>, DecodeError> {
        match number {
            0 => Ok(None),
            1 => Ok(Some(Self::Implausible)),
            2 => Ok(Some(Self::Plausible)),
            3 => Ok(Some(Self::Established)),
            4 => Ok(Some(Self::Appointed)),
            _ => Err(DecodeError::OutOfRange("merit")),
        }
    }

    /// Of somebody who stands, or there would be no such frame.
    pub(super) fn decode_standing(number: u8) -> Result<Self, DecodeError> {
        Self::decode(number)?.ok_or(DecodeError::OutOfRange("merit"))
    }

    pub(super) fn encode(merit: Option<Self>) -> u8 {
        match merit {
            None => 0,
            Some(Self::Implausible) => 1,
            Some(Self::Plausible) => 2,
            Some(Self::Established) => 3,
            Some(Self::Appointed) => 4,
        }
    }
}

/// A node says that it stops, or that it is master no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// From a master: who takes over at once; none when nobody is fit.
    pub successor: Option<NodeId>,
}

impl Leave {
    /// Bytes of a whole leave without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::LEAVE);

    pub(super) fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Self {
        let mut body = body.as_slice();
        Self { successor: Some(NodeId::new(body.get_u64())).filter(|node| node.get() != 0) }
    }

    #[inline(always)]
    pub(super) fn encode(&self, out: &mut &mut [u8]) {
        out.put_u64(self.successor.unwrap_or_default().get());
    }
}
