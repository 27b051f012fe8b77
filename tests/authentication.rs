//! Nodes with keys, in virtual time: who has none moves nobody, and neither does what somebody has recorded.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use berkeleyd::auth::Sequence;
use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::context::Event;
use berkeleyd::counters::DropReason;
use berkeleyd::identity::{NodeId, Term};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::protocol::{Announce, Frame, Header, Message, Request, Window};
use berkeleyd::time::{LocalTime, Skew, Span};
use bytes::BytesMut;
use support::messages;
use support::network::{Fault, Network, address, group};

/// A datagram that somebody has taken down: who sent it, and its bytes.
type Recordings = Rc<RefCell<Vec<(usize, Vec<u8>)>>>;

fn config(number: u64, role: Role) -> NodeConfig {
    NodeConfig { group: Some(group()), ..NodeConfig::new(NodeId::new(number), role) }
}

fn ring(keys: &[(u32, u8)]) -> KeyRing {
    let keys = keys.iter().map(|(id, byte)| (KeyId::new(*id), Key::new([*byte; 16]), Lifetime::default()));
    KeyRing::new(keys).unwrap()
}

/// So many nodes of role auto with one key, numbered from 1, whose clocks stand 50 ms apart, and whatever they send is taken down.
fn ensemble(nodes: u64) -> (Network, Recordings) {
    let mut network = Network::new();
    network.keys = Some(ring(&[(1, 1)]));
    let recordings = Recordings::default();
    record(&mut network, &recordings);
    for number in 1..=nodes {
        let offset = Span::from_millis(50).times(i64::try_from(number).unwrap());
        network.start(config(number, Role::Auto), Fault { offset, drift: Skew::from_ppm(10) });
    }
    (network, recordings)
}

/// Delivers everything after 50 µs, and takes it down.
fn record(network: &mut Network, recordings: &Recordings) {
    let recordings = Rc::clone(recordings);
    network.fate = Box::new(move |_, from, to, bytes| {
        // What goes to the group is on the wire once.
        let mut recordings = recordings.borrow_mut();
        if recordings.last().is_none_or(|(_, last)| last != bytes) {
            recordings.push((from, bytes.to_vec()));
        }
        (from != to).then_some(Span::from_micros(50))
    });
}

fn dropped(network: &Network, index: usize, reason: DropReason) -> u64 {
    network.members[index].node.counters().dropped(reason)
}

/// The frames of the recordings that a predicate picks.
fn picked(recordings: &Recordings, is_wanted: impl Fn(&Frame<'_>) -> bool) -> Vec<(usize, Vec<u8>)> {
    let frames = recordings.borrow();
    let wanted = frames.iter().filter(|(_, bytes)| is_wanted(&Frame::decode_authenticated(bytes).unwrap()));
    wanted.cloned().collect()
}

fn is_announce(frame: &Frame<'_>) -> bool {
    matches!(frame.message, Message::Announce(_))
}

fn is_join(frame: &Frame<'_>) -> bool {
    matches!(frame.message, Message::Join(_))
}

fn is_claim(frame: &Frame<'_>) -> bool {
    matches!(frame.message, Message::Claim(_))
}

fn master_of(network: &Network, indices: impl IntoIterator<Item = usize>) -> Option<NodeId> {
    let mut masters: Vec<_> = indices.into_iter().map(|index| network.members[index].node.master()).collect();
    masters.dedup();
    if let [Some(master)] = masters[..] { Some(master) } else { None }
}

#[test]
fn nodes_with_a_key_elect_agree_and_replace_their_master_as_fast_as_without() {
    let mut times = Vec::new();
    for keys in [None, Some(ring(&[(1, 1)]))] {
        let mut network = Network::new();
        network.keys = keys;
        for number in 1..=5 {
            let offset = Span::from_millis(50).times(i64::try_from(number).unwrap());
            network.start(config(number, Role::Auto), Fault { offset, drift: Skew::from_ppm(10) });
        }
        let mut agreed = Span::ZERO;
        while network.spread(0..5) > Span::from_micros(100) {
            network.run_for(Span::from_millis(10));
            agreed = network.now;
            assert!(agreed < Span::from_secs(3), "{:?}", network.spread(0..5));
        }
        assert_eq!(master_of(&network, 0..5), Some(NodeId::new(5)));
        network.run_for(Span::from_secs(10));
        network.kill(4);
        let killed = network.now;
        while master_of(&network, 0..4) != Some(NodeId::new(4)) {
            network.run_for(Span::from_millis(10));
            assert!(network.now - killed < Span::from_secs(2), "nobody took over");
        }
        times.push((agreed, network.now - killed));
        network.run_for(Span::from_secs(5));
        assert!(network.spread(0..4) < Span::from_micros(50), "{}", network.spread(0..4));
    }
    let [(agreed, taken_over), (with_keys, taken_over_with_keys)] = times[..] else { unreachable!() };
    let slack = Span::from_millis(20);
    assert!(with_keys <= agreed + slack, "{agreed} without, {with_keys} with keys");
    assert!(taken_over_with_keys <= taken_over + slack, "{taken_over} without, {taken_over_with_keys} with keys");
}

#[test]
fn who_has_no_key_and_who_has_another_are_not_heard() {
    let (mut network, _) = ensemble(3);
    network.keys = None;
    let without = network.start(config(8, Role::Auto), Fault::default());
    network.keys = Some(ring(&[(1, 9)]));
    let other = network.start(config(9, Role::Auto), Fault::default());
    network.keys = Some(ring(&[(2, 1)]));
    let unknown = network.start(config(10, Role::Auto), Fault::default());
    network.run_until(Span::from_secs(5));
    assert_eq!(master_of(&network, 0..3), Some(NodeId::new(3)));
    for index in 0..3 {
        for reason in [DropReason::Unauthenticated, DropReason::WrongCode, DropReason::UnknownKey] {
            assert!(dropped(&network, index, reason) > 0, "{} at {index}", reason.name());
        }
    }
    for (index, reason) in
        [(without, DropReason::Authenticated), (other, DropReason::WrongCode), (unknown, DropReason::UnknownKey)]
    {
        assert_eq!(network.members[index].node.master(), Some(network.members[index].node.config().node_id), "alone");
        assert!(dropped(&network, index, reason) > 0, "{} at {index}", reason.name());
    }
    let named = |event: &Event| matches!(event, Event::NotAuthentic { from, .. } if *from == address(other));
    assert!(network.members[0].events.iter().any(named));
}

#[test]
fn what_was_recorded_of_a_former_life_of_the_network_moves_nobody_who_has_just_booted() {
    let (mut former, recordings) = ensemble(3);
    former.run_until(Span::from_secs(20));
    let recorded = recordings.borrow().clone();
    let highest = recorded.iter().map(|(_, bytes)| Frame::decode_authenticated(bytes).unwrap().header.term).max();
    assert!(recorded.len() > 500 && highest > Some(Term::default()));

    for role in [Role::Slave, Role::Auto, Role::Master] {
        let (mut network, _) = ensemble(0);
        network.era = 1 << 20;
        let victim = network.start(config(9, role), Fault { offset: Span::from_millis(7), drift: Skew::ZERO });
        // All of it, in its old rhythm and more than once, from where it came from.
        for (from, bytes) in recorded.iter().chain(&recorded) {
            network.inject(victim, address(*from + 1), bytes);
            network.run_for(Span::from_micros(2_500));
        }
        let node = &network.members[victim].node;
        assert_eq!(network.error(victim), Span::from_millis(7), "{role:?}: its clock was moved");
        assert_eq!(node.clock().adjustment(), 0);
        let expected = if role == Role::Slave { None } else { Some(NodeId::new(9)) };
        assert_eq!(node.master(), expected, "{role:?}");
        assert!(node.term() <= Term::new(1), "{role:?}: term {}", node.term());
        assert!(
            node.as_master().is_none_or(|master| master.members().count() == 0),
            "{role:?}: a recording is a member"
        );
        assert!(dropped(&network, victim, DropReason::StaleIncarnation) > 100);
        // It follows somebody alive all the same.
        network.start(config(10, Role::Auto), Fault::default());
        network.start(config(11, Role::Auto), Fault::default());
        network.run_for(Span::from_secs(3));
        assert!(network.spread(0..3) < Span::from_micros(100), "{role:?}: {}", network.spread(0..3));
    }
}

#[test]
fn nothing_that_was_accepted_is_accepted_again() {
    let (mut network, recordings) = ensemble(4);
    network.run_until(Span::from_secs(10));
    let before: Vec<_> = network.members.iter().map(|member| member.node.clock().adjustment()).collect();
    let counted =
        |network: &Network, index: usize| network.members[index].node.counters().received().map(|(_, n)| n).sum();
    let received: Vec<u64> = (0..4).map(|index| counted(&network, index)).collect();
    let recorded = recordings.borrow().clone();
    // That the keys are read again does not matter.
    network.members.iter_mut().for_each(|member| member.node.hold_keys(ring(&[(1, 1)])));
    for (from, bytes) in &recorded {
        for to in (0..4).filter(|to| to != from) {
            network.inject(to, address(*from), bytes);
        }
    }
    for (index, member) in network.members.iter().enumerate() {
        assert_eq!(member.node.clock().adjustment(), before[index], "node {index}");
        assert_eq!(counted(&network, index), received[index], "node {index} let a recording in");
        assert!(dropped(&network, index, DropReason::Replayed) > 100);
    }
}

#[test]
fn recorded_announces_do_not_keep_a_dead_master_alive() {
    let (mut network, recordings) = ensemble(4);
    network.run_until(Span::from_secs(10));
    assert_eq!(master_of(&network, 0..4), Some(NodeId::new(4)));
    network.kill(3);
    let announces = picked(&recordings, is_announce);
    let killed = network.now;
    for (from, bytes) in announces.iter().cycle() {
        (0..3).for_each(|to| network.inject(to, address(*from), bytes));
        network.run_for(Span::from_millis(10));
        if master_of(&network, 0..3) == Some(NodeId::new(3)) {
            break;
        }
        assert!(network.now - killed < Span::from_secs(1), "nobody took over");
    }
}

#[test]
fn a_master_whose_frames_are_held_back_is_lost_soon() {
    // Everything that the master sends from 10 s on arrives two seconds later: it has stopped by then.
    let (mut network, _) = ensemble(4);
    network.run_until(Span::from_secs(10));
    network.fate = Box::new(|_, from, to, _| {
        let way = if from == 3 { Span::from_secs(2) } else { Span::from_micros(50) };
        (from != to).then_some(way)
    });
    network.run_for(Span::from_millis(500));
    network.kill(3);
    network.run_for(Span::from_secs(1));
    assert_eq!(master_of(&network, 0..3), Some(NodeId::new(3)), "taken over before the last of it arrives");
    network.run_for(Span::from_secs(3));
    assert_eq!(master_of(&network, 0..3), Some(NodeId::new(3)));
    assert!((0..3).all(|index| dropped(&network, index, DropReason::HeldBack) > 0));
}

#[test]
fn a_recorded_join_or_claim_of_a_high_term_does_not_raise_a_masters() {
    // Somebody was master in a former life of the network, with a term that this one has not reached.
    let (mut former, recordings) = ensemble(3);
    former.start(config(9, Role::Slave), Fault::default());
    // In the end the slave is alone, and looks for a master of the last term.
    for master in [2, 1, 0] {
        former.run_for(Span::from_secs(5));
        former.kill(master);
    }
    former.run_for(Span::from_secs(5));
    let old = picked(&recordings, |frame| frame.header.term > Term::new(1));
    for kind in [is_announce, is_join, is_claim] {
        assert!(old.iter().any(|(_, bytes)| kind(&Frame::decode_authenticated(bytes).unwrap())));
    }

    let (mut network, _) = ensemble(0);
    network.era = 1 << 20;
    for number in 1..=2 {
        network.start(config(number, Role::Auto), Fault::default());
    }
    network.run_until(Span::from_secs(5));
    let term = network.members[1].node.term();
    for (from, bytes) in &old {
        (0..2).for_each(|to| network.inject(to, address(*from + 5), bytes));
        network.run_for(Span::from_millis(3));
    }
    assert_eq!(network.members[1].node.term(), term);
    assert_eq!(master_of(&network, 0..2), Some(NodeId::new(2)));
}

#[test]
fn a_recorded_announce_and_request_to_the_group_depose_no_master() {
    // Of the master of a large group, in a former life of the network.
    let header = Header { sender: NodeId::new(9), term: Term::new(5), ..messages::header() };
    let announce = Announce { members: 200, ..messages::announce() };
    let request = Request { window: Some(Window::new(Span::from_millis(20))), ..Request::bare(LocalTime::default()) };
    let (mut network, _) = ensemble(2);
    network.run_until(Span::from_secs(5));
    let (term, mut keys) = (network.members[1].node.term(), ring(&[(1, 1)]));
    for (number, message) in (1..).zip([Message::Announce(announce), Message::Request(request)]) {
        let mut bytes = BytesMut::new();
        Frame { header, message }.encode(&mut bytes);
        keys.seal(&mut bytes, None, Sequence::new(number), None);
        network.inject(1, address(9), &bytes);
    }
    let [rival, request] = [DropReason::Rival, DropReason::WrongRole].map(|reason| dropped(&network, 1, reason));
    assert_eq!((rival, request), (1, 1), "the rival is asked to prove that it is alive, and its request is none");
    assert_eq!((network.members[1].node.term(), master_of(&network, 0..2)), (term, Some(NodeId::new(2))));
}

#[test]
fn keys_follow_one_another_without_a_gap() {
    let (mut network, _) = ensemble(3);
    network.run_until(Span::from_secs(5));
    let steps: [&[(u32, u8)]; 3] = [&[(1, 1), (2, 2)], &[(2, 2), (1, 1)], &[(2, 2)]];
    for keys in steps {
        for index in 0..3 {
            network.members[index].node.hold_keys(ring(keys));
            network.run_for(Span::from_secs(2));
        }
    }
    for (index, member) in network.members.iter().enumerate() {
        for reason in [DropReason::UnknownKey, DropReason::WrongCode, DropReason::Replayed] {
            assert_eq!(dropped(&network, index, reason), 0, "{} at {index}", reason.name());
        }
        assert!(member.node.is_synchronised(member.local(network.now)));
    }
    assert!(network.spread(0..3) < Span::from_micros(50));
}

#[test]
fn recordings_of_many_candidates_delay_an_election_by_a_bounded_time() {
    // More lives than a node remembers of those that have not proved to be alive, so that each can come again; all of them better than who is
    // to become master.
    let (mut former, recordings) = ensemble(0);
    for number in 100..170 {
        former.start(config(number, Role::Auto), Fault::default());
    }
    former.run_until(Span::from_secs(1));
    former.kill(69);
    former.run_for(Span::from_secs(1));
    let recorded = picked(&recordings, |frame| is_join(frame) || is_claim(frame));
    let lives: BTreeSet<usize> = recorded.iter().map(|(from, _)| *from).collect();
    let has_claims = recorded.iter().any(|(_, bytes)| is_claim(&Frame::decode_authenticated(bytes).unwrap()));
    assert!(lives.len() > 64 && has_claims);

    let (mut network, _) = ensemble(0);
    network.era = 1 << 20;
    for number in 1..=3 {
        network.start(config(number, Role::Auto), Fault::default());
    }
    let mut recorded = recorded.iter().cycle();
    let mut until_elected = |network: &mut Network, nodes: std::ops::Range<usize>, master: u64| {
        let start = network.now;
        while master_of(network, nodes.clone()) != Some(NodeId::new(master)) {
            let (from, bytes) = recorded.next().unwrap();
            nodes.clone().for_each(|to| network.inject(to, address(*from + 5), bytes));
            network.run_for(Span::from_millis(2));
            assert!(network.now - start < Span::from_secs(30), "nobody stands");
        }
        network.now - start
    };
    // 64 of them are waited for, 150 ms each.
    let first = until_elected(&mut network, 0..3, 3);
    assert!(first < Span::from_secs(11), "{first}");
    network.run_for(Span::from_secs(5));
    network.kill(2);
    // Whom the dead master has named waits for nobody else.
    let second = until_elected(&mut network, 0..2, 2);
    assert!(second < Span::from_secs(1), "{second}");
    println!("{first}, {second}");
}
