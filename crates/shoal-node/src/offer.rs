//! An offer: what one person sends to those who have its code or ticket, for as long as it waits.
//!
//! The offer owns a secret, perhaps a code, and the visits of receivers. A receiver is let in by
//! the secret of a ticket; a code leads to a ticket that is good for that one node. A visit lasts
//! as long as the stream on which the receiver asked to be let in; while it does, requests for
//! files on the same link are answered, all others are denied. Once it has expired, or enough
//! receivers have everything, it is closed: nobody new is let in, and who had begun is served to
//! the end, also after a lost link. What happens is told as [`OfferEvent`]s.

mod closing;
mod codes;
mod receipt;
mod visits;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shoal_link::{Endpoint, LivePath};
use shoal_wire::message::Addresses;
use shoal_wire::offer::Via;
use shoal_wire::{Code, Hash, NodeId, NodeName, OfferSecret, OfferTicket};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use self::codes::Guesses;
use crate::session::{Session, own_addresses};
use crate::share::{Changes, Share, Skipped};
use crate::tasks::Tasks;
use crate::throttle::Throttle;

pub use codes::CodeStop;
pub use receipt::Receipt;
pub use visits::{Visit, VisitState};

/// What the secret of a content is derived for (BLAKE3 key derivation context).
const CONTENT_CONTEXT: &str = "shoal 2026-11 offer by hash 1";
/// Events that a slow listener may be behind; older ones are dropped for it.
const EVENTS_KEPT: usize = 256;
/// Nodes that may hold a ticket by code at once: each is some tens of bytes.
const CODE_HOLDERS_MAX: usize = 1024;
/// Visits that are remembered; those that are over are forgotten first.
const VISITS_KEPT: usize = 256;

/// What an offer is made from.
#[derive(Debug)]
pub struct OfferOptions {
    /// The socket of this node, which accepts transfers.
    pub endpoint: Endpoint,
    /// What is offered.
    pub share: Share,
    /// The name to show to receivers.
    pub name: NodeName,
    /// The limits that all its transfers keep to.
    pub throttle: Throttle,
    /// Whether each receiver waits for [`Offer::decide`].
    pub asks: bool,
    /// Whether everybody is let in who knows the hash of what is offered, which is one file.
    pub by_hash: bool,
    /// How many receivers are enough, each with everything; `None` where as many may come as like.
    pub receivers: Option<u32>,
    /// How long receivers may begin.
    pub lifetime: Duration,
    /// The branch on which it runs.
    pub tasks: Tasks,
}

/// What happens to an offer.
#[derive(Debug, Clone)]
pub enum OfferEvent {
    /// It has a code, or another one than before.
    Code(Code),
    /// The server is out of reach: no code leads here until it is back.
    ServerLost {
        /// Why.
        reason: String,
    },
    /// Somebody tried another code.
    WrongCode {
        /// How many more wrong ones burn it.
        left: u32,
    },
    /// Too many wrong codes: no code leads here any more, tickets do.
    CodeBurnt,
    /// A receiver waits to be let in.
    Knocked(VisitId, Arc<Visit>),
    /// A receiver was let in.
    Opened(Arc<Visit>),
    /// A receiver has everything that it wanted.
    Finished(Arc<Visit>),
    /// A receiver is gone.
    Left(Arc<Visit>),
    /// What is offered changed on the disk; the new versions are offered.
    Changed(Changes),
}

/// The number of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VisitId(u64);

/// A running offer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Offer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    share: Share,
    name: NodeName,
    throttle: Throttle,
    asks: bool,
    receivers: Option<u32>,
    /// Of its tickets.
    expires_at_s: u64,
    /// By the clock that no one sets.
    expires_at: Instant,
    /// Cancelled once enough receivers have everything.
    enough: CancellationToken,
    tasks: Tasks,
    events: broadcast::Sender<OfferEvent>,
    issued: Mutex<Issued>,
}

/// What was given out, and who came.
#[derive(Debug)]
struct Issued {
    /// Of the ticket that anyone may use; `None` once it is revoked.
    secret: Option<OfferSecret>,
    /// Whether the hash of the one file opens it.
    by_hash: bool,
    /// Of tickets that one node may use.
    of_nodes: BTreeMap<NodeId, OfferSecret>,
    code: Option<Code>,
    guesses: Guesses,
    via: Option<Via>,
    /// Where the server sees this node, which is where a NAT that lets everybody in has put it.
    observed: Option<SocketAddr>,
    next_visit: u64,
    visits: BTreeMap<VisitId, Arc<Visit>>,
    waiting: BTreeMap<VisitId, oneshot::Sender<bool>>,
    /// Who has everything.
    finished: BTreeSet<NodeId>,
    /// Who has all that it chose, and not everything.
    partly: BTreeSet<NodeId>,
}

impl Offer {
    /// Starts to offer: from now on the holders of its ticket may come.
    pub fn start(options: OfferOptions) -> (Self, broadcast::Receiver<OfferEvent>) {
        let expires_at_s = now_s().saturating_add(options.lifetime.as_secs());
        let shared = Arc::new(Shared {
            endpoint: options.endpoint,
            share: options.share,
            name: options.name,
            throttle: options.throttle,
            asks: options.asks,
            receivers: options.receivers,
            expires_at_s,
            expires_at: Instant::now() + options.lifetime,
            enough: CancellationToken::new(),
            tasks: options.tasks,
            events: broadcast::Sender::new(EVENTS_KEPT),
            issued: Mutex::new(Issued {
                secret: Some(new_secret()),
                by_hash: options.by_hash,
                of_nodes: BTreeMap::new(),
                code: None,
                guesses: Guesses::default(),
                via: None,
                observed: None,
                next_visit: 0,
                visits: BTreeMap::new(),
                waiting: BTreeMap::new(),
                finished: BTreeSet::new(),
                partly: BTreeSet::new(),
            }),
        });
        let events = shared.events.subscribe();
        let tasks = shared.tasks.clone();
        tasks.spawn(visits::accept(Arc::clone(&shared)));
        tasks.spawn(tell_changes(Arc::clone(&shared)));
        (Self { shared }, events)
    }

    /// Whom to dial, and the UDP port where.
    pub fn whereabouts(&self) -> (NodeId, u16) {
        let endpoint = &self.shared.endpoint;
        (endpoint.node_id(), endpoint.local_addr().port())
    }

    /// Where this node may be reached now.
    pub fn addresses(&self) -> Addresses {
        let (via, observed) = self.shared.seen();
        self.shared.addresses(via.as_ref(), observed)
    }

    /// The ticket that anyone may use; `None` once it is revoked.
    pub fn ticket(&self) -> Option<OfferTicket> {
        let secret = self.shared.issued().secret?;
        Some(self.shared.ticket(secret))
    }

    /// A ticket that only `node` may use.
    pub fn ticket_for(&self, node: NodeId) -> OfferTicket {
        let secret = self.shared.issued().issue(node);
        self.shared.ticket(secret)
    }

    /// The hash of the one file, once it is known, where that opens the offer to newcomers.
    pub fn content(&self) -> Option<Hash> {
        self.shared.content().filter(|_| !self.shared.is_over())
    }

    /// What was to be offered and cannot be, once all has been looked at.
    pub async fn skipped(&self) -> Skipped {
        self.shared.share.ready().await;
        self.shared.share.skipped()
    }

    /// What was to be offered and could not be, by the last look at it.
    pub fn left_out(&self) -> Skipped {
        self.shared.share.skipped()
    }

    /// Waits until the hashes of all that is offered are known.
    pub async fn hashed(&self) {
        self.shared.share.ready().await;
        self.shared.share.all_hashed().await;
    }

    /// From now on tickets name the session's server as another way here: by its relay, where it
    /// has one.
    pub async fn reached_by(&self, session: &Session) {
        self.shared.reached_by(session).await;
    }

    /// Lets a waiting receiver in, or not.
    pub fn decide(&self, visit: VisitId, admits: bool) {
        if let Some(waiting) = self.shared.issued().waiting.remove(&visit) {
            // It may have left meanwhile.
            let _ = waiting.send(admits);
        }
    }

    /// Code, tickets and hash lead here no more; who was let in stays.
    pub fn revoke(&self) {
        let mut issued = self.shared.issued();
        issued.secret = None;
        issued.by_hash = false;
        issued.code = None;
        issued.of_nodes.clear();
    }

    /// Every visit that is remembered, oldest first.
    pub fn visits(&self) -> Vec<Arc<Visit>> {
        self.shared.issued().visits.values().cloned().collect()
    }

    /// How many receivers have everything.
    pub fn finished(&self) -> usize {
        self.shared.issued().finished.len()
    }

    /// How many receivers have all that they chose, and not everything.
    pub fn partly(&self) -> usize {
        self.shared.issued().partly.len()
    }
}

async fn tell_changes(shared: Arc<Shared>) {
    let mut changes = shared.share.changes();
    loop {
        match changes.recv().await {
            Ok(changes) => shared.tell(OfferEvent::Changed(changes)),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

impl Shared {
    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: OfferEvent) {
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    fn ticket(&self, secret: OfferSecret) -> OfferTicket {
        let (via, observed) = self.seen();
        OfferTicket {
            sender: self.endpoint.node_id(),
            secret,
            addresses: self.addresses(via.as_ref(), observed),
            via,
            expires_at_s: self.expires_at_s,
        }
    }

    /// By which server others may come, and where that sees this node.
    fn seen(&self) -> (Option<Via>, Option<SocketAddr>) {
        let issued = self.issued();
        (issued.via.clone(), issued.observed)
    }

    /// Where this node may be reached now; asked each time, because machines move.
    fn addresses(&self, via: Option<&Via>, observed: Option<SocketAddr>) -> Addresses {
        let server = via.and_then(|via| via.addresses.first().copied());
        let own = own_addresses(server, self.endpoint.local_addr().port());
        let elsewhere = observed.filter(|observed| !own.contains(observed));
        Addresses::truncated(own.iter().copied().chain(elsewhere).collect())
    }

    async fn reached_by(&self, session: &Session) {
        let mut via = Via {
            server: session.server(),
            addresses: Addresses::truncated(session.server_addresses().to_vec()),
            pass: None,
        };
        if let Some((own, guests)) = session.relay().await {
            match self.endpoint.join_relay(&own).await {
                Ok(()) => {
                    via = Via {
                        server: own.server,
                        addresses: Addresses::truncated(own.addresses),
                        pass: Some(guests),
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "this offer cannot be reached through the relay");
                }
            }
        }
        let mut issued = self.issued();
        issued.observed = Some(session.response().observed);
        issued.via = Some(via);
    }

    /// The hash of the one file, where that opens the offer.
    fn content(&self) -> Option<Hash> {
        if !self.issued().by_hash {
            return None;
        }
        match &self.share.page(None, None, 2).0[..] {
            [only] => only.hash,
            _ => None,
        }
    }

    /// Whether `node` may come with this secret.
    fn admits(&self, node: NodeId, secret: &OfferSecret) -> bool {
        let own = self.endpoint.node_id();
        let of_content = self.content();
        let of_content = of_content.map(|hash| secret_of_content(&hash, &own, &node));
        if of_content.as_ref() == Some(secret) {
            return true;
        }
        let issued = self.issued();
        let of_all = issued.secret.as_ref() == Some(secret);
        let of_node = issued.of_nodes.get(&node) == Some(secret);
        of_all || of_node
    }
}

impl Issued {
    /// A secret for one node that has proven the code.
    fn issue(&mut self, node: NodeId) -> OfferSecret {
        if self.of_nodes.len() >= CODE_HOLDERS_MAX {
            self.of_nodes.pop_first();
        }
        *self.of_nodes.entry(node).or_insert_with(new_secret)
    }

    /// What `node` got in visits that it left early, in bytes: it goes on from there.
    fn got_before(&self, node: NodeId) -> u64 {
        let earlier = self
            .visits
            .values()
            .rev()
            .filter(|visit| visit.node == node);
        let unfinished = earlier.take_while(|visit| !visit.is_finished());
        unfinished.map(|visit| visit.moved().durable_bytes).sum()
    }

    fn enter(&mut self, visit: &Arc<Visit>) -> VisitId {
        self.next_visit += 1;
        let id = VisitId(self.next_visit);
        self.visits.insert(id, Arc::clone(visit));
        while self.visits.len() > VISITS_KEPT {
            let past = self.visits.iter().find(|(_, visit)| !visit.is_there());
            let Some(past) = past.map(|(id, _)| *id) else {
                break;
            };
            self.visits.remove(&past);
        }
        id
    }
}

/// How a visit's link goes, for those who tell of it.
impl Visit {
    /// The path, live.
    pub fn path(&self) -> LivePath {
        self.link().path()
    }
}

/// What `receiver` opens an offer of `provider` with that is for all who know the BLAKE3 hash of its
/// one file. Whoever hears it without knowing the hash can do nothing with it.
pub fn secret_of_content(hash: &Hash, provider: &NodeId, receiver: &NodeId) -> OfferSecret {
    let known = [hash.as_bytes(), provider.as_bytes(), receiver.as_bytes()];
    let derived = blake3::derive_key(CONTENT_CONTEXT, &known.map(|part| &part[..]).concat());
    let mut secret = [0; 16];
    secret.copy_from_slice(&derived[..16]);
    OfferSecret::new(secret)
}

fn new_secret() -> OfferSecret {
    OfferSecret::new(rand::random())
}

fn now_s() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |time| time.as_secs())
}
