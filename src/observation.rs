//! What happened to a node between two looks at its status, and what the last minutes looked like: for who watches a node from outside
//! (`berkeleyd watch`, `berkeleyd exporter`) and was not told.
//!
//! A status says how things stand, not what led there. Two of them in a row tell most of it: a mastership that came and went
//! between two looks is missed, its term is not. Time is that of who looks, and looks are some seconds apart at most: what a
//! clock was slewed in between is not taken for a step.
//!
//! Not decided here: when to look, and how to show it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::identity::{Domain, Incarnation, NodeId, Term};
use crate::status::{PeerStatus, RoleName, Status};
use crate::time::{LocalTime, Skew, Span};

/// From here on a correction is worth telling. The rounds of an ensemble that has settled correct by microseconds.
pub const LARGE: Span = Span::from_millis(1);
/// What a clock may gain on another one without a step: both are slewed by 500 ppm at most, unless an operator wants more.
const FASTEST: Skew = Skew::from_ppm(1_000);

/// Samples that are kept: ten minutes of one a second.
pub const SAMPLES: usize = 600;
/// Points of all samples together, 8 MiB: four minutes of a thousand slaves.
pub const POINTS: usize = 1 << 18;
/// Happenings that are kept. Masterships end up here as well, so that a group that never settles is seen for what it is.
pub const HAPPENINGS: usize = 500;
/// Masterships that are kept.
pub const MASTERSHIPS: usize = 100;

/// One look at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// When the answer was there, on the clock of who looked.
    pub at: LocalTime,
    /// How much earlier than `at` the node may have put it together; not negative.
    pub took: Span,
    /// What it said.
    pub status: Status,
}

/// Something that happened between two looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The daemon is another process than before.
    Restarted {
        /// Its number, which may be a new one as well.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// It does not answer any more.
    Silent {
        /// Why, for people.
        reason: String,
    },
    /// It answers again, and is the same process.
    Answers {
        /// After so long.
        after: Span,
    },
    /// It is something else than before.
    Role {
        /// What it was.
        from: RoleName,
        /// What it is.
        to: RoleName,
        /// In this term.
        term: Term,
    },
    /// It knows another master.
    Master {
        /// Whom it knew; `None`: nobody.
        from: Option<NodeId>,
        /// Whom it knows.
        to: Option<NodeId>,
        /// In this term.
        term: Term,
    },
    /// A new mastership of the same master, or of nobody.
    Term {
        /// The term before.
        from: Term,
        /// The term now.
        to: Term,
        /// Whose it is.
        master: Option<NodeId>,
    },
    /// Its error bound is what is wanted.
    Synchronised {
        /// The bound.
        bound: Span,
    },
    /// Its error bound is too large.
    Unsynchronised {
        /// The bound.
        bound: Span,
    },
    /// Its clock jumped.
    Stepped {
        /// So far ahead, or back.
        by: Span,
    },
    /// Its clock began to work off a large correction.
    Slewing {
        /// What it had to gain at that moment.
        by: Span,
    },
    /// It refused a correction.
    Refused {
        /// Which.
        correction: Span,
    },
    /// A submaster and the domain above.
    Upper {
        /// That domain.
        domain: Domain,
        /// `awaited`, `heard` or `lost`.
        state: String,
    },
    /// A slave of this master that was not listed.
    Joined {
        /// Its number.
        node: NodeId,
        /// Where it is.
        address: String,
    },
    /// A slave that is listed no more.
    Left {
        /// Its number.
        node: NodeId,
    },
    /// A slave that is another process than before.
    PeerRestarted {
        /// Its number.
        node: NodeId,
    },
    /// A slave that is not averaged any more, or for another reason than before.
    LeftOut {
        /// Its number.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// A slave that is averaged again, or for the first time.
    Counted {
        /// Its number.
        node: NodeId,
    },
}

impl Happening {
    /// An operator should look.
    pub fn is_worrying(&self) -> bool {
        match self {
            Self::Silent { .. }
            | Self::Restarted { .. }
            | Self::Master { to: None, .. }
            | Self::Unsynchronised { .. }
            | Self::Refused { .. } => true,
            Self::Upper { state, .. } => state == "lost",
            // A newcomer is on probation for some rounds; whoever goes, says so. Where there is a reference nobody else is counted.
            Self::LeftOut { reason, .. } => !matches!(reason.as_str(), "joining" | "newcomer" | "not-reference"),
            Self::Answers { .. }
            | Self::Role { .. }
            | Self::Master { .. }
            | Self::Term { .. }
            | Self::Synchronised { .. }
            | Self::Stepped { .. }
            | Self::Slewing { .. }
            | Self::Joined { .. }
            | Self::Left { .. }
            | Self::PeerRestarted { .. }
            | Self::Counted { .. } => false,
        }
    }
}

/// In the words of the log: what changed, from, to, then `key=value`.
impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |master: Option<NodeId>| master.map_or_else(|| "none".to_owned(), |master| master.to_string());
        let bounded = |bound: Span| if bound == Span::MAX { "none".to_owned() } else { bound.to_string() };
        match self {
            Self::Restarted { node, incarnation } => write!(f, "restarted node={node} incarnation={incarnation}"),
            Self::Silent { reason } => write!(f, "no answer: {reason}"),
            Self::Answers { after } => write!(f, "answers again after={after}"),
            Self::Role { from, to, term } => write!(f, "role {from} -> {to} term={term}"),
            Self::Master { from, to, term } => write!(f, "master {} -> {} term={term}", name(*from), name(*to)),
            Self::Term { from, to, master } => write!(f, "term {from} -> {to} master={}", name(*master)),
            Self::Synchronised { bound } => write!(f, "synchronised bound={}", bounded(*bound)),
            Self::Unsynchronised { bound } => write!(f, "not synchronised any more bound={}", bounded(*bound)),
            Self::Stepped { by } => write!(f, "stepped by={by}"),
            Self::Slewing { by } => write!(f, "slewing by={by}"),
            Self::Refused { correction } => write!(f, "refused a correction of {correction}"),
            Self::Upper { domain, state } => write!(f, "domain above {state} domain={domain}"),
            Self::Joined { node, address } => write!(f, "joined node={node} at={address}"),
            Self::Left { node } => write!(f, "left node={node}"),
            Self::PeerRestarted { node } => write!(f, "slave restarted node={node}"),
            Self::LeftOut { node, reason } => write!(f, "left out node={node} reason={reason}"),
            Self::Counted { node } => write!(f, "counted node={node}"),
        }
    }
}

/// What happened between two looks at the same socket, in an order that reads well.
///
/// A node that has restarted tells that alone: what it knew before is no news of what it knows now.
pub fn between(earlier: &Look, later: &Look) -> Vec<Happening> {
    let (before, now) = (&earlier.status, &later.status);
    if (before.node_id, before.incarnation) != (now.node_id, now.incarnation) {
        let (node, incarnation) = (NodeId::new(now.node_id), Incarnation::new(now.incarnation));
        return vec![Happening::Restarted { node, incarnation }];
    }
    let mut found = mastership(before, now);
    found.extend(synchronisation(before, now));
    found.extend(step(earlier, later).map(|by| Happening::Stepped { by }));
    let slew = |status: &Status| Some(Span::from_nanos(status.slew_ns)).filter(|slew| slew.abs() >= LARGE);
    found.extend(slew(now).filter(|_| slew(before).is_none()).map(|by| Happening::Slewing { by }));
    found.extend(refusal(before, now).map(|correction| Happening::Refused { correction }));
    let upper = |status: &Status| status.upper.as_ref().map(|upper| (upper.node.domain, upper.state.clone()));
    if let Some((domain, state)) = upper(now).filter(|_| upper(before) != upper(now)) {
        found.push(Happening::Upper { domain: Domain::new(domain), state });
    }
    // The list of somebody else, or of another mastership, is no news of members.
    if (before.role, before.term) == (now.role, now.term) {
        found.extend(membership(&before.peers, &now.peers));
    }
    found
}

fn mastership(before: &Status, now: &Status) -> Vec<Happening> {
    let (term, term_before) = (Term::new(now.term), Term::new(before.term));
    let [from, to] = [before, now].map(|status| status.master_id.map(NodeId::new));
    let mut found = Vec::new();
    if before.role != now.role {
        found.push(Happening::Role { from: before.role, to: now.role, term });
    }
    if from != to {
        found.push(Happening::Master { from, to, term });
    } else if term != term_before {
        found.push(Happening::Term { from: term_before, to: term, master: to });
    }
    found
}

fn synchronisation(before: &Status, now: &Status) -> Option<Happening> {
    let bound = Span::from_nanos(now.error_bound_ns);
    match (before.synchronised, now.synchronised) {
        (false, true) => Some(Happening::Synchronised { bound }),
        (true, false) => Some(Happening::Unsynchronised { bound }),
        (false, false) | (true, true) => None,
    }
}

/// The correction that was refused, if it is another one than before. The master goes on trying, each time by a little more or less.
fn refusal(before: &Status, now: &Status) -> Option<Span> {
    let refused = |status: &Status| status.refused_correction_ns.map(Span::from_nanos);
    refused(now).filter(|now| refused(before).is_none_or(|before| (*now - before).abs() >= LARGE))
}

/// How far the disciplined clock jumped, if it did.
///
/// By the clock of who looks, which nobody sets, but which does not know to better than `took` when the node read its own. The
/// system's clock, which the node reads at the same instant, is exact; unless somebody has set it in the meantime, or it is the
/// very clock that jumped.
fn step(earlier: &Look, later: &Look) -> Option<Span> {
    let lead = |look: &Look| {
        Span::from_nanos(look.status.clock.disciplined_ns) - Span::from_nanos(look.status.clock.system_ns)
    };
    let shown = |look: &Look| Span::from_nanos(look.status.clock.disciplined_ns);
    let passed = later.at - earlier.at;
    let gained = shown(later) - shown(earlier) - passed;
    let doubt = earlier.took + later.took + LARGE;
    let gained_on_system = lead(later) - lead(earlier);
    let by = if (gained - gained_on_system).abs() <= doubt { gained_on_system } else { gained };
    let slewed = FASTEST.over(passed);
    let least = if by == gained_on_system { LARGE } else { doubt };
    (by.abs() > least + slewed).then_some(by)
}

fn membership(before: &[PeerStatus], now: &[PeerStatus]) -> Vec<Happening> {
    let by_number = |peers| -> BTreeMap<u64, &PeerStatus> {
        let peers: &[PeerStatus] = peers;
        peers.iter().map(|peer| (peer.node_id, peer)).collect()
    };
    let (before, now) = (by_number(before), by_number(now));
    let gone = before.keys().filter(|node| !now.contains_key(*node));
    let mut found: Vec<Happening> = gone.map(|node| Happening::Left { node: NodeId::new(*node) }).collect();
    for (node, peer) in now {
        let (node, former) = (NodeId::new(node), before.get(&node));
        match former {
            None => found.push(Happening::Joined { node, address: peer.address.clone() }),
            Some(former) if former.incarnation != peer.incarnation => found.push(Happening::PeerRestarted { node }),
            Some(_) => {}
        }
        match (former.map(|former| &former.reason), &peer.reason) {
            (Some(former), reason) if former == reason => {}
            (_, Some(reason)) => found.push(Happening::LeftOut { node, reason: reason.clone() }),
            (_, None) => found.push(Happening::Counted { node }),
        }
    }
    found
}

/// A happening, when it was seen, and its place in the order of all that were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// Rises by one from 1.
    pub number: u64,
    /// When it was seen.
    pub at: LocalTime,
    /// What it was.
    pub happening: Happening,
}

/// Where the clocks stood at one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Rises by one from 1.
    pub number: u64,
    /// When.
    pub at: LocalTime,
    /// How far the node's own clock could be from ensemble time; [`Span::MAX`]: anywhere.
    pub error_bound: Span,
    /// What was last added to its clock.
    pub correction: Span,
    /// Its slaves, if it was master, by number.
    pub points: Vec<Point>,
}

/// Where a slave's clock stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Whose.
    pub node: NodeId,
    /// Its clock minus the master's.
    pub offset: Span,
    /// How far `offset` could be wrong.
    pub error_bound: Span,
    /// It was averaged.
    pub is_counted: bool,
}

/// One master in one term, as a node knew it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mastership {
    /// The ensemble.
    pub domain: Domain,
    /// Its number.
    pub term: Term,
    /// Whose.
    pub master: NodeId,
    /// Since when the node had heard it; before the first look, by what the node says.
    pub from: LocalTime,
    /// When it was last seen to go on.
    pub until: LocalTime,
}

/// What was seen of the node behind one socket, and what is kept of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    last: Option<Look>,
    silence: Option<Silence>,
    samples: VecDeque<Sample>,
    points: usize,
    samples_seen: u64,
    happenings: VecDeque<Dated>,
    happenings_seen: u64,
    masterships: VecDeque<Mastership>,
}

/// A node that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Since when, as far as it was looked.
    pub since: LocalTime,
    /// Why, for people; of the last look.
    pub reason: String,
}

impl Observation {
    /// Takes in an answer, and says what happened since the one before. `look.at` does not go back.
    pub fn see(&mut self, look: Look) -> Vec<Happening> {
        let mut found = self.last.as_ref().map(|last| between(last, &look)).unwrap_or_default();
        let is_other = matches!(found.as_slice(), [Happening::Restarted { .. }]);
        // Before the first look nothing was known: that it answers now is no news.
        if let Some(silence) = self.silence.take().filter(|_| self.last.is_some() && !is_other) {
            found.insert(0, Happening::Answers { after: look.at - silence.since });
        }
        self.remember(look.at, &found);
        self.note_mastership(&look);
        self.keep_sample(&look);
        self.last = Some(look);
        found
    }

    /// Takes in that there was no answer; tells it once.
    pub fn miss(&mut self, at: LocalTime, reason: String) -> Option<Happening> {
        if let Some(silence) = &mut self.silence {
            silence.reason = reason;
            return None;
        }
        self.silence = Some(Silence { since: at, reason: reason.clone() });
        let happening = Happening::Silent { reason };
        self.remember(at, std::slice::from_ref(&happening));
        Some(happening)
    }

    /// The last answer, however long ago.
    pub fn last(&self) -> Option<&Look> {
        self.last.as_ref()
    }

    /// What the node says now; `None` while it does not answer.
    pub fn status(&self) -> Option<&Status> {
        self.last.as_ref().filter(|_| self.silence.is_none()).map(|look| &look.status)
    }

    /// Since when it does not answer, and why.
    pub fn silence(&self) -> Option<&Silence> {
        self.silence.as_ref()
    }

    /// Those of the last [`SAMPLES`] with a number above `after`, the oldest first.
    pub fn samples_after(&self, after: u64) -> impl Iterator<Item = &Sample> {
        self.samples.iter().skip(self.samples.partition_point(|sample| sample.number <= after))
    }

    /// Those of the last [`HAPPENINGS`] with a number above `after`, the oldest first.
    pub fn happenings_after(&self, after: u64) -> impl Iterator<Item = &Dated> {
        self.happenings.iter().skip(self.happenings.partition_point(|dated| dated.number <= after))
    }

    /// The last [`MASTERSHIPS`], the oldest first. One that was lost and heard again is one.
    pub fn masterships(&self) -> impl Iterator<Item = &Mastership> {
        self.masterships.iter()
    }

    fn remember(&mut self, at: LocalTime, found: &[Happening]) {
        for happening in found {
            self.happenings_seen += 1;
            self.happenings.push_back(Dated { number: self.happenings_seen, at, happening: happening.clone() });
        }
        let surplus = self.happenings.len().saturating_sub(HAPPENINGS);
        self.happenings.drain(..surplus);
    }

    fn note_mastership(&mut self, look: &Look) {
        let status = &look.status;
        let Some(master) = status.master_id.map(NodeId::new) else {
            return;
        };
        let (domain, term) = (Domain::new(status.domain), Term::new(status.term));
        match self.masterships.back_mut() {
            Some(last) if (last.domain, last.term, last.master) == (domain, term, master) => last.until = look.at,
            Some(_) | None => {
                let lasting = Span::from_millis(status.master_for_ms.unwrap_or_default());
                self.masterships.push_back(Mastership {
                    domain,
                    term,
                    master,
                    from: look.at - lasting,
                    until: look.at,
                });
            }
        }
        let surplus = self.masterships.len().saturating_sub(MASTERSHIPS);
        self.masterships.drain(..surplus);
    }

    fn keep_sample(&mut self, look: &Look) {
        let point = |peer: &PeerStatus| Point {
            node: NodeId::new(peer.node_id),
            offset: Span::from_nanos(peer.offset_ns),
            error_bound: Span::from_nanos(peer.error_bound_ns),
            is_counted: peer.counted,
        };
        self.samples_seen += 1;
        let sample = Sample {
            number: self.samples_seen,
            at: look.at,
            error_bound: Span::from_nanos(look.status.error_bound_ns),
            correction: Span::from_nanos(look.status.last_correction_ns),
            points: look.status.peers.iter().map(point).collect(),
        };
        self.points += sample.points.len();
        self.samples.push_back(sample);
        while self.samples.len() > SAMPLES || (self.points > POINTS && self.samples.len() > 1) {
            self.points -= self.samples.pop_front().map_or(0, |oldest| oldest.points.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const MINUTE: i64 = 60_000_000_000;

    /// A slave of node 9 in term 7, a second after it was heard first, its clock 3 s ahead of the system's.
    fn slave() -> Value {
        json!({
            "version": "0", "node_id": 1, "incarnation": 11, "domain": 4, "address": "127.0.0.1:1", "role": "slave", "term": 7,
            "master_id": 9, "master_for_ms": 1_000, "round": 1, "synchronised": true, "error_bound_ns": 50_000,
            "last_correction_ns": 0, "slew_ns": 0, "skew_ppb": 0, "adjustment": 1, "timestamping": "user",
            "refused_correction_ns": null, "pause_ns": null, "pause_reason": null,
            "clock": { "kind": "virtual", "system_ns": MINUTE, "disciplined_ns": MINUTE + 3_000_000_000, "uncertainty_ns": 20 },
            "privileges": { "uid": 0, "gid": 0, "capabilities": [], "no_new_privs": true, "seccomp": true }, "keys": null,
            "counters": { "sent": {}, "received": {}, "dropped": {}, "send_errors": 0, "unreachable": 0, "socket_drops": 0, "wake_ups": 0 },
            "peers": [], "upper": null,
        })
    }

    fn peer(node: u64, reason: Option<&str>) -> Value {
        json!({
            "node_id": node, "incarnation": 1, "address": format!("127.0.0.1:{node}"), "offset_ns": 5, "delay_ns": 6, "skew_ppb": 7,
            "error_bound_ns": 8, "offset_error_ns": 9, "sample": null, "timestamping": "user", "counted": reason.is_none(),
            "reason": reason, "last_heard_ms": 10, "retransmissions": 0,
        })
    }

    /// Its own master, with these slaves.
    fn master(peers: &[Value]) -> Value {
        changed(slave(), &[("/role", json!("master")), ("/master_id", json!(1)), ("/peers", json!(peers))])
    }

    fn changed(mut status: Value, changes: &[(&str, Value)]) -> Value {
        for (pointer, value) in changes {
            *status.pointer_mut(pointer).unwrap() = value.clone();
        }
        status
    }

    /// A look that took a millisecond, `millis` after the clocks of [`slave`] were read, all of which went on at the same rate.
    fn look(millis: i64, status: Value) -> Look {
        let mut status: Status = serde_json::from_value(status).unwrap();
        status.clock.system_ns += millis * 1_000_000;
        status.clock.disciplined_ns += millis * 1_000_000;
        Look { at: LocalTime::from_nanos(millis * 1_000_000), took: Span::from_millis(1), status }
    }

    /// What is told of a second in which a status became another one.
    fn told(before: Value, now: Value) -> Vec<String> {
        between(&look(0, before), &look(1_000, now)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_happens_while_all_goes_on() {
        assert_eq!(told(slave(), slave()), [""; 0]);
        let peers = [peer(2, None), peer(3, Some("silent"))];
        let later = [changed(peer(2, None), &[("/offset_ns", json!(-40_000))]), peer(3, Some("silent"))];
        let numbers = [
            ("/round", json!(2)),
            ("/adjustment", json!(2)),
            ("/slew_ns", json!(999_999)),
            ("/error_bound_ns", json!(1)),
        ];
        assert_eq!(told(master(&peers), changed(master(&later), &numbers)), [""; 0]);
    }

    #[test]
    fn masterships_change_in_every_way() {
        let with = |changes: &[(&str, Value)]| told(slave(), changed(slave(), changes));
        let (term, role, master_id) = ("/term", "/role", "/master_id");
        assert_eq!(with(&[(term, json!(8)), (master_id, json!(12))]), ["master 9 -> 12 term=8"]);
        assert_eq!(with(&[(term, json!(9))]), ["term 7 -> 9 master=9"]);
        let elected = [(term, json!(8)), (role, json!("master")), (master_id, json!(1))];
        assert_eq!(with(&elected), ["role slave -> master term=8", "master 9 -> 1 term=8"]);
        let alone = [(role, json!("listening")), (master_id, json!(null))];
        assert_eq!(with(&alone), ["role slave -> listening term=7", "master 9 -> none term=7"]);
        let candidate = changed(slave(), &[(role, json!("candidate")), (master_id, json!(null))]);
        assert_eq!(told(candidate, slave()), ["role candidate -> slave term=7", "master none -> 9 term=7"]);
    }

    #[test]
    fn synchronisation_comes_and_goes() {
        let without = changed(slave(), &[("/synchronised", json!(false)), ("/error_bound_ns", json!(i64::MAX))]);
        assert_eq!(told(without.clone(), slave()), ["synchronised bound=50.000 µs"]);
        assert_eq!(told(slave(), without), ["not synchronised any more bound=none"]);
    }

    #[test]
    fn another_process_is_another_beginning() {
        let other = [("/incarnation", json!(12)), ("/term", json!(99)), ("/synchronised", json!(false))];
        assert_eq!(told(slave(), changed(slave(), &other)), ["restarted node=1 incarnation=12"]);
    }

    #[test]
    fn steps_are_told_from_slews_and_from_a_system_clock_that_was_set() {
        let moved = |system: i64, disciplined: i64| {
            let mut now = look(1_000, slave());
            now.status.clock.system_ns += system;
            now.status.clock.disciplined_ns += disciplined;
            between(&look(0, slave()), &now).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        // To the nanosecond, although nobody knows when in a millisecond the node looked.
        assert_eq!(moved(0, 2_000_001), ["stepped by=2.000 ms"]);
        assert_eq!(moved(0, -700_000_000_001), ["stepped by=-700.000 s"]);
        assert_eq!(moved(0, 500_000), [""; 0], "slewed for a second");
        assert_eq!(moved(3_600_000_000_000, 0), [""; 0], "the system's clock was set");
        assert_eq!(moved(300_000_000, 300_000_000), ["stepped by=300.000 ms"], "it is the system's clock that is kept");
        // A look that took long knows less.
        let mut slow = look(1_000, slave());
        (slow.took, slow.status.clock.disciplined_ns) =
            (Span::from_secs(1), slow.status.clock.disciplined_ns - 900_000_000);
        slow.status.clock.system_ns -= 900_000_000;
        assert_eq!(between(&look(0, slave()), &slow), []);

        let slewing = changed(slave(), &[("/slew_ns", json!(-40_000_000))]);
        assert_eq!(told(slave(), slewing.clone()), ["slewing by=-40.000 ms"]);
        assert_eq!(told(slewing, changed(slave(), &[("/slew_ns", json!(-39_500_000))])), [""; 0], "still the same");
    }

    #[test]
    fn a_refused_correction_and_a_domain_above_are_told_once() {
        let refused = changed(slave(), &[("/refused_correction_ns", json!(-5_000_000_000i64))]);
        assert_eq!(told(slave(), refused.clone()), ["refused a correction of -5.000 s"]);
        let again = changed(slave(), &[("/refused_correction_ns", json!(-5_000_099_999i64))]);
        assert_eq!(told(refused.clone(), again), [""; 0], "the same, a second later");
        let other = changed(slave(), &[("/refused_correction_ns", json!(-7_000_000_000i64))]);
        assert_eq!(told(refused, other), ["refused a correction of -7.000 s"]);
        let mut upper = slave();
        upper["state"] = json!("lost");
        upper["offset_ns"] = json!(0);
        let lost = changed(slave(), &[("/upper", upper)]);
        assert_eq!(told(slave(), lost.clone()), ["domain above lost domain=4"]);
        assert_eq!(told(lost.clone(), lost), [""; 0]);
    }

    #[test]
    fn slaves_come_and_go_and_are_counted_or_not() {
        let before = [peer(2, None), peer(3, Some("newcomer")), peer(4, None), peer(5, Some("silent"))];
        let restarted = changed(peer(4, Some("joining")), &[("/incarnation", json!(2))]);
        let now = [peer(3, None), restarted, peer(5, Some("disagrees")), peer(6, Some("newcomer")), peer(7, None)];
        let expected = [
            "left node=2",
            "counted node=3",
            "slave restarted node=4",
            "left out node=4 reason=joining",
            "left out node=5 reason=disagrees",
            "joined node=6 at=127.0.0.1:6",
            "left out node=6 reason=newcomer",
            "joined node=7 at=127.0.0.1:7",
            "counted node=7",
        ];
        assert_eq!(told(master(&before), master(&now)), expected);
        let next = changed(master(&now), &[("/term", json!(8))]);
        assert_eq!(told(master(&before), next), ["term 7 -> 8 master=1"], "a new list");
    }

    #[test]
    fn what_needs_a_look_is_marked() {
        let worrying = |before: Value, now: Value| -> Vec<bool> {
            between(&look(0, before), &look(1_000, now)).iter().map(Happening::is_worrying).collect()
        };
        let now = [peer(2, Some("disagrees")), peer(3, Some("newcomer"))];
        assert_eq!(worrying(master(&[peer(2, None)]), master(&now)), [true, false, false]);
        let lost = changed(slave(), &[("/master_id", json!(null)), ("/synchronised", json!(false))]);
        assert_eq!(worrying(slave(), lost.clone()), [true, true]);
        assert_eq!(worrying(lost, slave()), [false, false]);
    }

    #[test]
    fn silence_is_told_once_and_so_is_its_end() {
        let at = |seconds| LocalTime::from_nanos(0) + Span::from_secs(seconds);
        let mut observation = Observation::default();
        assert!(observation.miss(at(0), "no socket".to_owned()).is_some());
        assert_eq!(observation.see(look(1_000, slave())), [], "there was nothing before");
        assert_eq!(observation.miss(at(2), "refused".to_owned()).unwrap().to_string(), "no answer: refused");
        assert_eq!(observation.miss(at(3), "gone".to_owned()), None);
        assert_eq!(observation.silence(), Some(&Silence { since: at(2), reason: "gone".to_owned() }));
        assert_eq!((observation.status(), observation.last().map(|look| look.at)), (None, Some(at(1))));
        assert_eq!(observation.see(look(5_000, slave())), [Happening::Answers { after: Span::from_secs(3) }]);
        observation.miss(at(6), "gone".to_owned());
        let restarted = observation.see(look(7_000, changed(slave(), &[("/incarnation", json!(12))])));
        assert!(matches!(restarted.as_slice(), [Happening::Restarted { .. }]), "{restarted:?}");
        let numbers: Vec<u64> = observation.happenings_after(2).map(|dated| dated.number).collect();
        assert_eq!((numbers, observation.silence()), (vec![3, 4, 5], None));
    }

    #[test]
    fn masterships_are_kept_from_their_beginning() {
        let mut observation = Observation::default();
        let next = [("/term", json!(8)), ("/master_id", json!(12)), ("/master_for_ms", json!(250))];
        let nobody = changed(slave(), &[("/master_id", json!(null)), ("/master_for_ms", json!(null))]);
        for (millis, status) in [(1_000, slave()), (2_000, slave()), (3_000, nobody), (4_000, changed(slave(), &next))]
        {
            observation.see(look(millis, status));
        }
        let seen: Vec<[u64; 2]> = observation.masterships().map(|one| [one.term.get(), one.master.get()]).collect();
        let times: Vec<[i64; 2]> =
            observation.masterships().map(|one| [one.from, one.until].map(|at| at.as_nanos() / 1_000_000)).collect();
        assert_eq!((seen, times), (vec![[7, 9], [8, 12]], vec![[0, 2_000], [3_750, 4_000]]));
    }

    #[test]
    fn only_the_last_are_kept() {
        let mut observation = Observation::default();
        let one = look(0, master(&[peer(2, None)]));
        let of_term = |term: u64, peers: usize| {
            let mut look = one.clone();
            look.at = LocalTime::from_nanos(0) + Span::from_secs(term.try_into().unwrap());
            look.status.term = term;
            look.status.peers = vec![look.status.peers[0].clone(); peers];
            look
        };
        for (terms, peers, expected) in [(1..1_000, 0, SAMPLES), (1_000..2_000, 900, POINTS / 900)] {
            let last = terms.end - 1;
            terms.for_each(|term| drop(observation.see(of_term(term, peers))));
            let numbers: Vec<u64> = observation.samples_after(0).map(|sample| sample.number).collect();
            assert_eq!((numbers.len(), numbers.last()), (expected, Some(&last)));
            assert_eq!(observation.samples_after(last - 2).count(), 2);
            let kept = (observation.happenings_after(0).count(), observation.masterships().count());
            assert_eq!(kept, (HAPPENINGS, MASTERSHIPS));
        }
        // One that is too large by itself is the one to see.
        observation.see(of_term(2_000, POINTS + 1));
        assert_eq!(observation.samples_after(0).count(), 1);
    }

    proptest! {
        #[test]
        fn no_clock_is_too_absurd(times: [i64; 8]) {
            let [at, took, system, disciplined, later_at, later_took, later_system, later_disciplined] = times;
            let look = |at, took, system_ns, disciplined_ns| {
                let clock = [("/clock/system_ns", json!(system_ns)), ("/clock/disciplined_ns", json!(disciplined_ns))];
                let status = serde_json::from_value(changed(slave(), &clock)).unwrap();
                Look { at: LocalTime::from_nanos(at), took: Span::from_nanos(took), status }
            };
            between(&look(at, took, system, disciplined), &look(later_at, later_took, later_system, later_disciplined));
        }
    }
}
