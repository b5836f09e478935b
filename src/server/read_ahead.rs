//! Reading on while HTTP does not, to see the end of a client whose socket does not tell of it.

use std::{
    mem::MaybeUninit,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// The most bytes that are kept: behind so many, an end is seen when they are read.
const MAX_BYTES: usize = 64 << 10;
/// The same of all connections together, which nobody reckons with when limits are fitted to the memory.
const MAX_OF_ALL: usize = 4 << 20;
/// Bytes that are read at once.
const PART: usize = 4 << 10;

/// Bytes that all connections keep.
static OF_ALL: AtomicUsize = AtomicUsize::new(0);

/// What was read ahead, and is to be read before anything else.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    bytes: BytesMut,
}

impl ReadAhead {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Hands over what there is room for.
    pub(super) fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let fits = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes[..fits]);
        self.bytes.advance(fits);
        OF_ALL.fetch_sub(fits, Relaxed);
        if self.bytes.is_empty() {
            // It takes no room for the rest of the connection.
            self.bytes = BytesMut::new();
        }
    }

    /// Reads what is there; true if the end is, or an error.
    pub(super) fn finds_end<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> bool {
        let mut part = [MaybeUninit::uninit(); PART];
        while self.bytes.len() < MAX_BYTES && OF_ALL.load(Relaxed) < MAX_OF_ALL {
            let mut part = ReadBuf::uninit(&mut part);
            match Pin::new(&mut *stream).poll_read(cx, &mut part) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !part.filled().is_empty() => {
                    self.bytes.extend_from_slice(part.filled());
                    OF_ALL.fetch_add(part.filled().len(), Relaxed);
                }
                Poll::Ready(_) => return true,
            }
        }
        false
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        OF_ALL.fetch_sub(self.bytes.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn finds_end(ahead: &mut ReadAhead, server: &mut DuplexStream) -> bool {
        poll_fn(|cx| Poll::Ready(ahead.finds_end(server, cx))).await
    }

    /// What is handed over, in parts of this size.
    fn handed_over(ahead: &mut ReadAhead, size: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !ahead.is_empty() {
            let mut part = vec![0; size];
            let mut part = ReadBuf::new(&mut part);
            ahead.hand_over(&mut part);
            all.extend_from_slice(part.filled());
        }
        all
    }

    #[tokio::test]
    async fn the_end_is_found_behind_what_was_sent_which_is_kept() {
        let (mut client, mut server) = duplex(10_000);
        let mut ahead = ReadAhead::default();
        assert!(!finds_end(&mut ahead, &mut server).await && ahead.is_empty());
        let sent: Vec<u8> = (0..=255).cycle().take(9_999).collect();
        client.write_all(&sent[..5_000]).await.expect("written");
        assert!(!finds_end(&mut ahead, &mut server).await);
        client.write_all(&sent[5_000..]).await.expect("written");
        drop(client);
        assert!(finds_end(&mut ahead, &mut server).await);
        assert_eq!(handed_over(&mut ahead, 7), sent);
    }

    #[tokio::test]
    async fn so_much_is_read_and_no_more() {
        let (mut client, mut server) = duplex(MAX_BYTES * 2);
        client.write_all(&vec![7; MAX_BYTES * 2]).await.expect("written");
        drop(client);
        let mut ahead = ReadAhead::default();
        for _ in 0..2 {
            assert!(!finds_end(&mut ahead, &mut server).await, "it is behind too much");
        }
        assert_eq!(handed_over(&mut ahead, 4_096).len(), MAX_BYTES);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.expect("read");
        assert_eq!(rest.len(), MAX_BYTES);
    }
}
