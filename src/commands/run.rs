//! `berkeleyd --role ...`: puts together a node, its sockets and its clock, and runs them until a signal.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use log::{info, warn};
use mio::{Poll, Registry};
use nix::unistd::getppid;

use crate::commands::demo::PARENT;
use crate::commands::{Failure, default_socket};
use crate::event_loop::{EventLoop, STATUS};
use crate::identity::{Incarnation, NodeId};
use crate::local_clock::LocalClock;
use crate::net::{Addresses, Sockets};
use crate::node::Node;
use crate::settings::{ClockKind, RunConfig};
use crate::state_dir::StateDir;
use crate::status_socket::{StatusSocket, StatusSocketError};
use crate::system_clock::SystemClock;

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// What the system refused, before anything was sent or set.
pub fn run(config: RunConfig) -> Result<(), Failure> {
    if let Some(parent) = env::var_os(PARENT) {
        end_with(&parent)?;
    }
    // Before all else, so that a missing privilege is told before anything else happened.
    let system_clock = match config.clock {
        ClockKind::Virtual => None,
        ClockKind::System => Some(SystemClock::open().map_err(failed)?),
    };
    let node_id = match config.node.node_id() {
        Some(given) => given,
        None => {
            let drawn = NodeId::drawn(random_bits()?);
            match &config.state_dir {
                Some(path) => StateDir::open(path).and_then(|dir| dir.node_id(|| drawn)).map_err(failed)?,
                None => drawn,
            }
        }
    };
    let incarnation = Incarnation::drawn(random_bits()?);
    let addresses = Addresses { bind: config.bind, group: config.group, interface: config.interface };
    let sockets = Sockets::open(&addresses).map_err(failed)?;
    let poll = Poll::new().map_err(failed)?;
    let status_socket = open_status_socket(config.status_socket.as_deref(), poll.registry())?;
    let clock = LocalClock::new(config.inject_drift).map_err(failed)?;

    let node_config = config.node.into_config(node_id);
    let (role, domain) = (node_config.role, node_config.domain);
    info!("started node={node_id} role={role:?} at={} domain={domain} clock={:?}", sockets.local_addr(), config.clock);
    warn!("frames are not authenticated: whoever reaches this network can move this clock");
    let pair = clock.pair();
    let node = Node::new(node_config, incarnation, pair.local, pair.system + config.inject_offset);
    EventLoop::new(poll, node, sockets, clock, status_socket, system_clock)
        .and_then(|mut looping| looping.run())
        .map_err(failed)
}

/// The socket for `status`. One that was asked for has to be there; without the default one a node runs as well.
fn open_status_socket(path: Option<&Path>, registry: &Registry) -> Result<Option<StatusSocket>, Failure> {
    if let Some(path) = path {
        return StatusSocket::open(path, registry, STATUS).map(Some).map_err(failed);
    }
    match StatusSocket::open(&default_socket(), registry, STATUS) {
        Ok(socket) => Ok(Some(socket)),
        Err(
            error @ (StatusSocketError::InUse(_) | StatusSocketError::NotASocket(_) | StatusSocketError::System(..)),
        ) => {
            warn!("no status can be shown: {error}");
            Ok(None)
        }
    }
}

/// Has the system send this process SIGTERM when its parent ends, where it can (Linux).
fn end_with(parent: &OsStr) -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).map_err(failed)?;
    // It may have ended before it was watched; then another is the parent now.
    if *parent == *getppid().to_string() { Ok(()) } else { Err(failed("the process that started this node has ended")) }
}

fn random_bits() -> Result<u64, Failure> {
    getrandom::u64().map_err(failed)
}

fn failed(error: impl fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}
