//! The SQS door beside REST: the same messages, one connection a client.

use bytes::Bytes;

use crate::{
    http::{self, Http},
    measure::{Plan, median, round},
    scenarios::row,
    stage::Stage,
};

pub async fn sqs(stage: &Stage, plan: &Plan) {
    stage.fill("bench_b", 0).await;
    stage.fill("bench_c", 0).await;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        a.push(round(plan, clients, http::send).await);
        let clients = http::clients(&stage.gateway.address, 64, "bench_c").await;
        b.push(round(plan, clients, send).await);
    }
    row("send by REST (A), SendMessage by SQS (B)", &median(&a), &median(&b), None);
    let messages = if plan.short { 60_000 } else { 120_000 };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        stage.fill("bench_b", messages).await;
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        a.push(round(plan, clients, http::consume_by_receipt).await);
        stage.fill("bench_c", messages).await;
        let clients = http::clients(&stage.gateway.address, 64, "bench_c").await;
        b.push(round(plan, clients, consume).await);
    }
    let name = "receive + delete by REST (A), ReceiveMessage + DeleteMessage by SQS (B)";
    row(name, &median(&a), &median(&b), None);
}

pub async fn send(mut client: Http) -> (Http, usize) {
    let body = format!(r#""MessageBody":"{}""#, "x".repeat(130));
    client.act("SendMessage", &body).await;
    (client, 1)
}

pub async fn consume(mut client: Http) -> (Http, usize) {
    let answer = client.act("ReceiveMessage", r#""VisibilityTimeout":30"#).await;
    let text = String::from_utf8_lossy(&answer);
    let Some((_, rest)) = text.split_once(r#""ReceiptHandle":""#) else { return (client, 0) };
    let handle = rest.split('"').next().unwrap_or_default();
    client.act("DeleteMessage", &format!(r#""ReceiptHandle":"{handle}""#)).await;
    (client, 1)
}

impl Http {
    /// An action on its queue, with these members of its input.
    pub async fn act(&mut self, action: &str, members: &str) -> Bytes {
        let queue = &self.queue;
        let body = format!(r#"{{"QueueUrl":"http://q/000000000000/{queue}",{members}}}"#);
        let headers = format!(
            "X-Amz-Target: AmazonSQS.{action}\r\nContent-Type: application/x-amz-json-1.0\r\n"
        );
        let (status, answer) = self.post("/", &headers, &body).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        answer
    }
}
