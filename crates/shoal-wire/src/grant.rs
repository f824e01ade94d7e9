//! Grants: what a server signs so that one node may fetch from another.
//!
//! A grant binds issuer, holder, provider, scope, verb and expiry. The provider checks it on its
//! own: the signature is by the server it belongs to, the holder is the node at the other end of
//! the link, the provider is itself, the scope covers the file. Nothing is asked of the server.

use serde::{Deserialize, Serialize};

use crate::id::{Hash, NodeId, Signature};
use crate::path::SafePath;

/// Prefix of the signed bytes, so that a signature for one purpose serves no other.
const SIGNING_CONTEXT: &[u8] = b"shoal/grant/1\0";
/// How far two clocks may differ before an expiry is believed, in milliseconds.
pub const CLOCK_TOLERANCE_MS: u64 = 5 * 60 * 1000;

/// What a grant allows its holder to do at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// List and fetch.
    Fetch,
}

/// What part of a provider's files a grant covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Everything that the provider announced.
    Share,
    /// One file, or all below one folder.
    Path(SafePath),
    /// Any announced file with this content.
    Blob(Hash),
}

impl Scope {
    /// Whether it covers the announced file at `path` with `hash`.
    pub fn covers(&self, path: &SafePath, hash: Option<&Hash>) -> bool {
        match self {
            Self::Share => true,
            Self::Path(scope) => path == scope || path.below(scope).is_some(),
            Self::Blob(blob) => hash == Some(blob),
        }
    }

    /// Whether it covers all that lies below `folder`, the whole share where `None`.
    pub fn covers_folder(&self, folder: Option<&SafePath>) -> bool {
        match (self, folder) {
            (Self::Share, _) => true,
            (Self::Path(_), Some(folder)) => self.covers(folder, None),
            (Self::Path(_) | Self::Blob(_), _) => false,
        }
    }
}

/// A permission, before it is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The server that vouches.
    pub issuer: NodeId,
    /// The node that may fetch.
    pub holder: NodeId,
    /// The node that it may fetch from.
    pub provider: NodeId,
    /// What it may fetch.
    pub scope: Scope,
    /// What it may do.
    pub verb: Verb,
    /// When it ends, in milliseconds since 1970-01-01 UTC.
    pub expires_at_ms: u64,
}

impl Grant {
    /// The bytes that the issuer signs.
    pub fn signing_bytes(&self) -> Vec<u8> {
        let mut bytes = SIGNING_CONTEXT.to_vec();
        // Serialising to memory fails for no value of this type: all lengths are known.
        bytes.extend(postcard::to_stdvec(self).unwrap_or_default());
        bytes
    }
}

/// Why a grant does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The signature is not the issuer's, or the issuer is not the provider's server.
    #[error("the grant is not signed by this node's server")]
    NotVouched,
    /// Made out to another holder or provider.
    #[error("the grant is made out to another node")]
    OtherNode,
    /// Over, beyond the tolerance for clocks.
    #[error("the grant has expired")]
    Expired,
    /// The file is outside its scope.
    #[error("the grant does not cover this file")]
    OutOfScope,
}

/// A grant with its issuer's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedGrant {
    /// The permission.
    pub grant: Grant,
    /// The issuer's signature over [`Grant::signing_bytes`].
    pub signature: Signature,
}

/// Whom a grant is checked for: the provider that checks and the node that shows it.
#[derive(Debug, Clone, Copy)]
pub struct GrantParties {
    /// The server that the provider belongs to.
    pub server: NodeId,
    /// The provider itself.
    pub provider: NodeId,
    /// The node at the other end of the link.
    pub holder: NodeId,
}

impl SignedGrant {
    /// Checks that `parties` may use this grant for the announced file at `path` with `hash`.
    /// `now_ms` is wall-clock time in milliseconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(
        &self,
        parties: &GrantParties,
        path: &SafePath,
        hash: Option<&Hash>,
        now_ms: u64,
    ) -> Result<(), GrantError> {
        let scope = self.scope_for(parties, now_ms)?;
        scope
            .covers(path, hash)
            .then_some(())
            .ok_or(GrantError::OutOfScope)
    }

    /// What `parties` may use this grant for, all but whether it covers a file. `now_ms` is
    /// wall-clock time in milliseconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn scope_for(&self, parties: &GrantParties, now_ms: u64) -> Result<&Scope, GrantError> {
        let grant = &self.grant;
        let signed = || {
            self.signature
                .verifies(&grant.issuer, &grant.signing_bytes())
        };
        if grant.issuer != parties.server || !signed() {
            return Err(GrantError::NotVouched);
        }
        if grant.holder != parties.holder || grant.provider != parties.provider {
            return Err(GrantError::OtherNode);
        }
        if now_ms > grant.expires_at_ms.saturating_add(CLOCK_TOLERANCE_MS) {
            return Err(GrantError::Expired);
        }
        Ok(&grant.scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    fn signed(scope: Scope) -> (SignedGrant, GrantParties) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let parties = GrantParties {
            server: NodeId::new(key.verifying_key().to_bytes()),
            provider: NodeId::new([2; 32]),
            holder: NodeId::new([3; 32]),
        };
        let grant = Grant {
            issuer: parties.server,
            holder: parties.holder,
            provider: parties.provider,
            scope,
            verb: Verb::Fetch,
            expires_at_ms: 1_000_000,
        };
        let signature = Signature::new(key.sign(&grant.signing_bytes()).to_bytes());
        (SignedGrant { grant, signature }, parties)
    }

    fn path(text: &str) -> SafePath {
        text.parse().expect(text)
    }

    #[test]
    fn a_grant_holds_for_its_scope_and_nothing_else() {
        let (grant, parties) = signed(Scope::Path(path("a/b")));
        assert_eq!(grant.check(&parties, &path("a/b/c"), None, 0), Ok(()));
        assert_eq!(grant.check(&parties, &path("a/b"), None, 0), Ok(()));
        assert_eq!(
            grant.check(&parties, &path("a/bc"), None, 0),
            Err(GrantError::OutOfScope)
        );
        let (grant, parties) = signed(Scope::Blob(Hash::new([9; 32])));
        assert_eq!(
            grant.check(&parties, &path("x"), Some(&Hash::new([9; 32])), 0),
            Ok(())
        );
        assert_eq!(
            grant.check(&parties, &path("x"), None, 0),
            Err(GrantError::OutOfScope)
        );
    }

    #[test]
    fn another_holder_provider_server_or_a_changed_grant_is_refused() {
        let (grant, parties) = signed(Scope::Share);
        let other = NodeId::new([8; 32]);
        for wrong in [
            GrantParties {
                holder: other,
                ..parties
            },
            GrantParties {
                provider: other,
                ..parties
            },
            GrantParties {
                server: other,
                ..parties
            },
        ] {
            assert!(grant.check(&wrong, &path("x"), None, 0).is_err());
        }
        let mut longer = grant.clone();
        longer.grant.expires_at_ms = u64::MAX;
        assert_eq!(
            longer.check(&parties, &path("x"), None, 0),
            Err(GrantError::NotVouched)
        );
    }

    #[test]
    fn expiry_allows_for_clocks_that_differ() {
        let (grant, parties) = signed(Scope::Share);
        let end = 1_000_000 + CLOCK_TOLERANCE_MS;
        assert_eq!(grant.check(&parties, &path("x"), None, end), Ok(()));
        assert_eq!(
            grant.check(&parties, &path("x"), None, end + 1),
            Err(GrantError::Expired)
        );
    }
}
