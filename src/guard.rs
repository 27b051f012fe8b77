//! The guard of a node that has keys: seals what goes out, lets in what is authentic, new, and not held back.
//!
//! It puts together which key (`keys.rs`), the code (`auth.rs`) and what was heard before (`replay.rs`). What it lets in it calls
//! **fresh** or not. Fresh is a frame that was sent to this life of this node alone (its trailer names our incarnation, which nobody
//! could know before), and any later one of a life that has sent such a frame. What is not fresh is authentic, but may be a
//! recording of years ago: it is a reason to ask its sender for a proof, and for nothing else.

use bytes::BytesMut;

use crate::auth::{AuthError, Opened, Sequencer};
use crate::counters::DropReason;
use crate::identity::Incarnation;
use crate::keys::KeyRing;
use crate::protocol::{Frame, Message};
use crate::replay::ReplayGuard;
use crate::time::{LocalTime, Span, Time};

/// A frame that took so much longer than the quickest of its sender's was held back. Longer: a master that is gone can be made to
/// seem alive for so long. Shorter: the queue of a slow network passes for an attack.
const LONGEST_WAY: Span = Span::from_secs(1);

/// The guard of one life of a node.
#[derive(Clone, Debug)]
pub struct Guard {
    own: Incarnation,
    keys: KeyRing,
    sequencer: Sequencer,
    replays: ReplayGuard,
}

/// Why a datagram was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nobody who holds our keys sent it.
    NotAuthentic(AuthError),
    /// Somebody did, but that is no frame for us now.
    Dropped(DropReason),
}

impl Guard {
    /// The guard of the life `own` of a node, which remembers so many lives of others.
    pub fn new(keys: KeyRing, own: Incarnation, room: usize) -> Self {
        Self { own, keys, sequencer: Sequencer::default(), replays: ReplayGuard::new(room) }
    }

    /// Takes other keys; what was heard before is not forgotten.
    pub fn renew(&mut self, keys: KeyRing) {
        self.keys = keys;
    }

    /// Remembers so many lives of others from now on, if that is more than before: nothing is forgotten.
    pub fn make_room(&mut self, room: usize) {
        self.replays.widen(room);
    }

    /// The keys, for the next life.
    pub fn into_keys(self) -> KeyRing {
        self.keys
    }

    /// The keys it holds.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Makes an authenticated frame of an encoded one that is sent at `now`, for one life of a node or whoever hears it. `time`: of the
    /// disciplined clock, `None` when that is not synchronised.
    pub fn seal(&mut self, frame: &mut BytesMut, recipient: Option<Incarnation>, now: LocalTime, time: Option<Time>) {
        let sequence = self.sequencer.next(now);
        self.keys.seal(frame, recipient, sequence, time);
    }

    /// The frame in a datagram that arrived at `at`, and whether it is fresh. `time` as in [`Guard::seal`].
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn admit<'a>(
        &mut self,
        datagram: &'a [u8],
        at: LocalTime,
        time: Option<Time>,
    ) -> Result<(Frame<'a>, bool), Refused> {
        let Opened { key, recipient, sequence } = self.keys.open(datagram, time).map_err(|error| {
            // A forgery is not worth decoding. What has no trailer may be no frame at all, and that says more.
            let plain = Some(datagram).filter(|_| error == AuthError::Unauthenticated).map(Frame::decode);
            match plain {
                Some(Err(fault)) => Refused::Dropped((&fault).into()),
                Some(Ok(_)) | None => Refused::NotAuthentic(error),
            }
        })?;
        let frame = Frame::decode_authenticated(datagram).map_err(|fault| Refused::Dropped((&fault).into()))?;
        let header = frame.header;
        if header.incarnation == self.own {
            return Err(Refused::Dropped(DropReason::OwnFrame));
        }
        if recipient.is_some_and(|recipient| recipient != self.own) {
            return Err(Refused::Dropped(DropReason::StaleIncarnation));
        }
        let is_proof = recipient.is_some();
        if !is_proof && is_for_one(&frame.message) {
            return Err(Refused::Dropped(DropReason::Unproven));
        }
        let admission = self
            .replays
            .admit(at, header.sender, header.incarnation, sequence, is_proof)
            .map_err(|_| Refused::Dropped(DropReason::Replayed))?;
        if admission.late > LONGEST_WAY {
            return Err(Refused::Dropped(DropReason::HeldBack));
        }
        if admission.is_proven {
            self.keys.heard(key);
        }
        Ok((frame, admission.is_proven))
    }
}

/// True for what is sent to one node alone. The others go to whoever hears them, or to one that the sender has heard.
fn is_for_one(message: &Message<'_>) -> bool {
    match message {
        Message::Request(request) => request.window.is_none(),
        Message::Response(_) | Message::Acknowledgement(_) | Message::Refusal(_) => true,
        Message::Correction(_) | Message::Join(_) | Message::Leave(_) | Message::Announce(_) | Message::Claim(_) => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Domain, NodeId, Round, Term};
    use crate::keys::{Key, KeyId, Lifetime};
    use crate::protocol::{Header, Leave, Refusal};

    const OURS: Incarnation = Incarnation::new(1);
    const THEIRS: Incarnation = Incarnation::new(2);

    fn guard(own: Incarnation) -> Guard {
        let keys = KeyRing::new([(KeyId::new(1), Key::new([7; 16]), Lifetime::default())]).unwrap();
        Guard::new(keys, own, 8)
    }

    fn at(second: i64) -> LocalTime {
        LocalTime::from_nanos(0) + Span::from_secs(second)
    }

    fn sealed(by: &mut Guard, message: Message<'_>, recipient: Option<Incarnation>, second: i64) -> BytesMut {
        let header = Header {
            domain: Domain::new(0),
            round: Round::default(),
            term: Term::default(),
            sender: NodeId::new(9),
            incarnation: THEIRS,
        };
        let mut datagram = BytesMut::new();
        Frame { header, message }.encode(&mut datagram);
        by.seal(&mut datagram, recipient, at(second), None);
        datagram
    }

    /// Whether it is let in, and fresh.
    fn admitted(guard: &mut Guard, datagram: &[u8], second: i64) -> Result<bool, Refused> {
        guard.admit(datagram, at(second), None).map(|(_, is_fresh)| is_fresh)
    }

    #[test]
    fn who_has_named_this_life_is_fresh_from_then_on() {
        let (mut ours, mut theirs) = (guard(OURS), guard(THEIRS));
        let leave = Message::Leave(Leave { successor: None });
        let mut hear = |recipient, second| {
            let datagram = sealed(&mut theirs, leave, recipient, second);
            admitted(&mut ours, &datagram, second)
        };
        assert_eq!(hear(None, 10), Ok(false));
        assert_eq!(hear(Some(Incarnation::new(3)), 11), Err(Refused::Dropped(DropReason::StaleIncarnation)));
        assert_eq!(hear(None, 12), Ok(false));
        assert_eq!(hear(Some(OURS), 13), Ok(true));
        assert_eq!(hear(None, 14), Ok(true));
    }

    #[test]
    fn a_forgery_is_not_decoded() {
        let (mut ours, mut theirs) = (guard(OURS), guard(THEIRS));
        let mut nonsense = sealed(&mut theirs, Message::Refusal(Refusal { master: None }), Some(OURS), 10);
        // A type that no frame has: wrong as a frame, and as a code.
        nonsense[3] = 0xff;
        let refused = Err(Refused::NotAuthentic(AuthError::WrongCode(KeyId::new(1))));
        assert_eq!(admitted(&mut ours, &nonsense, 10), refused);
    }

    #[test]
    fn what_is_for_one_has_to_name_it() {
        let (mut ours, mut theirs) = (guard(OURS), guard(THEIRS));
        let refusal = Message::Refusal(Refusal { master: None });
        let to_all = sealed(&mut theirs, refusal, None, 10);
        assert_eq!(admitted(&mut ours, &to_all, 10), Err(Refused::Dropped(DropReason::Unproven)));
        let to_us = sealed(&mut theirs, refusal, Some(OURS), 11);
        assert_eq!(admitted(&mut ours, &to_us, 11), Ok(true));
    }

    #[test]
    fn other_keys_do_not_bring_back_what_was_heard() {
        let (mut ours, mut theirs) = (guard(OURS), guard(THEIRS));
        let datagram = sealed(&mut theirs, Message::Refusal(Refusal { master: None }), Some(OURS), 10);
        assert_eq!(admitted(&mut ours, &datagram, 10), Ok(true));
        ours.renew(guard(OURS).into_keys());
        assert_eq!(admitted(&mut ours, &datagram, 10), Err(Refused::Dropped(DropReason::Replayed)));
    }
}
