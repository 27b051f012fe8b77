//! Sends one node of an ensemble hostile datagrams, for `bench/flood.py`: garbage, valid frames without a trailer, forgeries, and replays
//! of what it has heard on the group.
//!
//! `cargo run --release --example flood -- TARGET GROUP DOMAIN KIND RATE SECONDS`, all on loopback; KIND is garbage, plain, forged, replay or mixed. Prints how many datagrams it sent.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "an example that paces itself, prints, and ends when something is not what it should be"
)]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::protocol::{Announce, Frame, Header, Heartbeat, Join, Merit, Message, Request, Successors};
use berkeleyd::time::{LocalTime, Skew, Span};
use bytes::BytesMut;
use socket2::{Protocol, SockAddr, Socket, Type};

/// Addresses on loopback that it sends from.
const SOURCES: u8 = 16;
/// It listens to the group for so long first.
const LISTENING: Duration = Duration::from_secs(3);
/// It ends by itself after so many seconds.
const LONGEST: u32 = 120;
/// Datagrams between two looks at the time.
const BATCH: u32 = 50;

/// What is said on the group for a while.
fn recorded(group: SocketAddrV4) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let socket = Socket::new(socket2::Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(group))?;
    socket.join_multicast_v4(group.ip(), &Ipv4Addr::LOCALHOST)?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (start, mut frames, mut buffer) = (Instant::now(), Vec::new(), [0; 2_048]);
    while start.elapsed() < LISTENING {
        if let Ok(length) = socket.recv(&mut buffer) {
            frames.push(buffer.get(..length).unwrap_or_default().to_vec());
        }
    }
    Ok(frames)
}

/// A frame of each kind that a stranger may want to be heard with.
fn plain(domain: u32) -> Vec<Vec<u8>> {
    let join = Join {
        priority: 9,
        is_reference: true,
        hears_group: true,
        master: None,
        merit: Some(Merit::Appointed),
        corrected_in: None,
        rate_error: Skew::ZERO,
    };
    let announce = Announce {
        interval: Span::from_secs(1),
        priority: 9,
        merit: Merit::Appointed,
        heartbeat: Heartbeat::SHORTEST,
        members: 9,
        successors: Successors::NONE,
    };
    let messages =
        [Message::Join(join), Message::Announce(announce), Message::Request(Request::bare(LocalTime::default()))];
    let frames = messages.iter().flat_map(|message| {
        (1..=20).map(|number| {
            let header = Header {
                domain: Domain::new(domain),
                round: Round::new(1),
                term: Term::new(1_000 + number),
                sender: NodeId::new(10_000 + number),
                incarnation: Incarnation::new(number),
            };
            let mut bytes = BytesMut::new();
            Frame { header, message: *message }.encode(&mut bytes);
            bytes.to_vec()
        })
    });
    frames.collect()
}

/// The same with a trailer whose code is wrong.
fn forged(domain: u32) -> Vec<Vec<u8>> {
    let sealed = plain(domain).into_iter().map(|frame| {
        let mut bytes = BytesMut::from(frame.as_slice());
        berkeleyd::protocol::begin_trailer(&mut bytes, 1, None, 1);
        bytes.extend_from_slice(&[7; berkeleyd::protocol::MAC_LEN]);
        bytes.to_vec()
    });
    sealed.collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, group, domain, kind, rate, seconds] = arguments.as_slice() else {
        return Err("TARGET GROUP DOMAIN KIND RATE SECONDS".into());
    };
    let (target, group): (SocketAddr, SocketAddrV4) = (target.parse()?, group.parse()?);
    let (domain, rate, seconds): (u32, u32, u32) = (domain.parse()?, rate.parse()?, seconds.parse()?);
    if !target.ip().is_loopback() || seconds > LONGEST {
        return Err(format!("only nodes of this machine are flooded, for {LONGEST} s at most").into());
    }
    let garbage = vec![Vec::new(), vec![0x42; 39], vec![0xff; 120], vec![0; 1_452]];
    let frames = match kind.as_str() {
        "garbage" => garbage,
        "plain" => plain(domain),
        "forged" => forged(domain),
        "replay" => recorded(group)?,
        "mixed" => [garbage, plain(domain), forged(domain), recorded(group)?].concat(),
        _ => return Err("KIND is garbage, plain, forged, replay or mixed".into()),
    };
    let sockets: Vec<UdpSocket> =
        (1..=SOURCES).map(|host| UdpSocket::bind((Ipv4Addr::new(127, 66, 0, host), 0))).collect::<Result<_, _>>()?;
    let (start, pause, most, mut sent) =
        (Instant::now(), Duration::from_secs(1) / rate, rate.saturating_mul(seconds), 0);
    let mut next = frames.iter().cycle().zip(sockets.iter().cycle());
    while sent < most && start.elapsed() < Duration::from_secs(seconds.into()) {
        for _ in 0..BATCH {
            let (frame, socket) = next.next().expect("there is something to send");
            // A full queue is the flood's own affair.
            sent += u32::from(socket.send_to(frame, target).is_ok());
        }
        let due = pause * sent;
        if let Some(early) = due.checked_sub(start.elapsed()) {
            std::thread::sleep(early);
        }
    }
    println!("{sent}");
    Ok(())
}
