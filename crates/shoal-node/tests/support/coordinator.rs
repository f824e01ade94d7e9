//! A server that says what a test wants it to say, and a real peer that trusts it.

use std::path::PathBuf;

use shoal_link::{Endpoint, Identity, Link, Protocol};
use shoal_node::peer::{Peer, PeerOptions};
use shoal_node::relays::Relays;
use shoal_node::requests::{RequestError, request};
use shoal_node::share::{Roots, Share, ShareOptions};
use shoal_node::state::{ServerRef, TrustChoice};
use shoal_node::tasks::Tasks;
use shoal_node::throttle::LimitSettings;
use shoal_store::folder::Folder;
use shoal_store::index::Index;
use shoal_wire::message::{PRESENCE_EXPORT_LABEL, PresenceResponse, presence_proof_bytes};
use shoal_wire::{Communication, Refusal, ShortText};

use super::{DEADLINE, endpoint, soon};

/// A server to one peer, and that peer.
pub(crate) struct Club {
    root: tempfile::TempDir,
    pub(crate) peer: Peer,
    /// The peer's socket.
    pub(crate) endpoint: Endpoint,
    /// The server's end of the control link.
    pub(crate) link: Link,
    pub(crate) server: Identity,
    tasks: Tasks,
}

impl Club {
    /// A peer with one file, `hello.txt`, that is connected and has announced it.
    pub(crate) async fn new(accepts_offers: bool) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let files = root.path().join("files");
        std::fs::create_dir(&files).expect("a folder");
        std::fs::write(files.join("hello.txt"), "hello\n").expect("a file");
        let tasks = Tasks::new();
        let coordinator = endpoint(&[Protocol::Control]).await;
        let own = endpoint(&[Protocol::Transfer]).await;
        let index = Index::open(&root.path().join("index")).await;
        let share = ShareOptions {
            roots: Roots::whole(Folder::open(&files).expect("a folder")),
            hidden: false,
        };
        let share = Share::start(share, index.expect("an index"), &tasks);
        soon(share.all_hashed()).await;
        let options = PeerOptions {
            endpoint: own.clone(),
            server: ServerRef {
                addresses: vec![coordinator.local_addr().to_string()],
                trust: TrustChoice::Pinned(coordinator.node_id()),
                relay_pass: None,
            },
            name: "anna".parse().expect("a name"),
            agent: ShortText::new("shoal test"),
            share,
            accepts_offers,
            relays: Relays::new(),
            notices: None,
            limits: LimitSettings::default(),
            tasks: tasks.clone(),
        };
        let (started, link) =
            soon(async { tokio::join!(Peer::start(options), welcome(&coordinator)) }).await;
        let (peer, _) = started.expect("a welcome");
        take_announces(&link, &tasks);
        super::until(|| peer.status().announced_files == 1).await;
        Self {
            root,
            peer,
            endpoint: own,
            link,
            server: coordinator.identity().clone(),
            tasks,
        }
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.root.path().join("files")
    }

    /// Everything below the temporary folder, the peer's own index apart.
    pub(crate) fn names(&self) -> Vec<PathBuf> {
        let mut names = super::receiver::names(self.root.path());
        names.retain(|name| !name.to_string_lossy().starts_with("index"));
        names
    }
}

impl Drop for Club {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// The number with which a request on `link` is refused; `None` when it is answered.
pub(crate) async fn refusal_of(link: &Link, message: &Communication) -> Option<Refusal> {
    match request(link, message, DEADLINE).await {
        Ok(_) => None,
        Err(RequestError::Refused(report)) => Some(report.refusal),
        Err(other) => panic!("expected an answer to {message:?}, got {other:?}"),
    }
}

/// Accepts a link and greets the peer at its other end.
async fn welcome(server: &Endpoint) -> Link {
    let link = server.accept().await.expect("a dial");
    let mut stream = link.accept().await.expect("a stream");
    let first = stream.recv.hear(DEADLINE).await.expect("a message");
    assert!(matches!(first, Some(Communication::PresenceAnnounce(_))));
    let peer = link.remote_id().expect("a node");
    let exported = link.export_key(PRESENCE_EXPORT_LABEL, peer.as_bytes());
    let signed = presence_proof_bytes(&exported.expect("a key"));
    let response = PresenceResponse {
        server: server.node_id(),
        proof: server.identity().sign(&signed),
        agent: ShortText::new("scripted"),
        observed: link.path().remote,
        announce_interval_ms: 60_000,
    };
    let response = Communication::PresenceResponse(response);
    stream.send.say(&response).await.expect("a live stream");
    stream.send.finish();
    link.widen();
    link
}

/// Acknowledges whatever the peer announces.
fn take_announces(link: &Link, tasks: &Tasks) {
    let link = link.clone();
    tasks.spawn(async move {
        while let Ok(mut stream) = link.accept().await {
            if let Ok(Some(Communication::FileAnnounce(batch))) = stream.recv.hear(DEADLINE).await {
                let sequence = batch.sequence;
                let taken = Communication::FileAcknowledge { sequence };
                stream.send.say(&taken).await.expect("a live stream");
                stream.send.finish();
                stream.send.stopped().await;
            }
        }
    });
}
