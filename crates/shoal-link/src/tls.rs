//! TLS 1.3 settings of both roles: one crypto provider, protocols by ALPN, no resumption.
//!
//! The name that a dialer asks for picks what the answerer shows: the node certificate for
//! [`NODE_SERVER_NAME`], otherwise the server's certificate if it has one. Nothing is resumed and
//! nothing is sent early, so every link runs the full check of both certificates. Secrets of a
//! link are never logged.

use std::sync::Arc;

use noq::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CipherSuite, client::Resumption};

use crate::directory::is_relay_name;
use crate::identity::NODE_SERVER_NAME;
use crate::trust::{AnswererVerifier, DialerVerifier, Trust};

/// What a link is for; its ALPN carries the major version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Presence, announces, requests: `shoal/control/1`.
    Control,
    /// Chunks between nodes: `shoal/transfer/1`.
    Transfer,
}

/// What a node of the roaming lane asks a server for, to hear at which address it is seen: a
/// connection on which nothing is said.
pub(crate) const ADDRESS_DISCOVERY_ALPN: &[u8] = b"/iroh-qad/0";

impl Protocol {
    pub(crate) const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Control => b"shoal/control/1",
            Self::Transfer => b"shoal/transfer/1",
        }
    }

    pub(crate) fn from_alpn(alpn: &[u8]) -> Option<Self> {
        [Self::Control, Self::Transfer]
            .into_iter()
            .find(|protocol| protocol.alpn() == alpn)
    }
}

/// The handshake settings of an endpoint in its answering role.
pub(crate) fn answering(
    node: Arc<CertifiedKey>,
    server: Option<Arc<CertifiedKey>>,
    protocols: &[Protocol],
) -> Result<QuicServerConfig, String> {
    // Nodes ask those whom they find by an address, which are servers.
    let tells_addresses = protocols.contains(&Protocol::Control);
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(Arc::new(DialerVerifier::new(tells_addresses)))
        .with_cert_resolver(Arc::new(ByName { node, server }));
    config.alpn_protocols = protocols.iter().map(|p| p.alpn().to_vec()).collect();
    if tells_addresses {
        config.alpn_protocols.push(ADDRESS_DISCOVERY_ALPN.to_vec());
    }
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(|error| error.to_string())
}

/// The handshake settings of what is answered over TCP.
pub(crate) fn answering_tcp(
    node: Arc<CertifiedKey>,
    server: Option<Arc<CertifiedKey>>,
) -> Result<rustls::ServerConfig, String> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName { node, server }));
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// The handshake settings of one dial.
pub(crate) fn dialing(
    node: Arc<CertifiedKey>,
    trust: &Trust,
    protocol: Protocol,
) -> Result<QuicClientConfig, String> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnswererVerifier::new(trust)))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(node)));
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    QuicClientConfig::try_from(config).map_err(|error| error.to_string())
}

/// The ring provider with AES-128 first: where the processor has AES instructions it costs
/// about a quarter less than AES-256.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

#[derive(Debug)]
struct ByName {
    node: Arc<CertifiedKey>,
    server: Option<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asks_for_node = |name: &str| name == NODE_SERVER_NAME || is_relay_name(name);
        if hello.server_name().is_some_and(asks_for_node) {
            return Some(Arc::clone(&self.node));
        }
        Some(Arc::clone(self.server.as_ref().unwrap_or(&self.node)))
    }
}
