//! What kind of NAT lies between this machine and the server, by the terms of RFC 4787.
//!
//! The server tries to reach this machine from another port: a NAT, or a firewall, that lets that in
//! lets anybody in, or whoever has an address that was spoken to; which of the two one server cannot
//! tell. Then this machine speaks to one more
//! port: a NAT that shows it under the same address as before can be punched through.

use std::net::SocketAddr;

use serde_json::{Value, json};
use shoal_link::PathKind;
use shoal_node::session::{Connect, Session, own_addresses};
use shoal_node::state::{ServerRef, TrustChoice};
use shoal_wire::{Communication, Refusal};

use super::{Finding, Verdict};

/// What is known of the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tested {
    /// Whether the server reached this machine from another port, unasked.
    is_reached: bool,
    /// Whether one more port sees it at the same address; `None` where it cannot be spoken to.
    is_same: Option<bool>,
}

/// What lies in between.
pub(super) async fn nat(connect: &Connect, session: &Session) -> Finding {
    let path = session.link().path();
    if path.kind != PathKind::Direct {
        let text = "cannot be told while the server is not reached directly";
        return Finding::new("nat", Verdict::Unknown, text);
    }
    let observed = session.response().observed;
    let own = own_addresses(Some(path.remote), connect.endpoint.local_addr().port());
    let is_own = |address: &SocketAddr| address.ip().to_canonical() == observed.ip();
    let is_translated = !own.iter().any(is_own);
    let tested = test(connect, session, path.remote).await;
    let (kind, verdict, text) = named(is_translated, tested);
    let fields = json!({
        "observed": observed.to_string(),
        "kind": kind,
        "lets_other_ports_in": tested.map(|tested| tested.is_reached),
    });
    let text = match is_translated {
        true => format!("seen as {observed}: {text}"),
        false => text.to_owned(),
    };
    Finding::new("nat", verdict, text).with(fields)
}

/// Asks the server to try, then speaks to its other port. `None` where the server does not try.
async fn test(connect: &Connect, session: &Session, server: SocketAddr) -> Option<Tested> {
    let asked = session.request(&Communication::NatTest).await;
    let Ok(Communication::NatTested { port, is_reached }) = asked else {
        tracing::info!(?asked, "the server does not try");
        return None;
    };
    let second = Connect {
        server: ServerRef {
            addresses: vec![SocketAddr::new(server.ip(), port).to_string()],
            trust: TrustChoice::Pinned(session.server()),
            relay_pass: None,
        },
        ..connect.clone()
    };
    let is_same = Session::connect(&second).await.ok().map(|second| {
        let is_same = second.response().observed == session.response().observed;
        second.link().close(Refusal::Done);
        is_same
    });
    Some(Tested {
        is_reached,
        is_same,
    })
}

/// Its kind, how good that is, and what it means.
fn named(is_translated: bool, tested: Option<Tested>) -> (Value, Verdict, &'static str) {
    let Some(tested) = tested else {
        return match is_translated {
            true => (
                Value::Null,
                Verdict::Unknown,
                "there is a NAT; the server does not tell of which kind, or is busy with others: try again in a minute",
            ),
            false => ("none".into(), Verdict::Ok, "none towards the server"),
        };
    };
    let (kind, verdict, text) = match (is_translated, tested) {
        (
            false,
            Tested {
                is_reached: true, ..
            },
        ) => (
            "none",
            Verdict::Ok,
            "none towards the server, and other ports of its get in too",
        ),
        (false, _) => (
            "firewall",
            Verdict::Ok,
            "none, but a firewall lets in answers alone: others can punch through",
        ),
        (
            true,
            Tested {
                is_same: Some(false),
                ..
            },
        ) => (
            "symmetric",
            Verdict::Warning,
            "another address for each destination (symmetric NAT): towards others like it, and most home routers, everything is relayed. Forward a UDP port to this machine and use --port, if you can",
        ),
        (
            true,
            Tested {
                is_reached: true,
                is_same: Some(true),
            },
        ) => (
            "cone",
            Verdict::Ok,
            "one address for all destinations, and other ports of the server get in too (full or address-restricted cone): others can punch through, most of them",
        ),
        (
            true,
            Tested {
                is_reached: false,
                is_same: Some(true),
            },
        ) => (
            "port_restricted",
            Verdict::Ok,
            "one address for all destinations, for answers alone (port-restricted cone): others can punch through, unless theirs is symmetric",
        ),
        (true, Tested { is_same: None, .. }) => (
            "unknown",
            Verdict::Unknown,
            "there is a NAT; its kind cannot be told, because a firewall at the server closes the port for the test",
        ),
    };
    (kind.into(), verdict, text)
}
