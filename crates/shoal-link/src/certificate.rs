//! X.509 certificates in PEM: what a server shows, what a dialer trusts, and how to make one.
//!
//! Parses and makes; whether a certificate is good enough for a given dial is decided in
//! [`trust`](crate::trust). A certificate listed in a [`RootSet`] is trusted as an authority and,
//! when a server shows that very certificate, as itself.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};

/// How long a certificate of our own making is valid, in days: ten years.
const SELF_SIGNED_DAYS: u32 = 3652;

/// Why a certificate cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CertificateError {
    /// No certificate in the PEM text.
    #[error("no certificate in this PEM text, give a file with BEGIN CERTIFICATE in it: {reason}")]
    NoCertificate {
        /// What the parser said.
        reason: String,
    },
    /// No private key in the PEM text.
    #[error("no private key in this PEM text, give a file with BEGIN PRIVATE KEY in it: {reason}")]
    NoKey {
        /// What the parser said.
        reason: String,
    },
    /// The key cannot be used, or belongs to another certificate.
    #[error("the private key does not fit the certificate, give the pair made together: {reason}")]
    Mismatch {
        /// What the check said.
        reason: String,
    },
    /// A certificate could not be parsed as X.509 v3.
    #[error("the certificate cannot be parsed: {reason}")]
    Malformed {
        /// What the parser said.
        reason: String,
    },
    /// A name that no certificate can carry.
    #[error("cannot make a certificate for these names, use host names or IP addresses: {reason}")]
    Name {
        /// What the generator said.
        reason: String,
    },
}

/// A certificate chain with its key, for a server to show.
#[derive(Clone)]
pub struct ServerCertificate {
    pub(crate) certified: Arc<CertifiedKey>,
}

impl ServerCertificate {
    /// Reads a chain (the server's own certificate first) and its private key.
    ///
    /// # Errors
    /// When either is missing or malformed, or they do not belong together.
    pub fn from_pem(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, CertificateError> {
        let chain = certificates_in(certificate_pem)?;
        let key =
            PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| CertificateError::NoKey {
                reason: error.to_string(),
            })?;
        let provider = rustls::crypto::ring::default_provider();
        CertifiedKey::from_der(chain, key, &provider)
            .map(|certified| Self {
                certified: Arc::new(certified),
            })
            .map_err(|error| CertificateError::Mismatch {
                reason: error.to_string(),
            })
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ServerCertificate({} in chain)",
            self.certified.cert.len()
        )
    }
}

/// Certificates that a dialer trusts.
#[derive(Clone)]
pub struct RootSet {
    listed: Arc<[CertificateDer<'static>]>,
    anchors: Arc<[TrustAnchor<'static>]>,
}

impl RootSet {
    /// Reads one or more certificates.
    ///
    /// # Errors
    /// When there is none, or one of them is malformed.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let listed = certificates_in(pem)?;
        for certificate in &listed {
            anchor_of(certificate).ok_or_else(|| CertificateError::Malformed {
                reason: "not an X.509 version 3 certificate".to_owned(),
            })?;
        }
        Ok(Self::of(listed))
    }

    /// The roots that the operating system trusts, read once; those that do not parse are left out.
    pub(crate) fn of_the_system() -> Self {
        static SYSTEM: LazyLock<RootSet> = LazyLock::new(RootSet::load_system);
        SYSTEM.clone()
    }

    fn load_system() -> Self {
        let loaded = rustls_native_certs::load_native_certs();
        for error in &loaded.errors {
            tracing::warn!(%error, "some of the system's root certificates cannot be read");
        }
        let set = Self::of(loaded.certs);
        Self {
            listed: Arc::new([]),
            ..set
        }
    }

    fn of(listed: Vec<CertificateDer<'static>>) -> Self {
        let anchors = listed.iter().filter_map(anchor_of).collect();
        Self {
            listed: listed.into(),
            anchors,
        }
    }

    pub(crate) fn lists(&self, certificate: &CertificateDer<'_>) -> bool {
        self.listed.iter().any(|listed| listed == certificate)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl fmt::Debug for RootSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootSet({} anchors)", self.anchors.len())
    }
}

/// Makes a self-signed certificate for host names and IP addresses, valid from yesterday (clocks
/// differ) for ten years. Returns the certificate and its ECDSA P-256 key, both in PEM.
///
/// # Errors
/// [`CertificateError::Name`] when a name fits no certificate.
pub fn self_signed(names: &[String]) -> Result<(String, String), CertificateError> {
    let refused = |error: rcgen::Error| CertificateError::Name {
        reason: error.to_string(),
    };
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(refused)?;
    let mut parameters = rcgen::CertificateParams::new(names).map_err(refused)?;
    let now = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(24 * 3600);
    parameters.not_before = (now - day).into();
    parameters.not_after = (now + day * SELF_SIGNED_DAYS).into();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(
        rcgen::DnType::CommonName,
        names.first().map_or("shoal", String::as_str),
    );
    let certificate = parameters.self_signed(&pair).map_err(refused)?;
    Ok((certificate.pem(), pair.serialize_pem()))
}

fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateError::NoCertificate {
            reason: error.to_string(),
        })?;
    if certificates.is_empty() {
        return Err(CertificateError::NoCertificate {
            reason: "nothing found".to_owned(),
        });
    }
    Ok(certificates)
}

fn anchor_of(certificate: &CertificateDer<'_>) -> Option<TrustAnchor<'static>> {
    webpki::anchor_from_trusted_cert(certificate)
        .ok()
        .map(|anchor| anchor.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_signed_pair_reads_back() {
        let names = ["files.example".to_owned(), "127.0.0.1".to_owned()];
        let (certificate, key) = self_signed(&names).unwrap();
        ServerCertificate::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        RootSet::from_pem(certificate.as_bytes()).unwrap();
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (certificate, _) = self_signed(&["a.example".to_owned()]).unwrap();
        let (_, key) = self_signed(&["a.example".to_owned()]).unwrap();
        let result = ServerCertificate::from_pem(certificate.as_bytes(), key.as_bytes());
        assert!(matches!(result, Err(CertificateError::Mismatch { .. })));
    }

    #[test]
    fn an_empty_file_is_refused() {
        assert!(matches!(
            RootSet::from_pem(b""),
            Err(CertificateError::NoCertificate { .. })
        ));
        let (certificate, _) = self_signed(&["a.example".to_owned()]).unwrap();
        assert!(matches!(
            ServerCertificate::from_pem(certificate.as_bytes(), b""),
            Err(CertificateError::NoKey { .. })
        ));
    }
}
