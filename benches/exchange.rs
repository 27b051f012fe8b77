//! What authentication adds to a whole exchange, on sockets as the daemon does it: a request out and in, a response out and in.
//!
//! `cargo bench --bench exchange`. Two pairs of sockets on loopback, one pair with keys and one without, take turns of a few milliseconds each, so that
//! whatever else the machine does falls on both. Each side encodes, seals, sends, learns when that left,
//! receives with the kernel's stamp, and lets in. Printed is the CPU time of an exchange, the median of each, and the median of the ratios of neighbours; and by how much
//! the offset that is measured is off (both ends read one clock, so that the truth is zero), and the delay.
//!
//! Not in it: what the state machines and the event loop do with a frame, which is the same for both and makes the ratio smaller.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark prints, and fails when something does"
)]

use berkeleyd::exchange::Exchange;
use berkeleyd::guard::Guard;
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::local_clock::LocalClock;
use berkeleyd::net::{Addresses, Flushed, Notice, Received, Sockets, Timestamping};
use berkeleyd::protocol::{Frame, Header, MAX_FRAME_LEN, Message, Request, Response};
use berkeleyd::stamp::Stamp;
use berkeleyd::time::{LocalTime, Skew, Span};
use bytes::BytesMut;
use mio::{Poll, Token};
use nix::time::{ClockId, clock_gettime};

/// Turns of each pair, and exchanges in a turn.
const TURNS: usize = 400;
const EXCHANGES: usize = 200;

fn cpu_nanos() -> i64 {
    let spent = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    spent.tv_sec() * 1_000_000_000 + spent.tv_nsec()
}

struct End {
    sockets: Sockets<()>,
    poll: Poll,
    guard: Option<Guard>,
    header: Header,
    buffer: BytesMut,
}

impl End {
    fn new(number: u64, has_keys: bool) -> Self {
        let addresses = Addresses { bind: "127.0.0.1:0".parse().unwrap(), group: None, interface: None };
        let mut sockets = Sockets::open(&addresses, Timestamping::Auto).unwrap();
        let poll = Poll::new().unwrap();
        sockets.register(poll.registry(), Token(0), Token(1)).unwrap();
        let incarnation = Incarnation::new(number);
        let ring = KeyRing::new([(KeyId::new(1), Key::new([7; 16]), Lifetime::default())]).unwrap();
        let header = Header {
            domain: Domain::new(0),
            round: Round::new(1),
            term: Term::new(1),
            sender: NodeId::new(number),
            incarnation,
        };
        Self {
            sockets,
            poll,
            guard: has_keys.then(|| Guard::new(ring, incarnation, 16)),
            header,
            buffer: BytesMut::with_capacity(MAX_FRAME_LEN),
        }
    }

    /// Sends a message to the other end, and tells when it left: `now`, or what the kernel says.
    fn say(&mut self, clock: &LocalClock, to: &Self, message: Message<'_>, now: LocalTime) -> LocalTime {
        self.buffer.clear();
        Frame { header: self.header, message }.encode(&mut self.buffer);
        if let Some(guard) = &mut self.guard {
            guard.seal(&mut self.buffer, Some(to.header.incarnation), now, None);
        }
        // The end of what was heard before.
        assert!(matches!(self.sockets.receive(Token(0), self.poll.registry(), clock).unwrap(), Received::Drained));
        self.sockets.post(to.sockets.local_addr(), &self.buffer, now, Some(()));
        assert!(matches!(self.sockets.flush(self.poll.registry(), clock), Flushed::All));
        loop {
            match self.sockets.notice(clock).unwrap() {
                Notice::Left { at, .. } => return at.at,
                Notice::Drained => return now,
                Notice::Unreachable(_) | Notice::Other => {}
            }
        }
    }

    /// The message that has arrived, and when.
    fn hear(&mut self, clock: &LocalClock) -> (Message<'_>, Stamp) {
        let Received::Datagram { bytes, at, .. } = self.sockets.receive(Token(0), self.poll.registry(), clock).unwrap()
        else {
            unreachable!("loopback hands over at once");
        };
        let frame = match &mut self.guard {
            Some(guard) => guard.admit(bytes, at.at, None).unwrap().0,
            None => Frame::decode(bytes).unwrap(),
        };
        (frame.message, at)
    }
}

/// One exchange, as the master and then the slave see it.
fn exchange(clock: &LocalClock, master: &mut End, slave: &mut End) -> Exchange {
    let t1 = clock.now();
    let left = master.say(clock, slave, Message::Request(Request::bare(t1)), t1);
    let (Message::Request(request), t2) = slave.hear(clock) else { unreachable!() };
    let t3 = clock.now();
    let response = Response {
        t1: request.t1,
        t2: t2.at,
        t3,
        ahead: Span::ZERO,
        slew: Span::ZERO,
        rate: Skew::ZERO,
        error_bound: Span::ZERO,
        adjustment: 0,
        applied_round: Round::default(),
        previous: None,
        is_reference: false,
        is_synchronised: false,
        is_stamped_near_the_wire: true,
    };
    let departed = slave.say(clock, master, Message::Response(response), t3);
    let (Message::Response(response), t4) = master.hear(clock) else { unreachable!() };
    Exchange { t1: left, t2: response.t2, t3: departed, t4: t4.at }
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap()
}

fn micros(span: Span) -> f64 {
    span.as_secs_f64() * 1e6
}

fn main() {
    let clock = LocalClock::new(Skew::ZERO).unwrap();
    let mut pairs = [false, true].map(|has_keys| (End::new(1, has_keys), End::new(2, has_keys)));
    let (mut costs, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    let (mut offsets, mut delays) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for turn in 0..TURNS {
        let mut cost = [0.0; 2];
        // Who begins changes.
        for which in [turn % 2, 1 - turn % 2] {
            let (master, slave) = &mut pairs[which];
            let before = cpu_nanos();
            let mut seen = Vec::with_capacity(EXCHANGES);
            for _ in 0..EXCHANGES {
                seen.push(exchange(&clock, master, slave));
            }
            cost[which] = Span::from_nanos(cpu_nanos() - before).as_secs_f64() * 1e9 / 200.0;
            for sample in seen.into_iter().filter_map(Exchange::sample) {
                offsets[which].push(micros(sample.offset.ahead()));
                delays[which].push(micros(sample.delay));
            }
        }
        ratios.push(cost[1] / cost[0]);
        for (all, cost) in costs.iter_mut().zip(cost) {
            all.push(cost);
        }
    }
    for (((name, cost), offsets), delays) in ["without keys", "with keys"].iter().zip(costs).zip(offsets).zip(delays) {
        println!(
            "{name:13} {:6.0} ns CPU an exchange; offset {:+.3} µs, delay {:.3} µs (medians)",
            median(cost),
            median(offsets),
            median(delays)
        );
    }
    println!("ratio         {:.3} (median of {TURNS} pairs)", median(ratios));
}
