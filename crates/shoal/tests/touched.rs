//! Files that change, or only seem to, while they are shared or sent.

mod support;

use std::fs::{self, File, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::{Daemon, Ended, Server, World, argument, eventually, noise, text};

/// Something that a person does to a file.
type Deed = (&'static str, fn(&Path));

/// What changes a file's attributes and not its content.
const TOUCHES: [Deed; 3] = [
    ("its time of reading is set", |file| {
        let times = FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        File::open(file)
            .expect("what the test sets up")
            .set_times(times)
            .expect("what the test sets up");
    }),
    ("it gets other permissions", |file| {
        let mode = fs::metadata(file)
            .expect("what the test sets up")
            .permissions()
            .mode();
        fs::set_permissions(file, Permissions::from_mode(mode ^ 0o100))
            .expect("what the test sets up");
    }),
    ("it gets a second name", |file| {
        fs::hard_link(file, file.with_extension("second")).expect("what the test sets up");
    }),
];

/// What makes another version of it.
const CHANGES: [Deed; 3] = [
    ("it is edited", |file| {
        let mut file = File::options()
            .append(true)
            .open(file)
            .expect("what the test sets up");
        file.write_all(b" and more").expect("what the test sets up");
    }),
    ("it is saved by a rename", |file| {
        let beside = file.with_extension("tmp");
        fs::write(&beside, "saved anew").expect("what the test sets up");
        fs::rename(beside, file).expect("what the test sets up");
    }),
    ("its time is set", |file| {
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        File::options()
            .write(true)
            .open(file)
            .expect("what the test sets up")
            .set_times(times)
            .expect("what the test sets up");
    }),
];

#[test]
fn a_file_whose_attributes_change_under_a_peer_is_served_on_and_keeps_its_hash() {
    let world = World::new();
    let content = noise(6_000_000, 1);
    let file = world.write("anna", "film.bin", &content);
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let server = world.server();
    let anna = world.peer_with("anna", &server, &["--up", "3M"]);
    let hash = world.announced_hash("anna", "film.bin");
    for (number, (what, touch)) in TOUCHES.into_iter().enumerate() {
        // In the middle, then before the next one begins.
        let folder = format!("during{number}");
        let mut get = world.command(&["--json", "get", &hash, "-o", &folder]);
        get.arg("--state-dir").arg(world.state("bob"));
        get.args(["--join", &server.join]);
        let mut bob = Daemon::start("bob", get, world.path("bob.log"));
        bob.event_where("progress", has_some);
        touch(&file);
        assert_eq!(bob.wait(), 0, "{what}: {}", bob.log());
        assert!(fs::read(world.path(&folder).join("film.bin")).unwrap() == content);
        assert_eq!(world.announced_hash("anna", "film.bin"), hash, "{what}");
    }
    let got = get(&world, &server, &["anna:film.bin", "-o", "after"]).expect(0);
    assert_eq!(got.event("got")["hash"], hash);
    let log = anna.log();
    assert!(!log.contains("withdrawn"), "{log}");
    // Other permissions are announced.
    eventually("the new permissions arrive", || {
        let folder = world.path("modes");
        let _before = fs::remove_dir_all(&folder);
        get(&world, &server, &["anna:film.bin", "-o", "modes"]).expect(0);
        let got = fs::metadata(folder.join("film.bin")).unwrap();
        got.permissions().mode() & 0o777 == 0o740
    });
}

#[test]
fn small_files_of_a_folder_are_served_on_when_their_attributes_change() {
    let world = World::new();
    for number in 0..40 {
        world.write("anna", &format!("set/{number:02}"), noise(3_000, number));
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "set/39");
    for (number, (what, touch)) in TOUCHES.into_iter().enumerate() {
        for file in 0..40 {
            touch(&world.files("anna").join(format!("set/{file:02}")));
        }
        let folder = format!("got{number}");
        let got = get(&world, &server, &["anna:set", "-o", &folder]).expect(0);
        assert!(got.event("done")["fetched"].as_u64() >= Some(40), "{what}");
    }
}

#[test]
fn a_file_that_was_changed_where_no_watch_sees_it_is_offered_anew_by_itself() {
    let world = World::new();
    let file = world.write("anna", "note", noise(3_000_000, 3));
    let elsewhere = world.path("elsewhere");
    fs::hard_link(&file, &elsewhere).unwrap();
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "note");
    // Whoever watches the folder is not told what is done under a name that lies elsewhere.
    fs::write(&elsewhere, "another note").unwrap();
    let got = get(&world, &server, &[&hash, "-o", "got"]).expect(8);
    assert!(got.stderr.contains("changed"), "{got:?}");
    eventually("the new version is offered", || {
        get(&world, &server, &["anna:note", "-o", "got"]).code == 0
    });
    assert_eq!(fs::read(world.path("got/note")).unwrap(), b"another note");
}

#[test]
fn what_is_done_to_a_sent_file_reaches_its_receivers_and_the_sender_is_told_of_changes() {
    let world = World::new();
    let changes = CHANGES.into_iter().map(|deed| (true, deed));
    let touches = TOUCHES.into_iter().map(|deed| (false, deed));
    for (number, (is_change, (what, act))) in changes.chain(touches).enumerate() {
        let name = format!("note{number}");
        let file = world.write("anna", &name, "as it was");
        let (mut anna, ticket) = send(&world, &[argument(&file)]);
        // One that comes before lets the sender have looked at the file.
        receive(&world, &ticket, &format!("{name}/before")).expect(0);
        act(&file);
        let now = fs::read(&file).unwrap();
        for time in ["first", "second"] {
            let into = format!("{name}/{time}");
            let got = receive(&world, &ticket, &into);
            assert_eq!(got.code, 0, "{what}, {time}: {got:?}");
            assert!(
                fs::read(world.path(&into).join(&name)).unwrap() == now,
                "{what}"
            );
        }
        if is_change {
            let told = anna.event("changed");
            assert_eq!(told["paths"][0], name, "{what}");
            assert_eq!(told["changed"], 1, "{what}");
        }
        anna.terminate();
    }
}

#[test]
fn a_sent_file_whose_attributes_change_in_the_middle_arrives() {
    let world = World::new();
    let content = noise(6_000_000, 4);
    let file = world.write("anna", "film.bin", &content);
    let (_anna, ticket) = send(&world, &["--up", "3M", argument(&file)]);
    for (number, (what, touch)) in TOUCHES.into_iter().enumerate() {
        let into = format!("got{number}");
        let mut bob = Daemon::start(
            "bob",
            receiving(&world, &ticket, &into),
            world.path("bob.log"),
        );
        bob.event_where("progress", has_some);
        touch(&file);
        assert_eq!(bob.wait(), 0, "{what}: {}", bob.log());
        assert!(
            fs::read(world.path(&into).join("film.bin")).unwrap() == content,
            "{what}"
        );
    }
}

#[test]
fn a_receiver_in_the_middle_of_an_old_version_is_told_and_gets_the_new_one_next() {
    let world = World::new();
    for (number, (what, change)) in CHANGES.into_iter().enumerate() {
        let name = format!("film{number}");
        let file = world.write("anna", &name, noise(6_000_000, 5));
        let (mut anna, ticket) = send(&world, &["--up", "3M", argument(&file)]);
        let into = format!("got{number}");
        let mut bob = Daemon::start(
            "bob",
            receiving(&world, &ticket, &into),
            world.path("bob.log"),
        );
        bob.event_where("progress", has_some);
        change(&file);
        assert_eq!(bob.wait(), 8, "{what}: {}", bob.log());
        assert!(bob.log().contains("changed at"), "{what}: {}", bob.log());
        assert!(!world.path(&into).join(&name).exists(), "{what}");
        assert_eq!(anna.event("changed")["paths"][0], name, "{what}");
        let again = receive(&world, &ticket, &into);
        assert_eq!(again.code, 0, "{what}: {again:?}");
        let got = fs::read(world.path(&into).join(&name)).unwrap();
        assert!(got == fs::read(&file).unwrap(), "{what}");
        anna.terminate();
    }
}

fn has_some(event: &Value) -> bool {
    event["event"] == "progress" && event["verified_bytes"].as_u64() > Some(0)
}

fn get(world: &World, server: &Server, arguments: &[&str]) -> Ended {
    let more = ["--join", server.join.as_str()];
    world.run_as("bob", &[&["--json", "get"], arguments, &more].concat())
}

/// Starts `shoal send`, and waits for its ticket.
fn send(world: &World, arguments: &[&str]) -> (Daemon, String) {
    let mut command = world.command(&["--json", "send", "--as", "anna"]);
    command.arg("--state-dir").arg(world.state("anna"));
    command.args(arguments);
    let mut daemon = Daemon::start("anna", command, world.path("anna.log"));
    let ticket = text(&daemon.event("offer"), "ticket");
    (daemon, ticket)
}

fn receiving(world: &World, ticket: &str, into: &str) -> Command {
    let mut command = world.command(&["--json", "receive", "-y", "--as", "bob"]);
    command.arg("--state-dir").arg(world.state("bob"));
    command.arg("-o").arg(world.path(into));
    command.env("SHOAL_CODE", ticket);
    command
}

fn receive(world: &World, ticket: &str, into: &str) -> Ended {
    Ended::of(&mut receiving(world, ticket, into))
}
