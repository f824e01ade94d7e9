//! Fetching a whole folder: its manifest is heard while its files already move.
//!
//! [`listing`] hears the manifest and decides, page by page, what each entry needs; runs of small
//! files become packs, which [`packs`] fetches on a few streams and stages; [`landing`] makes what
//! is staged durable in batches and gives it its names; large files are fetched one by one as any
//! single file; [`finishing`] makes folders and links. Nothing holds the whole manifest in memory
//! but its folders and links. What a lost connection leaves is gone on with on the next one.

mod ending;
mod finishing;
mod landing;
mod listing;
mod packs;
mod voice;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_link::Link;
use shoal_store::attributes::{NotKept, Wanted, apply_extras};
use shoal_store::folder::Folder;
use shoal_store::staging::Staging;
use shoal_wire::SafePath;
use shoal_wire::manifest::{EntryKind, Extras, Omission};
use shoal_wire::message::Provider;
use tokio::sync::mpsc;

use self::ending::Ending;
use self::landing::Landing;
use self::listing::Large;
use self::packs::PackWorker;
use super::{Durability, FetchError, FetchJob, FetchPolicy, Fetched, Fetcher, ROUND_PAUSE, Source};
use crate::open_files::fetches_at_once;
use crate::transfers::{Direction, State, Transfer, Transfers};

/// Streams that packs are fetched on side by side: one is read while others are written to disk.
const PACK_STREAMS: usize = 4;
/// Packs that may wait for a stream: they are lists of names, about 100 KB each.
const PACKS_WAITING: usize = 2;
/// Large files that are fetched side by side.
const LARGE_AT_ONCE: usize = 4;
/// Packs that may be staged before they are placed, at most 1 MiB of page cache each.
const PACKS_STAGED: usize = 64;

/// Names that would collide elsewhere that are warned of one by one.
const TWINS_NAMED: u64 = 3;

/// Chooses entries by their path below the folder that is fetched, and by what they are. A folder that
/// is not chosen is made all the same where something in it is.
pub type Choose = Arc<dyn Fn(&SafePath, &EntryKind) -> bool + Send + Sync>;

/// The same for an entry that is left out, of which nothing is known but its path, as bytes.
pub type ChooseOmitted = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// How a folder is fetched.
#[derive(Clone)]
pub struct TreeOptions {
    /// Whether different files that are there are replaced.
    pub overwrite: bool,
    /// Whether symbolic links are made; else they are told as not kept.
    pub links: bool,
    /// What is kept besides permissions and times.
    pub wanted: Wanted,
    /// As of single files.
    pub policy: FetchPolicy,
    /// Which entries; all where `None`.
    pub choose: Option<Choose>,
    /// Which of the entries that the provider leaves out are told; all where `None`.
    pub choose_omitted: Option<ChooseOmitted>,
    /// Whether it is only told what would be done.
    pub dry_run: bool,
}

impl TreeOptions {
    /// Whether everything is durable before it counts.
    fn syncs(&self) -> bool {
        self.policy.durability == Durability::Synced
    }
}

impl Default for TreeOptions {
    /// Everything, durably, and nothing that is there is replaced.
    fn default() -> Self {
        Self {
            overwrite: false,
            links: false,
            wanted: Wanted::default(),
            policy: FetchPolicy::default(),
            choose: None,
            choose_omitted: None,
            dry_run: false,
        }
    }
}

/// One folder to fetch.
#[derive(Clone)]
pub struct TreeJob {
    /// Who has it. The entry of the provider is not looked at.
    pub source: Source,
    /// The folder there; the whole share where `None`.
    pub remote: Option<SafePath>,
    /// The folder that receives it.
    pub folder: Folder,
    /// Where in that folder; the folder itself where `None`.
    pub target: Option<SafePath>,
    /// How.
    pub options: TreeOptions,
    /// What counts the small files and can cancel it all.
    pub transfer: Transfer,
    /// Where the large files get a transfer each.
    pub transfers: Transfers,
}

/// What would be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planned {
    /// It would be fetched.
    Fetch,
    /// A different file would be replaced.
    Replace,
    /// It is there already.
    UpToDate,
    /// A different file is there and is kept: it would fail.
    Differs,
}

/// What happens while a folder is fetched.
#[derive(Debug)]
pub enum TreeEvent {
    /// The manifest names so much more.
    Listed {
        /// Files.
        files: u64,
        /// What of them is not there yet, in bytes.
        bytes: u64,
    },
    /// A large file begins, counted by a transfer of its own.
    Started(Transfer),
    /// A file is over.
    Ended {
        /// Where it goes, below the receiving folder.
        target: SafePath,
        /// What became of it.
        result: Result<Fetched, FetchError>,
    },
    /// Something of an entry could not be kept.
    NotKept {
        /// The entry.
        target: SafePath,
        /// What.
        what: Lost,
    },
    /// Something that should be in the folder is left out by its provider.
    LeftOut(Omission),
    /// So many more are left out than are named.
    LeftOutUnnamed(u64),
    /// In a dry run: a folder would be made where it is missing.
    PlannedFolder {
        /// Where.
        target: SafePath,
    },
    /// In a dry run: what would be done with a file.
    Planned {
        /// Where it would go.
        target: SafePath,
        /// Its size, in bytes.
        bytes: u64,
        /// What would be done.
        planned: Planned,
    },
}

/// What of an entry is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// An attribute.
    Attribute(NotKept),
    /// A whole symbolic link, because links are not asked for.
    Link,
}

/// What one fetch of a folder works with, over all its attempts.
struct Tree<'a> {
    fetcher: &'a Fetcher,
    job: &'a TreeJob,
    events: mpsc::Sender<TreeEvent>,
    /// Hashes of the paths that are over: they are not fetched again after a reconnect.
    over: Mutex<HashSet<u64>>,
    path_hasher: RandomState,
    twins: Mutex<Twins>,
    /// Whether it was told what the provider leaves out.
    has_told_omissions: AtomicBool,
}

/// Names that this disk keeps apart and others do not.
#[derive(Default)]
struct Twins {
    /// Hashes of what names collide under.
    keys: HashSet<u64>,
    found: u64,
}

impl Fetcher {
    /// Fetches a folder, to the end or to the first reason that no further try can mend. What
    /// becomes of each file is told in `events`; files that fail by themselves do not stop it.
    ///
    /// # Errors
    /// What ended it before all files were tried; whatever has arrived stays.
    pub async fn fetch_tree(
        &self,
        job: TreeJob,
        events: mpsc::Sender<TreeEvent>,
    ) -> Result<(), FetchError> {
        let tree = Tree {
            fetcher: self,
            job: &job,
            events,
            over: Mutex::default(),
            path_hasher: RandomState::new(),
            twins: Mutex::default(),
            has_told_omissions: AtomicBool::new(false),
        };
        let fetched = tree.try_while_it_helps().await;
        job.transfer.ended(match &fetched {
            Ok(()) => State::Complete,
            Err(error) => State::Failed(error.refusal()),
        });
        fetched
    }
}

impl Tree<'_> {
    async fn try_while_it_helps(&self) -> Result<(), FetchError> {
        let mut is_redialled = false;
        loop {
            let before = self.over_count();
            let error = match self.try_once().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let provider = &self.job.source.provider;
            if !matches!(error, FetchError::Cancelled) {
                tracing::warn!(peer = %provider.name, node = %provider.node, %error, "folder interrupted");
            }
            if matches!(error, FetchError::Stalled { .. }) && !is_redialled {
                // The path may have died without a word: once more over a new link.
                self.fetcher.links.forget(provider.node);
                is_redialled = true;
            } else if !error.may_pass() || self.over_count() == before {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(ROUND_PAUSE) => {}
                () = self.job.transfer.cancelled() => return Err(FetchError::Cancelled),
            }
        }
    }

    async fn try_once(&self) -> Result<(), FetchError> {
        if let Some(link) = &self.job.source.link {
            return self.run(link).await;
        }
        let provider = &self.job.source.provider;
        let leased = tokio::select! {
            leased = self.fetcher.links.lease(provider) => leased,
            () = self.job.transfer.cancelled() => return Err(FetchError::Cancelled),
        };
        let lease = leased.map_err(|error| error.of(provider))?;
        match lease.link() {
            Some(link) => self.run(link).await,
            None => Err(FetchError::lost(provider, &"the link was closed")),
        }
    }

    async fn run(&self, link: &Link) -> Result<(), FetchError> {
        self.job.transfer.travels(link);
        self.check_collisions(link).await?;
        self.twins().keys.clear();
        if self.job.options.dry_run {
            let (packs, large) = (Vec::new(), Vec::new());
            return self.list(link, packs, large).await.map(drop);
        }
        let folder = self.job.folder.clone();
        let begun = self
            .fetcher
            .tasks
            .blocking(move || Staging::begin(&folder))
            .await;
        let staging = Arc::new(begun.map_err(shoal_store::partial::PartialError::from)?);
        let (landed, to_land) = mpsc::channel(PACKS_STAGED);
        let landing = Landing::new(self, Arc::clone(&staging));
        let working = async {
            // The last sender goes with this block: then the landing ends.
            let landed = landed;
            self.move_files(link, &staging, &landed, &landing).await
        };
        let (moved, placed) = tokio::join!(working, landing.run(to_land));
        placed?;
        let (ending, streams) = moved?;
        landing.acknowledge(streams).await;
        self.finish(ending, staging).await
    }

    /// Hears the manifest and fetches what it names, until all of it is staged or on its way.
    async fn move_files(
        &self,
        link: &Link,
        staging: &Arc<Staging>,
        landed: &mpsc::Sender<landing::Landed>,
        landing: &Landing<'_>,
    ) -> Result<(Ending, Vec<PackWorker>), FetchError> {
        let (mut to_pack, mut packs) = (Vec::new(), Vec::new());
        for number in 0..PACK_STREAMS {
            let (sender, receiver) = mpsc::channel(PACKS_WAITING);
            to_pack.push(sender);
            let worker = PackWorker::new(number, Arc::clone(staging), landed.clone());
            packs.push((worker, receiver));
        }
        let (mut to_large, mut large) = (Vec::new(), Vec::new());
        for _ in 0..fetches_at_once(LARGE_AT_ONCE) {
            let (sender, receiver) = mpsc::channel(1);
            to_large.push(sender);
            large.push(receiver);
        }
        let listing = self.list(link, to_pack, to_large);
        let packing = join_all(packs.into_iter().map(|(mut worker, mut packs)| async move {
            worker.run(self, link, &mut packs, landing).await?;
            Ok(worker)
        }));
        let fetching = join_all(large.into_iter().map(|files| self.fetch_large(files)));
        let (ending, workers, _) = tokio::try_join!(listing, packing, fetching)?;
        Ok((ending, workers))
    }

    async fn fetch_large(&self, mut files: mpsc::Receiver<Large>) -> Result<(), FetchError> {
        while let Some(large) = files.recv().await {
            let Large {
                entry,
                target,
                extras,
            } = large;
            let source = &self.job.source;
            let transfer = self.job.transfers.begin(
                Direction::Receiving,
                target.clone(),
                source.provider.name.clone(),
            );
            self.tell(TreeEvent::Started(transfer.clone())).await;
            let path = entry.path.clone();
            let job = FetchJob {
                further: None,
                sources: vec![Source {
                    provider: Provider {
                        entry,
                        ..source.provider.clone()
                    },
                    link: source.link.clone(),
                }],
                folder: self.job.folder.clone(),
                target: target.clone(),
                range: None,
                overwrite: self.job.options.overwrite,
                policy: self.job.options.policy,
                transfer: transfer.clone(),
            };
            let mut fetching = std::pin::pin!(self.fetcher.fetch(job));
            let result = tokio::select! {
                result = &mut fetching => result,
                () = self.job.transfer.cancelled() => {
                    transfer.cancel();
                    fetching.await
                }
            };
            match result {
                Err(error) if error.may_pass() => return Err(error),
                result => {
                    if let (Ok(_), Some(extras)) = (&result, extras) {
                        self.keep_extras(&target, extras).await;
                    }
                    self.over(&path, target, result).await;
                }
            }
        }
        Ok(())
    }

    /// Sets what is kept besides of a large file that is there; the last sync makes it durable.
    async fn keep_extras(&self, target: &SafePath, extras: Extras) {
        let (folder, path) = (self.job.folder.clone(), target.clone());
        let keep = move || match folder.open_file(&path) {
            Ok((file, _)) => apply_extras(file.as_fd(), &extras),
            Err(_) => vec![NotKept::Owner, NotKept::Xattr],
        };
        for lost in self.fetcher.tasks.blocking(keep).await {
            let (target, what) = (target.clone(), Lost::Attribute(lost));
            self.tell(TreeEvent::NotKept { target, what }).await;
        }
    }

    async fn tell(&self, event: TreeEvent) {
        // Whoever asked may have stopped listening; the fetch goes on.
        let _ = self.events.send(event).await;
    }

    /// A file is over: it is told, and not fetched again.
    async fn over(&self, path: &SafePath, target: SafePath, result: Result<Fetched, FetchError>) {
        self.over_set().insert(self.path_hasher.hash_one(path));
        self.tell(TreeEvent::Ended { target, result }).await;
    }

    /// Warns of names that would be one file on other systems, the first few by name.
    fn note_twin(&self, path: &SafePath) {
        let key = self.path_hasher.hash_one(path.collision_key());
        let mut twins = self.twins();
        if !twins.keys.insert(key) {
            twins.found += 1;
            if twins.found <= TWINS_NAMED {
                tracing::warn!(%path, "this and another name would be one file on other systems");
            }
        }
    }

    fn twins(&self) -> std::sync::MutexGuard<'_, Twins> {
        self.twins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self, path: &SafePath) -> bool {
        self.over_set().contains(&self.path_hasher.hash_one(path))
    }

    fn over_count(&self) -> usize {
        self.over_set().len()
    }

    fn over_set(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs futures side by side in this task, to the end of all or the first error.
async fn join_all<T>(
    futures: impl Iterator<Item = impl Future<Output = Result<T, FetchError>>>,
) -> Result<Vec<T>, FetchError> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_ready = true;
        for (future, output) in &mut running {
            if output.is_some() {
                continue;
            }
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(Ok(value)) => *output = Some(value),
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => is_ready = false,
            }
        }
        if is_ready {
            std::task::Poll::Ready(Ok(()))
        } else {
            std::task::Poll::Pending
        }
    })
    .await?;
    Ok(running
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect())
}
