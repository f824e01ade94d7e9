//! A partial of which only a stretch is wanted: the chunks around it are fetched, and its bytes
//! alone become a file.
//!
//! The part is laid out like that of the whole file, so a chunk that it has is one of the whole
//! file too. The bytes are copied out of it, and it is removed once they have their name.

use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};

use rustix::fs::OFlags;
use shoal_wire::ChunkLayout;

use super::error::{FinishError, PartialError};
use super::{FinishOptions, Partial, disk, sparse};
use crate::hashing::READ_BLOCK_BYTES;
use crate::{attributes, platform};

/// The positions of the chunks that hold these bytes of a file.
pub(super) fn chunks_around(layout: &ChunkLayout, bytes: &Range<u64>) -> Range<u32> {
    let at = |offset: u64| u32::try_from(offset / layout.chunk_len_bytes()).unwrap_or(u32::MAX);
    let count = layout.chunk_count();
    let start = at(bytes.start).min(count);
    let end = match bytes.end {
        0 => 0,
        end => at(end - 1).saturating_add(1).min(count),
    };
    start..end.max(start)
}

impl Partial {
    /// Whether a file has exactly these bytes of the content, whose chunks are all verified.
    ///
    /// # Errors
    /// When one of the two cannot be read.
    pub fn has_bytes(&self, bytes: &Range<u64>, file: &File) -> io::Result<bool> {
        if file.metadata()?.len() != bytes.end - bytes.start {
            return Ok(false);
        }
        let (mut own, mut other) = (vec![0; READ_BLOCK_BYTES], vec![0; READ_BLOCK_BYTES]);
        let mut at = bytes.start;
        while at < bytes.end {
            let len = block_len(at..bytes.end);
            self.part.read_exact_at(&mut own[..len], at)?;
            file.read_exact_at(&mut other[..len], at - bytes.start)?;
            if own[..len] != other[..len] {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }

    /// Gives these bytes of the content the final name, as a file of their own; `durably` decides
    /// whether they are synced before. The root in `options` is not looked at: the chunks were
    /// verified one by one.
    ///
    /// # Errors
    /// When a chunk of them is missing, the target exists, or there is no room. The partial stays.
    pub fn finish_range(
        self,
        bytes: &Range<u64>,
        options: &FinishOptions,
        durably: bool,
    ) -> Result<(), FinishError> {
        if self.failed || self.is_syncing {
            return Err(FinishError::Failed);
        }
        let wanted = chunks_around(&self.header.layout, bytes);
        let chunks = self.header.layout.indexes();
        let missing = chunks
            .filter(|index| wanted.contains(&index.get()) && !self.is_verified(*index))
            .count();
        if missing > 0 {
            let missing = u32::try_from(missing).unwrap_or(u32::MAX);
            return Err(FinishError::Incomplete { missing });
        }
        let written = self.write_range(bytes, options, durably);
        if written.is_err()
            && let Err(error) = disk::remove(&self.folder, &self.names.temporary)
        {
            tracing::debug!(%error, "a copy of a range was left behind");
        }
        written
    }

    fn write_range(
        &self,
        bytes: &Range<u64>,
        options: &FinishOptions,
        durably: bool,
    ) -> Result<(), FinishError> {
        let needed = bytes.end - bytes.start;
        let refused = |error| FinishError::Disk(PartialError::of(&self.folder, needed, error));
        let is_ours = disk::leads_to(&self.folder, &self.names.part, &self.part);
        if !is_ours.map_err(refused)? {
            return Err(FinishError::PartGone);
        }
        self.make_copy(bytes, options, durably).map_err(refused)?;
        self.rename(&self.names.temporary, options.replace)?;
        if durably {
            platform::sync_folder(self.folder.handle()).map_err(refused)?;
        }
        let wanted = chunks_around(&self.header.layout, bytes);
        let mut others = self.header.layout.indexes();
        if others.any(|index| !wanted.contains(&index.get()) && !self.chunks.is_missing(index)) {
            // They belong to a download of more, which goes on from here.
            return Ok(());
        }
        for name in [&self.names.state, &self.names.part] {
            if let Err(error) = disk::remove(&self.folder, name) {
                tracing::debug!(%error, "the part of a completed range was left behind");
            }
        }
        Ok(())
    }

    fn make_copy(
        &self,
        bytes: &Range<u64>,
        options: &FinishOptions,
        durably: bool,
    ) -> io::Result<()> {
        disk::remove(&self.folder, &self.names.temporary)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let handle = self.folder.handle();
        let copy = platform::open_name(handle, &self.names.temporary, flags, 0o600)?;
        self.copy_range(bytes, &copy)?;
        copy.set_permissions(Permissions::from_mode((options.mode & 0o777) | 0o600))?;
        let times = FileTimes::new().set_modified(attributes::time_of(options.mtime_ns));
        copy.set_times(times)?;
        if durably {
            copy.sync_all()?;
        }
        Ok(())
    }

    fn copy_range(&self, bytes: &Range<u64>, copy: &File) -> io::Result<()> {
        copy.set_len(bytes.end - bytes.start)?;
        let mut block = vec![0; READ_BLOCK_BYTES];
        let mut at = bytes.start;
        while at < bytes.end {
            let len = block_len(at..bytes.end);
            self.part.read_exact_at(&mut block[..len], at)?;
            sparse::write(at - bytes.start, &block[..len], |bytes, at| {
                copy.write_all_at(bytes, at)
            })?;
            at += len as u64;
        }
        Ok(())
    }
}

fn block_len(rest: Range<u64>) -> usize {
    usize::try_from(rest.end - rest.start).map_or(READ_BLOCK_BYTES, |len| len.min(READ_BLOCK_BYTES))
}
