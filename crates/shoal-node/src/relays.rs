//! The relays by which other nodes may be reached: those of the servers that this node knows.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_link::Relay;
use shoal_wire::address::can_be_dialled;
use shoal_wire::offer::Via;
use shoal_wire::{NodeId, RelayPass};

/// Relays in use now; whoever dials asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Relays(Arc<Mutex<Vec<Relay>>>);

impl Relays {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on these.
    pub fn set(&self, relays: Vec<Relay>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = relays;
    }

    /// Those of now.
    pub fn list(&self) -> Vec<Relay> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The relays by which the sender of a ticket may be reached.
pub fn relays_of(via: &Via) -> Vec<Relay> {
    let Some(pass) = &via.pass else {
        return Vec::new();
    };
    let all = via.addresses.iter().copied();
    relay_at(via.server, all.filter(can_be_dialled).collect(), pass)
        .into_iter()
        .collect()
}

/// The relay of a server at its own addresses; `None` without one.
pub(crate) fn relay_at(
    server: NodeId,
    addresses: Vec<SocketAddr>,
    pass: &RelayPass,
) -> Option<Relay> {
    let port = addresses.first()?.port();
    Some(Relay {
        server,
        addresses,
        discovery_port: Some(port),
        pass: pass.clone(),
    })
}
