//! The options of what people do among themselves: `send`, `receive`, `doctor` and `relay`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use shoal_core::schedule::Rule;
use shoal_node::dht::Dht;
use shoal_wire::NodeName;
use shoal_wire::limits::MAILBOX_MAX_S;

use super::JoinedArguments;
use crate::exit::Failure;
use crate::limits::LimitArguments;

/// `shoal send`.
#[derive(Debug, Args)]
pub(crate) struct SendArguments {
    /// Files and folders, each under its own name; '-' for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The name under which standard input is sent.
    #[arg(long, value_name = "NAME", default_value = "stdin")]
    pub(crate) name: String,
    /// The name that receivers see; remembered for this machine by 'shoal peer --name'.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) own_name: Option<NodeName>,
    /// Offers it to somebody you know, whose 'shoal peer' runs; no code is needed.
    #[arg(long, value_name = "CONTACT")]
    pub(crate) to: Option<NodeName>,
    /// Lets in whoever knows the hash of the one file, and says in the DHT that it can be had here:
    /// 'shoal get --dht HASH'.
    #[arg(long, requires = "dht", conflicts_with_all = ["to", "ask"])]
    pub(crate) by_hash: bool,
    /// Ends once one receiver has everything; who chose only a part does not count.
    #[arg(long, conflicts_with = "receivers")]
    pub(crate) once: bool,
    /// Ends once so many receivers have everything; who chose only a part does not count.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) receivers: Option<u32>,
    /// How long it waits for receivers: 90s, 30m, 1h, 7d. Who has begun by then is served to the end.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lifetime)]
    pub(crate) expires: Duration,
    /// Asks before each receiver is let in.
    #[arg(long)]
    pub(crate) ask: bool,
    /// Shows the ticket as a QR code too.
    #[arg(long)]
    pub(crate) qr: bool,
    /// UDP port to be reached at; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Does not say on the local network that it waits.
    #[arg(long, env = "SHOAL_NO_LAN", value_parser = FalseyValueParser::new())]
    pub(crate) no_lan: bool,
    #[command(flatten)]
    pub(crate) dht: DhtArguments,
    #[command(flatten)]
    pub(crate) limits: LimitArguments,
    #[command(flatten)]
    pub(crate) joined: JoinedArguments,
}

impl SendArguments {
    /// How many receivers are to have everything before it ends; `None` where it waits for more.
    pub(crate) fn receivers_wanted(&self) -> Option<u32> {
        let is_for_one = self.once || self.to.is_some();
        self.receivers.or(is_for_one.then_some(1))
    }
}

/// `shoal receive`.
#[derive(Debug, Args)]
pub(crate) struct ReceiveArguments {
    /// The code or ticket that the sender gave you.
    #[arg(value_name = "CODE|TICKET", env = "SHOAL_CODE", hide_env_values = true)]
    pub(crate) from: Option<String>,
    /// Folder to put it in; '-' writes a single file to standard output.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) output_dir: PathBuf,
    /// Takes it without asking.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Takes only what fits: '*.jpg' by name, 'raw/**' by path; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Leaves out what fits; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Replaces different files that are already there.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Makes symbolic links as they are at the sender; they are never followed.
    #[arg(long)]
    pub(crate) links: bool,
    /// The name that the sender sees.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) own_name: Option<NodeName>,
    /// Receives no faster than this, in bytes per second: 500k, 10M, 1.5MB/s, unlimited.
    #[arg(
        long,
        value_name = "RATE[@HOURS]",
        env = "SHOAL_DOWN",
        value_delimiter = ','
    )]
    pub(crate) down: Vec<Rule>,
    /// Does not look for the sender on the local network.
    #[arg(long, env = "SHOAL_NO_LAN", value_parser = FalseyValueParser::new())]
    pub(crate) no_lan: bool,
    #[command(flatten)]
    pub(crate) dht: DhtArguments,
    #[command(flatten)]
    pub(crate) joined: JoinedArguments,
}

/// Where nodes are found that no server knows.
#[derive(Debug, Clone, Args)]
pub(crate) struct DhtArguments {
    /// Says where this node is, and looks for others, in BitTorrent's Mainline DHT: strangers learn
    /// its address. 'get' looks there instead of asking a server.
    #[arg(long)]
    pub(crate) dht: bool,
    /// Joins the DHT by this node instead of those of the public network; may be repeated.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "SHOAL_DHT_BOOTSTRAP",
        value_delimiter = ','
    )]
    pub(crate) dht_bootstrap: Vec<String>,
}

impl DhtArguments {
    /// The DHT, where it is asked for.
    pub(crate) fn start(&self) -> Result<Option<Dht>, Failure> {
        if !self.dht {
            return Ok(None);
        }
        let started = Dht::start(&self.dht_bootstrap);
        started
            .map(Some)
            .map_err(|error| Failure::local(error.to_string()))
    }
}

/// `shoal relay`.
#[derive(Debug, Args)]
pub(crate) struct RelayOnlyArguments {
    /// Address to listen on: TCP to relay, UDP to tell nodes where they are seen.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8443")]
    pub(crate) addr: SocketAddr,
    #[command(flatten)]
    pub(crate) budget: super::RelayBudgetArguments,
    #[command(flatten)]
    pub(crate) metrics: super::MetricsArguments,
    /// Where its identity is kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// `shoal doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Folder whose disk is tried: 64 MB are written, synced and removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Does not ask the local network.
    #[arg(long, env = "SHOAL_NO_LAN", value_parser = FalseyValueParser::new())]
    pub(crate) no_lan: bool,
    #[command(flatten)]
    pub(crate) joined: JoinedArguments,
}

/// Longest time that an offer may wait: a mailbox is not kept longer.
const LIFETIME_MAX: Duration = Duration::from_secs(MAILBOX_MAX_S as u64);

/// A time as people write it: `90s`, `30m`, `1h`, `7d`.
fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number and s, m, h or d, for example 30m or 1h, at most 7d".to_owned();
    let unit_s = match text.bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let length = Duration::from_secs(count.saturating_mul(unit_s));
    (!length.is_zero() && length <= LIFETIME_MAX)
        .then_some(length)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!(lifetime("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(lifetime("7d"), Ok(LIFETIME_MAX));
        for wrong in [
            "",
            "1",
            "h",
            "8d",
            "0s",
            "1.5h",
            "é",
            "99999999999999999999d",
        ] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }
}
