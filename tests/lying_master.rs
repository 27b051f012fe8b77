//! A master that lies, in virtual time: its slaves notice what they can, and an honest master whose ensemble jumps is believed.

#![expect(clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::cell::Cell;
use std::rc::Rc;

use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::context::{Event, Objection};
use berkeleyd::counters::DropReason;
use berkeleyd::identity::NodeId;
use berkeleyd::protocol::{Corrections, Entries, Entry, Message};
use berkeleyd::time::{Skew, Span};
use berkeleyd::witness::Contradiction;
use support::network::{Fault, Network, address, group};

const MASTER: usize = 0;

fn config(number: u64, role: Role) -> NodeConfig {
    NodeConfig { group: Some(group()), ..NodeConfig::new(NodeId::new(number), role) }
}

/// A master, number 1, and three slaves that have agreed for 20 s. What `lie` makes of its corrections from then on is what it sends.
fn lied_to(lie: impl Fn(Entry) -> Entry + 'static) -> Network {
    let mut network = Network::new();
    for (number, role) in (1..).zip([Role::Master, Role::Slave, Role::Slave, Role::Slave]) {
        network.start(config(number, role), Fault { offset: Span::ZERO, drift: Skew::from_ppm(10) });
    }
    network.run_until(Span::from_secs(20));
    assert!(network.spread(0..4) < Span::from_micros(20), "{}", network.spread(0..4));
    // A lie for one slave has a frame of its own.
    network.tamper = Box::new(move |index, _, message| {
        if let (MASTER, Message::Correction(corrections)) = (index, &mut *message) {
            let told: Vec<Entry> = corrections.entries.iter().map(&lie).collect();
            let entries = Entries::Typed(told.leak());
            *message = Message::Correction(Corrections { entries, ..*corrections });
        }
    });
    network
}

fn refusals(network: &Network, index: usize) -> Vec<Objection> {
    let objection = |event: &Event| {
        let Event::Refused { master, objection, .. } = event else {
            return None;
        };
        (*master == NodeId::new(1)).then_some(*objection)
    };
    network.members[index].events.iter().filter_map(objection).collect()
}

#[test]
fn a_slave_that_is_told_something_else_than_the_others_refuses_and_names_the_master() {
    for lie in [Span::from_millis(5), Span::from_millis(-5), Span::from_secs(2)] {
        let mut network = lied_to(move |entry| {
            if entry.node == NodeId::new(2) { Entry { correction: entry.correction + lie, ..entry } } else { entry }
        });
        network.run_until(Span::from_secs(60));
        assert!(network.spread(0..4) < Span::from_micros(100), "{lie}: {}", network.spread(0..4));
        let objections = refusals(&network, 1);
        assert!(objections.len() > 10, "{lie}: refused {} times", objections.len());
        assert!(
            objections.iter().all(|objection| matches!(objection, Objection::Contradicted(Contradiction::Gap { .. })))
        );
        assert!(refusals(&network, 2).is_empty() && refusals(&network, 3).is_empty());
    }
}

#[test]
fn a_master_that_lies_to_all_moves_none() {
    let mut network = lied_to(|entry| Entry { correction: entry.correction + Span::from_millis(10), ..entry });
    let before = network.error(1);
    network.run_until(Span::from_secs(60));
    for index in 1..4 {
        let moved = network.error(index) - before;
        // 40 s at the ensemble's 10 ppm are 400 µs.
        assert!((moved - Span::from_micros(400)).abs() < Span::from_micros(50), "node {index} moved by {moved}");
        assert!(!refusals(&network, index).is_empty());
    }
}

#[test]
fn a_rate_that_no_oscillator_has_is_refused() {
    let mut network = lied_to(|entry| Entry { rate: Skew::from_ppm(1_500), ..entry });
    network.run_until(Span::from_secs(40));
    assert!(network.spread(0..4) < Span::from_micros(100), "{}", network.spread(0..4));
    let objections = refusals(&network, 2);
    assert!(
        objections.contains(&Objection::Contradicted(Contradiction::Rate(Skew::from_ppm(1_500)))),
        "{objections:?}"
    );
}

#[test]
fn an_ensemble_that_jumps_with_its_master_is_followed() {
    // A reference comes, 300 ms away: all go to it.
    let mut network = lied_to(|entry| entry);
    let reference = NodeConfig { is_reference: true, ..config(9, Role::Slave) };
    network.start(reference, Fault { offset: Span::from_millis(300), drift: Skew::ZERO });
    // At 500 ppm it takes ten minutes, to be well again soon after.
    network.run_for(Span::from_secs(640));
    assert!(network.spread(0..5) < Span::from_micros(50), "{}", network.spread(0..5));
    for index in 1..4 {
        let contradicted = network.members[index].node.counters().dropped(DropReason::Contradicted);
        assert!(contradicted <= 2, "node {index} refused {contradicted} times");
    }
}

/// How far the first slave is drawn from where it would be, and the others from it, when the master lies for a minute about its own clock
/// (`of_itself`, to whom) and in corrections, both in true time since then.
fn drawn(to_all: bool, of_itself: fn(Span) -> Span, corrections: fn(Span) -> Span, rate: Skew) -> (Span, Span, usize) {
    let mut network = lied_to(|entry| entry);
    let beginning = network.now;
    let since = Rc::new(Cell::new(Span::ZERO));
    let seen = Rc::clone(&since);
    network.tamper = Box::new(move |index, to, message| {
        if index != MASTER {
            return;
        }
        match message {
            Message::Request(request) if to_all || to == address(1) => {
                request.ahead += of_itself(seen.get());
            }
            Message::Correction(told) => {
                let lie = |entry: Entry| match to_all || entry.node == NodeId::new(2) {
                    true => Entry {
                        correction: entry.correction + corrections(seen.get()),
                        rate: entry.rate + rate,
                        ..entry
                    },
                    false => entry,
                };
                let entries: Vec<Entry> = told.entries.iter().map(lie).collect();
                let entries = Entries::Typed(entries.leak());
                *message = Message::Correction(Corrections { entries, ..*told });
            }
            Message::Request(_)
            | Message::Response(_)
            | Message::Acknowledgement(_)
            | Message::Join(_)
            | Message::Leave(_)
            | Message::Announce(_)
            | Message::Claim(_)
            | Message::Refusal(_) => {}
        }
    });
    let before = network.error(1);
    let (mut drawn, mut apart) = (Span::ZERO, Span::ZERO);
    while network.now < beginning + Span::from_secs(60) {
        network.run_for(Span::from_millis(20));
        since.set(network.now - beginning);
        // The ensemble runs 10 ppm fast.
        let moved = network.error(1) - before - Skew::from_ppm(10).over(since.get());
        drawn = drawn.max(moved.abs());
        apart = apart.max(network.spread(1..4));
    }
    (drawn, apart, refusals(&network, 1).len())
}

/// What a master that holds the key can do in a minute, at most, and what it cannot. These are the figures of SECURITY.md.
#[test]
fn a_lying_master_draws_clocks_no_faster_than_a_clock_slews() {
    let none: fn(Span) -> Span = |_| Span::ZERO;
    let fast: fn(Span) -> Span = |since| Skew::from_ppm(400).over(since);
    let faster: fn(Span) -> Span = |since| Skew::from_ppm(5_000).over(since);
    let jump: fn(Span) -> Span = |_| Span::from_millis(100);
    let slack: fn(Span) -> Span = |_| Span::from_micros(90);
    let (ppm_900, ppm_0) = (Skew::from_ppm(900), Skew::ZERO);
    // 500 ppm for a minute, and what the rounds are late.
    let slewed = Span::from_micros(31_000);
    for (name, (drawn, apart, refused), limit) in [
        ("all, as fast as they slew", drawn(true, fast, fast, ppm_0), slewed),
        ("all, faster", drawn(true, faster, faster, ppm_0), slewed),
        ("all, in one jump", drawn(true, jump, jump, ppm_0), slewed),
        ("all, within the tolerance", drawn(true, none, slack, ppm_0), Span::from_micros(400)),
        ("all, by a rate", drawn(true, none, none, ppm_900), slewed),
        ("one, as fast as it slews", drawn(false, fast, fast, ppm_0), slewed),
        ("one, by corrections alone", drawn(false, none, fast, ppm_0), Span::from_millis(1)),
        ("one, within the tolerance", drawn(false, none, slack, ppm_0), Span::from_micros(400)),
    ] {
        println!("{name}: drawn by {drawn}, slaves {apart} apart, refused {refused} times");
        assert!(drawn <= limit, "{name}: {drawn}");
    }
}
