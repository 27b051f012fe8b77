//! `berkeleyd simulate --tiers`: tiers of ensembles, up to millions of nodes.

use super::print;
use super::progress::Progress;
use super::simulate::{Options, print_json};
use crate::failure::Failure;
use crate::sim::batch::processors;
use crate::sim::scenario::Scenario;
use crate::sim::tree::{self, Shape};

/// Runs it and shows what came of it.
///
/// # Errors
/// [`Failure::Failed`]: it panicked, or with `--check` was not ok.
pub(super) fn simulate(options: &Options, shape: &Shape, scenario: &Scenario) -> Result<(), Failure> {
    let seed = options.first_seed();
    let mut progress = Progress::new(scenario.duration.times(shape.ensembles()));
    let outcome = tree::run(shape, scenario, seed, processors(), |simulated| progress.show(simulated));
    drop(progress);
    let outcome = outcome.map_err(|_| Failure::Failed(format!("seed {seed}: the run panicked")))?;
    if options.json {
        print_json(&outcome)?
    } else {
        print(&outcome.to_string())?
    }
    match outcome.complaints.first().filter(|_| options.check) {
        Some(complaint) => Err(Failure::Failed(format!("seed {seed}: {complaint}"))),
        None => Ok(()),
    }
}
