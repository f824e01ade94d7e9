//! The folders and links of a manifest, which wait for its files in little memory.
//!
//! They lie in the order in which they came, folders before what is in them: a path and a few
//! numbers each, in one piece of memory for all paths.

use shoal_wire::SafePath;
use shoal_wire::manifest::{Extras, LinkTarget};

/// A folder of the manifest.
#[derive(Debug, PartialEq)]
pub(super) struct EndingFolder<'a> {
    pub(super) target: SafePath,
    pub(super) mode: u32,
    pub(super) mtime_ns: i64,
    /// Whether it is wanted by itself, and not only for what is in it.
    pub(super) is_chosen: bool,
    pub(super) extras: Option<&'a Extras>,
}

/// A symbolic link of the manifest.
#[derive(Debug, PartialEq)]
pub(super) struct EndingLink {
    pub(super) target: SafePath,
    pub(super) points_to: LinkTarget,
    pub(super) mtime_ns: i64,
}

/// What waits for the files.
#[derive(Debug, Default)]
pub(super) struct Ending {
    folders: Packed<(u32, i64, bool)>,
    /// Of the folders that have any, in order.
    extras: Vec<(usize, Extras)>,
    links: Packed<i64>,
    points_to: Packed<()>,
}

/// Byte strings one behind the other, with something of a fixed size to each.
#[derive(Debug)]
struct Packed<T> {
    bytes: Vec<u8>,
    items: Vec<(usize, T)>,
}

impl<T> Default for Packed<T> {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            items: Vec::new(),
        }
    }
}

impl<T: Copy> Packed<T> {
    fn push(&mut self, bytes: &[u8], item: T) {
        self.bytes.extend_from_slice(bytes);
        self.items.push((self.bytes.len(), item));
    }

    fn at(&self, position: usize) -> Option<(&[u8], T)> {
        let (end, item) = *self.items.get(position)?;
        let before = position.checked_sub(1).and_then(|at| self.items.get(at));
        let start = before.map_or(0, |(start, _)| *start);
        Some((self.bytes.get(start..end)?, item))
    }
}

impl Ending {
    /// A folder waits.
    pub(super) fn push_folder(
        &mut self,
        target: &SafePath,
        (mode, mtime_ns, is_chosen): (u32, i64, bool),
        extras: Option<Extras>,
    ) {
        if let Some(extras) = extras {
            self.extras.push((self.folder_count(), extras));
        }
        self.folders
            .push(target.as_bytes(), (mode, mtime_ns, is_chosen));
    }

    /// A link waits.
    pub(super) fn push_link(&mut self, target: &SafePath, points_to: &LinkTarget, mtime_ns: i64) {
        self.links.push(target.as_bytes(), mtime_ns);
        self.points_to.push(points_to.as_bytes(), ());
    }

    /// How many folders wait.
    pub(super) fn folder_count(&self) -> usize {
        self.folders.items.len()
    }

    /// How many links wait.
    pub(super) fn link_count(&self) -> usize {
        self.links.items.len()
    }

    /// The folder at a position.
    pub(super) fn folder(&self, at: usize) -> Option<EndingFolder<'_>> {
        let (target, (mode, mtime_ns, is_chosen)) = self.folders.at(at)?;
        let extras = self.extras.binary_search_by_key(&at, |(of, _)| *of);
        Some(EndingFolder {
            target: SafePath::new(target).ok()?,
            mode,
            mtime_ns,
            is_chosen,
            extras: extras.ok().map(|found| &self.extras[found].1),
        })
    }

    /// The link at a position.
    pub(super) fn link(&self, at: usize) -> Option<EndingLink> {
        let (target, mtime_ns) = self.links.at(at)?;
        Some(EndingLink {
            target: SafePath::new(target).ok()?,
            points_to: LinkTarget::new(self.points_to.at(at)?.0)?,
            mtime_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SafePath {
        text.parse().unwrap()
    }

    #[test]
    fn folders_and_links_come_back_as_they_were() {
        let mut ending = Ending::default();
        let extras = Extras::default();
        ending.push_folder(&path("a"), (0o755, 1, false), None);
        ending.push_folder(&path("a/b"), (0o700, 2, true), Some(extras.clone()));
        let points_to = LinkTarget::new(b"../x").unwrap();
        ending.push_link(&path("a/link"), &points_to, 3);
        let folder = |at| ending.folder(at).unwrap();
        assert_eq!(folder(0).target, path("a"));
        assert_eq!((folder(0).extras, folder(1).extras), (None, Some(&extras)));
        assert_eq!((folder(1).mode, folder(1).mtime_ns), (0o700, 2));
        assert_eq!((folder(0).is_chosen, folder(1).is_chosen), (false, true));
        let link = EndingLink {
            target: path("a/link"),
            points_to,
            mtime_ns: 3,
        };
        assert_eq!(ending.link(0), Some(link));
        assert!(ending.folder(2).is_none() && ending.link(1).is_none());
    }
}
