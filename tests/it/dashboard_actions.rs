//! What can be done by the dashboard, by whom, and what it says of it.

use pgmq_gateway::config::Settings;
use serde_json::json;

use super::auth::{ADMIN, key, with_admin};
use crate::support::{
    Answer, Browser, TestDatabase, TestGateway,
    browser::hidden,
    eventually,
    process::{Program, program},
};

const READER: &str = "a-secret-of-the-reader";
const SENDER: &str = "a-secret-of-the-sender";
const MANAGER: &str = "a-secret-of-the-manager";

/// The fields of a form.
type Fields<'a> = &'a [(&'a str, &'a str)];

fn with_keys(settings: &mut Settings) {
    with_admin(settings);
    settings.auth.keys = vec![
        key("reader", READER, &["receive:q"]),
        key("sender", SENDER, &["send:q"]),
        key("manager", MANAGER, &["manage:q"]),
    ];
}

/// The ids in a queue.
pub async fn ids(gateway: &TestGateway, table: &str) -> Vec<i64> {
    let sql =
        format!("SELECT coalesce(array_agg(msg_id ORDER BY msg_id), '{{}}') FROM pgmq.{table}");
    gateway.database.value(&sql).await
}

/// What an action says that it did.
pub fn said(answer: &Answer) -> &str {
    let text = answer.text.split("class=\"said\"><strong>").nth(1).unwrap_or_default();
    text.split('<').next().unwrap_or_default()
}

#[tokio::test]
async fn some_messages_or_all_that_fit_are_deleted_archived_and_given_back() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for n in 1..=10 {
        gateway.send("q", &json!({"message": {"even": n % 2 == 0, "n": n}}).to_string()).await;
    }
    let browser = Browser::new(&gateway.base);
    let chosen = "/ui/queues/q/do?list=waiting&action=delete&ids=1&ids=2&ids=99";
    let page = browser.get(chosen).await.expect(200).text;
    assert!(page.contains("3 messages.") && page.contains("gone for good"), "{page}");
    assert_eq!(ids(&gateway, "q_q").await.len(), 10, "a preview does nothing");
    let fields =
        [("action", "delete"), ("list", "waiting"), ("ids", "1"), ("ids", "2"), ("ids", "99")];
    let done = browser.post("/ui/queues/q/do", &fields).await.expect(200);
    assert_eq!(said(&done), "Deleted 2 of 3: 1 were gone.");
    assert_eq!(ids(&gateway, "q_q").await, [3, 4, 5, 6, 7, 8, 9, 10]);

    let fits = r#"{"even":true}"#;
    let query = serde_urlencoded::to_string([("filter", fits)]).expect("a query");
    let all = format!("/ui/queues/q/do?list=waiting&action=archive&all=1&{query}");
    let page = browser.get(&all).await.expect(200).text;
    assert!(page.contains("4 messages.") && page.contains("&#34;even&#34;"), "{page}");
    let fields = [("action", "archive"), ("list", "waiting"), ("all", "1"), ("filter", fits)];
    let done = browser.post("/ui/queues/q/do", &fields).await.expect(200);
    assert_eq!(said(&done), "Archived 4 of 4.");
    assert_eq!(ids(&gateway, "q_q").await, [3, 5, 7, 9]);
    assert_eq!(ids(&gateway, "a_q").await, [4, 6, 8, 10]);

    gateway.receive("q", "qty=2&vt=600").await;
    let page = browser.get("/ui/queues/q/messages?list=in-flight").await.expect(200).text;
    assert!(page.contains("in flight, 9 min") && page.contains("/messages/3\""), "{page}");
    let fields = [("action", "give-back"), ("list", "in-flight"), ("all", "1")];
    let done = browser.post("/ui/queues/q/do", &fields).await.expect(200);
    assert_eq!(said(&done), "Gave back 2 of 2.");
    assert_eq!(gateway.receive("q", "qty=10").await.len(), 4);

    let fields = [("action", "replay"), ("list", "archived"), ("ids", "4"), ("ids", "6")];
    let done = browser.post("/ui/queues/q/do", &fields).await.expect(200);
    assert_eq!(said(&done), "Moved back into the queue 2 of 2.");
    assert_eq!(ids(&gateway, "a_q").await, [8, 10]);
    for wrong in [
        &[("action", "delete"), ("list", "archived"), ("ids", "8")][..],
        &[("action", "replay"), ("list", "waiting"), ("ids", "3")],
        &[("action", "delete"), ("list", "waiting")],
        &[("action", "fly"), ("list", "waiting"), ("ids", "3")],
        &[("action", "delete"), ("list", "waiting"), ("ids", "x")],
        &[("action", "delete"), ("list", "waiting"), ("ids", "3"), ("odd", "1")],
    ] {
        browser.post("/ui/queues/q/do", wrong).await.expect(400);
    }
}

#[tokio::test]
async fn dead_letters_go_back_to_where_they_came_from() {
    let gateway = TestGateway::start().await;
    gateway.create("dead").await;
    for queue in ["a", "b"] {
        let settings = json!({"max_receives": 1, "dead_letter_queue": "dead"});
        gateway.create_with(queue, &json!({"settings": settings})).await;
        for _ in 0..2 {
            gateway.send(queue, r#"{"message":1}"#).await;
        }
        gateway.receive(queue, "qty=10&vt=0").await;
        eventually("they are dead", async || {
            gateway.receive(queue, "qty=10&vt=0").await;
            ids(&gateway, &format!("q_{queue}")).await.is_empty().then_some(())
        })
        .await;
    }
    assert_eq!(ids(&gateway, "q_dead").await.len(), 4);
    let browser = Browser::new(&gateway.base);
    let page = browser.get("/ui/queues/a/messages?list=dead").await.expect(200).text;
    assert_eq!(page.matches("name=\"ids\"").count(), 2, "those of `a` alone: {page}");
    let fields = [("action", "redrive"), ("list", "dead"), ("all", "1")];
    let done = browser.post("/ui/queues/a/do", &fields).await.expect(200);
    assert_eq!(said(&done), "Moved back 2 of 2.");
    assert_eq!(ids(&gateway, "q_a").await.len(), 2);
    assert!(ids(&gateway, "q_b").await.is_empty());
    // What came from nowhere stays, and that is said.
    gateway.send("dead", r#"{"message":"by hand"}"#).await;
    let fields = [("action", "redrive"), ("list", "waiting"), ("all", "1")];
    let done = browser.post("/ui/queues/dead/do", &fields).await.expect(200);
    assert_eq!(said(&done), "Moved back 2 of 3: 1 stayed.");
}

#[tokio::test]
async fn a_queue_is_made_set_paused_emptied_and_dropped() {
    let gateway = TestGateway::start().await;
    let browser = Browser::new(&gateway.base);
    let wrong =
        browser.post("/ui/new", &[("name", "Wrong"), ("kind", "standard")]).await.expect(422);
    assert!(
        wrong.text.contains("lower case") && wrong.text.contains("value=\"Wrong\""),
        "{}",
        wrong.text
    );
    let made = browser.post("/ui/new", &[("name", "q"), ("kind", "unlogged")]).await.expect(303);
    assert_eq!(made.header("location"), "/ui/queues/q");
    browser.post("/ui/new", &[("name", "q"), ("kind", "unlogged")]).await.expect(422);
    assert_eq!(gateway.get("/queues/q").await.json()["kind"], "unlogged");
    let sent =
        browser.post("/ui/queues/q/send", &[("message", "{\"n\":1.10}"), ("delay", "")]).await;
    assert_eq!(sent.expect(303).header("location"), "/ui/queues/q/send?stored=1");
    let bad = browser.post("/ui/queues/q/send", &[("message", "{oops")]).await.expect(422);
    assert!(bad.text.contains("{oops") && bad.text.contains("Nothing was stored"), "{}", bad.text);
    assert_eq!(gateway.all("q").await[0]["message"].to_string(), "{\"n\":1.1}");

    let settings =
        |vt| [("visibility_timeout", vt), ("delay", "0"), ("max_message_bytes", "1048576")];
    let preview = browser.post("/ui/queues/q/settings", &settings("77")).await.expect(200).text;
    assert!(
        preview.contains("Visibility timeout") && preview.contains("<strong>77</strong>"),
        "{preview}"
    );
    assert!(!preview.contains("Largest message"), "what is as it was is not listed: {preview}");
    assert_eq!(gateway.get("/queues/q").await.json()["settings"]["visibility_timeout"], 30);
    let fields = hidden(&preview);
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    browser.post("/ui/queues/q/settings", &fields).await.expect(200);
    assert_eq!(gateway.get("/queues/q").await.json()["settings"]["visibility_timeout"], 77);
    let page = browser.get("/ui/queues/q").await.expect(200).text;
    assert!(page.contains("1 min 17 s"), "it shows at once: {page}");
    for wrong in ["x", "-1", "1e99"] {
        browser.post("/ui/queues/q/settings", &settings(wrong)).await.expect(400);
    }

    browser.get("/ui/queues/q/do?action=pause").await.expect(200);
    let paused = browser.post("/ui/queues/q/do", &[("action", "pause")]).await.expect(200);
    assert_eq!(said(&paused), "The queue is paused.");
    assert!(gateway.receive("q", "").await.is_empty());
    browser.post("/ui/queues/q/do", &[("action", "resume")]).await.expect(200);
    gateway.receive_one("q", "vt=0").await;

    let page = browser.get("/ui/queues/q/do?action=purge").await.expect(200).text;
    assert!(page.contains("1 message."), "{page}");
    for name in ["", "p"] {
        browser.post("/ui/queues/q/do", &[("action", "purge"), ("name", name)]).await.expect(400);
    }
    let purged = browser.post("/ui/queues/q/do", &[("action", "purge"), ("name", "q")]).await;
    assert_eq!(said(&purged.expect(200)), "1 message was deleted.");
    let dropped = browser.post("/ui/queues/q/do", &[("action", "drop"), ("name", "q")]).await;
    assert_eq!(said(&dropped.expect(200)), "The queue is dropped.");
    gateway.get("/queues/q").await.problem(404, "queue_not_found");
    browser.get("/ui/queues/q").await.expect(404);
}

#[tokio::test]
async fn each_does_what_their_key_may_and_sees_no_more() {
    let gateway = TestGateway::with(with_keys).await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    admin.create("other").await;
    admin.send("q", r#"{"message":1}"#).await;
    let browsers =
        [READER, SENDER, MANAGER, ADMIN].map(|key| Browser::logged_in(&gateway.base, key));
    let browsers = futures_util::future::join_all(browsers).await;
    // What, by a form to where, and whether each of them may.
    let table: [(&str, Fields, [bool; 4]); 8] = [
        ("send", &[("message", "1")], [false, true, false, true]),
        ("settings", &[("visibility_timeout", "30")], [false, false, true, true]),
        ("bindings", &[("action", "bind"), ("pattern", "a.#")], [false, false, true, true]),
        ("do", &[("action", "pause")], [false, false, true, true]),
        (
            "do",
            &[("action", "give-back"), ("list", "all"), ("ids", "1")],
            [true, false, false, true],
        ),
        ("do", &[("action", "archive"), ("list", "all"), ("ids", "1")], [true, false, false, true]),
        (
            "do",
            &[("action", "replay"), ("list", "archived"), ("ids", "1")],
            [false, false, false, true],
        ),
        ("do", &[("action", "purge"), ("name", "q")], [false, false, true, true]),
    ];
    for (place, fields, allowed) in table {
        for (browser, may) in browsers.iter().zip(allowed) {
            let answer = browser.post(&format!("/ui/queues/q/{place}"), fields).await;
            let is_done = matches!(answer.status, 200 | 303);
            assert_eq!(is_done, may, "{place} {fields:?} {}: {}", answer.status, answer.text);
            assert!(may || answer.status == 403, "{place} {}: {}", answer.status, answer.text);
        }
    }
    let [reader, sender, manager, admin] = &browsers[..] else { panic!("four") };
    // No page offers what would be refused.
    let offers = async |browser: &Browser| {
        let mut all = browser.get("/ui/queues/q").await.expect(200).text;
        all += &browser.get("/ui").await.expect(200).text;
        let messages = browser.get("/ui/queues/q/messages?list=all").await;
        if messages.status == 200 {
            all += &messages.text;
        }
        let known = [
            "/q/send\"",
            "/q/settings\"",
            "action=purge",
            "value=\"delete\"",
            "/ui/new\"",
            "/ui/keys\"",
        ];
        known.map(|offer| all.contains(offer))
    };
    gateway.with_key(ADMIN).send("q", r#"{"message":2}"#).await;
    assert_eq!(offers(reader).await, [false, false, false, true, false, false]);
    assert_eq!(offers(sender).await, [true, false, false, false, false, false]);
    assert_eq!(offers(manager).await, [false, true, true, false, true, false]);
    assert_eq!(offers(admin).await, [true, true, true, true, true, true]);
    for path in ["/ui/keys", "/ui/gateway"] {
        reader.get(path).await.expect(403);
        admin.get(path).await.expect(200);
    }
    let fields = [("action", "delete"), ("list", "all"), ("ids", "1")];
    reader.post("/ui/queues/other/do", &fields).await.expect(403);
}

#[tokio::test]
async fn where_it_only_shows_nothing_is_done() {
    let gateway = TestGateway::with(|settings| settings.dashboard.read_only = true).await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let browser = Browser::new(&gateway.base);
    for (path, fields) in [
        ("/ui/new", &[("name", "x")][..]),
        ("/ui/queues/q/send", &[("message", "1")]),
        ("/ui/queues/q/settings", &[("delay", "5"), ("confirmed", "1")]),
        ("/ui/queues/q/bindings", &[("action", "bind"), ("pattern", "a")]),
        ("/ui/queues/q/do", &[("action", "purge"), ("name", "q")]),
        ("/ui/queues/q/do", &[("action", "delete"), ("list", "all"), ("ids", "1")]),
    ] {
        let refused = browser.post(path, fields).await.expect(403);
        assert!(refused.text.contains("dashboard.read_only"), "{}", refused.text);
    }
    for form in ["new", "queues/q/send", "queues/q/settings", "queues/q/do?action=purge"] {
        browser.get(&format!("/ui/{form}")).await.expect(403);
    }
    assert_eq!(ids(&gateway, "q_q").await, [1]);
    let page = browser.get("/ui/queues/q").await.expect(200).text;
    let page = page + &browser.get("/ui/queues/q/messages").await.expect(200).text;
    for offer in ["method=\"post\"", "/send\"", "/settings\"", "action=purge", "name=\"action\""] {
        assert!(!page.contains(offer), "{offer}: {page}");
    }
}

#[tokio::test]
async fn each_action_is_a_line_in_the_log() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let environment = [
        ("DATABASE_URL", &*url),
        ("PGMQ_GATEWAY__SERVER__PORT", "0"),
        ("PGMQ_GATEWAY__LOG__FORMAT", "json"),
        ("PGMQ_GATEWAY__LOG__REQUESTS", "off"),
        ("PGMQ_GATEWAY__AUTH__ADMIN_KEY", ADMIN),
    ];
    let mut gateway = Program::start(program(&[], &environment));
    let client = gateway.client().await.with_key(ADMIN);
    client.create("q").await;
    client.send("q", r#"{"message":"secret content"}"#).await;
    let browser = Browser::logged_in(&client.base, ADMIN).await;
    let fields = [("action", "delete"), ("list", "all"), ("ids", "1"), ("ids", "2")];
    browser.post("/ui/queues/q/do", &fields).await.expect(200);
    let line = eventually("it is logged", async || {
        let log = gateway.log();
        log.lines().find(|line| line.contains("\"action\":\"delete\"")).map(str::to_owned)
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    for (field, value) in [
        ("target", json!("audit")),
        ("level", json!("INFO")),
        ("who", json!("admin_key")),
        ("queue", json!("q")),
        ("asked", json!(2)),
        ("done", json!(1)),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    assert!(gateway.log().contains("\"action\":\"log in\""), "{}", gateway.log());
    assert!(!gateway.log().contains("secret content"));
}
