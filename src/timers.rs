//! Absolute deadlines keyed by what they are for. The state machines keep their timers here, the driver asks for the first.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::{LocalTime, Span};

/// At most one deadline for each key; setting a key again moves it. O(log n) each, and no slower than heaps (`benches/timers.rs`).
#[derive(Clone, Debug)]
pub struct Timers<K> {
    deadlines: BTreeMap<K, LocalTime>,
    queue: BTreeSet<(LocalTime, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { deadlines: BTreeMap::new(), queue: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: K, at: LocalTime) {
        let before = self.deadlines.insert(key, at);
        if before != Some(at) {
            // In this order a tree of one never becomes empty, which would free its memory and ask for it again.
            self.queue.insert((at, key));
            if let Some(before) = before {
                self.queue.remove(&(before, key));
            }
        }
    }

    /// Moves the deadline of `key` forward to `at`, or sets it; never postpones it.
    pub fn hasten(&mut self, key: K, at: LocalTime) {
        if self.deadlines.get(&key).is_none_or(|deadline| at < *deadline) {
            self.set(key, at);
        }
    }

    /// Forgets the deadline of `key`, if any.
    pub fn cancel(&mut self, key: K) {
        if let Some(at) = self.deadlines.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<LocalTime> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out the earliest deadline that is not after `now`; equal ones in the order of their keys.
    pub fn pop_due(&mut self, now: LocalTime) -> Option<K> {
        let (at, key) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.cancel(key);
        Some(key)
    }
}

/// Lets something happen at most once in a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    last: Option<LocalTime>,
}

impl Throttle {
    /// True when it may happen now, because it last did so `pause` ago or never; it is then taken to happen.
    pub fn admits(&mut self, now: LocalTime, pause: Span) -> bool {
        let admits = self.last.is_none_or(|last| now - last >= pause);
        if admits {
            self.last = Some(now);
        }
        admits
    }
}

/// Lets something happen at a rate, and some of it in advance: a token bucket. It keeps one instant: when what was taken is paid off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    paid_off: LocalTime,
}

impl Allowance {
    /// True when it may happen now; it is then taken to happen. Each time costs `pause`, and `burst` times may be had in advance.
    pub fn admits(&mut self, now: LocalTime, pause: Span, burst: i64) -> bool {
        let debt = (self.paid_off - now).max(Span::ZERO) + pause;
        let admits = debt <= pause.times(burst);
        if admits {
            self.paid_off = now + debt;
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_gives_its_burst_and_then_its_rate() {
        let (pause, burst) = (Span::from_millis(10), 5);
        let mut allowance = Allowance::default();
        let start = LocalTime::from_nanos(1_000_000_000_000);
        let admitted = |allowance: &mut Allowance, from: LocalTime, times: i64| {
            (0..times).filter(|index| allowance.admits(from + Span::from_millis(*index), pause, burst)).count()
        };
        // A second of one try each millisecond: five in advance, and one each ten milliseconds.
        assert_eq!(admitted(&mut allowance, start, 1_000), 104);
        assert_eq!(admitted(&mut allowance, start + Span::from_secs(10), 1), 1);
        // Nothing is saved up beyond the burst.
        assert_eq!((0..20).filter(|_| allowance.admits(start + Span::from_secs(60), pause, burst)).count(), 5);
    }

    #[test]
    fn deadlines_come_out_in_order_and_moving_one_leaves_no_trace() {
        let at = LocalTime::from_nanos;
        let mut timers = Timers::default();
        timers.set('b', at(20));
        timers.set('a', at(10));
        timers.set('a', at(30));
        timers.set('c', at(20));
        timers.hasten('a', at(40));
        timers.hasten('b', at(15));
        assert_eq!(timers.next(), Some(at(15)));
        assert_eq!(timers.pop_due(at(14)), None);
        timers.cancel('c');
        assert_eq!(
            [timers.pop_due(at(30)), timers.pop_due(at(30)), timers.pop_due(at(30))],
            [Some('b'), Some('a'), None]
        );
        assert_eq!(timers.next(), None);
    }
}
