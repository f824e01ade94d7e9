//! The roaming lane: through a relay on loopback, and who may use it.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod pair;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pair::{PATIENCE, stream_on};
use shoal_link::{
    Admission, Dial, DialError, Endpoint, EndpointConfig, Identity, PathKind, Protocol, Relay,
    RelayServer, RoamingConfig, Trust,
};
use shoal_wire::{NodeId, Refusal, RelayPass};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

const PASS: &str = "AAAA";

/// Lets in who shows the pass, and remembers who is in.
#[derive(Default)]
struct ByPass {
    inside: Mutex<BTreeSet<u64>>,
    refused: Mutex<Vec<NodeId>>,
}

impl Admission for ByPass {
    fn admits(&self, node: NodeId, pass: Option<&str>, connection: u64) -> bool {
        if pass != Some(PASS) {
            self.refused.lock().unwrap().push(node);
            return false;
        }
        self.inside.lock().unwrap().insert(connection)
    }

    fn left(&self, connection: u64) {
        self.inside.lock().unwrap().remove(&connection);
    }
}

struct Running {
    identity: Identity,
    address: SocketAddr,
    server: RelayServer,
    admission: Arc<ByPass>,
    accepting: AbortHandle,
}

impl Running {
    async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), Identity::generate()).await
    }

    async fn at(address: SocketAddr, identity: Identity) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let admission = Arc::new(ByPass::default());
        let asked: Arc<dyn Admission> = Arc::<ByPass>::clone(&admission);
        let server = RelayServer::new(&identity, asked).unwrap();
        let (address, relay) = (listener.local_addr().unwrap(), server.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let relay = relay.clone();
                tokio::spawn(async move { relay.serve(connection).await });
            }
        });
        Self {
            identity,
            address,
            server,
            admission,
            accepting: accepting.abort_handle(),
        }
    }

    fn with_pass(&self, pass: &str) -> Relay {
        Relay {
            server: self.identity.node_id(),
            addresses: vec![self.address],
            discovery_port: None,
            pass: RelayPass::new(pass).unwrap(),
        }
    }

    fn relay(&self) -> Relay {
        self.with_pass(PASS)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn roaming(accept: &[Protocol]) -> Endpoint {
    Endpoint::bind(EndpointConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        identity: Identity::generate(),
        certificate: None,
        accept: accept.to_vec(),
        roaming: Some(RoamingConfig { maps_ports: false }),
    })
    .await
    .unwrap()
}

/// A node that is at the relay and can be reached there.
async fn homed(relay: &Running) -> Endpoint {
    let endpoint = roaming(&[Protocol::Transfer]).await;
    endpoint.join_relay(&relay.relay()).await.unwrap();
    tokio::time::timeout(PATIENCE, endpoint.is_homed())
        .await
        .unwrap();
    endpoint
}

fn through(relay: Relay, to: NodeId) -> Dial {
    Dial {
        addresses: Vec::new(),
        server_name: None,
        trust: Trust::Node(to),
        protocol: Protocol::Transfer,
        relays: vec![relay],
        deadline: PATIENCE,
    }
}

#[tokio::test]
async fn two_nodes_that_know_no_address_of_each_other_meet_at_the_relay() {
    let relay = Running::start().await;
    let server = homed(&relay).await;
    let client = roaming(&[]).await;
    let dialled = client.dial(through(relay.relay(), server.node_id())).await;
    let near = dialled.unwrap();
    let far = server.accept().await.unwrap();
    assert_eq!(near.remote_id(), Some(server.node_id()));
    assert_eq!(far.remote_id(), Some(client.node_id()));
    assert_eq!(near.protocol(), Protocol::Transfer);
    assert!(near.is_dialer() && !far.is_dialer());
    assert_eq!(
        near.export_key(b"label", b"context"),
        far.export_key(b"label", b"context")
    );

    near.widen();
    far.widen();
    let (mut out, mut back) = stream_on(&near, &far).await;
    let sent: Vec<u8> = (0..4_000_000_u32).map(|number| number as u8).collect();
    let received = async {
        let mut received = vec![0; sent.len()];
        back.recv.read_exact(&mut received).await.unwrap();
        received
    };
    let sending = async {
        out.send.write_all(&sent).await.unwrap();
        out.send.finish();
    };
    let (received, ()) = tokio::join!(received, sending);
    assert!(received == sent);
    // It began at the relay, whatever better path was found since.
    assert!(relay.server.figures().sent_bytes > 0);

    near.close(Refusal::Done);
    assert_eq!(far.closed().await.refusal(), Some(Refusal::Done));
    client.close(Refusal::Done).await;
    server.close(Refusal::Done).await;
}

#[tokio::test]
async fn a_direct_way_wins_over_the_relay() {
    let relay = Running::start().await;
    let server = homed(&relay).await;
    let client = roaming(&[]).await;
    let mut dial = through(relay.relay(), server.node_id());
    dial.addresses = vec![server.local_addr()];
    let near = client.dial(dial).await.unwrap();
    assert_eq!(near.path().kind, PathKind::Direct);
    assert_eq!(near.path().remote, server.local_addr());
}

#[tokio::test]
async fn a_stranger_is_not_let_in() {
    let relay = Running::start().await;
    let server = homed(&relay).await;
    let client = roaming(&[]).await;
    let mut dial = through(relay.with_pass("BBBB"), server.node_id());
    dial.deadline = Duration::from_secs(2);
    let met = client.dial(dial).await.map(|_| ());
    assert!(
        matches!(
            met,
            Err(DialError::TimedOut | DialError::Unreachable { .. })
        ),
        "{met:?}"
    );
    let refused = relay.admission.refused.lock().unwrap().clone();
    assert!(refused.contains(&client.node_id()), "{refused:?}");
    assert_eq!(relay.admission.inside.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_relay_that_is_not_the_servers_learns_nothing() {
    let relay = Running::start().await;
    let server = homed(&relay).await;
    let client = roaming(&[]).await;
    let mut impostor = relay.relay();
    impostor.server = Identity::generate().node_id();
    let mut dial = through(impostor, server.node_id());
    dial.deadline = Duration::from_secs(2);
    assert!(client.dial(dial).await.is_err());
    assert!(relay.admission.refused.lock().unwrap().is_empty());
    assert_eq!(relay.admission.inside.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn who_left_is_not_counted_any_more() {
    let relay = Running::start().await;
    let endpoint = homed(&relay).await;
    endpoint.close(Refusal::Done).await;
    let gone = async {
        while !relay.admission.inside.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn a_relay_that_restarts_takes_its_nodes_in_again() {
    let relay = Running::start().await;
    let server = homed(&relay).await;
    let (address, identity) = (relay.address, relay.identity.clone());
    relay.server.shutdown().await;
    drop(relay);
    let relay = loop {
        // The port is free once the old listener's task has ended.
        match TcpListener::bind(address).await {
            Ok(free) => drop(free),
            Err(_) => {
                tokio::task::yield_now().await;
                continue;
            }
        }
        break Running::at(address, identity).await;
    };
    let client = roaming(&[]).await;
    let dial = Dial {
        deadline: 3 * PATIENCE,
        ..through(relay.relay(), server.node_id())
    };
    let near = client.dial(dial).await.unwrap();
    assert_eq!(near.remote_id(), Some(server.node_id()));
}
