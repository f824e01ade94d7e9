//! Files that change at their source while they are served: withdrawn, and never mixed.

mod support;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::SystemTime;

use shoal_wire::{FileEntry, Refusal};
use support::content::{CHUNK, bytes, path};
use support::gate::Gate;
use support::provider::Sharing;
use support::receiver::Receiver;
use support::until;

/// Large enough that its end is still on disk when its first chunks have arrived: windows and
/// buffers hold about 10 MiB.
const LEN: usize = 24 * CHUNK;

#[tokio::test]
async fn a_source_that_is_truncated_while_served_is_withdrawn_and_then_fetched_as_it_is() {
    changed_while_served(|file| {
        let open = fs::OpenOptions::new().write(true).open(file);
        open.expect("the file").set_len(1000).expect("truncated");
    })
    .await;
}

#[tokio::test]
async fn a_source_that_grows_while_served_is_withdrawn_and_then_fetched_as_it_is() {
    changed_while_served(|file| {
        let open = fs::OpenOptions::new().append(true).open(file);
        open.expect("the file").write_all(b"more").expect("written");
    })
    .await;
}

#[tokio::test]
async fn a_source_that_is_replaced_by_a_rename_while_served_is_withdrawn_and_then_fetched_as_it_is()
{
    changed_while_served(|file| {
        let other = file.with_extension("new");
        fs::write(&other, bytes(LEN, 2)).expect("written");
        fs::rename(other, file).expect("renamed");
    })
    .await;
}

#[tokio::test]
async fn a_source_that_is_rewritten_in_place_while_served_is_withdrawn_and_then_fetched_as_it_is() {
    changed_while_served(|file| {
        let open = fs::OpenOptions::new().write(true).open(file);
        let mut open = open.expect("the file");
        open.seek(SeekFrom::Start(LEN as u64 - 5)).expect("there");
        open.write_all(b"other").expect("written");
    })
    .await;
}

#[tokio::test]
async fn a_source_whose_times_were_set_back_after_a_change_is_withdrawn_all_the_same() {
    changed_while_served(|file| {
        let before = fs::metadata(file).expect("the file");
        let open = fs::OpenOptions::new().write(true).open(file);
        let mut open = open.expect("the file");
        open.write_all(b"other").expect("written");
        let modified = before.modified().expect("a time");
        open.set_modified(modified).expect("set back");
    })
    .await;
}

#[tokio::test]
async fn a_source_that_is_deleted_while_served_is_withdrawn_and_no_file_comes_of_it() {
    let sharing = sharing().await;
    let receiver = Receiver::new().await;
    let refusal = interrupted(&sharing, &receiver, |file| {
        fs::remove_file(file).expect("removed");
    })
    .await;
    assert_eq!(refusal, Refusal::SourceChanged);
    until(|| sharing.share.file(&path("a.bin")).is_none()).await;
    assert!(!receiver.has("a.bin"));
}

/// Changes a file while it is on its way to a receiver, who must not end up with any file; then
/// the new version is announced and fetched, whole.
async fn changed_while_served(change: impl FnOnce(&Path)) {
    let sharing = sharing().await;
    let receiver = Receiver::new().await;
    let before = entry(&sharing).expect("announced");
    let refusal = interrupted(&sharing, &receiver, change).await;
    assert_eq!(refusal, Refusal::SourceChanged);
    assert!(!receiver.has("a.bin"));
    assert!(entry(&sharing).is_none_or(|now| now.hash != before.hash));

    until(|| entry(&sharing).is_some_and(|now| now.hash.is_some())).await;
    assert_ne!(entry(&sharing).and_then(|now| now.hash), before.hash);
    let gate = Gate::before(&sharing.endpoint, u64::MAX).await;
    let source = sharing.source("a.bin", gate.endpoint.node_id(), &gate.endpoint);
    receiver
        .fetch(vec![source], "a.bin")
        .await
        .expect("fetched");
    let now = fs::read(sharing.files().join("a.bin")).expect("the file");
    assert!(receiver.read("a.bin") == now);
}

/// Fetches the file, has it changed once some of it has arrived, and gives the end of the fetch.
async fn interrupted(
    sharing: &Sharing,
    receiver: &Receiver,
    change: impl FnOnce(&Path),
) -> Refusal {
    let gate = Gate::before(&sharing.endpoint, 3 * CHUNK as u64).await;
    let source = sharing.source("a.bin", gate.endpoint.node_id(), &gate.endpoint);
    let file = sharing.files().join("a.bin");
    let job = receiver.job(vec![source], "a.bin");
    let fetched = receiver
        .fetch_while(job, async |_| {
            gate.reached().await;
            change(&file);
            gate.open();
        })
        .await;
    fetched.expect_err("it changed").refusal()
}

async fn sharing() -> Sharing {
    let sharing = Sharing::of(|folder| {
        fs::write(folder.join("a.bin"), bytes(LEN, 1)).expect("a file");
    })
    .await;
    // A change within the same tick of the disk's clock as the file's making would not show.
    let made = modified(&sharing.files().join("a.bin"));
    let clock = tempfile::NamedTempFile::new().expect("a file");
    until(|| {
        fs::write(clock.path(), "tick").expect("written");
        modified(clock.path()) > made
    })
    .await;
    sharing
}

fn modified(file: &Path) -> SystemTime {
    let metadata = fs::metadata(file).expect("a file");
    metadata.modified().expect("a time")
}

fn entry(sharing: &Sharing) -> Option<FileEntry> {
    let shared = sharing.share.file(&path("a.bin"))?;
    Some(shared.entry)
}
