//! A relay as a process of its own: it knows its key and nothing of peers, files or servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_link::{BindError, Endpoint, EndpointConfig, Identity, Protocol};
use shoal_node::tasks::Tasks;
use shoal_wire::{Refusal, RelayKey, RelayTicket};

use super::passes::key_of;
use super::{RelayBudget, Relaying};
use crate::addresses::own_addresses;
use crate::control::RelayStanding;
use crate::http::open_both;
use crate::metrics::{self, Figures, MetricsAccess};

/// What it is started with.
#[derive(Debug)]
pub struct RelayOptions {
    /// Where to listen; port 0 takes any.
    pub bind: SocketAddr,
    /// The most that it relays.
    pub budget: RelayBudget,
    /// Who may see its figures.
    pub metrics: MetricsAccess,
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RelayStartError {
    /// The UDP port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The TCP port cannot be had.
    #[error("TCP port {port} cannot be had: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// Why not.
        source: std::io::Error,
    },
}

/// A running relay without a server.
pub struct RelayAlone {
    endpoint: Endpoint,
    relaying: Arc<Relaying>,
    key: [u8; 32],
    tasks: Tasks,
}

impl RelayAlone {
    /// Starts it: TCP to relay, UDP on the same port to tell nodes where they are seen.
    ///
    /// # Errors
    /// See [`RelayStartError`].
    pub async fn start(
        identity: &Identity,
        options: RelayOptions,
        tasks: Tasks,
    ) -> Result<Self, RelayStartError> {
        let (endpoint, opened) = open_both(&EndpointConfig {
            bind: options.bind,
            identity: identity.clone(),
            certificate: None,
            accept: vec![Protocol::Control],
            roaming: None,
        })
        .await?;
        let address = endpoint.local_addr();
        let port = opened.map_err(|source| RelayStartError::Listen {
            port: address.port(),
            source,
        })?;
        let relaying = Arc::new(Relaying::own(identity, address, options.budget));
        let read = Arc::clone(&relaying);
        let figures = metrics::routes(options.metrics, move || {
            std::future::ready(Some(Figures::new().relay(&read.standing())))
        });
        tasks.spawn(port.serve(relaying.routes().merge(figures), tasks.clone()));
        let dialled = endpoint.clone();
        tasks.spawn(async move {
            // Whoever takes it for a server hears that it is none.
            while let Some(link) = dialled.accept().await {
                link.close(Refusal::Denied);
            }
        });
        Ok(Self {
            key: key_of(identity),
            endpoint,
            relaying,
            tasks,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// What a server needs to give passes for it.
    pub fn ticket(&self) -> RelayTicket {
        RelayTicket {
            relay: self.endpoint.node_id(),
            addresses: own_addresses(self.local_addr()),
            key: RelayKey::new(self.key),
        }
    }

    /// How it stands.
    pub fn standing(&self) -> RelayStanding {
        self.relaying.standing()
    }

    /// Ends all its connections.
    pub async fn shutdown(self, deadline: Duration) -> bool {
        self.endpoint.close(Refusal::ShuttingDown).await;
        self.relaying.shutdown().await;
        self.tasks.shutdown(deadline).await
    }
}

impl std::fmt::Debug for RelayAlone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RelayAlone(..)")
    }
}
