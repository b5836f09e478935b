//! A connection that ends when its client takes too long to take an answer, or has left.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{exchange::Exchange, preface::Preface, read_ahead::ReadAhead, stream::Closes};

/// Time between two looks whether a client is still there whose end HTTP would not see.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A stream with a limit on every wait for a client to take something, which HTTP itself sets none on,
/// and which notices that a client has left whatever that client had sent before.
pub(super) struct Patient<S> {
    stream: S,
    /// What was read of it before.
    opening: Option<Preface>,
    ahead: ReadAhead,
    /// Of HTTP/1: what its service has to know, and be told.
    exchange: Option<Arc<Exchange>>,
    write_timeout: Duration,
    /// Made when the client is first waited for.
    write_deadline: Option<Pin<Box<Sleep>>>,
    /// Whether something waits to be written, and so whether the deadline counts.
    stalled: bool,
    /// When to look whether the client is still there; made when that is first needed.
    next_look: Option<Pin<Box<Sleep>>>,
    /// Whether that time counts.
    is_looking: bool,
}

impl<S> Patient<S> {
    /// A stream of which the opening was read, and on which each part of an answer has to be taken
    /// within `write_timeout`.
    pub(super) fn new(
        stream: S,
        opening: Preface,
        exchange: Option<Arc<Exchange>>,
        write_timeout: Duration,
    ) -> Self {
        Self {
            stream,
            opening: Some(opening),
            ahead: ReadAhead::default(),
            exchange,
            write_timeout,
            write_deadline: None,
            stalled: false,
            next_look: None,
            is_looking: false,
        }
    }

    /// The stream, which is not to be read through this any more.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Whether these bytes are not to be written.
    fn takes(&self, bytes: &[u8]) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.takes_refusal(bytes))
    }

    /// Passes on what came of a write; an error if it has come to nothing for too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, came: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if came.is_ready() {
            self.stalled = false;
            return came;
        }
        let time = self.write_timeout;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep(time)));
        if !self.stalled {
            self.stalled = true;
            deadline.as_mut().reset(Instant::now() + time);
        }
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(late("the client does not take its answer")))
    }
}

impl<S: AsyncRead + Closes + Unpin> Patient<S> {
    /// Looks whether the client has left, where HTTP does not: when the service asks, and now and then
    /// while it works. HTTP calls this each time after it has asked the service for an answer.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Self { exchange: Some(exchange), stream, ahead, .. } = self else { return Ok(()) };
        if exchange.is_check_requested() {
            if has_left(stream, ahead, cx) {
                return Err(left());
            }
            exchange.confirm();
            cx.waker().wake_by_ref();
        }
        if !exchange.is_unwatched() {
            self.is_looking = false;
            return Ok(());
        }
        let next_look = self.next_look.get_or_insert_with(|| Box::pin(sleep(LOOK_INTERVAL)));
        if !self.is_looking {
            self.is_looking = true;
            next_look.as_mut().reset(Instant::now() + LOOK_INTERVAL);
        }
        while next_look.as_mut().poll(cx).is_ready() {
            if has_left(stream, ahead, cx) {
                return Err(left());
            }
            next_look.as_mut().reset(Instant::now() + LOOK_INTERVAL);
        }
        Ok(())
    }
}

/// Whether the client has left, as far as that can be told. What has to be read for it is kept.
fn has_left<S>(stream: &mut S, ahead: &mut ReadAhead, cx: &mut Context<'_>) -> bool
where
    S: AsyncRead + Closes + Unpin,
{
    stream.is_closed() || (stream.may_end_unseen() && ahead.finds_end(stream, cx))
}

fn left() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the client has left")
}

fn late(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(opening) = &mut this.opening else {
            let read = if this.ahead.is_empty() {
                Pin::new(&mut this.stream).poll_read(cx, buf)
            } else {
                this.ahead.hand_over(buf);
                Poll::Ready(Ok(()))
            };
            if let Some(exchange) = &this.exchange {
                exchange.set_read_blocked(read.is_pending());
                if read.is_ready() {
                    exchange.request_wait.received();
                }
            }
            return read;
        };
        opening.hand_over(buf);
        if opening.bytes().is_empty() {
            this.opening = None;
            // Mostly all of the request is there, and is read in one go. An end comes again.
            let _ = Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Closes + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.takes(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let came = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.watch(cx, came)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let [buf] = bufs
            && this.takes(buf)
        {
            return Poll::Ready(Ok(buf.len()));
        }
        let came = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.watch(cx, came)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.watch_client(cx)?;
        let came = Pin::new(&mut this.stream).poll_flush(cx);
        if let Some(exchange) = this.exchange.as_ref().filter(|_| came.is_ready()) {
            exchange.unwritten.clear();
            exchange.request_wait.written();
        }
        this.watch(cx, came)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.exchange.as_ref().is_some_and(|exchange| exchange.refused().is_some()) {
            // There is something to be said before.
            return Poll::Ready(Ok(()));
        }
        let came = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch(cx, came)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::{super::request_wait::RequestWait, *};

    impl Closes for DuplexStream {
        fn is_closed(&self) -> bool {
            false
        }

        fn may_end_unseen(&self) -> bool {
            true
        }
    }

    const OPENING: Duration = Duration::from_secs(10);
    const WRITE: Duration = Duration::from_secs(30);

    /// A client that has begun, and the server's side.
    async fn pair() -> (DuplexStream, Patient<DuplexStream>, Arc<Exchange>) {
        let (mut client, mut server) = duplex(1000);
        client.write_all(b"G").await.expect("written");
        let opening = Preface::read(&mut server, OPENING).await.expect("begun");
        let exchange = Arc::new(Exchange::new(WRITE, RequestWait::new(OPENING, OPENING)));
        let stream = Patient::new(server, opening, Some(Arc::clone(&exchange)), WRITE);
        (client, stream, exchange)
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first() {
        let (mut client, mut server, _) = pair().await;
        client.write_all(b"ET /").await.expect("written");
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.expect("read"), 5, "in one go");
        assert_eq!(&buffer[..5], b"GET /");
        client.write_all(b"livez").await.expect("written");
        drop(client);
        let mut rest = String::new();
        server.read_to_string(&mut rest).await.expect("read");
        assert_eq!(rest, "livez");
        let (client, mut server, _) = pair().await;
        drop(client);
        let mut all = String::new();
        server.read_to_string(&mut all).await.expect("read");
        assert_eq!(all, "G");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_to_see_the_end_comes_before_the_rest() {
        let (mut client, mut server, exchange) = pair().await;
        let mut buffer = [0; 4];
        server.read_exact(&mut buffer[..1]).await.expect("read");
        client.write_all(b"ET /").await.expect("written");
        server.read_exact(&mut buffer).await.expect("read");
        exchange.begin();
        client.write_all(b"more").await.expect("written");
        for _ in 0..3 {
            server.flush().await.expect("the client is there");
            sleep(LOOK_INTERVAL).await;
        }
        assert!(!server.ahead.is_empty());
        client.write_all(b"rest").await.expect("written");
        for part in [b"more", b"rest"] {
            server.read_exact(&mut buffer).await.expect("read");
            assert_eq!(&buffer, part);
        }
        server.flush().await.expect("the client is there");
        client.write_all(b"next").await.expect("written");
        drop(client);
        sleep(LOOK_INTERVAL).await;
        let error = server.flush().await.expect_err("it has left");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_the_connection() {
        let (client, mut server, _) = pair().await;
        let started = Instant::now();
        let error = server.write_all(&[0; 2000]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), WRITE);
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_slowly_is_given_its_time() {
        let (mut client, mut server, _) = pair().await;
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 400];
            for _ in 0..25 {
                sleep(WRITE * 9 / 10).await;
                client.read_exact(&mut buffer).await.expect("more");
            }
        });
        let started = Instant::now();
        server.write_all(&[0; 10_000]).await.expect("taken in the end");
        assert!(started.elapsed() > WRITE * 10);
        reader.await.expect("all of it");
    }

    /// HTTP/1 over it: what is said is on its way until the client has taken it all.
    #[tokio::test(start_paused = true)]
    async fn an_answer_over_http1_is_late_until_it_is_taken() {
        const SIZE: usize = 1 << 20;
        let (mut client, stream, exchange) = pair().await;
        let counting = Arc::clone(&exchange);
        let service = hyper::service::service_fn(move |_| {
            let answer = axum::response::Response::new(axum::body::Body::from(vec![7; SIZE]));
            counting.unwritten.add(&answer);
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let http = hyper::server::conn::http1::Builder::new();
        tokio::spawn(http.serve_connection(hyper_util::rt::TokioIo::new(stream), service));
        let mut buffer = [0; 1000];
        client.write_all(b"ET / HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
        for (pause, in_time) in [(Duration::from_millis(10), true), (WRITE / 10, false)] {
            let take = async {
                let mut taken = 0;
                while taken < SIZE {
                    taken += client.read(&mut buffer).await.expect("more");
                    sleep(pause).await;
                }
            };
            let started = Instant::now();
            tokio::select! {
                () = take => assert!(in_time),
                () = exchange.unwritten.late() => {
                    assert!(!in_time);
                    assert_eq!(started.elapsed(), WRITE + Duration::from_secs(16));
                }
            }
            if in_time {
                let rest = tokio::time::timeout(WRITE * 10, exchange.unwritten.late()).await;
                rest.expect_err("it is taken");
                client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
            }
        }
    }
}
