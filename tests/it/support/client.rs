//! A client that keeps everything of an answer.

use std::{panic::Location, time::Duration};

use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

use super::eventually;

/// A client of one gateway.
#[derive(Clone, Debug)]
pub struct Client {
    pub base: String,
    http: reqwest::Client,
    key: Option<String>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Client {
    pub fn new(base: &str) -> Self {
        Self::with_timeout(base, Duration::from_secs(60))
    }

    /// One that waits for as long as a gateway may work.
    pub fn patient(base: &str) -> Self {
        Self::with_timeout(base, Duration::from_secs(600))
    }

    /// One that looks at no certificate.
    pub fn careless(base: &str) -> Self {
        let careless = reqwest::Client::builder().danger_accept_invalid_certs(true).build();
        Self { http: careless.expect("client"), ..Self::new(base) }
    }

    fn with_timeout(base: &str, timeout: Duration) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(timeout).build();
        Self { base: base.to_owned(), http: http.expect("client"), key: None }
    }

    /// The same client, its connections too, with a key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).expect("method");
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request("GET", path)).await
    }

    pub async fn put(&self, path: &str, body: &str) -> Answer {
        Answer::of(self.request("PUT", path).body(body.to_owned())).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        Answer::of(self.request("POST", path).body(body.to_owned())).await
    }

    pub async fn patch(&self, path: &str, body: &str) -> Answer {
        Answer::of(self.request("PATCH", path).body(body.to_owned())).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request("DELETE", path)).await
    }

    /// Makes a queue.
    pub async fn create(&self, queue: &str) {
        self.put(&format!("/queues/{queue}"), "").await.expect(201);
    }

    /// Makes a queue that is described by `body`.
    pub async fn create_with(&self, queue: &str, body: &Value) {
        self.put(&format!("/queues/{queue}"), &body.to_string()).await.expect(201);
    }

    /// Changes settings of a queue.
    pub async fn configure(&self, queue: &str, settings: Value) -> Answer {
        let body = json!({"settings": settings}).to_string();
        self.patch(&format!("/queues/{queue}"), &body).await
    }

    /// Stores a message, whole with its envelope, and returns its id.
    pub async fn send(&self, queue: &str, body: &str) -> i64 {
        let answer = self.post(&format!("/queues/{queue}/messages"), body).await;
        answer.expect(201).json()["msg_id"].as_i64().expect("an id")
    }

    /// Stores a message and returns its id.
    pub async fn send_message(&self, queue: &str, message: impl Into<Value>) -> i64 {
        self.send(queue, &json!({"message": message.into()}).to_string()).await
    }

    /// Receives with these parameters and returns the messages.
    pub async fn receive(&self, queue: &str, parameters: &str) -> Vec<Value> {
        let answer = self.get(&format!("/queues/{queue}/messages?{parameters}")).await;
        answer.expect(200).messages()
    }

    /// Receives with these parameters and insists on one message.
    #[track_caller]
    pub fn receive_one(&self, queue: &str, parameters: &str) -> impl Future<Output = Value> {
        let at = Location::caller();
        async move {
            let mut received = self.receive(queue, parameters).await;
            assert_eq!(received.len(), 1, "{at}: {received:?}");
            received.remove(0)
        }
    }

    /// How many clients wait for messages of a queue, at this gateway.
    pub async fn waiters(&self, queue: &str) -> u64 {
        let metrics = self.get(&format!("/queues/{queue}/metrics")).await.expect(200).json();
        metrics["waiters"].as_u64().expect("a number")
    }

    /// Waits until so many clients wait for messages of a queue.
    pub async fn wait_for_waiters(&self, queue: &str, count: u64) {
        let what = format!("{count} wait for messages of {queue}");
        let path = format!("/queues/{queue}/metrics");
        let metrics = async || self.get(&path).await.json();
        eventually(&what, async || (metrics().await["waiters"] == count).then_some(())).await;
    }

    /// Everything in a queue, in order of `msg_id`, leased and delayed messages too.
    pub async fn all(&self, queue: &str) -> Vec<Value> {
        self.get(&format!("/queues/{queue}/peek?limit=100")).await.expect(200).messages()
    }
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        Self { status, headers, text }
    }

    /// Insists on a status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Insists on an error as the contract has it.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{}", answer.text);
        let body = answer.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status, "{body}");
        assert_eq!(body["instance"], answer.header("x-request-id"), "{body}");
        for field in ["type", "title", "detail"] {
            assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {body}");
        }
        let detail = body["detail"].as_str().unwrap_or_default();
        for internal in ["SELECT", "pgmq.q_", "relation", "stack backtrace", "/run/"] {
            assert!(!detail.contains(internal), "{internal:?} shows in {detail:?}");
        }
        answer
    }

    /// The `detail` of an error.
    #[track_caller]
    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().expect("a detail").to_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The list under `messages`.
    #[track_caller]
    pub fn messages(&self) -> Vec<Value> {
        self.json()["messages"].as_array().expect("messages").clone()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}
