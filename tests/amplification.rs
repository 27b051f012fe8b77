//! No answer is longer than its question: frames of every kind, by every sort of sender, to nodes in every role, with and without keys.
//!
//! `support::network` sees to it in all tests that what comes back at once is no longer; here also that nothing follows later,
//! to somebody who never answers. Such an address is anybody's: the sender has made it up.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use berkeleyd::auth::Sequence;
use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::counters::DropReason;
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::protocol::{
    Acknowledgement, Claim, Corrections, Entry, Frame, Header, Join, Leave, Merit, Message, Outcome, Refusal, Request,
    Window,
};
use berkeleyd::time::{LocalTime, Skew, Span};
use bytes::BytesMut;
use support::messages;
use support::network::{Fault, Network, address, group};

/// In an ensemble of four: the master, a slave that never stands, one that does.
const ENSEMBLE: [(u64, Role); 4] = [(1, Role::Master), (2, Role::Slave), (3, Role::Auto), (4, Role::Auto)];
/// Far above every term, and still within what a node believes.
const HIGH: u64 = 1_000;

/// A message of each kind, some of them in several forms. `about`: the node that is asked, `local`: what its clock shows.
fn messages(about: NodeId, life: Incarnation, local: LocalTime) -> Vec<Message<'static>> {
    let entry = Entry {
        node: about,
        node_incarnation: life,
        reference: local,
        correction: Span::from_millis(1),
        rate: Skew::ZERO,
        error_bound: Span::ZERO,
        rate_error: Skew::ZERO,
        adjustment: 1,
    };
    let join = messages::join();
    let claim = Claim { priority: 9, merit: Merit::Appointed, is_handover: false };
    vec![
        Message::Request(Request::bare(local)),
        Message::Request(Request { window: Some(Window::new(Span::from_millis(1))), ..Request::bare(local) }),
        Message::Response(messages::response(local, local, local)),
        Message::Correction(Corrections::of(Box::leak(Box::new([entry])))),
        Message::Acknowledgement(Acknowledgement { adjustment: 1, outcome: Outcome::Slewed }),
        Message::Join(join),
        Message::Join(Join { merit: Some(Merit::Appointed), master: Some((about, life)), ..join }),
        Message::Leave(Leave { successor: None }),
        Message::Leave(Leave { successor: Some(about) }),
        Message::Announce(messages::announce()),
        Message::Announce(berkeleyd::protocol::Announce {
            merit: Merit::Appointed,
            members: 9,
            ..messages::announce()
        }),
        Message::Claim(claim),
        Message::Claim(Claim { is_handover: true, ..claim }),
        Message::Claim(Claim { merit: Merit::Implausible, priority: -9, ..claim }),
        Message::Refusal(Refusal { master: None }),
        Message::Refusal(Refusal { master: Some(about) }),
    ]
}

fn network(nodes: &[(u64, Role)], keys: Option<&KeyRing>) -> Network {
    let mut network = Network::new();
    network.keys = keys.cloned();
    for (number, role) in nodes {
        let config = NodeConfig { group: Some(group()), ..NodeConfig::new(NodeId::new(*number), *role) };
        network.start(config, Fault::default());
    }
    network.run_until(Span::from_secs(3));
    network
}

/// Sends everything to one node of a network, as one of its nodes or as somebody else, and gives the kinds that were sent.
fn ask_everything(
    network: &mut Network,
    to: usize,
    sender: NodeId,
    life: Incarnation,
    at: Option<usize>,
) -> BTreeSet<u8> {
    let mut kinds = BTreeSet::new();
    let mut asked = 0;
    for above in [-1, 0, 1, i64::try_from(HIGH).unwrap()] {
        for is_named in [true, false] {
            let count = messages(NodeId::new(1), life, LocalTime::default()).len();
            for which in 0..count {
                let node = &network.members[to].node;
                let (about, own_life) = (node.config().node_id, node.incarnation());
                let (term, round) = (node.term().get().saturating_add_signed(above), node.round().get());
                let local = network.members[to].local(network.now);
                let message = messages(about, own_life, local)[which];
                kinds.insert(message.kind());
                let header = Header {
                    domain: Domain::default(),
                    round: Round::new(round),
                    term: Term::new(term),
                    sender,
                    incarnation: life,
                };
                let mut bytes = BytesMut::new();
                Frame { header, message }.encode(&mut bytes);
                if let Some(keys) = &mut network.keys {
                    // Above what the node whose name is taken has sent itself.
                    let now = network.members[at.unwrap_or(to)].local(network.now);
                    let sequence = Sequence::new(u64::try_from(now.as_nanos()).unwrap());
                    keys.seal(&mut bytes, is_named.then_some(own_life), sequence, None);
                }
                asked += 1;
                let from = at.map_or(SocketAddr::from(([10, 9, 9, 9], asked)), address);
                let before = network.to_nobody;
                network.inject(to, from, &bytes);
                // What it has put off goes out as well.
                network.run_for(Span::from_millis(120));
                let answered = network.to_nobody - before;
                assert!(
                    answered <= bytes.len(),
                    "{answered} bytes to nobody for {} bytes of term {above:+} to {:?} from {sender}: {message:?}",
                    bytes.len(),
                    network.members[to].node.config().role
                );
            }
        }
    }
    kinds
}

#[test]
fn no_answer_is_longer_than_its_question() {
    let ring = KeyRing::new([(KeyId::new(1), Key::new([7; 16]), Lifetime::default())]).unwrap();
    for keys in [None, Some(&ring)] {
        // By themselves, then in company; each node once, and each sort of sender.
        let alone: [&[(u64, Role)]; 3] = [&[(1, Role::Slave)], &[(1, Role::Auto)], &[(1, Role::Master)]];
        let stranger = (NodeId::new(99), Incarnation::new(0xBAD), None);
        for nodes in alone {
            let own = (NodeId::new(1), Incarnation::new(0xBAD), None);
            for (sender, life, at) in [stranger, own] {
                let kinds = ask_everything(&mut network(nodes, keys), 0, sender, life, at);
                assert_eq!(kinds.len(), 9);
            }
        }
        for to in 0..3 {
            for named in 0..ENSEMBLE.len() {
                for at in [None, Some(named)] {
                    let mut network = network(&ENSEMBLE, keys);
                    let named = &network.members[named].node;
                    let (sender, life) = (named.config().node_id, named.incarnation());
                    ask_everything(&mut network, to, sender, life, at);
                }
            }
            let (sender, life, at) = stranger;
            ask_everything(&mut network(&ENSEMBLE, keys), to, sender, life, at);
        }
    }
}

#[test]
fn a_flood_of_joins_is_answered_at_its_rate_and_no_member_suffers() {
    let mut network = network(&ENSEMBLE, None);
    let mut answered_before = network.to_nobody;
    for second in 0..3 {
        for number in 0..20_000_u32 {
            // Sixteen hosts, each from many ports.
            let [_, _, host, port] = number.to_be_bytes();
            let from = SocketAddr::from(([10, 9, 9, host % 16], 1_000 + u16::from(port)));
            network.inject(0, from, &messages::join_of_stranger(second * 20_000 + number));
            network.run_for(Span::from_micros(50));
        }
        let answers = (network.to_nobody - answered_before) / 120;
        answered_before = network.to_nobody;
        assert!(answers <= 16_384 + 4_096, "{answers} answers in the {second}. second");
    }
    let dropped = |reason| network.members[0].node.counters().dropped(reason);
    assert!(dropped(DropReason::TooMany) > 0 && dropped(DropReason::TableFull) > 0);
    for member in &network.members {
        assert!(member.node.is_synchronised(member.local(network.now)));
    }
    assert!(network.spread(0..4) < Span::from_micros(20), "{}", network.spread(0..4));
    let members: Vec<_> = network.members[0].node.as_master().unwrap().members().collect();
    assert!(
        members.len() == 3 && members.iter().all(|member| member.retransmissions == 0),
        "nothing of theirs is dropped"
    );
}
