//! A client that is not upset by refusals and closed connections.

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::http::answer;

/// A client with a key, which connects when it has to.
pub struct Calm {
    address: String,
    key: String,
    stream: Option<TcpStream>,
}

impl Calm {
    pub fn new(address: &str, key: &str) -> Self {
        Self { address: address.to_owned(), key: key.to_owned(), stream: None }
    }

    /// The status of the answer, 0 if there was none.
    pub async fn call(&mut self, method: &str, path: &str, body: &str) -> u16 {
        let head = self.head(method, path, body.len());
        self.exchange(&[head.as_bytes(), body.as_bytes()].concat()).await.unwrap_or(0)
    }

    /// Sends the beginning of a body, and waits for what comes of it.
    pub async fn half(&mut self, path: &str, announced: usize, sent: usize) -> u16 {
        let mut request = self.head("POST", path, announced).into_bytes();
        request.resize(request.len() + sent, b' ');
        self.stream = None;
        self.exchange(&request).await.unwrap_or(0)
    }

    fn head(&self, method: &str, path: &str, length: usize) -> String {
        let Self { address, key, .. } = self;
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    }

    async fn exchange(&mut self, request: &[u8]) -> Option<u16> {
        // One that breaks off is not used again.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&self.address).await.ok()?,
        };
        stream.set_nodelay(true).ok()?;
        stream.write_all(request).await.ok()?;
        let mut read = BytesMut::new();
        loop {
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
            if let Some((status, head, length)) = answer(&read)
                && read.len() >= head + length
            {
                let closes = read[..head].to_ascii_lowercase();
                let closes = closes.windows(17).any(|part| part == b"connection: close");
                self.stream = (!closes).then_some(stream);
                return Some(status);
            }
        }
    }
}
