//! Keys of the private PostgreSQL, beside a gateway and beside each other.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use nix::sys::signal::Signal;

use crate::support::{
    TestDatabase,
    postgres::new_directory,
    process::{Program, embedded_environment, program},
};

const CREATE: [&str; 6] = ["keys", "create", "--name", "a", "--grant", "admin"];

fn embedded(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = program(arguments, &[]);
    command.envs(embedded_environment(directory));
    // A machine that is busy makes each wait for the others.
    command.env("PGMQ_GATEWAY__DATABASE__CONNECT_TIMEOUT_SECONDS", "300");
    command
}

fn begun(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
}

/// What it printed, and what it said beside that.
fn texts(output: Output) -> (String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr))
}

/// A variable that is lost on the way, as sudo drops it, must not lead to keys that nobody asks for.
#[tokio::test]
async fn looking_for_keys_makes_no_private_postgresql() {
    let directory = new_directory();
    for arguments in
        [&["keys", "list"][..], &["keys", "revoke", "abc"], &["keys", "rotate", "abc", "--aws"]]
    {
        let output = embedded(&directory, arguments).output().expect("ran");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let (printed, said) = texts(output);
        assert!(printed.is_empty() && said.lines().count() == 1, "{printed}{said}");
        assert!(said.contains("no database is configured"), "{said}");
        assert!(said.contains(&directory.display().to_string()), "{said}");
        assert!(said.contains("DATABASE_URL"), "{said}");
        assert!(!directory.exists(), "{arguments:?} made it");
    }
}

#[tokio::test]
async fn the_first_key_comes_with_where_it_is() {
    let directory = new_directory();
    let place = format!("the private PostgreSQL in {}", directory.display());
    let output = embedded(&directory, &CREATE).output().expect("ran");
    let (key, said) = texts(output);
    assert!(key.starts_with("pgk_"), "{key}{said}");
    assert!(said.contains(&place) && said.contains("is made now"), "{said}");
    // No gateway is there that would have to look at it.
    assert!(!said.contains("gateways look"), "{said}");
    let (listed, said) = texts(embedded(&directory, &["keys", "list"]).output().expect("ran"));
    assert!(listed.contains("in force"), "{listed}{said}");
    assert!(said.contains(&place) && !said.contains("is made now"), "{said}");
    // A gateway with its settings asks for it.
    let mut gateway = Program::start(embedded(&directory, &[]));
    let client = gateway.client().await;
    client.get("/queues").await.problem(401, "unauthenticated");
    client.with_key(key.trim_end()).get("/queues").await.expect(200);
}

/// Whichever is first starts the server, and none ends it for another.
#[tokio::test]
async fn commands_and_a_gateway_that_begin_at_once_do_not_break_each_other() {
    let directory = new_directory();
    let commands: Vec<Child> = (0..3).map(|_| begun(embedded(&directory, &CREATE))).collect();
    let mut gateway = Program::start(embedded(&directory, &[]));
    let late: Vec<Child> = (0..2).map(|_| begun(embedded(&directory, &CREATE))).collect();
    let mut made = Vec::new();
    for child in commands.into_iter().chain(late) {
        let waited = tokio::task::spawn_blocking(|| child.wait_with_output());
        let (key, said) = texts(waited.await.expect("waited").expect("ran"));
        assert!(key.starts_with("pgk_"), "{key}{said}");
        made.push(key.trim_end().to_owned());
    }
    let client = gateway.client().await;
    for key in &made {
        client.with_key(key).get("/queues").await.expect(200);
    }

    // One that comes while the gateway ends has the server for itself.
    gateway.signal(Signal::SIGTERM);
    let output = begun(embedded(&directory, &["keys", "list"])).wait_with_output();
    let (listed, said) = texts(output.expect("ran"));
    assert_eq!(listed.lines().count(), 1 + made.len(), "{listed}{said}");
    assert!(gateway.ended().await);
}

/// It is for those who may look alone; to bring a schema up to date is an administrator's.
#[tokio::test]
async fn looking_for_keys_changes_no_schema() {
    let database = TestDatabase::empty().await;
    let url = database.url();
    let run = |arguments: &[&str]| {
        let output = program(arguments, &[("DATABASE_URL", &url)]).output().expect("ran");
        let fine = output.status.success();
        let (printed, said) = texts(output);
        (fine, printed + &said)
    };
    let looking = [&["keys", "list"][..], &["keys", "revoke", "abc"], &["keys", "rotate", "abc"]];
    for arguments in looking {
        let (fine, said) = run(arguments);
        assert!(!fine && said.contains("there are no keys in database test_"), "{said}");
    }
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgmq%'";
    assert_eq!(database.value::<i64>(schemas).await, 0, "something was installed");

    let (fine, said) = run(&CREATE);
    assert!(fine, "{said}");
    // As it is where another gateway made it.
    database.execute("UPDATE pgmq_gateway.functions_in_force SET hash = 'another'").await;
    let id = said.split('_').nth(1).expect("an id").to_owned();
    for arguments in [&["keys", "list"][..], &["keys", "rotate", &id], &["keys", "revoke", &id]] {
        let (fine, said) = run(arguments);
        assert!(fine, "{arguments:?}: {said}");
    }
    let hash = "SELECT hash FROM pgmq_gateway.functions_in_force";
    assert_eq!(database.value::<String>(hash).await, "another", "functions were replaced");
}

#[tokio::test]
async fn a_key_that_would_be_over_at_once_is_refused() {
    let database = TestDatabase::empty().await;
    let url = database.url();
    for time in ["0s", "0ms", "999ms"] {
        let arguments = [&CREATE[..], &["--expires-in", time]].concat();
        let output = program(&arguments, &[("DATABASE_URL", &url)]).output().expect("ran");
        let (printed, said) = texts(output);
        assert!(printed.is_empty() && said.contains("for a second at least"), "{printed}{said}");
    }
}

/// Nothing was sent, so that nothing can have been lost on the way.
#[tokio::test]
async fn a_time_is_kept_as_it_was_asked_for_or_refused() {
    let database = TestDatabase::empty().await;
    let url = database.url();
    let run = |arguments: &[&str]| {
        let output = program(arguments, &[("DATABASE_URL", &url)]).output().expect("ran");
        let code = output.status.code();
        let (printed, said) = texts(output);
        (code, printed, said)
    };
    let create = |time| run(&[&CREATE[..], &["--expires-in", time]].concat());
    let (_, key, said) = create("300years");
    let id = key.split('_').nth(1).expect(&said).to_owned();
    let years = "SELECT round(extract(epoch FROM expires_at - now()) / 31557600)::bigint \
                 FROM pgmq_gateway.api_keys WHERE id = ";
    assert_eq!(database.value::<i64>(&format!("{years}'{id}'")).await, 300);
    let (_, key, said) = create("1s 1ns");
    assert!(key.starts_with("pgk_"), "{said}");
    for overlap in ["1000years", "1ns"] {
        let (code, key, said) = run(&["keys", "rotate", &id, "--overlap", overlap]);
        assert!(code == Some(0) && key.starts_with("pgk_"), "{overlap}: {said}");
    }
    for refused in
        [create("1001years"), run(&["keys", "rotate", &id, "--overlap", "999999999999d"])]
    {
        let (code, printed, said) = refused;
        assert_eq!((code, &*printed), (Some(2), ""), "{said}");
        assert!(said.contains("a thousand years are the most"), "{said}");
    }
}
