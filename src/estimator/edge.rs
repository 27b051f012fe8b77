//! What an exchange says: an edge for each way, which the offset and the floor lie below.

use super::belief::Belief;
use crate::exchange::Sample;
use crate::guarantee::SIGMAS;
use crate::time::{LocalTime, Offset, Span, to_single};

/// No floor is sharper than this, in seconds: stamps are no better, and rounding would shake it.
pub(super) const SHARPEST: f64 = 100e-9;

/// A way has come near its floor when it took no longer than this part of the mean queueing more.
const NEAR: f64 = 0.5;

/// Mean queueing is learned in steps of one part in the samples so far, and in so many at last. Larger: a network that becomes busy
/// or quiet is noticed later. Smaller: it is noisier.
const LEARNING: f64 = 100.0;

/// Least mean queueing, in seconds, so that a network without any does not divide by zero.
const LEAST_QUEUEING: f64 = 20e-9;

/// What a sample says, in seconds beyond a pivot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edges {
    /// Offset + floor lay below this, and the offset all the more.
    pub(super) request: Edge,
    /// Floor - offset lay below this.
    pub(super) response: Edge,
}

/// What one way says: `sign` · offset + floor lay below `limit`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) sign: f64,
    pub(super) limit: f64,
    /// So many seconds ago; negative for what is later.
    pub(super) age: f64,
}

impl Edges {
    /// Seen from the instant `now`. The request was under way at t1 and the response at t4: when the slave takes its time, or one of the
    /// ways does, the offset moves by microseconds in between.
    pub(super) fn new(sample: Sample, pivot: Offset, now: LocalTime) -> Self {
        let (offset, half) = ((sample.offset.ahead() - pivot.ahead()).as_secs_f64(), sample.delay.as_secs_f64() / 2.0);
        let (age, half_trip) = ((now - sample.at).as_secs_f64(), sample.round_trip.as_secs_f64() / 2.0);
        Self {
            request: Edge { sign: 1.0, limit: half + offset, age: age + half_trip },
            response: Edge { sign: -1.0, limit: half - offset, age: age - half_trip },
        }
    }

    /// Both limits as they are now. What the skew may be wrong by makes them lie further out, as a queue would.
    pub(super) fn now(&self, skew: f64, error: f64) -> Limits {
        let moved = |edge: &Edge| edge.limit + edge.sign * skew * edge.age + SIGMAS * error * edge.age.abs();
        Limits { request: moved(&self.request), response: moved(&self.response) }
    }
}

impl Edge {
    /// By how much what it limits lay below it.
    #[inline]
    pub(super) fn missed(&self, belief: &Belief) -> f64 {
        self.limit - self.sign * (belief.offset - self.age * belief.skew) - belief.floor
    }
}

/// The limits of both ways at one instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) request: f64,
    pub(super) response: f64,
}

impl Limits {
    /// Half the delay.
    pub(super) fn half(&self) -> f64 {
        self.request.midpoint(self.response).max(SHARPEST)
    }

    pub(super) fn delay(&self) -> Span {
        Span::from_secs_f64(2.0 * self.half())
    }
}

/// One of the two ways.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// Mean of what is added to the floor, in seconds.
    pub(super) queueing: f64,
    /// Samples in a row that did not come near the floor (255: or more), and by how much the nearest of them missed it.
    pub(super) missed: f32,
    pub(super) not_near: u8,
}

impl Way {
    pub(super) fn new(queueing: f64) -> Self {
        Self { queueing, not_near: 0, missed: 0.0 }
    }

    /// Notes by how much a sample missed the floor.
    pub(super) fn note(&mut self, missed: f64) {
        if missed < NEAR * self.queueing {
            self.not_near = 0;
        } else {
            let missed = to_single(missed);
            self.missed = if self.not_near == 0 { missed } else { self.missed.min(missed) };
            self.not_near = self.not_near.saturating_add(1);
        }
    }

    /// Learns the mean queueing by its median, which one late sample moves no further than any other: half of an exponential's
    /// samples lie above ln 2 times its mean.
    pub(super) fn learn(&mut self, missed: f64, samples: u32) {
        let step = 1.0 / f64::from(samples).min(LEARNING);
        let is_above = missed > std::f64::consts::LN_2 * self.queueing;
        self.queueing *= if is_above { 1.0 + step } else { 1.0 - step };
        self.queueing = self.queueing.max(LEAST_QUEUEING);
    }
}
