//! A status in words, piece by piece: `status` prints them, `watch` draws them.
//!
//! Texts that a node gives may hold control characters; whoever shows them takes these out.

use crate::status::{PeerStatus, RoleName, Status, UpperStatus};
use crate::time::{Skew, Span};

/// How good a piece of news is. Each output has its own colours for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Plain,
    Good,
    Doubtful,
    Bad,
}

/// Which node it is.
pub(super) fn node(status: &Status) -> String {
    format!("{} at {}, domain {}, version {}", status.node_id, status.address, status.domain, status.version)
}

/// What it is, and for how long.
pub(super) fn role(status: &Status) -> String {
    // Older nodes do not say it.
    let lasting = status.master_for_ms.map(|passed| format!(" for {}", lasting(passed))).unwrap_or_default();
    match (status.role, status.master_id) {
        (RoleName::Master, _) => format!("master{lasting}"),
        (RoleName::Slave, Some(master)) => format!("slave of {master}{lasting}"),
        (RoleName::Slave | RoleName::Listening, _) => "listening: no master is heard".to_owned(),
        (RoleName::Candidate, _) => "candidate".to_owned(),
    }
}

/// The same with its place in the course of things.
pub(super) fn standing(status: &Status) -> (Mood, String) {
    let mood = match status.role {
        RoleName::Master | RoleName::Slave => Mood::Plain,
        RoleName::Candidate | RoleName::Listening => Mood::Doubtful,
    };
    (mood, format!("{}, term {}, round {}", role(status), status.term, status.round))
}

/// Whether it is synchronised, and how well.
pub(super) fn synchronised(status: &Status) -> (Mood, String) {
    match (status.synchronised, Span::from_nanos(status.error_bound_ns)) {
        (true, bound) => (Mood::Good, format!("yes, within {bound} of ensemble time")),
        (false, Span::MAX) => (Mood::Bad, "no, not corrected yet".to_owned()),
        (false, bound) => (Mood::Bad, format!("no, it can be {bound} from ensemble time")),
    }
}

/// How a submaster stands to the domain above.
pub(super) fn above(upper: &UpperStatus) -> (Mood, String) {
    let UpperStatus { state, offset_ns, node } = upper;
    let bound = match Span::from_nanos(node.error_bound_ns) {
        Span::MAX => "not corrected yet".to_owned(),
        bound => format!("within {bound}, this clock {} from it", Span::from_nanos(*offset_ns)),
    };
    let mood = if state == "heard" { Mood::Good } else { Mood::Doubtful };
    (mood, format!("domain {} {state}: {}, term {}, {bound}", node.domain, role(node), node.term))
}

/// Which clock it keeps.
pub(super) fn clock(status: &Status) -> String {
    let clock = &status.clock;
    let ahead = Span::from_nanos(clock.disciplined_ns.saturating_sub(clock.system_ns));
    let relation = if ahead.is_forward() { "ahead of" } else { "behind" };
    format!("{}, {} {relation} the system's, {} stamps", clock.kind, ahead.abs(), status.timestamping)
}

/// What was done to that clock.
pub(super) fn correction(status: &Status) -> String {
    let slew = Span::from_nanos(status.slew_ns);
    let slewing = if slew == Span::ZERO { String::new() } else { format!(", {slew} still to be slewed") };
    let (last, rate) = (Span::from_nanos(status.last_correction_ns), Skew::from_ppb(status.skew_ppb));
    format!("{last} last, {} in all, rate {rate}{slewing}", status.adjustment)
}

/// What it did not let itself be corrected by, if there was such a thing.
pub(super) fn refused(status: &Status) -> Option<(Mood, String)> {
    let refused = Span::from_nanos(status.refused_correction_ns?);
    Some((Mood::Bad, format!("a correction of {refused}: larger than --max-correction")))
}

/// Whole milliseconds in the two largest units that they fill: `3 h 20 min`.
pub(super) fn lasting(millis: i64) -> String {
    let seconds = millis / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        86_400.. => format!("{days} d {} h", hours % 24),
        3_600.. => format!("{hours} h {} min", minutes % 60),
        60.. => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{seconds} s"),
    }
}

/// A column of the table of slaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Slave,
    Address,
    Offset,
    Bound,
    Delay,
    Skew,
    Stamps,
    Heard,
    Counted,
}

impl Column {
    /// In their order from left to right.
    pub(super) const ALL: [Self; 9] = [
        Self::Slave,
        Self::Address,
        Self::Offset,
        Self::Bound,
        Self::Delay,
        Self::Skew,
        Self::Stamps,
        Self::Heard,
        Self::Counted,
    ];

    /// What stands on top of it.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Slave => "slave",
            Self::Address => "address",
            Self::Offset => "offset",
            Self::Bound => "± at most",
            Self::Delay => "delay",
            Self::Skew => "skew",
            Self::Stamps => "stamps",
            Self::Heard => "heard",
            Self::Counted => "counted",
        }
    }

    /// Numbers to the right, texts to the left.
    pub(super) const fn is_number(self) -> bool {
        match self {
            Self::Offset | Self::Bound | Self::Delay | Self::Skew | Self::Heard => true,
            Self::Slave | Self::Address | Self::Stamps | Self::Counted => false,
        }
    }

    /// What it says of a slave.
    pub(super) fn cell(self, peer: &PeerStatus) -> String {
        match self {
            Self::Slave => peer.node_id.to_string(),
            Self::Address => peer.address.clone(),
            Self::Offset => Span::from_nanos(peer.offset_ns).to_string(),
            Self::Bound => Span::from_nanos(peer.error_bound_ns).to_string(),
            Self::Delay => Span::from_nanos(peer.delay_ns).to_string(),
            Self::Skew => Skew::from_ppb(peer.skew_ppb).to_string(),
            Self::Stamps => peer.timestamping.clone(),
            Self::Heard => format!("{} ago", Span::from_millis(peer.last_heard_ms)),
            Self::Counted => peer.reason.as_ref().map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}")),
        }
    }
}

/// A cell of the table in its column.
pub(super) fn aligned(column: Column, cell: &str, width: usize) -> String {
    if column.is_number() { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
}

/// How a slave stands. Where there is a reference, or a domain above, who is none is as it should be.
pub(super) fn mood(peer: &PeerStatus) -> Mood {
    if peer.counted || peer.reason.as_deref() == Some("not-reference") { Mood::Plain } else { Mood::Doubtful }
}

/// So many cells wide that each of these texts fits.
pub(super) fn width<'a>(texts: impl IntoIterator<Item = &'a str>) -> usize {
    texts.into_iter().map(|text| text.chars().count()).max().unwrap_or(0)
}
