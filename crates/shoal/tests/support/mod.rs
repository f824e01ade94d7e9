//! The real program as processes on loopback: servers, peers and one-shot commands.
//!
//! Each test has a [`World`]: one temporary folder with the home, the files and the state of every
//! node. A [`Daemon`] prints JSON events that a test waits for with a deadline; it is killed by its
//! id when it is dropped. No process sees the user's own settings.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses its own part of this module"
)]

mod daemon;
pub(crate) mod disk;
pub(crate) mod https;
pub(crate) mod moments;
pub(crate) mod namespace;
pub(crate) mod people;
mod terminal;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use self::daemon::Daemon;
pub(crate) use self::terminal::{ARROW_UP, CTRL_C, CTRL_D, Terminal};

/// How long anything may take before a test fails: far more than a loaded machine needs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Time between two looks at something that has no event of its own.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The folders of one test.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("shoal-test-").tempdir();
        Self {
            folder: folder.expect("a temporary folder"),
        }
    }

    /// A path in this test's folder, which is also where commands run.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// The folder that a node shares; made when it is not there.
    pub(crate) fn files(&self, node: &str) -> PathBuf {
        let folder = self.path(node).join("files");
        std::fs::create_dir_all(&folder).expect("make a folder");
        folder
    }

    /// The state directory of a node; the node makes it.
    pub(crate) fn state(&self, node: &str) -> PathBuf {
        self.path(node).join("state")
    }

    /// Writes a file into the folder that a node shares.
    pub(crate) fn write(&self, node: &str, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.files(node).join(path);
        let folder = file.parent().expect("a file has a folder");
        std::fs::create_dir_all(folder).expect("make a folder");
        std::fs::write(&file, content).expect("write a file");
        file
    }

    /// `shoal ARGUMENTS…`, ready to start: this test's home and folder, nothing of the user's.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            let is_ours = ["SHOAL_", "XDG_", "RUST_LOG", "SSL_CERT_"]
                .iter()
                .any(|start| name_text.starts_with(start));
            if is_ours {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .env("HOME", self.folder.path())
            .env("SHOAL_NO_PORT_MAPPING", "1")
            .env("SHOAL_NO_LAN", "1")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs `shoal ARGUMENTS…` to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(&mut self.command(arguments))
    }

    /// Runs `shoal ARGUMENTS… --state-dir DIR` for a peer's one-shot commands.
    pub(crate) fn run_as(&self, node: &str, arguments: &[&str]) -> Ended {
        let state = self.state(node);
        Ended::of(self.command(arguments).arg("--state-dir").arg(state))
    }

    /// Runs `shoal ctl ARGUMENTS…` for the server of this world.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command(&["ctl", "--state-dir"]);
        Ended::of(command.arg(self.state("server")).args(arguments))
    }

    /// The same with `--json`.
    pub(crate) fn ctl_json(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command(&["--json", "ctl", "--state-dir"]);
        Ended::of(command.arg(self.state("server")).args(arguments))
    }

    /// Starts a server on a free port, and waits until it listens.
    pub(crate) fn server(&self) -> Server {
        self.server_with("127.0.0.1:0", &[])
    }

    /// Starts a server on `address` with more arguments, and waits until it listens.
    pub(crate) fn server_with(&self, address: &str, more: &[&str]) -> Server {
        self.server_named("server", address, more)
    }

    /// The same in folders of another name, for a second server.
    pub(crate) fn server_named(&self, node: &str, address: &str, more: &[&str]) -> Server {
        let (files, state) = (self.files(node), self.state(node));
        let mut command = self.command(&["--json", "server", "--addr", address]);
        command.arg("--files-dir").arg(files);
        command.arg("--state-dir").arg(state).args(more);
        let mut daemon = Daemon::start(node, command, self.path(&format!("{node}.log")));
        let listening = daemon.event("listening");
        let field = |name: &str| text(&listening, name);
        Server {
            address: field("address"),
            node: field("server"),
            join: field("join"),
            daemon,
        }
    }

    /// Starts a peer that joins by the server's ticket, and waits until its files are announced.
    pub(crate) fn peer(&self, name: &str, server: &Server) -> Daemon {
        self.peer_with(name, server, &[])
    }

    /// The same with more arguments.
    pub(crate) fn peer_with(&self, name: &str, server: &Server, more: &[&str]) -> Daemon {
        let arguments = [&["--join", &server.join, "--name", name], more].concat();
        let mut peer = self.start_peer(name, &arguments);
        peer.event("announced");
        peer
    }

    /// Starts a peer with nothing but its folders and these arguments, and waits for nothing.
    pub(crate) fn start_peer(&self, name: &str, arguments: &[&str]) -> Daemon {
        let (files, state) = (self.files(name), self.state(name));
        let mut command = self.command(&["--json", "peer"]);
        command.arg("--files-dir").arg(files);
        command.arg("--state-dir").arg(state).args(arguments);
        Daemon::start(name, command, self.path(&format!("{name}.log")))
    }

    /// Waits until the server knows `path` of `peer` with its hash, and returns that.
    pub(crate) fn announced_hash(&self, peer: &str, path: &str) -> String {
        let mut found = None;
        eventually(&format!("{peer} announces {path} with its hash"), || {
            let listed = self.ctl_json(&["files", path]);
            found = listed.events().into_iter().find_map(|event| {
                let is_it = event["peer_name"] == peer && event["path"] == path;
                let hash = event["hash"].as_str().map(str::to_owned);
                if is_it { hash } else { None }
            });
            found.is_some()
        });
        found.expect("found above")
    }
}

/// A server that listens.
pub(crate) struct Server {
    /// Where.
    pub(crate) address: String,
    /// Its node id.
    pub(crate) node: String,
    /// The ticket that it printed.
    pub(crate) join: String,
    /// Its process.
    pub(crate) daemon: Daemon,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; -1 when a signal ended it.
    pub(crate) code: i32,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it complained about.
    pub(crate) stderr: String,
}

impl Ended {
    /// Runs a command to its end; kills it and fails when that takes longer than [`DEADLINE`].
    pub(crate) fn of(command: &mut Command) -> Self {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start a command");
        daemon::wait_with_output(child, &format!("{command:?}"))
    }

    /// Fails unless the command ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// The JSON events of a command that ran with `--json`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).expect("a line of --json is JSON");
        self.stdout.lines().map(parse).collect()
    }

    /// The first JSON event of that name.
    #[track_caller]
    pub(crate) fn event(&self, name: &str) -> Value {
        let found = self.events().into_iter().find(|one| one["event"] == name);
        found.unwrap_or_else(|| panic!("no event {name} in {self:?}"))
    }
}

/// A text field of an event.
#[track_caller]
pub(crate) fn text(event: &Value, field: &str) -> String {
    let value = event[field].as_str();
    value
        .unwrap_or_else(|| panic!("no text {field} in {event}"))
        .to_owned()
}

/// Looks again and again until `holds`; fails after [`DEADLINE`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Bytes that do not compress or repeat, the same ones for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// What `b3sum` prints for a file.
pub(crate) fn b3sum(file: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(file).expect("open a file");
    hasher.update_reader(file).expect("read a file");
    hasher.finalize().to_hex().to_string()
}

/// A path as an argument.
pub(crate) fn argument(path: &Path) -> &str {
    OsStr::to_str(path.as_os_str()).expect("test paths are UTF-8")
}
