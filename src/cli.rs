//! The command line: what may be asked for, and the one line that says what was wrong with it.
//!
//! The settings themselves stand in `settings.rs`. Here they get the company of what no file can say (commands, help,
//! verbosity, the file's own name), and the command line wins over the file.
//!
//! Not decided here: what the settings mean (`settings.rs`, `config.rs` and below), and what the commands do
//! (`commands`).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use log::LevelFilter;

use crate::commands::{exporter, keygen, simulate, status, watch};
use crate::config_file::Occasion;
use crate::failure::Failure;
use crate::run_config::RunConfig;
use crate::settings::{Settings, reason, suggestion};
use crate::sources::Sources;

/// The heading of what stands in [`COMMAND_LINE_ONLY`](crate::config_file::COMMAND_LINE_ONLY).
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
  berkeleyd check-config berkeleyd.toml && berkeleyd --config berkeleyd.toml

SIGHUP reads the configuration and key files again. The log says what has changed, and what needs a
restart: all but delay-asymmetry, max-slaves, interval, min-interval, max-interval, average, weight,
gamma, reference, max-slew, step-threshold, allow-step, max-correction, priority, preempt, quorum,
log-level, peer, and upper-peer (of these two the first takes a restart)";

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// Run a node with these settings, which come from there.
    Run(Box<RunConfig>, Box<Sources>),
    /// Show what a running node knows, or wait until it is synchronised.
    Status(status::Options),
    /// Show running nodes to Prometheus and to browsers.
    Exporter(exporter::Options),
    /// Show a running node live.
    Watch(watch::Options),
    /// Show a whole ensemble at work.
    Demo,
    /// Simulate an ensemble.
    Simulate(Box<simulate::Options>),
    /// Look for mistakes in a configuration file.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Make a key.
    Keygen(keygen::Options),
    /// Print this text (help or version), and nothing else.
    Show(String),
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
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "log_level", help_heading = GENERAL)]
    verbose: u8,
    /// Log less: -q warnings, -qq errors, -qqq nothing
    #[arg(short, long, action = ArgAction::Count, conflicts_with_all = ["verbose", "log_level"], help_heading = GENERAL)]
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
    /// Show what a running node knows, or wait until it is synchronised
    Status(status::Options),
    /// Prometheus metrics of running nodes, and a dashboard page
    Exporter(exporter::Options),
    /// Show a running node live: offsets over time, its slaves, what happens
    Watch(watch::Options),
    /// Run a whole ensemble on loopback and show how it agrees
    Demo,
    /// Simulate an ensemble, and measure how well it agrees
    Simulate(Box<simulate::Options>),
    /// Look for mistakes in a configuration file: exit 0, or 2 and one line an error
    CheckConfig {
        /// The TOML file
        file: PathBuf,
    },
    /// Print a key file with a fresh key
    Keygen(keygen::Options),
}

/// Reads the arguments (the program's name first), and the configuration file they name.
///
/// # Errors
/// [`Failure::Mistake`]: the first mistake in them, or in the file.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Failure> {
    let matches = match command().try_get_matches_from(with_negative_values(arguments)) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Invocation::Show(error.render().to_string())),
        Err(error) => return Err(mistake(&error)),
    };
    let line = CommandLine::from_arg_matches(&matches).map_err(|error| mistake(&error))?;
    match line.command {
        Some(Task::Status(options)) => return Ok(Invocation::Status(options)),
        Some(Task::Exporter(options)) => return Ok(Invocation::Exporter(options)),
        Some(Task::Watch(options)) => return Ok(Invocation::Watch(options)),
        Some(Task::Demo) => return Ok(Invocation::Demo),
        Some(Task::Simulate(options)) => return Ok(Invocation::Simulate(options)),
        Some(Task::CheckConfig { file }) => return Ok(Invocation::CheckConfig { file }),
        Some(Task::Keygen(options)) => return Ok(Invocation::Keygen(options)),
        None => (),
    }
    let sources = Sources::new(matches, line.config, verbosity(line.verbose, line.quiet));
    let config = sources.read(Occasion::Start).map_err(|mistakes| Failure::first_of(mistakes, sources.file()))?;
    Ok(Invocation::Run(Box::new(config), Box::new(sources)))
}

/// The command line, for who reads it or writes about it, without the documentation of [`Settings`], which clap would show on top of the help.
///
/// Lines are never wrapped, so that all builds show the same help: another crate may turn clap's wrapping on.
pub fn command() -> clap::Command {
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

/// The level that the flags ask for, if there are any.
fn verbosity(more: u8, less: u8) -> Option<LevelFilter> {
    Some(match (more, less) {
        (0, 0) => return None,
        (0, 1) => LevelFilter::Warn,
        (0, 2) => LevelFilter::Error,
        (0, 3..) => LevelFilter::Off,
        (1, _) => LevelFilter::Debug,
        (2.., _) => LevelFilter::Trace,
    })
}

/// What was wrong with the arguments, in one line where clap takes several.
pub fn mistake(error: &clap::Error) -> Failure {
    Failure::Mistake(format!("{} (see --help)", describe(error)))
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::average::Average;
    use crate::config::{CorrectionPolicy, NodeConfig, Role, Who};
    use crate::config_file::COMMAND_LINE_ONLY;
    use crate::identity::{Domain, NodeId};
    use crate::net::{Addresses, Interface};
    use crate::privileges::Measure;
    use crate::run_config::ClockKind;
    use crate::settings::file_command;
    use crate::time::{Skew, Span};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::num::NonZeroU32;

    fn parsed(arguments: &str) -> Result<Invocation, Failure> {
        parse(std::iter::once("berkeleyd").chain(arguments.split_whitespace()).map(OsString::from))
    }

    fn run(arguments: &str) -> RunConfig {
        match parsed(arguments) {
            Ok(Invocation::Run(config, _)) => *config,
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
    }

    #[test]
    fn what_no_file_can_set_is_known_to_the_file() {
        let names = |command: clap::Command| {
            command.get_arguments().filter_map(clap::Arg::get_long).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let expected = COMMAND_LINE_ONLY.map(str::to_owned).into();
        assert_eq!(&names(command()) - &names(file_command()), expected);
    }

    #[test]
    fn nothing_need_be_said() {
        let expected =
            NodeConfig { group: "239.255.5.25:5525".parse().ok(), ..NodeConfig::new(NodeId::new(77), Role::Auto) };
        let config = run("");
        assert_eq!(config.node.node_id(), None);
        assert_eq!(config.node.clone().into_config(NodeId::new(77)), expected);
        assert_eq!(config.addresses.bind.to_string(), "0.0.0.0:5525");
        assert_eq!((config.addresses.group, config.clock), (expected.group, ClockKind::Virtual));
        assert_eq!((config.inject_offset, config.inject_drift), (Span::ZERO, Skew::ZERO));
        assert_eq!((config.addresses.interface, config.status_socket, config.state_dir), (None, None, None));
        assert_eq!((config.user, config.without, config.upper), (None, Vec::new(), None));
        assert_eq!(config.log_level, LevelFilter::Info);
    }

    #[test]
    fn every_option_arrives() {
        let text = "--role master --domain 7 --bind [::1]:0 --interface eth0 --group [ff15::1]:9 --peer [::1]:1 \
            --peer [::1]:2 --max-slaves 5 --clock virtual --inject-offset -1.5s --inject-drift -50.25 --inject-lie 3ms \
            --interval 2s --min-interval 100ms --max-interval 4s --weight 7=3 --weight 192.0.2.7=2 --delay-asymmetry -5us \
            --delay-asymmetry 7=1.5us --average midpoint --gamma 1ms --reference \
            --max-slew 100.5 --step-threshold 5ms --allow-step --max-correction 10s --priority -3 --preempt --quorum 3 \
            --node-id 9 \
            --state-dir /a --status-socket /b --user 7:8 --without seccomp --without no-new-privs -vv";
        let config = run(text);
        assert_eq!(config.addresses.bind.to_string(), "[::1]:0");
        assert_eq!(config.addresses.interface, Some(Interface::Name("eth0".to_owned())));
        assert_eq!(config.inject_offset, Span::from_millis(-1_500));
        assert_eq!(config.inject_drift, Skew::from_ppb(-50_250));
        assert_eq!((config.state_dir, config.status_socket), (Some("/a".into()), Some("/b".into())));
        assert_eq!(config.user, "7:8".parse().ok());
        assert_eq!(config.without, [Measure::Seccomp, Measure::NoNewPrivs]);
        assert_eq!(config.log_level, LevelFilter::Trace);
        let expected = NodeConfig {
            node_id: NodeId::new(9),
            domain: Domain::new(7),
            upper: None,
            role: Role::Master,
            priority: -3,
            preempt: true,
            quorum: 3,
            is_reference: true,
            group: "[ff15::1]:9".parse().ok(),
            peers: vec!["[::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap()],
            interval: Span::from_secs(2),
            min_interval: Span::from_millis(100),
            max_interval: Span::from_secs(4),
            weights: vec![
                (Who::Node(NodeId::new(7)), NonZeroU32::new(3).unwrap()),
                (Who::Address([192, 0, 2, 7].into()), NonZeroU32::new(2).unwrap()),
            ],
            delay_asymmetries: vec![
                (Who::All, Span::from_micros(-5)),
                (Who::Node(NodeId::new(7)), Span::from_nanos(1_500)),
            ],
            average: Average::Midpoint,
            gamma: Span::from_millis(1),
            policy: CorrectionPolicy {
                max_slew: Skew::from_ppb(100_500),
                step_threshold: Span::from_millis(5),
                allow_step: true,
                max_correction: Some(Span::from_secs(10)),
            },
            max_slaves: 5,
            own_addresses: Vec::new(),
            lie: Span::from_millis(3),
        };
        assert_eq!(node(text), expected);
    }

    #[test]
    fn a_submaster_is_two_nodes_that_share_all_but_their_networks() {
        let text = "--role master --domain 7 --upper-domain 3 --upper-role slave --upper-bind 192.0.2.1:5525 --upper-interface eth1 \
            --upper-group 239.1.1.1:9 --upper-peer 192.0.2.2:1 --reference --quorum 3 --gamma 1ms --node-id 9";
        let config = run(text);
        let lower = config.node.into_config(NodeId::new(77));
        let (upper, addresses) = config.upper.unwrap();
        let upper = upper.into_config(NodeId::new(77));
        assert_eq!((lower.upper, lower.is_reference, lower.quorum), (Some(Domain::new(3)), false, 3));
        let (bind, group, interface) =
            ("192.0.2.1:5525".parse().unwrap(), "239.1.1.1:9".parse().ok(), Some(Interface::Name("eth1".to_owned())));
        assert_eq!(addresses, Addresses { bind, group, interface });
        let expected = NodeConfig {
            domain: Domain::new(3),
            upper: None,
            role: Role::Slave,
            group,
            peers: vec!["192.0.2.2:1".parse().unwrap()],
            is_reference: true,
            quorum: 1,
            ..lower
        };
        assert_eq!(upper, expected);

        let config = run("--role master --domain 7 --upper-domain 3");
        let (upper, addresses) = config.upper.unwrap();
        assert_eq!(upper.into_config(NodeId::new(77)).role, Role::Auto);
        // Two sockets that share the group's port, and none that has it alone.
        assert_eq!([config.addresses, addresses].map(|one| one.bind.port()), [0, 0]);
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
        assert_eq!(levels.map(|config| config.log_level.to_string()), expected);
    }

    #[test]
    fn commands_take_their_own_options() {
        let status = |options| Ok(Invocation::Status(options));
        assert_eq!(parsed("status"), status(status::Options::default()));
        let socket = Some("/x".into());
        let expected = status::Options { socket, json: true, ..status::Options::default() };
        assert_eq!(parsed("status --json --socket /x"), status(expected));
        let waiting = |wait_sync, timeout| status::Options { wait_sync, timeout, ..status::Options::default() };
        assert_eq!(parsed("status --wait-sync"), status(waiting(Some(None), None)));
        let (bound, timeout) = (Span::from_millis(1), Span::from_secs(30));
        assert_eq!(parsed("status --wait-sync=1ms --timeout 30s"), status(waiting(Some(Some(bound)), Some(timeout))));
        let socket = Some("/x".into());
        assert_eq!(parsed("watch --socket /x"), Ok(Invocation::Watch(watch::Options { socket })));
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
