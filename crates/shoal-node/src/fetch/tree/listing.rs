//! Hearing a manifest and deciding what each of its entries needs.
//!
//! A page is compared with the disk as it comes: files that are there already are over at once,
//! runs of small ones become packs, large ones go to a worker each. Workers that have enough to do
//! hold the listing up, and with it the provider.

use std::sync::atomic::Ordering;

use shoal_link::{Link, RecvStream};
use shoal_store::folder::{Folder, OpenError};
use shoal_store::hashing::hash_file;
use shoal_wire::limits::{BATCH_TARGET_BYTES, OMISSIONS_MAX, PACK_MAX_BYTES, PACK_MAX_FILES};
use shoal_wire::manifest::{EntryKind, Extras, LinkTarget, ManifestEntry, Omission};
use shoal_wire::message::{ManifestRequest, Outcome};
use shoal_wire::{Communication, FileEntry, FileSize, Hash, SafePath};
use tokio::sync::mpsc;

use super::ending::Ending;
use super::voice::hear;
use super::{Planned, Tree, TreeEvent};
use crate::fetch::{FetchError, Fetched};
use crate::plan::tells_apart;
use crate::requests::converse;

/// A small file that is to be fetched in a pack.
#[derive(Debug)]
pub(super) struct Small {
    /// The file at its provider.
    pub(super) entry: FileEntry,
    /// Where it goes.
    pub(super) target: SafePath,
    /// What is kept of it besides.
    pub(super) extras: Option<Extras>,
    /// Whether a file of its size is there: the same one perhaps.
    pub(super) may_be_there: bool,
}

/// A large file, fetched by itself.
#[derive(Debug)]
pub(super) struct Large {
    /// The file at its provider.
    pub(super) entry: FileEntry,
    /// Where it goes.
    pub(super) target: SafePath,
    /// What is kept of it besides.
    pub(super) extras: Option<Extras>,
}

/// What is to be done with an entry.
enum Step {
    Pack(Small),
    Large(Large),
    UpToDate(FileEntry, SafePath, Hash),
    Differs(FileEntry, SafePath, Option<Extras>),
    Folder(SafePath, (u32, i64, bool), Option<Extras>),
    Link(SafePath, LinkTarget, i64),
}

impl Step {
    /// What is to come of a file, in bytes; `None` where it is none.
    fn coming_bytes(&self) -> Option<u64> {
        match self {
            Self::Pack(Small { entry, .. })
            | Self::Large(Large { entry, .. })
            | Self::Differs(entry, ..) => Some(entry.size.bytes()),
            Self::UpToDate(..) => Some(0),
            Self::Folder(..) | Self::Link(..) => None,
        }
    }
}

/// What lies at the target of a file.
enum There {
    Nothing,
    Same(Hash),
    SameSize,
    Other,
}

/// An entry of a manifest, and where it goes.
struct Placed {
    entry: ManifestEntry,
    target: SafePath,
    /// Whether it is wanted by itself: a folder may also be needed for what is in it.
    is_chosen: bool,
}

/// A manifest on its way.
struct HeardManifest {
    recv: RecvStream,
    /// How many entries the provider leaves out, and how many of them it has named.
    left_out: u64,
    named: usize,
}

impl Tree<'_> {
    /// Hears the whole manifest and hands its files to the workers; gives what is left to do when
    /// they are done.
    pub(super) async fn list(
        &self,
        link: &Link,
        packs: Vec<mpsc::Sender<Vec<Small>>>,
        large: Vec<mpsc::Sender<Large>>,
    ) -> Result<Ending, FetchError> {
        let mut hand_out = HandOut::new(packs, large);
        let mut ending = Ending::default();
        let target = self.job.target.as_ref();
        let is_fresh = target.is_some_and(|target| !self.job.folder.exists(target));
        let mut manifest = self.ask_manifest(link).await?;
        loop {
            let (entries, more) = self.hear_page(&mut manifest).await?;
            let steps = self.triage(entries, is_fresh).await?;
            let sizes = || steps.iter().filter_map(Step::coming_bytes);
            let (files, bytes) = (sizes().count() as u64, sizes().sum());
            self.tell(TreeEvent::Listed { files, bytes }).await;
            for step in steps {
                self.take(step, &mut hand_out, &mut ending).await?;
            }
            if !more {
                break;
            }
        }
        hand_out.flush().await;
        Ok(ending)
    }

    /// On a disk that takes some names for one, hears the whole manifest first and refuses names
    /// that would meet.
    pub(super) async fn check_collisions(&self, link: &Link) -> Result<(), FetchError> {
        let folder = self.job.folder.path().to_owned();
        let apart = move || tells_apart(&folder);
        if self.fetcher.tasks.blocking(apart).await {
            return Ok(());
        }
        let mut names = std::collections::BTreeMap::new();
        let mut manifest = self.ask_manifest(link).await?;
        loop {
            let (entries, more) = self.hear_page(&mut manifest).await?;
            for entry in entries {
                let key = entry.path.collision_key();
                if let Some(first) = names.insert(key, entry.path.clone()) {
                    let second = entry.path;
                    return Err(FetchError::Collision { first, second });
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn ask_manifest(&self, link: &Link) -> Result<HeardManifest, FetchError> {
        let wanted = self.job.options.wanted;
        let request = Communication::ManifestRequest(ManifestRequest {
            folder: self.job.remote.clone(),
            owner: wanted.owner,
            xattrs: wanted.xattrs,
            grant: self.job.source.provider.grant.clone(),
        });
        let provider = &self.job.source.provider;
        let mut stream = converse(link, &request)
            .await
            .map_err(|error| FetchError::of_request(provider, error))?;
        stream.send.finish();
        Ok(HeardManifest {
            recv: stream.recv,
            left_out: 0,
            named: 0,
        })
    }

    async fn hear_page(
        &self,
        manifest: &mut HeardManifest,
    ) -> Result<(Vec<ManifestEntry>, bool), FetchError> {
        let provider = &self.job.source.provider;
        loop {
            let heard = hear(&mut manifest.recv, provider, &self.job.transfer).await?;
            match heard {
                Communication::ManifestPage { entries, more } => {
                    self.end_omissions(manifest).await;
                    return Ok((entries.into_vec(), more));
                }
                Communication::ManifestOmissions { count, omissions } => {
                    manifest.left_out = count;
                    manifest.named += omissions.len();
                    if manifest.named > OMISSIONS_MAX || omissions.is_empty() {
                        let what = "more omissions than there may be";
                        return Err(FetchError::misbehaved(provider, what));
                    }
                    self.tell_omissions(omissions.into_vec()).await;
                }
                _ => return Err(FetchError::misbehaved(provider, "no manifest")),
            }
        }
    }

    /// Tells what the provider leaves out of what is chosen.
    async fn tell_omissions(&self, omissions: Vec<Omission>) {
        if self.has_told_omissions.load(Ordering::Relaxed) {
            return;
        }
        let remote = self.job.remote.as_ref().map(SafePath::as_bytes);
        for omission in omissions {
            let path = omission.path.as_bytes();
            let below = remote.and_then(|remote| path.strip_prefix(remote)?.strip_prefix(b"/"));
            let choose = self.job.options.choose_omitted.as_ref();
            if choose.is_none_or(|choose| choose(below.unwrap_or(path))) {
                self.tell(TreeEvent::LeftOut(omission)).await;
            }
        }
    }

    /// What is left out is told once, however often the manifest is heard.
    async fn end_omissions(&self, manifest: &HeardManifest) {
        let has_told = self.has_told_omissions.swap(true, Ordering::Relaxed);
        let unnamed = manifest.left_out.saturating_sub(manifest.named as u64);
        if !has_told && unnamed > 0 {
            self.tell(TreeEvent::LeftOutUnnamed(unnamed)).await;
        }
    }

    async fn triage(
        &self,
        entries: Vec<ManifestEntry>,
        is_fresh: bool,
    ) -> Result<Vec<Step>, FetchError> {
        let mut placed = Vec::with_capacity(entries.len());
        for entry in entries {
            let below = match &self.job.remote {
                Some(remote) if entry.path == *remote => None,
                Some(remote) => Some(entry.path.below(remote)),
                None => Some(Some(entry.path.clone())),
            };
            let target = match (&self.job.target, &below) {
                (Some(target), None) => Ok(target.clone()),
                (Some(target), Some(Some(below))) => target.join(below),
                (None, Some(Some(below))) => Ok(below.clone()),
                // The folder itself is the receiver's own.
                (None, None) => continue,
                (_, Some(None)) => {
                    let what = "an entry outside the folder that was asked for";
                    return Err(FetchError::misbehaved(&self.job.source.provider, what));
                }
            };
            let below = below.flatten();
            let choose = self.job.options.choose.as_ref();
            let is_chosen = match (choose, &below) {
                (Some(choose), Some(below)) => choose(below, &entry.kind),
                (Some(_), None) | (None, _) => true,
            };
            // A path that gets too long here cannot be kept; its file fails when it is asked for.
            let Ok(target) = target else { continue };
            let is_folder = entry.kind == EntryKind::Folder;
            if (is_chosen || is_folder) && !self.is_over(&entry.path) {
                self.note_twin(&entry.path);
                placed.push(Placed {
                    entry,
                    target,
                    is_chosen,
                });
            }
        }
        let folder = self.job.folder.clone();
        let compare = move || {
            let step = |placed| step_of(&folder, placed, is_fresh);
            placed.into_iter().map(step).collect()
        };
        Ok(self.fetcher.tasks.blocking(compare).await)
    }

    async fn take(
        &self,
        step: Step,
        hand_out: &mut HandOut,
        ending: &mut Ending,
    ) -> Result<(), FetchError> {
        if self.job.options.dry_run {
            self.tell_planned(step).await;
            return Ok(());
        }
        match step {
            Step::Pack(small) => {
                self.job.transfer.enlarged(small.entry.size.bytes());
                hand_out.pack(small).await;
            }
            Step::Large(large) => hand_out.large(large).await,
            Step::UpToDate(entry, target, hash) => {
                let fetched = Fetched {
                    outcome: Outcome::UpToDate(hash),
                    total_bytes: entry.size.bytes(),
                    reused_bytes: 0,
                };
                self.over(&entry.path, target, Ok(fetched)).await;
            }
            Step::Differs(entry, target, extras) if self.job.options.overwrite => {
                if is_small(entry.size) {
                    self.job.transfer.enlarged(entry.size.bytes());
                    let small = Small {
                        entry,
                        target,
                        extras,
                        may_be_there: false,
                    };
                    hand_out.pack(small).await;
                } else {
                    let large = Large {
                        entry,
                        target,
                        extras,
                    };
                    hand_out.large(large).await;
                }
            }
            Step::Differs(entry, target, _) => {
                let error = self.target_exists(&target);
                self.over(&entry.path, target, Err(error)).await;
            }
            Step::Folder(target, times, extras) => ending.push_folder(&target, times, extras),
            Step::Link(target, points_to, mtime_ns) => {
                ending.push_link(&target, &points_to, mtime_ns);
            }
        }
        Ok(())
    }

    async fn tell_planned(&self, step: Step) {
        let overwrite = self.job.options.overwrite;
        let (entry, target, planned) = match step {
            Step::Pack(small) if small.may_be_there => {
                // Only its content would tell, and that is not here.
                (
                    small.entry,
                    small.target,
                    if overwrite {
                        Planned::Replace
                    } else {
                        Planned::Fetch
                    },
                )
            }
            Step::Pack(small) => (small.entry, small.target, Planned::Fetch),
            Step::Large(large) => (large.entry, large.target, Planned::Fetch),
            Step::UpToDate(entry, target, _) => (entry, target, Planned::UpToDate),
            Step::Differs(entry, target, _) if overwrite => (entry, target, Planned::Replace),
            Step::Differs(entry, target, _) => (entry, target, Planned::Differs),
            Step::Folder(target, (_, _, true), _) => {
                return self.tell(TreeEvent::PlannedFolder { target }).await;
            }
            Step::Folder(..) | Step::Link(..) => return,
        };
        let bytes = entry.size.bytes();
        self.tell(TreeEvent::Planned {
            target,
            bytes,
            planned,
        })
        .await;
    }

    pub(super) fn target_exists(&self, target: &SafePath) -> FetchError {
        FetchError::TargetExists {
            path: self.job.folder.path_of(target),
        }
    }
}

fn is_small(size: FileSize) -> bool {
    size.bytes() <= PACK_MAX_BYTES
}

/// Compares one entry with the disk.
fn step_of(folder: &Folder, placed: Placed, is_fresh: bool) -> Step {
    let Placed {
        entry,
        target,
        is_chosen,
    } = placed;
    let (size, hash) = match entry.kind {
        EntryKind::File { size, hash } => (size, hash),
        EntryKind::Folder => {
            return Step::Folder(
                target,
                (entry.mode, entry.mtime_ns, is_chosen),
                entry.extras,
            );
        }
        EntryKind::Symlink { target: points_to } => {
            return Step::Link(target, points_to, entry.mtime_ns);
        }
    };
    let extras = entry.extras;
    let entry = FileEntry {
        path: entry.path,
        size,
        mtime_ns: entry.mtime_ns,
        mode: entry.mode,
        hash,
    };
    if !is_small(size) {
        return Step::Large(Large {
            entry,
            target,
            extras,
        });
    }
    let there = if is_fresh {
        There::Nothing
    } else {
        look(folder, &target, size, hash)
    };
    match there {
        There::Same(hash) => Step::UpToDate(entry, target, hash),
        There::Other => Step::Differs(entry, target, extras),
        There::Nothing | There::SameSize => Step::Pack(Small {
            entry,
            target,
            extras,
            may_be_there: matches!(there, There::SameSize),
        }),
    }
}

fn look(folder: &Folder, target: &SafePath, size: FileSize, hash: Option<Hash>) -> There {
    let (file, stat) = match folder.open_file(target) {
        Ok(opened) => opened,
        // Where it cannot be told, placing tells: nothing is replaced unasked.
        Err(OpenError::NotFound | OpenError::TooManyOpen | OpenError::Other(_)) => {
            return There::Nothing;
        }
        Err(_) => return There::Other,
    };
    if stat.size != size.bytes() {
        return There::Other;
    }
    let Some(hash) = hash else {
        return There::SameSize;
    };
    match hash_file(&file, size, &|| false) {
        Ok(list) if list.root() == hash => There::Same(hash),
        _ => There::Other,
    }
}

/// Hands files to the workers, in turn.
struct HandOut {
    packs: Vec<mpsc::Sender<Vec<Small>>>,
    large: Vec<mpsc::Sender<Large>>,
    open: Vec<Small>,
    open_bytes: u64,
    open_names_bytes: usize,
    turn: usize,
    large_turn: usize,
}

impl HandOut {
    fn new(packs: Vec<mpsc::Sender<Vec<Small>>>, large: Vec<mpsc::Sender<Large>>) -> Self {
        Self {
            packs,
            large,
            open: Vec::new(),
            open_bytes: 0,
            open_names_bytes: 0,
            turn: 0,
            large_turn: 0,
        }
    }

    async fn pack(&mut self, small: Small) {
        let bytes = small.entry.size.bytes();
        let is_full = self.open.len() == PACK_MAX_FILES
            || self.open_bytes + bytes > PACK_MAX_BYTES
            || self.open_names_bytes > BATCH_TARGET_BYTES;
        if is_full {
            self.flush().await;
        }
        self.open_bytes += bytes;
        self.open_names_bytes += small.entry.path.as_bytes().len();
        self.open.push(small);
    }

    async fn flush(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let pack = std::mem::take(&mut self.open);
        (self.open_bytes, self.open_names_bytes) = (0, 0);
        self.turn += 1;
        // A worker that has ended has failed, and the whole fetch with it.
        if let Some(worker) = self.packs.get(self.turn % self.packs.len().max(1)) {
            let _ = worker.send(pack).await;
        }
    }

    async fn large(&mut self, large: Large) {
        self.large_turn += 1;
        if let Some(worker) = self.large.get(self.large_turn % self.large.len().max(1)) {
            let _ = worker.send(large).await;
        }
    }
}
