//! Dialling: all addresses of a node side by side, the first complete handshake wins.
//!
//! Attempts start a little apart, in the order given (RFC 8305), so that a good first address
//! costs the others nothing; one that fails hands over at once. Of several failures the one that
//! a person most needs to know is reported: a wrong identity before a mere silence.

use std::collections::VecDeque;
use std::future::{Future, poll_fn, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use noq::crypto::rustls::QuicClientConfig;
use noq::{ConnectError, ConnectionError};
use rustls::OtherError;
use rustls_pki_types::ServerName;
use shoal_wire::limits::ADDRESSES_MAX;
use shoal_wire::{NodeId, Refusal};
use tokio::sync::Notify;

use crate::endpoint::{Endpoint, Inner};
use crate::homing;
use crate::identity::NODE_SERVER_NAME;
use crate::link::{Link, refusal_of, refusal_of_transport};
use crate::roaming::Relay;
use crate::tls::{self, Protocol};
use crate::transport::is_same_host;
use crate::trust::{Rejection, Trust};

/// Head start of each address over the next (RFC 8305 section 8 allows 100 ms to 2 s).
const HEAD_START: Duration = Duration::from_millis(100);

/// Head start of the direct lane over the roaming one: three of its round trips across a continent.
const DIRECT_HEAD_START: Duration = Duration::from_millis(300);

/// Whom to reach, and how.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Where the other node may be, the likeliest first; at most
    /// [`ADDRESSES_MAX`](shoal_wire::limits::ADDRESSES_MAX) are tried.
    pub addresses: Vec<SocketAddr>,
    /// The host name or IP address as typed, to be found in a server's certificate; without it
    /// the certificate must name the address itself.
    pub server_name: Option<String>,
    /// Whom to believe.
    pub trust: Trust,
    /// What the link is for.
    pub protocol: Protocol,
    /// Relays at which the other node may be, if it is trusted by its id and this endpoint roams.
    pub relays: Vec<Relay>,
    /// How long the whole dial may take.
    pub deadline: Duration,
}

/// Why a dial came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No address that this endpoint's socket can send to.
    #[error("no address to dial that this socket reaches, give an IPv4 address or bind [::]")]
    NoAddress,
    /// The server's certificate has expired.
    #[error("the server's certificate has expired, renew it there")]
    CertificateExpired,
    /// Another node answered, or something that is no node.
    #[error(
        "expected node {}, but {} answered, check the address and the pinned id",
        expected.short(), found.map_or("no node".to_owned(), |id| id.short())
    )]
    WrongIdentity {
        /// The node that was asked for.
        expected: NodeId,
        /// The node that answered, `None` when it showed no node certificate.
        found: Option<NodeId>,
    },
    /// The server's certificate is not trusted.
    #[error("{reason}")]
    Untrusted {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The other side does not speak this version of the protocol, or has this role switched off.
    #[error("the other side does not speak this protocol version, update the older one")]
    VersionUnsupported,
    /// The other side answered and refused.
    #[error("the other side refused: {0}")]
    Refused(Refusal),
    /// The handshake failed on the way.
    #[error("cannot reach the other side: {reason}")]
    Unreachable {
        /// What failed.
        reason: String,
    },
    /// Nothing answered within the deadline.
    #[error("no answer, check the address, that it runs, and that UDP gets through")]
    TimedOut,
    /// This endpoint is closed.
    #[error("the endpoint is closed")]
    Closed,
}

impl DialError {
    /// How much a person needs to know it, compared with what other addresses met.
    fn weight(&self) -> u8 {
        match self {
            Self::Closed => 8,
            Self::WrongIdentity { .. } => 7,
            Self::CertificateExpired => 6,
            Self::Untrusted { .. } => 5,
            Self::VersionUnsupported => 4,
            Self::Refused(_) => 3,
            Self::Unreachable { .. } => 2,
            Self::TimedOut => 1,
            Self::NoAddress => 0,
        }
    }

    fn from_connection(error: ConnectionError) -> Self {
        match error {
            ConnectionError::VersionMismatch => Self::VersionUnsupported,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::Closed,
            ConnectionError::ApplicationClosed(close) => {
                Self::Refused(refusal_of(close.error_code))
            }
            ConnectionError::ConnectionClosed(close) => {
                match refusal_of_transport(close.error_code) {
                    Some(Refusal::VersionUnsupported) => Self::VersionUnsupported,
                    Some(refusal) => Self::Refused(refusal),
                    None => Self::Unreachable {
                        reason: close.to_string(),
                    },
                }
            }
            ConnectionError::TransportError(error) => {
                let tls = error.crypto.as_ref();
                tls.and_then(|tls| tls.downcast_ref::<rustls::Error>())
                    .and_then(Self::from_tls)
                    .unwrap_or_else(|| Self::Unreachable {
                        reason: error.to_string(),
                    })
            }
            other => Self::Unreachable {
                reason: other.to_string(),
            },
        }
    }

    fn from_tls(error: &rustls::Error) -> Option<Self> {
        use rustls::CertificateError;
        match error {
            rustls::Error::NoApplicationProtocol => Some(Self::VersionUnsupported),
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(verdict))) => {
                match verdict.downcast_ref::<Rejection>()? {
                    Rejection::WrongIdentity { expected, found } => Some(Self::WrongIdentity {
                        expected: *expected,
                        found: *found,
                    }),
                    Rejection::Expired => Some(Self::CertificateExpired),
                    other => Some(Self::Untrusted {
                        reason: other.to_string(),
                    }),
                }
            }
            rustls::Error::InvalidCertificate(other) => Some(Self::Untrusted {
                reason: format!("the certificate's key did not sign the handshake: {other:?}"),
            }),
            _ => None,
        }
    }
}

impl Endpoint {
    /// Reaches another node on the first of its addresses that completes a handshake.
    ///
    /// # Errors
    /// See [`DialError`]; within `dial.deadline` either way.
    pub async fn dial(&self, dial: Dial) -> Result<Link, DialError> {
        let deadline = tokio::time::sleep(dial.deadline);
        tokio::pin!(deadline);
        let mut queue = VecDeque::from(self.inner.destinations(&dial.addresses));
        let roams = dial.clone();
        let attempts = Attempts::new(&self.inner, dial)?;
        let direct = queue.iter().copied().collect();
        let roaming = self.roaming_attempt(&roams, (&attempts, direct));
        let mut pending = Pending(roaming.into_iter().collect());
        let mut worst = DialError::NoAddress;
        loop {
            match queue.pop_front() {
                Some(address) => pending.0.push(Box::pin(attempts.run(address))),
                None if pending.0.is_empty() => return Err(worst),
                None => {}
            }
            let error = tokio::select! {
                outcome = pending.next() => match outcome {
                    Ok(link) => return Ok(link),
                    Err(error) => error,
                },
                () = tokio::time::sleep(HEAD_START), if !queue.is_empty() => continue,
                () = &mut deadline => {
                    return Err(if worst.weight() > 0 { worst } else { DialError::TimedOut });
                }
            };
            if error.weight() > worst.weight() {
                worst = error;
            }
        }
    }
}

impl Endpoint {
    /// The attempt of the roaming lane. It begins a little later than those of the direct one,
    /// which is the faster lane wherever it leads anywhere. A server has an address that leads to it
    /// wherever UDP gets through, and its restart must not move all its peers to the relay: so
    /// towards one it waits until the relay is reached, and has the direct lane tried once more,
    /// with the same head start. What was said before may be lost, or was said to nobody.
    fn roaming_attempt<'a>(
        &'a self,
        dial: &Dial,
        (attempts, direct): (&'a Attempts<'a>, Vec<SocketAddr>),
    ) -> Option<Attempt<'a>> {
        let (Trust::Node(node), Some(_)) = (&dial.trust, &self.inner.roaming) else {
            return None;
        };
        if dial.relays.is_empty() {
            return None;
        }
        let (node, protocol, relays) = (*node, dial.protocol, dial.relays.clone());
        Some(Box::pin(async move {
            if direct.is_empty() {
                return self.roam((node, &relays), protocol, ready(())).await;
            }
            tokio::time::sleep(DIRECT_HEAD_START).await;
            if protocol != Protocol::Control {
                return self.roam((node, &relays), protocol, ready(())).await;
            }
            let is_there = Notify::new();
            let relay_waits = async {
                homing::listens(&relays).await;
                is_there.notify_one();
                tokio::time::sleep(DIRECT_HEAD_START).await;
            };
            let once_more = async {
                is_there.notified().await;
                let attempts = direct.into_iter().map(|address| attempts.run(address));
                Pending(attempts.map(|one| Box::pin(one) as Attempt<'_>).collect())
                    .link()
                    .await
            };
            tokio::select! {
                link = once_more => Ok(link),
                link = self.roam((node, &relays), protocol, relay_waits) => link,
            }
        }))
    }

    async fn roam(
        &self,
        (node, relays): (NodeId, &[Relay]),
        protocol: Protocol,
        ready: impl Future<Output = ()>,
    ) -> Result<Link, DialError> {
        let roaming = self.inner.roaming.as_ref().ok_or(DialError::NoAddress)?;
        let connection = roaming.dial(node, relays, protocol, ready).await?;
        let mut addresses = relays.iter().flat_map(|relay| &relay.addresses);
        let remote = *addresses.next().ok_or(DialError::NoAddress)?;
        Link::roaming(
            (connection, roaming.relays().clone()),
            remote,
            Arc::clone(&self.inner.context),
        )
        .ok_or(DialError::VersionUnsupported)
    }
}

impl Inner {
    /// The distinct destinations in reach, in the order given.
    fn destinations(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut destinations = Vec::new();
        let reachable = addresses
            .iter()
            .filter(|address| address.port() != 0 && !address.ip().is_unspecified())
            .filter_map(|address| self.family.destination(*address));
        for destination in reachable {
            if destinations.len() < ADDRESSES_MAX && !destinations.contains(&destination) {
                destinations.push(destination);
            }
        }
        destinations
    }
}

/// What all attempts of one dial have in common.
struct Attempts<'a> {
    endpoint: &'a Inner,
    tls: Arc<QuicClientConfig>,
    protocol: Protocol,
    server_name: Option<String>,
}

impl<'a> Attempts<'a> {
    fn new(endpoint: &'a Inner, dial: Dial) -> Result<Self, DialError> {
        let certificate = Arc::clone(&endpoint.node_certificate);
        let tls = tls::dialing(certificate, &dial.trust, dial.protocol)
            .map_err(|reason| DialError::Unreachable { reason })?;
        let server_name = match dial.trust {
            Trust::Node(_) => Some(NODE_SERVER_NAME.to_owned()),
            _ => dial.server_name.map(checked_name).transpose()?,
        };
        Ok(Self {
            endpoint,
            tls: Arc::new(tls),
            protocol: dial.protocol,
            server_name,
        })
    }

    async fn run(&self, address: SocketAddr) -> Result<Link, DialError> {
        let crypto: Arc<dyn noq::crypto::ClientConfig> = Arc::<QuicClientConfig>::clone(&self.tls);
        let mut config = noq::ClientConfig::new(crypto);
        let is_local = is_same_host(address);
        let transports = &self.endpoint.transports;
        config.transport_config(transports.for_dial(is_local, self.protocol));
        let server_name = match &self.server_name {
            Some(name) => name.clone(),
            None => address.ip().to_canonical().to_string(),
        };
        let connecting = self
            .endpoint
            .quic
            .connect_with(config, address, &server_name)
            .map_err(|error| match error {
                ConnectError::EndpointStopping => DialError::Closed,
                other => DialError::Unreachable {
                    reason: other.to_string(),
                },
            })?;
        let connection = connecting.await.map_err(DialError::from_connection)?;
        Link::direct(connection, address, Arc::clone(&self.endpoint.context))
            .ok_or(DialError::VersionUnsupported)
    }
}

fn checked_name(typed: String) -> Result<String, DialError> {
    let name = typed.trim_start_matches('[').trim_end_matches(']');
    match ServerName::try_from(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err(DialError::Untrusted {
            reason: format!(
                "{} is no host name or IP address, check its spelling",
                shoal_wire::escape(name.as_bytes())
            ),
        }),
    }
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Link, DialError>> + Send + 'a>>;

/// The attempts under way, dropped with the dial.
struct Pending<'a>(Vec<Attempt<'a>>);

impl Pending<'_> {
    /// The first link that is made; waits for ever when none is.
    async fn link(&mut self) -> Link {
        loop {
            if let Ok(link) = self.next().await {
                return link;
            }
        }
    }

    /// The outcome of whichever attempt ends next; waits for ever when there is none.
    async fn next(&mut self) -> Result<Link, DialError> {
        poll_fn(|context| {
            for index in 0..self.0.len() {
                if let Poll::Ready(outcome) = self.0[index].as_mut().poll(context) {
                    drop(self.0.swap_remove(index));
                    return Poll::Ready(outcome);
                }
            }
            Poll::Pending
        })
        .await
    }
}
