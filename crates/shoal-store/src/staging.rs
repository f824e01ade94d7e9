//! Staging: whole small files and links on their way to their names, in batches.
//!
//! A [`Staging`] is a private folder inside the receiving one. Files are written there under
//! numbers, spread over a few folders so that writers do not wait for one another, made durable
//! many at a time, and then given their final names by a rename, so that a final name is absent or
//! leads to the whole content. It is locked while it is in use and goes
//! with its owner; one that a crash left behind is removed by the next owner. What is staged must
//! have been verified by the caller.

use std::fs::{FileTimes, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use shoal_wire::manifest::{Extras, LinkTarget};

use crate::attributes::{self, NotKept};
use crate::folder::{Folder, FolderError};
use crate::platform;

const PREFIX: &[u8] = b".shoal-";
const SUFFIX: &[u8] = b".shoal-part";
/// Folders that what is staged is spread over: a system adds one name to a folder at a time.
const TRAYS: u64 = 8;
/// How often a new staging folder may be taken away between its creation and its lock.
const ATTEMPTS: u32 = 16;

/// What a staged file is like besides its content.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Permission bits; only `0o777` of them are kept, and the owner can always read and write.
    pub mode: u32,
    /// Last modification, in nanoseconds since 1970-01-01 UTC.
    pub mtime_ns: i64,
    /// Owner and extended attributes, where they are to be kept.
    pub extras: Option<&'a Extras>,
}

/// Something staged, to be placed by the [`Staging`] that it came from.
#[derive(Debug)]
pub struct Staged {
    number: u64,
    /// What of its attributes could not be kept.
    pub not_kept: Vec<NotKept>,
}

/// Why something staged was not given its final name.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something is at the target already and is not to be replaced.
    #[error("a file of this name exists: move it away, or ask to replace it")]
    TargetExists,
    /// The target lies on another file system, where no rename leads.
    #[error("the folder is on another file system")]
    OtherFileSystem,
    /// The disk refused.
    #[error("the file cannot be completed: check the disk's room and permissions, then resume")]
    Io(#[from] io::Error),
}

/// A private folder for files on their way.
#[derive(Debug)]
pub struct Staging {
    root: Folder,
    name: Vec<u8>,
    handle: OwnedFd,
    trays: Vec<OwnedFd>,
    next: AtomicU64,
    /// Permission bits that the system takes from every new file here.
    masked: u32,
}

impl Staging {
    /// Makes one inside `root`, after removing those that nobody holds any more.
    ///
    /// # Errors
    /// When `root` cannot be written.
    pub fn begin(root: &Folder) -> Result<Self, FolderError> {
        remove_left_behind(root);
        Self::make(root).map_err(|error| FolderError::of(root.path().to_owned(), error))
    }

    fn make(root: &Folder) -> io::Result<Self> {
        for attempt in 0..ATTEMPTS {
            let number = RandomState::new().hash_one((std::process::id(), attempt));
            let name = [PREFIX, format!("{number:016x}").as_bytes(), SUFFIX].concat();
            rustix::fs::mkdirat(root.handle(), &name, Mode::RWXU)?;
            let handle = open_folder(root.handle(), &name)?;
            // Another process may have taken it for one left behind before the lock was ours.
            let is_locked = lock(&handle)?;
            if is_locked && rustix::fs::fstat(&handle)?.st_nlink > 0 {
                let masked = masked_bits(&handle)?;
                let trays = (0..TRAYS)
                    .map(|tray| make_tray(&handle, tray))
                    .collect::<Result<_, _>>()?;
                return Ok(Self {
                    root: root.clone(),
                    name,
                    handle,
                    trays,
                    next: AtomicU64::new(0),
                    masked,
                });
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// What the system answers; what was written of it goes with the staging.
    pub fn write(&self, content: &[u8], attributes: &Attributes<'_>) -> io::Result<Staged> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let name = number.to_string();
        let mode = (attributes.mode & 0o777) | 0o600;
        // Nobody else can look into the folder, so the file may have its mode from the start.
        let mut file = platform::open_name(self.tray(number), name.as_bytes(), flags, mode)?;
        file.write_all(content)?;
        let mut not_kept = Vec::new();
        if let Some(extras) = attributes.extras {
            not_kept = attributes::apply_extras(file.as_fd(), extras);
        }
        if mode & self.masked != 0 {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        let modified = attributes::time_of(attributes.mtime_ns);
        file.set_times(FileTimes::new().set_modified(modified))?;
        Ok(Staged { number, not_kept })
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// What the system answers.
    pub fn link(&self, target: &LinkTarget, mtime_ns: i64) -> io::Result<Staged> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = number.to_string();
        rustix::fs::symlinkat(target.as_bytes(), self.tray(number), &name)?;
        let mut not_kept = Vec::new();
        if attributes::set_link_time(self.tray(number), &name, mtime_ns).is_err() {
            not_kept.push(NotKept::Time);
        }
        Ok(Staged { number, not_kept })
    }

    /// Makes everything staged and placed so far durable, in one go.
    ///
    /// # Errors
    /// When the disk refuses, or failed to write anything since the staging was begun. What is
    /// staged must then not be placed.
    pub fn sync(&self) -> io::Result<()> {
        if platform::sync_file_system(self.handle.as_fd())? {
            return Ok(());
        }
        for number in 0..self.next.load(Ordering::Relaxed) {
            let name = number.to_string();
            match platform::open_name(self.tray(number), name.as_bytes(), OFlags::RDONLY, 0) {
                Ok(file) => file.sync_all()?,
                Err(error) => match Errno::from_io_error(&error) {
                    // It was placed, and its new folder is synced by whoever placed it; or it is a
                    // link, which is all in its folder.
                    Some(Errno::NOENT | Errno::LOOP) => {}
                    _ => return Err(error),
                },
            }
        }
        platform::sync_folder(self.root.handle())
    }

    /// Gives something staged its final name in `folder`.
    ///
    /// # Errors
    /// When something is there and `replace` is not set, or the disk refuses. It stays staged.
    pub fn place(
        &self,
        staged: &Staged,
        folder: &Folder,
        (name, replace): (&[u8], bool),
    ) -> Result<(), PlaceError> {
        let number = staged.number.to_string();
        let (from, to) = (self.tray(staged.number), folder.handle());
        let renamed = if replace {
            rustix::fs::renameat(from, &number, to, name).map_err(io::Error::from)
        } else {
            platform::rename_new(from, number.as_bytes(), to, name)
        };
        renamed.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY) => PlaceError::TargetExists,
            Some(Errno::XDEV) => PlaceError::OtherFileSystem,
            _ => PlaceError::Io(error),
        })
    }

    fn tray(&self, number: u64) -> BorrowedFd<'_> {
        let tray = usize::try_from(number % TRAYS).ok();
        let tray = tray.and_then(|tray| self.trays.get(tray));
        tray.unwrap_or(&self.handle).as_fd()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove_whole(&self.root, &self.name, &self.handle) {
            tracing::debug!(%error, "a folder for files on their way was left behind");
        }
    }
}

/// Removes staging folders whose owners are gone.
fn remove_left_behind(root: &Folder) {
    let Ok(names) = names_in(root.handle()) else {
        return;
    };
    for name in names {
        if !(name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        let Ok(handle) = open_folder(root.handle(), &name) else {
            continue;
        };
        if !matches!(lock(&handle), Ok(true)) {
            continue;
        }
        if let Err(error) = remove_whole(root, &name, &handle) {
            tracing::debug!(%error, "a folder for files on their way was left behind");
        }
    }
}

fn remove_whole(root: &Folder, name: &[u8], handle: &OwnedFd) -> io::Result<()> {
    for inside in names_in(handle.as_fd())? {
        if let Ok(tray) = open_folder(handle, &inside) {
            for staged in names_in(tray.as_fd())? {
                rustix::fs::unlinkat(&tray, &staged, AtFlags::empty())?;
            }
            rustix::fs::unlinkat(handle, &inside, AtFlags::REMOVEDIR)?;
        } else {
            rustix::fs::unlinkat(handle, &inside, AtFlags::empty())?;
        }
    }
    rustix::fs::unlinkat(root.handle(), name, AtFlags::REMOVEDIR)?;
    Ok(())
}

fn names_in(folder: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn make_tray(folder: &OwnedFd, tray: u64) -> io::Result<OwnedFd> {
    let name = format!("tray-{tray}");
    rustix::fs::mkdirat(folder, &name, Mode::RWXU)?;
    open_folder(folder, name.as_bytes())
}

/// Opens a folder in another one, never through a link.
fn open_folder(within: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(within, name, flags, Mode::empty())?)
}

/// Finds out which permission bits a new file does not get: the process's mask, or what the folder
/// inherited.
fn masked_bits(folder: &OwnedFd) -> io::Result<u32> {
    const NAME: &[u8] = b"mask";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let probe = platform::open_name(folder.as_fd(), NAME, flags, 0o777)?;
    let mode = probe.metadata()?.permissions().mode();
    rustix::fs::unlinkat(folder, NAME, AtFlags::empty())?;
    Ok(0o777 & !mode)
}

fn lock(folder: &OwnedFd) -> io::Result<bool> {
    match rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const PLAIN: Attributes<'static> = Attributes {
        mode: 0o640,
        mtime_ns: 1_000_000_123,
        extras: None,
    };

    fn names(path: &std::path::Path) -> Vec<String> {
        let listed = fs::read_dir(path).expect("listed");
        let mut names: Vec<String> = listed
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_placed_is_whole_with_its_attributes_and_nothing_is_left() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::open(root.path()).expect("opened");
        let staging = Staging::begin(&folder).expect("begun");
        let staged = staging.write(b"content", &PLAIN).expect("written");
        let link = LinkTarget::new(b"a").expect("short");
        let linked = staging.link(&link, 5_000_000_000).expect("linked");
        staging.sync().expect("synced");
        assert!(crate::partial::is_partial_name(
            names(root.path())[0].as_bytes()
        ));
        staging
            .place(&staged, &folder, (b"a", false))
            .expect("placed");
        staging
            .place(&linked, &folder, (b"b", false))
            .expect("placed");
        drop(staging);
        assert_eq!(names(root.path()), ["a", "b"]);
        let metadata = fs::metadata(root.path().join("a")).expect("there");
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.mtime_nsec()),
            (0o640, 123)
        );
        assert_eq!(
            fs::read_link(root.path().join("b")).expect("link"),
            std::path::Path::new("a")
        );
        let time = fs::symlink_metadata(root.path().join("b"))
            .expect("there")
            .mtime();
        assert_eq!(time, 5);
    }

    #[test]
    fn a_taken_name_is_replaced_only_when_asked() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::open(root.path()).expect("opened");
        let staging = Staging::begin(&folder).expect("begun");
        fs::write(root.path().join("a"), "old").expect("written");
        let staged = staging.write(b"new", &PLAIN).expect("written");
        let refused = staging.place(&staged, &folder, (b"a", false));
        assert!(matches!(refused, Err(PlaceError::TargetExists)));
        assert_eq!(fs::read(root.path().join("a")).expect("read"), b"old");
        staging
            .place(&staged, &folder, (b"a", true))
            .expect("placed");
        assert_eq!(fs::read(root.path().join("a")).expect("read"), b"new");
    }

    #[test]
    fn one_left_by_a_crash_is_removed_and_one_in_use_is_not() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::open(root.path()).expect("opened");
        let left = root.path().join(".shoal-0123456789abcdef.shoal-part");
        fs::create_dir_all(left.join("tray-0")).expect("made");
        fs::write(left.join("tray-0/0"), "half").expect("written");
        fs::write(left.join("mask"), "").expect("written");
        let probe = root.path().join(".shoal-\u{c9}abcdef.shoal-part");
        fs::create_dir(&probe).expect("made");
        let in_use = Staging::begin(&folder).expect("begun");
        assert!(!left.exists() && !probe.exists());
        let staged = in_use.write(b"kept", &PLAIN).expect("written");
        let other = Staging::begin(&folder).expect("begun");
        in_use
            .place(&staged, &folder, (b"a", false))
            .expect("placed");
        drop((in_use, other));
        assert_eq!(names(root.path()), ["a"]);
    }
}
