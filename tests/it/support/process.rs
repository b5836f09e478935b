//! The program itself, as a person starts it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::NamedTempFile;

use super::{Client, eventually, postgres::bin_dir};

/// A running `pgmq-gateway`, and what it said on standard error: a file has each line as soon as it is said, where a
/// pipe has to be read by somebody first.
pub struct Program {
    child: Child,
    log: NamedTempFile,
}

/// The program with an environment of its own: nothing of the caller's gets in.
pub fn program(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgmq-gateway"));
    command.args(arguments).env_clear();
    for name in ["PATH", "HOME"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.envs(environment.iter().copied());
    command
}

/// What makes the program keep a private PostgreSQL in `directory`, on a free port.
pub fn embedded_environment(directory: &Path) -> Vec<(String, String)> {
    let mut environment = vec![
        ("PGMQ_GATEWAY__SERVER__PORT".to_owned(), "0".to_owned()),
        ("PGMQ_GATEWAY__EMBEDDED__DATA_DIR".to_owned(), directory.display().to_string()),
    ];
    if let Some(bin_dir) = bin_dir() {
        let bin_dir = bin_dir.display().to_string();
        environment.push(("PGMQ_GATEWAY__EMBEDDED__BIN_DIR".to_owned(), bin_dir));
    }
    environment
}

impl Program {
    pub fn start(mut command: Command) -> Self {
        let log = NamedTempFile::new().expect("a file");
        let stderr = fs::File::options().append(true).open(log.path()).expect("a file");
        let child = command.stderr(stderr).stdout(Stdio::null()).spawn().expect("program started");
        Self { child, log }
    }

    pub fn log(&self) -> String {
        // Its last line may be half written.
        String::from_utf8_lossy(&fs::read(self.log.path()).expect("a file")).into_owned()
    }

    /// Waits until it listens, and returns a client of it.
    pub async fn client(&mut self) -> Client {
        let url = eventually("the program listens", async || {
            let log = self.log();
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the program ended with {status}:\n{log}");
            }
            let (_, rest) = log.split_once("listening on ")?;
            // In JSON a quote stands behind it.
            Some(rest.split(|c: char| c == '"' || c.is_whitespace()).next()?.to_owned())
        });
        Client::new(&url.await)
    }

    /// The most memory that it ever had, in MiB.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a process");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
        peak.expect("VmHWM").trim().parse::<u64>().expect("a number") / 1024
    }

    /// How many files and sockets it may have open.
    pub fn allow_files(&self, limit: usize) {
        let (pid, limit) = (format!("--pid={}", self.child.id()), format!("--nofile={limit}:"));
        let status = Command::new("prlimit").args([pid, limit]).status().expect("prlimit runs");
        assert!(status.success());
    }

    /// It may open none beside those that are open.
    pub fn allow_no_more_files(&self) {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a process");
        let names = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let open: std::collections::BTreeSet<usize> = names.collect();
        self.allow_files((0..=open.len()).find(|n| !open.contains(n)).expect("a number"));
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("signalled");
    }

    /// Waits for its end; true if it says that all went well.
    pub async fn ended(&mut self) -> bool {
        let status = eventually("the program ends", async || self.child.try_wait().ok().flatten());
        status.await.success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
