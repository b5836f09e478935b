//! One connection, from its first byte to its last.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use axum::{Router, response::Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{sync::watch, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::debug;

use super::{
    Rules, answers::Answers, deadline::Unwritten, opening::Opening, patience::Patient,
    stream::Stream,
};

/// Time to read what a client had sent when the server stopped, where nothing was read yet.
const LAST_CALL: Duration = Duration::from_millis(250);

/// What every connection is served with.
pub(super) struct Door {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    router: Router,
    acceptor: Option<watch::Receiver<Arc<ServerConfig>>>,
    stop: CancellationToken,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl Door {
    /// One that asks of clients what the rules say, until `stop`.
    pub(super) fn new(
        rules: &Rules,
        router: Router,
        acceptor: Option<watch::Receiver<Arc<ServerConfig>>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            http1: rules.http1(),
            http2: rules.http2(),
            router,
            acceptor,
            stop,
            header_timeout: rules.header_timeout,
            write_timeout: rules.write_timeout,
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
    async fn open(&self, stream: Stream) -> io::Result<Option<(Stream, Opening)>> {
        let mut opening = pin!(async {
            let mut stream = self.shake_hands(stream).await?;
            let opening = Opening::read(&mut stream, self.header_timeout).await?;
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
    async fn serve_http1(&self, stream: Stream, opening: Opening) -> hyper::Result<Option<&str>> {
        let unwritten = Arc::new(Unwritten::new(self.write_timeout));
        let written = Some(Arc::clone(&unwritten));
        let stream = TokioIo::new(Patient::new(stream, opening, written, self.write_timeout));
        let service = service_fn(async |request| {
            let response = answer(&self.router, request).await;
            unwritten.add(&response);
            Ok::<_, Infallible>(response)
        });
        let mut connection = pin!(self.http1.serve_connection(stream, service));
        let mut late = pin!(unwritten.late());
        let mut closing = false;
        loop {
            tokio::select! {
                // First, so that it has read what there is before it is to take no more.
                biased;
                ended = connection.as_mut() => return ended.map(|()| None),
                () = self.stop.cancelled(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut late => return Ok(Some("the client takes its answers too slowly")),
            }
        }
    }

    /// Says why it ended the connection, if it did.
    async fn serve_http2(&self, stream: Stream, opening: Opening) -> hyper::Result<Option<&str>> {
        let answers = Arc::new(Answers::new(self.write_timeout));
        let stream = TokioIo::new(Patient::new(stream, opening, None, self.write_timeout));
        let (router, counting) = (self.router.clone(), Arc::clone(&answers));
        let service = service_fn(move |request| {
            let (in_hand, answer) = (counting.request(), answer(&router, request));
            async move { Ok::<_, Infallible>(in_hand.answer(answer.await)) }
        });
        let mut connection = pin!(self.http2.serve_connection(stream, service));
        let (mut stall, mut late) = (pin!(answers.stall(self.write_timeout)), pin!(answers.late()));
        let mut closing = false;
        loop {
            tokio::select! {
                // As for HTTP/1.
                biased;
                ended = connection.as_mut() => return ended.map(|()| None),
                () = self.stop.cancelled(), if !closing => {}
                () = answers.idle(self.header_timeout) => {
                    if closing {
                        return Ok(Some("the client does not take leave"));
                    }
                }
                () = &mut stall => return Ok(Some("the client does not take its answers")),
                () = &mut late => return Ok(Some("the client takes its answers too slowly")),
            }
            closing = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

fn answer(
    router: &Router,
    request: hyper::Request<Incoming>,
) -> impl Future<Output = Response> + use<> {
    let answer = router.clone().call(request);
    async move {
        let Ok(response) = answer.await;
        response
    }
}
