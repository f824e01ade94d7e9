//! Passes: who may use a relay, until when, and how many at once.
//!
//! Made and checked with one key, by a server for its own relay or for one apart. Nothing is kept
//! of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use data_encoding::BASE32_NOPAD;
use shoal_link::{Admission, Identity};
use shoal_wire::{NodeId, RelayPass};

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
    clock: Clock,
    /// Whether as much was relayed as may be for now.
    is_used_up: AtomicBool,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
pub(crate) struct Inside {
    /// By connection: the node, and whose pass brought it in.
    pub(crate) connections: BTreeMap<u64, (NodeId, NodeId)>,
    pub(crate) refused: u64,
}

impl Passes {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self {
            key,
            clock: Clock::new(),
            is_used_up: AtomicBool::new(false),
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
        self.is_used_up.load(Ordering::Relaxed)
    }

    pub(crate) fn set_used_up(&self, is_used_up: bool) {
        self.is_used_up.store(is_used_up, Ordering::Relaxed);
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
    fn admits(&self, node: NodeId, pass: Option<&str>, connection: u64) -> bool {
        let pass = self.check(node, pass, self.now_s());
        let pass = pass.filter(|_| !self.is_used_up());
        let mut inside = self.inside();
        let of = |of: &dyn Fn(&(NodeId, NodeId)) -> bool| {
            inside.connections.values().filter(|one| of(one)).count()
        };
        let admitted = pass.filter(|pass| {
            let has_room = match pass.kind {
                FOR_GUESTS => of(&|(_, issuer)| *issuer == pass.node) < OF_ISSUER_MAX,
                _ => true,
            };
            has_room
                && of(&|(inside, _)| *inside == node) < OF_NODE_MAX
                && inside.connections.len() < NODES_MAX
        });
        match admitted {
            Some(pass) => {
                inside.connections.insert(connection, (node, pass.node));
                true
            }
            None => {
                inside.refused += 1;
                tracing::debug!(node = %node.short(), "not admitted to the relay");
                false
            }
        }
    }

    fn left(&self, connection: u64) {
        self.inside().connections.remove(&connection);
    }
}

/// The time by which passes end: the system's at the start, and then the time that has gone by, so
/// that a clock that is set ends none.
#[derive(Debug)]
struct Clock {
    started: Instant,
    started_at_s: u64,
}

impl Clock {
    fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started: Instant::now(),
            started_at_s: since_epoch.map_or(0, |time| time.as_secs()),
        }
    }

    fn now_s(&self) -> u64 {
        self.started_at_s + self.started.elapsed().as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId::new([byte; 32])
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
        let passes = Passes::new(key_of(&Identity::generate()));
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
        let passes = Passes::new(key_of(&Identity::generate()));
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
        let others = Passes::new(key_of(&Identity::generate()));
        assert!(others.check(node(1), Some(&text), 0).is_none());
        let strange = passes.make(pass(3)).unwrap();
        assert!(passes.check(node(1), Some(strange.as_str()), 0).is_none());
    }

    #[test]
    fn one_pass_does_not_take_every_place() {
        let identity = Identity::generate();
        let passes = Passes::new(key_of(&identity));
        let later = Pass {
            expires_at_s: u64::MAX,
            ..pass(FOR_GUESTS)
        };
        let text = passes.make(later).unwrap();
        let admit = |number: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            passes.admits(NodeId::new(bytes), Some(text.as_str()), number)
        };
        let inside = (0..2_000).filter(|number| admit(*number)).count();
        assert_eq!(inside, OF_ISSUER_MAX);
        passes.left(0);
        assert!(admit(3_000) && !admit(3_001));
        passes.left(1);
        passes.set_used_up(true);
        assert!(!admit(3_002));
        passes.set_used_up(false);
        assert!(admit(3_002));
        assert_eq!(passes.inside().refused, 2_002 - OF_ISSUER_MAX as u64);
    }
}
