//! Links and streams between two endpoints: both directions, endings, windows.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod pair;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use pair::{PATIENCE, endpoint, link_between, outcome, stream_on, to};
use shoal_link::{
    BindError, Dial, DialError, Endpoint, EndpointConfig, Identity, Link, LinkError, PathKind,
    Protocol, StreamError,
};
use shoal_wire::Refusal;
use tokio::runtime::Runtime;

#[tokio::test]
async fn both_sides_open_streams_and_know_each_other() {
    let server = endpoint(&[Protocol::Control, Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (near, far) = link_between(&client, &server).await;
    assert_eq!(near.remote_id(), Some(server.node_id()));
    assert_eq!(far.remote_id(), Some(client.node_id()));
    assert_eq!(near.protocol(), Protocol::Transfer);
    assert_eq!(far.protocol(), Protocol::Transfer);
    assert!(near.is_dialer() && !far.is_dialer());
    echo(&near, &far).await;
    echo(&far, &near).await;
}

#[tokio::test]
async fn a_link_knows_its_path() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (near, _far) = link_between(&client, &server).await;
    let path = near.path();
    assert_eq!(path.kind, PathKind::Direct);
    assert_eq!(path.remote, server.local_addr());
    assert!(path.mtu_bytes > 60_000, "{path:?}");
    assert!(!path.is_on_lan, "{path:?}");
    assert!(path.smallest_rtt <= path.rtt, "{path:?}");
}

#[tokio::test]
async fn the_first_link_knows_that_its_path_stays_on_a_network_of_this_machine() {
    let Some(ip) = own_address() else { return };
    let server = EndpointConfig {
        accept: vec![Protocol::Transfer],
        ..config((ip, 0).into())
    };
    let server = Endpoint::bind(server).await.unwrap();
    let client = Endpoint::bind(config((ip, 0).into())).await.unwrap();
    let (near, far) = link_between(&client, &server).await;
    for path in [near.path(), far.path()] {
        assert!(path.is_on_lan, "{path:?}");
    }
}

#[tokio::test]
async fn a_dual_stack_socket_reaches_ipv4_and_spells_it_so() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = match Endpoint::bind(config("[::]:0".parse().unwrap())).await {
        Ok(client) => client,
        Err(BindError::Socket { .. } | BindError::AddressNotHere { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let (near, _far) = link_between(&client, &server).await;
    assert_eq!(near.path().remote, server.local_addr());
}

#[tokio::test]
async fn an_ipv4_socket_skips_ipv6_addresses() {
    let client = endpoint(&[]).await;
    let mut dial = to(&client);
    dial.addresses = vec!["[::1]:9".parse().unwrap()];
    assert_eq!(outcome(&client, dial).await, Err(DialError::NoAddress));
}

#[tokio::test]
async fn the_first_address_that_answers_wins() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut dial = to(&server);
    dial.addresses.insert(0, silent.local_addr().unwrap());
    let (near, far) = tokio::join!(client.dial(dial), server.accept());
    assert_eq!(near.unwrap().path().remote, server.local_addr());
    assert!(far.is_some());
}

#[test]
fn a_node_that_comes_back_after_a_crash_says_so_of_its_old_links() {
    let (identity, lives) = (Identity::generate(), || Runtime::new().unwrap());
    let (first, second, here) = (lives(), lives(), lives());
    let living = |address| EndpointConfig {
        identity: identity.clone(),
        accept: vec![Protocol::Transfer],
        ..config(address)
    };
    let bound = first.block_on(Endpoint::bind(living("127.0.0.1:0".parse().unwrap())));
    let server = bound.unwrap();
    let (address, dial) = (server.local_addr(), to(&server));
    let client = here.block_on(endpoint(&[]));
    let far = first.spawn(async move {
        let far = server.accept().await;
        (server, far)
    });
    let near = here.block_on(client.dial(dial)).unwrap();
    let mut stream = here.block_on(near.open()).unwrap();
    let (server, far) = first.block_on(far).unwrap();
    // Nothing is said any more, not even goodbye.
    first.shutdown_background();
    drop((far, server));
    let again = second.block_on(async {
        let started = Instant::now();
        loop {
            match Endpoint::bind(living(address)).await {
                Ok(again) => return again,
                Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
            }
            tokio::task::yield_now().await;
        }
    });
    here.block_on(async {
        let lost = StreamError::Link(LinkError::Reset);
        // What was never acknowledged is sent again, so the answer may be here before the question.
        let asked = stream.send.write_all(b"?").await;
        assert!(asked.is_ok() || asked == Err(lost.clone()), "{asked:?}");
        assert_eq!(near.closed().await, LinkError::Reset);
        assert_eq!(stream.send.write_all(b"?").await, Err(lost.clone()));
        assert_eq!(stream.recv.read_chunk(1).await, Err(lost));
        assert_eq!(near.open().await.unwrap_err(), LinkError::Reset);
        assert_eq!(near.accept().await.unwrap_err(), LinkError::Reset);
    });
    drop(again);
}

#[tokio::test]
async fn an_address_where_nobody_answers_times_out() {
    let client = endpoint(&[]).await;
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dial = Dial {
        addresses: vec![silent.local_addr().unwrap()],
        deadline: Duration::from_millis(50),
        ..to(&client)
    };
    assert_eq!(outcome(&client, dial).await, Err(DialError::TimedOut));
}

#[tokio::test]
async fn the_number_of_a_close_arrives_at_the_other_side() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (near, far) = link_between(&client, &server).await;
    assert_eq!(far.close_reason(), None);
    near.close(Refusal::Replaced);
    assert_eq!(
        near.closed().await,
        LinkError::ClosedHere(Refusal::Replaced)
    );
    let heard = far.closed().await;
    assert_eq!(heard, LinkError::ClosedByPeer(Refusal::Replaced));
    assert_eq!(heard.refusal(), Some(Refusal::Replaced));
    assert_eq!(far.open().await.unwrap_err(), heard);
    assert_eq!(far.accept().await.unwrap_err(), heard);
}

#[tokio::test]
async fn closing_an_endpoint_says_goodbye_on_every_link() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (first, kept) = link_between(&client, &server).await;
    let (second, _kept_too) = link_between(&client, &server).await;
    server.close(Refusal::ShuttingDown).await;
    for link in [first, second] {
        let heard = link.closed().await;
        assert_eq!(heard, LinkError::ClosedByPeer(Refusal::ShuttingDown));
    }
    let here = LinkError::ClosedHere(Refusal::ShuttingDown);
    assert_eq!(kept.closed().await, here);
    assert!(server.accept().await.is_none());
    assert_eq!(outcome(&server, to(&client)).await, Err(DialError::Closed));
}

#[tokio::test]
async fn the_numbers_of_reset_and_stop_arrive_at_the_other_side() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (near, far) = link_between(&client, &server).await;
    let (mut here, mut there) = stream_on(&near, &far).await;
    here.send.reset(Refusal::SourceChanged);
    let heard = there.recv.read_chunk(100).await;
    assert_eq!(heard, Err(StreamError::Reset(Refusal::SourceChanged)));
    here.recv.stop(Refusal::Cancelled);
    assert_eq!(there.send.stopped().await, Some(Refusal::Cancelled));
    let refused = there.send.write_all(b"more").await;
    assert_eq!(refused, Err(StreamError::Stopped(Refusal::Cancelled)));
}

#[tokio::test]
async fn a_finished_stream_that_was_read_was_not_stopped() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (near, far) = link_between(&client, &server).await;
    let (mut here, mut there) = stream_on(&near, &far).await;
    here.send.finish();
    assert_eq!(there.recv.read_chunk(100).await, Ok(None));
    assert_eq!(here.send.stopped().await, None);
    let ended = here.send.write_all(b"more").await;
    assert_eq!(ended, Err(StreamError::Ended));
}

#[tokio::test]
async fn both_ends_export_the_same_key_and_no_other_link_does() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (near, far) = link_between(&client, &server).await;
    let (other, _far) = link_between(&client, &server).await;
    let key = near.export_key(b"code", b"context").unwrap();
    assert_eq!(far.export_key(b"code", b"context"), Some(key));
    assert_ne!(near.export_key(b"code", b"other"), Some(key));
    assert_ne!(other.export_key(b"code", b"context"), Some(key));
}

#[tokio::test]
async fn a_stranger_gets_few_streams_and_a_known_peer_many() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (near, far) = link_between(&client, &server).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(near.open().await.unwrap());
    }
    let ninth = tokio::time::timeout(Duration::from_millis(50), near.open()).await;
    assert!(ninth.is_err(), "the ninth stream waits");
    far.widen();
    let ninth = tokio::time::timeout(PATIENCE, near.open()).await;
    assert!(ninth.unwrap().is_ok());
}

#[tokio::test]
async fn a_stranger_may_send_little_before_it_is_read() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let (near, far) = link_between(&client, &server).await;
    let (mut here, _there) = stream_on(&near, &far).await;
    let megabyte = vec![7; 1024 * 1024];
    let unread = tokio::time::timeout(Duration::from_millis(50), async {
        let mut sent_bytes = 0;
        while sent_bytes < 32 * megabyte.len() {
            here.send.write_all(&megabyte).await.unwrap();
            sent_bytes += megabyte.len();
        }
    });
    assert!(unread.await.is_err(), "nobody reads, so the writer waits");
    assert_eq!(near.close_reason(), None);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = endpoint(&[]).await;
    let address = taken.local_addr();
    match Endpoint::bind(config(address)).await {
        Err(BindError::PortInUse { address: named }) => assert_eq!(named, address),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_address_of_another_machine_cannot_be_bound() {
    let outcome = Endpoint::bind(config("192.0.2.1:0".parse().unwrap())).await;
    assert!(
        matches!(outcome, Err(BindError::AddressNotHere { .. })),
        "{outcome:?}"
    );
}

async fn echo(opener: &Link, other: &Link) {
    let answer = async {
        let mut stream = other.accept().await.unwrap();
        while let Some(chunk) = stream.recv.read_chunk(64 * 1024).await.unwrap() {
            stream.send.write_chunk(chunk).await.unwrap();
        }
        stream.send.finish();
    };
    let ask = async {
        let mut stream = opener.open().await.unwrap();
        stream.send.write_all(b"hello").await.unwrap();
        stream.send.finish();
        let mut heard = [0; 5];
        stream.recv.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        let after = stream.recv.read_exact(&mut [0]).await;
        assert_eq!(after, Err(StreamError::Ended));
    };
    tokio::join!(answer, ask);
}

/// An address of this machine that is not loopback, if it has one. Sends nothing.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback()).then_some(ip)
}

fn config(bind: SocketAddr) -> EndpointConfig {
    EndpointConfig {
        bind,
        identity: Identity::generate(),
        certificate: None,
        accept: Vec::new(),
        roaming: None,
    }
}
