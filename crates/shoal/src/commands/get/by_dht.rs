//! `shoal get --dht HASH`: without a server, from whoever says in the DHT that it has the file.

use std::cell::RefCell;
use std::time::Duration;

use shoal_node::dht::Dht;
use shoal_node::fetch::{FetchPolicy, Fetcher, Further, Greeting, OfferKey, Source, TreeOptions};
use shoal_node::plan::{Planned, PlannedFile};
use shoal_node::providers::{Asking, Search};
use shoal_node::state::StateDir;
use shoal_node::tasks::Tasks;
use shoal_node::transfers::Transfers;
use shoal_wire::{Hash, Refusal, SafePath};

use super::course::There;
use super::{Getting, SHUTDOWN_DEADLINE, destination, interrupted, options};
use crate::args::GetArguments;
use crate::connect::{node_name, open_endpoint};
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::limits;
use crate::output::Output;

/// How long one of those may take to let this node in: no person has to say so.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs the command.
pub(super) async fn run(
    arguments: &GetArguments,
    interrupt: &mut Interrupt,
    output: &Output,
) -> Result<(), Failure> {
    let hash = hash_of(arguments)?;
    let state = StateDir::open(arguments.joined.state_dir.as_deref(), "peer")?;
    let settings = state.settings()?;
    let (folder, slice) = destination(arguments)?;
    let endpoint = open_endpoint(&state, 0, Vec::new()).await?;
    let tasks = Tasks::new();
    let throttle = limits::receiving(&arguments.down, &settings.limits, &tasks)?;
    let greeting = Greeting {
        key: OfferKey::Content(hash),
        patience: PATIENCE,
        name: node_name(None, &settings),
    };
    let fetcher = Fetcher::new(endpoint.clone(), tasks.clone(), None)
        .with_index(state.index_path())
        .opening(greeting);
    let asked = options(arguments)?;
    // Whoever has the content may call it what he likes.
    let target = match &arguments.name {
        Some(name) => name.clone(),
        None => hash.to_string().parse().expect("hex digits are a path"),
    };
    let getting = Getting {
        fetcher: &fetcher,
        transfers: &Transfers::limited(throttle),
        folder,
        options: TreeOptions {
            policy: FetchPolicy {
                of_strangers: true,
                ..asked.policy
            },
            ..asked
        },
        slice,
    };
    let got = match arguments.dht.start()? {
        Some(dht) => {
            getting
                .by_hash((&dht, hash, target), interrupt, output)
                .await
        }
        None => Ok(()),
    };
    endpoint.close(Refusal::Done).await;
    tasks.shutdown(SHUTDOWN_DEADLINE).await;
    got
}

fn nobody(said: usize) -> Failure {
    let text = match said {
        0 => "nobody says in the DHT that they have it: does 'shoal send --dht --by-hash' run there, and has it had a minute?".to_owned(),
        said => format!("{said} node(s) say in the DHT that they have it, and none of them can be reached and offers it"),
    };
    Failure::new(Code::NotFound, text)
}

fn hash_of(arguments: &GetArguments) -> Result<Hash, Failure> {
    let of_folders = arguments.links
        || arguments.owner
        || arguments.xattrs
        || arguments.dry_run
        || !arguments.include.is_empty()
        || !arguments.exclude.is_empty();
    if of_folders {
        let text = "--dht fetches one file by its content: what is kept or chosen of folders does not go with it";
        return Err(Failure::new(Code::Usage, text));
    }
    let hash = match &arguments.wanted[..] {
        [only] => only.parse().ok(),
        _ => None,
    };
    hash.ok_or_else(|| {
        let text = "--dht takes one whole hash, 64 hex digits as b3sum prints them";
        Failure::new(Code::Usage, text)
    })
}

impl Getting<'_> {
    async fn by_hash(
        &self,
        (dht, hash, target): (&Dht, Hash, SafePath),
        interrupt: &mut Interrupt,
        output: &Output,
    ) -> Result<(), Failure> {
        output.note("looking in the DHT for who has it");
        let searching = Search::begin(Asking {
            dht,
            fetcher: self.fetcher,
            transfers: self.transfers,
            folder: &self.folder,
            hash,
        });
        let (mut search, found) = tokio::select! {
            found = async {
                let mut search = searching.await;
                let found = search.next().await;
                (search, found)
            } => found,
            () = interrupt.received() => return Err(interrupted()),
        };
        if found.sources.is_empty() {
            return Err(nobody(search.said()));
        }
        let (finder, further) = Further::new();
        let planned = vec![Planned::File(PlannedFile {
            sources: found.sources.clone(),
            further: Some(further),
            target,
        })];
        let known = RefCell::new(vec![found]);
        let looking_on = async {
            loop {
                finder.asked().await;
                output.note("looking for others who have it");
                let found = search.next().await;
                let sources = found.sources.clone();
                known.borrow_mut().push(found);
                finder.give(sources).await;
            }
        };
        let there = tokio::select! {
            got = self.fetch(planned, interrupt, output) => got?,
            () = looking_on => return Ok(()),
        };
        let known = known.into_inner();
        let sources: Vec<&Source> = known.iter().flat_map(|found| &found.sources).collect();
        tokio::select! {
            () = self.thank(&sources, there) => {}
            () = interrupt.received() => {}
        }
        Ok(())
    }

    /// Tells the source that gave the file what of it is there, for those who count receivers.
    async fn thank(&self, sources: &[&Source], there: There) {
        let transfers = self.transfers.list();
        let Some(peer) = transfers.last().and_then(|last| last.peers.last()) else {
            return;
        };
        let source = sources.iter().find(|one| one.provider.name == *peer);
        if let Some(source) = source
            && let Ok(offer) = self.fetcher.visit(&source.provider).await
        {
            // Whoever gave it is not waited for.
            let _ = offer.done(there.files, there.bytes).await;
        }
    }
}
