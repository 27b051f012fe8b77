//! `berkeleyd`: parses the command line, starts the log, calls the library and turns its result into an exit status.

use std::env;
use std::process::ExitCode;

use berkeleyd::cli::{self, Invocation};
use berkeleyd::commands::{self, Failure};
use berkeleyd::log_output;
use berkeleyd::run_config::LogFormat;
use log::LevelFilter;

fn main() -> ExitCode {
    match cli::parse(env::args_os()).and_then(obey) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log_output::tell(&failure);
            failure.exit_code()
        }
    }
}

fn obey(invocation: Invocation) -> Result<(), Failure> {
    let (level, format) = match &invocation {
        Invocation::Run(config, _) => (config.log_level, config.log_format),
        // It runs in the background, as a node does.
        Invocation::Exporter(_) => (LevelFilter::Info, LogFormat::Text),
        Invocation::Status(_)
        | Invocation::Watch(_)
        | Invocation::Demo
        | Invocation::Simulate(_)
        | Invocation::CheckConfig { .. }
        | Invocation::Keygen(_)
        | Invocation::Show(_) => (LevelFilter::Warn, LogFormat::Text),
    };
    log_output::start(level, format);
    match invocation {
        Invocation::Run(config, sources) => commands::run::run(*config, *sources),
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
