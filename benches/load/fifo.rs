//! Reading in groups, beside PGMQ's own function.

use bytes::Bytes;
use sqlx::Row;

use crate::{
    direct::{self, Direct},
    http::{self, Http},
    measure::{Plan, median, round},
    scenarios::row,
    stage::Stage,
};

/// Four consumers that read ten messages of a group and delete them.
pub async fn fifo(stage: &Stage, plan: &Plan) {
    for (messages, groups) in [(20_000, 2_000), (100_000, 1)] {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            fill(stage, "bench_a", messages, groups, "pgmq.create_fifo_index('bench_a')").await;
            let clients = direct::clients(stage, 4, "bench_a").await;
            a.push(round(plan, clients, consume_direct).await);
            let index = "pgmq_gateway.add_group_index('bench_b', 'msg_id')";
            fill(stage, "bench_b", messages, groups, index).await;
            let clients = http::clients(&stage.gateway.address, 4, "bench_b").await;
            b.push(round(plan, clients, consume).await);
        }
        let name =
            format!("10 of a group read and deleted, {messages} messages in {groups} groups");
        row(&name, &median(&a), &median(&b), None);
    }
}

async fn fill(stage: &Stage, queue: &str, messages: usize, groups: usize, index: &str) {
    stage.fill(queue, 0).await;
    stage
        .execute(&format!(
            "SELECT {index}; \
             INSERT INTO pgmq.q_{queue} (vt, message, headers) \
             SELECT clock_timestamp(), '{{}}', \
                    jsonb_build_object('x-pgmq-group', 'g' || n % {groups}) \
             FROM generate_series(1, {messages}) n"
        ))
        .await;
    stage.execute(&format!("VACUUM ANALYZE pgmq.q_{queue}")).await;
}

/// An empty answer counts as one: the client goes on.
async fn consume_direct(mut client: Direct) -> (Direct, usize) {
    let rows = sqlx::query("SELECT msg_id FROM pgmq.read_grouped($1, 30, 10)")
        .bind(client.queue)
        .fetch_all(&mut client.connection)
        .await
        .expect("read");
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    if !ids.is_empty() {
        sqlx::query("SELECT pgmq.delete($1, $2::bigint[])")
            .bind(client.queue)
            .bind(&ids)
            .fetch_all(&mut client.connection)
            .await
            .expect("deleted");
    }
    (client, ids.len().max(1))
}

async fn consume(mut client: Http) -> (Http, usize) {
    let ids = client.receive("fifo=grouped&qty=10&vt=30").await;
    if ids.is_empty() {
        return (client, 1);
    }
    let entries: Vec<String> = ids.iter().map(|id| format!(r#"{{"msg_id":{id}}}"#)).collect();
    let body = Bytes::from(format!(r#"{{"delete":[{}]}}"#, entries.join(",")));
    let (status, _) = client.call("POST", "/messages/settle", &body).await;
    assert_eq!(status, 200);
    (client, ids.len())
}
