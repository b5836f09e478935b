//! `make bench`: the gateway beside direct SQL, on a durable PostgreSQL.
//!
//! PostgreSQL, the gateways and this load generator are processes of their own. In every scenario
//! the contestants take turns, several rounds each; what is printed are medians over the rounds, and
//! their ratio. A is PGMQ called directly from Rust over sqlx, prepared, one connection a client; B
//! the gateway over HTTP keep-alive; C the gateway with sharing off and `read_with_poll`.

#![expect(unreachable_pub, reason = "a program has no callers outside")]
#![expect(clippy::expect_used, reason = "a measurement that cannot go on is none")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what it is for")]

mod abuse;
mod calm;
mod compare;
mod dead_letters;
mod direct;
mod fair;
mod fifo;
mod greedy;
mod http;
mod http2;
mod measure;
mod queues;
mod scenarios;
mod shared;
mod snapshot;
mod sqs;
mod sqs_fifo;
mod stage;
mod tls;
mod trouble;
mod waiting;

use std::env;

use measure::Plan;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|a| a != "--bench").collect();
    let short = arguments.iter().any(|a| a == "--short");
    let only: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let plan = if short { Plan::short() } else { Plan::full() };
    let stage = stage::Stage::set().await;
    stage::Stage::describe();
    println!("\n| scenario | A: direct SQL | B: gateway | C: sharing off | B / A |");
    println!("|---|---|---|---|---|");
    for (name, run) in scenarios::all() {
        if only.is_empty() || only.iter().any(|o| name.contains(o.as_str())) {
            run(&stage, &plan).await;
        }
    }
    stage.strike().await;
}
