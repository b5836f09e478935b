//! The program from its start to its end, with a private PostgreSQL.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nix::{sys::signal::Signal, unistd::User};

use crate::support::{
    eventually,
    postgres::new_directory,
    process::{Program, embedded_environment, program},
};

fn embedded(directory: &Path, arguments: &[&str], more: &[(&str, &str)]) -> Command {
    let environment = embedded_environment(directory);
    let environment = environment.iter().map(|(name, value)| (&**name, &**value));
    program(arguments, &environment.chain(more.iter().copied()).collect::<Vec<_>>())
}

fn run(mut command: Command) -> Output {
    command.output().expect("the program runs")
}

/// The servers that run on the data in a directory.
fn postmasters(directory: &Path) -> usize {
    let data = directory.join("data");
    let data = data.to_str().expect("UTF-8");
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let serves = |path: PathBuf| {
        let arguments = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        arguments.split('\0').any(|argument| argument == data)
    };
    processes.filter(|process| serves(process.path())).count()
}

/// Sends, is killed, starts again: the message is there, and one server runs.
async fn survives_being_killed(directory: &Path, command: impl Fn() -> Command) {
    let mut first = Program::start(command());
    let client = first.client().await;
    client.create("q").await;
    client.send("q", r#"{"message":"kept"}"#).await;
    first.signal(Signal::SIGKILL);
    assert!(!first.ended().await);

    // At once, while the server that was left behind may still be on its way out.
    let mut second = Program::start(command());
    let client = second.client().await;
    assert_eq!(client.receive("q", "").await[0]["message"], "kept");
    assert_eq!(postmasters(directory), 1);
    let log = second.log();
    assert!(log.contains("psql -h"), "it says how to reach it: {log}");

    second.signal(Signal::SIGTERM);
    assert!(second.ended().await, "{}", second.log());
    assert_eq!(postmasters(directory), 0);

    let mut third = Program::start(command());
    third.client().await;
    third.signal(Signal::SIGKILL);
    third.ended().await;
    eventually("no orphan is left", async || (postmasters(directory) == 0).then_some(())).await;
}

#[tokio::test]
async fn a_killed_gateway_loses_nothing() {
    let directory = new_directory();
    survives_being_killed(&directory, || embedded(&directory, &[], &[])).await;
}

/// The same as an ordinary user, where the tests run as root.
#[tokio::test]
async fn a_killed_gateway_of_an_ordinary_user_loses_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let user = User::from_name("nobody").expect("passwd").expect("nobody");
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    let directory = new_directory();
    let home = directory.with_extension("home");
    fs::create_dir_all(&home).expect("made");
    fs::create_dir_all(&directory).expect("made");
    // The build's directory may be closed to others. Nothing can be run that a process has open to write it, and what
    // this one has open all those have for a moment that other tests start.
    let copy = home.join("pgmq-gateway");
    let program = env!("CARGO_BIN_EXE_pgmq-gateway");
    let copied = Command::new("cp").arg(program).arg(&copy).status().expect("cp runs");
    assert!(copied.success());
    for path in [&directory, &home, &copy] {
        chown(path, Some(uid), Some(gid)).expect("handed over");
    }
    survives_being_killed(&directory, || {
        let like = embedded(&directory, &[], &[]);
        let mut command = Command::new(&copy);
        command.env_clear().uid(uid).gid(gid).current_dir("/");
        for (name, value) in like.get_envs() {
            command.envs(value.map(|value| (name, value)));
        }
        command
    })
    .await;
    fs::remove_dir_all(&home).expect("removed");
}

#[tokio::test]
async fn a_shutdown_answers_those_who_wait_and_ends_well() {
    let directory = new_directory();
    let mut gateway = Program::start(embedded(&directory, &[], &[]));
    let client = gateway.client().await;
    client.create("q").await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("/queues/q/messages?wait=20").await }
    });
    client.wait_for_waiters("q", 1).await;
    gateway.signal(Signal::SIGTERM);
    assert!(waiting.await.expect("no panic").expect(200).messages().is_empty());
    assert!(gateway.ended().await, "{}", gateway.log());
    assert!(gateway.log().contains("stopped"), "{}", gateway.log());
    assert_eq!(postmasters(&directory), 0);
}

/// Whoever runs it without a terminal means that it should read its files again.
#[tokio::test]
async fn without_a_terminal_a_hangup_ends_nothing() {
    let directory = new_directory();
    let mut command = embedded(&directory, &[], &[]);
    command.stdin(Stdio::null());
    let mut gateway = Program::start(command);
    let client = gateway.client().await;
    gateway.signal(Signal::SIGHUP);
    eventually("it says so", async || gateway.log().contains("SIGHUP").then_some(())).await;
    client.get("/readyz").await.expect(200);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended().await, "{}", gateway.log());
}

/// Its terminal is closed while somebody waits.
#[tokio::test]
async fn a_terminal_that_goes_ends_it_as_a_signal_to_stop_does() {
    let directory = new_directory();
    let mut command = Command::new("python3");
    command
        .arg("-c")
        .arg("import os, pty, sys; os.dup2(2, 1); pty.spawn(sys.argv[1:])")
        .arg(env!("CARGO_BIN_EXE_pgmq-gateway"))
        .stdin(Stdio::null());
    let json = [("PGMQ_GATEWAY__LOG__FORMAT", "json")];
    let like = embedded(&directory, &[], &json);
    command.env_clear();
    for (name, value) in like.get_envs() {
        command.envs(value.map(|value| (name, value)));
    }
    let mut terminal = Program::start(command);
    let client = terminal.client().await;
    client.create("q").await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("/queues/q/messages?wait=20").await }
    });
    client.wait_for_waiters("q", 1).await;
    terminal.signal(Signal::SIGKILL);
    assert!(waiting.await.expect("no panic").expect(200).messages().is_empty());
    eventually("its PostgreSQL is stopped", async || (postmasters(&directory) == 0).then_some(()))
        .await;
}

/// During the delay readiness has gone, and requests are still served.
#[tokio::test]
async fn readiness_goes_first() {
    let directory = new_directory();
    let delay = [("PGMQ_GATEWAY__SERVER__SHUTDOWN_DELAY_SECONDS", "600")];
    let mut gateway = Program::start(embedded(&directory, &[], &delay));
    let client = gateway.client().await;
    client.create("q").await;
    gateway.signal(Signal::SIGTERM);
    eventually("readiness is gone", async || {
        (client.get("/readyz").await.status == 503).then_some(())
    })
    .await;
    client.send("q", r#"{"message":1}"#).await;
    // A second signal does not wait for the rest of the delay.
    gateway.signal(Signal::SIGINT);
    assert!(!gateway.ended().await);
    eventually("no orphan is left", async || (postmasters(&directory) == 0).then_some(())).await;
}

#[tokio::test]
async fn two_gateways_do_not_share_a_directory() {
    let directory = new_directory();
    let mut first = Program::start(embedded(&directory, &[], &[]));
    let client = first.client().await;
    let second = run(embedded(&directory, &[], &[]));
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    let last = said.lines().last().expect("a line");
    assert!(last.contains("another pgmq-gateway uses"), "{said}");
    client.get("/readyz").await.expect(200);

    // The same port on another directory.
    let port = client.base.rsplit(':').next().expect("a port").to_owned();
    let elsewhere = new_directory();
    let third =
        run(embedded(&elsewhere, &[], &[("PORT", &port), ("PGMQ_GATEWAY__SERVER__PORT", "")]));
    let said = String::from_utf8_lossy(&third.stderr);
    let last = said.lines().last().expect("a line");
    assert!(last.contains("cannot listen on") && last.contains(&port), "{said}");
    assert_eq!(postmasters(&elsewhere), 0, "its server is stopped");
}

#[tokio::test]
async fn a_port_for_tcp_has_a_password() {
    let directory = new_directory();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = socket.local_addr().expect("an address").port().to_string();
    drop(socket);
    let port_setting = [("PGMQ_GATEWAY__EMBEDDED__PORT", &*port)];
    let mut gateway = Program::start(embedded(&directory, &[], &port_setting));
    gateway.client().await;
    let password = fs::read_to_string(directory.join("password")).expect("a password");
    for (password, works) in [(&*password, true), ("wrong", false)] {
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
        let connected = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await;
        assert_eq!(connected.is_ok(), works);
    }
}

#[tokio::test]
async fn logs_are_json_when_asked_and_hold_no_body() {
    let directory = new_directory();
    let json = [("PGMQ_GATEWAY__LOG__FORMAT", "json"), ("PGMQ_GATEWAY__LOG__LEVEL", "debug")];
    let mut gateway = Program::start(embedded(&directory, &[], &json));
    let client = gateway.client().await;
    client.create("q").await;
    let secret = r#"{"message":"s3cret-body","headers":{"h":"s3cret-header"}}"#;
    client.send("q", secret).await;
    client.receive("q", "filter=%7B%22s3cret-filter%22%3A1%7D").await;
    client.post("/queues/q/messages/pop?qty=10", "").await.expect(200);
    for n in 5..7 {
        client.send_message("q", n).await;
    }
    let settle = r#"{"settle":{"delete":[{"msg_id":77}]},"wait":20}"#;
    client.post("/queues/q/messages/receive", settle).await.expect(200);
    client.get("/queues/none").await.expect(404);
    let lines = eventually("all requests are logged", async || {
        let log = gateway.log();
        let lines: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        lines.iter().any(|line| line["status"] == 404).then_some(lines)
    });
    let lines = lines.await;
    assert!(!gateway.log().contains("s3cret"), "{}", gateway.log());
    let sent = lines.iter().find(|line| line["status"] == 201 && line["method"] == "POST");
    let sent = sent.expect("the line of the send");
    assert_eq!(sent["route"], "/queues/{queue}/messages");
    assert_eq!(sent["queue"], "q");
    assert_eq!(sent["round_trips"], 1);
    let popped = lines.iter().find(|line| line["route"] == "/queues/{queue}/messages/pop");
    assert_eq!(popped.expect("the line of the pop")["round_trips"], 1);
    let next = lines.iter().find(|line| line["route"] == "/queues/{queue}/messages/receive");
    assert_eq!(next.expect("the line of the receive")["round_trips"], 1);
    assert!(sent["duration_ms"].is_number() && sent["request_id"].is_string());
    let missing = lines.iter().find(|line| line["status"] == 404).expect("the line of the 404");
    assert_eq!((&missing["code"], &missing["queue"]), (&"queue_not_found".into(), &"none".into()));
}

#[tokio::test]
async fn commands_do_what_they_say() {
    let directory = new_directory();
    let help = run(program(&["--help"], &[]));
    let text = String::from_utf8_lossy(&help.stdout);
    for command in ["serve", "migrate", "openapi", "config", "healthcheck"] {
        assert!(text.contains(command), "{text}");
    }

    let settings = run(program(&["config"], &[("DATABASE_URL", "postgres://u:hunter2@h/d")]));
    let text = String::from_utf8_lossy(&settings.stdout);
    assert!(text.contains("environment variable DATABASE_URL"), "{text}");
    assert!(text.contains("port = 8080") && !text.contains("hunter2"), "{text}");

    let wrong = run(program(&[], &[("PGMQ_GATEWAY__SERVER__PROT", "1")]));
    let text = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success());
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("PGMQ_GATEWAY__SERVER__PROT") && text.contains("server.port"), "{text}");

    let migrated = run(embedded(&directory, &["migrate"], &[]));
    let text = String::from_utf8_lossy(&migrated.stdout);
    assert!(text.contains("PGMQ 1.11.1"), "{text}{}", String::from_utf8_lossy(&migrated.stderr));
    assert_eq!(postmasters(&directory), 0);

    let mut gateway = Program::start(embedded(&directory, &[], &[]));
    let client = gateway.client().await;
    let port = client.base.rsplit(':').next().expect("a port").to_owned();
    for arguments in [&["healthcheck"][..], &["healthcheck", "--live"]] {
        assert!(run(program(arguments, &[("PORT", &port)])).status.success());
    }
    gateway.signal(Signal::SIGTERM);
    gateway.ended().await;
    assert!(!run(program(&["healthcheck"], &[("PORT", &port)])).status.success());
}

#[tokio::test]
async fn without_postgresql_one_line_says_how_to_get_it() {
    let empty = tempfile::tempdir().expect("a directory");
    let directory = new_directory();
    let bin_dir = empty.path().display().to_string();
    let bin_dir = [("PGMQ_GATEWAY__EMBEDDED__BIN_DIR", &*bin_dir)];
    let failed = run(embedded(&directory, &[], &bin_dir));
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success());
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("apt-get install postgresql"), "{said}");
}
