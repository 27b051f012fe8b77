//! Seeded streams of random numbers, the same on every machine.
//!
//! Everything that draws has a stream of its own, named by the seed of the run, what it is for and an index. A node more, a
//! datagram more or a number more drawn in one place changes nothing in the others, so that two runs that differ in one
//! setting differ in its effects alone.
//!
//! The numbers of a stream are integers (xoroshiro128++, 16 bytes of state). Logarithms, powers and cosines of them come from
//! the `libm` crate: those of the platform's C library may differ in the last bit, and a run that differs in one bit is
//! soon another run. `rand_distr` is not used for the same reason: it takes its logarithms from `num-traits`, which takes them
//! from the platform as soon as any dependency asks it to, and the property tests' does: tests and release would disagree.
//! Addition, multiplication, division and the square root are exact to the last bit everywhere (IEEE 754).
//!
//! Each method says how many numbers it takes from the stream; none takes more or fewer for other arguments.
//!
//! Sources: Blackman & Vigna, Scrambled linear pseudorandom number generators, 2021; Box & Muller 1958.

use std::f64::consts::TAU;
use std::ops::Range;

use rand_xoshiro::rand_core::{Rng, SeedableRng};
use rand_xoshiro::{SplitMix64, Xoroshiro128PlusPlus};

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// How wrong a node's clock is when it starts.
    Start,
    /// A node's oscillator.
    Oscillator,
    /// The errors of a node's stamps.
    Stamp,
    /// The seed of a node's own choices.
    Node,
    /// The fate of datagrams from one node to another.
    Link,
    /// What an attacker does.
    Attacker,
}

impl Purpose {
    /// Part of what every recorded outcome depends on: a number, once given, stays.
    const fn number(self) -> u64 {
        match self {
            Self::Start => 1,
            Self::Oscillator => 2,
            Self::Stamp => 3,
            Self::Node => 4,
            Self::Link => 5,
            Self::Attacker => 6,
        }
    }
}

/// Turns each number into another that looks unrelated, no two into the same (the finaliser of SplitMix64).
fn mixed(number: u64) -> u64 {
    SplitMix64::seed_from_u64(number).next_u64()
}

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random(Xoroshiro128PlusPlus);

impl Random {
    /// The stream of run `seed` for the `index`-th thing of one kind.
    ///
    /// Under one seed no two streams begin in the same state: the purpose and index are only permuted, by a Feistel network.
    pub fn stream(seed: u64, purpose: Purpose, index: u64) -> Self {
        let mut left = mixed(seed ^ mixed(purpose.number()));
        let mut right = index;
        // After four rounds each bit of the state depends on all bits of both halves.
        for _ in 0..4 {
            (left, right) = (right, left ^ mixed(right));
        }
        let state = (u128::from(left) << 64) | u128::from(right);
        Self(Xoroshiro128PlusPlus::from_seed(state.to_le_bytes()))
    }

    /// The stream of run `seed` for what happens from one thing to another, in this direction.
    pub fn between(seed: u64, purpose: Purpose, from: u32, to: u32) -> Self {
        Self::stream(seed, purpose, (u64::from(from) << 32) | u64::from(to))
    }

    /// A stream for one job that may take as many numbers as it likes. Takes one number.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(Xoroshiro128PlusPlus::seed_from_u64(self.number()))
    }

    /// Any number. Takes one.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to just below 1, in steps of 2^-52. Takes one number.
    fn unit(&mut self) -> f64 {
        // The bits of a float between 1 and 2, whose sign and exponent are constant.
        f64::from_bits(1.0_f64.to_bits() | (self.number() >> 12)) - 1.0
    }

    /// From just above 0 to 1, as a logarithm needs it. Takes one number.
    fn positive_unit(&mut self) -> f64 {
        1.0 - self.unit()
    }

    /// True with this probability; never when it is zero, less or no number, always when it is 1 or more. Takes one number.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Below `end`, each number equally often; zero when `end` is zero. Takes one number.
    ///
    /// What is drawn is divided, and nothing is drawn again: some numbers are more frequent by `end` / 2^64, which nobody sees.
    pub fn below(&mut self, end: u64) -> u64 {
        let (_, quotient) = self.number().carrying_mul(end, 0);
        quotient
    }

    /// Evenly distributed from the start of the range to its end. Takes one number.
    pub fn uniform(&mut self, range: Range<f64>) -> f64 {
        range.start + (range.end - range.start) * self.unit()
    }

    /// Normally distributed with mean 0 and standard deviation 1, never beyond 8.5. Takes two numbers.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(self.positive_unit())).sqrt();
        radius * libm::cos(TAU * self.unit())
    }

    /// Exponentially distributed with this mean, never beyond 36 times of it. Takes one number.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * libm::log(self.positive_unit())
    }

    /// From zero on, with a heavy tail (Lomax, that is Pareto's second kind) of this mean and `shape`. Takes one number.
    ///
    /// The chance of more than x is (1 + x / (mean · (shape - 1)))^-shape. `shape` above 1, for otherwise there is no
    /// mean; up to 2 there is no variance. With 1.5 the median is 0.29 of the mean, one in a thousand exceeds 50 times of it.
    pub fn pareto(&mut self, mean: f64, shape: f64) -> f64 {
        mean * (shape - 1.0) * (libm::pow(self.positive_unit(), -1.0 / shape) - 1.0)
    }

    /// One of a slice, each equally often; `None` when it is empty. Takes one number.
    pub fn pick<'a, T>(&mut self, slice: &'a [T]) -> Option<&'a T> {
        let end = u64::try_from(slice.len()).unwrap_or(u64::MAX);
        usize::try_from(self.below(end)).ok().and_then(|place| slice.get(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const DRAWS: u32 = 200_000;

    fn random() -> Random {
        Random::stream(1, Purpose::Link, 1)
    }

    /// Mean and standard deviation of what `draw` gives.
    fn moments(mut draw: impl FnMut(&mut Random) -> f64) -> (f64, f64) {
        let mut random = random();
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..DRAWS {
            let value = draw(&mut random);
            sum += value;
            squares += value * value;
        }
        let mean = sum / f64::from(DRAWS);
        (mean, (squares / f64::from(DRAWS) - mean * mean).sqrt())
    }

    /// How often `draw` gives more than `limit`.
    fn tail(limit: f64, mut draw: impl FnMut(&mut Random) -> f64) -> f64 {
        moments(|random| if draw(random) > limit { 1.0 } else { 0.0 }).0
    }

    fn assert_near(value: f64, expected: f64, tolerance: f64) {
        assert!((value - expected).abs() <= tolerance, "{value} is not {expected} ± {tolerance}");
    }

    // Computed independently too, with the platform's mathematics: there the second of GOLDEN_PARETO ends in 6a.
    const GOLDEN_NUMBERS: [u64; 4] =
        [9_042_482_468_846_016_259, 17_143_215_848_139_662_223, 16_674_372_320_819_813_477, 2_954_058_687_137_850_977];
    const GOLDEN_BETWEEN: u64 = 13_132_493_894_197_380_450;
    const GOLDEN_FORK: u64 = 7_554_828_334_658_600_871;
    const GOLDEN_UNIFORM: [u64; 3] = [0x3fe6_8030_e36b_8e68, 0x3feb_1248_1b17_e8a8, 0xbfde_fb5c_926d_c880];
    const GOLDEN_NORMAL: [u64; 3] = [0xbff0_5ccd_3930_dad2, 0xbf73_3604_7624_7452, 0xbff4_5b49_b69d_430f];
    const GOLDEN_EXPONENTIAL: [u64; 3] = [0x3ff6_30b0_f73f_bef8, 0x3ff8_c224_91c5_e6fd, 0x3fd6_180a_5de7_ed62];
    const GOLDEN_PARETO: [u64; 3] = [0x3fe1_e661_9f58_54a0, 0x3fe4_6e98_549a_846c, 0x3fbe_db69_42f9_8648];
    const GOLDEN_DIGEST: u64 = 0x4de8_f7ef_5f4f_c210;

    /// Every recorded outcome rests on these. If they change, the streams or the mathematics did: then all outcomes do.
    #[test]
    fn the_numbers_of_a_seed_never_change() {
        let mut random = Random::stream(42, Purpose::Oscillator, 7);
        let numbers: Vec<u64> = (0..4).map(|_| random.number()).collect();
        assert_eq!(numbers, GOLDEN_NUMBERS);
        assert_eq!(Random::between(42, Purpose::Link, 3, 9).number(), GOLDEN_BETWEEN);
        assert_eq!(random.fork().number(), GOLDEN_FORK);
        let drawn = |draw: fn(&mut Random) -> f64| {
            let mut random = random.clone();
            [(); 3].map(|()| draw(&mut random).to_bits())
        };
        assert_eq!(drawn(|random| random.uniform(-1.0..3.0)), GOLDEN_UNIFORM);
        assert_eq!(drawn(Random::normal), GOLDEN_NORMAL);
        assert_eq!(drawn(|random| random.exponential(2.5)), GOLDEN_EXPONENTIAL);
        assert_eq!(drawn(|random| random.pareto(2.5, 1.5)), GOLDEN_PARETO);
        // The last bits of many, so that an error in a rare branch of the mathematics shows too.
        let mut digest = 0_u64;
        for _ in 0..100_000 {
            for float in [random.normal(), random.exponential(1.0), random.pareto(1.0, 1.5)] {
                digest = mixed(digest ^ float.to_bits());
            }
        }
        assert_eq!(digest, GOLDEN_DIGEST);
    }

    #[test]
    fn neighbouring_streams_have_nothing_in_common() {
        let purposes =
            [Purpose::Start, Purpose::Oscillator, Purpose::Stamp, Purpose::Node, Purpose::Link, Purpose::Attacker];
        let mut firsts = HashSet::new();
        for purpose in purposes {
            for seed in 0..16 {
                for index in 0..256 {
                    firsts.insert(Random::stream(seed, purpose, index).number());
                }
            }
        }
        assert_eq!(firsts.len(), purposes.len() * 16 * 256);

        // One bit of the seed or the index turns half of the bits of the numbers: 32 of 64, with σ = 4 / √(64 · 8).
        let drawn = |seed: u64, index: u64| {
            let mut random = Random::stream(seed, Purpose::Link, index);
            (0..8).map(move |_| random.number())
        };
        for turn in [(1, 0), (0, 1)] {
            let mut turned = 0;
            for bit in 0..64 {
                let other = drawn(7 ^ (turn.0 << bit), 9 ^ (turn.1 << bit));
                turned += drawn(7, 9).zip(other).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
            }
            assert_near(f64::from(turned) / (64.0 * 8.0), 32.0, 0.71);
        }
        assert_ne!(Random::between(1, Purpose::Link, 2, 3), Random::between(1, Purpose::Link, 3, 2));
    }

    /// Whatever one thing draws, the fork after it is the same: what makes datagrams independent of each other's fate.
    #[test]
    fn a_fork_takes_one_number() {
        let (mut lazy, mut busy) = (random(), random());
        let _ = lazy.fork();
        let mut fork = busy.fork();
        for _ in 0..100 {
            fork.number();
        }
        assert_eq!(lazy, busy);
    }

    #[test]
    fn every_method_takes_as_many_numbers_as_it_says() {
        let ones: [fn(&mut Random); 9] = [
            |random| _ = random.chance(0.0),
            |random| _ = random.chance(1.0),
            |random| _ = random.below(0),
            |random| _ = random.below(u64::MAX),
            |random| _ = random.uniform(0.0..1.0),
            |random| _ = random.exponential(0.0),
            |random| _ = random.pareto(1.0, 1.5),
            |random| _ = random.pick::<u8>(&[]),
            |random| _ = random.pick(&[1, 2]),
        ];
        for (place, take) in ones.into_iter().enumerate() {
            let (mut expected, mut taken) = (random(), random());
            expected.number();
            take(&mut taken);
            assert_eq!(taken, expected, "method {place}");
        }
        let (mut expected, mut taken) = (random(), random());
        expected.number();
        expected.number();
        taken.normal();
        assert_eq!(taken, expected);
    }

    #[test]
    fn chances_come_as_often_as_they_say() {
        for probability in [0.001, 0.1, 0.5, 0.99] {
            let (share, _) = moments(|random| if random.chance(probability) { 1.0 } else { 0.0 });
            let sigma = (probability * (1.0 - probability) / f64::from(DRAWS)).sqrt();
            assert_near(share, probability, 4.0 * sigma);
        }
        let mut random = random();
        for _ in 0..1_000 {
            assert!(random.chance(1.0) && random.chance(7.0));
            assert!(!random.chance(0.0) && !random.chance(-1.0) && !random.chance(f64::NAN));
        }
    }

    #[test]
    fn numbers_below_a_limit_are_equally_frequent() {
        let mut random = random();
        let mut counts = [0_u32; 10];
        for _ in 0..DRAWS {
            counts[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        for count in counts {
            assert_near(f64::from(count), 20_000.0, 4.0 * 134.2);
        }
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn picks_are_equally_frequent() {
        let mut random = random();
        let mut counts = [0_u32; 3];
        for _ in 0..DRAWS {
            counts[*random.pick(&[0_usize, 1, 2]).unwrap()] += 1;
        }
        for count in counts {
            assert_near(f64::from(count), 66_667.0, 4.0 * 210.8);
        }
        assert_eq!(random.pick::<u8>(&[]), None);
    }

    #[test]
    fn a_uniform_number_has_the_moments_and_bounds_of_its_range() {
        let (mean, deviation) = moments(|random| random.uniform(-2.0..6.0));
        assert_near(mean, 2.0, 0.02);
        assert_near(deviation, 8.0 / 12.0_f64.sqrt(), 0.01);
        let mut random = random();
        assert!((0..DRAWS).all(|_| (-2.0..=6.0).contains(&random.uniform(-2.0..6.0))));
    }

    #[test]
    fn a_normal_number_has_its_moments_and_tail() {
        let (mean, deviation) = moments(Random::normal);
        assert_near(mean, 0.0, 0.01);
        assert_near(deviation, 1.0, 0.01);
        assert_near(tail(1.0, Random::normal), 0.158_66, 0.003_5);
        assert_near(tail(3.0, Random::normal), 0.001_35, 0.000_35);
        // Neighbours do not hang together.
        let (product, _) = moments(|random| random.normal() * random.normal());
        assert_near(product, 0.0, 0.01);
    }

    #[test]
    fn an_exponential_number_has_its_moments_and_tail() {
        let (mean, deviation) = moments(|random| random.exponential(3.0));
        assert_near(mean, 3.0, 0.03);
        assert_near(deviation, 3.0, 0.06);
        assert_near(tail(3.0 * 5.0, |random| random.exponential(3.0)), (-5.0_f64).exp(), 0.000_75);
    }

    #[test]
    fn a_pareto_number_has_its_median_mean_and_tail() {
        let draw = |random: &mut Random| random.pareto(3.0, 1.5);
        assert_near(tail(0.29 * 3.0, draw), 0.5, 0.01);
        for factor in [1.0, 10.0, 50.0] {
            let share = (1.0_f64 + factor / 0.5).powf(-1.5);
            assert_near(tail(3.0 * factor, draw), share, 4.0 * (share / f64::from(DRAWS)).sqrt());
        }
        // Without a variance the mean comes slowly; a thinner tail of the same formula shows it.
        let (mean, _) = moments(|random| random.pareto(3.0, 4.0));
        assert_near(mean, 3.0, 0.05);
    }
}
