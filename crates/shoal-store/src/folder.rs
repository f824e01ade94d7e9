//! The one way from remote names to local files: beneath an open folder, never through a link.
//!
//! A [`Folder`] is a handle, not a path: renaming the folder, or putting a link in its place,
//! does not lead anything elsewhere. It takes only [`SafePath`]s, opens only regular files, and
//! cannot hang on a pipe. Nothing is made in or below a [private](crate::private) folder. It does
//! not watch folders.

mod listing;

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use shoal_wire::manifest::{Extras, LinkTarget};
use shoal_wire::{FileSize, SafePath};

use crate::partial::is_partial_name;
use crate::{attributes, platform, private};

pub use listing::{Kind, Listing};

const FOLDER_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// What the system says of a file. Two stats that differ may be of one [version](FileVersion).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Length, in bytes.
    pub size: u64,
    /// Last change of the content, in nanoseconds since 1970-01-01 UTC.
    pub mtime_ns: i64,
    /// Last change of the content or the attributes, in nanoseconds since 1970-01-01 UTC.
    pub ctime_ns: i64,
    /// The file system's number.
    pub device: u64,
    /// The file's number in its file system.
    pub inode: u64,
    /// Kind and permission bits.
    pub mode: u32,
}

/// What tells one version of a file from another. Another time of its last change of attributes is
/// no other version: a second name, other permissions or a reader may have caused it. It may also
/// be that the content was changed and the time of that set back, so it asks for a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    mtime_ns: i64,
}

impl FileStat {
    /// Which version of which file it is.
    pub fn version(&self) -> FileVersion {
        FileVersion {
            device: self.device,
            inode: self.inode,
            size: self.size,
            mtime_ns: self.mtime_ns,
        }
    }

    /// The size as something that can be announced; `None` over the limit.
    pub fn entry_size(&self) -> Option<FileSize> {
        FileSize::new(self.size)
    }
}

/// Asks an open file what version it is.
///
/// # Errors
/// What the system answers.
pub fn stat_of(file: &File) -> io::Result<FileStat> {
    Ok(FileStat::from(&file.metadata()?))
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It does not exist, or exists no longer.
    #[error("{} does not exist: create it or name another folder", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// This user may not use it, or its disk is mounted read-only.
    #[error("{} may not be used: check its permissions and that its disk is writable", path.display())]
    Denied {
        /// The folder.
        path: PathBuf,
    },
    /// A file is in its place, or a link where none is followed.
    #[error("{} is not a folder: move what is there away or name another folder", path.display())]
    NotAFolder {
        /// The folder.
        path: PathBuf,
    },
    /// It holds a node's keys and state, or lies below such a folder.
    #[error(
        "{} is where shoal keeps its keys and state, as .shoal-state or identity.pem in it or above it says: name another folder",
        path.display()
    )]
    Private {
        /// The folder.
        path: PathBuf,
    },
    /// A name in the path is of the kind that unfinished files and private folders have.
    #[error("{} has a name that is kept for shoal's own files: name another one", path.display())]
    ReservedName {
        /// What was to be made.
        path: PathBuf,
    },
    /// Something else failed.
    #[error("{} cannot be used: check its disk", path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl FolderError {
    pub(crate) fn of(path: PathBuf, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT) => Self::Missing { path },
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Self::Denied { path },
            Some(Errno::NOTDIR | Errno::LOOP | Errno::EXIST | Errno::XDEV) => {
                Self::NotAFolder { path }
            }
            _ => Self::Other { path, source },
        }
    }
}

/// Why a file in a folder is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is at the path.
    #[error("no such file")]
    NotFound,
    /// A folder, pipe, socket or device is at the path.
    #[error("not a regular file: only regular files can be sent")]
    NotRegular,
    /// This user may not read it.
    #[error("permission denied: check who may read the file")]
    Denied,
    /// The path leads through a link, which is never followed.
    #[error("the path leads through a symbolic link: name the file itself")]
    Symlink,
    /// This process may not open another file.
    #[error("too many files are open here: raise the limit (ulimit -n)")]
    TooManyOpen,
    /// Something else failed.
    #[error("the file cannot be opened: check its disk")]
    Other(#[source] io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) => Self::NotFound,
            Some(Errno::LOOP | Errno::XDEV) => Self::Symlink,
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied,
            Some(Errno::NXIO | Errno::NODEV | Errno::ISDIR) => Self::NotRegular,
            Some(Errno::MFILE | Errno::NFILE) => Self::TooManyOpen,
            _ => Self::Other(error),
        }
    }
}

/// An open folder; clones share its handle.
#[derive(Debug, Clone)]
pub struct Folder(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    handle: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder that a person named; links in `path` itself are theirs and are followed.
    ///
    /// # Errors
    /// When it is missing, may not be read, is no folder, or is private or below what is.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let folder = Self::open_own(path)?;
        Self::refuse_private(folder.handle(), None, path)?;
        Ok(folder)
    }

    /// Opens a folder that this program made for its own use: it may lie below a private one.
    ///
    /// # Errors
    /// When it is missing, may not be read, or is no folder.
    pub fn open_own(path: &Path) -> Result<Self, FolderError> {
        rustix::fs::open(path, FOLDER_FLAGS, Mode::empty())
            .map(|handle| Self::new(handle, path.to_owned()))
            .map_err(|error| FolderError::of(path.to_owned(), error.into()))
    }

    /// Opens a folder, created with its parents if it is missing.
    ///
    /// # Errors
    /// When it can be neither opened nor created, or would be below a private folder.
    pub fn create(path: &Path) -> Result<Self, FolderError> {
        let here = Path::new(".");
        let mut above = path
            .ancestors()
            .map(|above| match above.as_os_str().is_empty() {
                true => here,
                false => above,
            });
        if let Some(above) = above.find(|above| above.is_dir()) {
            Self::open(above).map_err(|error| match error {
                FolderError::Private { .. } => FolderError::Private {
                    path: path.to_owned(),
                },
                error => error,
            })?;
        }
        std::fs::create_dir_all(path).map_err(|error| FolderError::of(path.to_owned(), error))?;
        Self::open(path)
    }

    /// Whether another handle is of the same folder, whatever its name.
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |folder: &Self| {
            let stat = rustix::fs::fstat(folder.handle());
            stat.map(|stat| (stat.st_dev, stat.st_ino)).ok()
        };
        identity(self).is_some_and(|own| identity(other) == Some(own))
    }

    /// The path by which it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When there is none, it may not be read, or the path leads through a link.
    pub fn open_file(&self, path: &SafePath) -> Result<(File, FileStat), OpenError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        self.open_regular(path, flags)
    }

    /// Refuses a path at which nothing may be made because of a name in it.
    ///
    /// # Errors
    /// [`FolderError::ReservedName`].
    pub fn check_name(&self, path: &SafePath) -> Result<(), FolderError> {
        if path.names().any(is_partial_name) {
            let path = self.path_of(path);
            return Err(FolderError::ReservedName { path });
        }
        Ok(())
    }

    /// Refuses a path at which nothing may be made because it lies in a private folder, as far as
    /// the folders of the path are there.
    ///
    /// # Errors
    /// [`FolderError::Private`], or why that cannot be told.
    pub fn check_target(&self, path: &SafePath) -> Result<(), FolderError> {
        let mut above = path.parent();
        while let Some(folder) = above {
            match self.subfolder(&folder) {
                Ok(opened) => {
                    let handle = opened.handle();
                    return Self::refuse_private(handle, Some(self.handle()), opened.path());
                }
                // Whoever makes the rest of the way is told what is in the way.
                Err(_) => above = folder.parent(),
            }
        }
        Self::refuse_private(self.handle(), Some(self.handle()), self.path())
    }

    /// Asks which version of a regular file is at a path, without reading it.
    ///
    /// # Errors
    /// As [`Folder::open_file`], though a file that may not be read can still be asked about.
    pub fn stat(&self, path: &SafePath) -> Result<FileStat, OpenError> {
        Ok(self.open_regular(path, platform::PROBE_FLAGS)?.1)
    }

    /// Whether anything is at a path: a file, a folder, a link, or something out of reach.
    pub fn exists(&self, path: &SafePath) -> bool {
        !matches!(self.stat(path), Err(OpenError::NotFound))
    }

    /// What the symbolic link at a path holds; `None` if there is no link.
    pub fn read_link(&self, path: &SafePath) -> Option<LinkTarget> {
        let parent = path.parent();
        let opened = parent
            .map(|parent| self.subfolder(&parent))
            .transpose()
            .ok()?;
        let folder = opened.as_ref().unwrap_or(self);
        let held = rustix::fs::readlinkat(folder.handle(), path.file_name(), Vec::new()).ok()?;
        LinkTarget::new(held.as_bytes())
    }

    /// Creates the folder at a path, with the folders above it, durably.
    ///
    /// # Errors
    /// When a file or a link is in the way, or the system refuses.
    pub fn create_dirs(&self, path: &SafePath) -> Result<(), FolderError> {
        self.open_or_create(path).map(drop)
    }

    /// How much room this user has left on the folder's file system, in bytes.
    ///
    /// # Errors
    /// What the system answers.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let figures = rustix::fs::fstatvfs(&self.0.handle)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    /// Opens the folder at a path.
    ///
    /// # Errors
    /// When it is missing, may not be read, or is no folder.
    pub fn subfolder(&self, path: &SafePath) -> Result<Self, FolderError> {
        let full_path = self.path_of(path);
        platform::open_beneath(self.handle(), path.as_bytes(), FOLDER_FLAGS)
            .map(|handle| Self::new(handle, full_path.clone()))
            .map_err(|error| FolderError::of(full_path, error))
    }

    /// Opens the folder at a path, created with the folders above it if it is missing; that they
    /// are durable is up to the caller. Tells whether it was missing.
    ///
    /// # Errors
    /// When a file or a link is in the way, or the system refuses.
    pub fn make_subfolder(&self, path: &SafePath) -> Result<(Self, bool), FolderError> {
        self.open_or_make(path, |_| Ok(()))
    }

    /// What is wanted of the folder itself.
    pub fn extras(&self, wanted: attributes::Wanted) -> Extras {
        attributes::read_extras(self.handle(), wanted)
    }

    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.0.handle.as_fd()
    }

    /// Opens the folder at a path, created with the folders above it if it is missing.
    pub(crate) fn open_or_create(&self, path: &SafePath) -> Result<Self, FolderError> {
        let (folder, _) = self.open_or_make(path, platform::sync_folder)?;
        Ok(folder)
    }

    /// The full path of something in it, for messages.
    pub fn path_of(&self, path: &SafePath) -> PathBuf {
        let below = std::ffi::OsStr::from_bytes(path.as_bytes());
        self.0.path.join(below)
    }

    fn open_or_make(
        &self,
        path: &SafePath,
        created: impl Fn(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<(Self, bool), FolderError> {
        self.check_name(path)?;
        match self.subfolder(path) {
            Err(FolderError::Missing { .. }) => {}
            opened => {
                let opened = opened?;
                Self::refuse_private(opened.handle(), Some(self.handle()), opened.path())?;
                return Ok((opened, false));
            }
        }
        self.check_target(path)?;
        let full_path = self.path_of(path);
        self.create_each(path, created)
            .map(|handle| (Self::new(handle, full_path.clone()), true))
            .map_err(|error| FolderError::of(full_path, error))
    }

    fn refuse_private(
        folder: BorrowedFd<'_>,
        top: Option<BorrowedFd<'_>>,
        path: &Path,
    ) -> Result<(), FolderError> {
        match private::is_within_private(folder, top) {
            Ok(false) => Ok(()),
            Ok(true) => Err(FolderError::Private {
                path: path.to_owned(),
            }),
            Err(error) => Err(FolderError::of(path.to_owned(), error)),
        }
    }

    /// Creates what is missing of a path; `created` is told of each folder that got a new name.
    fn create_each(
        &self,
        path: &SafePath,
        created: impl Fn(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let mut reached: Option<OwnedFd> = None;
        for name in path.names() {
            let within = reached.as_ref().map_or(self.handle(), AsFd::as_fd);
            match rustix::fs::mkdirat(within, name, Mode::from_raw_mode(0o777)) {
                Ok(()) => created(within)?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            reached = Some(platform::open_beneath(within, name, FOLDER_FLAGS)?);
        }
        reached.ok_or_else(|| Errno::NOENT.into())
    }

    fn open_regular(&self, path: &SafePath, flags: OFlags) -> Result<(File, FileStat), OpenError> {
        let opened = platform::open_beneath(self.handle(), path.as_bytes(), flags)?;
        let file = File::from(opened);
        let metadata = file.metadata()?;
        if metadata.is_symlink() {
            return Err(OpenError::Symlink);
        }
        if !metadata.is_file() {
            return Err(OpenError::NotRegular);
        }
        Ok((file, FileStat::from(&metadata)))
    }

    fn new(handle: OwnedFd, path: PathBuf) -> Self {
        Self(Arc::new(Opened { handle, path }))
    }
}

impl From<&Metadata> for FileStat {
    fn from(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
            mode: metadata.mode(),
        }
    }
}

impl From<&rustix::fs::Stat> for FileStat {
    fn from(stat: &rustix::fs::Stat) -> Self {
        Self {
            size: stat.st_size.cast_unsigned(),
            mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec.cast_signed()),
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
        }
    }
}

fn nanoseconds(seconds: i64, below_a_second: i64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(below_a_second)
}

#[cfg(test)]
mod tests;
