//! Many peers at one server, for measuring what each costs it: every peer has an identity, a
//! socket and a session of its own, announces some files and answers what the server asks.
//!
//! `crowd TICKET PEERS FILES` connects them, prints how long that took, and stays until its
//! standard input ends.

#![expect(
    clippy::print_stdout,
    reason = "an example talks to whoever runs it on standard output"
)]

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use shoal_link::{Endpoint, EndpointConfig, Identity, Link, Protocol, Stream};
use shoal_node::requests::{Handler, serve_streams};
use shoal_node::session::{Connect, Session};
use shoal_node::state::{ServerRef, TrustChoice};
use shoal_node::tasks::Tasks;
use shoal_wire::message::{Bounded, FileAnnounce};
use shoal_wire::{Communication, FileEntry, FileSize, JoinTicket, Refusal, ShortText};
use tokio::sync::Semaphore;

/// Peers that connect at the same time.
const AT_ONCE: usize = 32;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or(format!("missing: {what}"));
    let ticket: JoinTicket = next("TICKET")?.parse()?;
    let peers: u32 = next("PEERS")?.parse()?;
    let files: u32 = next("FILES")?.parse()?;
    let tasks = Tasks::new();
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let started = Instant::now();
    let (connected, mut results) = tokio::sync::mpsc::channel(AT_ONCE);
    for number in 0..peers {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let (ticket, connected, branch) = (ticket.clone(), connected.clone(), tasks.clone());
        tasks.spawn(async move {
            let peer = connect(&ticket, number, files).await;
            drop(slot);
            let live = match peer {
                Ok(live) => {
                    let _ = connected.send(Ok(())).await;
                    live
                }
                Err(error) => {
                    let _ = connected.send(Err(error.to_string())).await;
                    return;
                }
            };
            let (_endpoint, session) = live;
            serve_streams(session.link(), &branch, Arc::new(DenyAll)).await;
        });
    }
    for _ in 0..peers {
        if let Some(Err(error)) = results.recv().await {
            return Err(error.into());
        }
    }
    println!(
        "{peers} peers connected in {:.2} s",
        started.elapsed().as_secs_f64()
    );
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await??;
    tasks.cancel();
    Ok(())
}

async fn connect(
    ticket: &JoinTicket,
    number: u32,
    files: u32,
) -> Result<(Endpoint, Session), Failure> {
    let endpoint = Endpoint::bind(EndpointConfig {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        identity: Identity::generate(),
        certificate: None,
        accept: vec![Protocol::Transfer],
        roaming: None,
    })
    .await?;
    let connect = Connect {
        endpoint: endpoint.clone(),
        server: ServerRef {
            addresses: ticket.addresses.iter().map(ToString::to_string).collect(),
            trust: TrustChoice::Pinned(ticket.server),
            relay_pass: None,
        },
        name: format!("peer-{number}").parse()?,
        serving: true,
        instance: u64::from(number),
        agent: ShortText::new("crowd"),
    };
    let session = Session::connect(&connect).await?;
    let entries = (0..files).map(|file| entry(number, file));
    let announce = FileAnnounce {
        sequence: 0,
        snapshot: true,
        complete: true,
        added: Bounded::truncated(entries.collect::<Result<_, _>>()?),
        removed: Bounded::default(),
    };
    session
        .request(&Communication::FileAnnounce(announce))
        .await?;
    Ok((endpoint, session))
}

fn entry(number: u32, file: u32) -> Result<FileEntry, Failure> {
    Ok(FileEntry {
        path: format!("folder/of-{number}/file-{file}.dat").parse()?,
        size: FileSize::new(1000).ok_or("a small size")?,
        mtime_ns: 1_700_000_000_000_000_000,
        mode: 0o644,
        hash: None,
    })
}

/// Answers everything with a refusal.
struct DenyAll;

impl Handler for DenyAll {
    async fn handle(&self, _first: Communication, mut stream: Stream, _link: &Link) {
        let refused = Communication::refused(Refusal::Denied, "nothing to give");
        let _ = stream.send.say(&refused).await;
    }
}
