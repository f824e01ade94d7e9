//! `--dht`: a sender that its ticket's addresses do not lead to, and whoever has the content of a
//! hash, is found without any server, on a DHT of the test's own.

mod support;

use std::path::Path;
use std::process::Command;

use n0_mainline::Testnet;
use shoal_node::offer::secret_of_content;
use shoal_node::state::StateDir;
use shoal_wire::message::Addresses;
use shoal_wire::{NodeId, OfferSecret, OfferTicket};
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
fn offer_by_hash(world: &World, who: &str, (file, bootstrap): (&Path, &str)) -> Offering {
    let send = ["--json", "send", "--by-hash", "--dht", "--dht-bootstrap"];
    let mut command = world.command(&send);
    command.arg(bootstrap).arg("--state-dir");
    command.arg(world.state(who)).arg(argument(file));
    command.arg("--once");
    let mut daemon = Daemon::start(who, command, world.path(&format!("{who}.log")));
    let ticket = text(&daemon.event("offer"), "ticket");
    let hash = text(&daemon.event("by_hash"), "hash");
    Offering {
        daemon,
        ticket: ticket.parse().expect("a ticket"),
        hash,
    }
}

/// Somebody who offers a file by its hash.
struct Offering {
    daemon: Daemon,
    ticket: OfferTicket,
    hash: String,
}

/// Whether what somebody says who knows the hash opens an offer for bob.
fn opens(world: &World, ticket: &OfferTicket, said: OfferSecret) -> bool {
    let ticket = OfferTicket {
        secret: said,
        ..ticket.clone()
    };
    let mut command = world.command(&["--json", "receive", "-y"]);
    command.arg("--state-dir").arg(world.state("bob"));
    command.arg("-o").arg(world.path("opened"));
    command.env("SHOAL_CODE", ticket.to_string());
    let ended = Ended::of(&mut command);
    assert!([0, 7].contains(&ended.code), "{ended:?}");
    ended.code == 0
}

fn id_of(world: &World, who: &str) -> NodeId {
    let state = StateDir::open(Some(&world.state(who)), "peer").expect("a state");
    state.identity().expect("an identity").node_id()
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
    let mut anna = offer_by_hash(&world, "anna", (&first, &bootstrap));
    let mut carl = offer_by_hash(&world, "carl", (&second, &bootstrap));
    let hash = anna.hash.clone();
    assert_eq!((&hash, &carl.hash), (&b3sum(&first), &b3sum(&second)));
    // It is published a moment after the hash is told.
    let mut got = None;
    eventually("the content is found at both", || {
        let ended = get_by_hash(&world, &hash, (&bootstrap, "got"));
        let is_found = ended.code == 0;
        got = Some(ended);
        is_found
    });
    // Nobody else's name for it counts.
    let got = got.expect("it was tried").event("got");
    assert_eq!(got["path"], hash);
    assert_eq!(b3sum(&world.path("got").join(&hash)), hash);
    // The one that gave it has its receiver and is over; the other one gives it too, although the
    // announce of the first is still there.
    let is_anna = |anna: &mut Daemon| anna.has_ended();
    eventually("one of them is over", || {
        is_anna(&mut anna.daemon) || carl.daemon.has_ended()
    });
    let left = if anna.daemon.has_ended() {
        &mut carl
    } else {
        &mut anna
    };
    // What one of those who look says at one provider opens nothing for anybody else, or elsewhere.
    let (bob, other) = (id_of(&world, "bob"), NodeId::new([9; 32]));
    let known = hash.parse().expect("a hash");
    let sender = left.ticket.sender;
    assert!(!opens(
        &world,
        &left.ticket,
        secret_of_content(&known, &sender, &other)
    ));
    assert!(!opens(
        &world,
        &left.ticket,
        secret_of_content(&known, &other, &bob)
    ));
    eventually("the other one gives it", || {
        get_by_hash(&world, &hash, (&bootstrap, "again")).code == 0
    });
    assert_eq!(b3sum(&world.path("again").join(&hash)), hash);
    assert_eq!(left.daemon.event("received")["files"], 1);
    assert_eq!(left.daemon.wait(), 0);
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
    let ticket: OfferTicket = text(&anna.event("offer"), "ticket")
        .parse()
        .expect("a ticket");
    let hash = b3sum(&file).parse().expect("a hash");
    let own = ticket.secret;
    let said = secret_of_content(&hash, &ticket.sender, &id_of(&world, "bob"));
    assert!(!opens(&world, &ticket, said));
    assert!(opens(&world, &ticket, own));
    let with_links = ["get", "--dht", "--links", &"7".repeat(64)];
    world.run_as("bob", &with_links).expect(2);
    for (paths, said) in [
        (vec![argument(&file)], "--dht"),
        (vec!["--dht", argument(&file), "other"], "one file"),
        (vec!["--dht", "."], "one file"),
    ] {
        let wrong = world.run_as("anna", &[&["send", "--by-hash"], &paths[..]].concat());
        assert!(wrong.expect(2).stderr.contains(said));
    }
}
