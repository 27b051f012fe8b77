//! What is to leave through one socket: gathered, and handed to the system many at a time.

use std::array;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use mio::net::UdpSocket;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

use super::arrivals::ROOM;
use super::batch::BATCH;
use crate::time::LocalTime;

/// A datagram that has not been sent.
#[derive(Debug)]
pub(super) struct Letter<T> {
    /// Where its bytes end; they begin where those of the one before it end.
    end: usize,
    /// Where to.
    pub to: SocketAddr,
    /// The clock, as it was written.
    pub written: LocalTime,
    /// `None`: nobody wants to know when it leaves.
    pub token: Option<T>,
}

/// Datagrams in the order in which they were written.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    headers: MultiHeaders<SockaddrStorage>,
    letters: VecDeque<Letter<T>>,
    addresses: VecDeque<Option<SockaddrStorage>>,
    bytes: Vec<u8>,
    /// Where the bytes of the first letter begin: those before have been sent.
    start: usize,
}

impl<T> Outbox<T> {
    pub(super) fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            letters: VecDeque::with_capacity(BATCH),
            addresses: VecDeque::with_capacity(BATCH),
            bytes: Vec::with_capacity(BATCH * ROOM),
            start: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Puts a datagram behind the others.
    pub(super) fn post(&mut self, to: SocketAddr, bytes: &[u8], written: LocalTime, token: Option<T>) {
        self.bytes.extend_from_slice(bytes);
        self.letters.push_back(Letter { end: self.bytes.len(), to, written, token });
        self.addresses.push_back(Some(to.into()));
    }

    /// The first has been sent, or shall not be.
    pub(super) fn pop(&mut self) -> Option<Letter<T>> {
        self.addresses.pop_front();
        let letter = self.letters.pop_front()?;
        self.start = letter.end;
        if self.letters.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
        Some(letter)
    }

    /// Hands the first ones to the system, as many as it takes without waiting; says how many. They are still to be popped.
    ///
    /// # Errors
    /// Not even the first was sent.
    pub(super) fn send(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut start = self.start;
        let mut ends = self.letters.iter().map(|letter| letter.end);
        let parts: [_; BATCH] = array::from_fn(|_| {
            let end = ends.next().unwrap_or(start);
            let bytes = self.bytes.get(std::mem::replace(&mut start, end)..end);
            [IoSlice::new(bytes.unwrap_or_default())]
        });
        let (headers, addresses) = (&mut self.headers, &*self.addresses.make_contiguous());
        let nothing: [ControlMessage<'_>; 0] = [];
        let send = || Ok(sendmmsg(socket.as_raw_fd(), headers, &parts, addresses, nothing, MsgFlags::empty())?.count());
        socket.try_io(send)
    }
}
