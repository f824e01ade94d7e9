//! Files whose attributes change while they are served.
//!
//! A second name, other permissions or a set time of reading change a file's attributes and not its
//! content; but so does whoever writes to it and sets its times back. Such a file is hashed again
//! beside the transfer. Meanwhile a chunk of a known hash leaves only if it has that hash, and what
//! is served without hashes is not called complete before the check is over.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::time::Duration;

use shoal_store::folder::{FileStat, Folder, stat_of};
use shoal_store::hashing::HashFileError;
use shoal_wire::{ChunkIndex, Refusal};

use super::serving::Serving;
use super::{Provide, Stop, refuse};

/// How long a transfer of a file with known hashes waits for its check, in all: well below the
/// time after which a receiver takes silence for a fault. It verifies every chunk itself.
const CHECK_WAIT: Duration = Duration::from_secs(5);

impl Provide {
    /// The same file must still lie at its path, for another one may have been renamed over it,
    /// with the content that was sent.
    pub(super) async fn confirm_unchanged(&self, serving: &Serving) -> Result<(), Stop> {
        let shared = &serving.shared;
        let stat = self.reach(shared, Folder::stat).await?;
        if stat.version() != shared.stat.version() {
            return Err(self.withdrawn(shared));
        }
        if self.is_trusted(serving, &stat)? {
            return Ok(());
        }
        let check = self.share.begin_check(&shared.entry.path, &stat);
        let checked = match &serving.hashes {
            None => check.ended().await,
            Some(_) => {
                let deadline = serving.doubted() + CHECK_WAIT;
                match tokio::time::timeout_at(deadline, check.ended()).await {
                    Ok(checked) => checked,
                    Err(_) => return Ok(()),
                }
            }
        };
        match checked {
            Some(hashes) if serving.agrees_with(&hashes) => {
                serving.trust(&stat);
                Ok(())
            }
            // What it is instead is offered already.
            Some(_) => Err(refuse(Refusal::SourceChanged, &shared.entry.path)),
            None => Err(self.withdrawn(shared)),
        }
    }

    /// Whether a file with these attributes is known to have the content that is served. Where it is
    /// not, that is being found out.
    pub(super) fn is_trusted(&self, serving: &Serving, stat: &FileStat) -> Result<bool, Stop> {
        if serving.trusts(stat) {
            return Ok(true);
        }
        let Some(hashes) = &serving.hashes else {
            return Ok(false);
        };
        let path = &serving.shared.entry.path;
        match self.share.checked_root(path, stat) {
            Some(root) if root == hashes.root() => {
                serving.trust(stat);
                Ok(true)
            }
            Some(_) => Err(refuse(Refusal::SourceChanged, path)),
            None => {
                self.share.begin_check(path, stat);
                Ok(false)
            }
        }
    }
}

impl Serving {
    /// Compares the open file with what was announced after some of a chunk was read: what was read
    /// is of that version. With what the disk says of it. Blocks.
    ///
    /// # Errors
    /// `UnexpectedEof` where it is another version, or the chunk has another hash than it had.
    pub(super) fn look(&self, file: &File, index: ChunkIndex) -> io::Result<FileStat> {
        let changed = || io::Error::from(ErrorKind::UnexpectedEof);
        let stat = stat_of(file)?;
        if stat.version() != self.shared.stat.version() {
            return Err(changed());
        }
        if let Some(hashes) = &self.hashes
            && !self.trusts(&stat)
            && !self.has_verified(index, &stat)
        {
            match hashes.has_chunk(index, file) {
                Ok(true) => self.verified(index, &stat),
                Ok(false) | Err(HashFileError::SizeChanged | HashFileError::Cancelled) => {
                    return Err(changed());
                }
                Err(HashFileError::Read(error)) => return Err(error),
            }
        }
        Ok(stat)
    }
}
