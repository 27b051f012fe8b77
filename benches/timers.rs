//! What the timers of a master cost that asks each member alone: one for the next request to each, or for its answer.
//!
//! `cargo bench --bench timers`. An exchange: the request is due, and its answer awaited; ten others later that is there, and the timer is set for the
//! next round. With the trees of `timers.rs`, and with two heaps in their place:
//!
//! - `lazy_heap`: cancelled deadlines stay in the heap until they come up, and are looked up in a tree then;
//! - `indexed_heap`: the place of each deadline in the heap is kept, and found through a tree of the keys.

#![expect(clippy::indexing_slicing, reason = "of what is compared, the simplest that can be written")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use berkeleyd::time::{LocalTime, Span};
use berkeleyd::timers::Timers;
use divan::{Bencher, black_box};

const SIZES: [u64; 3] = [10, 1_000, 10_000];
/// Requests whose answers are awaited at a time.
const UNDER_WAY: usize = 10;
const ROUND: Span = Span::from_secs(1);
const PATIENCE: Span = Span::from_millis(20);

/// What a timer is for, as long as a master's: asking or repeating, and a member's number.
type Key = (u8, u64);

fn main() {
    divan::main();
}

trait Table: Default {
    fn set(&mut self, key: Key, at: LocalTime);
    fn cancel(&mut self, key: Key);
    fn next(&self) -> Option<LocalTime>;
    fn pop_due(&mut self, now: LocalTime) -> Option<Key>;
}

#[derive(Default)]
struct Trees(Timers<Key>);

impl Table for Trees {
    fn set(&mut self, key: Key, at: LocalTime) {
        self.0.set(key, at);
    }
    fn cancel(&mut self, key: Key) {
        self.0.cancel(key);
    }
    fn next(&self) -> Option<LocalTime> {
        self.0.next()
    }
    fn pop_due(&mut self, now: LocalTime) -> Option<Key> {
        self.0.pop_due(now)
    }
}

#[derive(Default)]
struct LazyHeap {
    deadlines: BTreeMap<Key, LocalTime>,
    queue: BinaryHeap<Reverse<(LocalTime, Key)>>,
}

impl LazyHeap {
    /// What comes first is a deadline that holds.
    fn clean(&mut self) {
        while let Some(Reverse((at, key))) = self.queue.peek()
            && self.deadlines.get(key) != Some(at)
        {
            self.queue.pop();
        }
        if self.queue.len() > 2 * self.deadlines.len() + 64 {
            self.queue = self.deadlines.iter().map(|(key, at)| Reverse((*at, *key))).collect();
        }
    }
}

impl Table for LazyHeap {
    fn set(&mut self, key: Key, at: LocalTime) {
        if self.deadlines.insert(key, at) != Some(at) {
            self.queue.push(Reverse((at, key)));
        }
        self.clean();
    }
    fn cancel(&mut self, key: Key) {
        self.deadlines.remove(&key);
        self.clean();
    }
    fn next(&self) -> Option<LocalTime> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }
    fn pop_due(&mut self, now: LocalTime) -> Option<Key> {
        let Reverse((_, key)) = *self.queue.peek().filter(|Reverse((at, _))| *at <= now)?;
        self.cancel(key);
        Some(key)
    }
}

/// A binary heap of deadlines, and where in it that of each key is.
#[derive(Default)]
struct IndexedHeap {
    /// With the slot of the key.
    heap: Vec<(LocalTime, Key, usize)>,
    /// By slot.
    places: Vec<usize>,
    slots: BTreeMap<Key, usize>,
    free: Vec<usize>,
}

impl IndexedHeap {
    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for place in [one, other] {
            self.places[self.heap[place].2] = place;
        }
    }

    /// Moves what has come to a place to where it belongs.
    fn settle(&mut self, mut place: usize) {
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        while let Some(least) =
            (2 * place + 1..(2 * place + 3).min(self.heap.len())).min_by_key(|child| self.heap[*child])
            && self.heap[least] < self.heap[place]
        {
            self.swap(place, least);
            place = least;
        }
    }
}

impl Table for IndexedHeap {
    fn set(&mut self, key: Key, at: LocalTime) {
        let slot = *self.slots.entry(key).or_insert_with(|| {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.places.push(0);
                self.places.len() - 1
            });
            self.places[slot] = self.heap.len();
            self.heap.push((at, key, slot));
            slot
        });
        let place = self.places[slot];
        self.heap[place].0 = at;
        self.settle(place);
    }
    fn cancel(&mut self, key: Key) {
        let Some(slot) = self.slots.remove(&key) else {
            return;
        };
        self.free.push(slot);
        let place = self.places[slot];
        self.swap(place, self.heap.len() - 1);
        self.heap.pop();
        if place < self.heap.len() {
            self.settle(place);
        }
    }
    fn next(&self) -> Option<LocalTime> {
        self.heap.first().map(|(at, _, _)| *at)
    }
    fn pop_due(&mut self, now: LocalTime) -> Option<Key> {
        let (_, key, _) = *self.heap.first().filter(|(at, _, _)| *at <= now)?;
        self.cancel(key);
        Some(key)
    }
}

fn exchanges<T: Table>(bencher: Bencher<'_, '_>, members: u64) {
    let pace = ROUND.part(i64::try_from(members).unwrap_or(i64::MAX));
    let mut now = LocalTime::from_nanos(5_000_000_000);
    let mut table = T::default();
    for member in 0..members {
        // In an order that is not that of their numbers.
        table.set((0, member * 7_919 % members), now + pace.times(i64::try_from(member).unwrap_or(i64::MAX)));
    }
    let mut asked = VecDeque::new();
    bencher.bench_local(|| {
        now = now.max(table.next().unwrap_or(now));
        if let Some(key) = table.pop_due(now) {
            table.set(key, now + PATIENCE);
            asked.push_back((key, now));
        }
        if asked.len() >= UNDER_WAY.min(usize::try_from(members / 2).unwrap_or(UNDER_WAY))
            && let Some((key, at)) = asked.pop_front()
        {
            table.cancel(key);
            table.set(key, at + ROUND);
        }
        black_box(table.next())
    });
}

#[divan::bench(args = SIZES)]
fn trees(bencher: Bencher<'_, '_>, members: u64) {
    exchanges::<Trees>(bencher, members);
}

#[divan::bench(args = SIZES)]
fn lazy_heap(bencher: Bencher<'_, '_>, members: u64) {
    exchanges::<LazyHeap>(bencher, members);
}

#[divan::bench(args = SIZES)]
fn indexed_heap(bencher: Bencher<'_, '_>, members: u64) {
    exchanges::<IndexedHeap>(bencher, members);
}
