//! `shoal doctor`: looks for what keeps this machine from others, or makes it slow.
//!
//! Each check says what it found in one line, with a verdict, and what to do where it is not good.

mod machine;
mod nat;
mod network;

use serde_json::{Value, json};
use shoal_link::Protocol;
use shoal_node::state::StateDir;

use crate::args::DoctorArguments;
use crate::connect::{open_endpoint, server_of};
use crate::exit::{Code, Failure};
use crate::output::Output;

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// It works, and something about it costs.
    Warning,
    Failed,
    /// It cannot be told.
    Unknown,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    const fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok  ",
            Self::Warning => "!   ",
            Self::Failed => "FAIL",
            Self::Unknown => "?   ",
        }
    }
}

/// What was looked at, and found.
struct Finding {
    what: &'static str,
    verdict: Verdict,
    /// In words, with what to do.
    text: String,
    /// In figures.
    fields: Value,
}

impl Finding {
    fn new(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self {
            what,
            verdict,
            text: text.into(),
            fields: json!({}),
        }
    }

    fn with(mut self, fields: Value) -> Self {
        self.fields = fields;
        self
    }
}

/// Tells findings as they come, and remembers the worst.
struct Telling<'a> {
    output: &'a Output,
    failed: usize,
}

impl Telling<'_> {
    fn tell(&mut self, finding: &Finding) {
        self.failed += usize::from(finding.verdict == Verdict::Failed);
        let mut fields = json!({
            "what": finding.what,
            "verdict": finding.verdict.name(),
            "text": finding.text,
        });
        if let (Value::Object(fields), Value::Object(more)) = (&mut fields, &finding.fields) {
            fields.extend(more.clone());
        }
        self.output.event("check", fields, || {
            format!(
                "{} {:<10} {}",
                finding.verdict.mark(),
                finding.what,
                finding.text
            )
        });
    }
}

/// Runs all checks; fails where one of them did.
pub(super) async fn run(arguments: DoctorArguments, output: &Output) -> Result<(), Failure> {
    let state = StateDir::open(arguments.joined.state_dir.as_deref(), "peer")?;
    let settings = state.settings()?;
    let mut telling = Telling { output, failed: 0 };
    let endpoint = open_endpoint(&state, 0, vec![Protocol::Transfer]).await?;
    telling.tell(&network::addresses(&endpoint));
    telling.tell(&network::ipv6());
    telling.tell(&network::neighbours(&endpoint, arguments.no_lan).await);
    let is_relayed = match server_of(&arguments.joined, &settings) {
        Ok(server) => {
            let name = crate::connect::node_name(None, &settings);
            let findings = network::by_server(&endpoint, server, name).await;
            findings.iter().for_each(|finding| telling.tell(finding));
            findings
                .iter()
                .any(|finding| finding.fields["udp_blocked"] == true)
        }
        Err(_) => {
            telling.tell(&Finding::new(
                "server",
                Verdict::Unknown,
                "none is known: NAT, clock and relay cannot be told without one (--join TICKET)",
            ));
            false
        }
    };
    let hashing = machine::hashing().await;
    let disk = machine::disk(&arguments.folder).await;
    for speed in [&hashing, &disk] {
        telling.tell(&speed.finding);
    }
    telling.tell(&machine::slowest(&hashing, &disk, is_relayed));
    endpoint.close(shoal_wire::Refusal::Done).await;
    match telling.failed {
        0 => Ok(()),
        failed => Err(Failure::new(
            Code::Other,
            format!("{failed} of the checks failed: see above what to do"),
        )),
    }
}
