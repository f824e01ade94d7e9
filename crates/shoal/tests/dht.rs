//! `--dht`: a sender that its ticket's addresses do not lead to is found without any server, on a
//! DHT of the test's own.

mod support;

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
