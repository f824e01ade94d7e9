//! Sending chunks: read, compare, hash where that is needed, hand to the network.
//!
//! The next chunk is read while one is being sent. Before a chunk's head goes out, the open file
//! is compared with what was announced: after reading, so that what was read is of that version.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use shoal_link::SendStream;
use shoal_store::folder::{FileStat, stat_of};
use shoal_store::hashing::{ChunkHasher, HashList};
use shoal_wire::message::{Encoding, FileChunk};
use shoal_wire::{ChunkIndex, ChunkLayout, ChunkRanges, Communication, Hash, NodeId, Refusal};

use super::{Provide, Serving, Stop, refuse};
use crate::share::SharedFile;
use crate::transfers::Transfer;

/// How much is read from disk and handed to the network at a time, in bytes: one chunk of the
/// smallest kind.
const BLOCK_BYTES: u64 = 1 << 20;

impl Provide {
    /// Sends the chunks asked for, in their order, and then says that they are complete.
    pub(super) async fn send_chunks(
        &self,
        serving: &Serving,
        ranges: &ChunkRanges,
        sent: &mut SentHashes,
        (send, transfer): (&mut SendStream, &Transfer),
    ) -> Result<(), Stop> {
        let indexes = ranges.indexes(&serving.layout).ok_or_else(|| {
            refuse(
                Refusal::Unexpected,
                "a chunk outside the file was asked for",
            )
        })?;
        let mut indexes = indexes.peekable();
        let mut next = match indexes.peek() {
            Some(first) => self.prepare(serving, *first).await?,
            None => return Ok(()),
        };
        while let Some(index) = indexes.next() {
            let prepared = next;
            sent.note(index, prepared.hash);
            let following = indexes.peek().copied();
            let sending = self.send_chunk(serving, index, prepared, (send, transfer));
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
                    return Err(ErrorKind::UnexpectedEof.into());
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
        (send, transfer): (&mut SendStream, &Transfer),
    ) -> Result<(), Stop> {
        let range = serving.layout.range(index);
        let head = FileChunk {
            index: index.get(),
            len_bytes: range.end - range.start,
            hash: prepared.hash,
            encoding: Encoding::Raw,
        };
        send.say(&Communication::FileChunk(head)).await?;
        let mut at = range.start + prepared.block.len() as u64;
        write(prepared.block, serving.to, (send, transfer)).await?;
        while at < range.end {
            let (file, end) = (Arc::clone(&serving.file), range.end.min(at + BLOCK_BYTES));
            let stat = serving.shared.stat;
            let read = move || {
                let block = read_block(&file, at, end)?;
                if is_unchanged(&file, &stat) {
                    Ok(block)
                } else {
                    Err(ErrorKind::UnexpectedEof.into())
                }
            };
            let block = self.tasks.blocking(read).await;
            let block = block.map_err(|error| self.unreadable(serving, &error))?;
            at = end;
            write(block, serving.to, (send, transfer)).await?;
        }
        Ok(())
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

/// Hands a block to the network, as fast as the limits let it.
pub(super) async fn write(
    mut block: Bytes,
    to: NodeId,
    (send, transfer): (&mut SendStream, &Transfer),
) -> Result<(), Stop> {
    while !block.is_empty() {
        let allowed = transfer.take(to, block.len()).await;
        send.write_chunk(block.split_to(allowed)).await?;
    }
    Ok(())
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
pub(super) struct SentHashes(Vec<Option<Hash>>);

impl SentHashes {
    pub(super) fn new(serving: &Serving) -> Self {
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
