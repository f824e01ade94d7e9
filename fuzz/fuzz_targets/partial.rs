//! The state file of a partial download, as a damaged disk or another program may leave it.
//!
//! The input is a state file without its checks, which are put right, so that what lies behind
//! them is reached; the first byte says whether they are, and how long the part is.
#![no_main]

use std::fs::File;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use shoal_fuzz as _;
use shoal_store::folder::Folder;
use shoal_store::partial::{Content, Partial, Source};
use shoal_wire::{ChunkLayout, FileSize, Hash, SafePath};
use tempfile::TempDir;

/// Lengths and places of the state file, as documented in `partial/state.rs`.
const HEADER_BYTES: usize = 128;
const SEAL_AT: usize = 112;
const RECORD_BYTES: usize = 48;
const CHECK_AT: usize = 36;

/// Larger files would only make the part take longer to hash.
const FILE_MAX_BYTES: u64 = 4 << 20;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|input: &[u8]| {
    let Some((flags, rest)) = input.split_first() else {
        return;
    };
    let mut state = rest.to_vec();
    if flags & 1 == 0 {
        put_checks_right(&mut state);
    }
    let content = content_of(&state);
    let size = content.layout.size().bytes();
    let part = File::create(beside(".file.shoal-part")).expect("a part");
    let part_bytes = if flags & 2 == 0 { size } else { size / 2 };
    part.set_len(part_bytes).expect("room for holes");
    std::fs::write(beside(".file.shoal-state"), &state).expect("a state");

    let target = SafePath::new(b"file").expect("a name");
    let mut partial = open(&target, &content);
    // What a state says is a claim: nothing counts before the part was hashed.
    assert_eq!(partial.durable_bytes(), 0);
    // The part is all holes: what is sound is a chunk of zeros.
    partial.recheck().expect("the disk works");
    let kept = partial.durable_bytes();
    assert!(kept <= size);
    for index in content.layout.indexes() {
        assert_eq!(partial.is_durable(index), partial.hash_of(index).is_some());
    }
    drop(partial);
    let mut partial = open(&target, &content);
    assert_eq!(partial.recheck().expect("the disk works"), 0);
    assert_eq!(partial.durable_bytes(), kept);
});

fn open(target: &SafePath, content: &Content) -> Partial {
    let folder = Folder::open(FOLDER.path()).expect("the folder");
    Partial::open(&folder, target, content, None).expect("whatever the state says")
}

/// The content that a state claims to be of, where it could be one; else any.
fn content_of(state: &[u8]) -> Content {
    let size = field(state, 16).map_or(0, u64::from_le_bytes);
    let size = FileSize::new(size % FILE_MAX_BYTES).expect("small");
    let [log2] = field(state, 9).unwrap_or([20]);
    let layout = ChunkLayout::with_chunk_log2(size, log2);
    Content {
        source: Source::Root(Hash::new(field(state, 24).unwrap_or([0; 32]))),
        layout: layout.unwrap_or_else(|| ChunkLayout::of(size)),
    }
}

fn put_checks_right(state: &mut [u8]) {
    let Some((header, records)) = state.split_first_chunk_mut::<HEADER_BYTES>() else {
        return;
    };
    header[..8].copy_from_slice(b"shoalst1");
    // A root, so that the content is found to be the same.
    header[8] |= 1;
    let size = u64::from_le_bytes(field(header, 16).expect("in the header"));
    header[16..24].copy_from_slice(&(size % FILE_MAX_BYTES).to_le_bytes());
    let seal = blake3::hash(&header[..SEAL_AT]);
    header[SEAL_AT..].copy_from_slice(&seal.as_bytes()[..HEADER_BYTES - SEAL_AT]);
    for record in records.as_chunks_mut::<RECORD_BYTES>().0 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header[SEAL_AT..]);
        hasher.update(&record[..CHECK_AT]);
        let check = hasher.finalize();
        record[CHECK_AT..].copy_from_slice(&check.as_bytes()[..RECORD_BYTES - CHECK_AT]);
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn beside(name: &str) -> PathBuf {
    FOLDER.path().join(name)
}
