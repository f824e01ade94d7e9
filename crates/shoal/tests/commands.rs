//! The one-shot commands that look: `ls`, `search`, `status`, help, completions and man pages.

mod support;

use serde_json::Value;
use support::{World, noise, text};

const COMMANDS: [&str; 10] = [
    "server",
    "peer",
    "ls",
    "search",
    "get",
    "status",
    "ctl",
    "certs",
    "completions",
    "man",
];

#[test]
fn ls_shows_the_server_and_every_peer_with_its_files() {
    let world = World::new();
    world.write("server", "own.txt", "own");
    world.write("anna", "a.txt", "aaaa");
    world.write("anna", "b.txt", "bb");
    let server = world.server();
    world.announced_hash("server", "own.txt");
    let _anna = world.peer("anna", &server);
    let _bob = world.peer("bob", &server);

    let listed = world.run_as("bob", &["ls"]).expect(0).stdout;
    let rows: Vec<&str> = listed.lines().collect();
    assert_eq!(rows.len(), 4, "{listed}");
    assert!(rows[0].starts_with("NAME"), "{listed}");
    assert!(rows[1].starts_with("server"), "{listed}");

    let listed = world.run_as("bob", &["--json", "ls"]).expect(0);
    assert_eq!(listed.event("server")["files"], 1);
    assert_eq!(listed.event("server")["node"], server.node);
    let of = |name: &str| {
        let found = listed.events().into_iter();
        let mut found = found.filter(|event| event["event"] == "peer" && event["name"] == name);
        found.next().expect("the peer is listed")
    };
    assert_eq!(of("anna")["files"], 2);
    assert_eq!(of("anna")["total_bytes"], 6);
    assert_eq!(of("bob")["files"], 0);
}

#[test]
fn ls_of_a_peer_lists_its_files_and_of_a_folder_what_is_below() {
    let world = World::new();
    world.write("anna", "top.txt", "1");
    world.write("anna", "photos/2024/one.jpg", "22");
    world.write("anna", "photos/2024/two.jpg", "333");
    world.write("anna", "photos2/three.jpg", "4444");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "photos/2024/two.jpg");
    world.announced_hash("anna", "photos2/three.jpg");

    let all = world.run(&["--json", "ls", "anna", "--join", &server.join]);
    let all = all.expect(0);
    let expected = [
        "photos/2024/one.jpg",
        "photos/2024/two.jpg",
        "photos2/three.jpg",
        "top.txt",
    ];
    assert_eq!(paths(&all.events()), expected);

    for place in ["anna:photos/2024", "anna:photos/2024/", "anna:photos"] {
        let below = world.run(&["--json", "ls", place, "--join", &server.join]);
        assert_eq!(paths(&below.expect(0).events()), expected[..2], "{place}");
    }
    let shown = world.run(&["ls", "anna:photos2", "--join", &server.join]);
    let shown = shown.expect(0).stdout;
    assert!(shown.contains("photos2/three.jpg"), "{shown}");
    assert!(shown.contains("4 B"), "{shown}");
    let hash = blake3::hash(b"4444").to_hex();
    assert!(shown.contains(&hash[..12]), "{shown}");
}

#[test]
fn ls_names_the_servers_own_files_server() {
    let world = World::new();
    world.write("server", "manual/one.txt", "one");
    let server = world.server();
    world.announced_hash("server", "manual/one.txt");
    let listed = world.run(&["--json", "ls", "server", "--join", &server.join]);
    assert_eq!(paths(&listed.expect(0).events()), ["manual/one.txt"]);
    let listed = world.run(&["ls", "server:manual", "--join", &server.join]);
    assert!(listed.expect(0).stdout.contains("manual/one.txt"));
}

#[test]
fn ls_of_nobody_or_of_nothing_ends_with_code_3() {
    let world = World::new();
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let nobody = world.run_as("anna", &["ls", "nobody"]).expect(3);
    assert!(nobody.stderr.contains("nobody"), "{nobody:?}");
    let nothing = world.run_as("anna", &["ls", "anna:none"]).expect(3);
    assert!(nothing.stderr.contains("shoal ls anna"), "{nothing:?}");
    // A peer that shares nothing yet is there all the same.
    world.run_as("anna", &["ls", "anna"]).expect(0);
    world.run_as("anna", &["ls", "anna:../up"]).expect(2);
}

#[test]
fn a_peer_is_also_named_by_the_first_digits_of_its_id() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let listed = world.run_as("anna", &["--json", "ls"]).expect(0);
    let node = text(&listed.event("peer"), "node");
    for digits in [&node[..], &node[..10]] {
        let listed = world.run_as("anna", &["--json", "ls", digits]).expect(0);
        assert_eq!(paths(&listed.events()), ["a.txt"]);
    }
}

#[test]
fn search_finds_names_anywhere_and_ignores_case() {
    let world = World::new();
    world.write("server", "Reports/May.PDF", "may");
    world.write("anna", "docs/report-june.pdf", "june");
    world.write("anna", "other.txt", "x");
    let server = world.server();
    world.announced_hash("server", "Reports/May.PDF");
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "docs/report-june.pdf");
    let join = ["--join", &server.join];

    let found = world.run(&[&["--json", "search", "REPORT"], &join[..]].concat());
    let mut hits: Vec<(String, String)> = found
        .expect(0)
        .events()
        .iter()
        .filter(|event| event["event"] == "hit")
        .map(|hit| (text(hit, "peer_name"), text(hit, "path")))
        .collect();
    hits.sort();
    let expected = [
        ("anna", "docs/report-june.pdf"),
        ("server", "Reports/May.PDF"),
    ];
    assert_eq!(
        hits,
        expected.map(|(peer, path)| (peer.to_owned(), path.to_owned()))
    );
    let shown = world.run(&[&["search", "june"], &join[..]].concat());
    let shown = shown.expect(0).stdout;
    assert!(shown.contains("anna:docs/report-june.pdf"), "{shown}");

    let limited = world.run(&[&["--json", "search", "report", "--limit", "1"], &join[..]].concat());
    let hits = limited.expect(0).events();
    assert_eq!(
        hits.iter().filter(|event| event["event"] == "hit").count(),
        1
    );
}

#[test]
fn search_for_what_nobody_has_ends_with_code_3() {
    let world = World::new();
    let server = world.server();
    let none = world.run(&["search", "no such thing", "--join", &server.join]);
    let none = none.expect(3);
    assert!(none.stderr.contains("no such thing"), "{none:?}");
}

#[test]
fn files_of_a_peer_that_left_are_shown_as_away() {
    let world = World::new();
    world.write("anna", "kept.txt", "kept");
    let server = world.server();
    let mut anna = world.peer("anna", &server);
    assert_eq!(anna.terminate(), 0);
    let search = ["--json", "search", "kept", "--join", &server.join];
    support::eventually("the server notices", || {
        world.run(&search).expect(0).event("hit")["online"] == false
    });
    let gone = world.run(&["get", "kept.txt", "--join", &server.join]);
    gone.expect(3);
}

#[test]
fn status_shows_this_node_and_its_server() {
    let world = World::new();
    world.write("server", "own.txt", "own");
    world.write("anna", "a.txt", "aaaa");
    let server = world.server();
    world.announced_hash("server", "own.txt");
    let _anna = world.peer("anna", &server);
    let status = world.run_as("anna", &["--json", "status"]).expect(0);
    assert_eq!(status.event("node")["name"], "anna");
    let of_server = status.event("status");
    assert_eq!(of_server["server"], server.node);
    assert_eq!(of_server["address"], server.address);
    assert_eq!(of_server["peers"], 1);
    assert_eq!(of_server["files"], 2);
    assert_eq!(of_server["own_files"], 1);
    let shown = world.run_as("anna", &["status"]).expect(0).stdout;
    assert!(shown.contains("this node   anna"), "{shown}");
    assert!(shown.contains(&server.node), "{shown}");
}

#[test]
fn every_json_event_is_one_object_a_line_with_version_and_name() {
    let world = World::new();
    world.write("anna", "a.bin", noise(3_000_000, 1));
    world.write("anna", "folder/b.txt", "b");
    let server = world.server();
    let mut anna = world.peer("anna", &server);
    world.announced_hash("anna", "a.bin");
    let runs: [&[&str]; 9] = [
        &["ls"],
        &["ls", "anna"],
        &["search", "a"],
        &["search", "none of these"],
        &["status"],
        &["get", "a.bin", "folder", "-o", "got"],
        &["get", "nothing.bin"],
        &["certs"],
        &["certs"],
    ];
    for arguments in runs {
        let arguments = [&["--json"], arguments].concat();
        let ended = if arguments.contains(&"certs") {
            world.run(&arguments)
        } else {
            world.run_as("anna", &arguments)
        };
        let events = ended.events();
        assert!(!events.is_empty(), "{arguments:?} says nothing");
        for event in &events {
            assert!(event.is_object(), "{event}");
            assert_eq!(event["v"], 1, "{event}");
            assert!(event["event"].is_string(), "{event}");
        }
        let last = events.last().expect("not empty");
        if ended.code != 0 {
            assert_eq!(last["event"], "error", "{arguments:?}");
            assert_eq!(last["code"], ended.code, "{arguments:?}");
        }
    }
    let mut by_environment = world.command(&["ls"]);
    by_environment
        .env("SHOAL_JSON", "1")
        .env("SHOAL_PEER_STATE_DIR", world.state("anna"));
    let listed = support::Ended::of(&mut by_environment).expect(0);
    assert_eq!(listed.event("peer")["name"], "anna");
    assert_eq!(anna.terminate(), 0);
}

#[test]
fn help_shows_examples_for_every_command_and_the_exit_codes() {
    let world = World::new();
    for command in COMMANDS {
        let help = world.run(&[command, "--help"]).expect(0).stdout;
        assert!(help.contains("Examples:"), "{command}: {help}");
        assert!(help.contains(&format!("shoal {command}")), "{command}");
    }
    let help = world.run(&["--help"]).expect(0).stdout;
    assert!(help.contains("Exit codes:"), "{help}");
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command}")), "{command}: {help}");
    }
    assert!(
        world
            .run(&["--version"])
            .expect(0)
            .stdout
            .starts_with("shoal ")
    );
}

#[test]
fn a_command_line_with_a_mistake_ends_with_code_2_and_says_where() {
    let world = World::new();
    let mistakes: [(&[&str], &str); 6] = [
        (&[], "Usage"),
        (&["fly"], "fly"),
        (&["ls", "--wings"], "--wings"),
        (&["get"], "<WHAT>"),
        (&["server", "--key", "k.pem"], "--cert"),
        (&["peer", "--no-verify-tls"], "--server-addr"),
    ];
    for (arguments, said) in mistakes {
        let ended = world.run(arguments).expect(2);
        assert!(ended.stderr.contains(said), "{ended:?}");
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn completions_name_every_command_in_three_shells() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.run(&["completions", shell]).expect(0).stdout;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell} lacks {command}");
        }
    }
    world.run(&["completions", "no-shell"]).expect(2);
}

#[test]
fn man_pages_are_printed_and_written_one_per_command() {
    let world = World::new();
    let page = world.run(&["man"]).expect(0).stdout;
    assert!(page.contains(".TH shoal 1"), "{page}");
    assert!(page.contains("Exit codes"), "{page}");
    world.run(&["man", "--dir", "man/man1"]).expect(0);
    assert!(world.path("man/man1/shoal.1").exists());
    for command in COMMANDS {
        let page = world.path(&format!("man/man1/shoal-{command}.1"));
        assert!(page.exists(), "{}", page.display());
    }
}

/// The paths of the files that are listed, sorted as they came.
fn paths(events: &[Value]) -> Vec<String> {
    let files = events.iter().filter(|event| event["event"] == "file");
    files.map(|file| text(file, "path")).collect()
}
