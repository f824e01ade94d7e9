//! A row of the index of hashes, as a damaged database may hold it.
//!
//! The input is the row's columns; where the first byte says so the checksum is put right, so that
//! what lies behind it is reached.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use shoal_fuzz as _;
use shoal_store::folder::FileStat;
use shoal_store::index::Index;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Row of one file: its device and inode.
const KEY: (u64, u64) = (1, 2);

struct Opened {
    runtime: Runtime,
    index: Index,
    database: SqlitePool,
    _folder: TempDir,
}

static OPENED: LazyLock<Opened> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("index.db");
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (index, database) = runtime.block_on(async {
        let index = Index::open(&path).await.expect("a new index");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(1);
        let database = pool.connect_with(options).await.expect("the database");
        (index, database)
    });
    Opened {
        runtime,
        index,
        database,
        _folder: folder,
    }
});

fuzz_target!(|input: &[u8]| {
    let Some((head, hashes)) = input.split_first_chunk::<{ 1 + 4 * 8 + 32 }>() else {
        return;
    };
    let numbers: [i64; 4] = std::array::from_fn(|at| {
        let bytes = head[1 + at * 8..].first_chunk().copied();
        i64::from_le_bytes(bytes.expect("in the head"))
    });
    let root = &head[1 + 4 * 8..];
    let checksum = match head[0] & 1 {
        0 => checksum_of(&numbers, root),
        _ => root[..16].to_vec(),
    };
    let [size, mtime_ns, ctime_ns, _] = numbers;
    let stat = FileStat {
        size: size.cast_unsigned(),
        mtime_ns,
        ctime_ns,
        device: KEY.0,
        inode: KEY.1,
        mode: 0o644,
    };
    let Opened {
        runtime,
        index,
        database,
        ..
    } = &*OPENED;
    runtime.block_on(async {
        let mut insert =
            sqlx::query("INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
                .bind(KEY.0.cast_signed())
                .bind(KEY.1.cast_signed());
        for number in numbers {
            insert = insert.bind(number);
        }
        let insert = insert.bind(root).bind(checksum).bind(hashes);
        insert.execute(database).await.expect("the row");
        let roots = index.roots(&[stat]).await.expect("the database is sound");
        let list = index.find(&stat).await.expect("the database is sound");
        if let Some(list) = list {
            let known: Vec<_> = roots.iter().flatten().map(|known| known.root).collect();
            assert_eq!(known, [list.root()]);
            assert_eq!(list.root().as_bytes(), root);
            assert_eq!(list.layout().size().bytes(), stat.size);
            assert_eq!(list.as_slice().len(), list.layout().chunk_count() as usize);
        }
    });
});

fn checksum_of(numbers: &[i64; 4], root: &[u8]) -> Vec<u8> {
    let [device, inode] = [KEY.0, KEY.1].map(u64::cast_signed);
    let mut hasher = blake3::Hasher::new();
    for number in [device, inode].iter().chain(numbers) {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(root);
    hasher.finalize().as_bytes()[..16].to_vec()
}
