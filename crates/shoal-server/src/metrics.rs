//! `/metrics`: figures in the OpenMetrics text format, for those who may see them.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::control::RelayStanding;
use crate::http::arrival;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Who may see the figures: hosts on the loopback interface, or whoever shows the token where there
/// is one.
#[derive(Clone, Default)]
pub struct MetricsAccess(Option<blake3::Hash>);

impl MetricsAccess {
    /// Whoever sends `Authorization: Bearer` and this token, from anywhere.
    pub fn with_token(token: &str) -> Self {
        Self(Some(blake3::hash(token.as_bytes())))
    }

    fn admits(&self, request: &Request) -> bool {
        let Some(token) = &self.0 else {
            return arrival(request).is_some_and(|arrival| arrival.from.is_loopback());
        };
        let shown = request.headers().get(AUTHORIZATION);
        let shown = shown.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        // Hashes compare in the same time wherever two differ.
        shown.is_some_and(|shown| blake3::hash(shown) == *token)
    }

    fn refusal(&self) -> Response {
        if self.0.is_none() {
            let text = "figures are told to this machine only; start with --metrics-token-file to \
                        have them elsewhere\n";
            return (StatusCode::FORBIDDEN, text).into_response();
        }
        let challenge: [(HeaderName, &str); 1] = [(WWW_AUTHENTICATE, "Bearer")];
        let text = "the token of --metrics-token-file is needed\n";
        (StatusCode::UNAUTHORIZED, challenge, text).into_response()
    }
}

impl std::fmt::Debug for MetricsAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "with a token"
        } else {
            "from loopback"
        })
    }
}

/// The route; `read` is asked each time.
pub(crate) fn routes<F, Reading>(access: MetricsAccess, read: F) -> Router
where
    F: Fn() -> Reading + Send + Sync + 'static,
    Reading: Future<Output = Option<Figures>> + Send,
{
    let read = Arc::new(read);
    let answer = move |request: Request| {
        let (read, access) = (Arc::clone(&read), access.clone());
        let admitted = access.admits(&request);
        async move {
            if !admitted {
                return access.refusal();
            }
            match read().await.and_then(|figures| figures.text()) {
                Some(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
                None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            }
        }
    };
    Router::new().route("/metrics", get(answer))
}

/// Figures of one moment. None has labels: what they add up over is told nowhere.
#[derive(Debug)]
pub(crate) struct Figures(Registry);

impl Figures {
    pub(crate) fn new() -> Self {
        Self(Registry::with_prefix("shoal"))
    }

    /// What goes up and down.
    pub(crate) fn gauge(mut self, name: &str, help: &str, value: u64) -> Self {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.register(name, help, ConstGauge::new(value));
        self
    }

    /// What only goes up, until the process ends; `_total` is put behind its name.
    pub(crate) fn counter(mut self, name: &str, help: &str, value: u64) -> Self {
        self.0.register(name, help, ConstCounter::new(value));
        self
    }

    /// Those of a relay in this process.
    pub(crate) fn relay(self, relay: &RelayStanding) -> Self {
        let (received, sent) = (relay.received_bytes, relay.sent_bytes);
        self.gauge(
            "relay_connections",
            "Nodes' connections to the relay",
            relay.connected,
        )
        .counter(
            "relay_admissions",
            "Connections that were let in",
            relay.admitted,
        )
        .counter(
            "relay_refusals",
            "Connections that were not let in",
            relay.refused,
        )
        .counter(
            "relay_received_bytes",
            "Bytes received to be passed on",
            received,
        )
        .counter("relay_sent_bytes", "Bytes passed on", sent)
        .counter(
            "relay_dropped_datagrams",
            "Datagrams dropped",
            relay.dropped,
        )
        .gauge(
            "relay_used_up",
            "Whether the day's budget is used up",
            relay.is_used_up.into(),
        )
    }

    fn text(&self) -> Option<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0).ok()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Arrival;

    fn asked(from: Option<&str>, shown: Option<&str>) -> Request {
        let mut request = Request::new(axum::body::Body::empty());
        if let Some(from) = from {
            let from = from.parse().unwrap();
            let arrival = Arrival::from_nowhere_else(from);
            request.extensions_mut().insert(Arc::new(arrival));
        }
        if let Some(shown) = shown {
            let shown = shown.parse().unwrap();
            request.headers_mut().insert(AUTHORIZATION, shown);
        }
        request
    }

    #[test]
    fn without_a_token_only_this_machine_is_told() {
        let access = MetricsAccess::default();
        for (from, is_told) in [
            (Some("127.0.0.1"), true),
            (Some("::1"), true),
            (Some("192.0.2.1"), false),
            (Some("2001:db8::1"), false),
            (None, false),
        ] {
            assert_eq!(access.admits(&asked(from, None)), is_told, "{from:?}");
        }
    }

    #[test]
    fn with_a_token_whoever_shows_it_is_told() {
        let access = MetricsAccess::with_token("a secret of some length");
        for (shown, is_told) in [
            (Some("Bearer a secret of some length"), true),
            (Some("Bearer a secret of some lengths"), false),
            (Some("a secret of some length"), false),
            (Some("Bearer "), false),
            (None, false),
        ] {
            for from in ["127.0.0.1", "192.0.2.1"] {
                let request = asked(Some(from), shown);
                assert_eq!(access.admits(&request), is_told, "{shown:?}");
            }
        }
    }

    #[test]
    fn figures_are_told_as_open_metrics() {
        let figures = Figures::new().gauge("peers", "Connected peers", 3).counter(
            "relay_sent_bytes",
            "Bytes passed on",
            7,
        );
        let expected = "# HELP shoal_peers Connected peers.\n# TYPE shoal_peers gauge\nshoal_peers 3\n\
                        # HELP shoal_relay_sent_bytes Bytes passed on.\n\
                        # TYPE shoal_relay_sent_bytes counter\nshoal_relay_sent_bytes_total 7\n# EOF\n";
        assert_eq!(figures.text().unwrap(), expected);
    }
}
