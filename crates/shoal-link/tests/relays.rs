//! The roaming lane: through a relay on loopback, and who may use it.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod anyone;
mod pair;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::service::service_fn;
use iroh::SecretKey;
use iroh::dns::DnsResolver;
use iroh_relay::client::{Client, ClientBuilder};
use iroh_relay::protos::relay::{ClientToRelayMsg, Datagrams, RelayToClientMsg};
use pair::{PATIENCE, stream_on};
use shoal_link::{
    Admission, Dial, DialError, Endpoint, EndpointConfig, Https, Identity, Meter, PathKind,
    Protocol, Relay, RelayServer, RoamingConfig, Trust, Visitor,
};
use shoal_wire::{NodeId, Refusal, RelayPass};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

const PASS: &str = "AAAA";

/// Lets in who shows the pass, as long as all that they send is not too much, and remembers who is
/// in.
struct ByPass {
    inside: Mutex<BTreeSet<u64>>,
    refused: Mutex<Vec<NodeId>>,
    left_bytes: Arc<Left>,
}

impl ByPass {
    fn new(most_bytes: u64) -> Self {
        Self {
            inside: Mutex::default(),
            refused: Mutex::default(),
            left_bytes: Arc::new(Left(AtomicU64::new(most_bytes))),
        }
    }
}

impl Admission for ByPass {
    fn admits(&self, visitor: Visitor<'_>) -> Option<Arc<dyn Meter>> {
        if visitor.pass != Some(PASS) || !self.left_bytes.take(0) {
            self.refused.lock().unwrap().push(visitor.node);
            return None;
        }
        self.inside.lock().unwrap().insert(visitor.connection);
        let meter: Arc<dyn Meter> = Arc::<Left>::clone(&self.left_bytes);
        Some(meter)
    }

    fn left(&self, connection: u64) {
        self.inside.lock().unwrap().remove(&connection);
    }
}

struct Left(AtomicU64);

impl Meter for Left {
    fn take(&self, bytes: u64) -> bool {
        let taken = |left: u64| Some(left.saturating_sub(bytes));
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
        before.unwrap() > bytes
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
        Self::with_budget(address, identity, u64::MAX).await
    }

    async fn with_budget(address: SocketAddr, identity: Identity, most_bytes: u64) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let admission = Arc::new(ByPass::new(most_bytes));
        let asked: Arc<dyn Admission> = Arc::<ByPass>::clone(&admission);
        let server = RelayServer::new(asked);
        let https = Https::new(&identity, None).unwrap();
        let (address, relay) = (listener.local_addr().unwrap(), server.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (relay, https) = (relay.clone(), https.clone());
                let answer = move |request| {
                    std::future::ready(Ok::<_, Infallible>(relay.answer(request, ())))
                };
                tokio::spawn(async move { https.serve(connection, service_fn(answer)).await });
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
    let dial = through(relay.with_pass("BBBB"), server.node_id());
    let met = client.dial(dial).await.map(|_| ());
    let Err(DialError::Unreachable { reason }) = met else {
        panic!("{met:?}");
    };
    assert!(reason.contains("a valid pass is needed"), "{reason}");
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

#[tokio::test]
async fn a_node_that_sent_what_it_may_is_sent_away() {
    let most_bytes = 300_000;
    let relay = Running::with_budget(
        "127.0.0.1:0".parse().unwrap(),
        Identity::generate(),
        most_bytes,
    )
    .await;
    let (first, second) = (homed(&relay).await, homed(&relay).await);
    assert_eq!(relay.admission.inside.lock().unwrap().len(), 2);
    let to = first.node_id();
    let mut dial = through(relay.relay(), to);
    dial.deadline = Duration::from_secs(5);
    let _ = second.dial(dial).await.map(|near| near.widen());
    relay.admission.left_bytes.0.store(1, Ordering::Relaxed);
    let sent_away = async {
        while relay.admission.refused.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(3 * PATIENCE, sent_away).await.unwrap();
    drop((first, second));
}

#[tokio::test]
async fn a_relay_that_said_nothing_at_first_is_reached_once_it_speaks() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, identity) = (silent.local_addr().unwrap(), Identity::generate());
    let relay = Relay {
        server: identity.node_id(),
        addresses: vec![address],
        discovery_port: None,
        pass: RelayPass::new(PASS).unwrap(),
    };
    let endpoint = roaming(&[Protocol::Transfer]).await;
    endpoint.join_relay(&relay).await.unwrap();
    let (held, _) = silent.accept().await.unwrap();
    drop(silent);
    // The connection that says nothing stays open.
    let _relay = Running::at(address, identity).await;
    tokio::time::timeout(4 * PATIENCE, endpoint.is_homed())
        .await
        .unwrap();
    drop(held);
}

/// A client of the relay that reads only when it is asked to.
async fn client(relay: &Running, identity: &Identity) -> Client {
    let url: iroh::RelayUrl = format!("https://{}/", relay.address).parse().unwrap();
    let key = SecretKey::from_bytes(&identity.secret_bytes());
    let building = ClientBuilder::new(url, key, DnsResolver::new());
    let building = building
        .tls_client_config(anyone::trusted())
        .auth_token(PASS);
    building.connect().await.unwrap()
}

fn to(node: &Identity, contents: Vec<u8>) -> ClientToRelayMsg {
    ClientToRelayMsg::Datagrams {
        dst_endpoint_id: iroh::EndpointId::from_bytes(node.node_id().as_bytes()).unwrap(),
        datagrams: Datagrams::from(contents),
    }
}

#[tokio::test]
async fn who_reads_nothing_loses_its_place_and_holds_nobody_up() {
    let relay = Running::start().await;
    let [deaf, noisy, awake] = [(); 3].map(|()| Identity::generate());
    let held = client(&relay, &deaf).await;
    let mut sending = client(&relay, &noisy).await;
    let mut reading = client(&relay, &awake).await;
    assert_eq!(relay.admission.inside.lock().unwrap().len(), 3);
    let mut sent = 0_u64;
    let flooding = async {
        while relay.admission.inside.lock().unwrap().len() == 3 {
            sending.send(to(&deaf, vec![7; 32_000])).await.unwrap();
            sent += 1;
            // Meanwhile somebody else is served.
            if sent.is_multiple_of(64) {
                sending.send(to(&awake, vec![8; 100])).await.unwrap();
                let passed_on = |message| matches!(message, RelayToClientMsg::Datagrams { .. });
                while !passed_on(reading.next().await.unwrap().unwrap()) {}
            }
        }
    };
    tokio::time::timeout(2 * PATIENCE, flooding).await.unwrap();
    let figures = relay.server.figures();
    assert!(figures.dropped > 0, "{figures:?}");
    assert!(sent > 64, "{sent}");
    drop(held);
}
