//! Two endpoints on loopback and the dials between them, for the tests of this folder.

#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(unreachable_pub, reason = "shared by several test crates")]

use std::time::Duration;

use shoal_link::{
    Dial, DialError, Endpoint, EndpointConfig, Identity, Link, Protocol, ServerCertificate, Stream,
    Trust,
};

/// Long enough for any step on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub async fn endpoint(accept: &[Protocol]) -> Endpoint {
    endpoint_showing(accept, None).await
}

pub async fn endpoint_showing(
    accept: &[Protocol],
    certificate: Option<ServerCertificate>,
) -> Endpoint {
    Endpoint::bind(EndpointConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        identity: Identity::generate(),
        certificate,
        accept: accept.to_vec(),
        roaming: None,
    })
    .await
    .unwrap()
}

pub fn to(server: &Endpoint) -> Dial {
    Dial {
        addresses: vec![server.local_addr()],
        server_name: None,
        trust: Trust::Node(server.node_id()),
        protocol: Protocol::Transfer,
        relays: Vec::new(),
        deadline: PATIENCE,
    }
}

/// The dialer's and the answerer's end of one link.
pub async fn link_between(client: &Endpoint, server: &Endpoint) -> (Link, Link) {
    let dialled = client.dial(to(server)).await.unwrap();
    (dialled, server.accept().await.unwrap())
}

/// What came of a dial, without its link.
pub async fn outcome(client: &Endpoint, dial: Dial) -> Result<(), DialError> {
    client.dial(dial).await.map(|_| ())
}

/// Both ends of a stream whose first byte has been read.
pub async fn stream_on(opener: &Link, other: &Link) -> (Stream, Stream) {
    let mut near = opener.open().await.unwrap();
    near.send.write_all(b"!").await.unwrap();
    let mut far = other.accept().await.unwrap();
    far.recv.read_exact(&mut [0]).await.unwrap();
    (near, far)
}
