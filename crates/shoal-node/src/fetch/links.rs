//! Links to other peers, shared by the transfers that use them at the same time.
//!
//! A link is dialed by the first transfer that needs it and closed by the last one that lets go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use shoal_link::{Dial, DialError, Endpoint, Link, Protocol, Trust};
use shoal_wire::message::Provider;
use shoal_wire::{NodeId, Refusal};
use tokio::sync::OnceCell;

/// How long reaching another peer may take, all its addresses together.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Links {
    endpoint: Endpoint,
    open: Mutex<BTreeMap<NodeId, Weak<Lease>>>,
}

/// A share in a link.
#[derive(Debug, Default)]
pub(super) struct Lease {
    link: OnceCell<Link>,
}

impl Lease {
    /// The link, once it is dialed.
    pub(super) fn link(&self) -> Option<&Link> {
        self.link.get()
    }

    fn is_usable(&self) -> bool {
        self.link
            .get()
            .is_none_or(|link| link.close_reason().is_none())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(link) = self.link.get() {
            link.close(Refusal::Done);
        }
    }
}

impl Links {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            open: Mutex::default(),
        }
    }

    /// The link to a provider: the one that is open, or a new one.
    pub(super) async fn lease(&self, provider: &Provider) -> Result<Arc<Lease>, DialError> {
        let lease = self.lease_of(provider.node);
        let dial = Dial {
            addresses: provider.addresses.to_vec(),
            server_name: None,
            trust: Trust::Node(provider.node),
            protocol: Protocol::Transfer,
            deadline: DIAL_DEADLINE,
        };
        let link = lease
            .link
            .get_or_try_init(|| self.endpoint.dial(dial))
            .await?;
        link.widen();
        Ok(lease)
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
