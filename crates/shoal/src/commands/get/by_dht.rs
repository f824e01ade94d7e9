//! `shoal get --dht HASH`: without a server, from whoever says in the DHT that it has the file.

use shoal_node::dht::Dht;
use shoal_node::fetch::{Fetcher, Greeting};
use shoal_node::offer::secret_of_content;
use shoal_node::plan::{Planned, PlannedFile};
use shoal_node::providers::Search;
use shoal_node::state::StateDir;
use shoal_node::tasks::Tasks;
use shoal_node::transfers::Transfers;
use shoal_wire::{Hash, Refusal, SafePath};

use super::{Getting, SHUTDOWN_DEADLINE, destination, interrupted, options};
use crate::args::GetArguments;
use crate::connect::{node_name, open_endpoint};
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::limits;
use crate::output::Output;

/// Runs the command.
pub(super) async fn run(
    arguments: &GetArguments,
    interrupt: &mut Interrupt,
    output: &Output,
) -> Result<(), Failure> {
    let hash = hash_of(&arguments.wanted)?;
    let state = StateDir::open(arguments.joined.state_dir.as_deref(), "peer")?;
    let settings = state.settings()?;
    let (folder, slice) = destination(arguments)?;
    let endpoint = open_endpoint(&state, 0, Vec::new()).await?;
    let tasks = Tasks::new();
    let throttle = limits::receiving(&arguments.down, &settings.limits, &tasks)?;
    let greeting = Greeting {
        secret: secret_of_content(&hash),
        name: node_name(None, &settings),
    };
    let fetcher = Fetcher::new(endpoint.clone(), tasks.clone(), None)
        .with_index(state.index_path())
        .opening(greeting);
    let getting = Getting {
        fetcher: &fetcher,
        transfers: &Transfers::limited(throttle),
        folder,
        options: options(arguments)?,
        slice,
    };
    let got = match arguments.dht.start()? {
        Some(dht) => getting.by_hash((&dht, hash), interrupt, output).await,
        None => Ok(()),
    };
    endpoint.close(Refusal::Done).await;
    tasks.shutdown(SHUTDOWN_DEADLINE).await;
    got
}

fn hash_of(wanted: &[String]) -> Result<Hash, Failure> {
    let hash = match wanted {
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
        (dht, hash): (&Dht, Hash),
        interrupt: &mut Interrupt,
        output: &Output,
    ) -> Result<(), Failure> {
        output.note("looking in the DHT for who has it");
        let search = Search {
            dht,
            fetcher: self.fetcher,
            folder: &self.folder,
        };
        let found = tokio::select! {
            found = search.sources(hash) => found,
            () = interrupt.received() => return Err(interrupted()),
        };
        let target = found.sources.first().and_then(|source| {
            let path = source.provider.entry.path.as_bytes();
            SafePath::new(path.rsplit(|byte| *byte == b'/').next()?).ok()
        });
        let Some(target) = target else {
            let text = match found.said {
                0 => "nobody says in the DHT that they have it: does 'shoal send --dht --by-hash' run there, and has it had a minute?".to_owned(),
                said => format!("{said} node(s) say in the DHT that they have it, and none of them can be reached and offers it"),
            };
            return Err(Failure::new(Code::NotFound, text));
        };
        let sources = found.sources;
        let planned = vec![Planned::File(PlannedFile { sources, target })];
        self.fetch(planned, interrupt, output).await
    }
}
