//! Contacts: people whose nodes this one knows by key, under names that its user gave them.
//!
//! Whoever was sent to or received from is remembered as met, by the name it went by; only its user
//! makes a contact of that. A name of a contact is this user's own and nobody else's word. The file
//! is `contacts.toml` in the state directory:
//!
//! ```toml
//! [[contact]]
//! name = "anna"
//! node = "3f9a…"
//! accept = true            # what she sends is taken without asking
//! folder = "/srv/inbox"    # there
//! max = 10000000000        # where it is no larger than this, in bytes
//!
//! [[met]]
//! name = "bob"
//! node = "77aa…"
//! at = 1790000000
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shoal_wire::{NodeId, NodeName};

use crate::state::{StateDir, StateError, node_id_text};

/// People met who are remembered.
const MET_KEPT: usize = 50;

/// A person whose node is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// What this user calls them.
    pub name: NodeName,
    /// Their node.
    #[serde(with = "node_id_text")]
    pub node: NodeId,
    /// Whether what they send is taken without asking.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept: bool,
    /// Where that goes; the shared folder where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The most that is taken so at once, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

/// Somebody who was sent to or received from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// The name that they went by.
    pub name: NodeName,
    /// Their node.
    #[serde(with = "node_id_text")]
    pub node: NodeId,
    /// When, in seconds since 1970-01-01 UTC.
    pub at: u64,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contacts {
    /// Those whom the user keeps.
    #[serde(default, rename = "contact", skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<Contact>,
    /// Those who were met, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub met: Vec<Met>,
}

/// Why somebody does not become a contact.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Nobody of that name was met.
    #[error(
        "nobody called {0} was met yet: send to them or receive from them first, or give their node id"
    )]
    NotMet(NodeName),
    /// The name is another contact's.
    #[error("{0} is another contact already: choose another name")]
    Taken(NodeName),
}

impl Contacts {
    /// Those that a state directory remembers.
    ///
    /// # Errors
    /// When the file cannot be read or does not parse.
    pub fn load(state: &StateDir) -> Result<Self, StateError> {
        state.read_toml(&state.contacts_path())
    }

    /// Remembers them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, state: &StateDir) -> Result<(), StateError> {
        state.write_toml(&state.contacts_path(), self)
    }

    /// The contact of that name.
    pub fn named(&self, name: &NodeName) -> Option<&Contact> {
        self.contacts.iter().find(|contact| contact.name == *name)
    }

    /// The contact with that node.
    pub fn of_node(&self, node: &NodeId) -> Option<&Contact> {
        self.contacts.iter().find(|contact| contact.node == *node)
    }

    /// Somebody was met, now.
    pub fn meet(&mut self, node: NodeId, name: NodeName, at: u64) {
        self.met.retain(|met| met.node != node);
        self.met.push(Met { name, node, at });
        let excess = self.met.len().saturating_sub(MET_KEPT);
        self.met.drain(..excess);
    }

    /// Makes a contact: of `node`, or of whoever was met last under that name.
    ///
    /// # Errors
    /// When nobody was, or the name is taken by another node.
    pub fn keep(&mut self, name: NodeName, node: Option<NodeId>) -> Result<NodeId, KeepError> {
        let met = || self.met.iter().rev().find(|met| met.name == name);
        let found = node.or_else(|| met().map(|met| met.node));
        let node = found.ok_or_else(|| KeepError::NotMet(name.clone()))?;
        if self.named(&name).is_some_and(|known| known.node != node) {
            return Err(KeepError::Taken(name));
        }
        match self.contacts.iter_mut().find(|known| known.node == node) {
            Some(known) => known.name = name,
            None => self.contacts.push(Contact {
                name,
                node,
                accept: false,
                folder: None,
                max: None,
            }),
        }
        Ok(node)
    }

    /// Forgets a contact; whether there was one.
    pub fn forget(&mut self, name: &NodeName) -> bool {
        let before = self.contacts.len();
        self.contacts.retain(|contact| contact.name != *name);
        self.contacts.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn node(byte: u8) -> NodeId {
        NodeId::new([byte; 32])
    }

    #[test]
    fn whoever_was_met_can_be_kept_under_a_name_that_is_nobody_elses() {
        let mut contacts = Contacts::default();
        assert!(contacts.keep(name("anna"), None).is_err());
        contacts.meet(node(1), name("anna"), 5);
        contacts.meet(node(2), name("anna"), 6);
        assert_eq!(contacts.keep(name("anna"), None).unwrap(), node(2));
        let taken = contacts.keep(name("anna"), Some(node(1)));
        assert!(matches!(taken, Err(KeepError::Taken(_))));
        contacts
            .keep(name("anna from work"), Some(node(2)))
            .unwrap();
        assert_eq!(contacts.contacts.len(), 1);
        assert!(!contacts.forget(&name("anna")) && contacts.forget(&name("anna from work")));
    }

    #[test]
    fn they_are_kept_in_a_file_and_only_so_many_are_remembered_as_met() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(folder.path()), "peer").unwrap();
        assert_eq!(Contacts::load(&state).unwrap(), Contacts::default());
        let mut contacts = Contacts::default();
        for byte in 0..200 {
            contacts.meet(node(byte), name("somebody"), byte.into());
        }
        assert_eq!(contacts.met.len(), MET_KEPT);
        contacts.keep(name("anna"), Some(node(7))).unwrap();
        contacts.contacts[0].max = Some(5);
        contacts.save(&state).unwrap();
        assert_eq!(Contacts::load(&state).unwrap(), contacts);
        std::fs::write(state.contacts_path(), "[[contact]]\nname = 'a:b'\n").unwrap();
        assert!(Contacts::load(&state).is_err());
    }
}
