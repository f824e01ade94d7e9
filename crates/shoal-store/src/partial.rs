//! A download with some verified chunks on disk.
//!
//! A [`Partial`] is a `.part` file in the target's own folder and a state file beside it. What
//! [`Partial::is_durable`] says of a chunk has been synced, and stays so after a crash or a power
//! loss. A state record is written only after its chunk's data was synced. Nothing is verified
//! here but by [`Partial::reverify`]: the caller says what is verified, and by which hash.
//! Nothing received is deleted because of an error.

mod disk;
mod error;
mod finishing;
mod name;
mod opening;
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

use self::disk::StateFile;
use self::name::Names;
use self::state::Header;
use self::writing::Direct;
use crate::folder::Folder;
use crate::hashing::{self, HashFileError, HashList, READ_BLOCK_BYTES};
use crate::platform;

pub use self::error::{FinishError, PartialError};
pub use self::finishing::FinishOptions;
pub(crate) use self::name::TEMPORARY_SUFFIX;
pub use self::name::is_partial_name;
pub use self::opening::remove_left_state;
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
    /// Positions of the chunks that are needed; the others may be there too.
    wanted: Range<u32>,
    /// The hash of each chunk that is verified, durable or not.
    hashes: Vec<Option<Hash>>,
    durable: Vec<bool>,
    durable_chunks: u32,
    durable_bytes: u64,
    pending: Vec<(ChunkIndex, Hash)>,
    /// Whether each chunk may hold other bytes than zeros.
    touched: Vec<bool>,
    /// Whether the part has bytes of each chunk that nothing vouches for, from an earlier run or
    /// another file. They are cleared when the chunk is written, unless a search confirms them.
    stray: Vec<bool>,
    /// Past the page cache, where the file is large and the file system lets us.
    direct: Option<Arc<Direct>>,
    failed: bool,
}

impl Partial {
    fn new(folder: Folder, names: Names, part: File, header: Header) -> Self {
        let count = header.layout.chunk_count() as usize;
        let direct = Direct::open(&folder, &names, &part, header.layout.size());
        Self {
            folder,
            names,
            part: Arc::new(part),
            state: None,
            is_syncing: false,
            wanted: 0..header.layout.chunk_count(),
            header,
            hashes: vec![None; count],
            durable: vec![false; count],
            durable_chunks: 0,
            durable_bytes: 0,
            pending: Vec::new(),
            touched: vec![false; count],
            stray: vec![false; count],
            direct: direct.map(Arc::new),
            failed: false,
        }
    }

    /// How the file is cut.
    pub fn layout(&self) -> ChunkLayout {
        self.header.layout
    }

    /// For each chunk, whether it is durable.
    pub fn durable(&self) -> &[bool] {
        &self.durable
    }

    /// Whether one chunk is durable.
    pub fn is_durable(&self, index: ChunkIndex) -> bool {
        self.durable.get(position(index)) == Some(&true)
    }

    /// Whether a chunk is needed and not verified.
    pub fn is_missing(&self, index: ChunkIndex) -> bool {
        self.wanted.contains(&index.get()) && !self.is_verified(index)
    }

    /// How much is needed in all, in bytes: whole chunks.
    pub fn wanted_bytes(&self) -> u64 {
        self.bytes_of(|_| true)
    }

    /// How much of what is needed is durable, in bytes.
    pub fn durable_bytes(&self) -> u64 {
        self.durable_bytes
    }

    /// What the needed chunks take for which `counts` holds, in bytes.
    fn bytes_of(&self, counts: impl Fn(ChunkIndex) -> bool) -> u64 {
        let layout = self.header.layout;
        let wanted = layout
            .indexes()
            .filter(|at| self.wanted.contains(&at.get()));
        wanted
            .filter(|index| counts(*index))
            .map(|index| layout.len_bytes(index))
            .sum()
    }

    /// The hash recorded with a durable chunk.
    pub fn hash_of(&self, index: ChunkIndex) -> Option<Hash> {
        let hash = *self.hashes.get(position(index))?;
        hash.filter(|_| self.is_durable(index))
    }

    /// Begins to write a chunk: what it returns takes the chunk's bytes, from any thread.
    ///
    /// A chunk that is written once more is written in full; the first time, runs of zeros take no
    /// space. `None` for a chunk that counts as verified already.
    ///
    /// # Errors
    /// When the index is of another file's layout, or an earlier sync failed.
    pub fn begin_chunk(&mut self, index: ChunkIndex) -> Result<Option<ChunkWriter>, PartialError> {
        self.check_usable()?;
        let at = position(index);
        match self.hashes.get(at) {
            None => return Err(PartialError::OutOfChunk),
            Some(Some(_)) => return Ok(None),
            Some(None) => {}
        }
        if self.stray[at] {
            self.clear_chunk(index)
                .map_err(|error| self.error_of(error))?;
        }
        let is_touched = std::mem::replace(&mut self.touched[at], true);
        Ok(Some(ChunkWriter {
            folder: self.folder.clone(),
            part: Arc::clone(&self.part),
            direct: self.direct.clone(),
            range: self.header.layout.range(index),
            is_fresh: !is_touched,
            needed_bytes: self.missing_bytes(),
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
        if self.hashes[position(index)].is_none() {
            return Err(PartialError::OutOfChunk);
        }
        self.part
            .read_exact_at(bytes, at)
            .map_err(|error| self.error_of(error))
    }

    /// Says that a chunk is completely written and has this hash; the next sync records it.
    pub fn verified(&mut self, index: ChunkIndex, hash: Hash) {
        let Some(known @ None) = self.hashes.get_mut(position(index)) else {
            return;
        };
        *known = Some(hash);
        self.pending.push((index, hash));
    }

    /// Whether one chunk is verified, durable or not.
    pub fn is_verified(&self, index: ChunkIndex) -> bool {
        matches!(self.hashes.get(position(index)), Some(Some(_)))
    }

    /// The hash of every chunk, once all are verified, durable or not.
    pub fn verified_hashes(&self) -> Option<Vec<Hash>> {
        self.hashes.iter().copied().collect()
    }

    /// Hashes every durable chunk again; those that differ from their record, or cannot be read,
    /// become missing. Returns how many.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn reverify(&mut self) -> Result<u32, PartialError> {
        self.check_settled()?;
        let mut block = vec![0; READ_BLOCK_BYTES];
        let layout = self.header.layout;
        let mut bad = Vec::new();
        for index in layout.indexes().filter(|index| self.is_durable(*index)) {
            let found =
                hashing::hash_chunk_of_file(&self.part, &layout, index, &mut block, &|| false);
            if let Err(HashFileError::Read(error)) = &found {
                tracing::warn!(chunk = index.get(), %error, "a stored chunk cannot be read");
            }
            if found.ok() != self.hash_of(index) {
                bad.push(index);
            }
        }
        self.drop_chunks(&bad)
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
        let differing: Vec<ChunkIndex> = list
            .layout()
            .indexes()
            .filter(|index| {
                self.hashes[position(*index)].is_some_and(|hash| hash != list.chunk(*index))
            })
            .collect();
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
        let range = self.header.layout.range(index);
        let end = offset_in_chunk.checked_add(len as u64);
        let is_inside = end.is_some_and(|end| end <= range.end - range.start);
        // The index may come from another file's layout.
        if !is_inside || position(index) >= self.hashes.len() {
            return Err(PartialError::OutOfChunk);
        }
        Ok(range.start + offset_in_chunk)
    }

    /// The record goes first, then the data: a crash between leaves chunks that are fetched again.
    fn drop_chunks(&mut self, indexes: &[ChunkIndex]) -> Result<u32, PartialError> {
        let mut dropped = Vec::new();
        for index in indexes {
            let at = position(*index);
            if self.hashes.get_mut(at).and_then(Option::take).is_none() {
                continue;
            }
            dropped.push(*index);
            if std::mem::take(&mut self.durable[at]) {
                self.durable_chunks -= 1;
                if self.wanted.contains(&index.get()) {
                    self.durable_bytes -= self.header.layout.len_bytes(*index);
                }
            }
        }
        if dropped.is_empty() {
            return Ok(0);
        }
        let hashes = &self.hashes;
        self.pending
            .retain(|(index, _)| hashes[position(*index)].is_some());
        // Also for chunks that were only pending: a failed append may have recorded some of them.
        self.replace_state()?;
        for index in &dropped {
            self.clear_chunk(*index)
                .map_err(|error| self.error_of(error))?;
        }
        Ok(u32::try_from(dropped.len()).unwrap_or(u32::MAX))
    }

    /// Writes a new state of the durable chunks. A failure is final: the old state may claim more.
    fn replace_state(&mut self) -> Result<(), PartialError> {
        self.check_named()?;
        let durable = self.header.layout.indexes().filter_map(|index| {
            let hash = self.hash_of(index)?;
            Some((index, hash))
        });
        match StateFile::replace(&self.folder, &self.names, &self.header, durable) {
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
        self.touched[position(index)] = !is_clear;
        self.stray[position(index)] = false;
        Ok(())
    }

    /// Takes note of the missing chunks of which the part has bytes.
    fn find_strays(&mut self) -> io::Result<()> {
        let layout = self.header.layout;
        let mut data_at = None;
        for index in layout.indexes() {
            let range = layout.range(index);
            if self.hashes[position(index)].is_some() || range.is_empty() {
                continue;
            }
            let at = match data_at {
                Some(at) if at >= range.start => at,
                _ => platform::next_data(&self.part, range.start)?.unwrap_or(u64::MAX),
            };
            data_at = Some(at);
            self.stray[position(index)] = at < range.end;
        }
        Ok(())
    }

    fn mark_durable(&mut self, index: ChunkIndex) {
        if !std::mem::replace(&mut self.durable[position(index)], true) {
            self.durable_chunks += 1;
            if self.wanted.contains(&index.get()) {
                self.durable_bytes += self.header.layout.len_bytes(index);
            }
        }
    }

    fn missing_bytes(&self) -> u64 {
        self.wanted_bytes() - self.durable_bytes
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
        PartialError::of(&self.folder, self.missing_bytes(), error)
    }
}

fn position(index: ChunkIndex) -> usize {
    index.get() as usize
}
