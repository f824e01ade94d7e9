//! What is kept of an entry besides its content: permissions, times, owner, extended attributes.
//!
//! Reading and setting, on open files and folders only. Whatever cannot be kept is told, never
//! an error: a file without its owner is better than none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use shoal_wire::limits::{XATTR_NAME_MAX_BYTES, XATTR_VALUE_MAX_BYTES, XATTRS_MAX};
use shoal_wire::manifest::{Extras, Owner, Xattr};
use shoal_wire::message::Bounded;

use crate::folder::Folder;

/// Bytes of the names of extended attributes that are read at once: Linux `XATTR_LIST_MAX`.
const NAMES_MAX_BYTES: usize = 64 * 1024;

/// The attributes that are kept. Others grant capabilities or belong to the system: another
/// machine has no say in them.
const USER_NAMESPACE: &[u8] = b"user.";

/// Something that could not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotKept {
    /// The owner: only root may give files away.
    Owner,
    /// An extended attribute.
    Xattr,
    /// The permissions.
    Mode,
    /// The time of last modification.
    Time,
}

/// What a person wants to be kept besides permissions and times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The owner.
    pub owner: bool,
    /// Extended attributes.
    pub xattrs: bool,
}

impl Wanted {
    /// Whether anything is.
    pub fn any(self) -> bool {
        self.owner || self.xattrs
    }
}

/// Reads what is wanted of an open file or folder.
pub fn read_extras(file: impl AsFd, wanted: Wanted) -> Extras {
    let mut extras = Extras::default();
    if wanted.owner
        && let Ok(stat) = rustix::fs::fstat(&file)
    {
        extras.owner = Some(Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
        });
    }
    if wanted.xattrs {
        read_xattrs(file.as_fd(), &mut extras);
    }
    extras
}

fn read_xattrs(file: BorrowedFd<'_>, extras: &mut Extras) {
    let mut names = vec![0; NAMES_MAX_BYTES];
    let Ok(len_bytes) = rustix::fs::flistxattr(file, &mut names) else {
        return;
    };
    let mut xattrs = Vec::new();
    let mut value = [0; XATTR_VALUE_MAX_BYTES];
    for name in names[..len_bytes].split(|byte| *byte == 0) {
        if !name.starts_with(USER_NAMESPACE) {
            continue;
        }
        let fits = name.len() <= XATTR_NAME_MAX_BYTES && xattrs.len() < XATTRS_MAX;
        let read = fits.then(|| rustix::fs::fgetxattr(file, name, &mut value));
        let xattr = match read {
            Some(Ok(len_bytes)) => Xattr::new(name, &value[..len_bytes]),
            _ => None,
        };
        match xattr {
            Some(xattr) => xattrs.push(xattr),
            None => extras.xattrs_left_out += 1,
        }
    }
    extras.xattrs = Bounded::truncated(xattrs);
}

/// Sets owner and extended attributes of an open file or folder.
pub fn apply_extras(file: BorrowedFd<'_>, extras: &Extras) -> Vec<NotKept> {
    let mut not_kept = Vec::new();
    if let Some(owner) = extras.owner {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        if rustix::fs::fchown(file, Some(uid), Some(gid)).is_err() {
            not_kept.push(NotKept::Owner);
        }
    }
    let set = |xattr: &Xattr| {
        let is_users = xattr.name().starts_with(USER_NAMESPACE);
        is_users
            && rustix::fs::fsetxattr(file, xattr.name(), xattr.value(), XattrFlags::empty()).is_ok()
    };
    // Every one is tried, also after one that failed.
    let failed = extras.xattrs.iter().filter(|xattr| !set(xattr)).count();
    if failed > 0 || extras.xattrs_left_out > 0 {
        not_kept.push(NotKept::Xattr);
    }
    not_kept
}

/// Sets the attributes of a folder, once nothing more is written into it.
pub fn finish_folder(
    folder: &Folder,
    mode: u32,
    mtime_ns: i64,
    extras: Option<&Extras>,
) -> Vec<NotKept> {
    let handle = folder.handle();
    let mut not_kept = extras.map_or_else(Vec::new, |extras| apply_extras(handle, extras));
    // The owner can always use the folder, else it could not be received again.
    let mode = Mode::from_raw_mode((mode & 0o777) | 0o700);
    if rustix::fs::fchmod(handle, mode).is_err() {
        not_kept.push(NotKept::Mode);
    }
    if rustix::fs::futimens(handle, &timestamps(mtime_ns)).is_err() {
        not_kept.push(NotKept::Time);
    }
    not_kept
}

/// Sets the time of a symbolic link itself.
pub(crate) fn set_link_time(folder: BorrowedFd<'_>, name: &str, mtime_ns: i64) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(folder, name, &timestamps(mtime_ns), flags)?;
    Ok(())
}

/// A time of last modification as the standard library takes it.
pub(crate) fn time_of(mtime_ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(mtime_ns.unsigned_abs());
    let time = if mtime_ns < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn timestamps(mtime_ns: i64) -> Timestamps {
    let omit = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT as _,
    };
    Timestamps {
        last_access: omit,
        last_modification: Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000) as _,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_the_disk_can_hold_are_kept_and_the_others_told() {
        let root = tempfile::tempdir().expect("temporary folder");
        let from = std::fs::File::create(root.path().join("from")).expect("made");
        let to = std::fs::File::create(root.path().join("to")).expect("made");
        let has_xattrs =
            rustix::fs::fsetxattr(&from, "user.note", b"kept", XattrFlags::empty()).is_ok();
        let wanted = Wanted {
            owner: true,
            xattrs: true,
        };
        let mut extras = read_extras(&from, wanted);
        assert_eq!(extras.xattrs.len(), usize::from(has_xattrs));
        assert_eq!(apply_extras(to.as_fd(), &extras), []);
        assert_eq!(read_extras(&to, wanted), extras);
        let odd = Xattr::new(b"security.capability", b"x").expect("short");
        extras.xattrs = Bounded::truncated(vec![odd]);
        assert_eq!(apply_extras(to.as_fd(), &extras), [NotKept::Xattr]);
    }
}
