//! What the nodes say, as metrics: OpenMetrics text, and the older text of Prometheus that is made of it.
//!
//! Names and units follow the conventions: base units, `_total` for what only grows, `_info` for what is text. `docs/monitoring.md` lists
//! them all, and a test compares.

use std::fmt::{self, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::status::{PeerStatus, RoleName, Status};
use crate::time::{LocalTime, Skew, Span};

use super::watched::Watched;

/// One node's share of all metrics.
#[derive(Debug)]
struct Node {
    socket: String,
    /// `None` while it does not answer.
    status: Option<Status>,
    /// Time since the last answer; `None`: there was none.
    age: Option<Span>,
}

/// A number of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Whole(u64),
    Real(f64),
}

impl From<bool> for Number {
    fn from(is_so: bool) -> Self {
        Self::Whole(is_so.into())
    }
}

impl From<Span> for Number {
    fn from(span: Span) -> Self {
        Self::Real(span.as_secs_f64())
    }
}

/// A metric with one number for each thing of a kind. `None`: there is no such number at present.
struct Family<T> {
    name: &'static str,
    help: &'static str,
    unit: Option<Measure>,
    kind: MetricType,
    number: fn(&T) -> Option<Number>,
}

const fn gauge<T>(
    name: &'static str,
    unit: Option<Measure>,
    help: &'static str,
    number: fn(&T) -> Option<Number>,
) -> Family<T> {
    Family { name, help, unit, kind: MetricType::Gauge, number }
}

const fn counter<T>(name: &'static str, help: &'static str, number: fn(&T) -> Option<Number>) -> Family<T> {
    Family { name, help, unit: None, kind: MetricType::Counter, number }
}

/// A unit, which is part of a metric's name.
#[derive(Clone, Copy, Debug)]
enum Measure {
    Seconds,
    Ratio,
}

impl Measure {
    fn unit(self) -> Unit {
        match self {
            Self::Seconds => Unit::Seconds,
            Self::Ratio => Unit::Other("ratio".to_owned()),
        }
    }
}

const SECONDS: Option<Measure> = Some(Measure::Seconds);
const RATIO: Option<Measure> = Some(Measure::Ratio);

fn seconds(nanos: i64) -> Option<Number> {
    Some(Span::from_nanos(nanos).into())
}

/// `None` for "no bound is known".
fn bound(nanos: i64) -> Option<Number> {
    (nanos != Span::MAX.as_nanos()).then(|| Span::from_nanos(nanos).into())
}

fn ratio(ppb: i64) -> Option<Number> {
    Some(Number::Real(Skew::from_ppb(ppb).as_ratio()))
}

fn whole(number: impl TryInto<u64>) -> Option<Number> {
    number.try_into().ok().map(Number::Whole)
}

/// Of each node that answers, and of the node above of a submaster.
const NODE: [Family<Status>; 19] = [
    gauge(
        "synchronised",
        None,
        "Whether the clock was corrected and its error bound is what is wanted (1) or not (0)",
        |status| Some(status.synchronised.into()),
    ),
    gauge(
        "error_bound",
        SECONDS,
        "How far the clock can be from ensemble time; absent before its first correction",
        |status| bound(status.error_bound_ns),
    ),
    gauge("last_correction", SECONDS, "What was last added to the clock", |status| seconds(status.last_correction_ns)),
    gauge("slew", SECONDS, "What the clock still has to gain by slewing", |status| seconds(status.slew_ns)),
    gauge("skew", RATIO, "Rate of the clock relative to its oscillator, less one", |status| ratio(status.skew_ppb)),
    gauge("system_clock_offset", SECONDS, "The clock that is kept minus the system's clock", |status| {
        seconds(status.clock.disciplined_ns.saturating_sub(status.clock.system_ns))
    }),
    gauge("refused_correction", SECONDS, "The last correction that was refused; absent when none was", |status| {
        status.refused_correction_ns.and_then(seconds)
    }),
    gauge("term", None, "The newest mastership that is known", |status| whole(status.term)),
    gauge("master_node_id", None, "Number of the node that is master; absent when none is heard", |status| {
        status.master_id.and_then(whole)
    }),
    gauge("mastership_age", SECONDS, "For how long it has been, as far as this node has heard", |status| {
        status.master_for_ms.map(|millis| Span::from_millis(millis).into())
    }),
    gauge("round_interval", SECONDS, "On a master: time from one round to the next", |status| {
        status.pause_ns.and_then(seconds)
    }),
    gauge("peers", None, "On a master: slaves that are listed", |status| {
        whole(status.peers.len()).filter(|_| status.role == RoleName::Master)
    }),
    gauge("authenticated", None, "Whether frames are authenticated with a key (1) or not (0)", |status| {
        Some(status.keys.is_some().into())
    }),
    counter("corrections", "Corrections that were applied", |status| whole(status.adjustment)),
    counter("send_errors", "Datagrams that the system did not send", |status| whole(status.counters.send_errors)),
    counter("unreachable", "Datagrams that reached nobody, as routers or hosts said", |status| {
        whole(status.counters.unreachable)
    }),
    counter("socket_drops", "Datagrams lost because a socket's buffer was full", |status| {
        whole(status.counters.socket_drops)
    }),
    counter("wake_ups", "Times that the event loop woke up", |status| whole(status.counters.wake_ups)),
    gauge("round", None, "The master's round in this term, or that of the last correction", |status| {
        whole(status.round)
    }),
];

/// Of each slave that a master lists.
const PEER: [Family<PeerStatus>; 7] = [
    gauge("peer_offset", SECONDS, "The slave's clock minus the master's", |peer| seconds(peer.offset_ns)),
    gauge("peer_error_bound", SECONDS, "How far the offset can be wrong", |peer| bound(peer.error_bound_ns)),
    gauge("peer_delay", SECONDS, "Smallest round-trip time of late", |peer| seconds(peer.delay_ns)),
    gauge("peer_skew", RATIO, "Rate of the slave's oscillator relative to the master's, less one", |peer| {
        ratio(peer.skew_ppb)
    }),
    gauge("peer_counted", None, "Whether the slave's clock is averaged (1) or left out (0)", |peer| {
        Some(peer.counted.into())
    }),
    gauge("peer_silence", SECONDS, "Time since the slave was heard", |peer| {
        Some(Span::from_millis(peer.last_heard_ms).into())
    }),
    counter("peer_retransmissions", "Requests and corrections that had to be sent again", |peer| {
        whole(peer.retransmissions)
    }),
];

/// Labels in the order in which they are shown.
#[derive(Clone, Copy, Debug)]
struct Labels<'a>(&'a [(&'static str, &'a str)]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|label| prometheus_client::encoding::EncodeLabel::encode(label, encoder.encode_label()))
    }
}

/// The metrics of all nodes at local time `now`, in the format of OpenMetrics 1.0.
pub(super) fn open_metrics(nodes: &[Watched], now: LocalTime) -> String {
    let snapshot = nodes.iter().map(|node| {
        let seen = node.seen();
        let observation = &seen.observation;
        Node {
            socket: seen.path.display().to_string(),
            status: observation.status().cloned(),
            age: observation.last().map(|look| now - look.at),
        }
    });
    let mut registry = Registry::with_prefix("berkeleyd");
    registry.register_collector(Box::new(Snapshot(snapshot.collect())));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = encode_registry(&mut text, &registry).and_then(|()| encode_eof(&mut text));
    text
}

#[derive(Debug)]
struct Snapshot(Vec<Node>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(nodes) = self;
        let mut exporter =
            encoder.encode_descriptor("exporter", "The program that shows this", None, MetricType::Info)?;
        exporter.encode_info(&Labels(&[("version", env!("CARGO_PKG_VERSION"))]))?;
        let mut up =
            encoder.encode_descriptor("up", "Whether the node answers (1) or not (0)", None, MetricType::Gauge)?;
        for node in nodes {
            put(&mut up, &[("socket", &node.socket)], node.status.is_some().into())?;
        }
        let help = "Time since the node answered last";
        let mut age = encoder.encode_descriptor("status_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for node in nodes {
            if let Some(passed) = node.age {
                put(&mut age, &[("socket", &node.socket)], passed.into())?;
            }
        }
        // A submaster is two nodes behind one socket, in two domains.
        let statuses: Vec<Labelled<'_>> = nodes.iter().flat_map(Node::statuses).collect();
        texts(&mut encoder, &statuses)?;
        for family in &NODE {
            encode(&mut encoder, family, statuses.iter().map(|one| (one.labels(), one.status)))?;
        }
        counts(&mut encoder, &statuses)?;
        for family in &PEER {
            encode(&mut encoder, family, statuses.iter().flat_map(Labelled::peers))?;
        }
        Ok(())
    }
}

impl Node {
    fn statuses(&self) -> impl Iterator<Item = Labelled<'_>> {
        let lower = self.status.as_ref();
        let upper = lower.and_then(|status| status.upper.as_ref()).map(|upper| &upper.node);
        lower.into_iter().chain(upper).map(|status| Labelled {
            socket: &self.socket,
            domain: status.domain.to_string(),
            peers: status.peers.iter().map(|peer| peer.node_id.to_string()).collect(),
            status,
        })
    }
}

/// A status, and its numbers as the labels have them.
struct Labelled<'a> {
    socket: &'a str,
    domain: String,
    peers: Vec<String>,
    status: &'a Status,
}

type Label<'a> = (&'static str, &'a str);

impl Labelled<'_> {
    fn labels(&self) -> Vec<Label<'_>> {
        vec![("socket", self.socket), ("domain", &self.domain)]
    }

    fn peers(&self) -> impl Iterator<Item = (Vec<Label<'_>>, &PeerStatus)> {
        self.peers
            .iter()
            .zip(&self.status.peers)
            .map(|(number, peer)| ([self.labels(), vec![("peer", number)]].concat(), peer))
    }
}

/// One number with its labels.
fn put(encoder: &mut MetricEncoder<'_>, labels: &[Label<'_>], number: Number) -> fmt::Result {
    let labels = Labels(labels);
    let mut encoder = encoder.encode_family(&labels)?;
    match number {
        Number::Whole(number) => encoder.encode_gauge(&number),
        Number::Real(number) => encoder.encode_gauge(&number),
    }
}

/// The same of what only grows.
fn put_count(encoder: &mut MetricEncoder<'_>, labels: &[Label<'_>], count: u64) -> fmt::Result {
    encoder.encode_family(&Labels(labels))?.encode_counter::<NoLabelSet, u64, u64>(&count, None)
}

/// A family, with all its numbers.
fn encode<'a, T: 'a>(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family<T>,
    things: impl Iterator<Item = (Vec<Label<'a>>, &'a T)>,
) -> fmt::Result {
    let unit = family.unit.map(Measure::unit);
    let mut encoder = encoder.encode_descriptor(family.name, family.help, unit.as_ref(), family.kind)?;
    for (labels, thing) in things {
        match ((family.number)(thing), family.kind) {
            (None, _) => {}
            (Some(Number::Whole(count)), MetricType::Counter) => put_count(&mut encoder, &labels, count)?,
            (Some(number), _) => put(&mut encoder, &labels, number)?,
        }
    }
    Ok(())
}

/// What is text: names, roles, reasons.
fn texts(encoder: &mut DescriptorEncoder<'_>, statuses: &[Labelled<'_>]) -> fmt::Result {
    let mut nodes = encoder.encode_descriptor("node", "Who answers at a socket", None, MetricType::Info)?;
    for one in statuses {
        let status = one.status;
        let number = status.node_id.to_string();
        let more = [
            ("node", number.as_str()),
            ("address", &status.address),
            ("version", &status.version),
            ("clock", &status.clock.kind),
            ("timestamping", &status.timestamping),
        ];
        nodes.encode_info(&Labels(&[one.labels().as_slice(), &more].concat()))?;
    }
    let mut roles =
        encoder.encode_descriptor("role", "What the node is (1) and is not (0)", None, MetricType::Gauge)?;
    for one in statuses {
        for role in [RoleName::Master, RoleName::Slave, RoleName::Candidate, RoleName::Listening] {
            let (name, is_so) = (role.to_string(), role == one.status.role);
            put(&mut roles, &[one.labels().as_slice(), &[("role", &name)]].concat(), is_so.into())?;
        }
    }
    let mut peers = encoder.encode_descriptor("peer", "A slave that a master lists", None, MetricType::Info)?;
    for (labels, peer) in statuses.iter().flat_map(Labelled::peers) {
        let more = [("address", peer.address.as_str()), ("timestamping", &peer.timestamping)];
        peers.encode_info(&Labels(&[labels.as_slice(), &more].concat()))?;
    }
    let help = "A slave whose clock is not averaged, and why";
    let mut left_out = encoder.encode_descriptor("peer_left_out", help, None, MetricType::Gauge)?;
    for (labels, peer) in statuses.iter().flat_map(Labelled::peers) {
        if let Some(reason) = &peer.reason {
            put(&mut left_out, &[labels.as_slice(), &[("reason", reason)]].concat(), true.into())?;
        }
    }
    Ok(())
}

/// Datagrams by type, or by reason.
fn counts(encoder: &mut DescriptorEncoder<'_>, statuses: &[Labelled<'_>]) -> fmt::Result {
    type Counts = fn(&Status) -> &std::collections::BTreeMap<String, u64>;
    let families: [(&str, &str, &'static str, Counts); 3] = [
        ("sent_frames", "Frames sent, by type", "type", |status| &status.counters.sent),
        ("received_frames", "Legal frames received, by type", "type", |status| &status.counters.received),
        ("dropped_datagrams", "Datagrams dropped, by reason", "reason", |status| &status.counters.dropped),
    ];
    for (name, help, label, counts) in families {
        let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for one in statuses {
            for (key, count) in counts(one.status) {
                put_count(&mut encoder, &[one.labels().as_slice(), &[(label, key)]].concat(), *count)?;
            }
        }
    }
    Ok(())
}

/// The same in the older text format (0.0.4): counters and infos are declared by their full names, and there are no units and no end.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        let declaration = |rest: &'static str| line.strip_prefix(rest).and_then(|rest| rest.split_once(' '));
        if let Some((_, words)) = declaration("# HELP ") {
            // It has to be declared under the full name, which the type tells.
            help = words;
        } else if let Some((name, kind)) = declaration("# TYPE ") {
            let (name, kind) = match kind {
                "counter" => (format!("{name}_total"), kind),
                "info" => (format!("{name}_info"), "gauge"),
                _ => (name.to_owned(), kind),
            };
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", help);
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
