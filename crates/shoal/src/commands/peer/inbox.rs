//! What contacts offer to a running peer: taken by rule, or kept until its user says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use shoal_link::Endpoint;
use shoal_node::contacts::{Contact, Contacts};
use shoal_node::relays::Relays;
use shoal_node::state::StateDir;
use shoal_node::tasks::Tasks;
use shoal_wire::{NodeName, OfferTicket, Refusal};
use tokio::sync::mpsc;

use crate::commands::contacts::unknown;
use crate::commands::receive::{self, How};
use crate::exit::{Code, Failure};
use crate::output::Output;

/// Offers that may wait while one is taken.
const QUEUE: usize = 8;
/// Offers that may wait for a person; an older one of the same contact is replaced.
const PENDING_MAX: usize = 16;

/// An offer of a contact, accepted.
pub(crate) struct Taken {
    contact: Contact,
    ticket: OfferTicket,
}

/// Offers of contacts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Inbox {
    state: StateDir,
    has_prompt: bool,
    output: Output,
    taken: mpsc::Sender<Taken>,
    pending: Arc<Mutex<BTreeMap<NodeName, OfferTicket>>>,
}

impl Inbox {
    /// An empty one, and where what is accepted comes out.
    pub(crate) fn new(
        state: StateDir,
        has_prompt: bool,
        output: &Output,
    ) -> (Self, mpsc::Receiver<Taken>) {
        let (taken, takes) = mpsc::channel(QUEUE);
        let inbox = Self {
            state,
            has_prompt,
            output: output.clone(),
            taken,
            pending: Arc::default(),
        };
        (inbox, takes)
    }

    /// Somebody offers something: only contacts are listened to.
    pub(crate) fn hear(&self, ticket: OfferTicket) -> Result<(), Refusal> {
        let contacts = Contacts::load(&self.state).map_err(|error| {
            tracing::warn!(%error, "an offer was declined");
            Refusal::Declined
        })?;
        let contact = contacts.of_node(&ticket.sender).cloned();
        let contact = contact.ok_or(Refusal::Declined)?;
        if contact.accept {
            let taken = self.taken.try_send(Taken { contact, ticket });
            return taken.map_err(|_| Refusal::QuotaExceeded);
        }
        if !self.has_prompt {
            tracing::info!(contact = %contact.name, "an offer was declined: nobody is there to ask, and no rule accepts it");
            return Err(Refusal::Declined);
        }
        let name = contact.name;
        {
            let mut pending = self.pending();
            if pending.len() >= PENDING_MAX && !pending.contains_key(&name) {
                return Err(Refusal::QuotaExceeded);
            }
            pending.insert(name.clone(), ticket);
        }
        let text = format!("{name} offers you something: 'take {name}' receives it");
        self.output.note(&text);
        Ok(())
    }

    /// The user takes what a contact offers.
    pub(crate) fn take(&self, name: &NodeName) -> Result<(), Failure> {
        let contacts = Contacts::load(&self.state)?;
        let contact = contacts.named(name).cloned();
        let contact = contact.ok_or_else(|| unknown(name))?;
        let ticket = self.pending().remove(name).ok_or_else(|| {
            Failure::new(
                Code::NotFound,
                format!("{name} offers nothing at the moment"),
            )
        })?;
        let contact = Contact {
            max: None,
            ..contact
        };
        let taken = self.taken.try_send(Taken { contact, ticket });
        taken.map_err(|_| Failure::new(Code::Refused, "too much waits already"))
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<NodeName, OfferTicket>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what was accepted, one after the other.
pub(crate) struct Taking {
    pub(crate) endpoint: Endpoint,
    /// The own server's, by which the offer was told of: no other is joined for an offer.
    pub(crate) relays: Relays,
    pub(crate) name: NodeName,
    /// Where it goes if the contact's rule does not say.
    pub(crate) folder: PathBuf,
    pub(crate) tasks: Tasks,
    pub(crate) output: Output,
}

impl Taking {
    /// Runs until there is nobody left to accept.
    pub(crate) async fn run(self, mut taken: mpsc::Receiver<Taken>) {
        while let Some(Taken { contact, ticket }) = taken.recv().await {
            let folder = contact.folder.as_ref().unwrap_or(&self.folder);
            let from = (&ticket, self.relays.clone());
            let place = (self.endpoint.clone(), self.name.clone());
            let how = How::unasked(contact.max);
            let how = (folder.as_path(), how);
            let received = receive::take(from, place, how, &self.tasks, &self.output).await;
            if let Err(failure) = received {
                let fields =
                    json!({ "peer": contact.name.to_string(), "message": failure.message() });
                self.output.event("not_received", fields, || {
                    format!(
                        "what {} offered was not received: {}",
                        contact.name,
                        failure.message()
                    )
                });
            }
        }
    }
}
