//! From options and remembered settings to a session with a server.
//!
//! Decides which server, name and trust apply, opens this machine's endpoint, and turns each way
//! in which a connection can fail into one sentence that says what to do.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use shoal_link::{Endpoint, EndpointConfig, Protocol, RoamingConfig};
use shoal_node::relays::Relays;
use shoal_node::session::{Connect, Session};
use shoal_node::state::{ServerRef, Settings, StateDir, TrustChoice};
use shoal_node::throttle::LimitSettings;
use shoal_wire::{NodeName, ShortText};

use crate::args::JoinedArguments;
use crate::exit::{Code, Failure};
use crate::output::Output;

/// Program and version, as told to other nodes.
pub(crate) fn agent() -> ShortText {
    ShortText::new(concat!("shoal/", env!("CARGO_PKG_VERSION")))
}

/// The name to go by: asked for, remembered, or the host's.
pub(crate) fn node_name(asked: Option<NodeName>, settings: &Settings) -> NodeName {
    let host = || {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        host.trim().parse().ok()
    };
    let fallback = || NodeName::try_from("node".to_owned()).ok();
    asked
        .or_else(|| settings.name.clone())
        .or_else(host)
        .or_else(fallback)
        .expect("the last alternative is a valid name")
}

/// Set to keep this machine's router from being asked for a port.
const NO_PORT_MAPPING: &str = "SHOAL_NO_PORT_MAPPING";

/// The server that the options name, else the one that is remembered.
pub(crate) fn server_of(
    joined: &JoinedArguments,
    settings: &Settings,
) -> Result<ServerRef, Failure> {
    if let Some(ticket) = &joined.join {
        return Ok(ServerRef {
            addresses: ticket.addresses.iter().map(SocketAddr::to_string).collect(),
            trust: TrustChoice::Pinned(ticket.server),
            relay_pass: ticket.pass.as_ref().map(|pass| pass.as_str().to_owned()),
        });
    }
    if let Some(address) = &joined.server_addr {
        let trust = match (&joined.server_cert, joined.no_verify_tls) {
            (Some(file), _) => TrustChoice::CertificateFile(absolute(file)),
            (None, true) => TrustChoice::Nothing,
            (None, false) => remembered_trust(address, settings).unwrap_or(TrustChoice::System),
        };
        return Ok(ServerRef {
            addresses: vec![address.clone()],
            trust,
            relay_pass: None,
        });
    }
    settings.server.clone().ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "no server is known yet: run 'shoal peer --join TICKET' with the line that 'shoal \
             server' prints, or name one with --server-addr HOST:PORT",
        )
    })
}

/// How the same address was trusted before, so that `--server-addr` alone does not weaken a pin.
fn remembered_trust(address: &str, settings: &Settings) -> Option<TrustChoice> {
    let server = settings.server.as_ref()?;
    let same = server.addresses.iter().any(|known| known == address);
    (same && server.trust != TrustChoice::Nothing).then(|| server.trust.clone())
}

fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

/// Warns where the server's identity is not checked at all.
pub(crate) fn warn_if_unverified(server: &ServerRef, output: &Output) {
    if server.trust == TrustChoice::Nothing {
        output.warn(
            "TLS VERIFICATION IS OFF: anyone between this machine and the server can pretend to \
             be it. For anything but a test, join with 'shoal peer --join TICKET' instead",
        );
    }
}

/// What one-shot commands work with: this machine's endpoint and a session.
pub(crate) struct Joined {
    pub(crate) endpoint: Endpoint,
    pub(crate) session: Session,
    /// What this machine's settings say of rate limits.
    pub(crate) limits: LimitSettings,
    /// Where this machine's cache of hashes is, or would be.
    pub(crate) index_path: PathBuf,
}

impl Joined {
    /// Connects for one command: nothing is announced. A machine's first ticket is remembered.
    pub(crate) async fn connect(
        joined: &JoinedArguments,
        output: &Output,
    ) -> Result<Self, Failure> {
        let state = StateDir::open(joined.state_dir.as_deref(), "peer")?;
        let mut settings = state.settings()?;
        let server = server_of(joined, &settings)?;
        warn_if_unverified(&server, output);
        let endpoint = open_endpoint(&state, 0, Vec::new()).await?;
        let connect = Connect {
            endpoint: endpoint.clone(),
            server: server.clone(),
            name: node_name(None, &settings),
            serving: false,
            instance: rand::random(),
            agent: agent(),
        };
        let session = Session::connect(&connect).await?;
        if joined.join.is_some() && settings.server.is_none() {
            settings.server = Some(server);
            state.save(&settings)?;
        }
        Ok(Self {
            endpoint,
            session,
            limits: settings.limits,
            index_path: state.index_path(),
        })
    }

    /// The relays by which other nodes may be reached.
    pub(crate) async fn relays(&self) -> Relays {
        let relays = Relays::new();
        let own = self.session.relay().await;
        relays.set(own.into_iter().map(|(relay, _)| relay).collect());
        relays
    }

    /// Says goodbye, so that the server need not wait for a time-out.
    pub(crate) async fn close(self) {
        self.endpoint.close(shoal_wire::Refusal::Done).await;
    }
}

/// Opens this node's UDP socket on `port` (0 for any), IPv6 and IPv4 where the system has both.
pub(crate) async fn open_endpoint(
    state: &StateDir,
    port: u16,
    accept: Vec<Protocol>,
) -> Result<Endpoint, Failure> {
    let config = |bind: SocketAddr| -> Result<EndpointConfig, Failure> {
        let identity = state.identity()?;
        Ok(EndpointConfig {
            bind,
            identity,
            certificate: None,
            accept: accept.clone(),
            roaming: Some(RoamingConfig {
                maps_ports: std::env::var_os(NO_PORT_MAPPING).is_none(),
            }),
        })
    };
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let only_ipv4 = SocketAddr::from(([0, 0, 0, 0], port));
    match Endpoint::bind(config(both)?).await {
        Ok(endpoint) => Ok(endpoint),
        Err(shoal_link::BindError::PortInUse { .. }) => Err(Failure::local(format!(
            "UDP port {port} is in use: choose another with --port, or 0 for any free one"
        ))),
        Err(_) => Ok(Endpoint::bind(config(only_ipv4)?).await?),
    }
}
