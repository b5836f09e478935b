//! Further real clients of SQS, and workers that stand on it: each does what it does with the service, with a key of
//! the gateway's by which its requests are signed. `make test-clients` prints what each of them did.

use std::{fs, process::Stdio};

use tokio::process::Command;

use super::sqs_keys::{AccessKey, made};
use crate::support::{
    TestDatabase, TestGateway, eventually,
    programs::{at, installed, run, try_run},
    report,
};

/// A client, and how many things it does.
struct Client {
    /// What runs it: a program of the system's, or what `tools/setup` installs below `target`.
    program: &'static str,
    /// One of `tests/sqs/clients`; none where the program itself is the client.
    script: Option<&'static str>,
    /// What it is given: a path below `target`.
    argument: Option<&'static str>,
    flows: usize,
}

const SDK_JS: Client =
    Client { program: "node", script: Some("sdk.mjs"), argument: Some("sqs-js"), flows: 7 };
const CONSUMER: Client = Client { script: Some("consumer.mjs"), flows: 3, ..SDK_JS };
const CLI: Client =
    Client { program: "bash", script: Some("cli.sh"), argument: Some("sqs-cli/bin/aws"), flows: 3 };
const SDK_RUST: Client =
    Client { program: "sqs-rust/debug/sqs-client", script: None, argument: None, flows: 7 };
const ASYNC_SDK: Client = Client {
    program: "sqs-workers/bin/python",
    script: Some("async_sdk.py"),
    argument: None,
    flows: 4,
};
const CELERY: Client = Client { script: Some("celery_flows.py"), flows: 3, ..ASYNC_SDK };
const DRAMATIQ: Client = Client { script: Some("dramatiq_flows.py"), flows: 3, ..ASYNC_SDK };
const TASKIQ: Client = Client { script: Some("taskiq_flows.py"), flows: 3, ..ASYNC_SDK };

/// What a client did, on a gateway of its own.
struct Row {
    client: String,
    flows: Vec<String>,
    failure: Option<String>,
}

/// A gateway, and a key of its own.
async fn gateway() -> (TestGateway, AccessKey) {
    let database = TestDatabase::new().await;
    let key = ["create", "--name", "client", "--grant", "manage,send,receive:*", "--aws"];
    let key = made(&database, &key, &[]);
    (TestGateway::on(&database, |_| {}).await, key)
}

/// A program of the system's, or one that `tools/setup` installs, with the gateway and the key in the variables that
/// every SDK reads, and nothing of the caller's configuration.
pub fn with_access_key(program: &str, gateway: &TestGateway, key: &AccessKey) -> Command {
    let is_installed = program.contains('/');
    let mut command =
        if is_installed { Command::new(installed(program)) } else { Command::new(program) };
    command.envs([
        ("AWS_ENDPOINT_URL_SQS", gateway.base.as_str()),
        ("AWS_ACCESS_KEY_ID", &key.id),
        ("AWS_SECRET_ACCESS_KEY", &key.secret),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ]);
    for name in ["AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"] {
        command.env_remove(name);
    }
    command
}

impl Client {
    async fn row(&self) -> Row {
        let (gateway, key) = gateway().await;
        let mut command = with_access_key(self.program, &gateway, &key);
        command.args(self.script.map(|script| at("tests/sqs/clients").join(script)));
        command.args(self.argument.map(installed));
        let ran = try_run(command).await;
        let said = ran.as_ref().unwrap_or_else(|said| said);
        let lines = |prefix| said.lines().filter_map(move |line| line.strip_prefix(prefix));
        let client = lines("client: ").next().or(self.script).unwrap_or(self.program).to_owned();
        let flows: Vec<String> = lines("ok: ").map(str::to_owned).collect();
        let failure = match ran {
            Ok(_) if flows.len() == self.flows => None,
            Ok(_) => Some(format!("{} flows are expected", self.flows)),
            Err(said) => Some(said),
        };
        Row { client, flows, failure }
    }
}

/// Prints what clients did; none of them may have failed.
fn check(rows: &[Row]) {
    report("| client | flows | result |\n|---|---|---|");
    for Row { client, flows, failure } in rows {
        let result = if failure.is_some() { "failed" } else { "as with the service" };
        report(&format!("| {client} | {} | {result} |", flows.join("; ")));
    }
    let failures: Vec<&String> = rows.iter().filter_map(|row| row.failure.as_ref()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn the_sdk_for_javascript_and_its_consumer_work_as_they_are() {
    check(&[SDK_JS.row().await, CONSUMER.row().await]);
}

#[tokio::test]
#[ignore = "`make test-clients` installs these clients and runs this"]
async fn further_clients_work_as_they_are() {
    let (cli, asynchronous, rust) = tokio::join!(CLI.row(), ASYNC_SDK.row(), SDK_RUST.row());
    let (celery, dramatiq, taskiq) = tokio::join!(CELERY.row(), DRAMATIQ.row(), TASKIQ.row());
    check(&[rust, cli, asynchronous, celery, dramatiq, taskiq]);
}

/// A snippet of docs/sqs.md with this in its first lines, for this gateway.
fn snippet(language: &str, mark: &str, gateway: &TestGateway) -> String {
    let page = fs::read_to_string(at("docs/sqs.md")).expect("read");
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    let found = blocks.into_iter().find(|block| block.contains(mark));
    let address = gateway.base.trim_start_matches("http://");
    found.unwrap_or_else(|| panic!("{mark} in {language}")).replace("localhost:8080", address)
}

/// What docs/sqs.md says is run; where no key is needed, any credentials do.
#[tokio::test]
async fn the_snippet_in_javascript_works() {
    let gateway = TestGateway::start().await;
    let directory = tempfile::tempdir_in(installed("sqs-js")).expect("a directory");
    let file = directory.path().join("snippet.mjs");
    fs::write(&file, snippet("js", "@aws-sdk/client-sqs", &gateway)).expect("written");
    let mut node = Command::new("node");
    node.arg(file);
    assert_eq!(run(node).await.trim(), "hello");
    assert!(gateway.all("jobs").await.is_empty());
}

#[tokio::test]
#[ignore = "`make test-clients` installs these clients and runs this"]
async fn the_snippets_in_python_and_of_the_command_line_work() {
    let gateway = TestGateway::start().await;
    let mut python = Command::new(installed("sqs-workers/bin/python"));
    python.arg("-c").arg(snippet("python", "aiobotocore", &gateway));
    assert_eq!(run(python).await.trim(), "hello");
    assert!(gateway.all("jobs").await.is_empty());

    let mut shell = Command::new("bash");
    let path = installed("sqs-cli/bin").display().to_string();
    let path = format!("{path}:{}", std::env::var("PATH").expect("a path"));
    shell.args(["-euc", &snippet("sh", "aws sqs", &gateway)]).env("PATH", path);
    let said = run(shell).await;
    assert!(said.contains("\"Body\": \"from a terminal\""), "{said}");
}

/// It is built as it stands there.
#[tokio::test]
#[ignore = "`make test-clients` installs these clients and runs this"]
async fn the_snippet_in_rust_works() {
    let gateway = TestGateway::start().await;
    let built = fs::read_to_string(at("tests/sqs/rust/src/bin/snippet.rs")).expect("read");
    assert_eq!(snippet("rust", "aws_sdk_sqs", &gateway), built);
    let any = AccessKey { id: "any".to_owned(), secret: "any".to_owned() };
    let program = with_access_key("sqs-rust/debug/snippet", &gateway, &any);
    assert_eq!(run(program).await.trim(), "hello");
    assert!(gateway.all("jobs").await.is_empty());
}

#[tokio::test]
#[ignore = "`make test-clients` installs these clients and runs this"]
async fn the_snippet_for_celery_works() {
    let gateway = TestGateway::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let code = snippet("python", "from celery", &gateway);
    fs::write(directory.path().join("tasks.py"), code).expect("written");
    let python = || {
        let mut python = Command::new(installed("sqs-workers/bin/python"));
        python.current_dir(directory.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        python
    };
    let mut call = python();
    call.args(["-c", "from tasks import add; add.delay(2, 3)"]);
    run(call).await;
    assert_eq!(gateway.all("celery").await.len(), 1);
    let mut worker = python();
    worker.args(["-m", "celery", "-A", "tasks", "worker", "--loglevel=WARNING"]);
    let mut worker = worker.kill_on_drop(true).stdout(Stdio::null()).spawn().expect("it runs");
    eventually("the task is done", async || {
        assert!(worker.try_wait().expect("known").is_none(), "the worker goes on");
        gateway.all("celery").await.is_empty().then_some(())
    })
    .await;
    worker.kill().await.expect("ended");
}
