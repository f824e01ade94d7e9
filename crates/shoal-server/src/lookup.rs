//! Look-ups as nodes ask them: what the catalog found becomes providers with addresses and grants.
//!
//! Signs the grants. A grant names the asking node, the provider, and no more than was asked for:
//! the file, the folder, or the content by its hash.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoal_wire::limits::BATCH_TARGET_BYTES;
use shoal_wire::message::{Addresses, Bounded, ErrorReport, Matched, PeerRef, Provider, Wanted};
use shoal_wire::{
    Communication, FileEntry, Grant, NodeId, Refusal, SafePath, Scope, SignedGrant, Verb,
};

use crate::addresses::told_to;
use crate::catalog::{Located, Nodes, Question, Row, Sought};
use crate::coordinator::Coordinator;
use crate::refused::{catalog_failed, refused};

/// How long a grant holds: a fetch that takes longer asks again.
const GRANT_LIFETIME: Duration = Duration::from_secs(3600);
/// What a provider takes in a frame beyond its two paths, in bytes: ids, sixteen addresses, hash,
/// signature and a name of the longest kind.
const PROVIDER_BYTES: usize = 900;

/// Who asks, and from where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    /// The node.
    pub(crate) node: NodeId,
    /// The address that the server sees.
    pub(crate) observed: IpAddr,
}

/// What was found, before it is cut to the size of a frame.
#[derive(Debug)]
pub(crate) struct Found {
    /// What the wanted text turned out to be.
    pub(crate) matched: Matched,
    /// Each with its grant.
    pub(crate) providers: Vec<Provider>,
    /// Whether there are more.
    pub(crate) more: bool,
}

impl Coordinator {
    /// Answers [`Communication::Locate`].
    pub(crate) async fn locate(
        &self,
        asker: Asker,
        peer: Option<&PeerRef>,
        wanted: Wanted,
        after: Option<SafePath>,
    ) -> Result<Communication, ErrorReport> {
        let nodes = match peer {
            None => self.online().await?,
            Some(reference) => Nodes::from([self.node_meant(reference).await?]),
        };
        let found = self.find(asker, &nodes, wanted, after).await?;
        let (files, cut) = fitting(found.providers, |provider| {
            PROVIDER_BYTES + 2 * provider.entry.path.as_bytes().len()
        });
        Ok(Communication::Located {
            more: found.more || (cut && matches!(found.matched, Matched::Folder(_))),
            matched: found.matched,
            files: Bounded::truncated(files),
        })
    }

    /// Finds who of `nodes` has what `asker` wants.
    pub(crate) async fn find(
        &self,
        asker: Asker,
        nodes: &Nodes,
        wanted: Wanted,
        after: Option<SafePath>,
    ) -> Result<Found, ErrorReport> {
        let (sought, by_hash) = match wanted {
            Wanted::Path(path) => (Sought::Path(path), false),
            Wanted::Blob(hash) => (Sought::Blob(hash), true),
            Wanted::Text(text) => (Sought::Text(text.as_str().to_owned()), false),
        };
        let question = Question {
            sought,
            nodes,
            asker: Some(asker.node),
            after,
        };
        let located = self.catalog.locate(&question).await;
        let (matched, rows, scope, more) = match located.map_err(catalog_failed)? {
            Located::Nothing => return Err(refused(Refusal::NotFound, "")),
            Located::OnlyAsker => return Err(refused(Refusal::NotFound, "only this node has it")),
            Located::File(rows) => (Matched::File, rows, None, false),
            Located::Several(rows) => (Matched::Several, rows, None, false),
            Located::Folder {
                path,
                node,
                name,
                files,
                more,
            } => {
                let row = |entry| Row {
                    node,
                    name: name.clone(),
                    entry,
                };
                let rows = files.into_iter().map(row).collect();
                (
                    Matched::Folder(path.clone()),
                    rows,
                    Some(Scope::Path(path)),
                    more,
                )
            }
        };
        let scope_of = |entry: &FileEntry| match (&scope, entry.hash) {
            (Some(scope), _) => scope.clone(),
            (None, Some(hash)) if by_hash => Scope::Blob(hash),
            (None, _) => Scope::Path(entry.path.clone()),
        };
        Ok(Found {
            matched,
            providers: self.providers(asker, rows, scope_of).await?,
            more,
        })
    }

    async fn providers(
        &self,
        asker: Asker,
        rows: Vec<Row>,
        scope_of: impl Fn(&FileEntry) -> Scope + Send,
    ) -> Result<Vec<Provider>, ErrorReport> {
        let nodes: Nodes = rows.iter().map(|row| row.node).collect();
        let places = self.places(nodes).await?;
        let mut last: Option<(NodeId, Scope, SignedGrant)> = None;
        let mut providers = Vec::with_capacity(rows.len());
        for row in rows {
            let own = row.node == self.node();
            let (addresses, grant) = if own {
                (Addresses::default(), None)
            } else {
                let known = places.get(&row.node).map(Vec::as_slice).unwrap_or_default();
                let scope = scope_of(&row.entry);
                let grant = match &last {
                    Some((node, same, grant)) if *node == row.node && *same == scope => {
                        grant.clone()
                    }
                    _ => self.grant(asker.node, row.node, scope.clone()),
                };
                last = Some((row.node, scope, grant.clone()));
                (told_to(asker.observed, known), Some(grant))
            };
            providers.push(Provider {
                node: row.node,
                name: row.name,
                addresses,
                entry: row.entry,
                grant,
            });
        }
        Ok(providers)
    }

    async fn places(&self, nodes: Nodes) -> Result<BTreeMap<NodeId, Vec<SocketAddr>>, ErrorReport> {
        self.roster
            .view(move |view| {
                let known = nodes.iter().filter_map(|node| {
                    let peer = view.registry().peer(node)?;
                    Some((*node, peer.presence.addresses.clone()))
                });
                known.collect()
            })
            .await
    }

    fn grant(&self, holder: NodeId, provider: NodeId, scope: Scope) -> SignedGrant {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let expires_at = now.unwrap_or_default() + GRANT_LIFETIME;
        let grant = Grant {
            issuer: self.node(),
            holder,
            provider,
            scope,
            verb: Verb::Fetch,
            expires_at_ms: u64::try_from(expires_at.as_millis()).unwrap_or(u64::MAX),
        };
        let signature = self.identity.sign(&grant.signing_bytes());
        SignedGrant { grant, signature }
    }
}

/// As many of the items, from the first, as fit a frame, and whether some were left off.
pub(crate) fn fitting<T>(mut items: Vec<T>, len_bytes: impl Fn(&T) -> usize) -> (Vec<T>, bool) {
    let mut sum_bytes = 0;
    let fit = items.iter().take_while(|item| {
        sum_bytes += len_bytes(item);
        sum_bytes <= BATCH_TARGET_BYTES
    });
    let fit = fit.count();
    let cut = fit < items.len();
    items.truncate(fit);
    (items, cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_before_its_frame_is_full() {
        let (items, cut) = fitting(vec![200 * 1024; 4], |len_bytes| *len_bytes);
        assert_eq!((items.len(), cut), (2, true));
        let (items, cut) = fitting(vec![1; 4], |len_bytes| *len_bytes);
        assert_eq!((items.len(), cut), (4, false));
    }
}
