//! `shoal peer`: runs the peer, with a prompt on a terminal and as a daemon without one.

pub(crate) mod inbox;

use std::io::IsTerminal;

use serde_json::json;
use shoal_link::{Endpoint, Protocol};
use shoal_node::peer::{Event, Notices, Peer, PeerOptions};
use shoal_node::relays::Relays;
use shoal_node::session::own_addresses;
use shoal_node::share::{Roots, Share, ShareOptions};
use shoal_node::state::StateDir;
use shoal_node::tasks::Tasks;
use shoal_node::transfers::Transfers;
use shoal_store::folder::Folder;
use shoal_store::index::Index;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use self::inbox::Inbox;
use super::moves::{self, Moves};
use crate::args::PeerArguments;
use crate::connect::{agent, node_name, open_endpoint, server_of, warn_if_unverified};
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::prompt;

/// Runs until SIGINT, SIGTERM or `quit`.
pub(super) async fn run(arguments: PeerArguments, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let state = StateDir::open(arguments.joined.state_dir.as_deref(), "peer")?;
    let _lock = state.lock()?;
    let mut settings = state.settings()?;
    let server = server_of(&arguments.joined, &settings)?;
    let name = node_name(arguments.name.clone(), &settings);
    let folder =
        Folder::open(&arguments.files_dir).map_err(|error| Failure::local(error.to_string()))?;
    warn_if_unverified(&server, output);
    let index = Index::open(&state.index_path()).await?;
    let tasks = Tasks::new();
    let endpoint = open_endpoint(&state, arguments.port, vec![Protocol::Transfer]).await?;
    let shared = ShareOptions {
        roots: Roots::whole(folder),
        hidden: arguments.hidden,
    };
    let has_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let has_prompt = has_terminal && !output.is_json();
    let (inbox, taken) = Inbox::new(state.clone(), has_prompt, output);
    let relays = Relays::new();
    let takes = inbox::Taking {
        endpoint: endpoint.clone(),
        relays: relays.clone(),
        name: name.clone(),
        folder: arguments.files_dir.clone(),
        tasks: tasks.clone(),
        output: output.clone(),
    };
    tasks.spawn(takes.run(taken));
    publish(&arguments, &endpoint, &tasks)?;
    let hears = inbox.clone();
    let options = PeerOptions {
        share: Share::start(shared, index, &tasks),
        endpoint,
        server: server.clone(),
        name: name.clone(),
        agent: agent(),
        accepts_offers: !arguments.no_push,
        relays,
        notices: Some(Notices::new(move |ticket| hears.hear(ticket))),
        limits: arguments.limits.over(&settings.limits)?,
        tasks,
    };
    let started = tokio::select! {
        started = Peer::start(options) => started?,
        () = interrupt.received() => return Ok(()),
    };
    let (peer, events) = started;
    settings.name = Some(name.clone());
    settings.server = Some(server);
    state.save(&settings)?;
    if has_prompt {
        let folder = arguments.files_dir.display();
        output.note(&format!(
            "{name} shares {folder}. Type 'help' for what it can do, Ctrl-D to quit."
        ));
        let history = state.history_path();
        let with = (&mut interrupt, output);
        prompt::run((&peer, &inbox), events, &history, with).await?;
    } else {
        tell_until_stopped((events, peer.transfers()), &mut interrupt, output).await;
    }
    peer.shutdown().await;
    Ok(())
}

/// Says in the DHT where this peer is, where that is asked for.
fn publish(arguments: &PeerArguments, endpoint: &Endpoint, tasks: &Tasks) -> Result<(), Failure> {
    if let Some(dht) = arguments.dht.start()? {
        let (identity, port) = (endpoint.identity().clone(), endpoint.local_addr().port());
        tasks.spawn(dht.keep_published(identity, move || own_addresses(None, port)));
    }
    Ok(())
}

async fn tell_until_stopped(
    (mut events, transfers): (Receiver<Event>, &Transfers),
    interrupt: &mut Interrupt,
    output: &Output,
) {
    let (mut moves, mut looks) = (Moves::default(), tokio::time::interval(moves::INTERVAL));
    loop {
        tokio::select! {
            _ = looks.tick() => moves.tell(transfers, output),
            event = events.recv() => match event {
                Ok(event) => tell(&event, output),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            () = interrupt.received() => return,
        }
    }
}

fn tell(event: &Event, output: &Output) {
    let (name, fields) = match event {
        Event::Connected { server, observed } => (
            "connected",
            json!({ "server": server.to_string(), "observed": observed.to_string() }),
        ),
        Event::Announced { files } => ("announced", json!({ "files": files })),
        Event::Waiting { reason, retry_in } => (
            "waiting",
            json!({ "reason": reason, "retry_in_ms": retry_in.as_millis() as u64 }),
        ),
        Event::Disconnected { reason, retry_in } => (
            "disconnected",
            json!({ "reason": reason, "retry_in_ms": retry_in.as_millis() as u64 }),
        ),
    };
    output.event(name, fields, || sentence(event));
}

/// An event as a person reads it.
pub(crate) fn sentence(event: &Event) -> String {
    match event {
        Event::Connected { server, observed } => {
            format!("connected to server {} as {observed}", server.short())
        }
        Event::Announced { files } => format!("announced {files} file(s)"),
        Event::Waiting { reason, retry_in } => {
            format!(
                "the server takes no announcements at the moment: {reason}; trying again every {:.1} s",
                retry_in.as_secs_f64()
            )
        }
        Event::Disconnected { reason, retry_in } => {
            format!(
                "not connected: {reason}; trying again in {:.1} s",
                retry_in.as_secs_f64()
            )
        }
    }
}
