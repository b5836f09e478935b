//! A: PGMQ called directly, prepared, one connection a client.

use sqlx::{PgConnection, Row, types::Json};

use crate::stage::Stage;

/// A client with a connection of its own.
pub struct Direct {
    pub connection: PgConnection,
    pub queue: &'static str,
    payload: serde_json::Value,
}

pub async fn clients(stage: &Stage, count: usize, queue: &'static str) -> Vec<Direct> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let payload = serde_json::json!({"data": "x".repeat(118)});
        clients.push(Direct { connection: stage.connect().await, queue, payload });
    }
    clients
}

pub async fn send(mut client: Direct) -> (Direct, usize) {
    sqlx::query("SELECT * FROM pgmq.send($1, $2)")
        .bind(client.queue)
        .bind(Json(&client.payload))
        .fetch_all(&mut client.connection)
        .await
        .expect("sent");
    (client, 1)
}

pub async fn send_batch(mut client: Direct) -> (Direct, usize) {
    let batch: Vec<_> = (0..100).map(|_| Json(&client.payload)).collect();
    let rows = sqlx::query("SELECT * FROM pgmq.send_batch($1, $2)")
        .bind(client.queue)
        .bind(batch)
        .fetch_all(&mut client.connection)
        .await
        .expect("sent");
    (client, rows.len())
}

pub async fn read(mut client: Direct) -> (Direct, usize) {
    let rows = read_rows(&mut client, 30).await;
    (client, rows.max(1))
}

pub async fn consume(mut client: Direct) -> (Direct, usize) {
    let id: i64 = loop {
        let rows = sqlx::query("SELECT msg_id, message FROM pgmq.read($1, 30, 1)")
            .bind(client.queue)
            .fetch_all(&mut client.connection)
            .await
            .expect("read");
        // SKIP LOCKED may find nothing while others hold what is next.
        if let Some(row) = rows.first() {
            break row.get(0);
        }
    };
    sqlx::query("SELECT pgmq.delete($1, $2::bigint)")
        .bind(client.queue)
        .bind(id)
        .fetch_all(&mut client.connection)
        .await
        .expect("deleted");
    (client, 1)
}

async fn read_rows(client: &mut Direct, vt: i32) -> usize {
    let query = sqlx::query("SELECT msg_id, message FROM pgmq.read($1, $2, 1)");
    let rows = query.bind(client.queue).bind(vt).fetch_all(&mut client.connection).await;
    rows.expect("read").len()
}
