//! Somebody holds an old snapshot, so that nothing that dies is cleaned up: reads cost what they did before, and
//! nothing is missed that comes to stand before where they begin.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Executor, PgConnection};
use tokio::{task::JoinHandle, time::Instant};

use crate::support::{Client, Holder, PATIENCE, TestDatabase, TestGateway, eventually, report};

/// Messages that were there, delivered and deleted; each leaves two entries of the index on `vt`.
const DEAD: i64 = 60_000;
/// Time in which a message is found whatever was done to it: that between two looks from the beginning, those
/// themselves, and a busy machine.
const BOUND: Duration = Duration::from_secs(12);
/// Time in which one is found that was committed late, on a busy machine.
const SOON: Duration = Duration::from_secs(3);

/// Holds a snapshot beside which many messages come and go in a queue `q`, all but one with this id.
async fn with_dead_rows(database: &TestDatabase, but: i64) -> PgConnection {
    let mut holder = database.connect().await;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgmq.q_q";
    holder.execute(begin).await.expect("a snapshot");
    let send = format!("SELECT FROM pgmq.send_batch('q', array_fill('1'::jsonb, ARRAY[{DEAD}]))");
    let lease = format!("UPDATE pgmq.q_q SET vt = clock_timestamp() WHERE msg_id <> {but}");
    let delete = format!("DELETE FROM pgmq.q_q WHERE msg_id <> {but}");
    for statement in [send, lease, delete] {
        database.execute(&statement).await;
    }
    holder
}

async fn cycle(client: &Client) {
    client.send("q", r#"{"message":1}"#).await;
    let id = client.receive_one("q", "vt=600").await["msg_id"].clone();
    client.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
}

async fn floors(client: &Client) -> bool {
    client.get("/metrics").await.text.contains("pgmq_gateway_scan_floors 1\n")
}

/// Nobody has to learn it anew. A look from the beginning may be under way.
async fn still_kept(client: &Client) {
    eventually("reads begin at a floor", async || floors(client).await.then_some(())).await;
}

/// Sends, receives and deletes until reads begin at a floor.
async fn learned(client: &Client) {
    eventually("reads begin at a floor", async || {
        cycle(client).await;
        floors(client).await.then_some(())
    })
    .await;
}

/// A gateway whose queue has dead rows, and has learned where to begin; the snapshot is held for as long as what
/// is returned last.
async fn prepared() -> (TestGateway, PgConnection) {
    prepared_with(json!({})).await
}

async fn prepared_with(queue: Value) -> (TestGateway, PgConnection) {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &queue).await;
    let holder = with_dead_rows(&gateway.database, 0).await;
    learned(&gateway).await;
    (gateway, holder)
}

/// Entries of the index on `vt`, and of that on group and `vt`, that were met so far, as far as the server has counted.
async fn entries_met(database: &TestDatabase) -> i64 {
    let sql = "SELECT sum(idx_tup_read)::int8 FROM pg_stat_user_indexes \
               WHERE relname = 'q_q' AND pg_get_indexdef(indexrelid) LIKE '%vt)'";
    database.value(sql).await
}

/// A client that waits, until it has a message.
async fn waiting(gateway: &TestGateway) -> JoinHandle<(Value, Instant)> {
    let client = gateway.client.clone();
    let task =
        tokio::spawn(
            async move { (client.receive_one("q", "wait=20&vt=600").await, Instant::now()) },
        );
    gateway.wait_for_waiters("q", 1).await;
    task
}

/// Does something again and again, and insists that what it reads begins at the floor: from the beginning each
/// read would meet all that is dead. A look from there, of which there is one in a second, does, and what was read
/// before that was learned is counted late.
async fn begins_at_the_floor(database: &TestDatabase, what: &str, mut work: impl AsyncFnMut()) {
    let (before, began, mut times) = (entries_met(database).await, Instant::now(), 0);
    let (walks, looks) = loop {
        work().await;
        times += 1;
        let looks = i64::try_from(began.elapsed().as_secs()).expect("not long") * 5 / 4 + 15;
        let seen_enough = times > looks * 3 || began.elapsed() > PATIENCE;
        // A session counts once a second.
        if seen_enough && began.elapsed() > Duration::from_secs(3) {
            break ((entries_met(database).await - before) / (2 * DEAD), looks);
        }
    };
    report(&format!("{what}: {times} times, {walks} walks over all that is dead"));
    assert!(walks <= looks + times / 4, "{what}: {walks} walks for {times} times");
}

#[tokio::test]
async fn reads_do_not_walk_what_is_dead() {
    let (gateway, _snapshot) = prepared().await;
    begins_at_the_floor(&gateway.database, "plain", async || cycle(&gateway).await).await;
}

#[tokio::test]
async fn no_other_kind_of_read_walks_what_is_dead() {
    let (gateway, _snapshot) = prepared().await;
    gateway.create("dead").await;
    let limits = json!({"max_receives": 2, "dead_letter_queue": "dead"});
    for (settings, parameters) in [
        (json!({}), "vt=600&filter=%7B%22n%22%3A1%7D"),
        (json!({}), "vt=600&fifo=head"),
        (json!({}), "pop"),
        (limits.clone(), "vt=600"),
        (limits, "pop"),
    ] {
        gateway.configure("q", settings).await.expect(200);
        begins_by(&gateway, parameters).await;
    }
}

#[tokio::test]
async fn reads_in_fair_turns_do_not_walk_what_is_dead() {
    let (gateway, _snapshot) = prepared_with(json!({"settings": {"fair": true}})).await;
    begins_by(&gateway, "vt=600").await;
}

/// Sends, receives in this way and deletes.
async fn begins_by(gateway: &TestGateway, parameters: &str) {
    let work = async || {
        let id = gateway.send("q", r#"{"message":{"n":1}}"#).await;
        if parameters == "pop" {
            let popped = gateway.post("/queues/q/messages/pop", "").await.expect(200);
            assert_eq!(popped.messages().len(), 1);
        } else {
            assert_eq!(gateway.receive_one("q", parameters).await["msg_id"], id);
            gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
        }
    };
    begins_at_the_floor(&gateway.database, parameters, work).await;
}

/// Whatever stands before the floor: what comes first in its group is delivered first.
#[tokio::test]
async fn groups_keep_their_order() {
    let (gateway, _snapshot) = prepared_with(json!({"fifo": true})).await;
    let send = async |group: &str| {
        let message = json!({"message": group, "headers": {"x-pgmq-group": group}});
        gateway.send("q", &message.to_string()).await
    };
    let (a1, a2, b1) = (send("a").await, send("a").await, send("b").await);
    let ids = |messages: &[Value]| -> Vec<i64> {
        messages.iter().filter_map(|message| message["msg_id"].as_i64()).collect()
    };
    let first = gateway.receive("q", "fifo=head&qty=1&vt=600").await;
    assert_eq!(ids(&first), [a1]);
    let rest = gateway.receive("q", "fifo=grouped&qty=10&vt=600").await;
    assert_eq!(ids(&rest), [b1], "what is hidden blocks its group");
    let past = format!("UPDATE pgmq.q_q SET vt = now() - interval '1 h' WHERE msg_id = {a1}");
    gateway.database.execute(&past).await;
    // The group is found by what is visible of it behind the floor, and its first one by its id.
    let again = gateway.receive("q", "fifo=grouped&qty=10&vt=600").await;
    assert_eq!(ids(&again), [a1, a2]);
}

#[tokio::test]
async fn what_is_committed_late_is_found() {
    let (gateway, _snapshot) = prepared().await;
    let send = "SELECT pgmq.send('q', '\"late\"')";
    // One that is noticed at once, and one that is passed over for as long as it is under way.
    for age in ["0.2 s", "2 s"] {
        let late = Holder::of(&gateway.database, send).await;
        let sent: f64 = gateway.database.value("SELECT extract(epoch FROM now())::float8").await;
        let is_old = format!("SELECT now() > to_timestamp({sent}) + interval '{age}'");
        while !gateway.database.value::<bool>(&is_old).await {
            cycle(&gateway).await;
        }
        let waiting = waiting(&gateway).await;
        late.commit().await;
        let committed = Instant::now();
        let (message, at) = waiting.await.expect("no panic");
        report(&format!("{age}: found after {:?}", at - committed));
        assert_eq!(message["message"], "late");
        assert!(at - committed < SOON, "after {:?}", at - committed);
        still_kept(&gateway).await;
    }
}

#[tokio::test]
async fn what_sql_sets_to_the_past_is_found() {
    let (gateway, _snapshot) = prepared().await;
    let database = &gateway.database;
    let delayed = "SELECT pgmq.send('q', '\"delayed\"', 3600)";
    let past = "UPDATE pgmq.q_q SET vt = now() - interval '1 hour' WHERE vt > now()";
    let old = "INSERT INTO pgmq.q_q (vt, message) VALUES (now() - interval '1 hour', '\"old\"')";
    for (before, change) in [(delayed, past), ("SELECT 1", old)] {
        database.execute(before).await;
        let waits = waiting(&gateway).await;
        let change = Holder::of(database, change).await;
        // It lies in front of where reads begin, by the time it is committed.
        let began: f64 = database.value("SELECT extract(epoch FROM now())::float8").await;
        let is_over = format!("SELECT now() > to_timestamp({began}) + interval '5 s'");
        eventually("5 s are over", async || database.value::<bool>(&is_over).await.then_some(()))
            .await;
        change.commit().await;
        let committed = Instant::now();
        let (_, at) = waits.await.expect("no panic");
        report(&format!("set to the past: found after {:?}", at - committed));
        assert!(at - committed < BOUND, "after {:?}", at - committed);
        database.execute("DELETE FROM pgmq.q_q").await;
        // And by who does not wait.
        database.execute(before).await;
        cycle(&gateway).await;
        database.execute(if before == delayed { past } else { old }).await;
        let committed = Instant::now();
        eventually("it is received", async || {
            (!gateway.receive("q", "vt=600").await.is_empty()).then_some(())
        })
        .await;
        assert!(committed.elapsed() < BOUND, "after {:?}", committed.elapsed());
        database.execute("DELETE FROM pgmq.q_q").await;
    }
    still_kept(&gateway).await;
}

#[tokio::test]
async fn what_another_gateway_gives_back_is_seen_at_once() {
    let (one, _snapshot) = prepared().await;
    let other = TestGateway::on(&one.database, |_| {}).await;
    for _ in 0..5 {
        let id = other.send("q", r#"{"message":"back"}"#).await;
        other.receive_one("q", "vt=600").await;
        let waits = waiting(&one).await;
        let path = format!("/queues/q/messages/{id}");
        other.patch(&path, r#"{"vt":0}"#).await.expect(200);
        let given_back = Instant::now();
        let (message, at) = waits.await.expect("no panic");
        assert_eq!(message["msg_id"], id);
        report(&format!("given back: found after {:?}", at - given_back));
        assert!(at - given_back < Duration::from_secs(1), "after {:?}", at - given_back);
        one.delete(&path).await.expect(204);
    }
}

/// What was read for a client that has gone, or does not fit, goes back behind where reads begin.
#[tokio::test]
async fn what_this_gateway_gives_back_and_what_is_delayed_is_found() {
    let (gateway, _snapshot) = prepared().await;
    for body in [r#"{"message":1,"delay":1}"#, r#"{"message":1,"delay":0}"#] {
        let waits = waiting(&gateway).await;
        let id = gateway.send("q", body).await;
        let (message, _) = waits.await.expect("no panic");
        assert_eq!(message["msg_id"], id);
        let path = format!("/queues/q/messages/{id}");
        gateway.patch(&path, r#"{"vt":1}"#).await.expect(200);
        let (message, _) = waiting(&gateway).await.await.expect("no panic");
        assert_eq!(message["msg_id"], id);
        gateway.delete(&path).await.expect(204);
    }
    still_kept(&gateway).await;
}

/// A session that has messages in hand, and an old snapshot thereby, keeps no read from beginning behind them.
#[tokio::test]
async fn what_is_locked_for_long_is_passed_over_and_then_found() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let id = gateway.send("q", r#"{"message":"locked"}"#).await;
    let locked = Holder::of(&gateway.database, "SELECT * FROM pgmq.read('q', 600, 1)").await;
    let _snapshot = with_dead_rows(&gateway.database, id).await;
    learned(&gateway).await;
    begins_at_the_floor(&gateway.database, "locked", async || cycle(&gateway).await).await;
    let waits = waiting(&gateway).await;
    locked.rollback().await;
    let unlocked = Instant::now();
    let (message, at) = waits.await.expect("no panic");
    assert_eq!(message["msg_id"], id);
    assert!(at - unlocked < SOON, "after {:?}", at - unlocked);
}

/// Once the snapshot is gone and what was dead is, reads begin at the beginning again.
#[tokio::test]
async fn when_the_snapshot_is_gone_nothing_is_kept() {
    let (gateway, mut snapshot) = prepared().await;
    snapshot.execute("ROLLBACK").await.expect("ended");
    gateway.database.execute("VACUUM pgmq.q_q").await;
    eventually("reads begin at the beginning", async || {
        cycle(&gateway).await;
        (!floors(&gateway).await).then_some(())
    })
    .await;
}
