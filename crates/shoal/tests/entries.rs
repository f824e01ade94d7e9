//! What each entry of a large tree costs in memory: a million of them must fit.

mod support;

use std::fs;

use support::{Daemon, Server, World, eventually};

/// Memory that a process may have at its peak with a million files, in bytes.
const MOST_BYTES: u64 = 300 << 20;
/// Of these, what a process needs however few the files are: content on its way, threads, windows
/// of the network.
const FIXED_BYTES: u64 = 84 << 20;
/// And what fills with the first some ten thousand files and then grows no more: the page cache of
/// a database.
const CACHES_BYTES: u64 = 16 << 20;
/// What is left for each of a million files, in bytes.
const PER_FILE_BYTES: u64 = (MOST_BYTES - FIXED_BYTES - CACHES_BYTES) / 1_000_000;

/// Trees that are compared: the first is long enough for every queue to be in use.
const FEW: u64 = 5_000;
const MANY: u64 = 30_000;

/// Peak resident memory of the three processes, in bytes.
#[derive(Debug)]
struct Peaks {
    server: u64,
    peer: u64,
    get: u64,
}

#[test]
fn a_million_files_fit_into_the_memory_of_each_process() {
    let (few, many) = (peaks(FEW), peaks(MANY));
    for (name, few, many) in [
        ("server", few.server, many.server),
        ("peer", few.peer, many.peer),
        ("get", few.get, many.get),
    ] {
        let per_file = many.saturating_sub(few + CACHES_BYTES) / (MANY - FEW);
        assert!(
            few <= FIXED_BYTES && per_file <= PER_FILE_BYTES,
            "{name}: {few} bytes with {FEW} files, {many} with {MANY}: {per_file} for each"
        );
    }
}

fn peaks(files: u64) -> Peaks {
    let world = World::new();
    let tree = world.files("anna").join("tree");
    for number in 0..files {
        let folder = tree.join(format!("{:03}", number / 1000));
        if number % 1000 == 0 {
            fs::create_dir_all(&folder).expect("make a folder");
        }
        let file = folder.join(format!("file-{number:06}.txt"));
        fs::write(file, format!("{number}")).expect("write a file");
    }
    let server = world.server();
    let anna = world.peer("anna", &server);
    let get = peak_of_get(&world, &server);
    let got = world.path("got/tree");
    let last = got.join(format!(
        "{:03}/file-{:06}.txt",
        (files - 1) / 1000,
        files - 1
    ));
    let content = fs::read_to_string(last).expect("the last file");
    assert_eq!(content, (files - 1).to_string());
    Peaks {
        server: peak_bytes(server.daemon.id()).expect("a server that runs"),
        peer: peak_bytes(anna.id()).expect("a peer that runs"),
        get,
    }
}

/// Fetches the tree and looks at the memory of it until it ends.
fn peak_of_get(world: &World, server: &Server) -> u64 {
    let mut command = world.command(&["get", "anna:tree", "-o", "got", "--join", &server.join]);
    // Not synced, so that what else the disk does is not waited for.
    command.arg("--no-sync");
    command.arg("--state-dir").arg(world.state("getter"));
    let mut get = Daemon::start("get", command, world.path("get.log"));
    let mut peak = 0;
    eventually("the tree is fetched", || {
        peak = peak_bytes(get.id()).unwrap_or(0).max(peak);
        get.has_ended()
    });
    assert_eq!(get.wait(), 0, "{}", get.log());
    peak
}

/// The peak resident memory of a process, in bytes; `None` where it has ended.
fn peak_bytes(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}
