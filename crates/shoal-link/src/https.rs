//! HTTP/1.1 over TLS on connections that the caller accepted: the relay, and what a server says of
//! itself.
//!
//! One request each, and it has ten seconds from the first byte of the handshake to the last of
//! the answer, so that nobody keeps a connection by doing nothing with it. What a request upgraded
//! to is out of this module's hands, and has bounds of its own.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::ServerCertificate;
use crate::identity::Identity;
use crate::tls;

/// How long a connection may take from its first byte to the end of its answer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What a request is upgraded from.
pub(crate) type Upgradable = TokioIo<TlsStream<TcpStream>>;

/// Answers over TLS. Cheap to clone.
#[derive(Clone)]
pub struct Https {
    tls: TlsAcceptor,
}

impl Https {
    /// Shows the node certificate of `identity` to those that ask for it and, where there is one,
    /// `certificate` to all others.
    ///
    /// # Errors
    /// When the identity does not fit TLS.
    pub fn new(
        identity: &Identity,
        certificate: Option<ServerCertificate>,
    ) -> Result<Self, String> {
        let server = certificate.map(|own| own.certified);
        let settings = tls::answering_tcp(identity.certified_key()?, server)?;
        Ok(Self {
            tls: TlsAcceptor::from(Arc::new(settings)),
        })
    }

    /// Has one request answered by `service`, and ends the connection. Gives it up where that
    /// takes too long.
    pub async fn serve<S, B>(&self, connection: TcpStream, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let exchange = async {
            // What is relayed is sealed datagrams, of which none waits for another.
            connection.set_nodelay(true).map_err(|e| e.to_string())?;
            let accepted = self.tls.accept(connection).await;
            let stream = accepted.map_err(|error| error.to_string())?;
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .keep_alive(false)
                .max_buf_size(HEAD_BYTES_MAX);
            let served = http
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            served.map_err(|error| error.to_string())
        };
        match tokio::time::timeout(EXCHANGE_LIMIT, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection over TCP failed"),
            Err(_) => tracing::debug!("a connection over TCP took too long"),
        }
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Https(..)")
    }
}
