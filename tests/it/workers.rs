//! The workers in `examples/`, as people copy them.

use std::{path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::support::{PATIENCE, TestGateway, eventually};

/// A worker that runs, and what it says.
struct Worker {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts `command` for the queue `q`, with leases of two seconds.
    fn start(command: &mut Command, gateway: &TestGateway) -> Self {
        let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        command
            .env("GATEWAY", &gateway.base)
            .env("QUEUE", "q")
            .env("LEASE", "2")
            .env("PYTHONPATH", &worker)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("WORKER", worker.join("worker.mjs"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().expect("it starts");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        Self { process, lines }
    }

    /// What it says up to and with a line.
    async fn says(&mut self, last: &str) -> Vec<String> {
        let mut said = Vec::new();
        let all = async {
            while said.last().is_none_or(|line| line != last) {
                said.push(self.lines.next_line().await.expect("text").expect("more to come"));
            }
        };
        timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("`{last}` is missing"));
        said
    }

    /// Tells it to stop, and waits until it has.
    async fn stop(mut self) -> Vec<String> {
        let id = Pid::from_raw(self.process.id().expect("runs").try_into().expect("a process"));
        kill(id, Signal::SIGTERM).expect("told");
        let status = timeout(Duration::from_secs(10), self.process.wait()).await;
        assert!(status.expect("it ends soon").expect("ended").success());
        let mut said = Vec::new();
        while let Some(line) = self.lines.next_line().await.expect("text") {
            said.push(line);
        }
        said
    }
}

/// Everything is done once, what takes longer than its lease too; what fails again and again becomes a dead
/// letter; and SIGTERM leaves nothing half done.
async fn works(command: impl Fn() -> Command) {
    let gateway = TestGateway::start().await;
    gateway.create("dead").await;
    let settings = json!({"max_receives": 2, "dead_letter_queue": "dead"});
    gateway.create_with("q", &json!({"settings": settings})).await;
    let mut messages: Vec<_> = (0..30).map(|n| json!({"message": {"n": n}})).collect();
    messages.insert(3, json!({"message": {"n": "poison", "fails": true}}));
    messages.push(json!({"message": {"n": "slow", "seconds": 5}}));
    let batch = json!({"messages": messages}).to_string();
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);

    let mut worker = Worker::start(&mut command(), &gateway);
    let said = worker.says("done slow").await;
    for n in 0..30 {
        let done = said.iter().filter(|line| **line == format!("done {n}")).count();
        assert_eq!(done, 1, "{n}: {said:?}");
    }
    assert_eq!(said.iter().filter(|line| *line == "begun slow").count(), 1, "{said:?}");
    eventually("the poison is a dead letter, and nothing else is left", async || {
        let (left, dead) = (gateway.all("q").await, gateway.all("dead").await);
        (left.is_empty() && dead.len() == 1 && dead[0]["message"]["n"] == "poison").then_some(())
    })
    .await;

    // Stopped in the middle, it ends what it has begun.
    gateway.send("q", r#"{"message":{"n":"last","seconds":1}}"#).await;
    worker.says("begun last").await;
    assert_eq!(worker.stop().await, ["done last"]);
    assert!(gateway.all("q").await.is_empty());

    // Stopped while it waits, it takes nothing along.
    let worker = Worker::start(&mut command(), &gateway);
    eventually("it waits", async || {
        let metrics = gateway.get("/queues/q/metrics").await.expect(200).json();
        (metrics["waiters"] == 1).then_some(())
    })
    .await;
    assert!(worker.stop().await.is_empty());
    gateway.send("q", r#"{"message":{"n":"for others"}}"#).await;
    assert_eq!(gateway.receive("q", "").await[0]["read_ct"], 1);
}

fn handler(program: &str, file: &str) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workers").join(file);
    let mut command = Command::new(program);
    command.arg(file);
    command
}

#[tokio::test]
async fn the_worker_in_python_works() {
    works(|| handler("python3", "handler.py")).await;
}

#[tokio::test]
async fn the_worker_in_node_works() {
    works(|| handler("node", "handler.mjs")).await;
}
