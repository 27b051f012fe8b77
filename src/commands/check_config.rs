//! `berkeleyd check-config FILE`: all mistakes of a configuration file at once, before a node is started with it.

use std::path::Path;

use log::LevelFilter;

use super::Failure;
use crate::config_file;

/// Looks for mistakes in a file, taken by itself: what a command line would override is not known here.
///
/// # Errors
/// [`Failure::Mistakes`].
pub fn check_config(file: &Path) -> Result<(), Failure> {
    let (settings, origins) = config_file::read(file).map_err(Failure::Mistakes)?;
    let resolved = settings.with_some_role().resolve(LevelFilter::Info);
    resolved.map(drop).map_err(|faults| Failure::Mistakes(origins.mistakes(&faults)))
}
