//! The series of queues: they come and go with their queues, and none is in another's way.

use std::time::Duration;

use pgmq_gateway::config::Strategy;
use serde_json::json;
use sqlx::Executor;
use tokio::time::Instant;

use crate::support::{
    Client, TestDatabase, TestGateway, eventually,
    process::{Program, program},
};

const NEVER: u64 = 0;
const OFTEN: u64 = 1;
const NEVER_AGAIN: u64 = 3_600;

async fn gateway(queue_interval_seconds: u64) -> TestGateway {
    TestGateway::with(|settings| {
        settings.metrics.queue_interval_seconds = queue_interval_seconds;
    })
    .await
}

/// A gateway as a program, whose log can be read.
fn started(database: &TestDatabase) -> Program {
    let url = database.url();
    let environment = [
        ("PGMQ_GATEWAY__DATABASE__URL", &*url),
        ("PGMQ_GATEWAY__SERVER__PORT", "0"),
        ("PGMQ_GATEWAY__METRICS__QUEUE_INTERVAL_SECONDS", "1"),
    ];
    Program::start(program(&[], &environment))
}

/// The lines about a queue.
async fn series(client: &Client, queue: &str) -> Vec<String> {
    let label = format!("queue=\"{queue}\"");
    let text = client.get("/metrics").await.expect(200).text;
    text.lines().filter(|line| line.contains(&label)).map(ToOwned::to_owned).collect()
}

/// The lines about a queue that it takes a look at it for.
async fn figures(client: &Client, queue: &str) -> Vec<String> {
    let mut figures = series(client, queue).await;
    figures.retain(|line| line.starts_with("pgmq_gateway_queue_"));
    figures
}

async fn has_length(client: &Client, queue: &str, length: usize) {
    let line = format!("pgmq_gateway_queue_length{{queue=\"{queue}\"}} {length}");
    let what = format!("queue {queue} has length {length}");
    eventually(&what, async || figures(client, queue).await.contains(&line).then_some(())).await;
}

async fn has_no_figures(client: &Client, queue: &str) {
    let what = format!("no figures of queue {queue}");
    eventually(&what, async || figures(client, queue).await.is_empty().then_some(())).await;
}

/// Lets some rounds go by, each of which has to reach the last of the queues, and says how long the
/// longest took.
async fn rounds(client: &Client, last: &str, lengths: std::ops::RangeInclusive<usize>) -> Duration {
    let mut longest = Duration::ZERO;
    for length in lengths {
        let began = Instant::now();
        client.send(last, r#"{"message":1}"#).await;
        has_length(client, last, length).await;
        longest = longest.max(began.elapsed());
    }
    longest
}

/// Reads of the table fail in this way, until the second statement.
const UNREADABLE: [(&str, &str, &str); 1] = [(
    "b-column",
    "ALTER TABLE pgmq.\"q_b-column\" RENAME vt TO away",
    "ALTER TABLE pgmq.\"q_b-column\" RENAME away TO vt",
)];

#[tokio::test]
async fn queue_that_cannot_be_read_loses_its_figures_and_no_other_does() {
    let database = TestDatabase::new().await;
    let mut program = started(&database);
    let client = program.client().await;
    let queues = ["a", "b-column", "c"];
    for queue in queues {
        client.create(queue).await;
        client.send(queue, r#"{"message":"secret"}"#).await;
    }
    for queue in queues {
        has_length(&client, queue, 1).await;
    }
    for (_, break_it, _) in UNREADABLE {
        database.execute(break_it).await;
    }
    for (queue, ..) in UNREADABLE {
        has_no_figures(&client, queue).await;
        let counted = format!("pgmq_gateway_messages_sent_total{{queue=\"{queue}\"}} 1");
        assert!(series(&client, queue).await.contains(&counted));
    }
    client.send("a", r#"{"message":2}"#).await;
    rounds(&client, "c", 2..=4).await;
    has_length(&client, "a", 2).await;

    for (_, _, mend_it) in UNREADABLE {
        database.execute(mend_it).await;
    }
    for (queue, ..) in UNREADABLE {
        has_length(&client, queue, 1).await;
    }
    rounds(&client, "c", 5..=5).await;
    let log = program.log();
    for (queue, ..) in UNREADABLE {
        for (level, text) in [(" WARN ", "cannot be collected"), (" INFO ", "collected again")] {
            let named = |line: &&str| {
                let it = format!("queue={queue} ");
                [level, text, &it].iter().all(|part| format!("{line} ").contains(part))
            };
            assert_eq!(log.lines().filter(named).count(), 1, "{queue}{level}in:\n{log}");
        }
    }
    assert!(!log.contains("secret"), "{log}");
    assert_eq!(log.matches("cannot be collected").count(), UNREADABLE.len(), "{log}");
}

#[tokio::test]
async fn locked_queues_hold_up_no_figures_of_others() {
    let gateway = gateway(OFTEN).await;
    let locked: Vec<String> = (0..12).map(|number| format!("locked{number}")).collect();
    for queue in &locked {
        gateway.create(queue).await;
    }
    gateway.create("z").await;
    has_length(&gateway, "z", 0).await;
    let tables: Vec<String> = locked.iter().map(|queue| format!("pgmq.q_{queue}")).collect();
    let mut holder = gateway.database.connect().await;
    let lock = format!("BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", "));
    holder.execute(&*lock).await.expect("locked");
    let longest = rounds(&gateway, "z", 1..=3).await;
    assert!(longest < Duration::from_secs(6), "{longest:?}");
    for queue in &locked {
        has_no_figures(&gateway, queue).await;
    }
    holder.execute("ROLLBACK").await.expect("unlocked");
    for queue in &locked {
        has_length(&gateway, queue, 0).await;
    }
}

#[tokio::test]
async fn slow_queue_holds_up_no_figures_of_others() {
    let gateway = gateway(OFTEN).await;
    for queue in ["a", "slow", "z"] {
        gateway.create(queue).await;
    }
    has_length(&gateway, "slow", 0).await;
    let slow = "ALTER TABLE pgmq.q_slow RENAME TO hidden; \
                CREATE VIEW pgmq.q_slow AS SELECT m.* FROM pg_sleep(600), pgmq.hidden m";
    gateway.database.execute(slow).await;
    has_no_figures(&gateway, "slow").await;
    let longest = rounds(&gateway, "z", 1..=3).await;
    assert!(longest < Duration::from_secs(6), "{longest:?}");
    // Nothing that was given up on goes on at the server.
    let looks = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND state = 'active' AND query LIKE '/* queue_figures %' \
                 AND now() - query_start > '3 s'";
    assert_eq!(gateway.database.value::<i64>(looks).await, 0);
    let mend = "DROP VIEW pgmq.q_slow; ALTER TABLE pgmq.hidden RENAME TO q_slow";
    gateway.database.execute(mend).await;
    has_length(&gateway, "slow", 0).await;
}

/// Names that SQL put there and that nobody can ask for.
#[tokio::test]
async fn names_that_mean_nothing_hold_up_no_figures() {
    let gateway = gateway(OFTEN).await;
    gateway.create("z").await;
    let add = "INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged) \
               SELECT 'a;' || n, false, false FROM generate_series(1, 450) n";
    gateway.database.execute(add).await;
    rounds(&gateway, "z", 1..=2).await;
}

#[tokio::test]
async fn dropped_queue_takes_its_series_along_at_once() {
    let gateway = gateway(OFTEN).await;
    for queue in ["q", "other"] {
        gateway.create(queue).await;
        for _ in 0..3 {
            gateway.send(queue, r#"{"message":1}"#).await;
        }
        gateway.receive(queue, "").await;
        has_length(&gateway, queue, 3).await;
    }
    gateway.delete("/queues/q").await.expect(204);
    assert_eq!(series(&gateway, "q").await, [""; 0]);
    assert!(series(&gateway, "other").await.len() >= 5);

    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let counted = "pgmq_gateway_messages_sent_total{queue=\"q\"} 1".to_owned();
    let all = series(&gateway, "q").await;
    assert!(all.contains(&counted), "{all:?}");
    let none = "pgmq_gateway_messages_received_total{queue=\"q\"} 0".to_owned();
    assert!(all.contains(&none), "{all:?}");
}

#[tokio::test]
async fn queue_dropped_by_sql_takes_its_series_along_soon() {
    let gateway = gateway(OFTEN).await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    has_length(&gateway, "q", 1).await;
    gateway.database.execute("SELECT pgmq.drop_queue('q')").await;
    eventually("no series", async || series(&gateway, "q").await.is_empty().then_some(())).await;
    gateway.database.execute("SELECT pgmq.create('q')").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let counted = "pgmq_gateway_messages_sent_total{queue=\"q\"} 1".to_owned();
    assert!(series(&gateway, "q").await.contains(&counted));
}

/// It is another queue, whether or not its name was missed in the meantime.
#[tokio::test]
async fn queue_that_is_made_again_begins_at_zero() {
    let gateway = gateway(NEVER_AGAIN).await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.database.execute("SELECT pgmq.drop_queue('q')").await;
    gateway.create("q").await;
    let all = series(&gateway, "q").await;
    assert!(all.len() >= 6 && all.iter().all(|line| line.ends_with(" 0")), "{all:?}");
    gateway.send("q", r#"{"message":1}"#).await;
    let counted = "pgmq_gateway_messages_sent_total{queue=\"q\"} 1".to_owned();
    assert!(series(&gateway, "q").await.contains(&counted));
}

#[tokio::test]
async fn made_up_names_have_no_series() {
    let gateway = gateway(OFTEN).await;
    gateway.create("q").await;
    let message = r#"{"message":1}"#;
    let in_transaction = r#"{"operations":[{"send":{"queue":"made-up","message":1}}]}"#;
    for (method, path, body) in [
        ("POST", "/queues/made-up/messages", message),
        ("POST", "/queues/made-up/messages/batch", r#"{"messages":[{"message":1}]}"#),
        ("GET", "/queues/made-up/messages?qty=5", ""),
        ("GET", "/queues/made-up/messages?wait=1", ""),
        ("GET", "/queues/made-up/messages?fifo=grouped", ""),
        ("GET", "/queues/made-up/messages/1", ""),
        ("GET", "/queues/made-up/peek", ""),
        ("GET", "/queues/made-up/metrics", ""),
        ("GET", "/queues/made-up", ""),
        ("DELETE", "/queues/made-up/messages/1", ""),
        ("PATCH", "/queues/made-up/messages/1", r#"{"vt":1}"#),
        ("POST", "/queues/made-up/messages/1/archive", ""),
        ("POST", "/queues/made-up/messages/pop", ""),
        ("POST", "/queues/made-up/messages/settle", r#"{"delete":[{"msg_id":1}]}"#),
        ("POST", "/queues/made-up/archive/replay", "{}"),
        ("POST", "/queues/made-up/redrive", "{}"),
        ("POST", "/queues/made-up/purge", ""),
        ("POST", "/transactions", in_transaction),
        ("POST", "/topics/made-up/messages", message),
        ("DELETE", "/queues/made-up", ""),
        // The queue is there, but not by this name.
        ("POST", "/queues/Q/messages", message),
    ] {
        let request = gateway.request(method, path).body(body.to_owned());
        let answer = crate::support::Answer::of(request).await;
        assert!(answer.status < 500, "{method} {path}: {}", answer.text);
    }
    let text = gateway.get("/metrics").await.expect(200).text;
    for name in ["made-up", "\"Q\""] {
        assert!(!text.contains(name), "{text}");
    }
}

/// The first dead letter is an increase: what alerts go by begins at 0, also of a queue that nobody has used
/// here.
#[tokio::test]
async fn counters_of_a_queue_that_is_there_begin_at_zero() {
    let gateway = gateway(OFTEN).await;
    gateway.database.execute("SELECT pgmq.create('by-sql')").await;
    let line = |queue: &str, count: usize| {
        format!("pgmq_gateway_messages_dead_lettered_total{{queue=\"{queue}\"}} {count}")
    };
    eventually("it is known", async || {
        series(&gateway, "by-sql").await.contains(&line("by-sql", 0)).then_some(())
    })
    .await;
    gateway.create("q").await;
    assert!(series(&gateway, "q").await.contains(&line("q", 0)));
    gateway.send("q", r#"{"message":1}"#).await;
    let body = r#"{"dead_letter":[{"msg_id":1}]}"#;
    gateway.post("/queues/q/messages/settle", body).await.expect(200);
    assert!(series(&gateway, "q").await.contains(&line("q", 1)));
}

/// What there is to do, and for how long it has waited: delayed and leased messages don't raise that.
#[tokio::test]
async fn backlog_and_the_age_of_what_waits() {
    let gateway = gateway(OFTEN).await;
    gateway.create("q").await;
    let metrics = async || gateway.get("/queues/q/metrics").await.expect(200).json();
    let empty = metrics().await;
    assert_eq!(empty["backlog"], 0);
    assert!(empty["oldest_visible_msg_age_sec"].is_null(), "{empty}");
    // Two that could be delivered for some time, one in flight, one delayed, all stored long ago.
    let rows = "INSERT INTO pgmq.q_q (vt, read_ct, enqueued_at, message) \
                SELECT now() + v::interval, r, now() - interval '1 day', '1' FROM (VALUES \
                ('-100 s', 1), ('-500 s', 0), ('1 h', 1), ('1 h', 0)) x (v, r)";
    gateway.database.execute(rows).await;
    let full = metrics().await;
    assert_eq!((&full["backlog"], &full["queue_length"]), (&3.into(), &4.into()));
    let age = full["oldest_visible_msg_age_sec"].as_i64().expect("an age");
    assert!((500..600).contains(&age), "{full}");
    let backlog = "pgmq_gateway_queue_backlog{queue=\"q\"} 3".to_owned();
    eventually("the backlog", async || {
        figures(&gateway, "q").await.contains(&backlog).then_some(())
    })
    .await;
    let name = "pgmq_gateway_queue_oldest_visible_message_age_seconds{queue=\"q\"} ";
    let shown = figures(&gateway, "q").await;
    let age = shown.iter().find_map(|line| line.strip_prefix(name)).expect("an age");
    assert!((500.0..600.0).contains(&age.parse::<f64>().expect("a number")), "{age}");
    gateway.database.execute("UPDATE pgmq.q_q SET vt = now() + interval '1 h'").await;
    assert!(metrics().await["oldest_visible_msg_age_sec"].is_null());
}

/// Beyond what is counted they are estimates, at a bounded cost.
#[tokio::test]
async fn backlog_of_a_long_queue_is_estimated() {
    let gateway = TestGateway::with(|settings| {
        settings.metrics.queue_interval_seconds = OFTEN;
        settings.metrics.queue_count_limit = 10;
    })
    .await;
    gateway.create("q").await;
    let rows = "INSERT INTO pgmq.q_q (vt, read_ct, message) SELECT now() + interval '1 h', 1, '1' \
                FROM generate_series(1, 100)";
    gateway.database.execute(rows).await;
    gateway.database.execute("ANALYZE pgmq.q_q").await;
    let name = "pgmq_gateway_queue_backlog{queue=\"q\"} ";
    eventually("all are in flight", async || {
        let shown = figures(&gateway, "q").await;
        let backlog = shown.iter().find_map(|line| line.strip_prefix(name))?.parse::<i64>().ok()?;
        (backlog == 100).then_some(())
    })
    .await;
}

/// Also those that are moved for who waits inside the database.
#[tokio::test]
async fn dead_letters_are_counted_whatever_the_strategy() {
    for strategy in [Strategy::Shared, Strategy::ReadWithPoll] {
        let gateway = TestGateway::with(|settings| settings.long_poll.strategy = strategy).await;
        gateway.create_with("q", &json!({"settings": {"max_receives": 1}})).await;
        gateway.send("q", r#"{"message":1}"#).await;
        gateway.receive_one("q", "vt=0").await;
        let count = "pgmq_gateway_messages_dead_lettered_total{queue=\"q\"} 1";
        eventually("it is moved, and counted", async || {
            assert!(gateway.receive("q", "vt=0").await.is_empty());
            series(&gateway, "q").await.iter().any(|line| line == count).then_some(())
        })
        .await;
    }
}

/// Where no figures are collected, there are counters.
#[tokio::test]
async fn a_queue_that_is_dropped_elsewhere_leaves_no_series_where_nothing_is_collected() {
    let gateway = gateway(NEVER).await;
    for queue in ["gone", "here"] {
        gateway.create(queue).await;
        gateway.send(queue, r#"{"message":1}"#).await;
    }
    assert!(!series(&gateway, "gone").await.is_empty());
    gateway.database.execute("SELECT pgmq.drop_queue('gone')").await;
    eventually("its series are gone", async || {
        series(&gateway, "gone").await.is_empty().then_some(())
    })
    .await;
    assert!(!series(&gateway, "here").await.is_empty());
}
