//! `berkeleyd status`: what a running node knows, for people or, with `--json`, for programs; and, with `--wait-sync`, only whether it is
//! synchronised, as soon as it is.
//!
//! What answers may be anybody, since `/tmp` is one of the places that are looked at: its texts reach the terminal without control
//! characters.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::thread;

use anstyle::{AnsiColor, Style};
use clap::Args;

use crate::commands::words::{self, Column, Mood};
use crate::commands::{Failure, print, print_coloured, socket_places};
use crate::failure::one_line;
use crate::local_clock::LocalClock;
use crate::status::{CounterStatus, PeerStatus, RoleName, Status};
use crate::status_client::{Answer, PATIENCE, Silence};
use crate::time::{Skew, Span};

pub use crate::status_client::fetch;

/// What an answer is waited for at least, so that the last look of a short timeout is a look. The timeout is overrun by no more.
const LEAST_PATIENCE: Span = Span::from_millis(100);
/// Between two looks of who waits: no node works for it, and no service starts much later.
const GLANCE: Span = Span::from_millis(200);
const HEADING: Style = Style::new().bold();

/// Which node, and what of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Options {
    /// The node's socket [default: in $XDG_RUNTIME_DIR, /run or /tmp]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// One JSON object instead of text; times are integers in ns
    #[arg(long)]
    pub json: bool,
    /// Show nothing: wait until it is synchronised, within MAX_BOUND
    #[arg(long, value_name = "MAX_BOUND", num_args = 0..=1, require_equals = true, conflicts_with = "json",
        value_parser = duration)]
    pub wait_sync: Option<Option<Span>>,
    /// Wait no longer than this, then exit with 1 [default: for ever]
    #[arg(long, value_name = "DUR", requires = "wait_sync", value_parser = duration)]
    pub timeout: Option<Span>,
}

fn duration(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    if span < Span::ZERO { Err("must not be negative".to_owned()) } else { Ok(span) }
}

impl From<Silence> for Failure {
    fn from(silence: Silence) -> Self {
        Self::Failed(silence.to_string())
    }
}

/// Shows what a running node knows, or waits until it is synchronised. Without a socket it is the first of [`socket_places`] that answers.
///
/// # Errors
/// No node answers, or it is not synchronised in time.
pub fn status(options: &Options) -> Result<(), Failure> {
    let places = options.socket.as_ref().map_or_else(socket_places, |path| vec![path.clone()]);
    if let Some(max_bound) = options.wait_sync {
        return wait(&places, max_bound, options.timeout);
    }
    let answer = Answer::of_first(&places, PATIENCE)?;
    if options.json {
        return print(&answer.text);
    }
    print_coloured(&for_people(&answer.status()?))
}

/// Looks at the node again and again until it is synchronised, whether or not it runs already.
fn wait(places: &[PathBuf], max_bound: Option<Span>, timeout: Option<Span>) -> Result<(), Failure> {
    let clock = LocalClock::new(Skew::ZERO).map_err(|error| Failure::Failed(error.to_string()))?;
    let start = clock.now();
    let left = || timeout.map_or(Span::MAX, |timeout| timeout - (clock.now() - start));
    loop {
        // Before the look: what is not so after the last one was given its time.
        let is_last = left() <= Span::ZERO;
        let patience = left().clamp(LEAST_PATIENCE, PATIENCE);
        let obstacle = match Answer::of_first(places, patience).and_then(|answer| answer.status()) {
            Ok(status) => obstacle(&status, max_bound),
            Err(Silence::NoAnswer(text)) => Some(text),
            Err(foreign @ Silence::Foreign(_)) => return Err(foreign.into()),
        };
        match (obstacle, timeout) {
            (None, _) => return Ok(()),
            (Some(obstacle), Some(timeout)) if is_last => {
                return Err(Failure::Failed(format!("not synchronised in {timeout}: {obstacle}")));
            }
            // It may end early; then there is a look too many.
            (Some(_), _) => thread::park_timeout(left().clamp(Span::ZERO, GLANCE).to_std()),
        }
    }
}

/// Why the node is not synchronised, or not well enough; `None` when it is.
fn obstacle(status: &Status, max_bound: Option<Span>) -> Option<String> {
    let bound = Span::from_nanos(status.error_bound_ns);
    match (status.synchronised, max_bound) {
        (false, _) if bound == Span::MAX => Some("the node's clock was not corrected yet".to_owned()),
        (false, _) => Some(format!("the node's clock can be {bound} from ensemble time")),
        (true, Some(max_bound)) if bound > max_bound => {
            Some(format!("the node's clock can be {bound} from ensemble time, which is more than {max_bound}"))
        }
        (true, _) => None,
    }
}

/// Text in colours, without control characters that came from outside.
fn coloured(mood: Mood, text: &str) -> String {
    let style = style(mood);
    format!("{style}{}{style:#}", one_line(text))
}

const fn style(mood: Mood) -> Style {
    match mood {
        Mood::Plain => Style::new(),
        Mood::Good => AnsiColor::Green.on_default(),
        Mood::Doubtful => AnsiColor::Yellow.on_default(),
        Mood::Bad => AnsiColor::Red.on_default().bold(),
    }
}

/// Some lines of facts, and on a master the table of its slaves.
fn for_people(status: &Status) -> String {
    let mut lines = String::new();
    let mut line = |name: &str, (mood, value): (Mood, String)| {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{name:<13}{}", coloured(mood, &value));
    };
    let plain = |value| (Mood::Plain, value);
    line("node", plain(words::node(status)));
    line("role", words::standing(status));
    if let Some(upper) = &status.upper {
        line("above", words::above(upper));
    }
    line("synchronised", words::synchronised(status));
    line("clock", plain(words::clock(status)));
    line("correction", plain(words::correction(status)));
    if let (Some(pause), Some(reason)) = (status.pause_ns, &status.pause_reason) {
        line("rounds", plain(format!("every {}: {reason}", Span::from_nanos(pause))));
    }
    if let Some(refused) = words::refused(status) {
        line("refused", refused);
    }
    line("datagrams", plain(datagrams(&status.counters)));
    line(
        "keys",
        match status.keys.as_deref() {
            Some(keys) => plain(keys.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
            None => (Mood::Doubtful, "none: frames are not authenticated".to_owned()),
        },
    );
    line("privileges", plain(status.privileges.to_string()));
    if status.role == RoleName::Master {
        lines.push('\n');
        lines.push_str(&table(&status.peers));
    }
    if let Some(upper) = status.upper.as_ref().filter(|upper| upper.node.role == RoleName::Master) {
        let _ = writeln!(lines, "\ndomain {}:", upper.node.domain);
        lines.push_str(&table(&upper.node.peers));
    }
    lines
}

fn datagrams(counters: &CounterStatus) -> String {
    let dropped = counters.dropped.iter().filter(|(_, count)| **count > 0);
    let lost = (counters.socket_drops > 0).then(|| format!("socket buffer full {}", counters.socket_drops));
    let dropped: Vec<String> = dropped.map(|(reason, count)| format!("{reason} {count}")).chain(lost).collect();
    let sum = |counts: &BTreeMap<String, u64>| counts.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
    let dropped =
        if dropped.is_empty() { "none dropped".to_owned() } else { format!("dropped: {}", dropped.join(", ")) };
    format!("{} sent, {} received, {dropped}", sum(&counters.sent), sum(&counters.received))
}

fn table(peers: &[PeerStatus]) -> String {
    if peers.is_empty() {
        return "no slaves\n".to_owned();
    }
    let header = Column::ALL.map(|column| column.title().to_owned());
    let rows = peers.iter().map(|peer| Column::ALL.map(|column| column.cell(peer)));
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| words::width(rows.iter().filter_map(|row| row.get(column)).map(String::as_str));
    let widths: Vec<usize> = (0..Column::ALL.len()).map(width).collect();
    let mut lines = rows.iter().map(|row| {
        let cells = Column::ALL.iter().zip(row.iter().zip(&widths));
        let cells = cells.map(|(column, (cell, width))| words::aligned(*column, cell, *width));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    let header = lines.next().unwrap_or_default();
    let mut text = format!("{HEADING}{header}{HEADING:#}\n");
    for (peer, line) in peers.iter().zip(lines) {
        text.push_str(&coloured(words::mood(peer), &line));
        text.push('\n');
    }
    text
}
