//! What a master knows of one slave: where it is, what it said of its clock, how its oscillator runs, what it owes.

mod order;
mod peer;

use std::num::NonZeroU32;

use crate::average::{Reading, Reason, Standing, Verdict};
use crate::context::is_plausible;
use crate::election::Rank;
use crate::estimator::{Estimate, Estimator, Judgement};
use crate::exchange::{Exchange, LARGEST_RATE, Sample};
use crate::identity::Round;
use crate::protocol::{Acknowledgement, Answered, Departure, Entry, Merit, Outcome, Response};
use crate::round_trip::RoundTrip;
use crate::stamp::{Stamp, StampSource};
use crate::time::{LocalTime, Offset, Skew, Span, Time, WIRE_LIMIT};
use crate::unanswered::{Asked, Unanswered};

use self::order::{Order, Report};
pub use self::peer::Peer;

/// Requests in a newcomer's burst: enough that the quickest of them was hardly held up.
pub(crate) const BURST: u8 = 8;
/// Requests in the burst of an heir, whose clock is right and whose rate is known: enough to tell that it is so.
const SHORT_BURST: u8 = 3;
/// An heir's clock is likely to stand this close to the master's when that takes over: an ensemble that has settled on a LAN.
const IN_STEP: Span = Span::from_micros(5);
/// An heir that stands so many times further off, beyond what the measurement leaves open, is none.
const REFUTED: i64 = 5;
/// Requests whose answers are still waited for, the late ones of earlier attempts included.
const UNANSWERED: usize = 4;
/// Rounds without an answer after which a member counts as silent.
const SILENT_ROUNDS: u8 = 3;
/// Rounds in a row within γ, and known as well, after which a newcomer is averaged.
const PROBATION: u8 = 4;
/// A founder that says that its clock ran by more than this in a former life is not believed: no oscillator is worse.
const LARGEST_MEMORY: Skew = Skew::from_ppm(500);
/// How well two nodes that are synchronised know each other's rate at best, as a standard deviation. Two halves of a group that were
/// apart have rates of their own, some 100 ppb from each other.
const RATE_ERROR: Skew = Skew::from_ppm(1);
/// A rate can be wrong by so many standard deviations, as every node says of its own, see `estimator.rs`. Of the two that meet both can
/// be wrong: the sum of what they say is taken for that of their difference.
const RATE_SIGMAS: i64 = 4;
/// And how well when one of them remembers it from a former life: what temperature makes of a quartz.
const MEMORY_ERROR: Skew = Skew::from_ppm(5);
/// No bound is so small that less than this matters: what stamps and schedulers make.
const LEAST_GROWTH: Span = Span::from_micros(1);

/// Where the asking of a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// A newcomer: so many quick requests are still to be sent.
    Burst {
        /// Requests still to be sent.
        left: u8,
    },
    /// The whole group was asked in this round, and it has not answered yet.
    Called,
    /// It is asked in this round, so many times already without an answer.
    Waiting {
        /// Requests sent.
        attempts: u8,
    },
    /// It has answered and is asked once more, while nothing on the way has gone to sleep again.
    Again,
    /// It has answered, or was given up, in this round.
    Done,
}

impl Asking {
    /// A burst that is about to begin.
    pub const BURST: Self = Self::Burst { left: BURST };
    /// That of an heir.
    pub const SHORT_BURST: Self = Self::Burst { left: SHORT_BURST };
}

/// The exchange that was answered last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    /// The t1 on the wire, which names it.
    t1: LocalTime,
    /// With the t3 on the wire.
    exchange: Exchange,
    /// Who took the bluntest of the other three stamps.
    stamps: StampSource,
    /// Nothing is learned from it yet: the next response will bring its true t3, if all goes well.
    is_held: bool,
}

/// What is known of an oscillator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How it runs relative to the master's.
    pub skew: Skew,
    /// How far `skew` is likely to be wrong at most.
    pub error: Skew,
    /// How far `skew` can be wrong, whatever delayed the samples.
    pub bound: Skew,
}

impl From<&Estimate> for Rate {
    fn from(estimate: &Estimate) -> Self {
        Self { skew: estimate.skew, error: estimate.skew_error, bound: estimate.skew_bound }
    }
}

/// A member's clock at one instant of the master's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The slave's local clock at that instant.
    pub local: LocalTime,
    /// Its disciplined clock's target minus the master's.
    pub offset: Offset,
    /// How far `offset` can be wrong.
    pub error_bound: Span,
    /// How its local clock runs.
    pub rate: Rate,
}

/// Why a response was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadResponse {
    /// It answers nothing that is waited for.
    Unsolicited,
    /// Its stamps contradict each other.
    Implausible,
}

/// What a member has earned, and loses when its local clock jumps.
#[derive(Clone, Copy, Debug, Default)]
struct Trust {
    /// Rounds in a row within γ.
    agreeing: u8,
    /// What was known of its oscillator when it was last counted; `None` when it was not counted since.
    counted_with: Option<Rate>,
    /// When it was taken over, if it was a member of the ensemble that the master took over.
    inherited: Option<LocalTime>,
}

/// One slave of a master.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who and where it is.
    pub peer: Peer,
    /// Where the asking stands.
    pub asking: Asking,
    /// How long its answers take.
    pub round_trip: RoundTrip,
    /// How much it counts in a weighted average.
    pub weight: Option<NonZeroU32>,
    /// By how much longer a request to it takes than its response.
    pub delay_asymmetry: Span,
    /// Requests and corrections that had to be sent again.
    pub retransmissions: u32,
    /// When it was heard last.
    pub last_heard: LocalTime,
    /// Rounds in a row without an answer.
    missed: u8,
    /// What the last average made of it, and its offset in that; `None` before the first.
    judged: Option<(Verdict, Offset)>,
    /// It has answered since the round began, and the answer made sense.
    is_fresh: bool,
    trust: Trust,
    /// What it had earned before its local clock seemed to jump in this round. On the heap, for hardly one does.
    trust_before_jump: Option<Box<Trust>>,
    unanswered: Unanswered<UNANSWERED>,
    last: Option<Last>,
    /// The sample that was learned from last, and who took the bluntest of its stamps.
    last_sample: Option<(Sample, StampSource)>,
    estimator: Estimator,
    /// How well its rate and the master's agree if both are those of one ensemble, as a standard deviation.
    rate_error: Skew,
    report: Option<Report>,
    /// `None` before the first.
    order: Option<Order>,
    /// It had taken the correction before that, and has answered since as if the last one had been lost.
    has_stayed: bool,
}

/// What a new master knows of an heir before it has measured anything: both keep the time of the same ensemble. (How its oscillator
/// runs, see [`Member::recall_skew`].)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heritage {
    /// When it was taken over.
    since: LocalTime,
    /// How well its rate agrees with the master's, as a standard deviation.
    rate_error: Skew,
}

impl Heritage {
    /// How far from the master's clock it is likely to stand.
    fn deviation(&self, now: LocalTime) -> Span {
        let age = (now - self.since).max(Span::ZERO);
        IN_STEP + self.rate_error.over(age)
    }

    /// The likeliest offset, when `measured` was found with a standard error of `error` and the clocks were likely in step: between
    /// the two, by their variances. The first answers of a new master are few, and their noise must not move clocks that are right.
    fn weighed(&self, measured: Span, error: Span, now: LocalTime) -> Span {
        let (prior, error) = (self.deviation(now).as_secs_f64(), error.as_secs_f64());
        Span::from_secs_f64(measured.as_secs_f64() * prior * prior / (prior * prior + error * error))
    }

    /// True when it cannot be: that clock is no heir's. The truth lies within the measurement's bound.
    fn is_refuted(&self, measured: Span, bound: Span, now: LocalTime) -> bool {
        measured.abs() > self.deviation(now).times(REFUTED) + bound
    }
}

impl Member {
    /// A newcomer, about to be asked in a burst. How far its rate can be from its ensemble's is `rate_error`, and the master's
    /// `own_rate_error`; `None` when that was not corrected in this life, and can at best remember it.
    pub fn new(peer: Peer, rate_error: Skew, own_rate_error: Option<Skew>, now: LocalTime) -> Self {
        let of_both = own_rate_error.map(|own| (rate_error + own).part(RATE_SIGMAS));
        Self {
            peer,
            asking: Asking::BURST,
            round_trip: RoundTrip::default(),
            weight: None,
            delay_asymmetry: Span::ZERO,
            retransmissions: 0,
            last_heard: now,
            missed: 0,
            judged: None,
            is_fresh: false,
            trust: Trust::default(),
            trust_before_jump: None,
            unanswered: Unanswered::default(),
            last: None,
            last_sample: None,
            estimator: Estimator::new(),
            rate_error: of_both.unwrap_or(rate_error.part(RATE_SIGMAS) + MEMORY_ERROR),
            report: None,
            order: None,
            has_stayed: false,
        }
    }

    /// It belonged to the ensemble that the master took over at `now`: it is no newcomer, and has a vote at once.
    pub fn inherit(&mut self, now: LocalTime) {
        self.trust.agreeing = PROBATION;
        self.trust.inherited = Some(now);
    }

    fn heritage(&self) -> Option<Heritage> {
        self.trust.inherited.map(|since| Heritage { since, rate_error: self.rate_error })
    }

    /// True when it belonged to the ensemble that the master took over.
    pub fn is_heir(&self) -> bool {
        self.trust.inherited.is_some()
    }

    /// Looks whether it is the heir that it said it was, when the master's own target at `now` is `own`.
    pub fn check_heritage(&mut self, now: LocalTime, own: Time) {
        if let Some(heritage) = self.heritage()
            && let Some(estimate) = self.estimator.estimate(now)
            && let Some(found) = self.found(&estimate, now, own)
            && heritage.is_refuted(found.offset.ahead(), found.error_bound, now)
        {
            self.trust.inherited = None;
            self.trust.agreeing = 0;
            // Nor does it run as it said: the ensemble has gone another way without it.
            self.estimator = Estimator::new();
            if let Some((sample, _)) = self.last_sample {
                self.estimator.push(sample);
            }
        }
    }

    /// Its place among those who may succeed the master; `None` when it does not stand, or would not be counted if there were no
    /// reference.
    pub fn rank(&self) -> Option<Rank> {
        let is_in_step = matches!(self.verdict(), Some(Verdict::Counted | Verdict::LeftOut(Reason::NotReference)));
        let is_fit = (is_in_step || self.is_heir()) && !self.is_silent();
        let merit = self.peer.merit.filter(|_| is_fit)?.max(Merit::Established);
        Some(Rank { merit, priority: self.peer.priority, node: self.peer.node })
    }

    /// The exchange with it that was answered last, for its next request to tell.
    pub fn last_answered(&self) -> Option<Answered> {
        self.last.map(|last| Answered { t1: last.t1, t4: last.exchange.t4 })
    }

    /// A request goes out.
    pub fn request_sent(&mut self, asked: Asked) {
        self.unanswered.push(asked);
    }

    /// The request with this t1, if its answer is still waited for.
    pub fn asked_at(&mut self, t1: LocalTime) -> Option<&mut Asked> {
        self.unanswered.at(t1)
    }

    /// How long the answer to its last request may be on its way after `now`, before it counts as lost.
    pub fn patience(&self, now: LocalTime) -> Span {
        let lost = |asked: &Asked| asked.t1 + asked.window + self.round_trip.timeout(0) - now;
        self.unanswered.last().map_or(Span::ZERO, lost).max(Span::ZERO)
    }

    /// A new round begins: it has to answer again, and what it did not acknowledge is stale. Tells whether it has just
    /// become silent.
    pub fn begin_round(&mut self) -> bool {
        self.give_up_order();
        self.trust_before_jump = None;
        self.missed = if self.is_fresh { 0 } else { self.missed.saturating_add(1) };
        self.is_fresh = false;
        if self.is_silent() {
            self.trust.agreeing = 0;
        }
        self.missed == SILENT_ROUNDS
    }

    /// The whole group is asked, and it with the others. What was asked of it alone in earlier rounds is waited for no more.
    pub fn call(&mut self) {
        self.asking = Asking::Called;
        self.unanswered = Unanswered::default();
    }

    /// True when it has not answered for several rounds.
    pub fn is_silent(&self) -> bool {
        self.missed >= SILENT_ROUNDS
    }

    /// Takes in its answer, which arrived at `t4`, and learns from the exchange before if this answer brings its true t3. Tells what
    /// became of the sample; one that waits for its own true t3 is kept for now.
    ///
    /// `called`: the request to the group that it answers, if it is not one to it alone. `known_rate`: the ensemble's rate relative to the master's
    /// clock, if it knows it.
    ///
    /// # Errors
    /// [`BadResponse`], and nothing has changed but that the request is answered.
    pub fn answered(
        &mut self,
        response: &Response,
        t4: Stamp,
        called: Option<Asked>,
        known_rate: Option<Skew>,
    ) -> Result<Judgement, BadResponse> {
        let asked = called.or_else(|| self.unanswered.take(response.t1));
        let Asked { t1, left, window } = asked.ok_or(BadResponse::Unsolicited)?;
        let exchange = Exchange { t1: left.at, t2: response.t2, t3: response.t3, t4: t4.at };
        let sample = self.sample(exchange).ok_or(BadResponse::Implausible)?;
        self.round_trip.measure(t4.at - t1 - window.min(response.t3 - response.t2));
        self.last_heard = t4.at;
        self.missed = 0;
        self.peer.is_reference = response.is_reference;
        let report = Report::from(response);
        self.has_stayed &= self.report.replace(report).is_some_and(|before| {
            before.adjustment == report.adjustment && before.line.agrees(&report.line, response.t3)
        });
        if self.estimator.samples() == 0 {
            self.recall_skew(response, known_rate);
        }
        let held = self.last.take().filter(|last| last.is_held);
        let earlier = held.and_then(|held| self.learn_held(held, response.previous));
        // Whatever cannot be true is learned from at once: a clock that has jumped is not to be noticed an exchange later.
        let is_held = response.previous.is_some() && self.estimator.agrees(sample);
        let judgement = if is_held { Judgement::Kept } else { self.learn(sample, StampSource::User) };
        let t2 = if response.is_stamped_near_the_wire { StampSource::Kernel } else { StampSource::User };
        self.last = Some(Last { t1, exchange, stamps: left.source.max(t2).max(t4.source), is_held });
        self.is_fresh |= judgement != Judgement::Suspect;
        if earlier != Some(Judgement::Restarted) && judgement != Judgement::Restarted {
            return Ok(judgement);
        }
        self.trust_before_jump = Some(Box::new(std::mem::take(&mut self.trust)));
        Ok(Judgement::Restarted)
    }

    /// True when its local clock seems to have jumped in this round.
    pub fn has_jumped(&self) -> bool {
        self.trust_before_jump.is_some()
    }

    /// It was the master's clock that jumped: this one has lost nothing. A jump says nothing of rates either; what was known of them is
    /// taken up again, or the noise of the first samples would become the ensemble's rate.
    pub fn keep_trust(&mut self) {
        let Some(trust) = self.trust_before_jump.take() else {
            return;
        };
        self.trust = *trust;
        if let (Some(counted), Some((sample, _))) = (trust.counted_with, self.last_sample) {
            self.estimator = Estimator::expecting(counted.skew, counted.error.part(RATE_SIGMAS), counted.bound);
            self.estimator.push(sample);
        }
    }

    /// Two clocks that know their ensemble's rate know each other's: a new master need not measure again what the old one did, and a
    /// node that starts again need not be found out anew. `known_rate`: the master's own.
    fn recall_skew(&mut self, response: &Response, known_rate: Option<Skew>) {
        let is_sane = response.rate != Skew::ZERO && response.rate.abs() <= LARGEST_MEMORY;
        if let Some(ensemble_rate) = known_rate.filter(|_| is_sane) {
            let (error, most) = match self.heritage() {
                Some(heritage) => (heritage.rate_error, heritage.rate_error.times(RATE_SIGMAS)),
                None if response.is_synchronised => (self.rate_error.max(RATE_ERROR), LARGEST_RATE),
                None => (MEMORY_ERROR, LARGEST_RATE),
            };
            self.estimator = Estimator::expecting(ensemble_rate.relative_to(response.rate), error, most);
        }
    }

    /// Learns from an exchange that has waited for its true t3, with it if `previous` brings it, else with the one on the wire, which
    /// makes the delay longer and so the sample lighter.
    fn learn_held(&mut self, held: Last, previous: Option<Departure>) -> Option<Judgement> {
        let Last { t1, exchange, stamps, is_held: _ } = held;
        let late = previous.filter(|departure| departure.t1 == t1).map(|departure| departure.late);
        let completed = late.and_then(|late| self.sample(Exchange { t3: exchange.t3 + late, ..exchange }));
        match completed {
            Some(sample) => Some(self.learn(sample, stamps)),
            None => Some(self.learn(self.sample(exchange)?, StampSource::User)),
        }
    }

    /// What an exchange says, with what is known of the two ways: a request that takes longer makes the slave seem ahead by half of it.
    /// The bound of half the delay holds all the same, as long as neither way takes less than nothing.
    fn sample(&self, exchange: Exchange) -> Option<Sample> {
        Some(exchange.sample()?.shifted(-self.delay_asymmetry.half()))
    }

    /// Somebody has measured how much longer requests take than responses, or anew: what has been learned so far is moved there, or it would seem
    /// to be the clock that has jumped.
    pub fn set_delay_asymmetry(&mut self, asymmetry: Span) {
        let by = self.delay_asymmetry.half() - asymmetry.half();
        self.delay_asymmetry = asymmetry;
        self.estimator.shift(by);
        self.last_sample = self.last_sample.map(|(sample, stamps)| (sample.shifted(by), stamps));
    }

    fn learn(&mut self, sample: Sample, stamps: StampSource) -> Judgement {
        self.last_sample = Some((sample, stamps));
        self.estimator.push(sample)
    }

    /// The sample that was learned from last.
    pub fn last_sample(&self) -> Option<Sample> {
        self.last_sample.map(|(sample, _)| sample)
    }

    /// Who took the bluntest stamp of its last sample.
    pub fn stamps(&self) -> StampSource {
        self.last_sample.map_or(StampSource::User, |(_, stamps)| stamps)
    }

    /// A correction is about to be sent to it, for the first time.
    pub fn ordered(&mut self, round: Round, entry: &Entry) {
        self.has_stayed = self.is_as_ordered(entry.reference);
        self.order = self.report.map(|report| Order::new(round, entry, &report));
    }

    /// True when a correction waits to be sent to it.
    pub fn is_untold(&self) -> bool {
        self.attempts() == Some(0)
    }

    /// True when a correction of this round has been sent to it.
    pub fn is_corrected_in(&self, round: Round) -> bool {
        self.order.is_some_and(|order| order.round == Some(round))
    }

    /// How many times the correction was sent that it has to acknowledge; `None` when there is none.
    pub fn attempts(&self) -> Option<u8> {
        self.order.and_then(|order| order.attempts)
    }

    /// The correction that it has to acknowledge is sent, once more: that, and its round.
    pub fn told(&mut self) -> Option<(Round, Entry)> {
        let order = self.order.as_mut()?;
        order.attempts = Some(order.attempts?.saturating_add(1));
        Some((order.round?, order.entry(&self.peer)))
    }

    /// What it did not acknowledge is waited for no more.
    pub fn give_up_order(&mut self) {
        if let Some(order) = &mut self.order {
            order.attempts = None;
        }
    }

    /// The term is another, and its rounds begin anew.
    pub fn begin_term(&mut self) {
        self.give_up_order();
        if let Some(order) = &mut self.order {
            order.round = None;
        }
    }

    /// It has answered that the last round in which it was corrected is this. True when that had to be acknowledged.
    pub fn acknowledged_by_response(&mut self, round: Round) -> bool {
        let is_awaited = self.order.is_some_and(|order| order.awaits(round));
        if is_awaited {
            self.give_up_order();
        }
        is_awaited
    }

    /// Takes in its acknowledgement of the correction of `round`, and gives that; `None` when nothing of that round is waited for.
    pub fn acknowledged(&mut self, round: Round, acknowledgement: &Acknowledgement) -> Option<Span> {
        let order = self.order.filter(|order| order.awaits(round))?;
        self.give_up_order();
        self.has_stayed = false;
        let report = self.report.filter(|report| report.adjustment == order.adjustment);
        if let Some(report) = report.filter(|_| acknowledgement.outcome != Outcome::Refused) {
            // The slave's clock is now what we asked for; its next response will say the same.
            self.report = Some(Report { line: order.line, adjustment: acknowledgement.adjustment, ..report });
        }
        Some(order.correction)
    }

    /// True when its clock is where the last correction put it, or still where the one before did: one in a row may have been lost. Whoever
    /// does not follow has no say, or the others would follow it; it makes no difference whether it says that it obeys, refuses, or says nothing.
    /// Who pretends that every other correction was lost is twice as long where it likes to be as one that takes them all, and never longer.
    fn obeys(&self, measured: &Measured) -> bool {
        self.has_stayed || self.is_as_ordered(measured.local)
    }

    /// True when its clock is where the last correction put it, at `local` on its own clock.
    fn is_as_ordered(&self, local: LocalTime) -> bool {
        self.report.zip(self.order).is_none_or(|(is, ought)| is.line.agrees(&ought.line, local))
    }

    /// Its clock at local time `now` of the master, whose own target then is `own`; `None` when it has not answered in this round.
    pub fn measured(&self, now: LocalTime, own: Time) -> Option<Measured> {
        if self.is_fresh { self.extrapolated(now, own) } else { None }
    }

    /// The same, however old its last answer is; `None` before the first.
    pub fn extrapolated(&self, now: LocalTime, own: Time) -> Option<Measured> {
        let estimate = self.estimator.estimate(now)?;
        let found = self.found(&estimate, now, own)?;
        let Some(heritage) = self.heritage() else {
            return Some(found);
        };
        let Measured { offset, error_bound, .. } = found;
        // A window of few answers takes the quickest of them for one that nothing held up, and itself for better than it is.
        let answers = i64::from(self.estimator.samples().max(1));
        let error = estimate.offset_error.max(error_bound.part(answers));
        let weighed = heritage.weighed(offset.ahead(), error, now);
        // The bound is that of the measured offset.
        let error_bound = error_bound + (offset.ahead() - weighed).abs();
        Some(Measured { offset: Offset::new(weighed), error_bound, ..found })
    }

    /// The same, from what was measured alone: an heir may be known better.
    fn found(&self, estimate: &Estimate, now: LocalTime, own: Time) -> Option<Measured> {
        let report = self.report.as_ref()?;
        let local = now.on_other_clock(estimate.offset);
        let offset = report.line.target(local).offset_from(own);
        Some(Measured { local, offset, error_bound: estimate.error_bound, rate: estimate.into() })
    }

    /// How far what was measured of its offset is likely to be wrong: a standard error. `None` before the first answer.
    pub fn offset_error(&self, now: LocalTime) -> Option<Span> {
        self.estimator.estimate(now).map(|estimate| estimate.offset_error)
    }

    /// Its clock as the averaging functions want it. `closest`: within what it must be known to have a vote. Before the ensemble is
    /// founded there is no such limit, and nobody is on probation.
    ///
    /// Whoever is known less well takes its last correction, and seems to agree with what it was told to be; that is wherever a changing
    /// asymmetry of its ways puts it. With a vote it draws the ensemble along, and nodes that are cut off meanwhile cannot know.
    pub fn reading(&self, measured: &Measured, own: Time, closest: Option<Span>) -> Reading {
        let standing = if self.peer.is_reference {
            Standing::Reference
        } else if closest.is_some() && (self.trust.agreeing < PROBATION || !self.obeys(measured)) {
            Standing::Newcomer
        } else if !is_plausible(own + measured.offset.ahead()) {
            Standing::Implausible
        } else if closest.is_some_and(|closest| measured.error_bound > closest) {
            Standing::Uncertain
        } else {
            Standing::Member
        };
        Reading { offset: measured.offset, error_bound: measured.error_bound, weight: self.weight, standing }
    }

    /// Remembers what an average made of it. Tells whether the verdict is new. `is_founder`: it had a vote in the first
    /// average, so that it is no newcomer afterwards.
    pub fn judged(
        &mut self,
        measured: &Measured,
        ensemble: Offset,
        gamma: Span,
        verdict: Verdict,
        is_founder: bool,
    ) -> bool {
        let agrees = self.obeys(measured) && measured.offset.distance(ensemble) <= gamma;
        // Whoever is known less well than that shows what it was told, and agrees with it wherever its clock is.
        let is_known = measured.error_bound <= gamma;
        self.trust.agreeing = match (is_founder, agrees && is_known) {
            (true, _) => PROBATION,
            (false, true) => self.trust.agreeing.saturating_add(1),
            (false, false) => 0,
        };
        // Whoever disagrees is on probation ever after; that it disagrees says more.
        let verdict = match verdict {
            Verdict::LeftOut(Reason::Newcomer) if !agrees => Verdict::LeftOut(Reason::Disagrees),
            verdict @ (Verdict::Counted | Verdict::LeftOut(_)) => verdict,
        };
        let before = self.judged.replace((verdict, measured.offset));
        before.is_none_or(|(before, _)| before != verdict)
    }

    fn verdict(&self) -> Option<Verdict> {
        self.judged.map(|(verdict, _)| verdict)
    }

    /// Its offset in the last average; `None` before the first.
    pub fn last_offset(&self) -> Option<Offset> {
        self.judged.map(|(_, offset)| offset)
    }

    /// By how much it would change the ensemble's rate: what has been learned of its oscillator since it was counted last.
    /// Nothing for a newcomer; `None` when it is not counted now.
    ///
    /// More than the former estimate could be wrong by is not believed: that is no oscillator. The former one stands until it comes near again,
    /// or stamps that jump would leave behind, for good, the rate that they seemed to have while they were in the window. A reference and a founder are not
    /// asked what was learned: their clock's own rate counts, and `ensemble_rate` is wrong by the difference. A founder's is that of
    /// its oscillator, or what it remembers of the ensemble's from a former life or an earlier master.
    pub fn learned(&mut self, rate: Rate, is_counted: bool, is_founder: bool, ensemble_rate: Skew) -> Option<Skew> {
        if !is_counted {
            self.trust.counted_with = None;
            return None;
        }
        let before = self.trust.counted_with.replace(rate);
        Some(match (self.report, before) {
            (Some(report), _) if self.peer.is_reference => report.line.rate.on_top_of(rate.skew) - ensemble_rate,
            (Some(report), None) if is_founder => {
                let remembered = if report.line.rate.abs() <= LARGEST_MEMORY { report.line.rate } else { Skew::ZERO };
                remembered.on_top_of(rate.skew) - ensemble_rate
            }
            (_, None) => Skew::ZERO,
            (_, Some(before)) => {
                let learned = rate.skew - before.skew;
                if learned.abs() <= before.error {
                    learned
                } else {
                    self.trust.counted_with = Some(before);
                    Skew::ZERO
                }
            }
        })
    }

    /// What it has to do to its clock; `None` when no frame can carry it, because its clock is absurd.
    pub fn entry(&self, measured: &Measured, ensemble: Offset, ensemble_rate: Skew) -> Option<Entry> {
        let correction = measured.offset.correction(ensemble);
        let is_sendable = (0..WIRE_LIMIT).contains(&measured.local.as_nanos())
            && (-WIRE_LIMIT < correction.as_nanos())
            && (correction.as_nanos() < WIRE_LIMIT);
        if !is_sendable {
            return None;
        }
        let report = self.report.as_ref()?;
        Some(Entry {
            node: self.peer.node,
            node_incarnation: self.peer.incarnation,
            reference: measured.local,
            correction,
            rate: ensemble_rate.relative_to(measured.rate.skew).clamped(Skew::MAX),
            error_bound: measured.error_bound,
            rate_error: measured.rate.bound,
            adjustment: report.adjustment,
        })
    }

    /// True when its error bound will not have grown by much if it is not asked for so long: by no more than an eighth of what no
    /// exchange can tell, half of the quickest. `None` when nothing is known of it.
    pub fn may_wait(&self, now: LocalTime, pause: Span) -> Option<bool> {
        let (then, now) = (self.estimator.estimate(now + pause)?, self.estimator.estimate(now)?);
        let grown = then.error_bound - now.error_bound;
        Some(grown <= self.estimator.least_delay()?.part(16).max(LEAST_GROWTH))
    }

    /// True when its last answer said that its clock agrees with an ensemble.
    pub fn is_synchronised(&self) -> bool {
        self.report.is_some_and(|report| report.is_synchronised)
    }

    /// Why it is not averaged, in a word; `None` when it is.
    pub fn left_out(&self) -> Option<&'static str> {
        match self.verdict() {
            _ if self.is_silent() => Some("silent"),
            None => Some("joining"),
            Some(Verdict::Counted) => None,
            Some(Verdict::LeftOut(reason)) => Some(Reason::as_str(reason)),
        }
    }

    /// The smallest delay since the path became longer, for the status.
    pub fn least_delay(&self) -> Option<Span> {
        self.estimator.least_delay()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_costs_little_memory() {
        assert!(size_of::<Member>() <= 856, "{}", size_of::<Member>());
    }
}
