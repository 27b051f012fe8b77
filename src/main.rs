//! `berkeleyd`: parses the command line, starts the log, calls the library and turns its result into an exit status.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use berkeleyd::cli::{self, Invocation};
use berkeleyd::commands::{self, Failure};
use log::{Level, LevelFilter};

fn main() -> ExitCode {
    match cli::parse(env::args_os()).and_then(obey) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when the standard error is closed.
            let _ = writeln!(io::stderr().lock(), "{failure}");
            failure.exit_code()
        }
    }
}

fn obey(invocation: Invocation) -> Result<(), Failure> {
    start_log(match &invocation {
        Invocation::Run(config) => config.verbosity,
        // It runs in the background, as a node does.
        Invocation::Exporter(_) => LevelFilter::Info,
        Invocation::Status(_)
        | Invocation::Watch(_)
        | Invocation::Demo
        | Invocation::Simulate(_)
        | Invocation::CheckConfig { .. }
        | Invocation::Keygen(_)
        | Invocation::Show(_) => LevelFilter::Warn,
    });
    match invocation {
        Invocation::Run(config) => commands::run::run(*config),
        Invocation::Status(options) => commands::status::status(&options),
        Invocation::Exporter(options) => commands::exporter::exporter(options),
        Invocation::Watch(options) => commands::watch::watch(&options),
        Invocation::Demo => commands::demo::demo(),
        Invocation::Simulate(options) => commands::simulate::simulate(&options),
        Invocation::CheckConfig { file } => commands::check_config::check_config(&file),
        Invocation::Keygen(options) => commands::keygen::keygen(&options),
        Invocation::Show(text) => commands::print(&text),
    }
}

/// To the standard error; `RUST_LOG` wins over `level`.
fn start_log(level: LevelFilter) {
    let is_journal = is_journal();
    env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .format(move |out, record| {
            let (level, message) = (record.level(), record.args());
            if is_journal {
                // The journal keeps the time itself, and takes the priority from the prefix (sd-daemon(3)).
                return writeln!(out, "<{}>{level:<5} {message}", priority(level));
            }
            let (time, style) = (out.timestamp_millis(), out.default_level_style(level));
            writeln!(out, "{time} {style}{level:<5}{style:#} {message}")
        })
        .init();
}

/// syslog's number for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether the standard error is the journal that systemd names, and not a file it was redirected to.
fn is_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    nix::sys::stat::fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
