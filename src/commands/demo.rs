//! `berkeleyd demo`: a whole ensemble on loopback, real processes and sockets, that ends by itself.
//!
//! Six nodes, their virtual clocks wrong by up to 2 s and drifting, one of them a liar that takes no correction. They elect a
//! master and come together; a slave is killed, and comes back with a wrong clock; the master is killed, and another one
//! takes over. All of them read the clock of
//! this machine, so the difference of two nodes' `disciplined_ns - system_ns` is their true disagreement, and not only
//! what they believe: on that the demo is judged.
//!
//! In this order: `Record` keeps what was seen and judges it; `View` and `Screen` show it, redrawn in place on a
//! terminal, as plain lines elsewhere; `Ensemble` holds the processes; `Demo` follows the `SCRIPT`.
//!
//! Whatever ends the demo ends its nodes: its own end, errors and signals by way of the ensemble's `Drop`, and what leaves
//! it no time for that (SIGKILL) by way of `PARENT`; then, and only then, its temporary directory is left behind.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};

use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::commands::Failure;
use crate::commands::status::fetch;
use crate::local_clock::LocalClock;
use crate::status::{RoleName, Status};
use crate::time::{LocalTime, Skew, Span};

/// In a node's environment: the number of the process that it shall not outlive, even if that is killed. Not for
/// operators; a service manager knows its processes.
pub(crate) const PARENT: &str = "BERKELEYD_PARENT";

/// The node that is preferred as master; the others have the next five numbers.
const PREFERRED: u64 = 1;
/// The slave that is killed.
const VICTIM: u64 = 3;
/// The slave that claims a wrong clock.
const LIAR: u64 = 6;

/// What happens when, counted from the start of the master.
const SCRIPT: [(Span, Act); 4] = [
    (Span::from_secs(5), Act::Kill),
    (Span::from_secs(7), Act::Restart),
    (Span::from_secs(10), Act::KillMaster),
    (Span::from_secs(14), Act::End),
];

#[derive(Clone, Copy, Debug)]
enum Act {
    /// The victim dies without a word.
    Kill,
    /// It is started again, with a wrong clock.
    Restart,
    /// The master dies without a word.
    KillMaster,
    /// The curtain falls.
    End,
}

/// Closer than this, clocks agree; texts below name it too. They do ten times better, but a busy machine needs the room.
const AGREEMENT: Span = Span::from_millis(1);
/// The honest clocks must agree from here on; texts below name it too. They need a tenth of it.
const JUDGED_FROM: Span = Span::from_secs(5);
/// The restarted slave is judged only after this. It needs a quarter of it.
const REJOINING: Span = Span::from_secs(1);
/// Between looks at the nodes: the first must come before the first correction, some 650 ms after the start.
const TICK: Span = Span::from_millis(50);
/// Between the blocks of lines where nothing can be drawn over.
const BLOCK_PAUSE: Span = Span::from_secs(1);
/// The slaves must answer by then. With the script and `STOPPING` this stays below 20 s.
const GATHERING: Span = Span::from_secs(5);
/// Nodes that were asked to stop are killed after this.
const STOPPING: Span = Span::from_secs(1);
/// So many lines of the log of a node that died are shown.
const LAST_LINES: usize = 5;

/// Runs the demo, for some 13 s. A signal ends this process early, with 128 and the signal's number as the exit status.
///
/// # Errors
/// The honest nodes did not agree, a node died on its own, or the system refused something.
pub fn demo() -> Result<(), Failure> {
    match Demo::new().and_then(Demo::run) {
        Ok(()) => Ok(()),
        Err(Ending::Failed(text)) => Err(Failure::Failed(text)),
        // By now the nodes and their directory are gone.
        Err(Ending::Signal(signal)) => process::exit(128 + signal),
    }
}

/// Why the demo ended before its time, or did not show what it should.
#[derive(Debug)]
enum Ending {
    Failed(String),
    Signal(i32),
}

/// For `map_err`: what was attempted, and what the system said.
fn failed(attempt: &str) -> impl FnOnce(io::Error) -> Ending {
    move |error| Ending::Failed(format!("{attempt}: {error}"))
}

fn name(node: u64) -> String {
    format!("node {node}")
}

/// What the nodes say of themselves, by number; who does not answer is missing.
type Statuses = BTreeMap<u64, Status>;

/// The true clocks at one moment.
#[derive(Debug)]
struct Sample {
    /// Since the start of the master.
    at: Span,
    /// Each node's clock less this machine's; who did not answer is missing.
    clocks: BTreeMap<u64, Span>,
    /// Who is master; of several the one of the newest term.
    master: Option<u64>,
}

impl Sample {
    fn new(at: Span, statuses: &Statuses) -> Self {
        let ahead =
            |status: &Status| Span::from_nanos(status.clock.disciplined_ns) - Span::from_nanos(status.clock.system_ns);
        let masters = statuses.values().filter(|status| status.role == RoleName::Master);
        Self {
            at,
            clocks: statuses.iter().map(|(node, status)| (*node, ahead(status))).collect(),
            master: masters.max_by_key(|status| status.term).map(|status| status.node_id),
        }
    }

    /// The master; before there is one, who ought to be.
    fn leader(&self) -> u64 {
        self.master.unwrap_or(PREFERRED)
    }

    /// A node's clock less the leader's.
    fn true_offset(&self, node: u64) -> Option<Span> {
        Some(*self.clocks.get(&node)? - *self.clocks.get(&self.leader())?)
    }
}

/// All that was seen, and when the victim died and was started again.
#[derive(Debug, Default)]
struct Record {
    samples: Vec<Sample>,
    killed: Option<Span>,
    restarted: Option<Span>,
    /// Who was master when it was killed, and when that was, ...
    beheaded: Option<(u64, Span)>,
    /// ... and who was seen as master after it, and when.
    successor: Option<(u64, Span)>,
}

impl Record {
    /// The honest nodes, without the victim while it is dead or has just come back.
    fn judged(&self, at: Span) -> impl Iterator<Item = u64> {
        let is_away = self.killed.is_some_and(|killed| at >= killed)
            && self.restarted.is_none_or(|restarted| at < restarted + REJOINING);
        let dead_master = self.beheaded.filter(|(_, killed)| at >= *killed).map(|(node, _)| node);
        (PREFERRED..=LIAR)
            .filter(move |node| *node != LIAR && !(*node == VICTIM && is_away) && Some(*node) != dead_master)
    }

    /// The largest true difference of two judged nodes; `None` unless all of them answered.
    fn spread(&self, sample: &Sample) -> Option<Span> {
        let clocks: Option<Vec<_>> = self.judged(sample.at).map(|node| sample.clocks.get(&node)).collect();
        let clocks = clocks?;
        Some(**clocks.iter().max()? - **clocks.iter().min()?)
    }

    /// The spreads from then on.
    fn spreads(&self, from: Span) -> impl DoubleEndedIterator<Item = Span> {
        self.samples.iter().filter(move |sample| sample.at >= from).filter_map(|sample| self.spread(sample))
    }

    fn agrees(&self, sample: &Sample) -> bool {
        self.spread(sample).is_some_and(|spread| spread < AGREEMENT)
    }

    fn has_victim_back(&self, sample: &Sample) -> bool {
        // While there is no master there is nothing to compare with.
        let offset = sample.true_offset(VICTIM);
        sample.clocks.contains_key(&VICTIM) && offset.is_none_or(|offset| offset.abs() < AGREEMENT)
    }

    /// When something became true that stayed so until the end.
    fn since(&self, holds: fn(&Self, &Sample) -> bool) -> Option<Span> {
        self.samples.iter().rev().take_while(|sample| holds(self, sample)).last().map(|sample| sample.at)
    }

    /// The measured spreads, for people.
    fn summary(&self) -> String {
        let spreads = |from| self.spreads(from);
        let text = |span: Option<Span>| span.map_or("never".to_owned(), short);
        let returned = self.restarted.and_then(|restarted| Some(self.since(Self::has_victim_back)? - restarted));
        format!(
            "True disagreement of the honest nodes (largest less smallest clock)\n\
             \x20 before              {:>9}\n\
             \x20 after 1 s           {:>9}\n\
             \x20 worst from 5 s on   {:>9}\n\
             \x20 at the end          {:>9}\n\
             \x20 since the fail-over {:>9}\n\
             Time until it stayed below 1 ms\n\
             \x20 from the start      {:>9}\n\
             \x20 {}, restarted   {:>9}\n\
             Time without a master\n\
             \x20 until {} led    {:>9}\n",
            text(spreads(Span::ZERO).next()),
            text(spreads(Span::from_secs(1)).next()),
            text(spreads(JUDGED_FROM).max()),
            text(spreads(JUDGED_FROM).next_back()),
            text(self.beheaded.and_then(|(_, killed)| spreads(killed).max())),
            text(self.since(Self::agrees)),
            name(VICTIM),
            text(returned),
            self.successor.map_or_else(|| "nobody".to_owned(), |(node, _)| name(node)),
            text(self.beheaded.and_then(|(_, killed)| Some(self.successor?.1 - killed))),
        )
    }

    /// What was missed, in a line; `None` if the honest nodes agreed whenever it counts.
    fn missed(&self) -> Option<String> {
        let mut judged = self.samples.iter().filter(|sample| sample.at >= JUDGED_FROM).peekable();
        if judged.peek().is_none() || self.restarted.is_none() {
            return Some("the demo ended too early to be judged".to_owned());
        }
        if self.beheaded.is_some() && self.successor.is_none() {
            return Some("nobody took over from the master".to_owned());
        }
        let bad = judged.find(|sample| !self.agrees(sample))?;
        let at = short(bad.at);
        Some(match self.judged(bad.at).find(|node| !bad.clocks.contains_key(node)) {
            Some(silent) => format!("{} did not answer {at} after the start", name(silent)),
            None => format!(
                "the honest clocks were {} apart {at} after the start: they must agree within 1 ms from 5 s on",
                self.spread(bad).map(short).unwrap_or_default(),
            ),
        })
    }
}

/// Four digits or five are enough for people, and always fit their column: `95.2 µs`, `-150.0 ms`, `1.500 s`.
fn short(span: Span) -> String {
    let secs = span.as_secs_f64();
    // Each limit is where the smaller unit would be rounded up to 1000.0.
    match span.abs().as_nanos() {
        ..999_950 => format!("{:.1} µs", secs * 1e6),
        999_950..999_950_000 => format!("{:.1} ms", secs * 1e3),
        _ => format!("{secs:.3} s"),
    }
}

fn signed(span: Span) -> String {
    format!("{}{}", if span > Span::ZERO { "+" } else { "" }, short(span))
}

/// A line with its time in front.
fn timed(at: Span, text: &str) -> String {
    format!("{:4.1} s  {text}", at.as_secs_f64())
}

const TITLE: &str = "berkeleyd demo: six nodes on loopback, their virtual clocks wrong on purpose.\n\
    Offset is the true difference from the master's clock, not what a node thinks.\n\n";

/// The bar's: two cells for a factor of ten, the first for 1 µs.
const SCALE: &str = "1µs   1ms   1s";
const CELLS: u32 = 14;

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";

/// One moment, to be shown.
#[derive(Debug)]
struct View<'a> {
    sample: &'a Sample,
    statuses: &'a Statuses,
    spread: Option<Span>,
    /// Killed, and not started again.
    dead: Vec<u64>,
}

impl View<'_> {
    fn lines(&self, has_colours: bool) -> Vec<String> {
        let spread = match self.spread {
            Some(spread) => format!("the honest clocks lie within {}", short(spread)),
            None => "not all honest nodes answer".to_owned(),
        };
        let heading = format!(
            "{:<7} {:<9} {:>9}  {SCALE}  {:>9} {:>8}  counted",
            "node", "state", "offset", "corrected", "± bound"
        );
        let rows = (PREFERRED..=LIAR).map(|node| self.row(node, has_colours));
        [timed(self.sample.at, &spread), heading].into_iter().chain(rows).collect()
    }

    fn row(&self, node: u64, has_colours: bool) -> String {
        let none = || "-".to_owned();
        let own = self.statuses.get(&node);
        let (state, is_bad) = match own.map(|status| status.role) {
            _ if self.dead.contains(&node) => ("dead", true),
            None => ("starting", false),
            Some(_) if node == LIAR => ("liar", true),
            Some(RoleName::Master) => ("master", false),
            Some(RoleName::Slave) => ("slave", false),
            Some(RoleName::Candidate) => ("candidate", false),
            Some(RoleName::Listening) => ("listening", false),
        };
        let offset = self.sample.true_offset(node);
        let nanos = u128::from(offset.unwrap_or_default().as_nanos().unsigned_abs());
        // The logarithm of the square is twice that of the offset; it is 6 for 1 µs in ns.
        let cells = nanos.pow(2).checked_ilog10().map_or(0, |log| (log + 1).saturating_sub(6)).min(CELLS);
        let bar: String = (0..cells).map(|_| '■').collect();
        let corrected = own.and_then(|own| match (own.refused_correction_ns, own.adjustment) {
            (Some(_), _) => Some("refused".to_owned()),
            (None, 0) => None,
            (None, _) => Some(signed(Span::from_nanos(own.last_correction_ns))),
        });
        let bound = own.map(|own| Span::from_nanos(own.error_bound_ns)).filter(|bound| *bound < Span::MAX);
        let leader = self.sample.leader();
        let peers = self.statuses.get(&leader).map(|master| master.peers.as_slice()).unwrap_or_default();
        let counted = match peers.iter().find(|peer| peer.node_id == node).map(|peer| peer.reason.as_deref()) {
            // The master needs some rounds to be sure that it is silent, and goes by its last verdict until then.
            Some(None) if state == "dead" => "no answer".to_owned(),
            Some(None) => "yes".to_owned(),
            Some(Some(reason)) => format!("no: {reason}"),
            None if node == leader && state == "master" => "averages".to_owned(),
            None => none(),
        };
        let paint = |colour: Option<&str>, text: String| match colour.filter(|_| has_colours) {
            Some(colour) => format!("{colour}{text}\x1b[0m"),
            None => text,
        };
        let agrees = !is_bad && offset.is_some_and(|offset| offset.abs() < AGREEMENT);
        format!(
            "{:<7} {} {}  {:>9} {:>8}  {counted:.13}",
            name(node),
            paint(is_bad.then_some(RED), format!("{state:<9}")),
            paint(agrees.then_some(GREEN), format!("{:>9}  {bar:<14}", offset.map_or_else(none, signed))),
            corrected.unwrap_or_else(none),
            bound.map_or_else(none, short),
        )
    }
}

/// Where the demo is shown: redrawn in place on a terminal, a block of lines a second elsewhere.
#[derive(Debug)]
struct Screen {
    is_terminal: bool,
    has_colours: bool,
    /// What happened so far; on a terminal it stands below the table.
    events: Vec<String>,
    /// Lines of the last drawing, which the next one covers.
    drawn: usize,
    next_block: Span,
}

impl Screen {
    fn new() -> Self {
        // A dumb terminal cannot go back to a line.
        let is_terminal = io::stdout().is_terminal() && env::var_os("TERM").is_some_and(|term| term != "dumb");
        let has_colours = is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { is_terminal, has_colours, events: Vec::new(), drawn: 0, next_block: Span::ZERO }
    }

    /// What to write when something happened.
    fn event(&mut self, at: Span, what: &str) -> String {
        let line = timed(at, what);
        if self.is_terminal {
            self.events.push(line);
            return String::new();
        }
        format!("{line}\n\n")
    }

    /// What to write for a new moment; nothing where it is not the time for a block yet.
    fn frame(&mut self, view: &View<'_>) -> String {
        let mut lines = view.lines(self.has_colours);
        if self.is_terminal {
            lines.push(String::new());
            lines.extend_from_slice(&self.events);
            lines.push(String::new());
            let back = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
            self.drawn = lines.len();
            // Where the window is narrower than the table, lines are cut (?7l) and not wrapped.
            return format!("\x1b[?7l{back}\r{}\x1b[K\n\x1b[?7h", lines.join("\x1b[K\n"));
        }
        if view.sample.at < self.next_block {
            return String::new();
        }
        self.next_block += BLOCK_PAUSE;
        format!("{}\n\n", lines.join("\n"))
    }
}

fn write(text: &str) -> Result<(), Ending> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failed("standard output"))
}

/// Any of these numbers; the bias is below a part in 2^30.
fn draw(range: RangeInclusive<i64>) -> Result<i64, Ending> {
    let bits = getrandom::u64().map_err(|error| Ending::Failed(format!("no random numbers: {error}")))?;
    let count = (range.end() - range.start()).unsigned_abs() + 1;
    Ok(range.start() + i64::try_from(bits % count).unwrap_or_default())
}

/// Waits until a moment, a signal or the end of a child, whichever comes first.
struct Watch {
    clock: LocalClock,
    poll: Poll,
    events: Events,
    signals: Signals,
}

impl Watch {
    fn new() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD])?;
        let poll = Poll::new()?;
        poll.registry().register(&mut signals, Token(0), Interest::READABLE)?;
        Ok(Self { clock: LocalClock::new(Skew::ZERO)?, poll, events: Events::with_capacity(1), signals })
    }

    /// A signal that asks this process to stop is an error.
    fn until(&mut self, deadline: LocalTime) -> Result<(), Ending> {
        match self.poll.poll(&mut self.events, Some((deadline - self.clock.now()).to_std())) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result.map_err(failed("cannot wait"))?,
        }
        match self.signals.pending().find(|signal| *signal != SIGCHLD) {
            Some(signal) => Err(Ending::Signal(signal)),
            None => Ok(()),
        }
    }
}

/// The processes. When it is dropped they end, and their directory goes with them.
struct Ensemble {
    watch: Watch,
    /// Of our own, mode 0700: each node's status socket and log.
    dir: PathBuf,
    /// What all nodes are told.
    arguments: String,
    children: BTreeMap<u64, Child>,
}

impl Ensemble {
    fn new() -> Result<Self, Ending> {
        // First of all: from here on a signal finds somebody who cleans up.
        let watch = Watch::new().map_err(failed("cannot wait for signals"))?;
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let port = free.map_err(failed("no port is free on 127.0.0.1"))?.port();
        // Should another ensemble have the same port, nobody hears the other domain.
        let domain = draw(1..=i64::from(u32::MAX))?;
        let arguments =
            format!("--bind 127.0.0.1:0 --interface 127.0.0.1 --group 239.255.5.25:{port} --domain {domain}");
        let dir = env::temp_dir().join(format!("berkeleyd-demo-{:08x}", draw(0..=i64::from(u32::MAX))?));
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(failed(&format!("cannot make directory {}", dir.display())))?;
        Ok(Self { watch, dir, arguments, children: BTreeMap::new() })
    }

    fn file(&self, node: u64, kind: &str) -> PathBuf {
        self.dir.join(format!("{node}.{kind}"))
    }

    /// Starts a node with a wrong clock.
    fn start(&mut self, node: u64) -> Result<(), Ending> {
        let offset = match node {
            // Its claim is beyond all others, so that no honest clock agrees with it by chance.
            LIAR => draw(1_750..=2_000)?,
            // More than a second, either way.
            VICTIM => draw(1_001..=2_000)? * (draw(0..=1)? * 2 - 1),
            _ => draw(-2_000..=2_000)?,
        };
        let drift = draw(-100..=100)?;
        // The liar must not lead: nobody would doubt it.
        let role = if node == LIAR { "slave" } else { "auto" };
        let priority = if node == PREFERRED { 1 } else { 0 };
        let lie = if node == LIAR { "--inject-lie 300ms --max-correction 1us" } else { "" };
        let arguments = format!(
            "--role {role} --priority {priority} --node-id {node} --inject-offset {offset}ms --inject-drift {drift} {} {lie}",
            self.arguments
        );
        let start = || {
            let log = File::options().append(true).create(true).open(self.file(node, "log"))?;
            Command::new(env::current_exe()?)
                .args(arguments.split_whitespace())
                .arg("--status-socket")
                .arg(self.file(node, "sock"))
                .env(PARENT, process::id().to_string())
                // Ctrl-C is for the demo alone, which then ends its nodes.
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
        };
        let child = start().map_err(failed(&format!("cannot start {}", name(node))))?;
        self.children.insert(node, child);
        Ok(())
    }

    /// Ends a node as a power cut would.
    fn kill(&mut self, node: u64) -> Result<(), Ending> {
        let Some(mut child) = self.children.remove(&node) else { return Ok(()) };
        let killed = child.kill().and_then(|()| child.wait());
        killed.map(drop).map_err(failed(&format!("cannot kill {}", name(node))))
    }

    /// Asks all nodes.
    ///
    /// # Errors
    /// One has ended that was not killed; the last lines of its log have gone to the standard error.
    fn statuses(&mut self) -> Result<Statuses, Ending> {
        let ended = self.children.iter_mut().find_map(|(node, child)| Some((*node, child.try_wait().ok()??)));
        if let Some((node, status)) = ended {
            let log = fs::read(self.file(node, "log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let first = log.lines().count().saturating_sub(LAST_LINES);
            for line in log.lines().skip(first) {
                let _ = writeln!(io::stderr().lock(), "{}: {line}", name(node));
            }
            return Err(Ending::Failed(format!("{} ended on its own: {status}", name(node))));
        }
        let ask = |node: u64| serde_json::from_str(&fetch(&self.file(node, "sock")).ok()?).ok();
        Ok(self.children.keys().filter_map(|node| Some((*node, ask(*node)?))).collect())
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        let is_running = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_none());
        for child in self.children.values_mut() {
            // The number of one that has ended may be somebody else's by now.
            if let (true, Ok(id)) = (is_running(child), i32::try_from(child.id())) {
                let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            }
        }
        let deadline = self.watch.clock.now() + STOPPING;
        while self.watch.clock.now() < deadline && self.children.values_mut().any(is_running) {
            // A signal that asks us to stop changes nothing: we are at it.
            let _ = self.watch.until(deadline);
        }
        for child in self.children.values_mut() {
            let _ = child.kill().and_then(|()| child.wait());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A claim about a moment.
type Claim = fn(&Record, &Sample) -> bool;

/// Follows the script and shows what comes of it.
struct Demo {
    ensemble: Ensemble,
    screen: Screen,
    record: Record,
    /// When the master was started.
    began: LocalTime,
    /// What is told as soon as it holds.
    awaited: Option<(Claim, String)>,
}

impl Demo {
    /// Starts all nodes at once, the preferred one first, and waits until they answer: they listen for a while before one of them
    /// becomes master, so that the first look finds all clocks as wrong as they began.
    fn new() -> Result<Self, Ending> {
        let mut ensemble = Ensemble::new()?;
        write(TITLE)?;
        let began = ensemble.watch.clock.now();
        for node in PREFERRED..=LIAR {
            ensemble.start(node)?;
        }
        let deadline = ensemble.watch.clock.now() + GATHERING;
        while ensemble.statuses()?.len() < ensemble.children.len() {
            let now = ensemble.watch.clock.now();
            if now >= deadline {
                return Err(Ending::Failed(format!("the nodes did not all start within {}", short(GATHERING))));
            }
            ensemble.watch.until(now + TICK)?;
        }
        let awaited: (Claim, String) = (Record::agrees, "the honest clocks agree within 1 ms".to_owned());
        Ok(Self { ensemble, screen: Screen::new(), record: Record::default(), began, awaited: Some(awaited) })
    }

    fn run(mut self) -> Result<(), Ending> {
        let victim = name(VICTIM);
        for (at, act) in SCRIPT {
            let now = self.observe_until(at)?;
            match act {
                Act::Kill => {
                    self.ensemble.kill(VICTIM)?;
                    self.record.killed = Some(now);
                    self.tell(now, &format!("{victim}, a slave, is killed (SIGKILL)"))?;
                }
                Act::Restart => {
                    self.ensemble.start(VICTIM)?;
                    self.record.restarted = Some(now);
                    self.tell(now, &format!("{victim} is started again, its clock wrong again"))?;
                    self.awaited = Some((Record::has_victim_back, format!("{victim} agrees again")));
                }
                Act::KillMaster => {
                    let master = self.record.samples.last().map_or(PREFERRED, Sample::leader);
                    self.ensemble.kill(master)?;
                    self.record.beheaded = Some((master, now));
                    self.tell(now, &format!("{}, the master, is killed (SIGKILL)", name(master)))?;
                }
                Act::End => {}
            }
        }
        write(&self.record.summary())?;
        self.record.missed().map_or(Ok(()), |missed| Err(Ending::Failed(missed)))
    }

    /// Looks at the nodes again and again. When it was the last time: at `end` or a little later.
    fn observe_until(&mut self, end: Span) -> Result<Span, Ending> {
        loop {
            let at = self.ensemble.watch.clock.now() - self.began;
            self.observe(at)?;
            if at >= end {
                return Ok(at);
            }
            self.ensemble.watch.until(self.began + (at + TICK).min(end))?;
        }
    }

    /// Looks at all nodes, keeps what it saw, and shows it.
    fn observe(&mut self, at: Span) -> Result<(), Ending> {
        let statuses = self.ensemble.statuses()?;
        let sample = Sample::new(at, &statuses);
        if let Some((_, news)) = self.awaited.take_if(|(holds, _)| holds(&self.record, &sample)) {
            self.tell(at, &news)?;
        }
        let spread = self.record.spread(&sample);
        if let (Some((_, killed)), None, Some(node)) = (self.record.beheaded, self.record.successor, sample.master) {
            self.record.successor = Some((node, at));
            let meanwhile = self.record.spreads(killed).chain(spread).max().unwrap_or_default();
            let (gap, meanwhile) = (short(at - killed), short(meanwhile));
            self.tell(at, &format!("{} takes over, {gap} later; clocks stayed within {meanwhile}", name(node)))?;
        }
        // Before the master answers there is nothing to compare with.
        if statuses.contains_key(&sample.leader()) {
            let dead = (PREFERRED..=LIAR).filter(|node| !self.ensemble.children.contains_key(node)).collect();
            let view = View { sample: &sample, statuses: &statuses, spread, dead };
            write(&self.screen.frame(&view))?;
        }
        self.record.samples.push(sample);
        Ok(())
    }

    fn tell(&mut self, at: Span, what: &str) -> Result<(), Ending> {
        write(&self.screen.event(at, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: i64) -> Span {
        Span::from_millis(millis)
    }

    /// Clocks in microseconds, the master's first.
    fn sample(at: Span, clocks: [i64; 6]) -> Sample {
        Sample { at, clocks: (PREFERRED..).zip(clocks.map(Span::from_micros)).collect(), master: Some(PREFERRED) }
    }

    /// All agree within 40 µs but the liar, from 0.5 s on; the victim is killed at 5 s, and back at 7.3 s.
    fn fine() -> Record {
        let clocks_at = |at: Span| match at {
            at if at < millis(500) => [0, -2_000_000, 1_500_000, 7, 8, 2_000_000],
            at if at >= millis(7_000) && at < millis(7_300) => [10, -10, 1_900_000, 30, 0, 2_000_000],
            _ => [10, -10, 20, 30, 0, 2_000_000],
        };
        let samples = (0..131).map(|tick| millis(tick * 100)).map(|at| sample(at, clocks_at(at)));
        let mut record = Record {
            samples: samples.collect(),
            killed: Some(Span::from_secs(5)),
            restarted: Some(Span::from_secs(7)),
            ..Record::default()
        };
        for sample in record.samples.iter_mut().filter(|sample| (millis(5_100)..millis(7_100)).contains(&sample.at)) {
            sample.clocks.remove(&VICTIM);
        }
        record
    }

    fn at(record: &mut Record, at: Span) -> &mut Sample {
        record.samples.iter_mut().find(|sample| sample.at == at).unwrap()
    }

    #[test]
    fn an_ensemble_that_agrees_passes_and_its_figures_are_told() {
        let record = fine();
        assert_eq!(record.missed(), None);
        let figures: Vec<_> = record.summary().lines().map(|line| line.chars().skip(22).collect::<String>()).collect();
        let figures: Vec<_> = figures.iter().map(|figure| figure.trim()).collect();
        assert_eq!(figures[1..5], ["3.500 s", "40.0 µs", "40.0 µs", "40.0 µs"]);
        assert_eq!(figures[5], "never");
        assert_eq!(figures[7..9], ["500.0 ms", "300.0 ms"]);
        assert_eq!(figures[10], "never");
        let replaced =
            Record { beheaded: Some((PREFERRED, Span::from_secs(10))), successor: Some((5, millis(10_450))), ..fine() };
        assert_eq!((replaced.missed(), replaced.summary().contains("until node 5 led     450.0 ms")), (None, true));
        assert!(
            Record { successor: None, ..replaced }.missed().is_some_and(|missed| missed.contains("nobody took over"))
        );
    }

    #[test]
    fn one_clock_that_strays_once_is_enough_to_fail() {
        for node in PREFERRED..LIAR {
            let mut record = fine();
            // Without the master's own 10 µs: 1 ms from the farthest of the others.
            at(&mut record, millis(9_000)).clocks.insert(node, Span::from_micros(1_030));
            let missed = record.missed().unwrap();
            assert!(missed.contains("ms apart 9.000 s after"), "{missed}");
        }
        let mut record = fine();
        at(&mut record, millis(9_000)).clocks.insert(LIAR, Span::from_secs(-9));
        at(&mut record, millis(4_900)).clocks.insert(PREFERRED, Span::from_secs(-9));
        assert_eq!(record.missed(), None, "neither the liar counts, nor what is before 5 s");
    }

    #[test]
    fn a_node_that_does_not_answer_fails() {
        for (node, name) in [(PREFERRED, "node 1"), (2, "node 2"), (VICTIM, "node 3")] {
            let mut record = fine();
            at(&mut record, millis(12_000)).clocks.remove(&node);
            assert_eq!(record.missed().unwrap(), format!("{name} did not answer 12.000 s after the start"));
        }
    }

    #[test]
    fn the_victim_is_let_off_for_one_second_and_no_longer() {
        for (back, is_fine) in [(7_000, true), (8_000, true), (8_100, false), (14_000, false)] {
            let mut record = fine();
            for sample in record.samples.iter_mut().filter(|sample| sample.at >= millis(7_000)) {
                if sample.at < millis(back) {
                    sample.clocks.insert(VICTIM, Span::from_secs(1));
                }
            }
            assert_eq!(record.missed().is_none(), is_fine, "back at {back} ms");
        }
    }

    #[test]
    fn what_was_not_shown_is_not_passed() {
        let cut = |end, restarted| {
            let mut record = Record { restarted, ..fine() };
            record.samples.retain(|sample| sample.at < end);
            record.missed()
        };
        assert!(cut(JUDGED_FROM, Some(Span::from_secs(7))).is_some());
        assert!(cut(Span::MAX, None).is_some());
        assert!(Record::default().summary().contains("never"));
    }

    #[test]
    fn spans_fit_their_columns() {
        for (nanos, text) in [
            (0, "0.0 µs"),
            (95_240, "95.2 µs"),
            (999_949, "999.9 µs"),
            (999_950, "1.0 ms"),
            (-150_044_000, "-150.0 ms"),
            (999_949_999, "999.9 ms"),
            (999_950_000, "1.000 s"),
            (-4_200_000_000, "-4.200 s"),
        ] {
            assert_eq!(short(Span::from_nanos(nanos)), text);
            assert!(signed(Span::from_nanos(nanos)).chars().count() <= 9, "{text}");
        }
        assert_eq!((signed(Span::from_micros(1)), signed(Span::ZERO)), ("+1.0 µs".to_owned(), "0.0 µs".to_owned()));
    }

    /// A status, from the contract's own form. `reasons`: why the slaves are left out, from node 2 on.
    fn status(node: u64, adjustment: u32, bound: i64, refused: Option<i64>, reasons: &[Option<&str>]) -> Status {
        let peer = |(node_id, reason): (u64, &Option<&str>)| {
            serde_json::json!({
                "node_id": node_id, "incarnation": 1, "address": "127.0.0.1:1", "offset_ns": 0, "delay_ns": 0,
                "skew_ppb": 0, "error_bound_ns": 0, "offset_error_ns": 0, "timestamping": "kernel", "counted": reason.is_none(),
                "reason": reason, "last_heard_ms": 0, "retransmissions": 0,
            })
        };
        let form = serde_json::json!({
            "version": "1", "node_id": node, "incarnation": 1, "domain": 0, "address": "127.0.0.1:1",
            "role": if node == PREFERRED { "master" } else { "listening" }, "term": 1, "master_id": 1, "round": 1,
            "synchronised": true, "error_bound_ns": bound, "last_correction_ns": -999_949_000, "slew_ns": 0,
            "skew_ppb": 0, "adjustment": adjustment, "timestamping": "user", "refused_correction_ns": refused,
            "clock": { "kind": "virtual", "system_ns": 5, "disciplined_ns": 5, "uncertainty_ns": 0 },
            "privileges": { "uid": 0, "gid": 0, "capabilities": [], "no_new_privs": true, "seccomp": true },
            "counters": { "sent": {}, "received": {}, "dropped": {}, "send_errors": 0, "unreachable": 0, "socket_drops": 0, "wake_ups": 0 },
            "peers": (2..).zip(reasons).map(peer).collect::<Vec<_>>(),
        });
        serde_json::from_value(form).unwrap()
    }

    /// Every kind of row: node 4 does not answer, node 3 is dead.
    fn crowd() -> (Sample, Statuses) {
        let reasons = [Some("not-reference"), None, None, Some("newcomer"), Some("disagrees")];
        let statuses = [
            status(PREFERRED, 1, 999_949, None, &reasons),
            status(2, 0, i64::MAX, None, &[]),
            status(5, 1, 999_949_000, None, &[]),
            status(LIAR, 0, i64::MAX, Some(-1), &[]),
        ];
        let statuses: Statuses = statuses.into_iter().map(|status| (status.node_id, status)).collect();
        let mut sample = sample(Span::from_secs(13), [-2_000_000, 1_999_999, 0, 0, -2_000_040, 2_000_000]);
        sample.clocks.retain(|node, _| statuses.contains_key(node));
        (sample, statuses)
    }

    fn view<'a>(sample: &'a Sample, statuses: &'a Statuses) -> View<'a> {
        View { sample, statuses, spread: Some(millis(-150)), dead: vec![VICTIM] }
    }

    #[test]
    fn a_table_fits_80_columns_and_says_what_is_the_matter() {
        let (sample, statuses) = crowd();
        let lines = view(&sample, &statuses).lines(false);
        assert!(lines.iter().all(|line| line.chars().count() < 80), "{lines:#?}");
        assert!(TITLE.lines().all(|line| line.chars().count() < 80));
        let expected = [
            "node 1  master       0.0 µs                  -999.9 ms 999.9 µs  averages",
            "node 2  listening  +4.000 s  ■■■■■■■■■■■■■■          -        -  no: not-refer",
            "node 3  dead              -                          -        -  no answer",
            "node 4  starting          -                          -        -  yes",
            "node 5  listening  -40.0 µs  ■■■■            -999.9 ms 999.9 ms  no: newcomer",
            "node 6  liar       +4.000 s  ■■■■■■■■■■■■■■    refused        -  no: disagrees",
        ];
        assert_eq!(lines[2..], expected);
    }

    #[test]
    fn the_bar_ends_at_its_mark_of_the_scale() {
        let (mut sample, statuses) = crowd();
        for (micros, cells) in [(0, 0), (1, 1), (999, 6), (1_000, 7), (999_999, 12), (1_000_000, 13), (9_000_000, 14)] {
            sample.clocks.insert(2, Span::from_micros(micros - 2_000_000));
            let row = view(&sample, &statuses).row(2, false);
            assert_eq!(row.matches('■').count(), cells, "{row}");
        }
        let marks: Vec<_> = SCALE.chars().enumerate().filter(|(_, c)| *c == '1').map(|(place, _)| place + 1).collect();
        assert_eq!(marks, [1, 7, 13]);
    }

    fn screen(is_terminal: bool, has_colours: bool) -> Screen {
        Screen { is_terminal, has_colours, events: Vec::new(), drawn: 0, next_block: Span::ZERO }
    }

    #[test]
    fn plain_lines_come_once_a_second_and_have_no_escape_codes() {
        let (mut sample, statuses) = crowd();
        let mut screen = screen(false, false);
        let mut blocks = 0;
        for tick in 0..40 {
            sample.at = millis(tick * 50);
            let text = screen.frame(&view(&sample, &statuses)) + &screen.event(sample.at, "news");
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
            blocks += text.matches("offset").count();
        }
        assert_eq!(blocks, 2);
    }

    #[test]
    fn a_terminal_is_drawn_over_and_left_as_it_was() {
        let (sample, statuses) = crowd();
        let mut screen = screen(true, true);
        let first = screen.frame(&view(&sample, &statuses));
        assert_eq!(screen.event(sample.at, "news"), "");
        let (second, third) = (screen.frame(&view(&sample, &statuses)), screen.frame(&view(&sample, &statuses)));
        assert!(!first.contains("news") && second.contains("13.0 s  news"));
        for (before, after) in [(&first, &second), (&second, &third)] {
            assert!(after.contains(&format!("\x1b[{}A\r", before.lines().count() - 1)), "{after:?}");
        }
        // Wrapping is on again, and each colour is switched off.
        assert!(first.ends_with("\n\x1b[?7h"));
        assert_eq!(first.matches(RED).count() + first.matches(GREEN).count(), first.matches("\x1b[0m").count());
        assert_eq!((first.matches(RED).count(), first.matches(GREEN).count()), (2, 2));
        let plain = self::screen(true, false).frame(&view(&sample, &statuses));
        assert!(![RED, GREEN, "\x1b[0m"].iter().any(|colour| plain.contains(colour)), "{plain:?}");
    }

    #[test]
    fn draws_stay_in_their_range_and_reach_its_ends() {
        let drawn: Vec<i64> = (0..200).map(|_| draw(-1..=1).unwrap()).collect();
        assert!([-1, 0, 1].iter().all(|number| drawn.contains(number)));
        assert!(drawn.iter().all(|number| (-1..=1).contains(number)));
    }
}
