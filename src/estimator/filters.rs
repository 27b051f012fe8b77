//! Filters for several kinds of clock and network side by side, and their mixture.

use super::belief::Belief;
use super::edge::{Edges, Way};
use super::normal::Scaled;
use crate::time::to_single;

/// A kind of clock and network.
pub(super) struct Kind {
    /// Random walk of the skew, per square root of a second.
    pub(super) wander: f64,
    /// How far the floor is blurred, in parts of the mean queueing.
    pub(super) blur: f64,
}

/// The kinds that are tried side by side. Two quartz oscillators at rest wander by about 1.4e-9 between them; temperature
/// makes it ten times that, and the last sharp one follows a change by several ppm within seconds. Fewer kinds cost accuracy
/// where none of them fits (up to a half with four); more cost memory, 40 bytes each.
const KINDS: [Kind; 6] = [
    Kind { wander: 1e-9, blur: 0.0 },
    Kind { wander: 5e-9, blur: 0.0 },
    Kind { wander: 25e-9, blur: 0.0 },
    Kind { wander: 250e-9, blur: 0.0 },
    Kind { wander: 2e-9, blur: 0.2 },
    Kind { wander: 20e-9, blur: 0.2 },
];

/// [`KINDS`]`.len()` as a float.
const KINDS_F64: f64 = 6.0;
const _: () = assert!(KINDS.len() == 6);

/// How often a clock changes its kind, per second. Larger: the mixture is broader than it need be. Smaller: a change is
/// noticed later.
const CHANGES: f64 = 3e-4;

/// The same, per sample, so that no kind is ever ruled out for good.
const LEAST_CHANGES: f64 = 1e-6;

/// By this part the floor's variance grows with every sample, so that a network may change slowly.
const FADING: f64 = 3e-3;

/// One filter of each kind, with its weight; the weights add up to one.
#[derive(Clone, Debug)]
pub(super) struct Filters([(f64, Belief); KINDS.len()]);

impl Filters {
    /// The same belief whatever the kind, and each kind as likely.
    pub(super) fn all(belief: Belief) -> Self {
        Self(KINDS.map(|_| (1.0 / KINDS_F64, belief)))
    }

    /// As they were kept.
    pub(super) fn of(kept: &Kept) -> Self {
        Self(kept.each_ref().map(KeptFilter::filter))
    }

    /// The mixture of all kinds.
    pub(super) fn belief(&self) -> Belief {
        Belief::mixture(&self.0)
    }

    /// How the skew wanders, of all kinds together.
    pub(super) fn wander(&self) -> f64 {
        let variances = self.0.iter().zip(&KINDS).map(|((weight, _), kind)| weight * kind.wander * kind.wander);
        variances.sum::<f64>().sqrt()
    }

    /// Changes all beliefs alike.
    pub(super) fn change(&mut self, change: impl Fn(&mut Belief)) {
        self.0.iter_mut().for_each(|(_, belief)| change(belief));
    }

    /// So many seconds pass. `known`: their mixture.
    pub(super) fn move_on(&mut self, known: &Belief, elapsed: f64) {
        self.mix(known, elapsed);
        for ((_, belief), kind) in self.0.iter_mut().zip(&KINDS) {
            *belief = belief.predicted(elapsed, kind.wander);
            belief.floor_variance *= 1.0 + FADING;
        }
    }

    /// A part of the clocks changes its kind: every kind takes over as much of the mixture.
    fn mix(&mut self, mixture: &Belief, elapsed: f64) {
        let changes = CHANGES * elapsed + LEAST_CHANGES;
        let part = changes / (1.0 + changes);
        for (weight, belief) in &mut self.0 {
            let came = part / KINDS_F64;
            *weight = (1.0 - part) * *weight + came;
            *belief = belief.mixed(mixture, came / *weight);
        }
    }

    /// Cuts the beliefs at both edges, and weighs them by how likely they held these.
    pub(super) fn cut(&mut self, edges: &Edges, request: &Way, response: &Way) {
        let mut likelihoods = [Scaled::ONE; KINDS.len()];
        for (edge, way) in [(&edges.request, request), (&edges.response, response)] {
            for (((_, belief), kind), likelihood) in self.0.iter_mut().zip(&KINDS).zip(&mut likelihoods) {
                let (cut, likely) = belief.cut(edge, way.queueing, kind);
                *belief = cut;
                *likelihood = likelihood.times(likely);
            }
        }
        let most = likelihoods.iter().map(|likelihood| likelihood.exponent).fold(f64::NEG_INFINITY, f64::max);
        let mut total = 0.0;
        for ((weight, _), likelihood) in self.0.iter_mut().zip(likelihoods) {
            *weight *= likelihood.factor * libm::exp(likelihood.exponent - most);
            total += *weight;
        }
        self.0.iter_mut().for_each(|(weight, _)| *weight /= total);
    }

    /// As it is kept until the next sample.
    pub(super) fn kept(&self) -> Kept {
        self.0.each_ref().map(KeptFilter::new)
    }
}

/// All filters, as they are kept from one sample to the next.
pub(super) type Kept = [KeptFilter; KINDS.len()];

/// A filter and its weight in half the space. What is computed with is twice as precise; what is kept is right to a part in 16 million,
/// of numbers that are small: the offset is counted from a pivot that follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeptFilter {
    weight: f32,
    means: [f32; 3],
    covariances: [f32; 6],
}

impl KeptFilter {
    fn new((weight, belief): &(f64, Belief)) -> Self {
        let Belief { offset, skew, floor, .. } = *belief;
        let covariances = [
            belief.offset_variance,
            belief.offset_skew,
            belief.offset_floor,
            belief.skew_variance,
            belief.skew_floor,
            belief.floor_variance,
        ];
        Self {
            weight: to_single(*weight),
            means: [offset, skew, floor].map(to_single),
            covariances: covariances.map(to_single),
        }
    }

    fn filter(&self) -> (f64, Belief) {
        let [offset, skew, floor] = self.means.map(f64::from);
        let [offset_variance, offset_skew, offset_floor, skew_variance, skew_floor, floor_variance] =
            self.covariances.map(f64::from);
        let belief = Belief {
            offset,
            skew,
            floor,
            offset_variance,
            offset_skew,
            offset_floor,
            skew_variance,
            skew_floor,
            floor_variance,
        };
        (self.weight.into(), belief)
    }
}
