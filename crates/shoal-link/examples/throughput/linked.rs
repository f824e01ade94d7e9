//! One transfer over this crate's links.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use shoal_link::{Dial, Endpoint, EndpointConfig, Identity, Link, Protocol, Trust};
use shoal_wire::Refusal;

use crate::WRITE_BYTES;

pub(crate) async fn endpoint(bind: SocketAddr) -> Endpoint {
    let config = EndpointConfig {
        bind,
        identity: Identity::generate(),
        certificate: None,
        accept: vec![Protocol::Transfer],
        roaming: None,
    };
    Endpoint::bind(config).await.unwrap()
}

pub(crate) async fn receive(endpoint: Endpoint) -> u64 {
    let link = endpoint.accept().await.unwrap();
    link.widen();
    let mut stream = link.accept().await.unwrap();
    let mut received_bytes = 0;
    while let Some(chunk) = stream.recv.read_chunk(WRITE_BYTES).await.unwrap() {
        received_bytes += chunk.len() as u64;
    }
    stream.send.write_all(b"!").await.unwrap();
    stream.send.finish();
    link.closed().await;
    received_bytes
}

pub(crate) async fn send(bind: SocketAddr, to: SocketAddr, total_bytes: u64) -> u64 {
    let endpoint = endpoint(bind).await;
    let dial = Dial {
        addresses: vec![to],
        server_name: None,
        trust: Trust::Nothing,
        protocol: Protocol::Transfer,
        relays: Vec::new(),
        deadline: Duration::from_secs(10),
    };
    let link = endpoint.dial(dial).await.unwrap();
    send_over(&link, total_bytes).await;
    endpoint.close(Refusal::Done).await;
    total_bytes
}

pub(crate) async fn send_over(link: &Link, total_bytes: u64) {
    link.widen();
    let mut stream = link.open().await.unwrap();
    let piece = Bytes::from(vec![0x5a; WRITE_BYTES]);
    for _ in 0..total_bytes / WRITE_BYTES as u64 {
        stream.send.write_chunk(piece.clone()).await.unwrap();
    }
    stream.send.finish();
    stream.recv.read_exact(&mut [0]).await.unwrap();
}
