//! SIGKILL of either end at random moments, as often as is asked for: of a command that fetches a
//! file or a folder, of the peer that serves it, and of both peers of an ordered transfer.
//!
//! `scripts/kills COUNT` asks for many; by itself it is a short run. After every kill each file
//! that has its final name is whole; then the same command goes on, and in the end the content is
//! that of the source, by hash, with nothing beside it. The moments are random by a printed seed.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use support::moments::{Moment, files_below, seeded};
use support::{DEADLINE, Daemon, Server, World, b3sum, noise};

/// Most kills of one fetch before it is let go to its end.
const KILLS_PER_FETCH: usize = 4;

#[test]
fn a_fetch_that_is_killed_again_and_again_goes_on_to_the_right_content() {
    let mut lane = Lane::new("fetches");
    let kills = asked(60, 12);
    while lane.kills < kills {
        let wanted = lane.pick();
        let folder = lane.world.path("got");
        for _ in 0..lane.random.random_range(1..=KILLS_PER_FETCH) {
            let mut fetch = lane.start_fetch(&wanted);
            lane.wait(&wanted, &folder, || fetch.has_ended());
            lane.kill(&mut fetch);
            wanted.assert_what_is_there(&folder);
        }
        lane.complete(&wanted);
    }
    lane.report();
}

#[test]
fn a_source_that_is_killed_under_a_fetch_leaves_nothing_wrong_and_serves_again() {
    let mut lane = Lane::new("sources");
    let kills = asked(25, 3);
    while lane.kills < kills {
        let wanted = lane.pick();
        let folder = lane.world.path("got");
        let mut fetch = lane.start_fetch(&wanted);
        lane.wait(&wanted, &folder, || fetch.has_ended());
        lane.kill_source();
        wanted.assert_what_is_there(&folder);
        if lane.random.random_bool(0.1) {
            // Left to itself it notices, and ends whole or as a transfer that failed.
            let code = fetch.wait();
            assert!([0, 3, 8, 12].contains(&code), "{code}: {}", fetch.log());
        } else {
            let after = Duration::from_micros(lane.random.random_range(0..60_000));
            Moment::Passed(after).wait(&folder, || fetch.has_ended());
            lane.kill(&mut fetch);
        }
        wanted.assert_what_is_there(&folder);
        lane.restart_source();
        lane.complete(&wanted);
    }
    lane.report();
}

#[test]
fn either_peer_of_an_ordered_transfer_may_be_killed_and_the_order_repeated() {
    let mut lane = Lane::new("orders");
    let mut bob = lane.world.peer("bob", &lane.server);
    let folder = lane.world.files("bob");
    // Ordered folders move file by file: a large one takes its time.
    lane.all.retain(|wanted| wanted.hashes.len() < 10);
    let kills = asked(15, 3);
    while lane.kills < kills {
        let wanted = lane.pick();
        let mut order = lane.start_order(&wanted);
        lane.wait(&wanted, &folder, || order.has_ended());
        if lane.random.random_bool(0.5) {
            lane.kill(&mut bob);
            wanted.assert_what_is_there(&folder);
            bob = lane.world.peer("bob", &lane.server);
        } else {
            lane.kill_source();
            wanted.assert_what_is_there(&folder);
            lane.restart_source();
        }
        drop(order);
        lane.complete_order(&wanted, &bob);
        wanted.assert_same(&folder);
        wanted.remove_from(&folder);
        lane.world.ctl(&["rescan", "bob"]).expect(0);
    }
    lane.report();
}

/// So many of every hundred kills that are asked for, or as few as are for everyday.
fn asked(percent: usize, everyday: usize) -> usize {
    let all = std::env::var("SHOAL_KILLS").ok();
    all.map_or(everyday, |text| {
        let all: usize = text.parse().expect("a number");
        (all * percent).div_ceil(100)
    })
}

/// A file or folder of anna's, with the hash of everything in it.
#[derive(Debug, Clone)]
struct Wanted {
    name: String,
    /// By path below the folder that receives it.
    hashes: BTreeMap<PathBuf, String>,
    bytes: u64,
}

impl Wanted {
    fn of(files: &Path, name: &str) -> Self {
        let path = files.join(name);
        let below = if path.is_dir() {
            let below = files_below(&path);
            below
                .iter()
                .map(|file| Path::new(name).join(file))
                .collect()
        } else {
            vec![PathBuf::from(name)]
        };
        let hash = |file: &PathBuf| (file.clone(), b3sum(&files.join(file)));
        let size = |file: &PathBuf| files.join(file).metadata().expect("a file").len();
        Self {
            name: name.to_owned(),
            hashes: below.iter().map(hash).collect(),
            bytes: below.iter().map(size).sum(),
        }
    }

    /// Whatever has its final name is right.
    #[track_caller]
    fn assert_what_is_there(&self, folder: &Path) {
        for (file, hash) in &self.hashes {
            let path = folder.join(file);
            if path.exists() {
                assert_eq!(&b3sum(&path), hash, "{} is wrong", file.display());
            }
        }
    }

    /// All is there and nothing else is.
    #[track_caller]
    fn assert_same(&self, folder: &Path) {
        let names: Vec<&PathBuf> = self.hashes.keys().collect();
        let found = files_below(folder);
        assert_eq!(found.iter().collect::<Vec<_>>(), names);
        self.assert_what_is_there(folder);
    }

    fn remove_from(&self, folder: &Path) {
        let path = folder.join(&self.name);
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
        removed.expect("remove what arrived");
    }
}

/// A server, anna who serves, and what happened to them so far.
struct Lane {
    part: &'static str,
    world: World,
    server: Server,
    anna: Daemon,
    all: Vec<Wanted>,
    random: StdRng,
    kills: usize,
    fetches: usize,
    /// Kills that met an unfinished transfer.
    met: usize,
}

impl Lane {
    fn new(part: &'static str) -> Self {
        let world = World::new();
        let mut names = vec!["tree".to_owned(), "few".to_owned()];
        for number in 0..250_u64 {
            let length = 1 + (number as usize * 613) % 30_000;
            let path = format!("tree/{}/{number}", number % 7);
            world.write("anna", &path, noise(length, number));
        }
        for number in 0..3_u64 {
            let length = (2 << 20) + number as usize * 1_300_001;
            world.write(
                "anna",
                &format!("tree/large-{number}"),
                noise(length, number),
            );
            world.write("anna", &format!("few/{number}"), noise(4097, number));
        }
        for number in 0..8_u64 {
            let name = format!("file-{number}.bin");
            let length = (1 + number as usize * 5 % 8) << 20;
            world.write("anna", &name, noise(length + number as usize * 977, number));
            names.push(name);
        }
        let files = world.files("anna");
        let server = world.server();
        Self {
            part,
            all: names.iter().map(|name| Wanted::of(&files, name)).collect(),
            anna: world.peer("anna", &server),
            world,
            server,
            random: seeded(part),
            kills: 0,
            fetches: 0,
            met: 0,
        }
    }

    fn pick(&mut self) -> Wanted {
        self.fetches += 1;
        // Every third time a folder.
        let folders = self
            .all
            .iter()
            .filter(|wanted| wanted.hashes.len() > 1)
            .count();
        let at = match self.random.random_range(0..3) {
            0 => self.random.random_range(0..folders),
            _ => self.random.random_range(folders..self.all.len()),
        };
        self.all[at].clone()
    }

    fn start_fetch(&self, wanted: &Wanted) -> Daemon {
        let command = self
            .world
            .command(&self.fetch_arguments(&format!("anna:{}", wanted.name)));
        Daemon::start("get", command, self.world.path("get.log"))
    }

    fn fetch_arguments<'a>(&'a self, place: &'a str) -> [&'a str; 7] {
        let join = &self.server.join;
        ["--json", "get", place, "-o", "got", "--join", join]
    }

    fn start_order(&self, wanted: &Wanted) -> Daemon {
        let mut command = self.world.command(&["--json", "ctl", "--state-dir"]);
        command.arg(self.world.state("server"));
        command.args(["transfer", "anna", &wanted.name, "bob"]);
        Daemon::start("order", command, self.world.path("order.log"))
    }

    /// Waits for a random moment of the transfer, or its end.
    fn wait(&mut self, wanted: &Wanted, folder: &Path, has_ended: impl FnMut() -> bool) {
        let moment = Moment::random(&mut self.random, wanted.bytes);
        moment.wait(folder, has_ended);
        let is_whole = wanted.hashes.keys().all(|file| folder.join(file).exists());
        self.met += usize::from(!is_whole && folder.exists());
    }

    fn kill(&mut self, victim: &mut Daemon) {
        victim.kill();
        self.kills += 1;
    }

    fn kill_source(&mut self) {
        self.anna.kill();
        self.kills += 1;
    }

    fn restart_source(&mut self) {
        self.anna = self.world.peer("anna", &self.server);
    }

    /// The same command to its end, and all of it away again.
    fn complete(&mut self, wanted: &Wanted) {
        let place = format!("anna:{}", wanted.name);
        self.world.run(&self.fetch_arguments(&place)).expect(0);
        let folder = self.world.path("got");
        wanted.assert_same(&folder);
        std::fs::remove_dir_all(&folder).expect("remove what arrived");
    }

    /// The same order until it is carried out: a receiver that has not yet noticed that its source
    /// died still holds the file.
    fn complete_order(&self, wanted: &Wanted, bob: &Daemon) {
        let started = Instant::now();
        let mut answers = Vec::new();
        loop {
            let ended = self.world.ctl(&["transfer", "anna", &wanted.name, "bob"]);
            if ended.code == 0 {
                return;
            }
            if answers.last() != Some(&ended.stderr) {
                answers.push(ended.stderr);
            }
            let logs = (bob.log(), self.anna.log(), self.server.daemon.log());
            assert!(started.elapsed() < 2 * DEADLINE, "{answers:#?} {logs:#?}");
        }
    }

    #[expect(
        clippy::print_stdout,
        reason = "figures of a long run are for its reader"
    )]
    fn report(&self) {
        println!(
            "{}: {} kills, {} of them in the middle, of {} fetches: all whole",
            self.part, self.kills, self.met, self.fetches
        );
        let are_many = self.kills >= 20;
        assert!(
            !are_many || self.met * 5 >= self.kills,
            "the kills missed the transfers"
        );
    }
}
