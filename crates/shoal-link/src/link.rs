//! A link: one live connection to one node, on which either side opens streams.
//!
//! Owns the connection's ending (who closed it, with which number) and what is known of its path.
//! It does not reconnect, and it does not speak: streams do. When the last handle of a link and
//! its streams is dropped, the other side sees it closed with [`Refusal::Done`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use noq::congestion::Controller;
use noq::{ConnectionError, PathId, PathStats, Side, TransportErrorCode, VarInt};
use rustls_pki_types::CertificateDer;
use shoal_wire::{NodeId, Refusal};

use crate::directory::Directory;
use crate::endpoint::EndpointContext;
use crate::identity::node_id_in;
use crate::socket::canonical;
use crate::stream::Stream;
use crate::tls::Protocol;
use crate::transport::{WIDE_STREAMS, WIDE_WINDOW_BYTES};
use crate::{congestion, roaming};

/// TLS alerts by which the other side turns a certificate down (RFC 8446 section 6).
const CERTIFICATE_ALERTS: [u8; 8] = [42, 43, 44, 45, 46, 48, 51, 116];
/// The TLS alert for "none of these protocols" (RFC 7301 section 3.2).
const NO_PROTOCOL_ALERT: u8 = 120;

/// Why a link is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The other side closed it, and says why.
    #[error("the other side closed the link: {0}")]
    ClosedByPeer(Refusal),
    /// This side closed it.
    #[error("the link was closed here: {0}")]
    ClosedHere(Refusal),
    /// Nothing was heard for the idle time-out.
    #[error("the other side has gone silent")]
    TimedOut,
    /// The other side does not know the link any more, as after a restart.
    #[error("the other side has restarted and forgot the link")]
    Reset,
    /// The connection broke in another way.
    #[error("the link broke: {0}")]
    Lost(String),
}

impl LinkError {
    /// The number with which either side closed the link.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::ClosedByPeer(refusal) | Self::ClosedHere(refusal) => Some(*refusal),
            Self::TimedOut | Self::Reset | Self::Lost(_) => None,
        }
    }
}

/// How the datagrams of a link travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathKind {
    /// Straight to the other side's address.
    Direct,
    /// Straight to it too, through the NATs between, by the roaming lane.
    Punched,
    /// By way of a relay, which cannot read them.
    Relayed,
}

/// What is known of a link's path at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LivePath {
    /// How the datagrams travel.
    pub kind: PathKind,
    /// Where they go, to the relay where they are relayed; IPv4 is always spelled as IPv4.
    pub remote: SocketAddr,
    /// Whether that is on a network of this machine, with no router in between.
    pub is_on_lan: bool,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// The smallest so far: the path's own share, without waiting in queues and for busy machines.
    pub smallest_rtt: Duration,
    /// Packets declared lost so far, probes for larger datagrams included.
    pub lost_packets: u64,
    /// Largest datagram that the path takes, in bytes.
    pub mtu_bytes: u16,
}

/// What this side said when it closed: the link by itself, or the whole endpoint.
#[derive(Debug)]
pub(crate) struct Goodbye {
    of_link: OnceLock<Refusal>,
    endpoint: Arc<EndpointContext>,
}

impl Goodbye {
    pub(crate) fn explain(&self, error: ConnectionError) -> LinkError {
        match error {
            ConnectionError::LocallyClosed => {
                let said = self.of_link.get().or_else(|| self.endpoint.goodbye.get());
                LinkError::ClosedHere(said.copied().unwrap_or(Refusal::Done))
            }
            ConnectionError::ApplicationClosed(close) => {
                LinkError::ClosedByPeer(refusal_of(close.error_code))
            }
            ConnectionError::ConnectionClosed(close) => {
                match refusal_of_transport(close.error_code) {
                    Some(refusal) => LinkError::ClosedByPeer(refusal),
                    None => LinkError::Lost(close.to_string()),
                }
            }
            ConnectionError::TimedOut => LinkError::TimedOut,
            ConnectionError::Reset => LinkError::Reset,
            other => LinkError::Lost(other.to_string()),
        }
    }
}

/// A live connection to another node.
#[derive(Clone)]
pub struct Link {
    carrier: Carrier,
    shared: Arc<Shared>,
}

/// What carries a link: both are connections of the same library, found in different ways.
#[derive(Clone)]
enum Carrier {
    Direct(noq::Connection),
    Roaming(iroh::endpoint::Connection, Directory),
}

/// Which lane numbered a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Direct,
    Roaming,
}

/// The same call on either lane.
macro_rules! on_either {
    ($carrier:expr, $connection:ident => $call:expr) => {
        match $carrier {
            Carrier::Direct($connection) => $call,
            Carrier::Roaming($connection, _) => $call,
        }
    };
}

struct Shared {
    remote_id: Option<NodeId>,
    protocol: Protocol,
    first_remote: SocketAddr,
    endpoint: Arc<EndpointContext>,
    goodbye: Arc<Goodbye>,
}

impl Shared {
    fn new(
        (remote_id, protocol): (Option<NodeId>, Protocol),
        remote: SocketAddr,
        endpoint: Arc<EndpointContext>,
    ) -> Self {
        let goodbye = Goodbye {
            of_link: OnceLock::new(),
            endpoint: Arc::clone(&endpoint),
        };
        Self {
            remote_id,
            protocol,
            first_remote: canonical(remote),
            endpoint,
            goodbye: Arc::new(goodbye),
        }
    }
}

impl Link {
    /// Wraps a connection of the direct lane whose handshake is over. `None` when it speaks no
    /// protocol of ours, or was dialled by nobody.
    pub(crate) fn direct(
        connection: noq::Connection,
        remote: SocketAddr,
        endpoint: Arc<EndpointContext>,
    ) -> Option<Self> {
        let protocol = connection
            .handshake_data()?
            .downcast::<noq::crypto::rustls::HandshakeData>()
            .ok()
            .and_then(|data| Protocol::from_alpn(data.protocol.as_deref()?))?;
        let remote_id = connection
            .peer_identity()
            .and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok())
            .and_then(|chain| node_id_in(chain.first()?));
        if connection.side() == Side::Server && remote_id.is_none() {
            return None;
        }
        let shared = Shared::new((remote_id, protocol), remote, endpoint);
        Some(Self {
            carrier: Carrier::Direct(connection),
            shared: Arc::new(shared),
        })
    }

    /// Wraps a connection of the roaming lane. `None` when it speaks no protocol of ours.
    pub(crate) fn roaming(
        (connection, relays): (iroh::endpoint::Connection, Directory),
        remote: SocketAddr,
        endpoint: Arc<EndpointContext>,
    ) -> Option<Self> {
        let protocol = Protocol::from_alpn(connection.alpn())?;
        let remote_id = NodeId::new(*connection.remote_id().as_bytes());
        let shared = Shared::new((Some(remote_id), protocol), remote, endpoint);
        Some(Self {
            carrier: Carrier::Roaming(connection, relays),
            shared: Arc::new(shared),
        })
    }

    /// Where the other side was when the handshake was complete: by that it has proven to receive
    /// there. By a relay, the relay's address.
    pub fn first_remote(&self) -> SocketAddr {
        self.shared.first_remote
    }

    /// The proven id of the other node, `None` when a server showed an X.509 certificate instead.
    pub fn remote_id(&self) -> Option<NodeId> {
        self.shared.remote_id
    }

    /// What the link is for.
    pub fn protocol(&self) -> Protocol {
        self.shared.protocol
    }

    /// Whether this side dialled.
    pub fn is_dialer(&self) -> bool {
        match &self.carrier {
            Carrier::Direct(connection) => connection.side() == Side::Client,
            Carrier::Roaming(connection, _) => roaming::is_dialer(connection),
        }
    }

    /// Opens a stream in both directions, waiting while the other side allows no more. The other
    /// side learns of it with the first bytes written.
    ///
    /// # Errors
    /// When the link is over.
    pub async fn open(&self) -> Result<Stream, LinkError> {
        match on_either!(&self.carrier, connection => connection.open_bi().await) {
            Ok(halves) => Ok(self.stream(halves)),
            Err(error) => Err(self.shared.goodbye.explain(error)),
        }
    }

    /// Waits for the next stream that the other side opens. May be dropped and called again.
    ///
    /// # Errors
    /// When the link is over.
    pub async fn accept(&self) -> Result<Stream, LinkError> {
        match on_either!(&self.carrier, connection => connection.accept_bi().await) {
            Ok(halves) => Ok(self.stream(halves)),
            Err(error) => Err(self.shared.goodbye.explain(error)),
        }
    }

    fn stream(&self, (send, recv): (noq::SendStream, noq::RecvStream)) -> Stream {
        Stream::new(self.clone(), (send, recv), &self.shared.goodbye)
    }

    /// Tells it from every other link of this process while it lives.
    pub(crate) fn number(&self) -> (Lane, usize) {
        match &self.carrier {
            Carrier::Direct(connection) => (Lane::Direct, connection.stable_id()),
            Carrier::Roaming(connection, _) => (Lane::Roaming, connection.stable_id()),
        }
    }

    /// Closes the link at once, with the reason; what is not acknowledged yet is lost.
    pub fn close(&self, refusal: Refusal) {
        if self.close_reason().is_none() {
            // The first goodbye is the one that was said.
            let _ = self.shared.goodbye.of_link.set(refusal);
        }
        let (code, text) = (VarInt::from_u32(refusal.code()), refusal.text().as_bytes());
        on_either!(&self.carrier, connection => connection.close(code, text));
    }

    /// Waits until the link is over, and says why.
    pub async fn closed(&self) -> LinkError {
        let error = on_either!(&self.carrier, connection => connection.closed().await);
        self.shared.goodbye.explain(error)
    }

    /// Why the link is over, `None` while it lives.
    pub fn close_reason(&self) -> Option<LinkError> {
        let error = on_either!(&self.carrier, connection => connection.close_reason())?;
        Some(self.shared.goodbye.explain(error))
    }

    /// What is known of the path now.
    pub fn path(&self) -> LivePath {
        match &self.carrier {
            Carrier::Direct(connection) => self.direct_path(connection),
            Carrier::Roaming(connection, relays) => self.roaming_path(connection, relays),
        }
    }

    fn direct_path(&self, connection: &noq::Connection) -> LivePath {
        let path = connection.path(PathId::ZERO);
        let remote = path.as_ref().and_then(|path| path.remote_address().ok());
        let remote = remote.unwrap_or(self.shared.first_remote);
        let stats = path.map(|path| path.stats()).unwrap_or_default();
        let controller = connection.congestion_state(PathId::ZERO);
        self.live_path((PathKind::Direct, remote), &stats, controller)
    }

    fn roaming_path(
        &self,
        connection: &iroh::endpoint::Connection,
        relays: &Directory,
    ) -> LivePath {
        let selected = roaming::selected_path(connection, relays);
        let (id, kind, remote) = match selected {
            Some((id, true, relay)) => (Some(id), PathKind::Relayed, relay),
            Some((id, false, address)) => (Some(id), PathKind::Punched, address),
            None => (None, PathKind::Relayed, self.shared.first_remote),
        };
        let paths = connection.paths();
        let stats = id.and_then(|id| paths.get(id)).map(|path| path.stats());
        let controller = id.and_then(|id| connection.congestion_state(id));
        self.live_path((kind, remote), &stats.unwrap_or_default(), controller)
    }

    fn live_path(
        &self,
        (kind, remote): (PathKind, SocketAddr),
        stats: &PathStats,
        controller: Option<Box<dyn Controller>>,
    ) -> LivePath {
        let remote = canonical(remote);
        let networks = &self.shared.endpoint.networks;
        LivePath {
            kind,
            remote,
            is_on_lan: kind != PathKind::Relayed && networks.contain(remote.ip()),
            rtt: stats.rtt,
            // The controller is told of each round trip one acknowledgement late.
            smallest_rtt: controller
                .and_then(congestion::smallest_rtt)
                .map_or(stats.rtt, |seen| seen.min(stats.rtt)),
            lost_packets: stats.lost_packets,
            mtu_bytes: stats.current_mtu,
        }
    }

    /// Raises the receive window and the number of streams from what a stranger gets to what a
    /// known peer gets. Call it once the other side is known and welcome.
    pub fn widen(&self) {
        let window = VarInt::from_u32(WIDE_WINDOW_BYTES);
        let streams = VarInt::from_u32(WIDE_STREAMS);
        on_either!(&self.carrier, connection => {
            connection.set_receive_window(window);
            connection.set_max_concurrent_bi_streams(streams);
        });
    }

    /// Key material that only the two ends of this link can compute (RFC 8446 section 7.5), the
    /// same at both. `None` when the exporter refuses, which a finished handshake rules out.
    pub fn export_key(&self, label: &[u8], context: &[u8]) -> Option<[u8; 32]> {
        let mut key = [0; 32];
        on_either!(&self.carrier, connection => {
            connection.export_keying_material(&mut key, label, context).ok()?;
        });
        Some(key)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("remote_id", &self.shared.remote_id)
            .field("protocol", &self.shared.protocol)
            .field("remote", &self.shared.first_remote)
            .field("is_dialer", &self.is_dialer())
            .finish()
    }
}

pub(crate) fn refusal_of(code: VarInt) -> Refusal {
    Refusal::from_code(code.into_inner())
}

/// What a close by the other side's transport or TLS layer means in our numbers.
pub(crate) fn refusal_of_transport(code: TransportErrorCode) -> Option<Refusal> {
    if code == TransportErrorCode::CONNECTION_REFUSED {
        return Some(Refusal::Flooded);
    }
    if code == TransportErrorCode::crypto(NO_PROTOCOL_ALERT) {
        return Some(Refusal::VersionUnsupported);
    }
    CERTIFICATE_ALERTS
        .into_iter()
        .any(|alert| code == TransportErrorCode::crypto(alert))
        .then_some(Refusal::WrongIdentity)
}
