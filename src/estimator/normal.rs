//! The standard normal distribution, far out as well.

/// A positive number that may be too small for a float: `factor` times e to the power of `exponent`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scaled {
    pub(super) factor: f64,
    pub(super) exponent: f64,
}

impl Scaled {
    pub(super) const ONE: Self = Self { factor: 1.0, exponent: 0.0 };

    pub(super) fn times(self, other: Self) -> Self {
        Self { factor: self.factor * other.factor, exponent: self.exponent + other.exponent }
    }
}

/// Logarithm of the root of 2π: what the normal density is divided by.
const LN_ROOT_TAU: f64 = 0.918_938_533_204_672_7;

/// Of the standard normal distribution: density divided by the probability of less, at `x`, and that probability.
#[inline]
pub(super) fn tail(x: f64) -> (f64, Scaled) {
    let density_logarithm = -0.5 * x * x - LN_ROOT_TAU;
    let ratio = mills(x.abs());
    if x < 0.0 {
        return (1.0 / ratio, Scaled { factor: ratio, exponent: density_logarithm });
    }
    let density = libm::exp(density_logarithm);
    let below = 1.0 - density * ratio;
    (density / below, Scaled { factor: below, exponent: 0.0 })
}

/// Mills' ratio of the standard normal distribution: the probability of more than `x`, which is not negative, divided by the density there.
///
/// Far out it is Laplace's continued fraction, of which six steps are right to a part in a million. Nearer it is the quotient of two polynomials, right to 4
/// parts in 10^12 (coefficients by Lawson's method). No exponential is needed for it, of which an error function has one.
pub(super) fn mills(x: f64) -> f64 {
    if x > 6.0 {
        return 1.0 / (1..=6).rev().fold(x, |below, step| x + f64::from(step) / below);
    }
    let above = [
        1.253_314_137_311_635,
        1.183_240_635_423_432_5,
        0.551_865_762_971_519_7,
        0.147_370_085_329_054_9,
        0.022_349_765_809_598_24,
        0.001_550_480_970_870_759,
    ];
    let below = [
        1.0,
        1.741_973_995_153_761_1,
        1.330_219_335_084_894,
        0.573_920_254_642_210_3,
        0.148_943_242_657_402_46,
        0.022_348_670_810_938_477,
        0.001_550_505_910_071_305_8,
    ];
    polynomial(above, x) / polynomial(below, x)
}

/// Coefficients from the constant one on.
pub(super) fn polynomial<const N: usize>(coefficients: [f64; N], x: f64) -> f64 {
    coefficients.into_iter().rfold(0.0, |sum, next| sum * x + next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_the_normal_distribution_is_right() {
        let logarithm = |probability: Scaled| libm::log(probability.factor) + probability.exponent;
        for (x, hazard, below) in
            [(0.0, 0.797_884_56, 0.5_f64), (2.0, 0.055_247_862, 0.977_249_87), (-3.0, 3.283_098_7, 1.349_898e-3)]
        {
            let found = tail(x);
            assert!((found.0 - hazard).abs() < 1e-6 * hazard, "{x}: {found:?}");
            assert!((logarithm(found.1) - below.ln()).abs() < 1e-6, "{x}: {found:?}");
        }
        // By an error function, on either side of where both ways of computing it meet.
        for tenth in -80..=80 {
            let x = f64::from(tenth) / 10.0;
            let below = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
            let hazard = libm::exp(-0.5 * x * x - LN_ROOT_TAU) / below;
            let (found, probability) = tail(x);
            let tolerance = if x < -6.0 { 1e-6 } else { 1e-11 };
            assert!((found - hazard).abs() <= tolerance * hazard, "{x}: {found}, not {hazard}");
            assert!((logarithm(probability) - libm::log(below)).abs() <= tolerance, "{x}: {probability:?}");
        }
    }
}
