//! One ensemble below a submaster, coarsely: what its master measures and tells its slaves, without the frames that carry it.
//!
//! **What is the daemon's own.** The master knows each slave by a [`Member`], which estimates, bounds and corrects as in the daemon, and each
//! slave has a [`DisciplinedClock`]. Who is asked when, alone or with the whole group, how long answers wait, how corrections are paced and what is sent
//! again are the master's own rules (`master/pacing.rs`). Oscillators and links are those of the world: every request, response and correction is
//! drawn from a [`Link`] that may lose it.
//!
//! **What is left out.** Frames, their bytes and their queues; joins, elections and announces; acknowledgements, whose loss makes a correction arrive
//! twice. Whether rounds may come less often is asked of some slaves, not of all. A submaster's clock is that of its node above.
//!
//! Below a submaster nobody has a vote, and no two domains share a network. So all that an ensemble knows of the others is its master's clock: where that stood at
//! any time is all that is needed, and of a million nodes those of one ensemble are in memory at a time. `tests/tree.rs` holds this
//! model against the world on a thousand nodes.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use crate::clock::{Correction, DisciplinedClock};
use crate::config::{CorrectionPolicy, NodeConfig, Role};
use crate::identity::{Incarnation, NodeId, Round, Term};
use crate::master::pacing::{self, ATTEMPTS, BURST_PAUSE, BURSTS, HAND_OUT_PAUSE};
use crate::member::{BURST, Measured, Member, Peer};
use crate::protocol::{Acknowledgement, Entry, Outcome, Response};
use crate::sim::link::{Content, Heading, Link};
use crate::sim::oscillator::{Oscillator, offset_at_start};
use crate::sim::random::{Purpose, Random};
use crate::sim::scenario::Scenario;
use crate::sim::world::BEGINNING;
use crate::slave::place;
use crate::stamp::{Stamp, StampSource};
use crate::time::{LocalTime, Offset, Skew, Span};
use crate::unanswered::Asked;

/// So many slaves are asked whether rounds may come less often: of so many alike most are of the opinion of most.
const ASKED: usize = 16;
/// About the size of the frames, for links that lose the longer ones.
const FRAME: [u8; 120] = [0; 120];

/// How a clock was corrected: it, after each correction.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    changes: Vec<(Span, DisciplinedClock)>,
}

impl History {
    /// This is the clock from `at` on, in true time.
    pub(crate) fn push(&mut self, at: Span, clock: &DisciplinedClock) {
        self.changes.push((at, clock.clone()));
    }

    /// The clock at this instant, which is not long ago; `None` before the first correction.
    fn clock(&self, at: Span) -> Option<&DisciplinedClock> {
        self.changes.iter().rev().find(|(from, _)| *from <= at).map(|(_, clock)| clock)
    }
}

/// A clock as it was, looked at in the order of time.
#[derive(Debug)]
pub(crate) struct Replay {
    oscillator: Oscillator,
    history: History,
    /// The change that comes next.
    place: usize,
}

impl Replay {
    /// The clock of the node with this number.
    pub(crate) fn new(scenario: &Scenario, seed: u64, number: u32, history: History) -> Self {
        Self { oscillator: Oscillator::of_node(&scenario.clock, seed, number.into()), history, place: 0 }
    }

    /// When it was corrected first.
    fn begin(&self) -> Option<Span> {
        self.history.changes.first().map(|(at, _)| *at)
    }

    /// What its oscillator shows.
    fn local(&mut self, at: Span) -> LocalTime {
        self.oscillator.local(at)
    }

    /// The same, and the clock of that time; `None` before the first correction.
    fn clock(&mut self, at: Span) -> (LocalTime, Option<&DisciplinedClock>) {
        while self.history.changes.get(self.place).is_some_and(|(from, _)| *from <= at) {
            self.place += 1;
        }
        let clock = self.place.checked_sub(1).and_then(|place| self.history.changes.get(place));
        (self.oscillator.local(at), clock.map(|(_, clock)| clock))
    }

    /// How far it was from true time, and its error bound.
    pub(crate) fn look(&mut self, at: Span) -> Option<Look> {
        let (local, clock) = self.clock(at);
        clock.map(|clock| Look::at(clock, local, at))
    }
}

/// A corrected clock at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// What it shows less true time.
    pub(crate) error: Span,
    /// The error bound that it publishes.
    pub(crate) bound: Span,
}

impl Look {
    fn at(clock: &DisciplinedClock, local: LocalTime, at: Span) -> Self {
        Self { error: clock.read(local) - (BEGINNING + at), bound: clock.error_bound(local) }
    }
}

/// A slave, and what its master knows of it.
#[derive(Debug)]
struct Slave {
    oscillator: Oscillator,
    clock: DisciplinedClock,
    member: Member,
    from_master: Link,
    to_master: Link,
    history: History,
}

impl Slave {
    fn new(scenario: &Scenario, seed: u64, master: u32, number: u32) -> Self {
        let mut oscillator = Oscillator::of_node(&scenario.clock, seed, number.into());
        let local = oscillator.local(Span::ZERO);
        let time = BEGINNING + offset_at_start(&scenario.clock, seed, number.into());
        let peer = Peer {
            node: NodeId::new(u64::from(number) + 1),
            incarnation: Incarnation::new(1),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            hears_group: true,
            is_reference: false,
            priority: 0,
            merit: None,
        };
        let policy = CorrectionPolicy { allow_step: scenario.node.allow_step, ..CorrectionPolicy::default() };
        Self {
            clock: DisciplinedClock::new(local, time, Skew::ZERO, policy),
            member: Member::new(peer, Skew::MAX, None, local),
            oscillator,
            from_master: Link::new(Random::between(seed, Purpose::Link, master, number)),
            to_master: Link::new(Random::between(seed, Purpose::Link, number, master)),
            history: History::default(),
        }
    }

    /// What it answers to a request that `arrived`, when it is its turn.
    fn response(&mut self, t1: LocalTime, arrived: Span, turn: Span) -> Response {
        let (t2, local) = (self.oscillator.local(arrived), self.oscillator.local(turn));
        Response {
            t1,
            t2,
            t3: local,
            ahead: self.clock.read(local).ahead_of(local),
            slew: self.clock.slew(local),
            rate: self.clock.rate(),
            error_bound: self.clock.error_bound(local),
            adjustment: self.clock.adjustment(),
            applied_round: Round::default(),
            previous: None,
            is_reference: false,
            is_synchronised: self.clock.is_corrected(),
            is_stamped_near_the_wire: false,
        }
    }

    /// Is sent a correction, so many times at most, until it arrives.
    fn told(&mut self, scenario: &Scenario, round: Round, entry: &Entry, mut at: Span, attempts: u8) {
        self.member.ordered(round, entry);
        for attempt in 0..attempts {
            if let Some(arrival) = arrival_of(&mut self.from_master, at, scenario, Heading::FromMaster) {
                return self.correct(round, entry, arrival);
            }
            at += self.member.round_trip.timeout(attempt);
        }
    }

    /// Applies a correction that arrives now, and tells its master so.
    fn correct(&mut self, round: Round, entry: &Entry, at: Span) {
        let local = self.oscillator.local(at);
        let correction = Correction::from(entry);
        let outcome = match self.clock.correct(correction, local) {
            Ok(_) => Outcome::Slewed,
            Err(_) => Outcome::Refused,
        };
        self.history.push(at, &self.clock);
        self.member.acknowledged(round, &Acknowledgement { adjustment: self.clock.adjustment(), outcome });
    }
}

/// An ensemble, its slaves in the order of their numbers.
#[derive(Debug)]
struct Ensemble<'a> {
    scenario: &'a Scenario,
    master: Replay,
    slaves: Vec<Slave>,
    round: Round,
    /// When clocks are still to be looked at, the next one last.
    looks: Vec<Span>,
}

/// An ensemble from the first correction of its `master` to the end. The master's number and those of its slaves, which it leads from then on.
///
/// `looks`: when all clocks are looked at, in order; `told` learns which look it is and what a corrected slave shows. Gives how each slave's clock was corrected,
/// in the order of `numbers`.
pub(crate) fn follow(
    scenario: &Scenario,
    seed: u64,
    (master, history): (u32, History),
    numbers: Range<u32>,
    looks: &[Span],
    mut told: impl FnMut(usize, Look),
) -> Vec<History> {
    let slaves = numbers.map(|number| Slave::new(scenario, seed, master, number)).collect();
    let master = Replay::new(scenario, seed, master, history);
    let looks_left = looks.iter().rev().copied().collect();
    let mut ensemble = Ensemble { scenario, master, slaves, round: Round::default(), looks: looks_left };
    let mut told = |left: usize, look: Look| told(looks.len() - left, look);
    if let Some(begin) = ensemble.master.begin() {
        ensemble.run(begin, &mut told);
    }
    ensemble.slaves.into_iter().map(|slave| slave.history).collect()
}

impl Ensemble<'_> {
    fn run(&mut self, begin: Span, told: &mut impl FnMut(usize, Look)) {
        let (count, end) = (self.slaves.len(), self.scenario.duration);
        let node = &self.scenario.node;
        let config = NodeConfig {
            interval: node.interval,
            min_interval: node.shortest_interval(),
            max_interval: node.interval,
            ..NodeConfig::new(NodeId::new(1), Role::Master)
        };
        let mut at = begin;
        for first in (0..count).step_by(BURSTS) {
            at = self.admit(first..count.min(first + BURSTS), at);
        }
        let mut pause = pacing::shortest_pause(count, &config);
        while at <= end {
            self.look_until(at, told);
            self.round = self.round.next();
            let answered = self.ask(at, pause);
            self.correct(0..count, answered, pause);
            let now = self.master.local(answered);
            pause = pacing::next_pause(count, &config, pause, |pause| self.may_wait(now, pause));
            at += pause;
        }
        self.look_until(end + Span::from_nanos(1), told);
    }

    /// The burst of some newcomers, and their first correction. When it is over.
    fn admit(&mut self, newcomers: Range<usize>, begin: Span) -> Span {
        let pace = BURST_PAUSE.part(i64::try_from(newcomers.len()).unwrap_or(i64::MAX));
        let mut at = begin;
        for _ in 0..BURST {
            let mut sent = at;
            for place in newcomers.clone() {
                self.exchange(place, sent, Span::ZERO);
                sent += pace;
            }
            at += BURST_PAUSE;
        }
        self.round = self.round.next();
        self.correct(newcomers, at, BURST_PAUSE);
        at
    }

    /// Of some slaves, whether their bounds do not grow by much when they are not asked for so long.
    fn may_wait(&self, now: LocalTime, pause: Span) -> impl Iterator<Item = bool> {
        let every = self.slaves.len().div_ceil(ASKED).max(1);
        self.slaves.iter().step_by(every).filter_map(move |slave| slave.member.may_wait(now, pause))
    }

    /// Measures every slave. When the last answer has come, or no more are waited for.
    fn ask(&mut self, begin: Span, pause: Span) -> Span {
        for slave in &mut self.slaves {
            slave.member.begin_round();
        }
        let answered = match pacing::window(self.slaves.len(), pause) {
            Some(window) => self.ask_all(begin, pause, window.span()),
            None => self.ask_each(begin, pause),
        };
        let waited = begin + pacing::collecting(pause);
        answered.into_iter().map(|answered| answered.unwrap_or(waited)).max().unwrap_or(begin).min(waited)
    }

    /// One request to all, and another to each that has not answered in time.
    fn ask_all(&mut self, begin: Span, pause: Span, window: Span) -> Vec<Option<Span>> {
        let salt = (Term::new(1).get(), self.round.get());
        let mut answered: Vec<Option<Span>> = Vec::with_capacity(self.slaves.len());
        for index in 0..self.slaves.len() {
            let wait = self.slaves.get(index).map(|slave| place(slave.member.peer.node, salt, window));
            answered.push(self.exchange(index, begin, wait.unwrap_or(Span::ZERO)));
        }
        let missing = answered.iter().filter(|answered| answered.is_none()).count();
        let mut at = begin + window;
        for (index, answered) in answered.iter_mut().enumerate().filter(|(_, answered)| answered.is_none()) {
            let timeout = self.slaves.get(index).map_or(Span::ZERO, |slave| slave.member.round_trip.timeout(0));
            *answered = self.ask_alone(index, at + timeout, 1);
            at += pacing::request_pace(missing, pause);
        }
        answered
    }

    /// One request to each after the other; when there are few, another as soon as it has answered.
    fn ask_each(&mut self, begin: Span, pause: Span) -> Vec<Option<Span>> {
        let count = self.slaves.len();
        let mut at = begin;
        let each = (0..count).map(|index| {
            let first = self.ask_alone(index, at, 0);
            at += pacing::request_pace(count, pause);
            let again = first.filter(|_| !pacing::is_large(count));
            again.and_then(|sent| self.exchange(index, sent, Span::ZERO)).or(first)
        });
        each.collect()
    }

    /// Asks a slave from `at` on until it answers, or is given up; so many attempts were for nothing before.
    fn ask_alone(&mut self, index: usize, mut at: Span, attempts: u8) -> Option<Span> {
        for attempt in attempts..ATTEMPTS {
            if let Some(answered) = self.exchange(index, at, Span::ZERO) {
                return Some(answered);
            }
            at += self.slaves.get(index)?.member.round_trip.timeout(attempt);
        }
        None
    }

    /// A request and its response, which waits for its turn; when that arrived, unless one of them was lost.
    fn exchange(&mut self, index: usize, at: Span, turn: Span) -> Option<Span> {
        let slave = self.slaves.get_mut(index)?;
        let t1 = self.master.local(at);
        slave.member.request_sent(Asked { t1, left: stamp(t1), window: turn });
        let arrived = arrival_of(&mut slave.from_master, at, self.scenario, Heading::FromMaster)?;
        let response = slave.response(t1, arrived, arrived + turn);
        let back = arrival_of(&mut slave.to_master, arrived + turn, self.scenario, Heading::ToMaster)?;
        let (t4, clock) = self.master.clock(back);
        // A sample that contradicts the others is put aside, and an answer that makes no sense is none.
        let _ = slave.member.answered(&response, stamp(t4), None, clock.map(DisciplinedClock::rate));
        Some(back)
    }

    /// Sends all of these that have answered to where the master's clock stands, those of a large group some at a time.
    fn correct(&mut self, slaves: Range<usize>, at: Span, pause: Span) {
        let (now, Some(clock)) = self.master.clock(at) else { return };
        let own = clock.target(now);
        let kept = Kept { rate: clock.rate(), error: (clock.target_error_bound(now), clock.rate_error(now)) };
        let count = self.slaves.len();
        let (most, attempts) = match pacing::is_large(count) {
            true if pacing::is_acknowledged_by_response(pause) => (pacing::handed_out(count, pause), 1),
            true => (pacing::handed_out(count, pause), ATTEMPTS),
            false => (count, ATTEMPTS),
        };
        let mut at = at;
        for first in slaves.clone().step_by(most) {
            for slave in self.slaves.get_mut(first..slaves.end.min(first + most)).into_iter().flatten() {
                let measured = slave.member.measured(now, own);
                let entry = measured.and_then(|measured| kept.entry(&slave.member, &measured));
                entry.into_iter().for_each(|entry| slave.told(self.scenario, self.round, &entry, at, attempts));
            }
            at += HAND_OUT_PAUSE;
        }
    }

    /// Looks at all clocks as often as it is due before `until`.
    fn look_until(&mut self, until: Span, told: &mut impl FnMut(usize, Look)) {
        while let Some(at) = self.looks.pop_if(|at| *at < until) {
            let left = self.looks.len() + 1;
            for slave in &mut self.slaves {
                let local = slave.oscillator.local(at);
                slave.history.clock(at).into_iter().for_each(|clock| told(left, Look::at(clock, local, at)));
            }
        }
    }
}

/// The time that an ensemble keeps, at one instant: its master's clock.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// The clock's rate relative to the master's oscillator.
    rate: Skew,
    /// How far the clock can be from the time above, and its rate.
    error: (Span, Skew),
}

impl Kept {
    /// What a slave has to do. What its master does not know of the time above, it does not know either.
    fn entry(&self, member: &Member, measured: &Measured) -> Option<Entry> {
        let entry = member.entry(measured, Offset::ZERO, self.rate)?;
        let (error_bound, rate_error) = self.error;
        let rate_error = (entry.rate_error + rate_error).clamped(Skew::MAX);
        Some(Entry { error_bound: entry.error_bound + error_bound, rate_error, ..entry })
    }
}

/// When a frame that leaves now arrives; `None`: never, or damaged.
fn arrival_of(link: &mut Link, at: Span, scenario: &Scenario, heading: Heading) -> Option<Span> {
    let delivery = link.send(at, &FRAME, &scenario.link, heading, Span::ZERO).next()?;
    (delivery.content == Content::AsSent).then_some(delivery.arrival)
}

fn stamp(at: LocalTime) -> Stamp {
    Stamp { at, source: StampSource::User }
}
