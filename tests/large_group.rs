//! A round of a large group: one request to all, answers over a window, corrections acknowledged by the next response. In virtual time.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::context::Event;
use berkeleyd::counters::DropReason;
use berkeleyd::identity::{Incarnation, NodeId};
use berkeleyd::member::{Member, Peer};
use berkeleyd::protocol::{Corrections, Entries, Entry, Frame, Header, Message, Request, Window};
use berkeleyd::stamp::Stamp;
use berkeleyd::time::{LocalTime, Skew, Span};
use berkeleyd::unanswered::Asked;
use bytes::BytesMut;
use support::messages;
use support::network::{Fault, Network, address, group};

const MASTER: usize = 0;
/// Slaves: more than are asked one by one.
const SLAVES: usize = 140;
/// Of a slave that a test is about.
const ONE: usize = 7;

fn config(number: usize, role: Role) -> NodeConfig {
    NodeConfig { group: Some(group()), ..NodeConfig::new(NodeId::new(u64::try_from(number).unwrap()), role) }
}

/// A master and its slaves, who know each other well by now.
fn settled(own_addresses: &[std::net::IpAddr]) -> Network {
    let mut network = Network::new();
    // Whoever takes a frame for sent when it says is wrong by half of that.
    network.departure = Span::from_micros(200);
    let master = NodeConfig { own_addresses: own_addresses.to_vec(), ..config(1, Role::Master) };
    network.start(master, Fault::default());
    for number in 2..2 + SLAVES {
        let drift = Skew::from_ppm(i64::try_from(number % 41).unwrap() - 20);
        network.start(config(number, Role::Slave), Fault { offset: Span::from_millis(3), drift });
    }
    network.run_until(Span::from_secs(12));
    assert_eq!(network.members[MASTER].node.as_master().unwrap().members().count(), SLAVES);
    network
}

/// What was sent, by kind and by whether it went to the group.
type Sent = Rc<RefCell<BTreeMap<(u8, bool), usize>>>;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const CORRECTION: u8 = 3;
const ACKNOWLEDGEMENT: u8 = 4;

/// Counts what is sent from now on.
fn counted(network: &mut Network) -> Sent {
    let sent = Sent::default();
    let counts = Rc::clone(&sent);
    network.tamper = Box::new(move |_, to, message| {
        *counts.borrow_mut().entry((message.kind(), to == group())).or_default() += 1;
    });
    sent
}

fn count(sent: &Sent, kind: u8, to_group: bool) -> usize {
    sent.borrow().get(&(kind, to_group)).copied().unwrap_or_default()
}

fn round(network: &Network) -> usize {
    usize::try_from(network.members[MASTER].node.round().get()).unwrap()
}

/// Runs until the next round has just begun.
fn begin_round(network: &mut Network) {
    let before = round(network);
    while round(network) == before {
        network.run_for(Span::from_millis(1));
    }
}

#[test]
fn a_round_is_one_request_and_its_answers_are_spread() {
    let mut network = settled(&[]);
    let sent = counted(&mut network);
    begin_round(&mut network);
    sent.borrow_mut().clear();
    let before = round(&network);
    // In steps of 100 µs: the answers in any millisecond, the corrections in half of one.
    let (mut answers, mut corrections) = (Vec::new(), Vec::new());
    for _ in 0..30_000 {
        network.run_for(Span::from_micros(100));
        answers.push(count(&sent, RESPONSE, false));
        corrections.push(count(&sent, CORRECTION, false));
    }
    let most = |counts: &[usize], steps| counts.windows(steps + 1).map(|few| few[steps] - few[0]).max().unwrap();
    let rounds = round(&network) - before;
    assert!((2..=24).contains(&rounds), "{rounds} rounds in 3 s");
    assert_eq!(count(&sent, REQUEST, true), rounds);
    assert_eq!((count(&sent, REQUEST, false), count(&sent, ACKNOWLEDGEMENT, false)), (0, 0));
    let of_rounds = (rounds - 1) * SLAVES..=(rounds + 1) * SLAVES;
    assert!(of_rounds.contains(&count(&sent, RESPONSE, false)), "{sent:?}");
    assert!(of_rounds.contains(&count(&sent, CORRECTION, false)), "{sent:?}");
    // 40 are meant; the places are drawn.
    assert!((20..=70).contains(&most(&answers, 10)), "{} answers in a millisecond", most(&answers, 10));
    assert_eq!(most(&corrections, 5), 64, "corrections in half a millisecond");
    assert!(network.spread(0..=SLAVES) < Span::from_micros(30), "{}", network.spread(0..=SLAVES));
}

#[test]
fn nodes_of_the_masters_own_machine_are_asked_alone() {
    let mut network = settled(&[address(0).ip()]);
    let sent = counted(&mut network);
    network.run_for(Span::from_secs(3));
    assert!(count(&sent, REQUEST, false) >= 2 * SLAVES, "{sent:?}");
    // Each answers the group's request as well, and that answer counts for nothing.
    assert!(network.members[MASTER].node.counters().dropped(DropReason::Unsolicited) > 0);

    // Where rounds are so near to each other that slaves would take requests to the group for a flood, there are none.
    let quick = Span::from_micros(62_500);
    network.reconfigure(MASTER, |config| {
        (config.interval, config.min_interval, config.max_interval) = (quick, quick, quick)
    });
    network.run_for(Span::from_secs(1));
    sent.borrow_mut().clear();
    network.run_for(Span::from_millis(300));
    assert_eq!(count(&sent, REQUEST, true), 0);
    assert!(count(&sent, REQUEST, false) >= 3 * SLAVES, "{sent:?}");
}

#[test]
fn who_is_not_heard_is_asked_alone_and_nobody_else() {
    let mut network = settled(&[]);
    let sent = counted(&mut network);
    begin_round(&mut network);
    sent.borrow_mut().clear();
    // Every other answer of one slave is lost.
    let mut is_lost = false;
    network.fate = Box::new(move |_, from, _, bytes| {
        let is_response = matches!(Frame::decode(bytes), Ok(Frame { message: Message::Response(_), .. }));
        is_lost ^= from == ONE && is_response;
        if is_lost && from == ONE && is_response { None } else { Some(Span::from_micros(50)) }
    });
    let (before, round_before) = (network.members[ONE].node.clock().adjustment(), round(&network));
    network.run_for(Span::from_secs(5));
    let rounds = round(&network) - round_before;
    let alone = count(&sent, REQUEST, false);
    assert!((rounds - 1..=rounds + 1).contains(&alone), "{alone} requests in {rounds} rounds");
    assert!(network.members[ONE].node.clock().adjustment() - before >= u32::try_from(rounds - 1).unwrap());

    // An answer that comes when the window is over, but not late for this slave, counts.
    network.fate = Box::new(move |_, from, _, _| Some(Span::from_micros(if from == ONE { 10_000 } else { 50 })));
    begin_round(&mut network);
    sent.borrow_mut().clear();
    let (before, round_before) = (network.members[ONE].node.clock().adjustment(), round(&network));
    network.run_for(Span::from_secs(2));
    let rounds = round(&network) - round_before;
    assert_eq!(count(&sent, REQUEST, false), 0);
    assert!(network.members[ONE].node.clock().adjustment() - before >= u32::try_from(rounds - 1).unwrap());

    // Nobody goes on asking one that is silent. The group's next request reaches it when it comes back.
    network.kill(ONE);
    network.run_for(Span::from_secs(5));
    sent.borrow_mut().clear();
    network.run_for(Span::from_secs(2));
    assert_eq!(count(&sent, REQUEST, false), 0);
}

/// A node that hears no group among many that do is asked alone from the beginning of each round.
#[test]
fn who_does_not_hear_the_group_is_no_straggler() {
    let mut network = settled(&[]);
    let alone = NodeConfig { group: None, peers: vec![address(MASTER)], ..config(2 + SLAVES, Role::Slave) };
    let index = network.start(alone, Fault::default());
    network.run_for(Span::from_secs(2));
    let of_it = |network: &Network| {
        let mut members = network.members[MASTER].node.as_master().unwrap().members();
        members.find(|member| member.peer.address == address(index)).map(|member| member.retransmissions)
    };
    let (before, round_before) = (network.members[index].node.clock().adjustment(), round(&network));
    network.run_for(Span::from_secs(3));
    assert_eq!(of_it(&network), Some(0));
    let rounds = u32::try_from(round(&network) - round_before).unwrap();
    assert!(network.members[index].node.clock().adjustment() - before >= rounds - 1);
}

#[test]
fn an_answer_to_the_group_counts_once() {
    let mut network = settled(&[]);
    let recorded = Rc::new(RefCell::new(Vec::new()));
    let tape = Rc::clone(&recorded);
    network.fate = Box::new(move |_, from, _, bytes| {
        let is_response = matches!(Frame::decode(bytes), Ok(Frame { message: Message::Response(_), .. }));
        if from == ONE && is_response {
            *tape.borrow_mut() = bytes.to_vec();
        }
        Some(Span::from_micros(50))
    });
    begin_round(&mut network);
    network.run_for(Span::from_millis(50));
    let unsolicited = |network: &Network| network.members[MASTER].node.counters().dropped(DropReason::Unsolicited);
    let before = unsolicited(&network);
    let again = recorded.borrow().clone();
    network.inject(MASTER, address(ONE), &again);
    assert_eq!(unsolicited(&network), before + 1);
}

/// A window of a quarter of a second is no route of a quarter of a second.
#[test]
fn what_the_answer_was_asked_to_wait_is_no_round_trip() {
    let (now, window, way) = (LocalTime::from_nanos(1_000_000_000), Span::from_millis(250), Span::from_micros(50));
    let peer = Peer::new(NodeId::new(2), Incarnation::new(1), address(1), &messages::join(), true);
    let mut member = Member::new(peer, Skew::ZERO, None, now);
    let called = Asked { t1: now, left: Stamp::user(now), window };
    let answer = messages::response(now, now + way, now + way + window);
    member.answered(&answer, Stamp::user(now + way.times(2) + window), Some(called), None).unwrap();
    assert_eq!(member.round_trip.timeout(0), Span::from_millis(20));
}

#[test]
fn the_next_round_makes_up_for_a_lost_correction() {
    let mut network = settled(&[]);
    begin_round(&mut network);
    let lost = Rc::new(RefCell::new(0));
    let losses = Rc::clone(&lost);
    network.fate = Box::new(move |_, _, to, bytes| {
        let is_correction = matches!(Frame::decode(bytes), Ok(Frame { message: Message::Correction(_), .. }));
        let is_lost = to == ONE && is_correction && *losses.borrow() == 0;
        *losses.borrow_mut() += u32::from(is_lost);
        if is_lost { None } else { Some(Span::from_micros(50)) }
    });
    let (sent, before, round_before) =
        (counted(&mut network), network.members[ONE].node.clock().adjustment(), round(&network));
    network.run_for(Span::from_secs(4));

    let rounds = u32::try_from(round(&network) - round_before).unwrap();
    let corrected = network.members[ONE].node.clock().adjustment() - before;
    assert_eq!(*lost.borrow(), 1);
    // That of the round under way was lost.
    assert!((rounds - 1..=rounds).contains(&corrected), "{corrected} corrections in {rounds} rounds");
    assert_eq!((count(&sent, REQUEST, false), count(&sent, ACKNOWLEDGEMENT, false)), (0, 0));
    assert!(network.spread(0..=SLAVES) < Span::from_micros(30), "{}", network.spread(0..=SLAVES));

    // The next round may be too far away for that: then it is sent again.
    let rare = Span::from_secs(4);
    network
        .reconfigure(MASTER, |config| (config.interval, config.min_interval, config.max_interval) = (rare, rare, rare));
    network.run_for(rare);
    begin_round(&mut network);
    *lost.borrow_mut() = 0;
    let before = network.members[ONE].node.clock().adjustment();
    network.run_for(Span::from_secs(1));
    assert_eq!((*lost.borrow(), network.members[ONE].node.clock().adjustment() - before), (1, 1));
    assert!(count(&sent, ACKNOWLEDGEMENT, false) >= SLAVES, "{sent:?}");
}

/// A request to the group in the name of the master.
fn forged(network: &Network) -> BytesMut {
    let master = &network.members[MASTER].node;
    let header = Header {
        domain: master.config().domain,
        round: master.round(),
        term: master.term(),
        sender: master.config().node_id,
        incarnation: master.incarnation(),
    };
    let window = Some(Window::new(Span::from_millis(1)));
    let message = Message::Request(Request { window, ..Request::bare(LocalTime::from_nanos(1)) });
    let mut bytes = BytesMut::new();
    Frame { header, message }.encode(&mut bytes);
    bytes
}

#[test]
fn only_the_master_asks_the_group_and_not_too_often() {
    let mut network = settled(&[]);
    begin_round(&mut network);
    network.run_for(Span::from_millis(60));
    let sent = counted(&mut network);
    let bytes = forged(&network);
    network.inject(ONE, "10.9.9.9:99".parse().unwrap(), &bytes);
    network.run_for(Span::from_millis(10));
    assert_eq!((count(&sent, RESPONSE, false), network.to_nobody), (0, 0), "a stranger");
    for _ in 0..20 {
        network.inject(ONE, address(MASTER), &bytes);
        network.run_for(Span::from_millis(1));
    }
    assert_eq!(count(&sent, RESPONSE, false), 1, "a forged address");
    assert_eq!(network.members[ONE].node.counters().dropped(DropReason::TooMany), 19);
}

#[test]
fn a_master_that_lies_to_one_of_many_is_noticed() {
    let mut network = settled(&[]);
    network.tamper = Box::new(move |index, to, message| {
        if let (MASTER, Message::Correction(corrections)) = (index, &mut *message)
            && to == address(ONE)
        {
            let lie = |entry: Entry| Entry { correction: entry.correction + Span::from_millis(1), ..entry };
            let entries: Vec<Entry> = corrections.entries.iter().map(lie).collect();
            *message = Message::Correction(Corrections { entries: Entries::Typed(entries.leak()), ..*corrections });
        }
    });
    let before = network.members[ONE].events.len();
    network.run_for(Span::from_secs(10));
    let refused = |event: &&Event| matches!(event, Event::Refused { .. });
    let refusals = network.members[ONE].events[before..].iter().filter(refused).count();
    let bound = network.members[ONE].node.clock().error_bound(network.members[ONE].local(network.now));
    assert!(refusals > 5, "{refusals} refusals, bound {bound}");
    let is_told = |event: &Event| matches!(event, Event::RefusedBySlave { node, .. } if node.get() == 1 + u64::try_from(ONE).unwrap());
    assert!(
        network.members[MASTER].events.iter().any(is_told),
        "a refusal is said at once, and not by the next response"
    );
    assert!(network.spread(0..=SLAVES) < Span::from_micros(500), "{}", network.spread(0..=SLAVES));
}
