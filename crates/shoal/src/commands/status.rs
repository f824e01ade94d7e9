//! `shoal status`: the server, this node's identity and what it remembers.

use std::time::Duration;

use serde_json::json;
use shoal_node::session::Session;
use shoal_node::state::StateDir;

use crate::args::JoinedArguments;
use crate::connect::Joined;
use crate::exit::Failure;
use crate::output::{Output, duration, size};

/// Shows this node first, and the server as soon as it answers.
pub(super) async fn run(joined: &JoinedArguments, output: &Output) -> Result<(), Failure> {
    let state = StateDir::open(joined.state_dir.as_deref(), "peer")?;
    let node = state.identity()?.node_id();
    let settings = state.settings()?;
    let name = settings.name.as_ref().map(ToString::to_string);
    let fields = json!({ "node": node.to_string(), "name": name, "state_dir": state.path() });
    output.event("node", fields, || {
        let name = name.as_deref().unwrap_or("(none yet)");
        format!(
            "this node   {name}  {node}\nkept in     {}",
            state.path().display()
        )
    });
    let joined = Joined::connect(joined, output).await?;
    let shown = show_server(&joined.session, output).await;
    joined.close().await;
    shown
}

/// Shows how the server is.
pub(crate) async fn show_server(session: &Session, output: &Output) -> Result<(), Failure> {
    let status = session.status().await?;
    let path = session.link().path();
    let fields = json!({
        "server": status.server.to_string(),
        "agent": status.agent.to_string(),
        "address": path.remote.to_string(),
        "rtt_us": path.rtt.as_micros() as u64,
        "uptime_ms": status.uptime_ms,
        "peers": status.peers,
        "files": status.files,
        "total_bytes": status.total_bytes,
        "own_files": status.own_files,
    });
    output.event("status", fields, || {
        format!(
            "server      {} at {}, {}\n            up {}, round trip {:.1} ms\nknows       {} peers, {} files, {} ({} files of its own)",
            status.server,
            path.remote,
            status.agent,
            duration(Duration::from_millis(status.uptime_ms)),
            path.rtt.as_secs_f64() * 1e3,
            status.peers,
            status.files,
            size(status.total_bytes),
            status.own_files,
        )
    });
    Ok(())
}
