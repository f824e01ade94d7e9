//! What lies in a folder, read through an open handle.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use shoal_wire::manifest::LinkTarget;

use super::{FOLDER_FLAGS, FileStat, Folder};
use crate::{platform, private};

/// An open folder whose entries are read one after the other.
#[derive(Debug)]
pub struct Listing {
    handle: OwnedFd,
    dir: Option<Dir>,
}

/// An entry of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A pipe, socket or device.
    Other,
}

impl Folder {
    /// Opens what is beneath at `path`, byte for byte as the system names it, to list it; itself
    /// where that is empty. No link is followed.
    ///
    /// # Errors
    /// What the system answers.
    pub fn listing(&self, path: &[u8]) -> io::Result<Listing> {
        let path = if path.is_empty() {
            b".".as_slice()
        } else {
            path
        };
        let handle = platform::open_beneath(self.handle(), path, FOLDER_FLAGS)?;
        Ok(Listing { handle, dir: None })
    }
}

impl Listing {
    /// Whether the folder is [private](crate::private): what is in it is nobody's to see.
    ///
    /// # Errors
    /// What the system answers where it cannot be told.
    pub fn is_private(&self) -> io::Result<bool> {
        private::is_private(self.handle.as_fd())
    }

    /// The next entry; `None` after the last. Entries that vanish meanwhile are passed over.
    pub fn next_entry(&mut self) -> Option<io::Result<(Vec<u8>, Kind)>> {
        let dir = match &mut self.dir {
            Some(dir) => dir,
            None => match Dir::read_from(&self.handle) {
                Ok(dir) => self.dir.insert(dir),
                Err(error) => return Some(Err(error.into())),
            },
        };
        loop {
            let entry = match dir.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match kind_at(&self.handle, name) {
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Some(Err(error.into())),
                    Ok(kind) => kind,
                },
                kind => kind_of(kind),
            };
            return Some(Ok((name.to_bytes().to_owned(), kind)));
        }
    }

    /// What the system says of the folder itself.
    ///
    /// # Errors
    /// What the system answers.
    pub fn own_stat(&self) -> io::Result<FileStat> {
        Ok(FileStat::from(&rustix::fs::fstat(&self.handle)?))
    }

    /// What is called `name` in it: its kind and version.
    ///
    /// # Errors
    /// What the system answers.
    pub fn stat(&self, name: &[u8]) -> io::Result<(Kind, FileStat)> {
        let stat = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = kind_of(FileType::from_raw_mode(stat.st_mode));
        Ok((kind, FileStat::from(&stat)))
    }

    /// What the symbolic link called `name` holds.
    pub fn read_link(&self, name: &[u8]) -> Option<LinkTarget> {
        let held = rustix::fs::readlinkat(&self.handle, name, Vec::new()).ok()?;
        LinkTarget::new(held.as_bytes())
    }

    /// The content of a small regular file in it, or one that a link of that name leads to; `None`
    /// where nothing has that name. Never waits for anybody who writes.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] over `max_bytes`, [`io::ErrorKind::InvalidInput`] for what is
    /// no file, [`io::ErrorKind::NotFound`] for a link that leads nowhere, or what the system answers.
    pub fn read_small(&self, name: &str, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let not_a_file = || io::Error::from(io::ErrorKind::InvalidInput);
        // Asked before it is opened, because opening does something to some devices.
        let named = rustix::fs::statat(&self.handle, name, AtFlags::empty())?;
        if FileType::from_raw_mode(named.st_mode) != FileType::RegularFile {
            return Err(not_a_file());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.handle, name, flags, Mode::empty())?;
        let file = File::from(opened);
        if !file.metadata()?.is_file() {
            return Err(not_a_file());
        }
        let mut content = Vec::new();
        file.take(max_bytes as u64 + 1).read_to_end(&mut content)?;
        if content.len() > max_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Some(content))
    }
}

fn kind_at(folder: &OwnedFd, name: &CStr) -> Result<Kind, Errno> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(kind_of(FileType::from_raw_mode(stat.st_mode)))
}

fn kind_of(kind: FileType) -> Kind {
    match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    }
}
