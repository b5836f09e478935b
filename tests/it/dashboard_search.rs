//! What a search of the dashboard finds, and the lists that it goes through: all that fits, page by page.

use serde_json::json;

use super::{
    dashboard_actions::{ids, said},
    dashboard_bounds::SLOW,
};
use crate::support::{Browser, TestGateway, browser::hidden, eventually};

/// The moment half an hour ago.
async fn half_an_hour_ago(gateway: &TestGateway) -> String {
    let sql = "SELECT to_char((now() - interval '30 minutes') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')";
    gateway.database.value(sql).await
}

/// The ids that a page shows.
fn shown(page: &str) -> Vec<i64> {
    let ids = page.split("name=\"ids\" value=\"").skip(1);
    ids.map(|rest| rest.split('"').next().expect("an id").parse().expect("a number")).collect()
}

/// The ids of a list, from its first page to its last.
async fn listed(browser: &Browser, path: &str) -> Vec<i64> {
    let (mut path, mut all) = (path.to_owned(), Vec::new());
    for _ in 0..30 {
        let page = browser.get(&path).await.expect(200).text;
        all.extend(shown(&page));
        let next = page.split("rel=\"next\" href=\"").nth(1);
        let Some(next) = next.and_then(|rest| rest.split('"').next()) else { return all };
        path = next.replace("&#38;", "&");
    }
    panic!("it has no end: {all:?}");
}

/// Has a queue whose dead letters go elsewhere, and has the message that is sent to it die.
async fn die(gateway: &TestGateway, queue: &str, dead: &str) {
    let there = ids(gateway, &format!("q_{dead}")).await.len();
    eventually("it is dead", async || {
        gateway.receive(queue, "vt=0").await;
        (ids(gateway, &format!("q_{dead}")).await.len() > there).then_some(())
    })
    .await;
}

async fn with_dead_letters(gateway: &TestGateway) {
    gateway.create("wd").await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "wd"});
    gateway.create_with("w", &json!({"settings": settings})).await;
}

#[tokio::test]
async fn a_search_by_time_finds_dead_letters_in_front_of_older_ones() {
    let gateway = TestGateway::start().await;
    with_dead_letters(&gateway).await;
    gateway.send("w", r#"{"message":"now"}"#).await;
    die(&gateway, "w", "wd").await;
    gateway.send("w", r#"{"message":"old"}"#).await;
    let old = "UPDATE pgmq.q_w SET enqueued_at = now() - interval '2 days'";
    gateway.database.execute(old).await;
    die(&gateway, "w", "wd").await;
    let browser = Browser::new(&gateway.base);
    let since = half_an_hour_ago(&gateway).await;
    for list in ["w/messages?list=dead", "wd/messages?list=all", "wd/messages?list=waiting"] {
        let page = browser.get(&format!("/ui/queues/{list}&since={since}")).await.expect(200).text;
        assert_eq!(shown(&page), [1], "{list}: {page}");
    }
    let all = format!("/ui/queues/w/do?action=redrive&list=dead&all=1&since={since}");
    let page = browser.get(&all).await.expect(200).text;
    assert!(page.contains("<strong>1 message.</strong>"), "{page}");
}

#[tokio::test]
async fn a_search_by_time_finds_what_sql_stored_as_if_it_were_older() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let store = "SELECT pgmq.send('q', '1'::jsonb) FROM generate_series(1, 12);
        UPDATE pgmq.q_q SET enqueued_at = now() - interval '2 days' WHERE msg_id BETWEEN 6 AND 10";
    gateway.database.execute(store).await;
    let browser = Browser::new(&gateway.base);
    let since = half_an_hour_ago(&gateway).await;
    let page = browser.get(&format!("/ui/queues/q/messages?since={since}")).await.expect(200).text;
    assert_eq!(shown(&page), [1, 2, 3, 4, 5, 11, 12], "{page}");
    let all = format!("/ui/queues/q/do?list=all&action=delete&all=1&since={since}");
    let page = browser.get(&all).await.expect(200).text;
    assert!(page.contains("7 messages."), "{page}");
    let fields = hidden(&page);
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    let done = browser.post("/ui/queues/q/do", &fields).await.expect(200);
    assert_eq!(said(&done), "Deleted 7 of 7.");
    assert_eq!(ids(&gateway, "q_q").await, [6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn a_search_looks_on_by_itself_and_says_where_it_has_not_looked() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let many = "SELECT pgmq.send('q', jsonb_build_object('last', n = 45000)) FROM generate_series(1, 45000) n";
    gateway.database.execute(many).await;
    let browser = Browser::new(&gateway.base);
    let last = serde_urlencoded::to_string([("filter", r#"{"last":true}"#)]).expect("a query");
    let path = format!("/ui/queues/q/messages?list=all&{last}");
    let page = browser.get(&path).await.expect(200).text;
    assert_eq!(shown(&page), [45_000], "{page}");
    assert!(!page.contains("Look further") && !page.contains("Not all of this list"), "{page}");

    gateway.database.execute(SLOW).await;
    let page = browser.get(&path).await.expect(200).text;
    assert!(page.contains("Nothing found so far") && page.contains("Not all of this"), "{page}");
    assert_eq!(listed(&browser, &path).await, [45_000]);
    let first = "UPDATE pgmq.q_q SET message = '{\"last\": true}' WHERE msg_id = 1";
    gateway.database.execute(first).await;
    let page = browser.get(&path).await.expect(200).text;
    assert_eq!(shown(&page), [1], "{page}");
    assert!(page.contains("Not all of this list") && page.contains("Look further"), "{page}");
    assert!(!page.contains("Nothing found so far"), "{page}");
}

#[tokio::test]
async fn what_is_hidden_for_ever_is_listed_to_its_end() {
    let gateway = TestGateway::start().await;
    gateway.create("park").await;
    let hide = "INSERT INTO pgmq.q_park (read_ct, vt, message)
            SELECT 0, 'infinity', to_jsonb(n) FROM generate_series(1, 600) n;
        INSERT INTO pgmq.q_park (read_ct, vt, message)
            SELECT 0, timestamptz '20000-01-01' + make_interval(secs => n % 2), to_jsonb(n)
            FROM generate_series(1, 120) n;
        INSERT INTO pgmq.q_park (read_ct, vt, message)
            SELECT 1, 'infinity', to_jsonb(n) FROM generate_series(1, 70) n";
    gateway.database.execute(hide).await;
    let browser = Browser::new(&gateway.base);
    // By the moment at which they are due: every other one of those that come first is a second later.
    let due = (601..=720).step_by(2).map(|id| id + 1).chain((601..=720).step_by(2));
    let delayed: Vec<i64> = due.chain(1..=600).collect();
    assert_eq!(listed(&browser, "/ui/queues/park/messages?list=delayed").await, delayed);
    let in_flight = listed(&browser, "/ui/queues/park/messages?list=in-flight").await;
    assert_eq!(in_flight, (721..=790).collect::<Vec<_>>());
    let all = "/ui/queues/park/do?action=delete&list=delayed&all=1";
    let page = browser.get(all).await.expect(200).text;
    assert!(page.contains("<strong>720 messages.</strong>"), "{page}");
    let fields = [("action", "delete"), ("list", "delayed"), ("all", "1")];
    let done = browser.post("/ui/queues/park/do", &fields).await.expect(200);
    assert_eq!(said(&done), "Deleted 720 of 720.");
    // What no page gave is no position.
    for odd in ["9223372036854775806.1", "-9223372036854775000.1", "1e9.1", "1"] {
        let path = format!("/ui/queues/park/messages?list=delayed&after={odd}");
        browser.get(&path).await.expect(400);
    }
}

#[tokio::test]
async fn what_died_after_the_preview_is_not_deleted() {
    let gateway = TestGateway::start().await;
    with_dead_letters(&gateway).await;
    for _ in 0..2 {
        gateway.send("w", r#"{"message":1}"#).await;
    }
    die(&gateway, "w", "wd").await;
    let there = ids(&gateway, "q_wd").await;
    let browser = Browser::new(&gateway.base);
    let all = "/ui/queues/w/do?action=delete&list=dead&all=1";
    let fields = hidden(&browser.get(all).await.expect(200).text);
    // One that was stored before.
    gateway.send("w", r#"{"message":2}"#).await;
    let old = "UPDATE pgmq.q_w SET enqueued_at = now() - interval '2 days'";
    gateway.database.execute(old).await;
    die(&gateway, "w", "wd").await;
    let now = ids(&gateway, "q_wd").await;
    assert!(now.len() > there.len(), "{now:?}");
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    browser.post("/ui/queues/w/do", &fields).await.expect(200);
    assert_eq!(ids(&gateway, "q_wd").await, now[there.len()..]);
}
