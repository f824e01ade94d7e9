//! Why a fetch failed, whether another source helps, and what to tell whom.

use std::path::PathBuf;

use shoal_link::{HearError, StreamError};
use shoal_store::partial::{FinishError, PartialError};
use shoal_wire::message::Provider;
use shoal_wire::{ChunkIndex, NodeId, NodeName, Refusal, SafePath};

use super::receive::STALL_DEADLINE;
use crate::requests::RequestError;

/// Why a file was not fetched. Everything that arrived is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody was named that has the file.
    #[error("no connected peer has this file")]
    NoSource,
    /// A provider could not be reached.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// Its name.
        peer: NodeName,
        /// Why not.
        reason: String,
    },
    /// A provider said no.
    #[error("{peer} refused: {detail}")]
    Refused {
        /// Its name.
        peer: NodeName,
        /// Its number.
        refusal: Refusal,
        /// In words.
        detail: String,
    },
    /// The connection to a provider was lost, or it fell silent.
    #[error("{peer} was lost: {reason}; run it again to go on")]
    Lost {
        /// Its name.
        peer: NodeName,
        /// What happened.
        reason: String,
    },
    /// A provider that is connected sent nothing for too long.
    #[error("{peer} sent nothing for {} s; run it again to go on", STALL_DEADLINE.as_secs())]
    Stalled {
        /// Its name.
        peer: NodeName,
    },
    /// A chunk from a provider is not what its hash says.
    #[error("{peer} ({}) sent a wrong chunk {}: it was discarded and {peer} is not asked again", node.short(), index.get())]
    BadChunk {
        /// Its name.
        peer: NodeName,
        /// Its id.
        node: NodeId,
        /// Which chunk.
        index: ChunkIndex,
    },
    /// The chunk hashes from a provider do not lead to the file's hash.
    #[error("{peer} ({}) sent a false hash list: it was discarded and {peer} is not asked again", node.short())]
    FalseList {
        /// Its name.
        peer: NodeName,
        /// Its id.
        node: NodeId,
    },
    /// A small file from a provider is not what its hash says.
    #[error("{peer} ({}) sent a wrong {path}: it was discarded and {peer} is not asked again", node.short())]
    BadFile {
        /// Its name.
        peer: NodeName,
        /// Its id.
        node: NodeId,
        /// The file there.
        path: SafePath,
    },
    /// Two names would be one file on this disk.
    #[error(
        "'{first}' and '{second}' would be the same file here: fetch them one by one into different folders"
    )]
    Collision {
        /// One of them.
        first: SafePath,
        /// The other.
        second: SafePath,
    },
    /// A part of the folder lies on another file system than the rest.
    #[error("{} is on another file system than the folder around it: fetch it by itself", path.display())]
    OtherFileSystem {
        /// The target.
        path: PathBuf,
    },
    /// A provider does not keep to the protocol.
    #[error("{peer} ({}) broke the protocol: {what}", node.short())]
    Misbehaved {
        /// Its name.
        peer: NodeName,
        /// Its id.
        node: NodeId,
        /// How.
        what: &'static str,
    },
    /// A stretch of a file is asked for whose source has not hashed it yet.
    #[error(
        "{peer} has not hashed {path} yet, and without its hashes a part of it cannot be verified: try again in a moment"
    )]
    NotHashed {
        /// The provider's name.
        peer: NodeName,
        /// The file there.
        path: SafePath,
    },
    /// The file is no longer what was announced.
    #[error("{path} changed at {peer} while it was fetched: run it again to get the new version")]
    SourceChanged {
        /// The provider's name.
        peer: NodeName,
        /// The file there.
        path: SafePath,
    },
    /// A different file is at the target.
    #[error("{} is there already and differs: use --overwrite to replace it, or another folder", path.display())]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// The partial cannot be opened or written.
    #[error(transparent)]
    Partial(#[from] PartialError),
    /// The file could not be completed.
    #[error(transparent)]
    Finish(#[from] FinishError),
    /// Somebody asked to stop.
    #[error("stopped: run it again to go on")]
    Cancelled,
}

impl FetchError {
    /// The number that tells another node of it.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::NoSource | Self::Unreachable { .. } | Self::Lost { .. } => Refusal::Unreachable,
            Self::Stalled { .. } => Refusal::TimedOut,
            Self::Refused { refusal, .. } => *refusal,
            Self::BadChunk { .. } | Self::BadFile { .. } | Self::FalseList { .. } => {
                Refusal::BadChunk
            }
            Self::Misbehaved { .. } => Refusal::Unexpected,
            Self::NotHashed { .. } => Refusal::SourceUnreadable,
            Self::SourceChanged { .. } => Refusal::SourceChanged,
            Self::TargetExists { .. }
            | Self::Collision { .. }
            | Self::Finish(FinishError::TargetExists) => Refusal::TargetExists,
            Self::Partial(PartialError::NoSpace { .. } | PartialError::Exhausted { .. }) => {
                Refusal::NoSpace
            }
            Self::Partial(PartialError::Private { .. }) => Refusal::Denied,
            Self::Finish(FinishError::WrongRoot { .. }) => Refusal::BadChunk,
            Self::Partial(_) | Self::Finish(_) | Self::OtherFileSystem { .. } => {
                Refusal::WriteFailed
            }
            Self::Cancelled => Refusal::Cancelled,
        }
    }

    /// Whether no other source helps.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::TargetExists { .. } | Self::Partial(_) | Self::Finish(_) | Self::Cancelled
        )
    }

    /// Whether the same source may do better in a moment.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Stalled { .. }
        )
    }

    pub(super) fn refused(provider: &Provider, refusal: Refusal, detail: &str) -> Self {
        if refusal == Refusal::SourceChanged {
            return Self::SourceChanged {
                peer: provider.name.clone(),
                path: provider.entry.path.clone(),
            };
        }
        let detail = match detail {
            "" => refusal.text().to_owned(),
            detail => format!("{}: {detail}", refusal.text()),
        };
        Self::Refused {
            peer: provider.name.clone(),
            refusal,
            detail,
        }
    }

    /// One file among many was refused.
    pub(super) fn refused_file(provider: &Provider, refusal: Refusal, path: &SafePath) -> Self {
        let peer = provider.name.clone();
        if refusal == Refusal::SourceChanged {
            let path = path.clone();
            return Self::SourceChanged { peer, path };
        }
        Self::Refused {
            peer,
            refusal,
            detail: format!("{}: {path}", refusal.text()),
        }
    }

    pub(super) fn of_request(provider: &Provider, error: RequestError) -> Self {
        match error {
            RequestError::Refused(report) => {
                Self::refused(provider, report.refusal, &report.detail.to_string())
            }
            RequestError::Unexpected => Self::misbehaved(provider, "an answer out of place"),
            RequestError::TimedOut | RequestError::Lost(_) => Self::lost(provider, &error),
        }
    }

    pub(super) fn of_hearing(provider: &Provider, error: HearError) -> Self {
        match error {
            HearError::Stream(error) => Self::of_stream(provider, error),
            HearError::TimedOut => Self::stalled(provider),
            HearError::Decode(_) | HearError::Cut => {
                Self::misbehaved(provider, "a message that cannot be decoded")
            }
        }
    }

    pub(super) fn of_stream(provider: &Provider, error: StreamError) -> Self {
        match error {
            StreamError::Reset(refusal) | StreamError::Stopped(refusal) => {
                Self::refused(provider, refusal, "")
            }
            other => Self::lost(provider, &other),
        }
    }

    pub(super) fn lost(provider: &Provider, reason: &dyn ToString) -> Self {
        Self::Lost {
            peer: provider.name.clone(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn stalled(provider: &Provider) -> Self {
        Self::Stalled {
            peer: provider.name.clone(),
        }
    }

    pub(super) fn misbehaved(provider: &Provider, what: &'static str) -> Self {
        Self::Misbehaved {
            peer: provider.name.clone(),
            node: provider.node,
            what,
        }
    }
}
