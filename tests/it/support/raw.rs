//! Connections byte by byte, for clients that do not behave.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, TestGateway};

/// A connection to a gateway.
pub async fn connect(gateway: &TestGateway) -> TcpStream {
    dial(gateway.gateway.address().expect("TCP")).await
}

pub async fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("connected")
}

/// A client of HTTP/2 that takes nothing of its answers but their heads. They stay on their way for as long as
/// the client has them.
pub async fn unwilling(address: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    reluctant(address, 0).await
}

/// The same of one that takes the first bytes of each.
pub async fn reluctant(address: SocketAddr, bytes: u32) -> http2::SendRequest<Full<Bytes>> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let builder = builder.initial_stream_window_size(bytes);
    let handshake = builder.handshake(TokioIo::new(dial(address).await)).await;
    let (sender, connection) = handshake.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Asks for a path on a connection that is closed behind it, and returns all that is said.
pub async fn get<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    path: &str,
) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    read_all(&mut stream).await
}

/// What is said until the other side closes.
pub async fn read_all<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut said = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("closed in time");
    match read {
        // Without TLS's goodbye, or after what was sent in vain.
        Err(error) if said.is_empty() => Err(error),
        _ => Ok(String::from_utf8_lossy(&said).into_owned()),
    }
}

/// Sends bytes one by one, a pause behind each, until the other side closes.
pub async fn drip(mut stream: TcpStream, bytes: &[u8], pause: Duration) -> bool {
    let mut buffer = [0; 1024];
    for byte in bytes {
        if stream.write_all(&[*byte]).await.is_err() {
            return true;
        }
        if let Ok(Ok(0) | Err(_)) = timeout(pause, stream.read(&mut buffer)).await {
            return true;
        }
    }
    false
}

/// The status, the headers and the body of an answer.
pub fn parse(said: &str) -> (u16, reqwest::header::HeaderMap, String) {
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {said:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
    let headers: Vec<(reqwest::header::HeaderName, reqwest::header::HeaderValue)> =
        headers.collect();
    (status.expect("a status"), headers.into_iter().collect(), body.to_owned())
}
