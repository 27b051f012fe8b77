//! Has the kernel stamp what passes a socket, and reads its stamps.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::sys::socket::{ControlMessageOwned, TimestampingFlag, setsockopt, sockopt};
use nix::sys::time::TimeValLike;
use socket2::Socket;

use super::error::{NetError, system};
use crate::time::Time;

/// Who shall stamp what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamping {
    /// Whoever is nearest to the wire: today the kernel, else the program.
    #[default]
    Auto,
    /// The kernel, or the node does not start.
    Kernel,
    /// The program.
    User,
}

pub(super) fn arrival_stamps() -> TimestampingFlag {
    TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
}

/// Numbered, and without a copy of what was sent.
pub(super) fn departure_stamps() -> TimestampingFlag {
    TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY
}

/// Has the kernel stamp what passes a socket; tells whether it does. Else arrivals are stamped when the process gets to
/// run, some 40 µs late on an idle machine, and departures some µs early: for [`Timestamping::Auto`] still good enough.
pub(super) fn have_stamped(
    socket: &Socket,
    address: SocketAddr,
    timestamping: Timestamping,
    stamps: TimestampingFlag,
) -> Result<bool, NetError> {
    if timestamping == Timestamping::User {
        return Ok(false);
    }
    match setsockopt(socket, sockopt::Timestamping, &stamps) {
        Err(error) if timestamping == Timestamping::Kernel => {
            Err(system("have the kernel stamp what passes", address)(error.into()))
        }
        result => Ok(result.is_ok()),
    }
}

/// Has the kernel number from 0 again: it does so when the numbers are switched on.
pub(super) fn renumber(socket: &impl AsFd) {
    let stamps = arrival_stamps() | departure_stamps();
    // It was possible before. If it ever were not, the stamps would be taken for those of other datagrams and be refused.
    let _ = setsockopt(socket, sockopt::Timestamping, &(stamps - TimestampingFlag::SOF_TIMESTAMPING_OPT_ID));
    let _ = setsockopt(socket, sockopt::Timestamping, &stamps);
}

/// The kernel's stamp in a control message, on CLOCK_REALTIME, if it is one.
pub(super) fn software_stamp(control: &ControlMessageOwned) -> Option<Time> {
    let ControlMessageOwned::ScmTimestampsns(stamps) = control else {
        return None;
    };
    // Zero where only the interface has stamped.
    Some(Time::from_nanos(stamps.system.num_nanoseconds())).filter(|at| *at != Time::default())
}
