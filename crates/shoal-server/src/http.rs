//! What is answered over TCP, on the same port number as QUIC: HTTPS, one request per connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::service::TowerToHyperService;
use shoal_link::{BindError, Endpoint, EndpointConfig, Https};
use shoal_node::tasks::Tasks;
use shoal_wire::Refusal;
use tokio::net::TcpListener;

use crate::places::{Place, Places};

/// Tries at a port that is free over UDP and TCP, where any will do.
const PORT_TRIES: u32 = 16;

/// From where a request came, and the place that its connection takes; an extension of it.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) from: IpAddr,
    _place: Place,
}

#[cfg(test)]
impl Arrival {
    /// The only one there is.
    pub(crate) fn from_nowhere_else(from: IpAddr) -> Self {
        let place = Arc::new(Places::default()).take(None, from);
        Self {
            from,
            _place: place.expect("the first place is free"),
        }
    }
}

/// A TCP port that is listened on, and not answered yet.
pub(crate) struct HttpPort {
    listener: TcpListener,
    https: Https,
}

/// Opens one port, over UDP and over TCP. Where any port will do, it is one that is free over both.
///
/// # Errors
/// When it cannot be had over UDP; that it cannot be over TCP is told beside.
pub(crate) async fn open_both(
    config: &EndpointConfig,
) -> Result<(Endpoint, io::Result<HttpPort>), BindError> {
    let mut tries_left = PORT_TRIES;
    loop {
        tries_left -= 1;
        let endpoint = Endpoint::bind(config.clone()).await?;
        let opened = HttpPort::open(endpoint.local_addr(), config).await;
        let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        let may_try = config.bind.port() == 0 && tries_left > 0;
        if !may_try || !opened.as_ref().is_err_and(is_taken) {
            return Ok((endpoint, opened));
        }
        endpoint.close(Refusal::Done).await;
    }
}

impl HttpPort {
    async fn open(address: SocketAddr, config: &EndpointConfig) -> io::Result<Self> {
        let https = Https::new(&config.identity, config.certificate.clone());
        let https = https.map_err(io::Error::other)?;
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, https })
    }

    /// Has `routes` answer until the tasks end.
    pub(crate) async fn serve(self, routes: Router, tasks: Tasks) {
        let places = Arc::new(Places::default());
        loop {
            let (connection, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others end meanwhile.
                    tracing::warn!(%error, "a connection over TCP cannot be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let from = from.ip().to_canonical();
            let Some(place) = places.take(None, from) else {
                continue;
            };
            let arrival = Arc::new(Arrival {
                from,
                _place: place,
            });
            let with_arrival = axum::middleware::map_request(move |mut request: Request| {
                request.extensions_mut().insert(Arc::clone(&arrival));
                std::future::ready(request)
            });
            let service = TowerToHyperService::new(routes.clone().layer(with_arrival));
            let https = self.https.clone();
            tasks.spawn(async move { https.serve(connection, service).await });
        }
    }
}

/// How a request came; none only where it came over no [`HttpPort`].
pub(crate) fn arrival(request: &Request) -> Option<&Arc<Arrival>> {
    request.extensions().get()
}
