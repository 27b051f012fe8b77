//! The master's state machine: rounds of poll, average and correct; newcomers; retransmission.
//!
//! ```text
//!             first answer of an unknown node that joined
//!   Alone ──────────────────────────────────────────────► Founding
//!                                                             │ every burst is over, or `FOUNDING_PATIENCE`
//!             every `interval`: poll, average, correct        ▼
//!          ┌────────────────────────────────────────────  Founded
//!          └────────────────────────────────────────────────► │
//! ```
//!
//! The steps of the algorithm, each in one function: [`Master::begin_round`] polls, [`Master::on_response`] measures,
//! [`Master::average`] averages and corrects its own clock, [`Master::deliver`] sends the corrections.
//!
//! A **submaster** keeps the time of the domain above: its clock is put where another node of the same process stands there
//! ([`Master::follow`]). It is the reference of its own ensemble, and nobody in that has a vote. Until it has been told the time it measures,
//! and corrects nobody.
//!
//! Before the ensemble is founded all clocks are equal and each has a vote. Once founded, its time goes on whoever
//! comes: a newcomer is corrected first and has a vote only after it agreed for several rounds.
//!
//! Invariants:
//! - the term never goes down, and the round never within a term;
//! - the members are at most `max_slaves`, the candidates at most [`CANDIDATES`];
//! - a node is a member only after it answered a request at its address, so that a forged sender costs one datagram;
//! - a correction is computed only from answers of the same round (or of the newcomer's burst);
//! - nothing is sent to a member between rounds but what it did not answer or acknowledge.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::average::{Reading, Standing, Verdict};
use crate::clock::{Correction, DisciplinedClock};
use crate::config::Role;
use crate::context::{Arrival, Context, Event, Outgoing, Recipient, Upper, is_plausible, is_within_leap};
use crate::counters::DropReason;
use crate::election::{Rank, Strength, has_slept};
use crate::estimator::Judgement;
use crate::identity::{Incarnation, NodeId, Round, Term};
use crate::member::{Asked, Asking, BadResponse, Measured, Member, Peer};
use crate::protocol::{
    Acknowledgement, Announce, Claim, Entry, Heartbeat, Join, MAX_ENTRIES, Merit, Message, Outcome, Request, Response,
    Successors,
};
use crate::stamp::Stamp;
use crate::time::{LocalTime, Offset, Skew, Span, Time};
use crate::timers::{Throttle, Timers};

/// Between the requests of a newcomer's burst: eight of them take 140 ms, and a queue empties in between.
const BURST_PAUSE: Span = Span::from_millis(20);
/// Between the requests to one member and the next, so that their answers do not queue behind each other.
const PACE: Span = Span::from_micros(300);
/// Rounds are not made shorter than this for each member: a thousand are asked once a second, however little is known of them.
const MEMBER_PAUSE: Span = Span::from_millis(1);
/// Up to so many members are asked twice in a round, the second time as soon as the first answer is there. What has slept for a
/// second wakes slowly, program, caches and processor, and not both ends alike; a second time it does not. More members
/// are asked one after the other without a pause, which keeps at least the master awake.
const ASKED_TWICE: usize = 128;
/// A master that nobody would replace has no one waiting for it to fall silent: it announces itself often enough to be found and kept.
const IDLE_HEARTBEAT: Span = Span::from_millis(250);
/// A heartbeat lasts so long for each member, as far as [`Heartbeat`] goes: 100 ms up to 50 members, a second from 500 on. Longer: a dead
/// master is missed later. Shorter: each announce wakes everybody, and ten thousand slaves would be woken 100,000 times a second.
const MEMBER_HEARTBEAT: Span = Span::from_millis(2);
/// A round asks everybody within this part of its interval, however many there are.
const ASKING_PART: i64 = 4;
/// A round waits for answers no longer than this part of its interval.
const COLLECTING_PART: i64 = 2;
/// How often a member is asked in one round, and how often a correction is sent.
const ATTEMPTS: u32 = 4;
/// Corrections go to the group in so many frames at most. Every slave hears each of them, so that a thousand slaves would
/// hear 42,000 frames a round; sent alone it is one each.
const GROUP_FRAMES: usize = 4;
/// The founders' bursts may take this long, from the first answer of the first of them. Longer would keep those who
/// are there waiting for those who trickle in.
const FOUNDING_PATIENCE: Span = Span::from_millis(400);
/// A join may raise the term, and have it announced to everybody, once in this time: forged ones shall not make the
/// master flood its own group.
const TERM_PAUSE: Span = Span::from_millis(100);
/// Nodes that joined and have not answered yet.
const CANDIDATES: usize = 256;
/// The first round of an elected master, counted from its election or its first heir: by then its heirs have joined and answered their
/// short burst.
const FIRST_ROUND: Span = Span::from_millis(50);
/// An heir that comes later is right as it is, and waits for the next round, but no longer than this: it goes on joining until the new
/// master has corrected it. Not less than rounds usually are apart.
const HEIR_PATIENCE: Span = Span::from_secs(1);
/// Between the requests of an heir's burst.
const SHORT_BURST_PAUSE: Span = Span::from_millis(10);
/// An elected master counts on those whom its predecessor had for so long.
const GATHERING: Span = Span::from_secs(1);
/// A better master is asked to take this node as a slave once in this time.
const YIELD_PAUSE: Span = Span::from_millis(100);
/// What that one has not answered after this time is forgotten.
const YIELD_PATIENCE: Span = Span::from_secs(1);
/// So many members do not jump in one round by chance.
const FEW: usize = 2;
/// A master that hears none of so many members any more is probably deaf itself.
const DESERTED_BY: usize = 2;
/// Once the ensemble is founded, its clocks agree within this many times the median of their error bounds (or γ, if that is
/// less), and must be known that well to have a vote. Any two honest ones lie within twice theirs; four times that leaves room for noise and for uneven links. With γ
/// alone a clock that takes no corrections but stays within 20 ms would draw the others after it for ever.
const AGREEMENT: i64 = 8;
/// But clocks that lie this close are never told apart: the scheduler's noise.
const CLOSEST_AGREEMENT: Span = Span::from_micros(100);
/// A candidate that has not answered for so long makes room for another.
const CANDIDATE_PATIENCE: Span = Span::from_secs(2);
/// A member that has been silent for so long is forgotten.
const MEMBER_PATIENCE: Span = Span::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Say that we are there.
    Announce,
    /// Begin the next round.
    Round,
    /// End the waiting for answers.
    Average,
    /// Ask a member, or ask it again.
    Ask(NodeId),
    /// A correction has not been acknowledged.
    Repeat(NodeId),
}

/// A node that joined and has been asked once, to see whether it is where it says.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    peer: Peer,
    since: LocalTime,
    is_fresh: bool,
    asked: Option<Asked>,
}

/// How far the ensemble has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has answered yet.
    Alone,
    /// The first bursts are under way.
    Founding,
    /// Its time goes on.
    Founded,
}

/// Why a mastership ends while its node goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its followers have lost patience while it did not run.
    Slept,
    /// A better master is there. It takes over.
    Outranked(NodeId),
    /// A better node asked for it.
    HandedOver(NodeId),
    /// Others heard this living master, but said so only after the election.
    Refused(NodeId),
    /// It hears none of its members.
    Deserted,
}

/// What was there before an elected master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heritage {
    /// The term that is taken.
    pub term: Term,
    /// How many members the predecessor had.
    pub members: u16,
}

/// A better master, which was asked to take this node as a slave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Superior {
    node: NodeId,
    incarnation: Incarnation,
    address: SocketAddr,
    asked: LocalTime,
}

/// The master role of a node.
#[derive(Debug)]
pub struct Master {
    term: Term,
    /// When it became master.
    since: LocalTime,
    /// How often foreign frames raise it.
    raises: Throttle,
    round: Round,
    stage: Stage,
    members: BTreeMap<NodeId, Member>,
    candidates: BTreeMap<SocketAddr, Candidate>,
    timers: Timers<Timer>,
    /// The present round's answers are still being collected; it is averaged once.
    is_collecting: bool,
    /// The member that an answer was still waited for when all were looked at last. While that is so, nobody need look at the
    /// others: members are asked in their order, and a thousand answers would each look past all those before.
    waited_for: NodeId,
    /// Time to the next round: short while little is known of the clocks, see [`Master::adapt_pause`].
    pause: Span,
    /// The last t1 that was handed out; every transmission carries another.
    last_t1: LocalTime,
    /// When it was elected, and how many members its predecessor had.
    gathers: Option<(LocalTime, u16)>,
    /// When it announced itself last, and when it said that it would again.
    announced: Option<(LocalTime, Heartbeat)>,
    /// In which mastership its own clock had been corrected last when it was elected: whose was too is an heir.
    inherits: Option<(Term, NodeId)>,
    superior: Option<Superior>,
    /// Submaster: how often the clock of the domain above had been corrected when this one was put there last.
    followed: Option<u32>,
    has_quorum: bool,
    ending: Option<Ending>,
}

impl Master {
    /// A master of the first term that announces itself at once.
    pub fn new(context: &mut Context, now: LocalTime) -> Self {
        let mut master = Self::unannounced(context, Term::default(), now);
        master.take_term(context, Term::default(), now);
        master
    }

    /// A master that was elected. If its clock shows the time of an ensemble, that goes on: its first round comes as soon as its heirs
    /// can have answered.
    pub fn elected(context: &mut Context, heritage: Heritage, now: LocalTime) -> Self {
        let mut master = Self::unannounced(context, heritage.term, now);
        master.gathers = Some((now, heritage.members));
        master.inherits = context.corrected_in;
        if context.clock.is_corrected() {
            master.stage = Stage::Founded;
            master.timers.set(Timer::Round, now + FIRST_ROUND);
        }
        context.tell(Event::TermTaken { term: master.term });
        master.send_announce(context, now);
        master
    }

    fn unannounced(context: &Context, term: Term, since: LocalTime) -> Self {
        Self {
            term,
            since,
            raises: Throttle::default(),
            round: Round::default(),
            stage: Stage::Alone,
            members: BTreeMap::new(),
            candidates: BTreeMap::new(),
            timers: Timers::default(),
            is_collecting: false,
            waited_for: NodeId::default(),
            pause: context.config.min_interval,
            last_t1: LocalTime::default(),
            gathers: None,
            announced: None,
            inherits: None,
            superior: None,
            followed: None,
            has_quorum: true,
            ending: None,
        }
    }

    /// Why it is to end, if it is. Only the mastership of a node that was not appointed ends by sleep or desertion: slaves of an
    /// appointed master wait for it.
    pub fn ending(&self, context: &Context, now: LocalTime) -> Option<Ending> {
        let slept = context.config.role == Role::Auto
            && self.announced.is_some_and(|(announced, heartbeat)| has_slept(announced, heartbeat, now));
        if slept { Some(Ending::Slept) } else { self.ending }
    }

    /// Its election was refused, too late, by somebody who hears this living master. If anybody follows it meanwhile, that one is not
    /// alive: it was the refusal that came from somebody who stood still.
    pub fn give_way(&mut self, living: NodeId) {
        if self.members.is_empty() {
            self.ending = Some(Ending::Refused(living));
        }
    }

    /// When it became master, whatever terms it has taken since.
    pub fn since(&self) -> LocalTime {
        self.since
    }

    /// Its mastership.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The round that was begun last.
    pub fn round(&self) -> Round {
        self.round
    }

    /// The slaves, by number.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// True for the number, life and address of a member.
    pub fn has_member(&self, node: NodeId, incarnation: Incarnation, from: SocketAddr) -> bool {
        self.members.get(&node).is_some_and(|member| member.peer.is(incarnation, from))
    }

    /// When the next timer is due.
    pub fn next_timeout(&self) -> Option<LocalTime> {
        self.timers.next()
    }

    /// What it says of itself.
    fn announce(&self, context: &Context, now: LocalTime) -> Announce {
        let members = self.strength_of_members(now);
        let successors = self.successors();
        let is_replaceable = successors.iter().next().is_some();
        let least = if is_replaceable { Span::ZERO } else { IDLE_HEARTBEAT };
        Announce {
            // Slaves wait for three of them before they take themselves for forgotten.
            interval: context.config.interval.max(self.pause),
            priority: context.config.priority,
            // A master stands, whatever else it is.
            merit: context.merit(now).unwrap_or(Merit::Plausible),
            heartbeat: Heartbeat::new(MEMBER_HEARTBEAT.times(i64::from(members)).max(least)),
            members,
            successors,
        }
    }

    /// How many members it has that answer, or may count on.
    pub fn strength_of_members(&self, now: LocalTime) -> u16 {
        let awaited = self.gathers.filter(|(since, _)| now - *since < GATHERING).map_or(0, |(_, count)| count);
        u16::try_from(self.answering()).unwrap_or(u16::MAX).max(awaited)
    }

    /// How many members answer.
    fn answering(&self) -> usize {
        self.members.values().filter(|member| !member.is_silent()).count()
    }

    /// Who takes over when it falls silent: those that stand and whose clocks are counted, the best first.
    pub fn successors(&self) -> Successors {
        let mut ranks: Vec<Rank> = self.members.values().filter_map(Member::rank).collect();
        ranks.sort_unstable_by(|a, b| b.cmp(a));
        Successors::new(ranks.into_iter().map(|rank| rank.node))
    }

    /// The request of this instant to `node`; its t1 is waited for.
    pub fn request(&mut self, context: &Context, to: Recipient, node: NodeId, now: LocalTime) -> Request {
        let t1 = now.max(self.last_t1 + Span::from_nanos(1));
        self.last_t1 = t1;
        let asked = Asked { t1, left: Stamp::user(t1) };
        let member = self.members.get_mut(&node);
        let previous = match member.filter(|member| member.peer.recipient() == to) {
            Some(member) => {
                member.request_sent(asked);
                member.last_answered()
            }
            None => {
                if let Some(candidate) = self.candidates.get_mut(&to.address) {
                    candidate.asked = Some(asked);
                }
                None
            }
        };
        let clock = &context.clock;
        Request {
            t1,
            ahead: clock.target(t1).ahead_of(t1),
            rate: clock.rate(),
            error_bound: clock.target_error_bound(t1),
            previous,
            window: None,
        }
    }

    /// The request with this t1, to a node at `to`, left at `stamp`. One that has been answered or given up is of no
    /// interest.
    pub fn request_left(&mut self, to: SocketAddr, node: NodeId, t1: LocalTime, stamp: Stamp) {
        let of_member = self.members.get_mut(&node).and_then(|member| member.asked_at(t1));
        let of_candidate = self.candidates.get_mut(&to).and_then(|candidate| candidate.asked.as_mut());
        // No two requests have the same t1.
        for asked in of_member.into_iter().chain(of_candidate).filter(|asked| asked.t1 == t1) {
            asked.left = stamp;
        }
    }

    /// Takes in one legal frame of this domain from somebody else.
    pub fn handle(&mut self, context: &mut Context, arrival: &Arrival, message: &Message<'_>) {
        let Arrival { from, header, .. } = *arrival;
        match message {
            Message::Response(response) => self.on_response(context, arrival, response),
            Message::Acknowledgement(acknowledgement) => {
                self.on_acknowledgement(context, arrival, acknowledgement);
            }
            Message::Join(join) => self.on_join(context, arrival, join),
            Message::Leave(_) => self.on_leave(context, arrival),
            Message::Announce(announce) => self.on_rival(context, arrival, announce),
            Message::Claim(claim) => self.on_claim(context, arrival, claim),
            Message::Request(_) if self.is_taken_by(arrival) => self.ending = Some(Ending::Outranked(header.sender)),
            Message::Request(_) | Message::Correction(_) => context.drop_datagram(DropReason::WrongRole, from),
            // Of a claim that has won meanwhile, see `Master::give_way`.
            Message::Refusal(_) => context.drop_datagram(DropReason::Unsolicited, from),
        }
    }

    // ---- other masters ----------------------------------------------------------------------------------------------

    /// Another node announces itself as master. The worse steps down, but as long as it has members (or this may be a recording)
    /// only when the better is seen to hear it: it joins, and the better asks it. Or a master that hears nobody would depose one
    /// that is heard.
    fn on_rival(&mut self, context: &mut Context, arrival: &Arrival, announce: &Announce) {
        let Arrival { from, now, header, .. } = *arrival;
        context.drop_datagram(DropReason::Rival, from);
        if !is_within_leap(header.term, self.term) {
            return;
        }
        context.tell(Event::OtherMaster { node: header.sender, address: from });
        let own = Strength {
            is_appointed: context.merit(now) == Some(Merit::Appointed),
            has_members: self.strength_of_members(now) > 0,
            term: self.term,
            priority: context.config.priority,
            node: context.config.node_id,
        };
        let other = Strength::announced(announce, header.sender, header.term);
        if own > other {
            // Its followers must not take our frames for stale ones.
            if header.term >= self.term && arrival.is_fresh {
                self.outbid(context, header.term, now);
            }
            return;
        }
        if !own.has_members && arrival.is_fresh {
            self.ending = Some(Ending::Outranked(header.sender));
            return;
        }
        if self.superior.is_none_or(|superior| now - superior.asked >= YIELD_PAUSE) {
            let (node, incarnation) = (header.sender, header.incarnation);
            self.superior = Some(Superior { node, incarnation, address: from, asked: now });
            context.send(Outgoing::Join { to: arrival.sender() });
        }
    }

    /// True for a request of the better master that this node has just joined.
    fn is_taken_by(&self, arrival: &Arrival) -> bool {
        let Arrival { from, now, header, .. } = *arrival;
        self.superior.is_some_and(|superior| {
            (superior.node, superior.incarnation, superior.address) == (header.sender, header.incarnation, from)
                && now - superior.asked < YIELD_PATIENCE
                && header.term > self.term
        })
    }

    /// A node wants to be master. This one is alive; it makes room only for a member in good standing that the operator prefers.
    fn on_claim(&mut self, context: &mut Context, arrival: &Arrival, claim: &Claim) {
        let Arrival { from, now, header, .. } = *arrival;
        let own = context.merit(now);
        let is_preferred = own != Some(Merit::Appointed)
            && (claim.merit == Merit::Appointed || claim.priority > context.config.priority);
        let is_in_step = self.members.get(&header.sender).is_some_and(|member| {
            member.peer.is(header.incarnation, from)
                && member.rank().is_some_and(|rank| (rank.merit, rank.priority) == (claim.merit, claim.priority))
        });
        if claim.is_handover && is_preferred && is_in_step {
            self.ending = Some(Ending::HandedOver(header.sender));
        } else {
            context.drop_datagram(DropReason::VainClaim, from);
            if !claim.is_handover {
                context.refuse_claim(arrival, Some(context.config.node_id));
            }
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, context: &mut Context, now: LocalTime) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Announce => self.send_announce(context, now),
                Timer::Round => self.begin_round(context, now),
                Timer::Average => self.average(context, now),
                Timer::Ask(node) => self.ask(context, node, now),
                Timer::Repeat(node) => self.repeat(context, node, now),
            }
        }
    }

    /// Says goodbye: the mastership ends.
    pub fn handle_shutdown(&mut self, context: &mut Context) {
        let first = self.successors().iter().next();
        self.resign(context, first);
    }

    /// Says that the mastership ends, and who goes on.
    pub fn resign(&self, context: &mut Context, successor: Option<NodeId>) {
        for to in self.audience(context) {
            context.send(Outgoing::Leave { to, successor });
        }
    }

    /// Takes the term above one that it was told of, unless it has just done so; true when it does, and so announces itself.
    fn outbid(&mut self, context: &mut Context, told: Term, now: LocalTime) -> bool {
        let is_due = self.raises.admits(now, TERM_PAUSE);
        if is_due {
            self.take_term(context, told, now);
        }
        is_due
    }

    /// Takes the term above `known` and its own, starts its rounds afresh, and says so.
    fn take_term(&mut self, context: &mut Context, known: Term, now: LocalTime) {
        self.term = known.max(self.term).next();
        self.round = Round::default();
        for member in self.members.values_mut() {
            member.delivery = None;
            self.timers.cancel(Timer::Repeat(member.peer.node));
        }
        context.tell(Event::TermTaken { term: self.term });
        self.send_announce(context, now);
    }

    /// Whoever must hear that the master is there, or that it goes: the group, the configured peers, and those
    /// members that neither reaches.
    fn audience(&self, context: &Context) -> Vec<Recipient> {
        let unreached = self
            .members
            .values()
            .filter(|member| !member.peer.hears_group && !context.is_peer(member.peer.address))
            .map(|member| member.peer.recipient());
        context.everybody().chain(unreached).collect()
    }

    fn send_announce(&mut self, context: &mut Context, now: LocalTime) {
        let announce = self.announce(context, now);
        for to in self.audience(context) {
            context.send(Outgoing::Announce { to, announce });
        }
        self.announced = Some((now, announce.heartbeat));
        self.timers.set(Timer::Announce, now + announce.heartbeat.span());
    }

    // ---- who takes part -------------------------------------------------------------------------------------------

    /// A node looks for a master. It is asked once, where it says it is; its answer makes it a member.
    fn on_join(&mut self, context: &mut Context, arrival: &Arrival, join: &Join) {
        let Arrival { from, now, header, .. } = *arrival;
        let is_ours = join.master == Some((context.config.node_id, context.incarnation));
        let is_unknown = header.term > self.term || (header.term == self.term && !is_ours);
        if is_unknown && !is_within_leap(header.term, self.term) {
            return context.drop_datagram(DropReason::OutOfRange, from);
        }
        // The better master, which this node joins, settles the term.
        let is_superior = self
            .superior
            .is_some_and(|superior| superior.node == header.sender && now - superior.asked < YIELD_PATIENCE);
        let has_announced = is_unknown && !is_superior && arrival.is_fresh && self.outbid(context, header.term, now);
        let peer = Peer::new(header.sender, header.incarnation, from, join, context.config.group.is_some());
        match self.members.get_mut(&header.sender) {
            Some(member) if member.peer.is(peer.incarnation, from) => {
                // It is a member and does not know: it lost us, or we are slow to ask.
                // It was sent the announce itself, and not a request as well: no answer is longer than its question. It will join again.
                let is_told = has_announced && !member.peer.hears_group;
                if arrival.is_fresh {
                    member.peer = peer;
                }
                if member.asking == Asking::Done && !is_told {
                    context.send(Outgoing::Request { to: peer.recipient(), node: peer.node });
                }
                return;
            }
            Some(member)
                if member.peer.address != from && now - member.last_heard < context.config.interval.times(2) =>
            {
                // Its number belongs to a node that answers from elsewhere.
                context.drop_datagram(DropReason::DuplicateNodeId, from);
                context.tell(Event::DuplicateNodeId { node: header.sender, address: from });
                return;
            }
            Some(_) | None => {}
        }
        if !self.has_place_for(context, header.sender, from) {
            return;
        }
        if !self.has_room_for(arrival) {
            return context.drop_datagram(DropReason::TableFull, from);
        }
        self.candidates.insert(from, Candidate { peer, since: now, is_fresh: arrival.is_fresh, asked: None });
        context.send(Outgoing::Request { to: peer.recipient(), node: peer.node });
    }

    /// True when this node is a member or can become one. Nobody who is makes room for a newcomer; that there is none is counted and told.
    fn has_place_for(&self, context: &mut Context, node: NodeId, from: SocketAddr) -> bool {
        let has_place = self.members.len() < context.config.max_slaves || self.members.contains_key(&node);
        if !has_place {
            context.drop_datagram(DropReason::TableFull, from);
            context.tell(Event::TableFull { address: from });
        }
        has_place
    }

    /// True when there is room for another candidate. Who has waited for too long makes room, then recordings do for who is alive, then
    /// the host with the most candidates does for one that has fewer: nobody keeps others out with made-up numbers, but with made-up addresses.
    fn has_room_for(&mut self, arrival: &Arrival) -> bool {
        let Arrival { from, now, is_fresh, .. } = *arrival;
        let is_full = |candidates: &BTreeMap<_, _>| candidates.len() >= CANDIDATES && !candidates.contains_key(&from);
        if is_full(&self.candidates) {
            self.candidates.retain(|_, candidate| now - candidate.since < CANDIDATE_PATIENCE);
        }
        if is_full(&self.candidates) && is_fresh {
            self.candidates.retain(|_, candidate| candidate.is_fresh);
        }
        if is_full(&self.candidates) && is_fresh {
            self.thin_out(from.ip());
        }
        !is_full(&self.candidates)
    }

    /// Drops the oldest candidate of the IP address that has the most, if one at `newcomer` would still not have more.
    fn thin_out(&mut self, newcomer: IpAddr) {
        let (mut own, mut run, mut most) = (0, (newcomer, 0), (newcomer, 0));
        // In their order, so that those of one IP address follow each other.
        for ip in self.candidates.keys().map(SocketAddr::ip) {
            run = if run.0 == ip { (ip, run.1 + 1) } else { (ip, 1) };
            most = if run.1 > most.1 { run } else { most };
            own += usize::from(ip == newcomer);
        }
        let of_most = self.candidates.iter().filter(|(address, _)| address.ip() == most.0);
        let oldest = of_most.min_by_key(|(_, candidate)| candidate.since).map(|(address, _)| *address);
        if let Some(oldest) = oldest.filter(|_| most.1 > own + 1) {
            self.candidates.remove(&oldest);
        }
    }

    /// A candidate answered: it is where it says it is. A former life of it is forgotten, and its burst begins.
    fn admit(&mut self, context: &mut Context, peer: Peer, asked: Asked, response: &Response, now: LocalTime) {
        let own_rate_error = context.clock.is_corrected().then(|| context.clock.rate_error(now));
        let mut member = Member::new(peer, own_rate_error, now);
        Self::apply_settings(context, &mut member);
        member.request_sent(asked);
        if self.inherits.is_some() && peer.corrected_in == self.inherits && response.is_synchronised {
            member.asking = Asking::SHORT_BURST;
            member.inherit(now);
            // The first round may have been due when nobody had joined yet, and the next one may be far.
            let wait = if self.round == Round::default() { FIRST_ROUND } else { HEIR_PATIENCE };
            self.timers.hasten(Timer::Round, now + wait);
        }
        self.timers.cancel(Timer::Repeat(peer.node));
        self.timers.set(Timer::Ask(peer.node), now + BURST_PAUSE);
        self.members.insert(peer.node, member);
        context.tell(Event::Joined { node: peer.node, address: peer.address });
        if self.stage == Stage::Alone {
            self.stage = Stage::Founding;
            self.timers.set(Timer::Average, now + FOUNDING_PATIENCE);
            self.timers.set(Timer::Round, now + context.config.interval);
        }
    }

    /// What the operator has said of a member in particular.
    fn apply_settings(context: &Context, member: &mut Member) {
        let Peer { node, address, .. } = member.peer;
        member.weight = context.config.weight(node, Some(address.ip()));
        member.set_delay_asymmetry(context.config.delay_asymmetry(node, address.ip()));
    }

    /// The settings have changed. Slaves that are asked less often from now on are told at once, and those that are asked more often once they
    /// have been: all of a large group would else take themselves for forgotten and join.
    pub fn reconfigured(&mut self, context: &mut Context, now: LocalTime) {
        if context.config.group.is_none() {
            // They are not heard any more, and would follow a master that they cannot answer for as long as it asks.
            self.candidates.retain(|address, _| context.is_peer(*address));
            let strangers = self.members.values().filter(|member| !context.is_peer(member.peer.address));
            for node in strangers.map(|member| member.peer.node).collect::<Vec<_>>() {
                self.forget(context, node, false);
            }
        }
        self.members.values_mut().for_each(|member| Self::apply_settings(context, member));
        self.pause = self.pause.max(self.shortest_pause(context));
        if self.stage == Stage::Founded {
            self.timers.hasten(Timer::Round, now + self.pause.min(context.config.max_interval));
        }
        self.send_announce(context, now);
    }

    fn on_leave(&mut self, context: &mut Context, arrival: &Arrival) {
        let Arrival { from, header, .. } = *arrival;
        if self.has_member(header.sender, header.incarnation, from) {
            self.forget(context, header.sender, true);
        }
    }

    fn forget(&mut self, context: &mut Context, node: NodeId, resigned: bool) {
        self.members.remove(&node);
        self.timers.cancel(Timer::Ask(node));
        self.timers.cancel(Timer::Repeat(node));
        context.tell(Event::Left { node, resigned });
    }

    // ---- the domain above -----------------------------------------------------------------------------------------

    /// Puts its clock where `upper` stands, the clock of the domain above, if that has been corrected since. When that domain is not heard
    /// any more the clock goes on as it is: whoever becomes master then may know better than a clock that was left alone long ago.
    pub fn follow(&mut self, context: &mut Context, upper: &DisciplinedClock, now: LocalTime) {
        let is_heard = matches!(context.upper, Upper::Heard(_));
        if !is_heard || self.followed == Some(upper.adjustment()) {
            return;
        }
        let Some(correction) = upper.correction_of(&context.clock, now) else {
            return;
        };
        self.followed = Some(upper.adjustment());
        let has_waited = context.awaits_upper();
        match context.clock.correct(correction, now) {
            Err(too_large) => {
                context.counters.count_dropped(DropReason::TooLarge);
                context.refuse(context.config.node_id, correction.amount, too_large.into());
            }
            Ok(applied) => {
                context.last_correction = correction.amount;
                context.corrected_in = Some((self.term, context.config.node_id));
                context.tell(Event::Led { applied });
            }
        }
        if has_waited && self.stage == Stage::Founding {
            self.timers.set(Timer::Average, now);
        }
    }

    // ---- poll -----------------------------------------------------------------------------------------------------

    /// Polls every member, one shortly after the other.
    fn begin_round(&mut self, context: &mut Context, now: LocalTime) {
        match self.stage {
            Stage::Alone => return,
            Stage::Founding => return self.found_again(context, now),
            Stage::Founded => self.timers.set(Timer::Round, now + self.pause),
        }
        if self.members.is_empty() {
            return;
        }
        self.round = self.round.next();
        self.is_collecting = true;
        // What is sent first after a pause is slow between its departure's stamp and the wire, the answer to it is not: with nothing in the
        // caches a request took 2.7 µs longer than its response (between two namespaces), and all slaves seemed 1.4 µs
        // ahead. An announce is due soon anyway.
        self.timers.hasten(Timer::Announce, now);
        let lost: Vec<NodeId> = self
            .members
            .values()
            .filter(|member| now - member.last_heard > MEMBER_PATIENCE)
            .map(|member| member.peer.node)
            .collect();
        for node in lost {
            self.forget(context, node, false);
        }
        let count = i64::try_from(self.members.len()).unwrap_or(i64::MAX);
        let pace = PACE.min(self.pause.part(ASKING_PART).part(count));
        let mut at = now;
        for member in self.members.values_mut() {
            let node = member.peer.node;
            // The first round does not wait for the last answers of an heir's burst.
            if matches!(member.asking, Asking::Burst { .. }) && !member.is_heir() {
                continue;
            }
            if member.begin_round() {
                context.tell(Event::Silent { node });
            }
            member.asking = Asking::Waiting { attempts: 0 };
            self.timers.cancel(Timer::Repeat(node));
            self.timers.set(Timer::Ask(node), at);
            at = at + pace;
        }
        self.timers.set(Timer::Average, now + self.pause.part(COLLECTING_PART));
        if context.config.role == Role::Auto
            && self.members.len() >= DESERTED_BY
            && self.members.values().all(Member::is_silent)
        {
            self.ending = Some(Ending::Deserted);
        }
    }

    /// The founding came to nothing: no founder's answers made sense, or the master refused its own correction. Once more.
    fn found_again(&mut self, context: &Context, now: LocalTime) {
        self.timers.set(Timer::Round, now + context.config.interval);
        self.timers.hasten(Timer::Average, now + FOUNDING_PATIENCE);
        for member in self.members.values_mut() {
            member.asking = Asking::BURST;
            self.timers.set(Timer::Ask(member.peer.node), now);
        }
    }

    /// Sends a member its next request, or gives it up for this round.
    fn ask(&mut self, context: &mut Context, node: NodeId, now: LocalTime) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        match member.asking {
            Asking::Burst { left: 0 } => return self.end_burst(context, node, now),
            Asking::Burst { left } => {
                let left = left - 1;
                member.asking = Asking::Burst { left };
                // The last answer of a burst is waited for as any other.
                let pause = match (left, member.is_heir()) {
                    (0, _) => member.round_trip.timeout(0),
                    (_, true) => SHORT_BURST_PAUSE,
                    (_, false) => BURST_PAUSE,
                };
                self.timers.set(Timer::Ask(node), now + pause);
            }
            Asking::Waiting { attempts } => {
                // One attempt is enough for a member that has not answered for several rounds.
                if attempts >= ATTEMPTS || (attempts > 0 && member.is_silent()) {
                    member.asking = Asking::Done;
                    return self.average_when_all_answered(context, now);
                }
                member.asking = Asking::Waiting { attempts: attempts + 1 };
                if attempts > 0 {
                    member.retransmissions += 1;
                }
                self.timers.set(Timer::Ask(node), now + member.round_trip.timeout(attempts));
            }
            // The first answer has to do.
            Asking::Again => {
                member.asking = Asking::Done;
                return self.average_when_all_answered(context, now);
            }
            Asking::Done => return,
        }
        context.send(Outgoing::Request { to: member.peer.recipient(), node });
    }

    // ---- measure --------------------------------------------------------------------------------------------------

    fn on_response(&mut self, context: &mut Context, arrival: &Arrival, response: &Response) {
        let Arrival { from, stamp, now, header, .. } = *arrival;
        if let Some(candidate) = self.candidates.get(&from)
            && (candidate.peer.node, candidate.peer.incarnation) == (header.sender, header.incarnation)
            && let Some(asked) = candidate.asked.filter(|asked| asked.t1 == response.t1)
        {
            let peer = candidate.peer;
            self.candidates.remove(&from);
            // Others have come in since it joined.
            if !self.has_place_for(context, peer.node, from) {
                return;
            }
            self.admit(context, peer, asked, response, now);
        }
        let is_asked_twice = self.members.len() <= ASKED_TWICE;
        let Some(member) = self.members.get_mut(&header.sender) else {
            return context.drop_datagram(DropReason::Stranger, from);
        };
        if let Some(reason) = Self::impostor(&member.peer, from, header.incarnation) {
            return context.drop_datagram(reason, from);
        }
        let was_silent = member.is_silent();
        match member.answered(response, stamp, context.known_rate()) {
            Err(BadResponse::Unsolicited) => return context.drop_datagram(DropReason::Unsolicited, from),
            Err(BadResponse::Implausible) => return context.drop_datagram(DropReason::ImplausibleTimes, from),
            Ok(Judgement::Restarted) => context.tell(Event::LocalClockJumped { node: header.sender }),
            Ok(Judgement::Kept | Judgement::Suspect) => {}
        }
        if was_silent {
            context.tell(Event::Returned { node: header.sender });
        }
        // An answer that names the round of its last correction acknowledges it.
        if header.term == self.term && member.delivery.is_some_and(|delivery| delivery.round == response.applied_round)
        {
            member.delivery = None;
            self.timers.cancel(Timer::Repeat(header.sender));
        }
        match member.asking {
            Asking::Waiting { .. } if is_asked_twice => {
                member.asking = Asking::Again;
                self.timers.set(Timer::Ask(header.sender), now + member.round_trip.timeout(0));
                context.send(Outgoing::Request { to: arrival.sender(), node: header.sender });
            }
            Asking::Waiting { .. } | Asking::Again => {
                member.asking = Asking::Done;
                self.timers.cancel(Timer::Ask(header.sender));
                self.average_when_all_answered(context, now);
            }
            Asking::Burst { left: 0 } => self.end_burst(context, header.sender, now),
            Asking::Burst { .. } | Asking::Done => {}
        }
    }

    /// Why a frame with a member's number is not that member's.
    fn impostor(peer: &Peer, from: SocketAddr, incarnation: Incarnation) -> Option<DropReason> {
        match (peer.incarnation == incarnation, peer.address == from) {
            (true, true) => None,
            (false, true) => Some(DropReason::StaleIncarnation),
            (true, false) => Some(DropReason::Stranger),
            (false, false) => Some(DropReason::DuplicateNodeId),
        }
    }

    // ---- average --------------------------------------------------------------------------------------------------

    /// A newcomer's burst is over: founders wait for each other, a later one is corrected at once.
    fn end_burst(&mut self, context: &mut Context, node: NodeId, now: LocalTime) {
        self.timers.cancel(Timer::Ask(node));
        if let Some(member) = self.members.get_mut(&node) {
            member.asking = Asking::Done;
        }
        match self.stage {
            // An heir's clock is right, and the next round is near.
            Stage::Founded if self.members.get(&node).is_some_and(Member::is_heir) => {}
            Stage::Founded => {
                self.correct_newcomer(context, node, now);
                self.settle(context, now);
            }
            Stage::Founding | Stage::Alone => self.average_when_all_answered(context, now),
        }
    }

    /// Does not wait for the deadline when there is nobody left to wait for.
    fn average_when_all_answered(&mut self, context: &mut Context, now: LocalTime) {
        let is_founding = self.stage == Stage::Founding;
        if !is_founding && !self.is_collecting {
            return;
        }
        let is_waited_for = |member: &Member| match member.asking {
            Asking::Done => false,
            Asking::Waiting { .. } | Asking::Again => true,
            Asking::Burst { .. } => is_founding,
        };
        let mut from_the_last = self.members.range(self.waited_for..).chain(self.members.range(..self.waited_for));
        match from_the_last.find(|(_, member)| is_waited_for(member)) {
            Some((node, _)) => self.waited_for = *node,
            None => self.average(context, now),
        }
    }

    /// Averages the clocks that answered, the master's own among them, corrects the master's and sends the others
    /// their corrections.
    fn average(&mut self, context: &mut Context, now: LocalTime) {
        self.timers.cancel(Timer::Average);
        self.is_collecting = false;
        let is_founded = self.stage == Stage::Founded;
        let own = context.clock.target(now);
        let is_misled = is_founded && self.has_jumped_itself(context);
        self.members.values_mut().for_each(|member| member.check_heritage(now, own));
        let measured: Vec<(NodeId, Measured)> = self
            .members
            .values()
            .filter(|member| !is_founded || !matches!(member.asking, Asking::Burst { .. }))
            .filter_map(|member| Some((member.peer.node, member.measured(now, own)?)))
            .collect();
        if measured.is_empty() || context.awaits_upper() || !self.reaches_quorum(context, measured.len()) {
            return;
        }
        if !is_founded {
            self.round = self.round.next();
        }
        let closest = is_founded.then(|| agreement(&measured));
        let mut readings = vec![self.own_reading(context, own, &measured, is_misled)];
        readings.extend(measured.iter().filter_map(|(node, measured)| {
            let reading = self.members.get(node)?.reading(measured, own, closest);
            // Below a submaster nobody has a vote, whatever its sources.
            let is_led = context.config.upper.is_some();
            let standing = if is_led { reading.standing.max(Standing::Member) } else { reading.standing };
            Some(Reading { standing, ..reading })
        }));
        let gamma = context.config.gamma.min(closest.unwrap_or(Span::MAX));
        let Some(ensemble) = context.config.average.of(&readings, gamma) else {
            return;
        };
        let own_is_counted = ensemble.verdicts.first() == Some(&Verdict::Counted);
        let mut counted_slaves = Vec::new();
        for ((node, measured), verdict) in measured.iter().zip(ensemble.verdicts.iter().skip(1).copied()) {
            let Some(member) = self.members.get_mut(node) else {
                continue;
            };
            if member.judged(measured, ensemble.offset, gamma, verdict, !is_founded) {
                context.tell(Event::Standing { node: *node, left_out: member.left_out() });
            }
            let is_counted = verdict == Verdict::Counted;
            let rate = context.clock.rate();
            if let Some(learned) = member.learned(&measured.estimate, is_counted, !is_founded, rate) {
                counted_slaves.push((measured, learned));
            }
        }
        let counted = Counted::new(own_is_counted, counted_slaves.into_iter());
        // Who counts nobody but itself has not learned where the ensemble is: it knows that as well as before. Or a new master that
        // finds newcomers only would claim to be right on what the others still take for the ensemble's time.
        // (Below a submaster nobody else ever counts, and what it does not know is in each entry already.)
        let is_alone = is_founded && own_is_counted && counted.clocks == 1 && context.config.upper.is_none();
        let held = if is_alone { context.clock.target_error_bound(now) } else { Span::ZERO };
        let ensemble_rate = context.clock.rate() + counted.rate_change;
        let correction = Offset::ZERO.correction(ensemble.offset);
        let own_correction = Correction {
            reference: now,
            amount: correction,
            rate: ensemble_rate,
            error_bound: counted.error_bound + held,
            rate_error: counted.rate_error,
        };
        // A submaster's clock is where it ought to be.
        let applied = match context.config.upper {
            Some(_) => None,
            None => match context.clock.correct(own_correction, now) {
                // Where the master cannot go the others must not be sent.
                Err(too_large) => {
                    context.counters.count_dropped(DropReason::TooLarge);
                    return context.refuse(context.config.node_id, correction, too_large.into());
                }
                Ok(applied) => Some(applied),
            },
        };
        context.corrected_in = Some((self.term, context.config.node_id));
        context.tell(Event::Averaged { round: self.round, counted: counted.clocks, read: readings.len(), correction });
        if let Some(applied) = applied {
            context.last_correction = correction;
            context.tell(Event::Corrected { round: self.round, applied });
        }
        let entries = measured
            .iter()
            .filter_map(|(node, measured)| self.entry(context, *node, measured, ensemble.offset, ensemble_rate, now));
        let entries: Vec<Entry> =
            entries.map(|entry| Entry { error_bound: entry.error_bound + held, ..entry }).collect();
        self.deliver(context, &entries, now);
        if is_founded {
            self.adapt_pause(context, &measured, now);
        } else {
            self.stage = Stage::Founded;
            self.settle(context, now);
        }
    }

    /// True when it hears enough nodes to correct anybody: this many, and itself. Without, it goes on as it is: holdover.
    fn reaches_quorum(&mut self, context: &mut Context, members: usize) -> bool {
        let heard = members + 1;
        let is_reached = heard >= context.config.quorum;
        if std::mem::replace(&mut self.has_quorum, is_reached) != is_reached {
            context.tell(Event::Quorum { is_reached, heard });
        }
        is_reached
    }

    /// True when the local clocks of most members seem to have jumped in this round: then it was the master's own. They keep their
    /// votes and it has none, or one oscillator's jump would draw the whole ensemble along.
    fn has_jumped_itself(&mut self, context: &mut Context) -> bool {
        let jumped = self.members.values().filter(|member| member.has_jumped()).count();
        let is_own = jumped >= FEW && 2 * jumped > self.answering();
        if is_own {
            self.members.values_mut().for_each(Member::keep_trust);
            context.tell(Event::LocalClockJumped { node: context.config.node_id });
        }
        is_own
    }

    /// The master's own clock among the others: its offset is zero. `is_misled`: its local clock has just jumped.
    fn own_reading(&self, context: &Context, own: Time, measured: &[(NodeId, Measured)], is_misled: bool) -> Reading {
        // A master that has just started, among slaves that belong to an ensemble already, is a newcomer itself: its
        // mastership is new, their time is not.
        let is_among_established = !context.clock.is_corrected()
            && measured.iter().any(|(node, _)| self.members.get(node).is_some_and(Member::is_synchronised));
        let standing = if context.config.is_reference || context.config.upper.is_some() {
            Standing::Reference
        } else if is_among_established || is_misled {
            Standing::Newcomer
        } else if is_plausible(own) {
            Standing::Member
        } else {
            Standing::Implausible
        };
        // Of itself it knows no error. As good as the best of the others, or `weighted` would hear nobody else.
        let error_bound = measured.iter().map(|(_, member)| member.estimate.error_bound).min().unwrap_or(Span::ZERO);
        let weight = context.config.weight(context.config.node_id, None);
        Reading { offset: Offset::ZERO, error_bound, weight, standing }
    }

    /// Corrects one newcomer between two rounds, to where the ensemble is now. It has no vote yet, so that nothing is
    /// averaged. A reference has one, and waits for the round: the ensemble goes to it, not it to the ensemble.
    fn correct_newcomer(&mut self, context: &mut Context, node: NodeId, now: LocalTime) {
        if self.answering() + 1 < context.config.quorum || context.awaits_upper() {
            return;
        }
        let own = context.clock.target(now);
        let entry = self
            .members
            .get(&node)
            .filter(|member| !member.peer.is_reference || context.config.upper.is_some())
            .and_then(|member| member.measured(now, own))
            .and_then(|measured| self.entry(context, node, &measured, Offset::ZERO, context.clock.rate(), now));
        self.deliver(context, entry.as_slice(), now);
    }

    /// What a member has to do to its clock, measured at `now`. What is not known of the time that is kept, it does not know either.
    fn entry(
        &self,
        context: &Context,
        node: NodeId,
        measured: &Measured,
        ensemble: Offset,
        ensemble_rate: Skew,
        now: LocalTime,
    ) -> Option<Entry> {
        let entry = self.members.get(&node)?.entry(measured, ensemble, ensemble_rate)?;
        let (error_bound, rate_error) = context.inherited_error(now);
        let rate_error = (entry.rate_error + rate_error).clamped(Skew::MAX);
        Some(Entry { error_bound: entry.error_bound + error_bound, rate_error, ..entry })
    }

    /// Rounds follow each other quickly for a while: somebody's skew is not known yet.
    fn settle(&mut self, context: &Context, now: LocalTime) {
        self.pause = self.shortest_pause(context);
        self.timers.hasten(Timer::Round, now + self.pause);
    }

    /// Rounds come twice as often when most bounds grow by much from one to the next, half as often when they would not even then. Most:
    /// one oscillator in a draught shall not have everybody asked all the time.
    fn adapt_pause(&mut self, context: &mut Context, measured: &[(NodeId, Measured)], now: LocalTime) {
        let most_may_wait = |pause| {
            let may_wait = measured.iter().filter_map(|(node, _)| self.members.get(node)?.may_wait(now, pause));
            may_wait.map(|may| if may { 1_i64 } else { -1 }).sum::<i64>() > 0
        };
        let (shortest, longest) = (self.shortest_pause(context), context.config.max_interval);
        let present = self.pause.min(longest);
        let longer = present.times(2).min(longest);
        let pause = if most_may_wait(longer) {
            longer
        } else if most_may_wait(present) {
            present
        } else {
            present.part(2).max(shortest)
        };
        if pause != self.pause {
            self.pause = pause;
            context.tell(Event::Paced { pause });
        }
        self.timers.hasten(Timer::Round, now + self.pause);
    }

    /// Time to the next round: no more than the shortest that was asked for, unless that would be too much for so many members.
    fn shortest_pause(&self, context: &Context) -> Span {
        let count = i64::try_from(self.members.len()).unwrap_or(i64::MAX);
        context.config.min_interval.max(MEMBER_PAUSE.times(count)).min(context.config.interval)
    }

    /// Time from one round to the next, as chosen last.
    pub fn pause(&self) -> Span {
        self.pause
    }

    // ---- correct --------------------------------------------------------------------------------------------------

    /// Sends corrections and waits for their acknowledgements: in full frames to those who hear the group, alone to the
    /// others, or to everybody when the group would have to hear too many frames.
    fn deliver(&mut self, context: &mut Context, entries: &[Entry], now: LocalTime) {
        let hearers = entries.iter().filter(|entry| self.members.get(&entry.node).is_some_and(|m| m.peer.hears_group));
        let group = context.config.group.filter(|_| (2..=GROUP_FRAMES * MAX_ENTRIES).contains(&hearers.count()));
        let mut for_group = Vec::new();
        for entry in entries {
            let Some(member) = self.members.get_mut(&entry.node) else {
                continue;
            };
            member.ordered(self.round, *entry);
            self.timers.set(Timer::Repeat(entry.node), now + member.round_trip.timeout(0));
            if group.is_some() && member.peer.hears_group {
                for_group.push(*entry);
            } else {
                let to = member.peer.recipient();
                context.send(Outgoing::Correction { to, round: self.round, entries: vec![*entry] });
            }
        }
        if let Some(to) = group.map(Recipient::anybody) {
            for entries in for_group.chunks(MAX_ENTRIES) {
                context.send(Outgoing::Correction { to, round: self.round, entries: entries.to_vec() });
            }
        }
    }

    /// Sends a correction again that has not been acknowledged, or gives it up: the next round brings a better one.
    fn repeat(&mut self, context: &mut Context, node: NodeId, now: LocalTime) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let Some(delivery) = &mut member.delivery else {
            return;
        };
        if delivery.attempts >= ATTEMPTS {
            member.delivery = None;
            return;
        }
        let timeout = member.round_trip.timeout(delivery.attempts);
        delivery.attempts += 1;
        member.retransmissions += 1;
        let (round, entry) = (delivery.round, delivery.entry);
        self.timers.set(Timer::Repeat(node), now + timeout);
        context.send(Outgoing::Correction { to: member.peer.recipient(), round, entries: vec![entry] });
    }

    fn on_acknowledgement(&mut self, context: &mut Context, arrival: &Arrival, acknowledgement: &Acknowledgement) {
        let Arrival { from, now, header, .. } = *arrival;
        let Some(member) = self.members.get_mut(&header.sender) else {
            return context.drop_datagram(DropReason::Stranger, from);
        };
        if let Some(reason) = Self::impostor(&member.peer, from, header.incarnation) {
            return context.drop_datagram(reason, from);
        }
        if header.term != self.term {
            return context.drop_datagram(DropReason::StaleTerm, from);
        }
        let Some(delivery) = member.acknowledged(header.round, acknowledgement) else {
            return context.drop_datagram(DropReason::Unsolicited, from);
        };
        member.last_heard = now;
        self.timers.cancel(Timer::Repeat(header.sender));
        if acknowledgement.outcome == Outcome::Refused {
            context.tell(Event::RefusedBySlave { node: header.sender, correction: delivery.entry.correction });
        }
    }
}

/// What the clocks that were averaged have in common.
struct Counted {
    /// How many, the master's own included.
    clocks: usize,
    /// By how much the ensemble's rate relative to the master's local clock changes: the mean of what has been learned of
    /// the counted oscillators since the last average, the master's own among them with nothing to learn.
    ///
    /// At the founding it is the mean of the founders' rates: those of their oscillators when nothing is known, which anchors the
    /// ensemble, or what they remember of an earlier one: its time cannot wander off on the noise of its estimates. Who comes later or goes changes nothing
    /// (as in the atomic time scale AT1); with the mean of the oscillators of the moment, the rate would jump by ppm.
    rate_change: Skew,
    /// How far the average offset can be wrong: the mean of what each of them can.
    error_bound: Span,
    /// How far the rate can be wrong.
    rate_error: Skew,
}

impl Counted {
    /// `own`: the master's own clock is counted. Each slave with what has been learned of its oscillator.
    fn new<'a>(own: bool, slaves: impl Iterator<Item = (&'a Measured, Skew)>) -> Self {
        let mut clocks = usize::from(own);
        let (mut rate_change, mut error_bound, mut rate_error) = (Skew::ZERO, Span::ZERO, Skew::ZERO);
        for (slave, learned) in slaves {
            clocks += 1;
            rate_change = rate_change + learned;
            error_bound += slave.estimate.error_bound;
            rate_error = rate_error + slave.estimate.skew_bound;
        }
        let parts = i64::try_from(clocks.max(1)).unwrap_or(i64::MAX);
        Self {
            clocks,
            rate_change: rate_change.part(parts),
            error_bound: error_bound.part(parts),
            rate_error: rate_error.part(parts),
        }
    }
}

/// How close clocks must be, and how well known, to count as agreeing in an ensemble that knows them this well. Of two the one that is known
/// better decides.
fn agreement(measured: &[(NodeId, Measured)]) -> Span {
    let mut bounds: Vec<Span> = measured.iter().map(|(_, member)| member.estimate.error_bound).collect();
    bounds.sort_unstable();
    let median = bounds.get(bounds.len().saturating_sub(1) / 2).copied().unwrap_or(Span::MAX);
    median.times(AGREEMENT).max(CLOSEST_AGREEMENT)
}
