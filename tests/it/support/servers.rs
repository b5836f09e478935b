//! Servers that a test stops, freezes, copies and promotes.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, chown, geteuid},
};
use sqlx::{Connection, Executor, PgConnection};

use super::{eventually, postgres};

/// A server of a test's own, which ends with it.
pub struct Server {
    directory: PathBuf,
    settings: Vec<(String, String)>,
}

impl Server {
    /// With nothing in it.
    pub async fn new(settings: &[(&str, &str)]) -> Self {
        let server = Self::empty(settings);
        let initdb = ["--username=postgres", "--encoding=UTF8", "--no-locale", "--auth=trust"];
        server.run("initdb", &[&["--pgdata", &server.data(), "--no-sync"][..], &initdb].concat());
        server.start().await;
        server
    }

    /// A standby of this one.
    pub async fn standby(&self, settings: &[(&str, &str)]) -> Self {
        let standby = Self::empty(settings);
        let from = ["--host", &self.socket_directory(), "--username=postgres"];
        let to = ["--pgdata", &standby.data(), "--write-recovery-conf", "--checkpoint=fast"];
        standby.run("pg_basebackup", &[&from[..], &to, &["--no-sync"]].concat());
        standby.start().await;
        standby
    }

    fn empty(settings: &[(&str, &str)]) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings = settings.iter().map(own).collect();
        let server = Self { directory: postgres::new_directory(), settings };
        for directory in [&server.directory, &server.directory.join("run")] {
            fs::create_dir_all(directory).expect("made");
            if let Some(user) = owner() {
                chown(directory, Some(user.uid), Some(user.gid)).expect("given");
            }
        }
        server
    }

    /// Starts it, as a standby or not.
    pub async fn start(&self) {
        let socket = format!("-c unix_socket_directories={}", self.socket_directory());
        let own = self.settings.iter().map(|(name, value)| format!("-c {name}={value}"));
        let options = format!("-c listen_addresses= -c fsync=off {socket}");
        let options = [options].into_iter().chain(own).collect::<Vec<_>>().join(" ");
        let log = self.directory.join("log").display().to_string();
        let data = self.data();
        self.run("pg_ctl", &["start", "-w", "-s", "-D", &data, "-l", &log, "-o", &options]);
        eventually("the server answers", async || PgConnection::connect(&self.url()).await.ok())
            .await;
    }

    /// Stops it: `fast` or, as in a crash, `immediate`.
    pub fn stop(&self, mode: &str) {
        self.run("pg_ctl", &["stop", "-w", "-s", "-D", &self.data(), "-m", mode]);
    }

    /// Makes the standby a primary.
    pub fn promote(&self) {
        self.run("pg_ctl", &["promote", "-w", "-s", "-D", &self.data()]);
    }

    /// Freezes it, with every session.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let Some(postmaster) = self.pid() else { return };
        for pid in children(postmaster).into_iter().chain([postmaster]) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.socket_directory())
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("run/.s.PGSQL.5432")
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        let mut connection = PgConnection::connect(&self.url()).await.expect("connected");
        connection.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// One number.
    pub async fn count(&self, sql: &str) -> i64 {
        let mut connection = PgConnection::connect(&self.url()).await.expect("connected");
        let count = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
        count.unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    fn socket_directory(&self) -> String {
        self.directory.join("run").display().to_string()
    }

    fn data(&self) -> String {
        self.directory.join("data").display().to_string()
    }

    fn pid(&self) -> Option<i32> {
        let file = fs::read_to_string(self.directory.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.parse().ok()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(bin_dir().join(program));
        command.args(arguments).current_dir(&self.directory).stdin(Stdio::null());
        if let Some(user) = owner() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        // A server that is started would keep a pipe open.
        let errors = fs::File::create(self.directory.join("errors")).expect("a file");
        let status = command.stdout(Stdio::null()).stderr(errors).status().expect("it runs");
        let said = |name| fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        assert!(status.success(), "{program} {arguments:?}: {}{}", said("errors"), said("log"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        let postmaster = self.pid().map(Pid::from_raw);
        let _ = postmaster.map(|pid| kill(pid, Signal::SIGQUIT));
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Who PostgreSQL runs as where this is root, which it refuses to be.
fn owner() -> Option<User> {
    let postgres = || User::from_name("postgres").expect("looked up").expect("a user postgres");
    geteuid().is_root().then(postgres)
}

fn children(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind_name = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned());
        let field = |rest: &String| rest.split_whitespace().nth(1)?.parse::<i32>().ok();
        behind_name.as_ref().and_then(field) == Some(parent)
    };
    pids.filter(is_child).collect()
}

/// Where the programs are.
fn bin_dir() -> PathBuf {
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path).find_map(|directory| {
            // Some of the programs may be linked to.
            fs::canonicalize(directory.join("pg_ctl")).ok()
        });
        program.and_then(|program| program.parent().map(Path::to_owned))
    };
    let installed = || {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        versions.map(|version| version.path().join("bin")).max()
    };
    let found = postgres::bin_dir().or_else(on_path).or_else(installed);
    found.filter(|directory| Path::is_dir(directory)).expect("PostgreSQL is installed")
}
