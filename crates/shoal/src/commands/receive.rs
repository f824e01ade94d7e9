//! `shoal receive`: takes what somebody sends, by code or by ticket.

mod accepting;
mod fetching;
mod listing;
mod nearby;
mod standard_output;
mod whence;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use shoal_link::Endpoint;
use shoal_node::contacts::Contacts;
use shoal_node::dht::Dht;
use shoal_node::fetch::{
    FetchError, FetchPolicy, Fetcher, Greeting, OfferKey, OpenOffer, Source, TreeEvent, TreeJob,
    TreeOptions,
};
use shoal_node::relays::{Relays, relays_of};
use shoal_node::state::StateDir;
use shoal_node::tasks::Tasks;
use shoal_node::transfers::{Direction, Transfers};
use shoal_store::folder::Folder;
use shoal_wire::limits::MAILBOX_MAX_S;
use shoal_wire::message::Addresses;
use shoal_wire::{NodeId, NodeName, OfferTicket, Refusal, SafePath};
use tokio::sync::mpsc;

use self::accepting::{Accepted, Placement};
use self::listing::Listing;
use super::get::choose::Selection;
use super::get::course::There;
use super::get::interrupted;
use super::get::left_out::LeftOut;
use crate::args::ReceiveArguments;
use crate::connect::{node_name, open_endpoint};
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::limits;
use crate::output::Output;
use crate::output::progress::route_fields;

/// How long disk work may take to end after the last transfer.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// Head start of what a ticket says over what the local network says.
const TICKET_HEAD_START: Duration = Duration::from_millis(1500);
/// Shortest time for which a sender may let this node wait, in seconds, whatever the clocks say.
const PATIENCE_MIN_S: u64 = 600;
/// Events that may wait to be told: what is printed holds a fetch up, not the memory.
const EVENTS_WAITING: usize = 1024;

/// Runs the command.
pub(super) async fn run(arguments: ReceiveArguments, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let state = StateDir::open(arguments.joined.state_dir.as_deref(), "peer")?;
    let settings = state.settings()?;
    let name = node_name(arguments.own_name.clone(), &settings);
    let endpoint = open_endpoint(&state, 0, Vec::new()).await?;
    let tasks = Tasks::new();
    let throttle = limits::receiving(&arguments.down, &settings.limits, &tasks)?;
    let received = async {
        let whence = whence::Whence {
            joined: &arguments.joined,
            state: &state,
            endpoint: &endpoint,
            name: &name,
            asks_nearby: !arguments.no_lan,
        };
        let ticket = tokio::select! {
            ticket = whence.ticket(arguments.from.clone(), output) => ticket?,
            () = interrupt.received() => return Err(interrupted()),
        };
        let greeting = greeting_of(&ticket, name.clone());
        let fetcher = Fetcher::new(endpoint.clone(), tasks.clone(), None)
            .with_index(state.index_path())
            .by_relays(relays_to(&ticket))
            .opening(greeting);
        let receiving = Receiving {
            how: How::of(&arguments)?,
            asks_nearby: !arguments.no_lan,
            dht: arguments.dht.start()?,
            source: Source::at(ticket.sender, ticket.addresses.clone()),
            fetcher,
            transfers: Transfers::limited(throttle),
            output,
        };
        let met = if arguments.output_dir == Path::new("-") {
            let beside = state.path();
            receiving.write_out(beside, &mut interrupt).await?
        } else {
            receiving.run(&arguments.output_dir, &mut interrupt).await?
        };
        remember(&state, ticket.sender, met);
        Ok(())
    };
    let received = received.await;
    endpoint.close(Refusal::Done).await;
    tasks.shutdown(SHUTDOWN_DEADLINE).await;
    received
}

/// What opens the offer of a ticket: its sender may let this node wait for as long as that lasts.
fn greeting_of(ticket: &OfferTicket, name: NodeName) -> Greeting {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = since_epoch.map_or(0, |time| time.as_secs());
    let left_s = ticket.expires_at_s.saturating_sub(now_s);
    let patience_s = left_s.clamp(PATIENCE_MIN_S, MAILBOX_MAX_S.into());
    Greeting {
        key: OfferKey::Ticket(ticket.secret),
        patience: Duration::from_secs(patience_s),
        name,
    }
}

fn relays_to(ticket: &OfferTicket) -> Relays {
    let relays = Relays::new();
    relays.set(ticket.via.as_ref().map(relays_of).unwrap_or_default());
    relays
}

/// Remembers whom this user has met; that it cannot is no reason to fail.
pub(super) fn remember(state: &StateDir, node: NodeId, name: NodeName) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = since_epoch.map_or(0, |time| time.as_secs());
    let remembered = Contacts::load(state).and_then(|mut contacts| {
        contacts.meet(node, name, now_s);
        contacts.save(state)
    });
    if let Err(error) = remembered {
        tracing::warn!(%error, "whom you met is not remembered");
    }
}

/// How an offer is received.
#[derive(Clone, Default)]
pub(super) struct How {
    /// Without asking.
    yes: bool,
    /// Only if it is no larger than this, in bytes.
    max_bytes: Option<u64>,
    overwrite: bool,
    links: bool,
    selection: Option<Selection>,
}

impl How {
    fn of(arguments: &ReceiveArguments) -> Result<Self, Failure> {
        Ok(Self {
            yes: arguments.yes,
            max_bytes: None,
            overwrite: arguments.overwrite,
            links: arguments.links,
            selection: Selection::of(&arguments.include, &arguments.exclude)?,
        })
    }

    /// Without a question, if it is no larger than this, in bytes.
    pub(super) fn unasked(max_bytes: Option<u64>) -> Self {
        Self {
            yes: true,
            max_bytes,
            ..Self::default()
        }
    }

    fn options(&self) -> TreeOptions {
        TreeOptions {
            overwrite: self.overwrite,
            links: self.links,
            policy: FetchPolicy::default(),
            choose: self.selection.as_ref().map(Selection::choose),
            choose_omitted: self.selection.as_ref().map(Selection::choose_omitted),
            ..TreeOptions::default()
        }
    }
}

/// Takes what a contact offers to a running peer, without a question, into `folder`.
pub(super) async fn take(
    (ticket, relays): (&OfferTicket, Relays),
    (endpoint, name): (Endpoint, NodeName),
    (folder, how): (&Path, How),
    tasks: &Tasks,
    output: &Output,
) -> Result<(), Failure> {
    let greeting = greeting_of(ticket, name);
    let receiving = Receiving {
        how,
        asks_nearby: false,
        dht: None,
        source: Source::at(ticket.sender, ticket.addresses.clone()),
        fetcher: Fetcher::new(endpoint, tasks.clone(), None)
            .by_relays(relays)
            .opening(greeting),
        transfers: Transfers::new(),
        output,
    };
    let mut interrupt = Interrupt::listen()?;
    receiving.run(folder, &mut interrupt).await.map(drop)
}

/// What is received, and how.
struct Receiving<'a> {
    how: How,
    /// Whether the local network is asked for a sender that is elsewhere than its ticket says.
    asks_nearby: bool,
    /// What else is asked for it.
    dht: Option<Dht>,
    source: Source,
    fetcher: Fetcher,
    transfers: Transfers,
    output: &'a Output,
}

impl Receiving<'_> {
    /// Receives into a folder; the name of the sender.
    async fn run(mut self, folder: &Path, interrupt: &mut Interrupt) -> Result<NodeName, Failure> {
        let folder = Folder::create(folder).map_err(|error| Failure::local(error.to_string()))?;
        let (offer, listing) = tokio::select! {
            listed = self.list(&folder) => listed?,
            () = interrupt.received() => return Err(interrupted()),
        };
        let received = self.take(&folder, listing, interrupt).await;
        self.tell(&offer, &received, interrupt).await;
        LeftOut::settle(received?.left_out)?;
        Ok(self.source.provider.name)
    }

    /// Takes what is listed, if it may; what is there then.
    async fn take(
        &mut self,
        folder: &Folder,
        listing: Listing,
        interrupt: &mut Interrupt,
    ) -> Result<There, Failure> {
        let accepted = tokio::select! {
            accepted = self.accept(folder, listing) => accepted?,
            () = interrupt.received() => return Err(interrupted()),
        };
        self.fetch(folder, &accepted, interrupt).await
    }

    /// Tells the sender what became of it: that all is where it belongs, or why it is not.
    async fn tell(
        &self,
        offer: &OpenOffer,
        received: &Result<There, Failure>,
        interrupt: &mut Interrupt,
    ) {
        let telling = async {
            match received {
                // The link on which the offer was opened may be gone by now.
                Ok(there) => match self.fetcher.visit(&self.source.provider).await {
                    Ok(offer) => offer.done(there.files, there.bytes).await,
                    Err(_) => false,
                },
                Err(failure) => {
                    offer.give_up(failure.refusal()).await;
                    true
                }
            }
        };
        let is_told = tokio::select! {
            is_told = telling => is_told,
            () = interrupt.received() => false,
        };
        if !is_told {
            let text = "everything is here, but the sender could not be told: it may go on waiting";
            self.output.warn(text);
        }
    }

    /// Opens the offer and hears what is in it, without taking anything.
    async fn list(&mut self, folder: &Folder) -> Result<(OpenOffer, Listing), Failure> {
        self.output.note("connecting to the sender");
        let offer = self.visit().await.map_err(|error| Failure::from(&error))?;
        self.source.provider.name = offer.description().name.clone();
        if let Some(link) = offer.link() {
            let fields = json!({
                "peer": self.source.provider.name.to_string(),
                "node": self.source.provider.node.to_string(),
                "files": offer.description().files,
                "total_bytes": offer.description().total_bytes,
                "route": route_fields(&link.path()),
            });
            self.output.machine("opened", fields);
        }
        let job = TreeJob {
            options: TreeOptions {
                dry_run: true,
                ..self.how.options()
            },
            ..self.job(folder, (None, None), self.how.options())
        };
        let mut listing = Listing::default();
        let (events, mut happened) = mpsc::channel(EVENTS_WAITING);
        let listening = async {
            while let Some(event) = happened.recv().await {
                match event {
                    TreeEvent::Planned {
                        target,
                        bytes,
                        planned,
                    } => listing.push(target, bytes, planned),
                    TreeEvent::PlannedFolder { target } => listing.push_folder(target),
                    TreeEvent::LeftOut(omission) => {
                        listing.left_out.add(omission);
                    }
                    TreeEvent::LeftOutUnnamed(count) => listing.left_out.add_unnamed(count),
                    _ => {}
                }
            }
        };
        let (listed, ()) = tokio::join!(self.fetcher.fetch_tree(job, events), listening);
        match listed {
            Err(FetchError::Refused {
                refusal: Refusal::NotFound,
                ..
            }) => {}
            Err(error) => return Err(Failure::from(&error)),
            Ok(()) => {}
        }
        Ok((offer, listing))
    }

    /// Opens the offer: where the ticket says that the sender is, or, if that takes long or fails,
    /// where the local network or the DHT knows it.
    async fn visit(&mut self) -> Result<OpenOffer, FetchError> {
        let provider = self.source.provider.clone();
        let fetcher = self.fetcher.clone();
        let mut visiting = Box::pin(fetcher.visit(&provider));
        let mut failed = None;
        let is_better = tokio::select! {
            visited = &mut visiting => match visited {
                Err(error) if error.may_pass() => {
                    failed = Some(error);
                    self.look_around().await
                }
                ended => return ended,
            },
            is_better = async {
                tokio::time::sleep(TICKET_HEAD_START).await;
                self.look_around().await
            } => is_better,
        };
        match failed {
            _ if is_better => {
                drop(visiting);
                self.fetcher.visit(&self.source.provider).await
            }
            Some(error) => Err(error),
            None => visiting.await,
        }
    }

    /// Whether the local network, or the DHT, knows the sender at an address that is new.
    async fn look_around(&mut self) -> bool {
        let node = self.source.provider.node;
        let nearby = async {
            match self.asks_nearby {
                true => nearby::addresses_of(node).await,
                false => Vec::new(),
            }
        };
        let far_away = async {
            match &self.dht {
                Some(dht) => dht.find(node).await,
                None => Vec::new(),
            }
        };
        let (mut found, far_away) = tokio::join!(nearby, far_away);
        found.extend(far_away);
        let provider = &mut self.source.provider;
        let known = provider.addresses.iter().copied().collect::<Vec<_>>();
        let is_new = found.iter().any(|address| !known.contains(address));
        found.extend(
            known
                .into_iter()
                .filter(|known| !found.contains(known))
                .collect::<Vec<_>>(),
        );
        provider.addresses = Addresses::truncated(found);
        is_new
    }

    /// Where everything goes, once a person has said that it may.
    async fn accept(&self, folder: &Folder, listing: Listing) -> Result<Accepted, Failure> {
        let placement = Placement::beside(folder, &listing);
        listing.show(
            &placement,
            (folder, &self.source.provider.name),
            self.output,
        );
        let needed_bytes = listing.needed_bytes();
        if folder.free_bytes().is_ok_and(|free| free < needed_bytes) {
            let text = "there is too little space: make room or name another folder with -o";
            return Err(Failure::new(Code::NoSpace, text));
        }
        if self.how.max_bytes.is_some_and(|max| needed_bytes > max) {
            let text = "it is larger than what you take without being asked";
            return Err(Failure::new(Code::Refused, text));
        }
        if listing.is_empty() {
            let text = match listing.left_out.count() {
                0 => "there is nothing to receive: the offer is empty, or --include fits nothing",
                _ => "there is nothing to receive: the sender leaves everything out",
            };
            return Err(Failure::new(Code::NotFound, text));
        }
        if !self.how.yes {
            listing.ask(&placement, self.output).await?;
        }
        Ok(Accepted::new(listing, placement))
    }

    fn job(
        &self,
        folder: &Folder,
        (remote, target): (Option<SafePath>, Option<SafePath>),
        options: TreeOptions,
    ) -> TreeJob {
        let provider = &self.source.provider;
        let shown = target
            .clone()
            .unwrap_or_else(|| provider.entry.path.clone());
        let name = provider.name.clone();
        TreeJob {
            source: self.source.clone(),
            remote,
            folder: folder.clone(),
            target,
            options,
            transfer: self.transfers.begin(Direction::Receiving, shown, name),
            transfers: self.transfers.clone(),
        }
    }
}
