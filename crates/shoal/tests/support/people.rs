//! What one person sends and another receives.

use std::process::Command;

use serde_json::Value;

use super::{Daemon, Server, World};

/// Starts `shoal send` for files of `anna`, and waits until it says how to come.
pub(crate) fn send(world: &World, server: Option<&Server>, more: &[&str]) -> (Daemon, Value) {
    send_as(world, "anna", server, more)
}

/// The same for somebody else.
pub(crate) fn send_as(
    world: &World,
    who: &str,
    server: Option<&Server>,
    more: &[&str],
) -> (Daemon, Value) {
    let mut command = world.command(&["--json", "send", "--as", who]);
    command.arg("--state-dir").arg(world.state(who));
    if let Some(server) = server {
        command.args(["--join", &server.join]);
    }
    command.args(more);
    let mut daemon = Daemon::start(who, command, world.path(&format!("{who}.log")));
    let offer = daemon.event("offer");
    (daemon, offer)
}

/// `shoal receive` as another person, with what is given in the environment.
pub(crate) fn receive(world: &World, who: &str, given: &str, more: &[&str]) -> Command {
    let mut command = world.command(&["--json", "receive", "--as", who]);
    command.arg("--state-dir").arg(world.state(who));
    command.arg("-o").arg(world.path(&format!("{who}/got")));
    command.env("SHOAL_CODE", given).args(more);
    command
}

/// `shoal receive -o -` of one file.
pub(crate) fn receive_out(world: &World, who: &str, given: &str) -> Command {
    let mut command = world.command(&["receive", "-o", "-", "-y", "--as", who]);
    command.arg("--state-dir").arg(world.state(who));
    command.env("SHOAL_CODE", given);
    command
}
