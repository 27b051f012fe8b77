//! What arrives at one socket: taken many at a time, handed on one by one, each with the stamp of its own arrival.
//!
//! The kernel also tells how many datagrams it has dropped because the socket's buffer was full: with the first that arrives afterwards.

use std::array;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags};
use nix::sys::time::TimeSpec;

use super::batch::{BATCH, Headers, Message};
use super::kernel_clock::KernelClock;
use super::stamping::software_stamp;
use crate::local_clock::LocalClock;
use crate::stamp::{Stamp, StampSource};
use crate::time::{Span, Time};

/// Bytes kept of a datagram. A longer one is cut, and still longer than any frame.
pub const ROOM: usize = 1_500;

/// No datagram waits longer in a socket's buffer before a node that runs takes it.
const LONGEST_WAIT: Span = Span::from_secs(1);

/// What one look at a socket brought.
#[derive(Debug)]
pub enum Received<'a> {
    /// A datagram.
    Datagram {
        /// What it says, cut to [`ROOM`].
        bytes: &'a [u8],
        /// Who sent it.
        from: SocketAddr,
        /// When it arrived.
        at: Stamp,
        /// No other was taken at the same time: whoever answers in batches sends now.
        is_last: bool,
    },
    /// Something sent earlier reached nobody; [`Sockets::notice`](super::Sockets::notice) has more of it. Look again.
    Unreachable(io::Error),
    /// Nothing is left; readiness will be reported again.
    Drained,
}

/// A datagram that was taken: the place of its bytes is its own place.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    len: usize,
    /// `None`: an address of a family that is not ours.
    from: Option<SocketAddr>,
    /// The kernel's word on when, on CLOCK_REALTIME.
    kernel: Option<Time>,
}

/// Datagrams of one socket, and what the kernel had to say with them.
#[derive(Debug)]
pub(super) struct Arrivals {
    headers: Headers,
    buffers: Vec<u8>,
    taken: Vec<Arrival>,
    /// As it was seen when they were taken.
    kernel_clock: KernelClock,
    /// The place of the next to be handed on.
    next: usize,
    /// Behind those that were taken there may be others.
    has_more: bool,
    /// The kernel stamps them.
    are_stamped: bool,
    /// The kernel's count of those dropped, which begins again behind its largest number, and ours.
    kernel_drops: u32,
    drops: u64,
}

impl Arrivals {
    /// Of a socket that nothing was taken from yet.
    pub(super) fn new(are_stamped: bool) -> Self {
        Self {
            headers: Headers::new(cmsg_space!([TimeSpec; 3], u32).len()),
            buffers: vec![0; BATCH * ROOM],
            taken: Vec::with_capacity(BATCH),
            kernel_clock: KernelClock::default(),
            next: 0,
            has_more: true,
            are_stamped,
            kernel_drops: 0,
            drops: 0,
        }
    }

    /// Datagrams that the kernel has dropped because the socket's buffer was full, as far as it has told.
    pub(super) fn drops(&self) -> u64 {
        self.drops
    }

    /// A whole batch was taken at once, so that there may be more whether that is reported or not.
    pub(super) fn are_many(&self) -> bool {
        self.taken.len() == BATCH
    }

    /// The next datagram, without waiting.
    pub(super) fn next(&mut self, socket: &UdpSocket, clock: &LocalClock) -> io::Result<Received<'_>> {
        while self.next >= self.taken.len() {
            if !std::mem::replace(&mut self.has_more, true) {
                return Ok(Received::Drained);
            }
            match self.take(socket, clock) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Drained),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_unreachable(&error) => return Ok(Received::Unreachable(error)),
                Err(error) => return Err(error),
            }
        }
        let place = self.next;
        self.next += 1;
        let Some(Arrival { len, from: Some(from), kernel }) = self.taken.get(place).copied() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let at = stamp(&self.kernel_clock, kernel);
        let bytes = self.buffers.get(place * ROOM..).and_then(|bytes| bytes.get(..len)).unwrap_or_default();
        Ok(Received::Datagram { bytes, from, at, is_last: self.next == self.taken.len() })
    }

    /// Takes as many as there are and there is room for.
    fn take(&mut self, socket: &UdpSocket, clock: &LocalClock) -> io::Result<()> {
        let Self { headers, buffers, taken, kernel_drops, drops, are_stamped, .. } = self;
        taken.clear();
        self.next = 0;
        let mut rooms = buffers.chunks_exact_mut(ROOM);
        let mut parts = array::from_fn(|_| [IoSliceMut::new(rooms.next().unwrap_or_default())]);
        let result = headers.receive(socket, &mut parts, MsgFlags::empty(), |message| {
            let (kernel, count) = told_with(message);
            if let Some(count) = count {
                *drops += u64::from(count.wrapping_sub(*kernel_drops));
                *kernel_drops = count;
            }
            taken.push(Arrival { len: message.bytes, from: sender(message), kernel });
            message.cmsgs().is_ok() && (kernel.is_some() || !*are_stamped)
        })?;
        headers.mend(result);
        self.has_more = result.has_more;
        self.kernel_clock.look(clock);
        Ok(())
    }
}

/// What the kernel says with a datagram: when it arrived, and how many it has dropped so far.
fn told_with(message: &Message<'_>) -> (Option<Time>, Option<u32>) {
    let (mut stamp, mut drops) = (None, None);
    let Ok(controls) = message.cmsgs() else {
        return (stamp, drops);
    };
    for control in controls {
        if let ControlMessageOwned::RxqOvfl(count) = control {
            drops = Some(count);
        } else {
            stamp = stamp.or_else(|| software_stamp(&control));
        }
    }
    (stamp, drops)
}

fn sender(message: &Message<'_>) -> Option<SocketAddr> {
    let address = message.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

/// The arrival of a datagram on the local clock. A stamp from the future, or from longer ago than a datagram waits, means that
/// somebody has set CLOCK_REALTIME in between; then our own reading has to do.
fn stamp(taken: &KernelClock, kernel: Option<Time>) -> Stamp {
    match kernel.filter(|at| (Span::ZERO..LONGEST_WAIT).contains(&taken.age(*at))) {
        Some(at) => Stamp { at: taken.at(at), source: StampSource::Kernel },
        None => Stamp::user(taken.now()),
    }
}

/// An error about an earlier datagram and not about the call that returned it: ICMP, as the system passes it on.
pub(super) fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}
