//! What was hashed before: file versions and the hash lists of their content, in SQLite.
//!
//! A cache and nothing more: a row that fails its checksum, or whose chunk hashes do not lead to
//! its root, is deleted and the file counts as not hashed; a damaged database is moved aside and a
//! new one begun. One row per (device, inode), so a newer version replaces the older.
//!
//! The index believes its caller: ask for the [`FileStat`] before and after hashing, and record
//! only if both are equal.
//!
//! It answers for a [version](crate::folder::FileVersion) of a file. Where the time of its attributes
//! is another one than when it was hashed, the answer is a hint: the content is likely the same, and
//! whoever relies on it has it verified, or hashes the file again.

mod row;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_wire::Hash;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{QueryBuilder, Sqlite};

use self::row::{FileKey, Row};
use crate::folder::FileStat;
use crate::hashing::HashList;

/// How long to wait for another process that writes the same database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Files in one question: two parameters each, far below SQLite's limit of 32,766.
const FILES_PER_QUERY: usize = 400;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS content (
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    chunk_log2 INTEGER NOT NULL,
    root BLOB NOT NULL,
    checksum BLOB NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (device, inode)
)";

/// Finds files by their content.
const ROOTS: &str = "CREATE INDEX IF NOT EXISTS content_root ON content (root)";

/// Files of one content that are named: if none of them is usable, the others are not either.
const FILES_OF_ROOT: i64 = 16;

/// A file that was hashed, by its numbers alone: it may have changed, or be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// The file system's number.
    pub device: u64,
    /// The file's number in its file system.
    pub inode: u64,
}

/// What a version of a file was hashed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRoot {
    /// The root of its content then.
    pub root: Hash,
    /// The time of its last change of attributes then: another one makes the root a hint.
    pub ctime_ns: i64,
}

/// Why the index did not answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database file cannot be created, opened or moved aside.
    #[error("the index {} cannot be opened: check its folder's permissions and room", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The database refused.
    #[error(
        "the index failed: check the disk's room; it may be deleted, files are then hashed again"
    )]
    Database(#[from] sqlx::Error),
}

/// The index of what was hashed; clones share one connection.
#[derive(Debug, Clone)]
pub struct Index {
    pool: SqlitePool,
}

impl Index {
    /// Opens an index, or begins one; a damaged database is moved to `<name>.damaged`.
    ///
    /// # Errors
    /// When the file can be neither opened nor begun anew.
    pub async fn open(path: &Path) -> Result<Self, IndexError> {
        match Self::open_sound(path).await {
            Err(IndexError::Database(error)) if is_damage(&error) => {
                tracing::warn!(
                    path = %path.display(),
                    %error,
                    "the index is damaged and begun anew; files are hashed again"
                );
                move_aside(path).map_err(|source| IndexError::Open {
                    path: path.to_owned(),
                    source,
                })?;
                Self::open_sound(path).await
            }
            outcome => outcome,
        }
    }

    /// The hash list of a file version, if it was recorded; perhaps a hint.
    ///
    /// # Errors
    /// When the database refuses; the file may then simply be hashed again.
    pub async fn find(&self, stat: &FileStat) -> Result<Option<HashList>, IndexError> {
        let key = FileKey::of(stat);
        let row: Option<Row> = sqlx::query_as(
            "SELECT device, inode, size, mtime_ns, ctime_ns, chunk_log2, root, checksum, hashes
             FROM content WHERE device = ? AND inode = ?",
        )
        .bind(key.device)
        .bind(key.inode)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let Some(list) = row.hash_list() else {
            self.drop_row(key).await?;
            return Ok(None);
        };
        Ok(row.is_version(stat).then_some(list))
    }

    /// The roots of many file versions, in the order asked; `None` for those not recorded.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn roots(&self, stats: &[FileStat]) -> Result<Vec<Option<KnownRoot>>, IndexError> {
        let mut roots = Vec::with_capacity(stats.len());
        for batch in stats.chunks(FILES_PER_QUERY) {
            let rows = self.rows_of(batch).await?;
            for stat in batch {
                let key = FileKey::of(stat);
                let root = match rows.get(&key) {
                    Some(row) if row.is_sound() => {
                        let root = row.root().filter(|_| row.is_version(stat));
                        root.map(|root| KnownRoot {
                            root,
                            ctime_ns: row.ctime_ns(),
                        })
                    }
                    Some(_) => {
                        self.drop_row(key).await?;
                        None
                    }
                    None => None,
                };
                roots.push(root);
            }
        }
        Ok(roots)
    }

    /// Files that had this content when they were hashed, a few of them. Where they lie is not
    /// recorded; whether one still has it, [`Index::roots`] tells from its stat.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn with_root(&self, root: &Hash) -> Result<Vec<Recorded>, IndexError> {
        let rows: Vec<(i64, i64)> =
            sqlx::query_as("SELECT device, inode FROM content WHERE root = ? LIMIT ?")
                .bind(root.as_bytes().as_slice())
                .bind(FILES_OF_ROOT)
                .fetch_all(&self.pool)
                .await?;
        let recorded = rows.into_iter().map(|(device, inode)| Recorded {
            device: device.cast_unsigned(),
            inode: inode.cast_unsigned(),
        });
        Ok(recorded.collect())
    }

    /// Records what a file version was hashed to.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn record(&self, stat: &FileStat, list: &HashList) -> Result<(), IndexError> {
        let row = Row::of(stat, list);
        row.insert().execute(&self.pool).await?;
        Ok(())
    }

    /// Records what many file versions were hashed to, all or none.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn record_many(&self, hashed: &[(FileStat, HashList)]) -> Result<(), IndexError> {
        let mut transaction = self.pool.begin().await?;
        for (stat, list) in hashed {
            Row::of(stat, list)
                .insert()
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets files whose content is another one than was recorded.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn forget(&self, stats: &[FileStat]) -> Result<(), IndexError> {
        for stat in stats {
            self.delete(FileKey::of(stat)).await?;
        }
        Ok(())
    }

    /// Finishes what is under way and closes the database.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn open_sound(path: &Path) -> Result<Self, IndexError> {
        create_private(path).map_err(|source| IndexError::Open {
            path: path.to_owned(),
            source,
        })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // A power loss may cost the last rows; they are hashed again.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        let index = Self { pool };
        if let Err(error) = index.check_and_prepare().await {
            index.close().await;
            return Err(error);
        }
        Ok(index)
    }

    async fn check_and_prepare(&self) -> Result<(), IndexError> {
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&self.pool)
            .await?;
        if verdict != "ok" {
            return Err(sqlx::Error::Decode(Box::new(FailedCheck(verdict))).into());
        }
        sqlx::query(SCHEMA).execute(&self.pool).await?;
        sqlx::query(ROOTS).execute(&self.pool).await?;
        // A table of this name with other columns is no index of ours.
        let columns: i64 = sqlx::query_scalar("SELECT count(*) FROM pragma_table_info('content')")
            .fetch_one(&self.pool)
            .await?;
        if columns != row::COLUMNS {
            let verdict = format!("the table has {columns} columns");
            return Err(sqlx::Error::Decode(Box::new(FailedCheck(verdict))).into());
        }
        Ok(())
    }

    async fn rows_of(&self, batch: &[FileStat]) -> Result<HashMap<FileKey, Row>, IndexError> {
        let mut query = QueryBuilder::<Sqlite>::new("WITH wanted (device, inode) AS (");
        query.push_values(batch, |mut tuple, stat| {
            let key = FileKey::of(stat);
            tuple.push_bind(key.device).push_bind(key.inode);
        });
        query.push(
            ") SELECT device, inode, size, mtime_ns, ctime_ns, chunk_log2, root, checksum, \
             x'' AS hashes FROM wanted CROSS JOIN content USING (device, inode)",
        );
        let rows: Vec<Row> = query.build_query_as().fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|row| (row.key(), row)).collect())
    }

    async fn drop_row(&self, key: FileKey) -> Result<(), IndexError> {
        tracing::warn!(inode = key.inode, "a damaged row of the index is dropped");
        self.delete(key).await
    }

    async fn delete(&self, key: FileKey) -> Result<(), IndexError> {
        sqlx::query("DELETE FROM content WHERE device = ? AND inode = ?")
            .bind(key.device)
            .bind(key.inode)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// What the check of a database found.
#[derive(Debug, thiserror::Error)]
#[error("the check of the database failed: {0}")]
struct FailedCheck(String);

fn is_damage(error: &sqlx::Error) -> bool {
    const CORRUPT: u32 = 11;
    const NOT_A_DATABASE: u32 = 26;
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<u32>().ok());
            // The low byte is the kind; the bytes above it say more about it.
            matches!(code.map(|code| code & 0xff), Some(CORRUPT | NOT_A_DATABASE))
        }
        sqlx::Error::Decode(source) => source.is::<FailedCheck>(),
        _ => false,
    }
}

/// Creates the file, if it is missing, so that nobody else can read it.
fn create_private(path: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

fn move_aside(path: &Path) -> io::Result<()> {
    let beside = |suffix: &str| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name)
    };
    for (from, to) in [("-wal", ".damaged-wal"), ("-shm", ".damaged-shm")] {
        match std::fs::rename(beside(from), beside(to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, beside(".damaged"))
}

#[cfg(test)]
mod tests;
