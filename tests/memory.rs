//! What a slave costs a master, whatever it is kept in.
//!
//! In a file of its own: the counting allocator takes the place of the usual one in the whole test binary.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use allocation_counter::measure;
use berkeleyd::auth::Sequence;
use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::node::Node;
use berkeleyd::protocol::{Departure, Frame, Header, Join, Message, Response};
use berkeleyd::stamp::{Stamp, StampSource};
use berkeleyd::time::{LocalTime, Skew, Span, Time};
use bytes::BytesMut;
use support::messages;

const SLAVES: usize = 500;
/// What each of them may cost: when it hears the group and when it is asked alone, without and with keys. The goal is 1,024 bytes.
const MOST: [(bool, [i64; 2]); 2] = [(true, [1_024, 1_140]), (false, [1_150, 1_270])];
const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 5, 25)), 5525);
/// From a slave's answer to its arrival, and from a request to its arrival.
const WAY: Span = Span::from_micros(50);
const MASTER: Incarnation = Incarnation::new(1);
const START: LocalTime = LocalTime::from_nanos(5_000_000_000);

/// A master and what its slaves have to remember; their clocks all show the master's local time.
struct Ensemble {
    master: Node,
    keys: Option<KeyRing>,
    now: LocalTime,
    /// The last request that each slave has answered.
    answered: Vec<LocalTime>,
    join: Join,
    buffer: BytesMut,
    /// Frames of slaves are numbered by this.
    frames: u64,
}

fn address(slave: usize) -> SocketAddr {
    let [.., high, low] = u32::try_from(slave).unwrap().to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 5525))
}

impl Ensemble {
    fn new(hears_group: bool, keys: Option<KeyRing>) -> Self {
        let config =
            NodeConfig { max_slaves: 2 * SLAVES, group: Some(GROUP), ..NodeConfig::new(NodeId::new(1), Role::Master) };
        let mut master = Node::new(config, MASTER, START, Time::from_nanos(START.as_nanos()), Skew::ZERO);
        keys.iter().for_each(|keys| master.hold_keys(keys.clone()));
        let answered = vec![START; SLAVES];
        let join = Join { hears_group, ..messages::join() };
        Self { master, keys, now: START, answered, join, buffer: BytesMut::with_capacity(2_000), frames: 0 }
    }

    /// A slave says something.
    fn say(&mut self, slave: usize, round: Round, term: Term, message: Message<'_>) {
        let number = u64::try_from(slave).unwrap() + 1_000;
        let (sender, incarnation) = (NodeId::new(number), Incarnation::new(number));
        let header = Header { domain: Domain::default(), round, term, sender, incarnation };
        let mut bytes = BytesMut::with_capacity(1_000);
        Frame { header, message }.encode(&mut bytes);
        self.frames += 1;
        if let Some(keys) = &mut self.keys {
            let sequence = u64::try_from(self.now.as_nanos()).unwrap() + self.frames;
            keys.seal(&mut bytes, Some(MASTER), Sequence::new(sequence), None);
        }
        let stamp = Stamp { at: self.now, source: StampSource::Kernel };
        self.master.handle_datagram(self.now, address(slave), stamp, &bytes);
        while self.master.poll_event().is_some() {}
    }

    /// Slaves answer whatever the master asks, one after the other.
    fn answer(&mut self) {
        while let Some(transmit) = self.master.poll_transmit(self.now, &mut self.buffer) {
            let frame = match self.keys {
                Some(_) => Frame::decode_authenticated(&self.buffer),
                None => Frame::decode(&self.buffer),
            };
            let frame = frame.unwrap();
            if let Message::Request(request) = frame.message {
                let Header { round, term, .. } = frame.header;
                let IpAddr::V4(to) = transmit.to.ip() else { unreachable!("slaves have addresses of IPv4") };
                let [.., high, low] = to.octets();
                let slave = usize::from(u16::from_be_bytes([high, low]));
                let asked = if transmit.to == GROUP { 0..SLAVES } else { slave..slave + 1 };
                let t1 = request.t1;
                for slave in asked {
                    let previous = Some(Departure { t1: self.answered[slave], late: Span::from_micros(5) });
                    let at = self.now + WAY;
                    let response = Response { previous, ..messages::response(t1, at, at) };
                    self.now = at + WAY;
                    self.answered[slave] = t1;
                    self.say(slave, round, term, Message::Response(response));
                }
            }
        }
        while self.master.poll_event().is_some() {}
    }

    fn run_for(&mut self, span: Span) {
        let end = self.now + span;
        self.answer();
        while let Some(timeout) = self.master.poll_timeout().filter(|timeout| *timeout < end) {
            self.now = self.now.max(timeout);
            self.master.handle_timeout(self.now);
            self.answer();
        }
        self.now = self.now.max(end);
    }
}

/// What each slave costs.
fn cost(hears_group: bool, keys: Option<KeyRing>) -> i64 {
    let mut ensemble = Ensemble::new(hears_group, keys);
    ensemble.run_for(Span::from_secs(1));
    let spent = measure(|| {
        for slave in 0..SLAVES {
            ensemble.say(slave, Round::default(), Term::default(), Message::Join(ensemble.join));
            // So many newcomers at a time are measured.
            if slave % 200 == 0 { ensemble.run_for(Span::from_secs(1)) } else { ensemble.answer() }
        }
        ensemble.run_for(Span::from_secs(4));
    });
    let members = ensemble.master.as_master().unwrap().members();
    assert_eq!(members.filter(|member| !member.is_silent()).count(), SLAVES);
    spent.bytes_current / i64::try_from(SLAVES).unwrap()
}

#[test]
fn a_slave_costs_the_master_no_more_than_it_may() {
    let ring = KeyRing::new([(KeyId::new(1), Key::new([7; 16]), Lifetime::default())]).unwrap();
    for (hears_group, most) in MOST {
        let each = [None, Some(ring.clone())].map(|keys| cost(hears_group, keys));
        assert!(each[0] <= most[0] && each[1] <= most[1], "{each:?} bytes a slave, hears the group: {hears_group}");
    }
}
