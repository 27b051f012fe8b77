//! The nodes of one process: one, or on a submaster two on one oscillator, a member of the domain above and the node of its own.
//!
//! ```text
//!     domain 1     o────o────o        the ensemble above: elects, averages, corrects
//!                       │ upper
//!     ──────────────  tiers  ───────
//!                       │ lower
//!     domain 7     o────o────o        while the lower node is master, its ensemble keeps the time of domain 1
//! ```
//!
//! The rule that makes a submaster is one line, `Tiers::link`: after every input the lower node is shown where the upper one's clock
//! stands ([`Node::follow`]). All else is two nodes that know nothing of each other. So a redundant submaster, which is not master
//! below, is an ordinary slave there; and where another domain is led from this one, nobody here need know.
//!
//! The lower clock is the one that users read: it is the upper one's while the node is master below, and when this machine is cut off from the
//! domain above while another submaster is not, it is the better one.
//!
//! There is no circle: an ensemble follows only one with a lower number ([`NodeConfig::upper`]).
//!
//! A driver holds this type, and does with it what [`Node`] says.

use std::iter;
use std::net::SocketAddr;

use bytes::BytesMut;

use crate::clock::DisciplinedClock;
use crate::config::NodeConfig;
use crate::context::Event;
use crate::identity::Incarnation;
use crate::keys::KeyRing;
use crate::node::{Node, Transmit, TransmitToken};
use crate::stamp::Stamp;
use crate::time::{LocalTime, Time};

/// Which of the nodes of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The member of the domain above.
    Upper,
    /// The node of its own domain: every process has it.
    Lower,
}

/// The nodes of one process.
#[derive(Debug)]
pub struct Tiers {
    upper: Option<Node>,
    lower: Node,
}

impl From<Node> for Tiers {
    /// A process that is no submaster.
    fn from(node: Node) -> Self {
        Self { upper: None, lower: node }
    }
}

impl Tiers {
    /// A submaster. Both nodes start on the same local clock, showing the same time.
    pub fn submaster(upper: Node, lower: Node) -> Self {
        Self { upper: Some(upper), lower }
    }

    /// The member of the domain above.
    pub fn upper(&self) -> Option<&Node> {
        self.upper.as_ref()
    }

    /// The node of its own domain.
    pub fn lower(&self) -> &Node {
        &self.lower
    }

    /// One of them.
    pub fn node(&self, tier: Tier) -> Option<&Node> {
        match tier {
            Tier::Upper => self.upper(),
            Tier::Lower => Some(&self.lower),
        }
    }

    /// Each of them, the upper one first.
    pub fn iter(&self) -> impl Iterator<Item = (Tier, &Node)> {
        let upper = self.upper.iter().map(|node| (Tier::Upper, node));
        upper.chain([(Tier::Lower, &self.lower)])
    }

    /// The clock that users read.
    pub fn clock(&self) -> &DisciplinedClock {
        self.lower.clock()
    }

    fn nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.upper.iter_mut().chain(iter::once(&mut self.lower))
    }

    fn node_mut(&mut self, tier: Tier) -> Option<&mut Node> {
        match tier {
            Tier::Upper => self.upper.as_mut(),
            Tier::Lower => Some(&mut self.lower),
        }
    }

    /// What makes a submaster.
    fn link(&mut self, now: LocalTime) {
        if let Some(upper) = &self.upper {
            self.lower.follow(upper, now);
        }
    }

    /// See [`Node::restart`]: one oscillator, so both start afresh.
    pub fn restart(&mut self, incarnation: Incarnation, now: LocalTime, time: Time) {
        self.nodes().for_each(|node| node.restart(incarnation, now, time));
    }

    /// See [`Node::hold_keys`].
    pub fn hold_keys(&mut self, tier: Tier, keys: KeyRing) {
        if let Some(node) = self.node_mut(tier) {
            node.hold_keys(keys);
        }
    }

    /// See [`Node::reconfigure`].
    pub fn reconfigure(&mut self, tier: Tier, wanted: &NodeConfig, now: LocalTime) {
        if let Some(node) = self.node_mut(tier) {
            node.reconfigure(wanted, now);
        }
    }

    /// A datagram arrived at one of them, see [`Node::handle_datagram`].
    pub fn handle_datagram(&mut self, tier: Tier, now: LocalTime, from: SocketAddr, stamp: Stamp, datagram: &[u8]) {
        if let Some(node) = self.node_mut(tier) {
            node.handle_datagram(now, from, stamp, datagram);
            self.link(now);
        }
    }

    /// See [`Node::handle_transmitted`].
    pub fn handle_transmitted(&mut self, tier: Tier, token: TransmitToken, stamp: Stamp) {
        if let Some(node) = self.node_mut(tier) {
            node.handle_transmitted(token, stamp);
        }
    }

    /// See [`Node::handle_timeout`].
    pub fn handle_timeout(&mut self, now: LocalTime) {
        if let Some(upper) = &mut self.upper {
            upper.handle_timeout(now);
        }
        // What the upper one knows now may be what the lower one waited for, to stand at once.
        self.link(now);
        self.lower.handle_timeout(now);
        self.link(now);
    }

    /// See [`Node::handle_shutdown`].
    pub fn handle_shutdown(&mut self) {
        self.nodes().for_each(Node::handle_shutdown);
    }

    /// The next datagram, and whose it is; see [`Node::poll_transmit`].
    pub fn poll_transmit(&mut self, now: LocalTime, buffer: &mut BytesMut) -> Option<(Tier, Transmit)> {
        let upper = self.upper.as_mut().and_then(|node| node.poll_transmit(now, buffer));
        match upper {
            Some(transmit) => Some((Tier::Upper, transmit)),
            None => Some((Tier::Lower, self.lower.poll_transmit(now, buffer)?)),
        }
    }

    /// The next thing worth telling, and whose it is.
    pub fn poll_event(&mut self) -> Option<(Tier, Event)> {
        let upper = self.upper.as_mut().and_then(Node::poll_event);
        match upper {
            Some(event) => Some((Tier::Upper, event)),
            None => Some((Tier::Lower, self.lower.poll_event()?)),
        }
    }

    /// When [`Tiers::handle_timeout`] is due; `None`: never.
    pub fn poll_timeout(&self) -> Option<LocalTime> {
        let upper = self.upper.as_ref().and_then(Node::poll_timeout);
        upper.into_iter().chain(self.lower.poll_timeout()).min()
    }
}
