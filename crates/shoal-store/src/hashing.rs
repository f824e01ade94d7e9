//! BLAKE3 of files, chunk by chunk: the root is exactly what `b3sum` prints.
//!
//! A chunk is a whole subtree of the BLAKE3 tree, so its hash is that subtree's chaining value and
//! the chunk hashes merge into the root. In a file of one chunk the chunk's hash is the root
//! itself. A [`HashList`] that exists leads to its root. Nothing here writes or remembers.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use shoal_wire::{ChunkIndex, ChunkLayout, FileSize, Hash};

/// How much of a file is read at once, in bytes: small enough that the bytes are still in the
/// processor's second-level cache when they are hashed.
pub const READ_BLOCK_BYTES: usize = 256 * 1024;

/// Slices of this length, in bytes, keep every vector lane of the hash function busy.
const HASH_SLICE_BYTES: usize = 128 * 1024;

const WRONG_LENGTH_CONTEXT: &str = "shoal-store 2026-11 chunk of a wrong length";

/// The hash of one chunk whose bytes are all at hand.
///
/// Bytes of another length than the chunk's give a hash that no chunk has.
pub fn chunk_hash(layout: &ChunkLayout, index: ChunkIndex, bytes: &[u8]) -> Hash {
    let mut hasher = ChunkHasher::new(layout, index);
    hasher.update(bytes);
    hasher.finish()
}

/// The hash of a whole content that is at hand: the root of a file with these bytes.
pub fn content_hash(bytes: &[u8]) -> Hash {
    Hash::new(*blake3::hash(bytes).as_bytes())
}

/// The hash of one chunk whose bytes come in pieces, in order.
///
/// Pieces of any length do; multiples of 128 KiB are hashed in place, others pass through a
/// buffer of that size.
#[derive(Debug)]
pub struct ChunkHasher {
    hasher: blake3::Hasher,
    pending: Vec<u8>,
    is_whole_file: bool,
    expected_bytes: u64,
    seen_bytes: u64,
}

impl ChunkHasher {
    /// Starts the hash of one chunk.
    pub fn new(layout: &ChunkLayout, index: ChunkIndex) -> Self {
        let range = layout.range(index);
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(range.start);
        Self {
            hasher,
            pending: Vec::new(),
            is_whole_file: layout.chunk_count() == 1,
            expected_bytes: range.end - range.start,
            seen_bytes: 0,
        }
    }

    /// Takes the next bytes of the chunk.
    pub fn update(&mut self, bytes: &[u8]) {
        self.seen_bytes = self.seen_bytes.saturating_add(bytes.len() as u64);
        if self.seen_bytes > self.expected_bytes {
            return;
        }
        let mut rest = bytes;
        if !self.pending.is_empty() {
            let missing = HASH_SLICE_BYTES - self.pending.len();
            let (filling, after) = rest.split_at(missing.min(rest.len()));
            self.pending.extend_from_slice(filling);
            rest = after;
            if self.pending.len() == HASH_SLICE_BYTES {
                self.hasher.update(&self.pending);
                self.pending.clear();
            }
        }
        let is_last = self.seen_bytes == self.expected_bytes;
        let direct = if is_last && self.pending.is_empty() {
            rest.len()
        } else {
            rest.len() - rest.len() % HASH_SLICE_BYTES
        };
        let (whole, tail) = rest.split_at(direct);
        if self.pending.is_empty() && !whole.is_empty() {
            self.hasher.update(whole);
        }
        if !tail.is_empty() {
            self.pending.reserve_exact(HASH_SLICE_BYTES);
            self.pending.extend_from_slice(tail);
        }
    }

    /// The hash of the chunk.
    ///
    /// If more or fewer bytes came than the chunk has, this is a hash that no chunk has.
    pub fn finish(mut self) -> Hash {
        if self.seen_bytes != self.expected_bytes {
            let mut hasher = blake3::Hasher::new_derive_key(WRONG_LENGTH_CONTEXT);
            hasher.update(&self.seen_bytes.to_le_bytes());
            return Hash::new(*hasher.finalize().as_bytes());
        }
        self.hasher.update(&self.pending);
        if self.is_whole_file {
            Hash::new(*self.hasher.finalize().as_bytes())
        } else {
            Hash::new(self.hasher.finalize_non_root())
        }
    }
}

/// Length of a piece, in bytes: what chunks are made of, a subtree of its own. The smallest chunk
/// is one.
pub const PIECE_BYTES: u64 = 1 << 20;

/// The hash of the piece that begins at an offset in a chunk, a multiple of [`PIECE_BYTES`]. Where
/// the chunk is one piece, it is the chunk's hash.
///
/// Bytes of another length than the piece's give a hash that no piece has.
pub fn piece_hash(
    layout: &ChunkLayout,
    index: ChunkIndex,
    offset_in_chunk: u64,
    bytes: &[u8],
) -> Hash {
    let chunk_bytes = layout.len_bytes(index);
    let rest_bytes = chunk_bytes.saturating_sub(offset_in_chunk);
    let mut hasher = ChunkHasher::new(layout, index);
    if offset_in_chunk > 0 {
        let begin = layout.range(index).start.saturating_add(offset_in_chunk);
        hasher.hasher.set_input_offset(begin);
    }
    hasher.is_whole_file &= chunk_bytes <= PIECE_BYTES;
    hasher.expected_bytes = rest_bytes.min(PIECE_BYTES);
    hasher.update(bytes);
    hasher.finish()
}

/// Merges the hashes of a chunk's pieces into the chunk's; `None` if their number is not the chunk's.
pub fn chunk_of_pieces(layout: &ChunkLayout, index: ChunkIndex, pieces: &[Hash]) -> Option<Hash> {
    let count = layout.len_bytes(index).div_ceil(PIECE_BYTES).max(1);
    if pieces.len() as u64 != count {
        return None;
    }
    merged(pieces, layout.chunk_count() == 1)
}

/// Merges the chunk hashes of a file into its root; `None` if their number is not the layout's.
pub fn root_of(layout: &ChunkLayout, hashes: &[Hash]) -> Option<Hash> {
    if hashes.len() as u64 != u64::from(layout.chunk_count()) {
        return None;
    }
    merged(hashes, true)
}

/// The top of the tree over equal subtrees, the last of which may be shorter. One alone is the top.
fn merged(hashes: &[Hash], is_root: bool) -> Option<Hash> {
    let mut subtrees: Vec<[u8; 32]> = Vec::with_capacity(20);
    for (position, hash) in hashes.iter().enumerate() {
        while subtrees.len() > position.count_ones() as usize {
            let right = subtrees.pop()?;
            let left = subtrees.pop()?;
            subtrees.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
        subtrees.push(*hash.as_bytes());
    }
    let mut right = subtrees.pop()?;
    while let Some(left) = subtrees.pop() {
        if subtrees.is_empty() && is_root {
            let root = merge_subtrees_root(&left, &right, Mode::Hash);
            return Some(Hash::new(*root.as_bytes()));
        }
        right = merge_subtrees_non_root(&left, &right, Mode::Hash);
    }
    Some(Hash::new(right))
}

/// The chunk hashes of a file, known to lead to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashList {
    layout: ChunkLayout,
    root: Hash,
    hashes: Vec<Hash>,
}

impl HashList {
    /// Takes chunk hashes from another machine; `None` unless they lead to `root`.
    pub fn verified(layout: ChunkLayout, root: &Hash, hashes: Vec<Hash>) -> Option<Self> {
        Self::of_hashes(layout, hashes).filter(|list| list.root == *root)
    }

    /// Takes chunk hashes that were computed here; `None` if their number is not the layout's.
    pub fn of_hashes(layout: ChunkLayout, hashes: Vec<Hash>) -> Option<Self> {
        let root = root_of(&layout, &hashes)?;
        Some(Self {
            layout,
            root,
            hashes,
        })
    }

    /// The root that the chunk hashes lead to.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// The hash of one chunk.
    ///
    /// # Panics
    /// If the index was made by the layout of a longer file.
    pub fn chunk(&self, index: ChunkIndex) -> Hash {
        self.hashes[index.get() as usize]
    }

    /// How the file is cut.
    pub fn layout(&self) -> ChunkLayout {
        self.layout
    }

    /// Every chunk hash, in order.
    pub fn as_slice(&self) -> &[Hash] {
        &self.hashes
    }

    /// Whether a file has this chunk of the content at its place. Reads it.
    ///
    /// # Errors
    /// When it ends before, or cannot be read.
    pub fn has_chunk(&self, index: ChunkIndex, file: &File) -> Result<bool, HashFileError> {
        let mut block = block_for(self.layout.size());
        let hash = hash_chunk_of_file(file, &self.layout, index, &mut block, &|| false)?;
        Ok(hash == self.chunk(index))
    }

    /// Whether a file has this content; reads no further than to the first chunk that differs.
    /// `cancelled` is asked before every block of [`READ_BLOCK_BYTES`].
    ///
    /// # Errors
    /// When the file cannot be read, or the caller asked to stop.
    pub fn is_of(&self, file: &File, cancelled: &dyn Fn() -> bool) -> Result<bool, HashFileError> {
        let size = self.layout.size();
        if file.metadata()?.len() != size.bytes() {
            return Ok(false);
        }
        let mut block = block_for(size);
        for index in self.layout.indexes() {
            let found = hash_chunk_of_file(file, &self.layout, index, &mut block, cancelled)?;
            if found != self.chunk(index) {
                return Ok(false);
            }
        }
        Ok(file.metadata()?.len() == size.bytes())
    }
}

/// Why a file was not hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashFileError {
    /// The file could not be read.
    #[error("the file cannot be read: check its disk and permissions")]
    Read(#[from] io::Error),
    /// The file is shorter or longer than it was said to be.
    #[error("the file changed its size while it was read: try again once nothing writes to it")]
    SizeChanged,
    /// The caller asked to stop.
    #[error("hashing was cancelled")]
    Cancelled,
}

/// Hashes a file with positioned reads, in the layout that every node derives from its size.
///
/// `cancelled` is asked before every block of [`READ_BLOCK_BYTES`].
///
/// # Errors
/// [`HashFileError::SizeChanged`] unless the file has exactly `size` bytes before and after.
pub fn hash_file(
    file: &File,
    size: FileSize,
    cancelled: &dyn Fn() -> bool,
) -> Result<HashList, HashFileError> {
    if file.metadata()?.len() != size.bytes() {
        return Err(HashFileError::SizeChanged);
    }
    let layout = ChunkLayout::of(size);
    let mut block = block_for(size);
    let mut hashes = Vec::with_capacity(layout.chunk_count() as usize);
    for index in layout.indexes() {
        hashes.push(hash_chunk_of_file(
            file, &layout, index, &mut block, cancelled,
        )?);
    }
    if file.metadata()?.len() != size.bytes() {
        return Err(HashFileError::SizeChanged);
    }
    HashList::of_hashes(layout, hashes).ok_or(HashFileError::SizeChanged)
}

fn block_for(size: FileSize) -> Vec<u8> {
    let bytes =
        usize::try_from(size.bytes()).map_or(READ_BLOCK_BYTES, |bytes| bytes.min(READ_BLOCK_BYTES));
    vec![0; bytes]
}

/// Hashes one chunk of a file through `block`, which bounds how much is read at once.
pub(crate) fn hash_chunk_of_file(
    file: &File,
    layout: &ChunkLayout,
    index: ChunkIndex,
    block: &mut [u8],
    cancelled: &dyn Fn() -> bool,
) -> Result<Hash, HashFileError> {
    hash_chunk_of_stretch((file, 0), layout, index, block, cancelled)
}

/// The same of a file that has a stretch of the content, from byte `start` on; the chunk must not
/// begin before it.
pub(crate) fn hash_chunk_of_stretch(
    (file, start): (&File, u64),
    layout: &ChunkLayout,
    index: ChunkIndex,
    block: &mut [u8],
    cancelled: &dyn Fn() -> bool,
) -> Result<Hash, HashFileError> {
    let range = layout.range(index);
    let mut hasher = ChunkHasher::new(layout, index);
    let mut at = range.start;
    while at < range.end {
        if cancelled() {
            return Err(HashFileError::Cancelled);
        }
        let wanted = usize::try_from(range.end - at).map_or(block.len(), |n| n.min(block.len()));
        let bytes = &mut block[..wanted];
        file.read_exact_at(bytes, at - start)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => HashFileError::SizeChanged,
                _ => HashFileError::Read(error),
            })?;
        hasher.update(bytes);
        at += wanted as u64;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests;
