//! `berkeleyd status` beside real nodes, and beside what only looks like one: what it shows, what it waits for, and what it says
//! when there is nothing to see.

#![expect(clippy::expect_used, reason = "what fails here is a failed test")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use berkeleyd::commands::status::fetch;
use nix::pty::openpty;
use nix::sys::signal::Signal;
use support::lab::{BINARY, Lab, berkeleyd};

fn status(socket: &Path, options: &[&str]) -> Output {
    let socket = socket.to_str().expect("UTF-8");
    berkeleyd(&[&["status", "--socket", socket], options].concat())
}

/// Exit status 1, and one line that contains all of `parts`.
fn assert_failed(output: &Output, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?}: {text}");
    }
}

fn wait_for_sync(socket: &Path, options: &[&str]) -> Child {
    let mut command = Command::new(BINARY);
    command.args(["status", "--wait-sync", "--socket"]).arg(socket).args(options).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

#[test]
fn who_waits_for_synchronisation_waits_for_the_node_as_well() {
    let lab = Lab::new();
    let mut waiting = wait_for_sync(&lab.path("slave.sock"), &["--timeout", "60s"]);
    let slave = lab.join("slave", "--role slave --inject-offset 300ms");
    lab.until("it runs", || slave.look());
    // It dies without a word, its socket stays behind, and another one begins.
    slave.signal(Signal::SIGKILL);
    drop(slave);
    let slave = lab.join("slave", "--role slave --inject-offset 300ms");
    lab.until("it has asked for a master twice", || (slave.look()?.counters.sent["join"] >= 2).then_some(()));
    assert!(waiting.try_wait().expect("a child").is_none(), "nobody has corrected the node yet");

    let master = lab.join("master", "--role master");
    lab.until("the wait is over", || waiting.try_wait().expect("a child"));
    let output = waiting.wait_with_output().expect("its output");
    assert_eq!((output.status.code(), output.stdout.len(), output.stderr.len()), (Some(0), 0, 0), "{output:?}");
    assert!(slave.status().synchronised);

    // Now there is nothing to wait for, unless more is asked than can be had.
    for sound in ["--wait-sync", "--wait-sync=1h"] {
        assert_eq!(status(&slave.socket, &[sound, "--timeout=0s"]).status.code(), Some(0), "{sound}");
    }
    let output = status(&slave.socket, &["--wait-sync=1ns", "--timeout=300ms"]);
    assert_failed(&output, &["berkeleyd: not synchronised in 300.000 ms: the node's clock can be ", "more than 1 ns"]);
    drop(master);
}

#[test]
fn a_wait_that_is_too_long_says_what_it_waited_for() {
    let lab = Lab::new();
    let nobody = lab.path("nobody.sock");
    assert_failed(
        &status(&nobody, &["--wait-sync", "--timeout=10ms"]),
        &["not synchronised in 10.000 ms: no node runs here"],
    );
    let slave = lab.join("slave", "--role slave");
    lab.until("it runs", || slave.look());
    let output = status(&slave.socket, &["--wait-sync", "--timeout=10ms"]);
    assert_failed(&output, &["not synchronised in 10.000 ms: the node's clock was not corrected yet"]);
    slave.signal(Signal::SIGSTOP);
    let output = status(&slave.socket, &["--wait-sync", "--timeout=10ms"]);
    assert_failed(&output, &["not synchronised in 10.000 ms: ", " does not answer: it is stopped or overloaded"]);
}

/// Somebody who says `text` to each of those who connect, and nothing else.
fn speaker(path: &Path, text: String) {
    let listener = UnixListener::bind(path).expect("a socket");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // Who asks may have seen enough.
            let _ = stream.write_all(text.as_bytes());
        }
    });
}

#[test]
fn what_is_no_node_of_this_version_is_told_in_one_line() {
    let lab = Lab::new();
    for (name, text, parts) in [
        ("older", "{\"version\": \"0.0.9\", \"node_id\": 1}\n", &["has version 0.0.9", "--json"][..]),
        ("other", "{\"greeting\": \"hello\"}\n", &["is no node", "--socket"]),
        ("garbage", "\u{1b}[31m\n", &["is no node", "--socket"]),
        ("cut", "{\"version\": \"0.", &["ended within its answer"]),
        ("mute", "", &["ended within its answer"]),
    ] {
        let path = lab.path(name);
        speaker(&path, text.to_owned());
        assert_failed(&status(&path, &[]), parts);
        assert_failed(&status(&path, &["--wait-sync", "--timeout=10ms"]), parts);
    }
    // Programs may know that version.
    let output = status(&lab.path("older"), &["--json"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 35), "{output:?}");
    assert_failed(&status(&lab.path("cut"), &["--json"]), &["ended within its answer"]);

    let file = lab.path("file");
    File::create(&file).expect("a file");
    assert_failed(&status(&file, &[]), &["no node runs here"]);
    assert_failed(&status(&lab.path("nothing"), &[]), &["no node runs here", "nothing", "start one", "--socket"]);
}

/// What `berkeleyd status` shows on a terminal with these variables.
fn on_a_terminal(socket: &Path, variables: &[(&str, &str)]) -> String {
    let terminal = openpty(None, None).expect("a terminal");
    let mut command = Command::new(BINARY);
    command.args(["status", "--socket"]).arg(socket).env_clear().envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::null()).stdout(terminal.slave).spawn().expect("it runs");
    // The command holds the other end, too.
    drop(command);
    let mut text = Vec::new();
    // Linux says EIO when the last one has closed the other end.
    let _ = File::from(terminal.master).read_to_end(&mut text);
    assert!(child.wait().expect("a child").success());
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn colours_are_for_terminals_that_want_them_and_come_from_nobody_else() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master");
    let slave = lab.join("slave", "--role slave");
    lab.agree(&[&master, &slave]);
    let colour = ("TERM", "xterm");
    assert!(on_a_terminal(&slave.socket, &[colour]).contains("\u{1b}[32myes, within "));
    for plain in [&[colour, ("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
        assert!(!on_a_terminal(&slave.socket, plain).contains('\u{1b}'), "{plain:?}");
    }
    assert!(!String::from_utf8(status(&slave.socket, &[]).stdout).expect("UTF-8").contains('\u{1b}'));

    let impostor = lab.path("impostor");
    let honest = fetch(&slave.socket).expect("a status");
    speaker(&impostor, honest.replacen("\"version\":\"", "\"version\":\"\\u001b]0;title\\u0007", 1));
    let text = on_a_terminal(&impostor, &[colour]);
    assert!(text.contains("title") && !text.contains("\u{1b}]0"), "{text:?}");
}
