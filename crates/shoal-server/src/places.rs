//! Places for connections: how many in all, for one identity, and for one network.
//!
//! Identities cost nothing, so they alone bound nobody; one network could hold every place. Hosts
//! on the server's own loopback interface are one user's business and share all places.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_wire::NodeId;
use shoal_wire::address::network_of;

/// Connections served at once: ten times the peers that one server is meant for, and each costs
/// tens of kilobytes while it is idle.
const ALL_MAX: usize = 10_000;
/// Connections of one identity: a daemon, and commands that a person or a script runs beside it.
/// One that is killed keeps its place until the idle time-out.
const NODE_MAX: usize = 256;
/// Connections from one /24 (IPv4) or /56 (IPv6): an office behind one address fits, and four such
/// networks are needed to shut others out.
const NETWORK_MAX: usize = ALL_MAX / 4;

/// The places of one server.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_node: BTreeMap<NodeId, usize>,
    by_network: BTreeMap<IpAddr, usize>,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    node: Option<NodeId>,
    network: Option<IpAddr>,
}

impl Places {
    /// Takes a place for a connection of `node` from `address`; `None` where there are enough.
    pub(crate) fn take(self: &Arc<Self>, node: Option<NodeId>, address: IpAddr) -> Option<Place> {
        let network = network_of(address);
        let mut taken = self.taken();
        let of_node = node.map_or(0, |node| count(&taken.by_node, &node));
        let of_network = network.map_or(0, |network| count(&taken.by_network, &network));
        if taken.all >= ALL_MAX || of_node >= NODE_MAX || of_network >= NETWORK_MAX {
            return None;
        }
        taken.all += 1;
        if let Some(node) = node {
            *taken.by_node.entry(node).or_default() += 1;
        }
        if let Some(network) = network {
            *taken.by_network.entry(network).or_default() += 1;
        }
        drop(taken);
        Some(Place {
            places: Arc::clone(self),
            node,
            network,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(node) = self.node {
            leave(&mut taken.by_node, &node);
        }
        if let Some(network) = self.network {
            leave(&mut taken.by_network, &network);
        }
    }
}

fn count<Key: Ord>(taken: &BTreeMap<Key, usize>, key: &Key) -> usize {
    taken.get(key).copied().unwrap_or(0)
}

fn leave<Key: Ord>(taken: &mut BTreeMap<Key, usize>, key: &Key) {
    if let Some(count) = taken.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            taken.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        NodeId::new(bytes)
    }

    #[test]
    fn one_identity_or_network_does_not_take_every_place() {
        let places = Arc::new(Places::default());
        let take = |number, address: &str| {
            places.take(Some(node(number)), address.parse().expect("an address"))
        };
        let of_one: Vec<Place> = std::iter::from_fn(|| take(1, "127.0.0.1")).collect();
        assert_eq!(of_one.len(), NODE_MAX);
        let mut number = 1;
        let of_network: Vec<Place> = std::iter::from_fn(|| {
            number += 1;
            take(number, &format!("192.0.2.{}", number % 256))
        })
        .collect();
        assert_eq!(of_network.len(), NETWORK_MAX);
        assert!(take(number, "::ffff:192.0.2.9").is_none());
        let elsewhere = take(number, "192.0.3.1").expect("another network");
        drop((of_one, of_network, elsewhere));
        assert!(take(1, "192.0.2.1").is_some());
        assert_eq!(places.taken().all, 0, "a place that is dropped is free");
    }
}
