//! When a datagram passed the wire, and who says so.
//!
//! A stamp is not the moment at which the program looked: between the two lie the scheduler and the queue of the
//! socket, tens of microseconds on an idle machine and milliseconds on a busy one.

use serde::{Deserialize, Serialize};

use crate::time::LocalTime;

/// Who read the clock for a [`Stamp`], the sharpest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StampSource {
    /// The network interface, as the frame went by.
    Hardware,
    /// The kernel, as it handed the frame over to or took it from the interface.
    Kernel,
    /// This program, right after the system call that brought the datagram, or right before the one that sent it.
    User,
}

/// The local time at which a datagram passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When, on the clock of the node that took the stamp.
    pub at: LocalTime,
    /// How near the wire that was.
    pub source: StampSource,
}

impl StampSource {
    /// As in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Kernel => "kernel",
            Self::User => "user",
        }
    }
}

impl Stamp {
    /// A stamp that this program took itself.
    pub const fn user(at: LocalTime) -> Self {
        Self { at, source: StampSource::User }
    }
}
