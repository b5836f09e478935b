//! Names of queues that are those of what PostgreSQL and PGMQ make for other queues.

use serde_json::{Value, json};

use crate::support::{TestDatabase, TestGateway};

/// What is called after a queue, behind its name.
const ENDINGS: [&str; 6] =
    ["_pkey", "_msg_id_seq", "_vt_idx", "_fifo_idx", "_gw_fifo_idx", "_part_idx"];

async fn with_partman(gateway: &TestGateway) {
    let partman = "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman";
    gateway.database.execute(partman).await;
}

/// A queue that is whole: stores, delivers, deletes and archives its own messages, and shows its own figures.
async fn serves(gateway: &TestGateway, queue: &str, fifo: bool) {
    let path = format!("/queues/{queue}");
    let shown = gateway.get(&path).await.expect(200).json();
    assert_eq!(shown["fifo"], fifo, "{shown}");
    let message = json!({"message": {"of": queue}}).to_string();
    let before = gateway.get(&format!("{path}/metrics")).await.expect(200).json();
    let total = before["total_messages"].as_i64().expect("a number");
    let id = gateway.send(queue, &message).await;
    let other = gateway.send(queue, &message).await;
    let metrics = gateway.get(&format!("{path}/metrics")).await.expect(200).json();
    assert_eq!(metrics["queue_length"], 2, "{queue}: {metrics}");
    assert_eq!(metrics["total_messages"], total + 2, "{queue}: {metrics}");
    let received = gateway.receive(queue, "qty=10").await;
    assert_eq!(received.len(), 2, "{queue}");
    assert!(received.iter().all(|message| message["message"]["of"] == queue), "{received:?}");
    gateway.post(&format!("{path}/messages/{id}/archive"), "").await.expect(204);
    gateway.delete(&format!("{path}/messages/{other}")).await.expect(204);
    assert!(gateway.all(queue).await.is_empty());
    // By its own index.
    let index = format!(
        "SELECT count(*) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid \
         AND a.attnum = i.indkey[0] WHERE a.attname = 'vt' AND i.indrelid = 'pgmq.\"q_{queue}\"'::regclass"
    );
    assert_eq!(gateway.database.value::<i64>(&index).await, 1, "{queue}");
}

#[tokio::test]
async fn a_queue_gets_no_name_of_what_belongs_to_another() {
    let gateway = TestGateway::start().await;
    for ending in ENDINGS {
        let name = format!("orders{ending}");
        let refused = gateway.put(&format!("/queues/{name}"), "").await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains("choose another name"), "{detail}");
    }
    gateway.put("/queues/orders", r#"{"fifo":true}"#).await.expect(201);
    for ending in ENDINGS {
        let name = format!("orders{ending}");
        let refused = gateway.put(&format!("/queues/{name}"), "").await;
        assert!([400, 409].contains(&refused.status), "{name}: {}", refused.text);
        gateway.get(&format!("/queues/{name}")).await.problem(404, "queue_not_found");
        let send = gateway.post(&format!("/queues/{name}/messages"), r#"{"message":1}"#).await;
        send.problem(404, "queue_not_found");
    }
    serves(&gateway, "orders", true).await;
    let left = "SELECT count(*) FROM pgmq.meta";
    assert_eq!(gateway.database.value::<i64>(left).await, 1);
}

#[tokio::test]
async fn names_that_only_look_like_it_are_taken() {
    let gateway = TestGateway::start().await;
    for name in [
        "api_key",
        "jobs_default",
        "jobs_p1",
        "events_seq",
        "re_idx",
        "pkey",
        "vt_idx",
        "archived_at_idx_orders",
        "template_pgmq_q_orders",
        "q_orders",
        "a_orders",
        "meta",
        "a.b_c-d",
        "gw_fifo_q_orders",
        "notify_insert_throttle",
        "orders",
        "p0",
        "default",
    ] {
        gateway.put(&format!("/queues/{name}"), "").await.expect(201);
    }
    for name in
        ["archived_at_idx_orders", "template_pgmq_q_orders", "gw_fifo_q_orders", "orders", "meta"]
    {
        serves(&gateway, name, false).await;
    }
}

/// PGMQ refuses to say what the table of such a one is called.
#[tokio::test]
async fn what_is_no_queues_name_keeps_nobody_from_looking_for_policies() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let sql = "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY; ALTER TABLE pgmq.q_q FORCE ROW LEVEL SECURITY;
        INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged) VALUES ('a$b', false, false)";
    gateway.database.execute(sql).await;
    let queues = "SELECT count(*) FROM pgmq_gateway.queues_with_row_security()";
    assert_eq!(gateway.database.value::<i64>(queues).await, 0, "nothing holds for a superuser");
}

/// Whatever SQL clients call theirs, and whichever comes first.
#[tokio::test]
async fn queues_that_sql_made_under_such_names_are_served_as_they_are() {
    for (first, second) in [
        ("orders_gw_fifo_idx", "orders"),
        ("orders", "orders_gw_fifo_idx"),
        ("orders_fifo_idx", "orders"),
        ("orders", "orders_fifo_idx"),
        ("orders_pkey", "orders"),
        ("orders_msg_id_seq", "orders"),
        ("orders_part_idx", "orders"),
        ("orders", "orders_part_idx"),
        ("archived_at_idx_orders", "orders"),
        ("orders", "archived_at_idx_orders"),
    ] {
        let database = TestDatabase::new().await;
        let create = format!("SELECT pgmq.create('{first}'); SELECT pgmq.create('{second}')");
        database.execute(&create).await;
        let gateway = TestGateway::on(&database, |_| {}).await;
        for queue in [first, second] {
            serves(&gateway, queue, false).await;
            // What is there already is there.
            gateway.put(&format!("/queues/{queue}"), "").await.expect(200);
        }
        for queue in [first, second] {
            gateway.delete(&format!("/queues/{queue}")).await.expect(204);
        }
    }
}

#[tokio::test]
async fn no_queue_is_made_without_its_index_or_with_the_sequence_of_another() {
    for taken in ["orders_vt_idx", "orders_msg_id_seq"] {
        let database = TestDatabase::new().await;
        database.execute(&format!("SELECT pgmq.create('{taken}')")).await;
        let gateway = TestGateway::on(&database, |_| {}).await;
        serves(&gateway, taken, false).await;
        let refused = gateway.put("/queues/orders", "").await.problem(409, "queue_conflict");
        assert!(refused.detail().contains(&format!("`q_{taken}`")), "{}", refused.detail());
        gateway.get("/queues/orders").await.problem(404, "queue_not_found");
        serves(&gateway, taken, false).await;
        gateway.delete(&format!("/queues/{taken}")).await.expect(204);
        gateway.put("/queues/orders", "").await.expect(201);
        serves(&gateway, "orders", false).await;
    }
}

/// A table, a view, a type or an index of somebody's own is not taken for a part of a queue.
#[tokio::test]
async fn what_somebody_has_in_the_schema_is_left_alone() {
    for (sql, name) in [
        ("CREATE TABLE pgmq.q_orders (a int)", "q_orders"),
        ("CREATE VIEW pgmq.a_orders AS SELECT 1 AS a", "a_orders"),
        ("CREATE TYPE pgmq.q_orders AS (a int)", "q_orders"),
        ("CREATE SEQUENCE pgmq.q_orders_msg_id_seq", "q_orders_msg_id_seq"),
        ("CREATE INDEX archived_at_idx_orders ON pgmq.meta (created_at)", "archived_at_idx_orders"),
        (
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; \
          CREATE FOREIGN TABLE pgmq.q_orders (a int) SERVER s",
            "q_orders",
        ),
    ] {
        let gateway = TestGateway::start().await;
        gateway.database.execute(sql).await;
        let refused = gateway.put("/queues/orders", "").await.problem(409, "queue_conflict");
        assert!(refused.detail().contains(name), "{sql}: {}", refused.detail());
        gateway.get("/queues/orders").await.problem(404, "queue_not_found");
        let left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'pgmq'::regnamespace \
                    AND relname LIKE '_\\_orders%' AND relkind = 'r' AND relname <> 'q_orders'";
        assert_eq!(gateway.database.value::<i64>(left).await, 0, "{sql}");
    }
    let gateway = TestGateway::start().await;
    gateway.database.execute("CREATE INDEX gw_fifo_q_orders ON pgmq.meta (created_at)").await;
    gateway.put("/queues/orders", r#"{"fifo":true}"#).await.expect(201);
    serves(&gateway, "orders", true).await;
}

#[tokio::test]
async fn partitions_that_are_or_will_be_have_their_names() {
    let gateway = TestGateway::start().await;
    with_partman(&gateway).await;
    let partitioned = r#"{"kind":"partitioned"}"#;
    gateway.put("/queues/x", partitioned).await.expect(201);
    let by_time = r#"{"kind":"partitioned","partition":{"interval":"1 day","retention":"7 days"}}"#;
    gateway.put("/queues/days", by_time).await.expect(201);
    for name in [
        "x_p0",
        "x_default",
        "x_p990000",
        "x_p1",
        "days_p2030_01_01",
        "days_default",
        "days_p20300101",
    ] {
        for body in ["", partitioned, r#"{"kind":"unlogged"}"#] {
            let taken = gateway.put(&format!("/queues/{name}"), body).await;
            taken.problem(409, "queue_conflict");
        }
    }
    for name in ["x_part", "x_px", "x_defaults", "xx_p1", "x"] {
        let body = if name == "x" { partitioned } else { "" };
        let made = gateway.put(&format!("/queues/{name}"), body).await;
        assert!([200, 201].contains(&made.status), "{name}");
    }
    assert_eq!(gateway.send("x", r#"{"message":1}"#).await, 1);
    assert_eq!(gateway.receive_one("x", "").await["message"], 1);
    assert_eq!(gateway.get("/queues/x/metrics").await.expect(200).json()["queue_length"], 1);

    // In the other order.
    for (name, other) in
        [("y_p0", "y"), ("z_default", "z"), ("w_p770000", "w"), ("v_p2030_01_01", "v")]
    {
        gateway.put(&format!("/queues/{name}"), "").await.expect(201);
        gateway.put(&format!("/queues/{other}"), partitioned).await.problem(409, "queue_conflict");
        gateway.put(&format!("/queues/{other}"), "").await.expect(201);
        serves(&gateway, other, false).await;
        serves(&gateway, name, false).await;
    }
    gateway.database.execute("SELECT pgmq.create('u_part_idx')").await;
    gateway.put("/queues/u", partitioned).await.problem(409, "queue_conflict");

    // Made anew, with what an earlier one left behind.
    gateway.delete("/queues/x").await.expect(204);
    gateway.put("/queues/x", partitioned).await.expect(201);
    assert_eq!(gateway.send("x", r#"{"message":1}"#).await, 1);
    gateway.delete("/queues/x").await.expect(204);
    gateway.put("/queues/x_p1", "").await.expect(201);
}

#[tokio::test]
async fn a_partition_that_sql_made_a_queue_of_is_none() {
    let gateway = TestGateway::start().await;
    with_partman(&gateway).await;
    gateway.put("/queues/x", r#"{"kind":"partitioned"}"#).await.expect(201);
    gateway.send("x", r#"{"message":1}"#).await;
    gateway.database.execute("SELECT pgmq.create('x_default')").await;
    gateway.get("/queues/x_default/messages").await.problem(404, "queue_not_found");
    gateway.get("/queues/x_default/metrics").await.problem(404, "queue_not_found");
    gateway.get("/metrics").await.expect(200);
    gateway.delete("/queues/x_default").await.expect(204);
    assert_eq!(gateway.receive_one("x", "").await["message"], 1);
}

/// Names of every shape, each beside its neighbours.
#[tokio::test]
async fn long_names_and_odd_ones_keep_to_themselves() {
    let gateway = TestGateway::start().await;
    with_partman(&gateway).await;
    let long = "l".repeat(47);
    let (almost, dotted) = ("l".repeat(46), format!("{}.b", "l".repeat(45)));
    for name in [&*long, &almost, &dotted, "a.b", "a_b", "a-b", "ab", "0", "9.", "a.b.c"] {
        for fifo in [false, true] {
            let body = json!({"fifo": fifo, "settings": {"notify": {"throttle_ms": 0}}});
            gateway.create_with(name, &body).await;
            serves(&gateway, name, fifo).await;
            if !fifo {
                gateway.delete(&format!("/queues/{name}")).await.expect(204);
            }
        }
    }
    let twins = ["k".repeat(47), format!("{}j", "k".repeat(46))];
    for name in &twins {
        let body =
            r#"{"kind":"partitioned","partition":{"interval":"1 hour","retention":"7 days"}}"#;
        let made = gateway.put(&format!("/queues/{name}"), body).await;
        // Their partitions may be called alike, as pg_partman shortens the names.
        if made.status == 201 {
            gateway.send(name, r#"{"message":1}"#).await;
            assert_eq!(gateway.receive(name, "").await.len(), 1, "{name}");
        } else {
            assert!(made.status < 500, "{}", made.text);
            gateway.get(&format!("/queues/{name}")).await.problem(404, "queue_not_found");
        }
    }
}

/// In upper case, made by SQL.
#[tokio::test]
async fn names_in_upper_case_have_what_is_theirs() {
    let database = TestDatabase::new().await;
    database.execute("SELECT pgmq.create('Orders_pkey'); SELECT pgmq.create('Orders')").await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    for queue in ["Orders", "Orders_pkey"] {
        let id = gateway.send(queue, r#"{"message":1}"#).await;
        assert_eq!(id, 1, "{queue}");
        let shown: Value = gateway.get(&format!("/queues/{queue}")).await.expect(200).json();
        assert_eq!(shown["fifo"], false);
        let metrics = gateway.get(&format!("/queues/{queue}/metrics")).await.expect(200).json();
        assert_eq!(metrics["total_messages"], 1, "{metrics}");
    }
    for name in ["orders", "orders_pkey", "Orders_pKey"] {
        let refused = gateway.put(&format!("/queues/{name}"), "").await;
        assert!([400, 409].contains(&refused.status), "{name}: {}", refused.text);
    }
}

/// Rows in `pgmq.meta` that PGMQ would not make are nobody else's trouble.
#[tokio::test]
async fn names_that_no_table_can_have_trouble_no_other() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let names = "INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged) \
        SELECT n, false, false FROM unnest(ARRAY['a;b', 'a''b', 'a--b', '$', '', 'gone', repeat('x', 70)]) n";
    gateway.database.execute(names).await;
    let bind =
        "INSERT INTO pgmq.topic_bindings (pattern, queue_name) VALUES ('t.#', 'a;b'), ('t.x', 'q')";
    gateway.database.execute(bind).await;
    serves(&gateway, "q", false).await;
    let listed = gateway.get("/queues").await.expect(200).json();
    assert!(listed.to_string().contains("\"q\""), "{listed}");
    gateway.create("other").await;
    gateway.configure("other", json!({"notify": {"throttle_ms": 5}})).await.expect(200);
    let sent = gateway.post("/topics/t.x/messages", r#"{"message":1}"#).await.expect(201).json();
    assert_eq!(sent["deliveries"][0]["queue"], "q", "{sent}");
    gateway.get("/topics/t.x/queues").await.expect(200);
    gateway.get("/bindings").await.expect(200);
    gateway.database.execute("SELECT pgmq_gateway.register_queues()").await;
    gateway.get("/metrics").await.expect(200);
    gateway.delete("/queues/other").await.expect(204);
    gateway.delete("/queues/gone").await.expect(204);
}

/// PGMQ makes no table of it, and its function for tables' names raises an error.
#[tokio::test]
async fn a_name_that_is_none_in_pgmqs_list_costs_nobody_anything() {
    let gateway = TestGateway::start().await;
    for queue in ["q", "dlq"] {
        gateway.create(queue).await;
    }
    gateway
        .database
        .execute(
            "INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged) VALUES ('a$b', false, false);
             SELECT pgmq_gateway.register_queues();
             UPDATE pgmq_gateway.queue_settings SET settings = '{\"dead_letter_queue\": \"a$b\"}'
             WHERE queue_name = 'q'",
        )
        .await;
    gateway.get("/queues").await.expect(200);
    gateway.get("/queues/q").await.expect(200);
    for origin in ["a$b", "q", "a$b"] {
        let body = json!({"message": origin, "headers": {"x-dead-letter-queue": origin}});
        gateway.send("dlq", &body.to_string()).await;
    }
    let redriven = gateway.post("/queues/dlq/redrive", r#"{"limit":1}"#).await.expect(200).json();
    assert_eq!(redriven["moved"], 1, "{redriven}");
    assert_eq!(gateway.receive_one("q", "").await["message"], "q");
    assert_eq!(gateway.all("dlq").await.len(), 2);
}
