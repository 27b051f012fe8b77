//! The command line: what may be asked for, and the one line that says what was wrong with it.
//!
//! [`Settings`] is the only table of settings. clap reads it for the command line and the help, and
//! `config_file.rs` hands it the values of a file as if they had been typed, so that a setting has one name, one
//! reader and one complaint, wherever it comes from. `Settings::resolve` then settles defaults and
//! contradictions; what comes out, a [`RunConfig`], needs no further checks.
//!
//! Not decided here: what the settings mean (`config.rs` and below), and what the commands do (`commands`).

use std::ffi::OsString;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::net::SocketAddr as SocketPath;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use clap::error::{ContextKind, ErrorKind};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use log::LevelFilter;

use crate::average::Average;
use crate::commands::Failure;
use crate::config::{CorrectionPolicy, NodeConfig, Role};
use crate::config_file::{self, Origins};
use crate::identity::{Domain, NodeId};
use crate::net::{DEFAULT_PORT, Interface, default_group};
use crate::time::{Skew, Span};

/// A rate beyond this is no oscillator, see [`Skew::MAX`].
const MAX_PPM: f64 = 100_000.0;

const NETWORK: &str = "Group and network";
const CLOCK: &str = "Clock";
const ROUNDS: &str = "Rounds and averaging";
const CORRECTIONS: &str = "Corrections";
const NODE: &str = "This node";
const GENERAL: &str = "General";

const ABOUT: &str = "Makes machines without a trustworthy time source agree on the time (Berkeley algorithm)";
const EXAMPLES: &str = "\
Durations have a unit: 10us, 250ms, -1.5s, 2min. Every option of these groups except the general
ones can stand in the configuration file, by its name without the dashes: interval = \"250ms\"

Examples:
  berkeleyd --role master                      on one machine of a network,
  berkeleyd --role slave                       and on all others: they agree
  berkeleyd --role master --peer 10.0.0.2:5525 --peer 10.0.0.3:5525
                                               the same without multicast
  berkeleyd --role slave --inject-offset -1.5s --inject-drift 50
                                               with a clock that is wrong, to watch it mend
  berkeleyd check-config /etc/berkeleyd.toml && berkeleyd --config /etc/berkeleyd.toml";

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// Run a node.
    Run(Box<RunConfig>),
    /// Show what a running node knows.
    Status {
        /// Where it listens; `None`: look in the default places.
        socket: Option<PathBuf>,
        /// For programs instead of people.
        json: bool,
    },
    /// Show a whole ensemble at work.
    Demo,
    /// Look for mistakes in a configuration file.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Print this text (help or version), and nothing else.
    Show(String),
}

/// How to run a node. Free of contradictions.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// The settings of the core, complete but for the identity.
    pub node: NodeDraft,
    /// Local address of the socket. Port 0: the system picks one.
    pub bind: SocketAddr,
    /// The interface for multicast; `None`: the system's choice.
    pub interface: Option<Interface>,
    /// The multicast group, of the family of `bind`; `None` when there are only peers.
    pub group: Option<SocketAddr>,
    /// Which clock is corrected.
    pub clock: ClockKind,
    /// The virtual clock starts wrong by this much, positive: ahead. Zero for a system clock.
    pub inject_offset: Span,
    /// And runs fast by this much. Zero for a system clock.
    pub inject_drift: Skew,
    /// Where `status` asks; `None`: in the first default place, see [`crate::commands::default_socket`].
    pub status_socket: Option<PathBuf>,
    /// Where drift and identity survive restarts.
    pub state_dir: Option<PathBuf>,
    /// How much is logged unless `RUST_LOG` says otherwise.
    pub verbosity: LevelFilter,
}

/// Which clock is corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ClockKind {
    /// One kept in user space: the machine's clock is read, never set.
    #[default]
    Virtual,
    /// The machine's.
    System,
}

/// The settings of a node that may not know its number yet: it can be kept in a state directory, or be drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeDraft {
    given: Option<NodeId>,
    /// Valid but for the number.
    config: NodeConfig,
}

impl NodeDraft {
    /// The number given by the operator.
    pub fn node_id(&self) -> Option<NodeId> {
        self.given
    }

    /// The settings of a node with the number given, else with `otherwise`, which must not be zero.
    pub fn into_config(self, otherwise: NodeId) -> NodeConfig {
        NodeConfig { node_id: self.given.unwrap_or(otherwise), ..self.config }
    }
}

#[derive(Debug, Parser)]
#[command(
    name = "berkeleyd",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
struct CommandLine {
    #[command(flatten)]
    settings: Settings,
    /// Read settings from a TOML file; the command line wins
    #[arg(long, value_name = "FILE", help_heading = GENERAL)]
    config: Option<PathBuf>,
    /// Log more: -v every round, -vv every frame
    #[arg(short, long, action = ArgAction::Count, help_heading = GENERAL)]
    verbose: u8,
    /// Log less: -q warnings, -qq errors, -qqq nothing
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "verbose", help_heading = GENERAL)]
    quiet: u8,
    /// Print this help
    #[arg(short, long, action = ArgAction::Help, global = true, help_heading = GENERAL)]
    help: (),
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = GENERAL)]
    version: (),
    #[command(subcommand)]
    command: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show what a running node knows
    Status {
        /// The node's socket [default: in $XDG_RUNTIME_DIR, /run or /tmp]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// One JSON object instead of text; times are integers in ns
        #[arg(long)]
        json: bool,
    },
    /// Run a whole ensemble on loopback and show how it agrees
    Demo,
    /// Look for mistakes in a configuration file: exit 0, or 2 and one line an error
    CheckConfig {
        /// The TOML file
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleChoice {
    Master,
    Slave,
    Auto,
}

/// Every setting of a node, as given: the names, kinds and explanations for command line and file alike.
///
/// The placeholder tells the kind: DUR a span, PPM and N numbers, BOOL a claim, and anything else a text.
#[derive(Clone, Debug, Default, Args)]
pub struct Settings {
    /// The part to play: master, slave or auto (not built yet) [default: auto]
    #[arg(long, value_name = "ROLE", hide_possible_values = true, help_heading = NETWORK)]
    role: Option<RoleChoice>,
    /// Number of the ensemble; frames of others are dropped [default: 0]
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 0..=u32::MAX), help_heading = NETWORK)]
    domain: Option<u32>,
    /// Local address; port 0 picks a free one [default: 0.0.0.0:5525]
    #[arg(long, value_name = "IP:PORT", value_parser = address, help_heading = NETWORK)]
    bind: Option<SocketAddr>,
    /// Interface for multicast [default: the system's choice]
    #[arg(long, value_name = "NAME|IP", value_parser = interface(), help_heading = NETWORK)]
    interface: Option<Interface>,
    /// Multicast group [default: 239.255.5.25:5525 or [ff15::5525]:5525]
    #[arg(long, value_name = "IP:PORT", value_parser = address, help_heading = NETWORK)]
    group: Option<SocketAddr>,
    /// A node to speak to directly, instead of the group; repeatable
    #[arg(long, value_name = "IP:PORT", value_parser = address, help_heading = NETWORK)]
    peer: Vec<SocketAddr>,
    /// How many slaves a master takes [default: 16384]
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 1..=usize::MAX), help_heading = NETWORK)]
    max_slaves: Option<usize>,

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
    /// Shortest time between rounds, while settling [default: 125ms]
    #[arg(long, value_name = "DUR", help_heading = ROUNDS)]
    min_interval: Option<Span>,
    /// Upper bound of the adaptive choice; the interval is not lengthened yet
    #[arg(long, value_name = "DUR", help_heading = ROUNDS)]
    max_interval: Option<Span>,
    /// mean, fault-tolerant, midpoint or weighted [default: fault-tolerant]
    #[arg(long, value_name = "NAME", help_heading = ROUNDS)]
    average: Option<Average>,
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
    /// Number of this node [default: kept in --state-dir, else drawn]
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 1..=u64::MAX), help_heading = NODE)]
    node_id: Option<u64>,
    /// Where drift and identity survive restarts [default: nowhere]
    #[arg(long, value_name = "DIR", help_heading = NODE)]
    state_dir: Option<PathBuf>,
    /// Authenticate every frame (not built yet) [default: not authenticated]
    #[arg(long, value_name = "FILE", help_heading = NODE)]
    key_file: Option<PathBuf>,
    /// Where `status` asks [default: in $XDG_RUNTIME_DIR, /run or /tmp]
    #[arg(long, value_name = "PATH", help_heading = NODE)]
    status_socket: Option<PathBuf>,
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

/// Reads the arguments (the program's name first), and the configuration file they name.
///
/// # Errors
/// [`Failure::Mistake`]: the first mistake in them, or in the file.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Failure> {
    let mistake = |error: clap::Error| Failure::Mistake(format!("{} (see --help)", describe(&error)));
    let matches = match command().try_get_matches_from(with_negative_values(arguments)) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Invocation::Show(error.render().to_string())),
        Err(error) => return Err(mistake(error)),
    };
    let line = CommandLine::from_arg_matches(&matches).map_err(mistake)?;
    match line.command {
        Some(Task::Status { socket, json }) => return Ok(Invocation::Status { socket, json }),
        Some(Task::Demo) => return Ok(Invocation::Demo),
        Some(Task::CheckConfig { file }) => return Ok(Invocation::CheckConfig { file }),
        None => (),
    }
    let (mut settings, mut origins) = match &line.config {
        Some(path) => config_file::read(path).map_err(|mistakes| Failure::first_of(mistakes, path))?,
        None => (Settings::default(), Origins::default()),
    };
    settings.update_from_arg_matches(&matches).map_err(mistake)?;
    origins.retain(|setting| !matches.contains_id(setting));
    let node = settings.resolve(&origins, verbosity(line.verbose, line.quiet));
    node.map(|config| Invocation::Run(Box::new(config)))
        .map_err(|mistakes| Failure::Mistake(mistakes.into_iter().next().unwrap_or_default()))
}

/// The command line, without the documentation of [`Settings`], which clap would show on top of the help.
///
/// Lines are never wrapped, so that all builds show the same help: another crate may turn clap's wrapping on.
fn command() -> clap::Command {
    CommandLine::command().about(ABOUT).long_about(None).term_width(0)
}

/// Makes `--option=-1.5s` of `--option -1.5s`: what starts with a dash and a digit is a value, never an option.
fn with_negative_values(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let is_negative = |argument: &OsString| match argument.as_encoded_bytes() {
        [b'-', digit, ..] => digit.is_ascii_digit() || *digit == b'.',
        _ => false,
    };
    let is_option = |argument: &OsString| {
        let bytes = argument.as_encoded_bytes();
        bytes.len() > 2 && bytes.starts_with(b"--") && !bytes.contains(&b'=')
    };
    let mut joined = Vec::new();
    for argument in arguments {
        match joined.last_mut().filter(|option| is_option(option) && is_negative(&argument)) {
            Some(option) => {
                option.push("=");
                option.push(argument);
            }
            None => joined.push(argument),
        }
    }
    joined
}

/// The command that a configuration file's keys are the options of.
pub(crate) fn file_command() -> clap::Command {
    Settings::augment_args(clap::Command::new("file").no_binary_name(true).disable_help_flag(true))
}

/// Whether an option exists that no file can set.
pub(crate) fn is_for_command_line_only(option: &str) -> bool {
    command().get_arguments().any(|known| known.get_long() == Some(option))
        && !file_command().get_arguments().any(|known| known.get_long() == Some(option))
}

fn verbosity(more: u8, less: u8) -> LevelFilter {
    match (more, less) {
        (0, 0) => LevelFilter::Info,
        (0, 1) => LevelFilter::Warn,
        (0, 2) => LevelFilter::Error,
        (0, 3..) => LevelFilter::Off,
        (1, _) => LevelFilter::Debug,
        (2.., _) => LevelFilter::Trace,
    }
}

impl Settings {
    /// Takes a role for granted where none is given: a file need not say it.
    pub(crate) fn with_some_role(mut self) -> Self {
        self.role = self.role.or(Some(RoleChoice::Slave));
        self
    }

    /// Fills in the defaults and checks what no single value shows.
    ///
    /// # Errors
    /// Every contradiction found, a line each; `origins` tells which settings to point to in a file.
    pub(crate) fn resolve(self, origins: &Origins, verbosity: LevelFilter) -> Result<RunConfig, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut fault = |setting: &str, fault: String| mistakes.push(origins.mistake(setting, &fault));
        let role = match self.role {
            Some(RoleChoice::Master) => Role::Master,
            Some(RoleChoice::Slave) => Role::Slave,
            Some(RoleChoice::Auto) | None => {
                let text = "auto: electing a master is not built yet; give --role master or --role slave";
                fault("role", text.to_owned());
                Role::Slave
            }
        };
        if self.key_file.is_some() {
            fault("key-file", "cannot be used: authentication is not built yet".to_owned());
        }

        let bind = self.bind.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT));
        if bind.ip().is_multicast() {
            fault("bind", format!("{bind} is a multicast group; give an address of this machine"));
        }
        let group = match (self.group, self.peer.is_empty()) {
            (None, true) => Some(default_group(bind)),
            (given, _) => given,
        };
        if let Some(group) = group {
            if !group.ip().is_multicast() {
                fault("group", format!("{group} is not a multicast address"));
            } else if group.port() == 0 {
                fault("group", format!("{group} needs a port other than 0"));
            } else if group.is_ipv4() != bind.is_ipv4() {
                fault("group", format!("{group} and --bind {bind} mix IPv4 and IPv6"));
            }
        }
        for (index, peer) in self.peer.iter().enumerate() {
            if peer.ip().is_multicast() || peer.ip().is_unspecified() {
                fault("peer", format!("{peer} is not the address of one machine"));
            } else if peer.port() == 0 {
                fault("peer", format!("{peer} needs a port other than 0"));
            } else if peer.is_ipv4() != bind.is_ipv4() {
                fault("peer", format!("{peer} and --bind {bind} mix IPv4 and IPv6"));
            } else if self.peer.iter().take(index).any(|earlier| earlier == peer) {
                fault("peer", format!("{peer} is given twice"));
            }
        }

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

        let given = self.node_id.map(NodeId::new);
        let default = NodeConfig::new(given.unwrap_or(NodeId::new(1)), role);
        let interval = self.interval.unwrap_or(default.interval);
        if self.max_interval.is_some_and(|longest| longest < interval) {
            fault("max-interval", "must not be shorter than interval".to_owned());
        }
        let config = NodeConfig {
            domain: self.domain.map_or(default.domain, Domain::new),
            priority: self.priority.unwrap_or(default.priority),
            is_reference: self.reference.unwrap_or(default.is_reference),
            group,
            interval,
            // Whoever asks for rounds faster than the default minimum means that, and not a contradiction.
            min_interval: self.min_interval.unwrap_or(default.min_interval.min(interval)),
            average: self.average.unwrap_or(default.average),
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
            ..default
        };
        if config.role == Role::Master && config.peers.len() > config.max_slaves {
            fault("max-slaves", format!("is {}, but there are {} peers", config.max_slaves, config.peers.len()));
        }
        match config.validated() {
            Err(error) => fault(error.setting, error.fault.to_owned()),
            Ok(config) if mistakes.is_empty() => {
                return Ok(RunConfig {
                    node: NodeDraft { given, config },
                    bind,
                    interface: self.interface,
                    group,
                    clock,
                    inject_offset: self.inject_offset.unwrap_or_default(),
                    inject_drift: self.inject_drift.unwrap_or_default(),
                    status_socket: self.status_socket,
                    state_dir: self.state_dir,
                    verbosity,
                });
            }
            Ok(_) => (),
        }
        Err(mistakes)
    }
}

/// A whole number in the range.
fn whole<T: FromStr + PartialOrd + Display>(text: &str, range: RangeInclusive<T>) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
}

/// A rate in parts per million, fractions and signs allowed.
fn ppm(text: &str) -> Result<Skew, String> {
    let number = text.parse::<f64>().ok().filter(|ppm| ppm.abs() <= MAX_PPM);
    number
        .map(|ppm| Skew::from_ratio(ppm * 1e-6))
        .ok_or_else(|| format!("must be a number from -{MAX_PPM} to {MAX_PPM}"))
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

/// What was wrong with the arguments, in one line where clap takes several.
#[expect(clippy::wildcard_enum_match_arm, reason = "clap may add kinds of errors; all have a text of their own")]
fn describe(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let (arg, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    let word = context(ContextKind::InvalidSubcommand);
    let what = match error.kind() {
        ErrorKind::UnknownArgument => format!("unexpected argument '{arg}'"),
        ErrorKind::InvalidSubcommand => format!("unknown command '{word}'"),
        ErrorKind::InvalidValue if value.is_empty() => format!("'{arg}' needs a value"),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            return format!("invalid value '{value}' for '{arg}': {}", reason(error));
        }
        // A word too many (`--role master slave`) is taken for a command that conflicts with the options before it.
        ErrorKind::ArgumentConflict if !word.is_empty() && command().find_subcommand(&word).is_none() => {
            format!("unexpected argument '{word}'")
        }
        // The rest has one paragraph that says it all, in front of the usage.
        _ => {
            let text = error.render().to_string();
            let head = text.split("\n\n").next().unwrap_or_default();
            head.trim_start_matches("error:").split_whitespace().collect::<Vec<_>>().join(" ")
        }
    };
    match suggestion(error) {
        Some(similar) => format!("{what}; did you mean '{similar}'?"),
        None => what,
    }
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
    use proptest::prelude::*;
    use std::io::Write;

    fn parsed(arguments: &str) -> Result<Invocation, Failure> {
        parse(std::iter::once("berkeleyd").chain(arguments.split_whitespace()).map(OsString::from))
    }

    fn run(arguments: &str) -> RunConfig {
        match parsed(arguments) {
            Ok(Invocation::Run(config)) => *config,
            other => panic!("{arguments}: {other:?}"),
        }
    }

    /// The settings of the core, with 77 for a node without a number.
    fn node(arguments: &str) -> NodeConfig {
        run(arguments).node.into_config(NodeId::new(77))
    }

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        command().debug_assert();
        file_command().debug_assert();
    }

    #[test]
    fn a_role_is_enough() {
        let expected =
            NodeConfig { group: "239.255.5.25:5525".parse().ok(), ..NodeConfig::new(NodeId::new(77), Role::Slave) };
        let config = run("--role slave");
        assert_eq!(config.node.node_id(), None);
        assert_eq!(config.node.clone().into_config(NodeId::new(77)), expected);
        assert_eq!(config.bind.to_string(), "0.0.0.0:5525");
        assert_eq!((config.group, config.clock), (expected.group, ClockKind::Virtual));
        assert_eq!((config.inject_offset, config.inject_drift), (Span::ZERO, Skew::ZERO));
        assert_eq!((config.interface, config.status_socket, config.state_dir), (None, None, None));
        assert_eq!(config.verbosity, LevelFilter::Info);
    }

    #[test]
    fn every_option_arrives() {
        let text = "--role master --domain 7 --bind [::1]:0 --interface eth0 --group [ff15::1]:9 --peer [::1]:1 \
            --peer [::1]:2 --max-slaves 5 --clock virtual --inject-offset -1.5s --inject-drift -50.25 --inject-lie 3ms \
            --interval 2s --min-interval 100ms --max-interval 2s --average midpoint --gamma 1ms --reference \
            --max-slew 100.5 --step-threshold 5ms --allow-step --max-correction 10s --priority -3 --node-id 9 \
            --state-dir /a --status-socket /b -vv";
        let config = run(text);
        assert_eq!(config.bind.to_string(), "[::1]:0");
        assert_eq!(config.interface, Some(Interface::Name("eth0".to_owned())));
        assert_eq!(config.inject_offset, Span::from_millis(-1_500));
        assert_eq!(config.inject_drift, Skew::from_ppb(-50_250));
        assert_eq!((config.state_dir, config.status_socket), (Some("/a".into()), Some("/b".into())));
        assert_eq!(config.verbosity, LevelFilter::Trace);
        let expected = NodeConfig {
            node_id: NodeId::new(9),
            domain: Domain::new(7),
            role: Role::Master,
            priority: -3,
            is_reference: true,
            group: "[ff15::1]:9".parse().ok(),
            peers: vec!["[::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap()],
            interval: Span::from_secs(2),
            min_interval: Span::from_millis(100),
            average: Average::Midpoint,
            gamma: Span::from_millis(1),
            policy: CorrectionPolicy {
                max_slew: Skew::from_ppb(100_500),
                step_threshold: Span::from_millis(5),
                allow_step: true,
                max_correction: Some(Span::from_secs(10)),
            },
            max_slaves: 5,
            lie: Span::from_millis(3),
        };
        assert_eq!(node(text), expected);
    }

    #[test]
    fn the_defaults_in_the_help_are_the_defaults() {
        // Where the default is described and not written, there is nothing to compare.
        let described =
            ["role", "interface", "group", "max-correction", "node-id", "state-dir", "key-file", "status-socket"];
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
        assert_eq!(run("--role slave --peer 192.0.2.1:5").group, None);
        assert!(run("--role slave --peer 192.0.2.1:5 --group 239.1.1.1:5").group.is_some());
        assert_eq!(run("--role slave --bind [::]:5525").group.unwrap().to_string(), "[ff15::5525]:5525");
    }

    #[test]
    fn a_short_interval_takes_the_default_minimum_along() {
        assert_eq!(node("--role slave --interval 100ms").min_interval, Span::from_millis(100));
        assert_eq!(node("--role slave --interval 10s").min_interval, Span::from_millis(125));
    }

    #[test]
    fn the_command_line_wins_over_the_file_setting_by_setting() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = "role = 'slave'\ninterval = '90s'\nallow-step = true\nreference = true\n\
            peer = ['192.0.2.1:5', '192.0.2.2:5']\nmax-slew = 0x10\ninject-drift = -2.5\ndomain = 3\n";
        file.write_all(text.as_bytes()).unwrap();
        let with_file = format!("--config {}", file.path().display());
        // The file's interval is out of range: overridden, it is not looked at.
        let line = format!("{with_file} --role master --interval 3s --allow-step=false --peer 192.0.2.3:5");
        let config = node(&line);
        assert_eq!((config.role, config.interval), (Role::Master, Span::from_secs(3)));
        assert_eq!((config.policy.allow_step, config.is_reference), (false, true));
        assert_eq!(config.peers, ["192.0.2.3:5".parse().unwrap()]);
        assert_eq!((config.policy.max_slew, config.domain), (Skew::from_ppm(16), Domain::new(3)));
        assert_eq!(run(&line).inject_drift, Skew::from_ppb(-2_500));
        // And the complaint points to whichever of them set it.
        let place = |line: &str| parsed(line).unwrap_err().to_string();
        let fault = "interval` must lie between 62.5ms and 64s";
        assert_eq!(place(&with_file), format!("berkeleyd: {}:2:12: `{fault}", file.path().display()));
        let fault = "--interval must lie between 62.5ms and 64s";
        assert_eq!(place(&format!("{with_file} --interval 1d")), format!("berkeleyd: {fault}"));
    }

    #[test]
    fn verbosity_is_counted() {
        let levels =
            ["-qqq", "-q -q", "-q", "", "-v", "--verbose -v"].map(|flags| run(&format!("--role slave {flags}")));
        let expected = ["OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        assert_eq!(levels.map(|config| config.verbosity.to_string()), expected);
    }

    #[test]
    fn commands_take_their_own_options() {
        let status = |socket: Option<&str>, json| Ok(Invocation::Status { socket: socket.map(PathBuf::from), json });
        assert_eq!(parsed("status"), status(None, false));
        assert_eq!(parsed("status --json --socket /x"), status(Some("/x"), true));
        assert_eq!(parsed("demo"), Ok(Invocation::Demo));
        assert_eq!(parsed("check-config f"), Ok(Invocation::CheckConfig { file: "f".into() }));
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_understood_or_refused_in_one_line(
            words in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(vec![
                        "--role", "slave", "--interval", "-1.5s", "--peer", "127.0.0.1:1", "--", "-v", "-5", "--group=",
                        "--allow-step=", "status", "--domain", "--inject-drift", "9e9", "demo", "=", "-", "--clock",
                    ]).prop_map(str::to_owned),
                    any::<String>().prop_filter("reads no files", |word| !word.contains("config")),
                ],
                0..6,
            )
        ) {
            let arguments = std::iter::once("berkeleyd".to_owned()).chain(words).map(OsString::from);
            if let Err(failure) = parse(arguments) {
                prop_assert!(!failure.to_string().contains(char::is_control), "{}", failure);
            }
        }
    }
}
