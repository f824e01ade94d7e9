//! Links to other peers, shared by the transfers that use them at the same time.
//!
//! A link is dialed by the first transfer that needs it and closed by the last one that lets go.
//! Where the files are on offer, each new link opens the offer before anything else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use shoal_link::{Dial, DialError, Endpoint, Link, Protocol, Stream, Trust};
use shoal_wire::message::Provider;
use shoal_wire::offer::OfferDescription;
use shoal_wire::{Communication, Hash, NodeId, NodeName, OfferSecret, Refusal};
use tokio::sync::OnceCell;

use super::FetchError;
use crate::offer::secret_of_content;
use crate::relays::Relays;
use crate::requests::{RequestError, answer, converse};

/// How long reaching another peer may take, all its addresses together.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// How long the last words of a visit may take to arrive.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(5);
/// How long they may take where there is nothing to be gained by them.
const GIVING_UP_DEADLINE: Duration = Duration::from_secs(1);

/// What opens an offer on every new link.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// With what.
    pub key: OfferKey,
    /// How long the sender may take to let this node in: a person may have to say so, a large folder
    /// may have to be listed, or all of a pipe read.
    pub patience: Duration,
    /// The name that this node goes by.
    pub name: NodeName,
}

/// What shows that a node may come.
#[derive(Debug, Clone)]
pub enum OfferKey {
    /// The secret of a ticket.
    Ticket(OfferSecret),
    /// That it knows the hash of the one file. What is said of it is good for one receiver at one
    /// provider: it tells neither of them a hash that they do not know.
    Content(Hash),
}

impl OfferKey {
    fn secret(&self, provider: &NodeId, receiver: &NodeId) -> OfferSecret {
        match self {
            Self::Ticket(secret) => *secret,
            Self::Content(hash) => secret_of_content(hash, provider, receiver),
        }
    }
}

#[derive(Debug)]
pub(super) struct Links {
    endpoint: Endpoint,
    greeting: Option<Greeting>,
    relays: Relays,
    open: Mutex<BTreeMap<NodeId, Weak<Lease>>>,
}

/// A share in a link.
#[derive(Debug, Default)]
pub(super) struct Lease {
    open: OnceCell<Open>,
}

#[derive(Debug)]
struct Open {
    link: Link,
    visit: Option<(tokio::sync::Mutex<Stream>, OfferDescription)>,
}

impl Lease {
    /// The link, once it is dialed.
    pub(super) fn link(&self) -> Option<&Link> {
        self.open.get().map(|open| &open.link)
    }

    fn is_usable(&self) -> bool {
        self.link().is_none_or(|link| link.close_reason().is_none())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(link) = self.link() {
            link.close(Refusal::Done);
        }
    }
}

/// Why there is no link.
pub(super) enum LeaseError {
    Dial(DialError),
    Opening(RequestError),
}

impl LeaseError {
    pub(super) fn of(self, provider: &Provider) -> FetchError {
        match self {
            Self::Dial(reason) => FetchError::Unreachable {
                peer: provider.name.clone(),
                reason: reason.to_string(),
            },
            Self::Opening(error) => FetchError::of_request(provider, error),
        }
    }
}

/// An offer that is open to this node, for as long as this lives.
#[derive(Debug)]
pub struct OpenOffer {
    lease: Arc<Lease>,
    description: OfferDescription,
}

impl OpenOffer {
    /// What is on offer.
    pub fn description(&self) -> &OfferDescription {
        &self.description
    }

    /// The link to the sender.
    pub fn link(&self) -> Option<&Link> {
        self.lease.link()
    }

    /// Tells the sender that this node has everything that it wanted, durably and where it belongs,
    /// and waits until it knows; false where it cannot be told.
    pub async fn done(&self, files: u64, bytes: u64) -> bool {
        let done = Communication::OfferDone { files, bytes };
        self.say_last(&done, FAREWELL_DEADLINE).await
    }

    /// Tells the sender that this node leaves without having everything, and why.
    pub async fn give_up(&self, reason: Refusal) {
        let given_up = Communication::refused(reason, "");
        // A sender that is gone needs no reason.
        let _ = self.say_last(&given_up, GIVING_UP_DEADLINE).await;
    }

    /// Says the last word of the visit, which the sender answers by ending its side too.
    async fn say_last(&self, message: &Communication, deadline: Duration) -> bool {
        let visit = self.lease.open.get().and_then(|open| open.visit.as_ref());
        let Some((stream, _)) = visit else {
            return false;
        };
        let mut stream = stream.lock().await;
        let Stream { send, recv, .. } = &mut *stream;
        if send.say(message).await.is_err() {
            return false;
        }
        send.finish();
        matches!(recv.hear(deadline).await, Ok(None))
    }
}

impl Links {
    pub(super) fn new(endpoint: Endpoint, greeting: Option<Greeting>, relays: Relays) -> Self {
        Self {
            endpoint,
            greeting,
            relays,
            open: Mutex::default(),
        }
    }

    /// The same but for what it says first, and by which relays it goes.
    pub(super) fn but(&self, greeting: Option<Greeting>, relays: Option<Relays>) -> Self {
        let greeting = greeting.or_else(|| self.greeting.clone());
        let relays = relays.unwrap_or_else(|| self.relays.clone());
        Self::new(self.endpoint.clone(), greeting, relays)
    }

    /// The link to a provider: the one that is open, or a new one.
    pub(super) async fn lease(&self, provider: &Provider) -> Result<Arc<Lease>, LeaseError> {
        let lease = self.lease_of(provider.node);
        lease
            .open
            .get_or_try_init(|| self.open(provider))
            .await
            .map(drop)?;
        Ok(lease)
    }

    /// Opens the offer of a provider.
    pub(super) async fn visit(&self, provider: &Provider) -> Result<OpenOffer, LeaseError> {
        let lease = self.lease(provider).await?;
        let visit = lease.open.get().and_then(|open| open.visit.as_ref());
        let unexpected = LeaseError::Opening(RequestError::Unexpected);
        let (_, description) = visit.ok_or(unexpected)?;
        Ok(OpenOffer {
            description: description.clone(),
            lease,
        })
    }

    async fn open(&self, provider: &Provider) -> Result<Open, LeaseError> {
        let dial = Dial {
            addresses: provider.addresses.to_vec(),
            server_name: None,
            trust: Trust::Node(provider.node),
            protocol: Protocol::Transfer,
            relays: self.relays.list(),
            deadline: DIAL_DEADLINE,
        };
        let link = self.endpoint.dial(dial).await.map_err(LeaseError::Dial)?;
        let key = self.greeting.as_ref().map(|greeting| &greeting.key);
        // A stranger may fill much memory only while something is fetched from it.
        if !matches!(key, Some(OfferKey::Content(_))) {
            link.widen();
        }
        let visit = match &self.greeting {
            Some(greeting) => {
                let receiver = self.endpoint.node_id();
                let secret = greeting.key.secret(&provider.node, &receiver);
                let greeted = greet(&link, (greeting, secret)).await;
                Some(greeted.map_err(LeaseError::Opening)?)
            }
            None => None,
        };
        Ok(Open { link, visit })
    }

    /// The next lease dials anew; who uses the link that is there keeps it.
    pub(super) fn forget(&self, node: NodeId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&node);
    }

    fn lease_of(&self, node: NodeId) -> Arc<Lease> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, lease| lease.strong_count() > 0);
        let usable = open
            .get(&node)
            .and_then(Weak::upgrade)
            .filter(|lease| lease.is_usable());
        usable.unwrap_or_else(|| {
            let lease = Arc::new(Lease::default());
            open.insert(node, Arc::downgrade(&lease));
            lease
        })
    }
}

async fn greet(
    link: &Link,
    (greeting, secret): (&Greeting, OfferSecret),
) -> Result<(tokio::sync::Mutex<Stream>, OfferDescription), RequestError> {
    let opening = Communication::OfferOpen {
        secret,
        name: greeting.name.clone(),
    };
    let mut stream = converse(link, &opening).await?;
    match answer(&mut stream, greeting.patience).await? {
        Communication::OfferDescribed(description) => {
            Ok((tokio::sync::Mutex::new(stream), description))
        }
        _ => Err(RequestError::Unexpected),
    }
}
