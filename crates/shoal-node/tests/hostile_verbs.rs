//! Every kind of message as the first one on a stream, from a server and from another peer: a peer
//! answers the few that are for its role and denies the rest.

mod support;

use shoal_link::Protocol;
use shoal_node::requests::request;
use shoal_wire::message::{FileOffer, FileRequest, LimitChange, LimitRequest, LimitsInForce};
use shoal_wire::{Communication, Rate, Refusal, frame};
use support::content::{Content, path};
use support::coordinator::{Club, refusal_of};
use support::scripted::Scripted;
use support::{dial, endpoint, soon};

/// One documented frame or more of every kind, as a name and hex digits.
const VECTORS: &str = include_str!("../../../docs/protocol/vectors/messages.txt");

#[tokio::test]
async fn another_peer_is_answered_requests_for_files_and_nothing_else() {
    let club = Club::new(true).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &club.endpoint).await;
    for (name, message) in every_message() {
        let expected = match message {
            // The documented ones show a grant of nobody's, or none.
            Communication::FileRequest(_)
            | Communication::ManifestRequest(_)
            | Communication::PackGet(_) => Refusal::NotGranted,
            // There is no request to join.
            Communication::FileJoin { .. } => Refusal::Unexpected,
            _ => Refusal::Denied,
        };
        assert_eq!(refusal_of(&link, &message).await, Some(expected), "{name}");
    }
    assert!(link.close_reason().is_none());
    assert_eq!(support::receiver::names(&club.files()).len(), 1);
}

#[tokio::test]
async fn a_server_is_answered_lists_requests_offers_rescans_and_limits_and_nothing_else() {
    let club = Club::new(true).await;
    let mut denied = 0;
    for (name, message) in every_message() {
        let expected = match message {
            Communication::FileList(_) | Communication::Rescan | Communication::LimitRequest(_) => {
                None
            }
            Communication::FileRequest(_) | Communication::ManifestRequest(_) => {
                Some(Refusal::NotFound)
            }
            Communication::FileJoin { .. } => Some(Refusal::Unexpected),
            // It is answered file by file.
            Communication::PackGet(_) => None,
            // What is offered is tested by itself, below.
            Communication::FileOffer(_) => continue,
            // Nobody listens here.
            Communication::OfferNotice { .. } => Some(Refusal::Declined),
            _ => Some(Refusal::Denied),
        };
        denied += usize::from(expected == Some(Refusal::Denied));
        assert_eq!(refusal_of(&club.link, &message).await, expected, "{name}");
    }
    assert!(denied >= 23, "{denied}");
    let request = Communication::FileRequest(FileRequest {
        path: path("hello.txt"),
        hash: None,
        grant: None,
        accepts_zstd: false,
    });
    assert_eq!(refusal_of(&club.link, &request).await, None);
    assert!(club.link.close_reason().is_none());
}

#[tokio::test]
async fn an_offer_is_taken_from_the_server_where_that_is_on_and_from_nobody_else() {
    let content = Content::new("a.bin", 10, 1);
    let honest = Scripted::honest("honest", &content).await;
    let offer = Communication::FileOffer(FileOffer {
        provider: honest.source(&content.entry).provider,
        target: path("a.bin"),
        overwrite: true,
    });
    for accepts_offers in [true, false] {
        let club = Club::new(accepts_offers).await;
        let visitor = endpoint(&[]).await;
        let link = dial(&visitor, &club.endpoint).await;
        let denied = Some(Refusal::Denied);
        assert_eq!(refusal_of(&link, &offer).await, denied);
        assert!(!club.files().join("a.bin").exists());
        let expected = if accepts_offers { None } else { denied };
        assert_eq!(refusal_of(&club.link, &offer).await, expected);
        let target = club.files().join("a.bin");
        support::until(|| target.exists() == accepts_offers).await;
    }
}

#[tokio::test]
async fn limits_are_taken_from_the_server_and_from_nobody_else() {
    let club = Club::new(true).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &club.endpoint).await;
    let rate = Rate::new(1_000).expect("a rate");
    let lowest = Communication::LimitRequest(LimitRequest {
        up: LimitChange::To(rate),
        ..LimitRequest::default()
    });
    assert_eq!(refusal_of(&link, &lowest).await, Some(Refusal::Denied));
    let in_force = club.peer.transfers().throttle().in_force();
    assert_eq!(in_force, LimitsInForce::default());
    // Asking is denied too: what a peer can take is no stranger's business.
    let question = Communication::LimitRequest(LimitRequest::default());
    assert_eq!(refusal_of(&link, &question).await, Some(Refusal::Denied));
    for (message, up) in [(&lowest, Some(rate)), (&question, Some(rate))] {
        let expected = Communication::LimitsInForce(LimitsInForce {
            up,
            ..LimitsInForce::default()
        });
        let answer = request(&club.link, message, support::DEADLINE).await;
        assert_eq!(answer.expect("an answer"), expected);
    }
    // An answer that nobody asked for changes nothing.
    let unasked = Communication::LimitsInForce(LimitsInForce::default());
    let denied = Some(Refusal::Denied);
    assert_eq!(refusal_of(&club.link, &unasked).await, denied);
    let in_force = club.peer.transfers().throttle().in_force();
    assert_eq!(in_force.up, Some(rate));
}

#[tokio::test]
async fn a_peer_is_nobodys_server() {
    let club = Club::new(true).await;
    let visitor = endpoint(&[]).await;
    let dialled = visitor
        .dial(shoal_link::Dial {
            addresses: vec![club.endpoint.local_addr()],
            server_name: None,
            trust: shoal_link::Trust::Node(club.endpoint.node_id()),
            protocol: Protocol::Control,
            relays: Vec::new(),
            deadline: support::DEADLINE,
        })
        .await;
    assert!(dialled.is_err());
}

#[tokio::test]
async fn a_peer_that_goes_away_says_so_to_whoever_asks_it() {
    let club = Club::new(true).await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &club.endpoint).await;
    let denied = refusal_of(&link, &Communication::Rescan).await;
    assert_eq!(denied, Some(Refusal::Denied));
    club.endpoint.close(Refusal::ShuttingDown).await;
    let end = soon(link.closed()).await;
    assert_eq!(end.refusal(), Some(Refusal::ShuttingDown), "{end}");
    let end = soon(club.link.closed()).await;
    assert_eq!(end.refusal(), Some(Refusal::ShuttingDown), "{end}");
}

fn every_message() -> Vec<(&'static str, Communication)> {
    let lines = VECTORS.lines();
    let samples = lines.filter(|line| !line.starts_with('#') && !line.is_empty());
    let messages: Vec<_> = samples
        .map(|line| {
            let (name, hex) = line.split_once(' ').expect("a name and hex digits");
            (name, decoded(hex))
        })
        .collect();
    // Kind 32 is the last of this version.
    for kind in 0..=32 {
        let is_there = messages.iter().any(|(_, message)| kind_of(message) == kind);
        assert!(is_there, "no sample of kind {kind}");
    }
    messages
}

fn kind_of(message: &Communication) -> u8 {
    frame::encode(message).expect("a small message")[4]
}

fn decoded(hex: &str) -> Communication {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
    let (head, body) = bytes.split_at(frame::HEADER_BYTES);
    let header = frame::Header::parse(head.try_into().expect("a header"));
    frame::decode(header.expect("a known kind"), body).expect("a documented message")
}
