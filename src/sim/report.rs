//! What the world tells of a run while it lasts: what every clock shows, faults and changes of role, and what should never have happened.

use std::fmt;

use serde::{Serialize, Serializer};

use super::statistics::nanos;
use crate::time::Span;

/// One node at one instant, as only the simulator can see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSample {
    /// What its disciplined clock shows, less true time.
    pub error: Span,
    /// The same if nobody had corrected it since it started.
    pub alone: Span,
    /// The error bound that it publishes; [`Span::MAX`] when it knows none.
    pub bound: Span,
    /// Whether it counts.
    pub standing: NodeStanding,
    /// How many domains are above the topmost one that it belongs to.
    pub tier: usize,
}

/// What a node's clock means to the measured ensemble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeStanding {
    /// It runs, is honest and shows ensemble time: its clock counts.
    Honest,
    /// It runs and is honest, but waits for its first correction.
    Joining,
    /// It lies. What its own clock shows is of no interest.
    Liar,
    /// It does not run.
    Down,
}

impl fmt::Display for NodeStanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Honest => "honest",
            Self::Joining => "joining",
            Self::Liar => "liar",
            Self::Down => "down",
        })
    }
}

/// What must always hold; the numbers are those of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// 1: a disciplined clock never runs backwards, except by the one allowed step.
    Monotonic,
    /// 2: no correction is applied twice, late, or from an older term, incarnation or domain.
    CorrectedOnce,
    /// 3: without liars the spread ends below the sum of the error bounds, and stays.
    Agreement,
    /// 4: the true error of every synchronised node lies inside its own published error bound.
    HonestBound,
    /// 5: with f liars out of n > 3f, honest nodes stay as close as without them.
    LiarsHarmless,
    /// 6: there is one master within the election bound, and terms never go down.
    OneMaster,
    /// 7: no datagram panics a node and, with a key, a wrong one never moves a clock.
    Robust,
}

impl Invariant {
    /// Its number in the design.
    pub fn number(self) -> u8 {
        match self {
            Self::Monotonic => 1,
            Self::CorrectedOnce => 2,
            Self::Agreement => 3,
            Self::HonestBound => 4,
            Self::LiarsHarmless => 5,
            Self::OneMaster => 6,
            Self::Robust => 7,
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Monotonic => "a disciplined clock never runs backwards",
            Self::CorrectedOnce => "no correction is applied twice, late, or from an older term",
            Self::Agreement => "without liars the spread ends below the sum of the error bounds",
            Self::HonestBound => "the true error lies inside the published bound",
            Self::LiarsHarmless => "honest nodes stay as close as without liars",
            Self::OneMaster => "there is one master, and terms never go down",
            Self::Robust => "no datagram harms a node",
        })
    }
}

impl Serialize for Invariant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.number().serialize(serializer)
    }
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// When, in true time.
    #[serde(rename = "at_ns", serialize_with = "nanos")]
    pub at: Span,
    /// At which node, if it is the fault of one.
    pub node: Option<usize>,
    /// Which.
    pub invariant: Invariant,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}", self.at)?;
        if let Some(node) = self.node {
            write!(f, ", node {node}")?;
        }
        let Self { invariant, expected, found, .. } = self;
        write!(f, ": invariant {} ({invariant}): expected {expected}, found {found}", invariant.number())
    }
}

/// A fault, a change of role, or something else worth a line in a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// When, in true time.
    #[serde(rename = "at_ns", serialize_with = "nanos")]
    pub at: Span,
    /// What, in a few words.
    pub text: String,
}

/// An event that may have led to a violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in true time.
    pub at: Span,
    /// At which node.
    pub node: Option<usize>,
    /// What.
    pub text: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node.map(|node| format!("node {node}")).unwrap_or_default();
        write!(f, "{:>16.9} s  {node:<9} {}", self.at.as_secs_f64(), self.text)
    }
}
