//! What was accepted, exactly, and where it goes.
//!
//! What a person has seen is what is taken: files that the sender lists afterwards, or lists with
//! another size, are left out and told. What of it has arrived is remembered, so that a file which
//! the sender lists no more is missed in the end. A folder that would land among files of somebody
//! else goes into a fresh one beside it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shoal_node::fetch::Choose;
use shoal_store::folder::Folder;
use shoal_store::partial::is_partial_name;
use shoal_wire::SafePath;
use shoal_wire::manifest::EntryKind;

use super::listing::Listing;
use crate::output::Output;

/// Fresh names that are tried for one folder.
const NAMES_TRIED: u32 = 1_000;

/// Which of the offer's folders go by another name here.
#[derive(Debug, Default, Clone)]
pub(super) struct Placement(BTreeMap<SafePath, SafePath>);

impl Placement {
    /// Where the folders of the offer go, so that none lands among other files. Blocks for as long
    /// as it takes to list what is there.
    pub(super) fn beside(folder: &Folder, listing: &Listing) -> Self {
        let paths: BTreeSet<&[u8]> = listing
            .files()
            .iter()
            .map(|file| file.path.as_bytes())
            .collect();
        let files = listing.files().iter().map(|file| &file.path);
        let with_files = files.filter_map(|path| Some(top_of(&path.parent()?)));
        let folders = listing.folders().iter().map(top_of);
        let tops: BTreeSet<SafePath> = with_files.chain(folders).collect();
        let mut moved = BTreeMap::new();
        for top in tops {
            let mut number = 1;
            while number < NAMES_TRIED {
                let Some(name) = numbered(&top, number) else {
                    break;
                };
                if !is_mixed(folder, (&top, &name), &paths) {
                    if number > 1 {
                        moved.insert(top, name);
                    }
                    break;
                }
                number += 1;
            }
        }
        Self(moved)
    }

    /// Folders that go elsewhere, and where.
    pub(super) fn moved(&self) -> impl Iterator<Item = (&SafePath, &SafePath)> {
        self.0.iter()
    }

    /// Where a file of the offer goes.
    pub(super) fn target_of(&self, path: &SafePath) -> SafePath {
        let top = top_of(path);
        let moved = self
            .0
            .get(&top)
            .and_then(|name| name.join(&path.below(&top)?).ok());
        moved.unwrap_or_else(|| path.clone())
    }
}

/// The first name of a path.
pub(super) fn top_of(path: &SafePath) -> SafePath {
    let first = path.as_bytes().split(|byte| *byte == b'/').next();
    let top = first.and_then(|first| SafePath::new(first).ok());
    top.unwrap_or_else(|| path.clone())
}

/// `photos`, `photos (2)`, `photos (3)`.
fn numbered(top: &SafePath, number: u32) -> Option<SafePath> {
    if number == 1 {
        return Some(top.clone());
    }
    let mut bytes = top.as_bytes().to_vec();
    bytes.extend_from_slice(format!(" ({number})").as_bytes());
    SafePath::new(&bytes).ok()
}

/// Whether something lies at `name` that is neither of the offer's folder `top` nor on its way
/// there.
fn is_mixed(folder: &Folder, (top, name): (&SafePath, &SafePath), paths: &BTreeSet<&[u8]>) -> bool {
    let place = folder.path_of(name);
    let Ok(kind) = std::fs::symlink_metadata(&place) else {
        return false;
    };
    !kind.is_dir() || holds_others(&place, top.as_bytes(), paths)
}

fn holds_others(place: &Path, below: &[u8], paths: &BTreeSet<&[u8]>) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(entries) = std::fs::read_dir(place) else {
        return true;
    };
    for entry in entries {
        let Ok(entry) = entry else { return true };
        let name = entry.file_name();
        if is_partial_name(name.as_bytes()) {
            continue;
        }
        let path = [below, b"/", name.as_bytes()].concat();
        let is_other = match entry.file_type() {
            Ok(kind) if kind.is_dir() => holds_others(&entry.path(), &path, paths),
            Ok(kind) if kind.is_file() => !paths.contains(&path[..]),
            _ => true,
        };
        if is_other {
            return true;
        }
    }
    false
}

/// What a person has said yes to.
pub(super) struct Accepted {
    files: Arc<Files>,
    placement: Placement,
}

/// Hashes of target and size of each file, in order: a million of them take some megabytes.
struct Files {
    hashes: Vec<u64>,
    hasher: RandomState,
    /// Which of them are there.
    arrived: Vec<AtomicBool>,
    /// Of the target of each folder.
    folders: HashSet<u64>,
    others: AtomicU64,
}

impl Files {
    /// Where among the accepted files one is.
    fn position(&self, target: &SafePath, bytes: u64) -> Option<usize> {
        let hash = self.hasher.hash_one((target, bytes));
        self.hashes.binary_search(&hash).ok()
    }

    fn has_folder(&self, target: &SafePath) -> bool {
        self.folders.contains(&self.hasher.hash_one(target))
    }

    fn has_arrived(&self, position: usize) -> bool {
        self.arrived[position].load(Ordering::Relaxed)
    }
}

impl Accepted {
    pub(super) fn new(listing: Listing, placement: Placement) -> Self {
        let hasher = RandomState::new();
        let hash = |file: &super::listing::Listed| {
            hasher.hash_one((&placement.target_of(&file.path), file.bytes))
        };
        let mut hashes: Vec<u64> = listing.files().iter().map(hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let arrived = hashes.iter().map(|_| AtomicBool::new(false)).collect();
        let folders = listing.folders().iter();
        let folders = folders
            .map(|folder| hasher.hash_one(placement.target_of(folder)))
            .collect();
        Self {
            files: Arc::new(Files {
                hashes,
                hasher,
                arrived,
                folders,
                others: AtomicU64::new(0),
            }),
            placement,
        }
    }

    /// What to fetch: all but the folders that go elsewhere, then each of those.
    pub(super) fn trees(&self) -> Vec<(Option<SafePath>, Option<SafePath>)> {
        let moved = self.placement.moved();
        let moved = moved.map(|(top, name)| (Some(top.clone()), Some(name.clone())));
        std::iter::once((None, None)).chain(moved).collect()
    }

    /// What of one of these trees was accepted, and is not there yet. What `wanted` leaves out was
    /// never asked for: nobody has to hear of it.
    pub(super) fn choose(&self, remote: Option<&SafePath>, wanted: Option<Choose>) -> Choose {
        let (files, remote) = (Arc::clone(&self.files), remote.cloned());
        let placement = self.placement.clone();
        Arc::new(move |below, kind| {
            let path = match &remote {
                Some(remote) => remote.join(below).ok(),
                None if placement.0.contains_key(&top_of(below)) => return false,
                None => Some(below.clone()),
            };
            let is_wanted = |path| wanted.as_ref().is_none_or(|wanted| wanted(path, kind));
            if !path.as_ref().is_none_or(is_wanted) {
                return false;
            }
            let target = path.map(|path| placement.target_of(&path));
            let size = match kind {
                EntryKind::File { size, .. } => size,
                EntryKind::Folder => return target.is_some_and(|target| files.has_folder(&target)),
                EntryKind::Symlink { .. } => return true,
            };
            let accepted = target.and_then(|target| files.position(&target, size.bytes()));
            match accepted {
                Some(position) => !files.has_arrived(position),
                None => {
                    files.others.fetch_add(1, Ordering::Relaxed);
                    false
                }
            }
        })
    }

    /// A file is there.
    pub(super) fn arrived(&self, target: &SafePath, bytes: u64) {
        if let Some(position) = self.files.position(target, bytes) {
            self.files.arrived[position].store(true, Ordering::Relaxed);
        }
    }

    /// How many of the accepted files are not there.
    pub(super) fn missing(&self) -> u64 {
        let arrived = self.files.arrived.iter();
        let missing = arrived.filter(|arrived| !arrived.load(Ordering::Relaxed));
        missing.count() as u64
    }

    /// Tells of files that were not in what was accepted.
    pub(super) fn warn_of_others(&self, output: &Output) {
        let others = self.files.others.load(Ordering::Relaxed);
        if others > 0 {
            output.warn(&format!(
                "{others} file(s) came up that were not in the list you accepted, or changed since; they were left out: receive again to see them"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_node::fetch::Planned;
    use shoal_wire::FileSize;

    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let mut listing = Listing::default();
        for path in paths {
            listing.push(path.parse().unwrap(), 5, Planned::Fetch);
        }
        listing
    }

    fn file(bytes: u64) -> EntryKind {
        EntryKind::File {
            size: FileSize::new(bytes).unwrap(),
            hash: None,
        }
    }

    #[test]
    fn a_folder_goes_beside_one_with_other_files_and_on_into_its_own() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let offer = listing(&["album/a", "album/deep/b", "note"]);
        let placed = || Placement::beside(&folder, &offer).target_of(&"album/a".parse().unwrap());
        std::fs::create_dir_all(place.path().join("album/deep")).unwrap();
        std::fs::write(place.path().join("album/deep/b"), "half").unwrap();
        assert_eq!(placed().to_string(), "album/a");
        std::fs::write(place.path().join("album/mine"), "x").unwrap();
        assert_eq!(placed().to_string(), "album (2)/a");
        std::fs::create_dir(place.path().join("album (2)")).unwrap();
        std::fs::write(place.path().join("album (2)/a"), "x").unwrap();
        assert_eq!(placed().to_string(), "album (2)/a");
        std::fs::write(place.path().join("album (2)/other"), "x").unwrap();
        assert_eq!(placed().to_string(), "album (3)/a");
        let note = Placement::beside(&folder, &offer).target_of(&"note".parse().unwrap());
        assert_eq!(note.to_string(), "note");
    }

    #[test]
    fn only_what_was_shown_is_taken() {
        let accepted = Accepted::new(listing(&["album/a", "note"]), Placement::default());
        let choose = accepted.choose(None, None);
        assert!(choose(&"album/a".parse().unwrap(), &file(5)));
        assert!(!choose(&"album/a".parse().unwrap(), &file(6)), "grown");
        assert!(!choose(&"album/hidden".parse().unwrap(), &file(5)));
        assert_eq!(accepted.files.others.load(Ordering::Relaxed), 2);
        let wanted: Choose = Arc::new(|path, _| path.as_bytes() == b"note");
        let choose = accepted.choose(None, Some(wanted));
        assert!(choose(&"note".parse().unwrap(), &file(5)));
        assert!(!choose(&"album/left-out".parse().unwrap(), &file(5)));
        assert_eq!(accepted.files.others.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_has_arrived_is_not_taken_again_and_the_rest_is_missing() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        std::fs::create_dir(place.path().join("album")).unwrap();
        std::fs::write(place.path().join("album/mine"), "x").unwrap();
        let offer = listing(&["album/a", "note"]);
        let placement = Placement::beside(&folder, &offer);
        let accepted = Accepted::new(offer, placement);
        let album = accepted.choose(Some(&"album".parse().unwrap()), None);
        let a = "a".parse().unwrap();
        assert!(album(&a, &file(5)));
        assert_eq!(accepted.missing(), 2);
        accepted.arrived(&"album (2)/a".parse().unwrap(), 5);
        assert!(!album(&a, &file(5)));
        assert_eq!(accepted.missing(), 1);
        assert_eq!(accepted.files.others.load(Ordering::Relaxed), 0);
    }
}
