//! Many messages taken from a socket by one system call.
//!
//! The headers of such a call are allocated once. The kernel leaves in each how much of its room for control messages it has used,
//! and nix does not put that back (nix-rust/nix, issue 2813): a message without a stamp would leave no room for the stamp of the next one in its place. So the
//! headers are made anew when a message came without what it should have. Once the kernel stamps, each message has the same, and nothing is allocated.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;

use mio::net::UdpSocket;
use nix::sys::socket::{MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg};

/// So many messages pass in one system call at most. A call costs a fraction of what the kernel does for one message in it, so that a longer batch gains
/// little; and what is answered in a batch waits for the last of it, some 50 µs.
pub(super) const BATCH: usize = 32;

/// A message as the system hands it over.
pub(super) type Message<'a> = RecvMsg<'a, 'a, SockaddrStorage>;

/// The headers of one call.
#[derive(Debug)]
pub(super) struct Headers {
    headers: MultiHeaders<SockaddrStorage>,
    /// Bytes of control messages that each has room for.
    control: usize,
}

/// What one call brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// There may be more.
    pub has_more: bool,
    /// All had what they should have.
    is_whole: bool,
}

impl Headers {
    /// With room for control messages of so many bytes each.
    pub(super) fn new(control: usize) -> Self {
        Self { headers: MultiHeaders::preallocate(BATCH, Some(vec![0; control])), control }
    }

    /// Takes what waits, without waiting, into `parts`. `take` is given each message, and says whether it had what it should have.
    ///
    /// # Errors
    /// Nothing was there (`WouldBlock`), or the system says something else, perhaps of an earlier datagram.
    pub(super) fn receive<'a, const PARTS: usize>(
        &'a mut self,
        socket: &UdpSocket,
        parts: &'a mut [[IoSliceMut<'a>; PARTS]; BATCH],
        flags: MsgFlags,
        mut take: impl FnMut(&Message<'a>) -> bool,
    ) -> io::Result<Taken> {
        let headers = &mut self.headers;
        let messages = socket.try_io(|| Ok(recvmmsg(socket.as_raw_fd(), headers, parts, flags, None)?))?;
        let (mut count, mut is_whole) = (0, true);
        for message in messages {
            count += 1;
            is_whole &= take(&message);
        }
        let has_more = count == BATCH;
        if !has_more {
            // The call itself has seen the socket run dry, which mio has to be told.
            let _ = socket.try_io(|| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        Ok(Taken { has_more, is_whole })
    }

    /// To be called with what the last call brought, before the next one.
    pub(super) fn mend(&mut self, taken: Taken) {
        if !taken.is_whole {
            *self = Self::new(self.control);
        }
    }
}
