//! Messages on a stream, heard from a peer that keeps to no rule.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod pair;

use std::time::Duration;

use pair::{PATIENCE, endpoint, link_between, stream_on};
use shoal_link::{Endpoint, HearError, Link, Protocol, Stream, StreamError};
use shoal_wire::message::ErrorReport;
use shoal_wire::{Communication, DecodeError, Refusal, ShortText, frame};

#[tokio::test]
async fn what_is_said_is_heard() {
    let (mut here, mut there, _kept) = streams().await;
    for message in [report(), Communication::FileChunkAck { durable_chunks: 7 }] {
        here.send.say(&message).await.unwrap();
        assert_eq!(there.recv.hear(PATIENCE).await, Ok(Some(message)));
    }
    here.send.finish();
    assert_eq!(there.recv.hear(PATIENCE).await, Ok(None));
}

#[tokio::test]
async fn raw_bytes_after_a_message_are_left_for_the_reader() {
    let (mut here, mut there, _kept) = streams().await;
    here.send.say(&report()).await.unwrap();
    here.send.write_all(b"content").await.unwrap();
    assert_eq!(there.recv.hear(PATIENCE).await, Ok(Some(report())));
    let mut content = [0; 7];
    there.recv.read_exact(&mut content).await.unwrap();
    assert_eq!(&content, b"content");
}

#[tokio::test]
async fn a_length_over_the_cap_is_refused_by_its_header_alone() {
    let (mut here, mut there, _kept) = streams().await;
    here.send
        .write_all(&[0xff, 0xff, 0xff, 0xff, 2])
        .await
        .unwrap();
    let error = there.recv.hear(PATIENCE).await.unwrap_err();
    assert!(
        matches!(error, HearError::Decode(DecodeError::TooLarge { .. })),
        "{error}"
    );
    assert_eq!(error.refusal(), Refusal::TooLarge);
}

#[tokio::test]
async fn an_unknown_kind_is_refused_by_its_header_alone() {
    let (mut here, mut there, _kept) = streams().await;
    here.send.write_all(&[0, 0, 0, 9, 250]).await.unwrap();
    let error = there.recv.hear(PATIENCE).await.unwrap_err();
    assert_eq!(
        error,
        HearError::Decode(DecodeError::UnknownKind { kind: 250 })
    );
    assert_eq!(error.refusal(), Refusal::Malformed);
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_message_is_cut() {
    let whole = frame::encode(&report()).unwrap();
    for kept_bytes in [1, 4, 5, whole.len() - 1] {
        let (mut here, mut there, _kept) = streams().await;
        here.send.write_all(&whole[..kept_bytes]).await.unwrap();
        here.send.finish();
        assert_eq!(there.recv.hear(PATIENCE).await, Err(HearError::Cut));
    }
}

#[tokio::test]
async fn a_slow_sender_runs_into_the_deadline() {
    let whole = frame::encode(&report()).unwrap();
    for kept_bytes in [0, 3, whole.len() - 1] {
        let (mut here, mut there, _kept) = streams().await;
        here.send.write_all(&whole[..kept_bytes]).await.unwrap();
        let error = there
            .recv
            .hear(Duration::from_millis(50))
            .await
            .unwrap_err();
        assert_eq!(error, HearError::TimedOut);
        assert_eq!(error.refusal(), Refusal::TimedOut);
    }
}

#[tokio::test]
async fn a_dropped_hear_loses_nothing() {
    let whole = frame::encode(&report()).unwrap();
    let (mut here, mut there, _kept) = streams().await;
    for piece in whole.chunks(3) {
        let early = there.recv.hear(Duration::from_millis(5)).await;
        assert_eq!(early, Err(HearError::TimedOut));
        here.send.write_all(piece).await.unwrap();
    }
    assert_eq!(there.recv.hear(PATIENCE).await, Ok(Some(report())));
}

#[tokio::test]
async fn a_reset_while_hearing_carries_its_number() {
    let (mut here, mut there, _kept) = streams().await;
    here.send.reset(Refusal::Denied);
    let error = there.recv.hear(PATIENCE).await.unwrap_err();
    assert_eq!(
        error,
        HearError::Stream(StreamError::Reset(Refusal::Denied))
    );
    assert_eq!(error.refusal(), Refusal::Denied);
}

async fn streams() -> (Stream, Stream, [(Endpoint, Link); 2]) {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (near, far) = link_between(&client, &server).await;
    let (here, there) = stream_on(&near, &far).await;
    (here, there, [(client, near), (server, far)])
}

fn report() -> Communication {
    Communication::Error(ErrorReport {
        refusal: Refusal::NotFound,
        detail: ShortText::new("notes.txt"),
        retry_after_ms: None,
    })
}
