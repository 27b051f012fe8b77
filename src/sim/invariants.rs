//! What must hold after every event, whatever the scenario. They are the reason why the simulator exists.
//!
//! 1. A disciplined clock never runs backwards, except by an allowed step: the first correction of a life, or with
//!    `allow-step` one above the threshold.
//! 2. A node applies corrections in the order of (term, round), each at most once.
//! 3. The intervals that corrected honest nodes publish (what they show, plus and minus their error bounds) have a point in
//!    common: the ensemble time that all of them claim to be near. So any two nodes agree within the sum of their bounds. From the
//!    moment that there are two masters until all follow one again, that holds for the nodes of each mastership. Below a submaster the
//!    time that is claimed is that of the domain above, so that this holds across all tiers.
//! 4. In one term a node is corrected by one master. Terms never go down, nobody follows a term below one that it followed before, and in one term it follows one
//!    master.
//!
//! A node whose own oscillator has jumped, or stood still, cannot know until somebody measures it. The next correction may rest
//! on an exchange from before; the one after it cannot, because it names the adjustment count that the first one made. So its
//! interval counts again from its second correction on. The same holds for a node whose master has come to keep another time, or was
//! such a node when it corrected it.

use crate::clock::Applied;
use crate::config::CorrectionPolicy;
use crate::context::Event;
use crate::identity::{NodeId, Round, Term};
use crate::node::Node;
use crate::sim::report::{Invariant, Violation};
use crate::sim::schedule::Number;
use crate::sim::topology::{Port, Topology};
use crate::tiers::Tier;
use crate::time::{LocalTime, Span, Time};

/// The first correction after a jump, of the own oscillator or of the master to another time, may have been measured before it.
const CORRECTIONS_AFTER_JUMP: u8 = 2;

/// Whose time a clock shows: a mastership of a network that keeps nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    network: usize,
    term: Term,
    master: NodeId,
}

/// What a corrected honest node says of ensemble time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) port: Number,
    /// What it shows less true time.
    pub(crate) error: Span,
    /// How far it can be from ensemble time.
    pub(crate) bound: Span,
}

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
    source: Option<Source>,
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
    topology: Topology,
    /// By port.
    lives: Vec<Life>,
    /// By network: there have been two masters, and not yet one ensemble since.
    is_split: Vec<bool>,
    /// By network: two of its nodes were masters at once since the clocks were looked at last.
    were_two: Vec<bool>,
}

impl Invariants {
    /// For the nodes of a topology, none of which has started.
    pub(crate) fn new(topology: &Topology) -> Self {
        let networks = topology.networks().len();
        Self {
            lives: vec![Life::default(); topology.ports().len()],
            is_split: vec![false; networks],
            were_two: vec![false; networks],
            topology: topology.clone(),
        }
    }

    fn life(&mut self, port: Number) -> Option<&mut Life> {
        self.lives.get_mut(usize::try_from(port).ok()?)
    }

    /// A node starts a new life.
    pub(crate) fn started(&mut self, port: Number) {
        if let Some(life) = self.life(port) {
            *life = Life::default();
        }
    }

    /// A node's oscillator jumped or stood still.
    pub(crate) fn jumped(&mut self, port: Number) {
        if let Some(life) = self.life(port) {
            life.unaware_for = CORRECTIONS_AFTER_JUMP;
        }
    }

    /// The life whose clock was handed on by an event: that of a submaster's node above, or that of a submaster which is master. `None`: the
    /// correction is that of an ensemble that keeps its own time.
    fn handed_on_by(&self, number: Number, node: &Node, event: &Event) -> Option<Life> {
        let port = self.topology.port(number)?;
        let number = if let Event::Led { .. } = event {
            self.topology.upper(port.host)?
        } else {
            let (_, master) = node.corrected_in()?;
            let host = usize::try_from(master.get().checked_sub(1)?).ok()?;
            self.topology.upper(host)?;
            let lower = self.topology.of(host, Tier::Lower)?;
            (self.topology.port(lower)?.network == port.network).then_some(lower)?
        };
        self.lives.get(usize::try_from(number).ok()?).copied()
    }

    /// True when another node, which has just jumped and does not know yet, corrected this one: it knows no better now.
    fn is_misled(&self, number: Number, node: &Node) -> bool {
        let master = node.corrected_in().and_then(|(_, master)| usize::try_from(master.get().checked_sub(1)?).ok());
        let (Some(port), Some(host)) = (self.topology.port(number), master) else {
            return false;
        };
        let is_there = |number: &Number| self.topology.port(*number).is_some_and(|there| there.network == port.network);
        let ports = [Tier::Lower, Tier::Upper].into_iter().filter_map(|tier| self.topology.of(host, tier));
        let mut masters = ports.filter(is_there).filter_map(|number| self.lives.get(usize::try_from(number).ok()?));
        host != port.host && masters.any(|life| life.unaware_for > 0)
    }

    /// A node told something.
    pub(crate) fn heard(&mut self, at: Span, number: Number, node: &Node, event: &Event) -> Option<Violation> {
        let Port { host, network, .. } = self.topology.port(number)?;
        let leader = self.handed_on_by(number, node, event);
        let is_misled = self.is_misled(number, node);
        let life = self.life(number)?;
        let violation = |invariant, expected: String, found: String| {
            Some(Violation { at, node: Some(host), invariant, expected, found })
        };
        if let Event::Following { master, term, .. } = event {
            let expected = life.follows(*term, *master)?;
            return violation(Invariant::OneMaster, expected, format!("node {master} of term {term} followed"));
        }
        let applied = if let Event::Corrected { applied, .. } | Event::Led { applied } = event {
            applied
        } else {
            return None;
        };
        let is_first = life.corrections == 0;
        life.corrections += 1;
        if let Applied::Stepped(step) = applied {
            life.has_stepped = true;
            if !(is_first || is_step_allowed(&node.config().policy)) {
                return violation(Invariant::Monotonic, "a slew".to_owned(), format!("a step by {step}"));
            }
        }
        let own = || node.corrected_in().map(|(term, master)| Source { network, term, master });
        let source = leader.map_or_else(own, |leader| leader.source);
        let before = std::mem::replace(&mut life.source, source);
        let Event::Corrected { round, .. } = event else {
            // It is the clock of the node above.
            life.unaware_for = leader.map_or(0, |leader| leader.unaware_for);
            return None;
        };
        // Of the masters of one network each goes on with the time of the one before.
        let is_another_time = before.zip(source).is_some_and(|(before, source)| {
            before != source && [before, source].iter().any(|source| source.network != network)
        });
        life.unaware_for = match is_another_time || is_misled || leader.is_some_and(|leader| leader.unaware_for > 0) {
            true => CORRECTIONS_AFTER_JUMP,
            false => life.unaware_for.saturating_sub(1),
        };
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
        None
    }

    /// A node has taken an input in and its outputs are drained.
    pub(crate) fn acted(&mut self, at: Span, number: Number, node: &Node, local: LocalTime) -> Option<Violation> {
        let index = self.topology.port(number)?.host;
        let life = self.life(number)?;
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

    /// So many nodes of each network are masters from now on.
    pub(crate) fn masters(&mut self, counts: &[usize]) {
        for (were_two, count) in self.were_two.iter_mut().zip(counts) {
            *were_two |= *count > 1;
        }
    }

    /// All clocks were looked at. `masters`: how many each network has.
    pub(crate) fn sampled(&mut self, at: Span, claims: &[Claim], masters: &[usize]) -> Option<Violation> {
        let mut sourced: Vec<(Source, Claim)> = claims
            .iter()
            .filter_map(|claim| {
                let life = self.lives.get(usize::try_from(claim.port).ok()?)?;
                let counts = claim.bound < Span::MAX && life.unaware_for == 0;
                Some((life.source.filter(|_| counts)?, *claim))
            })
            .collect();
        sourced.sort_by_key(|(source, _)| *source);
        let mut violation = None;
        let (mut were_split, mut were_two) = (std::mem::take(&mut self.is_split), std::mem::take(&mut self.were_two));
        let networks = were_split.iter_mut().zip(&mut were_two).zip(masters).enumerate();
        for (network, ((is_split, were_two), masters)) in networks {
            let of_network = |(source, _): &&(Source, Claim)| source.network == network;
            let ensembles = || sourced.iter().filter(of_network).map(|(source, _)| *source);
            let are_two = *masters > 1;
            *is_split = std::mem::replace(were_two, are_two)
                || are_two
                || (*is_split && ensembles().min() != ensembles().max());
            let mut ensembles: Vec<Option<Source>> = ensembles().map(Some).collect();
            ensembles.dedup();
            if !*is_split {
                ensembles = vec![None];
            }
            for ensemble in ensembles {
                let is_in = |(source, _): &&(Source, Claim)| ensemble.is_none_or(|only| only == *source);
                let claims = sourced.iter().filter(of_network).filter(is_in).map(|(_, claim)| *claim);
                violation = violation.or_else(|| self.agreement(at, claims));
            }
        }
        (self.is_split, self.were_two) = (were_split, were_two);
        violation
    }

    /// The claims of one ensemble have a point in common.
    fn agreement(&self, at: Span, claims: impl Iterator<Item = Claim>) -> Option<Violation> {
        let mut latest_begin: Option<(Span, Number)> = None;
        let mut earliest_end: Option<(Span, Number)> = None;
        for Claim { port, error, bound } in claims {
            let (begin, end) = (error - bound, error + bound);
            if latest_begin.is_none_or(|(latest, _)| begin > latest) {
                latest_begin = Some((begin, port));
            }
            if earliest_end.is_none_or(|(earliest, _)| end < earliest) {
                earliest_end = Some((end, port));
            }
        }
        let ((begin, ahead), (end, behind)) = (latest_begin?, earliest_end?);
        if begin <= end {
            return None;
        }
        let [ahead, behind] = [ahead, behind].map(|number| self.topology.port(number).map_or(0, |port| port.host));
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
