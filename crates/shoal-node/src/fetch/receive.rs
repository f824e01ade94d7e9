//! One try at one source: request, hash list, chunks, completion.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_link::{Link, RecvStream, SendStream, Stream};
use shoal_store::hashing::HashList;
use shoal_store::partial::{Content, FinishOptions, Partial, Source};
use shoal_wire::message::{FileRequest, Outcome, Provider};
use shoal_wire::{ChunkIndex, ChunkLayout, Communication, FileEntry, Hash, Refusal};

use super::disk::{Disk, PartialRequest};
use super::donors::Known;
use super::error::FetchError;
use super::target::{self, Seen, Target};
use super::{Durability, FetchJob, Fetched};
use crate::budget::Pool;
use crate::requests::{REQUEST_DEADLINE, answer, converse};
use crate::share::Share;
use crate::tasks::Tasks;

/// How long a source may send nothing before it counts as stalled.
pub(super) const STALL_DEADLINE: Duration = Duration::from_secs(20);
/// How long a source may hear nothing while the disk is searched or read: it gives a silent receiver
/// up after ten minutes.
pub(super) const WORD_INTERVAL: Duration = Duration::from_secs(60);
/// How long the last words to a source may take to arrive before the stream is left.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// One try at one source.
pub(super) struct Attempt<'a> {
    pub(super) job: &'a FetchJob,
    pub(super) provider: &'a Provider,
    pub(super) tasks: &'a Tasks,
    pub(super) share: Option<&'a Share>,
    pub(super) known: Option<&'a Known>,
    pub(super) left: &'a LeftOpen,
}

/// The partial that a try at a source left open for the next one, which so need not hash again what
/// is known to be sound.
#[derive(Debug, Default)]
pub(super) struct LeftOpen(Mutex<Option<Partial>>);

impl LeftOpen {
    pub(super) fn put(&self, partial: Partial) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(partial);
    }

    fn take(&self) -> Option<Partial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Attempt<'_> {
    /// Fetches what is missing from the source at the other end of `link`.
    pub(super) async fn run(&self, link: &Link) -> Result<Fetched, FetchError> {
        self.job.transfer.travels(link);
        // Before anything is asked for: who waits for room holds nothing at the source.
        let layout = ChunkLayout::of(self.provider.entry.size);
        let pool = tokio::select! {
            pool = self.reserve(&layout) => pool,
            () = self.job.transfer.cancelled() => return Err(FetchError::Cancelled),
        };
        let mut stream = self.request(link).await?;
        let received = self.receive((link, &mut stream), &pool).await;
        match &received {
            Ok((fetched, durable_chunks)) => {
                let words = self.farewell(&mut stream, fetched.outcome, *durable_chunks);
                // The file is there, whether its source hears of it or not.
                let _ = tokio::time::timeout(FAREWELL_DEADLINE, words).await;
            }
            Err(error) => {
                let refusal = error.refusal();
                stream.send.reset(refusal);
                stream.recv.stop(refusal);
            }
        }
        received.map(|(fetched, _)| fetched)
    }

    pub(super) async fn request(&self, link: &Link) -> Result<Stream, FetchError> {
        let request = Communication::FileRequest(FileRequest {
            path: self.provider.entry.path.clone(),
            hash: self.provider.entry.hash,
            grant: self.provider.grant.clone(),
            accepts_zstd: self.accepts_compressed(&ChunkLayout::of(self.provider.entry.size)),
        });
        let stream = self.in_time(converse(link, &request)).await?;
        stream.map_err(|error| FetchError::of_request(self.provider, error))
    }

    /// Waits for a source to take what is said to it, as long as for its own words.
    pub(super) async fn in_time<T>(
        &self,
        saying: impl Future<Output = T>,
    ) -> Result<T, FetchError> {
        tokio::select! {
            said = tokio::time::timeout(STALL_DEADLINE, saying) => {
                said.map_err(|_| FetchError::stalled(self.provider))
            }
            () = self.job.transfer.cancelled() => Err(FetchError::Cancelled),
        }
    }

    /// The file, and how many chunks became durable with its final name.
    async fn receive(
        &self,
        (link, stream): (&Link, &mut Stream),
        pool: &Pool,
    ) -> Result<(Fetched, Option<u32>), FetchError> {
        let entry = self.hear_entry(stream).await?;
        let layout = ChunkLayout::of(entry.size);
        self.suffice(pool, &layout)?;
        let total_bytes = entry.size.bytes();
        self.job.transfer.sized(total_bytes);
        let list = self.hear_list(stream, &entry, layout).await?;
        if let Some(bytes) = self.job.range.clone() {
            let from = (link, &mut *stream);
            return self.receive_range(from, pool, (&entry, list), bytes).await;
        }
        let seen = self.look_at_target(&entry, list.as_ref()).await;
        match seen.target {
            Target::Same(hash) => {
                self.job.transfer.restarted(total_bytes);
                let outcome = Outcome::UpToDate(hash);
                let fetched = Fetched {
                    outcome,
                    total_bytes,
                    reused_bytes: 0,
                };
                return Ok((fetched, None));
            }
            _ if self.job.transfer.is_cancelled() => return Err(FetchError::Cancelled),
            Target::Different if !self.job.overwrite => return Err(self.target_exists()),
            Target::Different | Target::SameSize | Target::Absent => {}
        }
        let mut disk = self
            .open_disk((&entry, list.as_ref()), &mut stream.send, pool)
            .await?;
        let receiving = self.receive_chunks((link, stream), &mut disk, list.as_ref(), pool);
        let root = match receiving.await {
            Ok(root) => root,
            Err(error) => {
                self.leave(disk).await;
                return Err(error);
            }
        };
        let stored_chunks = disk.stored_chunks();
        let outcome = self.complete(disk, (&entry, &seen), root).await?;
        let fetched = Fetched {
            outcome,
            total_bytes,
            reused_bytes: self.job.transfer.reused_bytes(),
        };
        if self.job.policy.durability == Durability::Unsynced {
            return Ok((fetched, None));
        }
        self.job.transfer.durable(total_bytes);
        Ok((fetched, Some(stored_chunks)))
    }

    /// Keeps what was verified for the next try, whatever the reason.
    pub(super) async fn leave(&self, disk: Disk) {
        // A second failure adds nothing.
        if let Ok(partial) = disk.close().await {
            self.job.transfer.durable(partial.durable_bytes());
            self.left.put(partial);
        }
    }

    pub(super) async fn hear_entry(&self, stream: &mut Stream) -> Result<FileEntry, FetchError> {
        let answered = tokio::select! {
            answered = answer(stream, REQUEST_DEADLINE) => answered,
            () = self.job.transfer.cancelled() => return Err(FetchError::Cancelled),
        };
        let wanted = &self.provider.entry;
        match answered.map_err(|error| FetchError::of_request(self.provider, error))? {
            Communication::FileResponse(response) if response.entry.path == wanted.path => {
                let mut entry = response.entry;
                if self.job.policy.of_strangers {
                    if entry.hash.is_none() {
                        return Err(FetchError::misbehaved(self.provider, "no hash"));
                    }
                    entry.mode &= !0o111;
                }
                let is_wanted = wanted.hash.is_none_or(|hash| {
                    entry.size == wanted.size && entry.hash.is_none_or(|is| is == hash)
                });
                if is_wanted {
                    Ok(entry)
                } else {
                    Err(self.source_changed())
                }
            }
            _ => Err(FetchError::misbehaved(self.provider, "no file response")),
        }
    }

    /// The hash list, where the source knows the file's hash.
    pub(super) async fn hear_list(
        &self,
        stream: &mut Stream,
        entry: &FileEntry,
        layout: ChunkLayout,
    ) -> Result<Option<HashList>, FetchError> {
        let Some(root) = entry.hash else {
            return Ok(None);
        };
        let count = layout.chunk_count() as usize;
        let mut hashes = Vec::new();
        if count == 1 {
            hashes.push(root);
        }
        while hashes.len() < count {
            match self.hear(&mut stream.recv).await? {
                Communication::HashListPage(page) if !page.is_empty() => {
                    hashes.extend_from_slice(&page);
                }
                _ => return Err(FetchError::misbehaved(self.provider, "no hash list")),
            }
        }
        HashList::verified(layout, &root, hashes)
            .map(Some)
            .ok_or_else(|| FetchError::FalseList {
                peer: self.provider.name.clone(),
                node: self.provider.node,
            })
    }

    async fn look_at_target(&self, entry: &FileEntry, list: Option<&HashList>) -> Seen {
        let (folder, path) = (self.job.folder.clone(), self.job.target.clone());
        let (size, list, cancelled) = (entry.size, list.cloned(), self.stop());
        self.tasks
            .blocking(move || target::look((&folder, &path), size, list.as_ref(), &cancelled))
            .await
    }

    async fn look_again(&self, seen: &Seen, hashes: &HashList) -> Target {
        let (folder, path) = (self.job.folder.clone(), self.job.target.clone());
        let (seen, hashes) = (*seen, hashes.clone());
        self.tasks
            .blocking(move || target::look_again(&seen, (&folder, &path), &hashes))
            .await
    }

    pub(super) fn target_exists(&self) -> FetchError {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let below = OsStr::from_bytes(self.job.target.as_bytes());
        FetchError::TargetExists {
            path: self.job.folder.path().join(below),
        }
    }

    /// Opens the partial and has it take what is here already.
    pub(super) async fn open_disk(
        &self,
        (entry, list): (&FileEntry, Option<&HashList>),
        send: &mut SendStream,
        pool: &Pool,
    ) -> Result<Disk, FetchError> {
        let origin = Content {
            source: Source::Origin {
                node: self.provider.node,
                mtime_ns: entry.mtime_ns,
            },
            layout: ChunkLayout::of(entry.size),
        };
        let request = PartialRequest {
            folder: self.job.folder.clone(),
            target: self.job.target.clone(),
            origin,
            list: list.cloned(),
            range: self.job.range.clone(),
        };
        let left = self.left.take();
        let mut partial = self.tasks.blocking(move || request.open(left)).await?;
        self.job.transfer.restarted(partial.durable_bytes());
        if let Some(list) = list {
            partial = self.reuse(partial, list, send, pool).await?;
        }
        let durability = self.job.policy.durability;
        let stop = Arc::new(self.stop());
        Ok(Disk::new(partial, self.tasks, (durability, stop)))
    }

    pub(super) fn source_changed(&self) -> FetchError {
        FetchError::refused(self.provider, Refusal::SourceChanged, "")
    }

    pub(super) fn bad_chunk(&self, index: ChunkIndex) -> FetchError {
        FetchError::BadChunk {
            peer: self.provider.name.clone(),
            node: self.provider.node,
            index,
        }
    }

    pub(super) async fn hear(&self, recv: &mut RecvStream) -> Result<Communication, FetchError> {
        let heard = tokio::select! {
            heard = recv.hear(STALL_DEADLINE) => heard,
            () = self.job.transfer.cancelled() => return Err(FetchError::Cancelled),
        };
        match heard.map_err(|error| FetchError::of_hearing(self.provider, error))? {
            Some(Communication::Error(report)) => Err(FetchError::refused(
                self.provider,
                report.refusal,
                &report.detail.to_string(),
            )),
            Some(message) => Ok(message),
            None => Err(FetchError::misbehaved(self.provider, "an early end")),
        }
    }

    /// Compares the root with what the source said and gives the file its name.
    async fn complete(
        &self,
        disk: Disk,
        (entry, seen): (&FileEntry, &Seen),
        said: Option<Hash>,
    ) -> Result<Outcome, FetchError> {
        let Some(hashes) = disk.hashes() else {
            return Err(FetchError::misbehaved(self.provider, "a chunk is missing"));
        };
        let root = hashes.root();
        let mut expected = [said, self.provider.entry.hash].into_iter().flatten();
        if expected.any(|expected| expected != root) {
            // Each chunk was as its sender said, so they are of different versions.
            disk.forget_all().await?;
            return Err(self.source_changed());
        }
        let there = match self.look_again(seen, &hashes).await {
            Target::Different if !self.job.overwrite => {
                self.leave(disk).await;
                return Err(self.target_exists());
            }
            there => there,
        };
        let is_same = matches!(there, Target::Same(_));
        let options = FinishOptions {
            root: Some(root),
            mode: entry.mode,
            mtime_ns: entry.mtime_ns,
            replace: self.job.overwrite || is_same,
        };
        disk.finish(options).await?;
        self.tell_share(&hashes).await;
        Ok(if is_same {
            Outcome::UpToDate(root)
        } else {
            Outcome::Fetched(root)
        })
    }

    /// Spares the share that the file may lie in to hash it again.
    async fn tell_share(&self, hashes: &HashList) {
        let Some(share) = self.share else { return };
        let (folder, target) = (self.job.folder.clone(), self.job.target.clone());
        let stat = self.tasks.blocking(move || folder.stat(&target)).await;
        if let Ok(stat) = stat {
            share.learned(&self.job.target, &stat, hashes).await;
        }
    }

    /// Tells the source that the file is there, and what of it is durable; it may be gone by then.
    async fn farewell(&self, stream: &mut Stream, outcome: Outcome, durable_chunks: Option<u32>) {
        if let Some(durable_chunks) = durable_chunks.filter(|chunks| *chunks > 0) {
            acknowledge(&mut stream.send, durable_chunks).await;
        }
        let (Outcome::Fetched(root) | Outcome::UpToDate(root)) = outcome;
        let complete = Communication::FileTransferComplete { root: Some(root) };
        if stream.send.say(&complete).await.is_ok() {
            stream.send.finish();
            stream.send.stopped().await;
        }
    }
}

/// Says how many of the chunks asked for are durable. A source that is gone shows elsewhere.
pub(super) async fn acknowledge(send: &mut SendStream, durable_chunks: u32) {
    let _ = send
        .say(&Communication::FileChunkAck { durable_chunks })
        .await;
}
