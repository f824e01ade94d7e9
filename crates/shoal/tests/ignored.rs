//! `.shoalignore` files that cannot be read or understood: they hide, and it is said.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::{Daemon, Server, World, argument, eventually, text};

const RULES: &str = ".shoalignore";

#[test]
fn rules_that_do_not_parse_hide_what_is_below_them_until_they_do() {
    let world = World::new();
    for node in ["anna", "server"] {
        for file in ["open/a", "kept/b", "kept/secret", "kept/deep/c"] {
            world.write(node, file, file);
        }
        world.write(node, &format!("kept/{RULES}"), "secret\n[z-a]\n");
    }
    let server = world.server();
    let anna = world.peer("anna", &server);
    for node in ["anna", "server"] {
        assert_eq!(listed(&world, &server, node, "open/a"), ["open/a"]);
        let wanted = format!("{node}:kept");
        get(&world, &server, &[&wanted, "-o", "got"]).expect(3);
        let wanted = format!("{node}:kept/secret");
        get(&world, &server, &[&wanted, "-o", "got"]).expect(3);
    }
    let log = anna.log();
    assert!(log.contains("line 2 is not a pattern"), "{log}");
    // Something else changes meanwhile: that is no reason to say it again.
    world.write("anna", "open/later", "later");
    listed(&world, &server, "anna", "open/later");
    assert_eq!(anna.log().matches("is not a pattern").count(), 1);
    for node in ["anna", "server"] {
        world.write(node, &format!("kept/{RULES}"), "secret\n");
        let shown = listed(&world, &server, node, "kept/b");
        assert!(
            shown.iter().all(|path| !path.contains("secret")),
            "{shown:?}"
        );
        assert!(shown.contains(&"kept/deep/c".to_owned()), "{shown:?}");
    }
    // And the other way round, while it is shared.
    world.write("anna", &format!("kept/{RULES}"), "secret\na[\n");
    eventually("what is below the rules is hidden again", || {
        let shown = listed(&world, &server, "anna", "open/a");
        !shown.iter().any(|path| path.starts_with("kept"))
    });
}

#[test]
fn rules_that_are_no_text_file_hide_and_hold_nothing_up() {
    let world = World::new();
    let rules = |folder: &str| world.files("anna").join(folder).join(RULES);
    let folders = ["bytes", "folder", "long", "nowhere", "pipe"];
    for folder in folders.into_iter().chain(["fine", "linked"]) {
        world.write("anna", &format!("{folder}/secret"), "secret");
        world.write("anna", &format!("{folder}/shown"), "shown");
    }
    fs::write(rules("bytes"), b"secret\n\xff\xfe\n").unwrap();
    fs::create_dir(rules("folder")).unwrap();
    fs::write(rules("long"), "secret\n".repeat(100_000)).unwrap();
    symlink("nowhere", rules("nowhere")).unwrap();
    make_pipe(&rules("pipe"));
    fs::write(rules("fine"), "\u{feff}secret\r\n").unwrap();
    fs::write(world.path("rules"), "secret\n").unwrap();
    symlink(world.path("rules"), rules("linked")).unwrap();
    // Rules above the folder are not consulted.
    fs::write(world.path("anna").join(RULES), "shown\n[z-a]\n").unwrap();
    let server = world.server();
    let anna = world.peer("anna", &server);
    let shown = listed(&world, &server, "anna", "fine/shown");
    assert_eq!(shown, ["fine/shown", "linked/shown"]);
    let got = get(&world, &server, &["anna:pipe", "-o", "got"]);
    assert_eq!(got.code, 3, "{got:?}");
    assert!(
        anna.log().contains("files are not offered"),
        "{}",
        anna.log()
    );
}

#[test]
fn a_sender_is_told_which_rules_keep_a_folder_out() {
    let world = World::new();
    world.write("anna", "album/a", "a");
    world.write("anna", "album/raw/b", "b");
    world.write("anna", &format!("album/raw/{RULES}"), "{a,b\n");
    let mut command = world.command(&["--json", "send", "--state-dir"]);
    command.arg(world.state("anna"));
    command.arg(argument(&world.files("anna").join("album")));
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    let ticket = text(&anna.event("offer"), "ticket");
    let said = text(&anna.event("warning"), "message");
    assert!(said.contains("album/raw: the .shoalignore"), "{said}");
    let log = anna.log();
    assert!(log.contains("line 1 is not a pattern"), "{log}");
    let mut command = world.command(&["receive", "-y", "-o", "got", "--state-dir"]);
    command.arg(world.state("bob")).env("SHOAL_CODE", ticket);
    support::Ended::of(&mut command).expect(14);
    assert!(world.path("got/album/a").exists());
    assert!(!world.path("got/album/raw").exists());
}

fn make_pipe(at: &Path) {
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, at, kind, mode, 0).expect("a pipe");
}

/// What a node offers, once that has `awaited`.
fn listed(world: &World, server: &Server, node: &str, awaited: &str) -> Vec<String> {
    let mut paths = Vec::new();
    eventually(&format!("{node} offers {awaited}"), || {
        let of = format!("{node}:");
        let wanted = ["--json", "ls", &of, "--join", &server.join];
        let events = world.run_as("bob", &wanted).events();
        let files = events.iter().filter(|one| one["event"] == "file");
        paths = files.map(|file| text(file, "path")).collect();
        paths.sort();
        paths.iter().any(|path| path == awaited)
    });
    paths
}

fn get(world: &World, server: &Server, arguments: &[&str]) -> support::Ended {
    let more = ["--join", server.join.as_str()];
    world.run_as("bob", &[&["get"], arguments, &more].concat())
}
