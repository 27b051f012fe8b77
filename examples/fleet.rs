//! The load tool: thousands of real slaves against one real master, judged by what the system and their clocks say.
//!
//! ```sh
//! cargo run --release --example fleet -- --slaves 10000 --duration 30s
//! ```
//!
//! Each slave is a [`Node`](berkeleyd::node::Node) with a socket of its own, kernel stamps, and a virtual clock that starts up to a second
//! wrong and drifts by up to 100 ppm. They share a few threads (`fleet/crew.rs`). The master is a process of its own, this program
//! run as `berkeleyd` (`fleet/master.rs`). When all have joined it is measured for `--duration`: all virtual clocks run on the oscillator of
//! this machine, so that their true differences at one instant are known (`fleet/look.rs`). It exits with 0 only when its limits held
//! (`fleet/report.rs`), with 1 and a line for each that was missed otherwise.
//!
//! One thing is not as with slaves on machines of their own: **the group is heard by one socket for each thread**, whose datagrams go to all its
//! slaves with the one stamp. On a network a multicast datagram is one send for the master, and the receivers' machines bear
//! the rest. On one machine the sender's call bears it all: ten thousand joined sockets would cost the master 8 ms for each
//! datagram, and each join of a slave as much. What is left of that is a delivery a thread. The slaves' joins, which slaves of a fixed role have no use
//! for, are dropped there.

#![expect(clippy::disallowed_methods, reason = "it waits between two looks at what others do")]

#[path = "fleet/crew.rs"]
mod crew;
#[path = "fleet/look.rs"]
mod look;
#[path = "fleet/master.rs"]
mod master;
#[path = "fleet/report.rs"]
mod report;
#[path = "fleet/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration as StdDuration;

use berkeleyd::cli;
use berkeleyd::commands;
use berkeleyd::failure::Failure;
use berkeleyd::identity::{Domain, Round, Term};
use berkeleyd::key_file;
use berkeleyd::local_clock::LocalClock;
use berkeleyd::log_output;
use berkeleyd::run_config::LogFormat;
use berkeleyd::time::{LocalTime, Skew, Span};
use clap::Parser;
use log::{LevelFilter, info};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use nix::unistd::geteuid;
use signal_hook::consts::{SIGINT, SIGTERM};

use crew::{Crew, LOOK_PAUSE, Log, Orders, Signals};
use look::{Look, Reading};
use master::{Master, Usage};
use report::Report;
use stage::Stage;

/// From the start of one slave to that of the next: ten thousand machines are not switched on in one instant.
const START_PAUSE: Span = Span::from_micros(300);
/// Between two looks at what has become of it.
const GLANCE: StdDuration = StdDuration::from_millis(20);
/// A master shows its status after this.
const MASTER_PATIENCE: Span = Span::from_secs(10);
/// Slaves that have not joined after this, and the second for each of them, never will.
const JOINING_PATIENCE: [Span; 2] = [Span::from_secs(10), Span::from_millis(5)];
/// Rounds between the last slave's first correction and the first that counts.
const SETTLING_ROUNDS: i64 = 4;
/// Descriptors beside those of the slaves.
const OTHER_FILES: u64 = 64;

#[derive(Debug, Parser)]
#[command(name = "fleet", about = "Thousands of real slaves against one real master")]
struct Options {
    /// How many slaves
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    slaves: u32,
    /// How long to measure once all have joined
    #[arg(long, value_name = "DUR", default_value = "10s")]
    duration: Span,
    /// Time between rounds
    #[arg(long, value_name = "DUR", default_value = "1s")]
    interval: Span,
    /// Threads that the slaves share
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Authenticate every frame
    #[arg(long)]
    keys: bool,
    /// Master and slaves in two network namespaces of their own, with a virtual cable between them
    #[arg(long)]
    namespaces: bool,
    /// The slaves are there before the master
    #[arg(long)]
    slaves_first: bool,
    /// The machine has other work: do not judge processor, memory and what takes how long
    #[arg(long)]
    busy: bool,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// More options for the master
    #[arg(last = true, value_name = "OPTION")]
    master: Vec<OsString>,
}

fn main() -> ExitCode {
    let mut arguments = env::args_os();
    let own_name = arguments.next();
    let is_master = env::args_os().nth(1).is_some_and(|first| first == master::COMMAND);
    let result = if is_master {
        master::be(arguments).map(|()| true)
    } else {
        options(own_name.into_iter().chain(arguments)).and_then(|options| run(&options))
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            log_output::tell(&failure);
            failure.exit_code()
        }
    }
}

/// What was asked for. Who asks for help gets it, and that is the end.
fn options(arguments: impl Iterator<Item = OsString>) -> Result<Options, Failure> {
    Options::try_parse_from(arguments)
        .map_err(|error| if error.use_stderr() { cli::mistake(&error) } else { error.exit() })
}

/// For `map_err`: what was attempted, and what the system said.
fn failed<E: std::fmt::Display>(attempt: &str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Failed(format!("{attempt}: {error}"))
}

/// Runs a fleet; true when all limits held.
fn run(options: &Options) -> Result<bool, Failure> {
    let stage = if options.namespaces { Stage::Namespaces } else { Stage::Loopback }.enter()?;
    log_output::start(LevelFilter::Info, LogFormat::Text);
    raise_file_limit(u64::from(options.slaves) + u64::from(options.threads) * 4 + OTHER_FILES)?;
    let mut report = Fleet::new(options, stage)?.sail()?;
    report.judge(options.busy || cfg!(debug_assertions));
    let text = if options.json {
        let mut text = serde_json::to_string_pretty(&report).map_err(failed("the figures"))?;
        text.push('\n');
        text
    } else {
        report.to_string()
    };
    commands::print(&text)?;
    Ok(report.missed.is_empty())
}

/// Lets this process have so many files open.
fn raise_file_limit(needed: u64) -> Result<(), Failure> {
    let limit = Resource::RLIMIT_NOFILE;
    let (soft, hard) = getrlimit(limit).map_err(failed("the limit of open files"))?;
    if hard < needed {
        let text = format!(
            "{needed} open files are needed and {hard} are allowed: as root, ulimit -Hn {needed}, or take fewer --slaves"
        );
        return Err(Failure::Failed(text));
    }
    setrlimit(limit, soft.max(needed), hard).map_err(failed("the limit of open files"))
}

/// All that a run needs.
#[derive(Debug)]
struct Fleet<'a> {
    options: &'a Options,
    stage: Stage,
    dir: tempfile::TempDir,
    /// The machine's.
    oscillator: LocalClock,
    interrupted: Arc<AtomicBool>,
    orders: Orders,
}

/// What was seen from outside.
#[derive(Debug)]
struct Course {
    joined: Option<Span>,
    begin: Snapshot,
    end: Snapshot,
    /// The master's clock at two instants near the end.
    master_clock: Option<[(LocalTime, Reading); 2]>,
}

/// The use that was made of the machine by then.
#[derive(Debug)]
struct Snapshot {
    /// The next look at the clocks.
    look: i64,
    at: LocalTime,
    master: Usage,
    fleet_cpu: Span,
    fleet_drops: u64,
}

/// The slaves' threads.
type Crews<'scope> = Vec<ScopedJoinHandle<'scope, Result<Log, String>>>;

impl<'a> Fleet<'a> {
    fn new(options: &'a Options, stage: Stage) -> Result<Self, Failure> {
        let oscillator = LocalClock::new(Skew::ZERO).map_err(failed("the clock"))?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(failed("signals"))?;
        }
        let dir = tempfile::tempdir().map_err(failed("no directory for the master"))?;
        let keys = options.keys.then(|| {
            let path = dir.path().join("keys");
            master::write_keys(&path)?;
            key_file::load_now(&path, geteuid()).map_err(Failure::Failed)
        });
        // A port that was free a moment ago.
        let port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.local_addr());
        let group = SocketAddr::from(([239, 255, 5, 25], port.map_err(failed("no port"))?.port()));
        let orders = Orders {
            bind: stage.slaves(),
            group,
            domain: Domain::new(getrandom::u32().map_err(failed("no random numbers"))?),
            interval: options.interval,
            keys: keys.transpose()?,
            origin: LocalTime::default(),
            start_pause: START_PAUSE,
        };
        Ok(Self { options, stage, dir, oscillator, interrupted, orders })
    }

    fn prepare_master(&self) -> Result<Master, Failure> {
        let interval = format!("{}ns", self.options.interval.as_nanos());
        let mut options: Vec<OsString> = vec!["--interval".into(), interval.into()];
        if self.options.keys {
            options.extend(["--key-file".into(), self.dir.path().join("keys").into()]);
        }
        options.extend(self.options.master.iter().cloned());
        let Orders { group, domain, .. } = self.orders;
        Master::prepare(self.stage, self.dir.path(), group, domain, &options)
    }

    /// Lets the master start, and waits until it shows its status.
    fn start(&self, master: &mut Master, crews: &Crews<'_>) -> Result<(), Failure> {
        master.go()?;
        let deadline = self.oscillator.now() + MASTER_PATIENCE;
        while master.status().is_none() {
            self.glance(master, crews)?;
            if self.oscillator.now() > deadline {
                return Err(Failure::Failed(format!("the master shows no status after {MASTER_PATIENCE}")));
            }
        }
        Ok(())
    }

    /// Runs master and slaves, and tells what came of it.
    fn sail(mut self) -> Result<Report, Failure> {
        let mut master = self.prepare_master()?;
        let mut alone = None;
        if !self.options.slaves_first {
            self.start(&mut master, &Vec::new())?;
            alone = Some(master.usage()?.resident);
        }
        self.orders.origin = self.oscillator.now();
        let signals = Signals::default();
        let (course, logs) = thread::scope(|scope| {
            let crews: Crews<'_> = (1..=self.options.threads)
                .map(|first| {
                    let (fleet, signals) = (&self, &signals);
                    let numbers =
                        (first..=fleet.options.slaves).step_by(usize::try_from(fleet.options.threads).unwrap_or(1));
                    scope.spawn(move || {
                        let crew = Crew::new(&fleet.orders, signals, numbers.map(u64::from));
                        crew.map_err(|error| error.to_string())?.run()
                    })
                })
                .collect();
            let course = self.watch(&mut master, &signals, &crews);
            signals.stop.store(true, Ordering::Relaxed);
            let logs: Result<Vec<Log>, String> = crews
                .into_iter()
                .map(|crew| crew.join().unwrap_or_else(|_| Err("a thread of slaves ended".to_owned())))
                .collect();
            (course, logs)
        });
        // Why a crew ended says more than that it did.
        let logs = logs.map_err(failed("the slaves"))?;
        Ok(self.report(&course?, alone, &logs))
    }

    /// Waits a little, unless somebody has ended.
    fn glance(&self, master: &mut Master, crews: &Crews<'_>) -> Result<(), Failure> {
        thread::sleep(GLANCE);
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Failure::Failed("interrupted".to_owned()));
        }
        if crews.iter().any(ScopedJoinHandle::is_finished) {
            return Err(Failure::Failed("slaves have ended".to_owned()));
        }
        master.check()
    }

    fn wait_until(&self, instant: LocalTime, master: &mut Master, crews: &Crews<'_>) -> Result<(), Failure> {
        while self.oscillator.now() < instant {
            self.glance(master, crews)?;
        }
        Ok(())
    }

    /// From the start of the slaves to the end of the measurement.
    fn watch(&self, master: &mut Master, signals: &Signals, crews: &Crews<'_>) -> Result<Course, Failure> {
        let slaves = self.options.slaves;
        let mut start = self.orders.origin;
        if self.options.slaves_first {
            let all_there = start + START_PAUSE.times(i64::from(slaves)) + LOOK_PAUSE;
            self.wait_until(all_there, master, crews)?;
            start = self.oscillator.now();
            self.start(master, crews)?;
        }
        info!("{slaves} slaves join");
        let [least, each] = JOINING_PATIENCE;
        let patience = start + least + each.times(i64::from(slaves));
        let joined = || usize::try_from(slaves).is_ok_and(|slaves| signals.corrected.load(Ordering::Relaxed) >= slaves);
        while !joined() && self.oscillator.now() < patience {
            self.glance(master, crews)?;
        }
        let joined = joined().then(|| self.oscillator.now() - start);
        info!("{} of them have been corrected", signals.corrected.load(Ordering::Relaxed));
        self.wait_until(self.oscillator.now() + self.options.interval.times(SETTLING_ROUNDS), master, crews)?;
        info!("measuring for {}", self.options.duration);
        let begin = self.snapshot(master)?;
        self.wait_until(begin.at + self.options.duration, master, crews)?;
        let end = self.snapshot(master)?;
        let before = self.master_clock(master);
        self.wait_until(self.oscillator.now() + LOOK_PAUSE.times(2), master, crews)?;
        let master_clock = before.zip(self.master_clock(master)).map(|(before, after)| [before, after]);
        Ok(Course { joined, begin, end, master_clock })
    }

    fn snapshot(&self, master: &Master) -> Result<Snapshot, Failure> {
        let fleet_cpu = ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map_err(failed("the clock"))?;
        let at = self.oscillator.now();
        Ok(Snapshot {
            look: (at - self.orders.origin).as_nanos() / LOOK_PAUSE.as_nanos() + 1,
            at,
            master: master.usage()?,
            fleet_cpu: Span::from_nanos(fleet_cpu.num_nanoseconds()),
            fleet_drops: master::drops("self").map_err(failed("what the slaves' sockets dropped"))?,
        })
    }

    /// Where the master's clock stands above the oscillator, and when.
    fn master_clock(&self, master: &Master) -> Option<(LocalTime, Reading)> {
        // The master says how far it is ahead of CLOCK_REALTIME, which somebody may be slewing.
        let before = self.oscillator.pair();
        let clock = master.status()?;
        let after = self.oscillator.pair();
        let (system, span) = (Span::from_nanos(clock.clock.system_ns), after.system - before.system);
        let gap = |pair: &berkeleyd::local_clock::Pair| pair.system.ahead_of(pair.local);
        let part = (system - before.system.ahead_of(LocalTime::default())).as_secs_f64() / span.as_secs_f64();
        let gap = gap(&before) + Span::from_secs_f64((gap(&after) - gap(&before)).as_secs_f64() * part);
        let ahead = Span::from_nanos(clock.clock.disciplined_ns) - system;
        let uncertainty = before.uncertainty + after.uncertainty + Span::from_nanos(clock.clock.uncertainty_ns);
        let bound = Span::from_nanos(clock.error_bound_ns) + uncertainty;
        Some((LocalTime::default() + (system - gap), Reading { lead: ahead + gap, bound }))
    }

    /// `alone`: what the master kept resident before there was a slave, in KiB.
    fn report(&self, course: &Course, alone: Option<u64>, logs: &[Log]) -> Report {
        let Course { begin, end, .. } = course;
        let looks = merged_looks(logs);
        let at = |number: i64| looks.get(&number).copied().unwrap_or_default();
        let rounds = whole_rounds(logs, at(begin.look).newest, at(end.look).newest);
        let measured: Vec<&Look> = looks.range(begin.look..=end.look).map(|(_, look)| look).collect();
        let mut spreads: Vec<Span> = measured.iter().map(|look| look.spread()).collect();
        spreads.sort_unstable();
        let micros = |span: Option<&Span>| span.map_or(0.0, |span| span.as_secs_f64() * 1e6);
        let passed = end.at - begin.at;
        let share = |used: Span| used.as_secs_f64() / passed.as_secs_f64();
        let mut dropped: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (reason, count) in logs.iter().flat_map(|log| &log.dropped) {
            *dropped.entry(reason).or_default() += count;
        }
        let each = |alone: u64| end.master.resident.saturating_sub(alone) * 1_024 / u64::from(self.options.slaves);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Report {
            slaves: self.options.slaves,
            threads: self.options.threads,
            authenticated: self.options.keys,
            interval_s: self.options.interval.as_secs_f64(),
            joined_s: course.joined.map(Span::as_secs_f64),
            measured_s: passed.as_secs_f64(),
            rounds: count(rounds.len()),
            corrected: rounds.iter().fold(0.0, |sum, round| sum + f64::from(*round))
                / (f64::from(count(rounds.len())) * f64::from(self.options.slaves)).max(1.0),
            worst_round: rounds.iter().min().copied().unwrap_or_default(),
            looks: count(measured.len()),
            spread_median_us: micros(spreads.get(spreads.len() / 2)),
            spread_max_us: micros(spreads.last()),
            share_of_bounds: measured.iter().map(|look| look.share_of_bounds()).fold(0.0, f64::max),
            beyond_bounds: count(measured.iter().filter(|look| !look.keeps_bounds()).count()),
            master_within_bounds: course.master_clock.and_then(|clocks| self.master_keeps_bounds(clocks, &looks)),
            master_cpu: share(end.master.cpu - begin.master.cpu),
            master_micros_an_exchange: 1e6
                * share(end.master.cpu - begin.master.cpu)
                * self.options.interval.as_secs_f64()
                / f64::from(self.options.slaves),
            master_waited: share(end.master.waited - begin.master.waited),
            master_resident_kib: end.master.resident,
            master_highest_kib: end.master.highest,
            master_bytes_a_slave: alone.map(each),
            master_drops_joining: begin.master.drops,
            master_drops: end.master.drops - begin.master.drops,
            fleet_cpu: share(end.fleet_cpu - begin.fleet_cpu),
            fleet_drops: end.fleet_drops - begin.fleet_drops,
            send_errors: logs.iter().map(|log| log.send_errors).sum(),
            unreachable: logs.iter().map(|log| log.unreachable).sum(),
            dropped,
            load: load.split_whitespace().next().unwrap_or_default().to_owned(),
            missed: Vec::new(),
        }
    }

    /// Whether the master's clock, seen at two instants, was within its bound and theirs at the looks between; `None` when there was none.
    fn master_keeps_bounds(&self, clocks: [(LocalTime, Reading); 2], looks: &BTreeMap<i64, Look>) -> Option<bool> {
        let [(first, before), (last, after)] = clocks;
        let rate = Skew::from_spans(last - first + (after.lead - before.lead), last - first);
        let between = looks.iter().filter_map(|(number, look)| {
            let instant = self.orders.origin + LOOK_PAUSE.times(*number);
            let lead = before.lead + rate.over(instant - first);
            let mut look = *look;
            look.add(Reading { lead, bound: before.bound.max(after.bound) });
            (first..=last).contains(&instant).then(|| look.keeps_bounds())
        });
        between.reduce(|one, other| one && other)
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What all crews saw, by number; what one of them missed at the end is not whole.
fn merged_looks(logs: &[Log]) -> BTreeMap<i64, Look> {
    let whole = logs.iter().map(|log| log.looks.len()).min().unwrap_or_default();
    let mut looks: BTreeMap<i64, Look> = BTreeMap::new();
    for (number, look) in logs.iter().flat_map(|log| log.looks.iter().take(whole)) {
        looks.entry(*number).or_default().merge(look);
    }
    looks
}

/// How many slaves were corrected in each round that began after `first` and was over at `last`, which may have been under way.
fn whole_rounds(logs: &[Log], first: (Term, Round), last: (Term, Round)) -> Vec<u32> {
    let (term, end) = last;
    let start = if first.0 == term { first.1.get() + 1 } else { 1 };
    let corrected = |round| logs.iter().filter_map(|log| log.rounds.get(&(term, Round::new(round)))).sum();
    (start..end.get()).map(|round| count(corrected(round))).collect()
}
