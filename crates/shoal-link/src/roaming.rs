//! The roaming lane: links to nodes that no address of theirs reaches, through NATs and relays.
//!
//! Owns the process's iroh endpoint, which is made by the first need of it, with the node's own
//! key, no public relay, no address service and no name server: names of relays are its own. It is homed at the
//! relays it is told of, and finds and improves paths by itself: relayed at first, then punched.
//! What comes out of it are connections like those of the direct lane.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::address_lookup::memory::MemoryLookup;
use iroh::dns::DnsResolver;
use iroh::endpoint::{
    ConnectOptions, Connection, IncomingAddr, PathId, PortmapperConfig, QuicTransportConfig, Side,
    VarInt, presets,
};
use iroh::{EndpointAddr, EndpointId, RelayConfig, RelayMap, RelayMode, RelayUrl, SecretKey};
use iroh_relay::RelayQuicConfig;
use iroh_relay::tls::CaTlsConfig;
use shoal_wire::{NodeId, RelayPass};
use tokio::sync::OnceCell;

use crate::congestion::ByRoundTrip;
use crate::dial::DialError;
use crate::directory::Directory;
use crate::homing::{self, Homes};
use crate::identity::Identity;
use crate::tls::Protocol;
use crate::transport::{
    IDLE_TIMEOUT_MS, NARROW_STREAMS, NARROW_WINDOW_BYTES, SEND_WINDOW_BYTES, STREAM_WINDOW_BYTES,
};
use crate::trust::RelayVerifier;

/// Silence after which a roaming link is dead, in milliseconds: a change of network, with the
/// search for a new path, is shorter. One to a server is dead as soon as on the direct lane: it is
/// dialled again at once, and on the better lane.
const PATIENT_IDLE_TIMEOUT_MS: u32 = 30_000;

/// How often a quiet path of a roaming link says that it lives.
const PATH_KEEP_ALIVE: Duration = Duration::from_millis(1_250);
/// Silence after which a path is dead, and another one of the link is used.
const PATH_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Whether and how an endpoint roams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoamingConfig {
    /// Whether the router is asked for a port (UPnP, PCP, NAT-PMP).
    pub maps_ports: bool,
}

/// A relay, as a node uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The server it belongs to: its certificate must show this key.
    pub server: NodeId,
    /// Where it listens, over TCP: several addresses, of one port.
    pub addresses: Vec<SocketAddr>,
    /// The UDP port at the same addresses at which it tells nodes their addresses; `None` where it
    /// does not.
    pub discovery_port: Option<u16>,
    /// What admits this node.
    pub pass: RelayPass,
}

impl Relay {
    fn config(&self, url: RelayUrl) -> RelayConfig {
        let discovery = self.discovery_port.map(RelayQuicConfig::new);
        RelayConfig::new(url, discovery).with_auth_token(self.pass.as_str())
    }
}

/// The roaming lane of an endpoint, made when it is first needed.
pub(crate) struct Roaming {
    identity: Identity,
    config: RoamingConfig,
    protocols: Vec<Protocol>,
    /// Servers whose relays may be spoken to.
    relays: Directory,
    homes: Homes,
    endpoint: OnceCell<iroh::Endpoint>,
}

impl Roaming {
    pub(crate) fn new(identity: Identity, config: RoamingConfig, protocols: Vec<Protocol>) -> Self {
        Self {
            identity,
            config,
            protocols,
            relays: Directory::default(),
            homes: Homes::default(),
            endpoint: OnceCell::new(),
        }
    }

    /// Where relays are.
    pub(crate) fn relays(&self) -> &Directory {
        &self.relays
    }

    /// The endpoint, if it was needed yet.
    pub(crate) fn started(&self) -> Option<&iroh::Endpoint> {
        self.endpoint.get()
    }

    /// Knows a relay from now on, and is homed there.
    pub(crate) async fn join(&self, relay: &Relay) -> Result<RelayUrl, String> {
        let entered = self.relays.enter(relay.server, &relay.addresses);
        let url = entered.ok_or("the relay has no address")?;
        let endpoint = self.endpoint.get_or_try_init(|| self.start()).await?;
        let config = Arc::new(relay.config(url.clone()));
        endpoint.insert_relay(url.clone(), config).await;
        self.homes.enter(url.clone());
        Ok(url)
    }

    async fn join_all(&self, relays: &[Relay]) -> Result<Vec<RelayUrl>, DialError> {
        let mut urls = Vec::new();
        for relay in relays {
            let joined = self.join(relay).await;
            urls.push(joined.map_err(|reason| DialError::Unreachable { reason })?);
        }
        Ok(urls)
    }

    async fn start(&self) -> Result<iroh::Endpoint, String> {
        let relays = self.relays.clone();
        let verified = CaTlsConfig::custom_server_cert_verifier(Arc::new(move |_| {
            Ok(Arc::new(RelayVerifier::new(relays.clone())))
        }));
        let port_mapping = match self.config.maps_ports {
            true => PortmapperConfig::default(),
            false => PortmapperConfig::Disabled,
        };
        let alpns = self.protocols.iter().map(|one| one.alpn().to_vec());
        let bound = iroh::Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&self.identity.secret_bytes()))
            .alpns(alpns.collect())
            .relay_mode(RelayMode::Custom(RelayMap::empty()))
            .address_lookup(MemoryLookup::new())
            .ca_tls_config(verified)
            .dns_resolver(DnsResolver::custom(self.relays.clone()))
            .portmapper_config(port_mapping)
            .transport_config(transport(PATIENT_IDLE_TIMEOUT_MS))
            .bind()
            .await;
        let endpoint =
            bound.map_err(|error| format!("the roaming lane cannot be opened: {error:#}"))?;
        tokio::spawn(homing::watch(endpoint.clone(), self.homes.clone()));
        Ok(endpoint)
    }

    /// Reaches a node at one of the relays. They are joined at once, and it is dialled when `ready`
    /// has ended.
    pub(crate) async fn dial(
        &self,
        node: NodeId,
        relays: &[Relay],
        protocol: Protocol,
        ready: impl Future<Output = ()>,
    ) -> Result<Connection, DialError> {
        let unreachable = |reason: String| DialError::Unreachable { reason };
        let id = EndpointId::from_bytes(node.as_bytes())
            .map_err(|_| unreachable("the node id is no key".to_owned()))?;
        let urls = self.join_all(relays).await?;
        let endpoint = self.endpoint.get().ok_or(DialError::NoAddress)?;
        let address = urls.iter().cloned();
        let address = address.fold(EndpointAddr::new(id), EndpointAddr::with_relay_url);
        let idle_timeout_ms = match protocol {
            Protocol::Control => IDLE_TIMEOUT_MS,
            _ => PATIENT_IDLE_TIMEOUT_MS,
        };
        let options = ConnectOptions::new().with_transport_config(transport(idle_timeout_ms));
        let connecting = async {
            ready.await;
            let begun = endpoint.connect_with_opts(address, protocol.alpn(), options);
            let begun = begun.await.map_err(|error| format!("{error:#}"))?;
            begun.await.map_err(|error| format!("{error:#}"))
        };
        tokio::select! {
            connected = connecting => connected
                .map_err(|reason| unreachable(format!("through the relay: {reason}"))),
            reason = homing::refused(endpoint, &urls) => Err(not_let_in(&reason)),
        }
    }
}

fn not_let_in(reason: &str) -> DialError {
    DialError::Unreachable {
        reason: format!(
            "the relay does not let this node in: {reason}; ask for a new ticket or code"
        ),
    }
}

fn transport(idle_timeout_ms: u32) -> QuicTransportConfig {
    let idle = VarInt::from_u32(idle_timeout_ms).into();
    QuicTransportConfig::builder()
        .max_idle_timeout(Some(idle))
        .default_path_keep_alive_interval(PATH_KEEP_ALIVE)
        .default_path_max_idle_timeout(PATH_IDLE_TIMEOUT)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(NARROW_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(NARROW_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(ByRoundTrip))
        .build()
}

/// Where an incoming connection comes from: the relay's address where it is relayed.
pub(crate) fn origin(address: IncomingAddr, relays: &Directory) -> Option<SocketAddr> {
    match address {
        IncomingAddr::Ip(address) => Some(address),
        IncomingAddr::Relay { url, .. } => relays.address(&url),
        _ => None,
    }
}

/// The path that a connection uses now: its number, whether it is relayed, where it goes.
pub(crate) fn selected_path(
    connection: &Connection,
    relays: &Directory,
) -> Option<(PathId, bool, SocketAddr)> {
    let paths = connection.paths();
    let used = paths
        .iter()
        .find(iroh::endpoint::Path::is_selected)
        .or_else(|| paths.iter().next())?;
    let remote = match used.remote_addr() {
        iroh::TransportAddr::Ip(address) => *address,
        iroh::TransportAddr::Relay(url) => relays.address(url)?,
        _ => return None,
    };
    Some((used.id(), used.is_relay(), remote))
}

/// Whether this side dialled.
pub(crate) fn is_dialer(connection: &Connection) -> bool {
    connection.side() == Side::Client
}

/// How long a goodbye of the roaming lane may take.
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(1);
