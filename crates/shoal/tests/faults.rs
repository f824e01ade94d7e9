//! Bad input and bad luck as the user of the command line meets them: names that play tricks,
//! folders that cannot be written, sources that die, certificates that are over.

mod support;

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use support::disk::skipped;
use support::{CTRL_D, Daemon, Ended, Server, Terminal, World, b3sum, eventually, noise, text};

/// Names that travel: CSI as one character, a bidirectional override, a zero-width space, bytes
/// that are not UTF-8 and would be CSI in Latin-1.
const TRICKS: [(&[u8], &str); 4] = [
    (b"csi\xc2\x9b31m.txt", "csi\\u{9b}31m.txt"),
    (b"bidi\xe2\x80\xaefdp.txt", "bidi\\u{202e}fdp.txt"),
    (b"zero\xe2\x80\x8bwidth.txt", "zero\\u{200b}width.txt"),
    (b"raw\x9b31m\xff.txt", "raw\\x9b31m\\xff.txt"),
];

#[test]
fn names_with_tricks_are_escaped_wherever_they_are_shown() {
    let world = World::new();
    for (name, _) in TRICKS {
        write(&world.files("anna"), name, name);
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let join = ["--join", &server.join];
    announced(&world, "anna", TRICKS.len());
    let commands: [&[&str]; 2] = [&["ls", "anna"], &["search", "txt"]];
    for command in commands {
        let ended = world.run(&[command, &join[..]].concat()).expect(0);
        assert_shown_escaped(&ended.stdout);
    }
    for order in [&["files"][..], &["list", "anna"]] {
        let shown = world.ctl(order).expect(0).stdout;
        // The control socket speaks JSON, which has no bytes that are not text.
        assert_shown_escaped(&shown.replace("raw\u{fffd}31m\u{fffd}", "raw\\x9b31m\\xff"));
    }

    let mut get = world.command(&["get", "-o", "got"]);
    for (name, _) in TRICKS {
        get.arg(OsStr::from_bytes(&[b"anna:", name].concat()));
    }
    let got = Ended::of(get.args(join));
    // What is typed on a command line is text; other bytes are reached by folder or hash.
    assert_plain(&got.stderr);
    assert_plain(&got.stdout);

    let mut bob = at_prompt(&world, &server);
    for line in ["list anna", "files txt"] {
        bob.asks(line, "csi\\u{9b}31m.txt");
    }
    bob.press(CTRL_D);
    assert_eq!(bob.wait(), 0);
}

#[test]
fn names_that_no_system_should_store_are_not_offered_and_named_escaped_in_the_log() {
    let world = World::new();
    for name in ["esc\u{1b}[31m.txt", "two\nlines.txt", "<script>.txt"] {
        world.write("anna", name, name);
    }
    world.write("anna", "plain.txt", "plain");
    let server = world.server();
    let anna = world.peer("anna", &server);
    world.announced_hash("anna", "plain.txt");
    assert_eq!(world.ctl_json(&["files"]).expect(0).events().len(), 1);
    let log = anna.log();
    assert!(log.contains("files are not offered"), "{log}");
    for shown in ["esc\\u{1b}[31m.txt", "two\\nlines.txt", "<script>.txt"] {
        // The log quotes the backslash once more where it quotes the whole text.
        assert!(log.replace("\\\\", "\\").contains(shown), "{log}");
    }
    assert_plain(&log);
}

#[test]
fn bytes_that_are_not_utf8_and_twin_names_arrive_byte_for_byte() {
    let world = World::new();
    let names: [&[u8]; 6] = [
        b"caf\xe9.txt",
        b"\xff\xfe.bin",
        "caf\u{e9}.txt".as_bytes(),
        "cafe\u{301}.txt".as_bytes(),
        b"README",
        b"ReadMe",
    ];
    for name in names {
        write(&world.files("anna").join("set"), name, name);
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    announced(&world, "anna", names.len());
    let typed = ["get", "anna:set", "-o", "got", "--join", &server.join];
    let got = world.run(&typed).expect(0);
    // This disk keeps twins apart; that others would not is said.
    assert!(got.stderr.contains("one file on other systems"), "{got:?}");
    for name in names {
        let copy = world.path("got/set").join(OsStr::from_bytes(name));
        assert_eq!(std::fs::read(copy).unwrap(), name);
    }
    assert_eq!(
        std::fs::read_dir(world.path("got/set")).unwrap().count(),
        names.len()
    );
}

#[test]
fn a_folder_that_may_not_be_written_is_named_and_the_get_works_once_it_may() {
    // Only root can become somebody else to try it.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    world.write("anna", "a.bin", noise(2_000_000, 1));
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "a.bin");
    let program = world.path("shoal");
    std::fs::copy(env!("CARGO_BIN_EXE_shoal"), &program).unwrap();
    for (folder, mode) in [("", 0o755), ("got", 0o755), ("stranger", 0o777)] {
        std::fs::create_dir_all(world.path(folder)).unwrap();
        set_mode(&world.path(folder), mode);
    }
    let get = || {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(["get", "a.bin", "-o", "got", "--join", &server.join])
            .args(["--state-dir", "stranger/state"])
            .env("HOME", world.path("stranger"))
            .current_dir(world.path(""));
        Ended::of(&mut command)
    };
    let refused = get().expect(11);
    assert!(refused.stderr.contains("got"), "{refused:?}");
    assert!(refused.stderr.contains("permission"), "{refused:?}");
    assert_eq!(std::fs::read_dir(world.path("got")).unwrap().count(), 0);
    set_mode(&world.path("got"), 0o777);
    get().expect(0);
    assert_eq!(b3sum(&world.path("got/a.bin")), hash);
}

#[test]
fn a_target_on_a_read_only_mount_is_a_clear_error() {
    // Only root mounts, and not everywhere.
    let mut probe = Command::new("unshare");
    let may_mount = probe.args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]);
    if !may_mount.status().is_ok_and(|status| status.success()) {
        return;
    }
    let world = World::new();
    world.write("anna", "a.bin", noise(2_000_000, 1));
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "a.bin");
    std::fs::create_dir(world.path("got")).unwrap();
    let script = "mount -t tmpfs -o ro none got; exec \"$0\" \"$@\"";
    let mut get = Command::new("unshare");
    get.args(["-m", "sh", "-ec", script])
        .arg(env!("CARGO_BIN_EXE_shoal"))
        .args(["get", "a.bin", "-o", "got", "--join", &server.join])
        .env("HOME", world.path(""))
        .current_dir(world.path(""));
    let refused = Ended::of(&mut get).expect(11);
    assert!(refused.stderr.contains("got"), "{refused:?}");
    assert!(
        refused.stderr.contains("its disk is writable"),
        "{refused:?}"
    );
    let typed = ["get", "a.bin", "-o", "got", "--join", &server.join];
    world.run(&typed).expect(0);
    assert_eq!(b3sum(&world.path("got/a.bin")), hash);
}

#[test]
fn a_target_folder_deleted_during_a_get_is_a_clear_error_and_the_next_get_completes() {
    let world = World::new();
    world.write("anna", "big.bin", noise(192 << 20, 2));
    let server = world.server();
    let anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let typed = [
        "--json",
        "get",
        "big.bin",
        "-o",
        "got",
        "--join",
        &server.join,
    ];
    let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
    eventually("some of it is on the disk", || {
        written_bytes(&world.path("got")) > 16 << 20
    });
    anna.signal(Signal::STOP);
    std::fs::remove_dir_all(world.path("got")).unwrap();
    anna.signal(Signal::CONT);
    let error = getting.event("error");
    let message = text(&error, "message");
    assert!(
        message.contains("taken away") || message.contains("got"),
        "{error}"
    );
    assert!([8, 11].contains(&getting.wait()), "{error}");
    assert!(!world.path("got").exists());
    world.run(&typed).expect(0);
    assert_eq!(b3sum(&world.path("got/big.bin")), hash);
}

#[test]
fn a_hundred_thousand_files_of_a_peer_are_announced_and_found() {
    let world = World::new();
    let files = world.files("anna");
    for folder in 0..100 {
        let folder = files.join(format!("holiday-{folder:03}"));
        std::fs::create_dir(&folder).unwrap();
        let first = folder.join("img_0000.jpg");
        std::fs::write(&first, "").unwrap();
        for number in 1..1000 {
            // Another name for a file is made faster than another file.
            std::fs::hard_link(&first, folder.join(format!("img_{number:04}.jpg"))).unwrap();
        }
    }
    let server = world.server();
    let mut anna = world.start_peer("anna", &["--join", &server.join, "--name", "anna"]);
    assert_eq!(anna.event("announced")["files"], 100_000);
    let status = world.ctl_json(&["status"]).expect(0).event("status");
    assert_eq!(status["files"], 100_000);
    let typed = ["--json", "search", "087/IMG_0412", "--join", &server.join];
    let hit = world.run(&typed).expect(0).event("hit");
    assert_eq!(text(&hit, "path"), "holiday-087/img_0412.jpg");
    // A message over its cap would have ended a connection.
    let log = format!("{}{}", anna.log(), server.daemon.log());
    assert_eq!(log, "");
    let listed = world.ctl_json(&["list", "anna", "holiday-042"]).expect(0);
    assert_eq!(listed.events().len(), 1000);
}

#[test]
fn a_source_that_is_killed_gives_way_to_another_with_the_same_content() {
    loses_its_first_source(Daemon::kill);
}

#[test]
fn a_source_that_falls_silent_gives_way_to_another_with_the_same_content() {
    loses_its_first_source(|source| source.signal(Signal::STOP));
}

fn loses_its_first_source(lose: impl Fn(&mut Daemon)) {
    let world = World::new();
    let content = noise(192 << 20, 3);
    world.write("anna", "data.bin", &content);
    world.write("bob", "copy.bin", &content);
    let server = world.server();
    let mut daemons = [world.peer("anna", &server), world.peer("bob", &server)];
    let hash = world.announced_hash("anna", "data.bin");
    world.announced_hash("bob", "copy.bin");
    let typed = ["--json", "get", &hash, "-o", "got", "--join", &server.join];
    let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
    let progress = getting.event("progress");
    let first = usize::from(progress["sources"][0] != "anna");
    eventually("some of it is on the disk", || {
        written_bytes(&world.path("got")) > 16 << 20
    });
    lose(&mut daemons[first]);
    let is_whole = |entry: std::io::Result<std::fs::DirEntry>| {
        !entry
            .expect("read the folder")
            .file_name()
            .to_string_lossy()
            .starts_with('.')
    };
    let whole = std::fs::read_dir(world.path("got"))
        .expect("read the folder")
        .any(is_whole);
    assert!(!whole, "it was over before the kill");
    assert_eq!(getting.event("done")["fetched"], 1);
    assert_eq!(getting.wait(), 0);
    let arrived = std::fs::read_dir(world.path("got")).expect("read the folder");
    let arrived: Vec<PathBuf> = arrived
        .map(|entry| entry.expect("read the folder").path())
        .collect();
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    assert_eq!(b3sum(&arrived[0]), hash);
}

#[test]
fn an_expired_certificate_is_refused_with_code_6_even_when_it_is_listed() {
    let world = World::new();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut parameters = rcgen::CertificateParams::new(names).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(world.path("old.key"), key.serialize_pem()).unwrap();
    std::fs::write(world.path("old.crt"), certificate.pem()).unwrap();
    let shown = ["--key", "old.key", "--cert", "old.crt"];
    let server = world.server_with("127.0.0.1:0", &shown);
    let typed = ["--server-addr", &server.address, "--server-cert", "old.crt"];
    let refused = world.run(&[&["ls"], &typed[..]].concat()).expect(6);
    assert!(refused.stderr.contains("expired"), "{refused:?}");
    let mut peer = world.start_peer("anna", &typed);
    assert_eq!(peer.event("error")["code"], 6);
    assert_eq!(peer.wait(), 6);
}

#[test]
fn a_server_shows_no_certificate_over_a_weak_key() {
    let world = World::new();
    let mut make = Command::new("openssl");
    make.args([
        "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-days", "9",
    ])
    .args([
        "-subj",
        "/CN=localhost",
        "-keyout",
        "weak.key",
        "-out",
        "weak.crt",
    ])
    .current_dir(world.path(""));
    if !make.output().is_ok_and(|made| made.status.success()) {
        return skipped("openssl makes no weak key here");
    }
    let typed = [
        "server",
        "--addr",
        "127.0.0.1:0",
        "--key",
        "weak.key",
        "--cert",
        "weak.crt",
    ];
    let refused = world
        .run(&[&typed[..], &["--files-dir", "."]].concat())
        .expect(6);
    assert!(refused.stderr.contains("key"), "{refused:?}");
}

#[track_caller]
fn assert_shown_escaped(shown: &str) {
    for (_, escaped) in TRICKS {
        assert!(shown.contains(escaped), "{escaped} is not in {shown:?}");
    }
    assert_plain(shown);
}

/// Nothing in it moves a cursor, changes a colour or turns text around.
#[track_caller]
fn assert_plain(shown: &str) {
    let is_trick = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}".contains(c);
    assert_eq!(shown.find(is_trick), None, "{shown:?}");
}

/// Waits until so many files of a peer are announced with their hash.
fn announced(world: &World, peer: &str, count: usize) {
    eventually("every file is announced with its hash", || {
        let events = world.ctl_json(&["files"]).expect(0).events();
        let hashed = events
            .iter()
            .filter(|event| event["peer_name"] == peer && event["hash"].is_string());
        hashed.count() == count
    });
}

fn at_prompt(world: &World, server: &Server) -> Terminal {
    let (files, state) = (world.files("bob"), world.state("bob"));
    let mut command = world.command(&["peer", "--join", &server.join, "--name", "bob"]);
    command.arg("--files-dir").arg(files);
    command.arg("--state-dir").arg(state);
    let mut terminal = Terminal::start(&command);
    terminal.shows("shoal> ");
    terminal
}

fn write(folder: &Path, name: &[u8], content: &[u8]) {
    std::fs::create_dir_all(folder).expect("make a folder");
    std::fs::write(folder.join(OsStr::from_bytes(name)), content).expect("write a file");
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("change a mode");
}

/// What the files in a folder take on the disk.
fn written_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let files = entries.filter_map(|entry| entry.ok()?.metadata().ok());
    files.map(|file| file.blocks() * 512).sum()
}
