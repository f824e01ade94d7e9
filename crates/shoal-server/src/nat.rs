//! What lies before a node: it is tried to be reached from another port of this server.
//!
//! For one test two more UDP sockets are opened. From one the node is dialled once, at the address
//! where the server sees it: whether that gets through, unasked, is what its NAT lets in. The node
//! dials the other one, and hears whether its NAT shows it under the same address as before. Two,
//! because some NATs take a new port towards whom they have just turned away. Nobody but the node
//! that asked is dialled or answered, and its address is proven by the handshake of the link on which it asks.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_link::{Dial, Endpoint, EndpointConfig, Identity, Link, PathKind, Protocol, Trust};
use shoal_node::tasks::Tasks;
use shoal_wire::address::network_of;
use shoal_wire::message::ErrorReport;
use shoal_wire::{Communication, NodeId, Refusal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::refused::refused;

/// Tests at once: each holds two sockets for some seconds.
const TESTS_MAX: usize = 16;
/// Of these, of nodes in one network; of one node there is one.
const TESTS_OF_NETWORK_MAX: usize = 4;
/// How long the node is dialled: a lost datagram is sent again after a second.
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// How long the other port is open after that.
const OPEN_FOR: Duration = Duration::from_secs(10);

/// The tests under way.
pub(crate) struct NatTests {
    under_way: Arc<Mutex<BTreeMap<NodeId, IpAddr>>>,
    identity: Identity,
    /// Where the server listens.
    ip: IpAddr,
    /// Takes the links of nodes that dial the other port.
    links: mpsc::Sender<Link>,
    tasks: Tasks,
}

impl NatTests {
    /// Tests of the server with this identity at this address, and the links that are made in them:
    /// they are attended to like all others.
    pub(crate) fn new(
        identity: Identity,
        ip: IpAddr,
        tasks: Tasks,
    ) -> (Self, mpsc::Receiver<Link>) {
        let (links, made) = mpsc::channel(TESTS_MAX);
        let tests = Self {
            under_way: Arc::default(),
            identity,
            ip,
            links,
            tasks,
        };
        (tests, made)
    }

    /// Tests what lies before the node at the other end of `link`.
    pub(crate) async fn run(
        &self,
        (node, link): (NodeId, &Link),
    ) -> Result<Communication, ErrorReport> {
        let path = link.path();
        // A node that moves says from where, and proves it later.
        if path.kind != PathKind::Direct || path.remote != link.first_remote() {
            let text = "this link is not direct, or has moved: ask on another one";
            return Err(refused(Refusal::Denied, text));
        }
        let place = self.place(node, path.remote.ip());
        let place =
            place.ok_or_else(|| refused(Refusal::QuotaExceeded, "too many tests at once"))?;
        let dialling = self.open(Vec::new()).await?;
        let answering = self.open(vec![Protocol::Control]).await?;
        let dial = Dial {
            addresses: vec![path.remote],
            server_name: None,
            trust: Trust::Node(node),
            protocol: Protocol::Transfer,
            relays: Vec::new(),
            deadline: DIAL_LIMIT,
        };
        let is_reached = dialling.dial(dial).await.is_ok();
        dialling.close(Refusal::Done).await;
        let tested = Communication::NatTested {
            port: answering.local_addr().port(),
            is_reached,
        };
        let links = self.links.clone();
        self.tasks.spawn(async move {
            // It ends with the time, or with the endpoint.
            let _ended = timeout(OPEN_FOR, answer((&answering, node), &links)).await;
            answering.close(Refusal::Done).await;
            drop(place);
        });
        Ok(tested)
    }

    fn place(&self, node: NodeId, ip: IpAddr) -> Option<Place> {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let network = network_of(ip).unwrap_or(ip);
        let of_network = under_way.values().filter(|one| **one == network);
        if under_way.len() >= TESTS_MAX
            || of_network.count() >= TESTS_OF_NETWORK_MAX
            || under_way.contains_key(&node)
        {
            return None;
        }
        under_way.insert(node, network);
        Some(Place {
            under_way: Arc::clone(&self.under_way),
            node,
        })
    }

    async fn open(&self, accept: Vec<Protocol>) -> Result<Endpoint, ErrorReport> {
        let config = EndpointConfig {
            bind: SocketAddr::new(self.ip, 0),
            identity: self.identity.clone(),
            certificate: None,
            accept,
            roaming: None,
        };
        let bound = Endpoint::bind(config).await;
        bound.map_err(|error| refused(Refusal::Internal, error))
    }
}

/// One test, until it is dropped.
struct Place {
    under_way: Arc<Mutex<BTreeMap<NodeId, IpAddr>>>,
    node: NodeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way.remove(&self.node);
    }
}

/// Hands on the links of one node, which hears on each where it is seen.
async fn answer((endpoint, node): (&Endpoint, NodeId), links: &mpsc::Sender<Link>) {
    while let Some(link) = endpoint.accept().await {
        if link.remote_id() != Some(node) {
            link.close(Refusal::Denied);
        } else if let Err(mpsc::error::TrySendError::Full(link)) = links.try_send(link) {
            link.close(Refusal::QuotaExceeded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_node_and_no_network_has_all_tests() {
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        let there: IpAddr = "192.0.3.2".parse().unwrap();
        let (tests, _links) = NatTests::new(Identity::generate(), here, Tasks::new());
        let node = |number| NodeId::new([number; 32]);
        let first = tests.place(node(0), here).unwrap();
        assert!(tests.place(node(0), there).is_none(), "one of a node");
        let more: Vec<_> = (1..9)
            .filter_map(|number| tests.place(node(number), here))
            .collect();
        assert_eq!(more.len() + 1, TESTS_OF_NETWORK_MAX);
        let other = tests.place(node(9), there);
        assert!(other.is_some());
        drop((first, more, other));
        assert!(tests.place(node(0), here).is_some());
    }
}
