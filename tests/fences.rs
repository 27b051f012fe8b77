//! What must not move a clock: frames that are stale, foreign, repeated, late or absurd. Each is dropped with a counter of
//! its own, and nothing else changes.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::counters::DropReason;
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::node::Node;
use berkeleyd::protocol::{
    Acknowledgement, Corrections, Entry, Frame, Header, Join, Leave, Merit, Message, Outcome, Request, Response, Window,
};
use berkeleyd::stamp::Stamp;
use berkeleyd::time::{LocalTime, Skew, Span, Time};
use bytes::BytesMut;
use support::messages;
use support::network::group;

const SLAVE: u64 = 22;
const MASTER: u64 = 11;
const LIFE: u64 = 500;
const NOW: LocalTime = LocalTime::from_nanos(1_000_000_000_000);

/// The numbers of some kinds of frames.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const CORRECTION: u8 = 3;
const JOIN: u8 = 5;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn bytes(header: Header, message: Message<'_>) -> BytesMut {
    let mut buffer = BytesMut::new();
    Frame { header, message }.encode(&mut buffer);
    buffer
}

fn header(sender: u64, term: u64, round: u32) -> Header {
    Header {
        domain: Domain::new(0),
        round: Round::new(round),
        term: Term::new(term),
        sender: NodeId::new(sender),
        incarnation: Incarnation::new(77),
    }
}

/// A node under test, its outputs drained after every input.
struct Subject {
    node: Node,
    sent: Vec<(SocketAddr, Vec<u8>)>,
}

impl Subject {
    fn new(role: Role) -> Self {
        let config = NodeConfig { group: Some(group()), ..NodeConfig::new(NodeId::new(SLAVE), role) };
        let node =
            Node::new(config, Incarnation::new(LIFE), NOW, Time::from_nanos(1_790_000_000_000_000_000), Skew::ZERO);
        let mut subject = Self { node, sent: Vec::new() };
        subject.drain(NOW);
        subject
    }

    /// A slave that follows the master in term 3 and has applied its correction of round 5.
    fn following() -> Self {
        let mut slave = Self::new(Role::Slave);
        slave.receive(at(1), &announce(3));
        slave.receive(at(1), &correction(3, 5, entry(0)));
        assert_eq!(slave.node.clock().adjustment(), 1);
        slave.sent.clear();
        slave
    }

    fn drain(&mut self, now: LocalTime) {
        let mut buffer = BytesMut::new();
        while let Some(transmit) = self.node.poll_transmit(now, &mut buffer) {
            self.sent.push((transmit.to, buffer.to_vec()));
        }
        while self.node.poll_event().is_some() {}
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.receive_at(NOW, from, datagram);
    }

    fn receive_at(&mut self, now: LocalTime, from: SocketAddr, datagram: &[u8]) {
        self.node.handle_datagram(now, from, Stamp::user(now), datagram);
        self.drain(now);
    }

    /// The datagram is dropped for this reason and no other, and the clock stays as it is.
    #[track_caller]
    fn drops(&mut self, reason: DropReason, from: SocketAddr, datagram: &[u8]) {
        self.drops_at(NOW, reason, from, datagram);
    }

    #[track_caller]
    fn drops_at(&mut self, now: LocalTime, reason: DropReason, from: SocketAddr, datagram: &[u8]) {
        let counts =
            |node: &Node| DropReason::ALL.iter().map(|reason| node.counters().dropped(*reason)).collect::<Vec<_>>();
        let (clock, term, before) = (self.node.clock().clone(), self.node.term(), counts(&self.node));
        self.receive_at(now, from, datagram);
        for ((reason_counted, before), after) in DropReason::ALL.iter().zip(before).zip(counts(&self.node)) {
            let expected = before + u64::from(*reason_counted == reason);
            assert_eq!(after, expected, "counter {}", reason_counted.name());
        }
        assert_eq!(*self.node.clock(), clock, "the clock has moved");
        assert_eq!(self.node.term(), term);
    }
}

fn announce(term: u64) -> BytesMut {
    bytes(header(MASTER, term, 0), Message::Announce(messages::announce()))
}

/// An entry for the slave, computed for this adjustment count.
fn entry(adjustment: u32) -> Entry {
    Entry {
        node: NodeId::new(SLAVE),
        node_incarnation: Incarnation::new(LIFE),
        reference: NOW,
        correction: Span::from_millis(5),
        rate: Skew::from_ppm(1),
        error_bound: Span::from_micros(50),
        rate_error: Skew::from_ppm(1),
        adjustment,
    }
}

fn correction(term: u64, round: u32, entry: Entry) -> BytesMut {
    bytes(header(MASTER, term, round), Message::Correction(Corrections::of(&[entry])))
}

#[test]
fn a_correction_is_fenced_by_master_term_round_life_count_and_age() {
    let mut slave = Subject::following();
    slave.drops(DropReason::Stranger, at(2), &correction(3, 6, entry(1)));
    slave.drops(DropReason::Stranger, at(1), &correction(4, 6, entry(1)));
    slave.drops(DropReason::StaleTerm, at(1), &correction(2, 6, entry(1)));
    slave.drops(DropReason::StaleRound, at(1), &correction(3, 4, entry(1)));
    slave.drops(DropReason::StaleAdjustment, at(1), &correction(3, 6, entry(0)));
    slave.drops(DropReason::StaleAdjustment, at(1), &correction(3, 6, entry(2)));
    let former = Entry { node_incarnation: Incarnation::new(LIFE - 1), ..entry(1) };
    slave.drops(DropReason::StaleIncarnation, at(1), &correction(3, 6, former));
    for away in [Span::from_millis(4_001), Span::from_millis(-4_001)] {
        let late = Entry { reference: NOW + away, ..entry(1) };
        slave.drops(DropReason::LateCorrection, at(1), &correction(3, 6, late));
    }
    let other_sender = bytes(header(12, 3, 6), Message::Correction(Corrections::of(&[entry(1)])));
    slave.drops(DropReason::Stranger, at(1), &other_sender);
    assert!(slave.sent.is_empty(), "none of these is answered: {:?}", slave.sent);

    // After all that the right one still applies.
    let right = Entry { correction: Span::from_micros(50), ..entry(1) };
    slave.receive(at(1), &correction(3, 6, right));
    assert_eq!((slave.node.clock().adjustment(), slave.node.round()), (2, Round::new(6)));
}

#[test]
fn a_repeated_correction_is_acknowledged_again_and_applied_once() {
    let mut slave = Subject::following();
    slave.drops(DropReason::DuplicateCorrection, at(1), &correction(3, 5, entry(0)));
    let (to, datagram) = slave.sent.pop().expect("acknowledged again");
    assert_eq!(to, at(1));
    let frame = Frame::decode(&datagram).expect("a legal frame");
    let acknowledgement = Acknowledgement { adjustment: 1, outcome: Outcome::Stepped };
    assert_eq!((frame.header.round, frame.message), (Round::new(5), Message::Acknowledgement(acknowledgement)));
}

#[test]
fn a_correction_beyond_the_limit_is_refused_said_and_shown() {
    let mut slave = Subject::following();
    let absurd = Entry { correction: Span::from_secs(-40 * 365 * 86_400), ..entry(1) };
    slave.drops(DropReason::TooLarge, at(1), &correction(3, 6, absurd));
    let (_, datagram) = slave.sent.pop().expect("acknowledged as refused");
    let frame = Frame::decode(&datagram).expect("a legal frame");
    let acknowledgement = Acknowledgement { adjustment: 1, outcome: Outcome::Refused };
    assert_eq!(frame.message, Message::Acknowledgement(acknowledgement));
    assert_eq!(slave.node.refused_correction(), Some(absurd.correction));
}

#[test]
fn nobody_is_followed_at_a_stale_term_and_in_one_term_only_one() {
    let mut slave = Subject::following();
    slave.drops(DropReason::StaleTerm, at(1), &announce(2));
    slave.drops(DropReason::StaleTerm, at(1), &announce(0));
    let rival = bytes(header(12, 3, 0), Message::Request(Request::bare(NOW)));
    slave.drops(DropReason::StaleTerm, at(3), &rival);
    let other_life = Header { incarnation: Incarnation::new(78), ..header(MASTER, 3, 0) };
    slave.drops(DropReason::StaleTerm, at(1), &bytes(other_life, Message::Request(Request::bare(NOW))));
    slave.drops(DropReason::Stranger, at(2), &announce(3));
    assert_eq!(slave.node.master(), Some(NodeId::new(MASTER)));
    // Another master of a higher term waits until this one is silent, and no term is believed that leaps.
    let newer = |term| bytes(header(12, term, 0), Message::Request(Request::bare(NOW)));
    slave.drops(DropReason::Rival, at(3), &newer(4));
    let later = NOW + Span::from_millis(300);
    slave.drops_at(later - Span::from_nanos(1), DropReason::Rival, at(3), &newer(4));
    slave.drops_at(later, DropReason::OutOfRange, at(3), &newer(4 + (1 << 16)));
    slave.receive_at(later, at(3), &newer(4));
    assert_eq!((slave.node.master(), slave.node.term()), (Some(NodeId::new(12)), Term::new(4)));
    slave.drops_at(later, DropReason::StaleTerm, at(1), &correction(3, 6, entry(1)));
}

#[test]
fn a_join_that_comes_too_early_is_sent_when_it_may() {
    let mut slave = Subject::new(Role::Slave);
    let first = NOW + Span::from_millis(20);
    slave.node.handle_timeout(first);
    slave.drain(first);
    assert_eq!(slave.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [group()]);
    slave.sent.clear();
    let soon = first + Span::from_millis(30);
    slave.receive_at(soon, at(1), &announce(3));
    assert!(slave.sent.is_empty(), "30 ms after the first join");
    let due = slave.node.poll_timeout().expect("the join that was held back");
    assert_eq!(due - first, Span::from_millis(100));
    slave.node.handle_timeout(due);
    slave.drain(due);
    assert_eq!(slave.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [at(1)]);
}

#[test]
fn one_of_a_crowd_waits_for_the_announce_that_the_others_bring_about() {
    let mut slave = Subject::new(Role::Slave);
    for number in 0..8 {
        slave.receive(at(100), &messages::join_of_stranger(number));
    }
    let first = NOW + Span::from_millis(20);
    slave.node.handle_timeout(first);
    slave.drain(first);
    assert!(slave.sent.is_empty(), "its own join would tell nobody anything");
    // What it has heard counts for less and less: somebody has to go on looking.
    let second = first + Span::from_millis(100);
    slave.node.handle_timeout(second);
    slave.drain(second);
    assert_eq!(slave.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [group()]);
}

#[test]
fn who_stands_is_one_of_a_crowd_only_behind_those_who_are_preferred() {
    for (priority, goes_on) in [(1, false), (-1, true)] {
        let mut node = Subject::new(Role::Auto);
        node.node.handle_timeout(NOW);
        node.drain(NOW);
        assert_eq!(node.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [group()]);
        node.sent.clear();
        for number in 0..64 {
            let join = Join { priority, merit: Some(Merit::Plausible), ..messages::join() };
            node.receive(at(100), &bytes(header(1_000 + number, 0, 0), Message::Join(join)));
        }
        let second = NOW + Span::from_millis(100);
        node.node.handle_timeout(second);
        node.drain(second);
        assert_eq!(!node.sent.is_empty(), goes_on, "priority {priority}");
    }
}

#[test]
fn a_master_that_spoke_once_is_lost_after_a_second() {
    let mut slave = Subject::new(Role::Slave);
    slave.receive(at(1), &announce(3));
    let lost = NOW + Span::from_secs(1);
    slave.node.handle_timeout(lost - Span::from_nanos(1));
    assert_eq!(slave.node.master(), Some(NodeId::new(MASTER)));
    assert_eq!(slave.node.poll_timeout(), Some(lost));
    slave.node.handle_timeout(lost);
    assert_eq!((slave.node.master(), slave.node.term()), (None, Term::new(3)));
}

#[test]
fn frames_for_others_and_of_oneself_are_dropped_first() {
    for role in [Role::Slave, Role::Master] {
        let mut node = Subject::new(role);
        let foreign = Header { domain: Domain::new(1), ..header(MASTER, 9, 0) };
        node.drops(DropReason::OtherDomain, at(1), &bytes(foreign, Message::Leave(Leave { successor: None })));
        let own = Header { incarnation: Incarnation::new(LIFE), ..header(SLAVE, 9, 0) };
        node.drops(DropReason::OwnFrame, at(1), &bytes(own, Message::Leave(Leave { successor: None })));
        node.drops(
            DropReason::DuplicateNodeId,
            at(1),
            &bytes(header(SLAVE, 9, 0), Message::Leave(Leave { successor: None })),
        );
        node.drops(DropReason::TooShort, at(1), b"BK");
        node.drops(DropReason::Magic, at(1), &[0; 120]);
        let mut trailing = announce(9).to_vec();
        trailing.push(0);
        node.drops(DropReason::Length, at(1), &trailing);
    }
    let acknowledgement = Acknowledgement { adjustment: 1, outcome: Outcome::Slewed };
    Subject::following().drops(
        DropReason::WrongRole,
        at(1),
        &bytes(header(MASTER, 3, 5), Message::Acknowledgement(acknowledgement)),
    );
    Subject::new(Role::Master).drops(DropReason::Rival, at(1), &announce(0));
}

/// A master that has admitted node 11 at port 1, with one more request to it unanswered; gives that request's t1.
fn master_with_member() -> (Subject, LocalTime) {
    let mut master = Subject::new(Role::Master);
    let join = Join { hears_group: true, ..messages::join() };
    master.sent.clear();
    master.receive(at(1), &bytes(header(MASTER, 0, 0), Message::Join(join)));
    let t1 = t1_of(&master.sent);
    master.receive(at(1), &bytes(header(MASTER, 1, 0), Message::Response(response(t1))));
    master.sent.clear();
    let later = NOW + Span::from_millis(20);
    master.node.handle_timeout(later);
    master.drain(later);
    let t1 = t1_of(&master.sent);
    (master, t1)
}

#[expect(clippy::expect_used, reason = "a helper of tests")]
fn t1_of(sent: &[(SocketAddr, Vec<u8>)]) -> LocalTime {
    let mut requests = sent.iter().filter_map(|(to, datagram)| match Frame::decode(datagram).expect("legal").message {
        Message::Request(request) if *to == at(1) => Some(request.t1),
        Message::Request(_)
        | Message::Response(_)
        | Message::Correction(_)
        | Message::Acknowledgement(_)
        | Message::Join(_)
        | Message::Leave(_)
        | Message::Claim(_)
        | Message::Refusal(_)
        | Message::Announce(_) => None,
    });
    requests.next_back().expect("a request")
}

fn response(t1: LocalTime) -> Response {
    let local = LocalTime::from_nanos(5_000_000_000);
    Response { ahead: Span::from_secs(1_790_000_000), ..messages::response(t1, local, local) }
}

#[test]
fn a_response_counts_once_and_only_when_asked_for() {
    let (mut master, t1) = master_with_member();
    let from_member = |message| bytes(header(MASTER, 1, 0), message);
    let now = NOW + Span::from_millis(21);
    let good = from_member(Message::Response(response(t1)));
    master.drops_at(now, DropReason::Stranger, at(2), &good);
    let other_life = Header { incarnation: Incarnation::new(78), ..header(MASTER, 1, 0) };
    master.drops_at(now, DropReason::StaleIncarnation, at(1), &bytes(other_life, Message::Response(response(t1))));
    master.drops_at(now, DropReason::DuplicateNodeId, at(3), &bytes(other_life, Message::Response(response(t1))));
    master.drops_at(now, DropReason::Stranger, at(3), &bytes(header(33, 1, 0), Message::Response(response(t1))));
    let unasked = response(t1 + Span::from_nanos(1));
    master.drops_at(now, DropReason::Unsolicited, at(1), &from_member(Message::Response(unasked)));
    master.receive_at(now, at(1), &good);
    master.drops_at(now, DropReason::Unsolicited, at(1), &good);
    let nothing_delivered = Acknowledgement { adjustment: 1, outcome: Outcome::Slewed };
    master.drops_at(now, DropReason::Unsolicited, at(1), &from_member(Message::Acknowledgement(nothing_delivered)));
}

#[test]
fn absurd_stamps_are_no_measurement() {
    let now = NOW + Span::from_millis(21);
    let limit = (1_i64 << 62) - 1;
    for (t2, t3) in [(10, 9), (limit, 0), (0, limit), (5_000_000_000, 6_000_000_000)] {
        let (mut master, t1) = master_with_member();
        let absurd = Response { t2: LocalTime::from_nanos(t2), t3: LocalTime::from_nanos(t3), ..response(t1) };
        let datagram = bytes(header(MASTER, 1, 0), Message::Response(absurd));
        master.drops_at(now, DropReason::ImplausibleTimes, at(1), &datagram);
    }
    // Outside what a frame may carry, in every time of a response: the whole frame is illegal.
    for offset in [40, 48, 56, 64, 72, 88] {
        for nanos in [i64::MIN, -(1 << 62), i64::MAX - 1] {
            let (mut master, t1) = master_with_member();
            let mut datagram = bytes(header(MASTER, 1, 0), Message::Response(response(t1))).to_vec();
            datagram[offset..offset + 8].copy_from_slice(&nanos.to_be_bytes());
            master.drops_at(now, DropReason::OutOfRange, at(1), &datagram);
        }
    }
}

#[test]
fn a_join_makes_no_member_before_it_has_answered_and_is_answered_once() {
    let mut master = Subject::new(Role::Master);
    let join = Join { hears_group: true, ..messages::join() };
    master.sent.clear();
    let datagram = bytes(header(MASTER, 0, 0), Message::Join(join));
    master.receive(at(1), &datagram);
    assert_eq!(master.sent.len(), 1);
    assert!(master.sent[0].1.len() <= datagram.len(), "no answer is longer than its question");
    assert_eq!(master.node.as_master().map(|master| master.members().count()), Some(0));
}

#[test]
fn joins_fill_a_bounded_table_and_raise_the_term_at_a_bounded_pace() {
    let mut master = Subject::new(Role::Master);
    let mut dropped = 0;
    for index in 0..1_000_u16 {
        let join = Join { hears_group: true, master: Some((NodeId::new(5), Incarnation::new(6))), ..messages::join() };
        let datagram = bytes(header(1_000 + u64::from(index), 10 + u64::from(index), 0), Message::Join(join));
        let before = master.node.counters().dropped(DropReason::TableFull);
        master.receive(at(2_000 + index), &datagram);
        dropped += master.node.counters().dropped(DropReason::TableFull) - before;
    }
    assert_eq!(dropped, 1_000 - 256);
    assert_eq!(master.node.term(), Term::new(11), "a thousand joins in one instant raise the term once");
}

/// How many of the frames sent are of this kind, by its number in PROTOCOL.md.
fn kinds(sent: &[(SocketAddr, Vec<u8>)], kind: u8) -> usize {
    sent.iter().filter(|(_, datagram)| datagram.get(3) == Some(&kind)).count()
}

#[test]
fn a_response_acknowledges_the_correction_of_its_round() {
    for (applied, repeated) in [(1, false), (0, true)] {
        let (mut master, mut t1) = master_with_member();
        let mut now = NOW;
        while kinds(&master.sent, CORRECTION) == 0 {
            master.sent.clear();
            now = master.node.poll_timeout().expect("a burst, and the round that it ends with");
            master.node.handle_timeout(now);
            master.drain(now);
            if kinds(&master.sent, REQUEST) > 0 {
                t1 = t1_of(&master.sent);
            }
        }
        master.sent.clear();
        let applied_round = Round::new(applied);
        let late = bytes(header(MASTER, 1, 0), Message::Response(Response { applied_round, ..response(t1) }));
        master.receive_at(now + Span::from_millis(5), at(1), &late);
        let soon = now + Span::from_millis(100);
        while let Some(due) = master.node.poll_timeout().filter(|due| *due < soon) {
            master.node.handle_timeout(due);
            master.drain(due);
        }
        assert_eq!(kinds(&master.sent, CORRECTION) > 0, repeated, "round {applied} applied");
    }
}

/// A request to the group of the master that [`Subject::following`] follows.
fn group_request(round: u32, window: Span) -> BytesMut {
    let request = Request { window: Some(Window::new(window)), ..Request::bare(NOW) };
    bytes(header(MASTER, 3, round), Message::Request(request))
}

#[test]
fn the_group_is_answered_at_another_place_in_each_round_and_once() {
    let mut slave = Subject::following();
    let window = Span::from_millis(100);
    let mut places = BTreeSet::new();
    for round in 6..12 {
        let now = NOW + Span::from_millis(200).times(i64::from(round));
        slave.receive_at(now, at(1), &group_request(round, window));
        assert_eq!(kinds(&slave.sent, RESPONSE), 0, "it waits");
        let due = slave.node.poll_timeout().expect("its turn");
        slave.node.handle_timeout(due);
        slave.drain(due);
        assert_eq!(kinds(&slave.sent, RESPONSE), 1);
        slave.sent.clear();
        assert!(due - now < window);
        places.insert(due - now);
    }
    assert_eq!(places.len(), 6, "{places:?}");

    // A request to it alone that comes before its turn is answered, and the group's is not any more.
    let now = NOW + Span::from_secs(3);
    slave.receive_at(now, at(1), &group_request(12, window));
    slave.receive_at(now, at(1), &bytes(header(MASTER, 3, 12), Message::Request(Request::bare(NOW))));
    slave.node.handle_timeout(now + window);
    slave.drain(now + window);
    assert_eq!(kinds(&slave.sent, RESPONSE), 1);
}

#[test]
fn a_request_to_the_group_is_no_sign_that_the_master_knows_of_a_slave() {
    let mut slave = Subject::following();
    for tenth in 1..40 {
        let now = NOW + Span::from_millis(100).times(tenth);
        let round = 6 + u32::try_from(tenth).expect("small");
        slave.receive_at(now, at(1), &group_request(round, Span::from_millis(1)));
        slave.receive_at(now, at(1), &announce(3));
    }
    assert!(kinds(&slave.sent, JOIN) > 0, "forgotten for more than three rounds");
}
