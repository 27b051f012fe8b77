//! What a service manager hears from a real node: a socket that looks like systemd's (sd_notify(3)), in a file and in the abstract
//! namespace, and one that nobody reads.

#![expect(clippy::expect_used, reason = "what fails here is a failed test")]

mod support;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use berkeleyd::commands::status::fetch;
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use support::lab::{BINARY, Daemon, Lab, PATIENCE};

/// Starts a slave for a service manager at this address that wants a sign of life every 200 ms.
fn start(lab: &Lab, notify_socket: &str) -> Daemon {
    let mut command = Command::new("env");
    command.args([&format!("NOTIFY_SOCKET={notify_socket}"), "WATCHDOG_USEC=200000", BINARY]);
    lab.launch("slave", command, &format!("{} --role slave", lab.group()))
}

/// The next notes, until one of them is, or begins with, this.
fn hear(manager: &UnixDatagram, awaited: &str) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let mut buffer = [0; 1_024];
        let len = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{awaited}: {error}, after {heard:?}"));
        let note = String::from_utf8_lossy(buffer.get(..len).expect("so many")).into_owned();
        let is_awaited = note.starts_with(awaited);
        heard.push(note);
        if is_awaited {
            return heard;
        }
        assert!(heard.len() < 1_000, "{awaited} does not come: {heard:?}");
    }
}

fn a_life_is_told(lab: &Lab, manager: &UnixDatagram, name: &str) {
    manager.set_read_timeout(Some(PATIENCE.to_std())).expect("a timeout");
    let mut slave = start(lab, name);
    // Ready means ready: nobody has to try twice.
    assert_eq!(hear(manager, "READY=1"), ["READY=1"]);
    let status = fetch(&slave.socket).expect("the status socket is there");
    assert!(status.contains("\"seccomp\":true"), "the calls are filtered by then: {status}");
    hear(manager, "STATUS=listening: no master is heard");
    for _ in 0..3 {
        hear(manager, "WATCHDOG=1");
    }
    let master = lab.join("master", "--role master --node-id 7");
    hear(manager, "STATUS=slave of 7, term 1, synchronised");
    drop(master);
    hear(manager, "STATUS=listening: no master is heard, term 1, synchronised");
    slave.signal(Signal::SIGHUP);
    let reloading = hear(manager, "RELOADING=1").pop().expect("heard");
    let told = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|micros| micros.parse::<i64>().ok());
    let now = ClockId::CLOCK_MONOTONIC.now().expect("a clock").num_microseconds();
    let age = now - told.unwrap_or_else(|| panic!("{reloading}"));
    assert!((0..60_000_000).contains(&age), "in the same note, and on the manager's clock: {age} us ago");
    hear(manager, "READY=1");
    slave.signal(Signal::SIGTERM);
    hear(manager, "STOPPING=1");
    assert_eq!(slave.end(lab).0, Some(0));
}

#[test]
fn a_life_is_told_to_a_socket_in_a_file() {
    let lab = Lab::new();
    let path = lab.path("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    a_life_is_told(&lab, &manager, path.to_str().expect("UTF-8"));
}

#[test]
fn a_life_is_told_to_an_abstract_socket() {
    let lab = Lab::new();
    let name = format!("berkeleyd-test-{}-{}", std::process::id(), lab.group_port);
    let address = SocketAddr::from_abstract_name(&name).expect("an address");
    let manager = UnixDatagram::bind_addr(&address).expect("a socket");
    a_life_is_told(&lab, &manager, &format!("@{name}"));
}

#[test]
fn a_manager_that_never_reads_or_is_not_there_holds_nobody_up() {
    let lab = Lab::new();
    let path = lab.path("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    // Its queue is full before the node says a word.
    let crowd = UnixDatagram::unbound().expect("a socket");
    crowd.set_nonblocking(true).expect("set");
    while crowd.send_to(b"X=1", &path).is_ok() {}
    let master = lab.join("master", "--role master");
    for name in [path.clone(), lab.path("nobody")] {
        let mut slave = start(&lab, name.to_str().expect("UTF-8"));
        lab.agree(&[&master, &slave]);
        slave.signal(Signal::SIGTERM);
        assert_eq!(slave.end(&lab).0, Some(0));
    }
    drop(manager);
}

#[test]
fn an_address_that_is_none_is_told_and_changes_nothing() {
    let lab = Lab::new();
    let slave = start(&lab, &format!("/{}", "x".repeat(200)));
    lab.until("it runs", || slave.look());
    // Its log may be read later than its status.
    let is_told = || slave.log().contains("WARN  the service manager is told nothing: ").then_some(());
    lab.until("it says so", is_told);
}
