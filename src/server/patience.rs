//! A connection that ends when its client takes too long to take an answer.

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

use super::{deadline::Unwritten, opening::Opening};

/// A stream with a limit on every wait for a client to take something, which HTTP itself sets none on.
pub(super) struct Patient<S> {
    stream: S,
    /// What was read of it before.
    opening: Option<Opening>,
    /// Where it is told that everything was written.
    unwritten: Option<Arc<Unwritten>>,
    write_timeout: Duration,
    /// Made when the client is first waited for.
    write_deadline: Option<Pin<Box<Sleep>>>,
    /// Whether something waits to be written, and so whether the deadline counts.
    stalled: bool,
}

impl<S> Patient<S> {
    /// A stream of which the opening was read, and on which each part of an answer has to be taken
    /// within `write_timeout`.
    pub(super) fn new(
        stream: S,
        opening: Opening,
        unwritten: Option<Arc<Unwritten>>,
        write_timeout: Duration,
    ) -> Self {
        Self {
            stream,
            opening: Some(opening),
            unwritten,
            write_timeout,
            write_deadline: None,
            stalled: false,
        }
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
            return Pin::new(&mut this.stream).poll_read(cx, buf);
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let came = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.watch(cx, came)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let came = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.watch(cx, came)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let came = Pin::new(&mut this.stream).poll_flush(cx);
        if let Some(unwritten) = this.unwritten.as_ref().filter(|_| came.is_ready()) {
            unwritten.clear();
        }
        this.watch(cx, came)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let came = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch(cx, came)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const OPENING: Duration = Duration::from_secs(10);
    const WRITE: Duration = Duration::from_secs(30);

    /// A client that has begun, and the server's side.
    async fn pair() -> (DuplexStream, Patient<DuplexStream>, Arc<Unwritten>) {
        let (mut client, mut server) = duplex(1000);
        client.write_all(b"G").await.expect("written");
        let opening = Opening::read(&mut server, OPENING).await.expect("begun");
        let unwritten = Arc::new(Unwritten::new(WRITE));
        let stream = Patient::new(server, opening, Some(Arc::clone(&unwritten)), WRITE);
        (client, stream, unwritten)
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
        let (mut client, stream, unwritten) = pair().await;
        let counting = Arc::clone(&unwritten);
        let service = hyper::service::service_fn(move |_| {
            let answer = axum::response::Response::new(axum::body::Body::from(vec![7; SIZE]));
            counting.add(&answer);
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
                () = unwritten.late() => {
                    assert!(!in_time);
                    assert_eq!(started.elapsed(), WRITE + Duration::from_secs(16));
                }
            }
            if in_time {
                let rest = tokio::time::timeout(WRITE * 10, unwritten.late()).await;
                rest.expect_err("it is taken");
                client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
            }
        }
    }
}
