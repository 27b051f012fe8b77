//! What has been heard before: no authenticated frame is accepted twice.
//!
//! A frame is numbered by its sender's local time ([`Sequence`]), so that the numbers of one life of a node rise with gaps of any size. For
//! each life the highest number that was accepted is kept, and the [`REMEMBERED`] next ones. A number is accepted when it is none of these,
//! not below all of them, and less than [`HORIZON`] below the highest. The request of a master and what it sends to its group
//! come through two sockets, so that one may overtake the other; nothing that overtakes a second's frames is of use to anybody.
//! So the memory is constant, nothing is accepted twice, and whoever learns of a life late cannot be told its whole past.
//!
//! A window says nothing about a life that has just become known: a recording of a former life, of any length, is as genuine as
//! its original. So lives are kept apart:
//!
//! - **proven** ones have sent a frame that could only be made for this life of ours (it names our incarnation, which nobody could
//!   know before). There are as many as the node has room for; the one that was silent longest makes room for a new one, which only
//!   somebody alive who holds the key can bring about.
//! - **candidates** have not. There are few, the oldest makes room for the next, and so recordings push out nothing but each other. When
//!   a candidate is forgotten its frames can come again: what it says must not matter, proof apart.
//!
//! An [`Admission`] also says how much longer a frame took than the quickest of its sender's in the last seconds: somebody may
//! have held it back.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::auth::Sequence;
use crate::identity::{Incarnation, NodeId};
use crate::time::{LocalTime, Span};

/// Numbers kept for each life, beside the highest. A master sends some 14 frames a second to a slave (10 announces, a request or two, a correction or
/// two), so that this is about as much as [`HORIZON`]. With fewer, frames are refused that another socket has overtaken while the
/// receiver did not run; more costs 4 bytes each for every member.
pub const REMEMBERED: usize = 16;

/// A frame that is older than the newest by more than this is refused. A slave takes a master that was silent for so long for lost,
/// and a request is repeated sooner. The larger it is, the more of what was recorded before we began to listen is accepted.
pub const HORIZON: Span = Span::from_secs(1);

/// Farther below the highest than anything that is not refused anyway, see [`HORIZON`]: 4.3 s.
const FORGOTTEN: u32 = u32::MAX;

/// Lives that have not proved to be alive: those of a second in which nodes start, or of an attacker's recordings.
const CANDIDATES: usize = 64;

/// Two oscillators differ by less: 500 ppm each. So fast the quickest way that a frame took is forgotten; a sender that was
/// suspended, whose local time lags from then on, counts as late for a thousand times as long, or until it starts afresh.
const SKEW_PARTS: i64 = 1_000;

/// Why a frame is taken for a repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It was accepted before.
    Repeated,
    /// It is so old that nobody knows.
    TooOld,
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repeated => "a frame that was accepted before",
            Self::TooOld => "a frame older than those that are remembered",
        })
    }
}

impl std::error::Error for Replay {}

/// What is known of a frame that is no repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its sender has proved to be alive in this life of ours, with this frame or before.
    pub is_proven: bool,
    /// By how much longer it took than the quickest; zero for that one.
    pub late: Span,
}

/// The frames that were accepted from one life of a node.
#[derive(Clone, Debug)]
struct Window {
    /// The highest number that was accepted.
    highest: u64,
    /// How far the next ones lie below it, ascending; [`FORGOTTEN`] where there were none yet, or too long ago.
    below: [u32; REMEMBERED],
    /// The sender's local time less ours, in the frame that was quickest.
    quickest: Span,
    heard: LocalTime,
}

impl Window {
    /// A window in which one number was accepted.
    fn new(now: LocalTime, first: Sequence) -> Self {
        Self { highest: first.get(), below: [FORGOTTEN; REMEMBERED], quickest: ahead(first, now), heard: now }
    }

    /// Accepts a number once.
    fn accept(&mut self, sequence: Sequence) -> Result<(), Replay> {
        let number = sequence.get();
        let below = distance(self.highest, number);
        if number > self.highest {
            // What was the highest is the first below it now.
            self.below.iter_mut().for_each(|lower| *lower = lower.saturating_add(below));
            self.highest = number;
        } else if below >= horizon() || self.below.last() < Some(&below) {
            return Err(Replay::TooOld);
        } else if below == 0 || self.below.binary_search(&below).is_ok() {
            return Err(Replay::Repeated);
        }
        // Each makes room for the one above it. What lies below the last had to make room before, or was never accepted.
        let mut above = below;
        for lower in self.below.iter_mut().filter(|lower| **lower > below) {
            std::mem::swap(lower, &mut above);
        }
        Ok(())
    }

    /// By how much longer a frame took than the quickest.
    fn lateness(&mut self, now: LocalTime, sequence: Sequence) -> Span {
        let forgotten = (now - self.heard).abs().part(SKEW_PARTS);
        let ahead = ahead(sequence, now);
        self.quickest = ahead.max(self.quickest - forgotten);
        self.heard = now;
        self.quickest - ahead
    }
}

/// How far one number lies from the other.
fn distance(one: u64, other: u64) -> u32 {
    u32::try_from(one.abs_diff(other)).unwrap_or(FORGOTTEN)
}

/// [`HORIZON`] in the unit of sequence numbers.
fn horizon() -> u32 {
    u32::try_from(HORIZON.as_nanos()).unwrap_or(FORGOTTEN)
}

/// What the sender's local time was when it wrote a frame less what ours is.
fn ahead(sequence: Sequence, now: LocalTime) -> Span {
    Span::from_nanos(i64::try_from(sequence.get()).unwrap_or(i64::MAX)) - Span::from_nanos(now.as_nanos())
}

type Life = (NodeId, Incarnation);

/// What was accepted from whom.
#[derive(Clone, Debug)]
pub struct ReplayGuard {
    proven: BTreeMap<Life, Box<Window>>,
    /// The oldest in front.
    candidates: VecDeque<(Life, Window)>,
    room: usize,
}

impl ReplayGuard {
    /// Remembers so many lives that have proved to be alive; at least one.
    pub fn new(room: usize) -> Self {
        Self { proven: BTreeMap::new(), candidates: VecDeque::new(), room: room.max(1) }
    }

    /// Remembers as many lives as this, or as before if that is more.
    pub fn widen(&mut self, room: usize) {
        self.room = self.room.max(room);
    }

    /// Takes note of a frame whose code is right, unless it is a repetition. `is_proof`: it could only be made for this life of
    /// ours.
    ///
    /// # Errors
    /// Why it is a repetition, or may be one.
    pub fn admit(
        &mut self,
        now: LocalTime,
        sender: NodeId,
        incarnation: Incarnation,
        sequence: Sequence,
        is_proof: bool,
    ) -> Result<Admission, Replay> {
        let life = (sender, incarnation);
        if let Some(window) = self.proven.get_mut(&life) {
            window.accept(sequence)?;
            return Ok(Admission { is_proven: true, late: window.lateness(now, sequence) });
        }
        let candidate = self.candidates.iter().position(|(known, _)| *known == life);
        let mut late = Span::ZERO;
        if let Some((_, window)) = candidate.and_then(|place| self.candidates.get_mut(place)) {
            window.accept(sequence)?;
            late = window.lateness(now, sequence);
        }
        if is_proof {
            let known = candidate.and_then(|place| self.candidates.remove(place));
            let window = known.map_or_else(|| Window::new(now, sequence), |(_, window)| window);
            self.make_room();
            self.proven.insert(life, Box::new(window));
        } else if candidate.is_none() {
            if self.candidates.len() == CANDIDATES {
                self.candidates.pop_front();
            }
            self.candidates.push_back((life, Window::new(now, sequence)));
        }
        Ok(Admission { is_proven: is_proof, late })
    }

    /// Forgets the proven life that was silent longest, if there are as many as there may be. Looks at all of them, which only somebody
    /// who holds the key and lives can make it do.
    fn make_room(&mut self) {
        if self.proven.len() < self.room {
            return;
        }
        let silent = self.proven.iter().min_by_key(|(_, window)| window.heard).map(|(life, _)| *life);
        if let Some(life) = silent {
            self.proven.remove(&life);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const MILLI: u64 = 1_000_000;
    /// A time of day for numbers to go down from.
    const START: u64 = 1_000_000 * MILLI;

    fn now(nanos: u64) -> LocalTime {
        LocalTime::from_nanos(i64::try_from(nanos).unwrap())
    }

    fn admit(guard: &mut ReplayGuard, sender: u64, number: u64, is_proof: bool) -> Result<bool, Replay> {
        let admission =
            guard.admit(now(number), NodeId::new(sender), Incarnation::new(sender), Sequence::new(number), is_proof);
        admission.map(|admission| admission.is_proven)
    }

    fn window() -> Window {
        Window::new(now(START), Sequence::new(START))
    }

    #[test]
    fn a_frame_is_accepted_once_and_nothing_that_is_long_past() {
        let mut window = window();
        for (number, answer) in [
            (START, Err(Replay::Repeated)),
            (START + 1, Ok(())),
            (START - 1, Ok(())),
            (START - 1, Err(Replay::Repeated)),
            (START - 999 * MILLI, Ok(())),
            // What was recorded before we began to listen.
            (START - 1_000 * MILLI, Err(Replay::TooOld)),
            (0, Err(Replay::TooOld)),
            (START + 500 * MILLI, Ok(())),
            (START - 500 * MILLI, Err(Replay::TooOld)),
            (u64::MAX, Ok(())),
            (u64::MAX, Err(Replay::Repeated)),
        ] {
            assert_eq!(window.accept(Sequence::new(number)), answer, "{number}");
        }
    }

    #[test]
    fn what_another_socket_has_overtaken_is_accepted() {
        // The receiver slept for 700 ms. Then it reads what its master sent to the group (an announce every 100 ms, two corrections), and
        // after that what was sent to it alone (a request with its repetitions).
        let group = (0..7).map(|tenth| START + tenth * 100 * MILLI).chain([START + 350 * MILLI, START + 351 * MILLI]);
        let alone = [20, 40, 80, 160, 320, 640].map(|milli| START + milli * MILLI);
        let mut window = window();
        for number in group.skip(1).chain(alone) {
            assert_eq!(window.accept(Sequence::new(number)), Ok(()), "{number}");
        }
    }

    #[test]
    fn lateness_is_what_a_frame_took_longer_than_the_quickest() {
        let mut guard = ReplayGuard::new(1);
        let mut late = |arrival: u64, number: u64| {
            let sequence = Sequence::new(START + number * MILLI);
            let (node, life) = (NodeId::new(1), Incarnation::new(1));
            guard.admit(now(arrival * MILLI), node, life, sequence, true).unwrap().late
        };
        assert_eq!(late(500, 0), Span::ZERO);
        assert_eq!(late(600, 100), Span::from_micros(-100) + Span::from_micros(100));
        // Held back for 300 ms.
        let held_back = late(1_000, 200);
        assert!((held_back - Span::from_millis(300)).abs() < Span::from_millis(1), "{held_back}");
        // A quicker one makes all others later.
        assert_eq!(late(1_010, 900), Span::ZERO);
        // And is forgotten at the rate at which clocks may differ.
        let forgotten = late(11_020, 10_900);
        assert!(forgotten < Span::from_millis(1), "{forgotten}");
    }

    #[test]
    fn recordings_of_former_lives_push_out_nobody_who_has_proved_to_be_alive() {
        let mut guard = ReplayGuard::new(2);
        assert_eq!(admit(&mut guard, 1, START, true), Ok(true));
        for sender in 100..10_000 {
            assert_eq!(admit(&mut guard, sender, START, false), Ok(false));
        }
        assert_eq!(admit(&mut guard, 1, START, true), Err(Replay::Repeated));
        assert_eq!(admit(&mut guard, 1, START + 1, false), Ok(true), "once proven for ever");
        assert_eq!((guard.proven.len(), guard.candidates.len()), (1, CANDIDATES));
        // Those that came last are remembered.
        assert_eq!(admit(&mut guard, 9_950, START, false), Err(Replay::Repeated));
        // A repetition is no proof.
        assert_eq!(admit(&mut guard, 9_999, START, true), Err(Replay::Repeated));
        assert_eq!(admit(&mut guard, 9_999, START + 1, false), Ok(false));
    }

    #[test]
    fn a_candidate_that_proves_itself_keeps_what_is_known_of_it() {
        let mut guard = ReplayGuard::new(2);
        assert_eq!(admit(&mut guard, 1, START, false), Ok(false));
        assert_eq!(admit(&mut guard, 1, START + 1, true), Ok(true));
        for repeated in [START, START + 1] {
            assert_eq!(admit(&mut guard, 1, repeated, true), Err(Replay::Repeated));
        }
    }

    #[test]
    fn who_was_silent_longest_makes_room() {
        let mut guard = ReplayGuard::new(2);
        for (sender, number) in [(1, START), (2, START + 1), (1, START + 2), (3, START + 3)] {
            assert_eq!(admit(&mut guard, sender, number, true), Ok(true));
        }
        assert_eq!(admit(&mut guard, 1, START, true), Err(Replay::Repeated));
        assert_eq!(admit(&mut guard, 3, START + 3, true), Err(Replay::Repeated));
        assert_eq!(admit(&mut guard, 2, START + 4, false), Ok(false), "forgotten");
    }

    #[test]
    fn a_member_costs_little_memory() {
        // What an allocator gives for it is 96 bytes then, and the map adds some 40.
        assert!(size_of::<Window>() <= 88, "{}", size_of::<Window>());
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_twice_and_everything_new_within_the_window_once(
            // Offsets from the highest so far, in the size of all gaps that there are.
            steps in proptest::collection::vec((-30i64..30, prop_oneof![Just(1i64), Just(10_000_000), Just(90_000_000)]), 0..400)
        ) {
            let mut window = window();
            let mut accepted = BTreeSet::from([START]);
            let mut highest = START;
            for (count, unit) in steps {
                let number = highest.saturating_add_signed(count * unit);
                let answer = window.accept(Sequence::new(number));
                let is_new = !accepted.contains(&number);
                prop_assert!(is_new || answer.is_err(), "{number} twice");
                let overtaken = accepted.range(number..).count();
                let is_recent = number > highest.max(number).saturating_sub(u64::from(horizon()));
                let is_after_start = number > START - u64::from(horizon());
                if is_new && overtaken < REMEMBERED && is_recent && is_after_start {
                    prop_assert_eq!(answer, Ok(()), "{} overtaken by {}", number, overtaken);
                }
                if answer.is_ok() {
                    accepted.insert(number);
                    highest = highest.max(number);
                }
                prop_assert!(window.below.is_sorted());
            }
        }

        #[test]
        fn nothing_is_accepted_twice_from_a_proven_life_whatever_else_comes(
            frames in proptest::collection::vec((0u64..200, 0u64..40, any::<bool>()), 0..600)
        ) {
            // As many lives as there is room for can prove themselves, the rest is recordings.
            let mut guard = ReplayGuard::new(20);
            let mut accepted = BTreeSet::new();
            for (sender, number, is_proof) in frames {
                let is_alive = sender < 20;
                let answer = admit(&mut guard, sender, START + number, is_proof && is_alive);
                if answer == Ok(true) {
                    prop_assert!(accepted.insert((sender, number)), "{number} of {sender} twice");
                }
                prop_assert!(answer != Ok(true) || is_alive);
                prop_assert!(guard.candidates.len() <= CANDIDATES && guard.proven.len() <= 20);
            }
        }

        #[test]
        fn no_number_is_too_strange(frames in proptest::collection::vec((any::<i64>(), 0u64..3, any::<u64>()), 0..50)) {
            let mut guard = ReplayGuard::new(1);
            for (now, sender, number) in frames {
                let (now, node, life) = (LocalTime::from_nanos(now), NodeId::new(sender), Incarnation::new(1));
                let _ = guard.admit(now, node, life, Sequence::new(number), number % 2 == 0);
            }
        }
    }
}
