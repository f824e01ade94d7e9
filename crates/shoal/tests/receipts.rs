//! Who received everything: what `shoal send` says of it, and the code that it ends with.

mod support;

use std::io::Write;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use support::people::{receive, send};
use support::{Daemon, Ended, Terminal, World, argument, eventually, text};

/// The last events of a sender, and the code that it ended with.
fn end_of(anna: &mut Daemon) -> (Value, i32) {
    let done = anna.event("done");
    (done, anna.wait())
}

#[test]
fn an_offer_that_nobody_came_to_is_no_success() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    for (asked, wanted) in [
        (&["--once"][..], Value::from(1)),
        (&["--receivers", "2"], Value::from(2)),
        (&[], Value::Null),
    ] {
        let arguments = [&["--expires", "1s", argument(&file)], asked].concat();
        let (mut anna, _) = send(&world, None, &arguments);
        let done = anna.event("done");
        assert_eq!(done["receivers"], 0, "{asked:?}");
        assert_eq!(done["receivers_wanted"], wanted, "{asked:?}");
        let error = anna.event("error");
        assert_eq!(error["code"], 13, "{asked:?}");
        let said = text(&error, "message");
        assert!(said.starts_with("the offer has expired: "), "{said}");
        assert_eq!(anna.wait(), 13, "{asked:?}");
    }
}

#[test]
fn one_of_two_receivers_is_one_too_few() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    let mut command = world.command(&["send", "--ask", "--receivers", "2", argument(&file)]);
    command.arg("--state-dir").arg(world.state("anna"));
    command.stdin(Stdio::piped());
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    let is_ticket = |line: &Value| {
        line.as_str()
            .is_some_and(|line| line.starts_with("Ticket:"))
    };
    let line = anna.event_where("a ticket", is_ticket);
    let ticket = line.as_str().unwrap().split_whitespace().last().unwrap();
    let bob = receive(&world, "bob", ticket, &["-y"]);
    let mut bob = Daemon::start("bob", bob, world.path("bob.log"));
    eventually("bob knocks", || anna.log().contains("Let in?"));
    writeln!(anna.stdin(), "y").expect("let bob in");
    assert_eq!(bob.wait(), 0);
    anna.event_where("a receipt", |line| {
        line.as_str()
            .is_some_and(|line| line.contains("has everything: 1 file, 1 B"))
    });
    writeln!(anna.stdin(), "quit").expect("quit");
    assert_eq!(anna.wait(), 13);
    let said = anna.log();
    assert!(said.contains("1 of 2 receivers have everything"), "{said}");
}

#[test]
fn a_signal_that_comes_too_early_is_an_interruption_and_afterwards_the_usual_end() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    for signal in [Signal::INT, Signal::TERM] {
        let (mut anna, _) = send(&world, None, &["--once", argument(&file)]);
        anna.signal(signal);
        assert_eq!(anna.event("error")["code"], 130);
        assert_eq!(anna.wait(), 130, "{signal:?}: nobody has it");

        let (mut anna, offer) = send(&world, None, &["--receivers", "2", argument(&file)]);
        let ticket = text(&offer, "ticket");
        Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).expect(0);
        assert_eq!(anna.event("received")["has_everything"], true);
        anna.signal(signal);
        let said = text(&anna.event("error"), "message");
        assert!(said.contains("1 of 2 receivers"), "{said}");
        assert_eq!(anna.wait(), 130, "{signal:?}: one of two has it");

        let (mut anna, offer) = send(&world, None, &[argument(&file)]);
        let ticket = text(&offer, "ticket");
        Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).expect(0);
        anna.event("received");
        anna.signal(signal);
        assert_eq!(end_of(&mut anna).1, 0, "{signal:?}: any one was asked for");
    }
}

#[test]
fn who_chose_a_part_has_that_and_the_offer_goes_on_waiting_for_one_who_takes_everything() {
    let world = World::new();
    world.write("anna", "album/a.jpg", "picture");
    world.write("anna", "album/b.txt", "words");
    world.write("anna", "album/c.txt", "more words");
    let album = world.files("anna").join("album");
    let (mut anna, offer) = send(&world, None, &["--once", argument(&album)]);
    let ticket = text(&offer, "ticket");
    let chosen = ["-y", "--include", "*.txt"];
    let bob = Ended::of(&mut receive(&world, "bob", &ticket, &chosen)).expect(0);
    assert_eq!(bob.stderr, "", "what was not chosen is nothing to warn of");
    let received = anna.event("received");
    assert_eq!(
        (&received["files"], &received["offered_files"]),
        (&2.into(), &3.into())
    );
    assert_eq!(received["has_everything"], false);
    Ended::of(&mut receive(&world, "carl", &ticket, &["-y"])).expect(0);
    assert_eq!(anna.event("received")["has_everything"], true);
    let (done, code) = end_of(&mut anna);
    assert_eq!(
        (&done["receivers"], &done["partly"]),
        (&1.into(), &1.into())
    );
    assert_eq!(code, 0);
}

#[test]
fn what_is_left_of_an_offer_is_not_everything() {
    let world = World::new();
    let (a, b) = (
        world.write("anna", "a", "aaa"),
        world.write("anna", "b", "b"),
    );
    let (mut anna, offer) = send(&world, None, &["--once", argument(&a), argument(&b)]);
    let ticket = text(&offer, "ticket");
    std::fs::remove_file(&a).unwrap();
    // The first may be told of both, and finds one gone.
    eventually("somebody takes what is left", || {
        Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).code == 0
    });
    let received = anna.event("received");
    assert_eq!(received["files"], 1);
    assert_eq!(received["has_everything"], false, "{received}");
    anna.signal(Signal::TERM);
    let (done, code) = end_of(&mut anna);
    assert_eq!(done["receivers"], 0, "{done}");
    assert_eq!(code, 130);
}

#[test]
fn a_file_that_changes_after_its_receiver_said_yes_is_missed_at_both_ends() {
    let world = World::new();
    let file = world.write("anna", "album/a", "first");
    world.write("anna", "album/b", "b");
    let album = world.files("anna").join("album");
    let (mut anna, offer) = send(&world, None, &["--once", argument(&album)]);
    let ticket = text(&offer, "ticket");
    let mut asking = world.command(&["receive", "--as", "bob", "-o", "got"]);
    asking.arg("--state-dir").arg(world.state("bob"));
    asking.env("SHOAL_CODE", &ticket);
    let mut bob = Terminal::start(&asking);
    bob.shows("offers 2 files");
    std::fs::write(&file, "first and more").unwrap();
    // Another one, who takes only that file, sees when the sender has noticed.
    eventually("the change is offered", || {
        let chosen = ["-y", "--include", "a", "--overwrite"];
        let carl = Ended::of(&mut receive(&world, "carl", &ticket, &chosen));
        carl.code == 0 && carl.event("listed")["bytes"] == 14
    });
    bob.enter("y");
    bob.shows("a file that you accepted has changed or is gone");
    assert_eq!(bob.wait(), 8);
    let is_bob = |event: &Value| event["event"] == "left" && event["peer"] == "bob";
    let left = anna.event_where("that bob left", is_bob);
    assert_eq!(text(&left, "reason"), "the file changed at its source");
    assert!(!anna.has_ended());
}

#[test]
fn a_file_that_cannot_be_placed_was_not_received_and_the_sender_hears_why() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "from anna");
    let (mut anna, offer) = send(&world, None, &["--once", argument(&file)]);
    let ticket = text(&offer, "ticket");
    std::fs::create_dir_all(world.path("bob/got")).unwrap();
    std::fs::write(world.path("bob/got/a.txt"), "bob's own").unwrap();
    Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).expect(9);
    let left = anna.event("left");
    assert_eq!(text(&left, "reason"), "a different file is already there");
    assert!(!anna.has_ended());
    Ended::of(&mut receive(&world, "carl", &ticket, &["-y"])).expect(0);
    let (done, code) = end_of(&mut anna);
    assert_eq!((&done["receivers"], code), (&1.into(), 0));
}

#[test]
fn a_receiver_that_says_no_is_told_as_one_that_left() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    let (mut anna, offer) = send(&world, None, &[argument(&file)]);
    let ticket = text(&offer, "ticket");
    Ended::of(&mut receive(&world, "bob", &ticket, &[])).expect(2);
    assert_eq!(
        text(&anna.event("left"), "reason"),
        "the other side declined"
    );
}

#[test]
fn an_offer_that_leaves_a_file_out_is_no_success() {
    let world = World::new();
    world.write("anna", "album/good.txt", "good");
    world.write("anna", "album/two\nlines", "bad");
    let album = world.files("anna").join("album");
    let (mut anna, offer) = send(&world, None, &["--once", argument(&album)]);
    let ticket = text(&offer, "ticket");
    Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).expect(14);
    let (done, code) = end_of(&mut anna);
    assert_eq!(
        (&done["receivers"], &done["left_out"]),
        (&1.into(), &1.into())
    );
    assert_eq!(code, 13);
}

#[test]
fn help_lists_every_documented_exit_code() {
    let world = World::new();
    let help = world.run(&["--help"]).expect(0).stdout;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let documented = include_str!("../../../docs/exit-codes.md");
    let rows = documented.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let number: u8 = cells.next()?.parse().ok()?;
        Some(format!("{number} {}", cells.next()?))
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() > 13, "{rows:?}");
    for row in rows {
        assert!(help.contains(&row), "{row:?} is not in {help}");
    }
}
