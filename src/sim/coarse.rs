//! One ensemble below a submaster, coarsely: what its master measures and tells its slaves, without the frames that carry it.
//!
//! **What is the daemon's own.** The master knows each slave by a [`Member`], which estimates, bounds and corrects as in the daemon, and each
//! slave has a [`DisciplinedClock`]. Oscillators and links are those of the world: every request, response and correction is drawn from a
//! [`Link`] that may lose it.
//!
//! **What is left out.** Frames, their bytes and their queues; joins, elections and announces; a second attempt for what was lost, so that a slave
//! waits for the next round where a real one is asked again within milliseconds. Whether rounds may come less often is asked of some slaves, not of
//! all. A submaster's clock is that of its node above.
//!
//! Below a submaster nobody has a vote, and no two domains share a network. So all that an ensemble knows of the others is its master's clock: where that stood at
//! any time is all that is needed, and of a million nodes those of one ensemble are in memory at a time. `tests/tree.rs` holds this
//! model against the world on a thousand nodes.

use std::net::{Ipv4Addr, SocketAddr};

use crate::clock::{Correction, DisciplinedClock};
use crate::config::CorrectionPolicy;
use crate::identity::{Incarnation, NodeId, Round};
use crate::member::{Measured, Member, Peer};
use crate::protocol::{Acknowledgement, Entry, Outcome, Response};
use crate::sim::link::{Content, Heading, Link};
use crate::sim::oscillator::{Oscillator, offset_at_start};
use crate::sim::random::{Purpose, Random};
use crate::sim::scenario::Scenario;
use crate::sim::world::BEGINNING;
use crate::stamp::{Stamp, StampSource};
use crate::time::{LocalTime, Offset, Skew, Span};
use crate::unanswered::Asked;

/// Requests in a newcomer's burst, ...
const BURST: i64 = 8;
/// ... and the pause between them: as `member.rs` and `master.rs` have it.
const BURST_PAUSE: Span = Span::from_millis(20);
/// Rounds are not made shorter than this for each slave, as in `master.rs`.
const MEMBER_PAUSE: Span = Span::from_millis(1);
/// Between the requests to one slave and the next, unless they would take more than this part of a round.
const PACE: Span = Span::from_micros(300);
const ASKING_PART: i64 = 4;
/// So many are asked a second time as soon as they have answered, as in `master.rs`.
const ASKED_TWICE: usize = 128;
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
            corrected_in: None,
            rate_error: Skew::MAX,
        };
        let policy = CorrectionPolicy { allow_step: scenario.node.allow_step, ..CorrectionPolicy::default() };
        Self {
            clock: DisciplinedClock::new(local, time, Skew::ZERO, policy),
            member: Member::new(peer, None, local),
            oscillator,
            from_master: Link::new(Random::between(seed, Purpose::Link, master, number)),
            to_master: Link::new(Random::between(seed, Purpose::Link, number, master)),
            history: History::default(),
        }
    }

    /// What it answers to a request that arrives now.
    fn response(&mut self, t1: LocalTime, at: Span) -> Response {
        let local = self.oscillator.local(at);
        Response {
            t1,
            t2: local,
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
    numbers: std::ops::Range<u32>,
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
        let count = i64::try_from(self.slaves.len()).unwrap_or(i64::MAX).max(1);
        let end = self.scenario.duration;
        let mut at = begin;
        for _ in 1..BURST {
            self.ask(at, BURST_PAUSE.part(count), 1);
            at += BURST_PAUSE;
        }
        let node = &self.scenario.node;
        let shortest = node.shortest_interval().max(MEMBER_PAUSE.times(count)).min(node.interval);
        let mut pause = shortest;
        let times = if self.slaves.len() <= ASKED_TWICE { 2 } else { 1 };
        while at <= end {
            self.round = self.round.next();
            let answered = self.ask(at, PACE.min(pause.part(ASKING_PART).part(count)), times);
            self.correct(answered, told);
            let longer = pause.times(2).min(node.interval);
            let next = [longer, pause].into_iter().find(|pause| self.may_wait(answered, *pause));
            pause = next.unwrap_or(pause.half().max(shortest));
            at += pause;
        }
        self.look_until(end + Span::from_nanos(1), told);
    }

    /// True when most slaves' bounds do not grow by much if they are not asked for so long.
    fn may_wait(&mut self, at: Span, pause: Span) -> bool {
        let now = self.master.local(at);
        let every = self.slaves.len().div_ceil(ASKED).max(1);
        let asked = self.slaves.iter().step_by(every).filter_map(|slave| slave.member.may_wait(now, pause));
        asked.map(|may_wait| if may_wait { 1_i64 } else { -1 }).sum::<i64>() > 0
    }

    /// Measures every slave so many times, one `pace` after the other. When the last answer has come.
    fn ask(&mut self, begin: Span, pace: Span, times: usize) -> Span {
        let (mut at, mut last) = (begin, begin);
        for place in 0..self.slaves.len() {
            if let Some(slave) = self.slaves.get_mut(place) {
                slave.member.begin_round();
            }
            let mut sent = Some(at);
            for _ in 0..times {
                sent = sent.and_then(|sent| self.exchange(place, sent));
                last = last.max(sent.unwrap_or(last));
            }
            at += pace;
        }
        last
    }

    /// A request and its response; when that arrived, unless one of them was lost.
    fn exchange(&mut self, place: usize, at: Span) -> Option<Span> {
        let slave = self.slaves.get_mut(place)?;
        let t1 = self.master.local(at);
        let arrival = arrival_of(&mut slave.from_master, at, self.scenario, Heading::FromMaster)?;
        slave.member.request_sent(Asked { t1, left: stamp(t1), window: Span::ZERO });
        let response = slave.response(t1, arrival);
        let back = arrival_of(&mut slave.to_master, arrival, self.scenario, Heading::ToMaster)?;
        let (t4, clock) = self.master.clock(back);
        // A sample that contradicts the others is put aside, and an answer that makes no sense is none.
        let _ = slave.member.answered(&response, stamp(t4), clock.map(DisciplinedClock::rate));
        Some(back)
    }

    /// Sends every slave that has answered to where the master's clock stands.
    fn correct(&mut self, at: Span, told: &mut impl FnMut(usize, Look)) {
        let (now, Some(clock)) = self.master.clock(at) else { return };
        let own = clock.target(now);
        let kept = Kept { rate: clock.rate(), error: (clock.target_error_bound(now), clock.rate_error(now)) };
        self.look_until(at, told);
        for slave in &mut self.slaves {
            let measured = slave.member.measured(now, own);
            let Some(entry) = measured.and_then(|measured| kept.entry(&slave.member, &measured)) else { continue };
            slave.member.ordered(self.round, entry);
            if let Some(arrival) = arrival_of(&mut slave.from_master, at, self.scenario, Heading::FromMaster) {
                slave.correct(self.round, &entry, arrival);
            }
        }
    }

    /// Looks at all clocks as often as it is due before `until`.
    fn look_until(&mut self, until: Span, told: &mut impl FnMut(usize, Look)) {
        while let Some(at) = self.looks.pop_if(|at| *at < until) {
            let left = self.looks.len() + 1;
            for slave in self.slaves.iter_mut().filter(|slave| slave.clock.is_corrected()) {
                let local = slave.oscillator.local(at);
                told(left, Look::at(&slave.clock, local, at));
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
