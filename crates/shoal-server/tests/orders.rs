//! Orders from the control socket, carried out with guests that answer by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bench;

use bench::{Bench, DEADLINE, file, path, reply};
use shoal_server::control::{ControlEvent, ControlRequest, TransferOutcome};
use shoal_wire::message::{FilePage, FileResponse, Outcome, TransferProgress};
use shoal_wire::{Communication, Hash, Refusal};

#[tokio::test]
async fn a_listing_asks_the_peer_page_by_page() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    let answers = async {
        for (name, more) in [("d/a", true), ("d/b", false)] {
            let (question, mut stream) = anna.hear().await;
            let Communication::FileList(list) = question else {
                panic!("a listing is asked for");
            };
            assert_eq!(list.prefix, Some(path("d")));
            assert_eq!(list.after, (name == "d/b").then(|| path("d/a")));
            let page = Communication::FileListPage {
                files: FilePage::truncated(vec![file(name, None)]),
                more,
            };
            reply(&mut stream, &page).await;
        }
    };
    let order = ControlRequest::List {
        peer: "anna".into(),
        path: Some("d/".into()),
    };
    let (events, ()) = tokio::join!(bench.order(&order), answers);
    assert_eq!(shown(&events), ["d/a", "d/b", "done"]);
}

#[tokio::test]
async fn a_listing_of_a_folder_that_is_not_there_is_not_found() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    let answers = async {
        let (_question, mut stream) = anna.hear().await;
        let page = Communication::FileListPage {
            files: FilePage::truncated(Vec::new()),
            more: false,
        };
        reply(&mut stream, &page).await;
    };
    let order = ControlRequest::List {
        peer: "anna".into(),
        path: Some("nothing".into()),
    };
    let (events, ()) = tokio::join!(bench.order(&order), answers);
    let failed = format!("failed {}", Refusal::NotFound.code());
    assert_eq!(shown(&events), [failed]);
}

#[tokio::test]
async fn a_peer_whose_listing_does_not_go_on_is_not_asked_for_ever() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    let answers = async {
        for _ in 0..2 {
            let (_question, mut stream) = anna.hear().await;
            let page = Communication::FileListPage {
                files: FilePage::truncated(vec![file("a", None)]),
                more: true,
            };
            reply(&mut stream, &page).await;
        }
    };
    let order = ControlRequest::List {
        peer: "anna".into(),
        path: None,
    };
    let (events, ()) = tokio::join!(bench.order(&order), answers);
    assert_eq!(shown(&events), ["a", "failed 3"]);
}

#[tokio::test]
async fn a_request_asks_the_peer_about_one_file() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    anna.announce(0, vec![file("deep/report", Some(4))]).await;
    let answers = async {
        let (question, mut stream) = anna.hear().await;
        let Communication::FileRequest(request) = question else {
            panic!("a file is asked for");
        };
        let response = FileResponse {
            entry: file(&request.path.to_string(), Some(4)),
        };
        reply(&mut stream, &Communication::FileResponse(response)).await;
    };
    let order = ControlRequest::Request {
        peer: anna.node().short(),
        file: "report".into(),
    };
    let (events, ()) = tokio::join!(bench.order(&order), answers);
    assert_eq!(shown(&events), ["deep/report", "done"]);
}

#[tokio::test]
async fn a_transfer_offers_the_file_with_a_grant_and_relays_the_progress() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    let bert = bench.guest("bert").await;
    anna.announce(0, vec![file("a", Some(4))]).await;
    let takes = async {
        let (message, mut stream) = bert.hear().await;
        let Communication::FileOffer(offer) = message else {
            panic!("a file is offered");
        };
        assert_eq!(offer.provider.node, anna.node());
        let grant = offer.provider.grant.unwrap().grant;
        assert_eq!((grant.holder, grant.provider), (bert.node(), anna.node()));
        assert!(offer.overwrite);
        for outcome in [None, Some(Outcome::Fetched(Hash::new([4; 32])))] {
            let progress = TransferProgress {
                total_bytes: 10,
                verified_bytes: 10,
                durable_bytes: if outcome.is_some() { 10 } else { 0 },
                outcome,
            };
            let message = Communication::TransferProgress(progress);
            stream.send.say(&message).await.unwrap();
        }
        stream.send.finish();
    };
    let order = ControlRequest::Transfer {
        from: "anna".into(),
        file: "a".into(),
        to: "bert".into(),
        overwrite: true,
    };
    let (events, ()) = tokio::join!(bench.order(&order), takes);
    assert_eq!(shown(&events), ["a 0", "a 10", "a fetched", "done"]);
}

#[tokio::test]
async fn a_push_offers_the_servers_own_file_and_a_refusal_keeps_its_number() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    let order = ControlRequest::Push {
        file: "own.txt".into(),
        peer: "anna".into(),
        overwrite: false,
    };
    let files = ControlRequest::Files { text: None };
    while bench.order(&files).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    let refuses = async {
        let (message, mut stream) = anna.hear().await;
        let Communication::FileOffer(offer) = message else {
            panic!("a file is offered");
        };
        assert_eq!(offer.provider.node, bench.server.node_id());
        assert!(offer.provider.grant.is_none() && offer.provider.addresses.is_empty());
        let refusal = Communication::refused(Refusal::TargetExists, "own.txt");
        reply(&mut stream, &refusal).await;
    };
    let (events, ()) = tokio::join!(bench.order(&order), refuses);
    assert_eq!(shown(&events), ["failed 23"]);
}

#[tokio::test]
async fn an_order_that_is_taken_back_is_reset_at_the_peer() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    let order = ControlRequest::Rescan {
        peer: "anna".into(),
    };
    let (message, mut stream) = bench.order_dropped_on(&order, anna.hear()).await;
    assert_eq!(message, Communication::Rescan);
    let stopped = tokio::time::timeout(DEADLINE, stream.send.stopped());
    assert_eq!(stopped.await.unwrap(), Some(Refusal::Cancelled));
}

#[tokio::test]
async fn orders_about_nobody_or_nothing_fail_with_their_number() {
    let bench = Bench::new().await;
    let _anna = bench.guest("anna").await;
    let _other = bench.guest("anna").await;
    let _bert = bench.guest("bert").await;
    for (order, number) in [
        (
            ControlRequest::Rescan {
                peer: "nobody".into(),
            },
            Refusal::PeerNotConnected,
        ),
        (
            ControlRequest::Disconnect {
                peer: "anna".into(),
            },
            Refusal::Ambiguous,
        ),
        (
            ControlRequest::Rescan {
                peer: "the-server".into(),
            },
            Refusal::PeerNotConnected,
        ),
        (
            ControlRequest::Fetch {
                peer: "bert".into(),
                file: "nothing".into(),
                overwrite: false,
            },
            Refusal::NotFound,
        ),
        (
            ControlRequest::Request {
                peer: "bert".into(),
                file: "../../etc/passwd".into(),
            },
            Refusal::NotFound,
        ),
    ] {
        let events = bench.order(&order).await;
        let failed = format!("failed {}", number.code());
        assert_eq!(shown(&events), [failed], "{order:?}");
    }
}

#[tokio::test]
async fn the_status_counts_what_is_there() {
    let bench = Bench::new().await;
    bench.server.ready().await;
    let anna = bench.guest("anna").await;
    anna.announce(0, vec![file("a", None), file("b", None)])
        .await;
    let events = bench.order(&ControlRequest::Status).await;
    let ControlEvent::Status {
        name,
        peers,
        own_files,
        ..
    } = &events[0]
    else {
        panic!("a status is told, got {events:?}");
    };
    assert_eq!((name.as_str(), *peers, *own_files), ("the-server", 1, 1));
}

/// The events in short.
fn shown(events: &[ControlEvent]) -> Vec<String> {
    let short = |event: &ControlEvent| match event {
        ControlEvent::File { path, .. } => path.clone(),
        ControlEvent::Progress {
            path,
            durable_bytes,
            ..
        } => format!("{path} {durable_bytes}"),
        ControlEvent::Transferred {
            path,
            outcome: TransferOutcome::Fetched,
            ..
        } => format!("{path} fetched"),
        ControlEvent::Failed { code, .. } => format!("failed {code}"),
        ControlEvent::Done => "done".to_owned(),
        other => format!("{other:?}"),
    };
    events.iter().map(short).collect()
}
