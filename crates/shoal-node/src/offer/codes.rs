//! The code of an offer: its mailbox at the server, the tries at it, and its end.
//!
//! The words are drawn once. Three wrong tries burn them, however they come: tries that are under
//! way count as wrong until they are right, so that many at once are no more guesses than three.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_core::backoff::Backoff;
use shoal_link::{Link, Stream};
use shoal_wire::code::CodeWords;
use shoal_wire::{Code, Communication, Nameplate, NodeId, Refusal};

use super::{Offer, OfferEvent, Shared};
use crate::rendezvous::{self, RendezvousError};
use crate::requests::{Handler, REQUEST_DEADLINE, RequestError, answer, converse, serve_streams};
use crate::session::{Connect, ConnectError, Session};

/// Wrong tries that burn a code.
const TRIES: u32 = 3;
/// Numbers of codes that no server knows of: larger than those that servers give first, and enough
/// of them that two neighbours hardly ever take the same.
const LAN_NAMEPLATES: std::ops::RangeInclusive<u32> = 100..=999;
/// Wait after the first failure to reach the server again, doubled with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two tries.
const RETRY_LONGEST: Duration = Duration::from_secs(15);
/// How long a goodbye on a stream may take to arrive.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// Tries at a code.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    wrong: u32,
    under_way: u32,
}

impl Guesses {
    /// One more try begins, if it may.
    fn begin(&mut self) -> bool {
        let may = self.wrong + self.under_way < TRIES;
        self.under_way += u32::from(may);
        may
    }

    /// It ended; how many wrong ones are left where it was one.
    fn end(&mut self, is_wrong: bool) -> Option<u32> {
        self.under_way = self.under_way.saturating_sub(1);
        self.wrong += u32::from(is_wrong);
        is_wrong.then(|| TRIES.saturating_sub(self.wrong))
    }
}

/// Why there is no code, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum CodeStop {
    /// The server cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server keeps no mailbox.
    #[error("the server gives no code: {0}")]
    Request(#[from] RequestError),
}

/// A mailbox at a server.
struct Mailbox {
    session: Session,
    stream: Stream,
    nameplate: Nameplate,
}

impl Offer {
    /// Gets a code from a server and keeps it for as long as the offer lasts, through restarts of
    /// the server too. Returns once there is one.
    ///
    /// # Errors
    /// Why there is none. The offer goes on without it.
    pub async fn keep_code(&self, connect: Connect) -> Result<Code, CodeStop> {
        let words = CodeWords::from_random(rand::random());
        let shared = Arc::clone(&self.shared);
        let mailbox = open(&shared, &connect, None).await?;
        let code = Code {
            nameplate: mailbox.nameplate,
            words,
        };
        shared.issued().code = Some(code);
        let tasks = shared.tasks.clone();
        tasks.spawn(async move { keep(&shared, &connect, mailbox).await });
        Ok(code)
    }

    /// Takes a code for the local network alone: no server knows of it.
    pub fn take_code(&self) -> Code {
        let number = rand::random_range(LAN_NAMEPLATES);
        let nameplate = Nameplate::new(number).expect("all of these are nameplates");
        let words = CodeWords::from_random(rand::random());
        let code = Code { nameplate, words };
        self.shared.issued().code = Some(code);
        code
    }
}

/// Opens a mailbox, with the nameplate that it had where that can be.
async fn open(
    shared: &Shared,
    connect: &Connect,
    nameplate: Option<Nameplate>,
) -> Result<Mailbox, CodeStop> {
    let session = Session::connect(connect).await?;
    let left = shared.expires_at.saturating_duration_since(Instant::now());
    let asked = Communication::CodeOffer {
        nameplate,
        lifetime_s: u32::try_from(left.as_secs()).unwrap_or(u32::MAX),
    };
    let mut stream = converse(session.link(), &asked).await?;
    match answer(&mut stream, REQUEST_DEADLINE).await? {
        Communication::CodeAssigned { nameplate, .. } => {
            shared.reached_by(&session).await;
            Ok(Mailbox {
                session,
                stream,
                nameplate,
            })
        }
        _ => Err(RequestError::Unexpected.into()),
    }
}

/// Answers claims, and opens the mailbox again when the server was lost, until the code is burnt
/// or the offer is over.
async fn keep(shared: &Arc<Shared>, connect: &Connect, first: Mailbox) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    let mut mailbox = first;
    loop {
        let nameplate = mailbox.nameplate;
        let reason = attend(shared, mailbox).await;
        if shared.issued().code.is_none() || shared.is_over() {
            return;
        }
        shared.tell(OfferEvent::ServerLost { reason });
        mailbox = loop {
            let retry_in = backoff.handle_failure(&mut rand::rng());
            tokio::time::sleep(retry_in).await;
            match open(shared, connect, Some(nameplate)).await {
                Ok(mailbox) => break mailbox,
                Err(error) => tracing::debug!(%error, "no mailbox yet"),
            }
        };
        backoff.handle_success();
        let code = {
            let mut issued = shared.issued();
            let Some(code) = issued.code.as_mut() else {
                return;
            };
            code.nameplate = mailbox.nameplate;
            *code
        };
        shared.tell(OfferEvent::Code(code));
    }
}

/// Answers what the server passes on, until the mailbox is gone.
async fn attend(shared: &Arc<Shared>, mailbox: Mailbox) -> String {
    let Mailbox {
        session,
        mut stream,
        ..
    } = mailbox;
    let claims = Arc::new(Claims {
        shared: Arc::clone(shared),
    });
    let gone = tokio::select! {
        end = serve_streams(session.link(), &shared.tasks, claims) => end.to_string(),
        // Nothing more is said on it: whatever comes is its end.
        _ = stream.recv.read_chunk(1) => "the server gave the code up".to_owned(),
    };
    session.link().close(Refusal::Done);
    gone
}

/// Answers claims that come through the server.
struct Claims {
    shared: Arc<Shared>,
}

impl Handler for Claims {
    async fn handle(&self, first: Communication, mut stream: Stream, _link: &Link) {
        match first {
            Communication::CodeClaim {
                nameplate,
                claimant,
            } => claimed(&self.shared, &mut stream, nameplate, claimant).await,
            _ => {
                let denied = Communication::refused(Refusal::Denied, "only codes lead here");
                say(&mut stream, &denied).await;
            }
        }
    }
}

/// Somebody claims the code.
pub(super) async fn claimed(
    shared: &Arc<Shared>,
    stream: &mut Stream,
    nameplate: Nameplate,
    claimant: NodeId,
) {
    let begun = {
        let mut issued = shared.issued();
        match issued.code.filter(|code| code.nameplate == nameplate) {
            Some(code) if issued.guesses.begin() => Ok(code),
            Some(_) => Err(Refusal::QuotaExceeded),
            None if issued.guesses.wrong >= TRIES => Err(Refusal::CodeBurnt),
            None => Err(Refusal::NotFound),
        }
    };
    let code = match begun {
        Ok(_) if shared.is_over() => {
            shared.issued().guesses.end(false);
            return refuse(stream, Refusal::OfferOver).await;
        }
        Ok(code) => code,
        Err(refusal) => return refuse(stream, refusal).await,
    };
    let own = shared.endpoint.node_id();
    let proven = rendezvous::attend(stream, &code, own, claimant).await;
    let is_wrong = matches!(proven, Err(RendezvousError::WrongCode));
    let left = {
        let mut issued = shared.issued();
        let left = issued.guesses.end(is_wrong);
        if left == Some(0) {
            issued.code = None;
        }
        left
    };
    match left {
        Some(0) => shared.tell(OfferEvent::CodeBurnt),
        Some(left) => shared.tell(OfferEvent::WrongCode { left }),
        None => {}
    }
    match proven {
        Ok(proven) => {
            let secret = shared.issued().issue(claimant);
            let ticket = shared.ticket(secret);
            if let Err(error) = proven.admit(stream, &ticket).await {
                tracing::debug!(%error, "a receiver left before it had its ticket");
            }
            farewell(stream).await;
        }
        Err(error) => {
            tracing::info!(node = %claimant.short(), %error, "a claim of the code failed");
            farewell(stream).await;
        }
    }
}

async fn refuse(stream: &mut Stream, refusal: Refusal) {
    say(stream, &Communication::refused(refusal, "")).await;
}

/// Says the last message of a stream; an asker that is gone hears nothing.
async fn say(stream: &mut Stream, message: &Communication) {
    if stream.send.say(message).await.is_ok() {
        stream.send.finish();
        farewell(stream).await;
    }
}

async fn farewell(stream: &mut Stream) {
    let _ = tokio::time::timeout(FAREWELL_DEADLINE, stream.send.stopped()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tries_at_once_are_no_more_guesses_than_one_after_the_other() {
        let mut guesses = Guesses::default();
        let begun = (0..100).filter(|_| guesses.begin()).count();
        assert_eq!(begun, TRIES as usize);
        assert_eq!(guesses.end(true), Some(2));
        assert!(!guesses.begin());
        assert_eq!(guesses.end(false), None);
        assert!(guesses.begin());
        assert_eq!(guesses.end(true), Some(1));
        assert_eq!(guesses.end(true), Some(0));
        assert!(!guesses.begin());
    }
}
