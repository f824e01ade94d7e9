//! Orders: what the operator has the server do, most of it by asking peers.
//!
//! A request for a peer goes over the connection that the peer made. An order lives as long as
//! its future: dropping it resets the streams it opened, which tells the peers to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_link::Link;
use shoal_node::requests::{REQUEST_DEADLINE, RequestError, answer, converse, request};
use shoal_wire::limits::PAGE_MAX_ENTRIES;
use shoal_wire::message::{FileList, FileRequest, Matched, PeerRef, Wanted};
use shoal_wire::{Communication, FileEntry, NodeId, NodeName, Refusal, SafePath, ShortText};

use crate::catalog::Nodes;
use crate::control::socket::{Events, Failure, Obeys};
use crate::control::{ControlEvent, ControlRequest};
use crate::coordinator::Coordinator;
use crate::lookup::Asker;
use crate::refused::{catalog_failed, refused};
use crate::relay::Relaying;

mod conversation;
mod limit;
mod transfer;

use conversation::Conversation;

/// Most files that one listing of the catalog shows.
const FILES_SHOWN_MAX: usize = 100_000;
/// How long a peer may take to scan its folder: millions of files on a slow disk.
const RESCAN_DEADLINE: Duration = Duration::from_secs(3600);

/// Carries orders out.
pub(crate) struct Orders {
    coordinator: Arc<Coordinator>,
}

/// A connected peer, as an order needs it.
struct Reached {
    node: NodeId,
    name: NodeName,
    link: Link,
}

impl Obeys for Orders {
    async fn obey(&self, request: ControlRequest, events: Events) -> Result<(), Failure> {
        tracing::info!(order = ?request, "order from the operator");
        match request {
            ControlRequest::Peers => self.peers(&events).await,
            ControlRequest::Files { text } => self.files(text.as_deref(), &events).await,
            ControlRequest::List { peer, path } => self.list(&peer, path.as_deref(), &events).await,
            ControlRequest::Request { peer, file } => self.request(&peer, &file, &events).await,
            ControlRequest::Fetch {
                peer,
                file,
                overwrite,
            } => self.fetch(&peer, &file, overwrite, &events).await,
            ControlRequest::Push {
                file,
                peer,
                overwrite,
            } => self.push(&file, &peer, overwrite, &events).await,
            ControlRequest::Transfer {
                from,
                file,
                to,
                overwrite,
            } => self.transfer(&from, &file, (&to, overwrite), &events).await,
            ControlRequest::Rescan { peer } => self.rescan(&peer, &events).await,
            ControlRequest::Disconnect { peer } => self.disconnect(&peer, &events).await,
            ControlRequest::Limit { peer, changes } => {
                self.limit(peer.as_deref(), changes, &events).await
            }
            ControlRequest::Status => self.status(&events).await,
        }
    }
}

impl Orders {
    /// Obeys with these parts.
    pub(crate) fn new(coordinator: Arc<Coordinator>) -> Self {
        Self { coordinator }
    }

    async fn peers(&self, events: &Events) -> Result<(), Failure> {
        let roster = &self.coordinator.roster;
        let peers = roster
            .view(|view| view.summaries(None, usize::MAX, Instant::now()))
            .await?;
        for peer in peers {
            let event = ControlEvent::Peer {
                node: peer.node.to_string(),
                name: peer.name.to_string(),
                agent: peer.agent.to_string(),
                observed: peer.observed.to_string(),
                connected_ms: peer.connected_ms,
                files: peer.files,
                total_bytes: peer.total_bytes,
                rtt_us: peer.rtt_us,
            };
            tell(events, event).await?;
        }
        Ok(())
    }

    async fn files(&self, text: Option<&str>, events: &Events) -> Result<(), Failure> {
        let online = self.coordinator.online().await?;
        let found = self
            .coordinator
            .catalog
            .search(text.unwrap_or_default(), &online, FILES_SHOWN_MAX)
            .await;
        let (rows, _more) = found.map_err(catalog_failed)?;
        for row in rows {
            let online = online.contains(&row.node);
            tell(events, file_event(&row.node, &row.name, online, &row.entry)).await?;
        }
        Ok(())
    }

    async fn list(&self, peer: &str, path: Option<&str>, events: &Events) -> Result<(), Failure> {
        let peer = self.reach(peer).await?;
        let prefix = path.map(parse_path).transpose()?;
        let mut after: Option<SafePath> = None;
        let mut is_empty = true;
        loop {
            let question = Communication::FileList(FileList {
                peer: None,
                prefix: prefix.clone(),
                after: after.clone(),
                limit: PAGE_MAX_ENTRIES as u32,
            });
            let answer = request(&peer.link, &question, REQUEST_DEADLINE).await?;
            let Communication::FileListPage { files, more } = answer else {
                return Err(RequestError::Unexpected.into());
            };
            let last = files.last().map(|entry| entry.path.clone());
            if more && last <= after {
                return Err(RequestError::Unexpected.into());
            }
            is_empty &= files.is_empty();
            for entry in files.iter() {
                tell(events, file_event(&peer.node, &peer.name, true, entry)).await?;
            }
            if !more {
                return match prefix {
                    Some(path) if is_empty => Err(refused(Refusal::NotFound, path).into()),
                    _ => Ok(()),
                };
            }
            after = last;
        }
    }

    async fn request(&self, peer: &str, file: &str, events: &Events) -> Result<(), Failure> {
        let peer = self.reach(peer).await?;
        let path = self.path_at(peer.node, file).await?;
        let question = Communication::FileRequest(FileRequest {
            path,
            hash: None,
            grant: None,
            accepts_zstd: false,
        });
        let mut conversation = Conversation::new(converse(&peer.link, &question).await?);
        let answer = answer(conversation.stream(), REQUEST_DEADLINE).await?;
        let Communication::FileResponse(response) = answer else {
            return Err(RequestError::Unexpected.into());
        };
        let event = file_event(&peer.node, &peer.name, true, &response.entry);
        tell(events, event).await
    }

    /// The path that the operator means at a peer: by the rules of look-ups where the catalog
    /// knows one, else as it was typed, for the peer to say whether it is there.
    async fn path_at(&self, node: NodeId, file: &str) -> Result<SafePath, Failure> {
        let nodes = Nodes::from([node]);
        let wanted = Wanted::Text(ShortText::new(file));
        let own = self.own_asker();
        match self.coordinator.find(own, &nodes, wanted, None).await {
            Ok(found) if matches!(found.matched, Matched::File) => {
                let first = found.providers.into_iter().next();
                Ok(first.map_or_else(|| parse_path(file), |first| Ok(first.entry.path))?)
            }
            Ok(_) => Err(refused(Refusal::Ambiguous, file).into()),
            Err(report) if report.refusal == Refusal::NotFound => parse_path(file),
            Err(report) => Err(report.into()),
        }
    }

    async fn rescan(&self, peer: &str, events: &Events) -> Result<(), Failure> {
        let peer = self.reach(peer).await?;
        let mut conversation =
            Conversation::new(converse(&peer.link, &Communication::Rescan).await?);
        match answer(conversation.stream(), RESCAN_DEADLINE).await? {
            Communication::RescanDone {
                files,
                changed,
                removed,
            } => {
                let event = ControlEvent::Rescanned {
                    files,
                    changed,
                    removed,
                };
                conversation.ended();
                tell(events, event).await
            }
            _ => Err(RequestError::Unexpected.into()),
        }
    }

    async fn disconnect(&self, peer: &str, events: &Events) -> Result<(), Failure> {
        let peer = self.reach(peer).await?;
        peer.link.close(Refusal::Disconnected);
        let name = peer.name.to_string();
        tell(events, ControlEvent::Disconnected { name }).await
    }

    async fn status(&self, events: &Events) -> Result<(), Failure> {
        let status = self.coordinator.status().await?;
        let event = ControlEvent::Status {
            server: status.server.to_string(),
            name: self.coordinator.name.to_string(),
            agent: status.agent.to_string(),
            address: self.coordinator.local_addr().to_string(),
            uptime_ms: status.uptime_ms,
            peers: status.peers,
            files: status.files,
            total_bytes: status.total_bytes,
            own_files: status.own_files,
            relay: self.coordinator.relaying.as_ref().map(Relaying::standing),
            outage: self.coordinator.catalog.outage().as_ref().map(Into::into),
        };
        tell(events, event).await?;
        let in_force = self.coordinator.transfers.throttle().in_force();
        tell(events, self.own_limits(in_force)).await
    }

    /// The connected peer that the operator means.
    async fn reach(&self, peer: &str) -> Result<Reached, Failure> {
        let reference = PeerRef::Text(ShortText::new(peer));
        let node = self.coordinator.node_meant(&reference).await?;
        let found = self
            .coordinator
            .roster
            .view(move |view| {
                let name = view.registry().peer(&node)?.presence.name.clone();
                let link = view.link(&node)?.clone();
                Some(Reached { node, name, link })
            })
            .await?;
        found.ok_or_else(|| refused(Refusal::PeerNotConnected, peer).into())
    }

    /// The server as the one who looks something up.
    fn own_asker(&self) -> Asker {
        Asker {
            node: self.coordinator.node(),
            observed: std::net::Ipv4Addr::LOCALHOST.into(),
        }
    }
}

async fn tell(events: &Events, event: ControlEvent) -> Result<(), Failure> {
    events.send(event).await.map_err(|_| Failure {
        refusal: Refusal::Cancelled,
        message: "nobody waits for the order any more".to_owned(),
    })
}

fn file_event(node: &NodeId, name: &NodeName, online: bool, entry: &FileEntry) -> ControlEvent {
    ControlEvent::File {
        peer: node.to_string(),
        peer_name: name.to_string(),
        online,
        path: path_text(&entry.path),
        size: entry.size.bytes(),
        mtime_ns: entry.mtime_ns,
        hash: entry.hash.map(|hash| hash.to_string()),
    }
}

fn path_text(path: &SafePath) -> String {
    String::from_utf8_lossy(path.as_bytes()).into_owned()
}

fn parse_path(text: &str) -> Result<SafePath, Failure> {
    let parsed = text.trim_end_matches('/').parse::<SafePath>();
    parsed.map_err(|error| refused(Refusal::NotFound, error).into())
}
