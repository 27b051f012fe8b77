//! `berkeleyd demo`, the real binary: it shows an ensemble that agrees, and whatever ends it, nothing is left of it.

// Processes are looked for in /proc, and only Linux tells a node that its parent was killed.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use berkeleyd::local_clock::LocalClock;
use berkeleyd::time::{Skew, Span};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::lab::PATIENCE;
use support::steady::steadily;
use tempfile::TempDir;

const NODES: usize = 6;
/// What the demo promises to last at most.
const WHOLE: Span = Span::from_secs(20);
/// Six nodes are enough for one machine: these tests wait for each other.
static STAGE: Mutex<()> = Mutex::new(());

/// A demo with a temporary directory of its own, whose name the command line of each of its nodes contains.
struct Demo {
    temp: TempDir,
    id: Pid,
    _alone: MutexGuard<'static, ()>,
}

impl Demo {
    fn start() -> (Self, Child) {
        let alone = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        let temp = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_berkeleyd"));
        command.arg("demo").env("TMPDIR", temp.path()).env("TERM", "xterm");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let id = Pid::from_raw(child.id().try_into().unwrap());
        (Self { temp, id, _alone: alone }, child)
    }

    /// Starts one and reads its first table, so that all nodes run.
    fn started() -> (Self, Child, BufReader<ChildStdout>) {
        let (demo, mut child) = Self::start();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let out = demo.within(PATIENCE, move || {
            let mut line = String::new();
            while !line.starts_with("node 6") {
                line.clear();
                assert_ne!(out.read_line(&mut line).unwrap(), 0, "it ended before its first table");
            }
            out
        });
        assert_eq!(demo.nodes().len(), NODES);
        let modes = demo.files().iter().map(|dir| fs::metadata(dir).unwrap().permissions().mode()).collect::<Vec<_>>();
        assert_eq!(modes, [0o040_700], "one directory, for us alone");
        (demo, child, out)
    }

    /// What `wait` gives, which must not wait longer than this.
    fn within<T: Send + 'static>(&self, limit: Span, wait: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(wait()));
        receiver.recv_timeout(limit.to_std()).unwrap_or_else(|error| {
            // Its nodes go with it.
            let _ = kill(self.id, Signal::SIGKILL);
            panic!("not within {limit}: {error}")
        })
    }

    /// Waits until it has ended, and asserts that it left nothing.
    fn end(&self, child: Child, limit: Span) -> Output {
        let output = self.within(limit, || child.wait_with_output().unwrap());
        assert_eq!(self.nodes(), Vec::<PathBuf>::new(), "processes are left");
        assert_eq!(self.files(), Vec::<PathBuf>::new(), "files are left");
        output
    }

    /// The processes that were told to use the directory, whoever their parent is by now.
    fn nodes(&self) -> Vec<PathBuf> {
        let mark = self.temp.path().to_str().unwrap();
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let is_ours = |line: Vec<u8>| String::from_utf8_lossy(&line).contains(mark);
        processes.filter(|path| fs::read(path.join("cmdline")).is_ok_and(is_ours)).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.temp.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn an_ensemble_agrees_loses_a_slave_takes_it_back_and_replaces_its_master() {
    steadily(|| {
        let (demo, child) = Demo::start();
        assert_shows_it_all(&demo.end(child, WHOLE));
    });
}

fn assert_shows_it_all(output: &Output) {
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), &*errors), (Some(0), ""), "{out}");
    assert!(!out.contains(|c: char| c.is_control() && c != '\n'), "escape codes where there is no terminal");
    assert!(out.lines().all(|line| line.chars().count() < 80), "{out}");
    for part in [
        "honest clocks agree within 1 ms\n",
        "node 3, a slave, is killed",
        "node 3  dead",
        "node 3 is started again",
        "node 3 agrees again",
        ", the master, is killed",
        " takes over, ",
        " later; clocks stayed within ",
        "\n  since the fail-over ",
        " led  ",
        "no: disagrees\n",
        "\n  before  ",
        "\n  after 1 s  ",
        "\n  worst from 5 s on  ",
        "\n  at the end  ",
        "\n  from the start  ",
        "\n  node 3, restarted   ",
    ] {
        assert!(out.contains(part), "{part:?} is missing in\n{out}");
    }
    let (before, _) = out.split_once(", the master, is killed").unwrap();
    let master = before.lines().last().unwrap().split("node ").last().unwrap();
    assert!(out.contains(&format!("node {master}  dead")), "{master}:\n{out}");
    assert!(out.matches("offset").count() >= 13, "a block a second");
}

#[test]
fn signals_end_it_with_their_number_and_leave_nothing() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let (demo, child, _out) = Demo::started();
        kill(demo.id, signal).unwrap();
        let output = demo.end(child, PATIENCE);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(status), String::new()));
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_it() {
    let (demo, child, out) = Demo::started();
    drop(out);
    let output = demo.end(child, PATIENCE);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("standard output"), "{output:?}");
}

#[test]
fn a_node_that_dies_on_its_own_ends_it_and_says_so() {
    let (demo, child, _out) = Demo::started();
    let is_number_4 = |path: &PathBuf| fs::read(path.join("cmdline")).is_ok_and(|line| text(&line).contains("/4.sock"));
    let path = demo.nodes().into_iter().find(is_number_4).unwrap();
    let id = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    kill(Pid::from_raw(id), Signal::SIGKILL).unwrap();
    let output = demo.end(child, PATIENCE);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("node 4: ") && errors.contains("berkeleyd: node 4 ended on its own: "), "{errors}");
}

#[test]
fn killed_it_leaves_no_process_either() {
    let (demo, child, _out) = Demo::started();
    kill(demo.id, Signal::SIGKILL).unwrap();
    demo.within(PATIENCE, || child.wait_with_output().unwrap());
    let clock = LocalClock::new(Skew::ZERO).unwrap();
    let deadline = clock.now() + PATIENCE;
    while !demo.nodes().is_empty() {
        assert!(clock.now() < deadline, "left: {:?}", demo.nodes());
        thread::yield_now();
    }
}
