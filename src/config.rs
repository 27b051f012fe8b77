//! What a node is told: the settings of the core with their defaults, checked once so that the rest can trust them.
//!
//! Only what the state machines need. Addresses to bind, files and sockets belong to the driver, see `settings.rs`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::average::Average;
use crate::identity::{Domain, NodeId};
use crate::time::{Skew, Span};

/// Whether a node polls or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Polls, averages and corrects.
    Master,
    /// Answers and is corrected.
    Slave,
    /// One or the other: the nodes elect a master among themselves.
    Auto,
}

/// How a clock may be corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorrectionPolicy {
    /// A slew never changes the clock's rate by more than this. Positive.
    pub max_slew: Skew,
    /// After the first correction, one up to this is always slewed.
    pub step_threshold: Span,
    /// After the first correction, one above `step_threshold` may step; otherwise it is slewed too.
    pub allow_step: bool,
    /// A larger correction is refused. `None`: the first may be of any size, later ones up to
    /// [`CorrectionPolicy::LATER_LIMIT`].
    pub max_correction: Option<Span>,
}

impl CorrectionPolicy {
    /// What a running clock is never corrected by unless the operator says so: 1000 s, the limit at which ntpd
    /// gives up. At 500 ppm it would take 23 days to slew, so that something else must be wrong.
    pub const LATER_LIMIT: Span = Span::from_secs(1_000);
}

impl Default for CorrectionPolicy {
    fn default() -> Self {
        Self {
            max_slew: Skew::from_ppm(500),
            step_threshold: Span::from_millis(128),
            allow_step: false,
            max_correction: None,
        }
    }
}

/// To whom a setting of the master about its slaves applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// To all that no other is for.
    All,
    /// To whoever answers from there, unless its number is named as well.
    Address(IpAddr),
    /// To the node with this number.
    Node(NodeId),
}

impl Who {
    /// How well it fits a node; `None` when it does not.
    fn fit(self, node: NodeId, address: Option<IpAddr>) -> Option<u8> {
        match self {
            Self::All => Some(0),
            Self::Address(ip) => (address == Some(ip)).then_some(1),
            Self::Node(number) => (number == node).then_some(2),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Address(ip) => ip.fmt(f),
            Self::Node(node) => node.fmt(f),
        }
    }
}

/// The settings of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// Its number. Not zero.
    pub node_id: NodeId,
    /// Its ensemble.
    pub domain: Domain,
    /// The domain above: its time is kept in this one while this node is its master, see `tiers.rs`. Below `domain` in number, so that
    /// no circle can arise. `None`: the time of this ensemble is its own.
    pub upper: Option<Domain>,
    /// Master, slave, or what the election says.
    pub role: Role,
    /// Its place in the standby order.
    pub priority: i32,
    /// It takes over from a healthy master of a lower priority.
    pub preempt: bool,
    /// As a master it corrects nobody while it hears fewer nodes than this, itself included. At least 1.
    pub quorum: usize,
    /// It has a time source of its own, so that it alone is averaged (with other references).
    pub is_reference: bool,
    /// Where frames of the whole ensemble go; `None` when there are only peers.
    pub group: Option<SocketAddr>,
    /// Unicast partners. When there are any, nobody else is heard.
    pub peers: Vec<SocketAddr>,
    /// Time between rounds. Positive.
    pub interval: Span,
    /// The shortest time between rounds, used while the group settles. Positive, at most `interval`.
    pub min_interval: Span,
    /// The longest time between rounds, when the clocks need no more. At least `interval`.
    pub max_interval: Span,
    /// How the offsets are averaged.
    pub average: Average,
    /// How close clocks must be to count as agreeing. Positive.
    pub gamma: Span,
    /// How this node's clock may be corrected.
    pub policy: CorrectionPolicy,
    /// How many slaves a master takes.
    pub max_slaves: usize,
    /// How much a clock counts in a `weighted` average, its own too; who is not named counts once when anybody is.
    pub weights: Vec<(Who, NonZeroU32)>,
    /// By how much longer a request takes than its response, as the operator has measured; zero for who is not named.
    pub delay_asymmetries: Vec<(Who, Span)>,
    /// The addresses of this machine, but for loopback. What goes to the group is looped back to nodes there before the kernel says when
    /// it left, so that they are asked alone.
    pub own_addresses: Vec<IpAddr>,
    /// For tests and demonstrations: a slave says that its clock is ahead by this much more than it is.
    pub lie: Span,
}

impl NodeConfig {
    /// The settings of a node that was told nothing but its number and role.
    pub fn new(node_id: NodeId, role: Role) -> Self {
        Self {
            node_id,
            domain: Domain::new(0),
            upper: None,
            role,
            priority: 0,
            preempt: false,
            quorum: 1,
            is_reference: false,
            group: None,
            peers: Vec::new(),
            interval: Span::from_secs(1),
            min_interval: Span::from_millis(125),
            max_interval: Span::from_secs(1),
            average: Average::FaultTolerant,
            gamma: Span::from_millis(20),
            policy: CorrectionPolicy::default(),
            max_slaves: 16_384,
            weights: Vec::new(),
            delay_asymmetries: Vec::new(),
            own_addresses: Vec::new(),
            lie: Span::ZERO,
        }
    }

    /// What a node with these settings makes of `wanted` while it runs: all of it but what only another life can change, who it is and
    /// where it is heard.
    pub fn renewed(&self, wanted: &Self) -> Self {
        let Self { node_id, domain, upper, role, group, lie, .. } = *self;
        // With the first peer the group goes, and with the last one it comes: that is another place to be heard at.
        let peers = if group == wanted.group { &wanted.peers } else { &self.peers };
        // Of a submaster only one of its nodes can be a reference; which one, its start has decided.
        let is_reference = if upper == wanted.upper { wanted.is_reference } else { self.is_reference };
        let (peers, own_addresses) = (peers.clone(), self.own_addresses.clone());
        Self { node_id, domain, upper, role, group, lie, is_reference, peers, own_addresses, ..wanted.clone() }
    }

    /// The weight given to a node; its own has no address.
    pub fn weight(&self, node: NodeId, address: Option<IpAddr>) -> Option<NonZeroU32> {
        best(&self.weights, node, address)
    }

    /// By how much longer requests to a node take than its responses.
    pub fn delay_asymmetry(&self, node: NodeId, address: IpAddr) -> Span {
        best(&self.delay_asymmetries, node, Some(address)).unwrap_or_default()
    }

    /// Checks what a type cannot say.
    ///
    /// # Errors
    /// The first setting that contradicts another or the protocol.
    pub fn validated(self) -> Result<Self, ConfigError> {
        match self.faults().next() {
            Some(fault) => Err(fault),
            None => Ok(self),
        }
    }

    /// Every setting that contradicts another or the protocol.
    pub fn faults(&self) -> impl Iterator<Item = ConfigError> + use<> {
        let CorrectionPolicy { max_slew, step_threshold, max_correction, .. } = self.policy;
        // The other two follow an interval that is given alone: a mistake in that one is told once.
        let is_sound = (Self::SHORTEST_INTERVAL..=Self::LONGEST_INTERVAL).contains(&self.interval);
        let rules = [
            (self.node_id.get() == 0, "node-id", "must not be 0"),
            (!is_sound, "interval", "must lie between 62.5ms and 64s"),
            (is_sound && self.min_interval < Self::SHORTEST_INTERVAL, "min-interval", "must be at least 62.5ms"),
            (is_sound && self.min_interval > self.interval, "min-interval", "must not be longer than interval"),
            (is_sound && self.max_interval < self.interval, "max-interval", "must not be shorter than interval"),
            (is_sound && self.max_interval > Self::LONGEST_INTERVAL, "max-interval", "must be at most 64s"),
            (has_duplicate(&self.weights), "weight", "is given twice for the same node"),
            (has_duplicate(&self.delay_asymmetries), "delay-asymmetry", "is given twice for the same node"),
            (self.gamma <= Span::ZERO, "gamma", "must be positive"),
            (max_slew <= Skew::ZERO || max_slew > Skew::MAX, "max-slew", "must lie between 0 and 100000 ppm"),
            (step_threshold < Span::ZERO, "step-threshold", "must not be negative"),
            (max_correction.is_some_and(|limit| limit <= Span::ZERO), "max-correction", "must be positive"),
            (self.quorum == 0, "quorum", "must be at least 1"),
            (self.max_slaves == 0, "max-slaves", "must be at least 1"),
            (self.group.is_none() && self.peers.is_empty(), "peer", "needs at least one when there is no group"),
        ];
        let broken = rules.into_iter().filter(|(is_broken, ..)| *is_broken);
        broken.map(|(_, setting, fault)| ConfigError { setting, fault })
    }

    /// More than 16 rounds a second measure the scheduler, not the clocks.
    pub const SHORTEST_INTERVAL: Span = Span::from_micros(62_500);
    /// Between rounds this far apart an ordinary oscillator wanders by more than its neighbours measure.
    pub const LONGEST_INTERVAL: Span = Span::from_secs(64);
}

/// What is set for whom fits best.
fn best<T: Copy>(settings: &[(Who, T)], node: NodeId, address: Option<IpAddr>) -> Option<T> {
    let fits = settings.iter().filter_map(|(who, value)| Some((who.fit(node, address)?, *value)));
    fits.max_by_key(|(fit, _)| *fit).map(|(_, value)| value)
}

fn has_duplicate<T>(settings: &[(Who, T)]) -> bool {
    settings.iter().enumerate().any(|(index, (who, _))| settings.iter().take(index).any(|(other, _)| other == who))
}

/// A setting that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The setting, as on the command line without its dashes.
    pub setting: &'static str,
    /// What is wrong with it.
    pub fault: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.setting, self.fault)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_setting_for_a_node_holds() {
        let ip: IpAddr = [192, 0, 2, 7].into();
        let delay_asymmetries = vec![
            (Who::Node(NodeId::new(7)), Span::from_micros(3)),
            (Who::All, Span::from_micros(1)),
            (Who::Address(ip), Span::from_micros(2)),
        ];
        let config = NodeConfig { delay_asymmetries, ..NodeConfig::new(NodeId::new(1), Role::Master) };
        let asymmetry = |node, ip| config.delay_asymmetry(NodeId::new(node), ip);
        assert_eq!(asymmetry(7, ip), Span::from_micros(3));
        assert_eq!(asymmetry(8, ip), Span::from_micros(2));
        assert_eq!(asymmetry(8, [192, 0, 2, 8].into()), Span::from_micros(1));
        assert_eq!(config.weight(NodeId::new(7), Some(ip)), None);
    }

    #[test]
    fn defaults_are_valid_with_a_group_and_contradictions_are_named() {
        let group = "239.255.5.25:5525".parse().ok();
        let base = NodeConfig { group, ..NodeConfig::new(NodeId::new(1), Role::Slave) };
        assert_eq!(base.clone().validated(), Ok(base.clone()));
        let twice = vec![(Who::Node(NodeId::new(7)), Span::ZERO), (Who::Node(NodeId::new(7)), Span::from_micros(1))];
        let faults: [(&str, NodeConfig); 10] = [
            ("max-interval", NodeConfig { max_interval: Span::from_millis(999), ..base.clone() }),
            ("max-interval", NodeConfig { max_interval: Span::from_secs(65), ..base.clone() }),
            ("delay-asymmetry", NodeConfig { delay_asymmetries: twice, ..base.clone() }),
            ("node-id", NodeConfig { node_id: NodeId::new(0), ..base.clone() }),
            ("interval", NodeConfig { interval: Span::from_secs(65), ..base.clone() }),
            ("min-interval", NodeConfig { min_interval: Span::from_secs(2), ..base.clone() }),
            ("gamma", NodeConfig { gamma: Span::ZERO, ..base.clone() }),
            ("quorum", NodeConfig { quorum: 0, ..base.clone() }),
            ("max-slaves", NodeConfig { max_slaves: 0, ..base.clone() }),
            ("peer", NodeConfig { group: None, ..base.clone() }),
        ];
        for (setting, config) in faults {
            assert_eq!(config.validated().map_err(|error| error.setting), Err(setting));
        }
    }
}
