//! What a daemon sends and receives, told to programs as it happens.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use shoal_node::transfers::{Direction, Snapshot, State, Transfers};

use crate::output::Output;
use crate::output::progress::route_fields;

/// Time between two looks.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// The transfers of a daemon, so far as they were told.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Whose end was told.
    over: BTreeSet<u64>,
}

impl Moves {
    /// Tells how far each transfer is that moves, and once how each ended.
    pub(crate) fn tell(&mut self, transfers: &Transfers, output: &Output) {
        if !output.is_json() {
            return;
        }
        let list = transfers.list();
        for transfer in &list {
            let is_over = transfer.state != State::Active;
            if !is_over || self.over.insert(transfer.id) {
                output.machine("transfer", fields(transfer));
            }
        }
        let oldest = list.first().map_or(u64::MAX, |transfer| transfer.id);
        self.over.retain(|id| *id >= oldest);
    }
}

fn fields(transfer: &Snapshot) -> serde_json::Value {
    let (direction, state) = (
        match transfer.direction {
            Direction::Receiving => "receiving",
            Direction::Sending => "sending",
        },
        match transfer.state {
            State::Active => "active".to_owned(),
            State::Done(_) | State::Complete => "done".to_owned(),
            State::Failed(refusal) => refusal.text().to_owned(),
        },
    );
    let peers: Vec<String> = transfer.peers.iter().map(ToString::to_string).collect();
    json!({
        "id": transfer.id,
        "direction": direction,
        "path": transfer.path.to_string(),
        "peers": peers,
        "state": state,
        "total_bytes": transfer.total_bytes,
        "verified_bytes": transfer.verified_bytes,
        "durable_bytes": transfer.durable_bytes,
        "bytes_per_second": transfer.bytes_per_second,
        "seconds_left": transfer.left().map(|left| left.as_secs()),
        "seconds": transfer.elapsed.as_secs_f64(),
        "route": transfer.route.as_ref().map(route_fields),
    })
}
