//! Real nodes: the binary itself, as a process of its own. On one machine all of them read the same CLOCK_REALTIME, so that
//! `disciplined_ns - system_ns` of their statuses shows their true disagreement. Nothing sleeps for a fixed time:
//! [`Lab::until`] looks again until it is so, or fails.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration as StdDuration;

use berkeleyd::commands::status::fetch;
use berkeleyd::local_clock::LocalClock;
use berkeleyd::status::{RoleName, Status};
use berkeleyd::time::{Skew, Span};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const BINARY: &str = env!("CARGO_BIN_EXE_berkeleyd");
/// What has not come about by then never will. Never waited out but by a test that fails.
pub const PATIENCE: Span = Span::from_secs(60);
/// Between two looks, unless a log line comes first.
pub const GLANCE: StdDuration = StdDuration::from_millis(20);
/// Agreement, for a machine that does many other things at the same time.
pub const CLOSE: Span = Span::from_millis(1);

/// A directory, a group and a domain that no other test has.
pub struct Lab {
    dir: tempfile::TempDir,
    pub clock: LocalClock,
    pub group_port: u16,
    line_logged: Receiver<()>,
    log_line: Sender<()>,
}

impl Lab {
    pub fn new() -> Self {
        let (log_line, line_logged) = mpsc::channel();
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            clock: LocalClock::new(Skew::ZERO).expect("a clock"),
            group_port: free_port(),
            line_logged,
            log_line,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The options that put a node into this lab's group on the loopback interface.
    pub fn group(&self) -> String {
        let port = self.group_port;
        format!("--bind 127.0.0.1:0 --group 239.255.5.25:{port} --domain {port}")
    }

    /// Starts a node with these options, its status socket `name.sock` among them.
    pub fn start(&self, name: &str, options: &str) -> Daemon {
        self.launch(name, Command::new(BINARY), options)
    }

    /// The same with a command that runs the binary in a place of its own.
    pub fn launch(&self, name: &str, mut command: Command, options: &str) -> Daemon {
        let socket = self.path(&format!("{name}.sock"));
        command.args(options.split_whitespace()).arg("--status-socket").arg(&socket);
        self.spawn(name, command, socket)
    }

    /// Starts an exporter of these sockets, and waits until it serves: at this address.
    pub fn export(&self, name: &str, listen: &str, sockets: &[&Path]) -> (Daemon, SocketAddr) {
        let mut command = Command::new(BINARY);
        command.args(["exporter", "--listen", listen]);
        command.args(sockets.iter().flat_map(|socket| [Path::new("--socket"), socket]));
        let exporter = self.spawn(name, command, PathBuf::new());
        let address = self.until("the exporter serves", || {
            let log = exporter.log();
            let (_, rest) = log.split_once("page at http://")?;
            rest.split_once('/')?.0.parse().ok()
        });
        (exporter, address)
    }

    /// Starts a node in this lab's group.
    pub fn join(&self, name: &str, options: &str) -> Daemon {
        self.start(name, &format!("{} {options}", self.group()))
    }

    pub fn spawn(&self, name: &str, mut command: Command, socket: PathBuf) -> Daemon {
        let stdout = self.path(&format!("{name}.out"));
        let out = File::create(&stdout).expect("a file for the standard output");
        command.env_clear().stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, shared, log_line) = (child.stderr.take().expect("piped"), Arc::clone(&log), self.log_line.clone());
        let reader = thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                let mut log = shared.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
                drop(log);
                // The lab may be gone already.
                let _ = log_line.send(());
            }
        });
        Daemon { name: name.to_owned(), child, socket, stdout, log, reader: Some(reader) }
    }

    /// Looks again and again until there is something to see, and fails when there is not.
    pub fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        self.within(PATIENCE, what, look)
    }

    pub fn within<T>(&self, patience: Span, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = self.clock.now() + patience;
        loop {
            // Read before looking: what is seen after the deadline was there before it, or nearly so.
            let is_over = self.clock.now() > deadline;
            if let Some(seen) = look() {
                return seen;
            }
            assert!(!is_over, "in {patience}: {what}");
            let _ = self.line_logged.recv_timeout(GLANCE);
        }
    }

    /// Waits until all of these nodes are synchronised and show the same time to within [`CLOSE`].
    pub fn agree(&self, nodes: &[&Daemon]) -> Vec<Status> {
        self.until("they agree", || {
            let statuses: Option<Vec<Status>> = nodes.iter().map(|node| node.look()).collect();
            statuses.filter(|statuses| spread(statuses) < CLOSE && statuses.iter().all(|status| status.synchronised))
        })
    }

    /// Waits while a master says so many times that it is there, four times a second.
    pub fn while_announcing(&self, master: &Daemon, times: u64) {
        let before = master.status().counters.sent["announce"];
        self.until("the master goes on announcing", || {
            (master.status().counters.sent["announce"] >= before + times).then_some(())
        });
    }
}

/// A port that nobody has and that the system gives nobody by itself (it draws from 32768 on).
pub fn free_port() -> u16 {
    static DRAWN: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 200).expect("small");
    loop {
        let port = 10_000 + (process * 100 + DRAWN.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running node. Killed when it goes out of scope; its log is shown when the test has failed.
pub struct Daemon {
    pub name: String,
    child: Child,
    pub socket: PathBuf,
    stdout: PathBuf,
    log: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Daemon {
    /// What it knows, when it answers.
    pub fn look(&self) -> Option<Status> {
        let text = fetch(&self.socket).ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error} in {text}", self.name)))
    }

    /// The same of a node that is known to run. Three times, because `fetch` has little patience with a busy machine.
    pub fn status(&self) -> Status {
        let status = (0..3).find_map(|_| self.look());
        status.unwrap_or_else(|| panic!("{} shows no status", self.name))
    }

    /// Where it can be asked.
    pub fn address(&self, lab: &Lab) -> SocketAddr {
        let status = lab.until("it shows its status", || self.look());
        status.address.parse().expect("an address")
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The process.
    pub fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.id(), signal).expect("it is running");
    }

    /// Waits for its end: the exit status, all that it logged, and what it wrote to the standard output.
    pub fn end(&mut self, lab: &Lab) -> (Option<i32>, String, String) {
        let status = lab.until("it ends", || self.child.try_wait().expect("a child"));
        self.reader.take().map(thread::JoinHandle::join).transpose().expect("the log is read to its end");
        (status.code(), self.log(), fs::read_to_string(&self.stdout).expect("its standard output"))
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let status = fetch(&self.socket).unwrap_or_else(|error| format!("no status: {error}"));
            eprintln!("---- {} ----\n{}{status}", self.name, self.log());
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the clocks of some nodes have shown so far: synchronised ones go on without a jump, and never backwards.
pub struct Course<'a> {
    last: Vec<(&'a Daemon, Status)>,
    /// The fastest that a clock may gain or lose on this machine's: its oscillator's drift and a slew.
    fastest: Skew,
}

impl<'a> Course<'a> {
    /// From here on; `drift` is the largest that was injected. What reading two clocks at once costs is allowed for, and 50 ppm for
    /// this machine's clock being led.
    pub fn of(nodes: impl IntoIterator<Item = &'a Daemon>, drift: Skew) -> Self {
        let last = nodes.into_iter().map(|node| (node, node.status())).collect();
        Self { last, fastest: Skew::from_ppm(500 + 50) + drift.abs() }
    }

    /// Looks at all of them.
    pub fn look(&mut self) -> Vec<Status> {
        for (node, last) in &mut self.last {
            let (before, now) = (std::mem::replace(last, node.status()), &*last);
            let passed = Span::from_nanos(now.clock.system_ns - before.clock.system_ns);
            let gained = ahead(now) - ahead(&before);
            let reading = Span::from_nanos(now.clock.uncertainty_ns + before.clock.uncertainty_ns);
            let allowed = self.fastest.over(passed) + reading + Span::from_micros(50);
            assert!(gained.abs() <= allowed, "{} gained {gained} in {passed}: more than {allowed}", node.name);
            assert!(now.clock.disciplined_ns >= before.clock.disciplined_ns, "{} ran backwards", node.name);
        }
        self.last.iter().map(|(_, status)| status.clone()).collect()
    }
}

/// How far the disciplined clock is ahead of the system's.
pub fn ahead(status: &Status) -> Span {
    Span::from_nanos(status.clock.disciplined_ns - status.clock.system_ns)
}

/// The true disagreement.
pub fn spread(statuses: &[Status]) -> Span {
    let ahead = || statuses.iter().map(ahead);
    ahead().max().unwrap_or_default() - ahead().min().unwrap_or_default()
}

/// The one that all of these nodes follow in the same term, itself included; `None` while they do not agree.
pub fn agreed_master(nodes: &[&Daemon]) -> Option<u64> {
    let statuses: Vec<Status> = nodes.iter().map(|node| node.look()).collect::<Option<_>>()?;
    let first = statuses.first()?;
    let is_same = |status: &Status| (status.master_id, status.term) == (first.master_id, first.term);
    let masters = statuses.iter().filter(|status| status.role == RoleName::Master).count();
    first.master_id.filter(|_| masters == 1 && statuses.iter().all(is_same))
}

pub fn has_ipv6() -> bool {
    let has = UdpSocket::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("skipped: this machine has no IPv6");
    }
    has
}

/// Many systems have no route for IPv6 multicast on the loopback interface.
pub fn has_ipv6_multicast(port: u16) -> bool {
    let socket = UdpSocket::bind("[::1]:0").expect("a socket");
    let loopback = nix::net::if_::if_nametoindex("lo").unwrap_or_default();
    socket2::SockRef::from(&socket).set_multicast_if_v6(loopback).expect("the loopback interface");
    let sent = socket.send_to(b"?", format!("[ff15::5525]:{port}"));
    if let Err(error) = &sent {
        eprintln!("skipped: no IPv6 multicast on loopback: {error}");
    }
    sent.is_ok()
}

/// Skips what this machine has not got; where everything has to be tried, that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{reason}, and nothing may be skipped in CI");
    eprintln!("skipped: {reason}");
}

pub fn berkeleyd(arguments: &[&str]) -> Output {
    let output = Command::new(BINARY).args(arguments).env_clear().stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{BINARY}: {error}"))
}
