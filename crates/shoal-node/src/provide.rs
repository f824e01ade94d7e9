//! Serving one file of a share to one node: the provider's half of a transfer.
//!
//! A file is served only as it was announced and only to whom it may be: to the other end of a
//! control link, or to a node with a grant of this node's server. Before every chunk and after the
//! last one the open file is compared with what was announced; when it changed it is withdrawn
//! and the stream is reset, so that no receiver takes bytes of two versions for one file.
//!
//! A file whose hash is not known is hashed while it is sent.

mod compress;
mod pack;
mod send;
mod tree;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoal_link::{RecvStream, SayError, SendStream, Stream, StreamError};
use shoal_store::folder::OpenError;
use shoal_store::hashing::HashList;
use shoal_wire::grant::{GrantError, GrantParties};
use shoal_wire::limits::HASH_PAGE_MAX;
use shoal_wire::message::{Bounded, FileRequest, FileResponse, Outcome};
use shoal_wire::{
    ChunkLayout, ChunkRanges, Communication, Hash, NodeId, NodeName, Refusal, Scope, SignedGrant,
};
use tokio::sync::mpsc;

use self::send::Sent;
use crate::share::{Share, SharedFile};
use crate::tasks::Tasks;
use crate::transfers::{Direction, State, Transfer, Transfers};

/// How long a receiver may be silent. A dead one is noticed by the link long before; this bounds
/// how long a stream can be held for nothing.
const SILENCE_DEADLINE: Duration = Duration::from_secs(600);
/// Requests for chunks that may wait on one stream: a receiver asks again when it needs more.
const WAITING_REQUESTS: usize = 4;

/// Who asks for a file.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Its id.
    pub node: NodeId,
    /// The name to show for it.
    pub name: NodeName,
    /// What entitles it.
    pub permission: Permission,
}

/// What entitles a node to a file.
#[derive(Debug, Clone, Copy)]
pub enum Permission {
    /// The link itself: server and peer of each other.
    Link,
    /// A grant, if it holds.
    Grant {
        /// The server whose word counts here.
        server: NodeId,
    },
}

/// Whether a request is about files: one that [`Provide::answer`] answers.
pub fn is_about_files(request: &Communication) -> bool {
    matches!(
        request,
        Communication::FileRequest(_)
            | Communication::ManifestRequest(_)
            | Communication::PackGet(_)
    )
}

/// The grant that a request about files shows.
pub fn grant_in(request: &Communication) -> Option<&SignedGrant> {
    match request {
        Communication::FileRequest(request) => request.grant.as_ref(),
        Communication::ManifestRequest(request) => request.grant.as_ref(),
        Communication::PackGet(request) => request.grant.as_ref(),
        _ => None,
    }
}

/// Serves a share's files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Provide {
    share: Share,
    transfers: Transfers,
    node: NodeId,
    tasks: Tasks,
}

/// Why a request ends early.
#[derive(Debug)]
enum Stop {
    /// This side refuses.
    Refuse(Refusal, String),
    /// The stream is gone.
    Gone,
}

impl From<StreamError> for Stop {
    fn from(_: StreamError) -> Self {
        Self::Gone
    }
}

impl From<SayError> for Stop {
    fn from(error: SayError) -> Self {
        match error {
            SayError::Stream(_) => Self::Gone,
            SayError::Encode(error) => refuse(Refusal::Internal, error),
        }
    }
}

fn refuse(refusal: Refusal, detail: impl ToString) -> Stop {
    Stop::Refuse(refusal, detail.to_string())
}

/// A file that is being served.
struct Serving {
    to: NodeId,
    shared: SharedFile,
    file: Arc<File>,
    layout: ChunkLayout,
    hashes: Option<HashList>,
    accepts_zstd: bool,
}

impl Provide {
    /// Serves `share` as `node`.
    pub fn new(share: Share, transfers: Transfers, node: NodeId, tasks: Tasks) -> Self {
        Self {
            share,
            transfers,
            node,
            tasks,
        }
    }

    /// Answers whatever asks for files, on its stream, to the end: a [`FileRequest`], a
    /// manifest, or packs. Anything else is `Unexpected`.
    pub async fn answer(&self, first: Communication, asker: Asker, mut stream: Stream) {
        match first {
            Communication::FileRequest(request) => self.serve(request, asker, stream).await,
            Communication::ManifestRequest(request) => {
                self.serve_manifest(request, asker, stream).await;
            }
            Communication::PackGet(first) => self.serve_packs(first, asker, stream).await,
            _ => {
                let report = Communication::refused(Refusal::Unexpected, "not about files");
                // The asker may be gone.
                let _gone = stream.send.say(&report).await;
                stream.send.finish();
            }
        }
    }

    /// Answers one [`FileRequest`] on its stream, to the end of the transfer.
    async fn serve(&self, request: FileRequest, asker: Asker, mut stream: Stream) {
        let serving = match self.admit(&request, &asker).await {
            Ok(serving) => serving,
            Err(Stop::Refuse(refusal, detail)) => {
                tracing::debug!(path = %request.path, peer = %asker.name, %refusal, "refused");
                let report = Communication::refused(refusal, &detail);
                let _gone = stream.send.say(&report).await;
                stream.send.finish();
                return;
            }
            Err(Stop::Gone) => return,
        };
        let transfer =
            self.transfers
                .begin(Direction::Sending, request.path.clone(), asker.name.clone());
        transfer.sized(serving.layout.size().bytes());
        let Stream { mut send, mut recv } = stream;
        let ended = tokio::select! {
            ended = self.converse(&serving, &transfer, &mut send, &mut recv) => ended,
            () = transfer.cancelled() => Err(refuse(Refusal::Cancelled, "")),
            () = self.tasks.cancelled() => Err(refuse(Refusal::ShuttingDown, "")),
        };
        match ended {
            Ok(Some(root)) => transfer.ended(State::Done(Outcome::Fetched(root))),
            Ok(None) => {
                send.finish();
                transfer.ended(State::Failed(Refusal::Cancelled));
            }
            Err(Stop::Refuse(refusal, detail)) => {
                tracing::info!(path = %request.path, peer = %asker.name, %refusal, %detail, "transfer stopped");
                send.reset(refusal);
                recv.stop(refusal);
                transfer.ended(State::Failed(refusal));
            }
            Err(Stop::Gone) => transfer.ended(State::Failed(Refusal::Unreachable)),
        }
    }

    /// Checks permission and file.
    async fn admit(&self, request: &FileRequest, asker: &Asker) -> Result<Serving, Stop> {
        let path = &request.path;
        let shared = self.share.file(path);
        let announced = shared.as_ref().and_then(|shared| shared.entry.hash);
        self.entitle(request, asker, announced.as_ref())?;
        let shared = shared.ok_or_else(|| refuse(Refusal::NotFound, path))?;
        if let (Some(wanted), Some(is)) = (request.hash, announced)
            && wanted != is
        {
            return Err(refuse(Refusal::SourceChanged, path));
        }
        let file = self.open(&shared).await?;
        let hashes = match announced {
            Some(_) => self.share.hash_list(&shared.stat).await,
            None => None,
        };
        let layout = ChunkLayout::of(shared.entry.size);
        Ok(Serving {
            to: asker.node,
            shared,
            file: Arc::new(file),
            layout,
            hashes: hashes.filter(|hashes| hashes.layout() == layout),
            accepts_zstd: request.accepts_zstd,
        })
    }

    fn entitle(
        &self,
        request: &FileRequest,
        asker: &Asker,
        hash: Option<&Hash>,
    ) -> Result<(), Stop> {
        let scope = self.scope_of(request.grant.as_ref(), asker)?;
        if scope.covers(&request.path, hash) {
            return Ok(());
        }
        Err(refuse(Refusal::NotGranted, GrantError::OutOfScope))
    }

    /// What of the share is open to whoever asks.
    fn scope_of(&self, grant: Option<&SignedGrant>, asker: &Asker) -> Result<Scope, Stop> {
        let Permission::Grant { server } = asker.permission else {
            return Ok(Scope::Share);
        };
        let grant = grant.ok_or_else(|| refuse(Refusal::NotGranted, "no grant was shown"))?;
        let parties = GrantParties {
            server,
            provider: self.node,
            holder: asker.node,
        };
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = since_epoch.map_or(0, |time| time.as_millis() as u64);
        match grant.scope_for(&parties, now_ms) {
            Ok(scope) => Ok(scope.clone()),
            Err(error @ GrantError::Expired) => Err(refuse(Refusal::GrantExpired, error)),
            Err(error) => Err(refuse(Refusal::NotGranted, error)),
        }
    }

    async fn open(&self, shared: &SharedFile) -> Result<File, Stop> {
        let (folder, path) = (self.share.folder().clone(), shared.entry.path.clone());
        let opened = self.tasks.blocking(move || folder.open_file(&path)).await;
        match opened {
            Ok((file, stat)) if stat == shared.stat => Ok(file),
            Ok(_) | Err(OpenError::NotFound | OpenError::NotRegular | OpenError::Symlink) => {
                Err(self.withdrawn(shared))
            }
            Err(error) => Err(refuse(Refusal::SourceUnreadable, error)),
        }
    }

    fn withdrawn(&self, shared: &SharedFile) -> Stop {
        self.share.withdraw(&shared.entry.path, &shared.stat);
        refuse(Refusal::SourceChanged, &shared.entry.path)
    }

    /// Describes the file, then sends what is asked for while hearing what has arrived. `None`
    /// when the receiver leaves without saying that it has the whole file.
    async fn converse(
        &self,
        serving: &Serving,
        transfer: &Transfer,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<Option<Hash>, Stop> {
        describe(serving, send).await?;
        let (asked, mut to_send) = mpsc::channel(WAITING_REQUESTS);
        let hearing = hear(serving, transfer, recv, asked);
        let sending = async {
            let mut sent = Sent::new(serving);
            while let Some(ranges) = to_send.recv().await {
                self.send_chunks(serving, &ranges, &mut sent, (send, transfer))
                    .await?;
            }
            Ok(())
        };
        let (root, ()) = tokio::try_join!(hearing, sending)?;
        if root.is_some() {
            send.finish();
        }
        Ok(root)
    }
}

/// Says what the file is: its entry, and the hash list where there is one.
async fn describe(serving: &Serving, send: &mut SendStream) -> Result<(), Stop> {
    let mut entry = serving.shared.entry.clone();
    entry.hash = serving.hashes.as_ref().map(HashList::root);
    send.say(&Communication::FileResponse(FileResponse { entry }))
        .await?;
    if let Some(hashes) = &serving.hashes
        && serving.layout.chunk_count() > 1
    {
        for page in hashes.as_slice().chunks(HASH_PAGE_MAX) {
            let page = Bounded::truncated(page.to_vec());
            send.say(&Communication::HashListPage(page)).await?;
        }
    }
    Ok(())
}

/// Hears what the receiver wants and has, until it has the file or leaves.
async fn hear(
    serving: &Serving,
    transfer: &Transfer,
    recv: &mut RecvStream,
    asked: mpsc::Sender<ChunkRanges>,
) -> Result<Option<Hash>, Stop> {
    let mut asked_bytes = 0;
    loop {
        let message = match recv.hear(SILENCE_DEADLINE).await {
            Ok(message) => message,
            Err(shoal_link::HearError::Stream(_)) => return Err(Stop::Gone),
            Err(error) => return Err(refuse(error.refusal(), error)),
        };
        match message {
            Some(Communication::FileGet(ranges)) => {
                asked_bytes += ranges
                    .indexes(&serving.layout)
                    .ok_or_else(|| refuse(Refusal::Unexpected, "a chunk outside the file"))?
                    .map(|index| serving.layout.len_bytes(index))
                    .sum::<u64>();
                if asked.send(ranges).await.is_err() {
                    return Err(Stop::Gone);
                }
            }
            Some(Communication::FileChunkAck { durable_chunks }) => {
                let acknowledged = u64::from(durable_chunks) * serving.layout.chunk_len_bytes();
                transfer.durable(acknowledged.min(asked_bytes));
            }
            Some(Communication::FileTransferComplete { root: Some(root) }) => {
                return Ok(Some(root));
            }
            Some(_) => return Err(refuse(Refusal::Unexpected, "not part of a transfer")),
            None => return Ok(None),
        }
    }
}
