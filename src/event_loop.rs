//! The event loop: mio's readiness, the node's deadlines, signals. It drives a [`Node`] and decides nothing.
//!
//! One thread. It sleeps until a datagram, a status client, a signal or the node's next deadline; there is no
//! other timer. Nothing is concluded from when it woke: deadlines are rounded up to a millisecond, and only stamps say when
//! something happened. A datagram that cannot be sent is counted; the loop goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration as StdDuration;

use bytes::BytesMut;
use log::{Level, debug, info, log, warn};
use mio::{Events, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::auth::AuthError;
use crate::clock::Applied;
use crate::context::Event;
use crate::departures::Notice;
use crate::identity::Incarnation;
use crate::local_clock::{Continuity, LocalClock};
use crate::net::{Received, Sockets};
use crate::node::{Node, Transmit, TransmitToken};
use crate::protocol::MAX_FRAME_LEN;
use crate::state_dir::StateDir;
use crate::status::{DriverStatus, PrivilegeStatus, Status};
use crate::status_socket::{StatusListener, StatusSocket};
use crate::system_clock::{SystemClock, SystemClockError, Target};
use crate::time::{LocalTime, Skew, Span, Time};
use crate::timers::Throttle;

const MAIN: Token = Token(0);
const GROUP: Token = Token(1);
const SIGNALS: Token = Token(2);
/// The listener's; its clients have the tokens above.
const STATUS: Token = Token(3);

/// Readiness reports taken at once; more come with the next call.
const EVENTS: usize = 64;
/// Datagrams, or notices of what was sent, taken from one socket before deadlines, signals and status clients have their turn: some 100 µs of work.
const AT_ONCE: usize = 64;
/// At most one warning of a kind in this time: no datagram decides how much we log.
const WARNING_PAUSE: Span = Span::from_secs(60);
/// At most one of those who are not authentic is named in this time, ...
const NAMING_PAUSE: Span = Span::from_secs(15);
/// ... and at most so many ever: enough for the misconfigured, and no more than that for an attacker.
const STRANGERS: usize = 64;
/// The system clock is compared with its mapping this often, so that a slew ends within so much of its end.
const STEERING_PAUSE: Span = Span::from_millis(250);

/// The drift is kept after so much time, when it is known well, ...
const FIRST_SAVE: Span = Span::from_secs(60);
/// ... and then this often: a crash loses what the temperature has done in the meantime.
const SAVING_PAUSE: Span = Span::from_secs(600);

/// A node on real sockets.
#[expect(missing_debug_implementations, reason = "the signals' type has none")]
pub struct EventLoop {
    poll: Poll,
    sockets: Sockets<TransmitToken>,
    signals: Signals,
    status_socket: Option<StatusSocket>,
    privileges: PrivilegeStatus,
    clock: LocalClock,
    continuity: Continuity,
    system_clock: Option<Steered>,
    drift: Option<Drift>,
    node: Node,
    buffer: BytesMut,
    datagram: Vec<u8>,
    has_more: HasMore,
    send_errors: u64,
    unreachable: u64,
    wake_ups: u64,
    /// When something of a kind was logged last.
    logged: BTreeMap<&'static str, LocalTime>,
    /// Who was named as not authentic, and why.
    strangers: BTreeSet<(IpAddr, AuthError)>,
    naming: Throttle,
}

/// What was reported readable and has not been emptied yet.
#[derive(Clone, Copy, Debug, Default)]
struct HasMore {
    main: bool,
    group: bool,
    /// What the kernel says of datagrams sent earlier.
    notices: bool,
}

/// The system's clock, when it is ours to steer.
#[derive(Debug)]
struct Steered {
    clock: SystemClock,
    next: LocalTime,
    /// A step that the node's clock has made and the system's has not.
    step: Option<Span>,
}

/// Where the oscillator's rate is kept for the next life, and when.
#[derive(Debug)]
struct Drift {
    state_dir: StateDir,
    next: LocalTime,
}

/// From here on SIGTERM and SIGINT wait for [`EventLoop::run`].
///
/// # Errors
/// The system refuses.
pub fn stop_signals() -> io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT])
}

impl EventLoop {
    /// Puts a node on its sockets. `signals` end it, see [`stop_signals`]. `system_clock` is given when the machine's own clock
    /// shall follow the node's.
    ///
    /// # Errors
    /// The system refuses to watch the sockets or signals.
    pub fn new(
        node: Node,
        mut sockets: Sockets<TransmitToken>,
        clock: LocalClock,
        system_clock: Option<SystemClock>,
        mut signals: Signals,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        sockets.register(poll.registry(), MAIN, GROUP)?;
        poll.registry().register(&mut signals, SIGNALS, mio::Interest::READABLE)?;
        let next = clock.now();
        Ok(Self {
            poll,
            sockets,
            signals,
            status_socket: None,
            privileges: PrivilegeStatus::default(),
            clock,
            continuity: Continuity::new(),
            system_clock: system_clock.map(|clock| Steered { clock, next, step: None }),
            drift: None,
            node,
            buffer: BytesMut::with_capacity(MAX_FRAME_LEN),
            // One byte more than a frame may have, so that a longer datagram is seen to be longer.
            datagram: vec![0; MAX_FRAME_LEN + 1],
            has_more: HasMore::default(),
            send_errors: 0,
            unreachable: 0,
            wake_ups: 0,
            logged: BTreeMap::new(),
            strangers: BTreeSet::new(),
            naming: Throttle::default(),
        })
    }

    /// Shows the node's status, `privileges` in it, to whoever connects.
    ///
    /// # Errors
    /// The system refuses to watch the socket.
    pub fn show_status_at(&mut self, listener: StatusListener, privileges: PrivilegeStatus) -> io::Result<()> {
        self.status_socket = Some(StatusSocket::new(listener, self.poll.registry(), STATUS)?);
        self.privileges = privileges;
        Ok(())
    }

    /// Keeps the oscillator's rate in a directory, now and then and at the end.
    pub fn keep_drift_in(&mut self, state_dir: StateDir) {
        self.drift = Some(Drift { state_dir, next: self.clock.now() + FIRST_SAVE });
    }

    /// Runs until SIGTERM or SIGINT; then the node says goodbye.
    ///
    /// # Errors
    /// The system cannot wait for events any more.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.flush();
            match self.poll.poll(&mut events, self.timeout()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => result?,
            }
            self.wake_ups += 1;
            self.check_continuity();
            for event in &events {
                match event.token() {
                    MAIN => {
                        self.has_more.main = true;
                        if event.is_error() {
                            self.has_more.notices = true;
                            self.sockets.watch_again(self.poll.registry(), MAIN)?;
                        }
                    }
                    GROUP => self.has_more.group = true,
                    SIGNALS => {
                        if let Some(signal) = self.signals.pending().next() {
                            info!("stopping signal={signal}");
                            self.node.handle_shutdown();
                            self.flush();
                            self.save_drift();
                            return Ok(());
                        }
                    }
                    token => self.serve_status(token),
                }
            }
            if self.has_more.notices {
                self.has_more.notices = self.take_notices();
            }
            if self.has_more.main {
                self.has_more.main = self.receive(MAIN);
            }
            if self.has_more.group {
                self.has_more.group = self.receive(GROUP);
            }
            let now = self.clock.now();
            if self.node.poll_timeout().is_some_and(|deadline| deadline <= now) {
                self.node.handle_timeout(now);
            }
            self.steer_system_clock(now);
            if self.drift.as_ref().is_some_and(|drift| drift.next <= now) {
                self.save_drift();
            }
        }
    }

    /// Starts the node afresh when the local clock has missed time.
    fn check_continuity(&mut self) {
        let Some(found) = self.continuity.look(&self.clock) else {
            return;
        };
        // The system's clock is told by the kernel how long the machine slept; a virtual one has to reckon.
        let pair = self.clock.pair();
        let time = match self.system_clock {
            Some(_) => pair.system,
            None => self.node.clock().read(found.before) + found.passed,
        };
        let kind = if found.missed.is_forward() { "stood still" } else { "leapt" };
        warn!("the local clock {kind} for {}: starting afresh", found.missed.abs());
        self.restart(pair.local, time);
    }

    /// Begins a new life of the node.
    fn restart(&mut self, now: LocalTime, time: Time) {
        if let Some(steered) = &mut self.system_clock {
            steered.step = None;
            if let Err(error) = steered.clock.let_go() {
                self.warn_rarely("steer", &error.to_string());
            }
        }
        match getrandom::u64() {
            Ok(drawn) => self.node.restart(Incarnation::drawn(drawn), now, time),
            Err(error) => self.warn_rarely("random", &format!("cannot start afresh: {error}")),
        }
    }

    /// Keeps the rate, if it is known.
    fn save_drift(&mut self) {
        let now = self.clock.now();
        let Some(drift) = &mut self.drift else {
            return;
        };
        drift.next = now + SAVING_PAUSE;
        if !self.node.is_synchronised(now) {
            return;
        }
        if let Err(error) = drift.state_dir.save_drift(self.node.clock().rate()) {
            self.warn_rarely("drift", &format!("the drift is not kept: {error}"));
        }
    }

    /// How long to sleep; `None`: until something arrives. Not at all while a socket has not been emptied: readiness is
    /// reported only once.
    fn timeout(&self) -> Option<StdDuration> {
        if self.has_more.main || self.has_more.group || self.has_more.notices {
            return Some(StdDuration::ZERO);
        }
        let steering = self.system_clock.as_ref().map(|steered| steered.next);
        let deadline = self.node.poll_timeout().into_iter().chain(steering).min()?;
        Some((deadline - self.clock.now()).to_std())
    }

    /// Takes datagrams until the socket is empty, or [`AT_ONCE`] of them: a flood must not keep the node from its
    /// deadlines. Each is answered before the next is taken, so that its answer's turnaround is short. True when there may be more.
    fn receive(&mut self, token: Token) -> bool {
        for _ in 0..AT_ONCE {
            match self.sockets.receive(token, &self.clock, &mut self.datagram) {
                Ok(Received::Drained) => return false,
                // There is a notice of it, which is counted.
                Ok(Received::Unreachable(_)) => {}
                Ok(Received::Datagram { len, from, at }) => {
                    let datagram = self.datagram.get(..len).unwrap_or_default();
                    self.node.handle_datagram(self.clock.now(), from, at, datagram);
                    self.flush();
                }
                Err(error) => {
                    self.warn_rarely("receive", &format!("cannot receive: {error}"));
                    return false;
                }
            }
        }
        true
    }

    /// Takes what the kernel has to say of datagrams sent earlier until that is all, or [`AT_ONCE`]. True when there may be more.
    fn take_notices(&mut self) -> bool {
        for _ in 0..AT_ONCE {
            match self.sockets.notice(&self.clock) {
                Ok(Notice::Drained) => return false,
                Ok(Notice::Left { token, at }) => self.node.handle_transmitted(token, at),
                Ok(Notice::Unreachable(error)) => {
                    self.unreachable += 1;
                    debug!("unreachable: {error}");
                }
                Ok(Notice::Other) => {}
                Err(error) => {
                    self.warn_rarely("notice", &format!("cannot read what became of what was sent: {error}"));
                    return false;
                }
            }
            if !self.sockets.awaits_notice() && !self.has_more.notices {
                return false;
            }
        }
        true
    }

    /// Sends what the node has to send and logs what it has to tell.
    fn flush(&mut self) {
        loop {
            let now = self.clock.now();
            let Some(transmit) = self.node.poll_transmit(now, &mut self.buffer) else {
                break;
            };
            let Transmit { to, token } = transmit;
            if let Err(error) = self.sockets.send(to, &self.buffer, now, token) {
                self.send_errors += 1;
                self.warn_rarely("send", &format!("cannot send to {to}: {error}"));
            }
            // Most often the datagram has left by now, and its stamp is there. If not, the socket will report it.
            if self.sockets.awaits_notice() {
                self.has_more.notices |= self.take_notices();
            }
        }
        while let Some(event) = self.node.poll_event() {
            if let (Event::Corrected { applied, .. }, Some(steered)) = (&event, &mut self.system_clock) {
                steered.next = self.clock.now();
                if let Applied::Stepped(step) = applied {
                    steered.step = Some(*step);
                }
            }
            self.log(&event);
        }
    }

    /// Makes the system's clock follow, if it is ours and its time has come.
    fn steer_system_clock(&mut self, now: LocalTime) {
        let Some(steered) = self.system_clock.as_mut().filter(|steered| steered.next <= now) else {
            return;
        };
        let pair = self.clock.pair();
        let clock = self.node.clock();
        if !clock.is_corrected() {
            // Until the first correction the system's clock is left alone.
            steered.next = now + STEERING_PAUSE;
            return;
        }
        let time = clock.read(pair.local);
        let gained = clock.read(pair.local + STEERING_PAUSE) - time;
        let target = Target { time, rate: Skew::from_spans(gained, STEERING_PAUSE), lasting_rate: clock.rate() };
        let result = steered.clock.follow(pair, target, steered.step.take());
        steered.next = now + STEERING_PAUSE;
        match result {
            Ok(_) => {}
            Err(error @ SystemClockError::SetByOthers { .. }) => {
                warn!("{error}: starting afresh");
                self.restart(pair.local, pair.system);
            }
            Err(error) => self.warn_rarely("steer", &format!("cannot steer the system clock: {error}")),
        }
    }

    fn serve_status(&mut self, token: Token) {
        let Some(socket) = self.status_socket.as_mut().filter(|socket| socket.owns(token)) else {
            return;
        };
        let pair = self.clock.pair();
        let driver = DriverStatus {
            address: self.sockets.local_addr().to_string(),
            timestamping: self.sockets.stamps(),
            clock_kind: if self.system_clock.is_some() { "system" } else { "virtual" },
            system: pair.system,
            disciplined: self.node.clock().read(pair.local),
            uncertainty: pair.uncertainty,
            privileges: self.privileges.clone(),
            send_errors: self.send_errors,
            unreachable: self.unreachable,
            wake_ups: self.wake_ups,
        };
        let status = Status::new(&self.node, pair.local, driver);
        socket.serve(self.poll.registry(), || {
            // A status of plain numbers and texts always has a JSON form.
            let mut text = serde_json::to_vec(&status).unwrap_or_default();
            text.push(b'\n');
            text
        });
    }

    /// Logs what may come with every datagram: aloud once in [`WARNING_PAUSE`] for each kind, else for who debugs.
    fn log_rarely(&mut self, kind: &'static str, level: Level, text: &str) {
        let now = self.clock.now();
        let is_due = self.logged.get(kind).is_none_or(|last| now - *last >= WARNING_PAUSE);
        if is_due {
            self.logged.insert(kind, now);
        }
        log!(if is_due { level } else { Level::Debug }, "{text}");
    }

    /// Names who is not authentic, and why, once each. Whoever makes up addresses makes us neither log nor remember more.
    fn name_stranger(&mut self, from: SocketAddr, error: AuthError) {
        let stranger = (from.ip(), error);
        let is_new = self.strangers.len() < STRANGERS && !self.strangers.contains(&stranger);
        if is_new && self.naming.admits(self.clock.now(), NAMING_PAUSE) {
            self.strangers.insert(stranger);
            warn!("dropped what is {error} from={from}");
        } else {
            debug!("dropped what is {error} from={from}");
        }
    }

    fn warn_rarely(&mut self, kind: &'static str, text: &str) {
        self.log_rarely(kind, Level::Warn, text);
    }

    fn log(&mut self, event: &Event) {
        match event {
            Event::Following { master, address, term } => info!("following master={master} at={address} term={term}"),
            Event::MasterLost { master, resigned: true } => info!("master resigned master={master}: holdover"),
            Event::MasterLost { master, resigned: false } => warn!("master silent master={master}: holdover"),
            Event::Claimed { term } => info!("claiming term={term}"),
            Event::ClaimDropped { reason } => info!("not elected: {reason}"),
            Event::MasterOutOfReach { master, heard_at } => {
                let text = format!(
                    "cannot hear the master that others hear node={master} heard at={heard_at}: a link that carries one way, or nodes \
                     whose --peer lists do not name each other"
                );
                self.warn_rarely("out of reach", &text);
            }
            Event::SteppedDown { term, successor, reason } => {
                let successor = successor.map_or_else(|| "nobody".to_owned(), |node| node.to_string());
                warn!("stepping down from term={term}: {reason}; next={successor}");
            }
            Event::Quorum { is_reached: false, heard } => warn!("below quorum heard={heard}: holdover"),
            Event::Quorum { is_reached: true, heard } => info!("quorum reached heard={heard}"),
            Event::TermTaken { term } => info!("master term={term}"),
            Event::Joined { node, address } => info!("joined node={node} at={address}"),
            Event::Left { node, resigned: true } => info!("left node={node}"),
            Event::Left { node, resigned: false } => info!("forgotten after long silence node={node}"),
            Event::Silent { node } => warn!("silent node={node}"),
            Event::Returned { node } => info!("answers again node={node}"),
            Event::Standing { node, left_out: None } => info!("counted node={node}"),
            Event::Standing { node, left_out: Some(reason) } => info!("left out node={node} reason={reason}"),
            Event::Paced { pause } => debug!("rounds from now on every={pause}"),
            Event::LocalClockJumped { node } => warn!("local clock jumped, measuring afresh node={node}"),
            Event::RefusedBySlave { node, correction } => {
                self.warn_rarely(
                    "slave refused",
                    &format!(
                        "a slave refused its correction, and says why in its log node={node} correction={correction}"
                    ),
                );
            }
            Event::DuplicateNodeId { node, address } => {
                self.warn_rarely("duplicate", &format!("node number {node} is used twice, also at {address}"));
            }
            Event::OtherMaster { node, address } => {
                self.warn_rarely("master", &format!("another master in this domain node={node} at={address}"));
            }
            Event::TableFull { address } => {
                self.warn_rarely("table", &format!("no room for another slave (--max-slaves) at={address}"));
            }
            Event::Corrected { round, applied: Applied::Stepped(step) } => info!("stepped by={step} round={round}"),
            Event::Corrected { round, applied: Applied::Slewed(slew) } => debug!("slewing by={slew} round={round}"),
            Event::Refused { master, correction, objection } => {
                let text = format!("refused a correction of {correction} from master={master}: {objection}");
                self.log_rarely("refused", Level::Error, &text);
            }
            Event::Averaged { round, counted, read, correction } => {
                debug!("averaged round={round} counted={counted} of={read} correction={correction}");
            }
            Event::NotAuthentic { from, error } => self.name_stranger(*from, *error),
            Event::Dropped { reason, from } => {
                debug!("dropped reason={} from={from}", reason.name());
            }
        }
    }
}
