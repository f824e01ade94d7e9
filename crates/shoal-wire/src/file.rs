//! What is said about a file: its size and its entry in an announce or a list.

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::id::Hash;
use crate::limits::FILE_MAX_BYTES;
use crate::path::SafePath;

/// The size of a file, in bytes: at most [`FILE_MAX_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct FileSize(u64);

impl FileSize {
    /// Takes a size in bytes, `None` over the limit.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= FILE_MAX_BYTES {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for FileSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = u64::deserialize(deserializer)?;
        Self::new(bytes).ok_or_else(|| de::Error::custom("file size is over the limit"))
    }
}

/// One file that a node offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Where it lies in its share.
    pub path: SafePath,
    /// Its size.
    pub size: FileSize,
    /// Last modification, in nanoseconds since 1970-01-01 UTC; negative before.
    pub mtime_ns: i64,
    /// POSIX permission bits (`0o7777`); others are ignored by the receiver.
    pub mode: u32,
    /// BLAKE3 of the content, once the provider has hashed it.
    pub hash: Option<Hash>,
}
