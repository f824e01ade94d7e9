//! The relay: passes sealed datagrams between nodes that cannot reach each other.
//!
//! It speaks iroh's relay protocol on a request to upgrade that reached the caller's HTTP port. Who
//! may use it is the caller's to say, each time, by the node's proven id and the pass that it
//! shows; without a word of the caller nobody may. Every byte that a node sends is counted where
//! the caller says, who thereby ends it. The relay sees who speaks to whom and how much, and cannot
//! read it. What a node sends is bounded per second, what waits for a node that does not read is
//! bounded in number and size, and dropped beyond.

mod frames;
mod upgrade;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response};
use iroh_relay::KeyCache;
use iroh_relay::http::{CLIENT_AUTH_HEADER, ProtocolVersion};
use iroh_relay::protos::handshake;
use iroh_relay::server::client::Config;
use iroh_relay::server::clients::Clients;
use iroh_relay::server::streams::RelayedStream;
use iroh_relay::server::{
    Access, AccessControl, ClientRequest, ConnectionId, DynAccessControl, Metrics,
};
use shoal_wire::NodeId;

use self::frames::Frames;
use self::upgrade::Asked;

/// How long a node may take from its upgraded request to its admission.
const ADMISSION_LIMIT: Duration = Duration::from_secs(10);
/// Keys of nodes whose parsing is remembered.
const KEYS_CACHED: usize = 1024;
/// Batches of datagrams, of at most 64 KiB each, that wait for a node that reads slowly. With what
/// is on its way from and to the network, this is the memory of one connection.
const WAITING_MAX: usize = 64;
/// How long a node may take to read something of what waits for it.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// The paths on which a relay is asked for, of the HTTP port's.
pub const RELAY_PATHS: [&str; 2] = [
    iroh_relay::http::RELAY_PATH,
    iroh_relay::http::RELAY_PROBE_PATH,
];

/// A node that wants to use a relay; its key is proven.
#[derive(Debug, Clone, Copy)]
pub struct Visitor<'a> {
    /// Its id.
    pub node: NodeId,
    /// The pass that it shows.
    pub pass: Option<&'a str>,
    /// The number under which its connection goes.
    pub connection: u64,
}

/// Who may use a relay.
pub trait Admission: Send + Sync + 'static {
    /// Where what the visitor sends is counted; `None` where it may not come in.
    fn admits(&self, visitor: Visitor<'_>) -> Option<Arc<dyn Meter>>;

    /// The connection of an admitted node has ended.
    fn left(&self, connection: u64);
}

/// Counts what a node sends.
pub trait Meter: Send + Sync + 'static {
    /// Counts so many bytes; `false` where the node may send no more, and its connection ends.
    fn take(&self, bytes: u64) -> bool;
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
    admission: Arc<dyn Admission>,
    clients: Clients,
    keys: KeyCache,
    metrics: Arc<Metrics>,
}

impl RelayServer {
    /// A relay for those that `admission` lets in.
    pub fn new(admission: Arc<dyn Admission>) -> Self {
        Self {
            admission,
            clients: Clients::default(),
            keys: KeyCache::new(KEYS_CACHED),
            metrics: Arc::default(),
        }
    }

    /// Answers a request on one of the [`RELAY_PATHS`] that came over [`Https`](crate::Https). Where
    /// it becomes a connection of the relay, `place` is kept until that ends.
    pub fn answer<B>(&self, request: Request<B>, place: impl Send + 'static) -> Response<String> {
        let (answer, asked) = upgrade::answer(request);
        if let Some(asked) = asked {
            let relay = self.clone();
            tokio::spawn(async move {
                match tokio::time::timeout(ADMISSION_LIMIT, relay.admit(asked, place)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "not admitted to the relay"),
                    Err(_) => tracing::debug!("a node took too long to be admitted to the relay"),
                }
            });
        }
        answer
    }

    /// Takes a node in, and leaves its connection to the relay's own tasks.
    async fn admit(&self, mut asked: Asked, place: impl Send + 'static) -> Result<(), String> {
        let stream = asked.stream().await?;
        let mut frames = Frames::new(stream, Box::new(place));
        let shown = asked.head.headers.get(CLIENT_AUTH_HEADER).cloned();
        let proven = handshake::serverside(&mut frames, shown).await;
        let proven = proven.map_err(|error| error.to_string())?;
        let version: ProtocolVersion = asked.version;
        let request = ClientRequest::new(proven.client_key, version, asked.head);
        let asking = Arc::new(Asking {
            admission: Arc::clone(&self.admission),
            meter: OnceLock::new(),
        });
        let access: Arc<dyn DynAccessControl> = Arc::<Asking>::clone(&asking);
        let guard = proven.authorize_with(&request, &access, &mut frames).await;
        let guard = guard.map_err(|error| error.to_string())?;
        let meter = asking.meter.get().ok_or("admitted without a meter")?;
        frames.count_with(Arc::clone(meter));
        let stream = RelayedStream::new(frames, self.keys.clone());
        let mut config = Config::new(guard, stream, version);
        config.channel_capacity = WAITING_MAX;
        config.write_timeout = WRITE_LIMIT;
        self.clients.register(config, Arc::clone(&self.metrics));
        Ok(())
    }

    /// Ends all connections.
    pub async fn shutdown(&self) {
        self.clients.shutdown().await;
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

/// Asks the caller, for one connection.
struct Asking {
    admission: Arc<dyn Admission>,
    meter: OnceLock<Arc<dyn Meter>>,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asking(..)")
    }
}

impl AccessControl for Asking {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let pass = request.auth_token();
        let admitted = self.admission.admits(Visitor {
            node: NodeId::new(*request.endpoint_id().as_bytes()),
            pass: pass.as_deref(),
            connection: number(request.connection_id()),
        });
        match admitted {
            Some(meter) => {
                self.meter.get_or_init(|| meter);
                Access::Allow
            }
            None => Access::Deny {
                reason: Some("a valid pass is needed".to_owned()),
            },
        }
    }

    fn on_disconnect(&self, _node: iroh::EndpointId, connection: ConnectionId) {
        self.admission.left(number(connection));
    }
}

/// The number in a connection's id, which shows it and nothing else.
fn number(connection: ConnectionId) -> u64 {
    connection.to_string().parse().unwrap_or(u64::MAX)
}
