//! One node: the one type that both drivers (the event loop and the simulator) hold.
//!
//! It decodes what arrives, drops what is not for it, hands the rest to its role, and encodes what the role has to say.
//! It reads no clock, opens no socket and draws no randomness. The contract with its driver:
//!
//! - **Inputs** are facts, each with the local time `now` at which the driver looked: [`Node::handle_datagram`],
//!   [`Node::handle_timeout`], [`Node::reconfigure`], [`Node::handle_shutdown`]. They never fail and never block. `now` never goes back.
//! - **Outputs** are drained after every input, each until it gives `None`, in this order: [`Node::poll_transmit`], then
//!   [`Node::poll_event`]. Then [`Node::poll_timeout`] says when to call [`Node::handle_timeout`] at the latest; a call that is
//!   early, late or spurious does no harm.
//! - The instant that `poll_transmit` is given becomes t1 or t3 of the frame, so it is to be read just before the call and the
//!   frame sent at once. A driver that learns from somebody nearer to the wire when the frame left says so with
//!   [`Node::handle_transmitted`], soon, late or never.

use std::net::SocketAddr;

use bytes::BytesMut;

use crate::auth::AuthError;
use crate::clock::DisciplinedClock;
use crate::config::{NodeConfig, Role};
use crate::context::{Arrival, Context, Event, Outgoing, Upper};
use crate::counters::{Counters, DropReason};
use crate::election::Election;
use crate::guard::{Guard, Refused};
use crate::identity::{Incarnation, NodeId, Round, Term};
use crate::keys::KeyRing;
use crate::master::{Ending, Heritage, Master};
use crate::protocol::{Claim, Corrections, Entries, Frame, Header, Leave, Merit, Message, Refusal, peek_domain};
use crate::slave::Slave;
use crate::stamp::Stamp;
use crate::strangers::Strangers;
use crate::time::{LocalTime, Skew, Span, Time};

/// A node that has just made room for another master claims nothing for so long.
const ROOM: Span = Span::from_millis(500);
/// One that heard none of its members, and so is probably deaf, for longer: it would not hear the refusals.
const DEAF: Span = Span::from_secs(5);

/// Lives of other nodes that are remembered beside a full table of members: masters, and who refused a claim.
const LIVES: usize = 64;

/// A datagram to be sent; its bytes are in the buffer that was given to [`Node::poll_transmit`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Given when the node wants to know when the datagram really left.
    pub token: Option<TransmitToken>,
}

/// Names a datagram that was handed out, for [`Node::handle_transmitted`]. Nobody can tell twice when it left.
#[derive(Debug, PartialEq, Eq)]
pub struct TransmitToken(Awaited);

#[derive(Debug, PartialEq, Eq)]
enum Awaited {
    Request { to: SocketAddr, node: NodeId, t1: LocalTime },
    GroupRequest { t1: LocalTime },
    Response { t1: LocalTime },
}

/// What it is at present.
///
/// ```text
///              elected (`election.rs`)
///    Slave ──────────────────────────────► Master
///      ▲                                     │
///      └── outranked, asked, asleep, deaf ───┘
/// ```
///
/// The clock, the counters and the term stay with the node. Nodes of role master begin as masters, and come back to it when the
/// better master that they made room for is gone; nodes of role slave never leave theirs.
#[derive(Debug)]
enum RoleState {
    Master(Box<Master>),
    Slave(Box<Slave>),
}

/// A node of an ensemble.
#[derive(Debug)]
pub struct Node {
    context: Context,
    role: RoleState,
    election: Election,
    guard: Option<Guard>,
    strangers: Strangers,
    /// Of the life before this one, if the process had one: its last frames may still come back from the group.
    former: Option<Incarnation>,
}

impl Node {
    /// A node that starts at local time `now`, when its clock shows `time`. `incarnation` is drawn by the driver; `rate` is what a
    /// former life of it knew of its oscillator: the ensemble's rate relative to the local clock, zero when that is not known.
    pub fn new(config: NodeConfig, incarnation: Incarnation, now: LocalTime, time: Time, rate: Skew) -> Self {
        let clock = DisciplinedClock::new(now, time, rate, config.policy);
        let role = config.role;
        let mut context = Context::new(config, incarnation, clock);
        let role = match role {
            Role::Master => RoleState::Master(Box::new(Master::new(&mut context, now))),
            Role::Slave | Role::Auto => RoleState::Slave(Box::new(Slave::new(&context, now))),
        };
        if let Some(domain) = context.config.upper {
            context.tell(Event::Upper { domain, state: Upper::Awaited });
        }
        let strangers = Strangers::new(incarnation);
        let mut node = Self { context, role, election: Election::new(now), guard: None, strangers, former: None };
        node.look(now);
        node
    }

    /// Starts afresh, as a restarted process does, but for the counters: the local clock has missed time, or somebody has set the
    /// machine's clock, so that nothing holds any more that this life knew but the oscillator's rate.
    pub fn restart(&mut self, incarnation: Incarnation, now: LocalTime, time: Time) {
        let config = self.context.config.clone();
        let rate = self.context.clock.rate();
        let former = std::mem::replace(self, Self::new(config, incarnation, now, time, rate));
        self.context.counters = former.context.counters;
        self.former = Some(former.context.incarnation);
        if let Some(guard) = former.guard {
            self.hold_keys(guard.into_keys());
        }
    }

    /// Authenticates every frame with these keys from now on, and drops what is not authentic. Keys that it already had are replaced.
    pub fn hold_keys(&mut self, keys: KeyRing) {
        match &mut self.guard {
            Some(guard) => guard.renew(keys),
            None => {
                self.guard = Some(Guard::new(keys, self.context.incarnation, self.room()));
            }
        }
    }

    /// How many lives of others it has to remember.
    fn room(&self) -> usize {
        self.context.config.max_slaves + LIVES
    }

    /// Goes on with other settings, but for what only another life can change ([`NodeConfig::renewed`]): in the same term and role, without a
    /// jump of its clock. `wanted` is valid.
    pub fn reconfigure(&mut self, wanted: &NodeConfig, now: LocalTime) {
        self.context.reconfigure(wanted, now);
        let room = self.room();
        if let Some(guard) = &mut self.guard {
            guard.make_room(room);
        }
        match &mut self.role {
            RoleState::Master(master) => master.reconfigured(&mut self.context, now),
            RoleState::Slave(slave) => slave.reconfigured(&mut self.context, now),
        }
        // It may be a better master now than it was.
        self.look(now);
    }

    /// The keys that it holds, if any.
    pub fn keys(&self) -> Option<&KeyRing> {
        self.guard.as_ref().map(Guard::keys)
    }

    /// A datagram arrived: `stamp` says when it passed the wire, `now` when the driver got it.
    pub fn handle_datagram(&mut self, now: LocalTime, from: SocketAddr, stamp: Stamp, datagram: &[u8]) {
        match self.admit(now, from, stamp, datagram) {
            Err(reason) => self.context.drop_datagram(reason, from),
            Ok((frame, is_fresh)) => {
                self.context.counters.count_received(frame.message.kind());
                let arrival = Arrival { from, stamp, now, header: frame.header, is_fresh };
                // A master that did not run for a while listens before it does anything else.
                self.end_mastership(now);
                if let RoleState::Master(master) = &mut self.role {
                    if let Message::Refusal(refusal) = &frame.message
                        && let Some(living) = self.election.refused_late(&arrival, refusal)
                    {
                        master.give_way(living);
                    }
                    master.handle(&mut self.context, &arrival, &frame.message);
                    if self.end_mastership(now) {
                        // It may be the new master's.
                        self.handle_as_slave(&arrival, &frame.message);
                    }
                } else {
                    self.handle_as_slave(&arrival, &frame.message);
                }
            }
        }
    }

    fn handle_as_slave(&mut self, arrival: &Arrival, message: &Message<'_>) {
        let RoleState::Slave(slave) = &mut self.role else {
            return;
        };
        slave.handle(&mut self.context, arrival, message);
        let hearing = slave.hearing();
        match message {
            Message::Join(join) => self.election.on_join(arrival, join),
            Message::Claim(claim) => self.election.on_claim(&mut self.context, arrival, claim, &hearing),
            Message::Refusal(refusal) => self.election.on_refusal(&mut self.context, arrival, refusal, &hearing),
            Message::Announce(_) | Message::Leave(_) => {}
            // What comes with every round only moves the deadline back; the election looks by itself.
            Message::Request(_) | Message::Response(_) | Message::Correction(_) | Message::Acknowledgement(_) => return,
        }
        if !self.election.is_candidate() {
            self.look(arrival.now);
        }
        self.elect(arrival.now);
    }

    /// When this node has to claim may have changed.
    fn look(&mut self, now: LocalTime) {
        if let RoleState::Slave(slave) = &self.role {
            self.election.look(&self.context, &slave.hearing(), now);
        }
    }

    /// Lets the election do what is due, and takes over when that makes this node master.
    fn elect(&mut self, now: LocalTime) {
        let RoleState::Slave(slave) = &self.role else {
            return;
        };
        let hearing = slave.hearing();
        if let Some(term) = self.election.handle_timeout(&mut self.context, &hearing, now) {
            let heritage = Heritage { term, members: hearing.announce.map_or(0, |announce| announce.members) };
            self.role = RoleState::Master(Box::new(Master::elected(&mut self.context, heritage, now)));
        }
    }

    /// Makes a slave of a master whose mastership has ended; true when it had.
    fn end_mastership(&mut self, now: LocalTime) -> bool {
        let RoleState::Master(master) = &self.role else {
            return false;
        };
        let Some(ending) = master.ending(&self.context, now) else {
            return false;
        };
        let (successor, pause, reason) = match ending {
            Ending::Slept => (None, Span::ZERO, "it did not run"),
            Ending::Outranked(better) => (Some(better), ROOM, "a better master is there"),
            Ending::HandedOver(preferred) => (Some(preferred), ROOM, "a preferred node asked for it"),
            Ending::Refused(living) => (Some(living), ROOM, "others hear the master"),
            Ending::Deserted => (None, DEAF, "none of its members is heard"),
        };
        // What is still to be sent belongs to the mastership.
        self.context.discard_outgoing();
        if ending != Ending::Slept {
            master.resign(&mut self.context, successor);
        }
        let term = master.term();
        self.context.tell(Event::SteppedDown { term, successor, reason });
        self.role = RoleState::Slave(Box::new(Slave::after_mastership(&self.context, term, now)));
        self.election.stepped_down(now, pause);
        self.look(now);
        true
    }

    /// Takes in where `upper` stands, a node of the domain that this one follows, on the same oscillator. As a master this node keeps its time.
    /// To be called after every input to either of them, see `tiers.rs`.
    pub fn follow(&mut self, upper: &Self, now: LocalTime) {
        let is_heard = upper.clock().is_corrected() && upper.is_in_company(now);
        if self.context.hear_upper(is_heard, now) {
            // It may be a better master now than it was.
            self.look(now);
        }
        if let RoleState::Master(master) = &mut self.role {
            master.follow(&mut self.context, upper.clock(), now);
        }
    }

    /// True while somebody shares its time: it hears a master, or has members that answer.
    fn is_in_company(&self, now: LocalTime) -> bool {
        match &self.role {
            RoleState::Master(master) => master.strength_of_members(now) > 0,
            RoleState::Slave(slave) => slave.master().is_some(),
        }
    }

    /// Decodes a datagram, if it is one for this node, and tells whether it is certainly no recording.
    fn admit<'a>(
        &mut self,
        now: LocalTime,
        from: SocketAddr,
        stamp: Stamp,
        datagram: &'a [u8],
    ) -> Result<(Frame<'a>, bool), DropReason> {
        let config = &self.context.config;
        if peek_domain(datagram).is_some_and(|domain| domain != config.domain) {
            return Err(DropReason::OtherDomain);
        }
        if config.group.is_none() && !self.context.is_peer(from) {
            return Err(DropReason::NotAPeer);
        }
        let node = config.node_id;
        let (frame, is_fresh) = match &mut self.guard {
            None => match Frame::decode(datagram) {
                Ok(frame) => (frame, true),
                Err(fault) => {
                    if let Some(error) = AuthError::without_keys(datagram, &fault) {
                        self.context.tell(Event::NotAuthentic { from, error });
                    }
                    return Err(DropReason::from(&fault));
                }
            },
            Some(guard) => match guard.admit(datagram, stamp.at, self.context.known_time(now)) {
                Ok(admitted) => admitted,
                Err(Refused::Dropped(reason)) => return Err(reason),
                Err(Refused::NotAuthentic(error)) => {
                    self.context.tell(Event::NotAuthentic { from, error });
                    return Err(DropReason::from(&error));
                }
            },
        };
        let own = [Some(self.context.incarnation), self.former];
        if frame.header.sender == node && own.contains(&Some(frame.header.incarnation)) {
            return Err(DropReason::OwnFrame);
        }
        if frame.header.sender == node {
            self.context.tell(Event::DuplicateNodeId { node, address: from });
            return Err(DropReason::DuplicateNodeId);
        }
        if !self.knows(from, &frame) && !self.strangers.admit(now, from.ip()) {
            return Err(DropReason::TooMany);
        }
        Ok((frame, is_fresh))
    }

    /// True for a frame of a member or of the master followed, from its address. A join is what a stranger sends, whatever its sender's name is.
    fn knows(&self, from: SocketAddr, frame: &Frame<'_>) -> bool {
        let Header { sender, incarnation, .. } = frame.header;
        match (&frame.message, &self.role) {
            (Message::Join(_), _) => false,
            (Message::Response(response), RoleState::Master(master))
                if master.awaits(sender, incarnation, from, response.t1) =>
            {
                true
            }
            (_, RoleState::Master(master)) => master.has_member(sender, incarnation, from),
            (_, RoleState::Slave(slave)) => slave.hears(sender, incarnation, from),
        }
    }

    /// The datagram that `token` came with left at `stamp`, as somebody nearer to the wire than the driver says.
    pub fn handle_transmitted(&mut self, token: TransmitToken, stamp: Stamp) {
        match (token.0, &mut self.role) {
            (Awaited::Request { to, node, t1 }, RoleState::Master(master)) => master.request_left(to, node, t1, stamp),
            (Awaited::GroupRequest { t1 }, RoleState::Master(master)) => master.group_request_left(t1, stamp),
            (Awaited::Response { t1 }, RoleState::Slave(slave)) => slave.response_left(t1, stamp),
            // Sent in a role that the node no longer has.
            (Awaited::Request { .. } | Awaited::GroupRequest { .. }, RoleState::Slave(_))
            | (Awaited::Response { .. }, RoleState::Master(_)) => {}
        }
    }

    /// The time that [`Node::poll_timeout`] gave has come, or may have.
    pub fn handle_timeout(&mut self, now: LocalTime) {
        self.end_mastership(now);
        if let RoleState::Master(master) = &mut self.role {
            master.handle_timeout(&mut self.context, now);
            self.end_mastership(now);
        }
        if let RoleState::Slave(slave) = &mut self.role {
            slave.handle_timeout(&mut self.context, now);
            self.elect(now);
        }
    }

    /// The node is about to stop: it says goodbye. What it then has to send is the last.
    pub fn handle_shutdown(&mut self) {
        match &mut self.role {
            RoleState::Master(master) => master.handle_shutdown(&mut self.context),
            RoleState::Slave(slave) => slave.handle_shutdown(&mut self.context),
        }
    }

    /// Encodes the next datagram into `buffer`, which is cleared first; `None` when there is nothing to send.
    pub fn poll_transmit(&mut self, now: LocalTime, buffer: &mut BytesMut) -> Option<Transmit> {
        let outgoing = self.context.next_outgoing()?;
        let mut term = self.term();
        let no_round = Round::default();
        // What a correction borrows.
        let (one, several);
        let mut awaited = None;
        let (to, round, message) = match (outgoing, &mut self.role) {
            (Outgoing::Request { to, node }, RoleState::Master(master)) => {
                let request = master.request(&self.context, to, node, now);
                awaited = Some(Awaited::Request { to: to.address, node, t1: request.t1 });
                (to, master.round(), Message::Request(request))
            }
            (Outgoing::GroupRequest { to, window }, RoleState::Master(master)) => {
                let request = master.group_request(&self.context, window, now);
                awaited = Some(Awaited::GroupRequest { t1: request.t1 });
                (to, master.round(), Message::Request(request))
            }
            (Outgoing::Announce { to, announce }, RoleState::Master(master)) => {
                (to, master.round(), Message::Announce(announce))
            }
            (Outgoing::Correction { to, round, entry, previous, by_response }, RoleState::Master(_)) => {
                one = entry;
                let entries = Entries::Typed(std::slice::from_ref(&one));
                (to, round, Message::Correction(Corrections { entries, previous, by_response }))
            }
            (Outgoing::GroupCorrection { to, round, entries }, RoleState::Master(_)) => {
                several = entries;
                (to, round, Message::Correction(Corrections::of(&several)))
            }
            (Outgoing::Response { to, request, t2, round }, RoleState::Slave(slave)) => {
                awaited = Some(Awaited::Response { t1: request.t1 });
                (to, round, Message::Response(slave.response(&self.context, &request, t2, now)))
            }
            (Outgoing::Acknowledgement { to, round, acknowledgement }, RoleState::Slave(_)) => {
                (to, round, Message::Acknowledgement(acknowledgement))
            }
            (Outgoing::Join { to }, RoleState::Slave(slave)) => {
                (to, no_round, Message::Join(self.context.join(slave.mastership(), now)))
            }
            // To a better master, before this one steps down.
            (Outgoing::Join { to }, RoleState::Master(_)) => {
                let own = (self.context.config.node_id, self.context.incarnation);
                (to, no_round, Message::Join(self.context.join(Some(own), now)))
            }
            (Outgoing::Leave { to, successor }, RoleState::Master(_) | RoleState::Slave(_)) => {
                (to, no_round, Message::Leave(Leave { successor }))
            }
            (Outgoing::Claim { to, term: wanted, is_handover }, RoleState::Slave(_)) => {
                term = wanted;
                // It stood when it claimed.
                let merit = self.context.merit(now).unwrap_or(Merit::Implausible);
                (to, no_round, Message::Claim(Claim { priority: self.context.config.priority, merit, is_handover }))
            }
            (Outgoing::Refusal { to, master }, RoleState::Master(_) | RoleState::Slave(_)) => {
                (to, no_round, Message::Refusal(Refusal { master }))
            }
            // A frame of a role that the node no longer has.
            (
                Outgoing::Request { .. }
                | Outgoing::GroupRequest { .. }
                | Outgoing::Announce { .. }
                | Outgoing::Correction { .. }
                | Outgoing::GroupCorrection { .. },
                RoleState::Slave(_),
            )
            | (
                Outgoing::Response { .. } | Outgoing::Acknowledgement { .. } | Outgoing::Claim { .. },
                RoleState::Master(_),
            ) => return self.poll_transmit(now, buffer),
        };
        let header = Header {
            domain: self.context.config.domain,
            round,
            term,
            sender: self.context.config.node_id,
            incarnation: self.context.incarnation,
        };
        buffer.clear();
        self.context.counters.count_sent(message.kind());
        Frame { header, message }.encode(buffer);
        if let Some(guard) = &mut self.guard {
            guard.seal(buffer, to.incarnation, now, self.context.known_time(now));
        }
        Some(Transmit { to: to.address, token: awaited.map(TransmitToken) })
    }

    /// The next thing worth telling; `None` when all is told.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.context.next_event()
    }

    /// When [`Node::handle_timeout`] is due; `None`: never.
    pub fn poll_timeout(&self) -> Option<LocalTime> {
        match &self.role {
            RoleState::Master(master) => master.next_timeout(),
            RoleState::Slave(slave) => slave.next_timeout().into_iter().chain(self.election.next_timeout()).min(),
        }
    }

    /// The clock that the node keeps.
    pub fn clock(&self) -> &DisciplinedClock {
        &self.context.clock
    }

    /// What it counts.
    pub fn counters(&self) -> &Counters {
        &self.context.counters
    }

    /// Its settings.
    pub fn config(&self) -> &NodeConfig {
        &self.context.config
    }

    /// This life of it.
    pub fn incarnation(&self) -> Incarnation {
        self.context.incarnation
    }

    /// The newest term that it knows.
    pub fn term(&self) -> Term {
        match &self.role {
            RoleState::Master(master) => master.term(),
            RoleState::Slave(slave) => slave.term(),
        }
    }

    /// The master's round, or the round of a slave's last correction.
    pub fn round(&self) -> Round {
        match &self.role {
            RoleState::Master(master) => master.round(),
            RoleState::Slave(slave) => slave.applied_round(),
        }
    }

    /// Who is master, as far as it knows: itself, or whom it hears.
    pub fn master(&self) -> Option<NodeId> {
        match &self.role {
            RoleState::Master(_) => Some(self.context.config.node_id),
            RoleState::Slave(slave) => slave.master(),
        }
    }

    /// Since when, as far as it has seen.
    pub fn master_since(&self) -> Option<LocalTime> {
        match &self.role {
            RoleState::Master(master) => Some(master.since()),
            RoleState::Slave(slave) => slave.master_since(),
        }
    }

    /// True while it stands for election.
    pub fn is_candidate(&self) -> bool {
        matches!(self.role, RoleState::Slave(_)) && self.election.is_candidate()
    }

    /// Its master role, when it has it.
    pub fn as_master(&self) -> Option<&Master> {
        match &self.role {
            RoleState::Master(master) => Some(master),
            RoleState::Slave(_) => None,
        }
    }

    /// The last correction of its clock; zero before the first.
    pub fn last_correction(&self) -> Span {
        self.context.last_correction
    }

    /// In which mastership its clock was corrected last.
    pub fn corrected_in(&self) -> Option<(Term, NodeId)> {
        self.context.corrected_in
    }

    /// How the domain above stands; `None` when it follows none.
    pub fn upper(&self) -> Option<Upper> {
        self.context.config.upper.map(|_| self.context.upper)
    }

    /// The last correction that it refused.
    pub fn refused_correction(&self) -> Option<Span> {
        self.context.refused_correction
    }

    /// True when its clock has been corrected and its error bound is within γ.
    pub fn is_synchronised(&self, now: LocalTime) -> bool {
        self.context.is_synchronised(now)
    }
}
