//! What is planned, in the order in which it happens.
//!
//! Things happen in the order of their true time, equal ones in the order in which they were planned, so that a run is
//! determined by its scenario and its seed.
//!
//! A frame to the group is one entry, however many hear it: its arrivals are sorted once and only the next of them stands among
//! the other things. A thousand nodes that all look for a master at once plan a million arrivals, but a thousand entries.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::rc::Rc;

use crate::node::TransmitToken;
use crate::time::{LocalTime, Span};

/// A port's index in half the room (see `topology.rs`), for what is kept by the million.
pub(crate) type Number = u32;

/// What is planned.
#[derive(Debug)]
pub(crate) enum Planned {
    /// A node starts, with a new life.
    Start(usize),
    /// A node's deadline may have come.
    Wake(usize),
    /// A datagram leaves a node, which is told so.
    Departure { from: Number, token: Box<TransmitToken> },
    /// A datagram reaches a node's own line, where others may be waiting.
    Arrival { from: Number, to: Number, bytes: Rc<[u8]> },
    /// A datagram that had to wait reaches the node.
    Delivery { from: Number, to: Number, bytes: Rc<[u8]> },
    /// The node gets to read a datagram. Boxed, since few scenarios have any.
    Reading(Box<Reading>),
    /// The fault with this index begins.
    FaultBegins(usize),
    /// The fault with this index ends.
    FaultEnds(usize),
    /// The attacker of the fault with this index sends its next frame.
    Attack(usize),
    /// The clocks are looked at.
    Sample,
}

/// A datagram that waits in a socket's buffer for its process.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) from: Number,
    pub(crate) to: Number,
    pub(crate) bytes: Rc<[u8]>,
    /// When it passed the wire, on the receiver's local clock.
    pub(crate) passed: LocalTime,
    /// The life of the receiver that it arrived in.
    pub(crate) life: u64,
}

/// A frame on its way to many nodes.
#[derive(Debug)]
pub(crate) struct Flight {
    from: Number,
    bytes: Rc<[u8]>,
    /// What was planned before it.
    sequence: u64,
    /// Once planned, the next one last.
    arrivals: Vec<Landing>,
}

/// Where and when a copy arrives. In the order in which they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Landing {
    at: Span,
    /// Things planned since the flight began.
    order: u32,
    to: Number,
}

#[derive(Debug)]
enum Entry {
    One(Planned),
    Flight(Box<Flight>),
}

#[derive(Debug)]
struct Event {
    at: Span,
    sequence: u64,
    entry: Entry,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// All that is planned.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// How many things were planned so far.
    sequence: u64,
    events: BinaryHeap<Reverse<Event>>,
}

impl Schedule {
    /// Plans one thing.
    pub(crate) fn plan(&mut self, at: Span, planned: Planned) {
        self.sequence += 1;
        self.events.push(Reverse(Event { at, sequence: self.sequence, entry: Entry::One(planned) }));
    }

    /// A frame sets out to about so many nodes; the arrivals follow, then [`Schedule::plan_flight`].
    pub(crate) fn flight(&self, from: Number, bytes: &Rc<[u8]>, receivers: usize) -> Flight {
        let arrivals = Vec::with_capacity(receivers);
        Flight { from, bytes: Rc::clone(bytes), sequence: self.sequence, arrivals }
    }

    /// A copy of it will arrive.
    pub(crate) fn land(&mut self, flight: &mut Flight, at: Span, to: Number) {
        self.sequence += 1;
        let order = u32::try_from(self.sequence - flight.sequence).unwrap_or(u32::MAX);
        flight.arrivals.push(Landing { at, order, to });
    }

    /// Plans all arrivals of a frame.
    pub(crate) fn plan_flight(&mut self, mut flight: Flight) {
        flight.arrivals.sort_unstable_by_key(|landing| Reverse(*landing));
        if let Some((at, sequence)) = flight.next() {
            self.events.push(Reverse(Event { at, sequence, entry: Entry::Flight(Box::new(flight)) }));
        }
    }

    /// Takes out what happens next, and when.
    pub(crate) fn next(&mut self) -> Option<(Span, Planned)> {
        let mut top = self.events.peek_mut()?;
        let at = top.0.at;
        let Event { at: planned_at, sequence, entry: Entry::Flight(flight) } = &mut top.0 else {
            return match PeekMut::pop(top).0.entry {
                Entry::One(planned) => Some((at, planned)),
                Entry::Flight(_) => None, // It was none just now.
            };
        };
        let to = flight.arrivals.pop()?.to;
        let arrival = Planned::Arrival { from: flight.from, to, bytes: Rc::clone(&flight.bytes) };
        match flight.next() {
            Some(next) => (*planned_at, *sequence) = next,
            None => {
                PeekMut::pop(top);
            }
        }
        Some((at, arrival))
    }
}

impl Flight {
    /// When its next arrival is, and when that was planned; `None` when all have arrived.
    fn next(&self) -> Option<(Span, u64)> {
        self.arrivals.last().map(|landing| (landing.at, self.sequence + u64::from(landing.order)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which node something happens to.
    fn whom(planned: &Planned) -> usize {
        if let Planned::Wake(index) = planned {
            *index
        } else if let Planned::Arrival { to, .. } = planned {
            usize::try_from(*to).unwrap()
        } else {
            panic!("{planned:?}")
        }
    }

    #[test]
    fn all_happens_in_the_order_of_time_then_of_planning() {
        let mut schedule = Schedule::default();
        let at = Span::from_nanos;
        schedule.plan(at(20), Planned::Wake(1));
        let mut flight = schedule.flight(0, &Rc::from([7_u8].as_slice()), 4);
        for (nanos, to) in [(20, 2), (10, 3), (30, 4)] {
            schedule.land(&mut flight, at(nanos), to);
        }
        schedule.plan(at(20), Planned::Wake(5));
        schedule.land(&mut flight, at(20), 6);
        schedule.plan_flight(flight);
        schedule.plan(at(20), Planned::Wake(7));
        let empty = schedule.flight(0, &Rc::from([].as_slice()), 0);
        schedule.plan_flight(empty);
        let mut happened = Vec::new();
        while let Some((when, planned)) = schedule.next() {
            happened.push((when.as_nanos(), whom(&planned)));
        }
        assert_eq!(happened, [(10, 3), (20, 1), (20, 2), (20, 5), (20, 6), (20, 7), (30, 4)]);
    }

    #[test]
    fn arrivals_stay_small() {
        assert!(size_of::<Landing>() <= 16, "{}", size_of::<Landing>());
        assert!(size_of::<Event>() <= 48, "{}", size_of::<Event>());
    }
}
