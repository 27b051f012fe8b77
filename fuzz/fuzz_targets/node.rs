//! A whole node, fed arbitrary datagrams, stamps, timeouts and losses, keeps its contract.
//!
//! The input is a script: how the node is set up, then one operation after another. After each of them what the node has to say is
//! drained, and these must hold:
//!
//! - no panic and no overflow; what it sends is legal, and in number bounded by those that it knows;
//! - after a timeout the next one lies ahead, or its driver would spin;
//! - nobody who has not answered a request is sent more bytes than it sent;
//! - the clock goes forward, but for steps that its settings allow;
//! - the clock of a slave does what a correction for this life and adjustment of it says, once, and nothing else moves it;
//! - the term never goes down, and no frame raises it by more than `TERM_LEAP` and one;
//! - there are no more members than `max_slaves`;
//! - with keys: what is forged, repeated (at once or much later) or for somebody else changes nothing at all, and what may be a
//!   recording neither clock, term, master nor members.

#![no_main]

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use berkeleyd::auth::Sequence;
use berkeleyd::average::Average;
use berkeleyd::clock::{Applied, Correction, DisciplinedClock};
use berkeleyd::config::{CorrectionPolicy, NodeConfig, Role};
use berkeleyd::context::{Event, TERM_LEAP};
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::keys::KeyRing;
use berkeleyd::node::{Node, TransmitToken};
use berkeleyd::protocol::{Entry, Frame, Message};
use berkeleyd::stamp::{Stamp, StampSource};
use berkeleyd::tiers::{Tier, Tiers};
use berkeleyd::time::{LocalTime, Skew, Span, Time, WIRE_LIMIT};
use berkeleyd_fuzz::{Knowledge, bytes_of, choice, frame_in, header, local_time, message, rate, ring, span};
use bytes::BytesMut;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Those who speak to the node; its own number lies in their middle.
const OTHERS: [u64; 6] = [1, 2, 3, 9, 10, 11];
const OWN: NodeId = NodeId::new(5);
/// The last two of the others.
const PEERS: usize = 2;
/// Operations of one script: enough to be elected, found an ensemble and lose it.
const OPERATIONS: usize = 400;
/// A local clock that would reach the limit of what frames carry is not looked at.
const END: LocalTime = LocalTime::from_nanos(WIRE_LIMIT / 2);
/// As long as a machine may sleep.
const LONGEST_PAUSE: Span = Span::from_secs(10 * 365 * 86_400);
/// A machine's clock is wrong by no more.
const PLAUSIBLE: Span = Span::from_secs(86_400);
/// About 2110: no frame carries a time that is much later.
const LATEST: Time = Time::from_nanos(4_400_000_000_000_000_000);
/// Recordings that are kept, of what the node sent and of what it was sent.
const RECORDED: usize = 32;

fn group() -> SocketAddr {
    SocketAddr::from(([239, 255, 5, 25], 5525))
}

fn address(other: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1000 + u16::try_from(other).expect("few")))
}

fn domain(tier: Tier) -> Domain {
    match tier {
        Tier::Upper => Domain::new(0),
        Tier::Lower => Domain::new(7),
    }
}

/// How a frame is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seal {
    No,
    /// By somebody alive, for this life of the node.
    ForUs,
    /// By who holds the key, for whoever hears it.
    ForAll,
    /// With a key of the right number and other bytes.
    Forged,
    /// With a number that nobody has.
    UnknownKey,
    ForAnother,
    /// As it was sealed when it was sent first.
    Old,
}

/// All that can be seen of a node.
#[derive(Debug, PartialEq)]
struct Digest {
    /// What no recording may change.
    core: (DisciplinedClock, Term, Option<NodeId>, Option<(Term, NodeId)>, String),
    rest: (Round, bool, Option<LocalTime>, String),
}

impl Digest {
    fn of(node: &Node) -> Self {
        let members = node.as_master().map(|master| {
            let members: Vec<_> = master.members().map(|member| member.peer).collect();
            (members, format!("{:?}", master.members().collect::<Vec<_>>()))
        });
        let (peers, members) = members.unwrap_or_default();
        Self {
            core: (node.clock().clone(), node.term(), node.master(), node.corrected_in(), format!("{peers:?}")),
            rest: (node.round(), node.is_candidate(), node.poll_timeout(), members),
        }
    }
}

/// What is watched of one node.
#[derive(Debug)]
struct Watch {
    shown: Time,
    corrections: u32,
    term: Term,
    /// As far as frames and elections can have raised the term.
    highest: u64,
    has_keys: bool,
    /// The sequence of the last frame that was sealed for it.
    sequence: u64,
    /// Who has sent a frame for this life of the node.
    proven: BTreeSet<(NodeId, Incarnation)>,
    t1: LocalTime,
    tokens: Vec<TransmitToken>,
    recorded: Vec<(SocketAddr, BytesMut)>,
    /// What who holds the key, if there is one, sent to this life of the node; the newest last.
    heard: VecDeque<(SocketAddr, BytesMut)>,
}

impl Watch {
    fn over(node: &Node, now: LocalTime) -> Self {
        Self {
            shown: node.clock().read(now),
            corrections: 0,
            term: node.term(),
            highest: node.term().get(),
            has_keys: node.keys().is_some(),
            sequence: 1_000_000_000,
            proven: BTreeSet::new(),
            t1: now,
            tokens: Vec::new(),
            recorded: Vec::new(),
            heard: VecDeque::new(),
        }
    }

    fn hear(&mut self, from: SocketAddr, datagram: &BytesMut) {
        if self.heard.len() == RECORDED {
            self.heard.pop_front();
        }
        self.heard.push_back((from, datagram.clone()));
    }
}

/// What a node sent after one input.
#[derive(Debug, Default)]
struct Sent {
    frames: usize,
    /// Bytes to where the input came from.
    back: usize,
}

struct Stage {
    tiers: Tiers,
    now: LocalTime,
    upper: Option<Watch>,
    lower: Watch,
    lives: u64,
    incarnations: [u64; OTHERS.len()],
}

impl Stage {
    fn set_up(u: &mut Unstructured<'_>) -> Result<Self> {
        let kind = choice(u, 4)?;
        let [has_keys, has_peers, has_group, preempt, is_reference, allow_step] = {
            let flags: u8 = u.arbitrary()?;
            [0, 1, 2, 3, 4, 5].map(|bit| flags & (1 << bit) != 0)
        };
        let max_correction = match choice(u, 3)? {
            0 => None,
            1 => Some(Span::from_millis(1)),
            _ => Some(Span::from_nanos(WIRE_LIMIT - 1)),
        };
        let max_slew = if choice(u, 2)? == 0 { Skew::from_ppm(500) } else { Skew::MAX };
        let peers = [OTHERS.len() - PEERS, OTHERS.len() - 1].map(address).to_vec();
        let role = [Role::Master, Role::Slave, Role::Auto, Role::Master][usize::from(kind)];
        let lower = NodeConfig {
            domain: domain(Tier::Lower),
            upper: (kind == 3).then(|| domain(Tier::Upper)),
            preempt,
            is_reference,
            priority: i32::from(u.arbitrary::<i8>()?),
            group: (has_group || !has_peers).then(group),
            peers: if has_peers { peers } else { Vec::new() },
            average: [Average::FaultTolerant, Average::Mean, Average::Midpoint, Average::Weighted]
                [usize::from(choice(u, 4)?)],
            quorum: 1 + usize::from(choice(u, 3)?),
            max_slaves: [16_384, 1, 2, 4][usize::from(choice(u, 4)?)],
            policy: CorrectionPolicy { max_slew, allow_step, max_correction, ..CorrectionPolicy::default() },
            ..NodeConfig::new(OWN, role)
        };
        let upper = NodeConfig {
            domain: domain(Tier::Upper),
            upper: None,
            role: Role::Auto,
            is_reference: false,
            ..lower.clone()
        };
        let now = LocalTime::from_nanos(1_000_000_000_000);
        let time = [Time::from_nanos(1_790_000_000_000_000_000), Time::default()][usize::from(choice(u, 2)?)];
        let time = time + span(u)?;
        let rate = rate(u)?;
        let node = |config: NodeConfig| {
            let config = config.validated().expect("settings that go together");
            let mut node = Node::new(config, Incarnation::new(1_000), now, time, rate);
            if has_keys {
                node.hold_keys(ring(1, 1));
            }
            node
        };
        let tiers = match kind {
            3 => Tiers::submaster(node(upper), node(lower)),
            _ => node(lower).into(),
        };
        Ok(Self {
            now,
            upper: tiers.upper().map(|node| Watch::over(node, now)),
            lower: Watch::over(tiers.lower(), now),
            tiers,
            lives: 1_000,
            incarnations: [77; OTHERS.len()],
        })
    }

    fn tier(&self, u: &mut Unstructured<'_>) -> Result<Tier> {
        Ok(if self.upper.is_some() && choice(u, 2)? == 0 { Tier::Upper } else { Tier::Lower })
    }

    fn node(&self, tier: Tier) -> &Node {
        self.tiers.node(tier).expect("only tiers that are there")
    }

    fn watch(&mut self, tier: Tier) -> &mut Watch {
        match tier {
            Tier::Upper => self.upper.as_mut().expect("only tiers that are there"),
            Tier::Lower => &mut self.lower,
        }
    }

    fn knowledge(&mut self, tier: Tier) -> Knowledge {
        let (now, t1) = (self.now, self.watch(tier).t1);
        let node = self.node(tier);
        Knowledge {
            node: OWN,
            incarnation: node.incarnation(),
            adjustment: node.clock().adjustment(),
            term: node.term(),
            round: node.round(),
            now,
            t1,
        }
    }

    /// What the node has to say; `from`: where its last input came from.
    fn drain(&mut self, from: Option<(Tier, SocketAddr)>) -> Sent {
        let (mut sent, mut buffer) = (Sent::default(), BytesMut::new());
        let known: usize = self.tiers.iter().map(|(_, node)| Self::known(node)).sum();
        while let Some((tier, transmit)) = self.tiers.poll_transmit(self.now, &mut buffer) {
            sent.frames += 1;
            assert!(sent.frames <= 8 * known, "{} frames, and it knows {known}", sent.frames);
            if from == Some((tier, transmit.to)) {
                sent.back += buffer.len();
            }
            let Some(frame) = frame_in(&buffer) else {
                panic!("an illegal frame: {:?} {buffer:02x?}", Frame::decode(&buffer));
            };
            let t1 = if let Message::Request(request) = frame.message { Some(request.t1) } else { None };
            let watch = self.watch(tier);
            watch.t1 = t1.unwrap_or(watch.t1);
            assert_eq!(Frame::decode(&buffer).is_err(), watch.has_keys, "sealed if and only if it has keys");
            watch.tokens.extend(transmit.token);
            if watch.recorded.len() < RECORDED {
                watch.recorded.push((transmit.to, buffer.clone()));
            }
        }
        let mut events = 0;
        while let Some((tier, event)) = self.tiers.poll_event() {
            events += 1;
            assert!(events <= 16 * known, "{events} events, and it knows {known}");
            if let Event::Corrected { applied, .. } | Event::Led { applied } = event {
                let allow_step = self.node(tier).config().policy.allow_step;
                let shown = self.node(tier).clock().read(self.now);
                let watch = self.watch(tier);
                watch.corrections += 1;
                if let Applied::Stepped(_) = applied {
                    assert!(allow_step || watch.corrections == 1, "a step where it is not allowed");
                    watch.shown = shown;
                }
            }
        }
        for tier in [Tier::Upper, Tier::Lower] {
            let Some(node) = self.tiers.node(tier) else { continue };
            let (shown, term, next) = (node.clock().read(self.now), node.term(), node.poll_timeout());
            let members = node.as_master().map_or(0, |master| master.members().count());
            assert!(members <= node.config().max_slaves);
            let (corrections, now) = (node.clock().adjustment(), self.now);
            let watch = self.watch(tier);
            assert!(shown >= watch.shown, "{tier:?} ran back by {}", watch.shown - shown);
            assert!(term >= watch.term, "the term went down");
            assert!(term.get() <= watch.highest, "term {term}, and {} is all that could be", watch.highest);
            assert_eq!(corrections, watch.corrections, "a correction that nobody was told of");
            assert!(next.is_none_or(|next| next < now + Span::from_secs(3_600)), "it sleeps for ever");
            (watch.shown, watch.term) = (shown, term);
        }
        sent
    }

    /// How many others it knows, and a few for those it does not.
    fn known(node: &Node) -> usize {
        let members = node.as_master().map_or(0, |master| master.members().count());
        members + node.config().peers.len() + 4
    }

    fn raise(&mut self, by: u64) {
        self.lower.highest += by;
        if let Some(upper) = &mut self.upper {
            upper.highest += by;
        }
    }

    fn time_out(&mut self) {
        self.raise(1);
        self.tiers.handle_timeout(self.now);
        let next = self.tiers.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "a timeout that is due again at once is a busy loop");
        self.drain(None);
    }

    fn deliver(&mut self, tier: Tier, from: SocketAddr, stamp: Stamp, datagram: &[u8], seal: Seal) {
        if self.upper.is_some() {
            // What time alone changes between two tiers has then happened.
            self.tiers.handle_datagram(tier, self.now, from, stamp, &[]);
            self.drain(None);
        }
        let is_due = self.tiers.poll_timeout().is_some_and(|next| next <= self.now);
        let before = Digest::of(self.node(tier));
        let has_keys = self.watch(tier).has_keys;
        let is_proven = frame_in(datagram).is_some_and(|frame| {
            let life = (frame.header.sender, frame.header.incarnation);
            self.watch(tier).proven.contains(&life)
        });
        let node = self.node(tier);
        let is_known = from == group()
            || node.config().peers.contains(&from)
            || node.as_master().is_some_and(|master| master.members().any(|member| member.peer.address == from));
        let slave = Some(node).filter(|node| node.as_master().is_none()).map(|node| node.clock().clone());
        self.raise(TERM_LEAP + 1);
        self.tiers.handle_datagram(tier, self.now, from, stamp, datagram);
        let sent = self.drain(Some((tier, from)));
        let node = self.node(tier);
        if let Some(before) = slave.filter(|before| node.as_master().is_none() && before != node.clock()) {
            assert_eq!(Some(node.clock()), self.corrected(tier, before, datagram).as_ref());
        }
        assert!(is_known || sent.back <= datagram.len(), "{} bytes for {}", sent.back, datagram.len());
        if !has_keys {
            return;
        }
        let after = Digest::of(self.node(tier));
        match seal {
            Seal::ForUs => {}
            Seal::ForAll if is_proven || is_due => {}
            Seal::ForAll => assert_eq!(after.core, before.core, "a recording moved something"),
            Seal::No | Seal::Forged | Seal::UnknownKey | Seal::ForAnother | Seal::Old => {
                assert_eq!(after, before, "{seal:?}");
                assert_eq!(sent.frames, 0, "{seal:?} was answered");
            }
        }
    }

    /// The clock of a slave after a correction, by what that says; `None`: it says nothing to this clock.
    fn corrected(&self, tier: Tier, mut clock: DisciplinedClock, datagram: &[u8]) -> Option<DisciplinedClock> {
        let Message::Correction(corrections) = frame_in(datagram)?.message else {
            return None;
        };
        let own = (OWN, self.node(tier).incarnation(), clock.adjustment());
        let of_own = |entry: &Entry| (entry.node, entry.node_incarnation, entry.adjustment) == own;
        let entry = corrections.entries.iter().find(of_own)?;
        let correction = Correction::from(&entry);
        clock.correct(correction, self.now).ok()?;
        Some(clock)
    }

    fn pause(u: &mut Unstructured<'_>) -> Result<Span> {
        Ok(span(u)?.abs().min(LONGEST_PAUSE))
    }

    fn stamp(u: &mut Unstructured<'_>, known: &Knowledge) -> Result<Stamp> {
        let source = *u.choose(&[StampSource::User, StampSource::Kernel, StampSource::Hardware])?;
        Ok(Stamp { at: local_time(u, known)?, source })
    }

    fn speak(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let tier = self.tier(u)?;
        let known = self.knowledge(tier);
        let other = usize::from(choice(u, 6)?);
        let seal = match choice(u, 12)? {
            0 => Seal::No,
            1 => Seal::Forged,
            2 => Seal::UnknownKey,
            3 => Seal::ForAnother,
            4 => Seal::Old,
            5 | 6 => Seal::ForAll,
            _ if self.watch(tier).has_keys => Seal::ForUs,
            _ => Seal::No,
        };
        let stamp = Self::stamp(u, &known)?;
        if choice(u, 8)? == 0 {
            // A restarted other, or one that is where another was.
            self.incarnations[other] = 1 + u64::from(choice(u, 8)?);
        }
        let sender = if choice(u, 16)? == 0 { OWN } else { NodeId::new(OTHERS[other]) };
        let life = Incarnation::new(self.incarnations[other]);
        let from = address(if choice(u, 16)? == 0 { 0 } else { other });
        if seal == Seal::Old {
            let recorded = self.watch(tier).recorded.get(usize::from(choice(u, 32)?)).cloned();
            if let Some((_, bytes)) = recorded {
                self.deliver(tier, from, stamp, &bytes, seal);
            }
            return Ok(());
        }
        let header = header(u, &known, domain(tier), sender, life)?;
        let mut entries = Vec::new();
        let frame = Frame { header, message: message(u, &known, &mut entries)? };
        let own = self.node(tier).incarnation();
        let watch = self.watch(tier);
        watch.sequence += 1_000_000 * (1 + u64::from(choice(u, 32)?));
        let sequence = Sequence::new(watch.sequence);
        let (mut right, mut forged, mut unknown) = (ring(1, 1), ring(1, 2), ring(3, 1));
        let (keys, recipient): (&mut KeyRing, _) = match seal {
            Seal::No | Seal::Old => {
                let bytes = bytes_of(&frame, None);
                let watch = self.watch(tier);
                if !watch.has_keys {
                    watch.hear(from, &bytes);
                }
                self.deliver(tier, from, stamp, &bytes, seal);
                return Ok(());
            }
            Seal::ForUs => (&mut right, Some(own)),
            Seal::ForAll => (&mut right, None),
            Seal::Forged => (&mut forged, Some(own)),
            Seal::UnknownKey => (&mut unknown, Some(own)),
            Seal::ForAnother => (&mut right, Some(Incarnation::new(own.get() + 1))),
        };
        let bytes = bytes_of(&frame, Some((keys, recipient, sequence)));
        self.deliver(tier, from, stamp, &bytes, seal);
        let watch = self.watch(tier);
        if seal == Seal::ForUs {
            watch.proven.insert((sender, life));
        }
        if matches!(seal, Seal::ForUs | Seal::ForAll) && watch.has_keys {
            watch.hear(from, &bytes);
            // Once more: it was accepted, or it is not for us.
            self.deliver(tier, from, stamp, &bytes, Seal::Old);
        }
        Ok(())
    }

    fn restart(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        self.lives += 1;
        let time = self.tiers.clock().read(self.now) + span(u)?.clamp(Span::ZERO - PLAUSIBLE, PLAUSIBLE);
        let incarnation = Incarnation::new(self.lives);
        self.tiers.restart(incarnation, self.now, time);
        for tier in [Tier::Upper, Tier::Lower] {
            let Some(node) = self.tiers.node(tier) else { continue };
            let afresh = Watch::over(node, self.now);
            let watch = self.watch(tier);
            // Others go on, and what was sent to the former life can still be recorded and acknowledged.
            let (sequence, tokens, recorded) =
                (watch.sequence, std::mem::take(&mut watch.tokens), std::mem::take(&mut watch.recorded));
            *watch = Watch { sequence, tokens, recorded, ..afresh };
        }
        self.drain(None);
        Ok(())
    }

    /// One operation; false when the node has stopped.
    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<bool> {
        match choice(u, 16)? {
            0 => {
                let tier = self.tier(u)?;
                let known = self.knowledge(tier);
                let from = address(usize::from(choice(u, 6)?));
                let stamp = Self::stamp(u, &known)?;
                let length = usize::from(u.arbitrary::<u16>()?).min(u.len());
                self.deliver(tier, from, stamp, u.bytes(length)?, Seal::No);
            }
            1..=6 => self.speak(u)?,
            7..=9 => {
                // In time.
                self.now = self.tiers.poll_timeout().unwrap_or(self.now).max(self.now);
                self.time_out();
            }
            10 => self.time_out(),
            11 => {
                self.now = self.tiers.poll_timeout().unwrap_or(self.now).max(self.now) + Self::pause(u)?;
                self.time_out();
            }
            12 => self.now = self.now + Self::pause(u)?,
            13 => {
                let tier = self.tier(u)?;
                let known = self.knowledge(tier);
                let stamp = Self::stamp(u, &known)?;
                let before = Digest::of(self.node(tier)).core;
                if let Some(token) = self.watch(tier).tokens.pop() {
                    self.tiers.handle_transmitted(tier, token, stamp);
                }
                self.drain(None);
                assert_eq!(Digest::of(self.node(tier)).core, before, "a stamp moved something");
            }
            14 => match choice(u, 3)? {
                0 => self.restart(u)?,
                1 => {
                    let tier = self.tier(u)?;
                    // Keys are read again; who had none gets none, or its members would be what nobody has proved.
                    if self.watch(tier).has_keys {
                        self.tiers.hold_keys(tier, ring(1, 1));
                    }
                }
                _ => {
                    self.tiers.handle_shutdown();
                    self.drain(None);
                    return Ok(false);
                }
            },
            _ => {
                // Its own frames come back to it, or what it has heard before.
                let tier = self.tier(u)?;
                let (is_own, age) = (choice(u, 2)? == 0, usize::from(choice(u, 32)?));
                let watch = self.watch(tier);
                let recorded = if is_own { watch.recorded.get(age) } else { watch.heard.iter().rev().nth(age) };
                if let Some((from, bytes)) = recorded.cloned() {
                    self.deliver(tier, from, Stamp::user(self.now), &bytes, Seal::Old);
                }
            }
        }
        Ok(self.now < END && self.tiers.iter().all(|(_, node)| node.clock().target(self.now) < LATEST))
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut stage = Stage::set_up(u)?;
    stage.drain(None);
    for _ in 0..OPERATIONS {
        if u.is_empty() || !stage.step(u)? {
            break;
        }
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    // A script that ends in the middle of an operation is as good as any.
    let _ = run(&mut Unstructured::new(input));
});
