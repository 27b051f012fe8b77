//! What a master makes of a round's answers: the average, its own correction and the others', and when the next round comes.

use crate::average::{Reading, Standing, Verdict};
use crate::clock::Correction;
use crate::context::{Context, Event, is_plausible};
use crate::counters::DropReason;
use crate::identity::NodeId;
use crate::member::{Asking, Measured};
use crate::protocol::Entry;
use crate::time::{LocalTime, Offset, Skew, Span, Time};

use super::{Master, Stage, Timer};

/// Rounds are not made shorter than this for each member: a thousand are asked once a second, however little is known of them.
const MEMBER_PAUSE: Span = Span::from_millis(1);
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
        let closest = is_founded.then(|| agreement(&measured).min(context.config.gamma));
        let mut readings = vec![self.own_reading(context, own, &measured, is_misled)];
        readings.extend(measured.iter().filter_map(|(node, measured)| {
            let reading = self.members.get(node)?.reading(measured, own, closest);
            // Below a submaster nobody has a vote, whatever its sources.
            let is_led = context.config.upper.is_some();
            let standing = if is_led { reading.standing.max(Standing::Member) } else { reading.standing };
            Some(Reading { standing, ..reading })
        }));
        let gamma = closest.unwrap_or(context.config.gamma);
        let Some(ensemble) = context.config.average.of(&readings, gamma, is_founded) else {
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
        if self.is_large() {
            self.deliver_paced(context, &entries, now);
        } else {
            self.deliver(context, &entries, now);
        }
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
        let error_bound = measured.iter().map(|(_, member)| member.estimate.error_bound).min().unwrap_or(Span::ZERO);
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
        let rate_error = (entry.rate_error + rate_error).clamped(Skew::MAX);
        Some(Entry { error_bound: entry.error_bound + error_bound, rate_error, ..entry })
    }

    /// Rounds follow each other quickly for a while: somebody's skew is not known yet.
    pub(super) fn settle(&mut self, context: &Context, now: LocalTime) {
        self.pause = self.shortest_pause(context);
        self.timers.hasten(Timer::Round, now + self.pause);
    }

    /// Rounds come twice as often when most bounds grow by much from one to the next, half as often when they would not even then. Most:
    /// one oscillator in a draught shall not have everybody asked all the time.
    pub(super) fn adapt_pause(&mut self, context: &mut Context, measured: &[(NodeId, Measured)], now: LocalTime) {
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
    pub(super) fn shortest_pause(&self, context: &Context) -> Span {
        let count = i64::try_from(self.members.len()).unwrap_or(i64::MAX);
        context.config.min_interval.max(MEMBER_PAUSE.times(count)).min(context.config.interval)
    }

    /// Time from one round to the next, as chosen last.
    pub fn pause(&self) -> Span {
        self.pause
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
    within(median)
}

/// How close clocks must be, and how well known, when `bound` is how well an ensemble knows them.
pub(super) fn within(bound: Span) -> Span {
    bound.times(AGREEMENT).max(CLOSEST_AGREEMENT)
}
