//! Who is master among real processes on 127.0.0.1: elected, killed, stopped, continued, told by address, and lied to.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration as StdDuration;

use berkeleyd::counters::DropReason;
use berkeleyd::identity::{NodeId, Term};
use berkeleyd::protocol::{Announce, Claim, Merit, Message, Refusal, Successors};
use berkeleyd::status::{RoleName, Status};
use berkeleyd::time::{Skew, Span};
use nix::sys::signal::Signal;
use support::actor::Actor;
use support::lab::{CLOSE, Course, Daemon, Lab, agreed_master, ahead, free_port, spread};
use support::messages;

#[test]
fn nodes_without_configuration_elect_a_master_and_the_next_ones() {
    let lab = Lab::new();
    let mut nodes: Vec<Daemon> = (1..=5)
        .map(|number| lab.join(&format!("node{number}"), &format!("--node-id {number} --inject-offset {number}ms")))
        .collect();
    let first = lab.until("one is master", || agreed_master(&nodes.iter().collect::<Vec<_>>()));
    lab.agree(&nodes.iter().collect::<Vec<_>>());
    let place = |nodes: &[Daemon], number: u64| {
        nodes.iter().position(|node| node.name == format!("node{number}")).expect("one of them")
    };
    lab.until("it knows who takes over", || {
        let peers = nodes[place(&nodes, first)].status().peers;
        (peers.len() == 4 && peers.iter().all(|peer| peer.counted)).then_some(())
    });

    // Without a word.
    let dead = nodes.remove(place(&nodes, first));
    let before: Vec<u32> = nodes.iter().map(|node| node.status().adjustment).collect();
    dead.signal(Signal::SIGKILL);
    let second = lab.until("another one takes over", || {
        agreed_master(&nodes.iter().collect::<Vec<_>>()).filter(|master| *master != first)
    });
    lab.until("and corrects all", || {
        nodes.iter().zip(&before).all(|(node, before)| node.status().adjustment > *before).then_some(())
    });
    let statuses = lab.agree(&nodes.iter().collect::<Vec<_>>());
    assert!(statuses.iter().all(|status| status.term >= 2), "{statuses:?}");
    let steps = |node: &Daemon| node.log().matches("stepped by=").count();
    assert!(nodes.iter().all(|node| steps(node) == 1), "a fail-over is no step");

    // With a word.
    let mut stops = nodes.remove(place(&nodes, second));
    stops.signal(Signal::SIGTERM);
    assert_eq!(stops.end(&lab).0, Some(0));
    lab.until("the third takes over", || {
        agreed_master(&nodes.iter().collect::<Vec<_>>()).filter(|master| ![first, second].contains(master))
    });
    let was_told = nodes.iter().any(|node| node.status().counters.received["leave"] > 0);
    assert!(was_told, "and did not wait for a silence");
}

/// Splits off the one with this number.
fn apart<'a>(nodes: &[&'a Daemon], number: u64) -> (&'a Daemon, Vec<&'a Daemon>) {
    let (one, others): (Vec<&Daemon>, Vec<&Daemon>) =
        nodes.iter().partition(|node| node.name == format!("node{number}"));
    (one[0], others)
}

/// How often nodes have stepped their clocks.
fn steps(nodes: &[&Daemon]) -> Vec<usize> {
    nodes.iter().map(|node| node.log().matches("stepped by=").count()).collect()
}

#[test]
fn a_master_that_was_stopped_steps_down_before_it_moves_a_clock() {
    let lab = Lab::new();
    // Once all are founded, rounds are so rare that none but a new master's falls into the test.
    let rare = "--interval 60s --min-interval 60s";
    let nodes: Vec<Daemon> = (1..=3)
        .map(|number| {
            lab.join(&format!("node{number}"), &format!("--node-id {number} --inject-offset {number}ms {rare}"))
        })
        .collect();
    let all: Vec<&Daemon> = nodes.iter().collect();
    let first = lab.until("one is master", || agreed_master(&all));
    lab.agree(&all);
    let (stopped, others) = apart(&all, first);
    lab.until("it knows who takes over", || {
        let peers = stopped.status().peers;
        (peers.len() == 2 && peers.iter().all(|peer| peer.counted)).then_some(())
    });
    // So that the others know, too.
    lab.while_announcing(stopped, 2);
    let mut course = Course::of(all.iter().copied(), Skew::ZERO);
    let before = stopped.status();
    let counts: Vec<u32> = others.iter().map(|node| node.status().adjustment).collect();
    stopped.signal(Signal::SIGSTOP);
    lab.until("another one takes over", || agreed_master(&others).filter(|master| *master != first));
    lab.until("and corrects those that are left", || {
        others.iter().zip(&counts).all(|(node, count)| node.status().adjustment > *count).then_some(())
    });
    stopped.signal(Signal::SIGCONT);
    let after =
        lab.until("it follows", || stopped.look().filter(|status| ![None, Some(first)].contains(&status.master_id)));
    let said = |kind: &str| after.counters.sent[kind] - before.counters.sent[kind];
    assert_eq!(["request", "correction", "leave"].map(said), [0; 3], "nothing is heard of its old mastership");
    lab.until("it is corrected, too", || (stopped.status().adjustment > after.adjustment).then_some(()));
    let log = stopped.log();
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("{what:?} is missing in\n{log}"));
    assert!(at("stepping down term=1 reason=it did not run") < at("following master="), "{log}");
    course.look();
    assert_eq!(steps(&all), [1; 3], "one step each, at the start");
}

#[test]
fn a_master_and_its_first_successor_die_at_once() {
    let lab = Lab::new();
    let mut nodes: Vec<Daemon> =
        (1..=4).map(|number| lab.join(&format!("node{number}"), &format!("--node-id {number}"))).collect();
    let first = lab.until("one is master", || agreed_master(&nodes.iter().collect::<Vec<_>>()));
    lab.agree(&nodes.iter().collect::<Vec<_>>());
    nodes.sort_by_key(|node| (node.name == format!("node{first}"), node.name.clone()));
    // Of equals the highest number is the first in line.
    let dead = nodes.split_off(2);
    dead.iter().for_each(|node| node.signal(Signal::SIGKILL));
    let left: Vec<&Daemon> = nodes.iter().collect();
    let third = lab.until("the second in line takes over", || agreed_master(&left));
    assert_eq!(left[1].name, format!("node{third}"), "the better of those that are left");
    lab.agree(&left);
    assert_eq!(steps(&left), [1; 2], "one step each, at the start");
}

#[test]
fn a_killed_master_that_comes_back_deposes_nobody_whatever_its_priority() {
    let lab = Lab::new();
    let start = |number: u64, priority: i32| {
        lab.join(&format!("node{number}"), &format!("--node-id {number} --priority {priority}"))
    };
    let preferred = start(1, 9);
    lab.until("it is master", || agreed_master(&[&preferred]));
    let others = [start(2, 0), start(3, 0)];
    lab.agree(&[&preferred, &others[0], &others[1]]);
    drop(preferred);
    let second =
        lab.until("another one takes over", || agreed_master(&others.each_ref()).filter(|master| *master != 1));
    let back = start(1, 9);
    let all = [&back, &others[0], &others[1]];
    lab.agree(&all);
    assert_eq!(lab.until("all follow one", || agreed_master(&all)), second);
}

/// The clock of a machine without a battery: it is put right, and puts nobody right, though it was there first, is preferred, and has
/// made itself master by then.
#[test]
fn a_clock_of_1986_is_corrected_and_corrects_nobody() {
    // The others come before or after it has made itself master. One clock against one: the time that is shown has to tell.
    for (is_master_by_then, others) in [(false, 2), (true, 2), (true, 1)] {
        let lab = Lab::new();
        let forty_years = 40 * 365 * 86_400;
        let lost = lab.join("node9", &format!("--node-id 9 --priority 100 --inject-offset -{forty_years}s"));
        lab.until("it runs", || lost.look().filter(|status| ahead(status) < Span::from_secs(-forty_years / 2)));
        if is_master_by_then {
            lab.until("it is master of itself", || agreed_master(&[&lost]));
        }
        let good: Vec<Daemon> =
            (1..=others).map(|number| lab.join(&format!("node{number}"), &format!("--node-id {number}"))).collect();
        let running: Vec<Status> = good.iter().map(|node| lab.until("it runs", || node.look())).collect();
        let all: Vec<&Daemon> = good.iter().chain([&lost]).collect();
        let mut course = Course::of(&good, Skew::ZERO);
        lab.until("all agree", || {
            let of_good = course.look();
            let of_lost = lost.look()?;
            let is_one = agreed_master(&all).is_some() && of_lost.adjustment > 0;
            let statuses: Vec<Status> = of_good.into_iter().chain([of_lost]).collect();
            (is_one && spread(&statuses) < CLOSE).then_some(())
        });
        for (node, running) in good.iter().zip(running) {
            assert!((ahead(&node.status()) - ahead(&running)).abs() < CLOSE, "{} was moved", node.name);
        }
    }
}

// ---- without a group ----------------------------------------------------------------------------------------------------

/// Where nodes 1, 2, ... will be.
fn places<const N: usize>() -> [String; N] {
    std::array::from_fn(|_| format!("127.0.0.1:{}", free_port()))
}

/// Starts node `number`, which hears only those whose numbers it is given.
fn start_hearing(lab: &Lab, places: &[String], number: usize, heard: &[usize]) -> Daemon {
    let peers: String = heard.iter().map(|number| format!(" --peer {}", places[number - 1])).collect();
    let options = format!("--bind {}{peers} --domain {} --node-id {number}", places[number - 1], lab.group_port);
    lab.start(&format!("node{number}"), &options)
}

#[test]
fn nodes_that_know_each_other_by_address_elect_a_master_and_the_next_one() {
    let lab = Lab::new();
    // One list for all: each names itself, too.
    let everybody = [1, 2, 3, 4];
    let places = places::<4>();
    let nodes = everybody.map(|number| start_hearing(&lab, &places, number, &everybody));
    let all: Vec<&Daemon> = nodes.iter().collect();
    let first = lab.until("one is master", || agreed_master(&all));
    let statuses = lab.agree(&all);
    let strangers = ["not_a_peer", "duplicate_node_id", "stranger"];
    for status in &statuses {
        assert_eq!(strangers.map(|kind| status.counters.dropped[kind]), [0; 3], "{status:?}");
    }
    let (dead, left) = apart(&all, first);
    dead.signal(Signal::SIGKILL);
    let second = lab.until("another one takes over", || agreed_master(&left).filter(|master| *master != first));
    lab.agree(&left);
    let (stops, left) = apart(&left, second);
    stops.signal(Signal::SIGTERM);
    lab.until("a third takes over", || agreed_master(&left).filter(|master| ![first, second].contains(master)));
    assert!(left.iter().any(|node| node.status().counters.received["leave"] > 0), "and was told to");
    lab.agree(&left);
    assert_eq!(steps(&left), [1; 2], "one step each, at the start");
}

/// 1 - 2 - 3: who is in the middle can be master of all.
#[test]
fn who_is_named_by_all_is_master_of_all() {
    let lab = Lab::new();
    let places = places::<3>();
    let middle = start_hearing(&lab, &places, 2, &[1, 3]);
    lab.until("it is master", || agreed_master(&[&middle]));
    let ends = [1, 3].map(|number| start_hearing(&lab, &places, number, &[2]));
    let all = [&ends[0], &middle, &ends[1]];
    lab.agree(&all);
    assert_eq!(agreed_master(&all), Some(2));
}

/// A master at one end is not heard at the other, which neither follows nor deposes it, and says what is wrong.
#[test]
fn who_is_not_named_by_a_node_cannot_be_its_master() {
    let lab = Lab::new();
    let places = places::<3>();
    let master = start_hearing(&lab, &places, 1, &[2]);
    lab.until("it is master", || agreed_master(&[&master]));
    let middle = start_hearing(&lab, &places, 2, &[1, 3]);
    lab.agree(&[&master, &middle]);
    let end = start_hearing(&lab, &places, 3, &[2]);
    let complaint = format!(" node=1 heard-at={}", places[1]);
    lab.until("it says so", || end.log().contains(&complaint).then_some(()));
    assert_ne!(end.status().role, RoleName::Master, "one is enough");
    lab.until("it asks again", || (end.log().matches("not elected").count() >= 5).then_some(()));
    assert_eq!(end.log().matches(&complaint).count(), 1, "but does not say so each time: {}", end.log());
    let statuses = lab.agree(&[&master, &middle]);
    assert!(statuses.iter().all(|status| (status.master_id, status.term) == (Some(1), 1)), "{statuses:?}");
}

// ---- forgeries ----------------------------------------------------------------------------------------------------------

/// The best claim there is.
const CLAIM: Message<'static> =
    Message::Claim(Claim { priority: i32::MAX, merit: Merit::Appointed, is_handover: false });

/// Three that agree, and their master.
fn settled_three(lab: &Lab) -> ([Daemon; 3], u64) {
    let nodes = [1, 2, 3].map(|number| lab.join(&format!("node{number}"), &format!("--node-id {number}")));
    let all = nodes.each_ref();
    let master = lab.until("one is master", || agreed_master(&all));
    lab.agree(&all);
    lab.until("it knows who takes over", || {
        let peers = apart(&all, master).0.status().peers;
        (peers.len() == 2 && peers.iter().all(|peer| peer.counted)).then_some(())
    });
    (nodes, master)
}

/// Terms are taken by those who are there, one with each mastership, however busy the machine is.
fn assert_own_terms(nodes: &[&Daemon], status: &Status) {
    assert!(status.master_id.is_none_or(|master| master <= 3), "a stranger is followed: {status:?}");
    let masterships: usize = nodes.iter().map(|node| node.log().matches(" master term=").count()).sum();
    assert!(status.term <= u64::try_from(masterships).expect("few"), "{} of {masterships}", status.term);
}

#[test]
fn forged_claims_announces_and_refusals_depose_nobody() {
    let lab = Lab::new();
    let (nodes, _) = settled_three(&lab);
    let all = nodes.each_ref();
    let mut course = Course::of(&nodes, Skew::ZERO);
    let forger = Actor::new(&lab, 900);
    let of_term = |term: Term| forger.with(|header| header.term = term);
    let announce = Announce {
        priority: i32::MAX,
        merit: Merit::Appointed,
        members: u16::MAX,
        successors: Successors::new((900..908).map(NodeId::new)),
        ..messages::announce()
    };
    let refusal = Message::Refusal(Refusal { master: Some(NodeId::new(900)) });
    // No term is that high.
    let mut highest = of_term(Term::LIMIT).frame(&CLAIM);
    highest[16..24].copy_from_slice(&u64::MAX.to_be_bytes());
    for node in &nodes {
        let address = node.address(&lab);
        let term = node.status().term;
        let (next, leap) = (of_term(Term::new(term + 1)), of_term(Term::new(term + 3 * (1 << 16))));
        // Said again and again until it is counted: a claim in a moment without a master is a different matter.
        let counts = |reasons: &[DropReason], bytes: Vec<u8>| {
            let before = node.status().counters.dropped;
            lab.until(&format!("{} counts one of {reasons:?}", node.name), || {
                forger.send(address, &bytes);
                let dropped = node.status().counters.dropped;
                reasons.iter().any(|reason| dropped[reason.name()] > before[reason.name()]).then_some(())
            });
        };
        counts(&[DropReason::VainClaim], next.frame(&CLAIM));
        counts(&[DropReason::VainClaim], of_term(Term::LIMIT).frame(&CLAIM));
        assert!(forger.hear("refusal").is_some(), "it is answered");
        counts(&[DropReason::OutOfRange], highest.clone());
        counts(&[DropReason::Unsolicited], next.frame(&refusal));
        counts(&[DropReason::Unsolicited], of_term(Term::LIMIT).frame(&refusal));
        // A slave hears its master, and that one would join a better one, if it asked for it.
        counts(&[DropReason::Rival], next.frame(&Message::Announce(announce)));
        counts(&[DropReason::Rival, DropReason::OutOfRange], leap.frame(&Message::Announce(announce)));
        // A join tells a master of a mastership that it did not know. Not of that one; a slave takes no notice.
        leap.say(address, &forger.join());

        let before = node.status().counters;
        let strikes = 2_000;
        lab.until("many are counted", || {
            (0..20).for_each(|number| next.as_node(1_000 + number).say(address, &CLAIM));
            (node.status().counters.dropped["vain_claim"] >= before.dropped["vain_claim"] + strikes).then_some(())
        });
        let refused = node.status().counters.sent["refusal"] - before.sent["refusal"];
        assert!(refused < strikes, "not each is answered: {refused}");
    }
    let statuses = lab.agree(&all);
    course.look();
    statuses.iter().for_each(|status| assert_own_terms(&all, status));
    assert_eq!(steps(&all), [1; 3], "one step each, at the start");
    assert!(nodes.iter().all(|node| node.log().lines().count() < 60), "not a line for each");
}

#[test]
fn a_flood_of_better_claims_keeps_nobody_from_taking_over() {
    let lab = Lab::new();
    let (nodes, master) = settled_three(&lab);
    let (dead, left) = apart(&nodes.each_ref(), master);
    let addresses = [left[0].address(&lab), left[1].address(&lab)];
    let is_over = Arc::new(AtomicBool::new(false));
    let flood = {
        let (is_over, forger) = (Arc::clone(&is_over), Actor::new(&lab, 900).with(|header| header.term = Term::new(2)));
        thread::spawn(move || {
            let (_sender, never) = mpsc::channel::<()>();
            for node in (900..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
                addresses.iter().for_each(|address| forger.as_node(node).say(*address, &CLAIM));
                let _ = never.recv_timeout(StdDuration::from_millis(2));
            }
        })
    };
    dead.signal(Signal::SIGKILL);
    lab.until("one of the two takes over", || agreed_master(&left).filter(|second| *second != master));
    let statuses = lab.agree(&left);
    is_over.store(true, Ordering::Relaxed);
    flood.join().expect("the flood ends");
    statuses.iter().for_each(|status| assert_own_terms(&nodes.each_ref(), status));
}

/// The master names only strangers, and dies: those who are there wait longer, and none of the strangers comes.
#[test]
fn successors_that_are_not_there_only_make_it_take_longer() {
    let lab = Lab::new();
    let nodes = [1, 2, 3].map(|number| lab.join(&format!("node{number}"), &format!("--node-id {number}")));
    let addresses = nodes.each_ref().map(|node| node.address(&lab));
    let master = Actor::new(&lab, 900).with(|header| header.term = Term::new(1_000));
    let successors = Successors::new((901..909).map(NodeId::new));
    let announce = Message::Announce(Announce { successors, ..messages::announce() });
    lab.until("all follow it", || {
        // Whoever is master by then is not, as its term is far below.
        addresses.iter().for_each(|address| master.say(*address, &announce));
        let follows = |node: &Daemon| node.look().is_some_and(|status| status.master_id == Some(900));
        nodes.iter().all(follows).then_some(())
    });
    let all = nodes.each_ref();
    lab.until("one of them is master", || agreed_master(&all).filter(|master| *master <= 3));
    let statuses = lab.agree(&all);
    assert!(statuses.iter().all(|status| (1_001..1_010).contains(&status.term)), "{statuses:?}");
}
