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

use crate::commands::{Failure, print, print_coloured, socket_places};
use crate::failure::one_line;
use crate::local_clock::LocalClock;
use crate::status::{PeerStatus, RoleName, Status, UpperStatus};
use crate::status_client::{Answer, PATIENCE, Silence};
use crate::time::{Skew, Span};

pub use crate::status_client::fetch;

/// What an answer is waited for at least, so that the last look of a short timeout is a look. The timeout is overrun by no more.
const LEAST_PATIENCE: Span = Span::from_millis(100);
/// Between two looks of who waits: no node works for it, and no service starts much later.
const GLANCE: Span = Span::from_millis(200);
const PLAIN: Style = Style::new();
const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

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
        match silence {
            Silence::NoAnswer(text) | Silence::Foreign(text) => Self::Failed(text),
        }
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
fn coloured(style: Style, text: &str) -> String {
    format!("{style}{}{style:#}", one_line(text))
}

/// Some lines of facts, and on a master the table of its slaves.
fn for_people(status: &Status) -> String {
    let mut lines = String::new();
    let mut line = |name: &str, style: Style, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{name:<13}{}", coloured(style, value));
    };
    line(
        "node",
        PLAIN,
        &format!("{} at {}, domain {}, version {}", status.node_id, status.address, status.domain, status.version),
    );
    line("role", role_style(status), &format!("{}, term {}, round {}", role(status), status.term, status.round));
    if let Some(upper) = &status.upper {
        let UpperStatus { state, offset_ns, node } = &**upper;
        let bound = match Span::from_nanos(node.error_bound_ns) {
            Span::MAX => "not corrected yet".to_owned(),
            bound => format!("within {bound}, this clock {} from it", Span::from_nanos(*offset_ns)),
        };
        let text = format!("domain {} {state}: {}, term {}, {bound}", node.domain, role(node), node.term);
        line("above", if state == "heard" { GOOD } else { DOUBTFUL }, &text);
    }
    let bound = Span::from_nanos(status.error_bound_ns);
    let (style, synchronised) = match (status.synchronised, bound) {
        (true, _) => (GOOD, format!("yes, within {bound} of ensemble time")),
        (false, Span::MAX) => (BAD, "no, not corrected yet".to_owned()),
        (false, _) => (BAD, format!("no, it can be {bound} from ensemble time")),
    };
    line("synchronised", style, &synchronised);
    let clock = &status.clock;
    let ahead = Span::from_nanos(clock.disciplined_ns.saturating_sub(clock.system_ns));
    let relation = if ahead.is_forward() { "ahead of" } else { "behind" };
    let text = format!("{}, {} {relation} the system's, {} stamps", clock.kind, ahead.abs(), status.timestamping);
    line("clock", PLAIN, &text);
    let slew = Span::from_nanos(status.slew_ns);
    let slewing = if slew == Span::ZERO { String::new() } else { format!(", {slew} still to be slewed") };
    line(
        "correction",
        PLAIN,
        &format!(
            "{} last, {} in all, rate {}{slewing}",
            Span::from_nanos(status.last_correction_ns),
            status.adjustment,
            Skew::from_ppb(status.skew_ppb),
        ),
    );
    if let (Some(pause), Some(reason)) = (status.pause_ns, &status.pause_reason) {
        line("rounds", PLAIN, &format!("every {}: {reason}", Span::from_nanos(pause)));
    }
    if let Some(refused) = status.refused_correction_ns {
        let text = format!("a correction of {}: larger than --max-correction", Span::from_nanos(refused));
        line("refused", BAD, &text);
    }
    let dropped: Vec<String> = status
        .counters
        .dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    let sum = |counts: &BTreeMap<String, u64>| counts.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
    let dropped =
        if dropped.is_empty() { "none dropped".to_owned() } else { format!("dropped: {}", dropped.join(", ")) };
    line(
        "datagrams",
        PLAIN,
        &format!("{} sent, {} received, {dropped}", sum(&status.counters.sent), sum(&status.counters.received)),
    );
    match status.keys.as_deref() {
        Some(keys) => line("keys", PLAIN, &keys.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
        None => line("keys", DOUBTFUL, "none: frames are not authenticated"),
    }
    line("privileges", PLAIN, &status.privileges.to_string());
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

fn role(status: &Status) -> String {
    // Older nodes do not say it.
    let lasting = status.master_for_ms.map(|passed| format!(" for {}", lasting(passed))).unwrap_or_default();
    match (status.role, status.master_id) {
        (RoleName::Master, _) => format!("master{lasting}"),
        (RoleName::Slave, Some(master)) => format!("slave of {master}{lasting}"),
        (RoleName::Slave | RoleName::Listening, _) => "listening: no master is heard".to_owned(),
        (RoleName::Candidate, _) => "candidate".to_owned(),
    }
}

fn role_style(status: &Status) -> Style {
    match status.role {
        RoleName::Master | RoleName::Slave => PLAIN,
        RoleName::Candidate | RoleName::Listening => DOUBTFUL,
    }
}

/// Whole milliseconds in the two largest units that they fill: `3 h 20 min`.
fn lasting(millis: i64) -> String {
    let seconds = millis / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        86_400.. => format!("{days} d {} h", hours % 24),
        3_600.. => format!("{hours} h {} min", minutes % 60),
        60.. => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{seconds} s"),
    }
}

fn table(peers: &[PeerStatus]) -> String {
    if peers.is_empty() {
        return "no slaves\n".to_owned();
    }
    let header = ["slave", "address", "offset", "± at most", "delay", "skew", "stamps", "heard", "counted"];
    let rows = peers.iter().map(|peer| {
        [
            peer.node_id.to_string(),
            peer.address.clone(),
            Span::from_nanos(peer.offset_ns).to_string(),
            Span::from_nanos(peer.error_bound_ns).to_string(),
            Span::from_nanos(peer.delay_ns).to_string(),
            Skew::from_ppb(peer.skew_ppb).to_string(),
            peer.timestamping.clone(),
            format!("{} ago", Span::from_millis(peer.last_heard_ms)),
            peer.reason.as_ref().map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}")),
        ]
    });
    let rows: Vec<[String; 9]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    // A style a row: the header's, and one for each slave.
    let styles = std::iter::once(HEADING).chain(peers.iter().map(|peer| if peer.counted { PLAIN } else { DOUBTFUL }));
    for (row, style) in rows.iter().zip(styles) {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            // Texts to the left, numbers to the right.
            0 | 1 | 6 | 8 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(&coloured(style, cells.collect::<Vec<_>>().join("  ").trim_end()));
        text.push('\n');
    }
    text
}
