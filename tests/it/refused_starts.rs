//! Starts that are refused: at once where nothing gets better, and before anything is changed.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use pgmq_gateway::{app::StartError, config::Settings};

use crate::support::{
    TestDatabase,
    gateway::try_start,
    postgres::{new_directory, start_on},
    process::{embedded_environment, program},
};

#[tokio::test]
async fn a_wrong_password_ends_the_start_at_once() {
    let directory = new_directory();
    let port = TcpListener::bind("127.0.0.1:0").expect("free").local_addr().expect("there").port();
    let server = start_on(Some(port), &directory, &[]).await;
    for user in ["postgres:hunter2", "nobody_at_all:hunter2"] {
        let url = format!("postgres://{user}@127.0.0.1:{port}/postgres");
        let started = Instant::now();
        let patient = |settings: &mut Settings| settings.database.connect_timeout_seconds = 600;
        let error = try_start(&url, patient).await.expect_err("refused");
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert!(matches!(error, StartError::Connect(_)), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("password authentication failed"), "{said}");
        assert!(said.contains("database URL") && !said.contains("hunter2"), "{said}");
    }
    server.stop().await;
}

/// While it waits for a database, it tells what it waits for and for how long, once, and what the remedy is.
#[test]
fn a_database_that_is_not_there_is_told_once_and_at_the_end() {
    let free = TcpListener::bind("127.0.0.1:0").expect("free").local_addr().expect("there").port();
    let url = format!("postgres://postgres:hunter2@127.0.0.1:{free}/postgres");
    let environment = [
        ("DATABASE_URL", &*url),
        ("PGMQ_GATEWAY__SERVER__PORT", "0"),
        ("PGMQ_GATEWAY__DATABASE__CONNECT_TIMEOUT_SECONDS", "3"),
    ];
    let output = program(&[], &environment).output().expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> =
        said.lines().filter(|line| line.contains("nothing listens there")).collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].contains("trying again") && lines[0].contains("for_seconds="), "{said}");
    assert!(lines[1].starts_with("pgmq-gateway: cannot connect to"), "{said}");
    assert!(!output.status.success() && !said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn a_database_that_was_never_made_is_named() {
    let database = TestDatabase::empty().await;
    let named = &database.name;
    let url = database.url().replacen(&format!("/{named}"), "/no_such_database", 1);
    let hasty = |settings: &mut Settings| settings.database.connect_timeout_seconds = 1;
    let said = try_start(&url, hasty).await.expect_err("refused").to_string();
    assert!(said.contains("no_such_database") && said.contains("createdb"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_told_with_the_option_for_another() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = program(&["--port", &port], &[]).output().expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Address already in use") && said.contains("--port"), "{said}");
}

type Change = Box<dyn FnOnce(&mut Settings)>;

/// What is in the database's schemas.
async fn is_empty(database: &TestDatabase) -> bool {
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('pgmq', 'pgmq_gateway')";
    database.value::<i64>(schemas).await == 0
}

#[tokio::test]
async fn what_is_refused_has_changed_nothing_in_the_database() {
    let database = TestDatabase::empty().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let changes: [(&str, Change); 5] = [
        ("a port that is taken", Box::new(move |s| s.server.port = port)),
        ("the same for operations", Box::new(move |s| s.server.operations_port = Some(port))),
        ("everybody let in", Box::new(|s| s.server.host = [0, 0, 0, 0].into())),
        ("nobody let in", Box::new(|s| s.auth.mode = pgmq_gateway::config::AuthMode::Required)),
        (
            "no certificate",
            Box::new(|s| {
                s.tls.cert_file = Some("/no/such.crt".into());
                s.tls.key_file = Some("/no/such.key".into());
            }),
        ),
    ];
    for (what, change) in changes {
        try_start(&database.url(), change).await.expect_err(what);
        assert!(is_empty(&database).await, "{what}: it has installed something");
    }
    drop(taken);
    let gateway = try_start(&database.url(), |_| {}).await.expect("started");
    assert!(!is_empty(&database).await);
    gateway.shut_down().await;
}

#[tokio::test]
async fn what_is_refused_has_made_no_private_postgresql() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let directory = new_directory();
    let environment = embedded_environment(&directory);
    for (name, value) in [
        ("PGMQ_GATEWAY__SERVER__PORT", &*port),
        ("PGMQ_GATEWAY__SERVER__HOST", "0.0.0.0"),
        ("PGMQ_GATEWAY__AUTH__MODE", "required"),
    ] {
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut command = program(&[], &environment);
        let output = command.env(name, value).output().expect("ran");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{name}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!directory.exists(), "{name}: a private PostgreSQL was made");
    }
}
