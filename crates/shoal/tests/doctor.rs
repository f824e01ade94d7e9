//! `shoal doctor` on this machine: with a server, without one, and with what is broken.

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Ended, World};

fn doctor(world: &World, more: &[&str]) -> Command {
    let mut command = world.command(&["--json", "doctor", "--folder"]);
    command.arg(world.path("."));
    command
        .arg("--state-dir")
        .arg(world.state("bob"))
        .args(more);
    command
}

fn check(ended: &Ended, what: &str) -> Value {
    let found = ended.events().into_iter().find(|one| one["what"] == what);
    found.unwrap_or_else(|| panic!("{what} was not looked at: {ended:?}"))
}

#[test]
fn with_a_server_everything_is_told() {
    let world = World::new();
    let server = world.server();
    let told = Ended::of(&mut doctor(&world, &["--join", &server.join])).expect(0);
    for what in ["server", "nat", "clock", "relay", "hashing", "slowest"] {
        assert_eq!(check(&told, what)["verdict"], "ok", "{what}");
    }
    assert_eq!(check(&told, "server")["kind"], "direct");
    assert_eq!(check(&told, "nat")["kind"], "none");
    assert!(check(&told, "disk")["bytes_per_second"].as_f64() > Some(0.0));
    assert!(check(&told, "hashing")["bytes_per_second"].as_f64() > Some(0.0));
    let beside = || std::fs::read_dir(world.path(".")).unwrap().count();
    let before = beside();
    Ended::of(&mut doctor(&world, &["--join", &server.join])).expect(0);
    assert_eq!(beside(), before, "nothing stays behind");
}

#[test]
fn without_a_server_the_rest_is_told() {
    let world = World::new();
    let told = Ended::of(&mut doctor(&world, &[])).expect(0);
    assert_eq!(check(&told, "server")["verdict"], "unknown");
    assert_eq!(check(&told, "mdns")["verdict"], "unknown");
    let shown = Ended::of(
        world
            .command(&["doctor"])
            .arg("--folder")
            .arg(world.path(".")),
    )
    .expect(0);
    assert!(shown.stdout.contains("hashing"), "{}", shown.stdout);
}

#[test]
fn what_is_broken_fails_and_says_what_to_do() {
    let world = World::new();
    let mut server = world.server_with("127.0.0.1:0", &["--no-relay"]);
    let nowhere = world.path("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let mut broken = doctor(&world, &["--join", &server.join]);
    broken.args(["--folder", nowhere]);
    let told = Ended::of(&mut broken);
    assert_eq!(told.code, 2, "an option that is given twice");
    let mut broken = world.command(&["--json", "doctor", "--folder", nowhere]);
    broken.args(["--join", &server.join]);
    let told = Ended::of(&mut broken).expect(1);
    assert_eq!(check(&told, "disk")["verdict"], "failed");
    assert_eq!(check(&told, "relay")["verdict"], "warning");
    assert_eq!(server.daemon.terminate(), 0);
    let told = Ended::of(&mut doctor(&world, &["--join", &server.join])).expect(1);
    assert_eq!(check(&told, "server")["verdict"], "failed");
}
