//! One transfer over the roaming lane: through a relay in this process, until a straight path is
//! found. Where no UDP gets through, that is never.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use shoal_link::{
    Admission, Dial, Endpoint, EndpointConfig, Https, Identity, Meter, Protocol, Relay,
    RelayServer, RoamingConfig, Trust, Visitor,
};
use shoal_wire::RelayPass;
use tokio::net::TcpListener;

use crate::linked;

struct Everybody;

impl Admission for Everybody {
    fn admits(&self, _visitor: Visitor<'_>) -> Option<Arc<dyn Meter>> {
        Some(Arc::new(Everything))
    }

    fn left(&self, _connection: u64) {}
}

struct Everything;

impl Meter for Everything {
    fn take(&self, _bytes: u64) -> bool {
        true
    }
}

async fn relay() -> Relay {
    let identity = Identity::generate();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = RelayServer::new(Arc::new(Everybody));
    let https = Https::new(&identity, None).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (relay, https) = (relay.clone(), https.clone());
            let answer =
                move |request| std::future::ready(Ok::<_, Infallible>(relay.answer(request, ())));
            tokio::spawn(async move { https.serve(connection, service_fn(answer)).await });
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
