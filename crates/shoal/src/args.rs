//! The command line: every command, its options, defaults and examples.
//!
//! Values are parsed into their own types here, so that no command meets a malformed one. An
//! option wins over its environment variable (`SHOAL_…`), which wins over what the state
//! directory remembers, which wins over the default.

mod people;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use shoal_core::schedule::Rule;
use shoal_server::metrics::MetricsAccess;
use shoal_server::relay::{RelayBudget, RelayChoice};
use shoal_wire::{JoinTicket, NodeId, NodeName, RelayTicket, SafePath};

pub(crate) use self::people::{
    DhtArguments, DoctorArguments, ReceiveArguments, RelayOnlyArguments, SendArguments,
};
use crate::exit::{Failure, codes_shown};
use crate::limits::{ChangeArguments, LimitArguments};
use crate::range::ByteRange;

/// Moves files between machines: fast, verified, encrypted, directly from peer to peer.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, max_term_width = 100, after_help = codes_and_logs())]
pub(crate) struct Arguments {
    /// Prints one JSON event per line instead of text (see docs/json.md).
    #[arg(long, global = true, env = "SHOAL_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What stands below the help of the whole program.
fn codes_and_logs() -> String {
    format!(
        "Exit codes: {}.\n\nLogs go to standard error and are chosen by RUST_LOG (for example RUST_LOG=info).",
        codes_shown()
    )
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a server: it tracks peers and their files, and hands out who has what.
    #[command(after_help = SERVER_EXAMPLES)]
    Server(ServerArguments),
    /// Runs a peer: it shares a folder and moves files directly to and from others.
    ///
    /// On a terminal it gives a prompt; without one it runs until SIGTERM.
    #[command(after_help = PEER_EXAMPLES)]
    Peer(PeerArguments),
    /// Sends files or folders to somebody who gets a code or a ticket from you.
    ///
    /// Prints both at once, before anything is read, and waits: receivers come and go, each goes on
    /// where it stopped, until you end it or it expires. Nothing is copied anywhere: receivers fetch
    /// from your files, directly where the networks allow it, verified and encrypted end to end.
    #[command(after_help = SEND_EXAMPLES)]
    Send(SendArguments),
    /// Receives what somebody sends: by a code, or by a ticket.
    ///
    /// Shows what there is and asks. An interrupted one goes on where it stopped when the same
    /// command runs again while the sender still waits. The code is asked for where none is given;
    /// it may also come from SHOAL_CODE or the first line of standard input, so that it stands in
    /// no list of processes.
    #[command(after_help = RECEIVE_EXAMPLES)]
    Receive(ReceiveArguments),
    /// Shows and keeps the people you know: next time 'shoal send --to NAME' needs no code.
    #[command(after_help = CONTACTS_EXAMPLES)]
    Contacts {
        /// State directory of this peer.
        #[arg(long, value_name = "DIR", env = "SHOAL_PEER_STATE_DIR", global = true)]
        state_dir: Option<PathBuf>,
        #[command(subcommand)]
        what: Option<ContactOrder>,
    },
    /// Lists what peers offer: all connected peers, or the files of one.
    #[command(after_help = "Examples:\n  shoal ls\n  shoal ls anna\n  shoal ls anna:photos/2024")]
    Ls {
        /// A peer, or a folder of a peer: PEER or PEER:PATH.
        place: Option<String>,
        #[command(flatten)]
        joined: JoinedArguments,
    },
    /// Searches the names of all announced files, letter case ignored.
    #[command(
        after_help = "Examples:\n  shoal search report\n  shoal search .iso --limit 20 --json"
    )]
    Search {
        /// Text that the path contains.
        text: String,
        /// Most results.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=4096))]
        limit: u32,
        #[command(flatten)]
        joined: JoinedArguments,
    },
    /// Fetches files or folders directly from the peers that have them.
    ///
    /// Each is verified to its BLAKE3 root. An interrupted fetch goes on where it stopped when the
    /// same command runs again. A file that is there already is never replaced without --overwrite.
    ///
    /// With --dht WHAT is the whole hash of a file, as b3sum prints it, and no server is asked: who
    /// offers it ('shoal send --dht --by-hash FILE') is found in the DHT.
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArguments),
    /// Shows the server, this node's identity and what it remembers.
    #[command(after_help = "Examples:\n  shoal status\n  shoal status --json")]
    Status {
        #[command(flatten)]
        joined: JoinedArguments,
    },
    /// Relays between peers that cannot reach each other, and does nothing else.
    ///
    /// For a machine that everybody reaches, apart from the server. It knows no peers and no files:
    /// servers that have its ticket let theirs in.
    #[command(after_help = RELAY_EXAMPLES)]
    Relay(RelayOnlyArguments),
    /// Looks for what keeps this machine from others, or makes it slow.
    ///
    /// Its addresses and NAT, the local network, the server and its relay, the clock, and how fast
    /// its disk and its processor are. Nothing but the server is asked.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArguments),
    /// Gives orders to the server that runs on this machine, over its local control socket.
    #[command(after_help = CTL_EXAMPLES)]
    Ctl {
        /// State directory of the server.
        #[arg(long, value_name = "DIR", env = "SHOAL_SERVER_STATE_DIR")]
        state_dir: Option<PathBuf>,
        #[command(subcommand)]
        order: Order,
    },
    /// Makes a self-signed certificate: server.key (mode 0600) and server.crt.
    #[command(
        after_help = "Examples:\n  shoal certs\n  shoal certs --dir /etc/shoal --name files.example.org"
    )]
    Certs {
        /// Where to write the two files.
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// A host name or IP address besides localhost, 127.0.0.1 and ::1; may be repeated.
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
        /// Replaces files that are already there.
        #[arg(long)]
        overwrite: bool,
    },
    /// Shows the main job: a server and three peers exchange real files on this machine.
    #[command(after_help = "Examples:\n  shoal demo\n  shoal demo --size-mb 512")]
    Demo {
        /// Size of the large generated file, in MiB.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=16_384))]
        size_mb: u64,
    },
    /// Prints the completion script of a shell.
    #[command(
        after_help = "Examples:\n  shoal completions bash > ~/.local/share/bash-completion/completions/shoal\n  shoal completions zsh > ~/.zfunc/_shoal"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the man page, or writes one page per command.
    #[command(
        after_help = "Examples:\n  shoal man | man -l -\n  shoal man --dir /usr/local/share/man/man1"
    )]
    Man {
        /// Writes shoal.1 and one page per command into this folder.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

const SERVER_EXAMPLES: &str = "Examples:
  shoal server                                   identity and certificate are made at first start
  shoal server --addr 0.0.0.0:8080 --files-dir /srv/files
  shoal server --key server.key --cert server.crt
  shoal server --up 20M --up 2M@08:00-18:00      20 MB/s, in office hours 2
  shoal ctl status                               asks the running server";

const PEER_EXAMPLES: &str = "Examples:
  shoal peer --join shoaljoin2…                  the line that the server printed; remembered
  shoal peer                                     the server from last time
  shoal peer --up 1.5M --down-per-peer 500k      sends 1.5 MB/s at most, takes 0.5 from each peer
  shoal peer --server-addr files.example.org:8080 --server-cert server.crt
  shoal peer --server-addr 127.0.0.1:8080 --no-verify-tls </dev/null   as a daemon";

const GET_EXAMPLES: &str = "Examples:
  shoal get report.pdf                           wherever it is
  shoal get anna:photos/2024 -o ~/pictures       a folder of one peer, as a tree
  shoal get anna:photos --include '*.jpg' --dry-run
  shoal get 3f9a0c12                             by the first digits of its BLAKE3 hash
  shoal get --dht HASH --name big.iso            by the whole hash, without a server
  shoal get data.bin --down 2M                   no faster than 2 MB/s
  shoal get anna:disk.img --range 0-999999       the first megabyte, verified like the whole
  shoal get anna:app.log --range -64k -o end.log the last 64,000 bytes
  shoal get data.bin --json | jq .               progress as JSON lines";

const SEND_EXAMPLES: &str = "Examples:
  shoal send report.pdf                          says a code like 7-tidal-anchor
  shoal send photos/ notes.txt --once            ends once one receiver has everything
  shoal send --once big.iso && rm big.iso        safe: ends with 0 only if it was received whole
  shoal send disk.img --ask --expires 1h         each receiver needs your yes
  shoal send report.pdf --to anna                somebody from 'shoal contacts'
  shoal send report.pdf --qr                     the ticket as a picture, too
  shoal send big.iso --dht --by-hash             for all who know its hash, without a server
  tar c src | shoal send - --name src.tar        what comes from standard input
  shoal send data/ --json | jq .                 what happens as JSON lines

While it waits on a terminal: 'revoke' ends code and ticket (who is in stays), 'quit' ends it.

Ends with 0 if as many receivers as were asked for have everything that is offered: --receivers, one with \
--once or --to, any otherwise. With fewer it ends with 13, or with 130 after Ctrl-C or SIGTERM.";

const CONTACTS_EXAMPLES: &str = "Examples:
  shoal contacts                                 who is kept, and who was met
  shoal contacts add anna                        whom you received from, or sent to
  shoal contacts accept anna --folder ~/inbox --max 10G
  shoal send report.pdf --to anna
  shoal contacts remove anna";

const RECEIVE_EXAMPLES: &str = "Examples:
  shoal receive                                  asks for the code
  shoal receive 7-tidal-anchor -o ~/Downloads
  SHOAL_CODE=7-tidal-anchor shoal receive -y     without a question
  shoal receive shoalsend1… --include '*.jpg'    by ticket; needs no server
  shoal receive 7-tidal-anchor -o - | tar x      one file, to standard output";

const RELAY_EXAMPLES: &str = "Examples:
  shoal relay --addr 0.0.0.0:443                 prints: shoal server --relay shoalrelay1…
  shoal relay --addr 0.0.0.0:443 --relay-budget 200G
  SHOAL_RELAY=shoalrelay1… shoal server          the ticket is secret: not in the process list";

const DOCTOR_EXAMPLES: &str = "Examples:
  shoal doctor
  shoal doctor --folder /mnt/big                 is the disk there fast enough?
  shoal doctor --join shoaljoin2…                with a server that is not remembered
  shoal doctor --json | jq 'select(.verdict != \"ok\")'";

const CTL_EXAMPLES: &str = "Examples:
  shoal ctl peers
  shoal ctl fetch anna reports/may.pdf           into the server's folder
  shoal ctl push manual.pdf anna                 from the server's folder
  shoal ctl transfer anna data.bin bob           anna to bob, directly
  shoal ctl limit                                shows the server's rate limits
  shoal ctl limit anna --up 2M --down unlimited  changes those of anna, at once";

const LIMIT_EXAMPLES: &str = "A RATE is decimal bytes per second (500k, 10M, 1.5MB/s), 'unlimited', or 'configured' for what \
the node was started with. A change counts for running transfers too, and until the node ends.

Examples:
  shoal ctl limit                                shows the server's
  shoal ctl limit --up 10M --up-per-peer 2M
  shoal ctl limit anna                           asks anna
  shoal ctl limit anna --down unlimited
  shoal ctl limit anna --up configured";

/// `shoal server`.
#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    /// Address to listen on.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "SHOAL_ADDR",
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) addr: SocketAddr,
    /// Private key of the certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Certificate to show, PEM; peers that pinned the server's key do not need it.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Folder with the server's own files.
    #[arg(
        long,
        value_name = "DIR",
        env = "SHOAL_FILES_DIR",
        default_value = "./server_files"
    )]
    pub(crate) files_dir: PathBuf,
    /// Where identity, catalog and control socket are kept.
    #[arg(long, value_name = "DIR", env = "SHOAL_SERVER_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Name to show; the host's name by default.
    #[arg(long)]
    pub(crate) name: Option<NodeName>,
    /// Offers hidden files too.
    #[arg(long)]
    pub(crate) hidden: bool,
    #[command(flatten)]
    pub(crate) relay: RelayArguments,
    #[command(flatten)]
    pub(crate) metrics: MetricsArguments,
    #[command(flatten)]
    pub(crate) limits: LimitArguments,
}

/// What relays between peers that cannot reach each other.
#[derive(Debug, Args)]
pub(crate) struct RelayArguments {
    /// Does not relay between peers that cannot reach each other.
    #[arg(long, conflicts_with_all = ["relay_budget", "relay_peer_budget"])]
    pub(crate) no_relay: bool,
    /// Has the relay of this ticket do that, which 'shoal relay' has printed.
    #[arg(
        long,
        value_name = "TICKET",
        env = "SHOAL_RELAY",
        hide_env_values = true,
        conflicts_with_all = ["no_relay", "relay_budget", "relay_peer_budget"]
    )]
    pub(crate) relay: Option<RelayTicket>,
    #[command(flatten)]
    pub(crate) budget: RelayBudgetArguments,
}

/// How much is relayed.
#[derive(Debug, Args)]
pub(crate) struct RelayBudgetArguments {
    /// The most that is relayed in a day (UTC): 500M, 20G.
    #[arg(long, value_name = "SIZE", value_parser = crate::range::bytes)]
    pub(crate) relay_budget: Option<u64>,
    /// The most of it for one peer and those to whom it gave a ticket.
    #[arg(long, value_name = "SIZE", value_parser = crate::range::bytes)]
    pub(crate) relay_peer_budget: Option<u64>,
}

impl RelayBudgetArguments {
    pub(crate) fn budget(&self) -> RelayBudget {
        RelayBudget {
            bytes_per_day: self.relay_budget,
            node_bytes_per_day: self.relay_peer_budget,
        }
    }
}

/// Who may see the figures under `/metrics`.
#[derive(Debug, Args)]
pub(crate) struct MetricsArguments {
    /// Tells the figures under https://ADDR:PORT/metrics to whoever sends the token in this file as
    /// 'Authorization: Bearer', from anywhere; without it, to this machine only.
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics_token_file: Option<PathBuf>,
}

impl MetricsArguments {
    pub(crate) fn access(&self) -> Result<MetricsAccess, Failure> {
        let Some(file) = &self.metrics_token_file else {
            return Ok(MetricsAccess::default());
        };
        let name = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::local(format!("cannot read {name}: {error}")))?;
        match text.trim() {
            token if token.len() < TOKEN_MIN => Err(Failure::local(format!(
                "the token in {name} is shorter than {TOKEN_MIN} characters; make one with \
                 'openssl rand -hex 32 > {name}'"
            ))),
            token => Ok(MetricsAccess::with_token(token)),
        }
    }
}

/// The shortest token that is taken, in bytes.
const TOKEN_MIN: usize = 16;

impl RelayArguments {
    pub(crate) fn choice(&self) -> RelayChoice {
        match &self.relay {
            Some(ticket) => RelayChoice::Apart(ticket.clone()),
            None if self.no_relay => RelayChoice::None,
            None => RelayChoice::Own(self.budget.budget()),
        }
    }
}

/// `shoal peer`.
#[derive(Debug, Args)]
pub(crate) struct PeerArguments {
    #[command(flatten)]
    pub(crate) joined: JoinedArguments,
    /// Folder to share and to receive into.
    #[arg(
        long,
        value_name = "DIR",
        env = "SHOAL_FILES_DIR",
        default_value = "./files"
    )]
    pub(crate) files_dir: PathBuf,
    /// UDP port for other peers; 0 takes any free one.
    #[arg(long, env = "SHOAL_PORT", default_value_t = 0)]
    pub(crate) port: u16,
    /// Name to show; remembered. The host's name at first.
    #[arg(long)]
    pub(crate) name: Option<NodeName>,
    /// Offers hidden files too.
    #[arg(long)]
    pub(crate) hidden: bool,
    #[command(flatten)]
    pub(crate) dht: DhtArguments,
    /// Refuses files that the server pushes.
    #[arg(long)]
    pub(crate) no_push: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArguments,
}

/// Which server, and how it is trusted: shared by the peer and the one-shot commands.
#[derive(Debug, Args)]
pub(crate) struct JoinedArguments {
    /// Joins by the ticket that the server printed, which pins its key.
    #[arg(long, value_name = "TICKET", conflicts_with_all = ["server_addr", "server_cert", "no_verify_tls"])]
    pub(crate) join: Option<JoinTicket>,
    /// Server to use instead of the remembered one.
    #[arg(long, value_name = "HOST:PORT", env = "SHOAL_SERVER_ADDR")]
    pub(crate) server_addr: Option<String>,
    /// Trusts this certificate (PEM) instead of the system's.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "no_verify_tls",
        requires = "server_addr"
    )]
    pub(crate) server_cert: Option<PathBuf>,
    /// Accepts any certificate: whoever sits in between can pretend to be the server.
    #[arg(long, requires = "server_addr")]
    pub(crate) no_verify_tls: bool,
    /// Where identity, name and server of this peer are kept.
    #[arg(long, value_name = "DIR", env = "SHOAL_PEER_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// `shoal get`.
#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// Names, paths, PEER:PATH or the first 6 or more digits of a hash.
    #[arg(required = true, value_name = "WHAT")]
    pub(crate) wanted: Vec<String>,
    /// Folder to put it in; with --range it may also name the file.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) output_dir: PathBuf,
    /// Fetches only these bytes of one file: START-END (both included, counted from 0), START- or
    /// -LAST, with k, M, G or T. They become a file of their own, NAME.START-END unless -o names one.
    #[arg(
        long,
        value_name = "RANGE",
        allow_hyphen_values = true,
        conflicts_with_all = ["include", "exclude", "links", "owner", "xattrs", "dry_run"]
    )]
    pub(crate) range: Option<ByteRange>,
    /// Replaces a different file that is already there.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Of folders, fetches only what fits: '*.jpg' by name, 'raw/**' by path; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Of folders, leaves out what fits; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Makes symbolic links as they are at the peer; they are never followed.
    #[arg(long)]
    pub(crate) links: bool,
    /// Keeps owner and group by number; only root can.
    #[arg(long)]
    pub(crate) owner: bool,
    /// Keeps extended attributes of users (user.*).
    #[arg(long)]
    pub(crate) xattrs: bool,
    /// Says what would be fetched, what is there already, what would be lost and how much space it
    /// takes, and fetches nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Receives no faster than this, in bytes per second: 500k, 10M, 1.5MB/s, unlimited.
    #[arg(
        long,
        value_name = "RATE[@HOURS]",
        env = "SHOAL_DOWN",
        value_delimiter = ','
    )]
    pub(crate) down: Vec<Rule>,
    /// Leaves it to the system when verified files reach the disk: a loss of power in the next
    /// seconds may take them.
    #[arg(long)]
    pub(crate) no_sync: bool,
    /// Has nothing compressed on its way, also where the network is slow.
    #[arg(long)]
    pub(crate) no_compress: bool,
    #[command(flatten)]
    pub(crate) dht: DhtArguments,
    /// With --dht, what the file is called here: its hash otherwise, because whoever has it could call
    /// it anything.
    #[arg(long, value_name = "NAME", requires = "dht")]
    pub(crate) name: Option<SafePath>,
    #[command(flatten)]
    pub(crate) joined: JoinedArguments,
}

/// What `shoal contacts` does.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ContactOrder {
    /// Keeps somebody whom you met, or whose node id you know.
    Add {
        /// What you call them; where no node id is given, the name that they went by.
        name: NodeName,
        /// Their node id, 64 hex digits.
        node: Option<NodeId>,
    },
    /// Forgets somebody.
    Remove {
        /// What you call them.
        name: NodeName,
    },
    /// Lets a running peer take what they send without asking.
    Accept {
        /// What you call them.
        name: NodeName,
        /// Where it goes; the shared folder by default.
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        /// The most that is taken so at once: 500M, 20G.
        #[arg(long, value_name = "SIZE", value_parser = crate::range::bytes)]
        max: Option<u64>,
    },
    /// Has a running peer ask again before it takes what they send.
    Ask {
        /// What you call them.
        name: NodeName,
    },
}

/// What `shoal ctl` orders.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Order {
    /// Lists the connected peers.
    Peers,
    /// Lists the files that the server knows, or those whose name contains TEXT.
    Files {
        /// Text that the path contains.
        text: Option<String>,
    },
    /// Asks a peer for its files, over its connection.
    List {
        /// Name or leading digits of its id.
        peer: String,
        /// Only this folder.
        path: Option<String>,
    },
    /// Asks a peer about one file: size, time, hash.
    Request {
        /// Name or leading digits of its id.
        peer: String,
        /// Path at the peer.
        file: String,
    },
    /// Fetches a file of a peer into the server's folder.
    Fetch {
        /// Name or leading digits of its id.
        peer: String,
        /// Path at the peer.
        file: String,
        /// Replaces a different file that is already there.
        #[arg(long)]
        overwrite: bool,
    },
    /// Gives a file of the server's folder to a peer.
    Push {
        /// Path in the server's folder.
        file: String,
        /// Name or leading digits of its id.
        peer: String,
        /// Replaces a different file that is already there.
        #[arg(long)]
        overwrite: bool,
    },
    /// Has one peer fetch a file from another, directly.
    Transfer {
        /// The peer that has it.
        from: String,
        /// Path at that peer.
        file: String,
        /// The peer that gets it.
        to: String,
        /// Replaces a different file that is already there.
        #[arg(long)]
        overwrite: bool,
    },
    /// Has a peer scan its folder again.
    Rescan {
        /// Name or leading digits of its id.
        peer: String,
    },
    /// Ends a peer's connection.
    Disconnect {
        /// Name or leading digits of its id.
        peer: String,
    },
    /// Shows the rate limits of the server or of a peer, and changes them at once.
    #[command(after_help = LIMIT_EXAMPLES)]
    Limit {
        /// Name or leading digits of its id; the server itself by default.
        peer: Option<String>,
        #[command(flatten)]
        changes: ChangeArguments,
    },
    /// Shows how the server is.
    Status,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples_or_codes() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|text| text.contains("Examples:")),
                "{}",
                command.get_name()
            );
        }
    }
}
