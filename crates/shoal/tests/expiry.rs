//! What an offer's end means for receivers that have begun: it is for beginnings only.

mod support;

use rustix::process::Signal;
use serde_json::Value;
use support::people::{receive, send};
use support::{Daemon, Ended, World, argument, b3sum, noise, text};

/// How much is sent: at the rate below it takes longer than the offer lasts.
const BIG_BYTES: usize = 12_000_000;
/// What the sender says to that end.
const SLOW: [&str; 4] = ["--expires", "4s", "--up", "1500k"];

/// Starts `shoal receive`, and waits until some of it is there.
fn receive_some(world: &World, who: &str, ticket: &str, more: &[&str]) -> Daemon {
    let command = receive(world, who, ticket, &[&["-y"], more].concat());
    let mut receiver = Daemon::start(who, command, world.path(&format!("{who}.log")));
    receiver.event_where("some progress", |event| {
        event["verified_bytes"].as_u64() > Some(0)
    });
    receiver
}

#[test]
fn a_transfer_that_runs_when_the_offer_expires_is_served_to_its_end() {
    let world = World::new();
    let file = world.write("anna", "big.bin", noise(BIG_BYTES, 1));
    let (mut anna, offer) = send(&world, None, &[&SLOW[..], &[argument(&file)]].concat());
    let ticket = text(&offer, "ticket");
    let mut bob = receive_some(&world, "bob", &ticket, &[]);
    anna.event("expired");
    let late = Ended::of(&mut receive(&world, "carl", &ticket, &["-y"])).expect(7);
    assert!(late.stderr.contains("the offer is over"), "{late:?}");
    assert_eq!(bob.wait(), 0, "{}", bob.log());
    assert_eq!(b3sum(&world.path("bob/got/big.bin")), b3sum(&file));
    assert_eq!(anna.event("received")["peer"], "bob");
    assert_eq!(anna.event("done")["receivers"], 1);
    assert_eq!(anna.wait(), 0);
}

#[test]
fn a_receiver_that_lost_its_link_goes_on_after_the_offer_has_expired() {
    let world = World::new();
    let file = world.write("anna", "big.bin", noise(BIG_BYTES, 2));
    let (mut anna, offer) = send(&world, None, &[&SLOW[..], &[argument(&file)]].concat());
    let mut bob = receive_some(&world, "bob", &text(&offer, "ticket"), &[]);
    bob.signal(Signal::STOP);
    anna.event("expired");
    // Silent for so long that the sender gives the link up.
    assert_eq!(anna.event("left")["reason"], Value::Null);
    assert!(!anna.has_ended());
    bob.signal(Signal::CONT);
    assert_eq!(bob.wait(), 0, "{}", bob.log());
    assert_eq!(b3sum(&world.path("bob/got/big.bin")), b3sum(&file));
    assert_eq!(anna.event("done")["receivers"], 1);
    assert_eq!(anna.wait(), 0);
}

#[test]
fn a_receiver_that_lost_its_link_goes_on_after_another_one_was_enough() {
    let world = World::new();
    let file = world.write("anna", "big.bin", noise(BIG_BYTES, 3));
    let (mut anna, offer) = send(&world, None, &["--once", argument(&file)]);
    let ticket = text(&offer, "ticket");
    let mut carl = receive_some(&world, "carl", &ticket, &["--down", "4M"]);
    carl.signal(Signal::STOP);
    anna.event("left");
    Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).expect(0);
    assert_eq!(anna.event("received")["peer"], "bob");
    let late = Ended::of(&mut receive(&world, "dora", &ticket, &["-y"])).expect(7);
    assert!(late.stderr.contains("the offer is over"), "{late:?}");
    carl.signal(Signal::CONT);
    assert_eq!(carl.wait(), 0, "{}", carl.log());
    assert_eq!(b3sum(&world.path("carl/got/big.bin")), b3sum(&file));
    assert_eq!(anna.event("done")["receivers"], 2);
    assert_eq!(anna.wait(), 0);
}

#[test]
fn a_receiver_that_gives_up_is_not_waited_for_and_an_interruption_ends_it_at_once() {
    let world = World::new();
    let file = world.write("anna", "big.bin", noise(BIG_BYTES, 4));
    for (interrupted, code) in [("bob", 13), ("anna", 130)] {
        let (mut anna, offer) = send(&world, None, &[&SLOW[..], &[argument(&file)]].concat());
        let mut bob = receive_some(&world, "bob", &text(&offer, "ticket"), &[]);
        anna.event("expired");
        let who = if interrupted == "bob" { &bob } else { &anna };
        who.signal(Signal::INT);
        if interrupted == "bob" {
            assert_eq!(bob.wait(), 130);
            assert_eq!(text(&anna.event("left"), "reason"), "cancelled");
        }
        assert_eq!(anna.event("done")["receivers"], 0);
        assert_eq!(anna.wait(), code, "{interrupted} was interrupted");
    }
}
