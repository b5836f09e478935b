//! Closing a connection so that its last answer arrives: a system that has something unread when it
//! closes tells the other side that all is lost, which then may throw away what it has not yet read.

use std::{pin::pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{sleep, timeout},
};

/// Time for what the client still sends, all of it.
const TIME: Duration = Duration::from_secs(30);
/// Time for the next part of it.
const PAUSE: Duration = Duration::from_secs(5);
/// Bytes of it that are read.
const MAX_BYTES: usize = 64 << 20;
/// Bytes that are read at once.
const PART: usize = 16 << 10;

/// Reads what a client still sends, and throws it away, until it closes, has sent too much, or takes
/// too long; and not beyond `end`. What was to be written is written, and our side closed.
pub(super) async fn linger<S: AsyncRead + Unpin>(stream: &mut S, end: impl Future<Output = ()>) {
    let discard = async {
        let (mut buffer, mut bytes) = (vec![0; PART], 0);
        while let Ok(Ok(read @ 1..)) = timeout(PAUSE, stream.read(&mut buffer)).await {
            bytes += read;
            if bytes > MAX_BYTES {
                return;
            }
        }
    };
    let (discard, end) = (pin!(discard), pin!(end));
    tokio::select! {
        () = discard => {}
        () = end => {}
        () = sleep(TIME) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{
        io::{AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_read_until_it_ends() {
        let (mut client, mut server) = duplex(1000);
        let sending = async {
            client.write_all(&vec![7; 100_000]).await.expect("all of it is read");
            drop(client);
        };
        let started = Instant::now();
        tokio::join!(linger(&mut server, pending()), sending);
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_end_is_given_up_on() {
        let (mut client, mut server) = duplex(1000);
        let started = Instant::now();
        linger(&mut server, pending()).await;
        assert_eq!(started.elapsed(), PAUSE, "it sends nothing");
        let started = Instant::now();
        let dripping = async {
            loop {
                client.write_all(&[7]).await.expect("read, or kept");
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = linger(&mut server, pending()) => {}
            () = dripping => unreachable!("it never ends"),
        }
        assert_eq!(started.elapsed(), TIME, "it sends a little all the time");
        let flood = async { while client.write_all(&[7; 1000]).await.is_ok() {} };
        let started = Instant::now();
        tokio::select! {
            () = linger(&mut server, pending()) => {}
            () = flood => unreachable!("somebody reads"),
        }
        assert_eq!(started.elapsed(), Duration::ZERO, "it sends too much");
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_server() {
        let (_client, mut server) = duplex(1000);
        let started = Instant::now();
        linger(&mut server, sleep(Duration::from_millis(1))).await;
        assert_eq!(started.elapsed(), Duration::from_millis(1));
    }
}
