//! The local network without any server: two machines on one cable, and a liar beside them.
//!
//! Everything runs in network namespaces of the test's own, which have no way out.

mod support;

use std::process::Command;

use serde_json::Value;
use shoal_link::Identity;
use shoal_node::lan::Lan;
use shoal_wire::message::Addresses;
use shoal_wire::{Code, OfferTicket};
use support::namespace::Namespace;
use support::{Daemon, Ended, World, argument, b3sum, noise, text};

const DEVICE: &str = "lan0";

#[test]
fn a_code_leads_to_a_neighbour_without_any_server() {
    let Some(scene) = Scene::new(&["10.80.0.1/24", "10.80.0.2/24"]) else {
        return;
    };
    let (mut anna, offer) = scene.send(&["--once"]);
    assert_eq!(offer["code_by_server"], false);
    let bob = scene.receive(&text(&offer, "code")).expect(0);
    assert_eq!(bob.event("opened")["route"]["kind"], "direct");
    assert_eq!(b3sum(&scene.world.path("bob/got/data.bin")), scene.hash);
    assert_eq!(anna.event("done")["receivers"], 1);
    assert_eq!(anna.wait(), 0);
}

#[test]
fn neighbours_that_have_nothing_but_ipv6_find_each_other() {
    let Some(scene) = Scene::new(&["fd80::1/64", "fd80::2/64"]) else {
        return;
    };
    let (_anna, offer) = scene.send(&[]);
    let bob = scene.receive(&text(&offer, "code")).expect(0);
    assert_eq!(bob.event("done")["fetched"], 1);
}

#[test]
fn a_ticket_whose_addresses_lead_nowhere_is_found_among_the_neighbours() {
    let Some(scene) = Scene::new(&["10.80.0.1/24", "10.80.0.2/24"]) else {
        return;
    };
    let (_anna, offer) = scene.send(&[]);
    let mut ticket: OfferTicket = text(&offer, "ticket").parse().unwrap();
    ticket.addresses = Addresses::truncated(vec!["10.80.0.99:9".parse().unwrap()]);
    let bob = scene.receive(&ticket.to_string()).expect(0);
    assert_eq!(b3sum(&scene.world.path("bob/got/data.bin")), scene.hash);
    assert_eq!(bob.event("opened")["peer"], "anna");
}

#[test]
fn neighbours_that_lie_lead_nobody_astray() {
    let Some(scene) = Scene::new(&["10.80.0.1/24", "10.80.0.2/24"]) else {
        return;
    };
    scene.anna.enter();
    let lies = [Lan::open().unwrap(), Lan::open().unwrap()];
    let (mut anna, offer) = scene.send(&[]);
    let code: Code = text(&offer, "code").parse().unwrap();
    let ticket: OfferTicket = text(&offer, "ticket").parse().unwrap();
    let port = ticket.addresses.first().map_or(9, |address| address.port());
    // Somebody who is not there, and the sender where it is not.
    let nobody = Identity::generate().node_id();
    let plate = Some(code.nameplate);
    lies[0].announce(nobody, port, plate).unwrap();
    lies[1].announce(ticket.sender, 9, plate).unwrap();
    scene.receive(&code.to_string()).expect(0);
    assert_eq!(b3sum(&scene.world.path("bob/got/data.bin")), scene.hash);
    assert_eq!(anna.terminate(), 0);
}

#[test]
fn a_code_that_nobody_waits_for_is_told_in_time_and_wrong_words_are_told_to_both() {
    let Some(scene) = Scene::new(&["10.80.0.1/24", "10.80.0.2/24"]) else {
        return;
    };
    let (mut anna, offer) = scene.send(&[]);
    let code: Code = text(&offer, "code").parse().unwrap();
    let other = match code.nameplate.number() {
        999 => "998-tidal-anchor".to_owned(),
        number => format!("{}-tidal-anchor", number + 1),
    };
    let lost = scene.receive(&other).expect(3);
    assert!(lost.stderr.contains("on this network"), "{}", lost.stderr);
    let wrong = format!("{}-abandon-ability", code.nameplate);
    let refused = scene.receive(&wrong);
    assert!([2, 7].contains(&refused.code), "{}", refused.stderr);
    if refused.code == 7 {
        assert_eq!(anna.event("wrong_code")["left"], 2);
    }
}

/// Two machines on one cable; anna has something to send.
struct Scene {
    world: World,
    hash: String,
    // Last: they go when nobody is in them any more.
    anna: Namespace,
    bob: Namespace,
}

impl Scene {
    fn new(addresses: &[&str; 2]) -> Option<Self> {
        let (anna, bob) = (Namespace::make()?, Namespace::make()?);
        anna.cable(DEVICE, (&bob, DEVICE));
        for (namespace, address) in [&anna, &bob].into_iter().zip(addresses) {
            namespace.address(DEVICE, address);
        }
        let world = World::new();
        let file = world.write("anna", "data.bin", noise(3_000_000, 1));
        Some(Self {
            hash: b3sum(&file),
            world,
            anna,
            bob,
        })
    }

    fn command(&self, who: &str, typed: &[&str]) -> Command {
        let mut command = self.world.command(typed);
        command.env_remove("SHOAL_NO_LAN");
        command.arg("--state-dir").arg(self.world.state(who));
        command
    }

    /// `shoal send` without a server.
    fn send(&self, more: &[&str]) -> (Daemon, Value) {
        self.anna.enter();
        let mut command = self.command("anna", &["--json", "send", "--as", "anna"]);
        let file = self.world.files("anna").join("data.bin");
        command.arg(argument(&file)).args(more);
        let mut daemon = Daemon::start("anna", command, self.world.path("anna.log"));
        let offer = daemon.event("offer");
        (daemon, offer)
    }

    fn receive(&self, given: &str) -> Ended {
        self.bob.enter();
        let mut command = self.command("bob", &["--json", "receive", "--as", "bob", "-y"]);
        command.arg("-o").arg(self.world.path("bob/got"));
        command.env("SHOAL_CODE", given);
        Ended::of(&mut command)
    }
}
