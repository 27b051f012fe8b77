//! Many runs at once, on as many threads as there are processors. Each run is a matter of its scenario and its seed alone,
//! so that threads change when an outcome is there and never what it says.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration as StdDuration;

use super::outcome::Outcome;
use super::recorder::Recorder;
use super::scenario::Scenario;
use super::world;
use crate::time::Span;

/// How often the caller is told how far the runs are.
const REPORT: StdDuration = StdDuration::from_millis(100);

/// One run to be made.
#[derive(Clone, Debug)]
pub struct Job {
    /// What is simulated.
    pub scenario: Scenario,
    /// With which seed.
    pub seed: u64,
}

/// What of a run is kept besides its figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Every clock over time.
    pub trace: bool,
    /// The last events before a violation.
    pub events: bool,
}

/// A run that panicked; the panic itself has been told on the standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked {
    /// Which it was.
    pub seed: u64,
}

/// Makes all runs on `threads` threads and returns their outcomes in the order of the jobs.
///
/// `on_progress` is called some ten times a second with the simulated time of all runs together.
pub fn run_all(
    jobs: &[Job],
    keep: Keep,
    threads: NonZeroUsize,
    mut on_progress: impl FnMut(Span),
) -> Vec<Result<Outcome, Panicked>> {
    let simulated = AtomicI64::new(0);
    let made = in_parallel(
        jobs.len(),
        threads,
        |index| jobs.get(index).map(|job| run(job, keep, &simulated)),
        || on_progress(Span::from_nanos(simulated.load(Ordering::Relaxed))),
    );
    made.into_iter().zip(jobs).map(|(outcome, job)| outcome.flatten().ok_or(Panicked { seed: job.seed })).collect()
}

/// Does all pieces of a work, numbered from 0, on `threads` threads; what came of them, in order, `None` where the piece panicked. `on_pause` is called some ten
/// times a second.
pub(crate) fn in_parallel<T: Send>(
    pieces: usize,
    threads: NonZeroUsize,
    work: impl Fn(usize) -> T + Sync,
    mut on_pause: impl FnMut(),
) -> Vec<Option<T>> {
    let next = AtomicUsize::new(0);
    let mut results: Vec<Option<T>> = (0..pieces).map(|_| None).collect();
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..threads.get().min(pieces) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= pieces {
                        break;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| work(index)));
                    // Nobody listens any more only when the caller has panicked.
                    let _ = sender.send((index, result));
                }
            });
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(REPORT) {
                Ok((index, result)) => {
                    if let (Some(place), Ok(result)) = (results.get_mut(index), result) {
                        *place = Some(result);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            on_pause();
        }
    });
    results
}

/// `simulated`: grows by the true time that passes in the run.
fn run(job: &Job, keep: Keep, simulated: &AtomicI64) -> Outcome {
    let mut recorder = Recorder::new(&job.scenario, keep.trace);
    if keep.events {
        recorder = recorder.with_events();
    }
    let mut reported = Span::ZERO;
    world::run(&job.scenario, job.seed, &mut recorder, &mut |at| {
        simulated.fetch_add((at - reported).as_nanos(), Ordering::Relaxed);
        reported = at;
    });
    recorder.finish(job.seed)
}

/// As many as there are processors.
pub fn processors() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let scenario = Scenario { duration: Span::from_secs(20), ..Scenario::default() };
        let jobs: Vec<Job> = (1..10).map(|seed| Job { scenario: scenario.clone(), seed }).collect();
        let keep = Keep { trace: true, events: true };
        let told = |threads| {
            let mut simulated = Span::ZERO;
            let outcomes = run_all(&jobs, keep, NonZeroUsize::new(threads).unwrap(), |at| simulated = at);
            assert!(simulated > Span::from_secs(9 * 19), "progress was told: {simulated}");
            let outcomes = outcomes.into_iter().map(Result::unwrap);
            let told = |outcome: Outcome| {
                let trace = outcome.trace.as_ref().unwrap().csv();
                (outcome.seed, serde_json::to_string(&outcome).unwrap(), trace)
            };
            outcomes.map(told).collect::<Vec<_>>()
        };
        let alone = told(1);
        assert_eq!(alone.iter().map(|(seed, ..)| *seed).collect::<Vec<_>>(), (1..10).collect::<Vec<_>>());
        assert!(alone.windows(2).all(|pair| pair[0].1 != pair[1].1), "seeds differ");
        assert_eq!(told(4), alone);
    }
}
