//! Files on this machine that may have what is fetched: the same content elsewhere, an older version
//! at the target.
//!
//! What is said of them here is a guess. Each is only opened and read, and whoever takes chunks from
//! one verifies them.

use std::ffi::OsStr;
use std::fs::{DirEntry, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_store::folder::{FileStat, Folder};
use shoal_store::hashing::HashList;
use shoal_store::index::{Index, Recorded};
use shoal_store::partial::Search;
use shoal_wire::{Hash, SafePath};
use tokio::sync::OnceCell;

use super::receive::Attempt;

/// Smallest content that the cache of hashes is asked for, in bytes: what is smaller has come
/// before the folder is searched.
const SOUGHT_MIN_BYTES: u64 = 1 << 20;
/// Entries of a folder that are looked at, at most: about a tenth of a second.
const ENTRIES_MAX: usize = 100_000;
/// Files of the same content that are tried.
const TRIED_MAX: usize = 4;

/// A cache of hashes that is opened when it is first asked.
#[derive(Debug, Clone)]
pub(super) struct Known {
    path: Arc<PathBuf>,
    index: Arc<OnceCell<Option<Index>>>,
}

impl Known {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path: Arc::new(path),
            index: Arc::default(),
        }
    }

    /// `None` where there is none, or none that can be read.
    async fn index(&self) -> Option<&Index> {
        let open = || async {
            if !self.path.exists() {
                return None;
            }
            let opened = Index::open(&self.path).await;
            opened
                .inspect_err(|error| tracing::debug!(%error, "the cache of hashes is not used"))
                .ok()
        };
        self.index.get_or_init(open).await.as_ref()
    }
}

impl Attempt<'_> {
    /// Where chunks of the content are worth looking for, the likeliest first.
    pub(super) async fn donors(&self, list: &HashList) -> Vec<Search> {
        let root = list.root();
        let mut donors = self.shared_files(root).await;
        if donors.is_empty() && list.layout().size().bytes() >= SOUGHT_MIN_BYTES {
            donors = self.known_files(root).await;
        }
        let (folder, target) = (self.job.folder.clone(), self.job.target.clone());
        let older = move || folder.open_file(&target).ok();
        let start = self.job.range.as_ref().map_or(0, |range| range.start);
        let older = self.tasks.blocking(older).await;
        let older = older.map(|(file, _)| Search::of_range(file, start));
        let searches = donors.into_iter().map(Search::of_file).chain(older);
        searches.filter_map(Result::ok).collect()
    }

    /// Files of the share that have this content.
    async fn shared_files(&self, root: Hash) -> Vec<File> {
        let Some(share) = self.share else {
            return Vec::new();
        };
        let (folder, files) = (share.folder(), share.by_hash(&root, TRIED_MAX));
        let open = move || {
            let versions = files.iter().map(|file| (&file.entry.path, file.stat));
            versions
                .filter_map(|(path, stat)| open_version(&folder, path, &stat))
                .collect()
        };
        self.tasks.blocking(open).await
    }

    /// Files of the receiving folder of which the cache of hashes says that they have this content.
    async fn known_files(&self, root: Hash) -> Vec<File> {
        let Some(index) = async { self.known?.index().await }.await else {
            return Vec::new();
        };
        let recorded = index.with_root(&root).await.unwrap_or_default();
        if recorded.is_empty() {
            return Vec::new();
        }
        let (folder, stop) = (self.job.folder.clone(), self.stop());
        let found = self
            .tasks
            .blocking(move || find(&folder, &recorded, &stop))
            .await;
        let stats: Vec<FileStat> = found.iter().map(|(_, stat)| *stat).collect();
        let roots = index.roots(&stats).await.unwrap_or_default();
        let files = found.into_iter().zip(roots);
        files
            .filter_map(|((file, _), found)| (found?.root == root).then_some(file))
            .take(TRIED_MAX)
            .collect()
    }
}

fn open_version(folder: &Folder, path: &SafePath, stat: &FileStat) -> Option<File> {
    let (file, found) = folder.open_file(path).ok()?;
    (found.version() == stat.version()).then_some(file)
}

/// Opens the files below a folder that have the numbers of recorded ones. Links are not followed,
/// and other devices not searched.
fn find(folder: &Folder, recorded: &[Recorded], stop: &dyn Fn() -> bool) -> Vec<(File, FileStat)> {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder.path().join(&below)) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            looked_at += 1;
            if looked_at > ENTRIES_MAX || found.len() == TRIED_MAX || stop() {
                return found;
            }
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                folders.push(below.join(entry.file_name()));
            } else if kind.is_file() && recorded.iter().any(|one| one.inode == entry.ino()) {
                found.extend(open_recorded(folder, (&below, &entry), recorded));
            }
        }
    }
    found
}

fn open_recorded(
    folder: &Folder,
    (below, entry): (&Path, &DirEntry),
    recorded: &[Recorded],
) -> Option<(File, FileStat)> {
    let path = below.join(entry.file_name());
    let path = SafePath::new(OsStr::as_bytes(path.as_os_str())).ok()?;
    let (file, stat) = folder.open_file(&path).ok()?;
    let numbers = Recorded {
        device: stat.device,
        inode: stat.inode,
    };
    recorded.contains(&numbers).then_some((file, stat))
}
