//! Queues that are there already: changed by PUT and PATCH, and dropped.

use pgmq_gateway::config::Secret;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::auth::{ADMIN, key};
use crate::support::{Answer, Holder, TestGateway, eventually, holder};

const INDEXES: &str = "SELECT count(*) FROM pg_index i WHERE i.indrelid = 'pgmq.q_q'::regclass \
                       AND pg_get_indexdef(i.indexrelid) LIKE '%x-pgmq-group%, msg_id)'";

async fn put(gateway: &TestGateway, parameters: &str, body: &Value) -> Answer {
    gateway.put(&format!("/queues/q{parameters}"), &body.to_string()).await
}

#[tokio::test]
async fn put_applies_settings_where_that_is_wished() {
    let gateway = TestGateway::start().await;
    let declared = json!({"settings": {"visibility_timeout": 60}});
    put(&gateway, "?on_conflict=update", &declared).await.expect(201);
    put(&gateway, "?on_conflict=update", &declared).await.expect(200);
    gateway.configure("q", json!({"delay": 5})).await.expect(200);
    let declared = json!({"fifo": true, "settings": {"visibility_timeout": 90, "max_receives": 3}});
    put(&gateway, "", &declared).await.problem(409, "queue_conflict");
    let updated = put(&gateway, "?on_conflict=update", &declared).await.expect(200).json();
    assert_eq!(updated["fifo"], true);
    let settings = &updated["settings"];
    assert_eq!(
        (&settings["visibility_timeout"], &settings["max_receives"]),
        (&json!(90), &json!(3))
    );
    assert_eq!(settings["delay"], 5, "what is not given stays");
    assert_eq!(put(&gateway, "", &declared).await.expect(200).json(), updated);
    // Without anything to change nothing is.
    assert_eq!(put(&gateway, "?on_conflict=update", &json!({})).await.expect(200).json(), updated);
    // Another kind is another queue.
    let other = put(&gateway, "?on_conflict=update", &json!({"kind": "unlogged"})).await;
    other.problem(409, "queue_conflict");
    let typo =
        put(&gateway, "?on_conflict=replace", &declared).await.problem(400, "invalid_request");
    assert!(typo.detail().contains("`on_conflict` must be `update`"), "{}", typo.detail());
    let wrong = json!({"fifo": false, "settings": {"dead_letter_queue": "none"}});
    put(&gateway, "?on_conflict=update", &wrong).await.problem(400, "invalid_request");
    assert_eq!(gateway.get("/queues/q").await.json(), updated, "nothing was done by halves");
}

#[tokio::test]
async fn patch_builds_and_drops_the_index() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for n in 0..3 {
        let message = json!({"message": n, "headers": {"x-pgmq-group": "g"}}).to_string();
        gateway.send("q", &message).await;
    }
    for (body, fifo, indexes) in [
        (r#"{"fifo":true}"#, true, 1),
        (r#"{"fifo":true,"settings":{"delay":1}}"#, true, 1),
        (r#"{"settings":{"delay":0}}"#, true, 1),
        (r#"{"fifo":false}"#, false, 0),
        (r#"{"fifo":false}"#, false, 0),
        (r#"{"fifo":true}"#, true, 1),
    ] {
        let queue = gateway.patch("/queues/q", body).await.expect(200).json();
        assert_eq!(queue["fifo"], fifo, "{body}");
        assert_eq!(gateway.database.value::<i64>(INDEXES).await, indexes, "{body}");
        assert_eq!(gateway.receive("q", "fifo=head&qty=9&vt=0").await.len(), 1);
    }
    let noted = "SELECT fifo FROM pgmq_gateway.queue_settings WHERE queue_name = 'q'";
    assert!(gateway.database.value::<bool>(noted).await);
    gateway.patch("/queues/q", "{}").await.problem(400, "invalid_request");
    gateway.patch("/queues/q", r#"{"fifo":1}"#).await.problem(400, "invalid_request");
    gateway.patch("/queues/none", r#"{"fifo":true}"#).await.problem(404, "queue_not_found");
}

/// What it waits for is a transaction that was there before; nobody else waits.
#[tokio::test]
async fn the_index_is_built_beside_running_traffic() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let holder =
        Holder::of(&gateway.database, "INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '2')")
            .await;
    let client = gateway.client.clone();
    let building = tokio::spawn(async move { client.patch("/queues/q", r#"{"fifo":true}"#).await });
    holder::wait_for_blocked(&gateway.database, "CREATE INDEX CONCURRENTLY").await;
    let id = gateway.send("q", r#"{"message":3}"#).await;
    assert_eq!(gateway.receive("q", "qty=9&vt=0").await.len(), 2);
    gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
    assert!(!building.is_finished());
    holder.commit().await;
    assert_eq!(building.await.expect("built").expect(200).json()["fifo"], true);
    // What is left of an attempt that was cut short is cleared away.
    gateway
        .database
        .execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pgmq.gw_fifo_q_q'::regclass")
        .await;
    assert_eq!(gateway.get("/queues/q").await.json()["fifo"], false);
    let queue = gateway.patch("/queues/q", r#"{"fifo":true}"#).await.expect(200).json();
    assert_eq!((&queue["fifo"], gateway.database.value::<i64>(INDEXES).await), (&json!(true), 1));
}

/// Nobody takes an index that another gateway is at for what is left of an attempt.
#[tokio::test]
async fn two_gateways_do_not_undo_each_others_index() {
    let [one, other] = TestGateway::pair().await;
    one.create("q").await;
    let insert = "INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '2')";
    let holder = Holder::of(&one.database, insert).await;
    let client = one.client.clone();
    let building = tokio::spawn(async move { client.patch("/queues/q", r#"{"fifo":true}"#).await });
    eventually("it is being made", async || {
        let begun =
            "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()";
        (one.database.value::<i64>(begun).await == 1).then_some(())
    })
    .await;
    for body in [r#"{"fifo":true}"#, r#"{"fifo":false}"#] {
        other.patch("/queues/q", body).await.problem(503, "overloaded");
    }
    assert!(!building.is_finished());
    holder.commit().await;
    assert_eq!(building.await.expect("built").expect(200).json()["fifo"], true);
    assert_eq!(other.patch("/queues/q", r#"{"fifo":true}"#).await.expect(200).json()["fifo"], true);
    assert_eq!(one.database.value::<i64>(INDEXES).await, 1);
}

/// An index that cannot be made yet is of no concern to a queue that has its own, nor to one that gets it now.
#[tokio::test]
async fn an_index_that_waits_keeps_no_other_queue_from_being_changed() {
    let gateway = TestGateway::start().await;
    for queue in ["q", "other", "new"] {
        gateway.create(queue).await;
    }
    gateway.patch("/queues/other", r#"{"fifo":true}"#).await.expect(200);
    let insert = "INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '2')";
    let holder = Holder::of(&gateway.database, insert).await;
    let client = gateway.client.clone();
    let building = tokio::spawn(async move { client.patch("/queues/q", r#"{"fifo":true}"#).await });
    eventually("it is being made", async || {
        let begun =
            "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()";
        (gateway.database.value::<i64>(begun).await == 1).then_some(())
    })
    .await;
    let declared = r#"{"fifo":true,"settings":{"delay":5}}"#;
    let changed = gateway.put("/queues/other?on_conflict=update", declared).await;
    assert_eq!(changed.expect(200).json()["settings"]["delay"], 5);
    let changed = gateway.patch("/queues/new", r#"{"fifo":true}"#).await;
    assert_eq!(changed.expect(200).json()["fifo"], true);
    assert!(!building.is_finished());
    holder.commit().await;
    building.await.expect("built").expect(200);
}

/// An index that SQL makes, or whose maker ended before it could say so, counts for those who send, too.
#[tokio::test]
async fn what_sql_makes_of_a_queues_index_is_written_down() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let noted = "SELECT bool_or(fifo) FROM pgmq_gateway.queue_settings WHERE queue_name = 'q'";
    let index = "CREATE INDEX mine ON pgmq.q_q
        ((coalesce(headers->>'x-pgmq-group', '_default_fifo_group')), msg_id)";
    for (sql, is_fifo) in [(index, true), ("DROP INDEX pgmq.mine", false)] {
        gateway.database.execute(sql).await;
        gateway.database.execute("SELECT pgmq_gateway.register_queues()").await;
        assert_eq!(gateway.get("/queues/q").await.json()["fifo"], is_fifo);
        assert_eq!(gateway.database.value::<bool>(noted).await, is_fifo, "{sql}");
    }
}

/// Whoever comes second finds it made, or dropped, or being so.
#[tokio::test]
async fn gateways_that_make_the_same_index_at_once_all_succeed() {
    let gateways = TestGateway::pair().await;
    let queues: Vec<String> = (0..8).map(|n| format!("q{n}")).collect();
    for queue in &queues {
        gateways[0].create(queue).await;
    }
    for wanted in [true, false, true, false] {
        let change = json!({"fifo": wanted, "settings": {"fair": wanted}}).to_string();
        let mut crowd = JoinSet::new();
        for (queue, gateway) in queues.iter().flat_map(|q| gateways.iter().map(move |g| (q, g))) {
            let request =
                gateway.request("PATCH", &format!("/queues/{queue}")).body(change.clone());
            crowd.spawn(async move { Answer::of(request).await });
        }
        for answer in crowd.join_all().await {
            assert_eq!(answer.expect(200).json()["fifo"], wanted);
        }
        let indexes = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
                       WHERE c.relname LIKE 'q\\_q%' AND i.indnkeyatts = 2";
        let expected = if wanted { 16 } else { 0 };
        assert_eq!(gateways[0].database.value::<i64>(indexes).await, expected);
    }
}

#[tokio::test]
async fn a_queue_for_dead_letters_is_dropped_only_by_force() {
    let gateway = TestGateway::start().await;
    for dead in ["dlq", "dlq2"] {
        gateway.create(dead).await;
    }
    gateway
        .create_with("q", &json!({"settings": {"dead_letter_queue": "dlq", "max_receives": 1}}))
        .await;
    for path in ["/queues/dlq", "/queues/dlq?force=false"] {
        let refused = gateway.delete(path).await.problem(409, "queue_in_use");
        assert!(refused.detail().contains("`q`"), "{}", refused.detail());
    }
    gateway.delete("/queues/dlq?force=yes").await.problem(400, "invalid_request");
    assert_eq!(gateway.get("/queues/q").await.json().get("dead_letter_queue_missing"), None);
    gateway.configure("q", json!({"dead_letter_queue": "dlq2"})).await.expect(200);
    gateway.delete("/queues/dlq").await.expect(204);
    gateway.delete("/queues/dlq2?force=true").await.expect(204);
    // That it is missing is told.
    let queue = gateway.get("/queues/q").await.expect(200).json();
    assert_eq!(queue["dead_letter_queue_missing"], true, "{queue}");
    assert_eq!(queue["settings"]["dead_letter_queue"], "dlq2");
    let listed = gateway.get("/queues").await.expect(200).json();
    assert_eq!(listed["queues"][0]["dead_letter_queue_missing"], true);
    gateway.send("q", r#"{"message":1}"#).await;
    let body = r#"{"dead_letter":[{"msg_id":1,"reason":"r"}]}"#;
    let settled = gateway.post("/queues/q/messages/settle", body).await.expect(200).json();
    assert_eq!(settled["dead_lettered"], json!([1]));
    assert_eq!(gateway.get("/queues/q/archive").await.expect(200).messages().len(), 1);
    // A queue that is gone names nobody.
    gateway.create("dlq2").await;
    assert_eq!(gateway.get("/queues/q").await.json().get("dead_letter_queue_missing"), None);
    gateway.delete("/queues/q").await.expect(204);
    gateway.delete("/queues/dlq2").await.expect(204);
    gateway.delete("/queues/dlq2?force=true").await.problem(404, "queue_not_found");
}

/// Whoever may not see a queue is not told its name.
#[tokio::test]
async fn the_queue_in_the_way_is_named_to_those_who_may_see_it() {
    let gateway = TestGateway::with(|settings| {
        settings.auth.admin_key = Some(Secret::new(ADMIN));
        settings.auth.keys = vec![key("m", "a key for one queue alone", &["manage:dlq"])];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("dlq").await;
    admin.create_with("hidden", &json!({"settings": {"dead_letter_queue": "dlq"}})).await;
    let stranger = gateway.with_key("a key for one queue alone");
    for (client, is_named) in [(&stranger, false), (&admin, true)] {
        let refused = client.delete("/queues/dlq").await.problem(409, "queue_in_use");
        assert_eq!(refused.detail().contains("hidden"), is_named, "{}", refused.detail());
    }
}

/// An attempt that fails looks for what it has left, and not for what another gateway has made in that time.
#[tokio::test]
async fn an_index_that_another_gateway_made_meanwhile_stays() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let holder = Holder::of(&gateway.database, "SELECT pg_advisory_xact_lock(1)").await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION public.fail_first() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF pg_try_advisory_xact_lock(2) THEN
                     PERFORM pg_advisory_xact_lock(1);
                     RAISE EXCEPTION 'as the test wishes';
                 END IF;
             END $$;
             CREATE EVENT TRIGGER fail_first ON ddl_command_start WHEN TAG IN ('CREATE INDEX')
             EXECUTE FUNCTION public.fail_first()",
        )
        .await;
    let client = gateway.client.clone();
    let attempt = tokio::spawn(async move { client.patch("/queues/q", r#"{"fifo":true}"#).await });
    eventually("it waits", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                     AND wait_event = 'advisory' AND query LIKE 'CREATE INDEX%'";
        (gateway.database.value::<i64>(waits).await == 1).then_some(())
    })
    .await;
    let statement = "SELECT pgmq_gateway.group_index_statement('q', 'msg_id', '')";
    let statement: String = gateway.database.value(statement).await;
    gateway.database.execute(&statement).await;
    // What an attempt was cut short at is of no use.
    let leftover = format!(
        "{}; UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pgmq.leftover'::regclass",
        statement.replacen("gw_fifo_q_q", "leftover", 1)
    );
    gateway.database.execute(&leftover).await;
    assert_eq!(gateway.database.value::<i64>(INDEXES).await, 2);
    holder.commit().await;
    attempt.await.expect("answered").problem(403, "forbidden");
    assert_eq!(gateway.database.value::<i64>(INDEXES).await, 1);
    gateway.put("/queues/q?on_conflict=update", r#"{"fifo":true}"#).await.expect(200);
    assert_eq!(gateway.database.value::<i64>(INDEXES).await, 1);
}
