//! A walk over a share's folder: which files it offers.
//!
//! Regular files only; symbolic links are neither followed nor offered. `.shoalignore` files have
//! the syntax of `.gitignore`. Hidden files are skipped unless asked for, downloads under way
//! always. Names that cannot travel (see [`SafePath`]) are skipped and counted. What the disk or the
//! system could not show this time is told apart from what is gone. What is found is told some
//! thousands at a time, so that nothing holds all of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use shoal_store::folder::FileStat;
use shoal_store::partial;
use shoal_wire::SafePath;

use super::roots::Root;

/// File with the rules of what is not offered.
const IGNORE_FILE: &str = ".shoalignore";
/// Most names in one warning about what was skipped.
const NAMED_IN_WARNING: usize = 3;

/// Files that are gathered before they are told, sorted: about 4 MB, and in folders of usual
/// length whole neighbourhoods of paths.
const TOLD_AT_ONCE: usize = 32 * 1024;

/// A file that is offered.
pub(super) type Found = (SafePath, FileStat);

/// How a walk went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Whether the folder itself is there and may be read.
    pub(super) is_readable: bool,
    /// Whether what was not found is not there: nothing failed that may work the next time.
    pub(super) is_complete: bool,
    /// What cannot be offered as it is.
    pub(super) skipped: Skipped,
}

impl Default for Scanned {
    /// Of nothing, all is seen.
    fn default() -> Self {
        Self {
            is_readable: true,
            is_complete: true,
            skipped: Skipped::default(),
        }
    }
}

impl Scanned {
    /// Another walk belongs to it.
    pub(super) fn and(&mut self, other: Self) {
        self.is_readable &= other.is_readable;
        self.is_complete &= other.is_complete;
        self.skipped.count += other.skipped.count;
        self.skipped.first.extend(other.skipped.first);
        self.skipped.first.truncate(NAMED_IN_WARNING);
    }
}

/// Walks a root, has each folder watched before it is read, and tells the files that are offered,
/// each lot sorted by path.
pub(super) fn scan(
    walked: &Root,
    hidden: bool,
    watch: impl Fn(&Path),
    mut tell: impl FnMut(&[Found]),
) -> Scanned {
    let (root, is_whole) = (walked.folder.path(), walked.only.is_none());
    match std::fs::read_dir(root) {
        Err(error) if is_lasting(&error) => {
            return Scanned {
                is_readable: false,
                ..Scanned::default()
            };
        }
        Ok(_) | Err(_) => {}
    }
    let walk = walk_builder(walked, hidden).build();
    let mut walked = Walked::default();
    if is_whole {
        // The folder itself may be named by a link; nothing below it may.
        watch(&root.join("."));
    }
    for entry in walk {
        match entry {
            Ok(entry) => {
                if (entry.depth() > 0 || !is_whole)
                    && entry.file_type().is_some_and(|kind| kind.is_dir())
                {
                    watch(entry.path());
                }
                walked.note(&entry, root);
            }
            Err(error) => {
                walked.failed(error.io_error());
                walked.skipped.count(error.to_string());
            }
        }
        if walked.files.len() == TOLD_AT_ONCE {
            walked.tell(&mut tell);
        }
    }
    walked.tell(&mut tell);
    walked.skipped.warn(root);
    Scanned {
        is_readable: true,
        is_complete: !walked.has_failed,
        skipped: walked.skipped,
    }
}

/// Whether an error says how things are, and not only that the system could not look.
fn is_lasting(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    matches!(
        error.kind(),
        NotFound | NotADirectory | IsADirectory | PermissionDenied
    )
}

fn is_below(path: &SafePath, folder: &[u8]) -> bool {
    let rest = path.as_bytes().strip_prefix(folder);
    rest.is_some_and(|rest| folder.is_empty() || rest.starts_with(b"/"))
}

/// A walk under the rules of what is offered: folders, files, links and whatever else is there.
pub(super) fn walk_builder(root: &Root, hidden: bool) -> ignore::WalkBuilder {
    let mut starts = root.starts().into_iter();
    let mut walk = ignore::WalkBuilder::new(starts.next().unwrap_or_default());
    for start in starts {
        walk.add(start);
    }
    walk.standard_filters(false)
        .hidden(!hidden)
        .follow_links(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| !partial::is_partial_name(entry.file_name().as_bytes()));
    walk
}

#[derive(Default)]
struct Walked {
    files: Vec<Found>,
    skipped: Skipped,
    has_failed: bool,
    /// Folders whose rules could not be read: nothing below them is offered.
    unruled: Vec<Vec<u8>>,
}

impl Walked {
    fn note(&mut self, entry: &ignore::DirEntry, root: &Path) {
        let Ok(relative) = entry.path().strip_prefix(root) else {
            return;
        };
        let relative = relative.as_os_str().as_bytes();
        let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
        let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
        if (is_folder || entry.depth() == 0 && !is_file)
            && let Err(error) = check_rules(entry.path())
        {
            self.failed(Some(&error));
            let rules = entry.path().join(IGNORE_FILE);
            let what = format!("what is below {}: {error}", rules.display());
            self.skipped.count(what);
            self.unruled.push(relative.to_owned());
        }
        if !is_file || entry.file_name() == IGNORE_FILE {
            return;
        }
        let path = match SafePath::new(relative) {
            Ok(path) => path,
            Err(error) => {
                let name = shoal_wire::escape(relative);
                self.skipped.count(format!("{name}: {error}"));
                return;
            }
        };
        // Folders come before what is in them.
        if self.unruled.iter().any(|folder| is_below(&path, folder)) {
            return;
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // One that vanished since its folder was read is simply not there.
            Err(error) => {
                self.failed(error.io_error());
                return;
            }
        };
        let stat = FileStat::from(&metadata);
        if stat.entry_size().is_some() {
            self.files.push((path, stat));
        } else {
            let what = format!("{path}: larger than the largest file");
            self.skipped.count(what);
        }
    }

    fn tell(&mut self, tell: &mut impl FnMut(&[Found])) {
        self.files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        // A folder that changes while it is read may name a file twice.
        self.files.dedup_by(|(a, _), (b, _)| a == b);
        tell(&self.files);
        self.files.clear();
    }

    fn failed(&mut self, error: Option<&io::Error>) {
        self.has_failed |= error.is_some_and(|error| !is_lasting(error));
    }
}

/// Whether a folder's rules, if it has any, can be read: the walk itself takes rules that it cannot
/// read for none.
fn check_rules(folder: &Path) -> io::Result<()> {
    match File::open(folder.join(IGNORE_FILE)) {
        Ok(mut rules) => rules.read(&mut [0]).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Files that are there and cannot be offered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub count: usize,
    /// The first of them, each with what is wrong with it, escaped.
    pub first: Vec<String>,
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

    use shoal_store::folder::Folder;

    use super::*;

    fn whole(path: &Path) -> Root {
        Root {
            folder: Folder::open(path).unwrap(),
            only: None,
        }
    }

    #[test]
    fn of_a_chosen_root_only_what_was_chosen_is_offered() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("album/.raw")).unwrap();
        for file in ["album/.raw/a", "album/b", ".note", "other"] {
            fs::write(root.join(file), file).unwrap();
        }
        let chosen = Root {
            only: Some(vec![".note".into(), "album".into()]),
            ..whole(root)
        };
        let mut names = Vec::new();
        let tell = |found: &[Found]| {
            names.extend(found.iter().map(|(path, _)| path.to_string()));
        };
        scan(&chosen, true, |_| {}, tell);
        assert_eq!(names, [".note", "album/.raw/a", "album/b"]);
    }

    fn names(root: &Path, hidden: bool) -> Vec<String> {
        let mut names = Vec::new();
        let tell = |found: &[Found]| {
            names.extend(found.iter().map(|(path, _)| path.to_string()));
        };
        let scanned = scan(&whole(root), hidden, |_| {}, tell);
        assert!(scanned.is_readable && scanned.is_complete);
        names
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
        assert!(names(folder.path(), false).is_empty());
        let gone = folder.path().join("gone");
        fs::create_dir(&gone).unwrap();
        let root = whole(&gone);
        fs::remove_dir(&gone).unwrap();
        let scanned = scan(&root, false, |_| {}, |_| {});
        assert!(!scanned.is_readable && scanned.is_complete);
    }

    #[test]
    fn rules_that_cannot_be_read_hide_what_is_below_them() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        // A folder opens as a file and cannot be read as one.
        fs::create_dir_all(root.join("a/b").join(IGNORE_FILE)).unwrap();
        for file in ["a/b/ruled", "a/b!", "b"] {
            fs::write(root.join(file), "x").unwrap();
        }
        assert_eq!(names(root, false), ["a/b!", "b"]);
    }
}
