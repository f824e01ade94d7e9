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
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_wire::Hash;
use sqlx::sqlite::SqlitePool;
use sqlx::{QueryBuilder, Sqlite};

use self::row::{FileKey, Row};
use crate::database::{self, Fault, Writer};
use crate::folder::FileStat;
use crate::hashing::HashList;

/// Readers side by side: what is asked takes no longer than its turn.
const READERS: u32 = 1;

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
    /// Its disk has no room for it.
    #[error("there is no room for the index {}: make room on its disk and run it again", path.display())]
    NoRoom {
        /// The database.
        path: PathBuf,
    },
    /// The database refused.
    #[error("the index failed ({0}): it may be deleted, files are then hashed again")]
    Database(#[from] sqlx::Error),
}

impl IndexError {
    /// What is wrong.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Open { source, .. } => source.into(),
            Self::NoRoom { .. } => Fault::Full,
            Self::Database(error) => error.into(),
        }
    }
}

/// The index of what was hashed; clones share its connections.
#[derive(Debug, Clone)]
pub struct Index {
    writer: Arc<Writer>,
    readers: SqlitePool,
}

impl Index {
    /// Opens an index, or begins one; a damaged database is moved to `<name>.damaged`.
    ///
    /// # Errors
    /// When the file can be neither opened nor begun anew.
    pub async fn open(path: &Path) -> Result<Self, IndexError> {
        let failed = |source| {
            let path = path.to_owned();
            match Fault::from(&source) {
                Fault::Full => IndexError::NoRoom { path },
                _ => IndexError::Open { path, source },
            }
        };
        database::create_private(path).map_err(failed)?;
        let opened = match Self::open_sound(path).await {
            Err(error) if Fault::from(&error) == Fault::Damaged => {
                tracing::warn!(
                    path = %path.display(),
                    %error,
                    "the index is damaged and begun anew; files are hashed again"
                );
                database::move_aside(path).map_err(failed)?;
                database::create_private(path).map_err(failed)?;
                Self::open_sound(path).await
            }
            outcome => outcome,
        };
        opened.map_err(|error| match database::fault_at(path, &error) {
            Fault::Full => IndexError::NoRoom {
                path: path.to_owned(),
            },
            _ => error.into(),
        })
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
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let Some(list) = row.hash_list() else {
            self.drop_row(key).await;
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
                        self.drop_row(key).await;
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
                .fetch_all(&self.readers)
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
        let mut transaction = self.writer.begin().await?;
        let insert = Row::of(stat, list).insert();
        insert.execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Records what many file versions were hashed to, all or none.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn record_many(&self, hashed: &[(FileStat, HashList)]) -> Result<(), IndexError> {
        let mut transaction = self.writer.begin().await?;
        for (stat, list) in hashed {
            let insert = Row::of(stat, list).insert();
            insert.execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
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
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn open_sound(path: &Path) -> Result<Self, sqlx::Error> {
        let options = database::options(path);
        let index = Self {
            writer: Arc::new(Writer::open(options.clone()).await?),
            readers: database::open_readers(options, READERS).await?,
        };
        if let Err(error) = index.check_and_prepare().await {
            index.close().await;
            return Err(error);
        }
        Ok(index)
    }

    async fn check_and_prepare(&self) -> Result<(), sqlx::Error> {
        let mut reader = self.readers.acquire().await?;
        database::check(&mut reader).await?;
        let named = "SELECT count(*) FROM sqlite_schema WHERE name IN ('content', 'content_root')";
        let named: i64 = sqlx::query_scalar(named).fetch_one(&mut *reader).await?;
        // Another process may be writing: who finds all there does not wait for it.
        if named < 2 {
            let mut transaction = self.writer.begin().await?;
            sqlx::query(SCHEMA).execute(&mut *transaction).await?;
            sqlx::query(ROOTS).execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
        // A table of this name with other columns is no index of ours.
        let columns = "SELECT count(*) FROM pragma_table_info('content')";
        let columns: i64 = sqlx::query_scalar(columns).fetch_one(&mut *reader).await?;
        if columns != row::COLUMNS {
            return Err(database::damage(format!("the table has {columns} columns")));
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
        let rows: Vec<Row> = query.build_query_as().fetch_all(&self.readers).await?;
        Ok(rows.into_iter().map(|row| (row.key(), row)).collect())
    }

    /// Takes out a row that is not believed; while that is not possible it stays, and is still not
    /// believed.
    async fn drop_row(&self, key: FileKey) {
        tracing::warn!(inode = key.inode, "a damaged row of the index is dropped");
        if let Err(error) = self.delete(key).await {
            tracing::debug!(%error, "a damaged row of the index stays");
        }
    }

    async fn delete(&self, key: FileKey) -> Result<(), IndexError> {
        let mut transaction = self.writer.begin().await?;
        sqlx::query("DELETE FROM content WHERE device = ? AND inode = ?")
            .bind(key.device)
            .bind(key.inode)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }
}

#[cfg(test)]
mod tests;
