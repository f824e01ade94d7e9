//! Standard input as a file: what comes through a pipe is kept while it is offered, because
//! receivers come more than once and go on where they stopped.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use shoal_node::state::StateDir;
use shoal_wire::SafePath;
use tokio::sync::oneshot;

use crate::args::SendArguments;
use crate::exit::{Code, Failure};

/// A file that takes all of standard input, removed when this is dropped.
pub(super) struct Spool {
    path: PathBuf,
    _folder: tempfile::TempDir,
    file: File,
}

impl Spool {
    /// An empty file of that name, which only this user may read.
    pub(super) fn create(folder: &Path, name: &str) -> Result<Self, Failure> {
        let safe: SafePath = name.parse().map_err(|error| {
            Failure::new(
                Code::Usage,
                format!("--name {name:?} cannot travel: {error}"),
            )
        })?;
        if safe.parent().is_some() {
            let text = "--name takes a name, not a path";
            return Err(Failure::new(Code::Usage, text));
        }
        let created = || {
            let folder = tempfile::Builder::new()
                .prefix("stdin-")
                .tempdir_in(folder)?;
            let path = folder.path().join(name);
            let mut options = std::fs::OpenOptions::new();
            let file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            Ok(Self {
                path,
                _folder: folder,
                file,
            })
        };
        created().map_err(unkept)
    }

    /// Reads standard input to its end, and tells how many bytes that were.
    pub(super) async fn fill(&self) -> Result<u64, Failure> {
        let mut file = self.file.try_clone().map_err(unkept)?;
        let filling = move || io::copy(&mut io::stdin().lock(), &mut file);
        let filled = tokio::task::spawn_blocking(filling).await;
        filled
            .map_err(io::Error::other)
            .and_then(|filled| filled)
            .map_err(unkept)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What is sent; standard input goes into a file, which is removed when the guard goes.
pub(super) fn paths_of(
    arguments: &SendArguments,
    state: &StateDir,
) -> Result<(Vec<PathBuf>, Option<Spool>), Failure> {
    let is_one_file = || matches!(&arguments.paths[..], [only] if !only.is_dir());
    if arguments.by_hash && !is_one_file() {
        let text = "--by-hash is for one file: a hash names no folder and no second file";
        return Err(Failure::new(Code::Usage, text));
    }
    let is_input = |path: &PathBuf| path.as_path() == Path::new("-");
    let mut paths = arguments.paths.clone();
    let Some(at) = paths.iter().position(is_input) else {
        return Ok((paths, None));
    };
    let spool = Spool::create(state.path(), &arguments.name)?;
    paths[at] = spool.path().to_owned();
    Ok((paths, Some(spool)))
}

/// Ends when everything that is offered is on the disk; never where that failed.
pub(super) async fn completed(is_there: bool, is_complete: oneshot::Receiver<()>) {
    if !is_there && is_complete.await.is_err() {
        std::future::pending().await
    }
}

/// Reads what is to be read before it can be offered; how much that was, in bytes.
pub(super) async fn filled(spool: Option<&Spool>) -> Result<Option<u64>, Failure> {
    match spool {
        Some(spool) => spool.fill().await.map(Some),
        None => Ok(None),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "taken by map_err")]
fn unkept(error: io::Error) -> Failure {
    Failure::local(format!("cannot keep standard input: {error}"))
}
