//! Tiers of ensembles, as many nodes as the world has no room for: each node of the topmost ensemble leads one of the second tier, each node of
//! that one of the third, and so on.
//!
//! The topmost ensemble is simulated frame by frame (`world.rs`), those below it without their frames (`coarse.rs`), depth first, so that a million nodes
//! take the memory of a few ensembles. How much an ensemble of a tier sends is counted in the world, where one of its size runs alone.
//!
//! All is measured against the mean of the topmost ensemble, which is the time that the tree keeps.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Range;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};

use super::batch::{Panicked, in_parallel};
use super::coarse::{History, Look, Replay, follow};
use super::outcome::Outcome;
use super::recorder::{Recorder, SETTLE_BELOW};
use super::scenario::{Limits, Scenario};
use super::scenario_file::{MAX_NODES, Mistake};
use super::statistics::{Sizes, TierFigures, float};
use super::tree_outcome::{TierOutcome, Traffic, TreeOutcome};
use super::world;
use crate::stamp::StampSource;
use crate::time::Span;

/// More nodes than this make no run that anybody waits for: an hour on one core.
const MOST: u64 = 20_000_000;
/// Figures are of the time after this, unless the scenario says otherwise: rounds have come down to the interval, and rates are known.
const JUDGE_FROM: Span = Span::from_secs(20);
/// Between two looks at all clocks. No simple part of a second, so that all phases of a round are seen.
const LOOK_PAUSE: Span = Span::from_millis(617);
/// Traffic is counted from so many intervals on, ...
const STEADY_FROM: i64 = 30;
/// ... for so many.
const STEADY_FOR: i64 = 30;

/// How many nodes each ensemble has, the topmost first: below it those that are not its master, which belongs to the ensemble above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(Vec<NonZeroU32>);

impl Shape {
    /// How many nodes each tier has, the topmost first.
    fn nodes(&self) -> impl Iterator<Item = u64> {
        self.0.iter().scan(1_u64, |ensembles, nodes| {
            *ensembles = ensembles.saturating_mul(u64::from(nodes.get()));
            Some(*ensembles)
        })
    }

    /// How many each has in all.
    fn total(&self) -> u64 {
        self.nodes().fold(0, u64::saturating_add)
    }

    /// How many ensembles there are.
    pub fn ensembles(&self) -> i64 {
        let leaders = self.total() - self.nodes().last().unwrap_or(0);
        i64::try_from(leaders).unwrap_or(i64::MAX).saturating_add(1)
    }

    /// How many nodes belong to an ensemble, its master included.
    fn members(&self, tier: usize) -> usize {
        let nodes = self.0.get(tier).map_or(0, |nodes| usize::try_from(nodes.get()).unwrap_or(usize::MAX));
        nodes.saturating_add(usize::from(tier > 0))
    }
}

impl FromStr for Shape {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let nodes: Result<Vec<NonZeroU32>, _> = text.split('x').map(str::parse).collect();
        let shape = Self(nodes.map_err(|_| "must be whole numbers from 1, as in 100x100x100".to_owned())?);
        let largest = (0..shape.0.len()).map(|tier| shape.members(tier)).max().unwrap_or(0);
        if shape.0.len() < 2 {
            Err("needs two tiers at least, as in 10x100; for one there is --nodes".to_owned())
        } else if largest > MAX_NODES {
            Err(format!("must be at most {MAX_NODES} in one ensemble, its master included"))
        } else if shape.total() > MOST {
            Err(format!("must be at most {MOST} nodes in all"))
        } else {
            Ok(shape)
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&nodes.join("x"))
    }
}

/// The first setting of a scenario that a tree has no room for.
pub fn mistake(scenario: &Scenario) -> Option<Mistake> {
    let Scenario { domains, clock, clocks, link, node, liars, faults, limits, duration, .. } = scenario;
    let is_set = [
        ("domains", !domains.is_empty()),
        ("clock.stamp-noise", clock.stamp_noise != Span::ZERO),
        ("clock.scheduling", clock.scheduling != Span::ZERO),
        ("clock.stamps", clock.stamps != StampSource::User),
        ("clocks", !clocks.is_empty()),
        ("link.bandwidth", link.bandwidth != 0),
        ("node.max-interval", node.max_interval.is_some_and(|longest| longest != node.interval)),
        ("liars", *liars > 0),
        ("faults", !faults.is_empty()),
    ];
    let unknown = is_set.into_iter().find(|(_, is_set)| *is_set);
    let unknown = unknown.map(|(path, _)| (path, "is nothing that --tiers simulates".to_owned()));
    let judged = judged_from(limits);
    let short = (*duration <= judged).then(|| ("duration", format!("must be more than {judged} with --tiers")));
    unknown.or(short).map(|(path, fault)| Mistake { path: path.to_owned(), fault })
}

/// Figures are of the time after this.
fn judged_from(limits: &Limits) -> Span {
    if limits.judge_from > Span::ZERO { limits.judge_from } else { JUDGE_FROM }
}

/// What the looks at the nodes of one tier have shown.
#[derive(Clone, Debug)]
struct Tally {
    distances: Sizes,
    bounds: Sizes,
    /// At each look: the lowest and the highest error, when there was a corrected clock.
    extremes: Vec<Option<(Span, Span)>>,
    /// At each look: how many clocks were corrected.
    corrected: Vec<u64>,
    /// The largest distance in parts of the bound of its time.
    nearest: f64,
    outside: u64,
}

impl Tally {
    fn new(looks: usize) -> Self {
        Self {
            distances: Sizes::default(),
            bounds: Sizes::default(),
            extremes: vec![None; looks],
            corrected: vec![0; looks],
            nearest: 0.0,
            outside: 0,
        }
    }

    /// A clock at one look. `mean`: that of the topmost ensemble less true time, at a look that is judged.
    fn record(&mut self, look: usize, clock: Look, mean: Option<Span>) {
        let Look { error, bound } = clock;
        if let Some(corrected) = self.corrected.get_mut(look) {
            *corrected += 1;
        }
        self.widen(look, (error, error));
        if let Some(mean) = mean {
            let distance = (error - mean).abs();
            self.distances.record(distance);
            self.bounds.record(bound);
            self.outside += u64::from(distance > bound);
            self.nearest = self.nearest.max(distance.as_secs_f64() / bound.as_secs_f64());
        }
    }

    fn widen(&mut self, look: usize, (low, high): (Span, Span)) {
        if let Some(extremes) = self.extremes.get_mut(look) {
            *extremes = Some(extremes.map_or((low, high), |(lowest, highest)| (lowest.min(low), highest.max(high))));
        }
    }

    /// Takes what the looks at other nodes of the tier have shown.
    fn merge(&mut self, other: &Self) {
        self.distances.merge(&other.distances);
        self.bounds.merge(&other.bounds);
        for (look, extremes) in other.extremes.iter().enumerate() {
            extremes.iter().for_each(|extremes| self.widen(look, *extremes));
        }
        self.corrected.iter_mut().zip(&other.corrected).for_each(|(corrected, more)| *corrected += more);
        self.nearest = self.nearest.max(other.nearest);
        self.outside += other.outside;
    }
}

/// All that a run needs to know.
#[derive(Debug)]
struct Tree<'a> {
    shape: &'a Shape,
    scenario: &'a Scenario,
    seed: u64,
    looks: Vec<Span>,
    /// The mean of the topmost ensemble less true time at each look that is judged.
    means: Vec<Option<Span>>,
    /// Simulated time of all ensembles so far.
    simulated: AtomicI64,
}

impl Tree<'_> {
    fn tallies(&self) -> Vec<Tally> {
        self.shape.0.iter().map(|_| Tally::new(self.looks.len())).collect()
    }

    /// The numbers of the nodes that a node leads: the `index`-th of its own tier, which is the one above `tier`.
    fn led(&self, tier: usize, index: u64) -> Option<Range<u32>> {
        let each = self.shape.0.get(tier)?.get();
        let above: u64 = self.shape.nodes().take(tier).sum();
        let first = u32::try_from(above + index * u64::from(each)).ok()?;
        Some(first..first.checked_add(each)?)
    }

    /// All that a node leads, from `tier` on; it is the `index`-th of the tier above.
    fn descend(&self, leader: (u32, History), tier: usize, index: u64, tallies: &mut [Tally]) {
        let (Some(numbers), Some(tally)) = (self.led(tier, index), tallies.get_mut(tier)) else { return };
        let mean = |look: usize| self.means.get(look).copied().flatten();
        let told = |look: usize, clock| tally.record(look, clock, mean(look));
        let histories = follow(self.scenario, self.seed, leader, numbers.clone(), &self.looks, told);
        self.simulated.fetch_add(self.scenario.duration.as_nanos(), Ordering::Relaxed);
        let first = index * u64::try_from(histories.len()).unwrap_or(0);
        for ((number, history), index) in numbers.zip(histories).zip(first..) {
            self.descend((number, history), tier + 1, index, tallies);
        }
    }
}

/// Simulates a tree to its end. `on_progress` is told now and then how much true time has passed in all its ensembles together.
///
/// # Errors
/// [`Panicked`].
pub fn run(
    shape: &Shape,
    scenario: &Scenario,
    seed: u64,
    threads: NonZeroUsize,
    mut on_progress: impl FnMut(Span),
) -> Result<TreeOutcome, Panicked> {
    let top = ensemble(scenario, shape.members(0));
    let mut recorder = Recorder::new(&top, false);
    let histories = world::run_with_histories(&top, seed, &mut recorder);
    let looks = looks(scenario);
    let mut tally = Tally::new(looks.len());
    let means = record_top(scenario, seed, &histories, &looks, &mut tally);
    let tree = Tree { shape, scenario, seed, looks, means, simulated: AtomicI64::new(0) };
    let work = |index: usize| {
        let (mut tallies, number) = (tree.tallies(), u32::try_from(index).unwrap_or(u32::MAX));
        let history = histories.get(index).cloned().unwrap_or_default();
        tree.descend((number, history), 1, number.into(), &mut tallies);
        tallies
    };
    let on_pause = || on_progress(Span::from_nanos(tree.simulated.load(Ordering::Relaxed)));
    let branches = in_parallel(histories.len(), threads, work, on_pause);
    let mut tallies = tree.tallies();
    tallies.first_mut().into_iter().for_each(|first| first.merge(&tally));
    for branch in branches {
        for (tally, more) in tallies.iter_mut().zip(branch.ok_or(Panicked { seed })?) {
            tally.merge(&more);
        }
    }
    Ok(tree.outcome(&tallies, &recorder.finish(seed)))
}

/// When all clocks are looked at.
fn looks(scenario: &Scenario) -> Vec<Span> {
    (1..).map(|look| LOOK_PAUSE.times(look)).take_while(|at| *at <= scenario.duration).collect()
}

/// One ensemble of so many nodes by itself.
fn ensemble(scenario: &Scenario, nodes: usize) -> Scenario {
    let nodes = NonZeroUsize::new(nodes).unwrap_or(NonZeroUsize::MIN);
    // What the limits say of tiers is judged when there are tiers.
    Scenario { nodes, limits: Limits { tiers: Vec::new(), ..scenario.limits.clone() }, ..scenario.clone() }
}

/// Records the topmost ensemble; its mean at each look that is judged.
fn record_top(
    scenario: &Scenario,
    seed: u64,
    histories: &[History],
    looks: &[Span],
    tally: &mut Tally,
) -> Vec<Option<Span>> {
    let mut replays: Vec<Replay> =
        (0..).zip(histories).map(|(number, history)| Replay::new(scenario, seed, number, history.clone())).collect();
    let judged = judged_from(&scenario.limits);
    let mut mean_at = |(look, at): (usize, &Span)| {
        let clocks: Vec<Look> = replays.iter_mut().filter_map(|replay| replay.look(*at)).collect();
        let count = i64::try_from(clocks.len()).ok().filter(|count| *count > 0)?;
        let mean = clocks.iter().fold(Span::ZERO, |sum, clock| sum + clock.error).part(count);
        let mean = (*at >= judged).then_some(mean);
        clocks.into_iter().for_each(|clock| tally.record(look, clock, mean));
        mean
    };
    looks.iter().enumerate().map(&mut mean_at).collect()
}

/// Frames and bytes a second in an ensemble of so many nodes, once rounds come at their interval: a run's less those of a shorter one that begins alike.
fn traffic(scenario: &Scenario, nodes: usize, seed: u64) -> Traffic {
    let interval = scenario.node.interval;
    let sent = |intervals: i64| {
        let scenario = Scenario { duration: interval.times(intervals), ..ensemble(scenario, nodes) };
        let mut recorder = Recorder::new(&scenario, false);
        world::run(&scenario, seed, &mut recorder, &mut |_| {});
        let outcome = recorder.finish(seed);
        (float(outcome.frames_sent), float(outcome.bytes_sent))
    };
    let (before, after) = (sent(STEADY_FROM), sent(STEADY_FROM + STEADY_FOR));
    let seconds = interval.times(STEADY_FOR).as_secs_f64();
    Traffic { frames: (after.0 - before.0) / seconds, bytes: (after.1 - before.1) / seconds }
}

impl Tree<'_> {
    /// Since which look all clocks are corrected and closer to each other than `below`; `None` when they were not in the end.
    fn settled(&self, tallies: &[Tally], below: Span) -> Option<Span> {
        let is_settled = |look: usize| {
            let of = |tally: &Tally| tally.extremes.get(look).copied().flatten();
            let extremes: Vec<(Span, Span)> = tallies.iter().filter_map(of).collect();
            let low = extremes.iter().map(|(low, _)| *low).min()?;
            let high = extremes.iter().map(|(_, high)| *high).max()?;
            let all = tallies.iter().zip(self.shape.nodes());
            let is_complete = all.into_iter().all(|(tally, nodes)| tally.corrected.get(look) == Some(&nodes));
            Some(is_complete && high - low < below)
        };
        let settled = (0..self.looks.len()).rev().take_while(|look| is_settled(*look) == Some(true)).last()?;
        self.looks.get(settled).copied()
    }

    fn tier(&self, tier: usize, nodes: u64, tally: &Tally) -> TierOutcome {
        let mut spread = Sizes::default();
        let judged = tally.extremes.iter().zip(&self.means).filter(|(_, mean)| mean.is_some());
        judged.filter_map(|(extremes, _)| *extremes).for_each(|(low, high)| spread.record(high - low));
        TierOutcome {
            nodes,
            ensembles: self.shape.nodes().nth(tier.wrapping_sub(1)).unwrap_or(1),
            clocks: TierFigures { distance: tally.distances.figures(), bound: tally.bounds.figures() },
            spread: spread.figures(),
            used: tally.nearest,
            outside: tally.outside,
            each: traffic(self.scenario, self.shape.members(tier), self.seed),
        }
    }

    /// What the looks have shown. `top`: the run of the topmost ensemble.
    fn outcome(&self, tallies: &[Tally], top: &Outcome) -> TreeOutcome {
        let Scenario { limits, duration, node, about, .. } = self.scenario;
        let settle_below = limits.settle_below.unwrap_or(SETTLE_BELOW);
        let tiers = self.shape.nodes().zip(tallies).enumerate();
        TreeOutcome::new(
            TreeOutcome {
                about: about.clone(),
                seed: self.seed,
                shape: self.shape.to_string(),
                nodes: self.shape.total(),
                duration: *duration,
                interval: node.interval,
                judged_from: judged_from(limits),
                settle: self.settled(tallies, settle_below),
                settle_below,
                tiers: tiers.map(|(tier, (nodes, tally))| self.tier(tier, nodes, tally)).collect(),
                complaints: Vec::new(),
                ok: false,
            },
            limits,
            top,
        )
    }
}
