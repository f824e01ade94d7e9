//! What is known of each chunk of a partial, and what lies in its place in the part.
//!
//! The table decides nothing and touches no file. Its sums follow every change of a state, so they
//! are read without going through the chunks.

use std::ops::Range;

use shoal_wire::{ChunkIndex, ChunkLayout, Hash};

/// What is known of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkState {
    /// It has to be fetched.
    Missing,
    /// An earlier process recorded it with this hash. The part may have changed since, so it does
    /// not count before it was hashed again.
    Recorded(Hash),
    /// This process saw that its bytes lead to this hash; the next sync records it.
    Verified(Hash),
    /// The same, and it is synced and recorded.
    Durable(Hash),
}

/// What the part holds in the place of a missing chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backing {
    /// Nothing: it reads as zeros and takes no space.
    Hole,
    /// Bytes that this process wrote.
    Written,
    /// Bytes that nothing vouches for, from an earlier run or another file. They are cleared when
    /// the chunk is written, unless a search confirms them.
    Stray,
}

/// The chunks of one partial.
#[derive(Debug)]
pub(super) struct ChunkTable {
    layout: ChunkLayout,
    /// Positions of the chunks that are needed; the others may be there too.
    wanted: Range<u32>,
    chunks: Vec<(ChunkState, Backing)>,
    durable_count: u32,
    wanted_bytes: u64,
    /// Of the wanted chunks, like the next one.
    durable_bytes: u64,
    recorded_bytes: u64,
}

impl ChunkTable {
    pub(super) fn new(layout: ChunkLayout, wanted: Range<u32>) -> Self {
        let is_wanted = |index: &ChunkIndex| wanted.contains(&index.get());
        let wanted_bytes = layout
            .indexes()
            .filter(is_wanted)
            .map(|index| layout.len_bytes(index))
            .sum();
        let count = layout.chunk_count() as usize;
        Self {
            layout,
            wanted,
            chunks: vec![(ChunkState::Missing, Backing::Hole); count],
            durable_count: 0,
            wanted_bytes,
            durable_bytes: 0,
            recorded_bytes: 0,
        }
    }

    /// `None` for an index of another file's layout.
    pub(super) fn state(&self, index: ChunkIndex) -> Option<ChunkState> {
        let (state, _) = self.chunks.get(index.get() as usize)?;
        Some(*state)
    }

    /// Changes what is known of a chunk, and returns what was known before.
    pub(super) fn set_state(&mut self, index: ChunkIndex, state: ChunkState) -> Option<ChunkState> {
        let (known, _) = self.chunks.get_mut(index.get() as usize)?;
        let before = std::mem::replace(known, state);
        let is_durable = |state| matches!(state, ChunkState::Durable(_));
        let is_recorded = |state| matches!(state, ChunkState::Recorded(_));
        self.durable_count -= u32::from(is_durable(before));
        self.durable_count += u32::from(is_durable(state));
        if self.is_wanted(index) {
            let len_bytes = self.layout.len_bytes(index);
            let bytes_if = |counts: bool| if counts { len_bytes } else { 0 };
            self.durable_bytes -= bytes_if(is_durable(before));
            self.durable_bytes += bytes_if(is_durable(state));
            self.recorded_bytes -= bytes_if(is_recorded(before));
            self.recorded_bytes += bytes_if(is_recorded(state));
        }
        Some(before)
    }

    pub(super) fn backing(&self, index: ChunkIndex) -> Backing {
        let chunk = self.chunks.get(index.get() as usize);
        chunk.map_or(Backing::Hole, |(_, backing)| *backing)
    }

    pub(super) fn set_backing(&mut self, index: ChunkIndex, backing: Backing) {
        if let Some((_, known)) = self.chunks.get_mut(index.get() as usize) {
            *known = backing;
        }
    }

    pub(super) fn is_wanted(&self, index: ChunkIndex) -> bool {
        self.wanted.contains(&index.get())
    }

    /// The position of the first chunk that is needed.
    pub(super) fn first_wanted(&self) -> u32 {
        self.wanted.start
    }

    pub(super) fn is_missing(&self, index: ChunkIndex) -> bool {
        self.state(index) == Some(ChunkState::Missing)
    }

    /// The hash of a chunk that this process verified, durable or not.
    pub(super) fn verified(&self, index: ChunkIndex) -> Option<Hash> {
        match self.state(index)? {
            ChunkState::Verified(hash) | ChunkState::Durable(hash) => Some(hash),
            ChunkState::Missing | ChunkState::Recorded(_) => None,
        }
    }

    /// The hash with which a chunk is in the records, whoever wrote them.
    pub(super) fn recorded(&self, index: ChunkIndex) -> Option<Hash> {
        match self.state(index)? {
            ChunkState::Recorded(hash) | ChunkState::Durable(hash) => Some(hash),
            ChunkState::Missing | ChunkState::Verified(_) => None,
        }
    }

    /// The hash that a chunk has by whatever is known of it.
    pub(super) fn claimed(&self, index: ChunkIndex) -> Option<Hash> {
        self.verified(index).or_else(|| self.recorded(index))
    }

    /// Whether nothing is known of any chunk, and the part holds nothing but zeros.
    pub(super) fn is_blank(&self) -> bool {
        let blank = (ChunkState::Missing, Backing::Hole);
        self.chunks.iter().all(|chunk| *chunk == blank)
    }

    /// The chunks whose place in the part holds bytes that nothing vouches for.
    pub(super) fn strays(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        let indexes = self.layout.indexes();
        indexes.filter(|index| self.backing(*index) == Backing::Stray)
    }

    pub(super) fn durable_count(&self) -> u32 {
        self.durable_count
    }

    pub(super) fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }

    pub(super) fn durable_bytes(&self) -> u64 {
        self.durable_bytes
    }

    /// What may still need room on the disk, in bytes.
    pub(super) fn unrecorded_bytes(&self) -> u64 {
        self.wanted_bytes - self.durable_bytes - self.recorded_bytes
    }
}
