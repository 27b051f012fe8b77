//! What is simulated, as data: nodes, their clocks, the network, faults on a schedule, and the limits that the outcome has to keep.
//!
//! Scenarios are TOML files (`scenarios/*.toml`); the options of `berkeleyd simulate` make one as well. Unknown keys are
//! mistakes. Durations are texts such as "50us", rates are numbers in the unit that their name ends with.

use std::num::NonZeroUsize;

use serde::{Deserialize, Deserializer};

use crate::average::Average;
use crate::config::Role;
use crate::stamp::StampSource;
use crate::time::Span;

/// One scenario.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Scenario {
    /// What it shows, in one line.
    pub about: String,
    /// How many nodes there are; the first is the master unless `node.roles` says otherwise.
    pub nodes: NonZeroUsize,
    /// How long it runs in true time.
    #[serde(deserialize_with = "duration")]
    pub duration: Span,
    /// The ensembles, when there are several, each with a network of its own. Every node belongs to one of them, or to two: it is a
    /// submaster then, master in that with the higher number. Empty: there is one.
    pub domains: Vec<DomainModel>,
    /// What every clock is like.
    pub clock: ClockModel,
    /// Clocks of single nodes that differ; the first is the master's. Shorter than `nodes`: the rest are as `clock` says.
    pub clocks: Vec<ClockModel>,
    /// What every link is like.
    pub link: LinkModel,
    /// What the nodes are told.
    pub node: NodeModel,
    /// How many nodes lie, the last ones; and how.
    pub liars: usize,
    /// How the liars lie.
    pub lie: Lie,
    /// When each node starts: one after the other with this much in between.
    #[serde(deserialize_with = "duration")]
    pub stagger: Span,
    /// What happens when.
    pub faults: Vec<Fault>,
    /// What the outcome has to keep.
    pub limits: Limits,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            about: String::new(),
            nodes: NonZeroUsize::MIN.saturating_add(7),
            duration: Span::from_secs(60),
            domains: Vec::new(),
            clock: ClockModel::default(),
            clocks: Vec::new(),
            link: LinkModel::default(),
            node: NodeModel::default(),
            liars: 0,
            lie: Lie::default(),
            stagger: Span::ZERO,
            faults: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// One of several ensembles.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DomainModel {
    /// Its number.
    pub number: u32,
    /// Its nodes, by their numbers from 0.
    pub nodes: Vec<usize>,
    /// The role of those that are not its submasters; `auto` when absent.
    #[serde(default = "auto")]
    pub role: Role,
}

fn auto() -> Role {
    Role::Auto
}

/// An oscillator, and how wrong the clock that starts on it is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ClockModel {
    /// What the disciplined clock shows at its start less true time. With `is_spread`: drawn evenly from minus this to plus this.
    #[serde(deserialize_with = "duration")]
    pub offset: Span,
    /// Constant error of the oscillator's rate. With `is_spread`: drawn evenly from minus this to plus this.
    pub drift_ppm: f64,
    /// True: `offset` and `drift_ppm` are drawn for each node. False: they are as given.
    pub spread: bool,
    /// Random walk of the rate: its standard deviation after one second, growing with the square root of time.
    pub wander_ppb: f64,
    /// A sinusoidal change of the rate, as the temperature of a day or an air conditioner makes: amplitude, ...
    pub swing_ppb: f64,
    /// ... and period. The phase is drawn for each node.
    #[serde(deserialize_with = "duration")]
    pub swing_period: Span,
    /// The clock is read in steps of this.
    #[serde(deserialize_with = "duration")]
    pub granularity: Span,
    /// The program gets to run late by an exponentially distributed time with this mean (tens of µs), and what it sends leaves late by as
    /// much.
    #[serde(deserialize_with = "duration")]
    pub stamp_noise: Span,
    /// What arrives is stamped at once, as the kernel does it, and then waits for its process to run: exponentially distributed
    /// with this mean. It becomes part of a slave's turnaround.
    #[serde(deserialize_with = "duration")]
    pub scheduling: Span,
    /// Who stamps what arrives and leaves: `user`, so that the stamps are wrong by that noise; or `kernel`, so that they are right,
    /// and the node learns of a departure when it happens.
    pub stamps: StampSource,
}

impl Default for ClockModel {
    fn default() -> Self {
        Self {
            offset: Span::from_secs(2),
            drift_ppm: 50.0,
            spread: true,
            wander_ppb: 1.0,
            swing_ppb: 0.0,
            swing_period: Span::from_secs(3_600),
            granularity: Span::from_nanos(1),
            stamp_noise: Span::ZERO,
            scheduling: Span::ZERO,
            stamps: StampSource::User,
        }
    }
}

/// A link from one node to another. Each direction is a link of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LinkModel {
    /// The least that a datagram takes.
    #[serde(deserialize_with = "duration")]
    pub delay: Span,
    /// Mean of what comes on top (for `normal`: its standard deviation, halved below zero).
    #[serde(deserialize_with = "duration")]
    pub jitter: Span,
    /// How that is distributed.
    pub distribution: Distribution,
    /// For `empirical`: delays that are drawn from, instead of `jitter`.
    #[serde(deserialize_with = "durations")]
    pub samples: Vec<Span>,
    /// Added to `delay` on the way from the master, taken from it on the way to it (halves of the difference).
    #[serde(deserialize_with = "duration")]
    pub asymmetry: Span,
    /// Fraction lost, each datagram by itself.
    pub loss: f64,
    /// Bursty loss (Gilbert-Elliott): the chance that a good link turns bad with a datagram, ...
    pub burst_begin: f64,
    /// ... that a bad one turns good, ...
    pub burst_end: f64,
    /// ... and the fraction lost on a bad one.
    pub burst_loss: f64,
    /// Fraction that arrives twice.
    pub duplication: f64,
    /// Fraction that is held back by up to ten times `delay`, so that later ones overtake it.
    pub reordering: f64,
    /// Fraction of which one bit is turned.
    pub corruption: f64,
    /// The receiving host checks the UDP checksum, which finds every turned bit and every missing end; what it finds never
    /// reaches a node. False: damaged datagrams reach the node (without keys they may then move a clock).
    pub checksum: bool,
    /// Fraction of which the end is missing.
    pub truncation: f64,
    /// Longer datagrams are lost, in bytes.
    pub mtu: usize,
    /// A receiver's link carries so many bits per second; what comes faster queues. 0: no limit.
    pub bandwidth: u64,
    /// Bytes that may queue before a receiver; more are lost.
    pub queue: usize,
}

impl Default for LinkModel {
    fn default() -> Self {
        Self {
            delay: Span::from_micros(50),
            jitter: Span::from_micros(10),
            distribution: Distribution::Exponential,
            samples: Vec::new(),
            asymmetry: Span::ZERO,
            loss: 0.0,
            burst_begin: 0.0,
            burst_end: 0.1,
            burst_loss: 0.5,
            duplication: 0.0,
            reordering: 0.0,
            corruption: 0.0,
            checksum: true,
            truncation: 0.0,
            mtu: 1_500,
            bandwidth: 0,
            queue: 262_144,
        }
    }
}

/// How what comes on top of the least delay is distributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Nothing comes on top.
    None,
    /// The size of a normally distributed number.
    Normal,
    /// As queues that are rarely full make it.
    #[default]
    Exponential,
    /// With a heavy tail (shape 1.5): most are quick and some take very long.
    Pareto,
    /// Drawn from the given samples.
    Empirical,
}

/// What the nodes are told; see `berkeleyd --help`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NodeModel {
    /// Time between rounds.
    #[serde(deserialize_with = "duration")]
    pub interval: Span,
    /// The shortest time between rounds; 125 ms, or the interval if that is less, when absent.
    #[serde(deserialize_with = "maybe_duration")]
    pub min_interval: Option<Span>,
    /// The longest; the interval when absent.
    #[serde(deserialize_with = "maybe_duration")]
    pub max_interval: Option<Span>,
    /// How offsets are averaged.
    pub average: Average,
    /// How close clocks must be to count as agreeing.
    #[serde(deserialize_with = "duration")]
    pub gamma: Span,
    /// Unicast between master and slaves instead of a group.
    pub unicast: bool,
    /// Corrections above the step threshold may step after the first.
    pub allow_step: bool,
    /// The roles of the first nodes; the last one given is that of all others too. Absent: the first is master, the others slaves.
    /// `roles = ["auto"]`: they elect their master.
    pub roles: Vec<Role>,
    /// The priorities of the first nodes; that of the others is 0.
    pub priorities: Vec<i32>,
    /// Whoever has a higher priority takes over.
    pub preempt: bool,
    /// A master corrects nobody while it hears fewer nodes, itself included.
    pub quorum: NonZeroUsize,
}

impl Default for NodeModel {
    fn default() -> Self {
        Self {
            interval: Span::from_secs(1),
            min_interval: None,
            max_interval: None,
            average: Average::default(),
            gamma: Span::from_millis(20),
            unicast: false,
            allow_step: false,
            roles: Vec::new(),
            priorities: Vec::new(),
            preempt: false,
            quorum: NonZeroUsize::MIN,
        }
    }
}

impl NodeModel {
    /// The shortest time between rounds.
    pub(crate) fn shortest_interval(&self) -> Span {
        self.min_interval.unwrap_or(self.interval.min(Span::from_millis(125)))
    }
}

/// How a liar lies.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Lie {
    /// When it begins, in true time from the beginning: until then liars are members like all others.
    #[serde(deserialize_with = "duration")]
    pub from: Span,
    /// Its clock is said to be ahead by this much.
    #[serde(deserialize_with = "duration")]
    pub ahead: Span,
    /// And to gain this much more from then on, in ppm.
    pub drift_ppm: f64,
    /// And to be known this well; as it is when absent.
    #[serde(deserialize_with = "maybe_duration")]
    pub bound: Option<Span>,
    /// Both stamps of an answer, t2 and t3, are said to be later by this much: the way there looks longer, and the way back shorter.
    #[serde(deserialize_with = "duration")]
    pub late: Span,
    /// A liar that is master adds this to the corrections of its slaves.
    #[serde(deserialize_with = "duration")]
    pub corrections: Span,
    /// Only one liar lies at a time, and the next one after so long. Zero: all of them always.
    #[serde(deserialize_with = "duration")]
    pub turn: Span,
    /// Liars tell every other listener the opposite: a slave tells the next master another story, a master tells two to its slaves.
    pub two_faced: bool,
    /// True: all liars tell the same. False: every second one tells the opposite.
    pub colluding: bool,
    /// True: they seem to take every correction, and are ahead again at once. False: they refuse them all, from their start on.
    pub obeys: bool,
}

impl Default for Lie {
    fn default() -> Self {
        Self {
            from: Span::ZERO,
            ahead: Span::from_secs(1),
            drift_ppm: 0.0,
            bound: None,
            late: Span::ZERO,
            corrections: Span::ZERO,
            turn: Span::ZERO,
            two_faced: false,
            colluding: true,
            obeys: false,
        }
    }
}

/// Something that happens at an instant. Nodes are numbered from 0, the master.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fault {
    /// When, in true time from the beginning.
    #[serde(deserialize_with = "duration")]
    pub at: Span,
    /// What.
    pub what: FaultKind,
    /// To whom; empty: to all.
    #[serde(default)]
    pub nodes: Vec<usize>,
    /// To whoever is master when it begins, instead of `nodes`.
    #[serde(default)]
    pub master: bool,
    /// In this one of several domains only: whose master; or which network is cut.
    #[serde(default)]
    pub domain: Option<u32>,
    /// How long it lasts; zero: for ever, or for an instant.
    #[serde(default, deserialize_with = "duration", rename = "for")]
    pub lasting: Span,
    /// By how much, for `jump` and `slow`.
    #[serde(default, deserialize_with = "duration")]
    pub by: Span,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Stops without a word; after `for` it starts again, with a new incarnation and a clock as wrong as at first.
    Crash,
    /// Stops and says so; after `for` it starts again.
    Leave,
    /// Does nothing for a while; its oscillator goes on (SIGSTOP). What arrives meanwhile waits.
    Pause,
    /// The host is suspended: its oscillator stands still too.
    Suspend,
    /// Its oscillator jumps by `by`, forward.
    Jump,
    /// Every datagram to and from it takes `by` longer.
    Slow,
    /// Nothing passes between these nodes and the others.
    Partition,
    /// Nothing passes from these nodes to the others; what the others send arrives.
    Mute,
    /// Nothing passes to these nodes from the others; what they send arrives.
    Deaf,
    /// An attacker without a node injects forged frames to these nodes, ten a second.
    Forge,
    /// An attacker sends to these nodes again what it has recorded, ten frames a second.
    Replay,
}

/// What the outcome of a run has to keep; what is absent is not judged.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Until the true spread stays below `settle-below`.
    #[serde(deserialize_with = "maybe_duration")]
    pub settle: Option<Span>,
    /// What counts as settled; 1 ms when absent.
    #[serde(deserialize_with = "maybe_duration")]
    pub settle_below: Option<Span>,
    /// Figures are of the time after settling, but not before this.
    #[serde(deserialize_with = "duration")]
    pub judge_from: Span,
    /// Largest spread after settling.
    #[serde(deserialize_with = "maybe_duration")]
    pub max_spread: Option<Span>,
    /// Root mean square of the spread after settling.
    #[serde(deserialize_with = "maybe_duration")]
    pub rms_spread: Option<Span>,
    /// How fast the ensemble may draw its members away from where they would be alone, after settling. It is what liars can do
    /// to clocks that all agree; oscillators without drift show nothing else.
    pub drag_ppm: Option<f64>,
    /// Largest distance of a clock from true time after settling. The ensemble goes its own way, so that this says something
    /// only where its clocks start right: how far others than its honest members have moved it.
    #[serde(deserialize_with = "maybe_duration")]
    pub max_error: Option<Span>,
    /// Largest distance of a clock from the mean of the topmost ensemble after settling: of those of that ensemble, of those one domain
    /// below it, and so on.
    #[serde(deserialize_with = "durations")]
    pub tiers: Vec<Span>,
    /// Median of the published error bounds after settling: a bound that is too wide is honest and of no use.
    #[serde(deserialize_with = "maybe_duration")]
    pub median_bound: Option<Span>,
    /// How long a connected group may have no master, or more than one. Faults that cut it, start or stop nodes begin the time anew.
    #[serde(deserialize_with = "maybe_duration")]
    pub one_master: Option<Span>,
    /// The highest term in the end: masterships that were needed, and a few.
    pub terms: Option<u64>,
    /// Corrections that a node applies per round at most, on average.
    pub corrections_per_round: Option<f64>,
    /// Bytes that a node sends and receives per second, on average.
    pub bytes_per_second: Option<f64>,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn maybe_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    duration(deserializer).map(Some)
}

fn durations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Span>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}
