//! What a share holds, in memory, and the order in which it changed.
//!
//! Every change gives a path a new version; the log orders paths by version, each path once. A
//! follower that knows how far it has read gets just what changed since, however long it was
//! away: a path that is in the log but not among the files is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use shoal_store::folder::FileStat;
use shoal_wire::limits::{ANNOUNCE_MAX_ENTRIES, BATCH_TARGET_BYTES};
use shoal_wire::{FileEntry, Hash, SafePath};

use super::scan::Found;
use super::{Batch, Rescanned, SharedFile, Totals};

/// Bytes of an entry in a batch besides its path: size, time, mode, hash and their tags, at most.
const ENTRY_OVERHEAD_BYTES: usize = 72;

#[derive(Debug, Default)]
pub(super) struct Table {
    files: BTreeMap<SafePath, Listed>,
    by_hash: BTreeMap<Hash, BTreeSet<SafePath>>,
    unhashed: BTreeSet<SafePath>,
    log: BTreeMap<u64, SafePath>,
    gone: BTreeMap<SafePath, u64>,
    last_version: u64,
    total_bytes: u64,
}

#[derive(Debug)]
struct Listed {
    file: SharedFile,
    version: u64,
}

impl Table {
    pub(super) fn file(&self, path: &SafePath) -> Option<&SharedFile> {
        self.files.get(path).map(|listed| &listed.file)
    }

    pub(super) fn by_hash(&self, hash: &Hash) -> Option<&SharedFile> {
        self.all_by_hash(hash).next()
    }

    pub(super) fn all_by_hash(&self, hash: &Hash) -> impl Iterator<Item = &SharedFile> {
        let paths = self.by_hash.get(hash).into_iter().flatten();
        paths.filter_map(|path| self.file(path))
    }

    pub(super) fn totals(&self) -> Totals {
        let files = self.files.len() as u64;
        Totals {
            files,
            total_bytes: self.total_bytes,
            hashed: files - self.unhashed.len() as u64,
        }
    }

    pub(super) fn last_version(&self) -> u64 {
        self.last_version
    }

    /// Files in byte order of their paths, below `prefix` or just that one, after `after`.
    pub(super) fn page(
        &self,
        prefix: Option<&SafePath>,
        after: Option<&SafePath>,
        limit: usize,
    ) -> (Vec<FileEntry>, bool) {
        let start = match (prefix, after) {
            (Some(prefix), Some(after)) if prefix > after => Bound::Included(prefix),
            (_, Some(after)) => Bound::Excluded(after),
            (Some(prefix), None) => Bound::Included(prefix),
            (None, None) => Bound::Unbounded,
        };
        let inside = |path: &SafePath| {
            prefix.is_none_or(|prefix| path == prefix || path.below(prefix).is_some())
        };
        let past = |path: &SafePath| {
            // "a!" sorts between "a" and "a/b": only what no longer starts with the prefix is past.
            prefix.is_some_and(|prefix| !path.as_bytes().starts_with(prefix.as_bytes()))
        };
        let mut matching = self
            .files
            .range::<SafePath, _>((start, Bound::Unbounded))
            .take_while(|(path, _)| !past(path))
            .filter(|(path, _)| inside(path))
            .map(|(_, listed)| &listed.file.entry);
        let (mut page, mut bytes) = (Vec::new(), 0);
        for entry in matching.by_ref() {
            if page.len() >= limit || bytes > BATCH_TARGET_BYTES {
                return (page, true);
            }
            bytes += entry.path.as_bytes().len() + ENTRY_OVERHEAD_BYTES;
            page.push(entry.clone());
        }
        (page, false)
    }

    /// Takes over what a scan found. Files whose stat is the same keep their hash; those that could
    /// not be hashed are tried again. What a complete scan did not find is gone.
    pub(super) fn scanned(&mut self, found: Found) -> Rescanned {
        let Found {
            files: found,
            is_complete,
        } = found;
        let is_gone = |path: &&SafePath| is_complete && !found.contains_key(*path);
        let gone: Vec<SafePath> = self.files.keys().filter(is_gone).cloned().collect();
        let removed = gone.len() as u64;
        for path in gone {
            self.remove(&path);
        }
        let mut changed = 0;
        for (path, stat) in found {
            let known = self.file(&path).filter(|known| known.stat == stat);
            if let Some(known) = known {
                if known.entry.hash.is_none() {
                    self.unhashed.insert(path);
                }
            } else if let Some(size) = stat.entry_size() {
                let entry = FileEntry {
                    path,
                    size,
                    mtime_ns: stat.mtime_ns,
                    mode: stat.mode & 0o7777,
                    hash: None,
                };
                self.put(SharedFile { entry, stat });
                changed += 1;
            }
        }
        Rescanned {
            files: self.files.len() as u64,
            changed,
            removed,
        }
    }

    /// Adds a file or puts it in place of another at the same path.
    pub(super) fn put(&mut self, file: SharedFile) {
        let path = file.entry.path.clone();
        self.unlist(&path);
        if let Some(version) = self.gone.remove(&path) {
            self.log.remove(&version);
        }
        match file.entry.hash {
            Some(hash) => {
                self.by_hash.entry(hash).or_default().insert(path.clone());
            }
            None => {
                self.unhashed.insert(path.clone());
            }
        }
        self.total_bytes += file.entry.size.bytes();
        let version = self.log_change(&path);
        self.files.insert(path, Listed { file, version });
    }

    /// Takes a file out. Tells whether it was there.
    pub(super) fn remove(&mut self, path: &SafePath) -> bool {
        let was_there = self.unlist(path);
        if was_there {
            let version = self.log_change(path);
            self.gone.insert(path.clone(), version);
        }
        was_there
    }

    /// Sets the hash of the version of a file that has `stat`. Tells whether that is listed.
    pub(super) fn hashed(&mut self, path: &SafePath, stat: &FileStat, hash: Hash) -> bool {
        let Some(known) = self.file(path).filter(|known| known.stat == *stat) else {
            return false;
        };
        if known.entry.hash != Some(hash) {
            let mut file = known.clone();
            file.entry.hash = Some(hash);
            self.put(file);
        }
        true
    }

    /// Some of the files that have no hash yet, after `after` in path order.
    pub(super) fn unhashed_after(&self, after: Option<&SafePath>, limit: usize) -> Vec<SharedFile> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.unhashed
            .range::<SafePath, _>((start, Bound::Unbounded))
            .filter_map(|path| self.file(path).cloned())
            .take(limit)
            .collect()
    }

    /// The file cannot be hashed as it is: it stays listed without.
    pub(super) fn unhashable(&mut self, path: &SafePath, stat: &FileStat) {
        if self.file(path).is_some_and(|known| known.stat == *stat) {
            self.unhashed.remove(path);
        }
    }

    pub(super) fn has_unhashed(&self) -> bool {
        !self.unhashed.is_empty()
    }

    /// What changed after version `seen`, at most one announce full, and how far that reads.
    pub(super) fn batch_after(&self, seen: u64) -> (Batch, u64) {
        let mut batch = Batch::default();
        let (mut entries, mut bytes, mut read) = (0, 0, seen);
        batch.complete = true;
        for (version, path) in self.log.range((Bound::Excluded(seen), Bound::Unbounded)) {
            if entries >= ANNOUNCE_MAX_ENTRIES || bytes > BATCH_TARGET_BYTES {
                batch.complete = false;
                break;
            }
            entries += 1;
            bytes += path.as_bytes().len() + ENTRY_OVERHEAD_BYTES;
            read = *version;
            match self.file(path) {
                Some(file) => batch.added.push(file.entry.clone()),
                None => batch.removed.push(path.clone()),
            }
        }
        (batch, read)
    }

    fn log_change(&mut self, path: &SafePath) -> u64 {
        self.last_version += 1;
        self.log.insert(self.last_version, path.clone());
        self.last_version
    }

    fn unlist(&mut self, path: &SafePath) -> bool {
        let Some(listed) = self.files.remove(path) else {
            return false;
        };
        self.log.remove(&listed.version);
        self.unhashed.remove(path);
        self.total_bytes -= listed.file.entry.size.bytes();
        if let Some(hash) = listed.file.entry.hash
            && let Some(paths) = self.by_hash.get_mut(&hash)
        {
            paths.remove(path);
            if paths.is_empty() {
                self.by_hash.remove(&hash);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(size: u64, mtime_ns: i64) -> FileStat {
        FileStat {
            size,
            mtime_ns,
            ctime_ns: mtime_ns,
            device: 1,
            inode: 1,
            mode: 0o100_644,
        }
    }

    fn found(paths: &[&str]) -> Found {
        found_all(paths.iter().map(|path| (path.parse().unwrap(), stat(3, 5))))
    }

    fn found_all(files: impl Iterator<Item = (SafePath, FileStat)>) -> Found {
        Found {
            files: files.collect(),
            is_complete: true,
        }
    }

    fn names(entries: &[FileEntry]) -> Vec<String> {
        entries.iter().map(|entry| entry.path.to_string()).collect()
    }

    #[test]
    fn a_page_of_a_folder_has_what_is_below_it_and_nothing_beside_it() {
        let mut table = Table::default();
        table.scanned(found(&["a", "b!", "b/1", "b/2", "b/c/3", "b0", "c"]));
        let folder: SafePath = "b".parse().unwrap();
        let (page, more) = table.page(Some(&folder), None, 2);
        assert_eq!(
            (names(&page), more),
            (vec!["b/1".into(), "b/2".into()], true)
        );
        let (page, more) = table.page(Some(&folder), Some(&page[1].path), 2);
        assert_eq!((names(&page), more), (vec!["b/c/3".into()], false));
        let (page, _) = table.page(Some(&"a".parse().unwrap()), None, 9);
        assert_eq!(names(&page), ["a"]);
        assert_eq!(table.page(None, None, 9).0.len(), 7);
    }

    #[test]
    fn a_follower_gets_each_change_once_and_the_last_state_of_each_path() {
        let mut table = Table::default();
        table.scanned(found(&["a", "b"]));
        let (batch, seen) = table.batch_after(0);
        assert_eq!(names(&batch.added), ["a", "b"]);
        let (a, b): (SafePath, SafePath) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!(table.hashed(&a, &stat(3, 5), Hash::new([1; 32])));
        table.remove(&b);
        table.scanned(found(&["a", "c"]));
        table.remove(&"c".parse().unwrap());
        let (batch, seen) = table.batch_after(seen);
        assert_eq!(names(&batch.added), ["a"]);
        assert_eq!(batch.removed.len(), 2);
        assert_eq!(
            table.batch_after(seen).0,
            Batch {
                complete: true,
                ..Batch::default()
            }
        );
    }

    #[test]
    fn a_changed_file_loses_its_hash_and_an_unchanged_one_keeps_it() {
        let mut table = Table::default();
        table.scanned(found(&["a"]));
        let a: SafePath = "a".parse().unwrap();
        let hash = Hash::new([1; 32]);
        assert!(table.hashed(&a, &stat(3, 5), hash));
        assert!(!table.hashed(&a, &stat(4, 5), Hash::new([2; 32])));
        assert_eq!(table.scanned(found(&["a"])).changed, 0);
        assert!(table.by_hash(&hash).is_some() && !table.has_unhashed());
        table.scanned(found_all([(a.clone(), stat(3, 6))].into_iter()));
        assert!(table.by_hash(&hash).is_none() && table.has_unhashed());
        assert_eq!(
            table.totals(),
            Totals {
                files: 1,
                total_bytes: 3,
                hashed: 0
            }
        );
    }

    #[test]
    fn what_an_incomplete_scan_did_not_see_stays_and_what_was_not_hashed_is_tried_again() {
        let mut table = Table::default();
        table.scanned(found(&["a", "b"]));
        let a: SafePath = "a".parse().unwrap();
        table.unhashable(&a, &stat(3, 5));
        table.unhashable(&"b".parse().unwrap(), &stat(3, 5));
        assert!(!table.has_unhashed());
        let mut incomplete = found(&["a", "c"]);
        incomplete.is_complete = false;
        let scanned = table.scanned(incomplete);
        assert_eq!((scanned.files, scanned.removed), (3, 0));
        let tried = table.unhashed_after(None, 9);
        assert_eq!(tried.len(), 2);
        assert_eq!(table.scanned(found(&["a"])).removed, 2);
    }

    #[test]
    fn a_batch_stays_within_one_announce() {
        let mut table = Table::default();
        let many = (0..ANNOUNCE_MAX_ENTRIES + 10).map(|number| format!("f{number}"));
        table.scanned(found_all(
            many.map(|path| (path.parse().unwrap(), stat(1, 1))),
        ));
        let (batch, seen) = table.batch_after(0);
        assert_eq!(
            (batch.added.len(), batch.complete),
            (ANNOUNCE_MAX_ENTRIES, false)
        );
        let (batch, _) = table.batch_after(seen);
        assert_eq!((batch.added.len(), batch.complete), (10, true));
    }
}
