//! What the program does at its start about an environment that is not as it should be.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path, process::Command};

use nix::sys::signal::Signal;

use crate::support::{
    TestDatabase,
    postgres::new_directory,
    process::{Program, embedded_environment, program},
};

fn embedded(directory: &Path) -> Command {
    let environment = embedded_environment(directory);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    program(&[], &environment)
}

/// What was meant for that database must not go into another.
#[tokio::test]
async fn a_database_url_that_is_no_text_stops_the_start() {
    let directory = new_directory();
    for name in ["DATABASE_URL", "PGMQ_GATEWAY__DATABASE__URL", "DATABASE_URL_FILE"] {
        let mut command = embedded(&directory);
        command.env(name, OsStr::from_bytes(b"postgres://user:hunter2\xff@localhost/db"));
        let output = command.output().expect("ran");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{name}");
        assert!(said.lines().count() == 1 && said.contains(name), "{said}");
        assert!(said.contains("not UTF-8") && !said.contains("hunter2"), "{said}");
        assert!(!directory.exists(), "a private PostgreSQL was made");
    }
}

/// PostgreSQL would put its socket somewhere else, and the start would fail in words about a connection.
#[tokio::test]
async fn a_directory_with_a_comma_is_refused_by_that() {
    let directory = new_directory();
    let odd = std::path::PathBuf::from(format!("{},b", directory.display()));
    for arguments in [&[][..], &["check"], &["keys", "list"]] {
        let mut command = embedded(&odd);
        let output = command.args(arguments).output().expect("ran");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("there is a comma in it"), "{said}");
        assert!(said.lines().count() == 1 && said.contains("embedded.data_dir"), "{said}");
        assert!(!odd.exists() && !directory.exists());
    }
}

#[tokio::test]
async fn a_variable_that_is_almost_a_setting_is_named_with_what_was_meant() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let environment = [
        ("DATABASE_URL", &*url),
        ("PGMQ_GATEWAY__SERVER__PORT", "0"),
        ("PGMQ_GATEWAY_SERVER_HOST", "0.0.0.0"),
        ("PGMQ_GATEWAY_SERVICE_HOST", "10.0.0.1"),
    ];
    let meant = "PGMQ_GATEWAY__SERVER__HOST was probably meant";
    for command in [&["config"][..], &["keys", "list"], &["migrate"]] {
        let output = program(command, &environment).output().expect("ran");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(meant), "{command:?}: {said}");
    }
    let mut gateway = Program::start(program(&[], &environment));
    gateway.client().await;
    let log = gateway.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("PGMQ_GATEWAY_SERVER_HOST"), "{log}");
    assert!(warnings[0].contains(meant), "{log}");
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended().await);
}
