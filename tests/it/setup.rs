//! What `tools/setup` says before it installs anything.

use std::{path::Path, process::Command};

/// Runs `tools/setup` where programs say something else.
fn set_up(programs: &[(&str, &str)], arguments: &[&str]) -> (bool, String) {
    let directory = tempfile::tempdir().expect("a directory");
    for (program, said) in programs {
        let path = directory.path().join(program);
        // By a process of its own: what this one has open to write it, nobody can run, and those that other tests
        // start have it for a moment.
        let write = "printf '#!/bin/sh\\necho \"%s\"\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let mut shell = Command::new("sh");
        let written = shell.args(["-c", write, "sh", said]).arg(&path).status().expect("sh runs");
        assert!(written.success());
    }
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").expect("PATH"));
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/setup"));
    command.args(arguments).env("PATH", path);
    let output = command.output().expect("it ran");
    (output.status.success(), String::from_utf8(output.stderr).expect("text"))
}

/// Before tests that would fail one by one.
#[test]
fn programs_that_are_too_old_for_the_tests_are_told_at_once() {
    let old = [("node", "v18.20.4"), ("go", "go version go1.18.1 linux/amd64")];
    let (fine, errors) = set_up(&old, &["--test"]);
    assert!(!fine && errors.lines().count() == 1, "{errors}");
    for told in
        ["Node 20 or later in place of 18.20.4", "Go 1.19 or later in place of 1.18.1", "PATH"]
    {
        assert!(errors.contains(told), "{told}: {errors}");
    }
    assert!(!errors.contains("Java"), "{errors}");
}

/// Before a build that would take minutes.
#[test]
fn a_rust_that_is_too_old_is_told_at_once() {
    let rust = "rustc 1.70.0 (90c541806 2023-05-31)";
    let (fine, errors) = set_up(&[("cargo", rust), ("rustc", rust), ("rustup", "")], &[]);
    let least = env!("CARGO_PKG_RUST_VERSION");
    assert!(!fine && errors.contains(&format!("Rust {least} or later")), "{errors}");
    assert!(errors.contains("1.70.0") && errors.contains("rustup update"), "{errors}");
}
