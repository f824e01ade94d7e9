//! A network that is cut in one direction in the middle of a transfer, and mended.
//!
//! Everything runs in a network namespace of the test's own, whose firewall drops what one peer
//! sends to the other while all else passes. Only root can make one, and `nft` must be there.

mod support;

use serde_json::Value;
use support::disk::run;
use support::moments::written_bytes;
use support::namespace::Namespace;
use support::{Daemon, World, b3sum, eventually, noise};

/// Anna's port: the namespace has all ports to itself. The server has 7000.
const PORT: &str = "7001";
/// What anna sends to other peers.
const FROM_ANNA: &str = "udp sport 7001 udp dport != 7000";
/// What other peers send to her.
const TO_ANNA: &str = "udp dport 7001 udp sport != 7000";
const BIG_BYTES: usize = 48 << 20;
/// Packets that are lost before the cut is mended: more than a hiccup.
const LOST_PACKETS: u64 = 5;

#[test]
fn a_cut_in_either_direction_that_is_mended_in_time_interrupts_nothing() {
    let Some(scene) = Scene::new(&[]) else { return };
    let mut getting = scene.start();
    for dropped in [FROM_ANNA, TO_ANNA] {
        scene.cut(dropped);
        eventually("packets are lost", || scene.lost() >= LOST_PACKETS);
        scene.mend();
        let before = written_bytes(&scene.world.path("got"));
        eventually("it goes on", || {
            written_bytes(&scene.world.path("got")) > before + (1 << 20)
        });
    }
    assert_eq!(getting.event("done")["fetched"], 1);
    assert_eq!(getting.wait(), 0);
    assert_eq!(getting.log(), "");
    assert_eq!(b3sum(&scene.world.path("got/big.bin")), scene.hash);
}

#[test]
fn a_cut_that_lasts_is_a_clear_failure_and_the_fetch_goes_on_once_it_is_mended() {
    let Some(scene) = Scene::new(&["--no-relay"]) else {
        return;
    };
    let mut getting = scene.start();
    scene.cut(FROM_ANNA);
    let error = getting.event_where("an error", |event| event["event"] == "error");
    assert!([8, 12].contains(&getting.wait()), "{error}");
    scene.mend();
    let done = scene.world.run(&scene.typed()).expect(0).event("done");
    assert_eq!(b3sum(&scene.world.path("got/big.bin")), scene.hash);
    assert!(done["bytes"].as_u64().unwrap() < BIG_BYTES as u64, "{done}");
}

#[test]
fn a_cut_that_lasts_moves_the_transfer_to_another_path() {
    let Some(scene) = Scene::new(&[]) else { return };
    let mut getting = scene.start();
    scene.cut(FROM_ANNA);
    assert_eq!(getting.event("done")["fetched"], 1);
    assert_eq!(getting.wait(), 0);
    assert!(scene.lost() >= LOST_PACKETS);
    assert_eq!(b3sum(&scene.world.path("got/big.bin")), scene.hash);
}

/// A server and anna, in a namespace.
struct Scene {
    world: World,
    join: String,
    hash: String,
    _daemons: [Daemon; 2],
    // Last: it goes when nobody is in it any more.
    _namespace: Namespace,
}

impl Scene {
    fn new(of_server: &[&str]) -> Option<Self> {
        let namespace = Namespace::make()?;
        namespace.enter();
        let world = World::new();
        world.write("anna", "big.bin", noise(BIG_BYTES, 1));
        let server = world.server_with("127.0.0.1:7000", of_server);
        let anna = world.peer_with("anna", &server, &["--port", PORT]);
        let hash = world.announced_hash("anna", "big.bin");
        Some(Self {
            world,
            join: server.join,
            hash,
            _daemons: [server.daemon, anna],
            _namespace: namespace,
        })
    }

    fn typed(&self) -> [&str; 9] {
        let get = ["--json", "get", "big.bin", "-o", "got", "--join"];
        let [a, b, c, d, e, f] = get;
        [a, b, c, d, e, f, &self.join, "--down", "16M"]
    }

    /// Starts a fetch and waits until it is under way.
    fn start(&self) -> Daemon {
        let log = self.world.path("get.log");
        let getting = Daemon::start("get", self.world.command(&self.typed()), log);
        eventually("some of it is on the disk", || {
            written_bytes(&self.world.path("got")) > 2 << 20
        });
        getting
    }

    fn cut(&self, dropped: &str) {
        nft(&["add", "table", "inet", "cut"]);
        let hook = "{ type filter hook input priority 0; }";
        nft(&["add", "chain", "inet", "cut", "in", hook]);
        nft(&[
            "add", "rule", "inet", "cut", "in", dropped, "counter", "drop",
        ]);
    }

    /// How many packets were dropped.
    fn lost(&self) -> u64 {
        let shown = nft(&["-j", "list", "chain", "inet", "cut", "in"]);
        let shown: Value = serde_json::from_str(&shown).expect("nft prints JSON");
        let items = shown["nftables"].as_array().expect("a list");
        let rule = items.iter().find_map(|item| item.get("rule"));
        let expressions = rule.expect("a rule")["expr"]
            .as_array()
            .expect("a list")
            .iter();
        let counter = expressions.filter_map(|one| one.get("counter")).next();
        counter.expect("a counter")["packets"]
            .as_u64()
            .expect("a number")
    }

    fn mend(&self) {
        nft(&["delete", "table", "inet", "cut"]);
    }
}

fn nft(arguments: &[&str]) -> String {
    run("nft", arguments).expect("nft")
}
