//! `fair`: the groups of a queue take turns.

use std::collections::{BTreeMap, BTreeSet};

use pgmq_gateway::config::{ReadMode, Settings, Strategy};
use serde_json::{Value, json};
use sqlx::Connection;

use crate::support::{Client, TestGateway};

const WAYS: [fn(&mut Settings); 3] = [
    |_| {},
    |settings| settings.engine.read = ReadMode::Pgmq,
    |settings| settings.long_poll.strategy = Strategy::ReadWithPoll,
];

async fn send(client: &Client, group: Option<&str>, count: usize) {
    let headers = group.map(|group| json!({"x-pgmq-group": group}));
    let messages = vec![json!({"message": group, "headers": headers}); count];
    let body = json!({"messages": messages}).to_string();
    client.post("/queues/q/messages/batch", &body).await.expect(201);
}

/// The groups of messages, in the order in which they came.
fn groups(messages: &[Value]) -> Vec<String> {
    let group = |m: &Value| m["message"].as_str().unwrap_or("none").to_owned();
    messages.iter().map(group).collect()
}

async fn fair(way: fn(&mut Settings)) -> TestGateway {
    let gateway = TestGateway::with(way).await;
    gateway.create_with("q", &json!({"settings": {"fair": true}})).await;
    gateway
}

#[tokio::test]
async fn a_backlog_of_one_group_holds_up_no_other() {
    for way in WAYS {
        let gateway = fair(way).await;
        send(&gateway, Some("busy"), 500).await;
        send(&gateway, Some("a"), 2).await;
        send(&gateway, None, 1).await;
        send(&gateway, Some("z"), 1).await;
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.extend(groups(&[gateway.receive_one("q", "vt=600").await]));
        }
        seen.sort();
        assert_eq!(seen, ["a", "busy", "none", "z"], "each in its turn");
        // Without blocking: more of a group whose first one is in somebody's hands.
        let rest = groups(&gateway.receive("q", "qty=10&vt=600").await);
        let mut count = BTreeMap::new();
        for group in &rest {
            *count.entry(&**group).or_insert(0) += 1;
        }
        assert_eq!(count, BTreeMap::from([("a", 1), ("busy", 9)]));
    }
}

#[tokio::test]
async fn one_receive_takes_one_of_each_and_then_more_of_each() {
    let gateway = fair(|_| {}).await;
    for (group, messages) in [("a", 5), ("b", 1), ("c", 3)] {
        send(&gateway, Some(group), messages).await;
    }
    let first = groups(&gateway.receive("q", "qty=2&vt=600").await);
    assert_eq!(first, ["a", "b"]);
    let all = groups(&gateway.receive("q", "qty=100&vt=600").await);
    assert_eq!(all, ["c", "a", "c", "a", "c", "a", "a"]);
    assert!(gateway.receive("q", "qty=100").await.is_empty());
}

#[tokio::test]
async fn a_crowd_gets_everything_once() {
    let gateway = fair(|_| {}).await;
    for n in 0..20 {
        send(&gateway, Some(&format!("g{n}")), if n == 7 { 300 } else { 5 }).await;
    }
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = gateway.client.clone();
        crowd.spawn(async move {
            let mut ids = Vec::new();
            loop {
                let messages = client.receive("q", "qty=7&vt=600&wait=1").await;
                if messages.is_empty() {
                    return ids;
                }
                ids.extend(messages.iter().map(|m| m["msg_id"].as_i64().expect("an id")));
            }
        });
    }
    let mut ids: Vec<i64> = crowd.join_all().await.into_iter().flatten().collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=395).collect::<Vec<_>>());
}

/// What it costs does not grow with the messages of one group, nor with those that are in somebody's hands.
#[tokio::test]
async fn the_cost_does_not_grow_with_a_backlog() {
    let gateway = fair(|_| {}).await;
    send(&gateway, Some("small"), 3).await;
    let rows = "INSERT INTO pgmq.q_q (vt, read_ct, message, headers) \
                SELECT now() + CASE WHEN n % 2 = 0 THEN interval '1 h' ELSE '0' END, n % 2, '\"busy\"', \
                       '{\"x-pgmq-group\": \"busy\"}' FROM generate_series(1, 50000) n";
    gateway.database.execute(rows).await;
    gateway.database.execute("ANALYZE pgmq.q_q").await;
    let cost = pages_of_a_receive(&gateway).await;
    assert!((1..400).contains(&cost), "{cost} pages");
}

/// Nor with the groups of which everything is in somebody's hands, or delayed.
#[tokio::test]
async fn the_cost_does_not_grow_with_groups_that_have_nothing_to_give() {
    let gateway = fair(|_| {}).await;
    let rows = "INSERT INTO pgmq.q_q (vt, message, headers) \
                SELECT now() + interval '1 h', '\"hidden\"', \
                       jsonb_build_object('x-pgmq-group', 'g' || n) FROM generate_series(1, 20000) n";
    gateway.database.execute(rows).await;
    gateway.database.execute("ANALYZE pgmq.q_q").await;
    for group in ["g1", "g777", "g9999", "h"] {
        send(&gateway, Some(group), 8).await;
    }
    let cost = pages_of_a_receive(&gateway).await;
    assert!((1..400).contains(&cost), "{cost} pages");
    // And they take turns as ever: each had five or so of the twenty.
    let seen = groups(&gateway.receive("q", "qty=4&vt=600").await);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 4, "{seen:?}");
}

/// What the second of two receives of ten messages reads of the table and its indexes.
async fn pages_of_a_receive(gateway: &TestGateway) -> i64 {
    let read = "SELECT (idx_blks_hit + idx_blks_read + heap_blks_hit + heap_blks_read)::int8 \
                FROM pg_statio_user_tables WHERE relname = 'q_q'";
    let take = "SELECT count(*) FROM pgmq_gateway.receive_fair('q', 60, 10, false, NULL, NULL, NULL, false)";
    let mut connection = gateway.database.connect().await;
    let mut before = 0;
    for _ in 0..2 {
        before = gateway.database.value::<i64>(read).await;
        for statement in [take, "SELECT pg_stat_force_next_flush()"] {
            sqlx::query(statement).execute(&mut connection).await.expect("received");
        }
    }
    gateway.database.value::<i64>(read).await - before
}

#[tokio::test]
async fn dead_letters_filters_and_modes_go_their_own_way() {
    let gateway = fair(|_| {}).await;
    gateway.configure("q", json!({"max_receives": 1})).await.expect(200);
    send(&gateway, Some("a"), 1).await;
    gateway.receive_one("q", "vt=0").await;
    send(&gateway, Some("b"), 2).await;
    assert_eq!(groups(&gateway.receive("q", "qty=9&vt=600").await), ["b", "b"]);
    let archived = gateway.get("/queues/q/archive").await.expect(200).messages();
    assert_eq!(groups(&archived), ["a"]);
    send(&gateway, Some("c"), 2).await;
    assert_eq!(gateway.receive("q", "qty=9&fifo=head&vt=600").await.len(), 1);
    gateway.send("q", r#"{"message":{"k":1}}"#).await;
    assert_eq!(gateway.receive("q", "qty=9&filter=%7B%22k%22%3A1%7D").await.len(), 1);
}

/// A row that its table does not let go keeps neither its group nor others from being received.
#[tokio::test]
async fn a_row_that_is_kept_holds_up_nobody() {
    let gateway = fair(|_| {}).await;
    send(&gateway, Some("a"), 3).await;
    send(&gateway, Some("b"), 1).await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN \
               IF new.msg_id = 1 THEN RETURN NULL; END IF; RETURN new; END'; \
             CREATE TRIGGER keep BEFORE UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()",
        )
        .await;
    let mut seen = groups(&gateway.receive("q", "qty=9&vt=600").await);
    seen.sort();
    assert_eq!(seen, ["a", "a", "b"]);
}

/// The index comes and goes with the setting, beside running traffic.
#[tokio::test]
async fn the_setting_brings_its_index_and_takes_it_away() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    send(&gateway, Some("busy"), 50).await;
    send(&gateway, Some("a"), 1).await;
    let indexes = "SELECT count(*) FROM pg_index i WHERE i.indrelid = 'pgmq.q_q'::regclass AND i.indisvalid \
                   AND pg_get_indexdef(i.indexrelid) LIKE '%x-pgmq-group%, vt)'";
    assert_eq!(gateway.database.value::<i64>(indexes).await, 0);
    for _ in 0..2 {
        let queue = gateway.configure("q", json!({"fair": true})).await.expect(200).json();
        assert_eq!((&queue["settings"]["fair"], &queue["fifo"]), (&json!(true), &json!(false)));
        assert_eq!(gateway.database.value::<i64>(indexes).await, 1);
    }
    let mut seen = groups(&gateway.receive("q", "qty=2&vt=0").await);
    seen.sort();
    assert_eq!(seen, ["a", "busy"]);
    gateway.configure("q", json!({"fair": null})).await.expect(200);
    assert_eq!(gateway.database.value::<i64>(indexes).await, 0);
    assert_eq!(groups(&gateway.receive("q", "qty=2").await), ["busy", "busy"]);
}

/// What a read of a quiet group takes does not grow with the backlog of another, of which the planner knows alone.
#[tokio::test]
async fn a_backlog_of_one_group_makes_no_other_dear() {
    const BACKLOG: i64 = 20_000;
    let gateway = fair(|_| {}).await;
    gateway.create_with("f", &json!({"fifo": true})).await;
    for queue in ["q", "f"] {
        let message = |group: &str, count| {
            format!(
                "INSERT INTO pgmq.q_{queue} (vt, message, headers) \
                 SELECT clock_timestamp(), '1', '{{\"x-pgmq-group\": \"{group}\"}}' FROM generate_series(1, {count}); "
            )
        };
        gateway.database.execute(&message("noisy", BACKLOG)).await;
        gateway.database.execute(&format!("ANALYZE pgmq.q_{queue}")).await;
        if queue == "f" {
            // Those of a FIFO queue are looked for among the first thousand.
            let hide = "UPDATE pgmq.q_f SET vt = 'infinity' WHERE msg_id > 500";
            gateway.database.execute(hide).await;
        }
        gateway.database.execute(&message("quiet", 1)).await;
    }
    for (queue, read) in [
        ("q", "receive_fair('q', 30, 1, false, NULL, NULL, convert_to('noisy', 'UTF8'), false)"),
        ("f", "receive_fifo('f', 'head', 30, 10, false, NULL, NULL, false)"),
    ] {
        let mut connection = gateway.database.connect().await;
        let mut transaction = connection.begin().await.expect("begun");
        let sql = format!(
            "SELECT headers ->> 'x-pgmq-group' FROM pgmq_gateway.{read} WHERE msg_id IS NOT NULL"
        );
        let groups: Vec<String> =
            sqlx::query_scalar(&sql).fetch_all(&mut *transaction).await.expect("read");
        assert!(groups.contains(&"quiet".to_owned()), "{groups:?}");
        let sql = format!(
            "SELECT (seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_xact_user_tables WHERE relname = 'q_{queue}'"
        );
        let fetched: i64 =
            sqlx::query_scalar(&sql).fetch_one(&mut *transaction).await.expect("counted");
        assert!(fetched < BACKLOG / 4, "{fetched} rows of {queue}");
    }
}
