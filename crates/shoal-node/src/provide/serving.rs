//! What is remembered of a request for a file while it is served, on one stream or several.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use shoal_link::StreamName;
use shoal_store::folder::FileStat;
use shoal_store::hashing::HashList;
use shoal_wire::{ChunkIndex, ChunkLayout, ChunkRanges, Hash, NodeId, Refusal};
use tokio::time::Instant;
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
    /// The time of the attributes with which the file is known to have the content that is served.
    trusted_ctime_ns: AtomicI64,
    /// Since when its content is in doubt.
    doubted: OnceLock<Instant>,
    /// The last chunk that was verified in doubt, and with which time of attributes.
    verified: Mutex<Option<(ChunkIndex, i64)>>,
    /// Of the chunks that were sent, where the file's hash is not known.
    sent: Mutex<Vec<Option<Hash>>>,
    over: CancellationToken,
}

impl Serving {
    pub(super) fn new(
        to: NodeId,
        (shared, file, stat): (SharedFile, File, FileStat),
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
        // Without hashes nothing is known of its content before now.
        let trusted = hashes.as_ref().map_or(&stat, |_| &shared.stat).ctime_ns;
        Self {
            to,
            trusted_ctime_ns: AtomicI64::new(trusted),
            doubted: OnceLock::new(),
            verified: Mutex::new(None),
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

    /// Whether the file is known to have the content that is served.
    pub(super) fn trusts(&self, stat: &FileStat) -> bool {
        self.trusted_ctime_ns.load(Ordering::Relaxed) == stat.ctime_ns
    }

    /// With these attributes the file has the content that is served.
    pub(super) fn trust(&self, stat: &FileStat) {
        self.trusted_ctime_ns
            .store(stat.ctime_ns, Ordering::Relaxed);
    }

    /// The attributes with which the file has the content that was served.
    pub(super) fn trusted_stat(&self) -> FileStat {
        FileStat {
            ctime_ns: self.trusted_ctime_ns.load(Ordering::Relaxed),
            ..self.shared.stat
        }
    }

    /// Since when its content is in doubt: from now on, if it was not before.
    pub(super) fn doubted(&self) -> Instant {
        *self.doubted.get_or_init(Instant::now)
    }

    pub(super) fn has_verified(&self, index: ChunkIndex, stat: &FileStat) -> bool {
        *self.last_verified() == Some((index, stat.ctime_ns))
    }

    pub(super) fn verified(&self, index: ChunkIndex, stat: &FileStat) {
        *self.last_verified() = Some((index, stat.ctime_ns));
    }

    /// Whether what is served, as far as that is known, has these hashes.
    pub(super) fn agrees_with(&self, hashes: &HashList) -> bool {
        if let Some(served) = &self.hashes {
            return served.root() == hashes.root();
        }
        let sent = self.sent_hashes();
        let mut pairs = sent.iter().zip(hashes.as_slice());
        sent.len() == hashes.as_slice().len()
            && pairs.all(|(sent, hash)| sent.is_none_or(|sent| sent == *hash))
    }

    /// Waits until the request is over, or its transfer was cancelled.
    pub(super) async fn ended(&self) {
        tokio::select! {
            () = self.over.cancelled() => {}
            () = self.transfer.cancelled() => {}
        }
    }

    fn last_verified(&self) -> MutexGuard<'_, Option<(ChunkIndex, i64)>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent_hashes(&self) -> MutexGuard<'_, Vec<Option<Hash>>> {
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StreamName, Arc<Serving>>> {
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
    pub(super) fn serving(&self) -> &Arc<Serving> {
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
        let serving = Serving::new(node, (shared, file, stat), None, false, transfer.clone());
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
