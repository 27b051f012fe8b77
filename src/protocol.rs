//! The wire: frames, their layout, encoding and decoding. PROTOCOL.md is normative, this file follows it.
//!
//! It knows where each field lies and which values are legal, never what they mean for a clock. A decoded value
//! is already legal: whoever holds a [`Frame`] need not check ranges again, and the sum of any two times in it
//! does not overflow. Decoding allocates nothing and never panics; encoding cannot fail.
//!
//! Every frame is a 40-byte header, a body whose size its type fixes, and room for a 40-byte trailer that
//! carries a message authentication code when the header says so. Here is only where it lies; `auth.rs` makes and checks it.

use std::fmt;
use std::num::NonZeroU32;

use byteorder::{BigEndian, ByteOrder};
use bytes::{Buf, BufMut, BytesMut};

use crate::identity::{Domain, Incarnation, NodeId, Round, Term};
use crate::time::{LocalTime, Skew, Span, WIRE_LIMIT};

/// The first two bytes of every frame: "BK".
pub const MAGIC: u16 = 0x424B;
/// The version this file speaks.
pub const VERSION: u8 = 1;
/// Key, sequence and MAC at the end of an authenticated frame.
pub const TRAILER_LEN: usize = layout::TRAILER_END;
/// The message authentication code, the last field of the trailer.
pub const MAC_LEN: usize = 16;
/// The longest frame: what fits a 1500-byte Ethernet frame behind IPv6 and UDP headers. A longer one would be
/// fragmented, and a lost fragment loses the whole.
pub const MAX_FRAME_LEN: usize = 1_452;

/// The numbers of the types.
mod kind {
    pub(super) const REQUEST: u8 = 1;
    pub(super) const RESPONSE: u8 = 2;
    pub(super) const CORRECTION: u8 = 3;
    pub(super) const ACKNOWLEDGEMENT: u8 = 4;
    pub(super) const JOIN: u8 = 5;
    pub(super) const LEAVE: u8 = 6;
    pub(super) const ANNOUNCE: u8 = 7;
    pub(super) const CLAIM: u8 = 8;
    pub(super) const REFUSAL: u8 = 9;
}

/// Header flag: a trailer follows the body.
const FLAG_AUTHENTICATED: u16 = 1;
/// Response and join flag: the node has a time source of its own (`--reference`).
const FLAG_REFERENCE: u16 = 1;
/// Response flag: the node has been corrected and its error bound is within what counts as agreeing.
const FLAG_SYNCHRONISED: u16 = 1 << 1;
/// Response flag: t2 was taken by the kernel or the network interface, not by the program.
const FLAG_NEAR_THE_WIRE: u16 = 1 << 2;
/// Join flag: the node receives what is sent to the multicast group.
const FLAG_HEARS_GROUP: u16 = 1 << 2;
/// Correction flag: who applies it does not acknowledge it but with the next response.
const FLAG_BY_RESPONSE: u16 = 1;
/// Claim flag: the living master is asked to hand over.
const FLAG_HAND_OVER: u16 = 1;
/// Successors that an announce names: as many as fit into the bytes that a join has.
pub const SUCCESSORS: usize = 8;

/// One field of a layout: its name in PROTOCOL.md, where it starts in the frame, and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// As in PROTOCOL.md and, but for `reserved`, in the struct.
    pub name: &'static str,
    /// Bytes from the start of the frame (in an entry or a trailer: from its own start).
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
    /// What stands behind the body of an authenticated frame.
    pub const TRAILER: &[Field] = &[
        field("key_id", 0, 4),
        field("reserved", 4, 4),
        field("recipient", 8, 8),
        field("sequence", 16, 8),
        field("mac", 24, super::MAC_LEN),
    ];
    /// The body of a request.
    pub const REQUEST: &[Field] = &[
        field("t1", 40, 8),
        field("ahead", 48, 8),
        field("rate", 56, 8),
        field("error_bound", 64, 8),
        field("previous_t1", 72, 8),
        field("previous_t4", 80, 8),
        field("window", 88, 4),
        field("reserved", 92, 28),
    ];
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
        field("previous_t1", 104, 8),
        field("t3_late", 112, 4),
        field("response_flags", 116, 2),
        field("reserved", 118, 2),
    ];
    /// The fixed part of a correction's body; entries follow.
    pub const CORRECTION: &[Field] = &[
        field("count", 40, 2),
        field("correction_flags", 42, 2),
        field("reserved", 44, 4),
        field("previous_t1", 48, 8),
        field("previous_t4", 56, 8),
    ];
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
        field("merit", 46, 1),
        field("reserved", 47, 1),
        field("master", 48, 8),
        field("master_incarnation", 56, 8),
        field("corrected_term", 64, 8),
        field("corrected_master", 72, 8),
        field("rate_error", 80, 4),
        field("reserved", 84, 36),
    ];
    /// The body of a leave.
    pub const LEAVE: &[Field] = &[field("successor", 40, 8)];
    /// The body of an announce.
    pub const ANNOUNCE: &[Field] = &[
        field("interval", 40, 8),
        field("priority", 48, 4),
        field("merit", 52, 1),
        field("heartbeat", 53, 1),
        field("members", 54, 2),
        field("successor_1", 56, 8),
        field("successor_2", 64, 8),
        field("successor_3", 72, 8),
        field("successor_4", 80, 8),
        field("successor_5", 88, 8),
        field("successor_6", 96, 8),
        field("successor_7", 104, 8),
        field("successor_8", 112, 8),
    ];
    /// The body of a claim.
    pub const CLAIM: &[Field] =
        &[field("priority", 40, 4), field("merit", 44, 1), field("reserved", 45, 1), field("claim_flags", 46, 2)];
    /// The body of a refusal.
    pub const REFUSAL: &[Field] = &[field("master", 40, 8)];

    pub(super) const HEADER_END: usize = end_of(0, HEADER);
    pub(super) const TRAILER_END: usize = end_of(0, TRAILER);
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
/// Where the flags and, right behind them, the length lie in the header, for [`begin_trailer`] and [`split_trailer`].
const FLAGS_OFFSET: usize = 4;

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

impl Header {
    /// Refuses what no honest node sends.
    fn check(&self) -> Result<(), DecodeError> {
        if self.term > Term::LIMIT {
            return Err(DecodeError::OutOfRange("term"));
        }
        if self.sender.get() == 0 {
            return Err(DecodeError::OutOfRange("sender"));
        }
        if self.incarnation.get() == 0 {
            return Err(DecodeError::OutOfRange("incarnation"));
        }
        Ok(())
    }
}

/// The master asks a slave for its time, and tells its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When the master sent it, on the master's local clock. Different in every transmission.
    pub t1: LocalTime,
    /// How far the target of the master's disciplined clock stands ahead of its local clock at `t1`.
    pub ahead: Span,
    /// The rate of that target relative to the local clock.
    pub rate: Skew,
    /// How far the target can be from ensemble time; [`Span::MAX`] when the master does not know.
    pub error_bound: Span,
    /// The last exchange with this slave, for it to measure what the master has measured; `None` before the first, and in a request to
    /// the group.
    pub previous: Option<Answered>,
    /// Over how long the answers of all who hear it are to be spread; `None`: it asks one slave, which answers at once.
    pub window: Option<Window>,
}

impl Request {
    /// The request of a master that says nothing of its clock.
    pub const fn bare(t1: LocalTime) -> Self {
        Self { t1, ahead: Span::ZERO, rate: Skew::ZERO, error_bound: Span::MAX, previous: None, window: None }
    }
}

/// Over how long the answers to a request to the group are to be spread, in whole microseconds. Not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(NonZeroU32);

impl Window {
    /// The nearest that there is.
    pub fn new(span: Span) -> Self {
        let micros = u32::try_from((span.as_nanos() / 1_000).max(1)).unwrap_or(u32::MAX);
        Self(NonZeroU32::new(micros).unwrap_or(NonZeroU32::MIN))
    }

    /// As a span.
    pub fn span(self) -> Span {
        Span::from_micros(i64::from(self.0.get()))
    }
}

/// An exchange as the master knows it: when it asked, and when the answer arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The `t1` that it carried: it names the exchange.
    pub t1: LocalTime,
    /// When the response arrived, on the master's local clock.
    pub t4: LocalTime,
}

impl Answered {
    /// A `t4` that no local clock shows: there is no exchange.
    const NONE: i64 = i64::MAX;

    /// The fields as they are written.
    fn carried(answered: Option<Self>) -> [i64; 2] {
        answered.map_or([0, Self::NONE], |answered| [answered.t1.as_nanos(), answered.t4.as_nanos()])
    }

    /// And as they are read.
    fn decode(t1: i64, t4: i64) -> Result<Option<Self>, DecodeError> {
        if t4 == Self::NONE {
            return Ok(None);
        }
        Ok(Some(Self { t1: local_time(t1, "previous_t1")?, t4: local_time(t4, "previous_t4")? }))
    }
}

/// When the response before the one that says so really left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The `t1` that it carried: it names the exchange.
    pub t1: LocalTime,
    /// How much later than its `t3` it left. Not negative; what does not fit the field is not said.
    pub late: Span,
}

impl Departure {
    /// The largest number of the field says that nothing is known.
    const NOT_KNOWN: u32 = u32::MAX;

    /// The fields as they are written.
    fn carried(departure: Option<Self>) -> (i64, u32) {
        let fields = departure.and_then(|departure| {
            let late = u32::try_from(departure.late.as_nanos()).ok().filter(|late| *late != Self::NOT_KNOWN)?;
            Some((departure.t1.as_nanos(), late))
        });
        fields.unwrap_or((0, Self::NOT_KNOWN))
    }
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
    /// When the last response before this one left; `None` when nobody has told the slave.
    pub previous: Option<Departure>,
    /// True when the slave has a time source of its own.
    pub is_reference: bool,
    /// True when the slave has been corrected and its error bound is small enough to claim agreement.
    pub is_synchronised: bool,
    /// True when `t2` was taken by the kernel or the network interface.
    pub is_stamped_near_the_wire: bool,
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
    /// What it would bring to a mastership; `None` when it does not stand.
    pub merit: Option<Merit>,
    /// In which mastership its clock was corrected last; none when it never was.
    pub corrected_in: Option<(Term, NodeId)>,
    /// How far its clock's rate can be from that ensemble's. Without meaning when it never was corrected.
    pub rate_error: Skew,
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

/// A node says that it stops, or that it is master no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// From a master: who takes over at once; none when nobody is fit.
    pub successor: Option<NodeId>,
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

/// A claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The living master that the sender hears (or is); none when it objects because it knows a higher term, or is better
    /// itself.
    pub master: Option<NodeId>,
}

/// Who takes over when the master falls silent, the first first. At most [`SUCCESSORS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Successors([NodeId; SUCCESSORS]);

impl Successors {
    /// The first of these.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let mut successors = Self::default();
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

/// What one frame of corrections says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrections<'a> {
    /// Whose clocks do what.
    pub entries: Entries<'a>,
    /// In a frame for one slave: the exchange on which its entry rests, as [`Request::previous`].
    pub previous: Option<Answered>,
    /// What is applied is acknowledged by the next response alone.
    pub by_response: bool,
}

impl<'a> Corrections<'a> {
    /// Those that are acknowledged one by one, and say nothing else.
    pub const fn of(entries: &'a [Entry]) -> Self {
        Self { entries: Entries::Typed(entries), previous: None, by_response: false }
    }

    fn decode(body: Body<'a>) -> Result<Self, DecodeError> {
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
    fn encode_fixed(&self, out: &mut &mut [u8]) {
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

impl Entries<'_> {
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
    Correction(Corrections<'a>),
    /// Type 4, slave to master.
    Acknowledgement(Acknowledgement),
    /// Type 5, slave to whoever is master.
    Join(Join),
    /// Type 6, whoever stops, to all who listen.
    Leave(Leave),
    /// Type 7, master to slaves.
    Announce(Announce),
    /// Type 8, who wants to be master, to all.
    Claim(Claim),
    /// Type 9, to who wants to be master.
    Refusal(Refusal),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// A trailer, and no key to check it with; or none where there must be one.
    Authenticated,
    /// A type that this version does not have.
    Type(u8),
    /// No entries, or more than fit a frame.
    Count(u16),
    /// The length field, the datagram and the type do not say the same.
    Length {
        /// Bytes, by the type and (in a correction) the count; the least of that type when the count is missing.
        need: usize,
        /// Bytes, by the length field.
        stated: usize,
        /// Bytes that arrived.
        got: usize,
    },
    /// A field has a value that no honest node sends.
    OutOfRange(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { need, got } => write!(f, "{got} bytes, a header has {need}"),
            Self::Magic(magic) => write!(f, "magic is {magic:#06x}"),
            Self::Version(version) => write!(f, "version {version} is not spoken here"),
            Self::Authenticated => f.write_str("authenticated where nobody has keys, or not where there are some"),
            Self::Type(kind) => write!(f, "type {kind} is unknown"),
            Self::Count(count) => write!(f, "{count} entries, a frame holds 1 to {MAX_ENTRIES}"),
            Self::Length { need, stated, got } => {
                write!(f, "{got} bytes arrived, the length field says {stated}, the type asks for {need}")
            }
            Self::OutOfRange(field) => write!(f, "{field} is out of range"),
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

/// The trailer of an authenticated frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer<'a> {
    /// Which key made the code.
    pub key_id: u32,
    /// Which life of a node alone the frame is for; `None`: whoever hears it.
    pub recipient: Option<Incarnation>,
    /// Above that of every frame that this life of the sender has sent before.
    pub sequence: u64,
    /// The code over everything before it.
    pub mac: &'a [u8; MAC_LEN],
}

/// Makes an authenticated frame of an encoded one, but for the code, which goes behind what is then in `frame`.
pub fn begin_trailer(frame: &mut BytesMut, key_id: u32, recipient: Option<Incarnation>, sequence: u64) {
    // No frame is longer than MAX_FRAME_LEN with its trailer, so that it fits.
    let length = u16::try_from(frame.len() + TRAILER_LEN).unwrap_or(0);
    if let Some(mut fields) = frame.get_mut(FLAGS_OFFSET..HEADER_LEN) {
        fields.put_u16(FLAG_AUTHENTICATED);
        fields.put_u16(length);
    }
    frame.put_u32(key_id);
    frame.put_u32(0);
    frame.put_u64(recipient.map_or(0, Incarnation::get));
    frame.put_u64(sequence);
}

/// An authenticated frame without its code, and its trailer; `None` when there is none.
///
/// # Errors
/// The length field is not the datagram's length, or that is no frame's. So nobody makes us compute the code of 64 KiB.
pub fn split_trailer(datagram: &[u8]) -> Result<Option<(&[u8], Trailer<'_>)>, DecodeError> {
    let Some(mut fields) = datagram.get(FLAGS_OFFSET..HEADER_LEN) else {
        return Err(DecodeError::TooShort { need: HEADER_LEN, got: datagram.len() });
    };
    if fields.get_u16() & FLAG_AUTHENTICATED == 0 {
        return Ok(None);
    }
    let (stated, got) = (usize::from(fields.get_u16()), datagram.len());
    let need = got.clamp(HEADER_LEN + TRAILER_LEN, MAX_FRAME_LEN);
    match datagram.split_last_chunk::<MAC_LEN>() {
        Some((covered, mac)) if stated == got && need == got => {
            let mut fields = covered.get(got - TRAILER_LEN..).unwrap_or_default();
            let key_id = fields.get_u32();
            fields.advance(4);
            let recipient = Some(Incarnation::new(fields.get_u64())).filter(|recipient| recipient.get() != 0);
            Ok(Some((covered, Trailer { key_id, recipient, sequence: fields.get_u64(), mac })))
        }
        _ => Err(DecodeError::Length { need, stated, got }),
    }
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

/// A bound as it is written: what no frame can carry says no more than that none is known.
fn carried(bound: Span) -> i64 {
    let nanos = bound.as_nanos();
    if (0..WIRE_LIMIT).contains(&nanos) { nanos } else { Span::MAX.as_nanos() }
}

fn rate(ppt: i64, name: &'static str) -> Result<Skew, DecodeError> {
    let limit = Skew::MAX.as_ppt();
    if (-limit..=limit).contains(&ppt) { Ok(Skew::from_ppt(ppt)) } else { Err(DecodeError::OutOfRange(name)) }
}

/// What follows the header. Nothing of it has been looked at, its length included.
#[derive(Clone, Copy)]
struct Body<'a> {
    bytes: &'a [u8],
    /// The header's length field.
    stated: usize,
}

impl<'a> Body<'a> {
    fn wrong_length(self, need: usize) -> DecodeError {
        DecodeError::Length { need, stated: self.stated, got: HEADER_LEN + self.bytes.len() }
    }

    /// The body of a type of fixed length. The one check of it: behind it every field has its place in an array.
    fn fixed<const LEN: usize>(self) -> Result<&'a [u8; LEN], DecodeError> {
        match self.bytes.try_into() {
            Ok(bytes) if self.stated == HEADER_LEN + LEN => Ok(bytes),
            _ => Err(self.wrong_length(HEADER_LEN + LEN)),
        }
    }
}

impl Request {
    /// Bytes of a whole request without a trailer: as long as a response, so that no answer is longer than its question.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::REQUEST);

    fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut body = body.as_slice();
        let t1 = local_time(body.get_i64(), "t1")?;
        let ahead = span(body.get_i64(), "ahead")?;
        let rate = rate(body.get_i64(), "rate")?;
        let error_bound = bound(body.get_i64(), "error_bound")?;
        let previous = Answered::decode(body.get_i64(), body.get_i64())?;
        let window = NonZeroU32::new(body.get_u32()).map(Window);
        Ok(Self { t1, ahead, rate, error_bound, previous, window })
    }

    #[inline(always)]
    fn encode(&self, out: &mut &mut [u8]) {
        out.put_i64(self.t1.as_nanos());
        out.put_i64(self.ahead.as_nanos());
        out.put_i64(self.rate.as_ppt());
        out.put_i64(carried(self.error_bound));
        Answered::carried(self.previous).into_iter().for_each(|stamp| out.put_i64(stamp));
        out.put_u32(self.window.map_or(0, |window| window.0.get()));
    }
}

impl Response {
    /// Bytes of a whole response without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::RESPONSE);

    // In line, so that the numbers go from the datagram straight to their place in the frame: 11 ns, not 18.
    #[inline(always)]
    fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut body = body.as_slice();
        let t1 = local_time(body.get_i64(), "t1")?;
        let t2 = local_time(body.get_i64(), "t2")?;
        let t3 = local_time(body.get_i64(), "t3")?;
        let ahead = span(body.get_i64(), "ahead")?;
        let slew = span(body.get_i64(), "slew")?;
        let rate = rate(body.get_i64(), "rate")?;
        let error_bound = bound(body.get_i64(), "error_bound")?;
        let adjustment = body.get_u32();
        let applied_round = Round::new(body.get_u32());
        let (previous_t1, late) = (body.get_i64(), body.get_u32());
        let previous = match late {
            Departure::NOT_KNOWN => None,
            late => {
                Some(Departure { t1: local_time(previous_t1, "previous_t1")?, late: Span::from_nanos(i64::from(late)) })
            }
        };
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
            previous,
            is_reference: flags & FLAG_REFERENCE != 0,
            is_synchronised: flags & FLAG_SYNCHRONISED != 0,
            is_stamped_near_the_wire: flags & FLAG_NEAR_THE_WIRE != 0,
        })
    }

    #[inline(always)]
    fn encode(&self, out: &mut &mut [u8]) {
        out.put_i64(self.t1.as_nanos());
        out.put_i64(self.t2.as_nanos());
        out.put_i64(self.t3.as_nanos());
        out.put_i64(self.ahead.as_nanos());
        out.put_i64(self.slew.as_nanos());
        out.put_i64(self.rate.as_ppt());
        out.put_i64(carried(self.error_bound));
        out.put_u32(self.adjustment);
        out.put_u32(self.applied_round.get());
        let (previous_t1, t3_late) = Departure::carried(self.previous);
        out.put_i64(previous_t1);
        out.put_u32(t3_late);
        out.put_u16(
            flag(self.is_reference, FLAG_REFERENCE)
                | flag(self.is_synchronised, FLAG_SYNCHRONISED)
                | flag(self.is_stamped_near_the_wire, FLAG_NEAR_THE_WIRE),
        );
    }
}

const fn flag(set: bool, bit: u16) -> u16 {
    if set { bit } else { 0 }
}

/// A `rate_error` as it is carried: what is larger than the field stops at its end.
fn rate_error_carried(error: Skew) -> u32 {
    u32::try_from(error.as_ppt().max(0)).unwrap_or(u32::MAX)
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

impl<'a> Entries<'a> {
    fn decode(entries: &'a [u8]) -> Result<Self, DecodeError> {
        // Nothing is left over: that is what the length said.
        let (entries, _) = entries.as_chunks();
        for entry in entries {
            Entry::decode(entry)?;
        }
        Ok(Self::Wire(entries))
    }

    fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Typed(entries) => entries.iter().take(MAX_ENTRIES).for_each(|entry| out.put_slice(&entry.encode())),
            Self::Wire(entries) => entries.iter().take(MAX_ENTRIES).for_each(|entry| out.put_slice(entry)),
        }
    }
}

impl Acknowledgement {
    /// Bytes of a whole acknowledgement without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::ACKNOWLEDGEMENT);

    fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
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
    fn encode(&self, out: &mut &mut [u8]) {
        out.put_u32(self.adjustment);
        out.put_u8(match self.outcome {
            Outcome::Stepped => 1,
            Outcome::Slewed => 2,
            Outcome::Refused => 3,
        });
    }
}

impl Join {
    /// Bytes of a whole join without a trailer: as long as the request that answers it.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::JOIN);

    fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
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
    fn encode(&self, out: &mut &mut [u8]) {
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
    fn decode_standing(number: u8) -> Result<Self, DecodeError> {
        Self::decode(number)?.ok_or(DecodeError::OutOfRange("merit"))
    }

    fn encode(merit: Option<Self>) -> u8 {
        match merit {
            None => 0,
            Some(Self::Implausible) => 1,
            Some(Self::Plausible) => 2,
            Some(Self::Established) => 3,
            Some(Self::Appointed) => 4,
        }
    }
}

impl Leave {
    /// Bytes of a whole leave without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::LEAVE);

    fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Self {
        let mut body = body.as_slice();
        Self { successor: Some(NodeId::new(body.get_u64())).filter(|node| node.get() != 0) }
    }

    #[inline(always)]
    fn encode(&self, out: &mut &mut [u8]) {
        out.put_u64(self.successor.unwrap_or_default().get());
    }
}

impl Claim {
    /// Bytes of a whole claim without a trailer: as long as the refusal that answers it.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::CLAIM);

    fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut body = body.as_slice();
        let priority = body.get_i32();
        let merit = Merit::decode_standing(body.get_u8())?;
        body.advance(1);
        Ok(Self { priority, merit, is_handover: body.get_u16() & FLAG_HAND_OVER != 0 })
    }

    #[inline(always)]
    fn encode(&self, out: &mut &mut [u8]) {
        out.put_i32(self.priority);
        out.put_u8(Merit::encode(Some(self.merit)));
        out.put_bytes(0, 1);
        out.put_u16(flag(self.is_handover, FLAG_HAND_OVER));
    }
}

impl Refusal {
    /// Bytes of a whole refusal without a trailer.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::REFUSAL);

    fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Self {
        let mut body = body.as_slice();
        Self { master: Some(NodeId::new(body.get_u64())).filter(|node| node.get() != 0) }
    }

    #[inline(always)]
    fn encode(&self, out: &mut &mut [u8]) {
        out.put_u64(self.master.unwrap_or_default().get());
    }
}

impl Announce {
    /// Bytes of a whole announce without a trailer: as long as the join that answers it.
    pub const WIRE_LEN: usize = end_of(HEADER_LEN, layout::ANNOUNCE);

    fn decode(body: &[u8; Self::WIRE_LEN - HEADER_LEN]) -> Result<Self, DecodeError> {
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
    fn encode(&self, out: &mut &mut [u8]) {
        out.put_i64(self.interval.as_nanos());
        out.put_i32(self.priority);
        out.put_u8(Merit::encode(Some(self.merit)));
        out.put_u8(self.heartbeat.0);
        out.put_u16(self.members);
        self.successors.0.iter().for_each(|node| out.put_u64(node.get()));
    }
}

impl Message<'_> {
    /// The number in the header's type field.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Request(_) => kind::REQUEST,
            Self::Response(_) => kind::RESPONSE,
            Self::Correction(_) => kind::CORRECTION,
            Self::Acknowledgement(_) => kind::ACKNOWLEDGEMENT,
            Self::Join(_) => kind::JOIN,
            Self::Leave(_) => kind::LEAVE,
            Self::Announce(_) => kind::ANNOUNCE,
            Self::Claim(_) => kind::CLAIM,
            Self::Refusal(_) => kind::REFUSAL,
        }
    }

    /// Bytes of the whole frame without a trailer.
    pub fn wire_len(&self) -> usize {
        match self {
            Self::Request(_) => Request::WIRE_LEN,
            Self::Response(_) => Response::WIRE_LEN,
            Self::Correction(corrections) => correction_len(corrections.entries.count()),
            Self::Acknowledgement(_) => Acknowledgement::WIRE_LEN,
            Self::Join(_) => Join::WIRE_LEN,
            Self::Leave(_) => Leave::WIRE_LEN,
            Self::Announce(_) => Announce::WIRE_LEN,
            Self::Claim(_) => Claim::WIRE_LEN,
            Self::Refusal(_) => Refusal::WIRE_LEN,
        }
    }
}

impl<'a> Frame<'a> {
    /// Reads one datagram. Allocates nothing, never panics.
    ///
    /// # Errors
    /// Whatever PROTOCOL.md does not allow. Of several faults the first in the order of [`DecodeError`]'s variants,
    /// but the header's own fields are looked at before anything that follows from its type.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read::<0>(datagram)
    }

    /// The same for a datagram whose trailer has been checked, and which is refused when it has none.
    ///
    /// # Errors
    /// As [`Frame::decode`]. Lengths are those without the trailer.
    pub fn decode_authenticated(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read::<TRAILER_LEN>(datagram)
    }

    /// `TRAILER`: bytes of the trailer, none or [`TRAILER_LEN`].
    #[inline(always)]
    fn read<const TRAILER: usize>(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((head, bytes)) = datagram.split_first_chunk::<HEADER_LEN>() else {
            return Err(DecodeError::TooShort { need: HEADER_LEN, got: datagram.len() });
        };
        let mut head = head.as_slice();
        let magic = head.get_u16();
        if magic != MAGIC {
            return Err(DecodeError::Magic(magic));
        }
        let version = head.get_u8();
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let kind = head.get_u8();
        if (head.get_u16() & FLAG_AUTHENTICATED != 0) != (TRAILER != 0) {
            return Err(DecodeError::Authenticated);
        }
        // What is too short for its trailer is too short for its body as well.
        let (bytes, _) = bytes.split_at(bytes.len().saturating_sub(TRAILER));
        let body = Body { bytes, stated: usize::from(head.get_u16()).saturating_sub(TRAILER) };
        let header = Header {
            domain: Domain::new(head.get_u32()),
            round: Round::new(head.get_u32()),
            term: Term::new(head.get_u64()),
            sender: NodeId::new(head.get_u64()),
            incarnation: Incarnation::new(head.get_u64()),
        };
        header.check()?;
        let frame = |message| Ok(Self { header, message });
        match kind {
            kind::REQUEST => frame(Message::Request(Request::decode(body.fixed()?)?)),
            kind::RESPONSE => frame(Message::Response(Response::decode(body.fixed()?)?)),
            kind::CORRECTION => frame(Message::Correction(Corrections::decode(body)?)),
            kind::ACKNOWLEDGEMENT => frame(Message::Acknowledgement(Acknowledgement::decode(body.fixed()?)?)),
            kind::JOIN => frame(Message::Join(Join::decode(body.fixed()?)?)),
            kind::LEAVE => frame(Message::Leave(Leave::decode(body.fixed()?))),
            kind::ANNOUNCE => frame(Message::Announce(Announce::decode(body.fixed()?)?)),
            kind::CLAIM => frame(Message::Claim(Claim::decode(body.fixed()?)?)),
            kind::REFUSAL => frame(Message::Refusal(Refusal::decode(body.fixed()?))),
            unknown => Err(DecodeError::Type(unknown)),
        }
    }

    /// Appends the frame to `out`, which must have room for [`Message::wire_len`] bytes (a `BytesMut` grows).
    ///
    /// Values are written as they are: a time that PROTOCOL.md does not allow makes a frame that is dropped, and so
    /// does a correction without entries.
    pub fn encode(&self, out: &mut impl BufMut) {
        match &self.message {
            Message::Request(request) => self.put::<{ Request::WIRE_LEN }>(out, |body| request.encode(body)),
            Message::Response(response) => self.put::<{ Response::WIRE_LEN }>(out, |body| response.encode(body)),
            Message::Correction(corrections) => {
                self.put::<CORRECTION_LEN>(out, |body| corrections.encode_fixed(body));
                corrections.entries.encode(out);
            }
            Message::Acknowledgement(acknowledgement) => {
                self.put::<{ Acknowledgement::WIRE_LEN }>(out, |body| acknowledgement.encode(body));
            }
            Message::Join(join) => self.put::<{ Join::WIRE_LEN }>(out, |body| join.encode(body)),
            Message::Leave(leave) => self.put::<{ Leave::WIRE_LEN }>(out, |body| leave.encode(body)),
            Message::Announce(announce) => self.put::<{ Announce::WIRE_LEN }>(out, |body| announce.encode(body)),
            Message::Claim(claim) => self.put::<{ Claim::WIRE_LEN }>(out, |body| claim.encode(body)),
            Message::Refusal(refusal) => self.put::<{ Refusal::WIRE_LEN }>(out, |body| refusal.encode(body)),
        }
    }

    /// Appends header and body, which are `LEN` bytes, in one piece. In an array every field's place is known when
    /// this is compiled (which is why the bodies are put in line); appending field by field checks and moves `out`
    /// each time, and takes a `BytesMut` five times as long.
    fn put<const LEN: usize>(&self, out: &mut impl BufMut, body: impl FnOnce(&mut &mut [u8])) {
        // What nobody writes to is reserved, and zero.
        let mut bytes = [0; LEN];
        let mut rest = bytes.as_mut_slice();
        rest.put_u16(MAGIC);
        rest.put_u8(VERSION);
        rest.put_u8(self.message.kind());
        rest.put_u16(0);
        // No frame is longer than MAX_FRAME_LEN, so that it fits.
        rest.put_u16(u16::try_from(self.message.wire_len()).unwrap_or(0));
        rest.put_u32(self.header.domain.get());
        rest.put_u32(self.header.round.get());
        rest.put_u64(self.header.term.get());
        rest.put_u64(self.header.sender.get());
        rest.put_u64(self.header.incarnation.get());
        body(&mut rest);
        out.put_slice(&bytes);
    }
}

// A frame of every type, with its trailer, fits one datagram, and no answer is longer than its question.
const _: () = {
    assert!(correction_len(MAX_ENTRIES) + TRAILER_LEN <= MAX_FRAME_LEN);
    assert!(Response::WIRE_LEN <= Request::WIRE_LEN);
    assert!(Request::WIRE_LEN <= Join::WIRE_LEN);
    assert!(Join::WIRE_LEN <= Announce::WIRE_LEN);
    assert!(Join::WIRE_LEN <= Request::WIRE_LEN);
    // A join of a higher term is answered by an announce.
    assert!(Announce::WIRE_LEN <= Join::WIRE_LEN);
    assert!(Refusal::WIRE_LEN <= Claim::WIRE_LEN);
    assert!(Acknowledgement::WIRE_LEN <= correction_len(1));
};

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        out.to_vec()
    }

    const HEADER: Header = Header {
        domain: Domain::new(7),
        round: Round::new(42),
        term: Term::new(3),
        sender: NodeId::new(11),
        incarnation: Incarnation::new(12),
    };

    const ENTRY: Entry = Entry {
        node: NodeId::new(21),
        node_incarnation: Incarnation::new(22),
        reference: LocalTime::from_nanos(1),
        correction: Span::from_secs(-20),
        rate: Skew::from_ppt(-1),
        error_bound: Span::MAX,
        rate_error: Skew::from_ppt(1),
        adjustment: 5,
    };

    const RESPONSE: Response = Response {
        t1: LocalTime::from_nanos(1),
        t2: LocalTime::from_nanos(2),
        t3: LocalTime::from_nanos(3),
        ahead: Span::from_nanos(-4),
        slew: Span::from_nanos(5),
        rate: Skew::from_ppt(-6),
        error_bound: Span::from_nanos(7),
        adjustment: 8,
        applied_round: Round::new(9),
        previous: Some(Departure { t1: LocalTime::from_nanos(10), late: Span::from_nanos(11) }),
        is_reference: false,
        is_synchronised: false,
        is_stamped_near_the_wire: false,
    };

    const JOIN: Join = Join {
        priority: -1,
        is_reference: false,
        hears_group: false,
        master: None,
        merit: None,
        corrected_in: None,
        rate_error: Skew::ZERO,
    };

    const ANNOUNCE: Announce = Announce {
        interval: Span::from_secs(1),
        priority: 0,
        merit: Merit::Plausible,
        heartbeat: Heartbeat::SHORTEST,
        members: 2,
        successors: Successors([NodeId::new(0); SUCCESSORS]),
    };

    /// One of each type.
    fn examples() -> [Frame<'static>; 9] {
        [
            Message::Request(Request::bare(LocalTime::from_nanos(1))),
            Message::Response(RESPONSE),
            Message::Correction(Corrections::of(&[ENTRY, ENTRY])),
            Message::Acknowledgement(Acknowledgement { adjustment: 1, outcome: Outcome::Slewed }),
            Message::Join(JOIN),
            Message::Leave(Leave { successor: None }),
            Message::Announce(ANNOUNCE),
            Message::Claim(Claim { priority: 1, merit: Merit::Established, is_handover: false }),
            Message::Refusal(Refusal { master: None }),
        ]
        .map(|message| Frame { header: HEADER, message })
    }

    fn example(kind: u8) -> Vec<u8> {
        examples().iter().find(|frame| frame.message.kind() == kind).map(bytes_of).unwrap()
    }

    /// The frame of type `kind` with `value` written at `offset`.
    fn spoilt(kind: u8, offset: usize, value: &[u8]) -> Vec<u8> {
        let mut bytes = example(kind);
        bytes[offset..offset + value.len()].copy_from_slice(value);
        bytes
    }

    fn error(bytes: &[u8]) -> DecodeError {
        Frame::decode(bytes).unwrap_err()
    }

    #[test]
    fn fewer_bytes_than_a_header_are_too_short() {
        for got in [0, 1, HEADER_LEN - 1] {
            assert_eq!(error(&example(kind::LEAVE)[..got]), DecodeError::TooShort { need: HEADER_LEN, got });
        }
    }

    #[test]
    fn another_magic_is_refused() {
        assert_eq!(error(&spoilt(kind::REQUEST, 0, &[0x42, 0x4A])), DecodeError::Magic(0x424A));
        assert_eq!(error(&[0; 112]), DecodeError::Magic(0));
    }

    #[test]
    fn another_version_is_refused() {
        assert_eq!(error(&spoilt(kind::REQUEST, 2, &[0])), DecodeError::Version(0));
        assert_eq!(error(&spoilt(kind::REQUEST, 2, &[2])), DecodeError::Version(2));
    }

    #[test]
    fn a_trailer_is_refused_before_type_and_body_are_read() {
        assert_eq!(error(&spoilt(kind::REQUEST, 4, &[0, 1])), DecodeError::Authenticated);
        assert_eq!(error(&spoilt(kind::REQUEST, 3, &[99, 0, 1])), DecodeError::Authenticated);
        assert_eq!(error(&spoilt(kind::REQUEST, 40, &[0xFF; 8])), DecodeError::OutOfRange("t1"));
        let mut trailed = spoilt(kind::REQUEST, 4, &[0, 1]);
        trailed.extend([0; TRAILER_LEN]);
        assert_eq!(error(&trailed), DecodeError::Authenticated);
    }

    #[test]
    fn unknown_types_are_refused() {
        for kind in (0..=u8::MAX).filter(|kind| !(kind::REQUEST..=kind::REFUSAL).contains(kind)) {
            assert_eq!(error(&spoilt(kind::REQUEST, 3, &[kind])), DecodeError::Type(kind));
        }
    }

    #[test]
    fn a_correction_holds_one_to_24_entries() {
        for count in [0, 25, u16::MAX] {
            assert_eq!(error(&spoilt(kind::CORRECTION, 40, &count.to_be_bytes())), DecodeError::Count(count));
        }
        let need = correction_len(24);
        let got = correction_len(2);
        assert_eq!(error(&spoilt(kind::CORRECTION, 40, &[0, 24])), DecodeError::Length { need, stated: got, got });
        // Too short for a count: there is none to complain of.
        let expected = DecodeError::Length { need: correction_len(1), stated: got, got: HEADER_LEN + 1 };
        assert_eq!(error(&example(kind::CORRECTION)[..HEADER_LEN + 1]), expected);
    }

    #[test]
    fn more_entries_than_fit_are_not_sent() {
        let entries = [ENTRY; MAX_ENTRIES + 1];
        let bytes = bytes_of(&Frame { header: HEADER, message: Message::Correction(Corrections::of(&entries)) });
        assert_eq!(bytes.len(), correction_len(MAX_ENTRIES));
        let full = Corrections::of(&entries[..MAX_ENTRIES]);
        assert_eq!(Frame::decode(&bytes), Ok(Frame { header: HEADER, message: Message::Correction(full) }));
    }

    #[test]
    fn datagram_length_field_and_type_must_agree() {
        for frame in examples() {
            let bytes = bytes_of(&frame);
            let need = bytes.len();
            assert_eq!(need, frame.message.wire_len());
            for stated in [0, need - 1, need + 1, 0xFFFF] {
                let field = u16::try_from(stated).unwrap().to_be_bytes();
                let bytes = spoilt(frame.message.kind(), 6, &field);
                assert_eq!(error(&bytes), DecodeError::Length { need, stated, got: need });
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert_eq!(error(&longer), DecodeError::Length { need, stated: need, got: need + 1 });
        }
    }

    #[test]
    fn every_field_has_its_range() {
        const TOO_LARGE: i64 = WIRE_LIMIT;
        const TOO_FAST: i64 = Skew::MAX.as_ppt() + 1;
        let span = [-WIRE_LIMIT, TOO_LARGE, i64::MIN, i64::MAX];
        let bound = [-1, TOO_LARGE, i64::MIN, i64::MAX - 1];
        let local_time = [-1, TOO_LARGE, i64::MIN, i64::MAX];
        let rate = [-TOO_FAST, TOO_FAST, i64::MIN, i64::MAX];
        let interval = [0, -1, TOO_LARGE, i64::MAX];
        let entry = correction_len(1); // The second entry: all of them are looked at.
        for (kind, offset, field, values) in [
            (kind::REQUEST, 40, "t1", local_time),
            (kind::CORRECTION, 56, "previous_t4", bound),
            (kind::RESPONSE, 40, "t1", local_time),
            (kind::RESPONSE, 48, "t2", local_time),
            (kind::RESPONSE, 56, "t3", local_time),
            (kind::RESPONSE, 64, "ahead", span),
            (kind::RESPONSE, 72, "slew", span),
            (kind::RESPONSE, 80, "rate", rate),
            (kind::RESPONSE, 88, "error_bound", bound),
            (kind::RESPONSE, 104, "previous_t1", local_time),
            (kind::CORRECTION, entry + 16, "reference", local_time),
            (kind::CORRECTION, entry + 24, "correction", span),
            (kind::CORRECTION, entry + 32, "rate", rate),
            (kind::CORRECTION, entry + 40, "error_bound", bound),
            (kind::ANNOUNCE, 40, "interval", interval),
        ] {
            for value in values {
                let bytes = spoilt(kind, offset, &value.to_be_bytes());
                assert_eq!(error(&bytes), DecodeError::OutOfRange(field), "type {kind}, {value}");
            }
        }
        for merit in [5, 255] {
            assert_eq!(error(&spoilt(kind::JOIN, 46, &[merit])), DecodeError::OutOfRange("merit"));
        }
        for merit in [0, 5, 255] {
            assert_eq!(error(&spoilt(kind::ANNOUNCE, 52, &[merit])), DecodeError::OutOfRange("merit"));
            assert_eq!(error(&spoilt(kind::CLAIM, 44, &[merit])), DecodeError::OutOfRange("merit"));
        }
        for heartbeat in [0, 9, 101, 255] {
            assert_eq!(error(&spoilt(kind::ANNOUNCE, 53, &[heartbeat])), DecodeError::OutOfRange("heartbeat"));
        }
        let above = Term::LIMIT.get() + 1;
        assert_eq!(error(&spoilt(kind::JOIN, 64, &above.to_be_bytes())), DecodeError::OutOfRange("corrected_term"));
        for outcome in [0, 4, 255] {
            assert_eq!(error(&spoilt(kind::ACKNOWLEDGEMENT, 44, &[outcome])), DecodeError::OutOfRange("outcome"));
        }
        for kind in kind::REQUEST..=kind::REFUSAL {
            let above = Term::LIMIT.get() + 1;
            assert_eq!(error(&spoilt(kind, 16, &above.to_be_bytes())), DecodeError::OutOfRange("term"));
            assert_eq!(error(&spoilt(kind, 24, &[0; 8])), DecodeError::OutOfRange("sender"));
            assert_eq!(error(&spoilt(kind, 32, &[0; 8])), DecodeError::OutOfRange("incarnation"));
        }
    }

    #[test]
    fn the_ends_of_every_range_are_legal() {
        let (least, most) = (-WIRE_LIMIT + 1, WIRE_LIMIT - 1);
        let low = Response {
            t1: LocalTime::from_nanos(0),
            t2: LocalTime::from_nanos(0),
            t3: LocalTime::from_nanos(0),
            ahead: Span::from_nanos(least),
            slew: Span::from_nanos(least),
            rate: Skew::ZERO - Skew::MAX,
            error_bound: Span::ZERO,
            previous: Some(Departure { t1: LocalTime::from_nanos(0), late: Span::ZERO }),
            ..RESPONSE
        };
        let high = Response {
            t1: LocalTime::from_nanos(most),
            t2: LocalTime::from_nanos(most),
            t3: LocalTime::from_nanos(most),
            ahead: Span::from_nanos(most),
            slew: Span::from_nanos(most),
            rate: Skew::MAX,
            error_bound: Span::from_nanos(most),
            previous: Some(Departure {
                t1: LocalTime::from_nanos(most),
                late: Span::from_nanos(i64::from(u32::MAX) - 1),
            }),
            ..RESPONSE
        };
        let header = Header { term: Term::LIMIT, ..HEADER };
        for response in [low, high, Response { error_bound: Span::MAX, ..RESPONSE }] {
            let frame = Frame { header, message: Message::Response(response) };
            assert_eq!(Frame::decode(&bytes_of(&frame)), Ok(frame));
        }
    }

    #[test]
    fn bounds_that_no_frame_can_carry_are_sent_as_unknown() {
        for bound in [Span::from_nanos(WIRE_LIMIT), Span::MAX - Span::from_nanos(1), Span::from_nanos(-1)] {
            let response = Response { error_bound: bound, ..RESPONSE };
            let bytes = bytes_of(&Frame { header: HEADER, message: Message::Response(response) });
            let unknown = Message::Response(Response { error_bound: Span::MAX, ..RESPONSE });
            assert_eq!(Frame::decode(&bytes), Ok(Frame { header: HEADER, message: unknown }));
        }
    }

    #[test]
    fn rate_errors_beyond_the_field_stop_at_its_end() {
        for (rate_error, carried) in [(Skew::MAX, i64::from(u32::MAX)), (Skew::from_ppt(-1), 0)] {
            let sent = [Entry { rate_error, ..ENTRY }];
            let bytes = bytes_of(&Frame { header: HEADER, message: Message::Correction(Corrections::of(&sent)) });
            let expected = [Entry { rate_error: Skew::from_ppt(carried), ..ENTRY }];
            let message = Message::Correction(Corrections::of(&expected));
            assert_eq!(Frame::decode(&bytes), Ok(Frame { header: HEADER, message }));
        }
    }

    #[test]
    fn reserved_bits_and_bytes_are_ignored() {
        // The bits that mean something, by the field they stand in.
        let known = |name| match name {
            "flags" => Some(FLAG_AUTHENTICATED),
            "response_flags" => Some(FLAG_REFERENCE | FLAG_SYNCHRONISED | FLAG_NEAR_THE_WIRE),
            "join_flags" => Some(FLAG_REFERENCE | FLAG_HEARS_GROUP),
            "claim_flags" => Some(FLAG_HAND_OVER),
            _ => None,
        };
        let bodies = [
            layout::REQUEST,
            layout::RESPONSE,
            layout::CORRECTION,
            layout::ACKNOWLEDGEMENT,
            layout::JOIN,
            layout::LEAVE,
            layout::ANNOUNCE,
            layout::CLAIM,
            layout::REFUSAL,
        ];
        for (frame, body) in examples().iter().zip(bodies) {
            let clean = bytes_of(frame);
            let mut bytes = clean.clone();
            for field in layout::HEADER.iter().chain(body) {
                let place = &mut bytes[field.offset..field.offset + field.size];
                if field.name == "reserved" {
                    place.fill(0xFF);
                } else if let Some(known) = known(field.name) {
                    place.copy_from_slice(&(!known).to_be_bytes());
                }
            }
            assert_ne!(bytes, clean);
            assert_eq!(Frame::decode(&bytes), Ok(*frame));
            // And they are not handed on.
            assert_eq!(bytes_of(&Frame::decode(&bytes).unwrap()), clean);
        }
    }

    #[test]
    fn each_flag_has_its_own_bit() {
        for [is_reference, is_synchronised, is_stamped_near_the_wire] in
            [[true, false, false], [false, true, false], [false, false, true], [true; 3]]
        {
            let message =
                Message::Response(Response { is_reference, is_synchronised, is_stamped_near_the_wire, ..RESPONSE });
            let frame = Frame { header: HEADER, message };
            assert_eq!(Frame::decode(&bytes_of(&frame)), Ok(frame));
        }
        for (is_reference, hears_group) in [(true, false), (false, true), (true, true)] {
            let frame = Frame { header: HEADER, message: Message::Join(Join { is_reference, hears_group, ..JOIN }) };
            assert_eq!(Frame::decode(&bytes_of(&frame)), Ok(frame));
        }
    }

    #[test]
    fn an_incarnation_without_a_master_is_ignored() {
        let frame = Frame { header: HEADER, message: Message::Join(JOIN) };
        assert_eq!(Frame::decode(&spoilt(kind::JOIN, 56, &[0, 0, 0, 0, 0, 0, 0, 9])), Ok(frame));
    }

    #[test]
    fn a_departure_that_is_not_known_has_no_exchange() {
        let unknown = Frame { header: HEADER, message: Message::Response(Response { previous: None, ..RESPONSE }) };
        assert_eq!(Frame::decode(&bytes_of(&unknown)), Ok(unknown));
        let mut bytes = bytes_of(&unknown);
        bytes[104..112].copy_from_slice(&[0xFF; 8]);
        assert_eq!(Frame::decode(&bytes), Ok(unknown));
        // What the field cannot carry is not said, rather than said wrongly.
        for late in [i64::MIN, -1, i64::from(u32::MAX), i64::MAX] {
            let previous = Some(Departure { t1: LocalTime::from_nanos(10), late: Span::from_nanos(late) });
            let message = Message::Response(Response { previous, ..RESPONSE });
            assert_eq!(Frame::decode(&bytes_of(&Frame { header: HEADER, message })), Ok(unknown), "{late}");
        }
    }

    #[test]
    fn no_answer_is_longer_than_its_question() {
        let len = |kind| example(kind).len();
        assert!(len(kind::RESPONSE) <= len(kind::REQUEST));
        assert!(len(kind::REQUEST) <= len(kind::JOIN));
        assert!(len(kind::JOIN) <= len(kind::ANNOUNCE));
        // A join of a higher term is answered by an announce.
        assert!(len(kind::ANNOUNCE) <= len(kind::JOIN));
        assert!(len(kind::REFUSAL) <= len(kind::CLAIM));
        assert!(len(kind::ACKNOWLEDGEMENT) <= correction_len(1));
    }

    #[test]
    fn the_domain_is_seen_before_anything_else_of_a_frame() {
        for kind in kind::REQUEST..=kind::REFUSAL {
            assert_eq!(peek_domain(&example(kind)), Some(HEADER.domain));
            assert_eq!(peek_domain(&spoilt(kind, 2, &[99, 99])), Some(HEADER.domain));
            assert_eq!(peek_domain(&spoilt(kind, 0, &[0])), None);
            assert_eq!(peek_domain(&example(kind)[..HEADER_LEN - 1]), None);
        }
    }

    fn local_times() -> impl Strategy<Value = LocalTime> {
        (0..WIRE_LIMIT).prop_map(LocalTime::from_nanos)
    }

    fn spans() -> impl Strategy<Value = Span> {
        (-WIRE_LIMIT + 1..WIRE_LIMIT).prop_map(Span::from_nanos)
    }

    fn bounds() -> impl Strategy<Value = Span> {
        prop_oneof![9 => (0..WIRE_LIMIT).prop_map(Span::from_nanos), 1 => Just(Span::MAX)]
    }

    fn rates() -> impl Strategy<Value = Skew> {
        (-Skew::MAX.as_ppt()..=Skew::MAX.as_ppt()).prop_map(Skew::from_ppt)
    }

    fn headers() -> impl Strategy<Value = Header> {
        (any::<u32>(), any::<u32>(), 0..=Term::LIMIT.get(), 1_u64.., 1_u64..).prop_map(
            |(domain, round, term, sender, incarnation)| Header {
                domain: Domain::new(domain),
                round: Round::new(round),
                term: Term::new(term),
                sender: NodeId::new(sender),
                incarnation: Incarnation::new(incarnation),
            },
        )
    }

    fn responses() -> impl Strategy<Value = Response> {
        let times = (local_times(), local_times(), local_times());
        let clock = (spans(), spans(), rates(), bounds());
        let previous = prop::option::of((local_times(), 0..u32::MAX));
        (times, clock, any::<(u32, u32, bool, bool, bool)>(), previous).prop_map(
            |((t1, t2, t3), (ahead, slew, rate, error_bound), rest, previous)| {
                let (adjustment, applied_round, is_reference, is_synchronised, is_stamped_near_the_wire) = rest;
                let previous = previous.map(|(t1, late)| Departure { t1, late: Span::from_nanos(i64::from(late)) });
                let applied_round = Round::new(applied_round);
                Response {
                    t1,
                    t2,
                    t3,
                    ahead,
                    slew,
                    rate,
                    error_bound,
                    adjustment,
                    applied_round,
                    previous,
                    is_reference,
                    is_synchronised,
                    is_stamped_near_the_wire,
                }
            },
        )
    }

    fn entries() -> impl Strategy<Value = Entry> {
        (any::<(u64, u64, u32, u32)>(), local_times(), spans(), rates(), bounds()).prop_map(
            |((node, node_incarnation, rate_error, adjustment), reference, correction, rate, error_bound)| Entry {
                node: NodeId::new(node),
                node_incarnation: Incarnation::new(node_incarnation),
                reference,
                correction,
                rate,
                error_bound,
                rate_error: Skew::from_ppt(i64::from(rate_error)),
                adjustment,
            },
        )
    }

    fn acknowledgements() -> impl Strategy<Value = Acknowledgement> {
        (any::<u32>(), prop::sample::select(vec![Outcome::Stepped, Outcome::Slewed, Outcome::Refused]))
            .prop_map(|(adjustment, outcome)| Acknowledgement { adjustment, outcome })
    }

    fn joins() -> impl Strategy<Value = Join> {
        let corrected = prop::option::of((0..=Term::LIMIT.get(), 1_u64..));
        let master = prop::option::of((1_u64.., any::<u64>()));
        (any::<(i32, bool, bool, u32)>(), master, prop::option::of(merits()), corrected).prop_map(
            |((priority, is_reference, hears_group, rate_error), master, merit, corrected)| Join {
                priority,
                is_reference,
                hears_group,
                master: master.map(|(node, life)| (NodeId::new(node), Incarnation::new(life))),
                merit,
                corrected_in: corrected.map(|(term, node)| (Term::new(term), NodeId::new(node))),
                rate_error: Skew::from_ppt(i64::from(rate_error)),
            },
        )
    }

    fn merits() -> impl Strategy<Value = Merit> {
        prop::sample::select(vec![Merit::Implausible, Merit::Plausible, Merit::Established, Merit::Appointed])
    }

    fn announces() -> impl Strategy<Value = Announce> {
        let successors = prop::collection::vec(any::<u64>(), 0..SUCCESSORS + 2);
        (1..WIRE_LIMIT, any::<i32>(), merits(), 10_u8..=100, any::<u16>(), successors).prop_map(
            |(interval, priority, merit, heartbeat, members, successors)| Announce {
                interval: Span::from_nanos(interval),
                priority,
                merit,
                heartbeat: Heartbeat(heartbeat),
                members,
                successors: Successors::new(successors.into_iter().map(NodeId::new)),
            },
        )
    }

    /// A message that owns its entries, so that a strategy can make it.
    #[derive(Clone, Debug)]
    enum Owned {
        Plain(Message<'static>),
        Correction { entries: Vec<Entry>, previous: Option<Answered>, by_response: bool },
    }

    impl Owned {
        fn message(&self) -> Message<'_> {
            match self {
                Self::Plain(message) => *message,
                Self::Correction { entries, previous, by_response } => {
                    let (previous, by_response) = (*previous, *by_response);
                    Message::Correction(Corrections { previous, by_response, ..Corrections::of(entries) })
                }
            }
        }
    }

    fn answered() -> impl Strategy<Value = Option<Answered>> {
        prop::option::of((local_times(), local_times()).prop_map(|(t1, t4)| Answered { t1, t4 }))
    }

    /// Every legal message.
    fn messages() -> impl Strategy<Value = Owned> {
        let nodes = || prop::option::of((1_u64..).prop_map(NodeId::new));
        prop_oneof![
            (local_times(), spans(), rates(), bounds(), answered(), prop::option::of(any::<NonZeroU32>())).prop_map(
                |(t1, ahead, rate, error_bound, previous, window)| {
                    let window = window.map(Window);
                    Owned::Plain(Message::Request(Request { t1, ahead, rate, error_bound, previous, window }))
                }
            ),
            responses().prop_map(|response| Owned::Plain(Message::Response(response))),
            (prop::collection::vec(entries(), 1..=MAX_ENTRIES), answered(), any::<bool>())
                .prop_map(|(entries, previous, by_response)| Owned::Correction { entries, previous, by_response }),
            acknowledgements().prop_map(|it| Owned::Plain(Message::Acknowledgement(it))),
            joins().prop_map(|join| Owned::Plain(Message::Join(join))),
            nodes().prop_map(|successor| Owned::Plain(Message::Leave(Leave { successor }))),
            announces().prop_map(|announce| Owned::Plain(Message::Announce(announce))),
            (any::<(i32, bool)>(), merits()).prop_map(|((priority, is_handover), merit)| {
                Owned::Plain(Message::Claim(Claim { priority, merit, is_handover }))
            }),
            nodes().prop_map(|master| Owned::Plain(Message::Refusal(Refusal { master }))),
        ]
    }

    /// What holds of all bytes: they are refused, or they are a frame that survives encoding and decoding.
    fn decodes_soundly(bytes: &[u8]) -> Result<(), TestCaseError> {
        if let Ok(frame) = Frame::decode(bytes) {
            let again = bytes_of(&frame);
            prop_assert_eq!(again.len(), bytes.len());
            prop_assert_eq!(Frame::decode(&again), Ok(frame));
            prop_assert_eq!(peek_domain(bytes), Some(frame.header.domain));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn legal_frames_survive_the_wire(header in headers(), owned in messages()) {
            let frame = Frame { header, message: owned.message() };
            let bytes = bytes_of(&frame);
            prop_assert_eq!(bytes.len(), frame.message.wire_len());
            prop_assert!(bytes.len() + TRAILER_LEN <= MAX_FRAME_LEN);
            prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
            // What was decoded encodes to the same bytes, entries still in the datagram included.
            prop_assert_eq!(bytes_of(&Frame::decode(&bytes).unwrap()), bytes);
        }

        #[test]
        fn appending_leaves_what_was_there(header in headers(), owned in messages(), before: [u8; 3]) {
            let frame = Frame { header, message: owned.message() };
            let mut out = BytesMut::from(before.as_slice());
            frame.encode(&mut out);
            prop_assert_eq!(&out[..3], before.as_slice());
            prop_assert_eq!(&out[3..], bytes_of(&frame));
        }

        #[test]
        fn any_bytes_decode_soundly(bytes in prop::collection::vec(any::<u8>(), 0..=MAX_FRAME_LEN + 1)) {
            decodes_soundly(&bytes)?;
        }

        #[test]
        fn any_body_behind_a_fair_header_decodes_soundly(
            header in headers(), owned in messages(), body in prop::collection::vec(any::<u8>(), MAX_FRAME_LEN)
        ) {
            let mut bytes = bytes_of(&Frame { header, message: owned.message() });
            let len = bytes.len();
            bytes[HEADER_LEN..].copy_from_slice(&body[HEADER_LEN..len]);
            decodes_soundly(&bytes)?;
        }

        #[test]
        fn truncated_and_extended_frames_are_refused(
            header in headers(), owned in messages(), more in prop::collection::vec(any::<u8>(), 1..64)
        ) {
            let bytes = bytes_of(&Frame { header, message: owned.message() });
            for len in 0..bytes.len() {
                prop_assert!(Frame::decode(&bytes[..len]).is_err(), "{len} of {}", bytes.len());
            }
            let longer = [bytes, more].concat();
            prop_assert!(Frame::decode(&longer).is_err());
        }

        #[test]
        fn one_wrong_byte_decodes_soundly(header in headers(), owned in messages(), flip in 1..=u8::MAX) {
            let mut bytes = bytes_of(&Frame { header, message: owned.message() });
            for index in 0..bytes.len() {
                bytes[index] ^= flip;
                decodes_soundly(&bytes)?;
                bytes[index] ^= flip;
            }
        }
    }
}
