//! What a master makes of a round's answers: the average, its own correction and the others', and when the next round comes.

use crate::average::{Ensemble, Reading, Standing, Verdict};
use crate::clock::Correction;
use crate::context::{Context, Event, is_plausible};
use crate::counters::DropReason;
use crate::identity::NodeId;
use crate::member::{Asking, Measured};
use crate::protocol::Entry;
use crate::time::{LocalTime, Offset, Skew, Span, Time};

use super::{Master, Stage, Timer, pacing};

/// So many members do not jump in one round by chance.
const FEW: usize = 2;
/// Once the ensemble is founded, its clocks agree within this many times the median of their error bounds (or γ, if that is
/// less), and must be known that well to have a vote. Any two honest ones lie within twice theirs; four times that leaves room for noise and for uneven links. With γ
/// alone a clock that takes no corrections but stays within 20 ms would draw the others after it for ever.
const AGREEMENT: i64 = 8;
/// But clocks that lie this close are never told apart: the scheduler's noise.
const CLOSEST_AGREEMENT: Span = Span::from_micros(100);

impl Master {
    /// Averages the clocks that answered, the master's own among them, corrects the master's and sends the others
    /// their corrections.
    pub(super) fn average(&mut self, context: &mut Context, now: LocalTime) {
        self.timers.cancel(Timer::Average);
        self.is_collecting = false;
        let is_founded = self.stage == Stage::Founded;
        let is_misled = is_founded && self.has_jumped_itself(context);
        let measured = self.measured(context, now);
        if measured.is_empty() || context.awaits_upper() || !self.reaches_quorum(context, measured.len()) {
            return;
        }
        if !is_founded {
            self.round = self.round.next();
        }
        let Some(agreed) = self.agree(context, &measured, is_misled, now) else {
            return;
        };
        // Where the master cannot go the others must not be sent.
        if !self.correct_itself(context, &agreed, now) {
            return;
        }
        self.correct_others(context, &measured, &agreed, now);
        if is_founded {
            self.adapt_pause(context, &measured, now);
        } else {
            self.stage = Stage::Founded;
            self.settle(context, now);
        }
    }

    /// Where the clocks that answered stand now.
    fn measured(&mut self, context: &Context, now: LocalTime) -> Vec<(NodeId, Measured)> {
        let own = context.clock.target(now);
        self.members.values_mut().for_each(|member| member.check_heritage(now, own));
        let is_founded = self.stage == Stage::Founded;
        let members = self.members().filter(|member| !is_founded || !matches!(member.asking, Asking::Burst { .. }));
        let mut measured = Vec::with_capacity(self.members.len());
        measured.extend(members.filter_map(|member| Some((member.peer.node, member.measured(now, own)?))));
        measured
    }

    /// Who has which standing, and what comes out when those with a vote are averaged. `is_misled`: the master's local clock has just jumped.
    fn agree(
        &mut self,
        context: &mut Context,
        measured: &[(NodeId, Measured)],
        is_misled: bool,
        now: LocalTime,
    ) -> Option<Agreed> {
        let is_founded = self.stage == Stage::Founded;
        let closest = is_founded.then(|| agreement(measured).min(context.config.gamma));
        let gamma = closest.unwrap_or(context.config.gamma);
        let own = context.clock.target(now);
        // The readings are gone before the verdicts are looked at: those of a large group are the most that a round takes of memory.
        let average = context.config.average;
        let ensemble = average.of(&self.readings(context, own, measured, is_misled, closest), gamma, is_founded)?;
        let counted = self.judge(context, measured, &ensemble, gamma);
        self.unlearned = counted.unlearned;
        // Who counts nobody but itself has not learned where the ensemble is: it knows that as well as before. Or a new master that
        // finds newcomers only would claim to be right on what the others still take for the ensemble's time.
        // (Below a submaster nobody else ever counts, and what it does not know is in each entry already.)
        let is_alone = is_founded && ensemble.counts_first() && counted.clocks == 1 && context.config.upper.is_none();
        let known = || (context.clock.target_error_bound(now), context.clock.rate_error(now));
        let held = is_alone.then(known).unwrap_or_default();
        let rate = context.clock.rate() + counted.rate_change;
        Some(Agreed { offset: ensemble.offset, rate, counted, held, read: ensemble.verdicts.len() })
    }

    /// The clocks as the averaging functions want them, the master's own first. `closest`: see [`Member::reading`](crate::member::Member::reading).
    fn readings(
        &self,
        context: &Context,
        own: Time,
        measured: &[(NodeId, Measured)],
        is_misled: bool,
        closest: Option<Span>,
    ) -> Vec<Reading> {
        // Below a submaster nobody has a vote, whatever its sources.
        let best = if context.config.upper.is_some() { Standing::Member } else { Standing::Reference };
        let others = measured.iter().filter_map(|(node, measured)| {
            let reading = self.members.get(node)?.reading(measured, own, closest);
            Some(Reading { standing: reading.standing.max(best), ..reading })
        });
        let mut readings = Vec::with_capacity(measured.len() + 1);
        readings.push(self.own_reading(context, own, measured, is_misled));
        readings.extend(others);
        readings
    }

    /// Tells the members what became of their readings. What those that are counted have in common, with what has been learned of their
    /// oscillators.
    fn judge(
        &mut self,
        context: &mut Context,
        measured: &[(NodeId, Measured)],
        ensemble: &Ensemble,
        gamma: Span,
    ) -> Counted {
        let is_founder = self.stage != Stage::Founded;
        // Of itself the master has nothing to learn.
        let mut sum = Counted { clocks: usize::from(ensemble.counts_first()), ..Counted::default() };
        for ((node, measured), verdict) in measured.iter().zip(ensemble.verdicts.iter().skip(1).copied()) {
            let Some(member) = self.members.get_mut(node) else {
                continue;
            };
            if member.judged(measured, ensemble.offset, gamma, verdict, is_founder) {
                context.tell(Event::Standing { node: *node, left_out: member.left_out() });
            }
            let is_counted = verdict == Verdict::Counted;
            if let Some(learned) = member.learned(measured.rate, is_counted, is_founder, context.clock.rate()) {
                sum.count(measured, learned);
            }
        }
        sum.mean()
    }

    /// Takes the master's own clock to where the ensemble is; false when that is further than it may go. A submaster's is where it ought to be.
    fn correct_itself(&self, context: &mut Context, agreed: &Agreed, now: LocalTime) -> bool {
        let Agreed { counted, held: (held, held_rate), .. } = agreed;
        let amount = Offset::ZERO.correction(agreed.offset);
        let correction = Correction {
            reference: now,
            amount,
            rate: agreed.rate,
            error_bound: counted.error_bound + *held,
            rate_error: counted.rate_error + *held_rate,
        };
        let is_led = context.config.upper.is_some();
        let applied = (!is_led).then(|| context.clock.correct(correction, now)).transpose();
        match applied {
            Err(too_large) => {
                context.counters.count_dropped(DropReason::TooLarge);
                context.refuse(context.config.node_id, amount, too_large.into());
            }
            Ok(applied) => {
                context.corrected_in = Some((self.term, context.config.node_id));
                let (round, counted, read) = (self.round, counted.clocks, agreed.read);
                context.tell(Event::Averaged { round, counted, read, correction: amount });
                if let Some(applied) = applied {
                    context.last_correction = amount;
                    context.tell(Event::Corrected { round, applied });
                }
            }
        }
        applied.is_ok()
    }

    /// Sends everybody who answered its correction.
    fn correct_others(
        &mut self,
        context: &mut Context,
        measured: &[(NodeId, Measured)],
        agreed: &Agreed,
        now: LocalTime,
    ) {
        let entry = |master: &Self, context: &Context, (node, measured): &(NodeId, Measured)| {
            // A newcomer may have been corrected between two rounds, as part of this one; it takes no second correction in it.
            if master.members.get(node)?.is_corrected_in(master.round) {
                return None;
            }
            let entry = master.entry(context, *node, measured, agreed.offset, agreed.rate, now)?;
            let (held, held_rate) = agreed.held;
            let rate_error = (entry.rate_error + held_rate).clamped(Skew::MAX);
            Some(Entry { error_bound: entry.error_bound + held, rate_error, ..entry })
        };
        if pacing::is_large(self.members.len()) {
            measured.iter().for_each(|one| entry(self, context, one).iter().for_each(|entry| self.order(entry)));
            self.deliver_paced(context, now);
        } else {
            let entries: Vec<Entry> = measured.iter().filter_map(|one| entry(self, context, one)).collect();
            self.deliver(context, &entries, now);
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
            self.members.values_mut().for_each(|member| member.keep_trust());
            context.tell(Event::LocalClockJumped { node: context.config.node_id });
        }
        is_own
    }

    /// The master's own clock among the others: its offset is zero. `is_misled`: its local clock has just jumped.
    fn own_reading(&self, context: &Context, own: Time, measured: &[(NodeId, Measured)], is_misled: bool) -> Reading {
        // A master that has just started, among slaves that belong to an ensemble already, is a newcomer itself: its
        // mastership is new, their time is not.
        let is_among_established = !context.clock.is_corrected()
            && measured.iter().any(|(node, _)| self.members.get(node).is_some_and(|member| member.is_synchronised()));
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
        let error_bound = measured.iter().map(|(_, member)| member.error_bound).min().unwrap_or(Span::ZERO);
        let weight = context.config.weight(context.config.node_id, None);
        Reading { offset: Offset::ZERO, error_bound, weight, standing }
    }

    /// What a member has to do to its clock, measured at `now`. What is not known of the time that is kept, it does not know either.
    pub(super) fn entry(
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
        let rate_error = (entry.rate_error + rate_error + self.unlearned).clamped(Skew::MAX);
        Some(Entry { error_bound: entry.error_bound + error_bound, rate_error, ..entry })
    }

    /// Rounds follow each other quickly for a while: somebody's skew is not known yet.
    pub(super) fn settle(&mut self, context: &Context, now: LocalTime) {
        self.pause = self.shortest_pause(context);
        self.timers.hasten(Timer::Round, now + self.pause);
    }

    /// Chooses the time to the next round.
    pub(super) fn adapt_pause(&mut self, context: &mut Context, measured: &[(NodeId, Measured)], now: LocalTime) {
        let members = &self.members;
        let may_wait = |pause| measured.iter().filter_map(move |(node, _)| members.get(node)?.may_wait(now, pause));
        let pause = pacing::next_pause(members.len(), &context.config, self.pause, may_wait);
        if pause != self.pause {
            self.pause = pause;
            context.tell(Event::Paced { pause });
        }
        self.timers.hasten(Timer::Round, now + self.pause);
    }

    /// Time to the next round at least.
    pub(super) fn shortest_pause(&self, context: &Context) -> Span {
        pacing::shortest_pause(self.members.len(), &context.config)
    }

    /// Time from one round to the next, as chosen last.
    pub fn pause(&self) -> Span {
        self.pause
    }
}

/// What a round has come to.
struct Agreed {
    /// Where the ensemble is, from the master's target.
    offset: Offset,
    /// How its time runs relative to the master's local clock.
    rate: Skew,
    counted: Counted,
    /// What the master did not know of the ensemble's time and rate before, and has not learned now.
    held: (Span, Skew),
    /// How many clocks were read, the master's own included.
    read: usize,
}

/// What the clocks that were averaged have in common.
#[derive(Default)]
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
    /// By how much it is likely to change at most, as more is learned of the counted oscillators.
    unlearned: Skew,
}

impl Counted {
    /// Adds a slave, and what has been learned of its oscillator.
    fn count(&mut self, slave: &Measured, learned: Skew) {
        self.clocks += 1;
        self.rate_change = self.rate_change + learned;
        self.error_bound += slave.error_bound;
        self.rate_error = self.rate_error + slave.rate.bound;
        self.unlearned = self.unlearned + slave.rate.error;
    }

    /// Of the sums of all.
    fn mean(self) -> Self {
        let parts = i64::try_from(self.clocks.max(1)).unwrap_or(i64::MAX);
        Self {
            clocks: self.clocks,
            rate_change: self.rate_change.part(parts),
            error_bound: self.error_bound.part(parts),
            rate_error: self.rate_error.part(parts),
            unlearned: self.unlearned.part(parts),
        }
    }
}

/// How close clocks must be, and how well known, to count as agreeing in an ensemble that knows them this well. Of two the one that is known
/// better decides.
fn agreement(measured: &[(NodeId, Measured)]) -> Span {
    let mut bounds: Vec<Span> = measured.iter().map(|(_, member)| member.error_bound).collect();
    bounds.sort_unstable();
    let median = bounds.get(bounds.len().saturating_sub(1) / 2).copied().unwrap_or(Span::MAX);
    within(median)
}

/// How close clocks must be, and how well known, when `bound` is how well an ensemble knows them.
pub(super) fn within(bound: Span) -> Span {
    bound.times(AGREEMENT).max(CLOSEST_AGREEMENT)
}
