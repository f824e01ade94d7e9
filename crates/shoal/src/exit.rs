//! How a command ends: stable exit codes and the one sentence that explains them.
//!
//! Every error of the crates below becomes a [`Failure`] here or in the command that met it;
//! `docs/exit-codes.md` lists the codes for users. A code's meaning never changes.

use std::process::ExitCode;

use shoal_link::{BindError, DialError};
use shoal_node::fetch::FetchError;
use shoal_node::plan::PlanError;
use shoal_node::requests::RequestError;
use shoal_node::session::ConnectError;
use shoal_node::share::ShareError;
use shoal_node::state::StateError;
use shoal_server::control::client::ControlError;
use shoal_server::server::StartError;
use shoal_store::database::Fault;
use shoal_store::index::IndexError;
use shoal_wire::Refusal;

use crate::output::Output;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $meaning:literal;)*) => {
        /// The exit codes of commands that are not simply done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        /// Every exit code in order, with its meaning as help and documentation give it.
        const MEANINGS: &[(u8, &str)] = &[(0, "done"), $(($number, $meaning),)*];
    };
}

codes! {
    /// Anything without a code of its own.
    Other = 1, "another failure";
    /// The command line is wrong.
    Usage = 2, "the command line is wrong";
    /// No such file or peer.
    NotFound = 3, "not found";
    /// The name fits several files.
    Ambiguous = 4, "ambiguous";
    /// The server cannot be reached.
    NoConnection = 5, "no connection";
    /// A certificate, key or identity is not what it should be.
    Trust = 6, "trust";
    /// The other side refused.
    Refused = 7, "refused";
    /// A transfer failed; what arrived is kept.
    TransferFailed = 8, "the transfer failed";
    /// A different file is already there.
    TargetExists = 9, "a different file is already there";
    /// Not enough space.
    NoSpace = 10, "no space";
    /// A local folder, permission, port or state directory is in the way.
    Local = 11, "something local is in the way";
    /// Every source that is left sent nothing for too long; what arrived is kept.
    Stalled = 12, "no progress";
    /// An offer ended before as many receivers had everything as was asked for.
    TooFewReceived = 13, "fewer received everything than was asked for";
    /// Everything is here but what the sender left out.
    SomeLeftOut = 14, "the sender left something out";
    /// Interrupted; the same command goes on where it stopped.
    Interrupted = 130, "interrupted";
}

/// The exit codes as help shows them.
pub(crate) fn codes_shown() -> String {
    let shown = |(number, meaning): &(u8, &str)| format!("{number} {meaning}");
    let shown: Vec<_> = MEANINGS.iter().map(shown).collect();
    shown.join(", ")
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// What to do about a server whose certificate is not trusted.
const HOW_TO_TRUST: &str = ". Join with 'shoal peer --join TICKET', the line that 'shoal server' prints, or name its \
certificate with --server-cert FILE";

/// Why a command ends with something other than success.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    message: String,
    refusal: Refusal,
}

impl Failure {
    /// A failure with its code and its sentence.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            refusal: refusal_of(code),
        }
    }

    /// The same, with a closer reason for another node than its code gives.
    #[must_use]
    pub(crate) fn told_as(self, refusal: Refusal) -> Self {
        Self { refusal, ..self }
    }

    /// Something on this machine is in the way.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::new(Code::Local, message)
    }

    /// The state folder is in the way, or its disk has no room.
    fn of_state(error: impl std::fmt::Display, is_full: bool) -> Self {
        let code = if is_full { Code::NoSpace } else { Code::Local };
        Self::new(code, error.to_string())
    }

    /// The code.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// The sentence.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The number that tells another node of it.
    pub(crate) fn refusal(&self) -> Refusal {
        self.refusal
    }

    /// Tells the user and gives the process's exit code.
    pub(crate) fn report(self, output: &Output) -> ExitCode {
        output.failure(&self);
        self.code.into()
    }
}

/// What another node is told where only the exit code is known.
fn refusal_of(code: Code) -> Refusal {
    match code {
        Code::Interrupted => Refusal::Cancelled,
        Code::Usage | Code::NotFound | Code::Ambiguous | Code::Refused => Refusal::Declined,
        Code::TargetExists => Refusal::TargetExists,
        Code::NoSpace => Refusal::NoSpace,
        Code::Local => Refusal::WriteFailed,
        Code::Stalled => Refusal::TimedOut,
        Code::Other
        | Code::NoConnection
        | Code::Trust
        | Code::TransferFailed
        | Code::TooFewReceived
        | Code::SomeLeftOut => Refusal::Internal,
    }
}

/// The exit code that a refusal leads to.
pub(crate) fn code_of(refusal: Refusal) -> Code {
    match refusal {
        Refusal::NotFound | Refusal::PeerNotConnected => Code::NotFound,
        Refusal::Ambiguous => Code::Ambiguous,
        Refusal::Denied
        | Refusal::NotGranted
        | Refusal::GrantExpired
        | Refusal::QuotaExceeded
        | Refusal::WrongCode
        | Refusal::CodeBurnt
        | Refusal::Declined
        | Refusal::OfferOver => Code::Refused,
        Refusal::IdentityInUse | Refusal::WrongIdentity => Code::Trust,
        Refusal::TargetExists => Code::TargetExists,
        Refusal::NoSpace => Code::NoSpace,
        Refusal::ShuttingDown | Refusal::VersionUnsupported => Code::NoConnection,
        Refusal::Cancelled => Code::Interrupted,
        Refusal::SourceChanged
        | Refusal::SourceUnreadable
        | Refusal::BadChunk
        | Refusal::Unreachable
        | Refusal::WriteFailed
        | Refusal::TimedOut => Code::TransferFailed,
        _ => Code::Other,
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        match &error {
            StateError::Io { source, .. } if Fault::from(source) == Fault::Full => {
                let text = format!("{error}: make room on its disk and run it again");
                Self::of_state(text, true)
            }
            _ => Self::of_state(error, false),
        }
    }
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        let is_full = error.fault() == Fault::Full;
        Self::of_state(error, is_full)
    }
}

impl From<ShareError> for Failure {
    fn from(error: ShareError) -> Self {
        Self::local(error.to_string())
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::local(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let is_full = error.is_no_room();
        Self::of_state(error, is_full)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = match error {
            ControlError::NotRunning { .. } => Code::NoConnection,
            ControlError::Denied { .. } => Code::Local,
            _ => Code::Other,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let code = match &error {
            ConnectError::Resolve { .. } => Code::Usage,
            ConnectError::Unknown { .. } => Code::NoConnection,
            ConnectError::CertificateFile { .. } => Code::Local,
            ConnectError::Unproven { .. } => Code::Trust,
            ConnectError::Refused { source, .. } => match code_of(source.refusal()) {
                Code::TransferFailed | Code::Other => Code::NoConnection,
                code => code,
            },
            ConnectError::Dial { source, .. } => match source {
                DialError::CertificateExpired
                | DialError::WrongIdentity { .. }
                | DialError::Untrusted { .. } => Code::Trust,
                DialError::Refused(refusal) if code_of(*refusal) == Code::Trust => Code::Trust,
                _ => Code::NoConnection,
            },
        };
        let mut message = error.to_string();
        if let ConnectError::Dial {
            source: DialError::Untrusted { .. },
            ..
        } = &error
        {
            message.push_str(HOW_TO_TRUST);
        }
        Self::new(code, message)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let code = match &error {
            RequestError::Refused(report) => code_of(report.refusal),
            _ => Code::NoConnection,
        };
        Self::new(code, error.to_string())
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let code = match error {
            PlanError::Request(error) => return error.into(),
            PlanError::Malformed { .. } => Code::Usage,
            PlanError::NotFound { .. } => Code::NotFound,
            PlanError::Ambiguous { .. } => Code::Ambiguous,
            PlanError::Collision { .. } => Code::Other,
        };
        Self::new(code, error.to_string())
    }
}

impl From<&FetchError> for Failure {
    fn from(error: &FetchError) -> Self {
        let code = match error {
            FetchError::NoSource => Code::NotFound,
            FetchError::Collision { .. } => Code::Other,
            FetchError::Stalled { .. } => Code::Stalled,
            FetchError::Partial(error) if is_of_folder(error) => Code::Local,
            other => match code_of(other.refusal()) {
                Code::Other => Code::TransferFailed,
                code => code,
            },
        };
        Self::new(code, error.to_string()).told_as(error.refusal())
    }
}

/// Whether a partial is refused by the folder and not by the transfer.
fn is_of_folder(error: &shoal_store::partial::PartialError) -> bool {
    use shoal_store::partial::PartialError;
    matches!(
        error,
        PartialError::Denied { .. }
            | PartialError::FolderGone { .. }
            | PartialError::Blocked { .. }
            | PartialError::Private { .. }
            | PartialError::Busy
            | PartialError::TooManyOpen
            | PartialError::ReservedName
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../../docs/exit-codes.md");

    #[test]
    fn the_documentation_lists_every_code_with_its_meaning_and_no_other() {
        let rows = DOCUMENTED.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let number: u8 = cells.next()?.parse().ok()?;
            Some((number, cells.next()?))
        });
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows, MEANINGS);
    }
}
