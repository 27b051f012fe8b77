//! Frames are decoded, walked through and encoded, sent, stamped and received without touching the heap.
//!
//! In a file of its own: the counting allocator takes the place of the usual one in the whole test binary.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a broken test or a red one")]

mod support;

use std::net::UdpSocket;

use allocation_counter::measure;
use berkeleyd::auth::Sequence;
use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::event_loop::{EventLoop, signals};
use berkeleyd::identity::{Incarnation, NodeId};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::local_clock::LocalClock;
use berkeleyd::net::{Addresses, Flushed, Notice, Received, Sockets, Timestamping};
use berkeleyd::node::Node;
use berkeleyd::protocol::{
    Acknowledgement, Corrections, Frame, Header, Leave, MAX_ENTRIES, MAX_FRAME_LEN, Message, Outcome, Request,
    peek_domain,
};
use berkeleyd::replay::ReplayGuard;
use berkeleyd::tiers::{Tier, Tiers};
use berkeleyd::time::{LocalTime, Skew};
use bytes::BytesMut;
use mio::{Poll, Token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;
use support::messages;

fn messages() -> [Message<'static>; 7] {
    [
        Message::Request(Request::bare(LocalTime::from_nanos(1))),
        Message::Response(messages::response(
            LocalTime::from_nanos(1),
            LocalTime::from_nanos(2),
            LocalTime::from_nanos(3),
        )),
        Message::Correction(Corrections::of(&messages::ENTRIES)),
        Message::Acknowledgement(Acknowledgement { adjustment: 1, outcome: Outcome::Stepped }),
        Message::Join(messages::join()),
        Message::Leave(Leave { successor: None }),
        Message::Announce(messages::announce()),
    ]
}

fn frames() -> [Frame<'static>; 7] {
    messages().map(|message| Frame { header: messages::header(), message })
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
fn sending_and_receiving_batches_with_stamps_allocates_nothing() {
    let addresses = Addresses { bind: "127.0.0.1:0".parse().unwrap(), group: None, interface: None };
    let mut sockets = Sockets::open(&addresses, Timestamping::Auto).unwrap();
    let (poll, main, group) = (Poll::new().unwrap(), Token(0), Token(1));
    sockets.register(poll.registry(), main, group).unwrap();
    let clock = LocalClock::new(Skew::ZERO).unwrap();
    let to = sockets.local_addr();
    let mut exchange = |stamped: &mut u32| {
        let mut received = 0;
        for number in 0..1_000 {
            sockets.post(to, b"to itself", clock.now(), Some(number));
            // Alone, and in batches of each size.
            if number % 37 != 0 && sockets.has_room() {
                continue;
            }
            assert!(matches!(sockets.flush(poll.registry(), &clock), Flushed::All));
            while let notice @ (Notice::Left { .. } | Notice::Other) = sockets.notice(&clock).unwrap() {
                *stamped += u32::from(matches!(notice, Notice::Left { .. }));
            }
            // It stops at the end of what was sent before, too.
            for _ in 0..2 {
                while let Received::Datagram { .. } = sockets.receive(main, poll.registry(), &clock).unwrap() {
                    received += 1;
                }
            }
        }
        received
    };
    let mut stamped = 0;
    // The kernel stamps from some datagram on.
    while stamped < 1_000 {
        exchange(&mut stamped);
    }
    (stamped, _) = (0, exchange(&mut stamped));
    let mut received = 0;
    assert_eq!(allocations(|| received = exchange(&mut stamped)), 0);
    assert_eq!((received, stamped > 900), (1_000, true), "{stamped}");
}

/// How often the heap was asked for memory by an event loop whose node is a slave that is asked so many times, its start and end included.
fn allocations_of_a_loop(requests: i64) -> u64 {
    let master = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = Addresses { bind: "127.0.0.1:0".parse().unwrap(), group: None, interface: None };
    let sockets = Sockets::open(&addresses, Timestamping::Auto).unwrap();
    let slave = sockets.local_addr();
    let config =
        NodeConfig { peers: vec![master.local_addr().unwrap()], ..NodeConfig::new(NodeId::new(2), Role::Slave) };
    let clock = LocalClock::new(Skew::ZERO).unwrap();
    let start = clock.pair();
    let node = Node::new(config, Incarnation::new(1), start.local, start.system, Skew::ZERO);
    let mut event_loop =
        EventLoop::new(Tiers::from(node), [(Tier::Lower, sockets)], clock, None, signals().unwrap()).unwrap();
    let asking = std::thread::spawn(move || {
        let (mut bytes, mut answer, mut open) = (BytesMut::new(), [0; MAX_FRAME_LEN], 0);
        for t1 in 1..=requests {
            bytes.clear();
            let message = Message::Request(Request::bare(LocalTime::from_nanos(t1)));
            Frame { header: messages::header(), message }.encode(&mut bytes);
            master.send_to(&bytes, slave).unwrap();
            open += 1;
            // One alone, and more than a batch.
            while open > if t1 % 1_000 < 900 { 40 } else { 0 } || t1 == requests && open > 0 {
                let len = master.recv(&mut answer).unwrap();
                let decoded = Frame::decode(&answer[..len]).unwrap();
                open -= i64::from(matches!(decoded.message, Message::Response(_)));
            }
        }
        kill(getpid(), Signal::SIGTERM).unwrap();
    });
    let count = allocations(|| event_loop.run().unwrap());
    asking.join().unwrap();
    count
}

/// What it takes to start and to end, and for joins and the like once in a while, does not grow with the datagrams.
#[test]
fn a_running_loop_allocates_nothing_for_another_datagram() {
    let [few, many] = [2_000, 22_000].map(allocations_of_a_loop);
    assert!(few > 0 && many < few + 100, "{few} allocations with 2,000 requests, {many} with 22,000");
}
