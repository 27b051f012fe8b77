//! What the system tells of this machine's network interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::SockaddrStorage;

/// The index of the first interface with this address.
pub(crate) fn index_with(address: Ipv6Addr) -> Option<u32> {
    getifaddrs().ok()?.find_map(|entry| {
        let has_it = entry.address.as_ref()?.as_sockaddr_in6()?.ip() == address;
        if has_it { if_nametoindex(entry.interface_name.as_str()).ok() } else { None }
    })
}

/// The first IPv4 address of the interface.
pub(crate) fn address_v4_of(name: &str) -> Option<Ipv4Addr> {
    getifaddrs()
        .ok()?
        .filter(|entry| entry.interface_name == name)
        .find_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()))
}

/// The interfaces that could carry multicast to other machines, in the system's order: up, not loopback, with an IPv4 address, the
/// first of which stands beside the name.
pub(crate) fn multicast_v4() -> Vec<(String, Ipv4Addr)> {
    let mut found: Vec<(String, Ipv4Addr)> = Vec::new();
    for entry in getifaddrs().into_iter().flatten() {
        let carries = entry.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST)
            && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let address = entry.address.as_ref().and_then(|address| Some(address.as_sockaddr_in()?.ip()));
        if let Some(address) =
            address.filter(|_| carries && found.iter().all(|(name, _)| *name != entry.interface_name))
        {
            found.push((entry.interface_name, address));
        }
    }
    found
}

/// The addresses of this machine, but for loopback.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    let address = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
    };
    let all = getifaddrs().into_iter().flatten().filter_map(|entry| address(entry.address?));
    all.filter(|address| !address.is_loopback()).collect()
}

/// True when a route leads to the address. Asks by connecting a socket, which sends nothing.
pub(crate) fn is_routed(address: SocketAddr) -> bool {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    UdpSocket::bind(any).and_then(|socket| socket.connect(address)).is_ok()
}
