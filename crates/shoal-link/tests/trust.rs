//! Who is believed, and who is turned down: pins, certificate files, system roots, strangers.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod anyone;
mod pair;

use std::sync::Arc;

use anyone::Anyone;
use pair::{endpoint, endpoint_showing, outcome, to};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shoal_link::{
    Dial, DialError, Endpoint, Identity, Protocol, RootSet, ServerCertificate, Trust, self_signed,
};

#[tokio::test]
async fn a_pinned_node_with_another_key_is_turned_down() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let expected = Identity::generate().node_id();
    let dial = Dial {
        trust: Trust::Node(expected),
        ..to(&server)
    };
    let found = Some(server.node_id());
    let verdict = DialError::WrongIdentity { expected, found };
    assert_eq!(outcome(&client, dial).await, Err(verdict));
}

#[tokio::test]
async fn a_wrong_identity_outweighs_an_address_that_is_silent() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let dial = Dial {
        addresses: vec![server.local_addr(), silent.local_addr().unwrap()],
        trust: Trust::Node(client.node_id()),
        deadline: std::time::Duration::from_millis(500),
        ..to(&server)
    };
    let verdict = outcome(&client, dial).await;
    assert!(
        matches!(verdict, Err(DialError::WrongIdentity { .. })),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn a_server_with_a_certificate_still_proves_its_node_id_when_pinned() {
    let (server, _) = server_for(&["localhost"]).await;
    let client = endpoint(&[]).await;
    let link = client.dial(to(&server)).await.unwrap();
    assert_eq!(link.remote_id(), Some(server.node_id()));
}

#[tokio::test]
async fn a_listed_certificate_is_trusted_for_its_names() {
    let (server, roots) = server_for(&["localhost", "127.0.0.1"]).await;
    let client = endpoint(&[]).await;
    for name in [
        Some("localhost".to_owned()),
        Some("127.0.0.1".to_owned()),
        None,
    ] {
        let dial = Dial {
            server_name: name,
            ..by_file(&server, &roots)
        };
        let link = client.dial(dial).await.unwrap();
        assert_eq!(link.remote_id(), None, "a certificate is no node id");
    }
}

#[tokio::test]
async fn a_listed_certificate_that_calls_itself_an_authority_is_trusted() {
    let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (server, roots) = server_with(parameters).await;
    let client = endpoint(&[]).await;
    let dial = named("localhost", by_file(&server, &roots));
    assert_eq!(outcome(&client, dial).await, Ok(()));
}

#[tokio::test]
async fn a_certificate_from_a_listed_authority_is_trusted() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let server = showing(&leaf.pem(), &key.serialize_pem()).await;
    let roots = RootSet::from_pem(authority.pem().as_bytes()).unwrap();
    let client = endpoint(&[]).await;
    let dial = named("localhost", by_file(&server, &roots));
    assert_eq!(outcome(&client, dial).await, Ok(()));
}

#[tokio::test]
async fn a_listed_certificate_for_another_name_is_untrusted() {
    let (server, roots) = server_for(&["files.example"]).await;
    let client = endpoint(&[]).await;
    let dial = named("localhost", by_file(&server, &roots));
    untrusted(outcome(&client, dial).await, "another name");
}

#[tokio::test]
async fn a_certificate_that_is_not_listed_is_untrusted() {
    let (server, _) = server_for(&["localhost"]).await;
    let (_, roots) = server_for(&["localhost"]).await;
    let client = endpoint(&[]).await;
    let dial = named("localhost", by_file(&server, &roots));
    untrusted(outcome(&client, dial).await, "issuer");
}

#[tokio::test]
async fn an_expired_certificate_is_turned_down_even_when_listed() {
    let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let (server, roots) = server_with(parameters).await;
    let client = endpoint(&[]).await;
    let dial = named("localhost", by_file(&server, &roots));
    let verdict = outcome(&client, dial).await;
    assert_eq!(verdict, Err(DialError::CertificateExpired));
}

#[tokio::test]
async fn a_certificate_of_tomorrow_is_untrusted() {
    let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(3000, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(3001, 1, 1);
    let (server, roots) = server_with(parameters).await;
    let client = endpoint(&[]).await;
    let dial = named("localhost", by_file(&server, &roots));
    untrusted(outcome(&client, dial).await, "clocks");
}

#[tokio::test]
async fn the_system_roots_do_not_know_a_self_signed_certificate() {
    let (server, _) = server_for(&["localhost"]).await;
    let client = endpoint(&[]).await;
    let mut dial = named("localhost", to(&server));
    dial.trust = Trust::SystemRoots;
    untrusted(outcome(&client, dial).await, "issuer");
}

#[tokio::test]
async fn a_server_without_a_certificate_is_untrusted_where_one_is_needed() {
    let (_, roots) = server_for(&["localhost"]).await;
    let server = endpoint(&[Protocol::Transfer]).await;
    let client = endpoint(&[]).await;
    let dial = named("localhost", by_file(&server, &roots));
    untrusted(outcome(&client, dial).await, "pin its node id");
}

#[tokio::test]
async fn trusting_nothing_still_learns_the_id_of_a_node() {
    let client = endpoint(&[]).await;
    let server = endpoint(&[Protocol::Transfer]).await;
    let mut dial = to(&server);
    dial.trust = Trust::Nothing;
    let link = client.dial(dial).await.unwrap();
    assert_eq!(link.remote_id(), Some(server.node_id()));

    let (server, _) = server_for(&["files.example"]).await;
    let mut dial = to(&server);
    dial.trust = Trust::Nothing;
    let link = client.dial(dial).await.unwrap();
    assert_eq!(link.remote_id(), None);
}

#[tokio::test]
async fn a_name_that_is_no_name_is_refused_before_anything_is_sent() {
    let (server, roots) = server_for(&["localhost"]).await;
    let client = endpoint(&[]).await;
    let dial = named("no name at all", by_file(&server, &roots));
    untrusted(outcome(&client, dial).await, "spelling");
}

#[tokio::test]
async fn a_protocol_that_is_not_answered_is_a_version_mismatch() {
    let server = endpoint(&[Protocol::Control]).await;
    let client = endpoint(&[]).await;
    let verdict = outcome(&client, to(&server)).await;
    assert_eq!(verdict, Err(DialError::VersionUnsupported));
}

#[tokio::test]
async fn a_dialer_without_a_certificate_is_refused() {
    let server = endpoint(&[Protocol::Transfer]).await;
    assert_eq!(alert_for(&server, None).await, CERTIFICATE_REQUIRED);
}

#[tokio::test]
async fn no_link_is_made_with_a_dialer_of_a_server_that_shows_no_certificate() {
    let server = endpoint(&[Protocol::Control, Protocol::Transfer]).await;
    let ended = ended(&server, None).await;
    assert!(
        matches!(ended, noq::ConnectionError::ApplicationClosed(_)),
        "{ended}"
    );
    let client = endpoint(&[]).await;
    let _link = client.dial(to(&server)).await.unwrap();
    let accepted = server.accept().await.unwrap();
    assert_eq!(accepted.remote_id(), Some(client.node_id()));
}

#[tokio::test]
async fn a_dialer_with_a_certificate_of_another_kind_is_refused() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&pair).unwrap().der().clone();
    let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
    let alert = alert_for(&server, Some((certificate, key.into()))).await;
    assert_ne!(alert, CERTIFICATE_REQUIRED);
    let link = endpoint(&[]).await.dial(to(&server)).await.unwrap();
    assert_eq!(
        server.accept().await.unwrap().path().remote.ip(),
        link.path().remote.ip()
    );
}

#[tokio::test]
async fn a_stolen_node_certificate_without_its_key_is_refused() {
    let server = endpoint(&[Protocol::Transfer]).await;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let names = ["node.shoal.invalid".to_owned()];
    let parameters = rcgen::CertificateParams::new(names).unwrap();
    let certificate = parameters.self_signed(&pair).unwrap().der().clone();
    let thief = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let key = PrivatePkcs8KeyDer::from(thief.serialize_der());
    let alert = alert_for(&server, Some((certificate, key.into()))).await;
    assert_eq!(alert, DECRYPT_ERROR);
}

/// TLS alerts, RFC 8446 section 6.
const DECRYPT_ERROR: u64 = 51;
const CERTIFICATE_REQUIRED: u64 = 116;

fn untrusted(verdict: Result<(), DialError>, part: &str) {
    match verdict {
        Err(DialError::Untrusted { reason }) => assert!(reason.contains(part), "{reason}"),
        other => panic!("{other:?}"),
    }
}

fn named(name: &str, dial: Dial) -> Dial {
    Dial {
        server_name: Some(name.to_owned()),
        ..dial
    }
}

fn by_file(server: &Endpoint, roots: &RootSet) -> Dial {
    Dial {
        trust: Trust::Certificates(roots.clone()),
        ..to(server)
    }
}

async fn server_for(names: &[&str]) -> (Endpoint, RootSet) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let (certificate, key) = self_signed(&names).unwrap();
    let server = showing(&certificate, &key).await;
    (server, RootSet::from_pem(certificate.as_bytes()).unwrap())
}

async fn server_with(parameters: rcgen::CertificateParams) -> (Endpoint, RootSet) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap().pem();
    let server = showing(&certificate, &key.serialize_pem()).await;
    (server, RootSet::from_pem(certificate.as_bytes()).unwrap())
}

async fn showing(certificate_pem: &str, key_pem: &str) -> Endpoint {
    let shown = ServerCertificate::from_pem(certificate_pem.as_bytes(), key_pem.as_bytes());
    endpoint_showing(&[Protocol::Transfer], Some(shown.unwrap())).await
}

type Shown = Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>;

/// Dials with a bare QUIC client of the given certificate, and returns the alert that ends it.
async fn alert_for(server: &Endpoint, shown: Shown) -> u64 {
    match ended(server, shown).await {
        noq::ConnectionError::ConnectionClosed(close) => u64::from(close.error_code) - 0x100,
        other => panic!("{other:?}"),
    }
}

/// What ends the connection of such a client.
async fn ended(server: &Endpoint, shown: Shown) -> noq::ConnectionError {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut tls = match shown {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let provider = rustls::crypto::ring::default_provider();
            let key = provider.key_provider.load_private_key(key).unwrap();
            let certified = rustls::sign::CertifiedKey::new(vec![certificate], key);
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                certified,
            )))
        }
    };
    tls.alpn_protocols = vec![b"shoal/transfer/1".to_vec()];
    let crypto = noq::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = noq::ClientConfig::new(Arc::new(crypto));
    let client = noq::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = client.connect_with(config, server.local_addr(), "localhost");
    match connecting.unwrap().await {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    }
}
