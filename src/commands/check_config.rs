//! `berkeleyd check-config FILE`: all mistakes of a configuration file at once, and of the key files that it names, before a node is started
//! with them.

use std::collections::BTreeSet;
use std::path::Path;

use nix::unistd::geteuid;

use super::Failure;
use crate::config_file::{self, Occasion};
use crate::key_file::load_now;
use crate::run_config::RunConfig;

/// Looks for mistakes in a file, taken by itself: what a command line would override is not known here.
///
/// # Errors
/// [`Failure::Mistakes`].
pub fn check_config(file: &Path) -> Result<(), Failure> {
    let (name, text) =
        config_file::text_of(file, Occasion::Start).map_err(|mistake| Failure::Mistakes(vec![mistake]))?;
    resolved(name, &text).and_then(|config| check_keys(&config)).map_err(Failure::Mistakes)
}

/// The same for a file's text alone; `file` is its name in complaints.
///
/// # Errors
/// A line for each mistake.
pub fn check_text(file: String, text: &str) -> Result<(), Vec<String>> {
    resolved(file, text).map(drop)
}

fn resolved(file: String, text: &str) -> Result<RunConfig, Vec<String>> {
    let (settings, origins) = config_file::parse(file, text)?;
    let resolved = settings.with_some_role().resolve(None);
    resolved.map_err(|faults| origins.mistakes(&faults))
}

/// Reads the key files as the node would, for the user that it will be.
fn check_keys(config: &RunConfig) -> Result<(), Vec<String>> {
    // Most submasters have one file for both domains.
    let files: BTreeSet<_> = [&config.key_file, &config.upper_key_file].into_iter().flatten().collect();
    if files.is_empty() {
        return Ok(());
    }
    let reader = match &config.user {
        Some(user) => user.look_up().map_err(|error| vec![format!("--user: {error}")])?.uid,
        None => geteuid(),
    };
    let mistakes: Vec<String> = files.into_iter().filter_map(|file| load_now(file, reader).err()).collect();
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}
