//! Where the settings of a node come from, the command line and the file that it names, and what becomes of them when the file is read again
//! while the node runs.
//!
//! The command line wins over the file, at the start and later. What a running node can take over, `run_config.rs` decides.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, FromArgMatches};
use log::LevelFilter;

use crate::config_file::{self, Occasion, Origins};
use crate::run_config::{Change, RunConfig};
use crate::settings::{Settings, reason};

/// A command line that has been understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Sources {
    matches: ArgMatches,
    file: Option<PathBuf>,
    /// How much is to be logged, if the command line says so outside the settings.
    log_level: Option<LevelFilter>,
}

impl Sources {
    pub(crate) fn new(matches: ArgMatches, file: Option<PathBuf>, log_level: Option<LevelFilter>) -> Self {
        Self { matches, file, log_level }
    }

    /// The file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// What the settings are now.
    ///
    /// # Errors
    /// Every mistake that could be found, a line each.
    pub(crate) fn read(&self, occasion: Occasion) -> Result<RunConfig, Vec<String>> {
        let (mut settings, mut origins) = match &self.file {
            Some(path) => config_file::read(path, occasion)?,
            None => (Settings::default(), Origins::default()),
        };
        settings.update_from_arg_matches(&self.matches).map_err(|error| vec![reason(&error)])?;
        origins.retain(|setting| !self.matches.contains_id(setting));
        settings.resolve(self.log_level).map_err(|faults| origins.mistakes(&faults))
    }
}

/// The settings that a process runs with.
#[derive(Clone, Debug)]
pub struct LiveSettings {
    sources: Sources,
    config: RunConfig,
}

/// What has become of settings that were read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reloaded {
    /// These are others from now on.
    pub(crate) changed: Vec<Change>,
    /// These would be others after a restart.
    pub(crate) pending: Vec<Change>,
}

impl LiveSettings {
    /// `config`: what `sources` said at the start.
    pub fn new(sources: Sources, config: RunConfig) -> Self {
        Self { sources, config }
    }

    /// What is in force.
    pub(crate) fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Reads the file again, and takes over what a running process can.
    ///
    /// # Errors
    /// Every mistake in it, a line each; then all stays as it was.
    pub(crate) fn read_again(&mut self) -> Result<Reloaded, Vec<String>> {
        let wanted = self.sources.read(Occasion::Reload)?;
        let renewed = self.config.renewed(&wanted);
        let reloaded = Reloaded { changed: self.config.changes(&renewed), pending: renewed.changes(&wanted) };
        self.config = renewed;
        Ok(reloaded)
    }

    /// Says why the file could not be read again, if that is so: the process may have become somebody else since it was read.
    ///
    /// # Errors
    /// Which file, and why not.
    pub fn can_read_again(&self) -> Result<(), String> {
        self.sources.file().map_or(Ok(()), |file| config_file::text_of(file, Occasion::Reload).map(drop))
    }
}
