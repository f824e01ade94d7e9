//! The catalog's database file: its schema, how it is opened, and what happens to a damaged one.
//!
//! Triggers keep the counters of a node and the index of names in step with the table of files,
//! so no writer can forget them. The index holds trigrams without positions and no copy of the
//! text: it only narrows a search down, and the table decides.

use std::io;
use std::path::{Path, PathBuf};

use shoal_store::database::{self, Fault, Writer, damage};
use sqlx::Executor as _;
use sqlx::sqlite::SqlitePool;

/// Number of the schema below; a file with another is made anew.
const SCHEMA_VERSION: i64 = 1;
/// Notes it; where it is noted already, this is a write that changes nothing.
pub(super) const NOTE_SCHEMA_VERSION: &str = "PRAGMA user_version = 1";
/// Readers side by side: a search that scans does not hold up look-ups, and each costs a thread.
const READERS: u32 = 3;

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
    /// Its disk has no room for it.
    #[error("there is no room for the catalog {}: make room on its disk and run it again", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
    },
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
pub(super) async fn open(path: &Path) -> Result<(Writer, SqlitePool), OpenError> {
    let opened = match open_sound(path).await {
        Err(error) if Fault::from(&error) == Fault::Damaged => {
            tracing::warn!(
                path = %path.display(),
                %error,
                "the catalog is damaged: it is kept as .damaged and built anew from announces",
            );
            database::move_aside(path).map_err(|error| OpenError::MoveAside {
                path: path.to_owned(),
                error,
            })?;
            open_sound(path).await
        }
        outcome => outcome,
    };
    opened.map_err(|error| match database::fault_at(path, &error) {
        Fault::Full => OpenError::NoRoom {
            path: path.to_owned(),
        },
        _ => OpenError::Database(error),
    })
}

async fn open_sound(path: &Path) -> Result<(Writer, SqlitePool), sqlx::Error> {
    database::create_private(path)?;
    let options = database::options(path)
        .pragma("temp_store", "memory")
        .pragma("cache_size", "-16000");
    let writer = Writer::open(options.clone()).await?;
    let readers = database::open_readers(options, READERS).await?;
    if let Err(error) = prepare(&writer, &readers).await {
        readers.close().await;
        writer.close().await;
        return Err(error);
    }
    Ok((writer, readers))
}

async fn prepare(writer: &Writer, readers: &SqlitePool) -> Result<(), sqlx::Error> {
    let mut reader = readers.acquire().await?;
    database::check(&mut reader).await?;
    let version = sqlx::query_scalar("PRAGMA user_version");
    let version: i64 = version.fetch_one(&mut *reader).await?;
    let tables = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema");
    let tables: i64 = tables.fetch_one(&mut *reader).await?;
    match (version, tables) {
        (SCHEMA_VERSION, _) => Ok(()),
        (0, 0) => {
            let mut transaction = writer.begin().await?;
            transaction.execute(SCHEMA).await?;
            transaction.execute(NOTE_SCHEMA_VERSION).await?;
            transaction.commit().await
        }
        _ => Err(damage(format!("unknown schema {version}"))),
    }
}
