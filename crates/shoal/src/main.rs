//! `shoal`: one binary for the server, the peers and one-shot commands.
//!
//! Reads the arguments, runs one command and ends with one of the documented exit codes. What a
//! person or a program sees goes through [`output`]; what went wrong is told by [`exit`].

mod args;
mod commands;
mod connect;
mod exit;
mod interrupt;
mod limits;
mod output;
mod prompt;
mod range;
mod typed;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Arguments;
use crate::output::Output;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let output = Output::new(false);
            if error.use_stderr() {
                // Where not even that can be written, the code has to do.
                let _ = error.print();
                return exit::Code::Usage.into();
            }
            output.help(&error);
            return ended(output.is_written(), &output);
        }
    };
    let output = Output::new(arguments.json);
    output::start_logging(&output);
    shoal_node::open_files::raise_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = exit::Failure::local(format!("the system refuses more threads: {error}"));
            return failure.report(&output);
        }
    };
    let outcome = runtime.block_on(commands::run(arguments.command, &output));
    // Work on files that was handed to threads is finished or abandoned durably by each command
    // itself; whatever else still blocks must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended(outcome.and_then(|()| output.is_written()), &output)
}

fn ended(outcome: Result<(), exit::Failure>, output: &Output) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(output),
    }
}
