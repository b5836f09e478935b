//! A session that is kept for looks of the gateway's own, or was told something else than the others, takes the place
//! of none that is of use.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::support::{TestGateway, eventually};

/// Reads of queue `q` take so long that it is looked why.
const SLOW_READS: &str = "
    CREATE FUNCTION public.slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(0.02);
        RETURN NULL;
    END $$;
    CREATE TRIGGER slow BEFORE UPDATE ON pgmq.q_q FOR EACH STATEMENT EXECUTE FUNCTION public.slowly()";

#[tokio::test]
async fn a_database_that_takes_no_changes_is_read_after_looks_of_the_gateways_own() {
    let gateway = TestGateway::start().await;
    let database = &gateway.database;
    gateway.create("q").await;
    database.execute(SLOW_READS).await;
    for _ in 0..6 {
        gateway.receive("q", "vt=0").await;
    }
    // Enough for the look that follows.
    sleep(Duration::from_millis(300)).await;
    gateway.get("/readyz").await.expect(200);
    let alter = format!("ALTER DATABASE {}", database.name);
    database.execute(&format!("{alter} SET default_transaction_read_only = on")).await;
    eventually("it says so", async || {
        let answer = gateway.get("/readyz").await;
        (answer.status == 503).then(|| answer.problem(503, "database_unavailable"))
    })
    .await;
    for path in ["/queues/q/peek", "/queues", "/queues/q/metrics"] {
        gateway.get(path).await.expect(200);
    }
    let message = json!({"message": 1}).to_string();
    gateway.post("/queues/q/messages", &message).await.problem(503, "database_unavailable");
    let back = format!("BEGIN READ WRITE; {alter} RESET default_transaction_read_only; COMMIT");
    database.execute(&back).await;
    eventually("sends are taken", async || {
        (gateway.post("/queues/q/messages", &message).await.status == 201).then_some(())
    })
    .await;
}
