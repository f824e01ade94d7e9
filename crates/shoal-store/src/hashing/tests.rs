//! Roots against the reference function, and refusals.

use std::cell::Cell;
use std::io::Write;

use proptest::prelude::*;

use super::*;

const SIZES: [usize; 9] = [
    0,
    1,
    1023,
    1024,
    1025,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    (5 << 20) + 7,
];

#[test]
fn the_root_is_what_blake3_prints_for_every_layout() {
    for size in SIZES {
        let bytes = content(size);
        for chunk_log2 in [10, 12, 16, 20, 23] {
            let layout = layout(size, chunk_log2);
            let hashes = chunk_hashes(&layout, &bytes);
            let expected = Hash::new(*blake3::hash(&bytes).as_bytes());
            assert_eq!(
                root_of(&layout, &hashes),
                Some(expected),
                "{size} {chunk_log2}"
            );
        }
    }
}

#[test]
fn pieces_of_any_length_give_the_same_chunk_hash() {
    let bytes = content((1 << 20) + 300_001);
    let layout = layout(bytes.len(), 20);
    for piece in [1_000, 65_500, 128 << 10, 300_000, 1 << 20] {
        for index in layout.indexes() {
            let chunk = part(&layout, index, &bytes);
            let mut hasher = ChunkHasher::new(&layout, index);
            chunk.chunks(piece).for_each(|slice| hasher.update(slice));
            assert_eq!(
                hasher.finish(),
                chunk_hash(&layout, index, chunk),
                "{piece}"
            );
        }
    }
}

#[test]
fn the_pieces_of_a_chunk_lead_to_its_hash() {
    for size in SIZES {
        let bytes = content(size);
        for chunk_log2 in [20, 21, 23] {
            let layout = layout(size, chunk_log2);
            for index in layout.indexes() {
                let chunk = part(&layout, index, &bytes);
                let hash_at = |at: usize| {
                    let end = chunk.len().min(at + PIECE_BYTES as usize);
                    piece_hash(&layout, index, at as u64, &chunk[at..end])
                };
                let offsets = (0..chunk.len().max(1)).step_by(PIECE_BYTES as usize);
                let pieces: Vec<Hash> = offsets.map(hash_at).collect();
                let expected = chunk_hash(&layout, index, chunk);
                assert_eq!(chunk_of_pieces(&layout, index, &pieces), Some(expected));
                assert_eq!(chunk_of_pieces(&layout, index, &pieces[1..]), None);
            }
        }
    }
}

#[test]
fn a_chunk_of_a_wrong_length_has_no_hash_of_a_chunk_and_does_not_panic() {
    let bytes = content(3 << 10);
    let layout = layout(bytes.len(), 10);
    let index = layout.index(1).expect("inside");
    let right = chunk_hash(&layout, index, &bytes[1024..2048]);
    for wrong in [&bytes[..0], &bytes[1024..2047], &bytes[1024..3072]] {
        assert_ne!(chunk_hash(&layout, index, wrong), right);
    }
}

#[test]
fn a_list_with_a_swapped_changed_missing_or_added_hash_is_refused() {
    let bytes = content((5 << 20) + 7);
    let layout = layout(bytes.len(), 20);
    let hashes = chunk_hashes(&layout, &bytes);
    let root = root_of(&layout, &hashes).expect("count fits");
    let verified = |hashes: Vec<Hash>| HashList::verified(layout, &root, hashes).is_some();
    assert!(verified(hashes.clone()));
    for at in 0..hashes.len() - 1 {
        let mut swapped = hashes.clone();
        swapped.swap(at, at + 1);
        assert!(!verified(swapped));
    }
    for at in 0..hashes.len() {
        let mut raw = *hashes[at].as_bytes();
        raw[at] ^= 1;
        let mut changed = hashes.clone();
        changed[at] = Hash::new(raw);
        assert!(!verified(changed));
    }
    assert!(!verified(hashes[1..].to_vec()));
    assert!(!verified([hashes.as_slice(), &hashes[..1]].concat()));
}

#[test]
fn a_file_is_hashed_to_the_same_root_and_its_size_is_checked() {
    let bytes = content((2 << 20) + 5);
    let mut file = tempfile::tempfile().expect("temporary file");
    file.write_all(&bytes).expect("written");
    let size = |bytes: usize| FileSize::new(bytes as u64).expect("small");
    let list = hash_file(&file, size(bytes.len()), &|| false).expect("hashed");
    assert_eq!(list.root().as_bytes(), blake3::hash(&bytes).as_bytes());
    for other in [bytes.len() - 1, bytes.len() + 1] {
        let outcome = hash_file(&file, size(other), &|| false);
        assert!(matches!(outcome, Err(HashFileError::SizeChanged)));
    }
}

#[test]
fn hashing_stops_within_a_block_of_being_cancelled() {
    let file = tempfile::tempfile().expect("temporary file");
    file.set_len(4 << 20).expect("set");
    let asked = Cell::new(0);
    let outcome = hash_file(&file, FileSize::new(4 << 20).expect("small"), &|| {
        asked.set(asked.get() + 1);
        asked.get() == 3
    });
    assert!(matches!(outcome, Err(HashFileError::Cancelled)));
    assert_eq!(asked.get(), 3);
}

proptest! {
    #[test]
    fn chunk_hashes_of_anything_merge_into_its_hash(
        bytes in prop::collection::vec(any::<u8>(), 0..40_000),
        chunk_log2 in 10u8..14,
    ) {
        let layout = layout(bytes.len(), chunk_log2);
        let root = root_of(&layout, &chunk_hashes(&layout, &bytes)).expect("count fits");
        let expected = Hash::new(*blake3::hash(&bytes).as_bytes());
        prop_assert_eq!(root, expected);
    }
}

fn layout(size: usize, chunk_log2: u8) -> ChunkLayout {
    let size = FileSize::new(size as u64).expect("small");
    ChunkLayout::with_chunk_log2(size, chunk_log2).expect("few chunks")
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

fn part<'a>(layout: &ChunkLayout, index: ChunkIndex, bytes: &'a [u8]) -> &'a [u8] {
    let range = layout.range(index);
    &bytes[range.start as usize..range.end as usize]
}

fn chunk_hashes(layout: &ChunkLayout, bytes: &[u8]) -> Vec<Hash> {
    layout
        .indexes()
        .map(|index| chunk_hash(layout, index, part(layout, index, bytes)))
        .collect()
}
