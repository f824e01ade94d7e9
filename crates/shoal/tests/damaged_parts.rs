//! What an interrupted fetch left on the disk is changed before the next one, by a rotten disk, a
//! person or a program: nothing of it is believed, and nothing that is sound is fetched again.

mod support;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;
use rustix::fs::{FallocateFlags, fallocate};
use serde_json::Value;
use support::moments::seeded;
use support::{Daemon, Ended, Server, World, argument, b3sum, eventually, noise, text};

const MIB: usize = 1 << 20;
const CHUNKS: usize = 16;
const PART: &str = ".big.bin.shoal-part";
const STATE: &str = ".big.bin.shoal-state";
/// Where the records of a state file begin, in bytes.
const HEADER_BYTES: u64 = 128;
/// Each of the two tests of random damage does half of all.
const DAMAGES: usize = 100;

#[test]
fn a_hundred_random_damages_of_a_part_are_found_and_only_what_is_damaged_is_fetched() {
    random_damages("damaged parts", |damage, left| damage.inflict(&left.part()));
}

#[test]
fn a_hundred_random_damages_of_part_and_state_are_found_and_cost_no_sound_chunk() {
    random_damages("damaged parts and states", |damage, left| {
        match damage.random.random_range(0..4) {
            0 => std::fs::remove_file(left.state()).unwrap(),
            1 => damage.inflict(&left.state()),
            _ => {
                damage.inflict(&left.state());
                damage.inflict(&left.part());
            }
        }
    });
}

/// Inflicts damage after damage on what one interrupted fetch left, and completes each.
fn random_damages(what: &str, inflict: impl Fn(&mut Damage, &Left)) {
    let world = World::new();
    let content = noise(CHUNKS * MIB, 1);
    world.write("anna", "big.bin", &content);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let interrupted = Left(world.path("interrupted"));
    interrupt(&world, &server, &interrupted);
    let mut damage = Damage {
        random: seeded(what),
    };
    for number in 0..DAMAGES {
        let left = Left(world.path(&format!("got-{number}")));
        left.copy_of(&interrupted);
        inflict(&mut damage, &left);
        let lacking = left.differing_chunks(&content) as u64 * MIB as u64;
        let got = get(&world, &server, &["anna:big.bin", "-o", argument(&left.0)]);
        let target = left.0.join("big.bin");
        assert_eq!(b3sum(&target), hash, "{number}: {got:?}");
        let done = got.event("done");
        assert_eq!(done["bytes"], lacking, "{number}: {done}");
        assert_eq!(left.names(), ["big.bin"], "{number}");
        std::fs::remove_dir_all(&left.0).expect("the disk of the test obeys");
    }
}

#[test]
fn a_damaged_part_of_an_order_is_mended_and_no_false_hash_is_announced() {
    let world = World::new();
    let content = noise(CHUNKS * MIB, 2);
    world.write("server", "big.bin", &content);
    let server = world.server();
    let mut bob = world.peer_with("bob", &server, &["--down", "16M"]);
    let left = Left(world.files("bob"));
    let mut pushing = world.command(&["--json", "ctl", "--state-dir"]);
    pushing.arg(world.state("server"));
    pushing.args(["push", "big.bin", "bob"]);
    let mut pushing = Daemon::start("push", pushing, world.path("push.log"));
    left.wait_until_some_is_recorded();
    bob.kill();
    pushing.wait();
    flip(&left.part(), 17);
    let _bob = world.peer("bob", &server);
    world.ctl(&["push", "big.bin", "bob"]).expect(0);
    let right = blake3::hash(&content).to_hex().to_string();
    assert_eq!(b3sum(&left.0.join("big.bin")), right);
    assert_eq!(world.announced_hash("bob", "big.bin"), right);
}

#[test]
fn a_damaged_part_of_what_somebody_sends_is_mended() {
    let world = World::new();
    let file = world.write("anna", "big.bin", noise(CHUNKS * MIB, 3));
    let mut sending = world.command(&["--json", "send", "--as", "anna"]);
    sending.arg("--state-dir").arg(world.state("anna"));
    sending.arg(&file);
    let mut anna = Daemon::start("anna", sending, world.path("anna.log"));
    let ticket = text(&anna.event("offer"), "ticket");
    let left = Left(world.path("bob/got"));
    let receive = |more: &[&str]| {
        let mut command = world.command(&["--json", "receive", "--as", "bob", "-y"]);
        command.arg("--state-dir").arg(world.state("bob"));
        command.arg("-o").arg(&left.0).env("SHOAL_CODE", &ticket);
        command.args(more);
        command
    };
    for _ in 0..3 {
        let slow = receive(&["--down", "16M"]);
        let mut bob = Daemon::start("bob", slow, world.path("bob.log"));
        left.wait_until_some_is_recorded();
        bob.kill();
        flip(&left.part(), 17);
        Ended::of(&mut receive(&[])).expect(0);
        let target = left.0.join("big.bin");
        assert_eq!(b3sum(&target), b3sum(&file));
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn a_damaged_part_in_a_tree_and_one_of_a_range_are_mended() {
    let world = World::new();
    let content = noise(CHUNKS * MIB, 4);
    world.write("anna", "tree/big.bin", &content);
    world.write("anna", "tree/small.txt", "small");
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "tree/big.bin");
    let left = Left(world.path("got/tree"));
    let tree = ["anna:tree", "-o", "got"];
    let mut getting = start(&world, &server, &tree);
    left.wait_until_some_is_recorded();
    getting.kill();
    flip(&left.part(), 17);
    get(&world, &server, &tree);
    assert_eq!(b3sum(&left.0.join("big.bin")), hash);

    let left = Left(world.path("cut"));
    let range = ["anna:tree/big.bin", "--range", "5-15M", "-o", "cut/big.bin"];
    let mut getting = start(&world, &server, &range);
    left.wait_until_some_is_recorded();
    getting.kill();
    flip(&left.part(), 17);
    get(&world, &server, &range);
    let cut = std::fs::read(left.0.join("big.bin")).unwrap();
    assert!(cut == content[5..=15_000_000]);
}

#[test]
fn a_part_that_is_whole_and_damaged_is_mended() {
    let world = World::new();
    let content = noise(CHUNKS * MIB, 5);
    world.write("anna", "big.bin", &content);
    let server = world.server();
    let _anna = world.peer("anna", &server);
    let hash = world.announced_hash("anna", "big.bin");
    let left = Left(world.path("got"));
    interrupt(&world, &server, &left);
    // Every chunk counts as recorded by the time that the name is refused.
    let in_the_way = left.0.join("big.bin");
    std::fs::create_dir(&in_the_way).unwrap();
    std::fs::write(in_the_way.join("mine"), "mine").unwrap();
    let typed = ["get", "anna:big.bin", "-o", "got", "--join", &server.join];
    let refused = world.run(&typed);
    assert_ne!(refused.code, 0, "{refused:?}");
    std::fs::remove_dir_all(&in_the_way).unwrap();
    flip(&left.part(), 9 * MIB as u64);
    let got = get(&world, &server, &["anna:big.bin", "-o", "got"]);
    assert_eq!(b3sum(&left.0.join("big.bin")), hash);
    assert!(bytes(&got.event("done"), "bytes") >= MIB as u64);
}

/// The folder that an interrupted fetch left.
struct Left(PathBuf);

impl Left {
    fn part(&self) -> PathBuf {
        self.0.join(PART)
    }

    fn state(&self) -> PathBuf {
        self.0.join(STATE)
    }

    fn wait_until_some_is_recorded(&self) {
        eventually("some of it is recorded", || {
            let written = self.part().metadata().map_or(0, |part| part.blocks() * 512);
            let recorded = self.state().metadata().map_or(0, |state| state.len());
            written > 6 * MIB as u64 && recorded > HEADER_BYTES
        });
    }

    fn copy_of(&self, other: &Self) {
        std::fs::create_dir(&self.0).expect("the disk of the test obeys");
        std::fs::copy(other.part(), self.part()).expect("the disk of the test obeys");
        std::fs::copy(other.state(), self.state()).expect("the disk of the test obeys");
    }

    /// How many chunks of the part are not as they are in the content.
    fn differing_chunks(&self, content: &[u8]) -> usize {
        let mut part = std::fs::read(self.part()).expect("the disk of the test obeys");
        part.resize(content.len(), 0);
        let chunks = part.chunks(MIB).zip(content.chunks(MIB));
        chunks.filter(|(part, content)| part != content).count()
    }

    fn names(&self) -> Vec<String> {
        support::moments::names_in(&self.0)
    }
}

/// Random damage to files.
struct Damage {
    random: StdRng,
}

impl Damage {
    fn inflict(&mut self, path: &Path) {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("the disk of the test obeys");
        let metadata = file.metadata().expect("the disk of the test obeys");
        let len = metadata.len();
        match self.random.random_range(0..6) {
            0 | 1 => {
                for _ in 0..self.random.random_range(1..4) {
                    flip(path, self.random.random_range(0..len));
                }
            }
            2 => {
                let (at, zeros) = self.stretch(len);
                file.write_all_at(&vec![0; zeros], at)
                    .expect("the disk of the test obeys");
            }
            3 => {
                let (at, hole) = self.stretch(len);
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&file, flags, at, hole as u64).expect("the disk of the test obeys");
            }
            4 => {
                let unit = if len > MIB as u64 { MIB as u64 } else { 48 };
                let count = (len / unit).max(1);
                let [a, b] = [0; 2].map(|_| self.random.random_range(0..count) * unit);
                let read = |at| {
                    let mut bytes = vec![0; unit.min(len - at) as usize];
                    file.read_exact_at(&mut bytes, at)
                        .expect("the disk of the test obeys");
                    bytes
                };
                let (at_a, at_b) = (read(a), read(b));
                file.write_all_at(&at_b, a)
                    .expect("the disk of the test obeys");
                file.write_all_at(&at_a, b)
                    .expect("the disk of the test obeys");
            }
            _ => file
                .set_len(self.random.random_range(0..=len + 99))
                .expect("the disk of the test obeys"),
        }
        if self.random.random_bool(0.5) {
            file.set_modified(metadata.modified().expect("the disk of the test obeys"))
                .expect("the disk of the test obeys");
        }
    }

    fn stretch(&mut self, len: u64) -> (u64, usize) {
        let at = self.random.random_range(0..len);
        let most = (len - at).min(3 * MIB as u64);
        (at, self.random.random_range(1..=most) as usize)
    }
}

/// Fetches `big.bin` slowly, and stops in the middle.
fn interrupt(world: &World, server: &Server, left: &Left) {
    let mut getting = start(world, server, &["anna:big.bin", "-o", argument(&left.0)]);
    left.wait_until_some_is_recorded();
    getting.kill();
}

fn start(world: &World, server: &Server, arguments: &[&str]) -> Daemon {
    let slow = ["--down", "16M", "--join", &server.join];
    let typed = [&["--json", "get"], arguments, &slow].concat();
    Daemon::start("get", world.command(&typed), world.path("get.log"))
}

/// Runs `shoal --json get ARGUMENTS…`, which must succeed.
#[track_caller]
fn get(world: &World, server: &Server, arguments: &[&str]) -> Ended {
    let join = ["--join", &server.join];
    let typed = [&["--json", "get"], arguments, &join].concat();
    world.run(&typed).expect(0)
}

/// Changes one bit.
fn flip(path: &Path, at: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("the disk of the test obeys");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)
        .expect("the disk of the test obeys");
    file.write_all_at(&[byte[0] ^ 4], at)
        .expect("the disk of the test obeys");
}

#[track_caller]
fn bytes(event: &Value, field: &str) -> u64 {
    let value = event[field].as_u64();
    value.unwrap_or_else(|| panic!("no number {field} in {event}"))
}
