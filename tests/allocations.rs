//! Frames are decoded, walked through and encoded, sent, stamped and received without touching the heap.
//!
//! In a file of its own: the counting allocator takes the place of the usual one in the whole test binary.

mod support;

use allocation_counter::measure;
use berkeleyd::auth::Sequence;
use berkeleyd::departures::Notice;
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::local_clock::LocalClock;
use berkeleyd::net::{Addresses, Received, Sockets, Timestamping};
use berkeleyd::protocol::{
    Acknowledgement, Corrections, Entry, Frame, Header, Leave, MAX_ENTRIES, MAX_FRAME_LEN, Message, Outcome, Request,
    peek_domain,
};
use berkeleyd::replay::ReplayGuard;
use berkeleyd::time::{LocalTime, Skew, Span};
use bytes::BytesMut;
use mio::{Poll, Token};
use support::messages;

const ENTRY: Entry = Entry {
    node: NodeId::new(22),
    node_incarnation: Incarnation::new(77),
    reference: LocalTime::from_nanos(9_000_112_789),
    correction: Span::from_micros(-40),
    rate: Skew::from_ppb(-31_000),
    error_bound: Span::from_micros(85),
    rate_error: Skew::from_ppb(50),
    adjustment: 41,
};

static ENTRIES: [Entry; MAX_ENTRIES] = [ENTRY; MAX_ENTRIES];

fn messages() -> [Message<'static>; 7] {
    [
        Message::Request(Request::bare(LocalTime::from_nanos(1))),
        Message::Response(messages::response(
            LocalTime::from_nanos(1),
            LocalTime::from_nanos(2),
            LocalTime::from_nanos(3),
        )),
        Message::Correction(Corrections::of(&ENTRIES)),
        Message::Acknowledgement(Acknowledgement { adjustment: 1, outcome: Outcome::Stepped }),
        Message::Join(messages::join()),
        Message::Leave(Leave { successor: None }),
        Message::Announce(messages::announce()),
    ]
}

fn frames() -> [Frame<'static>; 7] {
    let header = Header {
        domain: Domain::new(0),
        round: Round::new(1),
        term: Term::new(1),
        sender: NodeId::new(1),
        incarnation: Incarnation::new(1),
    };
    messages().map(|message| Frame { header, message })
}

/// How often the heap was asked for memory meanwhile.
fn allocations(work: impl FnOnce()) -> u64 {
    measure(work).count_total
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
    let mut full = BytesMut::new();
    assert_ne!(allocations(|| frames().iter().for_each(|frame| frame.encode(&mut full))), 0);
}

#[test]
fn encoding_into_a_buffer_with_room_allocates_nothing() {
    for frame in frames() {
        let mut out = BytesMut::with_capacity(MAX_FRAME_LEN);
        let mut array = [0; MAX_FRAME_LEN];
        assert_eq!(allocations(|| frame.encode(&mut out)), 0, "{frame:?}");
        assert_eq!(allocations(|| frame.encode(&mut array.as_mut_slice())), 0, "{frame:?}");
        assert_eq!(out, array[..frame.message.wire_len()]);
    }
}

#[test]
fn decoding_allocates_nothing_whether_it_succeeds_or_not() {
    for frame in frames() {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        let mut entries = 0;
        let count = allocations(|| {
            assert!(peek_domain(&bytes).is_some());
            let decoded = Frame::decode(&bytes);
            assert!(decoded == Ok(frame));
            if let Ok(Frame { message: Message::Correction(wire), .. }) = decoded {
                entries = wire.entries.iter().count();
            }
            for end in 0..bytes.len() {
                assert!(Frame::decode(&bytes[..end]).is_err());
            }
        });
        assert_eq!(count, 0, "{frame:?}");
        assert_eq!(entries, if matches!(frame.message, Message::Correction(_)) { MAX_ENTRIES } else { 0 });
    }
}

#[test]
fn authentication_allocates_nothing_but_for_who_is_new() {
    let mut ring = KeyRing::new([(KeyId::new(1), Key::new([7; 16]), Lifetime::default())]).unwrap();
    let mut guard = ReplayGuard::new(1);
    for (number, frame) in (1..).zip(frames()) {
        let mut datagram = BytesMut::with_capacity(MAX_FRAME_LEN);
        frame.encode(&mut datagram);
        let count = allocations(|| {
            ring.seal(&mut datagram, None, Sequence::new(number), None);
            assert!(ring.open(&datagram[1..], None).is_err());
            let opened = ring.open(&datagram, None).unwrap();
            assert!(Frame::decode_authenticated(&datagram) == Ok(frame));
            let Header { sender, incarnation, .. } = frame.header;
            for is_first in [true, false] {
                let admitted = guard.admit(LocalTime::from_nanos(5), sender, incarnation, opened.sequence, true);
                assert_eq!(admitted.is_ok(), is_first);
            }
        });
        // The first frame brings its sender into the tables.
        assert_eq!(count != 0, number == 1, "{frame:?}");
    }
}

#[test]
fn sending_and_receiving_with_stamps_allocates_nothing() {
    let addresses = Addresses { bind: "127.0.0.1:0".parse().unwrap(), group: None, interface: None };
    let mut sockets = Sockets::open(&addresses, Timestamping::Auto).unwrap();
    let (main, group) = (Token(0), Token(1));
    sockets.register(Poll::new().unwrap().registry(), main, group).unwrap();
    let clock = LocalClock::new(Skew::ZERO).unwrap();
    let (to, mut datagram) = (sockets.local_addr(), [0; 16]);
    let (mut stamped, mut received) = (0, 0);
    let count = allocations(|| {
        for number in 0..1_000 {
            sockets.send(to, b"to itself", clock.now(), Some(number)).unwrap();
            while let notice @ (Notice::Left { .. } | Notice::Other) = sockets.notice(&clock).unwrap() {
                stamped += u32::from(matches!(notice, Notice::Left { .. }));
            }
            while let Received::Datagram { .. } = sockets.receive(main, &clock, &mut datagram).unwrap() {
                received += 1;
            }
        }
    });
    assert_eq!((count, received), (0, 1_000));
    assert!(stamped > 0, "the kernel stamps departures on loopback, from some datagram on");
}
