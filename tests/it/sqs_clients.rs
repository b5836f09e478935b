//! Real clients of SQS: boto3 in both protocols, unchanged. `tests/sqs` has what they do.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{
    proxies::{PREFIX, under_a_path},
    sqs_keys::{AccessKey, made},
    sqs_matrix::with_access_key,
};
use crate::support::{
    TestDatabase, TestGateway,
    programs::{at, run},
    report,
};

/// A limit in case that something hangs.
const LIMIT: Duration = Duration::from_secs(300);
/// What part of the recorded cases has to be answered alike, in hundredths.
const LEAST: usize = 95;

/// The Python that has a version of boto3; `tools/setup --test` makes it.
fn python(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name).join("bin/python")
}

/// Does the recorded cases of one protocol again, and returns how many are answered alike, and of how many.
#[expect(clippy::print_stdout, reason = "shown when the test fails, or is asked to show it")]
async fn score(client: &str) -> (usize, usize) {
    let python = python(client);
    assert!(python.exists(), "{} is missing: run tools/setup --test", python.display());
    let gateway = TestGateway::start().await;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sqs/recorded.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(program).args(["--gateway", &gateway.base]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ran = timeout(LIMIT, command.output()).await.expect("it ended in time").expect("it ran");
    let said = String::from_utf8_lossy(&ran.stdout);
    println!("{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    let score = said.lines().find(|line| line.starts_with("score: ")).expect("a score");
    report(score);
    let mut words = score.rsplit(": ").next().expect("figures").split(' ');
    let mut number = || words.find_map(|word| word.parse().ok()).expect("a number");
    (number(), number())
}

#[tokio::test]
async fn the_json_protocol_answers_as_the_service_was_recorded() {
    let (alike, all) = score("sqs").await;
    assert!(all >= 61 && alike * 100 >= all * LEAST, "{alike} of {all}");
}

#[tokio::test]
async fn the_query_protocol_answers_as_the_service_was_recorded() {
    let (alike, all) = score("sqs-query").await;
    assert!(all >= 42 && alike * 100 >= all * LEAST, "{alike} of {all}");
}

/// A gateway with a key whose requests are signed.
async fn with_key() -> (TestGateway, AccessKey) {
    let database = TestDatabase::new().await;
    let key = ["create", "--name", "client", "--grant", "manage,send,receive:*", "--aws"];
    let key = made(&database, &key, &[]);
    (TestGateway::on(&database, |_| {}).await, key)
}

/// Every action with its answers.
async fn actions(client: &str) {
    let (gateway, key) = with_key().await;
    actions_at(client, &gateway, &key, &gateway.base).await;
}

/// The same at another address of the gateway.
async fn actions_at(client: &str, gateway: &TestGateway, key: &AccessKey, base: &str) {
    let mut python = with_access_key(&format!("{client}/bin/python"), gateway, key);
    python.env("AWS_ENDPOINT_URL_SQS", base).arg(at("tests/sqs/actions.py"));
    let said = run(python).await;
    let told = said.lines().find(|line| line.starts_with("actions: ")).expect("they are told");
    report(told);
    assert!(told.ends_with(": 23 of 23"), "{told}");
}

#[tokio::test]
async fn every_action_of_the_json_protocol_gives_what_it_can() {
    actions("sqs").await;
}

#[tokio::test]
async fn every_action_of_the_query_protocol_gives_what_it_can() {
    actions("sqs-query").await;
}

/// Signed as the client has it, who does not know of the proxy.
#[tokio::test]
async fn every_action_works_under_a_path_of_a_proxy() {
    for client in ["sqs", "sqs-query"] {
        let (gateway, key) = with_key().await;
        for (kind, proxy) in under_a_path(&gateway).await {
            report(&format!("behind {kind:?}:"));
            // SDKs sign a doubled one as one.
            for end in ["/", "//"] {
                let base = format!("{}{PREFIX}{end}", proxy.base);
                actions_at(client, &gateway, &key, &base).await;
                gateway.database.execute(DROP_ALL).await;
            }
        }
    }
}

/// For the next one, who finds nothing.
const DROP_ALL: &str = "SELECT pgmq.drop_queue(queue_name) FROM pgmq.meta; \
                        DELETE FROM pgmq_gateway.move_tasks; \
                        DELETE FROM pgmq_gateway.deduplication_ids";
