//! `shoal ctl`: orders for the server that runs on this machine.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use shoal_node::state::StateDir;
use shoal_node::throttle::sentence;
use shoal_server::control::client::{self, ControlError};
use shoal_server::control::{
    ControlEvent, ControlRequest, RelayStanding, StateOutage, TransferOutcome,
};
use shoal_wire::{Refusal, escape};

use crate::args::Order;
use crate::exit::{Code, Failure, code_of};
use crate::interrupt::Interrupt;
use crate::output::progress::{Progress, Standing};
use crate::output::{Output, duration, size, table, when};

/// Gives one order and shows what the server says until it is carried out.
pub(super) async fn run(
    state_dir: Option<PathBuf>,
    order: Order,
    output: &Output,
) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let state = StateDir::open(state_dir.as_deref(), "server")?;
    let mut shown = Shown::new(output);
    let socket = state.control_socket_path();
    let request = request(order);
    let sent = tokio::select! {
        sent = client::send(&socket, &request, |event| shown.take(event)) => sent,
        () = interrupt.received() => {
            let text = "interrupted: give the order again to go on";
            return Err(Failure::new(Code::Interrupted, text));
        }
    };
    shown.conclude(sent)
}

fn request(order: Order) -> ControlRequest {
    match order {
        Order::Peers => ControlRequest::Peers,
        Order::Files { text } => ControlRequest::Files { text },
        Order::List { peer, path } => ControlRequest::List { peer, path },
        Order::Request { peer, file } => ControlRequest::Request { peer, file },
        Order::Fetch {
            peer,
            file,
            overwrite,
        } => ControlRequest::Fetch {
            peer,
            file,
            overwrite,
        },
        Order::Push {
            file,
            peer,
            overwrite,
        } => ControlRequest::Push {
            file,
            peer,
            overwrite,
        },
        Order::Transfer {
            from,
            file,
            to,
            overwrite,
        } => ControlRequest::Transfer {
            from,
            file,
            to,
            overwrite,
        },
        Order::Rescan { peer } => ControlRequest::Rescan { peer },
        Order::Disconnect { peer } => ControlRequest::Disconnect { peer },
        Order::Limit { peer, changes } => ControlRequest::Limit {
            peer,
            changes: changes.into(),
        },
        Order::Status => ControlRequest::Status,
    }
}

/// What has been shown of an answer; rows of a table are kept until all are there.
struct Shown {
    output: Output,
    rows: Vec<Vec<String>>,
    progress: Option<Progress>,
    failure: Option<Failure>,
}

impl Shown {
    fn new(output: &Output) -> Self {
        Self {
            output: output.clone(),
            rows: Vec::new(),
            progress: None,
            failure: None,
        }
    }

    fn take(&mut self, event: ControlEvent) {
        match &event {
            ControlEvent::Progress {
                path: _,
                total_bytes,
                verified_bytes,
                durable_bytes,
            } => {
                let output = &self.output;
                let progress = self.progress.get_or_insert_with(|| Progress::start(output));
                progress.show(&Standing {
                    verified_bytes: *verified_bytes,
                    durable_bytes: *durable_bytes,
                    received_bytes: *verified_bytes,
                    total_bytes: *total_bytes,
                    files: 1,
                    ..Standing::default()
                });
                return;
            }
            ControlEvent::Failed { code, message } => {
                let code = code_of(Refusal::from_code(u64::from(*code)));
                self.failure = Some(Failure::new(code, escape(message.as_bytes())));
                return;
            }
            ControlEvent::Done => return,
            _ => {}
        }
        if self.output.is_json() {
            self.pass_on(&event);
        } else {
            self.show(event);
        }
    }

    /// The server's event as it is, under this program's version and name for it.
    fn pass_on(&self, event: &ControlEvent) {
        if let Ok(Value::Object(mut fields)) = serde_json::to_value(event)
            && let Some(Value::String(name)) = fields.remove("event")
        {
            self.output.machine(&name, Value::Object(fields));
        }
    }

    fn show(&mut self, event: ControlEvent) {
        if let Some(row) = row(&event) {
            self.rows.push(row);
        } else if let Some(line) = line(event) {
            self.output.event("ctl", Value::Null, || line);
        }
    }

    fn conclude(self, sent: Result<(), ControlError>) -> Result<(), Failure> {
        if let Some(progress) = self.progress {
            progress.end();
        }
        if !self.rows.is_empty() {
            self.output.event("ctl", Value::Null, || table(&self.rows));
        }
        sent?;
        self.failure.map_or(Ok(()), Err)
    }
}

/// The row that an event adds to a table, if that is how it is shown.
fn row(event: &ControlEvent) -> Option<Vec<String>> {
    match event {
        ControlEvent::Peer {
            node,
            name,
            observed,
            connected_ms,
            files,
            total_bytes,
            rtt_us,
            ..
        } => Some(vec![
            escape(name.as_bytes()),
            format!("{files} files"),
            size(*total_bytes),
            duration(Duration::from_millis(*connected_ms)),
            format!("{:.1} ms", *rtt_us as f64 / 1e3),
            observed.clone(),
            node.chars().take(10).collect(),
        ]),
        ControlEvent::File {
            peer_name,
            online,
            path,
            size: bytes,
            mtime_ns,
            hash,
            ..
        } => {
            let away = if *online { "" } else { "  (away)" };
            let hash = hash.as_ref().map(|hash| hash.chars().take(12).collect());
            let name = escape(peer_name.as_bytes());
            Some(vec![
                size(*bytes),
                when(*mtime_ns),
                hash.unwrap_or_else(|| "(not hashed)".to_owned()),
                format!("{name}:{}{away}", escape(path.as_bytes())),
            ])
        }
        _ => None,
    }
}

/// The line that shows an event by itself.
fn line(event: ControlEvent) -> Option<String> {
    Some(match event {
        ControlEvent::Transferred {
            path,
            outcome,
            hash,
            total_bytes,
        } => {
            let word = match outcome {
                TransferOutcome::Fetched => "transferred",
                TransferOutcome::UpToDate => "up to date",
            };
            let path = escape(path.as_bytes());
            format!("{word:<11} {path}  {}  {hash}", size(total_bytes))
        }
        ControlEvent::Rescanned {
            files,
            changed,
            removed,
        } => format!("{files} file(s): {changed} new or changed, {removed} gone"),
        ControlEvent::Disconnected { name } => {
            format!("disconnected {}", escape(name.as_bytes()))
        }
        ControlEvent::Limits { name, limits } => {
            let name = escape(name.as_bytes());
            format!("limits      {name}: {}", sentence(&limits))
        }
        ControlEvent::Status {
            server,
            name,
            agent,
            address,
            uptime_ms,
            peers,
            files,
            total_bytes,
            own_files,
            relay,
            outage,
        } => {
            let (name, agent) = (escape(name.as_bytes()), escape(agent.as_bytes()));
            let (up, bytes) = (
                duration(Duration::from_millis(uptime_ms)),
                size(total_bytes),
            );
            let relay = relay.map_or_else(|| "none".to_owned(), |relay| relay_text(&relay));
            let outage = outage.map_or_else(String::new, |outage| outage_text(&outage));
            format!(
                "server      {name} {server}\n            at {address}, {agent}, up {up}\nknows       {peers} peers, {files} files, {bytes} ({own_files} files of its own)\nrelay       {relay}{outage}"
            )
        }
        _ => return None,
    })
}

fn outage_text(outage: &StateOutage) -> String {
    let since_ns = i64::try_from(outage.since_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    let (since, message) = (when(since_ns), escape(outage.message.as_bytes()));
    format!("\nstate       since {since} UTC: {message}")
}

fn relay_text(relay: &RelayStanding) -> String {
    if let Some(apart) = &relay.apart {
        return format!("by {apart}, a process of its own");
    }
    let (port, connected, refused) = (relay.port, relay.connected, relay.refused);
    let (passed, dropped) = (size(relay.sent_bytes), relay.dropped);
    format!(
        "on TCP port {port}: {connected} connections, {passed} passed on, {dropped} datagrams dropped, {refused} refused"
    )
}
