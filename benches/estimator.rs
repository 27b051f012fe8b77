//! What one exchange costs a master's memory of a slave: to take it in, and to tell what it says. The master pays both for each slave and round.
//!
//! `cargo bench --bench estimator`. The goal: a microsecond each.

use berkeleyd::estimator::Estimator;
use berkeleyd::exchange::Sample;
use berkeleyd::time::{LocalTime, Offset, Skew, Span};
use divan::Bencher;
use divan::counter::ItemsCount;

/// Samples in an iteration.
const SAMPLES: usize = 1_000;

fn main() {
    divan::main();
}

/// One exchange a second with a slave that runs fast by 40 ppm, on a LAN of 50 µs a way and up to 20 µs of queueing, the same in each run.
fn samples() -> Vec<Sample> {
    let mut state = 1_u64;
    let mut queueing = || {
        // Knuth's MMIX generator; its upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Span::from_nanos(i64::try_from((state >> 32) % 20_000).unwrap_or(0))
    };
    let sample = |second| {
        let (since, (request, response)) = (Span::from_secs(second), (queueing(), queueing()));
        let delay = Span::from_micros(100) + request + response;
        let offset = Offset::new(Skew::from_ppm(40).over(since) + (request - response).half());
        Sample { at: LocalTime::from_nanos(0) + since, offset, delay, round_trip: delay }
    };
    (0..i64::try_from(SAMPLES).unwrap_or(0)).map(sample).collect()
}

/// Knows all of them.
fn after(samples: &[Sample]) -> Estimator {
    let mut estimator = Estimator::new();
    for sample in samples {
        estimator.push(*sample);
    }
    estimator
}

#[divan::bench]
fn push(bencher: Bencher<'_, '_>) {
    let samples = samples();
    bencher.counter(ItemsCount::new(SAMPLES)).bench(|| after(divan::black_box(&samples)));
}

#[divan::bench]
fn estimate(bencher: Bencher<'_, '_>) {
    let samples = samples();
    let estimator = after(&samples);
    let at = LocalTime::from_nanos(0) + Span::from_secs(1_001);
    bencher.counter(ItemsCount::new(1_usize)).bench(|| divan::black_box(&estimator).estimate(divan::black_box(at)));
}
