//! Wall clocks that jump by years while files move: what is timed goes by the monotonic clock.
//!
//! The jumps are played to the processes by libfaketime; where it is not installed, the test says
//! that it is skipped.

mod support;

use std::path::Path;
use std::process::Command;

use support::disk::skipped;
use support::moments::written_bytes;
use support::{Daemon, Server, World, b3sum, eventually, noise, text};

/// Where distributions put it.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

#[test]
fn a_clock_that_jumps_ten_years_either_way_stops_no_transfer_and_spoils_no_later_one() {
    let Some(library) = LIBRARIES.iter().find(|path| Path::new(path).exists()) else {
        return skipped("libfaketime is not installed");
    };
    let world = World::new();
    world.write("anna", "big.bin", noise(24 << 20, 1));
    let clock = Clock {
        world: &world,
        library,
    };
    clock.set("+0");
    let mut command = world.command(&["--json", "server", "--addr", "127.0.0.1:0"]);
    command.arg("--files-dir").arg(world.files("server"));
    command.arg("--state-dir").arg(world.state("server"));
    let mut daemon = Daemon::start("server", clock.faked(command), world.path("server.log"));
    let listening = daemon.event("listening");
    let server = Server {
        address: text(&listening, "address"),
        node: text(&listening, "server"),
        join: text(&listening, "join"),
        daemon,
    };
    let mut command = world.command(&["--json", "peer", "--join", &server.join, "--name", "anna"]);
    command.arg("--files-dir").arg(world.files("anna"));
    command.arg("--state-dir").arg(world.state("anna"));
    let mut anna = Daemon::start("anna", clock.faked(command), world.path("anna.log"));
    anna.event("announced");
    let hash = world.announced_hash("anna", "big.bin");
    for (number, jump) in ["+3650d", "-3650d"].into_iter().enumerate() {
        let folder = format!("got{number}");
        let typed = [
            "--json",
            "get",
            "big.bin",
            "-o",
            &folder,
            "--join",
            &server.join,
        ];
        let limited = [&typed[..], &["--down", "16M"]].concat();
        let log = world.path("get.log");
        let mut getting = Daemon::start("get", clock.faked(world.command(&limited)), log);
        eventually("some of it is on the disk", || {
            written_bytes(&world.path(&folder)) > 2 << 20
        });
        clock.set(jump);
        assert_eq!(getting.event("done")["fetched"], 1, "{jump}");
        assert_eq!(getting.wait(), 0, "{jump}");
        assert_eq!(b3sum(&world.path(&folder).join("big.bin")), hash);
        // The next one is granted, dialled and served by the clocks as they are now.
        let later = format!("later{number}");
        let later = world.command(&["--json", "get", &hash, "-o", &later, "--join"]);
        let mut later = clock.faked(later);
        let ended = support::Ended::of(later.arg(&server.join)).expect(0);
        assert_eq!(ended.event("done")["failed"], 0, "{jump}");
    }
    assert_eq!(anna.log(), "");
    assert_eq!(server.daemon.log(), "");
}

/// The clock that processes see.
struct Clock<'a> {
    world: &'a World,
    library: &'a str,
}

impl Clock<'_> {
    /// Sets it this far from the real one.
    fn set(&self, offset: &str) {
        let (file, new) = (self.world.path("clock"), self.world.path("clock.new"));
        std::fs::write(&new, offset).expect("write the clock");
        std::fs::rename(new, file).expect("set the clock");
    }

    fn faked(&self, mut command: Command) -> Command {
        command
            .env("LD_PRELOAD", self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.world.path("clock"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }
}
