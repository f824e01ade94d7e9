//! From the stream to pieces of chunks: heads are checked against what was asked for, bytes read
//! into buffers of the process's budget.

use shoal_link::RecvStream;
use shoal_store::hashing::HashList;
use shoal_wire::message::{Encoding, FileChunk};
use shoal_wire::{ChunkIndex, ChunkLayout, Communication, Hash};

use super::disk::Piece;
use super::error::FetchError;
use super::receive::{Attempt, STALL_DEADLINE};
use crate::budget::{BLOCK_BYTES, Buffer, Room};

/// Longest stretch of a chunk that is held in memory, in bytes. Chunks of files up to 16 GiB are
/// no longer, and so are verified before they are written.
const PIECE_MAX_BYTES: u64 = BLOCK_BYTES as u64;
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
        if chunks.current.is_none() {
            let Some(index) = chunks.rest.next() else {
                return Ok(None);
            };
            let head = self.hear_head(recv, (index, chunks.layout), list).await?;
            chunks.current = Some(Current {
                index,
                hash: head.hash,
                at: 0,
            });
            if let Encoding::Zstd { len_bytes } = head.encoding {
                return self
                    .read_compressed(recv, chunks, len_bytes)
                    .await
                    .map(Some);
            }
        }
        let Some((current, len_bytes)) = chunks.take_piece() else {
            return Ok(None);
        };
        let bytes = tokio::select! {
            read = self.read(recv, len_bytes, chunks.room) => read?,
            () = self.job.transfer.cancelled() => return Err(FetchError::Cancelled),
        };
        let is_last = current.at + len_bytes == chunks.layout.len_bytes(current.index);
        Ok(Some(Piece {
            index: current.index,
            offset_in_chunk: current.at,
            bytes,
            expected: is_last.then_some(current.hash),
        }))
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
        chunks: &mut Chunks<'_>,
        frame_bytes: u32,
    ) -> Result<Piece, FetchError> {
        let Some(Current { index, hash, .. }) = chunks.current.take() else {
            return Err(FetchError::misbehaved(self.provider, "no chunk"));
        };
        let frame = tokio::select! {
            read = self.read(recv, u64::from(frame_bytes), chunks.room) => read?,
            () = self.job.transfer.cancelled() => return Err(FetchError::Cancelled),
        };
        let len_bytes = usize::try_from(chunks.layout.len_bytes(index)).unwrap_or(usize::MAX);
        let mut content = chunks.room.lend(len_bytes);
        let decompress = move || {
            let written = zstd::bulk::decompress_to_buffer(&frame, &mut content[..]);
            (written.ok() == Some(len_bytes)).then_some(content)
        };
        let content = self.tasks.blocking(decompress).await;
        Ok(Piece {
            index,
            offset_in_chunk: 0,
            bytes: content.ok_or_else(|| {
                FetchError::misbehaved(self.provider, "a chunk that cannot be decompressed")
            })?,
            expected: Some(hash),
        })
    }

    /// The room that receiving takes: one piece is stored while the next is read.
    pub(super) fn room_bytes(&self, layout: &ChunkLayout) -> usize {
        let chunk_bytes = layout.size().bytes().min(layout.chunk_len_bytes());
        let bytes = if self.accepts_compressed(layout) {
            3 * chunk_bytes
        } else {
            2 * chunk_bytes.min(PIECE_MAX_BYTES)
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    async fn read(
        &self,
        recv: &mut RecvStream,
        len_bytes: u64,
        room: &Room,
    ) -> Result<Buffer, FetchError> {
        let wanted = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let mut buffer = room.lend(wanted);
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
        Ok(buffer)
    }
}

/// Where in the chunks asked for the stream is.
pub(super) struct Chunks<'a> {
    layout: ChunkLayout,
    rest: Box<dyn Iterator<Item = ChunkIndex> + Send>,
    current: Option<Current>,
    room: &'a Room,
}

#[derive(Clone, Copy)]
struct Current {
    index: ChunkIndex,
    hash: Hash,
    at: u64,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(
        layout: ChunkLayout,
        rest: impl Iterator<Item = ChunkIndex> + Send + 'static,
        room: &'a Room,
    ) -> Self {
        Self {
            layout,
            rest: Box::new(rest),
            current: None,
            room,
        }
    }

    /// The next stretch of the current chunk: where it is, and its length in bytes.
    fn take_piece(&mut self) -> Option<(Current, u64)> {
        let current = self.current?;
        let chunk_bytes = self.layout.len_bytes(current.index);
        let len_bytes = PIECE_MAX_BYTES.min(chunk_bytes - current.at);
        if current.at + len_bytes == chunk_bytes {
            self.current = None;
        } else {
            self.current = Some(Current {
                at: current.at + len_bytes,
                ..current
            });
        }
        Some((current, len_bytes))
    }
}
