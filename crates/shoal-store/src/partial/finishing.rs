//! Completing a partial: attributes, sync, final name.
//!
//! The final name appears by a rename of the synced part, so it is absent or leads to the whole
//! content. On any error the part stays under its own name, with its chunks recorded.

use std::fs::{FileTimes, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;

use rustix::io::Errno;
use shoal_wire::Hash;

use super::Partial;
use super::disk;
use super::error::{FinishError, PartialError};
use crate::attributes;
use crate::hashing;
use crate::platform;

/// What a completed file is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishOptions {
    /// The root that the content must have, if it is known.
    pub root: Option<Hash>,
    /// Permission bits; only `0o777` of them are kept, and the owner can always read and write.
    pub mode: u32,
    /// Last modification, in nanoseconds since 1970-01-01 UTC.
    pub mtime_ns: i64,
    /// Whether a file that is at the target is replaced.
    pub replace: bool,
}

impl Partial {
    /// Gives the complete content its final name, durably, and returns its root.
    ///
    /// Chunks that were verified but not yet synced are synced with it.
    ///
    /// # Errors
    /// When a chunk is not verified, the root is another, or the target exists. The partial stays.
    pub fn finish(self, options: &FinishOptions) -> Result<Hash, FinishError> {
        self.finish_as(options, true)
    }

    /// As [`Partial::finish`], but nothing is synced: the content is whole under its final name,
    /// and a loss of power in the next seconds may take it, or parts of it.
    ///
    /// # Errors
    /// As [`Partial::finish`].
    pub fn finish_unsynced(self, options: &FinishOptions) -> Result<Hash, FinishError> {
        self.finish_as(options, false)
    }

    fn finish_as(mut self, options: &FinishOptions, durably: bool) -> Result<Hash, FinishError> {
        if self.failed || self.is_syncing {
            return Err(FinishError::Failed);
        }
        let outcome = self.checked_root(options).and_then(|root| {
            self.complete(options, durably)?;
            Ok(root)
        });
        if outcome.is_err() {
            self.keep();
        }
        outcome
    }

    fn checked_root(&self, options: &FinishOptions) -> Result<Hash, FinishError> {
        let indexes = self.layout().indexes();
        let hashes: Vec<Hash> = indexes
            .filter_map(|index| self.chunks.verified(index))
            .collect();
        let missing = self.layout().chunk_count() as usize - hashes.len();
        let actual = hashing::root_of(&self.header.layout, &hashes);
        let Some(actual) = actual else {
            let missing = u32::try_from(missing).unwrap_or(u32::MAX);
            return Err(FinishError::Incomplete { missing });
        };
        let expected = [options.root, self.header.root];
        match expected.into_iter().flatten().find(|root| *root != actual) {
            Some(expected) => Err(FinishError::WrongRoot { expected, actual }),
            None => Ok(actual),
        }
    }

    fn complete(&mut self, options: &FinishOptions, durably: bool) -> Result<(), FinishError> {
        let is_ours = disk::leads_to(&self.folder, &self.names.part, &self.part);
        if !is_ours.map_err(|error| self.refused(error))? {
            return Err(FinishError::PartGone);
        }
        let mode = (options.mode & 0o777) | 0o600;
        let times = FileTimes::new().set_modified(attributes::time_of(options.mtime_ns));
        self.part
            .set_permissions(Permissions::from_mode(mode))
            .and_then(|()| self.part.set_times(times))
            .map_err(|error| self.refused(error))?;
        if durably && let Err(error) = self.part.sync_all() {
            // The next sync would succeed whatever became of the bytes that this one lost.
            self.failed = true;
            return Err(self.refused(error));
        }
        self.rename(&self.names.part, options.replace)?;
        if durably {
            platform::sync_folder(self.folder.handle()).map_err(|error| self.refused(error))?;
        }
        // A state that a crash leaves behind is removed when the target is next opened.
        if let Err(error) = disk::remove(&self.folder, &self.names.state) {
            tracing::debug!(%error, "the state of a completed download was left behind");
        }
        Ok(())
    }

    /// Gives a file of the folder the final name.
    pub(super) fn rename(&self, from: &[u8], replace: bool) -> Result<(), FinishError> {
        let folder = self.folder.handle();
        let target = &self.names.target;
        let renamed = if replace {
            rustix::fs::renameat(folder, from, folder, target).map_err(io::Error::from)
        } else {
            platform::rename_new(folder, from, folder, target)
        };
        renamed.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY) => FinishError::TargetExists,
            _ => self.refused(error),
        })
    }

    /// Nothing more of the content is needed by now: at most a name for it.
    fn refused(&self, error: io::Error) -> FinishError {
        FinishError::Disk(PartialError::of(&self.folder, 0, error))
    }

    /// After an error: what is verified is recorded, and nobody else can read the part.
    fn keep(&mut self) {
        // After the rename the file is the user's, whatever failed then.
        if !disk::leads_to(&self.folder, &self.names.part, &self.part).unwrap_or(false) {
            return;
        }
        if let Err(error) = self.part.set_permissions(Permissions::from_mode(0o600)) {
            tracing::debug!(%error, "the part's permissions could not be set back");
        }
        if self.failed {
            return;
        }
        if let Err(error) = self.sync() {
            tracing::warn!(%error, "verified chunks could not be recorded");
        }
    }
}
