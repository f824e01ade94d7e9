//! The parts of a running server, shared by its connections and its operator.
//!
//! Built once by [`crate::server::Server`]; nothing here changes but through its own part.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_link::{Endpoint, Identity};
use shoal_node::fetch::Fetcher;
use shoal_node::provide::Provide;
use shoal_node::share::Share;
use shoal_node::transfers::Transfers;
use shoal_wire::limits::ANNOUNCED_FILES_MAX;
use shoal_wire::message::{ErrorReport, PeerRef, ServerStatus};
use shoal_wire::{NodeId, NodeName, Refusal, ShortText};

use crate::catalog::{Catalog, Nodes};
use crate::mailbox::PostOffice;
use crate::metrics::Figures;
use crate::nat::NatTests;
use crate::refused::{catalog_failed, refused};
use crate::relay::Relaying;
use crate::roster::{Roster, View, millis};

/// Fewest leading hex digits of an id that name a peer.
const ID_DIGITS_MIN: usize = 6;

/// Bounds that a test may lower.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most files that one peer may announce.
    pub announced_files: u64,
    /// How long a new connection may take to say who it is.
    pub presence_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            announced_files: ANNOUNCED_FILES_MAX,
            presence_deadline: Duration::from_secs(10),
        }
    }
}

/// A running server's parts.
pub(crate) struct Coordinator {
    pub(crate) identity: Identity,
    pub(crate) name: NodeName,
    pub(crate) agent: ShortText,
    pub(crate) limits: Limits,
    pub(crate) endpoint: Endpoint,
    pub(crate) catalog: Catalog,
    pub(crate) roster: Roster,
    pub(crate) mailboxes: Arc<PostOffice>,
    pub(crate) relaying: Option<Relaying>,
    pub(crate) share: Share,
    pub(crate) provide: Provide,
    pub(crate) fetcher: Fetcher,
    pub(crate) transfers: Transfers,
    pub(crate) nat_tests: NatTests,
    pub(crate) started_at: Instant,
}

impl Coordinator {
    /// The server's own id.
    pub(crate) fn node(&self) -> NodeId {
        self.endpoint.node_id()
    }

    /// Where the server listens.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// The nodes that have files to fetch now: the connected peers and the server.
    pub(crate) async fn online(&self) -> Result<Nodes, ErrorReport> {
        let mut nodes = self.roster.view(View::online).await?;
        nodes.insert(self.node());
        Ok(nodes)
    }

    /// The connected peer, or the server itself, that somebody means. A server and a peer on one
    /// host have the same name unless told otherwise: then the peer is meant.
    pub(crate) async fn node_meant(&self, reference: &PeerRef) -> Result<NodeId, ErrorReport> {
        let own = (self.node(), self.name.clone());
        let reference = reference.clone();
        self.roster
            .view(move |view| {
                let peers = view.registry().peers();
                let peers = peers.map(|peer| (&peer.presence.node, &peer.presence.name));
                match meant(peers, &reference) {
                    Err(report) if report.refusal == Refusal::PeerNotConnected => {
                        meant([(&own.0, &own.1)].into_iter(), &reference)
                    }
                    found => found,
                }
            })
            .await?
    }

    /// How the server is, for `/metrics`.
    pub(crate) async fn figures(&self) -> Option<Figures> {
        let status = self.status().await.ok()?;
        let figures = Figures::new()
            .gauge(
                "uptime_seconds",
                "Since the start",
                status.uptime_ms / 1_000,
            )
            .gauge("peers", "Connected peers", status.peers)
            .gauge("files", "Files in the catalog", status.files)
            .gauge(
                "file_bytes",
                "Size of the files in the catalog",
                status.total_bytes,
            )
            .gauge("own_files", "Files of the server's own", status.own_files)
            .gauge(
                "state_writable",
                "Whether the state folder takes what is announced: 0 while its disk is full or fails",
                self.catalog.outage().is_none().into(),
            )
            .counter(
                "state_write_failures",
                "Announcements that the state folder did not take",
                self.catalog.failed_writes(),
            );
        Some(match &self.relaying {
            Some(relaying) if relaying.is_own() => figures.relay(&relaying.standing()),
            _ => figures,
        })
    }

    /// How the server is.
    pub(crate) async fn status(&self) -> Result<ServerStatus, ErrorReport> {
        let totals = self.catalog.totals().await.map_err(catalog_failed)?;
        let peers = self.roster.view(|view| view.registry().len()).await?;
        Ok(ServerStatus {
            server: self.node(),
            agent: self.agent.clone(),
            uptime_ms: millis(self.started_at.elapsed()),
            peers: peers as u64,
            files: totals.files,
            total_bytes: totals.total_bytes,
            own_files: self.share.totals().files,
        })
    }
}

fn meant<'a>(
    nodes: impl Iterator<Item = (&'a NodeId, &'a NodeName)>,
    reference: &PeerRef,
) -> Result<NodeId, ErrorReport> {
    let nodes: Vec<_> = nodes.collect();
    let absent =
        |shown: &dyn std::fmt::Display| refused(Refusal::PeerNotConnected, format_args!("{shown}"));
    match reference {
        PeerRef::Id(id) => {
            let known = nodes.iter().any(|(node, _)| *node == id);
            known.then_some(*id).ok_or_else(|| absent(id))
        }
        PeerRef::Text(text) => {
            let wanted = text.as_str();
            let named = nodes.iter().filter(|(_, name)| name.as_str() == wanted);
            let named: Vec<NodeId> = named.map(|(node, _)| **node).collect();
            let digits = wanted.to_ascii_lowercase();
            let by_id = |(node, _): &&(&NodeId, &NodeName)| {
                digits.len() >= ID_DIGITS_MIN && node.to_string().starts_with(&digits)
            };
            let found = if named.is_empty() {
                nodes.iter().filter(by_id).map(|(node, _)| **node).collect()
            } else {
                named
            };
            match found.as_slice() {
                [] => Err(absent(text)),
                [only] => Ok(*only),
                several => {
                    let ids: Vec<String> = several.iter().take(4).map(NodeId::short).collect();
                    let detail = format!("{text} is one of {}: name its id", ids.join(", "));
                    Err(refused(Refusal::Ambiguous, detail))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_meant_by_its_name_or_by_enough_of_its_id() {
        let anna = (NodeId::new([0xaa; 32]), "anna".parse().unwrap());
        let other = (NodeId::new([0xab; 32]), "aaaaaaaa".parse().unwrap());
        let nodes = [anna, other];
        let ask = |text: &str| {
            let nodes = nodes.iter().map(|(node, name)| (node, name));
            meant(nodes, &PeerRef::Text(ShortText::new(text))).map_err(|report| report.refusal)
        };
        assert_eq!(ask("anna"), Ok(nodes[0].0));
        assert_eq!(ask("AAAAAA"), Ok(nodes[0].0));
        assert_eq!(ask("aaaaaaaa"), Ok(nodes[1].0));
        assert_eq!(ask("aaaaa"), Err(Refusal::PeerNotConnected));
        assert_eq!(ask(""), Err(Refusal::PeerNotConnected));
        assert_eq!(ask("Anna"), Err(Refusal::PeerNotConnected));
    }

    #[test]
    fn two_peers_of_one_name_are_ambiguous() {
        let name: NodeName = "anna".parse().unwrap();
        let nodes = [NodeId::new([1; 32]), NodeId::new([2; 32])];
        let found = meant(
            nodes.iter().map(|node| (node, &name)),
            &PeerRef::Text(ShortText::new("anna")),
        );
        assert_eq!(found.unwrap_err().refusal, Refusal::Ambiguous);
    }
}
