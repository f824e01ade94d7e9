//! The control socket: how a person on the server's machine gives it orders.
//!
//! A Unix socket beside the server's state. One request per line, JSON; the answer is any number
//! of events, one per line, and exactly one [`ControlEvent::Done`] or [`ControlEvent::Failed`] at
//! the end. Text in events is as the peers sent it: whoever shows it escapes it. A client that
//! goes away takes its order back.
//!
//! Invariant: only the user that runs the server, or root, is heard.

use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use shoal_store::database::Fault;
use shoal_wire::message::{LimitRequest, LimitsInForce};

use crate::catalog::Outage;
use crate::roster::millis;

pub mod client;
pub(crate) mod socket;

/// Longest line in either direction, in bytes: an event with the longest path, every byte of it
/// escaped by JSON, takes about a third.
pub(crate) const LINE_MAX_BYTES: usize = 64 * 1024;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Lists the connected peers: a [`ControlEvent::Peer`] each.
    Peers,
    /// Lists all known files, or those whose path contains a text: a [`ControlEvent::File`] each.
    Files {
        /// The text, letter case ignored.
        #[serde(default)]
        text: Option<String>,
    },
    /// Asks a peer for its files: a [`ControlEvent::File`] each.
    List {
        /// Name or leading digits of its id.
        peer: String,
        /// Only this folder or file.
        #[serde(default)]
        path: Option<String>,
    },
    /// Asks a peer about one file: a [`ControlEvent::File`].
    Request {
        /// Name or leading digits of its id.
        peer: String,
        /// The file at that peer.
        file: String,
    },
    /// Fetches a file or folder of a peer into the server's folder.
    Fetch {
        /// Name or leading digits of its id.
        peer: String,
        /// The file or folder at that peer.
        file: String,
        /// Replace a different file that is already there.
        #[serde(default)]
        overwrite: bool,
    },
    /// Has a peer fetch a file or folder of the server's.
    Push {
        /// The file or folder in the server's folder.
        file: String,
        /// Name or leading digits of its id.
        peer: String,
        /// Replace a different file that is already there.
        #[serde(default)]
        overwrite: bool,
    },
    /// Has one peer fetch a file or folder from another, directly.
    Transfer {
        /// The peer that has it.
        from: String,
        /// The file or folder at that peer.
        file: String,
        /// The peer that gets it.
        to: String,
        /// Replace a different file that is already there.
        #[serde(default)]
        overwrite: bool,
    },
    /// Has a peer scan its folder again: a [`ControlEvent::Rescanned`].
    Rescan {
        /// Name or leading digits of its id.
        peer: String,
    },
    /// Ends a peer's connection: a [`ControlEvent::Disconnected`].
    Disconnect {
        /// Name or leading digits of its id.
        peer: String,
    },
    /// Shows rate limits, changed first where that is said: a [`ControlEvent::Limits`].
    Limit {
        /// Name or leading digits of its id; the server itself where it is `None` or `server`.
        #[serde(default)]
        peer: Option<String>,
        /// What is to be changed.
        #[serde(default)]
        changes: LimitRequest,
    },
    /// Tells how the server is: a [`ControlEvent::Status`] and a [`ControlEvent::Limits`].
    Status,
}

/// How a transfer ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferOutcome {
    /// It was fetched and is durable.
    Fetched,
    /// The same content was there already.
    UpToDate,
}

/// How the server's relay stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStanding {
    /// Its TCP port.
    pub port: u16,
    /// Its id where it is a process of its own, of which no figures are known here.
    pub apart: Option<String>,
    /// Connections at the moment.
    pub connected: u64,
    /// Connections that were let in, in all.
    #[serde(default)]
    pub admitted: u64,
    /// Connections that were not let in.
    pub refused: u64,
    /// Bytes received to be passed on.
    pub received_bytes: u64,
    /// Bytes passed on.
    pub sent_bytes: u64,
    /// Datagrams dropped: for nodes that are not there, or do not read.
    pub dropped: u64,
    /// Whether it has passed on as much as it may in a day, and lets nobody in.
    pub is_used_up: bool,
}

/// A time in which the server's state folder takes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateOutage {
    /// What is wrong: `full`, `read_only`, `damaged` or `failing`.
    pub reason: String,
    /// When it began, in milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// One sentence, with what to do.
    pub message: String,
}

impl From<&Outage> for StateOutage {
    fn from(outage: &Outage) -> Self {
        let reason = match outage.fault {
            Fault::Full => "full",
            Fault::ReadOnly => "read_only",
            Fault::Damaged => "damaged",
            Fault::Other => "failing",
        };
        let since = outage.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            reason: reason.to_owned(),
            since_ms: millis(since),
            message: outage.to_string(),
        }
    }
}

/// What the server says to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ControlEvent {
    /// A connected peer.
    Peer {
        /// Its id, in hex.
        node: String,
        /// Its name.
        name: String,
        /// Program and version.
        agent: String,
        /// The address that the server sees.
        observed: String,
        /// How long it has been connected, in milliseconds.
        connected_ms: u64,
        /// How many files it announced.
        files: u64,
        /// Their size, in bytes.
        total_bytes: u64,
        /// Round-trip time, in microseconds.
        rtt_us: u64,
    },
    /// A file.
    File {
        /// The id of the node that has it, in hex.
        peer: String,
        /// That node's name.
        peer_name: String,
        /// Whether it is connected.
        online: bool,
        /// The path; bytes that are not UTF-8 are replaced.
        path: String,
        /// Its size, in bytes.
        size: u64,
        /// Last modification, in nanoseconds since 1970-01-01 UTC.
        mtime_ns: i64,
        /// BLAKE3, in hex, once it is known.
        hash: Option<String>,
    },
    /// How far a transfer is, as its receiver sees it.
    Progress {
        /// The path.
        path: String,
        /// Size of the file, in bytes.
        total_bytes: u64,
        /// Verified, in bytes.
        verified_bytes: u64,
        /// Verified and durable, in bytes.
        durable_bytes: u64,
    },
    /// A transfer ended well.
    Transferred {
        /// The path.
        path: String,
        /// What became of it.
        outcome: TransferOutcome,
        /// BLAKE3, in hex.
        hash: String,
        /// Size of the file, in bytes.
        total_bytes: u64,
    },
    /// A peer has scanned its folder.
    Rescanned {
        /// Files in its share.
        files: u64,
        /// Of these, new or changed.
        changed: u64,
        /// Gone.
        removed: u64,
    },
    /// A peer's connection was ended.
    Disconnected {
        /// Its name.
        name: String,
    },
    /// How the server is.
    Status {
        /// Its id, in hex.
        server: String,
        /// Its name.
        name: String,
        /// Program and version.
        agent: String,
        /// Where it listens.
        address: String,
        /// How long it has been running, in milliseconds.
        uptime_ms: u64,
        /// Connected peers.
        peers: u64,
        /// Files in the catalog, its own included.
        files: u64,
        /// Their size, in bytes.
        total_bytes: u64,
        /// Files of its own.
        own_files: u64,
        /// Its relay; none with `--no-relay`.
        #[serde(default)]
        relay: Option<RelayStanding>,
        /// Why its state folder takes nothing at the moment; none while it does.
        #[serde(default)]
        outage: Option<StateOutage>,
    },
    /// The rate limits in force.
    Limits {
        /// Whose: a peer's or the server's name.
        name: String,
        /// In bytes per second, or null where there is none.
        #[serde(flatten)]
        limits: LimitsInForce,
    },
    /// The order failed; nothing follows.
    Failed {
        /// The refusal's number.
        code: u32,
        /// What went wrong, as a sentence.
        message: String,
    },
    /// The order is carried out; nothing follows.
    Done,
}

impl ControlEvent {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Done | Self::Failed { .. })
    }
}

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a line is longer than {LINE_MAX_BYTES} bytes")]
    TooLong,
    #[error("the connection ended in the middle of a line")]
    Cut,
    #[error(transparent)]
    Read(#[from] std::io::Error),
}

/// Reads one line without its end; `None` where the other side is done.
pub(crate) async fn read_line(
    reader: &mut (impl tokio::io::AsyncBufRead + Unpin),
) -> Result<Option<Vec<u8>>, LineError> {
    use tokio::io::AsyncBufReadExt as _;
    let mut line = Vec::new();
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return if line.is_empty() {
                Ok(None)
            } else {
                Err(LineError::Cut)
            };
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let take = end.unwrap_or(available.len());
        if line.len() + take > LINE_MAX_BYTES {
            return Err(LineError::TooLong);
        }
        line.extend_from_slice(&available[..take]);
        reader.consume(end.map_or(take, |at| at + 1));
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_wire::Rate;
    use shoal_wire::message::LimitChange;

    use super::*;

    #[tokio::test]
    async fn lines_are_read_up_to_their_limit_and_no_further() {
        let fits = [vec![b'a'; LINE_MAX_BYTES], b"\nrest".to_vec()].concat();
        let mut reader = fits.as_slice();
        let line = read_line(&mut reader).await.unwrap().unwrap();
        assert_eq!(line.len(), LINE_MAX_BYTES);
        assert!(matches!(read_line(&mut reader).await, Err(LineError::Cut)));
        let mut long = [b'a'; LINE_MAX_BYTES + 1].as_slice();
        assert!(matches!(
            read_line(&mut long).await,
            Err(LineError::TooLong)
        ));
        assert!(matches!(read_line(&mut b"".as_slice()).await, Ok(None)));
    }

    #[test]
    fn orders_and_events_have_the_names_that_scripts_rely_on() {
        let order: ControlRequest =
            serde_json::from_str(r#"{"order":"fetch","peer":"anna","file":"a"}"#).unwrap();
        let expected = ControlRequest::Fetch {
            peer: "anna".into(),
            file: "a".into(),
            overwrite: false,
        };
        assert_eq!(order, expected);
        let event = ControlEvent::Transferred {
            path: "a".into(),
            outcome: TransferOutcome::UpToDate,
            hash: "00".into(),
            total_bytes: 5,
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"transferred","path":"a","outcome":"up_to_date","hash":"00","total_bytes":5}"#
        );
        assert!(serde_json::from_str::<ControlRequest>(r#"{"order":"reboot"}"#).is_err());
    }

    #[test]
    fn limits_are_changed_and_told_by_their_names() {
        let line =
            r#"{"order":"limit","peer":"anna","changes":{"up":{"to":5000},"down":"unlimited"}}"#;
        let order: ControlRequest = serde_json::from_str(line).unwrap();
        let expected = ControlRequest::Limit {
            peer: Some("anna".into()),
            changes: LimitRequest {
                up: LimitChange::To(Rate::new(5_000).unwrap()),
                down: LimitChange::Unlimited,
                ..LimitRequest::default()
            },
        };
        assert_eq!(order, expected);
        let event = ControlEvent::Limits {
            name: "anna".into(),
            limits: LimitsInForce {
                up: Rate::new(5_000).ok(),
                ..LimitsInForce::default()
            },
        };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"event":"limits","name":"anna","up":5000,"down":null,"up_per_peer":null,"down_per_peer":null}"#
        );
        assert_eq!(serde_json::from_str::<ControlEvent>(&text).unwrap(), event);
        let wrong = r#"{"order":"limit","changes":{"up":{"to":5}}}"#;
        assert!(serde_json::from_str::<ControlRequest>(wrong).is_err());
    }
}
