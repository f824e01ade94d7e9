//! Search by part of a path, and listing a node's files by path.
//!
//! Text is compared in the form under which names collide (composed, lower case). Three
//! characters or more are narrowed down by the index of trigrams; shorter text scans. The index
//! never decides: what it offers is compared again as a plain substring, so no character in a
//! search means anything but itself.

use std::collections::BTreeSet;

use shoal_wire::{FileEntry, NodeId, SafePath};
use sqlx::{QueryBuilder, Sqlite};
use unicode_normalization::UnicodeNormalization;

use super::{Catalog, CatalogError, Nodes, Row, row_of, select_files};

/// Most trigrams of one search that the index is asked for; the substring is compared anyway.
const TRIGRAMS_MAX: usize = 24;

impl Catalog {
    /// Announced files whose path contains `text`, letter case ignored: those of `online` nodes
    /// first, then by path. At most `limit`, and whether there are more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn search(
        &self,
        text: &str,
        online: &Nodes,
        limit: usize,
    ) -> Result<(Vec<Row>, bool), CatalogError> {
        let text = fold(text);
        let mut query = select_files();
        push_narrowing(&mut query, &text);
        query.push("instr(f.text, ").push_bind(text);
        query.push(") > 0 ORDER BY f.node IN (SELECT value FROM json_each(");
        query.push_bind(self.json_numbers(online));
        query.push(")) DESC, f.path, f.node LIMIT ");
        query.push_bind(one_more(limit));
        self.page(query, limit).await
    }

    /// The files of `node` at or below `prefix`, after the path `after`, by path in byte order.
    /// At most `limit`, and whether there are more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(
        &self,
        node: &NodeId,
        prefix: Option<&SafePath>,
        after: Option<&SafePath>,
        limit: usize,
    ) -> Result<(Vec<FileEntry>, bool), CatalogError> {
        let number = self.numbers().get(node).copied();
        let Some(number) = number else {
            return Ok((Vec::new(), false));
        };
        let mut start = after.map(successor).unwrap_or_default();
        let mut query = select_files();
        query.push("f.node = ").push_bind(number);
        if let Some(prefix) = prefix {
            let (low, high) = below(prefix);
            start = start.max(prefix.as_bytes().to_vec());
            query.push(" AND f.path < ").push_bind(high);
            query
                .push(" AND (f.path = ")
                .push_bind(prefix.as_bytes().to_vec());
            query.push(" OR f.path > ").push_bind(low).push(")");
        }
        query.push(" AND f.path >= ").push_bind(start);
        query
            .push(" ORDER BY f.path LIMIT ")
            .push_bind(one_more(limit));
        let (rows, more) = self.page(query, limit).await?;
        Ok((rows.into_iter().map(|row| row.entry).collect(), more))
    }

    /// Runs a question that asks for one row more than `limit`.
    pub(super) async fn page(
        &self,
        mut query: QueryBuilder<Sqlite>,
        limit: usize,
    ) -> Result<(Vec<Row>, bool), CatalogError> {
        let rows = query.build().fetch_all(&self.readers).await?;
        let more = rows.len() > limit;
        Ok((rows.iter().take(limit).filter_map(row_of).collect(), more))
    }
}

/// The form in which the table keeps a path for search; see [`SafePath::collision_key`].
pub(super) fn fold(text: &str) -> String {
    text.nfc().flat_map(char::to_lowercase).nfc().collect()
}

/// Adds the condition that the index of names offers the row, where the text is long enough.
pub(super) fn push_narrowing(query: &mut QueryBuilder<Sqlite>, folded: &str) {
    if let Some(expression) = match_expression(folded) {
        query.push("f.id IN (SELECT rowid FROM names WHERE names MATCH ");
        query.push_bind(expression).push(") AND ");
    }
}

/// The paths below a folder lie strictly between these two: behind `/`, before the byte after it.
pub(super) fn below(folder: &SafePath) -> (Vec<u8>, Vec<u8>) {
    let with = |last: u8| [folder.as_bytes(), &[last]].concat();
    (with(b'/'), with(b'/' + 1))
}

pub(super) fn one_more(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)
}

/// The first byte string after `path` in byte order.
fn successor(path: &SafePath) -> Vec<u8> {
    [path.as_bytes(), &[0]].concat()
}

/// The text's trigrams, each as a quoted string, all of them required. `None` below three
/// characters, and for a NUL, which no path contains and which would end the expression.
fn match_expression(folded: &str) -> Option<String> {
    let characters: Vec<char> = folded.chars().collect();
    if characters.contains(&'\0') {
        return None;
    }
    let quoted = |window: &[char]| {
        let text: String = window.iter().collect();
        format!("\"{}\"", text.replace('"', "\"\""))
    };
    let trigrams: BTreeSet<String> = characters
        .windows(3)
        .take(TRIGRAMS_MAX)
        .map(quoted)
        .collect();
    let all: Vec<String> = trigrams.into_iter().collect();
    (!all.is_empty()).then(|| all.join(" AND "))
}
