//! Content that is cheap to make and different everywhere, with its hashes.

use shoal_store::hashing::{HashList, chunk_hash};
use shoal_wire::{ChunkIndex, ChunkLayout, FileEntry, FileSize, Hash, SafePath};

/// Length of every chunk but the last, in bytes, of files as small as those here.
pub(crate) const CHUNK: usize = 1 << 20;

/// A file as its provider announces it.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) entry: FileEntry,
    pub(crate) list: HashList,
}

impl Content {
    /// `len` bytes that depend on `seed` and on nothing else.
    pub(crate) fn new(at: &str, len: usize, seed: u64) -> Self {
        Self::of(at, bytes(len, seed))
    }

    /// Just these bytes.
    pub(crate) fn of(at: &str, bytes: Vec<u8>) -> Self {
        let size = FileSize::new(bytes.len() as u64).expect("a small file");
        let layout = ChunkLayout::of(size);
        let hashes = layout.indexes().map(|index| {
            let range = layout.range(index);
            chunk_hash(
                &layout,
                index,
                &bytes[range.start as usize..range.end as usize],
            )
        });
        let list = HashList::of_hashes(layout, hashes.collect()).expect("a hash for each chunk");
        let entry = FileEntry {
            path: path(at),
            size,
            mtime_ns: 1_700_000_000_000_000_000,
            mode: 0o644,
            hash: Some(list.root()),
        };
        Self { bytes, entry, list }
    }

    pub(crate) fn index(&self, position: u32) -> ChunkIndex {
        self.list.layout().index(position).expect("a chunk of it")
    }

    /// The bytes of one chunk.
    pub(crate) fn chunk(&self, index: ChunkIndex) -> &[u8] {
        let range = self.list.layout().range(index);
        &self.bytes[range.start as usize..range.end as usize]
    }
}

pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn path(text: &str) -> SafePath {
    text.parse().expect("a path")
}

pub(crate) fn no_hash() -> Hash {
    Hash::new([0xBA; 32])
}
