//! The DHT, on a network of fifty nodes of the test's own: churn, vandals, lies.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use n0_mainline::{Id, MutableItem, SigningKey, Testnet};
use shoal_link::Identity;
use shoal_node::dht::Dht;
use shoal_wire::message::Addresses;
use shoal_wire::whereabouts::Whereabouts;
use shoal_wire::{Hash, NodeId};

const NODES: usize = 50;
const SALT: &[u8] = b"shoal/whereabouts/1";

async fn network() -> Testnet {
    Testnet::new(NODES).await.unwrap()
}

fn join(network: &Testnet) -> Dht {
    Dht::start(&network.bootstrap).unwrap()
}

fn at(text: &str) -> (SocketAddr, Addresses) {
    let address: SocketAddr = text.parse().unwrap();
    (address, Addresses::truncated(vec![address]))
}

fn now_s() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.unwrap().as_secs()
}

/// Puts a record under a key as anybody could, without a look at what is in it.
async fn put(network: &Testnet, signer: &Identity, (record, sequence): (&[u8], i64)) -> bool {
    let key = SigningKey::from_bytes(&signer.secret_bytes());
    let item = MutableItem::new(&key, record, sequence, Some(SALT));
    network.nodes[7].put_mutable(item, None).await.is_ok()
}

#[tokio::test]
async fn a_node_is_found_by_its_id_where_it_said_last() {
    let network = network().await;
    let (anna, bob) = (Identity::generate(), join(&network));
    let (first, said) = at("192.0.2.7:7000");
    join(&network).publish(&anna, said).await.unwrap();
    assert_eq!(bob.find(anna.node_id()).await, [first]);
    // The next second's record is the newer one.
    let (second, said) = at("[2001:db8::7]:7001");
    let record = Whereabouts {
        said_at_s: now_s() + 5,
        addresses: said,
    };
    let newer = record.encode().unwrap();
    assert!(put(&network, &anna, (&newer, (now_s() + 5) as i64)).await);
    assert_eq!(bob.find(anna.node_id()).await, [second]);
    assert!(bob.find(Identity::generate().node_id()).await.is_empty());
}

#[tokio::test]
async fn records_that_are_stale_early_unordered_or_rubbish_are_not_believed() {
    let network = network().await;
    let bob = join(&network);
    let (_, addresses) = at("192.0.2.7:7000");
    let record = |said_at_s| {
        let addresses = addresses.clone();
        let whereabouts = Whereabouts {
            said_at_s,
            addresses,
        };
        (whereabouts.encode().unwrap(), said_at_s as i64)
    };
    let now_s = now_s();
    let other_sequence = (record(now_s).0, i64::MAX - 1);
    let rubbish = (vec![1; 900], now_s as i64);
    for (record, sequence) in [
        record(now_s - 3 * 3600),
        record(now_s + 3600),
        other_sequence,
        rubbish,
    ] {
        let liar = Identity::generate();
        assert!(put(&network, &liar, (&record, sequence)).await);
        assert!(bob.find(liar.node_id()).await.is_empty());
    }
    let huge = vec![1; 1001];
    assert!(!put(&network, &Identity::generate(), (&huge, 1)).await);
}

#[tokio::test]
async fn nobody_writes_under_the_key_of_another() {
    let network = network().await;
    let (anna, mallory) = (Identity::generate(), Identity::generate());
    let (address, said) = at("192.0.2.7:7000");
    join(&network).publish(&anna, said).await.unwrap();
    let (_, lie) = at("203.0.113.66:6666");
    let forged = Whereabouts {
        said_at_s: now_s() + 60,
        addresses: lie,
    };
    let record = forged.encode().unwrap();
    let signed = mallory.sign(&record);
    let item = MutableItem::new_signed_unchecked(
        *anna.node_id().as_bytes(),
        *signed.as_bytes(),
        &record,
        (now_s() + 60) as i64,
        Some(SALT),
    );
    let _refused = network.nodes[9].put_mutable(item, None).await;
    assert_eq!(join(&network).find(anna.node_id()).await, [address]);
}

#[tokio::test]
async fn a_third_of_the_network_goes_and_others_come() {
    let mut network = network().await;
    let (anna, hash) = (Identity::generate(), Hash::new([7; 32]));
    let (address, said) = at("192.0.2.7:7000");
    let own = join(&network);
    own.publish(&anna, said.clone()).await.unwrap();
    own.provide(&anna, &hash).await.unwrap();
    // Not the first: it is where everybody begins.
    network.nodes.drain(1..=NODES / 3);
    let mut newcomers = Vec::new();
    for _ in 0..NODES / 3 {
        let mut builder = n0_mainline::Dht::builder();
        let node = builder.server_mode().bootstrap(&network.bootstrap).build();
        newcomers.push(node.unwrap());
    }
    for node in &newcomers {
        node.bootstrapped().await.unwrap();
    }
    let bob = join(&network);
    assert_eq!(bob.find(anna.node_id()).await, [address]);
    assert_eq!(bob.providers(&hash, 10).await, [anna.node_id()]);
    own.publish(&anna, said).await.unwrap();
    own.provide(&anna, &hash).await.unwrap();
    assert_eq!(bob.find(anna.node_id()).await, [address]);
    assert_eq!(bob.providers(&hash, 10).await, [anna.node_id()]);
}

#[tokio::test]
async fn every_provider_of_a_hash_is_found_and_none_of_another() {
    let network = network().await;
    let (hash, other) = (Hash::new([1; 32]), Hash::new([2; 32]));
    let mut providers: Vec<NodeId> = Vec::new();
    for _ in 0..5 {
        let identity = Identity::generate();
        join(&network).provide(&identity, &hash).await.unwrap();
        providers.push(identity.node_id());
    }
    let bob = join(&network);
    let mut found = bob.providers(&hash, 10).await;
    found.sort();
    providers.sort();
    assert_eq!(found, providers);
    assert_eq!(bob.providers(&hash, 2).await.len(), 2);
    assert!(bob.providers(&other, 10).await.is_empty());
}

/// The place in the DHT of one slot, as the protocol has it.
fn place(hash: &Hash, slot: u8) -> Id {
    let slot_of_hash = [&hash.as_bytes()[..], &[slot]].concat();
    let derived = blake3::derive_key("shoal 2026-11 provider slots 1", &slot_of_hash);
    Id::from_bytes(&derived[..20]).unwrap()
}

#[tokio::test]
async fn a_vandal_that_floods_places_neither_evicts_nor_outranks_a_provider() {
    let network = network().await;
    let (anna, hash) = (Identity::generate(), Hash::new([3; 32]));
    join(&network).provide(&anna, &hash).await.unwrap();
    // Made-up nodes in four of the sixteen places, wherever they belong.
    for number in 0..40 {
        let made_up = Identity::generate();
        let key = SigningKey::from_bytes(&made_up.secret_bytes());
        let place = place(&hash, number % 4);
        network.nodes[3]
            .announce_signed_peer(place, &key)
            .await
            .unwrap();
    }
    let found = join(&network).providers(&hash, 3).await;
    assert_eq!(found.first(), Some(&anna.node_id()), "{found:?}");
}
