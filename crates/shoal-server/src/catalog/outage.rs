//! Times in which the catalog cannot be written: the disk is full, fails, or may only be read.
//!
//! The first write that fails begins an outage. While it lasts nothing is written, so that a
//! thousand peers that announce do not load a disk that takes nothing; what is known is still
//! found. [`Catalog::mend`] tries the disk again and again, with as much as was turned down, and
//! ends the outage when that works. Says when one begins and ends, and not what it turns down.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use shoal_node::tasks::Tasks;
use shoal_store::database::{Fault, is_full, try_room};
use shoal_wire::message::FileAnnounce;
use tokio::sync::watch;

use super::database::NOTE_SCHEMA_VERSION;
use super::{Catalog, CatalogError};

/// Time between two tries: announcing goes on within seconds of room, and a try costs a few writes.
const TRY_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two looks at the room on the disk, each one system call: an operator who watches
/// hears of a full disk before the next peer does.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Room that any batch takes, in bytes: some pages of the database, in its log and in itself.
const BATCH_BYTES: u64 = 64 << 10;
/// What an entry of a batch takes beyond its path, in bytes: its row and its places in four
/// indexes, part of a page of 4 KiB each.
const ENTRY_BYTES: u64 = 2 << 10;
/// How often a path is kept: in the row, in two indexes, folded, and by its trigrams.
const PATH_COPIES: u64 = 8;

/// A time in which the catalog cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// When it began.
    pub since: SystemTime,
    /// What is wrong.
    pub fault: Fault,
    /// The file that cannot be written.
    pub path: PathBuf,
    /// What the database or the system said.
    pub reason: String,
}

impl Outage {
    /// What other nodes are told.
    pub fn told_to_others(&self) -> &'static str {
        match self.fault {
            Fault::Full => "the disk of the server's state folder is full",
            Fault::ReadOnly => "the server's state folder is read-only",
            Fault::Damaged | Fault::Other => "the server cannot write to its state folder",
        }
    }
}

/// What the operator is told, with what to do.
impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.path.display();
        let folder = self.path.parent().unwrap_or(&self.path).display();
        match self.fault {
            Fault::Full => write!(
                f,
                "the disk of the state folder {folder} is full: make room on it, then announcements are taken again"
            ),
            Fault::ReadOnly => write!(
                f,
                "the state folder {folder} is read-only: make it writable, then announcements are taken again"
            ),
            Fault::Damaged => write!(
                f,
                "the catalog {file} is damaged ({}): restart the server, which builds it anew",
                self.reason
            ),
            Fault::Other => write!(
                f,
                "the catalog {file} cannot be written ({}): check its disk and its permissions",
                self.reason
            ),
        }
    }
}

/// The outage under way, if there is one, and what was turned down.
#[derive(Debug)]
pub(super) struct Outages {
    current: watch::Sender<Option<Outage>>,
    failed_writes: AtomicU64,
    /// Room that the largest batch needs that was turned down in this outage.
    needed_bytes: AtomicU64,
}

impl Default for Outages {
    fn default() -> Self {
        Self {
            current: watch::Sender::new(None),
            failed_writes: AtomicU64::new(0),
            needed_bytes: AtomicU64::new(0),
        }
    }
}

impl Outages {
    pub(super) fn current(&self) -> Option<Outage> {
        self.current.borrow().clone()
    }

    /// Counts a batch that was turned down.
    pub(super) fn count(&self, needed_bytes: u64) {
        self.failed_writes.fetch_add(1, Ordering::Relaxed);
        self.needed_bytes.fetch_max(needed_bytes, Ordering::Relaxed);
    }

    /// Begins an outage, or changes what is wrong in the one under way.
    fn begin(&self, fault: Fault, path: PathBuf, reason: String) -> Outage {
        let mut outage = Outage {
            since: SystemTime::now(),
            fault,
            path,
            reason,
        };
        self.current.send_modify(|current| {
            if let Some(current) = current {
                outage.since = current.since;
            }
            *current = Some(outage.clone());
        });
        outage
    }

    fn end(&self) {
        self.needed_bytes.store(0, Ordering::Relaxed);
        self.current.send_replace(None);
    }
}

/// Room that a batch takes, rather too much than too little.
pub(super) fn needed_bytes(announce: &FileAnnounce) -> u64 {
    let paths = announce.added.iter().map(|entry| &entry.path);
    let paths = paths.chain(announce.removed.iter());
    let each = paths.map(|path| ENTRY_BYTES + PATH_COPIES * path.as_bytes().len() as u64);
    BATCH_BYTES + each.sum::<u64>()
}

impl Catalog {
    /// The outage under way, if there is one.
    pub fn outage(&self) -> Option<Outage> {
        self.outages.current()
    }

    /// Batches that could not be taken, since the catalog was opened.
    pub fn failed_writes(&self) -> u64 {
        self.outages.failed_writes.load(Ordering::Relaxed)
    }

    /// Waits until no outage is under way.
    pub async fn writable(&self) {
        let mut current = self.outages.current.subscribe();
        if current.wait_for(Option::is_none).await.is_err() {
            std::future::pending().await
        }
    }

    /// Ends each outage once the disk takes writes again, and begins one where the disk is full
    /// before anybody announces. Runs for ever.
    pub async fn mend(&self, tasks: &Tasks) {
        loop {
            self.outage_begins(tasks).await;
            // The first try tells a full disk where the database had another word for it.
            let mut is_over = self.try_to_write(tasks).await;
            if let Some(outage) = self.outage() {
                tracing::warn!("{outage}");
            }
            while !is_over {
                tokio::time::sleep(TRY_INTERVAL).await;
                is_over = self.try_to_write(tasks).await;
            }
            self.outages.end();
            tracing::info!("the catalog can be written again");
        }
    }

    async fn outage_begins(&self, tasks: &Tasks) {
        let mut outages = self.outages.current.subscribe();
        loop {
            let begun = outages.wait_for(Option::is_some);
            if let Ok(Ok(_begun)) = tokio::time::timeout(LOOK_INTERVAL, begun).await {
                return;
            }
            let path = self.path.clone();
            if tasks.blocking(move || is_full(&path, BATCH_BYTES)).await {
                let reason = "the disk says that it is full".to_owned();
                self.outages.begin(Fault::Full, self.path.clone(), reason);
            }
        }
    }

    /// A write failed: from here on there is an outage, unless the catalog is closed.
    pub(super) fn write_failed(&self, error: sqlx::Error) -> CatalogError {
        if matches!(error, sqlx::Error::PoolClosed) {
            return error.into();
        }
        let (fault, reason) = (Fault::from(&error), error.to_string());
        CatalogError::Unwritable(self.outages.begin(fault, self.path.clone(), reason))
    }

    /// Whether as much can be written as was turned down. A damaged file stays damaged.
    async fn try_to_write(&self, tasks: &Tasks) -> bool {
        if self.outage().is_some_and(|one| one.fault == Fault::Damaged) {
            return false;
        }
        let (path, needed) = (self.path.clone(), &self.outages.needed_bytes);
        let needed = needed.load(Ordering::Relaxed).max(BATCH_BYTES);
        let room = tasks.blocking(move || try_room(&path, needed)).await;
        let tried = match room {
            Ok(()) => self.write_nothing().await,
            Err(error) => Err(error.into()),
        };
        tried.map_err(|error| self.write_failed(error)).is_ok()
    }

    async fn write_nothing(&self) -> Result<(), sqlx::Error> {
        let mut transaction = self.writer.begin().await?;
        sqlx::query(NOTE_SCHEMA_VERSION)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }
}

#[cfg(test)]
mod tests;
