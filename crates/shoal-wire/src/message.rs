//! `Communication`: everything that two nodes say to each other on a request stream.
//!
//! Whoever wants something opens a stream, says one request and hears the answers on the same
//! stream; either side of a link may do so at any time. A request that cannot be met is answered
//! by [`Communication::Error`]. Variants are only ever appended: their order is their number on
//! the wire, which golden vectors under `docs/protocol/vectors/` hold fast.
//!
//! Every list type here is bounded while it is read (see [`crate::limits`]).

use std::net::SocketAddr;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize};

use crate::chunk::ChunkRanges;
use crate::code::Nameplate;
use crate::file::FileEntry;
use crate::grant::SignedGrant;
use crate::id::{Hash, NodeId, Signature};
use crate::limits::{
    ADDRESSES_MAX, ANNOUNCE_MAX_ENTRIES, HASH_PAGE_MAX, LOCATED_MAX, PACK_MAX_FILES,
    PAGE_MAX_ENTRIES,
};
use crate::manifest::{ManifestEntry, Omission, PackFiles};
use crate::offer::{CodeElement, OfferDescription, OfferSecret, OfferTicket, RelayPlace, Sealed};
use crate::path::SafePath;
use crate::rate::Rate;
use crate::refusal::Refusal;
use crate::text::{NodeName, ShortText, capped_seq};

/// A list of at most `MAX` items, valid once it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Bounded<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Bounded<T, MAX> {
    /// Takes the items, `None` if there are over `MAX`.
    pub fn new(items: Vec<T>) -> Option<Self> {
        (items.len() <= MAX).then_some(Self(items))
    }

    /// Takes the first `MAX` items.
    pub fn truncated(mut items: Vec<T>) -> Self {
        items.truncate(MAX);
        Self(items)
    }

    /// The items.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for Bounded<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        capped_seq::<_, T, MAX>(deserializer).map(Self)
    }
}

/// Addresses that a node claims.
pub type Addresses = Bounded<SocketAddr, ADDRESSES_MAX>;
/// One page of files.
pub type FilePage = Bounded<FileEntry, PAGE_MAX_ENTRIES>;

/// A peer's first words on a control link. Sent once per connection, before anything else;
/// answered by [`PresenceResponse`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceAnnounce {
    /// Name to show for it.
    pub name: NodeName,
    /// Random number of this process, so that a reconnect differs from a second machine.
    pub instance: u64,
    /// Whether it serves files and takes requests; a one-shot command does not.
    pub serving: bool,
    /// Program and version.
    pub agent: ShortText,
    /// What it can do beyond version 1, as bits; unknown bits are ignored.
    pub capabilities: u64,
    /// Where other peers may reach it directly.
    pub addresses: Addresses,
}

/// A server's answer to [`PresenceAnnounce`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceResponse {
    /// The server's own identity.
    pub server: NodeId,
    /// Its signature over [`presence_proof_bytes`] of this link's exported key, which proves the identity
    /// also where a CA's certificate was shown.
    pub proof: Signature,
    /// Program and version.
    pub agent: ShortText,
    /// The address that the server sees for the peer.
    pub observed: SocketAddr,
    /// How often the peer should say its addresses again, in milliseconds.
    pub announce_interval_ms: u32,
}

/// One batch of changes to what a peer offers. Sent by a peer, one after the other, sequence
/// counting up by one from 0 within a connection; answered by [`Communication::FileAcknowledge`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAnnounce {
    /// Position of the batch.
    pub sequence: u64,
    /// First batch of a whole listing: what was announced before is forgotten once the batch
    /// with `complete` arrives.
    pub snapshot: bool,
    /// Last batch of a snapshot, or a change after it.
    pub complete: bool,
    /// Files that are new or changed.
    pub added: Bounded<FileEntry, ANNOUNCE_MAX_ENTRIES>,
    /// Files that are gone.
    pub removed: Bounded<SafePath, ANNOUNCE_MAX_ENTRIES>,
}

/// What a listing or a look-up is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// The announced file, or the folder of announced files, at a path.
    Path(SafePath),
    /// Announced files with this content.
    Blob(Hash),
    /// As a person types it: a path, the last names of a path, or 6 or more leading hex digits
    /// of a hash. The server tries them in this order.
    Text(ShortText),
}

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Matched {
    /// One content; every provider named has it, best first.
    File,
    /// The files below this folder of one node, by path.
    Folder(SafePath),
    /// Several different files (or folders, named by their first file): a person must choose.
    Several,
}

/// Which peer a request is about, as a person names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRef {
    /// By node id.
    Id(NodeId),
    /// By name, or by the first hex digits of its id.
    Text(ShortText),
}

/// Asks for a page of files. To a server: of one peer, or of its own files where `peer` is `None`.
/// To a peer: of its own. Answered by [`Communication::FileListPage`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// Whose files, when a server is asked.
    pub peer: Option<PeerRef>,
    /// Only below this folder, or just this file.
    pub prefix: Option<SafePath>,
    /// Only after this path, in byte order: the last one of the page before.
    pub after: Option<SafePath>,
    /// Most entries in the page.
    pub limit: u32,
}

/// A file somewhere, as a server answers searches and look-ups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// The node that announced it.
    pub peer: NodeId,
    /// That node's name.
    pub peer_name: NodeName,
    /// Whether it is connected.
    pub online: bool,
    /// The file.
    pub entry: FileEntry,
}

/// Where and how one file can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// The node that has it.
    pub node: NodeId,
    /// That node's name.
    pub name: NodeName,
    /// Where to dial it; empty when it is the server that answers, over the same link.
    pub addresses: Addresses,
    /// The file as that node announced it.
    pub entry: FileEntry,
    /// The server's word for it; `None` when the provider is the server itself.
    pub grant: Option<SignedGrant>,
}

/// Asks a provider for one of its files: the first words of a transfer. Answered by
/// [`FileResponse`]; a [`Communication::FileGet`] may follow on the same stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRequest {
    /// The announced path.
    pub path: SafePath,
    /// The content that is expected, when it is known: another is refused.
    pub hash: Option<Hash>,
    /// The server's word for it; a server needs none from its peers, nor a peer from its server.
    pub grant: Option<SignedGrant>,
    /// Whether chunks may come compressed.
    pub accepts_zstd: bool,
}

/// How the bytes of a chunk or pack lie on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// As one zstd frame, only where it was accepted and for at most
    /// [`COMPRESSED_MAX_BYTES`](crate::limits::COMPRESSED_MAX_BYTES) of content.
    Zstd {
        /// Length of the frame, in bytes; shorter than the content.
        len_bytes: u32,
    },
}

/// Asks a provider what lies below a folder. Answered by [`Communication::ManifestPage`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRequest {
    /// The folder, or a single file; the whole share where `None`.
    pub folder: Option<SafePath>,
    /// Whether owners are wanted.
    pub owner: bool,
    /// Whether extended attributes are wanted.
    pub xattrs: bool,
    /// The server's word for it, as in [`FileRequest`].
    pub grant: Option<SignedGrant>,
}

/// Asks a provider for one pack of small files. Answered by [`Pack`]; others may follow on the
/// same stream, also before the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackGet {
    /// The files.
    pub files: PackFiles,
    /// Whether the pack may come compressed.
    pub accepts_zstd: bool,
    /// The server's word for them, as in [`FileRequest`]; needed once per stream.
    pub grant: Option<SignedGrant>,
}

/// What became of one file of a [`PackGet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PackedFile {
    /// Its whole content is in the pack, with this BLAKE3.
    Sent(Hash),
    /// It is left out.
    Refused(Refusal),
}

/// The head of a pack: what became of each file asked for, in that order. The contents of the
/// files that were sent follow on the stream, one behind the other, outside any frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// One for each file asked for.
    pub files: Bounded<PackedFile, PACK_MAX_FILES>,
    /// How the contents lie on the stream.
    pub encoding: Encoding,
}

/// A provider's description of the file it is about to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileResponse {
    /// The file as it is now. With `hash`, the hash list follows in
    /// [`Communication::HashListPage`]s where the file has more than one chunk.
    pub entry: FileEntry,
}

/// The head of one chunk; its bytes follow on the stream, outside any frame, as many as
/// `encoding` says: `len_bytes` where it is raw. Chunks come in the order asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChunk {
    /// Position in the file.
    pub index: u32,
    /// Its length, in bytes; the layout knows it too.
    pub len_bytes: u64,
    /// The chunk's hash: its BLAKE3 chaining value, or the root where it is the only chunk.
    pub hash: Hash,
    /// How the bytes lie on the stream.
    pub encoding: Encoding,
}

/// An offer: "fetch this". Sent by a server to a peer (a push when `provider` names the server
/// itself, a transfer between peers otherwise); answered by [`TransferProgress`] until it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOffer {
    /// Who has the file.
    pub provider: Provider,
    /// Where to put it, below the receiver's folder.
    pub target: SafePath,
    /// Replace another file that is already there.
    pub overwrite: bool,
}

/// How far a transfer is, as its receiver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferProgress {
    /// Size of the file, in bytes.
    pub total_bytes: u64,
    /// Verified at the receiver, in bytes.
    pub verified_bytes: u64,
    /// Verified and durable at the receiver, in bytes.
    pub durable_bytes: u64,
    /// Set in the last message: what became of it.
    pub outcome: Option<Outcome>,
}

/// How a transfer ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Fetched: durable under its final name, with this root.
    Fetched(Hash),
    /// The same content was already there.
    UpToDate(Hash),
}

/// What a server says about one connected peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSummary {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Program and version.
    pub agent: ShortText,
    /// The address that the server sees.
    pub observed: SocketAddr,
    /// How long it has been connected, in milliseconds.
    pub connected_ms: u64,
    /// How many files it announced.
    pub files: u64,
    /// Their size, in bytes.
    pub total_bytes: u64,
    /// Round-trip time, in microseconds.
    pub rtt_us: u64,
}

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its id.
    pub server: NodeId,
    /// Program and version.
    pub agent: ShortText,
    /// How long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// Connected, serving peers.
    pub peers: u64,
    /// Files in the catalog, its own included.
    pub files: u64,
    /// Their size, in bytes.
    pub total_bytes: u64,
    /// Files of the server's own.
    pub own_files: u64,
}

/// What becomes of one limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitChange {
    /// It stays as it is.
    #[default]
    Keep,
    /// What the node was started with counts again, its hours included.
    Configured,
    /// There is none, until the node ends or hears another word.
    Unlimited,
    /// It is this rate, until the node ends or hears another word.
    To(Rate),
}

/// Asks a peer what its rate limits are and, where something else than `Keep` is said, changes
/// them first. Sent by a server to a peer; answered by [`LimitsInForce`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitRequest {
    /// What the node sends, to all others together.
    pub up: LimitChange,
    /// What the node receives, from all others together.
    pub down: LimitChange,
    /// What the node sends to any one other.
    pub up_per_peer: LimitChange,
    /// What the node receives from any one other.
    pub down_per_peer: LimitChange,
}

/// The limits that a node keeps at this moment; `None` where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsInForce {
    /// What it sends, to all others together.
    pub up: Option<Rate>,
    /// What it receives, from all others together.
    pub down: Option<Rate>,
    /// What it sends to any one other.
    pub up_per_peer: Option<Rate>,
    /// What it receives from any one other.
    pub down_per_peer: Option<Rate>,
}

/// A refusal in words and number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The number.
    pub refusal: Refusal,
    /// What it is about.
    pub detail: ShortText,
    /// When it may be tried again, in milliseconds from now.
    pub retry_after_ms: Option<u32>,
}

/// One message. The order of the variants is their number on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Communication {
    /// 0: Peer to server: here I am.
    PresenceAnnounce(PresenceAnnounce),
    /// 1: Server to peer: welcome.
    PresenceResponse(PresenceResponse),
    /// 2: Peer to server: my files changed.
    FileAnnounce(FileAnnounce),
    /// 3: Server to peer: the batch with this sequence is taken.
    FileAcknowledge {
        /// The batch's sequence.
        sequence: u64,
    },
    /// 4: Either to either: list your files, or a peer's.
    FileList(FileList),
    /// 5: Answer to a list.
    FileListPage {
        /// The entries, by path in byte order.
        files: FilePage,
        /// Whether there are more after the last one.
        more: bool,
    },
    /// 6: Receiver to provider: I want this file.
    FileRequest(FileRequest),
    /// 7: Provider to receiver: here is what it is.
    FileResponse(FileResponse),
    /// 8: Provider to receiver: the next hashes of the list, until all chunks have theirs.
    HashListPage(Bounded<Hash, HASH_PAGE_MAX>),
    /// 9: Receiver to provider: send these chunks.
    FileGet(ChunkRanges),
    /// 10: Provider to receiver: a chunk, its bytes follow.
    FileChunk(FileChunk),
    /// 11: Receiver to provider: so many chunks or packs of those asked for, counted from the
    /// first, are verified and durable.
    FileChunkAck {
        /// How many, cumulative.
        durable_chunks: u32,
    },
    /// 12: Provider to receiver after the last chunk, with the root as it was hashed while
    /// sending (`None` where not all chunks were asked for); receiver to provider when the file
    /// is complete under its final name, and durable as far as it was acknowledged.
    FileTransferComplete {
        /// BLAKE3 of the whole content.
        root: Option<Hash>,
    },
    /// 13: Either to either: no.
    Error(ErrorReport),
    /// 14: Peer to server: find names that contain this text.
    Search {
        /// The text, matched anywhere in the path, letter case ignored.
        text: ShortText,
        /// Most hits.
        limit: u32,
    },
    /// 15: Answer to a search.
    SearchPage {
        /// The hits, best first.
        hits: Bounded<Hit, PAGE_MAX_ENTRIES>,
        /// Whether there are more.
        more: bool,
    },
    /// 16: Peer to server: who has this? Answered by `Located`, or `Error` with `NotFound`.
    Locate {
        /// At which peer; `None` for any.
        peer: Option<PeerRef>,
        /// What is wanted.
        wanted: Wanted,
        /// For folders: only after this path.
        after: Option<SafePath>,
    },
    /// 17: Server to peer: these have it, only from connected nodes.
    Located {
        /// What the wanted text turned out to be.
        matched: Matched,
        /// Where it can be fetched, each with a grant.
        files: Bounded<Provider, LOCATED_MAX>,
        /// Whether there are more after the last one (folders only).
        more: bool,
    },
    /// 18: Peer to server: who is connected?
    PeerList {
        /// Only after this id: the last one of the page before.
        after: Option<NodeId>,
    },
    /// 19: Answer to `PeerList`, by id.
    PeerListPage {
        /// The peers.
        peers: Bounded<PeerSummary, PAGE_MAX_ENTRIES>,
        /// Whether there are more.
        more: bool,
    },
    /// 20: Peer to server: how are you?
    StatusRequest,
    /// 21: Answer to `StatusRequest`.
    ServerStatus(ServerStatus),
    /// 22: Server to peer: fetch this.
    FileOffer(FileOffer),
    /// 23: Receiver to whoever offered: how far it is.
    TransferProgress(TransferProgress),
    /// 24: Server to peer: scan your folder again.
    Rescan,
    /// 25: Answer to `Rescan`, once what changed has been found.
    RescanDone {
        /// Files in the share.
        files: u64,
        /// Of these, new or changed.
        changed: u64,
        /// Gone since the last scan.
        removed: u64,
    },
    /// 26: Peer to server: my addresses are now these. Answered by `FileAcknowledge` 0.
    AddressUpdate(Addresses),
    /// 27: Receiver to provider: what lies below this folder?
    ManifestRequest(ManifestRequest),
    /// 28: Provider to receiver: the next entries of a manifest.
    ManifestPage {
        /// Files first, by path in byte order; then folders and symbolic links.
        entries: Bounded<ManifestEntry, PAGE_MAX_ENTRIES>,
        /// Whether another page follows.
        more: bool,
    },
    /// 29: Receiver to provider: send these small files.
    PackGet(PackGet),
    /// 30: Provider to receiver: the files of a pack, their contents follow.
    Pack(Pack),
    /// 31: Server to peer: these are your rate limits; or, what are they?
    LimitRequest(LimitRequest),
    /// 32: Answer to `LimitRequest`, once the limits are in force.
    LimitsInForce(LimitsInForce),
    /// 33: Receiver to provider, the first words of a stream: more chunks of the file that was
    /// requested on another stream of the same connection. A `FileGet` follows.
    FileJoin {
        /// The QUIC stream id of the request.
        stream: u64,
    },
    /// 34: Sender to server: keep a mailbox for a code, as long as this stream is open. Answered
    /// by `CodeAssigned`; each claim of it comes as a `CodeClaim` on a stream of its own.
    CodeOffer {
        /// The nameplate that it had before the connection was lost.
        nameplate: Option<Nameplate>,
        /// How long it is wanted, in seconds, at most
        /// [`MAILBOX_MAX_S`](crate::limits::MAILBOX_MAX_S).
        lifetime_s: u32,
    },
    /// 35: Server to sender: this is its nameplate.
    CodeAssigned {
        /// Another one than was asked for where that is taken.
        nameplate: Nameplate,
        /// How long it is kept, in seconds.
        lifetime_s: u32,
    },
    /// 36: Receiver to server, server to sender; on one LAN, receiver to sender: I have a code with
    /// this nameplate. From then on what the two say on the stream is passed on.
    CodeClaim {
        /// The nameplate.
        nameplate: Nameplate,
        /// The receiver: whoever is told compares it with who says it.
        claimant: NodeId,
    },
    /// 37: Receiver to sender and back: my half of the key exchange.
    CodeKey {
        /// The node that says it; it goes into the key.
        node: NodeId,
        /// Its half.
        element: CodeElement,
    },
    /// 38: Receiver to sender and back: I have the same key, and this is what only you may read:
    /// an [`Introduction`](crate::offer::Introduction) or an
    /// [`OfferTicket`](crate::offer::OfferTicket).
    CodeProof {
        /// A tag over the whole exchange.
        tag: [u8; 32],
        /// What is sealed.
        sealed: Sealed,
    },
    /// 39: Receiver to sender, on a stream that stays open for the whole visit: let me in.
    OfferOpen {
        /// What the ticket holds.
        secret: OfferSecret,
        /// The name that the receiver goes by.
        name: NodeName,
    },
    /// 40: Sender to receiver, once it is let in and all is listed.
    OfferDescribed(OfferDescription),
    /// 41: Receiver to sender: I have all that I wanted, durably.
    OfferDone {
        /// Files that it has of the offer.
        files: u64,
        /// Their size, in bytes.
        bytes: u64,
    },
    /// 42: Sender to server, server to peer: somebody offers you something. The ticket's sender is
    /// the one whose offer it is; only dialling it proves that.
    OfferNotice {
        /// For whom it is.
        to: NodeId,
        /// How to open the offer.
        ticket: OfferTicket,
    },
    /// 43: Peer to server: where is your relay? Answered by `RelayPlace`, or `Denied`.
    RelayRequest,
    /// 44: Answer to `RelayRequest`.
    RelayPlace(RelayPlace),
    /// 45: Peer to server: try to reach me from another port of yours, at the address where you see
    /// me. Answered by `NatTested`, or `Denied` where this link is relayed.
    NatTest,
    /// 46: Server to peer: I have tried, and one more port can be dialled for some seconds.
    NatTested {
        /// That port (UDP), at the server's address.
        port: u16,
        /// Whether the peer answered there.
        is_reached: bool,
    },
    /// 47: Provider to receiver, before the first page of a manifest: what lies below the folder and
    /// is not in it. Not said where nothing is left out.
    ManifestOmissions {
        /// How many entries are left out in all.
        count: u64,
        /// Some of them, by path in byte order, at most
        /// [`OMISSIONS_MAX`](crate::limits::OMISSIONS_MAX) in all such messages of a manifest.
        omissions: Bounded<Omission, PAGE_MAX_ENTRIES>,
    },
}

impl Communication {
    /// A refusal as a message.
    pub fn refused(refusal: Refusal, detail: &str) -> Self {
        Self::Error(ErrorReport {
            refusal,
            detail: ShortText::new(detail),
            retry_after_ms: None,
        })
    }
}

/// The bytes that a server signs to prove its identity on a link, from the key that TLS exports
/// for that link under [`PRESENCE_EXPORT_LABEL`] with the peer's node id as context.
pub fn presence_proof_bytes(exported: &[u8; 32]) -> Vec<u8> {
    [b"shoal/presence/1\0".as_slice(), exported].concat()
}

/// Label under which TLS exports the key for [`presence_proof_bytes`].
pub const PRESENCE_EXPORT_LABEL: &[u8] = b"EXPORTER-shoal-presence";
