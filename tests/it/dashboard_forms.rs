//! Forms of the dashboard that come late, twice, or with more than their sender may change.

use pgmq_gateway::config::Settings;
use serde_json::json;

use super::{
    auth::{ADMIN, key, with_admin},
    dashboard_actions::ids,
};
use crate::support::{
    Answer, Browser, TestGateway,
    browser::{Fields, hidden},
};

const SETTINGS: &str = "/ui/queues/q/settings";
const SEND: &str = "/ui/queues/q/send";
const MANAGER: &str = "a-secret-of-the-manager";

fn with_manager(settings: &mut Settings) {
    with_admin(settings);
    settings.auth.keys = vec![key("manager", MANAGER, &["manage:q"])];
}

async fn post(browser: &Browser, path: &str, fields: &Fields) -> Answer {
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    browser.post(path, &fields).await
}

#[tokio::test]
async fn settings_that_others_changed_meanwhile_are_confirmed_again() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let browser = Browser::new(&gateway.base);
    let wanted = [("visibility_timeout", "77"), ("delay", "0")];
    let page = browser.post(SETTINGS, &wanted).await.expect(200).text;
    assert!(!page.contains(">Delay<"), "{page}");
    let fields = hidden(&page);
    gateway.configure("q", json!({"delay": 9})).await.expect(200);
    let set = async || {
        let settings = gateway.get("/queues/q").await.json();
        ["visibility_timeout", "delay"].map(|name| settings["settings"][name].as_i64())
    };
    let stale = post(&browser, SETTINGS, &fields).await.expect(409).text;
    assert!(stale.contains("Nothing was changed") && stale.contains(">Delay<"), "{stale}");
    assert_eq!(set().await, [Some(30), Some(9)]);
    post(&browser, SETTINGS, &hidden(&stale)).await.expect(200);
    assert_eq!(set().await, [Some(77), Some(0)]);
    // Once more, and then an index that is made.
    post(&browser, SETTINGS, &fields).await.expect(409);
    let fields = hidden(&browser.post(SETTINGS, &wanted).await.expect(200).text);
    gateway.patch("/queues/q", r#"{"fifo": true}"#).await.expect(200);
    post(&browser, SETTINGS, &fields).await.expect(409);
    // No page of ours sends it without what it was confirmed for.
    let blind = [("visibility_timeout", "55"), ("confirmed", "1")];
    browser.post(SETTINGS, &blind).await.expect(409);
    assert_eq!(set().await, [Some(77), Some(0)]);
}

#[tokio::test]
async fn a_dead_letter_queue_that_stays_takes_no_right_on_it() {
    let gateway = TestGateway::with(with_manager).await;
    let admin = gateway.with_key(ADMIN);
    for dead in ["dead", "other"] {
        admin.create(dead).await;
    }
    admin.create_with("q", &json!({"settings": {"dead_letter_queue": "dead"}})).await;
    let browser = Browser::logged_in(&gateway.base, MANAGER).await;
    let wanted = |dead| [("visibility_timeout", "77"), ("dead_letter_queue", dead)];
    let page = browser.post(SETTINGS, &wanted("dead")).await.expect(200).text;
    post(&browser, SETTINGS, &hidden(&page)).await.expect(200);
    browser.post(SETTINGS, &wanted("other")).await.expect(403);
    let mut fields = hidden(&page);
    for (name, value) in &mut fields {
        if name == "dead_letter_queue" {
            "other".clone_into(value);
        }
    }
    post(&browser, SETTINGS, &fields).await.expect(403);
    let settings = admin.get("/queues/q").await.json()["settings"].clone();
    assert_eq!(settings["visibility_timeout"], 77);
    assert_eq!(settings["dead_letter_queue"], "dead");
}

#[tokio::test]
async fn a_form_that_is_sent_twice_stores_one_message() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let browser = Browser::new(&gateway.base);
    let mut fields = hidden(&browser.get(SEND).await.expect(200).text);
    assert!(fields.iter().any(|(name, _)| name == "once"), "{fields:?}");
    fields.push(("message".to_owned(), "{\"n\":1}".to_owned()));
    for _ in 0..2 {
        let sent = post(&browser, SEND, &fields).await.expect(303);
        assert_eq!(sent.header("location"), "/ui/queues/q/send?stored=1");
    }
    assert_eq!(ids(&gateway, "q_q").await, [1]);
    let page = browser.get("/ui/queues/q/send?stored=1").await.expect(200).text;
    assert!(page.contains("Stored as message") && page.contains("/messages/1\""), "{page}");
    browser.get("/ui/queues/q/send?stored=x").await.expect(400);
    // Another message under it is none, and its page has a form that can be sent.
    if let Some((_, message)) = fields.last_mut() {
        "{\"n\":2}".clone_into(message);
    }
    let refused = post(&browser, SEND, &fields).await.expect(422).text;
    assert!(refused.contains("Nothing was stored"), "{refused}");
    assert_eq!(ids(&gateway, "q_q").await, [1]);
    let mut again = hidden(&refused);
    again.push(("message".to_owned(), "{\"n\":2}".to_owned()));
    post(&browser, SEND, &again).await.expect(303);
    assert_eq!(gateway.all("q").await.len(), 2);
    let odd = [("message", "1"), ("once", "a b")];
    browser.post(SEND, &odd).await.expect(422);
    assert_eq!(gateway.all("q").await.len(), 2);
}

/// What is shown again is sent again: a part of a message would be another one.
#[tokio::test]
async fn what_was_wrong_is_shown_again_whole_or_not_at_all() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let browser = Browser::new(&gateway.base);
    for (length, is_shown) in [(60_000, true), (70_000, false)] {
        let message = format!("no JSON {}", "x".repeat(length));
        let refused = browser.post(SEND, &[("message", &*message)]).await.expect(422).text;
        assert_eq!(refused.contains(&message), is_shown, "{length}");
        assert_eq!(refused.contains("no JSON x"), is_shown, "{length}");
        assert_eq!(refused.contains("too long to be shown again"), !is_shown, "{length}");
    }
}

#[tokio::test]
async fn a_message_of_an_odd_id_is_said_to_be_stored() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let odd = "CREATE FUNCTION public.odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.msg_id := -8; RETURN NEW; END $$;
        CREATE TRIGGER odd BEFORE INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.odd()";
    gateway.database.execute(odd).await;
    let browser = Browser::new(&gateway.base);
    let sent = browser.post(SEND, &[("message", "1")]).await.expect(303);
    assert_eq!(ids(&gateway, "q_q").await, [-8]);
    let page = browser.get(sent.header("location")).await.expect(200).text;
    assert!(page.contains("Stored as message -8."), "{page}");
}

#[tokio::test]
async fn what_leads_elsewhere_keeps_the_path_that_a_proxy_takes_off() {
    let gateway = TestGateway::start().await;
    let browser = Browser::new(&gateway.base);
    let led = async |method: &str, path: &str, form: &'static str| {
        let request = browser.request(method, path).header("x-forwarded-prefix", "/gw");
        let request = request.header("sec-fetch-site", "same-origin");
        let kind = "application/x-www-form-urlencoded";
        let answer = Answer::of(request.header("content-type", kind).body(form)).await.expect(303);
        answer.header("location").to_owned()
    };
    assert_eq!(led("GET", "/ui/", "").await, "/gw/ui");
    assert_eq!(led("POST", "/ui/new", "name=q").await, "/gw/ui/queues/q");
    let stored = led("POST", SEND, "message=1").await;
    assert_eq!(stored, "/gw/ui/queues/q/send?stored=1");
    let found = led("GET", "/ui/queues/q/messages?list=all&id=1", "").await;
    assert_eq!(found, "/gw/ui/queues/q/messages/1");
    let bound = led("POST", "/ui/queues/q/bindings", "action=bind&pattern=a").await;
    assert_eq!(bound, "/gw/ui/queues/q/table");
    assert_eq!(led("POST", "/ui/logout", "").await, "/gw/ui/login");
}
