//! What a filter may ask of the database: whatever it is compared with, it comes to an end.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tokio::time::timeout;

use crate::support::TestGateway;

/// A message of nothing but empty arrays, each of which every element of a filter's array is compared with.
const ARRAYS: &str = "jsonb_build_object('a', ('[' || repeat('[],', 340000) || '[]]')::jsonb)";

/// A filter whose arrays have so many elements.
fn filter_of(elements: usize) -> String {
    format!("{{\"a\":[{}]}}", vec!["[1]"; elements / 2].join(","))
}

fn encoded(filter: &str) -> String {
    utf8_percent_encode(filter, NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn a_filter_that_nothing_would_end_is_refused_wherever_one_is_taken() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("other").await;
    gateway.database.execute(&format!("SELECT pgmq.send('q', {ARRAYS})")).await;
    gateway.database.execute(&format!("SELECT pgmq.send('q', {ARRAYS})")).await;
    gateway.database.execute("SELECT pgmq.archive('q', 1)").await;
    let nested = format!("{{\"a\":{}1{}}}", "[".repeat(17), "]".repeat(17));
    let spread = json!({"a": [1, 2, 3, 4, 5, 6, 7, 8, 9], "b": {"c": [1, 2, 3, 4, 5, 6, 7, 8]}});
    let long = json!({"a": "x".repeat(4_096)}).to_string();
    for (filter, allowed) in [
        (filter_of(2_000), "16 array elements"),
        (filter_of(5_000), "4096 bytes"),
        (filter_of(18), "16 array elements"),
        (nested, "16 array elements"),
        (spread.to_string(), "16 array elements"),
        (long, "4096 bytes"),
    ] {
        let query = encoded(&filter);
        let body = format!("{{\"filter\":{filter},\"to\":\"other\"}}");
        let dry = format!("{{\"filter\":{filter},\"dry_run\":true}}");
        let asked = async {
            let mut answers = Vec::new();
            for path in ["messages?", "messages?wait=1&", "archive?"] {
                answers.push(gateway.get(&format!("/queues/q/{path}filter={query}")).await);
            }
            for body in [&body, &dry] {
                answers.push(gateway.post("/queues/q/archive/replay", body).await);
            }
            answers
        };
        // Compared with such a message, the first one takes minutes, and nothing ends it.
        let answers = timeout(Duration::from_secs(10), asked).await.expect("refused at once");
        for answer in answers {
            let detail = answer.problem(400, "invalid_request").detail();
            assert!(detail.contains("`filter` must") && detail.contains(allowed), "{detail}");
        }
    }
}

#[tokio::test]
async fn the_dearest_filter_that_is_taken_comes_to_an_end() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute(&format!("SELECT pgmq.send('q', {ARRAYS})")).await;
    let filter = encoded(&filter_of(16));
    let received = gateway.receive("q", &format!("filter={filter}")).await;
    assert!(received.is_empty());
    let filter = encoded(&json!({"a": vec![json!([]); 16]}).to_string());
    assert_eq!(gateway.receive("q", &format!("filter={filter}")).await.len(), 1);
}

#[tokio::test]
async fn the_document_says_what_a_filter_may_have() {
    let gateway = TestGateway::start().await;
    let document = gateway.get("/openapi.json").await.expect(200).json();
    for path in ["/queues/{queue}/messages", "/queues/{queue}/archive"] {
        let parameters = document["paths"][path]["get"]["parameters"].as_array().expect("a list");
        let filter = parameters.iter().find(|p| p["name"] == "filter").expect("a filter");
        let said = filter["description"].as_str().expect("text");
        assert!(said.contains("4096 bytes") && said.contains("16 array elements"), "{said}");
    }
}

/// A text in another encoding would be compared as one that nobody wrote.
#[tokio::test]
async fn a_query_that_is_no_utf8_is_refused_at_every_door() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let filter = "filter=%7B%22name%22%3A%22caf%E9%22%7D";
    for path in [
        format!("/queues/q/messages?wait=1&{filter}"),
        format!("/queues/q/archive?{filter}"),
        "/queues?prefix=%E9".to_owned(),
    ] {
        let refused = gateway.get(&path).await.problem(400, "invalid_request");
        assert!(refused.detail().contains("UTF-8"), "{}", refused.detail());
    }
    gateway.get(&format!("/ui/queues/q/messages?{filter}")).await.expect(400);
    let function = "pop?columns=%E9";
    super::supabase::call(&gateway, function, json!({"queue_name": "q"})).await.expect(400);
    gateway
        .get(&format!("/queues/q/messages?{}", filter.replace("%E9", "%C3%A9")))
        .await
        .expect(200);
}
