//! Hashes a share's files in the background, a few at a time, through the cache of hashes.

use std::num::NonZero;
use std::sync::Arc;

use shoal_store::hashing::{HashFileError, hash_file};
use shoal_wire::SafePath;
use tokio::sync::Semaphore;

use super::{Inner, SharedFile};

/// Files whose hashes are looked up in the cache with one query.
const LOOK_UP_FILES: usize = 512;
/// Files taken from the list of those without a hash at a time.
const TAKEN_AT_ONCE: usize = 256;

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
            for file in files {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    return;
                };
                let worker = Arc::clone(&inner);
                inner.tasks.spawn(async move {
                    hash(&worker, file).await;
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

async fn hash(inner: &Inner, file: SharedFile) {
    let (folder, stop) = (inner.folder.clone(), inner.tasks.clone());
    let wanted = file.clone();
    let hashed = inner
        .tasks
        .blocking(move || {
            let (open, stat) = folder.open_file(&wanted.entry.path).ok()?;
            if stat != wanted.stat {
                return None;
            }
            let hashes = hash_file(&open, wanted.entry.size, &|| stop.is_cancelled());
            let unchanged = shoal_store::folder::stat_of(&open).is_ok_and(|now| now == stat);
            match hashes {
                Ok(hashes) if unchanged => Some(hashes),
                Ok(_) | Err(HashFileError::SizeChanged) => None,
                Err(error) => {
                    tracing::debug!(path = %wanted.entry.path, %error, "not hashed");
                    None
                }
            }
        })
        .await;
    let path = &file.entry.path;
    match hashed {
        Some(hashes) => inner.learned(path, &file.stat, &hashes).await,
        // The scan that its change leads to lists it afresh.
        None => inner.table().unhashable(path, &file.stat),
    }
}
