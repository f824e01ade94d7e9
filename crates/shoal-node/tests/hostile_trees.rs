//! Manifests and packs that lie, and askers for more than is theirs.

mod support;

use std::fs;
use std::path::Path;

use shoal_link::Link;
use shoal_node::fetch::{FetchError, TreeOptions};
use shoal_node::requests::{answer, converse};
use shoal_store::hashing::content_hash;
use shoal_wire::manifest::{
    EntryKind, LinkTarget, ManifestEntry, Omission, OmissionReason, OmittedPath, PackFile,
    PackFiles,
};
use shoal_wire::message::{Bounded, Encoding, ManifestRequest, Pack, PackGet, PackedFile};
use shoal_wire::{Communication, FileSize, Hash, Refusal, Scope};
use support::content::{Content, path};
use support::provider::{Sharing, signed};
use support::receiver::{Receiver, names};
use support::scripted::{Requested, Scripted};
use support::{DEADLINE, dial, endpoint};

fn entry(at: &str, content: &[u8], hash: Option<Hash>) -> ManifestEntry {
    ManifestEntry {
        path: path(at),
        kind: EntryKind::File {
            size: FileSize::new(content.len() as u64).expect("within the limit"),
            hash,
        },
        mtime_ns: 5,
        mode: 0o644,
        extras: None,
    }
}

/// Tells this manifest, and answers every pack with these files and bytes.
async fn lying(entries: Vec<ManifestEntry>, files: Vec<PackedFile>, bytes: Vec<u8>) -> Scripted {
    lying_in(Encoding::Raw, entries, files, bytes).await
}

/// The same with the bytes in some encoding, or only said to be.
async fn lying_in(
    encoding: Encoding,
    entries: Vec<ManifestEntry>,
    files: Vec<PackedFile>,
    bytes: Vec<u8>,
) -> Scripted {
    Scripted::start("liar", move |mut requested: Requested| {
        let (entries, files, bytes) = (entries.clone(), files.clone(), bytes.clone());
        async move {
            if matches!(requested.first, Communication::ManifestRequest(_)) {
                let entries = Bounded::truncated(entries);
                let more = false;
                requested
                    .say(&Communication::ManifestPage { entries, more })
                    .await?;
                requested.stream.send.finish();
                return Some(());
            }
            let head = Pack {
                files: Bounded::truncated(files),
                encoding,
            };
            requested.say(&Communication::Pack(head)).await?;
            requested.bytes(&bytes).await?;
            requested.wait().await
        }
    })
    .await
}

#[tokio::test]
async fn a_wrong_file_in_a_pack_is_never_named_and_the_liar_is() {
    let (good, bad) = (b"good".as_slice(), b"evil".as_slice());
    let announced = Some(content_hash(b"true"));
    for (hash_in_manifest, said) in [
        (None, content_hash(b"true")),
        (announced, content_hash(bad)),
    ] {
        let entries = vec![
            entry("tree/a", good, None),
            entry("tree/b", bad, hash_in_manifest),
        ];
        let files = vec![PackedFile::Sent(content_hash(good)), PackedFile::Sent(said)];
        let liar = lying(entries, files, [good, bad].concat()).await;
        let receiver = Receiver::new().await;
        let source = liar.source(&Content::new("x", 1, 1).entry);
        let (fetched, _) = receiver
            .fetch_tree(source, "tree", TreeOptions::default())
            .await;
        let error = fetched.unwrap_err();
        assert!(matches!(&error, FetchError::BadFile { path, .. } if path.to_string() == "tree/b"));
        assert!(error.to_string().contains("liar"), "{error}");
        assert!(!receiver.has("tree/b"));
        let left = names(&receiver.folder());
        assert!(
            left.iter().all(|name| name == Path::new("tree")),
            "{left:?}"
        );
    }
}

#[tokio::test]
async fn a_provider_that_names_omissions_without_end_or_without_any_is_not_heard_out() {
    let omission = Omission {
        path: OmittedPath::truncated(b"tree/\x1b[2J").expect("a path"),
        reason: OmissionReason::Name,
    };
    for named in [4096, 0] {
        let omissions = vec![omission.clone(); named];
        let liar = Scripted::start("liar", move |mut requested: Requested| {
            let omissions = omissions.clone();
            async move {
                loop {
                    let omissions = Bounded::truncated(omissions.clone());
                    let count = u64::MAX;
                    let message = Communication::ManifestOmissions { count, omissions };
                    requested.say(&message).await?;
                }
            }
        })
        .await;
        let receiver = Receiver::new().await;
        let source = liar.source(&Content::new("x", 1, 1).entry);
        let (fetched, _) = receiver
            .fetch_tree(source, "tree", TreeOptions::default())
            .await;
        let error = fetched.unwrap_err();
        assert!(matches!(&error, FetchError::Misbehaved { .. }), "{error}");
        assert!(error.to_string().contains("liar"), "{error}");
    }
}

#[tokio::test]
async fn a_compressed_pack_is_taken_and_one_that_is_not_what_it_says_is_not() {
    let content = vec![7; 50_000];
    let framed = |content: &[u8]| zstd::bulk::compress(content, 1).unwrap();
    for (bytes, is_accepted, is_good) in [
        (framed(&content), true, true),
        (framed(&content), false, false),
        (framed(&vec![7; 1 << 22]), true, false),
        (framed(&content[1..]), true, false),
        (vec![9; 100], true, false),
        (vec![9; 50_000], true, false),
    ] {
        let entries = vec![entry("tree/a", &content, None)];
        let files = vec![PackedFile::Sent(content_hash(&content))];
        let len_bytes = u32::try_from(bytes.len()).unwrap();
        let encoding = Encoding::Zstd { len_bytes };
        let liar = lying_in(encoding, entries, files, bytes).await;
        let receiver = Receiver::new().await;
        let source = liar.source(&Content::new("x", 1, 1).entry);
        let mut options = TreeOptions::default();
        options.policy.accepts_compressed = is_accepted;
        let (fetched, ended) = receiver.fetch_tree(source, "tree", options).await;
        assert_eq!(receiver.has("tree/a"), is_good);
        if is_good {
            assert!(fetched.is_ok() && ended.len() == 1);
            assert!(receiver.read("tree/a") == content);
        } else {
            let error = fetched.unwrap_err();
            assert!(matches!(error, FetchError::Misbehaved { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn packs_of_another_shape_and_endless_ones_are_refused() {
    let content = b"content".as_slice();
    let sent = PackedFile::Sent(content_hash(content));
    for (files, bytes) in [
        (vec![], vec![]),
        (vec![sent, sent], [content, content].concat()),
        (vec![sent], b"short".to_vec()),
    ] {
        let liar = lying(vec![entry("tree/a", content, None)], files, bytes.clone()).await;
        let receiver = Receiver::new().await;
        let source = liar.source(&Content::new("x", 1, 1).entry);
        if bytes == b"short" {
            // It would wait for the rest until its deadline: the link ends first.
            drop(liar);
        }
        let (fetched, ended) = receiver
            .fetch_tree(source, "tree", TreeOptions::default())
            .await;
        assert!(fetched.is_err() && ended.is_empty());
        assert!(!receiver.has("tree/a"));
    }
}

#[tokio::test]
async fn a_manifest_that_leads_out_of_the_folder_is_not_followed() {
    let content = b"content".as_slice();
    for entries in [
        vec![entry("elsewhere/a", content, None)],
        vec![entry("treehouse/a", content, None)],
    ] {
        let files = vec![PackedFile::Sent(content_hash(content))];
        let liar = lying(entries, files, content.to_vec()).await;
        let receiver = Receiver::new().await;
        let source = liar.source(&Content::new("x", 1, 1).entry);
        let (fetched, _) = receiver
            .fetch_tree(source, "tree", TreeOptions::default())
            .await;
        assert!(matches!(fetched, Err(FetchError::Misbehaved { .. })));
        assert!(names(&receiver.folder()).is_empty());
    }
}

#[tokio::test]
async fn a_link_in_a_manifest_is_no_way_out_for_the_files_behind_it() {
    let content = b"content".as_slice();
    let target = LinkTarget::new(b"../../outside").unwrap();
    let link = ManifestEntry {
        kind: EntryKind::Symlink { target },
        ..entry("tree/way", content, None)
    };
    let entries = vec![link, entry("tree/way/file", content, None)];
    let files = vec![PackedFile::Sent(content_hash(content))];
    let liar = lying(entries, files, content.to_vec()).await;
    let receiver = Receiver::new().await;
    for _ in 0..2 {
        let options = TreeOptions {
            links: true,
            overwrite: true,
            ..TreeOptions::default()
        };
        let source = liar.source(&Content::new("x", 1, 1).entry);
        let _either_fails = receiver.fetch_tree(source, "tree", options).await;
        assert!(receiver.strays().is_empty());
    }
    // The other way round: a link that is there already is not written through.
    let receiver = Receiver::new().await;
    fs::create_dir(receiver.folder().join("tree")).unwrap();
    std::os::unix::fs::symlink("../../outside", receiver.folder().join("tree/way")).unwrap();
    let source = liar.source(&Content::new("x", 1, 1).entry);
    let (_, ended) = receiver
        .fetch_tree(source, "tree", TreeOptions::default())
        .await;
    assert!(ended.iter().all(|(_, result)| result.is_err()));
    assert!(receiver.strays().is_empty());
}

fn fill(files: &Path) {
    fs::create_dir_all(files.join("photos/raw")).expect("a folder");
    fs::write(files.join("photos/cat.jpg"), "cat").expect("a file");
    fs::write(files.join("photos/raw/dog"), "dog").expect("a file");
    fs::write(files.join("secret.txt"), "secret").expect("a file");
}

#[tokio::test]
async fn a_grant_opens_its_folder_as_manifest_and_pack_and_no_other() {
    let sharing = Sharing::of(fill).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    let of = |scope| signed(&sharing.server, sharing.grant(visitor.node_id(), scope));
    let photos = || of(Scope::Path(path("photos")));

    assert_eq!(
        manifest(&link, Some("photos"), Some(photos()))
            .await
            .unwrap(),
        4
    );
    assert_eq!(
        manifest(&link, Some("photos/raw"), Some(photos()))
            .await
            .unwrap(),
        2
    );
    for (folder, grant) in [
        (None, Some(photos())),
        (Some("secret.txt"), Some(photos())),
        (Some("photos"), None),
        (Some("photos"), Some(of(Scope::Blob(Hash::new([1; 32]))))),
    ] {
        let refused = manifest(&link, folder, grant).await;
        assert_eq!(refused, Err(Refusal::NotGranted), "{folder:?}");
    }
    assert_eq!(
        manifest(&link, Some("nothing"), Some(of(Scope::Share))).await,
        Err(Refusal::NotFound)
    );

    let known = |at: &str| {
        let entry = sharing.share.file(&path(at)).unwrap().entry;
        PackFile {
            path: entry.path,
            size: entry.size,
            mtime_ns: entry.mtime_ns,
        }
    };
    let cat = known("photos/cat.jpg");
    let changed = PackFile {
        mtime_ns: 1,
        ..cat.clone()
    };
    let unknown = PackFile {
        path: path("photos/none"),
        ..cat.clone()
    };
    let wanted = vec![cat, known("secret.txt"), changed, unknown];
    let became = pack(&link, wanted, photos()).await;
    assert_eq!(
        became,
        [
            PackedFile::Sent(content_hash(b"cat")),
            PackedFile::Refused(Refusal::NotGranted),
            PackedFile::Refused(Refusal::SourceChanged),
            PackedFile::Refused(Refusal::NotFound),
        ]
    );
}

#[tokio::test]
async fn a_file_that_changed_behind_the_watch_is_refused_and_withdrawn() {
    let sharing = Sharing::of(fill).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    let entry = sharing.share.file(&path("secret.txt")).unwrap().entry;
    let wanted = PackFile {
        path: entry.path,
        size: entry.size,
        mtime_ns: entry.mtime_ns,
    };
    fs::write(sharing.files().join("secret.txt"), "SECRET").unwrap();
    let grant = signed(
        &sharing.server,
        sharing.grant(visitor.node_id(), Scope::Share),
    );
    let became = pack(&link, vec![wanted], grant).await;
    assert_eq!(became, [PackedFile::Refused(Refusal::SourceChanged)]);
}

/// How many entries a manifest has.
async fn manifest(
    link: &Link,
    folder: Option<&str>,
    grant: Option<shoal_wire::SignedGrant>,
) -> Result<usize, Refusal> {
    let request = ManifestRequest {
        folder: folder.map(path),
        owner: false,
        xattrs: false,
        grant,
    };
    let request = Communication::ManifestRequest(request);
    let mut stream = converse(link, &request).await.expect("asked");
    let mut count = 0;
    loop {
        match answer(&mut stream, DEADLINE).await {
            Ok(Communication::ManifestPage { entries, more }) => {
                count += entries.len();
                if !more {
                    return Ok(count);
                }
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => return Err(error.refusal()),
        }
    }
}

async fn pack(
    link: &Link,
    files: Vec<PackFile>,
    grant: shoal_wire::SignedGrant,
) -> Vec<PackedFile> {
    let get = PackGet {
        files: PackFiles::new(files).expect("small"),
        accepts_zstd: false,
        grant: Some(grant),
    };
    let mut stream = converse(link, &Communication::PackGet(get))
        .await
        .expect("asked");
    match answer(&mut stream, DEADLINE).await.expect("a pack") {
        Communication::Pack(pack) => pack.files.into_vec(),
        other => panic!("{other:?}"),
    }
}
