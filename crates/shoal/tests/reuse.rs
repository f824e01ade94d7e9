//! What is on this machine is not fetched: equal chunks of an older version, the same content under
//! another name, a part whose state is damaged. What arrives is right whatever lies around.

mod support;

use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde_json::Value;
use support::{Daemon, Ended, Server, World, b3sum, eventually, noise};

const MIB: usize = 1 << 20;

#[test]
fn an_older_version_at_the_target_gives_its_equal_chunks() {
    let world = World::new();
    let first = noise(24 * MIB + 5, 1);
    let source = world.write("anna", "big.bin", &first);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let first_hash = world.announced_hash("anna", "big.bin");
    get(&world, &server, &["anna:big.bin", "-o", "got"]);
    let target = world.path("got/big.bin");

    let mut middle = first.clone();
    middle[12 * MIB..13 * MIB].copy_from_slice(&noise(MIB, 2));
    let appended = [&middle[..], &noise(2 * MIB, 3)].concat();
    let truncated = appended[..20 * MIB + 99].to_vec();
    let mut hash = first_hash;
    for (content, moved) in [(middle, MIB), (appended, 3 * MIB), (truncated, MIB)] {
        replace(&source, &content);
        hash = next_hash(&world, "big.bin", &hash);
        let old = b3sum(&target);
        let typed = ["get", "anna:big.bin", "-o", "got", "--join", &server.join];
        world.run(&typed).expect(9);
        assert_eq!(b3sum(&target), old, "touched without --overwrite");
        let got = get(
            &world,
            &server,
            &["anna:big.bin", "-o", "got", "--overwrite"],
        );
        let done = got.event("done");
        assert!(bytes(&done, "bytes") <= moved as u64, "{done}");
        let all = bytes(&done, "bytes") + bytes(&done, "reused");
        assert_eq!(all, content.len() as u64, "{done}");
        assert_eq!(got.event("got")["reused"], done["reused"]);
        assert_eq!(b3sum(&target), hash);
        assert_eq!(std::fs::read_dir(world.path("got")).unwrap().count(), 1);
    }
    // It is said to a person too.
    replace(&source, &noise(3 * MIB, 4));
    hash = next_hash(&world, "big.bin", &hash);
    get(
        &world,
        &server,
        &["anna:big.bin", "-o", "got", "--overwrite"],
    );
    replace(&source, &[noise(3 * MIB, 4), noise(MIB, 5)].concat());
    next_hash(&world, "big.bin", &hash);
    let typed = ["get", "anna:big.bin", "-o", "got", "--overwrite"];
    let shown = world.run(&[&typed[..], &["--join", &server.join]].concat());
    assert!(shown.expect(0).stdout.contains("3.00 MiB reused"));
}

#[test]
fn a_file_in_a_tree_is_made_of_its_older_version_too() {
    let world = World::new();
    let mut content = noise(8 * MIB, 1);
    let source = world.write("anna", "tree/deep/big.bin", &content);
    world.write("anna", "tree/small.txt", "small");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "tree/deep/big.bin");
    get(&world, &server, &["anna:tree", "-o", "got"]);
    content[5 * MIB] ^= 1;
    replace(&source, &content);
    next_hash(&world, "tree/deep/big.bin", &hash);
    let got = get(&world, &server, &["anna:tree", "-o", "got", "--overwrite"]);
    let done = got.event("done");
    assert_eq!(bytes(&done, "bytes"), MIB as u64, "{done}");
    assert_eq!(bytes(&done, "reused"), 7 * MIB as u64, "{done}");
    assert!(std::fs::read(world.path("got/tree/deep/big.bin")).unwrap() == content);
}

#[test]
fn an_order_moves_only_what_the_receiver_does_not_have() {
    let world = World::new();
    let content = noise(24 * MIB, 1);
    let mut older = content.clone();
    older[9 * MIB] ^= 1;
    world.write("anna", "big.bin", &content);
    world.write("anna", "same.bin", [&content[..], b"tail"].concat());
    let target = world.write("bob", "big.bin", &older);
    world.write(
        "bob",
        "elsewhere/other-name",
        [&content[..], b"tail"].concat(),
    );
    let server = world.server();
    // At this rate all of it would take minutes, which the deadline of the test does not give.
    let _anna = world.peer_with("anna", &server, &["--up", "400k"]);
    let _bob = world.peer("bob", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let same = world.announced_hash("anna", "same.bin");
    assert_eq!(world.announced_hash("bob", "elsewhere/other-name"), same);
    let order = ["transfer", "anna", "big.bin", "bob"];
    world.ctl(&order).expect(9);
    assert!(std::fs::read(&target).unwrap() == older);
    world
        .ctl(&[&order[..], &["--overwrite"]].concat())
        .expect(0);
    assert_eq!(b3sum(&target), hash);
    world
        .ctl(&["transfer", "anna", "same.bin", "bob"])
        .expect(0);
    assert_eq!(b3sum(&world.files("bob").join("same.bin")), same);
}

#[test]
fn a_get_takes_the_same_content_from_a_folder_that_its_index_knows() {
    let world = World::new();
    let content = noise(16 * MIB + 1, 1);
    world.write("anna", "big.bin", &content);
    let there = world.write("bob", "deep/er/other-name", &content);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let mut bob = world.peer("bob", &server);
    assert_eq!(world.announced_hash("bob", "deep/er/other-name"), hash);
    assert_eq!(bob.terminate(), 0);
    let get = || {
        let folder = world.files("bob");
        let target = folder.join("big.bin");
        let typed = [
            "--json",
            "get",
            "anna:big.bin",
            "-o",
            support::argument(&folder),
        ];
        let got = world.run_as("bob", &typed).expect(0);
        assert_eq!(b3sum(&target), hash);
        std::fs::remove_file(&target).unwrap();
        let done = got.event("done");
        (bytes(&done, "bytes"), bytes(&done, "reused"))
    };
    assert_eq!(get(), (0, content.len() as u64));
    assert!(std::fs::read(&there).unwrap() == content);
    // What the index knows of it is out of date: nothing is believed, all is fetched.
    let file = std::fs::File::options().write(true).open(&there).unwrap();
    file.write_all_at(b"changed", 3 * MIB as u64).unwrap();
    drop(file);
    assert_eq!(get(), (content.len() as u64, 0));
    std::fs::remove_file(&there).unwrap();
    assert_eq!(get(), (content.len() as u64, 0));
}

#[test]
fn a_part_whose_state_is_damaged_is_verified_and_not_fetched_again() {
    let world = World::new();
    let content = noise(32 * MIB, 1);
    world.write("anna", "big.bin", &content);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    for damage in ["missing", "header", "record"] {
        let typed = [
            "--json",
            "get",
            "anna:big.bin",
            "-o",
            "got",
            "--down",
            "24M",
        ];
        let typed = [&typed[..], &["--join", &server.join]].concat();
        let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
        let part = world.path("got/.big.bin.shoal-part");
        let state = world.path("got/.big.bin.shoal-state");
        eventually("some of it is recorded", || {
            let written = std::fs::metadata(&part).map_or(0, |part| part.blocks() * 512);
            let recorded = std::fs::metadata(&state).map_or(0, |state| state.len());
            written > 10 * MIB as u64 && recorded > 128
        });
        getting.kill();
        let written = std::fs::metadata(&part).unwrap().blocks() * 512;
        let mut bytes_of_state = std::fs::read(&state).unwrap();
        match damage {
            "missing" => std::fs::remove_file(&state).unwrap(),
            "header" => {
                bytes_of_state[3] ^= 1;
                std::fs::write(&state, &bytes_of_state).unwrap();
            }
            _ => {
                bytes_of_state[128 + 40] ^= 1;
                std::fs::write(&state, &bytes_of_state).unwrap();
            }
        }
        // A chunk that rotted meanwhile is fetched again, and no other.
        let rotten = std::fs::File::options().write(true).open(&part).unwrap();
        rotten.write_all_at(b"rotten", MIB as u64 + 1).unwrap();
        let got = get(&world, &server, &["anna:big.bin", "-o", "got"]);
        let done = got.event("done");
        let most = (content.len() as u64).saturating_sub(written) + 4 * MIB as u64;
        assert!(bytes(&done, "bytes") <= most, "{damage}: {done}, {written}");
        assert_eq!(b3sum(&world.path("got/big.bin")), hash, "{damage}");
        std::fs::remove_dir_all(world.path("got")).unwrap();
    }
}

/// Runs `shoal --json get ARGUMENTS…` as a node of its own, which must succeed.
#[track_caller]
fn get(world: &World, server: &Server, arguments: &[&str]) -> Ended {
    let join = ["--join", &server.join];
    world
        .run(&[&["--json", "get"], arguments, &join].concat())
        .expect(0)
}

#[track_caller]
fn bytes(event: &Value, field: &str) -> u64 {
    let value = event[field].as_u64();
    value.unwrap_or_else(|| panic!("no number {field} in {event}"))
}

/// Puts other content in place of a file, as an editor does it.
fn replace(file: &Path, content: &[u8]) {
    let beside = file.with_extension("new");
    let mut new = std::fs::File::create(&beside).expect("create a file");
    new.write_all(content).expect("write a file");
    drop(new);
    std::fs::rename(&beside, file).expect("rename a file");
}

/// Waits until anna announces another hash.
fn next_hash(world: &World, path: &str, before: &str) -> String {
    let mut hash = before.to_owned();
    eventually("the change is announced", || {
        hash = world.announced_hash("anna", path);
        hash != before
    });
    hash
}
