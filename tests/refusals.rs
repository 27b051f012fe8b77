//! Nodes that cannot start say why in one line, print nothing and exit with 1.

mod support;

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;

use support::lab::{BINARY, Daemon, Lab, skip};

/// It says why in one line, prints nothing and exits with 1.
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
