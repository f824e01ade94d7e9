//! The bytes of a state file: what the part is of, and which of its chunks are durable.
//!
//! A record is appended only after the chunk's data was synced, so a record that can be read is
//! true. Reading ends at the first record that is torn or whose check fails. Whole files are only
//! ever replaced by a rename; every file has its own nonce, so no record of another file passes.

use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use shoal_wire::{ChunkIndex, ChunkLayout, FileSize, Hash, NodeId};

use super::{Content, Source};

/// Header, 128 bytes, numbers little-endian:
///
/// | at | bytes | what |
/// |---|---|---|
/// | 0 | 8 | [`MAGIC`] |
/// | 8 | 1 | flags: [`FLAG_ROOT`], [`FLAG_ORIGIN`] |
/// | 9 | 1 | chunk length as a power of two |
/// | 10 | 6 | zero |
/// | 16 | 8 | file size |
/// | 24 | 32 | root, or zero |
/// | 56 | 32 | origin's node id, or zero |
/// | 88 | 8 | origin's modification time in nanoseconds, or zero |
/// | 96 | 16 | nonce |
/// | 112 | 16 | seal: the first bytes of BLAKE3 over the 112 before |
pub(super) const HEADER_BYTES: usize = 128;

/// Record, 48 bytes: chunk index (4, little-endian), chunk hash (32), and the first 12 bytes of
/// BLAKE3 over the header's seal and the 36 bytes before.
pub(super) const RECORD_BYTES: usize = 48;

const MAGIC: &[u8; 8] = b"shoalst1";
const FLAG_ROOT: u8 = 1;
const FLAG_ORIGIN: u8 = 2;
const SEAL_AT: usize = 112;
const CHECK_AT: usize = 36;

/// What a part is of. The origin it was begun from stays known when the root is learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) root: Option<Hash>,
    pub(super) origin: Option<(NodeId, i64)>,
    pub(super) layout: ChunkLayout,
    nonce: [u8; 16],
}

impl Header {
    pub(super) fn of(content: &Content) -> Self {
        let (root, origin) = match content.source {
            Source::Root(root) => (Some(root), None),
            Source::Origin { node, mtime_ns } => (None, Some((node, mtime_ns))),
        };
        Self {
            root,
            origin,
            layout: content.layout,
            nonce: fresh_nonce(),
        }
    }

    /// Whether chunks recorded under this header are chunks of `content`.
    pub(super) fn is_of(&self, content: &Content) -> bool {
        let is_source = match content.source {
            Source::Root(root) => self.root == Some(root),
            Source::Origin { node, mtime_ns } => self.origin == Some((node, mtime_ns)),
        };
        is_source && self.layout == content.layout
    }

    /// The same where the content is also known by another source.
    pub(super) fn is_of_either(&self, content: &Content, also: Option<Source>) -> bool {
        let layout = content.layout;
        self.is_of(content) || also.is_some_and(|source| self.is_of(&Content { source, layout }))
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[9] = self.layout.chunk_log2();
        bytes[16..24].copy_from_slice(&self.layout.size().bytes().to_le_bytes());
        if let Some(root) = self.root {
            bytes[8] |= FLAG_ROOT;
            bytes[24..56].copy_from_slice(root.as_bytes());
        }
        if let Some((node, mtime_ns)) = self.origin {
            bytes[8] |= FLAG_ORIGIN;
            bytes[56..88].copy_from_slice(node.as_bytes());
            bytes[88..96].copy_from_slice(&mtime_ns.to_le_bytes());
        }
        bytes[96..SEAL_AT].copy_from_slice(&self.nonce);
        let seal = seal_of(&bytes);
        bytes[SEAL_AT..].copy_from_slice(&seal);
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        if !bytes.starts_with(MAGIC) || seal_of(bytes) != bytes[SEAL_AT..] {
            return None;
        }
        let size = FileSize::new(u64::from_le_bytes(field(bytes, 16)?))?;
        let has_root = bytes[8] & FLAG_ROOT != 0;
        let root = Hash::new(field(bytes, 24)?);
        let has_origin = bytes[8] & FLAG_ORIGIN != 0;
        let node = NodeId::new(field(bytes, 56)?);
        let mtime_ns = i64::from_le_bytes(field(bytes, 88)?);
        Some(Self {
            root: has_root.then_some(root),
            origin: has_origin.then_some((node, mtime_ns)),
            layout: ChunkLayout::with_chunk_log2(size, bytes[9])?,
            nonce: field(bytes, 96)?,
        })
    }
}

/// Writes the records of one state file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealer([u8; 16]);

impl Sealer {
    pub(super) fn record(self, index: ChunkIndex, hash: &Hash) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..4].copy_from_slice(&index.get().to_le_bytes());
        bytes[4..CHECK_AT].copy_from_slice(hash.as_bytes());
        let check = self.check(&bytes);
        bytes[CHECK_AT..].copy_from_slice(&check);
        bytes
    }

    fn check(self, record: &[u8; RECORD_BYTES]) -> [u8; RECORD_BYTES - CHECK_AT] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&record[..CHECK_AT]);
        first_bytes(&hasher.finalize())
    }
}

/// A state file as it was read.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) header: Header,
    pub(super) sealer: Sealer,
    pub(super) chunks: Vec<(ChunkIndex, Hash)>,
    /// Where the next record goes: the end of what passed the checks.
    pub(super) end_bytes: u64,
}

/// Begins a state file: its first bytes, and what writes its records.
pub(super) fn begin(header: &Header) -> (Vec<u8>, Sealer) {
    let bytes = header.encode();
    let sealer = Sealer(seal_of(&bytes));
    (bytes.to_vec(), sealer)
}

/// Reads a state file; `None` if there is no sound header.
pub(super) fn read(bytes: &[u8]) -> Option<Recorded> {
    let (header_bytes, records) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let header = Header::decode(header_bytes)?;
    let sealer = Sealer(seal_of(header_bytes));
    let mut chunks = Vec::new();
    for record in records.as_chunks::<RECORD_BYTES>().0 {
        let Some(chunk) = read_record(sealer, &header.layout, record) else {
            break;
        };
        chunks.push(chunk);
    }
    Some(Recorded {
        header,
        sealer,
        end_bytes: (HEADER_BYTES + chunks.len() * RECORD_BYTES) as u64,
        chunks,
    })
}

/// The longest state file that is read, in bytes: every chunk once.
pub(super) fn max_bytes(layout: &ChunkLayout) -> u64 {
    HEADER_BYTES as u64 + RECORD_BYTES as u64 * u64::from(layout.chunk_count())
}

fn read_record(
    sealer: Sealer,
    layout: &ChunkLayout,
    record: &[u8; RECORD_BYTES],
) -> Option<(ChunkIndex, Hash)> {
    let is_sound = sealer.check(record) == record[CHECK_AT..];
    let index = layout.index(u32::from_le_bytes(field(record, 0)?))?;
    let hash = Hash::new(field(record, 4)?);
    is_sound.then_some((index, hash))
}

fn seal_of(header: &[u8; HEADER_BYTES]) -> [u8; HEADER_BYTES - SEAL_AT] {
    first_bytes(&blake3::hash(&header[..SEAL_AT]))
}

fn first_bytes<const N: usize>(hash: &blake3::Hash) -> [u8; N] {
    let mut first = [0; N];
    first.copy_from_slice(&hash.as_bytes()[..N]);
    first
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Tells state files apart; it need not be secret, only different.
fn fresh_nonce() -> [u8; 16] {
    let random = RandomState::new();
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&random.hash_one(SystemTime::now()).to_le_bytes());
    nonce[8..].copy_from_slice(&random.hash_one(std::process::id()).to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let (header, bytes) = sample(5);
        let read = read(&bytes).expect("sound");
        assert_eq!(read.header, header);
        assert_eq!(read.chunks.len(), 5);
        assert_eq!(read.end_bytes, bytes.len() as u64);
    }

    #[test]
    fn a_file_torn_at_any_byte_gives_the_whole_records_before() {
        let (_, bytes) = sample(3);
        for len in 0..bytes.len() {
            let chunks = read(&bytes[..len]).map(|read| read.chunks.len());
            let expected = len
                .checked_sub(HEADER_BYTES)
                .map(|records| records / RECORD_BYTES);
            assert_eq!(chunks, expected, "{len}");
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_reading_there() {
        let (_, bytes) = sample(3);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let chunks = read(&flipped).map(|read| read.chunks.len());
            let expected = at
                .checked_sub(HEADER_BYTES)
                .map(|records| records / RECORD_BYTES);
            assert_eq!(chunks, expected, "{at}");
        }
    }

    #[test]
    fn a_record_of_another_file_of_the_same_content_is_not_taken() {
        let (_, first) = sample(2);
        let (_, second) = sample(2);
        let mixed = [&first[..HEADER_BYTES], &second[HEADER_BYTES..]].concat();
        assert!(read(&mixed).expect("sound header").chunks.is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reading_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            log2 in any::<u8>(),
            size in any::<u64>(),
        ) {
            let _ = read(&bytes);
            let mut sealed = [0; HEADER_BYTES];
            sealed[..8].copy_from_slice(MAGIC);
            sealed[9] = log2;
            sealed[16..24].copy_from_slice(&size.to_le_bytes());
            let seal = seal_of(&sealed);
            sealed[SEAL_AT..].copy_from_slice(&seal);
            let _ = read(&[sealed.as_slice(), &bytes].concat());
        }
    }

    fn sample(records: u32) -> (Header, Vec<u8>) {
        let size = FileSize::new(10 << 10).expect("small");
        let layout = ChunkLayout::with_chunk_log2(size, 10).expect("few chunks");
        let header = Header::of(&Content {
            source: Source::Origin {
                node: NodeId::new([7; 32]),
                mtime_ns: -5,
            },
            layout,
        });
        let (mut bytes, sealer) = begin(&header);
        for position in 0..records {
            let index = layout.index(position).expect("inside");
            bytes.extend(sealer.record(index, &Hash::new([9; 32])));
        }
        (header, bytes)
    }
}
