//! The receiver's partial, worked on from async code: verifies, writes, syncs, completes.
//!
//! Pieces are hashed and written on the blocking pool, several at a time and in any order: each is
//! a subtree of its chunk's hash. A chunk of one piece is verified before any byte of it is
//! written; a larger one counts only once its last piece has verified it. What is verified is
//! synced in stretches, one at a time, while more is received and written. What an earlier process
//! left is hashed again beside all that, and what turns out damaged is given back to be fetched.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal_store::folder::Folder;
use shoal_store::hashing::{HashList, PIECE_BYTES, chunk_of_pieces, piece_hash};
use shoal_store::partial::{
    ChunkWriter, Content, FinishError, FinishOptions, Partial, PartialError, RecheckResult, Source,
    Synced,
};
use shoal_wire::{ChunkIndex, ChunkLayout, Hash, SafePath};

use super::Durability;
use super::error::FetchError;
use crate::tasks::{Running, Tasks};

/// Pieces that are hashed and written at once: while one waits for the disk, another is hashed.
pub(super) const WRITES_AT_ONCE: usize = 3;
/// Verified bytes that wait before they are worth a sync of their own.
pub(super) const SYNC_BYTES: u64 = 8 << 20;
/// Received bytes that are not durable, the stretch that is being synced included, before the
/// receiver waits for the disk: bounds what a crash costs, and how far the disk may be behind.
pub(super) const UNSYNCED_MAX_BYTES: u64 = 20 << 20;
/// Time after which verified bytes are synced however few, so that a slow transfer is
/// acknowledged too.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// The same where nobody waits for durability: it bounds what an interrupted transfer repeats.
const RELAXED_SYNC_INTERVAL: Duration = Duration::from_secs(10);

/// Received bytes with their place.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) index: ChunkIndex,
    /// The chunk's hash.
    pub(super) expected: Hash,
    pub(super) offset_in_chunk: u64,
    pub(super) bytes: Bytes,
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

/// Tells disk work whether it is to stop.
pub(super) type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// A partial and what is under way in it.
pub(super) struct Disk {
    partial: Partial,
    /// Oldest first.
    writes: VecDeque<Write>,
    begun: BTreeMap<ChunkIndex, Begun>,
    syncing: Option<Stretch>,
    rechecking: Option<Running<RecheckResult>>,
    stop: Stop,
    resumed_bytes: u64,
    damaged: Vec<ChunkIndex>,
    layout: ChunkLayout,
    tasks: Tasks,
    durability: Durability,
    stored_bytes: u64,
    unsynced_bytes: u64,
    stored_chunks: u32,
    durable_chunks: u32,
    last_sync: Instant,
}

/// A piece that is being hashed and written.
struct Write {
    index: ChunkIndex,
    offset_in_chunk: u64,
    len_bytes: u64,
    running: Running<Result<Hash, PartialError>>,
}

/// A chunk of which some pieces have come.
struct Begun {
    writer: Arc<ChunkWriter>,
    expected: Hash,
    pieces: Vec<Option<Hash>>,
}

/// A stretch that is being synced.
struct Stretch {
    running: Running<Synced>,
    bytes: u64,
    /// The chunks stored when it began.
    stored_chunks: u32,
}

/// Which partial is opened.
pub(super) struct PartialRequest {
    pub(super) folder: Folder,
    pub(super) target: SafePath,
    /// The content as the source at hand knows it.
    pub(super) origin: Content,
    /// The content's list, where it is known. Then only chunks that it confirms are kept, be it of
    /// a download that was begun from the origin before the list was known.
    pub(super) list: Option<HashList>,
    /// The bytes that are needed, where that is not all of them.
    pub(super) range: Option<Range<u64>>,
}

impl PartialRequest {
    /// Opens it, or goes on with the one that an earlier try `left` open.
    pub(super) fn open(&self, left: Option<Partial>) -> Result<Partial, PartialError> {
        let (content, also) = match &self.list {
            None => (self.origin, None),
            Some(list) => {
                let source = Source::Root(list.root());
                let layout = self.origin.layout;
                (Content { source, layout }, Some(self.origin.source))
            }
        };
        let left = left.filter(|partial| partial.is_of(&content, also));
        let mut partial = match (left, &self.range) {
            (Some(partial), _) => partial,
            (None, None) => Partial::open(&self.folder, &self.target, &content, also)?,
            (None, Some(range)) => {
                Partial::open_range(&self.folder, &self.target, &content, also, range)?
            }
        };
        if let Some(list) = &self.list {
            partial.keep_matching(list)?;
        }
        Ok(partial)
    }
}

fn of_finish(error: FinishError) -> FetchError {
    match error {
        FinishError::Disk(error) => error.into(),
        other => other.into(),
    }
}

impl Disk {
    /// Takes over an open partial.
    pub(super) fn new(
        partial: Partial,
        tasks: &Tasks,
        (durability, stop): (Durability, Stop),
    ) -> Self {
        Self {
            layout: partial.layout(),
            partial,
            writes: VecDeque::new(),
            begun: BTreeMap::new(),
            syncing: None,
            rechecking: None,
            stop,
            resumed_bytes: 0,
            damaged: Vec::new(),
            tasks: tasks.clone(),
            durability,
            stored_bytes: 0,
            unsynced_bytes: 0,
            stored_chunks: 0,
            durable_chunks: 0,
            last_sync: Instant::now(),
        }
    }

    pub(super) fn layout(&self) -> ChunkLayout {
        self.layout
    }

    pub(super) fn durable_bytes(&self) -> u64 {
        self.partial.durable_bytes()
    }

    /// What is needed in all, in bytes.
    pub(super) fn wanted_bytes(&self) -> u64 {
        self.partial.wanted_bytes()
    }

    /// Whether a chunk is needed and not there; what is there is verified, durable or not.
    pub(super) fn lacks(&self, index: ChunkIndex) -> bool {
        self.partial.is_missing(index)
    }

    /// The hashes of all chunks, once all are there.
    pub(super) fn hashes(&self) -> Option<HashList> {
        HashList::of_hashes(self.layout, self.partial.verified_hashes()?)
    }

    /// Chunks stored since it was opened.
    pub(super) fn stored_chunks(&self) -> u32 {
        self.stored_chunks
    }

    /// Of the chunks stored since it was opened, how many are durable.
    pub(super) fn durable_chunks(&self) -> u32 {
        self.durable_chunks
    }

    /// Bytes stored since this was last asked.
    pub(super) fn take_stored_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.stored_bytes)
    }

    /// Bytes of an earlier process that were found sound since this was last asked.
    pub(super) fn take_resumed_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.resumed_bytes)
    }

    /// Chunks of an earlier process that were found damaged since this was last asked, and have to
    /// be fetched.
    pub(super) fn take_damaged(&mut self) -> Vec<ChunkIndex> {
        std::mem::take(&mut self.damaged)
    }

    /// Whether another piece may begin.
    pub(super) fn has_place(&self) -> bool {
        self.writes.len() < WRITES_AT_ONCE
    }

    /// Whether every piece that began is stored, and nothing is left to be hashed again.
    pub(super) fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.rechecking.is_none()
    }

    /// Begins to verify and write a piece. Bytes of a chunk that is there already are dropped.
    pub(super) async fn begin(&mut self, piece: Piece) -> Result<(), PartialError> {
        let Piece {
            index,
            expected,
            offset_in_chunk,
            bytes,
        } = piece;
        let (layout, len_bytes) = (self.layout, bytes.len() as u64);
        let pieces = layout.len_bytes(index).div_ceil(PIECE_BYTES).max(1);
        if !self.begun.contains_key(&index) {
            let Some(writer) = self.partial.begin_chunk(index)? else {
                return Ok(());
            };
            let begun = Begun {
                writer: Arc::new(writer),
                expected,
                pieces: vec![None; usize::try_from(pieces).unwrap_or(0)],
            };
            self.begun.insert(index, begun);
        }
        let Some(begun) = self.begun.get(&index) else {
            return Ok(());
        };
        let writer = Arc::clone(&begun.writer);
        let store = move || {
            let hash = piece_hash(&layout, index, offset_in_chunk, &bytes);
            if pieces > 1 || hash == expected {
                writer.write_at(offset_in_chunk, &bytes)?;
            }
            Ok(hash)
        };
        let running = self.tasks.start_blocking(store).await;
        self.writes.push_back(Write {
            index,
            offset_in_chunk,
            len_bytes,
            running,
        });
        Ok(())
    }

    /// Takes back what has ended, and begins the next sync where enough has gathered; waits only
    /// when the disk is too far behind.
    pub(super) async fn tend(&mut self) -> Result<(), StoreError> {
        while self
            .writes
            .front()
            .is_some_and(|write| write.running.has_ended())
        {
            self.settle_write().await?;
        }
        if self.rechecking.as_ref().is_none_or(Running::has_ended) {
            self.settle_recheck().await?;
            self.begin_recheck().await;
        }
        if let Some(stretch) = &self.syncing {
            let is_behind = stretch.bytes + self.unsynced_bytes >= UNSYNCED_MAX_BYTES;
            if !is_behind && !stretch.running.has_ended() {
                return Ok(());
            }
            self.settle_sync().await?;
        }
        if self.is_sync_due() {
            self.begin_sync().await?;
        }
        Ok(())
    }

    /// Waits until [`Disk::tend`] has something to do. May be dropped and called again.
    pub(super) async fn news(&mut self) {
        let due = self.last_sync + self.sync_interval();
        let (writes, syncing) = (&mut self.writes, &mut self.syncing);
        let rechecking = &mut self.rechecking;
        let has_unsynced = self.unsynced_bytes > 0;
        let stored = async {
            match writes.front_mut() {
                Some(write) => write.running.ended().await,
                None => std::future::pending().await,
            }
        };
        let synced = async {
            match syncing {
                Some(stretch) => stretch.running.ended().await,
                None if has_unsynced => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let rechecked = async {
            match rechecking {
                Some(running) => running.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stored => {}
            () = synced => {}
            () = rechecked => {}
        }
    }

    /// Ends early: makes every chunk durable that is verified by now, whatever became of others,
    /// and gives the partial back for the next try.
    pub(super) async fn close(mut self) -> Result<Partial, PartialError> {
        while !self.writes.is_empty() {
            // The first failure has been told.
            let _ = self.settle_write().await;
        }
        self.settle_recheck().await?;
        self.settle_sync().await?;
        self.begin_sync().await?;
        self.settle_sync().await?;
        Ok(self.partial)
    }

    /// Takes every chunk as missing again: they do not belong together.
    pub(super) async fn forget_all(mut self) -> Result<(), PartialError> {
        self.settle_sync().await?;
        let all: Vec<ChunkIndex> = self.layout.indexes().collect();
        let mut partial = self.partial;
        self.tasks.blocking(move || partial.forget(&all)).await
    }

    /// Gives the complete file its final name; unless durability was waived, it is durable then.
    pub(super) async fn finish(mut self, options: FinishOptions) -> Result<Hash, FetchError> {
        self.settle_sync().await?;
        let (partial, durability) = (self.partial, self.durability);
        let finish = move || match durability {
            Durability::Synced => partial.finish(&options),
            Durability::Unsynced => partial.finish_unsynced(&options),
        };
        let finished = self.tasks.blocking(finish).await;
        finished.map_err(of_finish)
    }

    /// Gives these bytes of the content the final name, unless `there` is a file that has them and
    /// nothing else. Unless durability was waived, they are durable then. Tells whether it has them.
    pub(super) async fn finish_range(
        mut self,
        bytes: Range<u64>,
        mut options: FinishOptions,
        there: Option<File>,
    ) -> Result<bool, FetchError> {
        self.settle_sync().await?;
        let (partial, durability) = (self.partial, self.durability);
        let finished = self
            .tasks
            .blocking(move || {
                // A file that cannot be read is another one.
                let has = |file: &File| partial.has_bytes(&bytes, file).unwrap_or(false);
                let is_same = there.as_ref().is_some_and(has);
                options.replace |= is_same;
                partial.finish_range(&bytes, &options, durability == Durability::Synced)?;
                Ok(is_same)
            })
            .await;
        finished.map_err(of_finish)
    }

    /// Waits for the oldest write, if there is one.
    async fn settle_write(&mut self) -> Result<(), StoreError> {
        let Some(write) = self.writes.front_mut() else {
            return Ok(());
        };
        write.running.ended().await;
        let Some(write) = self.writes.pop_front() else {
            return Ok(());
        };
        let hash = write.running.result().await?;
        self.stored_bytes += write.len_bytes;
        self.unsynced_bytes += write.len_bytes;
        let Some(begun) = self.begun.get_mut(&write.index) else {
            return Ok(());
        };
        let place = usize::try_from(write.offset_in_chunk / PIECE_BYTES).unwrap_or(usize::MAX);
        if let Some(piece) = begun.pieces.get_mut(place) {
            *piece = Some(hash);
        }
        let pieces: Option<Vec<Hash>> = begun.pieces.iter().copied().collect();
        let Some(pieces) = pieces else {
            return Ok(());
        };
        let expected = begun.expected;
        self.begun.remove(&write.index);
        if chunk_of_pieces(&self.layout, write.index, &pieces) != Some(expected) {
            return Err(StoreError::BadChunk(write.index));
        }
        self.partial.verified(write.index, expected);
        self.stored_chunks += 1;
        Ok(())
    }

    async fn begin_recheck(&mut self) {
        let Some(recheck) = self.partial.begin_recheck() else {
            return;
        };
        let stop = Arc::clone(&self.stop);
        let work = move || recheck.run(&*stop);
        self.rechecking = Some(self.tasks.start_blocking(work).await);
    }

    /// Waits for the recheck that is under way, if there is one.
    async fn settle_recheck(&mut self) -> Result<(), PartialError> {
        let Some(running) = &mut self.rechecking else {
            return Ok(());
        };
        running.ended().await;
        let Some(running) = self.rechecking.take() else {
            return Ok(());
        };
        let result = running.result().await;
        if result.has_damage() {
            self.settle_sync().await?;
        }
        let before = self.partial.durable_bytes();
        let damaged = self.partial.end_recheck(result)?;
        self.resumed_bytes += self.partial.durable_bytes() - before;
        if !damaged.is_empty() {
            tracing::warn!(
                chunks = damaged.len(),
                "an unfinished file was damaged on this disk: what is damaged is fetched again"
            );
        }
        self.damaged.extend(damaged);
        Ok(())
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

    async fn begin_sync(&mut self) -> Result<(), PartialError> {
        self.last_sync = Instant::now();
        let Some(syncing) = self.partial.begin_sync()? else {
            return Ok(());
        };
        let running = self.tasks.start_blocking(move || syncing.run()).await;
        self.syncing = Some(Stretch {
            running,
            bytes: std::mem::take(&mut self.unsynced_bytes),
            stored_chunks: self.stored_chunks,
        });
        Ok(())
    }

    /// Waits for the sync that is under way, if there is one.
    async fn settle_sync(&mut self) -> Result<(), PartialError> {
        let Some(stretch) = &mut self.syncing else {
            return Ok(());
        };
        stretch.running.ended().await;
        let Some(stretch) = self.syncing.take() else {
            return Ok(());
        };
        self.partial.end_sync(stretch.running.result().await)?;
        self.durable_chunks = stretch.stored_chunks;
        Ok(())
    }
}
