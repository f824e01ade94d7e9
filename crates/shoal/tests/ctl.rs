//! `shoal ctl`: every order that the operator of a server can give, and who may give them.

mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use support::{Daemon, Ended, World, b3sum, eventually, noise, text};

#[test]
fn peers_shows_who_is_connected() {
    let world = World::new();
    world.write("anna", "a.txt", "aaaa");
    let server = world.server();
    let none = world.ctl(&["peers"]).expect(0);
    assert_eq!(none.stdout, "");
    let _anna = world.peer("anna", &server);
    let _bob = world.peer("bob", &server);
    let events = world.ctl_json(&["peers"]).expect(0).events();
    let mut names: Vec<String> = events.iter().map(|peer| text(peer, "name")).collect();
    names.sort();
    assert_eq!(names, ["anna", "bob"]);
    let anna = events.iter().find(|peer| peer["name"] == "anna").unwrap();
    assert_eq!(
        (&anna["files"], &anna["total_bytes"]),
        (&1.into(), &4.into())
    );
    assert!(text(anna, "agent").starts_with("shoal/"));
    let shown = world.ctl(&["peers"]).expect(0).stdout;
    assert!(
        shown.contains("anna") && shown.contains("1 files"),
        "{shown}"
    );
}

#[test]
fn files_lists_everything_known_or_what_contains_a_text() {
    let world = World::new();
    world.write("server", "own/Manual.txt", "m");
    world.write("anna", "docs/manual.pdf", "mm");
    world.write("anna", "other.bin", "o");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("server", "own/Manual.txt");
    world.announced_hash("anna", "docs/manual.pdf");
    let all = world.ctl_json(&["files"]).expect(0).events();
    assert_eq!(
        places(&all),
        [
            "anna:docs/manual.pdf",
            "anna:other.bin",
            "server:own/Manual.txt"
        ]
    );
    let some = world.ctl_json(&["files", "MANUAL"]).expect(0).events();
    assert_eq!(
        places(&some),
        ["anna:docs/manual.pdf", "server:own/Manual.txt"]
    );
    let shown = world.ctl(&["files", "pdf"]).expect(0).stdout;
    assert!(shown.contains("anna:docs/manual.pdf"), "{shown}");
}

#[test]
fn list_asks_the_peer_itself_for_all_or_for_a_folder() {
    let world = World::new();
    world.write("anna", "top.txt", "t");
    world.write("anna", "photos/2024/one.jpg", "1");
    world.write("anna", "photos/two.jpg", "22");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let all = world.ctl_json(&["list", "anna"]).expect(0).events();
    let expected = [
        "anna:photos/2024/one.jpg",
        "anna:photos/two.jpg",
        "anna:top.txt",
    ];
    assert_eq!(places(&all), expected);
    let below = world.ctl_json(&["list", "anna", "photos/2024"]);
    assert_eq!(places(&below.expect(0).events()), expected[..1]);
    let below = world.ctl(&["list", "anna", "photos/"]).expect(0).stdout;
    assert!(below.contains("anna:photos/two.jpg"), "{below}");
    assert!(!below.contains("top.txt"), "{below}");
}

#[test]
fn request_asks_a_peer_about_one_file() {
    let world = World::new();
    world.write("anna", "docs/a.txt", "content");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "docs/a.txt");
    for name in ["docs/a.txt", "a.txt"] {
        let answer = world.ctl_json(&["request", "anna", name]).expect(0);
        let file = answer.event("file");
        assert_eq!(text(&file, "path"), "docs/a.txt");
        assert_eq!(file["size"], 7);
        assert_eq!(text(&file, "hash"), hash);
    }
    world.ctl(&["request", "anna", "none.txt"]).expect(3);
}

#[test]
fn fetch_brings_a_file_of_a_peer_into_the_servers_folder() {
    let world = World::new();
    let original = world.write("anna", "docs/big.bin", noise(5_000_000, 1));
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "docs/big.bin");
    let fetched = world.ctl_json(&["fetch", "anna", "docs/big.bin"]).expect(0);
    let transferred = fetched.event("transferred");
    assert_eq!(transferred["outcome"], "fetched");
    assert_eq!(text(&transferred, "hash"), hash);
    assert_eq!(transferred["total_bytes"], 5_000_000);
    let target = world.files("server").join(text(&transferred, "path"));
    assert_eq!(b3sum(&target), b3sum(&original));

    let again = world.ctl(&["fetch", "anna", "big.bin"]).expect(0).stdout;
    assert!(again.contains("up to date"), "{again}");
    std::fs::write(&target, "another").unwrap();
    world.ctl(&["fetch", "anna", "docs/big.bin"]).expect(9);
    assert_eq!(std::fs::read(&target).unwrap(), b"another");
    let over = ["fetch", "anna", "docs/big.bin", "--overwrite"];
    world.ctl(&over).expect(0);
    assert_eq!(b3sum(&target), hash);
    world.ctl(&["fetch", "anna", "none.bin"]).expect(3);
}

#[test]
fn push_gives_a_file_of_the_servers_folder_to_a_peer() {
    let world = World::new();
    let original = world.write("server", "manuals/m.bin", noise(4_000_000, 2));
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("server", "manuals/m.bin");
    let pushed = world.ctl_json(&["push", "manuals/m.bin", "anna"]).expect(0);
    let transferred = pushed.event("transferred");
    assert_eq!(text(&transferred, "hash"), hash);
    let target = world.files("anna").join(text(&transferred, "path"));
    assert_eq!(b3sum(&target), b3sum(&original));
    // What arrived is offered in turn, without a command.
    let path = text(&transferred, "path");
    assert_eq!(world.announced_hash("anna", &path), hash);

    let again = world.ctl_json(&["push", "manuals/m.bin", "anna"]).expect(0);
    assert_eq!(again.event("transferred")["outcome"], "up_to_date");
    std::fs::write(&target, "of anna").unwrap();
    world.ctl(&["push", "manuals/m.bin", "anna"]).expect(9);
    assert_eq!(std::fs::read(&target).unwrap(), b"of anna");
    world.ctl(&["push", "none.bin", "anna"]).expect(3);
}

#[test]
fn a_peer_without_push_refuses_it_with_code_7() {
    let world = World::new();
    world.write("server", "manual.txt", "m");
    let server = world.server();
    let _anna = world.peer_with("anna", &server, &["--no-push"]);
    world.announced_hash("server", "manual.txt");
    let refused = world.ctl(&["push", "manual.txt", "anna"]).expect(7);
    assert!(!refused.stderr.is_empty());
    assert!(!world.files("anna").join("manual.txt").exists());
    // It refuses to be sent for files of others just so.
    world.write("bob", "b.txt", "b");
    let _bob = world.peer("bob", &server);
    world.announced_hash("bob", "b.txt");
    world.ctl(&["transfer", "bob", "b.txt", "anna"]).expect(7);
    assert!(!world.files("anna").join("b.txt").exists());
}

#[test]
fn fetch_and_push_carry_whole_folders() {
    let world = World::new();
    for file in ["a", "deep/b", "deep/er/c"] {
        world.write("anna", &format!("tree/{file}"), file);
        world.write("server", &format!("set/{file}"), file);
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "tree/deep/er/c");
    world.announced_hash("server", "set/deep/er/c");
    world.ctl(&["fetch", "anna", "tree"]).expect(0);
    world.ctl(&["push", "set", "anna"]).expect(0);
    for file in ["a", "deep/b", "deep/er/c"] {
        let fetched = world.files("server").join("tree").join(file);
        assert_eq!(std::fs::read_to_string(fetched).unwrap(), file);
        let pushed = world.files("anna").join("set").join(file);
        assert_eq!(std::fs::read_to_string(pushed).unwrap(), file);
    }
}

#[test]
fn transfer_has_one_peer_fetch_from_another() {
    let world = World::new();
    let original = world.write("anna", "data.bin", noise(6_000_000, 3));
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let _bob = world.peer("bob", &server);
    let hash = world.announced_hash("anna", "data.bin");
    let order = ["transfer", "anna", "data.bin", "bob"];
    let ended = world.ctl_json(&order).expect(0);
    let transferred = ended.event("transferred");
    assert_eq!(text(&transferred, "hash"), hash);
    let target = world.files("bob").join(text(&transferred, "path"));
    assert_eq!(b3sum(&target), b3sum(&original));
    assert!(!world.files("server").join("data.bin").exists());
    let again = world.ctl(&order).expect(0).stdout;
    assert!(again.contains("up to date"), "{again}");
    world.ctl(&["transfer", "anna", "none", "bob"]).expect(3);
    world
        .ctl(&["transfer", "anna", "data.bin", "nobody"])
        .expect(3);
}

#[test]
fn an_order_that_is_taken_back_ends_at_the_peer_which_goes_on_at_once() {
    let world = World::new();
    world.write("anna", "data.bin", noise(24 << 20, 8));
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let _bob = world.peer_with("bob", &server, &["--down", "8M"]);
    let hash = world.announced_hash("anna", "data.bin");
    let mut order = world.command(&["--json", "ctl", "--state-dir"]);
    order.arg(world.state("server"));
    order.args(["transfer", "anna", "data.bin", "bob"]);
    let mut order = Daemon::start("order", order, world.path("order.log"));
    order.event_where("bytes arrive", |event| {
        event["verified_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0)
    });
    order.signal(Signal::INT);
    order.wait();
    eventually("the same order is carried out", || {
        let again = world.ctl(&["transfer", "anna", "data.bin", "bob"]);
        again.code == 0
    });
    assert_eq!(b3sum(&world.files("bob").join("data.bin")), hash);
}

#[test]
fn rescan_has_a_peer_look_at_its_folder_again() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let same = world.ctl_json(&["rescan", "anna"]).expect(0);
    let rescanned = same.event("rescanned");
    assert_eq!(
        (&rescanned["files"], &rescanned["removed"]),
        (&1.into(), &0.into())
    );
    world.write("anna", "b.txt", "b");
    let more = world.ctl_json(&["rescan", "anna"]).expect(0);
    assert_eq!(more.event("rescanned")["files"], 2);
    let shown = world.ctl(&["rescan", "anna"]).expect(0).stdout;
    assert!(shown.contains("2 file(s)"), "{shown}");
}

#[test]
fn a_disconnected_peer_comes_back_by_itself() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    let server = world.server();
    let mut anna = world.peer("anna", &server);
    let ended = world.ctl_json(&["disconnect", "anna"]).expect(0);
    assert_eq!(ended.event("disconnected")["name"], "anna");
    anna.event("disconnected");
    anna.event("connected");
    assert_eq!(anna.event("announced")["files"], 1);
    eventually("anna is listed again", || {
        let peers = world.ctl_json(&["peers"]).expect(0).events();
        peers.iter().any(|peer| peer["name"] == "anna")
    });
}

#[test]
fn status_shows_how_the_server_is() {
    let world = World::new();
    world.write("server", "own.txt", "own");
    world.write("anna", "a.txt", "a");
    let server = world.server_with("127.0.0.1:0", &["--name", "headquarters"]);
    let _anna = world.peer("anna", &server);
    world.announced_hash("server", "own.txt");
    let status = world.ctl_json(&["status"]).expect(0).event("status");
    assert_eq!(text(&status, "name"), "headquarters");
    assert_eq!(text(&status, "server"), server.node);
    assert_eq!(text(&status, "address"), server.address);
    let counts = ["peers", "files", "own_files"].map(|field| status[field].as_u64());
    assert_eq!(counts, [Some(1), Some(2), Some(1)]);
    let shown = world.ctl(&["status"]).expect(0).stdout;
    assert!(shown.contains("headquarters"), "{shown}");
}

#[test]
fn orders_for_a_peer_that_is_not_there_end_with_code_3() {
    let world = World::new();
    world.write("server", "own.txt", "own");
    let _server = world.server();
    world.announced_hash("server", "own.txt");
    let orders: [&[&str]; 6] = [
        &["list", "nobody"],
        &["request", "nobody", "a"],
        &["fetch", "nobody", "a"],
        &["push", "own.txt", "nobody"],
        &["rescan", "nobody"],
        &["disconnect", "nobody"],
    ];
    for order in orders {
        let ended = world.ctl(order).expect(3);
        assert!(ended.stderr.contains("nobody"), "{order:?}: {ended:?}");
        let ended = world.ctl_json(order).expect(3);
        assert_eq!(ended.event("error")["code"], 3);
    }
}

#[test]
fn orders_to_a_server_that_does_not_run_end_with_code_5() {
    let world = World::new();
    let never = world.ctl(&["peers"]).expect(5);
    assert!(never.stderr.contains("shoal server"), "{never:?}");
    let mut server = world.server();
    world.ctl(&["peers"]).expect(0);
    assert_eq!(server.daemon.terminate(), 0);
    world.ctl(&["peers"]).expect(5);
    // A socket that a crash left behind is no server either, and in nobody's way.
    let mut crashed = world.server();
    crashed.daemon.kill();
    world.ctl(&["peers"]).expect(5);
    let _again = world.server();
    world.ctl(&["peers"]).expect(0);
}

#[test]
fn another_user_gives_no_orders() {
    // Only root can become somebody else to try it.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    let _server = world.server();
    std::fs::copy(env!("CARGO_BIN_EXE_shoal"), world.path("shoal")).unwrap();
    open_to_all(&world, &["", "server"]);
    let closed = as_a_stranger(&world, &["peers"]).expect(11);
    assert!(closed.stderr.contains("another user"), "{closed:?}");
    // Even where the folders let them in, the server asks who is there.
    open_to_all(&world, &["server/state", "server/state/control.sock"]);
    let refused = as_a_stranger(&world, &["peers"]).expect(7);
    assert!(refused.stderr.contains("the user that runs"), "{refused:?}");
    world.ctl(&["status"]).expect(0);
}

fn open_to_all(world: &World, paths: &[&str]) {
    for path in paths {
        let all = Permissions::from_mode(0o777);
        std::fs::set_permissions(world.path(path), all).expect("change a mode");
    }
}

/// Gives an order as a user without any rights, who runs a copy of the program.
fn as_a_stranger(world: &World, order: &[&str]) -> Ended {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(world.path("shoal"))
        .args(["ctl", "--state-dir"])
        .arg(world.state("server"))
        .args(order)
        .env("HOME", world.path(""))
        .current_dir(world.path(""));
    Ended::of(&mut command)
}

/// `PEER:PATH` of each file, sorted.
fn places(events: &[Value]) -> Vec<String> {
    let mut places: Vec<String> = events
        .iter()
        .filter(|event| event["event"] == "file")
        .map(|file| format!("{}:{}", text(file, "peer_name"), text(file, "path")))
        .collect();
    places.sort();
    places
}
