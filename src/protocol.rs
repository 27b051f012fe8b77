//! The wire: frames, their layout, encoding and decoding. PROTOCOL.md is normative, these files follow it.
//!
//! Here is what all frames have in common; each message stands with its codec in a file of its own, and where each field lies in `layout.rs`.
//! They know which values are legal, never what these mean for a clock. A decoded value
//! is already legal: whoever holds a [`Frame`] need not check ranges again, and the sum of any two times in it
//! does not overflow. Decoding allocates nothing and never panics; encoding cannot fail.
//!
//! Every frame is a 40-byte header, a body whose size its type fixes, and room for a 40-byte trailer that
//! carries a message authentication code when the header says so.

mod correction;
pub mod layout;
mod mastership;
mod membership;
mod polling;
mod trailer;
mod values;

use std::fmt;

use byteorder::{BigEndian, ByteOrder};
use bytes::{Buf, BufMut};

pub use correction::{Acknowledgement, Corrections, Entries, Entry, MAX_ENTRIES, Outcome, correction_len};
use layout::CORRECTION_LEN;
pub use layout::{ENTRY_LEN, Field, HEADER_LEN, MAC_LEN, TRAILER_LEN};
pub use mastership::{Announce, Claim, Heartbeat, Refusal, SUCCESSORS, Successors};
pub use membership::{Join, Leave, Merit};
pub use polling::{Answered, Departure, Request, Response, Window};
pub use trailer::{Trailer, begin_trailer, split_trailer};

use crate::identity::{Domain, Incarnation, NodeId, Round, Term};

/// The first two bytes of every frame: "BK".
pub const MAGIC: u16 = 0x424B;
/// The version spoken here.
pub const VERSION: u8 = 1;
/// The longest frame: what fits a 1500-byte Ethernet frame behind IPv6 and UDP headers. A longer one would be
/// fragmented, and a lost fragment loses the whole.
pub const MAX_FRAME_LEN: usize = 1_452;
/// Header flag: a trailer follows the body.
const FLAG_AUTHENTICATED: u16 = 1;
/// Where the domain lies in the header, for [`peek_domain`].
const DOMAIN_OFFSET: usize = 8;

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

/// One whole datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Who speaks.
    pub header: Header,
    /// What is said.
    pub message: Message<'a>,
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

/// The domain of what looks like one of our frames, before anything else of it is read. `None`: not ours.
pub fn peek_domain(datagram: &[u8]) -> Option<Domain> {
    let header = datagram.get(..HEADER_LEN)?;
    if BigEndian::read_u16(header) != MAGIC {
        return None;
    }
    header.get(DOMAIN_OFFSET..).map(|bytes| Domain::new(BigEndian::read_u32(bytes)))
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

#[cfg(test)]
mod tests;
