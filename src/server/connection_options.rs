//! What a listener asks of its clients.

use std::{sync::Arc, time::Duration};

use hyper::{
    Request,
    header::{HeaderName, HeaderValue},
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::{config::Settings, telemetry::Metrics};

use super::problem::Problem;

/// Connections to the operations listener: more than anybody needs.
const OPERATIONS_CONNECTIONS: u64 = 64;
/// Refused clients that are given time to hear of it; more are closed without a word.
const LINGERING: u64 = 256;
/// Where few clients are served, the connections beside theirs are bounded by such a part of them.
const PART: u64 = 8;
/// Headers of HTTP/1 for which hyper needs no memory of its own.
const USUAL_HEADERS: usize = 100;
/// What a header counts for beside its name and value: `: ` and the end of its line.
const ENTRY: usize = 4;
/// Requests of one HTTP/2 client at the same time; many may be receives that wait.
const MAX_STREAMS: u32 = 250;
/// Bytes that an HTTP/2 client may send ahead, over all of its requests.
const WINDOW: u32 = 256 << 10;
/// Bytes that wait for an HTTP/2 client, by request.
const SEND_BUFFER: usize = 128 << 10;

/// The most connections that the listeners have open for so many clients: theirs, those of clients that
/// are refused, and those for operations.
pub fn most_descriptors(clients: u64, operations: bool) -> u64 {
    let of = |connections| connections + lingering(connections);
    of(clients) + if operations { of(for_operations(clients)) } else { 0 }
}

/// Connections for operations beside so many clients.
fn for_operations(clients: u64) -> u64 {
    OPERATIONS_CONNECTIONS.min((clients / PART).max(4))
}

/// Refused clients that are given time to hear of it.
fn lingering(connections: u64) -> u64 {
    LINGERING.min((connections / PART).max(2))
}

/// How large the head of a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    max_bytes: u32,
    max_headers: usize,
}

impl HeadLimits {
    /// Whether the head of a request is larger.
    pub(super) fn is_exceeded<B>(&self, request: &Request<B>) -> bool {
        let (url, headers) = (request.uri(), request.headers());
        let path = url.path_and_query().map_or(0, |path| path.as_str().len());
        let authority = url.authority().map_or(0, |authority| authority.as_str().len());
        let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
        let bytes = path + authority + headers.iter().map(size).sum::<usize>();
        let bytes = bytes + ENTRY * headers.len();
        bytes > self.max_bytes as usize || headers.len() > self.max_headers
    }

    /// Whether what has come of HTTP/1 is less than the head of a request that is larger.
    pub(super) fn is_kept_by(&self, bytes: &[u8]) -> bool {
        let lines = memchr::memchr_iter(b'\n', bytes).count();
        bytes.len() < self.max_bytes as usize && lines <= self.max_headers
    }

    /// What is said to one that is larger.
    pub(super) fn exceeded(&self) -> Problem {
        Problem::head_too_large(self.max_bytes, self.max_headers)
    }
}

/// Bounds in time and number.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// Time for a handshake, for the beginning of a connection, and for headers.
    pub(super) header_timeout: Duration,
    /// Time between two requests of a connection.
    pub(super) keep_alive_timeout: Duration,
    /// Time for the next part of an answer, and for all of it beside that for its size.
    pub(super) write_timeout: Duration,
    /// Time for requests in hand when the listener stops.
    pub(super) shutdown_timeout: Duration,
    pub(super) max_connections: usize,
    pub(super) head_limits: HeadLimits,
    /// Where connections are counted.
    pub(super) metrics: Option<Arc<Metrics>>,
}

impl ConnectionOptions {
    /// For clients.
    pub fn new(settings: &Settings, metrics: Arc<Metrics>) -> Self {
        let (server, limits) = (&settings.server, &settings.limits);
        Self {
            header_timeout: server.header_timeout(),
            keep_alive_timeout: server.keep_alive_timeout(),
            write_timeout: server.write_timeout(),
            shutdown_timeout: server.shutdown_timeout(),
            max_connections: limits.max_connections as usize,
            head_limits: HeadLimits {
                max_bytes: limits.max_header_bytes,
                max_headers: limits.max_headers as usize,
            },
            metrics: Some(metrics),
        }
    }

    /// For those who look after the gateway: however many clients there are, there is room for them.
    #[must_use]
    pub fn for_operations(&self) -> Self {
        let most = for_operations(self.max_connections as u64);
        let max_connections = usize::try_from(most).unwrap_or(self.max_connections);
        Self { max_connections, metrics: None, ..self.clone() }
    }

    /// Refused clients that are given time to hear of it.
    pub(super) fn max_lingering(&self) -> usize {
        usize::try_from(lingering(self.max_connections as u64)).unwrap_or(usize::MAX)
    }

    /// HTTP/1 by these rules, but for the time of headers: hyper counts the time before them in.
    pub(super) fn http1(&self) -> http1::Builder {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(self.head_limits.max_bytes as usize)
            .max_header_size(self.head_limits.max_bytes as usize);
        if self.head_limits.max_headers != USUAL_HEADERS {
            http.max_headers(self.head_limits.max_headers);
        }
        http
    }

    /// HTTP/2 by these rules.
    pub(super) fn http2(&self) -> http2::Builder<TokioExecutor> {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(self.header_timeout)
            .keep_alive_timeout(self.header_timeout)
            .max_concurrent_streams(MAX_STREAMS)
            // What is over the limit and below this is told so; h2 refuses the rest without a word.
            .max_header_list_size(self.head_limits.max_bytes.saturating_mul(2))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_BUFFER);
        http
    }
}
