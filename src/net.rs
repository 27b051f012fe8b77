//! Sockets, multicast, timestamps: bytes and stamps in and out, no protocol.
//!
//! A node sends from one UDP socket and can be asked at its address. What is sent to the group arrives there too when
//! the socket is bound to the group's port on all addresses; otherwise a second socket, bound to the group itself,
//! listens and never sends. Only that second socket shares its port, so that several nodes of one machine hear the same
//! group, while two nodes on one address and port are an error at start.
//!
//! Arrivals and departures are stamped by the kernel, as near to the wire as software gets, unless it cannot or is not asked to: an
//! arrival's stamp comes with the datagram, a departure's afterwards (`departures.rs`).
//!
//! A system call takes or sends as many datagrams as there are, up to a batch; one that comes alone is answered alone. Where nobody stamps departures, each
//! is sent as soon as it is written, because then the moment of writing has to do as its stamp.
//!
//! A socket from which full batches are taken is not watched until it is empty: that there is more is known, and to report it takes the kernel 0.4 µs for each
//! exchange (an arrival, room to send again, a stamp put into its queue and taken out), of 7.6.
//!
//! When the system has no room for what is to be sent, the rest waits until it has ([`Flushed::Blocked`]): a burst of requests is longer than a socket's
//! buffer, and what is lost of it costs a round. An interface that refuses outright (its own queue is full, no route) has lost the datagram.
//!
//! All reading and writing goes through mio's socket (`try_io` where it has no call of its own), never past it: where mio
//! waits with `poll(2)`, it asks for readiness again only when it has itself seen a socket run dry.

mod addresses;
mod arrivals;
mod batch;
mod departures;
mod error;
mod kernel_clock;
mod link;
mod outbox;
mod socket;
mod stamping;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, Socket};

pub use self::addresses::{Addresses, DEFAULT_PORT, Interface, default_group};
use self::arrivals::{Arrivals, is_unreachable};
pub use self::arrivals::{ROOM, Received};
use self::batch::BATCH;
use self::departures::Departures;
pub use self::departures::Notice;
pub use self::error::NetError;
use self::error::system;
use self::link::{Link, link_error};
use self::outbox::{Letter, Outbox};
pub use self::socket::RECEIVE_BUFFER;
use self::socket::{bind_socket, local_address, open_socket, report_unreachable};
pub use self::stamping::Timestamping;
use self::stamping::{arrival_stamps, departure_stamps, have_stamped, renumber};
use crate::local_clock::LocalClock;
use crate::stamp::StampSource;
use crate::time::LocalTime;

/// What became of what was to be sent.
#[derive(Debug)]
pub enum Flushed {
    /// All of it was.
    All,
    /// One datagram was not, and is forgotten: no route, not allowed, too long, no room in the interface's queue. Go on with the others.
    Failed {
        /// Where it should have gone.
        to: SocketAddr,
        /// Why it did not.
        error: io::Error,
    },
    /// The system has no room. The rest waits; that there is room again will be reported as readiness.
    Blocked,
}

/// One socket and what has arrived there.
#[derive(Debug)]
struct Inlet {
    socket: UdpSocket,
    arrivals: Arrivals,
    token: Token,
    /// Readiness is reported.
    is_watched: bool,
}

impl Inlet {
    fn new(socket: Socket, are_stamped: bool) -> Self {
        let socket = UdpSocket::from_std(socket.into());
        Self { socket, arrivals: Arrivals::new(are_stamped), token: Token(usize::MAX), is_watched: false }
    }

    /// Has readiness reported, also that which is there already.
    fn watch(&mut self, registry: &Registry, interest: Interest) -> io::Result<()> {
        registry.register(&mut self.socket, self.token, interest)?;
        self.is_watched = true;
        Ok(())
    }

    fn unwatch(&mut self, registry: &Registry) {
        self.is_watched = registry.deregister(&mut self.socket).is_err();
    }

    /// The next datagram. The socket is watched when there is none.
    fn receive(&mut self, registry: &Registry, clock: &LocalClock) -> io::Result<Received<'_>> {
        let Self { socket, arrivals, token, is_watched } = self;
        let received = arrivals.next(socket, clock);
        if matches!(received, Ok(Received::Drained) | Err(_)) && !*is_watched {
            registry.register(socket, *token, Interest::READABLE)?;
            *is_watched = true;
        }
        received
    }
}

/// A node's sockets, none of which ever blocks.
///
/// `T` is what the driver gives with a datagram to know it by when it hears when it left.
#[derive(Debug)]
pub struct Sockets<T> {
    main: Inlet,
    /// Only where `main` does not hear the group, see the module documentation.
    group: Option<Inlet>,
    local: SocketAddr,
    /// Who stamped the last arrival.
    stamped_by: StampSource,
    /// What `main` is to send, ...
    outbox: Outbox<T>,
    /// ... for which the system had no room, ...
    is_blocked: bool,
    /// ... and what it has sent.
    departures: Departures<T>,
    /// One was not sent, and may have taken a number all the same.
    has_miscounted: bool,
}

impl<T> Sockets<T> {
    /// Opens what a node with these addresses needs, and joins the group.
    ///
    /// # Errors
    /// The addresses contradict each other, or the system refuses one of them.
    pub fn open(addresses: &Addresses, timestamping: Timestamping) -> Result<Self, NetError> {
        let Addresses { bind, group, .. } = *addresses;
        if let Some(group) = group {
            if !group.ip().is_multicast() || group.port() == 0 {
                return Err(NetError::NotMulticast(group));
            }
            if group.is_ipv4() != bind.is_ipv4() {
                return Err(NetError::FamiliesDiffer(bind.ip(), group.ip()));
            }
        }
        let link = Link::resolve(addresses)?;
        let main = open_socket(bind)?;
        let are_stamped = have_stamped(&main, bind, timestamping, arrival_stamps() | departure_stamps())?;
        report_unreachable(&main, bind);
        bind_socket(&main, link.scoped(bind), NetError::PortInUse)?;
        let local = local_address(&main, bind)?;

        let mut group_inlet = None;
        if let Some(group) = group {
            link.send_through(&main).map_err(|error| link_error(addresses, group, error))?;
            if local.ip().is_unspecified() && local.port() == group.port() {
                link.join(&main, group.ip()).map_err(|error| link_error(addresses, group, error))?;
            } else {
                let socket = open_socket(group)?;
                let are_stamped = have_stamped(&socket, group, timestamping, arrival_stamps())?;
                socket.set_reuse_address(true).map_err(system("share the port of", group))?;
                bind_socket(&socket, link.scoped(group), NetError::GroupPortInUse)?;
                link.join(&socket, group.ip()).map_err(|error| link_error(addresses, group, error))?;
                group_inlet = Some(Inlet::new(socket, are_stamped));
            }
        }
        Ok(Self {
            main: Inlet::new(main, are_stamped),
            group: group_inlet,
            local,
            stamped_by: StampSource::User,
            outbox: Outbox::new(),
            is_blocked: false,
            departures: Departures::new(are_stamped),
            has_miscounted: false,
        })
    }

    /// The address of the socket that sends, its port no longer 0. The IP is unspecified if `bind`'s was.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Has readiness to read reported under `main`, and under `group` if there is a second socket.
    ///
    /// # Errors
    /// The system refuses to watch the sockets.
    pub fn register(&mut self, registry: &Registry, main: Token, group: Token) -> io::Result<()> {
        for (inlet, token) in [(Some(&mut self.main), main), (self.group.as_mut(), group)] {
            if let Some(inlet) = inlet {
                inlet.token = token;
                inlet.watch(registry, Interest::READABLE)?;
            }
        }
        Ok(())
    }

    /// Has the main socket watched again after an error was reported: where mio waits with `poll(2)` it forgets such a socket, as if
    /// it were done for. A datagram's transmit stamp and a peer's absence are reported as errors, too.
    ///
    /// # Errors
    /// The system refuses.
    pub fn watch_again(&mut self, registry: &Registry) -> io::Result<()> {
        // Room to send is only watched for while there is none: else each datagram that leaves would be a wake-up.
        let interest = if self.is_blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let inlet = &mut self.main;
        if registry.reregister(&mut inlet.socket, inlet.token, interest).is_ok() {
            return Ok(());
        }
        // It is forgotten already, or about to be.
        inlet.unwatch(registry);
        inlet.watch(registry, interest)
    }

    /// Takes one datagram from the socket registered under `token`, without waiting. Call it until
    /// [`Received::Drained`]: readiness is reported only once.
    ///
    /// # Errors
    /// The system cannot read the socket; it may be able to later.
    pub fn receive(&mut self, token: Token, registry: &Registry, clock: &LocalClock) -> io::Result<Received<'_>> {
        let group = self.group.as_mut().filter(|group| group.token == token);
        let inlet = group.unwrap_or(&mut self.main);
        // Who waits for room to send has to hear of it.
        if inlet.is_watched && inlet.arrivals.are_many() && !self.is_blocked {
            inlet.unwatch(registry);
        }
        let received = inlet.receive(registry, clock)?;
        if let Received::Datagram { at, .. } = received {
            self.stamped_by = at.source;
        }
        Ok(received)
    }

    /// Datagrams lost because a socket's buffer was full, as far as the kernel has told: it does with the next one.
    pub fn drops(&self) -> u64 {
        [Some(&self.main), self.group.as_ref()].into_iter().flatten().map(|inlet| inlet.arrivals.drops()).sum()
    }

    /// Bytes that the system keeps for what has arrived and was not taken yet; it doubles what it was asked for.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        SockRef::from(&self.main.socket).recv_buffer_size()
    }

    /// Who stamped the last arrival and the last departure, the blunter of the two.
    pub fn stamps(&self) -> StampSource {
        self.stamped_by.max(self.departures.source())
    }

    /// Takes one of the kernel's notices of what was sent earlier, without waiting.
    ///
    /// # Errors
    /// The system cannot read them; it may be able to later.
    pub fn notice(&mut self, clock: &LocalClock) -> io::Result<Notice<T>> {
        self.departures.next(&self.main.socket, clock)
    }

    /// True when a notice of a departure may come without being reported as readiness.
    pub fn awaits_notice(&self) -> bool {
        self.departures.is_waiting()
    }

    /// True when another datagram can be posted. Else it is time for [`Sockets::flush`].
    pub fn has_room(&self) -> bool {
        self.outbox.len() < if self.departures.are_stamped() { BATCH } else { 1 }
    }

    /// True when something was posted and not sent.
    pub fn has_posted(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// True from [`Flushed::Blocked`] on until something is sent again.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Has one datagram sent from [`Sockets::local_addr`] with the next [`Sockets::flush`]. `written` is the local time just before; `token` comes back
    /// with a [`Notice`] of when it left, if somebody can tell.
    pub fn post(&mut self, to: SocketAddr, bytes: &[u8], written: LocalTime, token: Option<T>) {
        self.outbox.post(to, bytes, written, token);
    }

    /// Sends what was posted, without waiting. Call it again after [`Flushed::Failed`].
    #[expect(clippy::wildcard_enum_match_arm, reason = "what a system may answer is an open list")]
    pub fn flush(&mut self, registry: &Registry, clock: &LocalClock) -> Flushed {
        let mut may_be_stale = true;
        while !self.outbox.is_empty() {
            if std::mem::take(&mut self.has_miscounted) {
                self.renumber(clock);
            }
            match self.outbox.send(&self.main.socket) {
                Ok(count) => {
                    for Letter { token, written, .. } in (0..count).map_while(|_| self.outbox.pop()) {
                        self.departures.sent(token, written);
                    }
                    self.set_blocked(registry, false);
                    // If there is a next one it failed. Its error is lost, as may be that of an earlier one in its place: it is sent again.
                    may_be_stale = true;
                    self.has_miscounted = !self.outbox.is_empty();
                }
                Err(error) => {
                    self.has_miscounted = true;
                    match error.kind() {
                        io::ErrorKind::Interrupted => {}
                        io::ErrorKind::WouldBlock => {
                            self.set_blocked(registry, true);
                            return Flushed::Blocked;
                        }
                        // Perhaps the fate of an earlier datagram, to another node, reported in the place of sending this one.
                        _ if is_unreachable(&error) && may_be_stale => may_be_stale = false,
                        _ => {
                            if let Some(Letter { to, .. }) = self.outbox.pop() {
                                return Flushed::Failed { to, error };
                            }
                        }
                    }
                }
            }
        }
        Flushed::All
    }

    /// Forgets what was posted and not sent; says how many datagrams that were.
    pub fn discard(&mut self, registry: &Registry) -> u64 {
        self.set_blocked(registry, false);
        let mut discarded = 0;
        while self.outbox.pop().is_some() {
            discarded += 1;
        }
        discarded
    }

    /// Begins to number departures anew: whether a datagram that was not sent has taken a number depends on the kernel and on where it failed. That
    /// is done as late as possible, because what has left and has not been stamped yet loses its stamp: when there was no room to send, that was all
    /// that waited in the interface's queue, half of which has left as soon as there is room again.
    fn renumber(&mut self, clock: &LocalClock) {
        if self.departures.are_stamped() {
            self.departures.restart(&self.main.socket, clock);
            renumber(&self.main.socket);
        }
    }

    /// Has room to send reported, or no longer.
    fn set_blocked(&mut self, registry: &Registry, is_blocked: bool) {
        if std::mem::replace(&mut self.is_blocked, is_blocked) != is_blocked {
            // A socket that is not watched for room is tried again at the next deadline.
            let _ = self.watch_again(registry);
        }
    }
}
