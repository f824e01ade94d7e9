//! Folders as trees: what is kept of every entry, what is chosen, and what a crash costs.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::XattrFlags;
use rustix::process::Signal;
use support::{Daemon, Server, World, argument, b3sum, eventually, noise};

#[test]
fn folders_empty_ones_and_links_arrive_with_their_times_and_modes() {
    let world = World::new();
    world.write("anna", "tree/a/file.txt", "content");
    let tree = world.files("anna").join("tree");
    std::fs::create_dir_all(tree.join("empty/inside")).unwrap();
    symlink("a/file.txt", tree.join("to-file")).unwrap();
    symlink("/nowhere/at all", tree.join("dangling")).unwrap();
    for (folder, mode, seconds) in [("a", 0o750, 1_000_000), ("empty/inside", 0o711, 2_000_000)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(tree.join(folder), permissions).unwrap();
        set_mtime(&tree.join(folder), seconds);
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);

    let without = get(&world, &server, &["anna:tree", "-o", "without"]).expect(0);
    let not_kept: Vec<_> = without
        .events()
        .into_iter()
        .filter(|event| event["event"] == "not_kept" && event["what"] == "link")
        .collect();
    assert_eq!(not_kept.len(), 2);
    assert!(without.stderr.is_empty(), "{without:?}");
    assert!(
        world
            .path("without/tree/to-file")
            .symlink_metadata()
            .is_err()
    );

    get(&world, &server, &["anna:tree", "-o", "got", "--links"]).expect(0);
    let got = world.path("got/tree");
    for (link, held) in [("to-file", "a/file.txt"), ("dangling", "/nowhere/at all")] {
        assert_eq!(std::fs::read_link(got.join(link)).unwrap(), Path::new(held));
    }
    for (folder, mode, seconds) in [("a", 0o750, 1_000_000), ("empty/inside", 0o711, 2_000_000)] {
        let metadata = std::fs::metadata(got.join(folder)).unwrap();
        assert_eq!(
            (metadata.mode() & 0o777, metadata.mtime()),
            (mode, seconds),
            "{folder}"
        );
    }
    let again = get(&world, &server, &["anna:tree", "-o", "got", "--links"]).expect(0);
    assert_eq!(again.event("done")["failed"], 0);
}

#[test]
fn owner_and_attributes_are_kept_on_request() {
    let world = World::new();
    let file = world.write("anna", "tree/file", "content");
    let large = world.write("anna", "tree/large", noise(3 << 20, 5));
    let opened = std::fs::File::open(&file).unwrap();
    let has_xattrs = rustix::fs::fsetxattr(&opened, "user.note", b"kept", XattrFlags::empty());
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&file, Some(12_345), Some(54_321)).unwrap();
        std::os::unix::fs::chown(&large, Some(12_345), Some(54_321)).unwrap();
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    // In the way, to be replaced with all that is kept.
    std::fs::create_dir_all(world.path("got")).unwrap();
    std::fs::write(world.path("got/file"), "another").unwrap();
    for (what, folder) in [("anna:tree", "got/tree"), ("anna:tree/file", "got")] {
        get(
            &world,
            &server,
            &[what, "-o", "got", "--owner", "--xattrs", "--overwrite"],
        )
        .expect(0);
        let got = std::fs::File::open(world.path(folder).join("file")).unwrap();
        if has_xattrs.is_ok() {
            let mut value = [0; 16];
            let len = rustix::fs::fgetxattr(&got, "user.note", &mut value).unwrap();
            assert_eq!(&value[..len], b"kept");
        }
        if is_root {
            let metadata = got.metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (12_345, 54_321));
            let large = std::fs::metadata(world.path("got/tree/large")).unwrap();
            assert_eq!((large.uid(), large.gid()), (12_345, 54_321));
        }
    }
}

#[test]
fn what_is_not_chosen_stays_where_it_is() {
    let world = World::new();
    for path in ["a.jpg", "raw/b.jpg", "raw/c.png", "notes/d.txt"] {
        world.write("anna", &format!("photos/{path}"), path);
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let chosen = [
        "anna:photos",
        "-o",
        "got",
        "--include",
        "*.jpg",
        "--exclude",
        "a.*",
    ];
    let got = get(&world, &server, &chosen).expect(0);
    assert_eq!(got.event("done")["fetched"], 1);
    assert!(world.path("got/photos/raw/b.jpg").exists());
    assert!(!world.path("got/photos/notes").exists());
    let modified = |folder: &Path| std::fs::metadata(folder).unwrap().modified().unwrap();
    let original = world.files("anna").join("photos/raw");
    assert_eq!(modified(&world.path("got/photos/raw")), modified(&original));
    let wrong = get(
        &world,
        &server,
        &["anna:photos", "--include", "[", "-o", "no"],
    );
    wrong.expect(2);
}

#[test]
fn a_dry_run_tells_what_would_happen_and_does_nothing() {
    let world = World::new();
    world.write("anna", "tree/new", "12345");
    world.write("anna", "tree/same", "same");
    world.write("anna", "tree/other", "of anna");
    symlink("new", world.files("anna").join("tree/link")).unwrap();
    for (name, content) in [("same", "same"), ("other", "different here")] {
        let path = world.path("got/tree").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    for name in ["new", "same", "other"] {
        world.announced_hash("anna", &format!("tree/{name}"));
    }
    let plan = get(&world, &server, &["anna:tree", "-o", "got", "--dry-run"]).expect(0);
    let plan = plan.event("plan");
    assert_eq!((&plan["fetch"], &plan["bytes"]), (&1.into(), &5.into()));
    assert_eq!(
        (&plan["up_to_date"], &plan["differs"]),
        (&1.into(), &1.into())
    );
    assert!(!world.path("got/tree/new").exists());
    let typed = [
        "get",
        "anna:tree",
        "-o",
        "got",
        "--dry-run",
        "--overwrite",
        "--join",
    ];
    let told = world.run(&[&typed[..], &[&server.join]].concat()).expect(0);
    assert!(told.stdout.contains("1 replacing others"), "{told:?}");
    assert_eq!(
        std::fs::read(world.path("got/tree/other")).unwrap(),
        b"different here"
    );
}

#[test]
fn a_file_in_the_way_fails_alone_and_gives_way_only_when_asked() {
    let world = World::new();
    for number in 0..30 {
        world.write(
            "anna",
            &format!("tree/{number}"),
            format!("content {number}"),
        );
    }
    let there = world.path("got/tree/7");
    std::fs::create_dir_all(there.parent().unwrap()).unwrap();
    std::fs::write(&there, "mine").unwrap();
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let first = get(&world, &server, &["anna:tree", "-o", "got"]).expect(9);
    let done = first.event("done");
    assert_eq!((&done["fetched"], &done["failed"]), (&29.into(), &1.into()));
    assert_eq!(std::fs::read(&there).unwrap(), b"mine");
    let second = get(&world, &server, &["anna:tree", "-o", "got", "--overwrite"]).expect(0);
    assert_eq!(second.event("done")["failed"], 0);
    assert_eq!(std::fs::read(&there).unwrap(), b"content 7");
    assert_eq!(std::fs::read_dir(world.path("got")).unwrap().count(), 1);
}

#[test]
fn a_killed_fetch_of_a_tree_goes_on_and_leaves_no_wrong_file() {
    let world = World::new();
    for number in 0..3_000_u64 {
        let length = 1 + (number as usize * 37) % 20_000;
        let path = format!("tree/{}/{number}", number % 40);
        world.write("anna", &path, noise(length, number));
    }
    world.write("anna", "tree/large.bin", noise(24 << 20, 99));
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let tree = world.path("got/tree");
    for files_first in [1, 400, 1_500] {
        let typed = [
            "--json",
            "get",
            "anna:tree",
            "-o",
            "got",
            "--join",
            &server.join,
        ];
        let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
        eventually("some files are there", || count(&tree) >= files_first);
        getting.signal(Signal::KILL);
        getting.wait();
    }
    let last = get(&world, &server, &["anna:tree", "-o", "got"]).expect(0);
    assert_eq!(last.event("done")["failed"], 0);
    assert_eq!(count(&tree), 3_001);
    for number in 0..3_000_u64 {
        let path = format!("{}/{number}", number % 40);
        let original = world.files("anna").join("tree").join(&path);
        assert_eq!(b3sum(&original), b3sum(&tree.join(&path)), "{path}");
    }
    let names: Vec<_> = std::fs::read_dir(world.path("got")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

fn get(world: &World, server: &Server, arguments: &[&str]) -> support::Ended {
    let join = ["--join", &server.join];
    world.run(&[&["--json", "get"], arguments, &join].concat())
}

fn set_mtime(path: &Path, seconds: u64) {
    let folder = std::fs::File::open(argument(path)).expect("open a folder");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    folder.set_modified(time).expect("set a time");
}

/// The finished files below a folder.
fn count(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let each = entries.flatten().map(|entry| {
        let name = entry.file_name();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => count(&entry.path()),
            Ok(_) if !name.as_encoded_bytes().starts_with(b".") => 1,
            _ => 0,
        }
    });
    each.sum()
}
