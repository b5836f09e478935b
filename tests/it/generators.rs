//! The OpenAPI document as others read it: three validators, and clients that two generators make of it, outside
//! the repository, which send, receive with a filter and settle.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::support::TestGateway;

/// A limit in case that something hangs.
const LIMIT: Duration = Duration::from_secs(300);

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program that `tools/setup --test` installs.
fn installed(path: &str) -> PathBuf {
    let program = in_repository("target/generators").join(path);
    assert!(program.exists(), "{} is missing: run tools/setup --test", program.display());
    program
}

fn node_module(name: &str) -> PathBuf {
    installed("node/node_modules/.bin").join(name)
}

/// Runs a command in a directory to its end, insists that all went well, and returns what it said.
#[expect(clippy::print_stdout, reason = "shown when the test fails, or is asked to show it")]
async fn run(directory: &Path, program: &Path, arguments: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    // The generator looks for ruff there. Nothing is sent to anybody.
    let bin = installed("python/bin").display().to_string();
    command.env("PATH", format!("{bin}:{path}")).env("REDOCLY_TELEMETRY", "off");
    command.env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true").env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ran = timeout(LIMIT, command.output()).await.expect("it ended in time").expect("it ran");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    println!("{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{} says what failed", program.display());
    said
}

/// A directory outside of the repository, with the document as a gateway serves it.
async fn with_document(gateway: &TestGateway) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    let document = gateway.get("/openapi.json").await.expect(200).text;
    fs::write(directory.path().join("openapi.json"), document).expect("written");
    directory
}

#[tokio::test]
async fn validators_find_no_error() {
    let gateway = TestGateway::start().await;
    let directory = with_document(&gateway).await;
    let python = installed("python/bin/python");
    run(directory.path(), &python, &["-m", "openapi_spec_validator", "openapi.json"]).await;
    run(directory.path(), &node_module("redocly"), &["lint", "openapi.json"]).await;
    let rules = in_repository("tests/generators/spectral.yaml").display().to_string();
    run(directory.path(), &node_module("spectral"), &["lint", "-r", &rules, "openapi.json"]).await;
}

#[tokio::test]
async fn a_client_for_python_sends_receives_and_settles() {
    let gateway = TestGateway::start().await;
    let directory = with_document(&gateway).await;
    let generate = ["generate", "--path", "openapi.json", "--fail-on-warning"];
    run(directory.path(), &installed("python/bin/openapi-python-client"), &generate).await;
    let script = in_repository("tests/generators/round_trip.py").display().to_string();
    let python = installed("python/bin/python");
    let package = directory.path().join("pgmq-gateway-client");
    // `-c`, so that the package is found in the directory of work.
    let start = format!("import runpy; runpy.run_path({script:?}, run_name='__main__')");
    let said = run(&package, &python, &["-c", &start, &gateway.base]).await;
    assert!(said.contains("python: settled"), "{said}");
    assert_eq!(gateway.all("python").await.len(), 1);
}

#[tokio::test]
async fn a_client_for_typescript_sends_receives_and_settles() {
    let gateway = TestGateway::start().await;
    let directory = with_document(&gateway).await;
    let here = directory.path();
    symlink(installed("node/node_modules"), here.join("node_modules")).expect("linked");
    for file in ["round_trip.ts", "tsconfig.json"] {
        let from = in_repository("tests/generators").join(file);
        fs::copy(from, here.join(file)).expect("copied");
    }
    fs::write(here.join("package.json"), r#"{"type":"module"}"#).expect("written");
    let generate = ["openapi.json", "--output", "api.d.ts"];
    run(here, &node_module("openapi-typescript"), &generate).await;
    run(here, &node_module("tsc"), &["--project", "."]).await;
    let said = run(here, Path::new("node"), &["out/round_trip.js", &gateway.base]).await;
    assert!(said.contains("typescript: settled"), "{said}");
    assert_eq!(gateway.all("typescript").await.len(), 1);
}
