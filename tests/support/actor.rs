//! Somebody who speaks the protocol by hand, what a node is expected to make of it, and a proof that its clock was left alone.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};

use berkeleyd::counters::{DropReason, FRAME_NAMES};
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::protocol::{Frame, Header, Message, Request, Response};
use berkeleyd::status::Status;
use berkeleyd::time::{Skew, Span};
use bytes::BytesMut;

use super::lab::{Daemon, Lab, PATIENCE, ahead};
use super::messages;

/// Somebody who speaks the protocol, and not always the truth.
pub struct Actor {
    pub socket: UdpSocket,
    pub header: Header,
}

impl Actor {
    pub fn new(lab: &Lab, node: u64) -> Self {
        // An address of its own: what a node still sends to an actor that has gone must not reach another test, which may
        // have been given the same port.
        let socket = UdpSocket::bind("127.5.25.1:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE.to_std())).expect("a timeout");
        let header = Header {
            domain: Domain::new(lab.group_port.into()),
            round: Round::default(),
            term: Term::default(),
            sender: NodeId::new(node),
            incarnation: Incarnation::new(77),
        };
        Self { socket, header }
    }

    /// The same socket under another number.
    pub fn as_node(&self, node: u64) -> Self {
        let socket = self.socket.try_clone().expect("the socket");
        Self { socket, header: Header { sender: NodeId::new(node), ..self.header } }
    }

    /// The same with another header.
    pub fn with(&self, change: impl FnOnce(&mut Header)) -> Self {
        let mut header = self.header;
        change(&mut header);
        Self { socket: self.socket.try_clone().expect("the socket"), header }
    }

    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.socket.send_to(bytes, to).expect("sent");
    }

    pub fn frame(&self, message: &Message<'_>) -> Vec<u8> {
        let mut buffer = BytesMut::new();
        Frame { header: self.header, message: *message }.encode(&mut buffer);
        buffer.to_vec()
    }

    pub fn say(&self, to: SocketAddr, message: &Message<'_>) {
        self.send(to, &self.frame(message));
    }

    pub fn join(&self) -> Message<'static> {
        Message::Join(messages::join())
    }

    /// The next frame of this type for this actor; `None` when none comes.
    pub fn hear(&self, kind: &str) -> Option<Vec<u8>> {
        let mut buffer = [0; 2_048];
        loop {
            let (len, _) = self.socket.recv_from(&mut buffer).ok()?;
            let bytes = &buffer[..len];
            if FRAME_NAMES[usize::from(bytes[3]) - 1] == kind {
                return Some(bytes.to_vec());
            }
        }
    }

    /// An honest answer with a clock that stands at 2 s after its zero, made worse by `lie`.
    pub fn response_to(&self, request: &[u8], lie: impl FnOnce(&mut Response)) -> Message<'static> {
        let Ok(Frame { message: Message::Request(Request { t1, .. }), .. }) = Frame::decode(request) else {
            panic!("{request:?} is no request");
        };
        let mut response = messages::response(t1, t1, t1);
        lie(&mut response);
        Message::Response(response)
    }
}

/// A disciplined clock that nobody corrects is a straight line beside the system's: three points of it show a bend.
pub struct StraightLine {
    pub first: Status,
    pub second: Status,
}

impl StraightLine {
    /// Two points, some rounds of announces apart.
    pub fn of(lab: &Lab, node: &Daemon, master: &Daemon) -> Self {
        let first = node.status();
        lab.while_announcing(master, 3);
        Self { first, second: node.status() }
    }

    /// The third point lies on it, to what reading two clocks at once costs, and 50 µs for the system's clock being led.
    pub fn assert_goes_on(&self, node: &Daemon) {
        let third = node.status();
        let system = |status: &Status| Span::from_nanos(status.clock.system_ns);
        let base = system(&self.second) - system(&self.first);
        let rest = system(&third) - system(&self.second);
        let rate = Skew::from_spans(base + ahead(&self.second) - ahead(&self.first), base);
        let bend = ahead(&third) - ahead(&self.second) - rate.over(rest);
        let reading: i64 = [&self.first, &self.second, &third].map(|status| status.clock.uncertainty_ns).iter().sum();
        // What the first two points are uncertain by is the wider, the farther the third is.
        let stretch = 2 + rest.as_nanos() / base.as_nanos().max(1);
        let allowed = Span::from_micros(50) + Span::from_nanos(reading).times(stretch);
        assert!(bend.abs() <= allowed, "{} was moved by {bend}, and {allowed} would be noise", node.name);
        assert_eq!(third.adjustment, self.second.adjustment, "{} was corrected", node.name);
    }
}

/// Has each drop counted under its name, `sent` times, and remembers the name.
pub struct Attack<'a> {
    lab: &'a Lab,
    victim: &'a Daemon,
    pub raised: BTreeSet<&'static str>,
}

impl<'a> Attack<'a> {
    pub fn on(lab: &'a Lab, victim: &'a Daemon) -> Self {
        Self { lab, victim, raised: BTreeSet::new() }
    }

    pub fn expect(&mut self, reason: DropReason, times: u64, strike: impl FnOnce()) {
        let name = reason.name();
        let before = self.victim.status().counters.dropped[name];
        strike();
        self.lab.until(&format!("{} counts {name}", self.victim.name), || {
            (self.victim.status().counters.dropped[name] >= before + times).then_some(())
        });
        self.raised.insert(name);
    }
}
