//! The processes of the demo's nodes, which end with it.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};

use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use super::record::Statuses;
use super::{Ending, LIAR, PARENT, PREFERRED, VICTIM, failed, name};
use crate::commands::status::fetch;
use crate::local_clock::LocalClock;
use crate::time::{LocalTime, Skew, Span};

/// Nodes that were asked to stop are killed after this.
const STOPPING: Span = Span::from_secs(1);
/// So many lines of the log of a node that died are shown.
const LAST_LINES: usize = 5;

/// Waits until a moment, a signal or the end of a child, whichever comes first.
pub(super) struct Watch {
    pub(super) clock: LocalClock,
    poll: Poll,
    events: Events,
    signals: Signals,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD])?;
        let poll = Poll::new()?;
        poll.registry().register(&mut signals, Token(0), Interest::READABLE)?;
        Ok(Self { clock: LocalClock::new(Skew::ZERO)?, poll, events: Events::with_capacity(1), signals })
    }

    /// A signal that asks this process to stop is an error.
    pub(super) fn until(&mut self, deadline: LocalTime) -> Result<(), Ending> {
        match self.poll.poll(&mut self.events, Some((deadline - self.clock.now()).to_std())) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result.map_err(failed("cannot wait"))?,
        }
        match self.signals.pending().find(|signal| *signal != SIGCHLD) {
            Some(signal) => Err(Ending::Signal(signal)),
            None => Ok(()),
        }
    }
}

/// The processes. When it is dropped they end, and their directory goes with them.
pub(super) struct Ensemble {
    pub(super) watch: Watch,
    /// Of our own, mode 0700: each node's status socket and log.
    dir: PathBuf,
    /// What all nodes are told.
    arguments: String,
    pub(super) children: BTreeMap<u64, Child>,
}

impl Ensemble {
    pub(super) fn new() -> Result<Self, Ending> {
        // First of all: from here on a signal finds somebody who cleans up.
        let watch = Watch::new().map_err(failed("cannot wait for signals"))?;
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let port = free.map_err(failed("no port is free on 127.0.0.1"))?.port();
        // Should another ensemble have the same port, nobody hears the other domain.
        let domain = draw(1..=i64::from(u32::MAX))?;
        let arguments =
            format!("--bind 127.0.0.1:0 --interface 127.0.0.1 --group 239.255.5.25:{port} --domain {domain}");
        let dir = env::temp_dir().join(format!("berkeleyd-demo-{:08x}", draw(0..=i64::from(u32::MAX))?));
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(failed(&format!("cannot make directory {}", dir.display())))?;
        Ok(Self { watch, dir, arguments, children: BTreeMap::new() })
    }

    fn file(&self, node: u64, kind: &str) -> PathBuf {
        self.dir.join(format!("{node}.{kind}"))
    }

    /// Starts a node with a wrong clock.
    pub(super) fn start(&mut self, node: u64) -> Result<(), Ending> {
        let offset = match node {
            // Its claim is beyond all others, so that no honest clock agrees with it by chance.
            LIAR => draw(1_750..=2_000)?,
            // More than a second, either way.
            VICTIM => draw(1_001..=2_000)? * (draw(0..=1)? * 2 - 1),
            _ => draw(-2_000..=2_000)?,
        };
        let drift = draw(-100..=100)?;
        // The liar must not lead: nobody would doubt it.
        let role = if node == LIAR { "slave" } else { "auto" };
        let priority = if node == PREFERRED { 1 } else { 0 };
        let lie = if node == LIAR { "--inject-lie 300ms --max-correction 1us" } else { "" };
        let arguments = format!(
            "--role {role} --priority {priority} --node-id {node} --inject-offset {offset}ms --inject-drift {drift} {} {lie}",
            self.arguments
        );
        let start = || {
            let log = File::options().append(true).create(true).open(self.file(node, "log"))?;
            Command::new(env::current_exe()?)
                .args(arguments.split_whitespace())
                .arg("--status-socket")
                .arg(self.file(node, "sock"))
                .env(PARENT, process::id().to_string())
                // Ctrl-C is for the demo alone, which then ends its nodes.
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
        };
        let child = start().map_err(failed(&format!("cannot start {}", name(node))))?;
        self.children.insert(node, child);
        Ok(())
    }

    /// Ends a node as a power cut would.
    pub(super) fn kill(&mut self, node: u64) -> Result<(), Ending> {
        let Some(mut child) = self.children.remove(&node) else { return Ok(()) };
        let killed = child.kill().and_then(|()| child.wait());
        killed.map(drop).map_err(failed(&format!("cannot kill {}", name(node))))
    }

    /// Asks all nodes.
    ///
    /// # Errors
    /// One has ended that was not killed; the last lines of its log have gone to the standard error.
    pub(super) fn statuses(&mut self) -> Result<Statuses, Ending> {
        let ended = self.children.iter_mut().find_map(|(node, child)| Some((*node, child.try_wait().ok()??)));
        if let Some((node, status)) = ended {
            let log = fs::read(self.file(node, "log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let first = log.lines().count().saturating_sub(LAST_LINES);
            for line in log.lines().skip(first) {
                let _ = writeln!(io::stderr().lock(), "{}: {line}", name(node));
            }
            return Err(Ending::Failed(format!("{} ended on its own: {status}", name(node))));
        }
        let ask = |node: u64| serde_json::from_str(&fetch(&self.file(node, "sock")).ok()?).ok();
        Ok(self.children.keys().filter_map(|node| Some((*node, ask(*node)?))).collect())
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        let is_running = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_none());
        for child in self.children.values_mut() {
            // The number of one that has ended may be somebody else's by now.
            if let (true, Ok(id)) = (is_running(child), i32::try_from(child.id())) {
                let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            }
        }
        let deadline = self.watch.clock.now() + STOPPING;
        while self.watch.clock.now() < deadline && self.children.values_mut().any(is_running) {
            // A signal that asks us to stop changes nothing: we are at it.
            let _ = self.watch.until(deadline);
        }
        for child in self.children.values_mut() {
            let _ = child.kill().and_then(|()| child.wait());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Any of these numbers; the bias is below a part in 2^30.
pub(super) fn draw(range: RangeInclusive<i64>) -> Result<i64, Ending> {
    let bits = getrandom::u64().map_err(|error| Ending::Failed(format!("no random numbers: {error}")))?;
    let count = (range.end() - range.start()).unsigned_abs() + 1;
    Ok(range.start() + i64::try_from(bits % count).unwrap_or_default())
}
