//! The state directory: what a node keeps between runs.
//!
//! ```text
//! .shoal-state    says that the directory is private, see [`shoal_store::private`]
//! identity.pem    the node's Ed25519 key, PKCS#8, mode 0600; made at first use
//! settings.toml   name and server, as last used; rate limits, as the user wrote them
//! contacts.toml   people whose nodes are known (peers)
//! hashes.db       cache of hashes by file
//! catalog.db      what peers announced (servers)
//! control.sock    where a running server takes orders (servers)
//! lock            held while a daemon runs
//! ```
//!
//! The directory has mode 0700. By default it is `$XDG_STATE_HOME/shoal/ROLE`.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shoal_link::Identity;
use shoal_store::{durable, private};
use shoal_wire::{NodeId, NodeName};

use crate::throttle::LimitSettings;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no home directory to put it in.
    #[error("no home directory is known: name a folder with --state-dir")]
    NoHome,
    /// The directory or a file in it cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file in it does not parse.
    #[error("{} is damaged ({reason}): repair it, or move it away to start afresh", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Others may read the key.
    #[error("{} can be read by others: run 'chmod 600 {}', and make a new identity if someone may have copied it", path.display(), path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
    },
    /// A daemon runs with it.
    #[error("another shoal runs with {}: stop it, or choose another folder with --state-dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

/// How a server's identity is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustChoice {
    /// It must own this key.
    #[serde(with = "node_id_text")]
    Pinned(NodeId),
    /// Its certificate must be, or lead to, one in this PEM file.
    CertificateFile(PathBuf),
    /// Its certificate must lead to one of the system's roots.
    System,
    /// Anybody is believed.
    Nothing,
}

/// A server, as a peer remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRef {
    /// Where it is: `HOST:PORT` or `ADDRESS:PORT`, each worth a try.
    pub addresses: Vec<String>,
    /// How it is trusted.
    pub trust: TrustChoice,
    /// What admits to its relay, from its ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_pass: Option<String>,
}

/// What is remembered from the last run, and what the user wrote into the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    /// The peer's server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerRef>,
    /// Rate limits, where neither options nor environment say any.
    #[serde(default, skip_serializing_if = "LimitSettings::is_empty")]
    pub limits: LimitSettings,
}

/// An open state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// Held while a daemon runs: no second one starts with the same directory.
#[derive(Debug)]
pub struct Lock {
    _file: fs::File,
}

impl StateDir {
    /// Opens `explicit`, or the user's directory for `role`, and makes it where it is missing.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(explicit: Option<&Path>, role: &str) -> Result<Self, StateError> {
        let path = match explicit {
            Some(path) => path.to_owned(),
            None => default_path(role)?,
        };
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path);
        made.map_err(failed("make the folder", &path))?;
        // Before the first key. One that cannot be written is private by its key.
        if let Err(error) = private::mark(&path) {
            tracing::debug!(folder = %path.display(), %error, "not marked as private");
        }
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This node's key; made at first use.
    ///
    /// # Errors
    /// When it cannot be read or written, is damaged, or can be read by others.
    pub fn identity(&self) -> Result<Identity, StateError> {
        let path = self.path.join(private::KEY);
        match self.read_identity(&path)? {
            Some(identity) => Ok(identity),
            None => self.make_identity(&path),
        }
    }

    /// What is remembered.
    ///
    /// # Errors
    /// When the file cannot be read or does not parse.
    pub fn settings(&self) -> Result<Settings, StateError> {
        self.read_toml(&self.settings_path())
    }

    /// Remembers `settings`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, settings: &Settings) -> Result<(), StateError> {
        self.write_toml(&self.settings_path(), settings)
    }

    /// What a file holds, or the default where there is none.
    pub(crate) fn read_toml<T: Default + DeserializeOwned>(
        &self,
        path: &Path,
    ) -> Result<T, StateError> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| StateError::Damaged {
                path: path.to_owned(),
                reason: error.message().to_owned(),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
            Err(source) => Err(failed("read", path)(source)),
        }
    }

    pub(crate) fn write_toml(&self, path: &Path, value: &impl Serialize) -> Result<(), StateError> {
        let text = toml::to_string(value).map_err(|error| StateError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        durable::write_file(path, text.as_bytes(), 0o600).map_err(failed("write", path))
    }

    /// Takes the directory for a daemon, until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// [`StateError::Locked`] when another process holds it.
    pub fn lock(&self) -> Result<Lock, StateError> {
        let path = self.path.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::Locked {
                path: self.path.clone(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    /// Whom this user knows.
    pub fn contacts_path(&self) -> PathBuf {
        self.path.join("contacts.toml")
    }

    /// The cache of hashes.
    pub fn index_path(&self) -> PathBuf {
        self.path.join("hashes.db")
    }

    /// The server's catalog.
    pub fn catalog_path(&self) -> PathBuf {
        self.path.join("catalog.db")
    }

    /// The server's control socket.
    pub fn control_socket_path(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// What a peer's prompt remembers.
    pub fn history_path(&self) -> PathBuf {
        self.path.join("history")
    }

    fn settings_path(&self) -> PathBuf {
        self.path.join("settings.toml")
    }

    fn read_identity(&self, path: &Path) -> Result<Option<Identity>, StateError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("read", path)(source)),
        };
        let mode = fs::metadata(path)
            .map_err(failed("look at", path))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(StateError::Exposed {
                path: path.to_owned(),
            });
        }
        let identity = Identity::from_pem(&text).map_err(|error| StateError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Some(identity))
    }

    /// Makes a key and keeps it, unless another process was faster: then that one counts.
    fn make_identity(&self, path: &Path) -> Result<Identity, StateError> {
        let identity = Identity::generate();
        let complete = (|| {
            let mut file = tempfile_in(&self.path)?;
            file.write_all(identity.to_pem().as_bytes())?;
            file.as_file().sync_all()?;
            Ok(file)
        })()
        .map_err(failed("write", path))?;
        match complete.persist_noclobber(path) {
            Ok(_) => {
                let synced = fs::File::open(&self.path).and_then(|folder| folder.sync_all());
                synced.map_err(failed("write", path))?;
                Ok(identity)
            }
            Err(taken) if taken.error.kind() == ErrorKind::AlreadyExists => self
                .read_identity(path)?
                .ok_or_else(|| failed("read", path)(ErrorKind::NotFound.into())),
            Err(refused) => Err(failed("write", path)(refused.error)),
        }
    }
}

/// A file of mode 0600 in `folder` that vanishes unless it is given a name.
fn tempfile_in(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new().prefix(".new-").tempfile_in(folder)
}

fn default_path(role: &str) -> Result<PathBuf, StateError> {
    let base = etcetera::base_strategy::Xdg::new().map_err(|_| StateError::NoHome)?;
    let state = base.state_dir().ok_or(StateError::NoHome)?;
    Ok(state.join("shoal").join(role))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path,
        source,
    }
}

pub(crate) mod node_id_text {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use shoal_wire::NodeId;

    pub(crate) fn serialize<S: Serializer>(
        node: &NodeId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(node)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<NodeId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("state")), "peer").unwrap();
        (folder, state)
    }

    #[test]
    fn an_identity_is_made_once_and_only_its_owner_can_read_it() {
        let (_folder, state) = state();
        let first = state.identity().unwrap().node_id();
        assert_eq!(state.identity().unwrap().node_id(), first);
        let key = state.path().join("identity.pem");
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(state.identity(), Err(StateError::Exposed { .. })));
    }

    #[test]
    fn a_damaged_identity_is_reported_and_not_replaced() {
        let (_folder, state) = state();
        let key = state.path().join("identity.pem");
        durable::write_file(&key, b"nonsense", 0o600).unwrap();
        assert!(matches!(state.identity(), Err(StateError::Damaged { .. })));
        assert_eq!(fs::read(&key).unwrap(), b"nonsense");
    }

    #[test]
    fn settings_read_back_as_they_were_saved() {
        let (_folder, state) = state();
        assert_eq!(state.settings().unwrap(), Settings::default());
        let choices = [
            TrustChoice::Pinned(NodeId::new([7; 32])),
            TrustChoice::CertificateFile("/etc/shoal/server.crt".into()),
            TrustChoice::System,
            TrustChoice::Nothing,
        ];
        for trust in choices {
            let settings = Settings {
                name: Some("anna".parse().unwrap()),
                server: Some(ServerRef {
                    addresses: vec!["localhost:8080".to_owned()],
                    trust,
                    relay_pass: Some("PASS".to_owned()),
                }),
                limits: toml::from_str("up = ['9M', '1M@8:00-18:00']").unwrap(),
            };
            state.save(&settings).unwrap();
            assert_eq!(state.settings().unwrap(), settings);
        }
        fs::write(state.path().join("settings.toml"), "name = 3").unwrap();
        assert!(matches!(state.settings(), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn a_second_daemon_is_kept_out() {
        let (_folder, state) = state();
        let held = state.lock().unwrap();
        assert!(matches!(state.lock(), Err(StateError::Locked { .. })));
        drop(held);
        state.lock().unwrap();
    }
}
