//! Who becomes master: when a node claims, whom it refuses, and when it has won. Both roles move through here; the node changes them.
//!
//! ```text
//!              nothing heard for its own patience (below)
//!   Standby ─────────────────────────────────────────────► Candidate ──── nobody refused in its window ──► elected
//!      ▲                                                       │
//!      └── refused, a master is heard, a better one claims ────┘
//! ```
//!
//! **Patience.** The master names its successors in each announce, in order, and says when the next announce is due: patience is
//! counted in these heartbeats. Once it is silent the first of them claims after [`silent`], each further one [`STAGGER`] later (as
//! VRRP staggers its backups by priority). Who is not named waits until it has lost the master altogether, and [`STAGGER`] for each
//! better node that it has heard, as at a cold start: joins say what everybody brings. A master that leaves names its successor, who is
//! elected by that, without a claim.
//!
//! **Claims** are Raft's pre-vote: a claim names the next term and raises nobody's. Who hears a living master refuses it, so that
//! a node that was cut off, or lost some announces, deposes nobody, and terms do not run away. No majority is asked for: two
//! nodes are an ensemble, and the survivor goes on. Where that is not wanted `--quorum` keeps a small side from correcting.
//!
//! **Order.** Merit ([`Merit`]), then priority, then node number; higher is better. There is no randomness: rank alone staggers.
//!
//! Invariants:
//! - a node of role slave never claims, and none claims while it hears a living master (but to ask that one to hand over);
//! - a claim is answered by at most one refusal that is no longer, and never more than one in `REFUSAL_PAUSE`;
//! - nothing that anybody claims raises a term; a refusal of one's own claim does, by at most `TERM_LEAP`;
//! - a refusal that comes up to [`LONGEST_WINDOW`] after the claim ends a mastership that nobody follows yet;
//! - a candidate that wakes up late (it was stopped, its host was asleep) has not won;
//! - rivals make a node wait [`YIELDS`] times in a row at most, so that a flood of claims keeps nobody from standing.
//!
//! Sources: Ongaro's thesis on Raft (terms, pre-vote); RFC 5798 (VRRP: skew by priority); DESIGN.md, section 6.

use std::collections::BTreeMap;

use crate::context::{Arrival, Context, Event, Outgoing, Recipient, is_within_leap};
use crate::counters::DropReason;
use crate::identity::{NodeId, Term};
use crate::protocol::{Announce, Claim, Heartbeat, Join, Merit, Refusal, SUCCESSORS};
use crate::time::{LocalTime, Span};
use crate::timers::Throttle;

/// A master heard within so many heartbeats is alive: claims are refused. Two announces may be lost. Below [`silent`], so that those who
/// heard the last of a dead master do not refuse its successor.
const ALIVE: i64 = 3;
/// A node that has not heard its master for so many heartbeats has lost it, ...
const LOST: i64 = 4;
/// ... but not before this: nothing is gained by more haste, as its clock goes on as it is.
const LEAST_SILENCE: Span = Span::from_secs(1);
/// Each further one waits so much longer: a claim, its window, and the first announce fit in.
const STAGGER: Span = Span::from_millis(150);
/// A node that has just started listens for so long, to learn who else is there: three joins of each.
const LISTENING: Span = Span::from_millis(400);
/// A clock that nobody set waits for others who may be right.
const IMPLAUSIBLE_PATIENCE: Span = Span::from_secs(1);
/// A claim may be refused for so long: a slow wireless network answers in less. Who was refused later waits longer the next time.
const WINDOW: Span = Span::from_millis(80);
/// But no longer than this, and what comes later refuses nothing: a forged refusal costs its victim so much at most.
const LONGEST_WINDOW: Span = Span::from_secs(1);
/// It is sent twice in that time: one of them may be lost.
const CLAIM_PAUSE: Span = Span::from_millis(40);
/// A node that became a slave joins first, and asks for a hand-over so much later at the earliest. Longer: the node that is preferred leads later.
const INTRODUCTION: Span = Span::from_millis(100);
/// Between two requests to hand over.
const HANDOVER_PAUSE: Span = Span::from_secs(1);
/// The pause after a first refusal by somebody who hears a master; it doubles, up to [`LONGEST_BACKOFF`].
const BACKOFF: Span = Span::from_millis(150);
/// So many refusals in a row by those who hear a master are no lost announces: it is out of this node's reach.
const OUT_OF_REACH: u32 = 3;
/// Who cannot hear a master that others hear asks this often.
const LONGEST_BACKOFF: Span = Span::from_secs(2);
/// How long the last word of a node counts for the standby order.
const MEMORY: Span = Span::from_secs(3);
/// Nodes whose last word is kept. The best of more would claim all the same.
const OTHERS: usize = 64;
/// How often in a row a node makes room for a better candidate that then does not become master.
const YIELDS: u32 = 3;

/// A node's place among those who may be master: the higher, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// What it brings.
    pub merit: Merit,
    /// As the operator said.
    pub priority: i32,
    /// Among equals the higher number.
    pub node: NodeId,
}

impl Rank {
    /// This node's; `None` when it does not stand.
    pub fn own(context: &Context, now: LocalTime) -> Option<Self> {
        let merit = context.merit(now)?;
        Some(Self { merit, priority: context.config.priority, node: context.config.node_id })
    }
}

/// A mastership as others see it: which of two masters that hear each other goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Strength {
    /// Appointed masters win.
    pub is_appointed: bool,
    /// Who has members wins over who has none: fewer clocks have to move, and a node that was alone deposes nobody.
    pub has_members: bool,
    /// Then the newer mastership,
    pub term: Term,
    /// the higher priority,
    pub priority: i32,
    /// the higher number.
    pub node: NodeId,
}

impl Strength {
    /// That of a master as it announces itself.
    pub fn announced(announce: &Announce, node: NodeId, term: Term) -> Self {
        Self {
            is_appointed: announce.merit == Merit::Appointed,
            has_members: announce.members > 0,
            term,
            priority: announce.priority,
            node,
        }
    }
}

/// What a node that is not master knows of the master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hearing {
    /// The newest term that was followed.
    pub term: Term,
    /// Its master.
    pub master: Option<NodeId>,
    /// How it is reached, while it is followed.
    pub reached_at: Option<Recipient>,
    /// When it was heard last; `None` when it never was in this part of the node's life.
    pub last_heard: Option<LocalTime>,
    /// When this part of the node's life began.
    pub since: LocalTime,
    /// It said that it leaves; whom it named.
    pub left_to: Option<Option<NodeId>>,
    /// What it announced last.
    pub announce: Option<Announce>,
}

impl Hearing {
    /// True when the master was heard just now: no claim of somebody else's is right.
    pub fn is_alive(&self, now: LocalTime) -> bool {
        let alive = self.heartbeat().span().times(ALIVE);
        self.left_to.is_none() && self.last_heard.is_some_and(|last| now - last < alive)
    }

    /// How often it can be expected to be heard.
    pub fn heartbeat(&self) -> Heartbeat {
        self.announce.map_or(Heartbeat::SHORTEST, |announce| announce.heartbeat)
    }

    /// Whom it named, the first first.
    fn successors(&self) -> impl Iterator<Item = NodeId> {
        self.announce.iter().flat_map(|announce| announce.successors.iter())
    }
}

/// The first successor claims after this silence: three heartbeats and a half. Longer: a dead master is replaced later. Shorter: three
/// lost announces in a row, which at 30 % loss come every four seconds, are not enough for a claim that is refused.
fn silent(heartbeat: Heartbeat) -> Span {
    heartbeat.span().times(7).half()
}

/// After this silence the master is lost, whoever may succeed it.
pub fn silence(heartbeat: Heartbeat) -> Span {
    heartbeat.span().times(LOST).max(LEAST_SILENCE)
}

/// A master that announced itself at `announced`, and has not since, was not running; by now another may have been elected.
pub fn has_slept(announced: LocalTime, heartbeat: Heartbeat, now: LocalTime) -> bool {
    now - announced >= silent(heartbeat) + WINDOW
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Standby,
    Candidate { term: Term, since: LocalTime, repeats_at: Option<LocalTime> },
}

/// The election as one node sees it.
#[derive(Debug)]
pub struct Election {
    state: State,
    /// When it looks next whether to claim.
    looks_at: Option<LocalTime>,
    /// Not to claim before this.
    not_before: LocalTime,
    /// What others said they bring, and when.
    others: BTreeMap<NodeId, (Rank, LocalTime)>,
    /// The highest term that a refusal told of.
    told_term: Term,
    /// How long a claim of this node may be refused.
    window: Span,
    /// When it made the claim that it won.
    won: Option<LocalTime>,
    /// Refusals in a row by those who hear a master.
    refusals: u32,
    /// Better candidates in a row that it made room for.
    yields: u32,
    handovers: Throttle,
}

impl Election {
    /// Nothing is known yet.
    pub fn new(now: LocalTime) -> Self {
        Self {
            state: State::Standby,
            looks_at: Some(now),
            not_before: now,
            others: BTreeMap::new(),
            told_term: Term::default(),
            window: WINDOW,
            won: None,
            refusals: 0,
            yields: 0,
            handovers: Throttle::default(),
        }
    }

    /// True while it claims.
    pub fn is_candidate(&self) -> bool {
        matches!(self.state, State::Candidate { .. })
    }

    /// When [`Election::handle_timeout`] is due; only while the node is not master.
    pub fn next_timeout(&self) -> Option<LocalTime> {
        match self.state {
            State::Standby => self.looks_at,
            State::Candidate { since, repeats_at, .. } => Some(repeats_at.unwrap_or(since + self.window)),
        }
    }

    /// The node is master no more, and claims nothing for so long.
    pub fn stepped_down(&mut self, now: LocalTime, pause: Span) {
        *self = Self { not_before: now + pause, window: self.window, ..Self::new(now) };
    }

    /// Something has been heard that may make it claim earlier. What makes it claim later is seen when it looks.
    pub fn look(&mut self, context: &Context, hearing: &Hearing, now: LocalTime) {
        let at = self.stands_at(context, hearing, now);
        self.looks_at = self.looks_at.into_iter().chain(at).min();
    }

    /// When this node ought to claim; `None`: never.
    fn stands_at(&self, context: &Context, hearing: &Hearing, now: LocalTime) -> Option<LocalTime> {
        let own = Rank::own(context, now)?;
        if hearing.left_to == Some(Some(own.node)) {
            return Some(now);
        }
        let is_recent = |at: LocalTime| now - at < MEMORY;
        let better = self.others.values().filter(|(rank, at)| *rank > own && is_recent(*at)).count();
        let places = |count: usize| STAGGER.times(i64::try_from(count).unwrap_or(i64::MAX));
        let place = hearing.successors().position(|node| node == own.node);
        let at = match (hearing.last_heard, place) {
            (Some(last), Some(place)) => last + silent(hearing.heartbeat()) + places(place),
            (Some(last), None) => last + silence(hearing.heartbeat()) + places(1 + better),
            (None, _) if own.merit == Merit::Implausible => {
                hearing.since + LISTENING + IMPLAUSIBLE_PATIENCE + places(better)
            }
            (None, _) => hearing.since + LISTENING + places(better),
        };
        Some(at.max(self.not_before))
    }

    /// Does what is due at `now`. `Some`: the node is elected, for this term.
    pub fn handle_timeout(&mut self, context: &mut Context, hearing: &Hearing, now: LocalTime) -> Option<Term> {
        if self.next_timeout().is_none_or(|at| at > now) {
            return None;
        }
        match self.state {
            State::Standby => {
                self.looks_at = self.stands_at(context, hearing, now);
                let at = self.looks_at?;
                if hearing.is_alive(now) {
                    (self.refusals, self.yields) = (0, 0);
                    self.ask_for_handover(context, hearing, now);
                }
                if at > now {
                    return None;
                }
                let term = hearing.term.max(self.told_term).next();
                if hearing.left_to == Some(Some(context.config.node_id)) {
                    return Some(term);
                }
                self.claim(context, term, now);
                None
            }
            // Its frame may have come at the very instant of the claim.
            State::Candidate { term, since, .. }
                if hearing.term >= term || hearing.last_heard.is_some_and(|last| last > since) =>
            {
                self.drop_claim(context, hearing, now, now, "a master is heard");
                None
            }
            State::Candidate { since, .. } if now - since >= self.window.times(2) => {
                self.drop_claim(context, hearing, now, now + LISTENING, "it was not running");
                None
            }
            State::Candidate { term, since, .. } if now - since >= self.window => {
                *self = Self { window: self.window, won: Some(since), ..Self::new(now) };
                Some(term)
            }
            State::Candidate { term, since, .. } => {
                self.state = State::Candidate { term, since, repeats_at: None };
                Self::send_claims(context, term);
                None
            }
        }
    }

    fn claim(&mut self, context: &mut Context, term: Term, now: LocalTime) {
        self.state = State::Candidate { term, since: now, repeats_at: Some(now + CLAIM_PAUSE) };
        context.tell(Event::Claimed { term });
        Self::send_claims(context, term);
    }

    fn send_claims(context: &mut Context, term: Term) {
        let everybody: Vec<Recipient> = context.everybody().collect();
        for to in everybody {
            context.send(Outgoing::Claim { to, term, is_handover: false });
        }
    }

    fn drop_claim(
        &mut self,
        context: &mut Context,
        hearing: &Hearing,
        now: LocalTime,
        not_before: LocalTime,
        reason: &'static str,
    ) {
        self.state = State::Standby;
        self.not_before = self.not_before.max(not_before);
        // Not at once again, whatever the reason.
        self.looks_at = self.stands_at(context, hearing, now).map(|at| at.max(now + BACKOFF));
        context.tell(Event::ClaimDropped { reason });
    }

    /// An appointed node, or one that preempts, asks a lesser master to hand over. It must be in step by then: time goes on.
    fn ask_for_handover(&mut self, context: &mut Context, hearing: &Hearing, now: LocalTime) {
        let (Some(own), Some(master), Some(to)) = (Rank::own(context, now), hearing.announce, hearing.reached_at)
        else {
            return;
        };
        let is_appointed = own.merit == Merit::Appointed;
        let is_wanted = master.merit != Merit::Appointed
            && (is_appointed || (context.config.preempt && own.priority > master.priority));
        // Who has just stepped down joins, and must not answer one announce with more than its length.
        let has_joined = now - hearing.since >= INTRODUCTION;
        if is_wanted && has_joined && context.is_synchronised(now) && self.handovers.admits(now, HANDOVER_PAUSE) {
            // A submaster brings more than when it joined, once it hears the domain above.
            context.send(Outgoing::Join { to });
            context.send(Outgoing::Claim { to, term: hearing.term.next(), is_handover: true });
        }
    }

    /// A node says what it brings.
    pub fn on_join(&mut self, arrival: &Arrival, join: &Join) {
        if let Some(merit) = join.merit {
            self.note(arrival, merit, join.priority);
        }
    }

    fn note(&mut self, arrival: &Arrival, merit: Merit, priority: i32) {
        let Arrival { now, header, .. } = *arrival;
        if self.others.len() >= OTHERS && !self.others.contains_key(&header.sender) {
            self.others.retain(|_, (_, at)| now - *at < MEMORY);
            if self.others.len() >= OTHERS {
                return;
            }
        }
        self.others.insert(header.sender, (Rank { merit, priority, node: header.sender }, now));
    }

    /// Somebody wants to be master, and this node is none.
    pub fn on_claim(&mut self, context: &mut Context, arrival: &Arrival, claim: &Claim, hearing: &Hearing) {
        let Arrival { from, now, header, .. } = *arrival;
        if claim.is_handover {
            return context.drop_datagram(DropReason::WrongRole, from);
        }
        let rank = Rank { merit: claim.merit, priority: claim.priority, node: header.sender };
        let own = Rank::own(context, now);
        if hearing.is_alive(now) && hearing.master != Some(header.sender) {
            // In a large group the master and its successors are enough.
            let is_called = hearing.successors().count() < SUCCESSORS
                || hearing.successors().any(|node| node == context.config.node_id);
            context.drop_datagram(DropReason::VainClaim, from);
            if is_called {
                context.refuse_claim(arrival, hearing.master);
            }
        } else if header.term <= hearing.term {
            context.drop_datagram(DropReason::StaleTerm, from);
            context.refuse_claim(arrival, None);
        } else if own.is_some_and(|own| own > rank) {
            context.drop_datagram(DropReason::VainClaim, from);
            context.refuse_claim(arrival, None);
            if !self.is_candidate() && self.not_before <= now {
                // The better claims itself: whoever is there first is not always the best.
                self.claim(context, hearing.term.max(self.told_term).next(), now);
            }
        } else if own.is_some() && self.yields < YIELDS {
            self.yields += 1;
            let later = now + WINDOW + STAGGER.times(2);
            if self.is_candidate() {
                self.drop_claim(context, hearing, now, later, "a better one claims");
            } else {
                self.not_before = self.not_before.max(later);
                self.look(context, hearing, now);
            }
        }
    }

    /// Somebody objects to this node's claim.
    pub fn on_refusal(&mut self, context: &mut Context, arrival: &Arrival, refusal: &Refusal, hearing: &Hearing) {
        let Arrival { from, now, header, .. } = *arrival;
        if !self.is_candidate() {
            return context.drop_datagram(DropReason::Unsolicited, from);
        }
        if !is_within_leap(header.term, hearing.term.max(self.told_term)) {
            return context.drop_datagram(DropReason::OutOfRange, from);
        }
        self.told_term = self.told_term.max(header.term);
        let (pause, reason) = match refusal.master {
            Some(master) => {
                let pause = BACKOFF.times(1 << self.refusals.min(4)).min(LONGEST_BACKOFF);
                self.refusals += 1;
                if self.refusals >= OUT_OF_REACH {
                    context.tell(Event::MasterOutOfReach { master, heard_at: from });
                }
                (pause, "others hear the master")
            }
            None => (STAGGER, "somebody is better, or knows a higher term"),
        };
        self.drop_claim(context, hearing, now, now + pause, reason);
    }

    /// Somebody objects to the claim by which this node became master, because it hears this other one: the way is long.
    pub fn refused_late(&mut self, arrival: &Arrival, refusal: &Refusal) -> Option<NodeId> {
        let took = arrival.now - self.won?;
        let living = refusal.master.filter(|_| took <= LONGEST_WINDOW)?;
        // Twice: the next time it may take longer.
        self.window = took.times(2).min(LONGEST_WINDOW);
        Some(living)
    }
}
