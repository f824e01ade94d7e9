//! One module per command; each takes its arguments and an [`Output`] and ends in a result.

mod certs;
mod contacts;
mod ctl;
mod demo;
mod doctor;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod moves;
mod pages;
pub(crate) mod peer;
mod receive;
mod relay;
mod send;
mod server;
pub(crate) mod status;

use crate::args::Command;
use crate::exit::Failure;
use crate::output::Output;

/// Runs the command that was asked for.
pub(crate) async fn run(command: Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Server(arguments) => server::run(arguments, output).await,
        Command::Peer(arguments) => peer::run(arguments, output).await,
        Command::Send(arguments) => send::run(arguments, output).await,
        Command::Receive(arguments) => receive::run(arguments, output).await,
        Command::Contacts { state_dir, what } => contacts::run(state_dir, what, output),
        Command::Ls { place, joined } => list::list(place, &joined, output).await,
        Command::Search {
            text,
            limit,
            joined,
        } => list::search(&text, limit, &joined, output).await,
        Command::Get(arguments) => get::run(arguments, output).await,
        Command::Status { joined } => status::run(&joined, output).await,
        Command::Relay(arguments) => relay::run(arguments, output).await,
        Command::Doctor(arguments) => doctor::run(arguments, output).await,
        Command::Ctl { state_dir, order } => ctl::run(state_dir, order, output).await,
        Command::Certs {
            dir,
            names,
            overwrite,
        } => certs::run(&dir, names, overwrite, output),
        Command::Demo { size_mb } => demo::run(size_mb, output).await,
        Command::Completions { shell } => {
            pages::completions(shell, output);
            Ok(())
        }
        Command::Man { dir } => pages::man(dir, output),
    }
}
