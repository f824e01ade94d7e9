//! A large file that nobody has hashed moves at once, and a fetch of it that is cancelled goes on.

mod support;

use std::os::unix::fs::FileExt;

use rustix::process::Signal;
use serde_json::Value;
use support::moments::names_in;
use support::{Daemon, World, noise};

/// More than can be hashed before the first bytes have arrived.
const SIZE_BYTES: u64 = 64 << 30;

#[test]
fn a_large_file_moves_before_it_is_hashed_and_its_cancelled_fetch_goes_on() {
    let world = World::new();
    let size = SIZE_BYTES.min(free_bytes(&world) / 2);
    let original = world.write("anna", "image.raw", "");
    let file = std::fs::File::options()
        .write(true)
        .open(&original)
        .unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&noise(20_000_000, 1), 1_000).unwrap();
    let server = world.server();
    let mut anna = world.peer("anna", &server);
    let mut typed = vec!["--json", "get", "anna:image.raw", "-o", "got"];
    typed.extend(["--join", &server.join, "--down", "8M"]);
    let mut durable_before = 0;
    for round in 0..2 {
        let log = world.path(&format!("get{round}.log"));
        let mut getting = Daemon::start("get", world.command(&typed), log);
        let moving = getting.event_where("bytes are verified", |event| {
            verified(event) > durable_before
        });
        assert_eq!(moving["total_bytes"], size);
        if round == 0 {
            let listed = world.ctl_json(&["files", "image.raw"]).expect(0).events();
            assert_eq!(listed[0]["hash"], Value::Null, "it was hashed all the same");
            let state = world.path("got/.image.raw.shoal-state");
            support::eventually("a chunk is durable", || {
                state.exists() && durable_bytes(&world, size) > 0
            });
        } else {
            // Nothing of what was durable is fetched again.
            assert!(verified(&moving) >= durable_before, "{moving}");
        }
        getting.signal(Signal::INT);
        assert_eq!(getting.wait(), 130);
        let kept = [".image.raw.shoal-part", ".image.raw.shoal-state"];
        assert_eq!(names_in(&world.path("got")), kept);
        durable_before = durable_bytes(&world, size);
        assert!(durable_before > 0);
    }
    assert_eq!(anna.log(), "");
    assert_eq!(anna.terminate(), 0);
    assert_eq!(names_in(&world.files("anna")), ["image.raw"]);
}

fn verified(event: &Value) -> u64 {
    event["verified_bytes"].as_u64().unwrap_or(0)
}

/// What the records beside the part say is there.
fn durable_bytes(world: &World, size: u64) -> u64 {
    let state = std::fs::metadata(world.path("got/.image.raw.shoal-state"));
    let state = state.expect("the records are there");
    let chunk_bytes = (size / (16 * 1024)).next_power_of_two().max(1 << 20);
    (state.len() - 128) / 48 * chunk_bytes
}

fn free_bytes(world: &World) -> u64 {
    let figures = rustix::fs::statvfs(world.path("")).expect("a file system");
    figures.f_bavail * figures.f_frsize
}
