//! The local network: nodes that wait for somebody are found there without any server.
//!
//! A node that waits says by multicast DNS (RFC 6762, RFC 6763), under a service name of our own,
//! who it is, at which UDP port it listens, and the public number of its code, if it has one. What
//! is heard proves nothing: who dials an address pins the node id that was said, and a code is
//! proven by its words. What a liar costs is a look at its addresses, and those are bounded.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use mdns_sd::{Receiver, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use shoal_wire::address::can_be_dialled;
use shoal_wire::limits::ADDRESSES_MAX;
use shoal_wire::{Nameplate, NodeId};

/// Our service.
const SERVICE: &str = "_shoal._udp.local.";
/// The property that holds the node id, in hex.
const NODE_KEY: &str = "node";
/// The property that holds the public number of a code.
const NAMEPLATE_KEY: &str = "plate";
/// Answers that one search looks at: more come from no honest network.
const ANSWERS_MAX: usize = 1024;
/// How long the goodbye may take.
const GOODBYE_LIMIT: Duration = Duration::from_millis(500);

/// Why the local network cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("the local network cannot be asked: {0}")]
pub struct LanError(#[from] mdns_sd::Error);

/// This node's part in the local network.
pub struct Lan {
    daemon: ServiceDaemon,
}

/// A node that was heard of. Nothing of it is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Who it says it is.
    pub node: NodeId,
    /// The public number of its code.
    pub nameplate: Option<Nameplate>,
    /// Where it says it is: at most [`ADDRESSES_MAX`], all fit to be dialled.
    pub addresses: Vec<SocketAddr>,
}

impl Lan {
    /// Opens the multicast sockets.
    ///
    /// # Errors
    /// When the system has none for it.
    pub fn open() -> Result<Self, LanError> {
        let daemon = ServiceDaemon::new()?;
        Ok(Self { daemon })
    }

    /// Says until [`Lan::close`] that `node` listens at this UDP port, and under which number its
    /// code goes.
    ///
    /// # Errors
    /// When it cannot be said.
    pub fn announce(
        &self,
        node: NodeId,
        port: u16,
        nameplate: Option<Nameplate>,
    ) -> Result<(), LanError> {
        let process = rand::random::<u64>();
        let (instance, host) = (
            format!("shoal-{process:016x}"),
            format!("shoal-{process:016x}.local."),
        );
        let mut properties = vec![(NODE_KEY.to_owned(), node.to_string())];
        properties.extend(nameplate.map(|plate| (NAMEPLATE_KEY.to_owned(), plate.to_string())));
        let mut service = ServiceInfo::new(SERVICE, &instance, &host, "", port, &properties[..])?
            .enable_addr_auto();
        // The names are random: nobody else has them, so nobody has to be asked first.
        service.set_requires_probe(false);
        Ok(self.daemon.register(service)?)
    }

    /// Asks who waits here, again and again until it is dropped.
    ///
    /// # Errors
    /// When nobody can be asked.
    pub fn search(&self) -> Result<Search, LanError> {
        Ok(Search {
            answers: self.daemon.browse(SERVICE)?,
            heard: BTreeSet::new(),
            left: ANSWERS_MAX,
        })
    }

    /// Takes back what was announced.
    pub async fn close(self) {
        if let Ok(ended) = self.daemon.shutdown() {
            let _ = tokio::time::timeout(GOODBYE_LIMIT, ended.recv_async()).await;
        }
    }
}

impl std::fmt::Debug for Lan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lan(..)")
    }
}

/// A search of the local network under way.
pub struct Search {
    answers: Receiver<ServiceEvent>,
    heard: BTreeSet<(NodeId, Option<u32>, Vec<SocketAddr>)>,
    left: usize,
}

impl Search {
    /// The next one that was heard of, each time that something new is said of it; `None` when
    /// nobody can be heard any more. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Neighbour> {
        while self.left > 0 {
            let ServiceEvent::ServiceResolved(service) = self.answers.recv_async().await.ok()?
            else {
                continue;
            };
            self.left -= 1;
            let Some(neighbour) = neighbour(&service) else {
                continue;
            };
            let plate = neighbour.nameplate.map(Nameplate::number);
            let said = (neighbour.node, plate, neighbour.addresses.clone());
            if self.heard.insert(said) {
                return Some(neighbour);
            }
        }
        None
    }

    /// The next one with this number.
    pub async fn next_with(&mut self, nameplate: Nameplate) -> Option<Neighbour> {
        loop {
            let next = self.next().await?;
            if next.nameplate == Some(nameplate) {
                return Some(next);
            }
        }
    }

    /// The next word of this node.
    pub async fn next_of(&mut self, node: NodeId) -> Option<Neighbour> {
        loop {
            let next = self.next().await?;
            if next.node == node {
                return Some(next);
            }
        }
    }
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Search(..)")
    }
}

/// What an answer says, if it makes sense.
fn neighbour(service: &ResolvedService) -> Option<Neighbour> {
    let node = service.get_property_val_str(NODE_KEY)?.parse().ok()?;
    let number = service.get_property_val_str(NAMEPLATE_KEY);
    let nameplate = match number {
        Some(number) => Some(Nameplate::new(number.parse().ok()?)?),
        None => None,
    };
    let port = service.get_port();
    let mut addresses: Vec<SocketAddr> = service
        .get_addresses()
        .iter()
        .map(|ip| address(ip, port))
        .filter(can_be_dialled)
        .collect();
    // What a network gives out before what every machine makes up for itself.
    addresses.sort_by_key(|address| (is_link_local(address.ip()), address.is_ipv6(), *address));
    addresses.truncate(ADDRESSES_MAX);
    (!addresses.is_empty()).then_some(Neighbour {
        node,
        nameplate,
        addresses,
    })
}

fn address(ip: &ScopedIp, port: u16) -> SocketAddr {
    match ip {
        ScopedIp::V6(scoped) if is_link_local(IpAddr::V6(*scoped.addr())) => {
            let scope = scoped.scope_id().index;
            SocketAddrV6::new(*scoped.addr(), port, 0, scope).into()
        }
        other => SocketAddr::new(other.to_ip_addr(), port),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
