//! Why a node cannot listen, and what to do about it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::addresses::{DEFAULT_GROUP_V4, DEFAULT_PORT, Interface};

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

/// What the system said to an attempt of ours, with its address.
pub(super) fn system(attempt: &'static str, address: SocketAddr) -> impl FnOnce(io::Error) -> NetError {
    move |error| NetError::System { attempt, address, error }
}
