//! How long to wait for an answer: RFC 6298's estimator, with a floor and a first guess that fit a LAN.
//!
//! Karn's rule (RFC 6298, section 3) needs no care here: every transmission carries its own t1 and the answer gives
//! it back, so that a round-trip time is never taken from an answer to another transmission.

use std::num::NonZeroU32;

use crate::time::Span;

/// Before the first measurement. RFC 6298 says 1 s for the Internet; a LAN answers in less than 1 ms, a sleeping Wi-Fi in 100.
const FIRST_TIMEOUT: Span = Span::from_millis(100);
/// Shorter would ask again while a busy slave's scheduler still makes it wait.
const SHORTEST_TIMEOUT: Span = Span::from_millis(20);
/// Longer would leave no room for a second attempt in a one-second round.
const LONGEST_TIMEOUT: Span = Span::from_millis(500);

/// Doubled more often, the shortest timeout is above the longest anyway.
const LARGEST_DOUBLING: u8 = 16;

/// Smoothed round-trip time to one node, in nanoseconds. What takes longer than 4.3 s counts as that, and is waited for as long as anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrip {
    /// `None` before the first measurement.
    smoothed: Option<NonZeroU32>,
    variation: u32,
}

/// At least a nanosecond.
fn nanos(span: Span) -> NonZeroU32 {
    let nanos = u32::try_from(span.as_nanos().max(1)).unwrap_or(u32::MAX);
    NonZeroU32::new(nanos).unwrap_or(NonZeroU32::MIN)
}

fn span(nanos: u32) -> Span {
    Span::from_nanos(nanos.into())
}

impl RoundTrip {
    /// Takes in one measured round-trip time (t4 - t1, turnaround included). Not negative.
    pub fn measure(&mut self, time: Span) {
        let time = span(nanos(time).get());
        let (smoothed, variation) = match self.smoothed() {
            None => (time, time.half()),
            // RFC 6298, section 2.3, alpha = 1/8 and beta = 1/4; the variation first, by the old mean.
            Some((smoothed, variation)) => {
                (smoothed + (time - smoothed).part(8), variation + ((smoothed - time).abs() - variation).part(4))
            }
        };
        *self = Self { smoothed: Some(nanos(smoothed)), variation: nanos(variation).get() };
    }

    fn smoothed(&self) -> Option<(Span, Span)> {
        self.smoothed.map(|smoothed| (span(smoothed.get()), span(self.variation)))
    }

    /// How long to wait for the answer to the given attempt, counted from 0; doubles with each.
    pub fn timeout(&self, attempt: u8) -> Span {
        let first = self
            .smoothed()
            .map_or(FIRST_TIMEOUT, |(smoothed, variation)| (smoothed + variation.times(4)).max(SHORTEST_TIMEOUT));
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
