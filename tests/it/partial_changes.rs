//! Changes of a queue that take several commits: what is answered is what is in force.

use serde_json::{Value, json};

use crate::support::{Holder, TestDatabase, TestGateway, eventually};

const INDEXES: &str = "SELECT count(*) FROM pg_index i WHERE i.indrelid = 'pgmq.q_q'::regclass \
                       AND i.indnkeyatts = 2 AND i.indisvalid";
const ROW: &str = "SELECT FROM pgmq_gateway.queue_settings WHERE queue_name = 'q' FOR UPDATE";

/// Runs this, with `PERFORM`s and the like, before an index is dropped.
fn before_drop(body: &str) -> String {
    format!(
        "CREATE FUNCTION public.before_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$
         BEGIN {body}; END $$;
         CREATE EVENT TRIGGER before_drop ON ddl_command_start WHEN TAG IN ('DROP INDEX')
         EXECUTE FUNCTION public.before_drop()"
    )
}

async fn shown(gateway: &TestGateway) -> Value {
    gateway.get("/queues/q").await.expect(200).json()
}

/// Insists that an error tells what is done, and not that nothing is.
#[track_caller]
fn tells_of(detail: &str, done: &str) {
    assert!(detail.contains(done) && !detail.contains("nothing was"), "{detail}");
}

/// An index that is being made cannot be dropped: that is found out before anything is changed.
#[tokio::test]
async fn nothing_is_changed_while_the_index_is_made_that_is_to_go() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let insert = "INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '1')";
    let holder = Holder::of(&gateway.database, insert).await;
    let client = gateway.client.clone();
    let building = tokio::spawn(async move { client.patch("/queues/q", r#"{"fifo":true}"#).await });
    eventually("it is being made", async || {
        let begun =
            "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()";
        (gateway.database.value::<i64>(begun).await == 1).then_some(())
    })
    .await;
    let change = r#"{"fifo":false,"settings":{"delay":5,"paused":true}}"#;
    let refused = gateway.patch("/queues/q", change).await.problem(503, "overloaded");
    assert!(refused.detail().contains("nothing was done"), "{}", refused.detail());
    let settings = shown(&gateway).await["settings"].clone();
    assert_eq!((&settings["delay"], &settings["paused"]), (&json!(0), &json!(false)));
    holder.commit().await;
    building.await.expect("built").expect(200);
}

#[tokio::test]
async fn an_index_that_may_not_be_dropped_hides_no_settings_that_are_changed() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"fifo": true})).await;
    gateway.database.execute(&before_drop("RAISE EXCEPTION 'as the test wishes'")).await;
    let change = r#"{"fifo":false,"settings":{"paused":true}}"#;
    for (method, path) in [("PATCH", "/queues/q"), ("PUT", "/queues/q?on_conflict=update")] {
        let request = gateway.request(method, path).body(change);
        let refused = crate::support::Answer::of(request).await.problem(403, "forbidden");
        tells_of(&refused.detail(), "its settings are changed");
        let queue = shown(&gateway).await;
        assert_eq!((&queue["fifo"], &queue["settings"]["paused"]), (&json!(true), &json!(true)));
    }
    // Where that is all there was to do, nothing is done.
    let refused = gateway.patch("/queues/q", r#"{"fifo":false}"#).await.problem(403, "forbidden");
    assert!(refused.detail().contains("nothing was changed"), "{}", refused.detail());
}

/// That the queue has the index is what was asked for; to note it can wait.
#[tokio::test]
async fn a_locked_row_of_settings_hides_no_index_that_is_made() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"settings": {"delay": 1}})).await;
    let holder = Holder::of(&gateway.database, ROW).await;
    let queue = gateway.patch("/queues/q", r#"{"fifo":true}"#).await.expect(200).json();
    assert_eq!(queue["fifo"], true);
    let refused = gateway.configure("q", json!({"fair": true})).await.problem(503, "overloaded");
    tells_of(&refused.detail(), "its index for groups that take turns is made");
    assert_eq!(gateway.database.value::<i64>(INDEXES).await, 2);
    let refused = gateway.configure("q", json!({"delay": 2})).await.problem(503, "overloaded");
    assert!(refused.detail().contains("nothing was done"), "{}", refused.detail());
    holder.rollback().await;
    gateway.database.execute("SELECT pgmq_gateway.register_queues()").await;
    let noted = "SELECT fifo FROM pgmq_gateway.queue_settings WHERE queue_name = 'q'";
    assert!(gateway.database.value::<bool>(noted).await);
    assert_eq!(shown(&gateway).await["settings"]["delay"], 1);
}

#[tokio::test]
async fn notifications_that_pgmq_lacks_are_refused_before_an_index_is_made() {
    let database = TestDatabase::new().await;
    database.execute("DROP FUNCTION pgmq.enable_notify_insert(text, integer) CASCADE").await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.create("q").await;
    let change = r#"{"fifo":true,"settings":{"delay":5,"notify":{"throttle_ms":0}}}"#;
    let refused = gateway.patch("/queues/q", change).await.problem(501, "not_supported");
    assert!(refused.detail().contains("1.7.0"), "{}", refused.detail());
    let queue = shown(&gateway).await;
    assert_eq!((&queue["fifo"], &queue["settings"]["delay"]), (&json!(false), &json!(0)));
    assert_eq!(database.value::<i64>(INDEXES).await, 0);
}

/// One that goes while another gateway sets what needs it is made again.
#[tokio::test]
async fn a_queue_that_two_change_at_once_is_fair_with_its_index_or_not_at_all() {
    let [one, other] = TestGateway::pair().await;
    one.create_with("q", &json!({"settings": {"fair": true}})).await;
    assert_eq!(one.database.value::<i64>(INDEXES).await, 1);
    let holder = Holder::of(&one.database, "SELECT pg_advisory_xact_lock(1)").await;
    one.database.execute(&before_drop("PERFORM pg_advisory_xact_lock(1)")).await;
    let client = one.client.clone();
    let unfair = tokio::spawn(async move { client.configure("q", json!({"fair": false})).await });
    eventually("it is about to be dropped", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                     AND wait_event = 'advisory' AND query LIKE 'DROP INDEX%'";
        (one.database.value::<i64>(waits).await == 1).then_some(())
    })
    .await;
    other.configure("q", json!({"fair": true})).await.expect(200);
    holder.commit().await;
    let queue = unfair.await.expect("no panic").expect(200).json();
    assert_eq!(queue["settings"]["fair"], true);
    assert_eq!(one.database.value::<i64>(INDEXES).await, 1);
}

/// One that is made goes by its settings at once, whether it could be shown or not.
#[tokio::test]
async fn a_queue_that_is_made_and_cannot_be_looked_at_is_made() {
    let gateway = TestGateway::start().await;
    gateway.create("other").await;
    let hide = "CREATE FUNCTION public.hides() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            ALTER FUNCTION pgmq_gateway.list_queues RENAME TO hidden;
            RETURN NULL;
        END $$;
        CREATE TRIGGER hides AFTER INSERT ON pgmq.meta FOR EACH ROW EXECUTE FUNCTION public.hides()";
    gateway.database.execute(hide).await;
    gateway.send("other", r#"{"message":"has settings loaded"}"#).await;
    let made = gateway.put("/queues/q", r#"{"settings":{"delay":600}}"#).await;
    assert!(made.status >= 500, "{}", made.text);
    tells_of(&made.detail(), "it is made, as was asked");
    gateway.send("q", r#"{"message":1}"#).await;
    let hidden = "SELECT count(*) FROM pgmq.q_q WHERE vt > now() + interval '1 minute'";
    assert_eq!(gateway.database.value::<i64>(hidden).await, 1);
}
