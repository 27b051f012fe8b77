//! How an event is told to people: how loud, how often, and in what words.

use std::fmt;

use log::Level;

use crate::clock::Applied;
use crate::context::{Event, Upper};

/// How loud an event is logged. `Some`: it may come with every datagram, so that only the first of this kind in a while is loud.
pub(crate) fn loudness(event: &Event) -> (Level, Option<&'static str>) {
    match event {
        Event::Following { .. }
        | Event::MasterLost { resigned: true, .. }
        | Event::Claimed { .. }
        | Event::ClaimDropped { .. }
        | Event::Quorum { is_reached: true, .. }
        | Event::TermTaken { .. }
        | Event::Joined { .. }
        | Event::Left { .. }
        | Event::Returned { .. }
        | Event::Standing { .. }
        | Event::Upper { state: Upper::Awaited | Upper::Heard(_), .. }
        | Event::Corrected { applied: Applied::Stepped(_), .. }
        | Event::Led { applied: Applied::Stepped(_) } => (Level::Info, None),
        Event::MasterLost { resigned: false, .. }
        | Event::SteppedDown { .. }
        | Event::Quorum { is_reached: false, .. }
        | Event::Silent { .. }
        | Event::LocalClockJumped { .. }
        | Event::Upper { state: Upper::Lost, .. } => (Level::Warn, None),
        Event::RefusedBySlave { .. } => (Level::Warn, Some("slave refused")),
        Event::DuplicateNodeId { .. } => (Level::Warn, Some("duplicate")),
        Event::OtherMaster { .. } => (Level::Warn, Some("master")),
        Event::TableFull { .. } => (Level::Warn, Some("table")),
        Event::MasterOutOfReach { .. } => (Level::Warn, Some("out of reach")),
        Event::Refused { .. } => (Level::Error, Some("refused")),
        Event::Paced { .. }
        | Event::Corrected { applied: Applied::Slewed(_), .. }
        | Event::Led { applied: Applied::Slewed(_) }
        | Event::Averaged { .. }
        | Event::NotAuthentic { .. }
        | Event::Dropped { .. } => (Level::Debug, None),
    }
}

/// The words for an event, put together only when somebody reads them.
pub(crate) struct Words<'e>(pub(crate) &'e Event);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::Following { master, address, term } => {
                write!(f, "following master={master} at={address} term={term}")
            }
            Event::MasterLost { master, resigned: true } => write!(f, "master resigned master={master}: holdover"),
            Event::MasterLost { master, resigned: false } => write!(f, "master silent master={master}: holdover"),
            Event::Claimed { term } => write!(f, "claiming term={term}"),
            Event::ClaimDropped { reason } => write!(f, "not elected: {reason}"),
            Event::MasterOutOfReach { master, heard_at } => write!(
                f,
                "cannot hear the master that others hear node={master} heard at={heard_at}: a link that carries one way, or nodes \
                 whose --peer lists do not name each other"
            ),
            Event::SteppedDown { term, successor: Some(next), reason } => {
                write!(f, "stepping down from term={term}: {reason}; next={next}")
            }
            Event::SteppedDown { term, successor: None, reason } => {
                write!(f, "stepping down from term={term}: {reason}; next=nobody")
            }
            Event::Quorum { is_reached: false, heard } => write!(f, "below quorum heard={heard}: holdover"),
            Event::Quorum { is_reached: true, heard } => write!(f, "quorum reached heard={heard}"),
            Event::TermTaken { term } => write!(f, "master term={term}"),
            Event::Joined { node, address } => write!(f, "joined node={node} at={address}"),
            Event::Left { node, resigned: true } => write!(f, "left node={node}"),
            Event::Left { node, resigned: false } => write!(f, "forgotten after long silence node={node}"),
            Event::Silent { node } => write!(f, "silent node={node}"),
            Event::Returned { node } => write!(f, "answers again node={node}"),
            Event::Standing { node, left_out: None } => write!(f, "counted node={node}"),
            Event::Standing { node, left_out: Some(reason) } => write!(f, "left out node={node} reason={reason}"),
            Event::Paced { pause } => write!(f, "rounds from now on every={pause}"),
            Event::LocalClockJumped { node } => write!(f, "local clock jumped, measuring afresh node={node}"),
            Event::RefusedBySlave { node, correction } => {
                write!(f, "refused by the slave, larger than its --max-correction node={node} correction={correction}")
            }
            Event::DuplicateNodeId { node, address } => {
                write!(f, "node number {node} is used twice, also at {address}")
            }
            Event::OtherMaster { node, address } => {
                write!(f, "another master in this domain node={node} at={address}")
            }
            Event::TableFull { address } => write!(f, "no room for another slave (--max-slaves) at={address}"),
            Event::Corrected { round, applied: Applied::Stepped(step) } => write!(f, "stepped by={step} round={round}"),
            Event::Corrected { round, applied: Applied::Slewed(slew) } => write!(f, "slewing by={slew} round={round}"),
            Event::Upper { domain, state: Upper::Awaited } => {
                write!(f, "waiting for domain {domain}: nobody is corrected before it tells the time")
            }
            Event::Upper { domain, state: Upper::Heard(_) } => write!(f, "keeping the time of domain {domain}"),
            Event::Upper { domain, state: Upper::Lost } => write!(f, "nobody is heard in domain {domain}: holdover"),
            Event::Led { applied: Applied::Stepped(step) } => write!(f, "stepped by={step} with the domain above"),
            Event::Led { applied: Applied::Slewed(slew) } => write!(f, "slewing by={slew} with the domain above"),
            Event::Refused { master, correction, objection } => {
                write!(f, "refused a correction of {correction} from master={master}: {objection}")
            }
            Event::NotAuthentic { from, error } => write!(f, "dropped what is {error} from={from}"),
            Event::Averaged { round, counted, read, correction } => {
                write!(f, "averaged round={round} counted={counted} of={read} correction={correction}")
            }
            Event::Dropped { reason, from } => write!(f, "dropped reason={} from={from}", reason.name()),
        }
    }
}
