//! Slaves that share a thread: each with its own state machine, socket and clock, driven as `event_loop.rs` drives one.
//!
//! Only the first of them opens the group; what is heard there is handed to each with the stamp that the kernel gave it, see the
//! header of `fleet.rs`.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::context::Event;
use berkeleyd::counters::DropReason;
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::keys::KeyRing;
use berkeleyd::local_clock::LocalClock;
use berkeleyd::net::{Addresses, Flushed, Notice, ROOM, Received, Sockets, Timestamping};
use berkeleyd::node::{Node, Transmit, TransmitToken};
use berkeleyd::protocol::{Frame, MAX_FRAME_LEN, Message};
use berkeleyd::stamp::Stamp;
use berkeleyd::time::{LocalTime, Skew, Span};
use berkeleyd::timers::Timers;
use bytes::BytesMut;
use mio::{Events, Poll, Registry, Token};

use crate::look::{Look, Reading};

/// The group's socket; the slaves' own have the tokens above.
const EAR: Token = Token(0);
/// Readiness reports taken at once, before deadlines have their turn.
const EVENTS: usize = 256;
/// Datagrams of the group taken at once: each goes to every slave.
const AT_ONCE: usize = 64;
/// Between two looks at all clocks.
pub(crate) const LOOK_PAUSE: Span = Span::from_millis(250);

/// What all crews have in common.
#[derive(Debug)]
pub(crate) struct Orders {
    /// Where the slaves are.
    pub(crate) bind: Ipv4Addr,
    pub(crate) group: SocketAddr,
    pub(crate) domain: Domain,
    pub(crate) interval: Span,
    pub(crate) keys: Option<KeyRing>,
    /// When the first slave starts, on the machine's oscillator; looks are counted from there.
    pub(crate) origin: LocalTime,
    /// From the start of one slave to that of the next.
    pub(crate) start_pause: Span,
}

/// What is said between the crews and their commander while they run.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub(crate) stop: AtomicBool,
    /// Slaves that have been corrected.
    pub(crate) corrected: AtomicUsize,
}

/// What a crew has seen.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// How many slaves were corrected in each round.
    pub(crate) rounds: BTreeMap<(Term, Round), usize>,
    /// By number: the n-th is due n pauses after the origin.
    pub(crate) looks: BTreeMap<i64, Look>,
    pub(crate) send_errors: u64,
    pub(crate) unreachable: u64,
    /// Datagrams that slaves dropped, by reason.
    pub(crate) dropped: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Slave {
    node: Node,
    clock: LocalClock,
    sockets: Sockets<TransmitToken>,
}

impl Slave {
    /// Opens the socket, and the group's if it is the `first`. Its clock starts wrong by up to a second, and drifts by up to 100 ppm.
    fn start(orders: &Orders, number: u64, is_first: bool) -> Result<Self, String> {
        let addresses = Addresses {
            bind: SocketAddr::new(orders.bind.into(), 0),
            group: is_first.then_some(orders.group),
            interface: None,
        };
        let sockets = Sockets::open(&addresses, Timestamping::Auto).map_err(|error| error.to_string())?;
        // Two primes, so that neighbours differ and neither follows the other.
        let place = i64::try_from(number).unwrap_or_default();
        let (offset, drift) =
            (Span::from_millis(place * 7_919 % 2_001 - 1_000), Skew::from_ppm(place * 104_729 % 201 - 100));
        let clock = LocalClock::new(drift).map_err(|error| error.to_string())?;
        let incarnation = Incarnation::drawn(getrandom::u64().map_err(|error| error.to_string())?);
        let config = NodeConfig {
            domain: orders.domain,
            group: Some(orders.group),
            interval: orders.interval,
            min_interval: orders.interval.min(Span::from_millis(125)),
            max_interval: orders.interval,
            ..NodeConfig::new(NodeId::new(number), Role::Slave)
        };
        let config = config.validated().map_err(|error| error.to_string())?;
        let now = clock.pair();
        let mut node = Node::new(config, incarnation, now.local, now.system + offset, Skew::ZERO);
        if let Some(keys) = &orders.keys {
            node.hold_keys(keys.clone());
        }
        Ok(Self { node, clock, sockets })
    }

    /// Sends what was posted; what the system does not take is lost. Tells how many datagrams that were.
    fn send(&mut self, registry: &Registry) -> u64 {
        let mut lost = 0;
        loop {
            match self.sockets.flush(registry, &self.clock) {
                Flushed::All => return lost,
                Flushed::Failed { .. } => lost += 1,
                Flushed::Blocked => return lost + self.sockets.discard(registry),
            }
        }
    }

    /// Where its clock stands when the machine's oscillator shows `instant`; `None` before its first correction.
    fn reading(&self, instant: LocalTime) -> Option<Reading> {
        let (clock, local) = (self.node.clock(), self.clock.at(instant));
        clock
            .is_corrected()
            .then(|| Reading { lead: clock.read(local).ahead_of(instant), bound: clock.error_bound(local) })
    }
}

/// Some of the fleet's slaves, in a thread.
#[derive(Debug)]
pub(crate) struct Crew<'a> {
    orders: &'a Orders,
    signals: &'a Signals,
    /// Numbers of slaves that have still to start, the next one last.
    ashore: Vec<u64>,
    slaves: Vec<Slave>,
    poll: Poll,
    /// The machine's oscillator. Everything here that is no slave's goes by it.
    oscillator: LocalClock,
    timers: Timers<usize>,
    next_look: i64,
    ear_has_more: bool,
    /// The newest round in which somebody was corrected.
    newest: (Term, Round),
    buffer: BytesMut,
    /// A datagram of the group.
    heard: Vec<u8>,
    log: Log,
}

impl<'a> Crew<'a> {
    /// A crew of the slaves with these numbers, which start in their order.
    pub(crate) fn new(
        orders: &'a Orders,
        signals: &'a Signals,
        numbers: impl Iterator<Item = u64>,
    ) -> io::Result<Self> {
        let mut ashore: Vec<u64> = numbers.collect();
        ashore.reverse();
        Ok(Self {
            orders,
            signals,
            slaves: Vec::with_capacity(ashore.len()),
            ashore,
            poll: Poll::new()?,
            oscillator: LocalClock::new(Skew::ZERO)?,
            timers: Timers::default(),
            next_look: 0,
            ear_has_more: false,
            newest: (Term::default(), Round::default()),
            buffer: BytesMut::with_capacity(MAX_FRAME_LEN),
            heard: Vec::with_capacity(ROOM),
            log: Log::default(),
        })
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// The system refuses a socket or to wait.
    pub(crate) fn run(mut self) -> Result<Log, String> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.signals.stop.load(Ordering::Relaxed) {
            self.start_due()?;
            self.look_when_due();
            self.wake_due();
            let wait = if self.ear_has_more { Span::ZERO } else { self.next_deadline() - self.oscillator.now() };
            match self.poll.poll(&mut events, Some(wait.to_std())) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => result.map_err(|error| error.to_string())?,
            }
            for event in &events {
                match event.token().0.checked_sub(EAR.0 + 1) {
                    None => self.ear_has_more = true,
                    Some(index) => self.serve(index, event.is_error())?,
                }
            }
            if self.ear_has_more {
                self.ear_has_more = self.hear_group()?;
            }
        }
        for slave in &self.slaves {
            for reason in DropReason::ALL {
                *self.log.dropped.entry(reason.name()).or_default() += slave.node.counters().dropped(*reason);
            }
        }
        Ok(self.log)
    }

    /// When the slave with this number starts.
    fn start_of(&self, number: u64) -> LocalTime {
        self.orders.origin + self.orders.start_pause.times(i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn look_due_at(&self) -> LocalTime {
        self.orders.origin + LOOK_PAUSE.times(self.next_look)
    }

    fn next_deadline(&self) -> LocalTime {
        let start = self.ashore.last().map(|number| self.start_of(*number));
        start.into_iter().chain(self.timers.next()).fold(self.look_due_at(), LocalTime::min)
    }

    fn start_due(&mut self) -> Result<(), String> {
        while let Some(number) =
            self.ashore.last().copied().filter(|number| self.start_of(*number) <= self.oscillator.now())
        {
            self.ashore.pop();
            let index = self.slaves.len();
            let mut slave = Slave::start(self.orders, number, index == 0)?;
            let registered = slave.sockets.register(self.poll.registry(), Token(EAR.0 + 1 + index), EAR);
            registered.map_err(|error| error.to_string())?;
            self.slaves.push(slave);
            self.set_timer(index);
        }
        Ok(())
    }

    /// Notes where all clocks stand at the instant at which the look is due, on all crews the same one. Asked for before each datagram: a
    /// correction that was applied since would show its line, and its bound, where neither held yet.
    fn look_when_due(&mut self) {
        let instant = self.look_due_at();
        if self.oscillator.now() < instant {
            return;
        }
        let mut look = Look::after(self.newest);
        self.slaves.iter().filter_map(|slave| slave.reading(instant)).for_each(|reading| look.add(reading));
        self.log.looks.insert(self.next_look, look);
        self.next_look += 1;
    }

    fn wake_due(&mut self) {
        let now = self.oscillator.now();
        while let Some(index) = self.timers.pop_due(now) {
            if let Some(slave) = self.slaves.get_mut(index) {
                let now = slave.clock.now();
                // It may have been put off, or the slave's clock be slow.
                if slave.node.poll_timeout().is_some_and(|deadline| deadline <= now) {
                    slave.node.handle_timeout(now);
                }
            }
            self.flush(index);
        }
    }

    /// Has the slave looked after when its deadline comes. One that was put off is noticed when it would have been due.
    fn set_timer(&mut self, index: usize) {
        let Some(slave) = self.slaves.get(index) else {
            return;
        };
        if let Some(deadline) = slave.node.poll_timeout() {
            // At least a tick, so that a slow clock's deadline is not looked at again within one call.
            let wait = (deadline - slave.clock.now()).max(Span::from_micros(1));
            self.timers.hasten(index, self.oscillator.now() + wait);
        }
    }

    /// Takes what has arrived at a slave's own socket.
    fn serve(&mut self, index: usize, has_notices: bool) -> Result<(), String> {
        if has_notices {
            self.take_notices(index);
            if let Some(slave) = self.slaves.get_mut(index) {
                let watched = slave.sockets.watch_again(self.poll.registry());
                watched.map_err(|error| error.to_string())?;
            }
        }
        loop {
            self.look_when_due();
            let Some(slave) = self.slaves.get_mut(index) else {
                break;
            };
            match slave.sockets.receive(Token(EAR.0 + 1 + index), self.poll.registry(), &slave.clock) {
                Ok(Received::Drained) => break,
                Ok(Received::Unreachable(_)) => {}
                Ok(Received::Datagram { bytes, from, at, .. }) => {
                    slave.node.handle_datagram(slave.clock.now(), from, at, bytes);
                    self.flush(index);
                }
                Err(error) => return Err(format!("cannot receive: {error}")),
            }
        }
        Ok(())
    }

    /// Hands datagrams of the group to every slave. True when there may be more.
    fn hear_group(&mut self) -> Result<bool, String> {
        for _ in 0..AT_ONCE {
            let Some(first) = self.slaves.first_mut() else {
                return Ok(false);
            };
            match first.sockets.receive(EAR, self.poll.registry(), &self.oscillator) {
                Ok(Received::Drained) => return Ok(false),
                Ok(Received::Unreachable(_)) => {}
                Ok(Received::Datagram { bytes, from, at, .. }) => {
                    if !is_join(bytes, self.orders.keys.is_some()) {
                        self.heard.clear();
                        self.heard.extend_from_slice(bytes);
                        self.hand_round(from, at);
                    }
                }
                Err(error) => return Err(format!("cannot hear the group: {error}")),
            }
        }
        Ok(true)
    }

    /// Hands what was heard last to every slave.
    fn hand_round(&mut self, from: SocketAddr, at: Stamp) {
        for index in 0..self.slaves.len() {
            self.look_when_due();
            if let Some(slave) = self.slaves.get_mut(index) {
                let stamp = Stamp { at: slave.clock.at(at.at), ..at };
                slave.node.handle_datagram(slave.clock.now(), from, stamp, &self.heard);
            }
            self.flush(index);
        }
    }

    /// Sends what the slave has to send, and notes its corrections.
    fn flush(&mut self, index: usize) {
        if let Some(slave) = self.slaves.get_mut(index) {
            loop {
                let now = slave.clock.now();
                let Some(Transmit { to, token }) = slave.node.poll_transmit(now, &mut self.buffer) else {
                    break;
                };
                slave.sockets.post(to, &self.buffer, now, token);
                if !slave.sockets.has_room() {
                    self.log.send_errors += slave.send(self.poll.registry());
                }
            }
            if slave.sockets.has_posted() {
                self.log.send_errors += slave.send(self.poll.registry());
            }
            if slave.sockets.awaits_notice() {
                self.take_notices(index);
            }
        }
        while let Some(slave) = self.slaves.get_mut(index) {
            match slave.node.poll_event() {
                None => break,
                Some(Event::Corrected { round, .. }) => {
                    let round = (slave.node.term(), round);
                    *self.log.rounds.entry(round).or_default() += 1;
                    self.newest = self.newest.max(round);
                    if slave.node.clock().adjustment() == 1 {
                        self.signals.corrected.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Some(_) => {}
            }
        }
        self.set_timer(index);
    }

    /// Tells a slave when its datagrams left.
    fn take_notices(&mut self, index: usize) {
        while let Some(slave) = self.slaves.get_mut(index) {
            match slave.sockets.notice(&slave.clock) {
                Ok(Notice::Left { token, at }) => slave.node.handle_transmitted(token, at),
                Ok(Notice::Unreachable(_)) => self.log.unreachable += 1,
                Ok(Notice::Other) => {}
                // It will be reported again if there is more.
                Ok(Notice::Drained) | Err(_) => return,
            }
        }
    }
}

/// True for what slaves of a fixed role have no use for.
fn is_join(bytes: &[u8], is_authenticated: bool) -> bool {
    let frame = if is_authenticated { Frame::decode_authenticated(bytes) } else { Frame::decode(bytes) };
    matches!(frame, Ok(Frame { message: Message::Join(_), .. }))
}
