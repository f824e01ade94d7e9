//! `shoal demo`: the main job on one machine, with real processes, sockets and files.
//!
//! A server and three peers run in temporary folders on loopback; files and a folder move from
//! peer to peer, from the server to a peer and from a peer to the server, each checked against
//! its original's BLAKE3. It succeeds only if every one is right.

mod files;
mod process;

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;

use self::process::Daemon;
use crate::exit::{Code, Failure};
use crate::output::{Output, size};

const PEERS: [&str; 3] = ["anna", "bob", "carol"];

/// Runs the demonstration with a generated file of `size_mb` MiB.
pub(super) async fn run(size_mb: u64, output: &Output) -> Result<(), Failure> {
    let folder = tempfile::Builder::new()
        .prefix("shoal-demo-")
        .tempdir()
        .map_err(|error| Failure::local(format!("cannot make a temporary folder: {error}")))?;
    let stage = Stage {
        folder: folder.path().to_owned(),
    };
    let shown = demonstrate(&stage, size_mb, output).await;
    if let Err(error) = shown {
        let kept = folder.keep();
        return Err(Failure::new(
            Code::Other,
            format!(
                "the demo failed: {error:#}; its files and logs are in {}",
                kept.display()
            ),
        ));
    }
    Ok(())
}

/// Where everything of one demonstration lies.
struct Stage {
    folder: PathBuf,
}

impl Stage {
    fn files(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("files")
    }

    fn state(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("state")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("log.txt")
    }
}

async fn demonstrate(stage: &Stage, size_mb: u64, output: &Output) -> anyhow::Result<()> {
    prepare(stage, size_mb)?;
    output.note("Starting a server and three peers on loopback, each a process of its own:");
    let (server, ticket) = start_server(stage).await?;
    output.note(&format!("  server            process {}", server.id()));
    let mut daemons = vec![server];
    for name in PEERS {
        let peer = start_peer(stage, name, &ticket).await?;
        output.note(&format!("  peer {name:<12} process {}", peer.id()));
        daemons.push(peer);
    }
    let mut checked = (0, 0);
    for scene in scenes(stage) {
        output.note(&format!(
            "\n{}\n  $ {}",
            scene.title,
            process::shown(&words(&scene.typed))
        ));
        process::run(&words(&scene.arguments(output.is_json()))).await?;
        let (count, bytes) = files::compare(&scene.original, &scene.copy)
            .with_context(|| format!("check: {}", scene.title))?;
        output.machine(
            "checked",
            json!({ "what": scene.title, "files": count, "bytes": bytes }),
        );
        output.note(&format!(
            "  checked: {count} file(s), {}, every BLAKE3 the same",
            size(bytes)
        ));
        checked = (checked.0 + count, checked.1 + bytes);
    }
    for daemon in daemons {
        daemon.end().await?;
    }
    output.event("demo", json!({ "files": checked.0, "bytes": checked.1 }), || {
        let (count, bytes) = (checked.0, size(checked.1));
        format!("\nAll right: {count} files, {bytes} moved between server and peers, every hash checked.\n{BY_HAND}")
    });
    Ok(())
}

const BY_HAND: &str = "
The same by hand, in three terminals:
  mkdir -p files server_files && echo hello > files/hello.txt
  shoal server                                  prints a line to paste: shoal peer --join …
  shoal peer --join TICKET                      shares ./files and gives a prompt
  shoal search hello                            from anywhere that joined
  shoal get hello.txt -o /tmp
  shoal ctl peers                               beside the server: what it sees and orders";

fn prepare(stage: &Stage, size_mb: u64) -> anyhow::Result<()> {
    for name in PEERS.into_iter().chain(["server"]) {
        std::fs::create_dir_all(stage.files(name))?;
    }
    files::fill_with_repository(&stage.files("anna").join("project"))?;
    files::write_generated(&stage.files("bob").join("large.bin"), size_mb << 20, 1)?;
    files::write_generated(&stage.files("server").join("manual.bin"), 3_000_000, 2)?;
    std::fs::write(
        stage.files("server").join("welcome.txt"),
        "Server file content\n",
    )?;
    std::fs::write(
        stage.files("carol").join("notes.txt"),
        "Hello from carol!\n",
    )?;
    Ok(())
}

async fn start_server(stage: &Stage) -> anyhow::Result<(Daemon, String)> {
    let (files, state) = (stage.files("server"), stage.state("server"));
    let arguments = [
        OsStr::new("server"),
        OsStr::new("--addr"),
        OsStr::new("127.0.0.1:0"),
        OsStr::new("--files-dir"),
        files.as_os_str(),
        OsStr::new("--state-dir"),
        state.as_os_str(),
    ];
    let mut server = Daemon::start("the server", &arguments, &stage.log("server"))?;
    let listening = server.event("listening").await?;
    let ticket = listening["join"]
        .as_str()
        .context("the server prints a join ticket")?
        .to_owned();
    Ok((server, ticket))
}

async fn start_peer(stage: &Stage, name: &str, ticket: &str) -> anyhow::Result<Daemon> {
    let (files, state) = (stage.files(name), stage.state(name));
    let arguments = [
        OsStr::new("peer"),
        OsStr::new("--join"),
        OsStr::new(ticket),
        OsStr::new("--name"),
        OsStr::new(name),
        OsStr::new("--files-dir"),
        files.as_os_str(),
        OsStr::new("--state-dir"),
        state.as_os_str(),
    ];
    let mut peer = Daemon::start(name, &arguments, &stage.log(name))?;
    peer.event("announced").await?;
    Ok(peer)
}

/// One thing that is shown: a command, and which file or folder must then equal which.
struct Scene {
    title: &'static str,
    typed: Vec<String>,
    state: PathBuf,
    original: PathBuf,
    copy: PathBuf,
}

impl Scene {
    fn arguments(&self, json: bool) -> Vec<String> {
        let mut arguments = self.typed.clone();
        // `ctl` takes its own options before the order, the other commands anywhere.
        let state = [
            String::from("--state-dir"),
            self.state.display().to_string(),
        ];
        arguments.splice(1..1, state);
        if json {
            arguments.insert(0, "--json".to_owned());
        }
        arguments
    }
}

fn scenes(stage: &Stage) -> Vec<Scene> {
    let scene = |title, node: &str, typed: &[&str], original: PathBuf, copy: PathBuf| Scene {
        title,
        typed: typed.iter().map(|word| (*word).to_owned()).collect(),
        state: stage.state(node),
        original,
        copy,
    };
    let files = |name: &str, path: &str| stage.files(name).join(path);
    let into = |name: &str| stage.files(name).display().to_string();
    vec![
        scene(
            "peer to peer: carol gets a large file from bob",
            "carol",
            &["get", "large.bin", "-o", &into("carol")],
            files("bob", "large.bin"),
            files("carol", "large.bin"),
        ),
        scene(
            "peer to peer: bob gets a whole folder from anna",
            "bob",
            &["get", "anna:project", "-o", &into("bob")],
            files("anna", "project"),
            files("bob", "project"),
        ),
        scene(
            "server to peer: anna gets a file from the server's folder",
            "anna",
            &["get", "welcome.txt", "-o", &into("anna")],
            files("server", "welcome.txt"),
            files("anna", "welcome.txt"),
        ),
        scene(
            "server to peer: the server pushes a file to bob",
            "server",
            &["ctl", "push", "manual.bin", "bob"],
            files("server", "manual.bin"),
            files("bob", "manual.bin"),
        ),
        scene(
            "peer to server: the server fetches bob's large file",
            "server",
            &["ctl", "fetch", "bob", "large.bin"],
            files("bob", "large.bin"),
            files("server", "large.bin"),
        ),
        scene(
            "peer to peer by order of the server: anna gets carol's notes",
            "server",
            &["ctl", "transfer", "carol", "notes.txt", "anna"],
            files("carol", "notes.txt"),
            files("anna", "notes.txt"),
        ),
    ]
}

fn words(arguments: &[String]) -> Vec<&OsStr> {
    arguments.iter().map(OsStr::new).collect()
}
