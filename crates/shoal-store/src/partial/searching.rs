//! Chunks that need not be fetched: they are in the part already, or in another file here.
//!
//! Nothing is believed. A chunk counts only if the bytes that stay in the part, or those that were
//! written to it, have led to its hash; from then on it is recorded and synced like any other.
//! Chunks are looked for at the offsets at which the content has them, and nowhere else.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use shoal_wire::{ChunkIndex, ChunkLayout, Hash};

use super::Partial;
use super::chunks::Backing;
use super::error::PartialError;
use crate::hashing::{self, ChunkHasher, HashFileError, HashList};
use crate::platform;

/// How much is read before a search gives control back, in bytes: a fraction of what may wait for
/// a sync.
const STRETCH_BYTES: u64 = 16 << 20;

/// A search for chunks of a content in one place.
#[derive(Debug)]
pub struct Search {
    place: Place,
    /// Position of the chunk that is looked for next.
    next: u32,
    is_begun: bool,
    is_over: bool,
}

#[derive(Debug)]
enum Place {
    /// Bytes in the part that no record vouches for.
    Part,
    /// Another file.
    Other(Other),
}

/// Another file that is searched.
#[derive(Debug)]
struct Other {
    file: File,
    /// Where in the content its first byte is.
    start: u64,
    /// Its length when the search began.
    len_bytes: u64,
}

/// What became of one chunk.
enum Looked {
    Kept,
    Differs,
    /// The place cannot be read, or the caller asked to stop.
    Ended(HashFileError),
}

impl Search {
    /// Looks at what the part has from an earlier run whose records are lost or of other content.
    pub fn of_part() -> Self {
        Self::of(Place::Part)
    }

    /// Looks at another file, which is only read.
    ///
    /// # Errors
    /// When its length cannot be told.
    pub fn of_file(file: File) -> io::Result<Self> {
        Self::of_range(file, 0)
    }

    /// Looks at another file that has a stretch of the content, from byte `start` on.
    ///
    /// # Errors
    /// As [`Search::of_file`].
    pub fn of_range(file: File, start: u64) -> io::Result<Self> {
        let len_bytes = file.metadata()?.len();
        Ok(Self::of(Place::Other(Other {
            file,
            start,
            len_bytes,
        })))
    }

    fn of(place: Place) -> Self {
        Self {
            place,
            next: 0,
            is_begun: false,
            is_over: false,
        }
    }

    /// Whether there is nothing left to look at.
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Other {
    fn has(&self, range: &Range<u64>) -> bool {
        range.start >= self.start && range.end - self.start <= self.len_bytes
    }

    /// Reads what it has of the content at this place.
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at - self.start)
    }

    fn hash(
        &self,
        layout: &ChunkLayout,
        index: ChunkIndex,
        block: &mut [u8],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Hash, HashFileError> {
        hashing::hash_chunk_of_stretch((&self.file, self.start), layout, index, block, cancelled)
    }
}

impl Partial {
    /// Goes on with a search for missing chunks of `list`, a stretch of it; tells how many bytes
    /// were found, which count as verified. `block` bounds how much is read at once. A file that
    /// cannot be read ends the search and is no error. `cancelled` is asked before every block.
    ///
    /// # Errors
    /// When the list is of another content, or the part cannot be written.
    pub fn search(
        &mut self,
        search: &mut Search,
        list: &HashList,
        block: &mut [u8],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<u64, PartialError> {
        self.check_usable()?;
        if list.layout() != self.header.layout || block.is_empty() {
            return Err(PartialError::WrongList);
        }
        if !search.is_begun {
            self.begin_search(search)?;
            search.is_begun = true;
        }
        let (mut examined_bytes, mut found_bytes) = (0, 0);
        while examined_bytes < STRETCH_BYTES && !search.is_over {
            let Some(index) = self.next_of(search) else {
                search.is_over = true;
                break;
            };
            let looked = match &search.place {
                Place::Part => self.keep_if_sound(index, list, block, cancelled),
                Place::Other(other) => {
                    self.copy_if_equal(index, (other, list), block, cancelled)?
                }
            };
            let len_bytes = self.header.layout.len_bytes(index);
            examined_bytes += len_bytes;
            search.next = index.get() + 1;
            match looked {
                Looked::Kept => found_bytes += len_bytes,
                Looked::Differs => {}
                Looked::Ended(error) => {
                    tracing::debug!(%error, "a search for chunks ended early");
                    search.is_over = true;
                }
            }
        }
        Ok(found_bytes)
    }

    /// What the part may hold of missing chunks, in bytes.
    pub(super) fn stray_bytes(&self) -> u64 {
        let strays = self.chunks.strays();
        strays.map(|index| self.layout().len_bytes(index)).sum()
    }

    fn begin_search(&mut self, search: &mut Search) -> Result<(), PartialError> {
        match &search.place {
            // What an earlier run failed to sync may be in memory alone: the disk's word counts.
            Place::Part if self.chunks.strays().next().is_some() => {
                let synced = self.part.sync_data();
                synced
                    .and_then(|()| platform::drop_cached(&self.part))
                    .map_err(|error| {
                        self.failed = true;
                        self.error_of(error)
                    })
            }
            Place::Part => Ok(()),
            Place::Other(other) => {
                let is_whole = other.start == 0 && self.wanted_bytes() > other.len_bytes / 2;
                if self.chunks.is_blank()
                    && is_whole
                    && self
                        .take_clone(&other.file)
                        .map_err(|error| self.error_of(error))?
                {
                    self.stray_up_to(other.len_bytes);
                    search.place = Place::Part;
                }
                Ok(())
            }
        }
    }

    /// Has a part that is all zeros share the bytes of another file, where the disk can do that.
    fn take_clone(&self, file: &File) -> io::Result<bool> {
        self.part.set_len(0)?;
        let is_clone = platform::clone_content(file, &self.part);
        if !is_clone {
            // Some of it may have been shared before it failed.
            self.part.set_len(0)?;
        }
        self.part.set_len(self.header.layout.size().bytes())?;
        Ok(is_clone)
    }

    fn stray_up_to(&mut self, len_bytes: u64) {
        let layout = self.header.layout;
        for index in layout.indexes() {
            if layout.range(index).start < len_bytes {
                self.chunks.set_backing(index, Backing::Stray);
            }
        }
    }

    /// The next missing chunk of which the place has bytes.
    fn next_of(&self, search: &Search) -> Option<ChunkIndex> {
        let layout = self.header.layout;
        let from = search.next.max(self.chunks.first_wanted());
        let mut after = layout.indexes().skip(from as usize);
        after.find(|index| {
            let range = layout.range(*index);
            let is_there = match &search.place {
                Place::Part => self.chunks.backing(*index) == Backing::Stray,
                Place::Other(other) => other.has(&range),
            };
            is_there && !range.is_empty() && self.is_missing(*index)
        })
    }

    /// Hashes what the part has of a chunk.
    fn keep_if_sound(
        &mut self,
        index: ChunkIndex,
        list: &HashList,
        block: &mut [u8],
        cancelled: &dyn Fn() -> bool,
    ) -> Looked {
        let layout = list.layout();
        match hashing::hash_chunk_of_file(&self.part, &layout, index, block, cancelled) {
            Ok(hash) if hash == list.chunk(index) => {
                self.chunks.set_backing(index, Backing::Written);
                self.verified(index, hash);
                Looked::Kept
            }
            Ok(_) => Looked::Differs,
            Err(error) => Looked::Ended(error),
        }
    }

    /// Writes what another file has of a chunk, if that is the chunk.
    fn copy_if_equal(
        &mut self,
        index: ChunkIndex,
        (other, list): (&Other, &HashList),
        block: &mut [u8],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Looked, PartialError> {
        let layout = list.layout();
        let range = layout.range(index);
        let whole = usize::try_from(range.end - range.start)
            .ok()
            .and_then(|len| block.get_mut(..len));
        let is_written = match whole {
            Some(bytes) => {
                if let Err(error) = other.read(bytes, range.start) {
                    return Ok(Looked::Ended(HashFileError::Read(error)));
                }
                let is_it = hashing::chunk_hash(&layout, index, bytes) == list.chunk(index);
                if is_it && let Some(writer) = self.begin_chunk(index)? {
                    writer.write_at(0, bytes)?;
                }
                is_it
            }
            None => match other.hash(&layout, index, block, cancelled) {
                Ok(hash) if hash == list.chunk(index) => {
                    self.copy_in_blocks(index, (other, list), block)?
                }
                Ok(_) => false,
                Err(error) => return Ok(Looked::Ended(error)),
            },
        };
        if !is_written {
            return Ok(Looked::Differs);
        }
        self.verified(index, list.chunk(index));
        Ok(Looked::Kept)
    }

    /// Writes a chunk that is longer than `block`, and hashes once more what it writes.
    fn copy_in_blocks(
        &mut self,
        index: ChunkIndex,
        (other, list): (&Other, &HashList),
        block: &mut [u8],
    ) -> Result<bool, PartialError> {
        let range = list.layout().range(index);
        let mut hasher = ChunkHasher::new(&list.layout(), index);
        let Some(writer) = self.begin_chunk(index)? else {
            return Ok(false);
        };
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let bytes_len = left.min(block.len());
            let bytes = &mut block[..bytes_len];
            if other.read(bytes, at).is_err() {
                return Ok(false);
            }
            hasher.update(bytes);
            writer.write_at(at - range.start, bytes)?;
            at += bytes.len() as u64;
        }
        Ok(hasher.finish() == list.chunk(index))
    }
}
