//! The event loop: mio's readiness, the nodes' deadlines, signals. It drives the node of this process, or on a submaster the two of them
//! ([`Tiers`]), each on its own sockets, and decides nothing.
//!
//! One thread. It sleeps until a datagram, a status client, a signal or the node's next deadline; there is no
//! other timer. Nothing is concluded from when it woke: deadlines are rounded up to a millisecond, and only stamps say when
//! something happened. A datagram that cannot be sent is counted; the loop goes on.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration as StdDuration;

use bytes::BytesMut;
use log::{Level, debug, error, info, warn};
use mio::{Events, Poll, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::clock::Applied;
use crate::config::NodeConfig;
use crate::context::Event;
use crate::event_log::{Line, line, loudness, tell_reloaded, text};
use crate::failure::one_line;
use crate::identity::Incarnation;
use crate::key_file::KeyFile;
use crate::local_clock::{Continuity, LocalClock, Pair};
use crate::log_allowance::LogAllowance;
use crate::log_output;
use crate::net::{Flushed, Notice, RECEIVE_BUFFER, ROOM, Received, Sockets};
use crate::node::{Transmit, TransmitToken};
use crate::protocol::MAX_FRAME_LEN;
use crate::service_manager::ServiceManager;
use crate::sources::LiveSettings;
use crate::state_dir::StateDir;
use crate::status::{DriverStatus, PrivilegeStatus, Standing, Status, UpperStatus};
use crate::status_socket::{StatusListener, StatusSocket};
use crate::system_clock::{SystemClock, SystemClockError, Target};
use crate::tiers::{Tier, Tiers};
use crate::time::{LocalTime, Skew, Span, Time};

const SIGNALS: Token = Token(4);
/// The listener's; its clients have the tokens above.
const STATUS: Token = Token(5);

/// Readiness reports taken at once; more come with the next call.
const EVENTS: usize = 64;
/// Datagrams, or notices of what was sent, taken from one socket before deadlines, signals and status clients have their turn: some 100 µs of work.
const AT_ONCE: usize = 64;
/// What the system has no room for waits so long at most: fifty times what an interface of 1 Gbit/s takes for a socket's buffer full of short datagrams.
/// One that needs longer stands still, and what it would send late is of no use.
const BLOCKED: Span = Span::from_millis(20);
/// The system clock is compared with its mapping this often, so that a slew ends within so much of its end.
const STEERING_PAUSE: Span = Span::from_millis(250);

/// The drift is kept after so much time, when it is known well, ...
const FIRST_SAVE: Span = Span::from_secs(60);
/// ... and then this often: a crash loses what the temperature has done in the meantime.
const SAVING_PAUSE: Span = Span::from_secs(600);

// A datagram that was cut is still too long.
const _: () = assert!(ROOM > MAX_FRAME_LEN);

/// The nodes of this process on real sockets.
#[expect(missing_debug_implementations, reason = "the signals' type has none")]
pub struct EventLoop {
    poll: Poll,
    ports: BTreeMap<Tier, Port>,
    signals: Signals,
    status_socket: Option<StatusSocket>,
    /// Status clients were reported and not all served yet.
    has_clients: bool,
    privileges: PrivilegeStatus,
    clock: LocalClock,
    continuity: Continuity,
    system_clock: Option<Steered>,
    drift: Option<Drift>,
    service_manager: Option<ServiceManager>,
    /// What it was told last of how the node stands.
    told: Option<Standing>,
    /// Those that can be read again.
    settings: Option<LiveSettings>,
    key_files: BTreeMap<Tier, KeyFile>,
    tiers: Tiers,
    buffer: BytesMut,
    wake_ups: u64,
    allowance: LogAllowance,
}

/// Where one of the nodes meets the network.
#[derive(Debug)]
struct Port {
    sockets: Sockets<TransmitToken>,
    main: Token,
    group: Token,
    has_more: HasMore,
    /// Since when the system has no room for what is to be sent.
    blocked_since: Option<LocalTime>,
    send_errors: u64,
    unreachable: u64,
    /// The log has told that datagrams were lost because a socket's buffer was full.
    has_told_drops: bool,
}

impl Port {
    fn new(tier: Tier, sockets: Sockets<TransmitToken>) -> Self {
        let (main, group) = match tier {
            Tier::Upper => (Token(0), Token(1)),
            Tier::Lower => (Token(2), Token(3)),
        };
        let has_more = HasMore::default();
        Self {
            sockets,
            main,
            group,
            has_more,
            blocked_since: None,
            send_errors: 0,
            unreachable: 0,
            has_told_drops: false,
        }
    }

    /// Takes note of what was reported for one of its sockets.
    fn is_ready(&mut self, registry: &Registry, event: &mio::event::Event) -> io::Result<()> {
        if event.token() == self.group {
            self.has_more.group = true;
            return Ok(());
        }
        self.has_more.main = true;
        if event.is_error() {
            self.has_more.notices = true;
            self.sockets.watch_again(registry)?;
        }
        Ok(())
    }
}

/// What was reported readable and has not been emptied yet.
#[derive(Clone, Copy, Debug, Default)]
struct HasMore {
    main: bool,
    group: bool,
    /// What the kernel says of datagrams sent earlier.
    notices: bool,
}

impl HasMore {
    fn any(self) -> bool {
        self.main || self.group || self.notices
    }
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

/// From here on SIGTERM, SIGINT and SIGHUP wait for [`EventLoop::run`].
///
/// # Errors
/// The system refuses.
pub fn signals() -> io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGHUP])
}

impl EventLoop {
    /// Puts each node on its sockets. `signals`: see [`signals`]. `system_clock` is given when the machine's own clock
    /// shall follow the nodes'.
    ///
    /// # Errors
    /// The system refuses to watch the sockets or signals.
    pub fn new(
        tiers: Tiers,
        sockets: impl IntoIterator<Item = (Tier, Sockets<TransmitToken>)>,
        clock: LocalClock,
        system_clock: Option<SystemClock>,
        mut signals: Signals,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut ports = BTreeMap::new();
        for (tier, sockets) in sockets {
            let mut port = Port::new(tier, sockets);
            port.sockets.register(poll.registry(), port.main, port.group)?;
            ports.insert(tier, port);
        }
        poll.registry().register(&mut signals, SIGNALS, mio::Interest::READABLE)?;
        let next = clock.now();
        Ok(Self {
            poll,
            ports,
            signals,
            status_socket: None,
            has_clients: false,
            privileges: PrivilegeStatus::default(),
            clock,
            continuity: Continuity::new(),
            system_clock: system_clock.map(|clock| Steered { clock, next, step: None }),
            drift: None,
            service_manager: None,
            told: None,
            settings: None,
            key_files: BTreeMap::new(),
            tiers,
            buffer: BytesMut::with_capacity(MAX_FRAME_LEN),
            wake_ups: 0,
            allowance: LogAllowance::default(),
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

    /// Tells the service manager what becomes of the node.
    pub fn report_to(&mut self, service_manager: ServiceManager) {
        self.service_manager = Some(service_manager);
    }

    /// Authenticates what a node sends and hears, with the keys in a file that is read again on SIGHUP.
    pub fn authenticate_with(&mut self, tier: Tier, file: KeyFile) {
        let ids: Vec<String> = file.keys.keys().map(|(id, _)| id.to_string()).collect();
        self.log_line(tier, Level::Info, || Line::new("authenticating with").with("keys", text(ids.join(","))));
        self.tiers.hold_keys(tier, file.keys.clone());
        self.key_files.insert(tier, file);
    }

    /// Reads the settings again on SIGHUP.
    pub fn reload_from(&mut self, settings: LiveSettings) {
        self.settings = Some(settings);
    }

    /// Reads settings and keys again.
    fn reload(&mut self) {
        if let Some(manager) = &self.service_manager {
            manager.reloads();
        }
        if self.settings.is_none() && self.key_files.is_empty() {
            info!("SIGHUP: there is no configuration file and no key file to read again");
        }
        self.reload_settings();
        self.reload_keys();
        if let Some(manager) = &self.service_manager {
            manager.is_ready();
        }
    }

    /// Takes over what a running node can of the settings that are in the file now. A file that has become wrong changes nothing.
    fn reload_settings(&mut self) {
        let Some(settings) = &mut self.settings else {
            return;
        };
        match settings.read_again() {
            Ok(reloaded) => {
                tell_reloaded(&reloaded);
                let (config, now) = (settings.config(), self.clock.now());
                log_output::set_level(config.log_level);
                let above = config.upper.as_ref().map(|(draft, _)| (Tier::Upper, draft));
                for (tier, draft) in above.into_iter().chain([(Tier::Lower, &config.node)]) {
                    self.tiers.reconfigure(tier, draft.config(), now);
                }
            }
            Err(mistakes) => {
                mistakes.iter().for_each(|mistake| error!("the settings stay as they were: {}", one_line(mistake)));
            }
        }
    }

    /// Takes the keys that are in the files now. A file that has become wrong changes nothing.
    fn reload_keys(&mut self) {
        for (tier, file) in std::mem::take(&mut self.key_files) {
            match file.reload() {
                Ok(file) => self.authenticate_with(tier, file),
                Err(error) => {
                    error!("the keys stay as they were: {error}");
                    self.key_files.insert(tier, file);
                }
            }
        }
    }

    /// Runs until SIGTERM or SIGINT; then the node says goodbye. On SIGHUP it reads its settings and keys again.
    ///
    /// # Errors
    /// The system cannot wait for events any more.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        for (tier, node) in self.tiers.iter() {
            let NodeConfig { node_id, role, domain, .. } = node.config();
            let at = self.ports.get(&tier).map_or_else(String::new, |port| port.sockets.local_addr().to_string());
            info!(node = node_id.get(), role:? = role, at, domain = domain.get(), clock = self.clock_kind(); "started");
        }
        if let Some(manager) = &self.service_manager {
            manager.is_ready();
        }
        loop {
            self.flush();
            self.report();
            match self.poll.poll(&mut events, self.timeout()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => result?,
            }
            self.wake_ups += 1;
            self.check_continuity();
            for event in &events {
                match event.token() {
                    SIGNALS => {
                        let signals: Vec<i32> = self.signals.pending().collect();
                        if let Some(signal) = signals.iter().find(|signal| **signal != SIGHUP) {
                            info!(signal; "stopping");
                            if let Some(manager) = &self.service_manager {
                                manager.stops();
                            }
                            self.tiers.handle_shutdown();
                            self.flush();
                            self.save_drift();
                            return Ok(());
                        }
                        if !signals.is_empty() {
                            self.reload();
                        }
                    }
                    token => match self.ports.values_mut().find(|port| [port.main, port.group].contains(&token)) {
                        Some(port) => port.is_ready(self.poll.registry(), event)?,
                        None => {
                            self.has_clients |= self.status_socket.as_ref().is_some_and(|socket| socket.owns(token))
                        }
                    },
                }
            }
            if self.is_blocked() {
                // A node is told nothing before all is sent that it had to say.
                continue;
            }
            for tier in [Tier::Upper, Tier::Lower] {
                self.serve_port(tier);
            }
            let now = self.clock.now();
            let is_due = |socket: &StatusSocket| socket.poll_timeout().is_some_and(|deadline| deadline <= now);
            if self.has_clients || self.status_socket.as_ref().is_some_and(is_due) {
                self.has_clients = self.serve_status();
            }
            let now = self.clock.now();
            if self.tiers.poll_timeout().is_some_and(|deadline| deadline <= now) {
                self.tiers.handle_timeout(now);
            }
            self.steer_system_clock(now);
            if self.drift.as_ref().is_some_and(|drift| drift.next <= now) {
                self.save_drift();
            }
        }
    }

    /// Tells the service manager that the loop runs, when that is due, and how the node stands, when that is new.
    fn report(&mut self) {
        let Some(manager) = &mut self.service_manager else {
            return;
        };
        let now = self.clock.now();
        manager.handle_timeout(now);
        let standing = Standing::of(self.tiers.lower(), now);
        if self.told.replace(standing) != Some(standing) {
            manager.stands(&standing.to_string());
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
            None => self.tiers.clock().read(found.before) + found.passed,
        };
        let kind = if found.missed.is_forward() { "stood still" } else { "leapt" };
        warn!("the local clock {kind} for {}: starting afresh", found.missed.abs());
        self.restart(pair.local, time);
    }

    /// Begins a new life of the nodes.
    fn restart(&mut self, now: LocalTime, time: Time) {
        if let Some(steered) = &mut self.system_clock {
            steered.step = None;
            if let Err(error) = steered.clock.let_go() {
                self.warn_rarely(Tier::Lower, "steer", error.to_string());
            }
        }
        match getrandom::u64() {
            Ok(drawn) => self.tiers.restart(Incarnation::drawn(drawn), now, time),
            Err(error) => self.warn_rarely(Tier::Lower, "random", format!("cannot start afresh: {error}")),
        }
    }

    /// Keeps the rate, if it is known.
    fn save_drift(&mut self) {
        let now = self.clock.now();
        let Some(drift) = &mut self.drift else {
            return;
        };
        drift.next = now + SAVING_PAUSE;
        if !self.tiers.lower().is_synchronised(now) {
            return;
        }
        if let Err(error) = drift.state_dir.save_drift(self.tiers.clock().rate()) {
            self.warn_rarely(Tier::Lower, "drift", format!("the drift is not kept: {error}"));
        }
    }

    /// How long to sleep; `None`: until something arrives. Not at all while a socket has not been emptied: readiness is
    /// reported only once.
    fn timeout(&self) -> Option<StdDuration> {
        let blocked = self.ports.values().filter(|port| port.sockets.is_blocked());
        if let Some(since) = blocked.filter_map(|port| port.blocked_since).min() {
            return Some((since + BLOCKED - self.clock.now()).to_std());
        }
        if self.has_clients || self.ports.values().any(|port| port.has_more.any()) {
            return Some(StdDuration::ZERO);
        }
        let steering = self.system_clock.as_ref().map(|steered| steered.next);
        let sign_of_life = self.service_manager.as_ref().and_then(ServiceManager::poll_timeout);
        let clients = self.status_socket.as_ref().and_then(StatusSocket::poll_timeout);
        let deadline =
            self.tiers.poll_timeout().into_iter().chain(steering).chain(sign_of_life).chain(clients).min()?;
        Some((deadline - self.clock.now()).to_std())
    }

    /// Takes what was reported at a port.
    fn serve_port(&mut self, tier: Tier) {
        let Some(Port { main, group, has_more, .. }) = self.ports.get(&tier) else {
            return;
        };
        let (main, group, has_more) = (*main, *group, *has_more);
        if has_more.notices {
            self.take_notices(tier);
        }
        if has_more.main {
            let main = self.receive(tier, main);
            self.note(tier, |has_more| has_more.main = main);
        }
        if has_more.group && !self.is_blocked() {
            let group = self.receive(tier, group);
            self.note(tier, |has_more| has_more.group = group);
        }
        self.tell_drops(tier);
    }

    fn note(&mut self, tier: Tier, note: impl FnOnce(&mut HasMore)) {
        if let Some(port) = self.ports.get_mut(&tier) {
            note(&mut port.has_more);
        }
    }

    /// Takes datagrams until the socket is empty, or [`AT_ONCE`] of them: a flood must not keep the node from its
    /// deadlines. Those that arrived together are answered together. True when there may be more.
    fn receive(&mut self, tier: Tier, token: Token) -> bool {
        let mut read_last = None;
        for _ in 0..AT_ONCE {
            let Some(port) = self.ports.get_mut(&tier) else {
                return false;
            };
            match port.sockets.receive(token, self.poll.registry(), &self.clock) {
                Ok(Received::Drained) => return false,
                // There is a notice of it, which is counted.
                Ok(Received::Unreachable(_)) => {}
                Ok(Received::Datagram { bytes, from, at, is_last }) => {
                    let now = read_last.take().unwrap_or_else(|| self.clock.now());
                    self.tiers.handle_datagram(tier, now, from, at, bytes);
                    read_last = self.drain(now);
                    if is_last {
                        self.send();
                        read_last = None;
                    }
                    if self.is_blocked() {
                        return true;
                    }
                }
                Err(error) => {
                    self.warn_rarely(tier, "receive", format!("cannot receive: {error}"));
                    return false;
                }
            }
        }
        self.send();
        true
    }

    /// Says once that datagrams were lost, and what helps.
    fn tell_drops(&mut self, tier: Tier) {
        let Some(port) = self.ports.get_mut(&tier) else {
            return;
        };
        let drops = port.sockets.drops();
        if drops == 0 || std::mem::replace(&mut port.has_told_drops, true) {
            return;
        }
        let why = match port.sockets.receive_buffer() {
            // Of what it gives it tells twice.
            Ok(bytes) if bytes < 2 * RECEIVE_BUFFER => {
                let given = bytes / 2;
                format!("of {RECEIVE_BUFFER} bytes it was given {given}; raise the setting net.core.rmem_max")
            }
            Ok(_) | Err(_) => "more arrived than this node could take in time".to_owned(),
        };
        let text = format!("datagrams were lost ({drops} so far) because the socket's buffer was full: {why}");
        self.log_line(tier, Level::Warn, || Line::new(text));
    }

    /// Takes what the kernel has to say of datagrams sent earlier until that is all, or [`AT_ONCE`], and notes whether there may be more.
    fn take_notices(&mut self, tier: Tier) {
        for _ in 0..AT_ONCE {
            let Some(port) = self.ports.get_mut(&tier) else {
                return;
            };
            match port.sockets.notice(&self.clock) {
                Ok(Notice::Drained) => return port.has_more.notices = false,
                Ok(Notice::Left { token, at }) => self.tiers.handle_transmitted(tier, token, at),
                Ok(Notice::Unreachable(error)) => {
                    port.unreachable += 1;
                    debug!("unreachable: {error}");
                }
                Ok(Notice::Other) => {}
                Err(error) => {
                    port.has_more.notices = false;
                    let text = format!("cannot read what became of what was sent: {error}");
                    return self.warn_rarely(tier, "notice", text);
                }
            }
            if !port.has_more.notices && !port.sockets.awaits_notice() {
                return;
            }
        }
        self.note(tier, |has_more| has_more.notices = true);
    }

    /// True while the system has no room for what the nodes have to send.
    fn is_blocked(&self) -> bool {
        self.ports.values().any(|port| port.sockets.is_blocked())
    }

    /// Sends what the nodes have to send and logs what they have to tell.
    fn flush(&mut self) {
        // What waited for room goes first.
        self.send();
        self.drain(self.clock.now());
        self.send();
    }

    /// Takes what the nodes have to send, in batches, and logs what they have to tell. `now` was read at most a microsecond ago.
    /// Gives the clock's reading after the last was taken, if any was.
    fn drain(&mut self, mut now: LocalTime) -> Option<LocalTime> {
        let mut read_last = None;
        while !self.is_blocked() {
            let Some((tier, Transmit { to, token })) = self.tiers.poll_transmit(now, &mut self.buffer) else {
                break;
            };
            let Some(port) = self.ports.get_mut(&tier) else {
                continue;
            };
            port.sockets.post(to, &self.buffer, now, token);
            if !port.sockets.has_room() {
                self.send_from(tier);
            }
            now = self.clock.now();
            read_last = Some(now);
        }
        while let Some((tier, event)) = self.tiers.poll_event() {
            if let (Tier::Lower, Event::Corrected { applied, .. } | Event::Led { applied }, Some(steered)) =
                (tier, &event, &mut self.system_clock)
            {
                steered.next = self.clock.now();
                if let Applied::Stepped(step) = applied {
                    steered.step = Some(*step);
                }
            }
            self.log(tier, &event);
        }
        read_last
    }

    /// Sends what was taken from the nodes.
    fn send(&mut self) {
        for tier in [Tier::Upper, Tier::Lower] {
            self.send_from(tier);
        }
    }

    /// Sends what was taken from the node of one tier. What the system has no room for waits, but not for long.
    fn send_from(&mut self, tier: Tier) {
        let mut has_tried = false;
        while let Some(port) = self.ports.get_mut(&tier).filter(|port| port.sockets.has_posted()) {
            has_tried = true;
            match port.sockets.flush(self.poll.registry(), &self.clock) {
                Flushed::All => port.blocked_since = None,
                Flushed::Failed { to, error } => {
                    port.send_errors += 1;
                    self.warn_rarely(tier, "send", format!("cannot send to {to}: {error}"));
                }
                Flushed::Blocked => {
                    let now = self.clock.now();
                    if now - *port.blocked_since.get_or_insert(now) < BLOCKED {
                        break;
                    }
                    // What comes next is tried, but not waited for until something can be sent again.
                    let lost = port.sockets.discard(self.poll.registry());
                    port.send_errors += lost;
                    self.warn_rarely(tier, "blocked", format!("{lost} datagrams could not be sent within {BLOCKED}"));
                }
            }
        }
        // Most often the datagrams have left by now, and their stamps are there. If not, the socket will report them.
        if has_tried && self.ports.get(&tier).is_some_and(|port| port.sockets.awaits_notice()) {
            self.take_notices(tier);
        }
    }

    /// Makes the system's clock follow, if it is ours and its time has come.
    fn steer_system_clock(&mut self, now: LocalTime) {
        let Some(steered) = self.system_clock.as_mut().filter(|steered| steered.next <= now) else {
            return;
        };
        let pair = self.clock.pair();
        let clock = self.tiers.clock();
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
            Err(error) => self.warn_rarely(Tier::Lower, "steer", format!("cannot steer the system clock: {error}")),
        }
    }

    /// Shows the status to some of those who want to see it. True when there may be more.
    fn serve_status(&mut self) -> bool {
        let Some(mut socket) = self.status_socket.take() else {
            return false;
        };
        let has_more = socket.serve(self.poll.registry(), self.clock.now(), || self.status());
        self.status_socket = Some(socket);
        has_more
    }

    /// The status of this instant, as an answer.
    fn status(&self) -> Vec<u8> {
        let pair = self.clock.pair();
        let of = |tier| Some(Status::new(self.tiers.node(tier)?, pair.local, self.driver_status(tier, pair)?));
        let status = of(Tier::Lower).map(|status| Status {
            upper: of(Tier::Upper).map(|upper| Box::new(UpperStatus::new(upper, &self.tiers, pair.local))),
            ..status
        });
        // A status of plain numbers and texts always has a JSON form.
        let mut text = serde_json::to_vec(&status).unwrap_or_default();
        text.push(b'\n');
        text
    }

    fn clock_kind(&self) -> &'static str {
        if self.system_clock.is_some() { "system" } else { "virtual" }
    }

    fn driver_status(&self, tier: Tier, pair: Pair) -> Option<DriverStatus> {
        let port = self.ports.get(&tier)?;
        Some(DriverStatus {
            address: port.sockets.local_addr().to_string(),
            timestamping: port.sockets.stamps(),
            clock_kind: self.clock_kind(),
            system: pair.system,
            disciplined: self.tiers.node(tier)?.clock().read(pair.local),
            uncertainty: pair.uncertainty,
            privileges: self.privileges.clone(),
            send_errors: port.send_errors,
            unreachable: port.unreachable,
            socket_drops: port.sockets.drops(),
            wake_ups: self.wake_ups,
        })
    }

    /// Logs what may come with every datagram: aloud once in a while for each kind, else for who debugs.
    fn log_rarely(&mut self, tier: Tier, kind: &'static str, level: Level, line: impl FnOnce() -> Line) {
        let is_due = self.allowance.admits_kind(self.clock.now(), tier, kind);
        self.log_line(tier, if is_due { level } else { Level::Debug }, line);
    }

    fn warn_rarely(&mut self, tier: Tier, kind: &'static str, text: String) {
        self.log_rarely(tier, kind, Level::Warn, || Line::new(text));
    }

    /// Logs a line, which is put together only if somebody reads it; on a submaster it says which domain it is about.
    fn log_line(&self, tier: Tier, level: Level, line: impl FnOnce() -> Line) {
        if level > log::max_level() {
            return;
        }
        match self.tiers.upper().and(self.tiers.node(tier)) {
            Some(node) => line().with("domain", node.config().domain).log(level),
            None => line().log(level),
        }
    }

    fn log(&mut self, tier: Tier, event: &Event) {
        let words = || line(event);
        if let Event::NotAuthentic { from, error } = event {
            let is_named = self.allowance.admits_naming(self.clock.now(), from.ip(), *error);
            return self.log_line(tier, if is_named { Level::Warn } else { Level::Debug }, words);
        }
        match loudness(event) {
            (level, Some(kind)) => self.log_rarely(tier, kind, level, words),
            (level, None) if level > Level::Info => self.log_line(tier, level, words),
            (level, None) => self.log_news(tier, level, words),
        }
    }

    /// Logs what has changed, unless there is too much of it.
    fn log_news(&mut self, tier: Tier, level: Level, line: impl FnOnce() -> Line) {
        let is_told = self.allowance.admits_news(self.clock.now());
        if !is_told {
            let text = "more changes than are logged: the others are for who debugs";
            self.warn_rarely(tier, "news", text.to_owned());
        }
        self.log_line(tier, if is_told { level } else { Level::Debug }, line);
    }
}
