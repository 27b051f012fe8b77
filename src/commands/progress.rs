//! A bar on the standard error while something takes long, and nothing at all where nobody looks or it is quick.

use std::io::{self, IsTerminal, Write};

use crate::local_clock::LocalClock;
use crate::sim::words::brief;
use crate::time::{LocalTime, Skew, Span};

/// What is done sooner needs no bar.
const PATIENCE: Span = Span::from_secs(1);
const WIDTH: usize = 30;

/// Shows how much simulated time has passed.
#[derive(Debug)]
pub(crate) struct Progress {
    /// `None`: nobody looks.
    clock: Option<(LocalClock, LocalTime)>,
    total: Span,
    is_shown: bool,
}

impl Progress {
    /// Begins now; `total` is what there is to do.
    pub(crate) fn new(total: Span) -> Self {
        let clock = io::stderr().is_terminal().then(|| LocalClock::new(Skew::ZERO).ok()).flatten();
        Self { clock: clock.map(|clock| (clock, clock.now())), total, is_shown: false }
    }

    /// So much is done.
    pub(crate) fn show(&mut self, done: Span) {
        let Some((clock, began)) = &self.clock else { return };
        let took = clock.now() - *began;
        if took >= PATIENCE {
            self.is_shown = true;
            self.write(&bar(done, self.total, took));
        }
    }

    /// Nothing can be done about a terminal that does not answer.
    fn write(&self, line: &str) {
        let mut terminal = io::stderr().lock();
        let _ = write!(terminal, "\r{line}\x1b[K").and_then(|()| terminal.flush());
    }
}

/// Wipes the bar, so that what follows stands in its place.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            self.write("");
        }
    }
}

fn bar(done: Span, total: Span, took: Span) -> String {
    let share = (done.as_secs_f64() / total.as_secs_f64()).clamp(0.0, 1.0);
    let full = (0..WIDTH).zip(1_u32..).filter(|(_, place)| f64::from(*place) <= share * 30.0).count();
    let rest = if share > 0.01 {
        let seconds = took.as_secs_f64() * (1.0 - share) / share;
        format!(", {} left", brief(Span::from_secs_f64(seconds.ceil())))
    } else {
        String::new()
    };
    let (done, total) = (brief(done), brief(total));
    format!(
        "[{}{}] {:3.0} %, {done} of {total} simulated{rest}",
        "#".repeat(full),
        ".".repeat(WIDTH - full),
        share * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows() {
        let at = |done| bar(Span::from_secs(done), Span::from_secs(3_600), Span::from_secs(10));
        assert_eq!(at(0), "[..............................]   0 %, 0 ns of 1 h simulated");
        assert_eq!(at(1_800), "[###############...............]  50 %, 30 min of 1 h simulated, 10 s left");
        assert_eq!(at(3_600), "[##############################] 100 %, 1 h of 1 h simulated, 0 ns left");
    }
}
