//! `berkeleyd simulate --compare-averages`: every average held against the same trials.

use std::fmt::Write;

use serde::Serialize;

use super::print;
use super::simulate::{Options, Range, outcomes, print_json};
use crate::average::Average;
use crate::failure::Failure;
use crate::sim::batch::{Job, Keep};
use crate::sim::outcome::Outcome;
use crate::sim::scenario::{ClockModel, Lie, Limits, Scenario};
use crate::sim::words::{brief, maybe};
use crate::time::Span;

/// What the averages are held against.
const TRIALS: [&str; 5] = ["no liars", "one loud liar", "third quiet liars", "two camps", "cold start"];

/// Over so many seeds unless `--seeds` says otherwise.
pub(super) const COMPARED_SEEDS: u64 = 20;

/// The scenario of a trial. Oscillators have no constant drift, so that an ensemble that gains has been drawn.
fn trial(scenario: &Scenario, name: &str, average: Average) -> Scenario {
    let mut scenario = scenario.clone();
    let (nodes, gamma) = (scenario.nodes.get(), scenario.node.gamma);
    scenario.node.average = average;
    // Close enough that all honest clocks agree at first.
    scenario.clock.offset = gamma.part(4);
    scenario.clock.spread = true;
    scenario.clock.drift_ppm = 0.0;
    scenario.clocks.clear();
    scenario.liars = 0;
    // No trial is held against limits that were made for something else.
    scenario.limits = Limits { settle_below: scenario.limits.settle_below, ..Default::default() };
    match name {
        "one loud liar" => {
            scenario.liars = 1.min(nodes - 1);
            scenario.lie = Lie { ahead: Span::from_secs(1), obeys: true, ..Lie::default() };
        }
        "third quiet liars" => {
            scenario.liars = (nodes - 1) / 3;
            scenario.lie = Lie { ahead: gamma.half(), obeys: true, ..Lie::default() };
        }
        // Two models of hardware that have drifted apart, and do so still. As many clocks are two gammas ahead as are two
        // behind, or one fewer: no average can know which camp is right.
        "two camps" => {
            let (camp, drift_ppm) = (gamma.times(2), 20.0);
            let model = |offset, drift_ppm| ClockModel { offset, drift_ppm, spread: false, ..scenario.clock.clone() };
            let (behind, ahead) = (model(-camp, -drift_ppm), model(camp, drift_ppm));
            let clock = |node: usize| if node.is_multiple_of(2) { behind.clone() } else { ahead.clone() };
            scenario.clocks = (0..nodes).map(clock).collect();
        }
        // Honest clocks far from each other, and liars who agree.
        "cold start" => {
            scenario.clock.offset = gamma.times(100);
            scenario.liars = (nodes - 1) / 3;
            scenario.clocks = vec![scenario.clock.clone(); nodes - scenario.liars];
            // The liars are what is left, and show the same to begin with.
            scenario.clock.offset = Span::ZERO;
            scenario.lie = Lie { ahead: gamma.times(500), obeys: true, ..Lie::default() };
        }
        _ => (),
    }
    scenario
}

/// One average in one trial, over all seeds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cell {
    average: Average,
    trial: &'static str,
    /// How many seeds never settled.
    unsettled: usize,
    settle_ms: Range,
    /// Between honest clocks.
    spread_rms_ns: Range,
    /// How far the ensemble had drawn the honest clocks in the end, see [`Outcome::dragged`].
    dragged_ns: Range,
    /// How fast it went on doing so.
    drag_ppb: Range,
}

impl Cell {
    fn new(average: Average, trial: &'static str, runs: &[Outcome]) -> Self {
        let dragged = |run: &Outcome| run.dragged.map(Span::abs);
        // In a second, a nanosecond for each ppb.
        let drag = |run: &Outcome| run.drag.map(|drag| drag.over(Span::from_secs(1)).abs());
        Self {
            average,
            trial,
            unsettled: runs.iter().filter(|run| run.settle.is_none()).count(),
            settle_ms: Range::of(runs, |run| run.settle, 1_000_000),
            spread_rms_ns: Range::of(runs, |run| run.spread.rms, 1),
            dragged_ns: Range::of(runs, dragged, 1),
            drag_ppb: Range::of(runs, drag, 1),
        }
    }

    /// Each figure with its name, in the middle and at worst.
    fn figures(&self) -> [(&'static str, String); 4] {
        let text = |range: Range, unit| {
            [range.median, range.worst].map(|figure| maybe(figure.map(|n| Span::from_nanos(n).times(unit)))).join(" / ")
        };
        [
            ("settled after", text(self.settle_ms, 1_000_000)),
            ("then spread, rms", text(self.spread_rms_ns, 1)),
            ("dragged by", text(self.dragged_ns, 1)),
            // A nanosecond a second is a ppb.
            ("and each second", text(self.drag_ppb, 1)),
        ]
    }
}

/// Makes all runs and shows what came of them.
///
/// # Errors
/// As for one run.
pub(super) fn compare(options: &Options, scenario: &Scenario, seeds: &[u64]) -> Result<(), Failure> {
    let cells: Vec<(Average, &'static str)> =
        Average::ALL.into_iter().flat_map(|average| TRIALS.map(|name| (average, name))).collect();
    let job = |(average, name): &(Average, &'static str), seed| Job { scenario: trial(scenario, name, *average), seed };
    let jobs: Vec<Job> = cells.iter().flat_map(|cell| seeds.iter().map(|seed| job(cell, *seed))).collect();
    let outcomes = outcomes(options, &jobs, Keep::default())?;
    let cells: Vec<Cell> = cells
        .into_iter()
        .zip(outcomes.chunks(seeds.len()))
        .map(|((average, trial), runs)| Cell::new(average, trial, runs))
        .collect();
    if options.json { print_json(&cells) } else { print(&table(scenario, seeds.len(), &cells)) }
}

/// A table for each figure, with a line for each average and a column for each trial.
fn table(scenario: &Scenario, seeds: usize, cells: &[Cell]) -> String {
    let nodes = scenario.nodes.get();
    let mut text = format!("Honest clocks, middle / worst of {seeds} seeds, {nodes} nodes\n");
    let mut row = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("  {cell:<19}")).collect();
        text += &(format!("{name:<16}{cells}").trim_end().to_owned() + "\n");
    };
    let figures: Vec<_> = cells.iter().map(Cell::figures).collect();
    let names = figures.first().map(|figures| figures.each_ref().map(|(name, _)| *name)).unwrap_or_default();
    for (index, name) in names.into_iter().enumerate() {
        row("", Vec::new());
        row(name, TRIALS.map(str::to_owned).to_vec());
        for (cells, figures) in cells.chunks(TRIALS.len()).zip(figures.chunks(TRIALS.len())) {
            let average = cells.first().map(|cell| cell.average.to_string()).unwrap_or_default();
            let figure = |figures: &[(&str, String); 4]| figures.get(index).map(|(_, text)| text.clone());
            row(&average, figures.iter().filter_map(figure).collect());
        }
    }
    let (third, gamma) = ((nodes - 1) / 3, scenario.node.gamma);
    let _ = write!(
        text,
        "\nDragged: from where the honest clocks would be on average if nobody had corrected them.\n\
         Liars seem to obey: one loud liar says {} ahead; third quiet liars, {third} nodes, {} ahead, inside gamma;\n\
         cold start, {third} nodes {} ahead while honest clocks lie up to {} apart. Two camps: half of the honest clocks\n\
         start {} behind, half as much ahead, and drift apart; none can know which are right.\n",
        brief(Span::from_secs(1)),
        brief(gamma.half()),
        brief(gamma.times(500)),
        brief(gamma.times(200)),
        brief(gamma.times(2)),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario_file::mistake;
    use std::num::NonZeroUsize;

    #[test]
    fn trials_differ_in_their_liars() {
        let liars = TRIALS.map(|name| trial(&Scenario::default(), name, Average::Mean).liars);
        assert_eq!(liars, [0, 1, 2, 0, 2]);
        for nodes in 1..5 {
            let scenario = Scenario { nodes: NonZeroUsize::new(nodes).unwrap(), ..Scenario::default() };
            for name in TRIALS {
                assert_eq!(mistake(&trial(&scenario, name, Average::Mean)), None);
            }
        }
    }
}
