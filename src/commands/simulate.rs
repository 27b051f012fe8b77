//! `berkeleyd simulate`: an ensemble on made-up clocks and links, and how well it agreed.
//!
//! A scenario is a file's values, overridden by options; what no run can be made of is told before anything runs or is
//! written. The same command has the same output to the byte, whatever the machine and the number of its processors.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::draft::Draft;
use super::progress::Progress;
use super::{averages, print, tree};
use crate::average::Average;
use crate::failure::Failure;
use crate::sim::batch::{Job, Keep, Panicked, processors, run_all};
use crate::sim::outcome::Outcome;
use crate::sim::plot::{Format, picture};
use crate::sim::scenario::{ClockModel, Scenario};
use crate::sim::scenario_file::{MAX_NODES, Mistake, ScenarioFile, mistake};
use crate::sim::tree::{Shape, mistake as mistake_in_tree};
use crate::sim::words::maybe;
use crate::time::Span;

const ENSEMBLE: &str = "Ensemble";
const WORLD: &str = "Clocks and network";
const RUNS: &str = "Runs";
const OUTPUT: &str = "Output";

/// The longest list of seeds: a hundred thousand lines.
const MAX_SEEDS: u64 = 100_000;

/// What to simulate and what to show. Options override the scenario's values.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct Options {
    /// What is simulated, see scenarios/*.toml; other options override it
    #[arg(long, value_name = "FILE", help_heading = ENSEMBLE)]
    scenario: Option<PathBuf>,
    /// How many nodes there are; the first is the master [default: 8]
    #[arg(long, value_name = "N", value_parser = nodes, help_heading = ENSEMBLE)]
    nodes: Option<NonZeroUsize>,
    /// Tiers of ensembles: how many nodes the topmost has, how many each of those leads, and so on, as in 100x100x100
    #[arg(long, value_name = "N", conflicts_with_all = ["nodes", "liars", "seeds", "compare_averages", "plot", "csv", "trace"], help_heading = ENSEMBLE)]
    tiers: Option<Shape>,
    /// How many of them lie, the last ones [default: 0]
    #[arg(long, value_name = "N", value_parser = count, help_heading = ENSEMBLE)]
    liars: Option<usize>,
    /// mean, fault-tolerant, midpoint or weighted [default: fault-tolerant]
    #[arg(long, value_name = "NAME", help_heading = ENSEMBLE)]
    average: Option<Average>,
    /// Time between rounds [default: 1s]
    #[arg(long, value_name = "DUR", help_heading = ENSEMBLE)]
    interval: Option<Span>,

    /// Clocks start wrong by up to this much [default: 2s]
    #[arg(long, value_name = "DUR", help_heading = WORLD)]
    offset: Option<Span>,
    /// Oscillators run wrong by up to this much, in ppm [default: 50]
    #[arg(long, value_name = "PPM", value_parser = number, help_heading = WORLD)]
    drift: Option<f64>,
    /// And change at random by this much in a second, in ppb [default: 1]
    #[arg(long, value_name = "PPB", value_parser = number, help_heading = WORLD)]
    wander: Option<f64>,
    /// The least that a datagram takes one way [default: 50us]
    #[arg(long, value_name = "DUR", help_heading = WORLD)]
    delay: Option<Span>,
    /// Mean of what comes on top [default: 10us]
    #[arg(long, value_name = "DUR", help_heading = WORLD)]
    jitter: Option<Span>,
    /// Fraction of the datagrams that are lost [default: 0]
    #[arg(long, value_name = "FRACTION", value_parser = number, help_heading = WORLD)]
    loss: Option<f64>,

    /// How long a run lasts, in true time [default: 60s]
    #[arg(long, value_name = "DUR", help_heading = RUNS)]
    duration: Option<Span>,
    /// What everything random is drawn from [default: 1]
    #[arg(long, value_name = "S", value_parser = seed, help_heading = RUNS)]
    seed: Option<u64>,
    /// Make N runs, with this seed and those after it, in parallel
    #[arg(long, value_name = "N", value_parser = seeds, conflicts_with_all = ["plot", "csv", "trace"], help_heading = RUNS)]
    seeds: Option<u64>,
    /// Settled is what has a smaller true spread, and keeps it [default: 1ms]
    #[arg(long, value_name = "DUR", help_heading = RUNS)]
    settle_below: Option<Span>,
    /// Compare the averages, without liars and with several kinds of them, over 20 seeds or N
    #[arg(long, conflicts_with_all = ["average", "liars", "plot", "csv", "trace", "check"], help_heading = RUNS)]
    compare_averages: bool,

    /// One JSON object instead of text; times are integers
    #[arg(long, help_heading = OUTPUT)]
    pub(super) json: bool,
    /// Draw every clock over time, into a file named .svg or .png
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    plot: Option<PathBuf>,
    /// Write every clock over time: time_ns,node,error_ns,bound_ns,standing
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    csv: Option<PathBuf>,
    /// Show the events that led to a violation
    #[arg(long, help_heading = OUTPUT)]
    trace: bool,
    /// Exit with 1 when the scenario's limits are missed or an invariant is violated
    #[arg(long, help_heading = OUTPUT)]
    pub(super) check: bool,
}

fn nodes(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|nodes: &NonZeroUsize| nodes.get() <= MAX_NODES);
    number.ok_or_else(|| format!("must be a whole number from 1 to {MAX_NODES}"))
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "must be a whole number from 0".to_owned())
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("must be a whole number from 0 to {}", u64::MAX))
}

fn seeds(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|seeds| (1..=MAX_SEEDS).contains(seeds));
    number.ok_or_else(|| format!("must be a whole number from 1 to {MAX_SEEDS}"))
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "must be a number".to_owned())
}

impl Options {
    /// What is simulated: the file's values, or the defaults, with those of the options.
    fn scenario(&self) -> Result<Scenario, Failure> {
        let file = self.scenario.as_deref().map(ScenarioFile::read).transpose().map_err(Failure::Mistake)?;
        let mut scenario = file.as_ref().map(|file| file.scenario.clone()).unwrap_or_default();
        self.override_in(&mut scenario);
        let of_tree = || self.tiers.as_ref().and_then(|_| mistake_in_tree(&scenario));
        match mistake(&scenario).or_else(of_tree) {
            None => Ok(scenario),
            Some(mistake) => Err(Failure::Mistake(self.describe(&mistake, file.as_ref()))),
        }
    }

    fn override_in(&self, scenario: &mut Scenario) {
        fn set<T: Copy>(value: &mut T, given: Option<T>) {
            if let Some(given) = given {
                *value = given;
            }
        }
        set(&mut scenario.nodes, self.nodes);
        set(&mut scenario.liars, self.liars);
        set(&mut scenario.duration, self.duration);
        set(&mut scenario.node.average, self.average);
        set(&mut scenario.node.interval, self.interval);
        set(&mut scenario.link.delay, self.delay);
        set(&mut scenario.link.jitter, self.jitter);
        set(&mut scenario.link.loss, self.loss);
        if self.settle_below.is_some() {
            scenario.limits.settle_below = self.settle_below;
        }
        set(&mut scenario.clock.offset, self.offset);
        set(&mut scenario.clock.drift_ppm, self.drift);
        set(&mut scenario.clock.wander_ppb, self.wander);
        for clock in &mut scenario.clocks {
            self.override_in_one(clock);
        }
    }

    /// A clock of its own keeps the side on which it is wrong: clocks that are all wrong alike would show nothing.
    fn override_in_one(&self, clock: &mut ClockModel) {
        if let Some(offset) = self.offset {
            clock.offset = if clock.offset.is_forward() { offset } else { -offset };
        }
        if let Some(drift) = self.drift {
            clock.drift_ppm = if clock.drift_ppm < 0.0 { -drift } else { drift };
        }
        if let Some(wander) = self.wander {
            clock.wander_ppb = wander;
        }
    }

    /// Says where a mistake comes from: an option if one set the value, else the file.
    fn describe(&self, mistake: &Mistake, file: Option<&ScenarioFile>) -> String {
        let key = |path: &str| match path.split_once('.') {
            // An option overrides the clocks of single nodes as well.
            Some(("clocks", rest)) => format!("clock.{}", rest.split_once('.').map_or("", |(_, key)| key)),
            Some(_) | None => path.to_owned(),
        };
        let option = match key(&mistake.path).as_str() {
            "nodes" if self.nodes.is_some() => Some("nodes"),
            "liars" if self.liars.is_some() => Some("liars"),
            // Enough nodes for the liars of a file, until an option took them away.
            "liars" if self.nodes.is_some() && file.is_some_and(|file| file.scenario.liars > 0) => Some("nodes"),
            "duration" if self.duration.is_some() => Some("duration"),
            "node.interval" if self.interval.is_some() => Some("interval"),
            "link.delay" | "link.asymmetry" if self.delay.is_some() => Some("delay"),
            "link.jitter" if self.jitter.is_some() => Some("jitter"),
            "link.loss" if self.loss.is_some() => Some("loss"),
            "clock.drift-ppm" if self.drift.is_some() => Some("drift"),
            "clock.wander-ppb" if self.wander.is_some() => Some("wander"),
            "limits.settle-below" if self.settle_below.is_some() => Some("settle-below"),
            _ => None,
        };
        let Mistake { path, fault } = mistake;
        match (option, file) {
            (Some(option), _) if path.ends_with(option) || path.contains(option) => format!("--{option} {fault}"),
            (Some(option), Some(file)) => format!("--{option} does not fit: {}", file.describe(mistake)),
            (None, Some(file)) => file.describe(mistake),
            (_, None) => format!("`{path}` {fault}"),
        }
    }

    pub(super) fn first_seed(&self) -> u64 {
        self.seed.unwrap_or(1)
    }

    fn all_seeds(&self) -> Result<Vec<u64>, Failure> {
        let usual = if self.compare_averages { averages::COMPARED_SEEDS } else { 1 };
        let (first, count) = (self.first_seed(), self.seeds.unwrap_or(usual));
        let last = first.checked_add(count - 1);
        let last =
            last.ok_or_else(|| Failure::Mistake(format!("--seeds {count} from --seed {first} on are too many")))?;
        Ok((first..=last).collect())
    }

    /// The command that repeats the run with this seed and shows what led to a violation.
    fn replay(&self, seed: u64) -> String {
        let mut command = "berkeleyd simulate".to_owned();
        let mut add = |option: &str, value: Option<String>| {
            if let Some(value) = value {
                // Writing to a string cannot fail.
                let _ = write!(command, " --{option} {value}");
            }
        };
        add("scenario", self.scenario.as_deref().map(quoted));
        add("nodes", self.nodes.map(|nodes| nodes.to_string()));
        add("tiers", self.tiers.as_ref().map(Shape::to_string));
        add("liars", self.liars.map(|liars| liars.to_string()));
        add("average", self.average.map(|average| average.to_string()));
        add("interval", self.interval.map(exact));
        add("offset", self.offset.map(exact));
        add("drift", self.drift.map(|drift| drift.to_string()));
        add("wander", self.wander.map(|wander| wander.to_string()));
        add("delay", self.delay.map(exact));
        add("jitter", self.jitter.map(exact));
        add("loss", self.loss.map(|loss| loss.to_string()));
        add("duration", self.duration.map(exact));
        add("settle-below", self.settle_below.map(exact));
        add("seed", Some(seed.to_string()));
        command + " --trace"
    }
}

/// As the command line reads it, to the nanosecond.
fn exact(span: Span) -> String {
    const UNITS: [(i64, &str); 4] = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
    let nanos = span.as_nanos();
    let unit = UNITS.into_iter().find(|(unit, _)| nanos % unit == 0);
    unit.map_or_else(String::new, |(unit, name)| format!("{}{name}", nanos / unit))
}

/// As a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | ',' | ':' | '@');
    if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Runs what was asked for.
///
/// # Errors
/// [`Failure::Mistake`]: nothing ran, or nothing was written. [`Failure::Failed`]: a run panicked, or with `--check` was not ok.
pub fn simulate(options: &Options) -> Result<(), Failure> {
    let scenario = options.scenario()?;
    if let Some(shape) = &options.tiers {
        return tree::simulate(options, shape, &scenario);
    }
    let seeds = options.all_seeds()?;
    let format = options.plot.as_deref().map(format).transpose()?;
    let plot = options.plot.as_deref().map(|path| draft("plot", path)).transpose()?;
    let csv = options.csv.as_deref().map(|path| draft("csv", path)).transpose()?;
    if options.compare_averages {
        return averages::compare(options, &scenario, &seeds);
    }

    let jobs: Vec<Job> = seeds.iter().map(|seed| Job { scenario: scenario.clone(), seed: *seed }).collect();
    let mut outcomes =
        outcomes(options, &jobs, Keep { trace: plot.is_some() || csv.is_some(), events: options.trace })?;
    for outcome in &mut outcomes {
        outcome.replay = options.replay(outcome.seed);
    }
    if let ([outcome], None) = (outcomes.as_slice(), options.seeds) {
        let written = write(outcome, plot.zip(format), csv)?;
        if options.json {
            print_json(outcome)?;
        } else {
            print(&format!("{outcome}{}{written}", if options.trace { events(outcome) } else { String::new() }))?;
        }
    } else {
        let summary = Summary::new(&outcomes);
        if options.json { print_json(&summary)? } else { print(&summary.text())? }
    }
    if options.check { check(&outcomes) } else { Ok(()) }
}

fn format(path: &Path) -> Result<Format, Failure> {
    match path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("svg") => Ok(Format::Svg),
        Some("png") => Ok(Format::Png),
        Some(_) | None => {
            Err(Failure::Mistake(format!("--plot {}: the name must end in .svg or .png", path.display())))
        }
    }
}

/// A path that is both wrong and late would cost the whole run.
fn draft(option: &'static str, path: &Path) -> Result<Output, Failure> {
    let output = Output {
        option,
        path: path.to_owned(),
        draft: Draft::new(path).map_err(|error| unwritable(option, path, &error))?,
    };
    Ok(output)
}

fn unwritable(option: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Mistake(format!("--{option} {}: cannot be written: {error}", path.display()))
}

/// A file that was asked for.
struct Output {
    option: &'static str,
    path: PathBuf,
    draft: Draft,
}

impl Output {
    /// A line that says what was written.
    fn write(&self, bytes: &[u8]) -> Result<String, Failure> {
        let Self { option, path, draft } = self;
        draft.write(bytes).map_err(|error| unwritable(option, path, &error))?;
        Ok(format!("  {option:<12} {}\n", path.display()))
    }
}

fn write(outcome: &Outcome, plot: Option<(Output, Format)>, csv: Option<Output>) -> Result<String, Failure> {
    let mut lines = String::new();
    let Some(trace) = &outcome.trace else { return Ok(lines) };
    if let Some((plot, format)) = plot {
        let bytes = picture(outcome, trace, format);
        lines += &plot.write(&bytes.map_err(|error| Failure::Failed(format!("--plot: {error}")))?)?;
    }
    if let Some(csv) = csv {
        lines += &csv.write(trace.csv().as_bytes())?;
    }
    Ok(lines)
}

pub(super) fn outcomes(options: &Options, jobs: &[Job], keep: Keep) -> Result<Vec<Outcome>, Failure> {
    let total = jobs.iter().fold(Span::ZERO, |total, job| total + job.scenario.duration);
    let mut progress = Progress::new(total);
    let outcomes = run_all(jobs, keep, processors(), |simulated| progress.show(simulated));
    drop(progress);
    let panicked =
        |Panicked { seed }| Failure::Failed(format!("seed {seed}: the run panicked; replay: {}", options.replay(seed)));
    outcomes.into_iter().map(|outcome| outcome.map_err(panicked)).collect()
}

pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
    print(&(text + "\n"))
}

/// What led to the first violation.
fn events(outcome: &Outcome) -> String {
    let mut text = String::new();
    if !outcome.ok {
        text.push_str("\nBefore the first violation, or last of all:\n");
        for event in &outcome.events {
            text.push_str(&format!("{event}\n"));
        }
    }
    text
}

fn check(outcomes: &[Outcome]) -> Result<(), Failure> {
    let mut failed = outcomes.iter().filter(|outcome| !outcome.ok);
    let Some(first) = failed.next() else { return Ok(()) };
    let others = match failed.count() {
        0 => String::new(),
        count => format!(" (and {count} seeds more)"),
    };
    let complaint = first.complaints().into_iter().next().unwrap_or_default();
    Err(Failure::Failed(format!("seed {}: {complaint}{others}; replay: {}", first.seed, first.replay)))
}

/// Many runs of one scenario.
#[derive(Debug, Serialize)]
struct Summary<'o> {
    seeds: usize,
    ok: bool,
    failing_seeds: Vec<u64>,
    /// Of the runs that settled; the worst is null when one did not.
    settle_ms: Range,
    spread_rms_ns: Range,
    spread_max_ns: Range,
    runs: &'o [Outcome],
}

/// The middle and the worst of a figure over many runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Range {
    pub(super) median: Option<i64>,
    pub(super) worst: Option<i64>,
}

impl Range {
    pub(super) fn of(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> Option<Span>, unit: i64) -> Self {
        // A run without the figure is worse than any with it.
        let mut all: Vec<Option<i64>> =
            outcomes.iter().map(|run| figure(run).map(|span| span.as_nanos() / unit)).collect();
        all.sort_by_key(|figure| figure.unwrap_or(i64::MAX));
        Self {
            median: all.get(all.len().saturating_sub(1) / 2).copied().flatten(),
            worst: all.last().copied().flatten(),
        }
    }

    fn text(self, unit: i64) -> String {
        let [median, worst] =
            [self.median, self.worst].map(|figure| maybe(figure.map(|n| Span::from_nanos(n).times(unit))));
        format!("median {median}, worst {worst}")
    }
}

impl<'o> Summary<'o> {
    fn new(runs: &'o [Outcome]) -> Self {
        let failing_seeds: Vec<u64> = runs.iter().filter(|run| !run.ok).map(|run| run.seed).collect();
        Self {
            seeds: runs.len(),
            ok: failing_seeds.is_empty(),
            failing_seeds,
            settle_ms: Range::of(runs, |run| run.settle, 1_000_000),
            spread_rms_ns: Range::of(runs, |run| run.spread.rms, 1),
            spread_max_ns: Range::of(runs, |run| run.spread.max, 1),
            runs,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| text += &(line + "\n");
        line(format!("{:>20}  {:>9}  {:>9}  {:>9}  {:>9}", "seed", "settled", "rms", "99 %", "max"));
        for run in self.runs {
            let figures = [run.settle, run.spread.rms, run.spread.p99, run.spread.max].map(maybe);
            let [settle, rms, p99, max] = figures;
            let verdict = if run.ok { "" } else { "  NOT OK" };
            line(format!("{:>20}  {settle:>9}  {rms:>9}  {p99:>9}  {max:>9}{verdict}", run.seed));
        }
        for run in self.runs.iter().filter(|run| !run.ok) {
            line(String::new());
            for complaint in run.complaints() {
                line(format!("seed {}: {}", run.seed, complaint.trim_start_matches(&format!("seed {}, ", run.seed))));
            }
            line(format!("  {}", run.replay));
        }
        let verdict = match self.failing_seeds.len() {
            0 => format!("OK: all {} seeds", self.seeds),
            failed => format!("NOT OK: {failed} of {} seeds", self.seeds),
        };
        let (settle, rms, max) =
            (self.settle_ms.text(1_000_000), self.spread_rms_ns.text(1), self.spread_max_ns.text(1));
        line(format!("\n{verdict}\n  settled      {settle}\n  spread rms   {rms}\n  spread max   {max}"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_override_the_scenario() {
        let mut scenario = Scenario::default();
        let clock = |offset, drift_ppm| ClockModel { offset, drift_ppm, spread: false, ..ClockModel::default() };
        scenario.clocks = vec![clock(Span::from_millis(-1), 3.0), clock(Span::from_millis(1), -3.0)];
        let options = Options {
            offset: Some(Span::from_secs(1)),
            drift: Some(7.0),
            loss: Some(0.5),
            settle_below: Some(Span::from_micros(1)),
            ..Options::default()
        };
        options.override_in(&mut scenario);
        assert_eq!((scenario.clocks[0].offset, scenario.clocks[1].offset), (Span::from_secs(-1), Span::from_secs(1)));
        assert_eq!((scenario.clocks[0].drift_ppm, scenario.clocks[1].drift_ppm), (7.0, -7.0));
        assert_eq!((scenario.clock.offset, scenario.link.loss), (Span::from_secs(1), 0.5));
        assert_eq!(scenario.limits.settle_below, Some(Span::from_micros(1)));
        assert_eq!(scenario.duration, Scenario::default().duration);
    }

    #[test]
    fn the_replay_command_says_it_all() {
        let options = Options {
            scenario: Some("a scenario's.toml".into()),
            delay: Some(Span::from_micros(1_500)),
            duration: Some(Span::from_secs(90)),
            loss: Some(0.05),
            average: Some(Average::Midpoint),
            seed: Some(3),
            seeds: Some(100),
            json: true,
            ..Options::default()
        };
        assert_eq!(
            options.replay(42),
            r"berkeleyd simulate --scenario 'a scenario'\''s.toml' --average midpoint --delay 1500us --loss 0.05 --duration 90s --seed 42 --trace"
        );
    }

    #[test]
    fn seeds_end_with_the_last_number() {
        let options = Options { seed: Some(u64::MAX), seeds: Some(1), ..Options::default() };
        assert_eq!(options.all_seeds(), Ok(vec![u64::MAX]));
        let options = Options { seeds: Some(2), ..options };
        assert!(matches!(options.all_seeds(), Err(Failure::Mistake(_))));
    }
}
