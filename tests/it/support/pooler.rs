//! A PgBouncer in front of the shared server.

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use nix::unistd::{User, chown, geteuid};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};

use super::{TestDatabase, eventually, postgres};

/// A running pooler, which ends with the test.
pub struct Pooler {
    child: Child,
    directory: PathBuf,
    url: String,
}

impl Pooler {
    /// `settings` are lines of its configuration.
    pub async fn start(database: &TestDatabase, settings: &str) -> Self {
        let directory = postgres::new_directory();
        fs::create_dir_all(&directory).expect("made");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let (_, socket) = postgres::server().split_once("host=").expect("a socket");
        let socket = socket.split('&').next().unwrap_or(socket);
        let socket = percent_encoding::percent_decode_str(socket).decode_utf8().expect("UTF-8");
        let configuration = format!(
            "[databases]\n* = host={socket}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\n{settings}\n"
        );
        let configuration = configuration.replace("host=", "user=postgres host=");
        let file = directory.join("pgbouncer.ini");
        fs::write(&file, configuration).expect("written");
        let mut command = Command::new(program());
        command.arg("--quiet").arg(&file).stdin(Stdio::null());
        if geteuid().is_root() {
            let user = User::from_name("postgres").expect("looked up").expect("a user postgres");
            for path in [&directory, &file] {
                chown(path, Some(user.uid), Some(user.gid)).expect("given");
            }
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let log = fs::File::create(directory.join("log")).expect("a file");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("pgbouncer runs");
        let url = format!("postgres://postgres@127.0.0.1:{port}/{}", database.name);
        let pooler = Self { child, directory, url };
        let options: PgConnectOptions = pooler.url().parse().expect("a URL");
        // It knows none of a client's wishes.
        let options = options.extra_float_digits(None);
        eventually("the pooler answers", async || options.connect().await.ok()).await;
        pooler
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it carries prepared statements along in transaction mode.
    pub fn keeps_prepared_statements() -> bool {
        let output = Command::new(program()).arg("--version").output().expect("it runs").stdout;
        let version = String::from_utf8(output).expect("UTF-8");
        let (_, version) = version.split_once("PgBouncer 1.").expect("a version");
        let minor: String = version.chars().take_while(char::is_ascii_digit).collect();
        minor.parse::<u32>().expect("a number") >= 21
    }
}

/// `TEST_PGBOUNCER` names that of another version.
fn program() -> PathBuf {
    std::env::var_os("TEST_PGBOUNCER").map_or_else(|| "/usr/sbin/pgbouncer".into(), PathBuf::from)
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
