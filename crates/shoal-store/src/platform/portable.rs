//! The same as on Linux, in POSIX calls: step by step, and without holes.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

/// Flags to open something only to ask what it is.
pub(crate) const PROBE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Opens a relative path beneath a folder; a link anywhere in it is an error.
pub(crate) fn open_beneath(
    folder: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> io::Result<OwnedFd> {
    super::walk_beneath(folder, path, flags)
}

/// Renames from one folder to another of the same file system; fails if `to` is taken.
pub(crate) fn rename_new(
    from_folder: BorrowedFd<'_>,
    from: &[u8],
    to_folder: BorrowedFd<'_>,
    to: &[u8],
) -> io::Result<()> {
    super::link_then_unlink(from_folder, from, to_folder, to)
}

/// Makes a whole file system durable; `false` because there is no portable way.
pub(crate) fn sync_file_system(_folder: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

/// Turns a range of a file into zeros that take no space; `false` because there is no portable way.
pub(crate) fn punch_hole(_file: &File, _offset: u64, _len_bytes: u64) -> io::Result<bool> {
    Ok(false)
}

/// Opens a name for writes that bypass the page cache; `None` because there is no portable way.
pub(crate) fn open_direct(_folder: BorrowedFd<'_>, _name: &[u8]) -> Option<File> {
    None
}

/// Sets room aside for the first bytes of a file; `false` because there is no portable way that
/// leaves its length.
pub(crate) fn reserve(_file: &File, _len_bytes: u64) -> io::Result<bool> {
    Ok(false)
}

/// Makes a file share the bytes of another; `false` because there is no portable way.
pub(crate) fn clone_content(_from: &File, _to: &File) -> bool {
    false
}

/// Where the next bytes of a file are that are not a hole: nothing tells holes.
pub(crate) fn next_data(_file: &File, offset: u64) -> io::Result<Option<u64>> {
    Ok(Some(offset))
}

/// Has what is read next of a file come from the disk: there is no portable way.
pub(crate) fn drop_cached(_file: &File) -> io::Result<()> {
    Ok(())
}
