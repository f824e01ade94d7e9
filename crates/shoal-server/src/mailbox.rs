//! Mailboxes: the server's part in a rendezvous by code, which is to pass on some messages.
//!
//! A sender keeps a stream open for as long as its mailbox exists. Who claims the nameplate gets a
//! stream to the sender, on which the server passes on what both say, as far as it belongs to a
//! key exchange: few messages, soon, small. The server knows that two nodes met and nothing of
//! what they said.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_core::mailbox::{MailboxError, Mailboxes, OwnerId};
use shoal_link::{Link, RecvStream, SendStream, Stream};
use shoal_node::requests::converse;
use shoal_wire::address::network_of;
use shoal_wire::limits::MAILBOX_MAX_S;
use shoal_wire::message::ErrorReport;
use shoal_wire::{Communication, Nameplate, NodeId, Refusal, ShortText};

use crate::refused::refused;

/// How long a conversation about a code may take: two machines talk, not two people.
const CONVERSATION_DEADLINE: Duration = Duration::from_secs(30);
/// Messages that are passed on in each direction; an exchange has two.
const MESSAGES_MAX: usize = 4;
/// How long the last message may take to arrive.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// The mailboxes of a server. Its claims count by network.
#[derive(Debug, Default)]
pub(crate) struct PostOffice(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    boxes: Mailboxes<IpAddr>,
    next_owner: u64,
    links: BTreeMap<OwnerId, Link>,
}

impl PostOffice {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a mailbox until the sender's stream or link ends, or its time is over.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        (wanted, lifetime_s): (Option<Nameplate>, u32),
        mut stream: Stream,
        link: &Link,
    ) {
        let lifetime_s = lifetime_s.min(MAILBOX_MAX_S);
        let lifetime = Duration::from_secs(lifetime_s.into());
        let opened = self.open(wanted, lifetime, link);
        let mailbox = match opened {
            Ok(mailbox) => mailbox,
            Err(error) => return say(&mut stream, &Communication::Error(report(error))).await,
        };
        let assigned = Communication::CodeAssigned {
            nameplate: mailbox.nameplate,
            lifetime_s,
        };
        if stream.send.say(&assigned).await.is_err() {
            return;
        }
        tracing::debug!(nameplate = %mailbox.nameplate, "a code waits");
        tokio::select! {
            _ = stream.recv.read_chunk(1) => {}
            _ = link.closed() => {}
            () = tokio::time::sleep(lifetime) => {}
        }
    }

    fn open(
        self: &Arc<Self>,
        wanted: Option<Nameplate>,
        lifetime: Duration,
        link: &Link,
    ) -> Result<Open, MailboxError> {
        let mut kept = self.kept();
        kept.next_owner += 1;
        let owner = OwnerId(kept.next_owner);
        let place = (&mut rand::rng(), Instant::now());
        let nameplate = kept.boxes.handle_open(owner, wanted, lifetime, place)?;
        kept.links.insert(owner, link.clone());
        Ok(Open {
            office: Arc::clone(self),
            owner,
            nameplate,
        })
    }

    /// Lets `claimant` speak with whoever has the nameplate.
    pub(crate) async fn claim(
        &self,
        nameplate: Nameplate,
        claimant: NodeId,
        mut stream: Stream,
        link: &Link,
    ) {
        let ip = link.path().remote.ip();
        let network = network_of(ip).unwrap_or(ip.to_canonical());
        let found = {
            let mut kept = self.kept();
            let owner = kept.boxes.handle_claim(nameplate, network, Instant::now());
            owner.and_then(|owner| kept.links.get(&owner).cloned().ok_or(MailboxError::Unknown))
        };
        let sender = match found {
            Ok(sender) => sender,
            Err(error) => return say(&mut stream, &Communication::Error(report(error))).await,
        };
        let claim = Communication::CodeClaim {
            nameplate,
            claimant,
        };
        let mut to_sender = match converse(&sender, &claim).await {
            Ok(to_sender) => to_sender,
            Err(_) => {
                let error = Communication::Error(report(MailboxError::Unknown));
                return say(&mut stream, &error).await;
            }
        };
        let passing = async {
            let there = pass_on(&mut stream.recv, &mut to_sender.send);
            let back = pass_on(&mut to_sender.recv, &mut stream.send);
            tokio::join!(there, back);
        };
        if tokio::time::timeout(CONVERSATION_DEADLINE, passing)
            .await
            .is_err()
        {
            stream.send.reset(Refusal::TimedOut);
            to_sender.send.reset(Refusal::TimedOut);
        }
    }
}

/// A mailbox, until it is dropped.
struct Open {
    office: Arc<PostOffice>,
    owner: OwnerId,
    nameplate: Nameplate,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut kept = self.office.kept();
        kept.boxes.handle_close(self.owner, self.nameplate);
        kept.links.remove(&self.owner);
    }
}

/// Passes on what belongs to a key exchange, until its end.
async fn pass_on(from: &mut RecvStream, to: &mut SendStream) {
    for _ in 0..MESSAGES_MAX {
        let Ok(Some(message)) = from.hear(CONVERSATION_DEADLINE).await else {
            break;
        };
        let belongs = matches!(
            message,
            Communication::CodeKey { .. }
                | Communication::CodeProof { .. }
                | Communication::Error(_)
        );
        if !belongs || to.say(&message).await.is_err() {
            break;
        }
    }
    to.finish();
    let _ = tokio::time::timeout(FAREWELL_DEADLINE, to.stopped()).await;
}

fn report(error: MailboxError) -> ErrorReport {
    let refusal = match error {
        MailboxError::Unknown => Refusal::NotFound,
        MailboxError::TooMany { .. } | MailboxError::Full => Refusal::QuotaExceeded,
    };
    let retry_after_ms = match error {
        MailboxError::TooMany { retry_after } => {
            Some(u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX))
        }
        MailboxError::Unknown | MailboxError::Full => None,
    };
    ErrorReport {
        detail: ShortText::new(&error.to_string()),
        retry_after_ms,
        ..refused(refusal, "")
    }
}

async fn say(stream: &mut Stream, message: &Communication) {
    if stream.send.say(message).await.is_ok() {
        stream.send.finish();
        let _ = tokio::time::timeout(FAREWELL_DEADLINE, stream.send.stopped()).await;
    }
}
