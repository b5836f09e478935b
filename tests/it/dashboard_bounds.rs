//! What the dashboard shows of much, and how much of it one viewer has.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pgmq_gateway::config::Settings;
use serde_json::json;
use tokio::time::timeout;

use super::{
    auth::{ADMIN, key, with_admin},
    dashboard_actions::said,
};
use crate::support::{Browser, Holder, PATIENCE, TestGateway, eventually, raw};

const OTHER: &str = "a-secret-of-another-one";

#[tokio::test]
async fn one_key_does_not_have_all_places_of_those_who_watch() {
    let gateway = TestGateway::with(|settings: &mut Settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("other", OTHER, &["receive:q"])];
        settings.dashboard.max_viewers = 2;
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let first = Browser::logged_in(&gateway.base, ADMIN).await;
    let other = Browser::logged_in(&gateway.base, OTHER).await;
    let watch = async |browser: &Browser| {
        browser.request("GET", "/ui/events?queue=q").send().await.expect("answered")
    };
    let _watched = watch(&first).await.error_for_status().expect("a place");
    let refused = watch(&first).await;
    assert_eq!(refused.status(), 503, "a stream has no end");
    let why = refused.text().await.expect("text");
    assert!(why.contains("max_share_per_key_percent"), "{why}");
    let _also = watch(&other).await.error_for_status().expect("the other place");
    let metrics = admin.get("/metrics").await.text;
    let counted = "pgmq_gateway_refused_total{limit=\"key_max_viewers\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

/// A page that is open for longer than any answer may take costs the others on its connection nothing.
#[tokio::test]
async fn a_viewer_over_http2_is_told_for_longer_than_an_answer_may_take() {
    let gateway = TestGateway::with(|settings| {
        settings.server.write_timeout_seconds = 1;
        settings.metrics.queue_interval_seconds = 1;
    })
    .await;
    gateway.create("q").await;
    let stream = TokioIo::new(raw::connect(&gateway).await);
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = |path: &str| {
        let request = hyper::Request::get(format!("http://localhost{path}"));
        request.body(Empty::<Bytes>::new()).expect("a request")
    };
    let events = sender.send_request(request("/ui/events?queue=q")).await.expect("a stream");
    assert_eq!(events.status(), 200);
    let mut events = events.into_body();
    // There are two seconds between two events.
    for n in 0..4 {
        gateway.send_message("q", n).await;
        let event = timeout(PATIENCE, events.frame()).await.expect("in time");
        event.expect("it goes on").expect("the connection is there");
        let other = sender.send_request(request("/queues/q/peek")).await.expect("answered");
        assert_eq!(other.status(), 200);
        other.into_body().collect().await.expect("all of it");
    }
}

/// Has every look at messages take three seconds.
pub const SLOW: &str = "DO $do$
    DECLARE look oid := (SELECT oid FROM pg_proc
        WHERE proname = 'browse_messages' AND pronamespace = 'pgmq_gateway'::regnamespace);
    BEGIN
        EXECUTE format('CREATE FUNCTION public.slow_look(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN
            PERFORM pg_sleep(3);
            RETURN QUERY SELECT * FROM pgmq_gateway.quick_look($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);
            END $f$', pg_get_function_arguments(look), pg_get_function_result(look));
        ALTER FUNCTION pgmq_gateway.browse_messages RENAME TO quick_look;
        ALTER FUNCTION public.slow_look RENAME TO browse_messages;
        ALTER FUNCTION public.browse_messages SET SCHEMA pgmq_gateway;
    END $do$";

#[tokio::test]
async fn counting_ends_before_its_request_does() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let many = "SELECT pgmq.send('q', '1'::jsonb) FROM generate_series(1, 4000)";
    gateway.database.execute(many).await;
    gateway.database.execute(SLOW).await;
    let browser = Browser::new(&gateway.base);
    let page = browser.get("/ui/queues/q/do?list=all&action=archive&all=1").await.expect(200).text;
    assert!(page.contains("At least 1\u{202f}500 messages."), "{page}");
}

#[tokio::test]
async fn a_message_of_many_parts_does_not_make_a_page_of_megabytes() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let many = format!("[{}1]", "1,".repeat(40_000));
    gateway.send("q", &format!("{{\"message\":{many}}}")).await;
    let browser = Browser::new(&gateway.base);
    let page = browser.get("/ui/queues/q/messages/1").await.expect(200).text;
    assert!(!page.contains("json-number") && page.contains("1, 1, 1"), "as it is stored");
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

#[tokio::test]
async fn a_page_holds_what_it_is_and_not_what_its_message_is() {
    let gateway =
        TestGateway::with(|settings| settings.limits.max_in_flight_bytes = 20 << 20).await;
    gateway.create("q").await;
    let small = "SELECT pgmq.send('q', to_jsonb(repeat('x', 1 << 20)))";
    gateway.database.execute(small).await;
    // Each of its characters takes five in a page.
    let large = "SELECT pgmq.send('q', to_jsonb(repeat('<', 5 << 20)))";
    gateway.database.execute(large).await;
    let browser = Browser::new(&gateway.base);
    browser.get("/ui/queues/q/messages/1").await.expect(200);
    browser.get("/ui/queues/q/messages/2").await.expect(503);
}

/// Lists, too.
#[tokio::test]
async fn a_long_page_counts_until_it_is_sent() {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 1 << 16;
        settings.limits.max_body_bytes = 1 << 16;
        settings.limits.max_answer_bytes = 1 << 16;
        settings.limits.max_in_flight_bytes = 1 << 16;
    })
    .await;
    gateway.create("q").await;
    let browser = Browser::new(&gateway.base);
    let list = "/ui/queues/q/messages?list=all";
    browser.get(list).await.expect(200);
    let many = "SELECT pgmq.send('q', to_jsonb(repeat('<', 400)),
            jsonb_build_object('a', repeat('<', 400))) FROM generate_series(1, 100)";
    gateway.database.execute(many).await;
    let refused = browser.get(list).await.expect(503).text;
    assert!(refused.contains("Too much at once"), "{refused}");
}

#[tokio::test]
async fn the_table_that_refuses_a_dead_letter_is_the_one_that_is_named() {
    let gateway = TestGateway::start().await;
    for queue in ["dead", "a"] {
        gateway.create(queue).await;
    }
    let refuses = "ALTER TABLE pgmq.q_a ADD CONSTRAINT none CHECK (false)";
    gateway.database.execute(refuses).await;
    let body = json!({"message": 1, "headers": {"x-dead-letter-queue": "a"}});
    gateway.send("dead", &body.to_string()).await;
    let browser = Browser::new(&gateway.base);
    let fields = [("action", "redrive"), ("list", "waiting"), ("ids", "1")];
    let done = browser.post("/ui/queues/dead/do", &fields).await.expect(200);
    let said = said(&done);
    assert!(said.contains("the table of queue `a`"), "{said}");
    let refused = gateway.post("/queues/dead/redrive", "").await;
    assert!(refused.text.contains("the table of queue `a`"), "{}", refused.text);
}

#[tokio::test]
async fn where_nothing_is_collected_a_page_asks_and_says_what_it_leaves_out() {
    let gateway = TestGateway::with(|settings| settings.metrics.queue_interval_seconds = 0).await;
    gateway.create("q").await;
    let browser = Browser::new(&gateway.base);
    let page = browser.get("/ui/queues/q").await.expect(200).text;
    assert!(!page.contains("1 min 17 s"), "{page}");
    // As another gateway does.
    let change = r#"{"settings":{"visibility_timeout":77}}"#;
    let elsewhere = TestGateway::on(&gateway.database, |_| {}).await;
    elsewhere.patch("/queues/q", change).await.expect(200);
    eventually("it is shown", async || {
        let page = browser.get("/ui/queues/q").await.expect(200).text;
        page.contains("1 min 17 s").then_some(())
    })
    .await;
    assert!(!browser.get("/ui").await.expect(200).text.contains("There are more queues"));
    let many = "DO $$ BEGIN
        FOR n IN 1..1000 LOOP PERFORM pgmq.create('many' || n); COMMIT; END LOOP; END $$";
    gateway.database.execute(many).await;
    let page = browser.get("/ui").await.expect(200).text;
    assert!(page.contains("There are more queues than the 1000"), "{page}");
}

/// Where the names could not be collected yet, nobody is told that there are none.
#[tokio::test]
async fn what_is_not_known_yet_is_not_said_to_be_none() {
    let before = TestGateway::start().await;
    before.create("q").await;
    let holder = Holder::of_tables(&before.database, &["meta"], "ACCESS EXCLUSIVE").await;
    let gateway = TestGateway::on(&before.database, |settings| {
        settings.metrics.queue_interval_seconds = 1;
    })
    .await;
    let browser = Browser::new(&gateway.base);
    browser.get("/ui").await.expect(503);
    holder.rollback().await;
    eventually("the queue is shown", async || {
        let page = browser.get("/ui").await.expect(200).text;
        assert!(!page.contains("There is no queue yet"), "{page}");
        page.contains("data-queue=\"q\"").then_some(())
    })
    .await;
}
