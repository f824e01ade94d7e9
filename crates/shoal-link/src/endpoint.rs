//! The endpoint: the process's one socket, in both roles.
//!
//! Owns the socket, the node's certificate, and the task that completes incoming handshakes. It
//! keeps no list of links: whoever dials or accepts one keeps it. Dropping the last clone stops
//! the accepting; [`Endpoint::close`] also says goodbye to every link.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use noq::crypto::rustls::QuicServerConfig;
use noq::{TokioRuntime, VarInt};
use noq_proto::RandomConnectionIdGenerator;
use ring::hmac;
use rustls::sign::CertifiedKey;
use shoal_wire::{NodeId, Refusal};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::accept::{self, Acceptor};
use crate::certificate::ServerCertificate;
use crate::identity::Identity;
use crate::link::Link;
use crate::networks::Networks;
use crate::roaming::{CLOSE_LIMIT, Relay, Roaming, RoamingConfig};
use crate::socket::{self, BindError, Family, canonical};
use crate::tls::{self, Protocol};
use crate::transport::{RECEIVED_MTU_BYTES, Transports};

/// Length of a connection id: nobody sees the same one twice.
const CONNECTION_ID_BYTES: usize = 8;
/// How long [`Endpoint::close`] waits for its goodbyes to leave.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// What an endpoint is made from.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// Where to bind; `[::]` takes IPv4 as well, port 0 takes any free one.
    pub bind: SocketAddr,
    /// The node's key.
    pub identity: Identity,
    /// What to show to dialers that do not pin a node id.
    pub certificate: Option<ServerCertificate>,
    /// Protocols to answer; with none, nobody can dial in.
    pub accept: Vec<Protocol>,
    /// Whether and how it roams; `None` for the direct lane alone.
    pub roaming: Option<RoamingConfig>,
}

/// A node's place on the network: dials and accepts links on one UDP port.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) inner: Arc<Inner>,
}

/// What an endpoint has in common with its links.
#[derive(Debug)]
pub(crate) struct EndpointContext {
    /// What it said when it closed.
    pub(crate) goodbye: OnceLock<Refusal>,
    /// Where the machine is.
    pub(crate) networks: Networks,
}

pub(crate) struct Inner {
    pub(crate) quic: noq::Endpoint,
    pub(crate) family: Family,
    pub(crate) transports: Transports,
    pub(crate) node_certificate: Arc<CertifiedKey>,
    pub(crate) context: Arc<EndpointContext>,
    identity: Identity,
    local_addr: SocketAddr,
    ready: Mutex<mpsc::Receiver<Link>>,
    links: mpsc::WeakSender<Link>,
    /// Keeps the ways in open while nobody roams yet.
    _links: Option<mpsc::Sender<Link>>,
    pub(crate) roaming: Option<Roaming>,
    roams: Once,
    closing: CancellationToken,
    _stops_accepting: DropGuard,
}

impl Endpoint {
    /// Binds the socket and starts to answer the protocols in `config.accept`.
    ///
    /// # Errors
    /// When the address cannot be had or the identity does not fit TLS; see [`BindError`].
    pub async fn bind(config: EndpointConfig) -> Result<Self, BindError> {
        let tls_failed = |reason| BindError::Tls { reason };
        let node_certificate = config.identity.certified_key().map_err(tls_failed)?;
        let answering = tls::answering(
            Arc::clone(&node_certificate),
            config.certificate.map(|own| own.certified),
            &config.accept,
        )
        .map_err(tls_failed)?;

        let (socket, family) = socket::bind(config.bind)?;
        let failed = |source| BindError::Socket {
            address: config.bind,
            source,
        };
        let address = socket.local_addr().map_err(failed)?;
        let quic_config = settings(config.identity.reset_key(address)).map_err(tls_failed)?;
        let transports = Transports::new();
        let servers = (!config.accept.is_empty()).then(|| servers(answering, &transports));
        let quic = noq::Endpoint::new(
            quic_config,
            servers
                .as_ref()
                .map(|servers| servers.elsewhere.as_ref().clone()),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(failed)?;

        let closing = CancellationToken::new();
        let stops_accepting = closing.clone().drop_guard();
        let context = Arc::new(EndpointContext {
            goodbye: OnceLock::new(),
            networks: Networks::follow(&quic, &closing).await,
        });
        let (links, ready) = accept::ready();
        let is_answering = servers.is_some();
        if let Some(servers) = servers {
            let acceptor = Acceptor {
                quic: quic.clone(),
                servers,
                context: Arc::clone(&context),
                closing: closing.clone(),
            };
            accept::start(acceptor, links.clone());
        }
        let identity = config.identity.clone();
        let roaming = config
            .roaming
            .map(|roaming| Roaming::new(identity, roaming, config.accept));
        Ok(Self {
            inner: Arc::new(Inner {
                local_addr: canonical(quic.local_addr().map_err(failed)?),
                quic,
                family,
                transports,
                node_certificate,
                context,
                identity: config.identity,
                ready: Mutex::new(ready),
                links: links.downgrade(),
                _links: is_answering.then_some(links),
                roaming,
                roams: Once::new(),
                closing,
                _stops_accepting: stops_accepting,
            }),
        })
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        self.inner.identity.node_id()
    }

    /// This node's key.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The next link that another node dialled, its handshake complete; `None` once the endpoint
    /// is closed, or at once when it answers no protocol. May be dropped and called again.
    pub async fn accept(&self) -> Option<Link> {
        let mut ready = self.inner.ready.lock().await;
        tokio::select! {
            biased;
            () = self.inner.closing.cancelled() => None,
            link = ready.recv() => link,
        }
    }

    /// From now on this node can be reached at a relay by whoever knows its id, and dials through
    /// it. Does nothing where the endpoint does not roam.
    ///
    /// # Errors
    /// Why the roaming lane cannot be opened.
    pub async fn join_relay(&self, relay: &Relay) -> Result<(), String> {
        let Some(roaming) = &self.inner.roaming else {
            return Ok(());
        };
        roaming.join(relay).await?;
        self.inner.answer_roaming();
        Ok(())
    }

    /// Waits until a relay has taken this node in; for ever where there is none.
    pub async fn is_homed(&self) {
        let roaming = self.inner.roaming.as_ref().and_then(Roaming::started);
        match roaming {
            Some(endpoint) => endpoint.online().await,
            None => std::future::pending().await,
        }
    }

    /// Closes every link with the reason and waits, at most a second, for the goodbyes to leave.
    /// The first call's reason counts.
    pub async fn close(&self, refusal: Refusal) {
        let said = *self.inner.context.goodbye.get_or_init(|| refusal);
        self.inner.closing.cancel();
        self.inner
            .quic
            .close(VarInt::from_u32(said.code()), said.text().as_bytes());
        // A peer that does not answer must not keep the process from ending.
        let draining = tokio::time::timeout(GOODBYE_LIMIT, self.inner.quic.wait_all_draining());
        let roaming = self.inner.roaming.as_ref().and_then(Roaming::started);
        let closing = async {
            if let Some(endpoint) = roaming {
                let _ = tokio::time::timeout(CLOSE_LIMIT, endpoint.close()).await;
            }
        };
        let _ = tokio::join!(draining, closing);
    }
}

impl Inner {
    /// Starts to take in links of the roaming lane, once, where this endpoint answers at all.
    fn answer_roaming(&self) {
        let Some(roaming) = &self.roaming else { return };
        let (Some(endpoint), Some(links)) = (roaming.started(), self.links.upgrade()) else {
            return;
        };
        let ways = (endpoint.clone(), roaming.relays().clone());
        self.roams.call_once(|| {
            let (closing, context) = (self.closing.clone(), Arc::clone(&self.context));
            tokio::spawn(async move {
                let answering = accept::roam(ways, context, links);
                closing.run_until_cancelled(answering).await;
            });
        });
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("node_id", &self.node_id())
            .field("local_addr", &self.inner.local_addr)
            .finish()
    }
}

/// Those of the socket, for all that is dialled and answered on it.
fn settings(reset_key: hmac::Key) -> Result<noq::EndpointConfig, String> {
    let mut settings = noq::EndpointConfig::new(Arc::new(reset_key));
    settings
        // Those of an earlier life are known by nothing but that they are no longer in use.
        .cid_generator(Arc::new(|| {
            Box::new(RandomConnectionIdGenerator::new(CONNECTION_ID_BYTES))
        }))
        .max_udp_payload_size(RECEIVED_MTU_BYTES)
        .map_err(|error| error.to_string())?;
    Ok(settings)
}

/// The answering settings for each kind of path; both take the same address validation tokens.
pub(crate) struct Servers {
    pub(crate) same_host: Arc<noq::ServerConfig>,
    pub(crate) elsewhere: Arc<noq::ServerConfig>,
}

fn servers(answering: QuicServerConfig, transports: &Transports) -> Servers {
    let mut elsewhere = noq::ServerConfig::with_crypto(Arc::new(answering));
    elsewhere
        .transport_config(transports.for_path(false))
        .max_incoming(accept::PENDING_MAX)
        .incoming_buffer_size(accept::INCOMING_BYTES)
        .incoming_buffer_size_total(accept::INCOMING_BYTES * accept::PENDING_MAX as u64);
    let mut same_host = elsewhere.clone();
    same_host.transport_config(transports.for_path(true));
    Servers {
        same_host: Arc::new(same_host),
        elsewhere: Arc::new(elsewhere),
    }
}
