//! A folder that is shared and served as a peer does it, without the rest of a peer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_link::{Endpoint, Identity, Link, Protocol, Stream};
use shoal_node::fetch::Source;
use shoal_node::provide::{Asker, Permission, Provide};
use shoal_node::requests::{Handler, serve_streams};
use shoal_node::share::{Roots, Share, ShareOptions};
use shoal_node::tasks::Tasks;
use shoal_node::transfers::Transfers;
use shoal_store::folder::Folder;
use shoal_store::index::Index;
use shoal_wire::message::{Addresses, Provider};
use shoal_wire::{Communication, Grant, NodeId, Scope, SignedGrant, Verb};

use super::content::path;
use super::{endpoint, soon};

pub(crate) struct Sharing {
    root: tempfile::TempDir,
    pub(crate) share: Share,
    pub(crate) endpoint: Endpoint,
    /// The server whose grants count here.
    pub(crate) server: Identity,
    pub(crate) transfers: Transfers,
    tasks: Tasks,
}

impl Sharing {
    /// Shares what `fill` puts into a folder, once all of it is hashed.
    pub(crate) async fn of(fill: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let files = root.path().join("files");
        std::fs::create_dir(&files).expect("a folder");
        fill(&files);
        let (tasks, server) = (Tasks::new(), Identity::generate());
        let index = Index::open(&root.path().join("index")).await;
        let options = ShareOptions {
            roots: Roots::whole(Folder::open(&files).expect("a folder")),
            hidden: false,
        };
        let share = Share::start(options, index.expect("an index"), &tasks);
        soon(share.all_hashed()).await;
        let endpoint = endpoint(&[Protocol::Transfer]).await;
        let transfers = Transfers::new();
        let handler = Arc::new(Answers {
            provide: Provide::new(
                share.clone(),
                transfers.clone(),
                endpoint.node_id(),
                tasks.clone(),
            ),
            server: server.node_id(),
        });
        let (accepting, running) = (endpoint.clone(), tasks.clone());
        tasks.spawn(async move {
            while let Some(link) = accepting.accept().await {
                let (handler, tasks) = (Arc::clone(&handler), running.clone());
                running.spawn(async move {
                    link.widen();
                    serve_streams(&link, &tasks, handler).await;
                });
            }
        });
        Self {
            root,
            share,
            endpoint,
            server,
            transfers,
            tasks,
        }
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.root.path().join("files")
    }

    pub(crate) fn node(&self) -> NodeId {
        self.endpoint.node_id()
    }

    /// What the server lets `holder` do here.
    pub(crate) fn grant(&self, holder: NodeId, scope: Scope) -> Grant {
        Grant {
            issuer: self.server.node_id(),
            holder,
            provider: self.node(),
            scope,
            verb: Verb::Fetch,
            expires_at_ms: now_ms() + 3_600_000,
        }
    }

    /// The file at `at` as a source for `holder`, under an address of this node or of another
    /// that stands between.
    pub(crate) fn source(&self, at: &str, holder: NodeId, through: &Endpoint) -> Source {
        let shared = self.share.file(&path(at)).expect("a shared file");
        let provider = Provider {
            node: through.node_id(),
            name: "anna".parse().expect("a name"),
            addresses: Addresses::truncated(vec![through.local_addr()]),
            entry: shared.entry,
            grant: Some(signed(&self.server, self.grant(holder, Scope::Share))),
        };
        Source {
            provider,
            link: None,
        }
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

pub(crate) fn signed(by: &Identity, grant: Grant) -> SignedGrant {
    let signature = by.sign(&grant.signing_bytes());
    SignedGrant { grant, signature }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock after 1970").as_millis() as u64
}

struct Answers {
    provide: Provide,
    server: NodeId,
}

impl Handler for Answers {
    async fn handle(&self, first: Communication, stream: Stream, link: &Link) {
        let permission = Permission::Grant {
            server: self.server,
        };
        let asker = Asker {
            node: link.remote_id().expect("a node"),
            name: "somebody".parse().expect("a name"),
            permission,
        };
        self.provide.answer(first, asker, stream).await;
    }
}
