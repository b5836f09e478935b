//! The Postman collection: current, and green from top to bottom.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::auth::{ADMIN, with_admin};
use crate::support::TestGateway;

/// A limit in case that something hangs.
const LIMIT: Duration = Duration::from_secs(120);

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What runs collections; `tools/setup --test` installs it.
fn newman() -> PathBuf {
    let installed = || in_repository("target/newman/node_modules/.bin/newman");
    env::var_os("TEST_NEWMAN").map_or_else(installed, PathBuf::from)
}

/// Runs a command to its end: whether all went well, and what it said.
async fn run(command: &mut Command) -> (bool, String, String) {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ran = timeout(LIMIT, command.output()).await.expect("it ended in time").expect("it ran");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (ran.status.success(), text(ran.stdout), text(ran.stderr))
}

#[tokio::test]
async fn the_committed_collection_is_current() {
    let mut command = Command::new("python3");
    let (fine, current, errors) =
        run(command.arg(in_repository("tools/postman")).arg("--stdout")).await;
    assert!(fine, "{errors}");
    let committed = fs::read_to_string(in_repository("openapi/postman_collection.json"));
    let committed = committed.expect("openapi/postman_collection.json");
    assert!(committed == current, "run `make openapi` and commit what it writes");
}

/// On an empty database, once more on the one that it leaves behind, and where a key is needed.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "shown when the test fails, or is asked to show it")]
async fn the_collection_runs_green() {
    let newman = newman();
    assert!(newman.exists(), "{} is missing: run tools/setup --test", newman.display());
    let open = TestGateway::start().await;
    let closed = TestGateway::with(with_admin).await;
    for gateway in [&open, &open, &closed] {
        let mut command = Command::new(&newman);
        command.arg("run").arg(in_repository("openapi/postman_collection.json"));
        command.args(["--env-var", &format!("base_url={}", gateway.base)]);
        if gateway.base == closed.base {
            command.args(["--env-var", &format!("key={ADMIN}")]);
        }
        command.args(["--color", "off", "--timeout-request", "30000"]);
        let (fine, said, errors) = run(&mut command).await;
        println!("{said}\n{errors}");
        assert!(fine, "newman says what failed");
    }
    for client in [open.client.clone(), closed.with_key(ADMIN)] {
        let left = client.get("/queues").await.expect(200).json();
        assert_eq!(left["queues"], serde_json::json!([]), "it drops what it made");
    }
}
