//! Where master and slaves meet: on loopback, or in two network namespaces that a virtual cable joins, which nobody else sees and which end
//! with the processes in them.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use berkeleyd::failure::Failure;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

/// The ends of the cable.
const MASTER_END: Ipv4Addr = Ipv4Addr::new(10, 55, 0, 1);
const SLAVES_END: Ipv4Addr = Ipv4Addr::new(10, 55, 0, 2);

/// The network of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Loopback,
    Namespaces,
}

impl Stage {
    /// Moves this process to a namespace of its own if the stage is one of these. There must be no second thread yet.
    pub(crate) fn enter(self) -> Result<Self, Failure> {
        if self == Self::Namespaces {
            enter_own_namespace().map_err(|error| Failure::Failed(format!("no network namespaces: {error}")))?;
        }
        Ok(self)
    }

    pub(crate) fn master(self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Namespaces => MASTER_END,
        }
    }

    pub(crate) fn slaves(self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Namespaces => SLAVES_END,
        }
    }

    /// A command that waits for a line on its standard input, and then becomes `program` where the master is to be.
    pub(crate) fn command(self, program: &Path) -> Command {
        let (first, unshare): (&str, &[&str]) = match self {
            Self::Loopback => ("sh", &[]),
            Self::Namespaces => ("unshare", &["--net", "sh"]),
        };
        let mut command = Command::new(first);
        // Each takes the place of the one before it, so that the child is the master in the end.
        command.args(unshare).args(["-c", "read -r _ && exec \"$@\"", "sh"]).arg(program).stdin(Stdio::piped());
        command
    }

    /// Lays the cable to a child that waits, if the stage has one.
    pub(crate) fn plug_in(self, child: &Child) -> io::Result<()> {
        if self == Self::Loopback {
            return Ok(());
        }
        let place = format!("/proc/{}/ns/net", child.id());
        let own = fs::read_link("/proc/self/ns/net")?;
        // It has to have left ours. Nothing tells when it has.
        while fs::read_link(&place)? == own {
            std::thread::yield_now();
        }
        let there = format!("nsenter --net={place} ip");
        run(&format!("ip link add cable type veth peer name cable netns {}", child.id()))?;
        run(&format!("ip address add {SLAVES_END}/24 dev cable"))?;
        run("ip link set cable up")?;
        run(&format!("{there} address add {MASTER_END}/24 dev cable"))?;
        run(&format!("{there} link set cable up"))
    }
}

/// Makes this process root of a network that nobody else sees; who is not root already becomes it in a user namespace.
fn enter_own_namespace() -> io::Result<()> {
    let (user, group) = (getuid(), getgid());
    if user.is_root() {
        return Ok(unshare(CloneFlags::CLONE_NEWNET)?);
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn run(command: &str) -> io::Result<()> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(io::Error::other(format!("{command}: {}", said.trim()))) }
}
