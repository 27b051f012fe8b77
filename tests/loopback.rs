//! The real binary on 127.0.0.1 and ::1: ensembles that agree, restarts, signals, hostile datagrams, refusals, and a peer
//! in another language.
//!
//! On one machine all nodes read the same CLOCK_REALTIME, so that `disciplined_ns - system_ns` of their statuses shows
//! their true disagreement. Nothing sleeps for a fixed time: [`Lab::until`] looks again until it is so, or fails.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support as well as tests: what fails here is a broken test or a red one"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration as StdDuration;

use berkeleyd::commands::status::fetch;
use berkeleyd::counters::{DropReason, FRAME_NAMES};
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::local_clock::LocalClock;
use berkeleyd::protocol::{
    Acknowledgement, Announce, Claim, Entries, Entry, Frame, Header, Heartbeat, Join, Leave, Merit, Message, Outcome,
    Request, Response, Successors,
};
use berkeleyd::status::{RoleName, Status};
use berkeleyd::time::{LocalTime, Skew, Span};
use bytes::BytesMut;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_berkeleyd");
/// What has not come about by then never will. Never waited out but by a test that fails.
const PATIENCE: Span = Span::from_secs(10);
/// Between two looks, unless a log line comes first.
const GLANCE: StdDuration = StdDuration::from_millis(20);
/// Agreement, for a machine that does many other things at the same time.
const CLOSE: Span = Span::from_millis(1);

// ---- the harness --------------------------------------------------------------------------------------------------

/// A directory, a group and a domain that no other test has.
struct Lab {
    dir: tempfile::TempDir,
    clock: LocalClock,
    group_port: u16,
    line_logged: Receiver<()>,
    log_line: Sender<()>,
}

impl Lab {
    fn new() -> Self {
        let (log_line, line_logged) = mpsc::channel();
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            clock: LocalClock::new(Skew::ZERO).expect("a clock"),
            group_port: free_port(),
            line_logged,
            log_line,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The options that put a node into this lab's group on the loopback interface.
    fn group(&self) -> String {
        let port = self.group_port;
        format!("--bind 127.0.0.1:0 --group 239.255.5.25:{port} --domain {port}")
    }

    /// Starts a node with these options, its status socket `name.sock` among them.
    fn start(&self, name: &str, options: &str) -> Daemon {
        let socket = self.path(&format!("{name}.sock"));
        let mut command = Command::new(BINARY);
        command.args(options.split_whitespace()).arg("--status-socket").arg(&socket);
        self.spawn(name, command, socket)
    }

    /// Starts a node in this lab's group.
    fn join(&self, name: &str, options: &str) -> Daemon {
        self.start(name, &format!("{} {options}", self.group()))
    }

    fn spawn(&self, name: &str, mut command: Command, socket: PathBuf) -> Daemon {
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
    fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        self.within(PATIENCE, what, look)
    }

    fn within<T>(&self, patience: Span, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
    fn agree(&self, nodes: &[&Daemon]) -> Vec<Status> {
        self.until("they agree", || {
            let statuses: Option<Vec<Status>> = nodes.iter().map(|node| node.look()).collect();
            statuses.filter(|statuses| spread(statuses) < CLOSE && statuses.iter().all(|status| status.synchronised))
        })
    }

    /// Waits while a master says so many times that it is there, four times a second.
    fn while_announcing(&self, master: &Daemon, times: u64) {
        let before = master.status().counters.sent["announce"];
        self.until("the master goes on announcing", || {
            (master.status().counters.sent["announce"] >= before + times).then_some(())
        });
    }
}

/// A port that nobody has and that the system gives nobody by itself (it draws from 32768 on).
fn free_port() -> u16 {
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
struct Daemon {
    name: String,
    child: Child,
    socket: PathBuf,
    stdout: PathBuf,
    log: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Daemon {
    /// What it knows, when it answers.
    fn look(&self) -> Option<Status> {
        let text = fetch(&self.socket).ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error} in {text}", self.name)))
    }

    /// The same of a node that is known to run. Three times, because `fetch` has little patience with a busy machine.
    fn status(&self) -> Status {
        let status = (0..3).find_map(|_| self.look());
        status.unwrap_or_else(|| panic!("{} shows no status", self.name))
    }

    /// Where it can be asked.
    fn address(&self, lab: &Lab) -> SocketAddr {
        let status = lab.until("it shows its status", || self.look());
        status.address.parse().expect("an address")
    }

    fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a process")), signal).expect("it is running");
    }

    /// Waits for its end: the exit status, all that it logged, and what it wrote to the standard output.
    fn end(&mut self, lab: &Lab) -> (Option<i32>, String, String) {
        let status = lab.until("it ends", || self.child.try_wait().expect("a child"));
        self.reader.take().map(thread::JoinHandle::join).transpose().expect("the log is read to its end");
        (status.code(), self.log(), fs::read_to_string(&self.stdout).expect("its standard output"))
    }

    fn is_alive(&mut self) -> bool {
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

/// How far the disciplined clock is ahead of the system's.
fn ahead(status: &Status) -> Span {
    Span::from_nanos(status.clock.disciplined_ns - status.clock.system_ns)
}

/// The true disagreement.
fn spread(statuses: &[Status]) -> Span {
    let ahead = || statuses.iter().map(ahead);
    ahead().max().unwrap_or_default() - ahead().min().unwrap_or_default()
}

fn has_ipv6() -> bool {
    let has = UdpSocket::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("skipped: this machine has no IPv6");
    }
    has
}

/// Many systems have no route for IPv6 multicast on the loopback interface.
fn has_ipv6_multicast(port: u16) -> bool {
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
fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{reason}, and nothing may be skipped in CI");
    eprintln!("skipped: {reason}");
}

fn berkeleyd(arguments: &[&str]) -> Output {
    let output = Command::new(BINARY).args(arguments).env_clear().stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{BINARY}: {error}"))
}

// ---- ensembles ----------------------------------------------------------------------------------------------------

#[test]
fn a_group_with_wrong_clocks_agrees() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master --inject-offset 70ms --inject-drift -40");
    let slaves = [("1.5s", 100), ("-1.5s", -100), ("0s", 30), ("250ms", 0)];
    let slaves = slaves.iter().enumerate().map(|(index, (offset, drift))| {
        lab.join(
            &format!("slave{index}"),
            &format!("--role slave --inject-offset {offset} --inject-drift {drift} --node-id {}", index + 1),
        )
    });
    let slaves: Vec<Daemon> = slaves.collect();
    let nodes: Vec<&Daemon> = slaves.iter().chain([&master]).collect();
    lab.agree(&nodes);
    lab.until("all are averaged", || {
        let peers = master.status().peers;
        (peers.len() == slaves.len() && peers.iter().all(|peer| peer.counted)).then_some(())
    });
    for slave in &slaves {
        assert_eq!(slave.status().master_id, Some(master.status().node_id));
    }
    the_json_status_keeps_its_contract(&master, RoleName::Master);
    the_json_status_keeps_its_contract(&slaves[0], RoleName::Slave);
    the_status_is_readable(&master, &slaves[0]);
}

/// Whatever tests outside this repository read, by name and type.
fn the_json_status_keeps_its_contract(node: &Daemon, role: RoleName) {
    let output = berkeleyd(&["status", "--json", "--socket", node.socket.to_str().expect("UTF-8")]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.ends_with('\n') && text.lines().count() == 1, "one line: {text}");
    let status: Value = serde_json::from_str(&text).expect("JSON");
    let natural = |name: &str| assert!(status.pointer(name).is_some_and(Value::is_u64), "{name}: {status}");
    ["/node_id", "/incarnation", "/term", "/master_id", "/round"].into_iter().for_each(natural);
    let integer = |name: &str| assert!(status.pointer(name).is_some_and(Value::is_i64), "{name}: {status}");
    ["/error_bound_ns", "/last_correction_ns", "/skew_ppb", "/clock/system_ns", "/clock/disciplined_ns"]
        .into_iter()
        .for_each(integer);
    assert_eq!(status["role"], if role == RoleName::Master { "master" } else { "slave" });
    assert!(status["synchronised"].is_boolean());
    assert!(["hardware", "kernel", "user"].map(Value::from).contains(&status["timestamping"]));
    assert_eq!(status["clock"]["kind"], "virtual");
    for direction in ["sent", "received"] {
        FRAME_NAMES.iter().for_each(|name| natural(&format!("/counters/{direction}/{name}")));
    }
    DropReason::ALL.iter().for_each(|reason| natural(&format!("/counters/dropped/{}", reason.name())));
    let peers = status["peers"].as_array().expect("a list");
    assert_eq!(peers.is_empty(), role != RoleName::Master);
    for peer in peers {
        let all = |names: &[&str], is: fn(&Value) -> bool| {
            names.iter().for_each(|name| assert!(is(&peer[name]), "{name}: {peer}"));
        };
        all(&["node_id", "delay_ns", "error_bound_ns", "last_heard_ms", "retransmissions"], Value::is_u64);
        all(&["offset_ns", "skew_ppb"], Value::is_i64);
        assert!(peer["counted"].is_boolean() && peer["reason"].is_null(), "{peer}");
        assert!(["kernel", "user"].map(Value::from).contains(&peer["timestamping"]), "{peer}");
        assert!(peer["address"].as_str().is_some_and(|text| text.parse::<SocketAddr>().is_ok()), "{peer}");
    }
}

fn the_status_is_readable(master: &Daemon, slave: &Daemon) {
    let text = |node: &Daemon| {
        let output = berkeleyd(&["status", "--socket", node.socket.to_str().expect("UTF-8")]);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let id = master.status().node_id;
    let of_slave = text(slave);
    let phrases =
        ["node         1 at 127.0.0.1:", &format!("role         slave of {id}, term 1, round "), "yes, within "];
    for phrase in phrases.into_iter().chain([" stamps", " in all, rate ", " sent, ", " received, "]) {
        assert!(of_slave.contains(phrase), "{phrase:?}:\n{of_slave}");
    }
    let of_master = text(master);
    let heads = ["slave", "address", "offset", "± at most", "delay", "skew", "stamps", "heard", "counted"];
    for phrase in [&format!("node         {id} at 127.0.0.1:"), "role         master, term 1"].into_iter().chain(heads)
    {
        assert!(of_master.contains(phrase), "{phrase:?}:\n{of_master}");
    }
    let table = of_master.lines().skip_while(|line| !line.starts_with("slave "));
    assert_eq!(table.skip(1).filter(|line| line.ends_with("yes")).count(), master.status().peers.len(), "{of_master}");
}

#[test]
fn peers_agree_without_a_group() {
    peers_agree("127.0.0.1");
}

#[test]
fn peers_agree_without_a_group_on_ipv6() {
    if has_ipv6() {
        peers_agree("[::1]");
    }
}

fn peers_agree(ip: &str) {
    let lab = Lab::new();
    let [master, one, two] = [(); 3].map(|()| format!("{ip}:{}", free_port()));
    let nodes = [
        lab.start("master", &format!("--role master --bind {master} --peer {one} --peer {two} --inject-offset 3s")),
        lab.start("one", &format!("--role slave --bind {one} --peer {master} --inject-drift 80")),
        lab.start("two", &format!("--role slave --bind {two} --peer {master} --inject-offset -40ms")),
    ];
    let statuses = lab.agree(&nodes.each_ref());
    assert_eq!(statuses[0].peers.len(), 2);
    for (status, address) in statuses.iter().zip([master, one, two]) {
        assert_eq!(status.address, address);
        assert_eq!(status.counters.send_errors, 0);
    }
}

#[test]
fn an_ipv6_group_agrees() {
    let lab = Lab::new();
    if !has_ipv6() || !has_ipv6_multicast(lab.group_port) {
        return;
    }
    let group = format!("--bind [::1]:0 --group [ff15::5525]:{}", lab.group_port);
    let master = lab.start("master", &format!("{group} --role master"));
    let slave = lab.start("slave", &format!("{group} --role slave --inject-offset -2s"));
    lab.agree(&[&master, &slave]);
    assert!(master.status().peers[0].address.starts_with("[::1]:"));
}

/// Whoever is first need not be patient: the first correction comes as soon as both are there.
#[test]
fn a_slave_that_was_there_first_is_corrected_at_once() {
    let lab = Lab::new();
    let slave = lab.join("slave", "--role slave --inject-offset 500ms");
    let status = lab.until("the slave runs", || slave.look());
    assert_eq!((status.role, status.master_id, status.synchronised), (RoleName::Listening, None, false));
    assert_eq!(status.error_bound_ns, i64::MAX);
    let human = berkeleyd(&["status", "--socket", slave.socket.to_str().expect("UTF-8")]);
    let human = String::from_utf8(human.stdout).expect("UTF-8");
    assert!(human.contains("listening: no master is heard") && human.contains("no, not corrected yet"), "{human}");

    // The slave has just joined into the void, and joins rarely: 100 ms must lie between two.
    lab.until("it has joined", || (slave.status().counters.sent["join"] > 0).then_some(()));
    let master = lab.join("master", "--role master");
    lab.until("the master runs", || master.look());
    // A burst takes 140 ms, and three intervals would be 3 s.
    lab.within(Span::from_millis(1_500), "the slave is corrected", || (slave.status().adjustment > 0).then_some(()));
    lab.agree(&[&master, &slave]);
}

#[test]
fn a_killed_slave_comes_back_under_its_number() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master");
    let steady = lab.join("steady", "--role slave");
    let options = "--role slave --node-id 7 --inject-offset -800ms";
    let first = lab.join("slave", options);
    let former = lab.agree(&[&first, &steady, &master])[0].incarnation;
    // SIGKILL: its status socket is left behind and it takes no leave.
    drop(first);
    let second = lab.join("slave", options);
    let statuses = lab.agree(&[&second, &steady, &master]);
    assert_ne!(statuses[0].incarnation, former);
    let of_seven = statuses[2].peers.iter().filter(|peer| peer.node_id == 7).map(|peer| peer.incarnation);
    assert_eq!(of_seven.collect::<Vec<_>>(), [statuses[0].incarnation], "listed once, in its new life");
}

#[test]
fn what_a_node_learned_of_its_oscillator_is_there_in_its_next_life() {
    let lab = Lab::new();
    let _master = lab.join("master", "--role master");
    let state = lab.path("state");
    let options = format!("--role slave --inject-drift 80 --state-dir {}", state.display());
    let mut slave = lab.join("slave", &options);
    // The ensemble runs at the mean of the two.
    lab.until("the skew is known", || (slave.look()?.skew_ppb + 40_000).abs().lt(&3_000).then_some(()));
    slave.signal(Signal::SIGTERM);
    assert_eq!(slave.end(&lab).0, Some(0));
    let kept = fs::read_to_string(state.join("drift")).expect("it is kept");
    assert!((kept.trim().parse::<f64>().expect("in ppm") + 40.0).abs() < 4.0, "half of what the two differ by: {kept}");
    // Without a master nobody else can have told it.
    let options = format!("{options} --bind 127.0.0.1:0 --peer 127.0.0.1:9");
    let alone = lab.start("alone", &options);
    let remembered = lab.until("it runs", || alone.look()).skew_ppb;
    assert!((remembered + 40_000).abs() < 4_000, "{remembered} ppb");
}

#[test]
fn a_restarted_master_is_followed_under_a_higher_term() {
    let lab = Lab::new();
    let slaves = ["one", "two"].map(|name| lab.join(name, "--role slave --inject-offset 90ms"));
    let first = lab.join("master", "--role master --node-id 1");
    lab.agree(&[&slaves[0], &slaves[1], &first]);
    assert_eq!(slaves[0].status().term, 1);
    let before = ahead(&slaves[0].status());
    drop(first);
    // The same node in a new life, and then another one: both begin with term 1 and learn of the one before.
    let second = lab.join("second", "--role master --node-id 1");
    for (term, node) in [(2, 1), (3, 2)] {
        let third = if term == 3 { Some(lab.join("third", "--role master --node-id 2")) } else { None };
        let master = third.as_ref().unwrap_or(&second);
        if term == 3 {
            second.signal(Signal::SIGTERM);
        }
        lab.until("both follow the new mastership", || {
            let follows = |slave: &Daemon| {
                let status = slave.status();
                (status.role, status.master_id) == (RoleName::Slave, Some(node)) && status.term >= term
            };
            slaves.iter().all(follows).then_some(())
        });
        lab.until("both are corrected in it", || {
            (master.status().peers.len() == 2 && slaves.iter().all(|slave| slave.status().round > 0)).then_some(())
        });
        lab.agree(&[&slaves[0], &slaves[1], master]);
        // Their first step is behind them; a new master must not move them by more than a slew can in this time.
        let status = slaves[0].status();
        assert!((ahead(&status) - before).abs() < Span::from_millis(50), "{} -> {}", before, ahead(&status));
        if term == 3 {
            assert!(status.term > 2 && status.counters.received["leave"] == 1, "{status:?}");
        }
    }
}

#[test]
fn whoever_is_told_to_stop_takes_leave() {
    let lab = Lab::new();
    let mut master = lab.join("master", "--role master");
    let mut goes = lab.join("goes", "--role slave --node-id 1");
    let mut stays = lab.join("stays", "--role slave --node-id 2");
    lab.agree(&[&master, &goes, &stays]);

    goes.signal(Signal::SIGINT);
    let (code, log, stdout) = goes.end(&lab);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{log}");
    assert!(!goes.socket.exists(), "its status socket is removed");
    // Without a word it would be listed for ten minutes.
    lab.until("the master knows that it left", || {
        let peers = master.status().peers;
        (peers.iter().map(|peer| peer.node_id).collect::<Vec<_>>() == [2]).then_some(())
    });

    master.signal(Signal::SIGTERM);
    let (code, log, stdout) = master.end(&lab);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{log}");
    let status = lab.until("the slave knows that it left", || {
        let status = stays.status();
        (status.role == RoleName::Listening).then_some(status)
    });
    assert_eq!((status.master_id, status.synchronised), (None, true), "holdover");
    assert_eq!(status.counters.received["leave"], 1, "it was told, and did not just notice the silence");
    stays.signal(Signal::SIGTERM);
    assert_eq!(stays.end(&lab).0, Some(0));
}

#[test]
fn a_signal_in_the_first_moment_ends_a_node_in_order() {
    let lab = Lab::new();
    for attempt in 0..20 {
        let mut node = lab.join(&format!("node{attempt}"), "--role slave");
        // The status socket is there before the loop runs.
        while !node.socket.exists() && node.is_alive() {
            thread::yield_now();
        }
        node.signal(Signal::SIGTERM);
        let (code, log, _) = node.end(&lab);
        assert_eq!(code, Some(0), "{log}");
        assert!(!node.socket.exists(), "its status socket is removed");
    }
}

/// And says so, of itself and of each slave.
#[test]
fn the_kernel_stamps_whatever_passes_unless_told_not_to() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master --timestamping kernel");
    let slaves = [("kernel", "kernel"), ("auto", "kernel"), ("user", "user")]
        .map(|(asked, stamps)| (lab.join(asked, &format!("--role slave --timestamping {asked}")), stamps));
    for (slave, stamps) in &slaves {
        lab.until("the stamps that it has", || (slave.look()?.timestamping == *stamps).then_some(()));
        let id = slave.status().node_id;
        lab.until("the master's word on the samples", || {
            let status = master.look()?;
            let peer = status.peers.iter().find(|peer| peer.node_id == id)?;
            (status.timestamping == "kernel" && peer.timestamping == *stamps).then_some(())
        });
    }
}

#[test]
fn peers_that_cannot_be_reached_hold_nobody_up() {
    let lab = Lab::new();
    let [master, living, closed] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    // One that nobody listens at, and one that no socket may send to: the broadcast address of the loopback network.
    let unreachable = format!("--peer {closed} --peer 127.255.255.255:5525");
    let slave = lab.start("slave", &format!("--role slave --bind {living} --peer {master} --inject-offset 1s"));
    let master = lab.start("master", &format!("--role master --bind {master} {unreachable} --peer {living}"));
    lab.agree(&[&master, &slave]);
    let announced = slave.status().counters.received["announce"];
    lab.until("announces reach the living one, behind the others", || {
        (slave.status().counters.received["announce"] >= announced + 3).then_some(())
    });
    let counters = master.status().counters;
    assert!(counters.send_errors > 0, "{counters:?}");
    // ICMP tells that nobody listens there, which is no error of sending.
    lab.until("an unreachable peer is counted", || (master.status().counters.unreachable > 0).then_some(()));
    assert!(counters.received["response"] >= 8, "{counters:?}");
    assert!(master.log().lines().count() < 20, "not a line for each datagram");
}

/// A loop that wakes up for nothing burns a battery and blunts every stamp.
#[test]
fn an_idle_slave_sleeps() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master");
    let slave = lab.join("slave", "--role slave");
    lab.agree(&[&master, &slave]);
    // Quick rounds while the group settles are over.
    lab.until("rounds come by the second", || (master.status().round >= 8).then_some(()));
    let handled = |status: &Status| {
        let counters = &status.counters;
        counters.received.values().chain(counters.dropped.values()).chain(counters.sent.values()).sum::<u64>()
    };
    let before = slave.status();
    lab.while_announcing(&master, 8);
    let after = slave.status();
    let datagrams = handled(&after) - handled(&before);
    let wake_ups = after.counters.wake_ups - before.counters.wake_ups;
    assert!(datagrams >= 8, "{datagrams}");
    // One status client, and the deadlines of two seconds: none while the master is heard.
    assert!(wake_ups <= 2 * (datagrams + 1), "{wake_ups} wake-ups for {datagrams} datagrams");
}

// ---- status clients -----------------------------------------------------------------------------------------------

#[test]
fn status_clients_that_never_read_and_many_at_once_do_not_stop_a_node() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master --interval 250ms");
    let slave = lab.join("slave", "--role slave");
    lab.agree(&[&master, &slave]);
    // So many slaves that the answer does not fit a socket's buffer. Some may be lost in the crowd.
    let master_address = master.address(&lab);
    let mut numbers = 1_000_000..;
    lab.within(CROWDING, "the status is long", || {
        for node in numbers.by_ref().take(100) {
            let member = Actor::new(&lab, node);
            member.socket.set_read_timeout(Some(GLANCE)).expect("a timeout");
            member.say(master_address, &member.join());
            if let Some(request) = member.hear("request") {
                member.say(master_address, &member.response_to(&request, |_| {}));
            }
        }
        let size = fetch(&master.socket).map_or(0, |text| text.len());
        (size > LONG_STATUS).then_some(())
    });

    let connect = || UnixStream::connect(&master.socket).expect("it listens");
    let lazy: Vec<UnixStream> = (0..20).map(|_| connect()).collect();
    let busy: Vec<UnixStream> = (0..50).map(|_| UnixStream::connect(&slave.socket).expect("it listens")).collect();
    let rounds = master.status().round;
    lab.until("rounds go on", || (master.status().round >= rounds + 4).then_some(()));
    for mut client in busy {
        let mut text = String::new();
        client.read_to_string(&mut text).expect("an answer");
        let status: Status = serde_json::from_str(&text).expect("the whole answer");
        assert_eq!(status.node_id, slave.status().node_id);
    }
    let before = master.status().counters.wake_ups;
    lab.while_announcing(&master, 4);
    drop(lazy);
    lab.while_announcing(&master, 4);
    lab.agree(&[&master, &slave]);
    let wake_ups = master.status().counters.wake_ups - before;
    assert!(wake_ups < 50_000, "{wake_ups} wake-ups: clients that have gone keep the loop busy");
}

/// More than the buffer of a Unix socket takes, on any Linux: 208 KiB.
const LONG_STATUS: usize = 250_000;
/// Some hundred slaves make it that long; on a busy machine many of them are lost.
const CROWDING: Span = Span::from_secs(60);

// ---- hostile datagrams --------------------------------------------------------------------------------------------

/// Somebody who speaks the protocol, and not always the truth.
struct Actor {
    socket: UdpSocket,
    header: Header,
}

impl Actor {
    fn new(lab: &Lab, node: u64) -> Self {
        // An address of its own: what a node still sends to an actor that has gone must not reach another test, which may
        // have been given the same port.
        let socket = UdpSocket::bind("127.5.25.1:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE.to_std())).expect("a timeout");
        let header = Header {
            domain: Domain::new(lab.group_port.into()),
            round: Round::default(),
            term: Term::default(),
            sender: NodeId::new(node),
            incarnation: Incarnation::new(77),
        };
        Self { socket, header }
    }

    /// The same socket under another number.
    fn as_node(&self, node: u64) -> Self {
        let socket = self.socket.try_clone().expect("the socket");
        Self { socket, header: Header { sender: NodeId::new(node), ..self.header } }
    }

    /// The same with another header.
    fn with(&self, change: impl FnOnce(&mut Header)) -> Self {
        let mut header = self.header;
        change(&mut header);
        Self { socket: self.socket.try_clone().expect("the socket"), header }
    }

    fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.socket.send_to(bytes, to).expect("sent");
    }

    fn frame(&self, message: &Message<'_>) -> Vec<u8> {
        let mut buffer = BytesMut::new();
        Frame { header: self.header, message: *message }.encode(&mut buffer);
        buffer.to_vec()
    }

    fn say(&self, to: SocketAddr, message: &Message<'_>) {
        self.send(to, &self.frame(message));
    }

    fn join(&self) -> Message<'static> {
        Message::Join(Join {
            priority: 0,
            is_reference: false,
            hears_group: false,
            master: None,
            merit: None,
            corrected_in: None,
        })
    }

    /// The next frame of this type for this actor; `None` when none comes.
    fn hear(&self, kind: &str) -> Option<Vec<u8>> {
        let mut buffer = [0; 2_048];
        loop {
            let (len, _) = self.socket.recv_from(&mut buffer).ok()?;
            let bytes = &buffer[..len];
            if FRAME_NAMES[usize::from(bytes[3]) - 1] == kind {
                return Some(bytes.to_vec());
            }
        }
    }

    /// An honest answer with a clock that stands at 2 s after its zero, made worse by `lie`.
    fn response_to(&self, request: &[u8], lie: impl FnOnce(&mut Response)) -> Message<'static> {
        let Ok(Frame { message: Message::Request(Request { t1 }), .. }) = Frame::decode(request) else {
            panic!("{request:?} is no request");
        };
        let mut response = Response {
            t1,
            t2: t1,
            t3: t1,
            ahead: Span::ZERO,
            slew: Span::ZERO,
            rate: Skew::ZERO,
            error_bound: Span::MAX,
            adjustment: 0,
            applied_round: Round::default(),
            previous: None,
            is_reference: false,
            is_synchronised: false,
            is_stamped_near_the_wire: false,
        };
        lie(&mut response);
        Message::Response(response)
    }
}

/// A disciplined clock that nobody corrects is a straight line beside the system's: three points of it show a bend.
struct StraightLine {
    first: Status,
    second: Status,
}

impl StraightLine {
    /// Two points, some rounds of announces apart.
    fn of(lab: &Lab, node: &Daemon, master: &Daemon) -> Self {
        let first = node.status();
        lab.while_announcing(master, 3);
        Self { first, second: node.status() }
    }

    /// The third point lies on it, to what reading two clocks at once costs, and 50 µs for the system's clock being led.
    fn assert_goes_on(&self, node: &Daemon) {
        let third = node.status();
        let system = |status: &Status| Span::from_nanos(status.clock.system_ns);
        let base = system(&self.second) - system(&self.first);
        let rest = system(&third) - system(&self.second);
        let rate = Skew::from_spans(base + ahead(&self.second) - ahead(&self.first), base);
        let bend = ahead(&third) - ahead(&self.second) - rate.over(rest);
        let reading: i64 = [&self.first, &self.second, &third].map(|status| status.clock.uncertainty_ns).iter().sum();
        // What the first two points are uncertain by is the wider, the farther the third is.
        let stretch = 2 + rest.as_nanos() / base.as_nanos().max(1);
        let allowed = Span::from_micros(50) + Span::from_nanos(reading).times(stretch);
        assert!(bend.abs() <= allowed, "{} was moved by {bend}, and {allowed} would be noise", node.name);
        assert_eq!(third.adjustment, self.second.adjustment, "{} was corrected", node.name);
    }
}

/// Has each drop counted under its name, `sent` times, and remembers the name.
struct Attack<'a> {
    lab: &'a Lab,
    victim: &'a Daemon,
    raised: BTreeSet<&'static str>,
}

impl<'a> Attack<'a> {
    fn on(lab: &'a Lab, victim: &'a Daemon) -> Self {
        Self { lab, victim, raised: BTreeSet::new() }
    }

    fn expect(&mut self, reason: DropReason, times: u64, strike: impl FnOnce()) {
        let name = reason.name();
        let before = self.victim.status().counters.dropped[name];
        strike();
        self.lab.until(&format!("{} counts {name}", self.victim.name), || {
            (self.victim.status().counters.dropped[name] >= before + times).then_some(())
        });
        self.raised.insert(name);
    }
}

/// Reasons that any node has, master or slave, to refuse a datagram by its bytes alone.
const NO_FRAMES: [DropReason; 9] = [
    DropReason::OtherDomain,
    DropReason::TooShort,
    DropReason::Magic,
    DropReason::Version,
    DropReason::Type,
    DropReason::Length,
    DropReason::Count,
    DropReason::Authenticated,
    DropReason::OutOfRange,
];
/// Reasons of a slave.
const OF_A_SLAVE: [DropReason; 11] = [
    DropReason::WrongRole,
    DropReason::Rival,
    DropReason::VainClaim,
    DropReason::StaleTerm,
    DropReason::Stranger,
    DropReason::StaleIncarnation,
    DropReason::StaleRound,
    DropReason::DuplicateCorrection,
    DropReason::StaleAdjustment,
    DropReason::LateCorrection,
    DropReason::TooLarge,
];
/// Reasons of a master.
const OF_A_MASTER: [DropReason; 10] = [
    DropReason::OwnFrame,
    DropReason::Rival,
    DropReason::VainClaim,
    DropReason::DuplicateNodeId,
    DropReason::WrongRole,
    DropReason::Stranger,
    DropReason::StaleIncarnation,
    DropReason::Unsolicited,
    DropReason::ImplausibleTimes,
    DropReason::TableFull,
];

fn names(reasons: &[DropReason]) -> BTreeSet<&'static str> {
    reasons.iter().map(|reason| reason.name()).collect()
}

#[test]
fn every_reason_to_drop_is_tried() {
    let tried = [names(&NO_FRAMES), names(&OF_A_SLAVE), names(&OF_A_MASTER), names(&[DropReason::NotAPeer])];
    assert_eq!(tried.into_iter().flatten().collect::<BTreeSet<_>>(), names(DropReason::ALL));
}

/// The bytes of the vectors that no node may take, and the counter that each must raise. They are of domain 7.
fn bad_vectors() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let files = fs::read_dir(&dir).expect("the vectors").map(|entry| entry.expect("a file").path());
    let bad = files.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"bad_")));
    let vectors: Vec<_> = bad
        .map(|path| {
            let text = fs::read_to_string(&path).expect("text");
            let (head, hex) = text.split_once("\nhex\n").expect("a hex block");
            let error = head.lines().find_map(|line| line.strip_prefix("error = ")).expect("an error");
            // `TooShort { .. }` is counted as `too_short`.
            let variant = error.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            let mut counter = String::new();
            for (index, c) in variant.char_indices() {
                if c.is_uppercase() && index > 0 {
                    counter.push('_');
                }
                counter.push(c.to_ascii_lowercase());
            }
            let words = hex.lines().flat_map(|row| {
                let row = row.split('#').next().unwrap_or_default();
                let name = usize::from(!row.starts_with(char::is_whitespace));
                row.split_whitespace().skip(name)
            });
            let digits: String = words.collect();
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex");
            (counter, (0..digits.len()).step_by(2).map(byte).collect())
        })
        .collect();
    assert!(vectors.len() >= 15, "{}", vectors.len());
    vectors
}

/// What must not be taken, by itself: no node need know the sender.
fn garbage(actor: &Actor) -> Vec<(DropReason, Vec<u8>)> {
    let leave = actor.frame(&Message::Leave(Leave { successor: None }));
    let patched = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let response =
        actor.frame(&actor.response_to(&actor.frame(&Message::Request(Request { t1: LocalTime::default() })), |_| {}));
    let entry = Entry {
        node: NodeId::new(1),
        node_incarnation: Incarnation::new(1),
        reference: LocalTime::default(),
        correction: Span::ZERO,
        rate: Skew::ZERO,
        error_bound: Span::ZERO,
        rate_error: Skew::ZERO,
        adjustment: 0,
    };
    let correction = actor.frame(&Message::Correction(Entries::Typed(&[entry])));
    let mut all = vec![
        (DropReason::TooShort, Vec::new()),
        (DropReason::TooShort, b"hello".to_vec()),
        (DropReason::TooShort, leave[..39].to_vec()),
        (DropReason::Magic, vec![0; 120]),
        (DropReason::Magic, vec![0xff; 1_452]),
        (DropReason::Magic, vec![7; 60_000]),
        (DropReason::OtherDomain, patched(&leave, 8, &[0xff; 4])),
        (DropReason::Version, patched(&leave, 2, &[2])),
        (DropReason::Type, patched(&leave, 3, &[0])),
        (DropReason::Type, patched(&leave, 3, &[15])),
        (DropReason::Length, patched(&leave, 6, &[0, 47])),
        (DropReason::Length, patched(&leave, 6, &[0xff, 0xff])),
        (DropReason::Length, leave[..47].to_vec()),
        (DropReason::Length, [&leave[..], &[0; 2_000]].concat()),
        (DropReason::Length, patched(&correction, 40, &[0, 2])),
        (DropReason::Count, [&patched(&correction, 40, &[0, 0])[..48]].concat()),
    ];
    // The length of a frame without entries has to be right for the count to be looked at.
    if let Some((_, frame)) = all.last_mut() {
        frame[6..8].copy_from_slice(&48_u16.to_be_bytes());
    }
    // Absurd times in each field that holds one; none of these values is legal in it.
    for (frame, fields) in [(&response, [40, 48, 56, 64, 72, 80].as_slice()), (&correction, &[64, 72, 80, 88])] {
        for (at, value) in fields.iter().flat_map(|at| [i64::MIN, i64::MIN + 1, 1 << 62].map(|value| (*at, value))) {
            all.push((DropReason::OutOfRange, patched(frame, at, &value.to_be_bytes())));
        }
    }
    all
}

#[test]
fn what_is_no_frame_is_counted_and_moves_nobody() {
    let lab = Lab { group_port: 7, ..Lab::new() };
    let port = free_port();
    // Rounds so rare that no correction falls into the test: clocks that nobody moves are straight lines.
    let options = format!(
        "--bind 127.0.0.1:0 --group 239.255.5.25:{port} --domain 7 --interval 60s --min-interval 60s --inject-drift 20"
    );
    let mut nodes = [
        lab.start("master", &format!("{options} --role master")),
        lab.start("slave", &format!("{options} --role slave --inject-offset 1s")),
    ];
    lab.agree(&nodes.each_ref());
    let lines = nodes.each_ref().map(|node| StraightLine::of(&lab, node, &nodes[0]));
    let actor = Actor::new(&lab, 1234);
    let vectors = bad_vectors();
    for node in &nodes {
        let address = node.address(&lab);
        let mut attack = Attack::on(&lab, node);
        for (reason, bytes) in garbage(&actor) {
            attack.expect(reason, 1, || actor.send(address, &bytes));
        }
        for (name, bytes) in &vectors {
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == name);
            let reason = reason.unwrap_or_else(|| panic!("no counter is called {name}"));
            attack.expect(*reason, 1, || actor.send(address, bytes));
        }
        assert_eq!(attack.raised, names(&NO_FRAMES));
    }

    // And ten thousand of them: the log stays as it is.
    let mut bad = garbage(&actor);
    bad.retain(|(_, bytes)| bytes.len() < 1_500);
    let dropped = |node: &Daemon| node.status().counters.dropped.values().sum::<u64>();
    for node in &nodes {
        let (address, before) = (node.address(&lab), dropped(node));
        for round in 1..=100 {
            for (_, bytes) in bad.iter().cycle().skip(round).take(100) {
                actor.send(address, bytes);
            }
            // So many at a time as fit a socket's buffer.
            let sent = 100 * u64::try_from(round).expect("few");
            lab.until("all are counted", || (dropped(node) >= before + sent).then_some(()));
        }
    }
    for (line, node) in lines.iter().zip(&mut nodes) {
        line.assert_goes_on(node);
        assert!(node.is_alive());
        assert!(node.log().lines().count() < 20, "{} lines for 10,000 datagrams", node.log().lines().count());
    }
}

/// A master of the test's own makes corrections of every wrong kind.
#[test]
fn a_slave_applies_no_correction_that_is_not_for_it_now() {
    let lab = Lab::new();
    let slave = lab.join("slave", "--role slave --node-id 5 --max-correction 1s");
    let address = slave.address(&lab);
    let master = Actor::new(&lab, 1).with(|header| header.term = Term::new(9));
    let announce = Message::Announce(Announce {
        interval: Span::from_secs(1),
        priority: 0,
        merit: Merit::Plausible,
        heartbeat: Heartbeat::SHORTEST,
        members: 0,
        successors: Successors::default(),
    });
    let adrift = slave.status();
    // Its local clock is the machine's, as ours is.
    let entry = |adjustment: u32| Entry {
        node: NodeId::new(5),
        node_incarnation: Incarnation::new(adrift.incarnation),
        reference: lab.clock.now(),
        correction: Span::from_millis(300),
        rate: Skew::ZERO,
        error_bound: Span::from_micros(10),
        rate_error: Skew::ZERO,
        adjustment,
    };
    let correction = |from: &Actor, round: u32, entry: Entry| {
        let from = from.with(|header| header.round = Round::new(round));
        from.frame(&Message::Correction(Entries::Typed(&[entry])))
    };
    let mut attack = Attack::on(&lab, &slave);
    // Before it follows anybody.
    attack.expect(DropReason::Stranger, 1, || master.send(address, &correction(&master, 1, entry(0))));

    // From here on somebody has to say every second that the master is there.
    let is_over = Arc::new(AtomicBool::new(false));
    let heartbeat = {
        let (is_over, pulse) = (Arc::clone(&is_over), master.with(|_| {}));
        let frame = master.frame(&announce);
        thread::spawn(move || {
            let (_sender, never) = mpsc::channel::<()>();
            while !is_over.load(Ordering::Relaxed) {
                pulse.send(address, &frame);
                let _ = never.recv_timeout(StdDuration::from_millis(50));
            }
        })
    };
    master.hear("join").expect("it joins");
    let asking = master.with(|header| header.round = Round::new(3));
    asking.say(address, &Message::Request(Request { t1: LocalTime::from_nanos(1) }));
    let response = asking.hear("response").expect("a request is answered");
    let response = Frame::decode(&response).expect("a frame");
    assert_eq!((response.header.round, response.header.term), (Round::new(3), Term::new(9)));
    assert!(matches!(response.message, Message::Response(Response { t1, .. }) if t1 == LocalTime::from_nanos(1)));
    let first = correction(&master, 4, entry(0));
    master.send(address, &first);
    assert!(master.hear("acknowledgement").is_some(), "a correction is acknowledged");
    let status = slave.status();
    assert_eq!((status.adjustment, status.round, status.last_correction_ns), (1, 4, 300_000_000));
    assert!((ahead(&status) - ahead(&adrift) - Span::from_millis(300)).abs() < Span::from_micros(500), "{status:?}");
    let line = {
        let first = slave.status();
        let before = first.counters.received["announce"];
        lab.until("time passes", || (slave.status().counters.received["announce"] >= before + 3).then_some(()));
        StraightLine { first, second: slave.status() }
    };

    let stranger = Actor::new(&lab, 1).with(|header| header.term = Term::new(9));
    let with_reference = |reference| Entry { reference, ..entry(1) };
    let (now, far) = (lab.clock.now(), Span::from_secs(5));
    let other_life = Incarnation::new(adrift.incarnation + 1);
    let strikes: Vec<(DropReason, &Actor, Vec<u8>)> = vec![
        (DropReason::Stranger, &stranger, correction(&master, 5, entry(1))),
        (DropReason::Stranger, &stranger, stranger.frame(&announce)),
        (DropReason::Stranger, &stranger, correction(&master.with(|header| header.term = Term::new(10)), 5, entry(1))),
        (DropReason::StaleTerm, &master, correction(&master.with(|header| header.term = Term::new(8)), 5, entry(1))),
        (DropReason::StaleTerm, &stranger, stranger.as_node(2).frame(&announce)),
        (DropReason::StaleTerm, &master, master.with(|header| header.term = Term::default()).frame(&announce)),
        (DropReason::Rival, &stranger, stranger.as_node(2).with(|header| header.term = Term::new(10)).frame(&announce)),
        (
            DropReason::VainClaim,
            &stranger,
            stranger.as_node(2).with(|header| header.term = Term::new(10)).frame(&CLAIM),
        ),
        (DropReason::VainClaim, &stranger, stranger.as_node(2).with(|header| header.term = Term::LIMIT).frame(&CLAIM)),
        (DropReason::DuplicateCorrection, &master, first.clone()),
        (DropReason::StaleRound, &master, correction(&master, 3, entry(1))),
        (DropReason::StaleRound, &master, correction(&master, 0, entry(1))),
        (DropReason::StaleAdjustment, &master, correction(&master, 5, entry(0))),
        (DropReason::StaleAdjustment, &master, correction(&master, 5, entry(u32::MAX))),
        (DropReason::LateCorrection, &master, correction(&master, 5, with_reference(now - far))),
        (DropReason::LateCorrection, &master, correction(&master, 5, with_reference(now + far))),
        (DropReason::LateCorrection, &master, correction(&master, 5, with_reference(LocalTime::default()))),
        (
            DropReason::LateCorrection,
            &master,
            correction(&master, 5, with_reference(LocalTime::from_nanos((1 << 62) - 1))),
        ),
        (
            DropReason::StaleIncarnation,
            &master,
            correction(&master, 5, Entry { node_incarnation: other_life, ..entry(1) }),
        ),
        (DropReason::WrongRole, &master, master.frame(&Message::Acknowledgement(ACKNOWLEDGED))),
        (
            DropReason::TooLarge,
            &master,
            correction(&master, 6, Entry { correction: Span::from_nanos((1 << 62) - 1), ..entry(1) }),
        ),
        (
            DropReason::TooLarge,
            &master,
            correction(&master, 7, Entry { correction: Span::from_nanos(1 - (1 << 62)), ..entry(1) }),
        ),
    ];
    for (reason, from, bytes) in strikes {
        attack.expect(reason, 1, || from.send(address, &bytes));
    }
    // A leave in the master's name from elsewhere.
    stranger.say(address, &Message::Leave(Leave { successor: None }));
    lab.until("the leave has arrived", || (slave.status().counters.received["leave"] == 1).then_some(()));
    assert_eq!(slave.status().master_id, Some(1), "a forged leave takes nobody away");
    assert_eq!(attack.raised, names(&OF_A_SLAVE));
    line.assert_goes_on(&slave);
    assert!(slave.log().lines().count() < 20, "{}", slave.log());

    // The right one is still taken: nothing that was dropped has left a trace.
    master.send(address, &correction(&master, 8, entry(1)));
    lab.until("it is corrected", || (slave.status().adjustment == 2).then_some(()));
    is_over.store(true, Ordering::Relaxed);
    heartbeat.join().expect("the heartbeat ends");
}

/// The best claim there is.
const CLAIM: Message<'static> =
    Message::Claim(Claim { priority: i32::MAX, merit: Merit::Appointed, is_handover: false });

const ACKNOWLEDGED: Acknowledgement = Acknowledgement { adjustment: 1, outcome: Outcome::Slewed };

/// Slaves of the test's own answer a master with every wrong thing.
#[test]
fn a_master_is_moved_by_no_answer_that_it_did_not_ask_for() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master --max-slaves 2 --interval 60s --min-interval 60s");
    let slave = lab.join("slave", "--role slave --node-id 5 --inject-offset 20ms");
    lab.agree(&[&master, &slave]);
    let line = StraightLine::of(&lab, &slave, &master);
    let own_line = StraightLine::of(&lab, &master, &master);
    let address = master.address(&lab);
    let term = Term::new(master.status().term);
    // A join with the master's own term would be another's mastership, and end this one.
    let newcomer = Actor::new(&lab, 70);
    let actor = newcomer.with(|header| header.term = term);
    let mut attack = Attack::on(&lab, &master);

    let nonsense = actor.response_to(&actor.frame(&Message::Request(Request { t1: LocalTime::default() })), |_| {});
    attack.expect(DropReason::Stranger, 1, || actor.say(address, &nonsense));
    attack.expect(DropReason::Stranger, 1, || actor.say(address, &Message::Acknowledgement(ACKNOWLEDGED)));
    attack.expect(DropReason::WrongRole, 1, || {
        actor.say(address, &Message::Request(Request { t1: LocalTime::default() }))
    });
    // Neither an announce nor claims depose it, whatever they promise.
    let announce = Announce {
        interval: Span::from_secs(1),
        priority: i32::MAX,
        merit: Merit::Established,
        heartbeat: Heartbeat::SHORTEST,
        members: u16::MAX,
        successors: Successors::new([NodeId::new(70)]),
    };
    attack.expect(DropReason::Rival, 1, || newcomer.say(address, &Message::Announce(announce)));
    attack.expect(DropReason::VainClaim, 2, || {
        newcomer.with(|header| header.term = Term::LIMIT).say(address, &CLAIM);
        let handover = Claim { priority: i32::MAX, merit: Merit::Appointed, is_handover: true };
        actor.say(address, &Message::Claim(handover));
    });
    // The true slave's number from elsewhere, in its own and in another life.
    let five = Incarnation::new(slave.status().incarnation);
    let impostor = actor.as_node(5);
    attack.expect(DropReason::DuplicateNodeId, 1, || impostor.say(address, &nonsense));
    let double = impostor.with(|header| header.incarnation = five);
    attack.expect(DropReason::Stranger, 1, || double.say(address, &nonsense));
    // The master's own number.
    let mirror = newcomer.as_node(master.status().node_id);
    attack.expect(DropReason::DuplicateNodeId, 1, || mirror.say(address, &mirror.join()));

    // As a member: first whatever does not make it one, then an answer.
    newcomer.say(address, &newcomer.join());
    let request = actor.hear("request").expect("it is asked");
    attack.expect(DropReason::OwnFrame, 50, || (0..50).for_each(|_| actor.send(address, &request)));
    actor.say(address, &actor.response_to(&request, |_| {}));
    lab.until("it is a member", || (master.status().peers.len() == 2).then_some(()));
    attack.expect(DropReason::Unsolicited, 2, || {
        actor.say(address, &actor.response_to(&request, |_| {}));
        actor.say(address, &Message::Acknowledgement(ACKNOWLEDGED));
    });
    attack.expect(DropReason::StaleIncarnation, 1, || {
        let reborn = actor.with(|header| header.incarnation = Incarnation::new(78));
        reborn.say(address, &reborn.response_to(&request, |_| {}));
    });
    let second = actor.hear("request").expect("a burst goes on");
    attack.expect(DropReason::ImplausibleTimes, 1, || {
        let lie = |response: &mut Response| response.t2 = response.t3 + Span::from_nanos(1);
        actor.say(address, &actor.response_to(&second, lie));
    });
    let third = actor.hear("request").expect("a burst goes on");
    attack.expect(DropReason::ImplausibleTimes, 1, || {
        // It claims to have pondered for longer than the request was away.
        let lie = |response: &mut Response| response.t3 = response.t2 + Span::from_secs(100);
        actor.say(address, &actor.response_to(&third, lie));
    });
    attack.expect(DropReason::TableFull, 1, || newcomer.as_node(71).say(address, &newcomer.join()));
    assert_eq!(attack.raised, names(&OF_A_MASTER));
    own_line.assert_goes_on(&master);
    line.assert_goes_on(&slave);
    assert!(master.log().lines().count() < 20, "{}", master.log());
}

/// A member may lie in every field of every answer; the honest stay together.
#[test]
fn a_liar_among_the_slaves_moves_nobody() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master --interval 62.5ms");
    let slaves = ["one", "two"].map(|name| lab.join(name, "--role slave"));
    let nodes = [&master, &slaves[0], &slaves[1]];
    let before = ahead(&lab.agree(&nodes)[0]);
    let address = master.address(&lab);
    let newcomer = Actor::new(&lab, 70);
    newcomer.say(address, &newcomer.join());
    let liar = newcomer.with(|header| header.term = Term::new(master.status().term));
    let largest = (1 << 62) - 1;
    // A little and much too far ahead and behind, and as far as a frame can say.
    let lies = [30_000_000, -30_000_000, 3_000_000_000, -3_000_000_000, largest, -largest];
    let fields = 6;
    let (mut told, mut worst, mut fastest) = (0, Span::ZERO, Skew::ZERO);
    while told < lies.len() * fields {
        let request = liar.hear("request").expect("it is asked, round after round");
        let lie = lies[told % lies.len()];
        let at = |shift: i64| LocalTime::from_nanos(lab.clock.now().as_nanos().saturating_add(shift).clamp(0, largest));
        let answer = liar.response_to(&request, |response| {
            // The truth, but for one field.
            let truth = lab.clock.pair();
            (response.t2, response.t3, response.ahead) = (at(0), at(0), truth.system.ahead_of(truth.local));
            match told / lies.len() {
                0 => response.ahead += Span::from_nanos(lie),
                1 => response.slew = Span::from_nanos(lie),
                2 => (response.t2, response.t3) = (at(lie), at(lie)),
                3 => response.rate = Skew::from_ppt(lie).clamped(Skew::MAX),
                4 => (response.adjustment, response.applied_round) = (u32::MAX, Round::new(u32::MAX)),
                _ => (response.error_bound, response.is_synchronised) = (Span::from_nanos(lie.abs()), true),
            }
            response.ahead = Span::from_nanos(response.ahead.as_nanos().clamp(-largest, largest));
        });
        liar.say(address, &answer);
        told += 1;
        let statuses = nodes.map(Daemon::status);
        assert!(spread(&statuses) < CLOSE, "lie {told}: {}", spread(&statuses));
        let listed = statuses[0].peers.iter().find(|peer| peer.node_id == 70);
        assert!(told > lies.len() || listed.is_none_or(|peer| !peer.counted), "lie {told}: {listed:?}");
        // What the liar talked them into would be slewed, slowly and by all: it shows here before their clocks show it.
        worst = statuses.iter().map(|status| Span::from_nanos(status.slew_ns).abs()).fold(worst, Span::max);
        fastest = statuses.iter().map(|status| Skew::from_ppb(status.skew_ppb).abs()).fold(fastest, Skew::max);
    }
    // All honest oscillators are one.
    assert!(worst < CLOSE && fastest < Skew::from_ppm(1_000), "they slew by {worst}, at {fastest}");
    let statuses = lab.agree(&nodes);
    assert!((ahead(&statuses[0]) - before).abs() < CLOSE, "{before} -> {}", ahead(&statuses[0]));
}

#[test]
fn a_node_with_peers_hears_nobody_else() {
    let lab = Lab::new();
    let peer = format!("127.0.0.1:{}", free_port());
    let slave =
        lab.start("slave", &format!("--role slave --bind 127.0.0.1:0 --peer {peer} --domain {}", lab.group_port));
    let address = slave.address(&lab);
    let stranger = Actor::new(&lab, 1).with(|header| header.term = Term::new(1));
    let mut attack = Attack::on(&lab, &slave);
    attack.expect(DropReason::NotAPeer, 2, || {
        stranger.say(
            address,
            &Message::Announce(Announce {
                interval: Span::from_secs(1),
                priority: 0,
                merit: Merit::Plausible,
                heartbeat: Heartbeat::SHORTEST,
                members: 0,
                successors: Successors::default(),
            }),
        );
        stranger.say(address, &Message::Request(Request { t1: LocalTime::default() }));
    });
    assert_eq!(slave.status().role, RoleName::Listening);
    stranger.socket.set_nonblocking(true).expect("set");
    assert!(stranger.hear("response").is_none(), "it does not answer either");
}

/// As fast as loopback carries them: the loop must come round to its signals and its deadlines all the same.
#[test]
fn a_flood_does_not_stop_the_loop() {
    let lab = Lab::new();
    // It logs every datagram, so that it is slower than the flood on any machine.
    let mut master = lab.join("master", "--role master --interval 250ms -v");
    let slave = lab.join("slave", "--role slave");
    lab.agree(&[&master, &slave]);
    let address = master.address(&lab);
    let is_over = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..4)
        .map(|_| {
            let (is_over, actor) = (Arc::clone(&is_over), Actor::new(&lab, 9));
            thread::spawn(move || {
                let frame = actor
                    .with(|header| header.domain = Domain::new(0))
                    .frame(&Message::Leave(Leave { successor: None }));
                while !is_over.load(Ordering::Relaxed) {
                    actor.send(address, &frame);
                }
            })
        })
        .collect();
    let announced = slave.status().counters.received["announce"];
    // The slave is asked, so that nothing here depends on the master's serving its status.
    let heard = lab.clock.now();
    lab.until("the master goes on announcing", || {
        (slave.status().counters.received["announce"] >= announced + 12).then_some(())
    });
    let took = lab.clock.now() - heard;
    master.signal(Signal::SIGTERM);
    let told = lab.clock.now();
    let (code, log, _) = master.end(&lab);
    let stopping = lab.clock.now() - told;
    is_over.store(true, Ordering::Relaxed);
    flood.into_iter().for_each(|thread| thread.join().expect("the flood ends"));
    assert_eq!(code, Some(0), "{log}");
    assert!(took < Span::from_secs(5) && stopping < Span::from_secs(2), "announces took {took}, the end {stopping}");
}

// ---- refusals -----------------------------------------------------------------------------------------------------

/// A node that cannot start says why in one line, prints nothing and exits with 1.
fn assert_refused(lab: &Lab, node: &mut Daemon, parts: &[&str]) {
    let (code, text, stdout) = node.end(lab);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{text}");
    assert!(text.starts_with("berkeleyd: ") && text.lines().count() == 1, "one line:\n{text}");
    for part in parts {
        assert!(text.contains(part), "it must say {part:?}: {text}");
    }
}

#[test]
fn what_the_system_refuses_is_one_line_and_exit_1() {
    let lab = Lab::new();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let taken = taken.local_addr().expect("bound");
    let group = format!("--group 239.255.5.25:{}", lab.group_port);
    for (options, parts) in [
        (format!("--bind {taken} {group}"), [taken.to_string().as_str(), "in use by another program"]),
        (format!("--bind 198.51.100.7:0 {group}"), ["198.51.100.7:0", "does not have that address"]),
        (format!("--bind 0.0.0.0:0 {group} --interface nosuch0"), ["nosuch0", "no network interface"]),
        (format!("--bind 0.0.0.0:0 {group} --interface 198.51.100.7"), ["198.51.100.7", "no network interface"]),
    ] {
        let mut node = lab.start("node", &format!("--role slave {options}"));
        assert_refused(&lab, &mut node, &parts);
        assert!(!node.socket.exists(), "it is not to be looked into");
    }
}

#[test]
fn a_status_socket_that_cannot_be_had_is_one_line_and_exit_1() {
    let lab = Lab::new();
    let running = lab.join("running", "--role slave");
    lab.until("it runs", || running.look());
    let file = lab.path("file");
    fs::write(&file, "precious").expect("written");
    for (socket, part) in [
        (running.socket.clone(), "in use by another node"),
        (file.clone(), "no socket"),
        (file.join("below"), "Not a directory"),
        (lab.path("none").join("below"), "No such file"),
        (PathBuf::from("/proc/berkeleyd.sock"), "status socket /proc/berkeleyd.sock: "),
    ] {
        let mut command = Command::new(BINARY);
        command.args(lab.group().split_whitespace()).args(["--role", "slave", "--status-socket"]).arg(&socket);
        let mut node = lab.spawn("refused", command, socket.clone());
        assert_refused(&lab, &mut node, &[&socket.display().to_string(), part]);
    }
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
    assert!(running.look().is_some(), "whoever had the socket keeps it");
}

/// Never run with the privilege: this machine's clock is not ours.
#[test]
fn the_systems_clock_needs_a_privilege_and_nothing_happens_without() {
    let lab = Lab::new();
    let may_set_clock = |mut cat: Command| {
        let status = String::from_utf8(cat.arg("/proc/self/status").output().ok()?.stdout).ok()?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        let sys_time = 1 << 25;
        Some(u64::from_str_radix(effective.trim(), 16).ok()? & sys_time != 0)
    };
    let is_privileged = may_set_clock(Command::new("cat")) != Some(false);
    let unprivileged = |program: &str| {
        let mut command = Command::new(if is_privileged { "setpriv" } else { program });
        if is_privileged {
            command.args(["--bounding-set=-sys_time", "--inh-caps=-sys_time", program]);
        }
        command
    };
    if may_set_clock(unprivileged("cat")) != Some(false) {
        return skip("there is no setpriv to take CAP_SYS_TIME away");
    }
    let socket = lab.path("node.sock");
    let mut command = unprivileged(BINARY);
    // And nobody who would correct it.
    command.args(["--role", "slave", "--clock", "system", "--bind", "127.0.0.1:0", "--peer", "127.0.0.1:9"]);
    command.args(["--state-dir".as_ref(), lab.path("state").as_os_str()]).arg("--status-socket").arg(&socket);
    let mut node = lab.spawn("node", command, socket.clone());
    assert_refused(&lab, &mut node, &["--clock system", "CAP_SYS_TIME"]);
    assert!(!socket.exists() && !lab.path("state").exists(), "nothing else happened before");
}

// ---- the peer in Python -------------------------------------------------------------------------------------------

/// Python 3 in the directory of the tests; `None` when the test has to be skipped.
fn python() -> Option<Command> {
    let has = Command::new("python3").args(["-c", "pass"]).output().is_ok_and(|output| output.status.success());
    if !has {
        skip("there is no python3");
        return None;
    }
    let mut command = Command::new("python3");
    // No compiled files beside the sources.
    command.arg("-B").current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")).stdin(Stdio::null());
    Some(command)
}

#[test]
fn the_python_peers_own_tests_pass() {
    if let Some(mut python) = python() {
        let output = python.arg("test_peer.py").output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Kills a process whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_peer_written_from_the_document_takes_part() {
    let Some(mut python) = python() else { return };
    let lab = Lab::new();
    let master = lab.join("master", "--role master");
    let slave = lab.join("slave", "--role slave --inject-offset 600ms");
    lab.agree(&[&master, &slave]);
    let (address, domain) = (master.address(&lab).to_string(), lab.group_port.to_string());
    python.args(["peer.py", "--master", &address, "--domain", &domain, "--node-id", "99"]);
    python.args(["--clock-offset", "1.5", "--drift", "30", "--corrections", "4", "--timeout", "10"]);
    let mut child = Killed(python.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs"));
    let lines = BufReader::new(child.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        let event: Value = serde_json::from_str(&line).expect("JSON");
        let kind = event["event"].as_str().expect("a name").to_owned();
        let is_first = !count.contains_key("correction");
        if kind == "correction" {
            assert_eq!(event["outcome"], if is_first { "stepped" } else { "slewed" });
        }
        if kind == "correction" && is_first {
            let status = master.status();
            assert!(status.peers.iter().any(|peer| peer.node_id == 99), "the master lists it: {status:?}");
            let shown = Span::from_nanos(event["disciplined_minus_system_ns"].as_i64().expect("a number"));
            assert!((shown - ahead(&status)).abs() < CLOSE, "{shown} there, {} here: {line}", ahead(&status));
        }
        *count.entry(kind).or_default() += 1;
    }
    let mut stderr = String::new();
    child.0.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
    let code = lab.until("it ends", || child.0.try_wait().expect("a child"));
    assert_eq!((code.code(), stderr.as_str()), (Some(0), ""), "{count:?}");
    let times = |kind: &str| count.get(kind).copied().unwrap_or(0);
    assert_eq!((times("following"), times("joined"), times("correction"), times("left")), (1, 1, 4, 1), "{count:?}");
    assert!(times("request") >= 9, "a burst of eight and rounds: {count:?}");
    assert_eq!(times("dropped"), 0, "{count:?}");
    lab.until("the master knows that it left", || {
        master.status().peers.iter().all(|peer| peer.node_id != 99).then_some(())
    });
    let dropped = master.status().counters.dropped;
    let bad = ["out_of_range", "length", "implausible_times", "unsolicited", "wrong_role", "stranger"];
    assert_eq!(bad.map(|reason| dropped[reason]), [0; 6], "{dropped:?}");
    lab.agree(&[&master, &slave]);
}

// ---- mastership ---------------------------------------------------------------------------------------------------

/// The one that all of these nodes follow in the same term, itself included; `None` while they do not agree.
fn agreed_master(nodes: &[&Daemon]) -> Option<u64> {
    let statuses: Vec<Status> = nodes.iter().map(|node| node.look()).collect::<Option<_>>()?;
    let first = statuses.first()?;
    let is_same = |status: &Status| (status.master_id, status.term) == (first.master_id, first.term);
    let masters = statuses.iter().filter(|status| status.role == RoleName::Master).count();
    first.master_id.filter(|_| masters == 1 && statuses.iter().all(is_same))
}

#[test]
fn nodes_without_configuration_elect_a_master_and_the_next_ones() {
    let lab = Lab::new();
    let mut nodes: Vec<Daemon> = (1..=5)
        .map(|number| lab.join(&format!("node{number}"), &format!("--node-id {number} --inject-offset {number}0ms")))
        .collect();
    let first = lab.until("one is master", || agreed_master(&nodes.iter().collect::<Vec<_>>()));
    lab.agree(&nodes.iter().collect::<Vec<_>>());
    let place = |nodes: &[Daemon], number: u64| {
        nodes.iter().position(|node| node.name == format!("node{number}")).expect("one of them")
    };
    lab.until("it knows who takes over", || {
        let peers = nodes[place(&nodes, first)].status().peers;
        (peers.len() == 4 && peers.iter().all(|peer| peer.counted)).then_some(())
    });

    // Without a word.
    let dead = nodes.remove(place(&nodes, first));
    let before: Vec<u32> = nodes.iter().map(|node| node.status().adjustment).collect();
    dead.signal(Signal::SIGKILL);
    let second = lab.until("another one takes over", || {
        agreed_master(&nodes.iter().collect::<Vec<_>>()).filter(|master| *master != first)
    });
    lab.until("and corrects all", || {
        nodes.iter().zip(&before).all(|(node, before)| node.status().adjustment > *before).then_some(())
    });
    let statuses = lab.agree(&nodes.iter().collect::<Vec<_>>());
    assert!(statuses.iter().all(|status| status.term >= 2), "{statuses:?}");
    let steps = |node: &Daemon| node.log().matches("stepped by=").count();
    assert!(nodes.iter().all(|node| steps(node) == 1), "a fail-over is no step");

    // With a word.
    let mut stops = nodes.remove(place(&nodes, second));
    stops.signal(Signal::SIGTERM);
    assert_eq!(stops.end(&lab).0, Some(0));
    lab.until("the third takes over", || {
        agreed_master(&nodes.iter().collect::<Vec<_>>()).filter(|master| ![first, second].contains(master))
    });
    let was_told = nodes.iter().any(|node| node.status().counters.received["leave"] > 0);
    assert!(was_told, "and did not wait for a silence");
}

#[test]
fn a_master_that_was_stopped_comes_back_as_a_slave() {
    let lab = Lab::new();
    let nodes: Vec<Daemon> =
        (1..=3).map(|number| lab.join(&format!("node{number}"), &format!("--node-id {number}"))).collect();
    let all: Vec<&Daemon> = nodes.iter().collect();
    let first = lab.until("one is master", || agreed_master(&all));
    lab.agree(&all);
    let (stopped, others): (Vec<&Daemon>, Vec<&Daemon>) =
        all.iter().partition(|node| node.name == format!("node{first}"));
    stopped[0].signal(Signal::SIGSTOP);
    lab.until("another one takes over", || agreed_master(&others).filter(|master| *master != first));
    stopped[0].signal(Signal::SIGCONT);
    let second = lab.until("all follow one", || agreed_master(&all));
    assert_ne!(second, first);
    assert!(stopped[0].log().contains("stepping down"), "{}", stopped[0].log());
    lab.agree(&all);
}
