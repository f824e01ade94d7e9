//! One row of the index: a file version, the root of its content, and the chunk hashes.
//!
//! The checksum covers all but the chunk hashes, so that a root can be trusted without reading
//! them; they prove themselves by leading to the root.

use shoal_wire::{ChunkLayout, FileSize, Hash};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{FromRow, Row as _, Sqlite};

use crate::folder::FileStat;
use crate::hashing::HashList;

/// How many columns the table has.
pub(super) const COLUMNS: i64 = 9;

const CHECKSUM_BYTES: usize = 16;

/// Which file, whatever its version; SQLite's integers are signed, the bits are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    pub(super) device: i64,
    pub(super) inode: i64,
}

impl FileKey {
    pub(super) fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.device.cast_signed(),
            inode: stat.inode.cast_signed(),
        }
    }
}

/// A row as it is stored.
#[derive(Debug)]
pub(super) struct Row {
    device: i64,
    inode: i64,
    size: i64,
    mtime_ns: i64,
    ctime_ns: i64,
    chunk_log2: i64,
    root: Vec<u8>,
    checksum: Vec<u8>,
    /// The chunk hashes one after the other; empty for a file of one chunk.
    hashes: Vec<u8>,
}

impl FromRow<'_, SqliteRow> for Row {
    /// A column of a wrong type counts as empty, and so fails the checksum.
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let number = |name: &str| row.try_get::<i64, _>(name).unwrap_or_default();
        let bytes = |name: &str| row.try_get::<Vec<u8>, _>(name).unwrap_or_default();
        Ok(Self {
            device: number("device"),
            inode: number("inode"),
            size: number("size"),
            mtime_ns: number("mtime_ns"),
            ctime_ns: number("ctime_ns"),
            chunk_log2: number("chunk_log2"),
            root: bytes("root"),
            checksum: bytes("checksum"),
            hashes: bytes("hashes"),
        })
    }
}

impl Row {
    pub(super) fn of(stat: &FileStat, list: &HashList) -> Self {
        let key = FileKey::of(stat);
        let hashes = match list.as_slice() {
            [_] => Vec::new(),
            hashes => hashes.iter().flat_map(Hash::as_bytes).copied().collect(),
        };
        let mut row = Self {
            device: key.device,
            inode: key.inode,
            size: stat.size.cast_signed(),
            mtime_ns: stat.mtime_ns,
            ctime_ns: stat.ctime_ns,
            chunk_log2: i64::from(list.layout().chunk_log2()),
            root: list.root().as_bytes().to_vec(),
            checksum: Vec::new(),
            hashes,
        };
        row.checksum = row.computed_checksum();
        row
    }

    pub(super) fn insert(self) -> Query<'static, Sqlite, SqliteArguments> {
        sqlx::query("INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(self.device)
            .bind(self.inode)
            .bind(self.size)
            .bind(self.mtime_ns)
            .bind(self.ctime_ns)
            .bind(self.chunk_log2)
            .bind(self.root)
            .bind(self.checksum)
            .bind(self.hashes)
    }

    pub(super) fn key(&self) -> FileKey {
        FileKey {
            device: self.device,
            inode: self.inode,
        }
    }

    /// Whether the row is of this version of its file, whatever the time of its attributes.
    pub(super) fn is_version(&self, stat: &FileStat) -> bool {
        self.key() == FileKey::of(stat)
            && self.size.cast_unsigned() == stat.size
            && self.mtime_ns == stat.mtime_ns
    }

    pub(super) fn ctime_ns(&self) -> i64 {
        self.ctime_ns
    }

    /// Whether everything but the chunk hashes is as it was stored.
    pub(super) fn is_sound(&self) -> bool {
        self.checksum == self.computed_checksum() && self.root().is_some()
    }

    pub(super) fn root(&self) -> Option<Hash> {
        self.root.as_slice().try_into().ok().map(Hash::new)
    }

    /// The hash list, if the row is sound and the chunk hashes lead to the root.
    pub(super) fn hash_list(&self) -> Option<HashList> {
        let root = self.root().filter(|_| self.is_sound())?;
        let size = FileSize::new(self.size.cast_unsigned())?;
        let chunk_log2 = u8::try_from(self.chunk_log2).ok()?;
        let layout = ChunkLayout::with_chunk_log2(size, chunk_log2)?;
        let (hashes, rest) = self.hashes.as_chunks::<32>();
        let hashes = match (layout.chunk_count(), hashes) {
            (1, []) => vec![root],
            (_, hashes) => hashes.iter().copied().map(Hash::new).collect(),
        };
        HashList::verified(layout, &root, hashes).filter(|_| rest.is_empty())
    }

    fn computed_checksum(&self) -> Vec<u8> {
        let numbers = [
            self.device,
            self.inode,
            self.size,
            self.mtime_ns,
            self.ctime_ns,
            self.chunk_log2,
        ];
        let mut hasher = blake3::Hasher::new();
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&self.root);
        hasher.finalize().as_bytes()[..CHECKSUM_BYTES].to_vec()
    }
}
