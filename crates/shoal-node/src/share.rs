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
mod rules;
mod scan;
mod table;
mod tree;
mod walk;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_store::folder::{FileStat, Folder};
use shoal_store::hashing::HashList;
use shoal_store::index::{Index, IndexError};
use shoal_wire::{FileEntry, Hash, SafePath};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use self::hashing::Checks;
use self::scan::Scanned;
use self::table::Table;
use self::watch::Watch;
use crate::tasks::Tasks;

pub use feed::{Batch, Feed};
pub use hashing::CheckUnderWay;
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
/// Scans that may wait to be asked for; all that wait get the same one, callers beyond that wait.
const SCAN_REQUESTS: usize = 64;
/// A share whose last scan took longer is not scanned only because somebody looks at it.
const REFRESH_MAX: Duration = Duration::from_millis(200);
/// Changes that a slow listener may be behind; older ones are dropped for it.
const CHANGES_KEPT: usize = 16;
/// Files of one scan that are named as changed.
const CHANGES_NAMED: usize = 3;

/// Why a folder cannot be shared.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// What the disk said of it: another version is another file. Where the hash is known, the time
    /// of its attributes is that at which the content had it.
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

/// What a scan found changed, compared with the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// How many files have another content, which is offered.
    pub changed: u64,
    /// The first of them.
    pub first: Vec<SafePath>,
    /// How many files are gone.
    pub gone: u64,
}

impl Changes {
    fn changed(&mut self, path: Option<&SafePath>) {
        self.changed += 1;
        if self.first.len() < CHANGES_NAMED {
            self.first.extend(path.cloned());
        }
    }
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
    /// Files that were withdrawn since the last scan began.
    withdrawn: Mutex<Vec<SharedFile>>,
    /// Asks for a scan.
    scan_wanted: Notify,
    last_scan_took: Mutex<Duration>,
    checks: Checks,
    changes: broadcast::Sender<Changes>,
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
            withdrawn: Mutex::default(),
            scan_wanted: Notify::new(),
            last_scan_took: Mutex::default(),
            checks: Checks::default(),
            changes: broadcast::Sender::new(CHANGES_KEPT),
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
    pub fn folder(&self) -> Folder {
        self.inner.roots.each()[0].folder()
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

    /// Has what is offered looked at anew before somebody sees it, where that takes no time to
    /// speak of.
    pub async fn refresh(&self) {
        let took = *lock(&self.inner.last_scan_took);
        if took <= REFRESH_MAX {
            // What cannot be read offers nothing, which whoever looks will see.
            let _ = self.rescan().await;
        }
    }

    /// What scans find changed from here on.
    pub fn changes(&self) -> broadcast::Receiver<Changes> {
        self.inner.changes.subscribe()
    }

    /// Stops offering a version of a file: it changed while it was served. A scan follows, so that
    /// what is there instead is offered.
    pub fn withdraw(&self, served: &SharedFile) {
        let path = &served.entry.path;
        let mut table = self.inner.table();
        let is_listed = table.file(path).is_some_and(|known| {
            let is_content = served.entry.hash.is_none() || served.entry.hash == known.entry.hash;
            is_content && known.stat.version() == served.stat.version()
        });
        if is_listed {
            tracing::info!(%path, "withdrawn: it changed on disk");
            table.remove(path);
            drop(table);
            lock(&self.inner.withdrawn).push(served.clone());
            self.inner.tell();
        }
        self.inner.scan_wanted.notify_one();
    }

    /// The hash that a file is known to have with the attributes of `stat`.
    pub fn checked_root(&self, path: &SafePath, stat: &FileStat) -> Option<Hash> {
        let known = self.file(path)?;
        let is_checked =
            known.stat.version() == stat.version() && known.stat.ctime_ns == stat.ctime_ns;
        known.entry.hash.filter(|_| is_checked)
    }

    /// Has a file hashed again, whose attributes are those of `stat` and not those with which it was
    /// hashed. It stays offered meanwhile.
    pub fn begin_check(&self, path: &SafePath, stat: &FileStat) -> CheckUnderWay {
        hashing::begin_check(&self.inner, path, stat)
    }

    /// The hashes of a file became known by serving or fetching it.
    pub async fn learned(&self, path: &SafePath, stat: &FileStat, hashes: &HashList) {
        let hashed = [(*stat, hashes.clone())];
        self.inner
            .learned(std::slice::from_ref(path), &hashed)
            .await;
    }

    /// The hash list of a file's version, if it was ever hashed; perhaps before its attributes
    /// changed.
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

    async fn learned(&self, paths: &[SafePath], hashed: &[(FileStat, HashList)]) {
        self.kept(self.index.record_many(hashed).await);
        let mut table = self.table();
        let mut is_listed = false;
        for (path, (stat, hashes)) in paths.iter().zip(hashed) {
            is_listed |= table.hashed(path, stat, hashes.root());
        }
        drop(table);
        if is_listed {
            self.tell();
        }
    }

    /// Scans; tells too whether the scan saw all that there may be.
    async fn scan(self: &Arc<Self>, watch: &Arc<Watch>) -> (Result<Rescanned, ShareError>, bool) {
        let withdrawn = std::mem::take(&mut *lock(&self.withdrawn));
        let started = Instant::now();
        let (went, scanned) = self.look(watch).await;
        *lock(&self.last_scan_took) = started.elapsed();
        let before = std::mem::replace(&mut *self.skipped(), went.skipped.clone());
        if before != went.skipped {
            went.skipped.warn();
        }
        let stats: Vec<FileStat> = withdrawn.iter().map(|file| file.stat).collect();
        if let Err(error) = self.index.forget(&stats).await {
            tracing::debug!(%error, "what was known of changed files is not forgotten");
        }
        let has_unhashed = self.table().has_unhashed();
        if has_unhashed {
            self.all_hashed.send_replace(false);
            hashing::look_up(self).await;
        }
        // Whoever hashes waits for it too, and says once more that all is hashed where it is by now.
        let is_news = has_unhashed || self.table().is_to_be_hashed();
        if is_news || scanned.changed + scanned.removed > 0 {
            tracing::debug!(?scanned, "scanned");
            self.tell();
        }
        self.tell_changes(&withdrawn, scanned.removed);
        let unreadable = || ShareError::Unreadable {
            path: self.roots.each()[0].folder().path().to_owned(),
        };
        (
            went.is_readable.then_some(scanned).ok_or_else(unreadable),
            went.is_complete && went.is_readable,
        )
    }

    /// Has the table take over what is on the disk.
    async fn look(self: &Arc<Self>, watch: &Arc<Watch>) -> (Scanned, Rescanned) {
        let (inner, watch) = (Arc::clone(self), Arc::clone(watch));
        let looking = move || {
            watch.forget();
            inner.table().scan_begins();
            let tell = |found: &[scan::Found]| {
                // In parts, so that whoever asks the table does not wait for all of them.
                for some in found.chunks(TAKEN_AT_ONCE) {
                    inner.table().found(some);
                }
            };
            for root in inner.roots.each() {
                if let Some(names) = &root.only {
                    watch.names(root.folder().path(), names);
                }
            }
            let mut went = Scanned::default();
            for root in inner.roots.each() {
                let watch = |path: &std::path::Path| watch.folder(path);
                went.and(scan::scan(root, inner.hidden, watch, tell));
            }
            let scanned = inner.table().scanned(went.is_complete, &went.closed);
            (went, scanned)
        };
        self.tasks.blocking(looking).await
    }

    /// Tells who listens what changed, with what was withdrawn before.
    fn tell_changes(&self, withdrawn: &[SharedFile], removed: u64) {
        let mut table = self.table();
        let mut changes = table.changes();
        changes.gone += removed;
        for file in withdrawn {
            match table.file(&file.entry.path) {
                Some(_) => changes.changed(Some(&file.entry.path)),
                None => changes.gone += 1,
            }
        }
        drop(table);
        if changes != Changes::default() {
            // Nobody has to listen.
            let _ = self.changes.send(changes);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Scans at first, on request, after changes and after withdrawals.
async fn drive(inner: Arc<Inner>, mut requests: mpsc::Receiver<ScanRequest>) {
    let watch = Arc::new(Watch::start());
    let mut asked: Vec<ScanRequest> = Vec::new();
    let mut hashes = false;
    loop {
        // Whoever asks while it runs wants another one.
        while let Ok(request) = requests.try_recv() {
            asked.push(request);
        }
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
        for asked in asked.drain(..) {
            // Whoever asked may have stopped waiting.
            let _ = asked.send(scanned.clone());
        }
        let pause = SCAN_INTERVAL_MIN.max(took * SCAN_PAUSE_FACTOR);
        tokio::select! {
            request = requests.recv() => match request {
                Some(request) => asked.push(request),
                None => return,
            },
            () = due((&watch, &inner.scan_wanted), pause, is_complete) => {}
        };
    }
}

/// Waits for a change or a withdrawal and the pause after the last scan, or for the interval where
/// nothing tells of changes or that scan could not see everything.
async fn due((watch, wanted): (&Watch, &Notify), pause: Duration, is_complete: bool) {
    let interval = SCAN_INTERVAL_UNWATCHED.max(pause);
    let begun = tokio::time::Instant::now();
    tokio::time::sleep(pause).await;
    let may_wait = is_complete && watch.is_live();
    let until_interval = async {
        match may_wait {
            true => std::future::pending().await,
            false => tokio::time::sleep_until(begun + interval).await,
        }
    };
    tokio::select! {
        () = watch.changed() => {}
        () = wanted.notified() => return,
        () = until_interval => return,
    }
    tokio::time::sleep(SCAN_INTERVAL_MIN).await;
}
