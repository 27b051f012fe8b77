//! Two machines as far as the network can tell: network namespaces joined by a virtual cable, with the group and port
//! that nodes have by default. Needs root and changes nothing outside of the namespaces that it makes.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support as well as tests: what fails here is a broken test or a red one"
)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration as StdDuration;

use berkeleyd::commands::status::fetch;
use berkeleyd::local_clock::LocalClock;
use berkeleyd::status::Status;
use berkeleyd::time::{Skew, Span};

const BINARY: &str = env!("CARGO_BIN_EXE_berkeleyd");
/// What has not come about by then never will; addresses take a while to settle.
const PATIENCE: Span = Span::from_secs(15);
/// Between two looks.
const GLANCE: StdDuration = StdDuration::from_millis(20);
/// Agreement, for a machine that does many other things at the same time.
const CLOSE: Span = Span::from_millis(1);

/// Two namespaces and the cable between them: in each its end is called `cable`, and loopback is down.
struct Cable {
    ends: [String; 2],
    dir: tempfile::TempDir,
}

impl Cable {
    /// Lays it; `name` and the process make it unique.
    fn new(name: &str) -> Self {
        let ends = ["a", "b"].map(|end| format!("berkeleyd-{name}-{}-{end}", std::process::id()));
        let cable = Self { ends, dir: tempfile::tempdir().expect("a directory") };
        let [a, b] = &cable.ends;
        ip(&format!("netns add {a}"));
        ip(&format!("netns add {b}"));
        ip(&format!("-n {a} link add cable type veth peer name cable netns {b}"));
        for (end, address) in [(a, "10.55.25.1/24"), (b, "10.55.25.2/24")] {
            ip(&format!("-n {end} address add {address} dev cable"));
            ip(&format!("-n {end} link set cable up"));
        }
        cable
    }

    /// Starts a node at one end (0 or 1) of the cable.
    fn start(&self, end: usize, name: &str, options: &str) -> Daemon {
        let socket = self.dir.path().join(format!("{name}.sock"));
        let log = self.dir.path().join(format!("{name}.log"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ends[end], BINARY]).args(options.split_whitespace());
        command.args(["--interface", "cable", "--status-socket"]).arg(&socket).stdin(Stdio::null());
        command.env_remove("RUST_LOG").stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
        Daemon { child: command.spawn().expect("it starts"), socket, log }
    }

    /// Waits until an end has an address that IPv6 can use: a new one is tentative for a second or two.
    fn wait_for_link_local(&self) {
        until("link-local addresses", || {
            let settled = self.ends.iter().all(|end| {
                let addresses = ip(&format!("-n {end} -6 address show dev cable scope link"));
                addresses.contains("fe80::") && !addresses.contains("tentative")
            });
            settled.then_some(())
        });
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for end in &self.ends {
            // It may never have been made; the cable goes with its end.
            let _ = Command::new("ip").args(["netns", "delete", end]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs `ip` with these arguments and gives what it prints.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip (iproute2) is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A running node: killed when it goes out of scope, its log shown when the test has failed.
struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    fn look(&self) -> Option<Status> {
        serde_json::from_str(&fetch(&self.socket).ok()?).ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let status = fetch(&self.socket).unwrap_or_else(|error| format!("no status: {error}"));
            eprintln!("{}\n{status}", fs::read_to_string(&self.log).unwrap_or_default());
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until there is something to see, and fails when there is not.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = LocalClock::new(Skew::ZERO).expect("a clock");
    let deadline = clock.now() + PATIENCE;
    let (_sender, never) = mpsc::channel::<()>();
    loop {
        let is_over = clock.now() > deadline;
        if let Some(seen) = look() {
            return seen;
        }
        assert!(!is_over, "in {PATIENCE}: {what}");
        let _ = never.recv_timeout(GLANCE);
    }
}

/// Waits until all are synchronised and show the same time, the master having all others for slaves.
fn agree(nodes: &[Daemon]) -> Vec<Status> {
    until("they agree", || {
        let statuses: Vec<Status> = nodes.iter().map(Daemon::look).collect::<Option<_>>()?;
        let ahead = || statuses.iter().map(|status| status.clock.disciplined_ns - status.clock.system_ns);
        let spread = Span::from_nanos(ahead().max()? - ahead().min()?);
        let is_complete = statuses[0].peers.len() == nodes.len() - 1;
        let is_over = is_complete && spread < CLOSE && statuses.iter().all(|status| status.synchronised);
        is_over.then_some(statuses)
    })
}

/// One master at one end, a slave at the other, and one beside the master that has to share neither port nor address.
fn the_defaults_agree(name: &str, any: &str, is_ours: fn(&str) -> bool) {
    let cable = Cable::new(name);
    if any == "[::]" {
        cable.wait_for_link_local();
    }
    let options = |role: &str| format!("--role {role} --bind {any}:5525");
    let nodes = [
        cable.start(0, "master", &options("master")),
        cable.start(1, "slave", &format!("{} --inject-offset -1.5s --inject-drift 80", options("slave"))),
    ];
    let statuses = agree(&nodes);
    assert_eq!(statuses[0].address, format!("{any}:5525"));
    let peer = &statuses[0].peers[0].address;
    assert!(is_ours(peer), "{peer}: the slave is asked where it lives");

    // What is sent to the group arrives at the other end: the correction of two slaves is one frame to all.
    let corrections = statuses[1].counters.received["correction"];
    let announces = statuses[1].counters.received["announce"];
    until("rounds and announces go on", || {
        let received = nodes[1].look()?.counters.received;
        (received["correction"] >= corrections + 2 && received["announce"] >= announces + 4).then_some(())
    });
    let statuses = agree(&nodes);
    for status in &statuses {
        assert_eq!(status.counters.send_errors, 0, "{status:?}");
        let kinds = ["out_of_range", "length", "stranger", "duplicate_node_id", "not_a_peer"];
        assert_eq!(kinds.map(|kind| status.counters.dropped[kind]), [0; 5], "{status:?}");
    }
    // Multicast is looped back: the master hears itself, on the one socket that it has.
    assert!(statuses[0].counters.dropped["own_frame"] > 0);
}

#[test]
#[ignore = "needs root: cargo test --test netns -- --ignored"]
fn two_machines_agree_by_the_defaults() {
    the_defaults_agree("v4", "0.0.0.0", |peer| peer == "10.55.25.2:5525");
}

#[test]
#[ignore = "needs root: cargo test --test netns -- --ignored"]
fn two_machines_agree_by_the_defaults_on_ipv6() {
    the_defaults_agree("v6", "[::]", |peer| peer.starts_with("[fe80::") && peer.ends_with("]:5525"));
}

/// Several slaves of one machine share the group's port, each with a port of its own beside it.
#[test]
#[ignore = "needs root: cargo test --test netns -- --ignored"]
fn one_frame_corrects_all_slaves_at_the_other_end() {
    let cable = Cable::new("many");
    let mut nodes = vec![cable.start(0, "master", "--role master --interval 250ms")];
    for index in 0..3 {
        let wrong = format!("--inject-offset {index}00ms --inject-drift {index}0");
        let address = "--bind 10.55.25.2:0 --group 239.255.5.25:5525";
        nodes.push(cable.start(1, &format!("slave{index}"), &format!("--role slave {address} {wrong}")));
    }
    let before = agree(&nodes);
    let rounds = 8;
    let after = until("rounds go on", || {
        let statuses: Vec<Status> = nodes.iter().map(Daemon::look).collect::<Option<_>>()?;
        (statuses[0].round >= before[0].round + rounds).then_some(statuses)
    });
    let sent = |statuses: &[Status]| statuses[0].counters.sent["correction"];
    let per_round = (sent(&after) - sent(&before)) / u64::from(rounds);
    assert!(per_round <= 1, "{per_round} frames for each round: they are not corrected together");
    agree(&nodes);
}
