//! What goes wrong in the group, on a schedule: nodes that stop, stand still or jump, networks that are cut, and frames that nobody of the group sent.

use std::rc::Rc;

use bytes::BytesMut;

use super::{Planned, Wake, World, node_id, number};
use crate::identity::{Domain, Incarnation, NodeId, Round, Term};
use crate::protocol::{Acknowledgement, Corrections, Entry, Frame, Header, Message, Outcome, Response};
use crate::sim::recorder::Recorder;
use crate::sim::scenario::{Fault, FaultKind};
use crate::sim::topology::Network;
use crate::time::{LocalTime, Skew, Span};

/// Between two frames of an attacker.
const ATTACK_PAUSE: Span = Span::from_millis(100);

/// A fault that keeps datagrams from some of the nodes, or theirs from the others.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    pub(super) fault: &'a Fault,
    /// Its place among the faults.
    index: usize,
    /// For each node, whether the fault names it.
    is_named: Vec<bool>,
}

impl World<'_> {
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

    /// The nodes of a fault that has begun.
    fn victims(&self, index: usize) -> Vec<usize> {
        self.victims.get(index).cloned().unwrap_or_default()
    }

    pub(super) fn begin_fault(&mut self, index: usize, recorder: &mut Recorder) {
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

    pub(super) fn end_fault(&mut self, index: usize, recorder: &mut Recorder) {
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
    pub(super) fn is_active(&self, fault: &Fault) -> bool {
        self.now >= fault.at && (fault.lasting == Span::ZERO || self.now < fault.at + fault.lasting)
    }

    /// Whether partitions let a datagram through from one host to another on this network.
    pub(super) fn is_connected(&self, from: usize, to: usize, network: &Network) -> bool {
        let cuts = self.cuts.iter().filter(|cut| self.is_active(cut.fault) && is_in(cut.fault, network.domain));
        cuts.into_iter().all(|cut| cut.lets_through(from, to))
    }

    /// One frame of an attacker, to each node that the fault names.
    pub(super) fn attack(&mut self, index: usize) {
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
        let mut draw = |below: i64| {
            let below = u64::try_from(below).unwrap_or(1);
            i64::try_from(self.attacks.below(below)).unwrap_or(0)
        };
        let number = |drawn: i64| u64::try_from(drawn).unwrap_or(0);
        let kind = draw(3);
        let header = Header {
            domain: self.topology.network_of(super::number(to)).map_or(Domain::default(), |network| network.domain),
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
}

impl<'a> Cut<'a> {
    /// `None` for a fault that lets all datagrams through.
    pub(super) fn new(index: usize, fault: &'a Fault, count: usize) -> Option<Self> {
        matches!(fault.what, FaultKind::Partition | FaultKind::Mute | FaultKind::Deaf).then(|| Self {
            fault,
            index,
            is_named: vec![false; count],
        })
    }

    pub(super) fn lets_through(&self, from: usize, to: usize) -> bool {
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

/// True when a fault is one of this domain.
fn is_in(fault: &Fault, domain: Domain) -> bool {
    fault.domain.is_none_or(|number| number == domain.get())
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
