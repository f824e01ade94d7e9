//! A session: a node's conversation with its server over one control link.
//!
//! [`Session::connect`] resolves and dials the server, presents the node, and checks that the
//! server owns the identity that it claims: its signature is bound to this very link, so that a
//! certificate authority's word is not the only proof. The methods ask what a server answers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_link::{Dial, DialError, Endpoint, Link, Protocol, Relay, RootSet, Trust};
use shoal_wire::limits::PAGE_MAX_ENTRIES;
use shoal_wire::message::{
    Addresses, FileList, Hit, Matched, PRESENCE_EXPORT_LABEL, PeerRef, PeerSummary,
    PresenceAnnounce, PresenceResponse, Provider, ServerStatus, Wanted, presence_proof_bytes,
};
use shoal_wire::{
    Communication, FileEntry, NodeId, NodeName, Refusal, RelayPass, SafePath, ShortText,
};

use crate::relays::relay_at;
use crate::requests::{REQUEST_DEADLINE, RequestError, request};
use crate::state::{ServerRef, TrustChoice};

/// How long reaching the server may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Everything that a session begins with.
#[derive(Debug, Clone)]
pub struct Connect {
    /// The socket to dial from.
    pub endpoint: Endpoint,
    /// The server, and how it is trusted.
    pub server: ServerRef,
    /// The name to show.
    pub name: NodeName,
    /// Whether this process serves files and takes requests.
    pub serving: bool,
    /// Random number of this process.
    pub instance: u64,
    /// Program and version.
    pub agent: ShortText,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address means nothing.
    #[error("'{address}' is no address: give HOST:PORT, for example 192.0.2.7:8080 ({reason})")]
    Resolve {
        /// As it was typed.
        address: String,
        /// What the resolver said.
        reason: String,
    },
    /// The address has the right form, and the name in it leads nowhere at the moment.
    #[error(
        "the server's address {address} cannot be looked up: check its name and this machine's network ({reason})"
    )]
    Unknown {
        /// As it was typed.
        address: String,
        /// What the resolver said.
        reason: String,
    },
    /// The certificate file is no help.
    #[error("{} cannot be used as the server's certificate: {reason}", path.display())]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The server cannot be reached, or is not who it should be.
    #[error("cannot connect to the server at {address}: {source}")]
    Dial {
        /// Where it was tried.
        address: String,
        /// What happened.
        source: DialError,
    },
    /// The server turned this node away.
    #[error("the server at {address} refused: {source}")]
    Refused {
        /// Where it is.
        address: String,
        /// Its answer.
        source: RequestError,
    },
    /// The server could not prove its identity.
    #[error("the server at {address} could not prove that it is {claimed}: do not trust it")]
    Unproven {
        /// Where it is.
        address: String,
        /// Who it says it is.
        claimed: NodeId,
    },
}

/// What a look-up brought.
#[derive(Debug, Clone)]
pub struct Located {
    /// What the wanted text turned out to be.
    pub matched: Matched,
    /// The files, each with provider and grant.
    pub files: Vec<Provider>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// A conversation with a server.
#[derive(Debug, Clone)]
pub struct Session {
    link: Link,
    response: PresenceResponse,
    /// Where the server is, the address that was reached first.
    server_addresses: Vec<SocketAddr>,
}

impl Session {
    /// Connects, presents this node and checks the server's identity.
    ///
    /// # Errors
    /// What went wrong, in a sentence that says what to do.
    pub async fn connect(connect: &Connect) -> Result<Self, ConnectError> {
        let shown = connect.server.addresses.join(", ");
        let (link, resolved) = dial(connect, &shown).await?;
        let port = connect.endpoint.local_addr().port();
        let addresses = own_addresses(Some(link.path().remote), port);
        let presence = Communication::PresenceAnnounce(PresenceAnnounce {
            name: connect.name.clone(),
            instance: connect.instance,
            serving: connect.serving,
            agent: connect.agent.clone(),
            capabilities: 0,
            addresses,
        });
        let refused = |source| ConnectError::Refused {
            address: shown.clone(),
            source,
        };
        let answered = request(&link, &presence, CONNECT_DEADLINE).await;
        let response = match answered.map_err(|error| refused(closed_for(&link, error)))? {
            Communication::PresenceResponse(response) => response,
            _ => return Err(refused(RequestError::Unexpected)),
        };
        if !is_proven(&link, &response, connect.endpoint.node_id()) {
            link.close(Refusal::WrongIdentity);
            return Err(ConnectError::Unproven {
                address: shown,
                claimed: response.server,
            });
        }
        link.widen();
        let reached = link.path().remote;
        let others = resolved.into_iter().filter(|other| *other != reached);
        Ok(Self {
            server_addresses: [reached].into_iter().chain(others).collect(),
            link,
            response,
        })
    }

    /// The link.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Where the server is: the address that was reached, then others that it may have.
    pub fn server_addresses(&self) -> &[SocketAddr] {
        &self.server_addresses
    }

    /// The server's identity.
    pub fn server(&self) -> NodeId {
        self.response.server
    }

    /// What the server said at first.
    pub fn response(&self) -> &PresenceResponse {
        &self.response
    }

    /// Asks anything.
    ///
    /// # Errors
    /// The server's refusal, or why there is no answer.
    pub async fn request(&self, message: &Communication) -> Result<Communication, RequestError> {
        request(&self.link, message, REQUEST_DEADLINE).await
    }

    /// A page of the files of a peer, or of the server where `peer` is `None`.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn files(
        &self,
        peer: Option<PeerRef>,
        prefix: Option<SafePath>,
        after: Option<SafePath>,
    ) -> Result<(Vec<FileEntry>, bool), RequestError> {
        let asked = Communication::FileList(FileList {
            peer,
            prefix,
            after,
            limit: PAGE_MAX_ENTRIES as u32,
        });
        match self.request(&asked).await? {
            Communication::FileListPage { files, more } => Ok((files.into_vec(), more)),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Files whose path contains `text`, and whether there are more than `limit`.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn search(
        &self,
        text: ShortText,
        limit: u32,
    ) -> Result<(Vec<Hit>, bool), RequestError> {
        match self.request(&Communication::Search { text, limit }).await? {
            Communication::SearchPage { hits, more } => Ok((hits.into_vec(), more)),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Who has what is wanted.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn locate(
        &self,
        peer: Option<PeerRef>,
        wanted: Wanted,
        after: Option<SafePath>,
    ) -> Result<Located, RequestError> {
        let asked = Communication::Locate {
            peer,
            wanted,
            after,
        };
        match self.request(&asked).await? {
            Communication::Located {
                matched,
                files,
                more,
            } => Ok(Located {
                matched,
                files: files.into_vec(),
                more,
            }),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Every connected peer.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn peers(&self) -> Result<Vec<PeerSummary>, RequestError> {
        let mut all: Vec<PeerSummary> = Vec::new();
        loop {
            let after = all.last().map(|peer| peer.node);
            match self.request(&Communication::PeerList { after }).await? {
                Communication::PeerListPage { peers, more } => {
                    let is_progress = peers.first().is_some_and(|first| Some(first.node) > after);
                    all.extend(peers.into_vec());
                    if !more || !is_progress {
                        return Ok(all);
                    }
                }
                _ => return Err(RequestError::Unexpected),
            }
        }
    }

    /// The server's relay, for this node and, by the second pass, for those to whom it gives a
    /// ticket; `None` where the server has none.
    pub async fn relay(&self) -> Option<(Relay, RelayPass)> {
        let answer = self.request(&Communication::RelayRequest).await;
        let Ok(Communication::RelayPlace(place)) = answer else {
            return None;
        };
        let (server, addresses) = match place.apart {
            Some(apart) => (apart.relay, apart.addresses.to_vec()),
            None => {
                let mut addresses = self.server_addresses.clone();
                for address in &mut addresses {
                    address.set_port(place.port);
                }
                (self.server(), addresses)
            }
        };
        let discovery = place.address_discovery_port;
        let relay = Relay {
            server,
            addresses,
            discovery_port: (discovery != 0).then_some(discovery),
            pass: place.pass,
        };
        Some((relay, place.guest_pass))
    }

    /// How the server is.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn status(&self) -> Result<ServerStatus, RequestError> {
        match self.request(&Communication::StatusRequest).await? {
            Communication::ServerStatus(status) => Ok(status),
            _ => Err(RequestError::Unexpected),
        }
    }
}

/// The link, and all addresses that were tried.
async fn dial(connect: &Connect, shown: &str) -> Result<(Link, Vec<SocketAddr>), ConnectError> {
    let trust = trust(&connect.server.trust)?;
    let (mut addresses, mut unresolved) = (Vec::new(), None);
    for address in &connect.server.addresses {
        match tokio::net::lookup_host(address).await {
            Ok(found) => addresses.extend(found),
            Err(error) => {
                let (address, reason) = (address.clone(), error.to_string());
                unresolved = Some(match error.kind() {
                    std::io::ErrorKind::InvalidInput => ConnectError::Resolve { address, reason },
                    _ => ConnectError::Unknown { address, reason },
                });
            }
        }
    }
    if let (true, Some(error)) = (addresses.is_empty(), unresolved) {
        return Err(error);
    }
    let server_name = connect.server.addresses.first().map(|address| {
        let host = address
            .rsplit_once(':')
            .map_or(&**address, |(host, _)| host);
        host.trim_matches(['[', ']']).to_owned()
    });
    let relays = relays(&connect.server, &addresses);
    let dial = Dial {
        addresses: addresses.clone(),
        server_name,
        trust,
        protocol: Protocol::Control,
        relays,
        deadline: CONNECT_DEADLINE,
    };
    let dialed = connect.endpoint.dial(dial).await;
    let link = dialed.map_err(|source| ConnectError::Dial {
        address: shown.to_owned(),
        source,
    })?;
    Ok((link, addresses))
}

/// The server's own relay, by which it is reached over TCP where UDP does not get through: for who
/// pinned its key and has a pass.
fn relays(server: &ServerRef, addresses: &[SocketAddr]) -> Vec<Relay> {
    let pass = server.relay_pass.as_deref().and_then(RelayPass::new);
    let (TrustChoice::Pinned(node), Some(pass)) = (&server.trust, pass) else {
        return Vec::new();
    };
    relay_at(*node, addresses.to_vec(), &pass)
        .into_iter()
        .collect()
}

fn trust(choice: &TrustChoice) -> Result<Trust, ConnectError> {
    Ok(match choice {
        TrustChoice::Pinned(node) => Trust::Node(*node),
        TrustChoice::System => Trust::SystemRoots,
        TrustChoice::Nothing => Trust::Nothing,
        TrustChoice::CertificateFile(path) => Trust::Certificates(root_set(path)?),
    })
}

fn root_set(path: &Path) -> Result<RootSet, ConnectError> {
    let failed = |reason: String| ConnectError::CertificateFile {
        path: path.to_owned(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    RootSet::from_pem(&pem).map_err(|error| failed(error.to_string()))
}

/// A server that closes the link instead of answering said why by the closing number.
fn closed_for(link: &Link, error: RequestError) -> RequestError {
    match link.close_reason().and_then(|reason| reason.refusal()) {
        Some(refusal) => RequestError::Refused(shoal_wire::message::ErrorReport {
            refusal,
            detail: ShortText::new(""),
            retry_after_ms: None,
        }),
        None => error,
    }
}

fn is_proven(link: &Link, response: &PresenceResponse, node: NodeId) -> bool {
    let is_shown = link
        .remote_id()
        .is_none_or(|shown| shown == response.server);
    let exported = link.export_key(PRESENCE_EXPORT_LABEL, node.as_bytes());
    is_shown
        && exported.is_some_and(|exported| {
            let signed = presence_proof_bytes(&exported);
            response.proof.verifies(&response.server, &signed)
        })
}

/// Where other nodes may reach this one: the addresses from which this machine speaks to the
/// server and to the world, each with the port of its socket.
pub fn own_addresses(server: Option<SocketAddr>, port: u16) -> Addresses {
    // Documentation addresses (RFC 5737, RFC 3849): routed like any other, never sent to.
    let elsewhere = ["192.0.2.1:9", "[2001:db8::1]:9"];
    let towards = elsewhere.iter().filter_map(|text| text.parse().ok());
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for target in server.into_iter().chain(towards) {
        if let Some(local) = local_address_towards(target) {
            let address = SocketAddr::new(local.ip(), port);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Addresses::truncated(addresses)
}

/// The address that the system would speak from; connecting a UDP socket sends nothing.
fn local_address_towards(target: SocketAddr) -> Option<SocketAddr> {
    let any: SocketAddr = if target.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok()
}
