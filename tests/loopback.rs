//! The real binary on 127.0.0.1 and ::1: ensembles that agree, restarts, signals, and clients that want to know.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use berkeleyd::commands::status::fetch;
use berkeleyd::counters::{DropReason, FRAME_NAMES};
use berkeleyd::status::{RoleName, Status};
use berkeleyd::time::{Skew, Span};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::actor::Actor;
use support::lab::{Daemon, GLANCE, Lab, ahead, berkeleyd, free_port, has_ipv6, has_ipv6_multicast};
use support::steady::steadily;

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
    natural("/master_for_ms");
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
    let phrases = ["node         1 at 127.0.0.1:", &format!("role         slave of {id} for "), "yes, within "];
    for phrase in phrases.into_iter().chain([" stamps", " in all, rate ", " sent, ", " received, "]) {
        assert!(of_slave.contains(phrase), "{phrase:?}:\n{of_slave}");
    }
    let of_master = text(master);
    let heads = ["slave", "address", "offset", "± at most", "delay", "skew", "stamps", "heard", "counted"];
    for phrase in [&format!("node         {id} at 127.0.0.1:"), "role         master for "].into_iter().chain(heads) {
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
    steadily(a_slave_waits_for_its_master);
}

fn a_slave_waits_for_its_master() {
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
    // The ensemble runs at about the mean of the two: by what a busy machine measures in the first second, both are wrong.
    lab.until("the skew is known", || (slave.look()?.skew_ppb + 40_000).abs().lt(&20_000).then_some(()));
    slave.signal(Signal::SIGTERM);
    assert_eq!(slave.end(&lab).0, Some(0));
    let kept = fs::read_to_string(state.join("drift")).expect("it is kept");
    let kept = Skew::from_ratio(kept.trim().parse::<f64>().expect("in ppm") * 1e-6);
    assert!((kept + Skew::from_ppm(40)).abs() < Skew::from_ppm(20), "half of what the two differ by: {kept:?}");
    // Without a master nobody else can have told it.
    let options = format!("{options} --bind 127.0.0.1:0 --peer 127.0.0.1:9");
    let alone = lab.start("alone", &options);
    let remembered = Skew::from_ppb(lab.until("it runs", || alone.look()).skew_ppb);
    assert!((remembered - kept).abs() < Skew::from_ppb(100), "{remembered:?} of {kept:?}");
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
    let files = || fs::read_dir(format!("/proc/{}/fd", master.id())).expect("Linux").count();
    let (files_before, memory_before) = (files(), resident(&master));
    let lazy: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    // And as many who do not even wait for an answer.
    (0..100).for_each(|_| drop(connect()));
    // They say what nobody wants to hear, as much of it as the socket takes.
    for mut client in &lazy {
        client.set_nonblocking(true).expect("set");
        while client.write(&[0xff; 4_096]).is_ok() {}
    }
    let busy: Vec<UnixStream> = (0..50).map(|_| UnixStream::connect(&slave.socket).expect("it listens")).collect();
    // Behind all of them there is an answer, whole, and by then and afterwards rounds go on, and corrections are taken.
    let answered = |node: &Daemon| lab.within(CROWDING, "an honest client is served", || node.look());
    let (rounds, adjustments) = (answered(&master).round, slave.status().adjustment);
    lab.until("rounds go on", || (answered(&master).round >= rounds + 4).then_some(()));
    lab.until("clocks are corrected", || (slave.status().adjustment >= adjustments + 2).then_some(()));
    // Of the 100 only 8 are served at a time, and these share their answers.
    assert!(files() <= files_before + 9, "{} descriptors, and {files_before} before", files());
    let grown = resident(&master).saturating_sub(memory_before);
    assert!(grown < 8 << 10, "{grown} KiB more memory");
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
    lab.until("nothing is left of them", || (files() <= files_before + 1).then_some(()));
    let wake_ups = master.status().counters.wake_ups - before;
    assert!(wake_ups < 50_000, "{wake_ups} wake-ups: clients that have gone keep the loop busy");
}

/// The resident memory of a node in KiB.
fn resident(node: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Faster than they can be served: the loop must come round to its signals and its deadlines all the same.
#[test]
fn a_flood_of_status_clients_does_not_stop_the_loop() {
    let lab = Lab::new();
    let mut master = lab.join("master", "--role master --interval 250ms");
    let slave = lab.join("slave", "--role slave");
    lab.agree(&[&master, &slave]);
    let is_over = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..4)
        .map(|_| {
            let (is_over, socket) = (Arc::clone(&is_over), master.socket.clone());
            // Until then, or until nobody is there.
            thread::spawn(move || while !is_over.load(Ordering::Relaxed) && UnixStream::connect(&socket).is_ok() {})
        })
        .collect();
    // The slave is asked, so that nothing here depends on the master's serving its status.
    let announced = slave.status().counters.received["announce"];
    lab.until("the master goes on announcing", || {
        (slave.status().counters.received["announce"] >= announced + 12).then_some(())
    });
    master.signal(Signal::SIGTERM);
    assert_eq!(master.end(&lab).0, Some(0));
    is_over.store(true, Ordering::Relaxed);
    flood.into_iter().for_each(|thread| thread.join().expect("the flood ends"));
}

/// More than the buffer of a Unix socket takes, on any Linux: 208 KiB.
const LONG_STATUS: usize = 250_000;
/// Some hundred slaves make it that long; on a busy machine many of them are lost.
const CROWDING: Span = Span::from_secs(60);
