//! Another build of the gateway beside this one, in one run: `make bench BENCH=compare OTHER=<program>`.

use std::{future::Future, path::PathBuf, time::Duration};

use sqlx::{Connection, Executor, PgConnection};

use crate::{
    http::{self, Http},
    measure::{Plan, Round, median, round},
    scenarios::row,
    stage::{Gateway, Stage},
};

/// One of the two, on a database of its own: they may have different schemas.
struct Side {
    gateway: Gateway,
    url: String,
}

impl Side {
    async fn new(stage: &Stage, program: Option<PathBuf>, name: &str) -> Self {
        stage.execute(&format!("CREATE DATABASE {name}")).await;
        let url = stage.url.replace("/postgres?", &format!("/{name}?"));
        let gateway = Gateway::start_program(program, &url, &[]);
        Self { gateway, url }
    }

    async fn fill(&self, messages: usize) {
        let sql = format!(
            "SELECT pgmq.drop_queue('q') FROM pgmq.meta WHERE queue_name = 'q'; \
             SELECT pgmq.create('q'); \
             INSERT INTO pgmq.q_q (vt, message) \
             SELECT clock_timestamp(), jsonb_build_object('data', repeat('x', 118)) \
             FROM generate_series(1, {messages})"
        );
        let mut connection = PgConnection::connect(&self.url).await.expect("connected");
        connection.execute(&*sql).await.expect("filled");
        connection.execute("VACUUM ANALYZE pgmq.q_q").await.expect("vacuumed");
        connection.execute("CHECKPOINT").await.expect("written");
    }
}

/// What one does before it is the other's turn again. A machine that others use too is faster at one second than at the
/// next: two rounds of the same build that follow each other differ by a tenth and more, and many short ones even out.
const PART: Duration = Duration::from_millis(500);
const PARTS: usize = 6;

/// Both take turns at each kind of request, many times.
pub async fn compare(stage: &Stage, plan: &Plan) {
    let Some(other) = std::env::var_os("OTHER") else {
        return println!("| compare | OTHER names no program | – | – | – |");
    };
    let sides = [
        Side::new(stage, Some(PathBuf::from(other)), "other").await,
        Side::new(stage, None, "this").await,
    ];
    let messages = 120_000;
    turns(&sides, plan, "send", (64, 0), http::send).await;
    turns(&sides, plan, "send", (256, 0), http::send).await;
    turns(&sides, plan, "receive 1 + delete 1", (64, messages), http::consume).await;
    turns(&sides, plan, "receive 1 + delete 1", (256, messages), http::consume).await;
    turns(
        &sides,
        plan,
        "receive 1 + delete 1 by receipt",
        (64, messages),
        http::consume_by_receipt,
    )
    .await;
    turns(&sides, plan, "batches of 100", (8, 0), http::send_batch).await;
    turns(&sides, plan, "send, one client", (1, 0), http::send).await;
    turns(&sides, plan, "receive 1 + delete 1, one client", (1, 60_000), http::consume).await;
    turns(&sides, plan, "send with a key of its own", (64, 0), http::send_once).await;
    turns(&sides, plan, "receive", (64, messages), http::read).await;
    turns(&sides, plan, "pop", (64, messages), http::pop).await;
    turns(&sides, plan, "look at one", (64, messages), http::look).await;
}

async fn turns<F>(
    sides: &[Side; 2],
    plan: &Plan,
    name: &str,
    (clients, messages): (usize, usize),
    operation: fn(Http) -> F,
) where
    F: Future<Output = (Http, usize)> + Send + 'static,
{
    let mut rounds: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
    let part = Plan { round: PART, ..*plan };
    for _ in 0..plan.rounds {
        for side in sides {
            side.fill(messages).await;
        }
        for turn in 0..PARTS {
            // Whoever comes second finds the machine as the first left it.
            for side in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
                let clients = http::clients(&sides[side].gateway.address, clients, "q").await;
                rounds[side].push(round(&part, clients, operation).await);
            }
        }
    }
    let [other, this] = rounds.map(|rounds| median(&rounds));
    row(
        &format!("{name}, {clients} clients: the other build (A), this one (B)"),
        &other,
        &this,
        None,
    );
}
