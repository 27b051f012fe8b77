//! A network of nodes that hold a key, and somebody on the wire who does not: nothing that he does moves a clock.
//!
//! Three to five nodes with clocks of their own elect a master and agree. The input is what the attacker does meanwhile: frames
//! are lost, held back, sent twice, sent again much later and from elsewhere, changed, made up, and nodes are cut off,
//! stopped and restarted. What he made up or changed must be dropped for what it is, and what comes again as well. At every look these must hold:
//!
//! - each correction of a clock was computed by a master that was elected, for this life and this adjustment of the clock, and with
//!   just that amount; each at most once;
//! - in one term a node is corrected by one master, and terms never go down;
//! - a clock goes forward, but for the first correction of a life;
//! - two clocks that the same mastership has corrected lie within the sum of their published error bounds.

#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use berkeleyd::auth::Sequence;
use berkeleyd::clock::Applied;
use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::context::Event;
use berkeleyd::counters::DropReason;
use berkeleyd::identity::{Incarnation, NodeId, Round, Term};
use berkeleyd::node::Node;
use berkeleyd::protocol::{Entry, Frame, Header, Message};
use berkeleyd::time::{Skew, Span, Time};
use berkeleyd_fuzz::{Knowledge, bytes_of, choice, frame_in, header, message, ring};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

#[expect(dead_code, unreachable_pub, reason = "the tests of the crate use the rest of it")]
#[path = "../../tests/support/network.rs"]
mod network;

use network::{Fault, Network, address, group};

/// Operations of one script, and the time that all of them may take.
const OPERATIONS: usize = 200;
const END: Span = Span::from_secs(120);
/// Between two looks at the clocks while time goes on.
const LOOK: Span = Span::from_millis(50);
/// Frames that the attacker keeps, the newest of them.
const RECORDED: usize = 64;

/// What the attacker does to the frames that pass him.
#[derive(Clone, Copy, Debug, Default)]
struct Passage {
    /// So many of 256 are lost.
    loss: u8,
    /// Nothing passes between the nodes of which one is in this set and the other is not.
    cut: u8,
    /// What one node sends is held back for so long; what it receives is not.
    held_back: Option<(usize, Span)>,
}

/// One life of a master in one term. A node that starts again and hears nobody takes the terms of its former life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mastership {
    term: Term,
    master: NodeId,
    incarnation: Incarnation,
}

/// What was seen on the wire.
#[derive(Debug, Default)]
struct Wire {
    passage: Passage,
    recorded: Vec<Vec<u8>>,
    /// Of the corrections that masters sent: in which mastership and round.
    corrections: BTreeMap<(NodeId, Incarnation, u32), Vec<(Mastership, Round, Entry)>>,
}

impl Wire {
    fn saw(&mut self, bytes: &[u8]) {
        if self.recorded.last().is_some_and(|last| last == bytes) {
            // To each of the group the same.
            return;
        }
        if self.recorded.len() == RECORDED {
            self.recorded.remove(0);
        }
        self.recorded.push(bytes.to_vec());
        let frame = frame_in(bytes).expect("nodes send legal frames");
        let Header { term, sender: master, incarnation, round, .. } = frame.header;
        if let Message::Correction(corrections) = frame.message {
            for entry in corrections.entries.iter() {
                let sent = self.corrections.entry((entry.node, entry.node_incarnation, entry.adjustment)).or_default();
                sent.push((Mastership { term, master, incarnation }, round, entry));
            }
        }
    }
}

/// What is watched of one life of a node.
#[derive(Debug)]
struct Life {
    incarnation: Incarnation,
    shown: Time,
    term: Term,
    corrections: u32,
    events: usize,
    /// Who corrected it in which term.
    correctors: BTreeMap<Term, NodeId>,
    /// Who corrected it last.
    corrected_by: Option<Mastership>,
}

struct Scene {
    network: Network,
    wire: Rc<RefCell<Wire>>,
    lives: Vec<Life>,
}

impl Scene {
    fn set_up(u: &mut Unstructured<'_>) -> Result<Self> {
        let wire = Rc::new(RefCell::new(Wire::default()));
        let mut network = Network::new();
        network.keys = Some(ring(1, 1));
        let seen = Rc::clone(&wire);
        network.fate = Box::new(move |dice, from, to, bytes| {
            let mut wire = seen.borrow_mut();
            wire.saw(bytes);
            let Passage { loss, cut, held_back } = wire.passage;
            let is_inside = |node: usize| cut & (1 << node) != 0;
            let way = Span::from_nanos(50_000 + i64::try_from(dice.roll(20_000)).expect("small"));
            let held = held_back.filter(|(node, _)| *node == from).map_or(Span::ZERO, |(_, span)| span);
            let is_lost = dice.roll(256) < u64::from(loss) || is_inside(from) != is_inside(to);
            (!is_lost).then_some(way + held)
        });
        let mut scene = Self { network, wire, lives: Vec::new() };
        for index in 0..3 + usize::from(choice(u, 3)?) {
            let config = NodeConfig {
                group: Some(group()),
                priority: i32::from(u.arbitrary::<i8>()? / 64),
                preempt: choice(u, 4)? == 0,
                ..NodeConfig::new(NodeId::new(1 + u64::try_from(index).expect("few")), Role::Auto)
            };
            let fault = Fault {
                offset: Span::from_micros(i64::from(u.arbitrary::<i16>()?) * 100),
                drift: Skew::from_ppm(u.arbitrary::<i8>()?.into()),
            };
            scene.network.start(config, fault);
            let life = scene.life(index);
            scene.lives.push(life);
        }
        Ok(scene)
    }

    fn life(&self, index: usize) -> Life {
        let member = &self.network.members[index];
        Life {
            incarnation: member.node.incarnation(),
            shown: member.node.clock().read(member.local(self.network.now)),
            term: Term::default(),
            corrections: 0,
            events: member.events.len(),
            correctors: BTreeMap::new(),
            corrected_by: None,
        }
    }

    fn some_node(&self, u: &mut Unstructured<'_>) -> Result<usize> {
        Ok(usize::from(u.arbitrary::<u8>()?) % self.lives.len())
    }

    fn look(&mut self) {
        for index in 0..self.lives.len() {
            self.look_at(index);
        }
        self.compare();
    }

    fn look_at(&mut self, index: usize) {
        let wire = self.wire.borrow();
        let member = &self.network.members[index];
        let (node, life) = (&member.node, &mut self.lives[index]);
        let own = node.config().node_id;
        let mut averaged = None;
        for event in &member.events[life.events..] {
            match event {
                Event::Averaged { round, .. } => averaged = Some(*round),
                Event::Corrected { round, applied } => {
                    let is_first = life.corrections == 0;
                    let computed = wire.corrections.get(&(own, life.incarnation, life.corrections));
                    life.corrections += 1;
                    if let Applied::Stepped(_) = applied {
                        assert!(is_first, "node {own} stepped");
                        life.shown = Time::from_nanos(i64::MIN);
                    }
                    if averaged.take() == Some(*round) {
                        // Its own, as a master.
                        let own_mastership =
                            |(term, master)| Mastership { term, master, incarnation: life.incarnation };
                        life.corrected_by = node.corrected_in().map(own_mastership);
                        continue;
                    }
                    let sent = computed.and_then(|sent| sent.iter().rev().find(|(_, of, _)| of == round));
                    let Some((mastership, ..)) = sent else {
                        panic!("node {own} was corrected by what no master sent: {event:?}");
                    };
                    let Mastership { term, master, .. } = *mastership;
                    let corrector = *life.correctors.entry(term).or_insert(master);
                    assert_eq!(corrector, master, "two masters corrected node {own} in term {term}");
                    life.corrected_by = Some(*mastership);
                }
                _ => {}
            }
        }
        life.events = member.events.len();
        assert_eq!(node.clock().adjustment(), life.corrections, "node {own} was moved without a word");
        if let Some((term, master)) = node.corrected_in().filter(|(_, master)| *master != own) {
            let last = wire.corrections.get(&(own, life.incarnation, life.corrections - 1));
            let is_sent = last.is_some_and(|sent| {
                sent.iter().any(|(of, _, entry)| {
                    (of.term, of.master, entry.correction) == (term, master, node.last_correction())
                })
            });
            assert!(is_sent, "node {own} was corrected by {}, and no master sent that", node.last_correction());
        }
        let shown = node.clock().read(member.local(self.network.now));
        assert!(shown >= life.shown, "node {own} ran back by {}", life.shown - shown);
        assert!(node.term() >= life.term, "the term of node {own} went down");
        (life.shown, life.term) = (shown, node.term());
    }

    /// The clocks of each mastership lie as near to each other as they say.
    fn compare(&self) {
        let published: Vec<_> = (0..self.lives.len())
            .filter_map(|index| {
                let member = &self.network.members[index];
                let bound = member.node.clock().error_bound(member.local(self.network.now));
                Some((index, self.lives[index].corrected_by?, self.network.error(index), bound))
            })
            .collect();
        for (one, mastership, error, bound) in &published {
            for (other, others, other_error, other_bound) in &published {
                let apart = (*error - *other_error).abs();
                assert!(
                    mastership != others || apart <= *bound + *other_bound,
                    "{one} and {other} are {apart} apart, and say {bound} and {other_bound}"
                );
            }
        }
    }

    fn go_on(&mut self, time: Span) {
        let end = (self.network.now + time).min(END);
        while self.network.now < end {
            self.network.run_until((self.network.now + LOOK).min(end));
            self.look();
        }
    }

    fn recorded(&self, u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
        // The newest are the likeliest to matter.
        let age = usize::from(u.arbitrary::<u8>()?) % RECORDED;
        Ok(self.wire.borrow().recorded.iter().rev().nth(age).cloned())
    }

    /// A frame that nobody with the key has made, from what can be known of a node.
    fn forge(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (to, from) = (self.some_node(u)?, self.some_node(u)?);
        let (victim, actor) = (&self.network.members[to], &self.network.members[from]);
        let node = &victim.node;
        let known = Knowledge {
            node: node.config().node_id,
            incarnation: node.incarnation(),
            adjustment: node.clock().adjustment(),
            term: node.term(),
            round: node.round(),
            now: victim.local(self.network.now),
            t1: victim.local(self.network.now),
        };
        let (sender, life) = (actor.node.config().node_id, actor.node.incarnation());
        let header = header(u, &known, node.config().domain, sender, life)?;
        let mut entries = Vec::new();
        let frame = Frame { header, message: message(u, &known, &mut entries)? };
        let mut keys = ring(1, 2);
        let recipient = (choice(u, 2)? == 0).then_some(known.incarnation);
        let sequence = Sequence::new(actor.local(self.network.now).as_nanos().unsigned_abs());
        let seal = (choice(u, 4)? != 0).then_some((&mut keys, recipient, sequence));
        let bytes = bytes_of(&frame, seal);
        self.inject_in_vain(to, from, &bytes, DropReason::takes_no_key);
        Ok(())
    }

    /// The node drops it for one of these reasons, and that is all.
    fn inject_in_vain(&mut self, to: usize, from: usize, bytes: &[u8], may_be: fn(DropReason) -> bool) {
        let seen = |node: &Node| {
            let received: u64 = node.counters().received().map(|(_, count)| count).sum();
            let reasons = DropReason::ALL.iter().copied().filter(|reason| may_be(*reason));
            let dropped: u64 = reasons.map(|reason| node.counters().dropped(reason)).sum();
            ((node.clock().clone(), node.term(), node.master(), node.poll_timeout(), received), dropped)
        };
        let (before, dropped) = seen(&self.network.members[to].node);
        self.network.inject(to, address(from), bytes);
        let after = seen(&self.network.members[to].node);
        assert_eq!(after, (before, dropped + 1), "{:?}", frame_in(bytes));
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match choice(u, 16)? {
            0..=4 => self.go_on(Span::from_millis(u.arbitrary::<u8>()?.into()).times(4)),
            5 | 6 => {
                if let Some(bytes) = self.recorded(u)? {
                    let (to, from) = (self.some_node(u)?, self.some_node(u)?);
                    self.network.inject(to, address(from), &bytes);
                    // Whatever it was, by now it is a repetition.
                    self.inject_in_vain(to, from, &bytes, |_| true);
                }
            }
            7 => {
                if let Some(mut bytes) = self.recorded(u)? {
                    let place = usize::from(u.arbitrary::<u16>()?) % bytes.len();
                    bytes[place] ^= u.arbitrary::<u8>()?.max(1);
                    if choice(u, 4)? == 0 {
                        bytes.truncate(place);
                    }
                    let (to, from) = (self.some_node(u)?, self.some_node(u)?);
                    self.inject_in_vain(to, from, &bytes, DropReason::takes_no_key);
                }
            }
            8 | 9 => self.forge(u)?,
            10 => {
                let length = usize::from(u.arbitrary::<u8>()?).min(u.len());
                let bytes = u.bytes(length)?.to_vec();
                let (to, from) = (self.some_node(u)?, self.some_node(u)?);
                self.inject_in_vain(to, from, &bytes, DropReason::takes_no_key);
            }
            11 => self.wire.borrow_mut().passage.loss = u.arbitrary::<u8>()? / 2,
            12 => self.wire.borrow_mut().passage.cut = u.arbitrary()?,
            13 => {
                let held = Span::from_micros(u.arbitrary::<u16>()?.into()).times(20);
                let held_back = Some((self.some_node(u)?, held)).filter(|_| held > Span::ZERO);
                self.wire.borrow_mut().passage.held_back = held_back;
            }
            14 => {
                let index = self.some_node(u)?;
                let offset = Span::from_micros(i64::from(u.arbitrary::<i16>()?) * 100);
                self.look();
                self.network.restart(index, offset);
                self.lives[index] = self.life(index);
            }
            _ => {
                let index = self.some_node(u)?;
                self.network.pause(index);
                self.go_on(Span::from_millis(u.arbitrary::<u8>()?.into()).times(10));
                self.network.wake(index);
            }
        }
        self.look();
        Ok(())
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut scene = Scene::set_up(u)?;
    for _ in 0..OPERATIONS {
        if u.is_empty() || scene.network.now >= END {
            break;
        }
        scene.step(u)?;
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    // A script that ends in the middle of an operation is as good as any.
    let _ = run(&mut Unstructured::new(input));
});
