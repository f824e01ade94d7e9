//! Connections to a real server: who is let in, what is answered, and what ends them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bench;

use std::time::Duration;

use bench::{Bench, DEADLINE, announce, file, path, presence, reply};
use shoal_link::{Identity, LinkError, StreamError};
use shoal_server::Limits;
use shoal_server::control::{ControlEvent, ControlRequest};
use shoal_wire::grant::GrantParties;
use shoal_wire::message::{
    Addresses, FileList, FileOffer, FilePage, FileRequest, Matched, PRESENCE_EXPORT_LABEL, PeerRef,
    Provider, TransferProgress, Wanted, presence_proof_bytes,
};
use shoal_wire::{ChunkRanges, Communication, Hash, NodeId, Refusal, Scope, ShortText};

#[tokio::test]
async fn the_server_proves_its_identity_on_every_link() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    let exported = anna
        .link
        .export_key(PRESENCE_EXPORT_LABEL, anna.node().as_bytes())
        .unwrap();
    let signed = presence_proof_bytes(&exported);
    let server = bench.server.node_id();
    assert_eq!(anna.response.server, server);
    assert!(anna.response.proof.verifies(&server, &signed));
    assert_eq!(anna.response.observed, anna.endpoint.local_addr());
    assert_eq!(bench.peer_names().await, ["anna"]);

    let bert = bench.guest("bert").await;
    assert!(!bert.response.proof.verifies(&server, &signed));
}

#[tokio::test]
async fn a_one_shot_command_is_answered_but_is_not_a_peer() {
    let bench = Bench::new().await;
    let visitor = bench
        .visit(Identity::generate(), presence("once", 1, false))
        .await
        .unwrap();
    let status = visitor.ask(&Communication::StatusRequest).await.unwrap();
    assert!(matches!(status, Communication::ServerStatus(status) if status.peers == 0));
    assert!(bench.peer_names().await.is_empty());
}

#[tokio::test]
async fn a_second_host_with_the_same_identity_is_refused_while_the_first_lives() {
    let bench = Bench::new().await;
    let identity = Identity::generate();
    let first = bench
        .visit(identity.clone(), presence("first", 1, true))
        .await
        .unwrap();
    let alive = async {
        let (question, mut stream) = first.hear().await;
        assert!(matches!(question, Communication::FileList(_)));
        let page = Communication::FileListPage {
            files: FilePage::default(),
            more: false,
        };
        reply(&mut stream, &page).await;
    };
    let (second, ()) = tokio::join!(bench.visit(identity, presence("second", 2, true)), alive);
    let end = second.err().unwrap();
    assert_eq!(end.refusal(), Some(Refusal::IdentityInUse));
    assert_eq!(bench.peer_names().await, ["first"]);
    assert!(first.link.close_reason().is_none());
}

#[tokio::test]
async fn a_reconnect_of_the_same_process_takes_over_at_once() {
    let bench = Bench::new().await;
    let identity = Identity::generate();
    let old = bench
        .visit(identity.clone(), presence("anna", 7, true))
        .await
        .unwrap();
    let new = bench
        .visit(identity, presence("anna", 7, true))
        .await
        .unwrap();
    assert_eq!(old.link.closed().await.refusal(), Some(Refusal::Replaced));
    assert_eq!(bench.peer_names().await, ["anna"]);
    new.announce(0, vec![file("a", None)]).await;
}

#[tokio::test]
async fn an_announce_that_was_taken_before_or_skips_one_is_stale() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    anna.announce(0, vec![file("a", None)]).await;
    let replayed = announce(0, true, vec![file("withdrawn", None)]);
    assert_eq!(anna.refusal_of(&replayed).await, Refusal::StaleAnnounce);
    let skipping = announce(2, false, vec![file("b", None)]);
    assert_eq!(anna.refusal_of(&skipping).await, Refusal::StaleAnnounce);
    let order = ControlRequest::Files {
        text: Some("withdrawn".into()),
    };
    assert_eq!(bench.order(&order).await, [ControlEvent::Done]);
}

#[tokio::test]
async fn files_over_the_quota_are_refused_with_a_time_to_try_again() {
    let limits = Limits {
        announced_files: 3,
        ..Limits::default()
    };
    let bench = Bench::with(limits).await;
    let anna = bench.guest("anna").await;
    anna.announce(0, vec![file("a", None), file("b", None)])
        .await;
    let flood = announce(1, false, vec![file("c", None), file("d", None)]);
    let refused = anna.ask(&flood).await.unwrap_err();
    let shoal_node::requests::RequestError::Refused(report) = refused else {
        panic!("a quota is a refusal");
    };
    assert_eq!(report.refusal, Refusal::QuotaExceeded);
    assert!(report.retry_after_ms.is_some());
    // A file that changes again and again counts once.
    for sequence in 1..6 {
        let changed = announce(sequence, false, vec![file("a", Some(1))]);
        anna.ask(&changed).await.unwrap();
    }
}

#[tokio::test]
async fn verbs_that_are_not_for_a_peer_to_use_are_denied_in_either_role() {
    let bench = Bench::new().await;
    for serving in [true, false] {
        let visitor = bench
            .visit(Identity::generate(), presence("visitor", 1, serving))
            .await
            .unwrap();
        let offer = Communication::FileOffer(FileOffer {
            provider: Provider {
                node: visitor.node(),
                name: "visitor".parse().unwrap(),
                addresses: Addresses::default(),
                entry: file("planted", None),
                grant: None,
            },
            target: path("planted"),
            overwrite: true,
        });
        let again = Communication::PresenceAnnounce(presence("other", 1, serving));
        for (message, refusal) in [
            (offer, Refusal::Denied),
            (Communication::Rescan, Refusal::Denied),
            (again, Refusal::Unexpected),
            (
                Communication::FileAcknowledge { sequence: 0 },
                Refusal::Unexpected,
            ),
            (
                Communication::TransferProgress(TransferProgress {
                    total_bytes: 0,
                    verified_bytes: 0,
                    durable_bytes: 0,
                    outcome: None,
                }),
                Refusal::Unexpected,
            ),
            (
                Communication::FileTransferComplete { root: None },
                Refusal::Unexpected,
            ),
            (
                Communication::FileChunkAck { durable_chunks: 1 },
                Refusal::Unexpected,
            ),
        ] {
            assert_eq!(visitor.refusal_of(&message).await, refusal, "{message:?}");
        }
        if !serving {
            let unasked = announce(0, true, vec![file("a", None)]);
            assert_eq!(visitor.refusal_of(&unasked).await, Refusal::Unexpected);
            let moved = Communication::AddressUpdate(Addresses::default());
            assert_eq!(visitor.refusal_of(&moved).await, Refusal::Unexpected);
        }
        visitor.link.close(Refusal::Done);
    }
    assert!(!bench.folder.path().join("server_files/planted").exists());
}

#[tokio::test]
async fn a_look_up_names_a_provider_with_a_grant_that_holds() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    let bert = bench.guest("bert").await;
    anna.announce(0, vec![file("d/a", Some(5)), file("d/b", None)])
        .await;
    let locate = |wanted| Communication::Locate {
        peer: None,
        wanted,
        after: None,
    };
    let holds = |provider: &Provider, hash: Option<Hash>, at: &str| {
        let grant = provider.grant.as_ref().unwrap();
        let parties = GrantParties {
            server: bench.server.node_id(),
            provider: anna.node(),
            holder: bert.node(),
        };
        grant.check(&parties, &path(at), hash.as_ref(), 0).is_ok()
    };
    let answer = bert.ask(&locate(Wanted::Path(path("d/a")))).await.unwrap();
    let Communication::Located { matched, files, .. } = answer else {
        panic!("it is there");
    };
    assert_eq!((matched, files.len()), (Matched::File, 1));
    assert_eq!(files[0].addresses.len(), 1);
    assert!(holds(&files[0], None, "d/a") && !holds(&files[0], None, "d/b"));

    let hash = Hash::new([5; 32]);
    let answer = bert.ask(&locate(Wanted::Blob(hash))).await.unwrap();
    let Communication::Located { files, .. } = answer else {
        panic!("its hash is known");
    };
    assert_eq!(
        files[0].grant.as_ref().unwrap().grant.scope,
        Scope::Blob(hash)
    );
    assert!(holds(&files[0], Some(hash), "anywhere"));

    let text = Wanted::Text(ShortText::new("d"));
    let answer = bert.ask(&locate(text)).await.unwrap();
    let Communication::Located {
        matched,
        files,
        more,
    } = answer
    else {
        panic!("the folder is there");
    };
    assert_eq!(
        (matched, files.len(), more),
        (Matched::Folder(path("d")), 2, false)
    );
    assert!(files.iter().all(|file| holds(file, None, "d/b")));

    let own = locate(Wanted::Path(path("d/a")));
    assert_eq!(anna.refusal_of(&own).await, Refusal::NotFound);
}

#[tokio::test]
async fn a_peer_that_left_is_found_by_search_but_not_by_look_up() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    anna.announce(0, vec![file("gone.txt", None)]).await;
    let bert = bench.guest("bert").await;
    bench
        .order(&ControlRequest::Disconnect {
            peer: "anna".into(),
        })
        .await;
    let end = anna.link.closed().await;
    assert!(matches!(
        end,
        LinkError::ClosedByPeer(Refusal::Disconnected)
    ));
    while bench.peer_names().await.len() > 1 {
        tokio::task::yield_now().await;
    }
    let search = Communication::Search {
        text: ShortText::new("GONE"),
        limit: 10,
    };
    let Communication::SearchPage { hits, more } = bert.ask(&search).await.unwrap() else {
        panic!("a search has a page");
    };
    assert_eq!((hits.len(), hits[0].online, more), (1, false, false));
    let locate = Communication::Locate {
        peer: None,
        wanted: Wanted::Path(path("gone.txt")),
        after: None,
    };
    assert_eq!(bert.refusal_of(&locate).await, Refusal::NotFound);
    let list = Communication::FileList(FileList {
        peer: Some(PeerRef::Text(ShortText::new("anna"))),
        prefix: None,
        after: None,
        limit: 10,
    });
    assert_eq!(bert.refusal_of(&list).await, Refusal::PeerNotConnected);
}

#[tokio::test]
async fn the_servers_own_files_come_over_the_link_itself() {
    let bench = Bench::new().await;
    bench.server.ready().await;
    let anna = bench.guest("anna").await;
    let list = Communication::FileList(FileList {
        peer: None,
        prefix: None,
        after: None,
        limit: 10,
    });
    let Communication::FileListPage { files, .. } = anna.ask(&list).await.unwrap() else {
        panic!("a list has a page");
    };
    assert_eq!(files[0].path, path("own.txt"));
    let search = Communication::Search {
        text: ShortText::new("own"),
        limit: 1,
    };
    loop {
        let Communication::SearchPage { hits, .. } = anna.ask(&search).await.unwrap() else {
            panic!("a search has a page");
        };
        if !hits.is_empty() {
            break;
        }
    }
    let locate = Communication::Locate {
        peer: Some(PeerRef::Id(bench.server.node_id())),
        wanted: Wanted::Text(ShortText::new("own.txt")),
        after: None,
    };
    let Communication::Located { files, .. } = anna.ask(&locate).await.unwrap() else {
        panic!("the server has it");
    };
    assert_eq!(files[0].node, bench.server.node_id());
    assert!(files[0].grant.is_none() && files[0].addresses.is_empty());
    let request = Communication::FileRequest(FileRequest {
        path: path("own.txt"),
        hash: None,
        grant: None,
        accepts_zstd: false,
    });
    let mut stream = anna.link.open().await.unwrap();
    stream.send.say(&request).await.unwrap();
    let heard = stream.recv.hear(DEADLINE).await.unwrap().unwrap();
    let Communication::FileResponse(response) = heard else {
        panic!("the server serves it, got {heard:?}");
    };
    assert_eq!(response.entry.size.bytes(), 20);
}

#[tokio::test]
async fn a_malformed_frame_ends_its_own_connection_only() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    for bytes in [
        [0, 0, 0, 1, 99, 0].as_slice(),
        [0xff, 0xff, 0xff, 0xff, 2].as_slice(),
        [0, 0, 0, 3, 14, 0xff, 0xff, 0xff].as_slice(),
    ] {
        let hostile = bench.guest("hostile").await;
        let mut stream = hostile.link.open().await.unwrap();
        stream.send.write_all(bytes).await.unwrap();
        let end = hostile.link.closed().await.refusal();
        assert!(
            matches!(end, Some(Refusal::Malformed | Refusal::TooLarge)),
            "{end:?}"
        );
        anna.ask(&Communication::StatusRequest).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_does_not_present_itself_is_dropped() {
    let limits = Limits {
        presence_deadline: Duration::from_millis(50),
        ..Limits::default()
    };
    let bench = Bench::with(limits).await;
    let (_endpoint, silent) = bench.dial(Identity::generate()).await;
    assert_eq!(silent.closed().await.refusal(), Some(Refusal::TimedOut));

    let (_endpoint, slow) = bench.dial(Identity::generate()).await;
    let begin = async || {
        let mut stream = slow.open().await?;
        stream.send.write_all(&[0, 0]).await?;
        Ok::<_, StreamError>(stream)
    };
    // On a busy machine the deadline may be over before the first byte.
    let begun = begin().await;
    let dropped = LinkError::ClosedByPeer(Refusal::TimedOut);
    assert_eq!(slow.closed().await, dropped);
    if let Err(error) = begun {
        assert_eq!(error, StreamError::Link(dropped));
    }
}

#[tokio::test]
async fn anything_before_the_presence_is_unexpected() {
    let bench = Bench::new().await;
    for first in [
        Communication::StatusRequest,
        Communication::FileGet(ChunkRanges::new(vec![0..1, 2..3]).unwrap()),
        announce(0, true, vec![file("a", None)]),
    ] {
        let (_endpoint, link) = bench.dial(Identity::generate()).await;
        let mut stream = link.open().await.unwrap();
        stream.send.say(&first).await.unwrap();
        assert_eq!(link.closed().await.refusal(), Some(Refusal::Unexpected));
    }
}

#[tokio::test]
async fn peers_are_listed_by_id_from_a_given_one_on() {
    let bench = Bench::new().await;
    let guests = [bench.guest("a").await, bench.guest("b").await];
    let mut ids: Vec<NodeId> = guests.iter().map(bench::Guest::node).collect();
    ids.sort();
    let page = async |after| {
        let answer = guests[0].ask(&Communication::PeerList { after }).await;
        let Communication::PeerListPage { peers, more } = answer.unwrap() else {
            panic!("a list has a page");
        };
        assert!(!more);
        peers.iter().map(|peer| peer.node).collect::<Vec<_>>()
    };
    assert_eq!(page(None).await, ids);
    assert_eq!(page(Some(ids[0])).await, ids[1..]);
}

#[tokio::test]
async fn shutdown_says_goodbye_and_leaves_no_work_behind() {
    let bench = Bench::new().await;
    let anna = bench.guest("anna").await;
    assert!(bench.server.shutdown(DEADLINE).await);
    assert_eq!(
        anna.link.closed().await.refusal(),
        Some(Refusal::ShuttingDown)
    );
}
