//! Who has a content that no server knows of: from a hash by the DHT to nodes that list it.
//!
//! What is said in the DHT is worth nothing by itself. Each node that says that it has the content is
//! asked what it offers to those who know the hash; one that lists a file with that hash
//! and shows its last chunk is a source: by that the size is known, and the rest is verified when it
//! is fetched. Another content is not taken.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use shoal_store::folder::Folder;
use shoal_wire::address::network_of;
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
/// Sources that are found at a time.
const SOURCES_MAX: usize = 8;
/// How long one of them may take to be found, to list what it offers, and to show some of it.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// How long is searched for the next sources.
const SEARCH_LIMIT: Duration = Duration::from_secs(120);
/// How long others are waited for once one source is there.
const OTHERS_LIMIT: Duration = Duration::from_secs(2);
/// What a listing may be ahead of who reads it, in entries.
const EVENTS_WAITING: usize = 16;
/// How many entries of a listing are looked at: who offers a content by its hash offers one.
const ENTRIES_MAX: usize = 16;
/// Addresses of one network that are dialled in a search: whoever announces many nodes must not have
/// them all lead to somebody else's door.
const OF_NETWORK_MAX: usize = 16;

/// A search for those who have a content, from its hash.
#[derive(Debug)]
pub struct Search<'a> {
    asking: Asking<'a>,
    said: usize,
    /// Who is still to be asked, the likeliest first.
    nodes: VecDeque<NodeId>,
}

/// Those who have it, with what keeps their offers open.
#[derive(Debug, Default)]
pub struct Found {
    /// Who has it, the first to answer first. Each goes by its node id, whatever it calls itself, and
    /// has shown that the content is of the size that it names.
    pub sources: Vec<Source>,
    /// Their offers, open while this lives.
    pub offers: Vec<OpenOffer>,
}

#[derive(Debug)]
struct Asking<'a> {
    dht: &'a Dht,
    fetcher: &'a Fetcher,
    folder: &'a Folder,
    hash: Hash,
    dialled: Mutex<Dialled>,
}

impl<'a> Search<'a> {
    /// Looks in `dht` for who says that they have the content with this hash. They are asked with
    /// `fetcher`, which opens what the hash opens; `folder` is where it would go, nothing is written.
    pub async fn begin(
        dht: &'a Dht,
        (fetcher, folder): (&'a Fetcher, &'a Folder),
        hash: Hash,
    ) -> Self {
        let nodes = dht.providers(&hash, ASKED_MAX).await;
        Self {
            asking: Asking {
                dht,
                fetcher,
                folder,
                hash,
                dialled: Mutex::default(),
            },
            said: nodes.len(),
            nodes: nodes.into(),
        }
    }

    /// How many nodes say that they have it.
    pub fn said(&self) -> usize {
        self.said
    }

    /// The next few who have it; nobody where there are no more.
    pub async fn next(&mut self) -> Found {
        let Self { asking, nodes, .. } = self;
        let asking = &*asking;
        let mut found = Found::default();
        let mut until = Instant::now() + SEARCH_LIMIT;
        let mut asked = Vec::new();
        let mut looks = FuturesUnordered::new();
        while found.sources.len() < SOURCES_MAX {
            while looks.len() < AT_ONCE
                && let Some(node) = nodes.pop_front()
            {
                asked.push(node);
                looks.push(async move {
                    let looked = timeout(LOOK_LIMIT, asking.look_at(node)).await;
                    (node, looked.ok().flatten())
                });
            }
            let Ok(Some((node, looked))) = timeout_at(until, looks.next()).await else {
                break;
            };
            asked.retain(|one| *one != node);
            if let Some((source, offer)) = looked {
                if found.sources.is_empty() {
                    until = until.min(Instant::now() + OTHERS_LIMIT);
                }
                found.sources.push(source);
                found.offers.push(offer);
            }
        }
        // Who had no time to answer is asked again where these come to nothing.
        if !found.sources.is_empty() {
            asked
                .into_iter()
                .rev()
                .for_each(|node| nodes.push_front(node));
        }
        found
    }
}

impl Asking<'_> {
    /// A node with what it calls the content, if it lists it and has it.
    async fn look_at(&self, node: NodeId) -> Option<(Source, OpenOffer)> {
        let addresses = self.may_be_dialled(self.dht.find(node).await);
        let mut source = Source::at(node, Addresses::truncated(addresses));
        let visited = self.fetcher.visit(&source.provider).await;
        let visited = visited.inspect_err(|error| {
            tracing::info!(node = %node.short(), %error, "it says that it has the content");
        });
        let offer = visited.ok()?;
        let (path, size) = self.listed(source.clone()).await?;
        let entry = &mut source.provider.entry;
        (entry.path, entry.size, entry.hash) = (path, size, Some(self.hash));
        let proven = self.fetcher.prove(&source, self.folder).await;
        let proven = proven.inspect_err(|error| {
            tracing::warn!(%node, %error, "it lists a content that it does not show");
        });
        proven.ok().map(|()| (source, offer))
    }

    fn may_be_dialled(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = addresses.into_iter().filter(|one| dialled.admits(one.ip()));
        admitted.collect()
    }

    /// What a node calls the file with this hash.
    async fn listed(&self, source: Source) -> Option<(SafePath, FileSize)> {
        let (found, entries) = (Arc::new(Mutex::new(None)), AtomicUsize::new(0));
        let (finding, hash) = (Arc::clone(&found), self.hash);
        let provider = &source.provider;
        let (path, name) = (provider.entry.path.clone(), provider.name.clone());
        let transfer = Transfers::new().begin(Direction::Receiving, path, name);
        let enough = transfer.clone();
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
                        enough.cancel();
                    }
                    if entries.fetch_add(1, Ordering::Relaxed) >= ENTRIES_MAX {
                        enough.cancel();
                    }
                    false
                })),
                ..TreeOptions::default()
            },
            transfer,
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

/// How many addresses of each network are dialled.
#[derive(Debug, Default)]
struct Dialled(BTreeMap<IpAddr, usize>);

impl Dialled {
    fn admits(&mut self, ip: IpAddr) -> bool {
        let Some(network) = network_of(ip) else {
            return true;
        };
        let count = self.0.entry(network).or_default();
        *count += 1;
        *count <= OF_NETWORK_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_that_names_one_door_knocks_there_a_few_times_only() {
        let mut dialled = Dialled::default();
        let mut knocks = |ip: &str| dialled.admits(ip.parse().unwrap());
        let of_v4 = (0..100).filter(|_| knocks("192.0.2.7")).count();
        let of_v6 = (0..100)
            .filter(|at| knocks(&format!("2001:db8::{at}")))
            .count();
        assert_eq!((of_v4, of_v6), (OF_NETWORK_MAX, OF_NETWORK_MAX));
        assert!(knocks("192.0.3.7") && knocks("2001:db8:0:100::1") && knocks("127.0.0.1"));
    }
}
