//! Servers and peers as processes: how they start, stop, collide, come back and notice changes.

mod support;

use std::net::UdpSocket;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use support::{Daemon, World, argument, b3sum, eventually, noise, text};

#[test]
fn sigterm_and_sigint_end_a_peer_and_a_server_with_code_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let world = World::new();
        world.write("anna", "a.txt", "a");
        let mut server = world.server();
        let mut anna = world.peer("anna", &server);
        anna.signal(signal);
        assert_eq!(anna.wait(), 0);
        server.daemon.signal(signal);
        assert_eq!(server.daemon.wait(), 0);
        assert!(!world.state("server").join("control.sock").exists());
    }
}

#[test]
fn a_server_that_closes_says_goodbye_and_its_peers_can_still_be_ended() {
    let world = World::new();
    let mut server = world.server();
    let mut anna = world.peer("anna", &server);
    assert_eq!(server.daemon.terminate(), 0);
    let gone = anna.event("disconnected");
    assert!(text(&gone, "reason").contains("shut"), "{gone}");
    assert_eq!(anna.terminate(), 0);
}

#[test]
fn an_interrupted_get_ends_with_130_and_the_next_one_goes_on() {
    let world = World::new();
    let content = noise(256 << 20, 1);
    world.write("anna", "big.bin", &content);
    let server = world.server();
    let anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let typed = [
        "--json",
        "get",
        "anna:big.bin",
        "-o",
        "got",
        "--join",
        &server.join,
    ];
    let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
    eventually("some of it is on the disk", || {
        written_bytes(&world.path("got")) > 32 << 20
    });
    // Held still, the provider cannot be faster than the interrupt.
    anna.signal(Signal::STOP);
    getting.signal(Signal::INT);
    let error = getting.event("error");
    assert_eq!(error["code"], 130);
    assert!(text(&error, "message").contains("run the same command again"));
    assert_eq!(getting.wait(), 130);
    assert!(!world.path("got/big.bin").exists());
    anna.signal(Signal::CONT);

    let again = world.run(&typed).expect(0);
    let done = again.event("done");
    assert_eq!(done["fetched"], 1);
    let received = done["bytes"].as_u64().unwrap();
    assert!(received < content.len() as u64, "nothing was kept: {done}");
    assert_eq!(b3sum(&world.path("got/big.bin")), hash);
    assert_eq!(std::fs::read_dir(world.path("got")).unwrap().count(), 1);
}

#[test]
fn an_interrupted_order_ends_with_130_and_the_next_one_goes_on() {
    let world = World::new();
    let content = noise(256 << 20, 2);
    world.write("anna", "big.bin", &content);
    let server = world.server();
    let anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let state = world.state("server");
    let typed = [
        "--json",
        "ctl",
        "--state-dir",
        argument(&state),
        "fetch",
        "anna",
        "big.bin",
    ];
    let mut fetching = Daemon::start("ctl", world.command(&typed), world.path("ctl.log"));
    eventually("some of it is on the disk", || {
        written_bytes(&world.files("server")) > 32 << 20
    });
    anna.signal(Signal::STOP);
    fetching.signal(Signal::INT);
    assert_eq!(fetching.wait(), 130);
    anna.signal(Signal::CONT);
    world.run(&typed).expect(0);
    assert_eq!(b3sum(&world.files("server").join("big.bin")), hash);
}

#[test]
fn a_state_directory_serves_one_daemon_at_a_time() {
    let world = World::new();
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let mut second = world.start_peer("anna", &["--join", &server.join]);
    let error = second.event("error");
    assert!(text(&error, "message").contains("--state-dir"), "{error}");
    assert_eq!(second.wait(), 11);

    let state = world.state("server");
    let typed = [
        "server",
        "--addr",
        "127.0.0.1:0",
        "--state-dir",
        argument(&state),
    ];
    let refused = world.run(&typed).expect(11);
    assert!(refused.stderr.contains("--state-dir"), "{refused:?}");
    // The first ones are none the worse for it.
    assert_eq!(
        world.ctl_json(&["status"]).expect(0).event("status")["peers"],
        1
    );
}

#[test]
fn a_port_that_is_taken_ends_the_start_with_code_11() {
    let world = World::new();
    let server = world.server();
    let typed = ["server", "--addr", &server.address, "--state-dir", "other"];
    let refused = world.run(&typed).expect(11);
    assert!(refused.stderr.contains("in use"), "{refused:?}");
    let taken = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"));
    let taken = taken.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut peer = world.start_peer("anna", &["--join", &server.join, "--port", &port]);
    let error = peer.event("error");
    assert!(text(&error, "message").contains("--port"), "{error}");
    assert_eq!(peer.wait(), 11);
}

#[test]
fn a_folder_that_is_missing_is_not_made_up_for_a_peer() {
    let world = World::new();
    let server = world.server();
    for (folder, content) in [("missing", None), ("a-file", Some("text"))] {
        if let Some(content) = content {
            std::fs::write(world.path(folder), content).unwrap();
        }
        let typed = ["peer", "--join", &server.join, "--files-dir", folder];
        let refused = world.run(&typed).expect(11);
        assert!(refused.stderr.contains(folder), "{refused:?}");
    }
    assert!(!world.path("missing").exists());
}

#[test]
fn no_server_at_the_address_ends_with_code_5() {
    let world = World::new();
    // Bound and silent: nothing else can take the port meanwhile.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let typed = ["--server-addr", &address, "--no-verify-tls"];
    let mut peer = world.start_peer("anna", &typed);
    let failed = world.run(&[&["ls"], &typed[..]].concat()).expect(5);
    assert!(failed.stderr.contains(&address), "{failed:?}");
    assert_eq!(peer.event("error")["code"], 5);
    assert_eq!(peer.wait(), 5);
}

#[test]
fn a_ticket_or_address_that_means_nothing_ends_with_code_2() {
    let world = World::new();
    let bad: [&[&str]; 4] = [
        &["ls", "--join", "shoaljoin1nonsense"],
        &["ls", "--join", ""],
        &["ls", "--server-addr", "no-port", "--no-verify-tls"],
        &["ls", "--server-addr", "127.0.0.1:99999", "--no-verify-tls"],
    ];
    for typed in bad {
        let failed = world.run(typed).expect(2);
        assert!(!failed.stderr.is_empty(), "{typed:?}");
    }
}

#[test]
fn a_restarted_server_gets_its_peers_and_their_files_back() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    let mut server = world.server();
    let mut anna = world.peer("anna", &server);
    for crashes in [false, true] {
        if crashes {
            server.daemon.kill();
        } else {
            assert_eq!(server.daemon.terminate(), 0);
        }
        server = world.server_with(&server.address, &[]);
        anna.event("disconnected");
        anna.event("connected");
        assert_eq!(anna.event("announced")["files"], 1);
    }
    let got = world.run(&["get", "a.txt", "-o", "got", "--join", &server.join]);
    got.expect(0);
}

#[test]
fn a_server_that_lost_its_catalog_is_told_everything_again() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    let mut server = world.server();
    let mut anna = world.peer("anna", &server);
    assert_eq!(server.daemon.terminate(), 0);
    for file in std::fs::read_dir(world.state("server")).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_name().unwrap().to_string_lossy();
        if name.contains(".db") {
            std::fs::remove_file(&file).unwrap();
        }
    }
    let _again = world.server_with(&server.address, &[]);
    anna.event("disconnected");
    assert_eq!(anna.event("announced")["files"], 1);
    world.announced_hash("anna", "a.txt");
}

#[test]
fn what_is_added_changed_and_removed_is_announced_without_a_command() {
    let world = World::new();
    world.write("anna", "kept.txt", "kept");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let file = world.write("anna", "new/deep/file.txt", "one");
    let first = world.announced_hash("anna", "new/deep/file.txt");
    assert_eq!(first, blake3::hash(b"one").to_hex().as_str());
    std::fs::write(&file, "two, and longer").unwrap();
    let changed = blake3::hash(b"two, and longer").to_hex().to_string();
    eventually("the change is announced", || {
        hash_of(&world, "new/deep/file.txt").as_deref() == Some(changed.as_str())
    });
    std::fs::rename(&file, world.files("anna").join("moved.txt")).unwrap();
    eventually("the new name is announced", || {
        hash_of(&world, "moved.txt").as_deref() == Some(changed.as_str())
    });
    eventually("the old name is withdrawn", || {
        known(&world) == ["kept.txt", "moved.txt"]
    });
    std::fs::remove_dir_all(world.files("anna").join("new")).unwrap();
    std::fs::remove_file(world.files("anna").join("moved.txt")).unwrap();
    eventually("removal is announced", || known(&world) == ["kept.txt"]);
    let gone = world.run(&["get", "moved.txt", "--join", &server.join]);
    gone.expect(3);
}

#[test]
fn the_servers_own_folder_is_watched_too() {
    let world = World::new();
    let server = world.server();
    world.write("server", "later.txt", "later");
    world.announced_hash("server", "later.txt");
    let got = world.run(&["get", "later.txt", "-o", "got", "--join", &server.join]);
    got.expect(0);
    std::fs::remove_file(world.files("server").join("later.txt")).unwrap();
    eventually("removal is known", || known(&world).is_empty());
}

#[test]
fn ignored_hidden_and_linked_files_are_not_offered() {
    let world = World::new();
    let private = world.path("private.txt");
    std::fs::write(&private, "private").unwrap();
    world.write("anna", ".shoalignore", "*.tmp\nbuild/\n!keep.tmp\n");
    for file in [
        "a.txt",
        "keep.tmp",
        "drop.tmp",
        "build/x.txt",
        ".hidden",
        ".git/config",
    ] {
        world.write("anna", file, file);
    }
    std::os::unix::fs::symlink(&private, world.files("anna").join("link.txt")).unwrap();
    let server = world.server();
    let mut anna = world.peer("anna", &server);
    world.announced_hash("anna", "keep.tmp");
    assert_eq!(known(&world), ["a.txt", "keep.tmp"]);
    for path in ["drop.tmp", "build/x.txt", ".hidden", "link.txt"] {
        let typed = ["get", &format!("anna:{path}"), "--join", &server.join];
        world.run(&typed).expect(3);
    }
    assert_eq!(anna.terminate(), 0);
    let _anna = world.peer_with("anna", &server, &["--hidden"]);
    world.announced_hash("anna", ".hidden");
    let all = known(&world);
    assert!(all.contains(&".git/config".to_owned()), "{all:?}");
    assert!(!all.contains(&"link.txt".to_owned()), "{all:?}");
    assert!(!all.contains(&"drop.tmp".to_owned()), "{all:?}");
}

#[test]
fn a_shared_folder_that_is_named_by_a_link_is_watched_like_any_other() {
    let world = World::new();
    let real = world.path("real");
    std::fs::create_dir_all(&real).unwrap();
    std::fs::create_dir_all(world.path("anna")).unwrap();
    std::os::unix::fs::symlink(&real, world.path("anna/files")).unwrap();
    std::fs::write(real.join("a.txt"), "a").unwrap();
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "a.txt");
    std::fs::write(real.join("later.txt"), "later").unwrap();
    world.announced_hash("anna", "later.txt");
}

#[test]
fn a_change_of_the_ignore_file_takes_effect_at_once() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    world.write("anna", "b.log", "b");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "b.log");
    world.write("anna", ".shoalignore", "*.log\n");
    eventually("it is withdrawn", || known(&world) == ["a.txt"]);
    std::fs::remove_file(world.files("anna").join(".shoalignore")).unwrap();
    eventually("it is back", || known(&world) == ["a.txt", "b.log"]);
}

#[test]
fn files_being_received_are_not_offered_before_they_are_whole() {
    let world = World::new();
    world.write("anna", "big.bin", noise(192 << 20, 5));
    let server = world.server();
    let anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let _bob = world.peer("bob", &server);
    let state = world.state("server");
    let typed = [
        "--json",
        "ctl",
        "--state-dir",
        argument(&state),
        "transfer",
        "anna",
        "big.bin",
        "bob",
    ];
    let mut order = Daemon::start("ctl", world.command(&typed), world.path("ctl.log"));
    eventually("some of it is on the disk", || {
        written_bytes(&world.files("bob")) > 16 << 20
    });
    anna.signal(Signal::STOP);
    let listed = world.ctl_json(&["list", "bob"]).expect(0);
    assert_eq!(listed.events().len(), 0, "{listed:?}");
    anna.signal(Signal::CONT);
    order.event("transferred");
    assert_eq!(world.announced_hash("bob", "big.bin"), hash);
}

/// The paths that anna or the server offer, sorted, as the server knows them.
fn known(world: &World) -> Vec<String> {
    let events = world.ctl_json(&["files"]).expect(0).events();
    let mut paths: Vec<String> = events.iter().map(|file| text(file, "path")).collect();
    paths.sort();
    paths
}

/// The hash that the server knows for exactly this path.
fn hash_of(world: &World, path: &str) -> Option<String> {
    let listed = world.ctl_json(&["files", path]).expect(0);
    let is_it = |event: &Value| event["path"] == path;
    let found = listed.events().into_iter().find(is_it)?;
    found["hash"].as_str().map(str::to_owned)
}

/// What the files below a folder take on the disk.
fn written_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let files = entries.filter_map(|entry| entry.ok()?.metadata().ok());
    files.map(|file| file.blocks() * 512).sum()
}
