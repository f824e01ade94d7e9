//! What is remembered of a request for a file while it is served, on one stream or several.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shoal_link::StreamName;
use shoal_store::hashing::HashList;
use shoal_wire::{ChunkIndex, ChunkLayout, ChunkRanges, Hash, NodeId, Refusal};
use tokio_util::sync::CancellationToken;

use crate::share::SharedFile;
use crate::transfers::{State, Transfer};

/// A file that is being served to one node.
pub(super) struct Serving {
    pub(super) to: NodeId,
    pub(super) shared: SharedFile,
    pub(super) file: Arc<File>,
    pub(super) layout: ChunkLayout,
    pub(super) hashes: Option<HashList>,
    pub(super) accepts_zstd: bool,
    pub(super) transfer: Transfer,
    asked_bytes: AtomicU64,
    /// Of the chunks that were sent, where the file's hash is not known.
    sent: Mutex<Vec<Option<Hash>>>,
    over: CancellationToken,
}

impl Serving {
    pub(super) fn new(
        to: NodeId,
        (shared, file): (SharedFile, File),
        hashes: Option<HashList>,
        accepts_zstd: bool,
        transfer: Transfer,
    ) -> Self {
        let layout = ChunkLayout::of(shared.entry.size);
        let hashes = hashes.filter(|hashes| hashes.layout() == layout);
        let unknown = if hashes.is_some() {
            0
        } else {
            layout.chunk_count() as usize
        };
        Self {
            to,
            shared,
            file: Arc::new(file),
            layout,
            hashes,
            accepts_zstd,
            transfer,
            asked_bytes: AtomicU64::new(0),
            sent: Mutex::new(vec![None; unknown]),
            over: CancellationToken::new(),
        }
    }

    /// Counts chunks that are asked for; false when one lies outside the file.
    pub(super) fn asked(&self, ranges: &ChunkRanges) -> bool {
        let Some(indexes) = ranges.indexes(&self.layout) else {
            return false;
        };
        let bytes = indexes.map(|index| self.layout.len_bytes(index)).sum();
        self.asked_bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// So many of the chunks asked for are durable at the receiver.
    pub(super) fn acknowledged(&self, durable_chunks: u32) {
        let bytes = u64::from(durable_chunks) * self.layout.chunk_len_bytes();
        let asked_bytes = self.asked_bytes.load(Ordering::Relaxed);
        self.transfer.durable(bytes.min(asked_bytes));
    }

    /// Remembers the hash of a chunk that is sent.
    pub(super) fn sent(&self, index: ChunkIndex, hash: Hash) {
        if let Some(chunk) = self.sent_hashes().get_mut(index.get() as usize) {
            *chunk = Some(hash);
        }
    }

    /// The hashes of all chunks, once all were sent.
    pub(super) fn all_sent(&self) -> Option<HashList> {
        let hashes: Option<Vec<Hash>> = self.sent_hashes().iter().copied().collect();
        HashList::of_hashes(self.layout, hashes?)
    }

    /// Waits until the request is over, or its transfer was cancelled.
    pub(super) async fn ended(&self) {
        tokio::select! {
            () = self.over.cancelled() => {}
            () = self.transfer.cancelled() => {}
        }
    }

    fn sent_hashes(&self) -> std::sync::MutexGuard<'_, Vec<Option<Hash>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The requests that are being served, by the stream on which each was made.
#[derive(Clone, Default)]
pub(super) struct Requests(Arc<Mutex<BTreeMap<StreamName, Arc<Serving>>>>);

impl Requests {
    /// Streams may join it until the returned one is dropped.
    pub(super) fn begin(&self, name: StreamName, serving: Serving) -> Request {
        let serving = Arc::new(serving);
        self.lock().insert(name, Arc::clone(&serving));
        Request {
            requests: self.clone(),
            name,
            serving,
        }
    }

    /// The request that was made on a stream and is being served.
    pub(super) fn find(&self, name: StreamName) -> Option<Arc<Serving>> {
        self.lock().get(&name).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<StreamName, Arc<Serving>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Requests").field(&self.lock().len()).finish()
    }
}

/// A request under way; its end ends the streams that joined it.
pub(super) struct Request {
    requests: Requests,
    name: StreamName,
    serving: Arc<Serving>,
}

impl Request {
    pub(super) fn serving(&self) -> &Serving {
        &self.serving
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.requests.lock().remove(&self.name);
        self.serving.over.cancel();
        // Unless it has ended otherwise, its link has.
        let gone = State::Failed(Refusal::Unreachable);
        self.serving.transfer.ended(gone);
    }
}

#[cfg(test)]
mod tests {
    use shoal_wire::{FileEntry, FileSize};

    use super::*;
    use crate::transfers::{Direction, Transfers};

    #[test]
    fn a_root_needs_the_hash_of_every_chunk_and_what_is_acknowledged_was_asked_for() {
        let file = tempfile::tempfile().unwrap();
        let path: shoal_wire::SafePath = "a".parse().unwrap();
        let entry = FileEntry {
            path: path.clone(),
            size: FileSize::new(3 << 20).unwrap(),
            mtime_ns: 0,
            mode: 0o644,
            hash: None,
        };
        let stat = shoal_store::folder::stat_of(&file).unwrap();
        let transfer = Transfers::new().begin(Direction::Sending, path, "anna".parse().unwrap());
        let shared = SharedFile { entry, stat };
        let node = NodeId::new([1; 32]);
        let serving = Serving::new(node, (shared, file), None, false, transfer.clone());
        for index in serving.layout.indexes() {
            assert!(serving.all_sent().is_none());
            serving.sent(index, Hash::new([index.get() as u8; 32]));
        }
        assert!(serving.all_sent().is_some());
        let ranges = |end| ChunkRanges::new(std::iter::once(0..end).collect()).unwrap();
        assert!(serving.asked(&ranges(2)) && !serving.asked(&ranges(4)));
        serving.acknowledged(1);
        assert_eq!(transfer.snapshot().durable_bytes, 1 << 20);
        serving.acknowledged(u32::MAX);
        assert_eq!(transfer.snapshot().durable_bytes, 2 << 20);
    }
}
