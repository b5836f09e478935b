//! PGMQ's own Python client and the gateway, in turn on the same queues: `tests/parity`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::support::TestGateway;

/// A limit in case that something hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// The Python that has the client; `tools/setup --test` makes it.
fn python() -> PathBuf {
    let made = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/parity/bin/python");
    env::var_os("TEST_PYTHON").map_or_else(made, PathBuf::from)
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "shown when the test fails, or is asked to show it")]
async fn the_python_client_and_the_gateway_see_the_same() {
    let python = python();
    assert!(python.exists(), "{} is missing: run tools/setup --test", python.display());
    let gateway = TestGateway::start().await;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/parity.py");
    let mut command = Command::new(python);
    // Nothing is left beside the sources.
    command.arg("-B").arg(program);
    command.args(["--database", &gateway.database.url(), "--gateway", &gateway.base]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ran = timeout(LIMIT, command.output()).await.expect("it ended in time").expect("it ran");
    let said = String::from_utf8_lossy(&ran.stdout);
    let errors = String::from_utf8_lossy(&ran.stderr);
    println!("{said}\n{errors}");
    assert!(ran.status.success(), "{}", errors.lines().last().unwrap_or("it failed silently"));
    assert!(said.contains("ok send:"), "it ran the steps");
}
