//! The simulated group: nodes on their oscillators, datagrams in flight, faults on a schedule. It does to the [`Tiers`] of a host what the
//! event loop does, and knows the true time that no node can see.
//!
//! True time is a [`Span`] from the beginning of the run.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::BytesMut;

use crate::config::{CorrectionPolicy, NodeConfig, Role};
use crate::context::Event as NodeEvent;
use crate::identity::{Domain, Incarnation, NodeId};
use crate::node::{Node, TransmitToken};
use crate::protocol::{Corrections, Frame, MAX_FRAME_LEN, Message, Response};
use crate::sim::coarse::History;
use crate::sim::invariants::{Claim, Invariants};
use crate::sim::liars::{Liars, node_id};
use crate::sim::link::{Content, Heading, Link, Queue};
use crate::sim::oscillator::{Oscillator, offset_at_start};
use crate::sim::outcome::{NodeSample, NodeStanding, Recorder};
use crate::sim::random::{Purpose, Random};
use crate::sim::scenario::{Fault, FaultKind, Scenario};
use crate::sim::schedule::{Flight, Number, Planned, Reading, Schedule};
use crate::sim::topology::{Network, Topology};
use crate::stamp::{Stamp, StampSource};
use crate::tiers::{Tier, Tiers};
use crate::time::{LocalTime, Skew, Span, Time};

/// True time at the beginning of a run, as a clock without error shows it: a moment of 2026.
pub const BEGINNING: Time = Time::from_nanos(1_790_000_000_000_000_000);
/// Between two frames of an attacker.
const ATTACK_PAUSE: Span = Span::from_millis(100);
/// Frames that a replaying attacker keeps.
const RECORDED: usize = 256;
/// Datagrams that wait for a paused node; its socket's buffer has no room for more.
const WAITING: usize = 256;
/// In a group of so many at most all clocks are looked at whenever one was corrected: a bound can be wrong for less than the time between
/// two looks. In a larger one a round is as many looks at as many clocks.
const WATCHED: usize = 32;
/// What Ethernet, IPv4 and UDP put around a datagram, the pause between two frames included, in bytes.
const WRAPPING: usize = 66;

/// One machine of the simulated group.
#[derive(Debug)]
struct Host {
    config: NodeConfig,
    /// On a submaster: that of its node in the domain above.
    upper: Option<NodeConfig>,
    oscillator: Oscillator,
    /// `None` while it is not started or crashed.
    nodes: Option<Tiers>,
    /// How many lives it has had.
    lives: u64,
    /// What its clock shows at a start less true time.
    offset: Span,
    /// What its clock showed at its last start less its oscillator.
    ahead: Span,
    /// How many of its nodes were masters when they were looked at last.
    mastered: usize,
    /// The wake-up that is planned.
    wake: Option<Wake>,
    /// Inputs wait while it is paused.
    is_paused: bool,
    /// Sender, receiver and bytes.
    waiting: Vec<(Number, Number, Rc<[u8]>)>,
    is_liar: bool,
    /// What all its networks have in common.
    queue: Queue,
    stamps: Random,
    /// Mean of it, in seconds.
    stamp_noise: f64,
    /// Until its process reads what has arrived: the mean, in seconds, ...
    scheduling: f64,
    /// ... and when it has read all that arrived so far.
    has_read: Span,
    source: StampSource,
    /// Added to every datagram from and to it.
    slowness: Span,
}

/// When a node is woken, and what its oscillator shows then: a later deadline needs no other.
#[derive(Clone, Copy, Debug)]
struct Wake {
    at: Span,
    shows: LocalTime,
}

/// A fault that keeps datagrams from some of the nodes, or theirs from the others.
#[derive(Debug)]
struct Cut<'a> {
    fault: &'a Fault,
    /// Its place among the faults.
    index: usize,
    /// For each node, whether the fault names it.
    is_named: Vec<bool>,
}

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

    // ---- faults ---------------------------------------------------------------------------------------------------

    /// The nodes of a fault that begins: those that it names, the master, or all.
    fn concerned(&self, fault: &Fault) -> Vec<usize> {
        if fault.master {
            // Of several the one of the newest term; none: it comes to nothing.
            let newest = self
                .running()
                .filter(|(_, node)| node.as_master().is_some() && is_in(fault, node.config().domain))
                .map(|(host, node)| (node.term(), host))
                .max();
            newest.map(|(_, host)| host).into_iter().collect()
        } else if fault.nodes.is_empty() {
            (0..self.hosts.len()).collect()
        } else {
            fault.nodes.clone()
        }
    }

    /// Every node that runs, and its host.
    fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        let hosts = self.hosts.iter().enumerate().filter(|(_, host)| !host.is_paused);
        hosts.flat_map(|(index, host)| host.nodes.iter().flat_map(Tiers::iter).map(move |(_, node)| (index, node)))
    }

    /// The nodes of a fault that has begun.
    fn victims(&self, index: usize) -> Vec<usize> {
        self.victims.get(index).cloned().unwrap_or_default()
    }

    fn begin_fault(&mut self, index: usize, recorder: &mut Recorder) {
        let scenario = self.scenario;
        let Some(fault) = scenario.faults.get(index) else {
            return;
        };
        recorder.mark(self.now, describe(fault));
        recorder.disturbed();
        let concerned = self.concerned(fault);
        for cut in self.cuts.iter_mut().filter(|cut| cut.index == index) {
            cut.is_named.iter_mut().enumerate().for_each(|(node, is_named)| *is_named = concerned.contains(&node));
        }
        if let Some(victims) = self.victims.get_mut(index) {
            victims.clone_from(&concerned);
        }
        if fault.lasting > Span::ZERO {
            self.plan(self.now + fault.lasting, Planned::FaultEnds(index));
        }
        if matches!(fault.what, FaultKind::Forge | FaultKind::Replay) {
            self.plan(self.now, Planned::Attack(index));
        }
        for node in concerned {
            match fault.what {
                FaultKind::Leave => {
                    let now = self.now;
                    let Some(host) = self.hosts.get_mut(node) else {
                        continue;
                    };
                    let local = host.oscillator.local(now);
                    if let Some(nodes) = &mut host.nodes {
                        nodes.handle_shutdown();
                    }
                    self.transmit(node, local);
                    self.stop(node);
                }
                FaultKind::Crash => self.stop(node),
                FaultKind::Pause | FaultKind::Suspend => {
                    let now = self.now;
                    if let Some(host) = self.hosts.get_mut(node) {
                        host.is_paused = true;
                        if fault.what == FaultKind::Suspend {
                            host.oscillator.stop(now, now + fault.lasting);
                        }
                    }
                }
                FaultKind::Jump => {
                    let now = self.now;
                    let Some(host) = self.hosts.get_mut(node) else {
                        continue;
                    };
                    host.oscillator.jump(now, fault.by);
                    let local = host.oscillator.local(now);
                    // It will show more when it is woken: its deadline may come before that.
                    host.wake = host.wake.map(|wake| Wake { shows: wake.shows + fault.by.max(Span::ZERO), ..wake });
                    self.ports_of(node).for_each(|(_, port)| self.invariants.jumped(port));
                    self.settle(node, local, recorder);
                }
                FaultKind::Slow => {
                    if let Some(host) = self.hosts.get_mut(node) {
                        host.slowness = fault.by;
                    }
                }
                FaultKind::Partition | FaultKind::Mute | FaultKind::Deaf | FaultKind::Forge | FaultKind::Replay => {}
            }
        }
    }

    fn stop(&mut self, index: usize) {
        if let Some(host) = self.hosts.get_mut(index) {
            host.nodes = None;
            host.wake = None;
            host.waiting.clear();
        }
    }

    fn end_fault(&mut self, index: usize, recorder: &mut Recorder) {
        let scenario = self.scenario;
        let Some(fault) = scenario.faults.get(index) else {
            return;
        };
        recorder.mark(self.now, format!("{} ends", describe(fault)));
        recorder.disturbed();
        for node in self.victims(index) {
            match fault.what {
                FaultKind::Crash | FaultKind::Leave => self.start(node, recorder),
                FaultKind::Pause | FaultKind::Suspend => {
                    let Some(host) = self.hosts.get_mut(node) else {
                        continue;
                    };
                    host.is_paused = false;
                    if fault.what == FaultKind::Suspend {
                        self.awake(node, fault.lasting);
                    }
                    let Some(host) = self.hosts.get_mut(node) else {
                        continue;
                    };
                    let wake = Wake { at: self.now, shows: host.oscillator.local(self.now) };
                    host.wake = Some(wake);
                    for (from, to, bytes) in std::mem::take(&mut host.waiting) {
                        self.deliver(from, to, bytes, recorder);
                    }
                    if let Some(host) = self.hosts.get_mut(node) {
                        host.wake = Some(wake);
                    }
                    self.wake(node, recorder);
                }
                FaultKind::Slow => {
                    if let Some(host) = self.hosts.get_mut(node) {
                        host.slowness = Span::ZERO;
                    }
                }
                FaultKind::Jump
                | FaultKind::Partition
                | FaultKind::Mute
                | FaultKind::Deaf
                | FaultKind::Forge
                | FaultKind::Replay => {}
            }
        }
    }

    /// True while a fault is in force.
    fn is_active(&self, fault: &Fault) -> bool {
        self.now >= fault.at && (fault.lasting == Span::ZERO || self.now < fault.at + fault.lasting)
    }

    /// Whether partitions let a datagram through from one host to another on this network.
    fn is_connected(&self, from: usize, to: usize, network: &Network) -> bool {
        let cuts = self.cuts.iter().filter(|cut| self.is_active(cut.fault) && is_in(cut.fault, network.domain));
        cuts.into_iter().all(|cut| cut.lets_through(from, to))
    }

    /// One frame of an attacker, to each node that the fault names.
    fn attack(&mut self, index: usize) {
        let scenario = self.scenario;
        let Some(fault) = scenario.faults.get(index).filter(|fault| self.is_active(fault)) else {
            return;
        };
        self.plan(self.now + ATTACK_PAUSE, Planned::Attack(index));
        let count = u64::try_from(self.recorded.len()).unwrap_or(0);
        for to in self.victims(index) {
            let attack = if fault.what == FaultKind::Forge {
                Some((number(self.topology.ports().len()), self.forged(to)))
            } else if count > 0 {
                let chosen = usize::try_from(self.attacks.below(count)).unwrap_or(0);
                self.recorded.get(chosen).cloned()
            } else {
                None
            };
            if let Some((from, bytes)) = attack {
                self.plan(self.now + self.scenario.link.delay, Planned::Arrival { from, to: number(to), bytes });
            }
        }
    }

    /// A legal frame that a stranger without knowledge of the group makes up. It does not claim a mastership: without keys
    /// nothing stops one that does.
    fn forged(&mut self, to: usize) -> Rc<[u8]> {
        use crate::identity::{Round, Term};
        use crate::protocol::{Acknowledgement, Entry, Header, Outcome};
        let mut draw = |below: i64| {
            let below = u64::try_from(below).unwrap_or(1);
            i64::try_from(self.attacks.below(below)).unwrap_or(0)
        };
        let number = |drawn: i64| u64::try_from(drawn).unwrap_or(0);
        let kind = draw(3);
        let header = Header {
            domain: self.topology.network_of(self::number(to)).map_or(Domain::default(), |network| network.domain),
            round: Round::new(u32::try_from(draw(1_000)).unwrap_or(0)),
            term: Term::new(number(draw(3))),
            sender: NodeId::new(number(draw(20)) + 1),
            incarnation: Incarnation::new(number(draw(1 << 48)) + 1),
        };
        let local = LocalTime::from_nanos(draw(1 << 60));
        let message_span = Span::from_nanos(draw(1 << 40));
        let entries = [Entry {
            node: node_id(to),
            node_incarnation: Incarnation::new(number(draw(1 << 48)) + 1),
            reference: local,
            correction: message_span,
            rate: Skew::from_ppm(draw(1_000)),
            error_bound: Span::ZERO,
            rate_error: Skew::ZERO,
            adjustment: u32::try_from(draw(10)).unwrap_or(0),
        }];
        let message = match kind {
            0 => Message::Correction(Corrections::of(&entries)),
            1 => Message::Acknowledgement(Acknowledgement { adjustment: 1, outcome: Outcome::Slewed }),
            _ => Message::Response(Response {
                t1: local,
                t2: local,
                t3: local,
                ahead: message_span,
                slew: Span::ZERO,
                rate: Skew::ZERO,
                error_bound: Span::ZERO,
                adjustment: 0,
                applied_round: Round::default(),
                previous: None,
                is_reference: true,
                is_synchronised: true,
                is_stamped_near_the_wire: false,
            }),
        };
        let mut buffer = BytesMut::new();
        Frame { header, message }.encode(&mut buffer);
        Rc::from(&*buffer)
    }

    // ---- observation ----------------------------------------------------------------------------------------------

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

impl<'a> Cut<'a> {
    /// `None` for a fault that lets all datagrams through.
    fn new(index: usize, fault: &'a Fault, count: usize) -> Option<Self> {
        matches!(fault.what, FaultKind::Partition | FaultKind::Mute | FaultKind::Deaf).then(|| Self {
            fault,
            index,
            is_named: vec![false; count],
        })
    }

    fn lets_through(&self, from: usize, to: usize) -> bool {
        let is_named = |index: usize| self.is_named.get(index).copied().unwrap_or(false);
        let (sends, hears) = (is_named(from), is_named(to));
        match self.fault.what {
            FaultKind::Partition => sends == hears,
            FaultKind::Mute => !sends || hears,
            FaultKind::Deaf => sends || !hears,
            FaultKind::Crash
            | FaultKind::Leave
            | FaultKind::Pause
            | FaultKind::Suspend
            | FaultKind::Jump
            | FaultKind::Slow
            | FaultKind::Forge
            | FaultKind::Replay => true,
        }
    }
}

impl Host {
    /// Begins a life: each draws the next number of the node's own stream.
    fn next_incarnation(&mut self, seed: u64, index: usize) -> Incarnation {
        self.lives += 1;
        let mut identity = Random::stream(seed, Purpose::Node, index_number(index));
        Incarnation::drawn((0..self.lives).fold(0, |_, _| identity.number()))
    }

    /// How late a stamp is taken.
    fn stamp_error(&mut self) -> Span {
        Span::from_secs_f64(self.stamps.exponential(self.stamp_noise))
    }

    /// When its process reads what arrives now, after all that arrived before; `None`: at once.
    fn scheduled(&mut self, now: Span) -> Option<Span> {
        if self.scheduling > 0.0 {
            let at = now + Span::from_secs_f64(self.stamps.exponential(self.scheduling));
            self.has_read = at.max(self.has_read);
            Some(self.has_read)
        } else {
            None
        }
    }

    fn new(scenario: &Scenario, topology: &Topology, seed: u64, index: usize, is_liar: bool) -> Self {
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
        let own = self::number(index);
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

/// True when a fault is one of this domain.
fn is_in(fault: &Fault, domain: Domain) -> bool {
    fault.domain.is_none_or(|number| number == domain.get())
}

/// Where there are several domains, which of them a node is in.
fn in_domain(scenario: &Scenario, node: &Node) -> String {
    if scenario.domains.is_empty() { String::new() } else { format!(" in domain {}", node.config().domain) }
}

/// A fault in a few words.
fn describe(fault: &Fault) -> String {
    let what = format!("{:?}", fault.what).to_lowercase();
    let domain = fault.domain.map(|number| format!(" in domain {number}")).unwrap_or_default();
    let whom = match fault.nodes.as_slice() {
        [] if fault.master => "the master".to_owned(),
        [] => "all".to_owned(),
        [node] => format!("node {node}"),
        nodes => format!("{} nodes", nodes.len()),
    };
    format!("{what} of {whom}{domain}")
}
