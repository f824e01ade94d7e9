//! Hashing again what an earlier process recorded, beside whatever else happens to the partial.
//!
//! A part is a file on somebody's disk: disks rot, and people and programs change files. So a
//! record of an earlier process is only a claim. [`Partial::begin_recheck`] takes a stretch of
//! claimed chunks, [`Recheck::run`] hashes what the part holds of them, and
//! [`Partial::end_recheck`] lets the sound ones count and makes the others missing. There is one
//! recheck at a time; chunks may be written and synced meanwhile.

use std::fs::File;
use std::sync::Arc;

use shoal_wire::{ChunkIndex, ChunkLayout, Hash};

use super::Partial;
use super::chunks::ChunkState;
use super::error::PartialError;
use crate::hashing::{self, HashFileError, READ_BLOCK_BYTES};

/// How much one recheck reads, in bytes, but for one chunk at least: a moment's work for the
/// slowest disk.
const STRETCH_BYTES: u64 = 16 << 20;

/// A stretch of claimed chunks that is about to be hashed. It keeps the partial's lock held.
#[derive(Debug)]
pub struct Recheck {
    part: Arc<File>,
    layout: ChunkLayout,
    chunks: Vec<(ChunkIndex, Hash)>,
}

/// What a recheck saw, to be given back to its partial.
#[derive(Debug, Default)]
pub struct RecheckResult {
    sound: Vec<(ChunkIndex, Hash)>,
    damaged: Vec<ChunkIndex>,
}

impl Recheck {
    /// Hashes the stretch. `cancelled` is asked before every block; chunks that it came too early
    /// for stay claimed.
    pub fn run(self, cancelled: &dyn Fn() -> bool) -> RecheckResult {
        let mut block = vec![0; READ_BLOCK_BYTES];
        let mut result = RecheckResult::default();
        for (index, claimed) in self.chunks {
            let found =
                hashing::hash_chunk_of_file(&self.part, &self.layout, index, &mut block, cancelled);
            match found {
                Ok(hash) if hash == claimed => result.sound.push((index, hash)),
                Ok(_) => result.damaged.push(index),
                Err(HashFileError::Cancelled) => break,
                Err(error) => {
                    tracing::warn!(chunk = index.get(), %error, "a stored chunk cannot be read");
                    result.damaged.push(index);
                }
            }
        }
        result
    }
}

impl RecheckResult {
    /// Whether it gives chunks up, for which the partial must not be syncing.
    pub fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }
}

impl Partial {
    /// Takes the next stretch of needed chunks that only an earlier process vouches for; `None`
    /// when there is none left.
    pub fn begin_recheck(&self) -> Option<Recheck> {
        let layout = self.layout();
        let from = self.rechecked_to.max(self.chunks.first_wanted());
        let mut chunks = Vec::new();
        let mut bytes = 0;
        let claims = layout.indexes().skip(from as usize);
        for index in claims.take_while(|index| self.chunks.is_wanted(*index)) {
            if let Some(ChunkState::Recorded(hash)) = self.chunks.state(index) {
                chunks.push((index, hash));
                bytes += layout.len_bytes(index);
            }
            if bytes >= STRETCH_BYTES {
                break;
            }
        }
        let part = Arc::clone(&self.part);
        (!chunks.is_empty()).then_some(Recheck {
            part,
            layout,
            chunks,
        })
    }

    /// Takes a recheck back: its sound chunks are durable, the others missing. Returns the latter.
    ///
    /// # Errors
    /// When there is damage and the state cannot be written, or a sync is under way.
    pub fn end_recheck(&mut self, result: RecheckResult) -> Result<Vec<ChunkIndex>, PartialError> {
        let RecheckResult { sound, damaged } = result;
        let sound_indexes = sound.iter().map(|(index, _)| index);
        if let Some(last) = sound_indexes.chain(&damaged).max() {
            self.rechecked_to = last.get() + 1;
        }
        for (index, hash) in sound {
            if self.chunks.state(index) == Some(ChunkState::Recorded(hash)) {
                self.chunks.set_state(index, ChunkState::Durable(hash));
            }
        }
        if !damaged.is_empty() {
            self.check_settled()?;
            self.drop_chunks(&damaged)?;
        }
        Ok(damaged)
    }

    /// Hashes again every needed chunk that only an earlier process vouches for; returns how many
    /// are missing because of it.
    ///
    /// # Errors
    /// When the state cannot be written, or a sync is under way.
    pub fn recheck(&mut self) -> Result<u32, PartialError> {
        let mut damaged = 0;
        while let Some(recheck) = self.begin_recheck() {
            damaged += self.end_recheck(recheck.run(&|| false))?.len();
        }
        Ok(u32::try_from(damaged).unwrap_or(u32::MAX))
    }
}
