//! Many queues at once: each client goes from one to the next.

use crate::{
    direct::{self, Direct},
    http::{self, Http},
    measure::{Plan, Round, median, round},
    scenarios::row,
    stage::Stage,
};

/// A client that takes queues in turn, and what it does to them.
struct InTurn<C> {
    client: C,
    names: &'static [String],
    next: usize,
}

/// Who has a queue at a time.
trait OnQueue {
    fn set_queue(&mut self, name: &'static str);
}

impl OnQueue for Direct {
    fn set_queue(&mut self, name: &'static str) {
        self.queue = name;
    }
}

impl OnQueue for Http {
    fn set_queue(&mut self, name: &'static str) {
        name.clone_into(&mut self.queue);
    }
}

impl<C: OnQueue> InTurn<C> {
    /// Clients that begin at places of their own.
    fn all(clients: Vec<C>, names: &'static [String]) -> Vec<Self> {
        let step = names.len() / clients.len().max(1) + 1;
        let in_turn = |(n, client)| Self { client, names, next: n * step };
        clients.into_iter().enumerate().map(in_turn).collect()
    }

    fn turn(mut self) -> (C, &'static [String], usize) {
        let name = &self.names[self.next % self.names.len()];
        self.client.set_queue(name);
        (self.client, self.names, self.next + 1)
    }
}

macro_rules! in_turn {
    ($name:ident, $client:ty, $operation:path) => {
        async fn $name(client: InTurn<$client>) -> (InTurn<$client>, usize) {
            let (client, names, next) = client.turn();
            let (client, count) = $operation(client).await;
            (InTurn { client, names, next }, count)
        }
    };
}

in_turn!(direct_send, Direct, direct::send);
in_turn!(direct_consume, Direct, direct::consume);
in_turn!(http_send, Http, http::send);
in_turn!(http_consume, Http, http::consume);

/// Makes so many queues anew, with messages in each.
async fn fill(stage: &Stage, prefix: &str, queues: usize, messages: usize) -> &'static [String] {
    let names: Vec<String> = (0..queues).map(|n| format!("{prefix}_{n}")).collect();
    // In portions: a transaction that makes a thousand tables needs more locks than there are.
    for names in names.chunks(50) {
        let make = |name: &String| {
            format!(
                "SELECT pgmq.drop_queue('{name}') FROM pgmq.meta WHERE queue_name = '{name}'; \
                 SELECT pgmq.create('{name}'); \
                 INSERT INTO pgmq.q_{name} (vt, message) \
                 SELECT clock_timestamp(), jsonb_build_object('data', repeat('x', 118)) \
                 FROM generate_series(1, {messages}); "
            )
        };
        stage.execute(&names.iter().map(make).collect::<String>()).await;
    }
    stage.execute("VACUUM ANALYZE").await;
    stage.execute("CHECKPOINT").await;
    // For as long as this program runs.
    Vec::leak(names)
}

/// 64 clients that send to 200 queues.
pub async fn sends(stage: &Stage, plan: &Plan) {
    send(stage, plan, 200, 64).await;
}

/// 256 clients that send to 1,000 queues.
pub async fn sends_to_many(stage: &Stage, plan: &Plan) {
    send(stage, plan, 1_000, 256).await;
}

async fn send(stage: &Stage, plan: &Plan, queues: usize, clients: usize) {
    let of_a = fill(stage, "many_a", queues, 0).await;
    let of_b = fill(stage, "many_b", queues, 0).await;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let direct = direct::clients(stage, 20, "").await;
        a.push(round(plan, InTurn::all(direct, of_a), direct_send).await);
        let http = http::clients(&stage.gateway.address, clients, "").await;
        b.push(round(plan, InTurn::all(http, of_b), http_send).await);
    }
    report("send", queues, clients, &a, &b);
}

/// 64 clients that receive and delete from 200 queues.
pub async fn consumes(stage: &Stage, plan: &Plan) {
    const QUEUES: usize = 200;
    let messages = if plan.short { 400 } else { 800 };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let of_a = fill(stage, "many_a", QUEUES, messages).await;
        let of_b = fill(stage, "many_b", QUEUES, messages).await;
        let direct = direct::clients(stage, 20, "").await;
        a.push(round(plan, InTurn::all(direct, of_a), direct_consume).await);
        let http = http::clients(&stage.gateway.address, 64, "").await;
        b.push(round(plan, InTurn::all(http, of_b), http_consume).await);
    }
    report("receive 1 + delete 1", QUEUES, 64, &a, &b);
}

fn report(what: &str, queues: usize, clients: usize, a: &[Round], b: &[Round]) {
    let name = format!("{what} over {queues} queues, {clients} clients (A: 20 connections)");
    row(&name, &median(a), &median(b), None);
}
