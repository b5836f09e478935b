//! The workers in `examples/`, as people copy them.

mod hanging;
mod programs;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use self::{hanging::Hanging, programs::Program};
use crate::{
    auth::{ADMIN, with_admin},
    support::{Holder, PATIENCE, TestGateway, eventually, holder},
};

/// A worker that runs, and what it says.
struct Worker {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stopped: i32,
}

/// A command for the queue `q` of a gateway, with leases of three seconds if nothing else is said.
fn command(run: &[PathBuf], gateway: &TestGateway) -> Command {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut command = Command::new(&run[0]);
    command
        .args(&run[1..])
        .env("GATEWAY", &gateway.base)
        .env("QUEUE", "q")
        .env("LEASE", "3")
        .env("PYTHONPATH", &examples)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("WORKER", examples.join("worker.mjs"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Worker {
    /// Starts one with the tests' handler.
    fn start(program: &Program, gateway: &TestGateway) -> Self {
        Self::of(program, &mut command(&program.with_handler, gateway))
    }

    fn of(program: &Program, command: &mut Command) -> Self {
        let mut process = command.spawn().expect("it starts");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        Self { process, lines, stopped: program.stopped }
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

    /// Tells it to stop.
    fn terminate(&self) {
        let id = Pid::from_raw(self.process.id().expect("runs").try_into().expect("a process"));
        kill(id, Signal::SIGTERM).expect("told");
    }

    /// Waits until it has stopped.
    async fn ended(mut self) -> Vec<String> {
        let status = timeout(Duration::from_secs(10), self.process.wait()).await;
        assert_eq!(status.expect("it ends soon").expect("ended").code(), Some(self.stopped));
        let mut said = Vec::new();
        while let Some(line) = self.lines.next_line().await.expect("text") {
            said.push(line);
        }
        said
    }

    /// Tells it to stop, and waits until it has.
    async fn stop(self) -> Vec<String> {
        self.terminate();
        self.ended().await
    }
}

/// Everything is done once, what takes longer than its lease too; what fails again and again becomes a dead
/// letter; and SIGTERM leaves nothing half done.
async fn works(program: Program) {
    let gateway = TestGateway::start().await;
    gateway.create("dead").await;
    let settings = json!({"max_receives": 2, "dead_letter_queue": "dead"});
    gateway.create_with("q", &json!({"settings": settings})).await;
    let mut messages: Vec<_> = (0..30).map(|n| json!({"message": {"n": n}})).collect();
    messages.insert(3, json!({"message": {"n": "poison", "fails": true}}));
    messages.push(json!({"message": {"n": "slow", "seconds": 6}}));
    let batch = json!({"messages": messages}).to_string();
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);

    let mut worker = Worker::start(&program, &gateway);
    let mut said = worker.says("begun slow").await;
    tokio::select! {
        more = worker.says("done slow") => said.extend(more),
        other = gateway.receive("q", "wait=20&filter=%7B%22n%22:%22slow%22%7D") => {
            panic!("it is somebody else's before its end: {other:?}");
        }
    }
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
    let worker = Worker::start(&program, &gateway);
    gateway.wait_for_waiters("q", 1).await;
    assert!(worker.stop().await.is_empty());
    gateway.send("q", r#"{"message":{"n":"for others"}}"#).await;
    assert_eq!(gateway.receive("q", "").await[0]["read_ct"], 1);
}

/// What comes when a worker is about to stop is nobody's then: told so while a lock keeps it from the next
/// message, it leaves that to others at once, as if it had never had it.
async fn gives_back(program: Program) {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":{"n":"first","seconds":1}}"#).await;
    let mut command = command(&program.with_handler, &gateway);
    let mut worker = Worker::of(&program, command.env("LEASE", "60"));
    worker.says("begun first").await;
    gateway.send("q", r#"{"message":{"n":"next"}}"#).await;
    let holder = Holder::of_tables(&gateway.database, &["q_q"], "ACCESS EXCLUSIVE").await;
    worker.says("done first").await;
    holder::wait_for_blocked(&gateway.database, "").await;
    worker.terminate();
    holder.rollback().await;
    let said = worker.ended().await;
    let next = gateway.receive("q", "qty=10").await;
    if said.is_empty() {
        assert_eq!(next.len(), 1, "{next:?}");
        assert_eq!(next[0]["message"]["n"], "next");
        assert_eq!(next[0]["read_ct"], 1);
    } else {
        // The signal came after the message.
        assert_eq!(said, ["begun next", "done next"]);
        assert!(gateway.all("q").await.is_empty(), "{next:?}");
    }
}

/// What is refused is tried again, and goes on once it is not.
async fn tries_again(program: Program) {
    let gateway = TestGateway::start().await;
    let mut command = command(&program.with_handler, &gateway);
    let mut worker = Worker::of(&program, command.stderr(Stdio::piped()));
    let mut errors = BufReader::new(worker.process.stderr.take().expect("a pipe")).lines();
    let twice = async {
        for _ in 0..2 {
            let line = errors.next_line().await.expect("text").expect("more to come");
            assert!(line.contains("receiving failed, trying again"), "{line}");
            assert!(line.contains("404"), "{line}");
        }
    };
    timeout(PATIENCE, twice).await.expect("it says that there is no such queue");
    gateway.create("q").await;
    gateway.send("q", r#"{"message":{"n":1}}"#).await;
    worker.says("done 1").await;
    assert!(worker.stop().await.is_empty());
    assert!(gateway.all("q").await.is_empty());
}

/// As it stands it prints messages, one a line, also where a key is asked for.
async fn prints(program: Program) {
    let gateway = TestGateway::with(with_admin).await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let message = json!({"n": 1, "of": ["ä", {}, null, 1.5]});
    admin.send("q", &json!({"message": message}).to_string()).await;
    let mut command = command(&program.as_it_stands, &gateway);
    let mut worker = Worker::of(&program, command.env("GATEWAY_KEY", ADMIN));
    let line = timeout(PATIENCE, worker.lines.next_line()).await.expect("in time");
    let line = line.expect("text").expect("a line");
    assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), message);
    assert!(worker.stop().await.is_empty());
    assert!(admin.all("q").await.is_empty());
}

/// A heartbeat that hangs loses no message, nor keeps what is done meanwhile from being settled.
async fn goes_on_while_heartbeats_hang(program: Program) {
    const LONG: i64 = 3;
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let mut messages: Vec<_> =
        (0..LONG).map(|n| json!({"message": {"n": n, "long": true, "seconds": 9}})).collect();
    messages.push(json!({"message": {"n": "short", "seconds": 3}}));
    let batch = json!({"messages": messages}).to_string();
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);
    let address = gateway.gateway.address().expect("TCP");
    // The first heartbeat of each, the one that is done soon included.
    let hanging = Hanging::before(address, "PATCH", LONG + 1).await;
    let mut command = command(&program.with_handler, &gateway);
    let mut worker = Worker::of(&program, command.env("LEASE", "6").env("GATEWAY", hanging.url()));
    worker.says("done short").await;
    eventually("it is settled", async || (gateway.all("q").await.len() == 3).then_some(())).await;
    assert!(hanging.met() > 0, "no heartbeat has hung");
    let long = "wait=20&filter=%7B%22long%22:true%7D";
    let ended = async {
        let mut said = Vec::new();
        while said.len() < 3 {
            let line = worker.lines.next_line().await.expect("text").expect("more to come");
            assert!(line.starts_with("done "), "begun again: {line}");
            said.push(line);
        }
    };
    tokio::select! {
        ended = timeout(PATIENCE, ended) => ended.expect("they are done"),
        other = gateway.receive("q", long) => panic!("somebody else's before its end: {other:?}"),
    }
    worker.stop().await;
    assert!(gateway.all("q").await.is_empty());
}

/// A handler that ends its thread ends nothing else.
#[tokio::test]
async fn a_handler_in_python_that_exits_has_failed() {
    let gateway = TestGateway::start().await;
    gateway.create("dead").await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "dead"});
    gateway.create_with("q", &json!({"settings": settings})).await;
    let messages = [
        json!({"message": {"n": "exits", "exits": true}}),
        json!({"message": {"n": "beside", "seconds": 1}}),
    ];
    let batch = json!({"messages": messages}).to_string();
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);
    let mut worker = Worker::start(&programs::python().await, &gateway);
    worker.says("done beside").await;
    eventually("both are settled", async || {
        (gateway.all("q").await.is_empty() && gateway.all("dead").await.len() == 1).then_some(())
    })
    .await;
    gateway.send("q", r#"{"message":{"n":"next"}}"#).await;
    worker.says("done next").await;
    assert!(worker.stop().await.is_empty());
}

/// Others have a limit of their HTTP client's for all that they do.
#[tokio::test]
async fn a_receive_in_node_that_hangs_is_given_up() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":{"n":1}}"#).await;
    let address = gateway.gateway.address().expect("TCP");
    let hanging = Hanging::before(address, "GET", 1).await;
    let program = programs::node().await;
    let mut command = command(&program.with_handler, &gateway);
    let mut worker = Worker::of(&program, command.env("GATEWAY", hanging.url()));
    let done = async {
        while worker.lines.next_line().await.expect("text").expect("more to come") != "done 1" {}
    };
    timeout(3 * PATIENCE, done).await.expect("it has tried again");
    assert_eq!(hanging.met(), 1);
    assert!(worker.stop().await.is_empty());
}

macro_rules! in_every_language {
    ($($language:ident),*) => {
        $(mod $language {
            use super::programs::$language;

            #[tokio::test]
            async fn the_worker_settles_what_it_has_done() {
                super::works($language().await).await;
            }

            #[tokio::test]
            async fn it_gives_back_what_it_has_not_begun() {
                super::gives_back($language().await).await;
            }

            #[tokio::test]
            async fn it_tries_again_what_is_refused() {
                super::tries_again($language().await).await;
            }

            #[tokio::test]
            async fn it_goes_on_while_heartbeats_hang() {
                super::goes_on_while_heartbeats_hang($language().await).await;
            }

            #[tokio::test]
            async fn it_prints_messages_as_it_stands() {
                super::prints($language().await).await;
            }
        })*
    };
}

in_every_language!(python, node, go, php, java);
