//! Addresses: which of a peer's claims are told to others, and where this server is reached.
//!
//! A peer claims addresses and others dial them, so a claim must not send anybody to a third
//! party's door or to their own machine: what can never be a peer is dropped when it is claimed,
//! what is only right on the same host or link is told only there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use shoal_wire::address::{can_be_dialled, is_near_only};
use shoal_wire::limits::ADDRESSES_MAX;
use shoal_wire::message::Addresses;

/// Most ports of a peer that are tried at the address where the server sees it.
const OBSERVED_PORTS_MAX: usize = 4;

/// What is kept of a peer's claims: the address that the server sees comes first, with each port
/// that was claimed, then the claims themselves, at most [`ADDRESSES_MAX`] in all.
pub(crate) fn believable(claimed: &[SocketAddr], observed: SocketAddr) -> Vec<SocketAddr> {
    let observed_ip = observed.ip().to_canonical();
    let claimed: Vec<SocketAddr> = claimed
        .iter()
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
        .filter(can_be_dialled)
        .collect();
    let mut ports: Vec<u16> = Vec::new();
    for address in &claimed {
        if !ports.contains(&address.port()) && ports.len() < OBSERVED_PORTS_MAX {
            ports.push(address.port());
        }
    }
    let seen = ports.iter().map(|port| SocketAddr::new(observed_ip, *port));
    let mut kept: Vec<SocketAddr> = Vec::new();
    for address in seen.chain(claimed.iter().copied()) {
        let near = is_near_only(address.ip()) && !observed_ip.is_loopback();
        let own = address.ip() == observed_ip;
        if (own || !near) && !kept.contains(&address) && kept.len() < ADDRESSES_MAX {
            kept.push(address);
        }
    }
    kept
}

/// What of a peer's addresses is told to a node that the server sees at `asker`: addresses of the
/// same host or link only to one that the server sees on its own host.
pub(crate) fn told_to(asker: IpAddr, addresses: &[SocketAddr]) -> Addresses {
    let asker_is_here = asker.to_canonical().is_loopback();
    let told = addresses
        .iter()
        .filter(|address| asker_is_here || !is_near_only(address.ip()))
        .copied();
    Addresses::truncated(told.collect())
}

/// Where a server that listens at `local` can be dialled: there, or for an unspecified address at
/// those from which this machine speaks to others, or else on this machine only.
pub(crate) fn own_addresses(local: SocketAddr) -> Addresses {
    if !local.ip().is_unspecified() {
        return Addresses::truncated(vec![local]);
    }
    // Addresses for documentation (RFC 5737 and RFC 3849): connecting a UDP socket sends nothing
    // and tells which address the system would speak from.
    let far_v4 = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let far_v6 = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9));
    let mut ips = Vec::new();
    ips.extend(outgoing(Ipv4Addr::UNSPECIFIED.into(), far_v4));
    if local.is_ipv6() {
        ips.extend(outgoing(Ipv6Addr::UNSPECIFIED.into(), far_v6));
    }
    if ips.is_empty() {
        ips.push(Ipv4Addr::LOCALHOST.into());
    }
    let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, local.port()));
    Addresses::truncated(addresses.collect())
}

fn outgoing(from: IpAddr, towards: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect(towards).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_that_can_never_be_a_peer_are_dropped() {
        let claimed = list(&[
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "[ff02::1]:1",
            "255.255.255.255:1",
            "10.0.0.1:0",
        ]);
        assert!(believable(&claimed, address("198.51.100.7:4000")).is_empty());
    }

    #[test]
    fn a_distant_peer_may_not_name_the_dialers_own_host_or_link() {
        let claimed = list(&[
            "127.0.0.1:22",
            "[::1]:22",
            "[::ffff:127.0.0.1]:22",
            "169.254.169.254:80",
            "[fe80::1]:22",
            "10.0.0.5:7000",
        ]);
        let kept = believable(&claimed, address("198.51.100.7:4000"));
        assert!(kept.contains(&address("10.0.0.5:7000")));
        assert!(
            kept.iter()
                .all(|kept| kept.ip() == address("198.51.100.7:1").ip()
                    || *kept == address("10.0.0.5:7000")),
            "{kept:?}"
        );
    }

    #[test]
    fn the_address_that_the_server_sees_comes_first_with_the_claimed_ports() {
        let claimed = list(&["10.0.0.5:7000", "[2001:db8::5]:7000", "10.0.0.5:7001"]);
        let kept = believable(&claimed, address("[::ffff:198.51.100.7]:4000"));
        let expected = list(&[
            "198.51.100.7:7000",
            "198.51.100.7:7001",
            "10.0.0.5:7000",
            "[2001:db8::5]:7000",
            "10.0.0.5:7001",
        ]);
        assert_eq!(kept, expected);
    }

    #[test]
    fn no_more_addresses_are_kept_than_a_message_holds() {
        let claimed: Vec<SocketAddr> = (1..=40)
            .map(|port| address(&format!("10.0.0.5:{port}")))
            .collect();
        let kept = believable(&claimed, address("198.51.100.7:4000"));
        assert_eq!(kept.len(), ADDRESSES_MAX);
    }

    #[test]
    fn loopback_is_told_only_to_a_node_on_the_same_host() {
        let addresses = list(&["127.0.0.1:7000", "10.0.0.5:7000"]);
        let here = told_to(address("127.0.0.1:1").ip(), &addresses);
        assert_eq!(here.len(), 2);
        let far = told_to(address("198.51.100.7:1").ip(), &addresses);
        assert_eq!(far.into_vec(), list(&["10.0.0.5:7000"]));
    }

    #[test]
    fn a_server_names_an_address_that_can_be_dialled() {
        let fixed = own_addresses(address("10.1.2.3:8080"));
        assert_eq!(fixed.into_vec(), list(&["10.1.2.3:8080"]));
        for any in ["0.0.0.0:8080", "[::]:8080"] {
            let found = own_addresses(address(any));
            assert!(!found.is_empty());
            assert!(found.iter().all(|found| !found.ip().is_unspecified()));
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn list(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| address(text)).collect()
    }
}
