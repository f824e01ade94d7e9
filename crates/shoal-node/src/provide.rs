//! Serving one file of a share to one node: the provider's half of a transfer.
//!
//! A file is served only as it was announced and only to whom it may be: to the other end of a
//! control link, or to a node with a grant of this node's server. Before every chunk and after the
//! last one the open file is compared with what was announced; when it changed it is withdrawn
//! and the stream is reset, so that no receiver takes bytes of two versions for one file. Where only
//! its attributes changed it is served on, and its content checked.
//!
//! A file whose hash is not known is hashed while it is sent. Further streams of the same link may
//! join a request and carry some of its chunks.

mod checking;
mod compress;
mod pack;
mod room;
mod send;
mod serving;
mod tree;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shoal_link::{HearError, RecvStream, SayError, SendStream, Stream, StreamError};
use shoal_store::folder::{FileStat, Folder, OpenError};
use shoal_store::hashing::HashList;
use shoal_wire::grant::{GrantError, GrantParties};
use shoal_wire::limits::HASH_PAGE_MAX;
use shoal_wire::message::{Bounded, FileRequest, FileResponse, Outcome};
use shoal_wire::{
    ChunkRanges, Communication, Hash, NodeId, NodeName, Refusal, SafePath, Scope, SignedGrant,
};
use tokio::sync::mpsc;

use self::compress::Probe;
use self::room::ROOMS;
use self::serving::{Requests, Serving};
use crate::share::{Share, SharedFile};
use crate::tasks::Tasks;
use crate::transfers::{Direction, State, Transfers};

/// How long a receiver may be silent. A dead one is noticed by the link long before; this bounds
/// how long a stream can be held for nothing.
const SILENCE_DEADLINE: Duration = Duration::from_secs(600);
/// How long what was sent may take to arrive in the end: a link's window at the lowest rate limit,
/// 1 kB/s, takes most of it.
const LETTING_GO_MAX: Duration = Duration::from_secs(3 * 3600);
/// How long a file waits to be opened while too many others are: well below the time that a
/// receiver waits for an answer.
const OPEN_DEADLINE: Duration = Duration::from_secs(20);
/// Wait before it is tried again.
const OPEN_PAUSE: Duration = Duration::from_millis(100);
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
            | Communication::FileJoin { .. }
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
    requests: Requests,
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

impl Provide {
    /// Serves `share` as `node`.
    pub fn new(share: Share, transfers: Transfers, node: NodeId, tasks: Tasks) -> Self {
        Self {
            share,
            transfers,
            node,
            tasks,
            requests: Requests::default(),
        }
    }

    /// Answers whatever asks for files, on its stream, to the end: a [`FileRequest`], a
    /// manifest, or packs. Anything else is `Unexpected`.
    pub async fn answer(&self, first: Communication, asker: Asker, mut stream: Stream) {
        match first {
            Communication::FileRequest(request) => self.serve(request, asker, stream).await,
            Communication::FileJoin { stream: request } => self.join(request, stream).await,
            Communication::ManifestRequest(request) => {
                self.serve_manifest(request, asker, stream).await;
            }
            Communication::PackGet(first) => self.serve_packs(first, asker, stream).await,
            _ => refuse_stream(&mut stream, Refusal::Unexpected, "not about files").await,
        }
    }

    /// Answers one [`FileRequest`] on its stream, to the end of the transfer.
    async fn serve(&self, request: FileRequest, asker: Asker, mut stream: Stream) {
        let serving = match self.admit(&request, &asker).await {
            Ok(serving) => serving,
            Err(Stop::Refuse(refusal, detail)) => {
                tracing::debug!(path = %request.path, peer = %asker.name, %refusal, "refused");
                refuse_stream(&mut stream, refusal, &detail).await;
                return;
            }
            Err(Stop::Gone) => return,
        };
        let request = self.requests.begin(stream.name(), serving);
        let (serving, transfer) = (request.serving(), &request.serving().transfer);
        transfer.travels(stream.link());
        let Stream { send, recv, .. } = &mut stream;
        let ended = tokio::select! {
            ended = self.describe_and_send(serving, send, recv) => ended,
            stop = stuck(serving.to) => Err(stop),
            () = transfer.cancelled() => Err(refuse(Refusal::Cancelled, "")),
            () = self.tasks.cancelled() => Err(refuse(Refusal::ShuttingDown, "")),
        };
        let state = match &ended {
            Ok(Some(root)) => State::Done(Outcome::Fetched(*root)),
            Ok(None) => State::Failed(Refusal::Cancelled),
            Err(Stop::Refuse(refusal, _)) => State::Failed(*refusal),
            Err(Stop::Gone) => State::Failed(Refusal::Unreachable),
        };
        transfer.ended(state);
        let is_finished = end_stream(&mut stream, ended, serving);
        // The file is closed, however long its receiver takes with its last word.
        drop(request);
        if is_finished {
            let_go(&mut stream.send, asker.node).await;
        }
    }

    /// Sends some of the chunks of a request of the same link on a stream of their own.
    async fn join(&self, request: u64, mut stream: Stream) {
        let Some(serving) = self.requests.find(stream.name().sibling(request)) else {
            refuse_stream(&mut stream, Refusal::Unexpected, "no such request").await;
            return;
        };
        let Stream { send, recv, .. } = &mut stream;
        let ended = tokio::select! {
            ended = self.send_asked(&serving, send, recv) => ended,
            stop = stuck(serving.to) => Err(stop),
            () = serving.ended() => Err(refuse(Refusal::Cancelled, "")),
            () = self.tasks.cancelled() => Err(refuse(Refusal::ShuttingDown, "")),
        };
        let (is_finished, to) = (end_stream(&mut stream, ended, &serving), serving.to);
        drop(serving);
        if is_finished {
            let_go(&mut stream.send, to).await;
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
        let (file, stat) = self.open(&shared).await?;
        let hashes = match announced {
            Some(root) => self
                .share
                .hash_list(&shared.stat)
                .await
                .filter(|hashes| hashes.root() == root),
            None => None,
        };
        let transfer = self
            .transfers
            .begin(Direction::Sending, path.clone(), asker.name.clone());
        transfer.sized(shared.entry.size.bytes());
        Ok(Serving::new(
            asker.node,
            (shared, file, stat),
            hashes,
            request.accepts_zstd,
            transfer,
        ))
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

    async fn open(&self, shared: &SharedFile) -> Result<(File, FileStat), Stop> {
        let opened = self.reach(shared, Folder::open_file);
        match opened.await? {
            (file, stat) if stat.version() == shared.stat.version() => Ok((file, stat)),
            _ => Err(self.withdrawn(shared)),
        }
    }

    /// Asks the folder for a shared file; waits a while for others to be closed where too many
    /// are open. A file that is not there is withdrawn.
    async fn reach<T: Send + 'static>(
        &self,
        shared: &SharedFile,
        ask: fn(&Folder, &SafePath) -> Result<T, OpenError>,
    ) -> Result<T, Stop> {
        let begun = Instant::now();
        loop {
            let path = shared.entry.path.clone();
            let folder = self.share.roots().folder_of(&path);
            match self.tasks.blocking(move || ask(&folder, &path)).await {
                Ok(reached) => return Ok(reached),
                Err(OpenError::NotFound | OpenError::NotRegular | OpenError::Symlink) => {
                    return Err(self.withdrawn(shared));
                }
                Err(OpenError::TooManyOpen) if begun.elapsed() < OPEN_DEADLINE => {
                    tokio::time::sleep(OPEN_PAUSE).await;
                }
                Err(error) => return Err(refuse(Refusal::SourceUnreadable, error)),
            }
        }
    }

    fn withdrawn(&self, shared: &SharedFile) -> Stop {
        self.share.withdraw(shared);
        refuse(Refusal::SourceChanged, &shared.entry.path)
    }

    /// Describes the file, then sends what is asked for while hearing what has arrived. The root,
    /// once the receiver says that it has the whole file.
    async fn describe_and_send(
        &self,
        serving: &Arc<Serving>,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<Option<Hash>, Stop> {
        describe(serving, send).await?;
        self.send_asked(serving, send, recv).await
    }

    /// Sends what is asked for on one stream, until the receiver has the file or leaves.
    async fn send_asked(
        &self,
        serving: &Arc<Serving>,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<Option<Hash>, Stop> {
        let (asked, mut to_send) = mpsc::channel(WAITING_REQUESTS);
        let hearing = hear(serving, recv, asked);
        let sending = async {
            let mut probe = Probe::new(serving.accepts_zstd, Instant::now());
            while let Some(ranges) = to_send.recv().await {
                self.send_chunks(serving, &ranges, &mut probe, send).await?;
            }
            Ok(())
        };
        let (root, ()) = tokio::try_join!(hearing, sending)?;
        Ok(root)
    }
}

async fn refuse_stream(stream: &mut Stream, refusal: Refusal, detail: &str) {
    let report = Communication::refused(refusal, detail);
    // The asker may be gone.
    let _gone = stream.send.say(&report).await;
    stream.send.finish();
}

/// Says on a stream how it ended; whether it is finished, and may be [let go](let_go).
fn end_stream(stream: &mut Stream, ended: Result<Option<Hash>, Stop>, serving: &Serving) -> bool {
    let is_finished = ended.is_ok();
    match ended {
        Ok(_) => stream.send.finish(),
        Err(Stop::Refuse(refusal, detail)) => {
            let (path, peer) = (&serving.shared.entry.path, serving.to.short());
            tracing::info!(%path, %peer, %refusal, %detail, "transfer stopped");
            stream.send.reset(refusal);
            stream.recv.stop(refusal);
        }
        Err(Stop::Gone) => {}
    }
    is_finished
}

/// Waits until nothing moves of what a node was sent and has not acknowledged.
async fn stuck(to: NodeId) -> Stop {
    ROOMS.stuck(to).await;
    refuse(Refusal::TimedOut, "the receiver takes nothing")
}

/// Ends a stream once all of it has arrived: until then it holds memory, and a receiver that never
/// says so must not keep that for as long as its link lives.
async fn let_go(send: &mut SendStream, to: NodeId) {
    send.finish();
    tokio::select! {
        _ = send.stopped() => return,
        _ = stuck(to) => {}
        () = tokio::time::sleep(LETTING_GO_MAX) => {}
    }
    send.reset(Refusal::TimedOut);
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
    recv: &mut RecvStream,
    asked: mpsc::Sender<ChunkRanges>,
) -> Result<Option<Hash>, Stop> {
    let mut handed_bytes = serving.transfer.handed_bytes();
    loop {
        let message = match recv.hear(SILENCE_DEADLINE).await {
            Ok(message) => message,
            // A receiver of large chunks over a slow path has nothing to say for long.
            Err(HearError::TimedOut) if serving.transfer.handed_bytes() != handed_bytes => {
                handed_bytes = serving.transfer.handed_bytes();
                continue;
            }
            Err(HearError::Stream(_)) => return Err(Stop::Gone),
            Err(error) => return Err(refuse(error.refusal(), error)),
        };
        match message {
            Some(Communication::FileGet(ranges)) => {
                if !serving.asked(&ranges) {
                    return Err(refuse(Refusal::Unexpected, "a chunk outside the file"));
                }
                if asked.send(ranges).await.is_err() {
                    return Err(Stop::Gone);
                }
            }
            Some(Communication::FileChunkAck { durable_chunks }) => {
                serving.acknowledged(durable_chunks);
            }
            Some(Communication::FileTransferComplete { root: Some(root) }) => {
                return Ok(Some(root));
            }
            Some(_) => return Err(refuse(Refusal::Unexpected, "not part of a transfer")),
            None => return Ok(None),
        }
    }
}
