//! Serving one file of a share to one node: the provider's half of a transfer.
//!
//! A file is served only as it was announced and only to whom it may be: to the other end of a
//! control link, or to a node with a grant of this node's server. Before every chunk and after the
//! last one the open file is compared with what was announced; when it changed it is withdrawn
//! and the stream is reset, so that no receiver takes bytes of two versions for one file.
//!
//! A file whose hash is not known is hashed while it is sent.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use shoal_link::{RecvStream, SayError, SendStream, Stream, StreamError};
use shoal_store::folder::{FileStat, OpenError, stat_of};
use shoal_store::hashing::{ChunkHasher, HashList};
use shoal_wire::grant::{GrantError, GrantParties};
use shoal_wire::limits::HASH_PAGE_MAX;
use shoal_wire::message::{Bounded, FileChunk, FileRequest, FileResponse, Outcome};
use shoal_wire::{
    ChunkIndex, ChunkLayout, ChunkRanges, Communication, Hash, NodeId, NodeName, Refusal,
};
use tokio::sync::mpsc;

use crate::share::{Share, SharedFile};
use crate::tasks::Tasks;
use crate::transfers::{Direction, State, Transfer, Transfers};

/// How much is read from disk and handed to the network at a time, in bytes: one chunk of the
/// smallest kind.
const BLOCK_BYTES: u64 = 1 << 20;
/// How long a receiver may be silent. A dead one is noticed by the link long before; this bounds
/// how long a stream can be held for nothing.
const SILENCE_DEADLINE: Duration = Duration::from_secs(600);
/// Requests for chunks that may wait on one stream: a receiver asks again when it needs more.
const WAITING_REQUESTS: usize = 4;

/// Who asks for a file.
#[derive(Debug, Clone)]
pub struct Asker {
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
        /// The node at the other end of the link.
        holder: NodeId,
    },
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
    shared: SharedFile,
    file: Arc<File>,
    layout: ChunkLayout,
    hashes: Option<HashList>,
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

    /// Answers one [`FileRequest`] on its stream, to the end of the transfer.
    pub async fn serve(&self, request: FileRequest, asker: Asker, mut stream: Stream) {
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
            shared,
            file: Arc::new(file),
            layout,
            hashes: hashes.filter(|hashes| hashes.layout() == layout),
        })
    }

    fn entitle(
        &self,
        request: &FileRequest,
        asker: &Asker,
        hash: Option<&Hash>,
    ) -> Result<(), Stop> {
        let Permission::Grant { server, holder } = asker.permission else {
            return Ok(());
        };
        let grant = request
            .grant
            .as_ref()
            .ok_or_else(|| refuse(Refusal::NotGranted, "no grant was shown"))?;
        let parties = GrantParties {
            server,
            provider: self.node,
            holder,
        };
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = since_epoch.map_or(0, |time| time.as_millis() as u64);
        grant
            .check(&parties, &request.path, hash, now_ms)
            .map_err(|error| match error {
                GrantError::Expired => refuse(Refusal::GrantExpired, error),
                _ => refuse(Refusal::NotGranted, error),
            })
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
            let mut sent = SentHashes::new(serving);
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

    async fn send_chunks(
        &self,
        serving: &Serving,
        ranges: &ChunkRanges,
        sent: &mut SentHashes,
        (send, transfer): (&mut SendStream, &Transfer),
    ) -> Result<(), Stop> {
        let indexes = ranges
            .indexes(&serving.layout)
            .ok_or_else(|| refuse(Refusal::Malformed, "a chunk outside the file was asked for"))?;
        let mut indexes = indexes.peekable();
        let mut next = match indexes.peek() {
            Some(first) => self.prepare(serving, *first).await?,
            None => return Ok(()),
        };
        while let Some(index) = indexes.next() {
            let prepared = next;
            sent.note(index, prepared.hash);
            let following = indexes.peek().copied();
            let sending = self.send_chunk(serving, index, prepared, send);
            let preparing = async {
                match following {
                    Some(following) => self.prepare(serving, following).await,
                    None => Ok(Prepared::default()),
                }
            };
            ((), next) = tokio::try_join!(sending, preparing)?;
            transfer.verified(serving.layout.len_bytes(index));
        }
        self.confirm_unchanged(serving).await?;
        let root = self.root_of_sent(serving, sent).await;
        send.say(&Communication::FileTransferComplete { root })
            .await?;
        Ok(())
    }

    /// Reads the first block of a chunk, and hashes the chunk where its hash is not known.
    async fn prepare(&self, serving: &Serving, index: ChunkIndex) -> Result<Prepared, Stop> {
        let (file, layout) = (Arc::clone(&serving.file), serving.layout);
        let known = serving.hashes.as_ref().map(|hashes| hashes.chunk(index));
        let stat = serving.shared.stat;
        let prepared = self
            .tasks
            .blocking(move || {
                let range = layout.range(index);
                let first_end = range.end.min(range.start + BLOCK_BYTES);
                let block = read_block(&file, range.start, first_end)?;
                let hash = match known {
                    Some(hash) => hash,
                    None => hash_chunk(&file, &layout, index, &block)?,
                };
                // Compared after reading: what was read is of the announced version.
                if !is_unchanged(&file, &stat) {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                Ok(Prepared { block, hash })
            })
            .await;
        prepared.map_err(|error| self.unreadable(serving, &error))
    }

    async fn send_chunk(
        &self,
        serving: &Serving,
        index: ChunkIndex,
        prepared: Prepared,
        send: &mut SendStream,
    ) -> Result<(), Stop> {
        let range = serving.layout.range(index);
        let head = FileChunk {
            index: index.get(),
            len_bytes: range.end - range.start,
            hash: prepared.hash,
        };
        send.say(&Communication::FileChunk(head)).await?;
        let mut at = range.start + prepared.block.len() as u64;
        send.write_chunk(prepared.block).await?;
        while at < range.end {
            let (file, end) = (Arc::clone(&serving.file), range.end.min(at + BLOCK_BYTES));
            let stat = serving.shared.stat;
            let read = move || {
                let block = read_block(&file, at, end)?;
                if is_unchanged(&file, &stat) {
                    Ok(block)
                } else {
                    Err(std::io::ErrorKind::UnexpectedEof.into())
                }
            };
            let block = self.tasks.blocking(read).await;
            let block = block.map_err(|error| self.unreadable(serving, &error))?;
            at = end;
            send.write_chunk(block).await?;
        }
        Ok(())
    }

    /// A file that is shorter than announced changed; anything else is the disk's refusal.
    fn unreadable(&self, serving: &Serving, error: &std::io::Error) -> Stop {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            self.withdrawn(&serving.shared)
        } else {
            tracing::warn!(path = %serving.shared.entry.path, %error, "cannot be read");
            refuse(Refusal::SourceUnreadable, error)
        }
    }

    /// The same file must still lie at its path: another one may have been renamed over it.
    async fn confirm_unchanged(&self, serving: &Serving) -> Result<(), Stop> {
        let folder = self.share.folder().clone();
        let (path, stat) = (serving.shared.entry.path.clone(), serving.shared.stat);
        let unchanged = self
            .tasks
            .blocking(move || folder.stat(&path).is_ok_and(|now| now == stat))
            .await;
        if unchanged {
            Ok(())
        } else {
            Err(self.withdrawn(&serving.shared))
        }
    }

    /// The root, where it is known or follows from the chunks that were hashed while sending.
    async fn root_of_sent(&self, serving: &Serving, sent: &SentHashes) -> Option<Hash> {
        if let Some(hashes) = &serving.hashes {
            return Some(hashes.root());
        }
        let hashes = sent.complete(serving.layout)?;
        let SharedFile { entry, stat } = &serving.shared;
        self.share.learned(&entry.path, stat, &hashes).await;
        Some(hashes.root())
    }
}

/// What is ready before a chunk's head goes out.
#[derive(Debug)]
struct Prepared {
    block: Bytes,
    hash: Hash,
}

impl Default for Prepared {
    fn default() -> Self {
        Self {
            block: Bytes::new(),
            hash: Hash::new([0; 32]),
        }
    }
}

/// The hashes of what was sent of a file whose hash is not known.
struct SentHashes(Vec<Option<Hash>>);

impl SentHashes {
    fn new(serving: &Serving) -> Self {
        let count = match serving.hashes {
            Some(_) => 0,
            None => serving.layout.chunk_count() as usize,
        };
        Self(vec![None; count])
    }

    fn note(&mut self, index: ChunkIndex, hash: Hash) {
        if let Some(slot) = self.0.get_mut(index.get() as usize) {
            *slot = Some(hash);
        }
    }

    fn complete(&self, layout: ChunkLayout) -> Option<HashList> {
        let hashes: Option<Vec<Hash>> = self.0.iter().copied().collect();
        HashList::of_hashes(layout, hashes?)
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
    let (mut before, mut current) = (0, 0);
    loop {
        let message = match recv.hear(SILENCE_DEADLINE).await {
            Ok(message) => message,
            Err(shoal_link::HearError::Stream(_)) => return Err(Stop::Gone),
            Err(error) => return Err(refuse(error.refusal(), error)),
        };
        match message {
            Some(Communication::FileGet(ranges)) => {
                let bytes_asked: u64 = ranges
                    .indexes(&serving.layout)
                    .ok_or_else(|| refuse(Refusal::Malformed, "a chunk outside the file"))?
                    .map(|index| serving.layout.len_bytes(index))
                    .sum();
                before += current;
                current = bytes_asked;
                if asked.send(ranges).await.is_err() {
                    return Err(Stop::Gone);
                }
            }
            Some(Communication::FileChunkAck { durable_chunks }) => {
                let acknowledged = u64::from(durable_chunks) * serving.layout.chunk_len_bytes();
                transfer.durable(before + acknowledged.min(current));
            }
            Some(Communication::FileTransferComplete { root: Some(root) }) => {
                return Ok(Some(root));
            }
            Some(_) => return Err(refuse(Refusal::Unexpected, "not part of a transfer")),
            None => return Ok(None),
        }
    }
}

fn is_unchanged(file: &File, announced: &FileStat) -> bool {
    stat_of(file).is_ok_and(|now| now == *announced)
}

fn read_block(file: &File, start: u64, end: u64) -> std::io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
    file.read_exact_at(&mut block, start)?;
    Ok(block.into())
}

/// The hash of a chunk whose `first` block is read already.
fn hash_chunk(
    file: &File,
    layout: &ChunkLayout,
    index: ChunkIndex,
    first: &[u8],
) -> std::io::Result<Hash> {
    let range = layout.range(index);
    let mut hasher = ChunkHasher::new(layout, index);
    hasher.update(first);
    let mut at = range.start + first.len() as u64;
    while at < range.end {
        let end = range.end.min(at + BLOCK_BYTES);
        hasher.update(&read_block(file, at, end)?);
        at = end;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_needs_the_hash_of_every_chunk() {
        let size = shoal_wire::FileSize::new(3 << 20).unwrap();
        let layout = ChunkLayout::of(size);
        let mut sent = SentHashes(vec![None; 3]);
        for index in layout.indexes() {
            assert!(sent.complete(layout).is_none());
            sent.note(index, Hash::new([index.get() as u8; 32]));
        }
        assert!(sent.complete(layout).is_some());
    }
}
