//! Receivers that ask for what is not theirs, or for chunks that do not exist: each is refused.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "one range is meant, not its members"
)]

mod support;

use std::fs;
use std::path::Path;

use shoal_link::{HearError, Identity, Link, Stream, StreamError};
use shoal_node::requests::{answer, converse};
use shoal_wire::message::FileRequest;
use shoal_wire::{ChunkRanges, Communication, Hash, Refusal, Scope, SignedGrant};
use support::content::{CHUNK, bytes, path};
use support::provider::{Sharing, now_ms, signed};
use support::receiver::Receiver;
use support::{DEADLINE, dial, endpoint};

#[tokio::test]
async fn a_grant_opens_what_it_says_to_whom_it_says_and_nothing_else() {
    let sharing = Sharing::of(fill).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    let holder = visitor.node_id();
    let grant = |scope| sharing.grant(holder, scope);
    let mine = |grant| Some(signed(&sharing.server, grant));
    let photos = || grant(Scope::Path(path("photos")));

    let mut of_another_holder = grant(Scope::Share);
    of_another_holder.holder = Identity::generate().node_id();
    let mut for_another_provider = grant(Scope::Share);
    for_another_provider.provider = Identity::generate().node_id();
    let mut expired = grant(Scope::Share);
    expired.expires_at_ms = now_ms() - 3_600_000;
    let elsewhere = Identity::generate();
    let mut of_another_server = grant(Scope::Share);
    of_another_server.issuer = elsewhere.node_id();
    let forged = signed(&elsewhere, grant(Scope::Share));
    let mut widened = signed(&sharing.server, photos());
    widened.grant.scope = Scope::Share;
    let other_content = grant(Scope::Blob(Hash::new([7; 32])));

    let refused = Some(Refusal::NotGranted);
    let table = [
        ("photos/1.jpg", mine(photos()), None),
        ("photos/1.jpg", mine(grant(Scope::Share)), None),
        ("a.txt", mine(photos()), refused),
        ("photos.txt", mine(photos()), refused),
        ("a.txt", None, refused),
        ("a.txt", mine(of_another_holder), refused),
        ("a.txt", mine(for_another_provider), refused),
        ("a.txt", mine(expired), Some(Refusal::GrantExpired)),
        (
            "a.txt",
            Some(signed(&elsewhere, of_another_server)),
            refused,
        ),
        ("a.txt", Some(forged), refused),
        ("a.txt", Some(widened), refused),
        ("a.txt", mine(other_content), refused),
    ];
    for (position, (asked, grant, expected)) in table.into_iter().enumerate() {
        let found = refusal(&link, asked, grant).await;
        assert_eq!(found, expected, "row {position}: {asked}");
    }
    assert!(link.close_reason().is_none());
}

#[tokio::test]
async fn what_is_on_disk_and_not_announced_is_not_served_whatever_the_grant() {
    let sharing = Sharing::of(|folder| {
        fill(folder);
        fs::write(folder.join(".secret"), "x").expect("a file");
        fs::write(folder.join("ignored.log"), "x").expect("a file");
        fs::write(folder.join(".shoalignore"), "*.log\n").expect("a file");
        fs::write(folder.join(".a.txt.shoal-part"), "x").expect("a file");
        fs::create_dir(folder.join("empty")).expect("a folder");
        std::os::unix::fs::symlink("a.txt", folder.join("link.txt")).expect("a link");
        std::os::unix::fs::symlink("/etc", folder.join("etc")).expect("a link");
    })
    .await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    let grant = sharing.grant(visitor.node_id(), Scope::Share);
    let grant = signed(&sharing.server, grant);
    for asked in [
        ".secret",
        "ignored.log",
        ".shoalignore",
        ".a.txt.shoal-part",
        "empty",
        "link.txt",
        "etc/passwd",
        "photos",
        "A.TXT",
        "missing",
    ] {
        let found = refusal(&link, asked, Some(grant.clone())).await;
        assert_eq!(found, Some(Refusal::NotFound), "{asked}");
    }
    assert_eq!(refusal(&link, "a.txt", Some(grant)).await, None);
}

#[tokio::test]
async fn another_version_than_is_announced_is_refused() {
    let sharing = Sharing::of(fill).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    let mut request = request(&sharing, &visitor, "a.txt");
    request.hash = Some(Hash::new([1; 32]));
    let mut stream = ask(&link, request).await;
    let answered = answer(&mut stream, DEADLINE).await;
    assert_eq!(answered.unwrap_err().refusal(), Refusal::SourceChanged);
}

#[tokio::test]
async fn chunks_outside_the_file_end_the_stream_and_the_link_goes_on() {
    let sharing = Sharing::of(fill).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    for (start, end) in [(3, 4), (0, u32::MAX), (7, 9)] {
        let mut stream = ask(&link, request(&sharing, &visitor, "big.bin")).await;
        let ranges = ChunkRanges::new(vec![start..end]).unwrap();
        let wanted = Communication::FileGet(ranges);
        stream.send.say(&wanted).await.unwrap();
        assert_eq!(reset_of(&mut stream).await, Refusal::Unexpected);
    }
    let grant = request(&sharing, &visitor, "a.txt").grant;
    assert_eq!(refusal(&link, "a.txt", grant).await, None);
}

#[tokio::test]
async fn who_asks_for_everything_and_reads_nothing_holds_nobody_up() {
    let chunks = 24;
    let content = bytes(chunks * CHUNK, 9);
    let sharing = Sharing::of(|folder| {
        fs::write(folder.join("huge.bin"), &content).expect("a file");
    })
    .await;
    let mut unread = Vec::new();
    for _ in 0..3 {
        let visitor = endpoint(&[]).await;
        let link = dial(&visitor, &sharing.endpoint).await;
        link.widen();
        for _ in 0..12 {
            let mut stream = ask(&link, request(&sharing, &visitor, "huge.bin")).await;
            let all = ChunkRanges::new(vec![0..chunks as u32]).unwrap();
            stream.send.say(&Communication::FileGet(all)).await.unwrap();
            unread.push(stream);
        }
        // What the provider hands to the network for it stands still once it holds all it may.
        until_still(|| handed_bytes(&sharing)).await;
    }
    let receiver = Receiver::new().await;
    let source = sharing.source("huge.bin", receiver.node(), &sharing.endpoint);
    receiver.fetch(vec![source], "huge.bin").await.unwrap();
    assert!(receiver.read("huge.bin") == content);
    drop(unread);
}

/// What has been handed to the network for all receivers, in bytes.
fn handed_bytes(sharing: &Sharing) -> u64 {
    sharing.transfers.moved().verified_bytes
}

/// Waits until something has been the same at many looks.
async fn until_still(look: impl Fn() -> u64) {
    let (mut last, mut looks) = (look(), 0);
    while looks < 30 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        let now = look();
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
    }
}

#[tokio::test]
async fn overlapping_or_descending_ranges_do_not_decode() {
    let sharing = Sharing::of(fill).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    // A FileGet of two ranges, each as start and end: kind 9, in postcard's encoding.
    for ranges in [[0, 2, 1, 3], [2, 3, 0, 1], [1, 1, 1, 2], [0, 1, 0, 1]] {
        let mut stream = ask(&link, request(&sharing, &visitor, "big.bin")).await;
        let frame = [&[0, 0, 0, 5, 9, 2], ranges.as_slice()].concat();
        stream.send.write_all(&frame).await.unwrap();
        assert_eq!(
            reset_of(&mut stream).await,
            Refusal::Malformed,
            "{ranges:?}"
        );
    }
}

#[tokio::test]
async fn messages_that_do_not_belong_in_a_transfer_end_it() {
    let sharing = Sharing::of(fill).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    let again = Communication::FileRequest(request(&sharing, &visitor, "a.txt"));
    for message in [
        again,
        Communication::Rescan,
        Communication::FileTransferComplete { root: None },
    ] {
        let mut stream = ask(&link, request(&sharing, &visitor, "big.bin")).await;
        stream.send.say(&message).await.unwrap();
        assert_eq!(
            reset_of(&mut stream).await,
            Refusal::Unexpected,
            "{message:?}"
        );
    }
}

fn fill(folder: &Path) {
    fs::create_dir(folder.join("photos")).expect("a folder");
    fs::write(folder.join("a.txt"), "a").expect("a file");
    fs::write(folder.join("photos.txt"), "p").expect("a file");
    fs::write(folder.join("photos/1.jpg"), bytes(1000, 1)).expect("a file");
    fs::write(folder.join("big.bin"), bytes(3 * CHUNK, 2)).expect("a file");
}

/// The number with which a request for a file is refused, `None` when the file is described.
async fn refusal(link: &Link, asked: &str, grant: Option<SignedGrant>) -> Option<Refusal> {
    let request = FileRequest {
        path: path(asked),
        hash: None,
        grant,
        accepts_zstd: false,
    };
    let mut stream = ask(link, request).await;
    match answer(&mut stream, DEADLINE).await {
        Ok(Communication::FileResponse(response)) => {
            assert_eq!(response.entry.path, path(asked));
            None
        }
        Ok(other) => panic!("expected a file or a refusal, got {other:?}"),
        Err(error) => Some(error.refusal()),
    }
}

fn request(sharing: &Sharing, visitor: &shoal_link::Endpoint, asked: &str) -> FileRequest {
    let grant = sharing.grant(visitor.node_id(), Scope::Share);
    FileRequest {
        path: path(asked),
        hash: None,
        grant: Some(signed(&sharing.server, grant)),
        accepts_zstd: false,
    }
}

async fn ask(link: &Link, request: FileRequest) -> Stream {
    let asked = converse(link, &Communication::FileRequest(request)).await;
    asked.expect("a live link")
}

/// Hears what comes until the stream is reset, and gives the number.
async fn reset_of(stream: &mut Stream) -> Refusal {
    loop {
        match stream.recv.hear(DEADLINE).await {
            Ok(Some(Communication::FileResponse(_) | Communication::HashListPage(_))) => {}
            Err(HearError::Stream(StreamError::Reset(refusal))) => return refusal,
            other => panic!("expected a reset, got {other:?}"),
        }
    }
}
