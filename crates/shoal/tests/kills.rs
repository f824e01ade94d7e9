//! SIGKILL at random moments of 200 transfers: of the command that fetches, of the peer that
//! serves, of the peer that receives by order, and of the server.
//!
//! Whatever is killed, a final name is absent or complete at every moment that is looked at, and the
//! same command then completes the file. The moments are random by a seed that each test prints;
//! `SHOAL_TEST_SEED` repeats one. A killed command is one kill per transfer; killing a daemon
//! interrupts a dozen transfers at once, because its partners notice the silence only after
//! seconds: of the 200 transfers, 100 lose their command in as many kills, 40 one of 3 sources, 36
//! their receiver in 3 kills, 24 the server in 2 kills.

mod support;

use std::path::Path;

use support::moments::{Moment, names_in, seeded};
use support::{Daemon, Ended, Server, World, b3sum, noise};

const MIB: u64 = 1 << 20;

#[test]
fn a_get_killed_at_random_moments_of_100_transfers_leaves_no_wrong_file_and_goes_on() {
    let world = World::new();
    let mut random = seeded("get");
    let server = world.server();
    let anna = Source::new(&world, &server, "anna", 10);
    let mut cut = 0;
    for number in 0..100 {
        let file = &anna.files[number % anna.files.len()];
        let folder = format!("got{number}");
        let target = world.path(&folder).join(&file.name);
        let mut getting = start_get(&world, &server, file, &folder);
        let moment = Moment::random(&mut random, file.size);
        moment.wait(&world.path(&folder), || {
            file.assert_absent_or_whole(&target);
            getting.has_ended()
        });
        getting.kill();
        file.assert_absent_or_whole(&target);
        cut += usize::from(
            names_in(&world.path(&folder))
                .iter()
                .any(|n| n.starts_with('.')),
        );
        get(&world, &server, file, &folder).expect(0);
        assert_eq!(b3sum(&target), file.hash, "transfer {number}");
        assert_no_part(&world.path(&folder));
    }
    assert!(cut >= 20, "the kills missed the transfers: {cut}");
}

#[test]
fn three_sources_killed_at_random_moments_of_40_transfers_leave_no_wrong_file() {
    let world = World::new();
    let mut random = seeded("sources");
    let server = world.server();
    let mut sources = [("anna", 14), ("bob", 13), ("carl", 13)]
        .map(|(name, count)| Source::new(&world, &server, name, count));
    let files: Vec<Sample> = sources.iter().flat_map(|one| one.files.clone()).collect();
    let path = world.path("got");
    let mut gets = start_gets(&world, &server, &files, "got");
    for source in &mut sources {
        let moment = Moment::random(&mut random, sum(&files) / 2);
        moment.wait(&path, || {
            assert_absent_or_whole(&files, &path);
            gets.iter_mut().all(Daemon::has_ended)
        });
        source.daemon.kill();
    }
    assert_absent_or_whole(&files, &path);
    for source in &mut sources {
        source.daemon = world.peer(source.name, &server);
    }
    for (getting, file) in gets.iter_mut().zip(&files) {
        let code = getting.wait();
        // It ends whole or as a transfer that failed, never in between.
        assert_eq!(path.join(&file.name).exists(), code == 0, "{}", file.name);
        assert!([0, 3, 8].contains(&code), "{code}: {}", getting.log());
    }
    complete(&world, &server, &files, "got");
    assert_eq!(files.len(), 40);
}

#[test]
fn a_receiver_killed_at_3_random_moments_of_36_orders_leaves_no_wrong_file() {
    let world = World::new();
    let mut random = seeded("receiver");
    let pushed = write_files(&world, "server", 6);
    let server = world.server();
    world.announced_hash("server", &pushed[5].name);
    let anna = Source::new(&world, &server, "anna", 6);
    let mut bob = world.peer("bob", &server);
    let folder = world.files("bob");
    let all = [&anna.files[..], &pushed].concat();
    let mut transfers = 0;
    for _ in 0..3 {
        let order = |file: &Sample| {
            let push = ["push", &file.name, "bob"].map(str::to_owned);
            let transfer = ["transfer", "anna", &file.name, "bob"].map(str::to_owned);
            let is_own = pushed.iter().any(|own| own.name == file.name);
            if is_own {
                push.to_vec()
            } else {
                transfer.to_vec()
            }
        };
        let mut orders: Vec<Daemon> = all
            .iter()
            .map(|file| start_order(&world, &order(file)))
            .collect();
        let moment = Moment::random(&mut random, sum(&all));
        moment.wait(&folder, || {
            assert_absent_or_whole(&all, &folder);
            orders.iter_mut().all(Daemon::has_ended)
        });
        bob.kill();
        assert_absent_or_whole(&all, &folder);
        bob = world.peer("bob", &server);
        for order in &mut orders {
            order.wait();
        }
        for file in &all {
            let order = order(file);
            let order: Vec<&str> = order.iter().map(String::as_str).collect();
            world.ctl(&order).expect(0);
            assert_eq!(b3sum(&folder.join(&file.name)), file.hash);
        }
        assert_no_part(&folder);
        for file in &all {
            std::fs::remove_file(folder.join(&file.name)).unwrap();
        }
        world.ctl(&["rescan", "bob"]).expect(0);
        transfers += all.len();
    }
    assert_eq!(transfers, 36);
}

#[test]
fn a_server_killed_at_2_random_moments_of_24_transfers_between_peers_stops_none_of_them() {
    let world = World::new();
    let mut random = seeded("server");
    let mut server = world.server();
    let mut anna = Source::new(&world, &server, "anna", 12);
    for round in 0..2 {
        let files = anna.files.clone();
        let folder = format!("got{round}");
        let path = world.path(&folder);
        let mut gets = start_gets(&world, &server, &files, &folder);
        let moment = Moment::random(&mut random, sum(&files));
        moment.wait(&path, || {
            assert_absent_or_whole(&files, &path);
            gets.iter_mut().all(Daemon::has_ended)
        });
        // What has begun to write has been told by the server all that it needs.
        let begun = names_in(&path);
        server.daemon.kill();
        assert_absent_or_whole(&files, &path);
        server = world.server_with(&server.address, &[]);
        for (getting, file) in gets.iter_mut().zip(&files) {
            let code = getting.wait();
            let has_begun = begun.iter().any(|name| name.contains(&file.name));
            assert!(code == 0 || !has_begun, "{code}: {}", getting.log());
            assert!([0, 3, 5].contains(&code), "{code}: {}", getting.log());
        }
        assert_absent_or_whole(&files, &path);
        anna.daemon.event("disconnected");
        anna.daemon.event("announced");
        complete(&world, &server, &files, &folder);
    }
}

/// A file as it should arrive.
#[derive(Debug, Clone)]
struct Sample {
    peer: String,
    name: String,
    size: u64,
    hash: String,
}

impl Sample {
    #[track_caller]
    fn assert_absent_or_whole(&self, target: &Path) {
        if target.exists() {
            assert_eq!(b3sum(target), self.hash, "{} is wrong", self.name);
        }
    }
}

/// A peer with files.
struct Source {
    name: &'static str,
    daemon: Daemon,
    files: Vec<Sample>,
}

impl Source {
    fn new(world: &World, server: &Server, name: &'static str, count: u64) -> Self {
        let files = write_files(world, name, count);
        let daemon = world.peer(name, server);
        for file in &files {
            assert_eq!(world.announced_hash(name, &file.name), file.hash);
        }
        Self {
            name,
            daemon,
            files,
        }
    }
}

/// Files from 1 to 4 MiB and a little, that end inside a chunk.
fn write_files(world: &World, node: &str, count: u64) -> Vec<Sample> {
    (0..count)
        .map(|number| {
            let size = (1 + number * 5 % 4) * MIB + number * 977 + 1;
            let content = noise(
                usize::try_from(size).expect("a few MiB"),
                size + node.len() as u64,
            );
            let name = format!("{node}-{number:02}.bin");
            world.write(node, &name, &content);
            let hash = blake3::hash(&content).to_hex().to_string();
            Sample {
                peer: node.to_owned(),
                name,
                size,
                hash,
            }
        })
        .collect()
}

#[track_caller]
fn assert_absent_or_whole(files: &[Sample], folder: &Path) {
    for file in files {
        // Complete files are many looks old: their size is enough until the end.
        let target = folder.join(&file.name);
        if let Ok(metadata) = std::fs::metadata(&target) {
            assert_eq!(metadata.len(), file.size, "{} is not whole", file.name);
        }
    }
}

/// Fetches all of them again, which must leave the right files and nothing beside them.
#[track_caller]
fn complete(world: &World, server: &Server, files: &[Sample], folder: &str) {
    for file in files {
        get(world, server, file, folder).expect(0);
        assert_eq!(b3sum(&world.path(folder).join(&file.name)), file.hash);
    }
    assert_no_part(&world.path(folder));
}

fn typed(server: &Server, file: &Sample, folder: &str) -> Vec<String> {
    let place = format!("{}:{}", file.peer, file.name);
    let typed = [
        "--json",
        "get",
        &place,
        "-o",
        folder,
        "--join",
        &server.join,
    ];
    typed.map(str::to_owned).to_vec()
}

fn get(world: &World, server: &Server, file: &Sample, folder: &str) -> Ended {
    let typed = typed(server, file, folder);
    world.run(&typed.iter().map(String::as_str).collect::<Vec<_>>())
}

fn start_get(world: &World, server: &Server, file: &Sample, folder: &str) -> Daemon {
    let typed = typed(server, file, folder);
    let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
    let log = world.path(&format!("{folder}-{}.log", file.name));
    Daemon::start("get", world.command(&typed), log)
}

fn start_gets(world: &World, server: &Server, files: &[Sample], folder: &str) -> Vec<Daemon> {
    let start = |file| start_get(world, server, file, folder);
    files.iter().map(start).collect()
}

fn start_order(world: &World, order: &[String]) -> Daemon {
    let mut command = world.command(&["--json", "ctl", "--state-dir"]);
    command.arg(world.state("server")).args(order);
    Daemon::start(
        "ctl",
        command,
        world.path(&format!("{}.log", order.join("-"))),
    )
}

fn sum(files: &[Sample]) -> u64 {
    files.iter().map(|file| file.size).sum()
}

#[track_caller]
fn assert_no_part(folder: &Path) {
    let names = names_in(folder);
    let is_part = |name: &&String| name.starts_with('.');
    assert_eq!(names.iter().find(is_part), None, "{names:?}");
}
