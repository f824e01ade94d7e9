//! A crash after every step of a download: the folder is copied as it is, opened again, believed
//! only where it tells the truth, and the download completed from there.
//!
//! Power loss is played by taking older bytes for what was not yet synced, and by tearing the
//! state file at every byte.

use std::fs;
use std::path::Path;

use shoal_store::folder::Folder;
use shoal_store::hashing::{HashList, chunk_hash};
use shoal_store::partial::{
    ChunkWriter, Content, FinishOptions, Partial, Source, remove_left_state,
};
use shoal_wire::{ChunkIndex, ChunkLayout, FileSize, SafePath};
use tempfile::TempDir;

const CHUNK_LOG2: u8 = 12;
const SIZE: usize = 5 * 4096 + 100;
const PART: &str = ".file.shoal-part";
const STATE: &str = ".file.shoal-state";

#[test]
fn after_a_crash_at_any_step_what_is_claimed_is_true_and_the_download_completes() {
    let script = Script::new();
    let root = tempfile::tempdir().expect("temporary folder");
    let snapshots = script.run(root.path());
    assert!(snapshots.len() > 20);
    let mut most_durable = 0;
    for snapshot in &snapshots {
        most_durable = most_durable.max(script.check(snapshot.path()));
    }
    assert_eq!(most_durable, 6);
}

#[test]
fn a_state_torn_at_any_byte_claims_only_what_is_true() {
    let script = Script::new();
    let root = tempfile::tempdir().expect("temporary folder");
    let snapshots = script.run(root.path());
    let fullest = &snapshots[snapshots.len() - 2];
    let state = fs::read(fullest.path().join(STATE)).expect("read");
    for len in 0..=state.len() {
        let torn = copy_of(fullest.path());
        fs::write(torn.path().join(STATE), &state[..len]).expect("written");
        script.check(torn.path());
        let noisy = copy_of(fullest.path());
        let mut bytes = state[..len].to_vec();
        bytes.resize(state.len() + 48, 0xd7);
        fs::write(noisy.path().join(STATE), &bytes).expect("written");
        script.check(noisy.path());
    }
}

#[test]
fn a_power_loss_that_takes_unsynced_data_or_an_unsynced_state_leaves_only_true_claims() {
    let script = Script::new();
    let root = tempfile::tempdir().expect("temporary folder");
    let snapshots = script.run(root.path());
    let unfinished = &snapshots[..snapshots.len() - 1];
    for (at, now) in unfinished.iter().enumerate() {
        let before = unfinished[..at].iter().rev();
        let lost_data = before.take_while(|_| now.kind != Kind::Synced);
        for earlier in lost_data {
            script.check(mixture(earlier, now).path());
            if earlier.kind == Kind::Synced {
                break;
            }
        }
        if now.kind == Kind::Synced {
            script.check(mixture(now, &unfinished[at - 1]).path());
        }
    }
}

#[test]
fn a_record_behind_a_torn_one_never_comes_to_light_again() {
    let script = Script::new();
    let root = tempfile::tempdir().expect("temporary folder");
    let mut partial = script.open(root.path());
    script.put(&mut partial, 0);
    partial.sync().expect("synced");
    script.put(&mut partial, 1);
    script.put(&mut partial, 2);
    partial.sync().expect("synced");
    drop(partial);
    let state_path = root.path().join(STATE);
    let mut state = fs::read(&state_path).expect("read");
    state[128 + 48 + 20] ^= 1;
    fs::write(&state_path, &state).expect("written");

    let mut partial = script.open(root.path());
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert_eq!(partial.durable(), [true, false, false, false, false, false]);
    script.put(&mut partial, 3);
    partial.sync().expect("synced");
    drop(partial);
    assert_eq!(script.check(root.path()), 2);
}

#[test]
fn a_sync_beside_writing_claims_only_what_was_written_when_it_began() {
    let script = Script::new();
    let root = tempfile::tempdir().expect("temporary folder");
    let mut snapshots = Vec::new();
    let mut step = |kind| {
        let folder = copy_of(root.path());
        snapshots.push(Snapshot { folder, kind });
    };
    let mut partial = script.open(root.path());
    script.put(&mut partial, 3);
    for (later, torn) in [(0, 1), (4, 2)] {
        let syncing = partial
            .begin_sync()
            .expect("usable")
            .expect("chunk 3 waits");
        step(Kind::Written);
        script.write(&mut partial, later, &mut step);
        let unfinished = script.layout.index(torn).expect("inside");
        begin(&mut partial, unfinished)
            .write_at(0, &[0xbb; 100])
            .expect("written");
        assert!(partial.begin_sync().is_err() && partial.forget(&[unfinished]).is_err());
        let synced = syncing.run();
        step(Kind::Synced);
        assert!(!partial.is_durable(script.layout.index(later).expect("inside")));
        partial.end_sync(synced).expect("synced");
    }
    drop(partial);
    let (mut begun, mut durable) = (0, 0);
    for (at, now) in snapshots.iter().enumerate() {
        if now.kind == Kind::Synced {
            durable += 1;
            // What was written since the sync began may be lost, or there, in any order.
            for part in &snapshots[begun..=at] {
                assert_eq!(script.check(mixture(part, now).path()), durable);
            }
            begun = at + 1;
        } else {
            assert_eq!(script.check(copy_of(now.path()).path()), durable);
        }
    }
    assert_eq!(durable, 2);
}

#[test]
fn a_sync_whose_outcome_is_lost_ends_the_partial_and_keeps_its_claims() {
    let script = Script::new();
    let root = tempfile::tempdir().expect("temporary folder");
    let mut partial = script.open(root.path());
    script.put(&mut partial, 0);
    partial.sync().expect("synced");
    script.put(&mut partial, 1);
    drop(partial.begin_sync().expect("usable"));
    assert!(partial.sync().is_err());
    assert!(partial.finish(&script.options()).is_err());
    assert_eq!(script.check(root.path()), 1);
}

#[test]
fn an_old_state_is_not_believed_of_a_part_that_was_begun_anew() {
    let script = Script::new();
    let root = tempfile::tempdir().expect("temporary folder");
    let snapshots = script.run(root.path());
    let fullest = &snapshots[snapshots.len() - 2];
    let without_part = copy_of(fullest.path());
    fs::remove_file(without_part.path().join(PART)).expect("removed");
    assert_eq!(script.check(without_part.path()), 0);
    let empty_part = copy_of(fullest.path());
    fs::write(empty_part.path().join(PART), "").expect("written");
    let (zero_chunks, false_claims) = (1, 5);
    let had = script.check_damaged(empty_part.path(), false_claims);
    assert_eq!(had, zero_chunks);
}

#[test]
fn a_crash_between_link_and_unlink_leaves_the_finished_file_whole() {
    let script = Script::new();
    let root = tempfile::tempdir().expect("temporary folder");
    let mut partial = script.open(root.path());
    script.put(&mut partial, 0);
    partial.sync().expect("synced");
    drop(partial);
    fs::write(root.path().join("file"), &script.bytes).expect("written");
    fs::remove_file(root.path().join(PART)).expect("removed");
    fs::hard_link(root.path().join("file"), root.path().join(PART)).expect("linked");
    let partial = script.open(root.path());
    assert_eq!(partial.durable_bytes(), 0);
    assert_eq!(
        fs::read(root.path().join("file")).expect("read"),
        script.bytes
    );
}

#[test]
fn the_state_that_a_crash_left_beside_a_finished_file_is_removed_and_that_of_a_part_stays() {
    let script = Script::new();
    let root = tempfile::tempdir().expect("temporary folder");
    let snapshots = script.run(root.path());
    let crashed = copy_of(snapshots[snapshots.len() - 2].path());
    let folder = Folder::open(crashed.path()).expect("opened");
    let target: SafePath = "file".parse().expect("safe");
    remove_left_state(&folder, &target);
    assert!(crashed.path().join(STATE).exists());
    fs::rename(crashed.path().join(PART), crashed.path().join("file")).expect("renamed");
    remove_left_state(&folder, &target);
    assert!(!crashed.path().join(STATE).exists());
    assert_eq!(script.check(crashed.path()), 0);
}

#[test]
fn records_that_a_crash_left_half_replaced_are_gone_when_the_download_is_complete() {
    let script = Script::new();
    for at in [0, 5] {
        let root = tempfile::tempdir().expect("temporary folder");
        let snapshots = script.run(root.path());
        let crashed = copy_of(snapshots[at].path());
        fs::write(crashed.path().join(".file.shoal-temp"), "half").expect("written");
        script.check(crashed.path());
    }
}

/// What a step of the script did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bytes went to the part, at most; nothing was synced.
    Written,
    /// Data, then state were synced.
    Synced,
    /// A state that claims less was synced, then data was given up.
    Dropped,
    /// The file has its final name.
    Finished,
}

/// The folder as it was after one step.
struct Snapshot {
    folder: TempDir,
    kind: Kind,
}

impl Snapshot {
    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// One download: its content, and what a crashed folder is checked against.
struct Script {
    bytes: Vec<u8>,
    layout: ChunkLayout,
    list: HashList,
}

impl Script {
    fn new() -> Self {
        let mut bytes: Vec<u8> = (0..SIZE).map(|at| (at % 249) as u8).collect();
        bytes[4096..8192].fill(0);
        let size = FileSize::new(SIZE as u64).expect("small");
        let layout = ChunkLayout::with_chunk_log2(size, CHUNK_LOG2).expect("few chunks");
        let hashes = layout.indexes().map(|index| {
            let range = layout.range(index);
            let chunk = &bytes[range.start as usize..range.end as usize];
            chunk_hash(&layout, index, chunk)
        });
        let list = HashList::of_hashes(layout, hashes.collect()).expect("count fits");
        Self {
            bytes,
            layout,
            list,
        }
    }

    /// Runs a download with a wrong chunk, a drop and a reopening in it; the folder as it was
    /// after every step, the finished one last.
    fn run(&self, folder: &Path) -> Vec<Snapshot> {
        let mut snapshots = Vec::new();
        let mut step = |kind| {
            let folder = copy_of(folder);
            snapshots.push(Snapshot { folder, kind });
        };
        let wrong = self.layout.index(5).expect("inside");
        let mut partial = self.open(folder);
        step(Kind::Written);
        for at in [3, 0] {
            self.write(&mut partial, at, &mut step);
        }
        partial.sync().expect("synced");
        step(Kind::Synced);
        self.write(&mut partial, 1, &mut step);
        let writer = begin(&mut partial, wrong);
        writer.write_at(0, &[0xbb; 100]).expect("written");
        drop(writer);
        step(Kind::Written);
        drop(partial);
        let mut partial = self.open(folder);
        assert_eq!(partial.recheck().expect("hashed"), 0);
        step(Kind::Written);
        self.write(&mut partial, 1, &mut step);
        self.write(&mut partial, 5, &mut step);
        partial.sync().expect("synced");
        step(Kind::Synced);
        partial.forget(&[wrong]).expect("forgotten");
        step(Kind::Dropped);
        self.write(&mut partial, 5, &mut step);
        for at in [4, 2] {
            self.write(&mut partial, at, &mut step);
            partial.sync().expect("synced");
            step(Kind::Synced);
        }
        partial.finish(&self.options()).expect("finished");
        step(Kind::Finished);
        snapshots
    }

    fn write(&self, partial: &mut Partial, at: u32, step: &mut impl FnMut(Kind)) {
        let index = self.layout.index(at).expect("inside");
        let range = self.layout.range(index);
        let chunk = &self.bytes[range.start as usize..range.end as usize];
        let (first, second) = chunk.split_at(chunk.len() / 2);
        let writer = begin(partial, index);
        writer.write_at(0, first).expect("written");
        step(Kind::Written);
        let offset = first.len() as u64;
        writer.write_at(offset, second).expect("written");
        step(Kind::Written);
        partial.verified(index, self.list.chunk(index));
        step(Kind::Written);
    }

    fn put(&self, partial: &mut Partial, at: u32) {
        self.write(partial, at, &mut |_| {});
    }

    /// Checks a crashed folder, whose claims have to be true, and completes the download in it; how
    /// many chunks it had.
    fn check(&self, folder: &Path) -> usize {
        self.check_damaged(folder, 0)
    }

    /// The same where so many claims are false.
    fn check_damaged(&self, folder: &Path, false_claims: u32) -> usize {
        let target = folder.join("file");
        if target.exists() {
            assert!(fs::read(&target).expect("read") == self.bytes);
            return 0;
        }
        let mut partial = self.open(folder);
        assert_eq!(partial.recheck().expect("hashed"), false_claims);
        let durable = partial.durable();
        for index in self
            .layout
            .indexes()
            .filter(|index| durable[index.get() as usize])
        {
            let range = self.layout.range(index);
            let mut found = vec![0; (range.end - range.start) as usize];
            partial.read_at(index, 0, &mut found).expect("read");
            assert!(found == self.bytes[range.start as usize..range.end as usize]);
            assert_eq!(partial.hash_of(index), Some(self.list.chunk(index)));
        }
        for (at, is_durable) in (0..).zip(&durable) {
            if !is_durable {
                self.put(&mut partial, at);
            }
        }
        partial.finish(&self.options()).expect("finished");
        assert!(fs::read(&target).expect("read") == self.bytes);
        let left = fs::read_dir(folder).expect("listed").count();
        assert_eq!(left, 1, "something is left beside the file");
        durable.iter().filter(|durable| **durable).count()
    }

    fn open(&self, folder: &Path) -> Partial {
        let folder = Folder::open(folder).expect("opened");
        let target: SafePath = "file".parse().expect("safe");
        let content = Content {
            source: Source::Root(self.list.root()),
            layout: self.layout,
        };
        Partial::open(&folder, &target, &content, None).expect("opened")
    }

    fn options(&self) -> FinishOptions {
        FinishOptions {
            root: Some(self.list.root()),
            mode: 0o644,
            mtime_ns: 1_700_000_000_000_000_001,
            replace: false,
        }
    }
}

/// The part of one step with the state of another.
fn mixture(part: &Snapshot, state: &Snapshot) -> TempDir {
    let mixed = copy_of(part.path());
    let (from, to) = (state.path().join(STATE), mixed.path().join(STATE));
    if from.exists() {
        fs::copy(from, to).expect("copied");
    } else if to.exists() {
        fs::remove_file(to).expect("removed");
    }
    mixed
}

fn copy_of(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("temporary folder");
    for entry in fs::read_dir(folder).expect("listed") {
        let entry = entry.expect("entry");
        let to = copy.path().join(entry.file_name());
        fs::copy(entry.path(), to).expect("copied");
    }
    copy
}

fn begin(partial: &mut Partial, index: ChunkIndex) -> ChunkWriter {
    let writer = partial.begin_chunk(index).expect("usable");
    writer.expect("not verified yet")
}
