//! `berkeleyd status`: what a running node knows, for people or, with `--json`, for programs.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration as StdDuration;

use crate::commands::{Failure, print, socket_places};
use crate::status::{PeerStatus, RoleName, Status, UpperStatus};
use crate::time::{Skew, Span};

/// A node answers within a millisecond; one that is stopped (SIGSTOP) accepts and never answers.
const PATIENCE: StdDuration = StdDuration::from_secs(2);

/// Shows what a running node knows. `socket`: where it listens, else the first of [`socket_places`] that answers.
///
/// # Errors
/// No node answers.
pub fn status(socket: Option<&Path>, json: bool) -> Result<(), Failure> {
    let text = match socket {
        Some(path) => fetch(path).map_err(|error| Failure::Failed(no_answer(path, &error)))?,
        None => fetch_first(&socket_places())?,
    };
    if json {
        return print(&text);
    }
    let status = serde_json::from_str(&text)
        .map_err(|error| Failure::Failed(format!("the node speaks another version of the status: {error}")))?;
    print(&for_people(&status))
}

/// The JSON text that the node at `path` gives.
///
/// # Errors
/// No node listens there, or it does not answer in time.
pub fn fetch(path: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn fetch_first(places: &[PathBuf]) -> Result<String, Failure> {
    let mut refused = None;
    for path in places {
        match fetch(path) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => refused = Some(no_answer(path, &error)),
        }
    }
    let names: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    Err(Failure::Failed(refused.unwrap_or_else(|| {
        format!("no node runs here: there is no status socket at {} (see --socket)", names.join(", "))
    })))
}

fn no_answer(path: &Path, error: &io::Error) -> String {
    let kind = error.kind();
    let path = path.display();
    if kind == io::ErrorKind::NotFound {
        format!("no node runs here: there is no status socket {path}")
    } else if kind == io::ErrorKind::ConnectionRefused {
        format!("no node runs here: it has left its status socket {path} behind")
    } else if matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        format!("the node at {path} does not answer: it is stopped or overloaded")
    } else {
        format!("status socket {path}: {error}")
    }
}

/// Some lines of facts, and on a master the table of its slaves.
fn for_people(status: &Status) -> String {
    let mut lines = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{name:<13}{value}");
    };
    line(
        "node",
        &format!("{} at {}, domain {}, version {}", status.node_id, status.address, status.domain, status.version),
    );
    line("role", &format!("{}, term {}, round {}", role(status), status.term, status.round));
    if let Some(upper) = &status.upper {
        let UpperStatus { state, offset_ns, node } = &**upper;
        let bound = match Span::from_nanos(node.error_bound_ns) {
            Span::MAX => "not corrected yet".to_owned(),
            bound => format!("within {bound}, this clock {} from it", Span::from_nanos(*offset_ns)),
        };
        line("above", &format!("domain {} {state}: {}, term {}, {bound}", node.domain, role(node), node.term));
    }
    let bound = Span::from_nanos(status.error_bound_ns);
    line(
        "synchronised",
        &match (status.synchronised, bound) {
            (true, _) => format!("yes, within {bound} of ensemble time"),
            (false, Span::MAX) => "no, not corrected yet".to_owned(),
            (false, _) => format!("no, it can be {bound} from ensemble time"),
        },
    );
    let clock = &status.clock;
    let ahead = Span::from_nanos(clock.disciplined_ns.saturating_sub(clock.system_ns));
    let relation = if ahead.is_forward() { "ahead of" } else { "behind" };
    line("clock", &format!("{}, {} {relation} the system's, {} stamps", clock.kind, ahead.abs(), status.timestamping));
    let slew = Span::from_nanos(status.slew_ns);
    let slewing = if slew == Span::ZERO { String::new() } else { format!(", {slew} still to be slewed") };
    line(
        "correction",
        &format!(
            "{} last, {} in all, rate {}{slewing}",
            Span::from_nanos(status.last_correction_ns),
            status.adjustment,
            Skew::from_ppb(status.skew_ppb),
        ),
    );
    if let (Some(pause), Some(reason)) = (status.pause_ns, &status.pause_reason) {
        line("rounds", &format!("every {}: {reason}", Span::from_nanos(pause)));
    }
    if let Some(refused) = status.refused_correction_ns {
        line("refused", &format!("a correction of {}: larger than --max-correction", Span::from_nanos(refused)));
    }
    let dropped: Vec<String> = status
        .counters
        .dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    let sum = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.values().fold(0, |sum: u64, count| sum.saturating_add(*count))
    };
    let dropped =
        if dropped.is_empty() { "none dropped".to_owned() } else { format!("dropped: {}", dropped.join(", ")) };
    line(
        "datagrams",
        &format!("{} sent, {} received, {dropped}", sum(&status.counters.sent), sum(&status.counters.received)),
    );
    let keys = status.keys.as_deref().map(|keys| keys.iter().map(u32::to_string).collect::<Vec<_>>().join(", "));
    line("keys", &keys.unwrap_or_else(|| "none: frames are not authenticated".to_owned()));
    line("privileges", &status.privileges.to_string());
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
    match (status.role, status.master_id) {
        (RoleName::Master, _) => "master".to_owned(),
        (RoleName::Slave, Some(master)) => format!("slave of {master}"),
        (RoleName::Slave | RoleName::Listening, _) => "listening: no master is heard".to_owned(),
        (RoleName::Candidate, _) => "candidate".to_owned(),
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
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            // Texts to the left, numbers to the right.
            0 | 1 | 6 | 8 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
