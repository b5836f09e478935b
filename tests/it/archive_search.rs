//! Searches through archives of which no statement sees the end in time.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::support::TestGateway;

/// More than a statement may take time for, and one that is looked for near the end.
const ROWS: i64 = 2_000_000;
const RARE: i64 = 1_900_000;

/// A gateway that gives a statement little time, and an archive with one message that is `{"x":"rare"}`.
async fn with_long_archive() -> TestGateway {
    let gateway = TestGateway::with(|settings| settings.database.statement_timeout_ms = 300).await;
    gateway.create("q").await;
    let fill = format!(
        "INSERT INTO pgmq.a_q (msg_id, vt, read_ct, enqueued_at, archived_at, message)
         SELECT n, now(), 0, now(), now(),
                CASE WHEN n = {RARE} THEN '{{\"x\":\"rare\"}}' ELSE '{{\"x\":\"usual\"}}' END::jsonb
         FROM generate_series(1, {ROWS}) n"
    );
    gateway.database.execute(&fill).await;
    gateway
}

/// All that an archive shows, page by page.
async fn pages(gateway: &TestGateway, parameters: &str) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/queues/q/archive?{parameters}{after}");
        let page = gateway.get(&path).await.expect(200);
        found.extend(page.messages());
        match page.json()["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return found,
        }
    }
}

/// All that replays come to, one behind the other.
async fn replays(gateway: &TestGateway, mut body: Value) -> i64 {
    let mut count = 0;
    loop {
        let answer = gateway.post("/queues/q/archive/replay", &body.to_string()).await.expect(200);
        let answer = answer.json();
        count += answer["replayed"].as_i64().expect("a number");
        match answer.get("next") {
            Some(next) => body["after"] = next.clone(),
            None => return count,
        }
    }
}

#[tokio::test]
async fn what_is_rare_in_a_long_archive_is_found_counted_and_replayed() {
    let gateway = with_long_archive().await;
    let rare = json!({"x": "rare"});
    let filter = utf8_percent_encode(&rare.to_string(), NON_ALPHANUMERIC).to_string();
    for parameters in [format!("filter={filter}"), format!("limit=1&filter={filter}")] {
        let found = pages(&gateway, &parameters).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&found[0]["msg_id"], &found[0]["message"]), (&json!(RARE), &rare));
    }
    let none = pages(&gateway, "since=2999-01-01T00:00:00Z").await;
    assert_eq!(none, [Value::Null; 0]);
    assert_eq!(replays(&gateway, json!({"dry_run": true, "filter": rare})).await, 1);
    assert_eq!(replays(&gateway, json!({"dry_run": true})).await, ROWS);
    assert_eq!(replays(&gateway, json!({"dry_run": true, "limit": 5})).await, 5);
    assert_eq!(replays(&gateway, json!({"dry_run": true, "after": RARE})).await, ROWS - RARE);
    assert_eq!(replays(&gateway, json!({"filter": rare, "after": RARE})).await, 0);
    assert_eq!(replays(&gateway, json!({"filter": rare})).await, 1);
    assert_eq!(gateway.receive_one("q", "").await["message"], rare);
    // Ids are looked up, however long it is.
    let ids = json!({"msg_ids": [1, RARE, ROWS], "filter": {"x": "usual"}});
    assert_eq!(replays(&gateway, ids).await, 2);
}

/// Letters that cannot go back, of which there are more than a statement may take time for.
#[tokio::test]
async fn a_redrive_goes_past_what_cannot_go_back() {
    let gateway = TestGateway::with(|settings| settings.database.statement_timeout_ms = 300).await;
    for queue in ["q", "dead"] {
        gateway.create(queue).await;
    }
    let fill = "INSERT INTO pgmq.q_dead (vt, message, headers)
        SELECT now(), '1', CASE WHEN n = 300000 THEN '{\"x-dead-letter-queue\":\"q\"}'
                                ELSE '{\"x-dead-letter-queue\":\"gone\"}' END::jsonb
        FROM generate_series(1, 300000) n";
    gateway.database.execute(fill).await;
    let (mut moved, mut body) = (0, json!({}));
    loop {
        let answer = gateway.post("/queues/dead/redrive", &body.to_string()).await.expect(200);
        let answer = answer.json();
        moved += answer["moved"].as_i64().expect("a number");
        match answer.get("next") {
            Some(next) => body["after"] = next.clone(),
            None => break,
        }
    }
    assert_eq!(moved, 1);
    assert_eq!(gateway.all("q").await.len(), 1);
}
