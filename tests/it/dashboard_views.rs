//! What the dashboard shows, and what that costs.

use serde_json::json;

use super::auth::{ADMIN, with_admin};
use crate::support::{Browser, TestDatabase, TestGateway, eventually, guarded::Guarded};

#[tokio::test]
async fn messages_are_listed_by_their_state_page_by_page() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
        .database
        .execute(
            "SELECT pgmq.send('q', jsonb_build_object('n', n), 0) FROM generate_series(1, 120) n",
        )
        .await;
    gateway
        .database
        .execute("SELECT pgmq.send('q', jsonb_build_object('late', n), 600) FROM generate_series(1, 60) n")
        .await;
    gateway.receive("q", "qty=3&vt=900").await;
    let browser = Browser::new(&gateway.base);
    let page_through = async |list: &str| {
        let mut path = format!("/ui/queues/q/messages?list={list}");
        let mut all = Vec::new();
        loop {
            let page = browser.get(&path).await.expect(200).text;
            let found = page.split("name=\"ids\" value=\"").skip(1).map(|rest| {
                rest.split('"').next().expect("an id").parse::<i64>().expect("a number")
            });
            all.extend(found);
            let next = page.split("rel=\"next\" href=\"").nth(1);
            let Some(next) = next.and_then(|rest| rest.split('"').next()) else { return all };
            path = next.replace("&#38;", "&");
        }
    };
    assert_eq!(page_through("waiting").await, (4..=120).collect::<Vec<_>>());
    assert_eq!(page_through("in-flight").await, [1, 2, 3]);
    assert_eq!(page_through("delayed").await, (121..=180).collect::<Vec<_>>());
    assert_eq!(page_through("all").await.len(), 180);
    // Nothing was leased, counted or moved by looking.
    let read: i64 = gateway.database.value("SELECT sum(read_ct) FROM pgmq.q_q").await;
    assert_eq!(read, 3);
}

#[tokio::test]
async fn a_search_finds_by_id_by_content_and_by_time() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for n in 1..=5 {
        gateway.send("q", &json!({"message": {"type": "invoice", "n": n}}).to_string()).await;
    }
    let old = "UPDATE pgmq.q_q SET enqueued_at = '2020-01-01T12:00:00Z' WHERE msg_id <= 2";
    gateway.database.execute(old).await;
    let browser = Browser::new(&gateway.base);
    let found = async |fields: &[(&str, &str)]| {
        let query = serde_urlencoded::to_string(fields).expect("a query");
        let page =
            browser.get(&format!("/ui/queues/q/messages?list=all&{query}")).await.expect(200);
        page.text.matches("name=\"ids\"").count()
    };
    assert_eq!(found(&[("filter", r#"{"type":"invoice"}"#)]).await, 5);
    assert_eq!(found(&[("filter", r#"{"n":3}"#)]).await, 1);
    assert_eq!(found(&[("filter", r#"{"n":33}"#)]).await, 0);
    assert_eq!(found(&[("until", "2020-01-02T00:00")]).await, 2);
    assert_eq!(found(&[("since", "2020-01-01T12:00:00Z")]).await, 5);
    assert_eq!(found(&[("since", "2021-01-01T00:00")]).await, 3);
    assert_eq!(found(&[("since", "2019-01-01T00:00"), ("until", "2020-01-01T11:59:59")]).await, 0);
    let led = browser.get("/ui/queues/q/messages?list=all&id=3").await.expect(303);
    assert_eq!(led.header("location"), "/ui/queues/q/messages/3");
    browser.get("/ui/queues/q/messages/3").await.expect(200);
    browser.get("/ui/queues/q/messages/6").await.expect(404);
    for wrong in ["filter=[]", "since=soon", "id=x", "after=1", "list=x", "x=1"] {
        browser.get(&format!("/ui/queues/q/messages?{wrong}")).await.expect(400);
    }
    // One that was archived since is found where it is.
    gateway.post("/queues/q/messages/3/archive", "").await.expect(204);
    let page = browser.get("/ui/queues/q/messages/3").await.expect(200).text;
    assert!(page.contains("archived"), "{page}");
    let page = browser.get("/ui/queues/q/messages?list=archived").await.expect(200).text;
    assert!(page.contains("/messages/3?from=archive"), "{page}");
}

#[tokio::test]
async fn a_message_that_nobody_can_read_hides_no_other() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let poison = "SELECT pgmq.send('q', jsonb_build_object('n', repeat('x', 100)));
        INSERT INTO pgmq.q_q (vt, message) SELECT now(), jsonb_agg(('1e131071')::numeric) FROM generate_series(1, 9000);
        SELECT pgmq.send('q', '{\"after\": true}')";
    gateway.database.execute(poison).await;
    let browser = Browser::new(&gateway.base);
    let page = browser.get("/ui/queues/q/messages").await.expect(200).text;
    assert_eq!(page.matches("name=\"ids\"").count(), 3, "{page}");
    assert!(page.contains("after") && page.contains("large: open it"), "{page}");
    browser.get("/ui/queues/q/messages/2").await.expect(422);
}

#[tokio::test]
async fn a_list_says_what_is_null_and_that_headers_are_large() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let odd = "ALTER TABLE pgmq.q_q ALTER message DROP NOT NULL;
        INSERT INTO pgmq.q_q (vt, message) VALUES (now(), NULL);
        INSERT INTO pgmq.q_q (vt, message, headers)
            SELECT now(), '1', jsonb_build_object('h', string_agg(md5(n::text), ''))
            FROM generate_series(1, 500) n";
    gateway.database.execute(odd).await;
    let browser = Browser::new(&gateway.base);
    let page = browser.get("/ui/queues/q/messages").await.expect(200).text;
    assert!(page.contains("<code>null</code>"), "{page}");
    assert!(!page.contains("large: open it"), "{page}");
    assert_eq!(page.matches("with large headers").count(), 1, "{page}");
}

/// Transactions that are over, once all whose they are have gone: those who stay say so a second later, or ten.
async fn committed(database: &TestDatabase) -> i64 {
    let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    database.value(sql).await
}

#[tokio::test]
async fn looking_asks_nothing_of_the_database() {
    let gateway =
        TestGateway::with(|settings| settings.metrics.queue_interval_seconds = 3_600).await;
    gateway.create("q").await;
    let browser = Browser::new(&gateway.base);
    eventually("it is known", async || {
        browser.get("/ui").await.text.contains("data-queue=\"q\"").then_some(())
    })
    .await;
    // Once, as nothing is known yet of a queue that nobody looked at.
    browser.get("/ui/queues/q").await.expect(200);
    let figures = "SELECT 1";
    gateway.database.execute(figures).await;
    let stream = browser.request("GET", "/ui/events?queue=q").send().await.expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let before = committed(&gateway.database).await;
    for _ in 0..100 {
        for path in ["/ui", "/ui?q=q&show=full", "/ui/gateway", "/ui/queues/q/history"] {
            browser.get(path).await.expect(200);
        }
    }
    drop(stream);
    let TestGateway { gateway, database, .. } = gateway;
    gateway.shut_down().await;
    eventually("none of its sessions has anything to tell any more", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND backend_type = 'client backend'";
        (database.value::<i64>(sql).await == 0).then_some(())
    })
    .await;
    let after = committed(&database).await;
    // The gateway's own, while time passes and when it stops, and those that ask here.
    assert!(after - before < 100, "{} for 400 pages", after - before);
}

#[tokio::test]
async fn a_viewer_is_told_what_changes_until_their_log_in_is_void() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.metrics.queue_interval_seconds = 1;
        settings.dashboard.max_viewers = 1;
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    for queue in ["q", "other"] {
        admin.create(queue).await;
    }
    let browser = Browser::logged_in(&gateway.base, ADMIN).await;
    Browser::new(&gateway.base).get("/ui/events?queue=q").await.expect(303);
    let stream = browser.request("GET", "/ui/events?queue=q").send().await.expect("a stream");
    assert_eq!(stream.headers()["cache-control"], "no-store");
    // There is one place.
    browser.get("/ui/events?queue=q").await.expect(503);
    let mut stream = stream;
    let mut told = String::new();
    admin.send("q", r#"{"message":1}"#).await;
    while !told.contains("\"visible\":\"1\"") {
        let next = stream.chunk().await.expect("it goes on").expect("bytes");
        told += std::str::from_utf8(&next).expect("text");
    }
    assert!(told.starts_with("retry: ") && !told.contains("other"), "{told}");
    drop(stream);
    eventually("the place is free", async || {
        let again = browser.request("GET", "/ui/events?queue=q").send().await.expect("answered");
        (again.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_with_the_key_and_with_the_gateway() {
    let database = TestDatabase::new().await;
    database
        .execute(
            "INSERT INTO pgmq_gateway.api_keys (id, name, hash, grants) \
             VALUES ('abc', 'ann', sha256('pgk_abc_secret'), '{admin}')",
        )
        .await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    let key = "pgk_abc_secret";
    gateway.with_key(key).create("q").await;
    let browser = Browser::logged_in(&gateway.base, key).await;
    let open =
        async || browser.request("GET", "/ui/events?queue=q").send().await.expect("a stream");
    let mut stream = open().await;
    stream.chunk().await.expect("it begins").expect("bytes");
    database.execute("UPDATE pgmq_gateway.api_keys SET revoked_at = now()").await;
    while let Ok(Some(_)) = stream.chunk().await {}
    database.execute("UPDATE pgmq_gateway.api_keys SET revoked_at = NULL").await;
    eventually("it is in force again", async || {
        (browser.get("/ui").await.status == 200).then_some(())
    })
    .await;
    let mut stream = open().await;
    stream.chunk().await.expect("it begins").expect("bytes");
    let TestGateway { gateway, .. } = gateway;
    gateway.shut_down().await;
    while let Ok(Some(_)) = stream.chunk().await {}
}

#[tokio::test]
async fn tables_topics_keys_and_the_gateway_are_shown() {
    let gateway = TestGateway::with(with_admin).await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let browser = Browser::logged_in(&gateway.base, ADMIN).await;
    let table = browser.get("/ui/queues/q/table").await.expect(200).text;
    assert!(table.contains("Dead rows") && table.contains("No topic leads here"), "{table}");
    let fields = [("action", "bind"), ("pattern", "orders.#")];
    browser.post("/ui/queues/q/bindings", &fields).await.expect(303);
    assert!(browser.get("/ui/queues/q/table").await.text.contains("orders.#"));
    let topics = browser.get("/ui/topics?key=orders.eu").await.expect(200).text;
    assert!(topics.contains("<li><a href=\"/ui/queues/q\">q</a></li>"), "{topics}");
    let topics = browser.get("/ui/topics?key=none").await.expect(200).text;
    assert!(topics.contains("goes to no queue"), "{topics}");
    let fields = [("action", "unbind"), ("pattern", "orders.#")];
    browser.post("/ui/queues/q/bindings", &fields).await.expect(303);
    assert!(!browser.get("/ui/queues/q/table").await.text.contains("<code>orders.#</code></th>"));

    let mut holder = gateway.database.connect().await;
    sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut holder).await.expect("begun");
    sqlx::query("SELECT 1 FROM pgmq.meta").execute(&mut holder).await.expect("looked");
    eventually("it is told who holds back", async || {
        let table = browser.get("/ui/queues/q/table").await.expect(200).text;
        (table.contains("idle in transaction") && table.contains("session")).then_some(())
    })
    .await;

    let keys = "INSERT INTO pgmq_gateway.api_keys (id, name, hash, grants) \
                VALUES ('abc', 'billing', sha256('secret'), '{receive:b*}')";
    gateway.database.execute(keys).await;
    let keys = browser.get("/ui/keys").await.expect(200).text;
    for shown in ["billing", "receive:b*", "admin_key", "in force"] {
        assert!(keys.contains(shown), "{shown}: {keys}");
    }
    assert!(!keys.contains(ADMIN) && !keys.contains("hash"), "{keys}");
    let page = browser.get("/ui/gateway").await.expect(200).text;
    for shown in ["Database connections", "limits.max_message_bytes", "Memory"] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(!page.contains("database.url") && !page.contains("signing_key"), "{page}");
}

#[tokio::test]
async fn errors_of_late_are_shown_to_those_who_run_it() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute("ALTER TABLE pgmq.a_q RENAME TO gone").await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.post("/queues/q/messages/1/archive", "").await.expect(500);
    let page = Browser::new(&gateway.base).get("/ui/gateway").await.expect(200).text;
    assert!(page.contains("POST /queues/{queue}/messages/{msg_id}/archive"), "{page}");
}

/// A gateway whose role has no more rights than it is granted shows what that role may see.
#[tokio::test]
async fn a_role_of_few_rights_is_enough() {
    let gateway = Guarded::start("").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let browser = Browser::new(&gateway.base);
    for path in
        ["/ui", "/ui/queues/q", "/ui/queues/q/table", "/ui/topics", "/ui/keys", "/ui/gateway"]
    {
        browser.get(path).await.expect(200);
    }
    for list in ["waiting", "in-flight", "delayed", "all", "archived", "dead"] {
        let path = format!("/ui/queues/q/messages?list={list}");
        browser.get(&path).await.expect(200);
    }
    let page = browser.get("/ui/queues/q").await.expect(200).text;
    assert!(page.contains("Lanes at this gateway"), "{page}");
}

/// Where a browser takes it, a page is compressed, and is the same.
#[tokio::test]
async fn pages_are_compressed() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let browser = Browser::new(&gateway.base);
    let plain = browser.get("/ui/gateway").await.expect(200);
    assert!(plain.header("content-encoding").is_empty());
    let zipped = browser.request("GET", "/ui/gateway").header("accept-encoding", "gzip");
    let zipped = zipped.send().await.expect("answered");
    assert_eq!(zipped.headers()["content-encoding"], "gzip");
    assert!(zipped.headers().get_all("vary").iter().any(|names| names == "accept-encoding"));
    let bytes = zipped.bytes().await.expect("bytes");
    assert!(bytes.starts_with(&[0x1f, 0x8b]) && bytes.len() * 2 < plain.text.len());
    // A script that asks for a part of a page is led to the log-in.
    let locked = TestGateway::with(with_admin).await;
    let stranger = Browser::new(&locked.base);
    let asked = stranger.request("GET", "/ui?q=x").header("hx-request", "true");
    let led = asked.send().await.expect("answered");
    assert_eq!(led.status(), 204);
    assert_eq!(led.headers()["hx-redirect"], "/ui/login?next=%2Fui%3Fq%3Dx");
}
