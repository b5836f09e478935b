//! Starts of the private PostgreSQL over what a crash left behind.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{sys::signal::Signal, unistd::User};

use crate::support::{
    eventually,
    postgres::new_directory,
    process::{Program, embedded_environment, program},
};

fn start(directory: &Path) -> Program {
    let environment = embedded_environment(directory);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    Program::start(program(&[], &environment))
}

/// The first processes of the servers on the data in a directory.
fn postmasters(directory: &Path) -> Vec<PathBuf> {
    let data = directory.join("data");
    let data = data.to_str().expect("UTF-8");
    let processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let serves = |path: &PathBuf| {
        let arguments = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        arguments.split('\0').any(|argument| argument == data)
    };
    processes.filter(serves).collect()
}

/// A directory in which a gateway has run, with a message in `q`, and the server's program.
async fn with_data() -> (PathBuf, PathBuf) {
    let directory = new_directory();
    let mut gateway = start(&directory);
    let client = gateway.client().await;
    client.create("q").await;
    client.send("q", r#"{"message":"kept"}"#).await;
    let running = postmasters(&directory);
    let postgres = fs::read_link(running[0].join("exe")).expect("its program");
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended().await, "{}", gateway.log());
    (directory, postgres)
}

/// It starts, and the message is there.
async fn serves(directory: &Path) -> String {
    let mut gateway = start(directory);
    let client = gateway.client().await;
    assert_eq!(client.receive_one("q", "vt=0").await["message"], "kept");
    assert_eq!(postmasters(directory).len(), 1);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended().await, "{}", gateway.log());
    gateway.log()
}

#[tokio::test]
async fn it_starts_over_lock_files_that_make_no_sense() {
    let (directory, _) = with_data().await;
    let own = std::process::id().to_string();
    let alive = format!("{own}\n/data\n1700000000\n5432\n\n\n");
    let socket_lock = directory.join("run/.s.PGSQL.5432.lock");
    let pid_file = directory.join("data/postmaster.pid");
    let both = [&pid_file, &socket_lock];
    for (content, files) in [
        (&b""[..], &both[..1]),
        (b"", &both[1..]),
        (b"", &both),
        (b"garbage", &both),
        (b"\0\0\0\0\0\0", &both),
        (b"-1\n", &both),
        (alive.as_bytes(), &both),
    ] {
        for file in files {
            fs::write(file, content).expect("written");
        }
        let log = serves(&directory).await;
        for file in files {
            assert!(log.contains(&format!("file={}", file.display())), "{content:?}: {log}");
        }
    }
    // One that is as it should be is PostgreSQL's affair.
    fs::write(&pid_file, "2147483647\n/data\n").expect("written");
    assert!(!serves(&directory).await.contains("removing a lock file"));
}

/// A server as a gateway leaves it behind that was killed where nobody tells its children.
fn leave_behind(directory: &Path, postgres: &Path) -> Child {
    let mut command = Command::new(postgres);
    command.arg("-D").arg(directory.join("data")).arg("-k").arg(directory.join("run"));
    command.args(["-c", "listen_addresses="]).current_dir(directory);
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        let user = User::from_name("postgres").expect("passwd").expect("postgres");
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.spawn().expect("started")
}

#[tokio::test]
async fn a_server_that_runs_is_stopped_whatever_its_lock_file_says() {
    let (directory, postgres) = with_data().await;
    let pid_file = directory.join("data/postmaster.pid");
    for content in ["", "garbage", "2147483647\n"] {
        let mut orphan = leave_behind(&directory, &postgres);
        eventually("it runs", async || {
            let file = fs::read_to_string(&pid_file).ok()?;
            file.contains("ready").then_some(())
        })
        .await;
        fs::write(&pid_file, content).expect("written");
        // A parent that lives takes note of its end.
        let waiting = std::thread::spawn(move || orphan.wait().expect("ended"));
        let log = serves(&directory).await;
        assert!(log.contains("that an earlier run left behind"), "{log}");
        waiting.join().expect("it was stopped");
    }
}

/// What is left of a server whose first process was killed still writes to the data.
#[tokio::test]
async fn processes_that_have_lost_their_server_are_stopped() {
    let (directory, postgres) = with_data().await;
    let pid_file = directory.join("data/postmaster.pid");
    let mut orphan = leave_behind(&directory, &postgres);
    eventually("it runs", async || {
        fs::read_to_string(&pid_file).ok()?.contains("ready").then_some(())
    })
    .await;
    let url =
        format!("postgres://postgres@localhost/postgres?host={}", directory.join("run").display());
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.expect("up");
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut connection)
        .await
        .expect("a pid");
    // It does not look up from its work.
    let busy = tokio::spawn(async move {
        let busy = "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$";
        sqlx::Executor::execute(&mut connection, busy).await.expect_err("it is stopped");
    });
    eventually("it works", async || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.contains(") R ").then_some(())
    })
    .await;
    orphan.kill().expect("killed");
    orphan.wait().expect("ended");
    fs::write(&pid_file, "").expect("written");
    serves(&directory).await;
    // Whoever is its parent by now may not have looked after it yet.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "its process runs: {stat}");
    busy.await.expect("no panic");
}
