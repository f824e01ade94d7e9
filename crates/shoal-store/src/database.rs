//! What every SQLite file of this program has in common: how it is opened, who writes it, what its
//! errors mean.
//!
//! A [`Writer`] owns the one connection that writes. The only way to that connection is a
//! [`Transaction`], which takes it away and brings it back after a good commit and in no other
//! case: an error, a future that is dropped half-way or a commit that fails costs the connection,
//! and the next transaction opens another. Knows no schema.
//!
//! Invariant: the connection at rest has no transaction open. SQLite ends some transactions by
//! itself, for example when the disk is full, so that neither a rollback nor a counter kept beside
//! the connection can tell whether one is open; a new connection has none for sure.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a statement waits for a lock, which another process alone could hold for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// A write-ahead log that grew beyond this, in bytes, is cut back to it once its content is in the
/// database: room that a busy hour took is given back.
const LOG_LIMIT_BYTES: &str = "16777216";
/// Bytes that [`try_room`] writes at a time.
const ROOM_STEP_BYTES: usize = 64 << 10;

/// Options with which a file is opened, for one who writes it. A power loss may cost the last
/// transactions and nothing else.
pub fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("journal_size_limit", LOG_LIMIT_BYTES)
}

/// Opens connections that only read, `most` at a time. One stays open: as long as there is one,
/// others can be opened on a disk without room, since the files beside the database exist.
///
/// # Errors
/// When the file cannot be opened.
pub async fn open_readers(
    options: SqliteConnectOptions,
    most: u32,
) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(most)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.read_only(true))
        .await
}

/// The one that writes a database. See the module's documentation for its rules.
#[derive(Debug)]
pub struct Writer {
    options: SqliteConnectOptions,
    turn: Semaphore,
    at_rest: Mutex<Option<SqliteConnection>>,
}

impl Writer {
    /// Opens its connection.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub async fn open(options: SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let connection = options.connect().await?;
        Ok(Self {
            options,
            turn: Semaphore::new(1),
            at_rest: Mutex::new(Some(connection)),
        })
    }

    /// Waits for its turn and begins a transaction that may write.
    ///
    /// # Errors
    /// When the database refuses, or is closed.
    pub async fn begin(&self) -> Result<Transaction<'_>, sqlx::Error> {
        let turn = self.turn.acquire().await;
        let turn = turn.map_err(|_| sqlx::Error::PoolClosed)?;
        let at_rest = self.at_rest().take();
        let mut connection = match at_rest {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await?;
        Ok(Transaction {
            connection,
            writer: self,
            _turn: turn,
        })
    }

    /// Finishes what is under way and closes the connection.
    pub async fn close(&self) {
        let Ok(_turn) = self.turn.acquire().await else {
            return;
        };
        self.turn.close();
        let at_rest = self.at_rest().take();
        if let Some(connection) = at_rest
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "a database was not closed well");
        }
    }

    fn at_rest(&self) -> MutexGuard<'_, Option<SqliteConnection>> {
        self.at_rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transaction; dropping it undoes it.
#[derive(Debug)]
pub struct Transaction<'a> {
    connection: SqliteConnection,
    writer: &'a Writer,
    _turn: SemaphorePermit<'a>,
}

impl Transaction<'_> {
    /// Makes its changes count.
    ///
    /// # Errors
    /// When the database refuses. In rare cases the changes count all the same.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::query("COMMIT").execute(&mut self.connection).await?;
        *self.writer.at_rest() = Some(self.connection);
        Ok(())
    }
}

impl Deref for Transaction<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

/// What is wrong where a database fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The file itself is damaged, or not a database of ours.
    Damaged,
    /// The disk is full, or a quota on it used up.
    Full,
    /// The disk, or the file, may only be read.
    ReadOnly,
    /// Anything else: the disk itself, a permission, a lock that another process holds.
    Other,
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Other,
        }
    }
}

impl From<&sqlx::Error> for Fault {
    fn from(error: &sqlx::Error) -> Self {
        const READ_ONLY: u32 = 8;
        const CORRUPT: u32 = 11;
        const FULL: u32 = 13;
        const NOT_A_DATABASE: u32 = 26;
        // The low byte is the kind. This one is an error of reading or writing, and what could not
        // be done is to make the shared memory larger.
        const NO_SHARED_MEMORY: u32 = 10 | (19 << 8);
        let code = match error {
            sqlx::Error::Database(database) => database.code(),
            sqlx::Error::Decode(source) if source.is::<Damage>() => return Self::Damaged,
            sqlx::Error::Io(error) => return error.into(),
            _ => None,
        };
        match code.and_then(|code| code.parse::<u32>().ok()) {
            Some(NO_SHARED_MEMORY) => Self::Full,
            Some(code) => match code & 0xff {
                CORRUPT | NOT_A_DATABASE => Self::Damaged,
                FULL => Self::Full,
                READ_ONLY => Self::ReadOnly,
                _ => Self::Other,
            },
            None => Self::Other,
        }
    }
}

/// What a check of a database found.
#[derive(Debug, thiserror::Error)]
#[error("the check of the database failed: {0}")]
struct Damage(String);

/// The error for a file whose content is not what it should be.
pub fn damage(verdict: impl Into<String>) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(Damage(verdict.into())))
}

/// Looks for damage in all of a database.
///
/// # Errors
/// One that is [`Fault::Damaged`] where there is some; others where the database cannot be read.
pub async fn check(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(connection)
        .await?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(damage(verdict))
    }
}

/// Creates the file, if it is missing, so that nobody else can read it: SQLite gives the files
/// beside it the same mode.
///
/// # Errors
/// When the system refuses.
pub fn create_private(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// Moves a damaged database to `*.damaged`, and what lies beside it along with it.
///
/// # Errors
/// When the system refuses.
pub fn move_aside(path: &Path) -> io::Result<()> {
    for suffix in ["-wal", "-shm", ""] {
        let to = beside(path, &format!(".damaged{suffix}"));
        match std::fs::rename(beside(path, suffix), to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the disk of the database at `path` takes so many bytes more; nothing stays of them.
/// Blocks.
///
/// # Errors
/// Why it does not.
pub fn try_room(path: &Path, len_bytes: u64) -> io::Result<()> {
    let scratch = beside(path, ".room");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&scratch)?;
    // From here on it goes with the handle, however this ends.
    std::fs::remove_file(&scratch)?;
    let mut left = len_bytes;
    while left > 0 {
        let step = left.min(ROOM_STEP_BYTES as u64);
        file.write_all(&[0; ROOM_STEP_BYTES][..step as usize])?;
        left -= step;
    }
    file.sync_data()
}

/// Whether the disk of the database at `path` is full to the last `len_bytes`: by its own count,
/// which costs nothing to ask, and by a try, since what it keeps for some users is not counted.
/// Blocks.
pub fn is_full(path: &Path, len_bytes: u64) -> bool {
    let folder = path.parent().unwrap_or(path);
    let seems_full = rustix::fs::statvfs(folder).is_ok_and(|figures| {
        let free_bytes = figures.f_bavail.saturating_mul(figures.f_frsize);
        // Some file systems count nothing at all.
        figures.f_blocks > 0 && free_bytes < len_bytes
    });
    seems_full && try_room(path, len_bytes).is_err_and(|error| Fault::from(&error) == Fault::Full)
}

/// What is wrong with a database that cannot be opened, by its error and by its disk.
pub fn fault_at(path: &Path, error: &sqlx::Error) -> Fault {
    match Fault::from(error) {
        // A file beside the database that cannot be created is all that SQLite can tell.
        Fault::Other => match try_room(path, ROOM_STEP_BYTES as u64) {
            Ok(()) => Fault::Other,
            Err(error) => Fault::from(&error),
        },
        known => known,
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
