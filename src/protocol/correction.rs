//! A master sends the inverse offsets, a slave says what became of its own.

use bytes::{Buf, BufMut};

use super::layout::{self, CORRECTION_LEN, ENTRY_LEN, HEADER_LEN, TRAILER_LEN, end_of};
use super::polling::Answered;
use super::values::{bound, carried, flag, local_time, rate, rate_error_carried, span};
use super::{Body, DecodeError, MAX_FRAME_LEN};
use crate::identity::{Incarnation, NodeId};
use crate::time::{LocalTime, Skew, Span};

/// Correction flag: who applies it does not acknowledge it but with the next response.
pub(super) const FLAG_BY_RESPONSE: u16 = 1;
/// As many entries as fit one frame, a trailer included.
pub const MAX_ENTRIES: usize = (MAX_FRAME_LEN - TRAILER_LEN - CORRECTION_LEN) / ENTRY_LEN;

/// What one frame of corrections says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrections<'a> {
    /// Whose clocks do what.
    pub entries: Entries<'a>,
    /// In a frame for one slave: the exchange on which its entry rests, as [`super::Request::previous`].
    pub previous: Option<Answered>,
    /// What is applied is acknowledged by the next response alone.
    pub by_response: bool,
}

impl<'a> Corrections<'a> {
    /// Those that are acknowledged one by one, and say nothing else.
    pub const fn of(entries: &'a [Entry]) -> Self {
        Self { entries: Entries::Typed(entries), previous: None, by_response: false }
    }

    pub(super) fn decode(body: Body<'a>) -> Result<Self, DecodeError> {
        let Some((mut fixed, entries)) = body.bytes.split_at_checked(CORRECTION_LEN - HEADER_LEN) else {
            return Err(body.wrong_length(correction_len(1)));
        };
        // The count decides the length, so that it is read before the length is checked.
        let count = fixed.get_u16();
        if !(1..=MAX_ENTRIES).contains(&usize::from(count)) {
            return Err(DecodeError::Count(count));
        }
        let need = correction_len(usize::from(count));
        if body.stated != need || HEADER_LEN + body.bytes.len() != need {
            return Err(body.wrong_length(need));
        }
        let flags = fixed.get_u16();
        fixed.advance(4);
        let previous = Answered::decode(fixed.get_i64(), fixed.get_i64())?;
        Ok(Self { entries: Entries::decode(entries)?, previous, by_response: flags & FLAG_BY_RESPONSE != 0 })
    }

    /// All but the entries.
    #[inline(always)]
    pub(super) fn encode_fixed(&self, out: &mut &mut [u8]) {
        // At most MAX_ENTRIES, so that it fits.
        out.put_u16(u16::try_from(self.entries.count()).unwrap_or(0));
        out.put_u16(flag(self.by_response, FLAG_BY_RESPONSE));
        out.put_bytes(0, 4);
        Answered::carried(self.previous).into_iter().for_each(|stamp| out.put_i64(stamp));
    }
}

/// The entries of a correction frame, either about to be sent or still in the bytes that arrived.
#[derive(Clone, Copy, Debug)]
pub enum Entries<'a> {
    /// To be encoded. No more than [`MAX_ENTRIES`] are sent; the caller splits.
    Typed(&'a [Entry]),
    /// Checked when decoded: each is legal.
    Wire(&'a [[u8; ENTRY_LEN]]),
}

impl<'a> Entries<'a> {
    /// The entries in the order of the frame.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        let (typed, wire): (&[Entry], &[[u8; ENTRY_LEN]]) = match self {
            Self::Typed(entries) => (entries, &[]),
            Self::Wire(entries) => (&[], entries),
        };
        // What does not decode cannot be in a decoded frame; it would only be left out here.
        typed.iter().copied().chain(wire.iter().filter_map(|bytes| Entry::decode(bytes).ok())).take(MAX_ENTRIES)
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Typed(entries) => entries.len().min(MAX_ENTRIES),
            Self::Wire(entries) => entries.len().min(MAX_ENTRIES),
        }
    }

    fn decode(entries: &'a [u8]) -> Result<Self, DecodeError> {
        // Nothing is left over: that is what the length said.
        let (entries, _) = entries.as_chunks();
        for entry in entries {
            Entry::decode(entry)?;
        }
        Ok(Self::Wire(entries))
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Typed(entries) => entries.iter().take(MAX_ENTRIES).for_each(|entry| out.put_slice(&entry.encode())),
            Self::Wire(entries) => entries.iter().take(MAX_ENTRIES).for_each(|entry| out.put_slice(entry)),
        }
    }
}

impl PartialEq for Entries<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Entries<'_> {}

/// What one slave has to do to its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is for.
    pub node: NodeId,
    /// Which life of that node.
    pub node_incarnation: Incarnation,
    /// The instant at which the correction holds, on the *slave's* local clock.
    pub reference: LocalTime,
    /// What the slave adds to its clock: the inverse of its offset from the ensemble.
    pub correction: Span,
    /// The rate of the disciplined clock relative to the slave's local clock from now on.
    pub rate: Skew,
    /// How far from ensemble time the clock can be, once corrected, at `reference`.
    pub error_bound: Span,
    /// How far `rate` can be from the ensemble's: the error bound grows by this.
    pub rate_error: Skew,
    /// The slave's adjustment count for which this was computed; with another it must not be applied.
    pub adjustment: u32,
}

impl Entry {
    fn decode(bytes: &[u8; ENTRY_LEN]) -> Result<Self, DecodeError> {
        let mut bytes = bytes.as_slice();
        Ok(Self {
            node: NodeId::new(bytes.get_u64()),
            node_incarnation: Incarnation::new(bytes.get_u64()),
            reference: local_time(bytes.get_i64(), "reference")?,
            correction: span(bytes.get_i64(), "correction")?,
            rate: rate(bytes.get_i64(), "rate")?,
            error_bound: bound(bytes.get_i64(), "error_bound")?,
            rate_error: Skew::from_ppt(i64::from(bytes.get_u32())),
            adjustment: bytes.get_u32(),
        })
    }

    fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        let mut out = bytes.as_mut_slice();
        out.put_u64(self.node.get());
        out.put_u64(self.node_incarnation.get());
        out.put_i64(self.reference.as_nanos());
        out.put_i64(self.correction.as_nanos());
        out.put_i64(self.rate.as_ppt());
        out.put_i64(carried(self.error_bound));
        // An uncertainty above 4295 ppm says no more than 4295 ppm does: the rate is not known.
        out.put_u32(rate_error_carried(self.rate_error));
        out.put_u32(self.adjustment);
        bytes
    }
}

/// Bytes of a whole correction with `count` entries, without a trailer.
pub const fn correction_len(count: usize) -> usize {
    CORRECTION_LEN + count * ENTRY_LEN
}

/// A slave says what became of its correction of the round in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The slave's adjustment count afterwards.
    pub adjustment: u32,
    /// What it did.
    pub outcome: Outcome,
}

impl Acknowledgement {
    /// Bytes of a whole acknowledgement without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::ACKNOWLEDGEMENT);

    pub(super) fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut body = body.as_slice();
        let adjustment = body.get_u32();
        let outcome = match body.get_u8() {
            1 => Outcome::Stepped,
            2 => Outcome::Slewed,
            3 => Outcome::Refused,
            _ => return Err(DecodeError::OutOfRange("outcome")),
        };
        Ok(Self { adjustment, outcome })
    }

    #[inline(always)]
    pub(super) fn encode(&self, out: &mut &mut [u8]) {
        out.put_u32(self.adjustment);
        out.put_u8(match self.outcome {
            Outcome::Stepped => 1,
            Outcome::Slewed => 2,
            Outcome::Refused => 3,
        });
    }
}

/// Why an acknowledgement was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The clock was set by a jump.
    Stepped,
    /// The clock works the correction off.
    Slewed,
    /// The correction is larger than the slave's `--max-correction`; nothing was changed.
    Refused,
}
