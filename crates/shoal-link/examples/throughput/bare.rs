//! One transfer over the bare QUIC library, with the settings that this crate chooses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use noq::congestion::CubicConfig;
use noq::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use noq::{MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::version::TLS13;
use rustls::{CipherSuite, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::WRITE_BYTES;

const ALPN: &[u8] = b"bare";

pub(crate) fn server(bind: SocketAddr) -> noq::Endpoint {
    endpoint(bind, Some(bind.ip().is_loopback()))
}

pub(crate) async fn receive(endpoint: noq::Endpoint) -> u64 {
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    let mut received_bytes = 0;
    while let Some(chunk) = recv.read_chunk(WRITE_BYTES).await.unwrap() {
        received_bytes += chunk.len() as u64;
    }
    send.write_all(b"!").await.unwrap();
    send.finish().unwrap();
    connection.closed().await;
    received_bytes
}

pub(crate) async fn send(bind: SocketAddr, to: SocketAddr, total_bytes: u64) -> u64 {
    let endpoint = endpoint(bind, None);
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let mut config = noq::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(to.ip().is_loopback())));
    let connecting = endpoint.connect_with(config, to, "localhost").unwrap();
    let connection = connecting.await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let piece = Bytes::from(vec![0x5a; WRITE_BYTES]);
    for _ in 0..total_bytes / WRITE_BYTES as u64 {
        send.write_chunk(piece.clone()).await.unwrap();
    }
    send.finish().unwrap();
    recv.read_exact(&mut [0]).await.unwrap();
    endpoint.close(VarInt::from_u32(0), b"");
    endpoint.wait_all_draining().await;
    total_bytes
}

/// With `answers_on_loopback`, an endpoint that answers.
fn endpoint(bind: SocketAddr, answers_on_loopback: Option<bool>) -> noq::Endpoint {
    let domain = Domain::for_address(bind);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_recv_buffer_size(4 * 1024 * 1024).unwrap();
    socket.set_send_buffer_size(4 * 1024 * 1024).unwrap();
    socket.bind(&bind.into()).unwrap();
    let mut config = noq::EndpointConfig::default();
    config.max_udp_payload_size(65_527).unwrap();
    let server = answers_on_loopback.map(|is_loopback| {
        let (certificate, key) = certificate();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let mut server = noq::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport(is_loopback)));
        server
    });
    noq::Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime)).unwrap()
}

fn transport(is_loopback: bool) -> TransportConfig {
    let mut probing = MtuDiscoveryConfig::default();
    let mut cubic = CubicConfig::default();
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(Duration::from_secs(4)))
        .stream_receive_window(VarInt::from_u32(2 * 1024 * 1024))
        .receive_window(VarInt::from_u32(16 * 1024 * 1024))
        .send_window(8 * 1024 * 1024);
    if is_loopback {
        cubic.initial_window(654_800);
        probing.upper_bound(65_480);
        config
            .initial_mtu(65_480)
            .enable_segmentation_offload(false);
    } else {
        probing.upper_bound(6_500);
    }
    config
        .mtu_discovery_config(Some(probing))
        .congestion_controller_factory(Arc::new(cubic));
    config
}

fn certificate() -> (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&pair).unwrap().der().clone();
    (certificate, PrivatePkcs8KeyDer::from(pair.serialize_der()))
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
