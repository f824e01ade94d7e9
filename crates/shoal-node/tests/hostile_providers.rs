//! Providers that lie about chunks, hash lists and files: nothing false is kept, and each is named.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use shoal_node::fetch::{FetchError, Further};
use shoal_wire::message::Outcome;
use shoal_wire::{Communication, FileSize, Hash, Refusal};
use support::content::{CHUNK, Content, no_hash};
use support::log::Log;
use support::receiver::Receiver;
use support::scripted::{Requested, Scripted};
use tokio::sync::Notify;

/// What a provider does wrong, everything else being right.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    /// Other bytes than the third chunk's hash says.
    WrongBytes,
    /// The third chunk's head with a hash that is not in the list.
    WrongHash,
    /// The fourth chunk where the third was asked for.
    OtherChunk,
    /// A third chunk that is said to be a byte shorter.
    ShorterChunk,
    /// A third chunk that is said to be longer than any chunk.
    EndlessChunk,
    /// A third chunk of which half comes.
    HalfChunk,
    /// A stream that ends after the second chunk.
    EarlyEnd,
    /// A chunk after the last one.
    OneTooMany,
    /// A list that does not lead to the root.
    FalseList,
    /// More hashes than the file has chunks.
    LongList,
    /// Empty pages, one after the other.
    EmptyPages,
    /// The list, and then pages without end.
    EndlessPages,
    /// The answer is about another path.
    OtherPath,
    /// The same file, with another hash.
    OtherHash,
    /// No hash, and content of its own that is right in itself.
    OtherContent,
    /// No hash, and a size that no disk has.
    OtherSize,
    /// Something that is no answer.
    Nonsense,
}

#[tokio::test]
async fn a_wrong_chunk_is_never_written_and_the_good_ones_before_it_are_kept() {
    let content = Content::new("a.bin", 4 * CHUNK, 1);
    let liar = liar(&content, Lie::WrongBytes).await;
    let receiver = Receiver::new().await;
    let error = receiver
        .fetch(vec![liar.source(&content.entry)], "a.bin")
        .await
        .unwrap_err();
    let FetchError::BadChunk { peer, node, index } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((peer.to_string().as_str(), *node), ("liar", liar.node()));
    assert_eq!(index.get(), 2);
    let told = error.to_string();
    assert!(told.contains("liar") && told.contains(&liar.node().short().to_string()));
    assert!(!receiver.has("a.bin"));
    let part = receiver.read(".a.bin.shoal-part");
    assert!(part[..2 * CHUNK] == content.bytes[..2 * CHUNK]);
    assert!(part[2 * CHUNK..].iter().all(|byte| *byte == 0));

    let honest = Scripted::honest("honest", &content).await;
    let sources = vec![honest.source(&content.entry)];
    receiver.fetch(sources, "a.bin").await.unwrap();
    assert_eq!(honest.asked(), [[2, 3]]);
    assert!(receiver.read("a.bin") == content.bytes);
}

#[tokio::test]
async fn a_wrong_chunk_comes_from_the_next_source_and_the_log_names_the_liar() {
    let log = Log::start();
    let content = Content::new("a.bin", 4 * CHUNK, 2);
    let liar = liar(&content, Lie::WrongBytes).await;
    let honest = Scripted::honest("honest", &content).await;
    let receiver = Receiver::new().await;
    let sources = vec![liar.source(&content.entry), honest.source(&content.entry)];
    let fetched = receiver.fetch(sources, "a.bin").await.unwrap();
    assert_eq!(fetched.outcome, Outcome::Fetched(content.list.root()));
    assert!(receiver.read("a.bin") == content.bytes);
    assert_eq!(liar.asked(), [[0, 1, 2, 3]]);
    assert_eq!(honest.asked(), [[2, 3]]);
    let id = liar.node().to_string();
    assert!(log.says(&["source failed", "liar", &id, "wrong chunk 2"]));
    assert!(!log.says(&["source failed", "honest"]));
}

#[tokio::test]
async fn one_poisoner_among_good_sources_costs_nothing_but_its_turn_and_is_named() {
    for lie in LIES {
        let log = Log::start();
        let content = Content::new("a.bin", 4 * CHUNK, 3);
        let liar = liar(&content, lie).await;
        let honest = [
            Scripted::honest("first", &content).await,
            Scripted::honest("second", &content).await,
        ];
        let receiver = Receiver::new().await;
        let sources = std::iter::once(&liar).chain(&honest);
        let sources = sources.map(|node| node.source(&content.entry)).collect();
        let fetched = receiver.fetch(sources, "a.bin").await;
        assert_eq!(
            fetched.expect("a good source").outcome,
            Outcome::Fetched(content.list.root()),
            "{lie:?}"
        );
        assert!(receiver.read("a.bin") == content.bytes, "{lie:?}");
        assert!(
            log.says(&["source failed", &liar.node().to_string()]),
            "{lie:?}"
        );
        assert!(honest[1].asked().is_empty(), "{lie:?}");
    }
}

#[tokio::test]
async fn every_lie_has_its_number_and_leaves_no_file() {
    for lie in LIES {
        let content = Content::new("a.bin", 4 * CHUNK, 4);
        let liar = liar(&content, lie).await;
        let receiver = Receiver::new().await;
        let error = receiver
            .fetch(vec![liar.source(&content.entry)], "a.bin")
            .await
            .expect_err("a lie");
        let expected = match lie {
            Lie::WrongBytes | Lie::WrongHash | Lie::FalseList | Lie::LongList => Refusal::BadChunk,
            Lie::OtherHash | Lie::OtherContent | Lie::OtherSize => Refusal::SourceChanged,
            _ => Refusal::Unexpected,
        };
        assert_eq!(error.refusal(), expected, "{lie:?}: {error}");
        assert!(error.to_string().contains("liar"), "{lie:?}: {error}");
        assert!(!receiver.has("a.bin"), "{lie:?}");
    }
}

#[tokio::test]
async fn a_chunk_that_was_not_asked_for_is_refused_when_a_fetch_is_resumed() {
    let content = Content::new("a.bin", 4 * CHUNK, 5);
    let receiver = Receiver::new().await;
    let first = liar(&content, Lie::WrongBytes).await;
    let begun = receiver.fetch(vec![first.source(&content.entry)], "a.bin");
    assert_eq!(begun.await.unwrap_err().refusal(), Refusal::BadChunk);
    // Chunks 0 and 1 are there: this one sends the first of them again.
    let script_content = content.clone();
    let second = Scripted::start("liar", move |mut requested: Requested| {
        let content = script_content.clone();
        async move {
            requested.describe(&content).await?;
            requested.hear_wanted(&content).await?;
            requested.send_chunk(&content, content.index(0)).await?;
            requested.wait().await
        }
    })
    .await;
    let resumed = receiver.fetch(vec![second.source(&content.entry)], "a.bin");
    assert_eq!(resumed.await.unwrap_err().refusal(), Refusal::Unexpected);
    assert_eq!(second.asked(), [[2, 3]]);
    assert!(!receiver.has("a.bin"));
}

#[tokio::test]
async fn other_content_under_no_hash_never_stands_in_for_the_hash_that_was_looked_up() {
    let content = Content::new("a.bin", 100, 6);
    let liar = liar(&content, Lie::OtherContent).await;
    let receiver = Receiver::new().await;
    let fetching = receiver.fetch(vec![liar.source(&content.entry)], "a.bin");
    assert_eq!(
        fetching.await.unwrap_err().refusal(),
        Refusal::SourceChanged
    );
    assert!(!receiver.has("a.bin"));
    let honest = Scripted::honest("honest", &content).await;
    let sources = vec![liar.source(&content.entry), honest.source(&content.entry)];
    receiver.fetch(sources, "a.bin").await.unwrap();
    assert!(receiver.read("a.bin") == content.bytes);
}

#[tokio::test]
async fn strangers_show_the_hashes_before_anything_is_taken_and_none_of_them_ends_the_fetch() {
    let content = Content::new("a.bin", 4 * CHUNK, 8);
    let mut huge = content.entry.clone();
    huge.size = FileSize::new(1 << 40).unwrap();
    let mut silent = huge.clone();
    silent.hash = None;
    // One shows no hash, one a list that does not lead to it; both say that it fits on no disk.
    let mut liars = Vec::new();
    for said in [silent, huge.clone()] {
        let liar = Scripted::start("liar", move |mut requested: Requested| {
            let said = said.clone();
            async move {
                requested.respond(&said).await?;
                while requested.page(&[Hash::new([7; 32]); 64]).await.is_some() {}
                None
            }
        });
        liars.push(liar.await);
    }
    let mut entry = content.entry.clone();
    entry.mode = 0o755;
    let honest = Scripted::honest(
        "honest",
        &Content {
            entry,
            ..content.clone()
        },
    )
    .await;
    let receiver = Receiver::new().await;
    let mut sources: Vec<_> = liars.iter().map(|liar| liar.source(&huge)).collect();
    sources.push(honest.source(&content.entry));
    let mut job = receiver.job(sources, "a.bin");
    job.policy.of_strangers = true;
    receiver.run(job).await.unwrap();
    assert!(receiver.read("a.bin") == content.bytes);
    let mode = receiver
        .folder()
        .join("a.bin")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0, "{mode:o}");
    assert!(liars.iter().all(|liar| liar.asked().is_empty()));
}

#[tokio::test]
async fn when_all_sources_have_failed_others_are_asked_for_whatever_the_failed_ones_said() {
    let content = Content::new("a.bin", 2 * CHUNK, 12);
    let refusing = Scripted::start("refusing", |mut requested: Requested| async move {
        let refused = Communication::refused(Refusal::TargetExists, "");
        requested.say(&refused).await?;
        requested.wait().await
    })
    .await;
    let honest = Scripted::honest("honest", &content).await;
    let receiver = Receiver::new().await;
    let (finder, further) = Further::new();
    let mut job = receiver.job(vec![refusing.source(&content.entry)], "a.bin");
    job.further = Some(further);
    job.policy.of_strangers = true;
    let later = [
        refusing.source(&content.entry),
        honest.source(&content.entry),
    ];
    let giving = async {
        for source in later {
            finder.asked().await;
            finder.give(vec![source]).await;
        }
    };
    let (fetched, ()) = tokio::join!(receiver.run(job), giving);
    assert_eq!(
        fetched.unwrap().outcome,
        Outcome::Fetched(content.list.root())
    );
    assert!(receiver.read("a.bin") == content.bytes);
}

#[tokio::test]
async fn a_stranger_proves_the_size_of_what_it_lists() {
    let content = Content::new("a.bin", 3 * CHUNK + 7, 9);
    let honest = Scripted::honest("honest", &content).await;
    let receiver = Receiver::new().await;
    receiver
        .prove(&honest.source(&content.entry))
        .await
        .unwrap();
    assert_eq!(honest.asked(), [[3]]);

    // The root alone leads to itself, and so do the tops of two halves, and those of the halves of
    // the chunks: as if they were chunks.
    let root = content.list.root();
    let (halves, parts) = (
        tops_of(&content.bytes, 2 * CHUNK),
        tops_of(&content.bytes, CHUNK / 2),
    );
    let longer = (parts.len() as u64 - 1) * CHUNK as u64 + 1;
    for (len_bytes, shown) in [
        (0, vec![]),
        (1, vec![]),
        (CHUNK as u64 + 1, halves),
        (longer, parts),
    ] {
        let mut said = content.entry.clone();
        said.size = FileSize::new(len_bytes).unwrap();
        let (entry, bytes) = (said.clone(), content.bytes.clone());
        let liar = Scripted::start("liar", move |mut requested: Requested| {
            let (entry, shown, bytes) = (entry.clone(), shown.clone(), bytes.clone());
            async move {
                requested.respond(&entry).await?;
                if !shown.is_empty() {
                    requested.page(&shown).await?;
                }
                let last = shown.len().saturating_sub(1);
                let hash = shown.last().copied().unwrap_or(root);
                requested.head(last as u32, 1, hash).await?;
                requested.bytes(&bytes[..1]).await?;
                requested.wait().await
            }
        })
        .await;
        let error = receiver.prove(&liar.source(&said)).await.unwrap_err();
        let is_seen = match len_bytes {
            0 => error.to_string().contains("another size"),
            _ => matches!(error, FetchError::BadChunk { .. }),
        };
        assert!(is_seen, "{len_bytes} bytes: {error}");
    }
    // Where it is true, also of nothing and of exactly one chunk.
    for len in [0, 1, CHUNK] {
        let content = Content::new("b.bin", len, 10);
        let honest = Scripted::honest("honest", &content).await;
        receiver
            .prove(&honest.source(&content.entry))
            .await
            .unwrap();
    }
    assert!(support::receiver::names(&receiver.folder()).is_empty());
}

/// The hashes of equal stretches, which lead to the root as those of chunks do.
fn tops_of(bytes: &[u8], stretch: usize) -> Vec<Hash> {
    use blake3::hazmat::HasherExt;
    let stretches = bytes.chunks(stretch).enumerate();
    let top = |(number, bytes): (usize, &[u8])| {
        let mut hasher = blake3::Hasher::new();
        hasher
            .set_input_offset((number * stretch) as u64)
            .update(bytes);
        Hash::new(hasher.finalize_non_root())
    };
    stretches.map(top).collect()
}

#[tokio::test]
async fn a_fetch_that_waits_for_a_hash_list_can_be_cancelled() {
    let content = Content::new("a.bin", 4 * CHUNK, 7);
    let (described, script_content) = (Arc::new(Notify::new()), content.clone());
    let tell = Arc::clone(&described);
    let slow = Scripted::start("slow", move |mut requested: Requested| {
        let (content, tell) = (script_content.clone(), Arc::clone(&tell));
        async move {
            requested.respond(&content.entry).await?;
            requested.page(&content.list.as_slice()[..1]).await?;
            tell.notify_one();
            requested.wait().await
        }
    })
    .await;
    let receiver = Receiver::new().await;
    let job = receiver.job(vec![slow.source(&content.entry)], "a.bin");
    let fetched = receiver
        .fetch_while(job, async |transfer| {
            described.notified().await;
            transfer.cancel();
        })
        .await;
    assert!(matches!(fetched, Err(FetchError::Cancelled)), "{fetched:?}");
}

#[tokio::test]
async fn an_empty_file_and_one_of_a_single_chunk_need_no_list_and_are_verified_all_the_same() {
    for len in [0, 1, CHUNK] {
        let (content, other) = (
            Content::new("a.bin", len, 8),
            Content::new("a.bin", len.max(1), 9),
        );
        let script_content = content.clone();
        let liar = Scripted::start("liar", move |mut requested: Requested| {
            let (content, other) = (script_content.clone(), other.clone());
            async move {
                requested.describe(&content).await?;
                requested.hear_wanted(&content).await?;
                let len = content.bytes.len();
                requested.head(0, len as u64, other.list.root()).await?;
                requested.bytes(&other.bytes[..len]).await?;
                requested.wait().await
            }
        })
        .await;
        let receiver = Receiver::new().await;
        let fetching = receiver.fetch(vec![liar.source(&content.entry)], "a.bin");
        assert_eq!(fetching.await.unwrap_err().refusal(), Refusal::BadChunk);
        assert!(!receiver.has("a.bin"));
        let honest = Scripted::honest("honest", &content).await;
        let fetching = receiver.fetch(vec![honest.source(&content.entry)], "a.bin");
        fetching.await.unwrap();
        assert!(fs::read(receiver.folder().join("a.bin")).unwrap() == content.bytes);
    }
}

const LIES: [Lie; 17] = [
    Lie::WrongBytes,
    Lie::WrongHash,
    Lie::OtherChunk,
    Lie::ShorterChunk,
    Lie::EndlessChunk,
    Lie::HalfChunk,
    Lie::EarlyEnd,
    Lie::OneTooMany,
    Lie::FalseList,
    Lie::LongList,
    Lie::EmptyPages,
    Lie::EndlessPages,
    Lie::OtherPath,
    Lie::OtherHash,
    Lie::OtherContent,
    Lie::OtherSize,
    Lie::Nonsense,
];

async fn liar(content: &Content, lie: Lie) -> Scripted {
    let content = content.clone();
    Scripted::start("liar", move |requested| {
        let content = content.clone();
        async move { tell(requested, &content, lie).await }
    })
    .await
}

async fn tell(mut requested: Requested, content: &Content, lie: Lie) -> Option<()> {
    match lie {
        Lie::FalseList | Lie::LongList | Lie::EmptyPages | Lie::EndlessPages => {
            tell_of_the_list(&mut requested, content, lie).await?;
        }
        Lie::OtherPath | Lie::OtherHash | Lie::OtherSize | Lie::Nonsense => {
            tell_of_the_file(&mut requested, content, lie).await?;
        }
        Lie::OtherContent => {
            let mut other = Content::new("a.bin", content.bytes.len(), 99);
            let root = other.list.root();
            other.entry.hash = None;
            requested.respond(&other.entry).await?;
            for index in requested.hear_wanted(&other).await? {
                requested.send_chunk(&other, index).await?;
            }
            requested.complete(Some(root)).await?;
        }
        _ => {
            requested.describe(content).await?;
            let wanted = requested.hear_wanted(content).await?;
            for index in wanted {
                if index.get() == 2 && lie != Lie::OneTooMany {
                    return tell_of_a_chunk(requested, content, lie).await;
                }
                requested.send_chunk(content, index).await?;
            }
            requested.send_chunk(content, content.index(0)).await?;
        }
    }
    requested.wait().await
}

/// What is wrong with the third chunk.
async fn tell_of_a_chunk(mut requested: Requested, content: &Content, lie: Lie) -> Option<()> {
    let (third, len) = (content.index(2), CHUNK as u64);
    let hash = content.list.chunk(third);
    match lie {
        Lie::WrongBytes => {
            requested.head(2, len, hash).await?;
            requested.bytes(content.chunk(content.index(3))).await?;
        }
        Lie::WrongHash => requested.head(2, len, no_hash()).await?,
        Lie::OtherChunk => requested.send_chunk(content, content.index(3)).await?,
        Lie::ShorterChunk => requested.head(2, len - 1, hash).await?,
        Lie::EndlessChunk => requested.head(2, u64::MAX, hash).await?,
        Lie::HalfChunk => {
            requested.head(2, len, hash).await?;
            requested.bytes(&content.chunk(third)[..CHUNK / 2]).await?;
            requested.stream.send.finish();
        }
        _ => requested.stream.send.finish(),
    }
    requested.wait().await
}

async fn tell_of_the_list(requested: &mut Requested, content: &Content, lie: Lie) -> Option<()> {
    let hashes = content.list.as_slice();
    requested.respond(&content.entry).await?;
    match lie {
        Lie::FalseList => {
            let mut swapped = hashes.to_vec();
            swapped.swap(1, 2);
            requested.page(&swapped).await
        }
        Lie::LongList => requested.page(&[hashes, hashes].concat()).await,
        Lie::EmptyPages => requested.page(&[]).await,
        _ => loop {
            requested.page(hashes).await?;
        },
    }
}

async fn tell_of_the_file(requested: &mut Requested, content: &Content, lie: Lie) -> Option<()> {
    let mut entry = content.entry.clone();
    match lie {
        Lie::OtherPath => entry.path = support::content::path("b.bin"),
        Lie::OtherHash => entry.hash = Some(no_hash()),
        Lie::OtherSize => {
            entry.hash = None;
            entry.size = FileSize::new(16 << 40).expect("the largest");
        }
        _ => return requested.complete(entry.hash).await,
    }
    requested.respond(&entry).await
}
