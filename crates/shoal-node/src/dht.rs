//! Finding nodes and providers without any server: the Mainline DHT, for those who ask for it.
//!
//! A node puts its [`Whereabouts`] under its own key (BEP 44): whoever keeps the record checks the
//! signature, so nobody else can write there, and an old record gives way to a newer one. Who
//! provides a hash is a signed announce in some of a number of slots, each a place of its own in
//! the DHT: a provider takes four, by its node id, and whoever looks reads all. Somebody who fills
//! a place with announces of made-up nodes has to do so in all of them; those that he makes up cost
//! a look-up of whereabouts each, of which there is a limit, and are never believed: whoever is
//! dialled has to prove its id, and what it gives its hash.
//!
//! Nothing is contacted before [`Dht::start`], and then the nodes that it is given, or those of
//! the public network where it is given none.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::future::join_all;
use n0_mainline::{Id, MutableItem, SigningKey};
use rand::seq::SliceRandom;
use shoal_link::Identity;
use shoal_wire::address::{can_be_dialled, is_near_only};
use shoal_wire::message::Addresses;
use shoal_wire::whereabouts::Whereabouts;
use shoal_wire::{Hash, NodeId};
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Under which salt whereabouts are kept.
const WHEREABOUTS_SALT: &[u8] = b"shoal/whereabouts/1";
/// What places for providers are derived for (BLAKE3 key derivation context).
const SLOT_CONTEXT: &str = "shoal 2026-11 provider slots 1";
/// Places for the providers of one hash.
const SLOTS: u8 = 16;
/// Places that one provider takes.
const SLOTS_OF_PROVIDER: usize = 4;
/// Providers that are looked at, of one place: more than the DHT answers at once.
const OF_SLOT_MAX: usize = 256;
/// How long one look-up may take.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(10);
/// How old a record may be, in seconds: those who keep it forget it after two hours.
const AGE_MAX_S: u64 = 2 * 3600;
/// How far a record may be ahead of this machine's clock, in seconds.
const AHEAD_MAX_S: u64 = 300;
/// Time between two times that the same is said again.
const REPUBLISH: Duration = Duration::from_secs(1800);
/// Time between two looks at whether there is something new to say.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Wait after a failure to publish.
const RETRY: Duration = Duration::from_secs(30);

/// Why the DHT did not help.
#[derive(Debug, thiserror::Error)]
pub enum DhtError {
    /// It cannot be spoken to.
    #[error("the DHT cannot be used: {0}")]
    Socket(#[from] std::io::Error),
    /// Nobody took a record.
    #[error("the DHT took no record: {0}; are its first nodes (--dht-bootstrap) in reach?")]
    NotTaken(String),
}

/// This machine's part in the DHT: it asks, and keeps nothing for others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dht {
    network: n0_mainline::Dht,
    /// Whether enough of its nodes are known to find the right ones: asked once, at the first need.
    joined: Arc<OnceCell<()>>,
    /// Whether all of it is on this machine: addresses of the same host lead somewhere then.
    is_near: bool,
}

impl Dht {
    /// Joins by these nodes, `HOST:PORT` each; by those of the public network where there are none.
    ///
    /// # Errors
    /// When there is no UDP socket to be had.
    pub fn start(bootstrap: &[String]) -> Result<Self, DhtError> {
        let mut builder = n0_mainline::Dht::builder();
        if !bootstrap.is_empty() {
            builder.bootstrap(bootstrap);
        }
        let is_near = |node: &String| {
            let address = node.parse::<SocketAddr>();
            address.is_ok_and(|address| address.ip().is_loopback())
        };
        Ok(Self {
            network: builder.build()?,
            joined: Arc::default(),
            is_near: !bootstrap.is_empty() && bootstrap.iter().all(is_near),
        })
    }

    /// The network, once it is joined. Before that a record is kept, and asked for, at whatever nodes
    /// happen to be known.
    async fn joined(&self) -> &n0_mainline::Dht {
        let joining = async {
            let _late = timeout(LOOK_UP_LIMIT, self.network.bootstrapped()).await;
        };
        self.joined.get_or_init(|| joining).await;
        &self.network
    }

    /// Says where the node of `identity` is.
    ///
    /// # Errors
    /// When nobody keeps it.
    pub async fn publish(&self, identity: &Identity, addresses: Addresses) -> Result<(), DhtError> {
        let said_at_s = now_s();
        let whereabouts = Whereabouts {
            said_at_s,
            addresses,
        };
        let record = whereabouts.encode();
        let record = record.ok_or_else(|| DhtError::NotTaken("it is too long".to_owned()))?;
        let sequence = i64::try_from(said_at_s).unwrap_or(i64::MAX);
        let key = signing_key(identity);
        let item = MutableItem::new(&key, &record, sequence, Some(WHEREABOUTS_SALT));
        let put = self.joined().await.put_mutable(item, None).await;
        put.map(drop).map_err(|error| not_taken(&error))
    }

    /// Says so for as long as it is polled: now and again, and when the addresses are others,
    /// because machines move.
    pub async fn keep_published(self, identity: Identity, addresses: impl Fn() -> Addresses) {
        let mut said = Said::default();
        loop {
            let pause = match said.is_due(addresses()) {
                Some(addresses) => {
                    let outcome = self.publish(&identity, addresses.clone()).await;
                    said.tried(addresses, outcome)
                }
                None => LOOK_INTERVAL,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Says what the node of `identity` provides for as long as it is polled: now and again, and
    /// when `content` is another.
    pub async fn keep_provided(self, identity: Identity, content: impl Fn() -> Option<Hash>) {
        let mut said = Said::default();
        loop {
            let pause = match content().and_then(|hash| said.is_due(hash)) {
                Some(hash) => {
                    let outcome = self.provide(&identity, &hash).await;
                    said.tried(hash, outcome)
                }
                None => LOOK_INTERVAL,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Where a node says that it is, by its newest record that is not too old; nothing where there
    /// is none.
    pub async fn find(&self, node: NodeId) -> Vec<SocketAddr> {
        let salt = Some(WHEREABOUTS_SALT);
        let Ok(mut answers) = self
            .joined()
            .await
            .get_mutable(node.as_bytes(), salt, None)
            .await
        else {
            return Vec::new();
        };
        let mut newest: Option<Whereabouts> = None;
        let listening = async {
            while let Some(item) = answers.next().await {
                let said = believable(&node, &item);
                let is_newer = |said: &Whereabouts| {
                    newest
                        .as_ref()
                        .is_none_or(|known| known.said_at_s < said.said_at_s)
                };
                if let Some(said) = said.filter(is_newer) {
                    newest = Some(said);
                }
            }
        };
        // What came until then counts.
        let _late = timeout(LOOK_UP_LIMIT, listening).await;
        let addresses = newest.map(|said| said.addresses).unwrap_or_default();
        let all = addresses.iter().copied();
        let leads_there = |one: &SocketAddr| self.is_near || !is_near_only(one.ip());
        all.filter(can_be_dialled).filter(leads_there).collect()
    }

    /// Says that the node of `identity` provides `hash`.
    ///
    /// # Errors
    /// When none of its places takes it.
    pub async fn provide(&self, identity: &Identity, hash: &Hash) -> Result<(), DhtError> {
        let key = signing_key(identity);
        let mut outcome = Err(DhtError::NotTaken("there is no place".to_owned()));
        for slot in slots_of(hash, &identity.node_id()) {
            match self
                .network
                .announce_signed_peer(place(hash, slot), &key)
                .await
            {
                Ok(_) => outcome = Ok(()),
                Err(error) if outcome.is_err() => outcome = Err(not_taken(&error)),
                Err(_) => {}
            }
        }
        outcome
    }

    /// Who says that it provides `hash`, at most `limit`: those first that are announced in most of
    /// their places. None of them is proven to be there, or to have it.
    pub async fn providers(&self, hash: &Hash, limit: usize) -> Vec<NodeId> {
        let mut found: BTreeMap<NodeId, usize> = BTreeMap::new();
        let slots = (0..SLOTS).map(|slot| self.announced(hash, slot));
        for (slot, announced) in join_all(slots).await.into_iter().enumerate() {
            for node in announced {
                // Elsewhere than in its own places no provider announces itself.
                if slots_of(hash, &node).any(|own| usize::from(own) == slot) {
                    *found.entry(node).or_default() += 1;
                }
            }
        }
        let mut providers: Vec<(NodeId, usize)> = found.into_iter().collect();
        // Of those that are equal nobody is first by his own choice.
        providers.shuffle(&mut rand::rng());
        providers.sort_by_key(|(_, places)| std::cmp::Reverse(*places));
        providers.truncate(limit);
        providers.into_iter().map(|(node, _)| node).collect()
    }

    /// Who is announced in one place, not too long ago.
    async fn announced(&self, hash: &Hash, slot: u8) -> Vec<NodeId> {
        let mut found = Vec::new();
        let Ok(mut answers) = self
            .joined()
            .await
            .get_signed_peers(place(hash, slot))
            .await
        else {
            return found;
        };
        let listening = async {
            while let Some(announces) = answers.next().await {
                for announce in announces {
                    let node = NodeId::new(*announce.key());
                    let is_fresh = is_fresh(announce.timestamp() / 1_000_000);
                    if is_fresh && found.len() < OF_SLOT_MAX && !found.contains(&node) {
                        found.push(node);
                    }
                }
            }
        };
        let _late = timeout(LOOK_UP_LIMIT, listening).await;
        found
    }
}

/// What was said last, and when.
struct Said<T>(Option<(T, Instant)>);

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: PartialEq> Said<T> {
    /// Gives it back where it is to be said: it is new, or was said long ago.
    fn is_due(&self, current: T) -> Option<T> {
        let is_known = |(said, at): &(T, Instant)| *said == current && at.elapsed() < REPUBLISH;
        let is_said = self.0.as_ref().is_some_and(is_known);
        (!is_said).then_some(current)
    }

    /// It was tried to say it; how long to wait for the next look.
    fn tried(&mut self, what: T, outcome: Result<(), DhtError>) -> Duration {
        match outcome {
            Ok(()) => {
                self.0 = Some((what, Instant::now()));
                LOOK_INTERVAL
            }
            Err(error) => {
                tracing::warn!(%error, "nobody can find this node by the DHT");
                RETRY
            }
        }
    }
}

/// What a record under a node's key says, if it is in order.
fn believable(node: &NodeId, item: &MutableItem) -> Option<Whereabouts> {
    let said = Whereabouts::decode(item.value())?;
    let is_of_time = i64::try_from(said.said_at_s).is_ok_and(|said| said == item.seq());
    (item.key() == node.as_bytes() && is_of_time && is_fresh(said.said_at_s)).then_some(said)
}

fn is_fresh(said_at_s: u64) -> bool {
    let now_s = now_s();
    said_at_s <= now_s + AHEAD_MAX_S && said_at_s + AGE_MAX_S >= now_s
}

/// The place in the DHT of one slot of a hash.
fn place(hash: &Hash, slot: u8) -> Id {
    let derived = blake3::derive_key(SLOT_CONTEXT, &[hash.as_bytes(), &[slot][..]].concat());
    let mut id = [0; 20];
    id.copy_from_slice(&derived[..20]);
    Id::from(id)
}

/// The slots of a hash that a provider takes: different ones, by its node id.
fn slots_of(hash: &Hash, node: &NodeId) -> impl Iterator<Item = u8> {
    let drawn = blake3::hash(&[&hash.as_bytes()[..], node.as_bytes()].concat());
    let mut slots: Vec<u8> = Vec::with_capacity(SLOTS_OF_PROVIDER);
    for byte in drawn.as_bytes() {
        let slot = byte % SLOTS;
        if slots.len() < SLOTS_OF_PROVIDER && !slots.contains(&slot) {
            slots.push(slot);
        }
    }
    slots.into_iter()
}

fn signing_key(identity: &Identity) -> SigningKey {
    SigningKey::from_bytes(&identity.secret_bytes())
}

fn not_taken(error: &dyn std::fmt::Display) -> DhtError {
    DhtError::NotTaken(error.to_string())
}

fn now_s() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |time| time.as_secs())
}
