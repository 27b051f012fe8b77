//! One exchange of Cristian's method: four stamps to an offset and a delay. The only file where the stamps of
//! two nodes meet.
//!
//! ```text
//!          t2 ── t3            slave's local clock
//!         ╱        ╲
//!        ╱ request  ╲ response
//!       ╱            ╲
//!     t1              t4       master's local clock
//! ```
//!
//! The slave may take its time over the answer. Meanwhile the two clocks run apart, so that the offset is that of the middle, and the
//! delay is wrong by what they gained on each other: 25 µs at 100 ppm and a quarter of a second. A sample keeps both instants, and
//! whoever knows the skew takes that into account.
//!
//! Source: Cristian, "Probabilistic clock synchronization", 1989, in the symmetric form of RFC 5905, section 8.

use crate::time::{LocalTime, Offset, Skew, Span};

/// No oscillator is wrong by more, as a ratio, and no two run apart by more: those of computers are wrong by 100 ppm at most, and badly
/// calibrated ones by 500. Larger: the bounds of the first second are wider, and a lying master draws clocks away faster. Smaller:
/// machines with bad oscillators are never measured.
pub const LARGEST_RATE: Skew = Skew::from_ppm(1_000);

/// The four stamps of a request and its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The master sent the request; on the master's local clock. As near to the wire as is known, which need not be
    /// what the request says.
    pub t1: LocalTime,
    /// The request arrived; on the slave's local clock.
    pub t2: LocalTime,
    /// The slave sent the response; on the slave's local clock.
    pub t3: LocalTime,
    /// The response arrived; on the master's local clock.
    pub t4: LocalTime,
}

/// What an exchange says about the slave's local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The middle of the exchange, on the master's local clock.
    pub at: LocalTime,
    /// Slave's local clock minus master's.
    pub offset: Offset,
    /// Round-trip time on the master's clock without the turnaround on the slave's. A slave that runs fast makes it too short by what its
    /// clock gained in the turnaround, which may leave it negative.
    pub delay: Span,
    /// From t1 to t4 on the master's local clock, the slave's turnaround included.
    pub round_trip: Span,
}

impl Sample {
    /// The same with an offset that is larger by this much.
    pub fn shifted(self, by: Span) -> Self {
        Self { offset: Offset::new(self.offset.ahead() + by), ..self }
    }

    /// How far the true offset can be from this one, at the middle: half the delay, and what two oscillators can gain on each other
    /// between the middle and either end. Not negative.
    pub fn uncertainty(&self) -> Span {
        self.delay.half() + LARGEST_RATE.over(self.round_trip.half())
    }
}

impl Exchange {
    /// Offset and delay of this exchange; `None` when the stamps contradict each other (an answer before its
    /// question, a turnaround longer than the whole exchange on any oscillator).
    ///
    /// Assumes that both ways took equally long; what they differ by shows up halved in the offset, which is
    /// why the truth is only known to lie within half the delay.
    pub fn sample(self) -> Option<Sample> {
        let turnaround = self.t3 - self.t2;
        let round_trip = self.t4 - self.t1;
        let delay = round_trip - turnaround;
        let gained = LARGEST_RATE.over(round_trip);
        if !turnaround.is_forward() || !round_trip.is_forward() || !(delay + gained).is_forward() {
            return None;
        }
        let there = self.t2.offset_from(self.t1).ahead();
        let back = self.t3.offset_from(self.t4).ahead();
        let offset = Offset::new((there + back).half());
        Some(Sample { at: self.t1 + round_trip.part(2), offset, delay, round_trip })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(t1: i64, t2: i64, t3: i64, t4: i64) -> Exchange {
        let [t1, t2, t3, t4] = [t1, t2, t3, t4].map(LocalTime::from_nanos);
        Exchange { t1, t2, t3, t4 }
    }

    #[test]
    fn a_slave_that_is_ahead_has_a_positive_offset() {
        // The slave is 1000 ahead; 50 there, 30 turnaround, 50 back.
        let sample = exchange(100, 1150, 1180, 230).sample();
        let expected = Sample {
            at: LocalTime::from_nanos(165),
            offset: Offset::new(Span::from_nanos(1000)),
            delay: Span::from_nanos(100),
            round_trip: Span::from_nanos(130),
        };
        assert_eq!(sample, Some(expected));
    }

    #[test]
    fn the_truth_lies_within_half_the_delay_whatever_the_asymmetry() {
        for there in [0, 10, 99, 100] {
            let back = 100 - there;
            let sample = exchange(0, there + 500, there + 500, there + back).sample();
            let error = sample.map(|sample| sample.offset.distance(Offset::new(Span::from_nanos(500))));
            assert!(error.is_some_and(|error| error <= Span::from_nanos(50)), "{there} there: {error:?}");
        }
    }

    #[test]
    fn a_fast_slave_that_takes_its_time_is_no_contradiction() {
        // 50 there and back, and 250 ms in between, in which a slave that is fast by 100 ppm gains 25 µs.
        let (wait, gained) = (250_000_000, 25_000);
        let sample = exchange(0, 50, 50 + wait + gained, 100 + wait).sample().expect("it is plausible");
        assert_eq!(sample.delay, Span::from_nanos(100 - gained));
        // The middle of the exchange has half of it.
        let truth = Offset::new(Span::from_nanos(gained / 2));
        assert!(sample.offset.distance(truth) <= sample.uncertainty());
        assert!(sample.uncertainty() < Span::from_micros(125));
        // 1,000 ppm are 250 µs: no oscillator gains more.
        assert!(exchange(0, 50, 50 + wait + 250_100, 100 + wait).sample().is_some());
        assert_eq!(exchange(0, 50, 50 + wait + 250_101, 100 + wait).sample(), None);
    }

    #[test]
    fn stamps_that_contradict_each_other_are_no_sample() {
        assert_eq!(exchange(0, 10, 5, 20).sample(), None, "answered before it was asked");
        assert_eq!(exchange(0, 10, 40, 20).sample(), None, "turnaround longer than the exchange");
        assert_eq!(exchange(20, 10, 10, 0).sample(), None, "arrived before it was sent");
        assert_eq!(exchange(0, i64::MAX, i64::MIN, 20).sample(), None);
    }
}
