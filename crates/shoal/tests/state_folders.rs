//! State folders that lie below what is shared, or where something would be received: they hold
//! keys, and are nobody's to see or to write into, by whatever way they are reached.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::disk::skipped;
use support::{Daemon, Ended, Server, World, argument, b3sum, eventually};

const KEY: &str = "identity.pem";

#[test]
fn a_peer_that_shares_its_home_offers_neither_its_own_keys_nor_a_servers() {
    let world = World::new();
    let server = server_with_state(&world, "home/.local/state/shoal/server");
    write(&world, "home/.profile", "profile");
    write(&world, "home/.local/share/notes", "notes");
    let state = "home/.local/state/shoal/peer";
    let _anna = peer(&world, &server, ("home", state));
    let shown = listed(&world, &server, &[".local/share/notes"]);
    assert_eq!(shown, [".local/share/notes", ".profile"]);
    let nowhere = ["peer", "server"].map(|role| format!(".local/state/shoal/{role}"));
    for folder in &nowhere {
        let key = world.path("home").join(folder).join(KEY);
        assert!(key.exists(), "{}", key.display());
        let hash = b3sum(&key);
        for wanted in [
            format!("anna:{folder}/{KEY}"),
            hash.clone(),
            hash[..12].to_owned(),
        ] {
            let got = as_bob(&world, &server, &["get", &wanted, "-o", "stolen"]);
            assert_eq!(got.code, 3, "{wanted}: {got:?}");
        }
        as_bob(
            &world,
            &server,
            &["get", &format!("anna:{folder}"), "-o", "stolen"],
        )
        .expect(3);
    }
    let found = as_bob(&world, &server, &["search", "identity"]);
    assert!(!found.stdout.contains("identity"), "{found:?}");
    as_bob(&world, &server, &["get", "anna:.local", "-o", "tree"]).expect(0);
    assert!(world.path("tree/.local/share/notes").exists());
    for folder in &nowhere {
        assert!(!world.path("tree").join(folder).exists(), "{folder}");
    }
    assert!(!world.path("stolen").join(KEY).exists());
}

#[test]
fn a_state_folder_is_known_by_what_it_is_and_not_by_its_path() {
    let world = World::new();
    let server = world.server();
    fs::create_dir_all(world.path("home/real")).unwrap();
    symlink("home/real", world.path("through")).unwrap();
    symlink("home", world.path("other-home")).unwrap();
    write(&world, "home/note", "note");
    let mounted = Mounted::bind(&world, "home/real/state", "home/mount");
    let _anna = peer(&world, &server, ("other-home", "through/state"));
    assert_eq!(listed(&world, &server, &["note"]), ["note"]);
    // The same under another name, while it is in use.
    drop(mounted);
    fs::rename(world.path("home/real"), world.path("home/renamed")).unwrap();
    fs::rename(world.path("home/renamed/state"), world.path("home/s")).unwrap();
    write(&world, "home/after", "after");
    assert_eq!(listed(&world, &server, &["after"]), ["after", "note"]);
    // A copy holds the same key, also where only that was copied.
    fs::create_dir(world.path("home/copy")).unwrap();
    fs::copy(
        world.path("home/s").join(KEY),
        world.path("home/copy").join(KEY),
    )
    .unwrap();
    write(&world, "home/last", "last");
    let shown = listed(&world, &server, &["last"]);
    assert_eq!(shown, ["after", "last", "note"]);
    let hash = b3sum(&world.path("home/s").join(KEY));
    as_bob(&world, &server, &["get", &hash, "-o", "stolen"]).expect(3);
}

#[test]
fn a_server_whose_state_lies_below_its_files_does_not_offer_it() {
    let world = World::new();
    write(&world, "own/manual", "manual");
    let server = started_server(&world, ("own", "own/.state"));
    let shown = eventually_listed(&world, &server, "server", &["manual"]);
    assert_eq!(shown, ["manual"]);
    let hash = b3sum(&world.path("own/.state").join(KEY));
    for wanted in [&format!("server:.state/{KEY}"), &hash, &KEY.to_owned()] {
        let got = as_bob(&world, &server, &["get", wanted, "-o", "stolen"]);
        assert_eq!(got.code, 3, "{wanted}: {got:?}");
    }
}

#[test]
fn nothing_is_pushed_fetched_or_received_into_a_state_folder() {
    let world = World::new();
    for file in [
        "state/settings.toml",
        "state/new",
        "state/deep/new",
        "plain/new",
    ] {
        world.write("server", file, "from elsewhere");
    }
    let server = world.server();
    for file in ["state/settings.toml", "state/deep/new", "plain/new"] {
        world.announced_hash("server", file);
    }
    let state = world.path("home/state");
    let _anna = peer(&world, &server, ("home", "home/state"));
    world.ctl(&["push", "plain/new", "anna"]).expect(0);
    assert!(world.path("home/plain/new").exists());
    let before = names_in(&state);
    for file in ["state/settings.toml", "state/new", "state/deep/new"] {
        let pushed = world.ctl(&["push", "--overwrite", file, "anna"]).expect(7);
        assert!(pushed.stderr.contains("keeps its keys"), "{pushed:?}");
    }
    world.ctl(&["push", "--overwrite", "state", "anna"]);
    for (into, more) in [(&state, ""), (&state, "deep/er")] {
        let into = into.join(more);
        let wanted = ["get", "plain/new", "-o", argument(&into)];
        let got = as_bob(&world, &server, &wanted).expect(11);
        assert!(got.stderr.contains("keeps its keys"), "{got:?}");
    }
    assert_eq!(names_in(&state), before);
    let settings = fs::read_to_string(state.join("settings.toml")).unwrap();
    assert!(!settings.contains("elsewhere"), "{settings}");
}

#[test]
fn a_state_folder_is_not_sent_and_nothing_sent_lands_in_one() {
    let world = World::new();
    write(&world, "home/note", "note");
    let state = world.path("home/state");
    let mut command = world.command(&["--json", "send", "--state-dir", argument(&state)]);
    command.arg(world.path("home"));
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    let ticket = support::text(&anna.event("offer"), "ticket");
    let warning = anna.event("warning");
    let said = support::text(&warning, "message");
    assert!(
        said.contains("home/state") && said.contains("keys"),
        "{said}"
    );
    let receive = |into: &str| {
        let mut command = world.command(&["--json", "receive", "-y", "-o", into]);
        command.arg("--state-dir").arg(world.state("bob"));
        Ended::of(command.env("SHOAL_CODE", &ticket))
    };
    receive("got").expect(0);
    assert_eq!(names_in(&world.path("got/home")), ["note"]);
    let refused = receive(argument(&world.state("bob").join("in"))).expect(11);
    assert!(refused.stderr.contains("keeps its keys"), "{refused:?}");
    assert!(!world.state("bob").join("in").exists());
    for named in [state.clone(), state.join(KEY)] {
        let refused = world.run_as("carl", &["send", argument(&named)]).expect(11);
        assert!(refused.stderr.contains("keeps its keys"), "{refused:?}");
    }
    // What comes through a pipe is kept there, and sent all the same.
    receive_piped(&world, &state);
}

/// `shoal send -` and `shoal receive -o -`, each with its own state.
fn receive_piped(world: &World, state: &Path) {
    let file = write(world, "input", "through a pipe");
    let mut command = world.command(&["--json", "send", "-", "--name", "x", "--once"]);
    command
        .arg("--state-dir")
        .arg(state.with_file_name("piping"));
    command.stdin(fs::File::open(file).expect("what the test sets up"));
    let mut sender = Daemon::start("sender", command, world.path("sender.log"));
    let ticket = support::text(&sender.event("offer"), "ticket");
    let mut command = world.command(&["receive", "-y", "-o", "-"]);
    command.arg("--state-dir").arg(world.state("dora"));
    let got = Ended::of(command.env("SHOAL_CODE", ticket)).expect(0);
    assert_eq!(got.stdout, "through a pipe");
}

/// Starts a server with its files and its state where they are named.
fn started_server(world: &World, (files, state): (&str, &str)) -> Server {
    let mut command = world.command(&["--json", "server", "--addr", "127.0.0.1:0", "--hidden"]);
    command.arg("--files-dir").arg(world.path(files));
    command.arg("--state-dir").arg(world.path(state));
    let mut daemon = Daemon::start("server", command, world.path("server.log"));
    let listening = daemon.event("listening");
    let field = |name: &str| support::text(&listening, name);
    Server {
        address: field("address"),
        node: field("server"),
        join: field("join"),
        daemon,
    }
}

fn server_with_state(world: &World, state: &str) -> Server {
    started_server(world, ("server_files", state))
}

/// Starts a peer called anna with its files and its state where they are named.
fn peer(world: &World, server: &Server, (files, state): (&str, &str)) -> Daemon {
    let mut command = world.command(&["--json", "peer", "--hidden", "--name", "anna"]);
    command.args(["--join", &server.join]);
    command.arg("--files-dir").arg(world.path(files));
    command.arg("--state-dir").arg(world.path(state));
    let mut daemon = Daemon::start("anna", command, world.path("anna.log"));
    daemon.event("announced");
    daemon
}

fn as_bob(world: &World, server: &Server, arguments: &[&str]) -> Ended {
    let more = ["--join", server.join.as_str()];
    world.run_as("bob", &[arguments, &more].concat())
}

/// What anna offers, once it has `awaited`.
fn listed(world: &World, server: &Server, awaited: &[&str]) -> Vec<String> {
    eventually_listed(world, server, "anna", awaited)
}

fn eventually_listed(world: &World, server: &Server, of: &str, awaited: &[&str]) -> Vec<String> {
    let mut paths = Vec::new();
    eventually("the listing has what is awaited", || {
        let shown = as_bob(world, server, &["--json", "ls", &format!("{of}:")]);
        let files = shown
            .events()
            .into_iter()
            .filter(|one| one["event"] == "file");
        paths = files
            .filter_map(|file: Value| file["path"].as_str().map(str::to_owned))
            .collect();
        paths.sort();
        awaited
            .iter()
            .all(|one| paths.iter().any(|path| path == one))
    });
    paths
}

fn write(world: &World, path: &str, content: &str) -> PathBuf {
    let file = world.path(path);
    fs::create_dir_all(file.parent().expect("what the test sets up"))
        .expect("what the test sets up");
    fs::write(&file, content).expect("what the test sets up");
    file
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("what the test sets up");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("what the test sets up")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        // The database writes beside itself as it likes.
        .filter(|name| !name.starts_with("hashes.db-"))
        .collect();
    names.sort();
    names
}

/// A folder that is mounted at another place too; only where that is allowed.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(world: &World, folder: &str, at: &str) -> Option<Self> {
        let (folder, at) = (world.path(folder), world.path(at));
        fs::create_dir_all(&folder).expect("what the test sets up");
        let mut mount = Command::new("mount");
        fs::create_dir_all(&at).expect("what the test sets up");
        let mounted = mount.arg("--bind").args([&folder, &at]).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at)),
            _ => {
                skipped("a folder cannot be mounted twice here: without that part");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}
