//! The settings of a node: the one table of them, the readers of their values, and how they come together.
//!
//! [`Settings`] is the only table. clap reads it for the command line and the help (`cli.rs`), and a file's values
//! pass through it as if they had been typed (`config_file.rs`), so that a setting has one name, one reader and one
//! complaint, wherever it comes from. `Settings::resolve` then settles defaults and contradictions; what comes out,
//! a [`RunConfig`] (`run_config.rs`), needs no further checks.
//!
//! Not decided here: where a setting comes from, which of two sources wins, and what the settings mean (`config.rs`
//! and below).

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::os::unix::net::SocketAddr as SocketPath;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use clap::error::ContextKind;
use clap::{Args, ValueEnum};
use log::LevelFilter;

use crate::average::Average;
use crate::config::{CorrectionPolicy, NodeConfig, Role, Who};
use crate::identity::{Domain, NodeId};
use crate::net::{Addresses, DEFAULT_PORT, Interface, Timestamping, default_group};
use crate::privileges::{Measure, UserName};
use crate::run_config::{ClockKind, LogFormat, NodeDraft, RunConfig};
use crate::time::{Skew, Span};

/// A rate beyond this is no oscillator, see [`Skew::MAX`].
const MAX_PPM: f64 = 100_000.0;

const NETWORK: &str = "Group and network";
const UPPER: &str = "Domain above (a submaster keeps its time in its own)";
const CLOCK: &str = "Clock";
const ROUNDS: &str = "Rounds and averaging";
const CORRECTIONS: &str = "Corrections";
const NODE: &str = "This node";
const LOG: &str = "Log (on the standard error)";

/// Every setting of a node, as given: the names, kinds and explanations for command line and file alike.
///
/// The placeholder tells the kind: DUR a span, PPM and N numbers, BOOL a claim, and anything else a text.
#[derive(Clone, Debug, Default, Args)]
pub struct Settings {
    /// The part to play: master, slave, or auto (elected) [default: auto]
    #[arg(long, value_name = "ROLE", hide_possible_values = true, help_heading = NETWORK)]
    role: Option<RoleChoice>,
    /// Number of the ensemble; others are not heard [default: 0]
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 0..=u32::MAX), help_heading = NETWORK)]
    domain: Option<u32>,
    /// Local address; port 0 picks a free one [default: 0.0.0.0:5525]
    #[arg(long, value_name = "IP:PORT", value_parser = address, help_heading = NETWORK)]
    bind: Option<SocketAddr>,
    /// Interface for multicast [default: the system's choice]
    #[arg(long, value_name = "NAME|IP", value_parser = interface(), help_heading = NETWORK)]
    interface: Option<Interface>,
    // Not a doc comment: rustdoc would take the address for a link.
    #[arg(long, help = "Multicast group [default: 239.255.5.25:5525 or [ff15::5525]:5525]", value_name = "IP:PORT", value_parser = address, help_heading = NETWORK)]
    group: Option<SocketAddr>,
    /// A node to speak to directly, instead of the group; repeatable
    #[arg(long, value_name = "IP:PORT", value_parser = address, help_heading = NETWORK)]
    peer: Vec<SocketAddr>,
    /// Who stamps: auto, kernel, user, hardware (not built) [default: auto]
    #[arg(long, value_name = "KIND", hide_possible_values = true, help_heading = NETWORK)]
    timestamping: Option<TimestampingChoice>,
    /// How much longer requests take than responses: DUR or WHO=DUR
    #[arg(long, value_name = "SPAN", value_parser = delay_asymmetry, allow_hyphen_values = true, help_heading = NETWORK)]
    delay_asymmetry: Vec<(Who, Span)>,
    /// How many slaves a master takes [default: 16384]
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 1..=usize::MAX), help_heading = NETWORK)]
    max_slaves: Option<usize>,

    /// Its number, below --domain's; --bind is then 0.0.0.0:0 by default
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 0..=u32::MAX), help_heading = UPPER)]
    upper_domain: Option<u32>,
    /// The part to play there: slave or auto [default: auto]
    #[arg(long, value_name = "ROLE", hide_possible_values = true, help_heading = UPPER)]
    upper_role: Option<UpperRoleChoice>,
    /// Local address there [default: 0.0.0.0:0]
    #[arg(long, value_name = "IP:PORT", value_parser = address, help_heading = UPPER)]
    upper_bind: Option<SocketAddr>,
    /// Interface for multicast there [default: the system's choice]
    #[arg(long, value_name = "NAME|IP", value_parser = interface(), help_heading = UPPER)]
    upper_interface: Option<Interface>,
    #[arg(long, help = "Multicast group there [default: as that of --group]", value_name = "IP:PORT", value_parser = address, help_heading = UPPER)]
    upper_group: Option<SocketAddr>,
    /// A node there to speak to directly; repeatable
    #[arg(long, value_name = "IP:PORT", value_parser = address, help_heading = UPPER)]
    upper_peer: Vec<SocketAddr>,
    /// Keys of the domain above [default: --key-file]
    #[arg(long, value_name = "FILE", help_heading = UPPER)]
    upper_key_file: Option<PathBuf>,

    /// virtual (the machine's clock is never set) or system [default: virtual]
    #[arg(long, value_name = "KIND", hide_possible_values = true, help_heading = CLOCK)]
    clock: Option<ClockKind>,
    /// Start a virtual clock wrong by this much, such as -1.5s [default: 0s]
    #[arg(long, value_name = "DUR", help_heading = CLOCK)]
    inject_offset: Option<Span>,
    /// Run it fast (+) or slow (-) by this many ppm [default: 0]
    #[arg(long, value_name = "PPM", value_parser = ppm, help_heading = CLOCK)]
    inject_drift: Option<Skew>,
    /// Tell the master that the clock is ahead by this much more than it is [default: 0s]
    #[arg(long, value_name = "DUR", hide = true, help_heading = CLOCK)]
    inject_lie: Option<Span>,

    /// Time between rounds, 62.5ms to 64s [default: 1s]
    #[arg(long, value_name = "DUR", help_heading = ROUNDS)]
    interval: Option<Span>,
    /// Shortest, while little is known of the clocks [default: 125ms]
    #[arg(long, value_name = "DUR", help_heading = ROUNDS)]
    min_interval: Option<Span>,
    /// Longest, when the clocks need no more [default: --interval]
    #[arg(long, value_name = "DUR", help_heading = ROUNDS)]
    max_interval: Option<Span>,
    /// mean, fault-tolerant, midpoint or weighted [default: fault-tolerant]
    #[arg(long, value_name = "NAME", help_heading = ROUNDS)]
    average: Option<Average>,
    /// Weight of a node (number or IP); repeatable [default: all 1]
    #[arg(long, value_name = "WHO=N", value_parser = weight, help_heading = ROUNDS)]
    weight: Vec<(Who, NonZeroU32)>,
    /// How close clocks must be to count as agreeing [default: 20ms]
    #[arg(long, value_name = "DUR", help_heading = ROUNDS)]
    gamma: Option<Span>,
    /// It has a time source of its own: only such are averaged [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        help_heading = ROUNDS
    )]
    reference: Option<bool>,

    /// The fastest slew, in ppm [default: 500]
    #[arg(long, value_name = "PPM", value_parser = ppm, help_heading = CORRECTIONS)]
    max_slew: Option<Skew>,
    /// Corrections up to this always slew, but for the first [default: 128ms]
    #[arg(long, value_name = "DUR", help_heading = CORRECTIONS)]
    step_threshold: Option<Span>,
    /// Step above the threshold instead of slewing [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        help_heading = CORRECTIONS
    )]
    allow_step: Option<bool>,
    /// Refuse larger corrections [default: never the first, later 1000s]
    #[arg(long, value_name = "DUR", help_heading = CORRECTIONS)]
    max_correction: Option<Span>,

    /// Place in the standby order: higher is preferred [default: 0]
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, i32::MIN..=i32::MAX), help_heading = NODE)]
    priority: Option<i32>,
    /// Take over from a healthy master of a lower priority [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        help_heading = NODE
    )]
    preempt: Option<bool>,
    /// As master correct nobody while fewer nodes are heard [default: 1]
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 1..=usize::MAX), help_heading = NODE)]
    quorum: Option<usize>,
    /// Number of this node [default: kept in --state-dir, else drawn]
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 1..=u64::MAX), help_heading = NODE)]
    node_id: Option<u64>,
    /// Where drift and identity survive restarts [default: nowhere]
    #[arg(long, value_name = "DIR", help_heading = NODE)]
    state_dir: Option<PathBuf>,
    /// Authenticate every frame with these keys [default: not authenticated]
    #[arg(long, value_name = "FILE", help_heading = NODE)]
    key_file: Option<PathBuf>,
    /// Where `status` asks [default: in $XDG_RUNTIME_DIR, /run or /tmp]
    #[arg(long, value_name = "PATH", help_heading = NODE)]
    status_socket: Option<PathBuf>,
    /// Run as this user (NAME or UID:GID) [default: who starts it]
    #[arg(long, value_name = "USER", help_heading = NODE)]
    user: Option<UserName>,
    /// Leave out: capabilities, no-new-privs, seccomp [default: none]
    #[arg(long, value_name = "NAME", hide_possible_values = true, help_heading = NODE)]
    without: Vec<Measure>,

    /// How much: error, warn, info, debug, trace, or off [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = level, help_heading = LOG)]
    log_level: Option<LevelFilter>,
    /// text, or json: an object a line, for programs [default: text]
    #[arg(long, value_name = "FORMAT", hide_possible_values = true, help_heading = LOG)]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleChoice {
    Master,
    Slave,
    Auto,
}

/// Nobody is appointed in the domain above: its master may be any of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UpperRoleChoice {
    Slave,
    Auto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TimestampingChoice {
    Auto,
    Hardware,
    Kernel,
    User,
}

/// What a setting's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueKind {
    Span,
    Number,
    Claim,
    Text,
}

impl ValueKind {
    /// The kind that the placeholder tells, see [`Settings`].
    pub(crate) fn of(setting: &clap::Arg) -> Self {
        match setting.get_value_names().and_then(<[_]>::first).map(AsRef::as_ref) {
            Some("DUR") => Self::Span,
            Some("PPM" | "N") => Self::Number,
            Some("BOOL") => Self::Claim,
            Some(_) | None => Self::Text,
        }
    }
}

/// The command that a configuration file's keys are the options of.
pub(crate) fn file_command() -> clap::Command {
    Settings::augment_args(bare_command())
}

/// The same without any key.
pub(crate) fn bare_command() -> clap::Command {
    clap::Command::new("file").no_binary_name(true).disable_help_flag(true)
}

/// The names of the settings that put a node on its network, for complaints.
#[derive(Clone, Copy)]
struct Names {
    bind: &'static str,
    group: &'static str,
    peer: &'static str,
}

/// Those of the node of the process's own domain.
const OWN: Names = Names { bind: "bind", group: "group", peer: "peer" };
/// Those of a submaster's node in the domain above.
const ABOVE: Names = Names { bind: "upper-bind", group: "upper-group", peer: "upper-peer" };

/// Where a node listens: as given, by default on all addresses, at `port`, in the default group unless there are peers.
fn network(
    bind: Option<SocketAddr>,
    port: u16,
    group: Option<SocketAddr>,
    interface: Option<Interface>,
    peers: &[SocketAddr],
) -> Addresses {
    let bind = bind.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    let default = peers.is_empty().then(|| default_group(bind));
    Addresses { bind, group: group.or(default), interface }
}

/// Tells every contradiction among a node's addresses.
fn check_network(
    addresses: &Addresses,
    peers: &[SocketAddr],
    names: Names,
    fault: &mut impl FnMut(&'static str, String),
) {
    let Addresses { bind, group, .. } = *addresses;
    if bind.ip().is_multicast() {
        fault(names.bind, format!("{bind} is a multicast group; give an address of this machine"));
    }
    let mixed = |other| format!("{other} and --{} {bind} mix IPv4 and IPv6", names.bind);
    if let Some(group) = group {
        if !group.ip().is_multicast() {
            fault(names.group, format!("{group} is not a multicast address"));
        } else if group.port() == 0 {
            fault(names.group, format!("{group} needs a port other than 0"));
        } else if group.is_ipv4() != bind.is_ipv4() {
            fault(names.group, mixed(group));
        }
    }
    for (index, peer) in peers.iter().enumerate() {
        if peer.ip().is_multicast() || peer.ip().is_unspecified() {
            fault(names.peer, format!("{peer} is not the address of one machine"));
        } else if peer.port() == 0 {
            fault(names.peer, format!("{peer} needs a port other than 0"));
        } else if peer.is_ipv4() != bind.is_ipv4() {
            fault(names.peer, mixed(*peer));
        } else if peers.iter().take(index).any(|earlier| earlier == peer) {
            fault(names.peer, format!("{peer} is given twice"));
        }
    }
}

/// The first of two nodes of one process is bound to a port that the second needs; the other way round, see the caller.
fn check_ports(one: &Addresses, other: &Addresses, names: Names, fault: &mut impl FnMut(&'static str, String)) {
    let Addresses { bind, .. } = *one;
    let takes = |needed: SocketAddr| {
        bind.port() == needed.port()
            && bind.port() != 0
            && bind.is_ipv4() == needed.is_ipv4()
            && bind.ip().is_unspecified()
    };
    let same = Some(other.bind).filter(|needed| takes(*needed) || (*needed == bind && bind.port() != 0));
    if let Some(needed) = same.or(other.group.filter(|group| takes(*group))) {
        let text = format!(
            "{bind} takes the port of {needed}, which the other domain needs; give one address of this machine, or port 0"
        );
        fault(names.bind, text);
    }
}

/// What is wrong with one setting, beside the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The setting, as on the command line without its dashes.
    pub(crate) setting: &'static str,
    /// What is wrong, to be read after the setting's name.
    pub(crate) text: String,
}

impl Settings {
    /// Takes a role for granted where none is given: a file need not say it.
    pub(crate) fn with_some_role(mut self) -> Self {
        self.role = self.role.or(Some(RoleChoice::Slave));
        self
    }

    /// Fills in the defaults and checks what no single value shows. `log_level`: one that wins over the setting.
    ///
    /// # Errors
    /// Every contradiction found; where each of the settings came from, the caller knows.
    pub(crate) fn resolve(self, log_level: Option<LevelFilter>) -> Result<RunConfig, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |setting, text| faults.push(Fault { setting, text });
        let role = match self.role {
            Some(RoleChoice::Master) => Role::Master,
            Some(RoleChoice::Slave) => Role::Slave,
            Some(RoleChoice::Auto) | None => Role::Auto,
        };
        // Two sockets on one port of all addresses are one too many.
        let port = if self.upper_domain.is_some() { 0 } else { DEFAULT_PORT };
        let addresses = network(self.bind, port, self.group, self.interface, &self.peer);
        check_network(&addresses, &self.peer, OWN, &mut fault);
        let domain = self.domain.unwrap_or_default();
        let above = network(self.upper_bind, 0, self.upper_group, self.upper_interface, &self.upper_peer);
        match self.upper_domain {
            Some(upper) if upper >= domain => {
                let why = "an ensemble follows one with a lower number, so that no circle can arise";
                fault("upper-domain", format!("is {upper}, and domain {domain} cannot follow it: {why}"));
            }
            Some(_) => {
                if role != Role::Master {
                    fault(
                        "upper-domain",
                        "needs --role master: a submaster is the master of its own domain".to_owned(),
                    );
                }
                check_network(&above, &self.upper_peer, ABOVE, &mut fault);
                check_ports(&addresses, &above, OWN, &mut fault);
                check_ports(&above, &addresses, ABOVE, &mut fault);
            }
            None => {
                let given = [
                    ("upper-role", self.upper_role.is_some()),
                    ("upper-bind", self.upper_bind.is_some()),
                    ("upper-interface", above.interface.is_some()),
                    ("upper-group", self.upper_group.is_some()),
                    ("upper-peer", !self.upper_peer.is_empty()),
                    ("upper-key-file", self.upper_key_file.is_some()),
                ];
                for (setting, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
                    fault(setting, "needs --upper-domain, the number of that domain".to_owned());
                }
            }
        }

        let timestamping = match self.timestamping {
            Some(TimestampingChoice::Auto) | None => Timestamping::Auto,
            Some(TimestampingChoice::Kernel) => Timestamping::Kernel,
            Some(TimestampingChoice::User) => Timestamping::User,
            Some(TimestampingChoice::Hardware) => {
                let text = "hardware: reading the clocks of network interfaces is not built yet; give auto or kernel";
                fault("timestamping", text.to_owned());
                Timestamping::Auto
            }
        };

        let clock = self.clock.unwrap_or_default();
        let injected = [
            ("inject-offset", self.inject_offset.is_some()),
            ("inject-drift", self.inject_drift.is_some()),
            ("inject-lie", self.inject_lie.is_some()),
        ];
        for (setting, _) in injected.into_iter().filter(|(_, is_given)| *is_given && clock == ClockKind::System) {
            fault(setting, "needs --clock virtual: the machine's own clock is never made wrong on purpose".to_owned());
        }
        if self.status_socket.as_ref().is_some_and(|path| SocketPath::from_pathname(path).is_err()) {
            fault("status-socket", "is too long for a socket (at most 107 bytes)".to_owned());
        }

        let leaves_out = |measure| self.without.contains(&measure);
        if leaves_out(Measure::NoNewPrivs) && !leaves_out(Measure::Seccomp) {
            fault("without", "no-new-privs takes seccomp with it: leave out both".to_owned());
        }

        let given = self.node_id.map(NodeId::new);
        let default = NodeConfig::new(given.unwrap_or(NodeId::new(1)), role);
        let interval = self.interval.unwrap_or(default.interval);
        let config = NodeConfig {
            domain: Domain::new(domain),
            upper: self.upper_domain.map(Domain::new),
            priority: self.priority.unwrap_or(default.priority),
            preempt: self.preempt.unwrap_or(default.preempt),
            quorum: self.quorum.unwrap_or(default.quorum),
            is_reference: self.reference.unwrap_or(default.is_reference),
            group: addresses.group,
            interval,
            // Whoever asks for rounds faster than the default minimum means that, and not a contradiction.
            min_interval: self.min_interval.unwrap_or(default.min_interval.min(interval)),
            max_interval: self.max_interval.unwrap_or(interval),
            average: self.average.unwrap_or(default.average),
            weights: self.weight,
            delay_asymmetries: self.delay_asymmetry,
            gamma: self.gamma.unwrap_or(default.gamma),
            policy: CorrectionPolicy {
                max_slew: self.max_slew.unwrap_or(default.policy.max_slew),
                step_threshold: self.step_threshold.unwrap_or(default.policy.step_threshold),
                allow_step: self.allow_step.unwrap_or(default.policy.allow_step),
                max_correction: self.max_correction.or(default.policy.max_correction),
            },
            max_slaves: self.max_slaves.unwrap_or(default.max_slaves),
            lie: self.inject_lie.unwrap_or(default.lie),
            peers: self.peer,
            ..default.clone()
        };
        if config.role == Role::Master && config.peers.len() > config.max_slaves {
            fault("max-slaves", format!("is {}, but there are {} peers", config.max_slaves, config.peers.len()));
        }
        config.faults().for_each(|broken| fault(broken.setting, broken.fault.to_owned()));
        if !faults.is_empty() {
            return Err(faults);
        }

        let upper = config.upper.map(|domain| {
            let upper = NodeConfig {
                domain,
                upper: None,
                role: match self.upper_role {
                    Some(UpperRoleChoice::Slave) => Role::Slave,
                    Some(UpperRoleChoice::Auto) | None => Role::Auto,
                },
                group: above.group,
                peers: self.upper_peer,
                // That of its own domain.
                quorum: default.quorum,
                ..config.clone()
            };
            (NodeDraft::new(given, upper), above)
        });
        let upper_key_file = self.upper_key_file.or_else(|| self.key_file.clone()).filter(|_| upper.is_some());
        // Its time source, if it has one, is heard above: below nobody has a vote.
        let is_reference = config.is_reference && upper.is_none();
        Ok(RunConfig {
            node: NodeDraft::new(given, NodeConfig { is_reference, ..config }),
            addresses,
            upper,
            timestamping,
            clock,
            inject_offset: self.inject_offset.unwrap_or_default(),
            inject_drift: self.inject_drift.unwrap_or_default(),
            status_socket: self.status_socket,
            state_dir: self.state_dir,
            key_file: self.key_file,
            upper_key_file,
            user: self.user,
            without: self.without,
            log_level: log_level.or(self.log_level).unwrap_or(LevelFilter::Info),
            log_format: self.log_format.unwrap_or_default(),
        })
    }
}

/// A whole number in the range.
pub(crate) fn whole<T: FromStr + PartialOrd + Display>(text: &str, range: RangeInclusive<T>) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
}

/// A slave, by its number or address.
fn who(text: &str) -> Result<Who, String> {
    match (text.parse::<u64>(), text.parse::<IpAddr>()) {
        (Ok(number), _) if number > 0 => Ok(Who::Node(NodeId::new(number))),
        (_, Ok(ip)) => Ok(Who::Address(ip)),
        (Ok(_) | Err(_), Err(_)) => Err(format!("{text:?} is neither the number of a node nor an IP address")),
    }
}

/// A weight and whose it is, as in `7=3`.
fn weight(text: &str) -> Result<(Who, NonZeroU32), String> {
    let (node, weight) = text.split_once('=').ok_or("must name a node, as in 7=3 or 192.0.2.7=3")?;
    let weight = weight.parse().map_err(|_| format!("must be a whole number from 1 to {}, as in 7=3", u32::MAX))?;
    Ok((who(node)?, weight))
}

/// An asymmetry and whose it is, if not everybody's.
fn delay_asymmetry(text: &str) -> Result<(Who, Span), String> {
    let (who, span) = match text.split_once('=') {
        Some((node, span)) => (who(node)?, span),
        None => (Who::All, text),
    };
    let span: Span = span.parse().map_err(|error| format!("{error}"))?;
    if span.abs() > Span::from_secs(1) { Err("must be at most 1s either way".to_owned()) } else { Ok((who, span)) }
}

/// A rate in parts per million, fractions and signs allowed.
fn ppm(text: &str) -> Result<Skew, String> {
    let number = text.parse::<f64>().ok().filter(|ppm| ppm.abs() <= MAX_PPM);
    number
        .map(|ppm| Skew::from_ratio(ppm * 1e-6))
        .ok_or_else(|| format!("must be a number from -{MAX_PPM} to {MAX_PPM}"))
}

/// A level of the log, by its name.
fn level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| "must be one of error, warn, info, debug, trace, off".to_owned())
}

/// The name or address of an interface.
fn interface() -> impl TypedValueParser<Value = Interface> {
    NonEmptyStringValueParser::new().try_map(|text| text.parse())
}

/// An address with a port. Names are not looked up: without time there may be no name service either.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(ip) => format!("the port is missing, as in {}", SocketAddr::new(ip, DEFAULT_PORT)),
        Err(_) => {
            format!("must be an IP address and a port, as in 192.0.2.7:{DEFAULT_PORT} or [fe80::1%2]:{DEFAULT_PORT}")
        }
    })
}

/// Why a value was refused.
pub(crate) fn reason(error: &clap::Error) -> String {
    use std::error::Error as _;
    match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(valid)) => format!("must be one of {valid}"),
        (None, None) => "a value is missing".to_owned(),
    }
}

/// The nearest option, command or value that exists.
pub(crate) fn suggestion(error: &clap::Error) -> Option<String> {
    [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
        .into_iter()
        .find_map(|kind| error.get(kind))
        .map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn run(arguments: &str) -> RunConfig {
        let found = file_command().try_get_matches_from(arguments.split_whitespace());
        let settings = found.and_then(|found| Settings::from_arg_matches(&found)).unwrap();
        settings.resolve(None).unwrap()
    }

    /// The settings of the core, with 77 for a node without a number.
    fn node(arguments: &str) -> NodeConfig {
        run(arguments).node.into_config(NodeId::new(77))
    }

    #[test]
    fn clap_finds_no_fault_with_the_table() {
        file_command().debug_assert();
    }

    #[test]
    fn the_defaults_in_the_help_are_the_defaults() {
        // Where the default is described and not written, there is nothing to compare.
        let described = [
            "role",
            "interface",
            "group",
            "upper-domain",
            "upper-role",
            "upper-bind",
            "upper-interface",
            "upper-group",
            "max-interval",
            "weight",
            "delay-asymmetry",
            "max-correction",
            "node-id",
            "state-dir",
            "key-file",
            "upper-key-file",
            "status-socket",
            "user",
            "without",
        ];
        let mut written = 0;
        for setting in file_command().get_arguments() {
            let help = setting.get_help().map(ToString::to_string).unwrap_or_default();
            let (name, default) = (setting.get_long().unwrap(), help.split("[default: ").nth(1));
            if let Some(default) = default.filter(|_| !described.contains(&name)) {
                written += 1;
                let default = default.trim_end_matches(']');
                assert_eq!(run(&format!("--role slave --{name}={default}")), run("--role slave"), "--{name}");
            }
        }
        assert!(written >= 14, "{written}");
    }

    #[test]
    fn peers_stand_in_for_the_group_and_the_group_follows_the_family() {
        let group = |arguments| run(arguments).addresses.group;
        assert_eq!(group("--role slave --peer 192.0.2.1:5"), None);
        assert!(group("--role slave --peer 192.0.2.1:5 --group 239.1.1.1:5").is_some());
        assert_eq!(group("--role slave --bind [::]:5525").unwrap().to_string(), "[ff15::5525]:5525");
    }

    #[test]
    fn a_short_interval_takes_the_default_minimum_along() {
        assert_eq!(node("--role slave --interval 100ms").min_interval, Span::from_millis(100));
        assert_eq!(node("--role slave --interval 10s").min_interval, Span::from_millis(125));
    }
}
