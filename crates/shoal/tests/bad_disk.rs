//! Disks that die, mend and give up under a transfer: what counts as received is on them, the
//! message names the folder and says what to do, and the same command goes on once they are well.
//!
//! The disks are real file systems on loop devices, so only root can try it; elsewhere each test
//! says that it is skipped.

mod support;

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use support::disk::Disk;
use support::moments::{names_in, written_bytes};
use support::{Daemon, Server, World, b3sum, eventually, noise, text};

const MIB: u64 = 1 << 20;

#[test]
fn a_failed_sync_makes_nothing_count_that_was_written_since_the_last_good_one() {
    let world = World::new();
    let Some(disk) = Disk::mount(&world.path("got"), "errors=continue") else {
        return;
    };
    // The first is synced only when it is complete, the second on its way.
    world.write("anna", "small.bin", noise(5 << 20, 1));
    world.write("anna", "big.bin", noise(40 << 20, 2));
    let server = world.server();
    let _anna = world.peer("anna", &server);
    for (name, rate) in [("small.bin", "unlimited"), ("big.bin", "16M")] {
        let hash = world.announced_hash("anna", name);
        if name == "small.bin" {
            disk.fail();
        }
        let typed = get(&server, name, &["--down", rate]);
        let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
        if name == "big.bin" {
            let state = world.path("got/.big.bin.shoal-state");
            eventually("some of it is durable", || has_records(&state));
            disk.fail();
        }
        assert_names_disk(&getting.event("error"));
        assert_eq!(getting.wait(), 8, "{name}");
        assert!(!world.path("got").join(name).exists());
        assert!(world.path(&format!("got/.{name}.shoal-part")).exists());
        disk.mend();
        // What was believed to be written and was not is gone for good by now.
        disk.remount();
        let done = world.run(&typed).expect(0).event("done");
        assert_eq!(b3sum(&world.path("got").join(name)), hash, "{name}");
        let received = done["bytes"].as_u64().unwrap();
        // Of the first nothing had been synced well.
        let is_expected = match name {
            "small.bin" => received == 5 * MIB,
            _ => received < 40 * MIB,
        };
        assert!(is_expected, "{name}: {done}");
    }
    assert_eq!(
        names_in(&world.path("got")),
        ["big.bin", "lost+found", "small.bin"]
    );
}

#[test]
fn small_files_whose_sync_failed_get_no_names_and_arrive_with_the_next_fetch() {
    let world = World::new();
    let Some(disk) = Disk::mount(&world.path("got"), "errors=continue") else {
        return;
    };
    for number in 0..20_u64 {
        world.write("anna", &format!("set/{number}"), noise(50_000, number));
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    disk.fail();
    let typed = get(&server, "anna:set", &[]);
    let failed = world.run(&typed).expect(8);
    assert_names_disk(&failed.event("error"));
    assert_eq!(names_in(&world.path("got/set")), Vec::<String>::new());
    disk.mend();
    disk.remount();
    world.run(&typed).expect(0);
    for number in 0..20_u64 {
        let file = world.path(&format!("got/set/{number}"));
        assert_eq!(std::fs::read(file).unwrap(), noise(50_000, number));
    }
    assert_eq!(names_in(&world.path("got")), ["lost+found", "set"]);
}

#[test]
fn a_source_whose_disk_cannot_be_read_gives_way_and_serves_again_once_it_can() {
    let world = World::new();
    let Some(disk) = Disk::mount(&world.files("anna"), "errors=continue") else {
        return;
    };
    let content = noise(12 << 20, 3);
    let original = world.write("anna", "data.bin", &content);
    world.write("bob", "copy.bin", &content);
    world.write("anna", "set/small", noise(30_000, 4));
    let server = world.server();
    let anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "data.bin");
    disk.forget(&original);
    disk.forget(&world.files("anna").join("set/small"));
    disk.fail();
    let alone = world.run(&get(&server, "anna:data.bin", &[])).expect(8);
    let message = text(&alone.event("error"), "message");
    assert!(
        message.contains("cannot be read at its source"),
        "{message}"
    );
    world.run(&get(&server, "anna:set", &[])).expect(8);

    let bob = world.peer("bob", &server);
    world.announced_hash("bob", "copy.bin");
    world.run(&get(&server, &hash, &[])).expect(0);
    let arrived = names_in(&world.path("got"));
    assert!(
        arrived
            .iter()
            .any(|name| name == "copy.bin" || name == "data.bin")
    );

    disk.mend();
    drop(bob);
    assert_eq!(world.announced_hash("anna", "data.bin"), hash);
    for (place, file) in [("anna:data.bin", "data.bin"), ("anna:set", "set/small")] {
        let typed = get(&server, place, &["-o", "mended"]);
        world.run(&typed).expect(0);
        let original = world.files("anna").join(file);
        assert_eq!(b3sum(&world.path("mended").join(file)), b3sum(&original));
    }
    drop(anna);
}

#[test]
fn a_disk_that_turns_read_only_in_the_middle_is_a_clear_error_and_the_fetch_goes_on_later() {
    let world = World::new();
    let Some(disk) = Disk::mount(&world.path("got"), "errors=remount-ro") else {
        return;
    };
    world.write("anna", "big.bin", noise(40 << 20, 5));
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let typed = get(&server, "big.bin", &["--down", "16M"]);
    let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
    let state = world.path("got/.big.bin.shoal-state");
    eventually("some of it is durable", || has_records(&state));
    disk.give_up();
    assert_names_disk(&getting.event("error"));
    assert!([8, 11].contains(&getting.wait()));
    disk.remount();
    let done = world.run(&typed).expect(0).event("done");
    assert_eq!(b3sum(&world.path("got/big.bin")), hash);
    assert!(done["bytes"].as_u64().unwrap() < 40 * MIB, "{done}");
}

#[test]
fn a_disk_without_room_for_the_final_name_keeps_the_whole_content_until_there_is() {
    let world = World::new();
    let Some(disk) = Disk::mount(&world.path("got"), "errors=continue") else {
        return;
    };
    // The zeros take no room on the disk, so that it may fill up while they come.
    let mut content = noise(4 << 20, 6);
    content.resize(12 << 20, 0);
    world.write("anna", "big.bin", &content);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let folder = world.path("got/inside");
    let typed = get(&server, "big.bin", &["-o", "got/inside", "--down", "3M"]);
    let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
    let state = folder.join(".big.bin.shoal-state");
    eventually("what takes room is written", || {
        state.exists() && written_bytes(&folder) >= 4 * MIB
    });
    getting.signal(Signal::STOP);
    fill(&world.path("got/filler"));
    let one = folder.join("l");
    std::fs::write(&one, "").unwrap();
    let mut links = 0;
    // The folder takes names until it would need another block.
    while std::fs::hard_link(&one, folder.join(format!("{links:07}"))).is_ok() {
        links += 1;
    }
    getting.signal(Signal::CONT);
    let error = getting.event("error");
    assert_eq!(getting.wait(), 10, "{error}");
    assert!(!folder.join("big.bin").exists());
    std::fs::remove_file(world.path("got/filler")).unwrap();
    let done = world.run(&typed).expect(0).event("done");
    assert_eq!(b3sum(&folder.join("big.bin")), hash);
    assert_eq!(done["bytes"], 0, "it was whole already");
    drop(disk);
}

fn get<'a>(server: &'a Server, place: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut typed = vec!["--json", "get", place, "--join", &server.join];
    if !more.contains(&"-o") {
        typed.extend(["-o", "got"]);
    }
    typed.extend(more);
    typed
}

/// Whether a state has more than its header.
fn has_records(state: &Path) -> bool {
    std::fs::metadata(state).is_ok_and(|state| state.len() > 128)
}

/// The message says which folder's disk is to be looked at.
#[track_caller]
fn assert_names_disk(error: &Value) {
    let message = text(error, "message");
    assert!(
        message.contains("got") && message.contains("disk"),
        "{message}"
    );
}

/// Writes until the disk takes nothing more.
fn fill(file: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(file).expect("create a file");
    for size in [1 << 20, 4096, 1] {
        let block = vec![1; size];
        while file
            .write_all(&block)
            .and_then(|()| file.sync_data())
            .is_ok()
        {}
    }
}
