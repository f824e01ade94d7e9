//! What lies before a node: it is tried to be reached from another port of this server.
//!
//! For one test two more UDP sockets are opened. From one the node is dialled once, at the address
//! where the server sees it: whether that gets through, unasked, is what its NAT lets in. The node
//! dials the other one, and hears whether its NAT shows it under the same address as before. Two,
//! because some NATs take a new port towards whom they have just turned away. Nobody but the node
//! that asked is dialled or answered, and its address is proven by the link on which it asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_link::{Dial, Endpoint, EndpointConfig, Link, PathKind, Protocol, Trust};
use shoal_node::tasks::Tasks;
use shoal_wire::message::ErrorReport;
use shoal_wire::{Communication, NodeId, Refusal};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::connection::attend;
use crate::coordinator::Coordinator;
use crate::refused::refused;

/// Tests at once: each holds two sockets for some seconds.
const TESTS_MAX: usize = 16;
/// How long the node is dialled: a lost datagram is sent again after a second.
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// How long the other port is open after that.
const OPEN_FOR: Duration = Duration::from_secs(10);

/// The tests under way.
pub(crate) struct NatTests {
    places: Arc<Semaphore>,
    tasks: Tasks,
}

impl NatTests {
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self {
            places: Arc::new(Semaphore::new(TESTS_MAX)),
            tasks,
        }
    }

    /// Tests what lies before the node at the other end of `link`.
    pub(crate) async fn run(
        &self,
        coordinator: &Arc<Coordinator>,
        (node, link): (NodeId, &Link),
    ) -> Result<Communication, ErrorReport> {
        let path = link.path();
        if path.kind == PathKind::Relayed {
            return Err(refused(Refusal::Denied, "this link is relayed"));
        }
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| refused(Refusal::QuotaExceeded, "too many tests at once"))?;
        let bind = async |accept| {
            let config = EndpointConfig {
                bind: SocketAddr::new(coordinator.local_addr().ip(), 0),
                identity: coordinator.identity.clone(),
                certificate: None,
                accept,
                roaming: None,
            };
            let bound = Endpoint::bind(config).await;
            bound.map_err(|error| refused(Refusal::Internal, error))
        };
        let dialling = bind(Vec::new()).await?;
        let answering = bind(vec![Protocol::Control]).await?;
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
        let (coordinator, tasks) = (Arc::clone(coordinator), self.tasks.clone());
        self.tasks.spawn(async move {
            // It ends with the time, or with the endpoint.
            let _ended = timeout(OPEN_FOR, answer(&coordinator, (&answering, node), &tasks)).await;
            answering.close(Refusal::Done).await;
            drop(place);
        });
        Ok(tested)
    }
}

/// Tells one node where it is seen, as on the first port.
async fn answer(
    coordinator: &Arc<Coordinator>,
    (endpoint, node): (&Endpoint, NodeId),
    tasks: &Tasks,
) {
    while let Some(link) = endpoint.accept().await {
        if link.remote_id() != Some(node) {
            link.close(Refusal::Denied);
            continue;
        }
        let connection = coordinator.next_connection();
        attend(Arc::clone(coordinator), link, connection, tasks.clone()).await;
    }
}
