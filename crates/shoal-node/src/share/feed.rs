//! A share's files and changes as a stream of announce batches.

use std::sync::Arc;
use std::time::Duration;

use shoal_wire::{FileEntry, SafePath};
use tokio::sync::watch;

use super::Inner;
use super::table::Reading;

/// How long changes are gathered before they are told: a hundred hashed files make one batch.
const GATHER: Duration = Duration::from_millis(50);

/// One announce's worth of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// First batch of the whole listing.
    pub snapshot: bool,
    /// Last batch of the listing, or a change after it.
    pub complete: bool,
    /// New or changed.
    pub added: Vec<FileEntry>,
    /// Gone.
    pub removed: Vec<SafePath>,
}

/// Follows a share from its whole listing on. A new connection needs a new feed.
#[derive(Debug)]
pub struct Feed {
    inner: Arc<Inner>,
    changes: watch::Receiver<u64>,
    reading: Reading,
    position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Start,
    Listing,
    Changes,
}

impl Feed {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let changes = inner.changed.subscribe();
        let reading = inner.table().follow();
        Self {
            inner,
            changes,
            reading,
            position: Position::Start,
        }
    }

    /// The next batch, once there is one. Asking for it says that the one before was taken.
    pub async fn next(&mut self) -> Batch {
        self.inner.ready().await;
        loop {
            self.changes.borrow_and_update();
            let mut batch = {
                let mut table = self.inner.table();
                table.told(&self.reading);
                table.next_batch(&mut self.reading)
            };
            let has_news = !batch.added.is_empty() || !batch.removed.is_empty();
            if has_news || self.position != Position::Changes {
                batch.snapshot = self.position == Position::Start;
                if batch.snapshot || self.position == Position::Listing {
                    self.position = if batch.complete {
                        Position::Changes
                    } else {
                        Position::Listing
                    };
                } else {
                    batch.complete = true;
                }
                return batch;
            }
            if self.changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            tokio::time::sleep(GATHER).await;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.inner.table().leave(&self.reading);
    }
}
