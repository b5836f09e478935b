//! What the program takes of memory, whatever it is asked for. The bounds are far from what it takes,
//! and from what it took when it held everything at once.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, body::Incoming};

use super::{
    keys::made,
    support::{
        Answer, Client, TestDatabase, eventually,
        process::{Program, program},
        raw,
    },
};

/// Runs the program on a database, with a queue `q`, and tells by how many MiB its peak grew during
/// `work`.
async fn growth(database: &TestDatabase, work: impl AsyncFnOnce(&Client)) -> u64 {
    let url = database.url();
    let environment = [("PGMQ_GATEWAY__DATABASE__URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    let mut gateway = Program::start(program(&[], &environment));
    let client = gateway.client().await;
    client.create("q").await;
    client.send("q", r#"{"message":1}"#).await;
    client.receive_one("q", "vt=600").await;
    client.delete("/queues/q/messages/1").await.expect(204);
    let before = gateway.peak_memory();
    work(&client).await;
    gateway.peak_memory() - before
}

/// Asks for a path many times on one connection, and takes nothing of the answers but their heads. They stay
/// on their way for as long as what is returned is kept.
async fn asked_and_not_taken(client: &Client, path: &str, times: usize) -> Vec<Response<Incoming>> {
    let address = client.base.trim_start_matches("http://").parse().expect("an address");
    let mut sender = raw::unwilling(address).await;
    let mut answers = Vec::new();
    for _ in 0..times {
        let request = hyper::Request::get(format!("http://localhost{path}"));
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        answers.push(sender.send_request(request).await.expect("a head"));
    }
    answers
}

/// Nobody needs a key for them.
#[tokio::test]
async fn pages_that_are_asked_for_and_not_taken_are_there_once() {
    let database = TestDatabase::new().await;
    let pages = async |client: &Client| {
        let mut answers = Vec::new();
        for path in ["/docs/swagger-ui-bundle.js", "/openapi.json", "/docs/openapi.json"] {
            let of_path = asked_and_not_taken(client, path, 100).await;
            for answer in &of_path {
                assert_eq!(answer.status(), 200, "{path}");
                assert!(answer.headers().contains_key("content-length"), "{path}");
            }
            answers.push(of_path);
        }
    };
    let growth = growth(&database, pages).await;
    assert!(growth < 40, "{growth} MiB");
}

/// In a second, and on one of the threads that serve everybody, it was a hundred times as much.
#[tokio::test]
async fn a_form_of_the_dashboard_takes_a_few_times_its_text() {
    let database = TestDatabase::new().await;
    let forms = async |client: &Client| {
        let large = (16 << 20) - 16;
        let no_json = format!("message={}", "<".repeat(large));
        for (form, status, told) in [
            ("a&".repeat(large / 2), 400, "There is no field"),
            ("delay&".repeat(large / 6), 400, "more than 1100 fields"),
            (no_json, 422, "too long to be shown again"),
        ] {
            let request = client.request("POST", "/ui/queues/q/send");
            let request = request.header("sec-fetch-site", "same-origin");
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            let page = Answer::of(request.body(form)).await.expect(status).text;
            assert!(page.contains(told), "{told}: {page:.2000}");
            assert!(page.len() < 100_000, "{told}: {} bytes", page.len());
        }
    };
    let growth = growth(&database, forms).await;
    assert!(growth < 100, "{growth} MiB");
}

#[tokio::test]
async fn a_long_list_takes_no_more_than_its_text() {
    let database = TestDatabase::new().await;
    let lists = async |client: &Client| {
        let list = |entry: &str| format!("[{}]", vec![entry; (4 << 20) / entry.len()].join(","));
        let (empty, number) = (list("{}"), list("1"));
        for (path, body) in [
            ("/transactions", format!("{{\"operations\":{empty}}}")),
            ("/queues/q/messages/settle", format!("{{\"delete\":{empty}}}")),
            ("/queues/q/archive/replay", format!("{{\"msg_ids\":{number}}}")),
        ] {
            client.post(path, &body).await.problem(400, "invalid_request");
        }
    };
    let growth = growth(&database, lists).await;
    assert!(growth < 60, "{growth} MiB");
}

/// Before it is known whether whoever sent it may do anything.
#[tokio::test]
async fn a_request_of_sqs_takes_a_few_times_its_text() {
    let database = TestDatabase::new().await;
    let requests = async |client: &Client| {
        let list = |entry: &str| vec![entry; (4 << 20) / (entry.len() + 1)].join(",");
        let handle = STANDARD.encode(format!("[{}]", list("0")));
        for (action, input, code) in [
            ("ListQueues", format!("{{\"x\":[{}]}}", list(r#"{"":0}"#)), ""),
            (
                "SendMessageBatch",
                format!(r#"{{"QueueUrl":"q","Entries":[{}]}}"#, list("{}")),
                "AWS.SimpleQueueService.TooManyEntriesInBatchRequest;Sender",
            ),
            (
                "ReceiveMessage",
                format!(r#"{{"QueueUrl":"q","MessageAttributeNames":[{}]}}"#, list(r#""a""#)),
                "SerializationException;Sender",
            ),
            (
                "ListMessageMoveTasks",
                format!(r#"{{"SourceArn":"{}"}}"#, ":".repeat(8 << 20)),
                "ResourceNotFoundException;Sender",
            ),
            (
                "CancelMessageMoveTask",
                format!(r#"{{"TaskHandle":"{handle}"}}"#),
                "InvalidParameterValue;Sender",
            ),
        ] {
            let request = client.request("POST", "/");
            let request = request.header("x-amz-target", format!("AmazonSQS.{action}"));
            let answer = Answer::of(request.body(input)).await;
            assert_eq!(answer.header("x-amzn-query-error"), code, "{action}: {}", answer.text);
        }
        let form = client.request("POST", "/");
        let form = form.header("content-type", "application/x-www-form-urlencoded");
        let answer = Answer::of(form.body("a&".repeat(2 << 20))).await;
        assert!(answer.expect(413).text.contains("too many fields"));
    };
    let growth = growth(&database, requests).await;
    assert!(growth < 60, "{growth} MiB");
}

/// Where a header says that a message comes from, of one whose key may not send everywhere.
#[tokio::test]
async fn a_header_that_is_no_text_is_not_taken_to_pieces() {
    let database = TestDatabase::new().await;
    let sends = async |client: &Client| {
        let key = made(&database, &["create", "--name", "k", "--grant", "send:q"]);
        let sender = client.with_key(&key);
        eventually("a key is needed, and this one is known", async || {
            let known = sender.get("/queues/q").await.status == 200;
            (known && client.get("/queues/q").await.status == 401).then_some(())
        })
        .await;
        let body = |origin: &str| {
            format!(r#"{{"message":1,"headers":{{"x-dead-letter-queue":{origin}}}}}"#)
        };
        let list = format!("[{}0]", "0,".repeat(7 << 20));
        for origin in [&*list, "{}", "1", r#""other""#] {
            let refused = sender.post("/queues/q/messages", &body(origin)).await;
            refused.problem(403, "forbidden");
        }
        for origin in [r#""q""#, r#""q""#, "null"] {
            sender.send("q", &body(origin)).await;
        }
    };
    let growth = growth(&database, sends).await;
    assert!(growth < 100, "{growth} MiB");
}

/// Messages that are small as SQL clients store them, and of which an answer holds one once they are written
/// out.
async fn store_enormous(database: &TestDatabase, count: usize) {
    let message = "('[' || repeat('1e131000,', 126) || '1e131000]')::jsonb";
    let sql = format!("SELECT pgmq.send('q', {message}) FROM generate_series(1, {count})");
    database.execute(&sql).await;
}

#[tokio::test]
async fn enormous_messages_are_not_held_together() {
    let database = TestDatabase::new().await;
    let reads = async |client: &Client| {
        store_enormous(&database, 12).await;
        let answers = [
            client.get("/queues/q/messages?qty=12&vt=600").await,
            client.get("/queues/q/peek?limit=12").await,
            client.post("/queues/q/messages/pop?qty=12", "").await,
        ];
        // Its numbers are too large for most who read JSON.
        for answer in answers {
            let text = answer.expect(200).text;
            assert_eq!(text.matches("\"msg_id\":").count(), 1, "{} bytes", text.len());
        }
    };
    let growth = growth(&database, reads).await;
    let counts = "SELECT array_agg(read_ct ORDER BY msg_id)::text FROM pgmq.q_q";
    assert_eq!(database.value::<String>(counts).await, "{1,0,0,0,0,0,0,0,0,0,0}");
    assert!(growth < 250, "{growth} MiB");
}
