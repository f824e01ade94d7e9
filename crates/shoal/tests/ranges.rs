//! `shoal get --range`: just these bytes, verified, and no more of the file than is needed for them.

mod support;

use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use support::{Daemon, Ended, Server, World, eventually, noise};

const MIB: usize = 1 << 20;

#[test]
fn a_range_is_exactly_its_bytes_and_moves_only_the_chunks_around_it() {
    let world = World::new();
    let content = noise(8 * MIB + 777, 1);
    world.write("anna", "big.bin", &content);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let cases = [
        ("0-499", 0..500, MIB),
        ("2M-2.1M", 2_000_000..2_100_001, 2 * MIB),
        ("1048576-2097151", MIB..2 * MIB, MIB),
        ("8388608-", 8 * MIB..content.len(), 777),
        ("-1k", content.len() - 1000..content.len(), MIB + 777),
        ("0-99G", 0..content.len(), content.len()),
    ];
    for (typed, bytes, moved) in cases {
        let got = get(&world, &server, &["--range", typed, "-o", "got/"]).expect(0);
        let name = format!("big.bin.{}-{}", bytes.start, bytes.end - 1);
        let file = world.path("got").join(&name);
        assert!(std::fs::read(&file).unwrap() == content[bytes], "{typed}");
        assert_eq!(got.event("got")["path"], name);
        assert_eq!(got.event("got")["hash"], hash);
        assert_eq!(number(&got.event("done"), "bytes"), moved as u64, "{typed}");
        assert_eq!(std::fs::read_dir(world.path("got")).unwrap().count(), 1);
        std::fs::remove_file(file).unwrap();
    }
    let named = ["--range", "5-9", "-o", "new/folder/five"];
    get(&world, &server, &named).expect(0);
    let five = world.path("new/folder/five");
    assert_eq!(std::fs::read(&five).unwrap(), content[5..10]);
    // Again it is there; another range is another file, replaced only when that is said.
    let again = get(&world, &server, &named).expect(0);
    assert_eq!(again.event("got")["outcome"], "up_to_date");
    for other in ["6-10", "6-11"] {
        let other = ["--range", other, "-o", "new/folder/five"];
        get(&world, &server, &other).expect(9);
        assert_eq!(std::fs::read(&five).unwrap(), content[5..10]);
    }
    let other = ["--range", "6-10", "-o", "new/folder/five", "--overwrite"];
    get(&world, &server, &other).expect(0);
    assert_eq!(std::fs::read(&five).unwrap(), content[6..11]);
    // The whole file does not take a range for itself, nor what was left of one.
    let whole = ["--range", "0-1M", "-o", "big.bin"];
    get(&world, &server, &whole).expect(0);
    get(&world, &server, &[]).expect(9);
    get(&world, &server, &["--overwrite"]).expect(0);
    assert!(std::fs::read(world.path("big.bin")).unwrap() == content);
}

#[test]
fn a_range_that_was_interrupted_goes_on() {
    let world = World::new();
    let content = noise(40 * MIB, 1);
    world.write("anna", "big.bin", &content);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "big.bin");
    let range = ["--range", "3145729-36700159", "-o", "got/"];
    let slow = [
        "--json",
        "get",
        "anna:big.bin",
        "--down",
        "24M",
        "--join",
        &server.join,
    ];
    let typed = [&slow[..], &range].concat();
    let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
    let part = world.path("got/.big.bin.3145729-36700159.shoal-part");
    let state = world.path("got/.big.bin.3145729-36700159.shoal-state");
    eventually("some of it is recorded", || {
        let written = std::fs::metadata(&part).map_or(0, |part| part.blocks() * 512);
        let recorded = std::fs::metadata(&state).map_or(0, |state| state.len());
        written > 10 * MIB as u64 && recorded > 128
    });
    getting.kill();
    let got = get(&world, &server, &range).expect(0);
    assert!(
        number(&got.event("done"), "bytes") <= 24 * MIB as u64,
        "{got:?}"
    );
    let file = world.path("got/big.bin.3145729-36700159");
    assert!(std::fs::read(file).unwrap() == content[3_145_729..36_700_160]);
    assert_eq!(std::fs::read_dir(world.path("got")).unwrap().count(), 1);
}

#[test]
fn what_is_no_range_of_one_file_is_refused_with_a_word_what_to_do() {
    let world = World::new();
    world.write("anna", "big.bin", "0123456789");
    world.write("anna", "tree/a", "a");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    world.announced_hash("anna", "big.bin");
    world.announced_hash("anna", "tree/a");
    let refused = |what: &[&str], word: &str| {
        let typed = [&["get"], what, &["-o", "got", "--join", &server.join]].concat();
        let refused = world.run(&typed).expect(2);
        assert!(refused.stderr.contains(word), "{refused:?}");
    };
    refused(&["anna:big.bin", "--range", "10-20"], "10 bytes");
    refused(&["anna:big.bin", "--range", "9-3"], "smaller number first");
    refused(&["anna:big.bin", "--range", "head"], "START-END");
    refused(&["anna:tree", "--range", "0-1"], "one file");
    refused(
        &["anna:big.bin", "anna:tree/a", "--range", "0-1"],
        "one file",
    );
    refused(
        &["anna:big.bin", "--range", "0-1", "--dry-run"],
        "--dry-run",
    );
    let got = world.path("got");
    assert!(!got.exists() || std::fs::read_dir(got).unwrap().count() == 0);
}

/// Runs `shoal --json get anna:big.bin ARGUMENTS…` as a node of its own.
#[track_caller]
fn get(world: &World, server: &Server, arguments: &[&str]) -> Ended {
    let typed = ["--json", "get", "anna:big.bin", "--join", &server.join];
    world.run(&[&typed[..], arguments].concat())
}

#[track_caller]
fn number(event: &Value, field: &str) -> u64 {
    let value = event[field].as_u64();
    value.unwrap_or_else(|| panic!("no number {field} in {event}"))
}
