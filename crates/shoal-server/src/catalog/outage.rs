//! Times in which the catalog cannot be written: the disk is full, fails, or may only be read.
//!
//! The first write that fails begins an outage. From then on nothing is written, so that a
//! thousand peers that announce do not load a disk that takes nothing; what is known is still
//! found. [`Catalog::mend`] tries the disk again and again. When it takes a little, announces are
//! let through on trial: one that fails shows that the outage goes on, and it is over when every
//! peer has had its turn and none failed. Says when one begins and ends, and not what it turns down.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use shoal_node::tasks::Tasks;
use shoal_store::database::{Fault, is_full, try_room};
use tokio::sync::watch;

use super::database::NOTE_SCHEMA_VERSION;
use super::{Catalog, CatalogError};

/// When what was turned down may be tried again: soon after there is room, and a thousand peers'
/// tries stay a small load.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long announces are let through without a failure before an outage is over: all that were
/// turned down have come again.
const TRIAL: Duration = Duration::from_secs(3);
/// Time between two tries of the disk, each a few small writes.
const TRY_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two looks at the room on the disk, each one system call: an operator who watches
/// hears of a full disk before the next peer does.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// A disk with less room than this is full, in bytes: a small announce takes about as much.
const ROOM_BYTES: u64 = 64 << 10;

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

/// The outage under way, if there is one, and how many batches were not taken.
#[derive(Debug)]
pub(super) struct Outages {
    standing: watch::Sender<Standing>,
    failed_writes: AtomicU64,
}

#[derive(Debug, Default)]
struct Standing {
    outage: Option<Outage>,
    /// Announces are let through, to see whether the outage is over.
    is_on_trial: bool,
}

impl Standing {
    fn takes_writes(&self) -> bool {
        self.outage.is_none() || self.is_on_trial
    }
}

impl Default for Outages {
    fn default() -> Self {
        Self {
            standing: watch::Sender::default(),
            failed_writes: AtomicU64::new(0),
        }
    }
}

impl Outages {
    /// The outage for which a write is turned down without trying.
    pub(super) fn in_the_way(&self) -> Option<Outage> {
        let standing = self.standing.borrow();
        let outage = standing.outage.as_ref();
        outage.filter(|_| !standing.is_on_trial).cloned()
    }

    /// Counts a batch that was not taken.
    pub(super) fn count(&self) {
        self.failed_writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins an outage, or goes on with the one under way and what is wrong by now.
    fn begin(&self, fault: Fault, path: PathBuf, reason: String) -> Outage {
        let mut outage = Outage {
            since: SystemTime::now(),
            fault,
            path,
            reason,
        };
        self.standing.send_modify(|standing| {
            if let Some(before) = &standing.outage {
                outage.since = before.since;
            }
            *standing = Standing {
                outage: Some(outage.clone()),
                is_on_trial: false,
            };
        });
        outage
    }

    /// Lets announces through for a while. Tells whether none failed.
    async fn try_announces(&self) -> bool {
        let mut standings = self.standing.subscribe();
        self.standing
            .send_modify(|standing| standing.is_on_trial = true);
        let failed = standings.wait_for(|standing| !standing.takes_writes());
        tokio::time::timeout(TRIAL, failed).await.is_err()
    }
}

impl Catalog {
    /// The outage under way, if there is one.
    pub fn outage(&self) -> Option<Outage> {
        self.outages.standing.borrow().outage.clone()
    }

    /// Batches that could not be taken, since the catalog was opened.
    pub fn failed_writes(&self) -> u64 {
        self.outages.failed_writes.load(Ordering::Relaxed)
    }

    /// Waits until a write is worth a try.
    pub async fn writable(&self) {
        let mut standings = self.outages.standing.subscribe();
        if standings.wait_for(Standing::takes_writes).await.is_err() {
            std::future::pending().await
        }
    }

    /// Ends each outage once the disk takes writes again, and begins one where the disk is full
    /// before anybody announces. Runs for ever.
    pub async fn mend(&self, tasks: &Tasks) {
        loop {
            self.outage_begins(tasks).await;
            // The first try tells a full disk where the database had another word for it.
            let mut takes_writes = self.try_to_write(tasks).await;
            if let Some(outage) = self.outage() {
                tracing::warn!("{outage}");
            }
            while !(takes_writes && self.outages.try_announces().await) {
                tokio::time::sleep(TRY_INTERVAL).await;
                takes_writes = self.try_to_write(tasks).await;
            }
            self.outages.standing.send_replace(Standing::default());
            tracing::info!("the catalog can be written again");
        }
    }

    async fn outage_begins(&self, tasks: &Tasks) {
        let mut standings = self.outages.standing.subscribe();
        loop {
            let begun = standings.wait_for(|standing| standing.outage.is_some());
            if let Ok(Ok(_begun)) = tokio::time::timeout(LOOK_INTERVAL, begun).await {
                return;
            }
            let path = self.path.clone();
            if tasks.blocking(move || is_full(&path, ROOM_BYTES)).await {
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

    /// Whether a little can be written. A damaged file stays damaged.
    async fn try_to_write(&self, tasks: &Tasks) -> bool {
        if self.outage().is_some_and(|one| one.fault == Fault::Damaged) {
            return false;
        }
        let path = self.path.clone();
        let room = tasks.blocking(move || try_room(&path, ROOM_BYTES)).await;
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
