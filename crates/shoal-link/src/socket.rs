//! The one UDP socket of the process: bound with room for bursts, both address families on one
//! port where the system can, and addresses turned to and from what the socket understands.
//!
//! Invariant: no IPv4 address leaves this crate in its IPv6-mapped spelling.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// Send and receive buffers asked for, in bytes; the system may give less.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process has the port.
    #[error("UDP {address} is in use by another process, stop it or choose another port")]
    PortInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address belongs to no interface of this machine.
    #[error("{} is not an address of this machine, bind one that `ip address` lists, or 0.0.0.0", address.ip())]
    AddressNotHere {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system does not let this user have the port.
    #[error("not allowed to bind UDP {address}, use a port from 1024 up")]
    Denied {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Something else about the socket.
    #[error("cannot bind UDP {address}")]
    Socket {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The identity or the certificate cannot be used in a handshake.
    #[error("cannot set up TLS: {reason}")]
    Tls {
        /// What the TLS library said.
        reason: String,
    },
}

/// Which destinations a bound socket can send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    Both,
}

impl Family {
    /// The destination as the socket must be told it, `None` when out of its reach.
    pub(crate) fn destination(self, address: SocketAddr) -> Option<SocketAddr> {
        let canonical = canonical(address);
        match (self, canonical.ip()) {
            (Self::V4, IpAddr::V4(_)) | (Self::V6 | Self::Both, IpAddr::V6(_)) => Some(canonical),
            (Self::Both, IpAddr::V4(ip)) => {
                let mapped: Ipv6Addr = ip.to_ipv6_mapped();
                Some(SocketAddrV6::new(mapped, canonical.port(), 0, 0).into())
            }
            (Self::V4, IpAddr::V6(_)) | (Self::V6, IpAddr::V4(_)) => None,
        }
    }
}

/// Binds the socket.
pub(crate) fn bind(address: SocketAddr) -> Result<(UdpSocket, Family), BindError> {
    open(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::PortInUse { address },
        io::ErrorKind::AddrNotAvailable => BindError::AddressNotHere { address },
        io::ErrorKind::PermissionDenied => BindError::Denied { address },
        _ => BindError::Socket { address, source },
    })
}

fn open(address: SocketAddr) -> io::Result<(UdpSocket, Family)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    let mut family = Family::V4;
    if address.is_ipv6() {
        let is_any = address.ip().is_unspecified();
        socket.set_only_v6(!is_any)?;
        family = if is_any { Family::Both } else { Family::V6 };
    }
    for outcome in [
        socket.set_recv_buffer_size(BUFFER_BYTES),
        socket.set_send_buffer_size(BUFFER_BYTES),
    ] {
        if let Err(error) = outcome {
            tracing::debug!(%error, "the system keeps its own UDP buffer size");
        }
    }
    socket.bind(&address.into())?;
    Ok((socket.into(), family))
}

/// The address with an IPv6-mapped IPv4 address spelled as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_spelled_as_the_socket_needs_them() {
        let v4: SocketAddr = "192.0.2.1:7".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:7".parse().unwrap();
        assert_eq!(Family::V4.destination(mapped), Some(v4));
        assert_eq!(Family::V4.destination(v6), None);
        assert_eq!(Family::Both.destination(v4), Some(mapped));
        assert_eq!(Family::Both.destination(v6), Some(v6));
        assert_eq!(Family::V6.destination(v4), None);
        assert_eq!(canonical(mapped), v4);
    }
}
