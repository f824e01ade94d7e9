//! State folders on a disk that is full for a while: everybody stays connected, what is known is
//! found, the state is named, and all goes on by itself once there is room.
//!
//! The disks are small ones in memory, so only root can try it; elsewhere each test says that it
//! is skipped.

mod support;

use serde_json::Value;
use support::disk::SmallDisk;
use support::https::{figure, get};
use support::{Daemon, Ended, Server, World, argument, b3sum, eventually, noise, text};

#[test]
fn a_full_disk_of_the_server_throws_nobody_out_and_passes_by_itself_again_and_again() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.state("server"), "8m") else {
        return;
    };
    world.run(&["certs"]).expect(0);
    let server = start_server(&world, "127.0.0.1:0");
    world.write("anna", "known.bin", noise(100_000, 1));
    let mut anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "known.bin");
    let mut others: Vec<Daemon> = Vec::new();
    for round in 0..3 {
        let name = format!("other-{round}");
        disk.fill();
        world.write("anna", &format!("new-{round}.txt"), "new");
        expect_full(&anna.event("waiting"));
        world.write(&name, &format!("of-{name}.txt"), "other");
        let mut other = world.start_peer(&name, &["--join", &server.join, "--name", &name]);
        other.event("connected");
        expect_full(&other.event("waiting"));
        others.push(other);

        assert_eq!(
            found(&world, &server, "known"),
            ["known.bin"],
            "round {round}"
        );
        let into = format!("got-{round}");
        let typed = ["get", "known.bin", "-o", &into, "--join", &server.join];
        world.run(&typed).expect(0);
        assert_eq!(b3sum(&world.path(&into).join("known.bin")), hash);
        assert_eq!(connected(&world), others.len() + 1);
        expect_outage(&world, &server);

        disk.free();
        for text in [format!("new-{round}"), format!("of-{name}")] {
            eventually("what waited is found", || {
                found(&world, &server, &text) == [format!("{text}.txt")]
            });
        }
        anna.event("announced");
        others[round].event("announced");
        eventually("the state is named no more", || outage(&world).is_null());
        let figures = get(&world, &server.address, "/metrics", "");
        assert_eq!(figure(&figures, "shoal_state_writable "), 1);
    }
    // It is named before anybody announces.
    disk.fill();
    eventually("the state is named", || outage(&world)["reason"] == "full");
    disk.free();
    eventually("the state is named no more", || outage(&world).is_null());
    // No connection was lost, and nothing was said more often than it happened.
    for peer in [&anna].into_iter().chain(&others) {
        assert!(!peer.log().contains("not connected"), "{}", peer.log());
    }
    assert_eq!(lines_with(&anna, "takes no announcements"), 3);
    assert_eq!(lines_with(&server.daemon, "is full"), 4);
    assert_eq!(lines_with(&server.daemon, "can be written again"), 4);
    assert_eq!(lines_with(&server.daemon, "ERROR"), 0);
}

#[test]
fn a_server_without_room_to_start_says_so_with_code_10_and_starts_once_there_is() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.state("server"), "8m") else {
        return;
    };
    world.run(&["certs"]).expect(0);
    let without_room = || {
        let ended = Ended::of(&mut server_command(&world, "127.0.0.1:0"));
        let error = ended.expect(10).event("error");
        assert!(text(&error, "message").contains("make room"), "{error}");
    };
    disk.fill();
    without_room();
    disk.free();
    let mut server = start_server(&world, "127.0.0.1:0");
    world.write("anna", "known.txt", "known");
    let anna = world.peer("anna", &server);
    drop(anna);
    assert_eq!(server.daemon.terminate(), 0);
    disk.fill();
    without_room();
    disk.free();
    let server = start_server(&world, "127.0.0.1:0");
    assert_eq!(found(&world, &server, "known"), ["known.txt"]);
}

#[test]
fn a_server_that_comes_back_from_a_kill_on_a_full_disk_answers_and_takes_announces_later() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.state("server"), "8m") else {
        return;
    };
    world.run(&["certs"]).expect(0);
    let mut server = start_server(&world, "127.0.0.1:0");
    world.write("anna", "known.txt", "known");
    let mut anna = world.peer("anna", &server);
    disk.fill();
    server.daemon.kill();
    let server = start_server(&world, &server.address);
    anna.event("connected");
    expect_full(&anna.event("waiting"));
    assert_eq!(found(&world, &server, "known"), ["known.txt"]);
    expect_outage(&world, &server);
    disk.free();
    anna.event("announced");
    eventually("the state is named no more", || outage(&world).is_null());
}

#[test]
fn a_peer_whose_state_disk_is_full_offers_and_serves_all_the_same_and_says_so_once() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.state("anna"), "2m") else {
        return;
    };
    let server = world.server();
    world.write("anna", "first.bin", noise(10_000, 1));
    let anna = world.peer("anna", &server);
    world.announced_hash("anna", "first.bin");
    disk.fill();
    for round in 0..4 {
        let name = format!("new-{round}.bin");
        let content = noise(3 << 20, round);
        world.write("anna", &name, &content);
        let hash = world.announced_hash("anna", &name);
        let typed = ["get", &name, "-o", "got", "--join", &server.join];
        world.run(&typed).expect(0);
        assert_eq!(b3sum(&world.path("got").join(&name)), hash);
    }
    assert_eq!(lines_with(&anna, "hashes cannot be kept"), 1);
    disk.free();
    // What was hashed before and what is hashed from here on is known after a restart.
    world.write("anna", "last.bin", noise(10_000, 9));
    world.announced_hash("anna", "last.bin");
    assert_eq!(lines_with(&anna, "hashes cannot be kept"), 1);
}

fn server_command(world: &World, address: &str) -> std::process::Command {
    let mut command = world.command(&["--json", "server", "--addr", address]);
    command.args(["--cert", "server.crt", "--key", "server.key", "--files-dir"]);
    command.arg(world.files("server")).arg("--state-dir");
    command.arg(world.state("server")).env("RUST_LOG", "info");
    command
}

/// A server that tells its figures by a certificate, and logs more than warnings.
fn start_server(world: &World, address: &str) -> Server {
    let command = server_command(world, address);
    let mut daemon = Daemon::start("server", command, world.path("server.log"));
    let listening = daemon.event("listening");
    Server {
        address: text(&listening, "address"),
        node: text(&listening, "server"),
        join: text(&listening, "join"),
        daemon,
    }
}

/// The paths that a search finds, by name.
fn found(world: &World, server: &Server, sought: &str) -> Vec<String> {
    let ended = world.run(&["--json", "search", sought, "--join", &server.join]);
    let hits = ended.events().into_iter();
    let hits = hits.filter(|event| event["event"] == "hit");
    let mut paths: Vec<String> = hits.map(|hit| text(&hit, "path")).collect();
    paths.sort();
    paths
}

fn connected(world: &World) -> usize {
    let events = world.ctl_json(&["peers"]).expect(0).events();
    events
        .iter()
        .filter(|event| event["event"] == "peer")
        .count()
}

fn outage(world: &World) -> Value {
    world.ctl_json(&["status"]).expect(0).event("status")["outage"].clone()
}

#[track_caller]
fn expect_full(waiting: &Value) {
    let reason = text(waiting, "reason");
    assert!(reason.contains("disk of the server's state folder is full"));
}

/// The state is named wherever an operator looks.
#[track_caller]
fn expect_outage(world: &World, server: &Server) {
    let outage = outage(world);
    assert_eq!(outage["reason"], "full", "{outage}");
    assert!(outage["since_ms"].as_u64().is_some(), "{outage}");
    let message = text(&outage, "message");
    let folder = world.state("server");
    assert!(message.contains(argument(&folder)), "{message}");
    assert!(message.contains("make room"), "{message}");
    let shown = world.ctl(&["status"]).expect(0).stdout;
    assert!(shown.contains(&message), "{shown}");
    let figures = get(world, &server.address, "/metrics", "");
    assert_eq!(figure(&figures, "shoal_state_writable "), 0);
    assert!(figure(&figures, "shoal_state_write_failures_total ") > 0);
}

fn lines_with(daemon: &Daemon, part: &str) -> usize {
    let log = daemon.log();
    log.lines().filter(|line| line.contains(part)).count()
}
