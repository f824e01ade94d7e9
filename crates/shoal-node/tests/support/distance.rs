//! A relay of datagrams that takes its time: what lies behind it is far away.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_node::fetch::Source;
use shoal_node::tasks::Tasks;
use shoal_wire::message::Addresses;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Of each direction.
const DELAY: Duration = Duration::from_millis(8);

pub(crate) struct Distance {
    address: SocketAddr,
    tasks: Tasks,
}

type Late = mpsc::UnboundedSender<(Instant, Vec<u8>)>;

impl Distance {
    /// Between whoever sends to it and `far`.
    pub(crate) async fn before(far: SocketAddr) -> Self {
        let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("bound"));
        let address = near.local_addr().expect("bound");
        let tasks = Tasks::new();
        let running = tasks.clone();
        tasks.spawn(async move {
            let mut onward: BTreeMap<SocketAddr, Late> = BTreeMap::new();
            let mut buffer = vec![0; 1 << 16];
            while let Ok((len, from)) = near.recv_from(&mut buffer).await {
                let late = match onward.entry(from) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("bound"));
                        let returning = deliver(&running, Arc::clone(&near), from);
                        running.spawn(back(Arc::clone(&socket), returning));
                        new.insert(deliver(&running, socket, far))
                    }
                };
                let _gone = late.send((Instant::now() + DELAY, buffer[..len].to_vec()));
            }
        });
        Self { address, tasks }
    }

    /// The source, seen from here.
    pub(crate) fn to(&self, mut source: Source) -> Source {
        source.provider.addresses = Addresses::truncated(vec![self.address]);
        source
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// Sends what it is given once its time has come.
fn deliver(tasks: &Tasks, socket: Arc<UdpSocket>, to: SocketAddr) -> Late {
    let (late, mut waiting) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tasks.spawn(async move {
        while let Some((due, datagram)) = waiting.recv().await {
            tokio::time::sleep_until(due).await;
            // One that cannot be sent is lost, as on any path.
            let _lost = socket.send_to(&datagram, to).await;
        }
    });
    late
}

async fn back(socket: Arc<UdpSocket>, late: Late) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok((len, _)) = socket.recv_from(&mut buffer).await {
        let _gone = late.send((Instant::now() + DELAY, buffer[..len].to_vec()));
    }
}
