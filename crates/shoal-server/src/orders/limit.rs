//! The order that shows and changes rate limits, of this server or of a peer.

use shoal_node::plan::SERVER;
use shoal_node::requests::{REQUEST_DEADLINE, RequestError, request};
use shoal_wire::Communication;
use shoal_wire::message::{LimitRequest, LimitsInForce};

use super::{Orders, tell};
use crate::control::ControlEvent;
use crate::control::socket::{Events, Failure};

impl Orders {
    /// Changes what is to be changed and tells the limits in force then.
    pub(super) async fn limit(
        &self,
        peer: Option<&str>,
        changes: LimitRequest,
        events: &Events,
    ) -> Result<(), Failure> {
        let Some(peer) = peer.filter(|peer| *peer != SERVER) else {
            let in_force = self.coordinator.transfers.throttle().change(&changes);
            return tell(events, self.own_limits(in_force)).await;
        };
        let peer = self.reach(peer).await?;
        let question = Communication::LimitRequest(changes);
        match request(&peer.link, &question, REQUEST_DEADLINE).await? {
            Communication::LimitsInForce(limits) => {
                let name = peer.name.to_string();
                tell(events, ControlEvent::Limits { name, limits }).await
            }
            _ => Err(RequestError::Unexpected.into()),
        }
    }

    /// This server's limits as an event.
    pub(super) fn own_limits(&self, limits: LimitsInForce) -> ControlEvent {
        let name = self.coordinator.name.to_string();
        ControlEvent::Limits { name, limits }
    }
}
