//! supabase-js and supabase-py as they are, on a gateway: `tests/supabase`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use tokio::{process::Command, time::timeout};

use super::auth::{ADMIN, with_admin};
use crate::support::TestGateway;

/// A limit in case that something hangs.
const LIMIT: Duration = Duration::from_secs(120);

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a program to its end, which must be a good one; returns what it said.
#[expect(clippy::print_stdout, reason = "shown when the test fails, or is asked to show it")]
async fn run(mut program: Command) -> String {
    program.stdin(Stdio::null()).kill_on_drop(true);
    let ran = timeout(LIMIT, program.output()).await.expect("it ended in time").expect("it ran");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ran.stderr);
    println!("{said}\n{errors}");
    assert!(ran.status.success(), "{errors}");
    said
}

async fn gateway(queue: &str) -> TestGateway {
    let gateway = TestGateway::with(with_admin).await;
    gateway.with_key(ADMIN).create(queue).await;
    gateway
}

#[tokio::test]
async fn supabase_js_works_as_it_is() {
    let modules = at("target/supabase-js");
    assert!(modules.join("node_modules").exists(), "run tools/setup --test");
    let gateway = gateway("js").await;
    let mut node = Command::new("node");
    node.arg(at("tests/supabase/client.mjs")).arg(modules).args([&gateway.base, ADMIN]);
    let said = run(node).await;
    assert_eq!(said.matches("ok: ").count(), 4, "{said}");
    // What it sent last, by REST.
    let client = gateway.with_key(ADMIN);
    let left = client.all("js").await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["message"], json!("waited for"));
}

#[tokio::test]
async fn supabase_py_works_as_it_is() {
    let python = at("target/supabase-py/bin/python");
    assert!(python.exists(), "{} is missing: run tools/setup --test", python.display());
    let gateway = gateway("py").await;
    let mut command = Command::new(python);
    // Nothing is left beside the sources.
    command.arg("-B").arg(at("tests/supabase/client.py")).args([&gateway.base, ADMIN]);
    let said = run(command).await;
    assert_eq!(said.matches("ok: ").count(), 2, "{said}");
}
