//! Senders on the local network: found by the number of a code, or by the node id in a ticket.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_link::{Dial, Endpoint, Protocol, Trust};
use shoal_node::lan::{Lan, Neighbour, Search};
use shoal_node::rendezvous::{self, RendezvousError};
use shoal_node::requests::RequestError;
use shoal_wire::message::Addresses;
use shoal_wire::offer::Introduction;
use shoal_wire::{Code as OfferCode, NodeId, OfferTicket};
use tokio::time::timeout;

use super::whence::failed;
use crate::exit::{Code, Failure};

/// How long a sender is listened for.
const SEARCH_LIMIT: Duration = Duration::from_secs(4);
/// How long one that was heard of may take to answer at all.
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to prove itself.
const CLAIM_LIMIT: Duration = Duration::from_secs(5);
/// Senders with the same number that are tried: each that is none of ours has one guess at the code.
const TRIES_MAX: usize = 8;

/// The ticket of the sender on this network that knows the code.
pub(super) async fn ticket_for(
    code: &OfferCode,
    endpoint: &Endpoint,
    introduction: &Introduction,
) -> Result<OfferTicket, Failure> {
    let lan = opened()?;
    let searched = lan.search();
    let mut search = searched.map_err(|error| Failure::local(error.to_string()))?;
    let claimed = claim((&mut search, code), endpoint, introduction).await;
    lan.close().await;
    claimed
}

/// Where the local network says that `node` is; nothing where it says nothing.
pub(super) async fn addresses_of(node: NodeId) -> Vec<SocketAddr> {
    let Ok(lan) = opened() else { return Vec::new() };
    let found = match lan.search() {
        Ok(mut search) => timeout(SEARCH_LIMIT, search.next_of(node)).await,
        Err(_) => Ok(None),
    };
    lan.close().await;
    let found = found.ok().flatten();
    found.map_or_else(Vec::new, |neighbour| neighbour.addresses)
}

fn opened() -> Result<Lan, Failure> {
    Lan::open().map_err(|error| Failure::local(error.to_string()))
}

async fn claim(
    (search, code): (&mut Search, &OfferCode),
    endpoint: &Endpoint,
    introduction: &Introduction,
) -> Result<OfferTicket, Failure> {
    let mut worst = None;
    for _ in 0..TRIES_MAX {
        let next = timeout(SEARCH_LIMIT, search.next_with(code.nameplate)).await;
        let Ok(Some(neighbour)) = next else { break };
        let claiming = claim_at(neighbour, code, endpoint, introduction);
        match timeout(DIAL_LIMIT + CLAIM_LIMIT, claiming).await {
            Ok(Ok(ticket)) => return Ok(ticket),
            Ok(Err(error)) => worst = Some(error),
            Err(_) => {}
        }
    }
    Err(match worst {
        Some(error) => failed(error),
        None => Failure::new(
            Code::NotFound,
            "nobody on this network waits with that number, and no server is known: join the server that the sender uses with --join TICKET, or ask for the ticket instead of the code",
        ),
    })
}

/// Has one sender prove that it knows the code. What it says of its addresses comes after the one
/// that led to it.
async fn claim_at(
    neighbour: Neighbour,
    code: &OfferCode,
    endpoint: &Endpoint,
    introduction: &Introduction,
) -> Result<OfferTicket, RendezvousError> {
    let dial = Dial {
        addresses: neighbour.addresses,
        server_name: None,
        trust: Trust::Node(neighbour.node),
        protocol: Protocol::Transfer,
        relays: Vec::new(),
        deadline: DIAL_LIMIT,
    };
    let link = endpoint.dial(dial).await.map_err(|error| {
        tracing::debug!(%error, "a neighbour with the number of the code cannot be reached");
        RequestError::Lost(error.to_string())
    })?;
    let mut stream = link.open().await.map_err(RequestError::from)?;
    let own = endpoint.node_id();
    let mut ticket = rendezvous::claim(&mut stream, code, own, introduction).await?;
    let mut addresses = vec![link.path().remote];
    let others = ticket.addresses.iter().copied();
    addresses.extend(others.filter(|other| *other != link.path().remote));
    ticket.addresses = Addresses::truncated(addresses);
    Ok(ticket)
}
