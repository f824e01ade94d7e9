//! A share: the folder that a node offers, kept in step with the disk.
//!
//! A driver scans the folder, watches it, and scans again when something changed; a second one
//! hashes what has no hash yet. Listing never waits for hashing. What is offered is what the last
//! scan found: nothing else is ever served.

mod feed;
mod hashing;
mod paths;
mod record;
mod roots;
mod scan;
mod table;
mod tree;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_store::folder::{FileStat, Folder};
use shoal_store::hashing::HashList;
use shoal_store::index::{Index, IndexError};
use shoal_wire::{FileEntry, Hash, SafePath};
use tokio::sync::{mpsc, oneshot};

use self::scan::Scanned;
use self::table::Table;
use self::watch::Watch;
use crate::tasks::Tasks;

pub use feed::{Batch, Feed};
pub use roots::{ChooseError, Roots};
pub use scan::Skipped;
pub use tree::Manifest;

/// Shortest time between two scans that changes lead to: an editor's save is several changes.
const SCAN_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// A scan that took `t` is followed by a pause of this many `t`, so that scanning a large folder
/// under constant change takes a fifth of one core at most.
const SCAN_PAUSE_FACTOR: u32 = 4;
/// Time between scans where changes cannot be watched, or the disk does not show everything.
const SCAN_INTERVAL_UNWATCHED: Duration = Duration::from_secs(30);
/// Files of a scan that the table takes over at a time.
const TAKEN_AT_ONCE: usize = 2048;
/// Scans that may wait to be asked for: one under way and the next, callers beyond that wait.
const SCAN_REQUESTS: usize = 2;

/// Why a folder cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It cannot be read (any more).
    #[error("the folder {} cannot be read: is it still there, and is reading it allowed?", path.display())]
    Unreadable {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// The node is shutting down.
    #[error("shutting down")]
    Stopped,
}

/// What to share.
#[derive(Debug)]
pub struct ShareOptions {
    /// Where the files lie.
    pub roots: Roots,
    /// Whether hidden files are offered too.
    pub hidden: bool,
}

/// A file as it is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFile {
    /// What is announced.
    pub entry: FileEntry,
    /// What the disk said when it was scanned: another stat is another file.
    pub stat: FileStat,
}

/// What a share adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many files.
    pub files: u64,
    /// Their size, in bytes.
    pub total_bytes: u64,
    /// How many of them are hashed, or cannot be.
    pub hashed: u64,
}

/// What a scan found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescanned {
    /// Files in all.
    pub files: u64,
    /// Of these, new or changed.
    pub changed: u64,
    /// Gone since the last scan.
    pub removed: u64,
}

type ScanRequest = oneshot::Sender<Result<Rescanned, ShareError>>;

/// A running share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Share {
    inner: Arc<Inner>,
    scans: mpsc::Sender<ScanRequest>,
}

#[derive(Debug)]
struct Inner {
    roots: Roots,
    hidden: bool,
    index: Index,
    is_cache_failing: AtomicBool,
    tasks: Tasks,
    table: Mutex<Table>,
    skipped: Mutex<Skipped>,
    changed: tokio::sync::watch::Sender<u64>,
    ready: tokio::sync::watch::Sender<bool>,
    all_hashed: tokio::sync::watch::Sender<bool>,
}

impl Share {
    /// Starts to scan, watch and hash a folder.
    pub fn start(options: ShareOptions, index: Index, tasks: &Tasks) -> Self {
        Self::start_after(std::future::ready(()), options, index, tasks)
    }

    /// The same, but offers nothing, and is not ready, before `begins` is over.
    pub fn start_after(
        begins: impl Future<Output = ()> + Send + 'static,
        options: ShareOptions,
        index: Index,
        tasks: &Tasks,
    ) -> Self {
        let inner = Arc::new(Inner {
            roots: options.roots,
            hidden: options.hidden,
            index,
            is_cache_failing: AtomicBool::new(false),
            tasks: tasks.clone(),
            table: Mutex::default(),
            skipped: Mutex::default(),
            changed: tokio::sync::watch::Sender::new(0),
            ready: tokio::sync::watch::Sender::new(false),
            all_hashed: tokio::sync::watch::Sender::new(false),
        });
        let (scans, requests) = mpsc::channel(SCAN_REQUESTS);
        let driven = Arc::clone(&inner);
        tasks.spawn(async move {
            begins.await;
            drive(driven, requests).await;
        });
        Self { inner, scans }
    }

    /// The folder that it is of; of several, the first.
    pub fn folder(&self) -> &Folder {
        &self.inner.roots.each()[0].folder
    }

    /// Where its files lie.
    pub fn roots(&self) -> &Roots {
        &self.inner.roots
    }

    /// The file offered at `path`.
    pub fn file(&self, path: &SafePath) -> Option<SharedFile> {
        self.inner.table().file(path)
    }

    /// Files with this content, at most `limit`. Where there are some it looks through all files:
    /// some ten milliseconds for a million.
    pub fn by_hash(&self, hash: &Hash, limit: usize) -> Vec<SharedFile> {
        self.inner.table().by_hash(hash, limit)
    }

    /// A page of at most `limit` files below `prefix` (or just that file), after the path
    /// `after`, in byte order of their paths; and whether there are more.
    pub fn page(
        &self,
        prefix: Option<&SafePath>,
        after: Option<&SafePath>,
        limit: usize,
    ) -> (Vec<FileEntry>, bool) {
        self.inner.table().page(prefix, after, limit)
    }

    /// What it adds up to.
    pub fn totals(&self) -> Totals {
        self.inner.table().totals()
    }

    /// What the last scan found and cannot offer.
    pub fn skipped(&self) -> Skipped {
        self.inner.skipped().clone()
    }

    /// Waits for the end of the first scan.
    pub async fn ready(&self) {
        self.inner.ready().await;
    }

    /// Waits until every file is hashed.
    pub async fn all_hashed(&self) {
        let mut state = self.inner.all_hashed.subscribe();
        if state.wait_for(|all| *all).await.is_err() {
            std::future::pending().await
        }
    }

    /// Scans now.
    ///
    /// # Errors
    /// When the folder cannot be read, or the node is shutting down.
    pub async fn rescan(&self) -> Result<Rescanned, ShareError> {
        let (answer, answered) = oneshot::channel();
        self.scans
            .send(answer)
            .await
            .map_err(|_| ShareError::Stopped)?;
        answered.await.unwrap_or(Err(ShareError::Stopped))
    }

    /// Stops offering the version of a file that has `stat`: it changed while it was served.
    pub fn withdraw(&self, path: &SafePath, stat: &FileStat) {
        let mut table = self.inner.table();
        if table.file(path).is_some_and(|known| known.stat == *stat) {
            tracing::info!(%path, "withdrawn: it changed on disk");
            table.remove(path);
            drop(table);
            self.inner.tell();
        }
    }

    /// The hashes of a file became known by serving or fetching it.
    pub async fn learned(&self, path: &SafePath, stat: &FileStat, hashes: &HashList) {
        self.inner.learned(path, stat, hashes).await;
    }

    /// The hash list of a file's version, if it was ever hashed.
    pub async fn hash_list(&self, stat: &FileStat) -> Option<HashList> {
        self.inner.index.find(stat).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the cache of hashes cannot be read");
            None
        })
    }

    /// Its files and their changes from the start.
    pub fn feed(&self) -> Feed {
        Feed::new(Arc::clone(&self.inner))
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn skipped(&self) -> MutexGuard<'_, Skipped> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ready(&self) {
        let mut state = self.ready.subscribe();
        if state.wait_for(|ready| *ready).await.is_err() {
            std::future::pending().await
        }
    }

    fn tell(&self) {
        let version = self.table().last_version();
        self.changed.send_replace(version);
    }

    /// Says once that the cache takes no hashes, and once that it does again.
    fn kept(&self, outcome: Result<(), IndexError>) {
        match outcome {
            Ok(()) if self.is_cache_failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("hashes are kept again");
            }
            Ok(()) => {}
            Err(error) if self.is_cache_failing.swap(true, Ordering::Relaxed) => {
                tracing::debug!(%error, "hashes are not kept");
            }
            Err(error) => tracing::warn!(
                %error,
                "hashes cannot be kept: all files are offered and served, and those that are hashed meanwhile are hashed again after a restart",
            ),
        }
    }

    async fn learned(&self, path: &SafePath, stat: &FileStat, hashes: &HashList) {
        self.kept(self.index.record(stat, hashes).await);
        if self.table().hashed(path, stat, hashes.root()) {
            self.tell();
        }
    }

    /// Scans; tells too whether the scan was complete.
    async fn scan(self: &Arc<Self>, watch: &Arc<Watch>) -> (Result<Rescanned, ShareError>, bool) {
        let (inner, watch) = (Arc::clone(self), Arc::clone(watch));
        let scanning = move || {
            watch.forget();
            inner.table().scan_begins();
            let tell = |found: &[scan::Found]| {
                // In parts, so that whoever asks the table does not wait for all of them.
                for some in found.chunks(TAKEN_AT_ONCE) {
                    inner.table().found(some);
                }
            };
            let watch = |path: &std::path::Path| watch.folder(path);
            let mut went = Scanned::default();
            for root in inner.roots.each() {
                went.and(scan::scan(root, inner.hidden, watch, tell));
            }
            let scanned = inner.table().scanned(went.is_complete);
            (went, scanned)
        };
        let (went, scanned) = self.tasks.blocking(scanning).await;
        *self.skipped() = went.skipped;
        let has_unhashed = self.table().has_unhashed();
        if has_unhashed {
            self.all_hashed.send_replace(false);
            hashing::look_up(self).await;
        }
        // Whoever hashes waits for it too.
        if has_unhashed || scanned.changed + scanned.removed > 0 {
            tracing::debug!(?scanned, "scanned");
            self.tell();
        }
        let unreadable = || ShareError::Unreadable {
            path: self.roots.each()[0].folder.path().to_owned(),
        };
        (
            went.is_readable.then_some(scanned).ok_or_else(unreadable),
            went.is_complete,
        )
    }
}

/// Scans at first, on request and after changes.
async fn drive(inner: Arc<Inner>, mut requests: mpsc::Receiver<ScanRequest>) {
    let watch = Arc::new(Watch::start());
    let mut asked: Option<ScanRequest> = None;
    let mut hashes = false;
    loop {
        let started = Instant::now();
        let (scanned, is_complete) = inner.scan(&watch).await;
        let took = started.elapsed();
        if let Err(error) = &scanned {
            tracing::warn!(%error, "nothing is offered");
        }
        inner.ready.send_replace(true);
        if !hashes {
            inner.tasks.spawn(hashing::run(Arc::clone(&inner)));
            hashes = true;
        }
        if let Some(asked) = asked.take() {
            // Whoever asked may have stopped waiting.
            let _ = asked.send(scanned);
        }
        let pause = SCAN_INTERVAL_MIN.max(took * SCAN_PAUSE_FACTOR);
        asked = tokio::select! {
            request = requests.recv() => match request {
                Some(request) => Some(request),
                None => return,
            },
            () = due(&watch, pause, is_complete) => None,
        };
    }
}

/// Waits for a change and the pause after the last scan, or for the interval where nothing tells
/// of changes or that scan could not see everything.
async fn due(watch: &Watch, pause: Duration, is_complete: bool) {
    let interval = SCAN_INTERVAL_UNWATCHED.max(pause);
    if !watch.is_live() {
        return tokio::time::sleep(interval).await;
    }
    tokio::time::sleep(pause).await;
    if is_complete {
        watch.changed().await;
    } else {
        // Either way it is time for another look.
        let _changed = tokio::time::timeout(interval, watch.changed()).await;
    }
    tokio::time::sleep(SCAN_INTERVAL_MIN).await;
}
