//! `shoal relay`: relays between peers of the servers that have its ticket.

use std::time::Duration;

use serde_json::json;
use shoal_node::state::StateDir;
use shoal_node::tasks::Tasks;
use shoal_server::relay::{RelayAlone, RelayOptions};

use crate::args::RelayOnlyArguments;
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::{Output, size};

/// How long connections may take to end after the goodbye.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until SIGINT or SIGTERM.
pub(super) async fn run(arguments: RelayOnlyArguments, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let state = StateDir::open(arguments.state_dir.as_deref(), "relay")?;
    let _lock = state.lock()?;
    let options = RelayOptions {
        bind: arguments.addr,
        budget: arguments.budget.budget(),
        metrics: arguments.metrics.access()?,
    };
    let started = RelayAlone::start(&state.identity()?, options, Tasks::new()).await;
    let relay = started.map_err(|error| Failure::local(error.to_string()))?;
    let (address, ticket) = (relay.local_addr(), relay.ticket().to_string());
    let fields = json!({
        "address": address.to_string(),
        "relay": relay.ticket().relay.to_string(),
        "ticket": ticket,
    });
    output.event("relaying", fields, || {
        format!(
            "relaying on {address}\n\nOn each server that may use it (keep this line secret):\n\n  shoal server --relay {ticket}\n"
        )
    });
    interrupt.received().await;
    let standing = relay.standing();
    let fields = json!({ "relay": standing });
    output.event("relayed", fields, || {
        let (passed, refused) = (size(standing.sent_bytes), standing.refused);
        format!("{passed} passed on, {refused} connections refused")
    });
    relay.shutdown(SHUTDOWN_DEADLINE).await;
    Ok(())
}
