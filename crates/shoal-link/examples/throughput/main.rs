//! Moves bytes from memory to memory over one stream, and prints how fast and at what cost.
//!
//! ```text
//! throughput shoal|noq MIB              both ends in this process, on loopback
//! throughput shoal|noq serve ADDRESS    the receiving end, for one transfer
//! throughput shoal|noq send ADDRESS MIB the sending end
//! throughput roaming MIB                the roaming lane, through a relay in this process at first
//! ```
//!
//! `shoal` goes through this crate's links, `noq` through the bare library with the same
//! settings. The last line is `MB_PER_S CPU_SECONDS`, the processor time of this process only.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the figures are the output"
)]
#![allow(clippy::unwrap_used, reason = "a benchmark may stop anywhere")]

mod bare;
mod linked;
mod roamed;

use std::net::SocketAddr;
use std::time::Instant;

/// What is written at once, in bytes: what a chunk is read in from disk.
const WRITE_BYTES: usize = 1024 * 1024;

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let started_seconds = processor_seconds();
    let clock = Instant::now();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let sent_bytes = match words[..] {
        ["shoal", mib] => {
            let server = linked::endpoint(any).await;
            let address = server.local_addr();
            let receiving = tokio::spawn(linked::receive(server));
            let sent_bytes = linked::send(any, address, bytes_in(mib)).await;
            assert_eq!(receiving.await.unwrap(), sent_bytes);
            sent_bytes
        }
        ["noq", mib] => {
            let server = bare::server(any);
            let address = server.local_addr().unwrap();
            let receiving = tokio::spawn(bare::receive(server));
            let sent_bytes = bare::send(any, address, bytes_in(mib)).await;
            assert_eq!(receiving.await.unwrap(), sent_bytes);
            sent_bytes
        }
        ["shoal", "serve", address] => {
            linked::receive(linked::endpoint(address.parse().unwrap()).await).await
        }
        ["noq", "serve", address] => bare::receive(bare::server(address.parse().unwrap())).await,
        ["shoal", "send", address, mib] => {
            linked::send(everywhere(), address.parse().unwrap(), bytes_in(mib)).await
        }
        ["noq", "send", address, mib] => {
            bare::send(everywhere(), address.parse().unwrap(), bytes_in(mib)).await
        }
        ["roaming", mib] => roamed::both(bytes_in(mib)).await,
        _ => panic!("see the top of examples/throughput/main.rs"),
    };
    let mb_per_s = sent_bytes as f64 / 1e6 / clock.elapsed().as_secs_f64();
    let cpu_seconds = processor_seconds() - started_seconds;
    println!("{mb_per_s:.0} {cpu_seconds:.2}");
}

fn everywhere() -> SocketAddr {
    "0.0.0.0:0".parse().unwrap()
}

fn bytes_in(mib: &str) -> u64 {
    mib.parse::<u64>().unwrap() * 1024 * 1024
}

/// User and system time of this process so far; the kernel counts in hundredths of a second.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields
        .map(|field| field.parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}
