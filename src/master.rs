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
//! The steps of the algorithm, each in one function: [`Master::begin_round`] polls, [`Master::on_response`] measures (`round.rs`),
//! [`Master::average`] averages and corrects its own clock (`averaging.rs`), [`Master::deliver`] sends the corrections (`delivery.rs`). Who
//! takes part is decided in `joining.rs`.
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
//! - the members are at most `max_slaves`, the candidates at most [`joining::CANDIDATES`];
//! - a node is a member only after it answered a request at its address, so that a forged sender costs one datagram;
//! - a correction is computed only from answers of the same round (or of the newcomer's burst);
//! - nothing is sent to a member between rounds but what it did not answer or acknowledge;
//! - a timer belongs to the whole group or to a member that is joining, late or alone: ten thousand members that answer cost none.

mod averaging;
mod delivery;
mod joining;
pub(crate) mod pacing;
mod round;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::clock::DisciplinedClock;
use crate::config::Role;
use crate::context::{Arrival, Context, Event, Outgoing, Recipient, Upper, is_within_leap};
use crate::counters::DropReason;
use crate::election::{Rank, Strength, has_slept};
use crate::identity::{Incarnation, NodeId, Round, Term};
use crate::member::{Member, Peer};
use crate::protocol::{Announce, Claim, Heartbeat, Join, Merit, Message, Successors};
use crate::time::{LocalTime, Skew, Span};
use crate::timers::{Throttle, Timers};
use crate::unanswered::{Asked, Unanswered};

/// A master that nobody would replace has no one waiting for it to fall silent: it announces itself often enough to be found and kept.
const IDLE_HEARTBEAT: Span = Span::from_millis(250);
/// A heartbeat lasts so long for each member, as far as [`Heartbeat`] goes: 100 ms up to 50 members, a second from 500 on. Longer: a dead
/// master is missed later. Shorter: each announce wakes everybody, and ten thousand slaves would be woken 100,000 times a second.
const MEMBER_HEARTBEAT: Span = Span::from_millis(2);
/// A join may raise the term, and have it announced to everybody, once in this time: forged ones shall not make the
/// master flood its own group.
const TERM_PAUSE: Span = Span::from_millis(100);
/// The first round of an elected master, counted from its election or its first heir: by then its heirs have joined and answered their
/// short burst.
const FIRST_ROUND: Span = Span::from_millis(50);
/// An elected master counts on those whom its predecessor had for so long.
const GATHERING: Span = Span::from_secs(1);
/// A better master is asked to take this node as a slave once in this time.
const YIELD_PAUSE: Span = Span::from_millis(100);
/// What that one has not answered after this time is forgotten.
const YIELD_PATIENCE: Span = Span::from_secs(1);

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
    /// The answers of the group should be there.
    Window,
    /// Send the next few corrections.
    HandOut,
}

/// A node that joined and has been asked, to see whether it is where it says.
#[derive(Clone, Debug)]
struct Candidate {
    peer: Peer,
    join: Join,
    since: LocalTime,
    is_fresh: bool,
    unanswered: Unanswered<{ joining::UNANSWERED }>,
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
    /// Each in a place of its own: nodes of the tree are half empty.
    members: BTreeMap<NodeId, Box<Member>>,
    candidates: BTreeMap<SocketAddr, Candidate>,
    timers: Timers<Timer>,
    /// The present round's answers are still being collected; it is averaged once.
    is_collecting: bool,
    /// The member that an answer was still waited for when all were looked at last. While that is so, nobody need look at the
    /// others: members are asked in their order, and a thousand answers would each look past all those before.
    waited_for: NodeId,
    /// The request of this round that went to the group. The members share it, so that its stamp is written once and not for ten thousand.
    called: Option<Asked>,
    /// The first member that may still have to be told its correction of this round.
    untold: NodeId,
    /// The members that are in a burst.
    bursts: BTreeSet<NodeId>,
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
    /// By how much the ensemble's rate is likely to change at most, as more is learned of the oscillators that were averaged last. Whoever is cut
    /// off does not hear of it.
    unlearned: Skew,
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
            called: None,
            untold: NodeId::default(),
            bursts: BTreeSet::new(),
            pause: context.config.min_interval,
            last_t1: LocalTime::default(),
            gathers: None,
            announced: None,
            inherits: None,
            superior: None,
            followed: None,
            unlearned: Skew::ZERO,
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
        self.members.values().map(AsRef::as_ref)
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
        let mut ranks: Vec<Rank> = self.members().filter_map(Member::rank).collect();
        ranks.sort_unstable_by(|a, b| b.cmp(a));
        Successors::new(ranks.into_iter().map(|rank| rank.node))
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
                && arrival.is_fresh
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
                Timer::Window => self.close_window(context, now),
                Timer::HandOut => self.hand_out(context, now),
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
            member.begin_term();
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
}
