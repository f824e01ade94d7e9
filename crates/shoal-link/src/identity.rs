//! The node's Ed25519 key, and the certificate that shows it in a handshake.
//!
//! A node certificate is a self-signed X.509 certificate over the node's key, told apart from any
//! other certificate by the name [`NODE_SERVER_NAME`] in it. Nothing in it but the key means
//! anything: its dates and its own signature are not looked at, the handshake's signature is.
//! This module keeps no file; whoever calls it does, with mode 0600.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use ring::hmac;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shoal_wire::{NodeId, Signature};

/// The name inside every node certificate, and the one asked for by a dialer that pins a node id.
/// `.invalid` never resolves (RFC 2606), so no authority certifies it.
pub(crate) const NODE_SERVER_NAME: &str = "node.shoal.invalid";
/// Start of the SubjectPublicKeyInfo of every Ed25519 key (RFC 8410 section 4); the 32 bytes of
/// the key follow.
const ED25519_KEY_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A node's Ed25519 signing key. Its public half is the node id.
#[derive(Clone)]
pub struct Identity {
    key: Arc<SigningKey>,
}

/// Why text is not an identity.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// Not a PEM file with an Ed25519 key in PKCS #8.
    #[error(
        "not an Ed25519 private key in PKCS #8 PEM, restore the identity file from a backup: {reason}"
    )]
    NotAKey {
        /// What the parser said.
        reason: String,
    },
}

impl Identity {
    /// Makes a new key from the system's random source.
    pub fn generate() -> Self {
        Self {
            key: Arc::new(SigningKey::from_bytes(&rand::random())),
        }
    }

    /// Reads a key written by [`to_pem`](Self::to_pem).
    ///
    /// # Errors
    /// [`IdentityError::NotAKey`] when the text is anything else.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        SigningKey::from_pkcs8_pem(pem)
            .map(|key| Self { key: Arc::new(key) })
            .map_err(|error| IdentityError::NotAKey {
                reason: error.to_string(),
            })
    }

    /// The key as PKCS #8 in PEM. Secret: whoever reads it is this node.
    pub fn to_pem(&self) -> String {
        self.key
            .to_pkcs8_pem(LineEnding::LF)
            .expect("a 32-byte key always encodes")
            .to_string()
    }

    /// The public half.
    pub fn node_id(&self) -> NodeId {
        NodeId::new(self.key.verifying_key().to_bytes())
    }

    /// Signs a message with the node's key.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature::new(self.key.sign(message).to_bytes())
    }

    /// The secret half, for protocols of others in which a node is known by its id.
    pub fn secret_bytes(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// The key by which this node, started again at the same address, says of connections of its
    /// earlier life that they are over (RFC 9000 section 10.3). Each address has its own, so that no
    /// other process of this node can be made to end connections of this one (section 21.11).
    pub(crate) fn reset_key(&self, address: SocketAddr) -> hmac::Key {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &self.key.to_bytes());
        let text = format!("shoal reset 1 {address}");
        let derived = hmac::sign(&secret, text.as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
    }

    /// A fresh node certificate with its key, for the handshake.
    pub(crate) fn certified_key(&self) -> Result<Arc<CertifiedKey>, String> {
        let der = self.key.to_pkcs8_der().map_err(|error| error.to_string())?;
        let key = PrivatePkcs8KeyDer::from(der.as_bytes().to_vec());
        let pair = rcgen::KeyPair::try_from(&key).map_err(|error| error.to_string())?;
        let certificate = rcgen::CertificateParams::new([NODE_SERVER_NAME.to_owned()])
            .and_then(|parameters| parameters.self_signed(&pair))
            .map_err(|error| error.to_string())?;
        CertifiedKey::from_der(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key),
            &rustls::crypto::ring::default_provider(),
        )
        .map(Arc::new)
        .map_err(|error| error.to_string())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.node_id().short())
    }
}

/// The node id in a certificate, `None` when it is not a node certificate or its key is weak.
pub(crate) fn node_id_in(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    if !parsed
        .valid_dns_names()
        .any(|name| name == NODE_SERVER_NAME)
    {
        return None;
    }
    let spki = parsed.subject_public_key_info();
    let bytes: [u8; 32] = spki.strip_prefix(&ED25519_KEY_PREFIX)?.try_into().ok()?;
    let key = VerifyingKey::from_bytes(&bytes).ok()?;
    (!key.is_weak()).then(|| NodeId::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_pem() {
        let identity = Identity::generate();
        let again = Identity::from_pem(&identity.to_pem()).unwrap();
        assert_eq!(again.node_id(), identity.node_id());
        let signature = again.sign(b"hello");
        assert!(signature.verifies(&identity.node_id(), b"hello"));
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(Identity::from_pem(text).is_err());
        }
    }

    #[test]
    fn a_node_certificate_carries_the_node_id() {
        let identity = Identity::generate();
        let certified = identity.certified_key().unwrap();
        assert_eq!(node_id_in(&certified.cert[0]), Some(identity.node_id()));
    }

    #[test]
    fn an_ed25519_certificate_without_the_marker_is_no_node_certificate() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let parameters = rcgen::CertificateParams::new(["files.example".to_owned()]).unwrap();
        let certificate = parameters.self_signed(&pair).unwrap();
        assert_eq!(node_id_in(certificate.der()), None);
    }

    #[test]
    fn a_certificate_over_a_weak_key_is_no_node_certificate() {
        let identity = Identity::generate();
        let certified = identity.certified_key().unwrap();
        let der = certified.cert[0].to_vec();
        let key = *identity.node_id().as_bytes();
        let at = der.windows(32).position(|bytes| bytes == key).unwrap();
        for (first, rest, last) in [(1, 0, 0), (0, 0, 0), (0, 0, 0x80), (0xec, 0xff, 0x7f)] {
            let mut weak = [rest; 32];
            (weak[0], weak[31]) = (first, last);
            let mut changed = der.clone();
            changed[at..at + 32].copy_from_slice(&weak);
            assert_eq!(node_id_in(&changed.into()), None, "{first} {rest} {last}");
        }
    }

    #[test]
    fn the_marker_over_another_kind_of_key_is_no_node_certificate() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let parameters = rcgen::CertificateParams::new([NODE_SERVER_NAME.to_owned()]).unwrap();
        let certificate = parameters.self_signed(&pair).unwrap();
        assert_eq!(node_id_in(certificate.der()), None);
    }
}
