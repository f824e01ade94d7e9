//! The state file on disk: read, begun anew, appended to.
//!
//! The first state of a part begins with its header and room for every record. A new state is
//! written beside the old one, synced and renamed over it, so the name then always leads to a whole
//! file. Whoever calls holds the lock on the part, which also guards the state.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use shoal_wire::{ChunkIndex, ChunkLayout, Hash};

use super::name::Names;
use super::state::{self, Header, Recorded, Sealer};
use crate::folder::Folder;
use crate::platform;

/// A state file that records are appended to.
#[derive(Debug)]
pub(super) struct StateFile {
    file: File,
    sealer: Sealer,
    end_bytes: u64,
    /// Whether neither its header nor its name was synced yet.
    is_new: bool,
}

impl StateFile {
    /// Begins a state where there is none, with room for a record of every chunk, so that a disk
    /// that fills up can still be told of. It is durable with its first [`StateFile::sync`].
    pub(super) fn begin(folder: &Folder, names: &Names, header: &Header) -> io::Result<Self> {
        let (bytes, sealer) = state::begin(header);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mut file = platform::open_name(folder.handle(), &names.state, flags, 0o600)?;
        platform::reserve(&file, state::max_bytes(&header.layout))?;
        file.write_all(&bytes)?;
        Ok(Self {
            file,
            sealer,
            end_bytes: bytes.len() as u64,
            is_new: true,
        })
    }

    /// Replaces whatever state there is, durably, together with every new name in the folder.
    pub(super) fn replace(
        folder: &Folder,
        names: &Names,
        header: &Header,
        chunks: impl Iterator<Item = (ChunkIndex, Hash)>,
    ) -> io::Result<Self> {
        let (mut bytes, sealer) = state::begin(header);
        for (index, hash) in chunks {
            bytes.extend(sealer.record(index, &hash));
        }
        remove(folder, &names.temporary)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mut file = platform::open_name(folder.handle(), &names.temporary, flags, 0o600)?;
        file.write_all(&bytes)?;
        let state = Self {
            file,
            sealer,
            end_bytes: bytes.len() as u64,
            is_new: false,
        };
        state.reserve(&header.layout);
        state.file.sync_all()?;
        let handle = folder.handle();
        rustix::fs::renameat(handle, &names.temporary, handle, &names.state)?;
        platform::sync_folder(handle)?;
        Ok(state)
    }

    /// Opens a state file that is there; `None` if it is missing or does not pass its checks.
    ///
    /// What follows the last sound record is cut off, so that no record behind a torn one comes to
    /// light again when that one is overwritten.
    pub(super) fn read(
        folder: &Folder,
        names: &Names,
        layout: &ChunkLayout,
    ) -> io::Result<Option<(Self, Recorded)>> {
        let opened = platform::open_name(folder.handle(), &names.state, OFlags::RDWR, 0);
        let file = match opened {
            Ok(file) if file.metadata()?.is_file() => file,
            Ok(_) => return Ok(None),
            Err(error) => {
                return match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Ok(None),
                    _ => Err(error),
                };
            }
        };
        let mut bytes = Vec::new();
        (&file)
            .take(state::max_bytes(layout))
            .read_to_end(&mut bytes)?;
        let Some(recorded) = state::read(&bytes) else {
            return Ok(None);
        };
        if file.metadata()?.len() > recorded.end_bytes {
            file.set_len(recorded.end_bytes)?;
        }
        // What is believed from now on, and its name, may not have been synced before a crash.
        file.sync_all()?;
        platform::sync_folder(folder.handle())?;
        let state = Self {
            file,
            sealer: recorded.sealer,
            end_bytes: recorded.end_bytes,
            is_new: false,
        };
        state.reserve(layout);
        Ok(Some((state, recorded)))
    }

    /// Sets room aside for the records that are still to come. A disk without it may still have
    /// room for what a resumed download lacks, so it is no error here.
    fn reserve(&self, layout: &ChunkLayout) {
        if let Err(error) = platform::reserve(&self.file, state::max_bytes(layout)) {
            tracing::debug!(%error, "no room is set aside for the state of a download");
        }
    }

    /// Whether it was never synced.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Writes records after the last sound one; they count once [`StateFile::sync`] succeeds.
    pub(super) fn append(&mut self, chunks: &[(ChunkIndex, Hash)]) -> io::Result<()> {
        let records: Vec<u8> = chunks
            .iter()
            .flat_map(|(index, hash)| self.sealer.record(*index, hash))
            .collect();
        self.file.write_all_at(&records, self.end_bytes)?;
        self.end_bytes += records.len() as u64;
        Ok(())
    }

    /// Makes appended records durable, with a new state's name and every other new one.
    pub(super) fn sync(&mut self, folder: &Folder) -> io::Result<()> {
        if !self.is_new {
            return self.file.sync_data();
        }
        self.file.sync_all()?;
        platform::sync_folder(folder.handle())?;
        self.is_new = false;
        Ok(())
    }
}

/// Removes a name, if it is there.
pub(super) fn remove(folder: &Folder, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::unlinkat(folder.handle(), name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a name in the folder leads to this open file.
pub(super) fn leads_to(folder: &Folder, name: &[u8], file: &File) -> io::Result<bool> {
    let named = match platform::open_name(folder.handle(), name, OFlags::RDONLY, 0) {
        Ok(named) => named,
        Err(error) => {
            return match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(false),
                _ => Err(error),
            };
        }
    };
    platform::is_same_file(&named, file)
}
