//! How an event is told: how loud, how often, and in what words and fields.

use std::borrow::Cow;
use std::fmt::Display;

use log::kv::{ToValue, Value};
use log::{Level, Record, logger, max_level};

use crate::clock::Applied;
use crate::context::{Event, Upper};
use crate::identity::{Domain, NodeId, Round, Term};
use crate::run_config::Change;
use crate::sources::Reloaded;
use crate::time::Span;

/// A line of the log: what has happened, and of what kind it was. Written to people as `message name=value ...`, to programs as an object.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    message: Cow<'static, str>,
    fields: Vec<(&'static str, Field)>,
}

/// What stands in a field.
#[derive(Clone, Debug)]
pub(crate) enum Field {
    /// A count, or the number of something.
    Number(u64),
    /// A span, in a field whose name ends in `_ns`.
    Nanos(i64),
    /// Anything else, as people read it.
    Text(String),
}

impl Line {
    pub(crate) fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into(), fields: Vec::new() }
    }

    /// With a field.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Field>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Writes it, if anybody reads what is so loud.
    pub(crate) fn log(&self, level: Level) {
        if level <= max_level() {
            let mut record = Record::builder();
            record.level(level).target(module_path!()).key_values(&self.fields);
            logger().log(&record.args(format_args!("{}", self.message)).build());
        }
    }
}

impl ToValue for Field {
    fn to_value(&self) -> Value<'_> {
        match self {
            Self::Number(number) => Value::from(*number),
            Self::Nanos(nanos) => Value::from(*nanos),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }
}

impl From<NodeId> for Field {
    fn from(node: NodeId) -> Self {
        Self::Number(node.get())
    }
}

impl From<Term> for Field {
    fn from(term: Term) -> Self {
        Self::Number(term.get())
    }
}

impl From<Round> for Field {
    fn from(round: Round) -> Self {
        Self::Number(round.get().into())
    }
}

impl From<Domain> for Field {
    fn from(domain: Domain) -> Self {
        Self::Number(domain.get().into())
    }
}

impl From<usize> for Field {
    fn from(count: usize) -> Self {
        Self::Number(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

impl From<Span> for Field {
    fn from(span: Span) -> Self {
        Self::Nanos(span.as_nanos())
    }
}

/// What people read.
pub(crate) fn text(value: impl Display) -> Field {
    Field::Text(value.to_string())
}

/// How loud an event is logged. `Some`: it may come with every datagram, so that only the first of this kind in a while is loud.
pub(crate) fn loudness(event: &Event) -> (Level, Option<&'static str>) {
    match event {
        Event::Following { .. }
        | Event::MasterLost { resigned: true, .. }
        | Event::Claimed { .. }
        | Event::ClaimDropped { .. }
        | Event::Quorum { is_reached: true, .. }
        | Event::TermTaken { .. }
        | Event::Joined { .. }
        | Event::Left { .. }
        | Event::Returned { .. }
        | Event::Standing { .. }
        | Event::Upper { state: Upper::Awaited | Upper::Heard(_), .. }
        | Event::Corrected { applied: Applied::Stepped(_), .. }
        | Event::Led { applied: Applied::Stepped(_) } => (Level::Info, None),
        Event::MasterLost { resigned: false, .. }
        | Event::SteppedDown { .. }
        | Event::Quorum { is_reached: false, .. }
        | Event::Silent { .. }
        | Event::LocalClockJumped { .. }
        | Event::Upper { state: Upper::Lost, .. } => (Level::Warn, None),
        Event::RefusedBySlave { .. } => (Level::Warn, Some("slave refused")),
        Event::DuplicateNodeId { .. } => (Level::Warn, Some("duplicate")),
        Event::OtherMaster { .. } => (Level::Warn, Some("master")),
        Event::TableFull { .. } => (Level::Warn, Some("table")),
        Event::MasterOutOfReach { .. } => (Level::Warn, Some("out of reach")),
        Event::Refused { .. } => (Level::Error, Some("refused")),
        Event::Paced { .. }
        | Event::Corrected { applied: Applied::Slewed(_), .. }
        | Event::Led { applied: Applied::Slewed(_) }
        | Event::Averaged { .. }
        | Event::NotAuthentic { .. }
        | Event::Dropped { .. } => (Level::Debug, None),
    }
}

/// The line for an event.
pub(crate) fn line(event: &Event) -> Line {
    match event {
        Event::Following { master, address, term } => {
            Line::new("following").with("master", *master).with("at", text(address)).with("term", *term)
        }
        Event::MasterLost { master, resigned: true } => Line::new("master resigned: holdover").with("master", *master),
        Event::MasterLost { master, resigned: false } => Line::new("master silent: holdover").with("master", *master),
        Event::Claimed { term } => Line::new("claiming").with("term", *term),
        Event::ClaimDropped { reason } => Line::new("not elected").with("reason", text(reason)),
        Event::MasterOutOfReach { master, heard_at } => Line::new(
            "cannot hear the master that others hear: a link that carries one way, or nodes whose --peer lists do not name each \
             other",
        )
        .with("node", *master)
        .with("heard_at", text(heard_at)),
        Event::SteppedDown { term, successor, reason } => {
            let line = Line::new("stepping down").with("term", *term).with("reason", text(reason));
            successor.map_or(line.clone(), |next| line.with("next", next))
        }
        Event::Quorum { is_reached: false, heard } => Line::new("below quorum: holdover").with("heard", *heard),
        Event::Quorum { is_reached: true, heard } => Line::new("quorum reached").with("heard", *heard),
        Event::TermTaken { term } => Line::new("master").with("term", *term),
        Event::Joined { node, address } => Line::new("joined").with("node", *node).with("at", text(address)),
        Event::Left { node, resigned: true } => Line::new("left").with("node", *node),
        Event::Left { node, resigned: false } => {
            Line::new("forgotten: silent for too long, or no peer any more").with("node", *node)
        }
        Event::Silent { node } => Line::new("silent").with("node", *node),
        Event::Returned { node } => Line::new("answers again").with("node", *node),
        Event::Standing { node, left_out: None } => Line::new("counted").with("node", *node),
        Event::Standing { node, left_out: Some(reason) } => {
            Line::new("left out").with("node", *node).with("reason", text(reason))
        }
        Event::Paced { pause } => Line::new("rounds from now on").with("every_ns", *pause),
        Event::LocalClockJumped { node } => Line::new("local clock jumped, measuring afresh").with("node", *node),
        Event::RefusedBySlave { node, correction } => {
            Line::new("refused by the slave, larger than its --max-correction")
                .with("node", *node)
                .with("correction_ns", *correction)
        }
        Event::DuplicateNodeId { node, address } => {
            Line::new("a node number is used twice").with("node", *node).with("at", text(address))
        }
        Event::OtherMaster { node, address } => {
            Line::new("another master in this domain").with("node", *node).with("at", text(address))
        }
        Event::TableFull { address } => Line::new("no room for another slave (--max-slaves)").with("at", text(address)),
        Event::Corrected { round, applied } => corrected(*applied).with("round", *round),
        Event::Upper { domain, state: Upper::Awaited } => {
            Line::new("waiting for the domain above: nobody is corrected before it tells the time").with("upper", *domain)
        }
        Event::Upper { domain, state: Upper::Heard(_) } => {
            Line::new("keeping the time of the domain above").with("upper", *domain)
        }
        Event::Upper { domain, state: Upper::Lost } => {
            Line::new("nobody is heard in the domain above: holdover").with("upper", *domain)
        }
        Event::Led { applied } => corrected(*applied).with("with", text("the domain above")),
        Event::Refused { master, correction, objection } => Line::new("refused a correction")
            .with("master", *master)
            .with("correction_ns", *correction)
            .with("reason", text(objection)),
        Event::NotAuthentic { from, error } => Line::new(format!("dropped what is {error}")).with("from", text(from)),
        Event::Averaged { round, counted, read, correction } => Line::new("averaged")
            .with("round", *round)
            .with("counted", *counted)
            .with("of", *read)
            .with("correction_ns", *correction),
        Event::Dropped { reason, from } => {
            Line::new("dropped").with("reason", text(reason.name())).with("from", text(from))
        }
    }
}

fn corrected(applied: Applied) -> Line {
    match applied {
        Applied::Stepped(step) => Line::new("stepped").with("by_ns", step),
        Applied::Slewed(slew) => Line::new("slewing").with("by_ns", slew),
    }
}

/// Says what has become of settings that were read again.
pub(crate) fn tell_reloaded(reloaded: &Reloaded) {
    let Reloaded { changed, pending } = reloaded;
    if changed.is_empty() && pending.is_empty() {
        Line::new("settings read again: nothing has changed").log(Level::Info);
    }
    if !changed.is_empty() {
        let with = |line: Line, change: &Change| {
            line.with(change.setting, text(format_args!("{} -> {}", change.from, change.to)))
        };
        changed.iter().fold(Line::new("settings changed:"), with).log(Level::Info);
    }
    for change in pending {
        let line = Line::new("a setting needs a restart").with("setting", text(change.setting));
        line.with("now", text(&change.from)).with("wanted", text(&change.to)).log(Level::Warn);
    }
}
