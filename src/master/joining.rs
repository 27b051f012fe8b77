//! Who takes part in a master's rounds: joins, candidates, members, and how they go.
//!
//! A node that joins is asked once, where it says that it is; its answer makes it a member.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::context::{Arrival, Context, Event, Outgoing, is_within_leap};
use crate::counters::DropReason;
use crate::identity::{Incarnation, NodeId, Round};
use crate::member::{Asking, Member, Peer};
use crate::protocol::{Join, Response};
use crate::time::{LocalTime, Span};
use crate::unanswered::Asked;

use super::averaging::within;
use super::pacing::{BURST_PAUSE, BURSTS};
use super::round::FOUNDING_PATIENCE;
use super::{Candidate, FIRST_ROUND, Master, Stage, Timer, YIELD_PATIENCE};

/// Nodes that joined and have not answered yet.
pub(super) const CANDIDATES: usize = 256;
/// A candidate that has not answered for so long makes room for another.
const CANDIDATE_PATIENCE: Span = Span::from_secs(2);
/// Requests to a candidate whose answers are waited for: each of its joins brings one, and it joins ten times a second at most. So it can be admitted
/// over a route that takes 700 ms there and back. Fewer: over a long route each join would take the place of the request that is being answered.
pub(super) const UNANSWERED: usize = 8;
/// An heir that comes later is right as it is, and waits for the next round, but no longer than this: it goes on joining until the new
/// master has corrected it. Not less than rounds usually are apart.
const HEIR_PATIENCE: Span = Span::from_secs(1);

impl Master {
    /// A node looks for a master. It is asked once, where it says it is; its answer makes it a member.
    pub(super) fn on_join(&mut self, context: &mut Context, arrival: &Arrival, join: &Join) {
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
        if self.bursts.len() >= BURSTS || !self.has_room_for(arrival) {
            return context.drop_datagram(DropReason::TableFull, from);
        }
        let unanswered = self.candidates.remove(&from).map(|former| former.unanswered).unwrap_or_default();
        let candidate = Candidate { peer, join: *join, since: now, is_fresh: arrival.is_fresh, unanswered };
        self.candidates.insert(from, candidate);
        context.send(Outgoing::Request { to: peer.recipient(), node: peer.node });
    }

    /// True for an answer that a candidate was asked for: that comes once for each request.
    pub fn awaits(&self, node: NodeId, incarnation: Incarnation, from: SocketAddr, t1: LocalTime) -> bool {
        self.candidates.get(&from).is_some_and(|Candidate { peer, unanswered, .. }| {
            peer.node == node && peer.is(incarnation, from) && unanswered.contains(t1)
        })
    }

    /// True when this node is a member or can become one. Nobody who is makes room for a newcomer; that there is none is counted and told.
    pub(super) fn has_place_for(&self, context: &mut Context, node: NodeId, from: SocketAddr) -> bool {
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
    pub(super) fn admit(
        &mut self,
        context: &mut Context,
        &Candidate { peer, join, .. }: &Candidate,
        asked: Asked,
        response: &Response,
        now: LocalTime,
    ) {
        let own_rate_error = context.clock.is_corrected().then(|| context.clock.rate_error(now));
        let mut member = Member::new(peer, join.rate_error, own_rate_error, now);
        Self::apply_settings(context, &mut member);
        member.request_sent(asked);
        // Who was cut off meanwhile stands anywhere within its own bound, and not in step.
        let is_in_step =
            response.is_synchronised && response.error_bound <= within(context.clock.target_error_bound(now));
        if self.inherits.is_some() && join.corrected_in == self.inherits && is_in_step {
            member.asking = Asking::SHORT_BURST;
            member.inherit(now);
            // The first round may have been due when nobody had joined yet, and the next one may be far.
            let wait = if self.round == Round::default() { FIRST_ROUND } else { HEIR_PATIENCE };
            self.timers.hasten(Timer::Round, now + wait);
        }
        self.timers.cancel(Timer::Repeat(peer.node));
        self.timers.set(Timer::Ask(peer.node), now + BURST_PAUSE);
        self.bursts.insert(peer.node);
        self.members.insert(peer.node, Box::new(member));
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

    pub(super) fn on_leave(&mut self, context: &mut Context, arrival: &Arrival) {
        let Arrival { from, header, .. } = *arrival;
        if self.has_member(header.sender, header.incarnation, from) {
            self.forget(context, header.sender, true);
        }
    }

    pub(super) fn forget(&mut self, context: &mut Context, node: NodeId, resigned: bool) {
        self.members.remove(&node);
        self.bursts.remove(&node);
        self.timers.cancel(Timer::Ask(node));
        self.timers.cancel(Timer::Repeat(node));
        context.tell(Event::Left { node, resigned });
    }
}
