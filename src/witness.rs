//! What a slave can know of its master's clock by itself, and whether a correction agrees with it.
//!
//! A correction is meant to take the slave's clock to where the ensemble is, and the master's own clock is taken there by the same
//! average. A request says where that clock stands; and it gives back two stamps of the exchange before, with which the slave has
//! measured the master as the master has measured it. So the slave knows the **gap** between the two clocks' targets, up to half the
//! delay, and sees whether what it is told to do would close it.
//!
//! Once the master's clock is known well, a correction that opens a gap is not believed. An honest ensemble may jump (a reference has come); its
//! master's clock jumps with it, the next request says so, and the next correction is believed. A master that
//! tells one slave something else than the others goes on contradicting itself. A master whose own clock is not known yet (it has
//! just started) may be corrected by anything, but a slave that knows the time by then is left where it is.
//!
//! What a slave cannot see: a master that draws its own clock along with all the others. That is limited by what a clock allows
//! (`clock.rs`): the largest correction, the slew, the rate.

use std::fmt;

use crate::clock::DisciplinedClock;
use crate::exchange::{Exchange, LARGEST_RATE};
use crate::protocol::{Entry, Request};
use crate::time::{LocalTime, Skew, Span, Time};

/// A correction may disagree with what was measured by so many times the bounds of both clocks: those are kept with a probability
/// only, and the ensemble moves by some of it in a round. Larger: a lie is larger before it is noticed. Smaller: an honest master is refused, for in
/// 200 runs of `wifi` there was one correction of almost five times.
const TOLERANCE: i64 = 5;
/// And by this much in any case: schedulers, and slaves whose delay is known to be asymmetric.
const SLACK: Span = Span::from_micros(100);

/// A request that arrives so much earlier or later than the exchange before lets expect was delayed, or a local clock has jumped. Smaller:
/// two bad oscillators drift apart by that between two rounds. Larger: a node whose clock has jumped is corrected a round later.
const JUMP: Span = Span::from_millis(1);
/// What was seen of the master when it asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sight {
    /// The own clock's target less the master's.
    gap: Span,
    /// By how much the gap can differ from that.
    uncertainty: Span,
    /// How many corrections the own clock had had.
    adjustment: u32,
}

/// What is known of the master followed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Witness {
    sight: Option<Sight>,
    /// One of the two local clocks has jumped since the exchange before: nothing is known any more.
    has_jumped: bool,
    /// How far the master's target can be from ensemble time, as it says; `None` when it does not know.
    master_bound: Option<Span>,
}

/// What speaks against a correction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// It would leave the own clock away from the master's, or move it although it knows the time.
    Gap {
        /// By so much.
        gap: Span,
        /// And so much is what measurement allows.
        limit: Span,
    },
    /// It would make the own clock run as no oscillator needs it.
    Rate(Skew),
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { gap, limit } => {
                write!(f, "it would leave this clock {gap} from the master's own, and measurement allows {limit}")
            }
            Self::Rate(rate) => write!(f, "a rate of {rate}, and no oscillator is wrong by more than {LARGEST_RATE}"),
        }
    }
}

impl Witness {
    /// Takes in a request that arrived at `t2`. `exchange`: the one before, with the master's stamps from the request and the own
    /// ones; `None` when it cannot be put together.
    pub fn heard(&mut self, request: &Request, t2: LocalTime, exchange: Option<Exchange>, clock: &DisciplinedClock) {
        self.master_bound = Some(request.error_bound).filter(|bound| *bound != Span::MAX);
        let sample = exchange.and_then(Exchange::sample);
        self.has_jumped = sample.is_some_and(|sample| {
            let expected = request.t1.on_other_clock(sample.offset);
            (t2 - expected).abs() > JUMP + sample.uncertainty().times(2)
        });
        self.sight = sample.map(|sample| {
            // Both targets are lines, so that it does not matter that they are known for another instant, but for what is wrong with
            // the own one's rate. Asked once in a round the exchange is as old as that, and by 223 ppm (a first burst on a busy machine)
            // the gap has grown by 223 µs meanwhile: without it such a clock would refuse every correction, for ever.
            let elapsed = sample.at - request.t1;
            // (A clock that has never been corrected knows nothing of its rate, and believes what it is told.)
            let rate_error = if clock.is_corrected() { clock.rate_error(t2) } else { Skew::ZERO };
            let grown = rate_error.over(elapsed.abs());
            let masters = Time::from_local(request.t1, request.ahead) + elapsed + request.rate.over(elapsed);
            let own = clock.target(sample.at.on_other_clock(sample.offset));
            Sight { gap: own - masters, uncertainty: sample.uncertainty() + grown, adjustment: clock.adjustment() }
        });
    }

    /// Whether a correction agrees with what is known. `own_bound`: how well the own clock knows the time; `None`: not well
    /// enough to say anything.
    ///
    /// # Errors
    /// It does not.
    pub fn bears_out(&self, entry: &Entry, own_bound: Option<Span>) -> Result<(), Contradiction> {
        if entry.rate.abs() > LARGEST_RATE {
            return Err(Contradiction::Rate(entry.rate));
        }
        let Some(own_bound) = own_bound.filter(|_| !self.has_jumped) else {
            return Ok(());
        };
        let (gap, limit) = match (self.sight, self.master_bound) {
            (Some(sight), Some(bound)) if sight.adjustment == entry.adjustment => {
                let bounds = bound + entry.error_bound;
                (sight.gap + entry.correction, sight.uncertainty + bounds.times(TOLERANCE) + SLACK)
            }
            // Nothing was measured: what is known of the own clock has to do.
            (Some(_) | None, _) => (entry.correction, (own_bound + entry.error_bound).times(TOLERANCE) + SLACK),
        };
        if gap.abs() <= limit { Ok(()) } else { Err(Contradiction::Gap { gap, limit }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Correction;
    use crate::config::CorrectionPolicy;
    use crate::identity::{Incarnation, NodeId};

    /// When the exchange began, on the master's local clock. The slave's reads 7 s more.
    const T1: LocalTime = LocalTime::from_nanos(1_000_000_000_000);
    const SLAVE_AHEAD: Span = Span::from_secs(7);
    const WAY: Span = Span::from_micros(50);
    const ENSEMBLE: Time = Time::from_nanos(1_790_000_000_000_000_000);

    fn exchange() -> Exchange {
        let t2 = T1 + SLAVE_AHEAD + WAY;
        Exchange { t1: T1, t2, t3: t2 + WAY, t4: T1 + WAY.times(3) }
    }

    /// The master's next request, a second later; its clock shows the ensemble's time, and runs 20 ppm fast to do so.
    fn request(error_bound: Span) -> Request {
        let (t1, rate) = (T1 + Span::from_secs(1), Skew::from_ppm(20));
        let shown = ENSEMBLE + Span::from_secs(1) + rate.over(Span::from_secs(1));
        Request { ahead: shown.ahead_of(t1), rate, error_bound, ..Request::bare(t1) }
    }

    /// When it arrives at the slave.
    fn arrival() -> LocalTime {
        T1 + Span::from_secs(1) + SLAVE_AHEAD + WAY
    }

    /// The slave's clock, which is this far ahead of the ensemble.
    fn clock(ahead: Span) -> DisciplinedClock {
        let rate = Skew::from_ppm(20);
        DisciplinedClock::new(T1 + SLAVE_AHEAD, ENSEMBLE + ahead, rate, CorrectionPolicy::default())
    }

    fn entry(correction: Span) -> Entry {
        Entry {
            node: NodeId::new(1),
            node_incarnation: Incarnation::new(1),
            reference: T1,
            correction,
            rate: Skew::ZERO,
            error_bound: Span::from_micros(10),
            rate_error: Skew::ZERO,
            adjustment: 0,
        }
    }

    fn seen(ahead: Span) -> Witness {
        let mut witness = Witness::default();
        witness.heard(&request(Span::from_micros(5)), arrival(), Some(exchange()), &clock(ahead));
        witness
    }

    #[test]
    fn a_correction_must_close_the_gap_that_was_measured() {
        let ahead = Span::from_millis(3);
        let witness = seen(ahead);
        // Half of the 100 µs on the way, what clocks gain in half of 150 µs, five times 15 µs, and the slack.
        let limit = Span::from_micros(50 + 75 + 100) + LARGEST_RATE.over(Span::from_micros(75));
        let rounding = Span::from_nanos(10);
        for wrong in [Span::ZERO, limit - rounding, rounding - limit] {
            assert_eq!(witness.bears_out(&entry(wrong - ahead), Some(Span::ZERO)), Ok(()), "{wrong}");
        }
        for wrong in [limit + rounding, -limit - rounding, ahead, Span::from_secs(-100), Span::MAX] {
            let answer = witness.bears_out(&entry(wrong - ahead), Some(Span::from_secs(1)));
            assert!(matches!(answer, Err(Contradiction::Gap { .. })), "{wrong}");
        }
    }

    #[test]
    fn an_answer_that_took_its_time_is_no_contradiction() {
        // The master's oscillator is slow by 100 ppm: in the quarter of a second it falls 25 µs behind, and the delay comes out negative.
        let wait = Span::from_millis(250);
        let late = Exchange { t3: exchange().t3 + wait + Skew::from_ppm(300).over(wait), ..exchange() };
        let late = Exchange { t4: late.t4 + wait, ..late };
        let mut witness = Witness::default();
        witness.heard(&request(Span::from_micros(5)), arrival(), Some(late), &clock(Span::from_millis(3)));
        assert_eq!(witness.bears_out(&entry(Span::from_millis(-3)), Some(Span::ZERO)), Ok(()));
        assert!(witness.bears_out(&entry(Span::ZERO), Some(Span::ZERO)).is_err());
    }

    #[test]
    fn who_does_not_know_the_time_believes_anything_but_a_rate() {
        let witness = seen(Span::ZERO);
        assert_eq!(witness.bears_out(&entry(Span::from_secs(1_000)), None), Ok(()));
        let rate = LARGEST_RATE + Skew::from_ppt(1);
        for rate in [rate, Skew::ZERO - rate] {
            let fast = Entry { rate, ..entry(Span::ZERO) };
            assert_eq!(witness.bears_out(&fast, None), Err(Contradiction::Rate(rate)));
        }
    }

    #[test]
    fn without_a_measurement_a_clock_that_knows_the_time_is_hardly_moved() {
        let (bound, small, large) = (Span::from_micros(20), Span::from_micros(250), Span::from_micros(251));
        let mut unsure = Witness::default();
        unsure.heard(&request(Span::MAX), arrival(), Some(exchange()), &clock(Span::ZERO));
        let mut unanswered = Witness::default();
        unanswered.heard(&request(Span::from_micros(5)), arrival(), None, &clock(Span::ZERO));
        for witness in [Witness::default(), unsure, unanswered] {
            assert_eq!(witness.bears_out(&entry(small), Some(bound)), Ok(()), "{witness:?}");
            assert!(witness.bears_out(&entry(large), Some(bound)).is_err(), "{witness:?}");
        }
        // What was seen before a correction says nothing after it.
        let later = Entry { adjustment: 1, ..entry(Span::from_millis(-3)) };
        assert!(seen(Span::from_millis(3)).bears_out(&later, Some(bound)).is_err());
    }

    /// The clock is right at `T1` and runs fast by 400 ppm; the correction puts it right where the request arrives, a second later.
    #[test]
    fn a_clock_whose_rate_is_not_known_is_corrected_all_the_same() {
        let fast = Skew::from_ppm(400);
        for (rate_error, is_believed) in [(Skew::from_ppm(410), true), (Skew::from_ppm(1), false)] {
            let mut clock = clock(Span::ZERO);
            let (reference, rate, amount) = (T1 + SLAVE_AHEAD, clock.rate() + fast, Span::ZERO);
            let wrong = Correction { reference, amount, rate, error_bound: Span::from_micros(10), rate_error };
            clock.correct(wrong, T1 + SLAVE_AHEAD).unwrap();
            let mut witness = Witness::default();
            witness.heard(&request(Span::from_micros(5)), arrival(), Some(exchange()), &clock);
            let right = Entry { adjustment: 1, ..entry(-fast.over(Span::from_secs(1))) };
            assert_eq!(witness.bears_out(&right, Some(Span::from_micros(420))).is_ok(), is_believed, "{rate_error}");
        }
    }

    #[test]
    fn who_has_just_jumped_believes_what_it_is_told() {
        let far = entry(Span::from_millis(300));
        for jump in [Span::from_millis(300), Span::from_millis(-300)] {
            let mut witness = Witness::default();
            witness.heard(&request(Span::from_micros(5)), arrival() + jump, Some(exchange()), &clock(Span::ZERO));
            assert_eq!(witness.bears_out(&far, Some(Span::from_micros(20))), Ok(()));
            // By the next exchange everything is known again.
            witness.heard(&request(Span::from_micros(5)), arrival(), Some(exchange()), &clock(Span::ZERO));
            assert!(witness.bears_out(&far, Some(Span::from_micros(20))).is_err());
        }
    }
}
