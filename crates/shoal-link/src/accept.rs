//! Incoming handshakes: many at once, each within a deadline, never more than a fixed number.
//!
//! One task per endpoint takes what comes. While few handshakes are pending, a dialer gets in
//! within one round trip; when many are, its address must first be proven (QUIC Retry, RFC 9000
//! section 8.1), so that half-open handshakes from forged addresses cost nothing; at the cap it
//! is refused. Only complete handshakes come out.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use noq::VarInt;
use shoal_wire::Refusal;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::directory::Directory;
use crate::endpoint::{EndpointContext, Servers};
use crate::link::Link;
use crate::roaming;
use crate::socket::canonical;
use crate::tls::ADDRESS_DISCOVERY_ALPN;
use crate::transport::is_same_host;

/// Pending handshakes from which a dialer must prove its address first: an honest burst stays
/// below it.
const PENDING_BEFORE_RETRY: usize = 64;
/// Most handshakes pending at once; each holds some tens of kilobytes.
pub(crate) const PENDING_MAX: usize = 1024;
/// What one handshake may send before it is looked at, in bytes: a few datagrams.
pub(crate) const INCOMING_BYTES: u64 = 16 * 1024;
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes of the roaming lane pending at once.
const ROAMING_PENDING_MAX: usize = 128;
/// Connections at once on which nodes only hear their address.
const ASKING_MAX: usize = 1024;
/// How long a node may hold a connection on which it only hears its address.
const ADDRESS_LIMIT: Duration = Duration::from_secs(60);
/// Complete links that nobody has accepted yet; past it, handshakes wait and count as pending.
const READY_LINKS: usize = 64;

/// What the accepting task works with.
pub(crate) struct Acceptor {
    pub(crate) quic: noq::Endpoint,
    pub(crate) servers: Servers,
    pub(crate) context: Arc<EndpointContext>,
    pub(crate) closing: CancellationToken,
}

/// What to do with an incoming handshake.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    ProveAddress,
    Refuse,
}

fn verdict(pending: usize, is_address_proven: bool) -> Verdict {
    match pending {
        PENDING_MAX.. => Verdict::Refuse,
        PENDING_BEFORE_RETRY.. if !is_address_proven => Verdict::ProveAddress,
        _ => Verdict::Accept,
    }
}

/// Starts the accepting task, which ends when the endpoint closes or its last clone is dropped.
pub(crate) fn start(acceptor: Acceptor, links: mpsc::Sender<Link>) {
    tokio::spawn(async move {
        let closing = acceptor.closing.clone();
        closing.run_until_cancelled(acceptor.run(links)).await;
    });
}

/// Where complete links come out.
pub(crate) fn ready() -> (mpsc::Sender<Link>, mpsc::Receiver<Link>) {
    mpsc::channel(READY_LINKS)
}

impl Acceptor {
    async fn run(self, links: mpsc::Sender<Link>) {
        // Dropped with this future, and the pending handshakes with it.
        let mut pending = JoinSet::new();
        let mut asking = JoinSet::new();
        loop {
            tokio::select! {
                Some(completed) = pending.join_next() => {
                    if let Ok(Some(connection)) = completed && asking.len() < ASKING_MAX {
                        asking.spawn(tell_its_address(connection));
                    }
                }
                Some(_) = asking.join_next() => {}
                incoming = self.quic.accept() => {
                    let Some(incoming) = incoming else { return };
                    self.admit(incoming, &mut pending, &links);
                }
            }
        }
    }

    fn admit(
        &self,
        incoming: noq::Incoming,
        pending: &mut JoinSet<Option<noq::Connection>>,
        links: &mpsc::Sender<Link>,
    ) {
        let remote = canonical(incoming.remote_address());
        match verdict(pending.len(), incoming.remote_address_validated()) {
            Verdict::Refuse => incoming.refuse(),
            Verdict::ProveAddress => {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().refuse();
                }
            }
            Verdict::Accept => {
                let is_local = match incoming.local_ip() {
                    Some(ip) => ip.to_canonical() == remote.ip() || remote.ip().is_loopback(),
                    None => is_same_host(remote),
                };
                let config = if is_local {
                    &self.servers.same_host
                } else {
                    &self.servers.elsewhere
                };
                match incoming.accept_with(Arc::clone(config)) {
                    Ok(connecting) => {
                        let context = Arc::clone(&self.context);
                        pending.spawn(complete(connecting, remote, context, links.clone()));
                    }
                    Err(error) => tracing::debug!(%remote, %error, "handshake refused"),
                }
            }
        }
    }
}

/// Completes a handshake; gives back a connection that only asks for its address.
async fn complete(
    connecting: noq::Connecting,
    remote: SocketAddr,
    context: Arc<EndpointContext>,
    links: mpsc::Sender<Link>,
) -> Option<noq::Connection> {
    match tokio::time::timeout(HANDSHAKE_LIMIT, connecting).await {
        Ok(Ok(connection)) if asks_for_its_address(&connection) => return Some(connection),
        Ok(Ok(connection)) => {
            if let Some(link) = Link::direct(connection, remote, context) {
                // Closed endpoints take no more links; dropping it closes it.
                let _ = links.send(link).await;
            }
        }
        Ok(Err(error)) => tracing::debug!(%remote, %error, "handshake failed"),
        Err(_) => tracing::debug!(%remote, "handshake not finished in time"),
    }
    None
}

/// Tells a node at which address it is seen, which the library does by itself; its end closes the
/// connection, or silence does.
async fn tell_its_address(connection: noq::Connection) {
    let _ = tokio::time::timeout(ADDRESS_LIMIT, connection.closed()).await;
    connection.close(VarInt::from_u32(Refusal::Done.code()), b"");
}

fn asks_for_its_address(connection: &noq::Connection) -> bool {
    let data = connection
        .handshake_data()
        .and_then(|data| data.downcast::<noq::crypto::rustls::HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(ADDRESS_DISCOVERY_ALPN))
}

/// Accepts links of the roaming lane until the endpoint closes. Whoever comes that way has been
/// admitted by a relay, or was punched through to.
pub(crate) async fn roam(
    (endpoint, relays): (iroh::Endpoint, Directory),
    context: Arc<EndpointContext>,
    links: mpsc::Sender<Link>,
) {
    let mut pending = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = pending.join_next() => {}
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                if pending.len() >= ROAMING_PENDING_MAX {
                    incoming.refuse();
                    continue;
                }
                let (context, links) = (Arc::clone(&context), links.clone());
                pending.spawn(complete_roaming((incoming, relays.clone()), context, links));
            }
        }
    }
}

async fn complete_roaming(
    (incoming, relays): (iroh::endpoint::Incoming, Directory),
    context: Arc<EndpointContext>,
    links: mpsc::Sender<Link>,
) {
    let Some(remote) = roaming::origin(incoming.remote_addr(), &relays) else {
        return incoming.refuse();
    };
    match tokio::time::timeout(HANDSHAKE_LIMIT, incoming.into_future()).await {
        Ok(Ok(connection)) => {
            if let Some(link) = Link::roaming((connection, relays), remote, context) {
                // Closed endpoints take no more links; dropping it closes it.
                let _ = links.send(link).await;
            }
        }
        Ok(Err(error)) => tracing::debug!(%remote, %error, "roaming handshake failed"),
        Err(_) => tracing::debug!(%remote, "roaming handshake not finished in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_must_prove_its_address_and_a_flood_is_refused() {
        assert_eq!(verdict(0, false), Verdict::Accept);
        assert_eq!(verdict(PENDING_BEFORE_RETRY - 1, false), Verdict::Accept);
        assert_eq!(verdict(PENDING_BEFORE_RETRY, false), Verdict::ProveAddress);
        assert_eq!(verdict(PENDING_BEFORE_RETRY, true), Verdict::Accept);
        assert_eq!(verdict(PENDING_MAX, true), Verdict::Refuse);
    }
}
