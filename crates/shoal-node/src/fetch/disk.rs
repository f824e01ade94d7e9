//! The receiver's partial, worked on from async code: verifies, writes, syncs, completes.
//!
//! A chunk of one piece is verified before any byte of it is written; a larger one counts only
//! once its last piece has verified it. What is verified is synced in stretches, one at a time,
//! while the next is received and written.

use std::time::{Duration, Instant};

use shoal_store::folder::Folder;
use shoal_store::hashing::{ChunkHasher, HashList};
use shoal_store::partial::{
    Content, FinishError, FinishOptions, Partial, PartialError, Source, Synced,
};
use shoal_wire::{ChunkIndex, ChunkLayout, Hash, SafePath};
use tokio::sync::oneshot;

use super::Durability;
use crate::budget::Buffer;
use crate::tasks::Tasks;

/// Verified bytes that wait before they are worth a sync of their own.
const SYNC_BYTES: u64 = 8 << 20;
/// Received bytes that are not durable, the stretch that is being synced included, before the
/// receiver waits for the disk: bounds what a crash costs, and how far the disk may be behind.
const UNSYNCED_MAX_BYTES: u64 = 48 << 20;
/// Time after which verified bytes are synced however few, so that a slow transfer is
/// acknowledged too.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// The same where nobody waits for durability: it bounds what an interrupted transfer repeats.
const RELAXED_SYNC_INTERVAL: Duration = Duration::from_secs(10);

/// Received bytes with their place.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) index: ChunkIndex,
    pub(super) offset_in_chunk: u64,
    pub(super) bytes: Buffer,
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
    syncing: Option<Stretch>,
    layout: ChunkLayout,
    tasks: Tasks,
    durability: Durability,
    unsynced_bytes: u64,
    stored_chunks: u32,
    durable_chunks: u32,
    last_sync: Instant,
}

struct Work {
    partial: Partial,
    hasher: Option<ChunkHasher>,
}

/// A stretch that is being synced.
struct Stretch {
    ended: oneshot::Receiver<Synced>,
    /// The outcome, once it has been waited for.
    outcome: Option<Result<Synced, PartialError>>,
    bytes: u64,
    /// The chunks stored when it began.
    stored_chunks: u32,
}

impl Disk {
    /// Opens the partial of `target`. With the content's `list`, only chunks that it confirms are
    /// kept, be it of a download that was begun from the origin before the list was known.
    pub(super) async fn open(
        tasks: &Tasks,
        (folder, target): (Folder, SafePath),
        (origin, list): (Content, Option<HashList>),
        durability: Durability,
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
            syncing: None,
            tasks: tasks.clone(),
            durability,
            unsynced_bytes: 0,
            stored_chunks: 0,
            durable_chunks: 0,
            last_sync: Instant::now(),
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

    /// Whether a chunk is there, verified, durable or not.
    pub(super) fn has(&self, index: ChunkIndex) -> bool {
        self.work
            .as_ref()
            .is_some_and(|work| work.partial.is_verified(index))
    }

    /// The hashes of all chunks, once all are there.
    pub(super) fn hashes(&self) -> Option<HashList> {
        let partial = &self.work.as_ref()?.partial;
        HashList::of_hashes(self.layout, partial.verified_hashes()?)
    }

    /// Chunks stored since it was opened.
    pub(super) fn stored_chunks(&self) -> u32 {
        self.stored_chunks
    }

    /// Of the chunks stored since it was opened, in their order, how many are durable.
    pub(super) fn durable_chunks(&self) -> u32 {
        self.durable_chunks
    }

    /// Verifies and writes a piece.
    pub(super) async fn store(&mut self, piece: Piece) -> Result<(), StoreError> {
        let (layout, bytes) = (self.layout, piece.bytes.len() as u64);
        let is_last = piece.expected.is_some();
        let stored = self
            .on_thread(move |work| work.store(&layout, &piece))
            .await;
        stored.unwrap_or(Err(StoreError::Partial(PartialError::Failed)))?;
        self.unsynced_bytes += bytes;
        self.stored_chunks += u32::from(is_last);
        Ok(())
    }

    /// Takes a sync back that has ended and begins the next where enough has gathered; waits only
    /// when the disk is too far behind.
    pub(super) async fn keep_syncing(&mut self) -> Result<(), PartialError> {
        if let Some(stretch) = &mut self.syncing {
            let is_behind = stretch.bytes + self.unsynced_bytes >= UNSYNCED_MAX_BYTES;
            if !is_behind && !stretch.has_ended() {
                return Ok(());
            }
            self.settle().await?;
        }
        if self.is_sync_due() {
            self.begin_sync()?;
        }
        Ok(())
    }

    /// Waits until [`Disk::keep_syncing`] has something to do. May be dropped and called again.
    pub(super) async fn news(&mut self) {
        if let Some(stretch) = &mut self.syncing {
            stretch.wait().await;
        } else if self.unsynced_bytes > 0 {
            let due = self.last_sync + self.sync_interval();
            tokio::time::sleep_until(due.into()).await;
        } else {
            std::future::pending().await
        }
    }

    /// Makes every verified chunk durable.
    pub(super) async fn sync(&mut self) -> Result<(), PartialError> {
        self.settle().await?;
        self.begin_sync()?;
        self.settle().await
    }

    /// Takes every chunk as missing again: they do not belong together.
    pub(super) async fn forget_all(&mut self) -> Result<(), PartialError> {
        self.settle().await?;
        let all: Vec<ChunkIndex> = self.layout.indexes().collect();
        let forgotten = self.on_thread(move |work| work.partial.forget(&all)).await;
        forgotten.unwrap_or(Err(PartialError::Failed))
    }

    /// Gives the complete file its final name; unless durability was waived, it is durable then.
    pub(super) async fn finish(mut self, options: FinishOptions) -> Result<Hash, FinishError> {
        if self.settle().await.is_err() {
            return Err(FinishError::Failed);
        }
        let Some(work) = self.work.take() else {
            return Err(FinishError::Failed);
        };
        let durability = self.durability;
        self.tasks
            .blocking(move || match durability {
                Durability::Synced => work.partial.finish(&options),
                Durability::Unsynced => work.partial.finish_unsynced(&options),
            })
            .await
    }

    fn is_sync_due(&self) -> bool {
        let is_enough = self.durability == Durability::Synced && self.unsynced_bytes >= SYNC_BYTES;
        is_enough || self.last_sync.elapsed() >= self.sync_interval()
    }

    fn sync_interval(&self) -> Duration {
        match self.durability {
            Durability::Synced => SYNC_INTERVAL,
            Durability::Unsynced => RELAXED_SYNC_INTERVAL,
        }
    }

    fn begin_sync(&mut self) -> Result<(), PartialError> {
        let work = self.work.as_mut().ok_or(PartialError::Failed)?;
        self.last_sync = Instant::now();
        let Some(syncing) = work.partial.begin_sync()? else {
            return Ok(());
        };
        let (end, ended) = oneshot::channel();
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            let synced = tasks.blocking(move || syncing.run()).await;
            // Without a receiver the transfer is over and its partial closed.
            let _ = end.send(synced);
        });
        self.syncing = Some(Stretch {
            ended,
            outcome: None,
            bytes: std::mem::take(&mut self.unsynced_bytes),
            stored_chunks: self.stored_chunks,
        });
        Ok(())
    }

    /// Waits for the sync that is under way, if there is one.
    async fn settle(&mut self) -> Result<(), PartialError> {
        let Some(stretch) = &mut self.syncing else {
            return Ok(());
        };
        stretch.wait().await;
        let (outcome, stored_chunks) = (stretch.outcome.take(), stretch.stored_chunks);
        self.syncing = None;
        let work = self.work.as_mut().ok_or(PartialError::Failed)?;
        work.partial
            .end_sync(outcome.unwrap_or(Err(PartialError::Failed))?)?;
        self.durable_chunks = stored_chunks;
        Ok(())
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

impl Stretch {
    fn has_ended(&mut self) -> bool {
        if self.outcome.is_none() {
            self.outcome = match self.ended.try_recv() {
                Ok(synced) => Some(Ok(synced)),
                Err(oneshot::error::TryRecvError::Empty) => None,
                Err(oneshot::error::TryRecvError::Closed) => Some(Err(PartialError::Failed)),
            };
        }
        self.outcome.is_some()
    }

    /// Waits for the outcome. May be dropped and called again.
    async fn wait(&mut self) {
        if self.outcome.is_none() {
            let ended = (&mut self.ended).await;
            self.outcome = Some(ended.map_err(|_| PartialError::Failed));
        }
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
