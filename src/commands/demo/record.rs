//! What the demo has seen, and whether it is what was promised.

use std::collections::BTreeMap;

use super::{LIAR, PREFERRED, VICTIM, name, short};
use crate::status::{RoleName, Status};
use crate::time::Span;

/// Closer than this, clocks agree; texts below name it too. They do ten times better, but a busy machine needs the room.
pub(super) const AGREEMENT: Span = Span::from_millis(1);
/// The honest clocks must agree from here on; texts below name it too. They need a tenth of it.
pub(super) const JUDGED_FROM: Span = Span::from_secs(5);
/// The restarted slave is judged only after this. It needs a quarter of it.
const REJOINING: Span = Span::from_secs(1);

/// What the nodes say of themselves, by number; who does not answer is missing.
pub(super) type Statuses = BTreeMap<u64, Status>;

/// The true clocks at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    /// Since the start of the master.
    pub(super) at: Span,
    /// Each node's clock less this machine's; who did not answer is missing.
    pub(super) clocks: BTreeMap<u64, Span>,
    /// Who is master; of several the one of the newest term.
    pub(super) master: Option<u64>,
}

impl Sample {
    pub(super) fn new(at: Span, statuses: &Statuses) -> Self {
        let ahead =
            |status: &Status| Span::from_nanos(status.clock.disciplined_ns) - Span::from_nanos(status.clock.system_ns);
        let masters = statuses.values().filter(|status| status.role == RoleName::Master);
        Self {
            at,
            clocks: statuses.iter().map(|(node, status)| (*node, ahead(status))).collect(),
            master: masters.max_by_key(|status| status.term).map(|status| status.node_id),
        }
    }

    /// The master; before there is one, who ought to be.
    pub(super) fn leader(&self) -> u64 {
        self.master.unwrap_or(PREFERRED)
    }

    /// A node's clock less the leader's.
    pub(super) fn true_offset(&self, node: u64) -> Option<Span> {
        Some(*self.clocks.get(&node)? - *self.clocks.get(&self.leader())?)
    }
}

/// All that was seen, and when the victim died and was started again.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) samples: Vec<Sample>,
    pub(super) killed: Option<Span>,
    pub(super) restarted: Option<Span>,
    /// Who was master when it was killed, and when that was, ...
    pub(super) beheaded: Option<(u64, Span)>,
    /// ... and who was seen as master after it, and when.
    pub(super) successor: Option<(u64, Span)>,
}

impl Record {
    /// The honest nodes, without the victim while it is dead or has just come back.
    pub(super) fn judged(&self, at: Span) -> impl Iterator<Item = u64> {
        let is_away = self.killed.is_some_and(|killed| at >= killed)
            && self.restarted.is_none_or(|restarted| at < restarted + REJOINING);
        let dead_master = self.beheaded.filter(|(_, killed)| at >= *killed).map(|(node, _)| node);
        (PREFERRED..=LIAR)
            .filter(move |node| *node != LIAR && !(*node == VICTIM && is_away) && Some(*node) != dead_master)
    }

    /// The largest true difference of two judged nodes; `None` unless all of them answered.
    pub(super) fn spread(&self, sample: &Sample) -> Option<Span> {
        let clocks: Option<Vec<_>> = self.judged(sample.at).map(|node| sample.clocks.get(&node)).collect();
        let clocks = clocks?;
        Some(**clocks.iter().max()? - **clocks.iter().min()?)
    }

    /// The spreads from then on.
    pub(super) fn spreads(&self, from: Span) -> impl DoubleEndedIterator<Item = Span> {
        self.samples.iter().filter(move |sample| sample.at >= from).filter_map(|sample| self.spread(sample))
    }

    pub(super) fn agrees(&self, sample: &Sample) -> bool {
        self.spread(sample).is_some_and(|spread| spread < AGREEMENT)
    }

    pub(super) fn has_victim_back(&self, sample: &Sample) -> bool {
        // While there is no master there is nothing to compare with.
        let offset = sample.true_offset(VICTIM);
        sample.clocks.contains_key(&VICTIM) && offset.is_none_or(|offset| offset.abs() < AGREEMENT)
    }

    /// When something became true that stayed so until the end.
    fn since(&self, holds: fn(&Self, &Sample) -> bool) -> Option<Span> {
        self.samples.iter().rev().take_while(|sample| holds(self, sample)).last().map(|sample| sample.at)
    }

    /// The measured spreads, for people.
    pub(super) fn summary(&self) -> String {
        let spreads = |from| self.spreads(from);
        let text = |span: Option<Span>| span.map_or("never".to_owned(), short);
        let returned = self.restarted.and_then(|restarted| Some(self.since(Self::has_victim_back)? - restarted));
        format!(
            "True disagreement of the honest nodes (largest less smallest clock)\n\
             \x20 before              {:>9}\n\
             \x20 after 1 s           {:>9}\n\
             \x20 worst from 5 s on   {:>9}\n\
             \x20 at the end          {:>9}\n\
             \x20 since the fail-over {:>9}\n\
             Time until it stayed below 1 ms\n\
             \x20 from the start      {:>9}\n\
             \x20 {}, restarted   {:>9}\n\
             Time without a master\n\
             \x20 until {} led    {:>9}\n",
            text(spreads(Span::ZERO).next()),
            text(spreads(Span::from_secs(1)).next()),
            text(spreads(JUDGED_FROM).max()),
            text(spreads(JUDGED_FROM).next_back()),
            text(self.beheaded.and_then(|(_, killed)| spreads(killed).max())),
            text(self.since(Self::agrees)),
            name(VICTIM),
            text(returned),
            self.successor.map_or_else(|| "nobody".to_owned(), |(node, _)| name(node)),
            text(self.beheaded.and_then(|(_, killed)| Some(self.successor?.1 - killed))),
        )
    }

    /// What was missed, in a line; `None` if the honest nodes agreed whenever it counts.
    pub(super) fn missed(&self) -> Option<String> {
        let mut judged = self.samples.iter().filter(|sample| sample.at >= JUDGED_FROM).peekable();
        if judged.peek().is_none() || self.restarted.is_none() {
            return Some("the demo ended too early to be judged".to_owned());
        }
        if self.beheaded.is_some() && self.successor.is_none() {
            return Some("nobody took over from the master".to_owned());
        }
        let bad = judged.find(|sample| !self.agrees(sample))?;
        let at = short(bad.at);
        Some(match self.judged(bad.at).find(|node| !bad.clocks.contains_key(node)) {
            Some(silent) => format!("{} did not answer {at} after the start", name(silent)),
            None => format!(
                "the honest clocks were {} apart {at} after the start: they must agree within 1 ms from 5 s on",
                self.spread(bad).map(short).unwrap_or_default(),
            ),
        })
    }
}
