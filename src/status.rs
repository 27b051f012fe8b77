//! What a node knows, as one value: for `berkeleyd status`, for programs, and for tests outside this repository.
//!
//! The names, units and meanings of the fields are a contract; new ones may come, none may go or change. Times are
//! integers in nanoseconds, rates in parts per billion.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::NodeConfig;
use crate::counters::DropReason;
use crate::identity::{NodeId, Term};
use crate::member::Member;
use crate::node::Node;
use crate::stamp::StampSource;
use crate::tiers::Tiers;
use crate::time::{LocalTime, Span, Time};

/// One node at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The node's number.
    pub node_id: u64,
    /// This life of it.
    pub incarnation: u64,
    /// Its ensemble.
    pub domain: u32,
    /// Where it can be asked.
    pub address: String,
    /// What it is at present.
    pub role: RoleName,
    /// The newest mastership that it knows, 0 when none.
    pub term: u64,
    /// Who is master, as far as it knows; null when none is heard.
    pub master_id: Option<u64>,
    /// For how long it has been, as far as this node has seen: from when it was first heard in this term. Null when none is heard.
    pub master_for_ms: Option<i64>,
    /// The master's round, or that of a slave's last correction.
    pub round: u32,
    /// Its clock has been corrected and its error bound is within γ.
    pub synchronised: bool,
    /// How far its disciplined clock can be from ensemble time; the largest 64-bit number before the first correction.
    pub error_bound_ns: i64,
    /// What was last added to its clock.
    pub last_correction_ns: i64,
    /// What its clock still has to gain by slewing.
    pub slew_ns: i64,
    /// The rate of its disciplined clock relative to its oscillator.
    pub skew_ppb: i64,
    /// How many corrections it has applied.
    pub adjustment: u32,
    /// Who takes its stamps: `hardware`, `kernel` (arrivals and departures, of late) or `user`.
    pub timestamping: String,
    /// The last correction that it refused; null when none.
    pub refused_correction_ns: Option<i64>,
    /// On a master: time from one round to the next, as it has chosen; null on a slave.
    pub pause_ns: Option<i64>,
    /// And why.
    pub pause_reason: Option<String>,
    /// Its clocks.
    pub clock: ClockStatus,
    /// What its process may do.
    pub privileges: PrivilegeStatus,
    /// The numbers of the keys that frames are authenticated with; null: they are not.
    pub keys: Option<Vec<u32>>,
    /// Datagrams sent, received and dropped.
    pub counters: CounterStatus,
    /// On a master: its slaves, by number. Empty on a slave.
    pub peers: Vec<PeerStatus>,
    /// On a submaster: the node of it that belongs to the domain above. Null on any other node.
    pub upper: Option<Box<UpperStatus>>,
}

/// The node of a submaster that belongs to the domain above. All else that a status says is of the node below, whose clock is the one
/// to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpperStatus {
    /// Whether the domain above tells the time: `awaited`, `heard` or `lost`.
    pub state: String,
    /// The clock of the node below minus the clock of this one: 0, or the few ns of arithmetic, while it is master there and nothing is slewed.
    pub offset_ns: i64,
    /// The same as of any node.
    #[serde(flatten)]
    pub node: Status,
}

impl UpperStatus {
    /// `node`: what the upper node knows at local time `now`.
    pub fn new(node: Status, tiers: &Tiers, now: LocalTime) -> Self {
        let upper = tiers.upper().map(|upper| tiers.clock().read(now) - upper.clock().read(now));
        Self {
            state: tiers.lower().upper().unwrap_or_default().name().to_owned(),
            offset_ns: upper.unwrap_or_default().as_nanos(),
            node,
        }
    }
}

/// What a node is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// It polls.
    Master,
    /// It follows a master.
    Slave,
    /// It stands for election.
    Candidate,
    /// It hears no master.
    Listening,
}

impl RoleName {
    /// What this node is.
    pub fn of(node: &Node) -> Self {
        match (node.as_master(), node.is_candidate(), node.master()) {
            (Some(_), _, _) => Self::Master,
            (None, true, _) => Self::Candidate,
            (None, false, Some(_)) => Self::Slave,
            (None, false, None) => Self::Listening,
        }
    }
}

/// As in the JSON text.
impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Slave => "slave",
            Self::Candidate => "candidate",
            Self::Listening => "listening",
        })
    }
}

/// What is said of a node in one line: the least of it that changes only when something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    role: RoleName,
    master: Option<NodeId>,
    term: Term,
    is_synchronised: bool,
}

impl Standing {
    /// That of `node` at local time `now`.
    pub fn of(node: &Node, now: LocalTime) -> Self {
        let (master, term) = (node.master(), node.term());
        Self { role: RoleName::of(node), master, term, is_synchronised: node.is_synchronised(now) }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.role, self.master) {
            (RoleName::Slave, Some(master)) => write!(f, "slave of {master}")?,
            (RoleName::Master, _) => write!(f, "master")?,
            (RoleName::Candidate, _) => write!(f, "candidate")?,
            (RoleName::Slave | RoleName::Listening, _) => write!(f, "listening: no master is heard")?,
        }
        write!(f, ", term {}, {}synchronised", self.term, if self.is_synchronised { "" } else { "not " })
    }
}

/// A node's clocks at one instant: on one machine, the difference between two nodes' `disciplined_ns - system_ns` is
/// their true disagreement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStatus {
    /// `virtual` or `system`.
    pub kind: String,
    /// What CLOCK_REALTIME shows.
    pub system_ns: i64,
    /// What the clock that we keep shows.
    pub disciplined_ns: i64,
    /// The two were read at most this far apart.
    pub uncertainty_ns: i64,
}

/// What a node's process may still do, as the kernel said when the node had given up the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivilegeStatus {
    /// The user that it runs as.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Its capabilities by name, such as `CAP_SYS_TIME`.
    pub capabilities: Vec<String>,
    /// Nothing that it executes gains privileges.
    pub no_new_privs: bool,
    /// System calls that it does not need are refused.
    pub seccomp: bool,
}

impl PrivilegeStatus {
    /// Its one capability, none, or how many.
    pub fn capabilities_in_short(&self) -> String {
        match self.capabilities.as_slice() {
            [] => "none".to_owned(),
            [one] => one.clone(),
            many => many.len().to_string(),
        }
    }
}

impl fmt::Display for PrivilegeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capabilities = self.capabilities_in_short();
        let word = |is_on| if is_on { "on" } else { "off" };
        let (uid, gid) = (self.uid, self.gid);
        let (no_new_privs, seccomp) = (word(self.no_new_privs), word(self.seccomp));
        write!(f, "uid={uid} gid={gid} capabilities={capabilities} no-new-privs={no_new_privs} seccomp={seccomp}")
    }
}

/// What a node has sent, received and dropped since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// Frames sent, by type.
    pub sent: BTreeMap<String, u64>,
    /// Legal frames received, by type.
    pub received: BTreeMap<String, u64>,
    /// Datagrams dropped, by reason (PROTOCOL.md, section 6).
    pub dropped: BTreeMap<String, u64>,
    /// Datagrams that the system did not send.
    pub send_errors: u64,
    /// Datagrams that reached nobody, as routers or hosts said.
    pub unreachable: u64,
    /// Datagrams lost because a socket's buffer was full.
    pub socket_drops: u64,
    /// Times that the loop woke up.
    pub wake_ups: u64,
}

/// A slave as its master sees it. A slave is listed from its first answer on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its number.
    pub node_id: u64,
    /// This life of it.
    pub incarnation: u64,
    /// Where it is asked.
    pub address: String,
    /// Its clock minus the master's, in the last round that measured it.
    pub offset_ns: i64,
    /// Its smallest round-trip time of late, without turnaround.
    pub delay_ns: i64,
    /// The rate of its oscillator relative to the master's.
    pub skew_ppb: i64,
    /// How far `offset_ns` can be wrong.
    pub error_bound_ns: i64,
    /// How far `offset_ns` is likely to be wrong (one standard deviation).
    pub offset_error_ns: i64,
    /// The last sample as it was measured, before anything was filtered; null before the first.
    pub sample: Option<SampleStatus>,
    /// Who took the stamps of its last sample, at both ends; the bluntest of the four counts.
    pub timestamping: String,
    /// Its clock is averaged.
    pub counted: bool,
    /// Why not, in a word; null when it is.
    pub reason: Option<String>,
    /// Time since it was heard.
    pub last_heard_ms: i64,
    /// Requests and corrections that had to be sent again.
    pub retransmissions: u64,
}

/// One exchange with a slave, by the free-running clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleStatus {
    /// When, on the master's oscillator.
    pub at_ns: i64,
    /// The slave's oscillator minus the master's.
    pub offset_ns: i64,
    /// Round-trip time without turnaround.
    pub delay_ns: i64,
}

/// What the driver knows and the core does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverStatus {
    /// Where the node can be asked.
    pub address: String,
    /// Who takes its stamps.
    pub timestamping: StampSource,
    /// `virtual` or `system`.
    pub clock_kind: &'static str,
    /// What CLOCK_REALTIME shows.
    pub system: Time,
    /// What the disciplined clock shows at the same instant.
    pub disciplined: Time,
    /// The two were read at most this far apart.
    pub uncertainty: Span,
    /// What the process may do.
    pub privileges: PrivilegeStatus,
    /// Datagrams that the system did not send.
    pub send_errors: u64,
    /// Datagrams that reached nobody.
    pub unreachable: u64,
    /// Datagrams lost because a socket's buffer was full.
    pub socket_drops: u64,
    /// Times that the loop woke up.
    pub wake_ups: u64,
}

impl Status {
    /// What `node` knows at local time `now`.
    pub fn new(node: &Node, now: LocalTime, driver: DriverStatus) -> Self {
        let clock = node.clock();
        let named = |counters: &mut dyn Iterator<Item = (&'static str, u64)>| {
            counters.map(|(name, count)| (name.to_owned(), count)).collect()
        };
        let counters = node.counters();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: node.config().node_id.get(),
            incarnation: node.incarnation().get(),
            domain: node.config().domain.get(),
            address: driver.address,
            role: RoleName::of(node),
            term: node.term().get(),
            master_id: node.master().map(|master| master.get()),
            master_for_ms: node.master_since().map(|since| millis(now - since)),
            round: node.round().get(),
            synchronised: node.is_synchronised(now),
            error_bound_ns: clock.error_bound(now).as_nanos(),
            last_correction_ns: node.last_correction().as_nanos(),
            slew_ns: clock.slew(now).as_nanos(),
            skew_ppb: clock.rate().as_ppb(),
            adjustment: clock.adjustment(),
            timestamping: driver.timestamping.name().to_owned(),
            refused_correction_ns: node.refused_correction().map(Span::as_nanos),
            pause_ns: node.as_master().map(|master| master.pause().as_nanos()),
            pause_reason: node.as_master().map(|master| pause_reason(master.pause(), node.config()).to_owned()),
            clock: ClockStatus {
                kind: driver.clock_kind.to_owned(),
                system_ns: driver.system.as_nanos(),
                disciplined_ns: driver.disciplined.as_nanos(),
                uncertainty_ns: driver.uncertainty.as_nanos(),
            },
            privileges: driver.privileges,
            keys: node.keys().map(|ring| ring.keys().map(|(id, _)| id.get()).collect()),
            counters: CounterStatus {
                sent: named(&mut counters.sent()),
                received: named(&mut counters.received()),
                dropped: named(&mut DropReason::ALL.iter().map(|reason| (reason.name(), counters.dropped(*reason)))),
                send_errors: driver.send_errors,
                unreachable: driver.unreachable,
                socket_drops: driver.socket_drops,
                wake_ups: driver.wake_ups,
            },
            peers: node
                .as_master()
                .map(|master| {
                    let own = clock.target(now);
                    master.members().filter_map(|member| PeerStatus::new(member, now, own)).collect()
                })
                .unwrap_or_default(),
            upper: None,
        }
    }
}

/// Whole milliseconds of a time that has passed, which is never negative.
fn millis(passed: Span) -> i64 {
    passed.max(Span::ZERO).as_nanos() / 1_000_000
}

/// Why a master asks as often as it does.
fn pause_reason(pause: Span, config: &NodeConfig) -> &'static str {
    match pause.cmp(&config.interval) {
        Ordering::Less => "error bounds would grow by much in a longer one",
        Ordering::Equal => "as configured",
        Ordering::Greater => "error bounds grow by little in it",
    }
}

impl PeerStatus {
    /// `None` before the first answer.
    fn new(member: &Member, now: LocalTime, own: Time) -> Option<Self> {
        let measured = member.extrapolated(now, own)?;
        let reason = member.left_out();
        Some(Self {
            node_id: member.peer.node.get(),
            incarnation: member.peer.incarnation.get(),
            address: member.peer.address.to_string(),
            offset_ns: member.last_offset().unwrap_or(measured.offset).ahead().as_nanos(),
            delay_ns: member.least_delay().unwrap_or_default().as_nanos(),
            skew_ppb: measured.rate.skew.as_ppb(),
            error_bound_ns: measured.error_bound.as_nanos(),
            offset_error_ns: member.offset_error(now).unwrap_or_default().as_nanos(),
            sample: member.last_sample().map(|sample| SampleStatus {
                at_ns: sample.at.as_nanos(),
                offset_ns: sample.offset.ahead().as_nanos(),
                delay_ns: sample.delay.as_nanos(),
            }),
            timestamping: member.stamps().name().to_owned(),
            counted: reason.is_none(),
            reason: reason.map(str::to_owned),
            last_heard_ms: millis(now - member.last_heard),
            retransmissions: member.retransmissions.into(),
        })
    }
}
