//! A master's table of members and of those who want to be: who gets a place, and whom nobody pushes out of it. In virtual time.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use berkeleyd::auth::Sequence;
use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::context::Event;
use berkeleyd::counters::DropReason;
use berkeleyd::identity::{Domain, Incarnation, NodeId};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::protocol::{Acknowledgement, Frame, Header, Leave, Message, Outcome};
use berkeleyd::time::{Span, Time};
use bytes::BytesMut;
use support::messages;
use support::network::{Fault, Network, group};

const MASTER: usize = 0;
/// As many slaves as the master takes.
const PLACES: u64 = 3;

fn ring(byte: u8) -> KeyRing {
    KeyRing::new([(KeyId::new(1), Key::new([byte; 16]), Lifetime::default())]).unwrap()
}

fn slave(number: u64) -> NodeConfig {
    NodeConfig { group: Some(group()), ..NodeConfig::new(NodeId::new(number), Role::Slave) }
}

/// A master, number 1, with room for so many slaves.
fn ensemble(max_slaves: usize, keys: Option<KeyRing>) -> Network {
    let mut network = Network::new();
    network.keys = keys;
    network.start(NodeConfig { role: Role::Master, max_slaves, ..slave(1) }, Fault::default());
    network
}

/// Its members: their numbers and where they are.
fn members(network: &Network) -> Vec<(NodeId, SocketAddr)> {
    let master = network.members[MASTER].node.as_master().unwrap();
    master.members().map(|member| (member.peer.node, member.peer.address)).collect()
}

fn is_member(network: &Network, number: u64) -> bool {
    members(network).iter().any(|(node, _)| *node == NodeId::new(number))
}

fn dropped(network: &Network, reason: DropReason) -> u64 {
    network.members[MASTER].node.counters().dropped(reason)
}

/// A frame by anybody.
fn frame(network: &Network, sender: NodeId, incarnation: Incarnation, message: Message<'_>) -> BytesMut {
    let node = &network.members[MASTER].node;
    let header = Header { domain: Domain::default(), round: node.round(), term: node.term(), sender, incarnation };
    let mut bytes = BytesMut::new();
    Frame { header, message }.encode(&mut bytes);
    bytes
}

/// A join by a number that nobody has, of nobody's term, from one of a host's ports.
fn stranger(number: u32, host: [u8; 4]) -> (SocketAddr, BytesMut) {
    let from = SocketAddr::from((host, 1_024 + u16::try_from(number % 60_000).unwrap()));
    (from, messages::join_of_stranger(number))
}

#[test]
fn nobody_is_pushed_out_of_a_full_table() {
    for keys in [None, Some(ring(7))] {
        let has_keys = keys.is_some();
        let mut network = ensemble(PLACES.try_into().unwrap(), keys);
        let recordings = Rc::new(RefCell::new(Vec::new()));
        let tape = Rc::clone(&recordings);
        network.fate = Box::new(move |_, from, to, bytes| {
            tape.borrow_mut().push(bytes.to_vec());
            (from != to).then_some(Span::from_micros(50))
        });
        for number in 2..2 + PLACES {
            network.start(slave(number), Fault::default());
        }
        network.run_until(Span::from_secs(5));
        let full = members(&network);
        assert_eq!(full.len(), 3);
        // One more of the ensemble's own.
        let fourth = network.start(slave(9), Fault::default());
        network.run_for(Span::from_millis(500));
        assert!(network.members[MASTER].events.iter().any(|event| matches!(event, Event::TableFull { .. })));
        let before: Vec<u32> = (1..=3).map(|index| network.members[index].node.clock().adjustment()).collect();

        let recorded = recordings.borrow().clone();
        let mut recorded = recorded.iter().cycle();
        for number in 0..5_000_u32 {
            // Under numbers of their own, under those of members in their lives and in others: they come, answer, acknowledge and go.
            let own = &network.members[usize::try_from(number % 3 + 1).unwrap()].node;
            let (node, life) = match number % 4 {
                0 | 1 => (own.config().node_id, own.incarnation()),
                2 => (own.config().node_id, Incarnation::new(0xBAD)),
                _ => (NodeId::new(1_000 + u64::from(number)), Incarnation::new(0xBAD)),
            };
            let local = network.members[MASTER].local(network.now);
            let message = match number % 5 {
                0 | 1 => Message::Join(messages::join()),
                2 => Message::Response(messages::response(local, local, local)),
                3 => Message::Acknowledgement(Acknowledgement { adjustment: 1, outcome: Outcome::Slewed }),
                _ => Message::Leave(Leave { successor: None }),
            };
            let mut bytes = frame(&network, node, life, message);
            if has_keys {
                let sequence = Sequence::new(u64::try_from(local.as_nanos()).unwrap());
                ring(8).seal(&mut bytes, Some(network.members[MASTER].node.incarnation()), sequence, None::<Time>);
            }
            let from = stranger(number, [10, 9, 9, 9]).0;
            network.inject(MASTER, from, &bytes);
            if has_keys {
                network.inject(MASTER, from, recorded.next().unwrap());
            }
            network.run_for(Span::from_millis(2));
        }
        assert_eq!(members(&network), full, "keys: {has_keys}");
        assert!(dropped(&network, DropReason::TableFull) > 0);
        assert!(!has_keys || dropped(&network, DropReason::WrongCode) > 1_000);
        for (index, before) in (1..=3).zip(before) {
            let node = &network.members[index].node;
            assert!(node.clock().adjustment() >= before + 8, "{index} was corrected {}", node.clock().adjustment());
        }
        assert!(network.spread(0..4) < Span::from_micros(20), "{}", network.spread(0..4));
        // Who goes makes room.
        network.shut_down(1);
        network.run_for(Span::from_secs(3));
        assert!(is_member(&network, 9), "{:?}", members(&network));
        assert!(network.members[fourth].node.clock().is_corrected());
    }
}

#[test]
fn of_many_who_come_at_once_no_more_become_members_than_there_are_places() {
    let mut network = ensemble(PLACES.try_into().unwrap(), None);
    for number in 2..10 {
        network.start(slave(number), Fault::default());
    }
    for _ in 0..300 {
        network.run_for(Span::from_millis(10));
        assert!(members(&network).len() <= 3, "{:?}", members(&network));
    }
    assert_eq!(members(&network).len(), 3);
}

#[test]
fn a_silent_member_keeps_its_place_for_ten_minutes() {
    let mut network = ensemble(2, None);
    for number in [2, 3] {
        network.start(slave(number), Fault::default());
    }
    network.run_until(Span::from_secs(3));
    network.kill(1);
    network.start(slave(9), Fault::default());
    network.run_for(Span::from_secs(590));
    assert!(is_member(&network, 2) && !is_member(&network, 9), "{:?}", members(&network));
    network.run_for(Span::from_secs(30));
    assert!(is_member(&network, 9) && !is_member(&network, 2), "{:?}", members(&network));
}

/// A join every 100 µs under one made-up number after the other, from a host that `host` names for each.
fn flood(network: &mut Network, joins: std::ops::Range<u32>, host: fn(u32) -> [u8; 4]) {
    for number in joins {
        let (from, bytes) = stranger(number, host(number));
        network.inject(MASTER, from, &bytes);
        network.run_for(Span::from_micros(100));
    }
}

#[test]
fn a_host_that_joins_under_many_numbers_keeps_out_nobody_but_itself() {
    let mut network = ensemble(100, None);
    network.start(slave(2), Fault::default());
    network.run_until(Span::from_secs(3));
    let few_hosts: fn(u32) -> [u8; 4] = |number| [10, 9, 9, (number % 3).to_be_bytes()[3]];
    flood(&mut network, 0..1_000, few_hosts);
    assert!(dropped(&network, DropReason::TableFull) > 0, "the candidates' places are full");
    let newcomer = network.start(slave(3), Fault::default());
    flood(&mut network, 1_000..6_000, few_hosts);
    assert!(is_member(&network, 3), "within half a second");
    flood(&mut network, 6_000..12_000, few_hosts);
    assert!(network.members[newcomer].node.clock().is_corrected());
    assert_eq!(members(&network).len(), 2);
}

/// Without keys an address costs nothing. What remains is that it ends, and that members do not notice.
#[test]
fn made_up_addresses_keep_newcomers_out_for_as_long_as_they_come() {
    let mut network = ensemble(100, None);
    network.start(slave(2), Fault::default());
    network.run_until(Span::from_secs(3));
    let anywhere: fn(u32) -> [u8; 4] = |number| (0x0A80_0000 | number.wrapping_mul(2_654_435_761) >> 12).to_be_bytes();
    flood(&mut network, 0..2_000, anywhere);
    let before = network.members[1].node.clock().adjustment();
    let newcomer = network.start(slave(3), Fault::default());
    flood(&mut network, 2_000..27_000, anywhere);
    assert!(network.members[1].node.clock().adjustment() >= before + 2);
    assert!(network.spread(0..2) < Span::from_micros(20), "{}", network.spread(0..2));
    network.run_for(Span::from_secs(5));
    assert!(is_member(&network, 3) && network.members[newcomer].node.clock().is_corrected());
}
