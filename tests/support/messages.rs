//! The plainest message of each kind; a test changes the fields that it is about.

use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::protocol::{
    Announce, Entry, Frame, Header, Heartbeat, Join, MAX_ENTRIES, Merit, Message, Response, Successors,
};
use berkeleyd::time::{LocalTime, Skew, Span};
use bytes::BytesMut;

/// A correction that sets a clock back by 40 µs and slows it by 31 ppm.
pub const ENTRY: Entry = Entry {
    node: NodeId::new(22),
    node_incarnation: Incarnation::new(77),
    reference: LocalTime::from_nanos(9_000_112_789),
    correction: Span::from_micros(-40),
    rate: Skew::from_ppb(-31_000),
    error_bound: Span::from_micros(85),
    rate_error: Skew::from_ppb(50),
    adjustment: 41,
};

/// As many as go into a frame.
pub static ENTRIES: [Entry; MAX_ENTRIES] = [ENTRY; MAX_ENTRIES];

/// Of the first round of the first term, by the first node in its first life.
pub fn header() -> Header {
    Header {
        domain: Domain::new(0),
        round: Round::new(1),
        term: Term::new(1),
        sender: NodeId::new(1),
        incarnation: Incarnation::new(1),
    }
}

/// A master that has no members yet and nobody to succeed it.
pub fn announce() -> Announce {
    Announce {
        interval: Span::from_secs(1),
        priority: 0,
        merit: Merit::Plausible,
        heartbeat: Heartbeat::SHORTEST,
        members: 0,
        successors: Successors::NONE,
    }
}

/// A slave that never stands, has no master, and does not hear the group.
pub fn join() -> Join {
    Join {
        priority: 0,
        is_reference: false,
        hears_group: false,
        master: None,
        merit: None,
        corrected_in: None,
        rate_error: Skew::ZERO,
    }
}

/// A join, without a trailer, of one of many who are no members and know of no term.
pub fn join_of_stranger(number: u32) -> BytesMut {
    let header = Header {
        domain: Domain::default(),
        round: Round::default(),
        term: Term::default(),
        sender: NodeId::new(1_000 + u64::from(number)),
        incarnation: Incarnation::new(1),
    };
    let mut bytes = BytesMut::new();
    Frame { header, message: Message::Join(join()) }.encode(&mut bytes);
    bytes
}

/// A node that nobody has corrected, whose disciplined clock shows its local one.
pub fn response(t1: LocalTime, t2: LocalTime, t3: LocalTime) -> Response {
    Response {
        t1,
        t2,
        t3,
        ahead: Span::ZERO,
        slew: Span::ZERO,
        rate: Skew::ZERO,
        error_bound: Span::MAX,
        adjustment: 0,
        applied_round: Round::default(),
        previous: None,
        is_reference: false,
        is_synchronised: false,
        is_stamped_near_the_wire: false,
    }
}
