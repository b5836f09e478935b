//! What it costs that messages become dead letters, while none does.

use crate::{
    http,
    measure::{Plan, median, round},
    scenarios::row,
    stage::Stage,
};

/// 64 clients that receive one message each time, without a bound on deliveries (A) and with one.
pub async fn dead_letters(stage: &Stage, plan: &Plan) {
    let messages = if plan.short { 60_000 } else { 120_000 };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        stage.fill("bench_a", messages).await;
        let clients = http::clients(&stage.gateway.address, 64, "bench_a").await;
        a.push(round(plan, clients, http::read).await);
        stage.fill("bench_d", 0).await;
        stage.fill("bench_b", messages).await;
        let mut clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        let settings = r#"{"settings":{"max_receives":5,"dead_letter_queue":"bench_d"}}"#;
        let (status, answer) =
            clients[0].call_at("PATCH", "/queues/bench_b", &settings.into()).await;
        assert_eq!(status, 200, "{answer:?}");
        b.push(round(plan, clients, http::read).await);
    }
    let name = "receive with `max_receives` and a dead-letter queue, 64 clients (A: without)";
    row(name, &median(&a), &median(&b), None);
}
