//! Health and metrics.

use tokio::{io::AsyncWriteExt, task::JoinSet};

use crate::support::{Client, TestGateway, eventually, raw};

#[tokio::test]
async fn healthy_means_alive_and_ready() {
    let gateway = TestGateway::start().await;
    assert_eq!(gateway.get("/livez").await.expect(200).text, "ok\n");
    assert_eq!(gateway.get("/readyz").await.expect(200).text, "ok\n");
    gateway.gateway.drain().await;
    gateway.get("/livez").await.expect(200);
    let draining = gateway.get("/readyz").await.problem(503, "overloaded");
    assert!(draining.detail().contains("shutting down"));
    assert_eq!(draining.header("connection"), "close");
}

/// Whether the database answers is asked once for all who want to know.
#[tokio::test]
async fn a_crowd_does_not_make_it_unready() {
    let gateway = TestGateway::start().await;
    let asked = (0..500).map(|_| {
        let client = gateway.client.clone();
        async move { client.get("/readyz").await.status }
    });
    let statuses = asked.collect::<JoinSet<_>>().join_all().await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test]
async fn clients_that_take_all_places_leave_those_of_operators() {
    let gateway = TestGateway::with(|settings| {
        settings.server.operations_port = Some(0);
        settings.limits.max_arriving_requests = 1;
    })
    .await;
    gateway.create("q").await;
    let mut stream = raw::connect(&gateway).await;
    let head = "POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let operations = Client::new(&gateway.gateway.operations_url().expect("a listener"));
    eventually("it arrives", async || {
        let metrics = operations.get("/metrics").await.expect(200).text;
        metrics.contains("pgmq_gateway_requests_in_flight 1\n").then_some(())
    })
    .await;
    gateway.get("/queues/q").await.problem(503, "overloaded");
    operations.get("/metrics").await.expect(200);
    drop(stream);
}

#[tokio::test]
async fn they_take_no_parameters() {
    let gateway = TestGateway::start().await;
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        let refused = gateway.get(&format!("{path}?verbose=1")).await;
        assert!(refused.problem(400, "invalid_request").detail().contains("`verbose`"), "{path}");
    }
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let gateway = TestGateway::with(|settings| {
        settings.metrics.queue_interval_seconds = 1;
    })
    .await;
    gateway.create("q").await;
    for n in 0..10 {
        gateway.send_message("q", n).await;
    }
    gateway.receive("q", "qty=4").await;
    gateway.receive("q", "wait=1").await;
    gateway.delete("/queues/q/messages/1").await.expect(204);
    gateway.post("/queues/q/messages/2/archive", "").await.expect(204);
    gateway.get("/queues/none").await.expect(404);
    gateway.get("/nowhere/at/all").await.expect(404);
    let metrics = gateway.get("/metrics").await.expect(200);
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    for line in [
        r#"pgmq_gateway_messages_sent_total{queue="q"} 10"#,
        r#"pgmq_gateway_messages_received_total{queue="q"} 5"#,
        r#"pgmq_gateway_messages_deleted_total{queue="q"} 1"#,
        r#"pgmq_gateway_messages_archived_total{queue="q"} 1"#,
        r#"pgmq_gateway_http_requests_total{method="POST",route="/queues/{queue}/messages",status="201"} 10"#,
        r#"pgmq_gateway_http_requests_total{method="GET",route="/queues/{queue}",status="404"} 1"#,
        r#"pgmq_gateway_http_requests_total{method="GET",route="unmatched",status="404"} 1"#,
        "pgmq_gateway_long_poll_wait_seconds_count 1",
        r#"pgmq_gateway_database_connections{pool="shared",state="busy"}"#,
        "pgmq_gateway_long_poll_waiters",
        "pgmq_gateway_build_info{version=",
        "process_cpu_seconds_total",
        "process_open_fds",
    ] {
        assert!(metrics.text.contains(line), "{line} is missing in:\n{}", metrics.text);
    }

    eventually("the queue's figures", async || {
        let text = gateway.get("/metrics").await.text;
        let value = |name: &str| {
            let line = format!("pgmq_gateway_queue_{name}{{queue=\"q\"}} ");
            text.lines().find_map(|l| l.strip_prefix(&line))
        };
        let age: f64 = value("oldest_message_age_seconds")?.parse().ok()?;
        let figures = (value("length")?, value("visible")?);
        (figures == ("8", "5") && age > 0.0).then_some(())
    })
    .await;
    gateway.delete("/queues/q").await.expect(204);
}

/// The figures of a long queue are found without counting it.
#[tokio::test]
async fn a_long_queue_is_estimated() {
    let gateway = TestGateway::start().await;
    gateway.create("long").await;
    let messages = "SELECT array_agg(to_jsonb(n)) FROM generate_series(1, 30000) n";
    let send = format!("SELECT count(*) FROM pgmq.send_batch('long', ({messages}))");
    gateway.database.execute(&send).await;
    gateway.database.execute("ANALYZE pgmq.q_long").await;
    let sql = "SELECT length || ' ' || visible || ' ' || (oldest_age >= 0) \
               FROM pgmq_gateway.queue_figures('long', 1000)";
    eventually("the estimate", async || {
        let figures: String = gateway.database.value(sql).await;
        (figures == "30000 30000 true").then_some(())
    })
    .await;
}

/// Dead letters keep the time at which they were stored: the oldest may have come last.
#[tokio::test]
async fn the_oldest_message_is_so_whatever_its_id() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let store = "SELECT pgmq.send('q', '1'::jsonb) FROM generate_series(1, 3);
        UPDATE pgmq.q_q SET enqueued_at = now() - interval '2 days' WHERE msg_id = 2";
    gateway.database.execute(store).await;
    let sql = "SELECT oldest_age > 86400 FROM pgmq_gateway.queue_figures('q', 1000)";
    assert!(gateway.database.value::<bool>(sql).await);
}
