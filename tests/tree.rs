//! Tiers without frames (`sim/coarse.rs`) against tiers with them (`sim/world.rs`): the same shape, the same clocks and links, a
//! thousand nodes, and the same distribution of errors in each tier. Minutes without optimisation, and so for `--profile optimised` only.

#![cfg(not(debug_assertions))]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::iter;
use std::num::NonZeroUsize;
use std::thread;

use berkeleyd::config::Role;
use berkeleyd::sim::batch::{Job, Keep, run_all};
use berkeleyd::sim::outcome::{Outcome, TierFigures};
use berkeleyd::sim::scenario::{DomainModel, Limits, LinkModel, Scenario};
use berkeleyd::sim::tree::{self, Shape};
use berkeleyd::sim::tree_outcome::TreeOutcome;
use berkeleyd::time::Span;

/// How many nodes the topmost ensemble has, and how many each node of a tier leads: ensembles of ten.
const SMALL: &[usize] = &[10, 10, 9];
/// Two of a thousand, which are asked all together.
const LARGE: &[usize] = &[2, 1_000];
/// Figures are of the time after this.
const JUDGE_FROM: Span = Span::from_secs(20);

fn scenario() -> Scenario {
    let limits = Limits { judge_from: JUDGE_FROM, ..Limits::default() };
    Scenario { duration: Span::from_secs(60), limits, ..Scenario::default() }
}

/// The same tree for the world: the nodes numbered as `tree.rs` does.
fn in_frames(shape: &[usize], scenario: &Scenario) -> Scenario {
    let mut domains = vec![DomainModel { number: 0, nodes: (0..shape[0]).collect(), role: Role::Auto }];
    let (mut leaders, mut first) = (0..shape[0], shape[0]);
    for led in &shape[1..] {
        let below = first;
        for leader in leaders {
            let nodes = iter::once(leader).chain(first..first + led).collect();
            domains.push(DomainModel { number: u32::try_from(1 + leader).unwrap(), nodes, role: Role::Slave });
            first += led;
        }
        leaders = below..first;
    }
    Scenario { nodes: NonZeroUsize::new(first).unwrap(), domains, ..scenario.clone() }
}

fn coarse(shape: &[usize], scenario: &Scenario, seed: u64, threads: usize) -> TreeOutcome {
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let shape: Shape = shape.join("x").parse().unwrap();
    tree::run(&shape, scenario, seed, NonZeroUsize::new(threads).unwrap(), |_| {}).unwrap()
}

fn full(shape: &[usize], scenario: &Scenario, seeds: &[u64]) -> Vec<Outcome> {
    let jobs: Vec<Job> = seeds.iter().map(|seed| Job { scenario: in_frames(shape, scenario), seed: *seed }).collect();
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    run_all(&jobs, Keep::default(), threads, |_| {}).into_iter().map(Result::unwrap).collect()
}

/// A figure of one model in parts of that of the other, both added up over the seeds.
fn ratio(one: &[TierFigures], other: &[TierFigures], figure: impl Fn(&TierFigures) -> Option<Span>) -> f64 {
    let sum = |tiers: &[TierFigures]| tiers.iter().map(|tier| figure(tier).unwrap().as_secs_f64()).sum::<f64>();
    sum(one) / sum(other)
}

/// Runs one tree in both models, whose errors may differ in some tiers by so much.
fn assert_alike(
    shape: &[usize],
    scenario: &Scenario,
    seeds: &[u64],
    tolerances: &[(usize, f64)],
) -> (Vec<Outcome>, Vec<TreeOutcome>) {
    let full = full(shape, scenario, seeds);
    let coarse: Vec<TreeOutcome> = seeds.iter().map(|seed| coarse(shape, scenario, *seed, 4)).collect();
    full.iter().for_each(|run| assert_eq!(run.violation_count, 0, "{run}"));
    coarse.iter().for_each(|run| assert!(run.ok, "{run}"));
    let nodes = u64::try_from(full[0].nodes).unwrap();
    assert!(coarse.iter().all(|run| run.nodes == nodes));
    for (tier, tolerance) in tolerances {
        let full: Vec<TierFigures> = full.iter().filter_map(|run| run.tiers.get(*tier).copied()).collect();
        let coarse: Vec<TierFigures> = coarse.iter().filter_map(|run| Some(run.tiers.get(*tier)?.clocks)).collect();
        for (name, found, tolerance) in [
            ("median", ratio(&coarse, &full, |tier| tier.distance.median), *tolerance),
            ("rms", ratio(&coarse, &full, |tier| tier.distance.rms), *tolerance),
            ("99 %", ratio(&coarse, &full, |tier| tier.distance.p99), *tolerance),
            ("bound", ratio(&coarse, &full, |tier| tier.bound.median), 0.03),
        ] {
            println!("tier {tier}: {name} is {found:.3} of the world's");
            assert!((found - 1.0).abs() <= tolerance, "tier {tier}: {name} is {found:.3} of the world's");
        }
    }
    (full, coarse)
}

#[test]
fn a_thousand_nodes_err_alike_with_frames_and_without() {
    // The topmost ensemble is the same model in both, on the same clocks with other luck: ten clocks, whose figures differ by a tenth.
    assert_alike(SMALL, &scenario(), &[1, 2, 3], &[(0, 0.2), (1, 0.1), (2, 0.08)]);
}

#[test]
fn ensembles_of_a_thousand_err_and_send_alike() {
    let scenario = Scenario { duration: Span::from_secs(40), ..scenario() };
    let (longer, coarse) = assert_alike(LARGE, &scenario, &[1], &[(1, 0.1)]);
    // What two thousand send once they have joined.
    let shorter = full(LARGE, &Scenario { duration: JUDGE_FROM, limits: Limits::default(), ..scenario }, &[1]);
    let (longer, shorter, traffic) = (&longer[0], &shorter[0], coarse[0].traffic());
    let seconds = (longer.duration - shorter.duration).as_secs_f64();
    let sent = |longer: u64, shorter: u64| f64::from(u32::try_from(longer - shorter).unwrap()) / seconds;
    for (name, found, expected) in [
        ("frames", traffic.frames, sent(longer.frames_sent, shorter.frames_sent)),
        ("bytes", traffic.bytes, sent(longer.bytes_sent, shorter.bytes_sent)),
    ] {
        println!("{name}: {found:.0}/s of the world's {expected:.0}");
        assert!((found / expected - 1.0).abs() <= 0.01, "{name}: {found:.0}/s of the world's {expected:.0}");
    }
}

#[test]
#[ignore = "a minute; for those who change how often something lost is sent again"]
fn with_loss_they_err_alike_too() {
    let scenario = scenario();
    let scenario = Scenario { link: LinkModel { loss: 0.02, ..scenario.link.clone() }, ..scenario };
    assert_alike(SMALL, &scenario, &[1, 2, 3, 4], &[(1, 0.15), (2, 0.1)]);
    assert_alike(LARGE, &scenario, &[1, 2], &[(1, 0.1)]);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let scenario = Scenario { duration: Span::from_secs(25), ..scenario() };
    let told = |threads| serde_json::to_string(&coarse(&[4, 3, 2], &scenario, 7, threads)).unwrap();
    assert_eq!(told(1), told(4));
}

#[test]
fn each_tier_knows_less_and_says_so() {
    let outcome = coarse(&[5, 5, 5], &scenario(), 11, 4);
    for pair in outcome.tiers.windows(2) {
        let [above, below] = [&pair[0].clocks, &pair[1].clocks];
        assert!(below.distance.rms > above.distance.rms && below.bound.median > above.bound.median, "{outcome}");
    }
    assert!(outcome.tiers.iter().all(|tier| (0.001..1.0).contains(&tier.used)), "{outcome}");
}
