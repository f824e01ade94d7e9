//! A walk over a share's folder: which files it offers.
//!
//! Regular files only; symbolic links are neither followed nor offered. `.shoalignore` files have
//! the syntax of `.gitignore`. Hidden files are skipped unless asked for, downloads under way
//! always. Names that cannot travel (see [`SafePath`]) are skipped and counted.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use shoal_store::folder::FileStat;
use shoal_store::partial;
use shoal_wire::SafePath;

/// File with the rules of what is not offered.
const IGNORE_FILE: &str = ".shoalignore";
/// Most names in one warning about what was skipped.
const NAMED_IN_WARNING: usize = 3;

/// What a walk found. `None` when the folder itself cannot be read.
pub(super) fn scan(root: &Path, hidden: bool) -> Option<BTreeMap<SafePath, FileStat>> {
    std::fs::read_dir(root).ok()?;
    let mut found = BTreeMap::new();
    let mut skipped = Skipped::default();
    for entry in walk_builder(root, hidden).build() {
        match entry {
            Ok(entry) => note(&entry, root, &mut found, &mut skipped),
            Err(error) => skipped.count(error.to_string()),
        }
    }
    skipped.warn(root);
    Some(found)
}

/// A walk under the rules of what is offered: folders, files, links and whatever else is there.
pub(super) fn walk_builder(root: &Path, hidden: bool) -> ignore::WalkBuilder {
    let mut walk = ignore::WalkBuilder::new(root);
    walk.standard_filters(false)
        .hidden(!hidden)
        .follow_links(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| !partial::is_partial_name(entry.file_name().as_bytes()));
    walk
}

fn note(
    entry: &ignore::DirEntry,
    root: &Path,
    found: &mut BTreeMap<SafePath, FileStat>,
    skipped: &mut Skipped,
) {
    let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
    let name = entry.file_name();
    if !is_file || name == IGNORE_FILE {
        return;
    }
    let Ok(relative) = entry.path().strip_prefix(root) else {
        return;
    };
    let path = match SafePath::new(relative.as_os_str().as_bytes()) {
        Ok(path) => path,
        Err(error) => {
            let name = shoal_wire::escape(relative.as_os_str().as_bytes());
            skipped.count(format!("{name}: {error}"));
            return;
        }
    };
    // A file that vanished since its folder was read is simply not there.
    let Ok(metadata) = entry.metadata() else {
        return;
    };
    let stat = FileStat::from(&metadata);
    if stat.entry_size().is_some() {
        found.insert(path, stat);
    } else {
        skipped.count(format!("{path}: larger than the largest file"));
    }
}

#[derive(Default)]
struct Skipped {
    count: usize,
    first: Vec<String>,
}

impl Skipped {
    fn count(&mut self, what: String) {
        self.count += 1;
        if self.first.len() < NAMED_IN_WARNING {
            self.first.push(what);
        }
    }

    fn warn(&self, root: &Path) {
        if self.count > 0 {
            let first = self.first.join("; ");
            tracing::warn!(folder = %root.display(), count = self.count, %first, "files are not offered");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(root: &Path, hidden: bool) -> Vec<String> {
        let found = scan(root, hidden).unwrap();
        found.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn ignored_hidden_linked_and_unfinished_files_are_not_offered() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("docs/draft")).unwrap();
        for file in [
            "a.txt",
            "b.tmp",
            ".secret",
            "docs/c.txt",
            "docs/draft/d.txt",
            "docs/e.tmp",
        ] {
            fs::write(root.join(file), file).unwrap();
        }
        fs::write(root.join(".shoalignore"), "*.tmp\n").unwrap();
        fs::write(root.join("docs/.shoalignore"), "draft/\n!e.tmp\n").unwrap();
        fs::write(root.join(".a.txt.shoal-part"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("folder-link")).unwrap();
        assert_eq!(names(root, false), ["a.txt", "docs/c.txt", "docs/e.tmp"]);
        assert_eq!(
            names(root, true),
            [".secret", "a.txt", "docs/c.txt", "docs/e.tmp"]
        );
    }

    #[test]
    fn names_that_cannot_travel_are_skipped_and_the_rest_is_offered() {
        use std::ffi::OsStr;
        let folder = tempfile::tempdir().unwrap();
        for name in [b"ok".as_slice(), b"CON", b"a:b", b"end."] {
            fs::write(folder.path().join(OsStr::from_bytes(name)), "x").unwrap();
        }
        assert_eq!(names(folder.path(), false), ["ok"]);
    }

    #[test]
    fn a_folder_that_is_gone_is_told_from_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(scan(folder.path(), false), Some(BTreeMap::new()));
        assert_eq!(scan(&folder.path().join("gone"), false), None);
    }
}
