//! Sending and receiving between two people: codes, tickets, many receivers, and those who guess.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use shoal_wire::OfferTicket;
use shoal_wire::message::Addresses;
use support::people::{receive, send, send_as};
use support::{Daemon, Ended, Server, World, argument, b3sum, noise, text};

fn receive_by_code(world: &World, who: &str, (code, server): (&str, &Server)) -> Command {
    receive(world, who, code, &["-y", "--join", &server.join])
}

#[test]
fn a_code_brings_a_folder_and_a_file_from_one_person_to_another() {
    let world = World::new();
    let big = world.write("anna", "album/big.bin", noise(9_000_000, 1));
    world.write("anna", "album/deep/small", "small");
    world.write("anna", "album/.hidden", "hidden");
    let note = world.write("anna", "note.txt", "a note");
    world.write("anna", "not-sent.txt", "not sent");
    let server = world.server();
    let album = world.files("anna").join("album");
    let paths = ["--once", argument(&album), argument(&note)];
    let (mut anna, offer) = send(&world, Some(&server), &paths);
    let code = text(&offer, "code");
    let bob = Ended::of(&mut receive_by_code(&world, "bob", (&code, &server))).expect(0);
    assert_eq!(bob.event("opened")["peer"], "anna");
    assert_eq!(bob.event("listed")["files"], 4);
    assert_eq!(bob.event("done")["fetched"], 4);
    let got = world.path("bob/got");
    assert_eq!(b3sum(&got.join("album/big.bin")), b3sum(&big));
    for (path, content) in [
        ("album/deep/small", "small"),
        ("album/.hidden", "hidden"),
        ("note.txt", "a note"),
    ] {
        assert_eq!(std::fs::read_to_string(got.join(path)).unwrap(), content);
    }
    assert!(!got.join("not-sent.txt").exists());
    let opened = anna.event("opened");
    assert_eq!(opened["peer"], "bob");
    assert_eq!(opened["route"]["kind"], "direct");
    let received = anna.event("received");
    assert_eq!(
        (&received["peer"], &received["files"]),
        (&"bob".into(), &4.into())
    );
    assert_eq!(anna.event("done")["receivers"], 1);
    assert_eq!(anna.wait(), 0);
}

#[test]
fn a_ticket_needs_no_server_and_ends_when_it_is_revoked_by_the_end_of_its_offer() {
    let world = World::new();
    let file = world.write("anna", "data.bin", noise(3_000_000, 2));
    let (anna, offer) = send(&world, None, &[argument(&file)]);
    assert_eq!(offer["code"], Value::Null);
    let (ticket, url) = (text(&offer, "ticket"), text(&offer, "url"));
    for (who, given) in [("bob", &ticket), ("carl", &url.to_uppercase())] {
        Ended::of(&mut receive(&world, who, given, &["-y"])).expect(0);
        let got = world.path(&format!("{who}/got/data.bin"));
        assert_eq!(b3sum(&got), b3sum(&file));
    }
    let again = Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).expect(0);
    assert_eq!(again.event("done")["up_to_date"], 1);
    let mut cut = ticket.clone();
    cut.pop();
    let cut = Ended::of(&mut receive(&world, "dave", &cut, &["-y"])).expect(2);
    assert!(cut.stderr.contains("copy it again"), "{cut:?}");
    drop(anna);
}

#[test]
fn three_wrong_codes_make_it_void_and_both_sides_hear_of_each() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    let server = world.server();
    let (mut anna, offer) = send(&world, Some(&server), &[argument(&file)]);
    let code = text(&offer, "code");
    let plate = code.split('-').next().unwrap();
    let wrong = format!("{plate}-tidal-anchor");
    assert_ne!(wrong, code);
    for left in [2, 1] {
        let tried = Ended::of(&mut receive_by_code(&world, "mallory", (&wrong, &server)));
        let tried = tried.expect(7);
        assert!(tried.stderr.contains("the code is wrong"), "{tried:?}");
        assert_eq!(anna.event("wrong_code")["left"], left);
    }
    Ended::of(&mut receive_by_code(&world, "mallory", (&wrong, &server))).expect(7);
    anna.event("code_burnt");
    let late = Ended::of(&mut receive_by_code(&world, "bob", (&code, &server)));
    assert_ne!(late.code, 0, "{late:?}");
    assert!(!world.path("bob/got/a.txt").exists());
    let by_ticket = text(&offer, "ticket");
    Ended::of(&mut receive(&world, "bob", &by_ticket, &["-y"])).expect(0);
}

#[test]
fn what_is_no_code_or_leads_nowhere_says_what_to_do() {
    let world = World::new();
    let server = world.server();
    for (given, code, said) in [
        ("7-tidal", 2, "a number and two words"),
        ("7-tidal-qqqq", 2, "is no word of a code"),
        ("7-tidal-anchor", 3, "no code with this number"),
        ("shoalsend1aaaa", 2, "incomplete or mistyped"),
    ] {
        let ended = Ended::of(&mut receive_by_code(&world, "bob", (given, &server)));
        let ended = ended.expect(code);
        assert!(ended.stderr.contains(said), "{given}: {ended:?}");
    }
    let nothing = Ended::of(&mut receive(&world, "bob", "7-tidal-anchor", &["-y"])).expect(2);
    assert!(nothing.stderr.contains("no server is known"), "{nothing:?}");
    let gone = world.run_as("anna", &["send", "gone.txt"]).expect(11);
    assert!(gone.stderr.contains("gone.txt"), "{gone:?}");
}

#[test]
fn a_receiver_that_is_killed_goes_on_where_it_stopped_and_others_come_meanwhile() {
    let world = World::new();
    let file = world.write("anna", "big.bin", noise(24_000_000, 3));
    let server = world.server();
    let paths = ["--receivers", "2", argument(&file)];
    let (mut anna, offer) = send(&world, Some(&server), &paths);
    let code = text(&offer, "code");
    let mut slow = receive_by_code(&world, "bob", (&code, &server));
    slow.args(["--down", "6M"]);
    let mut bob = Daemon::start("bob", slow, world.path("bob.log"));
    let far = |event: &Value| event["durable_bytes"].as_u64() >= Some(8_000_000);
    while !far(&bob.event("progress")) {}
    bob.kill();
    let left = anna.event("left");
    assert!(left["durable_bytes"].as_u64() > Some(0), "{left}");
    Ended::of(&mut receive_by_code(&world, "carl", (&code, &server))).expect(0);
    let mut again = receive_by_code(&world, "bob", (&code, &server));
    let again = Ended::of(again.args(["--down", "6M"])).expect(0);
    let before = left["durable_bytes"].as_u64();
    // Who comes back goes on there for the sender too.
    let is_bob = |event: &Value| event["event"] == "sending" && event["peer"] == "bob";
    let sending = anna.event_where("sending", is_bob);
    assert!(sending["durable_bytes"].as_u64() >= before, "{sending}");
    let bytes = again.event("done")["bytes"].as_u64().unwrap();
    assert!(bytes <= 17_000_000, "{bytes} were moved again");
    for who in ["bob", "carl"] {
        let got = world.path(&format!("{who}/got/big.bin"));
        assert_eq!(b3sum(&got), b3sum(&file));
    }
    assert_eq!(anna.event("done")["receivers"], 2);
    assert_eq!(anna.wait(), 0);
}

#[test]
fn each_receiver_is_asked_for_where_the_sender_wants_it() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    let mut command = world.command(&["--json", "send", "--ask", argument(&file)]);
    command.arg("--state-dir").arg(world.state("anna"));
    command.stdin(Stdio::piped());
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    let ticket = text(&anna.event("offer"), "ticket");
    for (who, answer, code) in [("mallory", "n", 7), ("bob", "y", 0)] {
        let log = world.path(&format!("{who}.log"));
        let mut other = Daemon::start(who, receive(&world, who, &ticket, &["-y"]), log);
        assert_eq!(anna.event("knocked")["peer"], who);
        writeln!(anna.stdin(), "{answer}").expect("answer");
        assert_eq!(other.wait(), code, "{who}");
    }
    assert!(!world.path("mallory/got/a.txt").exists());
    assert!(world.path("bob/got/a.txt").exists());
}

#[test]
fn a_revoked_ticket_lets_nobody_in_and_an_expired_one_is_not_even_tried() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    let mut command = world.command(&["--json", "send", "--ask", argument(&file)]);
    command.arg("--state-dir").arg(world.state("anna"));
    command.stdin(Stdio::piped());
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    let ticket = text(&anna.event("offer"), "ticket");
    writeln!(anna.stdin(), "revoke").expect("revoke");
    anna.event("revoked");
    let late = Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).expect(7);
    assert!(!world.path("bob/got/a.txt").exists(), "{late:?}");
    let (mut short, offer) = send(&world, None, &["--expires", "1s", argument(&file)]);
    assert_eq!(short.wait(), 13);
    let ticket: shoal_wire::OfferTicket = text(&offer, "ticket").parse().unwrap();
    let expires_at_s = ticket.expires_at_s - 1_000;
    let old = shoal_wire::OfferTicket {
        expires_at_s,
        ..ticket
    };
    let old = Ended::of(&mut receive(&world, "bob", &old.to_string(), &["-y"])).expect(7);
    assert!(old.stderr.contains("expired"), "{old:?}");
}

#[test]
fn a_pipe_goes_in_at_one_end_and_out_at_the_other() {
    let world = World::new();
    let content = noise(2_500_000, 4);
    let mut command = world.command(&["--json", "send", "-", "--name", "piped.bin"]);
    command.arg("--state-dir").arg(world.state("anna"));
    command.stdin(Stdio::piped());
    let mut anna = Daemon::start("anna", command, world.path("anna.log"));
    // Before anything is read, and a receiver may come meanwhile.
    let ticket = text(&anna.event("offer"), "ticket");
    let mut out = world.command(&["receive", "-o", "-", "-y"]);
    out.arg("--state-dir").arg(world.state("bob"));
    let receiving = out
        .env("SHOAL_CODE", ticket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("receive");
    anna.event("opened");
    let (first, rest) = content.split_at(1_000_000);
    anna.stdin().write_all(first).expect("write");
    anna.stdin().write_all(rest).expect("write");
    anna.close_stdin();
    assert_eq!(anna.event("input")["bytes"], content.len());
    let ended = receiving.wait_with_output().expect("receive");
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.stdout == content, "{} bytes", ended.stdout.len());
    assert_eq!(anna.terminate(), 0);
    let left: Vec<_> = std::fs::read_dir(world.state("anna")).unwrap().collect();
    let is_spool = |name: &str| name.starts_with("stdin-");
    assert!(
        left.iter()
            .flatten()
            .all(|entry| !is_spool(&entry.file_name().to_string_lossy())),
        "{left:?}"
    );
}

#[test]
fn a_folder_lands_beside_one_that_holds_other_files() {
    let world = World::new();
    world.write("anna", "album/a", "a");
    let album = world.files("anna").join("album");
    let (_anna, offer) = send(&world, None, &[argument(&album)]);
    let ticket = text(&offer, "ticket");
    let there = world.path("bob/got/album");
    std::fs::create_dir_all(&there).unwrap();
    std::fs::write(there.join("mine"), "mine").unwrap();
    for _ in 0..2 {
        Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).expect(0);
        let beside = world.path("bob/got/album (2)/a");
        assert_eq!(std::fs::read_to_string(beside).unwrap(), "a");
        assert!(!there.join("a").exists());
    }
    assert!(!world.path("bob/got/album (3)").exists());
}

#[test]
fn the_code_outlives_the_server_that_gave_it() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    let server = world.server();
    let (mut anna, offer) = send(&world, Some(&server), &[argument(&file)]);
    let code = text(&offer, "code");
    let address = server.address.clone();
    let mut server = server;
    server.daemon.kill();
    anna.event("warning");
    let server = world.server_with(&address, &[]);
    assert_eq!(text(&anna.event("code"), "code"), code);
    Ended::of(&mut receive_by_code(&world, "bob", (&code, &server))).expect(0);
}

#[test]
fn without_a_person_to_ask_nothing_is_taken() {
    let world = World::new();
    let file = world.write("anna", "a.txt", "a");
    let (_anna, offer) = send(&world, None, &[argument(&file)]);
    let ended = Ended::of(&mut receive(&world, "bob", &text(&offer, "ticket"), &[])).expect(2);
    assert!(ended.stderr.contains("-y"), "{ended:?}");
    assert!(!world.path("bob/got/a.txt").exists());
}

#[test]
fn a_ticket_that_names_no_address_leads_through_the_relay_of_its_server() {
    let world = World::new();
    let file = world.write("anna", "data.bin", noise(5_000_000, 11));
    let server = world.server();
    let (_anna, offer) = send(&world, Some(&server), &[argument(&file)]);
    let nowhere = without_addresses(&text(&offer, "ticket"));
    let bob = Ended::of(&mut receive(&world, "bob", &nowhere, &["-y"])).expect(0);
    let kind = bob.event("opened")["route"]["kind"].clone();
    assert!(kind == "relayed" || kind == "punched", "{kind}");
    assert_eq!(b3sum(&world.path("bob/got/data.bin")), b3sum(&file));
    let status = world.ctl_json(&["status"]).expect(0).event("status");
    assert!(status["relay"]["sent_bytes"].as_u64() > Some(0), "{status}");
}

#[test]
fn tickets_of_a_server_without_a_relay_do_not_lead_through_it() {
    let world = World::new();
    let file = world.write("anna", "data.bin", "data");
    let server = world.server_with("127.0.0.1:0", &["--no-relay"]);
    let (_anna, offer) = send(&world, Some(&server), &[argument(&file)]);
    let nowhere = without_addresses(&text(&offer, "ticket"));
    let bob = Ended::of(&mut receive(&world, "bob", &nowhere, &["-y"])).expect(8);
    assert!(bob.stderr.contains("no address"), "{}", bob.stderr);
    let status = world.ctl_json(&["status"]).expect(0).event("status");
    assert!(status["relay"].is_null(), "{status}");
}

#[test]
fn a_relay_turns_away_whoever_shows_a_pass_of_another_server() {
    let world = World::new();
    let file = world.write("anna", "data.bin", "data");
    let server = world.server();
    let other = world.server_named("other", "127.0.0.1:0", &[]);
    let (_anna, offer) = send(&world, Some(&server), &[argument(&file)]);
    let (_carl, foreign) = send_as(&world, "carl", Some(&other), &[argument(&file)]);
    let mut ticket: OfferTicket = text(&offer, "ticket").parse().unwrap();
    let foreign: OfferTicket = text(&foreign, "ticket").parse().unwrap();
    ticket.addresses = Addresses::default();
    let pass = foreign.via.unwrap().pass;
    ticket.via.as_mut().unwrap().pass = pass;
    let bob = Ended::of(&mut receive(&world, "bob", &ticket.to_string(), &["-y"]));
    assert_eq!(bob.code, 8, "{}", bob.stderr);
    assert!(
        bob.stderr.contains("ask for a new ticket"),
        "{}",
        bob.stderr
    );
    let status = world.ctl_json(&["status"]).expect(0).event("status");
    assert!(status["relay"]["refused"].as_u64() > Some(0), "{status}");
    assert!(!world.path("bob/got/data.bin").exists());
}

/// The same ticket, by which the sender is only found at the relay.
fn without_addresses(ticket: &str) -> String {
    let mut ticket: OfferTicket = ticket.parse().expect("a ticket");
    ticket.addresses = Addresses::default();
    ticket.to_string()
}

#[test]
fn a_relay_apart_serves_the_peers_of_a_server_that_has_its_ticket_and_nobody_else() {
    let world = World::new();
    let file = world.write("anna", "data.bin", noise(2_000_000, 12));
    let mut command = world.command(&["--json", "relay", "--addr", "127.0.0.1:0"]);
    command.arg("--state-dir").arg(world.state("relay"));
    let mut relay = Daemon::start("relay", command, world.path("relay.log"));
    let relaying = relay.event("relaying");
    let server = world.server_with("127.0.0.1:0", &["--relay", &text(&relaying, "ticket")]);
    let (_anna, offer) = send(&world, Some(&server), &[argument(&file)]);
    let mut ticket: OfferTicket = text(&offer, "ticket").parse().unwrap();
    ticket.addresses = Addresses::default();
    let via = ticket.via.as_mut().unwrap();
    assert_eq!(via.server.to_string(), text(&relaying, "relay"));
    assert_eq!(via.addresses[0].to_string(), text(&relaying, "address"));
    let bob = Ended::of(&mut receive(&world, "bob", &ticket.to_string(), &["-y"])).expect(0);
    assert_eq!(bob.event("done")["fetched"], 1);
    assert_eq!(b3sum(&world.path("bob/got/data.bin")), b3sum(&file));
    let status = world.ctl_json(&["status"]).expect(0).event("status");
    assert_eq!(status["relay"]["apart"], relaying["relay"]);

    // A pass of a server that does not have the ticket.
    let other = world.server_named("other", "127.0.0.1:0", &[]);
    let (_carl, foreign) = send_as(&world, "carl", Some(&other), &[argument(&file)]);
    let foreign: OfferTicket = text(&foreign, "ticket").parse().unwrap();
    ticket.via.as_mut().unwrap().pass = foreign.via.unwrap().pass;
    let carl = Ended::of(&mut receive(&world, "dora", &ticket.to_string(), &["-y"]));
    assert_eq!(carl.code, 8, "{}", carl.stderr);
    relay.signal(rustix::process::Signal::TERM);
    let relayed = relay.event("relayed");
    assert!(
        relayed["relay"]["sent_bytes"].as_u64() > Some(0),
        "{relayed}"
    );
    assert!(relayed["relay"]["refused"].as_u64() > Some(0), "{relayed}");
    assert_eq!(relay.wait(), 0);
}

#[test]
fn what_cannot_travel_is_left_out_and_said() {
    let world = World::new();
    world.write("anna", "album/good.txt", "good");
    world.write("anna", "album/two\nlines", "bad");
    let album = world.files("anna").join("album");
    let (mut anna, offer) = send(&world, None, &[argument(&album)]);
    let said = text(&anna.event("warning"), "message");
    assert!(said.contains("1 entry cannot be sent"), "{said}");
    assert!(said.contains("two\\nlines"), "{said}");
    let ticket = text(&offer, "ticket");
    let bob = Ended::of(&mut receive(&world, "bob", &ticket, &["-y"])).expect(14);
    assert_eq!(bob.event("done")["fetched"], 1);
}
