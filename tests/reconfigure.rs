//! Settings that change in a running ensemble, in virtual time: they hold at once, and neither clocks nor lives nor terms notice, unless
//! that is what the setting is for.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use berkeleyd::average::Average;
use berkeleyd::config::{NodeConfig, Role, Who};
use berkeleyd::context::Event;
use berkeleyd::counters::FRAME_NAMES;
use berkeleyd::identity::{Domain, Incarnation, NodeId, Term};
use berkeleyd::time::{LocalTime, Skew, Span, Time};
use support::network::{Fault, Network, address, group};

const STEP: Span = Span::from_millis(5);

fn config(number: u64, role: Role) -> NodeConfig {
    NodeConfig { group: Some(group()), ..NodeConfig::new(NodeId::new(number), role) }
}

/// Nodes that have agreed: the first is master, or all elect one.
fn settled(roles: &[Role]) -> Network {
    let mut network = Network::new();
    for (number, role) in (1..).zip(roles) {
        let step = i64::try_from(number).unwrap();
        let fault = Fault { offset: Span::from_millis(step * 5), drift: Skew::from_ppm(step * 7) };
        network.start(config(number, *role), fault);
    }
    network.run_until(Span::from_secs(20));
    network
}

fn master_and_slaves() -> Network {
    settled(&[Role::Master, Role::Slave, Role::Slave])
}

/// Runs, and asserts what no change of settings may touch: clocks go on without a jump and no faster than their slew and drifts explain,
/// they stay within each other's bounds, terms do not go down and nobody begins a new life.
fn run(network: &mut Network, span: Span) {
    let end = network.now + span;
    let view = |network: &Network| -> Vec<(Span, Incarnation, Term)> {
        let of = |(index, member): (usize, &support::network::Member)| {
            (network.error(index), member.node.incarnation(), member.node.term())
        };
        network.members.iter().enumerate().map(of).collect()
    };
    let mut before = view(network);
    while network.now < end {
        network.run_for(STEP);
        let after = view(network);
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            let moved = after.0 - before.0;
            let max_slew = network.members[index].node.config().policy.max_slew;
            let fastest = (max_slew + Skew::from_ppm(30)).over(STEP) + Span::from_nanos(100);
            assert!(moved.abs() <= fastest, "node {index} moved by {moved} in {STEP} at {}", network.now);
            assert_eq!(before.1, after.1, "node {index} lives on");
            assert!(before.2 <= after.2, "node {index}: terms do not go down");
        }
        let bound = |index: usize| {
            let member = &network.members[index];
            member.node.clock().error_bound(member.local(network.now))
        };
        for (one, other) in (0..network.members.len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
            let apart = network.spread([one, other]);
            let allowed = bound(one) + bound(other);
            assert!(apart <= allowed, "nodes {one} and {other} are {apart} apart at {}, {allowed} stated", network.now);
        }
        before = after;
    }
}

fn round(network: &Network) -> u32 {
    network.members[0].node.round().get()
}

fn sent(network: &Network, index: usize, kind: &str) -> u64 {
    network.members[index].node.counters().sent().find(|(name, _)| *name == kind).unwrap().1
}

fn told(network: &Network, index: usize, is_it: impl Fn(&Event) -> bool) -> usize {
    network.members[index].events.iter().filter(|event| is_it(event)).count()
}

#[test]
fn the_interval_changes_and_nobody_takes_itself_for_forgotten() {
    let mut network = master_and_slaves();
    let joins = |network: &Network| (1..3).map(|index| sent(network, index, "join")).sum::<u64>();
    let mut so_far = joins(&network);
    for (interval, expected) in [(100, 90..=102), (5_000, 1..=4), (1_000, 8..=12), (64_000, 0..=1), (100, 90..=102)] {
        let interval = Span::from_millis(interval);
        network.reconfigure(0, |config| {
            (config.min_interval, config.interval, config.max_interval) = (interval, interval, interval);
        });
        let before = round(&network);
        run(&mut network, Span::from_secs(10));
        let rounds = round(&network) - before;
        assert!(expected.contains(&rounds), "{rounds} rounds in 10 s at one in {interval}");
        assert_eq!(joins(&network), so_far, "at one in {interval}");
        so_far = joins(&network);
    }
    assert_eq!(told(&network, 1, |event| matches!(event, Event::MasterLost { .. })), 0);
    assert!(network.spread(0..3) < Span::from_micros(50), "{}", network.spread(0..3));
    assert_eq!(network.members[0].node.term(), Term::new(1));
}

#[test]
fn a_slave_that_is_slewing_goes_on_at_the_new_rate_without_a_jump() {
    let mut network = master_and_slaves();
    // An oscillator that leaps: 20 ms are 40 s of slewing at 500 ppm.
    network.jump(1, Span::from_millis(20));
    network.run_for(Span::from_secs(4));
    let before = network.slew(1);
    assert!(before.abs() > Span::from_millis(15), "{before}");
    let ppm = |network: &mut Network, ppm| {
        network.reconfigure(1, |config| config.policy.max_slew = Skew::from_ppm(ppm));
    };
    ppm(&mut network, 100);
    assert!((network.slew(1) - before).abs() < Span::from_nanos(2), "{} and {before}", network.slew(1));
    run(&mut network, Span::from_secs(10));
    let slower = before.abs() - network.slew(1).abs();
    assert!((slower - Span::from_millis(1)).abs() < Span::from_micros(50), "{slower} in 10 s at 100 ppm");
    ppm(&mut network, 5_000);
    run(&mut network, Span::from_secs(5));
    assert_eq!(network.slew(1).max(Span::from_micros(20)), Span::from_micros(20), "it has arrived");
    // With the next correction, and not before, a step may be allowed.
    network.reconfigure(1, |config| {
        (config.policy.allow_step, config.policy.step_threshold) = (true, Span::from_millis(1));
    });
    run(&mut network, Span::from_secs(5));
}

#[test]
fn gamma_decides_at_once_who_is_synchronised_and_back() {
    let mut network = master_and_slaves();
    let synchronised = |network: &Network| {
        let is = |member: &support::network::Member| member.node.is_synchronised(member.local(network.now));
        network.members.iter().filter(|member| is(member)).count()
    };
    assert_eq!(synchronised(&network), 3);
    for gamma in [Span::from_nanos(10), Span::from_secs(1), Span::from_micros(1), Span::from_millis(20)] {
        (0..3).for_each(|index| network.reconfigure(index, |config| config.gamma = gamma));
        let expected = if gamma < Span::from_micros(5) { 0..=1 } else { 3..=3 };
        assert!(expected.contains(&synchronised(&network)), "{} with {gamma}", synchronised(&network));
        run(&mut network, Span::from_secs(5));
    }
    assert_eq!(synchronised(&network), 3);
}

#[test]
fn a_priority_that_is_raised_with_preempt_moves_the_mastership_once_and_no_clock() {
    let mut network = settled(&[Role::Auto; 3]);
    let masters = |network: &Network| -> Vec<usize> {
        (0..3).filter(|index| network.members[*index].node.as_master().is_some()).collect()
    };
    assert_eq!(masters(&network), [2]);
    network.reconfigure(0, |config| config.priority = 7);
    run(&mut network, Span::from_secs(10));
    let first = |network: &Network| network.members[2].node.as_master().unwrap().successors().iter().next();
    assert_eq!((masters(&network), first(&network)), (vec![2], Some(NodeId::new(1))), "it is the next in line");
    network.reconfigure(0, |config| config.preempt = true);
    run(&mut network, Span::from_secs(10));
    assert_eq!((masters(&network), network.members[1].node.term()), (vec![0], Term::new(2)));
    // A master of the lowest priority goes on: nobody else preempts.
    network.reconfigure(0, |config| config.priority = -7);
    run(&mut network, Span::from_secs(10));
    assert_eq!((masters(&network), network.members[1].node.term()), (vec![0], Term::new(2)));
}

#[test]
fn the_successors_learn_of_a_priority_although_the_first_word_of_it_is_lost() {
    let mut network = settled(&[Role::Auto; 3]);
    let mut is_lost = false;
    network.fate = Box::new(move |_, from, _, bytes| {
        let is_first =
            from == 0 && FRAME_NAMES[usize::from(bytes[3]) - 1] == "join" && !std::mem::replace(&mut is_lost, true);
        (!is_first).then_some(Span::from_micros(50))
    });
    // Just after a round, so that no request comes by chance.
    let before = network.members[2].node.round();
    while network.members[2].node.round() == before {
        network.run_for(Span::from_millis(1));
    }
    network.run_for(Span::from_millis(100));
    network.reconfigure(0, |config| config.priority = 7);
    network.run_for(Span::from_secs(2));
    assert_eq!(network.members[2].node.as_master().unwrap().successors().iter().next(), Some(NodeId::new(1)));
}

#[test]
fn a_quorum_that_is_raised_stops_the_corrections_until_it_is_lowered() {
    let mut network = master_and_slaves();
    let adjustments = |network: &Network| network.members[1].node.clock().adjustment();
    let quorum = |network: &Network, wanted| {
        told(network, 0, |event| matches!(event, Event::Quorum { is_reached, .. } if *is_reached == wanted))
    };
    network.reconfigure(0, |config| config.quorum = 4);
    run(&mut network, Span::from_secs(2));
    let before = adjustments(&network);
    run(&mut network, Span::from_secs(10));
    assert_eq!((adjustments(&network), quorum(&network, false), quorum(&network, true)), (before, 1, 0));
    network.reconfigure(0, |config| config.quorum = 3);
    run(&mut network, Span::from_secs(5));
    assert!(adjustments(&network) > before);
    assert_eq!((quorum(&network, false), quorum(&network, true)), (1, 1));
}

#[test]
fn an_asymmetry_that_is_measured_later_moves_what_was_learned_and_looks_like_no_jump() {
    let mut network = Network::new();
    // Requests to the slave take 300 µs longer than its responses: it seems to be 150 µs ahead.
    network.fate = Box::new(|_, from, _, _| Some(Span::from_micros(if from == 0 { 350 } else { 50 })));
    network.start(config(1, Role::Master), Fault::default());
    network.start(config(2, Role::Slave), Fault { drift: Skew::from_ppm(7), ..Fault::default() });
    network.run_until(Span::from_secs(20));
    let wrong = network.error(1) - network.error(0);
    assert!((wrong + Span::from_micros(150)).abs() < Span::from_micros(20), "{wrong}");
    let measured = |network: &mut Network, asymmetry| {
        network.reconfigure(0, |config| config.delay_asymmetries = vec![(Who::Node(NodeId::new(2)), asymmetry)]);
    };
    // A slip of the finger takes the clock 1.5 ms away, which no bound can know; and back. (The slave would not believe 5 ms: it has seen its master.)
    measured(&mut network, Span::from_millis(3));
    network.run_for(Span::from_secs(20));
    let wrong = network.error(1) - network.error(0);
    assert!(wrong.abs() > Span::from_millis(1), "it is believed, but for {wrong}");
    measured(&mut network, Span::from_micros(300));
    network.run_for(Span::from_secs(3));
    let target = |index| network.error(index) + network.slew(index);
    let aim = target(1) - target(0);
    assert!(aim.abs() < Span::from_micros(20), "it knows at once where to go back to, but for {aim}");
    network.run_for(Span::from_secs(17));
    run(&mut network, Span::from_secs(10));
    let wrong = network.error(1) - network.error(0);
    assert!(wrong.abs() < Span::from_micros(20), "{wrong} are left");
    assert_eq!(told(&network, 0, |event| matches!(event, Event::LocalClockJumped { .. })), 0);
}

#[test]
fn weights_averages_and_the_limit_of_slaves_hold_from_the_next_round_on() {
    let mut network = master_and_slaves();
    let offset = |network: &Network| network.error(2) - network.error(1);
    assert!(offset(&network).abs() < Span::from_micros(100));
    network.reconfigure(0, |config| {
        config.max_slaves = 2;
        config.average = Average::Weighted;
        config.weights = vec![(Who::Node(NodeId::new(2)), NonZeroU32::new(9).unwrap())];
    });
    let member = network.members[0].node.as_master().unwrap().members().next().unwrap().weight;
    assert_eq!(member, NonZeroU32::new(9));
    let newcomer = network.start(config(4, Role::Slave), Fault::default());
    run_without(&mut network, newcomer, Span::from_secs(5));
    assert!(told(&network, 0, |event| matches!(event, Event::TableFull { .. })) > 0);
    network.reconfigure(0, |config| config.max_slaves = 3);
    network.run_for(Span::from_secs(40));
    assert_eq!(network.members[newcomer].node.master(), Some(NodeId::new(1)));
    assert_eq!(network.members[0].node.as_master().unwrap().members().count(), 3);
}

/// Runs while a newcomer's clock is nobody's business.
fn run_without(network: &mut Network, newcomer: usize, span: Span) {
    let terms: BTreeSet<Term> = network.members.iter().take(newcomer).map(|member| member.node.term()).collect();
    network.run_for(span);
    let after: BTreeSet<Term> = network.members.iter().take(newcomer).map(|member| member.node.term()).collect();
    assert_eq!(terms, after);
}

#[test]
fn a_peer_that_is_added_joins_and_one_that_is_taken_away_is_not_heard_any_more() {
    let mut network = Network::new();
    let unicast = |number, role, peers: &[usize]| NodeConfig {
        group: None,
        peers: peers.iter().copied().map(address).collect(),
        ..NodeConfig::new(NodeId::new(number), role)
    };
    network.start(unicast(1, Role::Master, &[1]), Fault::default());
    network.start(unicast(2, Role::Slave, &[0]), Fault::default());
    network.start(unicast(3, Role::Slave, &[0]), Fault { offset: Span::from_millis(30), ..Fault::default() });
    network.run_until(Span::from_secs(10));
    assert_eq!(network.members[2].node.master(), None);
    network.reconfigure(0, |config| config.peers = vec![address(2)]);
    network.run_for(Span::from_secs(20));
    assert_eq!(network.members[2].node.master(), Some(NodeId::new(1)));
    assert!(network.spread([0, 2]) < Span::from_millis(1), "{}", network.spread([0, 2]));
    assert_eq!(network.members[1].node.master(), None, "nobody speaks to it any more");
    let members: Vec<_> = network.members[0]
        .node
        .as_master()
        .unwrap()
        .members()
        .filter(|m| !m.is_silent())
        .map(|m| m.peer.node)
        .collect();
    assert_eq!(members, [NodeId::new(3)]);
}

#[test]
fn what_another_life_would_take_stays_as_it_was() {
    let own = NodeConfig { peers: vec![address(1)], group: None, ..config(1, Role::Auto) };
    let wanted = NodeConfig {
        node_id: NodeId::new(9),
        domain: Domain::new(7),
        upper: Some(Domain::new(3)),
        role: Role::Slave,
        group: Some(group()),
        peers: Vec::new(),
        lie: Span::from_secs(1),
        ..own.clone()
    };
    assert_eq!(own.renewed(&wanted), own, "without a group somebody has to be left to speak to");
    let mut node =
        berkeleyd::node::Node::new(own.clone(), Incarnation::new(5), LocalTime::default(), Time::default(), Skew::ZERO);
    node.reconfigure(&NodeConfig { gamma: Span::from_micros(1), ..wanted }, LocalTime::default());
    assert_eq!(*node.config(), NodeConfig { gamma: Span::from_micros(1), ..own });
}
