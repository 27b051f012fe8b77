//! A slave behind a long route, on which more frames are under way than anybody waits for elsewhere. In virtual time.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::identity::{Incarnation, NodeId};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::time::{Skew, Span};
use support::network::{Fault, Network, group};

const MASTER: usize = 0;
/// The slave far away. The others are near.
const FAR: usize = 3;

/// A master and its slaves, of whom one is so far away, there and back.
fn ensemble(round_trip: Span, has_keys: bool, interval: Span) -> Network {
    let min_interval = interval.min(Span::from_millis(125));
    let mut network = Network::new();
    network.keys = has_keys.then(|| KeyRing::new([(KeyId::new(1), Key::new([7; 16]), Lifetime::default())]).unwrap());
    network.fate = Box::new(move |dice, from, to, _| {
        let way = Span::from_nanos(50_000 + i64::try_from(dice.roll(20_000)).unwrap());
        Some(if (from == FAR) == (to == FAR) { way } else { way + round_trip.half() })
    });
    for (number, role) in (1..).zip([Role::Master, Role::Slave, Role::Slave, Role::Slave]) {
        let config = NodeConfig {
            group: Some(group()),
            interval,
            min_interval,
            max_interval: interval,
            ..NodeConfig::new(NodeId::new(number), role)
        };
        let drift = Skew::from_ppm(10 * i64::try_from(number).unwrap());
        network.start(config, Fault { offset: Span::from_millis(300), drift });
    }
    network
}

/// The life of the far slave that is a member, and how often that was corrected.
fn admitted(network: &Network) -> (Option<Incarnation>, u32) {
    let node = &network.members[FAR].node;
    let mut members = network.members[MASTER].node.as_master().unwrap().members();
    let member = members.find(|member| member.peer.node == node.config().node_id);
    (member.map(|member| member.peer.incarnation), node.clock().adjustment())
}

fn bound(network: &Network, index: usize) -> Span {
    let member = &network.members[index];
    member.node.clock().error_bound(member.local(network.now))
}

#[test]
fn who_starts_again_far_away_is_admitted_and_corrected_again_and_again() {
    let (quick, usual) = (Span::from_micros(62_500), Span::from_secs(1));
    for (round_trip, interval) in [(369, usual), (369, quick), (600, usual), (600, quick)] {
        for has_keys in [false, true] {
            let name = format!("{round_trip} ms, keys {has_keys}, {interval}");
            let mut network = ensemble(Span::from_millis(round_trip), has_keys, interval);
            network.run_until(Span::from_secs(10));
            network.restart(FAR, Span::from_millis(-200));
            // Join, request, response, correction: two round trips, and what waits for its turn.
            network.run_for(Span::from_secs(3));
            let life = network.members[FAR].node.incarnation();
            let (member, corrected) = admitted(&network);
            assert_eq!(member, Some(life), "{name}");
            assert!(corrected > 0, "{name}");
            network.run_for(Span::from_secs(10));
            let again = admitted(&network).1 - corrected;
            assert!(again >= 2, "{name}: corrected {again} times in 10 s");
            for other in [MASTER, 1, 2] {
                let (apart, stated) =
                    ((network.error(FAR) - network.error(other)).abs(), bound(&network, FAR) + bound(&network, other));
                assert!(apart <= stated, "{name}: {apart} apart, and they say {stated}");
                assert!(stated < Span::from_millis(round_trip), "{name}: {stated}");
            }
        }
    }
}
