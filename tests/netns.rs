//! Several machines as far as the network can tell: network namespaces joined by two switches and a cable between them, with the
//! group and port that nodes have by default. Links are cut, heal, and carry only one way.
//!
//! The whole program moves into a user namespace of its own first, so that it needs no privilege, can change nothing outside,
//! and leaves nothing behind. Where that is not allowed its tests are ignored; root can run them all the same.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support as well as tests: what fails here is a broken test or a red one"
)]

mod support;

use std::fs;
use std::io;
use std::ops::Range;
use std::process::{Command, ExitCode, Stdio};

use berkeleyd::status::{RoleName, Status};
use berkeleyd::time::{Skew, Span};
use libtest_mimic::{Arguments, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};
use support::lab::{BINARY, CLOSE, Course, Daemon, Lab, agreed_master, spread};
use support::steady::steadily;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let obstacle = enter_own_namespaces().err();
    if let Some(error) = &obstacle {
        eprintln!("ignored: no user namespaces ({error}); as root: cargo test --test netns -- --ignored");
    }
    let trials = TESTS.iter().map(|(name, test)| {
        let run = move || {
            steadily(test);
            Ok(())
        };
        Trial::test(*name, run).with_ignored_flag(obstacle.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Makes this process root of namespaces that nobody else sees. There must be no second thread yet.
fn enter_own_namespaces() -> io::Result<()> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    // Where `ip` keeps the names of namespaces.
    mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    Ok(())
}

/// Machines on two switches, left and right, with a cable between the switches. Each machine has one interface, called `cable`, and
/// no loopback.
struct Lan {
    lab: Lab,
    /// Where the switches are.
    hub: String,
    hosts: Vec<String>,
}

impl Lan {
    /// So many machines at each switch; `name` and the process make them unique.
    fn new(name: &str, left: usize, right: usize) -> Self {
        let unique = format!("berkeleyd-{name}-{}", std::process::id());
        let hosts = (1..=left + right).map(|number| format!("{unique}-{number}")).collect();
        let lan = Self { lab: Lab::new(), hub: format!("{unique}-hub"), hosts };
        let hub = &lan.hub;
        ip(&format!("netns add {hub}"));
        for switch in ["left", "right"] {
            // Without a querier in the net a switch that snoops might forget who listens.
            ip(&format!("-n {hub} link add {switch} type bridge mcast_snooping 0"));
            ip(&format!("-n {hub} link set {switch} up"));
        }
        ip(&format!("-n {hub} link add to-right type veth peer name to-left"));
        lan.plug("to-right", "left");
        lan.plug("to-left", "right");
        for (number, host) in (1..).zip(&lan.hosts) {
            ip(&format!("netns add {host}"));
            ip(&format!("-n {host} link add cable type veth peer name host{number} netns {hub}"));
            lan.plug(&format!("host{number}"), if number <= left { "left" } else { "right" });
            ip(&format!("-n {host} address add 10.55.25.{number}/24 dev cable"));
            ip(&format!("-n {host} link set cable up"));
        }
        lan
    }

    fn plug(&self, port: &str, switch: &str) {
        ip(&format!("-n {} link set {port} master {switch}", self.hub));
        ip(&format!("-n {} link set {port} up", self.hub));
    }

    /// Gives a machine of the left a second interface, called `below`, at the right switch, where the addresses are 10.55.26.0/24.
    fn bridge(&self, host: usize) {
        let (name, hub) = (&self.hosts[host - 1], &self.hub);
        ip(&format!("-n {name} link add below type veth peer name below{host} netns {hub}"));
        self.plug(&format!("below{host}"), "right");
        ip(&format!("-n {name} address add 10.55.26.{host}/24 dev below"));
        ip(&format!("-n {name} link set below up"));
    }

    /// Gives a machine of the right an address of that network alone.
    fn settle_below(&self, host: usize) {
        let name = &self.hosts[host - 1];
        ip(&format!("-n {name} address flush dev cable"));
        ip(&format!("-n {name} address add 10.55.26.{host}/24 dev cable"));
    }

    /// Starts a node on a machine, numbered from 1.
    fn start(&self, host: usize, name: &str, options: &str) -> Daemon {
        self.launch(host, name, &format!("--interface cable {options}"))
    }

    /// The same without a word on interfaces.
    fn launch(&self, host: usize, name: &str, options: &str) -> Daemon {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.hosts[host - 1])).arg(BINARY);
        self.lab.launch(name, command, options)
    }

    /// Starts a node that stands for election on a machine and has its number. Its oscillator runs fast on the left and slow on the
    /// right by [`DRIFT`].
    fn stand(&self, host: usize, options: &str) -> Daemon {
        let drift = if self.is_left(host) { DRIFT } else { Skew::ZERO - DRIFT };
        let wrong = format!("--inject-drift {}", drift.as_ppb() / 1_000);
        self.start(host, &format!("node{host}"), &format!("--node-id {host} {wrong} {options}"))
    }

    /// The same on several machines, their clocks wrong by up to 50 ms.
    fn stand_all(&self, hosts: Range<usize>, options: &str) -> Vec<Daemon> {
        hosts.map(|host| self.stand(host, &format!("--inject-offset {host}0ms {options}"))).collect()
    }

    fn is_left(&self, host: usize) -> bool {
        ip(&format!("-n {} link show dev host{host}", self.hub)).contains(" master left ")
    }

    /// Sets one end of the cable between the switches up or down.
    fn trunk(&self, state: &str) {
        ip(&format!("-n {} link set to-right {state}", self.hub));
    }

    /// Nothing leaves through this port of a switch any more; what comes in by it still passes.
    fn mute(&self, port: &str) {
        self.set_port(port, "off");
        // Who was learned there would still be sent to.
        ip(&format!("-n {} link set {port} type bridge_slave fdb_flush", self.hub));
    }

    /// It carries both ways again.
    fn unmute(&self, port: &str) {
        self.set_port(port, "on");
    }

    fn set_port(&self, port: &str, state: &str) {
        let flags = ["flood", "mcast_flood", "bcast_flood", "learning"].map(|flag| format!("{flag} {state}")).join(" ");
        run("bridge", &format!("-n {} link set dev {port} {flags}", self.hub));
    }

    /// Waits until each machine has an address that IPv6 can use: a new one is tentative for a second or two.
    fn wait_for_link_local(&self) {
        self.lab.until("link-local addresses", || {
            let settled = self.hosts.iter().all(|host| {
                let addresses = ip(&format!("-n {host} -6 address show dev cable scope link"));
                addresses.contains("fe80::") && !addresses.contains("tentative")
            });
            settled.then_some(())
        });
    }

    /// Waits until these follow one of them in one term, agree, and are all averaged but the master.
    fn settle(&self, nodes: &[&Daemon]) -> u64 {
        self.lab.until("one of them is master and counts all others", || {
            let master = agreed_master(nodes)?;
            let status = nodes.iter().find_map(|node| node.look().filter(|status| status.node_id == master))?;
            let counted = status.peers.iter().filter(|peer| peer.counted).count();
            (counted == nodes.len() - 1).then_some(master)
        });
        self.lab.agree(nodes);
        agreed_master(nodes).expect("still the same")
    }

    /// Waits until each of these masters has begun so many rounds more, and sees on the way that nobody takes another term.
    fn while_terms_stay(&self, course: &mut Course<'_>, masters: &[u64], rounds: u32) {
        let before = course.look();
        self.lab.until("rounds go on", || {
            let now = course.look();
            for (before, now) in before.iter().zip(&now) {
                assert_eq!(now.term, before.term, "node {} flaps", now.node_id);
            }
            let has_gone_on = |before: &Status, now: &Status| now.round >= before.round + rounds;
            let mut of_masters = before.iter().zip(&now).filter(|(_, now)| masters.contains(&now.node_id));
            of_masters.all(|(before, now)| has_gone_on(before, now)).then_some(())
        });
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.hub]) {
            // It may never have been made; cables go with their ends.
            let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs `ip` with these arguments and gives what it prints.
fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} (iproute2): {error}"));
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The oscillators of the two sides differ by twice this: what a master did not know of them would show at once.
const DRIFT: Skew = Skew::from_ppm(250);
/// One of two masters steps down within this time after a link between them is whole again.
const HEALING: Span = Span::from_secs(2);

/// Waits until all agree, the first having all others for slaves.
fn agree(lan: &Lan, nodes: &[Daemon]) -> Vec<Status> {
    lan.lab.until("the master has all others", || (nodes[0].look()?.peers.len() == nodes.len() - 1).then_some(()));
    lan.lab.agree(&nodes.iter().collect::<Vec<_>>())
}

/// One master at one end, a slave at the other, and one beside the master that has to share neither port nor address.
fn the_defaults_agree(name: &str, any: &str, is_ours: fn(&str) -> bool) {
    let lan = Lan::new(name, 1, 1);
    if any == "[::]" {
        lan.wait_for_link_local();
    }
    let options = |role: &str| format!("--role {role} --bind {any}:5525");
    let nodes = [
        lan.start(1, "master", &options("master")),
        lan.start(2, "slave", &format!("{} --inject-offset -1.5s --inject-drift 80", options("slave"))),
    ];
    let statuses = agree(&lan, &nodes);
    assert_eq!(statuses[0].address, format!("{any}:5525"));
    let peer = &statuses[0].peers[0].address;
    assert!(is_ours(peer), "{peer}: the slave is asked where it lives");

    // What is sent to the group arrives at the other end: the correction of two slaves is one frame to all.
    let corrections = statuses[1].counters.received["correction"];
    let announces = statuses[1].counters.received["announce"];
    lan.lab.until("rounds and announces go on", || {
        let received = nodes[1].look()?.counters.received;
        (received["correction"] >= corrections + 2 && received["announce"] >= announces + 4).then_some(())
    });
    let statuses = agree(&lan, &nodes);
    for status in &statuses {
        assert_eq!(status.counters.send_errors, 0, "{status:?}");
        let kinds = ["out_of_range", "length", "stranger", "duplicate_node_id", "not_a_peer"];
        assert_eq!(kinds.map(|kind| status.counters.dropped[kind]), [0; 5], "{status:?}");
    }
    // Multicast is looped back: the master hears itself, on the one socket that it has.
    assert!(statuses[0].counters.dropped["own_frame"] > 0);
}

fn two_machines_agree_by_the_defaults() {
    the_defaults_agree("v4", "0.0.0.0", |peer| peer == "10.55.25.2:5525");
}

fn two_machines_agree_by_the_defaults_on_ipv6() {
    the_defaults_agree("v6", "[::]", |peer| peer.starts_with("[fe80::") && peer.ends_with("]:5525"));
}

/// A network without a way out has no default route: the only interface is meant, and where there are two, one has to be named.
fn an_interface_need_not_be_named_where_there_is_only_one() {
    let lan = Lan::new("sole", 2, 0);
    let nodes = [1, 2].map(|host| lan.launch(host, &format!("node{host}"), &format!("--node-id {host}")));
    lan.settle(&nodes.each_ref());
    lan.bridge(1);
    let host = format!("--net=/run/netns/{}", lan.hosts[0]);
    let refused = Command::new("nsenter").arg(host).args([BINARY, "--bind", "0.0.0.0:0"]).output().expect("nsenter");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("name one of cable, below with --interface"), "{said}");
    assert_eq!(refused.status.code(), Some(1), "{said}");
}

/// A master without a group says the same to hundreds of peers in a row, more than the system takes before the first have left.
fn what_a_slow_interface_has_no_room_for_waits() {
    let lan = Lan::new("slow", 1, 1);
    let shape = |verb: &str, rate: &str| {
        run("tc", &format!("-n {} qdisc {verb} dev cable root tbf rate {rate} burst 20kb limit 10mb", lan.hosts[0]));
    };
    shape("add", "100mbit");
    let peers: Vec<String> = (1..=800).map(|port| format!("--peer 10.55.25.2:{}", 20_000 + port)).collect();
    let master = lan.start(1, "master", &format!("--role master --bind 10.55.25.1:5525 {}", peers.join(" ")));
    let sent = |status: &Status| status.counters.sent["announce"];
    let after_announces = |count: u64| {
        let before = sent(&lan.lab.until("it runs", || master.look()));
        lan.lab.until("more announces", || master.look().filter(|status| sent(status) >= before + count))
    };
    assert_eq!(after_announces(8_000).counters.send_errors, 0);

    // One that stands still holds nothing up for long: what cannot be sent is counted, and the node lives on.
    shape("change", "8kbit");
    let status = lan.lab.until("losses", || master.look().filter(|status| status.counters.send_errors > 800));
    assert!(master.log().contains("datagrams could not be sent within 20.000 ms"), "{}", master.log());
    assert!(master.log().lines().count() < 20, "not a line for each datagram");
    shape("change", "1gbit");
    let before = status.counters.send_errors;
    lan.lab.until("it sends again", || {
        let errors = after_announces(800).counters.send_errors;
        (errors >= before && after_announces(3_200).counters.send_errors == errors).then_some(())
    });
}

/// Several slaves of one machine share the group's port, each with a port of its own beside it.
fn one_frame_corrects_all_slaves_at_the_other_end() {
    let lan = Lan::new("many", 1, 1);
    let mut nodes = vec![lan.start(1, "master", "--role master --interval 250ms")];
    for index in 0..3 {
        let wrong = format!("--inject-offset {index}00ms --inject-drift {index}0");
        let address = "--bind 10.55.25.2:0 --group 239.255.5.25:5525";
        nodes.push(lan.start(2, &format!("slave{index}"), &format!("--role slave {address} {wrong}")));
    }
    let before = agree(&lan, &nodes);
    let rounds = 8;
    let after = lan.lab.until("rounds go on", || {
        let statuses: Vec<Status> = nodes.iter().map(Daemon::look).collect::<Option<_>>()?;
        (statuses[0].round >= before[0].round + rounds).then_some(statuses)
    });
    let sent = |statuses: &[Status]| statuses[0].counters.sent["correction"];
    let per_round = (sent(&after) - sent(&before)) / u64::from(rounds);
    assert!(per_round <= 1, "{per_round} frames for each round: they are not corrected together");
    agree(&lan, &nodes);
}

/// Which of these are on the left, and which on the right.
fn sides<'a>(lan: &Lan, nodes: &'a [Daemon]) -> [Vec<&'a Daemon>; 2] {
    let (left, right) = (1..).zip(nodes).partition::<Vec<_>, _>(|(host, _)| lan.is_left(*host));
    [left, right].map(|side| side.into_iter().map(|(_, node)| node).collect())
}

/// How often a node has stepped its clock.
fn steps(node: &Daemon) -> usize {
    node.log().matches("stepped by=").count()
}

fn two_halves_become_one_without_a_step_and_go_on_when_they_are_parted() {
    let lan = Lan::new("halves", 3, 3);
    // They have never heard of each other, and differ.
    lan.trunk("down");
    let apart = Span::from_millis(3);
    let offset = |host| if lan.is_left(host) { "0ms" } else { "3ms" };
    let nodes: Vec<Daemon> = (1..7).map(|host| lan.stand(host, &format!("--inject-offset {}", offset(host)))).collect();
    let all: Vec<&Daemon> = nodes.iter().collect();
    let halves = sides(&lan, &nodes);
    for half in &halves {
        lan.settle(half);
    }
    let mut course = Course::of(all.iter().copied(), DRIFT);
    assert!((spread(&course.look()) - apart).abs() < CLOSE);
    let become_one = |course: &mut Course<'_>| {
        lan.trunk("up");
        lan.lab.within(HEALING, "one master remains", || agreed_master(&all));
        lan.lab.until("all agree", || {
            let statuses = course.look();
            (spread(&statuses) < apart.part(10) && statuses.iter().all(|status| status.synchronised)).then_some(())
        });
        lan.settle(&all)
    };
    become_one(&mut course);

    lan.trunk("down");
    let before: Vec<u32> = course.look().iter().map(|status| status.adjustment).collect();
    lan.lab.until("each half has a master of its own, who corrects it", || {
        let statuses = course.look();
        let is_corrected = statuses.iter().zip(&before).all(|(status, before)| status.adjustment > *before + 2);
        let masters = halves.each_ref().map(|half| agreed_master(half));
        let is_parted = masters[0].is_some_and(|left| left <= 3) && masters[1].is_some_and(|right| right > 3);
        (is_corrected && is_parted).then_some(())
    });
    // Both know the rate of what they were.
    assert!(spread(&course.look()) < CLOSE, "{}", spread(&course.look()));
    become_one(&mut course);
    assert_eq!(all.iter().map(|node| steps(node)).collect::<Vec<_>>(), [1; 6], "one step each, at the start");
}

fn the_side_below_its_quorum_holds_over() {
    let lan = Lan::new("quorum", 3, 2);
    let nodes = lan.stand_all(1..6, "--quorum 3 --interval 250ms");
    let all: Vec<&Daemon> = nodes.iter().collect();
    lan.settle(&all);
    let [most, few] = sides(&lan, &nodes);
    let mut course = Course::of(all.iter().copied(), DRIFT);
    lan.trunk("down");
    lan.lab.until("the larger side has a master", || agreed_master(&most).filter(|master| *master <= 3));
    let master = lan.lab.until("the smaller side has one too, who holds over", || {
        let master = agreed_master(&few).filter(|master| *master > 3)?;
        nodes[usize::try_from(master).expect("small") - 1]
            .log()
            .contains("below quorum: holdover heard=2")
            .then_some(master)
    });
    let adjustments = |statuses: &[Status]| statuses.iter().map(|status| status.adjustment).collect::<Vec<_>>();
    let before = adjustments(&course.look());
    lan.while_terms_stay(&mut course, &[master], 12);
    let after = adjustments(&course.look());
    assert_eq!(before[3..], after[3..], "nobody is corrected on the smaller side");
    assert!(before[..3].iter().zip(&after[..3]).all(|(before, after)| *after > before + 2), "{before:?} {after:?}");

    lan.trunk("up");
    lan.lab.within(HEALING, "one master remains", || agreed_master(&all));
    lan.lab.until("all are corrected again", || {
        let statuses = course.look();
        let is_corrected = adjustments(&statuses).iter().zip(&after).all(|(now, before)| now > before);
        (is_corrected && spread(&statuses) < CLOSE && agreed_master(&all).is_some()).then_some(())
    });
    assert_eq!(all.iter().map(|node| steps(node)).collect::<Vec<_>>(), [1; 5], "one step each, at the start");
}

/// Left hears right, and right does not hear left. The master is on the left, or on the right.
fn a_link_that_carries_one_way_does_not_flap(name: &str, first: Range<usize>) {
    let lan = Lan::new(name, 3, 2);
    let mut nodes = lan.stand_all(first.clone(), "--interval 250ms");
    lan.settle(&nodes.iter().collect::<Vec<_>>());
    // Who comes later deposes nobody.
    let others = if first.start == 1 { first.end..6 } else { 1..first.start };
    nodes.extend(lan.stand_all(others, "--interval 250ms"));
    nodes.sort_by_key(|node| node.name.clone());
    let all: Vec<&Daemon> = nodes.iter().collect();
    let master = lan.settle(&all);
    assert!(first.contains(&usize::try_from(master).expect("small")));
    let [_, right] = sides(&lan, &nodes);
    let mut course = Course::of(all.iter().copied(), DRIFT);

    lan.mute("to-right");
    let masters = if master <= 3 {
        let other = lan.lab.until("the right elects a master", || agreed_master(&right).filter(|master| *master > 3));
        vec![master, other]
    } else {
        lan.lab.until("the master hears the left no more", || {
            let peers = course.look().into_iter().find(|status| status.node_id == master)?.peers;
            let silent = peers.iter().filter(|peer| peer.reason.as_deref() == Some("silent")).count();
            (silent == 3).then_some(())
        });
        vec![master]
    };
    lan.while_terms_stay(&mut course, &masters, 30);

    lan.unmute("to-right");
    lan.lab.within(HEALING, "one master remains", || agreed_master(&all));
    lan.lab.until("all agree again", || {
        let statuses = course.look();
        (spread(&statuses) < CLOSE && statuses.iter().all(|status| status.synchronised)).then_some(())
    });
    assert_eq!(all.iter().map(|node| steps(node)).collect::<Vec<_>>(), [1; 5], "one step each, at the start");
}

fn a_master_that_is_heard_and_does_not_hear_the_others_does_not_flap() {
    a_link_that_carries_one_way_does_not_flap("heard", 4..6);
}

fn a_master_that_hears_and_is_not_heard_by_the_others_does_not_flap() {
    a_link_that_carries_one_way_does_not_flap("hears", 1..4);
}

fn a_deaf_master_is_replaced_and_comes_back_as_a_slave() {
    let lan = Lan::new("deaf", 3, 2);
    let nodes = lan.stand_all(1..6, "--interval 250ms");
    let all: Vec<&Daemon> = nodes.iter().collect();
    let deaf = lan.settle(&all);
    let others: Vec<&Daemon> = all.iter().copied().filter(|node| node.name != format!("node{deaf}")).collect();
    lan.mute(&format!("host{deaf}"));
    let second = lan.lab.until("another one takes over", || agreed_master(&others).filter(|master| *master != deaf));
    // It hears nobody, stands, and nobody that it could hear refuses; the master takes a term above, once.
    let deaf_node = all.iter().find(|node| node.name == format!("node{deaf}")).expect("one of them");
    lan.lab.until("the deaf one is master of itself, and its claim is answered by a higher term", || {
        let status = deaf_node.look().filter(|status| status.role == RoleName::Master)?;
        others.iter().all(|node| node.status().term > status.term).then_some(())
    });
    let mut course = Course::of(others.iter().copied(), DRIFT);
    lan.while_terms_stay(&mut course, &[second], 30);
    lan.unmute(&format!("host{deaf}"));
    lan.lab.within(HEALING, "one master remains", || agreed_master(&all));
    lan.lab.agree(&all);
    assert_eq!(all.iter().map(|node| steps(node)).collect::<Vec<_>>(), [1; 5], "one step each, at the start");
}

fn a_masters_link_goes_down_and_comes_back() {
    let lan = Lan::new("link", 3, 2);
    let nodes = lan.stand_all(1..6, "--interval 250ms");
    let all: Vec<&Daemon> = nodes.iter().collect();
    let first = lan.settle(&all);
    let host = &lan.hosts[usize::try_from(first).expect("small") - 1];
    let (cut, others): (Vec<&Daemon>, Vec<&Daemon>) = all.iter().partition(|node| node.name == format!("node{first}"));
    let mut course = Course::of(all.iter().copied(), DRIFT);
    ip(&format!("-n {host} link set cable down"));
    let second = lan.lab.until("another one takes over", || agreed_master(&others).filter(|master| *master != first));
    lan.while_terms_stay(&mut course, &[second], 8);
    ip(&format!("-n {host} link set cable up"));
    lan.lab.within(HEALING, "one master remains", || agreed_master(&all));
    lan.lab.until("all agree again", || {
        let statuses = course.look();
        (spread(&statuses) < CLOSE && statuses.iter().all(|status| status.synchronised)).then_some(())
    });
    assert_eq!(all.iter().map(|node| steps(node)).collect::<Vec<_>>(), [1; 5], "one step each, at the start");
    assert!(cut[0].log().lines().count() < 60, "not a line for each datagram that cannot be sent: {}", cut[0].log());
}

/// Two machines stand in both networks. By the defaults, but for what differs between the two.
fn gateways_lead_one_network_by_the_time_of_another() {
    let lan = Lan::new("gateways", 3, 2);
    lan.trunk("down");
    for gateway in 1..=2 {
        lan.bridge(gateway);
    }
    for leaf in 4..=5 {
        lan.settle_below(leaf);
    }
    let lead = |host| {
        let options =
            "--role master --domain 2 --interface below --upper-domain 1 --upper-interface cable --interval 250ms";
        lan.launch(host, &format!("gateway{host}"), &format!("--node-id {host} --inject-drift {host}00 {options}"))
    };
    let gateways = [lead(1), lead(2)];
    // Leaves that were there long before them would elect a master.
    for gateway in &gateways {
        gateway.address(&lan.lab);
    }
    let root = lan.stand(3, "--domain 1 --inject-offset 40ms --interval 250ms");
    let leaves = [lan.stand(4, "--domain 2 --inject-offset 1s"), lan.stand(5, "--domain 2 --inject-offset -1s")];
    let all = [&gateways[0], &gateways[1], &root, &leaves[0], &leaves[1]];
    let below = [all[0], all[1], all[3], all[4]];
    let hears_above = |status: &Status| status.upper.as_ref().is_some_and(|upper| upper.state == "heard");
    let leader = lan.lab.until("one of them leads the leaves", || {
        agreed_master(&below).filter(|_| gateways.iter().all(|gateway| gateway.look().is_some_and(|s| hears_above(&s))))
    });
    lan.lab.agree(&all);
    for status in [&root, &leaves[0], &leaves[1]].map(Daemon::status) {
        assert_eq!(
            status.counters.dropped["other_domain"], 0,
            "each frame goes out where its domain lives: {status:?}"
        );
    }

    // The leader loses the network above, and only that.
    let (lost, other) = if leader == 1 { (1, 2) } else { (2, 1) };
    let mut course = Course::of(all, Skew::from_ppm(250));
    ip(&format!("-n {} link set host{lost} down", lan.hub));
    lan.lab.until("the other one leads", || {
        course.look();
        agreed_master(&below).filter(|master| *master == other)
    });
    lan.lab.until("all agree", || {
        let statuses = course.look();
        (spread(&statuses) < CLOSE && statuses.iter().all(|status| status.synchronised)).then_some(())
    });
    ip(&format!("-n {} link set host{lost} up", lan.hub));
    lan.lab.until("the first one hears the network above again", || {
        course.look();
        gateways.iter().all(|gateway| gateway.look().is_some_and(|status| hears_above(&status))).then_some(())
    });
    assert_eq!(agreed_master(&below), Some(other), "and leaves the leaves to the other");
    lan.lab.agree(&all);
    assert_eq!(leaves.each_ref().map(steps), [1; 2], "one step each, at the start");
}

/// All of them, by name.
const TESTS: [(&str, fn()); 12] = [
    ("what_a_slow_interface_has_no_room_for_waits", what_a_slow_interface_has_no_room_for_waits),
    ("an_interface_need_not_be_named_where_there_is_only_one", an_interface_need_not_be_named_where_there_is_only_one),
    ("gateways_lead_one_network_by_the_time_of_another", gateways_lead_one_network_by_the_time_of_another),
    ("two_machines_agree_by_the_defaults", two_machines_agree_by_the_defaults),
    ("two_machines_agree_by_the_defaults_on_ipv6", two_machines_agree_by_the_defaults_on_ipv6),
    ("one_frame_corrects_all_slaves_at_the_other_end", one_frame_corrects_all_slaves_at_the_other_end),
    (
        "two_halves_become_one_without_a_step_and_go_on_when_they_are_parted",
        two_halves_become_one_without_a_step_and_go_on_when_they_are_parted,
    ),
    ("the_side_below_its_quorum_holds_over", the_side_below_its_quorum_holds_over),
    (
        "a_master_that_hears_and_is_not_heard_by_the_others_does_not_flap",
        a_master_that_hears_and_is_not_heard_by_the_others_does_not_flap,
    ),
    (
        "a_master_that_is_heard_and_does_not_hear_the_others_does_not_flap",
        a_master_that_is_heard_and_does_not_hear_the_others_does_not_flap,
    ),
    ("a_deaf_master_is_replaced_and_comes_back_as_a_slave", a_deaf_master_is_replaced_and_comes_back_as_a_slave),
    ("a_masters_link_goes_down_and_comes_back", a_masters_link_goes_down_and_comes_back),
];
