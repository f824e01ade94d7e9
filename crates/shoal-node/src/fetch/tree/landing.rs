//! Giving staged files their names, a batch at a time, durably.
//!
//! A batch is synced with one call for the whole file system, then renamed. The renames are
//! durable with the sync of the next batch, or the last one, and only then are the files over and
//! their packs acknowledged. Where nothing is to be synced they are over once they are renamed,
//! and never acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shoal_store::folder::{Folder, FolderError};
use shoal_store::hashing::hash_file;
use shoal_store::partial::PartialError;
use shoal_store::staging::{PlaceError, Staged, Staging};
use shoal_wire::message::Outcome;
use shoal_wire::{Hash, SafePath};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::packs::PackWorker;
use super::{Lost, PACK_STREAMS, Tree, TreeEvent};
use crate::fetch::{FetchError, Fetched};

/// Content that is staged before it is synced, in bytes: bounds what a crash costs.
const BATCH_BYTES: u64 = 64 << 20;
/// Files after which a batch is synced however small they are.
const BATCH_FILES: usize = 16 * 1024;
/// Time after which a batch is synced however little is in it.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Open folders that are kept for the next file of the same folder.
const FOLDERS_OPEN: usize = 64;
/// How long the last words to a source may take to arrive before the stream is left.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// A pack whose files are staged.
#[derive(Debug)]
pub(super) struct Landed {
    /// Which worker fetched it.
    pub(super) worker: usize,
    /// Size of its content, in bytes.
    pub(super) bytes: u64,
    /// Its files, but for those that are over already.
    pub(super) files: Vec<LandedFile>,
}

/// A staged file.
#[derive(Debug)]
pub(super) struct LandedFile {
    /// The path at its provider.
    pub(super) path: SafePath,
    /// Where it goes.
    pub(super) target: SafePath,
    /// The file.
    pub(super) staged: Staged,
    /// Its hash.
    pub(super) hash: Hash,
    /// Its size, in bytes.
    pub(super) total_bytes: u64,
}

/// Places what the workers stage.
pub(super) struct Landing<'a> {
    tree: &'a Tree<'a>,
    staging: Arc<Staging>,
    durable_packs: [AtomicU32; PACK_STREAMS],
}

/// What was placed and is not durable yet.
#[derive(Default)]
struct Placed {
    files: Vec<(LandedFile, Result<Fetched, FetchError>)>,
    packs: Vec<(usize, u64)>,
}

impl<'a> Landing<'a> {
    pub(super) fn new(tree: &'a Tree<'a>, staging: Arc<Staging>) -> Self {
        Self {
            tree,
            staging,
            durable_packs: Default::default(),
        }
    }

    /// How many packs of one worker are durable.
    pub(super) fn durable_packs(&self, worker: usize) -> u32 {
        let count = self.durable_packs.get(worker);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Places everything that lands, until nothing more does.
    pub(super) async fn run(&self, mut landed: mpsc::Receiver<Landed>) -> Result<(), FetchError> {
        let mut folders = Folders::new(self.tree.job.folder.clone());
        let mut placed = Placed::default();
        while let Some(batch) = next_batch(&mut landed).await {
            let packs = batch.iter().map(|pack| (pack.worker, pack.bytes)).collect();
            let files: Vec<LandedFile> = batch.into_iter().flat_map(|pack| pack.files).collect();
            let options = &self.tree.job.options;
            let (sync, overwrite) = (options.syncs(), options.overwrite);
            let staging = Arc::clone(&self.staging);
            let (back, outcome) = self
                .tree
                .fetcher
                .tasks
                .blocking(move || {
                    let synced = if sync { staging.sync() } else { Ok(()) };
                    let outcome = synced.map(|()| folders.place_all(&staging, files, overwrite));
                    (folders, outcome)
                })
                .await;
            folders = back;
            let files = outcome.map_err(|error| self.cannot_sync(error))?;
            // The sync before these renames made the ones before it durable.
            let before = std::mem::replace(&mut placed, Placed { files, packs });
            self.over(before).await;
            if !sync {
                self.over(std::mem::take(&mut placed)).await;
            }
        }
        if !placed.packs.is_empty() {
            let staging = Arc::clone(&self.staging);
            let synced = self
                .tree
                .fetcher
                .tasks
                .blocking(move || staging.sync())
                .await;
            synced.map_err(|error| self.cannot_sync(error))?;
            self.over(placed).await;
        }
        Ok(())
    }

    /// Tells the source what is durable, in the end.
    pub(super) async fn acknowledge(&self, workers: Vec<PackWorker>) {
        for mut worker in workers {
            worker.acknowledge(self.durable_packs(worker.number)).await;
            if let Some(stream) = &mut worker.stream {
                stream.send.finish();
                let _ = tokio::time::timeout(FAREWELL_DEADLINE, stream.send.stopped()).await;
            }
        }
    }

    async fn over(&self, placed: Placed) {
        let transfer = &self.tree.job.transfer;
        if self.tree.job.options.syncs() {
            for (worker, bytes) in placed.packs {
                if let Some(count) = self.durable_packs.get(worker) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                transfer.durable(transfer.snapshot().durable_bytes + bytes);
            }
        }
        for (file, result) in placed.files {
            if result.is_ok() {
                for what in file.staged.not_kept {
                    let target = file.target.clone();
                    let what = Lost::Attribute(what);
                    self.tree.tell(TreeEvent::NotKept { target, what }).await;
                }
            }
            self.tree.over(&file.path, file.target, result).await;
        }
    }

    fn cannot_sync(&self, error: std::io::Error) -> FetchError {
        FetchError::Partial(PartialError::of(&self.tree.job.folder, 0, error))
    }
}

/// What has landed within a moment, `None` when nothing more will.
async fn next_batch(landed: &mut mpsc::Receiver<Landed>) -> Option<Vec<Landed>> {
    let first = landed.recv().await?;
    let deadline = Instant::now() + BATCH_INTERVAL;
    let (mut bytes, mut files) = (first.bytes, first.files.len());
    let mut batch = vec![first];
    while bytes < BATCH_BYTES && files < BATCH_FILES {
        match tokio::time::timeout_at(deadline, landed.recv()).await {
            Ok(Some(pack)) => {
                bytes += pack.bytes;
                files += pack.files.len();
                batch.push(pack);
            }
            Ok(None) | Err(_) => break,
        }
    }
    Some(batch)
}

/// The receiving folders, opened once for runs of files in the same one.
pub(super) struct Folders {
    root: Folder,
    open: BTreeMap<SafePath, Folder>,
}

impl Folders {
    pub(super) fn new(root: Folder) -> Self {
        Self {
            root,
            open: BTreeMap::new(),
        }
    }

    /// The folder that holds `target`, made where it is missing.
    pub(super) fn holding(&mut self, target: &SafePath) -> Result<Folder, FolderError> {
        self.root.check_name(target)?;
        let Some(parent) = target.parent() else {
            return Ok(self.root.clone());
        };
        if let Some(folder) = self.open.get(&parent) {
            return Ok(folder.clone());
        }
        let mut opened = self.root.make_subfolder(&parent);
        if opened.is_err() && !self.open.is_empty() {
            // Perhaps only because too many are open.
            self.open.clear();
            opened = self.root.make_subfolder(&parent);
        }
        let (folder, _) = opened?;
        if self.open.len() == FOLDERS_OPEN {
            self.open.clear();
        }
        self.open.insert(parent, folder.clone());
        Ok(folder)
    }

    fn place_all(
        &mut self,
        staging: &Staging,
        files: Vec<LandedFile>,
        overwrite: bool,
    ) -> Vec<(LandedFile, Result<Fetched, FetchError>)> {
        let place = |file: LandedFile| {
            let result = self.place(staging, &file, overwrite);
            (file, result)
        };
        files.into_iter().map(place).collect()
    }

    fn place(
        &mut self,
        staging: &Staging,
        file: &LandedFile,
        overwrite: bool,
    ) -> Result<Fetched, FetchError> {
        let folder = self.holding(&file.target).map_err(PartialError::from)?;
        let name = file.target.file_name();
        let fetched = |outcome| Fetched {
            outcome,
            total_bytes: file.total_bytes,
            reused_bytes: 0,
        };
        match staging.place(&file.staged, &folder, (name, overwrite)) {
            Ok(()) => Ok(fetched(Outcome::Fetched(file.hash))),
            Err(PlaceError::TargetExists) if is_same(&folder, name, file) => {
                Ok(fetched(Outcome::UpToDate(file.hash)))
            }
            Err(error) => Err(self.named(error, &file.target)),
        }
    }

    /// Names the target in what went wrong.
    pub(super) fn named(&self, error: PlaceError, target: &SafePath) -> FetchError {
        let path = self.root.path_of(target);
        match error {
            PlaceError::TargetExists => FetchError::TargetExists { path },
            PlaceError::OtherFileSystem => FetchError::OtherFileSystem { path },
            PlaceError::Io(error) => FetchError::Partial(PartialError::of(&self.root, 0, error)),
        }
    }
}

/// Whether the file that came first has the same content.
fn is_same(folder: &Folder, name: &[u8], file: &LandedFile) -> bool {
    let Ok(path) = SafePath::new(name) else {
        return false;
    };
    let Ok((open, stat)) = folder.open_file(&path) else {
        return false;
    };
    let size = stat
        .entry_size()
        .filter(|size| size.bytes() == file.total_bytes);
    size.is_some_and(|size| {
        hash_file(&open, size, &|| false).is_ok_and(|list| list.root() == file.hash)
    })
}
