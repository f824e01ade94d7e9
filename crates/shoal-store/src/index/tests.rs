//! Rows found, replaced, dropped; databases damaged in every place.

use std::os::unix::fs::PermissionsExt;

use shoal_wire::{ChunkLayout, FileSize};
use tempfile::TempDir;

use super::*;
use crate::hashing;

#[tokio::test]
async fn a_recorded_version_is_found_and_no_other() {
    let (_root, path) = fresh();
    let index = Index::open(&path).await.expect("opened");
    for (inode, size) in [(1, 0), (2, 10), (u64::MAX, 3 << 20)] {
        let (stat, list) = hashed(inode, size);
        index.record(&stat, &list).await.expect("recorded");
        assert_eq!(index.find(&stat).await.expect("asked"), Some(list));
        for other in [
            FileStat {
                mtime_ns: 0,
                ..stat
            },
            FileStat { size: 7, ..stat },
            FileStat { inode: 99, ..stat },
            FileStat { device: 99, ..stat },
        ] {
            assert_eq!(index.find(&other).await.expect("asked"), None);
            assert_eq!(index.roots(&[other]).await.expect("asked"), [None]);
        }
    }
    index.close().await;
    let mode = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn another_time_of_its_attributes_makes_an_answer_a_hint_until_it_is_forgotten() {
    let (_root, path) = fresh();
    let index = Index::open(&path).await.expect("opened");
    let (stat, list) = hashed(1, 10);
    index.record(&stat, &list).await.expect("recorded");
    let touched = FileStat {
        ctime_ns: stat.ctime_ns + 1,
        mode: stat.mode ^ 0o100,
        ..stat
    };
    let found = index.find(&touched).await.expect("asked");
    assert_eq!(found, Some(list.clone()));
    let known = KnownRoot {
        root: list.root(),
        ctime_ns: stat.ctime_ns,
    };
    assert_eq!(index.roots(&[touched]).await.expect("asked"), [Some(known)]);
    index.forget(&[touched]).await.expect("forgotten");
    assert_eq!(index.find(&stat).await.expect("asked"), None);
}

#[tokio::test]
async fn a_newer_version_replaces_the_older() {
    let (_root, path) = fresh();
    let index = Index::open(&path).await.expect("opened");
    let (old, list) = hashed(1, 10);
    index.record(&old, &list).await.expect("recorded");
    let (newer, newer_list) = hashed(1, 20);
    index.record(&newer, &newer_list).await.expect("recorded");
    assert_eq!(index.find(&old).await.expect("asked"), None);
    assert_eq!(index.find(&newer).await.expect("asked"), Some(newer_list));
}

#[tokio::test]
async fn ten_thousand_files_are_recorded_and_answered_in_order() {
    let (_root, path) = fresh();
    let index = Index::open(&path).await.expect("opened");
    let files: Vec<(FileStat, HashList)> = (0..10_000).map(|at| hashed(at, at % 50)).collect();
    index.record_many(&files).await.expect("recorded");
    index.close().await;
    let index = Index::open(&path).await.expect("opened again");
    let mut stats: Vec<FileStat> = files.iter().map(|(stat, _)| *stat).collect();
    stats[5_000].mtime_ns += 1;
    let roots = index.roots(&stats).await.expect("asked");
    for (at, (_, list)) in files.iter().enumerate() {
        let expected = (at != 5_000).then(|| list.root());
        assert_eq!(roots[at].map(|known| known.root), expected, "{at}");
    }
    assert!(index.roots(&[]).await.expect("asked").is_empty());
}

#[tokio::test]
async fn a_changed_row_is_dropped_and_not_believed() {
    let (_root, path) = fresh();
    let index = Index::open(&path).await.expect("opened");
    let (stat, list) = hashed(1, 3 << 20);
    for change in [
        "UPDATE content SET root = zeroblob(32)",
        "UPDATE content SET root = x'00'",
        "UPDATE content SET mtime_ns = mtime_ns + 1",
        "UPDATE content SET chunk_log2 = 21",
        "UPDATE content SET checksum = x''",
        "UPDATE content SET root = 'text', size = 'text'",
        "UPDATE content SET hashes = zeroblob(96)",
        "UPDATE content SET hashes = hashes || x'00'",
    ] {
        index.record(&stat, &list).await.expect("recorded");
        alter(&index, change).await;
        assert_eq!(index.find(&stat).await.expect("asked"), None, "{change}");
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM content")
            .fetch_one(&index.readers)
            .await
            .expect("counted");
        assert_eq!(left, 0, "{change}");
    }
    index.record(&stat, &list).await.expect("recorded");
    alter(&index, "UPDATE content SET root = zeroblob(32)").await;
    assert_eq!(index.roots(&[stat]).await.expect("asked"), [None]);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_moved_aside() {
    let (root, path) = fresh();
    std::fs::write(&path, b"not a database, but somebody's text\n".repeat(300)).expect("written");
    let index = Index::open(&path).await.expect("begun anew");
    let (stat, list) = hashed(1, 10);
    index.record(&stat, &list).await.expect("recorded");
    assert_eq!(index.find(&stat).await.expect("asked"), Some(list));
    let aside = std::fs::read(root.path().join("index.db.damaged")).expect("kept");
    assert!(aside.starts_with(b"not a database"));
}

#[tokio::test]
async fn random_bytes_anywhere_never_give_a_wrong_answer() {
    let (root, path) = fresh();
    let index = Index::open(&path).await.expect("opened");
    let files: Vec<(FileStat, HashList)> = (0..400).map(|at| hashed(at, at)).collect();
    index.record_many(&files).await.expect("recorded");
    index.close().await;
    let sound = std::fs::read(&path).expect("read");
    for round in 0..40u64 {
        let damaged_path = root.path().join(format!("damaged-{round}.db"));
        let mut bytes = sound.clone();
        let noise = blake3::hash(&round.to_le_bytes());
        let at = noise.as_bytes()[0] as usize * (bytes.len() - 2_048) / 255;
        let mut reader = blake3::Hasher::new()
            .update(noise.as_bytes())
            .finalize_xof();
        reader.fill(&mut bytes[at..at + 2_048]);
        std::fs::write(&damaged_path, &bytes).expect("written");

        let index = Index::open(&damaged_path).await.expect("opened");
        for (stat, list) in &files {
            if let Ok(Some(found)) = index.find(stat).await {
                assert_eq!(found, *list, "round {round}");
            }
        }
        index.close().await;
    }
}

#[tokio::test]
async fn a_folder_that_is_missing_is_an_error_and_not_a_panic() {
    let (root, _) = fresh();
    let opened = Index::open(&root.path().join("none/index.db")).await;
    assert!(matches!(opened, Err(IndexError::Open { .. })));
}

async fn alter(index: &Index, statement: &'static str) {
    let mut transaction = index.writer.begin().await.expect("begun");
    let altered = sqlx::query(statement).execute(&mut *transaction).await;
    altered.expect("altered");
    transaction.commit().await.expect("committed");
}

fn fresh() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("temporary folder");
    let path = root.path().join("index.db");
    (root, path)
}

fn hashed(inode: u64, size: u64) -> (FileStat, HashList) {
    let layout = ChunkLayout::of(FileSize::new(size).expect("small"));
    let bytes = vec![inode as u8; size as usize];
    let hashes = layout
        .indexes()
        .map(|index| {
            let range = layout.range(index);
            let chunk = &bytes[range.start as usize..range.end as usize];
            hashing::chunk_hash(&layout, index, chunk)
        })
        .collect();
    let stat = FileStat {
        size,
        mtime_ns: -5,
        ctime_ns: 1_700_000_000_000_000_000,
        device: u64::MAX - 1,
        inode,
        mode: 0o100_644,
    };
    (
        stat,
        HashList::of_hashes(layout, hashes).expect("count fits"),
    )
}
