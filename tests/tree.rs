//! Tiers without frames (`sim/coarse.rs`) against tiers with them (`sim/world.rs`): the same shape, the same clocks and links, a
//! thousand nodes, and the same distribution of errors in each tier. Minutes without optimisation, and so for `--profile optimised` only.

#![cfg(not(debug_assertions))]
#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::num::NonZeroUsize;
use std::thread;

use berkeleyd::config::Role;
use berkeleyd::sim::batch::{Job, Keep, run_all};
use berkeleyd::sim::outcome::{Outcome, TierFigures};
use berkeleyd::sim::scenario::{DomainModel, Limits, Scenario};
use berkeleyd::sim::tree::{self, Shape};
use berkeleyd::sim::tree_outcome::TreeOutcome;
use berkeleyd::time::Span;

/// How many nodes the topmost ensemble has, and how many each node of a tier leads.
const SHAPE: [usize; 3] = [10, 10, 9];
/// Figures are of the time after this.
const JUDGE_FROM: Span = Span::from_secs(20);

fn scenario() -> Scenario {
    let limits = Limits { judge_from: JUDGE_FROM, ..Limits::default() };
    Scenario { duration: Span::from_secs(60), limits, ..Scenario::default() }
}

/// The same tree for the world: the nodes numbered as `tree.rs` does.
fn in_frames(scenario: &Scenario) -> Scenario {
    let [top, below, leaves] = SHAPE;
    let domain = |number: usize, nodes: Vec<usize>| DomainModel {
        number: u32::try_from(number).unwrap(),
        nodes,
        role: if number == 0 { Role::Auto } else { Role::Slave },
    };
    let led = |leader: usize, first: usize, count: usize| {
        let mut nodes = vec![leader];
        nodes.extend(first..first + count);
        nodes
    };
    let mut domains = vec![domain(0, (0..top).collect())];
    domains.extend((0..top).map(|leader| domain(1 + leader, led(leader, top + leader * below, below))));
    let first = top + top * below;
    domains.extend(
        (0..top * below).map(|index| domain(1 + top + index, led(top + index, first + index * leaves, leaves))),
    );
    let nodes = NonZeroUsize::new(first + top * below * leaves).unwrap();
    Scenario { nodes, domains, ..scenario.clone() }
}

fn coarse(shape: [usize; 3], scenario: &Scenario, seed: u64, threads: usize) -> TreeOutcome {
    let shape: Shape = shape.map(|nodes| nodes.to_string()).join("x").parse().unwrap();
    tree::run(&shape, scenario, seed, NonZeroUsize::new(threads).unwrap(), |_| {}).unwrap()
}

fn full(scenario: &Scenario, seeds: &[u64]) -> Vec<Outcome> {
    let jobs: Vec<Job> = seeds.iter().map(|seed| Job { scenario: in_frames(scenario), seed: *seed }).collect();
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    run_all(&jobs, Keep::default(), threads, |_| {}).into_iter().map(Result::unwrap).collect()
}

/// A figure of one model in parts of that of the other, both added up over the seeds.
fn ratio(one: &[TierFigures], other: &[TierFigures], figure: impl Fn(&TierFigures) -> Option<Span>) -> f64 {
    let sum = |tiers: &[TierFigures]| tiers.iter().map(|tier| figure(tier).unwrap().as_secs_f64()).sum::<f64>();
    sum(one) / sum(other)
}

#[test]
fn a_thousand_nodes_err_alike_with_frames_and_without() {
    let (scenario, seeds) = (scenario(), [1, 2, 3, 4]);
    let (full, coarse) = (full(&scenario, &seeds), seeds.map(|seed| coarse(SHAPE, &scenario, seed, 4)));
    assert!(full.iter().all(|run| (run.nodes, run.violation_count) == (1_010, 0)));
    assert!(coarse.iter().all(|run| run.nodes == 1_010 && run.ok));
    // The topmost ensemble is the same model in both, on the same clocks with other luck: ten clocks, whose figures differ by a tenth.
    for (tier, tolerance) in [(0, 0.2), (1, 0.1), (2, 0.05)] {
        let full: Vec<TierFigures> = full.iter().filter_map(|run| run.tiers.get(tier).copied()).collect();
        let coarse: Vec<TierFigures> = coarse.iter().filter_map(|run| Some(run.tiers.get(tier)?.clocks)).collect();
        for (name, found, tolerance) in [
            ("median", ratio(&coarse, &full, |tier| tier.distance.median), tolerance),
            ("rms", ratio(&coarse, &full, |tier| tier.distance.rms), tolerance),
            ("99 %", ratio(&coarse, &full, |tier| tier.distance.p99), tolerance),
            ("bound", ratio(&coarse, &full, |tier| tier.bound.median), 0.02),
        ] {
            println!("tier {tier}: {name} is {found:.3} of the world's");
            assert!((found - 1.0).abs() <= tolerance, "tier {tier}: {name} is {found:.3} of the world's");
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let scenario = Scenario { duration: Span::from_secs(25), ..scenario() };
    let told = |threads| serde_json::to_string(&coarse([4, 3, 2], &scenario, 7, threads)).unwrap();
    assert_eq!(told(1), told(4));
}

#[test]
fn each_tier_knows_less_and_says_so() {
    let outcome = coarse([5, 5, 5], &scenario(), 11, 4);
    for pair in outcome.tiers.windows(2) {
        let [above, below] = [&pair[0].clocks, &pair[1].clocks];
        assert!(below.distance.rms > above.distance.rms && below.bound.median > above.bound.median, "{outcome}");
    }
    assert!(outcome.tiers.iter().all(|tier| (0.001..1.0).contains(&tier.used)), "{outcome}");
}
