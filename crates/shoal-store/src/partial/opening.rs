//! Opening a partial: the lock, what is resumed, what is begun anew.
//!
//! The part is the lock: whoever holds it, and sees the part's name still lead to it, may touch
//! part and state. An old state is removed durably before a part that it does not describe is
//! written. Bytes that a part has and no record vouches for stay where they are: a search may
//! confirm them, and whatever is written to their chunk clears them first.

use std::fs::{File, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use shoal_wire::SafePath;

use super::chunks::ChunkState;
use super::disk::{self, StateFile};
use super::error::PartialError;
use super::name::{Names, is_partial_name};
use super::slicing::chunks_around;
use super::state::{Header, Recorded};
use super::{Content, Partial, Source};
use crate::folder::Folder;
use crate::platform;

/// How often the part may vanish under us before the target counts as busy: each time, another
/// process completed the same target between two of our calls.
const OPEN_ATTEMPTS: u32 = 16;

impl Partial {
    /// Opens the partial of a target in `folder`, or begins one.
    ///
    /// Folders above the target are created. Chunks of the same content are resumed, also those
    /// of a partial that was begun from `also`, another source of it; they count once they were
    /// hashed again, by [`Partial::begin_recheck`]. A partial of other content
    /// at the same target is taken over, and so is one whose state is missing or damaged: none of
    /// its chunks counts until [`Partial::search`] finds that it is one of this content.
    ///
    /// # Errors
    /// Before anything received is touched: when it is open elsewhere, when the disk has too
    /// little room for what is missing, or when the folder cannot be used.
    pub fn open(
        folder: &Folder,
        target: &SafePath,
        content: &Content,
        also: Option<Source>,
    ) -> Result<Self, PartialError> {
        let wanted = 0..content.layout.chunk_count();
        let wish = Wish {
            content,
            also,
            wanted,
        };
        wish.open(folder, target)
    }

    /// The same where only the chunks around these bytes of the content are needed.
    ///
    /// # Errors
    /// As [`Partial::open`].
    pub fn open_range(
        folder: &Folder,
        target: &SafePath,
        content: &Content,
        also: Option<Source>,
        bytes: &Range<u64>,
    ) -> Result<Self, PartialError> {
        let wanted = chunks_around(&content.layout, bytes);
        let wish = Wish {
            content,
            also,
            wanted,
        };
        wish.open(folder, target)
    }

    /// Removes a state that does not describe the part, and begins one where chunks can be durable
    /// before the file is complete.
    fn begin_anew(&mut self) -> io::Result<()> {
        if disk::remove(&self.folder, &self.names.state)? {
            platform::sync_folder(self.folder.handle())?;
        }
        self.part.set_permissions(Permissions::from_mode(0o600))?;
        self.part.set_len(self.header.layout.size().bytes())?;
        self.find_strays()?;
        if self.header.layout.chunk_count() > 1 {
            self.state = Some(StateFile::begin(&self.folder, &self.names, &self.header)?);
        }
        Ok(())
    }

    /// Takes over what an earlier process recorded, as claims.
    fn resume(&mut self, recorded: &Recorded, part_bytes: u64) -> Result<(), PartialError> {
        for (index, hash) in &recorded.chunks {
            self.chunks.set_state(*index, ChunkState::Recorded(*hash));
        }
        let size = self.header.layout.size().bytes();
        let needed = self.chunks.unrecorded_bytes();
        let prepared = (|| {
            self.part.set_permissions(Permissions::from_mode(0o600))?;
            if part_bytes != size {
                self.part.set_len(size)?;
            }
            self.find_strays()
        })();
        prepared.map_err(|error| PartialError::of(&self.folder, needed, error))?;
        // What is written over bytes that are there already takes no more room.
        check_room(&self.folder, needed, self.stray_bytes())
    }
}

/// What is to be downloaded.
struct Wish<'a> {
    content: &'a Content,
    also: Option<Source>,
    /// Positions of the chunks that are needed.
    wanted: Range<u32>,
}

impl Wish<'_> {
    fn open(&self, folder: &Folder, target: &SafePath) -> Result<Partial, PartialError> {
        if target.names().any(is_partial_name) {
            return Err(PartialError::ReservedName);
        }
        let folder = match target.parent() {
            Some(parent) => folder.open_or_create(&parent)?,
            None => {
                folder.check_target(target)?;
                folder.clone()
            }
        };
        let names = Names::of(target.file_name());
        let needed = self.needed_bytes();
        for _ in 0..OPEN_ATTEMPTS {
            let found = find_part(&folder, &names)
                .map_err(|error| PartialError::of(&folder, needed, error))?;
            let opened = match found {
                Found::Locked(part) => self.take_up((folder.clone(), names, part)),
                Found::Missing => {
                    check_room(&folder, needed, 0)?;
                    match create_part(&folder, &names) {
                        Ok(Some(part)) => self.take_up((folder.clone(), names, part)),
                        Ok(None) => continue,
                        Err(error) => Err(PartialError::of(&folder, needed, error)),
                    }
                }
                Found::Gone => continue,
                Found::Busy => Err(PartialError::Busy),
                Found::Foreign => Err(PartialError::Blocked {
                    path: folder.path().to_owned(),
                }),
            };
            return opened;
        }
        Err(PartialError::Busy)
    }

    /// Goes on from a locked part: resumes it if its state is of this content, else takes it over.
    fn take_up(
        &self,
        (folder, names, part): (Folder, Names, File),
    ) -> Result<Partial, PartialError> {
        let needed = self.needed_bytes();
        let failed = |error| PartialError::of(&folder, needed, error);
        // A crash may have left records that were about to replace others.
        disk::remove(&folder, &names.temporary).map_err(failed)?;
        let read = StateFile::read(&folder, &names, &self.content.layout).map_err(failed)?;
        let metadata = part.metadata().map_err(failed)?;
        match read {
            Some((state, recorded)) if recorded.header.is_of_either(self.content, self.also) => {
                let header = recorded.header.clone();
                let mut partial = Partial::new((folder, names), part, header, self.wanted.clone());
                partial.state = Some(state);
                partial.resume(&recorded, metadata.len())?;
                Ok(partial)
            }
            old => {
                // The blocks of the part that is replaced become free.
                check_room(&folder, needed, metadata.blocks().saturating_mul(512))?;
                if old.is_some_and(|(_, recorded)| !recorded.chunks.is_empty()) {
                    tracing::info!(
                        folder = %folder.path().display(),
                        "an unfinished download of other content is replaced"
                    );
                }
                let header = Header::of(self.content);
                let mut partial = Partial::new((folder, names), part, header, self.wanted.clone());
                partial
                    .begin_anew()
                    .map_err(|error| PartialError::of(&partial.folder, needed, error))?;
                Ok(partial)
            }
        }
    }

    fn needed_bytes(&self) -> u64 {
        let layout = self.content.layout;
        let wanted = layout
            .indexes()
            .filter(|at| self.wanted.contains(&at.get()));
        wanted.map(|index| layout.len_bytes(index)).sum()
    }
}

/// Removes the records that a crash left beside a finished file: after its part got the final name,
/// before they went. Where there is a part, they are that download's and stay.
pub fn remove_left_state(folder: &Folder, target: &SafePath) {
    let parent = target.parent().map(|parent| folder.subfolder(&parent));
    let Ok(parent) = parent.transpose() else {
        return;
    };
    let folder = parent.as_ref().unwrap_or(folder);
    let names = Names::of(target.file_name());
    if !matches!(find_part(folder, &names), Ok(Found::Missing)) {
        return;
    }
    for name in [&names.state, &names.temporary] {
        if let Err(error) = disk::remove(folder, name) {
            tracing::debug!(%error, "records of a finished download were left behind");
        }
    }
}

enum Found {
    Locked(File),
    Missing,
    Gone,
    Busy,
    Foreign,
}

fn find_part(folder: &Folder, names: &Names) -> io::Result<Found> {
    let opened = platform::open_name(folder.handle(), &names.part, OFlags::RDWR, 0);
    let part = match opened {
        Ok(part) => part,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    if !part.metadata()?.is_file() {
        return Ok(Found::Foreign);
    }
    if !lock(&part)? {
        return Ok(Found::Busy);
    }
    if !disk::leads_to(folder, &names.part, &part)? {
        return Ok(Found::Gone);
    }
    if part.metadata()?.nlink() > 1 {
        // A crash between the two steps of a rename: the other name has the finished file.
        disk::remove(folder, &names.part)?;
        return Ok(Found::Gone);
    }
    Ok(Found::Locked(part))
}

/// Creates and locks the part; `None` if another process was faster.
fn create_part(folder: &Folder, names: &Names) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let part = match platform::open_name(folder.handle(), &names.part, flags, 0o600) {
        Ok(part) => part,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(error),
    };
    if !lock(&part)? || !disk::leads_to(folder, &names.part, &part)? {
        return Ok(None);
    }
    if disk::remove(folder, &names.state)? {
        platform::sync_folder(folder.handle())?;
    }
    Ok(Some(part))
}

fn lock(part: &File) -> io::Result<bool> {
    match rustix::fs::flock(part, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn check_room(folder: &Folder, needed: u64, reclaimed: u64) -> Result<(), PartialError> {
    let free = folder
        .free_bytes()
        .map_err(|error| PartialError::of(folder, needed, error))?;
    let available = free.saturating_add(reclaimed);
    if needed > available {
        return Err(PartialError::NoSpace { needed, available });
    }
    Ok(())
}
