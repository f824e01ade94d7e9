//! Hashes a share's files in the background, a few at a time, through the cache of hashes.
//!
//! Small files are hashed and recorded by the hundred. While content moves, hashing gives way: it
//! goes on with a bounded share of the time, so that it ends whatever the transfers do.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_store::folder::{FileStat, stat_of};
use shoal_store::hashing::{HashFileError, HashList, hash_file};
use shoal_store::index::KnownRoot;
use shoal_wire::SafePath;
use tokio::sync::{Semaphore, SetOnce};

use super::{Inner, SharedFile};
use crate::moving::Yielding;

/// Files whose hashes are looked up in the cache with one query.
const LOOK_UP_FILES: usize = 512;
/// Files taken from the list of those without a hash at a time.
const TAKEN_AT_ONCE: usize = 1024;
/// Files that one worker hashes before it records them, at most.
const BATCH_FILES: usize = 256;
/// How often a check begins again where attributes change once more while it reads.
const CHECK_TRIES: usize = 3;
/// Bytes after which it records them too.
const BATCH_BYTES: u64 = 16 << 20;

/// Gives cached hashes to every file that has none.
pub(super) async fn look_up(inner: &Inner) {
    let mut after: Option<SafePath> = None;
    loop {
        let files = inner.table().unhashed_after(after.as_ref(), LOOK_UP_FILES);
        let Some(last) = files.last() else { return };
        after = Some(last.entry.path.clone());
        let unknown = files.into_iter().filter(|file| file.entry.hash.is_none());
        let files: Vec<SharedFile> = unknown.collect();
        let stats: Vec<_> = files.iter().map(|file| file.stat).collect();
        let roots = match inner.index.roots(&stats).await {
            Ok(roots) => roots,
            Err(error) => {
                tracing::warn!(%error, "the cache of hashes cannot be read, hashing again");
                return;
            }
        };
        let mut table = inner.table();
        for (file, known) in files.iter().zip(roots) {
            let Some(KnownRoot { root, ctime_ns }) = known else {
                continue;
            };
            let path = &file.entry.path;
            if ctime_ns == file.stat.ctime_ns {
                table.hashed(path, &file.stat, root);
            } else {
                let then = FileStat {
                    ctime_ns,
                    ..file.stat
                };
                table.hinted(path, &then, root);
            }
        }
    }
}

/// Hashes whatever has no hash yet, or one in doubt, again after every change, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let slots = Arc::new(Semaphore::new(workers));
    let mut changes = inner.changed.subscribe();
    loop {
        changes.borrow_and_update();
        let mut after: Option<SafePath> = None;
        loop {
            let files = inner.table().unhashed_after(after.as_ref(), TAKEN_AT_ONCE);
            let Some(last) = files.last() else { break };
            after = Some(last.entry.path.clone());
            for batch in batches(files) {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    return;
                };
                let worker = Arc::clone(&inner);
                inner.tasks.spawn(async move {
                    hash(&worker, batch).await;
                    drop(slot);
                });
            }
        }
        // What is still being hashed must not be taken twice.
        let Ok(_all) = slots.acquire_many(workers as u32).await else {
            return;
        };
        if inner.table().is_to_be_hashed() {
            continue;
        }
        inner.all_hashed.send_replace(true);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Cuts files into what one worker takes.
fn batches(files: Vec<SharedFile>) -> Vec<Vec<SharedFile>> {
    let mut batches: Vec<Vec<SharedFile>> = Vec::new();
    let mut bytes = u64::MAX;
    for file in files {
        let size = file.stat.size;
        match batches.last_mut() {
            Some(open) if open.len() < BATCH_FILES && bytes.saturating_add(size) <= BATCH_BYTES => {
                open.push(file);
                bytes += size;
            }
            _ => {
                batches.push(vec![file]);
                bytes = size;
            }
        }
    }
    batches
}

async fn hash(inner: &Arc<Inner>, files: Vec<SharedFile>) {
    let worker = Arc::clone(inner);
    let hashed = inner.tasks.blocking(move || hash_all(&worker, files)).await;
    if hashed.is_empty() {
        return;
    }
    let (paths, hashes): (Vec<SafePath>, Vec<(FileStat, HashList)>) = hashed.into_iter().unzip();
    inner.learned(&paths, &hashes).await;
}

/// Hashes files one after the other; those that cannot be are marked so.
fn hash_all(inner: &Inner, files: Vec<SharedFile>) -> Vec<(SafePath, (FileStat, HashList))> {
    let yielding = Yielding::new();
    let mut hashed = Vec::with_capacity(files.len());
    for file in files {
        let path = file.entry.path.clone();
        match hash_one(inner, &file, &yielding) {
            Some(found) => hashed.push((path, found)),
            None if inner.tasks.is_cancelled() => break,
            // The scan that its change leads to lists it afresh.
            None => inner.table().unhashable(&path, &file.stat),
        }
    }
    hashed
}

fn hash_one(inner: &Inner, file: &SharedFile, yielding: &Yielding) -> Option<(FileStat, HashList)> {
    let stop = || {
        yielding.give_way(&|| inner.tasks.is_cancelled());
        inner.tasks.is_cancelled()
    };
    if stop() {
        return None;
    }
    hash_version(inner, &file.entry.path, &file.stat, &stop)
}

/// Hashes the version of a file that has `stat`; with what the disk says of it, which was the same
/// all the time.
fn hash_version(
    inner: &Inner,
    path: &SafePath,
    stat: &FileStat,
    stop: &dyn Fn() -> bool,
) -> Option<(FileStat, HashList)> {
    let (open, before) = inner.roots.folder_of(path).open_file(path).ok()?;
    if before.version() != stat.version() {
        return None;
    }
    let hashes = hash_file(&open, before.entry_size()?, stop);
    let is_unchanged = stat_of(&open).is_ok_and(|now| now == before);
    match hashes {
        Ok(hashes) if is_unchanged => Some((before, hashes)),
        Ok(_) | Err(HashFileError::SizeChanged) => None,
        Err(error) => {
            tracing::debug!(%path, %error, "not hashed");
            None
        }
    }
}

/// Hashes under way because somebody waits for them.
#[derive(Debug, Default)]
pub(super) struct Checks(Mutex<BTreeMap<SafePath, Arc<Check>>>);

#[derive(Debug)]
struct Check {
    ctime_ns: i64,
    outcome: SetOnce<Option<HashList>>,
}

impl Checks {
    fn under_way(&self) -> MutexGuard<'_, BTreeMap<SafePath, Arc<Check>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins to hash a file because its attributes are those of `stat` and not those with which it was
/// hashed. Whoever asks for the same meanwhile waits for the same.
pub(super) fn begin_check(inner: &Arc<Inner>, path: &SafePath, stat: &FileStat) -> CheckUnderWay {
    let mut under_way = inner.checks.under_way();
    if let Some(check) = under_way.get(path)
        && check.ctime_ns == stat.ctime_ns
    {
        return CheckUnderWay(Arc::clone(check));
    }
    let check = Arc::new(Check {
        ctime_ns: stat.ctime_ns,
        outcome: SetOnce::new(),
    });
    under_way.insert(path.clone(), Arc::clone(&check));
    let (worker, path, stat) = (Arc::clone(inner), path.clone(), *stat);
    let begun = Arc::clone(&check);
    inner.tasks.spawn(async move {
        let hashed = {
            let (worker, path) = (Arc::clone(&worker), path.clone());
            let tasks = worker.tasks.clone();
            let hashing = move || {
                let stop = || worker.tasks.is_cancelled();
                let mut tries = (0..CHECK_TRIES).take_while(|_| !stop());
                tries.find_map(|_| hash_version(&worker, &path, &stat, &stop))
            };
            tasks.blocking(hashing).await
        };
        let outcome = match hashed {
            Some((stat, hashes)) => {
                worker
                    .learned(std::slice::from_ref(&path), &[(stat, hashes.clone())])
                    .await;
                Some(hashes)
            }
            None => None,
        };
        let _only_here = begun.outcome.set(outcome);
        let mut under_way = worker.checks.under_way();
        if under_way
            .get(&path)
            .is_some_and(|last| Arc::ptr_eq(last, &begun))
        {
            under_way.remove(&path);
        }
    });
    CheckUnderWay(check)
}

/// A hash that is being computed.
#[derive(Debug)]
pub struct CheckUnderWay(Arc<Check>);

impl CheckUnderWay {
    /// Waits for it: `None` where the file changed once more, or cannot be read.
    pub async fn ended(&self) -> Option<HashList> {
        self.0.outcome.wait().await.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> SharedFile {
        let stat = FileStat {
            size,
            mtime_ns: 0,
            ctime_ns: 0,
            device: 0,
            inode: 0,
            mode: 0,
        };
        let entry = shoal_wire::FileEntry {
            path: "a".parse().unwrap(),
            size: stat.entry_size().unwrap(),
            mtime_ns: 0,
            mode: 0,
            hash: None,
        };
        SharedFile { entry, stat }
    }

    #[test]
    fn a_batch_is_bounded_by_files_and_by_bytes_and_a_large_file_is_one() {
        let sizes = |sizes: &[u64]| {
            let files = sizes.iter().map(|size| file(*size)).collect();
            let lens = batches(files).into_iter().map(|batch| batch.len());
            lens.collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; BATCH_FILES + 1]), [BATCH_FILES, 1]);
        let large = 2 * BATCH_BYTES;
        assert_eq!(
            sizes(&[1, large, large, 1, BATCH_BYTES - 1, 1]),
            [1, 1, 1, 2, 1]
        );
    }
}
