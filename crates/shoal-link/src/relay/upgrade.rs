//! From an HTTP request to the stream of a relay's connection (RFC 6455, section 4.2).

use std::fmt::Display;

use data_encoding::BASE64;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use hyper::upgrade::OnUpgrade;
use iroh_relay::http::{ProtocolVersion, RELAY_PROBE_PATH};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::https::Upgradable;

/// The version of WebSocket.
const WEBSOCKET_VERSION: &str = "13";
/// What a WebSocket key is hashed with (RFC 6455, section 1.3).
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request that is answered with the switch to the relay's protocol.
pub(super) struct Asked {
    pub(super) head: request::Parts,
    pub(super) version: ProtocolVersion,
    upgrade: OnUpgrade,
}

impl Asked {
    /// The stream beneath, once the answer is sent.
    pub(super) async fn stream(&mut self) -> Result<TlsStream<TcpStream>, String> {
        let upgraded = (&mut self.upgrade).await;
        let upgraded = upgraded.map_err(|error| error.to_string())?;
        let parts = upgraded
            .downcast::<Upgradable>()
            .map_err(|_| "not over TLS on TCP")?;
        if !parts.read_buf.is_empty() {
            return Err("something was sent before the answer".to_owned());
        }
        Ok(parts.io.into_inner())
    }
}

/// The answer, and the request where it is one to switch.
pub(super) fn answer<B>(mut request: Request<B>) -> (Response<String>, Option<Asked>) {
    if request.method() != Method::GET {
        return (text(StatusCode::METHOD_NOT_ALLOWED, "only GET"), None);
    }
    if request.uri().path() == RELAY_PROBE_PATH {
        return (text(StatusCode::OK, ""), None);
    }
    let (accept, version) = match read(request.headers()) {
        Ok(read) => read,
        Err(reason) => {
            let mut refused = text(StatusCode::BAD_REQUEST, reason);
            let we_speak = http::HeaderValue::from_static(WEBSOCKET_VERSION);
            refused
                .headers_mut()
                .insert(SEC_WEBSOCKET_VERSION, we_speak);
            return (refused, None);
        }
    };
    let mut answer = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = answer.headers_mut();
    headers.insert(UPGRADE, http::HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, version.to_header_value());
    headers.extend(
        accept
            .parse()
            .ok()
            .map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)),
    );
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, _body) = request.into_parts();
    let asked = Asked {
        head,
        version,
        upgrade,
    };
    (answer, Some(asked))
}

/// What shows that the request was understood, and the newest version that both speak.
fn read(headers: &HeaderMap) -> Result<(String, ProtocolVersion), String> {
    let header = |name: &HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| format!("{name} is missing"))
    };
    let wrong = |name: HeaderName| format!("unknown {name}");
    if !header(&UPGRADE)?.eq_ignore_ascii_case("websocket") {
        return Err(wrong(UPGRADE));
    }
    if header(&SEC_WEBSOCKET_VERSION)? != WEBSOCKET_VERSION {
        return Err(wrong(SEC_WEBSOCKET_VERSION));
    }
    let key = header(&SEC_WEBSOCKET_KEY)?;
    let hash = digest(
        &SHA1_FOR_LEGACY_USE_ONLY,
        [key, WEBSOCKET_GUID].concat().as_bytes(),
    );
    let version = header(&SEC_WEBSOCKET_PROTOCOL)?
        .split(',')
        .filter_map(|version| ProtocolVersion::match_from_str(version.trim()))
        .max()
        .ok_or_else(|| wrong(SEC_WEBSOCKET_PROTOCOL))?;
    Ok((BASE64.encode(hash.as_ref()), version))
}

fn text(status: StatusCode, text: impl Display) -> Response<String> {
    let mut answer = Response::new(text.to_string());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/relay");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const WELL: [(&str, &str); 4] = [
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        // The example of RFC 6455, section 1.3.
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "something-else, iroh-relay-v2"),
    ];

    #[test]
    fn a_well_formed_request_is_switched() {
        let (answer, asked) = answer(asked(&WELL));
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(
            answer.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(answer.headers()["sec-websocket-protocol"], "iroh-relay-v2");
        assert!(asked.is_some());
    }

    #[test]
    fn whatever_is_missing_or_unknown_is_refused() {
        for missing in 0..WELL.len() {
            let mut headers = WELL.to_vec();
            headers.remove(missing);
            let (answer, switched) = answer(asked(&headers));
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{missing}");
            assert!(switched.is_none());
        }
        for (at, other) in [(0, "h2c"), (1, "12"), (3, "iroh-relay-v9"), (2, "\u{e9}")] {
            let mut headers = WELL.to_vec();
            headers[at].1 = other;
            let (answer, switched) = answer(asked(&headers));
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{at}");
            assert!(switched.is_none());
        }
    }

    #[test]
    fn a_probe_is_answered() {
        let (answer, switched) = answer(Request::get("/ping").body(()).unwrap());
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(switched.is_none());
    }
}
