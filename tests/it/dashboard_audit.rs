//! The log of who did what by the dashboard: a line for each, whatever came of it.

use serde_json::{Value, json};

use super::auth::ADMIN;
use crate::support::{
    Browser, Client, TestDatabase, eventually,
    process::{Program, program},
};

async fn start(database: &TestDatabase) -> (Program, Client) {
    let url = database.url();
    let environment = [
        ("DATABASE_URL", &*url),
        ("PGMQ_GATEWAY__SERVER__PORT", "0"),
        ("PGMQ_GATEWAY__LOG__FORMAT", "json"),
        ("PGMQ_GATEWAY__AUTH__ADMIN_KEY", ADMIN),
    ];
    let mut gateway = Program::start(program(&[], &environment));
    let client = gateway.client().await.with_key(ADMIN);
    (gateway, client)
}

/// The line of an action.
async fn line(gateway: &Program, action: &str) -> Value {
    let wanted = format!("\"action\":\"{action}\"");
    let line = eventually("it is logged", async || {
        gateway.log().lines().find(|line| line.contains(&wanted)).map(str::to_owned)
    });
    serde_json::from_str(&line.await).expect("JSON")
}

#[tokio::test]
async fn what_fails_has_a_line_with_its_code() {
    let database = TestDatabase::new().await;
    let (gateway, client) = start(&database).await;
    client.create("dead").await;
    client.create_with("q", &json!({"settings": {"dead_letter_queue": "dead"}})).await;
    let browser = Browser::logged_in(&client.base, ADMIN).await;
    let drop = [("action", "drop"), ("name", "dead")];
    browser.post("/ui/queues/dead/do", &drop).await.expect(409);
    let said = line(&gateway, "drop").await;
    assert_eq!(said["target"], "audit");
    assert_eq!((&said["queue"], &said["error"]), (&json!("dead"), &json!("conflict")), "{said}");
    database.execute("ALTER TABLE pgmq.a_q RENAME TO gone").await;
    client.send("q", r#"{"message":1}"#).await;
    let archive = [("action", "archive"), ("list", "all"), ("ids", "1")];
    browser.post("/ui/queues/q/do", &archive).await.expect(200);
    let said = line(&gateway, "archive").await;
    assert_eq!((&said["asked"], &said["done"]), (&json!(1), &json!(0)), "{said}");
    browser.post("/ui/queues/none/send", &[("message", "1")]).await.expect(404);
    assert_eq!(line(&gateway, "send").await["error"], "queue_not_found");
    browser.post("/ui/new", &[("name", "q")]).await.expect(422);
    assert_eq!(line(&gateway, "create").await["error"], "conflict");
    let unbind = [("action", "unbind"), ("pattern", "a.#")];
    browser.post("/ui/queues/q/bindings", &unbind).await.expect(404);
    assert_eq!(line(&gateway, "unbind").await["error"], "binding_not_found");
}

/// What is done for a client that has left is done to its end, and stands in the log.
#[tokio::test]
async fn what_is_done_for_one_who_left_has_a_line() {
    let database = TestDatabase::new().await;
    let (gateway, client) = start(&database).await;
    client.create("q").await;
    client.send("q", r#"{"message":1}"#).await;
    // The deletion waits until it is let go.
    let waits = "CREATE TABLE public.holds AS SELECT true AS held;
        CREATE FUNCTION public.waits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            WHILE EXISTS (SELECT FROM public.holds) LOOP PERFORM pg_sleep(0.02); END LOOP;
            RETURN NULL; END $$;
        CREATE TRIGGER waits AFTER DELETE ON pgmq.q_q EXECUTE FUNCTION public.waits()";
    database.execute(waits).await;
    let browser = Browser::logged_in(&client.base, ADMIN).await;
    let leaving = browser.clone();
    let leaving = tokio::spawn(async move {
        let fields = [("action", "delete"), ("list", "all"), ("ids", "1")];
        leaving.post("/ui/queues/q/do", &fields).await
    });
    eventually("it is under way", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event = 'PgSleep'";
        (database.value::<i64>(sql).await > 0).then_some(())
    })
    .await;
    leaving.abort();
    eventually("it is known that the client left", async || {
        gateway.log().lines().any(|line| line.contains("\"status\":499")).then_some(())
    })
    .await;
    database.execute("DELETE FROM public.holds").await;
    let said = line(&gateway, "delete").await;
    assert_eq!((&said["asked"], &said["done"]), (&json!(1), &json!(1)), "{said}");
    assert!(said.get("error").is_none(), "{said}");
}
