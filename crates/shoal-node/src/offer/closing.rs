//! The end of an offer, which is one for beginnings: who is too late, and who may go on.

use std::sync::Arc;
use std::time::Instant;

use shoal_wire::NodeId;

use super::visits::Visit;
use super::{Issued, Offer, Shared};

impl Offer {
    /// Waits until receivers may begin no more.
    pub async fn expired(&self) {
        tokio::time::sleep_until(self.shared.expires_at.into()).await;
    }

    /// Whether as many receivers as were wanted have everything.
    pub fn has_enough(&self) -> bool {
        self.shared.enough.is_cancelled()
    }

    /// Whether anybody is there, or had begun and is expected back.
    pub fn is_serving(&self) -> bool {
        self.shared.issued().is_serving()
    }
}

impl Shared {
    /// Whether its time is over.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.expires_at
    }

    /// Ends once nobody new is let in.
    pub(super) async fn closed(&self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.expires_at.into()) => {}
            () = self.enough.cancelled() => {}
        }
    }

    /// Whether `node` is not too late, or had begun before it was.
    pub(super) fn may_come(&self, node: NodeId) -> bool {
        let is_closed = self.is_over() || self.enough.is_cancelled();
        !is_closed || self.issued().is_resumable(node)
    }
}

impl Issued {
    /// Whether the last visit of `node` ended, or is about to, before it had all that it wanted.
    fn is_resumable(&self, node: NodeId) -> bool {
        let of_node = |visit: &&Arc<Visit>| visit.node == node && visit.was_let_in();
        let last = self.visits.values().rev().find(of_node);
        last.is_some_and(|visit| visit.is_resumable())
    }

    fn is_serving(&self) -> bool {
        let mut visits = self.visits.values();
        visits.any(|visit| visit.is_under_way() || self.is_resumable(visit.node))
    }
}
