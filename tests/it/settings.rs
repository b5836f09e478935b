//! Settings of queues.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Client, Holder, TestGateway, eventually, holder};

/// What a queue has that nobody has configured.
fn defaults() -> Value {
    json!({
        "visibility_timeout": 30, "delay": 0, "max_message_bytes": 1_048_576,
        "max_receives": null, "dead_letter_queue": null, "message_retention": null,
        "archive_retention": null, "notify": null, "paused": false, "retry_backoff": null, "fair": false,
    })
}

/// The defaults with other values for some.
fn but(others: &Value) -> Value {
    let mut settings = defaults();
    for (name, value) in others.as_object().expect("an object") {
        settings[name] = value.clone();
    }
    settings
}

async fn with_queue(settings: &Value) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"settings": settings})).await;
    gateway
}

async fn settings(client: &Client) -> Value {
    client.get("/queues/q").await.expect(200).json()["settings"].clone()
}

#[track_caller]
fn time(message: &Value, field: &str) -> DateTime<Utc> {
    message[field].as_str().expect("a time").parse().expect("RFC 3339")
}

/// Whether a message sent now is delayed.
async fn delays(client: &Client) -> bool {
    let id = client.send("q", r#"{"message":1}"#).await;
    let message = client.get(&format!("/queues/q/messages/{id}")).await.expect(200).json();
    time(&message, "vt") - time(&message, "enqueued_at") > TimeDelta::seconds(60)
}

#[tokio::test]
async fn a_queue_has_defaults() {
    let gateway = TestGateway::start().await;
    let created = gateway.put("/queues/q", "").await.expect(201).json();
    assert_eq!(created["settings"], defaults());
    gateway.database.execute("SELECT pgmq.create('sql')").await;
    for queue in ["q", "sql"] {
        let shown = gateway.get(&format!("/queues/{queue}")).await.expect(200).json();
        assert_eq!(shown["settings"], defaults(), "{queue}");
    }
    let list = gateway.get("/queues").await.expect(200).json();
    assert_eq!(list["queues"][0]["settings"], defaults());
}

#[tokio::test]
async fn the_default_size_is_the_servers_limit() {
    let gateway = TestGateway::with(|settings| settings.limits.max_message_bytes = 5_000).await;
    gateway.create("q").await;
    assert_eq!(settings(&gateway).await["max_message_bytes"], 5_000);
}

#[tokio::test]
async fn a_queue_is_made_with_settings() {
    let gateway = TestGateway::start().await;
    gateway.create("dlq").await;
    let all = json!({
        "visibility_timeout": 315_360_000, "delay": 315_360_000, "max_message_bytes": 1_000,
        "max_receives": 5, "dead_letter_queue": "dlq", "message_retention": 86_400,
        "archive_retention": 3_600, "notify": {"throttle_ms": 250}, "paused": true,
        "retry_backoff": {"min": 1, "max": 3_600, "factor": 2}, "fair": true,
    });
    let body = json!({"settings": all}).to_string();
    let created = gateway.put("/queues/q", &body).await.expect(201).json();
    assert_eq!(created["settings"], all);
    assert_eq!(settings(&gateway).await, all);
    assert_eq!(gateway.put("/queues/q", &body).await.expect(200).json(), created);
}

#[tokio::test]
async fn making_it_again_with_other_settings_is_a_conflict() {
    let gateway = with_queue(&json!({"delay": 5})).await;
    let equal = r#"{"settings":{"delay":5}}"#;
    assert_eq!(gateway.put("/queues/q", equal).await.expect(200).json()["settings"]["delay"], 5);
    for other in [r#"{"settings":{"delay":6}}"#, r#"{"settings":{"delay":5,"max_receives":1}}"#] {
        gateway.put("/queues/q", other).await.problem(409, "queue_conflict");
    }
    assert_eq!(settings(&gateway).await, but(&json!({"delay": 5})), "nothing was changed");
}

#[tokio::test]
async fn a_change_leaves_the_others_alone() {
    let gateway = with_queue(&json!({"delay": 5, "max_receives": 3})).await;
    let change = json!({"visibility_timeout": 60, "delay": 7});
    let changed = gateway.configure("q", change).await.expect(200).json();
    assert_eq!((&changed["queue"], &changed["kind"]), (&json!("q"), &json!("standard")));
    let expected = but(&json!({"visibility_timeout": 60, "delay": 7, "max_receives": 3}));
    assert_eq!(changed["settings"], expected);
    assert_eq!(settings(&gateway).await, expected);
    gateway.configure("q", json!({})).await.expect(200);
    assert_eq!(settings(&gateway).await, expected);
}

#[tokio::test]
async fn null_resets_to_the_default() {
    let gateway = TestGateway::start().await;
    gateway.create("dlq").await;
    let all = json!({
        "visibility_timeout": 1, "delay": 2, "max_message_bytes": 3_000, "max_receives": 4,
        "dead_letter_queue": "dlq", "message_retention": 50_000, "archive_retention": 60_000,
        "notify": {"throttle_ms": 7}, "paused": true,
        "retry_backoff": {"min": 5, "max": 60, "factor": 1.5}, "fair": true,
    });
    gateway.create_with("q", &json!({"settings": all})).await;
    let mut expected = all.clone();
    for name in all.as_object().expect("an object").keys() {
        expected[name] = defaults()[name].clone();
        let changed = gateway.configure("q", json!({name: null})).await.expect(200).json();
        assert_eq!(changed["settings"], expected, "{name}");
    }
    assert_eq!(settings(&gateway).await, defaults());
}

#[tokio::test]
async fn a_change_needs_a_queue_and_touches_settings_alone() {
    let gateway = with_queue(&json!({})).await;
    gateway.configure("none", json!({"delay": 1})).await.problem(404, "queue_not_found");
    for body in ["", "[]", r#"{"kind":"unlogged"}"#, r#"{"queue":"r","settings":{"delay":1}}"#] {
        gateway.patch("/queues/q", body).await.problem(400, "invalid_request");
    }
    assert_eq!(settings(&gateway).await, defaults());
}

#[tokio::test]
async fn wrong_settings_are_refused_by_name() {
    let gateway = with_queue(&json!({})).await;
    for (wrong, name) in [
        (json!({"visibility_timeuot": 30}), "visibility_timeuot"),
        (json!({"visibility_timeout": -1}), "visibility_timeout"),
        (json!({"visibility_timeout": 315_360_001}), "0 to 315360000"),
        (json!({"visibility_timeout": "30"}), "visibility_timeout"),
        (json!({"visibility_timeout": 1.5}), "visibility_timeout"),
        (json!({"delay": -1}), "delay"),
        (json!({"delay": 315_360_001}), "0 to 315360000"),
        (json!({"max_message_bytes": 0}), "max_message_bytes"),
        (json!({"max_message_bytes": -1}), "max_message_bytes"),
        (json!({"max_receives": 0}), "max_receives"),
        (json!({"max_receives": 5_000_000_000_i64}), "max_receives"),
        (json!({"dead_letter_queue": 1}), "dead_letter_queue"),
        (json!({"dead_letter_queue": "none"}), "PUT /queues/none creates it"),
        (
            json!({"dead_letter_queue": "None"}),
            "`settings.dead_letter_queue`: a queue name is lower case",
        ),
        (json!({"message_retention": -1}), "message_retention"),
        (json!({"archive_retention": -1}), "archive_retention"),
        (json!({"notify": true}), "notify"),
        (json!({"notify": {"throttle": 1}}), "throttle"),
        (json!({"notify": {"throttle_ms": -1}}), "throttle_ms"),
        (json!({"paused": 1}), "paused"),
        (json!({"fair": "yes"}), "fair"),
        (json!({"retry_backoff": {"min": 2, "max": 1, "factor": 2}}), "retry_backoff"),
        (json!([]), "settings"),
    ] {
        let body = json!({"settings": wrong}).to_string();
        let refused =
            [gateway.configure("q", wrong.clone()).await, gateway.put("/queues/new", &body).await];
        for refused in refused {
            let detail = refused.problem(400, "invalid_request").detail();
            assert!(detail.contains(name), "{wrong}: {detail}");
        }
    }
    assert_eq!(settings(&gateway).await, defaults());
    gateway.get("/queues/new").await.problem(404, "queue_not_found");
}

#[tokio::test]
async fn one_wrong_setting_refuses_the_whole_change() {
    let gateway = with_queue(&json!({})).await;
    let change = json!({"delay": 5, "max_receives": -1});
    gateway.configure("q", change).await.problem(400, "invalid_request");
    assert_eq!(settings(&gateway).await, defaults());
}

#[tokio::test]
async fn a_receive_without_vt_takes_the_queues() {
    let gateway = with_queue(&json!({"visibility_timeout": 600})).await;
    for parameters in ["", "wait=10", "qty=5&filter=%7B%22a%22%3A1%7D"] {
        let id = gateway.send("q", r#"{"message":{"a":1}}"#).await;
        let message = gateway.receive_one("q", parameters).await;
        let lease = (time(&message, "vt") - time(&message, "last_read_at")).num_seconds();
        assert!((598..=602).contains(&lease), "{parameters}: {lease}");
        let path = format!("/queues/q/messages/{id}");
        gateway.patch(&path, r#"{"vt":0}"#).await.expect(200);
        gateway.receive_one("q", "vt=0").await;
        gateway.receive_one("q", "vt=0").await;
        gateway.delete(&path).await.expect(204);
    }
    gateway.configure("q", json!({"visibility_timeout": 0})).await.expect(200);
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.receive_one("q", "").await;
    gateway.receive_one("q", "").await;
}

#[tokio::test]
async fn a_send_without_delay_takes_the_queues() {
    let gateway = with_queue(&json!({"delay": 600})).await;
    gateway.send("q", r#"{"message":"delayed"}"#).await;
    let batch = r#"{"messages":[{"message":"delayed"},{"message":"at once","delay":0}]}"#;
    gateway.post("/queues/q/messages/batch", batch).await.expect(201);
    assert_eq!(gateway.receive_one("q", "qty=10").await["message"], "at once");
    gateway.send("q", r#"{"message":"past","visible_at":"2020-01-01T00:00:00Z"}"#).await;
    gateway.send("q", r#"{"message":"now","delay":0}"#).await;
    let mut seen: Vec<_> = gateway.receive("q", "qty=10").await;
    seen.sort_by_key(|m| m["msg_id"].as_i64());
    assert_eq!(seen.iter().map(|m| &m["message"]).collect::<Vec<_>>(), ["past", "now"]);
    for delayed in gateway.all("q").await.iter().filter(|m| m["message"] == "delayed") {
        let delay = (time(delayed, "vt") - time(delayed, "enqueued_at")).num_seconds();
        assert!((598..=602).contains(&delay), "{delay}");
    }
}

#[tokio::test]
async fn a_message_over_the_queues_size_is_refused() {
    let gateway = with_queue(&json!({"max_message_bytes": 1_000})).await;
    gateway.create("other").await;
    let large = json!({"message": "x".repeat(1_100)});
    let refused = gateway.post("/queues/q/messages", &large.to_string()).await;
    refused.problem(413, "message_too_large");
    let batch = json!({"messages": [{"message": 1}, large]}).to_string();
    let refused = gateway.post("/queues/q/messages/batch", &batch).await;
    refused.problem(413, "message_too_large");
    assert!(gateway.all("q").await.is_empty(), "nothing is stored");
    gateway.send("q", &json!({"message": "x".repeat(900)}).to_string()).await;
    gateway.send("other", &large.to_string()).await;
    gateway.configure("q", json!({"max_message_bytes": null})).await.expect(200);
    gateway.send("q", &large.to_string()).await;
}

#[tokio::test]
async fn a_change_is_in_force_everywhere_within_a_moment() {
    let [one, other] = TestGateway::pair().await;
    one.create("q").await;
    assert!(!delays(&one).await && !delays(&other).await, "both know the queue");
    for (delay, expected) in [(json!(600), true), (Value::Null, false)] {
        one.configure("q", json!({"delay": delay})).await.expect(200);
        let changed = Instant::now();
        assert_eq!(delays(&one).await, expected, "here at once");
        let in_force = async || (delays(&other).await == expected).then_some(());
        eventually("it is in force at the other gateway", in_force).await;
        assert!(changed.elapsed() < Duration::from_secs(10), "{:?}", changed.elapsed());
    }
}

#[tokio::test]
async fn changes_at_two_gateways_do_not_undo_each_other() {
    let [one, other] = TestGateway::pair().await;
    one.create("q").await;
    for n in 1..=20 {
        let (first, second) = tokio::join!(
            one.configure("q", json!({"delay": n})),
            other.configure("q", json!({"visibility_timeout": n}))
        );
        first.expect(200);
        second.expect(200);
        let expected = but(&json!({"delay": n, "visibility_timeout": n}));
        eventually("both are there", async || (settings(&one).await == expected).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn a_queue_that_is_made_anew_has_no_settings_left() {
    let [one, other] = TestGateway::pair().await;
    one.create("q").await;
    for by_sql in [false, true] {
        one.configure("q", json!({"delay": 600, "max_receives": 2})).await.expect(200);
        let known = async || delays(&other).await.then_some(());
        eventually("it is in force at the other gateway", known).await;
        if by_sql {
            let again = "SELECT pgmq.drop_queue('q'); SELECT pgmq.create('q')";
            one.database.execute(again).await;
        } else {
            one.delete("/queues/q").await.expect(204);
            one.create("q").await;
        }
        for gateway in [&one, &other] {
            let gone = async || (settings(gateway).await == defaults()).then_some(());
            eventually("the settings are gone", gone).await;
            let gone = async || (!delays(gateway).await).then_some(());
            eventually("nothing is delayed", gone).await;
        }
    }
}

const TRIGGERS: &str = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'pgmq.q_q'::regclass
    AND tgname = 'trigger_notify_queue_insert_listeners'";
const THROTTLES: &str = "SELECT coalesce(string_agg(throttle_interval_ms::text, ' '), 'none')
    FROM pgmq.notify_insert_throttle WHERE queue_name = 'q'";

#[tokio::test]
async fn notify_turns_insert_notifications_on_and_off() {
    let gateway = with_queue(&json!({"notify": {"throttle_ms": 250}})).await;
    let now = async || {
        let triggers: i64 = gateway.database.value(TRIGGERS).await;
        (triggers, gateway.database.value::<String>(THROTTLES).await)
    };
    assert_eq!(now().await, (1, "250".into()));
    gateway.configure("q", json!({"delay": 0})).await.expect(200);
    assert_eq!(now().await, (1, "250".into()), "only what is given is changed");
    gateway.configure("q", json!({"notify": {"throttle_ms": 0}})).await.expect(200);
    assert_eq!(now().await, (1, "0".into()));
    gateway.configure("q", json!({"notify": null})).await.expect(200);
    assert_eq!(now().await, (0, "none".into()));
    assert_eq!(settings(&gateway).await, defaults());
}

#[tokio::test]
async fn notifications_that_sql_turned_on_are_shown() {
    let gateway = with_queue(&json!({})).await;
    for (sql, shown) in [
        ("SELECT pgmq.enable_notify_insert('q', 100)", json!({"throttle_ms": 100})),
        ("SELECT pgmq.update_notify_insert('q', 300)", json!({"throttle_ms": 300})),
        ("SELECT pgmq.disable_notify_insert('q')", Value::Null),
    ] {
        gateway.database.execute(sql).await;
        let seen = async || (settings(&gateway).await["notify"] == shown).then_some(());
        eventually(sql, seen).await;
    }
}

/// Settings that cannot be looked at hold up the queue whose settings were changed, and no other.
#[tokio::test]
async fn a_reload_that_is_stuck_makes_the_changed_queue_wait_and_no_other() {
    let gateway = TestGateway::start().await;
    gateway.create("other").await;
    let patience = "ALTER FUNCTION pgmq_gateway.all_settings() SET lock_timeout = '60s'";
    gateway.database.execute(patience).await;
    gateway.send("other", r#"{"message":0}"#).await;
    gateway.create_with("q", &json!({"settings": {"delay": 600}})).await;
    let lock = "LOCK TABLE pgmq_gateway.queue_settings IN ACCESS EXCLUSIVE MODE";
    let holder = Holder::of(&gateway.database, lock).await;
    let (client, changed) = (gateway.client.clone(), r#"{"message":"changed"}"#);
    let waiting = tokio::spawn(async move { client.send("q", changed).await });
    holder::wait_for_blocked(&gateway.database, "/* all_settings */").await;
    for n in 1..=5 {
        let began = Instant::now();
        // Receiving looks at the row of the queue there, too.
        let id = gateway.send("other", &json!({"message": n}).to_string()).await;
        gateway.delete(&format!("/queues/other/messages/{id}")).await.expect(204);
        // Past the age at which they would be loaded again.
        tokio::time::sleep_until(began + Duration::from_millis(300)).await;
    }
    assert!(!waiting.is_finished(), "its settings are not known");
    holder.commit().await;
    waiting.await.expect("no panic");
    assert!(gateway.receive("q", "").await.is_empty(), "the new settings hold");
    assert_eq!(gateway.all("q").await.len(), 1);
}

/// What was shown can be sent back.
#[tokio::test]
async fn a_queue_can_be_put_as_it_was_shown() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let shown = gateway.get("/queues/q").await.expect(200).json();
    let again =
        json!({"kind": shown["kind"], "fifo": shown["fifo"], "settings": shown["settings"]});
    gateway.put("/queues/q", &again.to_string()).await.expect(200);
}
