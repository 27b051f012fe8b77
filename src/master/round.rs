//! A master's round: everybody is asked, answers come in and are measured, who is silent is asked again.

use std::net::SocketAddr;

use crate::config::Role;
use crate::context::{Arrival, Context, Event, Outgoing, Recipient};
use crate::counters::DropReason;
use crate::estimator::Judgement;
use crate::identity::{Incarnation, NodeId};
use crate::member::{Asking, BadResponse, Member, Peer};
use crate::protocol::{Request, Response, Window};
use crate::stamp::Stamp;
use crate::time::{LocalTime, Span};
use crate::unanswered::Asked;

use super::pacing::{self, ATTEMPTS, BURST_PAUSE};
use super::{Ending, Master, Stage, Timer};

/// Between the requests of an heir's burst.
const SHORT_BURST_PAUSE: Span = Span::from_millis(10);
/// The founders' bursts may take this long, from the first answer of the first of them. Longer would keep those who
/// are there waiting for those who trickle in.
pub(super) const FOUNDING_PATIENCE: Span = Span::from_millis(400);
/// A master that hears none of so many members any more is probably deaf itself.
const DESERTED_BY: usize = 2;
/// A member that has been silent for so long is forgotten.
const MEMBER_PATIENCE: Span = Span::from_secs(600);

impl Master {
    /// The request of this instant to `node`; its t1 is waited for.
    pub fn request(&mut self, context: &Context, to: Recipient, node: NodeId, now: LocalTime) -> Request {
        let asked = self.asking_at(now, Span::ZERO);
        let member = self.members.get_mut(&node);
        let previous = match member.filter(|member| member.peer.recipient() == to) {
            Some(member) => {
                member.request_sent(asked);
                member.last_answered()
            }
            None => {
                if let Some(candidate) = self.candidates.get_mut(&to.address) {
                    candidate.unanswered.push(asked);
                }
                None
            }
        };
        Request { previous, ..request_of(context, asked.t1) }
    }

    /// The request of this instant to the group.
    pub fn group_request(&mut self, context: &Context, window: Window, now: LocalTime) -> Request {
        let asked = self.asking_at(now, window.span());
        self.called = Some(asked);
        Request { window: Some(window), ..request_of(context, asked.t1) }
    }

    /// A request of this instant, with a t1 of its own.
    fn asking_at(&mut self, now: LocalTime, window: Span) -> Asked {
        let t1 = now.max(self.last_t1 + Span::from_nanos(1));
        self.last_t1 = t1;
        Asked { t1, left: Stamp::user(t1), window }
    }

    /// The request with this t1, to a node at `to`, left at `stamp`. One that has been answered or given up is of no
    /// interest.
    pub fn request_left(&mut self, to: SocketAddr, node: NodeId, t1: LocalTime, stamp: Stamp) {
        let of_member = self.members.get_mut(&node).and_then(|member| member.asked_at(t1));
        let of_candidate = self.candidates.get_mut(&to).and_then(|candidate| candidate.unanswered.at(t1));
        // No two requests have the same t1.
        for asked in of_member.into_iter().chain(of_candidate) {
            asked.left = stamp;
        }
    }

    /// The request with this t1, to the group, left at `stamp`.
    pub fn group_request_left(&mut self, t1: LocalTime, stamp: Stamp) {
        for asked in self.called.iter_mut().filter(|asked| asked.t1 == t1) {
            asked.left = stamp;
        }
    }

    /// Polls every member: all together, or one shortly after the other.
    pub(super) fn begin_round(&mut self, context: &mut Context, now: LocalTime) {
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
        let call = self.call(context);
        let alone = self.open_round(context, call.is_some(), now);
        if let Some((group, window)) = call {
            context.send(Outgoing::GroupRequest { to: Recipient::anybody(group), window });
            self.timers.set(Timer::Window, now + window.span());
        }
        self.ask_paced(&alone, now);
        self.timers.set(Timer::Average, now + pacing::collecting(self.pause));
        if context.config.role == Role::Auto
            && self.members.len() >= DESERTED_BY
            && self.members().all(Member::is_silent)
        {
            self.ending = Some(Ending::Deserted);
        }
    }

    /// Begins the round with each member, and forgets who has been silent for too long. `has_call`: those that hear the group are asked together;
    /// the others, each with what it is to wait for, are left to be asked alone.
    fn open_round(&mut self, context: &mut Context, has_call: bool, now: LocalTime) -> Vec<(NodeId, Span)> {
        let (mut lost, mut alone) = (Vec::new(), Vec::new());
        for (node, member) in &mut self.members {
            if now - member.last_heard > MEMBER_PATIENCE {
                lost.push(*node);
                continue;
            }
            // The first round does not wait for the last answers of an heir's burst.
            if matches!(member.asking, Asking::Burst { .. }) && !member.is_heir() {
                continue;
            }
            if member.begin_round() {
                context.tell(Event::Silent { node: *node });
            }
            self.bursts.remove(node);
            self.timers.cancel(Timer::Ask(*node));
            self.timers.cancel(Timer::Repeat(*node));
            if has_call && is_called(context, &member.peer) {
                member.call();
            } else {
                member.asking = Asking::Waiting { attempts: 0 };
                // Over a long route the answer to the last request may still come: one that is asked anew all the time is never heard.
                alone.push((*node, member.patience(now)));
            }
        }
        for node in lost {
            self.forget(context, node, false);
        }
        alone
    }

    /// The group, and how long its members have to answer, when they are asked all together.
    fn call(&self, context: &Context) -> Option<(SocketAddr, Window)> {
        context.config.group.zip(pacing::window(self.members.len(), self.pause))
    }

    /// Asks some members alone, each after its own wait, one shortly after the other.
    fn ask_paced(&mut self, members: &[(NodeId, Span)], now: LocalTime) {
        let pace = pacing::request_pace(members.len(), self.pause);
        let mut at = now;
        for (node, wait) in members {
            self.timers.set(Timer::Ask(*node), at + *wait);
            at = at + pace;
        }
    }

    /// The window is over: who has not answered is asked alone, once its answer cannot be on its way any more. Who has been silent for
    /// several rounds is not.
    pub(super) fn close_window(&mut self, context: &mut Context, now: LocalTime) {
        let mut missing = Vec::new();
        for (node, member) in &mut self.members {
            match member.asking {
                Asking::Called if member.is_silent() => member.asking = Asking::Done,
                Asking::Called => {
                    member.asking = Asking::Waiting { attempts: 1 };
                    missing.push((*node, member.round_trip.timeout(0)));
                }
                Asking::Burst { .. } | Asking::Waiting { .. } | Asking::Again | Asking::Done => {}
            }
        }
        self.ask_paced(&missing, now);
        self.average_when_all_answered(context, now);
    }

    /// The founding came to nothing: no founder's answers made sense, or the master refused its own correction. Once more.
    fn found_again(&mut self, context: &Context, now: LocalTime) {
        self.timers.set(Timer::Round, now + context.config.interval);
        self.timers.hasten(Timer::Average, now + FOUNDING_PATIENCE);
        for member in self.members.values_mut() {
            member.asking = Asking::BURST;
            self.bursts.insert(member.peer.node);
            self.timers.set(Timer::Ask(member.peer.node), now);
        }
    }

    /// Sends a member its next request, or gives it up for this round.
    pub(super) fn ask(&mut self, context: &mut Context, node: NodeId, now: LocalTime) {
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
                    member.retransmissions = member.retransmissions.saturating_add(1);
                }
                self.timers.set(Timer::Ask(node), now + member.round_trip.timeout(attempts));
            }
            // The first answer has to do.
            Asking::Again => {
                member.asking = Asking::Done;
                return self.average_when_all_answered(context, now);
            }
            Asking::Called | Asking::Done => return,
        }
        context.send(Outgoing::Request { to: member.peer.recipient(), node });
    }

    pub(super) fn on_response(&mut self, context: &mut Context, arrival: &Arrival, response: &Response) {
        let Arrival { from, stamp, now, header, .. } = *arrival;
        if let Some(candidate) = self.candidates.get_mut(&from)
            && (candidate.peer.node, candidate.peer.incarnation) == (header.sender, header.incarnation)
            && let Some(asked) = candidate.unanswered.take(response.t1)
            && let Some(candidate) = self.candidates.remove(&from)
        {
            // Others have come in since it joined.
            if !self.has_place_for(context, candidate.peer.node, from) {
                return;
            }
            self.admit(context, &candidate, asked, response, now);
        }
        let is_asked_twice = !pacing::is_large(self.members.len());
        let Some(member) = self.members.get_mut(&header.sender) else {
            return context.drop_datagram(DropReason::Stranger, from);
        };
        if let Some(reason) = Self::impostor(&member.peer, from, header.incarnation) {
            return context.drop_datagram(reason, from);
        }
        let was_silent = member.is_silent();
        let is_awaited = matches!(member.asking, Asking::Called | Asking::Waiting { .. });
        let called = self.called.filter(|called| called.t1 == response.t1 && is_awaited);
        // What it shares with all the others is its own request now, with the stamp that has come meanwhile.
        let called = called.filter(|_| is_called(context, &member.peer));
        match member.answered(response, stamp, called, context.known_rate()) {
            Err(BadResponse::Unsolicited) => return context.drop_datagram(DropReason::Unsolicited, from),
            Err(BadResponse::Implausible) => return context.drop_datagram(DropReason::ImplausibleTimes, from),
            Ok(Judgement::Restarted) => context.tell(Event::LocalClockJumped { node: header.sender }),
            Ok(Judgement::Kept | Judgement::Suspect) => {}
        }
        if was_silent {
            context.tell(Event::Returned { node: header.sender });
        }
        // An answer that names the round of its last correction acknowledges it.
        if header.term == self.term && member.acknowledged_by_response(response.applied_round) {
            self.timers.cancel(Timer::Repeat(header.sender));
        }
        match member.asking {
            Asking::Waiting { .. } if is_asked_twice => {
                member.asking = Asking::Again;
                self.timers.set(Timer::Ask(header.sender), now + member.round_trip.timeout(0));
                context.send(Outgoing::Request { to: arrival.sender(), node: header.sender });
            }
            Asking::Called | Asking::Waiting { .. } | Asking::Again => {
                member.asking = Asking::Done;
                self.timers.cancel(Timer::Ask(header.sender));
                self.average_when_all_answered(context, now);
            }
            Asking::Burst { left: 0 } => self.end_burst(context, header.sender, now),
            Asking::Burst { .. } | Asking::Done => {}
        }
    }

    /// Why a frame with a member's number is not that member's.
    pub(super) fn impostor(peer: &Peer, from: SocketAddr, incarnation: Incarnation) -> Option<DropReason> {
        match (peer.incarnation == incarnation, peer.address == from) {
            (true, true) => None,
            (false, true) => Some(DropReason::StaleIncarnation),
            (true, false) => Some(DropReason::Stranger),
            (false, false) => Some(DropReason::DuplicateNodeId),
        }
    }

    /// A newcomer's burst is over: founders wait for each other, a later one is corrected at once.
    fn end_burst(&mut self, context: &mut Context, node: NodeId, now: LocalTime) {
        self.timers.cancel(Timer::Ask(node));
        self.bursts.remove(&node);
        if let Some(member) = self.members.get_mut(&node) {
            member.asking = Asking::Done;
        }
        match self.stage {
            // An heir's clock is right, and the next round is near.
            Stage::Founded if self.members.get(&node).is_some_and(|member| member.is_heir()) => {}
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
            Asking::Called | Asking::Waiting { .. } | Asking::Again => true,
            Asking::Burst { .. } => is_founding,
        };
        let mut from_the_last = self.members.range(self.waited_for..).chain(self.members.range(..self.waited_for));
        match from_the_last.find(|(_, member)| is_waited_for(member)) {
            Some((node, _)) => self.waited_for = *node,
            None => self.average(context, now),
        }
    }
}

/// True for a member that a request to the group is meant for: one that hears it, elsewhere.
fn is_called(context: &Context, peer: &Peer) -> bool {
    peer.hears_group && !context.config.own_addresses.contains(&peer.address.ip())
}

/// What a request says of the master's own clock.
fn request_of(context: &Context, t1: LocalTime) -> Request {
    let clock = &context.clock;
    Request {
        ahead: clock.target(t1).ahead_of(t1),
        rate: clock.rate(),
        error_bound: clock.target_error_bound(t1),
        ..Request::bare(t1)
    }
}
