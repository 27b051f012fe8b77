//! Sockets, multicast, timestamps: bytes and stamps in and out, no protocol.
//!
//! A node sends from one UDP socket and can be asked at its address. What is sent to the group arrives there too when
//! the socket is bound to the group's port on all addresses; otherwise a second socket, bound to the group itself,
//! listens and never sends. Only that second socket shares its port, so that several nodes of one machine hear the same
//! group, while two nodes on one address and port are an error at start.
//!
//! Multicast leaves through one interface, with a hop limit of 1, and is looped back to the other nodes of this machine
//! (and to the sender, which drops its own frames).
//!
//! Arrivals and departures are stamped by the kernel, as near to the wire as software gets, unless it cannot or is not asked to: an
//! arrival's stamp comes with the datagram, a departure's afterwards (`departures.rs`).
//!
//! All reading and writing goes through mio's socket (`try_io` where it has no call of its own), never past it: where mio
//! waits with `poll(2)`, it asks for readiness again only when it has itself seen a socket run dry.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::str::FromStr;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, SockaddrStorage, TimestampingFlag, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

use crate::departures::{Departures, Notice, software_stamp};
use crate::interfaces;
use crate::local_clock::LocalClock;
use crate::stamp::{Stamp, StampSource};
use crate::time::{LocalTime, Span, Time};

/// The port of nodes and groups unless they are told otherwise; PROTOCOL.md, section 7.
pub const DEFAULT_PORT: u16 = 5_525;

/// The IPv4 group, organisation-local; PROTOCOL.md, section 7.
const DEFAULT_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 5, 25);

/// The IPv6 group, transient and site-local; PROTOCOL.md, section 7.
const DEFAULT_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x5525);

/// No datagram waits longer in a socket's buffer before a node that runs takes it.
const LONGEST_WAIT: Span = Span::from_secs(1);

/// Multicast stays on the link: beyond a router the delays differ so much that the group would rather be two.
const HOP_LIMIT: u32 = 1;

/// The group that a node bound to `bind` hears unless it is told otherwise.
pub fn default_group(bind: SocketAddr) -> SocketAddr {
    let ip = if bind.is_ipv4() { DEFAULT_GROUP_V4.into() } else { DEFAULT_GROUP_V6.into() };
    SocketAddr::new(ip, DEFAULT_PORT)
}

/// A network interface, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// By its name, such as `eth0`.
    Name(String),
    /// By an address that it has.
    Address(IpAddr),
}

/// Reads an address if it is one, else takes the text for a name.
impl FromStr for Interface {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Address))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.pad(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

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

/// Where a node listens and what group it hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The node's own address. Port 0 picks a free one.
    pub bind: SocketAddr,
    /// The multicast group and its port. `None`: neither heard nor spoken to.
    pub group: Option<SocketAddr>,
    /// Where multicast goes and is heard. `None`: the interface that has `bind`'s address, and when that is
    /// unspecified, the one that the system's routes choose.
    pub interface: Option<Interface>,
}

/// Why a node cannot listen.
#[derive(Debug)]
pub enum NetError {
    /// The group is no multicast address with a port.
    NotMulticast(SocketAddr),
    /// The first and the second address are not both IPv4 or both IPv6.
    FamiliesDiffer(IpAddr, IpAddr),
    /// No interface has this name or address.
    NoSuchInterface(Interface),
    /// The interface has no IPv4 address, and IPv4 multicast is bound to one.
    NoAddress(Interface),
    /// Another program has the node's address and port.
    PortInUse(SocketAddr),
    /// Another program has the group's port and does not share it.
    GroupPortInUse(SocketAddr),
    /// This machine does not have the address.
    NotOurAddress(SocketAddr),
    /// The system does not let this user have the port.
    NoPermission(SocketAddr),
    /// No interface was given, no route leads to this group, and these interfaces could be meant.
    NoRoute(SocketAddr, Vec<String>),
    /// Anything else.
    System {
        /// What was tried.
        attempt: &'static str,
        /// With which address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMulticast(group) => {
                write!(
                    f,
                    "group {group} is not a multicast address with a port, such as {DEFAULT_GROUP_V4}:{DEFAULT_PORT}"
                )
            }
            Self::FamiliesDiffer(one, other) => {
                write!(f, "{one} and {other} do not go together: give only IPv4 or only IPv6 addresses")
            }
            Self::NoSuchInterface(interface) => write!(f, "this machine has no network interface {interface}"),
            Self::NoAddress(interface) => {
                write!(f, "network interface {interface} has no IPv4 address: give it one, or bind to an IPv6 address")
            }
            Self::PortInUse(bind) => write!(f, "{bind} is in use by another program: stop it, or bind to another port"),
            Self::GroupPortInUse(group) => write!(
                f,
                "group {group}: port {} is held by a program that does not share it (perhaps a node bound to it on all \
                 addresses): bind that one to a single address, or choose another group port",
                group.port()
            ),
            Self::NotOurAddress(bind) => write!(f, "cannot bind to {bind}: this machine does not have that address"),
            Self::NoPermission(bind) => write!(f, "no permission to bind to {bind}: choose a port above 1023"),
            Self::NoRoute(group, interfaces) if interfaces.is_empty() => {
                write!(f, "no network interface is up that leads to group {group}: set one up, or use --peer")
            }
            Self::NoRoute(group, interfaces) => write!(
                f,
                "no route leads to group {group}: name one of {} with --interface, or use --peer",
                interfaces.join(", ")
            ),
            Self::System { attempt, address, error } => write!(f, "cannot {attempt} {address}: {error}"),
        }
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { error, .. } => Some(error),
            Self::NotMulticast(_)
            | Self::FamiliesDiffer(..)
            | Self::NoSuchInterface(_)
            | Self::NoAddress(_)
            | Self::PortInUse(_)
            | Self::GroupPortInUse(_)
            | Self::NotOurAddress(_)
            | Self::NoPermission(_)
            | Self::NoRoute(..) => None,
        }
    }
}

/// What one look at a socket brought.
#[derive(Debug)]
pub enum Received {
    /// A datagram. One that fills the whole buffer may have been longer, so offer one byte more than is legal.
    Datagram {
        /// How many bytes of the buffer it fills.
        len: usize,
        /// Who sent it.
        from: SocketAddr,
        /// When it arrived.
        at: Stamp,
    },
    /// Something sent earlier reached nobody; [`Sockets::notice`] has more of it. Look again.
    Unreachable(io::Error),
    /// Nothing is left; readiness will be reported again.
    Drained,
}

/// A node's sockets, none of which ever blocks.
///
/// `T` is what the driver gives with a datagram to know it by when it hears when it left.
#[derive(Debug)]
pub struct Sockets<T> {
    main: UdpSocket,
    /// Only where `main` does not hear the group, see the module documentation.
    group: Option<UdpSocket>,
    group_token: Option<Token>,
    local: SocketAddr,
    /// Room for the kernel's stamp of one datagram.
    control: Vec<u8>,
    /// Who stamped the last arrival.
    arrivals: StampSource,
    /// What `main` has sent.
    departures: Departures<T>,
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
        let stamps_departures = have_stamped(&main, bind, timestamping, arrival_stamps() | departure_stamps())?;
        report_unreachable(&main, bind);
        bind_socket(&main, link.scoped(bind), NetError::PortInUse)?;
        let local = local_address(&main, bind)?;

        let mut group_socket = None;
        if let Some(group) = group {
            link.send_through(&main).map_err(|error| link_error(addresses, group, error))?;
            if local.ip().is_unspecified() && local.port() == group.port() {
                link.join(&main, group.ip()).map_err(|error| link_error(addresses, group, error))?;
            } else {
                let socket = open_socket(group)?;
                have_stamped(&socket, group, timestamping, arrival_stamps())?;
                socket.set_reuse_address(true).map_err(system("share the port of", group))?;
                bind_socket(&socket, link.scoped(group), NetError::GroupPortInUse)?;
                link.join(&socket, group.ip()).map_err(|error| link_error(addresses, group, error))?;
                group_socket = Some(UdpSocket::from_std(socket.into()));
            }
        }
        Ok(Self {
            main: UdpSocket::from_std(main.into()),
            group: group_socket,
            group_token: None,
            local,
            control: cmsg_space!([TimeSpec; 3]),
            arrivals: StampSource::User,
            departures: if stamps_departures { Departures::numbered() } else { Departures::unknown() },
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
        registry.register(&mut self.main, main, Interest::READABLE)?;
        if let Some(socket) = &mut self.group {
            registry.register(socket, group, Interest::READABLE)?;
            self.group_token = Some(group);
        }
        Ok(())
    }

    /// Has the main socket watched again after an error was reported: where mio waits with `poll(2)` it forgets such a socket, as if
    /// it were done for. A datagram's transmit stamp and a peer's absence are reported as errors, too.
    ///
    /// # Errors
    /// The system refuses.
    pub fn watch_again(&mut self, registry: &Registry, main: Token) -> io::Result<()> {
        if registry.reregister(&mut self.main, main, Interest::READABLE).is_ok() {
            return Ok(());
        }
        // It is forgotten already, or about to be.
        let _ = registry.deregister(&mut self.main);
        registry.register(&mut self.main, main, Interest::READABLE)
    }

    /// Takes one datagram from the socket registered under `token`, without waiting. Call it until
    /// [`Received::Drained`]: readiness is reported only once.
    ///
    /// # Errors
    /// The system cannot read the socket; it may be able to later.
    pub fn receive(&mut self, token: Token, clock: &LocalClock, buf: &mut [u8]) -> io::Result<Received> {
        let socket = match &self.group {
            Some(group) if self.group_token == Some(token) => group,
            Some(_) | None => &self.main,
        };
        loop {
            match socket.try_io(|| receive_stamped(socket, buf, &mut self.control)) {
                Ok((len, from, kernel)) => {
                    let at = stamp(clock, kernel);
                    self.arrivals = at.source;
                    return Ok(Received::Datagram { len, from, at });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Drained),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_unreachable(&error) => return Ok(Received::Unreachable(error)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Who stamped the last arrival and the last departure, the blunter of the two.
    pub fn stamps(&self) -> StampSource {
        self.arrivals.max(self.departures.source())
    }

    /// Takes one of the kernel's notices of what was sent earlier, without waiting.
    ///
    /// # Errors
    /// The system cannot read them; it may be able to later.
    pub fn notice(&mut self, clock: &LocalClock) -> io::Result<Notice<T>> {
        self.departures.read(&self.main, clock)
    }

    /// True when a notice of a departure may come without being reported as readiness.
    pub fn awaits_notice(&self) -> bool {
        self.departures.is_waiting()
    }

    /// Sends one datagram from [`Sockets::local_addr`], without waiting. `sent` is the local time just before; `token` comes back
    /// with a [`Notice`] of when it left, if somebody can tell.
    ///
    /// # Errors
    /// It was not sent: no route, no room in the queue (`WouldBlock`), not allowed, too long.
    pub fn send(&mut self, to: SocketAddr, bytes: &[u8], sent: LocalTime, token: Option<T>) -> io::Result<()> {
        let mut may_be_stale = true;
        loop {
            let error = match self.main.send_to(bytes, to) {
                Ok(_) => {
                    self.departures.sent(token, sent);
                    return Ok(());
                }
                Err(error) => error,
            };
            // Whether a datagram that was not sent has taken a number depends on the kernel and on where it failed.
            if self.departures.restart() {
                renumber(&self.main);
            }
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            // Perhaps the fate of an earlier datagram, to another node, reported in the place of sending this one.
            if !(is_unreachable(&error) && may_be_stale) {
                return Err(error);
            }
            may_be_stale = false;
        }
    }
}

/// Takes one datagram and the kernel's word on when it arrived, on CLOCK_REALTIME, if it gave one.
fn receive_stamped(
    socket: &UdpSocket,
    buf: &mut [u8],
    control: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<Time>)> {
    let mut parts = [IoSliceMut::new(buf)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(control), MsgFlags::empty())?;
    let kernel = message.cmsgs().into_iter().flatten().find_map(|control| software_stamp(&control));
    let from = message.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
    });
    Ok((message.bytes, from.ok_or(io::ErrorKind::InvalidData)?, kernel))
}

/// The arrival of a datagram that was taken just now, on the local clock.
///
/// The kernel stamps with CLOCK_REALTIME; how long ago that was, both clocks tell alike (to a nanosecond in a
/// millisecond's wait, whatever slews it). A stamp from the future, or from longer ago than a datagram waits, means that somebody
/// has set CLOCK_REALTIME in between; then our own reading has to do.
fn stamp(clock: &LocalClock, kernel: Option<Time>) -> Stamp {
    let now = clock.pair();
    match kernel.map(|at| now.system - at).filter(|age| (Span::ZERO..LONGEST_WAIT).contains(age)) {
        Some(age) => Stamp { at: now.local - age, source: StampSource::Kernel },
        None => Stamp { at: now.local, source: StampSource::User },
    }
}

/// An error about an earlier datagram and not about the call that returned it: ICMP, as the system passes it on.
fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}

/// The interface that multicast takes, the way each family names one to the system.
#[derive(Clone, Copy, Debug)]
enum Link {
    /// One of its addresses; unspecified: the routes choose.
    V4(Ipv4Addr),
    /// Its index; 0: the routes choose.
    V6(u32),
}

impl Link {
    fn resolve(addresses: &Addresses) -> Result<Self, NetError> {
        let interface = addresses.interface.as_ref();
        match addresses.bind {
            SocketAddr::V4(bind) => Self::resolve_v4(*bind.ip(), addresses.group, interface),
            SocketAddr::V6(bind) => Self::resolve_v6(bind, addresses.group, interface),
        }
    }

    /// A wrong address is not noticed before it is used.
    fn resolve_v4(bind: Ipv4Addr, group: Option<SocketAddr>, interface: Option<&Interface>) -> Result<Self, NetError> {
        let address = match (interface, group) {
            (None, Some(group)) if bind.is_unspecified() && !interfaces::is_routed(group) => {
                // Networks without a way out have no default route, and a machine in one has a single interface, mostly.
                match *interfaces::multicast_v4() {
                    [(_, address)] => address,
                    ref several => {
                        return Err(NetError::NoRoute(group, several.iter().map(|(name, _)| name.clone()).collect()));
                    }
                }
            }
            (None, _) => bind,
            (Some(Interface::Address(IpAddr::V4(address))), _) => *address,
            (Some(Interface::Address(address @ IpAddr::V6(_))), _) => {
                return Err(NetError::FamiliesDiffer(bind.into(), *address));
            }
            (Some(Interface::Name(name)), _) => {
                index_of(name)?;
                interfaces::address_v4_of(name).ok_or_else(|| NetError::NoAddress(Interface::Name(name.clone())))?
            }
        };
        Ok(Self::V4(address))
    }

    fn resolve_v6(
        bind: SocketAddrV6,
        group: Option<SocketAddr>,
        interface: Option<&Interface>,
    ) -> Result<Self, NetError> {
        let index = match interface {
            Some(Interface::Name(name)) => index_of(name)?,
            Some(Interface::Address(IpAddr::V6(address))) => interfaces::index_with(*address)
                .ok_or(NetError::NoSuchInterface(Interface::Address((*address).into())))?,
            Some(Interface::Address(address @ IpAddr::V4(_))) => {
                return Err(NetError::FamiliesDiffer((*bind.ip()).into(), *address));
            }
            // A scope says it outright; the address that the node is bound to, by the interface that has it.
            None => match (bind.scope_id(), group) {
                (0, Some(SocketAddr::V6(group))) if group.scope_id() != 0 => group.scope_id(),
                (0, _) => interfaces::index_with(*bind.ip()).unwrap_or(0),
                (scope, _) => scope,
            },
        };
        Ok(Self::V6(index))
    }

    /// The address with this link as its scope, where it needs one and does not have it: the same link-local address
    /// may stand on every interface.
    fn scoped(self, address: SocketAddr) -> SocketAddr {
        match (address, self) {
            (SocketAddr::V6(mut address), Self::V6(index))
                if address.scope_id() == 0 && is_link_local(*address.ip()) =>
            {
                address.set_scope_id(index);
                address.into()
            }
            (address, Self::V4(_) | Self::V6(_)) => address,
        }
    }

    /// Makes multicast from the socket leave here, one hop far, and come back to the nodes of this machine.
    fn send_through(self, socket: &Socket) -> io::Result<()> {
        match self {
            Self::V4(address) => {
                socket.set_multicast_if_v4(&address)?;
                socket.set_multicast_ttl_v4(HOP_LIMIT)?;
                socket.set_multicast_loop_v4(true)
            }
            Self::V6(index) => {
                socket.set_multicast_if_v6(index)?;
                socket.set_multicast_hops_v6(HOP_LIMIT)?;
                socket.set_multicast_loop_v6(true)
            }
        }
    }

    /// Makes the socket hear the group here, and no group that other programs of this machine have joined.
    fn join(self, socket: &Socket, group: IpAddr) -> io::Result<()> {
        match (self, group) {
            (Self::V4(address), IpAddr::V4(group)) => {
                #[cfg(target_os = "linux")]
                socket.set_multicast_all_v4(false)?;
                socket.join_multicast_v4(&group, &address)
            }
            (Self::V6(index), IpAddr::V6(group)) => {
                #[cfg(target_os = "linux")]
                socket.set_multicast_all_v6(false)?;
                socket.join_multicast_v6(&group, index)
            }
            (Self::V4(_), IpAddr::V6(_)) | (Self::V6(_), IpAddr::V4(_)) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// Whether an address means nothing without an interface: fe80::/10, and the groups of link and interface scope.
fn is_link_local(ip: Ipv6Addr) -> bool {
    let [first, ..] = ip.segments();
    ip.is_unicast_link_local() || matches!(first & 0xff0f, 0xff01 | 0xff02)
}

fn index_of(name: &str) -> Result<u32, NetError> {
    if_nametoindex(name).map_err(|_| NetError::NoSuchInterface(Interface::Name(name.to_owned())))
}

/// What waits in the kernel while the loop does something else, in bytes as the kernel counts them: some 2,700 short datagrams (it doubles what
/// is asked for, and takes 768 for each), which a flood of 100,000 a second brings in 27 ms. With the 212,992 that it gives by itself a
/// loop that did not run for 3 ms loses the datagrams that matter with those that do not. An arrival is stamped by the kernel, so that waiting
/// costs no accuracy. The kernel gives less where `net.core.rmem_max` is less, and says nothing.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A UDP socket of the address's family that does not block.
fn open_socket(address: SocketAddr) -> Result<Socket, NetError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        if address.is_ipv6() {
            // Else it would take the IPv4 port as well, and peers would appear under mapped addresses.
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    };
    open().map_err(system("open a socket for", address))
}

fn arrival_stamps() -> TimestampingFlag {
    TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
}

/// Numbered, and without a copy of what was sent.
fn departure_stamps() -> TimestampingFlag {
    TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY
}

/// Has the kernel stamp what passes a socket; tells whether it does. Else arrivals are stamped when the process gets to
/// run, some 40 µs late on an idle machine, and departures some µs early: for [`Timestamping::Auto`] still good enough.
fn have_stamped(
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
fn renumber(socket: &UdpSocket) {
    let stamps = arrival_stamps() | departure_stamps();
    // It was possible before. If it ever were not, the stamps would be taken for those of other datagrams and be refused.
    let _ = setsockopt(socket, sockopt::Timestamping, &(stamps - TimestampingFlag::SOF_TIMESTAMPING_OPT_ID));
    let _ = setsockopt(socket, sockopt::Timestamping, &stamps);
}

/// Has ICMP errors reported, so that a peer that is not there can be counted. A system that cannot is good enough.
fn report_unreachable(socket: &Socket, address: SocketAddr) {
    let _ = match address {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true),
    };
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what a system may answer is an open list")]
fn bind_socket(socket: &Socket, address: SocketAddr, in_use: fn(SocketAddr) -> NetError) -> Result<(), NetError> {
    socket.bind(&address.into()).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => in_use(address),
        io::ErrorKind::AddrNotAvailable => NetError::NotOurAddress(address),
        io::ErrorKind::PermissionDenied => NetError::NoPermission(address),
        _ => NetError::System { attempt: "bind to", address, error },
    })
}

fn local_address(socket: &Socket, bind: SocketAddr) -> Result<SocketAddr, NetError> {
    let address = socket.local_addr().map_err(system("read the address of the socket bound to", bind))?;
    Ok(address.as_socket().unwrap_or(bind))
}

/// What it means that multicast cannot be sent or heard on the link.
fn link_error(addresses: &Addresses, group: SocketAddr, error: io::Error) -> NetError {
    let no_link = matches!(Errno::from_raw(error.raw_os_error().unwrap_or(0)), Errno::ENODEV | Errno::EADDRNOTAVAIL);
    match &addresses.interface {
        Some(interface) if no_link => NetError::NoSuchInterface(interface.clone()),
        None if no_link => NetError::NoRoute(group, Vec::new()),
        Some(_) | None => NetError::System { attempt: "join group", address: group, error },
    }
}

fn system(attempt: &'static str, address: SocketAddr) -> impl FnOnce(io::Error) -> NetError {
    move |error| NetError::System { attempt, address, error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{LocalTime, Skew, Span};
    use mio::{Events, Poll};
    use socket2::SockRef;

    const MAIN: Token = Token(0);
    const GROUP: Token = Token(1);
    /// What has not arrived by then on its own machine is lost.
    const DEADLINE: Span = Span::from_secs(5);

    /// A node that only listens and speaks.
    struct Node {
        poll: Poll,
        sockets: Sockets<char>,
        clock: LocalClock,
        /// Reported as readable and not drained since.
        ready: Vec<Token>,
        buf: [u8; 16],
        /// The stamp of the last datagram heard.
        heard_at: LocalTime,
    }

    impl Node {
        fn open(bind: &str, group: Option<SocketAddr>, interface: Option<&str>) -> Result<Self, NetError> {
            let mut sockets = Sockets::open(&addresses(bind, group, interface), Timestamping::Auto)?;
            let poll = Poll::new().unwrap();
            sockets.register(poll.registry(), MAIN, GROUP).unwrap();
            let clock = LocalClock::new(Skew::ZERO).unwrap();
            Ok(Self { poll, sockets, clock, ready: Vec::new(), buf: [0; 16], heard_at: LocalTime::default() })
        }

        fn addr(&self) -> SocketAddr {
            self.sockets.local_addr()
        }

        fn say(&mut self, to: SocketAddr, bytes: &[u8]) {
            self.sockets.send(to, bytes, self.clock.now(), None).unwrap();
        }

        fn say_and_ask(&mut self, to: SocketAddr, bytes: &[u8], token: char) {
            self.sockets.send(to, bytes, self.clock.now(), Some(token)).unwrap();
        }

        /// The next departure that somebody asked for.
        fn notice(&mut self) -> Option<(char, Stamp)> {
            loop {
                match self.sockets.notice(&self.clock).unwrap() {
                    Notice::Left { token, at } => return Some((token, at)),
                    Notice::Unreachable(_) | Notice::Other => {}
                    Notice::Drained => return None,
                }
            }
        }

        /// All that has left and was asked for, and how many datagrams reached nobody.
        fn notices(&mut self) -> (Vec<char>, usize) {
            let (mut left, mut unreachable) = (Vec::new(), 0);
            loop {
                match self.sockets.notice(&self.clock).unwrap() {
                    Notice::Left { token, .. } => left.push(token),
                    Notice::Unreachable(_) => unreachable += 1,
                    Notice::Other => {}
                    Notice::Drained => return (left, unreachable),
                }
            }
        }

        /// The kernel starts to stamp a little after it was asked to. Sends until it does, and to the loopback interface, which
        /// hands over at once: a stamp is there when the call that sends returns.
        fn warm_up(&mut self, to: SocketAddr) {
            let deadline = self.clock.now() + DEADLINE;
            while self.clock.now() < deadline {
                self.say_and_ask(to, b"warm", 'w');
                if self.notice().is_some() {
                    return;
                }
            }
            panic!("no stamp of a departure in {DEADLINE}");
        }

        /// The next that is not [`Received::Drained`], read the way the event loop reads.
        fn next(&mut self) -> Received {
            let deadline = self.clock.now() + DEADLINE;
            let mut events = Events::with_capacity(4);
            while self.clock.now() < deadline {
                while let Some(token) = self.ready.last() {
                    match self.sockets.receive(*token, &self.clock, &mut self.buf).unwrap() {
                        Received::Drained => self.ready.pop(),
                        received @ (Received::Datagram { .. } | Received::Unreachable(_)) => return received,
                    };
                }
                self.poll.poll(&mut events, Some((deadline - self.clock.now()).to_std())).unwrap();
                self.ready.extend(events.iter().map(|event| event.token()));
            }
            panic!("nothing heard in {DEADLINE}");
        }

        /// The next datagram, who sent it, and when it was heard.
        fn hear(&mut self) -> (&[u8], SocketAddr, LocalTime) {
            match self.next() {
                Received::Datagram { len, from, at } => {
                    self.heard_at = at.at;
                    (&self.buf[..len], from, at.at)
                }
                other @ (Received::Unreachable(_) | Received::Drained) => panic!("{other:?} in place of a datagram"),
            }
        }
    }

    fn addresses(bind: &str, group: Option<SocketAddr>, interface: Option<&str>) -> Addresses {
        let interface = interface.map(|text| text.parse().unwrap());
        Addresses { bind: bind.parse().unwrap(), group, interface }
    }

    /// A group with a port that was free a moment ago. Each test has its own IP, so that none hears another's.
    fn group(ip: &str) -> SocketAddr {
        let ip: IpAddr = ip.parse().unwrap();
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        SocketAddr::new(ip, port)
    }

    fn has_ipv6() -> bool {
        let has = std::net::UdpSocket::bind("[::1]:0").is_ok();
        if !has {
            eprintln!("skipped in part: this machine has no IPv6");
        }
        has
    }

    fn refusal(bind: &str, group: Option<SocketAddr>, interface: Option<&str>) -> String {
        Sockets::<char>::open(&addresses(bind, group, interface), Timestamping::Auto).unwrap_err().to_string()
    }

    #[test]
    fn a_datagram_arrives_with_its_sender_and_a_stamp() {
        for bind in ["127.0.0.1:0", "[::1]:0"].into_iter().take(if has_ipv6() { 2 } else { 1 }) {
            let (mut sender, mut receiver) =
                (Node::open(bind, None, None).unwrap(), Node::open(bind, None, None).unwrap());
            assert_ne!(receiver.addr().port(), 0);
            let before = receiver.clock.now();
            sender.say(receiver.addr(), b"one");
            sender.say(receiver.addr(), b"two");
            let (bytes, from, first) = receiver.hear();
            assert_eq!((bytes, from), (&b"one"[..], sender.addr()));
            let (bytes, _, second) = receiver.hear();
            assert_eq!(bytes, b"two");
            assert!(before <= first && first <= second && second <= receiver.clock.now());
        }
    }

    #[test]
    fn all_nodes_of_a_machine_hear_the_group_and_its_sender_too() {
        let group = group("239.255.7.1");
        // The interface follows from the bound address in the first, and is named in the others.
        let mut nodes: Vec<Node> =
            [("127.0.0.1:0", None), ("0.0.0.0:0", Some("127.0.0.1")), ("127.0.0.1:0", Some("lo"))]
                .map(|(bind, interface)| Node::open(bind, Some(group), interface).unwrap())
                .into();
        assert!(nodes.iter().all(|node| node.sockets.group.is_some()));
        for sender in 0..nodes.len() {
            nodes[sender].say(group, &[b'0', sender.try_into().unwrap()]);
            let port = nodes[sender].addr().port();
            for node in &mut nodes {
                let (bytes, from, _) = node.hear();
                assert_eq!((bytes[1].into(), from.port()), (sender, port));
            }
        }
    }

    #[test]
    fn multicast_goes_one_hop_and_comes_back() {
        // The loopback interface brings everything back, so that hearing the group there proves nothing.
        let node = Node::open("127.0.0.1:0", Some(group("239.255.7.6")), None).unwrap();
        let socket = SockRef::from(&node.sockets.main);
        assert_eq!((socket.multicast_loop_v4().unwrap(), socket.multicast_ttl_v4().unwrap()), (true, 1));
        if !has_ipv6() {
            return;
        }
        let node = Node::open("[::]:0", Some(group("ff15::7:6")), Some("::1")).unwrap();
        let socket = SockRef::from(&node.sockets.main);
        assert_eq!((socket.multicast_loop_v6().unwrap(), socket.multicast_hops_v6().unwrap()), (true, 1));
        assert!(socket.only_v6().unwrap());
    }

    #[test]
    fn all_nodes_of_a_machine_hear_the_ipv6_group() {
        if !has_ipv6() {
            return;
        }
        let group = group("ff15::7:1");
        let mut nodes = ["[::1]:0", "[::1]:0"].map(|bind| Node::open(bind, Some(group), None).unwrap());
        if let Err(error) = nodes[0].sockets.send(group, b"hello", LocalTime::default(), None) {
            eprintln!("skipped: this machine has no IPv6 multicast route on loopback: {error}");
            return;
        }
        let port = nodes[0].addr().port();
        for node in &mut nodes {
            let (bytes, from, _) = node.hear();
            assert_eq!((bytes, from.port()), (&b"hello"[..], port));
        }
    }

    #[test]
    fn one_socket_is_enough_on_all_addresses_and_the_port_of_the_group() {
        let group = group("239.255.7.2");
        let mut node = Node::open(&format!("0.0.0.0:{}", group.port()), Some(group), Some("127.0.0.1")).unwrap();
        assert!(node.sockets.group.is_none());
        let other_group = SocketAddr::new(group.ip(), self::group("239.255.7.2").port());
        let mut sender = Node::open("127.0.0.1:0", Some(other_group), None).unwrap();
        sender.say(group, b"to all");
        assert_eq!(node.hear().0, b"to all");
        sender.say(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), group.port()), b"to you");
        assert_eq!(node.hear().0, b"to you");

        let error = refusal("127.0.0.1:0", Some(group), None);
        assert!(error.contains("does not share it") && error.contains(&group.to_string()), "{error}");
    }

    #[test]
    fn a_group_joined_by_another_program_is_not_heard() {
        let (ours, theirs) = (group("239.255.7.3"), "239.255.7.4");
        let bystander = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        bystander.join_multicast_v4(&theirs.parse().unwrap(), &Ipv4Addr::LOCALHOST).unwrap();
        let mut node = Node::open(&format!("0.0.0.0:{}", ours.port()), Some(ours), Some("127.0.0.1")).unwrap();
        let to_us = node.addr();
        node.say(SocketAddr::new(theirs.parse().unwrap(), to_us.port()), b"theirs");
        node.say(ours, b"ours");
        assert_eq!(node.hear().0, b"ours");
    }

    #[test]
    fn what_cannot_be_opened_is_refused_in_one_line_that_says_what_to_do() {
        let taken = Node::open("127.0.0.1:0", None, None).unwrap();
        let v4 = Some(group("239.255.7.5"));
        let v6 = Some(group("ff15::7:5"));
        let in_use = taken.addr().to_string();
        for (bind, group, interface, expected) in [
            (&in_use[..], None, None, &*format!("{in_use} is in use by another program")),
            ("198.51.100.7:0", None, None, "does not have that address"),
            ("127.0.0.1:0", v4, Some("nosuch0"), "no network interface nosuch0"),
            ("127.0.0.1:0", None, Some("nosuch0"), "no network interface nosuch0"),
            ("0.0.0.0:0", v4, Some("198.51.100.7"), "no network interface 198.51.100.7"),
            ("[::1]:0", v6, Some("nosuch0"), "no network interface nosuch0"),
            ("[::1]:0", v6, Some("2001:db8::7"), "no network interface 2001:db8::7"),
            ("127.0.0.1:0", v6, None, "127.0.0.1 and ff15::7:5 do not go together"),
            ("127.0.0.1:0", v4, Some("::1"), "127.0.0.1 and ::1 do not go together"),
            ("[::1]:0", v6, Some("127.0.0.1"), "::1 and 127.0.0.1 do not go together"),
            ("127.0.0.1:0", "192.0.2.1:5525".parse().ok(), None, "192.0.2.1:5525 is not a multicast address"),
            ("127.0.0.1:0", "239.255.7.5:0".parse().ok(), None, "not a multicast address with a port"),
        ] {
            let error = refusal(bind, group, interface);
            assert!(error.contains(expected) && !error.contains('\n'), "{error:?} does not say {expected:?}");
        }
    }

    #[test]
    fn a_closed_port_neither_ends_nor_loses_anything() {
        let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
        let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
        let closed = group("127.0.0.1");
        node.warm_up(peer.addr());

        node.say(closed, b"lost");
        peer.say(node.addr(), b"after the error");
        assert!(matches!(node.next(), Received::Unreachable(_)));
        assert_eq!(node.hear().0, b"after the error");

        // The error of the first is reported in the place of the second, which must go out all the same, and be told
        // from the first when its stamp comes.
        node.say(closed, b"lost");
        node.say_and_ask(peer.addr(), b"answer", 'a');
        assert_eq!(node.notices(), (vec!['a'], 2), "each of the two ICMP errors is counted once");
        while peer.hear().0 != b"answer" {}
    }

    #[test]
    fn a_departure_is_stamped_by_the_kernel_between_before_and_after() {
        for bind in ["127.0.0.1:0", "[::1]:0"].into_iter().take(if has_ipv6() { 2 } else { 1 }) {
            let (mut node, mut peer) = (Node::open(bind, None, None).unwrap(), Node::open(bind, None, None).unwrap());
            node.warm_up(peer.addr());
            peer.hear();
            let before = node.clock.now();
            node.say_and_ask(peer.addr(), b"asked", 'a');
            node.say_and_ask(peer.addr(), b"asked", 'b');
            let after = node.clock.now();
            let mut left = Vec::new();
            while let Some((token, at)) = node.notice() {
                assert_eq!((at.source, at.at >= before, at.at <= after), (StampSource::Kernel, true, true));
                left.push((token, at.at));
            }
            assert!(left.is_sorted() && left.len() == 2, "{left:?}");
            assert!(!node.sockets.awaits_notice());
            // On one machine the kernel hands over and takes in on one clock.
            while peer.hear().0 != b"asked" {}
            assert!(peer.heard_at >= left[0].1 - Span::from_micros(1), "{:?} after {left:?}", peer.heard_at);
        }
    }

    #[test]
    fn a_datagram_to_the_group_leaves_once_though_it_comes_back() {
        let group = group("239.255.7.8");
        let mut node = Node::open(&format!("0.0.0.0:{}", group.port()), Some(group), Some("127.0.0.1")).unwrap();
        let to_itself = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), group.port());
        node.warm_up(to_itself);
        for token in ['a', 'b', 'c'] {
            node.say_and_ask(group, b"to all", token);
            node.say_and_ask(to_itself, b"to itself", token.to_ascii_uppercase());
        }
        assert_eq!(node.notices().0, ['a', 'A', 'b', 'B', 'c', 'C']);
    }

    #[test]
    fn nobody_stamps_who_is_not_asked_to() {
        let mut sockets = Sockets::open(&addresses("127.0.0.1:0", None, None), Timestamping::User).unwrap();
        let clock = LocalClock::new(Skew::ZERO).unwrap();
        let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
        for _ in 0..4 {
            sockets.send(peer.addr(), b"unstamped", clock.now(), Some('a')).unwrap();
            assert!(!sockets.awaits_notice());
            peer.hear();
        }
        assert!(matches!(sockets.notice(&clock).unwrap(), Notice::Drained));
        assert_eq!(sockets.stamps(), StampSource::User);
    }

    /// The kernel keeps no more stamps than the receive buffer has room for, and goes on counting.
    #[test]
    fn a_flood_of_stamps_is_read_to_its_end_and_the_next_are_right_again() {
        let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
        let peer = Node::open("127.0.0.1:0", None, None).unwrap();
        node.warm_up(peer.addr());
        for _ in 0..10_000 {
            node.say_and_ask(peer.addr(), b"flood", 'f');
        }
        let (left, _) = node.notices();
        // The queue was full before the last were sent; those that it kept are of datagrams forgotten since.
        assert_eq!(left, []);
        assert_eq!(node.sockets.stamps(), StampSource::User);
        node.say_and_ask(peer.addr(), b"asked", 'a');
        assert_eq!(node.notices().0, ['a']);
    }

    #[test]
    fn a_datagram_that_is_too_long_fills_the_buffer() {
        let mut node = Node::open("127.0.0.1:0", None, None).unwrap();
        let mut peer = Node::open("127.0.0.1:0", None, None).unwrap();
        for (len, heard) in [(15, 15), (16, 16), (17, 16), (1_000, 16), (0, 0)] {
            peer.say(node.addr(), &vec![7; len]);
            assert_eq!(node.hear().0, &vec![7; heard][..]);
        }
    }

    #[test]
    fn link_local_addresses_get_the_scope_of_the_link() {
        for (address, scoped) in [
            ("[fe80::1]:5525", "[fe80::1%3]:5525"),
            ("[ff12::5525]:5525", "[ff12::5525%3]:5525"),
            ("[ff01::1]:1", "[ff01::1%3]:1"),
            ("[fe80::1%2]:5525", "[fe80::1%2]:5525"),
            ("[ff15::5525]:5525", "[ff15::5525]:5525"),
            ("[2001:db8::1]:5525", "[2001:db8::1]:5525"),
            ("192.0.2.1:5525", "192.0.2.1:5525"),
        ] {
            assert_eq!(Link::V6(3).scoped(address.parse().unwrap()), scoped.parse().unwrap());
        }
    }

    #[test]
    fn interfaces_and_default_groups_are_what_the_protocol_says() {
        assert_eq!("eth0".parse(), Ok(Interface::Name("eth0".to_owned())));
        assert_eq!("192.0.2.1".parse(), Ok(Interface::Address(Ipv4Addr::new(192, 0, 2, 1).into())));
        assert_eq!("::1".parse(), Ok(Interface::Address(Ipv6Addr::LOCALHOST.into())));
        assert_eq!(default_group("0.0.0.0:7".parse().unwrap()).to_string(), "239.255.5.25:5525");
        assert_eq!(default_group("[::]:7".parse().unwrap()).to_string(), "[ff15::5525]:5525");
    }
}
