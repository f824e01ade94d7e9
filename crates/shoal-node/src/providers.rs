//! Who has a content that no server knows of: from a hash by the DHT to nodes that list it.
//!
//! What is said in the DHT is worth nothing by itself. Each node that says that it has the content is
//! asked what it offers to those who know the hash; one that lists a file with that hash is a source.
//! Whether it gives what it lists is seen when it is fetched: another content is not taken.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use shoal_store::folder::Folder;
use shoal_wire::manifest::EntryKind;
use shoal_wire::message::Addresses;
use shoal_wire::{FileSize, Hash, NodeId, SafePath};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::dht::Dht;
use crate::fetch::{Fetcher, OpenOffer, Source, TreeJob, TreeOptions};
use crate::transfers::{Direction, Transfers};

/// Nodes that are asked, of those that say that they have it: as many as one place may have.
const ASKED_MAX: usize = 256;
/// Nodes that are asked at once.
const AT_ONCE: usize = 16;
/// How long one of them may take to be found and to list what it offers.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// How long all of them may take.
const SEARCH_LIMIT: Duration = Duration::from_secs(120);
/// How long others are waited for once one source is there.
const OTHERS_LIMIT: Duration = Duration::from_secs(2);
/// What a listing may be ahead of who reads it, in entries.
const EVENTS_WAITING: usize = 16;

/// A search for contents.
#[derive(Debug)]
pub struct Search<'a> {
    /// Where it is asked who has them.
    pub dht: &'a Dht,
    /// With what they are asked; it opens what the hash opens.
    pub fetcher: &'a Fetcher,
    /// Where it would go; nothing is written.
    pub folder: &'a Folder,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// How many nodes say that they have it.
    pub said: usize,
    /// Those that list it, the first to answer first. Each goes by its node id, whatever it calls
    /// itself.
    pub sources: Vec<Source>,
    /// Their offers, open while this lives.
    pub offers: Vec<OpenOffer>,
}

impl Search<'_> {
    /// Who has the content with this hash.
    pub async fn sources(&self, hash: Hash) -> Found {
        let nodes = self.dht.providers(&hash, ASKED_MAX).await;
        let mut found = Found {
            said: nodes.len(),
            ..Found::default()
        };
        let mut until = Instant::now() + SEARCH_LIMIT;
        let mut waiting = nodes.into_iter();
        let mut looks = FuturesUnordered::new();
        loop {
            while looks.len() < AT_ONCE
                && let Some(node) = waiting.next()
            {
                looks.push(timeout(LOOK_LIMIT, self.look_at(node, hash)));
            }
            let Ok(Some(looked)) = timeout_at(until, looks.next()).await else {
                return found;
            };
            if let Some((source, offer)) = looked.ok().flatten() {
                if found.sources.is_empty() {
                    until = until.min(Instant::now() + OTHERS_LIMIT);
                }
                found.sources.push(source);
                found.offers.push(offer);
            }
        }
    }

    /// A node with what it calls the content, if it lists it.
    async fn look_at(&self, node: NodeId, hash: Hash) -> Option<(Source, OpenOffer)> {
        let addresses = Addresses::truncated(self.dht.find(node).await);
        let mut source = Source::at(node, addresses);
        let visited = self.fetcher.visit(&source.provider).await;
        let visited = visited.inspect_err(|error| {
            tracing::info!(node = %node.short(), %error, "it says that it has the content");
        });
        let offer = visited.ok()?;
        let (path, size) = self.listed(source.clone(), hash).await?;
        let entry = &mut source.provider.entry;
        (entry.path, entry.size, entry.hash) = (path, size, Some(hash));
        Some((source, offer))
    }

    /// What a node calls the file with this hash.
    async fn listed(&self, source: Source, hash: Hash) -> Option<(SafePath, FileSize)> {
        let found = Arc::new(Mutex::new(None));
        let finding = Arc::clone(&found);
        let provider = &source.provider;
        let (path, name) = (provider.entry.path.clone(), provider.name.clone());
        let job = TreeJob {
            source,
            remote: None,
            folder: self.folder.clone(),
            target: None,
            options: TreeOptions {
                dry_run: true,
                choose: Some(Arc::new(move |path, kind| {
                    if let EntryKind::File { size, hash: is } = kind
                        && *is == Some(hash)
                    {
                        let mut found = finding.lock().unwrap_or_else(PoisonError::into_inner);
                        *found = Some((path.clone(), *size));
                    }
                    false
                })),
                ..TreeOptions::default()
            },
            transfer: Transfers::new().begin(Direction::Receiving, path, name),
            transfers: Transfers::new(),
        };
        let (events, mut happened) = mpsc::channel(EVENTS_WAITING);
        let listening = async { while happened.recv().await.is_some() {} };
        // That nothing is chosen is no error here; what was found counts, whatever it ends with.
        let (_listed, ()) = tokio::join!(self.fetcher.fetch_tree(job, events), listening);
        let found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.clone()
    }
}
