//! Transactions that share statements while something is in the way of some of them, or of all.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use sqlx::Executor;
use tokio::{
    io::AsyncWriteExt,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    shared_transactions::{commits, note_commits, transaction},
    support::{
        Answer, Client, Holder, PATIENCE, TestDatabase, TestGateway, eventually,
        forwarder::Forwarder, gateway::try_start, guarded::together, raw, servers::Server,
    },
};

fn send(queue: &str, message: impl Into<Value>) -> Value {
    json!({"send": {"queue": queue, "message": message.into()}})
}

fn transact(client: &Client, operations: &[Value]) -> impl Future<Output = Answer> + use<> {
    Answer::of(client.request("POST", "/transactions").body(transaction(operations)))
}

/// A trigger that does something with each row of a queue that says `"slow"`.
fn slow_trigger(queue: &str, does: &str) -> String {
    format!(
        "CREATE FUNCTION slow_{queue}() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN IF NEW.message = '\"slow\"' THEN {does}; END IF; RETURN NEW; END$$; \
         CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_{queue} FOR EACH ROW EXECUTE FUNCTION slow_{queue}()"
    )
}

/// What one request was answered, and how long that took.
async fn timed(request: impl Future<Output = Answer>) -> (Answer, Duration) {
    let began = Instant::now();
    (request.await, began.elapsed())
}

/// Messages in a queue.
async fn stored(gateway: &TestGateway, queue: &str) -> usize {
    let count: i64 = gateway.database.value(&format!("SELECT count(*) FROM pgmq.q_{queue}")).await;
    usize::try_from(count).expect("a count")
}

async fn with_queues(queues: &[&str]) -> TestGateway {
    let gateway = TestGateway::start().await;
    for queue in queues {
        gateway.create(queue).await;
        note_commits(&gateway.database, queue).await;
    }
    gateway
}

/// Sends to `a` and `b` by 40 at a time, and how long the slowest took.
async fn others_go_on(gateway: &TestGateway) -> Duration {
    let mut crowd = JoinSet::new();
    for n in 0..40 {
        crowd.spawn(timed(transact(gateway, &[send("a", n), send("b", n)])));
    }
    let answers = crowd.join_all().await;
    answers.into_iter().map(|(answer, took)| (answer.expect(200), took).1).max().expect("some")
}

#[tokio::test]
async fn a_locked_table_holds_back_those_who_need_it_and_nobody_else() {
    let gateway = with_queues(&["a", "b", "stuck"]).await;
    gateway.post("/queues/stuck/bindings", r#"{"pattern":"t.*"}"#).await.expect(201);
    let holder = Holder::of_tables(&gateway.database, &["q_stuck"], "ACCESS EXCLUSIVE").await;
    let mut stuck = JoinSet::new();
    for n in 0..10 {
        stuck.spawn(transact(&gateway, &[send("a", 1_000), send("stuck", n)]));
        let publication = gateway.request("POST", "/topics/t.x/messages");
        stuck.spawn(Answer::of(publication.body(r#"{"message":1}"#)));
        let slowest = others_go_on(&gateway).await;
        assert!(slowest < Duration::from_millis(1_500), "{slowest:?}");
    }
    while let Some(answer) = stuck.try_join_next() {
        answer.expect("no panic").problem(503, "overloaded");
    }
    holder.commit().await;
    let answers = stuck.join_all().await;
    let done = answers.iter().filter(|answer| matches!(answer.status, 200 | 201)).count();
    assert!(done > 0, "those that still waited get it");
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 201 | 503)));
    assert_eq!(stored(&gateway, "stuck").await, done);
    assert_eq!(stored(&gateway, "b").await, 400);
    let shared = commits(&gateway.database, "b").await;
    assert!(shared <= 200, "{shared} commits of 400 transactions");
}

/// What locked tables cost does not add up.
#[tokio::test]
async fn settling_in_many_locked_queues_holds_back_nobody_else() {
    const LOCKED: usize = 12;
    let names: Vec<String> = (0..LOCKED).map(|n| format!("stuck{n}")).collect();
    let gateway = with_queues(&["a", "b"]).await;
    for name in &names {
        gateway.create(name).await;
        gateway.send(name, r#"{"message":1}"#).await;
    }
    let tables: Vec<String> = names.iter().map(|name| format!("q_{name}")).collect();
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let holder = Holder::of_tables(&gateway.database, &tables, "ACCESS EXCLUSIVE").await;
    let mut stuck = JoinSet::new();
    for _ in 0..10 {
        for name in &names {
            let delete = json!({"delete": {"queue": name, "msg_id": 1}});
            stuck.spawn(transact(&gateway, &[delete, send(name, 2)]));
        }
        others_go_on(&gateway).await;
    }
    holder.commit().await;
    let answers = stuck.join_all().await;
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 404 | 503)));
    assert_eq!(stored(&gateway, "b").await, 400);
    let shared = commits(&gateway.database, "b").await;
    assert!(shared <= 200, "{shared} commits of 400 transactions");
}

/// It is undone where others wait for it, done apart, and kept apart from then on.
#[tokio::test]
async fn a_slow_trigger_holds_back_nobody_for_long() {
    let gateway = with_queues(&["a", "b", "slow"]).await;
    gateway.database.execute(&slow_trigger("slow", "PERFORM pg_sleep(4)")).await;
    let mut slow = JoinSet::new();
    for round in 0..5 {
        let mut crowd = JoinSet::new();
        for n in 0..40 {
            if n == 20 && round < 3 {
                slow.spawn(timed(transact(&gateway, &[send("a", -1), send("slow", "slow")])));
            }
            crowd.spawn(timed(transact(&gateway, &[send("a", n), send("b", n)])));
        }
        for (answer, took) in crowd.join_all().await {
            answer.expect(200);
            assert!(took < Duration::from_secs(3), "{took:?}");
        }
    }
    for (answer, took) in slow.join_all().await {
        answer.expect(200);
        assert!(took > Duration::from_secs(3), "{took:?}");
    }
    assert_eq!(stored(&gateway, "slow").await, 3);
    assert_eq!(stored(&gateway, "a").await, 203);
    assert_eq!(stored(&gateway, "b").await, 200);
    let shared = commits(&gateway.database, "b").await;
    assert!(shared <= 150, "{shared} commits of 200 transactions");
}

/// Somebody takes the tables the other way round, again and again.
#[tokio::test]
async fn deadlocks_are_not_seen() {
    let database = TestDatabase::new().await;
    // Those of the gateway find out at once, and are undone.
    let name: String = database.value("SELECT current_database()::text").await;
    database.execute(&format!("ALTER DATABASE \"{name}\" SET deadlock_timeout = '1ms'")).await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    for queue in ["a", "b"] {
        gateway.create(queue).await;
    }
    database.execute(&slow_trigger("a", "PERFORM pg_sleep(0.02)")).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let (mut sql, stopped) = (database.connect().await, stop.clone());
    let others = tokio::spawn(async move {
        sql.execute("SET deadlock_timeout = '10s'").await.expect("set");
        while !stopped.is_cancelled() {
            let crossing = "BEGIN; LOCK TABLE pgmq.q_b IN EXCLUSIVE MODE; \
                            LOCK TABLE pgmq.q_a IN EXCLUSIVE MODE; COMMIT";
            if sql.execute(crossing).await.is_err() {
                sql.execute("ROLLBACK").await.expect("rolled back");
            }
            sleep(Duration::from_millis(2)).await;
        }
    });
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let mut sent = 0;
    eventually("some were undone", async || {
        for answer in together(20, |n| {
            let queues = if n % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
            transact(&gateway, &queues.map(|queue| send(queue, if n == 3 { "slow" } else { "x" })))
        })
        .await
        {
            answer.expect(200);
            sent += 1;
        }
        (database.value::<i64>(deadlocks).await > 0).then_some(())
    })
    .await;
    stop.cancel();
    others.await.expect("no panic");
    for queue in ["a", "b"] {
        assert_eq!(stored(&gateway, queue).await, sent, "{queue}");
    }
}

/// Of a session that the server ends it is known that nothing was done.
#[tokio::test]
async fn a_session_that_is_ended_is_not_seen() {
    let gateway = with_queues(&["a", "b"]).await;
    gateway.database.execute(&slow_trigger("b", "PERFORM pg_sleep(0.2)")).await;
    let ending = gateway.database.clone();
    let ended = tokio::spawn(async move {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND query LIKE '/* transact_each */%' \
                   AND wait_event = 'PgSleep'";
        while ending.value::<i64>(end).await == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    });
    let began = Instant::now();
    while !ended.is_finished() {
        assert!(began.elapsed() < PATIENCE, "no statement is shared");
        let answers = together(30, |n| {
            transact(
                &gateway,
                &[send("a", n), send("b", if n == 9 { json!("slow") } else { json!(n) })],
            )
        });
        for answer in answers.await {
            answer.expect(200);
        }
    }
    ended.await.expect("no panic");
    let [a, b] = [stored(&gateway, "a").await, stored(&gateway, "b").await];
    assert_eq!(a, b);
    assert_eq!(a % 30, 0, "nothing is stored twice");
}

/// Where the way to the server breaks, those are told whose transactions were under way.
#[tokio::test]
async fn a_connection_that_breaks_is_told_to_those_who_were_in_it() {
    let server = Server::new(&[]).await;
    let address = Forwarder::to(&server.socket()).await;
    let gateway = try_start(&address.url(), |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    for queue in ["a", "b"] {
        client.create(queue).await;
    }
    server.execute(&slow_trigger("b", "PERFORM pg_sleep(0.3)")).await;
    let under_way = "SELECT count(*) FROM pg_stat_activity \
                     WHERE query LIKE '/* transact_each */%' AND wait_event = 'PgSleep'";
    let (mut unknown, began) = (0, Instant::now());
    while unknown < 2 {
        assert!(began.elapsed() < PATIENCE, "no statement is shared");
        let crowd = tokio::spawn(together(30, {
            let client = client.clone();
            move |n| {
                transact(
                    &client,
                    &[send("a", n), send("b", if n == 9 { json!("slow") } else { json!(n) })],
                )
            }
        }));
        while !crowd.is_finished() {
            if server.count(under_way).await > 0 {
                address.cut().await;
                break;
            }
        }
        for answer in crowd.await.expect("no panic") {
            if answer.status == 503 {
                answer.problem(503, "outcome_unknown");
                unknown += 1;
            } else {
                answer.expect(200);
            }
        }
    }
    // Nobody who comes later learns of it.
    for answer in together(30, |n| transact(&client, &[send("a", n), send("b", n)])).await {
        answer.expect(200);
    }
    eventually("what was under way has ended", async || {
        (server.count(under_way).await == 0).then_some(())
    })
    .await;
    let apart = "SELECT (SELECT count(*) FROM pgmq.q_a) - (SELECT count(*) FROM pgmq.q_b)";
    assert_eq!(server.count(apart).await, 0, "each is done as a whole or not at all");
}

#[tokio::test]
async fn clients_that_leave_undo_nothing_and_disturb_nobody() {
    let gateway = with_queues(&["a", "b"]).await;
    let leave = async |n: i64| {
        let body = transaction(&[send("a", n), send("b", n)]);
        let head = format!(
            "POST /transactions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = raw::connect(&gateway).await;
        stream.write_all(head.as_bytes()).await.expect("sent");
        sleep(Duration::from_micros(u64::try_from(n).expect("small") * 100)).await;
    };
    for round in 0..5 {
        let stay = together(30, |n| transact(&gateway, &[send("a", n), send("b", n)]));
        let go = async {
            for n in 0..20 {
                leave(n + round).await;
            }
        };
        let (answers, ()) = tokio::join!(stay, go);
        for answer in answers {
            answer.expect(200);
        }
    }
    eventually("nothing is under way", async || {
        let metrics = gateway.get("/metrics").await.text;
        metrics.contains("\npgmq_gateway_requests_in_flight 1\n").then_some(())
    })
    .await;
    let tables = "SELECT count(*) FROM (SELECT message, tx FROM pgmq.q_a EXCEPT ALL \
                  SELECT message, tx FROM pgmq.q_b) apart";
    assert_eq!(gateway.database.value::<i64>(tables).await, 0);
    assert!(stored(&gateway, "a").await >= 150);
}

/// Where messages are read in order, none turns up behind one that was seen, whoever sends.
#[tokio::test]
async fn ids_grow_from_commit_to_commit_where_groups_are_read() {
    let first = TestGateway::start().await;
    first.create_with("groups", &json!({"fifo": true})).await;
    first.create("plain").await;
    first.post("/queues/groups/bindings", r#"{"pattern":"t.*"}"#).await.expect(201);
    note_commits(&first.database, "groups").await;
    // Which knows of the queue as it begins, and of one that is made elsewhere within a second.
    let second = TestGateway::on(&first.database, |_| {}).await;
    let gateways = [first, second];
    let senders = async {
        for _ in 0..8 {
            let answers = together(40, |n| {
                let gateway = &gateways[usize::from(n % 2 == 0)];
                let headers = json!({"x-pgmq-group": (n % 3).to_string()});
                let one = json!({"queue": "groups", "message": n, "headers": headers});
                let (path, body) = match n % 8 {
                    6 => ("/queues/groups/messages", r#"{"message":1}"#.to_owned()),
                    7 => ("/topics/t.x/messages", r#"{"message":1}"#.to_owned()),
                    _ => ("/transactions", transaction(&[send("plain", n), json!({"send": one})])),
                };
                Answer::of(gateway.request("POST", path).body(body))
            });
            for answer in answers.await {
                assert!(matches!(answer.status, 200 | 201), "{}", answer.text);
            }
        }
    };
    let watching = async {
        let (mut seen, mut highest) = (BTreeSet::new(), 0);
        while seen.len() < 320 {
            let ids = "SELECT coalesce(array_agg(msg_id ORDER BY msg_id), '{}') FROM pgmq.q_groups";
            let ids: Vec<i64> = gateways[0].database.value(ids).await;
            let late: Vec<i64> =
                ids.iter().copied().filter(|id| *id < highest && !seen.contains(id)).collect();
            assert!(late.is_empty(), "{late:?} turned up behind {highest}");
            highest = ids.last().copied().unwrap_or(0);
            seen.extend(ids);
        }
    };
    tokio::join!(senders, watching);
    let shared = commits(&gateways[0].database, "groups").await;
    assert!(shared <= 200, "{shared} commits of 320 requests");
}
