//! Real clients of SQS: boto3 in both protocols, unchanged. `tests/sqs` has what they do.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{sqs_keys::made, sqs_matrix::with_access_key};
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

/// Every action with its answers, by a key whose requests are signed.
async fn actions(client: &str) {
    let database = TestDatabase::new().await;
    let key = ["create", "--name", "client", "--grant", "manage,send,receive:*", "--aws"];
    let key = made(&database, &key, &[]);
    let gateway = TestGateway::on(&database, |_| {}).await;
    let mut python = with_access_key(&format!("{client}/bin/python"), &gateway, &key);
    python.arg(at("tests/sqs/actions.py"));
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
