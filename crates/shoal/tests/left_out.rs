//! What belongs to a folder and is no ordinary file: empty folders arrive, and whatever stays out is
//! told at both ends and by the exit codes.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use support::{Daemon, Ended, World, text};

/// Starts `shoal send --once` for a folder of `anna`, and waits for its ticket.
fn send(world: &World, folder: &Path, json: &[&str]) -> (Daemon, String) {
    let mut command = world.command(json);
    command.args(["send", "--as", "anna", "--once"]);
    command.arg("--state-dir").arg(world.state("anna"));
    command.arg(folder);
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    let ticket = text(&anna.event("offer"), "ticket");
    (anna, ticket)
}

/// Runs `shoal receive` for `bob`, who says yes.
fn receive(world: &World, ticket: &str, more: &[&str]) -> Ended {
    let mut command = world.command(&[]);
    command.args(more).args(["receive", "--as", "bob", "-y"]);
    command.arg("--state-dir").arg(world.state("bob"));
    command.arg("-o").arg(world.path("got"));
    Ended::of(command.env("SHOAL_CODE", ticket))
}

#[test]
fn empty_folders_arrive_with_their_permissions_and_times() {
    let world = World::new();
    world.write("anna", "album/full/a.txt", "a");
    let album = world.files("anna").join("album");
    let deep = album.join("empty/deep");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::set_permissions(&deep, PermissionsExt::from_mode(0o711)).unwrap();
    let (mut anna, ticket) = send(&world, &album, &["--json"]);
    let bob = receive(&world, &ticket, &["--json"]).expect(0);
    assert_eq!(bob.event("listed")["empty_folders"], 1);
    let got = world.path("got/album/empty/deep").metadata().unwrap();
    assert!(got.is_dir());
    assert_eq!(got.permissions().mode() & 0o777, 0o711);
    assert_eq!(got.mtime(), deep.metadata().unwrap().mtime());
    assert_eq!(anna.wait(), 0);
}

#[test]
fn an_offer_of_nothing_but_empty_folders_is_received() {
    let world = World::new();
    let album = world.files("anna").join("album");
    std::fs::create_dir_all(album.join("one/two")).unwrap();
    let (mut anna, ticket) = send(&world, &album, &["--json"]);
    receive(&world, &ticket, &["--json"]).expect(0);
    assert!(world.path("got/album/one/two").is_dir());
    assert_eq!(anna.wait(), 0);
}

#[test]
fn folders_are_chosen_as_files_are() {
    let world = World::new();
    world.write("anna", "album/pictures/a.jpg", "a");
    world.write("anna", "album/notes.txt", "n");
    let files = world.files("anna");
    std::fs::create_dir_all(files.join("album/pictures/empty")).unwrap();
    std::fs::create_dir_all(files.join("album/raw/empty")).unwrap();
    let server = world.server();
    let _anna = world.peer("anna", &server);
    for (options, made, not_made) in [
        (
            ["--include", "*.jpg"],
            "pictures",
            ["pictures/empty", "raw"],
        ),
        (
            ["--exclude", "raw/**"],
            "pictures/empty",
            ["raw/empty", "x"],
        ),
        (["--include", "raw"], "raw/empty", ["pictures", "notes.txt"]),
    ] {
        let typed = ["get", "anna:album", "-o", "got", "--join", &server.join];
        world.run(&[&typed[..], &options].concat()).expect(0);
        let got = world.path("got/album");
        assert!(got.join(made).is_dir(), "{options:?}");
        for path in not_made {
            assert!(!got.join(path).exists(), "{options:?} {path}");
        }
        std::fs::remove_dir_all(world.path("got")).unwrap();
    }
}

/// A folder with what cannot be sent: its files, and the paths and reasons of the others, sorted.
fn awkward(world: &World) -> Vec<(String, &'static str)> {
    let album = world.files("anna").join("album");
    world.write("anna", "album/good.txt", "good");
    let mut left_out = Vec::new();
    for number in 10..37 {
        let name = format!("mail/cur/{number}:2,S");
        world.write("anna", &format!("album/{name}"), "mail");
        left_out.push((format!("album/{name}"), "name"));
    }
    let pipe = album.join("pipe");
    mknodat(CWD, pipe, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
    left_out.push(("album/pipe".to_owned(), "special"));
    drop(UnixListener::bind(album.join("socket")).expect("a socket"));
    left_out.push(("album/socket".to_owned(), "special"));
    left_out
}

fn left_out_of(events: &[Value]) -> Vec<(String, String)> {
    let left_out = events.iter().filter(|event| event["event"] == "left_out");
    let mut found: Vec<_> = left_out
        .map(|event| (text(event, "path"), text(event, "reason")))
        .collect();
    found.sort();
    found
}

#[test]
fn what_cannot_be_sent_is_named_in_full_at_both_ends_and_changes_the_exit_codes() {
    let world = World::new();
    let expected = awkward(&world);
    let album = world.files("anna").join("album");
    let (mut anna, ticket) = send(&world, &album, &["--json"]);
    for (path, reason) in &expected {
        let told = anna.event("left_out");
        assert_eq!(
            (&told["path"], &told["reason"]),
            (&path[..].into(), &(*reason).into())
        );
    }
    let bob = receive(&world, &ticket, &["--json"]).expect(14);
    let named = left_out_of(&bob.events());
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(path, reason)| (path, reason.to_owned()))
        .collect();
    assert_eq!(named, expected);
    assert_eq!(bob.event("listed")["left_out"], 29);
    assert_eq!(bob.event("done")["left_out"], 29);
    assert_eq!(bob.event("done")["fetched"], 1);
    assert_eq!(bob.event("error")["code"], 14);
    let got = world.path("got/album/good.txt");
    assert_eq!(std::fs::read_to_string(got).unwrap(), "good");
    assert_eq!(anna.event("done")["left_out"], 29);
    assert_eq!(anna.wait(), 13);
}

#[test]
fn what_cannot_be_sent_is_said_to_a_person_before_and_after() {
    let world = World::new();
    awkward(&world);
    let album = world.files("anna").join("album");
    let (mut anna, ticket) = send(&world, &album, &["--json"]);
    let bob = receive(&world, &ticket, &[]).expect(14);
    let listed = bob.stdout.split("fetched").next().unwrap();
    assert!(
        listed.contains("29 entries are left out by anna"),
        "{bob:?}"
    );
    assert!(
        bob.stdout.contains("album/mail/cur/10:2,S: its name"),
        "{bob:?}"
    );
    assert!(bob.stdout.contains("and 19 more"), "{bob:?}");
    assert!(bob.stderr.contains("29 entries were left out"), "{bob:?}");
    assert_eq!(anna.wait(), 13);
}

#[test]
fn a_folder_of_a_share_tells_what_it_lacks_to_those_who_get_it_and_choose_it() {
    let world = World::new();
    awkward(&world);
    world.write("anna", "plain/a.txt", "a");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let get = |more: &[&str]| {
        let typed = ["--json", "get", "-o", "got", "--join", &server.join];
        world.run(&[&typed[..], more].concat())
    };
    let got = get(&["anna:album"]).expect(14);
    assert_eq!(left_out_of(&got.events()).len(), 29);
    assert_eq!(got.event("done")["left_out"], 29);
    let some = get(&["anna:album", "--exclude", "mail"]).expect(14);
    assert_eq!(some.event("done")["left_out"], 2);
    get(&["anna:album", "--include", "*.txt"]).expect(0);
    get(&["anna:plain"]).expect(0);
    get(&["anna:album/good.txt"]).expect(0);
    let dry = get(&["anna:album", "--dry-run"]).expect(0);
    assert_eq!(dry.event("plan")["left_out"], 29);
}

#[test]
fn what_rules_hide_is_counted_at_the_sender_alone() {
    let world = World::new();
    world.write("anna", "album/good.txt", "good");
    world.write("anna", "album/secret.key", "secret");
    world.write("anna", "album/.shoalignore", "*.key\n");
    let album = world.files("anna").join("album");
    let (mut anna, ticket) = send(&world, &album, &["--json"]);
    let bob = receive(&world, &ticket, &["--json"]).expect(0);
    assert!(!bob.stdout.contains("secret"), "{bob:?}");
    assert_eq!(anna.event("ignored")["entries"], 1);
    assert_eq!(anna.event("done")["left_out"], 1);
    assert_eq!(anna.wait(), 13, "'send && rm -r' would lose it");
}
