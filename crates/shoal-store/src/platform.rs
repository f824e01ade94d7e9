//! What differs between systems: opening beneath a folder, renaming without replacing, holes.
//!
//! Linux has one system call for each; elsewhere, and on a kernel that refuses them, the same is
//! done in steps. Everything else in this crate is plain POSIX. No policy lives here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

#[cfg(target_os = "linux")]
#[path = "platform/linux.rs"]
mod system;
#[cfg(not(target_os = "linux"))]
#[path = "platform/portable.rs"]
mod system;

pub(crate) use system::{
    PROBE_FLAGS, clone_content, drop_cached, next_data, open_beneath, open_direct, punch_hole,
    rename_new, reserve, sync_file_system,
};

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::fsync(folder) {
        // Some network file systems have no sync for folders and say so with EINVAL.
        Err(Errno::INVAL) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens one name in a folder, never through a link.
pub(crate) fn open_name(
    folder: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: u32,
) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(mode as _))?;
    Ok(File::from(opened))
}

/// Whether two open files are one.
pub(crate) fn is_same_file(one: &File, other: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok(one.dev() == other.dev() && one.ino() == other.ino())
}

/// Opens a relative path one name at a time, so that no link on the way is followed.
fn walk_beneath(folder: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    const STEP_FLAGS: OFlags = OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::NOFOLLOW)
        .union(OFlags::CLOEXEC);
    let mut reached: Option<OwnedFd> = None;
    let mut names = path.split(|byte| *byte == b'/').peekable();
    while let Some(name) = names.next() {
        let within = reached.as_ref().map_or(folder, AsFd::as_fd);
        let is_last = names.peek().is_none();
        let step_flags = if is_last {
            flags | OFlags::NOFOLLOW
        } else {
            STEP_FLAGS
        };
        let opened = match rustix::fs::openat(within, name, step_flags, Mode::empty()) {
            Err(Errno::NOTDIR) if is_link(within, name) => return Err(Errno::LOOP.into()),
            outcome => outcome?,
        };
        reached = Some(opened);
    }
    reached.ok_or_else(|| Errno::NOENT.into())
}

fn is_link(folder: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::readlinkat(folder, name, Vec::new()).is_ok()
}

/// Renames by a second name and the removal of the first; fails if `to` is taken.
fn link_then_unlink(
    from_folder: BorrowedFd<'_>,
    from: &[u8],
    to_folder: BorrowedFd<'_>,
    to: &[u8],
) -> io::Result<()> {
    rustix::fs::linkat(from_folder, from, to_folder, to, AtFlags::empty())?;
    rustix::fs::unlinkat(from_folder, from, AtFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests;
