//! `berkeleyd --role ...`: puts together a node, its sockets and its clock, and runs them until a signal.

use std::env;
use std::ffi::OsStr;
use std::fmt;

use log::{info, warn};
use nix::unistd::getppid;

use crate::commands::demo::PARENT;
use crate::commands::{Failure, default_socket};
use crate::config::NodeConfig;
use crate::event_loop::{EventLoop, signals};
use crate::failure::one_line;
use crate::identity::{Incarnation, NodeId};
use crate::interfaces;
use crate::key_file::KeyFile;
use crate::local_clock::LocalClock;
use crate::net::Sockets;
use crate::node::Node;
use crate::privileges::{PrivilegeError, Restraint};
use crate::run_config::{ClockKind, NodeDraft, RunConfig};
use crate::service_manager::ServiceManager;
use crate::sources::{LiveSettings, Sources};
use crate::state_dir::StateDir;
use crate::status::PrivilegeStatus;
use crate::status_socket::StatusListener;
use crate::system_clock::SystemClock;
use crate::tiers::{Tier, Tiers};

/// Runs a node until SIGTERM or SIGINT, with these settings, which may be read again from where they came.
///
/// # Errors
/// What the system refused, before anything was sent or set.
pub fn run(config: RunConfig, sources: Sources) -> Result<(), Failure> {
    let settings = sources.file().is_some().then(|| LiveSettings::new(sources, config.clone()));
    if let Some(parent) = env::var_os(PARENT) {
        end_with(&parent)?;
    }
    // Before all else, so that a missing privilege is told before anything else happened.
    let restraint = Restraint::new(config.user.as_ref(), config.without, config.clock == ClockKind::System);
    let restraint = restraint.map_err(|error| match error {
        PrivilegeError::NoSuchUser(_) => Failure::Mistake(format!("--user: {error}")),
        PrivilegeError::User { .. } | PrivilegeError::Capabilities(_) | PrivilegeError::NoNewPrivs(_) => failed(error),
    })?;
    let system_clock = match config.clock {
        ClockKind::Virtual => None,
        ClockKind::System => Some(SystemClock::open().map_err(failed)?),
    };
    let open = |addresses| Sockets::open(addresses, config.timestamping).map_err(failed);
    let sockets = open(&config.addresses)?;
    let upper_sockets = config.upper.as_ref().map(|(_, addresses)| open(addresses)).transpose()?;
    // Who sees the status socket may send one.
    let signals = signals().map_err(failed)?;
    let listener = match &config.status_socket {
        Some(path) => Some(StatusListener::bind(path, restraint.user()).map_err(failed)?),
        // Without the default one a node runs as well; one that was asked for has to be there.
        None => StatusListener::bind(&default_socket(), restraint.user())
            .inspect_err(|error| warn!("no status can be shown: {error}"))
            .ok(),
    };
    let state_dir =
        config.state_dir.as_deref().map(|path| StateDir::open(path, restraint.user())).transpose().map_err(failed)?;

    restraint.change_user().map_err(failed)?;

    // As the user, who has to read them again on SIGHUP.
    let key_files = [(Tier::Upper, config.upper_key_file), (Tier::Lower, config.key_file)];
    let mut keys = Vec::new();
    for (tier, file) in key_files.into_iter().filter_map(|(tier, file)| Some((tier, file?))) {
        keys.push((tier, KeyFile::load(file).map_err(Failure::Mistake)?));
    }

    let node_id = match (config.node.node_id(), &state_dir) {
        (Some(given), _) => given,
        (None, Some(kept)) => {
            let drawn = NodeId::drawn(random_bits()?);
            kept.node_id(|| drawn).map_err(failed)?
        }
        (None, None) => NodeId::drawn(random_bits()?),
    };
    let rate = state_dir.as_ref().map_or(Ok(None), StateDir::drift).map_err(failed)?.unwrap_or_default();
    let incarnation = Incarnation::drawn(random_bits()?);
    let clock = LocalClock::new(config.inject_drift).map_err(failed)?;
    let start = clock.pair();
    let service_manager = ServiceManager::of_environment(start.local)
        .inspect_err(|error| warn!("the service manager is told nothing: {error}"));
    // Two nodes on one oscillator: they begin with the same.
    let time = start.system + config.inject_offset;
    let own_addresses = interfaces::own_addresses();
    let node = |draft: NodeDraft| {
        let config = NodeConfig { own_addresses: own_addresses.clone(), ..draft.into_config(node_id) };
        Node::new(config, incarnation, start.local, time, rate)
    };
    let lower = node(config.node);
    let tiers = match config.upper {
        Some((draft, _)) => Tiers::submaster(node(draft), lower),
        None => Tiers::from(lower),
    };
    let ports = upper_sockets.map(|sockets| (Tier::Upper, sockets)).into_iter().chain([(Tier::Lower, sockets)]);
    let mut event_loop = EventLoop::new(tiers, ports, clock, system_clock, signals).map_err(failed)?;
    if let Some(state_dir) = state_dir {
        event_loop.keep_drift_in(state_dir);
    }

    let privileges = restraint.confine().map_err(failed)?;
    if privileges.uid == 0 && restraint.user().is_none() {
        warn!("this node runs as root: give it a user of its own (--user)");
    }
    let PrivilegeStatus { uid, gid, no_new_privs, seccomp, .. } = privileges;
    info!(uid, gid, capabilities = privileges.capabilities_in_short(), no_new_privs, seccomp; "privileges");
    if let Some(settings) = settings {
        if let Err(reason) = settings.can_read_again() {
            warn!("SIGHUP will change no settings: {}", one_line(&reason));
        }
        event_loop.reload_from(settings);
    }
    if keys.is_empty() {
        warn!("frames are not authenticated: whoever reaches this network can move this clock (--key-file)");
    }
    for (tier, file) in keys {
        event_loop.authenticate_with(tier, file);
    }
    if let Some(listener) = listener {
        event_loop.show_status_at(listener, privileges).map_err(failed)?;
    }
    if let Ok(Some(service_manager)) = service_manager {
        event_loop.report_to(service_manager);
    }
    event_loop.run().map_err(failed)
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
