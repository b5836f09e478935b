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

/// Whether there is the browser that `tests/browser` drives; where there is none, a line says so.
#[expect(clippy::print_stdout, reason = "says what was not tested")]
pub fn has_browser() -> bool {
    let is_there = Path::new("/usr/bin/chromium").exists();
    if !is_there {
        println!("skipped: there is no Chromium; tools/setup --test installs it where it can");
    }
    is_there
}

/// Runs a program to its end, which must be a good one; returns what it said.
pub async fn run(program: Command) -> String {
    try_run(program).await.unwrap_or_else(|said| panic!("{said}"))
}

/// The same; an error has what it said where it came to no good end.
#[expect(clippy::print_stdout, reason = "shown when the test fails, or is asked to show it")]
pub async fn try_run(mut program: Command) -> Result<String, String> {
    program.stdin(Stdio::null()).kill_on_drop(true);
    let Ok(ran) = timeout(LIMIT, program.output()).await else {
        return Err("it did not end in time".to_owned());
    };
    let ran = ran.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ran.stderr);
    println!("{said}\n{errors}");
    if ran.status.success() { Ok(said) } else { Err(format!("{said}\n{errors}")) }
}
