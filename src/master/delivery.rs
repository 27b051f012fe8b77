//! How a master's corrections reach its members: together or one by one, and again when they are lost.

use crate::context::{Arrival, Context, Event, Outgoing, Recipient};
use crate::counters::DropReason;
use crate::identity::NodeId;
use crate::member::Member;
use crate::protocol::{Acknowledgement, Entry, MAX_ENTRIES, Outcome};
use crate::time::{LocalTime, Offset};

use super::pacing::{self, ATTEMPTS, HAND_OUT_PAUSE};
use super::{Master, Timer};

/// Corrections go to the group in so many frames at most. Every slave hears each of them, so that a thousand slaves would
/// hear 42,000 frames a round; sent alone it is one each.
const GROUP_FRAMES: usize = 4;

impl Master {
    /// Corrects one newcomer between two rounds, to where the ensemble is now. It has no vote yet, so that nothing is
    /// averaged. A reference has one, and waits for the round: the ensemble goes to it, not it to the ensemble.
    pub(super) fn correct_newcomer(&mut self, context: &mut Context, node: NodeId, now: LocalTime) {
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

    /// Sends corrections and waits for their acknowledgements: in full frames to those who hear the group, alone to the
    /// others, or to everybody when the group would have to hear too many frames.
    pub(super) fn deliver(&mut self, context: &mut Context, entries: &[Entry], now: LocalTime) {
        let hearers = entries.iter().filter(|entry| self.members.get(&entry.node).is_some_and(|m| m.peer.hears_group));
        let group = context.config.group.filter(|_| (2..=GROUP_FRAMES * MAX_ENTRIES).contains(&hearers.count()));
        let mut for_group = Vec::new();
        for entry in entries {
            let Some(member) = self.members.get_mut(&entry.node) else {
                continue;
            };
            member.ordered(self.round, entry);
            self.timers.set(Timer::Repeat(entry.node), now + member.round_trip.timeout(0));
            let alone = tell_alone(member, false);
            if group.is_some() && member.peer.hears_group {
                for_group.push(*entry);
            } else {
                alone.into_iter().for_each(|correction| context.send(correction));
            }
        }
        if let Some(to) = group.map(Recipient::anybody) {
            for entries in for_group.chunks(MAX_ENTRIES) {
                context.send(Outgoing::GroupCorrection { to, round: self.round, entries: entries.to_vec() });
            }
        }
    }

    /// A member of a large group shall be sent a correction with [`Master::deliver_paced`].
    pub(super) fn order(&mut self, entry: &Entry) {
        if let Some(member) = self.members.get_mut(&entry.node) {
            member.ordered(self.round, entry);
        }
    }

    /// Sends the corrections that were ordered for a round to the members of a large group, some at a time.
    pub(super) fn deliver_paced(&mut self, context: &mut Context, now: LocalTime) {
        self.untold = NodeId::default();
        self.hand_out(context, now);
    }

    /// Sends the next few corrections of the round. What a response acknowledges needs no timer.
    pub(super) fn hand_out(&mut self, context: &mut Context, now: LocalTime) {
        let by_response = pacing::is_acknowledged_by_response(self.pause);
        let most = pacing::handed_out(self.members.len(), self.pause);
        let untold = self.members.range_mut(self.untold..).filter(|(_, member)| member.is_untold());
        for (sent, (node, member)) in untold.enumerate() {
            if sent == most {
                self.untold = *node;
                self.timers.set(Timer::HandOut, now + HAND_OUT_PAUSE);
                return;
            }
            tell_alone(member, by_response).into_iter().for_each(|correction| context.send(correction));
            if !by_response {
                self.timers.set(Timer::Repeat(*node), now + member.round_trip.timeout(0));
            }
        }
    }

    /// Sends a correction again that has not been acknowledged, or gives it up: the next round brings a better one.
    pub(super) fn repeat(&mut self, context: &mut Context, node: NodeId, now: LocalTime) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let Some(attempts) = member.attempts() else {
            return;
        };
        if attempts >= ATTEMPTS {
            member.give_up_order();
            return;
        }
        member.retransmissions = member.retransmissions.saturating_add(1);
        self.timers.set(Timer::Repeat(node), now + member.round_trip.timeout(attempts));
        tell_alone(member, false).into_iter().for_each(|correction| context.send(correction));
    }

    pub(super) fn on_acknowledgement(
        &mut self,
        context: &mut Context,
        arrival: &Arrival,
        acknowledgement: &Acknowledgement,
    ) {
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
        let Some(correction) = member.acknowledged(header.round, acknowledgement) else {
            return context.drop_datagram(DropReason::Unsolicited, from);
        };
        member.last_heard = now;
        self.timers.cancel(Timer::Repeat(header.sender));
        if acknowledgement.outcome == Outcome::Refused {
            context.tell(Event::RefusedBySlave { node: header.sender, correction });
        }
    }
}

/// The frame that tells a member alone what it has to do, once more; `None` when there is nothing to do.
fn tell_alone(member: &mut Member, by_response: bool) -> Option<Outgoing> {
    let (to, previous) = (member.peer.recipient(), member.last_answered());
    let (round, entry) = member.told()?;
    Some(Outgoing::Correction { to, round, entry, previous, by_response })
}
