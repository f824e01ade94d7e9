//! The directory: what stands for a server in the URL of its relay, and where that server is.
//!
//! A relay is known by its server's node id and may have several addresses, of IPv4 and of IPv6,
//! that differ from node to node. Its URL has a name made of the id, which no name server is asked
//! for: this directory resolves it, and nothing else.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use iroh::RelayUrl;
use iroh::dns::{BoxIter, DnsError, Resolver, TxtRecordData};
use rustls_pki_types::ServerName;
use shoal_wire::NodeId;
use shoal_wire::limits::ADDRESSES_MAX;

/// The end of every such name; `.invalid` leads nowhere (RFC 2606).
const SUFFIX: &str = ".relay.shoal.invalid";
/// Half of a node id in hex: the whole is one more than a label of a name may have.
const LABEL: usize = 32;

/// Where the relays of known servers are. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory(Arc<RwLock<BTreeMap<NodeId, Vec<IpAddr>>>>);

impl Directory {
    /// Enters a server's relay, and says under which URL it goes; `None` without an address.
    pub(crate) fn enter(&self, server: NodeId, addresses: &[SocketAddr]) -> Option<RelayUrl> {
        let port = addresses.first()?.port();
        let of_port = addresses.iter().filter(|address| address.port() == port);
        let ips = of_port.map(|address| address.ip().to_canonical());
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(server).or_default();
        for ip in ips {
            if !entry.contains(&ip) {
                // What was heard last is the likeliest.
                entry.insert(0, ip);
            }
        }
        entry.truncate(ADDRESSES_MAX);
        let id = server.to_string();
        let (first, second) = id.split_at_checked(LABEL)?;
        let url = format!("https://{first}.{second}{SUFFIX}:{port}/");
        url.parse().ok()
    }

    /// An address of the relay with this URL.
    pub(crate) fn address(&self, url: &RelayUrl) -> Option<SocketAddr> {
        let server = server_in(url.host_str()?)?;
        let ip = *self.addresses(server).first()?;
        Some(SocketAddr::new(ip, url.port_or_known_default()?))
    }

    /// Whether the server that this name stands for is known.
    pub(crate) fn server_of(&self, name: &ServerName<'_>) -> Option<NodeId> {
        let ServerName::DnsName(name) = name else {
            return None;
        };
        let server = server_in(name.as_ref())?;
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.contains_key(&server).then_some(server)
    }

    fn addresses(&self, server: NodeId) -> Vec<IpAddr> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(&server).cloned().unwrap_or_default()
    }

    fn look_up(&self, host: &str) -> Vec<IpAddr> {
        server_in(host).map_or_else(Vec::new, |server| self.addresses(server))
    }
}

/// Whether a name stands for a server's relay.
pub(crate) fn is_relay_name(name: &str) -> bool {
    server_in(name).is_some()
}

fn server_in(host: &str) -> Option<NodeId> {
    let (first, second) = host.strip_suffix(SUFFIX)?.split_once('.')?;
    if first.len() != LABEL || second.len() != LABEL {
        return None;
    }
    format!("{first}{second}").parse().ok()
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<BoxIter<T>, DnsError>> + Send>>;

fn answer<T: Send + 'static>(found: Vec<T>) -> Answer<T> {
    let found: BoxIter<T> = Box::new(found.into_iter());
    Box::pin(std::future::ready(Ok(found)))
}

impl Resolver for Directory {
    fn lookup_ipv4(&self, host: String) -> Answer<Ipv4Addr> {
        let found = self.look_up(&host).into_iter();
        answer(
            found
                .filter_map(|ip| match ip {
                    IpAddr::V4(ip) => Some(ip),
                    IpAddr::V6(_) => None,
                })
                .collect(),
        )
    }

    fn lookup_ipv6(&self, host: String) -> Answer<Ipv6Addr> {
        let found = self.look_up(&host).into_iter();
        answer(
            found
                .filter_map(|ip| match ip {
                    IpAddr::V6(ip) => Some(ip),
                    IpAddr::V4(_) => None,
                })
                .collect(),
        )
    }

    fn lookup_txt(&self, _host: String) -> Answer<TxtRecordData> {
        answer(Vec::new())
    }

    fn clear_cache(&self) {}

    fn reset(&self) -> Box<dyn Resolver> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_server_and_leads_to_what_was_entered() {
        let directory = Directory::default();
        let (server, other) = (NodeId::new([0xab; 32]), NodeId::new([1; 32]));
        let addresses: Vec<SocketAddr> = ["192.0.2.7:443", "[2001:db8::1]:443", "192.0.2.8:9"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert!(directory.enter(server, &[]).is_none());
        let url = directory.enter(server, &addresses).unwrap();
        let host = url.host_str().unwrap().to_owned();
        assert_eq!(server_in(&host), Some(server));
        assert!(is_relay_name(&host) && !is_relay_name("node.shoal.invalid"));
        assert_eq!(directory.look_up(&host).len(), 2, "of one port");
        assert!(addresses.contains(&directory.address(&url).unwrap()));
        let name = ServerName::try_from(host).unwrap();
        assert_eq!(directory.server_of(&name), Some(server));
        let unknown = Directory::default().enter(other, &addresses).unwrap();
        assert_eq!(directory.address(&unknown), None);
        let unknown = unknown.host_str().unwrap().to_owned();
        assert!(directory.look_up(&unknown).is_empty());
        assert!(directory.look_up("example.org").is_empty());
        assert_eq!(
            directory.server_of(&ServerName::try_from(unknown).unwrap()),
            None
        );
    }
}
