//! Opens and binds UDP sockets that never block.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::error::{NetError, system};

/// What waits in the kernel while the loop does something else, in bytes: it takes 768 for a short datagram, and doubles what is asked for, so that this
/// is room for the answers of 10,900 slaves at once. With the 212,992 that it gives by itself a loop that did not run for 3 ms loses
/// datagrams in a flood of 100,000 a second. An arrival is stamped by the kernel, so that waiting costs no accuracy, and what does not wait takes no
/// memory. The kernel gives less where `net.core.rmem_max` is less, and says nothing.
pub const RECEIVE_BUFFER: usize = 4 << 20;

/// A UDP socket of the address's family that does not block.
pub(super) fn open_socket(address: SocketAddr) -> Result<Socket, NetError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        // What is lost for want of room is counted where the kernel can tell.
        let _ = setsockopt(&socket, sockopt::RxqOvfl, &1);
        if address.is_ipv6() {
            // Else it would take the IPv4 port as well, and peers would appear under mapped addresses.
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    };
    open().map_err(system("open a socket for", address))
}

/// Has ICMP errors reported, so that a peer that is not there can be counted. A system that cannot is good enough.
pub(super) fn report_unreachable(socket: &Socket, address: SocketAddr) {
    let _ = match address {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true),
    };
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what a system may answer is an open list")]
pub(super) fn bind_socket(
    socket: &Socket,
    address: SocketAddr,
    in_use: fn(SocketAddr) -> NetError,
) -> Result<(), NetError> {
    socket.bind(&address.into()).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => in_use(address),
        io::ErrorKind::AddrNotAvailable => NetError::NotOurAddress(address),
        io::ErrorKind::PermissionDenied => NetError::NoPermission(address),
        _ => NetError::System { attempt: "bind to", address, error },
    })
}

pub(super) fn local_address(socket: &Socket, bind: SocketAddr) -> Result<SocketAddr, NetError> {
    let address = socket.local_addr().map_err(system("read the address of the socket bound to", bind))?;
    Ok(address.as_socket().unwrap_or(bind))
}
