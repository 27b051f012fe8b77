//! The keys of an ensemble: which of them a node sends with, which it accepts, and how one follows another without a gap.
//!
//! Several keys are held at once, in an order. Two rules decide:
//!
//! - **Accepted** is every key that is held, until its `accept_until`. A key that is not sent with yet is accepted all the
//!   same: who holds it was given it.
//! - **Sent with** is the key whose `send_from` came last; keys without one come before those with one, and of equals the
//!   first is taken. Somebody always sends: when no key's time has come the next one is taken, and when all are past the last.
//!
//! So a key is replaced in three steps by the order alone (append the new one everywhere, move it to the front everywhere, remove the
//! old one everywhere), and in one step by dates (append it everywhere with a `send_from`, before that comes). Between any two
//! steps each node accepts whatever any other sends.
//!
//! **Dates are never needed, and judged with caution**, because these machines have no trustworthy time. They are dates of the
//! disciplined clock, which the ensemble agrees on, and they are judged only while that is synchronised: `None` stands for a time
//! that is not known. A node that boots in 1970 accepts every key that it holds, or it would refuse the only ones who can tell it
//! the time. It sends with the key with which it was last spoken to, and before that with each key in turn, so that
//! some of its joins are understood. The price: a key that somebody stole and that has expired since still deceives a node that has no
//! time yet. A stolen key has to be removed; expiry is housekeeping.
//!
//! Considered and left out: `send` flags (a second way to say what the order says); lifetimes with both ends for sending and
//! accepting, as in key chains for routers (RFC 8177: four dates, two of which only make gaps); announcing the next key on the wire,
//! as TCP-AO does (RFC 5925): two ends can agree that both are ready, but a group cannot know who is switched off today.
//!
//! Not decided here: what is authenticated and how it is laid out (`auth.rs`), and how keys are kept (`key_file.rs`).

use std::fmt;

use zeroize::Zeroizing;

use crate::cmac::{BLOCK_LEN, Cmac};
use crate::time::Time;

/// As many keys as one node holds: the present one, those before and after it, and room to spare. A bound on what a file can ask for.
pub const MAX_KEYS: usize = 16;

/// Bytes of a key.
pub const KEY_LEN: usize = BLOCK_LEN;

/// The number by which a frame names its key. Not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(u32);

impl KeyId {
    /// Wraps the bare number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The bare number, for the wire and the status.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bytes of a key: zeroed when it is dropped, and shown to nobody.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

impl Key {
    /// Takes the bytes over; the caller zeroes its own copy.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

/// Never the bytes.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// When a key is used, by the disciplined clock. The default: always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// It is sent with from then on, unless a later one is; `None`: has been for ever.
    pub send_from: Option<Time>,
    /// It is accepted before then only; `None`: for ever.
    pub accept_until: Option<Time>,
}

impl Lifetime {
    fn is_accepted(&self, time: Option<Time>) -> bool {
        match (time, self.accept_until) {
            (Some(time), Some(until)) => time < until,
            (None, _) | (_, None) => true,
        }
    }
}

/// A key that is ready for use.
#[derive(Clone)]
pub(crate) struct HeldKey {
    pub(crate) id: KeyId,
    lifetime: Lifetime,
    /// Expanded once. It zeroes itself.
    pub(crate) mac: Cmac,
}

impl fmt::Debug for HeldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldKey").field("id", &self.id).field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// Why keys make no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRingError {
    /// There are none.
    Empty,
    /// There are more than [`MAX_KEYS`].
    TooMany,
    /// Two have this number.
    Duplicate(KeyId),
}

impl fmt::Display for KeyRingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no key"),
            Self::TooMany => write!(f, "there are more than {MAX_KEYS} keys"),
            Self::Duplicate(id) => write!(f, "key {id} is given twice"),
        }
    }
}

impl std::error::Error for KeyRingError {}

/// Why no key with a number is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAccepted {
    /// None is held.
    Unknown,
    /// Its time is over.
    Expired,
}

/// The keys that a node holds: at least one.
#[derive(Clone, Debug)]
pub struct KeyRing {
    keys: Vec<HeldKey>,
    /// With which key we were last spoken to.
    heard: Option<KeyId>,
    /// Counts the frames that were sent without knowing the time, nor anybody who does.
    turn: usize,
}

impl KeyRing {
    /// Keys in the order in which they are preferred.
    ///
    /// # Errors
    /// There are none or too many, or two have the same number.
    pub fn new(keys: impl IntoIterator<Item = (KeyId, Key, Lifetime)>) -> Result<Self, KeyRingError> {
        let mut held: Vec<HeldKey> = Vec::new();
        for (id, key, lifetime) in keys {
            if held.iter().any(|other| other.id == id) {
                return Err(KeyRingError::Duplicate(id));
            }
            if held.len() == MAX_KEYS {
                return Err(KeyRingError::TooMany);
            }
            held.push(HeldKey { id, lifetime, mac: Cmac::new(&key.0) });
        }
        if held.is_empty() { Err(KeyRingError::Empty) } else { Ok(Self { keys: held, heard: None, turn: 0 }) }
    }

    /// The numbers of the keys and when they are used, in their order. For people.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (KeyId, Lifetime)> + '_ {
        self.keys.iter().map(|key| (key.id, key.lifetime))
    }

    /// True when nobody who knows that time accepts any of the keys.
    pub fn is_expired(&self, time: Time) -> bool {
        self.keys.iter().all(|key| !key.lifetime.is_accepted(Some(time)))
    }

    /// A frame that was accepted, and is no recording, came with this key: so its sender accepts it.
    pub fn heard(&mut self, id: KeyId) {
        self.heard = Some(id);
    }

    /// The key to send a frame with. `time`: of the disciplined clock, `None` when that is not synchronised.
    pub(crate) fn sending(&mut self, time: Option<Time>) -> Option<&HeldKey> {
        let is_dated = self.keys.iter().any(|key| key.lifetime != Lifetime::default());
        let index = match (time, self.heard) {
            (None, Some(heard)) if is_dated => self.keys.iter().position(|key| key.id == heard).unwrap_or(0),
            (None, None) if is_dated => {
                self.turn = self.turn.wrapping_add(1);
                self.turn.wrapping_sub(1) % self.keys.len().max(1)
            }
            // Without dates any time gives the same answer.
            (time, _) => self.preferred(time.unwrap_or_default()),
        };
        self.keys.get(index)
    }

    /// The place of the key to send with at a time that is known.
    fn preferred(&self, time: Time) -> usize {
        let preference = |lifetime: &Lifetime| {
            let is_accepted = lifetime.is_accepted(Some(time));
            let has_begun = lifetime.send_from.is_none_or(|from| from <= time);
            // Of those that are to come the next one, of those that are over the last one.
            let then = match (is_accepted, has_begun) {
                (true, true) => lifetime.send_from.map_or(i64::MIN, Time::as_nanos),
                (true, false) => lifetime.send_from.map_or(i64::MIN, Time::as_nanos).saturating_neg(),
                (false, _) => lifetime.accept_until.map_or(i64::MIN, Time::as_nanos),
            };
            (is_accepted, has_begun, then)
        };
        // The first of equals: `max_by_key` gives the last.
        let best = self.keys.iter().enumerate().rev().max_by_key(|(_, key)| preference(&key.lifetime));
        best.map_or(0, |(index, _)| index)
    }

    /// The key with this number, if frames that it made are accepted. `time` as for [`KeyRing::sending`].
    pub(crate) fn accepting(&self, id: KeyId, time: Option<Time>) -> Result<&HeldKey, NotAccepted> {
        let key = self.keys.iter().find(|key| key.id == id).ok_or(NotAccepted::Unknown)?;
        if key.lifetime.is_accepted(time) { Ok(key) } else { Err(NotAccepted::Expired) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmac::tests::assert_zeroes_itself;
    use proptest::prelude::*;

    fn at(secs: i64) -> Time {
        Time::from_nanos(secs * 1_000_000_000)
    }

    fn lifetime(send_from: impl Into<Option<i64>>, accept_until: impl Into<Option<i64>>) -> Lifetime {
        Lifetime { send_from: send_from.into().map(at), accept_until: accept_until.into().map(at) }
    }

    fn ring(keys: &[(u32, Lifetime)]) -> KeyRing {
        KeyRing::new(keys.iter().map(|(id, lifetime)| (KeyId::new(*id), Key::new([7; KEY_LEN]), *lifetime))).unwrap()
    }

    fn sent(ring: &mut KeyRing, time: impl Into<Option<i64>>) -> u32 {
        ring.sending(time.into().map(at)).unwrap().id.get()
    }

    fn accepts(ring: &mut KeyRing, id: u32, time: impl Into<Option<i64>>) -> bool {
        ring.accepting(KeyId::new(id), time.into().map(at)).is_ok()
    }

    #[test]
    fn no_key_shows_itself_or_stays_in_memory() {
        let key = Key::new([0xa5; KEY_LEN]);
        assert_zeroes_itself(&key.0);
        let ring = KeyRing::new([(KeyId::new(9), key.clone(), Lifetime::default())]).unwrap();
        let shown = format!("{key:?} {ring:?} {ring:#?}");
        assert!(shown.contains("id: KeyId(9)"), "{shown}");
        for part in ["a5", "A5", "165"] {
            assert!(!shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn a_ring_has_keys_with_different_numbers() {
        let keys = |ids: &[u32]| {
            let keys: Vec<_> = ids.iter().map(|id| (KeyId::new(*id), Key::new([0; 16]), Lifetime::default())).collect();
            KeyRing::new(keys).err()
        };
        assert_eq!(keys(&[]), Some(KeyRingError::Empty));
        assert_eq!(keys(&[1, 2, 1]), Some(KeyRingError::Duplicate(KeyId::new(1))));
        assert_eq!(keys(&(1..=16).collect::<Vec<_>>()), None);
        assert_eq!(keys(&(1..=17).collect::<Vec<_>>()), Some(KeyRingError::TooMany));
    }

    #[test]
    fn the_first_key_is_sent_with_and_all_are_accepted() {
        let always = Lifetime::default();
        let mut ring = ring(&[(2, always), (1, always)]);
        ring.heard(KeyId::new(1));
        for time in [None, Some(-1), Some(0), Some(2_000_000_000)] {
            assert_eq!(sent(&mut ring, time), 2);
            assert!(accepts(&mut ring, 1, time) && accepts(&mut ring, 2, time) && !accepts(&mut ring, 3, time));
        }
    }

    #[test]
    fn dates_are_kept_by_who_knows_the_time() {
        let mut ring = ring(&[(1, lifetime(None, 200)), (2, lifetime(100, None)), (3, lifetime(300, None))]);
        for (time, expected, old_is_accepted) in [
            (0, 1, true),
            (99, 1, true),
            (100, 2, true),
            (199, 2, true),
            (200, 2, false),
            (299, 2, false),
            (300, 3, false),
        ] {
            assert_eq!(sent(&mut ring, time), expected, "at {time}");
            assert_eq!(accepts(&mut ring, 1, time), old_is_accepted, "at {time}");
            assert!(accepts(&mut ring, 2, time) && accepts(&mut ring, 3, time), "at {time}");
        }
    }

    #[test]
    fn somebody_who_does_not_know_the_time_accepts_all_and_tries_all_until_it_is_spoken_to() {
        let mut ring = ring(&[(1, lifetime(None, 200)), (2, lifetime(100, None))]);
        assert!(accepts(&mut ring, 1, None) && accepts(&mut ring, 2, None));
        assert_eq!([(); 4].map(|()| sent(&mut ring, None)), [1, 2, 1, 2]);
        ring.heard(KeyId::new(2));
        assert_eq!([(); 3].map(|()| sent(&mut ring, None)), [2, 2, 2]);
        ring.heard(KeyId::new(1));
        assert_eq!(sent(&mut ring, None), 1);
        // And then the time is known.
        assert_eq!(sent(&mut ring, 150), 2);
    }

    #[test]
    fn a_node_is_never_without_a_key() {
        let mut coming = ring(&[(1, lifetime(300, None)), (2, lifetime(100, None)), (3, lifetime(200, None))]);
        assert_eq!(sent(&mut coming, 0), 2, "the next one");
        let mut gone = ring(&[(1, lifetime(None, 100)), (2, lifetime(10, 200)), (3, lifetime(20, 150))]);
        assert_eq!(sent(&mut gone, 500), 2, "the last one");
        assert!(gone.is_expired(at(200)) && !gone.is_expired(at(199)) && !coming.is_expired(at(1 << 32)));
    }

    proptest! {
        /// Whoever has the old file or the new one, whatever time it has, or none: before the date each understands each, and after
        /// it all those with the new file do.
        #[test]
        fn keys_roll_over_without_a_gap(
            first in proptest::option::of(0i64..1_000), second in proptest::option::of(0i64..1_000), has_old_file: bool,
        ) {
            let always = Lifetime::default();
            let (mut old, mut new) = (ring(&[(1, always)]), ring(&[(1, lifetime(None, 800)), (2, lifetime(500, None))]));
            let mut other = if has_old_file { old.clone() } else { new.clone() };
            let is_before = |time: Option<i64>| time.is_some_and(|time| time < 500);
            // Clocks that are synchronised differ by less than the 300 s between the two dates.
            let agree = first.zip(second).is_none_or(|(first, second)| (first - second).abs() < 300);
            prop_assume!(agree && (!has_old_file || is_before(first)));
            // Who does not know the time may have to try twice.
            let tries = if first.is_none() { 2 } else { 1 };
            let understood = (0..tries).filter(|_| accepts(&mut other, sent(&mut new, first), second)).count();
            prop_assert!(understood > 0, "by {first:?} at {second:?}");
            if is_before(first) {
                prop_assert!(accepts(&mut old, sent(&mut new, first), second));
                prop_assert!(accepts(&mut new, sent(&mut old, second), first));
            }
        }

        /// Manual steps: any two nodes that are at most one step apart understand each other.
        #[test]
        fn keys_roll_over_by_their_order_alone(step in 0usize..3, is_ahead: bool, time in proptest::option::of(0i64..9)) {
            let always = Lifetime::default();
            let steps = [vec![(1, always)], vec![(1, always), (2, always)], vec![(2, always), (1, always)], vec![(2, always)]];
            let (mut a, mut b) = (ring(&steps[step]), ring(&steps[step + usize::from(is_ahead)]));
            prop_assert!(accepts(&mut b, sent(&mut a, time), time) && accepts(&mut a, sent(&mut b, time), time));
        }
    }
}
