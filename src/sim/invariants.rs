//! What must hold after every event, whatever the scenario. They are the reason why the simulator exists.
//!
//! 1. A disciplined clock never runs backwards, except by an allowed step: the first correction of a life, or with
//!    `allow-step` one above the threshold.
//! 2. A node applies corrections in the order of (term, round), each at most once.
//! 3. The intervals that corrected honest nodes publish (what they show, plus and minus their error bounds) have a point in
//!    common: the ensemble time that all of them claim to be near. So any two nodes agree within the sum of their bounds. From the
//!    moment that there are two masters until all follow one again, that holds for the nodes of each mastership.
//! 4. In one term a node is corrected by one master. Terms never go down, nobody follows a term below one that it followed before, and in one term it follows one
//!    master.
//!
//! A node whose own oscillator has jumped, or stood still, cannot know until somebody measures it. The next correction may rest
//! on an exchange from before; the one after it cannot, because it names the adjustment count that the first one made. So its
//! interval counts again from its second correction on.

use crate::clock::Applied;
use crate::config::CorrectionPolicy;
use crate::context::Event;
use crate::identity::{NodeId, Round, Term};
use crate::node::Node;
use crate::sim::outcome::{Invariant, NodeSample, NodeStanding, Violation};
use crate::time::{LocalTime, Span, Time};

/// The first correction after a jump may have been measured before it.
const CORRECTIONS_AFTER_JUMP: u8 = 2;

/// What one life of a node has shown so far.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    shown: Option<Time>,
    /// A step has been applied since it was looked at.
    has_stepped: bool,
    /// Corrections applied.
    corrections: u32,
    term: Term,
    /// The newest mastership that it followed.
    followed: Option<(Term, NodeId)>,
    corrected: Option<(Term, Round)>,
    /// By whom it was corrected in the newest term.
    corrector: Option<(Term, NodeId)>,
    /// Whose time its clock shows.
    ensemble: Option<(Term, NodeId)>,
    /// Corrections that it still needs since its oscillator did what no oscillator does, before its interval counts again.
    unaware_for: u8,
}

impl Life {
    /// It follows this master; `Some`: whom it ought to follow instead.
    fn follows(&mut self, term: Term, master: NodeId) -> Option<String> {
        match self.followed.replace((term, master)) {
            Some((newest, _)) if term < newest => Some(format!("term {newest} or above")),
            Some((newest, only)) if term == newest && master != only => Some(format!("node {only} in term {newest}")),
            Some(_) | None => None,
        }
    }
}

/// The watch over a group.
#[derive(Debug)]
pub(crate) struct Invariants {
    lives: Vec<Life>,
    /// There have been two masters, and not yet one ensemble since.
    is_split: bool,
    /// Two of the nodes were masters at once since the clocks were looked at last.
    were_two: bool,
}

impl Invariants {
    /// For so many nodes.
    pub(crate) fn new(count: usize) -> Self {
        Self { lives: vec![Life::default(); count], is_split: false, were_two: false }
    }

    /// A node starts a new life.
    pub(crate) fn started(&mut self, index: usize) {
        if let Some(life) = self.lives.get_mut(index) {
            *life = Life::default();
        }
    }

    /// A node's oscillator jumped or stood still.
    pub(crate) fn jumped(&mut self, index: usize) {
        if let Some(life) = self.lives.get_mut(index) {
            life.unaware_for = CORRECTIONS_AFTER_JUMP;
        }
    }

    /// A node told something.
    pub(crate) fn heard(&mut self, at: Span, index: usize, node: &Node, event: &Event) -> Option<Violation> {
        let life = self.lives.get_mut(index)?;
        if let Event::Following { master, term, .. } = event {
            return life.follows(*term, *master).map(|expected| Violation {
                at,
                node: Some(index),
                invariant: Invariant::OneMaster,
                expected,
                found: format!("node {master} of term {term} followed"),
            });
        }
        let Event::Corrected { round, applied } = event else {
            return None;
        };
        let policy = &node.config().policy;
        let violation = |invariant, expected: String, found: String| {
            Some(Violation { at, node: Some(index), invariant, expected, found })
        };
        let is_first = life.corrections == 0;
        life.corrections += 1;
        life.unaware_for = life.unaware_for.saturating_sub(1);
        let corrector = node.master().unwrap_or_default();
        if let Some((term, before)) = life.corrector.replace((node.term(), corrector))
            && term == node.term()
            && before != corrector
        {
            let expected = format!("corrections by node {before} in term {term}");
            return violation(Invariant::OneMaster, expected, format!("one by node {corrector}"));
        }
        let now = (node.term(), *round);
        if let Some(before) = life.corrected.replace(now).filter(|before| *before >= now) {
            let expected = format!("corrections after term {} round {}", before.0, before.1);
            return violation(Invariant::CorrectedOnce, expected, format!("term {} round {}", now.0, now.1));
        }
        if let Applied::Stepped(step) = applied {
            life.has_stepped = true;
            if !(is_first || is_step_allowed(policy)) {
                return violation(Invariant::Monotonic, "a slew".to_owned(), format!("a step by {step}"));
            }
        }
        None
    }

    /// A node has taken an input in and its outputs are drained.
    pub(crate) fn acted(&mut self, at: Span, index: usize, node: &Node, local: LocalTime) -> Option<Violation> {
        let life = self.lives.get_mut(index)?;
        life.ensemble = node.corrected_in();
        let shown = node.clock().read(local);
        let before = life.shown.replace(shown);
        let has_stepped = std::mem::take(&mut life.has_stepped);
        let term = std::mem::replace(&mut life.term, node.term());
        if !has_stepped && before.is_some_and(|before| shown < before) {
            let back = before.unwrap_or_default() - shown;
            return Some(Violation {
                at,
                node: Some(index),
                invariant: Invariant::Monotonic,
                expected: "a clock that goes forward".to_owned(),
                found: format!("{back} back"),
            });
        }
        if node.term() < term {
            return Some(Violation {
                at,
                node: Some(index),
                invariant: Invariant::OneMaster,
                expected: format!("term {term} or above"),
                found: format!("term {}", node.term()),
            });
        }
        None
    }

    /// So many nodes are masters from now on.
    pub(crate) fn masters(&mut self, count: usize) {
        self.were_two |= count > 1;
    }

    /// All clocks were looked at, and so many nodes are masters.
    pub(crate) fn sampled(&mut self, at: Span, samples: &[NodeSample], masters: usize) -> Option<Violation> {
        let is_claim = |sample: &NodeSample, life: &Life| {
            sample.standing == NodeStanding::Honest && sample.bound < Span::MAX && life.unaware_for == 0
        };
        let claims =
            || samples.iter().zip(&self.lives).enumerate().filter(|(_, (sample, life))| is_claim(sample, life));
        let mut ensembles: Vec<_> = claims().map(|(_, (_, life))| life.ensemble).collect();
        ensembles.sort_unstable();
        ensembles.dedup();
        let were_two = std::mem::replace(&mut self.were_two, masters > 1);
        let is_split = were_two || masters > 1 || (self.is_split && ensembles.len() > 1);
        let violation = if is_split {
            let of = |ensemble| claims().filter(move |(_, (_, life))| life.ensemble == ensemble);
            ensembles.into_iter().find_map(|ensemble| Self::agreement(at, of(ensemble)))
        } else {
            Self::agreement(at, claims())
        };
        self.is_split = is_split;
        violation
    }

    /// The claims of one ensemble have a point in common.
    fn agreement<'a>(at: Span, claims: impl Iterator<Item = (usize, (&'a NodeSample, &'a Life))>) -> Option<Violation> {
        let mut latest_begin: Option<(Span, usize)> = None;
        let mut earliest_end: Option<(Span, usize)> = None;
        for (index, (sample, _)) in claims {
            let (begin, end) = (sample.error - sample.bound, sample.error + sample.bound);
            if latest_begin.is_none_or(|(latest, _)| begin > latest) {
                latest_begin = Some((begin, index));
            }
            if earliest_end.is_none_or(|(earliest, _)| end < earliest) {
                earliest_end = Some((end, index));
            }
        }
        let ((begin, ahead), (end, behind)) = (latest_begin?, earliest_end?);
        if begin <= end {
            return None;
        }
        Some(Violation {
            at,
            node: Some(ahead),
            invariant: Invariant::HonestBound,
            expected: format!("nodes {ahead} and {behind} to agree within the sum of their error bounds"),
            found: format!("{} more", begin - end),
        })
    }
}

/// Whether a running clock may be corrected by this step.
fn is_step_allowed(policy: &CorrectionPolicy) -> bool {
    policy.allow_step
}
