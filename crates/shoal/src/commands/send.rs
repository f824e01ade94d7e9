//! `shoal send`: offers files to whoever gets the code or the ticket, and shows who comes.

mod ending;
mod standard_input;
mod telling;

use std::io::IsTerminal;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shoal_link::Protocol;
use shoal_node::contacts::Contacts;
use shoal_node::lan::Lan;
use shoal_node::offer::{Offer, OfferEvent, OfferOptions};
use shoal_node::requests::RequestError;
use shoal_node::session::{Connect, Session};
use shoal_node::share::{Roots, Share, ShareOptions};
use shoal_node::state::{Settings, StateDir};
use shoal_node::tasks::Tasks;
use shoal_node::throttle::Throttle;
use shoal_store::index::Index;
use shoal_wire::{Code as OfferCode, Communication, Hash, NodeName, Refusal};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};

use self::ending::{Account, Ending};
use self::standard_input::{Spool, completed, filled, paths_of};
use self::telling::Telling;
use super::contacts::unknown;
use super::get::interrupted;
use super::receive::remember;
use crate::args::SendArguments;
use crate::connect::{agent, node_name, open_endpoint, server_of, warn_if_unverified};
use crate::exit::{Code, Failure, code_of};
use crate::interrupt::Interrupt;
use crate::output::{Output, duration};
use crate::typed::typed_lines;

/// Time between two looks at the counters.
const TICK: Duration = Duration::from_millis(200);
/// Time between two looks at whether a file that changes has a hash.
const HASH_PAUSE: Duration = Duration::from_secs(1);
/// How long work may take to end after the goodbye.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until it is over, expired or interrupted.
pub(super) async fn run(arguments: SendArguments, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let state = StateDir::open(arguments.joined.state_dir.as_deref(), "peer")?;
    let settings = state.settings()?;
    let tasks = Tasks::new();
    let name = node_name(arguments.own_name.clone(), &settings);
    let endpoint = open_endpoint(&state, arguments.port, vec![Protocol::Transfer]).await?;
    let (paths, spool) = paths_of(&arguments, &state)?;
    let own = spool.as_ref().map(Spool::path);
    let roots = Roots::chosen(&paths, own).map_err(|error| Failure::local(error.to_string()))?;
    let index = Index::open(&state.index_path())
        .await
        .map_err(|error| Failure::local(error.to_string()))?;
    let hidden = true;
    let throttle = Throttle::new(arguments.limits.over(&settings.limits)?);
    tasks.spawn(throttle.clone().follow_hours());
    // What comes through a pipe is offered when all of it is there.
    let (complete, is_complete) = oneshot::channel();
    let begins = completed(spool.is_none(), is_complete);
    let (offer, events) = Offer::start(OfferOptions {
        endpoint: endpoint.clone(),
        share: Share::start_after(begins, ShareOptions { roots, hidden }, index, &tasks),
        name: name.clone(),
        throttle,
        asks: arguments.ask,
        by_hash: arguments.by_hash,
        receivers: arguments.receivers_wanted(),
        lifetime: arguments.expires,
        tasks: tasks.clone(),
    });
    if let Some(dht) = arguments.dht.start()? {
        let identity = endpoint.identity();
        let (provided, published) = (offer.clone(), offer.clone());
        let addresses = move || published.addresses();
        tasks.spawn(dht.clone().keep_published(identity.clone(), addresses));
        tasks.spawn(dht.keep_provided(identity.clone(), move || provided.content()));
    }
    let connect = connect_of(&arguments, &settings, (&endpoint, name), output)?;
    let sending = Sending {
        offer,
        lan: opened_lan(arguments.no_lan, output),
        arguments: &arguments,
        output,
    };
    let begun = tokio::select! {
        begun = sending.begin(connect, &state) => begun,
        () = interrupt.received() => Err(interrupted()),
    };
    let ended = match begun {
        Ok(_session) => {
            let input = async {
                let read = filled(spool.as_ref()).await?;
                // Nobody may wait for it any more.
                let _ = complete.send(());
                Ok(read)
            };
            let waiting = sending.wait((events, &state), input, &mut interrupt);
            waiting.await
        }
        Err(failure) => Err(failure),
    };
    if let Some(lan) = sending.lan {
        lan.close().await;
    }
    endpoint.close(Refusal::Done).await;
    tasks.shutdown(SHUTDOWN_DEADLINE).await;
    ended
}

/// The local network; that it cannot be had is said, and is no reason not to send.
fn opened_lan(is_off: bool, output: &Output) -> Option<Lan> {
    if is_off {
        return None;
    }
    let opened = Lan::open();
    opened.map_err(|error| output.warn(&error.to_string())).ok()
}

/// The way to the server, where one is known: without it there is only the ticket.
fn connect_of(
    arguments: &SendArguments,
    settings: &Settings,
    (endpoint, name): (&shoal_link::Endpoint, NodeName),
    output: &Output,
) -> Result<Option<Connect>, Failure> {
    let joined = &arguments.joined;
    let is_named = joined.join.is_some() || joined.server_addr.is_some();
    if !is_named && settings.server.is_none() {
        return Ok(None);
    }
    let server = server_of(joined, settings)?;
    warn_if_unverified(&server, output);
    Ok(Some(Connect {
        endpoint: endpoint.clone(),
        server,
        name,
        serving: false,
        instance: rand::random(),
        agent: agent(),
    }))
}

/// One offer and what was asked of it.
struct Sending<'a> {
    offer: Offer,
    /// The local network, where it may hear of this.
    lan: Option<Lan>,
    arguments: &'a SendArguments,
    output: &'a Output,
}

impl Sending<'_> {
    /// Says how to come: to somebody who is known, or to whoever gets the code or the ticket. The
    /// session is to be kept while it waits.
    async fn begin(
        &self,
        connect: Option<Connect>,
        state: &StateDir,
    ) -> Result<Option<Session>, Failure> {
        match (&self.arguments.to, connect) {
            (Some(name), Some(connect)) => self.notify(name, &connect, state).await.map(Some),
            (Some(_), None) => Err(Failure::new(
                Code::Usage,
                "--to needs a server that both of you use: join one with 'shoal peer --join TICKET'",
            )),
            (None, connect) => {
                let of_server = match connect {
                    Some(connect) => self.code(connect).await,
                    None => None,
                };
                let code = of_server.or_else(|| self.lan.as_ref().map(|_| self.offer.take_code()));
                self.announce(code);
                self.show(code, of_server.is_some());
                Ok(None)
            }
        }
    }

    /// Tells a contact's peer, through the server, that this is for it.
    async fn notify(
        &self,
        name: &NodeName,
        connect: &Connect,
        state: &StateDir,
    ) -> Result<Session, Failure> {
        let contacts = Contacts::load(state)?;
        let to = contacts.named(name).ok_or_else(|| unknown(name))?.node;
        let session = Session::connect(connect).await?;
        self.offer.reached_by(&session).await;
        let ticket = self.offer.ticket_for(to);
        let notice = Communication::OfferNotice { to, ticket };
        match session.request(&notice).await {
            Ok(Communication::FileAcknowledge { .. }) => {}
            Ok(_) => return Err(RequestError::Unexpected.into()),
            Err(RequestError::Refused(report)) => {
                let text = match report.refusal {
                    Refusal::PeerNotConnected => format!(
                        "{name} is not connected: their 'shoal peer' must run; or send with a code"
                    ),
                    Refusal::Declined => format!(
                        "{name} does not take it: they must know you ('shoal contacts add') and be there to accept it, or let it in by rule ('shoal contacts accept')"
                    ),
                    _ => RequestError::Refused(report.clone()).to_string(),
                };
                return Err(Failure::new(code_of(report.refusal), text));
            }
            Err(error) => return Err(error.into()),
        }
        self.announce(None);
        let fields = json!({ "to": name.to_string(), "node": to.to_string() });
        self.output.event("notified", fields, || {
            format!("{name} has been told. Waiting, Ctrl-C ends it.")
        });
        Ok(session)
    }

    async fn code(&self, connect: Connect) -> Option<OfferCode> {
        match self.offer.keep_code(connect).await {
            Ok(code) => Some(code),
            Err(error) => {
                self.output
                    .warn(&format!("no code, only the ticket: {error}"));
                None
            }
        }
    }

    /// Says on the local network that this waits here.
    fn announce(&self, code: Option<OfferCode>) {
        let Some(lan) = &self.lan else { return };
        let (node, port) = self.offer.whereabouts();
        if let Err(error) = lan.announce(node, port, code.map(|code| code.nameplate)) {
            self.output.warn(&error.to_string());
        }
    }

    /// Says how to come.
    fn show(&self, code: Option<OfferCode>, by_server: bool) {
        let Some(ticket) = self.offer.ticket() else {
            return;
        };
        let (text, url) = (ticket.to_string(), ticket.url());
        let expires = self.arguments.expires;
        let fields = json!({
            "code": code.map(|code| code.to_string()),
            "code_by_server": code.map(|_| by_server),
            "ticket": text,
            "url": url,
            "expires_in_s": expires.as_secs(),
        });
        self.output.event("offer", fields, || {
            let by_code = match code {
                Some(code) if by_server => {
                    format!("Code:    {code}\n         shoal receive {code}\n\n")
                }
                Some(code) => format!(
                    "Code:    {code}   (on this network only: no server is in reach)\n         shoal receive {code}\n\n"
                ),
                None => "No server is known, so there is no code: give the ticket to whoever is to receive.\n\n".to_owned(),
            };
            format!("{by_code}Ticket:  {text}\n\nWaiting for up to {}, Ctrl-C ends it.", duration(expires))
        });
        if self.arguments.qr && !self.output.is_json() {
            self.show_qr(&url);
        }
    }

    fn show_qr(&self, url: &str) {
        // Upper case fits the code's denser alphabet; a ticket reads back in either.
        let built = fast_qr::QRBuilder::new(url.to_uppercase()).build();
        match built {
            Ok(code) => self.output.note(&code.to_str()),
            Err(_) => self
                .output
                .note("the ticket is too long for a QR code on this terminal"),
        }
    }

    /// Waits until it ends, and says how.
    async fn wait(
        &self,
        (mut events, state): (Receiver<OfferEvent>, &StateDir),
        input: impl Future<Output = Result<Option<u64>, Failure>>,
        interrupt: &mut Interrupt,
    ) -> Result<(), Failure> {
        let mut skipped = pin!(self.offer.skipped());
        let mut hashed = pin!(self.hashed());
        let mut input = pin!(input);
        let (mut is_filled, mut is_listed, mut is_hashed) = (false, false, false);
        let mut telling = Telling::new(self.output);
        let mut lines = self.lines();
        let mut ticks = tokio::time::interval(TICK);
        let mut expiry = pin!(self.offer.expired());
        let mut is_expired = false;
        let ending = loop {
            tokio::select! {
                event = events.recv() => self.hear(event, state, &mut telling),
                Some(line) = lines.recv() => if self.obey(&line, &mut telling) {
                    break Ending::Quit;
                },
                read = &mut input, if !is_filled => {
                    is_filled = true;
                    if let Some(bytes) = read? {
                        telling.input_ended(bytes);
                    }
                }
                skipped = &mut skipped, if !is_listed => {
                    is_listed = true;
                    telling.left_out(&skipped);
                }
                hash = &mut hashed, if !is_hashed => {
                    is_hashed = true;
                    telling.hashed(&hash);
                }
                _ = ticks.tick() => telling.show(&self.offer.visits()),
                () = &mut expiry, if !is_expired => {
                    is_expired = true;
                    telling.expired(self.offer.is_serving());
                }
                () = interrupt.received() => break Ending::Interrupted,
            }
            let ending = match self.offer.has_enough() {
                true => Some(Ending::Enough),
                false => is_expired.then_some(Ending::Expired),
            };
            if let Some(ending) = ending
                && !self.offer.is_serving()
            {
                break ending;
            }
        };
        // What happened last is told too.
        while let Ok(event) = events.try_recv() {
            self.hear(Ok(event), state, &mut telling);
        }
        telling.end();
        self.account(ending).settle(self.output)
    }

    /// What became of it all.
    fn account(&self, ending: Ending) -> Account {
        let left_out = self.offer.left_out();
        Account {
            ending,
            receivers: self.offer.finished(),
            receivers_wanted: self.arguments.receivers_wanted(),
            partly: self.offer.partly(),
            left_out: left_out.count + left_out.ignored,
        }
    }

    fn hear(&self, event: Result<OfferEvent, RecvError>, state: &StateDir, telling: &mut Telling) {
        // Events that were missed are only not told: what counts is asked of the offer.
        let Ok(event) = event else { return };
        if let OfferEvent::Finished(visit) = &event {
            remember(state, visit.node, visit.name.clone());
        }
        telling.happened(&event);
    }

    /// The hash by which the one file can be had, once it is known; never where it cannot.
    async fn hashed(&self) -> Hash {
        if !self.arguments.by_hash {
            std::future::pending().await
        }
        let mut is_told = false;
        loop {
            self.offer.hashed().await;
            if let Some(hash) = self.offer.content() {
                return hash;
            }
            if !is_told {
                self.output.warn("the file has no hash yet: it changes, or cannot be read; until it has, nobody gets it by that");
                is_told = true;
            }
            tokio::time::sleep(HASH_PAUSE).await;
        }
    }

    /// What a person types, where one can.
    fn lines(&self) -> mpsc::Receiver<String> {
        let is_input = self
            .arguments
            .paths
            .iter()
            .any(|path| path.as_os_str() == "-");
        if !is_input && (std::io::stdin().is_terminal() || self.arguments.ask) {
            return typed_lines();
        }
        mpsc::channel(1).1
    }

    /// Whether that ends it.
    fn obey(&self, line: &str, telling: &mut Telling) -> bool {
        match line.trim().to_ascii_lowercase().as_str() {
            "q" | "quit" => return true,
            "revoke" => {
                self.offer.revoke();
                let fields = json!({});
                self.output.event("revoked", fields, || {
                    "Code and ticket lead nowhere any more; who is in stays.".to_owned()
                });
            }
            "" => {}
            word => match telling.answered(word) {
                Some((visit, admits)) => self.offer.decide(visit, admits),
                None => self.output.note("say 'revoke' or 'quit'"),
            },
        }
        false
    }
}

/// Kept, so that a visit's path can be told after its end.
type Visits = Vec<Arc<shoal_node::offer::Visit>>;
