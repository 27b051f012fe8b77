//! The liars of a group: members that say something else than the truth. Their nodes are the same as all others; what lies is their frames, on their
//! way from them and, when they are to seem obedient, to them.
//!
//! A liar can do whatever holds the key: say that its clock stands elsewhere, that it knows it better, that its stamps are others, and, when
//! it is master, correct its slaves wrongly. What each [`Lie`] has of that is data of the scenario.

use std::ops::Range;
use std::rc::Rc;

use bytes::BytesMut;

use crate::identity::NodeId;
use crate::protocol::{Corrections, Entries, Entry, Frame, Message, Response};
use crate::sim::scenario::{Lie, Scenario};
use crate::time::{Skew, Span};

/// Who lies, and how.
#[derive(Debug)]
pub(crate) struct Liars<'a> {
    lie: &'a Lie,
    /// By their numbers.
    who: Range<usize>,
}

impl<'a> Liars<'a> {
    /// The last ones of a scenario's nodes; the first never lies.
    pub(crate) fn new(scenario: &'a Scenario) -> Self {
        let count = scenario.nodes.get();
        Self { lie: &scenario.lie, who: count.saturating_sub(scenario.liars).max(1)..count }
    }

    /// Whether this node is a liar, though it may tell the truth yet.
    pub(crate) fn has(&self, node: usize) -> bool {
        self.who.contains(&node)
    }

    /// What the node `to` hears at `now` instead of what the node `from` has sent; `None`: that. A liar that is to seem obedient also mishears: its
    /// node takes corrections of what it really shows, counts and acknowledges them, and the clock that it speaks of is back at its
    /// lie after each.
    pub(crate) fn falsified(&self, now: Span, from: usize, to: usize, bytes: &[u8]) -> Option<Rc<[u8]>> {
        let (lies, mishears) = (self.lies(from, now), self.lies(to, now) && self.lie.obeys);
        if !lies && !mishears {
            return None;
        }
        let Frame { header, message } = Frame::decode(bytes).ok()?;
        let mut told: Vec<Entry> = Vec::new();
        let message = match message {
            Message::Response(response) if lies => Message::Response(self.answer(response, now, from, to)),
            Message::Correction(corrections) => {
                let misled = if lies { self.told(self.lie.corrections, from, to) } else { Span::ZERO };
                let misheard = if mishears { self.ahead(now, to, from) } else { Span::ZERO };
                told.extend(corrections.entries.iter());
                let meant = told.iter_mut().filter(|entry| entry.node == node_id(to));
                meant.for_each(|entry| entry.correction += misled + misheard);
                Message::Correction(Corrections { entries: Entries::Typed(&told), ..corrections })
            }
            Message::Request(_)
            | Message::Response(_)
            | Message::Acknowledgement(_)
            | Message::Join(_)
            | Message::Leave(_)
            | Message::Announce(_)
            | Message::Claim(_)
            | Message::Refusal(_) => return None,
        };
        let mut buffer = BytesMut::with_capacity(bytes.len());
        Frame { header, message }.encode(&mut buffer);
        Some(Rc::from(&*buffer))
    }

    /// Whether this node lies now.
    fn lies(&self, node: usize, now: Span) -> bool {
        let turn = (now - self.lie.from).as_nanos().checked_div(self.lie.turn.as_nanos());
        let place = turn.and_then(|turn| usize::try_from(turn).ok()).and_then(|turn| turn.checked_rem(self.who.len()));
        let is_its_turn = place.is_none_or(|place| self.who.start + place == node);
        self.has(node) && now >= self.lie.from && is_its_turn
    }

    /// An answer of the liar `from`.
    fn answer(&self, response: Response, now: Span, from: usize, to: usize) -> Response {
        let late = self.told(self.lie.late, from, to);
        Response {
            t2: response.t2 + late,
            t3: response.t3 + late,
            ahead: response.ahead + self.ahead(now, from, to),
            error_bound: self.lie.bound.unwrap_or(response.error_bound),
            is_synchronised: response.is_synchronised || self.lie.bound.is_some(),
            ..response
        }
    }

    /// How far ahead a liar says that it is, to one listener.
    fn ahead(&self, now: Span, liar: usize, listener: usize) -> Span {
        let gained = Skew::from_ratio(self.lie.drift_ppm / 1e6).over(now - self.lie.from);
        self.told(self.lie.ahead + gained, liar, listener)
    }

    /// What a liar makes of an amount for one listener.
    fn told(&self, amount: Span, liar: usize, listener: usize) -> Span {
        let is_opposite = (!self.lie.colluding && liar % 2 == 1) != (self.lie.two_faced && listener % 2 == 1);
        if is_opposite { -amount } else { amount }
    }
}

/// The number by which a node is known.
pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId::new(u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1))
}
