//! Fetching packs on one stream: asked for ahead, verified file by file, staged.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use shoal_link::{Link, Stream};
use shoal_store::folder::Folder;
use shoal_store::hashing::{content_hash, hash_file};
use shoal_store::partial::PartialError;
use shoal_store::staging::{Attributes, Staging};
use shoal_wire::manifest::{PackFile, PackFiles};
use shoal_wire::message::{Encoding, Outcome, Pack, PackGet, PackedFile};
use shoal_wire::{Communication, Hash};
use tokio::sync::mpsc;

use super::Tree;
use super::landing::{Landed, LandedFile, Landing};
use super::listing::Small;
use super::voice::{hear, read};
use crate::fetch::{FetchError, Fetched};

/// Packs asked for before the first has come: hides the round trip.
const ASKED_AHEAD: usize = 2;

/// Fetches packs on a stream of its own.
pub(super) struct PackWorker {
    /// Its position among the workers.
    pub(super) number: usize,
    /// Its stream, once it has asked for something.
    pub(super) stream: Option<Stream>,
    staging: Arc<Staging>,
    /// Gone once nothing more lands from here.
    landed: Option<mpsc::Sender<Landed>>,
    asked: VecDeque<Vec<Small>>,
    acknowledged: u32,
    buffer: Vec<u8>,
    /// What came compressed, before it is its content.
    frame: Vec<u8>,
}

/// What became of one file of a pack.
enum Unpacked {
    Staged(LandedFile),
    Over(Small, Result<Fetched, FetchError>),
}

impl PackWorker {
    pub(super) fn new(number: usize, staging: Arc<Staging>, landed: mpsc::Sender<Landed>) -> Self {
        Self {
            number,
            stream: None,
            staging,
            landed: Some(landed),
            asked: VecDeque::new(),
            acknowledged: 0,
            buffer: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Fetches what comes out of `packs`, until no more does.
    pub(super) async fn run(
        &mut self,
        tree: &Tree<'_>,
        link: &Link,
        packs: &mut mpsc::Receiver<Vec<Small>>,
        landing: &Landing<'_>,
    ) -> Result<(), FetchError> {
        loop {
            while self.asked.len() < ASKED_AHEAD {
                let next = if self.asked.is_empty() {
                    packs.recv().await
                } else {
                    packs.try_recv().ok()
                };
                let Some(pack) = next else { break };
                self.ask(tree, link, pack).await?;
            }
            let Some(pack) = self.asked.pop_front() else {
                self.landed = None;
                return Ok(());
            };
            let head = self.hear_pack(tree, &pack).await?;
            self.unpack(tree, pack, head).await?;
            self.acknowledge(landing.durable_packs(self.number)).await;
        }
    }

    /// Says how many packs are durable, if that is news. A source that is gone shows elsewhere.
    pub(super) async fn acknowledge(&mut self, durable_chunks: u32) {
        if let Some(stream) = &mut self.stream
            && durable_chunks > self.acknowledged
        {
            let message = Communication::FileChunkAck { durable_chunks };
            let _ = stream.send.say(&message).await;
            self.acknowledged = durable_chunks;
        }
    }

    async fn ask(
        &mut self,
        tree: &Tree<'_>,
        link: &Link,
        pack: Vec<Small>,
    ) -> Result<(), FetchError> {
        let provider = &tree.job.source.provider;
        let file = |small: &Small| PackFile {
            path: small.entry.path.clone(),
            size: small.entry.size,
            mtime_ns: small.entry.mtime_ns,
        };
        let Some(files) = PackFiles::new(pack.iter().map(file).collect()) else {
            return Err(FetchError::misbehaved(provider, "a pack over its size"));
        };
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let opened = link.open().await;
                let stream = opened.map_err(|error| FetchError::lost(provider, &error))?;
                self.stream.insert(stream)
            }
        };
        let get = Communication::PackGet(PackGet {
            files,
            accepts_zstd: tree.job.options.policy.accepts_compressed,
            grant: provider.grant.clone(),
        });
        let said = stream.send.say(&get).await;
        said.map_err(|error| FetchError::lost(provider, &error))?;
        self.asked.push_back(pack);
        Ok(())
    }

    /// The head of a pack, and its contents in the buffer.
    async fn hear_pack(&mut self, tree: &Tree<'_>, pack: &[Small]) -> Result<Pack, FetchError> {
        let (provider, transfer) = (&tree.job.source.provider, &tree.job.transfer);
        let Some(stream) = &mut self.stream else {
            return Err(FetchError::misbehaved(provider, "no stream"));
        };
        let Communication::Pack(head) = hear(&mut stream.recv, provider, transfer).await? else {
            return Err(FetchError::misbehaved(provider, "no pack"));
        };
        if head.files.len() != pack.len() {
            return Err(FetchError::misbehaved(
                provider,
                "another pack than was asked for",
            ));
        }
        let sent = pack.iter().zip(head.files.iter());
        let sizes = sent.filter(|(_, packed)| matches!(packed, PackedFile::Sent(_)));
        let bytes: u64 = sizes.map(|(small, _)| small.entry.size.bytes()).sum();
        let (bytes, from) = (len(bytes), (provider, transfer));
        let Encoding::Zstd { len_bytes } = head.encoding else {
            read(&mut stream.recv, from, &mut self.buffer, bytes).await?;
            return Ok(head);
        };
        let frame_bytes = len(u64::from(len_bytes));
        if !tree.job.options.policy.accepts_compressed || frame_bytes >= bytes {
            return Err(FetchError::misbehaved(
                provider,
                "a compressed pack that was not accepted",
            ));
        }
        read(&mut stream.recv, from, &mut self.frame, frame_bytes).await?;
        if self.decompress(tree, bytes).await {
            Ok(head)
        } else {
            Err(FetchError::misbehaved(
                provider,
                "a pack that cannot be decompressed",
            ))
        }
    }

    /// Makes the content of the frame; false unless it has exactly this length.
    async fn decompress(&mut self, tree: &Tree<'_>, len_bytes: usize) -> bool {
        let (frame, mut content) = (
            std::mem::take(&mut self.frame),
            std::mem::take(&mut self.buffer),
        );
        let decompress = move || {
            content.resize(len_bytes, 0);
            let written = zstd::bulk::decompress_to_buffer(&frame, &mut content[..]);
            (frame, content, written.ok() == Some(len_bytes))
        };
        let (frame, content, is_whole) = tree.fetcher.tasks.blocking(decompress).await;
        (self.frame, self.buffer) = (frame, content);
        is_whole
    }

    async fn unpack(
        &mut self,
        tree: &Tree<'_>,
        pack: Vec<Small>,
        head: Pack,
    ) -> Result<(), FetchError> {
        let content = std::mem::take(&mut self.buffer);
        let (staging, folder) = (Arc::clone(&self.staging), tree.job.folder.clone());
        let bytes = content.len() as u64;
        let stage = Stage {
            provider: tree.job.source.provider.clone(),
            overwrite: tree.job.options.overwrite,
            staging,
            folder,
        };
        let (content, unpacked) = tree
            .fetcher
            .tasks
            .blocking(move || {
                let unpacked = stage.unpack(pack, &head, &content);
                (content, unpacked)
            })
            .await;
        self.buffer = content;
        tree.job.transfer.verified(bytes);
        let mut files = Vec::new();
        for file in unpacked? {
            match file {
                Unpacked::Staged(file) => files.push(file),
                Unpacked::Over(small, result) => {
                    tree.over(&small.entry.path, small.target, result).await;
                }
            }
        }
        let landed = Landed {
            worker: self.number,
            bytes,
            files,
        };
        // The landing outlives its workers unless it failed, which ends the fetch.
        let taken = match &self.landed {
            Some(landing) => landing.send(landed).await.is_ok(),
            None => false,
        };
        if taken {
            Ok(())
        } else {
            Err(FetchError::Partial(PartialError::Failed))
        }
    }
}

fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What staging needs on its thread.
struct Stage {
    provider: shoal_wire::message::Provider,
    overwrite: bool,
    staging: Arc<Staging>,
    folder: Folder,
}

impl Stage {
    fn unpack(
        &self,
        pack: Vec<Small>,
        head: &Pack,
        content: &[u8],
    ) -> Result<Vec<Unpacked>, FetchError> {
        let mut rest = content;
        let mut unpacked = Vec::with_capacity(pack.len());
        for (small, packed) in pack.into_iter().zip(head.files.iter()) {
            let hash = match packed {
                PackedFile::Sent(hash) => *hash,
                PackedFile::Refused(refusal) => {
                    let error =
                        FetchError::refused_file(&self.provider, *refusal, &small.entry.path);
                    unpacked.push(Unpacked::Over(small, Err(error)));
                    continue;
                }
            };
            let len = usize::try_from(small.entry.size.bytes()).unwrap_or(usize::MAX);
            let Some((bytes, behind)) = rest.split_at_checked(len) else {
                return Err(FetchError::misbehaved(&self.provider, "a pack cut short"));
            };
            rest = behind;
            let is_true = content_hash(bytes) == hash;
            if !is_true || small.entry.hash.is_some_and(|expected| expected != hash) {
                return Err(FetchError::BadFile {
                    peer: self.provider.name.clone(),
                    node: self.provider.node,
                    path: small.entry.path,
                });
            }
            unpacked.push(self.stage(small, hash, bytes)?);
        }
        Ok(unpacked)
    }

    fn stage(&self, small: Small, hash: Hash, bytes: &[u8]) -> Result<Unpacked, FetchError> {
        let total_bytes = bytes.len() as u64;
        if small.may_be_there {
            if self.is_there(&small, hash) {
                let outcome = Outcome::UpToDate(hash);
                let fetched = Fetched {
                    outcome,
                    total_bytes,
                    reused_bytes: 0,
                };
                return Ok(Unpacked::Over(small, Ok(fetched)));
            }
            if !self.overwrite {
                let path = self.folder.path_of(&small.target);
                return Ok(Unpacked::Over(
                    small,
                    Err(FetchError::TargetExists { path }),
                ));
            }
        }
        let attributes = Attributes {
            mode: small.entry.mode,
            mtime_ns: small.entry.mtime_ns,
            extras: small.extras.as_ref(),
        };
        match self.staging.write(bytes, &attributes) {
            Ok(staged) => Ok(Unpacked::Staged(LandedFile {
                path: small.entry.path,
                target: small.target,
                staged,
                hash,
                total_bytes,
            })),
            Err(error) => Err(self.cannot_write(total_bytes, error)),
        }
    }

    fn is_there(&self, small: &Small, hash: Hash) -> bool {
        let Ok((file, _)) = self.folder.open_file(&small.target) else {
            return false;
        };
        let hashed = hash_file(&file, small.entry.size, &|| false);
        hashed.is_ok_and(|list| list.root() == hash)
    }

    fn cannot_write(&self, needed: u64, error: io::Error) -> FetchError {
        let is_gone = Errno::from_io_error(&error) == Some(Errno::NOENT);
        let path = self.folder.path().to_owned();
        if is_gone {
            return FetchError::Partial(PartialError::FolderGone { path });
        }
        FetchError::Partial(PartialError::of(&self.folder, needed, error))
    }
}
