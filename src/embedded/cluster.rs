//! The directory of a private PostgreSQL: its data, its socket, its log, its lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rand::{Rng, distr::Alphanumeric};
use tracing::info;

use crate::config;

use super::{
    EmbeddedError,
    binaries::Binaries,
    failed,
    owner::{Owner, default_dir},
};

/// Bytes that the path of a Unix socket may have.
const MAX_SOCKET_PATH: usize = 107;
/// The port that names the socket where TCP is not wished.
const SOCKET_PORT: u16 = 5432;

/// A directory with everything in place, locked for this process.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) binaries: Binaries,
    pub(super) owner: Owner,
    /// The TCP port that was asked for.
    pub(super) tcp_port: Option<u16>,
    /// Released by the system when the process ends, however it does.
    _lock: File,
}

impl Cluster {
    /// Makes what is missing; fails if another gateway is at home there.
    pub(super) fn open(settings: &config::Embedded) -> Result<Self, EmbeddedError> {
        let dir = directory(settings)?;
        let owner = Owner::find(settings.user.as_deref())?;
        let binaries = Binaries::find(settings.bin_dir.as_deref(), &dir.join("data"))?;
        if socket_file(&dir, settings.port).as_os_str().len() > MAX_SOCKET_PATH {
            return Err(EmbeddedError::PathTooLong(dir));
        }
        fs::create_dir_all(&dir).map_err(failed("cannot make", &dir))?;
        owner.take(&dir)?;
        let lock = lock(&dir)?;
        let cluster = Self { dir, binaries, owner, tcp_port: settings.port, _lock: lock };
        for private in [cluster.socket_dir(), cluster.log_dir()] {
            cluster.make_private(&private)?;
        }
        if !cluster.data().join("PG_VERSION").exists() {
            cluster.init()?;
        }
        Ok(cluster)
    }

    /// The directory of the socket of a cluster that is open elsewhere, and the port that names it.
    pub(super) fn socket(settings: &config::Embedded) -> Result<(PathBuf, u16), EmbeddedError> {
        Ok((socket_dir(&directory(settings)?), settings.port.unwrap_or(SOCKET_PORT)))
    }

    /// PostgreSQL's data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where the socket is. Only its owner can enter: that is what protects it.
    pub(super) fn socket_dir(&self) -> PathBuf {
        socket_dir(&self.dir)
    }

    /// The socket.
    pub(super) fn socket_file(&self) -> PathBuf {
        socket_file(&self.dir, self.tcp_port)
    }

    /// Where PostgreSQL writes its log.
    pub(super) fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The port that names the socket, and that TCP has where it is wished.
    pub(super) fn port(&self) -> u16 {
        self.tcp_port.unwrap_or(SOCKET_PORT)
    }

    /// The file with the password for TCP.
    pub(super) fn password_file(&self) -> PathBuf {
        self.dir.join("password")
    }

    /// A program that runs as the owner, where it can.
    pub(super) fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.binaries.program(program));
        // The directory that the gateway was started in may be closed to the owner.
        command.current_dir(&self.dir).stdin(Stdio::null());
        if let Some((uid, gid)) = self.owner.ids() {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn make_private(&self, dir: &Path) -> Result<(), EmbeddedError> {
        if !dir.exists() {
            DirBuilder::new().mode(0o700).create(dir).map_err(failed("cannot make", dir))?;
        }
        self.owner.take(dir)
    }

    /// Runs initdb beside the final place, so that one that was cut short leaves nothing there.
    fn init(&self) -> Result<(), EmbeddedError> {
        let unfinished = self.dir.join("data.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(failed("cannot remove", &unfinished))?;
        }
        info!(directory = %self.dir.display(), "making a private PostgreSQL");
        let password_file = self.write_password()?;
        let output = self
            .command("initdb")
            .arg("--pgdata")
            .arg(&unfinished)
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--username=postgres", "--encoding=UTF8", "--no-locale"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
            .output()
            .map_err(failed("cannot run", &self.binaries.program("initdb")))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let output = last_lines(&String::from_utf8_lossy(&said));
            return Err(EmbeddedError::Failed { program: "initdb", output });
        }
        let data = self.data();
        fs::rename(&unfinished, &data).map_err(failed("cannot make", &data))
    }

    fn write_password(&self) -> Result<PathBuf, EmbeddedError> {
        let path = self.password_file();
        let password: String =
            rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        let write = |mut file: File| file.write_all(password.as_bytes());
        file.and_then(write).map_err(failed("cannot write", &path))?;
        self.owner.take(&path)?;
        Ok(path)
    }
}

fn directory(settings: &config::Embedded) -> Result<PathBuf, EmbeddedError> {
    match &settings.data_dir {
        Some(dir) => std::path::absolute(dir).map_err(failed("cannot find", dir)),
        None => default_dir(),
    }
}

fn socket_dir(dir: &Path) -> PathBuf {
    dir.join("run")
}

fn socket_file(dir: &Path, port: Option<u16>) -> PathBuf {
    socket_dir(dir).join(format!(".s.PGSQL.{}", port.unwrap_or(SOCKET_PORT)))
}

fn lock(dir: &Path) -> Result<File, EmbeddedError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed("cannot write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed("cannot lock", &path)(error)),
    }
}

/// The end of a program's output, in one line.
pub(super) fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}
