//! Why a download cannot go on, or cannot be completed.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use shoal_wire::Hash;

use crate::folder::{Folder, FolderError};

/// Why a partial cannot be opened, written or synced.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// Another download, perhaps of another process, is writing the same target.
    #[error("another download is writing this file: wait for it or stop it")]
    Busy,
    /// The disk has too little room for what is missing.
    #[error(
        "the disk is full: {needed} bytes are needed, {available} are free; make room and resume"
    )]
    NoSpace {
        /// What the missing chunks take, in bytes.
        needed: u64,
        /// What is free, in bytes.
        available: u64,
    },
    /// The disk has room and takes no more all the same: it is out of names, or this user's quota
    /// is used up.
    #[error(
        "the disk of {} takes nothing more: it is out of file names (see df -i) or your quota is used up; remove files and resume",
        path.display()
    )]
    Exhausted {
        /// The folder.
        path: PathBuf,
    },
    /// This process may not open another file.
    #[error(
        "too many files are open: raise the limit (ulimit -n) or fetch less at once, then resume"
    )]
    TooManyOpen,
    /// This user may not write there, or the disk is mounted read-only.
    #[error("{} may not be written: check its permissions and that its disk is writable", path.display())]
    Denied {
        /// The folder.
        path: PathBuf,
    },
    /// The folder does not exist, or exists no longer.
    #[error("{} is gone: create it again or name another folder", path.display())]
    FolderGone {
        /// The folder.
        path: PathBuf,
    },
    /// It would lie where a node keeps its keys and state.
    #[error(
        "{} is where shoal keeps its keys and state, as .shoal-state or identity.pem in it or above it says: name another folder",
        path.display()
    )]
    Private {
        /// The folder.
        path: PathBuf,
    },
    /// A link or something else that is not ours is where a folder or the part should be.
    #[error("something else is in the way in {}: move it away", path.display())]
    Blocked {
        /// The folder.
        path: PathBuf,
    },
    /// The target has a name of the kind that unfinished files have.
    #[error("this name is kept for unfinished files: ask for the file under another name")]
    ReservedName,
    /// The bytes do not lie inside the chunk, or the chunk is not yet verified.
    #[error("the bytes lie outside the chunk or the chunk is not verified")]
    OutOfChunk,
    /// The hash list is of another file than this partial.
    #[error("the hash list is of another file")]
    WrongList,
    /// The part was renamed, replaced or removed while it was written.
    #[error("the unfinished file was taken away: download again")]
    PartGone,
    /// An earlier sync failed, so it is not known what is on the disk.
    #[error("an earlier write to the disk failed: open the download again")]
    Failed,
    /// Something else failed.
    #[error("{} cannot be written: {source}; check its disk, then resume", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// What anything that is written takes at least, in bytes.
const BLOCK_BYTES: u64 = 4096;

impl PartialError {
    /// Sorts what the system answered; `needed` is what the missing chunks take, in bytes.
    pub fn of(folder: &Folder, needed: u64, source: io::Error) -> Self {
        let path = folder.path().to_owned();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let needed = needed.max(BLOCK_BYTES);
                let available = folder.free_bytes().unwrap_or(0);
                if needed > available {
                    Self::NoSpace { needed, available }
                } else {
                    Self::Exhausted { path }
                }
            }
            Some(Errno::MFILE | Errno::NFILE) => Self::TooManyOpen,
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Self::Denied { path },
            Some(Errno::NOENT) => Self::FolderGone { path },
            Some(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO) => {
                Self::Blocked { path }
            }
            _ => Self::Io { path, source },
        }
    }
}

impl From<FolderError> for PartialError {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::Missing { path } => Self::FolderGone { path },
            FolderError::Denied { path } => Self::Denied { path },
            FolderError::NotAFolder { path } => Self::Blocked { path },
            FolderError::Private { path } => Self::Private { path },
            FolderError::ReservedName { .. } => Self::ReservedName,
            FolderError::Other { path, source } => match Errno::from_io_error(&source) {
                // A folder takes a name and a block.
                Some(Errno::NOSPC | Errno::DQUOT) => Self::Exhausted { path },
                Some(Errno::MFILE | Errno::NFILE) => Self::TooManyOpen,
                _ => Self::Io { path, source },
            },
        }
    }
}

/// Why a download was not given its final name; what was received stays on disk.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// Something is at the target already and is not to be replaced.
    #[error("a file of this name exists: move it away, or ask to replace it")]
    TargetExists,
    /// Chunks are missing.
    #[error("{missing} chunks are missing: resume the download")]
    Incomplete {
        /// How many.
        missing: u32,
    },
    /// The content is not what was asked for.
    #[error("the content is {actual}, not {expected}: fetch it from another source")]
    WrongRoot {
        /// The root that was asked for.
        expected: Hash,
        /// The root of what was received.
        actual: Hash,
    },
    /// The part was renamed, replaced or removed while it was written.
    #[error("the unfinished file was taken away: download again")]
    PartGone,
    /// An earlier sync failed, so it is not known what is on the disk.
    #[error("an earlier write to the disk failed: open the download again")]
    Failed,
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] PartialError),
}
