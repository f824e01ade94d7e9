//! Handshakes begun and never finished.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod pair;

use std::time::Duration;

use pair::{endpoint, link_between, outcome, to};
use shoal_link::{Dial, Endpoint, Protocol};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// More than the handshakes that may be pending before an address must be proven.
const HALF_OPEN: usize = 100;

#[tokio::test]
async fn half_open_handshakes_do_not_keep_an_honest_dialer_out() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let mut attackers = Vec::new();
    for initial in initial_datagrams().await {
        let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        attacker
            .send_to(&initial, server.local_addr())
            .await
            .unwrap();
        attackers.push(attacker);
    }
    let client = endpoint(&[]).await;
    let (near, far) = link_between(&client, &server).await;
    assert_eq!(near.remote_id(), Some(server.node_id()));
    assert_eq!(far.remote_id(), Some(client.node_id()));

    let mut retries = 0;
    for attacker in attackers {
        let mut datagram = [0; 2048];
        let answer = attacker.try_recv(&mut datagram);
        retries += usize::from(answer.is_ok() && datagram[0] & RETRY_TYPE == RETRY_TYPE);
    }
    assert!(
        retries >= HALF_OPEN - 64,
        "{retries} had to prove their address"
    );
}

#[tokio::test]
async fn rubbish_is_not_answered_with_more_than_it_brought() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for len_bytes in [0, 1, 20, 100, 1200] {
        let rubbish = vec![0xc3; len_bytes];
        stranger
            .send_to(&rubbish, server.local_addr())
            .await
            .unwrap();
    }
    let client = endpoint(&[]).await;
    let _link = link_between(&client, &server).await;
    let mut answered_bytes = 0;
    while let Ok(len_bytes) = stranger.try_recv(&mut [0; 2048]) {
        answered_bytes += len_bytes;
    }
    assert!(answered_bytes <= 1321, "{answered_bytes}");
}

/// The packet type bits of a Retry in a long header (RFC 9000 section 17.2).
const RETRY_TYPE: u8 = 0x30;

/// The first datagrams of as many dials, each with ids of its own.
async fn initial_datagrams() -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = endpoint(&[]).await;
    let mut dials = JoinSet::new();
    for _ in 0..HALF_OPEN {
        dials.spawn(dial_in_vain(client.clone(), sink.local_addr().unwrap()));
    }
    let mut datagrams = Vec::new();
    while datagrams.len() < HALF_OPEN {
        let mut datagram = vec![0; 2048];
        let len_bytes = sink.recv(&mut datagram).await.unwrap();
        datagram.truncate(len_bytes);
        datagrams.push(datagram);
    }
    datagrams
}

async fn dial_in_vain(client: Endpoint, sink: std::net::SocketAddr) {
    let dial = Dial {
        addresses: vec![sink],
        deadline: Duration::from_millis(900),
        ..to(&client)
    };
    assert!(outcome(&client, dial).await.is_err());
}
