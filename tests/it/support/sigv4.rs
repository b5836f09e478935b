//! Requests signed by hand, each as its test writes it down.

use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{Answer, TestGateway, raw};

/// Who signs, when, and for what.
#[derive(Clone)]
pub struct Signer {
    pub id: String,
    pub secret: String,
    pub at: DateTime<Utc>,
    /// Of the scope; the day of `at` unless a test wants another.
    pub date: String,
    pub region: String,
    pub service: String,
    pub terminator: String,
}

impl Signer {
    pub fn new(id: &str, secret: &str) -> Self {
        Self::at(id, secret, Utc::now())
    }

    pub fn at(id: &str, secret: &str, at: DateTime<Utc>) -> Self {
        Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            at,
            date: at.format("%Y%m%d").to_string(),
            region: "eu-north-1".to_owned(),
            service: "sqs".to_owned(),
            terminator: "aws4_request".to_owned(),
        }
    }

    /// What stands in `X-Amz-Date`.
    pub fn time(&self) -> String {
        self.at.format("%Y%m%dT%H%M%SZ").to_string()
    }

    /// What it signs for.
    pub fn scope(&self) -> String {
        format!("{}/{}/{}/{}", self.date, self.region, self.service, self.terminator)
    }

    /// The signature of a request as it is written down to be signed.
    pub fn signature(&self, canonical: &str) -> String {
        let hash = hex(&Sha256::digest(canonical));
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{}\n{hash}", self.time(), self.scope());
        let mut key = hmac(format!("AWS4{}", self.secret).as_bytes(), &self.date);
        for part in [&self.region, &self.service, &self.terminator] {
            key = hmac(&key, part);
        }
        hex(&hmac(&key, &to_sign))
    }

    /// The header Authorization; `names` are those of the signed headers, with `;` between them.
    pub fn authorization(&self, names: &str, canonical: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={}",
            self.id,
            self.scope(),
            self.signature(canonical)
        )
    }
}

pub fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The SHA-256 of a body.
pub fn hash(body: &str) -> String {
    hex(&Sha256::digest(body))
}

/// Sends a request as it is written, on a connection of its own.
pub async fn send(
    gateway: &TestGateway,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let length = body.len().to_string();
    let own = [("Connection", "close"), ("Content-Length", &length)];
    let mut lines = vec![format!("{method} {target} HTTP/1.1")];
    lines.extend(headers.iter().chain(&own).map(|(name, value)| format!("{name}: {value}")));
    let request = format!("{}\r\n\r\n{body}", lines.join("\r\n"));
    let mut stream = raw::connect(gateway).await;
    stream.write_all(request.as_bytes()).await.expect("written");
    let said = raw::read_all(&mut stream).await.expect("an answer");
    let (status, headers, text) = raw::parse(&said);
    Answer { status, headers, text }
}
