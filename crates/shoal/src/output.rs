//! What a command prints: text for a person, or versioned JSON lines for a program.
//!
//! The only place that writes to the standard streams. Results go to standard output, progress
//! and failures to standard error. Names from other machines arrive here as types that display
//! escaped. A reader that went away (a closed pipe) ends the output, not the work; whatever else
//! cannot be written is remembered, and the command fails for it in the end.

#![expect(
    clippy::print_stderr,
    reason = "this module is the program's mouth; everything else asks it to speak"
)]

pub(crate) mod progress;
mod text;

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

pub(crate) use text::{duration, path_kind, path_place, path_text, round_trip, size, table, when};

/// Version of the JSON events, raised when the meaning of a field changes.
const EVENTS_VERSION: u32 = 1;

/// Where output goes and in what form. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    json: bool,
    is_quiet: bool,
    bars: Arc<indicatif::MultiProgress>,
    /// Why something that was to be printed was not.
    unwritten: Arc<OnceLock<io::Error>>,
}

impl Output {
    /// JSON lines, or text.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            is_quiet: false,
            bars: Arc::default(),
            unwritten: Arc::default(),
        }
    }

    /// The same for failures and warnings; results, remarks and progress are left out.
    pub(crate) fn quiet(&self) -> Self {
        Self {
            is_quiet: true,
            ..self.clone()
        }
    }

    /// Whether events are JSON lines.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a moving progress display makes sense.
    pub(crate) fn shows_bars(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// A result: `text` for a person, `{"v":1,"event":name,…fields}` for a program.
    pub(crate) fn event(&self, name: &str, fields: impl Serialize, text: impl FnOnce() -> String) {
        if self.json {
            self.emit(name, &fields);
        } else if !self.is_quiet {
            let text = text();
            self.bars.suspend(|| self.line_out(&text));
        }
    }

    /// An event that only programs need.
    pub(crate) fn machine(&self, name: &str, fields: impl Serialize) {
        if self.json {
            self.emit(name, &fields);
        }
    }

    /// A remark for a person, on standard error.
    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            self.bars.suspend(|| eprintln!("{text}"));
        }
    }

    /// A warning that no form of output hides.
    pub(crate) fn warn(&self, text: &str) {
        if self.json {
            self.emit("warning", &json!({ "message": text }));
        }
        self.bars.suspend(|| eprintln!("shoal: warning: {text}"));
    }

    /// The end of a command that failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let fields = json!({ "code": failure.code() as u8, "message": failure.message() });
            self.emit("error", &fields);
        }
        self.bars
            .suspend(|| eprintln!("shoal: {}", failure.message()));
    }

    /// What was asked for with `--help` or `--version`.
    pub(crate) fn help(&self, help: &clap::Error) {
        self.print(|_| help.print());
    }

    /// Bytes as they are, for scripts and pages.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        self.print(|out| out.write_all(bytes));
    }

    /// The rest of a file as it is, to the last byte, and synced where standard output can be.
    /// Blocks for as long as its reader does.
    ///
    /// # Errors
    /// Also where the reader went away: it does not have the file.
    pub(crate) fn content(&self, file: &mut File) -> io::Result<()> {
        let mut out = io::stdout().lock();
        io::copy(file, &mut out)?;
        out.flush()?;
        let target = rustix::fs::fstat(&out)?;
        if rustix::fs::FileType::from_raw_mode(target.st_mode).is_file() {
            rustix::fs::fsync(&out)?;
        }
        Ok(())
    }

    /// Whether everything could be printed, a closed pipe aside.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn is_written(&self) -> Result<(), Failure> {
        match self.unwritten.get() {
            Some(error) => Err(unwritable(error)),
            None => Ok(()),
        }
    }

    fn emit(&self, name: &str, fields: &impl Serialize) {
        let mut event = json!({ "v": EVENTS_VERSION, "event": name });
        let fields = serde_json::to_value(fields).unwrap_or(Value::Null);
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        self.line_out(&event.to_string());
    }

    fn line_out(&self, text: &str) {
        self.print(|out| writeln!(out, "{text}"));
    }

    fn print(&self, write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) {
        let mut out = io::stdout().lock();
        if let Err(error) = write(&mut out).and_then(|()| out.flush())
            && error.kind() != ErrorKind::BrokenPipe
        {
            // The first reason is the one that is told.
            let _ = self.unwritten.set(error);
        }
    }
}

/// Standard output does not take what is to be written.
pub(crate) fn unwritable(error: &io::Error) -> Failure {
    let text = match error.kind() {
        ErrorKind::BrokenPipe => {
            "standard output was closed before the whole file was written: run it again to receive it"
                .to_owned()
        }
        _ => format!("cannot write to standard output: {error}"),
    };
    Failure::local(text)
}

/// What is logged where nobody says otherwise: our warnings. Those of the QUIC libraries tell of what
/// strangers and bad networks do, as often as they like; what matters of it is told by us.
const LOGGED: &str =
    "warn,noq=off,iroh=off,iroh_relay=off,netwatch=off,portmapper=off,n0_mainline=off,mdns_sd=off";

/// Sends logs to standard error, by `RUST_LOG`; warnings only where it is not set.
pub(crate) fn start_logging(output: &Output) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let bars = output.bars.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(move || AboveBars(bars.clone()));
    subscriber.init();
}

/// Writes log lines above moving bars.
struct AboveBars(Arc<indicatif::MultiProgress>);

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
