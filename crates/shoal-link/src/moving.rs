//! This machine's own moves: another network, another address, a cable pulled.
//!
//! A link of the direct lane whose dialler has moved goes on from the new address, once it is told:
//! its next packet tells the other side. The roaming lane watches by itself. Which networks the
//! machine is on now is known to the whole process.

use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use n0_watcher::Watcher;
use netwatch::interfaces::{IpNet, State};
use netwatch::netmon::Monitor;
use tokio_util::sync::CancellationToken;

/// The networks of this machine's interfaces that are up, but for its own.
static NETWORKS: RwLock<Vec<IpNet>> = RwLock::new(Vec::new());

/// Whether an address is on a network of this machine, with no router in between.
pub(crate) fn is_on_own_network(address: IpAddr) -> bool {
    let networks = NETWORKS.read().unwrap_or_else(PoisonError::into_inner);
    networks.iter().any(|network| match (network, address) {
        (IpNet::V4(network), IpAddr::V4(address)) => network.contains(&address),
        (IpNet::V6 { net, .. }, IpAddr::V6(address)) => net.contains(&address),
        _ => false,
    })
}

fn remember(state: &State) {
    let interfaces = state.interfaces.values();
    let networks = interfaces
        .filter(|interface| interface.is_up())
        .flat_map(|interface| interface.addrs().collect::<Vec<_>>())
        .filter(|network| !network.addr().is_loopback());
    *NETWORKS.write().unwrap_or_else(PoisonError::into_inner) = networks.collect();
}

/// Tells `quic` of every change of this machine's network, until it closes.
pub(crate) fn follow(quic: &noq::Endpoint, closing: &CancellationToken) {
    let (quic, closing) = (quic.clone(), closing.clone());
    tokio::spawn(async move { closing.run_until_cancelled(tell(quic)).await });
}

async fn tell(quic: noq::Endpoint) {
    let monitor = match Monitor::new().await {
        Ok(monitor) => monitor,
        Err(error) => {
            tracing::debug!(%error, "changes of the network are not noticed");
            return;
        }
    };
    let mut networks = monitor.interface_state();
    let mut before = networks.get();
    remember(&before);
    while let Ok(now) = networks.updated().await {
        remember(&now);
        if now.is_major_change(&before) {
            tracing::info!("the network has changed");
            quic.handle_network_change(None);
        }
        before = now;
    }
}
