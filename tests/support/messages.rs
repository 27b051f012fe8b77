//! The plainest message of each kind; a test changes the fields that it is about.

use berkeleyd::identity::Round;
use berkeleyd::protocol::{Announce, Heartbeat, Join, Merit, Response, Successors};
use berkeleyd::time::{LocalTime, Skew, Span};

/// A master that has no members yet and nobody to succeed it.
pub fn announce() -> Announce {
    Announce {
        interval: Span::from_secs(1),
        priority: 0,
        merit: Merit::Plausible,
        heartbeat: Heartbeat::SHORTEST,
        members: 0,
        successors: Successors::default(),
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
