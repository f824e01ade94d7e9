//! Chunks that need not be fetched: what another file has of them, and what a part has whose state
//! is lost or damaged.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use shoal_store::folder::Folder;
use shoal_store::hashing::{HashList, chunk_hash};
use shoal_store::partial::{
    Content, FinishError, FinishOptions, Partial, PartialError, Search, Source,
};
use shoal_wire::{ChunkIndex, ChunkLayout, FileSize, SafePath};
use tempfile::TempDir;

const CHUNK: usize = 4096;
const PART: &str = ".file.shoal-part";
const STATE: &str = ".file.shoal-state";

#[test]
fn an_older_version_gives_its_equal_chunks_and_stays_as_it_is() {
    let (root, folder) = fresh();
    let new = Sample::of(10 * CHUNK + 100);
    let mut old = new.bytes.clone();
    old[4 * CHUNK + 7] ^= 1;
    let target = root.path().join("file");
    fs::write(&target, &old).expect("written");
    let mut partial = new.open(&folder);
    let found = new.search(&mut partial, of_file(&target));
    assert_eq!(found, 9 * CHUNK as u64 + 100);
    assert_eq!(new.missing(&partial), [4]);
    assert_eq!(partial.durable_bytes(), 0, "it counts before it is synced");
    partial.sync().expect("synced");
    drop(partial);

    let mut partial = new.open(&folder);
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert_eq!(partial.durable_bytes(), found);
    assert_eq!(fs::read(&target).expect("read"), old);
    new.put(&mut partial, 4);
    partial.finish(&new.options()).expect("finished");
    assert_eq!(fs::read(&target).expect("read"), new.bytes);
}

#[test]
fn shorter_and_longer_versions_give_every_whole_chunk() {
    for (old_len, missing) in [
        (6 * CHUNK + 5, vec![6, 7, 8]),
        (6 * CHUNK, vec![6, 7, 8]),
        (20 * CHUNK, vec![]),
        (100, (0..9).collect()),
        (0, (0..9).collect()),
    ] {
        let (root, folder) = fresh();
        let longest = Sample::of(20 * CHUNK);
        let new = Sample::new(longest.bytes[..8 * CHUNK + 77].to_vec());
        let older = root.path().join("older");
        fs::write(&older, &longest.bytes[..old_len]).expect("written");
        let mut partial = new.open(&folder);
        new.search(&mut partial, of_file(&older));
        assert_eq!(new.missing(&partial), missing, "{old_len}");
        for at in missing {
            new.put(&mut partial, at);
        }
        partial.finish(&new.options()).expect("finished");
        assert!(fs::read(root.path().join("file")).expect("read") == new.bytes);
    }
}

#[test]
fn a_chunk_longer_than_the_block_is_found_too_and_one_that_differs_leaves_nothing_behind() {
    let (root, folder) = fresh();
    let mut new = Sample::of(8 * CHUNK);
    new.bytes[CHUNK..2 * CHUNK].fill(0);
    let new = Sample::new(new.bytes);
    let mut old = new.bytes.clone();
    // The first of these differs only in its last byte: all else of it was read.
    old[2 * CHUNK - 1] = 1;
    old[5 * CHUNK] ^= 1;
    let older = root.path().join("older");
    fs::write(&older, &old).expect("written");
    let mut partial = new.open(&folder);
    let mut search = of_file(&older);
    while !search.is_over() {
        let mut block = [0; 1000];
        let step = partial.search(&mut search, &new.list(), &mut block, &|| false);
        step.expect("searched");
    }
    assert_eq!(new.missing(&partial), [1, 5]);
    new.put(&mut partial, 1);
    new.put(&mut partial, 5);
    partial.finish(&new.options()).expect("finished");
    assert!(fs::read(root.path().join("file")).expect("read") == new.bytes);
}

#[test]
fn a_file_that_became_shorter_or_differs_gives_nothing_wrong() {
    let (root, folder) = fresh();
    let new = Sample::of(8 * CHUNK);
    let older = root.path().join("older");
    fs::write(&older, &new.bytes).expect("written");
    let search = of_file(&older);
    fs::write(&older, &new.bytes[..3 * CHUNK + 1]).expect("written");
    let mut partial = new.open(&folder);
    new.search(&mut partial, search);
    assert_eq!(new.missing(&partial), [3, 4, 5, 6, 7]);
    fs::write(&older, Sample::of(9 * CHUNK).bytes.split_off(1)).expect("written");
    assert_eq!(new.search(&mut partial, of_file(&older)), 0);
    let foreign = Sample::of(9 * CHUNK);
    let mut block = [0; CHUNK];
    let refused = partial.search(&mut of_file(&older), &foreign.list(), &mut block, &|| false);
    assert!(matches!(refused, Err(PartialError::WrongList)));
}

#[test]
fn a_search_that_is_stopped_keeps_what_it_found_and_goes_on_elsewhere() {
    let (root, folder) = fresh();
    let new = Sample::of(8 * CHUNK);
    let older = root.path().join("older");
    fs::write(&older, &new.bytes).expect("written");
    let mut partial = new.open(&folder);
    new.put(&mut partial, 2);
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 9
    };
    let mut search = of_file(&older);
    let mut block = [0; CHUNK / 2];
    let found = partial.search(&mut search, &new.list(), &mut block, &stop);
    assert!(found.expect("searched") < 7 * CHUNK as u64 && search.is_over());
    new.search(&mut partial, of_file(&older));
    assert!(new.missing(&partial).is_empty());
    partial.finish(&new.options()).expect("finished");
    assert!(fs::read(root.path().join("file")).expect("read") == new.bytes);
}

#[test]
fn a_state_that_is_lost_or_damaged_costs_no_chunk_that_is_in_the_part() {
    for damage in ["missing", "empty", "header", "first record", "torn"] {
        let (root, folder) = fresh();
        let sample = Sample::of(10 * CHUNK + 100);
        let mut partial = sample.open(&folder);
        for at in [0, 1, 4, 5, 10] {
            sample.put(&mut partial, at);
        }
        partial.sync().expect("synced");
        drop(partial);
        inflict(damage, &root.path().join(STATE));
        // One chunk rots as well: it must not be believed.
        flip(&root.path().join(PART), 5 * CHUNK + 9);

        let mut partial = sample.open(&folder);
        assert_eq!(partial.durable_bytes(), 0, "{damage}");
        let found = sample.search(&mut partial, Search::of_part());
        assert_eq!(found, 3 * CHUNK as u64 + 100, "{damage}");
        assert_eq!(sample.missing(&partial), [2, 3, 5, 6, 7, 8, 9], "{damage}");
        partial.sync().expect("synced");
        assert_eq!(partial.durable_bytes(), found, "{damage}");
        for at in sample.missing(&partial) {
            sample.put(&mut partial, at);
        }
        partial.finish(&sample.options()).expect("finished");
        assert!(fs::read(root.path().join("file")).expect("read") == sample.bytes);
    }
}

#[test]
fn chunks_that_were_written_and_not_synced_are_found_after_a_crash() {
    let (_root, folder) = fresh();
    let sample = Sample::of(8 * CHUNK);
    let mut partial = sample.open(&folder);
    sample.put(&mut partial, 1);
    partial.sync().expect("synced");
    sample.put(&mut partial, 3);
    write(&mut partial, sample.index(4), &[0xee; 100]);
    drop(partial);
    let mut partial = sample.open(&folder);
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert_eq!(sample.missing(&partial), [0, 2, 3, 4, 5, 6, 7]);
    let found = sample.search(&mut partial, Search::of_part());
    assert_eq!(found, CHUNK as u64);
    assert_eq!(sample.missing(&partial), [0, 2, 4, 5, 6, 7]);
}

#[test]
fn a_part_of_another_version_gives_its_equal_chunks() {
    let (root, folder) = fresh();
    let first = Sample::of(8 * CHUNK);
    let mut partial = first.open(&folder);
    for at in 0..5 {
        first.put(&mut partial, at);
    }
    partial.sync().expect("synced");
    drop(partial);
    let mut second = first.bytes[..7 * CHUNK + 3].to_vec();
    second[2 * CHUNK] ^= 1;
    let second = Sample::new(second);
    let mut partial = second.open(&folder);
    assert_eq!(partial.durable_bytes(), 0);
    second.search(&mut partial, Search::of_part());
    assert_eq!(second.missing(&partial), [2, 5, 6, 7]);
    for at in [2, 5, 6, 7] {
        second.put(&mut partial, at);
    }
    partial.finish(&second.options()).expect("finished");
    assert!(fs::read(root.path().join("file")).expect("read") == second.bytes);
}

#[test]
fn a_state_has_its_room_before_the_first_chunk() {
    let (root, folder) = fresh();
    let sample = Sample::of(1000 * CHUNK);
    let partial = sample.open(&folder);
    let state = fs::metadata(root.path().join(STATE)).expect("a state");
    assert!(state.blocks() * 512 >= 128 + 1000 * 48, "{state:?}");
    assert_eq!(state.len(), 128);
    drop(partial);
    // A file of one chunk needs none: it is complete or it is not.
    let small = Sample::of(10);
    let target: SafePath = "small".parse().expect("safe");
    let content = small.content();
    let _partial = Partial::open(&folder, &target, &content, None).expect("opened");
    assert!(!root.path().join(".small.shoal-state").exists());
}

#[test]
fn a_range_leaves_a_download_of_more_at_the_same_name_as_it_was() {
    let (root, folder) = fresh();
    let sample = Sample::of(9 * CHUNK + 100);
    let target: SafePath = "a.bin".parse().expect("a path");
    let mut whole = Partial::open(&folder, &target, &sample.content(), None).expect("opened");
    for at in [0, 1, 7] {
        sample.put(&mut whole, at);
    }
    whole.sync().expect("synced");
    drop(whole);
    let bytes = 10..2 * CHUNK as u64;
    let range = Partial::open_range(&folder, &target, &sample.content(), None, &bytes);
    let mut range = range.expect("resumed");
    assert_eq!(range.recheck().expect("hashed"), 0);
    range
        .finish_range(&bytes, &sample.options(), true)
        .expect("finished");
    assert!(fs::read(root.path().join("a.bin")).expect("read") == sample.bytes[10..2 * CHUNK]);
    let whole = Partial::open(&folder, &target, &sample.content(), None);
    let mut whole = whole.expect("opened again");
    assert_eq!(whole.recheck().expect("hashed"), 0);
    assert_eq!(whole.durable_bytes(), 3 * CHUNK as u64);
}

#[test]
fn a_range_needs_only_its_chunks_and_becomes_a_file_of_its_own() {
    let (root, folder) = fresh();
    let sample = Sample::of(10 * CHUNK + 100);
    let bytes = 3 * CHUNK as u64 - 5..5 * CHUNK as u64 + 1;
    let target: SafePath = "file".parse().expect("safe");
    let open = || Partial::open_range(&folder, &target, &sample.content(), None, &bytes);
    let mut partial = open().expect("opened");
    assert_eq!(partial.wanted_bytes(), 4 * CHUNK as u64);
    sample.put(&mut partial, 2);
    partial.sync().expect("synced");
    let refused = partial.finish_range(&bytes, &sample.options(), true);
    assert!(matches!(
        refused,
        Err(FinishError::Incomplete { missing: 3 })
    ));

    // An earlier range gives the chunk that lies wholly within it, from where it has it.
    let older = root.path().join("older");
    fs::write(&older, &sample.bytes[4 * CHUNK - 9..6 * CHUNK]).expect("written");
    let older = File::open(older).expect("opened");
    let older = Search::of_range(older, 4 * CHUNK as u64 - 9).expect("asked");
    let mut partial = open().expect("opened again");
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert_eq!(partial.durable_bytes(), CHUNK as u64);
    let found = sample.search(&mut partial, older);
    assert_eq!(found, 2 * CHUNK as u64);
    sample.put(&mut partial, 3);
    let own = root.path().join("older");
    let own = File::open(own).expect("opened");
    assert!(!partial.has_bytes(&bytes, &own).expect("compared"));
    partial
        .finish_range(&bytes, &sample.options(), true)
        .expect("finished");
    let expected = &sample.bytes[bytes.start as usize..bytes.end as usize];
    assert_eq!(fs::read(root.path().join("file")).expect("read"), expected);
    assert_eq!(fs::read_dir(root.path()).expect("listed").count(), 2);
    let mut whole = sample.open(&folder);
    assert_eq!(whole.durable_bytes(), 0, "nothing of the range is left");
    sample.put(&mut whole, 0);
}

struct Sample {
    bytes: Vec<u8>,
    layout: ChunkLayout,
}

impl Sample {
    fn of(len: usize) -> Self {
        // No two chunks are the same.
        Self::new(
            (0..len)
                .map(|at| (at % 251 + at / CHUNK) as u8 | 1)
                .collect(),
        )
    }

    fn new(bytes: Vec<u8>) -> Self {
        let size = FileSize::new(bytes.len() as u64).expect("small");
        let layout = ChunkLayout::with_chunk_log2(size, 12).expect("few chunks");
        Self { bytes, layout }
    }

    fn content(&self) -> Content {
        Content {
            source: Source::Root(self.list().root()),
            layout: self.layout,
        }
    }

    fn open(&self, folder: &Folder) -> Partial {
        let target: SafePath = "file".parse().expect("safe");
        Partial::open(folder, &target, &self.content(), None).expect("opened")
    }

    fn index(&self, at: u32) -> ChunkIndex {
        self.layout.index(at).expect("inside")
    }

    fn chunk(&self, at: u32) -> &[u8] {
        let range = self.layout.range(self.index(at));
        &self.bytes[range.start as usize..range.end as usize]
    }

    fn list(&self) -> HashList {
        let hashes = (0..self.layout.chunk_count())
            .map(|at| chunk_hash(&self.layout, self.index(at), self.chunk(at)));
        HashList::of_hashes(self.layout, hashes.collect()).expect("count fits")
    }

    fn put(&self, partial: &mut Partial, at: u32) {
        write(partial, self.index(at), self.chunk(at));
        partial.verified(self.index(at), self.list().chunk(self.index(at)));
    }

    fn search(&self, partial: &mut Partial, mut search: Search) -> u64 {
        let mut found = 0;
        let mut block = [0; CHUNK];
        while !search.is_over() {
            let step = partial.search(&mut search, &self.list(), &mut block, &|| false);
            found += step.expect("searched");
        }
        found
    }

    fn missing(&self, partial: &Partial) -> Vec<u32> {
        let missing = self.layout.indexes().map(ChunkIndex::get);
        missing
            .filter(|at| !partial.is_verified(self.index(*at)))
            .collect()
    }

    fn options(&self) -> FinishOptions {
        FinishOptions {
            root: Some(self.list().root()),
            mode: 0o644,
            mtime_ns: 5,
            replace: true,
        }
    }
}

fn write(partial: &mut Partial, index: ChunkIndex, bytes: &[u8]) {
    let writer = partial.begin_chunk(index).expect("usable");
    let writer = writer.expect("missing");
    writer.write_at(0, bytes).expect("written");
}

fn inflict(damage: &str, state: &Path) {
    match damage {
        "missing" => fs::remove_file(state).expect("removed"),
        "empty" => fs::write(state, "").expect("written"),
        "header" => flip(state, 30),
        "first record" => flip(state, 128 + 7),
        _ => {
            let bytes = fs::read(state).expect("read");
            fs::write(state, &bytes[..60]).expect("written");
        }
    }
}

fn of_file(path: &Path) -> Search {
    Search::of_file(File::open(path).expect("opened")).expect("asked")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[at] ^= 0x20;
    fs::write(path, bytes).expect("written");
}

fn fresh() -> (TempDir, Folder) {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = Folder::open(root.path()).expect("opened");
    (root, folder)
}
