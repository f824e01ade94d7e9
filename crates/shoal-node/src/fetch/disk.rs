//! The receiver's partial, worked on from async code: verifies, writes, syncs, completes.
//!
//! A piece is a whole chunk, or a stretch of one too large to hold in memory. A chunk of one piece
//! is verified before any byte of it is written; a larger one counts only once its last piece has
//! verified it.

use std::time::{Duration, Instant};

use shoal_store::folder::Folder;
use shoal_store::hashing::{ChunkHasher, HashList};
use shoal_store::partial::{Content, FinishError, FinishOptions, Partial, PartialError, Source};
use shoal_wire::{ChunkIndex, ChunkLayout, Hash, SafePath};

use crate::tasks::Tasks;

/// Received bytes that are not yet durable before they are synced: bounds what a crash costs.
const SYNC_BYTES: u64 = 64 << 20;
/// Time after which they are synced however few, so that a slow transfer is acknowledged too.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Received bytes with their place.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) index: ChunkIndex,
    pub(super) offset_in_chunk: u64,
    pub(super) bytes: Vec<u8>,
    /// The chunk's hash, in its last piece.
    pub(super) expected: Option<Hash>,
}

/// Why a piece was not taken.
#[derive(Debug)]
pub(super) enum StoreError {
    /// The chunk is not what its hash says.
    BadChunk(ChunkIndex),
    /// The disk refuses.
    Partial(PartialError),
}

impl From<PartialError> for StoreError {
    fn from(error: PartialError) -> Self {
        Self::Partial(error)
    }
}

/// A partial and what is under way in it.
pub(super) struct Disk {
    // Away only while a blocking call works on it, which gives it back.
    work: Option<Work>,
    layout: ChunkLayout,
    tasks: Tasks,
    unsynced_bytes: u64,
    synced: Instant,
}

struct Work {
    partial: Partial,
    hasher: Option<ChunkHasher>,
}

impl Disk {
    /// Opens the partial of `target`. With the content's `list`, only chunks that it confirms are
    /// kept, be it of a download that was begun from the origin before the list was known.
    pub(super) async fn open(
        tasks: &Tasks,
        folder: Folder,
        target: SafePath,
        (origin, list): (Content, Option<HashList>),
    ) -> Result<Self, PartialError> {
        let open = move || {
            let Some(list) = list else {
                return Partial::open(&folder, &target, &origin, None);
            };
            let layout = origin.layout;
            let content = Content {
                source: Source::Root(list.root()),
                layout,
            };
            let mut partial = Partial::open(&folder, &target, &content, Some(origin.source))?;
            partial.keep_matching(&list)?;
            Ok(partial)
        };
        let partial = tasks.blocking(open).await?;
        Ok(Self {
            layout: partial.layout(),
            work: Some(Work {
                partial,
                hasher: None,
            }),
            tasks: tasks.clone(),
            unsynced_bytes: 0,
            synced: Instant::now(),
        })
    }

    pub(super) fn layout(&self) -> ChunkLayout {
        self.layout
    }

    pub(super) fn durable_bytes(&self) -> u64 {
        self.work
            .as_ref()
            .map_or(0, |work| work.partial.durable_bytes())
    }

    pub(super) fn is_durable(&self, index: ChunkIndex) -> bool {
        self.work
            .as_ref()
            .is_some_and(|work| work.partial.is_durable(index))
    }

    /// The hashes of all chunks, once all are there.
    pub(super) fn hashes(&self) -> Option<HashList> {
        let partial = &self.work.as_ref()?.partial;
        let hashes: Option<Vec<Hash>> = self
            .layout
            .indexes()
            .map(|index| partial.hash_of(index))
            .collect();
        HashList::of_hashes(self.layout, hashes?)
    }

    /// Verifies and writes a piece; gives its buffer back for the next one.
    pub(super) async fn store(&mut self, piece: Piece) -> Result<Vec<u8>, StoreError> {
        self.unsynced_bytes += piece.bytes.len() as u64;
        let layout = self.layout;
        let stored = self
            .on_thread(move |work| {
                let outcome = work.store(&layout, &piece);
                outcome.map(|()| piece.bytes)
            })
            .await;
        stored.unwrap_or(Err(StoreError::Partial(PartialError::Failed)))
    }

    /// Whether enough has gathered for a sync.
    pub(super) fn is_sync_due(&self) -> bool {
        self.unsynced_bytes >= SYNC_BYTES || self.synced.elapsed() >= SYNC_INTERVAL
    }

    /// Makes every verified chunk durable.
    pub(super) async fn sync(&mut self) -> Result<(), PartialError> {
        let synced = self.on_thread(|work| work.partial.sync()).await;
        self.unsynced_bytes = 0;
        self.synced = Instant::now();
        synced.unwrap_or(Err(PartialError::Failed)).map(drop)
    }

    /// Takes every chunk as missing again: they do not belong together.
    pub(super) async fn forget_all(&mut self) -> Result<(), PartialError> {
        let all: Vec<ChunkIndex> = self.layout.indexes().collect();
        let forgotten = self.on_thread(move |work| work.partial.forget(&all)).await;
        forgotten.unwrap_or(Err(PartialError::Failed))
    }

    /// Gives the complete file its final name.
    pub(super) async fn finish(mut self, options: FinishOptions) -> Result<Hash, FinishError> {
        let Some(work) = self.work.take() else {
            return Err(FinishError::Failed);
        };
        self.tasks
            .blocking(move || work.partial.finish(&options))
            .await
    }

    /// `None` when an earlier call was dropped before it gave the partial back.
    async fn on_thread<T: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut Work) -> T + Send + 'static,
    ) -> Option<T> {
        let mut work = self.work.take()?;
        let (work, outcome) = self
            .tasks
            .blocking(move || {
                let outcome = call(&mut work);
                (work, outcome)
            })
            .await;
        self.work = Some(work);
        Some(outcome)
    }
}

impl Work {
    fn store(&mut self, layout: &ChunkLayout, piece: &Piece) -> Result<(), StoreError> {
        let mut hasher = match self.hasher.take() {
            Some(hasher) if piece.offset_in_chunk > 0 => hasher,
            _ => ChunkHasher::new(layout, piece.index),
        };
        hasher.update(&piece.bytes);
        let verified = match piece.expected {
            None => {
                self.hasher = Some(hasher);
                None
            }
            Some(expected) if hasher.finish() == expected => Some(expected),
            Some(_) => return Err(StoreError::BadChunk(piece.index)),
        };
        self.partial
            .write_at(piece.index, piece.offset_in_chunk, &piece.bytes)?;
        if let Some(hash) = verified {
            self.partial.verified(piece.index, hash);
        }
        Ok(())
    }
}
