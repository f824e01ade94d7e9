//! Folders whose manifest takes its time.

mod support;

use std::sync::Arc;

use shoal_node::fetch::{Durability, FetchPolicy, TreeOptions};
use shoal_store::hashing::content_hash;
use shoal_wire::manifest::{EntryKind, ManifestEntry};
use shoal_wire::message::{Bounded, Encoding, Pack, PackGet, PackedFile};
use shoal_wire::{Communication, FileSize, SafePath};
use support::content::{Content, path};
use support::receiver::Receiver;
use support::scripted::{Requested, Scripted};
use support::{DEADLINE, until};
use tokio::sync::Semaphore;

/// Files on each page of the manifest.
const PER_PAGE: usize = 2048;
/// Pages of the manifest.
const PAGES: usize = 3;

fn file(number: usize) -> SafePath {
    path(&format!("tree/{:02}/file-{number:05}", number / 1000))
}

/// What is in a file: its path.
fn content(at: &SafePath) -> Vec<u8> {
    at.as_bytes().to_vec()
}

fn page(number: usize) -> Communication {
    let entry = |number| {
        let path = file(number);
        let size = FileSize::new(content(&path).len() as u64).expect("a small file");
        ManifestEntry {
            path,
            kind: EntryKind::File { size, hash: None },
            mtime_ns: 5,
            mode: 0o644,
            extras: None,
        }
    };
    let entries = (number * PER_PAGE..(number + 1) * PER_PAGE).map(entry);
    Communication::ManifestPage {
        entries: Bounded::truncated(entries.collect()),
        more: number + 1 < PAGES,
    }
}

/// Answers packs honestly, for as long as any are asked for.
async fn serve_packs(mut requested: Requested, first: PackGet) -> Option<()> {
    let mut next = Some(first);
    while let Some(get) = next {
        let contents: Vec<_> = get.files.iter().map(|file| content(&file.path)).collect();
        let sent = contents
            .iter()
            .map(|bytes| PackedFile::Sent(content_hash(bytes)));
        let head = Pack {
            files: Bounded::truncated(sent.collect()),
            encoding: Encoding::Raw,
        };
        requested.say(&Communication::Pack(head)).await?;
        requested.bytes(&contents.concat()).await?;
        next = loop {
            match requested.stream.recv.hear(DEADLINE).await.ok()? {
                Some(Communication::PackGet(get)) => break Some(get),
                Some(_) => {}
                None => break None,
            }
        };
    }
    Some(())
}

#[tokio::test]
async fn the_first_files_are_there_before_the_last_are_listed() {
    let may_go_on = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&may_go_on);
    let provider = Scripted::start("slow", move |mut requested: Requested| {
        let waiting = Arc::clone(&waiting);
        async move {
            if let Communication::PackGet(first) = requested.first.clone() {
                return serve_packs(requested, first).await;
            }
            for number in 0..PAGES {
                if number + 1 == PAGES {
                    let _gone_on = waiting.acquire().await.ok()?;
                }
                requested.say(&page(number)).await?;
            }
            requested.stream.send.finish();
            Some(())
        }
    })
    .await;
    let receiver = Receiver::new().await;
    let source = provider.source(&Content::new("x", 1, 1).entry);
    // Not synced, so that what else the disk does is not waited for.
    let options = TreeOptions {
        policy: FetchPolicy {
            durability: Durability::Unsynced,
            ..FetchPolicy::default()
        },
        ..TreeOptions::default()
    };
    let fetching = receiver.fetch_tree(source, "tree", options);
    let looking = async {
        until(|| receiver.has(&file(0).to_string())).await;
        may_go_on.add_permits(1);
    };
    let ((fetched, ended), ()) = tokio::join!(fetching, looking);
    fetched.unwrap();
    assert_eq!(ended.len(), PAGES * PER_PAGE);
    let last = file(PAGES * PER_PAGE - 1);
    assert_eq!(receiver.read(&last.to_string()), content(&last));
}
