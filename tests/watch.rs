//! `berkeleyd watch` on a real terminal (a pseudo terminal, and an emulator that shows what was drawn), beside real nodes: what it shows while
//! they come, go and come back, and how it leaves the terminal.

#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    reason = "what fails here is a failed test, and it shows the screen"
)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use berkeleyd::time::Span;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use support::lab::{BINARY, Lab, berkeleyd};

/// For a machine that does many other things at the same time.
const PATIENCE: Span = Span::from_secs(60);

/// A terminal with `watch` on it.
struct Session<'a> {
    lab: &'a Lab,
    keyboard: File,
    /// The end that programs have. It keeps its settings when they end.
    terminal: OwnedFd,
    before: Termios,
    emulator: Arc<Mutex<Emulator>>,
    watch: Child,
}

struct Emulator {
    parser: vt100::Parser,
    /// All bytes so far.
    written: Vec<u8>,
}

impl<'a> Session<'a> {
    /// A terminal of 24 rows and 80 columns, which is the controlling one of `watch`, as a shell would have it.
    fn start(lab: &'a Lab, socket: &Path, variables: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("a terminal");
        let end = || Stdio::from(pair.slave.try_clone().expect("another descriptor"));
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(BINARY).args(["watch", "--socket"]).arg(socket);
        let variables = [("TERM", "xterm")].iter().chain(variables).copied();
        command.env_clear().envs(variables).stdin(end()).stdout(end()).stderr(end());
        let before = tcgetattr(&pair.slave).expect("its settings");
        let watch = command.spawn().expect("setsid, of util-linux");
        let mut screen = File::from(pair.master.try_clone().expect("another descriptor"));
        let emulator = Arc::new(Mutex::new(Emulator { parser: vt100::Parser::new(24, 80, 0), written: Vec::new() }));
        let shared = Arc::clone(&emulator);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Linux says EIO when the last one has closed the other end.
            while let Some(read) = screen.read(&mut bytes).ok().and_then(|length| bytes.get(..length)) {
                let mut emulator = shared.lock().unwrap_or_else(PoisonError::into_inner);
                emulator.parser.process(read);
                emulator.written.extend_from_slice(read);
            }
        });
        Self { lab, keyboard: File::from(pair.master), terminal: pair.slave, before, emulator, watch }
    }

    fn emulator(&self) -> MutexGuard<'_, Emulator> {
        self.emulator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        self.emulator().parser.screen().contents()
    }

    /// Waits until all of these stand on the screen.
    fn shows(&self, parts: &[&str]) {
        let shown = || parts.iter().all(|part| self.text().contains(part)).then_some(());
        self.lab.within(PATIENCE, &format!("{parts:?} on the screen"), shown);
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("a key");
    }

    fn signal(&self, signal: Signal) {
        kill(self.id(), signal).expect("it is running");
    }

    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.watch.id()).expect("a process"))
    }

    /// Makes the window another one; the kernel tells who is in the foreground.
    fn resize(&self, rows: u16, columns: u16) {
        self.emulator().parser.screen_mut().set_size(rows, columns);
        let end = self.terminal.try_clone().expect("another descriptor");
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let stty = Command::new("stty").args(["rows", &rows, "cols", &columns]).stdin(end).status();
        assert!(stty.expect("stty, of coreutils").success());
    }

    /// The terminal is as it was before: its settings, its screen and its cursor.
    fn is_restored(&self) -> bool {
        let settings = tcgetattr(&self.terminal).expect("its settings");
        let emulator = self.emulator();
        let screen = emulator.parser.screen();
        settings == self.before && !screen.alternate_screen() && !screen.hide_cursor()
    }

    /// Waits for its end, which leaves the terminal as it was.
    fn ends(mut self) {
        let status = self.lab.within(PATIENCE, "it ends", || self.watch.try_wait().expect("a child"));
        assert_eq!(status.code(), Some(0), "{}", self.text());
        self.lab.within(PATIENCE, "the terminal is as before", || self.is_restored().then_some(()));
        assert_eq!(self.text().trim(), "", "nothing is left behind");
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- the screen ----\n{}", self.text());
        }
        // It may have ended by itself.
        let _ = self.watch.kill();
        let _ = self.watch.wait();
    }
}

#[test]
fn an_ensemble_is_watched_from_before_its_start_until_after_its_end() {
    let lab = Lab::new();
    let mut session = Session::start(&lab, &lab.path("master.sock"), &[]);
    session.shows(&["no answer for", "no node runs here", "q quit"]);
    let master = lab.join("master", "--role master --node-id 1");
    let _slave = lab.join("2", "--role slave --node-id 2");
    session.shows(&["node 1 at 127.0.0.1:", "offsets, 1 of 1 counted", "slave↓", "now"]);
    let _slave = lab.join("3", "--role slave --node-id 3");
    session.shows(&["offsets, 2 of 2 counted", "joined node=3"]);
    assert!(!session.text().contains("no answer for"));

    session.resize(40, 120);
    let in_the_last_row = || {
        let emulator = session.emulator();
        let last = emulator.parser.screen().rows(0, 120).nth(39);
        last.filter(|row| row.starts_with("q quit"))
    };
    lab.within(PATIENCE, "the keys are in the last row", in_the_last_row);
    session.press(b"\x1b[B");
    session.shows(&["; the line is 2"]);
    session.press(b"s ");
    session.shows(&["counted↓", "PAUSED at"]);
    session.press(b" ");

    master.signal(Signal::SIGKILL);
    session.shows(&["no answer for", "it has left its status socket", "node 1 at"]);
    drop(master);
    let _master = lab.join("master", "--role master --node-id 1");
    session.shows(&["restarted node=1 incarnation=", "offsets, 2 of 2 counted"]);
    assert!(!session.text().contains("no answer for"));
    session.press(b"q");
    session.ends();
}

#[test]
fn whatever_ends_it_the_terminal_is_as_before() {
    let lab = Lab::new();
    let slave = lab.join("slave", "--role slave");
    lab.until("it runs", || slave.look());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let session = Session::start(&lab, &slave.socket, &[]);
        session.shows(&["listening: no master is heard"]);
        assert!(!session.is_restored());
        session.signal(signal);
        session.ends();
    }
    let mut session = Session::start(&lab, &slave.socket, &[]);
    session.shows(&["listening"]);
    session.press(b"\x03");
    session.ends();
}

#[test]
fn stopped_it_leaves_the_terminal_to_others_and_comes_back() {
    let lab = Lab::new();
    let slave = lab.join("slave", "--role slave");
    lab.until("it runs", || slave.look());
    let mut session = Session::start(&lab, &slave.socket, &[]);
    session.shows(&["listening"]);
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", session.id())).expect("a process");
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next())
    };
    // Ctrl-Z, then `fg`.
    (&session.keyboard).write_all(b"\x1a").expect("a key");
    lab.within(PATIENCE, "it has stopped", || (state() == Some('T') && session.is_restored()).then_some(()));
    session.signal(Signal::SIGCONT);
    session.shows(&["listening", "q quit"]);
    session.press(b"q");
    session.ends();
}

#[test]
fn a_terminal_that_wants_no_colours_gets_none() {
    let lab = Lab::new();
    let slave = lab.join("slave", "--role slave");
    lab.until("it runs", || slave.look());
    let has_colours = |variables: &[(&str, &str)]| {
        let session = Session::start(&lab, &slave.socket, variables);
        session.shows(&["listening"]);
        let written = String::from_utf8_lossy(&session.emulator().written).into_owned();
        // The library picks colours by number.
        written.contains("\x1b[38;5;")
    };
    assert_eq!([has_colours(&[]), has_colours(&[("NO_COLOR", "1")])], [true, false]);
}

#[test]
fn where_nothing_can_be_drawn_that_is_said_in_one_line() {
    let output = berkeleyd(&["watch"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len(), text.lines().count()), (Some(2), 0, 1), "{output:?}");
    assert!(text.contains("watch draws on a terminal") && text.contains("berkeleyd status"), "{text}");

    let lab = Lab::new();
    let mut session = Session::start(&lab, &lab.path("nobody.sock"), &[("TERM", "dumb")]);
    let status = lab.within(PATIENCE, "it ends", || session.watch.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(2));
    session.shows(&["watch draws on a terminal"]);
    assert!(session.is_restored());
}
