//! People who know each other: kept after a first code, and sent to without one.

mod support;

use support::{Daemon, Ended, Server, Terminal, World, argument, b3sum, eventually, noise, text};

/// Anna sends bob something by ticket, so that each has met the other.
fn meet(world: &World) {
    let file = world.write("anna", "first.txt", "first");
    let mut sending = world.command(&["--json", "send", "--as", "anna", "--once"]);
    sending
        .arg(argument(&file))
        .arg("--state-dir")
        .arg(world.state("anna"));
    let mut anna = Daemon::start("anna", sending, world.path("anna.log"));
    let ticket = text(&anna.event("offer"), "ticket");
    let mut receiving = world.command(&["receive", "-y", "--as", "bob"]);
    receiving.arg("--state-dir").arg(world.state("bob"));
    receiving
        .arg("-o")
        .arg(world.path("bob/first"))
        .env("SHOAL_CODE", ticket);
    Ended::of(&mut receiving).expect(0);
    assert_eq!(anna.wait(), 0);
}

fn contacts(world: &World, who: &str, arguments: &[&str]) -> Ended {
    let typed = [&["--json", "contacts"], arguments].concat();
    world.run_as(who, &typed)
}

/// `shoal send --to bob` by anna.
fn send_to_bob(world: &World, server: &Server, path: &str) -> Ended {
    let typed = [
        "--json",
        "send",
        path,
        "--to",
        "bob",
        "--join",
        &server.join,
    ];
    world.run_as("anna", &typed)
}

#[test]
fn after_a_first_time_no_code_is_needed() {
    let world = World::new();
    meet(&world);
    let met = contacts(&world, "anna", &[]).expect(0).event("met");
    assert_eq!(met["name"], "bob");
    let kept = contacts(&world, "anna", &["add", "bob"])
        .expect(0)
        .event("contact");
    assert_eq!(kept["node"], met["node"]);
    contacts(&world, "bob", &["add", "anna"]).expect(0);
    let file = world.write("anna", "next.bin", noise(3_000_000, 1));
    let server = world.server();
    let away = send_to_bob(&world, &server, argument(&file)).expect(3);
    assert!(away.stderr.contains("bob is not connected"), "{away:?}");

    let _bob = world.peer("bob", &server);
    let asked = send_to_bob(&world, &server, argument(&file)).expect(7);
    assert!(asked.stderr.contains("bob does not take it"), "{asked:?}");
    let inbox = world.path("inbox");
    let accept = [
        "accept",
        "anna",
        "--folder",
        argument(&inbox),
        "--max",
        "4M",
    ];
    contacts(&world, "bob", &accept).expect(0);
    let sent = send_to_bob(&world, &server, argument(&file)).expect(0);
    assert_eq!(sent.event("received")["peer"], "bob");
    assert_eq!(b3sum(&inbox.join("next.bin")), b3sum(&file));
}

#[test]
fn what_is_too_large_for_the_rule_or_comes_from_a_stranger_is_not_taken() {
    let world = World::new();
    meet(&world);
    contacts(&world, "anna", &["add", "bob"]).expect(0);
    let file = world.write("anna", "large.bin", noise(3_000_000, 2));
    let server = world.server();
    let mut bob = world.peer("bob", &server);
    let stranger = send_to_bob(&world, &server, argument(&file)).expect(7);
    assert!(stranger.stderr.contains("does not take it"), "{stranger:?}");
    contacts(&world, "bob", &["add", "anna"]).expect(0);
    contacts(&world, "bob", &["accept", "anna", "--max", "1M"]).expect(0);
    let mut command = world.command(&["--json", "send", argument(&file), "--to", "bob"]);
    command
        .args(["--join", &server.join])
        .arg("--state-dir")
        .arg(world.state("anna"));
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    anna.event("left");
    let refused = bob.event("not_received");
    assert_eq!(refused["peer"], "anna");
    assert!(!world.files("bob").join("large.bin").exists());
    for arguments in [
        &["add", "nobody"][..],
        &["remove", "nobody"],
        &["accept", "nobody"],
    ] {
        contacts(&world, "bob", arguments).expect(3);
    }
    contacts(&world, "bob", &["remove", "anna"]).expect(0);
    let forgotten = send_to_bob(&world, &server, argument(&file)).expect(7);
    assert!(
        forgotten.stderr.contains("does not take it"),
        "{forgotten:?}"
    );
}

#[test]
fn at_the_prompt_a_contact_is_taken_from_when_its_user_says_so() {
    let world = World::new();
    meet(&world);
    contacts(&world, "anna", &["add", "bob"]).expect(0);
    contacts(&world, "bob", &["add", "anna"]).expect(0);
    let server = world.server();
    let mut command = world.command(&["peer", "--join", &server.join, "--name", "bob"]);
    command.arg("--files-dir").arg(world.files("bob"));
    command.arg("--state-dir").arg(world.state("bob"));
    let mut bob = Terminal::start(&command);
    bob.shows("connected to server");
    bob.shows("shoal>");
    let file = world.write("anna", "a.txt", "from anna");
    let mut sending = world.command(&["--json", "send", argument(&file), "--to", "bob"]);
    sending
        .args(["--join", &server.join])
        .arg("--state-dir")
        .arg(world.state("anna"));
    let mut anna = Daemon::start("anna", sending, world.path("anna.log"));
    bob.shows("take anna");
    bob.enter("take anna");
    assert_eq!(anna.wait(), 0);
    let got = world.files("bob").join("a.txt");
    eventually("the file is there", || got.exists());
}
