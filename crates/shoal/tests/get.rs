//! `shoal get`: every way to name a file, what arrives, and what is left alone.

mod support;

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::{Server, World, b3sum, noise, text};

#[test]
fn a_file_is_fetched_by_every_name_it_has() {
    let world = World::new();
    let content = noise(2_500_000, 1);
    world.write("anna", "docs/report.pdf", &content);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "docs/report.pdf");
    assert_eq!(hash, blake3::hash(&content).to_hex().as_str());
    let names = [
        "report.pdf",
        "docs/report.pdf",
        "./docs/report.pdf",
        "anna:docs/report.pdf",
        &hash[..6],
        &hash[..12],
        &hash,
    ];
    for (number, name) in names.into_iter().enumerate() {
        let folder = format!("got{number}");
        let got = get(&world, &server, &[name, "-o", &folder]);
        assert_eq!(got.event("got")["outcome"], "fetched", "{name}");
        assert_eq!(got.event("got")["hash"], hash, "{name}");
        assert_eq!(got.event("done")["fetched"], 1, "{name}");
        assert_eq!(b3sum(&world.path(&folder).join("report.pdf")), hash);
    }
}

#[test]
fn a_file_fetched_without_syncs_and_compression_is_the_same_and_has_nothing_beside_it() {
    let world = World::new();
    let content = noise(3_500_000, 77);
    world.write("anna", "film.bin", &content);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "film.bin");
    let wanted = ["film.bin", "-o", "got", "--no-sync", "--no-compress"];
    let got = get(&world, &server, &wanted);
    assert_eq!(got.event("got")["hash"], hash);
    assert_eq!(b3sum(&world.path("got").join("film.bin")), hash);
    assert_eq!(std::fs::read_dir(world.path("got")).unwrap().count(), 1);
}

#[test]
fn a_file_of_the_server_is_fetched_by_its_name_and_by_the_servers() {
    let world = World::new();
    let content = noise(1_200_000, 2);
    world.write("server", "manual.bin", &content);
    let server = world.server();
    world.announced_hash("server", "manual.bin");
    for (name, folder) in [("manual.bin", "one"), ("server:manual.bin", "two")] {
        let got = get(&world, &server, &[name, "-o", folder]);
        assert_eq!(got.event("progress")["sources"][0], "server");
        let file = world.path(folder).join("manual.bin");
        assert_eq!(std::fs::read(file).unwrap(), content);
    }
}

#[test]
fn a_folder_arrives_as_the_same_tree() {
    let world = World::new();
    let names = [
        "a.txt",
        "deep/er/and/deeper/b.bin",
        "empty",
        "with spaces/and more .txt",
        "ünïcödé/日本語/😀.txt",
        "-dash",
        "50%.txt",
    ];
    for (number, name) in names.iter().enumerate() {
        let bytes = if *name == "empty" { 0 } else { 70_000 * number };
        let file = world.write("anna", &format!("tree/{name}"), noise(bytes, number as u64));
        let mode = if number % 2 == 0 { 0o755 } else { 0o600 };
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let mtime = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000 + number as u64, 123_000);
        let file = File::options().write(true).open(&file).unwrap();
        file.set_modified(mtime).unwrap();
    }
    world.write("anna", "beside.txt", "not asked for");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let got = get(&world, &server, &["anna:tree", "-o", "got"]);
    assert_eq!(got.event("done")["fetched"], names.len());
    assert_eq!(got.event("done")["failed"], 0);
    for name in names {
        let original = world.files("anna").join("tree").join(name);
        let copy = world.path("got/tree").join(name);
        assert_same(&original, &copy);
    }
    assert!(!world.path("got/beside.txt").exists());
    assert_eq!(count_files(&world.path("got")), names.len());

    // By its bare name too, and again: everything is there.
    let again = get(&world, &server, &["tree", "-o", "got"]);
    assert_eq!(again.event("done")["up_to_date"], names.len());
    assert_eq!(again.event("done")["bytes"], 0);
    let part = get(&world, &server, &["tree/deep/er", "-o", "part"]);
    assert_eq!(part.event("done")["fetched"], 1);
    assert!(world.path("part/er/and/deeper/b.bin").exists());
}

#[test]
fn a_folder_of_the_server_arrives_as_a_tree_too() {
    let world = World::new();
    world.write("server", "set/a", "a");
    world.write("server", "set/b/c", "c");
    let server = world.server();
    world.announced_hash("server", "set/b/c");
    let got = get(&world, &server, &["server:set", "-o", "got"]);
    assert_eq!(got.event("done")["fetched"], 2);
    assert_eq!(std::fs::read(world.path("got/set/b/c")).unwrap(), b"c");
}

#[test]
fn an_ambiguous_name_lists_its_candidates_and_fetches_nothing() {
    let world = World::new();
    world.write("anna", "notes.txt", "of anna");
    world.write("bob", "notes.txt", "of bob");
    world.write("server", "notes.txt", "of the server");
    let server = world.server();
    let (_anna, _bob) = (world.peer("anna", &server), world.peer("bob", &server));
    for node in ["anna", "bob", "server"] {
        world.announced_hash(node, "notes.txt");
    }
    let typed = ["get", "notes.txt", "-o", "got", "--join", &server.join];
    let refused = world.run(&typed).expect(4);
    assert!(refused.stderr.contains("PEER:PATH"), "{refused:?}");
    for node in ["anna", "bob", "server"] {
        let candidate = format!("{node}:notes.txt");
        assert!(refused.stdout.contains(&candidate), "{refused:?}");
    }
    assert_eq!(count_files(&world.path("got")), 0);

    let refused = world.run(&[&["--json"], &typed[..]].concat()).expect(4);
    let events = refused.events();
    let mut candidates = events
        .iter()
        .filter(|event| event["event"] == "candidate")
        .map(|event| format!("{}:{}", text(event, "peer_name"), text(event, "path")))
        .collect::<Vec<_>>();
    candidates.sort();
    assert_eq!(candidates.len(), 3);
    assert_eq!(refused.event("error")["code"], 4);
    // Each can be asked for as it was listed.
    for (number, candidate) in candidates.iter().enumerate() {
        let folder = format!("got{number}");
        let got = get(&world, &server, &[candidate, "-o", &folder]);
        assert_eq!(got.event("done")["fetched"], 1, "{candidate}");
    }
}

#[test]
fn the_same_content_at_two_peers_is_one_file_from_two_sources() {
    let world = World::new();
    let content = noise(3_000_000, 3);
    world.write("anna", "data.bin", &content);
    world.write("bob", "other/name.bin", &content);
    let server = world.server();
    let (mut anna, _bob) = (world.peer("anna", &server), world.peer("bob", &server));
    let hash = world.announced_hash("anna", "data.bin");
    assert_eq!(world.announced_hash("bob", "other/name.bin"), hash);
    for (name, folder) in [("data.bin", "one"), (&hash[..10], "two")] {
        let got = get(&world, &server, &[name, "-o", folder]);
        assert_eq!(got.event("done")["fetched"], 1, "{name}");
        assert_eq!(count_files(&world.path(folder)), 1);
    }
    // It is still there when one of the two is not.
    assert_eq!(anna.terminate(), 0);
    let got = get(&world, &server, &[&hash, "-o", "three"]);
    let name = text(&got.event("got"), "path");
    assert_eq!(b3sum(&world.path("three").join(name)), hash);
}

#[test]
fn the_same_name_with_the_same_content_is_not_ambiguous() {
    let world = World::new();
    world.write("anna", "same.txt", "same");
    world.write("bob", "same.txt", "same");
    let server = world.server();
    let (_anna, _bob) = (world.peer("anna", &server), world.peer("bob", &server));
    world.announced_hash("anna", "same.txt");
    world.announced_hash("bob", "same.txt");
    let got = get(&world, &server, &["same.txt", "-o", "got"]);
    assert_eq!(got.event("done")["fetched"], 1);
}

#[test]
fn what_nobody_has_ends_with_code_3_and_leaves_nothing() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    for name in [
        "nothing.bin",
        "anna:nothing.bin",
        "nobody:a.txt",
        "0123456789",
    ] {
        let typed = ["get", name, "-o", "got", "--join", &server.join];
        let failed = world.run(&typed).expect(3);
        assert!(failed.stderr.contains(name), "{failed:?}");
        assert_eq!(count_files(&world.path("got")), 0);
    }
    let upwards = ["get", "anna:../a.txt", "--join", &server.join];
    world.run(&upwards).expect(2);
}

#[test]
fn a_different_file_at_the_target_is_untouched_until_overwrite_is_said() {
    let world = World::new();
    world.write("anna", "report.txt", "new");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "report.txt");
    std::fs::create_dir(world.path("got")).unwrap();
    let target = world.path("got/report.txt");
    std::fs::write(&target, "mine, and different").unwrap();
    let typed = ["get", "report.txt", "-o", "got", "--join", &server.join];
    let refused = world.run(&typed).expect(9);
    assert!(refused.stderr.contains("--overwrite"), "{refused:?}");
    assert_eq!(std::fs::read(&target).unwrap(), b"mine, and different");
    assert_eq!(count_files(&world.path("got")), 1);

    let got = get(&world, &server, &["report.txt", "-o", "got", "--overwrite"]);
    assert_eq!(got.event("got")["outcome"], "fetched");
    assert_eq!(std::fs::read(&target).unwrap(), b"new");
    let again = get(&world, &server, &["report.txt", "-o", "got"]);
    assert_eq!(again.event("got")["outcome"], "up_to_date");
    assert_eq!(again.event("done")["bytes"], 0);
    let shown = world.run(&typed).expect(0).stdout;
    assert!(shown.contains("up to date"), "{shown}");
}

#[test]
fn a_folder_at_the_target_is_never_replaced() {
    let world = World::new();
    world.write("anna", "thing", "a file");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "thing");
    std::fs::create_dir_all(world.path("got/thing/full")).unwrap();
    let typed = ["get", "thing", "-o", "got", "--join", &server.join];
    for more in [&[][..], &["--overwrite"]] {
        let refused = world.run(&[&typed[..], more].concat());
        assert!([9, 11].contains(&refused.code), "{refused:?}");
        assert!(world.path("got/thing/full").is_dir());
    }
}

#[test]
fn several_names_are_fetched_with_one_command() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    world.write("anna", "tree/b.txt", "b");
    world.write("bob", "c.bin", noise(1_500_000, 4));
    world.write("server", "d.txt", "d");
    let server = world.server();
    let (_anna, _bob) = (world.peer("anna", &server), world.peer("bob", &server));
    world.announced_hash("anna", "tree/b.txt");
    world.announced_hash("bob", "c.bin");
    world.announced_hash("server", "d.txt");
    let wanted = ["a.txt", "anna:tree", "bob:c.bin", "server:d.txt"];
    let got = get(&world, &server, &[&wanted[..], &["-o", "got"]].concat());
    assert_eq!(got.event("done")["fetched"], 4);
    for file in ["a.txt", "tree/b.txt", "c.bin", "d.txt"] {
        assert!(world.path("got").join(file).exists(), "{file}");
    }
    // One that is not there stops the command before anything moves.
    let typed = ["get", "a.txt", "none", "-o", "none", "--join", &server.join];
    world.run(&typed).expect(3);
    assert_eq!(count_files(&world.path("none")), 0);
}

#[test]
fn one_failed_file_of_several_is_named_and_the_others_arrive() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.write("anna", &format!("tree/{name}"), name);
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "tree/c");
    std::fs::create_dir_all(world.path("got/tree")).unwrap();
    std::fs::write(world.path("got/tree/b"), "in the way").unwrap();
    let typed = ["get", "anna:tree", "-o", "got", "--join", &server.join];
    let ended = world.run(&[&["--json"], &typed[..]].concat()).expect(9);
    assert_eq!(ended.event("failed")["path"], "tree/b");
    let done = ended.event("done");
    let counts = [&done["fetched"], &done["failed"]].map(Value::as_u64);
    assert_eq!(counts, [Some(2), Some(1)]);
    assert_eq!(std::fs::read(world.path("got/tree/c")).unwrap(), b"c");
    let shown = world.run(&typed).expect(9);
    assert!(shown.stderr.contains("1 of 3 files failed"), "{shown:?}");
}

#[test]
fn an_empty_file_is_a_file() {
    let world = World::new();
    world.write("anna", "nothing-in-it", "");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "nothing-in-it");
    assert_eq!(hash, blake3::hash(b"").to_hex().as_str());
    let got = get(&world, &server, &["nothing-in-it", "-o", "got"]);
    assert_eq!(got.event("got")["size"], 0);
    let file = world.path("got/nothing-in-it");
    assert_eq!(std::fs::metadata(file).unwrap().len(), 0);
}

#[test]
fn the_folder_to_put_it_in_is_the_current_one_and_is_made_where_missing() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    get(&world, &server, &["a.txt"]);
    assert_eq!(std::fs::read(world.path("a.txt")).unwrap(), b"a");
    get(&world, &server, &["a.txt", "-o", "new/and/deep"]);
    assert_eq!(
        std::fs::read(world.path("new/and/deep/a.txt")).unwrap(),
        b"a"
    );
    std::fs::write(world.path("file"), "no folder").unwrap();
    let typed = ["get", "a.txt", "-o", "file", "--join", &server.join];
    world.run(&typed).expect(11);
}

#[test]
fn a_peer_that_runs_serves_a_get_with_its_own_identity() {
    let world = World::new();
    world.write("anna", "own.txt", "own");
    world.write("bob", "his.txt", "his");
    let server = world.server();
    let (_anna, _bob) = (world.peer("anna", &server), world.peer("bob", &server));
    world.announced_hash("anna", "own.txt");
    world.announced_hash("bob", "his.txt");
    world
        .run_as("anna", &["get", "his.txt", "-o", "got"])
        .expect(0);
    assert_eq!(std::fs::read(world.path("got/his.txt")).unwrap(), b"his");
    // Its own file is nowhere else.
    let own = world
        .run_as("anna", &["get", "own.txt", "-o", "got"])
        .expect(3);
    assert!(own.stderr.contains("only this node has it"), "{own:?}");
}

/// Runs `shoal --json get ARGUMENTS…` as a node of its own, which must succeed.
#[track_caller]
fn get(world: &World, server: &Server, arguments: &[&str]) -> support::Ended {
    let join = ["--join", &server.join];
    world
        .run(&[&["--json", "get"], arguments, &join].concat())
        .expect(0)
}

/// Content, mode and modification time are the same.
#[track_caller]
fn assert_same(original: &Path, copy: &Path) {
    let shown = copy.display();
    assert_eq!(b3sum(original), b3sum(copy), "{shown}");
    let of = |file: &Path| std::fs::metadata(file).expect("the file is there");
    let (original, copy) = (of(original), of(copy));
    assert_eq!(original.mode(), copy.mode(), "{shown}");
    let mtime = |file: &std::fs::Metadata| (file.mtime(), file.mtime_nsec());
    assert_eq!(mtime(&original), mtime(&copy), "{shown}");
}

/// How many files are below a folder, parts of files included.
fn count_files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let entries = entries.map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| if path.is_dir() { count_files(&path) } else { 1 })
        .sum()
}
