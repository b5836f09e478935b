//! How a connection begins: its first bytes tell which HTTP the client speaks.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    time::timeout,
};

/// What a client of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first bytes of a connection, and what they say.
#[derive(Debug)]
pub(super) struct Preface {
    bytes: [u8; PREFACE.len()],
    /// How many have come.
    length: usize,
    /// How many of them were handed over.
    begin: usize,
}

impl Preface {
    /// Reads until it is known which HTTP the client speaks, for at most `time`.
    pub(super) async fn read(
        stream: &mut (impl AsyncRead + Unpin),
        time: Duration,
    ) -> io::Result<Self> {
        let mut opening = Self { bytes: [0; PREFACE.len()], length: 0, begin: 0 };
        let all = async {
            while opening.may_become_http2() && !opening.is_http2() {
                match stream.read(&mut opening.bytes[opening.length..]).await? {
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                    read => opening.length += read,
                }
            }
            Ok(())
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the client does not begin");
        timeout(time, all).await.map_err(late)??;
        Ok(opening)
    }

    /// Whether it is HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.bytes() == PREFACE
    }

    fn may_become_http2(&self) -> bool {
        PREFACE.starts_with(self.bytes())
    }

    /// What was read and not yet handed over.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.begin..self.length]
    }

    /// Hands over what there is room for.
    pub(super) fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let fits = self.bytes().len().min(buf.remaining());
        buf.put_slice(&self.bytes()[..fits]);
        self.begin += fits;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncWriteExt, duplex},
        time::{Instant, sleep},
    };

    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    /// What comes of bytes that come one a second, from a client that then says no more.
    async fn drip(bytes: &'static [u8]) -> io::Result<Preface> {
        let (mut client, mut server) = duplex(64);
        let dripping = async {
            for byte in bytes {
                // Once it is known, nobody reads on.
                let _ = client.write_all(&[*byte]).await;
                sleep(Duration::from_secs(1)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            opening = Preface::read(&mut server, TIME) => opening,
            () = dripping => unreachable!("it never ends"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_beginning_that_does_not_come_is_given_up_on() {
        for bytes in [&b""[..], b"P", b"PRI * HT", &PREFACE[..9], PREFACE] {
            let started = Instant::now();
            let error = drip(bytes).await.expect_err("too late");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{bytes:?}");
            assert_eq!(started.elapsed(), TIME);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_byte_that_differs_tells() {
        for (bytes, read) in [(&b"G"[..], 1), (b"POST", 2), (b"PRI * HTTQ", 10)] {
            let opening = drip(bytes).await.expect("known");
            assert_eq!((opening.is_http2(), opening.bytes()), (false, &bytes[..read]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_preface_may_come_in_any_parts() {
        for cut in 0..PREFACE.len() {
            let (mut client, mut server) = duplex(64);
            let (first, second) = PREFACE.split_at(cut);
            let writing = async {
                client.write_all(first).await.expect("written");
                sleep(Duration::from_secs(1)).await;
                client.write_all(&[second, b"more"].concat()).await.expect("written");
            };
            let (opening, ()) = tokio::join!(Preface::read(&mut server, TIME), writing);
            let opening = opening.expect("known");
            assert!(opening.is_http2());
            assert_eq!(opening.bytes(), PREFACE);
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_has_not_begun() {
        let (client, mut server) = duplex(64);
        drop(client);
        let error = Preface::read(&mut server, TIME).await.expect_err("gone");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
