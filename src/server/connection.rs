//! One connection, from its first byte to its last.

use std::{
    convert::Infallible,
    future::ready,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body as AnyBody,
    extract::ConnectInfo,
    http::{HeaderMap, HeaderName, HeaderValue, Version, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either},
    stream::FuturesUnordered,
};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    App, ConnectionOptions,
    exchange::Exchange,
    last_part::{QuietBody, QuietConnection},
    linger::linger,
    preface::Preface,
    request_wait::{Expired, RequestWait},
    response_tracker::ResponseTracker,
    stream::Stream,
    unserved::Unserved,
    write_timeout::Patient,
};

/// Time to read what a client had sent when the server stopped, where nothing was read yet.
const LAST_CALL: Duration = Duration::from_millis(250);

/// Says how long a connection is kept for another request.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What every connection is served with.
pub(super) struct Connections {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    app: App,
    acceptor: Option<watch::Receiver<Arc<ServerConfig>>>,
    stop: CancellationToken,
    header_timeout: Duration,
    keep_alive_timeout: Duration,
    /// What answers of HTTP/1.1 say of it.
    keep_alive: HeaderValue,
    write_timeout: Duration,
    unserved: Unserved,
}

impl Connections {
    /// One that asks of clients what the rules say, until `stop`.
    pub(super) fn new(
        rules: &ConnectionOptions,
        app: App,
        acceptor: Option<watch::Receiver<Arc<ServerConfig>>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            http1: rules.http1(),
            http2: rules.http2(),
            app,
            acceptor,
            stop,
            header_timeout: rules.header_timeout,
            keep_alive_timeout: rules.keep_alive_timeout,
            keep_alive: keep_alive(rules.keep_alive_timeout),
            write_timeout: rules.write_timeout,
            unserved: Unserved::new(rules.head_limits, rules.metrics.clone()),
        }
    }

    /// Whether clients are met with a handshake.
    pub(super) fn has_tls(&self) -> bool {
        self.acceptor.is_some()
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(&self, stream: Stream) {
        // What is needed at the beginning alone takes no room later on.
        let (stream, opening) = match Box::pin(self.open(stream)).await {
            Ok(Some(opened)) => opened,
            Ok(None) => return,
            Err(error) => return debug!(%error, "no request"),
        };
        let ended = if opening.is_http2() {
            Box::pin(self.serve_http2(stream, opening)).await
        } else {
            self.serve_http1(stream, opening).await
        };
        match ended {
            Ok(None) => {}
            Ok(Some(why)) => debug!(why, "connection ended"),
            Err(error) => debug!(%error, "connection ended"),
        }
    }

    /// The handshake of TLS, where there is one, and the first bytes. Nothing if the server stops.
    async fn open(&self, stream: Stream) -> io::Result<Option<(Stream, Preface)>> {
        let mut opening = pin!(async {
            let mut stream = self.shake_hands(stream).await?;
            let opening = Preface::read(&mut stream, self.header_timeout).await?;
            Ok(Some((stream, opening)))
        });
        tokio::select! {
            biased;
            opened = &mut opening => opened,
            () = self.stop.cancelled() => timeout(LAST_CALL, opening).await.unwrap_or(Ok(None)),
        }
    }

    async fn shake_hands(&self, stream: Stream) -> io::Result<Stream> {
        match (&self.acceptor, stream) {
            (Some(config), Stream::Tcp(tcp)) => {
                let acceptor = TlsAcceptor::from(Arc::clone(&config.borrow()));
                let stream = timeout(self.header_timeout, acceptor.accept(tcp)).await??;
                Ok(Stream::Tls(Box::new(stream)))
            }
            (_, stream) => Ok(stream),
        }
    }

    /// Says why it ended the connection, if it did.
    async fn serve_http1(&self, stream: Stream, opening: Preface) -> hyper::Result<Option<&str>> {
        let request_wait = RequestWait::new(self.header_timeout, self.keep_alive_timeout);
        let exchange = Arc::new(Exchange::new(self.write_timeout, request_wait));
        let (told, peer) = (Some(Arc::clone(&exchange)), stream.peer());
        let stream = TokioIo::new(Patient::new(stream, opening, told, self.write_timeout));
        let service = service_fn(async |request: hyper::Request<Incoming>| {
            let has_body = !request.body().is_end_stream();
            let is_kept = request.version() == Version::HTTP_11 && !closes(request.headers());
            exchange.begin();
            let mut response = answer(&self.app, request.map(QuietBody), peer).await;
            let is_last = closes(response.headers());
            if is_kept && !is_last && !self.stop.is_cancelled() {
                response.headers_mut().insert(KEEP_ALIVE, self.keep_alive.clone());
            }
            exchange.confirm_client().await;
            exchange.end(has_body && is_last);
            exchange.unwritten.add(&response);
            Ok::<_, Infallible>(response)
        });
        let mut connection = QuietConnection::new(self.http1.serve_connection(stream, service));
        let mut interrupts = self.interrupts(&exchange);
        let ended = loop {
            tokio::select! {
                // First, so that it has read what there is before it is to take no more.
                biased;
                ended = &mut connection => break ended,
                Some(interrupt) = interrupts.next() => match interrupt {
                    Interrupt::End => {}
                    Interrupt::Break(why) => return Ok(Some(why)),
                },
            }
            Pin::new(&mut connection.connection).graceful_shutdown();
        };
        drop(interrupts);
        let parts = connection.connection.into_parts();
        let (stream, left) = (parts.io.into_inner().into_inner(), parts.read_buf);
        Box::pin(self.close(stream, &exchange, ended.as_ref().err(), left)).await;
        ended.map(|()| None)
    }

    /// What can happen beside what is served. Each is asked only when it has been woken, and not with every
    /// request.
    fn interrupts<'a>(
        &'a self,
        exchange: &'a Exchange,
    ) -> FuturesUnordered<BoxFuture<'a, Interrupt>> {
        let stopped = async {
            self.stop.cancelled().await;
            Interrupt::End
        };
        let late = async {
            exchange.unwritten.late().await;
            Interrupt::Break("the client takes its answers too slowly")
        };
        let expired = async {
            match exchange.request_wait.expired().await {
                Expired::Headers => Interrupt::Break("the client does not complete its request"),
                Expired::Idle => Interrupt::End,
            }
        };
        FuturesUnordered::from_iter([stopped.boxed(), late.boxed(), expired.boxed()])
    }

    /// Says what HTTP left unsaid, and closes so that it is heard.
    async fn close(
        &self,
        mut stream: Stream,
        exchange: &Exchange,
        error: Option<&hyper::Error>,
        left: Bytes,
    ) {
        let last_words = match (exchange.refused(), error) {
            (Some(status), Some(error)) => self.unserved.last_words(status, error, &left),
            (_, Some(_)) => return,
            (_, None) => String::new(),
        };
        drop(left);
        let is_heard = exchange.is_unread() || !last_words.is_empty();
        let say = async {
            stream.write_all(last_words.as_bytes()).await?;
            stream.shutdown().await
        };
        // What is closed already is so in vain.
        let said = timeout(self.write_timeout, say).await;
        if said.is_err() {
            return;
        }
        let stop = async {
            self.stop.cancelled().await;
            if is_heard {
                sleep(LAST_CALL).await;
            }
        };
        linger(&mut stream, stop).await;
    }

    /// Says why it ended the connection, if it did.
    async fn serve_http2(&self, stream: Stream, opening: Preface) -> hyper::Result<Option<&str>> {
        let (answers, peer) = (Arc::new(ResponseTracker::new(self.write_timeout)), stream.peer());
        let stream = TokioIo::new(Patient::new(stream, opening, None, self.write_timeout));
        let (app, unserved) = (Arc::clone(&self.app), self.unserved.clone());
        let counting = Arc::clone(&answers);
        let service = service_fn(move |request| {
            let counted = counting.request();
            let answer = match unserved.refuse_head(&request, || counting.is_crowded()) {
                Some(refusal) => Either::Left(ready(refusal)),
                None => Either::Right(answer(&app, request, peer)),
            };
            async move { Ok::<_, Infallible>(counted.answer(unindexed(answer.await))) }
        });
        let mut connection = pin!(self.http2.serve_connection(stream, service));
        let mut interrupts = self.interrupts_of_http2(&answers);
        loop {
            tokio::select! {
                // As for HTTP/1.
                biased;
                ended = connection.as_mut() => return ended.map(|()| None),
                Some(interrupt) = interrupts.next() => match interrupt {
                    Interrupt::End => {}
                    Interrupt::Break(why) => return Ok(Some(why)),
                },
            }
            connection.as_mut().graceful_shutdown();
            let leave = answers.idle(self.header_timeout);
            let leave = leave.map(|()| Interrupt::Break("the client does not take leave"));
            interrupts.push(leave.boxed());
        }
    }

    /// As `interrupts`.
    fn interrupts_of_http2<'a>(
        &'a self,
        answers: &'a ResponseTracker,
    ) -> FuturesUnordered<BoxFuture<'a, Interrupt>> {
        let ends = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = answers.idle(self.keep_alive_timeout) => {}
            }
            Interrupt::End
        };
        let stalled = async {
            answers.stall(self.write_timeout).await;
            Interrupt::Break("the client does not take its answers")
        };
        let late = async {
            answers.late().await;
            Interrupt::Break("the client takes its answers too slowly")
        };
        FuturesUnordered::from_iter([ends.boxed(), stalled.boxed(), late.boxed()])
    }
}

/// What happens to a connection beside what is served on it.
enum Interrupt {
    /// It takes no further request.
    End,
    /// It ends at once, for this reason.
    Break(&'static str),
}

/// Headers that no two answers have alike.
const UNIQUE_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-request-id"), HeaderName::from_static("x-amzn-requestid")];

/// An answer of which HTTP/2 remembers only what comes again. It compares a value with all those of its name that it
/// remembers, which else are as many as its table takes.
fn unindexed(mut response: Response) -> Response {
    for name in &UNIQUE_HEADERS {
        if let Some(value) = response.headers_mut().get_mut(name) {
            value.set_sensitive(true);
        }
    }
    response
}

/// Whether a request or an answer says that it is the last on its connection, whatever else it says of it.
fn closes(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter();
    let mut options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// What an answer says of the time for which its connection is kept.
fn keep_alive(time: Duration) -> HeaderValue {
    let text = format!("timeout={}", time.as_secs());
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("timeout=1"))
}

fn answer<B: Body<Data = Bytes, Error = hyper::Error> + Send + 'static>(
    app: &App,
    mut request: hyper::Request<B>,
    peer: Option<IpAddr>,
) -> impl Future<Output = Response> + use<B> {
    request.extensions_mut().insert(ConnectInfo(peer));
    let answer = app(request.map(AnyBody::new));
    async move {
        let Ok(response) = answer.await;
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_two_answers_have_alike_is_not_remembered() {
        let mut response = Response::default();
        for name in ["x-request-id", "x-amzn-requestid", "cache-control"] {
            response.headers_mut().insert(name, HeaderValue::from_static("value"));
        }
        let response = unindexed(response);
        let is_remembered = |name| !response.headers()[name].is_sensitive();
        assert!(!is_remembered("x-request-id") && !is_remembered("x-amzn-requestid"));
        assert!(is_remembered("cache-control"));
    }
}
