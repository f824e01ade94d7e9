//! Whom a dialer believes, and the certificate checks of both sides.
//!
//! Every verifier here checks the handshake's signature against the key in the certificate, even
//! where the certificate itself may be anything. A verdict that a person must act on travels as
//! a [`Rejection`] inside the TLS error, so that the dial can name it.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shoal_wire::NodeId;

use crate::certificate::RootSet;
use crate::directory::Directory;
use crate::identity::node_id_in;

/// Whom a dial believes to be at the other end.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Exactly the node with this id, by its node certificate.
    Node(NodeId),
    /// A server whose certificate for the dialled name leads to the operating system's roots.
    SystemRoots,
    /// A server whose certificate for the dialled name is in this set or leads to it.
    Certificates(RootSet),
    /// Anybody: the link is encrypted, but not known to end where it should.
    Nothing,
}

/// Why a certificate was turned down, in words for a person.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Rejection {
    #[error("expected node {}, found {}", expected.short(), found.map_or("no node certificate".to_owned(), |id| id.short()))]
    WrongIdentity {
        expected: NodeId,
        found: Option<NodeId>,
    },
    #[error("the certificate has expired")]
    Expired,
    #[error("{0}")]
    Untrusted(String),
    #[error("a node certificate is needed to connect")]
    NotANode,
}

impl From<Rejection> for rustls::Error {
    fn from(rejection: Rejection) -> Self {
        CertificateError::Other(OtherError(Arc::new(rejection))).into()
    }
}

/// The dialer's check of whoever answers.
#[derive(Debug)]
pub(crate) struct AnswererVerifier {
    rule: Rule,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Rule {
    Node(NodeId),
    Roots(RootSet),
    Anybody,
}

impl AnswererVerifier {
    pub(crate) fn new(trust: &Trust) -> Self {
        let rule = match trust {
            Trust::Node(id) => Rule::Node(*id),
            Trust::SystemRoots => Rule::Roots(RootSet::of_the_system()),
            Trust::Certificates(set) => Rule::Roots(set.clone()),
            Trust::Nothing => Rule::Anybody,
        };
        Self {
            rule,
            algorithms: algorithms(),
        }
    }
}

impl ServerCertVerifier for AnswererVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.rule {
            Rule::Anybody => {}
            Rule::Node(expected) => {
                let found = node_id_in(end_entity);
                if found != Some(*expected) {
                    let expected = *expected;
                    return Err(Rejection::WrongIdentity { expected, found }.into());
                }
            }
            Rule::Roots(roots) => {
                let shown = Shown {
                    end_entity,
                    intermediates,
                    algorithms: &self.algorithms,
                };
                shown.check(roots, server_name, now)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self.rule {
            Rule::Node(_) => vec![SignatureScheme::ED25519],
            Rule::Roots(_) | Rule::Anybody => self.algorithms.supported_schemes(),
        }
    }
}

/// What a server showed, against a set of roots.
struct Shown<'a> {
    end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    algorithms: &'a WebPkiSupportedAlgorithms,
}

impl Shown<'_> {
    fn check(
        &self,
        roots: &RootSet,
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Rejection> {
        if node_id_in(self.end_entity).is_some() {
            return Err(Rejection::Untrusted(
                "the server has no certificate from an authority, pin its node id instead"
                    .to_owned(),
            ));
        }
        let parsed = webpki::EndEntityCert::try_from(self.end_entity).map_err(rejection_of)?;
        let is_listed = roots.lists(self.end_entity);
        // With no anchor at all, only dates and usage are checked before the chain fails.
        let anchors = if is_listed { &[] } else { roots.anchors() };
        let chain = parsed.verify_for_usage(
            self.algorithms.all,
            anchors,
            self.intermediates,
            now,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        );
        match chain {
            Ok(_) => {}
            Err(webpki::Error::UnknownIssuer | webpki::Error::CaUsedAsEndEntity) if is_listed => {}
            Err(error) => return Err(rejection_of(error)),
        }
        parsed
            .verify_is_valid_for_subject_name(server_name)
            .map_err(rejection_of)
    }
}

fn rejection_of(error: webpki::Error) -> Rejection {
    use webpki::Error as Reason;
    let text = match error {
        Reason::CertExpired { .. } => return Rejection::Expired,
        Reason::CertNotValidYet { .. } => {
            "the certificate is not valid yet, check the clocks of both machines".to_owned()
        }
        Reason::CertNotValidForName(_) | Reason::UnsupportedNameType => {
            "the certificate is for another name, dial the name that it was made for".to_owned()
        }
        Reason::UnknownIssuer
        | Reason::CaUsedAsEndEntity
        | Reason::InvalidSignatureForPublicKey
        | Reason::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            "the certificate's issuer is not trusted here, give its certificate file or pin the \
             server's node id"
                .to_owned()
        }
        other => format!("the certificate cannot be used: {other}"),
    };
    Rejection::Untrusted(text)
}

/// A node's check of a relay: it is that of the server which its name stands for, by its node
/// certificate.
#[derive(Debug)]
pub(crate) struct RelayVerifier {
    relays: Directory,
    algorithms: WebPkiSupportedAlgorithms,
}

impl RelayVerifier {
    pub(crate) fn new(relays: Directory) -> Self {
        Self {
            relays,
            algorithms: algorithms(),
        }
    }
}

impl ServerCertVerifier for RelayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(expected) = self.relays.server_of(server_name) else {
            let text = "the relay is none of a server that is known here".to_owned();
            return Err(Rejection::Untrusted(text).into());
        };
        let found = node_id_in(end_entity);
        match found == Some(expected) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Rejection::WrongIdentity { expected, found }.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The answerer's check of whoever dials: any node, by its node certificate.
#[derive(Debug)]
pub(crate) struct DialerVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    tells_addresses: bool,
}

impl DialerVerifier {
    /// With `tells_addresses` also those who show no certificate, and only ask where they are seen:
    /// a link is not made of that.
    pub(crate) fn new(tells_addresses: bool) -> Self {
        Self {
            algorithms: algorithms(),
            tells_addresses,
        }
    }
}

impl ClientCertVerifier for DialerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.tells_addresses
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        node_id_in(end_entity).ok_or(Rejection::NotANode)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}

fn tls12_is_off() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken".to_owned())
}
