//! The fate of a datagram: whether it is lost, when it arrives, how often, and what has become of its bytes.
//!
//! A [`Link`] is one direction between two nodes; what each datagram meets on it depends on the random stream of the link
//! and on how many were sent before, not on other links. The draws for one datagram are always the same and in the same order: a
//! scenario that is changed in one setting (loss, say) keeps all else, every delay included.
//!
//! A link knows no queue: two datagrams that follow each other by less than the jitter may change places. A [`Queue`] is what a
//! receiver has in front of it, where the answers of all slaves to one request meet.
//!
//! Sources: Gilbert, Capacity of a burst-noise channel, 1960; Elliott 1963.

use super::random::Random;
use super::scenario::{Distribution, LinkModel};
use crate::time::Span;

/// Shape of the heavy-tailed delays: a mean, but no variance.
const PARETO_SHAPE: f64 = 1.5;
/// A datagram that is held back waits for up to this many times the least delay.
const LONGEST_HOLD: f64 = 10.0;
/// Bits in a byte.
const BITS: u64 = 8;
/// Bits times nanoseconds per second, in bytes.
const BYTE_NANOS: u128 = 8 * 1_000_000_000;

/// Which way a link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    /// From the master to a slave: the asymmetry is added.
    FromMaster,
    /// From a slave to the master: the asymmetry is taken off.
    ToMaster,
    /// Between two slaves: no asymmetry.
    Aside,
}

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes that were sent.
    AsSent,
    /// A damaged copy.
    Altered(Vec<u8>),
}

/// One arrival of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When it reaches the receiver, or the queue before it; true time, never before it was sent.
    pub arrival: Span,
    /// What arrives.
    pub content: Content,
}

/// What becomes of one datagram: no delivery, one, or two. Not in the order of arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    first: Option<Delivery>,
    second: Option<Delivery>,
}

impl Iterator for Deliveries {
    type Item = Delivery;
    fn next(&mut self) -> Option<Delivery> {
        self.first.take().or_else(|| self.second.take())
    }
}

/// One direction between two nodes.
#[derive(Clone, Debug)]
pub struct Link {
    random: Random,
    is_bad: bool,
}

impl Link {
    /// A good link.
    pub fn new(random: Random) -> Self {
        Self { random, is_bad: false }
    }

    /// Decides what becomes of `bytes`, sent at `now` in true time. `extra` is added to every delay.
    ///
    /// Each copy of a duplicated datagram has its own delay and damage. Allocates for a damaged copy only.
    pub fn send(&mut self, now: Span, bytes: &[u8], model: &LinkModel, heading: Heading, extra: Span) -> Deliveries {
        let mut fate = self.random.fork();
        self.is_bad = fate.chance(if self.is_bad { 1.0 - model.burst_end } else { model.burst_begin });
        // `&` and `|` on purpose: every number is drawn, or one setting would shift the draws of the next.
        let is_lost = (fate.chance(model.burst_loss) & self.is_bad) | fate.chance(model.loss);
        let is_twofold = fate.chance(model.duplication);
        if is_lost || bytes.len() > model.mtu {
            return Deliveries::default();
        }
        let mut deliver = || {
            let mut copy = fate.fork();
            let content = content(&mut copy, bytes, model);
            Some(Delivery { arrival: now + (delay(&mut copy, model, heading) + extra).max(Span::ZERO), content })
        };
        Deliveries { first: deliver(), second: if is_twofold { deliver() } else { None } }
    }
}

/// What arrives of `bytes`.
fn content(random: &mut Random, bytes: &[u8], model: &LinkModel) -> Content {
    let len = length(bytes.len());
    let (is_corrupted, bit) = (random.chance(model.corruption), random.below(len.saturating_mul(BITS)));
    let (is_truncated, kept) = (random.chance(model.truncation), random.below(len));
    if bytes.is_empty() || !(is_corrupted || is_truncated) {
        return Content::AsSent;
    }
    let mut copy = bytes.to_vec();
    if is_corrupted && let Some(byte) = usize::try_from(bit / BITS).ok().and_then(|place| copy.get_mut(place)) {
        *byte ^= 1 << (bit % BITS);
    }
    if is_truncated {
        copy.truncate(usize::try_from(kept).unwrap_or(0));
    }
    Content::Altered(copy)
}

/// How long a datagram is under way.
fn delay(random: &mut Random, model: &LinkModel, heading: Heading) -> Span {
    let least = match heading {
        Heading::FromMaster => model.delay + model.asymmetry,
        Heading::ToMaster => model.delay - model.asymmetry,
        Heading::Aside => model.delay,
    }
    .max(Span::ZERO);
    let (is_held, hold) = (random.chance(model.reordering), random.uniform(0.0..LONGEST_HOLD));
    let held = if is_held { Span::from_secs_f64(model.delay.as_secs_f64() * hold) } else { Span::ZERO };
    // Last, since the distributions draw differently.
    let jitter = model.jitter.as_secs_f64();
    let on_top = match model.distribution {
        Distribution::None => Span::ZERO,
        Distribution::Normal => Span::from_secs_f64(jitter * random.normal().abs()),
        Distribution::Exponential => Span::from_secs_f64(random.exponential(jitter)),
        Distribution::Pareto => Span::from_secs_f64(random.pareto(jitter, PARETO_SHAPE)),
        Distribution::Empirical => random.pick(&model.samples).copied().unwrap_or(Span::ZERO),
    };
    least + held + on_top
}

/// A number of bytes, in 64 bits.
fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// What a receiver has in front of it: a line of limited bandwidth and a limited number of bytes waiting for it, first come
/// first served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// When the line has passed on all that was admitted.
    free_at: Span,
}

impl Queue {
    /// Takes a datagram of `len` bytes that arrives at `now`: when its last bit has passed the line, or `None` when it is lost
    /// because the bytes before it and its own are more than may wait. On a free line none is lost.
    ///
    /// To be called in the order of arrival. Headers count if the caller adds them to `len`.
    pub fn admit(&mut self, now: Span, len: usize, model: &LinkModel) -> Option<Span> {
        if model.bandwidth == 0 {
            return Some(now);
        }
        let bandwidth = u128::from(model.bandwidth);
        let busy = (self.free_at - now).max(Span::ZERO);
        // Rounded up: what has begun to pass still stands in the queue.
        let waiting = (u128::from(busy.as_nanos().unsigned_abs()) * bandwidth).div_ceil(BYTE_NANOS);
        let (len, room) = (u128::from(length(len)), u128::from(length(model.queue)));
        if waiting > 0 && waiting + len > room {
            return None;
        }
        let passing = i64::try_from((len * BYTE_NANOS).div_ceil(bandwidth)).unwrap_or(i64::MAX);
        self.free_at = now + busy + Span::from_nanos(passing);
        Some(self.free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Purpose;
    use super::*;

    const SENT: i32 = 100_000;
    const FRAME: [u8; 48] = [0xA5; 48];

    fn link() -> Link {
        Link::new(Random::between(1, Purpose::Link, 1, 2))
    }

    /// A link that takes 50 µs and does nothing else.
    fn plain() -> LinkModel {
        LinkModel { distribution: Distribution::None, ..LinkModel::default() }
    }

    fn send(link: &mut Link, model: &LinkModel) -> Deliveries {
        link.send(Span::ZERO, &FRAME, model, Heading::Aside, Span::ZERO)
    }

    /// How long datagrams take that meet nothing else, in seconds.
    fn delays(model: &LinkModel) -> Vec<f64> {
        let mut link = link();
        (0..SENT).flat_map(|_| send(&mut link, model)).map(|delivery| delivery.arrival.as_secs_f64()).collect()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / float(values.len())
    }

    fn share(values: &[f64], mut counts: impl FnMut(f64) -> bool) -> f64 {
        float(values.iter().filter(|value| counts(**value)).count()) / float(values.len())
    }

    fn float(count: usize) -> f64 {
        f64::from(u32::try_from(count).unwrap())
    }

    fn assert_near(value: f64, expected: f64, tolerance: f64) {
        assert!((value - expected).abs() <= tolerance, "{value} is not {expected} ± {tolerance}");
    }

    /// Four σ of a share.
    fn four_sigma(share: f64) -> f64 {
        4.0 * (share * (1.0 - share) / f64::from(SENT)).sqrt()
    }

    #[test]
    fn a_plain_link_delivers_once_after_its_delay_what_was_sent() {
        let sent = Span::from_secs(7);
        let deliveries = link().send(sent, &FRAME, &plain(), Heading::Aside, Span::from_millis(3));
        let arrival = sent + Span::from_micros(3_050);
        assert_eq!(deliveries.collect::<Vec<_>>(), [Delivery { arrival, content: Content::AsSent }]);
    }

    #[test]
    fn asymmetry_is_added_from_the_master_and_taken_off_towards_it() {
        let model = LinkModel { asymmetry: Span::from_micros(20), ..plain() };
        let arrival = |model: &LinkModel, heading| {
            link().send(Span::ZERO, &FRAME, model, heading, Span::ZERO).next().map(|delivery| delivery.arrival)
        };
        assert_eq!(arrival(&model, Heading::FromMaster), Some(Span::from_micros(70)));
        assert_eq!(arrival(&model, Heading::ToMaster), Some(Span::from_micros(30)));
        assert_eq!(arrival(&model, Heading::Aside), Some(Span::from_micros(50)));
        let absurd = LinkModel { asymmetry: Span::from_micros(60), ..plain() };
        assert_eq!(arrival(&absurd, Heading::ToMaster), Some(Span::ZERO), "nothing arrives before it is sent");
    }

    #[test]
    fn exponential_delays_have_their_mean_and_tail() {
        let delays = delays(&LinkModel::default());
        assert_eq!(delays.len(), 100_000);
        assert_near(mean(&delays), 60e-6, 0.15e-6);
        assert!(delays.iter().all(|delay| *delay >= 50e-6));
        let beyond = (-3.0_f64).exp();
        assert_near(share(&delays, |delay| delay > 80e-6), beyond, four_sigma(beyond));
    }

    #[test]
    fn normal_delays_are_halved_below_zero() {
        let delays = delays(&LinkModel { distribution: Distribution::Normal, ..plain() });
        assert_near(mean(&delays), 50e-6 + 10e-6 * (2.0 / std::f64::consts::PI).sqrt(), 0.1e-6);
        assert!(delays.iter().all(|delay| *delay >= 50e-6));
        assert_near(share(&delays, |delay| delay > 70e-6), 0.0455, four_sigma(0.0455));
    }

    #[test]
    fn pareto_delays_are_mostly_short_and_rarely_very_long() {
        let delays = delays(&LinkModel { distribution: Distribution::Pareto, ..plain() });
        assert!(delays.iter().all(|delay| *delay >= 50e-6));
        for (beyond, chance) in [(2.94e-6, 0.5), (10e-6, 3.0_f64.powf(-1.5)), (1e-3, 201.0_f64.powf(-1.5))] {
            assert_near(share(&delays, |delay| delay > 50e-6 + beyond), chance, four_sigma(chance));
        }
    }

    #[test]
    fn empirical_delays_are_the_samples_equally_often() {
        let samples: Vec<Span> = [1, 5, 20].map(Span::from_micros).to_vec();
        let model = LinkModel { distribution: Distribution::Empirical, samples, ..plain() };
        let taken = delays(&model);
        for delay in [51e-6, 55e-6, 70e-6] {
            assert_near(share(&taken, |taken| (taken - delay).abs() < 1e-9), 1.0 / 3.0, four_sigma(1.0 / 3.0));
        }
        let none = LinkModel { samples: Vec::new(), ..model };
        assert!(delays(&none).iter().all(|delay| (delay - 50e-6).abs() < 1e-9));
    }

    #[test]
    fn as_many_are_lost_as_the_loss_says() {
        for loss in [0.0, 0.01, 0.5, 1.0] {
            let delivered = float(delays(&LinkModel { loss, ..plain() }).len());
            assert_near(delivered / f64::from(SENT), 1.0 - loss, four_sigma(loss));
        }
    }

    /// Gilbert's case: every datagram is lost on a bad link, none on a good one.
    #[test]
    fn bursts_are_as_frequent_and_as_long_as_they_say() {
        let model = LinkModel { burst_begin: 0.02, burst_end: 0.2, burst_loss: 1.0, ..plain() };
        let mut link = link();
        let (mut lost, mut bursts, mut was_lost) = (0.0, 0.0, false);
        for _ in 0..SENT {
            let is_lost = send(&mut link, &model).next().is_none();
            lost += if is_lost { 1.0 } else { 0.0 };
            bursts += if is_lost && !was_lost { 1.0 } else { 0.0 };
            was_lost = is_lost;
        }
        // Bad for begin / (begin + end) of the time, and 1 / end datagrams long.
        assert_near(lost / f64::from(SENT), 0.02 / 0.22, 0.01);
        assert_near(lost / bursts, 5.0, 0.4);
    }

    #[test]
    fn a_bad_link_loses_the_fraction_it_says() {
        let model = LinkModel { burst_begin: 1.0, burst_end: 0.0, burst_loss: 0.3, loss: 0.1, ..plain() };
        let delivered = float(delays(&model).len()) / f64::from(SENT);
        assert_near(delivered, 0.7 * 0.9, four_sigma(0.63));
    }

    #[test]
    fn duplicates_arrive_twice_each_with_a_delay_of_its_own() {
        let model = LinkModel { duplication: 0.25, ..LinkModel::default() };
        let mut link = link();
        let (mut twofold, mut apart) = (0.0, 0.0);
        for _ in 0..SENT {
            let arrivals: Vec<Span> = send(&mut link, &model).map(|delivery| delivery.arrival).collect();
            if let [first, second] = arrivals[..] {
                twofold += 1.0;
                apart += if first == second { 0.0 } else { 1.0 };
            }
        }
        assert_near(twofold / f64::from(SENT), 0.25, four_sigma(0.25));
        assert!(apart > 0.99 * twofold);
    }

    #[test]
    fn datagrams_held_back_are_overtaken() {
        let model = LinkModel { reordering: 0.1, ..plain() };
        let mut link = link();
        let mut arrivals = Vec::new();
        for number in 0..SENT {
            let sent = Span::from_micros(200).times(number.into());
            arrivals
                .extend(link.send(sent, &FRAME, &model, Heading::Aside, Span::ZERO).map(|delivery| delivery.arrival));
        }
        // Held for up to 500 µs: three in five of those held wait for longer than the 200 µs until the next is sent, which
        // then overtakes unless it is held for longer still.
        let overtaken = arrivals.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert_near(float(overtaken) / f64::from(SENT), 0.1 * 0.6 * (0.9 + 0.1 * 0.3), 0.004);
        assert!(delays(&model).iter().all(|delay| (50e-6..=550e-6).contains(delay)));
        assert!(delays(&plain()).iter().all(|delay| (delay - 50e-6).abs() < 1e-9));
    }

    /// What arrives of each of many frames; `None` for one that is as it was sent.
    fn contents(model: &LinkModel) -> Vec<Option<Vec<u8>>> {
        let mut link = link();
        (0..SENT)
            .flat_map(|_| send(&mut link, model))
            .map(|delivery| match delivery.content {
                Content::AsSent => None,
                Content::Altered(bytes) => Some(bytes),
            })
            .collect()
    }

    #[test]
    fn corruption_turns_exactly_one_bit_and_every_bit_in_turn() {
        let contents = contents(&LinkModel { corruption: 0.2, ..plain() });
        let altered: Vec<&Vec<u8>> = contents.iter().flatten().collect();
        assert_near(float(altered.len()) / f64::from(SENT), 0.2, four_sigma(0.2));
        let mut turned = [0_u8; FRAME.len()];
        for bytes in altered {
            assert_eq!(bytes.len(), FRAME.len());
            let bits: u32 = bytes.iter().zip(FRAME).map(|(byte, sent)| (byte ^ sent).count_ones()).sum();
            assert_eq!(bits, 1);
            for (place, (byte, sent)) in bytes.iter().zip(FRAME).enumerate() {
                turned[place] |= byte ^ sent;
            }
        }
        assert_eq!(turned, [0xFF; FRAME.len()]);
    }

    #[test]
    fn truncation_leaves_every_shorter_length_in_turn() {
        let contents = contents(&LinkModel { truncation: 0.2, ..plain() });
        let altered: Vec<&Vec<u8>> = contents.iter().flatten().collect();
        assert_near(float(altered.len()) / f64::from(SENT), 0.2, four_sigma(0.2));
        assert!(altered.iter().all(|bytes| bytes.len() < FRAME.len() && FRAME.starts_with(bytes)));
        for len in 0..FRAME.len() {
            assert!(altered.iter().any(|bytes| bytes.len() == len), "{len}");
        }
        let both = LinkModel { corruption: 1.0, truncation: 1.0, ..plain() };
        let empty = link().send(Span::ZERO, &[], &both, Heading::Aside, Span::ZERO);
        assert!(empty.map(|delivery| delivery.content).eq([Content::AsSent]), "nothing is left to damage");
    }

    #[test]
    fn longer_datagrams_than_the_mtu_are_lost() {
        let model = LinkModel { mtu: 100, ..plain() };
        for (len, arrivals) in [(99, 1), (100, 1), (101, 0)] {
            let deliveries = link().send(Span::ZERO, &vec![0; len], &model, Heading::Aside, Span::ZERO);
            assert_eq!(deliveries.count(), arrivals, "{len} bytes");
        }
    }

    /// Duplication, damage and another distribution leave the fate of all other datagrams, and loss leaves their delays.
    #[test]
    fn a_setting_changes_what_it_says_and_nothing_else() {
        let base = LinkModel { loss: 0.1, burst_begin: 0.1, ..LinkModel::default() };
        let firsts = |model: &LinkModel| -> Vec<Option<Span>> {
            let mut link = link();
            (0..1_000).map(|_| send(&mut link, model).next().map(|delivery| delivery.arrival)).collect()
        };
        let expected = firsts(&base);
        for same in [
            LinkModel { duplication: 0.5, ..base.clone() },
            LinkModel { corruption: 0.5, ..base.clone() },
            LinkModel { truncation: 0.5, ..base.clone() },
        ] {
            assert_eq!(firsts(&same), expected, "{same:?}");
        }
        let is_lost = |arrivals: Vec<Option<Span>>| arrivals.into_iter().map(|arrival| arrival.is_none());
        for otherwise in [Distribution::None, Distribution::Normal, Distribution::Pareto, Distribution::Empirical] {
            let model = LinkModel { distribution: otherwise, ..base.clone() };
            assert!(is_lost(firsts(&model)).eq(is_lost(expected.clone())), "{otherwise:?}");
        }
        let lossless = firsts(&LinkModel { loss: 0.0, burst_begin: 0.0, ..base });
        for (with, without) in expected.iter().zip(&lossless) {
            assert!(with.is_none() || with == without);
        }
    }

    /// A run over any network is repeated on any machine. If this changes, every recorded outcome does.
    #[test]
    fn the_arrivals_of_a_seed_never_change() {
        let mut link = link();
        let model = LinkModel { loss: 0.2, ..LinkModel::default() };
        let arrivals: Vec<i64> =
            (0..6).flat_map(|_| send(&mut link, &model)).map(|delivery| delivery.arrival.as_nanos()).collect();
        assert_eq!(arrivals, [51_105, 51_202, 61_384]);
    }

    #[test]
    fn a_queue_passes_on_one_after_the_other_and_loses_what_finds_no_room() {
        // A byte a microsecond.
        let model = LinkModel { bandwidth: 8_000_000, queue: 250, ..plain() };
        let mut queue = Queue::default();
        let micros = Span::from_micros;
        assert_eq!(queue.admit(micros(1_000), 100, &model), Some(micros(1_100)));
        assert_eq!(queue.admit(micros(1_010), 100, &model), Some(micros(1_200)));
        assert_eq!(queue.admit(micros(1_010), 100, &model), None, "190 bytes wait");
        assert_eq!(queue.admit(micros(1_010), 60, &model), Some(micros(1_260)));
        assert_eq!(queue.admit(micros(1_011), 2, &model), None, "249 bytes wait");
        assert_eq!(queue.admit(micros(1_260), 1_000, &model), Some(micros(2_260)), "a free line takes any");
        assert_eq!(queue.admit(micros(1_261), 1, &LinkModel { bandwidth: 0, ..model }), Some(micros(1_261)));
    }

    #[test]
    fn a_queue_never_passes_more_than_its_bandwidth() {
        let model = LinkModel { bandwidth: 1_000_000_007, ..plain() };
        let mut queue = Queue::default();
        let mut last = Span::ZERO;
        for _ in 0..3_000 {
            last = queue.admit(Span::ZERO, 80, &model).unwrap();
        }
        let exact = 3_000.0 * 640.0 / 1_000_000_007.0;
        assert!((exact..exact + 3e-6).contains(&last.as_secs_f64()), "{last}");
    }

    #[test]
    fn a_datagram_that_is_not_damaged_allocates_nothing() {
        let (mut link, model) = (link(), LinkModel { duplication: 0.5, ..LinkModel::default() });
        let allocations = allocation_counter::measure(|| {
            for _ in 0..100 {
                let _ = send(&mut link, &model).count();
            }
        });
        assert_eq!(allocations.count_total, 0);
    }

    #[test]
    fn a_link_stays_small() {
        assert!(size_of::<Link>() <= 24, "{}", size_of::<Link>());
        assert!(size_of::<Queue>() <= 8);
    }
}
