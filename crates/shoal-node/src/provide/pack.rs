//! Serving packs: runs of small files, read whole, each with its hash.
//!
//! A file is sent only as it was announced and as the manifest described it; any other is refused
//! by itself and the rest of the pack goes on. The next pack is read while one is being sent.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use bytes::Bytes;
use shoal_link::{HearError, RecvStream, SendStream, Stream};
use shoal_store::folder::{Folder, OpenError, stat_of};
use shoal_store::hashing::content_hash;
use shoal_wire::manifest::PackFile;
use shoal_wire::message::{Bounded, Encoding, Pack, PackGet, PackedFile};
use shoal_wire::{Communication, Hash, NodeId, Refusal, Scope};
use tokio::sync::mpsc;

use super::compress::{self, Probe, Trial};
use super::room::ROOMS;
use super::send::{hand_over, in_time};
use super::{Asker, Provide, SILENCE_DEADLINE, Stop, WAITING_REQUESTS, let_go, refuse, stuck};
use crate::budget::Buffer;
use crate::share::{Share, SharedFile};
use crate::transfers::{Direction, EndOnDrop, State, Transfer};

/// Packs that one stream may leave unacknowledged: eight bytes are kept of each.
const UNACKNOWLEDGED_MAX: usize = 1 << 20;
/// How often a file without a hash is read where its attributes change meanwhile.
const READ_TRIES: usize = 3;

/// A pack in memory.
struct Prepared {
    files: Vec<PackedFile>,
    /// As it goes out.
    content: Buffer,
    encoding: Encoding,
    content_bytes: u64,
    trial: Option<Trial>,
}

impl Prepared {
    /// Puts a frame in the place of the content where that is enough shorter.
    fn compress(&mut self, mut frame: Buffer) {
        let (written, trial) = compress::compress(std::slice::from_ref(&self.content), &mut frame);
        self.trial = Some(trial);
        if let Some(written) = written
            && let Ok(len_bytes) = u32::try_from(written)
        {
            frame.truncate(written);
            self.encoding = Encoding::Zstd { len_bytes };
            self.content = frame;
        }
    }
}

impl Provide {
    /// Answers a [`PackGet`] and those that follow it on the stream.
    pub(super) async fn serve_packs(&self, first: PackGet, asker: Asker, mut stream: Stream) {
        let scope = match self.scope_of(first.grant.as_ref(), &asker) {
            Ok(scope) => scope,
            Err(Stop::Refuse(refusal, detail)) => {
                let report = Communication::refused(refusal, &detail);
                let _gone = stream.send.say(&report).await;
                stream.send.finish();
                return;
            }
            Err(Stop::Gone) => return,
        };
        let Some(path) = first.files.first().map(|file| file.path.clone()) else {
            stream.send.finish();
            return;
        };
        let transfer = self
            .transfers
            .begin(Direction::Sending, path, asker.name.clone());
        transfer.travels(stream.link());
        let _ended = EndOnDrop(transfer.clone());
        let Stream {
            mut send, mut recv, ..
        } = stream;
        let (asked, to_send) = mpsc::channel(WAITING_REQUESTS);
        let hearing = hear(first, &mut recv, asked, &transfer);
        let to = (asker.node, &transfer);
        let sending = self.send_packs(to_send, &scope, &mut send, to);
        let ended = tokio::select! {
            ended = async { tokio::try_join!(hearing, sending) } => ended,
            stop = stuck(asker.node) => Err(stop),
            () = transfer.cancelled() => Err(refuse(Refusal::Cancelled, "")),
            () = self.tasks.cancelled() => Err(refuse(Refusal::ShuttingDown, "")),
        };
        match ended {
            Ok(((), ())) => {
                transfer.ended(State::Complete);
                let_go(&mut send, asker.node).await;
            }
            Err(Stop::Refuse(refusal, detail)) => {
                tracing::info!(peer = %asker.name, %refusal, detail, "packs ended");
                send.reset(refusal);
                recv.stop(refusal);
                transfer.ended(State::Failed(refusal));
            }
            Err(Stop::Gone) => transfer.ended(State::Failed(Refusal::Unreachable)),
        }
    }

    async fn send_packs(
        &self,
        mut to_send: mpsc::Receiver<PackGet>,
        scope: &Scope,
        send: &mut SendStream,
        (to, transfer): (NodeId, &Transfer),
    ) -> Result<(), Stop> {
        let mut probe = Probe::new(true, Instant::now());
        let mut next = match to_send.recv().await {
            Some(wanted) => Some(self.prepare_pack(wanted, (scope, to), &mut probe).await),
            None => None,
        };
        while let Some(prepared) = next {
            let wire_bytes = prepared.content.len() as u64;
            if let Some(trial) = prepared.trial {
                probe.tried(trial);
            }
            let sending = async {
                let head = Pack {
                    files: Bounded::truncated(prepared.files),
                    encoding: prepared.encoding,
                };
                in_time(send.say(&Communication::Pack(head))).await??;
                let content = Bytes::from_owner(prepared.content);
                hand_over(content, to, (send, transfer)).await?;
                transfer.verified(prepared.content_bytes);
                Ok::<(), Stop>(())
            };
            let preparing = async {
                Ok(match to_send.recv().await {
                    Some(wanted) => Some(self.prepare_pack(wanted, (scope, to), &mut probe).await),
                    None => None,
                })
            };
            let ((), following) = tokio::try_join!(sending, preparing)?;
            probe.sent(wire_bytes, Instant::now());
            next = following;
        }
        Ok(())
    }

    async fn prepare_pack(
        &self,
        wanted: PackGet,
        (scope, to): (&Scope, NodeId),
        probe: &mut Probe,
    ) -> Prepared {
        let (share, scope) = (self.share.clone(), scope.clone());
        let content_bytes = wanted.files.content_bytes();
        let is_compressed = wanted.accepts_zstd && probe.wants(content_bytes);
        let len_bytes = usize::try_from(content_bytes).unwrap_or(usize::MAX);
        let room_bytes = len_bytes.saturating_mul(1 + usize::from(is_compressed));
        let mut room = ROOMS.reserve(to, room_bytes).await;
        self.tasks
            .blocking(move || {
                let mut prepared = read_pack(&share, &scope, &wanted, room.take(len_bytes));
                if is_compressed {
                    prepared.compress(room.take(len_bytes));
                }
                prepared
            })
            .await
    }
}

fn read_pack(share: &Share, scope: &Scope, wanted: &PackGet, mut content: Buffer) -> Prepared {
    let mut filled = 0_usize;
    let read = |file: &PackFile| {
        let len_bytes = usize::try_from(file.size.bytes()).unwrap_or(usize::MAX);
        let Some(place) = content.get_mut(filled..filled.saturating_add(len_bytes)) else {
            return PackedFile::Refused(Refusal::TooLarge);
        };
        match read_file(share, scope, file, place) {
            Ok(hash) => {
                filled += len_bytes;
                PackedFile::Sent(hash)
            }
            Err(refusal) => PackedFile::Refused(refusal),
        }
    };
    let files = wanted.files.iter().map(read).collect();
    content.truncate(filled);
    Prepared {
        files,
        content,
        encoding: Encoding::Raw,
        content_bytes: filled as u64,
        trial: None,
    }
}

/// Reads the whole content of one file into a place of its size.
fn read_file(
    share: &Share,
    scope: &Scope,
    wanted: &PackFile,
    place: &mut [u8],
) -> Result<Hash, Refusal> {
    let shared = share.file(&wanted.path);
    let hash = shared.as_ref().and_then(|shared| shared.entry.hash);
    if !scope.covers(&wanted.path, hash.as_ref()) {
        return Err(Refusal::NotGranted);
    }
    let shared = shared.ok_or(Refusal::NotFound)?;
    let entry = &shared.entry;
    if (entry.size, entry.mtime_ns) != (wanted.size, wanted.mtime_ns) {
        return Err(Refusal::SourceChanged);
    }
    if !fill(&share.roots().folder_of(&entry.path), &shared, place)? {
        share.withdraw(&shared);
        return Err(Refusal::SourceChanged);
    }
    Ok(hash.unwrap_or_else(|| content_hash(place)))
}

/// Reads a file; `false` if it is not, or no longer, the version that is shared. One whose attributes
/// changed since it was hashed is so if it still has its hash.
fn fill(folder: &Folder, shared: &SharedFile, place: &mut [u8]) -> Result<bool, Refusal> {
    let version = shared.stat.version();
    let (file, mut before) = match folder.open_file(&shared.entry.path) {
        Ok((file, stat)) if stat.version() == version => (file, stat),
        Ok(_) | Err(OpenError::NotFound | OpenError::NotRegular | OpenError::Symlink) => {
            return Ok(false);
        }
        Err(_) => return Err(Refusal::SourceUnreadable),
    };
    for _ in 0..READ_TRIES {
        match file.read_exact_at(place, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(_) => return Err(Refusal::SourceUnreadable),
        }
        // Compared after reading: what was read is of the announced version.
        let Ok(after) = stat_of(&file) else {
            return Ok(false);
        };
        if after.version() != version {
            return Ok(false);
        }
        match shared.entry.hash {
            Some(_) if after.ctime_ns == shared.stat.ctime_ns => return Ok(true),
            Some(hash) => return Ok(content_hash(place) == hash),
            None if after.ctime_ns == before.ctime_ns => return Ok(true),
            None => before = after,
        }
    }
    Ok(false)
}

/// Hears which packs are wanted and which are durable, until the receiver has all it wants.
async fn hear(
    first: PackGet,
    recv: &mut RecvStream,
    asked: mpsc::Sender<PackGet>,
    transfer: &Transfer,
) -> Result<(), Stop> {
    let mut unacknowledged = VecDeque::new();
    let (mut total_bytes, mut durable_bytes, mut durable_packs) = (0, 0, 0);
    let mut wanted = Some(first);
    loop {
        if let Some(pack) = wanted.take() {
            let bytes = pack.files.content_bytes();
            unacknowledged.push_back(bytes);
            if unacknowledged.len() > UNACKNOWLEDGED_MAX {
                return Err(refuse(Refusal::QuotaExceeded, "too many packs at once"));
            }
            total_bytes += bytes;
            transfer.sized(total_bytes);
            if asked.send(pack).await.is_err() {
                return Err(Stop::Gone);
            }
        }
        match recv.hear(SILENCE_DEADLINE).await {
            Ok(Some(Communication::PackGet(pack))) => wanted = Some(pack),
            Ok(Some(Communication::FileChunkAck { durable_chunks })) => {
                while durable_packs < durable_chunks
                    && let Some(bytes) = unacknowledged.pop_front()
                {
                    durable_packs += 1;
                    durable_bytes += bytes;
                }
                transfer.durable(durable_bytes);
            }
            Ok(Some(_)) => return Err(refuse(Refusal::Unexpected, "not part of a transfer")),
            Ok(None) => return Ok(()),
            Err(HearError::Stream(_)) => return Err(Stop::Gone),
            Err(error) => return Err(refuse(error.refusal(), error)),
        }
    }
}
