//! Rubbish, floods and slow senders on links of a running peer: each costs its own link or stream
//! and nothing else.

mod support;

use std::time::Duration;

use shoal_link::{Endpoint, Link, Stream, StreamError};
use shoal_node::requests::{RequestError, answer, converse, request};
use shoal_wire::message::FileRequest;
use shoal_wire::{Communication, Grant, Refusal, Scope, Verb, frame};
use support::content::path;
use support::coordinator::{Club, refusal_of};
use support::provider::{now_ms, signed};
use support::{DEADLINE, dial, endpoint, soon};

/// How long something is waited for that should not happen.
const MOMENT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_frame_that_does_not_decode_closes_its_link_and_no_other() {
    let club = Club::new(true).await;
    let request = Communication::FileRequest(FileRequest {
        path: path("hello.txt"),
        hash: None,
        grant: None,
        accepts_zstd: false,
    });
    let good = frame::encode(&request).unwrap();
    let mut longer = good.clone();
    longer[3] += 1;
    longer.push(0);
    let mut flipped = good.clone();
    flipped[5] = 0xFF;
    for (what, bytes, expected) in [
        ("an unknown kind", vec![0, 0, 0, 0, 200], Refusal::Malformed),
        (
            "a length of 2^31",
            vec![0x80, 0, 0, 0, 6],
            Refusal::TooLarge,
        ),
        ("all ones", vec![0xFF; 64], Refusal::Malformed),
        (
            "a length over a small cap",
            vec![0, 1, 0, 0, 6],
            Refusal::TooLarge,
        ),
        (
            "a list over its cap",
            vec![0, 0x20, 0, 0, 2],
            Refusal::TooLarge,
        ),
        (
            "a body of no bytes",
            vec![0, 0, 0, 0, 6],
            Refusal::Malformed,
        ),
        ("a body with bytes to spare", longer, Refusal::Malformed),
        ("a flipped bit", flipped, Refusal::Malformed),
        // A FileAnnounce whose list of added files claims 2^62 entries and has none.
        (
            "a huge count",
            [&[0, 0, 0, 12, 2, 0, 0, 1], [0xFF; 8].as_slice(), &[0x3F]].concat(),
            Refusal::Malformed,
        ),
    ] {
        let (hostile, bystander) = (Visitor::to(&club).await, Visitor::to(&club).await);
        let mut stream = hostile.link.open().await.unwrap();
        stream.send.write_all(&bytes).await.unwrap();
        let end = soon(hostile.link.closed()).await;
        assert_eq!(end.refusal(), Some(expected), "{what}");
        bystander.is_served().await;
    }
    assert!(club.link.close_reason().is_none());
    assert_eq!(refusal_of(&club.link, &Communication::Rescan).await, None);
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_frame_is_given_up_alone() {
    let club = Club::new(true).await;
    let hostile = Visitor::to(&club).await;
    let mut stream = hostile.link.open().await.unwrap();
    stream.send.write_all(&[0, 0, 1]).await.unwrap();
    stream.send.finish();
    assert_eq!(reset_of(&mut stream).await, Refusal::Malformed);
    hostile.is_served().await;
}

#[tokio::test]
async fn a_first_message_that_trickles_in_is_ended_by_its_deadline_while_others_are_served() {
    let club = Club::new(true).await;
    let hostile = Visitor::to(&club).await;
    hostile.is_served().await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = hostile.link.open().await.unwrap();
        stream.send.write_all(&[0]).await.unwrap();
        slow.push(stream);
    }
    hostile.is_served().await;
    for stream in &mut slow {
        assert_eq!(reset_of(stream).await, Refusal::TimedOut);
    }
    hostile.is_served().await;
}

#[tokio::test]
async fn opening_and_resetting_streams_without_end_closes_the_link_as_flooded() {
    let club = Club::new(true).await;
    let (hostile, bystander) = (Visitor::to(&club).await, Visitor::to(&club).await);
    let end = soon(flood(&hostile.link, |stream| {
        stream.send.reset(Refusal::Cancelled)
    }))
    .await;
    assert_eq!(end, Some(Refusal::Flooded));
    bystander.is_served().await;
}

#[tokio::test]
async fn streams_that_end_without_a_word_close_the_link_as_flooded() {
    let club = Club::new(true).await;
    let (hostile, bystander) = (Visitor::to(&club).await, Visitor::to(&club).await);
    let end = soon(flood(&hostile.link, |stream| stream.send.finish())).await;
    assert_eq!(end, Some(Refusal::Flooded));
    bystander.is_served().await;
}

#[tokio::test]
async fn one_link_has_a_bounded_number_of_requests_under_way_and_others_do_not_wait_for_it() {
    let club = Club::new(true).await;
    let (hostile, bystander) = (Visitor::to(&club).await, Visitor::to(&club).await);
    // Each request is left open after its answer: the receiver neither asks for chunks nor leaves.
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = hostile.ask().await;
        assert!(answer(&mut stream, DEADLINE).await.is_ok());
        held.push(stream);
    }
    let mut waiting = hostile.ask().await;
    let early = answer(&mut waiting, MOMENT).await;
    assert!(matches!(early, Err(RequestError::TimedOut)), "{early:?}");
    bystander.is_served().await;
    held.pop();
    assert!(answer(&mut waiting, DEADLINE).await.is_ok());
}

#[tokio::test]
async fn a_stranger_has_few_streams_until_it_shows_a_grant() {
    let club = Club::new(true).await;
    let stranger = Visitor::to(&club).await;
    let mut held = Vec::new();
    let ungranted = Communication::FileRequest(FileRequest {
        path: path("hello.txt"),
        hash: None,
        grant: None,
        accepts_zstd: false,
    });
    let refused = soon(request(&stranger.link, &ungranted, DEADLINE)).await;
    assert_eq!(refused.unwrap_err().refusal(), Refusal::NotGranted);
    while let Ok(stream) = tokio::time::timeout(MOMENT, stranger.link.open()).await {
        held.push(stream.unwrap());
        assert!(
            held.len() <= 16,
            "a stranger has as many streams as it likes"
        );
    }
    let first = &mut held[0];
    first.send.say(&stranger.request).await.unwrap();
    assert!(answer(first, DEADLINE).await.is_ok());
    soon(stranger.link.open()).await.unwrap();
}

/// Opens streams, does `with` each what it does, until the other side closes the link.
async fn flood(link: &Link, with: impl Fn(&mut Stream)) -> Option<Refusal> {
    loop {
        let Ok(mut stream) = link.open().await else {
            return link.closed().await.refusal();
        };
        // One byte, so that the other side learns of the stream.
        let said = stream.send.write_all(&[0]).await;
        with(&mut stream);
        if said.is_err() {
            return link.closed().await.refusal();
        }
    }
}

/// A node with a link to the club's peer and a grant for its files.
struct Visitor {
    link: Link,
    request: Communication,
    _endpoint: Endpoint,
}

impl Visitor {
    async fn to(club: &Club) -> Self {
        let endpoint = endpoint(&[]).await;
        let grant = Grant {
            issuer: club.server.node_id(),
            holder: endpoint.node_id(),
            provider: club.endpoint.node_id(),
            scope: Scope::Share,
            verb: Verb::Fetch,
            expires_at_ms: now_ms() + 3_600_000,
        };
        let request = FileRequest {
            path: path("hello.txt"),
            hash: None,
            grant: Some(signed(&club.server, grant)),
            accepts_zstd: false,
        };
        Self {
            link: dial(&endpoint, &club.endpoint).await,
            request: Communication::FileRequest(request),
            _endpoint: endpoint,
        }
    }

    async fn ask(&self) -> Stream {
        let asked = converse(&self.link, &self.request).await;
        asked.expect("a live link")
    }

    async fn is_served(&self) {
        let mut stream = self.ask().await;
        let answered = answer(&mut stream, DEADLINE).await;
        let is_file = matches!(answered, Ok(Communication::FileResponse(_)));
        assert!(is_file, "{answered:?}");
    }
}

async fn reset_of(stream: &mut Stream) -> Refusal {
    match soon(stream.recv.read_chunk(1)).await {
        Err(StreamError::Reset(refusal)) => refusal,
        other => panic!("expected a reset, got {other:?}"),
    }
}
