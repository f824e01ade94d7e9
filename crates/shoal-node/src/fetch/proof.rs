//! Making sure that a stranger has what it lists, before anything is made of it here.
//!
//! A list of hashes that leads to the root does not tell how long the content is: a single hash
//! leads to itself, and hashes of smaller subtrees lead there as well as those of chunks. The bytes
//! of the last chunk do: they have their hash at one place of one length only.

use std::iter;

use shoal_store::folder::Folder;
use shoal_store::hashing::{chunk_of_pieces, content_hash, piece_hash};
use shoal_wire::{ChunkLayout, ChunkRanges, Communication, Refusal};

use super::links::Lease;
use super::pieces::Chunks;
use super::receive::{Attempt, LeftOpen};
use super::{FetchError, FetchJob, FetchPolicy, Fetcher, Source};
use crate::transfers::{Direction, EndOnDrop, Transfers};

impl Fetcher {
    /// Has a source show the last chunk of the content whose hash its entry names, in memory. It is
    /// of the size that the entry names then. `folder` is where it would go, nothing is written;
    /// `transfers` has the limits on what is received.
    ///
    /// # Errors
    /// What the source did wrong, or why it cannot be reached.
    pub async fn prove(
        &self,
        source: &Source,
        (folder, transfers): (&Folder, &Transfers),
    ) -> Result<(), FetchError> {
        let provider = &source.provider;
        let (path, name) = (provider.entry.path.clone(), provider.name.clone());
        let job = FetchJob {
            sources: Vec::new(),
            further: None,
            folder: folder.clone(),
            target: path.clone(),
            range: None,
            overwrite: false,
            policy: FetchPolicy {
                of_strangers: true,
                accepts_compressed: false,
                ..FetchPolicy::default()
            },
            transfer: transfers.begin(Direction::Receiving, path, name),
        };
        let _ended = EndOnDrop(job.transfer.clone());
        let leased = self.links.lease(provider).await;
        let lease = leased.map_err(|error| error.of(provider))?;
        Attempt {
            job: &job,
            provider,
            tasks: &self.tasks,
            share: None,
            known: None,
            left: &LeftOpen::default(),
        }
        .prove(&lease)
        .await
    }
}

impl Attempt<'_> {
    async fn prove(&self, lease: &Lease) -> Result<(), FetchError> {
        let unreachable = || FetchError::refused(self.provider, Refusal::Unreachable, "");
        let link = lease.link().ok_or_else(unreachable)?;
        let layout = ChunkLayout::of(self.provider.entry.size);
        let pool = self.reserve(&layout).await;
        let mut stream = self.request(link).await?;
        let entry = self.hear_entry(&mut stream).await?;
        let list = self.hear_list(&mut stream, &entry, layout).await?;
        let list = list.ok_or_else(|| FetchError::misbehaved(self.provider, "no hash"))?;
        if entry.size.bytes() == 0 {
            return match list.root() == content_hash(&[]) {
                true => Ok(()),
                false => Err(FetchError::misbehaved(self.provider, "another size")),
            };
        }
        let Some(last) = layout.indexes().last() else {
            return Err(FetchError::misbehaved(self.provider, "no chunk"));
        };
        let asked = ChunkRanges::of_wanted(&layout, |index| index == last);
        let asked = Communication::FileGet(asked);
        let said = self.in_time(stream.send.say(&asked)).await?;
        said.map_err(|error| FetchError::lost(self.provider, &error))?;
        let mut chunks = Chunks::new(layout, iter::once(last), &pool);
        let mut pieces = Vec::new();
        while let Some(piece) = self
            .hear_piece(&mut stream.recv, &mut chunks, Some(&list))
            .await?
        {
            let hash = piece_hash(&layout, last, piece.offset_in_chunk, &piece.bytes);
            pieces.push(hash);
        }
        match chunk_of_pieces(&layout, last, &pieces) {
            Some(hash) if hash == list.chunk(last) => Ok(()),
            _ => Err(self.bad_chunk(last)),
        }
    }
}
