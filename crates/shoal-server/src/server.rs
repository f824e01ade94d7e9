//! The server itself: puts the parts together, accepts connections, and ends them in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use shoal_core::registry::ConnectionId;
use shoal_link::{
    BindError, EndpointConfig, Identity, Link, Protocol, RoamingConfig, ServerCertificate,
};
use shoal_node::fetch::Fetcher;
use shoal_node::plan::SERVER;
use shoal_node::provide::Provide;
use shoal_node::share::{Roots, Share, ShareOptions, Totals};
use shoal_node::state::StateDir;
use shoal_node::tasks::Tasks;
use shoal_node::throttle::{LimitSettings, Throttle};
use shoal_node::transfers::Transfers;
use shoal_store::database::Fault;
use shoal_store::folder::{Folder, FolderError};
use shoal_store::index::{Index, IndexError};
use shoal_wire::message::{Bounded, FileAnnounce};
use shoal_wire::{JoinTicket, NodeId, NodeName, Refusal, ShortText};
use tokio::sync::mpsc;

use crate::addresses::own_addresses;
use crate::catalog::{Catalog, CatalogError, OpenError};
use crate::connection::attend;
use crate::control::socket::{ControlSocket, SocketError};
use crate::coordinator::{Coordinator, Limits};
use crate::http::open_both;
use crate::metrics::{self, MetricsAccess};
use crate::nat::NatTests;
use crate::orders::Orders;
use crate::places::Places;
use crate::relay::{RelayChoice, Relaying};
use crate::roster::Roster;

/// What a server is started with.
#[derive(Debug)]
pub struct ServerOptions {
    /// Where to listen; port 0 takes any.
    pub bind: SocketAddr,
    /// The server's key.
    pub identity: Identity,
    /// A certificate for those who trust certificates.
    pub certificate: Option<ServerCertificate>,
    /// Files of the server's own; created when missing.
    pub files_dir: PathBuf,
    /// Where it keeps what it knows.
    pub state: StateDir,
    /// The name it goes by.
    pub name: NodeName,
    /// Whether its hidden files are offered too.
    pub hidden: bool,
    /// What relays between nodes that cannot reach each other.
    pub relay: RelayChoice,
    /// Who may see its figures.
    pub metrics: MetricsAccess,
    /// Its rate limits, until its operator changes them.
    pub limits: LimitSettings,
    /// Program and version.
    pub agent: ShortText,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The folder of its own files cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The catalog cannot be opened.
    #[error(transparent)]
    Catalog(#[from] OpenError),
    /// The cache of hashes cannot be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    Control(#[from] SocketError),
}

impl StartError {
    /// Whether it would start if the disk of its state folder had room.
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Catalog(error) => matches!(error, OpenError::NoRoom { .. }),
            Self::Index(error) => error.fault() == Fault::Full,
            Self::Control(SocketError::Io { error, .. }) => Fault::from(error) == Fault::Full,
            Self::Control(_) | Self::Bind(_) | Self::Folder(_) => false,
        }
    }
}

/// A running server.
pub struct Server {
    coordinator: Arc<Coordinator>,
    tasks: Tasks,
}

impl Server {
    /// Starts a server; its work runs on `tasks`.
    ///
    /// # Errors
    /// The first part that cannot be opened.
    pub async fn start(options: ServerOptions, tasks: Tasks) -> Result<Self, StartError> {
        Self::start_with(options, Limits::default(), tasks).await
    }

    /// Starts a server with bounds of its own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        options: ServerOptions,
        limits: Limits,
        tasks: Tasks,
    ) -> Result<Self, StartError> {
        let control = ControlSocket::bind(&options.state.control_socket_path()).await?;
        let folder = Folder::create(&options.files_dir)?;
        let catalog = Catalog::open(&options.state.catalog_path()).await?;
        let index = Index::open(&options.state.index_path()).await?;
        let (endpoint, port) = open_both(&config_of(&options)).await?;
        let address = endpoint.local_addr();
        // A server without TCP is still a server.
        let port = port
            .inspect_err(|error| {
                tracing::warn!(%address, %error, "no relay and no figures: the TCP port cannot be had");
            })
            .ok();
        let relaying = match options.relay {
            RelayChoice::Own(budget) => port
                .is_some()
                .then(|| Relaying::own(&options.identity, address, budget)),
            RelayChoice::Apart(ticket) => Some(Relaying::apart(ticket)),
            RelayChoice::None => None,
        };
        let shared = ShareOptions {
            roots: Roots::whole(folder),
            hidden: options.hidden,
        };
        let share = Share::start(shared, index, &tasks);
        let throttle = Throttle::new(options.limits);
        let transfers = Transfers::limited(throttle.clone());
        let (nat_tests, of_tests) =
            NatTests::new(options.identity.clone(), address.ip(), tasks.clone());
        let coordinator = Arc::new(Coordinator {
            identity: options.identity,
            name: options.name,
            agent: options.agent,
            limits,
            catalog,
            roster: Roster::start(&tasks),
            mailboxes: Arc::default(),
            relaying,
            provide: Provide::new(
                share.clone(),
                transfers.clone(),
                endpoint.node_id(),
                tasks.clone(),
            ),
            fetcher: Fetcher::new(endpoint.clone(), tasks.clone(), Some(share.clone())),
            share,
            transfers,
            endpoint,
            nat_tests,
            started_at: Instant::now(),
        });
        if let Some(port) = port {
            tasks.spawn(port.serve(routes(&coordinator, options.metrics), tasks.clone()));
            tasks.spawn(join_own_relay(Arc::clone(&coordinator)));
        }
        tasks.spawn(throttle.follow_hours());
        tasks.spawn(feed_catalog(Arc::clone(&coordinator)));
        tasks.spawn(mend_catalog(Arc::clone(&coordinator), tasks.clone()));
        tasks.spawn(accept(Arc::clone(&coordinator), of_tests, tasks.clone()));
        let orders = Arc::new(Orders::new(Arc::clone(&coordinator)));
        tasks.spawn(control.serve(orders, tasks.clone()));
        tracing::info!(
            address = %coordinator.local_addr(), node = %coordinator.node().short(),
            name = %coordinator.name, "server started",
        );
        Ok(Self { coordinator, tasks })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.coordinator.local_addr()
    }

    /// Its id.
    pub fn node_id(&self) -> NodeId {
        self.coordinator.node()
    }

    /// What a peer needs to join: the server's key and where it is.
    pub fn join_ticket(&self) -> JoinTicket {
        JoinTicket {
            server: self.node_id(),
            addresses: own_addresses(self.local_addr()),
            pass: self
                .coordinator
                .relaying
                .as_ref()
                .and_then(Relaying::join_pass),
        }
    }

    /// What its own files add up to.
    pub fn own_totals(&self) -> Totals {
        self.coordinator.share.totals()
    }

    /// What it sends and receives itself.
    pub fn transfers(&self) -> &Transfers {
        &self.coordinator.transfers
    }

    /// Waits until its own files have been scanned once.
    pub async fn ready(&self) {
        self.coordinator.share.ready().await;
    }

    /// Stops: says goodbye to every peer, ends all work within `deadline`, closes the catalog.
    /// Tells whether all of it ended in time. Call it before the tasks are cancelled elsewhere, so
    /// that the goodbye has its reason.
    pub async fn shutdown(self, deadline: Duration) -> bool {
        // First, while its links live: what ends with its task says goodbye with no reason.
        self.coordinator.endpoint.close(Refusal::ShuttingDown).await;
        if let Some(relaying) = &self.coordinator.relaying {
            relaying.shutdown().await;
        }
        let ended = self.tasks.shutdown(deadline).await;
        self.coordinator.catalog.close().await;
        tracing::info!(ended, "server stopped");
        ended
    }
}

fn config_of(options: &ServerOptions) -> EndpointConfig {
    EndpointConfig {
        bind: options.bind,
        identity: options.identity.clone(),
        certificate: options.certificate.clone(),
        accept: vec![Protocol::Control],
        roaming: matches!(options.relay, RelayChoice::Own(_))
            .then_some(RoamingConfig { maps_ports: false }),
    }
}

/// What is answered over HTTP.
fn routes(coordinator: &Arc<Coordinator>, access: MetricsAccess) -> Router {
    let read = Arc::clone(coordinator);
    let figures = metrics::routes(access, move || {
        let coordinator = Arc::clone(&read);
        async move { coordinator.figures().await }
    });
    let relaying = coordinator.relaying.as_ref().map(Relaying::routes);
    relaying.unwrap_or_default().merge(figures)
}

/// Takes the server's own place at its relay.
async fn join_own_relay(coordinator: Arc<Coordinator>) {
    let relaying = coordinator.relaying.as_ref();
    let Some(own) = relaying.and_then(Relaying::for_itself) else {
        return;
    };
    if let Err(error) = coordinator.endpoint.join_relay(&own).await {
        tracing::warn!(%error, "the server cannot be reached through its relay");
    }
}

/// Keeps the server's own files in the catalog, under the name by which people ask for them.
async fn feed_catalog(coordinator: Arc<Coordinator>) {
    let name = SERVER.parse();
    let name = name.unwrap_or_else(|_| coordinator.name.clone());
    let mut feed = coordinator.share.feed();
    loop {
        let batch = feed.next().await;
        let announce = FileAnnounce {
            sequence: 0,
            snapshot: batch.snapshot,
            complete: batch.complete,
            added: Bounded::truncated(batch.added),
            removed: Bounded::truncated(batch.removed),
        };
        let node = coordinator.node();
        let catalog = &coordinator.catalog;
        while let Err(error) = catalog.apply(&node, &name, &announce).await {
            let CatalogError::Unwritable(_) = error else {
                return;
            };
            catalog.writable().await;
        }
    }
}

/// Has the catalog take writes again once its disk does.
async fn mend_catalog(coordinator: Arc<Coordinator>, tasks: Tasks) {
    coordinator.catalog.mend(&tasks).await;
}

async fn accept(coordinator: Arc<Coordinator>, mut of_tests: mpsc::Receiver<Link>, tasks: Tasks) {
    let places = Arc::new(Places::default());
    let mut count = 0;
    loop {
        let link = tokio::select! {
            link = coordinator.endpoint.accept() => link,
            Some(link) = of_tests.recv() => Some(link),
        };
        let Some(link) = link else { return };
        let Some(place) = places.take(link.remote_id(), link.path().remote.ip()) else {
            link.close(Refusal::QuotaExceeded);
            continue;
        };
        count += 1;
        let attended = attend(
            Arc::clone(&coordinator),
            link,
            ConnectionId(count),
            tasks.clone(),
        );
        tasks.spawn(async move {
            attended.await;
            drop(place);
        });
    }
}
