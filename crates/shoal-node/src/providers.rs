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
use tokio::time::{sleep, timeout};

use crate::dht::Dht;
use crate::fetch::{Fetcher, Source, TreeJob, TreeOptions};
use crate::transfers::{Direction, Transfers};

/// Nodes that are asked, of those that say that they have it.
const ASKED_MAX: usize = 16;
/// How long one of them may take to be found and to list what it offers.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
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
    /// Those that list it, the first to answer first.
    pub sources: Vec<Source>,
}

impl Search<'_> {
    /// Who has the content with this hash.
    pub async fn sources(&self, hash: Hash) -> Found {
        let nodes = self.dht.providers(&hash, ASKED_MAX).await;
        let mut found = Found {
            said: nodes.len(),
            sources: Vec::new(),
        };
        let looks = nodes.into_iter();
        let mut looks: FuturesUnordered<_> = looks
            .map(|node| timeout(LOOK_LIMIT, self.look_at(node, hash)))
            .collect();
        loop {
            let has_one = !found.sources.is_empty();
            tokio::select! {
                looked = looks.next() => match looked {
                    Some(looked) => found.sources.extend(looked.ok().flatten()),
                    None => return found,
                },
                () = sleep(OTHERS_LIMIT), if has_one => return found,
            }
        }
    }

    /// A node with what it calls the content, if it lists it.
    async fn look_at(&self, node: NodeId, hash: Hash) -> Option<Source> {
        let addresses = Addresses::truncated(self.dht.find(node).await);
        let mut source = Source::at(node, addresses);
        let visited = self.fetcher.visit(&source.provider).await;
        let visited = visited.inspect_err(|error| {
            tracing::info!(node = %node.short(), %error, "it says that it has the content");
        });
        let offer = visited.ok()?;
        source.provider.name = offer.description().name.clone();
        let (path, size) = self.listed(source.clone(), hash).await?;
        let entry = &mut source.provider.entry;
        (entry.path, entry.size, entry.hash) = (path, size, Some(hash));
        Some(source)
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
