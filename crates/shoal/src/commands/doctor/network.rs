//! What lies between this machine and others.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use shoal_link::{Endpoint, PathKind};
use shoal_node::lan::Lan;
use shoal_node::session::{Connect, Session, own_addresses};
use shoal_node::state::ServerRef;
use shoal_wire::offer::RelayPlace;
use shoal_wire::{Communication, NodeName};
use tokio::time::timeout;

use super::{Finding, Verdict, nat};
use crate::connect::agent;
use crate::output::path_kind;

/// How long this machine's own word may take to come back on the local network.
const ECHO_LIMIT: Duration = Duration::from_secs(3);
/// How long the relay may take.
const RELAY_LIMIT: Duration = Duration::from_secs(5);
/// What clocks may differ by, in seconds, before tickets and grants suffer: five minutes are
/// tolerated.
const CLOCK_TOLERANCE_S: i64 = 60;

/// The addresses that this machine speaks from.
pub(super) fn addresses(endpoint: &Endpoint) -> Finding {
    let own = own_addresses(None, endpoint.local_addr().port());
    let ips: Vec<String> = own.iter().map(|address| address.ip().to_string()).collect();
    let fields = json!({ "addresses": ips });
    let finding = match ips.is_empty() {
        true => Finding::new(
            "addresses",
            Verdict::Warning,
            "none that leads anywhere: only this machine and the local network can be reached",
        ),
        false => Finding::new("addresses", Verdict::Ok, ips.join(", ")),
    };
    finding.with(fields)
}

/// Whether IPv6 leads anywhere.
pub(super) fn ipv6() -> Finding {
    let own = own_addresses(None, 9);
    let global = own.iter().any(|address| address.is_ipv6());
    match global {
        true => Finding::new("ipv6", Verdict::Ok, "there is a route"),
        false => Finding::new(
            "ipv6",
            Verdict::Warning,
            "no route: nodes that have only IPv6 are reached through a relay",
        ),
    }
}

/// Whether the local network passes on what is said to all.
pub(super) async fn neighbours(endpoint: &Endpoint, is_off: bool) -> Finding {
    if is_off {
        return Finding::new("mdns", Verdict::Unknown, "not asked (--no-lan)");
    }
    let echoed = async {
        let lan = Lan::open()?;
        let mut search = lan.search()?;
        lan.announce(endpoint.node_id(), endpoint.local_addr().port(), None)?;
        let heard = timeout(ECHO_LIMIT, search.next_of(endpoint.node_id())).await;
        drop(search);
        lan.close().await;
        Ok::<_, shoal_node::lan::LanError>(heard.ok().flatten())
    };
    match echoed.await {
        Ok(Some(_)) => Finding::new(
            "mdns",
            Verdict::Ok,
            "multicast works here: neighbours need no server",
        ),
        Ok(None) => Finding::new(
            "mdns",
            Verdict::Warning,
            "nothing that is said to all comes back: codes without a server will not work here; is UDP port 5353 filtered?",
        ),
        Err(error) => Finding::new("mdns", Verdict::Warning, error.to_string()),
    }
}

/// What the server tells: whether it is in reach and how, the NAT in between, its clock, its relay.
pub(super) async fn by_server(
    endpoint: &Endpoint,
    server: ServerRef,
    name: NodeName,
) -> Vec<Finding> {
    let connect = Connect {
        endpoint: endpoint.clone(),
        server,
        name,
        serving: false,
        instance: rand::random(),
        agent: agent(),
    };
    let session = match Session::connect(&connect).await {
        Ok(session) => session,
        Err(error) => {
            return vec![Finding::new("server", Verdict::Failed, format!("{error}"))];
        }
    };
    let mut findings = vec![reached(&session), nat::nat(&connect, &session).await];
    match place(&session).await {
        Some(place) => {
            findings.push(clock(&place));
            findings.push(relay(endpoint, &session).await);
        }
        None => findings.push(Finding::new(
            "relay",
            Verdict::Warning,
            "the server has none: nodes behind some NATs cannot reach each other (start it without --no-relay, and let TCP through to its port)",
        )),
    }
    findings
}

fn reached(session: &Session) -> Finding {
    let path = session.link().path();
    let kind = path_kind(&path);
    let milliseconds = path.rtt.as_secs_f64() * 1e3;
    let fields = json!({
        "kind": kind,
        "remote": path.remote.to_string(),
        "rtt_us": path.rtt.as_micros() as u64,
        "udp_blocked": path.kind == PathKind::Relayed,
    });
    let text = format!("{} is reached {kind}, {milliseconds:.1} ms", path.remote);
    let finding = match path.kind {
        PathKind::Relayed => Finding::new(
            "server",
            Verdict::Warning,
            format!(
                "{text}: UDP is blocked on the way, so everything goes over TCP through its relay, and slower. Let UDP out to port {}",
                path.remote.port()
            ),
        ),
        _ => Finding::new("server", Verdict::Ok, text),
    };
    finding.with(fields)
}

async fn place(session: &Session) -> Option<RelayPlace> {
    match session.request(&Communication::RelayRequest).await {
        Ok(Communication::RelayPlace(place)) => Some(place),
        _ => None,
    }
}

/// How far this machine's clock is from the server's, which made the pass just now.
fn clock(place: &RelayPlace) -> Finding {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let here = since_epoch.map_or(0, |time| time.as_secs());
    let ends = place.pass.expires_at_s();
    let there = ends.and_then(|ends| ends.checked_sub(u64::from(place.lifetime_s)));
    let ahead = there.and_then(|there| i64::try_from(here).ok()?.checked_sub_unsigned(there));
    let Some(ahead) = ahead else {
        return Finding::new(
            "clock",
            Verdict::Unknown,
            "the server does not tell its own",
        );
    };
    let fields = json!({ "ahead_s": ahead });
    let finding = match ahead.abs() <= CLOCK_TOLERANCE_S {
        true => Finding::new("clock", Verdict::Ok, "as the server's"),
        false => Finding::new(
            "clock",
            Verdict::Failed,
            format!(
                "{} s {} the server's: tickets and permissions end at the wrong time. Set this machine's clock, or the server's",
                ahead.abs(),
                if ahead > 0 { "ahead of" } else { "behind" },
            ),
        ),
    };
    finding.with(fields)
}

/// Whether this machine is let in at the relay.
async fn relay(endpoint: &Endpoint, session: &Session) -> Finding {
    let Some((relay, _)) = session.relay().await else {
        return Finding::new("relay", Verdict::Unknown, "the server does not answer");
    };
    let shown: Vec<String> = relay.addresses.iter().map(ToString::to_string).collect();
    let shown = shown.join(", ");
    if let Err(error) = endpoint.join_relay(&relay).await {
        return Finding::new("relay", Verdict::Failed, error);
    }
    match timeout(RELAY_LIMIT, endpoint.is_homed()).await {
        Ok(()) => Finding::new("relay", Verdict::Ok, format!("at {shown}, over TCP")),
        Err(_) => Finding::new(
            "relay",
            Verdict::Failed,
            format!("not in reach at {shown} over TCP: let it through to the server"),
        ),
    }
    .with(json!({ "addresses": relay.addresses.iter().map(|address| address.to_string()).collect::<Vec<_>>() }))
}
