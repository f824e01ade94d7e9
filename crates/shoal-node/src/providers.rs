//! Who has a content that no server knows of: from a hash by the DHT to nodes that list it.
//!
//! What is said in the DHT is worth nothing by itself. Each node that says that it has the content is
//! asked what it offers to those who know the hash; one that lists a file with that hash is a
//! candidate. How large the content is, one of them has to show; those that say the same are sources.
//! The rest is verified when it is fetched: another content is not taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use shoal_store::folder::Folder;
use shoal_wire::address::{is_public, network_of};
use shoal_wire::manifest::EntryKind;
use shoal_wire::message::Addresses;
use shoal_wire::{FileSize, Hash, NodeId, SafePath};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::dht::Dht;
use crate::fetch::{Fetcher, OpenOffer, Source, TreeJob, TreeOptions};
use crate::transfers::{Direction, Transfers};

/// Nodes that are asked, of those that say that they have it: as many as one place may have.
const ASKED_MAX: usize = 256;
/// Nodes that are asked at once.
const AT_ONCE: usize = 16;
/// How long one of them may take to be found and to list what it offers.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// Nodes that list it, and wait for one of them to show its size.
const CANDIDATES_MAX: usize = 32;
/// Nodes that show it at once: each sends the last chunk.
const PROOFS_AT_ONCE: usize = 4;
/// How long that may take at first; twice as long each time that it is tried again.
const PROOF_LIMIT: Duration = Duration::from_secs(30);
/// How often one node may try: an hour the last time.
const TRIES_MAX: u32 = 8;
/// Sources that are found at a time.
const SOURCES_MAX: usize = 8;
/// How long others are waited for once the size is known.
const OTHERS_LIMIT: Duration = Duration::from_secs(2);
/// What a listing may be ahead of who reads it, in entries.
const EVENTS_WAITING: usize = 16;
/// How many entries of a listing are looked at: who offers a content by its hash offers one.
const ENTRIES_MAX: usize = 16;
/// Addresses of one network that are dialled in a search, but for the first public ones of each node:
/// whoever announces many nodes must not have them all lead to somebody else's door.
const OF_NETWORK_MAX: usize = 16;

/// A search for those who have a content, from its hash.
#[derive(Debug)]
pub struct Search<'a> {
    asking: Asking<'a>,
    said: usize,
    /// Who is still to be asked, the likeliest first.
    nodes: VecDeque<NodeId>,
    /// Who lists it, the first to answer first.
    candidates: Vec<Candidate>,
    /// How large it is, once that was shown.
    size: Option<FileSize>,
    dialled: Mutex<Dialled>,
}

/// Those who have it, with what keeps their offers open.
#[derive(Debug, Default)]
pub struct Found {
    /// Who lists it in its true size, the first to answer first. Each goes by its node id, whatever it
    /// calls itself.
    pub sources: Vec<Source>,
    /// Their offers, open while this lives.
    pub offers: Vec<OpenOffer>,
}

/// A node that lists the content.
#[derive(Debug)]
struct Candidate {
    source: Source,
    offer: OpenOffer,
    /// How often it was to show the size, and did not in time.
    tries: u32,
    is_trying: bool,
}

impl Candidate {
    fn node(&self) -> NodeId {
        self.source.provider.node
    }

    fn size(&self) -> FileSize {
        self.source.provider.entry.size
    }
}

/// With what a search asks.
#[derive(Debug)]
pub struct Asking<'a> {
    /// Where it is asked who has it.
    pub dht: &'a Dht,
    /// With what they are asked; it opens what the hash opens.
    pub fetcher: &'a Fetcher,
    /// With their limits on what is received.
    pub transfers: &'a Transfers,
    /// Where the content would go; nothing is written.
    pub folder: &'a Folder,
    /// Its hash.
    pub hash: Hash,
}

impl<'a> Search<'a> {
    /// Looks in the DHT for who says that they have the content.
    pub async fn begin(asking: Asking<'a>) -> Self {
        let nodes = asking.dht.providers(&asking.hash, ASKED_MAX).await;
        Self {
            asking,
            said: nodes.len(),
            nodes: nodes.into(),
            candidates: Vec::new(),
            size: None,
            dialled: Mutex::default(),
        }
    }

    /// How many nodes say that they have it.
    pub fn said(&self) -> usize {
        self.said
    }

    /// The next few who have it; nobody where there are no more.
    pub async fn next(&mut self) -> Found {
        let (asking, dialled) = (&self.asking, &self.dialled);
        let (mut asked, mut looks) = (Vec::new(), FuturesUnordered::new());
        let mut proofs = FuturesUnordered::new();
        let mut until = None;
        while self.size.is_none() || self.candidates.len() < SOURCES_MAX {
            while looks.len() < AT_ONCE
                && untried(&self.candidates) < CANDIDATES_MAX
                && let Some(node) = self.nodes.pop_front()
            {
                asked.push(node);
                looks.push(asking.look_at(node, dialled));
            }
            while self.size.is_none()
                && proofs.len() < PROOFS_AT_ONCE
                && let Some((source, limit)) = to_try(&mut self.candidates)
            {
                proofs.push(asking.prove(source, limit));
            }
            if self.size.is_some() && !self.candidates.is_empty() {
                until.get_or_insert_with(|| Instant::now() + OTHERS_LIMIT);
            }
            if looks.is_empty() && proofs.is_empty() {
                break;
            }
            tokio::select! {
                Some((node, candidate)) = looks.next() => {
                    asked.retain(|one| *one != node);
                    let is_so_large = |one: &Candidate| self.size.is_none_or(|size| one.size() == size);
                    self.candidates.extend(candidate.filter(is_so_large));
                }
                Some((node, proof)) = proofs.next() => match proof {
                    Proof::Shown(size) => {
                        self.size = Some(size);
                        self.candidates.retain(|one| one.size() == size);
                        proofs.clear();
                    }
                    Proof::False => self.candidates.retain(|one| one.node() != node),
                    Proof::Late => try_again(&mut self.candidates, node),
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
            }
        }
        drop((looks, proofs));
        // Who had no time to answer is asked again, after the others, where these come to nothing.
        self.nodes.extend(asked);
        let count = self
            .size
            .map_or(0, |_| SOURCES_MAX.min(self.candidates.len()));
        let found = self.candidates.drain(..count);
        let (sources, offers) = found.map(|one| (one.source, one.offer)).unzip();
        Found { sources, offers }
    }
}

/// What came of having a node show the size that it names.
enum Proof {
    Shown(FileSize),
    /// It shows something else.
    False,
    /// Not in time: it is slow, or this machine is.
    Late,
}

/// Who is to show the content's size next, and in what time: of those that were tried least whoever
/// names the smallest, where a lie costs least.
fn to_try(candidates: &mut [Candidate]) -> Option<(Source, Duration)> {
    let waiting = candidates.iter_mut().filter(|one| !one.is_trying);
    let next = waiting.min_by_key(|one| (one.tries, one.size()))?;
    next.is_trying = true;
    Some((next.source.clone(), PROOF_LIMIT * 2_u32.pow(next.tries)))
}

fn untried(candidates: &[Candidate]) -> usize {
    candidates.iter().filter(|one| one.tries == 0).count()
}

fn try_again(candidates: &mut Vec<Candidate>, node: NodeId) {
    for one in candidates.iter_mut().filter(|one| one.node() == node) {
        (one.tries, one.is_trying) = (one.tries + 1, false);
    }
    candidates.retain(|one| one.tries < TRIES_MAX);
}

impl Asking<'_> {
    /// A node with what it calls the content, if it lists it in time.
    async fn look_at(&self, node: NodeId, dialled: &Mutex<Dialled>) -> (NodeId, Option<Candidate>) {
        let looked = timeout(LOOK_LIMIT, self.candidate(node, dialled)).await;
        (node, looked.ok().flatten())
    }

    async fn candidate(&self, node: NodeId, dialled: &Mutex<Dialled>) -> Option<Candidate> {
        let found = self.dht.find(node).await;
        let addresses = {
            let mut dialled = dialled.lock().unwrap_or_else(PoisonError::into_inner);
            dialled.admitted(found)
        };
        let mut source = Source::at(node, Addresses::truncated(addresses));
        let visited = self.fetcher.visit(&source.provider).await;
        let visited = visited.inspect_err(|error| {
            tracing::info!(node = %node.short(), %error, "it says that it has the content");
        });
        let offer = visited.ok()?;
        let (path, size) = self.listed(source.clone()).await?;
        let entry = &mut source.provider.entry;
        (entry.path, entry.size, entry.hash) = (path, size, Some(self.hash));
        Some(Candidate {
            source,
            offer,
            tries: 0,
            is_trying: false,
        })
    }

    /// Has a source show the size that it names.
    async fn prove(&self, source: Source, limit: Duration) -> (NodeId, Proof) {
        let (node, size) = (source.provider.node, source.provider.entry.size);
        let proving = self.fetcher.prove(&source, (self.folder, self.transfers));
        let proof = match timeout(limit, proving).await {
            Ok(Ok(())) => Proof::Shown(size),
            Ok(Err(error)) => {
                tracing::warn!(%node, %error, "it lists a content that it does not show");
                Proof::False
            }
            Err(_) => Proof::Late,
        };
        (node, proof)
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

/// Which addresses of each network are dialled.
#[derive(Debug, Default)]
struct Dialled(BTreeMap<IpAddr, BTreeSet<SocketAddr>>);

impl Dialled {
    /// Those of a node that may be dialled: the first public one of IPv4 and of IPv6 whatever others
    /// have named, or else the first of all.
    fn admitted(&mut self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let public = |is_ipv6: bool| {
            let mut public = addresses.iter().filter(|one| is_public(one.ip()));
            public.find(|one| one.is_ipv6() == is_ipv6).copied()
        };
        let mut own: Vec<SocketAddr> = [false, true].into_iter().filter_map(public).collect();
        if own.is_empty() {
            own.extend(addresses.first());
        }
        addresses.retain(|address| self.admits(*address) || own.contains(address));
        addresses
    }

    fn admits(&mut self, address: SocketAddr) -> bool {
        let Some(network) = network_of(address.ip()) else {
            return true;
        };
        let dialled = self.0.entry(network).or_default();
        let is_one_more = dialled.len() < OF_NETWORK_MAX && dialled.insert(address);
        is_one_more || dialled.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors(ips: impl Iterator<Item = String>) -> Vec<SocketAddr> {
        let addresses = ips.map(|ip| SocketAddr::new(ip.parse().unwrap(), 7));
        addresses.collect()
    }

    #[test]
    fn a_crowd_that_names_one_door_knocks_there_a_few_times_only() {
        for network in ["192.0.2.", "2001:db8::"] {
            let mut dialled = Dialled::default();
            let crowd = doors((1..100).map(|at| format!("{network}{at}")));
            let knocks = dialled.admitted(crowd.clone());
            assert_eq!(knocks, crowd[..OF_NETWORK_MAX]);
            // Again is no more, one of each node is, and others are none of it.
            assert_eq!(dialled.admitted(knocks.clone()), knocks);
            assert_eq!(dialled.admitted(crowd[50..].to_vec()), crowd[50..51]);
            // Nor does an address at home stand for it.
            let at_home = doors(["10.0.0.1".to_owned()].into_iter());
            let both = [at_home.clone(), crowd[60..61].to_vec()].concat();
            assert_eq!(dialled.admitted(both.clone()), both);
            let others = ["192.0.3.7", "2001:db8:0:100::1", "127.0.0.1"];
            let others = doors(others.map(str::to_owned).into_iter());
            assert_eq!(dialled.admitted(others.clone()), others);
        }
    }
}
