//! A hot standby as the only server: it shows everything and changes nothing.

use serde_json::json;

use crate::support::{Answer, TestDatabase, TestGateway, eventually, servers::Server};

#[tokio::test]
async fn a_standby_shows_what_there_is() {
    let primary = Server::new(&[]).await;
    let gateway = TestGateway::on(&TestDatabase::at(&primary.url()), |_| {}).await;
    gateway.create_with("q", &json!({"settings": {"notify": {"throttle_ms": 70}}})).await;
    gateway.create_with("u", &json!({"kind": "unlogged"})).await;
    for n in 1..=3 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    gateway.post("/queues/q/messages/3/archive", "").await.expect(204);
    let standby = primary.standby(&[]).await;
    eventually("it has all of it", async || {
        (standby.count("SELECT count(*) FROM pgmq.a_q").await == 1).then_some(())
    })
    .await;
    let there = gateway.get("/queues/q").await.expect(200).json();
    drop(gateway);
    primary.stop("immediate");

    let gateway = TestGateway::on(&TestDatabase::at(&standby.url()), |_| {}).await;
    assert_eq!(gateway.get("/queues/q").await.expect(200).json(), there);
    let listed = gateway.get("/queues").await.expect(200).json();
    assert_eq!(listed["queues"].as_array().map(Vec::len), Some(2), "{listed}");
    for (path, shown) in [("peek", 2), ("archive", 1)] {
        let messages = gateway.get(&format!("/queues/q/{path}")).await.expect(200).messages();
        assert_eq!(messages.len(), shown, "{path}");
    }
    gateway.get("/queues/q/messages/1").await.expect(200);
    gateway.put("/queues/q", r#"{"settings":{"notify":{"throttle_ms":70}}}"#).await.expect(200);
    let metrics = gateway.get("/queues/q/metrics").await.expect(200).json();
    assert_eq!(metrics["queue_length"], 2);
    gateway.get("/ui/queues/q").await.expect(200);
    for (method, path) in [
        ("GET", "/queues/u/peek"),
        ("GET", "/queues/u/metrics"),
        ("GET", "/queues/u/messages/1"),
        ("GET", "/queues/q/messages"),
        ("POST", "/queues/q/messages/pop"),
        ("POST", "/queues/q/purge"),
        ("DELETE", "/queues/q"),
        ("GET", "/readyz"),
    ] {
        let answer = Answer::of(gateway.request(method, path)).await;
        assert_eq!(answer.status, 503, "{method} {path}: {}", answer.text);
        answer.problem(503, "database_unavailable");
    }
}
