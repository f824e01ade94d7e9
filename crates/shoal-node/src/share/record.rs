//! What the table holds of each file, in a fixed number of bytes.

use shoal_store::folder::FileStat;
use shoal_wire::{FileEntry, Hash, SafePath};

use super::SharedFile;
use super::paths::Value;

/// What is known of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing yet.
    Unhashed,
    /// It cannot be hashed as it is.
    Unhashable,
    /// Its hash.
    Hashed(Hash),
    /// The file is gone; kept until every follower has been told.
    Gone,
}

/// One path of the table. 96 bytes: most of what a share of very many files costs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// What the disk said; the time of its attributes is that at which the content was hashed, where
    /// it was.
    pub(super) stat: FileStat,
    /// When it changed last, in changes of the whole table.
    pub(super) version: u64,
    /// What is known of its content.
    pub(super) content: Content,
    /// Parity of the last scan that saw it.
    pub(super) scan: bool,
    /// Whether its attributes changed since it was hashed, so that it is to be hashed again. It is
    /// offered with its hash meanwhile.
    pub(super) is_doubtful: bool,
}

/// What a block knows of its records.
#[derive(Debug, Default)]
pub(super) struct Sum {
    /// The latest version.
    pub(super) version: u64,
    /// Whether some are to be hashed.
    pub(super) has_unhashed: bool,
    /// Whether some are gone.
    pub(super) has_gone: bool,
}

impl Value for Record {
    type Sum = Sum;

    fn add_to(&self, sum: &mut Sum) {
        sum.version = sum.version.max(self.version);
        sum.has_unhashed |= self.is_to_be_hashed();
        sum.has_gone |= self.is_gone();
    }
}

impl Record {
    /// A scan saw the same version again. Tells whether what is announced of it is another.
    pub(super) fn seen_again(&mut self, stat: &FileStat) -> bool {
        let is_news = self.stat.mode != stat.mode;
        match self.content {
            Content::Hashed(_) => {
                self.is_doubtful |= self.stat.ctime_ns != stat.ctime_ns;
                self.stat.mode = stat.mode;
            }
            Content::Unhashed | Content::Unhashable | Content::Gone => {
                self.content = Content::Unhashed;
                self.stat = *stat;
            }
        }
        is_news
    }

    pub(super) fn is_to_be_hashed(&self) -> bool {
        self.content == Content::Unhashed || self.is_doubtful
    }

    pub(super) fn is_gone(&self) -> bool {
        self.content == Content::Gone
    }

    pub(super) fn hash(&self) -> Option<Hash> {
        match self.content {
            Content::Hashed(hash) => Some(hash),
            Content::Unhashed | Content::Unhashable | Content::Gone => None,
        }
    }

    /// The file as it is offered, if it is.
    pub(super) fn file(&self, path: SafePath) -> Option<SharedFile> {
        let entry = self.entry(path)?;
        Some(SharedFile {
            entry,
            stat: self.stat,
        })
    }

    /// What is announced of it.
    pub(super) fn entry(&self, path: SafePath) -> Option<FileEntry> {
        if self.is_gone() {
            return None;
        }
        Some(FileEntry {
            path,
            size: self.stat.entry_size()?,
            mtime_ns: self.stat.mtime_ns,
            mode: self.stat.mode & 0o7777,
            hash: self.hash(),
        })
    }
}
