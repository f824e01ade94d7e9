//! `shoal server`: runs the coordinator until it is asked to stop.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shoal_link::ServerCertificate;
use shoal_node::state::StateDir;
use shoal_node::tasks::Tasks;
use shoal_server::server::{Server, ServerOptions};

use super::moves::{self, Moves};
use crate::args::ServerArguments;
use crate::connect::{agent, node_name};
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::Output;

/// How long requests and disk work may take to end after a goodbye.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until SIGINT or SIGTERM.
pub(super) async fn run(arguments: ServerArguments, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let state = StateDir::open(arguments.state_dir.as_deref(), "server")?;
    let _lock = state.lock()?;
    let mut settings = state.settings()?;
    let name = node_name(arguments.name, &settings);
    if settings.name.as_ref() != Some(&name) {
        settings.name = Some(name.clone());
        state.save(&settings)?;
    }
    let certificate = match (&arguments.cert, &arguments.key) {
        (Some(certificate), Some(key)) => Some(read_certificate(certificate, key)?),
        _ => None,
    };
    let has_certificate = certificate.is_some();
    let options = ServerOptions {
        bind: arguments.addr,
        identity: state.identity()?,
        certificate,
        files_dir: arguments.files_dir.clone(),
        state,
        name,
        hidden: arguments.hidden,
        relay: arguments.relay.choice(),
        metrics: arguments.metrics.access()?,
        limits: arguments.limits.over(&settings.limits)?,
        agent: agent(),
    };
    let server = Server::start(options, Tasks::new()).await?;
    let (address, join) = (server.local_addr(), server.join_ticket().to_string());
    if !address.ip().is_loopback() {
        output.warn(
            "this server is open: every peer that reaches its address may join, list and fetch. \
             Keep it inside a network that you trust",
        );
    }
    let fields = json!({
        "address": address.to_string(),
        "server": server.node_id().to_string(),
        "join": join,
        "files_dir": arguments.files_dir,
    });
    output.event("listening", fields, || {
        let by_certificate = if has_certificate {
            format!("\nor, by its certificate:    shoal peer --server-addr {address} --server-cert server.crt")
        } else {
            String::new()
        };
        format!(
            "listening on {address}, sharing {}\n\nOn each peer, once (it pins this server's key):\n\n  shoal peer --join {join}\n{by_certificate}",
            arguments.files_dir.display(),
        )
    });
    let (mut moves, mut looks) = (Moves::default(), tokio::time::interval(moves::INTERVAL));
    loop {
        tokio::select! {
            _ = looks.tick() => moves.tell(server.transfers(), output),
            () = interrupt.received() => break,
        }
    }
    output.note("closing");
    if !server.shutdown(SHUTDOWN_DEADLINE).await {
        output.warn("some work did not end in time");
    }
    Ok(())
}

fn read_certificate(certificate: &Path, key: &Path) -> Result<ServerCertificate, Failure> {
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| {
            let text = format!(
                "cannot read {}: {error}; make one with 'shoal certs', or start without --key and --cert",
                file.display()
            );
            Failure::local(text)
        })
    };
    ServerCertificate::from_pem(&read(certificate)?, &read(key)?).map_err(|error| {
        let text = format!("{} and {}: {error}", certificate.display(), key.display());
        Failure::new(Code::Trust, text)
    })
}
