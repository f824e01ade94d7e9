//! One control connection, from its first words to its end.
//!
//! A peer presents itself, the roster decides whether it counts, the server proves its identity
//! and from then on answers requests. Nothing is answered before that, and everything before it
//! has one deadline and small windows.

use std::net::SocketAddr;
use std::sync::Arc;

use shoal_core::registry::{ConnectionId, Presence};
use shoal_link::{HearError, Link, Stream};
use shoal_node::requests::serve_streams;
use shoal_node::tasks::Tasks;
use shoal_wire::message::{
    PRESENCE_EXPORT_LABEL, PresenceAnnounce, PresenceResponse, presence_proof_bytes,
};
use shoal_wire::{Communication, NodeId, Refusal};

use crate::addresses::believable;
use crate::answers::Answers;
use crate::coordinator::Coordinator;

/// How often a peer should say its addresses again: well within the life of a NAT's mapping is
/// the keep-alive's business, this only follows a machine that moves.
const ANNOUNCE_INTERVAL_MS: u32 = 60_000;

/// Attends to a connection until it ends.
pub(crate) async fn attend(
    coordinator: Arc<Coordinator>,
    link: Link,
    connection: ConnectionId,
    tasks: Tasks,
) {
    let observed = link.path().remote;
    let Some(node) = link.remote_id() else {
        link.close(Refusal::WrongIdentity);
        return;
    };
    let (announce, stream) = match first_words(&coordinator, &link).await {
        Ok(heard) => heard,
        Err(refusal) => {
            tracing::info!(address = %observed, node = %node.short(), %refusal, "a connection brought no presence");
            link.close(refusal);
            return;
        }
    };
    let serving = announce.serving.then_some(connection);
    let visitor = Visitor {
        node,
        observed,
        announce,
    };
    if serving.is_some()
        && let Err(refusal) = admit(&coordinator, &link, connection, &visitor).await
    {
        tracing::warn!(
            peer = %visitor.announce.name, node = %node.short(), address = %observed, %refusal,
            "peer refused",
        );
        link.close(refusal);
        return;
    }
    converse(&coordinator, &link, serving, (visitor, stream), &tasks).await;
    if serving.is_some() {
        coordinator.roster.disconnected(connection).await;
    }
}

/// Who is at the other end, by its own account.
struct Visitor {
    node: NodeId,
    observed: SocketAddr,
    announce: PresenceAnnounce,
}

async fn first_words(
    coordinator: &Coordinator,
    link: &Link,
) -> Result<(PresenceAnnounce, Stream), Refusal> {
    let deadline = coordinator.limits.presence_deadline;
    let heard = async {
        let mut stream = link.accept().await.map_err(|_| Refusal::Unexpected)?;
        match stream.recv.hear(deadline).await {
            Ok(Some(Communication::PresenceAnnounce(announce))) => Ok((announce, stream)),
            Ok(_) => Err(Refusal::Unexpected),
            Err(HearError::Stream(_)) => Err(Refusal::Unexpected),
            Err(error) => Err(error.refusal()),
        }
    };
    tokio::time::timeout(deadline, heard)
        .await
        .unwrap_or(Err(Refusal::TimedOut))
}

async fn admit(
    coordinator: &Coordinator,
    link: &Link,
    connection: ConnectionId,
    visitor: &Visitor,
) -> Result<(), Refusal> {
    let presence = Presence {
        node: visitor.node,
        name: visitor.announce.name.clone(),
        instance: visitor.announce.instance,
        addresses: believable(&visitor.announce.addresses, visitor.observed),
        observed: visitor.observed,
        agent: visitor.announce.agent.clone(),
    };
    let verdict = coordinator
        .roster
        .connected(connection, presence, link.clone());
    let outcome = tokio::select! {
        verdict = verdict => verdict,
        _end = link.closed() => Err(Refusal::Unreachable),
    };
    if outcome.is_err() {
        coordinator.roster.disconnected(connection).await;
    }
    outcome
}

async fn converse(
    coordinator: &Arc<Coordinator>,
    link: &Link,
    serving: Option<ConnectionId>,
    (visitor, mut stream): (Visitor, Stream),
    tasks: &Tasks,
) {
    let Visitor {
        node,
        observed,
        announce,
    } = visitor;
    let Some(exported) = link.export_key(PRESENCE_EXPORT_LABEL, node.as_bytes()) else {
        link.close(Refusal::Internal);
        return;
    };
    let response = Communication::PresenceResponse(PresenceResponse {
        server: coordinator.node(),
        proof: coordinator.identity.sign(&presence_proof_bytes(&exported)),
        agent: coordinator.agent.clone(),
        observed,
        announce_interval_ms: ANNOUNCE_INTERVAL_MS,
    });
    if let Err(error) = stream.send.say(&response).await {
        tracing::debug!(%error, "a peer left before it was welcome");
        return;
    }
    stream.send.finish();
    drop(stream);
    link.widen();
    if serving.is_some() {
        tracing::info!(
            peer = %announce.name, node = %node.short(), address = %observed,
            agent = %announce.agent, "peer connected",
        );
    }
    let name = announce.name.clone();
    let answers = Answers::new(Arc::clone(coordinator), node, announce.name, serving);
    let end = serve_streams(link, tasks, Arc::new(answers)).await;
    if serving.is_some() {
        tracing::info!(peer = %name, node = %node.short(), reason = %end, "peer gone");
    }
}
