//! One machine of the simulated group: its nodes, their settings, its oscillator, and what stands between its line and them.

use std::rc::Rc;

use super::{address, group, node_id};
use crate::config::{CorrectionPolicy, NodeConfig, Role};
use crate::identity::Incarnation;
use crate::sim::link::Queue;
use crate::sim::oscillator::{Oscillator, offset_at_start};
use crate::sim::random::{Purpose, Random};
use crate::sim::scenario::Scenario;
use crate::sim::schedule::Number;
use crate::sim::topology::{Network, Topology};
use crate::stamp::StampSource;
use crate::tiers::Tiers;
use crate::time::{LocalTime, Span};

/// One machine of the simulated group.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) config: NodeConfig,
    /// On a submaster: that of its node in the domain above.
    pub(super) upper: Option<NodeConfig>,
    pub(super) oscillator: Oscillator,
    /// `None` while it is not started or crashed.
    pub(super) nodes: Option<Tiers>,
    /// How many lives it has had.
    pub(super) lives: u64,
    /// What its clock shows at a start less true time.
    pub(super) offset: Span,
    /// What its clock showed at its last start less its oscillator.
    pub(super) ahead: Span,
    /// How many of its nodes were masters when they were looked at last.
    pub(super) mastered: usize,
    /// The wake-up that is planned.
    pub(super) wake: Option<Wake>,
    /// Inputs wait while it is paused.
    pub(super) is_paused: bool,
    /// Sender, receiver and bytes.
    pub(super) waiting: Vec<(Number, Number, Rc<[u8]>)>,
    pub(super) is_liar: bool,
    /// What all its networks have in common.
    pub(super) queue: Queue,
    pub(super) stamps: Random,
    /// Mean of it, in seconds.
    pub(super) stamp_noise: f64,
    /// Until its process reads what has arrived: the mean, in seconds, ...
    pub(super) scheduling: f64,
    /// ... and when it has read all that arrived so far.
    pub(super) has_read: Span,
    pub(super) source: StampSource,
    /// Added to every datagram from and to it.
    pub(super) slowness: Span,
}

/// When a node is woken, and what its oscillator shows then: a later deadline needs no other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wake {
    pub(super) at: Span,
    pub(super) shows: LocalTime,
}

impl Host {
    /// Begins a life: each draws the next number of the node's own stream.
    pub(super) fn next_incarnation(&mut self, seed: u64, index: usize) -> Incarnation {
        self.lives += 1;
        let mut identity = Random::stream(seed, Purpose::Node, index_number(index));
        Incarnation::drawn((0..self.lives).fold(0, |_, _| identity.number()))
    }

    /// How late a stamp is taken.
    pub(super) fn stamp_error(&mut self) -> Span {
        Span::from_secs_f64(self.stamps.exponential(self.stamp_noise))
    }

    /// When its process reads what arrives now, after all that arrived before; `None`: at once.
    pub(super) fn scheduled(&mut self, now: Span) -> Option<Span> {
        if self.scheduling > 0.0 {
            let at = now + Span::from_secs_f64(self.stamps.exponential(self.scheduling));
            self.has_read = at.max(self.has_read);
            Some(self.has_read)
        } else {
            None
        }
    }

    pub(super) fn new(scenario: &Scenario, topology: &Topology, seed: u64, index: usize, is_liar: bool) -> Self {
        let model = scenario.clocks.get(index).unwrap_or(&scenario.clock);
        let number = index_number(index);
        let node = &scenario.node;
        let policy = CorrectionPolicy {
            allow_step: node.allow_step,
            max_correction: (is_liar && !scenario.lie.obeys).then_some(Span::from_nanos(1)),
            ..CorrectionPolicy::default()
        };
        let base = NodeConfig {
            interval: node.interval,
            min_interval: node.shortest_interval(),
            max_interval: node.max_interval.unwrap_or(node.interval),
            average: node.average,
            gamma: node.gamma,
            priority: node.priorities.get(index).copied().unwrap_or(0),
            preempt: node.preempt,
            quorum: node.quorum.get(),
            policy,
            ..NodeConfig::new(node_id(index), Role::Auto)
        };
        let above = topology.upper(index).and_then(|upper| Some((upper, topology.network_of(upper)?)));
        let upper = above.map(|(upper, network)| on_network(&base, scenario, network, upper));
        let own = super::number(index);
        let config = topology.network_of(own).map_or(base.clone(), |network| on_network(&base, scenario, network, own));
        let config = match above {
            Some((_, network)) => NodeConfig { role: Role::Master, upper: Some(network.domain), ..config },
            None => config,
        };
        Self {
            config,
            upper,
            oscillator: Oscillator::of_node(model, seed, number),
            nodes: None,
            lives: 0,
            offset: offset_at_start(model, seed, number),
            ahead: Span::ZERO,
            mastered: 0,
            wake: None,
            is_paused: false,
            waiting: Vec::new(),
            is_liar,
            queue: Queue::default(),
            stamps: Random::stream(seed, Purpose::Stamp, number),
            stamp_noise: model.stamp_noise.as_secs_f64(),
            scheduling: model.scheduling.as_secs_f64(),
            has_read: Span::ZERO,
            source: model.stamps,
            slowness: Span::ZERO,
        }
    }
}

/// The settings of a node at a port.
fn on_network(base: &NodeConfig, scenario: &Scenario, network: &Network, port: Number) -> NodeConfig {
    let roles = &scenario.node.roles;
    let index = usize::try_from(port).unwrap_or(usize::MAX);
    let role = match network.role.or(roles.get(index).or(roles.last()).copied()) {
        Some(role) => role,
        None if index == 0 => Role::Master,
        None => Role::Slave,
    };
    // Where anybody may become master, everybody knows everybody.
    let is_elected = network.role.is_some() || !roles.is_empty();
    let others = network.ports.iter().filter(|other| **other != port && (is_elected || index == 0 || **other == 0));
    let (group, peers) = match scenario.node.unicast {
        false => (Some(group()), Vec::new()),
        true => (None, others.map(|other| address(*other)).collect()),
    };
    NodeConfig { domain: network.domain, role, group, peers, ..base.clone() }
}

/// A node's index as a number that streams and identities are made of.
fn index_number(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX)
}
