//! The demo's server and peers: this program's own executable, started, listened to and ended.
//!
//! A process that is dropped is killed by its id and waited for, whatever else went wrong.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long a process may take to say what is waited for: start, handshake and first scan take
/// well under a second, a loaded machine many times that.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// How long a process may take to close its files and connections.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(10);

/// A server or peer that runs in the background and prints JSON events.
pub(super) struct Daemon {
    name: String,
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
}

impl Daemon {
    /// Starts `shoal --json ARGUMENTS…` with what it logs in `log`.
    pub(super) fn start(name: &str, arguments: &[&OsStr], log: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::create(log).context("create a log file")?;
        let mut child = command()?
            .arg("--json")
            .args(arguments)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let stdout = child
            .stdout
            .take()
            .context("standard output was piped above")?;
        let events = BufReader::new(stdout).lines();
        Ok(Self {
            name: name.to_owned(),
            child,
            events,
        })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Waits until it prints `event`, and returns that.
    pub(super) async fn event(&mut self, event: &str) -> anyhow::Result<Value> {
        let heard = async {
            while let Some(line) = self.events.next_line().await? {
                let value: Value = serde_json::from_str(&line)
                    .with_context(|| format!("{} printed {line:?}", self.name))?;
                if value["event"] == event {
                    return Ok(value);
                }
                if value["event"] == "error" {
                    bail!("{} failed: {}", self.name, value["message"]);
                }
            }
            bail!("{} ended before it said {event:?}", self.name)
        };
        tokio::time::timeout(ANSWER_DEADLINE, heard)
            .await
            .with_context(|| format!("{} did not say {event:?} in time", self.name))?
    }

    /// Asks it to close and waits; kills it when it does not.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        let id = i32::try_from(self.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)
                .with_context(|| format!("end {}", self.name))?;
        }
        match tokio::time::timeout(GOODBYE_DEADLINE, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(
                    status.success(),
                    "{} ended with {status}, see its log",
                    self.name
                );
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!(
                    "{} did not close in {GOODBYE_DEADLINE:?} and was killed",
                    self.name
                )
            }
        }
    }
}

/// Runs one `shoal ARGUMENTS…` to its end, showing the person what it prints.
pub(super) async fn run(arguments: &[&OsStr]) -> anyhow::Result<()> {
    let status = command()?
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .await?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(arguments));
    }
    Ok(())
}

/// The command line as a person would type it.
pub(super) fn shown(arguments: &[&OsStr]) -> String {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    format!("shoal {}", words.join(" "))
}

fn command() -> anyhow::Result<Command> {
    let program: PathBuf = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    // The demo's own folders decide, not what the user set for real work.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SHOAL_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}
