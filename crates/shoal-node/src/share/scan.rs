//! A scan of a share's folder: which files it offers.
//!
//! Regular files only, as the [walk] shows them; symbolic links are neither followed nor offered.
//! Hidden files are skipped unless asked for. What should be offered and cannot be, a name that
//! cannot travel (see [`SafePath`]) or a socket, is an [`Omission`]. What the disk or the system
//! could not show this time is told apart from what is gone. What is found is told some thousands
//! at a time, so that nothing holds all of it.

use std::fmt;
use std::io;
use std::path::Path;

use shoal_store::folder::{FileStat, FolderError};
use shoal_wire::SafePath;
use shoal_wire::limits::OMISSIONS_MAX;
use shoal_wire::manifest::{Omission, OmissionReason, OmittedPath};

use super::roots::Root;
use super::rules::RulesError;
use super::walk::{LeftOut, Met, Walk};

/// Most names in one warning about what was skipped.
const NAMED_IN_WARNING: usize = 3;

/// Files that are gathered before they are told, sorted: about 4 MB, and in folders of usual
/// length whole neighbourhoods of paths.
const TOLD_AT_ONCE: usize = 32 * 1024;

/// A file that is offered.
pub(super) type Found = (SafePath, FileStat);

/// How a scan went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Whether the folder itself is there and may be read.
    pub(super) is_readable: bool,
    /// Whether what was not found is not there: nothing failed that may work the next time.
    pub(super) is_complete: bool,
    /// What cannot be offered as it is.
    pub(super) skipped: Skipped,
    /// Folders of which nothing may be offered, whatever else could not be seen.
    pub(super) closed: Vec<Vec<u8>>,
}

impl Default for Scanned {
    /// Of nothing, all is seen.
    fn default() -> Self {
        Self {
            is_readable: true,
            is_complete: true,
            skipped: Skipped::default(),
            closed: Vec::new(),
        }
    }
}

impl Scanned {
    /// Another root belongs to it.
    pub(super) fn and(&mut self, other: Self) {
        self.is_readable &= other.is_readable;
        self.is_complete &= other.is_complete;
        self.skipped.and(other.skipped);
        self.closed.extend(other.closed);
    }
}

/// Walks a root, has each folder watched before it is read, and tells the files that are offered,
/// each lot sorted by path.
pub(super) fn scan(
    root: &Root,
    hidden: bool,
    watch: impl Fn(&Path),
    mut tell: impl FnMut(&[Found]),
) -> Scanned {
    let mut seen = Seen::default();
    match root.open_anew() {
        Ok(()) => {}
        Err(FolderError::Other { source, .. }) => seen.failed(&source),
        Err(_) => {
            return Scanned {
                is_readable: false,
                closed: root.names(),
                ..Scanned::default()
            };
        }
    }
    let mut walk = Walk::new(root, hidden, None, watch);
    for met in walk.by_ref() {
        seen.note(met);
        if seen.files.len() == TOLD_AT_ONCE {
            seen.tell(&mut tell);
        }
    }
    seen.tell(&mut tell);
    seen.skipped.ignored = walk.ignored();
    Scanned {
        is_readable: true,
        is_complete: !seen.has_failed,
        skipped: seen.skipped,
        closed: seen.closed,
    }
}

/// Whether an error says how things are, and not only that the system could not look.
fn is_lasting(error: &io::Error) -> bool {
    use io::ErrorKind::{
        FileTooLarge, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound,
        PermissionDenied,
    };
    matches!(
        error.kind(),
        NotFound
            | NotADirectory
            | IsADirectory
            | PermissionDenied
            | InvalidInput
            | FileTooLarge
            | InvalidFilename
    )
}

/// What a walk came to so far.
#[derive(Default)]
struct Seen {
    files: Vec<Found>,
    skipped: Skipped,
    closed: Vec<Vec<u8>>,
    has_failed: bool,
}

impl Seen {
    fn note(&mut self, met: Met) {
        match met {
            Met::File(path, stat) => self.file(&path, stat),
            Met::Folder(..) | Met::Link(..) => {}
            Met::Special(path) => self.skipped.count(&path, OmissionReason::Special, &""),
            Met::LeftOut(folder, why) => self.left_out(folder, &why),
            Met::Failed(path, error) => {
                self.failed(&error);
                // One that vanished meanwhile is simply not there.
                if error.kind() != io::ErrorKind::NotFound {
                    self.skipped
                        .count(&path, OmissionReason::Unreadable, &error);
                }
            }
        }
    }

    fn file(&mut self, path: &[u8], stat: FileStat) {
        match SafePath::new(path) {
            Ok(path) if stat.entry_size().is_some() => self.files.push((path, stat)),
            Ok(_) => self.skipped.count(path, OmissionReason::TooLarge, &""),
            Err(error) => self.skipped.count(path, OmissionReason::Name, &error),
        }
    }

    fn left_out(&mut self, folder: Vec<u8>, why: &LeftOut) {
        match why {
            LeftOut::Private => {
                self.skipped.count(&folder, OmissionReason::Private, &"");
                self.skipped.private += 1;
                self.closed.push(folder);
            }
            LeftOut::Unruled(error) => {
                self.skipped.count(&folder, OmissionReason::Rules, error);
                match error {
                    RulesError::Unreadable(source) if !is_lasting(source) => self.has_failed = true,
                    _ => self.closed.push(folder),
                }
            }
        }
    }

    fn tell(&mut self, tell: &mut impl FnMut(&[Found])) {
        self.files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        // A folder that changes while it is read may name a file twice.
        self.files.dedup_by(|(a, _), (b, _)| a == b);
        tell(&self.files);
        self.files.clear();
    }

    fn failed(&mut self, error: &io::Error) {
        self.has_failed |= !is_lasting(error);
    }
}

/// What should be offered and cannot be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many entries; a folder that is left out with all that is in it counts once.
    pub count: u64,
    /// Them, by path, [`OMISSIONS_MAX`] at most.
    pub named: Vec<Omission>,
    /// How many entries the owner's rules hide.
    pub ignored: u64,
    /// How many of the entries are private folders: only their owner is told of them.
    private: u64,
    /// The first of them for the log, each with all that is known of what is wrong with it.
    first: Vec<String>,
}

impl Skipped {
    fn count(&mut self, path: &[u8], reason: OmissionReason, detail: &dyn fmt::Display) {
        self.count += 1;
        if self.first.len() < NAMED_IN_WARNING {
            let name = shoal_wire::escape(path);
            let detail = detail.to_string();
            self.first.push(match detail.as_str() {
                "" => format!("{name}: {reason}"),
                detail => format!("{name}: {reason} ({detail})"),
            });
        }
        // The root itself goes by no name.
        let path = if path.is_empty() { b"." } else { path };
        if self.named.len() < OMISSIONS_MAX
            && let Some(path) = OmittedPath::truncated(path)
        {
            self.named.push(Omission { path, reason });
        }
    }

    fn and(&mut self, other: Self) {
        self.count += other.count;
        self.ignored += other.ignored;
        self.private += other.private;
        self.named.extend(other.named);
        self.named.sort_unstable();
        self.named.truncate(OMISSIONS_MAX);
        self.first.extend(other.first);
        self.first.truncate(NAMED_IN_WARNING);
    }

    /// What others may know of it below a folder: how many, and those that are named.
    pub(crate) fn below(self, folder: Option<&SafePath>) -> (u64, Vec<Omission>) {
        let mut named = self.named;
        named.retain(|omission| omission.reason != OmissionReason::Private);
        let Some(folder) = folder else {
            return (self.count - self.private, named);
        };
        named.retain(|omission| omission.path.is_below(folder));
        (named.len() as u64, named)
    }

    /// Says so in the log.
    pub(super) fn warn(&self) {
        if self.count > 0 {
            let first = self.first.join("; ");
            tracing::warn!(count = self.count, %first, "files are not offered");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use shoal_store::folder::Folder;

    use super::*;
    use crate::share::rules::IGNORE_FILE;

    fn whole(path: &Path) -> Root {
        Root::new(Folder::open(path).unwrap(), None)
    }

    #[test]
    fn of_a_chosen_root_only_what_was_chosen_is_offered() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("album/.raw")).unwrap();
        for file in ["album/.raw/a", "album/b", ".note", "other"] {
            fs::write(root.join(file), file).unwrap();
        }
        let names = vec![".note".into(), "album".into()];
        let chosen = Root::new(Folder::open(root).unwrap(), Some(names));
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
    fn rules_that_cannot_be_read_or_understood_hide_what_is_below_them() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let rules = |path: &str| at(path).join("b").join(IGNORE_FILE);
        for place in [
            "folder", "pattern", "class", "text", "long", "pipe", "gone", "good", "linked",
        ] {
            fs::create_dir_all(at(place).join("b/c")).unwrap();
            for file in ["b/hidden.tmp", "b/c/hidden.tmp", "b/ok", "b!"] {
                fs::write(at(place).join(file), "x").unwrap();
            }
        }
        // A folder opens as a file and cannot be read as one.
        fs::create_dir(rules("folder")).unwrap();
        fs::write(rules("pattern"), "*.tmp\n[z-a]\n").unwrap();
        fs::write(rules("class"), "*.tmp\na[\n").unwrap();
        fs::write(rules("text"), b"*.tmp\n\xff\n").unwrap();
        fs::write(rules("long"), "*.tmp\n".repeat(20_000)).unwrap();
        let kind = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, rules("pipe"), kind, mode, 0).unwrap();
        symlink("nowhere", rules("gone")).unwrap();
        fs::write(rules("good"), "\u{feff}*.tmp\r\n").unwrap();
        symlink(rules("good"), rules("linked")).unwrap();
        let expected = [
            "class/b!",
            "folder/b!",
            "gone/b!",
            "good/b!",
            "good/b/ok",
            "linked/b!",
            "linked/b/ok",
            "long/b!",
            "pattern/b!",
            "pipe/b!",
            "text/b!",
        ];
        assert_eq!(names(folder.path(), false), expected);
        let scanned = scan(&whole(folder.path()), false, |_| {}, |_| {});
        assert_eq!((scanned.skipped.count, scanned.closed.len()), (7, 7));
        // Rules above the root are nobody's.
        assert_eq!(names(&at("good/b/c"), false), ["hidden.tmp"]);
    }

    #[test]
    fn a_folder_with_keys_is_left_out_wherever_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("deep/.state");
        fs::create_dir_all(&state).unwrap();
        shoal_store::private::mark(&state).unwrap();
        for file in ["deep/.state/contacts.toml", "deep/b"] {
            fs::write(folder.path().join(file), "x").unwrap();
        }
        assert_eq!(names(folder.path(), true), ["deep/b"]);
        // Its owner is told of it, and nobody else.
        let skipped = scan(&whole(folder.path()), true, |_| {}, |_| {}).skipped;
        assert_eq!((skipped.count, skipped.named.len()), (1, 1));
        let below = "deep".parse().unwrap();
        for folder in [None, Some(&below)] {
            assert_eq!(skipped.clone().below(folder), (0, Vec::new()));
        }
        fs::rename(&state, folder.path().join("moved")).unwrap();
        assert_eq!(names(folder.path(), true), ["deep/b"]);
        let root = whole(folder.path());
        shoal_store::private::mark(folder.path()).unwrap();
        assert!(!scan(&root, true, |_| {}, |_| {}).is_readable);
    }
}
