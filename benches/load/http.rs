//! B and C: a gateway over HTTP keep-alive, one connection a client.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    client::conn::http1::{SendRequest, handshake},
    http::HeaderValue,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use uuid::Uuid;

/// A client with a connection of its own.
pub struct Http {
    sender: SendRequest<Full<Bytes>>,
    address: String,
    queue: String,
    key: Option<HeaderValue>,
    one: Bytes,
    batch: Bytes,
}

pub async fn clients(address: &str, count: usize, queue: &str) -> Vec<Http> {
    let message = format!(r#"{{"message":{{"data":"{}"}}}}"#, "x".repeat(118));
    let batch = format!(r#"{{"messages":[{}]}}"#, vec![message.as_str(); 100].join(","));
    let (one, batch) = (Bytes::from(message), Bytes::from(batch));
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Http {
            sender: connect(address).await,
            address: address.to_owned(),
            queue: queue.to_owned(),
            key: None,
            one: one.clone(),
            batch: batch.clone(),
        });
    }
    clients
}

/// The same with a key.
pub async fn clients_with_key(address: &str, count: usize, queue: &str, key: &str) -> Vec<Http> {
    let mut clients = clients(address, count, queue).await;
    for client in &mut clients {
        client.key = Some(format!("Bearer {key}").parse().expect("a header"));
    }
    clients
}

async fn connect(address: &str) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

impl Http {
    /// A request for this queue; returns the status and the body.
    pub async fn call(&mut self, method: &str, path: &str, body: Bytes) -> (u16, Bytes) {
        self.call_with(method, path, body, None).await
    }

    async fn call_with(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
        key: Option<String>,
    ) -> (u16, Bytes) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/queues/{}{path}", self.queue))
            .header("host", &self.address);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(key) = &self.key {
            request = request.header("authorization", key);
        }
        let request = request.body(Full::new(body)).expect("request");
        self.sender.ready().await.expect("connection");
        let response = self.sender.send_request(request).await.expect("answer");
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.expect("body").to_bytes())
    }

    pub async fn send_one(&mut self) {
        let (status, body) = self.call("POST", "/messages", self.one.clone()).await;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    }

    /// Receives with these parameters; returns the ids.
    pub async fn receive(&mut self, parameters: &str) -> Vec<i64> {
        let (status, body) =
            self.call("GET", &format!("/messages?{parameters}"), Bytes::new()).await;
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
    let key = Uuid::now_v7().to_string();
    let (status, body) = client.call_with("POST", "/messages", client.one.clone(), Some(key)).await;
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    (client, 1)
}

pub async fn send_batch(mut client: Http) -> (Http, usize) {
    let (status, body) = client.call("POST", "/messages/batch", client.batch.clone()).await;
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    (client, 100)
}

pub async fn read(mut client: Http) -> (Http, usize) {
    client.receive("vt=30").await;
    (client, 1)
}

pub async fn consume(mut client: Http) -> (Http, usize) {
    for id in client.receive("vt=30").await {
        let (status, _) = client.call("DELETE", &format!("/messages/{id}"), Bytes::new()).await;
        assert_eq!(status, 204);
    }
    (client, 1)
}

/// What the gateway says that it refused.
pub async fn refused(address: &str) -> String {
    let request = Request::get("/metrics").header("host", address).body(Full::default());
    let mut sender = connect(address).await;
    let answer = sender.send_request(request.expect("request")).await.expect("answer");
    let text = answer.into_body().collect().await.expect("body").to_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().filter_map(|line| line.strip_prefix("pgmq_gateway_refused_total"));
    let refused: Vec<&str> = lines.collect();
    if refused.is_empty() { "nothing".to_owned() } else { refused.join(", ") }
}
