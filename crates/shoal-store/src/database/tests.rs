//! Transactions that fail, end half-way or are refused by the disk, and the one after them.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use super::*;

#[tokio::test]
async fn a_disk_that_is_full_in_mid_transaction_leaves_the_next_one_as_good_as_new() {
    let shelf = Shelf::new().await;
    shelf.add(10).await.expect("there is room");
    for _ in 0..3 {
        shelf.fill().await;
        let refused = shelf.add(1 << 20).await.expect_err("it is full");
        assert_eq!(Fault::from(&refused), Fault::Full, "{refused}");
        // The limit went with the connection, as a full disk goes when there is room.
        shelf.add(1 << 20).await.expect("there is room");
    }
    assert_eq!(shelf.rows().await, 4);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_anywhere_is_undone_and_leaves_the_next_one_as_good_as_new() {
    let shelf = Shelf::new().await;
    let mut done = 0;
    // Each round gives up one look later, so that every await is one in which it ends.
    for looks in 0..200 {
        let mut adding = pin!(shelf.add(10));
        let mut context = Context::from_waker(Waker::noop());
        let mut ended = false;
        for _ in 0..looks {
            if adding.as_mut().poll(&mut context).is_ready() {
                ended = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        done += i64::from(ended);
    }
    shelf.add(10).await.expect("nothing is in the way");
    // A commit may have come through although nobody heard of it.
    assert!(shelf.rows().await > done);
}

#[tokio::test]
async fn a_statement_that_fails_undoes_what_came_before_it() {
    let shelf = Shelf::new().await;
    let mut transaction = shelf.writer.begin().await.expect("begun");
    let insert = "INSERT INTO rows VALUES (x'00')";
    let inserted = sqlx::query(insert).execute(&mut *transaction).await;
    inserted.expect("inserted");
    let wrong = sqlx::query("INSERT INTO nothing VALUES (1)");
    let refused = wrong.execute(&mut *transaction).await;
    assert_eq!(Fault::from(&refused.expect_err("no table")), Fault::Other);
    drop(transaction);
    assert_eq!(shelf.rows().await, 0);
    shelf.add(10).await.expect("nothing is in the way");
    assert_eq!(shelf.rows().await, 1);
}

#[tokio::test]
async fn a_commit_that_fails_leaves_the_next_transaction_as_good_as_new() {
    let shelf = Shelf::new().await;
    let mut transaction = shelf.writer.begin().await.expect("begun");
    // The transaction is over before it is committed, as SQLite itself ends some.
    let ended = sqlx::query("ROLLBACK").execute(&mut *transaction).await;
    ended.expect("ended");
    transaction.commit().await.expect_err("nothing to commit");
    shelf.add(10).await.expect("nothing is in the way");
}

#[tokio::test]
async fn what_is_closed_begins_nothing() {
    let shelf = Shelf::new().await;
    shelf.writer.close().await;
    shelf.add(10).await.expect_err("it is closed");
    shelf.writer.close().await;
}

#[test]
fn room_is_tried_and_given_back() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("some.db");
    try_room(&path, 100_000).expect("there is room");
    let left = std::fs::read_dir(folder.path()).expect("listed").count();
    assert_eq!(left, 0);
    let missing = try_room(&folder.path().join("none/some.db"), 1).expect_err("no folder");
    assert_eq!(Fault::from(&missing), Fault::Other);
}

struct Shelf {
    _folder: tempfile::TempDir,
    writer: Writer,
    readers: SqlitePool,
}

impl Shelf {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("some.db");
        create_private(&path).expect("created");
        let writer = Writer::open(options(&path)).await.expect("opened");
        let mut transaction = writer.begin().await.expect("begun");
        let made = sqlx::query("CREATE TABLE rows (content BLOB)");
        made.execute(&mut *transaction).await.expect("made");
        transaction.commit().await.expect("committed");
        let readers = open_readers(options(&path), 1).await.expect("opened");
        Self {
            _folder: folder,
            writer,
            readers,
        }
    }

    async fn add(&self, len_bytes: i64) -> Result<(), sqlx::Error> {
        let mut transaction = self.writer.begin().await?;
        sqlx::query("INSERT INTO rows VALUES (zeroblob(?))")
            .bind(len_bytes)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }

    /// The connection at rest finds no room for more pages.
    async fn fill(&self) {
        let mut transaction = self.writer.begin().await.expect("begun");
        let limit = sqlx::query("PRAGMA max_page_count = 1");
        limit.execute(&mut *transaction).await.expect("limited");
        transaction.commit().await.expect("committed");
    }

    async fn rows(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM rows");
        count.fetch_one(&self.readers).await.expect("counted")
    }
}
