//! The Linux calls: `openat2`, `renameat2`, `fallocate`, `FICLONE`, `SEEK_DATA`.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Advice, FallocateFlags, Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;

/// Flags to open something only to ask what it is: nothing happens to a device or a pipe.
pub(crate) const PROBE_FLAGS: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Opens a relative path beneath a folder; a link anywhere in it is an error.
pub(crate) fn open_beneath(
    folder: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> io::Result<OwnedFd> {
    const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
        .union(ResolveFlags::NO_SYMLINKS)
        .union(ResolveFlags::NO_MAGICLINKS);
    match rustix::fs::openat2(folder, path, flags, Mode::empty(), RESOLVE) {
        Ok(opened) => Ok(opened),
        // Kernels before 5.6 lack the call; some container filters answer EPERM for it.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => super::walk_beneath(folder, path, flags),
        Err(error) => Err(error.into()),
    }
}

/// Renames from one folder to another of the same file system; fails if `to` is taken.
pub(crate) fn rename_new(
    from_folder: BorrowedFd<'_>,
    from: &[u8],
    to_folder: BorrowedFd<'_>,
    to: &[u8],
) -> io::Result<()> {
    match rustix::fs::renameat_with(from_folder, from, to_folder, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOSYS) => {
            super::link_then_unlink(from_folder, from, to_folder, to)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes everything written to the file system of `folder` durable, also what others wrote;
/// `false` if the system cannot. Fails for writes that failed since `folder` was opened.
pub(crate) fn sync_file_system(folder: BorrowedFd<'_>) -> io::Result<bool> {
    match rustix::fs::syncfs(folder) {
        Ok(()) => Ok(true),
        Err(Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Turns a range of a file into zeros that take no space; `false` if the file system cannot.
pub(crate) fn punch_hole(file: &File, offset: u64, len_bytes: u64) -> io::Result<bool> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, len_bytes) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a name in a folder for writes that bypass the page cache; `None` where that cannot be had.
pub(crate) fn open_direct(folder: BorrowedFd<'_>, name: &[u8]) -> Option<File> {
    super::open_name(folder, name, OFlags::WRONLY | OFlags::DIRECT, 0).ok()
}

/// Sets room aside for the first bytes of a file, whose length stays; `false` if the file system
/// cannot.
pub(crate) fn reserve(file: &File, len_bytes: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, len_bytes) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes an empty file share all bytes of another one, without copying them; `false` if the file
/// system cannot.
pub(crate) fn clone_content(from: &File, to: &File) -> bool {
    // Whatever the reason, the bytes can be copied instead.
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

/// Where the next bytes of a file are that are not a hole, at `offset` or after; `None` after the
/// last.
pub(crate) fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

/// Has what is read next of a file come from the disk, as far as the system does so.
pub(crate) fn drop_cached(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?)
}
