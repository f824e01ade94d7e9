//! A server in a temporary folder, and guests that speak to it message by message.

#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test that cannot go on fails, and no test uses all of this"
)]

use std::path::PathBuf;
use std::time::Duration;

use shoal_link::{
    Dial, Endpoint, EndpointConfig, Identity, Link, LinkError, Protocol, Stream, Trust,
};
use shoal_node::requests::{RequestError, request};
use shoal_node::state::StateDir;
use shoal_node::tasks::Tasks;
use shoal_node::throttle::LimitSettings;
use shoal_server::control::{ControlEvent, ControlRequest, client};
use shoal_server::metrics::MetricsAccess;
use shoal_server::relay::{RelayBudget, RelayChoice};
use shoal_server::{Limits, Server, ServerOptions};
use shoal_wire::message::{Addresses, Bounded, FileAnnounce, PresenceAnnounce, PresenceResponse};
use shoal_wire::{Communication, FileEntry, FileSize, Hash, NodeId, Refusal, SafePath, ShortText};

/// Far more than anything here takes: a test that hangs fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) server: Server,
    socket: PathBuf,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files_dir = folder.path().join("server_files");
        std::fs::create_dir(&files_dir).unwrap();
        std::fs::write(files_dir.join("own.txt"), "Server file content\n").unwrap();
        let state = StateDir::open(Some(&folder.path().join("state")), "server").unwrap();
        let socket = state.control_socket_path();
        let options = ServerOptions {
            bind: "127.0.0.1:0".parse().unwrap(),
            identity: state.identity().unwrap(),
            certificate: None,
            files_dir,
            state,
            name: "the-server".parse().unwrap(),
            hidden: false,
            metrics: MetricsAccess::default(),
            relay: RelayChoice::Own(RelayBudget::default()),
            limits: LimitSettings::default(),
            agent: ShortText::new("shoal test"),
        };
        let server = Server::start_with(options, limits, Tasks::new())
            .await
            .unwrap();
        Self {
            folder,
            server,
            socket,
        }
    }

    /// A link to the server on which nothing was said.
    pub(crate) async fn dial(&self, identity: Identity) -> (Endpoint, Link) {
        let endpoint = Endpoint::bind(EndpointConfig {
            bind: "127.0.0.1:0".parse().unwrap(),
            identity,
            certificate: None,
            accept: vec![Protocol::Transfer],
            roaming: None,
        })
        .await
        .unwrap();
        let link = endpoint
            .dial(Dial {
                addresses: vec![self.server.local_addr()],
                server_name: None,
                trust: Trust::Node(self.server.node_id()),
                protocol: Protocol::Control,
                relays: Vec::new(),
                deadline: DEADLINE,
            })
            .await
            .unwrap();
        (endpoint, link)
    }

    /// A serving peer that is welcome.
    pub(crate) async fn guest(&self, name: &str) -> Guest {
        let presence = presence(name, 1, true);
        self.visit(Identity::generate(), presence).await.unwrap()
    }

    /// Presents a node; the reason when the server turns it away.
    pub(crate) async fn visit(
        &self,
        identity: Identity,
        presence: PresenceAnnounce,
    ) -> Result<Guest, LinkError> {
        let (endpoint, link) = self.dial(identity).await;
        let message = Communication::PresenceAnnounce(presence);
        match request(&link, &message, DEADLINE).await {
            Ok(Communication::PresenceResponse(response)) => Ok(Guest {
                endpoint,
                link,
                response,
            }),
            Ok(other) => panic!("expected a welcome, got {other:?}"),
            Err(_) => Err(link.closed().await),
        }
    }

    pub(crate) async fn order(&self, request: &ControlRequest) -> Vec<ControlEvent> {
        let mut events = Vec::new();
        let sent = client::send(&self.socket, request, |event| events.push(event));
        tokio::time::timeout(DEADLINE, sent).await.unwrap().unwrap();
        events
    }

    /// Gives an order that the caller may drop before it ends.
    pub(crate) async fn order_dropped_on<T>(
        &self,
        request: &ControlRequest,
        until: impl Future<Output = T>,
    ) -> T {
        tokio::select! {
            ended = client::send(&self.socket, request, |_| {}) => panic!("it ended: {ended:?}"),
            outcome = until => outcome,
        }
    }

    pub(crate) async fn peer_names(&self) -> Vec<String> {
        let events = self.order(&ControlRequest::Peers).await;
        let names = events.into_iter().filter_map(|event| match event {
            ControlEvent::Peer { name, .. } => Some(name),
            _ => None,
        });
        names.collect()
    }
}

pub(crate) struct Guest {
    pub(crate) endpoint: Endpoint,
    pub(crate) link: Link,
    pub(crate) response: PresenceResponse,
}

impl Guest {
    pub(crate) fn node(&self) -> NodeId {
        self.endpoint.node_id()
    }

    pub(crate) async fn ask(&self, message: &Communication) -> Result<Communication, RequestError> {
        request(&self.link, message, DEADLINE).await
    }

    /// The number with which a request is turned down.
    pub(crate) async fn refusal_of(&self, message: &Communication) -> Refusal {
        match self.ask(message).await {
            Err(RequestError::Refused(report)) => report.refusal,
            other => panic!("expected a refusal of {message:?}, got {other:?}"),
        }
    }

    pub(crate) async fn announce(&self, sequence: u64, files: Vec<FileEntry>) {
        let answer = self.ask(&announce(sequence, true, files)).await.unwrap();
        assert_eq!(answer, Communication::FileAcknowledge { sequence });
    }

    /// Hears the next request of the server.
    pub(crate) async fn hear(&self) -> (Communication, Stream) {
        let mut stream = self.link.accept().await.unwrap();
        let message = stream.recv.hear(DEADLINE).await.unwrap().unwrap();
        (message, stream)
    }
}

/// Says one answer and ends the stream.
pub(crate) async fn reply(stream: &mut Stream, message: &Communication) {
    stream.send.say(message).await.unwrap();
    stream.send.finish();
}

pub(crate) fn presence(name: &str, instance: u64, serving: bool) -> PresenceAnnounce {
    PresenceAnnounce {
        name: name.parse().unwrap(),
        instance,
        serving,
        agent: ShortText::new("guest"),
        capabilities: 0,
        addresses: Addresses::truncated(vec!["127.0.0.1:7001".parse().unwrap()]),
    }
}

pub(crate) fn announce(sequence: u64, snapshot: bool, files: Vec<FileEntry>) -> Communication {
    Communication::FileAnnounce(FileAnnounce {
        sequence,
        snapshot,
        complete: true,
        added: Bounded::new(files).unwrap(),
        removed: Bounded::default(),
    })
}

pub(crate) fn path(text: &str) -> SafePath {
    text.parse().unwrap()
}

pub(crate) fn file(name: &str, hash: Option<u8>) -> FileEntry {
    FileEntry {
        path: path(name),
        size: FileSize::new(10).unwrap(),
        mtime_ns: 0,
        mode: 0o644,
        hash: hash.map(|byte| Hash::new([byte; 32])),
    }
}
