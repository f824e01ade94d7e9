//! The prompt of a peer and the progress of a fetch, on a real (pseudo-)terminal.

mod support;

use std::path::Path;

use rustix::process::Signal;
use support::{ARROW_UP, CTRL_C, CTRL_D, Server, Terminal, World, b3sum, eventually, noise};

#[test]
fn every_command_of_the_prompt_answers() {
    let world = World::new();
    world.write("server", "manual.txt", "manual");
    world.write("anna", "docs/report.pdf", noise(1_200_000, 1));
    world.write("bob", "own.txt", "own");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "docs/report.pdf");
    world.announced_hash("server", "manual.txt");
    let mut bob = at_prompt(&world, &server, "bob");
    world.announced_hash("bob", "own.txt");

    let help = bob.asks("help", "quit ");
    for command in [
        "announce",
        "scan",
        "list",
        "files",
        "request",
        "get",
        "status",
        "transfers",
        "peers",
    ] {
        assert!(help.contains(&format!("  {command} ")), "{help}");
    }
    bob.asks("transfers", "nothing has moved yet");
    bob.asks("list", "own.txt");
    bob.asks("list anna", "docs/report.pdf");
    bob.asks("list server", "manual.txt");
    bob.asks("files", "manual.txt");
    bob.asks("files report", "anna:docs/report.pdf");
    bob.asks("peers", "anna");
    bob.asks("status", "shares      1 file(s)");
    bob.asks("request report.pdf", &hash);
    bob.asks("get report.pdf", "fetched");
    assert_eq!(b3sum(&world.files("bob").join("report.pdf")), hash);
    bob.asks("transfers", "from anna");
    world.write("bob", "new.txt", "new");
    bob.asks("scan", "3 file(s)");
    bob.asks("announce", "file(s) are announced");
    world.announced_hash("bob", "new.txt");
    bob.asks("get nothing-like-it", "nothing-like-it");
    bob.asks("fly", "'fly' is not understood like this: type 'help'");
    bob.asks("get", "'get' is not understood like this");
    bob.enter("quit");
    assert_eq!(bob.wait(), 0);
}

#[test]
fn tab_completes_commands_peers_and_names() {
    let world = World::new();
    world.write("anna", "a.txt", "a");
    world.write("bob", "unmistakable.txt", "b");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "a.txt");
    let mut bob = at_prompt(&world, &server, "bob");
    world.announced_hash("bob", "unmistakable.txt");
    // The names are learnt with each new prompt.
    bob.asks("peers", "anna");
    bob.press("tran\t");
    bob.shows("transfers");
    bob.enter("");
    bob.shows("nothing has moved yet");
    bob.shows("shoal> ");
    bob.press("request ann\t");
    bob.shows("request anna:");
    bob.enter("a.txt");
    bob.shows(&blake3::hash(b"a").to_hex());
    bob.shows("shoal> ");
    bob.press("request unmis\t");
    bob.shows("request unmistakable.txt");
    bob.press(CTRL_C);
    bob.shows("(Ctrl-D or 'quit' ends the peer)");
    bob.shows("shoal> ");
    bob.press(CTRL_D);
    assert_eq!(bob.wait(), 0);
}

#[test]
fn the_arrow_up_brings_back_what_was_typed_also_after_a_restart() {
    let world = World::new();
    let server = world.server();
    let mut bob = at_prompt(&world, &server, "bob");
    bob.asks("transfers", "nothing has moved yet");
    bob.press(ARROW_UP);
    bob.enter("");
    bob.shows("nothing has moved yet");
    bob.shows("shoal> ");
    bob.press(CTRL_D);
    assert_eq!(bob.wait(), 0);
    let mut bob = at_prompt(&world, &server, "bob");
    bob.press(ARROW_UP);
    bob.enter("");
    bob.shows("nothing has moved yet");
    bob.shows("shoal> ");
    bob.press(CTRL_D);
    assert_eq!(bob.wait(), 0);
}

#[test]
fn ctrl_c_stops_a_fetch_resumably_and_the_prompt_lives() {
    let world = World::new();
    let content = noise(128 << 20, 2);
    world.write("anna", "big.bin", &content);
    let server = world.server();
    let anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let mut bob = at_prompt(&world, &server, "bob");
    let folder = world.files("bob");
    bob.enter("get big.bin");
    eventually("some of it is on the disk", || {
        part_bytes(&folder) > 16 << 20
    });
    // Held still, the provider cannot be faster than the interrupt.
    anna.signal(Signal::STOP);
    bob.press(CTRL_C);
    bob.shows("interrupted: run the same command again to go on");
    bob.shows("shoal> ");
    assert!(!folder.join("big.bin").exists());
    assert!(part_bytes(&folder) > 0);
    anna.signal(Signal::CONT);
    bob.asks("get big.bin", "fetched");
    assert_eq!(b3sum(&folder.join("big.bin")), hash);
    let shown = bob.asks("transfers", "done");
    assert!(shown.contains("from anna"), "{shown}");
    assert_eq!(part_bytes(&folder), 0);
    bob.press(CTRL_D);
    assert_eq!(bob.wait(), 0);
}

#[test]
fn what_happens_to_the_peer_is_told_above_the_prompt() {
    let world = World::new();
    let mut server = world.server();
    let mut bob = at_prompt(&world, &server, "bob");
    assert_eq!(server.daemon.terminate(), 0);
    bob.shows("not connected: ");
    bob.asks("peers", "not connected to the server at the moment");
    bob.press(CTRL_D);
    assert_eq!(bob.wait(), 0);
}

#[test]
fn a_get_on_a_terminal_draws_its_progress_and_elsewhere_prints_plain_lines() {
    let world = World::new();
    world.write("anna", "big.bin", noise(96 << 20, 3));
    let server = world.server();
    let anna = world.peer("anna", &server);
    world.announced_hash("anna", "big.bin");
    let get = |folder| world.command(&["get", "big.bin", "-o", folder, "--join", &server.join]);
    let mut on_terminal = Terminal::start(&get("one"));
    eventually("some of it is on the disk", || {
        part_bytes(&world.path("one")) > 8 << 20
    });
    // Held still for some draws: then it shows a rate and a time.
    anna.signal(Signal::STOP);
    on_terminal.shows("from anna");
    on_terminal.shows("MiB/96.00 MiB");
    on_terminal.shows("/s");
    on_terminal.shows("left");
    anna.signal(Signal::CONT);
    on_terminal.shows("fetched");
    on_terminal.shows("1 file(s)");
    assert_eq!(on_terminal.wait(), 0);
    assert!(on_terminal.raw().contains(&0x1b));

    let plain = support::Ended::of(&mut get("two")).expect(0);
    assert!(plain.stdout.starts_with("fetched"), "{plain:?}");
    assert_eq!(plain.stdout.lines().count(), 2, "{plain:?}");
    for text in [&plain.stdout, &plain.stderr] {
        assert!(!text.contains(['\u{1b}', '\r']), "{plain:?}");
    }
}

/// Starts a peer on a terminal and waits for its prompt and its announce.
fn at_prompt(world: &World, server: &Server, name: &str) -> Terminal {
    let (files, state) = (world.files(name), world.state(name));
    let mut command = world.command(&["peer", "--join", &server.join, "--name", name]);
    command.arg("--files-dir").arg(files);
    command.arg("--state-dir").arg(state);
    let mut terminal = Terminal::start(&command);
    terminal.shows("Ctrl-D to quit");
    terminal.shows("shoal> ");
    terminal
}

/// What an unfinished file in a folder takes on the disk.
fn part_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let hidden = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        is_hidden.then_some(entry.metadata().ok()?.blocks() * 512)
    });
    hidden.sum()
}
