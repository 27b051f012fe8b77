//! The interface that multicast leaves through and is heard on.
//!
//! Multicast goes one hop and is looped back to the other nodes of this machine (and to the sender, which drops its own frames).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use socket2::Socket;

use super::addresses::{Addresses, Interface};
use super::error::NetError;
use crate::interfaces;

/// Multicast stays on the link: beyond a router the delays differ so much that the group would rather be two.
const HOP_LIMIT: u32 = 1;

/// The interface that multicast takes, the way each family names one to the system.
#[derive(Clone, Copy, Debug)]
pub(super) enum Link {
    /// One of its addresses; unspecified: the routes choose.
    V4(Ipv4Addr),
    /// Its index; 0: the routes choose.
    V6(u32),
}

impl Link {
    pub(super) fn resolve(addresses: &Addresses) -> Result<Self, NetError> {
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
    pub(super) fn scoped(self, address: SocketAddr) -> SocketAddr {
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
    pub(super) fn send_through(self, socket: &Socket) -> io::Result<()> {
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
    pub(super) fn join(self, socket: &Socket, group: IpAddr) -> io::Result<()> {
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

/// What it means that multicast cannot be sent or heard on the link.
pub(super) fn link_error(addresses: &Addresses, group: SocketAddr, error: io::Error) -> NetError {
    let no_link = matches!(Errno::from_raw(error.raw_os_error().unwrap_or(0)), Errno::ENODEV | Errno::EADDRNOTAVAIL);
    match &addresses.interface {
        Some(interface) if no_link => NetError::NoSuchInterface(interface.clone()),
        None if no_link => NetError::NoRoute(group, Vec::new()),
        Some(_) | None => NetError::System { attempt: "join group", address: group, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
