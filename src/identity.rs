//! Who speaks: the numbers that name a node, one life of it, its ensemble, a mastership and a round.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the bare number.
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The bare number, for the wire and the status.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!($format, self.0))
            }
        }
    };
}

number!(
    /// A node's number, unique in its domain. Drawn numbers stay below 2^48, so that JSON readers with floats keep them.
    NodeId(u64), "{}"
);
number!(
    /// The number a process draws at start: tells a restarted node from its former self. Below 2^48 as well.
    Incarnation(u64), "{}"
);
number!(
    /// The number of an ensemble. Frames of another domain are dropped first.
    Domain(u32), "{}"
);
number!(
    /// A mastership. A new master takes a higher number; frames of a lower one move nobody. Zero: none yet.
    Term(u64), "{}"
);
number!(
    /// A poll-average-correct cycle, numbered within its term from 1. Zero: none yet.
    Round(u32), "{}"
);

impl Term {
    /// No honest group reaches this number (one mastership a microsecond for 8 years), so a higher one is a
    /// forgery or a fault, and following it would leave no room above it.
    pub const LIMIT: Self = Self(1 << 48);

    /// The next higher term; stays at [`Term::LIMIT`].
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1).min(Self::LIMIT.0))
    }
}

impl Round {
    /// The next round of the same term; saturates after 136 years of one-second rounds.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Drawn numbers are cut to this many bits.
const DRAWN_BITS: u64 = (1 << 48) - 1;

impl NodeId {
    /// The identity that random bits make.
    pub fn drawn(bits: u64) -> Self {
        Self((bits & DRAWN_BITS).max(1))
    }
}

impl Incarnation {
    /// The incarnation that random bits make. Never zero, which on the wire means "none".
    pub fn drawn(bits: u64) -> Self {
        Self((bits & DRAWN_BITS).max(1))
    }
}
