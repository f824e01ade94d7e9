//! Sending chunks: read, compare, hash where that is needed, hand to the network.
//!
//! The next block is read while one is being sent. After each reading the open file is compared
//! with what was announced, so that what goes out is of that version.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal_link::SendStream;
use shoal_store::hashing::ChunkHasher;
use shoal_wire::message::{Encoding, FileChunk};
use shoal_wire::{ChunkIndex, ChunkLayout, ChunkRanges, Communication, Hash, NodeId, Refusal};

use super::compress::{self, Probe, Trial};
use super::room::{ROOMS, Room};
use super::{Provide, Serving, Stop, refuse};
use crate::budget::{BLOCK_BYTES, Buffer};
use crate::transfers::Transfer;

/// Longest chunk without a known hash that is held whole, in bytes, so that it is read once; a
/// longer one is read for its hash and again to be sent. Chunks of files up to 128 GiB fit.
const HELD_MAX_BYTES: u64 = 8 << 20;
/// Handed to the network at a time, in bytes.
const WRITE_BYTES: usize = 256 << 10;
/// Of that, what the network lets go of at a time, in bytes: by this it is seen that a receiver
/// takes something.
const STEP_BYTES: usize = 32 << 10;

/// How long the receiver may take for what is handed over at a time, before it counts as gone: one
/// that keeps to the lowest rate limit, 1 kB/s, takes most of it.
const WRITE_DEADLINE: Duration = Duration::from_secs(300);

impl Provide {
    /// Sends the chunks asked for, in their order, and then says that they are complete.
    pub(super) async fn send_chunks(
        &self,
        serving: &Arc<Serving>,
        ranges: &ChunkRanges,
        probe: &mut Probe,
        send: &mut SendStream,
    ) -> Result<(), Stop> {
        let transfer = &serving.transfer;
        let indexes = ranges.indexes(&serving.layout).ok_or_else(|| {
            refuse(
                Refusal::Unexpected,
                "a chunk outside the file was asked for",
            )
        })?;
        let mut ahead = Ahead {
            indexes,
            within: None,
        };
        let mut next = self.read_next(serving, &mut ahead, probe).await?;
        while let Some(parcel) = next {
            if let Some(head) = &parcel.head
                && let Some(index) = serving.layout.index(head.index)
            {
                serving.sent(index, head.hash);
            }
            let (content_bytes, wire_bytes) = (parcel.content_bytes, parcel.wire_bytes());
            let sending = send_parcel(parcel, serving.to, (&mut *send, transfer));
            let reading = self.read_next(serving, &mut ahead, probe);
            ((), next) = tokio::try_join!(sending, reading)?;
            probe.sent(wire_bytes, Instant::now());
            transfer.verified(content_bytes);
        }
        self.confirm_unchanged(serving).await?;
        let root = self.root_of_sent(serving).await;
        send.say(&Communication::FileTransferComplete { root })
            .await?;
        Ok(())
    }

    /// Reads what is to be sent next: the rest of a chunk, a block at a time, or the next chunk.
    async fn read_next(
        &self,
        serving: &Arc<Serving>,
        ahead: &mut Ahead<impl Iterator<Item = ChunkIndex>>,
        probe: &mut Probe,
    ) -> Result<Option<Parcel>, Stop> {
        let part = match ahead.within.take().or_else(|| {
            let index = ahead.indexes.next()?;
            let at = serving.layout.range(index).start;
            Some(Position { index, at })
        }) {
            Some(position) => Part::of(serving, position, probe),
            None => return Ok(None),
        };
        let read_to = part.read_to;
        let (position, end) = (part.position, part.chunk.end);
        let mut room = ROOMS.reserve(serving.to, part.room_bytes()).await;
        let reading = Arc::clone(serving);
        let read = self
            .tasks
            .blocking(move || {
                let parcel = part.read(&reading.file, &mut room)?;
                // Compared after reading: what was read is of the announced version.
                let stat = reading.look(&reading.file, position.index)?;
                Ok((parcel, stat))
            })
            .await;
        ahead.within = (read_to < end).then_some(Position {
            at: read_to,
            ..position
        });
        let (parcel, stat) = read.map_err(|error: io::Error| self.unreadable(serving, &error))?;
        if !self.is_trusted(serving, &stat)? {
            serving.doubted();
        }
        if let Some(trial) = parcel.trial {
            probe.tried(trial);
        }
        Ok(Some(parcel))
    }

    /// A file that is shorter than announced changed; anything else is the disk's refusal.
    fn unreadable(&self, serving: &Serving, error: &std::io::Error) -> Stop {
        if error.kind() == ErrorKind::UnexpectedEof {
            self.withdrawn(&serving.shared)
        } else {
            tracing::warn!(path = %serving.shared.entry.path, %error, "cannot be read");
            refuse(Refusal::SourceUnreadable, error)
        }
    }

    /// The root, where it is known or follows from the chunks that were hashed while sending.
    async fn root_of_sent(&self, serving: &Serving) -> Option<Hash> {
        if let Some(hashes) = &serving.hashes {
            return Some(hashes.root());
        }
        let hashes = serving.all_sent()?;
        let (path, stat) = (&serving.shared.entry.path, serving.trusted_stat());
        self.share.learned(path, &stat, &hashes).await;
        Some(hashes.root())
    }
}

/// What is asked for and not yet read.
struct Ahead<I> {
    indexes: I,
    /// In a chunk whose beginning is read.
    within: Option<Position>,
}

#[derive(Clone, Copy)]
struct Position {
    index: ChunkIndex,
    /// Where in the file.
    at: u64,
}

/// What is sent in one go: a chunk, or a block of one, in the order of the stream. It is also what
/// is read at once, so a transfer holds two at most.
struct Parcel {
    /// At the beginning of a chunk.
    head: Option<FileChunk>,
    blocks: Vec<Buffer>,
    content_bytes: u64,
    trial: Option<Trial>,
}

impl Parcel {
    fn wire_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.len() as u64).sum()
    }
}

impl Parcel {
    /// Puts a frame in the place of the content where that is enough shorter.
    fn compress(&mut self, room: &mut Room) {
        let len_bytes = usize::try_from(self.content_bytes).unwrap_or(0);
        let mut frame = room.take(len_bytes);
        let (written, trial) = compress::compress(&self.blocks, &mut frame);
        self.trial = Some(trial);
        let (Some(written), Some(head)) = (written, &mut self.head) else {
            return;
        };
        if let Ok(len_bytes) = u32::try_from(written) {
            head.encoding = Encoding::Zstd { len_bytes };
            frame.truncate(written);
            self.blocks = vec![frame];
        }
    }
}

/// What is about to be read.
struct Part {
    layout: ChunkLayout,
    position: Position,
    chunk: Range<u64>,
    read_to: u64,
    /// Of the chunk, where the part begins it.
    hash: HashOf,
    is_compressed: bool,
}

#[derive(Clone, Copy)]
enum HashOf {
    /// The head is sent already.
    Said,
    Known(Hash),
    /// The part is the whole chunk.
    Read,
    /// The rest of the chunk is read too, for the hash alone.
    ReadAhead,
}

impl Part {
    fn of(serving: &Serving, position: Position, probe: &mut Probe) -> Self {
        let layout = serving.layout;
        let chunk = layout.range(position.index);
        let known = serving.hashes.as_ref();
        let hash = match known.map(|hashes| hashes.chunk(position.index)) {
            _ if position.at > chunk.start => HashOf::Said,
            Some(hash) => HashOf::Known(hash),
            None if chunk.end - chunk.start <= HELD_MAX_BYTES => HashOf::Read,
            None => HashOf::ReadAhead,
        };
        let is_begun = matches!(hash, HashOf::Said);
        let is_compressed = !is_begun && probe.wants(chunk.end - chunk.start);
        let read_to = match hash {
            _ if is_compressed => chunk.end,
            HashOf::Read => chunk.end,
            _ => chunk.end.min(position.at + BLOCK_BYTES as u64),
        };
        Self {
            layout,
            position,
            chunk,
            read_to,
            hash,
            is_compressed,
        }
    }

    fn room_bytes(&self) -> usize {
        let held_bytes = usize::try_from(self.read_to - self.position.at).unwrap_or(usize::MAX);
        match self.hash {
            _ if self.is_compressed => 2 * held_bytes,
            HashOf::ReadAhead => held_bytes + BLOCK_BYTES,
            _ => held_bytes,
        }
    }

    fn read(&self, file: &File, room: &mut Room) -> io::Result<Parcel> {
        let Position { index, at } = self.position;
        let blocks = read_blocks(file, at..self.read_to, room)?;
        let hash = match self.hash {
            HashOf::Said => None,
            HashOf::Known(hash) => Some(hash),
            HashOf::Read | HashOf::ReadAhead => {
                Some(hash_chunk(file, (self.layout, index), &blocks, room)?)
            }
        };
        let mut parcel = Parcel {
            head: hash.map(|hash| FileChunk {
                index: index.get(),
                len_bytes: self.chunk.end - self.chunk.start,
                hash,
                encoding: Encoding::Raw,
            }),
            blocks,
            content_bytes: self.read_to - at,
            trial: None,
        };
        if self.is_compressed {
            parcel.compress(room);
        }
        Ok(parcel)
    }
}

async fn send_parcel(
    parcel: Parcel,
    to: NodeId,
    (send, transfer): (&mut SendStream, &Transfer),
) -> Result<(), Stop> {
    if let Some(head) = parcel.head {
        in_time(send.say(&Communication::FileChunk(head))).await??;
    }
    for block in parcel.blocks {
        hand_over(Bytes::from_owner(block), to, (send, transfer)).await?;
    }
    Ok(())
}

/// Hands content to the network as fast as the limits let it, in steps that show that the receiver
/// still takes it.
pub(super) async fn hand_over(
    mut content: Bytes,
    to: NodeId,
    (send, transfer): (&mut SendStream, &Transfer),
) -> Result<(), Stop> {
    while !content.is_empty() {
        let allowed = transfer.take(to, content.len().min(WRITE_BYTES)).await;
        let mut handed = content.split_to(allowed);
        let mut steps = Vec::with_capacity(allowed.div_ceil(STEP_BYTES));
        while !handed.is_empty() {
            let bytes = handed.split_to(STEP_BYTES.min(handed.len()));
            steps.push(Bytes::from_owner(Step { bytes, to }));
        }
        in_time(send.write_chunks(&mut steps)).await??;
        transfer.handed(allowed as u64);
    }
    Ok(())
}

/// Waits for a receiver to take something: while it does not, what waits for it holds memory.
pub(super) async fn in_time<T>(taking: impl Future<Output = T>) -> Result<T, Stop> {
    tokio::time::timeout(WRITE_DEADLINE, taking)
        .await
        .map_err(|_| refuse(Refusal::TimedOut, "the receiver takes nothing"))
}

/// What the network has until the receiver has acknowledged it.
struct Step {
    bytes: Bytes,
    to: NodeId,
}

impl AsRef<[u8]> for Step {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        ROOMS.moved(self.to);
    }
}

fn read_blocks(file: &File, range: Range<u64>, room: &mut Room) -> io::Result<Vec<Buffer>> {
    let mut blocks = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let len_bytes = usize::try_from(range.end - at).map_or(BLOCK_BYTES, |n| n.min(BLOCK_BYTES));
        let mut block = room.take(len_bytes);
        file.read_exact_at(&mut block, at)?;
        at += len_bytes as u64;
        blocks.push(block);
    }
    Ok(blocks)
}

/// The hash of a chunk whose first blocks are read already.
fn hash_chunk(
    file: &File,
    (layout, index): (ChunkLayout, ChunkIndex),
    first: &[Buffer],
    room: &mut Room,
) -> io::Result<Hash> {
    let range = layout.range(index);
    let mut hasher = ChunkHasher::new(&layout, index);
    let mut at = range.start;
    for block in first {
        hasher.update(block);
        at += block.len() as u64;
    }
    if at < range.end {
        let mut block = room.take(BLOCK_BYTES);
        while at < range.end {
            let len_bytes =
                usize::try_from(range.end - at).map_or(BLOCK_BYTES, |n| n.min(BLOCK_BYTES));
            file.read_exact_at(&mut block[..len_bytes], at)?;
            hasher.update(&block[..len_bytes]);
            at += len_bytes as u64;
        }
    }
    Ok(hasher.finish())
}
