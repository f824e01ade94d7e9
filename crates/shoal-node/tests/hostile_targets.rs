//! Targets that are not what they seem or go away, and names that lead elsewhere: nothing is
//! written outside the folder, and what can be fetched later is fetched later.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use shoal_node::fetch::FetchError;
use shoal_node::requests::{answer, converse};
use shoal_wire::message::{FileOffer, FileResponse, Outcome, Provider};
use shoal_wire::{Communication, Refusal, frame};
use support::content::{CHUNK, Content, path};
use support::coordinator::Club;
use support::receiver::{Receiver, names};
use support::scripted::{Requested, Scripted};
use support::{DEADLINE, soon, until};
use tokio::sync::watch;

/// Names that are not safe paths, each as long as `PLACEHOLDER`.
const ESCAPES: [&str; 8] = [
    "../../../escape.txt",
    "/tmp/an-escape1.txt",
    "a/../../../esca.txt",
    "a\\..\\..\\escape1.txt",
    "C:\\an-escape123.txt",
    "a//escape123456.txt",
    "a/./escape12345.txt",
    "nul-\0-escape123.txt",
];
const PLACEHOLDER: &str = "a-name-of-length-19";

#[tokio::test]
async fn a_provider_that_answers_with_a_name_that_leads_elsewhere_is_not_understood() {
    let content = Content::new(PLACEHOLDER, 10, 1);
    for escape in ESCAPES {
        let response = FileResponse {
            entry: content.entry.clone(),
        };
        let forged = forged(&Communication::FileResponse(response), escape);
        let liar = Scripted::start("liar", move |mut requested: Requested| {
            let forged = forged.clone();
            async move {
                requested.bytes(&forged).await?;
                requested.wait().await
            }
        })
        .await;
        let receiver = Receiver::new().await;
        let fetching = receiver.fetch(vec![liar.source(&content.entry)], PLACEHOLDER);
        let error = fetching.await.unwrap_err();
        assert_eq!(error.refusal(), Refusal::Unexpected, "{escape:?}: {error}");
        assert_eq!(receiver.strays(), Vec::<PathBuf>::new());
        assert_eq!(names(&receiver.folder()), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn a_server_that_offers_a_file_for_a_path_that_leads_elsewhere_loses_its_link() {
    for escape in ESCAPES {
        let club = Club::new(true).await;
        let content = Content::new("a.bin", 10, 1);
        let honest = Scripted::honest("honest", &content).await;
        let offer = FileOffer {
            provider: honest.source(&content.entry).provider,
            target: path(PLACEHOLDER),
            overwrite: true,
        };
        let forged = forged(&Communication::FileOffer(offer), escape);
        let mut stream = club.link.open().await.unwrap();
        stream.send.write_all(&forged).await.unwrap();
        let end = soon(club.link.closed()).await;
        assert_eq!(end.refusal(), Some(Refusal::Malformed), "{escape:?}");
        assert_eq!(names(&club.files()), [PathBuf::from("hello.txt")]);
        assert_eq!(club.names(), [PathBuf::from("files")]);
    }
}

#[tokio::test]
async fn a_push_by_a_server_ends_in_the_shared_folder_and_nowhere_else() {
    let club = Club::new(true).await;
    let content = Content::new("a.bin", 10, 1);
    let honest = Scripted::honest("honest", &content).await;
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), club.files().join("out")).unwrap();
    let provider = honest.source(&content.entry).provider;
    assert_eq!(pushed(&club, &provider, "in/a.bin").await, None);
    let refused = pushed(&club, &provider, "out/a.bin").await;
    assert_eq!(refused, Some(Refusal::WriteFailed));
    assert!(names(outside.path()).is_empty());
}

#[tokio::test]
async fn a_link_at_the_target_is_neither_followed_nor_written_through() {
    let content = Content::new("a.bin", 2 * CHUNK, 2);
    let honest = Scripted::honest("honest", &content).await;
    let receiver = Receiver::new().await;
    let precious = receiver.outside().join("precious.txt");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, receiver.folder().join("a.bin")).unwrap();

    let fetching = receiver.fetch(vec![honest.source(&content.entry)], "a.bin");
    let error = fetching.await.unwrap_err();
    assert_eq!(error.refusal(), Refusal::TargetExists);
    assert!(error.to_string().contains("--overwrite"), "{error}");

    let mut job = receiver.job(vec![honest.source(&content.entry)], "a.bin");
    job.overwrite = true;
    receiver.run(job).await.unwrap();
    assert!(receiver.read("a.bin") == content.bytes);
    assert!(!receiver.folder().join("a.bin").is_symlink());
    assert_eq!(fs::read(precious).unwrap(), b"precious");
}

#[tokio::test]
async fn a_parent_that_is_a_link_is_refused_before_anything_is_written() {
    let content = Content::new("sub/a.bin", 2 * CHUNK, 3);
    let honest = Scripted::honest("honest", &content).await;
    let receiver = Receiver::new().await;
    symlink(receiver.outside(), receiver.folder().join("sub")).unwrap();
    let fetching = receiver.fetch(vec![honest.source(&content.entry)], "sub/a.bin");
    let error = fetching.await.unwrap_err();
    assert!(matches!(error, FetchError::Partial(_)), "{error:?}");
    assert_eq!(error.refusal(), Refusal::WriteFailed);
    assert!(error.to_string().contains("in the way"), "{error}");
    assert!(honest.asked().is_empty());
    assert!(receiver.strays().is_empty());
}

#[tokio::test]
async fn a_parent_that_is_swapped_for_a_link_during_a_fetch_leads_nothing_elsewhere() {
    let content = Content::new("sub/a.bin", 4 * CHUNK, 4);
    let (paused, go) = paused_after_two_chunks(&content).await;
    let receiver = Receiver::new().await;
    let job = receiver.job(vec![paused.source(&content.entry)], "sub/a.bin");
    let (sub, aside) = (
        receiver.folder().join("sub"),
        receiver.folder().join("aside"),
    );
    let fetched = receiver
        .fetch_while(job, async |transfer| {
            until(|| transfer.verified_bytes() >= 2 * CHUNK as u64).await;
            fs::rename(&sub, &aside).expect("renamed");
            symlink(receiver.outside(), &sub).expect("a link");
            go.send_replace(true);
        })
        .await;
    // It may end either way: in the folder that it was begun in, or with an error.
    assert!(receiver.strays().is_empty(), "{fetched:?}");
    if fetched.is_ok() {
        assert!(receiver.read("aside/a.bin") == content.bytes);
    }
    fs::remove_file(&sub).unwrap();
    let sources = vec![paused.source(&content.entry)];
    receiver.fetch(sources, "sub/a.bin").await.unwrap();
    assert!(receiver.read("sub/a.bin") == content.bytes);
}

#[tokio::test]
async fn a_target_folder_deleted_during_a_fetch_is_a_clear_error_and_the_next_fetch_completes() {
    let content = Content::new("sub/a.bin", 4 * CHUNK, 5);
    let (paused, go) = paused_after_two_chunks(&content).await;
    let receiver = Receiver::new().await;
    let job = receiver.job(vec![paused.source(&content.entry)], "sub/a.bin");
    let sub = receiver.folder().join("sub");
    let fetched = receiver
        .fetch_while(job, async |transfer| {
            until(|| transfer.verified_bytes() >= 2 * CHUNK as u64).await;
            fs::remove_dir_all(&sub).expect("removed");
            go.send_replace(true);
        })
        .await;
    let error = fetched.unwrap_err();
    assert_eq!(error.refusal(), Refusal::WriteFailed, "{error}");
    assert!(!receiver.has("sub/a.bin"));
    let sources = vec![paused.source(&content.entry)];
    let fetched = receiver.fetch(sources, "sub/a.bin").await.unwrap();
    assert_eq!(fetched.outcome, Outcome::Fetched(content.list.root()));
    assert!(receiver.read("sub/a.bin") == content.bytes);
}

#[tokio::test]
async fn the_receiving_folder_itself_deleted_during_a_fetch_is_a_clear_error() {
    let content = Content::new("a.bin", 4 * CHUNK, 6);
    let (paused, go) = paused_after_two_chunks(&content).await;
    let receiver = Receiver::new().await;
    let job = receiver.job(vec![paused.source(&content.entry)], "a.bin");
    let fetched = receiver
        .fetch_while(job, async |transfer| {
            until(|| transfer.verified_bytes() >= 2 * CHUNK as u64).await;
            fs::remove_dir_all(receiver.folder()).expect("removed");
            go.send_replace(true);
        })
        .await;
    let error = fetched.unwrap_err();
    assert_eq!(error.refusal(), Refusal::WriteFailed, "{error}");
    assert!(receiver.strays().is_empty());
    fs::create_dir(receiver.folder()).unwrap();
    let sources = vec![paused.source(&content.entry)];
    receiver.fetch(sources, "a.bin").await.unwrap();
    assert!(receiver.read("a.bin") == content.bytes);
}

/// The frame of a message in which a name is swapped for another of the same length.
fn forged(message: &Communication, escape: &str) -> Vec<u8> {
    assert_eq!(escape.len(), PLACEHOLDER.len(), "{escape:?}");
    let mut frame = frame::encode(message).expect("a small message");
    let at = frame
        .windows(PLACEHOLDER.len())
        .position(|window| window == PLACEHOLDER.as_bytes());
    let at = at.expect("the name");
    frame[at..at + escape.len()].copy_from_slice(escape.as_bytes());
    frame
}

/// Offers the provider's file to the peer; the number with which it ended, `None` when well.
async fn pushed(club: &Club, provider: &Provider, target: &str) -> Option<Refusal> {
    let offer = Communication::FileOffer(FileOffer {
        provider: provider.clone(),
        target: path(target),
        overwrite: false,
    });
    let mut stream = converse(&club.link, &offer).await.expect("a live link");
    loop {
        match answer(&mut stream, DEADLINE).await {
            Ok(Communication::TransferProgress(progress)) if progress.outcome.is_some() => {
                return None;
            }
            Ok(Communication::TransferProgress(_)) => {}
            Ok(other) => panic!("expected progress, got {other:?}"),
            Err(error) => return Some(error.refusal()),
        }
    }
}

/// A provider that waits after two chunks until it is told to go on.
async fn paused_after_two_chunks(content: &Content) -> (Scripted, watch::Sender<bool>) {
    let (go, gone) = watch::channel(false);
    let content = content.clone();
    let paused = Scripted::start("paused", move |mut requested: Requested| {
        let (content, mut gone) = (content.clone(), gone.clone());
        async move {
            requested.describe(&content).await?;
            for index in requested.hear_wanted(&content).await? {
                if index.get() == 2 {
                    gone.wait_for(|go| *go).await.ok()?;
                }
                requested.send_chunk(&content, index).await?;
            }
            requested.complete(Some(content.list.root())).await?;
            requested.wait().await
        }
    })
    .await;
    (paused, go)
}
