//! What is here already is not fetched: chunks in the part, in the same content elsewhere, and in
//! an older version at the target.
//!
//! Only where the source knows the file's hash list. Every chunk is verified as if it had been
//! received, and synced in stretches while the search goes on. A file that is stale or cannot be
//! read costs the try.

use std::sync::Arc;
use std::time::Instant;

use shoal_link::SendStream;
use shoal_store::hashing::HashList;
use shoal_store::partial::{Partial, PartialError, Search, Synced};

use super::disk::{SYNC_BYTES, UNSYNCED_MAX_BYTES};
use super::receive::{Attempt, WORD_INTERVAL, acknowledge};
use super::{Durability, FetchError};
use crate::budget::{BLOCK_BYTES, Buffer, Pool};
use crate::tasks::Running;

/// A partial that takes what it finds, as it goes to a thread and comes back.
struct Finder {
    partial: Partial,
    search: Search,
    list: Arc<HashList>,
    block: Buffer,
    cancelled: Box<dyn Fn() -> bool + Send>,
}

impl Finder {
    /// Goes on for a stretch; how many bytes were found.
    fn step(&mut self) -> Result<u64, PartialError> {
        let (search, block) = (&mut self.search, &mut self.block);
        self.partial
            .search(search, &self.list, block, &self.cancelled)
    }

    fn is_whole(&self) -> bool {
        let mut indexes = self.partial.layout().indexes();
        !indexes.any(|index| self.partial.is_missing(index))
    }
}

/// Found bytes on their way to being durable.
#[derive(Default)]
struct Syncs {
    running: Option<(Running<Synced>, u64)>,
    waiting_bytes: u64,
}

impl Attempt<'_> {
    /// Takes into a partial what this machine has of its content.
    pub(super) async fn reuse(
        &self,
        partial: Partial,
        list: &HashList,
        send: &mut SendStream,
        pool: &Pool,
    ) -> Result<Partial, FetchError> {
        let list = Arc::new(list.clone());
        let block_bytes = list.layout().size().bytes().clamp(1, BLOCK_BYTES as u64);
        let block_bytes = usize::try_from(block_bytes).unwrap_or(BLOCK_BYTES);
        let mut finder = Finder {
            partial,
            search: Search::of_part(),
            list: Arc::clone(&list),
            block: pool.lend(block_bytes).await,
            cancelled: Box::new(self.stop()),
        };
        let mut syncs = Syncs::default();
        let mut last_word = Instant::now();
        let mut donors = None;
        loop {
            let found;
            (finder, found) = self
                .tasks
                .blocking(move || {
                    let found = finder.step();
                    (finder, found)
                })
                .await;
            let kept = match found {
                Ok(bytes) => self.keep(&mut finder.partial, &mut syncs, bytes).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = kept {
                self.give_up(finder.partial, syncs).await;
                return Err(error);
            }
            if last_word.elapsed() >= WORD_INTERVAL {
                last_word = Instant::now();
                acknowledge(send, 0).await;
            }
            if !finder.search.is_over() {
                continue;
            }
            if donors.is_none() {
                donors = Some(self.donors(&list).await.into_iter());
            }
            match donors.as_mut().and_then(Iterator::next) {
                Some(next) if !finder.is_whole() => finder.search = next,
                _ => break,
            }
        }
        let Finder { mut partial, .. } = finder;
        syncs.settle(&mut partial).await?;
        self.job.transfer.durable(partial.durable_bytes());
        Ok(partial)
    }

    /// Counts what was found and looks after its syncs.
    async fn keep(
        &self,
        partial: &mut Partial,
        syncs: &mut Syncs,
        found_bytes: u64,
    ) -> Result<(), FetchError> {
        let transfer = &self.job.transfer;
        transfer.reused(found_bytes);
        syncs.waiting_bytes += found_bytes;
        if self.job.policy.durability == Durability::Synced {
            if let Some((running, bytes)) = &syncs.running {
                let is_behind = bytes + syncs.waiting_bytes >= UNSYNCED_MAX_BYTES;
                if running.has_ended() || is_behind {
                    syncs.settle(partial).await?;
                    transfer.durable(partial.durable_bytes());
                }
            }
            if syncs.running.is_none()
                && syncs.waiting_bytes >= SYNC_BYTES
                && let Some(syncing) = partial.begin_sync()?
            {
                let running = self.tasks.start_blocking(move || syncing.run()).await;
                syncs.running = Some((running, std::mem::take(&mut syncs.waiting_bytes)));
            }
        }
        if transfer.is_cancelled() {
            return Err(FetchError::Cancelled);
        }
        Ok(())
    }

    /// Keeps what was found, whatever the reason; a second failure adds nothing.
    async fn give_up(&self, mut partial: Partial, mut syncs: Syncs) {
        let _ = syncs.settle(&mut partial).await;
        let sync = move || {
            let _ = partial.sync();
            partial
        };
        let partial = self.tasks.blocking(sync).await;
        self.job.transfer.durable(partial.durable_bytes());
        self.left.put(partial);
    }

    /// Tells disk work whether it is to stop.
    pub(super) fn stop(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let (transfer, tasks) = (self.job.transfer.clone(), self.tasks.clone());
        move || transfer.is_cancelled() || tasks.is_cancelled()
    }
}

impl Syncs {
    /// Waits for the sync that is under way, if there is one.
    async fn settle(&mut self, partial: &mut Partial) -> Result<(), PartialError> {
        if let Some((running, _)) = self.running.take() {
            partial.end_sync(running.result().await)?;
        }
        Ok(())
    }
}
