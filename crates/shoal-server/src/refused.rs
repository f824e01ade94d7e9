//! How a request is turned down: one number, one sentence, for the network and for the operator.

use std::fmt::Display;

use shoal_node::requests::RequestError;
use shoal_store::database::Fault;
use shoal_wire::message::ErrorReport;
use shoal_wire::{Refusal, ShortText};

use crate::catalog::{CatalogError, RETRY_AFTER};
use crate::control::socket::Failure;

/// A refusal with what it is about.
pub(crate) fn refused(refusal: Refusal, detail: impl Display) -> ErrorReport {
    ErrorReport {
        refusal,
        detail: ShortText::new(&detail.to_string()),
        retry_after_ms: None,
    }
}

/// The catalog failed: the log says how, the other side only that. An outage has its own lines in
/// the log, and passes.
pub(crate) fn catalog_failed(error: CatalogError) -> ErrorReport {
    match error {
        CatalogError::Unwritable(outage) => {
            let refusal = match outage.fault {
                Fault::Full => Refusal::NoSpace,
                Fault::Damaged | Fault::ReadOnly | Fault::Other => Refusal::WriteFailed,
            };
            ErrorReport {
                retry_after_ms: u32::try_from(RETRY_AFTER.as_millis()).ok(),
                ..refused(refusal, outage.told_to_others())
            }
        }
        CatalogError::Database(error) => {
            tracing::error!(%error, "a request could not be answered");
            refused(Refusal::Internal, "")
        }
    }
}

impl From<ErrorReport> for Failure {
    fn from(report: ErrorReport) -> Self {
        let refusal = report.refusal;
        Self {
            refusal,
            message: RequestError::Refused(report).to_string(),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self {
            refusal: error.refusal(),
            message: error.to_string(),
        }
    }
}
