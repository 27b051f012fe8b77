//! The sockets of a node, on loopback.

use std::net::{IpAddr, Ipv4Addr};

use mio::{Events, Poll};

use super::*;
use crate::stamp::Stamp;
use crate::time::{LocalTime, Skew, Span};

const MAIN: Token = Token(0);
const GROUP: Token = Token(1);
/// What has not arrived by then on its own machine is lost.
const DEADLINE: Span = Span::from_secs(5);

/// A node that only listens and speaks.
struct Node {
    poll: Poll,
    sockets: Sockets<char>,
    clock: LocalClock,
    /// Reported as readable and not drained since.
    ready: Vec<Token>,
    /// What the last datagram said.
    heard: Vec<u8>,
    /// The stamp of the last datagram heard.
    heard_at: LocalTime,
}

impl Node {
    fn open(bind: &str, group: Option<SocketAddr>, interface: Option<&str>) -> Result<Self, NetError> {
        Ok(Self::on(Sockets::open(&addresses(bind, group, interface), Timestamping::Auto)?))
    }

    fn stamped(bind: &str, timestamping: Timestamping) -> Self {
        Self::on(Sockets::open(&addresses(bind, None, None), timestamping).unwrap())
    }

    fn on(mut sockets: Sockets<char>) -> Self {
        let poll = Poll::new().unwrap();
        sockets.register(poll.registry(), MAIN, GROUP).unwrap();
        let clock = LocalClock::new(Skew::ZERO).unwrap();
        Self { poll, sockets, clock, ready: Vec::new(), heard: Vec::new(), heard_at: LocalTime::default() }
    }

    fn addr(&self) -> SocketAddr {
        self.sockets.local_addr()
    }

    fn say(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.post(to, bytes, None);
        self.flush();
    }

    fn say_and_ask(&mut self, to: SocketAddr, bytes: &[u8], token: char) {
        self.post(to, bytes, Some(token));
        self.flush();
    }

    fn post(&mut self, to: SocketAddr, bytes: &[u8], token: Option<char>) {
        assert!(self.sockets.has_room());
        self.sockets.post(to, bytes, self.clock.now(), token);
    }

    fn try_flush(&mut self) -> Flushed {
        self.sockets.flush(self.poll.registry(), &self.clock)
    }

    fn flush(&mut self) {
        assert!(matches!(self.try_flush(), Flushed::All));
    }

    /// The next departure that somebody asked for.
    fn notice(&mut self) -> Option<(char, Stamp)> {
        loop {
            match self.sockets.notice(&self.clock).unwrap() {
                Notice::Left { token, at } => return Some((token, at)),
                Notice::Unreachable(_) | Notice::Other => {}
                Notice::Drained => return None,
            }
        }
    }

    /// All that has left and was asked for, and how many datagrams reached nobody.
    fn notices(&mut self) -> (Vec<char>, usize) {
        let (mut left, mut unreachable) = (Vec::new(), 0);
        loop {
            match self.sockets.notice(&self.clock).unwrap() {
                Notice::Left { token, .. } => left.push(token),
                Notice::Unreachable(_) => unreachable += 1,
                Notice::Other => {}
                Notice::Drained => return (left, unreachable),
            }
        }
    }

    /// The kernel starts to stamp a little after it was asked to. Sends until it does, and to the loopback interface, which
    /// hands over at once: a stamp is there when the call that sends returns.
    fn warm_up(&mut self, to: SocketAddr) {
        let deadline = self.clock.now() + DEADLINE;
        while self.clock.now() < deadline {
            self.say_and_ask(to, b"warm", 'w');
            if self.notice().is_some() {
                return;
            }
        }
        panic!("no stamp of a departure in {DEADLINE}");
    }

    /// The next that is not [`Received::Drained`], read the way the event loop reads: a datagram, or nothing when one reached nobody.
    fn next(&mut self) -> Option<(SocketAddr, Stamp)> {
        let deadline = self.clock.now() + DEADLINE;
        let mut events = Events::with_capacity(4);
        while self.clock.now() < deadline {
            while let Some(token) = self.ready.last() {
                match self.sockets.receive(*token, self.poll.registry(), &self.clock).unwrap() {
                    Received::Drained => self.ready.pop(),
                    Received::Unreachable(_) => return None,
                    Received::Datagram { bytes, from, at, .. } => {
                        self.heard = bytes.to_vec();
                        return Some((from, at));
                    }
                };
            }
            self.poll.poll(&mut events, Some((deadline - self.clock.now()).to_std())).unwrap();
            self.ready.extend(events.iter().map(|event| event.token()));
        }
        panic!("nothing heard in {DEADLINE}");
    }

    /// The next datagram, who sent it, and when it was heard.
    fn hear(&mut self) -> (&[u8], SocketAddr, LocalTime) {
        let (from, at) = self.next().expect("a datagram and no error");
        self.heard_at = at.at;
        (&self.heard, from, at.at)
    }
}

fn addresses(bind: &str, group: Option<SocketAddr>, interface: Option<&str>) -> Addresses {
    let interface = interface.map(|text| text.parse().unwrap());
    Addresses { bind: bind.parse().unwrap(), group, interface }
}

/// A group with a port that was free a moment ago. Each test has its own IP, so that none hears another's.
fn group(ip: &str) -> SocketAddr {
    let ip: IpAddr = ip.parse().unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    SocketAddr::new(ip, port)
}

fn has_ipv6() -> bool {
    let has = std::net::UdpSocket::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("skipped in part: this machine has no IPv6");
    }
    has
}

fn refusal(bind: &str, group: Option<SocketAddr>, interface: Option<&str>) -> String {
    Sockets::<char>::open(&addresses(bind, group, interface), Timestamping::Auto).unwrap_err().to_string()
}

#[test]
fn a_datagram_arrives_with_its_sender_and_a_stamp() {
    for bind in ["127.0.0.1:0", "[::1]:0"].into_iter().take(if has_ipv6() { 2 } else { 1 }) {
        let (mut sender, mut receiver) = (Node::open(bind, None, None).unwrap(), Node::open(bind, None, None).unwrap());
        assert_ne!(receiver.addr().port(), 0);
        let before = receiver.clock.now();
        sender.say(receiver.addr(), b"one");
        sender.say(receiver.addr(), b"two");
        let (bytes, from, first) = receiver.hear();
        assert_eq!((bytes, from), (&b"one"[..], sender.addr()));
        let (bytes, _, second) = receiver.hear();
        assert_eq!(bytes, b"two");
        assert!(before <= first && first <= second && second <= receiver.clock.now());
    }
}

#[test]
fn a_datagram_that_waited_has_the_stamp_of_its_arrival_on_a_clock_that_drifts() {
    for drift in [Skew::from_ppm(50_000), Skew::from_ppm(-50_000)] {
        let mut sender = Node::open("127.0.0.1:0", None, None).unwrap();
        let mut receiver = Node::open("127.0.0.1:0", None, None).unwrap();
        receiver.clock = LocalClock::new(drift).unwrap();
        sender.say(receiver.addr(), b"warm");
        receiver.hear();
        let before = receiver.clock.now();
        sender.say(receiver.addr(), b"waits");
        let after = receiver.clock.now();
        while receiver.clock.now() - after < Span::from_millis(20) {}
        let (_, _, at) = receiver.hear();
        assert!(before <= at && at <= after, "{at:?} is not between {before:?} and {after:?}");
    }
}

#[test]
fn all_nodes_of_a_machine_hear_the_group_and_its_sender_too() {
    let group = group("239.255.7.1");
    // The interface follows from the bound address in the first, and is named in the others.
    let mut nodes: Vec<Node> = [("127.0.0.1:0", None), ("0.0.0.0:0", Some("127.0.0.1")), ("127.0.0.1:0", Some("lo"))]
        .map(|(bind, interface)| Node::open(bind, Some(group), interface).unwrap())
        .into();
    assert!(nodes.iter().all(|node| node.sockets.group.is_some()));
    for sender in 0..nodes.len() {
        nodes[sender].say(group, &[b'0', sender.try_into().unwrap()]);
        let port = nodes[sender].addr().port();
        for node in &mut nodes {
            let (bytes, from, _) = node.hear();
            assert_eq!((bytes[1].into(), from.port()), (sender, port));
        }
    }
}

#[test]
fn multicast_goes_one_hop_and_comes_back() {
    // The loopback interface brings everything back, so that hearing the group there proves nothing.
    let node = Node::open("127.0.0.1:0", Some(group("239.255.7.6")), None).unwrap();
    let socket = SockRef::from(&node.sockets.main.socket);
    assert_eq!((socket.multicast_loop_v4().unwrap(), socket.multicast_ttl_v4().unwrap()), (true, 1));
    if !has_ipv6() {
        return;
    }
    let node = Node::open("[::]:0", Some(group("ff15::7:6")), Some("::1")).unwrap();
    let socket = SockRef::from(&node.sockets.main.socket);
    assert_eq!((socket.multicast_loop_v6().unwrap(), socket.multicast_hops_v6().unwrap()), (true, 1));
    assert!(socket.only_v6().unwrap());
}

#[test]
fn all_nodes_of_a_machine_hear_the_ipv6_group() {
    if !has_ipv6() {
        return;
    }
    let group = group("ff15::7:1");
    let mut nodes = ["[::1]:0", "[::1]:0"].map(|bind| Node::open(bind, Some(group), None).unwrap());
    nodes[0].post(group, b"hello", None);
    if let Flushed::Failed { error, .. } = nodes[0].try_flush() {
        eprintln!("skipped: this machine has no IPv6 multicast route on loopback: {error}");
        return;
    }
    let port = nodes[0].addr().port();
    for node in &mut nodes {
        let (bytes, from, _) = node.hear();
        assert_eq!((bytes, from.port()), (&b"hello"[..], port));
    }
}

#[test]
fn one_socket_is_enough_on_all_addresses_and_the_port_of_the_group() {
    let group = group("239.255.7.2");
    let mut node = Node::open(&format!("0.0.0.0:{}", group.port()), Some(group), Some("127.0.0.1")).unwrap();
    assert!(node.sockets.group.is_none());
    let other_group = SocketAddr::new(group.ip(), self::group("239.255.7.2").port());
    let mut sender = Node::open("127.0.0.1:0", Some(other_group), None).unwrap();
    sender.say(group, b"to all");
    assert_eq!(node.hear().0, b"to all");
    sender.say(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), group.port()), b"to you");
    assert_eq!(node.hear().0, b"to you");

    let error = refusal("127.0.0.1:0", Some(group), None);
    assert!(error.contains("does not share it") && error.contains(&group.to_string()), "{error}");
}

#[test]
fn a_group_joined_by_another_program_is_not_heard() {
    let (ours, theirs) = (group("239.255.7.3"), "239.255.7.4");
    let bystander = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    bystander.join_multicast_v4(&theirs.parse().unwrap(), &Ipv4Addr::LOCALHOST).unwrap();
    let mut node = Node::open(&format!("0.0.0.0:{}", ours.port()), Some(ours), Some("127.0.0.1")).unwrap();
    let to_us = node.addr();
    node.say(SocketAddr::new(theirs.parse().unwrap(), to_us.port()), b"theirs");
    node.say(ours, b"ours");
    assert_eq!(node.hear().0, b"ours");
}

#[test]
fn what_cannot_be_opened_is_refused_in_one_line_that_says_what_to_do() {
    let taken = Node::open("127.0.0.1:0", None, None).unwrap();
    let v4 = Some(group("239.255.7.5"));
    let v6 = Some(group("ff15::7:5"));
    let in_use = taken.addr().to_string();
    for (bind, group, interface, expected) in [
        (&in_use[..], None, None, &*format!("{in_use} is in use by another program")),
        ("198.51.100.7:0", None, None, "does not have that address"),
        ("127.0.0.1:0", v4, Some("nosuch0"), "no network interface nosuch0"),
        ("127.0.0.1:0", None, Some("nosuch0"), "no network interface nosuch0"),
        ("0.0.0.0:0", v4, Some("198.51.100.7"), "no network interface 198.51.100.7"),
        ("[::1]:0", v6, Some("nosuch0"), "no network interface nosuch0"),
        ("[::1]:0", v6, Some("2001:db8::7"), "no network interface 2001:db8::7"),
        ("127.0.0.1:0", v6, None, "127.0.0.1 and ff15::7:5 do not go together"),
        ("127.0.0.1:0", v4, Some("::1"), "127.0.0.1 and ::1 do not go together"),
        ("[::1]:0", v6, Some("127.0.0.1"), "::1 and 127.0.0.1 do not go together"),
        ("127.0.0.1:0", "192.0.2.1:5525".parse().ok(), None, "192.0.2.1:5525 is not a multicast address"),
        ("127.0.0.1:0", "239.255.7.5:0".parse().ok(), None, "not a multicast address with a port"),
    ] {
        let error = refusal(bind, group, interface);
        assert!(error.contains(expected) && !error.contains('\n'), "{error:?} does not say {expected:?}");
    }
}

#[test]
fn a_closed_port_neither_ends_nor_loses_anything() {
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
    let closed = group("127.0.0.1");
    node.warm_up(peer.addr());

    node.say(closed, b"lost");
    peer.say(node.addr(), b"after the error");
    assert!(node.next().is_none());
    assert_eq!(node.hear().0, b"after the error");

    // The error of the first is reported in the place of the second, which must go out all the same, and be told
    // from the first when its stamp comes.
    node.say(closed, b"lost");
    node.say_and_ask(peer.addr(), b"answer", 'a');
    assert_eq!(node.notices(), (vec!['a'], 2), "each of the two ICMP errors is counted once");
    while peer.hear().0 != b"answer" {}
}

#[test]
fn a_departure_is_stamped_by_the_kernel_between_before_and_after() {
    for bind in ["127.0.0.1:0", "[::1]:0"].into_iter().take(if has_ipv6() { 2 } else { 1 }) {
        let (mut node, mut peer) = (Node::open(bind, None, None).unwrap(), Node::open(bind, None, None).unwrap());
        node.warm_up(peer.addr());
        peer.hear();
        let before = node.clock.now();
        node.say_and_ask(peer.addr(), b"asked", 'a');
        node.say_and_ask(peer.addr(), b"asked", 'b');
        let after = node.clock.now();
        let mut left = Vec::new();
        while let Some((token, at)) = node.notice() {
            assert_eq!((at.source, at.at >= before, at.at <= after), (StampSource::Kernel, true, true));
            left.push((token, at.at));
        }
        assert!(left.is_sorted() && left.len() == 2, "{left:?}");
        assert!(!node.sockets.awaits_notice());
        // On one machine the kernel hands over and takes in on one clock.
        while peer.hear().0 != b"asked" {}
        assert!(peer.heard_at >= left[0].1 - Span::from_micros(1), "{:?} after {left:?}", peer.heard_at);
    }
}

#[test]
fn a_datagram_to_the_group_leaves_once_though_it_comes_back() {
    let group = group("239.255.7.8");
    let mut node = Node::open(&format!("0.0.0.0:{}", group.port()), Some(group), Some("127.0.0.1")).unwrap();
    let to_itself = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), group.port());
    node.warm_up(to_itself);
    for token in ['a', 'b', 'c'] {
        node.say_and_ask(group, b"to all", token);
        node.say_and_ask(to_itself, b"to itself", token.to_ascii_uppercase());
    }
    assert_eq!(node.notices().0, ['a', 'A', 'b', 'B', 'c', 'C']);
}

#[test]
fn nobody_stamps_who_is_not_asked_to() {
    let mut node = Node::stamped("127.0.0.1:0", Timestamping::User);
    let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
    for _ in 0..4 {
        node.say_and_ask(peer.addr(), b"unstamped", 'a');
        assert!(!node.sockets.awaits_notice());
        peer.hear();
    }
    assert_eq!(node.notice(), None);
    // The moment of writing has to do as the stamp: nothing waits for others.
    node.post(peer.addr(), b"alone", None);
    assert!(!node.sockets.has_room());
    let to_node = node.addr();
    peer.say(to_node, b"hello");
    node.hear();
    assert_eq!(node.sockets.stamps(), StampSource::User);
}

/// The kernel keeps no more stamps than the receive buffer has room for, and goes on counting.
#[test]
fn a_flood_of_stamps_is_read_to_its_end_and_the_next_are_right_again() {
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    let peer = Node::open("127.0.0.1:0", None, None).unwrap();
    // Room for as many stamps as with the kernel's own default, and so for fewer than are flooded.
    SockRef::from(&node.sockets.main.socket).set_recv_buffer_size(212_992).unwrap();
    node.warm_up(peer.addr());
    for _ in 0..10_000 {
        node.say_and_ask(peer.addr(), b"flood", 'f');
    }
    let (left, _) = node.notices();
    // The queue was full before the last were sent; those that it kept are of datagrams forgotten since.
    assert_eq!(left, []);
    assert_eq!(node.sockets.stamps(), StampSource::User);
    node.say_and_ask(peer.addr(), b"asked", 'a');
    assert_eq!(node.notices().0, ['a']);
}

#[test]
fn a_datagram_that_is_too_long_is_cut() {
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
    for (len, heard) in [(16, 16), (ROOM, ROOM), (ROOM + 1, ROOM), (9_000, ROOM), (0, 0)] {
        peer.say(node.addr(), &vec![7; len]);
        assert_eq!(node.hear().0, &vec![7; heard][..]);
    }
}

#[test]
fn many_datagrams_arrive_in_order_each_with_its_own_stamp() {
    let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    let is_stamped = |node: &mut Node| node.next().is_some_and(|(_, at)| at.source == StampSource::Kernel);
    // The kernel starts to stamp a little after it was asked to.
    loop {
        peer.say(node.addr(), b"warm");
        if is_stamped(&mut node) {
            break;
        }
    }
    let mut sent = Vec::new();
    // More than a batch, a full one, and one less.
    for count in [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH] {
        for number in 0..count {
            peer.say(node.addr(), &[number.try_into().unwrap()]);
            sent.push(peer.clock.now());
        }
        for (number, sent) in sent.drain(..).enumerate() {
            let (bytes, from, at) = node.hear();
            assert_eq!((usize::from(bytes[0]), from), (number, peer.addr()));
            assert!(at < sent, "it arrived as it was sent, and not when it was taken");
        }
    }
}

#[test]
fn readiness_is_not_asked_for_while_batches_are_full_and_is_asked_for_again_afterwards() {
    let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    for count in [BATCH, BATCH + 1, 3 * BATCH] {
        for _ in 0..count {
            peer.say(node.addr(), b"one of many");
        }
        let watched = (0..count).filter(|_| {
            node.hear();
            node.sockets.main.is_watched
        });
        assert!(watched.count() < count, "{count}");
        let Node { sockets, poll, clock, .. } = &mut node;
        assert!(matches!(sockets.receive(MAIN, poll.registry(), clock), Ok(Received::Drained)));
        assert!(sockets.main.is_watched);
        node.ready.clear();
        peer.say(node.addr(), b"alone");
        assert_eq!(node.hear().0, b"alone", "it was reported");
    }
}

#[test]
fn a_batch_leaves_in_order_and_each_departure_is_told_once() {
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    let mut peers = [(); 2].map(|()| Node::open("127.0.0.1:0", None, None).unwrap());
    node.warm_up(peers[0].addr());
    node.warm_up(peers[1].addr());
    for count in [1, 2, BATCH] {
        for number in 0..count {
            let token = char::from(u8::try_from(number).unwrap());
            // Nobody asks about every third.
            node.post(peers[number % 2].addr(), &[b'0', token as u8], (number % 3 != 2).then_some(token));
        }
        assert_eq!(node.sockets.has_room(), count < BATCH);
        node.flush();
        let asked = (0..count).filter(|number| number % 3 != 2).map(|number| char::from(u8::try_from(number).unwrap()));
        assert_eq!(node.notices(), (asked.collect(), 0));
        for number in 0..count {
            while peers[number % 2].hear().0 == b"warm" {}
            assert_eq!(usize::from(peers[number % 2].heard[1]), number);
        }
    }
}

/// Neither is what follows lost, nor is what left before told of the wrong one.
#[test]
fn one_that_cannot_be_sent_spoils_no_other_of_its_batch() {
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
    node.warm_up(peer.addr());
    // Not allowed: the broadcast address of the loopback network.
    let forbidden = "127.255.255.255:5525".parse().unwrap();
    for places in [&[0][..], &[3], &[5], &[0, 1, 2], &[1, 2, 4], &[0, 1, 2, 3, 4, 5]] {
        for (place, token) in "abcdef".chars().enumerate() {
            let to = if places.contains(&place) { forbidden } else { peer.addr() };
            node.post(to, &[token as u8], Some(token));
        }
        for _ in places {
            let Flushed::Failed { to, error } = node.try_flush() else { panic!("not told of all of {places:?}") };
            assert_eq!((to, error.kind()), (forbidden, io::ErrorKind::PermissionDenied));
        }
        node.flush();
        let expected: Vec<char> =
            "abcdef".chars().enumerate().filter(|(place, _)| !places.contains(place)).map(|(_, token)| token).collect();
        assert_eq!(node.notices(), (expected.clone(), 0), "{places:?}");
        for token in expected {
            while peer.hear().0 == b"warm" {}
            assert_eq!(peer.heard, [token as u8]);
        }
    }
}

#[test]
fn a_failure_loses_no_stamp_that_is_there_already() {
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    let peer = Node::open("127.0.0.1:0", None, None).unwrap();
    node.warm_up(peer.addr());
    for _ in 0..3 * BATCH {
        node.say_and_ask(peer.addr(), b"asked", 'a');
    }
    node.post("127.255.255.255:5525".parse().unwrap(), b"forbidden", None);
    assert!(matches!(node.try_flush(), Flushed::Failed { .. }));
    node.say_and_ask(peer.addr(), b"asked", 'b');
    let expected = std::iter::repeat_n('a', 3 * BATCH).chain(['b']);
    assert_eq!(node.notices(), (expected.collect(), 0));
}

/// The error of the first is reported in the place of a later one, wherever that stands in its batch.
#[test]
fn an_error_about_an_earlier_datagram_loses_none_of_the_batch() {
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
    node.warm_up(peer.addr());
    let closed = group("127.0.0.1");
    for place in 0..4 {
        for (number, token) in "abcd".chars().enumerate() {
            node.post(if number == place { closed } else { peer.addr() }, &[token as u8], Some(token));
        }
        node.flush();
        let (left, unreachable) = node.notices();
        assert_eq!((left, unreachable), ("abcd".chars().collect(), 1), "{place}");
        for token in "abcd".chars().enumerate().filter(|(number, _)| *number != place).map(|(_, token)| token) {
            while peer.hear().0 == b"warm" {}
            assert_eq!(peer.heard, [token as u8], "{place}");
        }
    }
}

/// A message without a stamp takes none from those that come later in its place.
#[test]
fn stamps_come_back_after_an_error_without_one() {
    let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
    let peer = Node::open("127.0.0.1:0", None, None).unwrap();
    node.warm_up(peer.addr());
    let closed = group("127.0.0.1");
    for _ in 0..2 * BATCH {
        node.say(closed, b"lost");
        let _ = node.notices();
        node.say_and_ask(peer.addr(), b"asked", 'a');
        assert_eq!(node.notices().0, ['a']);
    }
}

#[test]
fn what_the_socket_had_no_room_for_is_counted() {
    let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
    for timestamping in [Timestamping::Auto, Timestamping::User] {
        let mut node = Node::stamped("127.0.0.1:0", timestamping);
        SockRef::from(&node.sockets.main.socket).set_recv_buffer_size(0).unwrap();
        let mut heard = 0;
        for round in 1..4 {
            for _ in 0..200 {
                peer.say(node.addr(), b"too many");
            }
            // All that there was room for; the next brings the news of those for which there was none.
            let mut drained = 0;
            while drained < 2 {
                match node.sockets.receive(MAIN, node.poll.registry(), &node.clock).unwrap() {
                    Received::Datagram { .. } => heard += 1,
                    // The first time it may be that of before.
                    Received::Drained => drained += 1,
                    Received::Unreachable(error) => panic!("{error}"),
                }
            }
            // The first that brings the news may find no room for it, and the next batch does.
            for _ in 0..2 {
                peer.say(node.addr(), b"news");
                node.hear();
            }
            assert_eq!(node.sockets.drops(), 200 * round - heard, "{timestamping:?}");
            assert!(node.sockets.drops() > 100);
        }
    }
}
