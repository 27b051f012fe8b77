//! What is answered to which request. Everything is read; nothing takes orders.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};

use crate::local_clock::LocalClock;

use super::api::{self, Teller};
use super::metrics;
use super::watched::Watched;

/// The page: one file, put together from three when the program is built.
const PAGE: &str = concat!(
    include_str!("../../assets/dashboard/head.html"),
    "<style nonce=\"{nonce}\">\n",
    include_str!("../../assets/dashboard/style.css"),
    "</style>\n",
    include_str!("../../assets/dashboard/body.html"),
    "<script nonce=\"{nonce}\">\n\"use strict\";\n",
    include_str!("../../assets/dashboard/model.js"),
    include_str!("../../assets/dashboard/chart.js"),
    include_str!("../../assets/dashboard/page.js"),
    "</script>\n</body>\n</html>\n",
);

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Who answers.
#[derive(Debug)]
pub(super) struct Answers {
    nodes: Arc<[Watched]>,
    teller: Teller,
}

impl Answers {
    /// # Errors
    /// The system gives no random numbers.
    pub(super) fn new(nodes: Arc<[Watched]>, clock: LocalClock) -> io::Result<Self> {
        // JavaScript keeps 53 bits.
        let number = getrandom::u64().map_err(io::Error::other)? >> 11;
        Ok(Self { nodes, teller: Teller { clock, started: clock.now(), number } })
    }

    /// `is_loopback`: the client is on this machine.
    pub(super) fn to<B: Body>(&self, request: &Request<B>, is_loopback: bool) -> Response<Full<Bytes>> {
        if is_loopback && !names_this_machine(request) {
            return plain(
                StatusCode::MISDIRECTED_REQUEST,
                "On this address ask for localhost, or for the address itself.\n",
            );
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response =
                plain(StatusCode::METHOD_NOT_ALLOWED, "Nothing can be changed here: GET and HEAD only.\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/" => page(),
            "/metrics" => self.metrics(request),
            "/api/nodes" => self.nodes(request),
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            _ => plain(StatusCode::NOT_FOUND, "There is a page at /, and there are metrics at /metrics.\n"),
        }
    }

    fn metrics<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let text = metrics::open_metrics(&self.nodes, self.teller.clock.now());
        let accepted = request.headers().get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
        // Whoever knows the newer format asks for it; Prometheus prefers it to all others but its own binary one.
        if accepted.contains("application/openmetrics-text") {
            answer(StatusCode::OK, OPEN_METRICS, text)
        } else {
            answer(StatusCode::OK, PROMETHEUS, metrics::prometheus(&text))
        }
    }

    fn nodes<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let after = match request.uri().query() {
            None => Some(i64::MIN),
            Some(query) => query.strip_prefix("after=").and_then(|number| number.parse().ok()),
        };
        match after {
            Some(after) => {
                let text = api::nodes(&self.nodes, &self.teller, after);
                answer(StatusCode::OK, "application/json", text)
            }
            None => plain(
                StatusCode::BAD_REQUEST,
                "The only parameter is after=MICROSECONDS, upto_us of the last answer.\n",
            ),
        }
    }
}

/// A page of a foreign site can have its own name point to this machine and read what is answered to it; so, on the loopback
/// interface, names of other machines are not answered.
fn names_this_machine<B>(request: &Request<B>) -> bool {
    let Some(host) = request.headers().get(HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// The page's own script and style are marked with a number that nobody can know beforehand; no others are run.
fn page() -> Response<Full<Bytes>> {
    let Ok(number) = getrandom::u64() else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "The system gives no random numbers.\n");
    };
    let nonce = format!("{number:016x}");
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = answer(StatusCode::OK, "text/html; charset=utf-8", PAGE.replace("{nonce}", &nonce));
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    answer(status, TEXT, text.to_owned())
}

fn answer(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers: [(HeaderName, &'static str); 4] = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
