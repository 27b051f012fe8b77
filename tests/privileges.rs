//! What a running node may do, as the kernel says: its user, capabilities and filter in /proc, and what becomes of calls that are
//! not allowed. What takes root to be tried is skipped without.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what fails here is a broken test or a red one")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, IsTerminal, Write};
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{self, Command, Output, Stdio};
use std::{env, thread};

use berkeleyd::privileges::{Measure, Restraint};
use berkeleyd::state_dir::StateDir;
use berkeleyd::status::PrivilegeStatus;
use berkeleyd::time::Skew;
use clock_steering::Clock;
use clock_steering::unix::UnixClock;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::socket::{TimestampingFlag, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use nix::unistd::{Pid, getppid, getuid, setuid};

use support::lab::{BINARY, Daemon, Lab, agreed_master, berkeleyd, skip};

/// A user and group that need no name, and that have nothing.
const NOBODY: u32 = 65_534;
/// CAP_SETGID, CAP_SETUID and CAP_SETPCAP: what a change of user and a drop of all capabilities take.
const CAPS_TO_CHANGE: u64 = 0b111 << 6;

/// What the kernel says of a process, by the names of /proc/PID/status.
struct Kernel(BTreeMap<String, String>);

impl Kernel {
    fn of(process: &str) -> Self {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/status")).expect("it runs"))
    }

    fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    fn text(&self, name: &str) -> &str {
        &self.0[name]
    }

    fn set(&self, name: &str) -> u64 {
        u64::from_str_radix(self.text(name), 16).expect("a set")
    }

    /// Permitted, effective, inheritable, bounding, ambient.
    fn capabilities(&self) -> [u64; 5] {
        ["CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"].map(|name| self.set(name))
    }

    /// All four numbers of a user or group are this one.
    fn is_all(&self, name: &str, number: u32) -> bool {
        self.text(name).split_whitespace().all(|each| each == number.to_string())
    }
}

/// What this process may do, if that is enough to see it given up.
fn root() -> Option<Kernel> {
    let kernel = Kernel::of("self");
    if kernel.is_all("Uid", 0) && kernel.set("CapEff") & CAPS_TO_CHANGE == CAPS_TO_CHANGE {
        return Some(kernel);
    }
    skip("only root has privileges to give up");
    None
}

/// A lab that other users may look into.
fn open_lab() -> Lab {
    let lab = Lab::new();
    fs::set_permissions(lab.path(""), Permissions::from_mode(0o755)).expect("ours");
    lab
}

#[test]
fn what_is_given_up_is_gone_and_what_is_left_out_is_not() {
    let Some(before) = root() else { return };
    let [permitted, _, _, bounding, _] = before.capabilities();
    let none = [0; 5];
    let all = |kernel: &Kernel| {
        let [now, effective, _, limit, _] = kernel.capabilities();
        assert_eq!((now, effective, limit), (permitted, permitted, bounding));
        kernel.capabilities()
    };
    // Options; the user; all capabilities are left; no-new-privs; the filter.
    for (options, user, has_all, no_new_privs, seccomp) in [
        ("", 0, false, true, true),
        ("--user 65534:65534", NOBODY, false, true, true),
        ("--without capabilities", 0, true, true, true),
        ("--user 65534:65534 --without capabilities", NOBODY, true, true, true),
        ("--without seccomp", 0, false, true, false),
        ("--without seccomp --without no-new-privs", 0, false, false, false),
        ("--user root --without seccomp --without no-new-privs --without capabilities", 0, true, false, false),
    ] {
        let lab = open_lab();
        let socket = lab.path("node.sock");
        // With a group too many.
        let mut command = Command::new("setpriv");
        command.args(["--groups=4", BINARY, "--role", "slave", "--status-socket"]).arg(&socket);
        command.args(lab.group().split_whitespace()).args(options.split_whitespace());
        let node = lab.spawn("node", command, socket);
        let status = lab.until("it runs", || node.look());
        let kernel = Kernel::of(&node.id().to_string());
        assert!(kernel.is_all("Uid", user) && kernel.is_all("Gid", user), "{options}: {:?}", kernel.0);
        assert_eq!(kernel.text("Groups"), if options.contains("--user") { "" } else { "4" }, "{options}");
        assert_eq!(kernel.capabilities(), if has_all { all(&kernel) } else { none }, "{options}");
        assert_eq!(kernel.text("NoNewPrivs") == "1", no_new_privs, "{options}");
        assert_eq!(kernel.text("Seccomp") == "2", seccomp, "{options}");

        let shown = status.privileges;
        let capabilities = shown.capabilities.len();
        assert_eq!(
            capabilities,
            if has_all { permitted.count_ones().try_into().expect("few") } else { 0 },
            "{options}"
        );
        let expected = PrivilegeStatus { uid: user, gid: user, no_new_privs, seccomp, ..shown.clone() };
        assert_eq!(shown, expected, "{options}");
        lab.until("the log says it", || node.log().contains(&format!("privileges {shown}")).then_some(()));
        let warns = node.log().matches("runs as root").count();
        assert_eq!(warns, usize::from(!options.contains("--user")), "{options}: {}", node.log());
        let people = Command::new(BINARY).args(["status", "--socket"]).arg(&node.socket).output().expect("it runs");
        assert!(String::from_utf8_lossy(&people.stdout).contains(&shown.to_string()), "{options}");
    }
}

/// Without root there is less to give up, and it is given up all the same.
#[test]
fn anybody_is_left_with_nothing() {
    let lab = open_lab();
    let dir = lab.path("nobody");
    fs::create_dir(&dir).expect("made");
    let socket = dir.join("node.sock");
    let mut command = Command::new(BINARY);
    if getuid().is_root() {
        chown(&dir, Some(NOBODY), Some(NOBODY)).expect("ours");
        command = Command::new("setpriv");
        // With a capability that it could give on to what it executes.
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args(["--inh-caps=+net_raw", "--ambient-caps=+net_raw", BINARY]);
    }
    command.args(lab.group().split_whitespace()).args(["--role", "slave", "--status-socket"]).arg(&socket);
    let user = if getuid().is_root() { format!("{NOBODY}:{NOBODY}") } else { format!("{0}:{0}", getuid()) };
    // Who is there already need not go anywhere.
    command.args(["--user", &user]);
    let node = lab.spawn("node", command, socket);
    let status = lab.until("it runs", || node.look());
    let kernel = Kernel::of(&node.id().to_string());
    let [permitted, effective, inheritable, _, ambient] = kernel.capabilities();
    assert_eq!([permitted, effective, inheritable, ambient], [0; 4]);
    assert_eq!((kernel.text("NoNewPrivs"), kernel.text("Seccomp")), ("1", "2"));
    assert!(status.privileges.no_new_privs && status.privileges.seccomp, "{:?}", status.privileges);
}

#[test]
fn who_is_not_root_cannot_become_somebody_else() {
    let lab = open_lab();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", BINARY]);
    if !getuid().is_root() {
        command = Command::new(BINARY);
    }
    let socket = lab.path("node.sock");
    command.args(lab.group().split_whitespace()).args(["--user", "1:1", "--status-socket"]).arg(&socket);
    let mut node = lab.spawn("node", command, socket);
    let (code, log, _) = node.end(&lab);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.starts_with("berkeleyd: cannot change the user: only root can") && log.lines().count() == 1, "{log}");
}

#[test]
fn code_that_was_brought_along_is_not_filtered_and_that_is_said() {
    let lab = Lab::new();
    let socket = lab.path("node.sock");
    let mut command = Command::new("env");
    command.args(["LD_PRELOAD=libm.so.6", BINARY]).args(lab.group().split_whitespace());
    command.args(["--role", "slave", "--status-socket"]).arg(&socket);
    let node = lab.spawn("node", command, socket);
    let status = lab.until("it runs", || node.look());
    assert!(!status.privileges.seccomp && status.privileges.no_new_privs, "{:?}", status.privileges);
    lab.until("the log says it", || node.log().contains("privileges").then_some(()));
    assert_eq!(node.log().matches("not filtered: LD_PRELOAD").count(), 1, "{}", node.log());
}

/// From the election to the end of the master and the own one, all files in the hands of another user.
#[test]
fn a_whole_life_takes_no_more_than_that() {
    let lab = open_lab();
    let user = if getuid().is_root() { "--user 65534:65534" } else { "" };
    let state = |number: u64| lab.path(&format!("state{number}"));
    let options =
        |number: u64| format!("--node-id {number} {user} --inject-drift 80 --state-dir {}", state(number).display());
    let start = |number: u64| lab.join(&format!("node{number}"), &options(number));
    let mut nodes: Vec<Daemon> = (1..=4).map(start).collect();
    let all = |nodes: &[Daemon]| nodes.iter().collect::<Vec<_>>().into_iter().map(|node| node.id()).collect::<Vec<_>>();
    let is_filtered = |nodes: &[Daemon]| {
        for process in all(nodes) {
            assert_eq!(Kernel::of(&process.to_string()).text("Seccomp"), "2");
        }
    };
    lab.agree(&nodes.iter().collect::<Vec<_>>());
    is_filtered(&nodes);
    let first = lab.until("one is master", || agreed_master(&nodes.iter().collect::<Vec<_>>()));

    // It is stopped, comes back and follows its successor.
    let stopped = usize::try_from(first - 1).expect("few");
    nodes[stopped].signal(Signal::SIGSTOP);
    let others = |nodes: &[Daemon]| -> Option<u64> {
        agreed_master(&nodes.iter().filter(|node| node.name != format!("node{first}")).collect::<Vec<_>>())
    };
    let second = lab.until("another is master", || others(&nodes).filter(|master| *master != first));
    nodes[stopped].signal(Signal::SIGCONT);
    lab.until("it follows", || agreed_master(&nodes.iter().collect::<Vec<_>>()).filter(|master| *master == second));

    // The next one is killed; it comes back and finds what it left.
    let killed = nodes.iter().position(|node| node.name == format!("node{second}")).expect("it runs");
    drop(nodes.swap_remove(killed));
    lab.until("a third is master", || {
        agreed_master(&nodes.iter().collect::<Vec<_>>()).filter(|master| *master != second)
    });
    nodes.push(start(second));
    lab.agree(&nodes.iter().collect::<Vec<_>>());
    is_filtered(&nodes);

    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut node = nodes.pop().expect("four");
        node.signal(signal);
        let (code, log, _) = node.end(&lab);
        assert_eq!(code, Some(0), "{log}");
    }
    for entry in fs::read_dir(lab.path("")).expect("ours").flatten().filter(|entry| entry.path().is_dir()) {
        let owner = if user.is_empty() { getuid().as_raw() } else { NOBODY };
        let files: Vec<_> = fs::read_dir(entry.path()).expect("ours").flatten().collect();
        let owners = files.iter().chain([&entry]).map(|file| file.metadata().expect("there").uid());
        assert!(owners.into_iter().all(|uid| uid == owner), "{entry:?}");
        assert!(!user.is_empty() || !files.is_empty());
    }
    assert!((1..=4).filter(|number| state(*number).join("drift").exists()).count() >= 2, "what was learned is kept");
}

/// Root could read any key file at the start, and nobody could at the first SIGHUP.
#[test]
fn keys_are_read_as_the_user_who_reads_them_again() {
    if root().is_none() {
        return;
    }
    let lab = open_lab();
    let file = lab.path("keys");
    fs::write(&file, berkeleyd(&["keygen"]).stdout).expect("written");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("ours");
    let options = format!("--role slave --user {NOBODY}:{NOBODY} --key-file {}", file.display());

    let mut roots = lab.join("roots", &options);
    let (code, log, _) = roots.end(&lab);
    assert_eq!(code, Some(2), "{log}");
    assert!(
        log.contains("keys: user 65534 may not read it: chown it to that user") && log.lines().count() == 1,
        "{log}"
    );

    chown(&file, Some(NOBODY), Some(NOBODY)).expect("ours");
    let node = lab.join("node", &options);
    let read = |times| (node.log().matches("authenticating with keys=").count() == times).then_some(());
    lab.until("it has keys", || read(1));
    node.signal(Signal::SIGHUP);
    lab.until("it has read them again", || read(2));
    assert_eq!(Kernel::of(&node.id().to_string()).text("Seccomp"), "2");
}

/// As Kubernetes mounts one for a pod with `fsGroup`: links to root's file, which the group may read.
#[test]
fn a_mounted_secret_is_a_key_file() {
    if root().is_none() {
        return;
    }
    let lab = open_lab();
    let mounted = |name: &str| lab.path(name);
    fs::create_dir(mounted("..2026")).expect("ours");
    let (secret, file) = (mounted("..2026/berkeleyd.keys"), mounted("berkeleyd.keys"));
    fs::write(&secret, berkeleyd(&["keygen"]).stdout).expect("written");
    symlink("..2026", mounted("..data")).expect("ours");
    symlink("..data/berkeleyd.keys", &file).expect("ours");
    chown(&secret, None, Some(NOBODY)).expect("ours");
    let options = format!("--role slave --user {NOBODY}:{NOBODY} --key-file {}", file.display());
    let mode = |mode| fs::set_permissions(&secret, Permissions::from_mode(mode)).expect("ours");

    mode(0o444);
    let (code, log, _) = lab.join("open", &options).end(&lab);
    assert!(code == Some(2) && log.contains("others may use it (its mode is 0444)"), "{log}");

    mode(0o440);
    let node = lab.join("node", &options);
    lab.until("it has keys", || node.log().contains("authenticating with keys=").then_some(()));
}

#[test]
fn only_the_owner_may_look() {
    let lab = open_lab();
    let owned = |path: &Path| {
        let file = fs::symlink_metadata(path).expect("there");
        (file.mode() & 0o777, file.uid())
    };
    let node = lab.join("ours", "--role slave");
    lab.until("it runs", || node.look());
    assert_eq!(owned(&node.socket), (0o600, getuid().as_raw()));
    if root().is_none() {
        return;
    }
    let given = lab.join("theirs", "--role slave --user 1:1");
    lab.until("it runs", || given.look());
    assert_eq!(owned(&given.socket), (0o600, 1));
    let look = |user: &str, socket: &Path| -> Output {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", BINARY]);
        command.args(["status", "--json", "--socket"]).arg(socket).output().expect("setpriv (util-linux)")
    };
    for (user, socket, may) in
        [("65534", &node.socket, false), ("65534", &given.socket, false), ("1", &given.socket, true)]
    {
        let output = look(user, socket);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), may, "{user} {socket:?}: {said}");
        assert_eq!(said.contains("is another user's"), !may, "{said}");
    }
}

#[test]
fn the_status_socket_takes_no_orders() {
    let lab = Lab::new();
    let (master, slave) = (lab.join("master", "--role master"), lab.join("slave", "--role slave"));
    lab.agree(&[&master, &slave]);
    let before = slave.status();
    for order in [&b"step 1s\n"[..], b"{\"allow_step\":true}\n", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4_096]] {
        let mut stream = UnixStream::connect(&slave.socket).expect("it listens");
        // It may have answered and hung up by then.
        let _ = stream.write_all(order);
    }
    let after = slave.status();
    assert_eq!(after.incarnation, before.incarnation);
    assert!(after.clock.disciplined_ns - after.clock.system_ns < 1_000_000, "{after:?}");
}

// ---- calls, in processes of their own -----------------------------------------------------------------------------

/// In the environment of a child of this program: what it is to do.
const DEED: &str = "BERKELEYD_TEST_DEED";

/// Runs this program again, only the test of this name, with a deed; there [`deed`] gives it.
fn child(test: &str, deed: &str) -> Output {
    let mut command = Command::new(env::current_exe().expect("a program"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(DEED, deed).env_remove("LD_PRELOAD");
    command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).output().expect("it runs")
}

fn deed() -> Option<String> {
    env::var(DEED).ok()
}

fn restraint(steers_system_clock: bool) -> Restraint {
    Restraint::new(None, vec![Measure::Capabilities], steers_system_clock).expect("nothing is asked for")
}

/// Without touching the clock: the privilege is only kept.
#[test]
fn who_steers_the_clock_keeps_that_privilege_alone() {
    let test = "who_steers_the_clock_keeps_that_privilege_alone";
    if deed().is_some() {
        let user = format!("{NOBODY}:{NOBODY}").parse().expect("two numbers");
        let restraint = Restraint::new(Some(&user), Vec::new(), true).expect("we are root");
        restraint.change_user().expect("changed");
        println!("\n{}", fs::read_to_string("/proc/thread-self/status").expect("it runs"));
        assert_eq!(restraint.confine().expect("confined").capabilities, ["CAP_SYS_TIME"]);
        return;
    }
    let Some(before) = root() else { return };
    let output = child(test, "");
    let kernel = Kernel::parse(&String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sys_time = before.set("CapPrm") & 1 << 25;
    assert_eq!(kernel.capabilities(), [sys_time, sys_time, 0, 0, 0]);
    assert!(sys_time != 0 && kernel.is_all("Uid", NOBODY));
}

#[test]
fn a_call_that_is_not_needed_is_refused() {
    if deed().is_none() {
        let output = child("a_call_that_is_not_needed_is_refused", "");
        assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert!(restraint(false).confine().expect("confined").seccomp);
    let raw = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4));
    let refused = [
        ("a program", Command::new("true").status().map(drop)),
        ("a thread", thread::Builder::new().spawn(|| {}).map(drop)),
        ("a datagram socket", UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("a raw socket", raw.map(drop)),
        ("a local stream", UnixStream::connect("/nonexistent").map(drop)),
        ("a signal", kill(getppid(), None).map_err(io::Error::from)),
        ("a signal to the group", kill(Pid::from_raw(0), None).map_err(io::Error::from)),
        ("another user", setuid(getuid()).map_err(io::Error::from)),
        ("a mode", fs::set_permissions("/nonexistent", Permissions::from_mode(0o777))),
        ("an owner", chown("/nonexistent", None, None)),
        ("a link", symlink("/nonexistent", "/nonexistent/link")),
        ("a directory", fs::create_dir("/nonexistent/directory")),
        // Nobody can set the monotonic clock.
        ("the clock", clock_settime(ClockId::CLOCK_MONOTONIC, TimeSpec::new(0, 0)).map_err(io::Error::from)),
    ];
    for (name, result) in refused {
        let error = result.expect_err(name);
        // For musl there is only one reason why there could be no thread.
        let is_musls = cfg!(target_env = "musl") && name == "a thread";
        let expected = if is_musls { Errno::EAGAIN } else { Errno::ENOSYS };
        assert_eq!(error.raw_os_error(), Some(expected as i32), "{name}: {error}");
    }
}

#[test]
fn a_program_instead_of_the_node_is_the_end() {
    if deed().is_some() {
        assert!(restraint(false).confine().expect("confined").seccomp);
        panic!("refused: {}", Command::new("true").exec());
    }
    let output = child("a_program_instead_of_the_node_is_the_end", "");
    assert_eq!(output.status.signal(), Some(Signal::SIGSYS as i32), "{:?}", output.status);
}

#[test]
fn what_a_life_may_bring_is_allowed() {
    if let Some(dir) = deed() {
        let state_dir = StateDir::open(Path::new(&dir), None).expect("it can be made");
        let keys = Path::new(&dir).join("keys");
        fs::write(&keys, "1 aes128 00").expect("written");
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        assert!(restraint(true).confine().expect("confined").seccomp);
        // A start afresh, what was learned, keys that are read again.
        getrandom::u64().expect("random");
        state_dir.save_drift(Skew::from_ppm(7)).expect("kept");
        assert_eq!(state_dir.drift().expect("read"), Some(Skew::from_ppm(7)));
        assert!(fs::metadata(&keys).expect("there").is_file() && !fs::read(&keys).expect("read").is_empty());
        fs::remove_file(&keys).expect("removed");
        // Stamps that are numbered anew.
        setsockopt(&datagrams, sockopt::Timestamping, &TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE).expect("set");
        // A note to the service manager, who is not there.
        let note =
            UnixDatagram::unbound().and_then(|socket| socket.send_to(b"READY=1", Path::new(&dir).join("nobody")));
        assert_eq!(note.expect_err("nobody").kind(), io::ErrorKind::NotFound);
        // Tables that grow, logs to whatever there is.
        drop((1..8).map(|size| vec![1_u8; size << 22]).collect::<Vec<_>>());
        assert!(!io::stdin().is_terminal());
        eprintln!("still here");
        // Both are refused: one clock cannot be set, the other file is no clock.
        clock_settime(ClockId::CLOCK_MONOTONIC, TimeSpec::new(0, 0)).expect_err("nobody can");
        UnixClock::open("/dev/null").expect("a file").set_frequency(0.0).expect_err("no clock");
        if cfg!(not(target_env = "musl")) {
            raise(Signal::SIGCHLD).expect("a signal to oneself");
        }
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let output = child("what_a_life_may_bring_is_allowed", &dir.path().display().to_string());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), stderr.contains("still here")), (Some(0), true), "{:?}: {stderr}", output.status);
}

/// And is not mistaken for a forbidden call; a panic shows where it was.
#[test]
#[cfg_attr(
    target_env = "musl",
    ignore = "musl names a thread and not its process, and a test is not the node's only thread"
)]
fn an_end_is_the_one_that_was_meant() {
    if let Some(deed) = deed() {
        assert!(restraint(false).confine().expect("confined").seccomp);
        if deed == "abort" { process::abort() } else { panic!("on purpose") }
    }
    let output = child("an_end_is_the_one_that_was_meant", "abort");
    assert_eq!(output.status.signal(), Some(Signal::SIGABRT as i32), "{:?}", output.status);
    let output = child("an_end_is_the_one_that_was_meant", "panic");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(101), "{:?}: {said}", output.status);
    assert!(said.contains("on purpose") && said.contains("an_end_is_the_one_that_was_meant"), "{said}");
}
