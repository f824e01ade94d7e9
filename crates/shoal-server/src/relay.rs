//! The relay: on which port, for whom, how much; the server's own, or one apart.
//!
//! A node that is connected to the server asks for passes: one bound to itself, and one for those
//! to whom it gives a ticket. The server's own relay listens on TCP at the server's address and
//! port. One apart ([`RelayAlone`]) is a process that knows nothing but its key, which its ticket
//! gives to the servers that use it.

mod alone;
mod budget;
mod passes;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::routing::any;
use shoal_link::{Admission, Identity, RELAY_PATHS, Relay, RelayServer};
use shoal_wire::limits::MAILBOX_MAX_S;
use shoal_wire::offer::{RelayApart, RelayPlace};
use shoal_wire::{NodeId, RelayPass, RelayTicket};

pub use self::alone::{RelayAlone, RelayOptions};
pub use self::budget::RelayBudget;
use self::passes::{FOR_GUESTS, FOR_NODE, Pass, Passes, key_of};
use crate::control::RelayStanding;
use crate::http::arrival;

/// How long the passes of a connected node hold, in seconds: a day.
const PASS_LIFETIME_S: u32 = 24 * 3600;
/// How long the pass in a ticket holds, in seconds: as long as an offer may last, and the time for
/// which the one who gives it away may have kept it.
const GUEST_LIFETIME_S: u32 = MAILBOX_MAX_S + PASS_LIFETIME_S;
/// How long the pass in a server's own ticket holds, in seconds: a year.
const JOIN_LIFETIME_S: u64 = 365 * 24 * 3600;
/// Which relay a server gives to its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayChoice {
    /// Its own, which relays at most so much.
    Own(RelayBudget),
    /// Another process's.
    Apart(RelayTicket),
    /// None.
    None,
}

/// A relay that this server gives passes for.
pub(crate) struct Relaying {
    passes: Arc<Passes>,
    at: At,
}

/// Where it is.
enum At {
    /// Here.
    Own {
        node: NodeId,
        address: SocketAddr,
        relay: RelayServer,
    },
    /// Elsewhere.
    Apart(RelayTicket),
}

impl Relaying {
    /// One here, that is reached at `address` once its routes are served there.
    pub(crate) fn own(identity: &Identity, address: SocketAddr, budget: RelayBudget) -> Self {
        let node = identity.node_id();
        let passes = Arc::new(Passes::new(key_of(identity), node, budget));
        let admission: Arc<dyn Admission> = Arc::<Passes>::clone(&passes);
        let relay = RelayServer::new(admission);
        let at = At::Own {
            node,
            address,
            relay,
        };
        Self { passes, at }
    }

    /// What answers for it over HTTP; of one apart nothing.
    pub(crate) fn routes(&self) -> Router {
        let At::Own { relay, .. } = &self.at else {
            return Router::new();
        };
        RELAY_PATHS.into_iter().fold(Router::new(), |routes, path| {
            let relay = relay.clone();
            let answer = move |request: Request| {
                let arrival = arrival(&request).cloned();
                std::future::ready(relay.answer(request, arrival))
            };
            routes.route(path, any(answer))
        })
    }

    /// Gives passes for the relay of this ticket.
    pub(crate) fn apart(ticket: RelayTicket) -> Self {
        Self {
            passes: Arc::new(Passes::new(
                *ticket.key.bytes(),
                ticket.relay,
                RelayBudget::default(),
            )),
            at: At::Apart(ticket),
        }
    }

    /// What a connected node is told.
    pub(crate) fn place_for(&self, node: NodeId) -> Option<RelayPlace> {
        let pass = |kind, lifetime_s| {
            self.passes.make(Pass {
                kind,
                node,
                expires_at_s: self.passes.now_s() + u64::from(lifetime_s),
            })
        };
        let (port, apart) = match &self.at {
            At::Own { address, .. } => (address.port(), None),
            At::Apart(ticket) => {
                let apart = RelayApart {
                    relay: ticket.relay,
                    addresses: ticket.addresses.clone(),
                };
                (ticket.addresses.first()?.port(), Some(apart))
            }
        };
        Some(RelayPlace {
            port,
            address_discovery_port: port,
            pass: pass(FOR_NODE, PASS_LIFETIME_S)?,
            guest_pass: pass(FOR_GUESTS, GUEST_LIFETIME_S)?,
            lifetime_s: PASS_LIFETIME_S,
            apart,
        })
    }

    /// What admits those who have the server's ticket; a relay apart does not lead to the server.
    pub(crate) fn join_pass(&self) -> Option<RelayPass> {
        let At::Own { node, .. } = &self.at else {
            return None;
        };
        self.passes.make(Pass {
            kind: FOR_GUESTS,
            node: *node,
            expires_at_s: self.passes.now_s() + JOIN_LIFETIME_S,
        })
    }

    /// How the server's own node comes in, so that whoever reaches the relay reaches the server.
    pub(crate) fn for_itself(&self) -> Option<Relay> {
        let At::Own { node, address, .. } = &self.at else {
            return None;
        };
        let mut address = *address;
        if address.ip().is_unspecified() {
            // A system without IPv6 binds its unspecified address too.
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Some(Relay {
            server: *node,
            addresses: vec![address],
            discovery_port: None,
            pass: self.passes.make(Pass {
                kind: FOR_NODE,
                node: *node,
                expires_at_s: u64::MAX,
            })?,
        })
    }

    /// Whether it is here.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.at, At::Own { .. })
    }

    /// How it stands; of one apart only where it is.
    pub(crate) fn standing(&self) -> RelayStanding {
        match &self.at {
            At::Own { address, relay, .. } => {
                let figures = relay.figures();
                let inside = self.passes.inside();
                RelayStanding {
                    port: address.port(),
                    apart: None,
                    connected: inside.connections.len() as u64,
                    admitted: figures.accepted,
                    refused: inside.refused,
                    received_bytes: figures.received_bytes,
                    sent_bytes: figures.sent_bytes,
                    dropped: figures.dropped,
                    is_used_up: self.passes.is_used_up(),
                }
            }
            At::Apart(ticket) => RelayStanding {
                apart: Some(ticket.relay.to_string()),
                port: ticket.addresses.first().map_or(0, SocketAddr::port),
                ..RelayStanding::default()
            },
        }
    }

    /// Ends all its connections.
    pub(crate) async fn shutdown(&self) {
        if let At::Own { relay, .. } = &self.at {
            relay.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_link::Identity;

    use super::*;

    #[test]
    fn the_pass_of_a_ticket_holds_for_as_long_as_any_offer_lasts() {
        let relay = Identity::generate();
        let ticket = RelayTicket {
            relay: relay.node_id(),
            addresses: crate::addresses::own_addresses("192.0.2.7:443".parse().unwrap()),
            key: shoal_wire::RelayKey::new(key_of(&relay)),
        };
        let place = Relaying::apart(ticket).place_for(NodeId::new([1; 32]));
        let place = place.unwrap();
        let own = place.pass.expires_at_s().unwrap();
        let given = place.guest_pass.expires_at_s().unwrap();
        // One second may have gone by between the two.
        assert!(
            given - own >= u64::from(MAILBOX_MAX_S) && given - own <= 1 + u64::from(MAILBOX_MAX_S)
        );
    }
}
