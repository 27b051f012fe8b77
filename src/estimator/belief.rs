//! A Gaussian belief about one slave's clock, and what time and an edge make of it.

use super::Prior;
use super::edge::{Edge, Limits, SHARPEST};
use super::filters::Kind;
use super::normal::{Scaled, tail};
use crate::guarantee::SIGMAS;

/// A way that took so many times the mean queueing longer than its floor says nothing: the tail of real networks is not
/// exponential, and what is left of an exponential there is 1 in 3,000.
const OUTLYING: f64 = 8.0;

/// No sample makes a kind less likely than by this factor's logarithm: one absurd one shall not decide.
const LEAST_LIKELIHOOD: f64 = -40.0;

/// No single edge makes a variance smaller than by this factor, or a false sample would be believed for ever.
const LEAST_LEFT: f64 = 1.0 / 16.0;

/// The posterior is no Gaussian and the kinds are only a few: what they say of their own error is too little by up to this factor,
/// as measured over many clocks and networks.
const DOUBT: f64 = 1.5;

/// A Gaussian over offset (seconds beyond the pivot), skew (a ratio) and floor (seconds): means and covariance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belief {
    pub(super) offset: f64,
    pub(super) skew: f64,
    pub(super) floor: f64,
    pub(super) offset_variance: f64,
    pub(super) offset_skew: f64,
    pub(super) offset_floor: f64,
    pub(super) skew_variance: f64,
    pub(super) skew_floor: f64,
    pub(super) floor_variance: f64,
}

impl Belief {
    /// From one exchange alone, and what is expected of the skew: half of what it took may have been queueing, in unknown shares.
    pub(super) fn of(limits: &Limits, prior: Prior) -> Self {
        let half = limits.half();
        let variance = half * half / 4.0;
        Self {
            offset: (limits.request - limits.response) / 2.0,
            skew: prior.skew,
            floor: 0.75 * half,
            offset_variance: variance,
            offset_skew: 0.0,
            offset_floor: 0.0,
            skew_variance: prior.error * prior.error,
            skew_floor: 0.0,
            floor_variance: variance,
        }
    }

    /// Its own skew, offset and floor of another.
    pub(super) fn with_offset_of(&self, other: &Self) -> Self {
        Self { skew: self.skew, skew_variance: self.skew_variance, ..*other }
    }

    /// Standard error of the offset.
    pub(super) fn offset_error(&self) -> f64 {
        DOUBT * self.offset_variance.max(0.0).sqrt()
    }

    /// Standard error of the skew.
    pub(super) fn skew_error(&self) -> f64 {
        DOUBT * self.skew_variance.max(0.0).sqrt()
    }

    /// At another instant, by the model alone. Backwards only the means move, the uncertainty grows all the same.
    #[inline]
    pub(super) fn predicted(&self, elapsed: f64, wander: f64) -> Self {
        let (age, wander) = (elapsed.abs(), wander * wander);
        Self {
            offset: self.offset + self.skew * elapsed,
            offset_variance: self.offset_variance
                + 2.0 * elapsed * self.offset_skew
                + elapsed * elapsed * self.skew_variance
                + wander * age * age * age / 3.0,
            offset_skew: self.offset_skew + elapsed * self.skew_variance + wander * elapsed * age / 2.0,
            offset_floor: self.offset_floor + elapsed * self.skew_floor,
            skew_variance: self.skew_variance + wander * age,
            ..*self
        }
    }

    /// After one way: `sign` · offset + floor lay below the edge, by an exponential number of mean `queueing`. With how likely that was. The offset at the edge's own instant is offset - age · skew, so that the edge says of the skew what it says.
    ///
    /// A Gaussian N(m, v) times exp(x / q) is N(m + v/q, v) with another weight: the edge cuts that off. Mean and variance of what is left
    /// follow from λ = φ(β)/Φ(β) at the cut β: m + v/q - sλ and v (1 - βλ - λ²).
    #[inline]
    pub(super) fn cut(&self, edge: &Edge, queueing: f64, kind: &Kind) -> (Self, Scaled) {
        let Edge { sign, age, .. } = *edge;
        // Covariance of each of the three with the sum that is cut.
        let offset = sign * (self.offset_variance - age * self.offset_skew) + self.offset_floor;
        let skew = sign * (self.offset_skew - age * self.skew_variance) + self.skew_floor;
        let floor = sign * (self.offset_floor - age * self.skew_floor) + self.floor_variance;
        let blur = SHARPEST + kind.blur * queueing;
        let strayed = kind.wander * kind.wander * age.abs() * age * age / 3.0;
        // What is left of rounding may be negative, where a floor of milliseconds is known to nanoseconds.
        let variance = (sign * (offset - age * skew) + floor).max(0.0) + strayed + blur * blur;
        let error = variance.sqrt();
        let missed = edge.missed(self);
        if missed > OUTLYING * queueing + SIGMAS * error {
            return (*self, Scaled { exponent: -OUTLYING, ..Scaled::ONE });
        }
        // Divisions take most of the time: there are no more than needed.
        let (sharpness, rate) = (1.0 / error, 1.0 / queueing);
        let pulled = variance * rate;
        let place = (missed - pulled) * sharpness;
        let (hazard, below) = tail(place);
        let moved = rate - hazard * sharpness;
        let left = (1.0 - place * hazard - hazard * hazard).max(LEAST_LEFT);
        let shrunk = (1.0 - left) * sharpness * sharpness;
        let likely = below.times(Scaled { exponent: (pulled / 2.0 - missed) * rate, ..Scaled::ONE });
        let belief = Self {
            offset: self.offset + offset * moved,
            skew: self.skew + skew * moved,
            floor: self.floor + floor * moved,
            offset_variance: self.offset_variance - offset * offset * shrunk,
            offset_skew: self.offset_skew - offset * skew * shrunk,
            offset_floor: self.offset_floor - offset * floor * shrunk,
            skew_variance: self.skew_variance - skew * skew * shrunk,
            skew_floor: self.skew_floor - skew * floor * shrunk,
            floor_variance: self.floor_variance - floor * floor * shrunk,
        };
        (belief, Scaled { exponent: likely.exponent.max(LEAST_LIKELIHOOD), ..likely })
    }

    /// The mixture of this and a `part` of another.
    #[inline]
    pub(super) fn mixed(&self, other: &Self, part: f64) -> Self {
        let (offset, skew, floor) = (other.offset - self.offset, other.skew - self.skew, other.floor - self.floor);
        let apart = 1.0 - part;
        let between = |own: f64, others: f64, product: f64| own + part * (others - own + apart * product);
        Self {
            offset: self.offset + part * offset,
            skew: self.skew + part * skew,
            floor: self.floor + part * floor,
            offset_variance: between(self.offset_variance, other.offset_variance, offset * offset),
            offset_skew: between(self.offset_skew, other.offset_skew, offset * skew),
            offset_floor: between(self.offset_floor, other.offset_floor, offset * floor),
            skew_variance: between(self.skew_variance, other.skew_variance, skew * skew),
            skew_floor: between(self.skew_floor, other.skew_floor, skew * floor),
            floor_variance: between(self.floor_variance, other.floor_variance, floor * floor),
        }
    }

    /// The Gaussian with the mean and the covariance of a mixture. The weights add up to one.
    #[inline]
    pub(super) fn mixture(parts: &[(f64, Self)]) -> Self {
        let mean = |of: fn(&Self) -> f64| parts.iter().map(|(weight, part)| weight * of(part)).sum::<f64>();
        let (offset, skew, floor) = (mean(|p| p.offset), mean(|p| p.skew), mean(|p| p.floor));
        let covariance = |of: fn(&Self, [f64; 3]) -> f64| {
            let term = |(weight, part): &(f64, Self)| {
                weight * of(part, [part.offset - offset, part.skew - skew, part.floor - floor])
            };
            parts.iter().map(term).sum::<f64>()
        };
        Self {
            offset,
            skew,
            floor,
            offset_variance: covariance(|part, [offset, _, _]| part.offset_variance + offset * offset),
            offset_skew: covariance(|part, [offset, skew, _]| part.offset_skew + offset * skew),
            offset_floor: covariance(|part, [offset, _, floor]| part.offset_floor + offset * floor),
            skew_variance: covariance(|part, [_, skew, _]| part.skew_variance + skew * skew),
            skew_floor: covariance(|part, [_, skew, floor]| part.skew_floor + skew * floor),
            floor_variance: covariance(|part, [_, _, floor]| part.floor_variance + floor * floor),
        }
    }
}
