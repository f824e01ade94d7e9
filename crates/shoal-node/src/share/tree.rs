//! Manifests of a share: what lies below a folder, page by page.
//!
//! Files come first and are those of the table: what is announced, and nothing else. Folders and
//! symbolic links follow from a walk of the disk under the same rules; they are never announced.

use std::path::Path;

use shoal_store::attributes::{Wanted, read_extras};
use shoal_wire::limits::{BATCH_TARGET_BYTES, PAGE_MAX_ENTRIES};
use shoal_wire::manifest::{EntryKind, Extras, ManifestEntry};
use shoal_wire::{FileEntry, SafePath};

use super::Share;
use super::walk::{Met, Walk};

/// What an entry takes in a frame beyond its path and extended attributes, in bytes, at most.
const ENTRY_BYTES: usize = 96;
/// Files whose extras are read for one page: their attributes may fill it alone.
const FILES_WITH_EXTRAS: usize = 256;

/// The manifest of one folder, or of the whole share.
pub struct Manifest {
    share: Share,
    folder: Option<SafePath>,
    wanted: Wanted,
    place: Place,
}

enum Place {
    /// Among the files, after this one.
    Files(Option<SafePath>),
    /// On the walk over the root of this number, with what no longer fitted the page before.
    Walk(usize, Box<TreeWalk>, Option<ManifestEntry>),
    End,
}

type TreeWalk = Walk<fn(&Path)>;

impl Manifest {
    /// The manifest of what lies below `folder` in `share`, with the extras that are wanted.
    pub fn new(share: Share, folder: Option<SafePath>, wanted: Wanted) -> Self {
        Self {
            share,
            folder,
            wanted,
            place: Place::Files(None),
        }
    }

    /// The next entries, at most one frame full, and whether there may be more. Blocks.
    pub fn next_page(&mut self) -> (Vec<ManifestEntry>, bool) {
        match std::mem::replace(&mut self.place, Place::End) {
            Place::Files(after) => {
                let (entries, more) = self.files_after(after.as_ref());
                self.place = match entries.last() {
                    Some(last) if more => Place::Files(Some(last.path.clone())),
                    _ => self.walk(0),
                };
                (entries, true)
            }
            Place::Walk(root, mut walk, held) => {
                let (entries, more) = self.walk_on(&mut walk, held);
                self.place = match more {
                    Some(more) => Place::Walk(root, walk, Some(more)),
                    None => self.walk(root + 1),
                };
                (entries, !matches!(self.place, Place::End))
            }
            Place::End => (Vec::new(), false),
        }
    }

    fn files_after(&self, after: Option<&SafePath>) -> (Vec<ManifestEntry>, bool) {
        let limit = if self.wanted.any() {
            FILES_WITH_EXTRAS
        } else {
            PAGE_MAX_ENTRIES
        };
        let (files, mut more) = self.share.page(self.folder.as_ref(), after, limit);
        let mut bytes = 0;
        let mut entries = Vec::with_capacity(files.len());
        for file in files {
            let entry = self.file(file);
            bytes += size_of(&entry);
            if bytes > BATCH_TARGET_BYTES && !entries.is_empty() {
                more = true;
                break;
            }
            entries.push(entry);
        }
        (entries, more)
    }

    fn file(&self, file: FileEntry) -> ManifestEntry {
        let extras = self.wanted.any().then(|| {
            let opened = self
                .share
                .roots()
                .folder_of(&file.path)
                .open_file(&file.path);
            opened.map_or_else(
                |_| Extras::default(),
                |(open, _)| read_extras(open, self.wanted),
            )
        });
        ManifestEntry {
            path: file.path,
            kind: EntryKind::File {
                size: file.size,
                hash: file.hash,
            },
            mtime_ns: file.mtime_ns,
            mode: file.mode,
            extras,
        }
    }

    fn walk(&self, number: usize) -> Place {
        let Some(root) = self.share.roots().each().get(number) else {
            return Place::End;
        };
        let unwatched: fn(&Path) = |_| {};
        let walk = Walk::new(
            root,
            self.share.inner.hidden,
            self.folder.clone(),
            unwatched,
        );
        Place::Walk(number, Box::new(walk), None)
    }

    /// Goes on until a page is full: then the entry that no longer fitted comes back too.
    fn walk_on(
        &self,
        walk: &mut TreeWalk,
        held: Option<ManifestEntry>,
    ) -> (Vec<ManifestEntry>, Option<ManifestEntry>) {
        let mut bytes = 0;
        let mut entries = Vec::new();
        let rest = walk.filter_map(|met| self.walked(met));
        for entry in held.into_iter().chain(rest) {
            bytes += size_of(&entry);
            if entries.len() == PAGE_MAX_ENTRIES
                || (bytes > BATCH_TARGET_BYTES && !entries.is_empty())
            {
                return (entries, Some(entry));
            }
            entries.push(entry);
        }
        (entries, None)
    }

    fn walked(&self, met: Met) -> Option<ManifestEntry> {
        let (path, stat, target) = match met {
            Met::Folder(path, stat) => (path, stat, None),
            Met::Link(path, stat, target) => (path, stat, Some(target)),
            Met::File(..) | Met::Special(..) | Met::LeftOut(..) | Met::Failed(..) => return None,
        };
        let path = SafePath::new(&path).ok()?;
        if let Some(folder) = &self.folder
            && path != *folder
            && path.below(folder).is_none()
        {
            return None;
        }
        let extras = || {
            let folder = self.share.roots().folder_of(&path);
            let opened = folder.subfolder(&path).ok()?;
            Some(opened.extras(self.wanted))
        };
        let (kind, extras) = match target {
            None => (EntryKind::Folder, self.wanted.any().then(extras).flatten()),
            Some(target) => (EntryKind::Symlink { target }, None),
        };
        Some(ManifestEntry {
            path,
            kind,
            mtime_ns: stat.mtime_ns,
            mode: stat.mode & 0o7777,
            extras,
        })
    }
}

fn size_of(entry: &ManifestEntry) -> usize {
    let xattrs = entry.extras.as_ref().map_or(0, |extras| {
        let each = extras.xattrs.iter();
        each.map(|xattr| xattr.name().len() + xattr.value().len() + 8)
            .sum()
    });
    let target = match &entry.kind {
        EntryKind::Symlink { target } => target.as_bytes().len(),
        EntryKind::File { .. } | EntryKind::Folder => 0,
    };
    entry.path.as_bytes().len() + target + xattrs + ENTRY_BYTES
}
