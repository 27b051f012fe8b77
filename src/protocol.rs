//! The wire: frames, their layout, encoding and decoding. PROTOCOL.md is normative, this file follows it.
//!
//! It knows where each field lies and which values are legal, never what they mean for a clock. A decoded value
//! is already legal: whoever holds a [`Frame`] need not check ranges again, and the sum of any two times in it
//! does not overflow. Decoding allocates nothing and never panics; encoding cannot fail.
//!
//! Every frame is a 40-byte header, a body whose size its type fixes, and room for a 20-byte trailer that
//! carries a message authentication code when the header says so.

use std::fmt;

use byteorder::{BigEndian, ByteOrder};
use bytes::{Buf, BufMut};

use crate::identity::{Domain, Incarnation, NodeId, Round, Term};
use crate::time::{LocalTime, Skew, Span, WIRE_LIMIT};

/// The first two bytes of every frame: "BK".
pub const MAGIC: u16 = 0x424B;
/// The version this file speaks.
pub const VERSION: u8 = 1;
/// Key id and MAC at the end of an authenticated frame.
pub const TRAILER_LEN: usize = 20;
/// The longest frame: what fits a 1500-byte Ethernet frame behind IPv6 and UDP headers. A longer one would be
/// fragmented, and a lost fragment loses the whole.
pub const MAX_FRAME_LEN: usize = 1_452;

/// Header flag: a trailer with key id and MAC follows the body.
const FLAG_AUTHENTICATED: u16 = 1;
/// Response and join flag: the node has a time source of its own (`--reference`).
const FLAG_REFERENCE: u16 = 1;
/// Response flag: the node has been corrected and its error bound is within what counts as agreeing.
const FLAG_SYNCHRONISED: u16 = 1 << 1;
/// Join flag: the node receives what is sent to the multicast group.
const FLAG_HEARS_GROUP: u16 = 1 << 2;

/// One field of a layout: its name in PROTOCOL.md, where it starts in the frame, and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// As in PROTOCOL.md and, but for `reserved`, in the struct.
    pub name: &'static str,
    /// Bytes from the start of the frame (in an entry: of the entry).
    pub offset: usize,
    /// Bytes.
    pub size: usize,
}

const fn field(name: &'static str, offset: usize, size: usize) -> Field {
    Field { name, offset, size }
}

/// Where the last field ends; refuses to compile unless the fields tile the range from `start` without gap or overlap.
#[expect(clippy::indexing_slicing, reason = "runs at compile time only, bounded by the loop")]
const fn end_of(start: usize, fields: &[Field]) -> usize {
    let mut end = start;
    let mut index = 0;
    while index < fields.len() {
        assert!(fields[index].offset == end, "the fields of a frame must tile it");
        end += fields[index].size;
        index += 1;
    }
    end
}

/// The layouts of PROTOCOL.md as data, so that a test can hold the two against each other.
pub mod layout {
    use super::{Field, end_of, field};

    /// The header of every frame.
    pub const HEADER: &[Field] = &[
        field("magic", 0, 2),
        field("version", 2, 1),
        field("type", 3, 1),
        field("flags", 4, 2),
        field("length", 6, 2),
        field("domain", 8, 4),
        field("round", 12, 4),
        field("term", 16, 8),
        field("sender", 24, 8),
        field("incarnation", 32, 8),
    ];
    /// The body of a request.
    pub const REQUEST: &[Field] = &[field("t1", 40, 8), field("reserved", 48, 64)];
    /// The body of a response.
    pub const RESPONSE: &[Field] = &[
        field("t1", 40, 8),
        field("t2", 48, 8),
        field("t3", 56, 8),
        field("ahead", 64, 8),
        field("slew", 72, 8),
        field("rate", 80, 8),
        field("error_bound", 88, 8),
        field("adjustment", 96, 4),
        field("applied_round", 100, 4),
        field("response_flags", 104, 2),
        field("reserved", 106, 6),
    ];
    /// The fixed part of a correction's body; entries follow.
    pub const CORRECTION: &[Field] = &[field("count", 40, 2), field("reserved", 42, 6)];
    /// One entry of a correction.
    pub const ENTRY: &[Field] = &[
        field("node", 0, 8),
        field("node_incarnation", 8, 8),
        field("reference", 16, 8),
        field("correction", 24, 8),
        field("rate", 32, 8),
        field("error_bound", 40, 8),
        field("rate_error", 48, 4),
        field("adjustment", 52, 4),
    ];
    /// The body of an acknowledgement.
    pub const ACKNOWLEDGEMENT: &[Field] =
        &[field("adjustment", 40, 4), field("outcome", 44, 1), field("reserved", 45, 3)];
    /// The body of a join.
    pub const JOIN: &[Field] = &[
        field("priority", 40, 4),
        field("join_flags", 44, 2),
        field("reserved", 46, 2),
        field("master", 48, 8),
        field("master_incarnation", 56, 8),
        field("reserved", 64, 48),
    ];
    /// The body of a leave.
    pub const LEAVE: &[Field] = &[field("reserved", 40, 8)];
    /// The body of an announce.
    pub const ANNOUNCE: &[Field] = &[field("interval", 40, 8), field("priority", 48, 4), field("reserved", 52, 60)];

    pub(super) const HEADER_END: usize = end_of(0, HEADER);
    pub(super) const ENTRY_END: usize = end_of(0, ENTRY);
    pub(super) const CORRECTION_END: usize = end_of(HEADER_END, CORRECTION);
}

/// The header in front of every body.
pub const HEADER_LEN: usize = layout::HEADER_END;
/// One entry of a correction.
pub const ENTRY_LEN: usize = layout::ENTRY_END;
/// A correction without its entries.
const CORRECTION_LEN: usize = layout::CORRECTION_END;
/// As many entries as fit one frame, a trailer included.
pub const MAX_ENTRIES: usize = (MAX_FRAME_LEN - TRAILER_LEN - CORRECTION_LEN) / ENTRY_LEN;
/// Where the domain lies in the header, for [`peek_domain`].
const DOMAIN_OFFSET: usize = 8;

/// What every frame says before its body: who speaks, of what ensemble, in which mastership and round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The sender's ensemble.
    pub domain: Domain,
    /// The round the frame belongs to; zero where there is none.
    pub round: Round,
    /// The mastership: the master's own, for a slave the highest it knows.
    pub term: Term,
    /// Who sends. Never zero.
    pub sender: NodeId,
    /// Which life of the sender. Never zero.
    pub incarnation: Incarnation,
}

/// The master asks a slave for its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When the master sent it, on the master's local clock. Different in every transmission.
    pub t1: LocalTime,
}

/// The slave's answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's `t1`, given back unchanged: it names the transmission that is answered.
    pub t1: LocalTime,
    /// When the request arrived, on the slave's local clock.
    pub t2: LocalTime,
    /// When the response was sent, on the slave's local clock.
    pub t3: LocalTime,
    /// How far the slave's disciplined clock stands ahead of its local clock at `t3`.
    pub ahead: Span,
    /// What the disciplined clock still has to gain by slewing at `t3`; zero when no slew is in progress.
    pub slew: Span,
    /// The rate of the disciplined clock relative to the local clock, a slew in progress not included.
    pub rate: Skew,
    /// How far the slave's disciplined clock can be from ensemble time; [`Span::MAX`] when it does not know.
    pub error_bound: Span,
    /// How many corrections this incarnation of the slave has applied.
    pub adjustment: u32,
    /// The round of this term whose correction the slave applied last; zero when none.
    pub applied_round: Round,
    /// True when the slave has a time source of its own.
    pub is_reference: bool,
    /// True when the slave has been corrected and its error bound is small enough to claim agreement.
    pub is_synchronised: bool,
}

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

/// A slave says what became of its correction of the round in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The slave's adjustment count afterwards.
    pub adjustment: u32,
    /// What it did.
    pub outcome: Outcome,
}

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
}

/// The master says that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Time between its rounds. Positive.
    pub interval: Span,
    /// The master's own place in the standby order.
    pub priority: i32,
}

/// The entries of a correction frame, either about to be sent or still in the bytes that arrived.
#[derive(Clone, Copy, Debug)]
pub enum Entries<'a> {
    /// To be encoded. No more than [`MAX_ENTRIES`] are sent; the caller splits.
    Typed(&'a [Entry]),
    /// Checked when decoded: whole entries, each legal.
    Wire(&'a [u8]),
}

impl Entries<'_> {
    /// The entries in the order of the frame.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        let (typed, wire): (&[Entry], &[u8]) = match self {
            Self::Typed(entries) => (entries, &[]),
            Self::Wire(bytes) => (&[], bytes),
        };
        // What does not decode cannot be in a decoded frame; it would only be left out here.
        let decoded = wire.chunks_exact(ENTRY_LEN).filter_map(|bytes| Entry::decode(bytes).ok());
        typed.iter().copied().take(MAX_ENTRIES).chain(decoded)
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Typed(entries) => entries.len().min(MAX_ENTRIES),
            Self::Wire(bytes) => bytes.len() / ENTRY_LEN,
        }
    }
}

impl PartialEq for Entries<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Entries<'_> {}

/// The body of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Type 1, master to slave.
    Request(Request),
    /// Type 2, slave to master.
    Response(Response),
    /// Type 3, master to slaves: the inverse offsets.
    Correction(Entries<'a>),
    /// Type 4, slave to master.
    Acknowledgement(Acknowledgement),
    /// Type 5, slave to whoever is master.
    Join(Join),
    /// Type 6, whoever stops, to all who listen.
    Leave,
    /// Type 7, master to slaves.
    Announce(Announce),
}

/// One whole datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Who speaks.
    pub header: Header,
    /// What is said.
    pub message: Message<'a>,
}

/// Why a datagram is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than a header has.
    TooShort {
        /// Bytes that a header has.
        need: usize,
        /// Bytes that arrived.
        got: usize,
    },
    /// Not one of our frames.
    Magic(u16),
    /// A version that we do not speak.
    Version(u8),
    /// A type that this version does not have.
    Type(u8),
    /// The length field, the datagram and the type do not say the same.
    Length {
        /// Bytes, by the type and (in a correction) the count.
        need: usize,
        /// Bytes, by the length field.
        stated: usize,
        /// Bytes that arrived.
        got: usize,
    },
    /// No entries, or more than fit a frame.
    Count(u16),
    /// A field has a value that no honest node sends.
    OutOfRange(&'static str),
    /// A trailer is announced, and this node has no keys.
    Authenticated,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { need, got } => write!(f, "{got} bytes, a header has {need}"),
            Self::Magic(magic) => write!(f, "magic is {magic:#06x}"),
            Self::Version(version) => write!(f, "version {version} is not spoken here"),
            Self::Type(kind) => write!(f, "type {kind} is unknown"),
            Self::Length { need, stated, got } => {
                write!(f, "{got} bytes arrived, the length field says {stated}, the type asks for {need}")
            }
            Self::Count(count) => write!(f, "{count} entries, a frame holds 1 to {MAX_ENTRIES}"),
            Self::OutOfRange(field) => write!(f, "{field} is out of range"),
            Self::Authenticated => f.write_str("authenticated, and this node has no keys"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// The domain of what looks like one of our frames, before anything else of it is read. `None`: not ours.
pub fn peek_domain(datagram: &[u8]) -> Option<Domain> {
    let header = datagram.get(..HEADER_LEN)?;
    if BigEndian::read_u16(header) != MAGIC {
        return None;
    }
    header.get(DOMAIN_OFFSET..).map(|bytes| Domain::new(BigEndian::read_u32(bytes)))
}

/// The local time in `nanos`, a field called `name`.
fn local_time(nanos: i64, name: &'static str) -> Result<LocalTime, DecodeError> {
    if (0..WIRE_LIMIT).contains(&nanos) { Ok(LocalTime::from_nanos(nanos)) } else { Err(DecodeError::OutOfRange(name)) }
}

fn span(nanos: i64, name: &'static str) -> Result<Span, DecodeError> {
    if (-WIRE_LIMIT < nanos) && (nanos < WIRE_LIMIT) {
        Ok(Span::from_nanos(nanos))
    } else {
        Err(DecodeError::OutOfRange(name))
    }
}

/// Bounds may be unknown, which is written as the largest number there is.
fn bound(nanos: i64, name: &'static str) -> Result<Span, DecodeError> {
    if (0..WIRE_LIMIT).contains(&nanos) || nanos == i64::MAX {
        Ok(Span::from_nanos(nanos))
    } else {
        Err(DecodeError::OutOfRange(name))
    }
}

fn rate(ppt: i64, name: &'static str) -> Result<Skew, DecodeError> {
    let limit = Skew::MAX.as_ppt();
    if (-limit..=limit).contains(&ppt) { Ok(Skew::from_ppt(ppt)) } else { Err(DecodeError::OutOfRange(name)) }
}

impl Request {
    /// Bytes of a whole request without a trailer: as long as a response, so that no answer is longer than its question.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::REQUEST);

    fn decode(mut body: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { t1: local_time(body.get_i64(), "t1")? })
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_i64(self.t1.as_nanos());
        out.put_bytes(0, Self::WIRE_LEN - HEADER_LEN - 8);
    }
}

impl Response {
    /// Bytes of a whole response without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::RESPONSE);

    fn decode(mut body: &[u8]) -> Result<Self, DecodeError> {
        let t1 = local_time(body.get_i64(), "t1")?;
        let t2 = local_time(body.get_i64(), "t2")?;
        let t3 = local_time(body.get_i64(), "t3")?;
        let ahead = span(body.get_i64(), "ahead")?;
        let slew = span(body.get_i64(), "slew")?;
        let rate = rate(body.get_i64(), "rate")?;
        let error_bound = bound(body.get_i64(), "error_bound")?;
        let adjustment = body.get_u32();
        let applied_round = Round::new(body.get_u32());
        let flags = body.get_u16();
        Ok(Self {
            t1,
            t2,
            t3,
            ahead,
            slew,
            rate,
            error_bound,
            adjustment,
            applied_round,
            is_reference: flags & FLAG_REFERENCE != 0,
            is_synchronised: flags & FLAG_SYNCHRONISED != 0,
        })
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_i64(self.t1.as_nanos());
        out.put_i64(self.t2.as_nanos());
        out.put_i64(self.t3.as_nanos());
        out.put_i64(self.ahead.as_nanos());
        out.put_i64(self.slew.as_nanos());
        out.put_i64(self.rate.as_ppt());
        out.put_i64(self.error_bound.as_nanos());
        out.put_u32(self.adjustment);
        out.put_u32(self.applied_round.get());
        out.put_u16(flag(self.is_reference, FLAG_REFERENCE) | flag(self.is_synchronised, FLAG_SYNCHRONISED));
        out.put_bytes(0, 6);
    }
}

const fn flag(set: bool, bit: u16) -> u16 {
    if set { bit } else { 0 }
}

impl Entry {
    fn decode(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() < ENTRY_LEN {
            return Err(DecodeError::TooShort { need: ENTRY_LEN, got: bytes.len() });
        }
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

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.node.get());
        out.put_u64(self.node_incarnation.get());
        out.put_i64(self.reference.as_nanos());
        out.put_i64(self.correction.as_nanos());
        out.put_i64(self.rate.as_ppt());
        out.put_i64(self.error_bound.as_nanos());
        // An uncertainty above 4295 ppm says no more than 4295 ppm does: the rate is not known.
        out.put_u32(u32::try_from(self.rate_error.as_ppt().max(0)).unwrap_or(u32::MAX));
        out.put_u32(self.adjustment);
    }
}

/// Bytes of a whole correction with `count` entries, without a trailer.
pub const fn correction_len(count: usize) -> usize {
    CORRECTION_LEN + count * ENTRY_LEN
}

impl<'a> Entries<'a> {
    fn decode(mut body: &'a [u8]) -> Result<Self, DecodeError> {
        body.advance(CORRECTION_LEN - HEADER_LEN);
        for entry in body.chunks_exact(ENTRY_LEN) {
            Entry::decode(entry)?;
        }
        Ok(Self::Wire(body))
    }

    fn encode(&self, out: &mut impl BufMut) {
        // At most MAX_ENTRIES, so that it fits.
        out.put_u16(u16::try_from(self.count()).unwrap_or(0));
        out.put_bytes(0, 6);
        match self {
            Self::Typed(entries) => entries.iter().take(MAX_ENTRIES).for_each(|entry| entry.encode(out)),
            Self::Wire(bytes) => out.put_slice(bytes),
        }
    }
}

impl Acknowledgement {
    /// Bytes of a whole acknowledgement without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::ACKNOWLEDGEMENT);

    fn decode(mut body: &[u8]) -> Result<Self, DecodeError> {
        let adjustment = body.get_u32();
        let outcome = match body.get_u8() {
            1 => Outcome::Stepped,
            2 => Outcome::Slewed,
            3 => Outcome::Refused,
            _ => return Err(DecodeError::OutOfRange("outcome")),
        };
        Ok(Self { adjustment, outcome })
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.adjustment);
        out.put_u8(match self.outcome {
            Outcome::Stepped => 1,
            Outcome::Slewed => 2,
            Outcome::Refused => 3,
        });
        out.put_bytes(0, 3);
    }
}

impl Join {
    /// Bytes of a whole join without a trailer: as long as the request that answers it.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::JOIN);

    fn decode(mut body: &[u8]) -> Result<Self, DecodeError> {
        let priority = body.get_i32();
        let flags = body.get_u16();
        body.advance(2);
        let master = NodeId::new(body.get_u64());
        let incarnation = Incarnation::new(body.get_u64());
        Ok(Self {
            priority,
            is_reference: flags & FLAG_REFERENCE != 0,
            hears_group: flags & FLAG_HEARS_GROUP != 0,
            master: (master.get() != 0).then_some((master, incarnation)),
        })
    }

    fn encode(&self, out: &mut impl BufMut) {
        let (master, incarnation) = self.master.unwrap_or_default();
        out.put_i32(self.priority);
        out.put_u16(flag(self.is_reference, FLAG_REFERENCE) | flag(self.hears_group, FLAG_HEARS_GROUP));
        out.put_bytes(0, 2);
        out.put_u64(master.get());
        out.put_u64(incarnation.get());
        out.put_bytes(0, 48);
    }
}

/// Bytes of a whole leave without a trailer.
pub const LEAVE_LEN: usize = end_of(HEADER_LEN, layout::LEAVE);

impl Announce {
    /// Bytes of a whole announce without a trailer: as long as the join that answers it.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::ANNOUNCE);

    fn decode(mut body: &[u8]) -> Result<Self, DecodeError> {
        let interval = span(body.get_i64(), "interval")?;
        if interval <= Span::ZERO {
            return Err(DecodeError::OutOfRange("interval"));
        }
        Ok(Self { interval, priority: body.get_i32() })
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_i64(self.interval.as_nanos());
        out.put_i32(self.priority);
        out.put_bytes(0, 60);
    }
}

impl Message<'_> {
    /// The number in the header's type field.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Request(_) => 1,
            Self::Response(_) => 2,
            Self::Correction(_) => 3,
            Self::Acknowledgement(_) => 4,
            Self::Join(_) => 5,
            Self::Leave => 6,
            Self::Announce(_) => 7,
        }
    }

    /// Bytes of the whole frame without a trailer.
    pub fn wire_len(&self) -> usize {
        match self {
            Self::Request(_) => Request::WIRE_LEN,
            Self::Response(_) => Response::WIRE_LEN,
            Self::Correction(entries) => correction_len(entries.count()),
            Self::Acknowledgement(_) => Acknowledgement::WIRE_LEN,
            Self::Join(_) => Join::WIRE_LEN,
            Self::Leave => LEAVE_LEN,
            Self::Announce(_) => Announce::WIRE_LEN,
        }
    }
}

impl<'a> Frame<'a> {
    /// Reads one datagram. Allocates nothing, never panics.
    ///
    /// # Errors
    /// Whatever PROTOCOL.md does not allow; the first fault in the order of [`DecodeError`]'s variants, but
    /// [`DecodeError::Authenticated`] before anything in the body.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let got = datagram.len();
        let Some((mut head, body)) = datagram.split_at_checked(HEADER_LEN) else {
            return Err(DecodeError::TooShort { need: HEADER_LEN, got });
        };
        let magic = head.get_u16();
        if magic != MAGIC {
            return Err(DecodeError::Magic(magic));
        }
        let version = head.get_u8();
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let kind = head.get_u8();
        let flags = head.get_u16();
        let stated = usize::from(head.get_u16());
        let header = Header {
            domain: Domain::new(head.get_u32()),
            round: Round::new(head.get_u32()),
            term: Term::new(head.get_u64()),
            sender: NodeId::new(head.get_u64()),
            incarnation: Incarnation::new(head.get_u64()),
        };
        let need = match kind {
            1 => Request::WIRE_LEN,
            2 => Response::WIRE_LEN,
            3 => {
                // The count decides the length, so it is read before the length is checked.
                let count = body.split_at_checked(2).map_or(0, |(mut count, _)| count.get_u16());
                if !(1..=MAX_ENTRIES).contains(&usize::from(count)) {
                    return Err(DecodeError::Count(count));
                }
                correction_len(usize::from(count))
            }
            4 => Acknowledgement::WIRE_LEN,
            5 => Join::WIRE_LEN,
            6 => LEAVE_LEN,
            7 => Announce::WIRE_LEN,
            unknown => return Err(DecodeError::Type(unknown)),
        };
        if flags & FLAG_AUTHENTICATED != 0 {
            return Err(DecodeError::Authenticated);
        }
        if stated != need || got != need {
            return Err(DecodeError::Length { need, stated, got });
        }
        if header.term > Term::LIMIT {
            return Err(DecodeError::OutOfRange("term"));
        }
        if header.sender.get() == 0 {
            return Err(DecodeError::OutOfRange("sender"));
        }
        if header.incarnation.get() == 0 {
            return Err(DecodeError::OutOfRange("incarnation"));
        }
        // Every body below is exactly as long as its type asks, so that reading it in order cannot run out.
        let message = match kind {
            1 => Message::Request(Request::decode(body)?),
            2 => Message::Response(Response::decode(body)?),
            3 => Message::Correction(Entries::decode(body)?),
            4 => Message::Acknowledgement(Acknowledgement::decode(body)?),
            5 => Message::Join(Join::decode(body)?),
            6 => Message::Leave,
            7 => Message::Announce(Announce::decode(body)?),
            unknown => return Err(DecodeError::Type(unknown)),
        };
        Ok(Self { header, message })
    }

    /// Appends the frame to `out`, which must have room for [`Message::wire_len`] bytes (a `BytesMut` grows).
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u16(MAGIC);
        out.put_u8(VERSION);
        out.put_u8(self.message.kind());
        out.put_u16(0);
        // No frame is longer than MAX_FRAME_LEN, so that it fits.
        out.put_u16(u16::try_from(self.message.wire_len()).unwrap_or(0));
        out.put_u32(self.header.domain.get());
        out.put_u32(self.header.round.get());
        out.put_u64(self.header.term.get());
        out.put_u64(self.header.sender.get());
        out.put_u64(self.header.incarnation.get());
        match &self.message {
            Message::Request(request) => request.encode(out),
            Message::Response(response) => response.encode(out),
            Message::Correction(entries) => entries.encode(out),
            Message::Acknowledgement(acknowledgement) => acknowledgement.encode(out),
            Message::Join(join) => join.encode(out),
            Message::Leave => out.put_bytes(0, LEAVE_LEN - HEADER_LEN),
            Message::Announce(announce) => announce.encode(out),
        }
    }
}

// A frame of every type, with its trailer, fits one datagram, and no answer is longer than its question.
const _: () = {
    assert!(correction_len(MAX_ENTRIES) + TRAILER_LEN <= MAX_FRAME_LEN);
    assert!(Response::WIRE_LEN <= Request::WIRE_LEN);
    assert!(Request::WIRE_LEN <= Join::WIRE_LEN);
    assert!(Join::WIRE_LEN <= Announce::WIRE_LEN);
    assert!(Join::WIRE_LEN <= Request::WIRE_LEN);
    assert!(Acknowledgement::WIRE_LEN <= correction_len(1));
};
