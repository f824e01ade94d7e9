//! `shoal ls` and `shoal search`: who is there and what they offer.

use serde_json::json;
use shoal_node::plan::{SERVER, peer_ref};
use shoal_node::requests::RequestError;
use shoal_node::session::Session;
use shoal_wire::message::{Hit, PeerRef, PeerSummary};
use shoal_wire::{FileEntry, PathError, SafePath, ShortText};
use std::time::Duration;

use crate::args::JoinedArguments;
use crate::connect::Joined;
use crate::exit::{Code, Failure};
use crate::output::{Output, duration, size, table, when};

/// Digits of a hash that are shown: enough to ask for the file by.
const HASH_SHOWN_DIGITS: usize = 12;

/// `shoal ls [PEER[:PATH]]`.
pub(super) async fn list(
    place: Option<String>,
    joined: &JoinedArguments,
    output: &Output,
) -> Result<(), Failure> {
    let joined = Joined::connect(joined, output).await?;
    let shown = match place {
        None => show_peers(&joined.session, output).await,
        Some(place) => show_place(&joined.session, &place, output).await,
    };
    joined.close().await;
    shown
}

/// `shoal search TEXT`.
pub(super) async fn search(
    text: &str,
    limit: u32,
    joined: &JoinedArguments,
    output: &Output,
) -> Result<(), Failure> {
    let joined = Joined::connect(joined, output).await?;
    let shown = show_hits(&joined.session, text, limit, output).await;
    joined.close().await;
    shown
}

/// Shows every connected peer and the server.
pub(crate) async fn show_peers(session: &Session, output: &Output) -> Result<(), Failure> {
    let peers = session.peers().await?;
    let status = session.status().await?;
    for peer in &peers {
        output.machine("peer", peer_fields(peer));
    }
    output.event(
        "server",
        json!({ "node": status.server.to_string(), "name": SERVER, "files": status.own_files }),
        || {
            let mut rows = vec![columns(&[
                "NAME",
                "FILES",
                "SIZE",
                "CONNECTED",
                "ADDRESS",
                "ID",
            ])];
            rows.push(vec![
                SERVER.to_owned(),
                status.own_files.to_string(),
                String::new(),
                duration(Duration::from_millis(status.uptime_ms)),
                session.link().path().remote.to_string(),
                status.server.short(),
            ]);
            rows.extend(peers.iter().map(peer_row));
            table(&rows)
        },
    );
    Ok(())
}

/// The row of a peer in a table.
fn peer_row(peer: &PeerSummary) -> Vec<String> {
    vec![
        peer.name.to_string(),
        peer.files.to_string(),
        size(peer.total_bytes),
        duration(Duration::from_millis(peer.connected_ms)),
        peer.observed.to_string(),
        peer.node.short(),
    ]
}

fn peer_fields(peer: &PeerSummary) -> serde_json::Value {
    json!({
        "node": peer.node.to_string(),
        "name": peer.name.as_str(),
        "agent": peer.agent.to_string(),
        "observed": peer.observed.to_string(),
        "connected_ms": peer.connected_ms,
        "files": peer.files,
        "total_bytes": peer.total_bytes,
        "rtt_us": peer.rtt_us,
    })
}

/// Shows the files of `PEER` or `PEER:PATH`.
pub(crate) async fn show_place(
    session: &Session,
    place: &str,
    output: &Output,
) -> Result<(), Failure> {
    let (peer, path) = place.split_once(':').unwrap_or((place, ""));
    let prefix = match path.trim_end_matches('/') {
        "" => None,
        path => Some(path.parse().map_err(|error: PathError| {
            Failure::new(Code::Usage, format!("'{path}' is no path: {error}"))
        })?),
    };
    let peer = (peer != SERVER).then(|| peer_ref(peer));
    let count = show_files(session, peer, prefix, output).await?;
    if count == 0 && !path.is_empty() {
        let text = format!(
            "nothing is announced at '{place}': look with 'shoal ls {}'",
            place.split(':').next().unwrap_or_default()
        );
        return Err(Failure::new(Code::NotFound, text));
    }
    Ok(())
}

async fn show_files(
    session: &Session,
    peer: Option<PeerRef>,
    prefix: Option<SafePath>,
    output: &Output,
) -> Result<u64, Failure> {
    let mut after: Option<SafePath> = None;
    let mut count = 0;
    loop {
        let (files, more) = session
            .files(peer.clone(), prefix.clone(), after.clone())
            .await?;
        count += files.len() as u64;
        show_entries(&files, output);
        let last = files.last().map(|last| last.path.clone());
        if !more {
            return Ok(count);
        }
        if last <= after {
            return Err(RequestError::Unexpected.into());
        }
        after = last;
    }
}

/// Shows a page of files.
pub(crate) fn show_entries(files: &[FileEntry], output: &Output) {
    for file in files {
        output.machine("file", file_fields(file));
    }
    if !output.is_json() && !files.is_empty() {
        let rows: Vec<_> = files.iter().map(file_row).collect();
        output.event("files", json!({}), || table(&rows));
    }
}

/// The row of a file in a table.
fn file_row(file: &FileEntry) -> Vec<String> {
    let hash = file.hash.map(|hash| hash.to_string());
    vec![
        size(file.size.bytes()),
        when(file.mtime_ns),
        hash.map_or("(not hashed)".to_owned(), |hash| {
            hash[..HASH_SHOWN_DIGITS].to_owned()
        }),
        file.path.to_string(),
    ]
}

/// The fields of a file in an event; bytes of the path that are not UTF-8 are replaced.
pub(crate) fn file_fields(file: &FileEntry) -> serde_json::Value {
    json!({
        "path": String::from_utf8_lossy(file.path.as_bytes()),
        "size": file.size.bytes(),
        "mtime_ns": file.mtime_ns,
        "hash": file.hash.map(|hash| hash.to_string()),
    })
}

/// Shows the files whose path contains `text`.
pub(crate) async fn show_hits(
    session: &Session,
    text: &str,
    limit: u32,
    output: &Output,
) -> Result<(), Failure> {
    let (hits, more) = session.search(ShortText::new(text), limit).await?;
    if hits.is_empty() {
        let message = format!("no announced file has '{text}' in its name");
        return Err(Failure::new(Code::NotFound, message));
    }
    for hit in &hits {
        let mut fields = file_fields(&hit.entry);
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("peer".into(), hit.peer.to_string().into());
            fields.insert("peer_name".into(), hit.peer_name.as_str().into());
            fields.insert("online".into(), hit.online.into());
        }
        output.machine("hit", fields);
    }
    if !output.is_json() {
        let rows: Vec<_> = hits.iter().map(hit_row).collect();
        output.event("hits", json!({}), || table(&rows));
    }
    if more {
        output.note(&format!(
            "(more than {limit}: narrow the text, or raise --limit)"
        ));
    }
    Ok(())
}

fn hit_row(hit: &Hit) -> Vec<String> {
    let mut row = file_row(&hit.entry);
    row.pop();
    let away = if hit.online { "" } else { "  (away)" };
    row.push(format!("{}:{}{away}", hit.peer_name, hit.entry.path));
    row
}

fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
