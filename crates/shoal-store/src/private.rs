//! Folders that hold a node's keys and state: never offered, and nothing received goes into them.
//!
//! A private folder is recognised by what it holds, through an open handle: [`MARKER`], or an
//! Ed25519 key called [`KEY`], which counts too where it cannot be read. So it is found under
//! whatever name, mount or link it is reached, also when another process made it, or it was moved
//! or copied while somebody looked. Whoever makes such a folder marks it before the first key is
//! in it. The marker's name is one of those that [nothing received may
//! have](crate::partial::is_partial_name), so nobody else makes a folder private by it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// The file that marks a private folder.
pub const MARKER: &str = ".shoal-state";
/// What a node's key is called.
pub const KEY: &str = "identity.pem";

const MARKER_TEXT: &[u8] =
    b"This folder holds keys and state of shoal. It is never shared, and nothing is received into it.\n";
const KEY_BEGINS: &[u8] = b"-----BEGIN PRIVATE KEY-----";
/// How the identifier of Ed25519 (RFC 8410, section 3) reads in the base64 of a PKCS#8 key.
const ED25519: &[u8] = b"BQYDK2Vw";
/// Bytes of a key that are looked at: the identifier comes right after the first line.
const KEY_HEAD_BYTES: usize = 64;
/// Folders on the way up from one to the root of its file system, at most: more than a path has.
const DEPTH_MAX: usize = 4096;

/// Marks a folder as private.
///
/// # Errors
/// What the system answers. A folder that cannot be written is private by its key alone.
pub fn mark(folder: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let created = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join(MARKER));
    match created {
        Ok(marker) => marker.write_all_at(MARKER_TEXT, 0),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether an open folder is private. One that may not be searched is not: nothing in it can be had.
///
/// # Errors
/// What the system answers where it cannot be told.
pub(crate) fn is_private(folder: BorrowedFd<'_>) -> io::Result<bool> {
    match rustix::fs::statat(folder, MARKER, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => holds_key(folder),
        Err(Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether an open folder is private, or lies below one that is. The way up ends at `top`, or else
/// at the root of all folders.
pub(crate) fn is_within_private(
    folder: BorrowedFd<'_>,
    top: Option<BorrowedFd<'_>>,
) -> io::Result<bool> {
    let identity =
        |folder: BorrowedFd<'_>| rustix::fs::fstat(folder).map(|stat| (stat.st_dev, stat.st_ino));
    let top = top.map(identity).transpose()?;
    let mut reached: Option<OwnedFd> = None;
    for _ in 0..DEPTH_MAX {
        let here = reached.as_ref().map_or(folder, AsFd::as_fd);
        if is_private(here)? {
            return Ok(true);
        }
        let own = identity(here)?;
        if Some(own) == top {
            return Ok(false);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = match rustix::fs::openat(here, "..", flags, Mode::empty()) {
            // What is above is out of this user's reach.
            Err(Errno::ACCESS) => return Ok(false),
            opened => opened?,
        };
        if identity(above.as_fd())? == own {
            return Ok(false);
        }
        reached = Some(above);
    }
    Err(Errno::NAMETOOLONG.into())
}

/// Whether a folder has a key that is, or may be, a node's.
fn holds_key(folder: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let key = match rustix::fs::openat(folder, KEY, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(Errno::ACCESS | Errno::PERM) => return Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if !key.metadata()?.is_file() {
        return Ok(false);
    }
    let mut head = Vec::with_capacity(KEY_HEAD_BYTES);
    key.take(KEY_HEAD_BYTES as u64).read_to_end(&mut head)?;
    let mut parts = head.windows(ED25519.len());
    Ok(head.starts_with(KEY_BEGINS) && parts.any(|part| part == ED25519))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::folder::{Folder, FolderError};

    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMFECAQEwBQYDK2VwBCIEIAAAAAAA\n";

    #[test]
    fn a_folder_is_private_by_its_mark_or_its_key_and_by_nothing_else() {
        let root = tempfile::tempdir().expect("a folder");
        let made = |name: &str, file: &str, text: &str| {
            let folder = root.path().join(name);
            fs::create_dir(&folder).expect("made");
            if !file.is_empty() {
                fs::write(folder.join(file), text).expect("written");
            }
            File::open(folder).expect("opened")
        };
        let is_private = |folder: File| is_private(folder.as_fd()).expect("told");
        assert!(is_private(made("key", KEY, PEM)));
        assert!(is_private(made("marked", MARKER, "")));
        assert!(!is_private(made("plain", "", "")));
        assert!(!is_private(made("other", KEY, "-----BEGIN RSA")));
        assert!(!is_private(made("elsewhere", "server.pem", PEM)));
        let pipe = made("pipe", "", "");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(&pipe, KEY, kind, Mode::RUSR, 0).expect("made");
        assert!(!is_private(pipe));
    }

    #[test]
    fn nothing_is_made_in_or_below_a_private_folder() {
        let root = tempfile::tempdir().expect("a folder");
        let state = root.path().join("a/state");
        fs::create_dir_all(state.join("deep")).expect("made");
        mark(&state).expect("marked");
        mark(&state).expect("marked again");
        let folder = Folder::open(root.path()).expect("opened");
        for target in ["a/state", "a/state/new", "a/state/deep/new"] {
            let made = folder.create_dirs(&target.parse().expect("a path"));
            assert!(matches!(made, Err(FolderError::Private { .. })), "{target}");
            let opened = Folder::create(&root.path().join(target));
            assert!(
                matches!(opened, Err(FolderError::Private { .. })),
                "{target}"
            );
        }
        // What would make a folder private is not received into it either.
        let marking = folder.create_dirs(&MARKER.parse().expect("a path"));
        assert!(matches!(marking, Err(FolderError::ReservedName { .. })));
        assert!(!state.join("new").exists() && !state.join("deep/new").exists());
        folder
            .create_dirs(&"a/other".parse().expect("a path"))
            .expect("made");
    }
}
