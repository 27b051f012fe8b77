//! A small network in virtual time for tests of the core: nodes with oscillators of their own, a delay, losses. Every run
//! is the same. True time counts nanoseconds from zero; no node can see it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use berkeleyd::auth::Sequence;
use berkeleyd::config::NodeConfig;
use berkeleyd::context::Event;
use berkeleyd::identity::Incarnation;
use berkeleyd::keys::KeyRing;
use berkeleyd::node::Node;
use berkeleyd::protocol::{Frame, HEADER_LEN, Message, split_trailer};
use berkeleyd::stamp::{Stamp, StampSource};
use berkeleyd::time::{LocalTime, Skew, Span, Time};
use bytes::BytesMut;

/// The group that the nodes of a [`Network`] hear.
pub fn group() -> SocketAddr {
    SocketAddr::from(([239, 255, 5, 25], 5525))
}

/// The address of the node with this index.
pub fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000 + u16::try_from(index).expect("few nodes")))
}

/// A moment of 2026, which clocks without an offset show when true time begins.
pub const START: Time = Time::from_nanos(1_790_000_000_000_000_000);

/// What is wrong with a node's clock.
#[derive(Clone, Copy, Default)]
pub struct Fault {
    pub offset: Span,
    pub drift: Skew,
}

pub struct Member {
    pub node: Node,
    fault: Fault,
    zero: i64,
    alive: bool,
    lives: u64,
    pub events: Vec<Event>,
}

impl Member {
    /// Its oscillator at a true time.
    pub fn local(&self, now: Span) -> LocalTime {
        LocalTime::from_nanos(self.zero) + now + self.fault.drift.over(now)
    }

    /// The true time at which its oscillator shows `local`, or a little later.
    fn truth(&self, local: LocalTime) -> Span {
        let shown = local - LocalTime::from_nanos(self.zero);
        shown + Skew::ZERO.relative_to(self.fault.drift).over(shown) + Span::from_micros(2)
    }

    /// The true time at which it has something to do; `None` when it does not run.
    fn due(&self) -> Option<Span> {
        Some(self.truth(self.node.poll_timeout().filter(|_| self.alive)?))
    }
}

/// Decides the fate of one datagram: how long it takes, or `None` when it is lost.
pub type Fate = Box<dyn FnMut(&mut Dice, usize, usize, &[u8]) -> Option<Span>>;

/// Changes what the node with this index says to an address.
pub type Tamper = Box<dyn FnMut(usize, SocketAddr, &mut Message<'_>)>;

/// A linear congruential generator: the same numbers on every machine.
pub struct Dice(u64);

impl Dice {
    /// A number from 0 to `below` - 1.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

pub struct Network {
    pub now: Span,
    pub members: Vec<Member>,
    pub fate: Fate,
    /// Changes what the node with this index says before it goes on its way.
    pub tamper: Tamper,
    /// What nodes that are started from now on authenticate their frames with. Who lies holds the key: what is tampered with is
    /// sealed again.
    pub keys: Option<KeyRing>,
    /// Frames leave so much later than they say; their kernels tell.
    pub departure: Span,
    /// Bytes sent to addresses at which there is no node.
    pub to_nobody: usize,
    /// Added to the incarnations, so that two networks have no life in common.
    pub era: u64,
    pub dice: Dice,
    /// On the way: arrival and a number that keeps equal ones in order, to sender, receiver and bytes.
    flying: BTreeMap<(Span, u64), (usize, usize, Vec<u8>)>,
    sequence: u64,
    pub sent: u64,
}

impl Network {
    /// A network that delivers everything after 50 µs and up to 20 µs more.
    pub fn new() -> Self {
        Self {
            now: Span::ZERO,
            members: Vec::new(),
            fate: Box::new(|dice, _, _, _| Some(Span::from_nanos(50_000 + i64::try_from(dice.roll(20_000)).unwrap()))),
            tamper: Box::new(|_, _, _| {}),
            keys: None,
            departure: Span::ZERO,
            to_nobody: 0,
            era: 0,
            dice: Dice(1),
            flying: BTreeMap::new(),
            sequence: 0,
            sent: 0,
        }
    }

    /// Starts a node now; its index is its place in `members`.
    pub fn start(&mut self, config: NodeConfig, fault: Fault) -> usize {
        let index = self.members.len();
        let incarnation = self.era + u64::try_from(index).unwrap() + 1_000;
        // Zeros lie apart, as those of machines that booted at different times do.
        let zero = i64::try_from(index).unwrap() * 1_000_000_000_000 + 5_000_000_000;
        let local = LocalTime::from_nanos(zero) + self.now + fault.drift.over(self.now);
        let mut node =
            Node::new(config, Incarnation::new(incarnation), local, START + self.now + fault.offset, Skew::ZERO);
        self.keys.iter().for_each(|keys| node.hold_keys(keys.clone()));
        self.members.push(Member { node, fault, zero, alive: true, lives: 0, events: Vec::new() });
        self.flush(index);
        index
    }

    /// The node starts again, at its old address and with its old number, in another life that knows nothing.
    pub fn restart(&mut self, index: usize, offset: Span) {
        self.restart_knowing(index, offset, Skew::ZERO);
    }

    /// The same with what its former life has learned of its oscillator.
    pub fn restart_with_state(&mut self, index: usize, offset: Span) {
        self.restart_knowing(index, offset, self.members[index].node.clock().rate());
    }

    fn restart_knowing(&mut self, index: usize, offset: Span, rate: Skew) {
        let member = &mut self.members[index];
        member.lives += 1;
        let config = member.node.config().clone();
        let incarnation = Incarnation::new(self.era + u64::try_from(index).unwrap() + 1_000 * (member.lives + 1));
        member.node = Node::new(config, incarnation, member.local(self.now), START + self.now + offset, rate);
        self.keys.iter().for_each(|keys| member.node.hold_keys(keys.clone()));
        member.alive = true;
        self.flush(index);
    }

    /// The node goes on with other settings.
    pub fn reconfigure(&mut self, index: usize, change: impl FnOnce(&mut NodeConfig)) {
        let member = &mut self.members[index];
        let mut wanted = member.node.config().clone();
        change(&mut wanted);
        let local = member.local(self.now);
        member.node.reconfigure(&wanted.validated().expect("sound settings"), local);
        self.flush(index);
    }

    /// The node's oscillator jumps; it is not told.
    pub fn jump(&mut self, index: usize, by: Span) {
        self.members[index].zero += by.as_nanos();
    }

    /// The node stops without a word.
    pub fn kill(&mut self, index: usize) {
        self.members[index].alive = false;
    }

    /// The node stops and says so.
    pub fn shut_down(&mut self, index: usize) {
        self.members[index].node.handle_shutdown();
        self.flush(index);
        self.members[index].alive = false;
    }

    /// The node's process is stopped: what arrives is lost.
    pub fn pause(&mut self, index: usize) {
        self.members[index].alive = false;
    }

    /// It goes on, and its deadlines have passed.
    pub fn wake(&mut self, index: usize) {
        self.members[index].alive = true;
        let local = self.members[index].local(self.now);
        self.members[index].node.handle_timeout(local);
        self.flush(index);
    }

    /// Hands bytes to a node as if they had come from `from`. Nobody may get more back than it has sent, but for what the node does of
    /// itself, because its time has come.
    pub fn inject(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        let local = self.members[to].local(self.now);
        let is_due = self.members[to].node.poll_timeout().is_some_and(|at| at <= local);
        self.members[to].node.handle_datagram(local, from, Stamp::user(local), bytes);
        let answered = self.flush(to).get(&from).copied().unwrap_or_default();
        assert!(
            is_due || answered <= bytes.len(),
            "{answered} bytes in answer to {}: {:?}",
            bytes.len(),
            Frame::decode(bytes).or_else(|_| Frame::decode_authenticated(bytes))
        );
    }

    /// True error of a node's disciplined clock: what it shows less true time.
    pub fn error(&self, index: usize) -> Span {
        let member = &self.members[index];
        member.node.clock().read(member.local(self.now)) - (START + self.now)
    }

    /// What a node's disciplined clock still has to gain by slewing.
    pub fn slew(&self, index: usize) -> Span {
        let member = &self.members[index];
        member.node.clock().slew(member.local(self.now))
    }

    /// Largest difference between two of these nodes' disciplined clocks.
    pub fn spread(&self, indices: impl IntoIterator<Item = usize>) -> Span {
        let errors: Vec<Span> = indices.into_iter().map(|index| self.error(index)).collect();
        errors.iter().copied().max().unwrap_or_default() - errors.iter().copied().min().unwrap_or_default()
    }

    /// Sends what a node has to send; gives the bytes for each address.
    fn flush(&mut self, index: usize) -> BTreeMap<SocketAddr, usize> {
        let (mut buffer, mut sent) = (BytesMut::new(), BTreeMap::new());
        let local = self.members[index].local(self.now);
        while let Some(transmit) = self.members[index].node.poll_transmit(local, &mut buffer) {
            self.sent += 1;
            if let Some(token) = transmit.token.filter(|_| self.departure > Span::ZERO) {
                let left = Stamp { at: local + self.departure, source: StampSource::Kernel };
                self.members[index].node.handle_transmitted(token, left);
            }
            let bytes = self.tampered(index, transmit.to, &buffer);
            *sent.entry(transmit.to).or_default() += bytes.len();
            for to in 0..self.members.len() {
                if transmit.to == group() || transmit.to == address(to) {
                    self.fly(index, to, &bytes);
                }
            }
            if transmit.to != group() && (0..self.members.len()).all(|to| transmit.to != address(to)) {
                self.to_nobody += bytes.len();
            }
        }
        while let Some(event) = self.members[index].node.poll_event() {
            self.members[index].events.push(event);
        }
        sent
    }

    /// What a node sends to an address, after it was tampered with.
    fn tampered(&mut self, index: usize, to: SocketAddr, sent: &[u8]) -> Vec<u8> {
        let trailer = split_trailer(sent).expect("nodes send legal frames").map(|(_, trailer)| trailer);
        let frame = if trailer.is_some() { Frame::decode_authenticated(sent) } else { Frame::decode(sent) };
        let mut frame = frame.expect("nodes send legal frames");
        (self.tamper)(index, to, &mut frame.message);
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        let is_changed = bytes[HEADER_LEN..] != sent[HEADER_LEN..bytes.len()];
        match (trailer, &mut self.keys) {
            (Some(trailer), Some(keys)) if is_changed => {
                keys.seal(&mut bytes, trailer.recipient, Sequence::new(trailer.sequence), None);
                bytes.to_vec()
            }
            (Some(_), _) => sent.to_vec(),
            (None, _) => bytes.to_vec(),
        }
    }

    fn fly(&mut self, from: usize, to: usize, bytes: &[u8]) {
        if let Some(delay) = (self.fate)(&mut self.dice, from, to, bytes) {
            self.sequence += 1;
            self.flying.insert((self.now + self.departure + delay, self.sequence), (from, to, bytes.to_vec()));
        }
    }

    /// Runs until this true time.
    pub fn run_until(&mut self, end: Span) {
        let mut due: Vec<Option<Span>> = self.members.iter().map(Member::due).collect();
        loop {
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let timeouts = due.iter().enumerate().filter_map(|(index, at)| Some(((*at)?.max(self.now), index)));
            let timeout = timeouts.min();
            let next = arrival.into_iter().chain(timeout.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = next;
            if arrival == Some(next) {
                let (_, (from, to, bytes)) = self.flying.pop_first().expect("an arrival");
                if self.members[to].alive {
                    self.inject(to, address(from), &bytes);
                    due[to] = self.members[to].due();
                }
            } else if let Some((_, index)) = timeout {
                let local = self.members[index].local(self.now);
                self.members[index].node.handle_timeout(local);
                let next = self.members[index].node.poll_timeout();
                assert!(next.is_none_or(|next| next > local), "a timeout that is due again at once is a busy loop");
                self.flush(index);
                due[index] = self.members[index].due();
            }
        }
    }

    pub fn run_for(&mut self, span: Span) {
        self.run_until(self.now + span);
    }
}
