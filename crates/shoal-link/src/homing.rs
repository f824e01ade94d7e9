//! The watch over this node's places at relays.
//!
//! A client of a relay dials it again by itself, but has been seen to hang while it does. Where no
//! relay is reached for long, all clients are replaced by new ones, which costs nothing that works.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use iroh::RelayUrl;
use iroh::endpoint::RelayStatus;
use n0_watcher::Watcher;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::roaming::Relay;

/// How long no relay may be reached. Longer than a client's own dial, with the longest wait between
/// two of them.
const HANGS_AFTER: Duration = Duration::from_secs(30);
/// How long a relay is waited for before it is dialled through all the same.
const LISTENS_LIMIT: Duration = Duration::from_secs(5);
/// Wait before a relay that takes no connection is tried again.
const KNOCK_PAUSE: Duration = Duration::from_millis(250);
/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The relays at which this node is to be found. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Homes(Arc<Mutex<BTreeSet<RelayUrl>>>);

impl Homes {
    pub(crate) fn enter(&self, url: RelayUrl) {
        let mut homes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        homes.insert(url);
    }

    fn all(&self) -> Vec<RelayUrl> {
        let homes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        homes.iter().cloned().collect()
    }
}

/// Watches until the endpoint is closed.
pub(crate) async fn watch(endpoint: iroh::Endpoint, homes: Homes) {
    let mut statuses = endpoint.home_relay_status();
    let mut lost = Lost::default();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = endpoint.closed() => return,
        }
        let homes = homes.all();
        let is_reached = homes.is_empty() || statuses.get().iter().any(RelayStatus::is_connected);
        if !lost.hangs(is_reached, Instant::now()) {
            continue;
        }
        tracing::info!(relays = homes.len(), "no relay is reached, starting over");
        for url in homes {
            if let Some(config) = endpoint.remove_relay(&url).await {
                endpoint.insert_relay(url, config).await;
            }
        }
    }
}

/// Ends once somebody at one of these relays takes TCP connections, and after a while all the same.
/// (That the endpoint is connected to a relay is seen late where it has to measure first which one
/// is near.)
pub(crate) async fn listens(relays: &[Relay]) {
    let addresses = relays.iter().flat_map(|relay| &relay.addresses);
    let mut knocking: FuturesUnordered<_> = addresses.copied().map(knock).collect();
    let _late = timeout(LISTENS_LIMIT, knocking.next()).await;
}

async fn knock(address: SocketAddr) {
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(KNOCK_PAUSE).await;
    }
}

/// Ends once a relay of these has said that it does not let this node in, with its reason. What was
/// said before does not count: the pass may be a new one.
pub(crate) async fn refused(endpoint: &iroh::Endpoint, urls: &[RelayUrl]) -> String {
    let mut statuses = endpoint.home_relay_status();
    while let Ok(now) = statuses.updated().await {
        let mut denied = now.iter().filter(|status| urls.contains(status.url()));
        if let Some(reason) = denied.find_map(RelayStatus::auth_denied_reason) {
            return reason.to_owned();
        }
    }
    std::future::pending().await
}

/// Since when no relay is reached.
#[derive(Debug, Default)]
struct Lost {
    since: Option<Instant>,
}

impl Lost {
    /// Whether that has been for too long; if so, the time begins anew.
    fn hangs(&mut self, is_reached: bool, now: Instant) -> bool {
        if is_reached {
            self.since = None;
            return false;
        }
        let hangs = now.duration_since(*self.since.get_or_insert(now)) >= HANGS_AFTER;
        if hangs {
            self.since = Some(now);
        }
        hangs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_replaced_where_none_reaches_its_relay_for_long() {
        let mut lost = Lost::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(!lost.hangs(false, at(0)) && !lost.hangs(false, at(29)));
        assert!(lost.hangs(false, at(30)), "too long");
        assert!(!lost.hangs(false, at(59)), "the new ones have their time");
        assert!(lost.hangs(false, at(60)));
        assert!(!lost.hangs(true, at(89)) && !lost.hangs(false, at(90)));
        assert!(!lost.hangs(false, at(119)) && lost.hangs(false, at(120)));
    }
}
