//! Which node stands where: the networks of a scenario, one for each domain, and the ports by which hosts hang on them.
//!
//! A host has one port, a submaster two: that of its own node, and that of the node above. Ports have numbers: a host's own port has the
//! host's, so that where there is one network a port is a host; the others come after them all.

use crate::config::Role;
use crate::identity::Domain;
use crate::sim::scenario::Scenario;
use crate::sim::schedule::Number;
use crate::tiers::Tier;

/// Where a node hangs on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its machine.
    pub(crate) host: usize,
    /// Which of the host's nodes.
    pub(crate) tier: Tier,
    /// The index of its network.
    pub(crate) network: usize,
    /// Its place among the ports of that.
    pub(crate) place: usize,
}

/// A network, on which one domain lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) domain: Domain,
    /// The numbers of its ports.
    pub(crate) ports: Vec<Number>,
    /// The role of its ordinary nodes. `None`: as `node.roles` says.
    pub(crate) role: Option<Role>,
    /// How many networks are above it, one above the other.
    pub(crate) depth: usize,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topology {
    ports: Vec<Port>,
    networks: Vec<Network>,
    /// By host: the port of its node above.
    uppers: Vec<Option<Number>>,
}

impl Topology {
    /// What a scenario says; whatever `scenario_file.rs` lets pass.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let hosts = scenario.nodes.get();
        let everybody: Vec<usize> = (0..hosts).collect();
        let mut domains: Vec<(Domain, &[usize], Option<Role>)> = scenario
            .domains
            .iter()
            .map(|model| (Domain::new(model.number), model.nodes.as_slice(), Some(model.role)))
            .collect();
        if domains.is_empty() {
            domains.push((Domain::default(), &everybody, None));
        }
        // From above: a host's port in the first of its two domains is that of its upper node.
        domains.sort_by_key(|(domain, ..)| *domain);
        let is_named_below = |host: usize, index: usize| {
            domains.get(index + 1..).unwrap_or_default().iter().any(|(_, nodes, _)| nodes.contains(&host))
        };
        let none = Port { host: 0, tier: Tier::Lower, network: 0, place: 0 };
        let mut ports = vec![none; hosts];
        let mut uppers = vec![None; hosts];
        let mut networks: Vec<Network> = Vec::new();
        for (index, (domain, nodes, role)) in domains.iter().enumerate() {
            let mut network = Network { domain: *domain, ports: Vec::new(), role: *role, depth: 0 };
            for &host in *nodes {
                let place = network.ports.len();
                if is_named_below(host, index) {
                    let number = number(ports.len());
                    network.ports.push(number);
                    ports.push(Port { host, tier: Tier::Upper, network: index, place });
                    if let Some(upper) = uppers.get_mut(host) {
                        *upper = Some(number);
                    }
                } else if let Some(port) = ports.get_mut(host) {
                    network.ports.push(number(host));
                    *port = Port { host, tier: Tier::Lower, network: index, place };
                }
                let above =
                    uppers.get(host).copied().flatten().and_then(|upper| ports.get(usize::try_from(upper).ok()?));
                let above = above.and_then(|port| networks.get(port.network));
                network.depth = network.depth.max(above.map_or(0, |above: &Network| above.depth + 1));
            }
            networks.push(network);
        }
        Self { ports, networks, uppers }
    }

    pub(crate) fn ports(&self) -> &[Port] {
        &self.ports
    }

    pub(crate) fn port(&self, number: Number) -> Option<Port> {
        self.ports.get(usize::try_from(number).ok()?).copied()
    }

    /// The port of one of a host's nodes.
    pub(crate) fn of(&self, host: usize, tier: Tier) -> Option<Number> {
        match tier {
            Tier::Upper => self.upper(host),
            Tier::Lower => Some(number(host)),
        }
    }

    /// The port of a host's node above; `None` when it is no submaster.
    pub(crate) fn upper(&self, host: usize) -> Option<Number> {
        self.uppers.get(host).copied().flatten()
    }

    pub(crate) fn networks(&self) -> &[Network] {
        &self.networks
    }

    pub(crate) fn network_of(&self, number: Number) -> Option<&Network> {
        self.networks.get(self.port(number)?.network)
    }

    /// How deep a host stands: as deep as the network of its uppermost node.
    pub(crate) fn tier(&self, host: usize) -> usize {
        let uppermost = self.upper(host).unwrap_or(number(host));
        self.network_of(uppermost).map_or(0, |network| network.depth)
    }
}

/// A node's index in half the room.
fn number(index: usize) -> Number {
    Number::try_from(index).unwrap_or(Number::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario::DomainModel;
    use std::num::NonZeroUsize;

    #[test]
    fn one_network_has_a_port_for_each_host() {
        let topology = Topology::new(&Scenario::default());
        assert_eq!((topology.ports().len(), topology.networks().len()), (8, 1));
        let places = topology.ports().iter().map(|port| (port.host, port.place));
        assert!(places.eq((0..8).map(|index| (index, index))));
    }

    #[test]
    fn a_host_of_two_domains_has_its_second_port_in_the_one_above() {
        let domain = |number, nodes: &[usize]| DomainModel { number, nodes: nodes.to_vec(), role: Role::Auto };
        let scenario = Scenario {
            nodes: NonZeroUsize::new(6).unwrap(),
            // Given from below, and each leaf leads the next.
            domains: vec![domain(9, &[3, 4, 5]), domain(7, &[1, 2, 3]), domain(2, &[0, 1])],
            ..Scenario::default()
        };
        let topology = Topology::new(&scenario);
        assert_eq!(topology.ports().len(), 8);
        assert_eq!((topology.upper(1), topology.upper(3), topology.upper(2)), (Some(6), Some(7), None));
        let networks: Vec<_> =
            topology.networks().iter().map(|network| (network.domain.get(), network.depth, &*network.ports)).collect();
        assert_eq!(networks, [(2, 0, &[0, 6][..]), (7, 1, &[1, 2, 7]), (9, 2, &[3, 4, 5])]);
        assert_eq!([0, 1, 2, 3, 4].map(|host| topology.tier(host)), [0, 0, 1, 1, 2]);
    }
}
