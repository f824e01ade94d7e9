//! Transport settings, chosen per link by where the other side is.
//!
//! | | same host | elsewhere |
//! |---|---|---|
//! | datagrams | 65,480 bytes from the start | 1,200 bytes, probed up to 6,500 |
//! | segmentation offload | off | on |
//! | congestion control | Cubic | by round-trip time |
//!
//! The windows start small, for a peer that has yet to show what it may do, and are raised by
//! [`Link::widen`](crate::Link::widen). Streams of one direction and datagrams are off.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use noq::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::congestion::{ByRoundTrip, SameHost};
use crate::tls::Protocol;

/// How often a quiet link says that it lives: three can be lost before the time-out.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Silence after which a link is dead, in milliseconds.
pub(crate) const IDLE_TIMEOUT_MS: u32 = 12_000;
/// The same where a dialler takes content from another host: either may have moved to another
/// network meanwhile, and a new link costs less than waiting for the old one.
const FETCH_KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The same silence in milliseconds, there.
const FETCH_IDLE_TIMEOUT_MS: u32 = 3_000;
/// Unread bytes on one stream. The library gives a connection up when more than about 2 MiB wait
/// in pieces.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Unread bytes on a link to a peer that is not known yet.
pub(crate) const NARROW_WINDOW_BYTES: u32 = 512 * 1024;
/// Unread bytes on a widened link: eight full streams, or 1.3 Gbit/s at 100 ms.
pub(crate) const WIDE_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Streams that a peer that is not known yet may have open.
pub(crate) const NARROW_STREAMS: u32 = 8;
/// Streams that a known peer may have open: a request each, and chunks in parallel.
pub(crate) const WIDE_STREAMS: u32 = 256;
/// Bytes written and not yet acknowledged.
pub(crate) const SEND_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// Largest datagram within a host: the loopback's 65,536 bytes less the headers of IPv6 and UDP,
/// rounded down.
const SAME_HOST_MTU_BYTES: u16 = 65_480;
/// First congestion window within a host: ten datagrams, as everywhere (RFC 6928). The library's
/// own default is less than one of these, and would send nothing at all.
const SAME_HOST_WINDOW_BYTES: u64 = 10 * SAME_HOST_MTU_BYTES as u64;
/// Datagram that every path takes (RFC 9000 section 14).
const FIRST_MTU_BYTES: u16 = 1_200;
/// Largest datagram with segmentation offload: a batch of ten must stay below 64 KiB.
const PROBED_MTU_BYTES: u16 = 6_500;
/// Largest datagram ever accepted.
pub(crate) const RECEIVED_MTU_BYTES: u16 = 65_527;

/// The settings for each kind of path, built once per endpoint.
#[derive(Clone)]
pub(crate) struct Transports {
    same_host: Arc<TransportConfig>,
    elsewhere: Arc<TransportConfig>,
    fetching: Arc<TransportConfig>,
}

impl Transports {
    pub(crate) fn new() -> Self {
        let first_window_bytes = SAME_HOST_WINDOW_BYTES;
        let mut same_host = common();
        same_host
            .initial_mtu(SAME_HOST_MTU_BYTES)
            .mtu_discovery_config(Some(probing_up_to(SAME_HOST_MTU_BYTES)))
            .enable_segmentation_offload(false)
            .congestion_controller_factory(Arc::new(SameHost { first_window_bytes }));
        let (mut elsewhere, mut fetching) = (common(), common());
        for config in [&mut elsewhere, &mut fetching] {
            config
                .initial_mtu(FIRST_MTU_BYTES)
                .mtu_discovery_config(Some(probing_up_to(PROBED_MTU_BYTES)))
                .enable_segmentation_offload(true)
                .congestion_controller_factory(Arc::new(ByRoundTrip));
        }
        let idle = IdleTimeout::from(VarInt::from_u32(FETCH_IDLE_TIMEOUT_MS));
        fetching
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(FETCH_KEEP_ALIVE));
        Self {
            same_host: Arc::new(same_host),
            elsewhere: Arc::new(elsewhere),
            fetching: Arc::new(fetching),
        }
    }

    pub(crate) fn for_path(&self, is_same_host: bool) -> Arc<TransportConfig> {
        Arc::clone(if is_same_host {
            &self.same_host
        } else {
            &self.elsewhere
        })
    }
}

impl Transports {
    /// Those of a dial.
    pub(crate) fn for_dial(&self, is_same_host: bool, protocol: Protocol) -> Arc<TransportConfig> {
        match (is_same_host, protocol) {
            (false, Protocol::Transfer) => Arc::clone(&self.fetching),
            _ => self.for_path(is_same_host),
        }
    }
}

/// Whether datagrams to this address never leave the host: it is a loopback address, or the
/// system would send to it from that same address. Sends nothing.
pub(crate) fn is_same_host(remote: SocketAddr) -> bool {
    let ip = remote.ip().to_canonical();
    if ip.is_loopback() {
        return true;
    }
    let any: IpAddr = match ip {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))
        .and_then(|socket| {
            socket.connect((ip, remote.port()))?;
            socket.local_addr()
        })
        .is_ok_and(|local| local.ip() == ip)
}

fn common() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(NARROW_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(NARROW_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        // Nodes of the roaming lane ask where they are seen.
        .send_observed_address_reports(true)
        .datagram_receive_buffer_size(None);
    config
}

fn probing_up_to(mtu_bytes: u16) -> MtuDiscoveryConfig {
    let mut config = MtuDiscoveryConfig::default();
    config.upper_bound(mtu_bytes);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_peer_is_noticed_before_three_keep_alives_are_late() {
        let keep_alive_ms = KEEP_ALIVE.as_millis() as u32;
        assert!(IDLE_TIMEOUT_MS <= 15_000 && 3 * keep_alive_ms <= IDLE_TIMEOUT_MS);
        let text = format!("{:?}", Transports::new().for_path(false));
        assert!(text.contains("max_idle_timeout: Some(12000)"), "{text}");
        assert!(text.contains("keep_alive_interval: Some(4s)"), "{text}");
        let keep_alive_ms = FETCH_KEEP_ALIVE.as_millis() as u32;
        assert!(FETCH_IDLE_TIMEOUT_MS <= 5_000 && 3 * keep_alive_ms <= FETCH_IDLE_TIMEOUT_MS);
    }

    #[test]
    fn offloaded_batches_fit_in_one_send() {
        assert!(u32::from(PROBED_MTU_BYTES) * 10 < 65_536);
    }

    #[test]
    fn loopback_in_every_spelling_is_the_same_host() {
        for address in [
            "127.0.0.1:1",
            "127.8.8.8:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_same_host(address.parse().unwrap()), "{address}");
        }
        assert!(!is_same_host("192.0.2.1:9".parse().unwrap()));
    }
}
