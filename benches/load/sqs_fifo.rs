//! FIFO queues of SQS beside standard ones: what order and deduplication cost.

use uuid::Uuid;

use crate::{
    http::{self, Http},
    measure::{Plan, median, round},
    scenarios::row,
    sqs::{consume, send},
    stage::Stage,
};

const STANDARD: &str = "bench_s";
const FIFO: &str = "bench_s.fifo";
const GROUPS: usize = 500;
/// Producers, or consumers.
const CLIENTS: [usize; 2] = [8, 64];

pub async fn sqs_fifo(stage: &Stage, plan: &Plan) {
    create(stage, STANDARD, "").await;
    create(stage, FIFO, r#","Attributes":{"FifoQueue":"true"}"#).await;
    for clients in CLIENTS {
        sends(stage, plan, clients).await;
    }
    for clients in CLIENTS {
        consumes(stage, plan, clients).await;
    }
}

/// Makes a queue as a client of SQS does, which also makes the index on groups.
async fn create(stage: &Stage, queue: &str, attributes: &str) {
    let mut client = http::clients(&stage.gateway.address, 1, queue).await.remove(0);
    let name = format!(r#""QueueName":"{queue}"{attributes}"#);
    client.act("CreateQueue", &name).await;
}

async fn sends(stage: &Stage, plan: &Plan, clients: usize) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        fill(stage, STANDARD, 0).await;
        let to_standard = http::clients(&stage.gateway.address, clients, STANDARD).await;
        a.push(round(plan, to_standard, send).await);
        fill(stage, FIFO, 0).await;
        let to_fifo = http::clients(&stage.gateway.address, clients, FIFO).await;
        b.push(round(plan, to_fifo, send_in_group).await);
    }
    let name = format!(
        "SendMessage to a standard (A) and to a FIFO queue of {GROUPS} groups (B), {clients} producers"
    );
    row(&name, &median(&a), &median(&b), None);
}

async fn consumes(stage: &Stage, plan: &Plan, clients: usize) {
    let messages = if plan.short { 60_000 } else { 120_000 };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        fill(stage, STANDARD, messages).await;
        let of_standard = http::clients(&stage.gateway.address, clients, STANDARD).await;
        a.push(round(plan, of_standard, consume).await);
        fill(stage, FIFO, messages).await;
        let of_fifo = http::clients(&stage.gateway.address, clients, FIFO).await;
        b.push(round(plan, of_fifo, consume).await);
    }
    let name = format!(
        "ReceiveMessage + DeleteMessage of a standard (A) and of a FIFO queue of {GROUPS} groups (B), \
         {clients} consumers"
    );
    row(&name, &median(&a), &median(&b), None);
}

/// Puts messages into a queue that is there, each with a group, in place of those that are in it.
async fn fill(stage: &Stage, queue: &str, messages: usize) {
    let body = "x".repeat(130);
    stage
        .execute(&format!(
            "TRUNCATE pgmq.\"q_{queue}\"; \
             INSERT INTO pgmq.\"q_{queue}\" (vt, message, headers) \
             SELECT clock_timestamp(), to_jsonb('{body}'::text), \
                    jsonb_build_object('x-message-id', gen_random_uuid(), 'x-pgmq-group', 'g' || n % {GROUPS}) \
             FROM generate_series(1, {messages}) n"
        ))
        .await;
    stage.execute(&format!("VACUUM ANALYZE pgmq.\"q_{queue}\"")).await;
    stage.execute("CHECKPOINT").await;
}

/// Sends to one of the groups, with an id that is none's yet.
async fn send_in_group(mut client: Http) -> (Http, usize) {
    let id = Uuid::new_v4();
    let group = id.as_u128() % GROUPS as u128;
    let body = "x".repeat(130);
    let input = format!(
        r#""MessageBody":"{body}","MessageGroupId":"g{group}","MessageDeduplicationId":"{id}""#
    );
    client.act("SendMessage", &input).await;
    (client, 1)
}
