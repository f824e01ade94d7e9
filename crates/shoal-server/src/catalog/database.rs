//! The catalog's database file: its schema, how it is opened, and what happens to a damaged one.
//!
//! Triggers keep the counters of a node and the index of names in step with the table of files,
//! so no writer can forget them. The index holds trigrams without positions and no copy of the
//! text: it only narrows a search down, and the table decides.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Executor as _, Row as _};

/// Number of the schema below; a file with another is made anew.
const SCHEMA_VERSION: i64 = 1;
/// Readers side by side: a search that scans does not hold up look-ups, and each costs a thread.
const READERS: u32 = 3;
/// How long a statement waits for a lock, which another process alone could hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    node BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    generation INTEGER NOT NULL,
    pending INTEGER NOT NULL,
    files INTEGER NOT NULL DEFAULT 0,
    total_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    path BLOB NOT NULL,
    text TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    hash BLOB,
    generation INTEGER NOT NULL,
    UNIQUE (node, path)
);
CREATE INDEX files_by_path ON files (path);
CREATE INDEX files_by_hash ON files (hash) WHERE hash IS NOT NULL;
CREATE VIRTUAL TABLE names USING fts5 (
    text, content = '', contentless_delete = 1, detail = none, tokenize = 'trigram'
);
CREATE TRIGGER file_added AFTER INSERT ON files BEGIN
    INSERT INTO names (rowid, text) VALUES (new.id, new.text);
    UPDATE nodes SET files = files + 1, total_bytes = total_bytes + new.size WHERE id = new.node;
END;
CREATE TRIGGER file_resized AFTER UPDATE OF size ON files WHEN old.size <> new.size BEGIN
    UPDATE nodes SET total_bytes = total_bytes + new.size - old.size WHERE id = new.node;
END;
CREATE TRIGGER file_gone AFTER DELETE ON files BEGIN
    DELETE FROM names WHERE rowid = old.id;
    UPDATE nodes SET files = files - 1, total_bytes = total_bytes - old.size WHERE id = old.node;
END;
";

/// Why the catalog could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database says no, also after it was made anew.
    #[error("the catalog cannot be opened: {0}")]
    Database(#[source] sqlx::Error),
    /// A damaged file could not be moved out of the way.
    #[error("the damaged catalog {} cannot be moved aside, remove it: {error}", path.display())]
    MoveAside {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Opens writer and readers; a damaged file is moved aside first and made anew.
pub(super) async fn open(path: &Path) -> Result<(SqlitePool, SqlitePool), OpenError> {
    let writer = match open_writer(path).await {
        Ok(writer) => writer,
        Err(error) if is_damage(&error) => {
            tracing::warn!(
                path = %path.display(),
                %error,
                "the catalog is damaged: it is kept as .damaged and built anew from announces",
            );
            move_aside(path)?;
            open_writer(path).await.map_err(OpenError::Database)?
        }
        Err(error) => return Err(OpenError::Database(error)),
    };
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .connect_with(options(path).read_only(true))
        .await
        .map_err(OpenError::Database)?;
    Ok((writer, readers))
}

async fn open_writer(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    // SQLite gives its journal the mode of the database, so the file is made first.
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options(path))
        .await?;
    match prepare(&writer).await {
        Ok(()) => Ok(writer),
        Err(error) => {
            writer.close().await;
            Err(error)
        }
    }
}

async fn prepare(writer: &SqlitePool) -> Result<(), sqlx::Error> {
    let check = sqlx::query("PRAGMA quick_check(1)")
        .fetch_one(writer)
        .await?;
    let verdict: String = check.try_get(0)?;
    if verdict != "ok" {
        return Err(sqlx::Error::Protocol(verdict));
    }
    let version: i64 = sqlx::query("PRAGMA user_version")
        .fetch_one(writer)
        .await?
        .try_get(0)?;
    let tables: i64 = sqlx::query("SELECT count(*) FROM sqlite_schema")
        .fetch_one(writer)
        .await?
        .try_get(0)?;
    match (version, tables) {
        (SCHEMA_VERSION, _) => Ok(()),
        (0, 0) => {
            let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
            transaction.execute(SCHEMA).await?;
            transaction.execute("PRAGMA user_version = 1").await?;
            transaction.commit().await
        }
        _ => Err(sqlx::Error::Protocol(format!("unknown schema {version}"))),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("temp_store", "memory")
        .pragma("cache_size", "-16000")
}

/// Whether the file itself is at fault, rather than the folder, the disk or a lock.
fn is_damage(error: &sqlx::Error) -> bool {
    const CORRUPT: &str = "11";
    const NOT_A_DATABASE: &str = "26";
    match error {
        sqlx::Error::Protocol(_) | sqlx::Error::ColumnDecode { .. } => true,
        sqlx::Error::Database(inner) => inner.code().is_some_and(|code| {
            // Extended codes keep the primary one in their low byte.
            let primary = code.parse::<u32>().map(|code| (code & 0xff).to_string());
            primary.is_ok_and(|primary| primary == CORRUPT || primary == NOT_A_DATABASE)
        }),
        _ => false,
    }
}

fn move_aside(path: &Path) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm"] {
        let from = with_suffix(path, suffix);
        let to = with_suffix(&from, ".damaged");
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(OpenError::MoveAside { path: from, error }),
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}
