//! How many exchanges a second one core can answer, beside servers that only send back what they got.
//!
//! `cargo bench --bench capacity`. A slave, a real process on a real socket, is asked by one load generator; so are echo servers of the same style: one call a
//! datagram, batches of the same size (recvmmsg, sendmmsg), batches with receive stamps, batches with both stamps; and chronyd, where it is installed
//! and may be started, which is asked in NTP and never touches the clock (-x). All servers share one core and take turns of some 100 ms; the generator has another.
//!
//! Printed are medians: exchanges a second; exchanges for a second of the server's own CPU, which other programs of the machine do not take from it; both
//! relative to the echo server with both stamps, turn by turn; and how long one takes that comes alone, from the call that asks to the one that brings the answer.
//! In the column before the last answers are heard 25 µs after each other, as a master hears those of a large group: what each takes of the server's CPU then. In the
//! last it is 20 ms, so that each finds the server asleep and its caches used by others, as in a small group.
//! Beside the former stands a master of [`SLAVES`] real slaves (the fleet's): what it takes for a slave and round, in which it asks all at once, hears the answer
//! and its stamp, and sends the correction, and is told its stamp. Like an echo it receives one datagram and sends one, each with its stamp. An echo's are in the
//! caches when it sends them, and it knows nothing of who sends.
//!
//! `NODES=PATH:PATH` has other binaries of the node take turns with this one, to compare with.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark prints, and fails when something does"
)]

#[path = "../examples/fleet/crew.rs"]
mod crew;
#[path = "../examples/fleet/look.rs"]
#[expect(dead_code, reason = "the fleet judges what it sees")]
mod look;
#[path = "../tests/support/messages.rs"]
#[expect(dead_code, unreachable_pub, reason = "it is shared, and here a part of it is used")]
mod messages;

use std::array;
use std::env;
use std::fs;
use std::hint::black_box;
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use berkeleyd::commands::status::fetch;
use berkeleyd::identity::Domain;
use berkeleyd::local_clock::LocalClock;
use berkeleyd::protocol::{Frame, MAX_FRAME_LEN, Message, Request};
use berkeleyd::status::Status;
use berkeleyd::time::{Skew, Span};
use bytes::BytesMut;
use nix::cmsg_space;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, TimestampingFlag, recvmmsg, sendmmsg,
    setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use socket2::SockRef;

use crew::{Crew, Orders, Signals};

/// Turns of each server, and how long one is.
const TURNS: usize = 30;
const TURN: Span = Span::from_millis(100);
/// Requests that wait for an answer at most: what a server takes in some batches.
const WINDOW: usize = 192;
/// As the node's own.
const BATCH: usize = 32;
const ROOM: usize = 1_500;
const BUFFER: usize = 4 << 20;
/// An answer that takes longer never comes.
const PATIENCE: Duration = Duration::from_millis(20);
/// Exchanges of a turn that come alone.
const ALONE: usize = 100;
/// Looks for the first answer of a server.
const STARTS: usize = 250;
/// Exchanges of a turn that come one after the other, and how long after: as a large group answers its master.
const PACED: usize = 500;
const PACE: Span = Span::from_micros(25);
/// Exchanges that come [`PATIENCE`] after each other, and in which turns: as a small group does not let its master sleep.
const SELDOM: usize = 50;
const SELDOM_TURNS: usize = 10;
/// Of the master. More would need more open files than a process may have by default.
const SLAVES: usize = 800;
/// Rounds of the master, a second each, before it is measured, and while it is.
const SETTLING: Duration = Duration::from_secs(4);
const ROUNDS: u32 = 10;
/// Where the servers are, the generator, and the slaves.
const SERVERS: usize = 0;
const GENERATOR: usize = 1;
const CREWS: [usize; 2] = [2, 3];

/// What an echo server does beside echoing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Echo {
    Plain,
    Batched,
    Arrivals,
    Both,
}

impl Echo {
    const ALL: [(&str, Self); 4] = [
        ("echo, one by one", Self::Plain),
        ("echo, batched", Self::Batched),
        ("echo, batched, receive stamps", Self::Arrivals),
        ("echo, batched, both stamps", Self::Both),
    ];
}

type Buffers = Vec<[u8; ROOM]>;

fn buffers() -> Buffers {
    vec![[0; ROOM]; BATCH]
}

/// One direction of batched I/O: headers, with room for stamps or not.
struct Batch {
    headers: MultiHeaders<SockaddrStorage>,
    with_stamps: bool,
}

impl Batch {
    fn new(with_stamps: bool) -> Self {
        let control = with_stamps.then(|| cmsg_space!([TimeSpec; 3], [u8; 64]));
        Self { headers: MultiHeaders::preallocate(BATCH, control), with_stamps }
    }

    /// How many messages were there, each's length and sender in its place.
    fn receive(
        &mut self,
        socket: &UdpSocket,
        buffers: &mut Buffers,
        flags: MsgFlags,
        seen: &mut [(usize, Option<SockaddrStorage>); BATCH],
    ) -> usize {
        let mut rooms = buffers.iter_mut();
        let mut parts: [_; BATCH] = array::from_fn(|_| [IoSliceMut::new(rooms.next().unwrap())]);
        let Ok(messages) = recvmmsg(socket.as_raw_fd(), &mut self.headers, &mut parts, flags, None) else {
            return 0;
        };
        let (mut count, mut is_whole) = (0, true);
        for message in messages {
            seen[count] = (message.bytes, message.address);
            if self.with_stamps {
                let mut stamps = 0;
                for control in message.cmsgs().into_iter().flatten() {
                    if let ControlMessageOwned::ScmTimestampsns(stamp) = black_box(control) {
                        stamps += i64::from(stamp.system != TimeSpec::new(0, 0));
                    }
                }
                is_whole &= stamps > 0;
            }
            count += 1;
        }
        if !is_whole {
            *self = Self::new(self.with_stamps);
        }
        count
    }
}

fn send(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    datagrams: &[&[u8]],
    to: &[Option<SockaddrStorage>],
) -> usize {
    let parts: [_; BATCH] = array::from_fn(|place| [IoSlice::new(datagrams.get(place).copied().unwrap_or_default())]);
    let nothing: [ControlMessage<'_>; 0] = [];
    let sent = sendmmsg(socket.as_raw_fd(), headers, &parts, &to[..datagrams.len()], nothing, MsgFlags::empty());
    sent.map_or(0, Iterator::count)
}

/// Sends everything back, for ever.
fn echo(kind: Echo) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    SockRef::from(&socket).set_recv_buffer_size(BUFFER).unwrap();
    println!("{}", socket.local_addr().unwrap());
    let arrivals = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE;
    let departures = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
    let mut buffers = buffers();
    match kind {
        Echo::Plain => loop {
            let (len, from) = socket.recv_from(&mut buffers[0]).unwrap();
            socket.send_to(&buffers[0][..len], from).unwrap();
        },
        Echo::Batched => {}
        Echo::Arrivals => setsockopt(&socket, sockopt::Timestamping, &arrivals).unwrap(),
        Echo::Both => setsockopt(&socket, sockopt::Timestamping, &(arrivals | departures)).unwrap(),
    }
    let (mut incoming, mut stamps) = (Batch::new(kind != Echo::Batched), Batch::new(true));
    let (mut nowhere, mut unseen) = (self::buffers(), [(0, None); BATCH]);
    let mut outgoing = MultiHeaders::preallocate(BATCH, None);
    let mut seen = [(0, None); BATCH];
    loop {
        let count = incoming.receive(&socket, &mut buffers, MsgFlags::MSG_WAITFORONE, &mut seen);
        let to = seen.map(|(_, from)| from);
        let datagrams: [&[u8]; BATCH] = array::from_fn(|place| &buffers[place][..seen[place].0]);
        send(&socket, &mut outgoing, &datagrams[..count], &to);
        if kind == Echo::Both {
            while stamps.receive(&socket, &mut nowhere, MsgFlags::MSG_ERRQUEUE, &mut unseen) == BATCH {}
        }
    }
}

/// What the server understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Berkeley,
    Ntp,
}

/// A process on the servers' core, ended with this.
struct Server {
    name: String,
    process: Child,
    address: SocketAddr,
    language: Language,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts it on the servers' core.
    fn start(name: &str, mut command: Command, address: Option<SocketAddr>, language: Language) -> Self {
        let starting = thread::spawn(move || {
            pin(SERVERS);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
        });
        let mut process = starting.join().unwrap();
        let address = address.unwrap_or_else(|| {
            let mut line = String::new();
            BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
            line.trim().parse().unwrap()
        });
        Self { name: name.to_owned(), process, address, language }
    }

    /// The CPU time that it has taken.
    fn cpu(&self) -> Span {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.process.id())).unwrap();
        Span::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
    }
}

/// Keeps this thread, and the processes that it starts, on one core.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).unwrap();
    // A machine with fewer cores has them share.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Asks, and counts answers.
struct Generator {
    socket: UdpSocket,
    clock: LocalClock,
    requests: Vec<BytesMut>,
    headers: MultiHeaders<SockaddrStorage>,
    answers: Batch,
    buffers: Buffers,
}

impl Generator {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        SockRef::from(&socket).set_recv_buffer_size(BUFFER).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            clock: LocalClock::new(Skew::ZERO).unwrap(),
            requests: vec![BytesMut::with_capacity(MAX_FRAME_LEN); BATCH],
            headers: MultiHeaders::preallocate(BATCH, None),
            answers: Batch::new(false),
            buffers: buffers(),
        }
    }

    /// Asks a server so often, and waits for nothing.
    fn ask(&mut self, server: &Server, count: usize) {
        for request in self.requests.iter_mut().take(count) {
            request.clear();
            match server.language {
                Language::Berkeley => {
                    let message = Message::Request(Request::bare(self.clock.now()));
                    Frame { header: messages::header(), message }.encode(request);
                }
                // Version 4, client; all else may be zero.
                Language::Ntp => {
                    request.resize(48, 0);
                    request[0] = 0x23;
                }
            }
        }
        let datagrams: [&[u8]; BATCH] = array::from_fn(|place| &*self.requests[place]);
        send(&self.socket, &mut self.headers, &datagrams[..count], &[Some(server.address.into()); BATCH]);
    }

    /// Answers that have come, after waiting for one if none has.
    fn hear(&mut self) -> usize {
        self.hear_with(MsgFlags::MSG_WAITFORONE)
    }

    fn hear_with(&mut self, flags: MsgFlags) -> usize {
        let mut seen = [(0, None); BATCH];
        self.answers.receive(&self.socket, &mut self.buffers, flags, &mut seen)
    }

    /// True as soon as the server answers.
    fn awaits(&mut self, server: &Server) -> bool {
        (0..STARTS).any(|_| {
            self.ask(server, 1);
            self.hear() > 0
        })
    }

    /// Exchanges of one turn, and how long it was.
    fn turn(&mut self, server: &Server) -> (usize, Span) {
        let start = self.clock.now();
        let (mut waiting, mut answered) = (0, 0);
        let mut now = start;
        while now - start < TURN {
            while waiting + BATCH <= WINDOW {
                self.ask(server, BATCH);
                waiting += BATCH;
            }
            let heard = self.hear();
            answered += heard;
            // What has not come by now is lost.
            waiting = if heard == 0 { 0 } else { waiting.saturating_sub(heard) };
            now = self.clock.now();
        }
        let length = self.clock.now() - start;
        // What is late is no answer to the next.
        while self.hear() > 0 {}
        (answered, length)
    }

    /// Exchanges that come one after the other.
    fn paced(&mut self, server: &Server) -> usize {
        let (mut answered, mut due) = (0, self.clock.now());
        for _ in 0..PACED {
            due = due + PACE;
            while self.clock.now() < due {
                answered += self.hear_with(MsgFlags::MSG_DONTWAIT);
            }
            self.ask(server, 1);
        }
        loop {
            let heard = self.hear();
            answered += heard;
            if heard == 0 || answered == PACED {
                return answered;
            }
        }
    }

    /// Exchanges that find the server asleep.
    fn seldom(&mut self, server: &Server) -> usize {
        let exchange = |_| {
            // Nobody has been asked: as long as for an answer that never comes.
            let late = self.hear();
            self.ask(server, 1);
            late + self.hear()
        };
        (0..SELDOM).map(exchange).sum()
    }

    /// How long one exchange takes when there is no other.
    fn alone(&mut self, server: &Server) -> Option<Span> {
        let start = self.clock.now();
        self.ask(server, 1);
        (self.hear() > 0).then(|| self.clock.now() - start)
    }
}

/// The node in question, as a slave of the generator.
fn node(name: &str, program: &Path, generator: &Generator, state: &Path, timestamping: &str) -> Server {
    let address = free_address();
    let mut command = Command::new(program);
    let master = generator.socket.local_addr().unwrap();
    command.args(["--role", "slave", "--bind", &address.to_string(), "--peer", &master.to_string()]);
    command.args(["--timestamping", timestamping, "--status-socket"]).arg(state.join(address.port().to_string()));
    Server::start(name, command, Some(address), Language::Berkeley)
}

fn chronyd(state: &Path) -> Server {
    let address = free_address();
    let (port, pid, config) = (address.port(), state.join("pid"), state.join("chrony.conf"));
    let text = format!(
        "port {port}\nbindaddress 127.0.0.1\nallow 127.0.0.1\nlocal stratum 10\ncmdport 0\nbindcmdaddress /\npidfile {}\n",
        pid.display()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new("chronyd");
    command.args(["-x", "-n", "-u", "root", "-f"]).arg(&config);
    Server::start("chronyd (NTP)", command, Some(address), Language::Ntp)
}

/// What a master takes of the CPU for each slave and round, in µs.
#[expect(clippy::disallowed_methods, reason = "it waits while others work")]
fn master(program: &Path, state: &Path) -> f64 {
    let (address, socket) = (free_address(), state.join("master"));
    let orders = Orders {
        bind: Ipv4Addr::LOCALHOST,
        group: SocketAddr::from(([239, 255, 5, 26], free_address().port())),
        domain: Domain::new(process::id()),
        interval: Span::from_secs(1),
        keys: None,
        origin: LocalClock::new(Skew::ZERO).unwrap().now(),
        start_pause: Span::from_micros(300),
    };
    let mut command = Command::new(program);
    command.args(["--role", "master", "--bind", &address.to_string(), "--interval", "1s", "--status-socket"]);
    command.arg(&socket).args(["--group", &orders.group.to_string(), "--domain", &process::id().to_string()]);
    let server = Server::start("master", command, Some(address), Language::Berkeley);
    let answers = || {
        let status: Status = serde_json::from_str(&fetch(&socket).unwrap()).unwrap();
        status.counters.received.get("response").copied().unwrap()
    };
    let signals = Signals::default();
    thread::scope(|scope| {
        for (first, core) in (1..).zip(CREWS) {
            let (orders, signals) = (&orders, &signals);
            scope.spawn(move || {
                pin(core);
                Crew::new(orders, signals, (first..=SLAVES as u64).step_by(CREWS.len())).unwrap().run().unwrap();
            });
        }
        while signals.corrected.load(Ordering::Relaxed) < SLAVES {
            thread::sleep(PATIENCE);
        }
        thread::sleep(SETTLING);
        // To tell its status is no part of it.
        let (heard, before) = (answers(), server.cpu());
        thread::sleep(Duration::from_secs(1) * ROUNDS);
        let cpu = server.cpu() - before;
        let heard = answers() - heard;
        signals.stop.store(true, Ordering::Relaxed);
        cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(heard).unwrap())
    })
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What a server did in its turns.
#[derive(Clone, Debug, Default)]
struct Course {
    /// Exchanges a second.
    rates: Vec<f64>,
    /// Exchanges for a second of its CPU.
    of_cpu: Vec<f64>,
    /// Exchanges that came alone, in µs.
    alone: Vec<f64>,
    /// CPU of one that came in its turn, in µs.
    paced: Vec<f64>,
    /// CPU of one that came seldom, in µs.
    seldom: Vec<f64>,
}

impl Course {
    fn print(&self, name: &str, base: &Self) {
        let ratio = |own: &[f64], base: &[f64]| median(own.iter().zip(base).map(|(one, other)| one / other).collect());
        println!(
            "{name:30} {:7.1} {:11.1} {:13.2} {:9.2} {:9.1} {:9.1} {:10.1}",
            median(self.rates.clone()) / 1e3,
            median(self.of_cpu.clone()) / 1e3,
            ratio(&self.rates, &base.rates),
            ratio(&self.of_cpu, &base.of_cpu),
            median(self.alone.clone()),
            median(self.paced.clone()),
            median(self.seldom.clone()),
        );
    }
}

/// CPU of a server for each of the exchanges that it answers in here, in µs.
fn cpu_of_each(server: &Server, exchanges: impl FnOnce() -> usize) -> f64 {
    let before = server.cpu();
    let answered = exchanges();
    (server.cpu() - before).as_secs_f64() * 1e6 / f64::from(u32::try_from(answered).unwrap())
}

fn main() {
    // This program again, as one of its servers.
    if let Some(kind) = env::var("ECHO").ok().and_then(|name| Echo::ALL.into_iter().find(|(known, _)| *known == name)) {
        return echo(kind.1);
    }
    let state = tempfile::tempdir().unwrap();
    let mut generator = Generator::new();
    let mut servers: Vec<Server> = Echo::ALL
        .map(|(name, _)| {
            let mut command = Command::new(env::current_exe().unwrap());
            command.env("ECHO", name);
            Server::start(name, command, None, Language::Berkeley)
        })
        .into();
    let own = Path::new(env!("CARGO_BIN_EXE_berkeleyd"));
    servers.push(node("node, both stamps", own, &generator, state.path(), "kernel"));
    for other in env::var_os("NODES").iter().flat_map(env::split_paths) {
        servers.push(node(&other.to_string_lossy(), &other, &generator, state.path(), "kernel"));
    }
    servers.push(node("node, no stamps of the kernel", own, &generator, state.path(), "user"));
    match Command::new("chronyd").arg("--version").output() {
        Ok(_) => servers.push(chronyd(state.path())),
        Err(_) => println!("chronyd is not installed: left out"),
    }
    servers.retain(|server| {
        let answers = generator.awaits(server);
        if !answers {
            println!("{} does not answer: left out", server.name);
        }
        answers
    });
    pin(GENERATOR);
    let mut courses = vec![Course::default(); servers.len()];
    for turn in 0..=TURNS {
        for (server, course) in servers.iter().zip(&mut courses) {
            let before = server.cpu();
            let (answered, length) = generator.turn(server);
            let cpu = server.cpu() - before;
            let paced = cpu_of_each(server, || generator.paced(server));
            let alone = (0..ALONE).filter_map(|_| generator.alone(server)).map(|span| span.as_secs_f64() * 1e6);
            // The first warms up.
            if turn > 0 {
                let answered = f64::from(u32::try_from(answered).unwrap());
                course.rates.push(answered / length.as_secs_f64());
                course.of_cpu.push(answered / cpu.as_secs_f64());
                course.alone.extend(alone);
                course.paced.push(paced);
                if turn % SELDOM_TURNS == 0 {
                    course.seldom.push(cpu_of_each(server, || generator.seldom(server)));
                }
            }
        }
    }
    println!(
        "{:30} {:>7} {:>11} {:>13} {:>9} {:>9} {:>9} {:>10}",
        "", "k/s", "k/s of CPU", "ratio to both", "of CPU", "alone, µs", "paced, µs", "seldom, µs"
    );
    let base = servers.iter().position(|server| server.name == Echo::ALL[3].0).unwrap();
    for (server, course) in servers.iter().zip(&courses) {
        course.print(&server.name, &courses[base]);
    }
    println!("{:30} {:63.1}", format!("master of {SLAVES} slaves"), master(own, state.path()));
}
