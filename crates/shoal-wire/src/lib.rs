//! What machines say to each other: ids, messages, safe paths, grants, tickets, limits.
//!
//! Everything here is bytes in, valid types out: a value that exists needs no later check, every
//! limit is compared before memory is set aside for what it bounds, and no input can panic.
//! This crate owns no socket, file, clock or random source, and imports nothing else of ours.
//!
//! Start at [`message::Communication`] for the conversation, [`frame`] for its bytes.

pub mod address;
pub mod chunk;
pub mod code;
pub mod file;
pub mod frame;
pub mod grant;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod message;
pub mod offer;
pub mod path;
pub mod rate;
pub mod refusal;
pub mod text;
pub mod ticket;
pub mod whereabouts;

pub use chunk::{ChunkIndex, ChunkLayout, ChunkRanges};
pub use code::{Code, Nameplate};
pub use file::{FileEntry, FileSize};
pub use grant::{Grant, Scope, SignedGrant, Verb};
pub use id::{Hash, NodeId, Signature};
pub use message::Communication;
pub use offer::{OfferSecret, OfferTicket, RelayKey, RelayPass, RelayTicket};
pub use path::{PathError, SafePath};
pub use rate::Rate;
pub use refusal::Refusal;
pub use text::{NodeName, ShortText, escape};
pub use ticket::JoinTicket;

/// Why bytes from another machine were not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does, or go on after it.
    #[error("message of {len_bytes} bytes is truncated or has bytes to spare")]
    Length {
        /// Length of what was given, in bytes.
        len_bytes: usize,
    },
    /// A length or count is over its cap; nothing was allocated for it.
    #[error("{what} of {actual} is over the limit of {limit}")]
    TooLarge {
        /// What was measured.
        what: &'static str,
        /// The figure that was announced.
        actual: u64,
        /// The cap it broke.
        limit: u64,
    },
    /// The message kind is not known to this version.
    #[error("unknown message kind {kind}")]
    UnknownKind {
        /// The kind's number.
        kind: u8,
    },
    /// The body does not parse into a valid value.
    #[error("malformed message: {reason}")]
    Malformed {
        /// What the parser said.
        reason: String,
    },
}
