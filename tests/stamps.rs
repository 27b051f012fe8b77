//! Whose stamps a sample is made of: a master and a slave are each fed by hand with frames, departures and the lack of
//! them. Everything is in local time of one clock, so that the true offset is zero.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "test support as well as tests: what fails here is a broken test or a red one"
)]

mod support;

use std::net::SocketAddr;

use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::node::{Node, TransmitToken};
use berkeleyd::protocol::{Departure, Frame, Header, Message, Request, Response};
use berkeleyd::stamp::{Stamp, StampSource};
use berkeleyd::time::{LocalTime, Skew, Span, Time};
use bytes::BytesMut;
use support::messages;

const MASTER: u64 = 11;
const SLAVE: u64 = 22;
const LIFE: u64 = 500;
/// What the network holds a datagram up, and how long the other side takes to answer.
const WAY: Span = Span::from_micros(50);
const TURNAROUND: Span = Span::from_micros(200);

fn there() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1))
}

fn kernel(at: LocalTime) -> Stamp {
    Stamp { at, source: StampSource::Kernel }
}

/// One node and the clock that it and its other side share.
struct Side {
    node: Node,
    now: LocalTime,
}

impl Side {
    fn new(role: Role) -> Self {
        let now = LocalTime::from_nanos(1_000_000_000_000);
        let number = if role == Role::Master { MASTER } else { SLAVE };
        let config = NodeConfig { peers: vec![there()], ..NodeConfig::new(NodeId::new(number), role) };
        let time = Time::from_nanos(1_790_000_000_000_000_000);
        Self { node: Node::new(config, Incarnation::new(LIFE), now, time, Skew::ZERO), now }
    }

    fn hear(&mut self, sender: u64, message: Message<'_>, stamp: Stamp) {
        let header = Header {
            domain: Domain::new(0),
            round: Round::new(0),
            term: Term::new(1),
            sender: NodeId::new(sender),
            incarnation: Incarnation::new(77),
        };
        let mut bytes = BytesMut::new();
        Frame { header, message }.encode(&mut bytes);
        self.now = self.now.max(stamp.at);
        self.node.handle_datagram(self.now, there(), stamp, &bytes);
    }

    /// What it sends now: requests and responses, with their tokens.
    fn say(&mut self) -> Vec<(Message<'static>, Option<TransmitToken>)> {
        let (mut buffer, mut said) = (BytesMut::new(), Vec::new());
        while let Some(transmit) = self.node.poll_transmit(self.now, &mut buffer) {
            match Frame::decode(&buffer).expect("a legal frame").message {
                Message::Request(request) => said.push((Message::Request(request), transmit.token)),
                Message::Response(response) => said.push((Message::Response(response), transmit.token)),
                _ => assert_eq!(transmit.token, None, "nobody uses these stamps"),
            }
        }
        while self.node.poll_event().is_some() {}
        said
    }
}

// ---- the slave's side -------------------------------------------------------------------------------------------------

struct Answering(Side);

impl Answering {
    fn new() -> Self {
        let mut side = Side::new(Role::Slave);
        let announce = messages::announce();
        side.hear(MASTER, Message::Announce(announce), Stamp::user(side.now));
        side.say();
        Self(side)
    }

    /// Its answer to a request that arrives a second later.
    fn asked(&mut self, t1: i64, t2: fn(LocalTime) -> Stamp) -> (Response, TransmitToken) {
        let at = self.0.now + Span::from_secs(1);
        self.0.hear(MASTER, Message::Request(Request::bare(LocalTime::from_nanos(t1))), t2(at));
        match self.0.say().pop() {
            Some((Message::Response(response), Some(token))) => (response, token),
            other => panic!("{other:?} is no response"),
        }
    }
}

#[test]
fn a_slave_tells_in_its_next_response_when_the_last_one_left() {
    let late = Span::from_nanos(4_321);
    let mut slave = Answering::new();
    let (first, token) = slave.asked(1, kernel);
    assert_eq!((first.previous, first.is_stamped_near_the_wire), (None, true));
    slave.0.node.handle_transmitted(token, kernel(first.t3 + late));

    // Of the last one only: nobody has said when the second left.
    let (second, stale) = slave.asked(2, Stamp::user);
    let departure = Departure { t1: LocalTime::from_nanos(1), late };
    assert_eq!((second.previous, second.is_stamped_near_the_wire), (Some(departure), false));
    let (third, token) = slave.asked(3, kernel);
    assert_eq!(third.previous, None);

    // The stamp of the second comes when the third has been sent: too late to be of use.
    slave.0.node.handle_transmitted(stale, kernel(third.t3 + late));
    let (fourth, _) = slave.asked(4, kernel);
    assert_eq!(fourth.previous, None);

    // A departure before its own t3 is none.
    slave.0.node.handle_transmitted(token, kernel(third.t3));
    let (fifth, token) = slave.asked(5, kernel);
    slave.0.node.handle_transmitted(token, kernel(fifth.t3 - Span::from_nanos(1)));
    assert_eq!(slave.asked(6, kernel).0.previous, None);
}

// ---- the master's side ------------------------------------------------------------------------------------------------

/// A master that has admitted its slave and is asking it in a burst.
struct Asking {
    side: Side,
    /// The last request, on its way.
    t1: LocalTime,
    token: Option<TransmitToken>,
}

/// What the slave's response says beside the times.
fn response(t1: LocalTime, t2: LocalTime, t3: LocalTime, previous: Option<Departure>) -> Response {
    Response {
        ahead: Span::from_secs(1_790_000_000),
        previous,
        is_stamped_near_the_wire: true,
        ..messages::response(t1, t2, t3)
    }
}

impl Asking {
    fn new() -> Self {
        let mut side = Side::new(Role::Master);
        side.say();
        side.hear(SLAVE, Message::Join(messages::join()), Stamp::user(side.now));
        let mut asking = Self { t1: side.now, side, token: None };
        asking.take_request();
        asking
    }

    fn take_request(&mut self) {
        match self.side.say().pop() {
            Some((Message::Request(request), token)) => (self.t1, self.token) = (request.t1, token),
            other => panic!("{other:?} is no request"),
        }
    }

    /// Waits for the next request of the burst.
    fn next(&mut self) {
        self.side.now = self.side.node.poll_timeout().expect("a burst");
        self.side.node.handle_timeout(self.side.now);
        self.take_request();
    }

    /// The kernel says that the request left so much later than its t1.
    fn left(&mut self, late: Span) {
        let token = self.token.take().expect("a token for each request");
        self.side.node.handle_transmitted(token, kernel(self.t1 + late));
    }

    /// The answer to the request of `t1`: which took [`WAY`] each way and [`TURNAROUND`] in between by the stamps on the wire.
    fn answer(&mut self, t1: LocalTime, previous: Option<Departure>) {
        let t2 = t1 + WAY;
        let t3 = t2 + TURNAROUND;
        let response = response(t1, t2, t3, previous);
        self.side.hear(SLAVE, Message::Response(response), kernel(t3 + WAY));
        self.side.say();
    }

    /// How long the quickest exchange took, and whose the stamps of the last one were.
    fn learned(&self) -> (Span, StampSource) {
        let members: Vec<_> = self.side.node.as_master().expect("a master").members().collect();
        // Until the rates are known a delay may be longer by what two oscillators gain on each other in an exchange: a tenth of a microsecond.
        let delay = members[0].least_delay().expect("a sample");
        (Span::from_micros(delay.as_nanos() / 1_000), members[0].stamps())
    }
}

/// The response to this request left so many microseconds after its t3.
fn departure(t1: LocalTime, micros: i64) -> Option<Departure> {
    Some(Departure { t1, late: Span::from_micros(micros) })
}

const BOTH_WAYS: Span = Span::from_micros(100);

#[test]
fn a_master_takes_the_departure_of_its_request_from_its_kernel() {
    // Of a candidate's request ...
    let mut master = Asking::new();
    master.left(Span::from_micros(30));
    master.answer(master.t1, None);
    assert_eq!(master.learned(), (BOTH_WAYS - Span::from_micros(30), StampSource::User));
    // ... and of a member's.
    master.next();
    master.left(Span::from_micros(40));
    master.answer(master.t1, None);
    assert_eq!(master.learned(), (BOTH_WAYS - Span::from_micros(40), StampSource::User));
}

#[test]
fn a_departure_that_is_told_after_the_answer_changes_nothing() {
    let mut master = Asking::new();
    master.answer(master.t1, None);
    master.left(Span::from_micros(30));
    master.next();
    master.answer(master.t1, None);
    master.left(Span::from_micros(30));
    assert_eq!(master.learned(), (BOTH_WAYS, StampSource::User));
}

/// A master that knows its slave by two exchanges, the second of which waits for its true t3; and its t1.
fn waiting() -> (Asking, LocalTime) {
    let mut master = Asking::new();
    let first = master.t1;
    master.answer(first, None);
    master.next();
    master.left(Span::from_micros(1));
    let second = master.t1;
    master.answer(second, departure(first, 5));
    assert_eq!(master.learned(), (BOTH_WAYS, StampSource::User), "the first, with the stamps on the wire");
    (master, second)
}

#[test]
fn the_next_response_completes_an_exchange() {
    let (mut master, second) = waiting();
    master.next();
    master.answer(master.t1, departure(second, 20));
    assert_eq!(master.learned(), (BOTH_WAYS - Span::from_micros(21), StampSource::Kernel));
}

#[test]
fn an_exchange_that_is_never_completed_is_used_as_it_is() {
    let as_it_is = (BOTH_WAYS - Span::from_micros(1), StampSource::User);
    // The stamp did not come; it is about another response, because one was lost; it puts the departure behind the arrival.
    for previous in [|_| None, |t1| departure(t1 + Span::from_nanos(1), 20), |t1| departure(t1, 100)] {
        let (mut master, second) = waiting();
        master.next();
        master.answer(master.t1, previous(second));
        assert_eq!(master.learned(), as_it_is, "{previous:?}");
    }
}

#[test]
fn a_duplicate_neither_completes_nor_replaces_an_exchange() {
    let (mut master, second) = waiting();
    master.answer(second, departure(second, 20));
    assert_eq!(master.learned(), (BOTH_WAYS, StampSource::User), "nothing was learned");
    master.next();
    master.answer(master.t1, departure(second, 20));
    assert_eq!(master.learned(), (BOTH_WAYS - Span::from_micros(21), StampSource::Kernel));
}

#[test]
fn responses_that_change_places_are_not_completed_with_each_others_stamps() {
    let (mut master, second) = waiting();
    master.next();
    let third = master.t1;
    master.next();
    let fourth = master.t1;
    // The fourth overtakes the third: it is about the third, not about the second, which stays as it is.
    master.answer(fourth, departure(third, 20));
    assert_eq!(master.learned(), (BOTH_WAYS - Span::from_micros(1), StampSource::User));
    // And the third is about the second, not about the fourth.
    master.answer(third, departure(second, 20));
    assert_eq!(master.learned(), (BOTH_WAYS - Span::from_micros(1), StampSource::User));
}

#[test]
fn a_clock_that_jumped_is_not_noticed_an_exchange_later() {
    let (mut master, mut before) = waiting();
    let mut judged = Vec::new();
    for _ in 0..3 {
        master.next();
        let t1 = master.t1;
        let jumped = t1 + Span::from_secs(3);
        let response = response(t1, jumped + WAY, jumped + WAY + TURNAROUND, departure(before, 5));
        master.side.hear(SLAVE, Message::Response(response), kernel(t1 + WAY + WAY + TURNAROUND));
        let mut has_restarted = false;
        let mut buffer = BytesMut::new();
        while master.side.node.poll_transmit(master.side.now, &mut buffer).is_some() {}
        while let Some(event) = master.side.node.poll_event() {
            has_restarted |= matches!(event, berkeleyd::context::Event::LocalClockJumped { .. });
        }
        judged.push(has_restarted);
        before = t1;
    }
    assert_eq!(judged, [false, true, false], "two samples in a row tell, as without kernel stamps");
}
