//! Hashes a share's files in the background, a few at a time, through the cache of hashes.
//!
//! Small files are hashed and recorded by the hundred. While content moves, hashing gives way: it
//! goes on with a bounded share of the time, so that it ends whatever the transfers do.

use std::num::NonZero;
use std::sync::Arc;

use shoal_store::folder::{FileStat, stat_of};
use shoal_store::hashing::{HashFileError, HashList, hash_file};
use shoal_wire::SafePath;
use tokio::sync::Semaphore;

use super::{Inner, SharedFile};
use crate::moving::Yielding;

/// Files whose hashes are looked up in the cache with one query.
const LOOK_UP_FILES: usize = 512;
/// Files taken from the list of those without a hash at a time.
const TAKEN_AT_ONCE: usize = 1024;
/// Files that one worker hashes before it records them, at most.
const BATCH_FILES: usize = 256;
/// Bytes after which it records them too.
const BATCH_BYTES: u64 = 16 << 20;

/// Gives cached hashes to every file that has none.
pub(super) async fn look_up(inner: &Inner) {
    let mut after: Option<SafePath> = None;
    loop {
        let files = inner.table().unhashed_after(after.as_ref(), LOOK_UP_FILES);
        let Some(last) = files.last() else { return };
        after = Some(last.entry.path.clone());
        let stats: Vec<_> = files.iter().map(|file| file.stat).collect();
        let roots = match inner.index.roots(&stats).await {
            Ok(roots) => roots,
            Err(error) => {
                tracing::warn!(%error, "the cache of hashes cannot be read, hashing again");
                return;
            }
        };
        let mut table = inner.table();
        for (file, root) in files.iter().zip(roots) {
            if let Some(root) = root {
                table.hashed(&file.entry.path, &file.stat, root);
            }
        }
    }
}

/// Hashes whatever has no hash yet, again after every change, for ever.
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
        if inner.table().has_unhashed() {
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
    inner.kept(inner.index.record_many(&hashes).await);
    let mut table = inner.table();
    let mut is_news = false;
    for (path, (stat, hashes)) in paths.iter().zip(&hashes) {
        is_news |= table.hashed(path, stat, hashes.root());
    }
    drop(table);
    if is_news {
        inner.tell();
    }
}

/// Hashes files one after the other; those that cannot be are marked so.
fn hash_all(inner: &Inner, files: Vec<SharedFile>) -> Vec<(SafePath, (FileStat, HashList))> {
    let yielding = Yielding::new();
    let mut hashed = Vec::with_capacity(files.len());
    for file in files {
        let path = file.entry.path.clone();
        match hash_one(inner, &file, &yielding) {
            Some(hashes) => hashed.push((path, (file.stat, hashes))),
            None if inner.tasks.is_cancelled() => break,
            // The scan that its change leads to lists it afresh.
            None => inner.table().unhashable(&path, &file.stat),
        }
    }
    hashed
}

fn hash_one(inner: &Inner, file: &SharedFile, yielding: &Yielding) -> Option<HashList> {
    let stop = || {
        yielding.give_way(&|| inner.tasks.is_cancelled());
        inner.tasks.is_cancelled()
    };
    if stop() {
        return None;
    }
    let path = &file.entry.path;
    let (open, stat) = inner.roots.folder_of(path).open_file(path).ok()?;
    if stat != file.stat {
        return None;
    }
    let hashes = hash_file(&open, file.entry.size, &stop);
    let is_unchanged = stat_of(&open).is_ok_and(|now| now == stat);
    match hashes {
        Ok(hashes) if is_unchanged => Some(hashes),
        Ok(_) | Err(HashFileError::SizeChanged) => None,
        Err(error) => {
            tracing::debug!(path = %file.entry.path, %error, "not hashed");
            None
        }
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
