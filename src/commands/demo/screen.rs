//! What the demo shows: a table that is drawn over on a terminal, plain lines elsewhere.

use std::env;
use std::io::{self, IsTerminal};

use super::record::{AGREEMENT, Sample, Statuses};
use super::{LIAR, PREFERRED, name, short};
use crate::status::RoleName;
use crate::time::Span;

/// Between the blocks of lines where nothing can be drawn over.
const BLOCK_PAUSE: Span = Span::from_secs(1);

pub(super) const TITLE: &str = "berkeleyd demo: six nodes on loopback, their virtual clocks wrong on purpose.\n\
    Offset is the true difference from the master's clock, not what a node thinks.\n\n";

/// The bar's: two cells for a factor of ten, the first for 1 µs.
pub(super) const SCALE: &str = "1µs   1ms   1s";
const CELLS: u32 = 14;

pub(super) const GREEN: &str = "\x1b[32m";
pub(super) const RED: &str = "\x1b[31m";

/// One moment, to be shown.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) sample: &'a Sample,
    pub(super) statuses: &'a Statuses,
    pub(super) spread: Option<Span>,
    /// Killed, and not started again.
    pub(super) dead: Vec<u64>,
}

impl View<'_> {
    pub(super) fn lines(&self, has_colours: bool) -> Vec<String> {
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

    pub(super) fn row(&self, node: u64, has_colours: bool) -> String {
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
pub(super) struct Screen {
    pub(super) is_terminal: bool,
    pub(super) has_colours: bool,
    /// What happened so far; on a terminal it stands below the table.
    pub(super) events: Vec<String>,
    /// Lines of the last drawing, which the next one covers.
    pub(super) drawn: usize,
    pub(super) next_block: Span,
}

impl Screen {
    pub(super) fn new() -> Self {
        // A dumb terminal cannot go back to a line.
        let is_terminal = io::stdout().is_terminal() && env::var_os("TERM").is_some_and(|term| term != "dumb");
        let has_colours = is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { is_terminal, has_colours, events: Vec::new(), drawn: 0, next_block: Span::ZERO }
    }

    /// What to write when something happened.
    pub(super) fn event(&mut self, at: Span, what: &str) -> String {
        let line = timed(at, what);
        if self.is_terminal {
            self.events.push(line);
            return String::new();
        }
        format!("{line}\n\n")
    }

    /// What to write for a new moment; nothing where it is not the time for a block yet.
    pub(super) fn frame(&mut self, view: &View<'_>) -> String {
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

pub(super) fn signed(span: Span) -> String {
    format!("{}{}", if span > Span::ZERO { "+" } else { "" }, short(span))
}

/// A line with its time in front.
fn timed(at: Span, text: &str) -> String {
    format!("{:4.1} s  {text}", at.as_secs_f64())
}
