//! Every bound on what another machine may send, each with its unit and its reason.

/// Longest frame of any kind, in bytes; each kind has its own cap at or below it.
pub const FRAME_MAX_BYTES: u32 = 1024 * 1024;
/// Frame cap of requests and answers that carry no list, in bytes: a path of the longest kind,
/// sixteen addresses and a grant fit with room to spare.
pub const FRAME_SMALL_BYTES: u32 = 16 * 1024;
/// Longest path of a shared file, in bytes (Linux `PATH_MAX`, less the receiver's own folder).
pub const PATH_MAX_BYTES: usize = 3072;
/// Longest single name in a path, in bytes (`NAME_MAX` of common file systems).
pub const NAME_MAX_BYTES: usize = 255;
/// Deepest nesting of a path, in components.
pub const PATH_MAX_DEPTH: usize = 128;
/// Longest name of a node, in bytes.
pub const NODE_NAME_MAX_BYTES: usize = 64;
/// Longest free text in a message (reasons, versions), in bytes.
pub const SHORT_TEXT_MAX_BYTES: usize = 512;
/// Most addresses that a node may claim.
pub const ADDRESSES_MAX: usize = 16;
/// Most entries in one page of files, hits or peers.
pub const PAGE_MAX_ENTRIES: usize = 4096;
/// Most added plus removed entries in one announce batch.
pub const ANNOUNCE_MAX_ENTRIES: usize = 2048;
/// Target size of a batch or page, in bytes; one entry more may pass it, never the frame cap.
pub const BATCH_TARGET_BYTES: usize = 512 * 1024;
/// Most files that one peer may announce.
pub const ANNOUNCED_FILES_MAX: u64 = 2_000_000;
/// Most providers of one content that a server names.
pub const PROVIDERS_MAX: usize = 16;
/// Most files with provider and grant in one answer (each up to about 4 KiB).
pub const LOCATED_MAX: usize = 1024;
/// Most hashes in one page of a hash list (32 bytes each: 512 KiB).
pub const HASH_PAGE_MAX: usize = 16 * 1024;
/// Most ranges in one request for chunks.
pub const CHUNK_RANGES_MAX: usize = 4096;
/// Smallest chunk, as a power of two in bytes: 1 MiB.
pub const CHUNK_MIN_LOG2: u8 = 20;
/// Largest chunk, as a power of two in bytes: 1 GiB, so that a buffer never holds a whole one.
pub const CHUNK_MAX_LOG2: u8 = 30;
/// Most chunks in a file; the chunk grows with the file to stay at or below it.
pub const CHUNKS_MAX: u64 = 16 * 1024;
/// Largest file, in bytes: [`CHUNKS_MAX`] chunks of the largest size, 16 TiB.
pub const FILE_MAX_BYTES: u64 = CHUNKS_MAX << CHUNK_MAX_LOG2;
/// Most files in one pack of small files.
pub const PACK_MAX_FILES: usize = 1024;
/// Most content of one pack, in bytes: one chunk of the smallest kind.
pub const PACK_MAX_BYTES: u64 = 1 << CHUNK_MIN_LOG2;
/// Most entries that are named of those which a provider leaves out of a folder; the rest is counted.
pub const OMISSIONS_MAX: usize = 10_000;
/// Longest path of such an entry, in bytes (Linux `PATH_MAX`).
pub const OMITTED_PATH_MAX_BYTES: usize = 4096;
/// Longest content of a symbolic link, in bytes (Linux `PATH_MAX` less the closing NUL).
pub const LINK_TARGET_MAX_BYTES: usize = 4095;
/// Longest name of an extended attribute, in bytes (Linux `XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX_BYTES: usize = 255;
/// Longest value of an extended attribute that travels, in bytes: what most file systems hold
/// beside an inode; longer ones are reported as lost.
pub const XATTR_VALUE_MAX_BYTES: usize = 4096;
/// Most extended attributes of one entry that travel.
pub const XATTRS_MAX: usize = 32;
/// Most bytes of a chunk or pack that may come compressed: both ends hold it whole.
pub const COMPRESSED_MAX_BYTES: u64 = 1 << 24;
/// Lowest rate limit, in bytes per second: less cannot keep a few transfers from counting as lost.
pub const RATE_MIN_BYTES_PER_SECOND: u64 = 1_000;
/// Highest rate limit, in bytes per second: no machine comes near it.
pub const RATE_MAX_BYTES_PER_SECOND: u64 = 1_000_000_000_000_000;
/// Longest ticket, in characters.
pub const TICKET_MAX_CHARS: usize = 2048;
/// Longest relay pass, in bytes.
pub const RELAY_PASS_MAX_BYTES: usize = 160;
/// Most bytes that are sealed in the proof of a code: a ticket of the longest kind.
pub const SEALED_MAX_BYTES: usize = 2048;
/// Longest life of a mailbox, in seconds: a week.
pub const MAILBOX_MAX_S: u32 = 7 * 24 * 3600;
