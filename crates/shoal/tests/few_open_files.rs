//! Processes that may open only a few files: transfers wait for each other or say what is wrong,
//! nothing crashes or stays broken, and nothing is withdrawn for it.

mod support;

use std::process::{Command, Stdio};

use support::moments::files_below;
use support::{Daemon, Ended, Server, World, b3sum, noise, text};

/// Open files that a process may have: an idle peer takes about half of them.
const FEW: u32 = 48;

#[test]
fn a_peer_with_few_open_files_serves_many_receivers_one_after_the_other() {
    let world = World::new();
    for number in 0..32_u64 {
        world.write("anna", &format!("set/{number}.bin"), noise(2 << 20, number));
    }
    let server = world.server();
    let mut anna = start_peer(&world, &server, "anna");
    anna.event("announced");
    for number in 0..32 {
        world.announced_hash("anna", &format!("set/{number}.bin"));
    }
    let mut fetches: Vec<Daemon> = (0..32)
        .map(|number| {
            let place = format!("anna:set/{number}.bin");
            let typed = ["--json", "get", &place, "-o", "got", "--join", &server.join];
            let log = world.path(&format!("get{number}.log"));
            Daemon::start("get", world.command(&typed), log)
        })
        .collect();
    for fetch in &mut fetches {
        assert_eq!(fetch.wait(), 0, "{}\n{}", fetch.log(), anna.log());
    }
    for number in 0..32 {
        let name = format!("{number}.bin");
        let original = world.files("anna").join("set").join(&name);
        assert_eq!(b3sum(&world.path("got").join(&name)), b3sum(&original));
    }
    let rescanned = world.ctl_json(&["rescan", "anna"]).expect(0);
    assert_eq!(rescanned.event("rescanned")["files"], 32);
    assert_eq!(anna.terminate(), 0);
}

#[test]
fn a_fetch_with_few_open_files_brings_a_tree_and_many_files() {
    let world = World::new();
    for number in 0..160_u64 {
        let path = format!("tree/{number}/small");
        world.write("anna", &path, noise(3_000, number));
    }
    for number in 0..12_u64 {
        let path = format!("tree/{number}/large.bin");
        world.write("anna", &path, noise((2 << 20) + 5, number));
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let join = ["--join", &server.join];
    let tree = ["--json", "get", "anna:tree", "-o", "got"];
    Ended::of(&mut limited(&world.command(&[&tree[..], &join].concat()))).expect(0);
    let original = world.files("anna").join("tree");
    let files = files_below(&original);
    assert_eq!(files_below(&world.path("got/tree")), files);
    for file in files {
        let copy = world.path("got/tree").join(&file);
        assert_eq!(b3sum(&copy), b3sum(&original.join(&file)));
    }
    let places: Vec<String> = (0..12).map(|n| format!("anna:tree/{n}")).collect();
    let mut typed = vec!["--json", "get", "-o", "flat"];
    typed.extend(places.iter().map(String::as_str));
    typed.extend(join);
    Ended::of(&mut limited(&world.command(&typed))).expect(0);
    assert_eq!(files_below(&world.path("flat")).len(), 24);
}

#[test]
fn a_server_with_few_open_files_carries_out_many_orders_at_once() {
    let world = World::new();
    let server = start_server(&world);
    let peers: Vec<Daemon> = ["anna", "bob", "carl"]
        .map(|name| world.peer(name, &server))
        .into();
    let orders: Vec<_> = (0..60)
        .map(|_| {
            let mut order = world.command(&["ctl", "--state-dir"]);
            order.arg(world.state("server")).arg("peers");
            let order = order.stdout(Stdio::piped()).stderr(Stdio::piped());
            order.spawn().expect("start a command")
        })
        .collect();
    for order in orders {
        let output = order.wait_with_output().expect("wait for a command");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        assert!(
            ["anna", "bob", "carl"]
                .iter()
                .all(|name| told.contains(name))
        );
    }
    drop(peers);
}

fn start_server(world: &World) -> Server {
    let mut command = world.command(&["--json", "server", "--addr", "127.0.0.1:0"]);
    command.arg("--files-dir").arg(world.files("server"));
    command.arg("--state-dir").arg(world.state("server"));
    let mut daemon = Daemon::start("server", limited(&command), world.path("server.log"));
    let listening = daemon.event("listening");
    Server {
        address: text(&listening, "address"),
        node: text(&listening, "server"),
        join: text(&listening, "join"),
        daemon,
    }
}

fn start_peer(world: &World, server: &Server, name: &str) -> Daemon {
    let (files, state) = (world.files(name), world.state(name));
    let mut command = world.command(&["--json", "peer", "--join", &server.join, "--name", name]);
    command.arg("--files-dir").arg(files);
    command.arg("--state-dir").arg(state);
    Daemon::start(name, limited(&command), world.path(&format!("{name}.log")))
}

/// The same command with a low limit that it cannot raise.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={FEW}:{FEW}"));
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    limited.stdin(Stdio::null());
    limited
}
