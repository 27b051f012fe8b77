//! A peer in another language, written from PROTOCOL.md alone, takes part in a real ensemble, and is its master for a while.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use berkeleyd::time::Span;
use nix::sys::signal::Signal;
use serde_json::Value;
use support::lab::{CLOSE, Lab, agreed_master, ahead, free_port, skip};
use support::steady::steadily;

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
        let output = python.args(["-m", "unittest", "discover"]).output().expect("it runs");
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
    takes_part(None);
}

#[test]
fn a_peer_written_from_the_document_takes_part_with_a_key() {
    takes_part(Some("000102030405060708090a0b0c0d0e0f"));
}

fn takes_part(key: Option<&str>) {
    let Some(mut python) = python() else { return };
    let lab = Lab::new();
    let mut authentication = String::new();
    if let Some(key) = key {
        let file = lab.path("keys");
        fs::write(&file, format!("[[key]]\nid = 5\nkey = '{key}'\n")).expect("written");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("ours");
        authentication = format!("--key-file {}", file.display());
        python.args(["peer.py", "--key", &format!("5:{key}")]);
    } else {
        python.arg("peer.py");
    }
    let master = lab.join("master", &format!("--role master {authentication}"));
    let slave = lab.join("slave", &format!("--role slave --inject-offset 600ms {authentication}"));
    lab.agree(&[&master, &slave]);
    let (address, domain) = (master.address(&lab).to_string(), lab.group_port.to_string());
    python.args(["--master", &address, "--domain", &domain, "--node-id", "99"]);
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
    // (On a busy machine it may answer so late that it is asked again, and one of its two answers is not waited for.)
    let bad = ["out_of_range", "length", "implausible_times", "wrong_role", "stranger"];
    assert_eq!(bad.map(|reason| dropped[reason]), [0; 5], "{dropped:?}");
    lab.agree(&[&master, &slave]);
}

/// Its next event of this kind, in JSON; whatever comes before is passed over.
fn event(lines: &mut impl Iterator<Item = String>, kind: &str) -> Value {
    let mut passed = String::new();
    for line in lines {
        let event: Value = serde_json::from_str(&line).expect("JSON");
        if event["event"] == kind {
            return event;
        }
        passed += &line;
    }
    panic!("no {kind} came, but {passed}");
}

#[test]
fn a_peer_written_from_the_document_is_refused_elected_and_hands_over() {
    steadily(a_peer_stands);
}

fn a_peer_stands() {
    let Some(mut python) = python() else { return };
    let lab = Lab::new();
    let [one, two, theirs] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    let start = |number: u64, bind: &str, other: &str| {
        let domain = lab.group_port;
        let options = format!("--node-id {number} --bind {bind} --peer {other} --peer {theirs} --domain {domain}");
        lab.start(&format!("node{number}"), &format!("{options} --inject-offset {number}00ms"))
    };
    let nodes = [start(1, &one, &two), start(2, &two, &one)];
    let first = lab.until("one is master", || agreed_master(&nodes.each_ref()));
    lab.agree(&nodes.each_ref());
    let (master, other) = if first == 1 { (&nodes[0], &nodes[1]) } else { (&nodes[1], &nodes[0]) };

    python.args(["standing_peer.py", "--bind", &theirs, "--peer", &one, "--peer", &two, "--node-id", "3"]);
    python.args([
        "--domain",
        &lab.group_port.to_string(),
        "--priority",
        "9",
        "--clock-offset",
        "-1.5",
        "--drift",
        "20",
    ]);
    python.args(["--rash", "--rounds", "4", "--timeout", "30"]);
    let mut child = Killed(python.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs"));
    let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines().map_while(Result::ok);

    // A slave like any other, and no master while there is one.
    assert_eq!(event(&mut lines, "correction")["outcome"], "stepped");
    let refused = event(&mut lines, "refused");
    assert_eq!((&refused["master"], &refused["term"]), (&Value::from(first), &Value::from(1)), "{refused}");
    lab.until("its clock counts", || {
        master.status().peers.iter().find(|peer| peer.node_id == 3).filter(|peer| peer.counted).map(drop)
    });
    lab.while_announcing(master, 2);

    // The first successor, as its priority says.
    master.signal(Signal::SIGKILL);
    let before = other.status();
    assert_eq!(event(&mut lines, "elected")["term"], 2);
    event(&mut lines, "averaged");
    let averaged = event(&mut lines, "averaged");
    // (Not so soon when answers take more than 20 ms each.)
    let status = lab.until("the one that is left agrees with it", || {
        other.look().filter(|status| {
            status.adjustment > before.adjustment && status.master_id == Some(3) && status.synchronised
        })
    });
    assert_eq!(status.term, 2, "{status:?}");
    let shown = Span::from_nanos(averaged["disciplined_minus_system_ns"].as_i64().expect("a number"));
    assert!((shown - ahead(&status)).abs() < CLOSE, "{shown} there, {} here", ahead(&status));

    // And hands over without a claim.
    assert_eq!(event(&mut lines, "resigned")["successor"], status.node_id);
    lab.until("who was named is master", || agreed_master(&[other]).filter(|master| *master == status.node_id));
    assert!(!other.log().contains("claiming term=3"), "it did not wait for a silence: {}", other.log());
    let dropped = other.status().counters.dropped;
    let bad = [
        "out_of_range",
        "length",
        "implausible_times",
        "unsolicited",
        "wrong_role",
        "late_correction",
        "stale_adjustment",
    ];
    assert_eq!(bad.map(|reason| dropped[reason]), [0; 7], "{dropped:?}");
    assert_eq!(other.log().matches("stepped by=").count(), 1, "one step, at the start");
    let mut stderr = String::new();
    child.0.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
    let code = lab.until("it ends", || child.0.try_wait().expect("a child"));
    assert_eq!((code.code(), stderr.as_str()), (Some(0), ""));
}
