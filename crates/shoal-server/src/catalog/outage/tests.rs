//! Announces that a full database turns down, and those that are given up half-way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use shoal_wire::message::{Bounded, FileAnnounce};
use shoal_wire::{FileEntry, FileSize, NodeId, NodeName};
use sqlx::Executor as _;

use super::*;
use crate::catalog::Totals;

const ANNA: NodeId = NodeId::new([1; 32]);

#[tokio::test]
async fn a_batch_that_a_full_disk_turned_down_is_taken_as_it_is_once_there_is_room() {
    let shelf = Shelf::new().await;
    shelf.apply(&batch(0..1)).await.unwrap();
    for round in 1..4 {
        shelf.fill().await;
        let large = batch(0..500 * round);
        for _ in 0..3 {
            let refused = shelf.apply(&large).await.unwrap_err();
            let CatalogError::Unwritable(outage) = refused else {
                panic!("an outage: {refused}");
            };
            assert_eq!(outage.fault, Fault::Full);
        }
        assert_eq!(shelf.catalog.failed_writes(), 3 * u64::from(round));
        assert_eq!(shelf.known().await, u64::from(500 * (round - 1)).max(1));
        // The limit went with the connection, as a full disk goes when there is room.
        shelf.mended().await;
        let totals = shelf.apply(&large).await.unwrap();
        assert_eq!(totals.files, u64::from(500 * round));
    }
}

#[tokio::test]
async fn an_announce_that_is_given_up_anywhere_leaves_the_next_one_as_good_as_new() {
    let shelf = Shelf::new().await;
    for looks in 0..60 {
        let announce = batch(0..3);
        let mut applied = pin!(shelf.apply(&announce));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..looks {
            if let Poll::Ready(outcome) = applied.as_mut().poll(&mut context) {
                outcome.unwrap();
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(shelf.catalog.outage(), None);
    let totals = shelf.apply(&batch(0..7)).await.unwrap();
    assert_eq!(totals.files, 7);
    assert_eq!(shelf.known().await, 7);
}

#[tokio::test]
async fn a_damaged_catalog_does_not_mend_by_itself() {
    let shelf = Shelf::new().await;
    let damage = shoal_store::database::damage("a page is not what it was");
    shelf.catalog.write_failed(damage);
    assert!(!shelf.catalog.try_to_write(&shelf.tasks).await);
    let outage = shelf.catalog.outage().unwrap();
    assert!(
        outage.to_string().contains("restart the server"),
        "{outage}"
    );
}

#[tokio::test]
async fn a_catalog_that_is_closed_has_no_outage() {
    let shelf = Shelf::new().await;
    shelf.catalog.close().await;
    shelf.apply(&batch(0..1)).await.unwrap_err();
    assert_eq!(shelf.catalog.outage(), None);
}

#[tokio::test]
async fn an_announce_that_fails_on_trial_shows_that_the_outage_goes_on() {
    let shelf = Shelf::new().await;
    let refused = shelf.catalog.write_failed(sqlx::Error::WorkerCrashed);
    let CatalogError::Unwritable(begun) = refused else {
        panic!("an outage: {refused}");
    };
    let trial = shelf.catalog.outages.try_announces();
    let announces = async {
        shelf.catalog.writable().await;
        // A small one gets through, and decides nothing.
        shelf.apply(&batch(0..1)).await.unwrap();
        shelf.fill().await;
        shelf.apply(&batch(0..500)).await.unwrap_err();
    };
    let (is_over, ()) = tokio::join!(trial, announces);
    assert!(!is_over);
    let outage = shelf.catalog.outage().unwrap();
    assert_eq!((outage.since, outage.fault), (begun.since, Fault::Full));
    shelf.apply(&batch(0..1)).await.unwrap_err();
}

struct Shelf {
    _folder: tempfile::TempDir,
    catalog: Catalog,
    tasks: Tasks,
}

impl Shelf {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).await;
        Self {
            _folder: folder,
            catalog: catalog.unwrap(),
            tasks: Tasks::new(),
        }
    }

    async fn apply(&self, announce: &FileAnnounce) -> Result<Totals, CatalogError> {
        let name: NodeName = "anna".parse().unwrap();
        self.catalog.apply(&ANNA, &name, announce).await
    }

    /// The connection at rest finds no room for more pages.
    async fn fill(&self) {
        let mut transaction = self.catalog.writer.begin().await.unwrap();
        let limit = "PRAGMA max_page_count = 1";
        transaction.execute(limit).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn mended(&self) {
        tokio::select! {
            () = self.catalog.mend(&self.tasks) => {}
            () = self.catalog.writable() => {}
        }
    }

    async fn known(&self) -> u64 {
        self.catalog.totals().await.unwrap().files
    }
}

fn entry(number: u32) -> FileEntry {
    FileEntry {
        path: format!("folder/file-{number}").parse().unwrap(),
        size: FileSize::new(10).unwrap(),
        mtime_ns: 0,
        mode: 0o644,
        hash: None,
    }
}

fn batch(numbers: std::ops::Range<u32>) -> FileAnnounce {
    FileAnnounce {
        sequence: 0,
        snapshot: true,
        complete: true,
        added: Bounded::new(numbers.map(entry).collect()).unwrap(),
        removed: Bounded::default(),
    }
}
