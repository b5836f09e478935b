//! Changes of keys of which the database does not say what came.

use std::process::{Output, Stdio};

use crate::support::{
    Browser, TestDatabase, TestGateway, eventually, process::program, servers::Server,
};

const CREATE: [&str; 6] = ["keys", "create", "--name", "a", "--grant", "admin"];

/// A command that runs beside the test.
async fn run(url: &str, arguments: &[&str]) -> Output {
    let mut command = program(arguments, &[("DATABASE_URL", url)]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("started");
    tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("ran").expect("ran")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text").trim_end()
}

/// A server on which all is in place, and commits wait from now on for a standby that there is not.
async fn without_standby() -> Server {
    let server = Server::new(&[]).await;
    let prepared = run(&server.url(), &["migrate"]).await;
    assert!(prepared.status.success(), "{}", text(&prepared.stderr));
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    server.execute("SELECT pg_reload_conf()").await;
    let commits = async {
        loop {
            server.execute("COMMENT ON SCHEMA pgmq IS 'a commit'").await;
        }
    };
    tokio::select! {
        () = commits => {}
        () = commit_waits(&server) => {}
    }
    end_waiting(&server).await;
    server
}

const WAITING: &str = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// Waits until a commit waits for the standby.
async fn commit_waits(server: &Server) {
    let waiting = format!("SELECT count(*) {WAITING}");
    eventually("a commit waits", async || (server.count(&waiting).await > 0).then_some(())).await;
}

/// Ends the sessions that wait for the standby.
async fn end_waiting(server: &Server) {
    let end = format!("SELECT count(pg_terminate_backend(pid)) {WAITING}");
    eventually("none waits", async || (server.count(&end).await == 0).then_some(())).await;
}

#[tokio::test]
async fn what_is_committed_is_told_where_the_session_ended_before_it_was_answered() {
    let server = without_standby().await;
    let url = server.url();
    let ended = async |arguments: &[&str]| {
        let end = async {
            commit_waits(&server).await;
            end_waiting(&server).await;
        };
        let (output, ()) = tokio::join!(run(&url, arguments), end);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let key = ended(&CREATE).await;
    let id = key.split('_').nth(1).expect("an id");
    let rotated = ended(&["keys", "rotate", id]).await;
    assert!(key.starts_with("pgk_") && rotated.starts_with("pgk_") && key != rotated, "{key}");
    server.execute("ALTER SYSTEM RESET synchronous_standby_names").await;
    server.execute("SELECT pg_reload_conf()").await;
    let gateway = TestGateway::on(&TestDatabase::at(&url), |_| {}).await;
    gateway.with_key(&rotated).get("/queues").await.expect(200);
    gateway.with_key(&key).get("/queues").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn what_nobody_can_tell_is_told_to_be_unknown() {
    let server = without_standby().await;
    let url = server.url();
    let end = async {
        commit_waits(&server).await;
        server.stop("immediate");
    };
    let (output, ()) = tokio::join!(run(&url, &CREATE), end);
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert!(!output.status.success() && printed.is_empty(), "{printed}{said}");
    assert!(said.contains("is not known") && said.contains("keys revoke "), "{said}");
    assert!(!said.contains("cannot change"), "{said}");
}

/// A trigger that drops the row is no reason for a key that does not exist.
#[tokio::test]
async fn what_the_database_does_not_store_is_not_shown() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let key = run(&url, &CREATE).await;
    let id = text(&key.stdout).split('_').nth(1).expect("an id").to_owned();
    database
        .execute(
            "CREATE FUNCTION public.drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER t BEFORE INSERT OR UPDATE ON pgmq_gateway.api_keys \
             FOR EACH ROW EXECUTE FUNCTION public.drop_it()",
        )
        .await;
    for arguments in [&CREATE[..], &["keys", "rotate", &id], &["keys", "revoke", &id]] {
        let output = run(&url, arguments).await;
        let (printed, said) = (text(&output.stdout), text(&output.stderr));
        assert!(!output.status.success() && printed.is_empty(), "{arguments:?}: {printed}{said}");
        assert!(said.contains("a trigger"), "{arguments:?}: {said}");
    }
    let output = run(&url, &["keys", "rotate", "nosuchkey"]).await;
    assert!(text(&output.stderr).contains("there is no key nosuchkey"));
}

/// Rows that people write may say anything: a gateway, the list, the dashboard and a rotation make the same of them.
#[tokio::test]
async fn what_is_told_of_a_key_is_whether_it_lets_anybody_in() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let rows = [
        ("forever", "expires_at = 'infinity'", "in force"),
        ("over", "expires_at = '-infinity'", "expired"),
        ("ended", "expires_at = 'infinity', revoked_at = now()", "revoked"),
        ("unread", "grants = '{browse:q}'", "invalid"),
        ("nested", "grants = ARRAY[ARRAY['admin:*']]", "invalid"),
        ("hashless", "hash = ''", "invalid"),
        ("stopped", "requests_per_second = 0", "invalid"),
    ];
    let secret = |id: &str| format!("pgk_{id}_a-secret-of-its-own");
    for (id, change, _) in rows {
        let insert = format!(
            "INSERT INTO pgmq_gateway.api_keys (id, name, hash, grants) \
             VALUES ('{id}', '{id}', sha256('{}'), '{{admin:*}}')",
            secret(id)
        );
        database.execute(&insert).await;
        let change = format!("UPDATE pgmq_gateway.api_keys SET {change} WHERE id = '{id}'");
        database.execute(&change).await;
    }
    let gateway = TestGateway::on(&database, |_| {}).await;
    let listed = run(&url, &["keys", "list"]).await;
    let page = Browser::logged_in(&gateway.base, &secret("forever")).await.get("/ui/keys").await;
    let hashes = "SELECT string_agg(hash::text, '' ORDER BY id) FROM pgmq_gateway.api_keys WHERE id <> 'forever'";
    let before: String = database.value(hashes).await;
    for (id, _, state) in rows {
        let lets_in = gateway.with_key(&secret(id)).get("/queues").await.status == 200;
        assert_eq!(lets_in, state == "in force", "{id}");
        let line = text(&listed.stdout).lines().find(|line| line.starts_with(id)).expect(id);
        assert!(line.contains(state), "{line}");
        let (_, row) = page.text.split_once(&format!("<code>{id}</code>")).expect(id);
        let (_, cell) = row.split_once("data-label=\"State\">").expect(id);
        assert!(cell.starts_with(state), "{cell}");

        let rotated = run(&url, &["keys", "rotate", id]).await;
        let (printed, said) = (text(&rotated.stdout), text(&rotated.stderr));
        assert_eq!(printed.starts_with("pgk_"), lets_in, "{id}: {printed}{said}");
        match state {
            "in force" => {}
            "invalid" => assert!(said.contains("makes no sense"), "{said}"),
            _ => assert!(said.contains("there is no key"), "{said}"),
        }
    }
    assert_eq!(database.value::<String>(hashes).await, before);
}
