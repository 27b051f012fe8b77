//! Where a node listens and which group it hears, as people say it.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The port of nodes and groups unless they are told otherwise; PROTOCOL.md, section 7.
pub const DEFAULT_PORT: u16 = 5_525;

/// The IPv4 group, organisation-local; PROTOCOL.md, section 7.
pub(super) const DEFAULT_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 5, 25);

/// The IPv6 group, transient and site-local; PROTOCOL.md, section 7.
const DEFAULT_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x5525);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_and_default_groups_are_what_the_protocol_says() {
        assert_eq!("eth0".parse(), Ok(Interface::Name("eth0".to_owned())));
        assert_eq!("192.0.2.1".parse(), Ok(Interface::Address(Ipv4Addr::new(192, 0, 2, 1).into())));
        assert_eq!("::1".parse(), Ok(Interface::Address(Ipv6Addr::LOCALHOST.into())));
        assert_eq!(default_group("0.0.0.0:7".parse().unwrap()).to_string(), "239.255.5.25:5525");
        assert_eq!(default_group("[::]:7".parse().unwrap()).to_string(), "[ff15::5525]:5525");
    }
}
