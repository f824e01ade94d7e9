//! From the stream to pieces of chunks: heads are checked against what was asked for, bytes read
//! into buffers of the process's budget.
//!
//! A chunk is held in memory a piece at a time. Chunks of files up to 16 GiB are one piece, and so
//! are verified before they are written.

use bytes::Bytes;
use shoal_link::RecvStream;
use shoal_store::hashing::{HashList, PIECE_BYTES};
use shoal_wire::message::{Encoding, FileChunk};
use shoal_wire::{ChunkIndex, ChunkLayout, Communication, Hash};

use super::disk::Piece;
use super::error::FetchError;
use super::receive::{Attempt, STALL_DEADLINE};
use crate::budget::{Buffer, Pool};

/// Longest chunk that may come compressed, in bytes: it is held whole, beside its frame and the
/// chunk before it. Chunks of files up to 64 GiB are no longer.
const COMPRESSED_MAX_BYTES: u64 = 4 << 20;

impl Attempt<'_> {
    /// The next piece in the order asked for; `None` after the last.
    pub(super) async fn hear_piece(
        &self,
        recv: &mut RecvStream,
        chunks: &mut Chunks<'_>,
        list: Option<&HashList>,
    ) -> Result<Option<Piece>, FetchError> {
        let mut current = match chunks.current.take() {
            Some(current) => current,
            None => {
                let Some(index) = chunks.rest.next() else {
                    return Ok(None);
                };
                let head = self.hear_head(recv, (index, chunks.layout), list).await?;
                let content = match head.encoding {
                    Encoding::Raw => None,
                    Encoding::Zstd { len_bytes } => {
                        let lens = (chunks.layout.len_bytes(index), u64::from(len_bytes));
                        Some(self.read_compressed(recv, chunks.pool, lens).await?)
                    }
                };
                Current {
                    index,
                    hash: head.hash,
                    at: 0,
                    content,
                }
            }
        };
        let chunk_bytes = chunks.layout.len_bytes(current.index);
        let len_bytes = PIECE_BYTES.min(chunk_bytes - current.at);
        let bytes = match &mut current.content {
            Some(content) => content.split_to(usize::try_from(len_bytes).unwrap_or(usize::MAX)),
            None => tokio::select! {
                read = self.read(recv, len_bytes, chunks.pool) => Bytes::from_owner(read?),
                () = self.job.transfer.cancelled() => return Err(FetchError::Cancelled),
            },
        };
        let piece = Piece {
            index: current.index,
            expected: current.hash,
            offset_in_chunk: current.at,
            bytes,
        };
        current.at += len_bytes;
        chunks.current = (current.at < chunk_bytes).then_some(current);
        Ok(Some(piece))
    }

    async fn hear_head(
        &self,
        recv: &mut RecvStream,
        (index, layout): (ChunkIndex, ChunkLayout),
        list: Option<&HashList>,
    ) -> Result<FileChunk, FetchError> {
        let Communication::FileChunk(head) = self.hear(recv).await? else {
            return Err(FetchError::misbehaved(self.provider, "no chunk"));
        };
        let is_asked = head.index == index.get() && head.len_bytes == layout.len_bytes(index);
        let is_accepted = match head.encoding {
            Encoding::Raw => true,
            Encoding::Zstd { len_bytes } => {
                self.accepts_compressed(&layout) && u64::from(len_bytes) < head.len_bytes
            }
        };
        if !is_asked {
            return Err(FetchError::misbehaved(
                self.provider,
                "another chunk than was asked for",
            ));
        }
        if !is_accepted {
            return Err(FetchError::misbehaved(
                self.provider,
                "a compressed chunk that was not accepted",
            ));
        }
        if list.is_some_and(|list| list.chunk(index) != head.hash) {
            return Err(self.bad_chunk(index));
        }
        Ok(head)
    }

    /// Whether chunks of this length may come compressed.
    pub(super) fn accepts_compressed(&self, layout: &ChunkLayout) -> bool {
        self.job.policy.accepts_compressed && layout.chunk_len_bytes() <= COMPRESSED_MAX_BYTES
    }

    /// Reads a chunk's frame and decompresses it, into exactly the chunk's length.
    async fn read_compressed(
        &self,
        recv: &mut RecvStream,
        pool: &Pool,
        (content_bytes, frame_bytes): (u64, u64),
    ) -> Result<Bytes, FetchError> {
        let len_bytes = usize::try_from(content_bytes).unwrap_or(usize::MAX);
        let frame_bytes = usize::try_from(frame_bytes).unwrap_or(usize::MAX);
        let reading = async {
            let [mut frame, content] = pool.lend_all([frame_bytes, len_bytes]).await;
            self.fill(recv, &mut frame).await?;
            Ok::<_, FetchError>((frame, content))
        };
        let (frame, mut content) = tokio::select! {
            read = reading => read?,
            () = self.job.transfer.cancelled() => return Err(FetchError::Cancelled),
        };
        let decompress = move || {
            let written = zstd::bulk::decompress_to_buffer(&frame, &mut content[..]);
            (written.ok() == Some(len_bytes)).then_some(content)
        };
        let content = self.tasks.blocking(decompress).await;
        content.map(Bytes::from_owner).ok_or_else(|| {
            FetchError::misbehaved(self.provider, "a chunk that cannot be decompressed")
        })
    }

    async fn read(
        &self,
        recv: &mut RecvStream,
        len_bytes: u64,
        pool: &Pool,
    ) -> Result<Buffer, FetchError> {
        let len_bytes = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let mut buffer = pool.lend(len_bytes).await;
        self.fill(recv, &mut buffer).await?;
        Ok(buffer)
    }

    async fn fill(&self, recv: &mut RecvStream, buffer: &mut Buffer) -> Result<(), FetchError> {
        let wanted = buffer.len();
        let (mut filled, mut allowed) = (0, 0);
        while filled < wanted {
            if allowed == 0 {
                let (transfer, from) = (&self.job.transfer, self.provider.node);
                allowed = transfer.take(from, wanted - filled).await;
            }
            let reading = recv.read_chunk(allowed);
            let read = tokio::time::timeout(STALL_DEADLINE, reading)
                .await
                .map_err(|_| FetchError::stalled(self.provider))?;
            match read.map_err(|error| FetchError::of_stream(self.provider, error))? {
                Some(bytes) => {
                    buffer[filled..filled + bytes.len()].copy_from_slice(&bytes);
                    filled += bytes.len();
                    allowed -= bytes.len();
                }
                None => return Err(FetchError::misbehaved(self.provider, "a chunk cut short")),
            }
        }
        Ok(())
    }
}

/// Where in the chunks asked for the stream is.
pub(super) struct Chunks<'a> {
    layout: ChunkLayout,
    rest: Box<dyn Iterator<Item = ChunkIndex> + Send>,
    current: Option<Current>,
    pool: &'a Pool,
}

/// A chunk whose head has been heard.
struct Current {
    index: ChunkIndex,
    hash: Hash,
    at: u64,
    /// The rest of its content, where that came compressed.
    content: Option<Bytes>,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(
        layout: ChunkLayout,
        rest: impl Iterator<Item = ChunkIndex> + Send + 'static,
        pool: &'a Pool,
    ) -> Self {
        Self {
            layout,
            rest: Box::new(rest),
            current: None,
            pool,
        }
    }
}
