//! Queues of many groups: which of them has its turn, and what it takes to find it.

use serde_json::{Value, json};
use sqlx::Connection;

use crate::support::{Holder, TestGateway};

/// A queue with so many groups, the oldest first, each with two messages of which the first are older.
async fn with_groups(groups: usize) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"fifo": true})).await;
    let fill = format!(
        "INSERT INTO pgmq.q_q (vt, message, headers) \
         SELECT now() - interval '1 hour' + n * interval '1 ms', to_jsonb(n), \
                jsonb_build_object('x-pgmq-group', 'g' || n % {groups}) \
         FROM generate_series(0, 2 * {groups} - 1) n"
    );
    gateway.database.execute(&fill).await;
    gateway.database.execute("ANALYZE pgmq.q_q").await;
    gateway
}

async fn numbers(gateway: &TestGateway, parameters: &str) -> Vec<u64> {
    let received: Vec<Value> = gateway.receive("q", parameters).await;
    received.iter().filter_map(|message| message["message"].as_u64()).collect()
}

#[tokio::test]
async fn groups_behind_those_in_flight_have_their_turn() {
    let gateway = with_groups(60).await;
    let heads: Vec<u64> = (0..30).collect();
    assert_eq!(numbers(&gateway, "fifo=head&qty=30&vt=300").await, heads);
    assert_eq!(numbers(&gateway, "fifo=grouped&qty=3&vt=300").await, [30, 90, 31]);
    assert_eq!(numbers(&gateway, "fifo=round_robin&qty=3&vt=300").await, [32, 33, 34]);
    // Fewer are left than one more than is asked for at first.
    let rest: Vec<u64> = (35..60).collect();
    assert_eq!(numbers(&gateway, "fifo=head&qty=100&vt=300").await, rest);
    assert!(numbers(&gateway, "fifo=grouped&qty=1").await.is_empty());
}

/// However many others are at work in the first groups.
#[tokio::test]
async fn groups_behind_those_that_are_locked_have_their_turn() {
    let gateway = with_groups(60).await;
    let locked = "SELECT FROM pgmq.q_q WHERE message::text::int < 50 FOR UPDATE";
    let holder = Holder::of(&gateway.database, locked).await;
    assert_eq!(numbers(&gateway, "fifo=grouped&qty=3&vt=300").await, [50, 110, 51]);
    assert_eq!(
        numbers(&gateway, "fifo=head&qty=20&vt=300").await,
        [52, 53, 54, 55, 56, 57, 58, 59]
    );
    holder.rollback().await;
    assert_eq!(numbers(&gateway, "fifo=grouped&qty=1&vt=300").await, [0]);
}

/// One message costs a look at a few groups.
#[tokio::test]
async fn a_receive_does_not_look_at_every_group() {
    let gateway = with_groups(500).await;
    let mut connection = gateway.database.connect().await;
    let mut transaction = connection.begin().await.expect("begun");
    let receive = "SELECT count(*) FROM pgmq_gateway.receive_fifo('q', 'grouped', 300, 1, false, NULL, NULL, false)";
    let received: i64 =
        sqlx::query_scalar(receive).fetch_one(&mut *transaction).await.expect("received");
    let scans = "SELECT idx_scan FROM pg_stat_xact_user_tables WHERE relid = 'pgmq.q_q'::regclass";
    let scans: i64 = sqlx::query_scalar(scans).fetch_one(&mut *transaction).await.expect("counted");
    assert_eq!(received, 1);
    assert!(scans < 60, "{scans} scans of indexes");
    transaction.rollback().await.expect("rolled back");
}

/// Who wants one message each has the first of a group each, out of the same read.
#[tokio::test]
async fn a_crowd_that_wants_one_message_each_shares_reads() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"fifo": true})).await;
    let modes = ["grouped", "round_robin", "head"].into_iter().cycle().take(24);
    let receive = |mode| {
        let client = gateway.client.clone();
        let parameters = format!("fifo={mode}&wait=20&vt=300");
        tokio::spawn(async move { client.receive("q", &parameters).await })
    };
    let crowd: Vec<_> = modes.map(receive).collect();
    gateway.wait_for_waiters("q", 24).await;
    let in_group = |n| json!({"message": n, "headers": {"x-pgmq-group": format!("g{}", n % 24)}});
    let messages: Vec<Value> = (0..48).map(in_group).collect();
    let batch = json!({"messages": messages}).to_string();
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);
    let mut received = Vec::new();
    for one in crowd {
        let messages = one.await.expect("received");
        assert_eq!(messages.len(), 1, "{messages:?}");
        received.push(messages[0]["message"].as_u64().expect("a number"));
    }
    received.sort_unstable();
    assert_eq!(received, (0..24).collect::<Vec<u64>>());
    let commits = "SELECT count(DISTINCT xmin::text) FROM pgmq.q_q WHERE read_ct = 1";
    let commits = gateway.database.value::<i64>(commits).await;
    assert!(commits < 8, "{commits} commits for 24 receives");
}
