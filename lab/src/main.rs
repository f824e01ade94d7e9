//! `shoal-wan`: two network namespaces joined by an emulated wide-area network.
//!
//! Makes the namespaces `<name>A` and `<name>B`, each with a TUN device, and carries their packets
//! between them with delay, a rate cap, a queue and loss until SIGTERM or SIGINT. The kernel cuts
//! large sends before they reach a TUN device, so loss and queue count packets as a wire would.
//! It touches no other namespace or device, and removes what it made on every way out but SIGKILL.

mod arguments;
mod direction;
mod namespaces;
mod tun;
mod wan;

use std::io::Write;
use std::os::unix::net::UnixStream;

use anyhow::Context;
use clap::Parser;

use crate::arguments::Arguments;
use crate::namespaces::{Namespaces, Side};
use crate::tun::Tun;
use crate::wan::Wan;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let stop = stop_signals().context("signals cannot be handled")?;
    let namespaces = Namespaces::create(&arguments.name)?;
    let near = Tun::open(&namespaces.handle(Side::A)?)?;
    let far = Tun::open(&namespaces.handle(Side::B)?)?;
    for side in [Side::A, Side::B] {
        namespaces.configure(side, arguments.mtu)?;
    }
    let shape = arguments.shape();
    say(&format!(
        "ready: {} {} and {} {}, {} ms one way, {} Mbit/s, queue {} bytes, loss {} %",
        namespaces.name(Side::A),
        Side::A.address(),
        namespaces.name(Side::B),
        Side::B.address(),
        arguments.delay_ms,
        arguments.rate_mbit,
        shape.queue_bytes,
        arguments.loss,
    ));
    wan::prefer_this_process();
    let mut wan = Wan::new((near, far), &shape, arguments.seed);
    let outcome = wan.run(&stop);
    for line in wan.summary() {
        say(&line);
    }
    outcome.context("the packets cannot be carried on")
}

/// Becomes readable when the process is asked to end.
fn stop_signals() -> std::io::Result<UnixStream> {
    let (stop, write) = UnixStream::pair()?;
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(stop)
}

/// Prints a line at once; a closed pipe must not keep the namespaces from being removed.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _closed = writeln!(out, "{line}").and_then(|()| out.flush());
}
