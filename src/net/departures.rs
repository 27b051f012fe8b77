//! When datagrams really left: the kernel's transmit stamps, from the error queue of the socket that sent them.
//!
//! The kernel numbers what it is to stamp, from 0 on (SOF_TIMESTAMPING_OPT_ID), and its stamps come back with these numbers:
//! usually before the system call that sends has returned, sometimes later, sometimes in another order or not at all. Here is the
//! list of what waits for its stamp, and the reader of the queue. ICMP errors about datagrams sent earlier come the
//! same way.
//!
//! A stamp is believed only if it lies between the moment before the datagram was sent and the moment at which the stamp was read:
//! so a number that went astray, or a clock that somebody set in between, costs one stamp and spoils none.

use std::collections::VecDeque;
use std::io;

use mio::net::UdpSocket;
use nix::cmsg_space;
use nix::libc::{SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_TIMESTAMPING, sock_extended_err};
use nix::sys::socket::{ControlMessageOwned, MsgFlags};
use nix::sys::time::TimeSpec;

use super::batch::{BATCH, Headers, Message};
use super::kernel_clock::KernelClock;
use super::stamping::software_stamp;
use crate::local_clock::LocalClock;
use crate::stamp::{Stamp, StampSource};
use crate::time::{LocalTime, Span, Time};

/// So many datagrams wait for their stamps at most; the oldest makes room. An interface stamps within microseconds, and the kernel gives a
/// socket room for some 270 short datagrams that it has not stamped yet.
const WAITING: usize = 256;
/// A stamp that takes longer than this never comes.
const PATIENCE: Span = Span::from_secs(1);
/// `ee_info` of a stamp taken as the datagram was handed to the interface (SCM_TSTAMP_SND of linux/errqueue.h).
const HANDED_OVER: u32 = 0;

/// What the kernel has to say of something sent earlier.
#[derive(Debug)]
pub enum Notice<T> {
    /// It left.
    Left {
        /// What was given when it was sent.
        token: T,
        /// When.
        at: Stamp,
    },
    /// It reached nobody, and a router or host said so.
    Unreachable(io::Error),
    /// Nothing that anybody waits for.
    Other,
    /// Nothing, for now.
    Drained,
}

/// One datagram that was sent.
#[derive(Debug)]
struct Waiting<T> {
    /// `None`: nobody wants to know.
    token: Option<T>,
    /// The clock, just before.
    sent: LocalTime,
}

/// What was sent through one socket and has not been stamped yet.
#[derive(Debug)]
pub(super) struct Departures<T> {
    /// The kernel stamps what is sent.
    is_stamped: bool,
    /// The kernel's number of the first that waits; the others follow in order. `None`: has been stamped.
    first: u32,
    waiting: VecDeque<Option<Waiting<T>>>,
    /// Who stamped the last departure.
    source: StampSource,
    kernel_clock: KernelClock,
    headers: Headers,
    /// What was read and nobody has taken yet.
    notices: VecDeque<Notice<T>>,
    /// Behind those that were read there may be others.
    has_more: bool,
}

impl<T> Departures<T> {
    /// Of a socket that sent nothing yet. `is_stamped`: the kernel numbers and stamps its datagrams; else only errors are to be read.
    pub(super) fn new(is_stamped: bool) -> Self {
        // A stamp has three times in it; an error an address behind it, sockaddr_in6 the longest.
        let control = cmsg_space!([TimeSpec; 3], [u8; size_of::<sock_extended_err>() + 28]).len();
        Self {
            is_stamped,
            first: 0,
            waiting: VecDeque::with_capacity(WAITING),
            source: StampSource::User,
            kernel_clock: KernelClock::default(),
            headers: Headers::new(control),
            notices: VecDeque::with_capacity(2 * BATCH),
            has_more: true,
        }
    }

    /// The kernel stamps what is sent.
    pub(super) fn are_stamped(&self) -> bool {
        self.is_stamped
    }

    /// A datagram was sent; `sent` is the clock's reading just before. Those that waited in vain are forgotten.
    pub(super) fn sent(&mut self, token: Option<T>, sent: LocalTime) {
        if !self.is_stamped {
            return;
        }
        let is_vain = |oldest: &Waiting<T>| sent - oldest.sent > PATIENCE;
        while self.waiting.front().is_some_and(|oldest| oldest.as_ref().is_none_or(is_vain))
            || self.waiting.len() >= WAITING
        {
            self.forget_first();
        }
        self.waiting.push_back(Some(Waiting { token, sent }));
        // Its stamp may be there before that is reported.
        self.has_more = true;
    }

    fn forget_first(&mut self) {
        if let Some(Some(_)) = self.waiting.pop_front() {
            self.source = StampSource::User;
        }
        self.first = self.first.wrapping_add(1);
    }

    /// True when notices were read that nobody has taken, or stamps may still come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.notices.is_empty() || !self.waiting.is_empty()
    }

    /// Who stamped the last departure whose fate is known.
    pub(super) fn source(&self) -> StampSource {
        self.source
    }

    /// The next notice from the socket's error queue, without waiting.
    pub(super) fn next(&mut self, socket: &UdpSocket, clock: &LocalClock) -> io::Result<Notice<T>> {
        while self.notices.is_empty() {
            if !std::mem::replace(&mut self.has_more, true) {
                return Ok(Notice::Drained);
            }
            match self.read(socket, clock) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Notice::Drained),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.notices.pop_front().unwrap_or(Notice::Drained))
    }

    /// Reads all notices that are there, if they can be read, before the kernel numbers from 0 again. Those that are still to come are lost.
    pub(super) fn restart(&mut self, socket: &UdpSocket, clock: &LocalClock) {
        while self.read(socket, clock).is_ok() && self.has_more {}
        self.first = 0;
        self.waiting.clear();
    }

    /// Reads as many notices as there are and there is room for.
    fn read(&mut self, socket: &UdpSocket, clock: &LocalClock) -> io::Result<()> {
        let mut told = [const { None }; BATCH];
        let mut rooms = told.iter_mut();
        // What was sent does not come back with a stamp, and what comes back with an error is of no interest.
        let mut parts = [const { [] }; BATCH];
        let result = self.headers.receive(socket, &mut parts, MsgFlags::MSG_ERRQUEUE, |message| {
            let (stamp, about) = told_by(message);
            if let Some(room) = rooms.next() {
                *room = about.map(|about| (stamp, about));
            }
            stamp.is_some() && about.is_some()
        })?;
        self.headers.mend(result);
        self.has_more = result.has_more;
        self.kernel_clock.look(clock);
        for (stamp, about) in told.into_iter().flatten() {
            let notice = self.notice(stamp, about);
            self.notices.push_back(notice);
        }
        Ok(())
    }

    /// What it means that the kernel says this.
    fn notice(&mut self, stamp: Option<Time>, about: sock_extended_err) -> Notice<T> {
        match about.ee_origin {
            SO_EE_ORIGIN_TIMESTAMPING if about.ee_info == HANDED_OVER => {
                let clock = self.kernel_clock;
                self.stamped(about.ee_data, clock.now(), stamp.map(|at| clock.at(at)))
            }
            SO_EE_ORIGIN_ICMP | SO_EE_ORIGIN_ICMP6 => {
                Notice::Unreachable(io::Error::from_raw_os_error(about.ee_errno.cast_signed()))
            }
            _ => Notice::Other,
        }
    }

    /// The kernel's word on when datagram `number` left, read at `now`.
    fn stamped(&mut self, number: u32, now: LocalTime, at: Option<LocalTime>) -> Notice<T> {
        let place = usize::try_from(number.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        let Some(Waiting { token, sent }) = self.waiting.get_mut(place).and_then(Option::take) else {
            return Notice::Other;
        };
        while let Some(None) = self.waiting.front() {
            self.forget_first();
        }
        let at = at.filter(|at| (sent..=now).contains(at));
        self.source = if at.is_some() { StampSource::Kernel } else { StampSource::User };
        match (token, at) {
            (Some(token), Some(at)) => Notice::Left { token, at: Stamp { at, source: StampSource::Kernel } },
            (Some(_) | None, _) => Notice::Other,
        }
    }
}

/// What a message from the error queue says: a stamp on CLOCK_REALTIME, if there is one, and what it is about.
fn told_by(message: &Message<'_>) -> (Option<Time>, Option<sock_extended_err>) {
    let (mut stamp, mut about) = (None, None);
    let Ok(controls) = message.cmsgs() else {
        return (stamp, about);
    };
    for control in controls {
        stamp = stamp.or_else(|| software_stamp(&control));
        if let ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) = control {
            about = Some(error);
        }
    }
    (stamp, about)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> LocalTime {
        LocalTime::from_nanos(0) + Span::from_micros(micros)
    }

    /// What becomes of a stamp: the token and the time that it names.
    fn stamped(departures: &mut Departures<char>, number: u32, now: i64, stamp: i64) -> Option<(char, i64)> {
        match departures.stamped(number, at(now), Some(at(stamp))) {
            Notice::Left { token, at } => Some((token, (at.at - LocalTime::from_nanos(0)).as_nanos() / 1_000)),
            Notice::Other => None,
            other @ (Notice::Unreachable(_) | Notice::Drained) => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_stamp_finds_its_datagram_in_any_order_and_once() {
        let mut departures = Departures::new(true);
        for (sent, token) in [(10, Some('a')), (20, None), (30, Some('b'))] {
            departures.sent(token, at(sent));
        }
        assert_eq!(stamped(&mut departures, 2, 50, 33), Some(('b', 33)));
        assert_eq!(stamped(&mut departures, 0, 50, 11), Some(('a', 11)));
        assert_eq!(stamped(&mut departures, 1, 50, 21), None, "nobody wants to know");
        assert!(!departures.is_waiting());
        assert_eq!(stamped(&mut departures, 0, 50, 11), None, "it has been told");
        assert_eq!(stamped(&mut departures, 77, 50, 11), None, "never sent");
        assert_eq!(departures.source(), StampSource::Kernel);
    }

    #[test]
    fn a_stamp_of_another_clock_is_refused() {
        for (stamp, is_believed) in [(9, false), (10, true), (50, true), (51, false), (-5_000_000, false)] {
            let mut departures = Departures::new(true);
            departures.sent(Some('a'), at(10));
            assert_eq!(stamped(&mut departures, 0, 50, stamp).is_some(), is_believed, "{stamp}");
            assert_eq!(departures.source() == StampSource::Kernel, is_believed, "{stamp}");
        }
        let mut departures = Departures::new(true);
        departures.sent(Some('a'), at(10));
        assert!(matches!(departures.stamped(0, at(50), None), Notice::Other), "a notice without a stamp");
    }

    #[test]
    fn the_numbers_go_on_behind_their_largest() {
        let mut departures = Departures { first: u32::MAX - 1, ..Departures::new(true) };
        for (sent, token) in (0..).zip(['a', 'b', 'c', 'd']) {
            departures.sent(Some(token), at(sent));
        }
        for (number, token) in [(u32::MAX, 'b'), (1, 'd'), (u32::MAX - 1, 'a'), (0, 'c')] {
            assert_eq!(stamped(&mut departures, number, 9, 5).map(|(token, _)| token), Some(token));
        }
    }

    #[test]
    fn what_waits_in_vain_is_forgotten() {
        let mut departures = Departures::new(true);
        departures.sent(Some('a'), at(0));
        departures.sent(Some('b'), at(1));
        assert!(stamped(&mut departures, 1, 2, 1).is_some());
        departures.sent(Some('c'), at(1_000_001));
        assert_eq!(departures.source(), StampSource::User, "a stamp did not come");
        assert_eq!(stamped(&mut departures, 0, 1_000_002, 1), None, "too late");
        assert_eq!(stamped(&mut departures, 2, 1_000_002, 1_000_002).map(|(token, _)| token), Some('c'));

        let room = departures.waiting.capacity();
        for _ in 0..10 * WAITING {
            departures.sent(Some('d'), at(1_000_003));
        }
        assert_eq!((departures.waiting.len(), departures.waiting.capacity()), (WAITING, room));
        assert_eq!(stamped(&mut departures, 3, 1_000_004, 1_000_003), None, "there was no room for it");
    }
}
