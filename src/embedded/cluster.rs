//! The directory of a private PostgreSQL: its data, its socket, its log, its lock.

use std::{
    fs::{File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rand::{Rng, distr::Alphanumeric};
use tracing::info;

use crate::config;

use super::{
    EmbeddedError,
    binaries::{self, Binaries},
    directory::Directory,
    failed,
    owner::{Owner, default_dir},
};

/// Bytes that the path of a Unix socket may have.
const MAX_SOCKET_PATH: usize = 107;
/// The port that names the socket where TCP is not wished.
const SOCKET_PORT: u16 = 5432;
/// PostgreSQL's data, and where it is made.
const DATA: &str = "data";
const UNFINISHED: &str = "data.unfinished";
/// The files that are locked: by whoever runs it, and by whoever is about to.
const LOCK: &str = "lock";
const TURN_LOCK: &str = "turn.lock";

/// A directory with everything in place, locked for this process.
#[derive(Debug)]
pub(super) struct Cluster {
    top: Directory,
    /// PostgreSQL's data directory.
    pub(super) data: Directory,
    /// Where the socket is. Only its owner can enter: that is what protects it.
    pub(super) run: Directory,
    /// Where PostgreSQL writes its log.
    pub(super) log: Directory,
    pub(super) binaries: Binaries,
    pub(super) owner: Owner,
    /// The TCP port that was asked for.
    pub(super) tcp_port: Option<u16>,
    /// Released by the system when the process ends, however it does.
    _lock: File,
}

/// What a directory can be opened with.
pub(super) struct Found {
    dir: PathBuf,
    owner: Owner,
    binaries: Binaries,
}

impl Cluster {
    /// Makes what is missing; fails if another gateway is at home there.
    pub(super) fn open(settings: &config::Embedded) -> Result<Self, EmbeddedError> {
        let Found { dir, owner, binaries } = Self::inspect(settings)?;
        let top = Directory::make(&dir, owner)?;
        let lock = lock(&top, LOCK)?;
        let (run, log) = (top.make_private("run")?, top.make_private("log")?);
        let data = match top.open(DATA)?.filter(|data| data.has("PG_VERSION")) {
            Some(data) => data,
            None => init(&top, owner, &binaries)?,
        };
        let tcp_port = settings.port;
        Ok(Self { top, data, run, log, binaries, owner, tcp_port, _lock: lock })
    }

    /// The directory of everything, made if it is missing, where all else that it takes is there.
    pub(super) fn make_top(settings: &config::Embedded) -> Result<Directory, EmbeddedError> {
        let Found { dir, owner, .. } = Self::inspect(settings)?;
        Directory::make(&dir, owner)
    }

    /// The directory of everything.
    pub(super) fn top(&self) -> &Directory {
        &self.top
    }

    /// Looks at all that it takes, or says what of it is missing. Changes nothing.
    pub(super) fn inspect(settings: &config::Embedded) -> Result<Found, EmbeddedError> {
        let dir = directory(settings)?;
        let owner = Owner::find(settings.user.as_deref())?;
        let data = Directory::find(&dir, owner)?.map(|top| top.open(DATA)).transpose()?.flatten();
        let version = data.as_ref().and_then(binaries::version_of);
        let made_by = version.map(|version| (dir.join(DATA), version));
        let binaries = Binaries::find(settings.bin_dir.as_deref(), made_by)?;
        if socket_file(&dir, settings.port).as_os_str().len() > MAX_SOCKET_PATH {
            return Err(EmbeddedError::PathTooLong(dir));
        }
        Ok(Found { dir, owner, binaries })
    }

    /// Whether there is no data yet. Changes nothing.
    pub(super) fn is_new(settings: &config::Embedded) -> Result<bool, EmbeddedError> {
        let owner = Owner::find(settings.user.as_deref())?;
        let top = Directory::find(&directory(settings)?, owner)?;
        let data = top.map(|top| top.open(DATA)).transpose()?.flatten();
        Ok(!data.is_some_and(|data| data.has("PG_VERSION")))
    }

    /// The directory of the socket of a cluster that is open elsewhere, and the port that names it.
    pub(super) fn socket(settings: &config::Embedded) -> Result<(PathBuf, u16), EmbeddedError> {
        Ok((socket_dir(&directory(settings)?), settings.port.unwrap_or(SOCKET_PORT)))
    }

    /// Where it is.
    pub(super) fn dir(&self) -> &Path {
        self.top.path()
    }

    /// The socket.
    pub(super) fn socket_file(&self) -> PathBuf {
        socket_file(self.dir(), self.tcp_port)
    }

    /// The port that names the socket, and that TCP has where it is wished.
    pub(super) fn port(&self) -> u16 {
        self.tcp_port.unwrap_or(SOCKET_PORT)
    }

    /// The file with the password for TCP.
    pub(super) fn password_file(&self) -> PathBuf {
        self.dir().join("password")
    }

    /// The server's program, which runs as the owner, where it can.
    pub(super) fn server(&self) -> Command {
        command(&self.binaries, "postgres", self.owner, self.dir())
    }
}

fn command(binaries: &Binaries, program: &str, owner: Owner, dir: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(binaries.program(program));
    // The directory that the gateway was started in may be closed to the owner.
    command.current_dir(dir).stdin(Stdio::null());
    if let Some((uid, gid)) = owner.ids() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Runs initdb beside the final place, so that one that was cut short leaves nothing there.
fn init(top: &Directory, owner: Owner, binaries: &Binaries) -> Result<Directory, EmbeddedError> {
    top.remove_all(UNFINISHED)?;
    info!(directory = %top.path().display(), "making a private PostgreSQL");
    let unfinished = top.make_private(UNFINISHED)?;
    let password_file = write_password(top)?;
    let output = command(binaries, "initdb", owner, top.path())
        .arg("--pgdata")
        .arg(unfinished.path())
        .arg("--pwfile")
        .arg(&password_file)
        .args(["--username=postgres", "--encoding=UTF8", "--no-locale"])
        .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
        .output()
        .map_err(failed("cannot run", &binaries.program("initdb")))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let output = last_lines(&String::from_utf8_lossy(&said));
        return Err(EmbeddedError::Failed { program: "initdb", output });
    }
    top.rename(UNFINISHED, DATA)?;
    top.make_private(DATA)
}

fn write_password(top: &Directory) -> Result<PathBuf, EmbeddedError> {
    let path = top.path().join("password");
    let password: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
    let mut file = top.new_file("password")?;
    file.write_all(password.as_bytes()).map_err(failed("cannot write", &path))?;
    Ok(path)
}

/// Where it is, or is going to be.
pub(super) fn directory(settings: &config::Embedded) -> Result<PathBuf, EmbeddedError> {
    let dir = settings.data_dir.clone().map_or_else(default_dir, Ok)?;
    // The programs are not started where the gateway was.
    let dir = std::path::absolute(&dir).map_err(failed("cannot find", &dir))?;
    if dir.as_os_str().as_encoded_bytes().contains(&b',') {
        return Err(EmbeddedError::Comma(dir));
    }
    Ok(dir)
}

fn socket_dir(dir: &Path) -> PathBuf {
    dir.join("run")
}

fn socket_file(dir: &Path, port: Option<u16>) -> PathBuf {
    socket_dir(dir).join(format!(".s.PGSQL.{}", port.unwrap_or(SOCKET_PORT)))
}

/// The lock of whoever's turn it is; fails if it is another's.
pub(super) fn turn_lock(top: &Directory) -> Result<File, EmbeddedError> {
    lock(top, TURN_LOCK)
}

fn lock(top: &Directory, name: &str) -> Result<File, EmbeddedError> {
    let file = top.file(name)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse(top.path().to_owned())),
        Err(TryLockError::Error(error)) => {
            Err(failed("cannot lock", &top.path().join(name))(error))
        }
    }
}

/// The end of a program's output, in one line.
pub(super) fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}
