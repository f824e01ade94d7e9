//! Sources that are connected and say nothing more.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shoal_wire::message::Outcome;
use support::content::{CHUNK, Content};
use support::receiver::Receiver;
use support::scripted::{Requested, Scripted};

/// Takes as long as the receiver's patience: 20 s.
#[tokio::test]
async fn a_source_that_falls_silent_is_dialled_anew_once_and_goes_on_with_what_is_missing() {
    let content = Content::new("a.bin", 4 * CHUNK, 1);
    let (requests, script_content) = (Arc::new(AtomicU32::new(0)), content.clone());
    let provider = Scripted::start("anna", move |mut requested: Requested| {
        let (content, requests) = (script_content.clone(), Arc::clone(&requests));
        async move {
            if requests.fetch_add(1, Ordering::Relaxed) > 0 {
                return requested.serve(&content).await;
            }
            requested.describe(&content).await?;
            for index in requested.hear_wanted(&content).await?.into_iter().take(2) {
                requested.send_chunk(&content, index).await?;
            }
            requested.wait().await
        }
    })
    .await;
    let receiver = Receiver::new().await;
    let fetched = receiver.fetch(vec![provider.source(&content.entry)], "a.bin");
    let outcome = fetched.await.unwrap().outcome;
    assert_eq!(outcome, Outcome::Fetched(content.list.root()));
    assert!(receiver.read("a.bin") == content.bytes);
    let asked = provider.asked();
    let (first, again) = asked.split_first().expect("it was asked");
    assert_eq!(*first, [0, 1, 2, 3]);
    // In one question, or in two where a busy machine makes the path look long.
    assert_eq!(again.concat(), [2, 3]);
}
