//! What `watch` knows, and what of it is to be shown: looks and keys go in. Nothing here touches a terminal, a socket or a clock.

use std::cmp::Ordering;

use crate::commands::watch::keys::Key;
use crate::commands::watch::looks::Seen;
use crate::commands::words::Column;
use crate::local_clock::Pair;
use crate::observation::{Dated, Look, Observation};
use crate::status::{PeerStatus, Status};
use crate::time::{LocalTime, Time};

/// The columns that the table can be sorted by, in the order in which they come.
const ORDERS: [Column; 7] =
    [Column::Slave, Column::Counted, Column::Offset, Column::Bound, Column::Delay, Column::Skew, Column::Heard];
/// So many rows are a page.
const PAGE: usize = 10;

/// All that was seen up to a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    /// The node that is asked.
    node: Observation,
    /// On a submaster: the node of it that belongs to the domain above.
    above: Observation,
    /// The last look.
    at: Option<Pair>,
}

/// In which order slaves are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// By what. What an operator looks for comes first: the largest number, or who is not counted.
    pub(super) column: Column,
    /// And now the other way round.
    pub(super) is_reversed: bool,
}

/// Which of a submaster's nodes is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that all nodes have, whose clock is the one to be read.
    Own,
    /// The one in the domain above.
    Above,
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    Quit,
}

/// The model.
#[derive(Debug)]
pub(super) struct App {
    live: Picture,
    /// What is shown while the screen is paused. What happens meanwhile is in `live`.
    paused: Option<Box<Picture>>,
    side: Side,
    order: Order,
    /// A slave, by its number: it stays selected wherever it is listed.
    selected: Option<u64>,
    is_helping: bool,
}

impl App {
    /// Nothing was seen yet.
    pub(super) fn new() -> Self {
        Self {
            live: Picture::default(),
            paused: None,
            side: Side::Own,
            order: Order { column: Column::Slave, is_reversed: false },
            selected: None,
            is_helping: false,
        }
    }

    /// Takes in what a look saw.
    pub(super) fn see(&mut self, seen: Seen) {
        let (at, took) = (seen.at.local, seen.took);
        self.live.at = Some(seen.at);
        match seen.status {
            Ok(status) => {
                if let Some(upper) = &status.upper {
                    self.live.above.see(Look { at, took, status: upper.node.clone() });
                }
                self.live.node.see(Look { at, took, status: *status });
            }
            Err(reason) => {
                self.live.node.miss(at, reason);
            }
        }
    }

    /// Obeys a key.
    pub(super) fn press(&mut self, key: Key) -> Flow {
        match key {
            Key::Char('q' | 'Q') => return Flow::Quit,
            Key::Char('?' | 'h') => self.is_helping = !self.is_helping,
            Key::Escape if self.is_helping => self.is_helping = false,
            Key::Escape => self.selected = None,
            Key::Char(' ' | 'p') => {
                self.paused = if self.paused.is_some() { None } else { Some(Box::new(self.live.clone())) };
            }
            Key::Char('s') => self.order.column = next(self.order.column),
            Key::Char('r') => self.order.is_reversed = !self.order.is_reversed,
            Key::Char('\t') => {
                self.side = match self.side {
                    Side::Own => Side::Above,
                    Side::Above => Side::Own,
                };
            }
            Key::Down | Key::Char('j') => self.select(|last, row| row.map_or(0, |row| (row + 1).min(last))),
            Key::Up | Key::Char('k') => self.select(|last, row| row.map_or(last, |row| row.saturating_sub(1))),
            Key::PageDown => self.select(|last, row| (row.unwrap_or(0) + PAGE).min(last)),
            Key::PageUp => self.select(|_, row| row.unwrap_or(0).saturating_sub(PAGE)),
            Key::Home => self.select(|_, _| 0),
            Key::End => self.select(|last, _| last),
            Key::Char(_) => (),
        }
        Flow::GoOn
    }

    /// `place`: from the last row and the selected one to the next.
    fn select(&mut self, place: impl FnOnce(usize, Option<usize>) -> usize) {
        let peers = self.peers();
        let Some(last) = peers.len().checked_sub(1) else { return };
        let selected = peers.iter().position(|peer| Some(peer.node_id) == self.selected);
        self.selected = peers.get(place(last, selected)).map(|peer| peer.node_id);
    }

    /// What is to be shown.
    fn picture(&self) -> &Picture {
        self.paused.as_deref().unwrap_or(&self.live)
    }

    /// The node that is shown, above or below.
    pub(super) fn observation(&self) -> &Observation {
        match self.side() {
            Side::Own => &self.picture().node,
            Side::Above => &self.picture().above,
        }
    }

    /// Which side of the node is shown: only a submaster has two.
    pub(super) fn side(&self) -> Side {
        if self.is_submaster() { self.side } else { Side::Own }
    }

    /// Whether there is another side to be shown.
    pub(super) fn is_submaster(&self) -> bool {
        self.own().is_some_and(|status| status.upper.is_some())
    }

    /// What the node that is asked said at last.
    pub(super) fn own(&self) -> Option<&Status> {
        self.picture().node.last().map(|look| &look.status)
    }

    /// What the node that is shown said at last.
    pub(super) fn status(&self) -> Option<&Status> {
        self.observation().last().map(|look| &look.status)
    }

    /// For how long the node has not answered, in ms, and why; `None` while it answers.
    pub(super) fn silence(&self) -> Option<(i64, &str)> {
        let picture = self.picture();
        let (silence, at) = (picture.node.silence()?, picture.at?);
        Some(((at.local - silence.since).as_nanos() / 1_000_000, &silence.reason))
    }

    /// The slaves in their order.
    pub(super) fn peers(&self) -> Vec<&PeerStatus> {
        let mut peers: Vec<&PeerStatus> = self.status().map(|status| status.peers.iter().collect()).unwrap_or_default();
        peers.sort_by(|one, other| {
            let order = compare(self.order.column, one, other);
            if self.order.is_reversed { order.reverse() } else { order }
        });
        peers
    }

    /// The order of the slaves.
    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// The number of the slave that is selected, if it is still there.
    pub(super) fn selected(&self) -> Option<u64> {
        let peers = self.status().map(|status| status.peers.as_slice()).unwrap_or_default();
        self.selected.filter(|selected| peers.iter().any(|peer| peer.node_id == *selected))
    }

    /// True while nothing on the screen moves.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// True while the keys are explained.
    pub(super) fn is_helping(&self) -> bool {
        self.is_helping
    }

    /// The last look, on the clock of who looks.
    pub(super) fn now(&self) -> LocalTime {
        self.picture().at.map(|at| at.local).unwrap_or_default()
    }

    /// What the system's clock showed then.
    pub(super) fn system_at(&self, at: LocalTime) -> Option<Time> {
        self.picture().at.map(|now| now.system - (now.local - at))
    }

    /// The last `count` of what happened on both sides, the oldest first; with the domain of what happened above.
    pub(super) fn happenings(&self, count: usize) -> Vec<(Option<u32>, &Dated)> {
        let Picture { node, above, at: _ } = self.picture();
        let domain = above.last().map(|look| look.status.domain);
        let own = node.happenings_after(0).map(|dated| (None, dated));
        let mut all: Vec<_> = own.chain(above.happenings_after(0).map(|dated| (domain, dated))).collect();
        all.sort_by_key(|(_, dated)| dated.at);
        all.split_off(all.len().saturating_sub(count))
    }
}

fn next(column: Column) -> Column {
    let place = ORDERS.iter().position(|order| *order == column).unwrap_or(0);
    ORDERS.get(place + 1).copied().unwrap_or(Column::Slave)
}

/// The smaller one comes first. Equal ones are told apart by their numbers, so that rows do not change places without need.
fn compare(column: Column, one: &PeerStatus, other: &PeerStatus) -> Ordering {
    let largest = |value: fn(&PeerStatus) -> i64| value(other).saturating_abs().cmp(&value(one).saturating_abs());
    let order = match column {
        Column::Slave => Ordering::Equal,
        Column::Address => one.address.cmp(&other.address),
        Column::Stamps => one.timestamping.cmp(&other.timestamping),
        Column::Counted => one.counted.cmp(&other.counted).then_with(|| one.reason.cmp(&other.reason)),
        Column::Offset => largest(|peer| peer.offset_ns),
        Column::Bound => largest(|peer| peer.error_bound_ns),
        Column::Delay => largest(|peer| peer.delay_ns),
        Column::Skew => largest(|peer| peer.skew_ppb),
        Column::Heard => largest(|peer| peer.last_heard_ms),
    };
    order.then(one.node_id.cmp(&other.node_id))
}
