//! A sync that runs beside the writing: what it makes durable is fixed when it begins.
//!
//! [`Partial::begin_sync`] takes the verified chunks of that moment, [`Syncing::run`] syncs their
//! data, records them and syncs the record, and [`Partial::end_sync`] lets them count. In between
//! the partial takes further chunks; they belong to the next sync. There is one at a time, because
//! it holds the state file.

use std::fs::File;
use std::io;
use std::sync::Arc;

use shoal_wire::{ChunkIndex, Hash};

use super::Partial;
use super::chunks::ChunkState;
use super::disk::{self, StateFile};
use super::error::PartialError;
use super::name::Names;
use super::state::Header;
use crate::folder::Folder;

/// A sync that has begun. Dropped unrun, or its outcome lost, it leaves the partial without its
/// state file: every later call fails, and the partial must be opened again.
#[derive(Debug)]
pub struct Syncing {
    folder: Folder,
    names: Names,
    header: Header,
    part: Arc<File>,
    state: Option<StateFile>,
    chunks: Vec<(ChunkIndex, Hash)>,
}

/// A sync that has ended, to be given back to its partial.
#[derive(Debug)]
pub struct Synced {
    state: Option<StateFile>,
    chunks: Vec<(ChunkIndex, Hash)>,
    outcome: Result<(), SyncFailure>,
}

#[derive(Debug)]
enum SyncFailure {
    /// What is on the disk is unknown.
    Disk(io::Error),
    /// The data is durable; its record did not fit or could not be written.
    Record(io::Error),
    /// The part's name leads elsewhere.
    PartGone,
}

impl Syncing {
    /// Syncs the data, then its record.
    pub fn run(mut self) -> Synced {
        let outcome = self.sync();
        Synced {
            state: self.state,
            chunks: self.chunks,
            outcome,
        }
    }

    fn sync(&mut self) -> Result<(), SyncFailure> {
        self.part.sync_data().map_err(SyncFailure::Disk)?;
        if self.state.as_ref().is_none_or(StateFile::is_new) {
            // The state's name is ours only as long as the part's name leads to our part.
            match disk::leads_to(&self.folder, &self.names.part, &self.part) {
                Ok(true) => {}
                Ok(false) => return Err(SyncFailure::PartGone),
                Err(error) => return Err(SyncFailure::Disk(error)),
            }
        }
        if let Some(state) = &mut self.state {
            state.append(&self.chunks).map_err(SyncFailure::Record)?;
            return state.sync(&self.folder).map_err(SyncFailure::Disk);
        }
        let chunks = self.chunks.iter().copied();
        let state = StateFile::replace(&self.folder, &self.names, &self.header, chunks)
            .map_err(SyncFailure::Record)?;
        self.state = Some(state);
        Ok(())
    }
}

impl Partial {
    /// Begins to make every verified chunk durable; `None` when there is none that is not.
    ///
    /// # Errors
    /// While another sync is under way, or after a failed one.
    pub fn begin_sync(&mut self) -> Result<Option<Syncing>, PartialError> {
        self.check_settled()?;
        if self.pending.is_empty() {
            return Ok(None);
        }
        self.is_syncing = true;
        Ok(Some(Syncing {
            folder: self.folder.clone(),
            names: self.names.clone(),
            header: self.header.clone(),
            part: Arc::clone(&self.part),
            state: self.state.take(),
            chunks: std::mem::take(&mut self.pending),
        }))
    }

    /// Takes a sync back: its chunks are durable now. Returns how many are, in all.
    ///
    /// # Errors
    /// As [`Partial::sync`].
    pub fn end_sync(&mut self, synced: Synced) -> Result<u32, PartialError> {
        self.is_syncing = false;
        self.state = synced.state;
        let error = match synced.outcome {
            Ok(()) => {
                for (index, hash) in synced.chunks {
                    self.chunks.set_state(index, ChunkState::Durable(hash));
                }
                return Ok(self.chunks.durable_count());
            }
            Err(SyncFailure::Record(error)) => {
                self.pending.splice(..0, synced.chunks);
                self.error_unless_room(error)
            }
            Err(SyncFailure::Disk(error)) => {
                self.failed = true;
                self.error_of(error)
            }
            Err(SyncFailure::PartGone) => {
                self.failed = true;
                PartialError::PartGone
            }
        };
        Err(error)
    }

    /// Makes every verified chunk durable; returns how many are, in all.
    ///
    /// # Errors
    /// A failed sync is final: what is on the disk is then unknown, so every later call fails too
    /// and the partial must be opened again. After [`PartialError::NoSpace`] or [`PartialError::Exhausted`] from the state file
    /// alone the call may be repeated.
    pub fn sync(&mut self) -> Result<u32, PartialError> {
        match self.begin_sync()? {
            Some(syncing) => self.end_sync(syncing.run()),
            None => Ok(self.chunks.durable_count()),
        }
    }

    /// For what needs the state file: it is not away with a sync.
    pub(super) fn check_settled(&self) -> Result<(), PartialError> {
        if self.is_syncing {
            return Err(PartialError::Failed);
        }
        self.check_usable()
    }
}
