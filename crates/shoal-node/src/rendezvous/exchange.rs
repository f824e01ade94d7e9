//! The key exchange of a code: SPAKE2 over Ed25519, then tags and seals from its key.
//!
//! The password is the words. Into the key go the version, the nameplate, both node ids and both
//! halves, so that a key proven is proven for this conversation between these two nodes. From it
//! come four keys: a tag and a seal for each side. No key seals more than one message.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use shoal_wire::message::Bounded;
use shoal_wire::offer::CodeElement;
use shoal_wire::{Code, NodeId};
use spake2::{Ed25519Group, Identity, Password, Spake2};

/// Who a side is to SPAKE2.
const RECEIVER: &[u8] = b"shoal code receiver";
/// Who the other is.
const SENDER: &[u8] = b"shoal code sender";
/// What the keys are derived for (BLAKE3 key derivation contexts).
const CONTEXT: &str = "shoal 2026-11 code exchange 1";
const TAG_CONTEXT: [&str; 2] = [
    "shoal 2026-11 code exchange 1 tag of the receiver",
    "shoal 2026-11 code exchange 1 tag of the sender",
];
const SEAL_CONTEXT: [&str; 2] = [
    "shoal 2026-11 code exchange 1 seal of the receiver",
    "shoal 2026-11 code exchange 1 seal of the sender",
];
/// Each key seals one message.
const ONLY_NONCE: [u8; 12] = [0; 12];

/// Which end of the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Who claims the code.
    Receiver,
    /// Who made it.
    Sender,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Receiver => Self::Sender,
            Self::Sender => Self::Receiver,
        }
    }
}

/// An exchange whose other half is still to come.
pub(super) struct Exchange {
    state: Spake2<Ed25519Group>,
    side: Side,
    own: (NodeId, CodeElement),
    nameplate: u32,
}

impl Exchange {
    /// This side's half.
    pub(super) fn begin(code: &Code, side: Side, own: NodeId) -> (Self, CodeElement) {
        let password = Password::new(code.words.password());
        let (receiver, sender) = (Identity::new(RECEIVER), Identity::new(SENDER));
        let (state, element) = match side {
            Side::Receiver => Spake2::<Ed25519Group>::start_a(&password, &receiver, &sender),
            Side::Sender => Spake2::<Ed25519Group>::start_b(&password, &receiver, &sender),
        };
        let element = Bounded::truncated(element);
        let exchange = Self {
            state,
            side,
            own: (own, element.clone()),
            nameplate: code.nameplate.number(),
        };
        (exchange, element)
    }

    /// The keys, once the other half is there; `None` where that is no half at all.
    pub(super) fn finish(self, other: NodeId, element: &CodeElement) -> Option<Keys> {
        let shared = self.state.finish(element).ok()?;
        let own = (self.own.0, &self.own.1);
        let (receiver, sender) = match self.side {
            Side::Receiver => (own, (other, element)),
            Side::Sender => ((other, element), own),
        };
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&self.nameplate.to_be_bytes());
        for (node, element) in [receiver, sender] {
            hasher.update(node.as_bytes());
            hasher.update(&[element.len() as u8]);
            hasher.update(element);
        }
        hasher.update(&shared);
        Some(Keys {
            root: hasher.finalize().into(),
            side: self.side,
            other,
        })
    }
}

/// What both ends have if they have the same code.
pub(super) struct Keys {
    root: [u8; 32],
    side: Side,
    other: NodeId,
}

impl Keys {
    /// The node at the other end, as it went into the key.
    pub(super) fn other(&self) -> NodeId {
        self.other
    }

    /// What proves this side's key.
    pub(super) fn own_tag(&self) -> [u8; 32] {
        self.tag(self.side)
    }

    /// Whether the other side has the same key; takes the same time whatever differs.
    pub(super) fn is_other_tag(&self, tag: &[u8; 32]) -> bool {
        blake3::Hash::from_bytes(self.tag(self.side.other())) == *tag
    }

    fn tag(&self, side: Side) -> [u8; 32] {
        blake3::derive_key(TAG_CONTEXT[side as usize], &self.root)
    }

    /// Seals this side's one message.
    pub(super) fn seal(&self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let key = self.seal_key(self.side)?;
        let nonce = Nonce::assume_unique_for_key(ONLY_NONCE);
        let sealed = key.seal_in_place_append_tag(nonce, Aad::empty(), &mut bytes);
        sealed.ok().map(|()| bytes)
    }

    /// Opens the other side's one message.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let key = self.seal_key(self.side.other())?;
        let nonce = Nonce::assume_unique_for_key(ONLY_NONCE);
        let mut bytes = sealed.to_vec();
        let opened = key.open_in_place(nonce, Aad::empty(), &mut bytes).ok()?;
        Some(opened.to_vec())
    }

    fn seal_key(&self, side: Side) -> Option<LessSafeKey> {
        let key = blake3::derive_key(SEAL_CONTEXT[side as usize], &self.root);
        Some(LessSafeKey::new(
            UnboundKey::new(&CHACHA20_POLY1305, &key).ok()?,
        ))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId::new([byte; 32])
    }

    fn exchange(receiver: &str, sender: &str) -> (Keys, Keys) {
        let (receiver, sender) = (receiver.parse().unwrap(), sender.parse().unwrap());
        let (one, to_other) = Exchange::begin(&receiver, Side::Receiver, node(1));
        let (other, to_one) = Exchange::begin(&sender, Side::Sender, node(2));
        (
            one.finish(node(2), &to_one).unwrap(),
            other.finish(node(1), &to_other).unwrap(),
        )
    }

    #[test]
    fn the_same_words_give_the_same_keys_and_each_side_reads_the_other() {
        let (receiver, sender) = exchange("7-tidal-anchor", "7-tidal-anchor");
        assert!(receiver.is_other_tag(&sender.own_tag()));
        assert!(sender.is_other_tag(&receiver.own_tag()));
        assert!(!sender.is_other_tag(&sender.own_tag()), "not by an echo");
        let sealed = sender.seal(b"a ticket".to_vec()).unwrap();
        assert_eq!(receiver.open(&sealed).unwrap(), b"a ticket");
        assert!(sender.open(&sealed).is_none(), "not by an echo");
    }

    #[test]
    fn other_words_another_nameplate_or_another_node_is_noticed() {
        for wrong in ["7-tidal-antenna", "7-anchor-tidal", "8-tidal-anchor"] {
            let (receiver, sender) = exchange(wrong, "7-tidal-anchor");
            assert!(!sender.is_other_tag(&receiver.own_tag()), "{wrong}");
            let sealed = sender.seal(b"a ticket".to_vec()).unwrap();
            assert!(receiver.open(&sealed).is_none(), "{wrong}");
        }
        let code: Code = "7-tidal-anchor".parse().unwrap();
        let (one, to_other) = Exchange::begin(&code, Side::Receiver, node(1));
        let (other, to_one) = Exchange::begin(&code, Side::Sender, node(2));
        let one = one.finish(node(3), &to_one).unwrap();
        let other = other.finish(node(1), &to_other).unwrap();
        assert!(!one.is_other_tag(&other.own_tag()));
    }

    #[test]
    fn what_is_no_half_of_an_exchange_is_refused() {
        let code: Code = "7-tidal-anchor".parse().unwrap();
        for bytes in [vec![], vec![0x53; 33], vec![0x42; 32], vec![0x53; 5]] {
            let (exchange, own) = Exchange::begin(&code, Side::Receiver, node(1));
            assert!(exchange.finish(node(2), &own).is_none(), "a reflection");
            let (exchange, _) = Exchange::begin(&code, Side::Receiver, node(1));
            let element = Bounded::truncated(bytes);
            assert!(exchange.finish(node(2), &element).is_none());
        }
    }
}
