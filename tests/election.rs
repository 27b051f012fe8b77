//! Who becomes master, in virtual time: elections, successions, forgeries, and what they do to clocks (nothing).

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::net::SocketAddr;

use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::context::Event;
use berkeleyd::counters::DropReason;
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::protocol::{Announce, Claim, Frame, Header, Heartbeat, Join, Merit, Message, Refusal, Successors};
use berkeleyd::time::{Skew, Span};
use bytes::BytesMut;
use support::messages;
use support::network::{Fault, Network, group};

fn auto(number: u64) -> NodeConfig {
    NodeConfig { group: Some(group()), ..NodeConfig::new(NodeId::new(number), Role::Auto) }
}

fn millis(millis: i64) -> Span {
    Span::from_millis(millis)
}

/// Auto nodes 1, 2, ... that start at once, their clocks up to 40 ms and 40 ppm apart.
fn group_of(count: u64) -> Network {
    let mut network = Network::new();
    for number in 1..=count {
        let step = i64::try_from(number).unwrap();
        let fault = Fault { offset: millis(step * 5), drift: Skew::from_ppm(step * 5) };
        network.start(auto(number), fault);
    }
    network
}

/// The masters among these nodes.
fn masters(network: &Network, nodes: impl IntoIterator<Item = usize>) -> Vec<usize> {
    nodes.into_iter().filter(|index| network.members[*index].node.as_master().is_some()).collect()
}

/// Runs until one of these nodes is master, or fails; gives which.
fn elects(network: &mut Network, nodes: std::ops::Range<usize>, within: Span) -> usize {
    let deadline = network.now + within;
    while network.now < deadline {
        network.run_for(millis(1));
        if let [master] = *masters(network, nodes.clone()) {
            return master;
        }
    }
    panic!("masters after {within}: {:?}", masters(network, nodes));
}

fn frame(sender: u64, term: u64, message: Message<'_>) -> Vec<u8> {
    let header = Header {
        domain: Domain::new(0),
        round: Round::default(),
        term: Term::new(term),
        sender: NodeId::new(sender),
        incarnation: Incarnation::new(99),
    };
    let mut bytes = BytesMut::new();
    Frame { header, message }.encode(&mut bytes);
    bytes.to_vec()
}

fn claim(sender: u64, term: u64) -> Vec<u8> {
    let claim = Claim { priority: i32::MAX, merit: Merit::Appointed, is_handover: false };
    frame(sender, term, Message::Claim(claim))
}

fn stranger() -> SocketAddr {
    SocketAddr::from(([10, 9, 9, 9], 9))
}

#[test]
fn nine_nodes_that_start_at_once_elect_the_best_and_agree() {
    let mut network = group_of(9);
    let master = elects(&mut network, 0..9, millis(600));
    assert_eq!(master, 8, "of equals the highest number");
    network.run_until(millis(1_500));
    assert!(network.spread(0..9) < millis(1), "{}", network.spread(0..9));
    for member in &network.members {
        assert_eq!((member.node.master(), member.node.term()), (Some(NodeId::new(9)), Term::new(1)));
    }
}

#[test]
fn priority_comes_before_the_number_and_slaves_never_stand() {
    let mut network = Network::new();
    network.start(NodeConfig { priority: 5, ..auto(1) }, Fault::default());
    network.start(auto(2), Fault::default());
    network.start(NodeConfig { role: Role::Slave, priority: 99, ..auto(3) }, Fault::default());
    assert_eq!(elects(&mut network, 0..3, millis(600)), 0);
    network.run_for(Span::from_secs(2));
    network.kill(0);
    assert_eq!(elects(&mut network, 1..3, millis(600)), 1);
    network.run_for(Span::from_secs(2));
    network.kill(1);
    network.run_for(Span::from_secs(30));
    assert_eq!((masters(&network, [2]), network.members[2].node.master()), (vec![], None), "nobody is left who may");
}

#[test]
fn nodes_that_trickle_in_follow_the_first_whatever_their_priority() {
    let mut network = Network::new();
    for number in 1..=5 {
        network.start(NodeConfig { priority: i32::try_from(number).unwrap(), ..auto(number) }, Fault::default());
        network.run_for(millis(700));
    }
    network.run_for(Span::from_secs(3));
    assert_eq!((masters(&network, 0..5), network.members[4].node.term()), (vec![0], Term::new(1)));
}

#[test]
fn whoever_preempts_takes_over_from_a_lesser_priority_without_a_gap() {
    let mut network = group_of(3);
    network.run_until(Span::from_secs(5));
    let preferred = network.start(NodeConfig { priority: 7, preempt: true, ..auto(4) }, Fault::default());
    network.run_for(Span::from_secs(8));
    assert_eq!((masters(&network, 0..4), network.members[0].node.term()), (vec![preferred], Term::new(2)));
    let stepped_down = network.members[2].events.iter().any(|event| matches!(event, Event::SteppedDown { .. }));
    assert!(stepped_down, "the former master was asked");
    assert!(network.spread(0..4) < Span::from_micros(100), "{}", network.spread(0..4));
}

#[test]
fn an_appointed_master_wins_against_elected_ones_and_two_of_them_settle_it() {
    let mut network = group_of(3);
    network.run_until(Span::from_secs(5));
    let appointed = |number| NodeConfig { role: Role::Master, ..auto(number) };
    let first = network.start(appointed(4), Fault::default());
    network.run_for(Span::from_secs(4));
    assert_eq!(masters(&network, 0..4), [first]);
    let second = network.start(appointed(5), Fault::default());
    network.run_for(Span::from_secs(4));
    let settled = masters(&network, 0..5);
    assert_eq!(settled.len(), 1, "{settled:?}");
    let told =
        |index: usize| network.members[index].events.iter().any(|event| matches!(event, Event::OtherMaster { .. }));
    assert!(told(first) || told(second));
    // The other one steps in when this one dies.
    network.kill(settled[0]);
    let other = if settled[0] == first { second } else { first };
    network.run_for(Span::from_secs(4));
    let left: Vec<usize> = (0..5).filter(|index| *index != settled[0]).collect();
    assert_eq!(masters(&network, left), [other]);
}

/// The successor corrects the first node within this time after a death.
fn first_correction_after_death(network: &mut Network, nodes: std::ops::Range<usize>) -> Span {
    let died = network.now;
    let corrections = |network: &Network| {
        let of = |index: usize| {
            let events = network.members[index].events.iter();
            events.filter(|event| matches!(event, Event::Corrected { .. })).count()
        };
        nodes.clone().map(of).collect::<Vec<_>>()
    };
    let before = corrections(network);
    while corrections(network).iter().zip(&before).any(|(now, before)| now == before) {
        network.run_for(millis(1));
        assert!(network.now - died < Span::from_secs(5), "nobody corrects them");
    }
    network.now - died
}

#[test]
fn a_dead_master_is_replaced_within_half_a_second_and_no_clock_notices() {
    let mut network = group_of(9);
    network.run_until(Span::from_secs(30));
    let errors = |network: &Network| (0..8).map(|index| network.error(index)).collect::<Vec<_>>();
    let earlier = errors(&network);
    network.run_for(Span::from_secs(10));
    let before = errors(&network);
    let gained_per_second = (before[0] - earlier[0]).part(10);
    let rate = network.members[0].node.clock().rate();
    network.kill(8);
    let gap = first_correction_after_death(&mut network, 0..8);
    assert!(gap < millis(550), "{gap}");
    assert_eq!((masters(&network, 0..8), network.members[0].node.term()), (vec![7], Term::new(2)));
    for _ in 0..100 {
        network.run_for(millis(100));
        assert!(network.spread(0..8) < Span::from_micros(60), "{}", network.spread(0..8));
    }
    // Time goes on as it did.
    let since = network.now - Span::from_secs(40);
    for (index, before) in before.into_iter().enumerate() {
        let expected = Span::from_secs_f64(gained_per_second.as_secs_f64() * since.as_secs_f64());
        let moved = network.error(index) - before - expected;
        assert!(moved.abs() < Span::from_micros(60), "node {index} was moved by {moved}");
    }
    let changed = network.members[0].node.clock().rate() - rate;
    assert!(changed.abs() < Skew::from_ppm(3), "{changed}");
    let master = network.members[7].node.as_master().expect("the successor");
    assert!(master.members().all(|member| member.left_out().is_none()), "all have their vote");
}

/// Nobody is counted beside a reference, and yet the best of the others is named.
#[test]
fn a_reference_that_dies_is_replaced_as_quickly() {
    let mut network = Network::new();
    for number in 1..=5 {
        network.start(NodeConfig { is_reference: number == 5, ..auto(number) }, Fault::default());
    }
    network.run_until(Span::from_secs(10));
    assert_eq!(masters(&network, 0..5), [4]);
    network.kill(4);
    let gap = first_correction_after_death(&mut network, 0..4);
    assert!(gap < millis(550), "{gap}");
}

/// Rounds that are rare whatever the need, and joins that come later than the first of them was due.
#[test]
fn the_first_round_of_a_successor_waits_for_its_first_heir() {
    let mut network = Network::new();
    let minute = Span::from_secs(60);
    for number in 1..=3 {
        let config = NodeConfig { interval: minute, min_interval: minute, max_interval: minute, ..auto(number) };
        network.start(config, Fault::default());
    }
    network.run_until(Span::from_secs(2));
    network.fate = Box::new(|_, _, _, bytes| {
        let is_join = matches!(Frame::decode(bytes).unwrap().message, Message::Join(_));
        Some(if is_join { millis(70) } else { Span::from_micros(60) })
    });
    network.kill(2);
    let gap = first_correction_after_death(&mut network, 0..2);
    assert!(gap < millis(700), "{gap}");
}

#[test]
fn only_the_first_in_line_claims() {
    let claims = |network: &Network| -> Vec<usize> {
        let of = |index: &usize| {
            network.members[*index]
                .events
                .iter()
                .any(|event| matches!(event, Event::Claimed { term } if term.get() == 2))
        };
        (0..5).filter(of).collect()
    };
    let mut network = group_of(5);
    network.run_until(Span::from_secs(5));
    network.kill(4);
    network.run_for(Span::from_secs(2));
    assert_eq!((claims(&network), masters(&network, 0..4)), (vec![3], vec![3]));
    // When that one dies, too, the next: it has waited for the first.
    let mut network = group_of(5);
    network.run_until(Span::from_secs(5));
    network.kill(4);
    network.kill(3);
    network.run_for(Span::from_secs(2));
    assert_eq!((claims(&network), masters(&network, 0..3)), (vec![2], vec![2]));
}

#[test]
fn a_master_that_stops_hands_over_at_once() {
    let mut network = group_of(9);
    network.run_until(Span::from_secs(10));
    network.shut_down(8);
    let gap = first_correction_after_death(&mut network, 0..8);
    assert!(gap < millis(100), "{gap}");
    assert_eq!((masters(&network, 0..8), network.members[0].node.term()), (vec![7], Term::new(2)));
}

#[test]
fn two_nodes_are_enough_and_the_survivor_goes_on() {
    let mut network = group_of(2);
    network.run_until(Span::from_secs(3));
    network.kill(1);
    assert_eq!(elects(&mut network, 0..1, millis(600)), 0);
    network.restart(1, Span::from_secs(3));
    network.run_for(Span::from_secs(3));
    assert_eq!(masters(&network, 0..2), [0], "a newcomer deposes nobody");
    assert!(network.spread(0..2) < millis(1));
}

#[test]
fn a_master_below_its_quorum_corrects_nobody_and_says_so() {
    let mut network = Network::new();
    for number in 1..=5 {
        let config = NodeConfig { quorum: 3, ..auto(number) };
        network.start(config, Fault { offset: Span::ZERO, drift: Skew::from_ppm(i64::try_from(number).unwrap() * 10) });
    }
    network.run_until(Span::from_secs(10));
    // The master and one more on one side, three on the other.
    let side = |index: usize| index >= 3;
    network.fate = Box::new(move |_, from, to, _| (side(from) == side(to)).then_some(Span::from_micros(60)));
    network.run_for(Span::from_secs(5));
    assert_eq!(masters(&network, 0..3).len(), 1);
    let adjustments = |network: &Network| [3, 4].map(|index: usize| network.members[index].node.clock().adjustment());
    let before = adjustments(&network);
    network.run_for(Span::from_secs(10));
    assert_eq!(adjustments(&network), before, "holdover");
    let is_told = |event: &Event| matches!(event, Event::Quorum { is_reached: false, heard: 2 });
    assert!(network.members[4].events.iter().any(is_told));
    network.fate = Box::new(|_, _, _, _| Some(Span::from_micros(60)));
    network.run_for(Span::from_secs(10));
    assert_eq!(masters(&network, 0..5).len(), 1);
    assert!(network.spread(0..5) < millis(1), "{}", network.spread(0..5));
}

#[test]
fn two_sides_become_one_and_nobody_steps() {
    let mut network = group_of(6);
    network.run_until(Span::from_secs(10));
    network.fate = Box::new(|_, from, to, _| ((from < 3) == (to < 3)).then_some(Span::from_micros(60)));
    network.run_for(Span::from_secs(30));
    assert_eq!((masters(&network, 0..3).len(), masters(&network, 3..6).len()), (1, 1));
    network.fate = Box::new(|_, _, _, _| Some(Span::from_micros(60)));
    network.run_for(Span::from_secs(2));
    assert_eq!(masters(&network, 0..6), [2], "the newer mastership goes on");
    network.run_for(Span::from_secs(10));
    assert!(network.spread(0..6) < Span::from_micros(100), "{}", network.spread(0..6));
    for member in &network.members {
        let is_step =
            |event: &&Event| matches!(event, Event::Corrected { applied: berkeleyd::clock::Applied::Stepped(_), .. });
        assert_eq!(member.events.iter().filter(is_step).count(), 1, "one step, at the start");
    }
}

#[test]
fn a_node_that_was_alone_deposes_nobody_although_its_term_is_higher() {
    let mut network = group_of(5);
    network.run_until(Span::from_secs(10));
    network.fate = Box::new(|_, from, to, _| ((from == 0) == (to == 0)).then_some(Span::from_micros(60)));
    network.run_for(Span::from_secs(10));
    assert_eq!(masters(&network, 0..5), [0, 4]);
    assert!(network.members[0].node.term() > network.members[4].node.term());
    network.fate = Box::new(|_, _, _, _| Some(Span::from_micros(60)));
    network.run_for(Span::from_secs(1));
    assert_eq!(masters(&network, 0..5), [4]);
}

#[test]
fn a_node_that_does_not_hear_the_master_is_refused_and_terms_stay() {
    let mut network = group_of(5);
    network.run_until(Span::from_secs(5));
    // Only the way from the master to node 1 is cut, for a minute.
    network.fate = Box::new(|_, from, to, _| ((from, to) != (4, 0)).then_some(Span::from_micros(60)));
    network.run_for(Span::from_secs(60));
    assert_eq!(masters(&network, 0..5), [4]);
    assert!(network.members.iter().all(|member| member.node.term() == Term::new(1)));
    let claims = network.members[0].events.iter().filter(|event| matches!(event, Event::Claimed { .. })).count();
    assert!((10..60).contains(&claims), "it asks now and then: {claims}");
}

/// Refusals take 120 ms, longer than the window of a claim.
#[test]
fn who_was_refused_too_late_steps_down_and_waits_longer_the_next_time() {
    let mut network = group_of(5);
    network.fate = Box::new(|_, _, _, _| Some(millis(60)));
    network.run_until(Span::from_secs(10));
    let master = elects(&mut network, 0..5, millis(1));
    let term = network.members[0].node.term();
    network.fate = Box::new(move |_, from, to, _| ((from, to) != (master, 0)).then_some(millis(60)));
    network.run_for(Span::from_secs(60));
    assert_eq!(masters(&network, 0..5), [master]);
    let taken = network.members[0].events.iter().filter(|event| matches!(event, Event::TermTaken { .. })).count();
    assert_eq!(taken, 1, "it won once");
    let now = network.members[1].node.term();
    // And its master the term after that.
    assert!(now.get() <= term.get() + 2, "from {term} to {now}");
    // It follows the others' master as soon as it hears it.
    network.fate = Box::new(|_, _, _, _| Some(millis(60)));
    network.run_for(Span::from_secs(3));
    assert_eq!(network.members[0].node.master(), network.members[1].node.master());
}

#[test]
fn a_late_refusal_deposes_no_master_that_is_followed() {
    let mut network = group_of(4);
    network.run_until(Span::from_secs(5));
    network.kill(3);
    let master = elects(&mut network, 0..3, millis(600));
    network.run_for(millis(100));
    let refusal = frame(1, 1, Message::Refusal(Refusal { master: Some(NodeId::new(4)) }));
    network.inject(master, stranger(), &refusal);
    assert_eq!(masters(&network, 0..3), [master]);
}

/// The slave of a group of two that is deaf in one direction cannot be corrected by anybody: nothing is gained by changing places.
#[test]
fn a_deaf_master_of_one_slave_stays_and_the_bounds_tell() {
    let mut network = group_of(2);
    network.run_until(Span::from_secs(10));
    let (bound, adjustments) = {
        let clock = network.members[0].node.clock();
        (clock.error_bound(network.members[0].local(network.now)), clock.adjustment())
    };
    network.fate = Box::new(|_, _, to, _| (to != 1).then_some(Span::from_micros(60)));
    network.run_for(Span::from_secs(120));
    assert_eq!((masters(&network, 0..2), network.members[0].node.term()), (vec![1], Term::new(1)));
    let slave = &network.members[0];
    let grown = slave.node.clock().error_bound(slave.local(network.now));
    assert!(slave.node.clock().adjustment() <= adjustments + 1, "nobody measures it");
    assert!(grown > bound && network.spread(0..2) < grown, "{} of {grown}", network.spread(0..2));
    network.fate = Box::new(|_, _, _, _| Some(Span::from_micros(60)));
    network.run_for(Span::from_secs(5));
    assert_eq!((masters(&network, 0..2), network.members[0].node.term()), (vec![1], Term::new(1)));
    assert!(network.spread(0..2) < Span::from_micros(100), "{}", network.spread(0..2));
}

#[test]
fn a_deaf_node_moves_nobody() {
    let mut network = group_of(5);
    network.run_until(Span::from_secs(5));
    network.fate = Box::new(|_, _, to, _| (to != 0).then_some(Span::from_micros(60)));
    network.run_for(Span::from_secs(60));
    let term = network.members[4].node.term();
    assert_eq!(masters(&network, 1..5), [4], "whatever the deaf one takes itself for");
    assert!(network.spread(1..5) < Span::from_micros(100), "{}", network.spread(1..5));
    network.run_for(Span::from_secs(60));
    assert_eq!(network.members[4].node.term(), term, "and it does not flap");
    network.fate = Box::new(|_, _, _, _| Some(Span::from_micros(60)));
    network.run_for(Span::from_secs(3));
    assert_eq!(masters(&network, 0..5), [4]);
}

#[test]
fn a_deaf_master_makes_room_and_does_not_come_back_while_it_is_deaf() {
    let mut network = group_of(5);
    network.run_until(Span::from_secs(5));
    network.fate = Box::new(|_, _, to, _| (to != 4).then_some(Span::from_micros(60)));
    network.run_for(Span::from_secs(15));
    assert_eq!(masters(&network, 0..4), [3]);
    let term = network.members[3].node.term();
    network.run_for(Span::from_secs(60));
    assert_eq!((masters(&network, 0..4), network.members[0].node.master()), (vec![3], Some(NodeId::new(4))));
    assert!(network.members[3].node.term().get() <= term.get() + 1, "no flapping: {}", network.members[3].node.term());
    network.fate = Box::new(|_, _, _, _| Some(Span::from_micros(60)));
    network.run_for(Span::from_secs(3));
    assert_eq!(masters(&network, 0..5).len(), 1);
}

#[test]
fn a_master_that_was_stopped_steps_down_before_it_moves_a_clock() {
    let mut network = group_of(5);
    network.run_until(Span::from_secs(10));
    network.pause(4);
    network.run_for(Span::from_secs(60));
    assert_eq!(masters(&network, 0..4), [3]);
    let adjustment = network.members[4].node.clock().adjustment();
    let rounds = network.members[4].events.iter().filter(|event| matches!(event, Event::Averaged { .. })).count();
    network.wake(4);
    assert_eq!(masters(&network, 0..5), [3], "the first thing it does");
    assert_eq!(network.members[4].node.clock().adjustment(), adjustment);
    network.run_for(Span::from_secs(3));
    assert_eq!(network.members[4].node.master(), Some(NodeId::new(4)));
    let after = network.members[4].events.iter().filter(|event| matches!(event, Event::Averaged { .. })).count();
    assert_eq!(after, rounds, "it averaged nothing more");
    assert!(network.spread(0..5) < millis(1), "{}", network.spread(0..5));
}

#[test]
fn a_successor_that_was_stopped_has_not_won() {
    let mut network = group_of(3);
    network.run_until(Span::from_secs(5));
    network.kill(2);
    while !network.members[1].node.is_candidate() {
        network.run_for(millis(1));
    }
    network.pause(1);
    network.run_for(Span::from_secs(10));
    assert_eq!(masters(&network, 0..2), [0]);
    network.wake(1);
    network.run_for(millis(200));
    assert_eq!((masters(&network, 0..2), network.members[1].node.master()), (vec![0], Some(NodeId::new(1))));
}

#[test]
fn a_clock_of_1986_stands_only_when_nobody_else_does_and_corrects_nobody() {
    let forty_years = Span::from_secs(-40 * 365 * 86_400);
    let wrong = Fault { offset: forty_years, drift: Skew::ZERO };
    let mut network = Network::new();
    let lost = network.start(NodeConfig { priority: 100, ..auto(9) }, wrong);
    network.run_for(millis(600));
    network.start(auto(1), Fault::default());
    network.start(auto(2), Fault::default());
    network.run_for(Span::from_secs(4));
    assert_eq!(masters(&network, 0..3).len(), 1);
    assert!(network.error(1).abs() < millis(1) && network.error(lost).abs() < millis(1), "{}", network.error(lost));
    // Alone it becomes master of itself, and follows those who come.
    let mut alone = Network::new();
    alone.start(auto(9), wrong);
    elects(&mut alone, 0..1, Span::from_secs(2));
    alone.start(auto(1), Fault::default());
    alone.start(auto(2), Fault::default());
    alone.run_for(Span::from_secs(4));
    assert!(alone.error(0).abs() < millis(1), "{}", alone.error(0));
    // Where there are only two, whoever is master of the other.
    for is_first in [true, false] {
        let mut two = Network::new();
        let (first, second) = if is_first { (wrong, Fault::default()) } else { (Fault::default(), wrong) };
        let master = two.start(auto(9), first);
        elects(&mut two, 0..1, Span::from_secs(2));
        let other = two.start(auto(1), second);
        two.run_for(Span::from_secs(4));
        for node in [master, other] {
            assert!(two.error(node).abs() < millis(1), "node {node}: {}", two.error(node));
        }
    }
}

/// It has the highest priority and dies and comes back, again and again, as the only one that could succeed the master.
#[test]
fn a_clock_of_1986_that_is_the_only_successor_corrects_nobody() {
    let forty_years = Span::from_secs(-40 * 365 * 86_400);
    let mut network = Network::new();
    let right = network.start(auto(1), Fault::default());
    network.run_for(Span::from_secs(2));
    let lost = network.start(NodeConfig { priority: 100, ..auto(9) }, Fault { offset: forty_years, drift: Skew::ZERO });
    let slave = network.start(NodeConfig { role: Role::Slave, ..auto(5) }, Fault::default());
    // From the first request of its burst to long after its first correction.
    for patience in [millis(1), millis(50), millis(200), millis(400), millis(1_000), millis(5_000)] {
        network.run_for(patience);
        network.kill(right);
        network.run_for(Span::from_secs(4));
        assert!(network.error(slave).abs() < millis(1), "after {patience}: {}", network.error(slave));
        network.restart(right, Span::ZERO);
        network.run_for(Span::from_secs(4));
        for node in [right, slave, lost] {
            assert!(network.error(node).abs() < millis(1), "node {node} after {patience}: {}", network.error(node));
        }
        network.restart(lost, forty_years);
    }
}

#[test]
fn forged_claims_depose_nobody_and_are_answered_once() {
    let mut network = group_of(4);
    network.run_until(Span::from_secs(5));
    let sent = network.sent;
    for index in 0..4 {
        for number in 0..200 {
            network.inject(index, stranger(), &claim(70 + number, 2));
        }
        network.inject(index, stranger(), &claim(70, Term::LIMIT.get()));
        network.inject(index, stranger(), &frame(71, Term::LIMIT.get(), Message::Refusal(Refusal { master: None })));
    }
    assert!(network.sent - sent <= 4, "one refusal each in an instant: {}", network.sent - sent);
    assert!(network.members[0].node.counters().dropped(DropReason::VainClaim) > 200);
    network.run_for(Span::from_secs(5));
    assert_eq!((masters(&network, 0..4), network.members[0].node.term()), (vec![3], Term::new(1)));
}

#[test]
fn a_flood_of_claims_after_the_masters_death_keeps_nobody_from_standing() {
    let mut network = group_of(4);
    network.run_until(Span::from_secs(5));
    network.kill(3);
    for round in 0..300 {
        for index in 0..3 {
            network.inject(index, stranger(), &claim(500 + round, 2));
        }
        network.run_for(millis(10));
    }
    assert_eq!(masters(&network, 0..3).len(), 1);
}

#[test]
fn terms_leap_no_further_than_they_may() {
    let announce = |term| {
        let announce = Announce {
            interval: Span::from_secs(1),
            priority: 100,
            merit: Merit::Appointed,
            heartbeat: Heartbeat::SHORTEST,
            members: 50,
            successors: Successors::new((900..910).map(NodeId::new)),
        };
        frame(900, term, Message::Announce(announce))
    };
    let mut network = group_of(4);
    network.run_until(Span::from_secs(5));
    for index in 0..4 {
        network.inject(index, stranger(), &announce(Term::LIMIT.get()));
        // And one that seems better than the master, but answers nobody.
        network.inject(index, stranger(), &announce(1_000));
    }
    network.run_for(Span::from_secs(3));
    assert_eq!((masters(&network, 0..4), network.members[0].node.term()), (vec![3], Term::new(1)));
    // Nobody tells the master of a term that high, nor a node that knows nothing.
    let leap = Term::default().get() + (1 << 16) + 2;
    let join = Join { master: Some((NodeId::new(900), Incarnation::new(99))), ..messages::join() };
    network.inject(3, stranger(), &frame(901, leap, Message::Join(join)));
    let newcomer = network.start(auto(50), Fault::default());
    network.inject(newcomer, stranger(), &announce(leap));
    let out_of_range = |index: usize| network.members[index].node.counters().dropped(DropReason::OutOfRange);
    assert_eq!([3, newcomer].map(out_of_range), [1; 2]);
    assert_eq!((network.members[3].node.term(), network.members[newcomer].node.master()), (Term::new(1), None));
    // A lower one is believed, and found again: the master takes the term above.
    network.inject(newcomer, stranger(), &announce(60_000));
    network.run_for(Span::from_secs(5));
    let term = network.members[newcomer].node.term();
    assert_eq!((network.members[newcomer].node.master(), masters(&network, 0..4)), (Some(NodeId::new(4)), vec![3]));
    assert!(term.get() <= 60_010, "{term}");
}

#[test]
fn a_successor_list_of_strangers_only_takes_longer() {
    let mut network = group_of(3);
    network.run_until(Span::from_secs(5));
    network.tamper = Box::new(|_, _, message| {
        if let Message::Announce(announce) = message {
            announce.successors = Successors::new((900..910).map(NodeId::new));
        }
    });
    network.run_for(Span::from_secs(2));
    network.kill(2);
    elects(&mut network, 0..2, Span::from_secs(3));
}

#[test]
fn a_slower_heartbeat_asks_for_more_patience() {
    let mut network = group_of(3);
    network.tamper = Box::new(|_, _, message| {
        if let Message::Announce(announce) = message {
            announce.heartbeat = Heartbeat::LONGEST;
        }
    });
    network.run_until(Span::from_secs(5));
    network.kill(2);
    network.run_for(millis(3_400));
    let claims = |network: &Network, index: usize| {
        network.members[index].events.iter().filter(|event| matches!(event, Event::Claimed { .. })).count()
    };
    assert_eq!((claims(&network, 0), claims(&network, 1)), (0, 0), "it may still be there");
    assert_eq!(elects(&mut network, 0..2, millis(200)), 1);
}

#[test]
fn a_large_group_is_not_woken_ten_times_a_second_by_each_heartbeat() {
    let mut network = group_of(150);
    network.run_until(Span::from_secs(30));
    let master = elects(&mut network, 0..150, millis(1));
    let announces = |network: &Network| {
        let sent = network.members[master].node.counters().sent();
        sent.filter(|(name, _)| *name == "announce").map(|(_, n)| n).sum::<u64>()
    };
    let before = announces(&network);
    network.run_for(Span::from_secs(3));
    // One each 300 ms, and one more at the begin of a round, which is a second long by now.
    let announced = announces(&network) - before;
    assert!((10..=13).contains(&announced), "{announced}");
    network.kill(master);
    elects(&mut network, 0..149, millis(1_400));
}

#[test]
fn a_settled_group_speaks_of_mastership_once_a_heartbeat() {
    let count = |nodes: u64| {
        let mut network = group_of(nodes);
        network.run_until(Span::from_secs(30));
        let talk = |network: &Network| -> u64 {
            let of = |member: &support::network::Member| {
                let sent = member.node.counters().sent();
                sent.filter(|(name, _)| matches!(*name, "announce" | "claim" | "refusal" | "join"))
                    .map(|(_, n)| n)
                    .sum::<u64>()
            };
            network.members.iter().map(of).sum()
        };
        let before = talk(&network);
        network.run_for(Span::from_secs(10));
        talk(&network) - before
    };
    assert!(count(3) <= 101 && count(20) <= 101, "{} and {}", count(3), count(20));
}
