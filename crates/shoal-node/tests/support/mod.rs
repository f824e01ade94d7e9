//! Honest and hostile nodes in one process, over real sockets on loopback.

#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod content;
pub(crate) mod coordinator;
pub(crate) mod distance;
pub(crate) mod gate;
pub(crate) mod log;
pub(crate) mod provider;
pub(crate) mod receiver;
pub(crate) mod scripted;

use std::time::Duration;

use shoal_link::{Dial, Endpoint, EndpointConfig, Identity, Link, Protocol, Trust};

/// Far more than anything here takes: a test that hangs fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at something that has no other sign.
const POLL: Duration = Duration::from_millis(10);

/// An endpoint that answers `protocols` on a free port of loopback.
pub(crate) async fn endpoint(protocols: &[Protocol]) -> Endpoint {
    let config = EndpointConfig {
        bind: "127.0.0.1:0".parse().expect("an address"),
        identity: Identity::generate(),
        certificate: None,
        accept: protocols.to_vec(),
        roaming: None,
    };
    Endpoint::bind(config).await.expect("a free port")
}

/// A link for transfers from `near` to `far`.
pub(crate) async fn dial(near: &Endpoint, far: &Endpoint) -> Link {
    let dial = Dial {
        addresses: vec![far.local_addr()],
        server_name: None,
        trust: Trust::Node(far.node_id()),
        protocol: Protocol::Transfer,
        relays: Vec::new(),
        deadline: DEADLINE,
    };
    near.dial(dial).await.expect("a link")
}

/// Waits for what is awaited, not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what)
        .await
        .expect("it takes too long")
}

/// Waits until `holds`.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(POLL).await;
        }
    };
    soon(waiting).await;
}
