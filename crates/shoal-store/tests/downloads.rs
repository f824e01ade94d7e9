//! Downloads from beginning to end, in whole folders: what is refused, what is resumed, what is
//! left alone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use shoal_store::folder::Folder;
use shoal_store::hashing::{HashList, chunk_hash};
use shoal_store::partial::{
    Content, FinishError, FinishOptions, Partial, PartialError, Source, is_partial_name,
};
use shoal_wire::{ChunkIndex, ChunkLayout, FileSize, Hash, NodeId, SafePath};
use tempfile::TempDir;

#[test]
fn a_download_gets_its_name_its_attributes_and_leaves_nothing_beside_it() {
    let (root, folder) = fresh();
    let sample = Sample::of(50_001);
    let mut partial = sample.open(&folder, "a/b/file").expect("opened");
    sample.put_all(&mut partial);
    assert_eq!(partial.sync().expect("synced"), 13);
    let found = partial.finish(&sample.options()).expect("finished");
    assert_eq!(found, sample.root());
    let path = root.path().join("a/b/file");
    assert_eq!(fs::read(&path).expect("read"), sample.bytes);
    let metadata = fs::metadata(&path).expect("there");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-2, 999_999_999));
    assert_eq!(names_in(&root.path().join("a/b")), ["file"]);
}

#[test]
fn a_small_file_needs_no_sync_before_it_is_finished() {
    let (root, folder) = fresh();
    for size in [0, 1, 4096] {
        let sample = Sample::of(size);
        let mut partial = sample.open(&folder, "file").expect("opened");
        sample.put_all(&mut partial);
        let options = FinishOptions {
            replace: true,
            ..sample.options()
        };
        partial.finish(&options).expect("finished");
        assert_eq!(
            fs::read(root.path().join("file")).expect("read"),
            sample.bytes
        );
        assert_eq!(names_in(root.path()), ["file"]);
    }
}

#[test]
fn what_was_synced_is_resumed_and_what_was_not_is_missing() {
    let (_root, folder) = fresh();
    let sample = Sample::of(50_001);
    let mut partial = sample.open(&folder, "file").expect("opened");
    sample.put(&mut partial, 2);
    sample.put(&mut partial, 12);
    assert_eq!(partial.durable_bytes(), 0);
    assert_eq!(partial.sync().expect("synced"), 2);
    sample.put(&mut partial, 5);
    drop(partial);

    let mut partial = sample.open(&folder, "file").expect("opened again");
    let mut bytes = [0; 4];
    assert_eq!(partial.durable_bytes(), 0, "it counts before it was hashed");
    assert!(partial.read_at(sample.index(2), 8, &mut bytes).is_err());
    assert_eq!(partial.recheck().expect("hashed"), 0);
    let durable: Vec<usize> = (0..13).filter(|at| partial.durable()[*at]).collect();
    assert_eq!(durable, [2, 12]);
    assert_eq!(partial.durable_bytes(), 4096 + 849);
    assert_eq!(partial.hash_of(sample.index(2)), Some(sample.hash(2)));
    assert_eq!(partial.hash_of(sample.index(5)), None);
    partial
        .read_at(sample.index(2), 8, &mut bytes)
        .expect("durable");
    assert_eq!(bytes, sample.bytes[2 * 4096 + 8..2 * 4096 + 12]);
    sample.put_all(&mut partial);
    partial.finish(&sample.options()).expect("finished");
}

#[test]
fn zeros_over_stale_bytes_are_written_and_elsewhere_take_no_room() {
    let (root, folder) = fresh();
    let mut sample = Sample::of(0);
    sample.bytes = vec![0; 8 << 20];
    sample.bytes[5 << 20] = 1;
    sample.layout = layout(8 << 20, 20);
    let mut partial = sample.open(&folder, "file").expect("opened");
    let noise = vec![0xff; 1 << 20];
    write(&mut partial, sample.index(0), 0, &noise).expect("written");
    drop(partial);
    let mut partial = sample.open(&folder, "file").expect("opened again");
    write(&mut partial, sample.index(1), 0, &noise).expect("written");
    sample.put_all(&mut partial);
    partial.sync().expect("synced");
    partial.finish(&sample.options()).expect("finished");
    let path = root.path().join("file");
    assert!(fs::read(&path).expect("read") == sample.bytes);
    let taken = fs::metadata(&path).expect("there").blocks() * 512;
    assert!(taken <= (1 << 20) + (64 << 10), "{taken} bytes are taken");
}

#[test]
fn zeros_replace_bytes_that_an_interrupted_run_left_in_a_missing_chunk() {
    let (root, folder) = fresh();
    let mut sample = Sample::of(50_001);
    sample.bytes[4096..5 * 4096].fill(0);
    let mut partial = sample.open(&folder, "file").expect("opened");
    sample.put(&mut partial, 0);
    for at in 1..5 {
        write(&mut partial, sample.index(at), 0, &[0xff; 4096]).expect("written");
    }
    partial.sync().expect("synced");
    drop(partial);
    let mut partial = sample.open(&folder, "file").expect("opened again");
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert_eq!(partial.durable_bytes(), 4096);
    for at in 1..13 {
        write(&mut partial, sample.index(at), 0, sample.chunk(at)).expect("written");
        partial.verified(sample.index(at), sample.hash(at));
    }
    partial.sync().expect("synced");
    partial.finish(&sample.options()).expect("finished");
    assert_eq!(
        fs::read(root.path().join("file")).expect("read"),
        sample.bytes
    );
}

#[test]
fn a_second_opening_is_busy_until_the_first_is_dropped() {
    let (_root, folder) = fresh();
    let sample = Sample::of(9_000);
    let first = sample.open(&folder, "file").expect("opened");
    let second = sample.open(&folder, "file");
    assert!(matches!(second, Err(PartialError::Busy)));
    drop(first);
    assert!(sample.open(&folder, "file").is_ok());
}

#[test]
fn an_existing_file_is_left_alone_unless_it_is_to_be_replaced() {
    let (root, folder) = fresh();
    let target = root.path().join("file");
    fs::write(&target, "older").expect("written");
    let sample = Sample::of(9_000);
    let mut partial = sample.open(&folder, "file").expect("opened");
    sample.put_all(&mut partial);
    let refused = partial.finish(&sample.options());
    assert!(matches!(refused, Err(FinishError::TargetExists)));
    assert_eq!(fs::read(&target).expect("read"), b"older");

    let mut partial = sample.open(&folder, "file").expect("opened again");
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert!(partial.durable().iter().all(|durable| *durable));
    let part = fs::metadata(root.path().join(".file.shoal-part")).expect("there");
    assert_eq!(part.permissions().mode() & 0o777, 0o600);
    let options = FinishOptions {
        replace: true,
        ..sample.options()
    };
    partial.finish(&options).expect("finished");
    assert_eq!(fs::read(&target).expect("read"), sample.bytes);
}

#[test]
fn incomplete_or_other_content_is_not_finished_and_stays() {
    let (_root, folder) = fresh();
    let sample = Sample::of(9_000);
    let mut partial = sample.open_by_origin(&folder, "file").expect("opened");
    sample.put(&mut partial, 0);
    let refused = partial.finish(&sample.options());
    assert!(matches!(
        refused,
        Err(FinishError::Incomplete { missing: 2 })
    ));

    let mut partial = sample.open_by_origin(&folder, "file").expect("opened");
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert_eq!(partial.durable(), [true, false, false]);
    sample.put_all(&mut partial);
    let other = FinishOptions {
        root: Some(Hash::new([1; 32])),
        ..sample.options()
    };
    let refused = partial.finish(&other);
    assert!(matches!(refused, Err(FinishError::WrongRoot { .. })));
    let unchecked = sample.open_by_origin(&folder, "file").expect("opened");
    let refused = unchecked.finish(&sample.options());
    assert!(matches!(
        refused,
        Err(FinishError::Incomplete { missing: 3 })
    ));
    let mut partial = sample.open_by_origin(&folder, "file").expect("opened");
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert_eq!(partial.durable(), [true, true, true]);
}

#[test]
fn other_content_at_the_same_target_begins_anew() {
    let (root, folder) = fresh();
    let first = Sample::of(9_000);
    let mut partial = first.open(&folder, "file").expect("opened");
    first.put_all(&mut partial);
    partial.sync().expect("synced");
    drop(partial);
    let second = Sample::of(9_001);
    let mut partial = second.open(&folder, "file").expect("opened");
    assert_eq!(partial.durable(), [false; 3]);
    second.put_all(&mut partial);
    partial.finish(&second.options()).expect("finished");
    assert_eq!(
        fs::read(root.path().join("file")).expect("read"),
        second.bytes
    );
}

#[test]
fn a_known_list_keeps_equal_chunks_and_names_the_content_from_then_on() {
    let (root, folder) = fresh();
    let sample = Sample::of(50_001);
    let mut partial = sample.open_by_origin(&folder, "file").expect("opened");
    sample.put(&mut partial, 1);
    sample.put(&mut partial, 3);
    write(&mut partial, sample.index(4), 0, &[9; 4096]).expect("written");
    partial.verified(sample.index(4), Hash::new([4; 32]));
    partial.sync().expect("synced");
    partial.verified(sample.index(6), Hash::new([6; 32]));
    assert_eq!(partial.keep_matching(&sample.list()).expect("kept"), 2);
    drop(partial);

    let mut partial = sample.open(&folder, "file").expect("opened by its root");
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert!(partial.is_durable(sample.index(1)) && partial.is_durable(sample.index(3)));
    assert!(!partial.is_durable(sample.index(4)) && !partial.is_durable(sample.index(6)));
    let foreign = Sample::of(50_002);
    let refused = partial.keep_matching(&foreign.list());
    assert!(matches!(refused, Err(PartialError::WrongList)));
    sample.put_all(&mut partial);
    partial.finish(&sample.options()).expect("finished");
    assert_eq!(
        fs::read(root.path().join("file")).expect("read"),
        sample.bytes
    );
}

#[test]
fn a_rotten_chunk_is_found_dropped_and_fetched_again() {
    let (root, folder) = fresh();
    let sample = Sample::of(50_001);
    let mut partial = sample.open(&folder, "file").expect("opened");
    sample.put_all(&mut partial);
    partial.sync().expect("synced");
    drop(partial);
    let part = root.path().join(".file.shoal-part");
    let mut bytes = fs::read(&part).expect("read");
    bytes[7 * 4096] ^= 1;
    fs::write(&part, &bytes).expect("written");
    let mut partial = sample.open(&folder, "file").expect("opened again");
    assert_eq!(partial.recheck().expect("hashed"), 1);
    assert!(partial.is_missing(sample.index(7)) && partial.begin_recheck().is_none());
    drop(partial);
    let mut partial = sample.open(&folder, "file").expect("opened again");
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert!(partial.is_missing(sample.index(7)));
    sample.put(&mut partial, 7);
    partial.finish(&sample.options()).expect("finished");
    let path = root.path().join("file");
    assert_eq!(fs::read(path).expect("read"), sample.bytes);
}

#[test]
fn chunks_are_written_and_synced_beside_a_recheck() {
    let (root, folder) = fresh();
    let sample = Sample::of(50_001);
    let mut partial = sample.open(&folder, "file").expect("opened");
    for at in [0, 3, 4] {
        sample.put(&mut partial, at);
    }
    partial.sync().expect("synced");
    drop(partial);
    let part = root.path().join(".file.shoal-part");
    let mut bytes = fs::read(&part).expect("read");
    bytes[3 * 4096] ^= 1;
    fs::write(&part, &bytes).expect("written");

    let mut partial = sample.open(&folder, "file").expect("opened again");
    let recheck = partial.begin_recheck().expect("three claims");
    sample.put(&mut partial, 1);
    partial.sync().expect("synced");
    let claimed = partial.begin_chunk(sample.index(0)).expect("usable");
    assert!(claimed.is_none(), "a claimed chunk is written");
    let result = recheck.run(&|| false);
    sample.put(&mut partial, 2);
    let syncing = partial.begin_sync().expect("usable").expect("chunk 2");
    assert!(result.has_damage());
    partial.end_sync(syncing.run()).expect("synced");
    let damaged = partial.end_recheck(result).expect("settled");
    assert_eq!(damaged, [sample.index(3)]);
    let durable: Vec<bool> = (0..13).map(|at| at < 5 && at != 3).collect();
    assert_eq!(partial.durable(), durable);
    sample.put_all(&mut partial);
    partial.finish(&sample.options()).expect("finished");
    let path = root.path().join("file");
    assert_eq!(fs::read(path).expect("read"), sample.bytes);
}

#[test]
fn a_recheck_that_is_stopped_leaves_its_chunks_as_claims() {
    let (_root, folder) = fresh();
    let sample = Sample::of(50_001);
    let mut partial = sample.open(&folder, "file").expect("opened");
    sample.put_all(&mut partial);
    partial.sync().expect("synced");
    drop(partial);
    let mut partial = sample.open(&folder, "file").expect("opened again");
    let recheck = partial.begin_recheck().expect("claims");
    let result = recheck.run(&|| true);
    assert_eq!(partial.end_recheck(result).expect("settled"), []);
    assert_eq!(partial.durable_bytes(), 0);
    assert_eq!(partial.recheck().expect("hashed"), 0);
    assert_eq!(partial.durable_bytes(), 50_001);
}

#[test]
fn a_part_of_another_length_has_what_it_still_has() {
    let (root, folder) = fresh();
    let sample = Sample::of(50_001);
    let mut partial = sample.open(&folder, "file").expect("opened");
    sample.put_all(&mut partial);
    partial.sync().expect("synced");
    drop(partial);
    let part = root.path().join(".file.shoal-part");
    let bytes = fs::read(&part).expect("read");
    fs::write(&part, &bytes[..20_000]).expect("written");
    let mut partial = sample.open(&folder, "file").expect("opened again");
    assert_eq!(partial.recheck().expect("hashed"), 9);
    let durable: Vec<bool> = (0..13).map(|at| at < 4).collect();
    assert_eq!(partial.durable(), durable);
}

#[test]
fn a_parent_swapped_for_a_link_does_not_lead_a_write_elsewhere() {
    let (root, folder) = fresh();
    let elsewhere = tempfile::tempdir().expect("temporary folder");
    let sample = Sample::of(9_000);
    let mut partial = sample.open(&folder, "sub/file").expect("opened");
    fs::rename(root.path().join("sub"), root.path().join("moved")).expect("moved");
    symlink(elsewhere.path(), root.path().join("sub")).expect("linked");
    sample.put_all(&mut partial);
    partial.sync().expect("synced");
    partial.finish(&sample.options()).expect("finished");
    assert!(names_in(elsewhere.path()).is_empty());
    assert_eq!(names_in(&root.path().join("moved")), ["file"]);
    let refused = sample.open(&folder, "sub/file");
    assert!(matches!(refused, Err(PartialError::Blocked { .. })));
}

#[test]
fn links_and_pipes_in_place_of_our_files_are_not_followed() {
    let (root, folder) = fresh();
    let victim = root.path().join("victim");
    fs::write(&victim, "precious").expect("written");
    let sample = Sample::of(9_000);
    symlink(&victim, root.path().join(".file.shoal-part")).expect("linked");
    let refused = sample.open(&folder, "file");
    assert!(matches!(refused, Err(PartialError::Blocked { .. })));
    symlink(&victim, root.path().join(".other.shoal-state")).expect("linked");
    symlink(&victim, root.path().join(".other.shoal-temp")).expect("linked");
    let mut partial = sample.open(&folder, "other").expect("opened");
    sample.put_all(&mut partial);
    partial.sync().expect("synced");
    partial.finish(&sample.options()).expect("finished");
    assert_eq!(fs::read(&victim).expect("read"), b"precious");
}

#[test]
fn a_file_that_does_not_fit_is_refused_before_anything_is_written() {
    let (root, folder) = fresh();
    let sample = Sample {
        bytes: Vec::new(),
        layout: layout(15 << 40, 30),
    };
    let content = Content {
        source: Source::Root(Hash::new([1; 32])),
        layout: sample.layout,
    };
    if folder.free_bytes().expect("asked") >= 15 << 40 {
        return;
    }
    let refused = Partial::open(&folder, &path("file"), &content, None);
    let Err(PartialError::NoSpace { needed, available }) = refused else {
        panic!("15 TiB were taken on");
    };
    assert!(needed == 15 << 40 && available < needed);
    assert!(names_in(root.path()).is_empty());
}

#[test]
fn a_removed_folder_is_named_in_the_error() {
    let (root, folder) = fresh();
    let sample = Sample::of(9_000);
    let mut partial = sample.open(&folder, "sub/file").expect("opened");
    fs::remove_dir_all(root.path()).expect("removed");
    sample.put_all(&mut partial);
    assert!(matches!(partial.sync(), Err(PartialError::PartGone)));
    assert!(matches!(partial.sync(), Err(PartialError::Failed)));
    for target in ["file", "sub/file"] {
        let refused = sample.open(&folder, target);
        assert!(matches!(refused, Err(PartialError::FolderGone { .. })));
    }
}

#[test]
fn a_folder_without_write_permission_is_denied() {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let (root, folder) = fresh();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o500)).expect("set");
    let refused = Sample::of(10).open(&folder, "file");
    assert!(matches!(refused, Err(PartialError::Denied { .. })));
}

#[test]
fn a_part_that_was_taken_away_is_not_finished_as_another_file() {
    let (root, folder) = fresh();
    let sample = Sample::of(9_000);
    let mut partial = sample.open(&folder, "file").expect("opened");
    sample.put_all(&mut partial);
    partial.sync().expect("synced");
    let part = root.path().join(".file.shoal-part");
    fs::remove_file(&part).expect("removed");
    fs::write(&part, "something else").expect("written");
    let refused = partial.finish(&sample.options());
    assert!(matches!(refused, Err(FinishError::PartGone)));
    assert!(!root.path().join("file").exists());
}

#[test]
fn no_download_may_have_a_name_of_an_unfinished_file() {
    let (_root, folder) = fresh();
    for name in [".x.shoal-state", ".x.shoal-part/y", "a/.x.SHOAL-TEMP"] {
        let refused = Sample::of(10).open(&folder, name);
        assert!(matches!(refused, Err(PartialError::ReservedName)), "{name}");
    }
    assert!(is_partial_name(b".x.shoal-part"));
}

#[test]
fn a_large_file_written_past_the_cache_is_what_was_written_down_to_its_odd_end() {
    let (root, folder) = fresh();
    let mut sample = Sample::of(0);
    let size = (64 << 20) + 4096 + 77;
    sample.bytes = (0..size).map(|at| (at * 31 + at / 4096) as u8).collect();
    sample.bytes[3 << 20..4 << 20].fill(0);
    sample.layout = layout(size as u64, 20);
    let mut partial = sample.open(&folder, "file").expect("opened");
    // Once from a page's beginning, as direct writes want it, once from elsewhere.
    let mut buffer = vec![0; (1 << 20) + 2 * 4096];
    let page = buffer.as_ptr().align_offset(4096);
    for at in (0..sample.layout.chunk_count()).rev() {
        let (index, chunk) = (sample.index(at), sample.chunk(at));
        let start = page + usize::from(at % 8 == 7) * 100;
        buffer[start..start + chunk.len()].copy_from_slice(chunk);
        write(&mut partial, index, 0, &buffer[start..start + chunk.len()]).expect("written");
        partial.verified(index, sample.hash(at));
    }
    partial.sync().expect("synced");
    drop(partial);
    let mut partial = sample.open(&folder, "file").expect("opened again");
    assert_eq!(partial.recheck().expect("hashed"), 0);
    partial.finish(&sample.options()).expect("finished");
    let path = root.path().join("file");
    assert!(fs::read(&path).expect("read") == sample.bytes);
    let taken = fs::metadata(&path).expect("there").blocks() * 512;
    assert!(
        taken < size as u64,
        "{taken} bytes are taken: zeros were written"
    );
}

#[test]
fn bytes_outside_a_chunk_are_refused() {
    let (_root, folder) = fresh();
    let sample = Sample::of(9_000);
    let mut partial = sample.open(&folder, "file").expect("opened");
    let last = sample.index(2);
    let foreign = Sample::of(50_001).index(9);
    for (index, offset, len) in [
        (last, 0, 809),
        (last, 808, 1),
        (last, u64::MAX, 2),
        (sample.index(0), 1, 4096),
        (foreign, 0, 1),
    ] {
        let refused = write(&mut partial, index, offset, &vec![1; len]);
        assert!(matches!(refused, Err(PartialError::OutOfChunk)));
    }
    partial.verified(foreign, Hash::new([0; 32]));
    let refused = partial.read_at(last, 0, &mut [0; 1]);
    assert!(matches!(refused, Err(PartialError::OutOfChunk)));
}

#[test]
fn late_bytes_for_a_verified_chunk_do_not_harm_it() {
    let (root, folder) = fresh();
    let sample = Sample::of(9_000);
    let mut partial = sample.open(&folder, "file").expect("opened");
    sample.put_all(&mut partial);
    for _ in 0..2 {
        let writer = partial.begin_chunk(sample.index(0)).expect("usable");
        assert!(writer.is_none());
        partial.sync().expect("synced");
    }
    partial.finish(&sample.options()).expect("finished");
    assert_eq!(
        fs::read(root.path().join("file")).expect("read"),
        sample.bytes
    );
}

#[test]
fn a_name_of_the_longest_kind_is_downloaded() {
    let (root, folder) = fresh();
    let sample = Sample::of(9_000);
    let name = "n".repeat(255);
    let mut partial = sample.open(&folder, &name).expect("opened");
    sample.put_all(&mut partial);
    partial.sync().expect("synced");
    partial.finish(&sample.options()).expect("finished");
    assert_eq!(names_in(root.path()), [name]);
}

#[test]
fn a_partial_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Partial>();
    is_send::<Folder>();
}

struct Sample {
    bytes: Vec<u8>,
    layout: ChunkLayout,
}

impl Sample {
    fn of(size: usize) -> Self {
        Self {
            bytes: (0..size).map(|at| (at % 253) as u8 + 1).collect(),
            layout: layout(size as u64, 12),
        }
    }

    fn open(&self, folder: &Folder, target: &str) -> Result<Partial, PartialError> {
        let source = Source::Root(self.root());
        self.open_from(folder, target, source)
    }

    fn open_by_origin(&self, folder: &Folder, target: &str) -> Result<Partial, PartialError> {
        let source = Source::Origin {
            node: NodeId::new([3; 32]),
            mtime_ns: 77,
        };
        self.open_from(folder, target, source)
    }

    fn open_from(
        &self,
        folder: &Folder,
        target: &str,
        source: Source,
    ) -> Result<Partial, PartialError> {
        let layout = self.layout;
        Partial::open(folder, &path(target), &Content { source, layout }, None)
    }

    fn index(&self, at: u32) -> ChunkIndex {
        self.layout.index(at).expect("inside")
    }

    fn chunk(&self, at: u32) -> &[u8] {
        let range = self.layout.range(self.index(at));
        &self.bytes[range.start as usize..range.end as usize]
    }

    fn hash(&self, at: u32) -> Hash {
        chunk_hash(&self.layout, self.index(at), self.chunk(at))
    }

    fn list(&self) -> HashList {
        let hashes = (0..self.layout.chunk_count()).map(|at| self.hash(at));
        HashList::of_hashes(self.layout, hashes.collect()).expect("count fits")
    }

    fn root(&self) -> Hash {
        self.list().root()
    }

    fn put(&self, partial: &mut Partial, at: u32) {
        let bytes = self.chunk(at);
        let index = self.index(at);
        let half = bytes.len() / 2;
        let writer = partial.begin_chunk(index).expect("usable");
        if let Some(writer) = writer {
            writer.write_at(0, &bytes[..half]).expect("written");
            let rest = writer.write_at(half as u64, &bytes[half..]);
            rest.expect("written");
        }
        partial.verified(index, self.hash(at));
    }

    fn put_all(&self, partial: &mut Partial) {
        (0..self.layout.chunk_count()).for_each(|at| self.put(partial, at));
    }

    fn options(&self) -> FinishOptions {
        FinishOptions {
            root: Some(self.root()),
            mode: 0o4755,
            mtime_ns: -1_000_000_001,
            replace: false,
        }
    }
}

fn fresh() -> (TempDir, Folder) {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = Folder::open(root.path()).expect("opened");
    (root, folder)
}

fn path(text: &str) -> SafePath {
    text.parse().expect("safe")
}

fn layout(size: u64, chunk_log2: u8) -> ChunkLayout {
    let size = FileSize::new(size).expect("within the limit");
    ChunkLayout::with_chunk_log2(size, chunk_log2).expect("few chunks")
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("listed");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    names
}

fn write(
    partial: &mut Partial,
    index: ChunkIndex,
    offset_in_chunk: u64,
    bytes: &[u8],
) -> Result<(), PartialError> {
    let writer = partial.begin_chunk(index)?.expect("not verified yet");
    writer.write_at(offset_in_chunk, bytes)
}
