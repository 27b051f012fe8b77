//! Somebody between a master and a slave that have keys holds datagrams back: what the slave says it knows stays true, or it refuses.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "what fails here is a failed test; it tells its figures"
)]

mod support;

use std::cell::Cell;
use std::rc::Rc;

use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::counters::DropReason;
use berkeleyd::identity::NodeId;
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::time::{Skew, Span};
use support::network::{Fault, Network, group};

const MASTER: usize = 0;
/// The slave whose datagrams are held back.
const VICTIM: usize = 1;
const NODES: usize = 4;
/// How long a datagram takes when nobody holds it back.
const WAY: Span = Span::from_micros(50);
const ATTACK: Span = Span::from_secs(60);
/// By then clocks and rates are known.
const SETTLED: Span = Span::from_secs(20);

/// Which datagrams are held back.
#[derive(Clone, Copy, Debug)]
enum Way {
    ToSlave,
    ToMaster,
    Both,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Harm {
    /// Largest difference between the victim's clock and the master's while both call themselves synchronised, ...
    worst: Span,
    /// ... the bound that the victim stated then, ...
    stated: Span,
    /// ... and the worst of the others.
    of_others: Span,
    /// By how much the two were further apart than their bounds say.
    beyond: Span,
    held_back: u64,
}

/// Holds back by `held` of the time since the attack began. `from`: when it begins.
fn attack(from: Span, way: Way, held: impl Fn(Span) -> Span + 'static) -> Harm {
    let mut network = Network::new();
    let ring = KeyRing::new([(KeyId::new(1), Key::new([7; 16]), Lifetime::default())]).unwrap();
    network.keys = Some(ring);
    let now = Rc::new(Cell::new(Span::ZERO));
    let seen = Rc::clone(&now);
    network.fate = Box::new(move |dice, sender, receiver, _| {
        let jitter = Span::from_nanos(i64::try_from(dice.roll(20_000)).unwrap());
        let is_held = match way {
            Way::ToSlave => receiver == VICTIM,
            Way::ToMaster => sender == VICTIM,
            Way::Both => sender == VICTIM || receiver == VICTIM,
        };
        let since = seen.get() - from;
        let held = if is_held && since >= Span::ZERO { held(since) } else { Span::ZERO };
        (sender != receiver).then_some(WAY + jitter + held)
    });
    for number in 1..=u64::try_from(NODES).unwrap() {
        let role = if number == 1 { Role::Master } else { Role::Slave };
        let config = NodeConfig { group: Some(group()), ..NodeConfig::new(NodeId::new(number), role) };
        let sign = i64::try_from(number).unwrap() - 2;
        network
            .start(config, Fault { offset: Span::from_millis(40).times(sign), drift: Skew::from_ppb(20_000 * sign) });
    }
    let mut harm = Harm::default();
    while network.now < from + ATTACK {
        network.run_for(Span::from_millis(1));
        now.set(network.now);
        if network.now.as_nanos() % 5_000_000 != 0 {
            continue;
        }
        let look = |index: usize| {
            let member = &network.members[index];
            let local = member.local(network.now);
            let is_sure = member.node.is_synchronised(local);
            is_sure.then(|| (network.error(index), member.node.clock().error_bound(local)))
        };
        let Some((master, masters_bound)) = look(MASTER) else { continue };
        for index in 1..NODES {
            let Some((error, bound)) = look(index) else { continue };
            let apart = (error - master).abs();
            harm.beyond = harm.beyond.max(apart - bound - masters_bound);
            if index != VICTIM {
                harm.of_others = harm.of_others.max(apart);
            } else if apart > harm.worst {
                (harm.worst, harm.stated) = (apart, bound);
            }
        }
    }
    let dropped =
        |reason| [MASTER, VICTIM].map(|index| network.members[index].node.counters().dropped(reason)).iter().sum();
    Harm { held_back: dropped(DropReason::HeldBack), ..harm }
}

/// Tells the figures, and sees to it that nobody else is harmed.
fn told(from: Span, way: Way, what: &str, harm: Harm) -> Harm {
    let Harm { worst, stated, of_others, beyond, held_back, .. } = harm;
    println!(
        "from {from} {way:?} {what}: {worst} wrong, {stated} stated, beyond {beyond}, others {of_others}, held_back {held_back}"
    );
    assert!(of_others <= Span::from_micros(50), "{way:?} {what}: {of_others}");
    harm
}

#[test]
fn what_is_held_back_widens_the_bound_or_is_refused() {
    for from in [Span::ZERO, SETTLED] {
        for way in [Way::ToSlave, Way::ToMaster, Way::Both] {
            for held in [1, 10, 100].map(Span::from_millis) {
                let harm = told(from, way, &format!("{held} each"), attack(from, way, move |_| held));
                assert_eq!(harm.beyond, Span::ZERO);
            }
            for period in [250, 900].map(Span::from_millis) {
                let held = move |since: Span| period - Span::from_nanos(since.as_nanos() % period.as_nanos());
                let harm = told(from, way, &format!("bursts every {period}"), attack(from, way, held));
                assert_eq!(harm.beyond, Span::ZERO);
            }
            let harm = told(from, way, "two seconds each", attack(from, way, |_| Span::from_secs(2)));
            assert!(harm.beyond == Span::ZERO && (from == Span::ZERO || harm.held_back > 0));
        }
    }
}

/// A way that grows longer and longer looks like a clock that runs at another rate, and nothing in the exchanges tells the two apart. Nor one
/// that grows shorter again.
#[test]
fn a_ramp_widens_the_bound_even_of_who_has_never_known_better() {
    for from in [Span::ZERO, SETTLED] {
        for way in [Way::ToSlave, Way::ToMaster, Way::Both] {
            for speed in [1, 10, 100, 1_000, 10_000].map(Skew::from_ppm) {
                let growing = move |since| speed.over(since);
                let shrinking = move |since| speed.over(ATTACK - since);
                let grown = told(from, way, &format!("a ramp of {speed}"), attack(from, way, growing));
                let shrunk = told(from, way, &format!("a ramp of -{speed}"), attack(from, way, shrinking));
                assert_eq!((grown.beyond, shrunk.beyond), (Span::ZERO, Span::ZERO), "{way:?} {speed} from {from}");
            }
        }
    }
}
