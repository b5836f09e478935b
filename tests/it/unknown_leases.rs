//! Receives that were cut off while they were committed: they may have leased something, and lease nothing more.

use std::collections::BTreeSet;

use pgmq_gateway::{app::Gateway, config::Strategy};
use tokio::task::JoinSet;

use crate::support::{
    Answer, Client, eventually,
    gateway::try_start,
    guarded::together,
    process::{Program, program},
    servers::Server,
};

/// Messages in each queue.
const SENT: i64 = 6;

pub async fn start(strategy: Strategy) -> (Server, Gateway, Client) {
    let server = Server::new(&[]).await;
    let gateway = try_start(&server.url(), |settings| settings.long_poll.strategy = strategy);
    let gateway = gateway.await.expect("gateway started");
    let client = Client::new(&gateway.url());
    (server, gateway, client)
}

async fn create(client: &Client, queue: &str) {
    client.create(queue).await;
    for _ in 0..SENT {
        client.send(queue, r#"{"message":{"a":1},"headers":{"x-pgmq-group":"g"}}"#).await;
    }
}

/// From now on commits wait for a standby that there is not, or for none.
pub async fn wait_for(server: &Server, standby: &str) {
    server.execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'")).await;
    server.execute("SELECT pg_reload_conf()").await;
    let set = format!(
        "SELECT count(*) FROM pg_settings WHERE name = 'synchronous_standby_names' AND setting = '{standby}'"
    );
    eventually("it is set", async || (server.count(&set).await == 1).then_some(())).await;
}

/// Ends the sessions that wait for the standby, once one of these statements is among them.
pub async fn cut_off(server: &Server, statement: &str) {
    let waiting =
        "FROM pg_stat_activity WHERE application_name = 'pgmq-gateway' AND wait_event = 'SyncRep'";
    let ours = format!("SELECT count(*) {waiting} AND query LIKE '/* {statement}%'");
    eventually("it waits for the standby", async || (server.count(&ours).await > 0).then_some(()))
        .await;
    server.execute(&format!("SELECT pg_terminate_backend(pid) {waiting}")).await;
}

/// Waits until the gateway has looked twice at what its receive waits for: it sends none beside it, which would lease
/// for the same client.
async fn is_let_commit(server: &Server) {
    let looks = "SELECT (extract(epoch FROM query_start) * 1e6)::bigint FROM pg_stat_activity \
                 WHERE query LIKE '/* is_committing */%'";
    let looks = format!("SELECT coalesce(max(at), 0) FROM ({looks}) l (at)");
    let mut times = BTreeSet::from([server.count(&looks).await]);
    eventually("it has looked twice", async || {
        times.insert(server.count(&looks).await);
        (times.len() > 2).then_some(())
    })
    .await;
}

/// Messages of a queue that are leased.
async fn leased(server: &Server, queue: &str) -> i64 {
    server.count(&format!("SELECT count(*) FROM pgmq.q_{queue} WHERE vt > now()")).await
}

async fn is_told(server: &Server, client: &Client, queue: &str, request: &str, statement: &str) {
    create(client, queue).await;
    wait_for(server, "nobody").await;
    let (method, parameters) = request.split_once(' ').expect("a method");
    let path = format!("/queues/{queue}/messages{parameters}");
    let body = if method == "POST" { r#"{"qty":2,"vt":600}"# } else { "" };
    let answer = tokio::spawn(Answer::of(client.request(method, &path).body(body)));
    if !statement.contains("poll") {
        is_let_commit(server).await;
    }
    cut_off(server, statement).await;
    wait_for(server, "").await;
    answer.await.expect("no panic").problem(503, "outcome_unknown");
    assert_eq!(leased(server, queue).await, 2, "{request}");
}

#[tokio::test]
async fn a_receive_whose_commit_is_cut_off_is_not_repeated() {
    let (server, _gateway, client) = start(Strategy::Shared).await;
    for (queue, request, statement) in [
        ("plain", "GET ?qty=2&vt=600", "read_indexed"),
        ("posted", "POST /receive", "read_indexed"),
        ("waiting", "GET ?qty=2&vt=600&wait=20", "read_indexed"),
        ("filtered", "GET ?qty=2&vt=600&filter=%7B%22a%22%3A1%7D", "read_indexed"),
        ("grouped", "GET ?qty=2&vt=600&fifo=grouped", "read_fifo"),
    ] {
        is_told(&server, &client, queue, request, statement).await;
    }
}

#[tokio::test]
async fn a_receive_that_waits_in_the_database_is_not_repeated() {
    let (server, _gateway, client) = start(Strategy::ReadWithPoll).await;
    is_told(&server, &client, "q", "GET ?qty=2&vt=600&wait=20", "read_with_poll").await;
}

/// All whom the statement served are told.
#[tokio::test]
async fn receives_from_several_queues_that_are_cut_off_are_not_repeated() {
    let (server, _gateway, client) = start(Strategy::Shared).await;
    let queues: Vec<String> = (0..8).map(|n| format!("q{n}")).collect();
    for queue in &queues {
        create(&client, queue).await;
    }
    wait_for(&server, "nobody").await;
    let mut answers = JoinSet::new();
    for queue in &queues {
        let path = format!("/queues/{queue}/messages?qty=2&vt=600");
        answers.spawn(Answer::of(client.request("GET", &path)));
    }
    let waiting = |statement| {
        let query = format!("query LIKE '/* {statement}%'");
        format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND {query}")
    };
    let several = waiting("receive_from_queues");
    eventually("several wait", async || (server.count(&several).await > 0).then_some(())).await;
    if server.count(&waiting("read_indexed")).await > 0 {
        is_let_commit(&server).await;
    }
    cut_off(&server, "receive_from_queues").await;
    wait_for(&server, "").await;
    let answers = answers.join_all().await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    for answer in answers.into_iter().filter(|answer| answer.status != 200) {
        answer.problem(503, "outcome_unknown");
    }
    let mut all = 0;
    for queue in &queues {
        all += leased(&server, queue).await;
        assert!(leased(&server, queue).await <= 2, "{queue}");
    }
    assert!(served < queues.len(), "of those that were cut off nobody knows");
    assert_eq!(all, 2 * 8, "none of them is done twice");
}

/// What surely did nothing is done once more.
#[tokio::test]
async fn a_receive_that_did_nothing_is_repeated() {
    let (server, _gateway, client) = start(Strategy::Shared).await;
    create(&client, "q").await;
    for _ in 0..SENT {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name = 'pgmq-gateway' AND state = 'idle'";
        server.execute(end).await;
        let answers =
            together(2, |_| Answer::of(client.request("GET", "/queues/q/messages?qty=1&vt=0")));
        for answer in answers.await {
            answer.expect(200);
        }
    }
}

/// Of a give-back nobody knows either: somebody may have the message by then.
#[tokio::test]
async fn a_give_back_whose_commit_is_cut_off_is_not_repeated() {
    let server = Server::new(&[]).await;
    let url = server.url();
    // Only what gives back waits for the standby that there is not.
    server.execute("ALTER ROLE postgres SET synchronous_commit = local").await;
    let environment = [("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    let mut gateway = Program::start(program(&[], &environment));
    let client = gateway.client().await;
    client.create("q").await;
    client.send("q", r#"{"message":1}"#).await;
    let sql = "CREATE TABLE public.gate AS SELECT 1 AS closed;
        CREATE SEQUENCE public.releases;
        CREATE FUNCTION public.count() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF current_query() LIKE '/* release%' THEN PERFORM nextval('public.releases'); END IF;
            RETURN NULL;
        END $$;
        CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP;
            IF new.read_ct < old.read_ct THEN SET LOCAL synchronous_commit = on; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER counted AFTER UPDATE ON pgmq.q_q FOR EACH STATEMENT EXECUTE FUNCTION public.count();
        CREATE TRIGGER passes AFTER UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.pass()";
    server.execute(sql).await;
    wait_for(&server, "nobody").await;
    let receive = client.request("GET", "/queues/q/messages?vt=600");
    let leaving = tokio::spawn(Answer::of(receive));
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually("it is being read", async || (server.count(asleep).await > 0).then_some(())).await;
    leaving.abort();
    eventually("the client has left", async || {
        let metrics = client.get("/metrics").await.expect(200).text;
        metrics.contains(r#"status="499"} 1"#).then_some(())
    })
    .await;
    server.execute("DELETE FROM public.gate").await;
    cut_off(&server, "release").await;
    eventually("that is the end of it", async || {
        gateway.log().contains("not given back").then_some(())
    })
    .await;
    let is_visible = "SELECT count(*) FROM pgmq.q_q WHERE vt <= now() AND read_ct = 0";
    assert_eq!(server.count(is_visible).await, 1, "it was done");
    let releases = "SELECT last_value FROM public.releases WHERE is_called";
    assert_eq!(server.count(releases).await, 1, "and not done again");
    assert_eq!(client.receive_one("q", "vt=600").await["read_ct"], 1);
}
