use super::*;

fn stat(size: u64, mtime_ns: i64) -> FileStat {
    FileStat {
        size,
        mtime_ns,
        ctime_ns: mtime_ns,
        device: 1,
        inode: 1,
        mode: 0o100_644,
    }
}

fn path(text: &str) -> SafePath {
    text.parse().unwrap()
}

fn scan(table: &mut Table, files: &[(&str, FileStat)]) -> Rescanned {
    let mut files: Vec<_> = files.iter().map(|(at, stat)| (path(at), *stat)).collect();
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    table.scan_begins();
    files.chunks(2).for_each(|some| table.found(some));
    table.scanned(true, &[])
}

fn scan_same(table: &mut Table, paths: &[&str]) -> Rescanned {
    let files: Vec<_> = paths.iter().map(|at| (*at, stat(3, 5))).collect();
    scan(table, &files)
}

fn names(entries: &[FileEntry]) -> Vec<String> {
    entries.iter().map(|entry| entry.path.to_string()).collect()
}

#[test]
fn a_page_of_a_folder_has_what_is_below_it_and_nothing_beside_it() {
    let mut table = Table::default();
    scan_same(&mut table, &["a", "b!", "b/1", "b/2", "b/c/3", "b0", "c"]);
    let folder = path("b");
    let (page, more) = table.page(Some(&folder), None, 2);
    assert_eq!(
        (names(&page), more),
        (vec!["b/1".into(), "b/2".into()], true)
    );
    let (page, more) = table.page(Some(&folder), Some(&page[1].path), 2);
    assert_eq!((names(&page), more), (vec!["b/c/3".into()], false));
    let (page, _) = table.page(Some(&path("a")), None, 9);
    assert_eq!(names(&page), ["a"]);
    assert_eq!(table.page(None, None, 9).0.len(), 7);
}

#[test]
fn a_follower_gets_each_change_once_and_the_last_state_of_each_path() {
    let mut table = Table::default();
    let mut reading = table.follow();
    scan_same(&mut table, &["a", "b"]);
    let batch = table.next_batch(&mut reading);
    assert_eq!(names(&batch.added), ["a", "b"]);
    table.told(&reading);
    assert!(table.hashed(&path("a"), &stat(3, 5), Hash::new([1; 32])));
    table.remove(&path("b"));
    scan_same(&mut table, &["a", "c"]);
    table.remove(&path("c"));
    let batch = table.next_batch(&mut reading);
    assert_eq!(names(&batch.added), ["a"]);
    assert_eq!(batch.removed, [path("b"), path("c")]);
    let nothing = Batch {
        complete: true,
        ..Batch::default()
    };
    assert_eq!(table.next_batch(&mut reading), nothing);
}

#[test]
fn what_is_gone_is_kept_until_everybody_was_told_and_no_longer() {
    let mut table = Table::default();
    let mut readings = [table.follow(), table.follow()];
    scan_same(&mut table, &["a", "b"]);
    for reading in &mut readings {
        table.next_batch(reading);
    }
    scan_same(&mut table, &["b"]);
    assert_eq!((table.totals().files, table.records.len()), (1, 2));
    for reading in &mut readings {
        assert_eq!(table.next_batch(reading).removed, [path("a")]);
        table.told(reading);
    }
    assert_eq!((table.records.len(), table.gone), (1, 0));
    let [first, second] = readings;
    table.leave(&first);
    table.remove(&path("b"));
    assert_eq!((table.totals().files, table.records.len()), (0, 1));
    table.leave(&second);
    assert_eq!((table.records.len(), table.gone), (0, 0));
    scan_same(&mut table, &["c"]);
    scan_same(&mut table, &[]);
    assert_eq!(
        (table.records.len(), table.totals()),
        (0, Totals::default())
    );
}

#[test]
fn a_change_behind_the_place_of_a_follower_comes_in_its_next_round() {
    let mut table = Table::default();
    let many: Vec<String> = (0..ANNOUNCE_MAX_ENTRIES + 10)
        .map(|number| format!("f{number:05}"))
        .collect();
    scan_same(
        &mut table,
        &many.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let mut reading = table.follow();
    let batch = table.next_batch(&mut reading);
    assert_eq!(
        (batch.added.len(), batch.complete),
        (ANNOUNCE_MAX_ENTRIES, false)
    );
    table.told(&reading);
    table.remove(&path(&many[0]));
    scan(&mut table, &[(&many[1], stat(9, 9)), ("f9", stat(1, 1))]);
    let batch = table.next_batch(&mut reading);
    assert!(batch.complete && names(&batch.added) == ["f9"]);
    assert_eq!(batch.removed.len(), 10);
    table.told(&reading);
    let batch = table.next_batch(&mut reading);
    assert_eq!(names(&batch.added)[0], many[1]);
    assert_eq!(batch.removed[0], path(&many[0]));
}

#[test]
fn a_changed_file_loses_its_hash_and_an_unchanged_one_keeps_it() {
    let mut table = Table::default();
    scan_same(&mut table, &["a"]);
    let a = path("a");
    let hash = Hash::new([1; 32]);
    assert!(table.hashed(&a, &stat(3, 5), hash));
    assert!(!table.hashed(&a, &stat(4, 5), Hash::new([2; 32])));
    assert_eq!(scan_same(&mut table, &["a"]).changed, 0);
    assert_eq!(table.by_hash(&hash, 4).len(), 1);
    assert!(table.by_hash(&Hash::new([2; 32]), 4).is_empty() && !table.has_unhashed());
    scan(&mut table, &[("a", stat(3, 6))]);
    assert!(table.by_hash(&hash, 4).is_empty() && table.has_unhashed());
    let unhashed = Totals {
        files: 1,
        total_bytes: 3,
        hashed: 0,
    };
    assert_eq!(table.totals(), unhashed);
    table.unhashable(&a, &stat(3, 6));
    assert_eq!(table.totals().hashed, 1);
    assert!(table.unhashed_after(None, 9).is_empty());
}

#[test]
fn a_file_of_other_attributes_keeps_its_hash_and_is_hashed_again() {
    let mut table = Table::default();
    let (a, hash) = (path("a"), Hash::new([1; 32]));
    let touched = FileStat {
        ctime_ns: 9,
        mode: 0o100_600,
        ..stat(3, 5)
    };
    scan_same(&mut table, &["a"]);
    table.hashed(&a, &stat(3, 5), hash);
    assert!(!table.is_to_be_hashed());
    let scanned = scan(&mut table, &[("a", touched)]);
    // The mode is announced; no other version was found.
    assert_eq!((scanned.changed, table.changes()), (1, Changes::default()));
    let shared = table.file(&a).unwrap();
    assert_eq!((shared.entry.hash, shared.entry.mode), (Some(hash), 0o600));
    // Known is still only what it had before.
    assert_eq!(shared.stat.ctime_ns, 5);
    assert_eq!(scan(&mut table, &[("a", touched)]).changed, 0);
    assert_eq!(table.totals().hashed, 1);
    assert_eq!(table.unhashed_after(None, 9).len(), 1);
    table.unhashable(&a, &touched);
    assert!(!table.is_to_be_hashed() && table.file(&a).unwrap().entry.hash == Some(hash));
    scan(&mut table, &[("a", touched)]);
    let version = table.last_version();
    table.hashed(&a, &touched, hash);
    assert!(!table.is_to_be_hashed() && table.last_version() == version);
    // What was known of it before does not count any more.
    table.hashed(&a, &stat(3, 5), Hash::new([2; 32]));
    let shared = table.file(&a).unwrap();
    assert_eq!((shared.entry.hash, shared.stat), (Some(hash), touched));
}

#[test]
fn a_hint_is_offered_and_hashed_again() {
    let mut table = Table::default();
    let (a, hash) = (path("a"), Hash::new([1; 32]));
    scan_same(&mut table, &["a"]);
    let before = FileStat {
        ctime_ns: 1,
        ..stat(3, 5)
    };
    assert!(table.hinted(&a, &before, hash));
    assert!(!table.has_unhashed() && table.is_to_be_hashed());
    assert_eq!(table.by_hash(&hash, 1)[0].stat.ctime_ns, 1);
    scan_same(&mut table, &["a"]);
    table.remove(&a);
    assert!(!table.is_to_be_hashed());
}

#[test]
fn what_changed_is_named_and_a_closed_folder_loses_what_a_scan_did_not_see() {
    let mut table = Table::default();
    scan_same(&mut table, &["a", "b!", "b/1", "b/2", "c"]);
    scan(
        &mut table,
        &[
            ("a", stat(4, 6)),
            ("b!", stat(3, 5)),
            ("b/1", stat(4, 6)),
            ("d", stat(3, 5)),
        ],
    );
    let changes = Changes {
        changed: 2,
        first: vec![path("a"), path("b/1")],
        gone: 0,
    };
    assert_eq!(table.changes(), changes);
    table.scan_begins();
    assert_eq!(table.scanned(false, &[b"b".to_vec()]).removed, 1);
    let left = table.page(None, None, 9).0;
    assert_eq!(names(&left), ["a", "b!", "d"]);
    table.scan_begins();
    table.scanned(false, &[Vec::new()]);
    assert_eq!(table.totals().files, 0);
}

#[test]
fn files_without_a_hash_are_found_wherever_they_lie() {
    let mut table = Table::default();
    let many: Vec<String> = (0..1000).map(|number| format!("f{number:05}")).collect();
    scan_same(
        &mut table,
        &many.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    for (number, at) in many.iter().enumerate() {
        if number % 500 != 3 {
            table.hashed(&path(at), &stat(3, 5), Hash::new([7; 32]));
        }
    }
    let files = table.unhashed_after(None, 1);
    assert_eq!(files[0].entry.path, path("f00003"));
    let files = table.unhashed_after(Some(&path("f00003")), 9);
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].entry.path, path("f00503"));
}

#[test]
fn what_an_incomplete_scan_did_not_see_stays_and_what_was_not_hashed_is_tried_again() {
    let mut table = Table::default();
    scan_same(&mut table, &["a", "b"]);
    table.unhashable(&path("a"), &stat(3, 5));
    table.unhashable(&path("b"), &stat(3, 5));
    assert!(!table.has_unhashed());
    table.scan_begins();
    table.found(&[(path("a"), stat(3, 5)), (path("c"), stat(3, 5))]);
    let scanned = table.scanned(false, &[]);
    assert_eq!((scanned.files, scanned.removed), (3, 0));
    assert_eq!(table.unhashed_after(None, 9).len(), 2);
    assert_eq!(scan_same(&mut table, &["a"]).removed, 2);
    assert_eq!(table.totals().files, 1);
}

#[test]
fn contents_that_are_not_listed_any_more_are_forgotten_and_the_others_found() {
    let mut table = Table::default();
    scan_same(&mut table, &["a", "b"]);
    let kept = Hash::new([255; 32]);
    assert!(table.hashed(&path("b"), &stat(3, 5), kept));
    for version in 0..5_000_u32 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&version.to_le_bytes());
        table.hashed(&path("a"), &stat(3, 5), Hash::new(hash));
    }
    assert!(table.contents.len() <= 2 * 2 + CONTENTS_SPARE + 1);
    let found = table.by_hash(&kept, 4);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].entry.path, path("b"));
}
