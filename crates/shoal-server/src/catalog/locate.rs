//! Look-up: which connected node has the file or folder that somebody wants.
//!
//! Text is tried as an exact path, then as the last names of a path, then as the beginning of a
//! hash; the first step that finds anything decides. Files that share one known hash are one
//! content, whatever their names; files without a hash are never taken to be equal.
//!
//! The asking node is never an answer: that only it has the file is an answer of its own.

use shoal_wire::limits::{LOCATED_MAX, PROVIDERS_MAX};
use shoal_wire::{FileEntry, Hash, NodeId, NodeName, SafePath};
use sqlx::{QueryBuilder, Sqlite};

use super::search::{below, fold, one_more, push_narrowing};
use super::{Catalog, CatalogError, Nodes, Row, select_files};

/// Fewest hex digits that are taken for the beginning of a hash.
const HASH_DIGITS_MIN: usize = 6;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// The file or folder at exactly this path.
    Path(SafePath),
    /// Files with this content.
    Blob(Hash),
    /// As a person typed it.
    Text(String),
}

/// A look-up.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// What is looked for.
    pub sought: Sought,
    /// Nodes that may be named: those connected and the server, or the one that is asked about.
    pub nodes: &'a Nodes,
    /// The node that asks, which is never named.
    pub asker: Option<NodeId>,
    /// For folders: only files after this path.
    pub after: Option<SafePath>,
}

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// One content: a row for each node that has it, those that matched by name first.
    File(Vec<Row>),
    /// One folder of one node.
    Folder {
        /// Where it lies.
        path: SafePath,
        /// Whose it is.
        node: NodeId,
        /// That node's name.
        name: NodeName,
        /// Its files, by path.
        files: Vec<FileEntry>,
        /// Whether there are more.
        more: bool,
    },
    /// Several contents or folders; a folder is named by its first file.
    Several(Vec<Row>),
    /// Only the asking node has it.
    OnlyAsker,
    /// Nothing.
    Nothing,
}

/// A folder of one node, with its first file.
#[derive(Debug)]
struct FoundFolder {
    path: SafePath,
    first: Row,
}

#[derive(Debug, Default)]
struct Candidates {
    files: Vec<Row>,
    folders: Vec<FoundFolder>,
}

impl Candidates {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.folders.is_empty()
    }
}

impl Catalog {
    /// Finds what a node wants, by the rules of this module.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn locate(&self, question: &Question<'_>) -> Result<Located, CatalogError> {
        let mut others = question.nodes.clone();
        let asker = question.asker.filter(|asker| others.remove(asker));
        let found = self.candidates(&question.sought, &others).await?;
        if found.is_empty() {
            let own = match asker {
                Some(asker) => self.candidates(&question.sought, &[asker].into()).await?,
                None => Candidates::default(),
            };
            return Ok(if own.is_empty() {
                Located::Nothing
            } else {
                Located::OnlyAsker
            });
        }
        self.decide(found, &others, question.after.as_ref()).await
    }

    async fn decide(
        &self,
        found: Candidates,
        nodes: &Nodes,
        after: Option<&SafePath>,
    ) -> Result<Located, CatalogError> {
        match (found.files.as_slice(), found.folders.as_slice()) {
            ([], [only]) => {
                let node = only.first.node;
                let page = self.list(&node, Some(&only.path), after, LOCATED_MAX);
                let (files, more) = page.await?;
                Ok(Located::Folder {
                    path: only.path.clone(),
                    node,
                    name: only.first.name.clone(),
                    files,
                    more,
                })
            }
            ([only], []) if only.entry.hash.is_none() => Ok(Located::File(found.files)),
            ([first, ..], []) => match one_content(&found.files, first.entry.hash) {
                Some(hash) => {
                    let providers = self.providers(&hash, found.files, nodes).await?;
                    Ok(Located::File(providers))
                }
                None => Ok(Located::Several(found.files)),
            },
            _ => {
                let folders = found.folders.into_iter().map(|folder| folder.first);
                let mut rows: Vec<Row> = found.files.into_iter().chain(folders).collect();
                rows.truncate(LOCATED_MAX);
                Ok(Located::Several(rows))
            }
        }
    }

    /// One row for each of at most [`PROVIDERS_MAX`] nodes: `matched` first, then whoever has the
    /// same content under another name, in random order so that load spreads.
    async fn providers(
        &self,
        hash: &Hash,
        matched: Vec<Row>,
        nodes: &Nodes,
    ) -> Result<Vec<Row>, CatalogError> {
        let mut query = select_files();
        query
            .push("f.hash = ")
            .push_bind(hash.as_bytes().as_slice());
        self.push_nodes(&mut query, nodes);
        query.push(" GROUP BY f.node ORDER BY random() LIMIT ");
        query.push_bind(one_more(PROVIDERS_MAX));
        let (elsewhere, _more) = self.page(query, PROVIDERS_MAX).await?;
        let mut named = Nodes::new();
        let mut rows: Vec<Row> = matched.into_iter().chain(elsewhere).collect();
        rows.retain(|row| named.insert(row.node));
        rows.truncate(PROVIDERS_MAX);
        Ok(rows)
    }

    async fn candidates(&self, sought: &Sought, nodes: &Nodes) -> Result<Candidates, CatalogError> {
        match sought {
            Sought::Path(path) => self.at_path(path, nodes).await,
            Sought::Blob(hash) => self.by_hashes(hash, hash, nodes).await,
            Sought::Text(text) => {
                let path = text.trim_end_matches('/').parse::<SafePath>().ok();
                if let Some(path) = path {
                    let found = self.at_path(&path, nodes).await?;
                    if !found.is_empty() {
                        return Ok(found);
                    }
                    let found = self.by_last_names(&path, nodes).await?;
                    if !found.is_empty() {
                        return Ok(found);
                    }
                }
                match hashes_that_begin(text) {
                    Some((low, high)) => self.by_hashes(&low, &high, nodes).await,
                    None => Ok(Candidates::default()),
                }
            }
        }
    }

    async fn at_path(&self, path: &SafePath, nodes: &Nodes) -> Result<Candidates, CatalogError> {
        let mut query = select_files();
        query.push("f.path = ").push_bind(path.as_bytes().to_vec());
        self.push_nodes(&mut query, nodes);
        let files = self.first_rows(query, "f.hash IS NULL, f.node").await?;

        let (low, high) = below(path);
        let mut query = select_files();
        query.push("f.path = (SELECT min(b.path) FROM files b WHERE b.node = n.id AND b.path > ");
        query.push_bind(low).push(" AND b.path < ").push_bind(high);
        query.push(")");
        self.push_nodes(&mut query, nodes);
        let firsts = self.first_rows(query, "f.node").await?;
        let folders = firsts.into_iter().map(|first| FoundFolder {
            path: path.clone(),
            first,
        });
        Ok(Candidates {
            files,
            folders: folders.collect(),
        })
    }

    async fn by_last_names(
        &self,
        names: &SafePath,
        nodes: &Nodes,
    ) -> Result<Candidates, CatalogError> {
        let ending = [b"/", names.as_bytes()].concat();
        let ending_len = i64::try_from(ending.len()).unwrap_or(i64::MAX);
        let folded = fold(&String::from_utf8_lossy(&ending));
        let mut query = select_files();
        push_narrowing(&mut query, &folded);
        query.push("substr(f.path, ").push_bind(-ending_len);
        query.push(") = ").push_bind(ending.clone());
        self.push_nodes(&mut query, nodes);
        let files = self.first_rows(query, "f.path, f.node").await?;

        let middle = [&ending, b"/".as_slice()].concat();
        let mut query = select_files();
        push_narrowing(&mut query, &format!("{folded}/"));
        query
            .push("instr(f.path, ")
            .push_bind(middle.clone())
            .push(") > 0");
        self.push_nodes(&mut query, nodes);
        // With min() in HAVING, the bare columns come from the row that holds the least path.
        query.push(" GROUP BY f.node, substr(f.path, 1, instr(f.path, ");
        query.push_bind(middle.clone()).push(") + ");
        query.push_bind(ending_len - 1);
        query.push(") HAVING min(f.path) IS NOT NULL");
        let firsts = self.first_rows(query, "f.path, f.node").await?;
        let folders = firsts.into_iter().filter_map(|first| {
            let bytes = first.entry.path.as_bytes();
            let at = bytes
                .windows(middle.len())
                .position(|part| part == middle)?;
            let path = SafePath::new(&bytes[..at + ending.len()]).ok()?;
            Some(FoundFolder { path, first })
        });
        Ok(Candidates {
            files,
            folders: folders.collect(),
        })
    }

    async fn by_hashes(
        &self,
        low: &Hash,
        high: &Hash,
        nodes: &Nodes,
    ) -> Result<Candidates, CatalogError> {
        let mut query = select_files();
        query
            .push("f.hash BETWEEN ")
            .push_bind(low.as_bytes().to_vec());
        query.push(" AND ").push_bind(high.as_bytes().to_vec());
        self.push_nodes(&mut query, nodes);
        Ok(Candidates {
            files: self.first_rows(query, "f.hash, f.path, f.node").await?,
            folders: Vec::new(),
        })
    }

    fn push_nodes(&self, query: &mut QueryBuilder<Sqlite>, nodes: &Nodes) {
        query.push(" AND f.node IN (SELECT value FROM json_each(");
        query.push_bind(self.json_numbers(nodes)).push("))");
    }

    async fn first_rows(
        &self,
        mut query: QueryBuilder<Sqlite>,
        order: &'static str,
    ) -> Result<Vec<Row>, CatalogError> {
        query.push(" ORDER BY ").push(order).push(" LIMIT ");
        query.push_bind(one_more(LOCATED_MAX));
        Ok(self.page(query, LOCATED_MAX).await?.0)
    }
}

/// The hash that all of the files have, where it is known.
fn one_content(files: &[Row], hash: Option<Hash>) -> Option<Hash> {
    let hash = hash?;
    files
        .iter()
        .all(|file| file.entry.hash == Some(hash))
        .then_some(hash)
}

/// The least and the greatest hash that begin with these hex digits.
fn hashes_that_begin(digits: &str) -> Option<(Hash, Hash)> {
    let usable = (HASH_DIGITS_MIN..=64).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !usable {
        return None;
    }
    let padded = |with: &str| {
        let text = format!("{digits}{}", with.repeat(64 - digits.len()));
        text.parse::<Hash>().ok()
    };
    Some((padded("0")?, padded("f")?))
}
