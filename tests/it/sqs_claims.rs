//! Whoever names another's access key, whose id is no secret, and cannot sign with it: they take nothing from
//! its owner.

use std::net::SocketAddr;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    shares::refused,
    sqs_keys::{AccessKey, admin_key, made},
};
use crate::support::{
    Client, Holder, PATIENCE, TestDatabase, TestGateway, eventually,
    sigv4::{Signer, hash, send},
};

const NAMES: &str = "host;x-amz-date;x-amz-target";
/// Where nobody else asks from.
const ELSEWHERE: &str = "127.0.0.2";

fn key(database: &TestDatabase, name: &str) -> AccessKey {
    made(database, &["create", "--name", name, "--grant", "admin", "--aws"], &[])
}

/// Sends the beginning of a request that names a key, with a signature that somebody made up.
async fn claim(gateway: &TestGateway, key: &AccessKey, header: &str, body: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(ELSEWHERE.parse().expect("an address"), 0)).expect("bound");
    let address = gateway.gateway.address().expect("TCP");
    let mut stream = socket.connect(address).await.expect("connected");
    let signer = Signer::new(&key.id, "guessed");
    let (authorization, time) = (signer.authorization(NAMES, "made up"), signer.time());
    let head = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\nX-Amz-Date: {time}\r\n\
         X-Amz-Target: AmazonSQS.SendMessage\r\n{header}Content-Length: {}\r\n\r\n{body}",
        body.len() + 1
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

async fn until_refused(admin: &Client, limit: &str, count: u64) {
    let enough = async || (refused(admin, limit).await >= count).then_some(());
    eventually("more than a share is refused", enough).await;
}

#[tokio::test]
async fn whoever_names_a_key_takes_nothing_of_its_share() {
    let database = TestDatabase::new().await;
    let [admin, owner, unused] = ["admin", "owner", "unused"].map(|name| key(&database, name));
    let gateway = TestGateway::on(&database, |settings| {
        settings.limits.max_arriving_requests = 4;
        settings.limits.max_message_bytes = 1_000_000;
        settings.limits.max_body_bytes = 1 << 20;
        settings.limits.max_answer_bytes = 1 << 20;
        settings.limits.max_in_flight_bytes = 4 << 20;
    })
    .await;
    let admin = gateway.with_key(&admin_key(&admin));
    admin.create("q").await;
    // Two of them have half of the bytes, and half of the requests that arrive.
    let large = "x".repeat((1 << 20) - 1);
    let mut claims = Vec::new();
    for key in [&unused, &owner] {
        for _ in 0..2 {
            claims.push(claim(&gateway, key, "", &large).await);
        }
        eventually("all of it has come", async || {
            let metrics = admin.get("/metrics").await.expect(200).text;
            metrics.contains("pgmq_gateway_in_flight_bytes 2097152\n").then_some(())
        })
        .await;
        claims.push(claim(&gateway, key, "", "{").await);
        let limit = "key_arriving_requests";
        until_refused(&admin, limit, if key.id == owner.id { 2 } else { 1 }).await;
        if key.id == unused.id {
            claims.clear();
            eventually("they have gone", async || {
                let metrics = admin.get("/metrics").await.expect(200).text;
                metrics.contains("pgmq_gateway_in_flight_bytes 0\n").then_some(())
            })
            .await;
        }
    }
    let message = json!({"QueueUrl": "q", "MessageBody": "y".repeat(500_000)}).to_string();
    owner.asks(&gateway, "SendMessage", &message).await.expect(200);
    drop(claims);
    let used = async |name: &str| {
        let sql = format!(
            "SELECT last_used_at IS NOT NULL FROM pgmq_gateway.api_keys WHERE name = '{name}'"
        );
        database.value::<bool>(&sql).await
    };
    eventually("the owner has used it", async || used("owner").await.then_some(())).await;
    assert!(!used("unused").await, "nobody has");
}

/// What is signed counts as its owner's once that is known.
#[tokio::test]
async fn what_a_key_has_signed_counts_as_its_own() {
    let database = TestDatabase::new().await;
    let [admin, owner] = ["admin", "owner"].map(|name| key(&database, name));
    let gateway = TestGateway::on(&database, |settings| settings.limits.max_requests = 4).await;
    let admin = gateway.with_key(&admin_key(&admin));
    admin.create("q").await;
    let holder = Holder::of_tables(&database, &["q_q"], "ACCESS EXCLUSIVE").await;
    let message = json!({"QueueUrl": "q", "MessageBody": "x"}).to_string();
    let sends = (0..3).map(|_| owner.asks(&gateway, "SendMessage", &message));
    let released = async {
        until_refused(&admin, "key_requests", 1).await;
        holder.rollback().await;
    };
    let (mut answers, ()) = tokio::join!(futures_util::future::join_all(sends), released);
    answers.sort_by_key(|answer| answer.status);
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 503]);
    assert!(answers[2].text.contains("this key"), "{}", answers[2].text);
}

/// Where the body's hash is said and signed, nobody waits for the body to know whose it is.
#[tokio::test]
async fn a_signature_of_an_announced_body_is_verified_before_it_comes() {
    let database = TestDatabase::new().await;
    let owner = key(&database, "owner");
    let gateway = TestGateway::on(&database, |_| {}).await;
    let announced = format!("X-Amz-Content-Sha256: {}\r\n", hash("{}"));
    let mut stream = claim(&gateway, &owner, &announced, "{").await;
    let mut said = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut said)).await.expect("at once").expect("an answer");
    assert_eq!(&said, b"HTTP/1.1 403");
    // The same, signed as it should be; and with another body than the one that was signed.
    let signer = Signer::new(&owner.id, &owner.secret);
    let (time, hash) = (signer.time(), hash("{}"));
    let host = gateway.base.trim_start_matches("http://").to_owned();
    let names = "host;x-amz-content-sha256;x-amz-date;x-amz-target";
    let canonical = format!(
        "POST\n/\n\nhost:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{time}\n\
         x-amz-target:AmazonSQS.ListQueues\n\n{names}\n{hash}"
    );
    let authorization = signer.authorization(names, &canonical);
    let headers = [
        ("Host", &*host),
        ("X-Amz-Content-Sha256", &hash),
        ("X-Amz-Date", &time),
        ("X-Amz-Target", "AmazonSQS.ListQueues"),
        ("Authorization", &authorization),
    ];
    send(&gateway, "POST", "/", &headers, "{}").await.expect(200);
    send(&gateway, "POST", "/", &headers, "[]").await.expect(403);
}
