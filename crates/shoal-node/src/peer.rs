//! The peer daemon: shares a folder, stays connected to its server, serves and receives.
//!
//! Three drivers run until shutdown: one keeps the session (connects, announces, answers what the
//! server asks, and connects again with growing, jittered waits), one accepts links of other
//! peers, and the share's own. What happened is told as [`Event`]s; how it is, by [`Peer::status`].

mod answers;
mod keep;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_link::{Endpoint, Link, Protocol};
use shoal_wire::{NodeId, NodeName, OfferTicket, Refusal, ShortText};
use tokio::sync::{Semaphore, SetOnce, broadcast};

use self::answers::{Answers, ToPeers};
use crate::fetch::Fetcher;
use crate::provide::Provide;
use crate::relays::Relays;
use crate::requests::serve_streams;
use crate::session::{Connect, ConnectError, Session};
use crate::share::Share;
use crate::state::ServerRef;
use crate::tasks::Tasks;
use crate::throttle::{LimitSettings, Throttle};
use crate::transfers::Transfers;

/// Events that a slow listener may be behind; older ones are dropped for it.
const EVENTS_KEPT: usize = 256;
/// Links of other peers at once; each costs at most what a stranger's windows allow until it shows
/// a grant.
const PEER_LINKS_MAX: usize = 1024;
/// How long another peer may stay without a request that this node's server vouches for: it dials
/// because it has one.
const STRANGER_DEADLINE: Duration = Duration::from_secs(30);
/// How long transfers may take to end after a goodbye.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// What a peer runs with.
#[derive(Debug)]
pub struct PeerOptions {
    /// Its socket, which accepts [`Protocol::Transfer`].
    pub endpoint: Endpoint,
    /// Its server.
    pub server: ServerRef,
    /// Its name.
    pub name: NodeName,
    /// Program and version.
    pub agent: ShortText,
    /// What it offers, and where it receives.
    pub share: Share,
    /// Whether the server may make it fetch files.
    pub accepts_offers: bool,
    /// Its rate limits, until somebody changes them.
    pub limits: LimitSettings,
    /// Filled with its server's relay while it is connected.
    pub relays: Relays,
    /// Who hears of offers, if anybody.
    pub notices: Option<Notices>,
    /// The branch on which it runs.
    pub tasks: Tasks,
}

/// Hears that somebody offers something, and says whether that is looked at. Only dialling the
/// ticket's sender proves whose offer it is.
#[derive(Clone)]
pub struct Notices(Arc<dyn Fn(OfferTicket) -> Result<(), Refusal> + Send + Sync>);

impl Notices {
    /// Has `hear` called for each; it must not block for long.
    pub fn new(hear: impl Fn(OfferTicket) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notices(..)")
    }
}

/// What happened to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session began.
    Connected {
        /// The server.
        server: NodeId,
        /// The address that it sees for this peer.
        observed: SocketAddr,
    },
    /// The whole share is announced, for the first time or after waiting.
    Announced {
        /// How many files.
        files: u64,
    },
    /// The server takes no announcements for the time being. The session goes on, and
    /// [`Announced`](Self::Announced) follows when it has taken what waits.
    Waiting {
        /// Why.
        reason: String,
        /// How long after each try it is tried again.
        retry_in: Duration,
    },
    /// The session ended, and the next try comes after `retry_in`.
    Disconnected {
        /// Why.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
}

/// How a peer is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The server, while connected.
    pub server: Option<NodeId>,
    /// Files that the server has acknowledged.
    pub announced_files: u64,
}

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    shared: Arc<Shared>,
}

/// What the drivers share.
#[derive(Debug)]
struct Shared {
    connect: Connect,
    share: Share,
    transfers: Transfers,
    provide: Provide,
    fetcher: Fetcher,
    relays: Relays,
    accepts_offers: bool,
    notices: Option<Notices>,
    tasks: Tasks,
    events: broadcast::Sender<Event>,
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    status: Status,
    session: Option<Session>,
    /// The server whose grants count, also while it is away.
    server: Option<NodeId>,
}

impl Peer {
    /// Connects for the first time and starts the drivers. What happens from then on is told to
    /// the receiver.
    ///
    /// # Errors
    /// When the first connection fails; later ones are tried again and again.
    pub async fn start(
        options: PeerOptions,
    ) -> Result<(Self, broadcast::Receiver<Event>), ConnectError> {
        let PeerOptions {
            endpoint,
            tasks,
            share,
            ..
        } = options;
        let throttle = Throttle::new(options.limits);
        let transfers = Transfers::limited(throttle.clone());
        let node = endpoint.node_id();
        let relays = options.relays;
        let shared = Arc::new(Shared {
            provide: Provide::new(share.clone(), transfers.clone(), node, tasks.clone()),
            fetcher: Fetcher::new(endpoint.clone(), tasks.clone(), Some(share.clone()))
                .by_relays(relays.clone()),
            relays,
            connect: Connect {
                endpoint,
                server: options.server,
                name: options.name,
                serving: true,
                instance: rand::random(),
                agent: options.agent,
            },
            share,
            transfers,
            accepts_offers: options.accepts_offers,
            notices: options.notices,
            tasks: tasks.clone(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            live: Mutex::default(),
        });
        let events = shared.events.subscribe();
        let session = Session::connect(&shared.connect).await?;
        shared.connected(&session);
        tasks.spawn(throttle.follow_hours());
        tasks.spawn(accept_peers(Arc::clone(&shared)));
        tasks.spawn(keep::keep_session(Arc::clone(&shared), session));
        Ok((Self { shared }, events))
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.shared.live().status.clone()
    }

    /// The session, while there is one.
    pub fn session(&self) -> Option<Session> {
        self.shared.live().session.clone()
    }

    /// What it offers.
    pub fn share(&self) -> &Share {
        &self.shared.share
    }

    /// Its transfers.
    pub fn transfers(&self) -> &Transfers {
        &self.shared.transfers
    }

    /// What fetches for it.
    pub fn fetcher(&self) -> &Fetcher {
        &self.shared.fetcher
    }

    /// Stops transfers so that they can be resumed, says goodbye and waits for both.
    pub async fn shutdown(self) {
        for transfer in self.shared.transfers.list() {
            self.shared.transfers.cancel(transfer.id);
        }
        self.shared
            .connect
            .endpoint
            .close(Refusal::ShuttingDown)
            .await;
        if !self.shared.tasks.shutdown(SHUTDOWN_DEADLINE).await {
            tracing::warn!("some work did not end in time");
        }
    }
}

impl Shared {
    fn live(&self) -> std::sync::MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event) {
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    fn connected(&self, session: &Session) {
        let server = session.server();
        let observed = session.response().observed;
        {
            let mut live = self.live();
            live.status.server = Some(server);
            live.session = Some(session.clone());
            live.server = Some(server);
        }
        tracing::info!(server = %server.short(), %observed, "connected");
        self.tell(Event::Connected { server, observed });
    }

    fn disconnected(&self) {
        let mut live = self.live();
        live.session = None;
        live.status = Status::default();
    }
}

/// Accepts links of other peers and serves each until it ends.
async fn accept_peers(shared: Arc<Shared>) {
    let endpoint = shared.connect.endpoint.clone();
    let places = Arc::new(Semaphore::new(PEER_LINKS_MAX));
    while let Some(link) = endpoint.accept().await {
        if link.protocol() != Protocol::Transfer {
            link.close(Refusal::Denied);
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            link.close(Refusal::QuotaExceeded);
            continue;
        };
        let serving = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            serve_peer(serving, link).await;
            drop(place);
        });
    }
}

/// Serves a link of another peer. It keeps the windows of a stranger, and a deadline, until it
/// shows a grant.
async fn serve_peer(shared: Arc<Shared>, link: Link) {
    let vouched = Arc::new(SetOnce::new());
    let who = ToPeers::new(Arc::clone(&vouched));
    let answers = Arc::new(Answers::new(Arc::clone(&shared), who));
    let mut served = pin!(serve_streams(&link, &shared.tasks, answers));
    let end = tokio::select! {
        end = &mut served => end,
        () = overdue(&vouched) => {
            link.close(Refusal::TimedOut);
            served.await
        }
    };
    tracing::debug!(peer = ?link.remote_id(), %end, "link ended");
}

/// Ends when a stranger has been one for too long; never for one that is vouched for in time.
async fn overdue(vouched: &SetOnce<()>) {
    if tokio::time::timeout(STRANGER_DEADLINE, vouched.wait())
        .await
        .is_ok()
    {
        std::future::pending::<()>().await;
    }
}
