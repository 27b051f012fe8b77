//! Who may speak: makes the trailer of an authenticated frame, and checks it.
//!
//! The code is AES-128-CMAC (RFC 4493), as RFC 8573 recommends for NTP, over header, body, and the trailer's key number and sequence.
//! Whoever holds the key can make it, and nobody else; members are not told apart by it. The comparison takes the same
//! time whatever is wrong (`cmac.rs`), and a frame that is longer than a frame can be is not looked at.
//!
//! A [`Sequence`] numbers the frames of one life of a node, so that a frame that was accepted once can be told when it comes again
//! (`replay.rs`). It is the sender's local time, so that it says how old a frame is as well.
//!
//! t1 and t3 are written into a frame before its code is made. Making it takes as long in a request as in a response (the
//! two are equally long), and a departure that the kernel stamps lies behind it.
//!
//! Not decided here: which key (`keys.rs`), where things lie in a frame (`protocol.rs`), what is a repetition (`replay.rs`).

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::identity::Incarnation;
use crate::keys::{KeyId, KeyRing, NotAccepted};
use crate::protocol::{self, DecodeError};
use crate::time::{LocalTime, Time};

/// The number of a frame among those that one life of a node has sent: about its local time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(u64);

impl Sequence {
    /// Wraps the bare number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The bare number, for the wire.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Numbers the frames that one life of a node sends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequencer {
    last: Sequence,
}

impl Sequencer {
    /// The number of a frame that is sent at `now`: above all that were given before.
    pub fn next(&mut self, now: LocalTime) -> Sequence {
        // A local time is not negative. At one frame a nanosecond the number would be exhausted after 584 years.
        let now = u64::try_from(now.as_nanos()).unwrap_or_default();
        self.last = Sequence(now.max(self.last.0.saturating_add(1)));
        self.last
    }
}

/// What the trailer says of a frame whose code is right. The frame itself: [`protocol::Frame::decode_authenticated`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Which key made the code.
    pub key: KeyId,
    /// Which life of a node alone it is for; `None`: whoever hears it.
    pub recipient: Option<Incarnation>,
    /// Which frame of its sender's it is.
    pub sequence: Sequence,
}

/// Why a datagram is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthError {
    /// There is no trailer.
    Unauthenticated,
    /// It is no frame: the lengths are wrong.
    Malformed(DecodeError),
    /// No key with this number is held.
    UnknownKey(KeyId),
    /// That key is not accepted any more.
    Expired(KeyId),
    /// The code is not one that our key with this number makes.
    WrongCode(KeyId),
    /// We hold no keys at all.
    NoKeys(KeyId),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthenticated => f.write_str("not authenticated"),
            Self::Malformed(error) => error.fmt(f),
            Self::UnknownKey(id) => write!(f, "authenticated with key {id}, which is not in the key file"),
            Self::Expired(id) => write!(f, "authenticated with key {id}, which has expired"),
            Self::WrongCode(id) => write!(f, "not authenticated with our key {id}: it is forged, or the key differs"),
            Self::NoKeys(id) => write!(f, "authenticated with key {id}, and this node has no keys (--key-file)"),
        }
    }
}

impl std::error::Error for AuthError {}

impl AuthError {
    /// What a node without keys makes of a frame that it cannot decode; `None` when keys would not help.
    pub fn without_keys(datagram: &[u8], error: &DecodeError) -> Option<Self> {
        let (_, trailer) = protocol::split_trailer(datagram).ok()??;
        (*error == DecodeError::Authenticated).then_some(Self::NoKeys(KeyId::new(trailer.key_id)))
    }
}

impl KeyRing {
    /// Makes an authenticated frame of an encoded one, for one life of a node or whoever hears it. `time`: of the disciplined clock, `None` when that is not synchronised.
    ///
    /// Allocates nothing when `frame` has room for [`protocol::TRAILER_LEN`] bytes more.
    pub fn seal(
        &mut self,
        frame: &mut BytesMut,
        recipient: Option<Incarnation>,
        sequence: Sequence,
        time: Option<Time>,
    ) {
        // There is a key, always.
        if let Some(key) = self.sending(time) {
            protocol::begin_trailer(frame, key.id.get(), recipient, sequence.get());
            let code = key.mac.code(frame);
            frame.put_slice(&code);
        }
    }

    /// Checks the trailer of a datagram of this domain. Its sender and what it says are not looked at; `time` as in [`KeyRing::seal`].
    ///
    /// # Errors
    /// Nobody who holds one of these keys sent it, or with one that has expired.
    pub fn open(&self, datagram: &[u8], time: Option<Time>) -> Result<Opened, AuthError> {
        let (covered, trailer) =
            protocol::split_trailer(datagram).map_err(AuthError::Malformed)?.ok_or(AuthError::Unauthenticated)?;
        let id = KeyId::new(trailer.key_id);
        let key = self.accepting(id, time).map_err(|reason| match reason {
            NotAccepted::Unknown => AuthError::UnknownKey(id),
            NotAccepted::Expired => AuthError::Expired(id),
        })?;
        if !key.mac.verifies(covered, trailer.mac) {
            return Err(AuthError::WrongCode(id));
        }
        Ok(Opened { key: id, recipient: trailer.recipient, sequence: Sequence(trailer.sequence) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Domain, Incarnation, NodeId, Round, Term};
    use crate::keys::{Key, Lifetime};
    use crate::protocol::{
        Corrections, Entry, Frame, Header, Leave, MAX_ENTRIES, MAX_FRAME_LEN, Message, Request, TRAILER_LEN,
    };
    use crate::time::{Skew, Span};
    use proptest::prelude::*;

    /// The key of the examples in RFC 4493, section 4.
    const RFC_KEY: &str = "2b7e151628aed2a6abf7158809cf4f3c";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn ring_with(id: u32, key: &str, lifetime: Lifetime) -> KeyRing {
        KeyRing::new([(KeyId::new(id), Key::new(bytes(key).try_into().unwrap()), lifetime)]).unwrap()
    }

    fn ring() -> KeyRing {
        ring_with(0xC0_FFEE, RFC_KEY, Lifetime::default())
    }

    fn frame(message: Message<'_>) -> Frame<'_> {
        let header = Header {
            domain: Domain::new(7),
            round: Round::new(0),
            term: Term::new(3),
            sender: NodeId::new(11),
            incarnation: Incarnation::new(0x0000_BEEF_0000_0001),
        };
        Frame { header, message }
    }

    fn leave() -> Frame<'static> {
        frame(Message::Leave(Leave { successor: Some(NodeId::new(22)) }))
    }

    fn sealed(frame: &Frame<'_>, ring: &mut KeyRing) -> BytesMut {
        let mut datagram = BytesMut::new();
        frame.encode(&mut datagram);
        ring.seal(&mut datagram, Some(Incarnation::new(0xFACE)), Sequence::new(5_000_000_123), None);
        datagram
    }

    #[test]
    fn a_sealed_frame_is_the_one_that_openssl_makes() {
        // `openssl mac -cipher AES-128-CBC -macopt hexkey:2b7e...4f3c CMAC` over all but the last 16 bytes.
        let expected = "424b 01 06 0001 0058 00000007 00000000 0000000000000003 000000000000000b 0000beef00000001
            0000000000000016  00c0ffee 00000000 000000000000face 000000012a05f27b 635b5ff7347cd3abd7a098aa09ee8cbe";
        assert_eq!(sealed(&leave(), &mut ring()).as_ref(), bytes(expected));
        let opened = ring().open(&bytes(expected), None);
        assert_eq!(
            opened,
            Ok(Opened {
                key: KeyId::new(0xC0_FFEE),
                recipient: Some(Incarnation::new(0xFACE)),
                sequence: Sequence::new(5_000_000_123),
            })
        );
        assert_eq!(Frame::decode_authenticated(&bytes(expected)), Ok(leave()));
    }

    #[test]
    fn the_longest_frame_has_room_for_its_trailer() {
        let entry = Entry {
            node: NodeId::new(1),
            node_incarnation: Incarnation::new(2),
            reference: LocalTime::from_nanos(3),
            correction: Span::ZERO,
            rate: Skew::ZERO,
            error_bound: Span::ZERO,
            rate_error: Skew::ZERO,
            adjustment: 0,
        };
        let entries = [entry; MAX_ENTRIES];
        let correction = frame(Message::Correction(Corrections::of(&entries)));
        let datagram = sealed(&correction, &mut ring());
        assert!(datagram.len() <= MAX_FRAME_LEN && datagram.len() == correction.message.wire_len() + TRAILER_LEN);
        assert!(ring().open(&datagram, None).is_ok());
        assert_eq!(Frame::decode_authenticated(&datagram), Ok(correction));
    }

    #[test]
    fn no_bit_can_be_changed() {
        let (datagram, ring) = (sealed(&leave(), &mut ring()), ring());
        for bit in 0..datagram.len() * 8 {
            let mut forged = datagram.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(ring.open(&forged, None).is_err(), "bit {bit}");
        }
        assert!(ring.open(&datagram, None).is_ok(), "the failures left nothing behind");
    }

    #[test]
    fn what_is_too_short_or_too_long_is_refused_before_anything_is_computed() {
        let mut ring = ring();
        let datagram = sealed(&leave(), &mut ring);
        for length in 0..datagram.len() {
            assert!(matches!(ring.open(&datagram[..length], None), Err(AuthError::Malformed(_))), "{length} bytes");
        }
        for (got, need) in [(79, 80), (1_453, 1_452), (65_507, 1_452)] {
            let mut long = datagram.to_vec();
            long.resize(got, 0);
            let stated = u16::try_from(got).unwrap();
            long[6..8].copy_from_slice(&stated.to_be_bytes());
            let error = DecodeError::Length { need, stated: got, got };
            assert_eq!(ring.open(&long, None), Err(AuthError::Malformed(error)));
        }
    }

    #[test]
    fn each_fault_has_its_name() {
        let id = KeyId::new(1);
        let ours = ring_with(1, RFC_KEY, Lifetime { accept_until: Some(Time::from_nanos(50)), ..Lifetime::default() });
        let plain = {
            let mut plain = BytesMut::new();
            leave().encode(&mut plain);
            plain
        };
        let theirs = sealed(&leave(), &mut ring_with(1, "00112233445566778899aabbccddeeff", Lifetime::default()));
        let unknown = sealed(&leave(), &mut ring_with(2, RFC_KEY, Lifetime::default()));
        let sound = sealed(&leave(), &mut ring_with(1, RFC_KEY, Lifetime::default()));
        for (datagram, time, expected) in [
            (&plain, None, Err(AuthError::Unauthenticated)),
            (&theirs, None, Err(AuthError::WrongCode(id))),
            (&unknown, None, Err(AuthError::UnknownKey(KeyId::new(2)))),
            (&sound, Some(50), Err(AuthError::Expired(id))),
            (&sound, Some(49), Ok(())),
            (&sound, None, Ok(())),
        ] {
            let answer = ours.open(datagram, time.map(Time::from_nanos)).map(drop);
            assert_eq!(answer, expected);
        }
        assert_eq!(Frame::decode_authenticated(&plain), Err(DecodeError::Authenticated));
        assert_eq!(Frame::decode(&sound), Err(DecodeError::Authenticated));
    }

    #[test]
    fn sequences_rise_whatever_the_clock_does() {
        let mut sequencer = Sequencer::default();
        let given = [0, 0, 5, 5, 3, 1_000, 6].map(|now| sequencer.next(LocalTime::from_nanos(now)).get());
        assert_eq!(given, [1, 2, 5, 6, 7, 1_000, 1_001]);
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_opened_or_refused(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(ring().open(&datagram, None).is_err());
        }

        #[test]
        fn what_was_sealed_is_opened_and_decoded(t1 in 0i64..1 << 62, sequence: u64, key: [u8; 16], id: u32) {
            let mut ring = KeyRing::new([(KeyId::new(id), Key::new(key), Lifetime::default())]).unwrap();
            let request = frame(Message::Request(Request::bare(LocalTime::from_nanos(t1))));
            let mut datagram = BytesMut::new();
            request.encode(&mut datagram);
            ring.seal(&mut datagram, None, Sequence::new(sequence), None);
            let expected = Opened { key: KeyId::new(id), recipient: None, sequence: Sequence::new(sequence) };
            prop_assert_eq!(ring.open(&datagram, None), Ok(expected));
            prop_assert_eq!(Frame::decode_authenticated(&datagram), Ok(request));
        }
    }
}
