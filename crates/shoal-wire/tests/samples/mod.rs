//! One sample of every message, with every kind of field filled.

use shoal_wire::grant::{Grant, Scope, SignedGrant, Verb};
use shoal_wire::manifest::*;
use shoal_wire::message::*;
use shoal_wire::offer::*;
use shoal_wire::{
    ChunkRanges, Communication, FileEntry, FileSize, Hash, Nameplate, NodeId, NodeName, Rate,
    Refusal, SafePath, ShortText, Signature,
};

fn node(byte: u8) -> NodeId {
    NodeId::new([byte; 32])
}

fn name(text: &str) -> NodeName {
    text.parse().expect(text)
}

fn path(text: &str) -> SafePath {
    text.parse().expect(text)
}

fn addresses() -> Addresses {
    let texts = ["192.0.2.7:8080", "[2001:db8::1]:443"];
    Bounded::truncated(texts.iter().map(|text| text.parse().expect(text)).collect())
}

fn entry() -> FileEntry {
    FileEntry {
        path: path("docs/a file.txt"),
        size: FileSize::new(5_000_000_000).expect("within the limit"),
        mtime_ns: 1_700_000_000_123_456_789,
        mode: 0o644,
        hash: Some(Hash::new([0xaa; 32])),
    }
}

fn grant(scope: Scope) -> SignedGrant {
    let grant = Grant {
        issuer: node(1),
        holder: node(2),
        provider: node(3),
        scope,
        verb: Verb::Fetch,
        expires_at_ms: 1_800_000_000_000,
    };
    SignedGrant {
        grant,
        signature: Signature::new([0x5a; 64]),
    }
}

fn provider() -> Provider {
    Provider {
        node: node(3),
        name: name("anna"),
        addresses: addresses(),
        entry: entry(),
        grant: Some(grant(Scope::Path(path("docs")))),
    }
}

fn progress(outcome: Option<Outcome>) -> Communication {
    Communication::TransferProgress(TransferProgress {
        total_bytes: 300,
        verified_bytes: 200,
        durable_bytes: 100,
        outcome,
    })
}

fn presence() -> [(&'static str, Communication); 3] {
    [
        (
            "presence_announce",
            Communication::PresenceAnnounce(PresenceAnnounce {
                name: name("anna"),
                instance: 0x0102_0304_0506_0708,
                serving: true,
                agent: ShortText::new("shoal/0.1.0"),
                capabilities: 0,
                addresses: addresses(),
            }),
        ),
        (
            "presence_response",
            Communication::PresenceResponse(PresenceResponse {
                server: node(1),
                proof: Signature::new([0x77; 64]),
                agent: ShortText::new("shoal/0.1.0"),
                observed: "192.0.2.9:50000".parse().expect("address"),
                announce_interval_ms: 60_000,
            }),
        ),
        ("address_update", Communication::AddressUpdate(addresses())),
    ]
}

fn files() -> [(&'static str, Communication); 8] {
    [
        (
            "file_announce",
            Communication::FileAnnounce(FileAnnounce {
                sequence: 3,
                snapshot: true,
                complete: false,
                added: Bounded::truncated(vec![entry()]),
                removed: Bounded::truncated(vec![path("old.txt")]),
            }),
        ),
        (
            "file_acknowledge",
            Communication::FileAcknowledge { sequence: 3 },
        ),
        (
            "file_list",
            Communication::FileList(FileList {
                peer: Some(PeerRef::Id(node(3))),
                prefix: Some(path("docs")),
                after: None,
                limit: 100,
            }),
        ),
        (
            "file_list_page",
            Communication::FileListPage {
                files: Bounded::truncated(vec![entry()]),
                more: true,
            },
        ),
        (
            "search",
            Communication::Search {
                text: ShortText::new("report"),
                limit: 50,
            },
        ),
        (
            "search_page",
            Communication::SearchPage {
                hits: Bounded::truncated(vec![Hit {
                    peer: node(3),
                    peer_name: name("anna"),
                    online: true,
                    entry: entry(),
                }]),
                more: false,
            },
        ),
        ("rescan", Communication::Rescan),
        (
            "rescan_done",
            Communication::RescanDone {
                files: 10,
                changed: 2,
                removed: 1,
            },
        ),
    ]
}

fn transfers() -> [(&'static str, Communication); 9] {
    [
        (
            "file_request",
            Communication::FileRequest(FileRequest {
                path: path("docs/a file.txt"),
                hash: Some(Hash::new([0xaa; 32])),
                grant: Some(grant(Scope::Blob(Hash::new([0xaa; 32])))),
                accepts_zstd: true,
            }),
        ),
        (
            "file_response",
            Communication::FileResponse(FileResponse { entry: entry() }),
        ),
        (
            "hash_list_page",
            Communication::HashListPage(Bounded::truncated(vec![
                Hash::new([1; 32]),
                Hash::new([2; 32]),
            ])),
        ),
        (
            "file_get",
            Communication::FileGet(ChunkRanges::new(vec![0..2, 7..4769]).expect("ascending")),
        ),
        (
            "file_chunk",
            Communication::FileChunk(FileChunk {
                index: 4768,
                len_bytes: 1 << 20,
                hash: Hash::new([3; 32]),
                encoding: Encoding::Zstd { len_bytes: 1_000 },
            }),
        ),
        (
            "file_chunk_ack",
            Communication::FileChunkAck {
                durable_chunks: 300,
            },
        ),
        ("file_join", Communication::FileJoin { stream: 300 }),
        (
            "file_transfer_complete",
            Communication::FileTransferComplete {
                root: Some(Hash::new([0xaa; 32])),
            },
        ),
        (
            "error",
            Communication::Error(ErrorReport {
                refusal: Refusal::QuotaExceeded,
                detail: ShortText::new("too many files"),
                retry_after_ms: Some(1_500),
            }),
        ),
    ]
}

fn manifest_entries() -> Vec<ManifestEntry> {
    let size = FileSize::new(5_000).expect("within the limit");
    let entry = |path_text, kind, extras| ManifestEntry {
        path: path(path_text),
        kind,
        mtime_ns: 1_700_000_000_123_456_789,
        mode: 0o644,
        extras,
    };
    let hash = Some(Hash::new([0xaa; 32]));
    let extras = Extras {
        owner: Some(Owner {
            uid: 1000,
            gid: 100,
        }),
        xattrs: Bounded::truncated(vec![Xattr::new(b"user.note", b"x").expect("short")]),
        xattrs_left_out: 1,
    };
    let target = LinkTarget::new(b"a file.txt").expect("short");
    vec![
        entry(
            "docs/a file.txt",
            EntryKind::File { size, hash },
            Some(extras),
        ),
        entry("docs/empty", EntryKind::Folder, None),
        entry("docs/link", EntryKind::Symlink { target }, None),
    ]
}

fn trees() -> [(&'static str, Communication); 5] {
    let pack_file = PackFile {
        path: path("docs/a file.txt"),
        size: FileSize::new(5_000).expect("within the limit"),
        mtime_ns: 1_700_000_000_123_456_789,
    };
    let packed = vec![
        PackedFile::Sent(Hash::new([0xaa; 32])),
        PackedFile::Refused(Refusal::SourceChanged),
    ];
    [
        (
            "manifest_request",
            Communication::ManifestRequest(ManifestRequest {
                folder: Some(path("docs")),
                owner: true,
                xattrs: false,
                grant: Some(grant(Scope::Path(path("docs")))),
            }),
        ),
        (
            "manifest_page",
            Communication::ManifestPage {
                entries: Bounded::truncated(manifest_entries()),
                more: true,
            },
        ),
        (
            "manifest_omissions",
            Communication::ManifestOmissions {
                count: 2,
                omissions: Bounded::truncated(vec![Omission {
                    path: OmittedPath::truncated(b"mail/cur/1:2,S").expect("a path"),
                    reason: OmissionReason::Name,
                }]),
            },
        ),
        (
            "pack_get",
            Communication::PackGet(PackGet {
                files: PackFiles::new(vec![pack_file]).expect("small"),
                accepts_zstd: false,
                grant: None,
            }),
        ),
        (
            "pack",
            Communication::Pack(Pack {
                files: Bounded::truncated(packed),
                encoding: Encoding::Raw,
            }),
        ),
    ]
}

fn look_ups_and_offers() -> [(&'static str, Communication); 6] {
    [
        (
            "locate",
            Communication::Locate {
                peer: Some(PeerRef::Text(ShortText::new("anna"))),
                wanted: Wanted::Text(ShortText::new("a file.txt")),
                after: None,
            },
        ),
        (
            "located",
            Communication::Located {
                matched: Matched::Folder(path("docs")),
                files: Bounded::truncated(vec![provider()]),
                more: false,
            },
        ),
        (
            "file_offer",
            Communication::FileOffer(FileOffer {
                provider: provider(),
                target: path("in/a file.txt"),
                overwrite: false,
            }),
        ),
        ("transfer_progress", progress(None)),
        (
            "transfer_fetched",
            progress(Some(Outcome::Fetched(Hash::new([0xaa; 32])))),
        ),
        (
            "transfer_up_to_date",
            progress(Some(Outcome::UpToDate(Hash::new([0xaa; 32])))),
        ),
    ]
}

fn server() -> [(&'static str, Communication); 4] {
    let summary = PeerSummary {
        node: node(3),
        name: name("anna"),
        agent: ShortText::new("shoal/0.1.0"),
        observed: "192.0.2.9:50000".parse().expect("address"),
        connected_ms: 60_000,
        files: 12,
        total_bytes: 345_678,
        rtt_us: 250,
    };
    let status = ServerStatus {
        server: node(1),
        agent: ShortText::new("shoal/0.1.0"),
        uptime_ms: 3_600_000,
        peers: 3,
        files: 100,
        total_bytes: 1_000_000,
        own_files: 4,
    };
    [
        (
            "peer_list",
            Communication::PeerList {
                after: Some(node(2)),
            },
        ),
        (
            "peer_list_page",
            Communication::PeerListPage {
                peers: Bounded::truncated(vec![summary]),
                more: false,
            },
        ),
        ("status_request", Communication::StatusRequest),
        ("server_status", Communication::ServerStatus(status)),
    ]
}

fn limits() -> [(&'static str, Communication); 2] {
    let rate = |bytes_per_second| Rate::new(bytes_per_second).expect("within the limits");
    [
        (
            "limit_request",
            Communication::LimitRequest(LimitRequest {
                up: LimitChange::To(rate(1_500_000)),
                down: LimitChange::Unlimited,
                up_per_peer: LimitChange::Keep,
                down_per_peer: LimitChange::Configured,
            }),
        ),
        (
            "limits_in_force",
            Communication::LimitsInForce(LimitsInForce {
                up: Some(rate(1_500_000)),
                down: None,
                up_per_peer: None,
                down_per_peer: Some(rate(300_000)),
            }),
        ),
    ]
}

fn offer_ticket() -> OfferTicket {
    OfferTicket {
        sender: node(3),
        secret: OfferSecret::new([0x5e; 16]),
        addresses: addresses(),
        via: Some(Via {
            server: node(1),
            addresses: addresses(),
            pass: RelayPass::new("a-pass"),
        }),
        expires_at_s: 1_800_000_000,
    }
}

fn codes() -> [(&'static str, Communication); 5] {
    let nameplate = Nameplate::new(300).expect("within the limits");
    [
        (
            "code_offer",
            Communication::CodeOffer {
                nameplate: Some(nameplate),
                lifetime_s: 3600,
            },
        ),
        (
            "code_assigned",
            Communication::CodeAssigned {
                nameplate,
                lifetime_s: 3600,
            },
        ),
        (
            "code_claim",
            Communication::CodeClaim {
                nameplate,
                claimant: node(2),
            },
        ),
        (
            "code_key",
            Communication::CodeKey {
                node: node(2),
                element: Bounded::truncated(vec![0x53; 33]),
            },
        ),
        (
            "code_proof",
            Communication::CodeProof {
                tag: [0x7a; 32],
                sealed: Bounded::truncated(vec![1, 2, 3]),
            },
        ),
    ]
}

fn offers() -> [(&'static str, Communication); 8] {
    let pass = |text| RelayPass::new(text).expect("plain");
    [
        (
            "offer_open",
            Communication::OfferOpen {
                secret: OfferSecret::new([0x5e; 16]),
                name: name("bob"),
            },
        ),
        (
            "offer_described",
            Communication::OfferDescribed(OfferDescription {
                name: name("anna"),
                files: 12,
                total_bytes: 5_000_000_000,
            }),
        ),
        (
            "offer_done",
            Communication::OfferDone {
                files: 12,
                bytes: 5_000_000_000,
            },
        ),
        (
            "offer_notice",
            Communication::OfferNotice {
                to: node(2),
                ticket: offer_ticket(),
            },
        ),
        ("relay_request", Communication::RelayRequest),
        (
            "relay_place",
            Communication::RelayPlace(RelayPlace {
                port: 8080,
                address_discovery_port: 8080,
                pass: pass("a-pass"),
                guest_pass: pass("another"),
                lifetime_s: 86_400,
                apart: None,
            }),
        ),
        ("nat_test", Communication::NatTest),
        (
            "nat_tested",
            Communication::NatTested {
                port: 50_000,
                is_reached: true,
            },
        ),
    ]
}

/// Name and message of every sample.
pub(crate) fn all() -> Vec<(&'static str, Communication)> {
    let mut samples = Vec::new();
    samples.extend(presence());
    samples.extend(files());
    samples.extend(transfers());
    samples.extend(look_ups_and_offers());
    samples.extend(trees());
    samples.extend(server());
    samples.extend(limits());
    samples.extend(codes());
    samples.extend(offers());
    samples
}
