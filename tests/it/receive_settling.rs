//! `POST /queues/{queue}/messages/receive`: settling and receiving in one call.

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{Answer, Client, Holder, PATIENCE, TestGateway, eventually};

const PATH: &str = "/queues/q/messages/receive";

async fn with_messages(count: usize) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for n in 1..=count {
        gateway.send("q", &json!({"message": {"n": n}}).to_string()).await;
    }
    gateway
}

async fn call(client: &Client, body: &Value) -> Answer {
    client.post(PATH, &body.to_string()).await
}

fn ids(answer: &Answer) -> Vec<i64> {
    answer.messages().iter().map(|m| m["msg_id"].as_i64().expect("an id")).collect()
}

fn nothing() -> Value {
    json!({"deleted": [], "archived": [], "dead_lettered": [], "retried": [], "failed": []})
}

#[tokio::test]
async fn it_settles_and_then_receives() {
    let gateway = with_messages(5).await;
    let first = call(&gateway, &json!({"qty": 2, "vt": 600})).await.expect(200);
    assert_eq!((ids(&first), &first.json()["settled"]), (vec![1, 2], &nothing()));
    assert_eq!(first.json().as_object().map(serde_json::Map::len), Some(2));
    let receipts: Vec<Value> = first.messages().iter().map(|m| m["receipt"].clone()).collect();
    let settle = json!({"delete": [{"receipt": receipts[0]}], "retry": [{"receipt": receipts[1]}],
                        "archive": [{"msg_id": 3}, {"msg_id": 77}]});
    let second = call(&gateway, &json!({"settle": settle, "qty": 100})).await.expect(200);
    let settled = &second.json()["settled"];
    assert_eq!((&settled["deleted"], &settled["archived"]), (&json!([1]), &json!([3])));
    assert_eq!((&settled["retried"], &settled["failed"][0]["msg_id"]), (&json!([2]), &json!(77)));
    // What was given back is there to be received.
    let mut received = ids(&second);
    received.sort_unstable();
    assert_eq!(received, [2, 4, 5]);
    let receipt = second.messages()[0]["receipt"].as_str().expect("a receipt").to_owned();
    let id = second.messages()[0]["msg_id"].clone();
    gateway.delete(&format!("/queues/q/messages/{id}?receipt={receipt}")).await.expect(204);
}

#[tokio::test]
async fn nothing_to_settle_and_no_body_at_all_are_a_plain_receive() {
    let gateway = with_messages(3).await;
    assert_eq!(ids(&gateway.post(PATH, "").await.expect(200)), [1]);
    assert_eq!(ids(&call(&gateway, &json!({"settle": {}})).await.expect(200)), [2]);
    assert_eq!(ids(&call(&gateway, &json!({"settle": null, "qty": null})).await.expect(200)), [3]);
    let empty = call(&gateway, &json!({})).await.expect(200).json();
    assert_eq!(empty, json!({"settled": nothing(), "messages": []}));
}

#[tokio::test]
async fn it_waits_and_chooses_as_get_does() {
    let gateway = with_messages(2).await;
    let body = json!({"filter": {"n": 2}, "vt": 600});
    assert_eq!(ids(&call(&gateway, &body).await.expect(200)), [2]);
    let body = json!({"settle": {"delete": [{"msg_id": 1}]}, "wait": 20});
    let (waited, sent) = tokio::join!(call(&gateway, &body), async {
        eventually("it waits", async || {
            let metrics = gateway.get("/queues/q/metrics").await.expect(200).json();
            (metrics["waiters"] == 1 && metrics["queue_length"] == 1).then_some(())
        })
        .await;
        gateway.send("q", r#"{"message":"late"}"#).await
    });
    let waited = waited.expect(200);
    assert_eq!(ids(&waited), [sent]);
    assert_eq!(waited.json()["settled"]["deleted"], json!([1]));
    for group in ["a", "a", "b"] {
        let message = json!({"message": 1, "headers": {"x-pgmq-group": group}});
        gateway.send("q", &message.to_string()).await;
    }
    let heads = call(&gateway, &json!({"fifo": "head", "qty": 10})).await.expect(200);
    assert_eq!(heads.messages().len(), 2, "{}", heads.text);
}

/// The wait is over when the client is: what was settled stays settled, and nothing is leased.
#[tokio::test]
async fn who_leaves_while_waiting_has_settled_and_leased_nothing() {
    let gateway = with_messages(1).await;
    let client = gateway.client.clone();
    let call = tokio::spawn(async move {
        call(&client, &json!({"settle": {"delete": [{"msg_id": 1}]}, "wait": 20})).await
    });
    eventually("it is deleted", async || gateway.all("q").await.is_empty().then_some(())).await;
    call.abort();
    gateway.wait_for_waiters("q", 0).await;
    let sent = gateway.send("q", r#"{"message":2}"#).await;
    let received = timeout(PATIENCE, gateway.receive_one("q", "wait=20")).await.expect("soon");
    assert_eq!((&received["msg_id"], &received["read_ct"]), (&json!(sent), &json!(1)));
}

/// The receive fails as nobody may wait here: the error says what was settled all the same.
#[tokio::test]
async fn what_was_settled_stays_settled_when_the_receive_fails() {
    let gateway = TestGateway::with(|settings| settings.long_poll.max_waiters = 0).await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let body = json!({"settle": {"delete": [{"msg_id": 1}]}, "wait": 1});
    let failed = call(&gateway, &body).await.problem(503, "overloaded");
    assert_eq!(failed.json()["settled"]["deleted"], json!([1]));
    assert!(gateway.all("q").await.is_empty());
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_settled() {
    let gateway = with_messages(1).await;
    for (body, part) in [
        (json!({"settle": {"delete": [{"msg_id": 1}]}, "qty": 101}), "1 to 100"),
        (json!({"settle": {"delete": [{"msg_id": 1}]}, "vt": -1}), "0 to 315360000"),
        (json!({"settle": {"delete": [{"msg_id": 1}]}, "wait": 21}), "0 to 20"),
        (json!({"settle": {"delete": [{"msg_id": 1}]}, "filter": [1]}), "JSON object"),
        (json!({"settle": {"delete": [{"msg_id": 1}]}, "filter": "{}"}), "JSON object"),
        (json!({"settle": {"delete": [{"msg_id": 1}]}, "fifo": "fair"}), "round_robin"),
        (
            json!({"settle": {"delete": [{"msg_id": 1}]}, "fifo": "head", "filter": {"a": 1}}),
            "exclude",
        ),
        (json!({"settle": {"delete": [{"msg_id": 1}, {}]}}), "`settle.delete[1]`"),
        (
            json!({"settle": {"dead_letter": [{"msg_id": 1, "reason": "\u{0}"}]}}),
            "`settle.dead_letter[0].reason`",
        ),
        (json!({"settle": {"remove": []}}), "remove"),
        (json!({"delete": [{"msg_id": 1}]}), "delete"),
    ] {
        let refused = call(&gateway, &body).await;
        assert_eq!(refused.status, 400, "{body}: {}", refused.text);
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(part), "{body}: {detail}");
    }
    gateway.post(&format!("{PATH}?qty=1"), "{}").await.problem(400, "invalid_request");
    assert_eq!(gateway.all("q").await.len(), 1);
    gateway.post("/queues/none/messages/receive", "{}").await.problem(404, "queue_not_found");
    gateway.get(PATH).await.expect(405);
}

/// Messages that are leased to so many workers, one each.
async fn workers_with_one_each(gateway: &TestGateway, count: usize) -> Vec<Value> {
    let leased = gateway.receive("q", &format!("qty={count}&vt=600")).await;
    assert_eq!(leased.len(), count);
    leased.into_iter().map(|message| message["receipt"].clone()).collect()
}

/// What is archived and what is leased next have the same transaction.
#[tokio::test]
async fn both_are_one_commit_where_messages_are_there() {
    let gateway = with_messages(3).await;
    let receipts = workers_with_one_each(&gateway, 1).await;
    let body = json!({"settle": {"archive": [{"receipt": receipts[0]}]}, "qty": 5, "wait": 20});
    let answer = call(&gateway, &body).await.expect(200);
    assert_eq!(answer.json()["settled"]["archived"], json!([1]));
    assert_eq!(ids(&answer), [2, 3]);
    let transactions = "SELECT count(DISTINCT x) FROM (SELECT xmin::text x FROM pgmq.a_q UNION ALL \
                        SELECT xmin::text FROM pgmq.q_q) t";
    assert_eq!(gateway.database.value::<i64>(transactions).await, 1);
    let receipt = answer.messages()[0]["receipt"].as_str().expect("a receipt").to_owned();
    gateway.delete(&format!("/queues/q/messages/2?receipt={receipt}")).await.expect(204);
}

/// Each is told of its own, and each message is given once.
#[tokio::test]
async fn a_crowd_shares_commits() {
    const WORKERS: usize = 60;
    let gateway = with_messages(2 * WORKERS).await;
    let receipts = workers_with_one_each(&gateway, WORKERS).await;
    let calls: Vec<_> = (0..WORKERS)
        .map(|n| {
            let (client, receipt) = (gateway.client.clone(), receipts[n].clone());
            let settle = json!({"archive": [{"receipt": receipt}, {"msg_id": 100_000 + n}]});
            let body = json!({"settle": settle, "vt": 600, "wait": 20});
            tokio::spawn(async move { call(&client, &body).await })
        })
        .collect();
    let mut received = Vec::new();
    for (n, call) in calls.into_iter().enumerate() {
        let answer = call.await.expect("no panic").expect(200);
        let settled = &answer.json()["settled"];
        assert_eq!(settled["archived"], json!([n + 1]), "{}", answer.text);
        assert_eq!(settled["failed"][0]["msg_id"], json!(100_000 + n), "{}", answer.text);
        received.extend(ids(&answer));
    }
    received.sort_unstable();
    let rest: Vec<i64> = (61..=120).collect();
    assert_eq!(received, rest);
    let commits = "SELECT count(DISTINCT xmin::text) FROM pgmq.a_q";
    let commits = gateway.database.value::<i64>(commits).await;
    assert!(commits < 30, "{commits} commits for {WORKERS} requests");
}

/// One that its table keeps is not settled and fails nobody else; the next ones are received all the same.
#[tokio::test]
async fn what_the_table_keeps_fails_alone_beside_others() {
    let gateway = with_messages(20).await;
    let receipts = workers_with_one_each(&gateway, 10).await;
    let held = "CREATE TABLE held (msg_id bigint REFERENCES pgmq.q_q (msg_id)); INSERT INTO held VALUES (4)";
    gateway.database.execute(held).await;
    let calls: Vec<_> = receipts
        .into_iter()
        .map(|receipt| {
            let client = gateway.client.clone();
            let body = json!({"settle": {"delete": [{"receipt": receipt}]}, "vt": 600, "wait": 20});
            tokio::spawn(async move { call(&client, &body).await })
        })
        .collect();
    let mut received = Vec::new();
    for (n, call) in calls.into_iter().enumerate() {
        let answer = call.await.expect("no panic").expect(200);
        let settled = &answer.json()["settled"];
        if n == 3 {
            assert_eq!(settled["failed"][0]["code"], "forbidden", "{}", answer.text);
        } else {
            assert_eq!(settled["deleted"], json!([n + 1]), "{}", answer.text);
        }
        received.extend(ids(&answer));
    }
    received.sort_unstable();
    assert_eq!(received, (11..=20).collect::<Vec<i64>>());
}

/// Who has waited longer is served first, also if others settle and ask meanwhile.
#[tokio::test]
async fn who_settles_does_not_overtake_who_waits() {
    let gateway = with_messages(1).await;
    let receipts = workers_with_one_each(&gateway, 1).await;
    let client = gateway.client.clone();
    let waits = tokio::spawn(async move { client.get("/queues/q/messages?wait=20").await });
    gateway.wait_for_waiters("q", 1).await;
    // Nothing tells the one that waits.
    let insert = "INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '1')";
    gateway.database.execute(insert).await;
    let body = json!({"settle": {"delete": [{"receipt": receipts[0]}]}});
    let second = call(&gateway, &body).await.expect(200);
    assert_eq!(second.json()["settled"]["deleted"], json!([1]));
    let first = waits.await.expect("no panic").expect(200);
    assert_eq!((ids(&first), ids(&second)), (vec![2], vec![]));
}

/// Where the read is in the way, both are done apart.
#[tokio::test]
async fn a_message_that_cannot_be_read_keeps_nothing_from_being_settled() {
    let gateway = with_messages(1).await;
    let ones = format!("[{}0]", "1e131071,".repeat(9_000));
    let insert =
        format!("INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '{ones}'), (now(), '3')");
    gateway.database.execute(&insert).await;
    let body = json!({"settle": {"delete": [{"msg_id": 1}]}, "qty": 5, "wait": 20});
    let answer = call(&gateway, &body).await.expect(200);
    assert_eq!(answer.json()["settled"]["deleted"], json!([1]));
    assert_eq!(ids(&answer), [3]);
}

/// Plain settling shares commits as well.
#[tokio::test]
async fn a_crowd_that_settles_shares_commits() {
    let gateway = with_messages(60).await;
    let calls: Vec<_> = (1..=60)
        .map(|n| {
            let client = gateway.client.clone();
            let body = json!({"archive": [{"msg_id": n}], "retry": [{"msg_id": n + 1000}]});
            let settle =
                async move { client.post("/queues/q/messages/settle", &body.to_string()).await };
            tokio::spawn(settle)
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        let settled = call.await.expect("no panic").expect(200).json();
        assert_eq!(settled["archived"], json!([n + 1]));
        assert_eq!(settled["failed"][0]["msg_id"], json!(n + 1001));
    }
    let commits = "SELECT count(DISTINCT xmin::text) FROM pgmq.a_q";
    let commits = gateway.database.value::<i64>(commits).await;
    assert!(commits < 30, "{commits} commits for 60 requests");
}

/// What is next is leased when what was to be settled is through: its time does not run while that waits.
#[tokio::test]
async fn nothing_is_leased_while_the_settling_waits_for_a_lock() {
    let gateway = with_messages(3).await;
    let receipts = workers_with_one_each(&gateway, 1).await;
    let lock = "SELECT FROM pgmq.q_q WHERE msg_id = 1 FOR UPDATE";
    let holder = Holder::of(&gateway.database, lock).await;
    let client = gateway.client.clone();
    let body = json!({"settle": {"delete": [{"receipt": receipts[0]}]}, "qty": 2, "vt": 600});
    let settling = tokio::spawn(async move { call(&client, &body).await });
    eventually("they were read, and are given back", async || {
        let free = "SELECT count(*) FROM pgmq.q_q WHERE msg_id IN (2, 3) AND vt <= now() AND read_ct = 0 \
                    AND last_read_at IS NOT NULL";
        (gateway.database.value::<i64>(free).await == 2).then_some(())
    })
    .await;
    assert!(!settling.is_finished());
    holder.rollback().await;
    let answer = settling.await.expect("no panic").expect(200);
    assert_eq!((&answer.json()["settled"]["deleted"], ids(&answer)), (&json!([1]), vec![2, 3]));
}
