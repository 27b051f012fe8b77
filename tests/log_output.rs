//! The log of real nodes in its forms: an object a line for programs, priorities for the journal, and what is said when a node does not start.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what fails here is a broken test or a red one")]

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use berkeleyd::time::Span;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use serde_json::Value;
use support::lab::{BINARY, Daemon, Lab, agreed_master, berkeleyd};

const LONG: Span = Span::from_secs(60);

/// The log's lines, each of which has to be an object with a time, a level, a target and a message.
fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["time", "level", "target", "message"] {
            assert!(object[field].is_string(), "{field}: {line}");
        }
        let time = object["time"].as_str().expect("a text");
        assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time} has microseconds");
        object
    };
    log.lines().map(object).collect()
}

/// What an ensemble with keys, a step, two elections, a stranger and a reload logs, all of it.
#[test]
fn every_line_of_a_life_is_an_object_with_its_fields() {
    let lab = Lab::new();
    let options = |number: u64| {
        format!("--node-id {number} --log-format json --log-level trace --interval 100ms --inject-offset {number}00ms")
    };
    let mut nodes: Vec<Daemon> = (1..=3).map(|number| lab.join(&format!("n{number}"), &options(number))).collect();
    let all: Vec<&Daemon> = nodes.iter().collect();
    lab.agree(&all);
    let master = lab.within(LONG, "they have a master", || agreed_master(&all));
    let index = usize::try_from(master).expect("small") - 1;
    nodes[index].signal(Signal::SIGHUP);
    lab.within(LONG, "it has answered", || nodes[index].log().contains("no key file to read again").then_some(()));
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    stranger.send_to(&[b'x'; 64], nodes[index].address(&lab)).expect("sent");
    lab.within(LONG, "it has heard it", || nodes[index].log().contains("\"reason\":\"magic\"").then_some(()));
    nodes[index].signal(Signal::SIGTERM);
    let (code, log, _) = nodes[index].end(&lab);
    assert_eq!(code, Some(0));
    let rest: Vec<&Daemon> = nodes.iter().filter(|node| node.look().is_some()).collect();
    lab.within(LONG, "another one has taken over", || agreed_master(&rest).filter(|heir| *heir != master));

    let objects_of_master = objects(&log);
    let found = |message: &str| {
        objects_of_master
            .iter()
            .find(|object| object["message"] == message)
            .unwrap_or_else(|| panic!("{message} is not told: {log}"))
    };
    let started = found("started");
    assert_eq!(
        (&started["node"], &started["level"], &started["clock"]),
        (&master.into(), &"info".into(), &"virtual".into())
    );
    assert_eq!(started["domain"], u64::from(lab.group_port));
    assert!(started["at"].as_str().is_some_and(|at| at.starts_with("127.0.0.1:")), "{started}");
    let privileges = found("privileges");
    assert!(privileges["uid"].is_u64() && privileges["no_new_privs"].is_boolean(), "{privileges}");
    assert_eq!((&found("master")["term"], &found("stopping")["signal"]), (&1.into(), &15.into()));
    let averaged = found("averaged");
    assert!(averaged["round"].is_u64() && averaged["correction_ns"].is_i64(), "{averaged}");
    assert_eq!(averaged["level"], "debug");
    assert!(found("stepped")["by_ns"].is_i64());
    assert!(found("dropped")["reason"].is_string() && log.contains("\"reason\":\"magic\""), "{log}");
    assert_eq!(
        found("frames are not authenticated: whoever reaches this network can move this clock (--key-file)")["level"],
        "warn"
    );
    for node in rest {
        let told = objects(&node.log());
        assert!(told.iter().any(|object| object["message"] == "following" && object["master"] == master));
        let levels: BTreeSet<&str> = told.iter().filter_map(|object| object["level"].as_str()).collect();
        assert!(levels.is_superset(&BTreeSet::from(["debug", "info", "warn"])), "{levels:?}");
    }
}

/// What people read, made of the same fields.
#[test]
fn the_same_line_for_people_has_spans_with_units() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master --node-id 7 -v");
    let slave = lab.join("slave", "--role slave --inject-offset 300ms");
    lab.agree(&[&master, &slave]);
    let port = master.status().address;
    for part in [
        format!("INFO  following master=7 at={port} term=1"),
        "INFO  stepped by=-".to_owned(),
        " ms round=1".to_owned(),
    ] {
        lab.within(LONG, &part, || slave.log().contains(&part).then_some(()));
    }
    assert!(!slave.log().contains("_ns="), "{}", slave.log());
    lab.within(LONG, "a round", || {
        master.log().contains("DEBUG averaged round=1 counted=2 of=2 correction=").then_some(())
    });
}

/// A node whose standard error is a pipe that `JOURNAL_STREAM` names, or another.
fn in_the_journal(lab: &Lab, options: &str, is_named: bool) -> (Child, BufReader<std::io::PipeReader>) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let stat = fstat(&writer).expect("a file");
    let inode = if is_named { stat.st_ino } else { stat.st_ino + 1 };
    let mut command = Command::new(BINARY);
    command.args(format!("{} {options}", lab.group()).split_whitespace()).env_clear();
    command.arg("--status-socket").arg(lab.path("journal.sock"));
    command.env("JOURNAL_STREAM", format!("{}:{inode}", stat.st_dev)).stdin(Stdio::null()).stderr(writer);
    (command.spawn().expect("it runs"), BufReader::new(reader))
}

#[test]
fn the_journal_gets_priorities_and_a_file_that_only_looks_like_it_does_not() {
    let lab = Lab::new();
    for (format, is_named) in [("text", true), ("text", false), ("json", true), ("json", false)] {
        let (mut node, log) = in_the_journal(&lab, &format!("--role master --log-format {format} -v"), is_named);
        let mut levels = BTreeSet::new();
        for line in log.lines().map(|line| line.expect("text")) {
            let (prefix, rest) = if is_named { line.split_at(3) } else { ("", line.as_str()) };
            let level = match format {
                "json" => objects(rest)[0]["level"].as_str().expect("a level").to_uppercase(),
                _ if is_named => rest.split_whitespace().next().expect("a level").to_owned(),
                _ => rest.split_whitespace().nth(1).expect("a level behind the time").to_owned(),
            };
            let expected = match level.as_str() {
                "ERROR" => "<3>",
                "WARN" => "<4>",
                "INFO" => "<6>",
                "DEBUG" => "<7>",
                other => panic!("{other}: {line}"),
            };
            assert_eq!(prefix, if is_named { expected } else { "" }, "{line}");
            levels.insert(level);
            if rest.contains("started") {
                kill(Pid::from_raw(i32::try_from(node.id()).expect("a process")), Signal::SIGTERM).expect("it runs");
            }
        }
        assert!(node.wait().expect("it ends").success());
        assert!(levels.len() >= 2, "{levels:?}");
    }
}

#[test]
fn why_a_node_does_not_start_is_one_line_in_the_form_that_was_asked_for() {
    let lab = Lab::new();
    // Something that is no socket lies there.
    let file = lab.path("file");
    File::create(&file).expect("made");
    let file = file.to_str().expect("UTF-8");
    let group = lab.group();
    let options: Vec<&str> = group.split_whitespace().chain(["--role", "slave", "--status-socket", file]).collect();
    let said = |more: &[&str]| {
        let output = berkeleyd(&[options.as_slice(), more].concat());
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (code, text) = said(&[]);
    assert!(code == Some(1) && text.lines().count() == 1 && text.starts_with("berkeleyd: status socket "), "{text}");
    for more in [&["--log-format", "json"][..], &["--log-format", "json", "-qqq"]] {
        let (code, text) = said(more);
        let told = objects(&text);
        assert_eq!((code, told.len(), &told[0]["level"]), (Some(1), 1, &"error".into()), "{text}");
        assert!(
            told[0]["message"].as_str().is_some_and(|text| text.starts_with("berkeleyd: status socket ")),
            "{text}"
        );
    }
    // Before it is known what form was asked for, it is a line.
    let (code, text) = said(&["--log-format", "xml"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("'--log-format <FORMAT>': must be one of text, json") && text.lines().count() == 1, "{text}");
}
