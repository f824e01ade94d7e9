//! This machine's own moves: another network, another address, a cable pulled.
//!
//! A link of the direct lane whose dialler has moved goes on from the new address, once it is told:
//! its next packet tells the other side. The roaming lane watches by itself.

use n0_watcher::Watcher;
use netwatch::netmon::Monitor;
use tokio_util::sync::CancellationToken;

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
    while let Ok(now) = networks.updated().await {
        if now.is_major_change(&before) {
            tracing::info!("the network has changed");
            quic.handle_network_change(None);
        }
        before = now;
    }
}
