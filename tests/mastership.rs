//! Who is master among real processes on 127.0.0.1: elected, killed, stopped, continued.

mod support;

use nix::sys::signal::Signal;
use support::lab::{Daemon, Lab, agreed_master};

#[test]
fn nodes_without_configuration_elect_a_master_and_the_next_ones() {
    let lab = Lab::new();
    let mut nodes: Vec<Daemon> = (1..=5)
        .map(|number| lab.join(&format!("node{number}"), &format!("--node-id {number} --inject-offset {number}0ms")))
        .collect();
    let first = lab.until("one is master", || agreed_master(&nodes.iter().collect::<Vec<_>>()));
    lab.agree(&nodes.iter().collect::<Vec<_>>());
    let place = |nodes: &[Daemon], number: u64| {
        nodes.iter().position(|node| node.name == format!("node{number}")).expect("one of them")
    };
    lab.until("it knows who takes over", || {
        let peers = nodes[place(&nodes, first)].status().peers;
        (peers.len() == 4 && peers.iter().all(|peer| peer.counted)).then_some(())
    });

    // Without a word.
    let dead = nodes.remove(place(&nodes, first));
    let before: Vec<u32> = nodes.iter().map(|node| node.status().adjustment).collect();
    dead.signal(Signal::SIGKILL);
    let second = lab.until("another one takes over", || {
        agreed_master(&nodes.iter().collect::<Vec<_>>()).filter(|master| *master != first)
    });
    lab.until("and corrects all", || {
        nodes.iter().zip(&before).all(|(node, before)| node.status().adjustment > *before).then_some(())
    });
    let statuses = lab.agree(&nodes.iter().collect::<Vec<_>>());
    assert!(statuses.iter().all(|status| status.term >= 2), "{statuses:?}");
    let steps = |node: &Daemon| node.log().matches("stepped by=").count();
    assert!(nodes.iter().all(|node| steps(node) == 1), "a fail-over is no step");

    // With a word.
    let mut stops = nodes.remove(place(&nodes, second));
    stops.signal(Signal::SIGTERM);
    assert_eq!(stops.end(&lab).0, Some(0));
    lab.until("the third takes over", || {
        agreed_master(&nodes.iter().collect::<Vec<_>>()).filter(|master| ![first, second].contains(master))
    });
    let was_told = nodes.iter().any(|node| node.status().counters.received["leave"] > 0);
    assert!(was_told, "and did not wait for a silence");
}

#[test]
fn a_master_that_was_stopped_comes_back_as_a_slave() {
    let lab = Lab::new();
    let nodes: Vec<Daemon> =
        (1..=3).map(|number| lab.join(&format!("node{number}"), &format!("--node-id {number}"))).collect();
    let all: Vec<&Daemon> = nodes.iter().collect();
    let first = lab.until("one is master", || agreed_master(&all));
    lab.agree(&all);
    let (stopped, others): (Vec<&Daemon>, Vec<&Daemon>) =
        all.iter().partition(|node| node.name == format!("node{first}"));
    stopped[0].signal(Signal::SIGSTOP);
    lab.until("another one takes over", || agreed_master(&others).filter(|master| *master != first));
    stopped[0].signal(Signal::SIGCONT);
    let second = lab.until("all follow one", || agreed_master(&all));
    assert_ne!(second, first);
    assert!(stopped[0].log().contains("stepping down"), "{}", stopped[0].log());
    lab.agree(&all);
}
