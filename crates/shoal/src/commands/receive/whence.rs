//! From what a person was told to a ticket: a ticket as it is, or a code by way of the server.

use std::io::IsTerminal;
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoal_link::Endpoint;
use shoal_node::rendezvous::{self, RendezvousError};
use shoal_node::requests::RequestError;
use shoal_node::session::{Connect, Session};
use shoal_node::state::{ServerRef, StateDir};
use shoal_wire::message::Addresses;
use shoal_wire::offer::Introduction;
use shoal_wire::{NodeName, OfferTicket, Refusal};

use super::nearby;
use crate::args::JoinedArguments;
use crate::connect::{agent, server_of, warn_if_unverified};
use crate::exit::{Code, Failure, code_of};
use crate::output::Output;
use crate::typed::typed_lines;

/// How far two clocks may differ before an expiry is believed, in seconds.
const CLOCK_TOLERANCE_S: u64 = 300;
/// Head start of the server over the local network.
const SERVER_HEAD_START: Duration = Duration::from_millis(1500);
/// What every ticket begins with, and no code.
const TICKET_START: &str = "shoal";

/// What a ticket is found with.
pub(super) struct Whence<'a> {
    pub(super) joined: &'a JoinedArguments,
    pub(super) state: &'a StateDir,
    pub(super) endpoint: &'a Endpoint,
    pub(super) name: &'a NodeName,
    /// Whether the local network is asked too.
    pub(super) asks_nearby: bool,
}

impl Whence<'_> {
    /// The ticket that `given`, or what is typed, leads to.
    pub(super) async fn ticket(
        &self,
        given: Option<String>,
        output: &Output,
    ) -> Result<OfferTicket, Failure> {
        let text = match given {
            Some(text) => text,
            None => asked(output).await?,
        };
        let text = text.trim();
        let start = text.get(..TICKET_START.len());
        let is_ticket = start.is_some_and(|start| start.eq_ignore_ascii_case(TICKET_START));
        let ticket = if is_ticket {
            text.parse()
                .map_err(|error: shoal_wire::ticket::TicketError| {
                    Failure::new(Code::Usage, error.to_string())
                })?
        } else {
            let code = text.parse().map_err(|error: shoal_wire::code::CodeError| {
                Failure::new(Code::Usage, error.to_string())
            })?;
            self.by_code(&code, output).await?
        };
        unexpired(ticket)
    }

    async fn by_code(
        &self,
        code: &shoal_wire::Code,
        output: &Output,
    ) -> Result<OfferTicket, Failure> {
        let introduction = Introduction {
            name: self.name.clone(),
            addresses: Addresses::default(),
        };
        let settings = self.state.settings()?;
        let nearby = nearby::ticket_for(code, self.endpoint, &introduction);
        let server = match server_of(self.joined, &settings) {
            Ok(server) => server,
            Err(_) if self.asks_nearby => return nearby.await,
            Err(failure) => return Err(failure),
        };
        warn_if_unverified(&server, output);
        let mut by_server = pin!(self.by_server(server, code, &introduction));
        if !self.asks_nearby {
            return by_server.await;
        }
        let mut nearby = pin!(async {
            tokio::time::sleep(SERVER_HEAD_START).await;
            nearby.await
        });
        let failed_at_server = tokio::select! {
            found = &mut by_server => match found {
                Err(failure) if may_be_nearby(&failure) => failure,
                ended => return ended,
            },
            found = &mut nearby => return match found {
                Ok(ticket) => Ok(ticket),
                Err(_) => by_server.await,
            },
        };
        nearby.await.map_err(|failure| match failure.code() {
            Code::NotFound => failed_at_server,
            _ => failure,
        })
    }

    async fn by_server(
        &self,
        server: ServerRef,
        code: &shoal_wire::Code,
        introduction: &Introduction,
    ) -> Result<OfferTicket, Failure> {
        let connect = Connect {
            endpoint: self.endpoint.clone(),
            server,
            name: self.name.clone(),
            serving: false,
            instance: rand::random(),
            agent: agent(),
        };
        let session = Session::connect(&connect).await?;
        let opened = session.link().open().await;
        let mut stream = opened.map_err(|error| failed(RequestError::from(error).into()))?;
        let own = self.endpoint.node_id();
        let claimed = rendezvous::claim(&mut stream, code, own, introduction).await;
        claimed.map_err(failed)
    }
}

/// Whether the sender may wait on this network although the server could not help.
fn may_be_nearby(failure: &Failure) -> bool {
    matches!(failure.code(), Code::NotFound | Code::NoConnection)
}

/// What a person types or a pipe brings.
async fn asked(output: &Output) -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        output.note("Code or ticket:");
    }
    let line = typed_lines().recv().await;
    line.filter(|line| !line.trim().is_empty()).ok_or_else(|| {
        let text = "no code was given: name it, or put it in SHOAL_CODE or on standard input";
        Failure::new(Code::Usage, text)
    })
}

fn unexpired(ticket: OfferTicket) -> Result<OfferTicket, Failure> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = since_epoch.map_or(0, |time| time.as_secs());
    if now_s > ticket.expires_at_s.saturating_add(CLOCK_TOLERANCE_S) {
        let text = "the ticket has expired: ask for a new one";
        return Err(Failure::new(Code::Refused, text));
    }
    Ok(ticket)
}

pub(super) fn failed(error: RendezvousError) -> Failure {
    let code = match &error {
        RendezvousError::WrongCode => Code::Refused,
        other => code_of(other.refusal()),
    };
    let text = match &error {
        RendezvousError::WrongCode => "the code is wrong, or somebody in between tried to guess it: ask how it is spelled. The sender was told; three wrong tries make it void".to_owned(),
        RendezvousError::Request(RequestError::Refused(report)) => match report.refusal {
            Refusal::NotFound => "no code with this number is waiting: check the number, and that the sender still waits and uses the same server".to_owned(),
            Refusal::CodeBurnt => "the code is void after too many wrong tries: ask for a new one".to_owned(),
            _ => error.to_string(),
        },
        other => other.to_string(),
    };
    Failure::new(code, text)
}
