//! `--dht`: a sender that its ticket's addresses do not lead to, and whoever has the content of a
//! hash, is found without any server, on a DHT of the test's own.

mod support;

use std::path::Path;
use std::process::Command;

use n0_mainline::Testnet;
use shoal_wire::OfferTicket;
use shoal_wire::message::Addresses;
use support::{Daemon, Ended, World, argument, b3sum, eventually, noise, text};

/// Nodes of the DHT: the node's own tests have more.
const NODES: usize = 12;

#[test]
fn a_sender_is_found_by_its_node_id() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let network = runtime.block_on(Testnet::new(NODES)).expect("a DHT");
    let bootstrap = network.bootstrap.join(",");
    let world = World::new();
    let file = world.write("anna", "data.bin", noise(2_000_000, 1));
    let send = ["--json", "send", "--dht", "--dht-bootstrap", &bootstrap];
    let mut command = world.command(&send);
    command.arg("--state-dir").arg(world.state("anna"));
    command.arg(argument(&file));
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    let offer = anna.event("offer");
    assert!(offer["code"].is_null(), "{offer}");
    let mut ticket: OfferTicket = text(&offer, "ticket").parse().expect("a ticket");
    ticket.addresses = Addresses::truncated(vec!["127.0.0.1:9".parse().expect("an address")]);
    let receive = |more: &[&str]| -> Command {
        let mut command = world.command(&["--json", "receive", "-y"]);
        command.arg("--state-dir").arg(world.state("bob"));
        command.arg("-o").arg(world.path("got")).args(more);
        command.env("SHOAL_CODE", ticket.to_string());
        command
    };
    // It is published a moment after the ticket is printed.
    let found = ["--dht", "--dht-bootstrap", &bootstrap];
    let mut last = None;
    eventually("the sender is found", || {
        let ended = Ended::of(&mut receive(&found));
        let is_found = ended.code == 0;
        last = Some(ended);
        is_found
    });
    let bob = last.expect("it was tried");
    assert_eq!(bob.event("done")["fetched"], 1);
    assert_eq!(b3sum(&world.path("got/data.bin")), b3sum(&file));
    assert_eq!(anna.terminate(), 0);
}

/// Starts to offer a file by its hash; ends when it says that hash.
fn offer_by_hash(world: &World, who: &str, (file, bootstrap): (&Path, &str)) -> (Daemon, String) {
    let send = ["--json", "send", "--by-hash", "--dht", "--dht-bootstrap"];
    let mut command = world.command(&send);
    command.arg(bootstrap).arg("--state-dir");
    command.arg(world.state(who)).arg(argument(file));
    let mut daemon = Daemon::start(who, command, world.path(&format!("{who}.log")));
    let hash = text(&daemon.event("by_hash"), "hash");
    (daemon, hash)
}

fn get_by_hash(world: &World, hash: &str, (bootstrap, to): (&str, &str)) -> Ended {
    let get = ["--json", "get", hash, "--dht", "--dht-bootstrap", bootstrap];
    let mut command = world.command(&get);
    command.arg("--state-dir").arg(world.state("bob"));
    command.arg("-o").arg(world.path(to));
    Ended::of(&mut command)
}

#[test]
fn a_content_is_had_by_its_hash_from_whoever_offers_it_and_nothing_else_is() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let network = runtime.block_on(Testnet::new(NODES)).expect("a DHT");
    let bootstrap = network.bootstrap.join(",");
    let world = World::new();
    let content = noise(3_000_000, 2);
    let first = world.write("anna", "data.bin", &content);
    let second = world.write("carl", "copy.bin", &content);
    let (anna, hash) = offer_by_hash(&world, "anna", (&first, &bootstrap));
    let (carl, same) = offer_by_hash(&world, "carl", (&second, &bootstrap));
    assert_eq!((&hash, &same), (&b3sum(&first), &b3sum(&second)));
    // It is published a moment after the hash is told.
    let mut got = None;
    eventually("the content is found at both", || {
        let ended = get_by_hash(&world, &hash, (&bootstrap, "got"));
        let is_found = ended.code == 0;
        got = Some(ended);
        is_found
    });
    let got = got.expect("it was tried").event("got");
    let name = text(&got, "path");
    assert!(["data.bin", "copy.bin"].contains(&&*name), "{got}");
    assert_eq!(b3sum(&world.path("got").join(&name)), hash);
    // One of the two is gone without a word, and its announce is still there.
    drop(anna);
    eventually("the other one gives it", || {
        get_by_hash(&world, &hash, (&bootstrap, "again")).code == 0
    });
    assert_eq!(b3sum(&world.path("again/copy.bin")), hash);
    drop(carl);
    let unknown = get_by_hash(&world, &"7".repeat(64), (&bootstrap, "got")).expect(3);
    assert!(
        unknown.stderr.contains("nobody says in the DHT"),
        "{unknown:?}"
    );
    let part = get_by_hash(&world, &hash[..12], (&bootstrap, "got")).expect(2);
    assert!(part.stderr.contains("64 hex digits"), "{part:?}");
}

#[test]
fn the_hash_opens_no_offer_that_is_not_for_all_who_know_it() {
    let world = World::new();
    let file = world.write("anna", "data.bin", noise(2_000_000, 3));
    let mut command = world.command(&["--json", "send", argument(&file)]);
    command.arg("--state-dir").arg(world.state("anna"));
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    let mut ticket: OfferTicket = text(&anna.event("offer"), "ticket")
        .parse()
        .expect("a ticket");
    let hash = b3sum(&file).parse().expect("a hash");
    ticket.secret = shoal_node::offer::secret_of_content(&hash);
    let mut command = world.command(&["--json", "receive", "-y"]);
    command.arg("--state-dir").arg(world.state("bob"));
    command.arg("-o").arg(world.path("got"));
    command.env("SHOAL_CODE", ticket.to_string());
    Ended::of(&mut command).expect(7);
    assert!(!world.path("got/data.bin").exists());
    for (paths, said) in [
        (vec![argument(&file)], "--dht"),
        (vec!["--dht", argument(&file), "other"], "one file"),
        (vec!["--dht", "."], "one file"),
    ] {
        let wrong = world.run_as("anna", &[&["send", "--by-hash"], &paths[..]].concat());
        assert!(wrong.expect(2).stderr.contains(said));
    }
}
