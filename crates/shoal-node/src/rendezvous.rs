//! Rendezvous: how two people who share a code come to share a ticket.
//!
//! The receiver claims the nameplate, at the server or on the local network, and from then on the
//! two speak on one stream: two halves of a key exchange, then each proves that it has the same
//! key. The receiver proves first. Whoever is in between, a server too, has one guess at the words
//! per conversation, is noticed when it is wrong, and learns nothing that it could try guesses on
//! later. Nothing but node ids is said before the key is proven; what is said with the proof is
//! sealed.

mod exchange;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_link::Stream;
use shoal_wire::message::Bounded;
use shoal_wire::offer::Introduction;
use shoal_wire::{Code, Communication, NodeId, OfferTicket, Refusal};

use self::exchange::{Exchange, Keys, Side};
use crate::requests::{RequestError, answer};

/// How long the other end may take for its next words: a machine answers, not a person.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Why a code led to no ticket.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RendezvousError {
    /// The two have different words, or somebody in between guessed at them.
    #[error("the code is wrong, or somebody in between tried to guess it")]
    WrongCode,
    /// The other side, or the server, says no.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The other side breaks the protocol.
    #[error("the other side does not keep to the protocol")]
    Misbehaved,
}

impl RendezvousError {
    /// The number to report it by.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::WrongCode => Refusal::WrongCode,
            Self::Request(error) => error.refusal(),
            Self::Misbehaved => Refusal::Unexpected,
        }
    }
}

/// The receiver's half, on a stream on which nothing is said yet: to the server that keeps the
/// mailbox, or to the sender itself.
///
/// # Errors
/// Why there is no ticket. After [`RendezvousError::WrongCode`] the sender has counted a failure.
pub async fn claim(
    stream: &mut Stream,
    code: &Code,
    own: NodeId,
    introduction: &Introduction,
) -> Result<OfferTicket, RendezvousError> {
    let (exchange, element) = Exchange::begin(code, Side::Receiver, own);
    say(stream, &claim_of(code, own)).await?;
    let node = own;
    let key = Communication::CodeKey { node, element };
    say(stream, &key).await?;
    let keys = match answer(stream, ANSWER_DEADLINE).await? {
        Communication::CodeKey { node, element } => exchange.finish(node, &element),
        _ => None,
    };
    let keys = keys.ok_or(RendezvousError::Misbehaved)?;
    say(stream, &proof(&keys, introduction)?).await?;
    let heard = match answer(stream, ANSWER_DEADLINE).await {
        Ok(heard) => heard,
        Err(RequestError::Refused(report)) if report.refusal == Refusal::WrongCode => {
            return Err(RendezvousError::WrongCode);
        }
        Err(error) => return Err(error.into()),
    };
    let ticket: OfferTicket = proven(&keys, &heard)?;
    // What proved the words is the node whose id went into the key.
    if ticket.sender != keys.other() {
        return Err(RendezvousError::Misbehaved);
    }
    stream.send.finish();
    Ok(ticket)
}

/// The first words of a claim.
fn claim_of(code: &Code, claimant: NodeId) -> Communication {
    Communication::CodeClaim {
        nameplate: code.nameplate,
        claimant,
    }
}

/// The sender's half, after the claim was heard: who is at the other end, once it has proven that
/// it knows the code. The ticket is for [`Proven::admit`].
///
/// # Errors
/// As [`claim`]; a [`RendezvousError::WrongCode`] has been said to the other side.
pub async fn attend(
    stream: &mut Stream,
    code: &Code,
    own: NodeId,
    claimant: NodeId,
) -> Result<Proven, RendezvousError> {
    let (exchange, element) = Exchange::begin(code, Side::Sender, own);
    let keys = match answer(stream, ANSWER_DEADLINE).await? {
        Communication::CodeKey { node, element } if node == claimant => {
            exchange.finish(node, &element)
        }
        _ => None,
    };
    let keys = keys.ok_or(RendezvousError::Misbehaved)?;
    let node = own;
    let key = Communication::CodeKey { node, element };
    say(stream, &key).await?;
    let heard = answer(stream, ANSWER_DEADLINE).await?;
    match proven(&keys, &heard) {
        Ok(introduction) => Ok(Proven {
            node: claimant,
            introduction,
            keys,
        }),
        Err(error) => {
            let refused = Communication::refused(error.refusal(), "");
            say(stream, &refused).await?;
            stream.send.finish();
            Err(error)
        }
    }
}

/// A receiver that has proven that it knows the code.
#[derive(Debug)]
pub struct Proven {
    /// Its id.
    pub node: NodeId,
    /// What it says of itself.
    pub introduction: Introduction,
    keys: Keys,
}

impl Proven {
    /// Gives it its ticket, and proves in turn that this side knows the code.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn admit(
        self,
        stream: &mut Stream,
        ticket: &OfferTicket,
    ) -> Result<(), RendezvousError> {
        say(stream, &proof(&self.keys, ticket)?).await?;
        stream.send.finish();
        Ok(())
    }
}

fn proof(keys: &Keys, content: &impl Serialize) -> Result<Communication, RendezvousError> {
    let bytes = postcard::to_stdvec(content).map_err(|_| RendezvousError::Misbehaved)?;
    let sealed = keys.seal(bytes).and_then(Bounded::new);
    Ok(Communication::CodeProof {
        tag: keys.own_tag(),
        sealed: sealed.ok_or(RendezvousError::Misbehaved)?,
    })
}

/// What the other side sealed, if it has proven the key.
fn proven<Content: DeserializeOwned>(
    keys: &Keys,
    heard: &Communication,
) -> Result<Content, RendezvousError> {
    let Communication::CodeProof { tag, sealed } = heard else {
        return Err(RendezvousError::Misbehaved);
    };
    if !keys.is_other_tag(tag) {
        return Err(RendezvousError::WrongCode);
    }
    let bytes = keys.open(sealed).ok_or(RendezvousError::Misbehaved)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((content, [])) => Ok(content),
        Ok(_) | Err(_) => Err(RendezvousError::Misbehaved),
    }
}

async fn say(stream: &mut Stream, message: &Communication) -> Result<(), RequestError> {
    Ok(stream.send.say(message).await?)
}
