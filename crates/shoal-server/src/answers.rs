//! What the server answers to the nodes that are connected to it.
//!
//! Each request is one message on a stream of its own; every answer, a refusal too, ends it. What
//! a server asks of peers is denied when a peer asks it of the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shoal_core::registry::ConnectionId;
use shoal_link::{Link, Stream};
use shoal_node::provide::{Asker as FileAsker, Permission, is_about_files};
use shoal_node::requests::{Handler, RequestError, request};
use shoal_wire::limits::PAGE_MAX_ENTRIES;
use shoal_wire::message::{
    Addresses, Bounded, ErrorReport, FileAnnounce, FileList, FilePage, Hit, PeerSummary,
};
use shoal_wire::{Communication, FileEntry, NodeId, NodeName, OfferTicket, Refusal, ShortText};
use tokio::sync::Semaphore;

use crate::addresses::believable;
use crate::coordinator::Coordinator;
use crate::lookup::{Asker, fitting};
use crate::refused::{catalog_failed, refused};

/// How long a peer may take to say whether it looks at an offer: a machine answers.
const NOTICE_DEADLINE: Duration = Duration::from_secs(10);
/// When a peer over its quota may try again, in milliseconds: files come and go by the minute.
const QUOTA_RETRY_AFTER_MS: u32 = 60_000;
/// What an entry takes in a frame beyond its path, in bytes: size, time, mode, hash.
const ENTRY_BYTES: usize = 80;
/// What a hit takes beyond its entry, in bytes: id, name of the longest kind, flag.
const HIT_BYTES: usize = 100;
/// What a peer's summary takes, in bytes, beyond its agent's text.
const SUMMARY_BYTES: usize = 192;

/// Answers the requests of one connection.
pub(crate) struct Answers {
    coordinator: Arc<Coordinator>,
    node: NodeId,
    name: NodeName,
    /// `None` for a node that does not serve: it is not on the roster.
    connection: Option<ConnectionId>,
    /// One announce at a time, in the order of their sequence.
    announcing: Semaphore,
    /// How many files count against the quota.
    announced_files: AtomicU64,
}

impl Answers {
    /// For the connection of `node`; with `connection` if it serves.
    pub(crate) fn new(
        coordinator: Arc<Coordinator>,
        node: NodeId,
        name: NodeName,
        connection: Option<ConnectionId>,
    ) -> Self {
        Self {
            coordinator,
            node,
            name,
            connection,
            announcing: Semaphore::new(1),
            announced_files: AtomicU64::new(0),
        }
    }

    async fn answer(
        &self,
        request: Communication,
        link: &Link,
    ) -> Result<Communication, ErrorReport> {
        let asker = Asker {
            node: self.node,
            observed: link.path().remote.ip(),
        };
        match request {
            Communication::FileAnnounce(announce) => self.announce(&announce).await,
            Communication::FileList(list) => self.list(list).await,
            Communication::Search { text, limit } => self.search(&text, limit).await,
            Communication::Locate {
                peer,
                wanted,
                after,
            } => {
                let locate = self.coordinator.locate(asker, peer.as_ref(), wanted, after);
                locate.await
            }
            Communication::PeerList { after } => self.peers(after).await,
            Communication::StatusRequest => self
                .coordinator
                .status()
                .await
                .map(Communication::ServerStatus),
            Communication::AddressUpdate(addresses) => self.moved(&addresses, link).await,
            Communication::RelayRequest => {
                let relaying = self.coordinator.relaying.as_ref();
                let place = relaying.and_then(|relaying| relaying.place_for(self.node));
                let none = || refused(Refusal::Denied, "this server has no relay");
                place.map(Communication::RelayPlace).ok_or_else(none)
            }
            Communication::NatTest => self.coordinator.nat_tests.run((self.node, link)).await,
            Communication::OfferNotice { to, ticket } => self.pass_notice(to, ticket).await,
            Communication::FileOffer(_)
            | Communication::Rescan
            | Communication::LimitRequest(_) => Err(refused(
                Refusal::Denied,
                "a server takes this from its operator only",
            )),
            _ => Err(refused(Refusal::Unexpected, "")),
        }
    }

    async fn announce(&self, announce: &FileAnnounce) -> Result<Communication, ErrorReport> {
        let unexpected = || refused(Refusal::Unexpected, "only a serving peer announces files");
        let connection = self.connection.ok_or_else(unexpected)?;
        let turn = self.announcing.acquire().await;
        let _turn = turn.map_err(|_| refused(Refusal::ShuttingDown, ""))?;
        let before = if announce.snapshot {
            0
        } else {
            self.announced_files.load(Ordering::Relaxed)
        };
        let files_after = before + announce.added.len() as u64;
        self.within_quota(files_after)?;
        let (roster, catalog) = (&self.coordinator.roster, &self.coordinator.catalog);
        let sequence = announce.sequence;
        let stale = |refusal| refused(refusal, format_args!("batch {sequence}"));
        let expected = roster.expects(connection, sequence).await?;
        expected.map_err(stale)?;
        // What cannot be taken does not count, and comes again under its number.
        let taken = catalog.apply(&self.node, &self.name, announce).await;
        let totals = taken.map_err(catalog_failed)?;
        roster
            .announced(connection, sequence)
            .await
            .map_err(stale)?;
        let counted = if announce.complete {
            totals.files
        } else {
            files_after
        };
        self.announced_files.store(counted, Ordering::Relaxed);
        if announce.complete {
            tracing::info!(
                peer = %self.name, node = %self.node.short(),
                files = totals.files, total_bytes = totals.total_bytes, "files announced",
            );
        }
        roster.totals(connection, totals).await;
        Ok(Communication::FileAcknowledge { sequence })
    }

    fn within_quota(&self, files: u64) -> Result<(), ErrorReport> {
        let most = self.coordinator.limits.announced_files;
        if files <= most {
            return Ok(());
        }
        tracing::warn!(peer = %self.name, node = %self.node.short(), files, "a peer announces too many files");
        Err(ErrorReport {
            refusal: Refusal::QuotaExceeded,
            detail: ShortText::new(&format!("a peer may announce {most} files")),
            retry_after_ms: Some(QUOTA_RETRY_AFTER_MS),
        })
    }

    async fn list(&self, list: FileList) -> Result<Communication, ErrorReport> {
        let coordinator = &self.coordinator;
        let node = match &list.peer {
            None => coordinator.node(),
            Some(reference) => coordinator.node_meant(reference).await?,
        };
        let (prefix, after) = (list.prefix.as_ref(), list.after.as_ref());
        let limit = page_limit(list.limit);
        let (files, more) = if node == coordinator.node() {
            coordinator.share.page(prefix, after, limit)
        } else {
            let page = coordinator.catalog.list(&node, prefix, after, limit).await;
            page.map_err(catalog_failed)?
        };
        let (files, cut) = fitting(files, entry_len_bytes);
        Ok(Communication::FileListPage {
            files: FilePage::truncated(files),
            more: more || cut,
        })
    }

    async fn search(&self, text: &ShortText, limit: u32) -> Result<Communication, ErrorReport> {
        let online = self.coordinator.online().await?;
        let found = self
            .coordinator
            .catalog
            .search(text.as_str(), &online, page_limit(limit))
            .await;
        let (rows, more) = found.map_err(catalog_failed)?;
        let hits = rows.into_iter().map(|row| Hit {
            peer: row.node,
            peer_name: row.name,
            online: online.contains(&row.node),
            entry: row.entry,
        });
        let (hits, cut) = fitting(hits.collect(), |hit: &Hit| {
            HIT_BYTES + entry_len_bytes(&hit.entry)
        });
        Ok(Communication::SearchPage {
            hits: Bounded::truncated(hits),
            more: more || cut,
        })
    }

    async fn peers(&self, after: Option<NodeId>) -> Result<Communication, ErrorReport> {
        let roster = &self.coordinator.roster;
        let peers = roster
            .view(move |view| {
                // One more than a page, to know whether there are more.
                view.summaries(after.as_ref(), PAGE_MAX_ENTRIES + 1, Instant::now())
            })
            .await?;
        let (mut peers, cut) = fitting(peers, |peer: &PeerSummary| {
            SUMMARY_BYTES + peer.agent.as_str().len()
        });
        let more = cut || peers.len() > PAGE_MAX_ENTRIES;
        peers.truncate(PAGE_MAX_ENTRIES);
        Ok(Communication::PeerListPage {
            peers: Bounded::truncated(peers),
            more,
        })
    }

    /// Tells a connected peer that this node offers it something.
    async fn pass_notice(
        &self,
        to: NodeId,
        ticket: OfferTicket,
    ) -> Result<Communication, ErrorReport> {
        if ticket.sender != self.node {
            return Err(refused(Refusal::Denied, "the offer is another node's"));
        }
        let link = self
            .coordinator
            .roster
            .view(move |view| view.link(&to).cloned());
        let not_connected = || refused(Refusal::PeerNotConnected, to.short());
        let link = link.await?.ok_or_else(not_connected)?;
        let notice = Communication::OfferNotice { to, ticket };
        match request(&link, &notice, NOTICE_DEADLINE).await {
            Ok(answer @ Communication::FileAcknowledge { .. }) => Ok(answer),
            Err(RequestError::Refused(report)) => Err(report),
            Ok(_) | Err(_) => Err(not_connected()),
        }
    }

    async fn moved(
        &self,
        addresses: &Addresses,
        link: &Link,
    ) -> Result<Communication, ErrorReport> {
        let unexpected = || refused(Refusal::Unexpected, "only a serving peer has addresses");
        let connection = self.connection.ok_or_else(unexpected)?;
        let kept = believable(addresses, link.path().remote);
        self.coordinator.roster.addresses(connection, kept).await;
        Ok(Communication::FileAcknowledge { sequence: 0 })
    }
}

impl Handler for Answers {
    async fn handle(&self, first: Communication, mut stream: Stream, link: &Link) {
        if is_about_files(&first) {
            let asker = FileAsker {
                node: self.node,
                name: self.name.clone(),
                permission: Permission::Link,
            };
            self.coordinator.provide.answer(first, asker, stream).await;
            return;
        }
        let first = match first {
            Communication::CodeOffer {
                nameplate,
                lifetime_s,
            } => {
                let wish = (nameplate, lifetime_s);
                return self.coordinator.mailboxes.keep(wish, stream, link).await;
            }
            Communication::CodeClaim {
                nameplate,
                claimant,
            } if claimant == self.node => {
                let claimed = &self.coordinator.mailboxes;
                return claimed.claim(nameplate, claimant, stream, link).await;
            }
            other => other,
        };
        let answer = self.answer(first, link).await.unwrap_or_else(|report| {
            tracing::debug!(peer = %self.name, refusal = %report.refusal, "request refused");
            Communication::Error(report)
        });
        match stream.send.say(&answer).await {
            Ok(()) => stream.send.finish(),
            Err(error) => {
                tracing::debug!(peer = %self.name, %error, "an answer was not heard");
                stream.send.reset(Refusal::Internal);
            }
        }
    }
}

fn page_limit(asked: u32) -> usize {
    usize::try_from(asked)
        .unwrap_or(usize::MAX)
        .clamp(1, PAGE_MAX_ENTRIES)
}

fn entry_len_bytes(entry: &FileEntry) -> usize {
    ENTRY_BYTES + entry.path.as_bytes().len()
}
