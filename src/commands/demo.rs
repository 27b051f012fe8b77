//! `berkeleyd demo`: a whole ensemble on loopback, real processes and sockets, that ends by itself.
//!
//! Six nodes, their virtual clocks wrong by up to 2 s and drifting, one of them a liar that takes no correction. They elect a
//! master and come together; a slave is killed, and comes back with a wrong clock; the master is killed, and another one
//! takes over. All of them read the clock of this machine, so the difference of two nodes' `disciplined_ns - system_ns` is
//! their true disagreement, and not only what they believe: on that the demo is judged.
//!
//! `record.rs` keeps what was seen and judges it; `screen.rs` shows it, redrawn in place on a terminal, as plain lines elsewhere;
//! `ensemble.rs` holds the processes. Here the `SCRIPT` is followed.
//!
//! Whatever ends the demo ends its nodes: its own end, errors and signals by way of the ensemble's `Drop`, and what leaves
//! it no time for that (SIGKILL) by way of `PARENT`; then, and only then, its temporary directory is left behind.

mod ensemble;
mod record;
mod screen;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::process;

use crate::commands::Failure;
use crate::time::{LocalTime, Span};
use ensemble::Ensemble;
use record::{Record, Sample};
use screen::{Screen, TITLE, View};

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

/// Between looks at the nodes: the first must come before the first correction, some 650 ms after the start.
const TICK: Span = Span::from_millis(50);
/// The slaves must answer by then. With the script and `STOPPING` this stays below 20 s.
const GATHERING: Span = Span::from_secs(5);

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

fn write(text: &str) -> Result<(), Ending> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failed("standard output"))
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
