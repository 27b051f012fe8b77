//! What the roles of a node share: its settings, its clock, what it has to send and to tell.
//!
//! A role changes none of this except through here, so that a node can move from one role to another and keep its
//! clock, its counters and what it knows of terms.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;

use crate::auth::AuthError;
use crate::clock::{Applied, DisciplinedClock, TooLarge};
use crate::config::{NodeConfig, Role};
use crate::counters::{Counters, DropReason};
use crate::identity::{Domain, Incarnation, NodeId, Round, Term};
use crate::protocol::{Acknowledgement, Announce, Answered, Entry, Header, Join, Merit, Request, Window};
use crate::stamp::Stamp;
use crate::time::{LocalTime, Skew, Span, Time};
use crate::timers::Throttle;
use crate::witness::Contradiction;

/// Between two refusals by one node: a hundred nodes that claim at once are refused within half a second, and a flood of forged
/// claims is no reason to send more.
const REFUSAL_PAUSE: Span = Span::from_millis(5);
/// A foreign frame may raise the term by so much: a node that comes back is that many masterships behind at most, and a forged
/// term does not use up all numbers at once.
pub const TERM_LEAP: u64 = 1 << 16;

/// True when a node of term `own` may believe in `claimed`.
pub fn is_within_leap(claimed: Term, own: Term) -> bool {
    claimed.get() <= own.get().saturating_add(TERM_LEAP)
}

/// No honest clock shows an earlier time: 2020 began, long before this program. A machine without a battery-backed
/// clock starts in 1970 or at its firmware's date.
const EARLIEST_PLAUSIBLE: Time = Time::from_nanos(1_577_836_800_000_000_000);

/// True when a clock that shows `time` may have been set by somebody.
pub fn is_plausible(time: Time) -> bool {
    time >= EARLIEST_PLAUSIBLE
}

/// Who sent a frame, when and by what header: all of it that the roles need beside the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Whose it is, as the network says.
    pub from: SocketAddr,
    /// When it passed the wire.
    pub stamp: Stamp,
    /// When the driver got it.
    pub now: LocalTime,
    /// Whose it is, as it says itself, and of what term and round.
    pub header: Header,
    /// It was certainly sent to this life of this node, or by somebody who has proved to be alive in it. What is not may be a
    /// recording, and is no reason to do anything but to ask the sender for a proof. Without keys nobody can tell: true.
    pub is_fresh: bool,
}

impl Arrival {
    /// Whom an answer is for.
    pub fn sender(&self) -> Recipient {
        Recipient::one(self.from, self.header.incarnation)
    }
}

/// Whom a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Where it is.
    pub address: SocketAddr,
    /// Which life of a node alone it is for; `None`: whoever hears it.
    pub incarnation: Option<Incarnation>,
}

impl Recipient {
    /// One life of a node.
    pub fn one(address: SocketAddr, incarnation: Incarnation) -> Self {
        Self { address, incarnation: Some(incarnation) }
    }

    /// Whoever hears it there.
    pub fn anybody(address: SocketAddr) -> Self {
        Self { address, incarnation: None }
    }
}

/// A frame that waits to be sent. What depends on the instant of sending is filled in when it is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// Ask a slave; its t1 is the instant of sending.
    Request {
        /// Whom for.
        to: Recipient,
        /// Whom.
        node: NodeId,
    },
    /// Ask all who hear the group.
    GroupRequest {
        /// The group.
        to: Recipient,
        /// Over how long their answers are to be spread.
        window: Window,
    },
    /// Answer a master; t3 and all that the clock says are of the instant of sending.
    Response {
        /// Whom for.
        to: Recipient,
        /// The request that is answered.
        request: Request,
        /// When it arrived.
        t2: Stamp,
        /// Its round.
        round: Round,
    },
    /// Correct one slave.
    Correction {
        /// Whom for.
        to: Recipient,
        /// Its round.
        round: Round,
        /// What it has to do.
        entry: Entry,
        /// The exchange on which that rests.
        previous: Option<Answered>,
        /// Its next response will acknowledge it.
        by_response: bool,
    },
    /// Correct some of those that hear the group.
    GroupCorrection {
        /// The group.
        to: Recipient,
        /// Its round.
        round: Round,
        /// Not more than fit a frame.
        entries: Vec<Entry>,
    },
    /// Acknowledge a correction.
    Acknowledgement {
        /// Whom for.
        to: Recipient,
        /// The correction's round.
        round: Round,
        /// What is acknowledged.
        acknowledgement: Acknowledgement,
    },
    /// Look for a master.
    Join {
        /// Whom for.
        to: Recipient,
    },
    /// Stop, or be master no more.
    Leave {
        /// Whom for.
        to: Recipient,
        /// Who takes over.
        successor: Option<NodeId>,
    },
    /// Want to be master.
    Claim {
        /// Whom for.
        to: Recipient,
        /// The term that is wanted.
        term: Term,
        /// A living master is asked to hand over.
        is_handover: bool,
    },
    /// Refuse a claim.
    Refusal {
        /// Whom for.
        to: Recipient,
        /// The living master that is heard.
        master: Option<NodeId>,
    },
    /// Say that the master is there.
    Announce {
        /// Whom for.
        to: Recipient,
        /// The same for everybody.
        announce: Announce,
    },
}

/// How a node that follows a domain above stands to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upper {
    /// It has not told the time yet.
    #[default]
    Awaited,
    /// It tells the time, as of this instant.
    Heard(LocalTime),
    /// It told the time once, and is not heard any more.
    Lost,
}

/// The domain above may be without a master for so long before it counts as lost. A fail-over there takes half a second, and is no reason for
/// another mastership here.
const UPPER_PATIENCE: Span = Span::from_secs(3);

impl Upper {
    /// The same at `now`, when it `is_heard` or not.
    fn after(self, is_heard: bool, now: LocalTime) -> Self {
        match self {
            _ if is_heard => Self::Heard(now),
            Self::Heard(last) if now - last >= UPPER_PATIENCE => Self::Lost,
            Self::Awaited | Self::Heard(_) | Self::Lost => self,
        }
    }

    /// For people: a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Awaited => "awaited",
            Self::Heard(_) => "heard",
            Self::Lost => "lost",
        }
    }
}

/// Something worth telling an operator or a test. The driver logs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Slave: follows this master from now on.
    Following {
        /// The master.
        master: NodeId,
        /// Where it is.
        address: SocketAddr,
        /// Its mastership.
        term: Term,
    },
    /// Slave: the master fell silent, or said that it stops; the clock goes on as it is.
    MasterLost {
        /// The master.
        master: NodeId,
        /// True when it said so itself.
        resigned: bool,
    },
    /// Wants to be master.
    Claimed {
        /// Of this term.
        term: Term,
    },
    /// Does not become master.
    ClaimDropped {
        /// Why, in a few words.
        reason: &'static str,
    },
    /// Is refused again and again by somebody who hears a master that this node does not hear.
    MasterOutOfReach {
        /// The master.
        master: NodeId,
        /// Who hears it.
        heard_at: SocketAddr,
    },
    /// Master: is master no more.
    SteppedDown {
        /// Of this term.
        term: Term,
        /// Who takes over, as far as it knows.
        successor: Option<NodeId>,
        /// Why, in a few words.
        reason: &'static str,
    },
    /// Master: hears fewer nodes than its quorum, and stops correcting; or enough again.
    Quorum {
        /// It hears enough.
        is_reached: bool,
        /// How many it hears, itself included.
        heard: usize,
    },
    /// Master: took this term.
    TermTaken {
        /// The new term.
        term: Term,
    },
    /// Master: a slave is polled from now on.
    Joined {
        /// The slave.
        node: NodeId,
        /// Where it is.
        address: SocketAddr,
    },
    /// Master: a slave is no longer polled.
    Left {
        /// The slave.
        node: NodeId,
        /// True when it said so itself, false when it was silent for too long or is no peer any more.
        resigned: bool,
    },
    /// Master: a slave does not answer any more.
    Silent {
        /// The slave.
        node: NodeId,
    },
    /// Master: a silent slave answers again.
    Returned {
        /// The slave.
        node: NodeId,
    },
    /// Master: a slave's clock is averaged from now on, or no more.
    Standing {
        /// The slave.
        node: NodeId,
        /// Why it is left out; `None` when it counts.
        left_out: Option<&'static str>,
    },
    /// Master: rounds follow each other at this distance from now on, because the error bounds of most slaves would grow by much in a
    /// longer one, or by little in this one.
    Paced {
        /// From one round to the next.
        pause: Span,
    },
    /// Master: a slave's local clock has jumped; its samples were thrown away.
    LocalClockJumped {
        /// The slave.
        node: NodeId,
    },
    /// Master: a slave refused its correction because it is larger than the slave allows.
    RefusedBySlave {
        /// The slave.
        node: NodeId,
        /// The correction.
        correction: Span,
    },
    /// Two processes use one node number.
    DuplicateNodeId {
        /// The number.
        node: NodeId,
        /// Where the other one is.
        address: SocketAddr,
    },
    /// Master: another node announces itself as master of the same ensemble.
    OtherMaster {
        /// Its number.
        node: NodeId,
        /// Where it is.
        address: SocketAddr,
    },
    /// Master: there is no room for another slave.
    TableFull {
        /// Who was turned away.
        address: SocketAddr,
    },
    /// This node's clock was corrected.
    Corrected {
        /// In which round.
        round: Round,
        /// How.
        applied: Applied,
    },
    /// Submaster: whether the domain above tells the time has changed.
    Upper {
        /// The domain.
        domain: Domain,
        /// How it stands now.
        state: Upper,
    },
    /// Submaster: this node's clock was put where that of the domain above stands.
    Led {
        /// How.
        applied: Applied,
    },
    /// This node refused a correction.
    Refused {
        /// Whose it is.
        master: NodeId,
        /// The correction.
        correction: Span,
        /// What speaks against it.
        objection: Objection,
    },
    /// A round ended (master).
    Averaged {
        /// Which.
        round: Round,
        /// How many clocks were averaged.
        counted: usize,
        /// How many were read, the master's own included.
        read: usize,
        /// What the master's own clock was corrected by.
        correction: Span,
    },
    /// A datagram is not authentic; it is dropped as well.
    NotAuthentic {
        /// Where it came from.
        from: SocketAddr,
        /// Why.
        error: AuthError,
    },
    /// A datagram was dropped.
    Dropped {
        /// Why.
        reason: DropReason,
        /// Whose it was.
        from: SocketAddr,
    },
}

/// Why a node does not do what a correction asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// Its policy does not allow so much.
    TooLarge(TooLarge),
    /// What it has measured itself speaks against it.
    Contradicted(Contradiction),
}

impl From<TooLarge> for Objection {
    fn from(too_large: TooLarge) -> Self {
        Self::TooLarge(too_large)
    }
}

impl From<Contradiction> for Objection {
    fn from(contradiction: Contradiction) -> Self {
        Self::Contradicted(contradiction)
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(TooLarge { limit }) => write!(f, "larger than {limit} (--max-correction)"),
            Self::Contradicted(contradiction) => contradiction.fmt(f),
        }
    }
}

/// A queue that has been emptied keeps room for so much, of what there was when ten thousand members had something to say at once.
const KEPT_ROOM: usize = 256;

/// Takes the first out of a queue.
fn next<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let first = queue.pop_front();
    if first.is_none() {
        queue.shrink_to(KEPT_ROOM);
    }
    first
}

/// What the roles of one node share.
#[derive(Debug)]
pub struct Context {
    /// The settings.
    pub config: NodeConfig,
    /// This life of the node.
    pub incarnation: Incarnation,
    /// The clock it keeps.
    pub clock: DisciplinedClock,
    /// What it counts.
    pub counters: Counters,
    /// The last correction of its clock.
    pub last_correction: Span,
    /// The last correction that it refused.
    pub refused_correction: Option<Span>,
    /// In which mastership the clock was corrected last. A new master knows by it who belonged to the same ensemble as itself.
    ///
    /// It does not name the master's life. One that starts again, cut off from all that it corrected before, takes the same term once more. When both
    /// sides meet under another master, those of one pass for heirs of the other, if they stand where heirs do (`Member::check_heritage`): with
    /// a vote four rounds early, and a rate that is believed until the exchanges contradict it.
    pub corrected_in: Option<(Term, NodeId)>,
    /// How the domain above stands, if this node follows one.
    pub upper: Upper,
    /// The configured peers, to be found among thousands: every datagram asks for one where there is no group.
    peers: BTreeSet<SocketAddr>,
    outgoing: VecDeque<Outgoing>,
    events: VecDeque<Event>,
    refusals: Throttle,
}

impl Context {
    /// A node's shared part at its start.
    pub fn new(config: NodeConfig, incarnation: Incarnation, clock: DisciplinedClock) -> Self {
        Self {
            peers: config.peers.iter().copied().collect(),
            config,
            incarnation,
            clock,
            counters: Counters::default(),
            last_correction: Span::ZERO,
            refused_correction: None,
            corrected_in: None,
            upper: Upper::Awaited,
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            refusals: Throttle::default(),
        }
    }

    /// Takes over what a running node can of other settings.
    pub fn reconfigure(&mut self, wanted: &NodeConfig, now: LocalTime) {
        self.config = self.config.renewed(wanted);
        self.peers = self.config.peers.iter().copied().collect();
        self.clock.obey(self.config.policy, now);
    }

    /// Queues a frame. The queue is emptied after every input, so that it holds no more than one input can cause:
    /// a few frames for each member.
    pub fn send(&mut self, outgoing: Outgoing) {
        self.outgoing.push_back(outgoing);
    }

    /// The next frame to be sent.
    pub fn next_outgoing(&mut self) -> Option<Outgoing> {
        next(&mut self.outgoing)
    }

    /// Forgets what waits to be sent.
    pub fn discard_outgoing(&mut self) {
        self.outgoing.clear();
    }

    /// Tells something.
    pub fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// The next thing to be told.
    pub fn next_event(&mut self) -> Option<Event> {
        next(&mut self.events)
    }

    /// Remembers and tells that a correction of this master's was refused.
    pub fn refuse(&mut self, master: NodeId, correction: Span, objection: Objection) {
        self.refused_correction = Some(correction);
        self.tell(Event::Refused { master, correction, objection });
    }

    /// Answers a claim, unless it has just answered another. `master`: the living one that is heard.
    pub fn refuse_claim(&mut self, arrival: &Arrival, master: Option<NodeId>) {
        if self.refusals.admits(arrival.now, REFUSAL_PAUSE) {
            self.send(Outgoing::Refusal { to: arrival.sender(), master });
        }
    }

    /// Counts a dropped datagram and tells of it.
    pub fn drop_datagram(&mut self, reason: DropReason, from: SocketAddr) {
        self.counters.count_dropped(reason);
        self.tell(Event::Dropped { reason, from });
    }

    /// Where frames for the whole ensemble go: the group, if there is one, and every configured peer.
    pub fn everybody(&self) -> impl Iterator<Item = Recipient> + '_ {
        self.config.group.into_iter().chain(self.config.peers.iter().copied()).map(Recipient::anybody)
    }

    /// The ensemble's rate relative to the local clock, when this node knows it: corrected in this life, or remembered from a former.
    pub fn known_rate(&self) -> Option<Skew> {
        let rate = self.clock.rate();
        (self.clock.is_corrected() || rate != Skew::ZERO).then_some(rate)
    }

    /// True for the address of a configured peer.
    pub fn is_peer(&self, address: SocketAddr) -> bool {
        self.peers.contains(&address)
    }

    /// The join of this instant. `master`: that of the newest term it knows.
    pub fn join(&self, master: Option<(NodeId, Incarnation)>, now: LocalTime) -> Join {
        Join {
            priority: self.config.priority,
            is_reference: self.config.is_reference,
            hears_group: self.config.group.is_some(),
            master,
            merit: self.merit(now),
            corrected_in: self.corrected_in,
            rate_error: self.clock.rate_error(now),
        }
    }

    /// Takes in whether the domain above tells the time. True when that has changed.
    pub fn hear_upper(&mut self, is_heard: bool, now: LocalTime) -> bool {
        let Some(domain) = self.config.upper else {
            return false;
        };
        let state = self.upper.after(is_heard, now);
        let before = std::mem::replace(&mut self.upper, state);
        let has_changed = std::mem::discriminant(&before) != std::mem::discriminant(&state);
        if has_changed {
            self.tell(Event::Upper { domain, state });
        }
        has_changed
    }

    /// True while it follows a domain above and no clock has ever told it the time: it can lead nobody.
    pub fn awaits_upper(&self) -> bool {
        self.config.upper.is_some() && !self.clock.is_corrected()
    }

    /// How far the target that a master of this node keeps its ensemble to can be from ensemble time, and its rate: not at all, since
    /// that is the ensemble's time, unless the time of another domain is kept.
    pub fn inherited_error(&self, now: LocalTime) -> (Span, Skew) {
        match self.config.upper {
            Some(_) => (self.clock.target_error_bound(now), self.clock.rate_error(now)),
            None => (Span::ZERO, Skew::ZERO),
        }
    }

    /// What it would bring to a mastership; `None`: it does not stand. A clock that nobody ever set and nobody ever corrected
    /// is the last choice. A submaster is appointed for as long as it can keep the time of the domain above.
    pub fn merit(&self, now: LocalTime) -> Option<Merit> {
        match self.config.role {
            Role::Slave => None,
            Role::Master if self.config.upper.is_none() => Some(Merit::Appointed),
            Role::Master if matches!(self.upper, Upper::Heard(_)) => Some(Merit::Appointed),
            Role::Master if self.upper == Upper::Awaited => None,
            Role::Master | Role::Auto if self.clock.is_corrected() => Some(Merit::Established),
            Role::Master | Role::Auto if is_plausible(self.clock.read(now)) => Some(Merit::Plausible),
            Role::Master | Role::Auto => Some(Merit::Implausible),
        }
    }

    /// What the clock shows, when the ensemble has set it.
    pub fn known_time(&self, now: LocalTime) -> Option<Time> {
        self.is_synchronised(now).then(|| self.clock.read(now))
    }

    /// True when the clock has been corrected and is known well enough to claim agreement: within γ.
    pub fn is_synchronised(&self, now: LocalTime) -> bool {
        self.clock.error_bound(now) <= self.config.gamma
    }
}
