//! Writes of small files that are either the old bytes or the new ones after any crash.
//!
//! A temporary file in the same folder is written, synced and renamed over the target, and the
//! folder is synced. Temporary names are of the kind that [`crate::partial::is_partial_name`]
//! knows, so no scan offers one. What a caller writes is not looked at.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::partial::TEMPORARY_SUFFIX;
use crate::platform;

/// Replaces or creates a file with `bytes` and exactly the permission bits of `mode`.
///
/// # Errors
/// When a step fails; the file then is as it was before, or, if only the last sync failed, new
/// but perhaps not durable.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder_path = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
    let folder = File::open(folder_path)?;
    let (temporary, file) = create_temporary(folder_path, name.as_bytes())?;
    let outcome = fill(file, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = outcome {
        if let Err(cleanup) = fs::remove_file(&temporary) {
            tracing::debug!(path = %temporary.display(), %cleanup, "temporary file left behind");
        }
        return Err(error);
    }
    platform::sync_folder(folder.as_fd())
}

fn fill(mut file: File, bytes: &[u8], mode: u32) -> io::Result<()> {
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    file.sync_all()
}

fn create_temporary(folder: &Path, name: &[u8]) -> io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // Short enough that the dot, both numbers and the suffix still fit into 255 bytes.
    let stem = &name[..name.len().min(180)];
    loop {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let number = format!(".{}.{count}", std::process::id());
        let unique = [b".", stem, number.as_bytes(), TEMPORARY_SUFFIX].concat();
        let path = folder.join(std::ffi::OsString::from_vec(unique));
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match created {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_created_and_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let root = tempfile::tempdir().expect("temporary folder");
        let path = root.path().join("state");
        for (bytes, mode) in [(b"first".as_slice(), 0o600), (b"second", 0o644)] {
            write_file(&path, bytes, mode).expect("written");
            assert_eq!(fs::read(&path).expect("read"), bytes);
            let permissions = fs::metadata(&path).expect("there").permissions();
            assert_eq!(permissions.mode() & 0o7777, mode);
        }
        assert_eq!(fs::read_dir(root.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary() {
        let root = tempfile::tempdir().expect("temporary folder");
        let path = root.path().join("taken");
        fs::create_dir(&path).expect("made");
        fs::write(path.join("inside"), "kept").expect("written");
        assert!(write_file(&path, b"new", 0o600).is_err());
        assert_eq!(fs::read(path.join("inside")).expect("read"), b"kept");
        assert_eq!(fs::read_dir(root.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_name_of_the_longest_kind_can_be_written() {
        let root = tempfile::tempdir().expect("temporary folder");
        let path = root.path().join("n".repeat(255));
        write_file(&path, b"bytes", 0o600).expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"bytes");
    }
}
