//! What SQL clients insert is found soon, whatever is the matter with other queues or was with the
//! database.

use std::time::Duration;

use pgmq_gateway::{
    app::{Database, Gateway},
    config::Settings,
};
use serde_json::Value;
use sqlx::{Connection, Executor};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually, forwarder::Forwarder,
    gateway::try_start, guarded::Guarded, report, servers::Server,
};

/// A client that waits, and what it is answered and when.
fn wait_for(client: &Client, queue: &str) -> JoinHandle<(Answer, Instant)> {
    let (client, path) = (client.clone(), format!("/queues/{queue}/messages?wait=20"));
    tokio::spawn(async move { (client.get(&path).await, Instant::now()) })
}

#[track_caller]
fn got_one(answer: &Answer) -> Value {
    let messages = answer.clone().expect(200).messages();
    assert_eq!(messages.len(), 1, "the time was up");
    messages[0].clone()
}

/// While a table is locked, what comes in other queues is found as ever; when it is not any more, what
/// came there is found, too.
#[tokio::test]
async fn a_locked_queue_makes_no_other_one_blind() {
    let gateway = TestGateway::start().await;
    for queue in ["locked", "a", "b"] {
        gateway.create(queue).await;
    }
    let locked = wait_for(&gateway, "locked");
    gateway.wait_for_waiters("locked", 1).await;
    let mut connection = gateway.database.connect().await;
    connection.execute("BEGIN; LOCK TABLE pgmq.q_locked").await.expect("locked");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        for queue in ["a", "b"] {
            let waiting = wait_for(&gateway, queue);
            gateway.wait_for_waiters(queue, 1).await;
            gateway.database.execute(&format!("SELECT pgmq.send('{queue}', '1')")).await;
            let sent = Instant::now();
            let (answer, at) = waiting.await.expect("no panic");
            let message = got_one(&answer);
            assert!(at - sent < Duration::from_secs(1), "after {:?}", at - sent);
            gateway
                .delete(&format!("/queues/{queue}/messages/{}", message["msg_id"]))
                .await
                .expect(204);
        }
    }
    connection.execute("SELECT pgmq.send('locked', '1'); COMMIT").await.expect("sent");
    let sent = Instant::now();
    let (answer, at) = locked.await.expect("no panic");
    got_one(&answer);
    assert!(at - sent < Duration::from_secs(1), "after {:?}", at - sent);
}

/// A queue whose table may not be read: those who wait there are told, and nobody else is.
#[tokio::test]
async fn a_queue_that_fails_is_of_no_concern_to_others() {
    let database = TestDatabase::empty().await;
    let role = format!("reader_{}", database.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let mut settings = pgmq_gateway::config::Settings::default();
    settings.database.url = Some(pgmq_gateway::config::Secret::new(database.url()));
    let opened = Database::open(&settings).await.expect("configured");
    opened.migrate(&settings, Some(&role)).await.expect("migrated");
    database.execute("SELECT pgmq.create('closed'), pgmq.create('open')").await;
    let gateway = try_start(&database.url_as(&role), |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    let closed = wait_for(&client, "closed");
    client.wait_for_waiters("closed", 1).await;
    database.execute(&format!("REVOKE ALL ON pgmq.q_closed FROM {role}")).await;
    closed.await.expect("no panic").0.problem(403, "forbidden");
    for _ in 0..3 {
        let waiting = wait_for(&client, "open");
        client.wait_for_waiters("open", 1).await;
        database.execute("SELECT pgmq.send('open', '1')").await;
        let sent = Instant::now();
        let (answer, at) = waiting.await.expect("no panic");
        let message = got_one(&answer);
        assert!(at - sent < Duration::from_secs(1), "after {:?}", at - sent);
        client.delete(&format!("/queues/open/messages/{}", message["msg_id"])).await.expect(204);
    }
}

/// Each of its rows takes that long for whoever the policy is for.
const SLOW: &str = "
    CREATE FUNCTION public.slowly() RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_catalog.pg_sleep(2.5); RETURN true; END';
    ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
    CREATE POLICY slow ON pgmq.q_q USING (public.slowly());
    INSERT INTO pgmq.q_q (vt, message) SELECT now() + interval '1 day', '1' FROM generate_series(1, 1)";

/// What takes too long to be looked at ends no connection, and others are found beside it.
#[tokio::test]
async fn a_queue_that_takes_too_long_makes_no_other_one_blind() {
    let guarded = Guarded::start(SLOW).await;
    // One that is for a single question, whether commits get through, comes and goes.
    let sessions = "SELECT coalesce(array_agg(pid ORDER BY pid), '{}') FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'pgmq-gateway'
        AND backend_start < clock_timestamp() - interval '1 s'";
    let slow = wait_for(&guarded.client, "q");
    guarded.client.wait_for_waiters("q", 1).await;
    let first = wait_for(&guarded.client, "other");
    guarded.client.wait_for_waiters("other", 1).await;
    let began = Instant::now();
    // For as long as it takes to be looked at more than once.
    eventually("the slow one has been given up on", async || {
        (began.elapsed() > Duration::from_secs(5)).then_some(())
    })
    .await;
    let before: Vec<i32> = guarded.database.value(sessions).await;
    let second = wait_for(&guarded.client, "other");
    guarded.client.wait_for_waiters("other", 2).await;
    for _ in 0..2 {
        guarded.database.execute("SELECT pgmq.send('other', '1')").await;
    }
    let sent = Instant::now();
    for waiting in [first, second] {
        let (answer, at) = waiting.await.expect("no panic");
        got_one(&answer);
        assert!(at.saturating_duration_since(sent) < Duration::from_secs(5), "found by nobody");
    }
    let after: Vec<i32> = guarded.database.value(sessions).await;
    assert!(before.iter().all(|pid| after.contains(pid)), "{before:?} {after:?}");
    slow.abort();
}

/// A dozen queues that take too long to be looked at, and many that do not.
const A_DOZEN_SLOW: &str = "
    CREATE FUNCTION public.slowly() RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_catalog.pg_sleep(2.5); RETURN true; END';
    SELECT pgmq.create('slow_' || n) FROM generate_series(1, 12) n;
    SELECT pgmq.create('fast_' || n) FROM generate_series(1, 50) n;
    DO $$
    BEGIN
        FOR n IN 1 .. 12 LOOP
            EXECUTE format('ALTER TABLE pgmq.q_slow_%s ENABLE ROW LEVEL SECURITY', n);
            EXECUTE format('CREATE POLICY slow ON pgmq.q_slow_%s USING (public.slowly())', n);
            EXECUTE format('INSERT INTO pgmq.q_slow_%s (vt, message)
                VALUES (now() + interval ''1 day'', ''1'')', n);
        END LOOP;
    END $$";

/// Somebody waits in each of those that do not take too long, and then something is sent to each: for how long the
/// last of them waits for it.
async fn wait_in_fast_ones(guarded: &Guarded, during: Duration) -> Duration {
    let fast = || (1..=50).map(|n| format!("fast_{n}"));
    let waiting: Vec<_> = fast().map(|queue| wait_for(&guarded.client, &queue)).collect();
    sleep(during).await;
    guarded
        .database
        .execute("SELECT pgmq.send('fast_' || n, '1') FROM generate_series(1, 50) n")
        .await;
    let sent = Instant::now();
    let mut longest = Duration::ZERO;
    for (waiting, queue) in waiting.into_iter().zip(fast()) {
        let (answer, at) = waiting.await.expect("no panic");
        let message = got_one(&answer);
        longest = longest.max(at.saturating_duration_since(sent));
        let path = format!("/queues/{queue}/messages/{}", message["msg_id"]);
        guarded.client.delete(&path).await.expect(204);
    }
    longest
}

/// However many take too long, they are found out soon, and what was locked for a moment does not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dozen_queues_that_take_too_long_make_no_other_one_blind() {
    // Enough for whoever looks at a slow one on arrival, and for the others.
    let connections = |settings: &mut Settings| settings.database.max_connections = 24;
    let guarded = Guarded::with(A_DOZEN_SLOW, connections).await;
    let slow: Vec<_> = (1..=12).map(|n| wait_for(&guarded.client, &format!("slow_{n}"))).collect();
    let first = wait_in_fast_ones(&guarded, Duration::from_secs(1)).await;
    // One after the other they would have taken a second each.
    assert!(first < Duration::from_secs(8), "after {first:?}");
    // By now the slow ones are known. On a busy machine one round of a few is as it should be.
    eventually("they are found at once", async || {
        let next = wait_in_fast_ones(&guarded, Duration::from_millis(500)).await;
        (next < Duration::from_millis(1_500)).then_some(())
    })
    .await;
    eventually("what was locked before is found at once", async || {
        let waiting = wait_for(&guarded.client, "fast_1");
        let mut connection = guarded.database.connect().await;
        guarded.client.wait_for_waiters("fast_1", 1).await;
        connection.execute("BEGIN; LOCK TABLE pgmq.q_fast_1").await.expect("locked");
        sleep(Duration::from_millis(500)).await;
        connection.execute("SELECT pgmq.send('fast_1', '1'); COMMIT").await.expect("sent");
        let sent = Instant::now();
        let (answer, at) = waiting.await.expect("no panic");
        let message = got_one(&answer);
        let path = format!("/queues/fast_1/messages/{}", message["msg_id"]);
        guarded.client.delete(&path).await.expect(204);
        (at - sent < Duration::from_secs(1)).then_some(())
    })
    .await;
    slow.iter().for_each(JoinHandle::abort);
}

async fn gateway_through(address: &Forwarder) -> (Gateway, Client) {
    let gateway = try_start(&address.url(), |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    client.create("q").await;
    (gateway, client)
}

async fn after_a_stall(how_long: Duration) {
    let server = Server::new(&[]).await;
    let address = Forwarder::to(&server.socket()).await;
    let (_gateway, client) = gateway_through(&address).await;
    let waiting = wait_for(&client, "q");
    client.wait_for_waiters("q", 1).await;
    // A few sweeps have taken their usual course.
    sleep(Duration::from_millis(500)).await;
    address.stall(true);
    sleep(how_long).await;
    server.execute("SELECT pgmq.send('q', '1')").await;
    let waiting = if waiting.is_finished() {
        // Who waited for so long was told that the database is away, and asks again.
        waiting.await.expect("no panic").0.problem(503, "database_unavailable");
        wait_for(&client, "q")
    } else {
        waiting
    };
    address.stall(false);
    let over = Instant::now();
    let (answer, at) = waiting.await.expect("no panic");
    got_one(&answer);
    assert!(at - over < Duration::from_secs(1), "after {:?}", at - over);
}

#[tokio::test]
async fn after_a_stall_on_the_way_a_message_is_found_within_a_second() {
    after_a_stall(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn after_a_long_stall_on_the_way_a_message_is_found_within_a_second() {
    after_a_stall(Duration::from_secs(13)).await;
}

#[tokio::test]
async fn after_a_stall_of_the_server_a_message_is_found_within_a_second() {
    let server = Server::new(&[]).await;
    let gateway = try_start(&server.url(), |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    client.create("q").await;
    let waiting = wait_for(&client, "q");
    client.wait_for_waiters("q", 1).await;
    sleep(Duration::from_millis(500)).await;
    server.freeze();
    sleep(Duration::from_secs(3)).await;
    server.thaw();
    let over = Instant::now();
    server.execute("SELECT pgmq.send('q', '1')").await;
    let (answer, at) = waiting.await.expect("no panic");
    got_one(&answer);
    assert!(at - over < Duration::from_secs(1), "after {:?}", at - over);
}

/// Connections whose other end is gone without a word are found out, those that listen, too.
#[tokio::test]
async fn connections_that_are_dead_are_replaced() {
    let server = Server::new(&[]).await;
    let address = Forwarder::to(&server.socket()).await;
    let (_gateway, client) = gateway_through(&address).await;
    let waiting = wait_for(&client, "q");
    client.wait_for_waiters("q", 1).await;
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%/* notify */%' \
                     OR query LIKE 'LISTEN%'";
    eventually("it listens", async || (server.count(listening).await > 0).then_some(())).await;
    let abandoned = Instant::now();
    let since = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let since = server.count(since).await;
    address.abandon();
    let anew = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE (query LIKE '%/* notify */%' \
         OR query LIKE 'LISTEN%') AND backend_start > to_timestamp({since}::float8 / 1000)"
    );
    eventually("it listens anew", async || (server.count(&anew).await > 0).then_some(())).await;
    assert!(abandoned.elapsed() < Duration::from_secs(10), "{:?}", abandoned.elapsed());
    let sent = Instant::now();
    server.execute("SELECT pgmq.send('q', '1')").await;
    let (answer, at) = waiting.await.expect("no panic");
    got_one(&answer);
    assert!(at - sent < Duration::from_secs(6), "after {:?}", at - sent);
}

/// In each of many queues somebody waits, and what comes in one of them is found at once.
async fn many_queues(count: usize) -> Vec<Duration> {
    let gateway = TestGateway::start().await;
    for from in (1..=count).step_by(300) {
        let create = format!(
            "SELECT count(pgmq.create('q' || n)) FROM generate_series({from}, {}) n",
            (from + 299).min(count)
        );
        gateway.database.execute(&create).await;
    }
    let mut waiting = JoinSet::new();
    for n in 1..=count {
        let client = gateway.client.clone();
        waiting.spawn(async move {
            let path = format!("/queues/q{n}/messages?wait=20");
            loop {
                let answer = client.get(&path).await;
                if !answer.clone().expect(200).messages().is_empty() {
                    return (n, Instant::now());
                }
            }
        });
    }
    let waiters = || async {
        let text = gateway.get("/metrics").await.text;
        let line = text.lines().find(|line| line.starts_with("pgmq_gateway_long_poll_waiters"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
    };
    eventually("all wait", async || {
        (waiters().await.is_some_and(|waiters| waiters >= count * 19 / 20)).then_some(())
    })
    .await;
    // Statements are planned.
    sleep(Duration::from_secs(5)).await;
    let mut connection = gateway.database.connect().await;
    let mut took = Vec::new();
    for n in (1..=count).step_by(count / 20) {
        let send = format!("SELECT pgmq.send('q{n}', '1')");
        connection.execute(&*send).await.expect("sent");
        let sent = Instant::now();
        let (found, at) = waiting.join_next().await.expect("one waits").expect("no panic");
        assert_eq!(found, n);
        took.push(at - sent);
    }
    connection.close().await.expect("closed");
    took.sort_unstable();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_many_queues_a_message_is_found_at_once() {
    let took = many_queues(200).await;
    assert!(took[took.len() / 2] < Duration::from_millis(500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn in_very_many_queues_a_message_is_found_at_once() {
    let took = many_queues(1_500).await;
    report(&format!("{took:?}"));
    assert!(took[took.len() / 2] < Duration::from_millis(500), "{took:?}");
}
