//! The catalog: every file that any node announced, in SQLite, for search and look-up.
//!
//! Owns the durable table of announced files, the server's own among them. Does not know who is
//! connected: a caller passes the nodes that are. Losing it loses nothing but time, because peers
//! announce everything again; so a damaged one is moved aside and made anew.
//!
//! Invariant: one writer; a batch of an announce is in the table as a whole or not at all, and
//! what an earlier snapshot left is gone in the transaction that completes the next one. A batch
//! that could not be taken may be applied again as it is.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_store::database::Writer;
use shoal_wire::message::FileAnnounce;
use shoal_wire::{FileEntry, FileSize, Hash, NodeId, NodeName, SafePath};
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};

mod database;
mod locate;
mod outage;
mod search;

use outage::Outages;

pub use database::OpenError;
pub use locate::{Located, Question, Sought};
pub use outage::Outage;
pub(crate) use outage::RETRY_AFTER;

/// Rows in one statement: few enough round trips for a batch of 2,048, and eight values each stay
/// far below SQLite's 32,766.
const ROWS_PER_STATEMENT: usize = 256;

/// Why the catalog could not answer or take a change.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The database failed.
    #[error("the catalog's database failed, see the state folder: {0}")]
    Database(#[from] sqlx::Error),
    /// Nothing can be written for the time being; the same change may be tried again.
    #[error("{0}")]
    Unwritable(Outage),
}

/// One announced file, and who announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The node that announced it.
    pub node: NodeId,
    /// The name that node goes by.
    pub name: NodeName,
    /// The file.
    pub entry: FileEntry,
}

/// How much is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// How many files.
    pub files: u64,
    /// Their size, in bytes.
    pub total_bytes: u64,
}

/// The nodes that a question is about: those that are connected, and the server itself.
pub type Nodes = BTreeSet<NodeId>;

/// The table of announced files.
#[derive(Debug)]
pub struct Catalog {
    path: PathBuf,
    writer: Writer,
    readers: SqlitePool,
    numbers: Mutex<HashMap<NodeId, i64>>,
    outages: Outages,
}

impl Catalog {
    /// Opens the catalog in the file at `path`, which is created when missing. A damaged one is
    /// moved aside to `*.damaged` and made anew.
    ///
    /// # Errors
    /// When the file can be neither read nor replaced.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let (writer, readers) = database::open(path).await?;
        let rows = sqlx::query("SELECT id, node FROM nodes")
            .fetch_all(&readers)
            .await
            .map_err(OpenError::Database)?;
        let numbers = rows
            .iter()
            .filter_map(|row| Some((node_id(row.get("node"))?, row.get("id"))))
            .collect();
        Ok(Self {
            // As it is named to an operator, who may be in another folder.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            writer,
            readers,
            numbers: Mutex::new(numbers),
            outages: Outages::default(),
        })
    }

    /// Takes one batch of what `node` announces and says how much that node has announced now.
    ///
    /// # Errors
    /// [`CatalogError::Unwritable`] where the disk or the database takes nothing, without a look at
    /// either while that is known. The batch is not taken then, or its taking was not noticed:
    /// apply it again.
    pub async fn apply(
        &self,
        node: &NodeId,
        name: &NodeName,
        announce: &FileAnnounce,
    ) -> Result<Totals, CatalogError> {
        let applied = match self.outages.in_the_way() {
            Some(outage) => Err(CatalogError::Unwritable(outage)),
            None => {
                let written = self.write(node, name, announce).await;
                written.map_err(|error| self.write_failed(error))
            }
        };
        applied.inspect_err(|_| self.outages.count())
    }

    async fn write(
        &self,
        node: &NodeId,
        name: &NodeName,
        announce: &FileAnnounce,
    ) -> Result<Totals, sqlx::Error> {
        let mut transaction = self.writer.begin().await?;
        let number = register(&mut transaction, node, name, announce.snapshot).await?;
        let generation: i64 = sqlx::query("SELECT generation FROM nodes WHERE id = ?")
            .bind(number)
            .fetch_one(&mut *transaction)
            .await?
            .get(0);
        for rows in announce.added.chunks(ROWS_PER_STATEMENT) {
            insert(&mut transaction, number, generation, rows).await?;
        }
        for paths in announce.removed.chunks(ROWS_PER_STATEMENT) {
            remove(&mut transaction, number, paths).await?;
        }
        if announce.complete {
            forget_older(&mut transaction, number, generation).await?;
        }
        let totals = sqlx::query("SELECT files, total_bytes FROM nodes WHERE id = ?")
            .bind(number)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        self.numbers().insert(*node, number);
        Ok(totals_of(&totals))
    }

    /// How much all nodes together have announced.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn totals(&self) -> Result<Totals, CatalogError> {
        let sum = "SELECT coalesce(sum(files), 0) AS files, \
                   coalesce(sum(total_bytes), 0) AS total_bytes FROM nodes";
        let row = sqlx::query(sum).fetch_one(&self.readers).await?;
        Ok(totals_of(&row))
    }

    /// Ends all connections to the database, after what is being written.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    fn numbers(&self) -> MutexGuard<'_, HashMap<NodeId, i64>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes' numbers in the database, as a JSON array to be bound to one parameter.
    fn json_numbers(&self, nodes: &Nodes) -> String {
        let numbers = self.numbers();
        let known: Vec<String> = nodes
            .iter()
            .filter_map(|node| numbers.get(node).map(i64::to_string))
            .collect();
        format!("[{}]", known.join(","))
    }
}

/// The node's number; a new snapshot starts a new generation of its files.
async fn register(
    connection: &mut SqliteConnection,
    node: &NodeId,
    name: &NodeName,
    snapshot: bool,
) -> Result<i64, sqlx::Error> {
    let upsert = "INSERT INTO nodes (node, name, generation, pending) VALUES (?1, ?2, 1, ?3) \
                  ON CONFLICT (node) DO UPDATE SET name = ?2, generation = generation + ?3, \
                  pending = max(pending, ?3) RETURNING id";
    let row = sqlx::query(upsert)
        .bind(node.as_bytes().as_slice())
        .bind(name.as_str())
        .bind(i64::from(snapshot))
        .fetch_one(connection)
        .await?;
    Ok(row.get(0))
}

async fn insert(
    connection: &mut SqliteConnection,
    number: i64,
    generation: i64,
    entries: &[FileEntry],
) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO files (node, path, text, size, mtime_ns, mode, hash, generation) ",
    );
    query.push_values(entries, |mut row, entry| {
        row.push_bind(number)
            .push_bind(entry.path.as_bytes())
            .push_bind(entry.path.collision_key())
            .push_bind(entry.size.bytes().cast_signed())
            .push_bind(entry.mtime_ns)
            .push_bind(i64::from(entry.mode))
            .push_bind(entry.hash.as_ref().map(|hash| hash.as_bytes().as_slice()))
            .push_bind(generation);
    });
    query.push(
        " ON CONFLICT (node, path) DO UPDATE SET size = excluded.size, \
         mtime_ns = excluded.mtime_ns, mode = excluded.mode, hash = excluded.hash, \
         generation = excluded.generation",
    );
    query.build().execute(connection).await?;
    Ok(())
}

async fn remove(
    connection: &mut SqliteConnection,
    number: i64,
    paths: &[SafePath],
) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM files WHERE node = ");
    query.push_bind(number).push(" AND path IN (");
    let mut list = query.separated(", ");
    for path in paths {
        list.push_bind(path.as_bytes());
    }
    query.push(")").build().execute(connection).await?;
    Ok(())
}

/// Deletes what only earlier snapshots named, when a snapshot was under way.
async fn forget_older(
    connection: &mut SqliteConnection,
    number: i64,
    generation: i64,
) -> Result<(), sqlx::Error> {
    let ended = sqlx::query("UPDATE nodes SET pending = 0 WHERE id = ? AND pending = 1")
        .bind(number)
        .execute(&mut *connection)
        .await?;
    if ended.rows_affected() > 0 {
        sqlx::query("DELETE FROM files WHERE node = ? AND generation < ?")
            .bind(number)
            .bind(generation)
            .execute(connection)
            .await?;
    }
    Ok(())
}

fn node_id(bytes: Vec<u8>) -> Option<NodeId> {
    bytes.try_into().ok().map(NodeId::new)
}

fn totals_of(row: &SqliteRow) -> Totals {
    let count = |column| u64::try_from(row.get::<i64, _>(column)).unwrap_or(0);
    Totals {
        files: count("files"),
        total_bytes: count("total_bytes"),
    }
}

/// The start of every question for files; [`row_of`] reads what it answers.
fn select_files() -> QueryBuilder<Sqlite> {
    QueryBuilder::new(
        "SELECT f.path, f.size, f.mtime_ns, f.mode, f.hash, n.node AS owner, n.name \
         FROM files f JOIN nodes n ON n.id = f.node WHERE ",
    )
}

/// The row as a value; `None` where a field is not valid, as in a file that something else wrote.
fn row_of(row: &SqliteRow) -> Option<Row> {
    let hash: Option<Vec<u8>> = row.try_get("hash").ok()?;
    let hash = match hash {
        Some(bytes) => Some(Hash::new(bytes.try_into().ok()?)),
        None => None,
    };
    let path: Vec<u8> = row.try_get("path").ok()?;
    let size = u64::try_from(row.try_get::<i64, _>("size").ok()?).ok()?;
    Some(Row {
        node: node_id(row.try_get("owner").ok()?)?,
        name: NodeName::try_from(row.try_get::<String, _>("name").ok()?).ok()?,
        entry: FileEntry {
            path: SafePath::new(&path).ok()?,
            size: FileSize::new(size)?,
            mtime_ns: row.try_get("mtime_ns").ok()?,
            mode: u32::try_from(row.try_get::<i64, _>("mode").ok()?).ok()?,
            hash,
        },
    })
}
