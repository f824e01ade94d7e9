//! The networks that this machine is on, and its moves between them: another network, another
//! address, a cable pulled.
//!
//! An endpoint learns them before its first link, and follows them until it closes. A link of the
//! direct lane whose dialler has moved goes on from the new address, once it is told: its next
//! packet tells the other side. The roaming lane watches by itself.

use std::net::IpAddr;

use n0_watcher::{Direct, Watcher};
use netwatch::interfaces::{IpNet, State};
use netwatch::netmon::Monitor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The networks of this machine's interfaces that are up, but for loopback. Cheap to clone; all
/// clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Networks(watch::Receiver<Vec<IpNet>>);

impl Networks {
    /// Learns which they are, and tells `quic` of every change until it closes.
    pub(crate) async fn follow(quic: &noq::Endpoint, closing: &CancellationToken) -> Self {
        let monitor = match Monitor::new().await {
            Ok(monitor) => monitor,
            Err(error) => {
                tracing::warn!(%error, "changes of the network are not noticed");
                return Self(watch::channel(networks_of(&State::new().await)).1);
            }
        };
        let mut states = monitor.interface_state();
        let first = states.get();
        let (known, networks) = watch::channel(networks_of(&first));
        let (quic, closing) = (quic.clone(), closing.clone());
        tokio::spawn(async move {
            let telling = tell(&quic, &known, (first, states));
            closing.run_until_cancelled(telling).await;
            drop(monitor);
        });
        Self(networks)
    }

    /// Whether an address is on one of them, with no router in between.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        self.0
            .borrow()
            .iter()
            .any(|network| match (network, address) {
                (IpNet::V4(network), IpAddr::V4(address)) => network.contains(&address),
                (IpNet::V6 { net, .. }, IpAddr::V6(address)) => net.contains(&address),
                _ => false,
            })
    }
}

fn networks_of(state: &State) -> Vec<IpNet> {
    let interfaces = state.interfaces.values();
    interfaces
        .filter(|interface| interface.is_up())
        .flat_map(|interface| interface.addrs().collect::<Vec<_>>())
        .filter(|network| !network.addr().is_loopback())
        .collect()
}

async fn tell(
    quic: &noq::Endpoint,
    known: &watch::Sender<Vec<IpNet>>,
    (mut before, mut states): (State, Direct<State>),
) {
    while let Ok(now) = states.updated().await {
        known.send_replace(networks_of(&now));
        if now.is_major_change(&before) {
            tracing::info!("the network has changed");
            quic.handle_network_change(None);
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_on_a_network_by_its_prefix() {
        // One interface: 192.168.0.189/24.
        let networks = Networks(watch::channel(networks_of(&State::fake())).1);
        for (address, is_on) in [
            ("192.168.0.1", true),
            ("192.168.0.189", true),
            ("192.168.1.1", false),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(
                networks.contain(address.parse().unwrap()),
                is_on,
                "{address}"
            );
        }
    }
}
