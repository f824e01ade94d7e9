//! A download with some verified chunks on disk.
//!
//! A [`Partial`] is a `.part` file in the target's own folder and a state file beside it. A state
//! record is written only after its chunk's data was synced, so it is true after a crash or a power
//! loss. It is still only a claim to the next process, because anything may have changed the part in
//! between: what [`Partial::is_verified`] and [`Partial::is_durable`] say was seen by this process,
//! in a chunk that the caller wrote and vouched for, or that a [`Recheck`] or a [`Search`] hashed.
//! Nothing received is deleted because of an error.

mod chunks;
mod disk;
mod error;
mod finishing;
mod name;
mod opening;
mod rechecking;
mod searching;
mod slicing;
mod sparse;
mod state;
mod syncing;
mod writing;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use shoal_wire::{ChunkIndex, ChunkLayout, Hash, NodeId};

use self::chunks::{Backing, ChunkState, ChunkTable};
use self::disk::StateFile;
use self::name::Names;
use self::state::Header;
use self::writing::Direct;
use crate::folder::Folder;
use crate::hashing::HashList;
use crate::platform;

pub use self::error::{FinishError, PartialError};
pub use self::finishing::FinishOptions;
pub(crate) use self::name::TEMPORARY_SUFFIX;
pub use self::name::is_partial_name;
pub use self::opening::remove_left_state;
pub use self::rechecking::{Recheck, RecheckResult};
pub use self::searching::Search;
pub use self::syncing::{Synced, Syncing};
pub use self::writing::ChunkWriter;

/// What content is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Its root.
    Root(Hash),
    /// Not hashed yet: one node's version of a file.
    Origin {
        /// The node that has it.
        node: NodeId,
        /// The file's last modification there, in nanoseconds since 1970-01-01 UTC.
        mtime_ns: i64,
    },
}

/// What is downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// What it is known by.
    pub source: Source,
    /// Its size, and how it is cut.
    pub layout: ChunkLayout,
}

/// An unfinished file, held by an exclusive lock until it is finished or dropped.
#[derive(Debug)]
pub struct Partial {
    folder: Folder,
    names: Names,
    part: Arc<File>,
    /// Away while a sync is under way.
    state: Option<StateFile>,
    is_syncing: bool,
    header: Header,
    chunks: ChunkTable,
    /// The chunks before this position are not claims any more.
    rechecked_to: u32,
    pending: Vec<(ChunkIndex, Hash)>,
    /// Past the page cache, where the file is large and the file system lets us.
    direct: Option<Arc<Direct>>,
    failed: bool,
}

impl Partial {
    fn new(
        (folder, names): (Folder, Names),
        part: File,
        header: Header,
        wanted: Range<u32>,
    ) -> Self {
        let direct = Direct::open(&folder, &names, &part, header.layout.size());
        Self {
            folder,
            names,
            part: Arc::new(part),
            state: None,
            is_syncing: false,
            chunks: ChunkTable::new(header.layout, wanted),
            rechecked_to: 0,
            header,
            pending: Vec::new(),
            direct: direct.map(Arc::new),
            failed: false,
        }
    }

    /// How the file is cut.
    pub fn layout(&self) -> ChunkLayout {
        self.header.layout
    }

    /// Whether it can go on as a download of this content, also known by `also`: opening it anew
    /// would find the same chunks.
    pub fn is_of(&self, content: &Content, also: Option<Source>) -> bool {
        !self.failed && !self.is_syncing && self.header.is_of_either(content, also)
    }

    /// For each chunk, whether it is durable.
    pub fn durable(&self) -> Vec<bool> {
        let indexes = self.layout().indexes();
        indexes.map(|index| self.is_durable(index)).collect()
    }

    /// Whether one chunk is durable.
    pub fn is_durable(&self, index: ChunkIndex) -> bool {
        self.hash_of(index).is_some()
    }

    /// Whether a chunk is needed and has to be fetched.
    pub fn is_missing(&self, index: ChunkIndex) -> bool {
        self.chunks.is_wanted(index) && self.chunks.is_missing(index)
    }

    /// How much is needed in all, in bytes: whole chunks.
    pub fn wanted_bytes(&self) -> u64 {
        self.chunks.wanted_bytes()
    }

    /// How much of what is needed is durable, in bytes.
    pub fn durable_bytes(&self) -> u64 {
        self.chunks.durable_bytes()
    }

    /// The hash of a durable chunk.
    pub fn hash_of(&self, index: ChunkIndex) -> Option<Hash> {
        match self.chunks.state(index)? {
            ChunkState::Durable(hash) => Some(hash),
            _ => None,
        }
    }

    /// Begins to write a chunk: what it returns takes the chunk's bytes, from any thread.
    ///
    /// A chunk that is written once more is written in full; the first time, runs of zeros take no
    /// space. `None` for a chunk that need not be written.
    ///
    /// # Errors
    /// When the index is of another file's layout, or an earlier sync failed.
    pub fn begin_chunk(&mut self, index: ChunkIndex) -> Result<Option<ChunkWriter>, PartialError> {
        self.check_usable()?;
        match self.chunks.state(index) {
            None => return Err(PartialError::OutOfChunk),
            Some(ChunkState::Missing) => {}
            Some(_) => return Ok(None),
        }
        if self.chunks.backing(index) == Backing::Stray {
            self.clear_chunk(index)
                .map_err(|error| self.error_of(error))?;
        }
        let is_fresh = self.chunks.backing(index) == Backing::Hole;
        self.chunks.set_backing(index, Backing::Written);
        Ok(Some(ChunkWriter {
            folder: self.folder.clone(),
            part: Arc::clone(&self.part),
            direct: self.direct.clone(),
            range: self.header.layout.range(index),
            is_fresh,
            needed_bytes: self.chunks.unrecorded_bytes(),
        }))
    }

    /// Reads bytes of a chunk that is verified, to serve them on.
    ///
    /// # Errors
    /// When the chunk is not verified, the bytes do not lie inside it, or the disk refuses.
    pub fn read_at(
        &self,
        index: ChunkIndex,
        offset_in_chunk: u64,
        bytes: &mut [u8],
    ) -> Result<(), PartialError> {
        let at = self.place(index, offset_in_chunk, bytes.len())?;
        self.part
            .read_exact_at(bytes, at)
            .map_err(|error| self.error_of(error))
    }

    /// Says that a chunk is completely written and has this hash; the next sync records it.
    pub fn verified(&mut self, index: ChunkIndex, hash: Hash) {
        if self.chunks.is_missing(index) {
            self.chunks.set_state(index, ChunkState::Verified(hash));
            self.pending.push((index, hash));
        }
    }

    /// Whether one chunk is verified, durable or not.
    pub fn is_verified(&self, index: ChunkIndex) -> bool {
        self.chunks.verified(index).is_some()
    }

    /// The hash of every chunk, once all are verified, durable or not.
    pub fn verified_hashes(&self) -> Option<Vec<Hash>> {
        let indexes = self.layout().indexes();
        indexes.map(|index| self.chunks.verified(index)).collect()
    }

    /// Makes chunks missing again, durably, so that they are fetched anew.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn forget(&mut self, indexes: &[ChunkIndex]) -> Result<(), PartialError> {
        self.check_settled()?;
        self.drop_chunks(indexes).map(drop)
    }

    /// Keeps the chunks that a hash list confirms and drops the others; returns how many.
    ///
    /// From then on the partial is also known by the list's root, whatever it was begun from.
    ///
    /// # Errors
    /// When the list is of another size or root than this partial, or the state cannot be written.
    pub fn keep_matching(&mut self, list: &HashList) -> Result<u32, PartialError> {
        self.check_settled()?;
        let is_other = self.header.root.is_some_and(|root| root != list.root());
        if is_other || list.layout() != self.header.layout {
            return Err(PartialError::WrongList);
        }
        let differs = |index: &ChunkIndex| {
            let claimed = self.chunks.claimed(*index);
            claimed.is_some_and(|hash| hash != list.chunk(*index))
        };
        let differing: Vec<ChunkIndex> = list.layout().indexes().filter(differs).collect();
        let is_news = self.header.root.is_none();
        self.header.root = Some(list.root());
        if is_news && differing.is_empty() && self.state.is_some() {
            self.replace_state()?;
        }
        self.drop_chunks(&differing)
    }

    fn place(
        &self,
        index: ChunkIndex,
        offset_in_chunk: u64,
        len: usize,
    ) -> Result<u64, PartialError> {
        // The index may come from another file's layout.
        if self.chunks.verified(index).is_none() {
            return Err(PartialError::OutOfChunk);
        }
        let range = self.header.layout.range(index);
        let end = offset_in_chunk.checked_add(len as u64);
        if end.is_none_or(|end| end > range.end - range.start) {
            return Err(PartialError::OutOfChunk);
        }
        Ok(range.start + offset_in_chunk)
    }

    /// The record goes first, then the data: a crash between leaves chunks that are fetched again.
    fn drop_chunks(&mut self, indexes: &[ChunkIndex]) -> Result<u32, PartialError> {
        let mut dropped = Vec::new();
        for index in indexes {
            match self.chunks.set_state(*index, ChunkState::Missing) {
                None | Some(ChunkState::Missing) => {}
                Some(_) => dropped.push(*index),
            }
        }
        if dropped.is_empty() {
            return Ok(0);
        }
        let chunks = &self.chunks;
        self.pending.retain(|(index, _)| !chunks.is_missing(*index));
        // Also for chunks that were only pending: a failed append may have recorded some of them.
        self.replace_state()?;
        for index in &dropped {
            self.clear_chunk(*index)
                .map_err(|error| self.error_of(error))?;
        }
        Ok(u32::try_from(dropped.len()).unwrap_or(u32::MAX))
    }

    /// Writes a new state of the recorded chunks. A failure is final: the old state may claim more.
    fn replace_state(&mut self) -> Result<(), PartialError> {
        self.check_named()?;
        let recorded = self.header.layout.indexes().filter_map(|index| {
            let hash = self.chunks.recorded(index)?;
            Some((index, hash))
        });
        match StateFile::replace(&self.folder, &self.names, &self.header, recorded) {
            Ok(state) => {
                self.state = Some(state);
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                Err(self.error_of(error))
            }
        }
    }

    /// Makes a missing chunk read as zeros, so that zeros need not be written.
    fn clear_chunk(&mut self, index: ChunkIndex) -> io::Result<()> {
        let range = self.header.layout.range(index);
        let len_bytes = range.end - range.start;
        let is_clear = len_bytes == 0 || platform::punch_hole(&self.part, range.start, len_bytes)?;
        let backing = if is_clear {
            Backing::Hole
        } else {
            Backing::Written
        };
        self.chunks.set_backing(index, backing);
        Ok(())
    }

    /// Takes note of the missing chunks of which the part has bytes.
    fn find_strays(&mut self) -> io::Result<()> {
        let layout = self.header.layout;
        let mut data_at = None;
        for index in layout.indexes() {
            let range = layout.range(index);
            if !self.chunks.is_missing(index) || range.is_empty() {
                continue;
            }
            let at = match data_at {
                Some(at) if at >= range.start => at,
                _ => platform::next_data(&self.part, range.start)?.unwrap_or(u64::MAX),
            };
            data_at = Some(at);
            if at < range.end {
                self.chunks.set_backing(index, Backing::Stray);
            }
        }
        Ok(())
    }

    fn check_usable(&self) -> Result<(), PartialError> {
        if self.failed {
            return Err(PartialError::Failed);
        }
        Ok(())
    }

    /// The state's name is ours only as long as the part's name leads to our part.
    fn check_named(&mut self) -> Result<(), PartialError> {
        match disk::leads_to(&self.folder, &self.names.part, &self.part) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.failed = true;
                Err(PartialError::PartGone)
            }
            Err(error) => {
                self.failed = true;
                Err(self.error_of(error))
            }
        }
    }

    fn error_unless_room(&mut self, error: io::Error) -> PartialError {
        let error = self.error_of(error);
        let is_room = matches!(
            error,
            PartialError::NoSpace { .. } | PartialError::Exhausted { .. }
        );
        self.failed = !is_room;
        error
    }

    fn error_of(&self, error: io::Error) -> PartialError {
        PartialError::of(&self.folder, self.chunks.unrecorded_bytes(), error)
    }
}
