//! One transfer over the roaming lane: through a relay in this process, until a straight path is
//! found. Where no UDP gets through, that is never.

use std::sync::Arc;
use std::time::Duration;

use shoal_link::{
    Admission, Dial, Endpoint, EndpointConfig, Identity, Protocol, Relay, RelayServer,
    RoamingConfig, Trust,
};
use shoal_wire::{NodeId, RelayPass};
use tokio::net::TcpListener;

use crate::linked;

struct Everybody;

impl Admission for Everybody {
    fn admits(&self, _node: NodeId, _pass: Option<&str>, _connection: u64) -> bool {
        true
    }

    fn left(&self, _connection: u64) {}
}

async fn relay() -> Relay {
    let identity = Identity::generate();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = RelayServer::new(&identity, Arc::new(Everybody)).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let relay = relay.clone();
            tokio::spawn(async move { relay.serve(connection).await });
        }
    });
    Relay {
        server: identity.node_id(),
        addresses: vec![address],
        discovery_port: None,
        pass: RelayPass::new("A").unwrap(),
    }
}

async fn endpoint() -> Endpoint {
    let config = EndpointConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        identity: Identity::generate(),
        certificate: None,
        accept: vec![Protocol::Transfer],
        roaming: Some(RoamingConfig { maps_ports: false }),
    };
    Endpoint::bind(config).await.unwrap()
}

pub(crate) async fn both(total_bytes: u64) -> u64 {
    let (relay, server, client) = (relay().await, endpoint().await, endpoint().await);
    server.join_relay(&relay).await.unwrap();
    server.is_homed().await;
    let dial = Dial {
        addresses: Vec::new(),
        server_name: None,
        trust: Trust::Node(server.node_id()),
        protocol: Protocol::Transfer,
        relays: vec![relay],
        deadline: Duration::from_secs(10),
    };
    let receiving = tokio::spawn(linked::receive(server));
    let link = client.dial(dial).await.unwrap();
    linked::send_over(&link, total_bytes).await;
    eprintln!("{:?}", link.path());
    client.close(shoal_wire::Refusal::Done).await;
    receiving.await.unwrap()
}
