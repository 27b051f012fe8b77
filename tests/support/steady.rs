//! For tests of what must happen within a time: a shared machine may stand still in the midst of one, and then nobody can
//! keep it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration as StdDuration;

use berkeleyd::local_clock::LocalClock;
use berkeleyd::time::{Skew, Span};

/// A machine that keeps no thread waiting for longer than this can be held to a limit: masters are given up after three times as
/// much.
const STANDSTILL: Span = Span::from_millis(100);
/// Who fails so often has a fault, wherever it runs.
const TRIES: usize = 8;

/// Runs a test, and once more when it failed while the machine stood still. What fails on a machine that ran all the time has
/// failed.
pub fn steadily(test: impl Fn()) {
    for left in (0..TRIES).rev() {
        let (result, still) = watched(|| catch_unwind(AssertUnwindSafe(&test)));
        let Err(panic) = result else { return };
        if still < STANDSTILL || left == 0 {
            resume_unwind(panic);
        }
        eprintln!("the machine stood still for {still}: once more, {left} tries are left");
    }
}

/// What `act` gives, and the longest time that a thread was kept waiting meanwhile.
fn watched<T>(act: impl FnOnce() -> T) -> (T, Span) {
    let (done, is_done) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let clock = LocalClock::new(Skew::ZERO).expect("a clock");
        let tick = StdDuration::from_millis(5);
        let mut worst = Span::ZERO;
        loop {
            let before = clock.now();
            let is_over = is_done.recv_timeout(tick) != Err(mpsc::RecvTimeoutError::Timeout);
            worst = worst.max(clock.now() - before);
            if is_over {
                return worst;
            }
        }
    });
    let result = act();
    drop(done);
    (result, watch.join().expect("it only looks at a clock"))
}
