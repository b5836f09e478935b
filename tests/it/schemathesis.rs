//! The API against its own OpenAPI document: Schemathesis makes requests that the document allows,
//! and such that it doesn't, and compares the answers with it: `tests/schemathesis`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use tokio::{process::Command, time::timeout};

use crate::support::{TestDatabase, TestGateway};

/// The same requests in every run, unless `TEST_FUZZ` asks for others.
const SEED: u32 = 20_260_101;
/// Requests to an operation in a phase. `TEST_FUZZ` is another number, with a seed of its own.
const EXAMPLES: u32 = 30;
/// A limit in case that something hangs; a run by hand may be as long as it likes.
const LIMIT: Duration = Duration::from_secs(300);

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The program; `tools/setup --test` installs it.
fn program() -> PathBuf {
    let installed = || in_repository("target/schemathesis/bin/schemathesis");
    env::var_os("TEST_SCHEMATHESIS").map_or_else(installed, PathBuf::from)
}

/// How many requests, from which seed, and how long they may take.
fn extent() -> (u32, u32, Duration) {
    match env::var("TEST_FUZZ") {
        Ok(examples) => {
            let examples = examples.parse().expect("TEST_FUZZ is a number of examples");
            let seed = env::var("TEST_SEED").map_or_else(
                |_| rand::random(),
                |seed| seed.parse().expect("TEST_SEED is a number"),
            );
            (examples, seed, Duration::from_secs(24 * 3600))
        }
        Err(_) => (EXAMPLES, SEED, LIMIT),
    }
}

/// What `hooks.py` makes most requests be about.
async fn furnish(gateway: &TestGateway) {
    gateway.create("fuzz-plain").await;
    gateway.create_with("fuzz-fifo", &json!({"fifo": true})).await;
    let burying = json!({"settings": {"max_receives": 2, "dead_letter_queue": "fuzz-plain"}});
    gateway.create_with("fuzz-dead", &burying).await;
    let messages: Vec<_> = (0..100)
        .map(|n| json!({"message": {"n": n}, "headers": {"x-pgmq-group": format!("g{}", n % 7)}}))
        .collect();
    let batch = json!({"messages": messages}).to_string();
    for queue in ["fuzz-plain", "fuzz-fifo", "fuzz-dead"] {
        gateway.post(&format!("/queues/{queue}/messages/batch"), &batch).await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "shown when the test fails, or is asked to show it")]
async fn the_api_is_as_its_document_says() {
    let program = program();
    assert!(program.exists(), "{} is missing: run tools/setup --test", program.display());
    // The document names the largest limit that a server may have.
    let database = TestDatabase::new().await;
    database.execute("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman").await;
    let gateway = TestGateway::on(&database, |settings| {
        settings.limits.max_message_bytes = 64 << 20;
        settings.limits.max_body_bytes = 64 << 20;
    })
    .await;
    furnish(&gateway).await;
    let (examples, seed, limit) = extent();
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut command = Command::new(program);
    command.arg("--config-file").arg(in_repository("tests/schemathesis/schemathesis.toml"));
    command.args(["run", &format!("{}/openapi.json", gateway.base), "--checks", "all"]);
    // It takes DELETE for the only end of a message; `messages_stay` in hooks.py knows the others.
    command.args(["--exclude-checks", "ensure_resource_availability"]);
    command.args(["--max-examples", &examples.to_string(), "--seed", &seed.to_string()]);
    command.args(["--no-color", "--generation-database", "none"]);
    command.env("SCHEMATHESIS_HOOKS", "hooks").env("GATEWAY", &gateway.base);
    command.env("PYTHONPATH", in_repository("tests/schemathesis"));
    // Nothing is left beside the sources.
    command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(directory.path());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ran = timeout(limit, command.output()).await.expect("it ended in time").expect("it ran");
    let said = String::from_utf8_lossy(&ran.stdout);
    println!("{said}\n{}\nseed {seed}", String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "Schemathesis says what failed (seed {seed})");
    let cases = said
        .split_once("Test cases:")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.replace(',', "").parse::<u32>().ok());
    // One for each operation at the very least: a document that was not understood has none.
    assert!(cases.is_some_and(|cases| cases > 500), "it made requests: {cases:?}");
}
