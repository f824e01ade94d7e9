//! Writing the bytes of one chunk, from any thread, beside other chunks.
//!
//! A large file is written past the page cache where the file system lets us: the processor copies
//! nothing, the disk begins at once, a sync has nothing left to wait for, and what others have in
//! the cache stays there. Whatever does not lie as that wants it goes through the cache; the two
//! never meet in one page.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use shoal_wire::FileSize;

use super::error::PartialError;
use super::name::Names;
use super::sparse;
use crate::folder::Folder;
use crate::platform;

/// Files from this size, in bytes, are written past the page cache. A smaller one is likely to be
/// read next, and takes little from others.
const DIRECT_MIN_FILE_BYTES: u64 = 64 << 20;
/// Writes from this length, in bytes: each waits for the disk.
const DIRECT_MIN_BYTES: usize = 64 << 10;
/// What offsets, lengths and addresses must be multiples of, in bytes: enough for every common
/// disk; one that wants more refuses, and gets its bytes through the cache.
const DIRECT_ALIGN_BYTES: usize = 4096;

/// Takes the bytes of one chunk. It keeps the partial's lock held until it is dropped.
#[derive(Debug)]
pub struct ChunkWriter {
    pub(super) folder: Folder,
    pub(super) part: Arc<File>,
    pub(super) direct: Option<Arc<Direct>>,
    /// Where in the file the chunk lies.
    pub(super) range: Range<u64>,
    /// Whether it reads as zeros before.
    pub(super) is_fresh: bool,
    pub(super) needed_bytes: u64,
}

impl ChunkWriter {
    /// Writes bytes of the chunk, each byte once.
    ///
    /// # Errors
    /// When the bytes do not lie inside the chunk, or the disk refuses.
    pub fn write_at(&self, offset_in_chunk: u64, bytes: &[u8]) -> Result<(), PartialError> {
        let end = offset_in_chunk.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.range.end - self.range.start) {
            return Err(PartialError::OutOfChunk);
        }
        let at = self.range.start + offset_in_chunk;
        let written = if self.is_fresh {
            sparse::write(at, bytes, |bytes, at| self.put(bytes, at))
        } else {
            self.put(bytes, at)
        };
        written.map_err(|error| PartialError::of(&self.folder, self.needed_bytes, error))
    }

    fn put(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let direct_bytes = match &self.direct {
            Some(direct) => direct.put(bytes, at)?,
            None => 0,
        };
        self.part
            .write_all_at(&bytes[direct_bytes..], at + direct_bytes as u64)
    }
}

/// The part, opened so that writes go to the disk itself.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// The disk wants it otherwise.
    is_refused: AtomicBool,
}

impl Direct {
    /// `None` for a small file, and where the file system has no such thing.
    pub(super) fn open(
        folder: &Folder,
        names: &Names,
        part: &File,
        size: FileSize,
    ) -> Option<Self> {
        if size.bytes() < DIRECT_MIN_FILE_BYTES {
            return None;
        }
        let file = platform::open_direct(folder.handle(), &names.part)?;
        // The name may lead elsewhere by now.
        let is_same = platform::is_same_file(part, &file).unwrap_or(false);
        is_same.then_some(Self {
            file,
            is_refused: AtomicBool::new(false),
        })
    }

    /// Writes as much of the beginning as can be, and returns how many bytes that was.
    fn put(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let is_aligned = at.is_multiple_of(DIRECT_ALIGN_BYTES as u64)
            && bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGN_BYTES);
        let whole_bytes = bytes.len() - bytes.len() % DIRECT_ALIGN_BYTES;
        let is_taken = is_aligned
            && whole_bytes >= DIRECT_MIN_BYTES
            && !self.is_refused.load(Ordering::Relaxed);
        if !is_taken {
            return Ok(0);
        }
        match self.file.write_all_at(&bytes[..whole_bytes], at) {
            Ok(()) => Ok(whole_bytes),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                self.is_refused.store(true, Ordering::Relaxed);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}
