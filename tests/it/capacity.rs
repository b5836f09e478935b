//! Limits that do not fit the process: lowered at the start, so that whoever is let in is served.

use std::process::Command;

use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{
    PATIENCE, TestDatabase,
    process::{Program, program},
    raw,
};

/// The program, started by a shell that does something before, as root or not.
fn after(setup: &str, with: &[&str], environment: &[(&str, &str)]) -> Command {
    let like = program(&[], environment);
    let mut command = Command::new(with[0]);
    command.args(&with[1..]).arg("sh").arg("-c").arg(format!("{setup} && exec \"$0\""));
    command.arg(like.get_program()).env_clear();
    for (name, value) in like.get_envs() {
        command.envs(value.map(|value| (name, value)));
    }
    command
}

/// The number that a limit was lowered to, as the log says.
fn lowered(log: &str, setting: &str) -> Option<u64> {
    let rest = log.split_once(&format!("{setting} from "))?.1.split_once(" to ")?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

async fn read_status(stream: &mut TcpStream) -> u16 {
    let mut said = [0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut said)).await.expect("in time").expect("readable");
    let said = String::from_utf8_lossy(&said[..read]);
    said.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn at_the_limit_of_open_files_those_who_are_in_are_served_and_others_told() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let environment = [("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    let mut gateway = Program::start(after("ulimit -n 90", &["env"], &environment));
    let client = gateway.client().await;
    for number in 0..20 {
        client.create(&format!("q{number}")).await;
    }
    let log = gateway.log();
    assert_eq!(log.matches("limits are lowered").count(), 1, "{log}");
    let most = lowered(&log, "limits.max_connections").unwrap_or_else(|| panic!("not in {log}"));
    assert!((20..80).contains(&most), "{most}");
    let address = client.base.trim_start_matches("http://").parse().expect("an address");
    drop(client);

    // Twice as many as may be; some are told so, and none hangs.
    let mut streams = Vec::new();
    for _ in 0..2 * most {
        streams.push(raw::dial(address).await);
    }
    let started = Instant::now();
    let send = |number: usize| {
        format!(
            "POST /queues/q{}/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n\
             {{\"message\":1}}",
            number % 20
        )
    };
    let mut inside = Vec::new();
    for (number, mut stream) in streams.into_iter().enumerate() {
        let _ = stream.write_all(send(number).as_bytes()).await;
        match read_status(&mut stream).await {
            201 => inside.push(stream),
            503 | 0 => {}
            other => panic!("{other}"),
        }
    }
    assert!(started.elapsed() < PATIENCE / 3, "{:?}", started.elapsed());
    // All but the few that were there before.
    assert!(inside.len() as u64 >= most - 5, "{} of {most}", inside.len());

    // All of them at once, so that the pool is opened to its last connection.
    for round in 0..20 {
        for (number, stream) in inside.iter_mut().enumerate() {
            stream.write_all(send(number + round).as_bytes()).await.expect("sent");
        }
        for stream in &mut inside {
            assert_eq!(read_status(stream).await, 201, "round {round}");
        }
    }
    let first = &mut inside[0];
    first.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    assert_eq!(read_status(first).await, 200);
    let log = gateway.log();
    for trouble in ["database_unavailable", "cannot accept", "Too many open files"] {
        assert!(!log.contains(trouble), "{trouble} in {log}");
    }
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended().await);
}

#[tokio::test]
async fn a_limit_on_open_files_that_nobody_can_live_with_is_said() {
    let database = TestDatabase::new().await;
    let environment = [("DATABASE_URL", &*database.url())];
    let output = after("ulimit -n 30", &["env"], &environment).output().expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.lines().count() == 1 && said.contains("open files (30)"), "{said}");
}

/// In a container, as the files of its control group say; where a test may mount something.
#[tokio::test]
async fn limits_fit_the_memory_of_a_container() {
    let alone = ["unshare", "--mount", "--propagation", "private"];
    let mount = "mount -t tmpfs none /sys/fs/cgroup";
    let may = Command::new(alone[0]).args(&alone[1..]).args(["sh", "-c", mount]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        return;
    }
    let database = TestDatabase::new().await;
    let url = database.url();
    let environment = [("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    let group = "mkdir -p /sys/fs/cgroup/memory";
    for file in ["memory.max", "memory/memory.limit_in_bytes"] {
        let limit = format!("echo 268435456 > /sys/fs/cgroup/{file}");
        let setup = format!("{mount} && {group} && {limit}");
        let mut gateway = Program::start(after(&setup, &alone, &environment));
        let client = gateway.client().await;
        let log = gateway.log();
        let line = log.lines().find(|line| line.contains("limits are lowered"));
        let line = line.unwrap_or_else(|| panic!("{file}: {log}"));
        assert!(line.contains("memory_mib=256"), "{line}");
        for setting in [
            "limits.max_connections",
            "limits.max_requests",
            "limits.max_in_flight_bytes",
            "long_poll.max_waiters",
        ] {
            assert!(lowered(line, setting).is_some(), "{setting}: {line}");
        }
        let in_hand = lowered(line, "limits.max_in_flight_bytes").expect("lowered");
        assert!((8 << 20..64 << 20).contains(&in_hand), "{in_hand}");
        client.create("q").await;
        client.send("q", &serde_json::json!({"message": "a".repeat(1 << 19)}).to_string()).await;
        client.delete("/queues/q").await.expect(204);
    }
}
