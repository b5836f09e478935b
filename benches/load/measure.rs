//! Running clients side by side, and what came of it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

/// How long, and how often.
#[derive(Clone, Copy)]
pub struct Plan {
    pub rounds: usize,
    pub round: Duration,
    /// Whether the largest data sets and crowds are cut down.
    pub short: bool,
}

impl Plan {
    pub fn short() -> Self {
        Self { rounds: 2, round: Duration::from_millis(1500), short: true }
    }

    pub fn full() -> Self {
        Self { rounds: 4, round: Duration::from_secs(3), short: false }
    }
}

/// What one round gave.
#[derive(Clone, Debug, Default)]
pub struct Round {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Medians over rounds.
pub fn median(rounds: &[Round]) -> Round {
    let pick = |value: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Round {
        per_second: pick(|r| r.per_second),
        p50_ms: pick(|r| r.p50_ms),
        p99_ms: pick(|r| r.p99_ms),
    }
}

/// Has every client repeat its operation for the time of a round; an operation returns how many
/// messages it moved, and none ends the client.
pub async fn round<C, F>(plan: &Plan, clients: Vec<C>, operation: fn(C) -> F) -> Round
where
    C: Send + 'static,
    F: Future<Output = (C, usize)> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let mut running = JoinSet::new();
    let started = Instant::now();
    for mut client in clients {
        let stop = Arc::clone(&stop);
        running.spawn(async move {
            let (mut moved, mut times) = (0, Vec::new());
            while !stop.load(Relaxed) {
                let begun = Instant::now();
                let (same, count) = operation(client).await;
                client = same;
                times.push(begun.elapsed());
                moved += count;
                if count == 0 {
                    break;
                }
            }
            (moved, times)
        });
    }
    tokio::time::sleep(plan.round).await;
    stop.store(true, Relaxed);
    let (mut moved, mut times) = (0, Vec::new());
    while let Some(client) = running.join_next().await {
        let (count, client_times) = client.expect("no client panics");
        moved += count;
        times.extend(client_times);
    }
    let elapsed = started.elapsed().as_secs_f64();
    let (p50_ms, p99_ms) = percentiles(times);
    #[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
    let per_second = moved as f64 / elapsed;
    Round { per_second, p50_ms, p99_ms }
}

/// Median and 99th percentile in milliseconds.
pub fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |part: usize| {
        let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    (at(50), at(99))
}
