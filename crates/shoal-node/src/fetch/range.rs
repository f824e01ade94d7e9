//! Fetching a stretch of a file: the chunks around it are verified, its bytes become a file.
//!
//! Only with a hash list: without one nothing but the whole file can be compared with its source.

use std::ops::Range;

use shoal_link::{Link, Stream};
use shoal_store::hashing::HashList;
use shoal_store::partial::FinishOptions;
use shoal_wire::FileEntry;
use shoal_wire::message::Outcome;

use super::receive::Attempt;
use super::{Durability, FetchError, Fetched};
use crate::budget::Pool;

impl Attempt<'_> {
    /// As for a whole file: what was fetched, and how many chunks became durable with it.
    pub(super) async fn receive_range(
        &self,
        (link, stream): (&Link, &mut Stream),
        pool: &Pool,
        (entry, list): (&FileEntry, Option<HashList>),
        bytes: Range<u64>,
    ) -> Result<(Fetched, Option<u32>), FetchError> {
        let Some(list) = list else {
            return Err(FetchError::NotHashed {
                peer: self.provider.name.clone(),
                path: entry.path.clone(),
            });
        };
        if bytes.is_empty() || bytes.end > entry.size.bytes() {
            return Err(self.source_changed());
        }
        if !self.job.overwrite && !self.may_stay(&bytes).await {
            return Err(self.target_exists());
        }
        let root = list.root();
        let mut disk = self
            .open_disk((entry, Some(&list)), &mut stream.send, pool)
            .await?;
        self.job.transfer.sized(disk.wanted_bytes());
        let receiving = self.receive_chunks((link, stream), &mut disk, Some(&list), pool);
        if let Err(error) = receiving.await {
            self.leave(disk).await;
            return Err(error);
        }
        let stored_chunks = disk.stored_chunks();
        let (folder, target) = (self.job.folder.clone(), self.job.target.clone());
        let there = self.tasks.blocking(move || folder.open_file(&target).ok());
        let there = there.await.map(|(file, _)| file);
        let options = FinishOptions {
            root: None,
            mode: entry.mode,
            mtime_ns: entry.mtime_ns,
            replace: self.job.overwrite,
        };
        let total_bytes = bytes.end - bytes.start;
        let is_same = disk.finish_range(bytes, options, there).await?;
        let fetched = Fetched {
            outcome: if is_same {
                Outcome::UpToDate(root)
            } else {
                Outcome::Fetched(root)
            },
            total_bytes,
            reused_bytes: self.job.transfer.reused_bytes(),
        };
        let is_durable = self.job.policy.durability == Durability::Synced;
        Ok((fetched, is_durable.then_some(stored_chunks)))
    }

    /// Whether what lies at the target, if anything, can be the range: it has its length.
    async fn may_stay(&self, bytes: &Range<u64>) -> bool {
        let (folder, target) = (self.job.folder.clone(), self.job.target.clone());
        let len_bytes = bytes.end - bytes.start;
        let look = move || match folder.stat(&target) {
            Ok(stat) => stat.size == len_bytes,
            Err(_) => !folder.exists(&target),
        };
        self.tasks.blocking(look).await
    }
}
