//! From what a person typed to the files that will be fetched, and where each goes.
//!
//! The server says who has it. Everything is known before the first byte moves: which files,
//! under which names, and whether two of those names are one on the receiving disk.

use std::collections::BTreeMap;
use std::path::Path;

use shoal_link::Link;
use shoal_wire::message::{Matched, PeerRef, Provider, Wanted};
use shoal_wire::{Hash, NodeName, PathError, Refusal, SafePath, ShortText};

use crate::fetch::{Further, Source};
use crate::requests::RequestError;
use crate::session::{Located, Session};

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
    /// Who else may have it.
    pub further: Option<Further>,
    /// Where it goes, below the receiving folder.
    pub target: SafePath,
}

/// One folder of a plan, fetched as a tree.
#[derive(Debug, Clone)]
pub struct PlannedTree {
    /// Who has it.
    pub source: Source,
    /// Which folder there.
    pub remote: SafePath,
    /// Where it goes, below the receiving folder.
    pub target: SafePath,
}

/// What something that was typed turned out to be.
#[derive(Debug, Clone)]
pub enum Planned {
    /// A file, at one or more nodes.
    File(PlannedFile),
    /// A folder of one node.
    Tree(Box<PlannedTree>),
}

impl Planned {
    /// Where it goes, below the receiving folder.
    pub fn target(&self) -> &SafePath {
        match self {
            Self::File(file) => &file.target,
            Self::Tree(tree) => &tree.target,
        }
    }
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

/// Finds out what each of `wanted` means and where it goes below `folder`.
///
/// # Errors
/// When nothing or too much fits, or two of them would be one.
pub async fn plan(
    session: &Session,
    wanted: &[String],
    folder: &Path,
) -> Result<Vec<Planned>, PlanError> {
    let mut planned = Vec::with_capacity(wanted.len());
    for typed in wanted {
        planned.push(plan_one(session, typed).await?);
    }
    let targets: Vec<&SafePath> = planned.iter().map(Planned::target).collect();
    check_collisions(&targets, folder)?;
    Ok(planned)
}

async fn plan_one(session: &Session, typed: &str) -> Result<Planned, PlanError> {
    let mut asked = Asked::parse(typed)?;
    asked.peer = asked.peer.map(|peer| named(session, peer));
    let located = locate(session, &asked, typed).await?;
    let nothing = || PlanError::NotFound {
        typed: typed.to_owned(),
        detail: Refusal::NotFound.text().to_owned(),
    };
    match located.matched {
        Matched::File => file(session, located.files)
            .map(Planned::File)
            .ok_or_else(nothing),
        Matched::Folder(remote) => {
            let name = SafePath::new(remote.file_name()).ok();
            let provider = located.files.into_iter().next();
            let (target, provider) = name.zip(provider).ok_or_else(nothing)?;
            Ok(Planned::Tree(Box::new(PlannedTree {
                source: source(session, provider),
                remote,
                target,
            })))
        }
        Matched::Several => Err(PlanError::Ambiguous {
            typed: typed.to_owned(),
            candidates: located.files.into_iter().map(candidate).collect(),
        }),
    }
}

async fn locate(session: &Session, asked: &Asked, typed: &str) -> Result<Located, PlanError> {
    let located = session
        .locate(asked.peer.clone(), asked.wanted.clone(), None)
        .await;
    match located {
        Err(RequestError::Refused(report))
            if matches!(
                report.refusal,
                Refusal::NotFound | Refusal::PeerNotConnected
            ) =>
        {
            let mut detail = report.detail.to_string();
            if report.refusal == Refusal::PeerNotConnected && !detail.is_empty() {
                detail.push_str(" is not connected");
            }
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
        further: None,
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

/// Refuses names that this disk takes for one: letter case, or composed and decomposed letters.
fn check_collisions(targets: &[&SafePath], folder: &Path) -> Result<(), PlanError> {
    let mut names: BTreeMap<String, &SafePath> = BTreeMap::new();
    for target in targets {
        let Some(first) = names.insert(target.collision_key(), target) else {
            continue;
        };
        if first == *target || !tells_apart(folder) {
            return Err(PlanError::Collision {
                first: first.clone(),
                second: (*target).clone(),
            });
        }
        tracing::warn!(%first, second = %target, "these two would be one file on other systems");
    }
    Ok(())
}

/// Whether the disk below `folder` keeps names apart that differ in case or composition only.
pub(crate) fn tells_apart(folder: &Path) -> bool {
    // "É" composed; its lower case, and the same letter decomposed, are other names. A folder of this
    // name that a crash leaves behind is removed by the next staging there.
    let probe = tempfile::Builder::new()
        .prefix(".shoal-\u{c9}")
        .suffix(".shoal-part")
        .tempdir_in(folder);
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

    fn check(targets: &[&str], folder: &Path) -> Result<(), PlanError> {
        let targets: Vec<SafePath> = targets.iter().map(|text| text.parse().unwrap()).collect();
        check_collisions(&targets.iter().collect::<Vec<_>>(), folder)
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
        let nowhere = folder.path().join("gone");
        for (targets, at) in [
            (["a/b", "a/b"], folder.path()),
            (["README", "readme"], &nowhere),
        ] {
            let refused = check(&targets, at);
            assert!(
                matches!(refused, Err(PlanError::Collision { .. })),
                "{targets:?}"
            );
        }
        assert_eq!(
            check(&["README", "readme"], folder.path()).is_ok(),
            tells_apart(folder.path())
        );
        assert!(check(&["a", "b"], &nowhere).is_ok());
    }
}
