//! The simulated group: nodes on their oscillators, datagrams in flight, faults on a schedule. It does to the [`Tiers`] of a host what the
//! event loop does, and knows the true time that no node can see.
//!
//! True time is a [`Span`] from the beginning of the run.

mod faults;
mod host;

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::BytesMut;

use crate::config::NodeConfig;
use crate::context::Event as NodeEvent;
use crate::node::{Node, TransmitToken};
use crate::protocol::MAX_FRAME_LEN;
use crate::sim::coarse::History;
use crate::sim::invariants::{Claim, Invariants};
use crate::sim::liars::{Liars, node_id};
use crate::sim::link::{Content, Heading, Link};
use crate::sim::random::{Purpose, Random};
use crate::sim::recorder::Recorder;
use crate::sim::report::{NodeSample, NodeStanding};
use crate::sim::scenario::{FaultKind, Scenario};
use crate::sim::schedule::{Flight, Number, Planned, Reading, Schedule};
use crate::sim::topology::{Network, Topology};
use crate::stamp::{Stamp, StampSource};
use crate::tiers::{Tier, Tiers};
use crate::time::{LocalTime, Skew, Span, Time};

use faults::Cut;
use host::{Host, Wake};

/// True time at the beginning of a run, as a clock without error shows it: a moment of 2026.
pub const BEGINNING: Time = Time::from_nanos(1_790_000_000_000_000_000);
/// Frames that a replaying attacker keeps.
const RECORDED: usize = 256;
/// Datagrams that wait for a paused node; its socket's buffer has no room for more.
const WAITING: usize = 256;
/// In a group of so many at most all clocks are looked at whenever one was corrected: a bound can be wrong for less than the time between
/// two looks. In a larger one a round is as many looks at as many clocks.
const WATCHED: usize = 32;
/// What Ethernet, IPv4 and UDP put around a datagram, the pause between two frames included, in bytes.
const WRAPPING: usize = 66;

/// A group of simulated nodes.
#[derive(Debug)]
pub struct World<'a> {
    scenario: &'a Scenario,
    seed: u64,
    now: Span,
    schedule: Schedule,
    topology: Topology,
    hosts: Vec<Host>,
    /// By the sender's port, then by the receiver's place in its network: as many of each row as were needed.
    links: Vec<Vec<Link>>,
    liars: Liars<'a>,
    cuts: Vec<Cut<'a>>,
    /// Whom each fault concerns that has begun.
    victims: Vec<Vec<usize>>,
    /// What a replaying attacker has recorded, the oldest first.
    recorded: Vec<(Number, Rc<[u8]>)>,
    is_recording: bool,
    attacks: Random,
    invariants: Invariants,
    buffer: BytesMut,
    samples: Vec<NodeSample>,
    claims: Vec<Claim>,
    frames: u64,
    bytes: u64,
    /// By host: how its clock was corrected. Empty when nobody asks.
    histories: Vec<History>,
}

/// Runs a scenario to its end. `progress` is told the true time now and then.
pub fn run(scenario: &Scenario, seed: u64, recorder: &mut Recorder, progress: &mut dyn FnMut(Span)) {
    World::new(scenario, seed).run(recorder, progress);
}

/// The same, and tells how the clock of each node was corrected.
pub(crate) fn run_with_histories(scenario: &Scenario, seed: u64, recorder: &mut Recorder) -> Vec<History> {
    let mut world = World::new(scenario, seed);
    world.histories = vec![History::default(); scenario.nodes.get()];
    world.run(recorder, &mut |_| {})
}

/// Between two looks at all clocks: often while they settle, then every tenth of a second. More than 200 clocks are looked at less
/// often, so that looking does not take more time than what there is to see.
fn sampling_pause(now: Span, clocks: usize) -> Span {
    let (pause, for_each) = match now < Span::from_secs(5) {
        true => (Span::from_millis(10), Span::from_micros(50)),
        false => (Span::from_millis(100), Span::from_micros(500)),
    };
    pause.max(for_each.times(i64::try_from(clocks).unwrap_or(i64::MAX)))
}

/// The multicast group.
fn group() -> SocketAddr {
    SocketAddr::from(([239, 255, 5, 25], 5_525))
}

/// The address of a port. At most 2^24 - 2 of them.
fn address(number: Number) -> SocketAddr {
    let [_, a, b, c] = number.saturating_add(1).to_be_bytes();
    SocketAddr::from(([10, a, b, c], 5_525))
}

/// The port at an address of ours.
fn port_at(address: SocketAddr) -> Option<Number> {
    match address {
        SocketAddr::V4(v4) => {
            let [_, a, b, c] = v4.ip().octets();
            u32::from_be_bytes([0, a, b, c]).checked_sub(1)
        }
        SocketAddr::V6(_) => None,
    }
}

/// A port's index in half the room.
fn number(index: usize) -> Number {
    Number::try_from(index).unwrap_or(Number::MAX)
}

/// The link from one port of a network to the one with this place. What happens on it depends on the seed and these two, not on when it was
/// needed first.
fn link<'l>(
    links: &'l mut [Vec<Link>],
    seed: u64,
    network: &Network,
    from: Number,
    place: usize,
) -> Option<&'l mut Link> {
    let row = links.get_mut(usize::try_from(from).ok()?)?;
    while row.len() <= place {
        let to = *network.ports.get(row.len())?;
        row.push(Link::new(Random::between(seed, Purpose::Link, from, to)));
    }
    row.get_mut(place)
}

impl<'a> World<'a> {
    /// A group before its first event.
    pub fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let count = scenario.nodes.get();
        let topology = Topology::new(scenario);
        let liars = Liars::new(scenario);
        let hosts = (0..count).map(|index| Host::new(scenario, &topology, seed, index, liars.has(index))).collect();
        let ports = topology.ports().len();
        let mut world = Self {
            scenario,
            seed,
            now: Span::ZERO,
            schedule: Schedule::default(),
            hosts,
            links: vec![Vec::new(); ports],
            liars,
            cuts: scenario
                .faults
                .iter()
                .enumerate()
                .filter_map(|(index, fault)| Cut::new(index, fault, count))
                .collect(),
            victims: vec![Vec::new(); scenario.faults.len()],
            recorded: Vec::new(),
            is_recording: scenario.faults.iter().any(|fault| fault.what == FaultKind::Replay),
            attacks: Random::stream(seed, Purpose::Attacker, 0),
            invariants: Invariants::new(&topology),
            topology,
            buffer: BytesMut::with_capacity(MAX_FRAME_LEN),
            samples: Vec::with_capacity(count),
            claims: Vec::with_capacity(ports),
            frames: 0,
            bytes: 0,
            histories: Vec::new(),
        };
        let mut at = Span::ZERO;
        for index in 0..count {
            world.plan(at, Planned::Start(index));
            at += scenario.stagger;
        }
        for (index, fault) in scenario.faults.iter().enumerate() {
            world.plan(fault.at, Planned::FaultBegins(index));
        }
        world.plan(Span::ZERO, Planned::Sample);
        world
    }

    fn plan(&mut self, at: Span, planned: Planned) {
        self.schedule.plan(at, planned);
    }

    fn run(mut self, recorder: &mut Recorder, progress: &mut dyn FnMut(Span)) -> Vec<History> {
        while let Some((at, planned)) = self.schedule.next() {
            if at > self.scenario.duration {
                break;
            }
            self.now = at;
            match planned {
                Planned::Start(index) => self.start(index, recorder),
                Planned::Wake(index) => self.wake(index, recorder),
                Planned::Departure { from, token } => self.depart(from, *token),
                Planned::Arrival { from, to, bytes } => self.enqueue(from, to, bytes, recorder),
                Planned::Delivery { from, to, bytes } => self.deliver(from, to, bytes, recorder),
                Planned::Reading(reading) => {
                    let Reading { from, to, bytes, passed, life } = *reading;
                    // What waited for a process that is gone, or stands still, is lost.
                    if self.host_at(to).is_some_and(|(host, _)| host.lives == life && !host.is_paused) {
                        self.read(from, to, &bytes, passed, recorder);
                    }
                }
                Planned::FaultBegins(index) => self.begin_fault(index, recorder),
                Planned::FaultEnds(index) => self.end_fault(index, recorder),
                Planned::Attack(index) => self.attack(index),
                Planned::Sample => {
                    self.sample(recorder);
                    progress(self.now);
                }
            }
        }
        recorder.frames(self.frames, self.bytes);
        self.histories
    }

    // ---- nodes ----------------------------------------------------------------------------------------------------

    /// The host of a port, and which of its nodes is there.
    fn host_at(&mut self, number: Number) -> Option<(&mut Host, Tier)> {
        let port = self.topology.port(number)?;
        Some((self.hosts.get_mut(port.host)?, port.tier))
    }

    /// The ports of a host.
    fn ports_of(&self, host: usize) -> impl Iterator<Item = (Tier, Number)> + use<> {
        let upper = self.topology.upper(host).map(|upper| (Tier::Upper, upper));
        upper.into_iter().chain([(Tier::Lower, number(host))])
    }

    fn start(&mut self, index: usize, recorder: &mut Recorder) {
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        let incarnation = host.next_incarnation(self.seed, index);
        let local = host.oscillator.local(self.now);
        let time = BEGINNING + self.now + host.offset;
        host.ahead = time.ahead_of(local);
        let node = |config: &NodeConfig| Node::new(config.clone(), incarnation, local, time, Skew::ZERO);
        let lower = node(&host.config);
        host.nodes = Some(match &host.upper {
            Some(upper) => Tiers::submaster(node(upper), lower),
            None => Tiers::from(lower),
        });
        host.wake = None;
        self.ports_of(index).for_each(|(_, port)| self.invariants.started(port));
        self.settle(index, local, recorder);
    }

    /// A suspended host finds out how long it slept, as the event loop does, and starts afresh.
    fn awake(&mut self, index: usize, slept: Span) {
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        let incarnation = host.next_incarnation(self.seed, index);
        let local = host.oscillator.local(self.now);
        if let Some(nodes) = &mut host.nodes {
            let time = nodes.clock().read(local) + slept;
            nodes.restart(incarnation, local, time);
            self.ports_of(index).for_each(|(_, port)| self.invariants.started(port));
        }
    }

    /// The node's deadline may have come; an input since may have moved it.
    fn wake(&mut self, index: usize, recorder: &mut Recorder) {
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        if host.wake.is_none_or(|wake| wake.at != self.now) {
            return;
        }
        host.wake = None;
        if host.is_paused {
            return;
        }
        if let Some(nodes) = &mut host.nodes {
            let local = host.oscillator.local(self.now);
            if nodes.poll_timeout().is_some_and(|deadline| deadline <= local) {
                nodes.handle_timeout(local);
            }
            self.settle(index, local, recorder);
        }
    }

    /// A datagram reaches the line of a node: it is delivered at once, has to wait, or finds the queue full.
    fn enqueue(&mut self, from: Number, to: Number, bytes: Rc<[u8]>, recorder: &mut Recorder) {
        let now = self.now;
        let link = &self.scenario.link;
        let Some((host, _)) = self.host_at(to) else {
            return;
        };
        match host.queue.admit(now, bytes.len() + WRAPPING, link) {
            Some(at) if at > now => self.plan(at, Planned::Delivery { from, to, bytes }),
            Some(_) => self.deliver(from, to, bytes, recorder),
            None => {}
        }
    }

    fn deliver(&mut self, from: Number, to: Number, bytes: Rc<[u8]>, recorder: &mut Recorder) {
        let now = self.now;
        let Some((host, _)) = self.host_at(to) else {
            return;
        };
        if host.is_paused {
            if host.waiting.len() < WAITING {
                host.waiting.push((from, to, bytes));
            }
            return;
        }
        let late = match host.source {
            StampSource::User => host.stamp_error(),
            StampSource::Kernel | StampSource::Hardware => Span::ZERO,
        };
        let passed = host.oscillator.local(now) + late;
        let life = host.lives;
        match host.scheduled(now) {
            Some(at) => self.plan(at, Planned::Reading(Box::new(Reading { from, to, bytes, passed, life }))),
            None => self.read(from, to, &bytes, passed, recorder),
        }
    }

    /// A node reads a datagram that passed at this local time.
    fn read(&mut self, from: Number, to: Number, bytes: &[u8], passed: LocalTime, recorder: &mut Recorder) {
        let Some(port) = self.topology.port(to) else {
            return;
        };
        let Some(host) = self.hosts.get_mut(port.host) else {
            return;
        };
        let local = host.oscillator.local(self.now);
        let stamp = Stamp { at: passed, source: host.source };
        if let Some(nodes) = &mut host.nodes {
            recorder.received(1, u64::try_from(bytes.len()).unwrap_or(0));
            nodes.handle_datagram(port.tier, local.max(passed), address(from), stamp, bytes);
            self.settle(port.host, local, recorder);
        }
    }

    /// Drains a host's outputs after an input, checks what must hold, and plans its next wake-up. `local`: what its oscillator
    /// shows now.
    fn settle(&mut self, index: usize, local: LocalTime, recorder: &mut Recorder) {
        let is_paused = self.hosts.get(index).is_none_or(|host| host.is_paused);
        if is_paused {
            return;
        }
        self.transmit(index, local);
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        let Some(nodes) = &mut host.nodes else {
            return;
        };
        let mut is_corrected = false;
        while let Some((tier, event)) = nodes.poll_event() {
            let (Some(node), Some(port)) = (nodes.node(tier), self.topology.of(index, tier)) else {
                continue;
            };
            if let Some(violation) = self.invariants.heard(self.now, port, node, &event) {
                recorder.violation(violation);
            }
            if let NodeEvent::Averaged { .. } = event {
                recorder.round();
            } else if let NodeEvent::Corrected { .. } = event {
                is_corrected = true;
                recorder.correction();
            } else if let NodeEvent::TermTaken { term } = event {
                recorder.mark(self.now, format!("node {index} takes term {term}{}", in_domain(self.scenario, node)));
            }
            recorder.event(self.now, Some(index), || format!("{event:?}{}", in_domain(self.scenario, node)));
        }
        for (tier, node) in nodes.iter() {
            let port = self.topology.of(index, tier);
            let violation = port.and_then(|port| self.invariants.acted(self.now, port, node, local));
            violation.into_iter().for_each(|violation| recorder.violation(violation));
        }
        if let Some(history) = self.histories.get_mut(index).filter(|_| is_corrected) {
            history.push(self.now, nodes.clock());
        }
        let mastered = nodes.iter().filter(|(_, node)| node.as_master().is_some()).count();
        let is_new_role = std::mem::replace(&mut host.mastered, mastered) != mastered;
        if let Some(deadline) = nodes.poll_timeout()
            && host.wake.is_none_or(|planned| deadline < planned.shows)
        {
            let at = host.oscillator.truth_of(deadline).max(self.now);
            if host.wake.is_none_or(|planned| at < planned.at) {
                host.wake = Some(Wake { at, shows: deadline });
                self.plan(at, Planned::Wake(index));
            }
        }
        if is_new_role {
            let masters = self.masters();
            self.invariants.masters(&masters);
        }
        if is_corrected && self.hosts.len() <= WATCHED {
            self.look(recorder);
        }
    }

    /// Sends what the nodes of a host have to send, at `local` on its oscillator, which is now.
    fn transmit(&mut self, index: usize, local: LocalTime) {
        loop {
            let Some(host) = self.hosts.get_mut(index) else {
                return;
            };
            let Some(nodes) = &mut host.nodes else {
                return;
            };
            let Some((tier, transmit)) = nodes.poll_transmit(local, &mut self.buffer) else {
                return;
            };
            let Some(from) = self.topology.of(index, tier) else {
                continue;
            };
            // The stamp was taken now, the datagram leaves a little later.
            let leaves = self.now + host.stamp_error();
            if let Some(token) = transmit.token.filter(|_| host.source < StampSource::User) {
                self.plan(leaves, Planned::Departure { from, token: Box::new(token) });
            }
            let bytes: Rc<[u8]> = Rc::from(&*self.buffer);
            self.frames += 1;
            self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
            if self.is_recording {
                if self.recorded.len() >= RECORDED {
                    self.recorded.remove(0);
                }
                self.recorded.push((from, Rc::clone(&bytes)));
            }
            if transmit.to == group() {
                let count = self.topology.network_of(from).map_or(0, |network| network.ports.len());
                let mut flight = self.schedule.flight(from, &bytes, count);
                for place in 0..count {
                    let to = self.topology.network_of(from).and_then(|network| network.ports.get(place).copied());
                    if let Some(to) = to.filter(|to| *to != from) {
                        self.fly(from, to, &bytes, leaves, Some(&mut flight));
                    }
                }
                self.schedule.plan_flight(flight);
            } else if let Some(to) = port_at(transmit.to) {
                self.fly(from, to, &bytes, leaves, None);
            }
        }
    }

    /// A datagram leaves now, as the node's kernel can tell.
    fn depart(&mut self, from: Number, token: TransmitToken) {
        let now = self.now;
        if let Some((host, tier)) = self.host_at(from)
            && let Some(nodes) = &mut host.nodes
        {
            let stamp = Stamp { at: host.oscillator.local(now), source: host.source };
            nodes.handle_transmitted(tier, token, stamp);
        }
    }

    /// Puts one datagram on its way, if the network lets it through: alone, or as a part of the `flight` of a frame to many.
    fn fly(&mut self, from: Number, to: Number, bytes: &Rc<[u8]>, leaves: Span, mut flight: Option<&mut Flight>) {
        let (Some(sends), Some(hears)) = (self.topology.port(from), self.topology.port(to)) else {
            return;
        };
        let Some(network) = self.topology.network_of(from).filter(|_| sends.network == hears.network) else {
            return;
        };
        if !self.is_connected(sends.host, hears.host, network) {
            return;
        }
        let (Some(sender), Some(receiver)) = (self.hosts.get(sends.host), self.hosts.get(hears.host)) else {
            return;
        };
        let extra = sender.slowness + receiver.slowness;
        let lie = self.liars.falsified(self.now, sends.host, hears.host, bytes);
        let (bytes, is_lie) = (lie.as_ref().unwrap_or(bytes), lie.is_some());
        let heading = match (from, to) {
            (0, _) => Heading::FromMaster,
            (_, 0) => Heading::ToMaster,
            _ => Heading::Aside,
        };
        let Some(link) = link(&mut self.links, self.seed, network, from, hears.place) else {
            return;
        };
        for delivery in link.send(leaves, bytes, &self.scenario.link, heading, extra) {
            let at = delivery.arrival;
            let bytes = match (delivery.content, &mut flight) {
                (Content::AsSent, Some(flight)) if !is_lie => {
                    self.schedule.land(flight, at, to);
                    continue;
                }
                (Content::AsSent, _) => Rc::clone(bytes),
                (Content::Altered(_), _) if self.scenario.link.checksum => continue,
                (Content::Altered(bytes), _) => Rc::from(bytes),
            };
            self.schedule.plan(at, Planned::Arrival { from, to, bytes });
        }
    }

    // ---- observation ----------------------------------------------------------------------------------------------

    /// Every node that runs, and its host.
    fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        let hosts = self.hosts.iter().enumerate().filter(|(_, host)| !host.is_paused);
        hosts.flat_map(|(index, host)| host.nodes.iter().flat_map(Tiers::iter).map(move |(_, node)| (index, node)))
    }

    /// How many nodes of each network run and take themselves for master.
    fn masters(&self) -> Vec<usize> {
        let mut masters = vec![0; self.topology.networks().len()];
        for (_, node) in self.running().filter(|(_, node)| node.as_master().is_some()) {
            let network = self.topology.networks().iter().position(|network| network.domain == node.config().domain);
            if let Some(count) = network.and_then(|network| masters.get_mut(network)) {
                *count += 1;
            }
        }
        masters
    }

    /// Looks at every clock, whether they are where they say, and gives how many masters each network has.
    fn look(&mut self, recorder: &mut Recorder) -> Vec<usize> {
        let now = self.now;
        self.samples.clear();
        self.claims.clear();
        for (index, host) in self.hosts.iter_mut().enumerate() {
            let local = host.oscillator.local(now);
            let tier = self.topology.tier(index);
            let truth = BEGINNING + now;
            self.samples.push(match &host.nodes {
                Some(nodes) if !host.is_paused => NodeSample {
                    error: nodes.clock().read(local) - truth,
                    alone: Time::from_local(local, host.ahead) - truth,
                    bound: nodes.clock().error_bound(local),
                    standing: match (host.is_liar, nodes.clock().is_corrected()) {
                        (true, _) => NodeStanding::Liar,
                        (false, true) => NodeStanding::Honest,
                        (false, false) => NodeStanding::Joining,
                    },
                    tier,
                },
                // A host that stands still shows nobody its clock.
                Some(_) | None => NodeSample {
                    error: Span::ZERO,
                    alone: Span::ZERO,
                    bound: Span::MAX,
                    standing: NodeStanding::Down,
                    tier,
                },
            });
            for (tier, node) in host.nodes.iter().flat_map(Tiers::iter).filter(|_| !host.is_paused && !host.is_liar) {
                let clock = node.clock();
                if let Some(port) = self.topology.of(index, tier).filter(|_| clock.is_corrected()) {
                    self.claims.push(Claim { port, error: clock.read(local) - truth, bound: clock.error_bound(local) });
                }
            }
        }
        let masters = self.masters();
        let violation = self.invariants.sampled(now, &self.claims, &masters);
        violation.into_iter().for_each(|violation| recorder.violation(violation));
        masters
    }

    /// Looks at every clock, for the figures too.
    fn sample(&mut self, recorder: &mut Recorder) {
        let now = self.now;
        let masters = self.look(recorder);
        recorder.record(now, &self.samples);
        if self.cuts.iter().any(|cut| self.is_active(cut.fault)) {
            recorder.disturbed();
        } else {
            let term = self.running().map(|(_, node)| node.term().get()).max().unwrap_or(0);
            recorder.masters(now, masters.iter().copied().find(|count| *count != 1).unwrap_or(1), term);
        }
        self.plan(now + sampling_pause(now, self.hosts.len()), Planned::Sample);
    }
}

/// Where there are several domains, which of them a node is in.
fn in_domain(scenario: &Scenario, node: &Node) -> String {
    if scenario.domains.is_empty() { String::new() } else { format!(" in domain {}", node.config().domain) }
}
