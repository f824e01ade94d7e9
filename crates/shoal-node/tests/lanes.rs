//! Several streams for one file: where the path is long, and only for a request of the same link.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shoal_link::{Link, Stream};
use shoal_node::fetch::FetchError;
use shoal_node::requests::{answer, converse};
use shoal_node::transfers::State;
use shoal_wire::message::{FileRequest, Outcome};
use shoal_wire::{ChunkRanges, Communication, Refusal, Scope};
use support::content::{CHUNK, Content, path};
use support::distance::Distance;
use support::provider::{Sharing, signed};
use support::receiver::Receiver;
use support::scripted::{Requested, Scripted};
use support::{DEADLINE, dial, endpoint, until};

const CHUNKS: usize = 24;

#[tokio::test]
async fn over_a_long_path_one_file_comes_on_several_streams_and_counts_once() {
    let content = Content::new("a.bin", CHUNKS * CHUNK + 1234, 7);
    let sharing =
        Sharing::of(|folder| std::fs::write(folder.join("a.bin"), &content.bytes).unwrap()).await;
    let receiver = Receiver::new().await;
    let source = sharing.source("a.bin", receiver.node(), &sharing.endpoint);
    let distance = Distance::before(sharing.endpoint.local_addr()).await;
    let fetched = receiver.fetch(vec![distance.to(source)], "a.bin").await;
    assert_eq!(
        fetched.unwrap().outcome,
        Outcome::Fetched(content.list.root())
    );
    assert!(receiver.read("a.bin") == content.bytes);
    let is_done = || match &sharing.transfers.list()[..] {
        [only] => matches!(only.state, State::Done(_)),
        several => panic!("{several:?}"),
    };
    until(is_done).await;
    let only = &sharing.transfers.list()[0];
    assert_eq!(only.durable_bytes, content.bytes.len() as u64);
    assert_eq!(only.verified_bytes, content.bytes.len() as u64);
}

#[tokio::test]
async fn each_chunk_is_asked_for_once_also_where_nobody_knows_the_hash() {
    for is_hashed in [true, false] {
        let mut content = Content::new("a.bin", CHUNKS * CHUNK + 1, 8);
        content.entry.hash = content.entry.hash.filter(|_| is_hashed);
        let joined = Arc::new(AtomicUsize::new(0));
        let provider = provider(&content, Arc::clone(&joined), None).await;
        let distance = Distance::before(provider.address()).await;
        let receiver = Receiver::new().await;
        let source = distance.to(provider.source(&content.entry));
        let fetched = receiver.fetch(vec![source], "a.bin").await.unwrap();
        assert_eq!(fetched.outcome, Outcome::Fetched(content.list.root()));
        assert!(receiver.read("a.bin") == content.bytes);
        assert!(joined.load(Ordering::Relaxed) > 1);
        let mut asked: Vec<u32> = provider.asked().concat();
        asked.sort_unstable();
        assert_eq!(asked, (0..=CHUNKS as u32).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_source_that_lets_nobody_join_sends_everything_on_one_stream() {
    let content = Content::new("a.bin", CHUNKS * CHUNK, 12);
    let provider = Scripted::honest("anna", &content).await;
    let distance = Distance::before(provider.address()).await;
    let receiver = Receiver::new().await;
    let source = distance.to(provider.source(&content.entry));
    receiver.fetch(vec![source], "a.bin").await.unwrap();
    assert!(receiver.read("a.bin") == content.bytes);
    let mut asked: Vec<u32> = provider.asked().concat();
    asked.sort_unstable();
    assert_eq!(asked, (0..CHUNKS as u32).collect::<Vec<_>>());
}

#[tokio::test]
async fn on_a_short_path_there_is_one_stream_and_one_question() {
    let content = Content::new("a.bin", CHUNKS * CHUNK, 9);
    let joined = Arc::new(AtomicUsize::new(0));
    let provider = provider(&content, Arc::clone(&joined), None).await;
    let receiver = Receiver::new().await;
    let source = provider.source(&content.entry);
    receiver.fetch(vec![source], "a.bin").await.unwrap();
    assert_eq!(joined.load(Ordering::Relaxed), 0);
    assert_eq!(provider.asked().len(), 1);
}

#[tokio::test]
async fn a_wrong_chunk_on_a_further_stream_is_noticed_and_the_others_are_kept() {
    let content = Content::new("a.bin", CHUNKS * CHUNK, 10);
    let liar = provider(&content, Arc::default(), Some(CHUNKS as u32 - 1)).await;
    let distance = Distance::before(liar.address()).await;
    let receiver = Receiver::new().await;
    let source = distance.to(liar.source(&content.entry));
    let error = receiver.fetch(vec![source], "a.bin").await.unwrap_err();
    let is_named =
        matches!(&error, FetchError::BadChunk { index, .. } if index.get() == CHUNKS as u32 - 1);
    assert!(is_named, "{error:?}");
    assert!(!receiver.has("a.bin"));
    let honest = Scripted::honest("bob", &content).await;
    let source = honest.source(&content.entry);
    receiver.fetch(vec![source], "a.bin").await.unwrap();
    assert!(receiver.read("a.bin") == content.bytes);
    let again = honest.asked().concat();
    assert!(
        again.contains(&(CHUNKS as u32 - 1)) && again.len() < CHUNKS,
        "{again:?}"
    );
}

#[tokio::test]
async fn a_stream_joins_only_a_request_that_is_being_served_on_its_own_link() {
    let content = Content::new("a.bin", 3 * CHUNK, 11);
    let sharing =
        Sharing::of(|folder| std::fs::write(folder.join("a.bin"), &content.bytes).unwrap()).await;
    let visitor = endpoint(&[]).await;
    let grant = signed(
        &sharing.server,
        sharing.grant(visitor.node_id(), Scope::Share),
    );
    let request = Communication::FileRequest(FileRequest {
        path: path("a.bin"),
        hash: None,
        grant: Some(grant),
        accepts_zstd: false,
    });
    let link = dial(&visitor, &sharing.endpoint).await;
    link.widen();
    let mut requested = converse(&link, &request).await.unwrap();
    answer(&mut requested, DEADLINE).await.unwrap();
    let id = requested.name().id();

    let mut joined = join(&link, id).await;
    let first = joined.recv.hear(DEADLINE).await.unwrap();
    assert!(
        matches!(first, Some(Communication::FileChunk(_))),
        "{first:?}"
    );

    let elsewhere = dial(&visitor, &sharing.endpoint).await;
    for (link, id) in [(&link, id + 400), (&elsewhere, id), (&link, u64::MAX)] {
        let refused = join(link, id).await.recv.hear(DEADLINE).await.unwrap();
        let is_refused = matches!(&refused, Some(Communication::Error(report)) if report.refusal == Refusal::Unexpected);
        assert!(is_refused, "{refused:?}");
    }

    // The end of the request is the end of those that joined it.
    requested.send.finish();
    while let Ok(Some(_)) = joined.recv.read_chunk(1 << 16).await {}
    let late = join(&link, id).await.recv.hear(DEADLINE).await.unwrap();
    assert!(matches!(late, Some(Communication::Error(_))), "{late:?}");
}

/// One that serves requests and those who join them; a chunk may be false.
async fn provider(
    content: &Content,
    joined: Arc<AtomicUsize>,
    false_chunk: Option<u32>,
) -> Scripted {
    let content = content.clone();
    Scripted::start_with_lanes("anna", move |requested| {
        let (content, joined) = (content.clone(), Arc::clone(&joined));
        async move { serve(requested, &content, &joined, false_chunk).await }
    })
    .await
}

async fn serve(
    mut requested: Requested,
    content: &Content,
    joined: &AtomicUsize,
    false_chunk: Option<u32>,
) -> Option<()> {
    match &requested.first {
        Communication::FileJoin { .. } => {
            joined.fetch_add(1, Ordering::Relaxed);
        }
        _ if content.entry.hash.is_some() => requested.describe(content).await?,
        _ => requested.respond(&content.entry).await?,
    }
    while let Some(wanted) = requested.hear_wanted(content).await {
        for index in wanted {
            if Some(index.get()) == false_chunk {
                let hash = content.list.chunk(index);
                requested.head(index.get(), CHUNK as u64, hash).await?;
                requested.bytes(&vec![0x55; CHUNK]).await?;
            } else {
                requested.send_chunk(content, index).await?;
            }
        }
        requested.complete(Some(content.list.root())).await?;
    }
    Some(())
}

async fn join(link: &Link, stream: u64) -> Stream {
    let mut joined = converse(link, &Communication::FileJoin { stream })
        .await
        .expect("the link is there");
    let ranges = ChunkRanges::new(std::iter::once(0..1).collect()).expect("the link is there");
    // One that is refused at once may be gone by now.
    let _ = joined.send.say(&Communication::FileGet(ranges)).await;
    joined
}
