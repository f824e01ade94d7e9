//! The prompt of a peer: one command per line, the same things that the one-shot commands do.
//!
//! Reading a line blocks a thread of its own; what a line asks for runs here, so that Ctrl-C then
//! stops the work (resumably) and not the peer. Events of the peer are printed above the line that
//! is being typed.

mod complete;

use std::path::Path;

use rustyline::Editor;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use serde_json::json;
use shoal_node::fetch::TreeOptions;
use shoal_node::peer::{Event, Peer};
use shoal_node::plan::{Asked, PlanError};
use shoal_node::session::Session;
use shoal_node::throttle::sentence;
use shoal_node::transfers::{Direction, Snapshot, State};
use shoal_wire::limits::PAGE_MAX_ENTRIES;
use shoal_wire::message::LimitsInForce;
use tokio::sync::broadcast::Receiver;

use self::complete::{Completion, Names};
use crate::commands::get::Getting;
use crate::commands::peer::inbox::Inbox;
use crate::commands::{list, peer, status};
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::limits::changes_of;
use crate::output::{Output, duration, path_place, round_trip, size, table};

/// Lines that are remembered from one run to the next.
const HISTORY_LINES: usize = 1000;
/// Hits of one `files TEXT`.
const HITS_MAX: u32 = 200;

const HELP: &str = "  scan                  looks at the shared folder again
  announce              the same, and says what the server knows of it
  list                  lists what this peer shares
  list PEER[:PATH]      lists what another peer shares ('server' for the server's own)
  files [TEXT]          searches the names of all announced files
  request WHAT          shows who has it, without fetching
  get WHAT…             fetches into the shared folder; Ctrl-C stops it, again 'get' goes on
  take CONTACT          receives what somebody you know offers
  transfers             shows what moves and what has moved
  limit                 shows the rate limits of this peer
  limit up 2M           changes one: up, down, up-per-peer, down-per-peer; 'unlimited' lifts it
  peers                 lists the connected peers
  status                shows this peer and its server
  quit                  ends the peer (also Ctrl-D)
WHAT is a name, a path, PEER:PATH or the first 6 or more digits of a hash.";

type LineEditor = Editor<Completion, DefaultHistory>;

/// Reads and carries out commands until `quit`, Ctrl-D or SIGTERM.
pub(crate) async fn run(
    (peer, inbox): (&Peer, &Inbox),
    events: Receiver<Event>,
    history: &Path,
    (interrupt, output): (&mut Interrupt, &Output),
) -> Result<(), Failure> {
    let failed = |error: ReadlineError| Failure::local(format!("no prompt here: {error}"));
    let names = Names::default();
    let config = rustyline::Config::builder()
        .max_history_size(HISTORY_LINES)
        .and_then(|config| config.history_ignore_dups(true))
        .map_err(failed)?
        .auto_add_history(true)
        .build();
    let mut editor: LineEditor = Editor::with_config(config).map_err(failed)?;
    editor.set_helper(Some(Completion::new(names.clone())));
    // A first run has no history yet.
    let _ = editor.load_history(history);
    let printer = editor.create_external_printer().map_err(failed)?;
    let telling = tokio::spawn(tell(events, printer));
    let prompt = Prompt {
        peer,
        inbox,
        names,
        output,
    };
    loop {
        prompt.learn_names().await;
        let (returned, line) = read_line(editor).await?;
        editor = returned;
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                output.note("(Ctrl-D or 'quit' ends the peer)");
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        };
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let Some((verb, rest)) = words.split_first() else {
            continue;
        };
        if matches!(verb.as_str(), "quit" | "exit") {
            break;
        }
        if let Err(failure) = prompt.carry_out(verb, rest, interrupt).await {
            output.failure(&failure);
        }
    }
    telling.abort();
    // A history that cannot be kept is no reason to fail.
    let _ = editor.save_history(history);
    Ok(())
}

async fn read_line(
    mut editor: LineEditor,
) -> Result<(LineEditor, rustyline::Result<String>), Failure> {
    tokio::task::spawn_blocking(move || {
        let line = editor.readline("shoal> ");
        (editor, line)
    })
    .await
    .map_err(|error| Failure::local(format!("the prompt failed: {error}")))
}

/// Prints what happens to the peer above the line being typed.
async fn tell(mut events: Receiver<Event>, mut printer: impl rustyline::ExternalPrinter) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match events.recv().await {
            Ok(event) => {
                // A terminal that is gone ends the prompt by itself.
                let _ = printer.print(format!("{}\n", peer::sentence(&event)));
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

struct Prompt<'a> {
    peer: &'a Peer,
    inbox: &'a Inbox,
    names: Names,
    output: &'a Output,
}

impl Prompt<'_> {
    async fn carry_out(
        &self,
        verb: &str,
        rest: &[String],
        interrupt: &mut Interrupt,
    ) -> Result<(), Failure> {
        match (verb, rest) {
            ("help", _) => self.print(HELP.to_owned()),
            ("scan", _) => self.scan().await?,
            ("announce", _) => {
                self.scan().await?;
                let announced = self.peer.status().announced_files;
                self.print(format!("{announced} file(s) are announced"));
            }
            ("list", []) => self.list_own(),
            ("list", [place]) => list::show_place(&self.session()?, place, self.output).await?,
            ("files", words) => {
                let text = words.join(" ");
                list::show_hits(&self.session()?, &text, HITS_MAX, self.output).await?;
            }
            ("request", [_, ..]) => self.request(&rest.join(" ")).await?,
            ("get", [_, ..]) => self.fetch(rest, interrupt).await?,
            ("take", [_, ..]) => self.take(&rest.join(" "))?,
            ("transfers", _) => self.show_transfers(),
            ("limit", words) => self.limit(words)?,
            ("peers", _) => list::show_peers(&self.session()?, self.output).await?,
            ("status", _) => self.show_status().await?,
            _ => {
                let text = format!("'{verb}' is not understood like this: type 'help'");
                return Err(Failure::new(Code::Usage, text));
            }
        }
        Ok(())
    }

    fn print(&self, text: String) {
        self.output.event("text", json!({}), || text);
    }

    fn take(&self, name: &str) -> Result<(), Failure> {
        let name = name.parse().map_err(|error: shoal_wire::text::NameError| {
            Failure::new(Code::Usage, error.to_string())
        })?;
        self.inbox.take(&name)
    }

    fn session(&self) -> Result<Session, Failure> {
        self.peer.session().ok_or_else(|| {
            let text = "not connected to the server at the moment: it is tried again by itself";
            Failure::new(Code::NoConnection, text)
        })
    }

    async fn scan(&self) -> Result<(), Failure> {
        let found = self.peer.share().rescan().await?;
        self.print(format!(
            "{} file(s): {} new or changed, {} gone",
            found.files, found.changed, found.removed
        ));
        Ok(())
    }

    fn list_own(&self) {
        let mut after = None;
        loop {
            let (files, more) = self
                .peer
                .share()
                .page(None, after.as_ref(), PAGE_MAX_ENTRIES);
            list::show_entries(&files, self.output);
            match files.last() {
                Some(last) if more => after = Some(last.path.clone()),
                Some(_) => return,
                None => return self.print("nothing is shared yet".to_owned()),
            }
        }
    }

    async fn request(&self, typed: &str) -> Result<(), Failure> {
        let session = self.session()?;
        let asked = Asked::parse(typed)?;
        let located = session.locate(asked.peer, asked.wanted, None).await;
        let located = located.map_err(PlanError::from)?;
        let rows: Vec<_> = located
            .files
            .iter()
            .map(|provider| {
                let entry = &provider.entry;
                let hash = entry
                    .hash
                    .map_or("(not hashed)".to_owned(), |hash| hash.to_string());
                vec![
                    format!("{}:{}", provider.name, entry.path),
                    size(entry.size.bytes()),
                    hash,
                ]
            })
            .collect();
        self.print(table(&rows));
        Ok(())
    }

    async fn fetch(&self, wanted: &[String], interrupt: &mut Interrupt) -> Result<(), Failure> {
        let session = self.session()?;
        let getting = Getting {
            fetcher: self.peer.fetcher(),
            transfers: self.peer.transfers(),
            folder: self.peer.share().folder().clone(),
            options: TreeOptions::default(),
            slice: None,
        };
        getting
            .run((&session, wanted), interrupt, self.output)
            .await
    }

    fn show_transfers(&self) {
        let rows: Vec<_> = self
            .peer
            .transfers()
            .list()
            .iter()
            .map(transfer_row)
            .collect();
        self.print(if rows.is_empty() {
            "nothing has moved yet".to_owned()
        } else {
            table(&rows)
        });
        let limits = self.peer.transfers().throttle().in_force();
        if limits != LimitsInForce::default() {
            self.print(format!("limits      {}", sentence(&limits)));
        }
    }

    fn limit(&self, words: &[String]) -> Result<(), Failure> {
        let throttle = self.peer.transfers().throttle();
        let limits = throttle.change(&changes_of(words)?);
        self.print(format!("limits      {}", sentence(&limits)));
        Ok(())
    }

    async fn show_status(&self) -> Result<(), Failure> {
        let (totals, known) = (self.peer.share().totals(), self.peer.status());
        self.print(format!(
            "shares      {} file(s), {}, {} hashed, {} announced\nin          {}\nlimits      {}",
            totals.files,
            size(totals.total_bytes),
            totals.hashed,
            known.announced_files,
            self.peer.share().folder().path().display(),
            sentence(&self.peer.transfers().throttle().in_force()),
        ));
        status::show_server(&self.session()?, self.output).await
    }

    /// Names that Tab may complete next time: peers, and files of this peer and of the server.
    async fn learn_names(&self) {
        let Some(session) = self.peer.session() else {
            return;
        };
        let asked = tokio::time::timeout(complete::LEARN_DEADLINE, session.peers()).await;
        let peers = asked.ok().and_then(Result::ok).unwrap_or_default();
        let (own, _) = self.peer.share().page(None, None, complete::FILES_MAX);
        self.names.learn(
            peers.iter().map(|peer| format!("{}:", peer.name)),
            own.iter().map(|entry| entry.path.to_string()),
        );
    }
}

fn transfer_row(transfer: &Snapshot) -> Vec<String> {
    let peers: Vec<String> = transfer.peers.iter().map(ToString::to_string).collect();
    let way = match transfer.direction {
        Direction::Receiving => format!("from {}", peers.join(", ")),
        Direction::Sending => format!("to {}", peers.join(", ")),
    };
    let state = match transfer.state {
        State::Active => {
            let percent = transfer.verified_bytes * 100 / transfer.total_bytes.max(1);
            let durable = transfer.durable_bytes * 100 / transfer.total_bytes.max(1);
            let speed = size(transfer.bytes_per_second);
            let left = transfer.left().map_or("unknown time".to_owned(), duration);
            format!("{percent} %, {durable} % durable, {speed}/s, {left} left")
        }
        State::Done(_) | State::Complete => "done".to_owned(),
        State::Failed(refusal) => refusal.text().to_owned(),
    };
    vec![
        transfer.path.to_string(),
        size(transfer.total_bytes),
        way,
        state,
        duration(transfer.elapsed),
        transfer.route.map_or_else(String::new, |path| {
            format!("{}, {}", path_place(&path), round_trip(path.rtt))
        }),
    ]
}
