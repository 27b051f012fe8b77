//! How long to wait for an answer: RFC 6298's estimator, with a floor and a first guess that fit a LAN.
//!
//! Karn's rule (RFC 6298, section 3) needs no care here: every transmission carries its own t1 and the answer gives
//! it back, so that a round-trip time is never taken from an answer to another transmission.

use crate::time::Span;

/// Before the first measurement. RFC 6298 says 1 s for the Internet; a LAN answers in less than 1 ms, a sleeping Wi-Fi in 100.
const FIRST_TIMEOUT: Span = Span::from_millis(100);
/// Shorter would ask again while a busy slave's scheduler still makes it wait.
const SHORTEST_TIMEOUT: Span = Span::from_millis(20);
/// Longer would leave no room for a second attempt in a one-second round.
const LONGEST_TIMEOUT: Span = Span::from_millis(500);

/// Doubled more often, the shortest timeout is above the longest anyway.
const LARGEST_DOUBLING: u32 = 16;

/// Smoothed round-trip time to one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrip {
    measured: Option<Measured>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measured {
    smoothed: Span,
    variation: Span,
}

impl RoundTrip {
    /// Takes in one measured round-trip time (t4 - t1, turnaround included). Not negative.
    pub fn measure(&mut self, time: Span) {
        self.measured = Some(match self.measured {
            None => Measured { smoothed: time, variation: time.half() },
            // RFC 6298, section 2.3, alpha = 1/8 and beta = 1/4; the variation first, by the old mean.
            Some(Measured { smoothed, variation }) => Measured {
                variation: variation + ((smoothed - time).abs() - variation).part(4),
                smoothed: smoothed + (time - smoothed).part(8),
            },
        });
    }

    /// How long to wait for the answer to the given attempt, counted from 0; doubles with each.
    pub fn timeout(&self, attempt: u32) -> Span {
        let first = self
            .measured
            .map_or(FIRST_TIMEOUT, |measured| (measured.smoothed + measured.variation.times(4)).max(SHORTEST_TIMEOUT));
        first.times(1 << attempt.min(LARGEST_DOUBLING)).min(LONGEST_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_measured_times() {
        let mut round_trip = RoundTrip::default();
        assert_eq!(round_trip.timeout(0), FIRST_TIMEOUT);
        round_trip.measure(Span::from_millis(40));
        // 40 + 4 × 20
        assert_eq!(round_trip.timeout(0), Span::from_millis(120));
        round_trip.measure(Span::from_millis(80));
        // variation 20 + (40 - 20) / 4 = 25, smoothed 40 + 40 / 8 = 45
        assert_eq!(round_trip.timeout(0), Span::from_millis(145));
        assert_eq!(round_trip.timeout(1), Span::from_millis(290));
        assert_eq!(round_trip.timeout(63), LONGEST_TIMEOUT);
        for _ in 0..100 {
            round_trip.measure(Span::from_micros(50));
        }
        assert_eq!(round_trip.timeout(0), SHORTEST_TIMEOUT);
    }
}
