//! Passes: who may use a relay, until when, and how many at once.
//!
//! Made and checked with one key, by a server for its own relay or for one apart. Nothing is kept
//! of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::BASE32_NOPAD;
use shoal_link::{Admission, Identity, Meter, Visitor};
use shoal_wire::{NodeId, RelayPass};

use super::budget::{Account, Clock, RelayBudget, Spending};

/// Nodes at once.
const NODES_MAX: usize = 4096;
/// Connections of one node at once: a daemon and some commands beside it.
const OF_NODE_MAX: usize = 16;
/// Connections at once with passes that one node gave away.
const OF_ISSUER_MAX: usize = 256;
/// What the key of passes is derived for (BLAKE3 key derivation context).
const KEY_CONTEXT: &str = "shoal 2026-11 relay passes 1";
/// What is signed to derive it from, which is said to nobody.
const KEY_SEED: &[u8] = b"shoal/relay-passes/1\0";
/// Length of a pass's tag, in bytes.
const TAG_BYTES: usize = 16;

/// Kinds of passes.
pub(crate) const FOR_NODE: u8 = 1;
pub(crate) const FOR_GUESTS: u8 = 2;

/// A pass as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) kind: u8,
    /// Whose it is, or who gave it away.
    pub(crate) node: NodeId,
    pub(crate) expires_at_s: u64,
}

impl Pass {
    fn bytes(&self) -> Vec<u8> {
        let expires = self.expires_at_s.to_be_bytes();
        [&[self.kind][..], &expires, self.node.as_bytes()].concat()
    }
}

/// The key of the passes that the owner of this identity makes.
pub(crate) fn key_of(identity: &Identity) -> [u8; 32] {
    let seed = identity.sign(KEY_SEED);
    blake3::derive_key(KEY_CONTEXT, seed.as_bytes())
}

/// Makes and checks passes, and counts who is in.
#[derive(Debug)]
pub(crate) struct Passes {
    key: [u8; 32],
    /// Whose relay it is.
    owner: NodeId,
    clock: Clock,
    spending: Arc<Spending>,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
pub(crate) struct Inside {
    /// By connection: the node, and whose pass brought it in.
    pub(crate) connections: BTreeMap<u64, (NodeId, NodeId)>,
    pub(crate) refused: u64,
}

impl Passes {
    pub(crate) fn new(key: [u8; 32], owner: NodeId, budget: RelayBudget) -> Self {
        let clock = Clock::new();
        Self {
            key,
            owner,
            clock,
            spending: Arc::new(Spending::new(budget, clock)),
            inside: Mutex::default(),
        }
    }

    pub(crate) fn make(&self, pass: Pass) -> Option<RelayPass> {
        let bytes = pass.bytes();
        let text = BASE32_NOPAD.encode(&[&bytes[..], &self.tag(&bytes)].concat());
        RelayPass::new(&text)
    }

    /// The time by which they end.
    pub(crate) fn now_s(&self) -> u64 {
        self.clock.now_s()
    }

    /// Whether nobody is let in for now, because enough was relayed.
    pub(crate) fn is_used_up(&self) -> bool {
        self.spending.is_used_up()
    }

    /// Who answers for what a node sends that came in with this pass: the node that gave it away,
    /// so that new identities are no new budget. What the relay's owner gives away is for everybody
    /// who joins, so there each answers for itself; the owner answers to nobody.
    fn account(&self, node: NodeId, pass: &Pass) -> Account {
        let answers = match pass.node == self.owner {
            true => node,
            false => pass.node,
        };
        Account {
            spending: Arc::clone(&self.spending),
            node: (answers != self.owner).then_some(answers),
        }
    }

    fn tag(&self, bytes: &[u8]) -> [u8; TAG_BYTES] {
        let hash = blake3::keyed_hash(&self.key, bytes);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&hash.as_bytes()[..TAG_BYTES]);
        tag
    }

    fn read(&self, text: &str) -> Option<Pass> {
        let bytes = BASE32_NOPAD.decode(text.as_bytes()).ok()?;
        let (body, tag) = bytes.split_last_chunk::<TAG_BYTES>()?;
        // Compared whole: a hash compares in the same time wherever two differ.
        let padded = |tag: &[u8; TAG_BYTES]| {
            let mut whole = [0; 32];
            whole[..TAG_BYTES].copy_from_slice(tag);
            blake3::Hash::from_bytes(whole)
        };
        if padded(tag) != padded(&self.tag(body)) {
            return None;
        }
        let (kind, rest) = body.split_first()?;
        let (expires, node) = rest.split_first_chunk::<8>()?;
        Some(Pass {
            kind: *kind,
            node: NodeId::new(node.try_into().ok()?),
            expires_at_s: u64::from_be_bytes(*expires),
        })
    }

    /// Whether `node` may come in with this pass at this time.
    fn check(&self, node: NodeId, text: Option<&str>, now_s: u64) -> Option<Pass> {
        let pass = self.read(text?)?;
        let is_whose = match pass.kind {
            FOR_NODE => pass.node == node,
            FOR_GUESTS => true,
            _ => false,
        };
        (is_whose && now_s < pass.expires_at_s).then_some(pass)
    }

    pub(crate) fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission for Passes {
    fn admits(&self, visitor: Visitor<'_>) -> Option<Arc<dyn Meter>> {
        let Visitor {
            node,
            pass,
            connection,
        } = visitor;
        let pass = self.check(node, pass, self.now_s());
        let admitted = pass.map(|pass| (pass, self.account(node, &pass)));
        let mut inside = self.inside();
        let of = |of: &dyn Fn(&(NodeId, NodeId)) -> bool| {
            inside.connections.values().filter(|one| of(one)).count()
        };
        let admitted = admitted.filter(|(pass, account)| {
            let has_room = match pass.kind {
                FOR_GUESTS => of(&|(_, issuer)| *issuer == pass.node) < OF_ISSUER_MAX,
                _ => true,
            };
            has_room
                && of(&|(inside, _)| *inside == node) < OF_NODE_MAX
                && inside.connections.len() < NODES_MAX
                && self.spending.has_room(account.node.as_ref())
        });
        let Some((pass, account)) = admitted else {
            inside.refused += 1;
            tracing::debug!(node = %node.short(), "not admitted to the relay");
            return None;
        };
        inside.connections.insert(connection, (node, pass.node));
        let account: Arc<dyn Meter> = Arc::new(account);
        Some(account)
    }

    fn left(&self, connection: u64) {
        self.inside().connections.remove(&connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId::new([byte; 32])
    }

    fn made_by(identity: &Identity) -> Passes {
        Passes::new(key_of(identity), identity.node_id(), RelayBudget::default())
    }

    fn pass(kind: u8) -> Pass {
        Pass {
            kind,
            node: node(1),
            expires_at_s: 1_000,
        }
    }

    #[test]
    fn a_pass_admits_whom_it_was_made_for_until_it_is_over() {
        let passes = made_by(&Identity::generate());
        let own = passes.make(pass(FOR_NODE)).unwrap();
        let given = passes.make(pass(FOR_GUESTS)).unwrap();
        let admits = |text: &RelayPass, who, now_s| {
            passes
                .check(node(who), Some(text.as_str()), now_s)
                .is_some()
        };
        assert!(admits(&own, 1, 999) && !admits(&own, 2, 999));
        assert!(admits(&given, 1, 999) && admits(&given, 2, 999));
        assert!(!admits(&own, 1, 1_000) && !admits(&given, 2, 1_000));
        assert!(passes.check(node(1), None, 0).is_none());
    }

    #[test]
    fn a_pass_that_was_changed_or_made_elsewhere_admits_nobody() {
        let passes = made_by(&Identity::generate());
        let text = passes.make(pass(FOR_GUESTS)).unwrap().as_str().to_owned();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            if changed != text {
                assert!(passes.check(node(1), Some(&changed), 0).is_none(), "{at}");
            }
            assert!(
                passes.check(node(1), Some(&text[..at]), 0).is_none(),
                "{at}"
            );
        }
        let others = made_by(&Identity::generate());
        assert!(others.check(node(1), Some(&text), 0).is_none());
        let strange = passes.make(pass(3)).unwrap();
        assert!(passes.check(node(1), Some(strange.as_str()), 0).is_none());
    }

    #[test]
    fn one_pass_does_not_take_every_place() {
        let identity = Identity::generate();
        let passes = made_by(&identity);
        let later = Pass {
            expires_at_s: u64::MAX,
            ..pass(FOR_GUESTS)
        };
        let text = passes.make(later).unwrap();
        let admit = |number: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            passes.admits(Visitor {
                node: NodeId::new(bytes),
                pass: Some(text.as_str()),
                connection: number,
            })
        };
        let inside = (0..2_000).filter(|number| admit(*number).is_some());
        assert_eq!(inside.count(), OF_ISSUER_MAX);
        passes.left(0);
        assert!(admit(3_000).is_some() && admit(3_001).is_none());
        assert_eq!(passes.inside().refused, 2_001 - OF_ISSUER_MAX as u64);
    }

    #[test]
    fn guests_spend_what_the_one_who_invited_them_may() {
        let identity = Identity::generate();
        let budget = RelayBudget {
            bytes_per_day: None,
            node_bytes_per_day: Some(100),
        };
        let passes = Passes::new(key_of(&identity), identity.node_id(), budget);
        let admit = |issuer: NodeId, kind, who: u8| {
            let pass = Pass {
                kind,
                node: issuer,
                expires_at_s: u64::MAX,
            };
            let text = passes.make(pass).unwrap();
            passes.admits(Visitor {
                node: node(who),
                pass: Some(text.as_str()),
                connection: who.into(),
            })
        };
        let host = admit(node(1), FOR_NODE, 1).unwrap();
        let guest = admit(node(1), FOR_GUESTS, 2).unwrap();
        assert!(host.take(60) && guest.take(40) && !guest.take(1) && !host.take(1));
        assert!(admit(node(1), FOR_GUESTS, 3).is_none());
        assert!(admit(node(4), FOR_NODE, 4).unwrap().take(100));
        // What the relay's own server gives away is for everybody, so each has its own there.
        let (one, other) = (
            admit(identity.node_id(), FOR_GUESTS, 5),
            admit(identity.node_id(), FOR_GUESTS, 6),
        );
        assert!(one.unwrap().take(100) && other.unwrap().take(100));
    }
}
