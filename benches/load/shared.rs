//! What stores messages in several queues at once, beside plain sends.

use bytes::Bytes;

use crate::{
    http::{self, Http},
    measure::{Plan, Round, median, round},
    scenarios::row,
    stage::Stage,
};

/// Queues that the topic leads to, and that the transactions send to.
const QUEUES: [&str; 2] = ["bench_t1", "bench_t2"];

/// Publications to a topic of two queues, and transactions: of two sends, and of a delete and a send.
pub async fn shared(stage: &Stage, plan: &Plan) {
    let messages = if plan.short { 60_000 } else { 120_000 };
    let (mut sends, mut topics) = (Vec::new(), Vec::new());
    let (mut transactions, mut steps) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        stage.fill("bench_b", 0).await;
        for queue in QUEUES {
            stage.fill(queue, 0).await;
            stage.execute(&format!("SELECT pgmq.bind_topic('bench.#', '{queue}')")).await;
        }
        let clients = || http::clients(&stage.gateway.address, 64, "bench_b");
        sends.push(round(plan, clients().await, http::send).await);
        topics.push(round(plan, clients().await, publish).await);
        transactions.push(round(plan, clients().await, transact).await);
        stage.fill("bench_b", messages).await;
        steps.push(round(plan, clients().await, step).await);
    }
    let compare = |name: &str, rounds: &[Round]| {
        row(
            &format!("send (A) and {name} (B), 64 clients"),
            &median(&sends),
            &median(rounds),
            None,
        );
    };
    compare("a topic that leads to two queues", &topics);
    compare("a transaction of two sends", &transactions);
    compare("a receive and a transaction of a delete and a send", &steps);
}

async fn publish(mut client: Http) -> (Http, usize) {
    let body = client.one.clone();
    let (status, body) = client.call_at("POST", "/topics/bench.x/messages", &body).await;
    let text = String::from_utf8_lossy(&body);
    assert!(status == 201 && text.matches("\"msg_id\"").count() == 2, "{status}: {text}");
    (client, 1)
}

async fn transact(mut client: Http) -> (Http, usize) {
    let sends = QUEUES.map(send).join(",");
    operate(&mut client, &sends).await;
    (client, 1)
}

async fn step(mut client: Http) -> (Http, usize) {
    let ids = client.receive("vt=30").await;
    for id in &ids {
        let ends = format!(r#"{{"delete":{{"queue":"bench_b","msg_id":{id}}}}}"#);
        operate(&mut client, &format!("{ends},{}", send(QUEUES[0]))).await;
    }
    (client, ids.len())
}

fn send(queue: &str) -> String {
    let text = "x".repeat(118);
    format!(r#"{{"send":{{"queue":"{queue}","message":{{"data":"{text}"}}}}}}"#)
}

async fn operate(client: &mut Http, operations: &str) {
    let body = Bytes::from(format!(r#"{{"operations":[{operations}]}}"#));
    let (status, body) = client.call_at("POST", "/transactions", &body).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
}
