//! The relay: on which port, for whom, how much; the server's own, or one apart.
//!
//! A node that is connected to the server asks for passes: one bound to itself, and one for those
//! to whom it gives a ticket. The server's own relay listens on TCP at the server's address and
//! port. One apart ([`RelayAlone`]) is a process that knows nothing but its key, which its ticket
//! gives to the servers that use it.

mod alone;
mod passes;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shoal_link::{Admission, Identity, Relay, RelayServer};
use shoal_node::tasks::Tasks;
use shoal_wire::limits::MAILBOX_MAX_S;
use shoal_wire::offer::{RelayApart, RelayPlace};
use shoal_wire::{NodeId, RelayPass, RelayTicket};
use tokio::net::TcpListener;

pub use self::alone::RelayAlone;
use self::passes::{FOR_GUESTS, FOR_NODE, Pass, Passes, key_of};
use crate::control::RelayStanding;
use crate::places::Places;

/// How long the passes of a connected node hold, in seconds: a day.
const PASS_LIFETIME_S: u32 = 24 * 3600;
/// How long the pass in a ticket holds, in seconds: as long as an offer may last, and the time for
/// which the one who gives it away may have kept it.
const GUEST_LIFETIME_S: u32 = MAILBOX_MAX_S + PASS_LIFETIME_S;
/// How long the pass in a server's own ticket holds, in seconds: a year.
const JOIN_LIFETIME_S: u64 = 365 * 24 * 3600;
/// Time between two looks at how much was relayed.
const BUDGET_INTERVAL: Duration = Duration::from_secs(5);
/// The looks of a day, after which the budget begins anew.
const LOOKS_OF_DAY: u32 = 24 * 3600 / 5;

/// Which relay a server gives to its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayChoice {
    /// Its own, which relays at most so many bytes a day.
    Own {
        /// The budget; `None` for no bound.
        bytes_per_day: Option<u64>,
    },
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
    /// Starts one at `address`.
    ///
    /// # Errors
    /// When the TCP port cannot be had.
    pub(crate) async fn start(
        identity: &Identity,
        (address, bytes_per_day): (SocketAddr, Option<u64>),
        tasks: &Tasks,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let passes = Arc::new(Passes::new(key_of(identity)));
        let admission: Arc<dyn Admission> = Arc::<Passes>::clone(&passes);
        let relay = RelayServer::new(identity, admission).map_err(std::io::Error::other)?;
        let address = listener.local_addr()?;
        tasks.spawn(accept(listener, relay.clone(), tasks.clone()));
        if let Some(budget) = bytes_per_day {
            tasks.spawn(keep_to(budget, relay.clone(), Arc::clone(&passes)));
        }
        let node = identity.node_id();
        let at = At::Own {
            node,
            address,
            relay,
        };
        Ok(Self { passes, at })
    }

    /// Gives passes for the relay of this ticket.
    pub(crate) fn apart(ticket: RelayTicket) -> Self {
        Self {
            passes: Arc::new(Passes::new(*ticket.key.bytes())),
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

/// Lets nobody in, and everybody go, once a day's budget is used up.
async fn keep_to(budget_bytes: u64, relay: RelayServer, passes: Arc<Passes>) {
    let mut looks = tokio::time::interval(BUDGET_INTERVAL);
    loop {
        let before = relay.figures().sent_bytes;
        for _ in 0..LOOKS_OF_DAY {
            looks.tick().await;
            let used = relay.figures().sent_bytes - before;
            if used >= budget_bytes && !passes.is_used_up() {
                tracing::warn!(used, "the relay has passed on as much as it may in a day");
                passes.set_used_up(true);
                relay.shutdown().await;
            }
        }
        passes.set_used_up(false);
    }
}

async fn accept(listener: TcpListener, relay: RelayServer, tasks: Tasks) {
    let places = Arc::new(Places::default());
    loop {
        let (connection, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others end meanwhile.
                tracing::warn!(%error, "the relay cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = places.take(None, from.ip()) else {
            continue;
        };
        let relay = relay.clone();
        tasks.spawn(async move {
            relay.serve(connection).await;
            drop(place);
        });
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
