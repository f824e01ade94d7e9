//! A server under a flood: what it costs, and that others are served.

mod support;

use std::time::Duration;

use shoal_link::{Dial, Endpoint, EndpointConfig, Identity, Protocol, Trust};
use support::{Server, World};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

const BEGUN: usize = 10_000;
/// Dials whose first datagrams are taken at once.
const BATCH: usize = 100;
/// What the server may grow by meanwhile: 1,024 handshakes at once, of some tens of kilobytes.
const GROWTH_MAX_BYTES: usize = 96 << 20;

#[test]
fn ten_thousand_begun_handshakes_cost_little_memory_and_keep_nobody_out() {
    let world = World::new();
    let server = world.server();
    let status = ["status", "--join", &server.join];
    world.run(&status).expect(0);
    let before = resident_bytes(&server);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(flood(&server));
    world.run(&status).expect(0);
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < GROWTH_MAX_BYTES, "{grown} bytes more");
}

/// Memory of the server's process.
fn resident_bytes(server: &Server) -> usize {
    let path = format!("/proc/{}/statm", server.daemon.id());
    let shown = std::fs::read_to_string(path).expect("the server runs");
    let pages = shown.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.map_or(0, |pages: usize| pages * 4096)
}

/// Begins as many handshakes and finishes none.
async fn flood(server: &Server) {
    let sink = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let to = sink.local_addr().expect("an address");
    for _ in 0..BEGUN / BATCH {
        let client = Endpoint::bind(EndpointConfig {
            bind: "127.0.0.1:0".parse().expect("an address"),
            identity: Identity::generate(),
            certificate: None,
            accept: Vec::new(),
            roaming: None,
        })
        .await
        .expect("an endpoint");
        let mut dials = JoinSet::new();
        for _ in 0..BATCH {
            let client = client.clone();
            let dial = Dial {
                addresses: vec![to],
                server_name: None,
                trust: Trust::Nothing,
                protocol: Protocol::Control,
                relays: Vec::new(),
                deadline: Duration::from_secs(5),
            };
            dials.spawn(async move { client.dial(dial).await.map(drop) });
        }
        let attacker = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        for _ in 0..BATCH {
            let mut datagram = [0; 2048];
            let length = sink.recv(&mut datagram).await.expect("a first datagram");
            let sent = attacker.send_to(&datagram[..length], &server.address).await;
            sent.expect("it is sent");
        }
    }
}
