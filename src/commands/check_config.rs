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
    let (name, text) = config_file::text_of(file).map_err(|mistake| Failure::Mistakes(vec![mistake]))?;
    check_text(name, &text).map_err(Failure::Mistakes)
}

/// The same for a file's text; `file` is its name in complaints.
///
/// # Errors
/// A line for each mistake.
pub fn check_text(file: String, text: &str) -> Result<(), Vec<String>> {
    let (settings, origins) = config_file::parse(file, text)?;
    let resolved = settings.with_some_role().resolve(LevelFilter::Info);
    resolved.map(drop).map_err(|faults| origins.mistakes(&faults))
}
