//! Which messages an action of the dashboard touches: those that were meant, and what is said where it ends early.

use serde_json::json;

use super::dashboard_actions::{ids, said};
use crate::support::{
    Answer, Browser, TestGateway,
    browser::{Fields, hidden},
    eventually,
};

/// Confirms an action on all that a list shows.
async fn confirmed(browser: &Browser, action: &str, list: &str) -> Fields {
    let path = format!("/ui/queues/q/do?list={list}&action={action}&all=1");
    hidden(&browser.get(&path).await.expect(200).text)
}

async fn post(browser: &Browser, fields: &Fields) -> Answer {
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    browser.post("/ui/queues/q/do", &fields).await.expect(200)
}

#[tokio::test]
async fn what_was_sent_after_the_preview_is_not_deleted() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for _ in 0..3 {
        gateway.send("q", r#"{"message":1}"#).await;
    }
    let browser = Browser::new(&gateway.base);
    let fields = confirmed(&browser, "delete", "all").await;
    gateway.send("q", r#"{"message":2}"#).await;
    assert_eq!(said(&post(&browser, &fields).await), "Deleted 3 of 3.");
    assert_eq!(ids(&gateway, "q_q").await, [4]);
}

#[tokio::test]
async fn what_was_given_back_or_replayed_is_not_so_once_more() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for _ in 0..3 {
        gateway.send("q", r#"{"message":1}"#).await;
    }
    let browser = Browser::new(&gateway.base);
    gateway.receive("q", "qty=3&vt=600").await;
    let fields = confirmed(&browser, "give-back", "in-flight").await;
    assert_eq!(said(&post(&browser, &fields).await), "Gave back 3 of 3.");
    // A consumer has them again, as one has that is there while a request gives back many.
    assert_eq!(gateway.receive("q", "qty=3&vt=600").await.len(), 3);
    assert_eq!(said(&post(&browser, &fields).await), "Gave back 0 of 0.");
    let hidden: i64 =
        gateway.database.value("SELECT count(*) FROM pgmq.q_q WHERE vt > now()").await;
    assert_eq!(hidden, 3);

    for id in 1..=3 {
        gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    }
    let fields = confirmed(&browser, "replay", "archived").await;
    assert_eq!(said(&post(&browser, &fields).await), "Moved back into the queue 3 of 3.");
    for id in ids(&gateway, "q_q").await {
        gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    }
    assert_eq!(said(&post(&browser, &fields).await), "Moved back into the queue 0 of 0.");
    assert!(ids(&gateway, "q_q").await.is_empty());
}

#[tokio::test]
async fn a_list_of_dead_letters_that_is_about_another_queue_by_now_is_refused() {
    let gateway = TestGateway::start().await;
    for queue in ["a", "b"] {
        gateway.create(queue).await;
        gateway.send(queue, r#"{"message":1,"headers":{"x-dead-letter-queue":"q"}}"#).await;
    }
    gateway.create_with("q", &json!({"settings": {"dead_letter_queue": "a"}})).await;
    let browser = Browser::new(&gateway.base);
    let list = "/ui/queues/q/messages?list=dead";
    let shows = async |queue: &str| {
        eventually("the list is about it", async || {
            let page = browser.get(list).await.expect(200).text;
            page.contains(&format!("/ui/queues/{queue}/messages/1\"")).then_some(page)
        })
        .await
    };
    let page = shows("a").await;
    assert!(page.contains("name=\"at\" value=\"a\""), "{page}");
    let chosen = "/ui/queues/q/do?list=dead&at=a&action=delete&ids=1";
    let fields = hidden(&browser.get(chosen).await.expect(200).text);
    gateway.configure("q", json!({"dead_letter_queue": "b"})).await.expect(200);
    shows("b").await;
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    let refused = browser.post("/ui/queues/q/do", &fields).await.expect(409);
    assert!(refused.text.contains("Nothing was done"), "{}", refused.text);
    browser.get(chosen).await.expect(409);
    for table in ["q_a", "q_b"] {
        assert_eq!(ids(&gateway, table).await, [1], "{table}");
    }
}

/// What was done before it broke off is done, and told.
#[tokio::test]
async fn what_was_done_before_the_next_look_fails_is_told() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let many = "SELECT pgmq.send('q', '1'::jsonb) FROM generate_series(1, 600)";
    gateway.database.execute(many).await;
    // From the first deletion on nobody can look any more.
    let breaks = "CREATE FUNCTION public.breaks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            ALTER FUNCTION pgmq_gateway.browse_messages RENAME TO gone; RETURN NULL; END $$;
        CREATE TRIGGER breaks AFTER DELETE ON pgmq.q_q EXECUTE FUNCTION public.breaks()";
    gateway.database.execute(breaks).await;
    let browser = Browser::new(&gateway.base);
    let fields = [("action", "delete"), ("list", "all"), ("all", "1")];
    let done = browser.post("/ui/queues/q/do", &fields).await.expect(200);
    assert!(said(&done).starts_with("Deleted 500 of 500. Then it broke off: "), "{}", done.text);
    assert!(done.text.contains("name=\"after\""), "it can go on: {}", done.text);
    assert_eq!(ids(&gateway, "q_q").await.len(), 100);
}

/// A statement without an answer may be done all the same.
#[tokio::test]
async fn what_may_be_done_is_not_called_undone() {
    let gateway = TestGateway::with(|settings| {
        settings.server.request_timeout_seconds = 3;
        settings.database.statement_timeout_ms = 60_000;
    })
    .await;
    gateway.create("q").await;
    let many = "SELECT pgmq.send('q', '1'::jsonb) FROM generate_series(1, 600)";
    gateway.database.execute(many).await;
    // The second statement takes longer than a request may.
    let slow = "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT count(*) < 100 FROM pgmq.q_q) THEN PERFORM pg_sleep(6); END IF; RETURN NULL; END $$;
        CREATE TRIGGER slow AFTER DELETE ON pgmq.q_q EXECUTE FUNCTION public.slow()";
    gateway.database.execute(slow).await;
    let browser = Browser::new(&gateway.base);
    let fields = [("action", "delete"), ("list", "all"), ("all", "1")];
    let done = browser.post("/ui/queues/q/do", &fields).await.expect(200);
    let said = said(&done);
    assert!(said.starts_with("Deleted 500 of 600: 100 may be done or not. Then"), "{said}");
    eventually("it was", async || ids(&gateway, "q_q").await.is_empty().then_some(())).await;
}
