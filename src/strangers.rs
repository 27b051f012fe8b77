//! How much of what strangers send a node takes in.
//!
//! Whoever is no member and not the master followed has an allowance, and so have joins, which anybody can send in a member's name. An answer that a
//! joining node was asked for takes none: thousands that join at once use up all of it, and none of them would become a member.
//! It is asked only for what was decoded, is authentic and no repetition, so that garbage and forgeries use up
//! nobody's. What is beyond it is dropped: a frame that is taken in can cost an answer, and that costs ten times as much as a look.
//!
//! An allowance belongs to an IP address, not to a port: one host has 65,536 of these. It lies in one of [`SOURCES`] places, chosen by
//! a hash of the address with the own incarnation as seed, so that memory and work are constant whatever addresses
//! are made up. Who shares a place by chance shares the allowance, in this life of the node and not in the next. All strangers
//! together have one as well: made-up addresses cost no more than two hosts that exist.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::identity::Incarnation;
use crate::time::{LocalTime, Span};
use crate::timers::Allowance;

/// Places for allowances, of eight bytes each. Fewer: two hosts share one more often (here each with one of 256 others).
const SOURCES: usize = 256;
/// Time for each frame of one address: 8,192 a second. Ten thousand slaves of one host that start within three seconds send 6,700, a
/// join and its answer each. Shorter: more of a processor for one hostile host (at some 10 µs for an answer, a twelfth of one core now).
const SOURCE_PAUSE: Span = Span::from_nanos(1_000_000_000 / 8_192);
/// The same for all of them.
const TOTAL_PAUSE: Span = Span::from_nanos(1_000_000_000 / 16_384);
/// Frames in advance: half a second's, so that a host that starts all its nodes at once is heard.
const BURST: i64 = 4_096;

/// The allowances of a node's strangers.
#[derive(Clone, Debug)]
pub struct Strangers {
    seed: Incarnation,
    sources: Box<[Allowance]>,
    total: Allowance,
}

impl Strangers {
    /// Full allowances for everybody. `seed`: the own incarnation.
    pub fn new(seed: Incarnation) -> Self {
        Self { seed, sources: vec![Allowance::default(); SOURCES].into(), total: Allowance::default() }
    }

    /// True when a stranger's frame from this address is to be taken in; it is then taken off what the address may send.
    pub fn admit(&mut self, now: LocalTime, from: IpAddr) -> bool {
        let place = self.place(from);
        let of_source = self.sources.get_mut(place);
        // Who has used up its own takes nothing off that of all.
        of_source.is_some_and(|allowance| allowance.admits(now, SOURCE_PAUSE, BURST))
            && self.total.admits(now, TOTAL_PAUSE, BURST)
    }

    /// Where the allowance of an address lies, in this life.
    fn place(&self, from: IpAddr) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.seed.get(), from).hash(&mut hasher);
        usize::try_from(hasher.finish() % (SOURCES as u64)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn at(span: Span) -> LocalTime {
        LocalTime::from_nanos(5_000_000_000) + span
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0A00_0000 + number).into()
    }

    /// How many of 100,000 frames a second are let in within ten seconds, when the address changes by `step` from one to the next.
    fn let_in(step: u32) -> i64 {
        let mut strangers = Strangers::new(Incarnation::new(7));
        let admitted = (0_u32..1_000_000)
            .filter(|index| strangers.admit(at(Span::from_micros(10).times(i64::from(*index))), address(index * step)));
        i64::try_from(admitted.count()).unwrap()
    }

    #[test]
    fn a_flood_is_let_in_at_its_rate_whatever_addresses_it_makes_up() {
        let one = 10 * 8_192 + BURST;
        assert!((one - 100..=one + 100).contains(&let_in(0)), "{}", let_in(0));
        let all = 10 * 16_384 + BURST;
        assert!((all - 200..=all + 200).contains(&let_in(1)), "{}", let_in(1));
    }

    #[test]
    fn one_address_does_not_use_up_what_another_may_send() {
        let mut strangers = Strangers::new(Incarnation::new(7));
        // One sends 100,000 a second, the other one every millisecond.
        let mut heard = 0;
        for index in 0..100_000 {
            let now = at(Span::from_micros(10).times(index));
            strangers.admit(now, address(0));
            heard += i32::from(index % 100 == 0 && strangers.admit(now, address(1)));
        }
        assert_eq!(heard, 1_000);
    }

    #[test]
    fn who_shares_an_allowance_is_different_in_each_life() {
        let [one, other] = [7, 8].map(|life| {
            let strangers = Strangers::new(Incarnation::new(life));
            (0..100).map(|number| strangers.place(address(number))).collect::<Vec<_>>()
        });
        let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
        assert!(same < 10, "{same} of 100 addresses lie where they lay");
    }
}
