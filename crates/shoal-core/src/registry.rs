//! Who is connected: the server's live registry of serving peers.
//!
//! Decides which connection of an identity counts, and whether an announce is the next one. It
//! knows nothing of files but their totals, and nothing of sockets: a connection is a number.
//!
//! One identity, one place. A newer connection of the same process (same instance) replaces the
//! older one at once: the peer knows best that the old one is dead. A connection of another
//! process with the same identity (a copied key) waits while the older one is probed: if that
//! answers within [`PROBE_DEADLINE`] the newcomer is refused, else it takes over. So two hosts with
//! one key never flap: the first stays.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shoal_wire::{NodeId, NodeName, Refusal, ShortText};

/// How long the older connection of an identity has to answer a probe.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// A connection, numbered by whoever drives the registry; a number is used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What a peer said of itself when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Its identity, proven by the link.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Random number of its process.
    pub instance: u64,
    /// Where other peers may reach it.
    pub addresses: Vec<SocketAddr>,
    /// The address that the server sees.
    pub observed: SocketAddr,
    /// Program and version.
    pub agent: ShortText,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it said of itself.
    pub presence: Presence,
    /// The connection that counts.
    pub connection: ConnectionId,
    /// Since when.
    pub connected_at: Instant,
    /// How many files it announced.
    pub files: u64,
    /// Their size, in bytes.
    pub total_bytes: u64,
    next_sequence: u64,
}

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Answer the presence: the connection counts from here on.
    Welcome {
        /// The connection.
        connection: ConnectionId,
    },
    /// Turn a newcomer away.
    Refuse {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        refusal: Refusal,
    },
    /// Ask a connection whether it lives; answer with [`Registry::handle_probe_answer`].
    Probe {
        /// The connection.
        connection: ConnectionId,
    },
    /// Close a connection that was welcome.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        refusal: Refusal,
    },
    /// A peer is no longer connected.
    PeerGone {
        /// Its identity.
        node: NodeId,
    },
}

/// A newcomer that waits for the probe of the connection it would replace.
#[derive(Debug)]
struct Waiting {
    connection: ConnectionId,
    presence: Presence,
    until: Instant,
}

/// The connected peers. See the module's documentation for its rules.
#[derive(Debug, Default)]
pub struct Registry {
    peers: BTreeMap<NodeId, Peer>,
    by_connection: BTreeMap<ConnectionId, NodeId>,
    waiting: BTreeMap<NodeId, Waiting>,
    outputs: VecDeque<Output>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// A serving peer presented itself on a new connection.
    pub fn handle_connected(&mut self, connection: ConnectionId, presence: Presence, now: Instant) {
        let node = presence.node;
        let Some(current) = self.peers.get(&node) else {
            self.admit(connection, presence, now);
            return;
        };
        if current.presence.instance == presence.instance {
            self.replace(connection, presence, now);
            return;
        }
        let probed = current.connection;
        let waiting = Waiting {
            connection,
            presence,
            until: now + PROBE_DEADLINE,
        };
        match self.waiting.insert(node, waiting) {
            None => self.outputs.push_back(Output::Probe { connection: probed }),
            Some(earlier) => self.refuse(earlier.connection, Refusal::IdentityInUse),
        }
    }

    /// A probed connection answered, or was found dead.
    pub fn handle_probe_answer(&mut self, connection: ConnectionId, alive: bool, now: Instant) {
        let Some(node) = self.by_connection.get(&connection).copied() else {
            return;
        };
        let Some(waiting) = self.waiting.remove(&node) else {
            return;
        };
        if alive {
            self.refuse(waiting.connection, Refusal::IdentityInUse);
        } else {
            self.replace(waiting.connection, waiting.presence, now);
        }
    }

    /// A connection ended, whichever side ended it.
    pub fn handle_disconnected(&mut self, connection: ConnectionId, now: Instant) {
        self.waiting
            .retain(|_, waiting| waiting.connection != connection);
        let Some(node) = self.by_connection.remove(&connection) else {
            return;
        };
        self.peers.remove(&node);
        match self.waiting.remove(&node) {
            Some(waiting) => self.admit(waiting.connection, waiting.presence, now),
            None => self.outputs.push_back(Output::PeerGone { node }),
        }
    }

    /// Checks that an announce batch is the next one of its connection.
    ///
    /// # Errors
    /// [`Refusal::Unexpected`] from a connection that does not count (any more), and
    /// [`Refusal::StaleAnnounce`] for a batch that was taken before or skips one.
    pub fn expects_announce(&self, connection: ConnectionId, sequence: u64) -> Result<(), Refusal> {
        let node = self.by_connection.get(&connection);
        let peer = node.and_then(|node| self.peers.get(node));
        let peer = peer.ok_or(Refusal::Unexpected)?;
        if sequence == peer.next_sequence {
            Ok(())
        } else {
            Err(Refusal::StaleAnnounce)
        }
    }

    /// An announce batch was taken: the next one has the number after it.
    ///
    /// # Errors
    /// As [`expects_announce`](Self::expects_announce).
    pub fn handle_announce(
        &mut self,
        connection: ConnectionId,
        sequence: u64,
    ) -> Result<(), Refusal> {
        self.expects_announce(connection, sequence)?;
        if let Some(peer) = self.peer_mut(connection) {
            peer.next_sequence += 1;
        }
        Ok(())
    }

    /// What a peer's announced files add up to.
    pub fn handle_totals(&mut self, connection: ConnectionId, files: u64, total_bytes: u64) {
        if let Some(peer) = self.peer_mut(connection) {
            peer.files = files;
            peer.total_bytes = total_bytes;
        }
    }

    /// A peer's addresses changed.
    pub fn handle_addresses(&mut self, connection: ConnectionId, addresses: Vec<SocketAddr>) {
        if let Some(peer) = self.peer_mut(connection) {
            peer.presence.addresses = addresses;
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Registry::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    /// Time has passed: probes without an answer mean that the older connection is dead.
    pub fn handle_timeout(&mut self, now: Instant) {
        let over: Vec<NodeId> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.until <= now)
            .map(|(node, _)| *node)
            .collect();
        for node in over {
            if let Some(waiting) = self.waiting.remove(&node) {
                self.replace(waiting.connection, waiting.presence, now);
            }
        }
    }

    /// A connected peer.
    pub fn peer(&self, node: &NodeId) -> Option<&Peer> {
        self.peers.get(node)
    }

    /// The connected peers, by id.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// The connected peers after an id, by id.
    pub fn peers_after(&self, after: Option<&NodeId>) -> impl Iterator<Item = &Peer> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.peers
            .range::<NodeId, _>((start, Bound::Unbounded))
            .map(|(_, peer)| peer)
    }

    /// How many peers are connected.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    fn peer_mut(&mut self, connection: ConnectionId) -> Option<&mut Peer> {
        let node = self.by_connection.get(&connection)?;
        self.peers.get_mut(node)
    }

    fn admit(&mut self, connection: ConnectionId, presence: Presence, now: Instant) {
        let node = presence.node;
        let peer = Peer {
            presence,
            connection,
            connected_at: now,
            files: 0,
            total_bytes: 0,
            next_sequence: 0,
        };
        self.by_connection.insert(connection, node);
        self.peers.insert(node, peer);
        self.outputs.push_back(Output::Welcome { connection });
    }

    fn replace(&mut self, connection: ConnectionId, presence: Presence, now: Instant) {
        if let Some(old) = self.peers.remove(&presence.node) {
            self.by_connection.remove(&old.connection);
            self.outputs.push_back(Output::Close {
                connection: old.connection,
                refusal: Refusal::Replaced,
            });
        }
        if let Some(waiting) = self.waiting.remove(&presence.node) {
            self.refuse(waiting.connection, Refusal::IdentityInUse);
        }
        self.admit(connection, presence, now);
    }

    fn refuse(&mut self, connection: ConnectionId, refusal: Refusal) {
        self.outputs.push_back(Output::Refuse {
            connection,
            refusal,
        });
    }
}
