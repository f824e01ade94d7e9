//! Addresses that somebody names: which of them are dialled, and which belong together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address as somebody may name it: never one that cannot be dialled.
pub fn can_be_dialled(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

/// Whether an address means something else on every host or link: it leads to loopback or is
/// link-local.
pub fn is_near_only(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// Whether an address leads to the same place from everywhere: it is no private one, and none behind
/// a provider's NAT (RFC 1918, RFC 6598, RFC 4193).
pub fn is_public(ip: IpAddr) -> bool {
    let is_private = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.to_bits() >> 22 == 0x6440_0000 >> 22,
        IpAddr::V6(ip) => ip.is_unique_local(),
    };
    !is_private && !is_near_only(ip)
}

/// The first address of the network that an address counts with; `None` on loopback.
pub fn network_of(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V4(address) => {
            let network = address.to_bits() & 0xffff_ff00;
            Some(Ipv4Addr::from_bits(network).into())
        }
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << 72);
            Some(Ipv6Addr::from_bits(network).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_belongs_to_no_network_and_ipv6_counts_by_site() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("::1"), None);
        assert_eq!(network("192.0.2.7"), network("::ffff:192.0.2.9"));
        assert_eq!(network("2001:db8:0:100::1"), network("2001:db8:0:1ff:2::9"));
        assert_ne!(network("2001:db8:0:100::1"), network("2001:db8:0:200::1"));
    }

    #[test]
    fn what_leads_nowhere_or_to_everybody_is_not_dialled() {
        for address in [
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "192.0.2.1:0",
        ] {
            assert!(!can_be_dialled(&address.parse().unwrap()), "{address}");
        }
        for (ip, is_near) in [
            ("127.0.0.1", true),
            ("::ffff:169.254.1.1", true),
            ("fe80::1", true),
            ("10.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_near_only(ip.parse().unwrap()), is_near, "{ip}");
        }
        for ip in [
            "10.1.2.3",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.254",
            "fd00::1",
            "127.0.0.1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["192.0.2.1", "100.128.0.1", "100.63.0.1", "2001:db8::1"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
