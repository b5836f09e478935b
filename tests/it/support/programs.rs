//! Programs that a test runs to their end.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

/// A limit in case that something hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// A path of the project.
pub fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `tools/setup` installs, below `target`.
pub fn installed(path: &str) -> PathBuf {
    let found = at("target").join(path);
    assert!(found.exists(), "{} is missing: run `tools/setup --test`", found.display());
    found
}

/// Runs a program to its end, which must be a good one; returns what it said.
#[expect(clippy::print_stdout, reason = "shown when the test fails, or is asked to show it")]
pub async fn run(mut program: Command) -> String {
    program.stdin(Stdio::null()).kill_on_drop(true);
    let ran = timeout(LIMIT, program.output()).await.expect("it ended in time").expect("it ran");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ran.stderr);
    println!("{said}\n{errors}");
    assert!(ran.status.success(), "{said}\n{errors}");
    said
}
