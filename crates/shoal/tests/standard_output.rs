//! Standard output that takes nothing: a full disk, a reader that went away. What was not written
//! was not received.

mod support;

use std::fs::File;
use std::io::Read;
use std::process::{Command, Output, Stdio};

use support::people::{receive, receive_out, send};
use support::{Ended, World, argument, noise, text};

/// Runs a command whose standard output is a disk without room.
fn run_full(command: &mut Command) -> Output {
    let full = File::options().write(true).open("/dev/full");
    let full = full.expect("the device that is always full");
    command.stdout(full).output().expect("run a command")
}

#[track_caller]
fn assert_unwritten(ended: &Output, what: &str) {
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(11), "{what}: {said}");
    assert!(
        said.contains("cannot write to standard output"),
        "{what}: {said}"
    );
}

#[test]
fn a_file_that_standard_output_did_not_take_was_not_received_and_is_still_on_offer() {
    let world = World::new();
    let content = noise(3_000_000, 1);
    let file = world.write("anna", "a.bin", &content);
    let (mut anna, offer) = send(&world, None, &["--once", argument(&file)]);
    let ticket = text(&offer, "ticket");

    let full = run_full(&mut receive_out(&world, "bob", &ticket));
    assert_unwritten(&full, "a full disk");
    let left = anna.event("left");
    assert_eq!(left["peer"], "bob");
    assert_eq!(
        text(&left, "reason"),
        "the receiver could not write the file"
    );

    let mut command = receive_out(&world, "carl", &ticket);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut closing = command.spawn().expect("receive");
    let mut begin = [0; 1_000];
    let mut pipe = closing.stdout.take().expect("piped above");
    pipe.read_exact(&mut begin).expect("the first bytes");
    drop(pipe);
    let closed = closing.wait_with_output().expect("receive");
    let said = String::from_utf8_lossy(&closed.stderr);
    assert_eq!(closed.status.code(), Some(11), "{said}");
    assert!(said.contains("closed before the whole file"), "{said}");
    assert_eq!(anna.event("left")["peer"], "carl");
    assert!(!anna.has_ended());

    let taken = world.path("taken.bin");
    let into_file = receive_out(&world, "dora", &ticket)
        .stdout(File::create(&taken).expect("a file"))
        .output()
        .expect("receive");
    assert!(into_file.status.success(), "{into_file:?}");
    assert!(std::fs::read(&taken).expect("read it") == content);
    assert_eq!(anna.event("received")["peer"], "dora");
    assert_eq!(anna.event("done")["receivers"], 1);
    assert_eq!(anna.wait(), 0);
}

#[test]
fn a_file_in_its_place_was_received_although_nobody_could_be_told_so_here() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    let (mut anna, offer) = send(&world, None, &["--once", argument(&file)]);
    let mut receiving = receive(&world, "bob", &text(&offer, "ticket"), &["-y"]);
    assert_unwritten(&run_full(&mut receiving), "receive --json");
    assert!(world.path("bob/got/a.txt").exists());
    assert_eq!(anna.event("received")["has_everything"], true);
    assert_eq!(anna.wait(), 0);
}

#[test]
fn every_command_that_cannot_print_ends_with_11() {
    let world = World::new();
    world.write("server", "own.txt", "own");
    let server = world.server();
    world.announced_hash("server", "own.txt");
    let join = ["--join", &server.join];
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["send", "--help"],
        &["completions", "bash"],
        &["man"],
        &[&["ls"], &join[..]].concat(),
        &[&["--json", "ls"], &join[..]].concat(),
        &[&["search", "own"], &join[..]].concat(),
        &[&["status"], &join[..]].concat(),
        &[&["get", "own.txt", "-o", "got"], &join[..]].concat(),
    ] {
        let ended = run_full(&mut world.command(arguments));
        assert_unwritten(&ended, &format!("{arguments:?}"));
    }
    assert!(world.path("got/own.txt").exists());
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_listing_quietly() {
    let world = World::new();
    for arguments in [&["completions", "bash"][..], &["--help"], &["man"]] {
        let mut command = world.command(arguments);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ended = command.stdout(writer).output().expect("run a command");
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}");
        assert!(ended.stderr.is_empty(), "{ended:?}");
    }
}

#[test]
fn standard_input_that_cannot_be_read_to_its_end_is_not_sent() {
    let world = World::new();
    let mut command = world.command(&["--json", "send", "-"]);
    command.arg("--state-dir").arg(world.state("anna"));
    let folder = File::open(world.files("anna")).expect("open a folder");
    let ended = Ended::of(command.stdin(folder)).expect(11);
    assert!(ended.stderr.contains("standard input"), "{ended:?}");
    let events = ended.events();
    assert!(
        events.iter().all(|event| event["event"] != "input"),
        "{ended:?}"
    );
}
