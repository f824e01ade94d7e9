//! The relay: passes sealed datagrams between nodes that cannot reach each other.
//!
//! It is iroh's relay on a TCP connection that the caller accepted, over TLS with the node
//! certificate of the server. Who may use it is the caller's to say, each time, by the node's proven
//! id and the pass that it shows; without a word of the caller nobody may. It sees who speaks to
//! whom and how much, and cannot read it. What a node sends is bounded per second, what waits for a
//! node that does not read is bounded in number, and dropped beyond.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use iroh_relay::KeyCache;
use iroh_relay::http::RELAY_PROBE_PATH;
use iroh_relay::server::http_server::{BytesBody, Handlers, RelayService, TlsConfig};
use iroh_relay::server::{
    Access, AccessControl, ClientRateLimit, ClientRequest, ConnectionId, Metrics,
};
use shoal_wire::NodeId;
use tokio::net::TcpStream;

use crate::identity::Identity;
use crate::tls;

/// How long a connection may take from its first byte to its admission.
const ESTABLISH_LIMIT: Duration = Duration::from_secs(10);
/// Keys of nodes whose parsing is remembered.
const KEYS_CACHED: usize = 1024;
/// What one node may send per second, in bytes: half of what one core relays, so that one node
/// leaves room for others.
const NODE_BYTES_PER_SECOND: u32 = 128 * 1024 * 1024;
/// What it may send at once, in bytes.
const NODE_BURST_BYTES: u32 = 16 * 1024 * 1024;

/// Who may use a relay.
pub trait Admission: Send + Sync + 'static {
    /// Whether `node`, whose key is proven, may come in with this pass; `connection` is the number
    /// under which it goes.
    fn admits(&self, node: NodeId, pass: Option<&str>, connection: u64) -> bool;

    /// The connection of an admitted node has ended.
    fn left(&self, connection: u64);
}

/// How much a relay has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayFigures {
    /// Connections that were admitted, in all.
    pub accepted: u64,
    /// Connections that have ended.
    pub ended: u64,
    /// Bytes received from nodes, to be passed on.
    pub received_bytes: u64,
    /// Bytes passed on.
    pub sent_bytes: u64,
    /// Datagrams dropped: for nodes that are not there, or do not read.
    pub dropped: u64,
}

/// A relay. Cheap to clone.
#[derive(Clone)]
pub struct RelayServer {
    service: RelayService,
    tls: TlsConfig,
    metrics: Arc<Metrics>,
}

impl RelayServer {
    /// A relay that shows the node certificate of `identity`.
    ///
    /// # Errors
    /// When the identity does not fit TLS.
    pub fn new(identity: &Identity, admission: Arc<dyn Admission>) -> Result<Self, String> {
        let mut rate = ClientRateLimit::new(
            NonZeroU32::new(NODE_BYTES_PER_SECOND).ok_or("the rate is not zero")?,
        );
        rate.max_burst_bytes = NonZeroU32::new(NODE_BURST_BYTES);
        let metrics = Arc::new(Metrics::default());
        let mut handlers = Handlers::default();
        handlers.insert(
            (Method::GET, RELAY_PROBE_PATH),
            Box::new(|_request, response| {
                let empty: BytesBody = Box::new(Full::new(Bytes::new()));
                Ok(response.status(StatusCode::OK).body(empty)?)
            }),
        );
        let service = RelayService::new(
            handlers,
            HeaderMap::new(),
            Some(rate),
            KeyCache::new(KEYS_CACHED),
            Arc::new(Admitting(admission)),
            Arc::clone(&metrics),
        );
        let tls = TlsConfig::new(Arc::new(tls::relaying(identity.certified_key()?)?));
        Ok(Self {
            service,
            tls,
            metrics,
        })
    }

    /// Serves one connection to its end, or gives it up where it does not become one of the
    /// relay's in time.
    pub async fn serve(&self, connection: TcpStream) {
        let (service, tls) = (self.service.clone(), self.tls.clone());
        service
            .handle_connection(connection, Some(tls), ESTABLISH_LIMIT)
            .await;
    }

    /// Ends all connections.
    pub async fn shutdown(&self) {
        self.service.shutdown().await;
    }

    /// How much it has done.
    pub fn figures(&self) -> RelayFigures {
        let metrics = &self.metrics;
        RelayFigures {
            accepted: metrics.accepts.get(),
            ended: metrics.disconnects.get(),
            received_bytes: metrics.bytes_recv.get(),
            sent_bytes: metrics.bytes_sent.get(),
            dropped: metrics.send_packets_dropped.get(),
        }
    }
}

impl fmt::Debug for RelayServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayServer(..)")
    }
}

/// Asks the caller.
struct Admitting(Arc<dyn Admission>);

impl fmt::Debug for Admitting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admitting(..)")
    }
}

impl AccessControl for Admitting {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let node = NodeId::new(*request.endpoint_id().as_bytes());
        let pass = request.auth_token();
        let connection = number(request.connection_id());
        match self.0.admits(node, pass.as_deref(), connection) {
            true => Access::Allow,
            false => Access::Deny {
                reason: Some("a valid pass is needed".to_owned()),
            },
        }
    }

    fn on_disconnect(&self, _node: iroh::EndpointId, connection: ConnectionId) {
        self.0.left(number(connection));
    }
}

/// The number in a connection's id, which shows it and nothing else.
fn number(connection: ConnectionId) -> u64 {
    connection.to_string().parse().unwrap_or(u64::MAX)
}
