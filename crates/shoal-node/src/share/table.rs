//! What a share holds, in memory, and what of it changed since when.
//!
//! Every change gives a path a new version. A follower reads in rounds: each goes through the
//! paths in order and tells those with a version after the last round's, so it gets the last state
//! of everything that changed, however long it was away, and nothing is kept for it meanwhile but
//! the paths that are gone. The first round is the whole listing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use shoal_store::folder::FileStat;
use shoal_wire::limits::{ANNOUNCE_MAX_ENTRIES, BATCH_TARGET_BYTES};
use shoal_wire::{FileEntry, Hash, SafePath};

use super::paths::PathMap;
use super::record::{Content, Record};
use super::{Batch, Changes, Rescanned, SharedFile, Totals};

/// Bytes of an entry in a batch besides its path: size, time, mode, hash and their tags, at most.
const ENTRY_OVERHEAD_BYTES: usize = 72;

/// Contents that are remembered beyond twice those that are listed.
const CONTENTS_SPARE: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Table {
    records: PathMap<Record>,
    last_version: u64,
    total_bytes: u64,
    unhashed: u64,
    /// How many are hashed and to be hashed again.
    doubtful: u64,
    gone: u64,
    scan: Scan,
    /// For each follower the version up to which it was told everything.
    followers: BTreeMap<u64, u64>,
    next_follower: u64,
    /// The first bytes of every hash that is listed, and of some that are not any more: most
    /// questions for a content that is not here need no walk over all files.
    contents: BTreeSet<u64>,
}

/// A scan under way, and its parity when there is none.
#[derive(Debug, Default)]
struct Scan {
    parity: bool,
    changed: u64,
    changes: Changes,
}

/// How far a follower has read.
#[derive(Debug)]
pub(super) struct Reading {
    follower: u64,
    /// Everything up to this version was told.
    seen: u64,
    /// What the round under way leads to, and the last path of it that was told.
    round: Option<(u64, SafePath)>,
}

impl Table {
    pub(super) fn file(&self, path: &SafePath) -> Option<SharedFile> {
        self.records.get(path)?.file(path.clone())
    }

    /// Files with this content, at most so many.
    pub(super) fn by_hash(&self, hash: &Hash, limit: usize) -> Vec<SharedFile> {
        let mut files = Vec::new();
        if limit == 0 || !self.contents.contains(&prefix_of(hash)) {
            return files;
        }
        self.records.visit(
            Bound::Unbounded,
            |_| true,
            |path, record| {
                if record.content == Content::Hashed(*hash)
                    && let Ok(path) = SafePath::new(path)
                {
                    files.extend(record.file(path));
                }
                if files.len() < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        );
        files
    }

    pub(super) fn totals(&self) -> Totals {
        let files = self.records.len() as u64 - self.gone;
        Totals {
            files,
            total_bytes: self.total_bytes,
            hashed: files - self.unhashed,
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
        let (mut page, mut bytes) = (Vec::new(), 0);
        let start = start.map(SafePath::as_bytes);
        let more = self.records.visit(
            start,
            |_| true,
            |path, record| {
                match prefix.map(|prefix| path.strip_prefix(prefix.as_bytes())) {
                    None | Some(Some([] | [b'/', ..])) => {}
                    // "a!" sorts between "a" and "a/b".
                    Some(Some(_)) => return ControlFlow::Continue(()),
                    Some(None) => return ControlFlow::Break(false),
                }
                if let Some(entry) = SafePath::new(path).ok().and_then(|path| record.entry(path)) {
                    if page.len() >= limit || bytes > BATCH_TARGET_BYTES {
                        return ControlFlow::Break(true);
                    }
                    bytes += path.len() + ENTRY_OVERHEAD_BYTES;
                    page.push(entry);
                }
                ControlFlow::Continue(())
            },
        );
        (page, more == Some(true))
    }

    /// A scan begins: what it does not find until [`scanned`](Self::scanned) is gone.
    pub(super) fn scan_begins(&mut self) {
        self.scan = Scan {
            parity: !self.scan.parity,
            ..Scan::default()
        };
    }

    /// Takes over some of what a scan found, sorted by path. Files of the same version keep their
    /// hash; those that could not be hashed are tried again.
    pub(super) fn found(&mut self, files: &[(SafePath, FileStat)]) {
        let Self {
            records,
            last_version,
            total_bytes,
            unhashed,
            doubtful,
            gone,
            scan,
            ..
        } = self;
        let mut paths = files.iter().map(|(path, _)| path);
        records.put_all(files, |stat, known| {
            // They are asked for in their order.
            let path = paths.next();
            if let Some(known) = known.filter(|known| !known.is_gone()) {
                *unhashed -= u64::from(known.content == Content::Unhashed);
                *doubtful -= u64::from(known.is_doubtful);
                if known.stat.version() == stat.version() {
                    let mut record = Record {
                        scan: scan.parity,
                        ..*known
                    };
                    if record.seen_again(stat) {
                        *last_version += 1;
                        scan.changed += 1;
                        record.version = *last_version;
                    }
                    *unhashed += u64::from(record.content == Content::Unhashed);
                    *doubtful += u64::from(record.is_doubtful);
                    return record;
                }
                *total_bytes -= known.stat.size;
                scan.changes.changed(path);
            } else {
                *gone -= u64::from(known.is_some());
            }
            *total_bytes += stat.size;
            *unhashed += 1;
            *last_version += 1;
            scan.changed += 1;
            Record {
                stat: *stat,
                version: *last_version,
                content: Content::Unhashed,
                scan: scan.parity,
                is_doubtful: false,
            }
        });
    }

    /// A scan is over: what a complete one did not find is gone. Nothing at or below the `closed`
    /// paths may stay, whatever could not be seen.
    pub(super) fn scanned(&mut self, is_complete: bool, closed: &[Vec<u8>]) -> Rescanned {
        let parity = self.scan.parity;
        let before = self.totals().files;
        if is_complete {
            self.take_out(|record| record.scan != parity);
        } else {
            self.close(closed);
            // The next scan must not take them for seen by itself.
            self.records.retain(
                |_| true,
                |record| {
                    record.scan = parity;
                    true
                },
            );
        }
        let files = self.totals().files;
        Rescanned {
            files,
            changed: self.scan.changed,
            removed: before - files,
        }
    }

    /// What the last scan found to be another version than before.
    pub(super) fn changes(&mut self) -> Changes {
        std::mem::take(&mut self.scan.changes)
    }

    fn close(&mut self, closed: &[Vec<u8>]) {
        for folder in closed {
            let below = SafePath::new(folder).ok();
            if below.is_none() && !folder.is_empty() {
                // What lies below a name that cannot travel was never offered.
                continue;
            }
            loop {
                let (entries, _) = self.page(below.as_ref(), None, ANNOUNCE_MAX_ENTRIES);
                if entries.is_empty() {
                    break;
                }
                for entry in entries {
                    self.remove(&entry.path);
                }
            }
        }
    }

    /// Takes a file out. Tells whether it was there.
    pub(super) fn remove(&mut self, path: &SafePath) -> bool {
        let Some(record) = self.records.get(path).filter(|record| !record.is_gone()) else {
            return false;
        };
        self.total_bytes -= record.stat.size;
        self.unhashed -= u64::from(record.content == Content::Unhashed);
        self.doubtful -= u64::from(record.is_doubtful);
        self.last_version += 1;
        let version = self.last_version;
        if self.followers.is_empty() {
            return self.records.remove(path);
        }
        self.gone += 1;
        let marked = self.records.update(path, |record| {
            (record.content, record.version) = (Content::Gone, version);
            record.is_doubtful = false;
        });
        marked.is_some()
    }

    /// Sets the hash that a file had when the disk said `stat` of it. Tells whether that version is
    /// listed.
    pub(super) fn hashed(&mut self, path: &SafePath, stat: &FileStat, hash: Hash) -> bool {
        self.know(path, stat, (Content::Hashed(hash), false))
    }

    /// Sets the hash that a file had before its attributes changed: to be computed again.
    pub(super) fn hinted(&mut self, path: &SafePath, stat: &FileStat, hash: Hash) -> bool {
        self.know(path, stat, (Content::Hashed(hash), true))
    }

    /// The file cannot be hashed as it is: it stays listed with what is known of it.
    pub(super) fn unhashable(&mut self, path: &SafePath, stat: &FileStat) {
        self.know(path, stat, (Content::Unhashable, false));
    }

    fn know(
        &mut self,
        path: &SafePath,
        stat: &FileStat,
        (content, is_doubtful): (Content, bool),
    ) -> bool {
        let version = self.last_version + 1;
        let known = self.records.update(path, |record| {
            if record.is_gone() || record.stat.version() != stat.version() {
                return None;
            }
            let before = *record;
            match (before.content, content) {
                // As good as the last time; the next scan asks for another try.
                (Content::Hashed(_), Content::Unhashable) => {}
                // Something older than what is known.
                (Content::Hashed(_), _)
                    if !before.is_doubtful && stat.ctime_ns < before.stat.ctime_ns =>
                {
                    return Some((before, before));
                }
                _ => {
                    record.content = content;
                    record.stat.ctime_ns = stat.ctime_ns;
                }
            }
            record.is_doubtful = is_doubtful;
            if before.content != record.content && content != Content::Unhashable {
                record.version = version;
            }
            Some((before, *record))
        });
        let Some(Some((before, now))) = known else {
            return false;
        };
        self.unhashed -= u64::from(before.content == Content::Unhashed);
        self.doubtful += u64::from(now.is_doubtful);
        self.doubtful -= u64::from(before.is_doubtful);
        self.last_version += u64::from(before.version != now.version);
        if let Some(hash) = now.hash()
            && self.contents.insert(prefix_of(&hash))
        {
            self.forget_contents();
        }
        true
    }

    /// Some of the files that are to be hashed, after `after` in path order.
    pub(super) fn unhashed_after(&self, after: Option<&SafePath>, limit: usize) -> Vec<SharedFile> {
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes()));
        let mut files = Vec::new();
        self.records.visit(
            start,
            |sum| sum.has_unhashed,
            |path, record| {
                if files.len() == limit {
                    return ControlFlow::Break(());
                }
                if record.is_to_be_hashed()
                    && let Ok(path) = SafePath::new(path)
                {
                    files.extend(record.file(path));
                }
                ControlFlow::Continue(())
            },
        );
        files
    }

    /// Whether some have no hash yet.
    pub(super) fn has_unhashed(&self) -> bool {
        self.unhashed > 0
    }

    /// Whether some are to be hashed, for the first time or again.
    pub(super) fn is_to_be_hashed(&self) -> bool {
        self.unhashed + self.doubtful > 0
    }

    /// Somebody follows the table from its whole listing on, until [`leave`](Self::leave).
    pub(super) fn follow(&mut self) -> Reading {
        self.next_follower += 1;
        self.followers.insert(self.next_follower, 0);
        Reading {
            follower: self.next_follower,
            seen: 0,
            round: None,
        }
    }

    /// A follower is gone.
    pub(super) fn leave(&mut self, reading: &Reading) {
        self.followers.remove(&reading.follower);
        self.forget_gone();
    }

    /// What comes next for a follower, at most one announce full. It is complete where nothing
    /// more is to be told but what changed meanwhile.
    pub(super) fn next_batch(&self, reading: &mut Reading) -> Batch {
        let mut batch = Batch::default();
        let (mut entries, mut bytes) = (0, 0);
        let (upto, after) = match reading.round.take() {
            Some((upto, after)) => (upto, Some(after)),
            None => (self.last_version, None),
        };
        let seen = reading.seen;
        let start = after.as_ref().map(SafePath::as_bytes);
        let start = start.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let full = self.records.visit(
            start,
            |sum| sum.version > seen,
            |path, record| {
                if record.version <= seen {
                    return ControlFlow::Continue(());
                }
                if entries >= ANNOUNCE_MAX_ENTRIES || bytes > BATCH_TARGET_BYTES {
                    return ControlFlow::Break(());
                }
                let Ok(path) = SafePath::new(path) else {
                    return ControlFlow::Continue(());
                };
                entries += 1;
                bytes += path.as_bytes().len() + ENTRY_OVERHEAD_BYTES;
                last = Some(path.clone());
                match record.entry(path.clone()) {
                    Some(entry) => batch.added.push(entry),
                    None => batch.removed.push(path),
                }
                ControlFlow::Continue(())
            },
        );
        batch.complete = full.is_none();
        match last.filter(|_| full.is_some()) {
            Some(last) => reading.round = Some((upto, last)),
            None => reading.seen = upto,
        }
        batch
    }

    /// A follower has been told all that it read.
    pub(super) fn told(&mut self, reading: &Reading) {
        if let Some(seen) = self.followers.get_mut(&reading.follower)
            && *seen != reading.seen
        {
            *seen = reading.seen;
            self.forget_gone();
        }
    }

    /// Drops what is gone and was told to everybody.
    fn forget_gone(&mut self) {
        if self.gone == 0 {
            return;
        }
        let told = self.followers.values().copied().min();
        let told = told.unwrap_or(self.last_version);
        let gone = &mut self.gone;
        self.records.retain(
            |sum| sum.has_gone,
            |record| {
                let is_over = record.is_gone() && record.version <= told;
                *gone -= u64::from(is_over);
                !is_over
            },
        );
    }

    /// Drops the contents that are not listed any more, once they are the most.
    fn forget_contents(&mut self) {
        if self.contents.len() <= 2 * self.records.len() + CONTENTS_SPARE {
            return;
        }
        let mut contents = BTreeSet::new();
        self.records.visit(
            Bound::Unbounded,
            |_| true,
            |_, record| {
                contents.extend(record.hash().as_ref().map(prefix_of));
                ControlFlow::<()>::Continue(())
            },
        );
        self.contents = contents;
    }

    /// Takes out every file that `is_over`.
    fn take_out(&mut self, is_over: impl Fn(&Record) -> bool) {
        let (last_version, gone) = (&mut self.last_version, &mut self.gone);
        let is_followed = !self.followers.is_empty();
        let (mut bytes, mut unhashed, mut doubtful) = (0, 0, 0);
        self.records.retain(
            |_| true,
            |record| {
                if record.is_gone() || !is_over(record) {
                    return true;
                }
                bytes += record.stat.size;
                unhashed += u64::from(record.content == Content::Unhashed);
                doubtful += u64::from(record.is_doubtful);
                record.is_doubtful = false;
                *last_version += 1;
                if is_followed {
                    (record.content, record.version) = (Content::Gone, *last_version);
                    *gone += 1;
                }
                is_followed
            },
        );
        self.total_bytes -= bytes;
        self.unhashed -= unhashed;
        self.doubtful -= doubtful;
    }
}

fn prefix_of(hash: &Hash) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests;
