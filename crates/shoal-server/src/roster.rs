//! The roster: the one task that owns the registry of connected peers, and its handle.
//!
//! Everything that concerns who is connected goes through one bounded channel to that task, which
//! feeds the pure [`Registry`] and carries out what it decides: welcome, refuse, probe, close.
//! Whoever needs to know who is connected sends a question that the task answers from its view.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use shoal_core::registry::{ConnectionId, Output, PROBE_DEADLINE, Presence, Registry};
use shoal_link::Link;
use shoal_node::requests::{RequestError, request};
use shoal_node::tasks::Tasks;
use shoal_wire::message::{ErrorReport, FileList, PeerSummary};
use shoal_wire::{Communication, NodeId, Refusal};
use tokio::sync::{mpsc, oneshot};

use crate::catalog::{Nodes, Totals};
use crate::refused::refused;

/// Inputs that wait for the task: a burst of a thousand reconnects is taken in without its
/// senders waiting, and each is small.
const INPUT_QUEUE: usize = 1024;

type Verdict = Result<(), Refusal>;
type Question = Box<dyn FnOnce(&View) + Send>;

enum Input {
    Connected {
        connection: ConnectionId,
        presence: Box<Presence>,
        link: Link,
        verdict: oneshot::Sender<Verdict>,
    },
    Disconnected(ConnectionId),
    Announced {
        connection: ConnectionId,
        sequence: u64,
        verdict: oneshot::Sender<Verdict>,
    },
    Totals(ConnectionId, Totals),
    Addresses(ConnectionId, Vec<SocketAddr>),
    ProbeAnswered {
        connection: ConnectionId,
        alive: bool,
    },
    Asked(Question),
}

/// What the task knows, for whoever asks it.
#[derive(Debug)]
pub(crate) struct View {
    registry: Registry,
    links: HashMap<ConnectionId, Link>,
}

impl View {
    /// The connected peers.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The ids of the connected peers.
    pub(crate) fn online(&self) -> Nodes {
        self.registry
            .peers()
            .map(|peer| peer.presence.node)
            .collect()
    }

    /// The link of a connected peer.
    pub(crate) fn link(&self, node: &NodeId) -> Option<&Link> {
        self.links.get(&self.registry.peer(node)?.connection)
    }

    /// At most `limit` connected peers after an id, as they are told to others.
    pub(crate) fn summaries(
        &self,
        after: Option<&NodeId>,
        limit: usize,
        now: Instant,
    ) -> Vec<PeerSummary> {
        let summary = |peer: &shoal_core::registry::Peer| {
            let rtt = self.links.get(&peer.connection).map(|link| link.path().rtt);
            PeerSummary {
                node: peer.presence.node,
                name: peer.presence.name.clone(),
                agent: peer.presence.agent.clone(),
                observed: peer.presence.observed,
                connected_ms: millis(now.saturating_duration_since(peer.connected_at)),
                files: peer.files,
                total_bytes: peer.total_bytes,
                rtt_us: rtt
                    .and_then(|rtt| u64::try_from(rtt.as_micros()).ok())
                    .unwrap_or_default(),
            }
        };
        self.registry
            .peers_after(after)
            .take(limit)
            .map(summary)
            .collect()
    }
}

/// A span of time in whole milliseconds.
pub(crate) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The handle. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    inputs: mpsc::Sender<Input>,
}

impl Roster {
    /// Starts the task.
    pub(crate) fn start(tasks: &Tasks) -> Self {
        let (inputs, queue) = mpsc::channel(INPUT_QUEUE);
        let driver = Driver {
            view: View {
                registry: Registry::new(),
                links: HashMap::new(),
            },
            verdicts: HashMap::new(),
            inputs: inputs.downgrade(),
            tasks: tasks.clone(),
        };
        tasks.spawn(driver.run(queue));
        Self { inputs }
    }

    /// Presents a serving peer and waits for the verdict.
    pub(crate) async fn connected(
        &self,
        connection: ConnectionId,
        presence: Presence,
        link: Link,
    ) -> Verdict {
        let (verdict, decided) = oneshot::channel();
        let input = Input::Connected {
            connection,
            presence: Box::new(presence),
            link,
            verdict,
        };
        self.tell(input).await;
        decided.await.unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// A connection ended.
    pub(crate) async fn disconnected(&self, connection: ConnectionId) {
        self.tell(Input::Disconnected(connection)).await;
    }

    /// Checks that a batch is the next one of its connection.
    ///
    /// # Errors
    /// As [`view`](Self::view).
    pub(crate) async fn expects(
        &self,
        connection: ConnectionId,
        sequence: u64,
    ) -> Result<Verdict, ErrorReport> {
        self.view(move |view| view.registry.expects_announce(connection, sequence))
            .await
    }

    /// The batch that was expected of a connection is taken.
    pub(crate) async fn announced(&self, connection: ConnectionId, sequence: u64) -> Verdict {
        let (verdict, decided) = oneshot::channel();
        let input = Input::Announced {
            connection,
            sequence,
            verdict,
        };
        self.tell(input).await;
        decided.await.unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// What a peer's announced files add up to now.
    pub(crate) async fn totals(&self, connection: ConnectionId, totals: Totals) {
        self.tell(Input::Totals(connection, totals)).await;
    }

    /// Where a peer may be reached now.
    pub(crate) async fn addresses(&self, connection: ConnectionId, addresses: Vec<SocketAddr>) {
        self.tell(Input::Addresses(connection, addresses)).await;
    }

    /// Looks at who is connected.
    ///
    /// # Errors
    /// [`Refusal::ShuttingDown`] when the task is gone.
    pub(crate) async fn view<T: Send + 'static>(
        &self,
        look: impl FnOnce(&View) -> T + Send + 'static,
    ) -> Result<T, ErrorReport> {
        let (answer, answered) = oneshot::channel();
        let question = Box::new(move |view: &View| {
            let _nobody_waits = answer.send(look(view));
        });
        self.tell(Input::Asked(question)).await;
        answered
            .await
            .map_err(|_| refused(Refusal::ShuttingDown, ""))
    }

    async fn tell(&self, input: Input) {
        if self.inputs.send(input).await.is_err() {
            tracing::debug!("the roster has ended");
        }
    }
}

/// The task's own state.
struct Driver {
    view: View,
    verdicts: HashMap<ConnectionId, oneshot::Sender<Verdict>>,
    inputs: mpsc::WeakSender<Input>,
    tasks: Tasks,
}

impl Driver {
    async fn run(mut self, mut queue: mpsc::Receiver<Input>) {
        loop {
            let timeout = self.view.registry.poll_timeout();
            let input = match timeout {
                Some(at) => tokio::time::timeout_at(at.into(), queue.recv()).await,
                None => Ok(queue.recv().await),
            };
            match input {
                Ok(Some(input)) => self.take(input, Instant::now()),
                Ok(None) => return,
                Err(_elapsed) => self.view.registry.handle_timeout(Instant::now()),
            }
            while let Some(output) = self.view.registry.poll_output() {
                self.carry_out(output);
            }
        }
    }

    fn take(&mut self, input: Input, now: Instant) {
        let registry = &mut self.view.registry;
        match input {
            Input::Connected {
                connection,
                presence,
                link,
                verdict,
            } => {
                self.view.links.insert(connection, link);
                self.verdicts.insert(connection, verdict);
                registry.handle_connected(connection, *presence, now);
            }
            Input::Disconnected(connection) => {
                self.view.links.remove(&connection);
                self.verdicts.remove(&connection);
                registry.handle_disconnected(connection, now);
            }
            Input::Announced {
                connection,
                sequence,
                verdict,
            } => {
                let _nobody_waits = verdict.send(registry.handle_announce(connection, sequence));
            }
            Input::Totals(connection, totals) => {
                registry.handle_totals(connection, totals.files, totals.total_bytes);
            }
            Input::Addresses(connection, addresses) => {
                registry.handle_addresses(connection, addresses);
            }
            Input::ProbeAnswered { connection, alive } => {
                registry.handle_probe_answer(connection, alive, now);
            }
            Input::Asked(question) => question(&self.view),
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Welcome { connection } => self.decide(connection, Ok(())),
            Output::Refuse {
                connection,
                refusal,
            } => {
                self.view.links.remove(&connection);
                self.decide(connection, Err(refusal));
            }
            Output::Probe { connection } => self.probe(connection),
            Output::Close {
                connection,
                refusal,
            } => {
                if let Some(link) = self.view.links.remove(&connection) {
                    link.close(refusal);
                }
            }
            Output::PeerGone { node } => {
                tracing::debug!(node = %node.short(), "no connection of this peer is left");
            }
        }
    }

    fn decide(&mut self, connection: ConnectionId, verdict: Verdict) {
        if let Some(waiting) = self.verdicts.remove(&connection) {
            let _nobody_waits = waiting.send(verdict);
        }
    }

    /// Asks a connection anything: whatever it answers, it lives.
    fn probe(&self, connection: ConnectionId) {
        let (Some(link), Some(inputs)) = (
            self.view.links.get(&connection).cloned(),
            self.inputs.upgrade(),
        ) else {
            return;
        };
        self.tasks.spawn(async move {
            let question = Communication::FileList(FileList {
                peer: None,
                prefix: None,
                after: None,
                limit: 1,
            });
            let answer = request(&link, &question, PROBE_DEADLINE).await;
            let alive = match answer {
                Ok(_) | Err(RequestError::Refused(_) | RequestError::Unexpected) => true,
                Err(RequestError::TimedOut | RequestError::Lost(_)) => false,
            };
            let answered = Input::ProbeAnswered { connection, alive };
            if inputs.send(answered).await.is_err() {
                tracing::debug!("the roster has ended");
            }
        });
    }
}
