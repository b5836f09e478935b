//! Fewer connections than the gateway may have, and what becomes of those that are given up on.

use std::time::Duration;

use nix::sys::signal::Signal;
use pgmq_gateway::{
    app::{Database, Gateway},
    config::{Secret, Settings},
};
use sqlx::{Connection, Executor, PgConnection};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually,
    gateway::try_start,
    process::{Program, program},
    servers::Server,
};

/// A role that may use the gateway's schema and have so many connections; says how it connects.
async fn limited_role(database: &TestDatabase, limit: u32) -> (String, String) {
    let role = format!("limited_{}", database.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let mut settings = Settings::default();
    settings.database.url = Some(Secret::new(database.url()));
    let opened = Database::open(&settings).await.expect("configured");
    opened.migrate(&settings, Some(&role)).await.expect("migrated");
    database.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT {limit}")).await;
    (database.url_as(&role), role)
}

/// Sends and receives with so many clients, none of which is refused.
async fn work(client: &Client, clients: usize, rounds: usize) {
    let mut together = JoinSet::new();
    for n in 0..clients {
        let client = client.clone();
        together.spawn(async move {
            for m in 0..rounds {
                client.send_message("q", format!("{n}-{m}")).await;
                for message in client.receive("q", "qty=3").await {
                    let path = format!("/queues/q/messages/{}", message["msg_id"]);
                    client.delete(&path).await.expect(204);
                }
                client.get("/queues/q/metrics").await.expect(200);
            }
        });
    }
    together.join_all().await;
}

/// Looks at a queue at the same time, each on a connection of its own.
async fn look_apart(client: &Client, clients: usize) {
    let mut together = JoinSet::new();
    for _ in 0..clients {
        let look = client.request("GET", "/queues/q");
        together.spawn(async move { Answer::of(look).await.expect(200) });
    }
    together.join_all().await;
}

async fn with_limit(limit: u32) {
    let database = TestDatabase::empty().await;
    let (url, role) = limited_role(&database, limit).await;
    let gateway = try_start(&url, |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    client.create("q").await;
    client.get("/readyz").await.expect(200);
    work(&client, 32, 10).await;
    client.get("/readyz").await.expect(200);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.receive("q", "wait=20&qty=1").await }
    });
    client.wait_for_waiters("q", 1).await;
    database.execute("SELECT pgmq.send('q', '1')").await;
    assert_eq!(waiting.await.expect("no panic").len(), 1);
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
    assert!(database.value::<i64>(&sessions).await <= i64::from(limit));
}

/// A pool of 8, and a role that may have so many.
#[tokio::test]
async fn a_role_with_three_connections_will_do() {
    with_limit(3).await;
}

#[tokio::test]
async fn a_role_with_one_connection_will_do() {
    with_limit(1).await;
}

/// What others have let go of is used again.
#[tokio::test]
async fn more_connections_are_taken_once_they_can_be_had() {
    let database = TestDatabase::empty().await;
    let (url, role) = limited_role(&database, 7).await;
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
    let mut others = Vec::new();
    let gateway = try_start(&url, |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    client.create("q").await;
    eventually("others take what there is", async || {
        others.extend(PgConnection::connect(&url).await);
        (database.value::<i64>(&sessions).await == 7).then_some(())
    })
    .await;
    let own = 7 - others.len();
    work(&client, 16, 3).await;
    drop(others);
    eventually("there are more", async || {
        look_apart(&client, 16).await;
        (database.value::<i64>(&sessions).await > i64::try_from((own + 1).min(6)).expect("few"))
            .then_some(())
    })
    .await;
}

/// While the standby that commits wait for is gone, sessions don't pile up, and it is not ready; when
/// it is back, or not waited for any more, everything is right again.
#[tokio::test]
async fn commits_that_wait_for_a_standby_do_not_pile_up() {
    let server = Server::new(&[]).await;
    let gateway: Gateway = try_start(&server.url(), |settings| {
        settings.database.max_connections = 4;
        settings.database.statement_timeout_ms = 500;
        settings.database.acquire_timeout_ms = 1_000;
    })
    .await
    .expect("gateway started");
    let client = Client::new(&gateway.url());
    client.create("q").await;
    client.get("/readyz").await.expect(200);
    let wait_for = |names: &str| format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
    server.execute(&wait_for("nobody")).await;
    server.execute("SELECT pg_reload_conf()").await;
    let mut senders = JoinSet::new();
    for _ in 0..12 {
        let client = client.clone();
        senders.spawn(async move {
            let until = Instant::now() + Duration::from_secs(15);
            while Instant::now() < until {
                let answer = client.post("/queues/q/messages", r#"{"message":1}"#).await;
                if answer.status == 503 {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgmq-gateway'";
    let (mut most, mut not_ready, began) = (0, 0, Instant::now());
    while began.elapsed() < Duration::from_secs(15) {
        most = most.max(server.count(sessions).await);
        let ready = client.get("/readyz").await.status == 200;
        if began.elapsed() > Duration::from_secs(8) {
            assert!(!ready, "nothing gets done");
            not_ready += 1;
        }
        sleep(Duration::from_millis(200)).await;
    }
    // The pool's, one for health and one that listens; what is being closed may be seen twice.
    assert!(most <= 4 + 3, "{most} sessions");
    assert!(not_ready > 5);
    senders.join_all().await;
    client.get("/readyz").await.problem(503, "database_unavailable");
    // Nothing but a cancel ends such a wait.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("what was given up on ends", async || {
        (server.count(waiting).await == 0).then_some(())
    })
    .await;
    server.execute(&wait_for("")).await;
    server.execute("SELECT pg_reload_conf()").await;
    let since = Instant::now();
    eventually("it is ready", async || (client.get("/readyz").await.status == 200).then_some(()))
        .await;
    client.send("q", r#"{"message":2}"#).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

/// What a gateway had under way when it was killed ends, and holds nobody up behind its locks.
#[tokio::test]
async fn what_a_killed_gateway_had_under_way_ends() {
    let database = TestDatabase::new().await;
    let (url, port) = (database.url(), ("PGMQ_GATEWAY__SERVER__PORT", "0"));
    let mut gateway = Program::start(program(&[], &[("DATABASE_URL", &*url), port]));
    let client = gateway.client().await;
    client.create("q").await;
    client.send("q", r#"{"message":1}"#).await;
    let mut connection = database.connect().await;
    connection.execute("BEGIN; LOCK TABLE pgmq.q_q").await.expect("locked");
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' \
         AND application_name = 'pgmq-gateway' AND wait_event_type = 'Lock'",
        database.name
    );
    let peek = tokio::spawn(async move { client.request("GET", "/queues/q/peek").send().await });
    eventually("it waits for the lock", async || {
        (database.value::<i64>(&waiting).await == 1).then_some(())
    })
    .await;
    gateway.signal(Signal::SIGKILL);
    drop(peek.await);
    let since = Instant::now();
    eventually("it waits no more", async || {
        (database.value::<i64>(&waiting).await == 0).then_some(())
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    connection.close().await.expect("closed");
}

/// Clients are told whose fault it is, though nobody asks whether the gateway is ready.
#[tokio::test]
async fn a_database_that_is_away_is_not_mistaken_for_too_much_work() {
    let server = Server::new(&[]).await;
    let start = try_start(&server.url(), |settings| {
        settings.database.acquire_timeout_ms = 500;
        settings.database.max_connections = 2;
        settings.database.statement_timeout_ms = 1_000;
    });
    let gateway = start.await.expect("gateway started");
    let client = Client::new(&gateway.url());
    client.create("q").await;
    for away in ["frozen", "stopped"] {
        client.send("q", r#"{"message":1}"#).await;
        match away {
            "frozen" => server.freeze(),
            _ => server.stop("fast"),
        }
        let mut together = JoinSet::new();
        for n in 0..30 {
            let client = client.clone();
            together.spawn(async move {
                sleep(Duration::from_millis(n * 50)).await;
                let path = if n % 2 == 0 { "/queues/q/peek" } else { "/queues/q/messages" };
                client.get(path).await
            });
        }
        for answer in together.join_all().await {
            answer.problem(503, "database_unavailable");
        }
        match away {
            "frozen" => server.thaw(),
            _ => server.start().await,
        }
        eventually("it is back", async || {
            let answer = client.get("/queues/q/peek").await;
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

/// Where there are too many requests for the connections that there are, that is what is said.
#[tokio::test]
async fn too_much_work_is_not_mistaken_for_a_database_that_is_away() {
    let gateway = TestGateway::with(|settings| {
        settings.database.acquire_timeout_ms = 300;
        settings.database.max_connections = 2;
    })
    .await;
    for queue in ["a", "b", "c"] {
        gateway.create(queue).await;
    }
    // What takes its time: what is locked would not keep a connection.
    let slow = "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN PERFORM pg_sleep(3); RETURN NEW; END'; \
                CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_a FOR EACH ROW \
                EXECUTE FUNCTION public.slow(); \
                CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_b FOR EACH ROW \
                EXECUTE FUNCTION public.slow()";
    gateway.database.execute(slow).await;
    let mut together = JoinSet::new();
    for queue in ["a", "b"] {
        let client = gateway.client.clone();
        together.spawn(async move {
            client.post(&format!("/queues/{queue}/messages"), r#"{"message":1}"#).await
        });
    }
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event = 'PgSleep'",
        gateway.database.name
    );
    eventually("both wait", async || {
        (gateway.database.value::<i64>(&waiting).await == 2).then_some(())
    })
    .await;
    gateway.get("/queues/c/peek").await.problem(503, "overloaded");
    for answer in together.join_all().await {
        answer.expect(201);
    }
}

/// A gateway that may open no more files is busy: the database is not away.
#[tokio::test]
async fn a_lack_of_descriptors_is_the_gateways_own() {
    let database = TestDatabase::new().await;
    let (url, port) = (database.url(), ("PGMQ_GATEWAY__SERVER__PORT", "0"));
    let acquire = ("PGMQ_GATEWAY__DATABASE__ACQUIRE_TIMEOUT_MS", "500");
    let mut gateway = Program::start(program(&[], &[("DATABASE_URL", &*url), port, acquire]));
    let client = gateway.client().await;
    client.create("q").await;
    gateway.allow_no_more_files();
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = '{}' AND pid <> pg_backend_pid()",
        database.name
    );
    let answer = eventually("there is no connection left", async || {
        database.value::<i64>(&end).await;
        gateway.allow_no_more_files();
        let answer = client.post("/queues/q/messages", r#"{"message":1}"#).await;
        (answer.status != 201).then_some(answer)
    })
    .await;
    answer.problem(503, "overloaded");
    gateway.allow_files(1_000);
    eventually("it works again", async || {
        let answer = client.post("/queues/q/messages", r#"{"message":1}"#).await;
        (answer.status == 201).then_some(())
    })
    .await;
    eventually("it is ready", async || (client.get("/readyz").await.status == 200).then_some(()))
        .await;
}
