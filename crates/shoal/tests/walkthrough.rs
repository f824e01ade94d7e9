//! The commands of the README, word for word, and how a peer comes to trust its server.
//!
//! Only the port differs: 0 where the text has 8080, so that tests run side by side.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use shoal_wire::JoinTicket;
use support::{Daemon, Ended, Server, World, argument, text};

const FOLDERS_AND_FILES: &str = r#"mkdir -p files server_files
echo "Hello from peer!" > files/test.txt
echo "Server file content" > server_files/server_test.txt
"#;

const LOUD: &str = "TLS VERIFICATION IS OFF";

#[test]
fn the_readmes_commands_work_word_for_word() {
    let world = World::new();
    certificates_by_the_script(&world).expect(0);
    let made = Ended::of(in_folder(&world, Command::new("sh")).args(["-ec", FOLDERS_AND_FILES]));
    made.expect(0);
    let server = server_with_certificate(&world);
    let mut peer = world.command(&[
        "--json",
        "peer",
        "--server-addr",
        &server.address,
        "--no-verify-tls",
    ]);
    peer.env("RUST_LOG", "info");
    let mut peer = Daemon::start("peer", peer, world.path("peer.log"));
    assert_eq!(peer.event("announced")["files"], 1);

    // Server and peer have the same name here, the host's: the peer is the one that is meant.
    // One-shot commands use what the peer remembers, in the default state directory.
    let listed = world.run(&["ls"]).expect(0);
    assert!(listed.stdout.contains("server"), "{listed:?}");
    world
        .run(&["get", "server_test.txt", "-o", "got"])
        .expect(0);
    let got = std::fs::read_to_string(world.path("got/server_test.txt")).unwrap();
    assert_eq!(got, "Server file content\n");
    let peers = world.run(&["--json", "ctl", "peers"]).expect(0);
    let name = text(&peers.event("peer"), "name");
    world.run(&["ctl", "fetch", &name, "test.txt"]).expect(0);
    let fetched = std::fs::read_to_string(world.path("server_files/test.txt")).unwrap();
    assert_eq!(fetched, "Hello from peer!\n");
}

#[test]
fn the_server_listens_where_the_readme_says_unless_told_otherwise() {
    let world = World::new();
    let help = help_of(&world, "server");
    assert!(help.contains("[default: 127.0.0.1:8080]"), "{help}");
    assert!(help.contains("[default: ./server_files]"), "{help}");
    let help = help_of(&world, "peer");
    assert!(help.contains("[default: ./files]"), "{help}");
}

#[test]
fn the_script_without_an_installed_shoal_runs_the_same_command_from_source() {
    let script = std::fs::read_to_string(workspace().join("generate_certs.sh")).unwrap();
    let runs: Vec<&str> = script
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("exec "))
        .collect();
    assert_eq!(
        runs,
        [
            r#"exec shoal certs "$@""#,
            r#"exec cargo run --quiet --manifest-path "$here/Cargo.toml" -- certs "$@""#,
        ]
    );
}

#[test]
fn a_server_key_is_for_its_owner_only_and_never_replaced_unasked() {
    let world = World::new();
    world.run(&["certs"]).expect(0);
    let key = world.path("server.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = std::fs::read(&key).unwrap();
    let refused = world.run(&["certs"]).expect(9);
    assert!(refused.stderr.contains("--overwrite"), "{refused:?}");
    assert_eq!(std::fs::read(&key).unwrap(), first);
    world.run(&["certs", "--overwrite"]).expect(0);
    assert_ne!(std::fs::read(&key).unwrap(), first);
}

#[test]
fn a_peer_that_checks_nothing_says_so_loudly_on_every_start() {
    let world = World::new();
    let server = world.server();
    let arguments = ["--server-addr", &server.address, "--no-verify-tls"];
    for start in [&arguments[..], &arguments[..], &[]] {
        let mut peer = world.start_peer("anna", start);
        let warning = peer.event("warning");
        assert!(text(&warning, "message").contains(LOUD), "{warning}");
        peer.event("announced");
        assert!(peer.log().contains(LOUD), "{}", peer.log());
        assert_eq!(peer.terminate(), 0);
    }
    let one_shot = world.run_as("anna", &["ls"]).expect(0);
    assert!(one_shot.stderr.contains(LOUD), "{one_shot:?}");
}

#[test]
fn a_peer_that_pins_its_server_is_not_warned() {
    let world = World::new();
    let server = world.server();
    let peer = world.peer("anna", &server);
    assert!(!peer.log().contains("warning"), "{}", peer.log());
}

#[test]
fn a_certificate_file_is_trusted_for_localhost_and_its_addresses() {
    let world = World::new();
    world.run(&["certs"]).expect(0);
    let server = server_with_certificate(&world);
    let port = server.address.rsplit(':').next().unwrap();
    for host in ["localhost", "127.0.0.1"] {
        let address = format!("{host}:{port}");
        let arguments = ["--server-addr", &address, "--server-cert", "server.crt"];
        let listed = world.run_as("anna", &[&["ls"], &arguments[..]].concat());
        assert!(!listed.expect(0).stderr.contains("warning"));
        let mut peer = world.start_peer(host, &arguments);
        peer.event("announced");
        assert_eq!(peer.terminate(), 0);
    }
}

#[test]
fn another_certificate_is_refused_with_code_6() {
    let world = World::new();
    world.run(&["certs"]).expect(0);
    let server = server_with_certificate(&world);
    std::fs::create_dir(world.path("other")).unwrap();
    world.run(&["certs", "--dir", "other"]).expect(0);
    let arguments = [
        "--server-addr",
        &server.address,
        "--server-cert",
        "other/server.crt",
    ];
    let refused = world.run(&[&["ls"], &arguments[..]].concat()).expect(6);
    assert!(refused.stderr.contains("certificate"), "{refused:?}");
    let mut peer = world.start_peer("anna", &arguments);
    assert_eq!(peer.event("error")["code"], 6);
    assert_eq!(peer.wait(), 6);
}

#[test]
fn the_systems_roots_do_not_vouch_for_a_self_signed_server() {
    let world = World::new();
    let server = world.server();
    let refused = world.run(&["ls", "--server-addr", &server.address]);
    let refused = refused.expect(6);
    assert!(refused.stderr.contains("--join"), "{refused:?}");
}

#[test]
fn a_ticket_pins_the_servers_key() {
    let world = World::new();
    let first = world.server_named("first", "127.0.0.1:0", &[]);
    let address = first.address.clone();
    let ticket = first.join.clone();
    world.run(&["ls", "--join", &ticket]).expect(0);
    drop(first);
    // Another key at the very same address.
    let second = world.server_named("second", &address, &[]);
    assert_ne!(second.join, ticket);
    let refused = world.run(&["ls", "--join", &ticket]).expect(6);
    assert!(!refused.stderr.is_empty());
    world.run(&["ls", "--join", &second.join]).expect(0);
}

#[test]
fn a_servers_identity_survives_its_restart_so_that_pins_stay_valid() {
    let world = World::new();
    let first = world.server();
    let (node, ticket, address) = (
        first.node.clone(),
        first.join.clone(),
        first.address.clone(),
    );
    drop(first);
    let again = world.server_with(&address, &[]);
    assert_eq!(again.node, node);
    // The pass for the relay in a ticket holds for a time, so only the rest stays the same.
    let pinned = |ticket: &str| {
        let ticket: JoinTicket = ticket.parse().unwrap();
        (ticket.server, ticket.addresses)
    };
    assert_eq!(pinned(&again.join), pinned(&ticket));
    world.run(&["ls", "--join", &ticket]).expect(0);
}

#[test]
fn a_peer_remembers_its_server_and_its_name() {
    let world = World::new();
    let server = world.server();
    let mut peer = world.peer("anna", &server);
    assert_eq!(peer.terminate(), 0);
    let mut again = world.start_peer("anna", &[]);
    again.event("announced");
    let listed = world.run_as("anna", &["--json", "ls"]).expect(0);
    assert_eq!(listed.event("peer")["name"], "anna");
    // The pin holds also for a bare address: it is not weakened to the system's roots.
    let by_address = ["ls", "--server-addr", &server.address];
    world.run_as("anna", &by_address).expect(0);
}

#[test]
fn a_peer_without_a_server_is_told_how_to_name_one() {
    let world = World::new();
    let failed = world.run(&["peer"]).expect(2);
    assert!(failed.stderr.contains("--join"), "{failed:?}");
    assert!(failed.stderr.contains("--server-addr"), "{failed:?}");
}

/// The help of a command, without line breaks.
fn help_of(world: &World, command: &str) -> String {
    let help = world.run(&[command, "--help"]).expect(0).stdout;
    help.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs the real script in the test's folder, with the built program as the installed one.
fn certificates_by_the_script(world: &World) -> Ended {
    let program = Path::new(env!("CARGO_BIN_EXE_shoal"));
    let folder = program.parent().expect("a program has a folder");
    let others = std::env::var("PATH").unwrap_or_default();
    let script = Command::new(workspace().join("generate_certs.sh"));
    let path = format!("{}:{others}", argument(folder));
    Ended::of(in_folder(world, script).env("PATH", path))
}

fn in_folder(world: &World, mut command: Command) -> Command {
    command
        .current_dir(world.path(""))
        .env("HOME", world.path(""));
    command
}

/// The README's server command, on a free port.
fn server_with_certificate(world: &World) -> Server {
    let mut command = world.command(&[
        "--json",
        "server",
        "--key",
        "server.key",
        "--cert",
        "server.crt",
        "--addr",
        "127.0.0.1:0",
    ]);
    command.env("RUST_LOG", "info");
    std::fs::create_dir_all(world.path("server_files")).expect("make a folder");
    let mut daemon = Daemon::start("server", command, world.path("server.log"));
    let listening = daemon.event("listening");
    Server {
        address: text(&listening, "address"),
        node: text(&listening, "server"),
        join: text(&listening, "join"),
        daemon,
    }
}

fn workspace() -> &'static Path {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    crates.and_then(Path::parent).expect("crates/shoal")
}
