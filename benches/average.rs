//! What an average costs: each function on 10 to 10,000 clocks. The master pays this once a round.
//!
//! `cargo bench --bench average`. The goal: 10,000 clocks in less than a millisecond.

use berkeleyd::average::{Average, Reading, Standing};
use berkeleyd::time::{Offset, Span};
use divan::Bencher;
use divan::counter::ItemsCount;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const GAMMA: Span = Span::from_millis(20);
/// Half the width over which the clocks are spread: five times gamma, so that the largest set has to be searched for.
const REACH: Span = GAMMA.times(5);

fn main() {
    divan::main();
}

/// Clocks in random order over twice `REACH`, the same in each run, with bounds from 1 to 101 µs.
fn readings(size: usize) -> Vec<Reading> {
    let reach = REACH.as_nanos().unsigned_abs();
    let mut state = 1_u64;
    let mut random_below = |limit: u64| {
        // Knuth's MMIX generator; its upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((state >> 32) % limit).unwrap_or(0)
    };
    let mut reading = || Reading {
        offset: Offset::new(Span::from_nanos(random_below(2 * reach)) - REACH),
        error_bound: Span::from_micros(1) + Span::from_nanos(random_below(100_000)),
        weight: None,
        standing: Standing::Member,
    };
    (0..size).map(|_| reading()).collect()
}

fn bench(bencher: Bencher<'_, '_>, average: Average, size: usize) {
    let readings = readings(size);
    bencher.counter(ItemsCount::new(size)).bench(|| average.of(divan::black_box(&readings), GAMMA, true));
}

#[divan::bench(args = SIZES)]
fn mean(bencher: Bencher<'_, '_>, size: usize) {
    bench(bencher, Average::Mean, size);
}

#[divan::bench(args = SIZES)]
fn fault_tolerant(bencher: Bencher<'_, '_>, size: usize) {
    bench(bencher, Average::FaultTolerant, size);
}

/// The most that `fault-tolerant` can cost: no two clocks agree, and the median is taken as well.
#[divan::bench(args = SIZES)]
fn fault_tolerant_without_agreement(bencher: Bencher<'_, '_>, size: usize) {
    let readings = readings(size);
    let nobody = Span::from_nanos(-1);
    bencher
        .counter(ItemsCount::new(size))
        .bench(|| Average::FaultTolerant.of(divan::black_box(&readings), nobody, false));
}

#[divan::bench(args = SIZES)]
fn midpoint(bencher: Bencher<'_, '_>, size: usize) {
    bench(bencher, Average::Midpoint, size);
}

#[divan::bench(args = SIZES)]
fn weighted(bencher: Bencher<'_, '_>, size: usize) {
    bench(bencher, Average::Weighted, size);
}
