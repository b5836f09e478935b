//! `/queues`.

use serde_json::json;

use crate::support::{Answer, TestDatabase, TestGateway};

#[tokio::test]
async fn a_queue_is_made_once() {
    let gateway = TestGateway::start().await;
    let created = gateway.put("/queues/orders", "").await.expect(201);
    assert_eq!(created.header("cache-control"), "no-store");
    let queue = created.json();
    assert_eq!(queue["queue"], "orders");
    assert_eq!(queue["kind"], "standard");
    assert_eq!(queue["fifo"], false);
    let time = queue["created_at"].as_str().expect("a time");
    assert!(time.len() == 27 && time.ends_with('Z'), "{time} has microseconds and is UTC");

    for alike in ["", "{}", r#"{"kind":"standard"}"#, "null"] {
        assert_eq!(gateway.put("/queues/orders", alike).await.expect(200).json(), queue);
    }
    let conflict = gateway.put("/queues/orders", r#"{"kind":"unlogged"}"#).await;
    assert!(conflict.problem(409, "queue_conflict").detail().contains("standard, not unlogged"));
    assert_eq!(gateway.get("/queues/orders").await.expect(200).json(), queue);
}

#[tokio::test]
async fn an_unlogged_queue_is_unlogged() {
    let gateway = TestGateway::start().await;
    let created = gateway.put("/queues/fast", r#"{"kind":"unlogged"}"#).await.expect(201);
    assert_eq!(created.json()["kind"], "unlogged");
    let persistence: String = gateway
        .database
        .value("SELECT relpersistence::text FROM pg_class WHERE oid = 'pgmq.q_fast'::regclass")
        .await;
    assert_eq!(persistence, "u");
    gateway.put("/queues/fast", "").await.problem(409, "queue_conflict");
}

#[tokio::test]
async fn partitioned_queues_need_pg_partman() {
    let gateway = TestGateway::start().await;
    let missing = gateway.put("/queues/parts", r#"{"kind":"partitioned"}"#).await;
    assert!(missing.problem(501, "not_supported").detail().contains("pg_partman"));

    let database = &gateway.database;
    database.execute("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman").await;
    let by_number = r#"{"kind":"partitioned","partition":{"interval":"1000","retention":"5000"}}"#;
    let queue = gateway.put("/queues/parts", by_number).await.expect(201).json();
    assert_eq!(queue["kind"], "partitioned");
    gateway.put("/queues/parts", by_number).await.expect(200);
    gateway.put("/queues/parts", r#"{"kind":"partitioned"}"#).await.expect(200);
    let other = r#"{"kind":"partitioned","partition":{"interval":"2000","retention":"5000"}}"#;
    gateway.put("/queues/parts", other).await.problem(409, "queue_conflict");

    let by_time = r#"{"kind":"partitioned","partition":{"interval":"1 day","retention":"7 days"}}"#;
    gateway.put("/queues/days", by_time).await.expect(201);
    gateway.put("/queues/days", by_time).await.expect(200);

    for queue in ["parts", "days"] {
        let id = gateway.send(queue, r#"{"message":"kept"}"#).await;
        assert_eq!(gateway.receive(queue, "vt=0").await[0]["message"], "kept");
        let metrics = gateway.get(&format!("/queues/{queue}/metrics")).await.expect(200).json();
        assert_eq!(metrics["queue_length"], 1);
        gateway.post(&format!("/queues/{queue}/messages/{id}/archive"), "").await.expect(204);
        gateway.delete(&format!("/queues/{queue}")).await.expect(204);
    }
}

#[tokio::test]
async fn partitions_that_make_no_sense_are_refused() {
    let gateway = TestGateway::start().await;
    for (path, body, part) in [
        ("/queues/q", r#"{"partition":{"interval":"10"}}"#, "partitioned"),
        ("/queues/q", r#"{"kind":"partitioned","partition":{"interval":"soon"}}"#, "1 day"),
        ("/queues/q", r#"{"kind":"partitioned","partition":{"interval":"1 day"}}"#, "both"),
        ("/queues/a.b", r#"{"kind":"partitioned"}"#, "`.`"),
        ("/queues/q", r#"{"kind":"round"}"#, "standard"),
    ] {
        let refused = gateway.put(path, body).await.problem(400, "invalid_request");
        assert!(refused.detail().contains(part), "{}", refused.detail());
    }
    assert_eq!(gateway.get("/queues").await.expect(200).json()["queues"], json!([]));
}

#[tokio::test]
async fn the_list_is_paged_in_order_and_by_prefix() {
    let gateway = TestGateway::start().await;
    for queue in ["b", "a.2", "a-1", "c", "a_3"] {
        gateway.create(queue).await;
    }
    let names = async |path: &str| {
        let page = gateway.get(path).await.expect(200).json();
        let queues = page["queues"].as_array().expect("queues").clone();
        let names: Vec<_> =
            queues.iter().map(|q| q["queue"].as_str().expect("").to_owned()).collect();
        (names.join(" "), page["next"].clone())
    };
    assert_eq!(names("/queues").await, ("a-1 a.2 a_3 b c".into(), json!(null)));
    assert_eq!(names("/queues?limit=2").await, ("a-1 a.2".into(), json!("a.2")));
    assert_eq!(names("/queues?limit=2&after=a.2").await, ("a_3 b".into(), json!("b")));
    assert_eq!(names("/queues?limit=2&after=b").await, ("c".into(), json!(null)));
    assert_eq!(names("/queues?prefix=a").await, ("a-1 a.2 a_3".into(), json!(null)));
    assert_eq!(names("/queues?prefix=a_").await, ("a_3".into(), json!(null)), "no wildcard");
    assert_eq!(names("/queues?prefix=%25").await, (String::new(), json!(null)));
}

#[tokio::test]
async fn names_that_cannot_be_are_refused_with_the_reason() {
    let gateway = TestGateway::start().await;
    let long = "x".repeat(48);
    for (name, reason) in [
        (&*long, "1 to 47 characters"),
        ("Orders", "lower case"),
        ("a--b", "--"),
        ("a%3Bb", "`;`"),
        ("a%27b", "`'`"),
        ("_a", "begins with a letter"),
        ("a%20b", "consists of"),
        ("%C3%A4", "consists of"),
        ("a%2Fb", "consists of"),
        ("a%00b", "control characters"),
    ] {
        let refused = gateway.put(&format!("/queues/{name}"), "").await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(reason), "{name}: {detail}");
    }
    gateway.get("/queues/%FF").await.problem(400, "invalid_request");
    gateway.create(&"x".repeat(47)).await;
    assert_eq!(gateway.send(&"x".repeat(47), r#"{"message":1}"#).await, 1);
}

#[tokio::test]
async fn dropping_purging_and_measuring() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for n in 0..5 {
        gateway.send_message("q", n).await;
    }
    gateway.send("q", r#"{"message":"later","delay":600}"#).await;
    gateway.receive("q", "qty=2").await;
    let metrics = gateway.get("/queues/q/metrics").await.expect(200).json();
    for (name, value) in [
        ("queue_length", 6),
        ("queue_visible_length", 3),
        ("in_flight", 2),
        ("total_messages", 6),
        ("waiters", 0),
    ] {
        assert_eq!(metrics[name], value, "{name} in {metrics}");
    }
    assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json(), json!({"purged": 6}));
    assert_eq!(
        gateway.post("/queues/q/purge", "{}").await.expect(200).json(),
        json!({"purged": 0})
    );
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["oldest_msg_age_sec"], json!(null));

    gateway.delete("/queues/q").await.expect(204);
    gateway.delete("/queues/q").await.problem(404, "queue_not_found");
    for path in ["/queues/q", "/queues/q/metrics", "/queues/q/peek", "/queues/q/messages"] {
        gateway.get(path).await.problem(404, "queue_not_found");
    }
    gateway.post("/queues/q/purge", "").await.problem(404, "queue_not_found");
    let send = gateway.post("/queues/q/messages", r#"{"message":1}"#).await;
    assert!(send.problem(404, "queue_not_found").detail().contains("PUT /queues/q"));
}

/// What SQL clients made is served as it is, names with upper case included.
#[tokio::test]
async fn queues_made_by_sql_are_served() {
    let database = TestDatabase::new().await;
    database.execute("SELECT pgmq.create('Mixed Case'); SELECT pgmq.create('plain')").await;
    database.execute(r#"SELECT pgmq.send('Mixed Case', '{"from":"sql"}')"#).await;
    let gateway = TestGateway::on(&database, |_| {}).await;

    let listed = gateway.get("/queues").await.expect(200).json();
    let names: Vec<_> =
        listed["queues"].as_array().expect("list").iter().map(|q| &q["queue"]).collect();
    assert_eq!(names, ["Mixed Case", "plain"]);
    let path = "/queues/Mixed%20Case";
    assert_eq!(gateway.get(path).await.expect(200).json()["queue"], "Mixed Case");
    let message = &gateway.receive("Mixed%20Case", "").await[0];
    assert_eq!(message["message"], json!({"from": "sql"}));
    let sent = gateway.post(&format!("{path}/messages"), r#"{"message":2}"#).await.expect(201);
    assert_eq!(sent.header("location"), "/queues/Mixed%20Case/messages/2");
    gateway.get(sent.header("location")).await.expect(200);

    // The table of `plain` is not reached by another spelling.
    gateway
        .post("/queues/PLAIN/messages", r#"{"message":1}"#)
        .await
        .problem(400, "invalid_request");
    gateway.get("/queues/PLAIN/messages").await.problem(400, "invalid_request");
    assert_eq!(gateway.get("/queues/plain/metrics").await.json()["queue_length"], 0);
    // Nor is a queue made that would share a table.
    let folds = gateway.put("/queues/mixed", "").await.expect(201);
    assert_eq!(folds.json()["queue"], "mixed");
    database.execute("SELECT pgmq.create('Shared')").await;
    let folds = gateway.put("/queues/shared", "").await.problem(409, "queue_conflict");
    assert!(folds.detail().contains("`Shared`"));
    gateway.delete(path).await.expect(204);
}

/// A queue with upper case in its name is not reached by another spelling, and not dropped by it.
#[tokio::test]
async fn a_queue_in_upper_case_has_one_name() {
    let database = TestDatabase::new().await;
    database.execute("SELECT pgmq.create('Orders')").await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.send("Orders", r#"{"message":"kept"}"#).await;
    gateway.post("/queues/Orders/messages", r#"{"message":"archived"}"#).await.expect(201);
    gateway.post("/queues/Orders/messages/2/archive", "").await.expect(204);
    for (method, path, body) in [
        ("POST", "/messages", r#"{"message":1}"#),
        ("POST", "/messages/batch", r#"{"messages":[{"message":1}]}"#),
        ("GET", "/messages", ""),
        ("GET", "/messages/1", ""),
        ("DELETE", "/messages/1", ""),
        ("PATCH", "/messages/1", r#"{"vt":5}"#),
        ("POST", "/messages/1/archive", ""),
        ("POST", "/messages/pop", ""),
        ("POST", "/messages/settle", r#"{"delete":[{"msg_id":1}]}"#),
        ("GET", "/peek", ""),
        ("GET", "/archive", ""),
        ("POST", "/archive/replay", "{}"),
        ("POST", "/redrive", ""),
        ("POST", "/purge", ""),
        ("GET", "/metrics", ""),
        ("GET", "", ""),
        ("PATCH", "", r#"{"settings":{"delay":1}}"#),
        ("DELETE", "", ""),
    ] {
        let request = gateway.request(method, &format!("/queues/orders{path}")).body(body);
        let refused = Answer::of(request).await;
        assert_eq!(refused.status, 404, "{method} {path}: {}", refused.text);
        refused.problem(404, "queue_not_found");
    }
    assert_eq!(gateway.receive_one("Orders", "").await["message"], "kept");
    gateway.delete("/queues/Orders").await.expect(204);
    gateway.get("/queues/Orders").await.problem(400, "invalid_request");
}

/// PGMQ lets one table have two names, and fails for every queue if it has a name without a table.
#[tokio::test]
async fn no_name_is_left_without_a_table() {
    let database = TestDatabase::new().await;
    database.execute("SELECT pgmq.create('Two'), pgmq.create('two'), pgmq.create('gone')").await;
    database.execute("DROP TABLE pgmq.q_gone").await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.delete("/queues/two").await.expect(204);
    gateway.delete("/queues/gone").await.expect(204);
    gateway.delete("/queues/gone").await.problem(404, "queue_not_found");
    assert_eq!(gateway.get("/queues").await.expect(200).json()["queues"], json!([]));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM pgmq.metrics_all()").await, 0);
}

/// A queue that was dropped and made again by SQL works at once.
#[tokio::test]
async fn a_queue_made_anew_behind_our_back() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":"old"}"#).await;
    gateway.receive("q", "vt=0").await;
    gateway.database.execute("SELECT pgmq.drop_queue('q')").await;
    gateway.post("/queues/q/messages", r#"{"message":1}"#).await.problem(404, "queue_not_found");
    gateway.database.execute("SELECT pgmq.create_unlogged('q')").await;
    assert_eq!(gateway.send("q", r#"{"message":"new"}"#).await, 1);
    assert_eq!(gateway.receive("q", "").await[0]["message"], "new");
    assert_eq!(gateway.get("/queues/q").await.json()["kind"], "unlogged");
}

/// PostgreSQL keeps partitions, indexes and sequences under names that queues could have.
#[tokio::test]
async fn what_is_no_queue_is_not_taken_for_one() {
    let gateway = TestGateway::start().await;
    gateway.create("orders").await;
    gateway.send("orders", r#"{"message":"kept"}"#).await;
    let database = &gateway.database;
    database.execute("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman").await;
    gateway.put("/queues/parts", r#"{"kind":"partitioned"}"#).await.expect(201);
    gateway.send("parts", r#"{"message":"kept"}"#).await;
    let far = "INSERT INTO pgmq.q_parts (msg_id, vt, message) OVERRIDING SYSTEM VALUE \
               VALUES (99999999, now(), '1')";
    database.execute(far).await;
    database.execute("CREATE TABLE pgmq.a_lonely ()").await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM pgmq.q_parts_default").await, 1);
    for name in ["parts_default", "orders_pkey", "orders_msg_id_seq", "orders_vt_idx"] {
        for (method, path, body) in [
            ("GET", "", ""),
            ("GET", "/messages", ""),
            ("GET", "/messages?wait=1", ""),
            ("GET", "/messages/99999999", ""),
            ("DELETE", "/messages/99999999", ""),
            ("POST", "/messages/99999999/archive", ""),
            ("POST", "/messages/pop", ""),
            ("POST", "/messages/settle", r#"{"delete":[{"msg_id":99999999}]}"#),
            ("GET", "/peek", ""),
            ("GET", "/archive", ""),
            ("POST", "/archive/replay", "{}"),
            ("POST", "/redrive", ""),
            ("POST", "/purge", ""),
            ("GET", "/metrics", ""),
            ("DELETE", "", ""),
        ] {
            let request = gateway.request(method, &format!("/queues/{name}{path}")).body(body);
            let refused = Answer::of(request).await;
            assert_eq!(refused.status, 404, "{method} {name}{path}: {}", refused.text);
            refused.problem(404, "queue_not_found");
        }
    }
    for name in ["parts_default", "orders_pkey", "orders_msg_id_seq", "orders_vt_idx"] {
        for (path, body) in [
            ("messages", r#"{"message":1}"#),
            ("messages", r#"{"message":1,"visible_at":"2026-01-01T00:00:00Z"}"#),
            ("messages/batch", r#"{"messages":[{"message":1},{"message":2}]}"#),
            ("messages/batch", r#"{"messages":[{"message":1},{"message":2,"delay":1}]}"#),
        ] {
            let send = gateway.post(&format!("/queues/{name}/{path}"), body).await;
            send.problem(404, "queue_not_found");
        }
    }
    for name in ["parts_default", "orders_pkey", "orders_msg_id_seq", "orders_vt_idx", "lonely"] {
        let taken = gateway.put(&format!("/queues/{name}"), "").await;
        assert!(taken.problem(409, "queue_conflict").detail().contains("another name"));
    }
    assert_eq!(gateway.receive_one("orders", "").await["message"], "kept");
    assert_eq!(gateway.receive("parts", "qty=10").await.len(), 2);
}

/// A name that was made of a partition is forgotten, and the partition stays.
#[tokio::test]
async fn a_partition_is_not_dropped_as_a_queue() {
    let gateway = TestGateway::start().await;
    let database = &gateway.database;
    database.execute("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman").await;
    gateway.put("/queues/parts", r#"{"kind":"partitioned"}"#).await.expect(201);
    database.execute("SELECT pgmq.create('parts_default')").await;
    gateway.delete("/queues/parts_default").await.expect(204);
    gateway.get("/queues/parts_default").await.problem(404, "queue_not_found");
    let there = "SELECT to_regclass('pgmq.q_parts_default') IS NOT NULL \
                    AND to_regclass('pgmq.a_parts_default') IS NOT NULL";
    assert!(database.value::<bool>(there).await);
}
