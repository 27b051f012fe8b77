//! The core in somebody else's loop: no mio, no status socket, no signals; three nodes as three threads with the standard
//! library's blocking sockets.
//!
//! A program that has a loop of its own (a robot's control loop, a game server, a test bench) keeps time with its
//! neighbours by doing what [`drive`] does: hand in datagrams and deadlines, send what comes out. Nothing of the node
//! reads a clock or opens a socket, so the loop may be of any kind.
//!
//! ```sh
//! cargo run --release --example embedding
//! ```

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::thread;

use berkeleyd::config::{NodeConfig, Role};
use berkeleyd::identity::{Incarnation, NodeId};
use berkeleyd::local_clock::LocalClock;
use berkeleyd::node::Node;
use berkeleyd::protocol::MAX_FRAME_LEN;
use berkeleyd::stamp::Stamp;
use berkeleyd::time::{LocalTime, Skew, Span};
use bytes::BytesMut;

/// How long the nodes run.
const RUN: Span = Span::from_secs(3);

/// Runs a node until its local clock shows `end`. All that a driver has to do is here.
fn drive(mut node: Node, socket: &UdpSocket, clock: &LocalClock, end: LocalTime) -> std::io::Result<Node> {
    let mut buffer = BytesMut::with_capacity(MAX_FRAME_LEN);
    let mut datagram = [0; MAX_FRAME_LEN + 1];
    loop {
        // 1. Deadlines. A call that is early or late does no harm.
        let now = clock.now();
        if now >= end {
            node.handle_shutdown();
        }
        if node.poll_timeout().is_some_and(|deadline| deadline <= now) {
            node.handle_timeout(now);
        }
        // 2. Send what there is to send. The clock is read for each, because this becomes t1 or t3.
        while let Some(transmit) = node.poll_transmit(clock.now(), &mut buffer) {
            // A datagram that cannot be sent is a lost datagram; the node asks again.
            let _ = socket.send_to(&buffer, transmit.to);
        }
        // 3. Hear what happened.
        while node.poll_event().is_some() {}
        if now >= end {
            return Ok(node);
        }
        // 4. Wait for a datagram or the next deadline, whichever comes first.
        let deadline = node.poll_timeout().unwrap_or(end).min(end);
        let wait = (deadline - clock.now()).max(Span::from_micros(100));
        socket.set_read_timeout(Some(wait.to_std()))?;
        if let Ok((len, from)) = socket.recv_from(&mut datagram) {
            let now = clock.now();
            node.handle_datagram(now, from, Stamp::user(now), datagram.get(..len).unwrap_or_default());
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Offsets and drifts that are wrong on purpose; the first is the master.
    let faults = [(0, 20), (1_500, -35), (-800, 60)];
    let sockets = faults.iter().map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let addresses = sockets.iter().map(UdpSocket::local_addr).collect::<Result<Vec<SocketAddr>, _>>()?;
    let (master, slaves) = addresses.split_first().ok_or("no node")?;

    let mut threads = Vec::new();
    for (number, ((offset, drift), socket)) in (1..).zip(faults.into_iter().zip(sockets)) {
        let (role, peers) = if number == 1 { (Role::Master, slaves.to_vec()) } else { (Role::Slave, vec![*master]) };
        let config = NodeConfig { peers, ..NodeConfig::new(NodeId::new(number), role) }.validated()?;
        let clock = LocalClock::new(Skew::from_ppm(drift))?;
        let incarnation = Incarnation::drawn(getrandom::u64()?);
        threads.push(thread::spawn(move || {
            let start = clock.pair();
            let time = start.system + Span::from_millis(offset);
            let node = Node::new(config, incarnation, start.local, time, Skew::ZERO);
            drive(node, &socket, &clock, start.local + RUN).map(|node| (node, clock))
        }));
    }
    let mut nodes = Vec::new();
    for thread in threads {
        nodes.push(thread.join().map_err(|_| "a node's thread ended early")??);
    }
    // All three keep their time on the same machine, so its own clock is a fair judge.
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for (node, clock) in &nodes {
        let pair = clock.pair();
        let ahead = node.clock().read(pair.local) - pair.system;
        let bound = node.clock().error_bound(pair.local);
        writeln!(
            out,
            "node {}: {ahead} ahead of the machine, after {} corrections, within {bound}",
            node.config().node_id,
            node.clock().adjustment(),
        )?;
    }
    Ok(())
}
