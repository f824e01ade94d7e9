//! The relays by which other nodes may be reached: those of the servers that this node knows.

use std::sync::{Arc, Mutex, PoisonError};

use shoal_link::Relay;
use shoal_wire::offer::Via;

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
    let addresses = via.addresses.iter();
    let dialled = addresses.filter(|address| shoal_wire::offer::can_be_dialled(address));
    dialled
        .map(|address| Relay {
            server: via.server,
            address: *address,
            discovery_port: Some(address.port()),
            pass: pass.clone(),
        })
        .collect()
}
