//! The master: a process of its own, and what the system says of it.
//!
//! It is this program once more, which has all of berkeleyd in it: so it is of the same build as the slaves, while a
//! `target/release/berkeleyd` might be of yesterday.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child};

use berkeleyd::cli::{self, Invocation};
use berkeleyd::commands;
use berkeleyd::commands::status::fetch;
use berkeleyd::failure::Failure;
use berkeleyd::identity::Domain;
use berkeleyd::log_output;
use berkeleyd::status::Status;
use berkeleyd::time::Span;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

use crate::stage::Stage;

/// The first argument of this program when it is to be the master.
pub(crate) const COMMAND: &str = "berkeleyd";
/// What `berkeleyd` calls the process that it shall not outlive.
const PARENT: &str = "BERKELEYD_PARENT";

/// Is berkeleyd, with these arguments (the first stands for the program's name).
pub(crate) fn be(arguments: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let Invocation::Run(config, sources) = cli::parse(arguments)? else {
        return Err(Failure::Mistake("a master was to be started, and nothing else".to_owned()));
    };
    log_output::start(config.log_level, config.log_format);
    commands::run::run(*config, *sources)
}

/// A running master. Killed when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Master {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

/// What the master has taken of the machine since it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) cpu: Span,
    /// How long it could have run, and others did.
    pub(crate) waited: Span,
    /// In KiB.
    pub(crate) resident: u64,
    /// The most that ever was, in KiB.
    pub(crate) highest: u64,
    /// Datagrams for which its sockets had no room.
    pub(crate) drops: u64,
}

impl Master {
    /// Gets it ready for [`Master::go`]; what it says goes to a file in `dir`.
    pub(crate) fn prepare(
        stage: Stage,
        dir: &Path,
        group: SocketAddr,
        domain: Domain,
        options: &[OsString],
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::Failed(format!("the master does not start: {error}"));
        let (socket, log) = (dir.join("master.sock"), dir.join("master.log"));
        let ip = stage.master();
        let mut command = stage.command(&std::env::current_exe().map_err(failed)?);
        command
            .args([COMMAND, "--role", "master", "--bind", &format!("{ip}:0"), "--interface", &ip.to_string()])
            .args(["--group", &group.to_string(), "--domain", &domain.to_string()])
            .arg("--status-socket")
            .arg(&socket)
            .args(options)
            .env(PARENT, process::id().to_string())
            .stderr(File::create(&log).map_err(failed)?);
        let master = Self { child: command.spawn().map_err(failed)?, socket, log };
        stage.plug_in(&master.child).map_err(failed)?;
        Ok(master)
    }

    /// Lets it start.
    pub(crate) fn go(&mut self) -> Result<(), Failure> {
        let input = self.child.stdin.take().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe));
        let said = input.and_then(|mut input| input.write_all(b"\n"));
        said.map_err(|error| Failure::Failed(format!("the master does not start: {error}")))
    }

    /// What it knows, when it answers.
    pub(crate) fn status(&self) -> Option<Status> {
        serde_json::from_str(&fetch(&self.socket).ok()?).ok()
    }

    /// Fails when it has ended, with its last words.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it said nothing");
                Err(Failure::Failed(format!("the master has ended ({status}): {last}")))
            }
            Err(error) => Err(Failure::Failed(format!("the master: {error}"))),
        }
    }

    /// What it has taken so far.
    pub(crate) fn usage(&self) -> Result<Usage, Failure> {
        let failed = |error: io::Error| Failure::Failed(format!("the master's use of the machine: {error}"));
        let id = self.child.id();
        let memory = fs::read_to_string(format!("/proc/{id}/status")).map_err(failed)?;
        let kibibytes = |name| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let process = Pid::from_raw(i32::try_from(id).unwrap_or_default());
        let cpu = clock_getcpuclockid(process).and_then(ClockId::now).map_err(|error| failed(error.into()))?;
        // Some kernels do not tell.
        let scheduled = fs::read_to_string(format!("/proc/{id}/schedstat")).unwrap_or_default();
        let waited = scheduled.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
        Ok(Usage {
            cpu: Span::from_nanos(cpu.num_nanoseconds()),
            waited: Span::from_nanos(waited.unwrap_or_default()),
            resident: kibibytes("VmRSS:"),
            highest: kibibytes("VmHWM:"),
            drops: drops(&id.to_string()).map_err(failed)?,
        })
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Datagrams that the UDP sockets of a process (its number, or `self`) had no room for, as the kernel counts them for each.
pub(crate) fn drops(process: &str) -> io::Result<u64> {
    let mut own = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        // What is closed meanwhile is none of ours any more.
        let target = fs::read_link(entry?.path()).unwrap_or_default();
        let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        own.extend(inode.map(str::to_owned));
    }
    let sockets = fs::read_to_string(format!("/proc/{process}/net/udp"))?;
    let lines = sockets.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_own = lines.filter(|fields| fields.get(9).is_some_and(|inode| own.contains(*inode)));
    Ok(of_own.filter_map(|fields| fields.last()?.parse::<u64>().ok()).sum())
}

/// Writes a key file that nobody else can read, with a fresh key.
pub(crate) fn write_keys(path: &Path) -> Result<(), Failure> {
    let failed = |error: String| Failure::Failed(format!("no keys: {error}"));
    let mut key = [0_u8; 16];
    getrandom::fill(&mut key).map_err(|error| failed(error.to_string()))?;
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let write =
        |mut file: File| io::Write::write_all(&mut file, format!("[[key]]\nid = 1\nkey = \"{digits}\"\n").as_bytes());
    file.and_then(write).map_err(|error| failed(error.to_string()))
}
