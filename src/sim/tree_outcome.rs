//! What a run of many tiers measured, in words and as JSON.

use std::fmt;

use serde::Serialize;

use super::outcome::Outcome;
use super::scenario::Limits;
use super::statistics::{Figures, TierFigures, float, maybe_millis, millis, nanos};
use super::words::{brief, bytes, grouped, maybe};
use crate::time::Span;

/// Frames and bytes of UDP payload that are sent in a second. What goes to a group counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Frames.
    #[serde(rename = "frames_per_second")]
    pub frames: f64,
    /// Their bytes.
    #[serde(rename = "bytes_per_second")]
    pub bytes: f64,
}

impl Traffic {
    /// That of so many.
    fn times(self, count: u64) -> Self {
        Self { frames: self.frames * float(count), bytes: self.bytes * float(count) }
    }
}

/// One tier, over all its nodes and the time that is judged.
#[derive(Clone, Debug, Serialize)]
pub struct TierOutcome {
    /// How many nodes it has that are no members of a tier above.
    pub nodes: u64,
    /// In how many ensembles.
    pub ensembles: u64,
    /// How far they were from the mean of the topmost ensemble, and the bounds that they published.
    #[serde(flatten)]
    pub clocks: TierFigures,
    /// True spread of the tier: the highest clock less the lowest.
    #[serde(rename = "spread_ns")]
    pub spread: Figures,
    /// The largest distance in parts of the bound that its clock published at that time: all is well up to 1.
    #[serde(rename = "largest_part_of_bound")]
    pub used: f64,
    /// How often a clock was farther away than its bound said.
    #[serde(rename = "outside_bound")]
    pub outside: u64,
    /// What one of its ensembles sends, its master and its slaves together.
    #[serde(rename = "ensemble")]
    pub each: Traffic,
}

impl TierOutcome {
    /// What all its ensembles send.
    pub fn traffic(&self) -> Traffic {
        self.each.times(self.ensembles)
    }
}

/// What a run of many tiers measured.
#[derive(Clone, Debug, Serialize)]
pub struct TreeOutcome {
    /// What the scenario shows.
    pub about: String,
    /// The seed of the run.
    pub seed: u64,
    /// How many nodes each ensemble has, the topmost first.
    pub shape: String,
    /// How many nodes there were in all.
    pub nodes: u64,
    /// How long it ran, in true time.
    #[serde(rename = "duration_ms", serialize_with = "millis")]
    pub duration: Span,
    /// Time between rounds.
    #[serde(rename = "interval_ms", serialize_with = "millis")]
    pub interval: Span,
    /// Figures are of the time after this.
    #[serde(rename = "judged_from_ms", serialize_with = "millis")]
    pub judged_from: Span,
    /// Until the spread of all clocks stayed below `settle_below`, to the next look; `None`: it did not.
    #[serde(rename = "settle_ms", serialize_with = "maybe_millis")]
    pub settle: Option<Span>,
    /// What counts as settled.
    #[serde(rename = "settle_below_ns", serialize_with = "nanos")]
    pub settle_below: Span,
    /// The topmost first.
    pub tiers: Vec<TierOutcome>,
    /// Why it is not ok, a line each.
    pub complaints: Vec<String>,
    /// It settled, no clock was outside its bound, the topmost ensemble was ok, and the limits were kept.
    pub ok: bool,
}

impl TreeOutcome {
    /// Judges what was `found`. Of the limits `settle` and `tiers` are those of the tree, all others those of the topmost ensemble, which is judged already.
    pub(crate) fn new(found: Self, limits: &Limits, top: &Outcome) -> Self {
        let settle = match (found.settle, limits.settle) {
            (None, _) => Some(format!("never settled below {}", found.settle_below)),
            (Some(settle), Some(limit)) if settle > limit => {
                Some(format!("settle {settle}, above the limit of {limit}"))
            }
            (Some(_), _) => None,
        };
        let outside = found.tiers.iter().enumerate().filter(|(_, tier)| tier.outside > 0).map(|(tier, figures)| {
            format!("tier {tier}: {} looks at a clock outside its bound", grouped(figures.outside))
        });
        let far = limits.tiers.iter().zip(&found.tiers).enumerate().filter_map(|(tier, (limit, figures))| {
            let found = figures.clocks.distance.max.filter(|found| found > limit)?;
            Some(format!("tier {tier}: {found} from the topmost ensemble, above the limit of {limit}"))
        });
        let missing = limits.tiers.len().saturating_sub(found.tiers.len());
        let missing = (missing > 0).then(|| format!("limits of {missing} tiers that are not there"));
        let top = top.complaints().into_iter().map(|complaint| format!("topmost ensemble: {complaint}"));
        let complaints: Vec<String> = settle.into_iter().chain(outside).chain(far).chain(missing).chain(top).collect();
        Self { ok: complaints.is_empty(), complaints, ..found }
    }

    /// What all ensembles of all tiers send.
    pub fn traffic(&self) -> Traffic {
        self.tiers.iter().map(TierOutcome::traffic).fold(Traffic::default(), |sum, tier| Traffic {
            frames: sum.frames + tier.frames,
            bytes: sum.bytes + tier.bytes,
        })
    }
}

/// For people.
impl fmt::Display for TreeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.ok { "OK" } else { "NOT OK" };
        let nodes = grouped(self.nodes);
        match self.settle {
            Some(settle) => {
                writeln!(f, "{verdict}: {nodes} nodes in {} tiers, settled after {}", self.tiers.len(), brief(settle))?
            }
            None => writeln!(f, "{verdict}: {nodes} nodes did not agree to {}", brief(self.settle_below))?,
        }
        if !self.about.is_empty() {
            writeln!(f, "  scenario     {}", self.about)?;
        }
        let [duration, interval, from] = [self.duration, self.interval, self.judged_from].map(brief);
        writeln!(f, "  simulated    {}, {duration}, a round every {interval}, seed {}", self.shape, self.seed)?;
        writeln!(f, "\nClocks from {from} on, by their distance from the mean of the topmost ensemble:\n")?;
        row(f, ["tier", "nodes", "rms", "99 %", "at most", "spread", "claimed", "used"])?;
        for (tier, figures) in self.tiers.iter().enumerate() {
            let Figures { rms, p99, max, .. } = figures.clocks.distance;
            let [rms, p99, max, spread, bound] =
                [rms, p99, max, figures.spread.max, figures.clocks.bound.median].map(maybe);
            let used = format!("{:.0} %", figures.used * 100.0);
            row(
                f,
                [&tier.to_string(), &grouped(figures.nodes), &rms, &p99, &max, &spread, &format!("±{bound}"), &used],
            )?;
        }
        writeln!(f, "\nFrames and bytes a second, of one ensemble (its master's traffic) and of all:\n")?;
        row(f, ["tier", "ensembles", "frames", "bytes", "frames", "bytes", "", ""])?;
        for (tier, figures) in self.tiers.iter().enumerate() {
            let (each, all) = (figures.each, figures.traffic());
            let [each_frames, all_frames] = [each, all].map(|traffic| count(traffic.frames));
            let [each_bytes, all_bytes] = [each, all].map(|traffic| bytes(traffic.bytes));
            let ensembles = grouped(figures.ensembles);
            row(f, [&tier.to_string(), &ensembles, &each_frames, &each_bytes, &all_frames, &all_bytes, "", ""])?;
        }
        let all = self.traffic();
        row(f, ["all", "", "", "", &count(all.frames), &bytes(all.bytes), "", ""])?;
        self.complaints.iter().try_for_each(|complaint| writeln!(f, "\n{complaint}"))
    }
}

/// A line of a table.
fn row(f: &mut fmt::Formatter<'_>, cells: [&str; 8]) -> fmt::Result {
    let cells: String = cells.iter().map(|cell| format!("{cell:>11}")).collect();
    writeln!(f, "{}", cells.trim_end())
}

/// A number of frames, in whole ones.
fn count(frames: f64) -> String {
    format!("{frames:.0}").parse().map_or_else(|_| "0".to_owned(), grouped)
}
