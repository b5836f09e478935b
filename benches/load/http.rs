//! B and C: a gateway over HTTP keep-alive, one connection a client.
//!
//! The requests are written as bytes and the answers read by a parser alone: on a machine that both
//! share, what a client library takes would be counted as the gateway's.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use uuid::Uuid;

/// A client with a connection of its own.
pub struct Http {
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    /// What was read and belongs to the next answer.
    read: BytesMut,
    queue: String,
    /// Headers of every request.
    headers: String,
    one: Bytes,
    batch: Bytes,
    /// The message that it has in hand.
    in_hand: Option<i64>,
}

pub async fn clients(address: &str, count: usize, queue: &str) -> Vec<Http> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(Either::Left(connect(address).await));
    }
    with_streams(streams, address, queue)
}

/// The same over TLS, on connections that are there.
pub fn clients_over(streams: Vec<TlsStream<TcpStream>>, address: &str, queue: &str) -> Vec<Http> {
    with_streams(streams.into_iter().map(Either::Right).collect(), address, queue)
}

fn with_streams(
    streams: Vec<Either<TcpStream, TlsStream<TcpStream>>>,
    address: &str,
    queue: &str,
) -> Vec<Http> {
    let message = format!(r#"{{"message":{{"data":"{}"}}}}"#, "x".repeat(118));
    let batch = format!(r#"{{"messages":[{}]}}"#, vec![message.as_str(); 100].join(","));
    let (one, batch) = (Bytes::from(message), Bytes::from(batch));
    let client = |stream| Http {
        stream,
        read: BytesMut::new(),
        queue: queue.to_owned(),
        headers: format!("Host: {address}\r\n"),
        one: one.clone(),
        batch: batch.clone(),
        in_hand: None,
    };
    streams.into_iter().map(client).collect()
}

/// The same with a key.
pub async fn clients_with_key(address: &str, count: usize, queue: &str, key: &str) -> Vec<Http> {
    let mut clients = clients(address, count, queue).await;
    for client in &mut clients {
        write!(client.headers, "Authorization: Bearer {key}\r\n").expect("written");
    }
    clients
}

async fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

impl Http {
    /// A request for this queue; returns the status and the body.
    pub async fn call(&mut self, method: &str, path: &str, body: &Bytes) -> (u16, Bytes) {
        self.call_with(method, path, body, "").await
    }

    async fn call_with(
        &mut self,
        method: &str,
        path: &str,
        body: &Bytes,
        headers: &str,
    ) -> (u16, Bytes) {
        let Self { queue, headers: always, .. } = self;
        let head = format!(
            "{method} /queues/{queue}{path} HTTP/1.1\r\n{always}{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.exchange(head, body).await
    }

    /// Its queue.
    pub fn queue(&self) -> String {
        self.queue.clone()
    }

    /// A request for another path than that of this queue.
    pub async fn post(&mut self, path: &str, headers: &str, body: &str) -> (u16, Bytes) {
        let always = &self.headers;
        let head = format!(
            "POST {path} HTTP/1.1\r\n{always}{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.exchange(head, body.as_bytes()).await
    }

    async fn exchange(&mut self, head: String, body: &[u8]) -> (u16, Bytes) {
        let mut request = head.into_bytes();
        if body.len() < 64 << 10 {
            request.extend_from_slice(body);
            self.stream.write_all(&request).await.expect("written");
        } else {
            self.stream.write_all(&request).await.expect("written");
            self.stream.write_all(body).await.expect("written");
        }
        loop {
            if let Some((status, head, length)) = answer(&self.read) {
                while self.read.len() < head + length {
                    self.more().await;
                }
                let mut answer = self.read.split_to(head + length);
                return (status, answer.split_off(head).freeze());
            }
            self.more().await;
        }
    }

    async fn more(&mut self) {
        self.read.reserve(4096);
        let read = self.stream.read_buf(&mut self.read).await.expect("answer");
        assert_ne!(read, 0, "the connection has ended");
    }

    pub async fn send_one(&mut self) {
        let (status, body) = self.call("POST", "/messages", &self.one.clone()).await;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    }

    /// Receives with these parameters; returns the ids.
    pub async fn receive(&mut self, parameters: &str) -> Vec<i64> {
        let (status, body) =
            self.call("GET", &format!("/messages?{parameters}"), &Bytes::new()).await;
        let text = String::from_utf8_lossy(&body);
        assert_eq!(status, 200, "{text}");
        let ids = text.split("\"msg_id\":").skip(1);
        ids.map(|rest| rest.split(',').next().and_then(|id| id.parse().ok()).expect("id")).collect()
    }
}

pub async fn send(mut client: Http) -> (Http, usize) {
    client.send_one().await;
    (client, 1)
}

pub async fn send_once(mut client: Http) -> (Http, usize) {
    let key = format!("Idempotency-Key: {}\r\n", Uuid::now_v7());
    let (status, body) = client.call_with("POST", "/messages", &client.one.clone(), &key).await;
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    (client, 1)
}

pub async fn send_batch(mut client: Http) -> (Http, usize) {
    let (status, body) = client.call("POST", "/messages/batch", &client.batch.clone()).await;
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    (client, 100)
}

pub async fn read(mut client: Http) -> (Http, usize) {
    client.receive("vt=30").await;
    (client, 1)
}

pub async fn pop(mut client: Http) -> (Http, usize) {
    let (status, body) = client.call("POST", "/messages/pop", &Bytes::new()).await;
    let text = String::from_utf8_lossy(&body);
    assert_eq!(status, 200, "{text}");
    (client, text.matches("\"msg_id\":").count())
}

/// One of the first messages, by its id.
pub async fn look(mut client: Http) -> (Http, usize) {
    let id = Uuid::now_v7().as_u128() % 1_000 + 1;
    let (status, body) = client.call("GET", &format!("/messages/{id}"), &Bytes::new()).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    (client, 1)
}

pub async fn consume(mut client: Http) -> (Http, usize) {
    let ids = client.receive("vt=30").await;
    for id in &ids {
        let (status, _) = client.call("DELETE", &format!("/messages/{id}"), &Bytes::new()).await;
        assert_eq!(status, 204);
    }
    // None where the queue is empty: what comes after that is no measurement.
    (client, ids.len())
}

pub async fn consume_by_receipt(mut client: Http) -> (Http, usize) {
    let (status, body) = client.call("GET", "/messages?vt=30", &Bytes::new()).await;
    let text = String::from_utf8_lossy(&body);
    assert_eq!(status, 200, "{text}");
    let after = |key: &str| text.split_once(key).map(|(_, rest)| rest.to_owned());
    let Some(id) = after("\"msg_id\":") else { return (client, 0) };
    let id = id.split(',').next().unwrap_or_default();
    let receipt = after("\"receipt\":\"").expect("a receipt");
    let receipt = receipt.split('"').next().unwrap_or_default();
    let path = format!("/messages/{id}?receipt={receipt}");
    let (status, _) = client.call("DELETE", &path, &Bytes::new()).await;
    assert_eq!(status, 204);
    (client, 1)
}

/// Deletes the message in hand and receives the next one in the same request.
pub async fn settle_and_receive(mut client: Http) -> (Http, usize) {
    let body = match client.in_hand {
        Some(id) => format!(r#"{{"settle":{{"delete":[{{"msg_id":{id}}}]}},"vt":30}}"#),
        None => r#"{"vt":30}"#.to_owned(),
    };
    let (status, body) = client.call("POST", "/messages/receive", &body.into()).await;
    let text = String::from_utf8_lossy(&body);
    assert!(status == 200 && text.contains(r#""failed":[]"#), "{text}");
    let ids = text.split("\"msg_id\":").skip(1);
    let id = |rest: &str| rest.split(',').next().and_then(|id| id.parse().ok()).expect("id");
    client.in_hand = ids.map(id).next();
    let received = usize::from(client.in_hand.is_some());
    (client, received)
}

/// The status, the length of the head and that of the body, once the head is there.
pub fn answer(read: &[u8]) -> Option<(u16, usize, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(read).expect("HTTP") else { return None };
    let status = answer.code.expect("a status");
    let length = answer.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|length| std::str::from_utf8(length.value).expect("a number"));
    assert!(length.is_some() || status == 204, "an answer without a length");
    Some((status, head, length.map_or(0, |length| length.parse().expect("a number"))))
}

/// What the gateway says that it refused.
pub async fn refused(address: &str) -> String {
    let mut client = clients(address, 1, "").await.remove(0);
    let head = format!("GET /metrics HTTP/1.1\r\n{}\r\n", client.headers);
    let (_, text) = client.exchange(head, b"").await;
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().filter_map(|line| line.strip_prefix("pgmq_gateway_refused_total"));
    let refused: Vec<&str> = lines.collect();
    if refused.is_empty() { "nothing".to_owned() } else { refused.join(", ") }
}
