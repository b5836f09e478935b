//! A connection that ends when its client takes too long to begin, or to take an answer.

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

use super::answers::Answers;

/// What a client of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream with a limit on every wait that HTTP itself sets none on.
pub(super) struct Patient<S> {
    stream: S,
    /// There until it is known which HTTP the client speaks.
    opening: Option<Opening>,
    answers: Arc<Answers>,
    write_timeout: Duration,
    /// Made when the client is first waited for.
    write_deadline: Option<Pin<Box<Sleep>>>,
    /// Whether something waits to be written, and so whether the deadline counts.
    stalled: bool,
}

/// The first bytes, up to those that tell the version.
struct Opening {
    /// Bytes of the preface that have come.
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Opening {
    /// Takes the next bytes, and says whether they are HTTP/2's once that is sure.
    fn is_http2(&mut self, bytes: &[u8]) -> Option<bool> {
        let rest = &PREFACE[self.seen..];
        if bytes.iter().zip(rest).any(|(a, b)| a != b) {
            return Some(false);
        }
        self.seen += bytes.len().min(rest.len());
        (self.seen == PREFACE.len()).then_some(true)
    }
}

impl<S> Patient<S> {
    /// A stream on which the first bytes have to come within `opening`, and each part of an answer
    /// has to be taken within `write_timeout`.
    pub(super) fn new(
        stream: S,
        answers: Arc<Answers>,
        opening: Duration,
        write_timeout: Duration,
    ) -> Self {
        let opening = Opening { seen: 0, deadline: Box::pin(sleep(opening)) };
        Self {
            stream,
            opening: Some(opening),
            answers,
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
        let before = buf.filled().len();
        let came = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(opening) = &mut this.opening {
            if came.is_pending() {
                ready!(opening.deadline.as_mut().poll(cx));
                return Poll::Ready(Err(late("the client does not begin")));
            }
            match opening.is_http2(&buf.filled()[before..]) {
                None => {}
                Some(false) => this.opening = None,
                Some(true) => {
                    this.answers.begin_http2();
                    this.opening = None;
                }
            }
        }
        came
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
        if came.is_ready() {
            this.answers.written();
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
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::advance,
    };

    use super::*;

    const OPENING: Duration = Duration::from_secs(10);
    const WRITE: Duration = Duration::from_secs(30);

    fn pair() -> (DuplexStream, Patient<DuplexStream>) {
        let (client, server) = duplex(64);
        (client, Patient::new(server, Arc::new(Answers::new(WRITE)), OPENING, WRITE))
    }

    /// Bytes that come one a second, and what the server says in the end.
    async fn drip(bytes: &[u8]) -> (usize, io::Result<usize>) {
        let (mut client, mut server) = pair();
        let mut read = 0;
        let mut buffer = [0; 64];
        for byte in bytes {
            client.write_all(&[*byte]).await.expect("written");
            match server.read(&mut buffer).await {
                Ok(length) => read += length,
                Err(error) => return (read, Err(error)),
            }
            advance(Duration::from_secs(1)).await;
        }
        let started = Instant::now();
        let last = tokio::time::timeout(OPENING * 10, server.read(&mut buffer)).await;
        assert!(started.elapsed() <= OPENING || last.is_err());
        (read, last.unwrap_or(Ok(0)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_beginning_that_does_not_come_ends_the_connection() {
        for bytes in [&b""[..], b"P", b"PRI * HT", &PREFACE[..23]] {
            let (_, last) = drip(bytes).await;
            let error = last.expect_err("too late");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{bytes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_version_is_known_reading_is_left_to_it() {
        for bytes in [&b"G"[..], b"POST", b"PRI * HTTP/1", PREFACE, b"PUT / HTTP/1.1\r\n"] {
            let (read, last) = drip(bytes).await;
            assert_eq!((read, last.expect("no limit")), (bytes.len(), 0), "{bytes:?}");
        }
    }

    #[test]
    fn the_preface_may_come_in_any_parts() {
        for cut in 0..=PREFACE.len() {
            let mut opening = Opening { seen: 0, deadline: Box::pin(paused_sleep()) };
            let (first, second) = PREFACE.split_at(cut);
            assert_eq!(opening.is_http2(first), (cut == PREFACE.len()).then_some(true));
            if cut < PREFACE.len() {
                assert_eq!(opening.is_http2(&[second, b"more"].concat()), Some(true));
            }
        }
    }

    fn paused_sleep() -> Sleep {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("runtime");
        let _entered = runtime.enter();
        sleep(OPENING)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_the_connection() {
        let (client, mut server) = pair();
        let started = Instant::now();
        let error = server.write_all(&[0; 1000]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), WRITE);
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_slowly_is_given_its_time() {
        let (mut client, mut server) = pair();
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 40];
            for _ in 0..25 {
                sleep(WRITE * 9 / 10).await;
                client.read_exact(&mut buffer).await.expect("more");
            }
        });
        let started = Instant::now();
        server.write_all(&[0; 1000]).await.expect("taken in the end");
        assert!(started.elapsed() > WRITE * 10);
        reader.await.expect("all of it");
    }

    /// HTTP/1 over it: what is said is on its way until the client has taken it all.
    #[tokio::test(start_paused = true)]
    async fn an_answer_over_http1_is_late_until_it_is_taken() {
        const SIZE: usize = 1 << 20;
        let (mut client, server) = duplex(1000);
        let answers = Arc::new(Answers::new(WRITE));
        let stream = Patient::new(server, Arc::clone(&answers), OPENING, WRITE);
        let counting = Arc::clone(&answers);
        let service = hyper::service::service_fn(move |_| {
            let answer = axum::body::Body::from(vec![7; SIZE]);
            let answer = counting.request().answer(axum::response::Response::new(answer));
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let http = hyper::server::conn::http1::Builder::new();
        tokio::spawn(http.serve_connection(hyper_util::rt::TokioIo::new(stream), service));
        let mut buffer = [0; 1000];
        for (pause, in_time) in [(Duration::from_millis(10), true), (WRITE / 10, false)] {
            client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
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
                () = answers.late() => {
                    assert!(!in_time);
                    assert_eq!(started.elapsed(), WRITE + Duration::from_secs(16));
                }
            }
            if in_time {
                let rest = tokio::time::timeout(WRITE * 10, answers.late()).await;
                rest.expect_err("it is taken");
            }
        }
    }
}
