//! The slave's state machine: finds a master, answers its requests, applies its corrections, holds over without one.
//!
//! ```text
//!              announce or request of an acceptable term
//!  Listening ───────────────────────────────────────────► Following
//!      ▲                                                      │
//!      └─────── silent for too long, or it leaves ────────────┘
//! ```
//!
//! What it hears of the master ([`Slave::hearing`]) is what the election goes by; whether a node stands is decided there.
//!
//! Invariants:
//! - the term never goes down, and in one term only one master (node, incarnation) is followed;
//! - while the master followed is alive no other takes its place, whatever its term: the two masters settle it between
//!   themselves, and the worse says when it goes;
//! - a correction is applied only if it comes from the master followed, in its term, in a round above the last
//!   applied one, for this incarnation and adjustment count, with a reference near now: so at most once, never
//!   late, never out of order;
//! - each request is answered once, to where it came from, but one to the group only when it is the master's, at most one in
//!   [`GROUP_PAUSE`], and not when another request has come before its turn; nothing else that a stranger sends is answered, except
//!   by a join to whoever announces, at most one in [`JOIN_PAUSE`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use crate::clock::{Applied, Correction};
use crate::config::{NodeConfig, Role};
use crate::context::{Arrival, Context, Event, Objection, Outgoing, Recipient, is_within_leap};
use crate::counters::DropReason;
use crate::election::{Hearing, Rank, silence};
use crate::exchange::Exchange;
use crate::identity::{Incarnation, NodeId, Round, Term};
use crate::protocol::{
    Acknowledgement, Announce, Answered, Corrections, Departure, Entry, Header, Join, Leave, Message, Outcome, Request,
    Response, Window,
};
use crate::stamp::{Stamp, StampSource};
use crate::time::{LocalTime, Span};
use crate::timers::{Throttle, Timers};
use crate::witness::Witness;

/// The first pause between two joins, and the least that ever lies between two.
const JOIN_PAUSE: Span = Span::from_millis(100);
/// The pause doubles up to this: a master that starts late is found within a second even if its announce is lost.
const LONGEST_JOIN_PAUSE: Span = Span::from_secs(1);
/// A correction whose reference lies further from now than this is late: longer than a master repeats it.
const LONGEST_CORRECTION_AGE: Span = Span::from_secs(4);
/// Who never stands looks for a master within this time of its start. Shorter: more of those that start at once do before they hear each other.
const FIRST_JOIN_SPREAD: Span = Span::from_millis(20);
/// Those who join a new master spread out by so much for each of them.
const JOIN_SPREAD: Span = Span::from_micros(300);
/// A followed master that has not asked for so many of its intervals (and a second at least) has forgotten us.
const FORGOTTEN_INTERVALS: i64 = 3;

/// Requests to the group are answered no more often than this: a forged one has everybody answer. Longer: shorter rounds have to ask one by one.
const GROUP_PAUSE: Span = Span::from_millis(50);
/// Who never stands and has heard so many others look for a master does not do so as well: it waits for the announce that these bring about. Ten
/// thousand that start at once would else each hear ten thousand joins.
const CROWD: u32 = 8;
/// Nor does who stands, when so many who would be preferred look for one: the standby order has no place for more. Fewer: small groups would
/// be without some of theirs.
const STANDING_CROWD: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Answer the request to the group.
    Answer,
    /// Send the next join.
    Join,
    /// The master has been silent for too long.
    Silence,
}

/// The master of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mastership {
    term: Term,
    master: NodeId,
    incarnation: Incarnation,
    /// When it was heard for the first time.
    since: LocalTime,
    /// The last round of this term in which we were corrected, and what became of the correction, to be said again
    /// when it arrives again.
    corrected: Option<(Round, Outcome)>,
}

/// A master that is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Following {
    address: SocketAddr,
    /// When it last asked or corrected just us; `None`: it does not know of us yet.
    last_addressed: Option<LocalTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No master is heard; the next join after this pause.
    Listening { pause: Span },
    /// The master of the newest term is heard.
    Following(Following),
}

/// The response that was sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    t1: LocalTime,
    t2: LocalTime,
    t3: LocalTime,
    /// How much later than `t3` it left, once that is known.
    late: Option<Span>,
}

impl Sent {
    /// The whole exchange, with the stamps of the master's.
    fn exchange(&self, answered: Answered) -> Option<Exchange> {
        let Self { t1, t2, t3, late } = *self;
        let t3 = t3 + late.unwrap_or(Span::ZERO);
        (t1 == answered.t1).then_some(Exchange { t1, t2, t3, t4: answered.t4 })
    }
}

/// The slave role of a node.
#[derive(Debug)]
pub struct Slave {
    state: State,
    /// The newest mastership that was followed.
    mastership: Option<Mastership>,
    timers: Timers<Timer>,
    last_join: Option<LocalTime>,
    /// Who announced itself as master and would be followed, but has still to prove that it is alive.
    found: Option<Recipient>,
    /// How many others look for a master as well, who would be preferred as one: those heard since this node did so last, and half of those before.
    crowd: u32,
    last_response: Option<Sent>,
    /// The answer to a request to the group, until it is its turn.
    answer: Option<Outgoing>,
    group_requests: Throttle,
    /// The exchange on which the last correction rested.
    told: Option<Answered>,
    /// What it has seen of the master's clock itself.
    witness: Witness,
    /// When this role began.
    since: LocalTime,
    /// When the master was heard last.
    last_heard: Option<LocalTime>,
    /// It said that it leaves, and whom it named.
    left_to: Option<Option<NodeId>>,
    /// What it announced last.
    announce: Option<Announce>,
}

impl Slave {
    /// A slave that joins at once, or as soon as it can have heard whether many do.
    pub fn new(context: &Context, now: LocalTime) -> Self {
        let NodeConfig { node_id, role, group, .. } = context.config;
        let is_patient = role == Role::Slave && group.is_some();
        let wait = if is_patient { place(node_id, context.incarnation.get(), FIRST_JOIN_SPREAD) } else { Span::ZERO };
        let mut timers = Timers::default();
        timers.set(Timer::Join, now + wait);
        Self {
            state: State::Listening { pause: JOIN_PAUSE },
            mastership: None,
            timers,
            last_join: None,
            found: None,
            crowd: 0,
            last_response: None,
            answer: None,
            group_requests: Throttle::default(),
            told: None,
            witness: Witness::default(),
            since: now,
            last_heard: None,
            left_to: None,
            announce: None,
        }
    }

    /// A node that was master of `term` until now: it looks for the next one, and follows none of that term or below.
    pub fn after_mastership(context: &Context, term: Term, now: LocalTime) -> Self {
        let (master, incarnation) = (context.config.node_id, context.incarnation);
        let mastership = Mastership { term, master, incarnation, since: now, corrected: None };
        Self { mastership: Some(mastership), ..Self::new(context, now) }
    }

    /// What it knows of the master.
    pub fn hearing(&self) -> Hearing {
        Hearing {
            term: self.term(),
            master: self.mastership.map(|mastership| mastership.master),
            reached_at: self.followed(),
            last_heard: self.last_heard,
            since: self.since,
            left_to: self.left_to,
            announce: self.announce,
        }
    }

    /// How the master that is followed is reached, if one is heard.
    fn followed(&self) -> Option<Recipient> {
        match (self.state, self.mastership) {
            (State::Following(following), Some(known)) => Some(Recipient::one(following.address, known.incarnation)),
            (State::Following(_), None) | (State::Listening { .. }, _) => None,
        }
    }

    /// True for the number, life and address of the master that is followed.
    pub fn hears(&self, node: NodeId, incarnation: Incarnation, from: SocketAddr) -> bool {
        self.master() == Some(node) && self.followed() == Some(Recipient::one(from, incarnation))
    }

    /// The master that is followed, if one is heard.
    pub fn master(&self) -> Option<NodeId> {
        self.followed_mastership().map(|mastership| mastership.master)
    }

    /// When it was heard for the first time in this term.
    pub fn master_since(&self) -> Option<LocalTime> {
        self.followed_mastership().map(|mastership| mastership.since)
    }

    fn followed_mastership(&self) -> Option<&Mastership> {
        match self.state {
            State::Listening { .. } => None,
            State::Following(_) => self.mastership.as_ref(),
        }
    }

    /// The highest term followed so far.
    pub fn term(&self) -> Term {
        self.mastership.map(|mastership| mastership.term).unwrap_or_default()
    }

    /// The round of the last correction applied (or refused) in this term; zero when none.
    pub fn applied_round(&self) -> Round {
        let corrected = self.mastership.and_then(|mastership| mastership.corrected);
        corrected.map(|(round, _)| round).unwrap_or_default()
    }

    /// When the next timer is due.
    pub fn next_timeout(&self) -> Option<LocalTime> {
        self.timers.next()
    }

    /// Takes in one legal frame of this domain from somebody else.
    pub fn handle(&mut self, context: &mut Context, arrival: &Arrival, message: &Message<'_>) {
        let Arrival { from, .. } = *arrival;
        match message {
            Message::Request(request) => self.on_request(context, arrival, request),
            Message::Announce(announce) => self.on_announce(context, arrival, announce),
            Message::Correction(corrections) => self.on_correction(context, arrival, corrections),
            Message::Leave(leave) => self.on_leave(context, arrival, *leave),
            // Others look for the master too, and the group hears them all. The election takes note.
            Message::Join(join) => self.crowd = self.crowd.saturating_add(is_before(context, arrival, join).into()),
            Message::Claim(_) | Message::Refusal(_) => {}
            Message::Response(_) | Message::Acknowledgement(_) => context.drop_datagram(DropReason::WrongRole, from),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, context: &mut Context, now: LocalTime) {
        while let Some(timer) = self.timers.pop_due(now) {
            match (timer, self.state) {
                (Timer::Join, _) => self.join(context, now),
                (Timer::Answer, _) => self.answer.take().into_iter().for_each(|answer| context.send(answer)),
                (Timer::Silence, State::Following(_)) => self.lose_master(context, now, false),
                (Timer::Silence, State::Listening { .. }) => {}
            }
        }
    }

    /// Asks for a master: whoever announced itself and has yet to prove that it is alive, the one that is followed and does not know of
    /// us, or everybody.
    fn join(&mut self, context: &mut Context, now: LocalTime) {
        let found = self.found.take();
        match self.state {
            State::Listening { pause } => {
                let is_one_of_many = self.is_one_of_many(context);
                self.crowd /= 2;
                if found.is_some() || !is_one_of_many {
                    self.last_join = Some(now);
                    let to: Vec<Recipient> = found.map_or_else(|| context.everybody().collect(), |found| vec![found]);
                    for to in to {
                        context.send(Outgoing::Join { to });
                    }
                }
                self.state = State::Listening { pause: pause.times(2).min(LONGEST_JOIN_PAUSE) };
                self.timers.set(Timer::Join, now + pause);
            }
            State::Following(following) => {
                let unaware = self.followed().filter(|_| following.last_addressed.is_none());
                if let Some(to) = found.or(unaware) {
                    self.send_join(context, now, to);
                }
            }
        }
    }

    /// The settings have changed: the master that is followed has to know what this node brings now. Until it asks, it is told again.
    pub fn reconfigured(&mut self, context: &mut Context, now: LocalTime) {
        if let State::Following(following) = &mut self.state {
            following.last_addressed = None;
        }
        if let Some(to) = self.followed() {
            self.send_join(context, now, to);
        }
    }

    /// Says goodbye.
    pub fn handle_shutdown(&mut self, context: &mut Context) {
        if let Some(to) = self.followed() {
            context.send(Outgoing::Leave { to, successor: None });
        }
    }

    /// The master of the newest term that it followed, for a join.
    pub fn mastership(&self) -> Option<(NodeId, Incarnation)> {
        self.mastership.map(|mastership| (mastership.master, mastership.incarnation))
    }

    /// The response of this instant to a request that arrived at `t2`. It tells when the one before it left.
    pub fn response(&mut self, context: &Context, request: &Request, t2: Stamp, t3: LocalTime) -> Response {
        let clock = &context.clock;
        // A lie for tests and demonstrations, zero in honest nodes: see `NodeConfig::lie`.
        let lie = context.config.lie;
        let t1 = request.t1;
        let sent = Sent { t1, t2: t2.at, t3: t3.max(t2.at), late: None };
        let previous = self.last_response.replace(sent);
        Response {
            t1,
            t2: t2.at,
            t3: sent.t3,
            ahead: clock.read(t3).ahead_of(t3) + lie,
            slew: clock.slew(t3),
            rate: clock.rate(),
            error_bound: clock.error_bound(t3),
            adjustment: clock.adjustment(),
            applied_round: self.applied_round(),
            previous: previous.and_then(|sent| Some(Departure { t1: sent.t1, late: sent.late? })),
            is_reference: context.config.is_reference,
            is_synchronised: context.is_synchronised(t3),
            is_stamped_near_the_wire: t2.source < StampSource::User,
        }
    }

    /// The response that carried this t1 left at `stamp`. Only that of the last one is of use.
    pub fn response_left(&mut self, t1: LocalTime, stamp: Stamp) {
        if let Some(sent) = self.last_response.as_mut().filter(|sent| sent.t1 == t1) {
            sent.late = Some(stamp.at - sent.t3).filter(|late| late.is_forward());
        }
    }

    /// Hears the sender as the master, if it is the one followed or by this frame becomes it. Only requests and
    /// announces introduce a master.
    fn hear_master(&mut self, context: &mut Context, arrival: &Arrival) -> Result<(), DropReason> {
        let Arrival { from, now, header, .. } = *arrival;
        let is_master = self
            .mastership
            .is_some_and(|known| (known.master, known.incarnation) == (header.sender, header.incarnation));
        if header.term < self.term() || header.term == Term::default() || (header.term == self.term() && !is_master) {
            return Err(DropReason::StaleTerm);
        }
        if !is_within_leap(header.term, self.term()) {
            return Err(DropReason::OutOfRange);
        }
        let is_new_term = header.term > self.term();
        // A master that restarts has its number.
        let is_other = self.mastership.is_some_and(|known| known.master != header.sender);
        if is_new_term && is_other && self.hearing().is_alive(now) {
            return Err(DropReason::Rival);
        }
        if !arrival.is_fresh {
            return Err(DropReason::Unproven);
        }
        match self.state {
            State::Following(following) if !is_new_term && following.address != from => {
                return Err(DropReason::Stranger);
            }
            State::Following(_) if !is_new_term => {
                self.heard(now);
                return Ok(());
            }
            State::Following(_) | State::Listening { .. } => {}
        }
        if is_new_term {
            self.mastership = Some(Mastership {
                term: header.term,
                master: header.sender,
                incarnation: header.incarnation,
                since: now,
                corrected: None,
            });
            self.announce = None;
        }
        self.left_to = None;
        self.answer = None;
        self.state = State::Following(Following { address: from, last_addressed: None });
        self.timers.cancel(Timer::Join);
        self.heard(now);
        context.tell(Event::Following { master: header.sender, address: from, term: header.term });
        Ok(())
    }

    /// The master followed is there.
    fn heard(&mut self, now: LocalTime) {
        self.last_heard = Some(now);
        self.timers.set(Timer::Silence, now + silence(self.hearing().heartbeat()));
    }

    fn on_request(&mut self, context: &mut Context, arrival: &Arrival, request: &Request) {
        let Arrival { stamp, now, header, .. } = *arrival;
        if let Some(window) = request.window {
            return self.on_group_request(context, arrival, request, window);
        }
        match self.hear_master(context, arrival) {
            Ok(()) => {
                self.addressed(now);
                self.witness(context, request, request.previous, stamp);
                self.answer = None;
                let to = arrival.sender();
                context.send(Outgoing::Response { to, request: *request, t2: stamp, round: header.round });
            }
            Err(reason) => self.drop_of_master(context, arrival, reason, Span::ZERO),
        }
    }

    /// The master followed asks everybody. Nobody else can: one forged datagram would have ten thousand answer.
    fn on_group_request(&mut self, context: &mut Context, arrival: &Arrival, request: &Request, window: Window) {
        let Arrival { from, stamp, now, header, .. } = *arrival;
        if let Err(reason) = self.is_followed(arrival) {
            return context.drop_datagram(reason, from);
        }
        if !self.group_requests.admits(now, GROUP_PAUSE) {
            return context.drop_datagram(DropReason::TooMany, from);
        }
        self.heard(now);
        self.witness(context, request, self.told, stamp);
        self.answer =
            Some(Outgoing::Response { to: arrival.sender(), request: *request, t2: stamp, round: header.round });
        let salt = (header.term.get(), header.round.get());
        self.timers.set(Timer::Answer, now + place(context.config.node_id, salt, window.span()));
    }

    /// Sees where the master's clock stands. `answered`: an exchange of which the master has told its stamps.
    fn witness(&mut self, context: &Context, request: &Request, answered: Option<Answered>, t2: Stamp) {
        let exchange = self.last_response.zip(answered).and_then(|(sent, answered)| sent.exchange(answered));
        self.witness.heard(request, t2.at, exchange, &context.clock);
    }

    /// The master has sent something to this node alone: it knows of it.
    fn addressed(&mut self, now: LocalTime) {
        self.crowd = 0;
        if let State::Following(following) = &mut self.state {
            following.last_addressed = Some(now);
        }
    }

    fn on_announce(&mut self, context: &mut Context, arrival: &Arrival, announce: &Announce) {
        let now = arrival.now;
        if let Err(reason) = self.hear_master(context, arrival) {
            return self.drop_of_master(context, arrival, reason, self.turn(context, announce, now));
        }
        self.announce = Some(*announce);
        self.heard(now);
        let State::Following(following) = self.state else {
            return;
        };
        // A request alone does not prove that it knows us: our response may have been lost. A correction does.
        let is_known = self.mastership.is_some_and(|mastership| mastership.corrected.is_some());
        let patience = match is_known {
            true => announce.interval.times(FORGOTTEN_INTERVALS).max(LONGEST_JOIN_PAUSE),
            false => JOIN_PAUSE,
        };
        if following.last_addressed.is_none_or(|last| now - last > patience) {
            // Whoever has been asked before is not one of many.
            let turn = following.last_addressed.map_or_else(|| self.turn(context, announce, now), |_| Span::ZERO);
            if turn == Span::ZERO {
                self.send_join(context, now, arrival.sender());
            } else {
                self.timers.hasten(Timer::Join, now + turn);
            }
        }
    }

    /// When it is its turn to join a new master, so that a thousand slaves do not do it at once: by the members that the master expects, and
    /// some time before the next announce where many look for it of whom it does not know.
    fn turn(&self, context: &Context, announce: &Announce, now: LocalTime) -> Span {
        let among_members = context.config.node_id.get() % u64::from(announce.members.max(1));
        let turn = JOIN_SPREAD.times(i64::try_from(among_members).unwrap_or(0));
        // Who has joined this master and was not heard is one of many as well.
        let was_not_heard = self.last_join.zip(self.mastership).is_some_and(|(joined, known)| joined >= known.since);
        match self.is_one_of_many(context) || was_not_heard {
            true => turn.max(place(context.config.node_id, now.as_nanos(), announce.heartbeat.span())),
            false => turn,
        }
    }

    /// True for one of a crowd that starts at once and looks for a master, who does not matter to an election.
    fn is_one_of_many(&self, context: &Context) -> bool {
        let crowd = if context.config.role == Role::Slave { CROWD } else { STANDING_CROWD };
        context.config.group.is_some() && self.crowd >= crowd
    }

    /// Drops a frame of somebody who takes itself for the master. A restarted master has to learn of the term that
    /// it had before, or it will never be followed: a join tells it. So it does any other, but not while a master is
    /// heard, or two masters would outbid each other for ever. One that would be followed but may be a recording proves that it
    /// lives by answering a join, which waits for its `turn`.
    fn drop_of_master(&mut self, context: &mut Context, arrival: &Arrival, reason: DropReason, turn: Span) {
        let Arrival { from, now, header, .. } = *arrival;
        context.drop_datagram(reason, from);
        let may_replace = self.master().is_none_or(|master| master == header.sender);
        if reason == DropReason::StaleTerm && may_replace {
            self.send_join(context, now, arrival.sender());
        }
        if reason == DropReason::Unproven {
            let is_first = self.found.is_none();
            self.found = Some(arrival.sender());
            // Recordings may come between, and must not put the join off.
            if is_first {
                let earliest = self.last_join.map_or(now, |last| last + JOIN_PAUSE);
                self.timers.set(Timer::Join, earliest.max(now + turn));
            }
        }
    }

    /// One join to whoever takes itself for the master; not more than one in [`JOIN_PAUSE`]. What is too early for the master
    /// followed goes out when it may.
    fn send_join(&mut self, context: &mut Context, now: LocalTime, to: Recipient) {
        match self.last_join.map(|last| last + JOIN_PAUSE).filter(|earliest| now < *earliest) {
            // What goes out then goes to the master followed: not in answer to somebody elsewhere.
            Some(earliest) => {
                if self.followed().is_none_or(|followed| followed.address == to.address) {
                    self.timers.hasten(Timer::Join, earliest);
                }
            }
            None => {
                self.last_join = Some(now);
                context.send(Outgoing::Join { to });
            }
        }
    }

    fn on_leave(&mut self, context: &mut Context, arrival: &Arrival, leave: Leave) {
        let Arrival { from, now, header, .. } = *arrival;
        let is_master = self.mastership.is_some_and(|known| {
            (known.term, known.master, known.incarnation) == (header.term, header.sender, header.incarnation)
        });
        match self.state {
            State::Following(following) if is_master && following.address == from => {
                self.left_to = Some(leave.successor);
                self.last_heard = Some(now);
                self.lose_master(context, now, true);
            }
            State::Following(_) if is_master => context.drop_datagram(DropReason::Stranger, from),
            // Somebody else's affair: another slave, or a master of old.
            State::Following(_) | State::Listening { .. } => {}
        }
    }

    fn lose_master(&mut self, context: &mut Context, now: LocalTime, resigned: bool) {
        if let Some(master) = self.master() {
            context.tell(Event::MasterLost { master, resigned });
        }
        self.state = State::Listening { pause: JOIN_PAUSE };
        self.answer = None;
        self.timers.cancel(Timer::Silence);
        self.timers.set(Timer::Join, now + JOIN_PAUSE);
    }

    fn on_correction(&mut self, context: &mut Context, arrival: &Arrival, corrections: &Corrections<'_>) {
        let Arrival { from, now, .. } = *arrival;
        if let Err(reason) = self.is_followed(arrival) {
            return context.drop_datagram(reason, from);
        }
        self.heard(now);
        // At most one entry is for us; a second one would be a duplicate of its round.
        let Some(entry) = corrections.entries.iter().find(|entry| entry.node == context.config.node_id) else {
            return;
        };
        if entry.node_incarnation == context.incarnation {
            self.addressed(now);
            self.told = corrections.previous;
        }
        if let Err(reason) = self.apply(context, arrival, &entry, corrections.by_response) {
            context.drop_datagram(reason, from);
        }
    }

    /// Whether a frame comes from the master followed, in its term, from its address.
    fn is_followed(&self, arrival: &Arrival) -> Result<(), DropReason> {
        let Arrival { from, header, .. } = *arrival;
        match (self.mastership, self.state) {
            (Some(known), State::Following(following))
                if (known.term, known.master, known.incarnation, following.address)
                    == (header.term, header.sender, header.incarnation, from) =>
            {
                Ok(())
            }
            (Some(_) | None, State::Following(_) | State::Listening { .. }) if header.term < self.term() => {
                Err(DropReason::StaleTerm)
            }
            (Some(_) | None, State::Following(_) | State::Listening { .. }) => Err(DropReason::Stranger),
        }
    }

    /// Applies an entry for this node, or says which fence keeps it out.
    /// `by_response`: what is applied is acknowledged by the next response alone.
    fn apply(
        &mut self,
        context: &mut Context,
        arrival: &Arrival,
        entry: &Entry,
        by_response: bool,
    ) -> Result<(), DropReason> {
        let Arrival { now, header: Header { round, .. }, .. } = *arrival;
        let Some(mastership) = &mut self.mastership else {
            return Err(DropReason::Stranger);
        };
        if entry.node_incarnation != context.incarnation {
            return Err(DropReason::StaleIncarnation);
        }
        if let Some((corrected, outcome)) = mastership.corrected {
            if round < corrected {
                return Err(DropReason::StaleRound);
            }
            if round == corrected {
                // Our acknowledgement was lost.
                Self::acknowledge(context, arrival, outcome, by_response);
                return Err(DropReason::DuplicateCorrection);
            }
        }
        if entry.adjustment != context.clock.adjustment() {
            return Err(DropReason::StaleAdjustment);
        }
        if (now - entry.reference).abs() > LONGEST_CORRECTION_AGE {
            return Err(DropReason::LateCorrection);
        }
        let applied = Self::correct(&self.witness, context, entry, now);
        let outcome = match applied {
            Ok(Applied::Stepped(_)) => Outcome::Stepped,
            Ok(Applied::Slewed(_)) => Outcome::Slewed,
            Err(_) => Outcome::Refused,
        };
        mastership.corrected = Some((round, outcome));
        Self::acknowledge(context, arrival, outcome, by_response);
        match applied {
            Ok(applied) => {
                context.last_correction = entry.correction;
                context.corrected_in = Some((mastership.term, mastership.master));
                context.tell(Event::Corrected { round, applied });
                Ok(())
            }
            Err(objection) => {
                context.refuse(mastership.master, entry.correction, objection);
                Err(match objection {
                    Objection::TooLarge(_) => DropReason::TooLarge,
                    Objection::Contradicted(_) => DropReason::Contradicted,
                })
            }
        }
    }

    /// Says what became of a correction, unless the next response does.
    fn acknowledge(context: &mut Context, arrival: &Arrival, outcome: Outcome, by_response: bool) {
        if by_response && outcome != Outcome::Refused {
            return;
        }
        let acknowledgement = Acknowledgement { adjustment: context.clock.adjustment(), outcome };
        context.send(Outgoing::Acknowledgement { to: arrival.sender(), round: arrival.header.round, acknowledgement });
    }

    /// Corrects the clock, unless its policy or what was measured speaks against it.
    fn correct(witness: &Witness, context: &mut Context, entry: &Entry, now: LocalTime) -> Result<Applied, Objection> {
        context.clock.allows(entry.correction)?;
        // Who lies in a test knows that its master is deceived.
        if context.config.lie == Span::ZERO {
            let knows_the_time = context.is_synchronised(now);
            let own_bound = knows_the_time.then(|| context.clock.target_error_bound(now));
            witness.bears_out(entry, own_bound)?;
        }
        let correction = Correction::from(entry);
        Ok(context.clock.correct(correction, now)?)
    }
}

/// True when the sender of a join would be master before this node: always, when that never stands.
fn is_before(context: &Context, arrival: &Arrival, join: &Join) -> bool {
    let sender = join.merit.map(|merit| Rank { merit, priority: join.priority, node: arrival.header.sender });
    Rank::own(context, arrival.now).is_none_or(|own| sender > Some(own))
}

/// A node's place in a while, which differs from node to node and, with another `salt`, from one time to the next.
pub(crate) fn place(node: NodeId, salt: impl Hash, within: Span) -> Span {
    let mut hasher = DefaultHasher::new();
    (node.get(), salt).hash(&mut hasher);
    let nanos = u64::try_from(within.as_nanos()).unwrap_or(0).max(1);
    Span::from_nanos(i64::try_from(hasher.finish() % nanos).unwrap_or(0))
}
