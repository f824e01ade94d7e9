//! Standard input as a file: what comes through a pipe is kept while it is offered, because
//! receivers come more than once and go on where they stopped.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use shoal_wire::SafePath;

use crate::exit::{Code, Failure};

/// A file with all of standard input, removed when this is dropped.
pub(super) struct Spool {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Spool {
    /// Reads standard input to its end into a file of that name, which only this user may read.
    pub(super) async fn fill(folder: &Path, name: &str) -> Result<Self, Failure> {
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
        let folder = folder.to_owned();
        let name = name.to_owned();
        let filled = tokio::task::spawn_blocking(move || {
            let folder = tempfile::Builder::new()
                .prefix("stdin-")
                .tempdir_in(folder)?;
            let path = folder.path().join(name);
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            io::copy(&mut io::stdin().lock(), &mut file)?;
            Ok::<_, io::Error>(Self {
                path,
                _folder: folder,
            })
        });
        let filled = filled
            .await
            .map_err(io::Error::other)
            .and_then(|filled| filled);
        filled.map_err(|error| Failure::local(format!("cannot keep standard input: {error}")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
