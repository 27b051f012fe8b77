//! What was sent, received and dropped, and why. A peer's misbehaviour is a number here, never an error.

use crate::auth::AuthError;
use crate::protocol::DecodeError;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// Why a datagram, or an entry of one, was dropped. The names are those of PROTOCOL.md, section 6.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)+
        }

        impl DropReason {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As in PROTOCOL.md and the status.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// A frame of another ensemble.
    OtherDomain => "other_domain",
    /// Fewer bytes than a header.
    TooShort => "too_short",
    /// Not one of our frames.
    Magic => "magic",
    /// A version that is not spoken here.
    Version => "version",
    /// A type that this version does not have.
    Type => "type",
    /// The length field, the datagram and the type disagree.
    Length => "length",
    /// A correction with no entries, or with more than a frame holds.
    Count => "count",
    /// A trailer, and no key to check it with.
    Authenticated => "authenticated",
    /// No trailer, and there are keys.
    Unauthenticated => "unauthenticated",
    /// Authenticated with a key that is not held.
    UnknownKey => "unknown_key",
    /// Authenticated with a key whose time is over.
    ExpiredKey => "expired_key",
    /// The code is wrong: forged, or the keys differ.
    WrongCode => "wrong_code",
    /// It was accepted before, or is too old to tell.
    Replayed => "replayed",
    /// It took much longer than others of its sender's.
    HeldBack => "held_back",
    /// A field with a value that no honest node sends.
    OutOfRange => "out_of_range",
    /// Our own frame, looped back.
    OwnFrame => "own_frame",
    /// Somebody else uses our number, or a member's.
    DuplicateNodeId => "duplicate_node_id",
    /// Peers are configured, and this is none of them.
    NotAPeer => "not_a_peer",
    /// A stranger's, when its address has sent more than anybody needs.
    TooMany => "too_many",
    /// Only the other role understands it.
    WrongRole => "wrong_role",
    /// A term below the one followed, or another master in the same term.
    StaleTerm => "stale_term",
    /// A master of a higher term, while the one followed is heard.
    Rival => "rival",
    /// A claim while a master is heard, or of somebody worse.
    VainClaim => "vain_claim",
    /// Not from the master followed, or not from a member.
    Stranger => "stranger",
    /// For, or from, a former life.
    StaleIncarnation => "stale_incarnation",
    /// A correction of a round before the last applied one.
    StaleRound => "stale_round",
    /// The correction applied last, again.
    DuplicateCorrection => "duplicate_correction",
    /// A correction computed for another adjustment count.
    StaleAdjustment => "stale_adjustment",
    /// A correction whose reference is too far away.
    LateCorrection => "late_correction",
    /// A correction that the master's own clock does not bear out.
    Contradicted => "contradicted",
    /// A correction larger than we allow.
    TooLarge => "too_large",
    /// A master that has not proved to be alive: it may be a recording.
    Unproven => "unproven",
    /// It answers nothing outstanding.
    Unsolicited => "unsolicited",
    /// Stamps that contradict each other.
    ImplausibleTimes => "implausible_times",
    /// No room for another member.
    TableFull => "table_full",
}

impl DropReason {
    /// True when a datagram is dropped for its bytes alone, before anything in it is believed: no frame of this ensemble, or none that is
    /// authentic. It takes no key to make one.
    pub const fn takes_no_key(self) -> bool {
        matches!(
            self,
            Self::OtherDomain
                | Self::TooShort
                | Self::Magic
                | Self::Version
                | Self::Type
                | Self::Length
                | Self::Count
                | Self::OutOfRange
                | Self::Authenticated
                | Self::Unauthenticated
                | Self::UnknownKey
                | Self::ExpiredKey
                | Self::WrongCode
        )
    }
}

impl From<&DecodeError> for DropReason {
    fn from(error: &DecodeError) -> Self {
        match error {
            DecodeError::TooShort { .. } => Self::TooShort,
            DecodeError::Magic(_) => Self::Magic,
            DecodeError::Version(_) => Self::Version,
            DecodeError::Type(_) => Self::Type,
            DecodeError::Length { .. } => Self::Length,
            DecodeError::Count(_) => Self::Count,
            DecodeError::OutOfRange(_) => Self::OutOfRange,
            DecodeError::Authenticated => Self::Authenticated,
        }
    }
}

impl From<&AuthError> for DropReason {
    fn from(error: &AuthError) -> Self {
        match error {
            AuthError::Unauthenticated => Self::Unauthenticated,
            AuthError::Malformed(error) => error.into(),
            AuthError::UnknownKey(_) => Self::UnknownKey,
            AuthError::Expired(_) => Self::ExpiredKey,
            AuthError::WrongCode(_) => Self::WrongCode,
            AuthError::NoKeys(_) => Self::Authenticated,
        }
    }
}

/// Frame types by name, in the order of their numbers from 1.
pub const FRAME_NAMES: [&str; 9] =
    ["request", "response", "correction", "acknowledgement", "join", "leave", "announce", "claim", "refusal"];

/// The numbers of one node since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    sent: [u64; FRAME_NAMES.len()],
    received: [u64; FRAME_NAMES.len()],
    dropped: [u64; DropReason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { sent: [0; FRAME_NAMES.len()], received: [0; FRAME_NAMES.len()], dropped: [0; DropReason::ALL.len()] }
    }
}

/// Adds one to a counter that exists; there is no other.
fn increment(counters: &mut [u64], index: usize) {
    if let Some(counter) = counters.get_mut(index) {
        *counter = counter.saturating_add(1);
    }
}

impl Counters {
    /// A frame of this type (its number on the wire) was handed out to be sent.
    pub fn count_sent(&mut self, kind: u8) {
        increment(&mut self.sent, usize::from(kind).wrapping_sub(1));
    }

    /// A legal frame of this type arrived.
    pub fn count_received(&mut self, kind: u8) {
        increment(&mut self.received, usize::from(kind).wrapping_sub(1));
    }

    /// A datagram, or an entry of one, was dropped.
    pub fn count_dropped(&mut self, reason: DropReason) {
        increment(&mut self.dropped, reason as usize);
    }

    /// How many were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }

    /// Frames sent, by name.
    pub fn sent(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FRAME_NAMES.into_iter().zip(self.sent)
    }

    /// Legal frames received, by name.
    pub fn received(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FRAME_NAMES.into_iter().zip(self.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let mut counters = Counters::default();
        for (times, reason) in (1..).zip(DropReason::ALL) {
            (0..times).for_each(|_| counters.count_dropped(*reason));
        }
        for (times, reason) in (1..).zip(DropReason::ALL) {
            assert_eq!(counters.dropped(*reason), times, "{}", reason.name());
        }
    }
}
