//! From what a person typed to the files that will be fetched, and where each goes.
//!
//! The server says who has it. Everything is known before the first byte moves: which files,
//! under which names, and whether two of those names are one on the receiving disk.

use std::collections::BTreeMap;
use std::path::Path;

use shoal_link::Link;
use shoal_wire::message::{Matched, PeerRef, Provider, Wanted};
use shoal_wire::{Hash, NodeName, PathError, Refusal, SafePath, ShortText};

use crate::fetch::Source;
use crate::requests::RequestError;
use crate::session::{Located, Session};

/// Most files of one folder that are fetched with one command: bounds what is held in memory.
const FILES_MAX: usize = 1_000_000;

/// What the server's own folder is called where a peer is named.
pub const SERVER: &str = "server";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// At which peer; any where `None`.
    pub peer: Option<PeerRef>,
    /// What.
    pub wanted: Wanted,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// What was typed cannot be a file.
    #[error("'{typed}' is no name of a file: {reason}")]
    Malformed {
        /// As it was typed.
        typed: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody who is connected has it.
    #[error("no connected peer has '{typed}': look with 'shoal search' or 'shoal ls' ({detail})")]
    NotFound {
        /// As it was typed.
        typed: String,
        /// What the server said.
        detail: String,
    },
    /// Several files fit.
    #[error("'{typed}' fits {} different files: say which by PEER:PATH", candidates.len())]
    Ambiguous {
        /// As it was typed.
        typed: String,
        /// Each as it can be asked for.
        candidates: Vec<Candidate>,
    },
    /// Two names would be one file on this disk.
    #[error(
        "'{first}' and '{second}' would be the same file here: fetch them one by one into different folders"
    )]
    Collision {
        /// One of them.
        first: SafePath,
        /// The other.
        second: SafePath,
    },
    /// The folder has more files than one command takes.
    #[error("the folder has over {FILES_MAX} files: fetch its parts one by one")]
    TooMany,
    /// The server did not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// One of several files that fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who has it.
    pub peer: NodeName,
    /// Where.
    pub path: SafePath,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Its hash, where it is known.
    pub hash: Option<Hash>,
}

/// One file of a plan.
#[derive(Debug, Clone)]
pub struct PlannedFile {
    /// Who has it, best first.
    pub sources: Vec<Source>,
    /// Where it goes, below the receiving folder.
    pub target: SafePath,
}

impl Asked {
    /// Reads `NAME`, `PATH`, `HASH`, `HASH-PREFIX` or `PEER:PATH`.
    ///
    /// # Errors
    /// [`PlanError::Malformed`].
    pub fn parse(typed: &str) -> Result<Self, PlanError> {
        let malformed = |reason: &dyn ToString| PlanError::Malformed {
            typed: typed.to_owned(),
            reason: reason.to_string(),
        };
        if let Some((peer, path)) = typed.split_once(':') {
            let path: SafePath = trimmed(path)
                .parse()
                .map_err(|error: PathError| malformed(&error))?;
            return Ok(Self {
                peer: Some(peer_ref(peer)),
                wanted: Wanted::Path(path),
            });
        }
        let text = trimmed(typed);
        let wanted = match text.parse::<Hash>() {
            Ok(hash) => Wanted::Blob(hash),
            Err(_) if text.is_empty() => return Err(malformed(&"it is empty")),
            Err(_) => Wanted::Text(ShortText::new(text)),
        };
        Ok(Self { peer: None, wanted })
    }
}

/// A path as people type it: `./` before and `/` after mean nothing.
fn trimmed(typed: &str) -> &str {
    typed
        .strip_prefix("./")
        .unwrap_or(typed)
        .trim_end_matches('/')
}

/// A peer as a person names it.
pub fn peer_ref(typed: &str) -> PeerRef {
    match typed.parse() {
        Ok(node) => PeerRef::Id(node),
        Err(_) => PeerRef::Text(ShortText::new(typed)),
    }
}

/// The peer, or the server itself where it is called [`SERVER`].
fn named(session: &Session, peer: PeerRef) -> PeerRef {
    match peer {
        PeerRef::Text(text) if text.to_string() == SERVER => PeerRef::Id(session.server()),
        other => other,
    }
}

/// Finds out what `typed` means and where it goes below `folder`.
///
/// # Errors
/// When nothing or too much fits, or two of the files would be one.
pub async fn plan(
    session: &Session,
    typed: &str,
    folder: &Path,
) -> Result<Vec<PlannedFile>, PlanError> {
    let mut asked = Asked::parse(typed)?;
    asked.peer = asked.peer.map(|peer| named(session, peer));
    let located = locate(session, &asked, typed, None).await?;
    match located.matched {
        Matched::File => Ok(file(session, located.files).into_iter().collect()),
        Matched::Folder(ref path) => {
            let path = path.clone();
            let files = whole_folder(session, &path, located).await?;
            check_collisions(&files, folder)?;
            Ok(files)
        }
        Matched::Several => Err(PlanError::Ambiguous {
            typed: typed.to_owned(),
            candidates: located.files.into_iter().map(candidate).collect(),
        }),
    }
}

async fn locate(
    session: &Session,
    asked: &Asked,
    typed: &str,
    after: Option<SafePath>,
) -> Result<Located, PlanError> {
    let located = session
        .locate(asked.peer.clone(), asked.wanted.clone(), after)
        .await;
    match located {
        Err(RequestError::Refused(report))
            if matches!(
                report.refusal,
                Refusal::NotFound | Refusal::PeerNotConnected
            ) =>
        {
            let detail = report.detail.to_string();
            Err(PlanError::NotFound {
                typed: typed.to_owned(),
                detail: if detail.is_empty() {
                    report.refusal.text().to_owned()
                } else {
                    detail
                },
            })
        }
        other => Ok(other?),
    }
}

fn candidate(provider: Provider) -> Candidate {
    Candidate {
        peer: provider.name,
        path: provider.entry.path,
        size_bytes: provider.entry.size.bytes(),
        hash: provider.entry.hash,
    }
}

/// One content, wherever it is; named like it is at the best provider.
fn file(session: &Session, providers: Vec<Provider>) -> Option<PlannedFile> {
    let name = providers.first()?.entry.path.file_name().to_vec();
    Some(PlannedFile {
        target: SafePath::new(&name).ok()?,
        sources: providers
            .into_iter()
            .map(|provider| source(session, provider))
            .collect(),
    })
}

/// A provider that is the server itself is asked over the session's link.
fn source(session: &Session, provider: Provider) -> Source {
    let link: Option<Link> = (provider.node == session.server()).then(|| session.link().clone());
    Source { provider, link }
}

async fn whole_folder(
    session: &Session,
    folder: &SafePath,
    first: Located,
) -> Result<Vec<PlannedFile>, PlanError> {
    let name = SafePath::new(folder.file_name()).ok();
    let node = first.files.first().map(|provider| provider.node);
    let asked = Asked {
        peer: node.map(PeerRef::Id),
        wanted: Wanted::Path(folder.clone()),
    };
    let mut files: Vec<PlannedFile> = Vec::new();
    let mut page = first;
    loop {
        let last = page
            .files
            .last()
            .map(|provider| provider.entry.path.clone());
        for provider in page.files {
            let below = provider.entry.path.below(folder);
            let target = below
                .zip(name.as_ref())
                .and_then(|(below, name)| name.join(&below).ok());
            // A server that names files outside the folder that was asked for is not believed.
            let Some(target) = target else { continue };
            files.push(PlannedFile {
                target,
                sources: vec![source(session, provider)],
            });
        }
        if files.len() > FILES_MAX {
            return Err(PlanError::TooMany);
        }
        if !page.more || last.is_none() {
            return Ok(files);
        }
        page = locate(session, &asked, &folder.to_string(), last).await?;
    }
}

/// Refuses names that this disk takes for one: letter case, or composed and decomposed letters.
fn check_collisions(files: &[PlannedFile], folder: &Path) -> Result<(), PlanError> {
    let mut names: BTreeMap<String, &SafePath> = BTreeMap::new();
    for file in files {
        let key = file.target.collision_key();
        let Some(first) = names.insert(key, &file.target) else {
            continue;
        };
        if *first == file.target || !tells_apart(folder) {
            return Err(PlanError::Collision {
                first: first.clone(),
                second: file.target.clone(),
            });
        }
        tracing::warn!(%first, second = %file.target, "these two would be one file on other systems");
    }
    Ok(())
}

/// Whether the disk below `folder` keeps names apart that differ in case or composition only.
fn tells_apart(folder: &Path) -> bool {
    // "É" composed; its lower case, and the same letter decomposed, are other names.
    let probe = tempfile::Builder::new()
        .prefix(".shoal-\u{c9}")
        .suffix(".shoal-part")
        .tempfile_in(folder);
    let Ok(probe) = probe else { return false };
    let name = probe.path().to_string_lossy().into_owned();
    let twins = [
        name.replace('\u{c9}', "\u{e9}"),
        name.replace('\u{c9}', "E\u{301}"),
    ];
    twins.iter().all(|twin| !Path::new(twin).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(targets: &[&str]) -> Vec<PlannedFile> {
        targets
            .iter()
            .map(|target| PlannedFile {
                target: target.parse().unwrap(),
                sources: Vec::new(),
            })
            .collect()
    }

    #[test]
    fn what_is_typed_reads_as_peer_path_hash_or_text() {
        let parse = |typed| Asked::parse(typed).unwrap();
        let path = |text: &str| Wanted::Path(text.parse().unwrap());
        assert_eq!(
            parse("anna:photos/"),
            Asked {
                peer: Some(peer_ref("anna")),
                wanted: path("photos"),
            }
        );
        let hash = "ab".repeat(32);
        assert_eq!(parse(&hash).wanted, Wanted::Blob(hash.parse().unwrap()));
        assert_eq!(
            parse("./a.txt").wanted,
            Wanted::Text(ShortText::new("a.txt"))
        );
        for typed in ["", "/", "anna:", "anna:../x", "anna:/etc/passwd"] {
            assert!(
                matches!(Asked::parse(typed), Err(PlanError::Malformed { .. })),
                "{typed}"
            );
        }
    }

    #[test]
    fn twins_are_reported_before_anything_is_fetched() {
        let folder = tempfile::tempdir().unwrap();
        let same = planned(&["a/b", "a/b"]);
        assert!(matches!(
            check_collisions(&same, folder.path()),
            Err(PlanError::Collision { .. })
        ));
        let twins = planned(&["README", "readme"]);
        let nowhere = folder.path().join("gone");
        assert!(matches!(
            check_collisions(&twins, &nowhere),
            Err(PlanError::Collision { .. })
        ));
        assert_eq!(
            check_collisions(&twins, folder.path()).is_ok(),
            tells_apart(folder.path())
        );
        let apart = planned(&["a", "b"]);
        assert!(check_collisions(&apart, &nowhere).is_ok());
    }
}
